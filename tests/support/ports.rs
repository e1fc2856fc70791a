//! Ports for daemons and servers, below those that the system gives to connections. All tests of a program take theirs
//! here, since many of them run at the same time.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};

use mediaproxy::sys::range_lock;

const LOWEST: u16 = 10_000;
/// How many there are from there on.
const ALL: u16 = 22_000;
/// A stretch of so many begins at a multiple of its length.
const LONG: u16 = 4_000;

/// Programs that run at the same time begin at different places.
fn first() -> u16 {
    (std::process::id().wrapping_mul(61) % u32::from(ALL)) as u16
}

/// What a relay may use for media, or may not find free one by one: each stretch follows the last one that was given, so
/// that two tests get the same ports only after all others were given.
#[derive(Clone, Copy, Debug)]
pub struct PortRange {
    pub start: u16,
    pub end: u16,
}

impl PortRange {
    /// A stretch of `length` ports of which every 50th can be bound now; the relay passes over single ones that
    /// cannot.
    pub fn find(length: u16) -> Result<PortRange, String> {
        let is_free = |port| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok();
        PortRange::unlocked(length, |range| {
            (range.start..range.end).step_by(50).all(is_free)
        })
    }

    /// A stretch that no relay has, whoever has bound ports in it.
    pub fn unlocked(length: u16, is_fine: impl Fn(PortRange) -> bool) -> Result<PortRange, String> {
        static NEXT: Mutex<Option<u16>> = Mutex::new(None);
        if length == 0 || length > ALL {
            return Err(format!("{length} ports are none or too many"));
        }
        let mut next = NEXT.lock().map_err(|error| error.to_string())?;
        // An even port to begin with, as media has.
        let mut place = next.unwrap_or(first() & !1);
        // There are few long ones: none lies across two others.
        if length >= LONG {
            place = place.next_multiple_of(length);
        }
        for _ in 0..=ALL / length {
            // What is cut off at the end is not used.
            if place > ALL - length {
                place = 0;
            }
            let start = LOWEST + place;
            let end = start + length;
            place += length + length % 2;
            *next = Some(place);
            let range = PortRange { start, end };
            // A relay without calls has bound none of its ports.
            let is_anothers = range_lock::overlapping((start, end.into())).is_some();
            if !is_anothers && is_fine(range) {
                return Ok(range);
            }
        }
        Err(format!(
            "no {length} free UDP ports from {LOWEST} to {}",
            LOWEST + ALL
        ))
    }
}

/// A TCP port that was free a moment ago, never the same twice. Nobody gets it for a connection meanwhile.
pub fn free_tcp_port() -> Result<u16, String> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..ALL {
        let place = u32::from(first()) + u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = LOWEST + (place % u32::from(ALL)) as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(format!(
        "no free TCP port from {LOWEST} to {}",
        LOWEST + ALL
    ))
}
