//! What a dispatcher reads besides requests and relays: management clients, answers of SIP proxies, and its own files.

use std::fs;
use std::time::Duration;

use mediaproxy::dispatcher::rehearsal;
use serde_json::{Map, Value};

use super::journal::{directory, segment};
use super::visible;

/// A client's line, and after its end a session that a filter is held against and that is written for people.
pub fn management(data: &[u8]) {
    let end = data.iter().position(|b| *b == b'\n');
    let (line, rest) = data.split_at(end.unwrap_or(data.len()));
    let session = String::from_utf8_lossy(rest.get(1..).unwrap_or_default());
    match rehearsal::command(line, &session) {
        Ok(command) => assert!(!command.is_empty()),
        // It goes back to who wrote it, who may see his own control characters in it.
        Err(why) => assert!(!why.is_empty()),
    }
    if let Ok(session) = serde_json::from_str::<Map<String, Value>>(&session) {
        for line in rehearsal::lines(vec![session.clone(), session]).unwrap_or_default() {
            visible(&line);
        }
    }
}

/// The answer of a SIP proxy that was asked to end a dialog.
pub fn dialog_answer(data: &[u8]) {
    let answer = rehearsal::dialog_answer(data);
    assert!(!answer.is_empty());
}

/// The file of drained relays.
pub fn drained(data: &[u8]) {
    let (found, warnings) = rehearsal::drained(data);
    assert!(found.len() <= 1000 && warnings.len() <= 12);
    warnings.iter().for_each(|text| visible(text));
    assert!(
        found
            .iter()
            .all(|key| key.address == key.address.to_canonical())
    );
}

/// The notes of a dispatcher before this one, each line with its checksum.
pub fn ledger(data: &[u8]) {
    let (segment, _) = segment(data);
    let directory = directory();
    fs::create_dir(&directory).expect("a directory");
    fs::write(directory.join("0000000001.journal"), segment).expect("a segment");
    let now = Duration::from_secs(1_000_000);
    let first = rehearsal::ledger(&directory, now).expect("it opens whatever is in it");
    let lines = data.split(|b| *b == b'\n').count();
    assert!(first.0 + first.1 <= lines);
    assert_eq!(rehearsal::ledger(&directory, now), Ok(first), "read again");
    fs::remove_dir_all(directory).expect("it goes");
}
