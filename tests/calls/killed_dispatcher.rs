//! The dispatcher is killed (-9) again and again under 100 calls a second, and started again at once: only requests that
//! were under way then may fail, no session stays anywhere, and each call is accounted once. With the real daemons; the SIP
//! proxy's processes do what those of Kamailio and OpenSIPS do when their connection is gone.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use mediaproxy::moment::Moment;
use mediaproxy::sys::clock;
use serde_json::Value;

use crate::support::daemons::{self, Daemon, Daemons};
use crate::support::management;
use crate::support::ports::PortRange;
use crate::support::proxy::{Media, Message, Proxy};
use crate::support::scratch::Scratch;

const CALLER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 4000);
const CALLEE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 4002);

/// Processes of the proxy.
const WORKERS: usize = 8;
const CALLS: usize = 600;
const PACE: Duration = Duration::from_millis(10);
const KILLS: u64 = 5;

/// When a call is answered and hung up.
const RING: Duration = Duration::from_millis(50);
const TALK: Duration = Duration::from_millis(700);

/// A phone sends its request again for as long.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Offer,
    Answer,
    Bye,
}

/// What became of a request.
#[derive(Debug)]
struct Outcome {
    call: usize,
    step: Step,
    /// The last answer.
    answer: String,
    /// Its connection was cut while it was under way.
    was_cut: bool,
}

/// A process of the proxy.
struct Worker<'a> {
    socket: &'a Path,
    proxy: Option<Proxy>,
}

