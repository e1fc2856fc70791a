//! What `media-admin` makes of a dispatcher's answers: any bytes are lines or a failure, and nothing that is shown moves a
//! terminal's cursor or is wider than the terminal.

use mediaproxy::admin::rehearsal::{answer, screens, tables};

use super::visible;

const WIDTHS: [Option<usize>; 4] = [None, Some(200), Some(80), Some(7)];
const SIZES: [(usize, usize); 4] = [(120, 40), (80, 24), (20, 5), (1, 1)];

/// Three answers, one after the other: of `summary`, `sessions` and `explain`. A byte 0 ends one. The length says how wide it
/// is shown.
pub fn run(data: &[u8]) {
    let mut answers = data.splitn(3, |b| *b == 0);
    let mut next = |command: &str| {
        let told = answers.next().unwrap_or_default();
        // A dispatcher that ends an answer, and one that does not.
        for bytes in [told.to_vec(), [told, b"\r\n\r\n"].concat()] {
            match answer(command, &bytes) {
                Ok(lines) => return lines,
                Err(why) => assert!(!why.is_empty()),
            }
        }
        Vec::new()
    };
    let (relays, sessions, explained) = (next("summary"), next("sessions"), next("explain a"));
    match tables(&relays, &sessions, WIDTHS[data.len() % WIDTHS.len()]) {
        Ok(lines) => lines.iter().for_each(|line| visible(line)),
        Err(why) => visible(&why),
    }
    let (columns, rows) = SIZES[data.len() % SIZES.len()];
    for screen in screens(&relays, &sessions, &explained, (columns, rows)).unwrap_or_default() {
        assert_eq!(screen.len(), rows);
        for line in screen {
            // An object stays as it came, and may have tabs.
            visible(&line.replace('\t', " "));
            assert!(line.chars().count() <= columns, "{columns}: {line:?}");
        }
    }
}
