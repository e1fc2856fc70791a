//! What the tool makes of any answer of a dispatcher: as tables, and as the screens of `top`. For tests that try what no
//! dispatcher should say.

use std::time::Duration;

use super::client::{Failure, read_answer};
use super::show::{RELAYS, SESSIONS, failed, read, relay_row, session_row};
use super::table;
use super::top::{Explained, Look, Wish, frame};
use super::view::{Relay, Session, SortKey};
use crate::moment::Moment;
use crate::proto::line::Lines;

/// Bytes in a line that is read here.
const MAX_ANSWER_SIZE: usize = 1 << 20;

/// The lines of an answer to a command.
///
/// # Errors
/// What a person reads where it is none.
pub fn answer(command: &str, bytes: &[u8]) -> Result<Vec<String>, String> {
    let mut lines = Lines::new(MAX_ANSWER_SIZE);
    lines.extend(bytes);
    let answer = read_answer(command, || match lines.next_line() {
        Ok(Some(line)) => Ok(String::from_utf8_lossy(line).into_owned()),
        Ok(None) => Err(Failure::Lost("it ends before its end".to_owned())),
        Err(too_long) => Err(Failure::Lost(too_long.to_string())),
    });
    answer.map_err(|failure| failure.to_string())
}

/// `summary` and `sessions` as tables of this width, and what is said of relays that do not answer.
///
/// # Errors
/// What a person reads where they cannot be.
pub fn tables(
    relays: &[String],
    sessions: &[String],
    width: Option<usize>,
) -> Result<Vec<String>, String> {
    let read_relays = read::<Relay>(relays).map_err(|failure| failure.to_string())?;
    let read_sessions = read::<Session>(sessions).map_err(|failure| failure.to_string())?;
    let rows: Vec<Vec<String>> = read_relays.iter().map(relay_row).collect();
    let mut shown = table::lines(RELAYS, &rows, width);
    let rows: Vec<Vec<String>> = read_sessions.iter().map(session_row).collect();
    shown.extend(table::lines(SESSIONS, &rows, width));
    shown.extend(failed(&read_relays));
    Ok(shown)
}

/// The screens of `top` at a second look, by each order, and of a call that is explained.
///
/// # Errors
/// What a person reads where they cannot be.
pub fn screens(
    relays: &[String],
    sessions: &[String],
    explained: &[String],
    size: (usize, usize),
) -> Result<Vec<Vec<String>>, String> {
    let parsed = || read::<Session>(sessions).map_err(|failure| failure.to_string());
    let mut look = Look::default();
    look.relays = read(relays).map_err(|failure| failure.to_string())?;
    look.note(parsed()?, Moment::after_start(Duration::from_secs(1)));
    look.note(parsed()?, Moment::after_start(Duration::from_secs(2)));
    let orders = SortKey::ALL.iter().map(|(_, sort)| {
        let mut wish = Wish::default();
        wish.sort = *sort;
        wish
    });
    let mut told = Explained::default();
    told.lines = explained.to_vec();
    let mut last = Wish::default();
    last.explained = Some(told);
    let wishes = orders.chain([last]);
    Ok(wishes
        .map(|mut wish| frame(&look, &mut wish, size, false))
        .collect())
}
