//! Threads that place calls, one call after the other, each over a connection of its own.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mediaproxy::moment::Moment;
use mediaproxy::sys::clock;

use crate::sides::Caller;

/// How the calls of a connection follow each other.
#[derive(Clone, Copy)]
pub enum Pace {
    Full,
    /// One begins each interval, or as soon as the one before is over. The connections begin one after the other, not
    /// all at the same moment.
    Every(Duration),
}

/// One call that was placed.
#[derive(Clone, Copy)]
pub struct Placed {
    /// When it began.
    pub began: Moment,
    /// How long it took, microseconds.
    pub took: f64,
}

/// See the module.
pub struct Callers(Vec<JoinHandle<Result<Vec<Placed>, String>>>);

impl Callers {
    /// Begins to place calls, which goes on until `end`.
    pub fn start(callers: Vec<Box<dyn Caller>>, end: Moment, pace: Pace) -> Callers {
        let count = callers.len() as u32;
        let one = |(index, caller)| {
            let (start, interval) = match pace {
                Pace::Full => (clock::moment(), None),
                Pace::Every(interval) => {
                    (clock::moment() + interval * index / count, Some(interval))
                }
            };
            thread::spawn(move || one_connection(caller, start, end, interval))
        };
        Callers((0..).zip(callers).map(one).collect())
    }

    /// What they did, when they are at their end.
    pub fn join(self) -> Result<Vec<Placed>, String> {
        let mut calls = Vec::new();
        for thread in self.0 {
            calls.extend(thread.join().map_err(|_| "a caller panicked")??);
        }
        Ok(calls)
    }
}

fn one_connection(
    mut caller: Box<dyn Caller>,
    start: Moment,
    end: Moment,
    interval: Option<Duration>,
) -> Result<Vec<Placed>, String> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let end_of = |port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let mut calls = Vec::new();
    let mut due = start;
    loop {
        if let Some(interval) = interval {
            thread::sleep(due.since(clock::moment()));
            due += interval;
        }
        let began = clock::moment();
        if began >= end {
            return Ok(calls);
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let call_id = format!("{number:x}-84b4c76e66710@192.0.2.4");
        caller.set_up(&call_id, [end_of(4000), end_of(4002)])?;
        caller.hang_up(&call_id)?;
        let took = (clock::moment() - began).as_secs_f64() * 1e6;
        calls.push(Placed { began, took });
    }
}
