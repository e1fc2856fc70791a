//! A relay with a certificate that says what no relay can have to say, as fast as it can, and comes back at once when it is
//! cut off: the calls of others go on, nothing is accounted without end, and the dispatcher's memory comes back. What the
//! calls see and what the dispatcher takes is told beside a quiet run.

use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use mediaproxy::proto::line::Lines;
use mediaproxy::sys::clock;
use mediaproxy::tls::{Context, HANDSHAKE_LIMIT, Writer, connect};

use super::trial;
use crate::support::daemons::{self, Daemons};
use crate::support::management;
use crate::support::ports::PortRange;
use crate::support::proxy::Proxy;
use crate::support::scratch::Scratch;

/// How long each run takes.
const RUN: Duration = Duration::from_secs(3);

/// What a SIP proxy waits for an answer.
const PATIENCE: Duration = Duration::from_millis(500);

/// Bytes of memory that the dispatcher may take at most.
const MEMORY: u64 = 96 << 20;

/// Longer than it takes to say that a relay was cut off.
const LONG: Duration = Duration::from_secs(20);

/// Both daemons.
struct Host {
    daemons: Daemons,
    scratch: Scratch,
}

impl Host {
    fn start(name: &str) -> Host {
        let scratch = Scratch::new(&format!("mediaproxy-rogue-{name}")).unwrap();
        daemons::make_certificates(scratch.path()).unwrap();
        daemons::write_config(scratch.path(), PortRange::find(200).unwrap()).unwrap();
        let binaries = Path::new(env!("CARGO_BIN_EXE_media-relay")).parent();
        let daemons = Daemons::start(binaries.unwrap(), scratch.path()).unwrap();
        Host { daemons, scratch }
    }

