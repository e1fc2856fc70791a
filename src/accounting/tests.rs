//! Accounting with backends that fail as they are told to.

use std::collections::VecDeque;
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::sys::clock;
use crate::sys::scratch::Scratch;

const PATIENCE: Duration = Duration::from_secs(10);

/// What a backend does with the next calls; afterwards it delivers.
#[derive(Clone, Debug)]
enum Act {
    /// Delivers so many, then is unavailable.
    Break(usize),
    /// Refuses the record of this call-id.
    Reject(&'static str),
    /// Forgets to say what became of the last one.
    Forget,
}

#[derive(Default)]
struct Seen {
    records: Vec<String>,
    acts: VecDeque<Act>,
    /// Delivers nothing while this holds.
    is_down: bool,
    /// Panics at the record of this call-id, having delivered those before it and told so; or at any.
    panics_at: Option<&'static str>,
    panics: usize,
}

#[derive(Clone)]
struct Memory(&'static str, Arc<Mutex<Seen>>);

impl Memory {
    fn new(name: &'static str, acts: &[Act]) -> Memory {
        let seen = Seen {
            acts: acts.iter().cloned().collect(),
            ..Seen::default()
        };
        Memory(name, Arc::new(Mutex::new(seen)))
    }

    fn records(&self) -> Vec<String> {
        self.1.lock().unwrap().records.clone()
    }

    fn set_down(&self, is_down: bool) {
        self.1.lock().unwrap().is_down = is_down;
    }
}

impl Backend for Memory {
    fn name(&self) -> &str {
        self.0
    }

    fn deliver(
        &mut self,
        records: &[Record],
        verdicts: &mut Vec<DeliveryResult>,
    ) -> Result<(), Unavailable> {
        let mut seen = self.1.lock().unwrap();
        if seen.is_down {
            return Err(Unavailable("told to be down".to_owned()));
        }
        let act = seen.acts.pop_front();
        for (index, record) in records.iter().enumerate() {
            match act {
                Some(Act::Break(count)) if index == count => {
                    return Err(Unavailable("told to break".to_owned()));
                }
                Some(Act::Reject(call_id)) if call_id == record.call_id => {
                    verdicts.push(DeliveryResult::Rejected("told to".to_owned()));
                    continue;
                }
                Some(Act::Forget) if index + 1 == records.len() => continue,
                _ => {}
            }
            if seen.panics_at == Some(&record.call_id) || seen.panics_at == Some("any") {
                seen.panics += 1;
                drop(seen);
                panic!("told to");
            }
            seen.records.push(record.call_id.clone());
            verdicts.push(DeliveryResult::Delivered);
        }
        Ok(())
    }
}

fn start(scratch: &Scratch, backends: &[&Memory]) -> Arc<Accounting> {
    start_with(scratch, backends, 64 << 20)
}

fn start_with(scratch: &Scratch, backends: &[&Memory], limit: u64) -> Arc<Accounting> {
    let settings = Settings {
        state_dir: scratch.path().to_owned(),
        journal_limit: limit,
    };
    let boxed = |memory: &&Memory| Box::new((*memory).clone()) as Box<dyn Backend>;
    Accounting::start(&settings, backends.iter().map(boxed).collect()).unwrap()
}

fn info(number: usize) -> String {
    format!(
        r#"{{"session_id":"00000000-0000-4000-8000-{number:012x}","call_id":"call-{number}","from_tag":"f","to_tag":"t","streams":[]}}"#
    )
}

fn names(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("call-{n}")).collect()
}

fn take(accounting: &Accounting, range: std::ops::Range<usize>) {
    for number in range {
        assert_eq!(
            accounting.take(&info(number), Keeper::Nobody),
            Outcome::Stored
        );
    }
}

fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = clock::moment() + PATIENCE;
    while !is_so() {
        assert!(clock::moment() < end, "{what}: waited in vain");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn stop(accounting: &Arc<Accounting>) {
    accounting.stop(clock::moment() + PATIENCE);
}

/// The lock goes with the last thread.
fn dropped(accounting: Arc<Accounting>) {
    stop(&accounting);
    wait("the threads end", || Arc::strong_count(&accounting) == 1);
}

#[test]
fn a_slow_backend_is_not_left_alone_for_longer_and_longer() {
    let scratch = Scratch::new("accounting");
    let slow = Memory::new("slow", &[const { Act::Break(1) }; 4]);
    slow.set_down(true);
    let accounting = start(&scratch, &[&slow]);
    take(&accounting, 0..5);
    let progress = &accounting.progress()[0];
    wait("a failure", || progress.is_down());
    slow.set_down(false);
    let begin = clock::moment();
    wait("it to be up", || !progress.is_down());
    assert!(slow.records().len() < 5, "it is slow still");
    wait("all records", || slow.records().len() == 5);
    // Were it left alone for twice as long each time, it would be 15 s.
    assert!(clock::moment() < begin + Duration::from_secs(6));
    accounting.stop(clock::moment() + PATIENCE);
}

/// Its deadline is for backends that hang: an upgrade waits for no longer than they need.
#[test]
fn a_stop_is_over_when_the_backends_are() {
    let scratch = Scratch::new("accounting");
    let (one, two) = (Memory::new("one", &[]), Memory::new("two", &[]));
    let accounting = start(&scratch, &[&one, &two]);
    take(&accounting, 0..10);
    let begin = clock::moment();
    accounting.stop(begin + Duration::from_secs(30));
    let took = clock::moment() - begin;
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!((one.records().len(), two.records().len()), (10, 10));
    dropped(accounting);
}

#[test]
fn every_backend_gets_every_record_in_order_and_once() {
    let scratch = Scratch::new("accounting");
    let (one, two) = (
        Memory::new("one", &[]),
        Memory::new("two", &[Act::Break(3), Act::Forget]),
    );
    let accounting = start(&scratch, &[&one, &two]);
    take(&accounting, 0..1000);
    wait("delivery", || {
        accounting.progress().iter().all(|p| p.waiting() == 0)
    });
    assert_eq!(one.records(), names(0..1000));
    // What was not told of came a second time: a backend recognises it by its session_id.
    let mut two = two.records();
    two.dedup();
    assert_eq!(two, names(0..1000));
    dropped(accounting);
}

#[test]
fn one_that_is_down_holds_up_no_other_and_catches_up() {
    let scratch = Scratch::new("accounting");
    let (up, down) = (Memory::new("up", &[]), Memory::new("down", &[]));
    down.set_down(true);
    let accounting = start(&scratch, &[&up, &down]);
    take(&accounting, 0..50);
    wait("the one that is up", || up.records().len() == 50);
    let progress = &accounting.progress()[1];
    wait("the failure", || progress.is_down());
    assert_eq!((progress.waiting(), progress.delivered()), (50, 0));
    assert!(down.records().is_empty());
    down.set_down(false);
    wait("the other", || down.records() == names(0..50));
    wait("its state", || !progress.is_down());
    dropped(accounting);
}

#[test]
fn what_was_not_delivered_is_after_the_next_start() {
    let scratch = Scratch::new("accounting");
    let (up, down) = (Memory::new("up", &[]), Memory::new("down", &[]));
    down.set_down(true);
    let accounting = start(&scratch, &[&up, &down]);
    take(&accounting, 0..20);
    wait("the one that is up", || up.records().len() == 20);
    dropped(accounting);
    down.set_down(false);
    let accounting = start(&scratch, &[&up, &down]);
    wait("the other", || down.records() == names(0..20));
    take(&accounting, 20..21);
    wait("the next", || {
        up.records().len() == 21 && down.records().len() == 21
    });
    assert_eq!(
        accounting.take(&info(7), Keeper::Relay),
        Outcome::Known,
        "over a restart"
    );
    assert!(accounting.has("00000000-0000-4000-8000-000000000014"));
    dropped(accounting);
}

#[test]
fn a_rejected_record_is_in_its_file_and_the_others_go_on() {
    let scratch = Scratch::new("accounting");
    let memory = Memory::new("memory", &[Act::Reject("call-0"), Act::Reject("call-1")]);
    let accounting = start(&scratch, &[&memory]);
    take(&accounting, 0..1);
    let progress = &accounting.progress()[0];
    wait("the first", || progress.waiting() == 0);
    take(&accounting, 1..3);
    wait("the rest", || progress.waiting() == 0);
    assert_eq!(progress.rejected() + progress.delivered(), 3);
    let path = scratch.path().join("accounting/rejected-memory.jsonl");
    let text = fs::read_to_string(path).unwrap();
    assert!(
        text.contains(r#""reason":"told to","record":{"session_id""#),
        "{text}"
    );
    assert_eq!(text.lines().count() as u64, progress.rejected());
    dropped(accounting);
}

/// The backend has no chance to tell what became of the others in the batch: they come again.
#[test]
fn a_record_that_makes_a_backend_panic_is_rejected_and_holds_up_nothing() {
    let scratch = Scratch::new("accounting");
    let memory = Memory::new("memory", &[]);
    memory.1.lock().unwrap().panics_at = Some("call-2");
    memory.set_down(true);
    let accounting = start(&scratch, &[&memory]);
    take(&accounting, 0..5);
    memory.set_down(false);
    let progress = &accounting.progress()[0];
    wait("the rest", || progress.waiting() == 0);
    assert_eq!((progress.rejected(), progress.delivered()), (1, 4));
    let mut records = memory.records();
    records.sort_unstable();
    records.dedup();
    assert_eq!(records, ["call-0", "call-1", "call-3", "call-4"]);
    let path = scratch.path().join("accounting/rejected-memory.jsonl");
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains("panic") && text.contains("call-2"), "{text}");
    dropped(accounting);
}

/// As where its library panics when it connects: that is no fault of the records.
#[test]
fn a_backend_that_always_panics_rejects_one_record_and_waits() {
    let scratch = Scratch::new("accounting");
    let memory = Memory::new("memory", &[]);
    memory.1.lock().unwrap().panics_at = Some("any");
    let accounting = start(&scratch, &[&memory]);
    take(&accounting, 0..5);
    let progress = &accounting.progress()[0];
    wait("the first is rejected", || progress.rejected() == 1);
    wait("another attempt", || memory.1.lock().unwrap().panics >= 5);
    memory.1.lock().unwrap().panics_at = None;
    wait("the rest", || progress.waiting() == 0);
    assert_eq!((progress.rejected(), progress.delivered()), (1, 4));
    assert_eq!(memory.records(), names(1..5));
    dropped(accounting);
}

/// The record before it is delivered once, however often the damaged one cannot be put down.
#[test]
fn a_damaged_record_that_cannot_be_put_down_brings_no_other_back() {
    let scratch = Scratch::new("accounting");
    let memory = Memory::new("memory", &[]);
    memory.set_down(true);
    let accounting = start(&scratch, &[&memory]);
    take(&accounting, 0..4);
    dropped(accounting);
    let path = scratch.path().join("accounting/journal/0000000001.journal");
    let mut bytes = fs::read(&path).unwrap();
    let lines = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n');
    let ends: Vec<usize> = lines.map(|(at, _)| at).collect();
    bytes[ends[0] + 20] ^= 1;
    bytes[ends[1] + 20] ^= 1;
    fs::write(&path, bytes).unwrap();
    let obstacle = scratch.path().join("accounting/rejected-memory.jsonl");
    fs::create_dir(&obstacle).unwrap();
    memory.set_down(false);
    let accounting = start(&scratch, &[&memory]);
    let progress = &accounting.progress()[0];
    wait("some attempts", || progress.failures() > 1);
    assert_eq!(memory.records(), ["call-0"]);
    fs::remove_dir(&obstacle).unwrap();
    wait("the rest", || memory.records().len() == 2);
    assert_eq!(memory.records(), ["call-0", "call-3"]);
    assert_eq!(fs::read_to_string(&obstacle).unwrap().lines().count(), 2);
    dropped(accounting);
}

#[test]
fn a_damaged_record_is_rejected_and_holds_up_nothing() {
    let scratch = Scratch::new("accounting");
    let memory = Memory::new("memory", &[]);
    memory.set_down(true);
    let accounting = start(&scratch, &[&memory]);
    take(&accounting, 0..3);
    dropped(accounting);
    let path = scratch.path().join("accounting/journal/0000000001.journal");
    let mut bytes = fs::read(&path).unwrap();
    let second = bytes.iter().position(|b| *b == b'\n').unwrap() + 20;
    bytes[second] ^= 1;
    fs::write(&path, bytes).unwrap();
    memory.set_down(false);
    let accounting = start(&scratch, &[&memory]);
    wait("the others", || memory.records() == ["call-0", "call-2"]);
    let rejected = scratch.path().join("accounting/rejected-memory.jsonl");
    wait("the damaged one", || rejected.exists());
    assert!(
        scratch
            .path()
            .join("accounting/journal/0000000001.damaged")
            .exists()
    );
    dropped(accounting);
}

/// With 2,000 bytes more than it has.
fn padded(number: usize) -> String {
    info(number).replace("[]", &format!("[\"{}\"]", "x".repeat(2000)))
}

/// Up to the journal's limit; how many records that are.
fn fill(accounting: &Accounting) -> usize {
    let is_stored =
        |number: &usize| accounting.take(&padded(*number), Keeper::Relay) == Outcome::Stored;
    let count = (0..).take_while(is_stored).count();
    assert!(count > 400, "{count}");
    count
}

#[test]
fn of_records_that_come_together_each_is_taken_once() {
    let scratch = Scratch::new("accounting");
    let memory = Memory::new("memory", &[]);
    let accounting = start(&scratch, &[&memory]);
    take(&accounting, 0..1);
    let records = [1, 0, 2, 1].map(info);
    let together = records
        .each_ref()
        .map(|record| Ended::read(record, Keeper::Relay));
    let expected = [
        Outcome::Stored,
        Outcome::Known,
        Outcome::Stored,
        Outcome::Known,
    ];
    assert_eq!(accounting.take_all(&together), expected);
    assert_eq!(accounting.take_all(&[]), []);
    wait("all of them", || memory.records().len() == 3);
    assert_eq!(memory.records(), names(0..3));
    dropped(accounting);
}

/// The record of a relay that was lost waits in memory when the relay comes back with its own.
#[test]
fn what_waits_in_memory_is_not_recorded_beside_what_its_relay_tells() {
    let scratch = Scratch::new("accounting");
    let memory = Memory::new("memory", &[]);
    memory.set_down(true);
    let accounting = start_with(&scratch, &[&memory], 1 << 20);
    let count = fill(&accounting);
    let held = accounting.take(&padded(count), Keeper::Nobody);
    assert_eq!(held, Outcome::Refused);
    memory.set_down(false);
    // There is room a moment before what is held is tried again.
    wait("room", || {
        accounting.take(&info(count), Keeper::Relay) != Outcome::Refused
    });
    wait("nothing is held", || accounting.held() == 0);
    wait("all of them", || accounting.progress()[0].waiting() == 0);
    assert_eq!(memory.records(), names(0..count + 1));
    dropped(accounting);
}

#[test]
fn a_full_journal_refuses_and_what_nobody_else_keeps_waits_in_memory() {
    let scratch = Scratch::new("accounting");
    let memory = Memory::new("memory", &[]);
    memory.set_down(true);
    let accounting = start_with(&scratch, &[&memory], 1 << 20);
    let count = fill(&accounting);
    assert_eq!(
        accounting.held(),
        1,
        "its relay keeps it, if its own disk does"
    );
    assert_eq!(
        accounting.take(&padded(count), Keeper::Nobody),
        Outcome::Refused
    );
    assert_eq!(
        accounting.take(&padded(count), Keeper::Nobody),
        Outcome::Refused
    );
    let padded = padded(count);
    let twice = [(); 2].map(|()| Ended::read(&padded, Keeper::Relay));
    let refused = [Outcome::Refused; 2];
    assert_eq!(accounting.take_all(&twice), refused, "neither is on disk");
    assert_eq!(accounting.held(), 1);
    memory.set_down(false);
    wait("all of them", || memory.records().len() == count + 1);
    assert_eq!(memory.records(), names(0..count + 1));
    assert_eq!(accounting.held(), 0);
    dropped(accounting);
}

#[test]
fn what_was_taken_is_on_disk_after_the_next_sync() {
    let scratch = Scratch::new("accounting");
    let accounting = start(&scratch, &[]);
    take(&accounting, 0..1);
    let mark = accounting.mark();
    accounting.sync();
    assert!(accounting.synced() >= mark);
    take(&accounting, 1..2);
    let mark = accounting.mark();
    wait("the thread syncs", || accounting.synced() >= mark);
    dropped(accounting);
}

/// As on a full disk.
#[test]
fn a_position_that_cannot_be_written_delivers_nothing_twice() {
    let scratch = Scratch::new("accounting");
    let memory = Memory::new("memory", &[]);
    let accounting = start(&scratch, &[&memory]);
    let obstacle = scratch.path().join("accounting/memory.new");
    fs::create_dir(&obstacle).unwrap();
    take(&accounting, 0..3);
    let progress = &accounting.progress()[0];
    wait("the failure", || progress.is_down());
    let delivered = memory.records();
    assert_eq!(delivered, names(0..delivered.len()));
    assert_eq!(
        progress.position().offset,
        0,
        "nothing is given back that may come again"
    );
    take(&accounting, 3..5);
    fs::remove_dir(&obstacle).unwrap();
    wait("all of them", || memory.records().len() >= 5);
    wait("its state", || !progress.is_down());
    assert_eq!(memory.records(), names(0..5));
    dropped(accounting);
}

/// The file of rejected records takes nothing for a while: what was delivered before that record does not come again.
#[test]
fn what_cannot_be_rejected_brings_back_nothing_before_it() {
    let scratch = Scratch::new("accounting");
    let memory = Memory::new("memory", &[]);
    memory.set_down(true);
    let accounting = start(&scratch, &[&memory]);
    take(&accounting, 0..4);
    let path = scratch.path().join("accounting/rejected-memory.jsonl");
    fs::create_dir(&path).unwrap();
    let always = vec![Act::Reject("call-2"); 50];
    memory.1.lock().unwrap().acts = always.into();
    memory.set_down(false);
    wait("a second attempt", || {
        accounting.progress()[0].failures() >= 3
    });
    let seen = memory.records();
    let count = |name: &str| seen.iter().filter(|seen| *seen == name).count();
    assert_eq!((count("call-0"), count("call-1")), (1, 1));
    fs::remove_dir(&path).unwrap();
    wait("the rest", || accounting.progress()[0].waiting() == 0);
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        text.contains("call-2") && text.lines().count() == 1,
        "{text}"
    );
    stop(&accounting);
}

/// A process was killed when it had begun a segment and not written to it.
#[test]
fn an_empty_last_segment_is_no_work() {
    let scratch = Scratch::new("accounting");
    let memory = Memory::new("memory", &[]);
    let accounting = start(&scratch, &[&memory]);
    take(&accounting, 0..2);
    wait("both", || accounting.progress()[0].waiting() == 0);
    dropped(accounting);
    let journal = scratch.path().join("accounting/journal");
    let name = fs::read_dir(&journal).unwrap().next().unwrap().unwrap();
    let name = name.file_name().into_string().unwrap();
    let next = name.replace("1.journal", "2.journal");
    assert_ne!(next, name);
    fs::write(journal.join(next), "").unwrap();
    let accounting = start(&scratch, &[&memory]);
    let position = scratch.path().join("accounting/memory.position");
    wait("it goes on there", || {
        fs::read_to_string(&position).is_ok_and(|text| text == "2:0\n")
    });
    take(&accounting, 2..3);
    wait("the third", || memory.records() == names(0..3));
    dropped(accounting);
}

#[test]
fn one_dispatcher_for_each_directory() {
    let scratch = Scratch::new("accounting");
    let memory = Memory::new("memory", &[]);
    let accounting = start(&scratch, &[&memory]);
    let settings = Settings {
        state_dir: scratch.path().to_owned(),
        journal_limit: 1 << 20,
    };
    let told = Accounting::start(&settings, Vec::new()).unwrap_err();
    assert!(told.contains("another dispatcher"), "{told}");
    dropped(accounting);
}
