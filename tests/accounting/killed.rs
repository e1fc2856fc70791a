//! A dispatcher that is killed (-9) at every step between journal and backend, with the real file and the real SQLite:
//! nothing is lost, nothing is there twice.
//!
//! Each case runs this test's own binary as the process that is killed, then again as the one that goes on.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use mediaproxy::accounting::{
    self, Accounting, Backend, DeliveryResult, Ended, Keeper, Outcome, Record, Unavailable,
};
use mediaproxy::config;
use mediaproxy::sys::clock;

use crate::support::inner::{assert_has_passed, this_program};
use crate::support::scratch::Scratch;

const STEP: &str = "MEDIAPROXY_TEST_KILL_AT";
const DIRECTORY: &str = "MEDIAPROXY_TEST_DIRECTORY";

/// Records of the process that is killed; the next one has as many more.
const RECORDS: usize = 30;

/// The first ones are delivered one by one, those behind them come together: the third delivery has several records.
const ALONE: usize = 2;
const TOGETHER: usize = 6;

/// Where the process is killed.
const STEPS: [&str; 8] = [
    "before the journal",
    "after the journal",
    "before delivery to file",
    "within delivery to file",
    "after delivery to file",
    "before delivery to sqlite",
    "within delivery to sqlite",
    "after delivery to sqlite",
];

fn die() -> ! {
    let pid = std::process::id().to_string();
    let _ = Command::new("sh").args(["-c", "kill -9 $0", &pid]).status();
    unreachable!("killed");
}

/// A backend that is killed at its step, in its third delivery.
struct Mortal {
    backend: Box<dyn Backend>,
    step: String,
    deliveries: usize,
}

impl Mortal {
    fn kill_at(&self, when: &str) {
        let kind = self.name().split('-').next().unwrap_or_default();
        if self.deliveries == 3 && self.step == format!("{when} delivery to {kind}") {
            die();
        }
    }
}

impl Backend for Mortal {
    fn name(&self) -> &str {
        self.backend.name()
    }

    fn deliver(
        &mut self,
        records: &[Record],
        verdicts: &mut Vec<DeliveryResult>,
    ) -> Result<(), Unavailable> {
        self.deliveries += 1;
        self.kill_at("before");
        if self.deliveries == 3 && self.step.starts_with("within") {
            // The half of one record would be all of it.
            assert!(records.len() > 1, "nothing to cut");
            self.backend
                .deliver(&records[..records.len().div_ceil(2)], verdicts)?;
            self.kill_at("within");
            return Err(Unavailable("the other backend is killed here".to_owned()));
        }
        self.backend.deliver(records, verdicts)?;
        self.kill_at("after");
        Ok(())
    }
}

fn info(number: usize) -> String {
    format!(
        r#"{{"session_id":"00000000-0000-4000-8000-{number:012x}","call_id":"call-{number}","from_tag":"f","to_tag":"t","streams":[]}}"#
    )
}

/// The process: takes records as from a relay, which keeps each until it is confirmed.
#[test]
fn process() {
    let (Ok(step), Ok(directory)) = (std::env::var(STEP), std::env::var(DIRECTORY)) else {
        return;
    };
    let directory = Path::new(&directory);
    let config = config::load_dispatcher(directory).unwrap().config;
    let mortal = |backend| {
        Box::new(Mortal {
            backend,
            step: step.clone(),
            deliveries: 0,
        }) as Box<dyn Backend>
    };
    let backends = accounting::backends(&config).unwrap();
    let settings = accounting::Settings {
        state_dir: directory.join("state"),
        journal_limit: config.journal_limit,
    };
    let accounting =
        Accounting::start(&settings, backends.into_iter().map(mortal).collect()).unwrap();
    let path = directory.join("confirmed");
    let confirmed = fs::read_to_string(&path).unwrap_or_default();
    let mut log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .unwrap();
    let is_last = step == "never";
    let numbers = 0..if is_last { 2 * RECORDS } else { RECORDS };
    let is_new = |number: &usize| confirmed.lines().all(|line| line != number.to_string());
    let numbers: Vec<usize> = numbers.filter(is_new).collect();
    let is_together = |number: &usize| (ALONE..ALONE + TOGETHER).contains(number);
    for group in numbers.chunk_by(|a, b| is_together(a) && is_together(b)) {
        let is_here = step.ends_with("the journal") && group.contains(&(RECORDS / 2));
        if is_here && step.starts_with("before") {
            die();
        }
        let infos: Vec<String> = group.iter().map(|number| info(*number)).collect();
        let records = infos.iter().map(|info| Ended::read(info, Keeper::Relay));
        let records: Vec<Ended<'_>> = records.collect();
        let outcomes = accounting.take_all(&records);
        assert!(!outcomes.contains(&Outcome::Refused), "{outcomes:?}");
        if is_here && step.starts_with("after") {
            die();
        }
        for number in group {
            writeln!(log, "{number}").unwrap();
        }
        let end = clock::moment() + Duration::from_secs(20);
        while group[0] < ALONE && accounting.progress().iter().any(|p| p.waiting() > 0) {
            assert!(clock::moment() < end, "{step}: not delivered");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    accounting.stop(clock::moment() + Duration::from_secs(20));
    let waiting = accounting.progress().iter().map(|p| p.waiting());
    assert_eq!(waiting.max(), Some(0));
}

fn run(step: &str, directory: &Path) -> std::process::Output {
    let (program, arguments) = this_program(module_path!(), "process");
    Command::new(program)
        .args(arguments)
        .env(STEP, step)
        .env(DIRECTORY, directory)
        .output()
        .unwrap()
}

fn counted(call_ids: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for call_id in call_ids {
        *counts.entry(call_id).or_insert(0) += 1;
    }
    counts
}

#[test]
fn nothing_is_lost_and_nothing_is_there_twice() {
    for step in STEPS {
        let scratch = Scratch::new("mediaproxy-kill").unwrap();
        let directory = scratch.path();
        let text = format!(
            "[Dispatcher]\naccounting = file, database\n[File]\npath = {0}/calls.jsonl\n\
             [Database]\ndburi = sqlite://{0}/calls.sqlite\n",
            directory.display()
        );
        fs::write(directory.join("config.ini"), text).unwrap();
        let killed = run(step, directory);
        let told = String::from_utf8_lossy(&killed.stderr).into_owned();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&killed.status),
            Some(9),
            "{step}: {told}"
        );
        let second = run("never", directory);
        assert_has_passed(&second);

        let expected = counted((0..2 * RECORDS).map(|n| format!("call-{n}")));
        let lines = fs::read_to_string(directory.join("calls.jsonl")).unwrap();
        let call_id = |line: &str| {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            record["call_id"].as_str().unwrap().to_owned()
        };
        assert_eq!(
            counted(lines.lines().map(call_id)),
            expected,
            "{step}: file"
        );
        let database = rusqlite::Connection::open(directory.join("calls.sqlite")).unwrap();
        let mut query = database
            .prepare("SELECT call_id FROM media_sessions")
            .unwrap();
        let rows = query.query_map([], |row| row.get::<_, String>(0)).unwrap();
        assert_eq!(
            counted(rows.map(Result::unwrap)),
            expected,
            "{step}: sqlite"
        );
    }
}
