//! What accounting costs the calls: 10,000 records a second go into the journal beside those of the calls themselves,
//! while 8 connections place calls at half their full rate.
//!
//! Each run goes on for a while with the records on and off in turn, in an order that is left to chance, so that
//! nothing that comes again and again falls on one kind. Calls during which the hypervisor gave the processors to
//! others are left out: where it does, a few such moments would be all that p99 tells.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use mediaproxy::accounting::{self, Accounting, Ended, Keeper, Outcome};
use mediaproxy::config;
use mediaproxy::dispatcher::{Dispatcher, Enders, Recorder, Running, Settings};
use mediaproxy::moment::Moment;
use mediaproxy::sys::{clock, random};
use mediaproxy::tls::Store;

use crate::aside::Aside;
use crate::callers::{Callers, Pace};
use crate::neighbours::watch;
use crate::setup::percentile;
use crate::sides::Caller;
use crate::support::daemons::{self, Daemon};
use crate::support::management;
use crate::support::ports::PortRange;
use crate::support::proxy::Proxy;
use crate::support::scratch::Scratch;
use crate::{Spread, Verdicts};

const CONNECTIONS: usize = 8;
const RUNS: usize = 5;
/// Of each run: two turns each, one of them with the records.
const PAIRS: u32 = 60;
const TURN: Duration = Duration::from_millis(430);
/// What begins so early in a turn is not counted: the disk still gets what the turn before has left.
const SETTLES: Duration = Duration::from_millis(150);
/// A run counts that has so many calls of each kind.
const ENOUGH: usize = 3000;
/// So many runs are tried at most.
const TRIES: usize = 12;
/// How long the full rate is looked for.
const FULL: Duration = Duration::from_secs(2);
const RECORDS_PER_SECOND: u32 = 10_000;
/// Records go in so many at a time, as a relay's answers come.
const TOGETHER: u32 = 20;
const JOURNAL_LIMIT: u64 = 1 << 30;
const PORTS: u16 = 8000;
const PATIENCE: Duration = Duration::from_secs(10);

/// A dispatcher in this process, which accounts as the daemon does, so that its journal can be fed; and a relay.
struct Bed {
    running: Running,
    accounting: Arc<Accounting>,
    relay: Daemon,
    scratch: Scratch,
}

impl Bed {
    fn start(binaries: &Path) -> Result<Bed, String> {
        let scratch = Scratch::new("mediaproxy-bench-journal")?;
        let directory = scratch.path();
        daemons::make_certificates(directory)?;
        daemons::write_config(directory, PortRange::find(PORTS)?)?;
        let loaded = config::load_dispatcher(directory).map_err(|error| error.to_string())?;
        let settings = accounting::Settings {
            state_dir: directory.join("state"),
            journal_limit: JOURNAL_LIMIT,
        };
        let accounting = Accounting::start(&settings, Vec::new())?;
        let config = &loaded.config;
        let runtime_dir = directory.join("run");
        std::fs::create_dir_all(&runtime_dir).map_err(|error| error.to_string())?;
        let enders = Enders::start(
            &config.opensips.socket,
            &config.kamailio.socket,
            &runtime_dir,
            (config.socket_mode, None),
        )?;
        let recorder = Recorder::open(
            Some(Arc::clone(&accounting)),
            Arc::new(enders),
            &directory.join("state"),
        )?;
        let store = Store::open(&config.tls.certs_path, "dispatcher");
        let store = Arc::new(store.map_err(|error| error.to_string())?);
        let settings = Settings::new(config, &runtime_dir, None);
        let running = Dispatcher::start(settings, store, Arc::new(recorder))?;
        let relay = Daemon::start(binaries, "media-relay", directory)?;
        let bed = Bed {
            running,
            accounting,
            relay,
            scratch,
        };
        bed.wait_for_relay()?;
        Ok(bed)
    }

