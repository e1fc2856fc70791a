//! Normal calls: set up in both orders, answered, talked on, changed and removed, all the time. Each request is timed, each
//! packet is counted, and whatever goes wrong is told with its cause.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mediaproxy::moment::Moment;
use mediaproxy::sys::clock;

use super::field::Target;
use super::pace::Going;
use super::watch::{NORMAL, waited};
use crate::support::management;
use crate::support::proxy::Proxy;

/// Connections of the SIP proxy, each with one request at a time.
const WORKERS: u64 = 2;
/// How often each begins a call.
const BETWEEN: Duration = Duration::from_millis(125);
/// Calls that are there all the time, by their first worker.
const STANDING: u64 = 6;
/// A SIP proxy waits so long for an answer.
const PROXY_LIMIT: Duration = Duration::from_millis(500);
/// What is sent last has so long to arrive, and longer where it has not.
const LAST: Duration = Duration::from_millis(150);
const STRAGGLERS: Duration = Duration::from_secs(1);
/// How often all phones look at their sockets.
const TICK: Duration = Duration::from_millis(5);
/// 20 ms of speech.
const PERIOD: Duration = Duration::from_millis(20);
const PACKET: usize = 172;
/// Times in a call: until it is answered, and how long is talked before and after its change.
const RINGING: Duration = Duration::from_millis(40);
const TALKING: Duration = Duration::from_millis(250);
/// Faults of which the cause is asked; of the others it is said that they were.
const EXPLAINED: usize = 40;

/// One phone of a call.
struct Phone {
    socket: UdpSocket,
    /// The relay's port for it while it talks, else 0.
    port: u16,
    next: Moment,
    sent: u32,
    /// How often each packet of the other has come.
    seen: Vec<u8>,
    /// What came and is none of the other's.
    crossed: u32,
}

impl Phone {
    fn new() -> Phone {
        Phone {
            socket: socket(),
            port: 0,
            next: Moment::START,
            sent: 0,
            seen: Vec::new(),
            crossed: 0,
        }
    }

    fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// Takes what has come; `name` is the other's.
    fn take(&mut self, name: u32) {
        let mut buffer = [0; 2048];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let word = |at: usize| {
                let bytes = buffer[..length].get(at..at + 4);
                bytes.map(|bytes| u32::from_be_bytes(bytes.try_into().unwrap()))
            };
            match (word(8), word(12)) {
                (Some(from), Some(number)) if from == name && length == PACKET => {
                    let index = number as usize;
                    if self.seen.len() <= index {
                        self.seen.resize(index + 1, 0);
                    }
                    self.seen[index] = self.seen[index].saturating_add(1);
                }
                _ => self.crossed += 1,
            }
        }
    }

    /// Sends a packet where one is due.
    fn talk(&mut self, name: u32, now: Moment) {
        if self.port == 0 || now < self.next {
            return;
        }
        self.next = match self.next + PERIOD {
            // This program was kept from running: nothing is made up for.
            late if late + PERIOD < now => now + PERIOD,
            next => next,
        };
        let mut packet = [0x55; PACKET];
        packet[..2].copy_from_slice(&[0x80, 8]);
        packet[2..4].copy_from_slice(&(self.sent as u16).to_be_bytes());
        packet[4..8].copy_from_slice(&(self.sent.wrapping_mul(160)).to_be_bytes());
        packet[8..12].copy_from_slice(&name.to_be_bytes());
        packet[12..16].copy_from_slice(&self.sent.to_be_bytes());
        let sent = self
            .socket
            .send_to(&packet, (Ipv4Addr::LOCALHOST, self.port));
        self.sent += u32::from(sent.is_ok());
    }
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// Caller and callee of a call.
struct Phones {
    number: u32,
    ends: [Phone; 2],
}

impl Phones {
    /// What each end's packets are named.
    fn name(&self, end: u32) -> u32 {
        self.number << 1 | end
    }

    fn take(&mut self) {
        for end in [0, 1] {
            let other = self.name(1 - end);
            self.ends[end as usize].take(other);
        }
    }

