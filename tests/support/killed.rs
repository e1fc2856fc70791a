//! A process that delivers from a journal and is killed (-9) there, and the next one that goes on: each is the test's own
//! program, of which it runs the test [`process`] alone. What they say to their server may pass through the test, which
//! kills at any place of the conversation.
//!
//! ```text
//!  Journal::new(configuration, "database", &records)       records that wait
//!  journal.case(more)                                      a copy of it, for one kill
//!  killed_by_itself(&case, step)  killed_at(&case, &between, stop, what)
//! ```

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use mediaproxy::accounting::{
    self, Accounting, Backend, DeliveryResult, Keeper, Outcome, Record, Unavailable,
};
use mediaproxy::config;
use mediaproxy::sys::clock;

use super::between::{Between, Stop};
use super::copy::copy;
use super::inner::this_program;
use super::scratch::Scratch;
use super::skip::{missing, skip};

const DIRECTORY: &str = "MEDIAPROXY_TEST_DIRECTORY";
const STEP: &str = "MEDIAPROXY_TEST_KILL_AT";

const PATIENCE: Duration = Duration::from_secs(60);

/// More than one delivery takes.
pub const MANY: usize = 260;

/// Where the process ends itself: what its server does not see. Before the second delivery the position after the first
/// one is on disk.
pub const OWN_STEPS: [&str; 4] = ["before 1", "after 1", "before 2", "after 2"];

/// A backend that kills its process.
struct Mortal {
    backend: Box<dyn Backend>,
    step: String,
    deliveries: usize,
}

impl Mortal {
    fn kill_at(&self, when: &str) {
        if self.step == format!("{when} {}", self.deliveries) {
            let pid = std::process::id().to_string();
            let _ = Command::new("sh").args(["-c", "kill -9 $0", &pid]).status();
            unreachable!("killed");
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
        let delivered = self.backend.deliver(records, verdicts);
        self.kill_at("after");
        delivered
    }
}

/// The process: delivers what is in the journal.
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
    let accounting = Accounting::start(
        &settings(directory),
        backends.into_iter().map(mortal).collect(),
    )
    .unwrap();
    wait("all to be delivered", || {
        accounting.progress().iter().all(|p| p.waiting() == 0)
    });
    let rejected = accounting.progress().iter().map(|p| p.rejected());
    assert_eq!(rejected.sum::<u64>(), 0);
    accounting.stop(clock::moment() + PATIENCE);
}

fn settings(directory: &Path) -> accounting::Settings {
    accounting::Settings {
        state_dir: directory.join("state"),
        journal_limit: 64 << 20,
    }
}

