//! Relays that end and others that take over what they left: processes of their own, the real kernel and real packets, in
//! network namespaces of the test's own; with root only.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::messages::{
    CALLEE, CALLEE_SIDE, CALLER, CALLER_SIDE, HEADERS, MARK, MASK, TABLE, in_namespace, party_with,
};
use crate::config::Forwarding;
use crate::counters::Counters;
use crate::diagnosis::requirements::Wanted;
use crate::netlink::socket::Netfilter;
use crate::proto::{Component, PerParty};
use crate::relay::kernel::conntrack::table::{ABANDONED, FORWARDED, LEAVING};
use crate::relay::kernel::flow::{Ends, Flow, FlowKey};
use crate::relay::kernel::handle::KernelHandle;
use crate::relay::kernel::order::Order;
use crate::relay::kernel::{Opened, Settings, open, start};
use crate::session::{FlowEnd, FlowId, FlowNews, Installed, SessionKey};
use crate::sys::clock;

const PATIENCE: Duration = Duration::from_secs(20);

/// What tells a process of the tests to be a relay, and what kind.
const ROLE: &str = "MEDIAPROXY_TEST_RELAY";

fn settings(protect: bool, last_port: u32) -> Settings {
    Settings {
        wanted: Wanted {
            relay_ip: CALLER_SIDE,
            auto_detect: true,
            port_range: (40000, last_port),
            mark: MARK,
            mark_mask: MASK,
        },
        protect,
        shortest_silence: Duration::from_secs(90),
    }
}

fn ends(number: u16) -> Ends {
    let end = |remote, local, port| FlowEnd {
        remote,
        local: SocketAddr::new(local, port),
    };
    PerParty {
        caller: end(
            at_caller(number).into(),
            CALLER_SIDE.into(),
            40000 + 4 * number,
        ),
        callee: end(
            at_callee(number).into(),
            CALLEE_SIDE.into(),
            40002 + 4 * number,
        ),
    }
}

fn at_caller(number: u16) -> SocketAddrV4 {
    SocketAddrV4::new(CALLER, 30000 + number)
}

fn at_callee(number: u16) -> SocketAddrV4 {
    SocketAddrV4::new(CALLEE, 31000 + number)
}

fn key(number: u16) -> FlowKey {
    let flow = FlowId {
        session: SessionKey::for_tests(0),
        stream: number,
        component: Component::Rtp,
        turn: 1,
    };
    FlowKey { worker: 0, flow }
}

/// Packets and bytes of the caller, and then of the callee, as both sides of a pipe write them.
fn shown(counters: PerParty<Counters>) -> String {
    let PerParty { caller, callee } = counters;
    format!(
        "{} {} {} {}",
        caller.packets, caller.bytes, callee.packets, callee.bytes
    )
}

fn read_shown<'a>(words: &mut impl Iterator<Item = &'a str>) -> PerParty<Counters> {
    PerParty::of(|_| {
        let mut number = || words.next().unwrap().parse().unwrap();
        let packets = number();
        Counters {
            packets,
            bytes: number(),
        }
    })
}