    fn tick(&mut self, now: Moment) {
        self.take();
        for end in [0, 1] {
            let name = self.name(end);
            self.ends[end as usize].talk(name, now);
        }
    }

    fn talk_to(&mut self, ports: [u16; 2]) {
        let now = clock::moment();
        for (end, port) in self.ends.iter_mut().zip(ports) {
            (end.port, end.next) = (port, now);
        }
    }

    fn be_quiet(&mut self) {
        self.talk_to([0, 0]);
    }

    fn sum(&self) -> Sum {
        let mut sum = Sum::default();
        for (end, other) in [(0, 1), (1, 0)] {
            let came = &self.ends[other].seen;
            let sent = u64::from(self.ends[end].sent);
            let once = came.iter().filter(|count| **count > 0).count() as u64;
            sum.sent += sent;
            sum.lost += sent.saturating_sub(once);
            sum.doubled += came.iter().filter(|count| **count > 1).count() as u64;
            sum.crossed += u64::from(self.ends[other].crossed);
        }
        sum
    }
}

/// Waits until all that was sent has arrived, or for as long as that may take.
fn arrived(phones: &Mutex<Phones>) -> Sum {
    let end = clock::moment() + STRAGGLERS;
    loop {
        let sum = {
            let mut phones = lock(phones);
            phones.take();
            phones.sum()
        };
        if sum.lost == 0 || clock::moment() > end {
            return sum;
        }
        thread::sleep(TICK);
    }
}

/// Packets of calls that are over.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    pub sent: u64,
    pub lost: u64,
    pub doubled: u64,
    /// Packets of nobody's, or of another call, that a phone was given.
    pub crossed: u64,
}

impl Sum {
    fn add(&mut self, other: Sum) {
        self.sent += other.sent;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.crossed += other.crossed;
    }
}

/// What normal calls have seen.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Calls that were answered and are over.
    pub calls: u64,
    /// Their Call-IDs: each is to be recorded once. And those of calls whose answer was refused or came too late: it may have
    /// been served all the same.
    pub answered: Vec<String>,
    pub doubtful: Vec<String>,
    /// Of each `update`, how long its answer took.
    pub setups: Vec<Duration>,
    /// Of each `remove`.
    pub removals: Vec<Duration>,
    pub packets: Sum,
    /// Requests that were refused or had a wrong answer, each with its cause.
    pub errors: Vec<String>,
    /// Calls of which packets were lost, doubled or crossed, each with its cause.
    pub media: Vec<String>,
    /// Answers for which no SIP proxy would have waited, each with what is known of it.
    pub late: Vec<String>,
}

/// What may go wrong for a call.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Error,
    Media,
    Late,
}

impl Figures {
    fn of(&mut self, fault: Fault) -> &mut Vec<String> {
        match fault {
            Fault::Error => &mut self.errors,
            Fault::Media => &mut self.media,
            Fault::Late => &mut self.late,
        }
    }

    /// The time that so many of a hundred stay below.
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut all = self.setups.clone();
        all.sort_unstable();
        let index = (all.len() * percent).div_ceil(100).saturating_sub(1);
        all.get(index).copied().unwrap_or_default()
    }

    pub fn longest(&self) -> Duration {
        let all = self.setups.iter().chain(&self.removals);
        all.max().copied().unwrap_or_default()
    }
}

/// Calls going on.
pub struct Load {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    media: Option<JoinHandle<()>>,
}

struct Shared {
    target: Arc<Target>,
    /// No new call begins when it ends; the media goes on until all are over.
    placing: Going,
    media: Going,
    talking: Mutex<Vec<Arc<Mutex<Phones>>>>,
    figures: Mutex<Figures>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name of a standing call and of its dialog: what an attacker may have heard of.
pub fn standing(index: u64) -> (String, String) {
    (
        format!("{NORMAL}standing-{index}"),
        (7_700_000 + index).to_string(),
    )
}

impl Load {
    pub fn start(target: &Arc<Target>) -> Load {
        let shared = Arc::new(Shared {
            target: target.clone(),
            placing: Going::default(),
            media: Going::default(),
            talking: Mutex::default(),
            figures: Mutex::default(),
        });
        let media = {
            let shared = shared.clone();
            thread::spawn(move || shared.relay_media())
        };
        let workers = (0..WORKERS).map(|index| {
            let shared = shared.clone();
            thread::spawn(move || Worker::new(shared, index).run())
        });
        Load {
            workers: workers.collect(),
            shared,
            media: Some(media),
        }
    }

