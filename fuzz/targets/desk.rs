//! What a dispatcher reads besides requests and relays: management clients, answers of SIP proxies, and its own files.

use std::fs;

use mediaproxy::accounting::position::{self, Start, Unread};
use mediaproxy::accounting::{Backend, DeliveryResult, Record, Unavailable};
use mediaproxy::dispatcher::rehearsal;
use mediaproxy::journal::Position;
use mediaproxy::moment::UnixTime;

use super::journal::{directory, segment};
use super::visible;

/// A client's line, and after its end a session that a filter is held against.
pub fn management(data: &[u8]) {
    let end = data.iter().position(|b| *b == b'\n');
    let (line, rest) = data.split_at(end.unwrap_or(data.len()));
    let session = String::from_utf8_lossy(rest.get(1..).unwrap_or_default());
    match rehearsal::command(line, &session) {
        Ok(command) => assert!(!command.is_empty()),
        Err(why) => {
            visible(&why);
            assert!(!why.is_empty());
        }
    }
}

/// Reads a relay's explanation of a call: every verdict must appear among the lines for people.
pub fn explain(data: &[u8]) {
    let Some((lines, verdicts)) = rehearsal::explained(data) else {
        return;
    };
    lines.iter().for_each(|line| visible(line));
    let mut rest = lines.iter();
    for verdict in &verdicts {
        assert!(rest.any(|line| line == verdict), "{verdict:?}");
    }
}

/// How far a backend is, in a file of its own, and of one that is not configured any more: whatever they hold, delivery goes
/// on at a place that the journal has.
pub fn position(data: &[u8]) {
    let directory = directory();
    fs::create_dir(&directory).expect("a directory");
    let half = data.iter().position(|b| *b == b'|');
    let (one, other) = data.split_at(half.unwrap_or(data.len()));
    fs::write(position::path(&directory, "file"), one).expect("a position");
    if let Some(other) = other.get(1..) {
        fs::write(position::path(&directory, "gone"), other).expect("a position");
    }
    let names: [&'static str; 2] = ["file", "new"];
    let backends = names.map(|name| Box::new(Named(name)) as Box<dyn Backend>);
    let mut unread = Unread::new(&directory, &backends).expect("it starts whatever they hold");
    let at = |segment, offset| Position { segment, offset };
    let records = [at(1, 0), at(1, 50), at(2, 0)];
    records.iter().for_each(|record| unread.count(*record));
    let (starts, left) = unread.finish(at(1, 0), at(2, 300));
    for (name, start) in names.iter().zip(&starts) {
        assert!(at(1, 0) <= start.position && start.position <= at(2, 300));
        let behind = records.iter().filter(|record| **record >= start.position);
        assert!(start.unread <= behind.count() as u64);
        position::write(&position::path(&directory, name), start.position).expect("written");
    }
    left.settle();
    let again = Unread::new(&directory, &backends).expect("it starts again");
    let again = again.finish(at(1, 0), at(2, 300)).0;
    let positions = |starts: &[Start]| starts.iter().map(|s| s.position).collect::<Vec<_>>();
    assert_eq!(positions(&again), positions(&starts));
    fs::remove_dir_all(directory).expect("it goes");
}

struct Named(&'static str);

impl Backend for Named {
    fn name(&self) -> &str {
        self.0
    }

    fn deliver(&mut self, _: &[Record], _: &mut Vec<DeliveryResult>) -> Result<(), Unavailable> {
        Ok(())
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
    let now = UnixTime::from_secs(1_000_000);
    let first = rehearsal::ledger(&directory, now).expect("it opens whatever is in it");
    let lines = data.split(|b| *b == b'\n').count();
    assert!(first.0 + first.1 <= lines);
    assert_eq!(rehearsal::ledger(&directory, now), Ok(first), "read again");
    fs::remove_dir_all(directory).expect("it goes");
}