/// No test of its own: the relay that the others start and end. It does what lines of its input say.
#[test]
fn a_relay_in_a_process_of_its_own() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let mut role = role.split(' ');
    let (keep, protect, last_port) = (role.next(), role.next(), role.next());
    let mut settings = settings(
        protect == Some("protect"),
        last_port.unwrap().parse().unwrap(),
    );
    if keep == Some("beside") {
        settings.wanted.port_range.0 = 50000;
    }
    let say = |line: String| {
        // In one piece, and past the harness.
        let _ = std::io::stdout().write_all(format!("@{line}\n").as_bytes());
    };
    let opened = open(&settings, Forwarding::Kernel, keep == Some("keep")).unwrap();
    let Opened::Kernel(ready) = opened else {
        panic!("no kernel");
    };
    let deliver = Box::new(move |_, news: Vec<FlowNews>| {
        for news in news {
            match news {
                FlowNews::Installed(flow, Installed::Taken) => {
                    say(format!("taken {}", flow.stream))
                }
                FlowNews::Traffic(flow, more) => {
                    say(format!("more {} {}", flow.stream, shown(more)))
                }
                FlowNews::Lost(flow, _, last) => {
                    say(format!("lost {} {}", flow.stream, shown(last)))
                }
                FlowNews::Withdrawn(flow, last) => {
                    say(format!("withdrawn {} {}", flow.stream, shown(last)));
                }
                FlowNews::CountedAnew => say("anew".to_owned()),
                FlowNews::Heard(_) | FlowNews::Mended => {}
                other @ FlowNews::Installed(..) => say(format!("refused {other:?}")),
            }
        }
    });
    let mut handle = KernelHandle::default();
    let orders = start(
        *ready,
        1,
        deliver,
        Arc::clone(&handle.pulse),
        Arc::clone(&handle.flows),
        Arc::clone(&handle.takeover),
    );
    handle.orders = Some(orders.unwrap());
    say("ready".to_owned());
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let mut words = line.split(' ');
        match words.next().unwrap() {
            "install" => {
                let number = words.next().unwrap().parse().unwrap();
                handle.order(Order::Install(key(number), ends(number)));
            }
            "adopt" => {
                let mut claimed = Vec::new();
                while let Some(number) = words.next() {
                    let number = number.parse().unwrap();
                    let flow = Flow {
                        key: key(number),
                        ends: ends(number),
                    };
                    claimed.push((flow, read_shown(&mut words)));
                }
                handle.adopt(claimed);
                handle.after_reading(move || say("adopted".to_owned()));
            }
            "counts" => {
                let counts = &handle.takeover;
                let (adopted, lost, swept) =
                    (counts.adopted.get(), counts.lost.get(), counts.swept.get());
                say(format!("counts {adopted} {lost} {swept}"));
            }
            "withdraw" => {
                let number = words.next().unwrap().parse().unwrap();
                handle.order(Order::Withdraw(key(number)));
            }
            "leave" => {
                let time = Duration::from_millis(words.next().unwrap().parse().unwrap());
                assert!(handle.leave(time, PATIENCE));
                say("left".to_owned());
                std::process::exit(0);
            }
            "quit" => {
                assert!(handle.quit(PATIENCE));
                say("quit".to_owned());
                std::process::exit(0);
            }
            other => panic!("{other}"),
        }
    }
    std::process::exit(1);
}

/// A relay in a process of its own, and what it has told of its flows.
struct Relay {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Relay {
    fn start(role: &str) -> Relay {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "--test-threads=1"])
            .arg("relay::kernel::conntrack::tests::takeover::a_relay_in_a_process_of_its_own")
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sender, lines) = crossbeam_channel::unbounded();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // The harness has its own to say, and not always a whole line.
                if let Some((_, line)) = line.split_once('@') {
                    let _ = sender.send(line.to_owned());
                }
            }
        });
        let mut relay = Relay {
            child,
            input,
            lines,
        };
        relay.until("ready", &mut BTreeMap::new());
        relay
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    /// Adds up what it tells until this line comes.
    fn until(&mut self, line: &str, told: &mut BTreeMap<u16, PerParty<Counters>>) {
        loop {
            let heard = self.lines.recv_timeout(PATIENCE);
            let heard = heard.unwrap_or_else(|_| panic!("{line}: waited in vain"));
            add(&heard, told);
            if heard.starts_with(line) {
                return;
            }
        }
    }

    /// `kill -9`; what it had told before is heard.
    fn kill(mut self, told: &mut BTreeMap<u16, PerParty<Counters>>) {
        self.child.kill().unwrap();
        self.end(told);
    }

    fn end(mut self, told: &mut BTreeMap<u16, PerParty<Counters>>) {
        self.child.wait().unwrap();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => add(&line, told),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => panic!("its output does not end"),
            }
        }
    }

    /// Claims these flows with what is known of them, and hears what has become of them.
    fn adopt(
        &mut self,
        numbers: impl Iterator<Item = u16>,
        known: &BTreeMap<u16, PerParty<Counters>>,
        told: &mut BTreeMap<u16, PerParty<Counters>>,
    ) {
        let mut line = "adopt".to_owned();
        for number in numbers {
            let known = known.get(&number).copied().unwrap_or_default();
            line += &format!(" {number} {}", shown(known));
        }
        self.say(&line);
        self.until("adopted", told);
    }

    /// Flows adopted, lost and swept.
    fn counts(&mut self, told: &mut BTreeMap<u16, PerParty<Counters>>) -> String {
        self.say("counts");
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap();
            add(&line, told);
            if let Some(counts) = line.strip_prefix("counts ") {
                return counts.to_owned();
            }
        }
    }
}