    /// So far, of calls that are over.
    pub fn figures(&self) -> Figures {
        lock(&self.shared.figures).clone()
    }

    /// Ends all calls as their parties would.
    pub fn finish(mut self) -> Figures {
        self.end();
        let figures = lock(&self.shared.figures);
        figures.clone()
    }

    fn end(&mut self) {
        self.shared.placing.end();
        for worker in self.workers.drain(..) {
            worker.join().expect("a worker of the proxy");
        }
        self.shared.media.end();
        if let Some(media) = self.media.take() {
            media.join().expect("the phones");
        }
    }

    /// Calls for so long.
    pub fn run(target: &Arc<Target>, length: Duration) -> Figures {
        let load = Load::start(target);
        thread::sleep(length);
        load.finish()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.placing.end();
        self.shared.media.end();
    }
}

impl Shared {
    fn relay_media(&self) {
        while self.media.is_on() {
            let talking = lock(&self.talking).clone();
            for phones in talking {
                lock(&phones).tick(clock::moment());
            }
            thread::sleep(TICK);
        }
    }

    /// Notes something that went wrong, and what is known of why.
    fn note(&self, fault: Fault, what: String, call_id: &str) {
        let told = lock(&self.figures).of(fault).len();
        let cause = match told {
            0..EXPLAINED => self.cause(call_id),
            _ => "not asked, after so many".to_owned(),
        };
        let text = format!("{what}; {cause}");
        lock(&self.figures).of(fault).push(text);
    }

    /// What `explain` and the logs say of a call.
    fn cause(&self, call_id: &str) -> String {
        let asked = format!("explain {call_id}");
        let explained = match management::ask(&self.target.management_socket, &asked) {
            Ok(lines) => lines.into_iter().take(4).collect::<Vec<_>>().join(" / "),
            Err(error) => format!("not explained: {error}"),
        };
        let lines: Vec<String> = self
            .target
            .logs
            .iter()
            .flat_map(|log| log.about(call_id))
            .collect();
        format!("explain: {explained}; log: {}", lines.join(" / "))
    }
}

/// What is to be done next in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// The second SDP of the opening exchange.
    Answer,
    /// A re-INVITE, of which every fourth is from another address.
    Change,
    Quiet,
    Remove,
}

struct Call {
    id: String,
    dialog: String,
    number: u64,
    is_standing: bool,
    phones: Arc<Mutex<Phones>>,
    /// The relay's ports for caller and callee.
    ports: [u16; 2],
    /// Its answer had an answer.
    is_answered: bool,
}

impl Call {
    /// The callee makes the offer, in its reply.
    fn is_late_offer(&self) -> bool {
        self.number % 2 == 1
    }

    fn moves(&self) -> bool {
        self.number % 4 == 3
    }

    fn update(&self, kind: &str, cseq: u32, to_tag: &str, end: usize) -> String {
        let address = lock(&self.phones).ends[end].address();
        let number = self.number;
        format!(
            "update\r\ntype: {kind}\r\ndialog_id: {}\r\ncall_id: {}\r\ncseq: {cseq}\r\nfrom_uri: alice{number}@example.com\r\n\
             to_uri: bob{number}@example.com\r\nfrom_tag: from\r\nto_tag: {to_tag}\r\nuser_agent: phone\r\n\
             signaling_ip: 127.0.0.1\r\nmedia_relay: 127.0.0.1\r\nmedia: audio:{}:{}:sendrecv:ice=no\r\n\r\n",
            self.dialog,
            self.id,
            address.ip(),
            address.port(),
        )
    }
}