pub fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = clock::moment() + PATIENCE;
    while !is_so() {
        assert!(clock::moment() < end, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A backend that gets nothing.
struct Away(String);

impl Backend for Away {
    fn name(&self) -> &str {
        &self.0
    }

    fn deliver(&mut self, _: &[Record], _: &mut Vec<DeliveryResult>) -> Result<(), Unavailable> {
        Err(Unavailable("it is away".into()))
    }
}

/// A state directory in which these records wait for the backend of the configuration: what each case begins with.
pub struct Journal(Scratch);

impl Journal {
    /// `configuration` is without the section `[Dispatcher]`.
    pub fn new(configuration: &str, accounting: &str, records: &[Record]) -> Journal {
        let scratch = Scratch::new("mediaproxy-kill-journal").unwrap();
        let directory = scratch.path();
        let text = format!("[Dispatcher]\naccounting = {accounting}\n{configuration}\n");
        fs::write(directory.join("config.ini"), text).unwrap();
        let config = config::load_dispatcher(directory).unwrap().config;
        let backends = accounting::backends(&config).unwrap();
        let away = backends
            .iter()
            .map(|backend| Box::new(Away(backend.name().to_owned())) as Box<dyn Backend>);
        let accounting = Accounting::start(&settings(directory), away.collect()).unwrap();
        for record in records {
            assert_eq!(
                accounting.take(&record.info, Keeper::Nobody),
                Outcome::Stored
            );
        }
        accounting.stop(clock::moment() + PATIENCE);
        Journal(scratch)
    }

    /// A copy of it, with more lines of configuration.
    pub fn case(&self, more: &str) -> Scratch {
        let case = Scratch::new("mediaproxy-kill").unwrap();
        copy(self.0.path(), case.path());
        let path = case.path().join("config.ini");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, text + more).unwrap();
        case
    }
}

/// Starts the process with the directory of a case.
pub fn start(case: &Scratch, step: &str) -> Child {
    let (program, arguments) = this_program(module_path!(), "process");
    command(case, step, Command::new(program).args(arguments))
}

/// `runner` is the program, or what runs it, with what it is to do.
fn command(case: &Scratch, step: &str, runner: &mut Command) -> Child {
    let output = fs::File::options()
        .create(true)
        .append(true)
        .open(case.path().join("output"))
        .unwrap();
    runner
        .env(STEP, step)
        .env(DIRECTORY, case.path())
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .spawn()
        .unwrap()
}

/// The process that goes on: it ends by itself, with all delivered.
pub fn go_on(case: &Scratch, what: &str) {
    finish(start(case, "never"), case, what);
}

/// Waits for a process that is not to be killed.
pub fn finish(mut process: Child, case: &Scratch, what: &str) {
    let status = process.wait().unwrap();
    let output = fs::read_to_string(case.path().join("output")).unwrap();
    assert!(status.success(), "{what}: {output}");
    for entry in fs::read_dir(case.path().join("state/accounting")).unwrap() {
        let name = entry.unwrap().file_name();
        let name = name.to_str().unwrap();
        assert!(!name.starts_with("rejected"), "{what}: {name}");
    }
}

/// Killed where the process says, then gone on with.
pub fn killed_by_itself(case: &Scratch, step: &str) {
    let status = start(case, step).wait().unwrap();
    assert_eq!(status.signal(), Some(9), "{step}: it ended before");
    go_on(case, step);
}

/// How the position is written: the system calls, as strace knows them.
pub const POSITION_CALLS: [&str; 4] = ["openat", "write", "fdatasync", "/^rename"];

/// Killed at this system call, when the position behind the second delivery is written; then gone on with. False, and
/// the reason to skip, where there is no strace.
pub fn killed_at_position(case: &Scratch, call: &str) -> bool {
    if missing(&["strace"]).is_some() {
        skip("killed while the position is written: no strace");
        return false;
    }
    let accounting = case.path().join("state/accounting");
    let names = fs::read_dir(&accounting).unwrap();
    let mut paths = names.map(|entry| entry.unwrap().path());
    let position = paths.find(|path| path.extension().is_some_and(|end| end == "position"));
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-qq", "-o"])
        .arg(case.path().join("strace"));
    strace
        .arg("-P")
        .arg(position.unwrap().with_extension("new"));
    // Each thread is counted for itself: the one that delivers, and the one that starts it and writes once.
    let trace = format!("trace={call}");
    let inject = format!("inject={call}:signal=KILL:when=2");
    strace.args(["-e", &trace, "-e", &inject]);
    let (program, arguments) = this_program(module_path!(), "process");
    strace.arg(program).args(arguments);
    let status = command(case, "never", &mut strace).wait().unwrap();
    assert_eq!(status.signal(), Some(9), "{call}: it ended before");
    go_on(case, call);
    true
}

/// Killed where the conversation is to stop, then gone on with.
pub fn killed_at(case: &Scratch, between: &Between, stop: Stop, what: &str) {
    between.stop_at(stop);
    let mut process = start(case, "never");
    let stopped = between.wait_stopped();
    process.kill().unwrap();
    let status = process.wait().unwrap();
    stopped.unwrap_or_else(|why| panic!("{what}: it did not come to {why}"));
    assert_eq!(status.signal(), Some(9), "{what}: it ended before");
    between.go_on();
    go_on(case, what);
}
