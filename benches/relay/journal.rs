//! What accounting costs the calls: 10,000 records a second go into the journal beside those of the calls themselves,
//! while 8 connections place calls at half their full rate.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use mediaproxy::accounting::{self, Accounting, Keeper, Outcome};
use mediaproxy::config;
use mediaproxy::dispatcher::finished::{Finished, Finisher};
use mediaproxy::dispatcher::{Dispatcher, Running, Settings};
use mediaproxy::sys::{clock, random};
use mediaproxy::tls::Store;

use crate::daemons::{self, Daemon, PortRange, Scratch};
use crate::management;
use crate::proxy::Proxy;
use crate::setup::{Pace, one_connection, percentile};
use crate::{Spread, Verdicts};

const CONNECTIONS: usize = 8;
/// Each of them with and without the records.
const ROUNDS: usize = 5;
/// One half of a round.
const LENGTH: Duration = Duration::from_secs(2);
const RECORDS_PER_SECOND: u32 = 10_000;
/// Records go in so many at a time, as a relay's answers come.
const TOGETHER: u32 = 10;
const JOURNAL_LIMIT: u64 = 1 << 30;
const PORTS: u16 = 8000;
const PATIENCE: Duration = Duration::from_secs(10);

/// Accounts as the daemon does.
struct Recorder(Arc<Accounting>);

impl Finisher for Recorder {
    fn finish(&self, finished: Finished) -> bool {
        let record = finished.record(clock::now(), random::bits());
        let taken = record.map(|record| self.0.take(&record, Keeper::Nobody));
        taken != Some(Outcome::Refused)
    }

    fn records(&self) -> bool {
        true
    }

    fn has(&self, session_id: &str) -> bool {
        self.0.has(session_id)
    }
}

/// A dispatcher in this process, so that its journal can be fed, and a relay.
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
        let recorder = Arc::new(Recorder(Arc::clone(&accounting)));
        let store = Store::open(&loaded.config.tls.certs_path, "dispatcher");
        let store = Arc::new(store.map_err(|error| error.to_string())?);
        let settings = Settings::new(&loaded.config, &directory.join("run"), None);
        let running = Dispatcher::start(settings, store, recorder)?;
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
        let end = clock::mono() + PATIENCE;
        loop {
            let summary = management::ask(&socket, "summary").unwrap_or_default();
            if summary.iter().any(|line| line.contains("\"active\"")) {
                return Ok(());
            }
            if clock::mono() > end {
                return Err("the relay has not found the dispatcher".to_owned());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Calls for so long, on all connections; what each took, microseconds, sorted.
    fn place_calls(&self, length: Duration, pace: Pace) -> Result<Vec<f64>, String> {
        let socket = self.scratch.path().join("run/dispatcher.sock");
        let connect = |_| Proxy::connect(&socket).map_err(|error| error.to_string());
        let proxies: Result<Vec<Proxy>, String> = (0..CONNECTIONS).map(connect).collect();
        let end = clock::mono() + length;
        let threads: Vec<_> = proxies?
            .into_iter()
            .map(|proxy| thread::spawn(move || one_connection(Box::new(proxy), end, pace)))
            .collect();
        let mut latencies = Vec::new();
        for thread in threads {
            latencies.extend(thread.join().map_err(|_| "a caller panicked")??);
        }
        latencies.sort_by(f64::total_cmp);
        Ok(latencies)
    }
}

/// Feeds the journal while it lives; counts what went in.
struct Feeder {
    is_over: Arc<AtomicBool>,
    thread: thread::JoinHandle<u64>,
}

impl Feeder {
    fn start(accounting: &Arc<Accounting>) -> Feeder {
        let (accounting, is_over) = (Arc::clone(accounting), Arc::new(AtomicBool::new(false)));
        let stop = Arc::clone(&is_over);
        let feed = move || {
            let interval = Duration::from_secs(1) * TOGETHER / RECORDS_PER_SECOND;
            let start = clock::mono();
            let mut taken = 0;
            for burst in 0.. {
                let due = start + interval * burst;
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                thread::sleep(due.saturating_sub(clock::mono()));
                let outcomes = (0..TOGETHER).map(|_| accounting.take(&record(), Keeper::Relay));
                taken += outcomes
                    .filter(|outcome| *outcome == Outcome::Stored)
                    .count() as u64;
            }
            taken
        };
        Feeder {
            is_over,
            thread: thread::spawn(feed),
        }
    }

    fn stop(self) -> Result<u64, String> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| "the feeder panicked".to_owned())
    }
}

/// As a call with one stream leaves it.
fn record() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!(
        "{{\"session_id\":\"00000000-0000-4000-9000-{number:012x}\",\"call_id\":\"{number}@192.0.2.4\",\"from_tag\":\"f\",\
         \"to_tag\":\"t\",\"from_uri\":\"alice@example.com\",\"to_uri\":\"bob@example.com\",\"start_time\":1764000000.5,\
         \"duration\":60,\"caller_ua\":\"desk phone 1.0\",\"callee_ua\":\"desk phone 1.0\",\"username\":null,\"streams\":[{:?}]}}",
        "x".repeat(700)
    )
}

pub fn run(binaries: &Path, verdicts: &mut Verdicts) -> Result<(), String> {
    println!(
        "Accounting: {RECORDS_PER_SECOND} records/s into the journal while {CONNECTIONS} connections place calls at \
         half their full rate, {ROUNDS} rounds with and without in turn"
    );
    let bed = Bed::start(binaries)?;
    let full = bed.place_calls(LENGTH, Pace::Full)?.len() as f64 / LENGTH.as_secs_f64();
    let interval = Duration::from_secs_f64(2.0 * CONNECTIONS as f64 / full);
    let mut rounds = Vec::new();
    let mut taken = Vec::new();
    for round in 0..ROUNDS {
        let mut p99 = [0.0; 2];
        // Whoever goes first may find the machine in another state.
        for fed in [round % 2 == 0, round % 2 != 0] {
            let feeder = fed.then(|| Feeder::start(&bed.accounting));
            let latencies = bed.place_calls(LENGTH, Pace::Every(interval))?;
            p99[usize::from(fed)] = percentile(&latencies, 99);
            if let Some(feeder) = feeder {
                taken.push(feeder.stop()? as f64 / LENGTH.as_secs_f64());
            }
        }
        rounds.push(p99);
    }
    let alone = Spread::of(rounds.iter().map(|[alone, _]| *alone));
    let beside = Spread::of(rounds.iter().map(|[_, beside]| *beside));
    let ratio = Spread::of(rounds.iter().map(|[alone, beside]| beside / alone));
    let rate = Spread::of(taken);
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
    bed.accounting.stop(clock::mono() + PATIENCE);
    bed.relay.stop()
}