/// One connection of the SIP proxy and its calls.
struct Worker {
    shared: Arc<Shared>,
    proxy: Option<Proxy>,
    index: u64,
    calls: BTreeMap<u64, Call>,
    due: Vec<(Moment, u64, Step)>,
}

/// Numbers of calls, never the same twice in one process: what is late is of nobody else.
static NUMBER: AtomicU64 = AtomicU64::new(1);

impl Worker {
    fn new(shared: Arc<Shared>, index: u64) -> Worker {
        Worker {
            shared,
            proxy: None,
            index,
            calls: BTreeMap::new(),
            due: Vec::new(),
        }
    }

    fn run(&mut self) {
        let mut next = clock::moment() + BETWEEN * self.index as u32 / WORKERS as u32;
        if self.index == 0 {
            for index in 0..STANDING {
                self.begin(Some(index));
            }
        }
        while self.shared.placing.is_on() {
            let now = clock::moment();
            if now >= next {
                self.begin(None);
                // What the dispatcher was too slow for is not made up for.
                next = (next + BETWEEN).max(now);
            }
            self.step();
            let first = self.due.iter().map(|(when, ..)| *when).min();
            let until = first.unwrap_or(next).min(next);
            self.shared.placing.pause(until.since(clock::moment()));
        }
        for (number, _) in self.calls.iter().filter(|(_, call)| call.is_standing) {
            self.due.push((clock::moment(), *number, Step::Quiet));
        }
        while let Some(first) = self.due.iter().map(|(when, ..)| *when).min() {
            thread::sleep(first.since(clock::moment()));
            self.step();
        }
    }

    /// Sends a request, notes its time, and gives the answer; none where there is no good one.
    fn ask(&mut self, what: &str, call_id: &str, request: &str) -> Option<String> {
        let target = &self.shared.target;
        let before = waited();
        let start = clock::moment();
        let answer = match self
            .proxy
            .take()
            .map_or_else(|| Proxy::connect(&target.control), Ok)
        {
            Ok(mut proxy) => proxy.ask(request).inspect(|_| self.proxy = Some(proxy)),
            Err(error) => Err(error),
        };
        let taken = clock::moment() - start;
        {
            let mut figures = lock(&self.shared.figures);
            match what {
                "remove" => figures.removals.push(taken),
                _ => figures.setups.push(taken),
            }
        }
        if taken > PROXY_LIMIT {
            let own = waited().saturating_sub(before);
            let what = format!(
                "{what} of {call_id}: {} ms, of which this program waited {} ms for a processor",
                taken.as_millis(),
                own.as_millis()
            );
            self.shared.note(Fault::Late, what, call_id);
        }
        match answer {
            Ok(answer) if answer != "error" => Some(answer),
            Ok(answer) => {
                self.shared.note(
                    Fault::Error,
                    format!("{what} of {call_id}: {answer}"),
                    call_id,
                );
                None
            }
            Err(error) => {
                self.shared.note(
                    Fault::Error,
                    format!("{what} of {call_id}: {error}"),
                    call_id,
                );
                None
            }
        }
    }

    fn update(&mut self, what: &str, call_id: &str, request: &str) -> Option<u16> {
        let answer = self.ask(what, call_id, request)?;
        let port = answer
            .split_once(' ')
            .and_then(|(_, port)| port.parse().ok());
        if port.is_none() {
            self.shared.note(
                Fault::Error,
                format!("{what} of {call_id}: {answer:?}"),
                call_id,
            );
        }
        port
    }

    fn begin(&mut self, index: Option<u64>) {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let (id, dialog) = match index {
            Some(index) => standing(index),
            None => (
                format!("{NORMAL}{number}"),
                (1_000_000 + number).to_string(),
            ),
        };
        let phones = Phones {
            number: number as u32,
            ends: [Phone::new(), Phone::new()],
        };
        let mut call = Call {
            id,
            dialog,
            number,
            is_standing: index.is_some(),
            phones: Arc::new(Mutex::new(phones)),
            ports: [0, 0],
            is_answered: false,
        };
        let (from, request) = if call.is_late_offer() {
            (1, call.update("reply", 1, "to", 1))
        } else {
            (0, call.update("request", 1, "", 0))
        };
        let what = ["offer", "late offer"][from];
        let Some(port) = self.update(what, &call.id, &request) else {
            return;
        };
        // The port that the other one is told.
        call.ports[1 - from] = port;
        self.due
            .push((clock::moment() + RINGING, number, Step::Answer));
        self.calls.insert(number, call);
    }

