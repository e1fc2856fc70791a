//! A crash of the machine cuts the dispatcher's journal at any byte of its last record: with the real file and the real
//! SQLite nothing is lost, whether they had the record by then or not, and nothing is in either twice.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use mediaproxy::accounting::{
    self, Accounting, Backend, DeliveryResult, Keeper, Outcome, Record, Unavailable,
};
use mediaproxy::config;
use mediaproxy::sys::clock;

use crate::support::copy::copy;
use crate::support::scratch::Scratch;

const PATIENCE: Duration = Duration::from_secs(20);

/// Where a journal begins.
const JOURNAL: &str = "state/accounting/journal/0000000001.journal";

const LAST: &str = "the-last";

/// One that ends elsewhere in the journal than the one that was cut off.
const OTHER: &str = "other, with a longer name";

/// A backend that gets nothing once this holds.
struct Parted(Box<dyn Backend>, Arc<AtomicBool>);

impl Backend for Parted {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn deliver(
        &mut self,
        records: &[Record],
        verdicts: &mut Vec<DeliveryResult>,
    ) -> Result<(), Unavailable> {
        if self.1.load(Ordering::Relaxed) {
            Err(Unavailable("it is away".to_owned()))
        } else {
            self.0.deliver(records, verdicts)
        }
    }
}

/// The record of a call whose session is called by this number.
fn info(number: usize, call_id: &str) -> String {
    format!(
        r#"{{"session_id":"00000000-0000-4000-8000-{number:012x}","call_id":"{call_id}","from_tag":"f","to_tag":"t","streams":[]}}"#
    )
}

/// Accounts in this directory, to a file and to SQLite that are in it, too.
fn start(directory: &Path, is_parted: &Arc<AtomicBool>) -> Arc<Accounting> {
    let text = format!(
        "[Dispatcher]\naccounting = file, database\n[File]\npath = {0}/calls.jsonl\n\
         [Database]\ndburi = sqlite://{0}/calls.sqlite\n",
        directory.display()
    );
    fs::write(directory.join("config.ini"), text).unwrap();
    let config = config::load_dispatcher(directory).unwrap().config;
    let backends = accounting::backends(&config).unwrap().into_iter();
    let parted = backends
        .map(|backend| Box::new(Parted(backend, Arc::clone(is_parted))) as Box<dyn Backend>);
    let settings = accounting::Settings {
        state_dir: directory.join("state"),
        journal_limit: config.journal_limit,
    };
    Accounting::start(&settings, parted.collect()).unwrap()
}

fn wait(what: &str, accounting: &Accounting, waiting: u64) {
    let end = clock::moment() + PATIENCE;
    let progress = accounting.progress();
    while progress.iter().any(|p| p.waiting() != waiting) {
        assert!(clock::moment() < end, "{what}: {progress:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A directory in which three calls were accounted; the last one to the journal alone where it is not delivered.
fn accounted(is_last_delivered: bool) -> Scratch {
    let scratch = Scratch::new("mediaproxy-cut").unwrap();
    let is_parted = Arc::new(AtomicBool::new(false));
    let accounting = start(scratch.path(), &is_parted);
    let take = |number, call_id| {
        let outcome = accounting.take(&info(number, call_id), Keeper::Relay);
        assert_eq!(outcome, Outcome::Stored);
    };
    take(1, "first");
    take(2, "second");
    wait("those before it", &accounting, 0);
    is_parted.store(!is_last_delivered, Ordering::Relaxed);
    take(3, LAST);
    if is_last_delivered {
        wait("the last one", &accounting, 0);
    }
    accounting.stop(clock::moment() + PATIENCE);
    wait("the last one", &accounting, u64::from(!is_last_delivered));
    scratch
}

/// The call-ids in the file and in the table, in alphabetical order.
fn recorded(directory: &Path) -> [Vec<String>; 2] {
    let lines = fs::read_to_string(directory.join("calls.jsonl")).unwrap();
    let call_id = |line: &str| {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        record["call_id"].as_str().unwrap().to_owned()
    };
    let mut of_file: Vec<String> = lines.lines().map(call_id).collect();
    of_file.sort_unstable();
    let database = rusqlite::Connection::open(directory.join("calls.sqlite")).unwrap();
    let mut query = database
        .prepare("SELECT call_id FROM media_sessions ORDER BY call_id")
        .unwrap();
    let rows = query.query_map([], |row| row.get(0)).unwrap();
    [of_file, rows.map(Result::unwrap).collect()]
}

/// After each cut the relay of the last record tells of it again, and another call ends: before that, or after it.
fn cut_at_every_byte(is_last_delivered: bool, is_other_first: bool) {
    let before = accounted(is_last_delivered);
    let had: &[&str] = if is_last_delivered {
        &["first", "second", LAST]
    } else {
        &["first", "second"]
    };
    assert_eq!(recorded(before.path()), [had, had]);
    let whole = fs::read(before.path().join(JOURNAL)).unwrap();
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    assert_eq!(lines.len(), 3);
    let start_of_last = whole.len() - lines[2].len();
    for cut in start_of_last..whole.len() {
        let what = format!("cut at {cut} of {start_of_last} to {}", whole.len());
        let case = Scratch::new("mediaproxy-cut").unwrap();
        copy(before.path(), case.path());
        fs::write(case.path().join(JOURNAL), &whole[..cut]).unwrap();
        let accounting = start(case.path(), &Arc::default());
        let mut records = [(3, LAST), (4, OTHER)];
        if is_other_first {
            records.reverse();
        }
        for (number, call_id) in records {
            let outcome = accounting.take(&info(number, call_id), Keeper::Relay);
            assert_eq!(outcome, Outcome::Stored, "{what}: {call_id}");
        }
        wait(&what, &accounting, 0);
        let rejected = accounting.progress().iter().map(|p| p.rejected());
        assert_eq!(rejected.sum::<u64>(), 0, "{what}");
        accounting.stop(clock::moment() + PATIENCE);
        let [lines, rows] = recorded(case.path());
        let all: &[&str] = &["first", OTHER, "second", LAST];
        assert_eq!([lines, rows], [all, all], "{what}");
    }
}

#[test]
fn a_last_record_that_was_delivered_is_not_there_twice() {
    cut_at_every_byte(true, false);
}

#[test]
fn a_last_record_that_was_delivered_is_not_in_the_table_twice_when_another_comes_before_it() {
    cut_at_every_byte(true, true);
}

#[test]
fn a_last_record_that_was_not_delivered_is_not_lost_when_another_comes_before_it() {
    cut_at_every_byte(false, true);
}
