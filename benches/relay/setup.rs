//! Call set-up: offer, answer and remove, one call after the other on each of 8 connections.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use mediaproxy::sys::clock;

use crate::sides::{Caller, Ours, Side, Theirs};
use crate::{Spread, Verdicts};

const CONNECTIONS: usize = 8;
const ROUNDS: usize = 9;
/// One side's part of a round.
const LENGTH: Duration = Duration::from_millis(700);
/// Ports for each side.
const PORTS: u16 = 8000;

/// What one side did in one round.
struct Run {
    /// Calls per second.
    rate: f64,
    /// CPU time for one call, microseconds.
    cpu: f64,
    /// Of whole calls, microseconds, sorted.
    latencies: Vec<f64>,
}

impl Run {
    fn percentile(&self, percent: usize) -> f64 {
        percentile(&self.latencies, percent)
    }
}

/// Of sorted values.
pub fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let index = sorted.len() * percent / 100;
    sorted.get(index).copied().unwrap_or_default()
}

/// How one connection's calls follow each other.
#[derive(Clone, Copy)]
pub enum Pace {
    Full,
    /// One begins each interval, or as soon as the one before is over; the first `after` this.
    Every {
        interval: Duration,
        after: Duration,
    },
}

/// One call that was placed.
#[derive(Clone, Copy)]
pub struct Placed {
    /// When it began.
    pub began: Duration,
    /// How long it took, microseconds.
    pub took: f64,
}

pub fn run(binaries: &Path, verdicts: &mut Verdicts) -> Result<(), String> {
    println!(
        "Call set-up: offer, answer, remove over {CONNECTIONS} connections, {ROUNDS} rounds, both sides in turn"
    );
    let ours = Ours::start(binaries, PORTS)?;
    let theirs = Theirs::start(PORTS)?;
    let sides: [&dyn Side; 2] = [&ours, &theirs];
    // Warm: threads, memory, files.
    for side in sides {
        place_calls(side, LENGTH / 2)?;
    }
    let mut rounds: Vec<[Run; 2]> = Vec::new();
    for round in 0..ROUNDS {
        // Whoever goes first may find the machine in another state.
        let [a, b] = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        let first = place_calls(sides[a], LENGTH)?;
        let second = place_calls(sides[b], LENGTH)?;
        rounds.push(if a == 0 {
            [first, second]
        } else {
            [second, first]
        });
    }
    for (index, side) in sides.iter().enumerate() {
        let of = |value: fn(&Run) -> f64| Spread::of(rounds.iter().map(|r| value(&r[index])));
        println!(
            "  {:<26} {:.0} calls/s; {:.0} us of CPU a call; a call takes p50 {:.0} us, p99 {:.0} us",
            side.name(),
            of(|run| run.rate),
            of(|run| run.cpu),
            of(|run| run.percentile(50)),
            of(|run| run.percentile(99)),
        );
    }
    let ratio =
        |value: fn(&Run) -> f64| Spread::of(rounds.iter().map(|[o, t]| value(o) / value(t)));
    let rate = ratio(|run| run.rate);
    println!(
        "  ours / rtpengine: calls/s {rate}; CPU a call {}; p50 {}; p99 {}",
        ratio(|run| run.cpu),
        ratio(|run| run.percentile(50)),
        ratio(|run| run.percentile(99)),
    );
    let holds = rate.median >= 1.0;
    verdicts.claim(
        "set-up is no slower than rtpengine (ratio of calls/s at least 1)",
        holds,
    );
    drop(theirs);
    ours.daemons.stop()
}

/// Calls for so long, on all connections at once.
fn place_calls(side: &dyn Side, length: Duration) -> Result<Run, String> {
    let callers: Result<Vec<_>, _> = (0..CONNECTIONS).map(|_| side.caller()).collect();
    let used = side.cpu_time()?;
    let start = clock::mono();
    let threads: Vec<_> = callers?
        .into_iter()
        .map(|caller| thread::spawn(move || one_connection(caller, start + length, Pace::Full)))
        .collect();
    let mut latencies = Vec::new();
    for thread in threads {
        let placed = thread.join().map_err(|_| "a caller panicked")??;
        latencies.extend(placed.iter().map(|call| call.took));
    }
    let seconds = (clock::mono() - start).as_secs_f64();
    let cpu = (side.cpu_time()? - used).as_secs_f64() * 1e6;
    latencies.sort_by(f64::total_cmp);
    let calls = latencies.len() as f64;
    Ok(Run {
        rate: calls / seconds,
        cpu: cpu / calls,
        latencies,
    })
}

/// Calls one after the other.
pub fn one_connection(
    mut caller: Box<dyn Caller>,
    end: Duration,
    pace: Pace,
) -> Result<Vec<Placed>, String> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let end_of = |port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let mut calls = Vec::new();
    let mut due = clock::mono();
    if let Pace::Every { after, .. } = pace {
        due += after;
    }
    loop {
        if let Pace::Every { interval, .. } = pace {
            thread::sleep(due.saturating_sub(clock::mono()));
            due += interval;
        }
        let began = clock::mono();
        if began >= end {
            return Ok(calls);
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let call_id = format!("{number:x}-84b4c76e66710@192.0.2.4");
        caller.set_up(&call_id, [end_of(4000), end_of(4002)])?;
        caller.hang_up(&call_id)?;
        let took = (clock::mono() - began).as_secs_f64() * 1e6;
        calls.push(Placed { began, took });
    }
}
