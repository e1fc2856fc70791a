//! Numbers and times for people, and text that is fit for a terminal.

use std::io::{self, IsTerminal};

use crate::proto::Visible;
use crate::sys::terminal;

/// How wide standard output is; none where it is no terminal.
pub fn width() -> Option<usize> {
    let is_terminal = io::stdout().is_terminal();
    is_terminal.then(|| terminal::columns(io::stdout()).unwrap_or(80))
}

/// Whether colours are wanted: on a terminal, unless `NO_COLOR` is set to anything (no-color.org).
pub fn colour() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !unwanted
}

/// A count with a decimal prefix: 999, 1.2k, 35M.
pub fn scaled(count: f64) -> String {
    let mut value = count;
    for unit in ["", "k", "M", "G", "T"] {
        if value < 999.5 {
            return match unit {
                "" => format!("{value:.0}"),
                _ if value < 9.95 => format!("{value:.1}{unit}"),
                _ => format!("{value:.0}{unit}"),
            };
        }
        value /= 1000.0;
    }
    format!("{value:.0}P")
}

/// A time: 0:07, 12:34, 1:00:00, 3d 04:05.
pub fn time(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours) {
        (0, 0) => format!("{minutes}:{:02}", seconds % 60),
        (0, hours) => format!("{hours}:{:02}:{:02}", minutes % 60, seconds % 60),
        (days, hours) => format!("{days}d {:02}:{:02}", hours % 24, minutes % 60),
    }
}

/// What peers have said, without what moves a terminal's cursor.
pub fn clean(text: &str) -> String {
    Visible(text.as_bytes()).to_string()
}

/// The first characters of a text; an ellipsis stands for the rest.
pub fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept = text.chars().take(width.saturating_sub(1));
    kept.chain((width > 0).then_some('…')).collect()
}

/// Lines of so many characters at most, broken at blanks; a longer word stays whole.
pub fn wrap(text: &str, room: Option<usize>) -> Vec<String> {
    let Some(room) = room else {
        return vec![text.to_owned()];
    };
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let length = word.chars().count();
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + length <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A line as several that fit: those after the first stand four blanks further in. Nothing of it is lost.
pub fn fold(line: &str, width: Option<usize>) -> Vec<String> {
    let length = line.chars().count();
    let Some(width) = width.filter(|width| length > *width) else {
        return vec![line.to_owned()];
    };
    let text = line.trim_start_matches(' ');
    let indent = line.len() - text.len();
    let (first, others) = (" ".repeat(indent), " ".repeat(indent + 4));
    let room = width.saturating_sub(others.len()).max(1);
    let parts = wrap(text, Some(room)).into_iter().enumerate();
    parts
        .map(|(index, part)| match index {
            0 => format!("{first}{part}"),
            _ => format!("{others}{part}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times() {
        for (count, text) in [
            (0.0, "0"),
            (999.0, "999"),
            (1000.0, "1.0k"),
            (9_949.0, "9.9k"),
            (9_950.0, "10k"),
            (999_600.0, "1.0M"),
            (35e6, "35M"),
            (1e15, "1P"),
        ] {
            assert_eq!(scaled(count), text, "{count}");
        }
        for (seconds, text) in [
            (7, "0:07"),
            (754, "12:34"),
            (3600, "1:00:00"),
            (86_399, "23:59:59"),
            (3 * 86_400 + 4 * 3600 + 300, "3d 04:05"),
        ] {
            assert_eq!(time(seconds), text);
        }
    }

    #[test]
    fn text_for_a_terminal() {
        assert_eq!(clean("a\x1b[2Jé"), "a\\u{1b}[2Jé");
        assert_eq!(
            (cut("abc", 3), cut("abcd", 3)),
            ("abc".into(), "ab…".into())
        );
        assert_eq!((cut("abc", 1), cut("abc", 0)), ("…".into(), String::new()));
        assert_eq!(wrap("ab cd efghijk l", Some(5)), ["ab cd", "efghijk", "l"]);
        assert_eq!(wrap("ab  cd", None), ["ab  cd"]);
    }
    #[test]
    fn a_line_is_folded_and_nothing_of_it_is_lost() {
        let line = "      codec G711a, 12 packets (10 by the kernel), 2400 bytes relayed, media 0.1 s ago, RTCP 3.0 s ago";
        let length = line.chars().count();
        for width in [60, 80, 120, 200] {
            let folded = fold(line, Some(width));
            assert_eq!(folded.len() == 1, length <= width);
            assert!(folded.iter().all(|part| part.chars().count() <= width));
            let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert_eq!(words(&folded.join(" ")), words(line));
            assert!(
                folded
                    .iter()
                    .skip(1)
                    .all(|part| part.starts_with("          "))
            );
        }
        assert_eq!(fold(line, None), [line]);
        assert_eq!(
            fold("  ab cde", Some(3)),
            ["  ab", "      cde"],
            "a word stays whole"
        );
    }
}