/// Adds up what a line tells of a flow.
fn add(line: &str, told: &mut BTreeMap<u16, PerParty<Counters>>) {
    let mut words = line.split(' ');
    let what = words.next();
    assert_ne!(what, Some("refused"), "{line}");
    if let Some("more" | "lost" | "withdrawn") = what {
        let number = words.next().unwrap().parse().unwrap();
        let more = read_shown(&mut words);
        let sum = told.entry(number).or_default();
        *sum = PerParty::of(|party| sum[party] + more[party]);
    }
}

/// Both parties of so many flows, who send all the time.
struct Media {
    stop: Arc<AtomicBool>,
    /// Packets that did not come, or not in order, so far.
    missing: Arc<AtomicU64>,
    thread: JoinHandle<Vec<[Way; 2]>>,
}

/// What one party has sent, and what came of it to the other one, in order.
#[derive(Debug, Default)]
struct Way {
    sent: u64,
    came: Vec<u64>,
}

impl Way {
    fn counters(&self, number: usize) -> Counters {
        let packets = self.came.len() as u64;
        Counters {
            packets,
            bytes: packets * (size(number) as u64 + HEADERS),
        }
    }
}

/// Bytes of payload of a flow's packets: of each flow another number.
fn size(number: usize) -> usize {
    20 + number
}

