//! Callers that place one call after the other, with a few packets each way, and know what they have sent.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use mediaproxy::sys::clock;
use mediaproxy::sys::datagram::undisturbed;

use super::proxy::{Media, Message, Proxy};

/// Longest wait for a dispatcher that is away.
const PATIENCE: Duration = Duration::from_secs(90);

/// IP and UDP headers.
const HEADERS: u64 = 28;

/// Bytes of a datagram of these tests.
const PACKET: usize = 172;

/// What one party of the calls has sent, by call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    pub caller: u64,
    pub callee: u64,
}

/// Both phones of the calls of one thread, one call after the other.
pub struct Phones {
    proxy: Option<Proxy>,
    socket: PathBuf,
    caller: UdpSocket,
    callee: UdpSocket,
}

/// How a call went, as far as the proxy knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    Answered(Sent),
    /// The dispatcher went away while it was asked.
    Unclear,
    Failed,
}

impl Phones {
    pub fn new(socket: PathBuf) -> Phones {
        let phone = || {
            let phone = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            phone
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            phone
        };
        Phones {
            proxy: None,
            socket,
            caller: phone(),
            callee: phone(),
        }
    }

    /// Asks the dispatcher, over a new connection where the last one is gone.
    fn ask<T>(&mut self, ask: impl Fn(&mut Proxy) -> Result<T, String>) -> Result<T, String> {
        if self.proxy.is_none() {
            self.proxy = Some(Proxy::connect(&self.socket).map_err(|e| e.to_string())?);
        }
        let proxy = self.proxy.as_mut().unwrap();
        ask(proxy).inspect_err(|_| self.proxy = None)
    }

    pub fn call(&mut self, call_id: &str, number: usize) -> Course {
        let (offered, answered) = (
            [Media::audio_at(&self.caller)],
            [Media::audio_at(&self.callee)],
        );
        let offer = Message::offer(call_id, &offered);
        let answer = Message::answer(call_id, &answered);
        let Ok(for_callee) = self.ask(|proxy| proxy.update(&offer)) else {
            return Course::Failed;
        };
        let for_caller = self.ask(|proxy| proxy.update(&answer));
        let course = match for_caller {
            Ok(for_caller) => Course::Answered(self.talk(number, for_caller[0], for_callee[0])),
            Err(_) => Course::Unclear,
        };
        // A proxy that gets no answer asks again when it can; one that was heard is an error then.
        let end = clock::moment() + PATIENCE;
        while let Err(why) = self.ask(|proxy| proxy.remove(&answer)) {
            if why.ends_with(": error") {
                break;
            }
            assert!(clock::moment() < end, "{call_id}: {why}");
            thread::sleep(Duration::from_millis(20));
        }
        course
    }

    /// One to three packets each way; each has to arrive.
    fn talk(&self, number: usize, for_caller: u16, for_callee: u16) -> Sent {
        let sides = [
            (&self.caller, for_caller, &self.callee, 1 + number % 3),
            (&self.callee, for_callee, &self.caller, 1 + number / 3 % 3),
        ];
        for (from, port, to, count) in sides {
            for _ in 0..count {
                let mut packet = [0u8; PACKET];
                packet[..2].copy_from_slice(&[0x80, 8]);
                from.send_to(&packet, SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
                    .unwrap();
                undisturbed(|| to.recv(&mut packet)).unwrap();
            }
        }
        let octets = |count: usize| count as u64 * (PACKET as u64 + HEADERS);
        Sent {
            caller: octets(sides[0].3),
            callee: octets(sides[1].3),
        }
    }
}

/// Places calls in several threads while `is_going_on` holds for their number; how each went.
pub fn place(
    socket: &Path,
    is_going_on: impl Fn(usize) -> bool + Sync,
) -> BTreeMap<String, Course> {
    let next = AtomicUsize::new(0);
    let caller = || {
        let mut phones = Phones::new(socket.to_owned());
        let mut courses = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if !is_going_on(number) {
                return courses;
            }
            let call_id = format!("{number}-call@192.0.2.1");
            let course = phones.call(&call_id, number);
            if course == Course::Failed {
                thread::sleep(Duration::from_millis(20));
            }
            courses.push((call_id, course));
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(caller)).collect();
        threads
            .into_iter()
            .flat_map(|t| t.join().unwrap())
            .collect()
    })
}

pub fn answered(courses: &BTreeMap<String, Course>) -> BTreeMap<&str, Sent> {
    let sent = |course: &Course| match course {
        Course::Answered(sent) => Some(*sent),
        Course::Unclear | Course::Failed => None,
    };
    let calls = courses.iter();
    calls
        .filter_map(|(call_id, course)| Some((call_id.as_str(), sent(course)?)))
        .collect()
}
