//! Text that is fit for a terminal: nothing of it moves the cursor, and it is as wide as there is room. Pure.

use crate::proto::Visible;

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
    fn text_for_a_terminal() {
        assert_eq!(clean("a\x1b[2Jé"), "a\\u{1b}[2Jé");
        assert_eq!(
            (cut("abc", 3), cut("abcd", 3)),
            ("abc".into(), "ab…".into())
        );
        assert_eq!((cut("abc", 1), cut("abc", 0)), ("…".into(), String::new()));
        assert_eq!(wrap("ab cd efghijk l", Some(5)), ["ab cd", "efghijk", "l"]);
        assert_eq!(wrap("", Some(5)), [""; 0]);
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
