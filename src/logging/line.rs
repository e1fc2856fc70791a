//! A message as one line: the one place where control characters are escaped, so that nothing that a peer sends
//! can forge a line or move a terminal's cursor.

use std::fmt::{self, Write};

/// Bytes of a line that has to be whole; syslog daemons cut at 8 KiB.
pub(super) const MAX_WHOLE_SIZE: usize = 8000;

/// Bytes of any other: what a peer says is cut before (`proto::Excerpt`), and this is for what goes round that.
pub(super) const MAX_SIZE: usize = 2000;

/// A finished line, without its end.
pub(super) struct Line {
    text: String,
    /// Bytes that it may have.
    room: usize,
    /// Bytes of the message that did not fit.
    cut: usize,
}

impl Line {
    pub(super) fn new(message: fmt::Arguments, room: usize) -> Line {
        let mut line = Line {
            text: String::new(),
            room,
            cut: 0,
        };
        if line.write_fmt(message).is_err() {
            line.text.push_str(" (this message cannot be shown whole)");
        }
        if line.cut > 0 {
            let note = format!("... ({} bytes more)", line.cut);
            line.text.push_str(&note);
        }
        line
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if self.cut > 0 || self.text.len() >= self.room {
                self.cut += c.len_utf8();
                continue;
            }
            match c {
                // The line and paragraph separators of Unicode begin a new line for some viewers; the marks of
                // writing direction show a line in another order than it is written.
                '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                    write!(self.text, "\\u{{{:x}}}", u32::from(c))?;
                }
                c if c.is_control() => write!(self.text, "\\x{:02x}", u32::from(c))?,
                c => self.text.push(c),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> String {
        Line::new(format_args!("{text}"), MAX_WHOLE_SIZE).text
    }

    #[test]
    fn control_characters_are_escaped() {
        for (text, shown) in [
            ("plain ünïcode \\n", "plain ünïcode \\n"),
            ("a\r\nb\tc\0", "a\\x0d\\x0ab\\x09c\\x00"),
            ("\x1b[2J\x7f\u{9b}", "\\x1b[2J\\x7f\\x9b"),
            ("a\u{2028}b\u{202e}c", "a\\u{2028}b\\u{202e}c"),
        ] {
            assert_eq!(line(text), shown);
        }
    }

    #[test]
    fn long_lines_are_cut() {
        assert_eq!(line(&"x".repeat(MAX_WHOLE_SIZE)).len(), MAX_WHOLE_SIZE);
        let text = line(&"ä".repeat(MAX_WHOLE_SIZE));
        assert!(
            text.ends_with("ä... (8000 bytes more)"),
            "{}",
            &text[7990..]
        );
        assert!(line(&"\n".repeat(1_000_000)).len() < MAX_WHOLE_SIZE + 40);
    }

    #[test]
    fn a_failing_display_is_no_panic() {
        struct Bad;
        impl fmt::Display for Bad {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                Err(fmt::Error)
            }
        }
        let text = Line::new(format_args!("a {Bad}"), MAX_WHOLE_SIZE).text;
        assert_eq!(text, "a  (this message cannot be shown whole)");
    }
}
