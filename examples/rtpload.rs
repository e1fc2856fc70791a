//! One end of many calls at once: sends and receives numbered RTP (RFC 3550) and counts what is lost, doubled or crossed.
//!
//! ```text
//! rtpload SIDE PACKETS FILE      SIDE: 0 or 1; FILE: a line `local remote` for each call, ip:port both
//! ```
//!
//! Prints `ready` once its sockets are bound, starts at the first line on standard input, sends PACKETS packets in each
//! call, one every 20 ms, and prints one JSON object when everything has come or two seconds have passed since its last packet.
//! Each packet names its call, its side and its number. The network load test (tests/netns/load.py) starts two of these.
//! RTCP and jitter are left out.

use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use mediaproxy::sys::clock::moment;

/// Between two packets of a call: 20 ms of speech.
const PERIOD: Duration = Duration::from_millis(20);
/// How long after the last packet sent the rest may take to arrive.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many packets of a call go in the first 300 ms.
const LEARNING: usize = 15;
/// RTP header and 160 bytes of G.711.
const SIZE: usize = 172;
/// The calls' numbers are told from stray numbers by this.
const MAGIC: u32 = 0x6d70_6c64;

struct Call {
    socket: UdpSocket,
    remote: SocketAddr,
    /// Which packets of the other side have come.
    seen: Vec<bool>,
}

#[derive(Default)]
struct Count {
    sent: u64,
    received: u64,
    duplicated: u64,
    /// Of another call, or this side's own.
    crossed: u64,
    /// Packets that have not come and were sent when parties have long been known.
    late_lost: u64,
    /// From another address than the relay's, or no packet of this program.
    foreign: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [side, packets, file] = arguments.as_slice() else {
        return Err("usage: rtpload SIDE PACKETS FILE".into());
    };
    let (side, packets) = (side.parse::<u32>()?, packets.parse::<u32>()?);
    let mut calls = open(&std::fs::read_to_string(file)?, packets)?;
    println!("ready");
    io::stdout().flush()?;
    let _ = io::stdin().read(&mut [0])?;

    let mut count = Count::default();
    let latest = send_all(&mut calls, side, packets, &mut count)?;
    let end = moment() + PATIENCE;
    let expected = u64::from(packets) * calls.len() as u64;
    while count.received < expected && moment() < end {
        receive_all(&mut calls, side, &mut count)?;
        std::thread::sleep(Duration::from_millis(1));
    }
    // What is doubled comes after its first copy.
    std::thread::sleep(Duration::from_millis(50));
    receive_all(&mut calls, side, &mut count)?;
    count.late_lost = calls
        .iter()
        .flat_map(|call| call.seen.iter().skip(LEARNING))
        .filter(|seen| !**seen)
        .count() as u64;
    println!(
        r#"{{"sent": {}, "received": {}, "lost": {}, "late_lost": {}, "duplicated": {}, "crossed": {}, "foreign": {}, "late_ms": {}}}"#,
        count.sent,
        count.received,
        expected - count.received,
        count.late_lost,
        count.duplicated,
        count.crossed,
        count.foreign,
        latest.as_millis()
    );
    Ok(())
}

fn open(list: &str, packets: u32) -> Result<Vec<Call>, Box<dyn Error>> {
    list.lines()
        .map(|line| {
            let (local, remote) = line
                .split_once(' ')
                .ok_or_else(|| format!("{line:?}: wanted `local remote`"))?;
            let socket = UdpSocket::bind(local).map_err(|e| format!("{local}: {e}"))?;
            socket.set_nonblocking(true)?;
            Ok(Call {
                socket,
                remote: remote.parse()?,
                seen: vec![false; packets as usize],
            })
        })
        .collect()
}

/// Sends everything in time, the calls spread evenly over each period, and reads each call's socket before it
/// sends there. Returns how late the latest packet was.
fn send_all(
    calls: &mut [Call],
    side: u32,
    packets: u32,
    count: &mut Count,
) -> io::Result<Duration> {
    let step = PERIOD / calls.len().max(1) as u32;
    let (start, mut latest) = (moment(), Duration::ZERO);
    for number in 0..packets {
        for (index, call) in calls.iter_mut().enumerate() {
            let due = start + PERIOD * number + step * index as u32;
            let now = moment();
            if due > now {
                // A little longer than needed: what is due by then goes in one go.
                std::thread::sleep(due - now + Duration::from_micros(500));
            } else {
                latest = latest.max(now - due);
            }
            receive(call, index as u32, side, count)?;
            send(call, index as u32, side, number)?;
            count.sent += 1;
        }
    }
    Ok(latest)
}

fn send(call: &Call, index: u32, side: u32, number: u32) -> io::Result<()> {
    let mut packet = [0x2e; SIZE];
    packet[..2].copy_from_slice(&[0x80, 8]);
    packet[2..4].copy_from_slice(&(number as u16).to_be_bytes());
    packet[4..8].copy_from_slice(&(number * 160).to_be_bytes());
    packet[8..12].copy_from_slice(&(index * 2 + side).to_be_bytes());
    for (field, value) in [MAGIC, index, side, number].into_iter().enumerate() {
        let at = 12 + 4 * field;
        packet[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }
    loop {
        match call.socket.send_to(&packet, call.remote) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            sent => return sent.map(drop),
        }
    }
}

fn receive_all(calls: &mut [Call], side: u32, count: &mut Count) -> io::Result<()> {
    for (index, call) in calls.iter_mut().enumerate() {
        receive(call, index as u32, side, count)?;
    }
    Ok(())
}

/// Reads what waits on one call's socket.
fn receive(call: &mut Call, index: u32, side: u32, count: &mut Count) -> io::Result<()> {
    let mut packet = [0; 2048];
    loop {
        let (size, source) = match call.socket.recv_from(&mut packet) {
            Ok(got) => got,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e),
        };
        let field = |n: usize| {
            let bytes = packet.get(12 + 4 * n..16 + 4 * n)?;
            Some(u32::from_be_bytes(bytes.try_into().ok()?))
        };
        let ours = size == SIZE && source == call.remote && field(0) == Some(MAGIC);
        if !ours {
            count.foreign += 1;
        } else if field(1) != Some(index) || field(2) != Some(1 - side) {
            count.crossed += 1;
        } else {
            let seen = field(3).and_then(|n| call.seen.get_mut(n as usize));
            match seen {
                Some(seen) if !*seen => {
                    *seen = true;
                    count.received += 1;
                }
                _ => count.duplicated += 1,
            }
        }
    }
}
