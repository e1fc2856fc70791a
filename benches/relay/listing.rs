//! Listing 2,000 sessions over the management socket, and the peak memory of both daemons with them.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use mediaproxy::sys::clock;

use crate::sides::{Ours, Side};
use crate::support::management::Management;
use crate::{Spread, Verdicts, processes};

const SESSIONS: usize = 2000;
/// Two pairs a session, and some that are taken.
const PORTS: u16 = 9000;
const LISTINGS: usize = 15;
/// Bounds: milliseconds, and bytes.
const TIME: f64 = 50.0;
const MEMORY: u64 = 20_000_000;

pub fn run(binaries: &Path, verdicts: &mut Verdicts) -> Result<(), String> {
    println!(
        "\n{SESSIONS} sessions up, listed over management.sock {LISTINGS} times; daemons freshly started"
    );
    let ours = Ours::start(binaries, PORTS)?;
    let mut caller = ours.caller()?;
    let end = |port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    for number in 0..SESSIONS {
        let call_id = format!("{number:x}-84b4c76e66710@192.0.2.4");
        caller
            .set_up(&call_id, [end(4000), end(4002)])
            .map_err(|why| format!("{why} (each session takes 4 open files; see ulimit -Hn)"))?;
    }
    let told = |error: std::io::Error| format!("management.sock: {error}");
    let mut management = Management::connect(&ours.daemons.management_socket()).map_err(told)?;
    let mut times = Vec::new();
    for _ in 0..LISTINGS {
        let start = clock::moment();
        let lines = management.ask("sessions").map_err(told)?;
        times.push((clock::moment() - start).as_secs_f64() * 1000.0);
        if lines.len() != SESSIONS {
            return Err(format!("{} sessions listed, not {SESSIONS}", lines.len()));
        }
    }
    let time = Spread::of(times);
    let dispatcher = processes::peak_memory(ours.daemons.dispatcher.pid())?;
    let relay = processes::peak_memory(ours.daemons.relay.pid())?;
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "  listing {time} ms; peak memory {:.1} MB (dispatcher {:.1}, relay {:.1})",
        megabytes(dispatcher + relay),
        megabytes(dispatcher),
        megabytes(relay),
    );
    verdicts.claim(
        "listing 2,000 sessions takes under 50 ms",
        time.median < TIME,
    );
    let holds = dispatcher + relay < MEMORY;
    verdicts.claim("both daemons together stay under 20 MB", holds);
    ours.daemons.stop()
}
