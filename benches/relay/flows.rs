//! Forwarding in user space: 500 flows of 50 packets/s (250 calls, both ways), CPU time and system calls for
//! each packet.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mediaproxy::sys::clock;

use crate::sides::{Ours, Side, Theirs};
use crate::{Spread, Verdicts, processes};

const CALLS: usize = 250;
const ROUNDS: usize = 5;
/// One side's part of a round.
const LENGTH: Duration = Duration::from_secs(4);
/// The part of that in which system calls are counted, in a round of its own.
const COUNTED: Duration = Duration::from_secs(2);
const INTERVAL: Duration = Duration::from_millis(20);
/// 20 ms of G.711 with its RTP header.
const PACKET: usize = 172;
/// How often the phones look at what has arrived.
const LOOK: Duration = Duration::from_millis(5);
const PORTS: u16 = 2000;
/// Sockets on each side; calls share them, the relay's ports tell them apart.
const SOCKETS: usize = 25;
/// Bound of the CPU time, ours / rtpengine.
const BOUND: f64 = 2.0 / 3.0;

pub fn run(binaries: &Path, verdicts: &mut Verdicts) -> Result<(), String> {
    let flows = 2 * CALLS;
    println!("\n{flows} flows at 50 packets/s in user space, {ROUNDS} rounds, both sides in turn");
    let ours = Ours::start(binaries, PORTS)?;
    let theirs = Theirs::start(PORTS)?;
    let ours_up = Load::start(&ours)?;
    let theirs_up = Load::start(&theirs)?;
    let sides: [(&dyn Side, &Load); 2] = [(&ours, &ours_up), (&theirs, &theirs_up)];
    let mut rounds: Vec<[f64; 2]> = Vec::new();
    for round in 0..ROUNDS {
        let mut cpu = [0.0; 2];
        for index in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            let (side, load) = sides[index];
            let used = processes::cpu_time(&[side.relay_pid()])?;
            let packets = load.send_for(LENGTH)?;
            let used = processes::cpu_time(&[side.relay_pid()])? - used;
            cpu[index] = used.as_secs_f64() * 1e6 / packets as f64;
        }
        rounds.push(cpu);
    }
    for (index, (side, load)) in sides.into_iter().enumerate() {
        let cpu = Spread::of(rounds.iter().map(|cpu| cpu[index]));
        println!(
            "  {:<26} {cpu} us of CPU a packet; {}; {} of {} packets lost",
            side.name(),
            system_calls(side, load)?,
            load.lost(),
            load.sent()
        );
    }
    let ratio = Spread::of(rounds.iter().map(|[ours, theirs]| ours / theirs));
    println!("  ours / rtpengine: CPU a packet {ratio}");
    verdicts.claim(
        "user space takes at most two thirds of rtpengine's CPU time",
        ratio.median <= BOUND,
    );
    verdicts.claim("nothing is lost in user space", ours_up.lost() == 0);
    drop(theirs);
    ours.daemons.stop()
}

/// System calls for each packet, in words.
fn system_calls(side: &dyn Side, load: &Load) -> Result<String, String> {
    let pid = side.relay_pid();
    let counter = thread::spawn(move || processes::system_calls(pid, COUNTED));
    let packets = load.send_for(COUNTED)?;
    match counter.join() {
        Ok(Some(calls)) => Ok(format!(
            "{:.2} system calls a packet",
            calls as f64 / packets as f64
        )),
        _ => Ok("system calls not counted (needs root and linux-perf)".to_owned()),
    }
}

/// Calls that are up, and what is sent and received in them.
struct Load {
    /// By flow: the socket that it leaves from, and the relay's port.
    flows: Vec<(Arc<UdpSocket>, SocketAddrV4)>,
    sent: AtomicU64,
    received: Arc<AtomicU64>,
    ending: Arc<AtomicBool>,
    receiver: Option<JoinHandle<()>>,
}

impl Load {
    /// Sets the calls up.
    fn start(side: &dyn Side) -> Result<Load, String> {
        let told = |error: io::Error| error.to_string();
        let mut load = Load {
            flows: Vec::new(),
            sent: AtomicU64::new(0),
            received: Arc::default(),
            ending: Arc::default(),
            receiver: None,
        };
        let bind = |_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map(Arc::new);
        let sockets: io::Result<Vec<_>> = (0..2 * SOCKETS).map(bind).collect();
        let sockets = sockets.map_err(told)?;
        load.count(sockets.clone()).map_err(told)?;
        let mut caller = side.caller()?;
        for call in 0..CALLS {
            let index = call % SOCKETS;
            let ends = [sockets[index].clone(), sockets[SOCKETS + index].clone()];
            let mut addresses = [SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0); 2];
            for (end, address) in ends.iter().zip(&mut addresses) {
                address.set_port(end.local_addr().map_err(told)?.port());
            }
            let ports = caller.set_up(&format!("{call:x}-flow@192.0.2.4"), addresses)?;
            for (end, port) in ends.into_iter().zip(ports) {
                let relay = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
                load.flows.push((end, relay));
            }
        }
        Ok(load)
    }

    /// Counts what arrives, looking at each socket now and then: a reader that waits in its socket would be woken
    /// by every packet, and that costs the relay's thread more than the sending.
    fn count(&mut self, sockets: Vec<Arc<UdpSocket>>) -> io::Result<()> {
        for socket in &sockets {
            socket.set_nonblocking(true)?;
        }
        let received = self.received.clone();
        let ending = self.ending.clone();
        self.receiver = Some(thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !ending.load(Ordering::Relaxed) {
                for socket in &sockets {
                    while socket.recv(&mut buffer).is_ok() {
                        received.fetch_add(1, Ordering::Relaxed);
                    }
                }
                thread::sleep(LOOK);
            }
        }));
        Ok(())
    }

    /// Sends at the pace of so many phones, each at its own moment, and waits for what is under way. How many
    /// packets that were.
    fn send_for(&self, length: Duration) -> Result<u64, String> {
        let mut packet = [0; PACKET];
        packet[..2].copy_from_slice(&[0x80, 8]);
        let start = clock::moment();
        let count = self.flows.len() as u32;
        let total = count * (length.as_millis() / INTERVAL.as_millis()) as u32;
        for number in 0..total {
            let due = start + INTERVAL * (number / count) + INTERVAL * (number % count) / count;
            let early = due.since(clock::moment());
            if early > Duration::from_micros(100) {
                thread::sleep(early);
            }
            packet[2..4].copy_from_slice(&((number / count) as u16).to_be_bytes());
            let (socket, relay) = &self.flows[(number % count) as usize];
            socket
                .send_to(&packet, relay)
                .map_err(|error| format!("sending to {relay}: {error}"))?;
        }
        self.sent.fetch_add(u64::from(total), Ordering::Relaxed);
        for _ in 0..20 {
            if self.lost() == 0 {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(u64::from(total))
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn lost(&self) -> u64 {
        self.sent()
            .saturating_sub(self.received.load(Ordering::Relaxed))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        if let Some(receiver) = self.receiver.take() {
            let _ = receiver.join();
        }
    }
}
