//! Phones that talk: RTP and RTCP sockets on loopback, paced packets that carry their flow, number and time of
//! sending, and books of what arrived, so that nothing lost, doubled or delivered to the wrong call goes unseen.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mediaproxy::moment::Moment;
use mediaproxy::proto::Component;
use mediaproxy::sys::clock;

/// How often a receiver looks whether it is to end.
const GLANCE: Duration = Duration::from_millis(100);
/// RTP header (RFC 3550 section 5.1); the marks of a packet follow it.
const RTP_HEADER: usize = 12;
/// An empty receiver report and the head of an APP packet (RFC 3550 sections 6.4.2 and 6.7).
const RTCP_HEADER: usize = 8 + 12;
/// Flow, number and time of sending.
const MARKS: usize = 16;

/// What is said, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Talk {
    pub payload_type: u8,
    /// Bytes after the RTP header.
    pub payload: usize,
    pub interval: Duration,
}

/// 20 ms of G.711 A-law.
pub const AUDIO: Talk = Talk {
    payload_type: 8,
    payload: 160,
    interval: Duration::from_millis(20),
};

/// About 0.7 Mbit/s of something modern.
pub const VIDEO: Talk = Talk {
    payload_type: 96,
    payload: 1000,
    interval: Duration::from_millis(11),
};

/// RTCP from each phone; real ones wait some five seconds, a demo is short.
const RTCP_INTERVAL: Duration = Duration::from_millis(250);

/// What arrived of one flow.
#[derive(Debug, Default)]
pub struct Received {
    /// By number: how often it came.
    counts: Vec<u8>,
    /// Packets of another flow, or of none.
    pub crossed: u64,
    /// Each first arrival's time on the way.
    delays: Vec<Duration>,
}

/// The sum of one flow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    pub sent: u64,
    pub received: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub crossed: u64,
    pub median: Duration,
    pub longest: Duration,
}

impl Sum {
    /// Everything arrived once, and nothing else did.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.duplicated == 0 && self.crossed == 0
    }
}

impl Received {
    fn note(&mut self, number: u32, delay: Duration) {
        let index = number as usize;
        if self.counts.len() <= index {
            self.counts.resize(index + 1, 0);
        }
        if self.counts[index] == 0 {
            self.delays.push(delay);
        }
        self.counts[index] = self.counts[index].saturating_add(1);
    }

    fn sum(&self, sent: u64) -> Sum {
        let received = self.delays.len() as u64;
        let mut delays = self.delays.clone();
        delays.sort_unstable();
        let more = |count: &u8| u64::from(count.saturating_sub(1));
        Sum {
            sent,
            received,
            lost: sent.saturating_sub(received),
            duplicated: self.counts.iter().map(more).sum(),
            crossed: self.crossed,
            median: delays.get(delays.len() / 2).copied().unwrap_or_default(),
            longest: delays.last().copied().unwrap_or_default(),
        }
    }
}