    fn wait_for_relay(&self) -> Result<(), String> {
        let socket = self.scratch.path().join("run/management.sock");
        let end = clock::moment() + PATIENCE;
        loop {
            let summary = management::ask(&socket, "summary").unwrap_or_default();
            if summary.iter().any(|line| line.contains("\"active\"")) {
                return Ok(());
            }
            if clock::moment() > end {
                return Err("the relay has not found the dispatcher".to_owned());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Begins to place calls, on all connections, until `end`.
    fn place_calls(&self, end: Moment, pace: Pace) -> Result<Callers, String> {
        let socket = self.scratch.path().join("run/dispatcher.sock");
        let connect = |_| -> Result<Box<dyn Caller>, String> {
            let proxy = Proxy::connect(&socket).map_err(|error| error.to_string())?;
            Ok(Box::new(proxy))
        };
        let callers: Result<Vec<_>, String> = (0..CONNECTIONS).map(connect).collect();
        Ok(Callers::start(callers?, end, pace))
    }
}

/// One run.
struct Run {
    /// p99 of the calls, microseconds.
    alone: f64,
    beside: f64,
    /// Taken a second.
    records: f64,
    /// The part of the calls that count.
    counted: f64,
}

impl Run {
    /// None where the processors were away too often.
    fn of(bed: &Bed, interval: Duration) -> Result<Option<Run>, String> {
        let start = clock::moment();
        let end = start + TURN * PAIRS * 2;
        let callers = bed.place_calls(end, Pace::Every(interval))?;
        let watch = watch();
        let (mut records, mut seconds) = (0, 0.0);
        // Which turns had the records.
        let mut fed = Vec::new();
        for pair in 0..PAIRS {
            let first = random::bits() & 1 == 0;
            for (turn, is_fed) in (pair * 2..).zip([first, !first]) {
                let feeder = is_fed.then(|| feed(&bed.accounting));
                let began = clock::moment();
                let turn_ends = start + TURN * (turn + 1);
                thread::sleep(turn_ends.since(began));
                if let Some(feeder) = feeder {
                    seconds += (clock::moment() - began).as_secs_f64();
                    records += feeder.stop()?;
                }
                fed.push(is_fed);
            }
        }
        let calls = callers.join()?;
        let away = watch.stop()?;
        let mut kinds = [Vec::new(), Vec::new()];
        for call in &calls {
            let since = call.began.since(start).as_micros();
            let (turn, into) = (since / TURN.as_micros(), since % TURN.as_micros());
            let took = Duration::from_secs_f64(call.took / 1e6);
            let counts = into >= SETTLES.as_micros()
                && !away.iter().any(|window| window.meets(call.began, took));
            if let (true, Some(is_fed)) = (counts, fed.get(turn as usize)) {
                kinds[usize::from(*is_fed)].push(call.took);
            }
        }
        let counted = kinds.iter().map(Vec::len).sum::<usize>() as f64 / calls.len() as f64;
        let is_enough = kinds.iter().all(|took| took.len() >= ENOUGH);
        let [alone, beside] = kinds.map(|mut took| {
            took.sort_by(f64::total_cmp);
            percentile(&took, 99)
        });
        Ok(is_enough.then_some(Run {
            alone,
            beside,
            records: records as f64 / seconds,
            counted,
        }))
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Run {
            alone,
            beside,
            records,
            counted,
        } = self;
        let ratio = beside / alone;
        write!(
            f,
            "p99 {alone:.0} us, beside {records:.0} records/s {beside:.0} us: {ratio:.2}; {:.0} % of the calls count",
            counted * 100.0
        )
    }
}

/// Feeds the journal until it is asked how much went in.
fn feed(accounting: &Arc<Accounting>) -> Aside<u64> {
    let accounting = Arc::clone(accounting);
    Aside::start(move |is_over| {
        let interval = Duration::from_secs(1) * TOGETHER / RECORDS_PER_SECOND;
        let start = clock::moment();
        let mut records: Vec<Made> = (0..TOGETHER).map(|_| Made::new()).collect();
        let mut taken = 0;
        for burst in 0.. {
            let due = start + interval * burst;
            if is_over() {
                break;
            }
            thread::sleep(due.since(clock::moment()));
            records.iter_mut().for_each(Made::renew);
            let given = records.iter().map(|one| Ended::read(&one.0, Keeper::Relay));
            let outcomes = accounting.take_all(&given.collect::<Vec<_>>()).into_iter();
            let stored = outcomes.filter(|outcome| *outcome == Outcome::Stored);
            taken += stored.count() as u64;
        }
        taken
    })
}

/// A record as a call with one stream leaves it. It is made once and becomes another one by its number alone: what
/// making it costs is not the journal's.
struct Made(String);

impl Made {
    /// Where the number of its session is, hexadecimal digits.
    const NUMBER: std::ops::Range<usize> = 39..51;

    fn new() -> Made {
        Made(format!(
            "{{\"session_id\":\"00000000-0000-4000-9000-000000000000\",\"call_id\":\"84b4c76e66710@192.0.2.4\",\
             \"from_tag\":\"f\",\"to_tag\":\"t\",\"from_uri\":\"alice@example.com\",\"to_uri\":\"bob@example.com\",\
             \"start_time\":1764000000.5,\"duration\":60,\"caller_ua\":\"desk phone 1.0\",\
             \"callee_ua\":\"desk phone 1.0\",\"username\":null,\"streams\":[\"{:700}\"]}}",
            ""
        ))
    }

    /// The next session's.
    fn renew(&mut self) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.0
            .replace_range(Made::NUMBER, &format!("{number:012x}"));
    }
}

pub fn run(binaries: &Path, verdicts: &mut Verdicts) -> Result<(), String> {
    println!(
        "Accounting: {RECORDS_PER_SECOND} records/s into the journal while {CONNECTIONS} connections place calls at \
         half their full rate, {RUNS} runs with and without in turn"
    );
    let bed = Bed::start(binaries)?;
    let calls = bed
        .place_calls(clock::moment() + FULL, Pace::Full)?
        .join()?;
    let full = calls.len() as f64 / FULL.as_secs_f64();
    let interval = Duration::from_secs_f64(2.0 * CONNECTIONS as f64 / full);
    let mut runs = Vec::new();
    for _ in 0..TRIES {
        if runs.len() < RUNS {
            let run = Run::of(&bed, interval)?;
            match &run {
                Some(run) => println!("  {run}"),
                None => {
                    println!("  does not count: the hypervisor took the processors away too often")
                }
            }
            runs.extend(run);
        }
    }
    if runs.len() < RUNS {
        return Err(format!(
            "{} of {TRIES} runs count, {RUNS} are wanted",
            runs.len()
        ));
    }
    let alone = Spread::of(runs.iter().map(|run| run.alone));
    let beside = Spread::of(runs.iter().map(|run| run.beside));
    let ratio = Spread::of(runs.iter().map(|run| run.beside / run.alone));
    let rate = Spread::of(runs.iter().map(|run| run.records));
    println!(
        "  full rate {full:.0} calls/s; p99 at half of it {alone:.0} us, beside {rate:.0} records/s {beside:.0} us: \
         ratio {ratio}"
    );
    let keeps_up = rate.least >= 0.99 * f64::from(RECORDS_PER_SECOND);
    verdicts.claim("the journal takes 10,000 records a second", keeps_up);
    verdicts.claim(
        "calls do not feel it (p99 at most 1.1 times what it is without)",
        ratio.median <= 1.1,
    );
    bed.running.stop();
    bed.accounting.stop(clock::moment() + PATIENCE);
    bed.relay.stop()
}
