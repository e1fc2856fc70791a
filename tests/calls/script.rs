//! What transcripts share: bytes written as text.

/// `\xNN` is a byte, `\\` a backslash, `{c*n}` the character c n times; CRLF is added unless the text ends in `\`.
pub fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    loop {
        let Some(c) = rest.chars().next() else {
            bytes.extend_from_slice(b"\r\n");
            return bytes;
        };
        let repeat = rest.strip_prefix('{').and_then(|r| r.split_once('}'));
        let repeat = repeat.and_then(|(inside, after)| {
            let (what, count) = inside.split_once('*')?;
            Some((what.repeat(count.parse().ok()?), after))
        });
        if let Some((what, after)) = repeat {
            bytes.extend_from_slice(what.as_bytes());
            rest = after;
        } else if rest == "\\" {
            return bytes;
        } else if let Some(after) = rest.strip_prefix("\\x") {
            bytes.push(u8::from_str_radix(&after[..2], 16).unwrap());
            rest = &after[2..];
        } else {
            bytes.extend_from_slice(c.to_string().as_bytes());
            rest = &rest[c.len_utf8()..];
            if c == '\\' {
                rest = rest.strip_prefix('\\').expect("\\\\, \\xNN or a last \\");
            }
        }
    }
}
