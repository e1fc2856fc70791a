//! Lines of words, as all files of radiusclient have them: `#` begins a comment, empty lines count for nothing.
//! Works on bytes: secrets and old comments need not be UTF-8.

/// The lines that say something, with their numbers from 1, without the blanks around them.
pub(super) fn lines(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    (1..)
        .zip(text.split(|&byte| byte == b'\n'))
        .map(|(number, line)| (number, line.trim_ascii()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with(b"#"))
}

/// The first word, and what follows it and its blanks.
pub(super) fn word(line: &[u8]) -> (&[u8], &[u8]) {
    let end = line.iter().position(u8::is_ascii_whitespace);
    let (word, rest) = line.split_at(end.unwrap_or(line.len()));
    (word, rest.trim_ascii_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_blanks_count_for_nothing() {
        let text = b"# one\r\n\n \t two  words \r\n#\nlast\xff";
        let found: Vec<_> = lines(text).collect();
        assert_eq!(found, [(3, &b"two  words"[..]), (5, b"last\xff")]);
        assert_eq!(word(b"two \t words of"), (&b"two"[..], &b"words of"[..]));
        assert_eq!(word(b"last"), (&b"last"[..], &b""[..]));
    }
}