impl Worker<'_> {
    /// What is sent on a connection that is gone is sent again on a new one at once; what was under way is, when the
    /// phone says it again.
    fn ask(&mut self, request: &str) -> (String, bool) {
        let end = clock::moment() + PATIENCE;
        let mut was_cut = false;
        loop {
            match self.try_once(request) {
                Ok(answer) => return (answer, was_cut),
                Err(error) if clock::moment() > end => panic!("{error}"),
                Err(error) => {
                    was_cut |= self.proxy.is_some() && error.kind() != io::ErrorKind::BrokenPipe;
                    self.proxy = None;
                    thread::sleep(Duration::from_millis(20));
                }
            }
        }
    }

    fn try_once(&mut self, request: &str) -> io::Result<String> {
        if self.proxy.is_none() {
            self.proxy = Some(Proxy::connect(self.socket)?);
        }
        match &mut self.proxy {
            Some(proxy) => proxy.ask(request),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

fn name(call: usize) -> String {
    format!("call-{call}")
}

fn run(call: usize, step: Step, worker: &mut Worker<'_>) -> Outcome {
    let (caller, callee) = ([Media::audio(CALLER)], [Media::audio(CALLEE)]);
    let call_id = name(call);
    let request = match step {
        Step::Offer => Message::offer(&call_id, &caller).update(),
        Step::Answer => Message::answer(&call_id, &callee).update(),
        Step::Bye => Message::answer(&call_id, &[]).remove(),
    };
    let (answer, was_cut) = worker.ask(&request);
    Outcome {
        call,
        step,
        answer,
        was_cut,
    }
}

/// One process' part of all requests, each at its time.
fn work(socket: &Path, number: usize, begin: Moment) -> Vec<Outcome> {
    let mut due = Vec::new();
    for call in (number..CALLS).step_by(WORKERS) {
        let offer = PACE * u32::try_from(call).unwrap();
        let times = [offer, offer + RING, offer + RING + TALK];
        let steps = [Step::Offer, Step::Answer, Step::Bye];
        due.extend(
            times
                .into_iter()
                .zip(steps)
                .map(|(at, step)| (at, call, step)),
        );
    }
    due.sort_unstable();
    let mut worker = Worker {
        socket,
        proxy: None,
    };
    let serve = |(at, call, step): (Duration, usize, Step)| {
        thread::sleep((begin + at).since(clock::moment()));
        run(call, step, &mut worker)
    };
    due.into_iter().map(serve).collect()
}

fn binaries() -> PathBuf {
    let dispatcher = Path::new(env!("CARGO_BIN_EXE_media-dispatcher"));
    dispatcher.parent().unwrap().to_owned()
}

fn records(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text.split_inclusive('\n');
    let whole = lines.filter(|line| line.ends_with('\n'));
    whole
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn s8_only_what_was_under_way_fails_when_the_dispatcher_is_killed_under_load() {
    let scratch = Scratch::new("mediaproxy-killed-dispatcher").unwrap();
    let directory = scratch.path();
    daemons::make_certificates(directory).unwrap();
    daemons::write_config(directory, PortRange::find(2000).unwrap()).unwrap();
    let lines = directory.join("calls.jsonl");
    let text = format!("accounting = file\n[File]\npath = {}\n", lines.display());
    daemons::extend_config(directory, &text).unwrap();
    let daemons = Daemons::start(&binaries(), directory).unwrap();
    let (socket, clients) = (daemons.control_socket(), daemons.management_socket());
    let Daemons {
        dispatcher, relay, ..
    } = daemons;
    let mut dispatcher = Some(dispatcher);
    let begin = clock::moment() + Duration::from_millis(100);
    let outcomes: Vec<Outcome> = thread::scope(|scope| {
        let socket = &socket;
        let workers: Vec<_> = (0..WORKERS)
            .map(|number| scope.spawn(move || work(socket, number, begin)))
            .collect();
        let mut random: u64 = 17;
        for kill in 1..=KILLS {
            random = random.wrapping_mul(6_364_136_223_846_793_005) + 1;
            let at = 1000 * kill + (random >> 33) % 500;
            thread::sleep((begin + Duration::from_millis(at)).since(clock::moment()));
            // It is killed when it is dropped.
            drop(dispatcher.take());
            dispatcher = Some(Daemon::start(&binaries(), "media-dispatcher", directory).unwrap());
        }
        let all = workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap());
        all.collect()
    });
    assert_eq!(outcomes.len(), 3 * CALLS);
    let mut cut: Vec<usize> = outcomes
        .iter()
        .filter(|one| one.was_cut)
        .map(|one| one.call)
        .collect();
    cut.sort_unstable();
    let failed = outcomes.iter().filter(|one| one.answer == "error");
    let (excused, failed): (Vec<&Outcome>, Vec<&Outcome>) =
        failed.partition(|one| cut.binary_search(&one.call).is_ok());
    // Relays try ever later after a link that was up for less than ten seconds, so that a dispatcher has none for longer
    // than the proxy would wait: what is new just then is refused, as where there is no relay.
    let (new, unexcused): (Vec<&Outcome>, Vec<&Outcome>) =
        failed.into_iter().partition(|one| one.step == Step::Offer);
    println!(
        "{} requests cut, {} of their calls refused; {} new calls without a relay",
        cut.len(),
        excused.len(),
        new.len()
    );
    let is_without = |one: &&Outcome| new.iter().any(|new| new.call == one.call);
    let unexcused: Vec<&Outcome> = unexcused
        .into_iter()
        .filter(|one| !is_without(one))
        .collect();
    assert!(
        unexcused.is_empty() && new.len() < CALLS / 10,
        "{unexcused:?} {new:?}"
    );
    let is_answered = |one: &&Outcome| one.step == Step::Answer && one.answer != "error";
    let expected: BTreeMap<String, usize> = outcomes
        .iter()
        .filter(is_answered)
        .map(|one| (name(one.call), 1))
        .collect();
    // A removal that was cut and is not known when it comes again: the relay tells how the call ended.
    let end = clock::moment() + PATIENCE;
    let sessions =
        || management::ask(&clients, "sessions").unwrap_or_else(|error| vec![error.to_string()]);
    while !sessions().is_empty() || records(&lines).len() < expected.len() {
        let (left, told) = (sessions(), records(&lines).len());
        assert!(clock::moment() < end, "{told} accounted, left: {left:?}");
        thread::sleep(Duration::from_millis(50));
    }
    relay.stop().unwrap();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for record in records(&lines) {
        *counts
            .entry(record["call_id"].as_str().unwrap().to_owned())
            .or_default() += 1;
        assert_eq!(record["timed_out"], false, "{record}");
    }
    assert_eq!(counts, expected);
    drop(dispatcher);
}
