//! Call set-up: offer, answer and remove, one call after the other on each of 8 connections.

use std::path::Path;
use std::time::Duration;

use mediaproxy::sys::clock;

use crate::callers::{Callers, Pace};
use crate::sides::{Ours, Side, Theirs};
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
    let start = clock::moment();
    let calls = Callers::start(callers?, start + length, Pace::Full).join()?;
    let seconds = (clock::moment() - start).as_secs_f64();
    let cpu = (side.cpu_time()? - used).as_secs_f64() * 1e6;
    let mut latencies: Vec<f64> = calls.iter().map(|call| call.took).collect();
    latencies.sort_by(f64::total_cmp);
    let calls = latencies.len() as f64;
    Ok(Run {
        rate: calls / seconds,
        cpu: cpu / calls,
        latencies,
    })
}