/// An RTP socket on an even port and an RTCP socket above it.
fn bind_pair() -> io::Result<[UdpSocket; 2]> {
    for _ in 0..1000 {
        let rtp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = rtp.local_addr()?.port();
        if port % 2 == 0 {
            if let Ok(rtcp) = UdpSocket::bind((Ipv4Addr::LOCALHOST, port + 1)) {
                return Ok([rtp, rtcp]);
            }
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

/// One party's side of one stream.
pub struct Leg {
    talk: Talk,
    /// Names the flow that this leg sends; the other party's leg has the one beside it.
    flow: u32,
    /// RTP and RTCP; others after the party has moved.
    sockets: Mutex<[Arc<UdpSocket>; 2]>,
    /// The relay's RTP port for this party; 0 until it is known.
    target: AtomicU16,
    talking: AtomicBool,
    /// By component.
    sent: [AtomicU32; 2],
    received: [Mutex<Received>; 2],
}

impl Leg {
    /// Binds its sockets. `number` is even for the caller's leg and one above for the callee's.
    pub fn new(talk: Talk, number: u32) -> io::Result<Leg> {
        let sockets = bind_pair()?.map(Arc::new);
        Ok(Leg {
            talk,
            flow: number,
            sockets: Mutex::new(sockets),
            target: AtomicU16::new(0),
            talking: AtomicBool::new(false),
            sent: Default::default(),
            received: Default::default(),
        })
    }

    /// What its SDP says.
    pub fn address(&self) -> io::Result<SocketAddrV4> {
        let port = lock(&self.sockets)[0].local_addr()?.port();
        Ok(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
    }

    /// The relay's port in the SDP that this party received. It talks from now on.
    pub fn talk_to(&self, port: u16) {
        self.target.store(port, Ordering::Relaxed);
        self.talking.store(true, Ordering::Release);
    }

    pub fn be_quiet(&self) {
        self.talking.store(false, Ordering::Release);
    }

    /// What it sent and the other did or did not receive, of RTP or RTCP.
    pub fn sum_towards(&self, other: &Leg, component: Component) -> Sum {
        let sent = self.sent[component as usize].load(Ordering::Acquire);
        lock(&other.received[component as usize]).sum(u64::from(sent))
    }

    /// Sends one packet from where it is now. Only what the kernel took counts as sent.
    fn send(&self, component: Component) {
        let port = self.target.load(Ordering::Relaxed);
        if port == 0 || !self.talking.load(Ordering::Acquire) {
            return;
        }
        let number = self.sent[component as usize].load(Ordering::Relaxed);
        let packet = self.packet(component, number);
        let socket = lock(&self.sockets)[component as usize].clone();
        let to = (Ipv4Addr::LOCALHOST, port + component as u16);
        if socket.send_to(&packet, to).is_ok() {
            self.sent[component as usize].store(number + 1, Ordering::Release);
        }
    }

    fn packet(&self, component: Component, number: u32) -> Vec<u8> {
        let ssrc = self.flow.to_be_bytes();
        let mut data = Vec::with_capacity(RTP_HEADER + self.talk.payload);
        let length = match component {
            Component::Rtp => {
                let samples = number.wrapping_mul(160).to_be_bytes();
                data.extend([0x80, self.talk.payload_type]);
                data.extend((number as u16).to_be_bytes());
                data.extend(samples);
                data.extend(ssrc);
                RTP_HEADER + self.talk.payload
            }
            Component::Rtcp => {
                data.extend([0x80, 201, 0, 1]);
                data.extend(ssrc);
                data.extend([0x80, 204, 0, 6]);
                data.extend(ssrc);
                data.extend(b"mark");
                RTCP_HEADER + MARKS
            }
        };
        data.extend(ssrc);
        data.extend(number.to_be_bytes());
        data.extend((clock::moment().since_start().as_nanos() as u64).to_be_bytes());
        data.resize(length, 0x55);
        data
    }

    /// Takes a packet that arrived; the other party's of the same stream is expected.
    fn take(&self, component: Component, data: &[u8]) {
        let header = match component {
            Component::Rtp => RTP_HEADER,
            Component::Rtcp => RTCP_HEADER,
        };
        let mut received = lock(&self.received[component as usize]);
        match marks(data.get(header..).unwrap_or_default()) {
            Some((flow, number, time)) if flow == self.flow ^ 1 => {
                received.note(number, clock::moment().since(time));
            }
            _ => received.crossed += 1,
        }
    }
}

fn marks(data: &[u8]) -> Option<(u32, u32, Moment)> {
    let (flow, rest) = data.split_first_chunk()?;
    let (number, rest) = rest.split_first_chunk()?;
    let (time, _) = rest.split_first_chunk()?;
    let time = Moment::after_start(Duration::from_nanos(u64::from_be_bytes(*time)));
    Some((u32::from_be_bytes(*flow), u32::from_be_bytes(*number), time))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The threads that send and receive for a number of legs, until dropped.
pub struct Phones {
    ending: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Phones {
    /// All legs that there will be; they are quiet until they know where to talk to.
    pub fn start(legs: Vec<Arc<Leg>>) -> io::Result<Phones> {
        let phones = Phones {
            ending: Arc::new(AtomicBool::new(false)),
            threads: Mutex::new(Vec::new()),
        };
        for leg in &legs {
            phones.listen(leg)?;
        }
        let ending = phones.ending.clone();
        let sender = thread::spawn(move || send_paced(&legs, &ending));
        lock(&phones.threads).push(sender);
        Ok(phones)
    }

    /// The party goes on from other sockets, as after a change of network. Quiet until it knows where to talk to.
    pub fn move_leg(&self, leg: &Arc<Leg>) -> io::Result<()> {
        leg.be_quiet();
        let sockets = bind_pair()?.map(Arc::new);
        *lock(&leg.sockets) = sockets;
        self.listen(leg)
    }

    fn listen(&self, leg: &Arc<Leg>) -> io::Result<()> {
        let sockets = lock(&leg.sockets).clone();
        for (socket, component) in sockets.into_iter().zip([Component::Rtp, Component::Rtcp]) {
            socket.set_read_timeout(Some(GLANCE))?;
            let (leg, ending) = (leg.clone(), self.ending.clone());
            let receiver = thread::spawn(move || {
                let mut buffer = [0; 2048];
                while !ending.load(Ordering::Relaxed) {
                    if let Ok(length) = socket.recv(&mut buffer) {
                        leg.take(component, &buffer[..length]);
                    }
                }
            });
            lock(&self.threads).push(receiver);
        }
        Ok(())
    }
}

impl Drop for Phones {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        for thread in lock(&self.threads).drain(..) {
            let _ = thread.join();
        }
    }
}

/// One thread sends for all: each leg's RTP and RTCP at its own pace.
fn send_paced(legs: &[Arc<Leg>], ending: &AtomicBool) {
    let start = clock::moment();
    let mut due: Vec<(Moment, usize, Component)> = Vec::new();
    for (index, leg) in legs.iter().enumerate() {
        // Spread over the interval, as calls are.
        let offset = leg.talk.interval * index as u32 / legs.len() as u32;
        due.push((start + offset, index, Component::Rtp));
        due.push((start + offset, index, Component::Rtcp));
    }
    while !ending.load(Ordering::Relaxed) {
        let now = clock::moment();
        for (when, index, component) in &mut due {
            if *when <= now {
                legs[*index].send(*component);
                *when += match component {
                    Component::Rtp => legs[*index].talk.interval,
                    Component::Rtcp => RTCP_INTERVAL,
                };
            }
        }
        let next = due.iter().map(|(when, _, _)| *when).min();
        let pause = next.map_or(GLANCE, |next| next.since(clock::moment()));
        thread::sleep(pause.min(GLANCE));
    }
}