impl Media {
    fn start((callers, callees): Parties) -> Media {
        let flows = callers.len() as u16;
        let stop = Arc::new(AtomicBool::new(false));
        let missing = Arc::new(AtomicU64::new(0));
        let (is_over, found_missing) = (Arc::clone(&stop), Arc::clone(&missing));
        let thread = std::thread::spawn(move || {
            let mut ways: Vec<[Way; 2]> = (0..flows).map(|_| Default::default()).collect();
            while !is_over.load(Ordering::Relaxed) {
                for (number, way) in ways.iter_mut().enumerate() {
                    let ends = ends(number as u16);
                    send(&callers[number], ends.caller.local, &mut way[0], number);
                    send(&callees[number], ends.callee.local, &mut way[1], number);
                }
                for (number, way) in ways.iter_mut().enumerate() {
                    receive(&callees[number], &mut way[0]);
                    receive(&callers[number], &mut way[1]);
                }
                let missing = ways
                    .iter()
                    .flatten()
                    .map(|way| way.sent - way.came.len() as u64);
                found_missing.store(missing.sum(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
            // On veth a packet is there when it is sent.
            for (number, way) in ways.iter_mut().enumerate() {
                receive(&callees[number], &mut way[0]);
                receive(&callers[number], &mut way[1]);
            }
            ways
        });
        Media {
            stop,
            missing,
            thread,
        }
    }

    fn stop(self) -> Vec<[Way; 2]> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn send(from: &UdpSocket, to: SocketAddr, way: &mut Way, number: usize) {
    let mut packet = vec![0; size(number)];
    packet[..8].copy_from_slice(&way.sent.to_be_bytes());
    // Where nobody listens the socket tells of the answer to an earlier one; this one is sent then.
    if from.send_to(&packet, to).is_err() {
        from.send_to(&packet, to).unwrap();
    }
    way.sent += 1;
}

fn receive(socket: &UdpSocket, way: &mut Way) {
    let mut buffer = [0; 2048];
    socket.set_nonblocking(true).unwrap();
    while let Ok(length) = socket.recv(&mut buffer) {
        // The rest is late from the beginning.
        if length < 8 {
            continue;
        }
        way.came
            .push(u64::from_be_bytes(buffer[..8].try_into().unwrap()));
    }
}

/// Sockets of the callers and of the callees, by flow.
type Parties = (Vec<UdpSocket>, Vec<UdpSocket>);

/// A host that forwards, and parties that reach each other by it.
fn prepare() -> Parties {
    let up = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status();
    assert!(up.unwrap().success());
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    let callers = party_with("caller", CALLER_SIDE, (0..FLOWS).map(at_caller).collect());
    let callees = party_with("callee", CALLEE_SIDE, (0..FLOWS).map(at_callee).collect());
    // A wire that was just plugged in carries nothing for a while.
    reach(&callers[0], &callees[0], at_callee(0));
    reach(&callees[0], &callers[0], at_caller(0));
    (callers, callees)
}

/// Sends until something comes, and takes all of it in.
fn reach(from: &UdpSocket, other: &UdpSocket, at: SocketAddrV4) {
    let end = clock::moment() + PATIENCE;
    let mut buffer = [0; 8];
    other.set_nonblocking(true).unwrap();
    while other.recv(&mut buffer).is_err() {
        assert!(clock::moment() < end, "{at} is not reached");
        from.send_to(&[0], at).unwrap();
        pause(10);
    }
    while other.recv(&mut buffer).is_ok() {}
}

fn entries(netfilter: &mut Netfilter) -> usize {
    let mut count = 0;
    netfilter.dump(MARK, MASK, |_| count += 1).unwrap();
    count
}

fn pause(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

fn nft(arguments: &str) {
    let run = Command::new("nft")
        .args(arguments.split(' '))
        .output()
        .unwrap();
    assert!(run.status.success(), "nft {arguments}: {run:?}");
}

/// All packets came, once and in order, and that is what was told.
fn assert_whole(ways: &[[Way; 2]], told: &BTreeMap<u16, PerParty<Counters>>) {
    for (number, ways) in ways.iter().enumerate() {
        for way in ways {
            assert!(way.sent > 20, "next to nothing was sent");
            assert_eq!(way.came, (0..way.sent).collect::<Vec<_>>(), "flow {number}");
        }
    }
    assert_told(ways, told);
}

/// What came is what was told.
fn assert_told(ways: &[[Way; 2]], told: &BTreeMap<u16, PerParty<Counters>>) {
    for (number, [caller, callee]) in ways.iter().enumerate() {
        let came = [caller.counters(number), callee.counters(number)];
        let told = told.get(&(number as u16)).copied().unwrap_or_default();
        assert_eq!(<[Counters; 2]>::from(told), came, "flow {number}");
    }
}

const FLOWS: u16 = 8;

fn first_relay(role: &str) -> Relay {
    let mut relay = Relay::start(role);
    for number in 0..FLOWS {
        relay.say(&format!("install {number}"));
        relay.until("taken", &mut BTreeMap::new());
    }
    relay
}

#[test]
fn a_relay_that_is_killed_and_comes_back_loses_no_packet_and_counts_all() {
    for protect in ["protect", "open"] {
        in_namespace(move |netfilter| {
            let parties = prepare();
            let mut told = BTreeMap::new();
            let mut relay = first_relay(&format!("new {protect} 41000"));
            let media = Media::start(parties);
            for round in 0..6 {
                pause(100 + 37 * round);
                relay.kill(&mut told);
                pause(50 * (round % 3));
                relay = Relay::start(&format!("keep {protect} 41000"));
                // The state of before has what was counted at some time; nothing, or all that was told.
                let known = if round % 2 == 0 {
                    told.clone()
                } else {
                    told.clear();
                    BTreeMap::new()
                };
                relay.adopt(0..FLOWS, &known, &mut told);
                assert_eq!(relay.counts(&mut told), "8 0 0");
            }
            if protect == "protect" {
                // It is the owner again.
                nft("flush ruleset");
                let key = [[1; 16]];
                assert!(
                    netfilter
                        .transact(TABLE, |b| b.add(FORWARDED, key))
                        .is_err()
                );
            }
            pause(300);
            let ways = media.stop();
            for number in 0..FLOWS {
                relay.say(&format!("withdraw {number}"));
                relay.until("withdrawn", &mut told);
            }
            assert_whole(&ways, &told);
            assert_eq!(entries(netfilter), 0);
            assert_eq!(netfilter.elements(TABLE, FORWARDED).unwrap(), []);
            until_empty(netfilter, LEAVING);
            relay.say("quit");
            relay.until("quit", &mut told);
            assert!(!netfilter.has_table(TABLE).unwrap());
        });
    }
}

fn until_empty(netfilter: &mut Netfilter, set: &str) {
    let end = clock::moment() + PATIENCE;
    while !netfilter.elements(TABLE, set).unwrap().is_empty() {
        assert!(clock::moment() < end, "{set} is not emptied");
        pause(20);
    }
}

/// What was relayed by flows that are removed is not lost with a relay that dies before anybody has written that down.
#[test]
fn a_flow_that_was_just_removed_is_counted_by_the_next_relay() {
    in_namespace(|netfilter| {
        let parties = prepare();
        let mut relay = first_relay("new protect 41000");
        let media = Media::start(parties);
        pause(200);
        for number in 0..FLOWS {
            relay.say(&format!("withdraw {number}"));
            relay.until("withdrawn", &mut BTreeMap::new());
        }
        relay.kill(&mut BTreeMap::new());
        let mut told = BTreeMap::new();
        let mut relay = Relay::start("keep protect 41000");
        relay.adopt(0..FLOWS, &BTreeMap::new(), &mut told);
        assert_eq!(relay.counts(&mut told), "0 8 0");
        assert_told(&media.stop(), &told);
        assert_eq!(netfilter.elements(TABLE, LEAVING).unwrap(), []);
        relay.say("quit");
        relay.until("quit", &mut told);
    });
}

#[test]
fn what_is_left_for_a_time_goes_on_for_that_time_and_no_longer() {
    in_namespace(|netfilter| {
        let parties = prepare();
        let mut told = BTreeMap::new();
        let mut relay = first_relay("new protect 41000");
        let media = Media::start(parties);
        // Taken over in time: that is over then.
        pause(100);
        relay.say("leave 700");
        relay.until("left", &mut told);
        relay.end(&mut told);
        assert!(netfilter.has_chain(TABLE, ABANDONED).unwrap());
        let mut relay = Relay::start("keep protect 41000");
        assert!(!netfilter.has_chain(TABLE, ABANDONED).unwrap());
        relay.adopt(0..FLOWS, &told.clone(), &mut told);
        assert_eq!(relay.counts(&mut told), "8 0 0");
        pause(1000);
        assert_whole_so_far(&media);
        // Nobody comes.
        relay.say("leave 300");
        relay.until("left", &mut told);
        let left = clock::moment();
        relay.end(&mut told);
        let counted = |netfilter: &mut Netfilter| -> u64 {
            let elements = netfilter.elements(TABLE, LEAVING).unwrap();
            elements
                .iter()
                .map(|element| element.counters.packets)
                .sum()
        };
        let mut last = counted(netfilter);
        loop {
            pause(50);
            let now = counted(netfilter);
            if now == last {
                break;
            }
            last = now;
            assert!(clock::moment() < left + PATIENCE, "it goes on");
        }
        assert!(clock::moment() - left >= Duration::from_millis(300));
        let mut relay = Relay::start("keep protect 41000");
        assert!(!netfilter.has_chain(TABLE, ABANDONED).unwrap());
        relay.adopt(0..FLOWS, &told.clone(), &mut told);
        assert_eq!(relay.counts(&mut told), "0 8 8");
        assert_told(&media.stop(), &told);
        assert_eq!(entries(netfilter), 0);
        relay.say("quit");
        relay.until("quit", &mut told);
    });
}

fn assert_whole_so_far(media: &Media) {
    let lost = media.missing.load(Ordering::Relaxed);
    assert_eq!(lost, 0, "packets were lost");
}

#[test]
fn what_is_left_by_half_is_removed_and_what_is_not_the_relays_stays() {
    in_namespace(|netfilter| {
        let parties = prepare();
        let mut told = BTreeMap::new();
        let relay = first_relay("new protect 41000");
        // Another relay's, on the same host.
        let beside = Relay::start("beside protect 51000");
        let media = Media::start(parties);
        pause(200);
        relay.kill(&mut told);
        // Of one flow an element is gone, of another two, of a third its entry, of a fourth what it had counted one way.
        let enters = |number| ends(number).map(|end| set_key(end.remote, end.local));
        let leaves = |number| ends(number).map(|end| set_key(end.local, end.remote));
        nft(&format!(
            "delete element ip {TABLE} forwarded {{ {} }}",
            enters(0).callee
        ));
        nft(&format!(
            "delete element ip {TABLE} forwarded {{ {} }}",
            enters(1).callee
        ));
        nft(&format!(
            "delete element ip {TABLE} forwarded {{ {} }}",
            enters(1).caller
        ));
        conntrack(&format!(
            "-D -p udp --orig-src {CALLER} --orig-port-src {}",
            30002
        ));
        nft(&format!(
            "delete element ip {TABLE} leaving {{ {} }}",
            leaves(3).caller
        ));
        // Others' entries: of the range alone, and of the mark alone.
        conntrack("-I -p udp -s 192.0.2.7 -d 10.0.1.1 -t 60 --sport 1 --dport 40200");
        conntrack(
            "-I -p udp -s 192.0.2.7 -d 10.0.1.1 -t 60 --sport 1 --dport 52000 --mark 0x4d500000",
        );
        nft("add table ip somebodys");
        pause(100);
        let mut relay = Relay::start("keep protect 41000");
        relay.adopt(0..FLOWS, &BTreeMap::new(), &mut BTreeMap::new());
        // Packets that came in between have made entries in the place of the one that is gone.
        let counts = relay.counts(&mut told);
        assert!(counts.starts_with("4 4 "), "{counts}");
        let mut left = Vec::new();
        let note =
            |entry: crate::netlink::conntrack::Entry| left.push(entry.original.destination.port());
        netfilter.dump(0, 0, note).unwrap();
        left.retain(|port| *port >= 40000);
        left.sort_unstable();
        let ours = (4..FLOWS).map(|number| 40000 + 4 * number);
        assert_eq!(left, ours.chain([40200, 52000]).collect::<Vec<_>>());
        assert_eq!(netfilter.elements(TABLE, FORWARDED).unwrap().len(), 8);
        assert_eq!(netfilter.elements(TABLE, LEAVING).unwrap().len(), 8);
        assert!(netfilter.has_table("somebodys").unwrap());
        assert!(netfilter.has_table("mediaproxy_50000").unwrap());
        // Those that are whole have lost nothing.
        for ways in &media.stop()[4..] {
            for way in ways {
                assert_eq!(way.came, (0..way.sent).collect::<Vec<_>>());
            }
        }
        for mut relay in [relay, beside] {
            relay.say("quit");
            relay.until("quit", &mut told);
        }
    });
}

/// How nft writes a key of the relay's sets.
fn set_key(from: SocketAddr, to: SocketAddr) -> String {
    format!(
        "{} . {} . {} . {}",
        from.ip(),
        from.port(),
        to.ip(),
        to.port()
    )
}

fn conntrack(arguments: &str) {
    let run = Command::new("conntrack")
        .args(arguments.split(' '))
        .output()
        .unwrap();
    assert!(run.status.success(), "conntrack {arguments}: {run:?}");
}

#[test]
fn a_table_of_another_make_is_replaced_and_its_flows_are_told_to_the_packet() {
    for change in ["other settings", "flushed chain", "no table"] {
        in_namespace(move |netfilter| {
            let parties = prepare();
            let mut told = BTreeMap::new();
            let relay = first_relay("new open 41000");
            let media = Media::start(parties);
            pause(200);
            relay.kill(&mut told);
            told.clear();
            let mut role = "keep open 41000";
            match change {
                "other settings" => role = "keep open 41002",
                "flushed chain" => nft(&format!("flush chain ip {TABLE} nat_in")),
                _ => nft("flush ruleset"),
            }
            let mut relay = Relay::start(role);
            relay.adopt(0..FLOWS, &told.clone(), &mut told);
            assert_eq!(relay.counts(&mut told), "0 8 8");
            let ways = media.stop();
            if change != "no table" {
                assert_told(&ways, &told);
            }
            assert_eq!(entries(netfilter), 0);
            for set in [FORWARDED, LEAVING] {
                assert_eq!(netfilter.elements(TABLE, set).unwrap(), []);
            }
            relay.say("install 0");
            relay.until("taken", &mut told);
            relay.say("quit");
            relay.until("quit", &mut told);
        });
    }
}

/// Whether who sends to a port of the relay is told that nobody has it: within a moment, or within all this time.
fn is_refused(from: &UdpSocket, within: Duration) -> bool {
    let begun = clock::moment();
    while clock::moment().since(begun) < within {
        let sent = from.send(b"is somebody there?");
        pause(20);
        if sent.is_err() || from.take_error().unwrap().is_some() {
            return true;
        }
    }
    false
}

#[test]
fn who_sends_to_a_port_while_no_relay_is_there_is_not_told_so_before_the_time_is_up() {
    in_namespace(|_| {
        drop(prepare());
        let mut told = BTreeMap::new();
        // The kernel sends one error a second to each host: three hosts, one for each time.
        let hosts = (1..=3_u8).map(|number| {
            let side = std::net::Ipv4Addr::new(10, 9, number, 1);
            let at = SocketAddrV4::new(std::net::Ipv4Addr::new(10, 9, number, 2), 5000);
            let socket = party_with(&format!("host{number}"), side, vec![at]).remove(0);
            socket.connect((side, 40500)).unwrap();
            socket
        });
        // All of them before a relay looks for its addresses.
        let mut hosts = hosts.collect::<Vec<_>>().into_iter();
        let mut relay = Relay::start("new protect 41000");
        assert!(is_refused(&hosts.next().unwrap(), PATIENCE));
        relay.say("leave 60000");
        relay.until("left", &mut told);
        relay.end(&mut told);
        let host = hosts.next().unwrap();
        assert!(!is_refused(&host, Duration::from_secs(2)));
        let mut relay = Relay::start("keep protect 41000");
        relay.adopt(0..0, &BTreeMap::new(), &mut told);
        assert!(is_refused(&host, PATIENCE), "still kept from it");
        relay.say("leave 1");
        relay.until("left", &mut told);
        relay.end(&mut told);
        assert!(
            is_refused(&hosts.next().unwrap(), PATIENCE),
            "after the time"
        );
    });
}