    /// Waits until the dispatcher has counted one of these at least.
    fn counts(&self, sample: &str) {
        let end = clock::moment() + LONG;
        loop {
            let text = management::ask(&self.daemons.management_socket(), "metrics").unwrap();
            let value = text.iter().find_map(|line| line.strip_prefix(sample));
            let value: Option<f64> = value.and_then(|value| value.trim().parse().ok());
            if value.is_some_and(|count| count >= 1.0) {
                return;
            }
            assert!(clock::moment() < end, "{sample}: {value:?}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// What a run came to.
#[derive(Debug)]
struct Seen {
    calls: usize,
    errors: Vec<String>,
    p99: Duration,
    longest: Duration,
}

/// Calls that are set up and removed one after the other while `others` are at work.
fn calls(host: &Host, name: &str, others: impl FnOnce(&AtomicBool) + Send) -> Seen {
    let is_over = AtomicBool::new(false);
    let end = SocketAddrV4::new([127, 0, 0, 1].into(), 9);
    thread::scope(|scope| {
        scope.spawn(|| others(&is_over));
        let mut proxy = Proxy::connect(&host.daemons.control_socket()).unwrap();
        let (mut times, mut errors) = (Vec::new(), Vec::new());
        let begin = clock::moment();
        while clock::moment() < begin + RUN {
            let call_id = format!("{name}-{}@192.0.2.1", times.len());
            let since = clock::moment();
            let placed = proxy.place(&call_id, [end, end]);
            let removed = proxy.hang_up(&call_id);
            // Three requests, each of which a proxy waits for.
            times.push((clock::moment() - since) / 3);
            errors.extend(placed.err().into_iter().chain(removed.err()));
        }
        is_over.store(true, Ordering::Relaxed);
        times.sort_unstable();
        Seen {
            calls: times.len(),
            errors,
            p99: times[times.len() * 99 / 100],
            longest: times[times.len() - 1],
        }
    })
}

/// Bytes of memory that a process has at this moment, and had at most.
fn memory(pid: u32) -> [u64; 2] {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    ["VmRSS:", "VmHWM:"].map(|key| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let kilobytes = line.unwrap().trim().trim_end_matches(" kB");
        kilobytes.parse::<u64>().unwrap() * 1024
    })
}

/// One relay that says things; it takes no calls, and comes back whenever its link is closed.
struct Rogue<'a> {
    host: &'a Host,
    address: SocketAddr,
    name: String,
    links: AtomicUsize,
    /// Bytes, or lines, of the attack that were written.
    said: AtomicUsize,
}

impl<'a> Rogue<'a> {
    fn new(host: &'a Host, name: &str) -> Rogue<'a> {
        let config = fs::read_to_string(host.scratch.path().join("config.ini")).unwrap();
        let address = config.lines().find_map(|l| l.strip_prefix("listen = "));
        Rogue {
            host,
            address: address.unwrap().parse().unwrap(),
            name: name.to_owned(),
            links: AtomicUsize::new(0),
            said: AtomicUsize::new(0),
        }
    }

    /// Has `attack` write until the link is closed, again and again.
    fn run(&self, is_over: &AtomicBool, mut attack: impl FnMut(&mut dyn FnMut(&[u8]) -> bool)) {
        let context = Context::load(&self.host.scratch.path().join("tls"), "relay");
        let context = context.unwrap().0;
        while !is_over.load(Ordering::Relaxed) {
            let Ok(socket) = TcpStream::connect(self.address) else {
                continue;
            };
            let Ok((mut reader, mut writer, _)) = connect(socket, &context, None, HANDSHAKE_LIMIT)
            else {
                continue;
            };
            self.links.fetch_add(1, Ordering::Relaxed);
            let closer = reader.closer();
            let hello = format!(
                "hello {{\"name\": \"{}\", \"stored\": true}}\r\n",
                self.name
            );
            let _ = writer.write_all(hello.as_bytes());
            let writer = Arc::new(Mutex::new(writer));
            let is_settled = AtomicBool::new(false);
            thread::scope(|scope| {
                let (answering, is_settled) = (Arc::clone(&writer), &is_settled);
                scope.spawn(move || {
                    let (mut lines, mut buffer) = (Lines::new(1 << 20), [0; 4096]);
                    while let Ok(count @ 1..) = reader.read(&mut buffer) {
                        lines.extend(&buffer[..count]);
                        while let Ok(Some(line)) = lines.next_line() {
                            refuse(line, &answering, is_settled);
                        }
                    }
                    is_settled.store(true, Ordering::Relaxed);
                });
                while !is_settled.load(Ordering::Relaxed) && !is_over.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(1));
                }
                attack(&mut |bytes: &[u8]| {
                    self.said.fetch_add(1, Ordering::Relaxed);
                    let written = writer.lock().unwrap().write_all(bytes);
                    written.is_ok() && !is_over.load(Ordering::Relaxed)
                });
                closer.close();
            });
        }
    }
}

/// It gets no calls after its first such answer.
fn refuse(line: &[u8], writer: &Mutex<Writer>, is_settled: &AtomicBool) {
    let line = String::from_utf8_lossy(line);
    if let Some(sequence) = line.strip_prefix("update ") {
        let answer = format!("{sequence} halting\r\n");
        let _ = writer.lock().unwrap().write_all(answer.as_bytes());
        is_settled.store(true, Ordering::Relaxed);
    }
}

/// A million and more sessions that it says it has, in one answer.
fn list(say: &mut dyn FnMut(&[u8]) -> bool) {
    let mut number = 0;
    let mut go_on = say(b"1 [{\"call_id\":\"x\"}");
    while go_on && number < 1_700_000 {
        let mut text = String::new();
        for _ in 0..500 {
            number += 1;
            let _ = write!(
                text,
                ",{{\"call_id\":\"invented-{number}\",\"from_tag\":\"f\"}}"
            );
        }
        go_on = say(text.as_bytes());
    }
    say(b"]\r\n");
}

/// Call-ids of a megabyte.
fn long_call_ids(say: &mut dyn FnMut(&[u8]) -> bool) {
    let long = "x".repeat(1 << 20);
    for number in 0..400 {
        let line = format!("expired {{\"call_id\":\"{number}{long}\",\"start_time\":1}}\r\n");
        if !say(line.as_bytes()) {
            return;
        }
    }
}

/// Ends of calls that never were.
fn invented(say: &mut dyn FnMut(&[u8]) -> bool) {
    let (mut number, mut go_on) = (clock::moment().since_start().as_nanos(), true);
    while go_on {
        let mut text = String::new();
        for _ in 0..100 {
            number += 1;
            let _ = write!(
                text,
                "expired {{\"call_id\":\"{number}\",\"from_tag\":\"f\",\"to_tag\":\"t\",\"start_time\":1.5,\"duration\":3,\
                 \"session_id\":\"00000000-0000-4000-8000-{:012x}\",\"streams\":[]}}\r\n",
                number & 0xffff_ffff_ffff
            );
        }
        go_on = say(text.as_bytes());
    }
}

type Attack = fn(&mut dyn FnMut(&[u8]) -> bool);

/// Calls beside so many rogue relays, after a quiet run; the lines of the dispatcher's log.
fn attacked(name: &str, links: usize, attack: Attack, limit: &str) -> (Host, String) {
    let _turn = trial::turn();
    let host = Host::start(name);
    let pid = host.daemons.dispatcher.pid();
    let quiet = calls(&host, "quiet", |_| ());
    let before = memory(pid);
    let names: Vec<String> = (0..links).map(|n| format!("{name}{n}")).collect();
    let rogues: Vec<Rogue<'_>> = names.iter().map(|n| Rogue::new(&host, n)).collect();
    let seen = calls(&host, name, |is_over| {
        thread::scope(|scope| {
            for rogue in &rogues {
                scope.spawn(move || rogue.run(is_over, attack));
            }
        });
    });
    let links: usize = rogues.iter().map(|r| r.links.load(Ordering::Relaxed)).sum();
    let said: usize = rogues.iter().map(|r| r.said.load(Ordering::Relaxed)).sum();
    drop(rogues);
    let [now, most] = memory(pid);
    println!(
        "{name}: quiet {} calls, p99 {:?}; attacked {} calls, {} errors, p99 {:?}, longest {:?}; {links} links, {said} \
         writes; memory before {} kB, now {} kB, at most {} kB",
        quiet.calls,
        quiet.p99,
        seen.calls,
        seen.errors.len(),
        seen.p99,
        seen.longest,
        before[0] >> 10,
        now >> 10,
        most >> 10
    );
    let path = host.scratch.path().join("media-dispatcher.log");
    let log = fs::read_to_string(&path).unwrap();
    println!(
        "{} lines, {} bytes in the log",
        log.lines().count(),
        log.len()
    );
    let is_told = |line: &&str| line.contains("cut off") || line.contains("told the ends");
    for line in log.lines().filter(is_told).take(4) {
        println!("{}", line.get(..300).unwrap_or(line));
    }
    if std::env::var_os("ROGUE_LOOKS_ONLY").is_none() {
        assert!(seen.errors.is_empty(), "{:?}", seen.errors);
        assert!(seen.p99 < PATIENCE.max(quiet.p99 * 20), "{seen:?}");
        assert!(most < MEMORY, "{most} bytes");
        assert!(!log.contains("has not answered for"), "{log}");
        let cut = format!("mediaproxy_dispatcher_relays_cut_off_total{{limit=\"{limit}\"}}");
        if !limit.is_empty() {
            host.counts(&cut);
        }
    }
    (host, log)
}

#[test]
fn r6_a_list_of_more_sessions_than_there_are_ports_stops_nobody() {
    let (host, log) = attacked("list", 3, list, "sessions");
    assert!(log.contains("a list of sessions: 32769 sessions read, 32768 are allowed"));
    assert!(log.contains("cut off, and not let in for 10 s"));
    host.daemons.stop().unwrap();
}

#[test]
fn r5_call_ids_of_a_megabyte_are_not_kept() {
    let (host, log) = attacked("long", 1, long_call_ids, "name");
    assert!(log.contains("call_id: 1048577 bytes read, 8192 are allowed"));
    host.daemons.stop().unwrap();
}

#[test]
fn r4_invented_ends_are_accounted_within_a_limit() {
    let (host, log) = attacked("invented", 1, invented, "");
    let finished = log
        .lines()
        .filter(|line| line.contains("] finished: expired on its relay"));
    let finished = finished.count();
    println!("{finished} invented calls finished");
    assert!((1000..20_100).contains(&finished), "{finished}");
    host.daemons.stop().unwrap();
}