    /// Does what is due first, if anything is.
    fn step(&mut self) {
        let Some(at) = (0..self.due.len()).min_by_key(|at| self.due[*at].0) else {
            return;
        };
        if self.due[at].0 > clock::moment() {
            return;
        }
        let (_, number, step) = self.due.swap_remove(at);
        let Some(mut call) = self.calls.remove(&number) else {
            return;
        };
        let (next, pause) = match step {
            Step::Answer => self.answer(&mut call),
            Step::Change => self.change(&mut call),
            Step::Quiet => {
                lock(&call.phones).be_quiet();
                (Some(Step::Remove), LAST)
            }
            Step::Remove => {
                self.remove(&call);
                return;
            }
        };
        if let Some(next) = next {
            self.due.push((clock::moment() + pause, number, next));
        }
        self.calls.insert(number, call);
    }

    fn answer(&mut self, call: &mut Call) -> (Option<Step>, Duration) {
        let (from, request) = if call.is_late_offer() {
            (0, call.update("request", 1, "to", 0))
        } else {
            (1, call.update("reply", 1, "to", 1))
        };
        let what = ["late answer", "answer"][from];
        let Some(port) = self.update(what, &call.id, &request) else {
            return (Some(Step::Remove), Duration::ZERO);
        };
        call.ports[1 - from] = port;
        call.is_answered = true;
        lock(&call.phones).talk_to(call.ports);
        lock(&self.shared.talking).push(call.phones.clone());
        if call.is_standing {
            (None, Duration::ZERO)
        } else {
            (Some(Step::Change), TALKING)
        }
    }

    fn change(&mut self, call: &mut Call) -> (Option<Step>, Duration) {
        if call.moves() {
            // What is under way arrives before the streams change.
            lock(&call.phones).be_quiet();
            arrived(&call.phones);
            lock(&call.phones).ends[0].socket = socket();
        }
        let offer = call.update("request", 2, "to", 0);
        let answer = call.update("reply", 2, "to", 1);
        let for_callee = self.update("re-INVITE", &call.id, &offer);
        let for_caller = self.update("its answer", &call.id, &answer);
        let (Some(for_caller), Some(for_callee)) = (for_caller, for_callee) else {
            return (Some(Step::Quiet), Duration::ZERO);
        };
        let ports = [for_caller, for_callee];
        if (ports != call.ports) != call.moves() {
            let what = format!(
                "re-INVITE of {}: ports {:?}, then {ports:?}",
                call.id, call.ports
            );
            self.shared.note(Fault::Error, what, &call.id);
        }
        call.ports = ports;
        if call.moves() {
            lock(&call.phones).talk_to(ports);
        }
        (Some(Step::Quiet), TALKING)
    }

    fn remove(&mut self, call: &Call) {
        let sum = arrived(&call.phones);
        if sum.lost + sum.doubled + sum.crossed > 0 {
            let what = format!("media of {}: {sum:?}", call.id);
            self.shared.note(Fault::Media, what, &call.id);
        }
        lock(&self.shared.talking).retain(|phones| !Arc::ptr_eq(phones, &call.phones));
        let request = format!(
            "remove\r\ncall_id: {}\r\nfrom_tag: from\r\nto_tag: to\r\n\r\n",
            call.id
        );
        self.ask("remove", &call.id, &request);
        let mut figures = lock(&self.shared.figures);
        figures.calls += u64::from(call.is_answered);
        if call.is_answered {
            figures.answered.push(call.id.clone());
        } else {
            figures.doubtful.push(call.id.clone());
        }
        figures.packets.add(sum);
    }
}
