//! The kernel thread: waits for orders, for what others do to the kernel's tables, and for the next reading.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use log::error;

use super::events::{Events, Sign};
use super::forwarder::{Forwarder, Wanted};
use super::requests::Requests;
use super::{Key, News, Order};
use crate::daemon::Pulse;
use crate::metrics::Gauge;
use crate::relay::worker::Message;
use crate::session::Withdrawal;
use crate::sys::clock;
use crate::sys::epoll::{self, Epoll, Trigger};
use crate::sys::mailbox::{Mailbox, Postbox};
use crate::sys::route;

/// How often counters are read.
const PERIOD: Duration = Duration::from_millis(250);
/// How soon after a flow was handed over: that it works is to be known early.
const EARLY: Duration = Duration::from_millis(100);
/// Readings may take this part of a processor's time at most, one in so many. (Not of the time: where others keep this
/// thread waiting, flows that have got stuck would be noticed late.)
const SHARE: u32 = 50;
/// Orders handled in one go.
const ORDERS: usize = 1024;

const MAILBOX: u64 = 0;
const EVENTS: u64 = 1;

/// See the module.
struct Thread<R> {
    forwarder: Forwarder<R>,
    mailbox: Mailbox<Order>,
    workers: Vec<Postbox<Message>>,
    events: Events,
    pulse: Arc<Pulse>,
    flows: Arc<Gauge>,
    /// The longest time between two readings.
    longest: Duration,
    /// None while the kernel has nothing.
    next_reading: Option<Duration>,
    /// No reading before this time: they would cost too much.
    rest_until: Duration,
}

/// Who is told what, and how often.
pub struct Surroundings {
    pub workers: Vec<Postbox<Message>>,
    /// The shortest time after which silence ends a stream.
    pub shortest_silence: Duration,
    /// Beats with each round.
    pub pulse: Arc<Pulse>,
    /// How many flows the kernel has.
    pub flows: Arc<Gauge>,
}

/// Runs the kernel thread until it is told to quit.
pub fn run<R: Requests>(
    forwarder: Forwarder<R>,
    events: Events,
    mailbox: Mailbox<Order>,
    surroundings: Surroundings,
) {
    let Surroundings {
        workers,
        shortest_silence,
        pulse,
        flows,
    } = surroundings;
    let mut thread = Thread {
        forwarder,
        mailbox,
        workers,
        events,
        pulse,
        flows,
        longest: shortest_silence / 3,
        next_reading: None,
        rest_until: Duration::ZERO,
    };
    if let Err(error) = thread.work() {
        // Only a closed or wrong descriptor: nothing that this process could go on with.
        error!("the kernel thread cannot wait: {error}");
        crate::logging::last_words();
        std::process::abort();
    }
}

impl<R: Requests> Thread<R> {
    fn work(&mut self) -> io::Result<()> {
        let epoll = Epoll::new()?;
        epoll.add(&self.mailbox, MAILBOX, Trigger::Edge)?;
        for source in &self.events.sources() {
            epoll.add(source, EVENTS, Trigger::Level)?;
        }
        let mut ready = epoll::Events::new();
        loop {
            epoll.wait(&mut ready, self.time_left())?;
            self.pulse.beat();
            let mut has_signs = false;
            for index in 0..ready.len() {
                match ready.token(index) {
                    Some(MAILBOX) => self.mailbox.listen(),
                    _ => has_signs = true,
                }
            }
            if has_signs {
                self.take_signs()?;
            }
            if !self.take_orders() {
                return Ok(());
            }
            if self.next_reading.is_some_and(|at| clock::mono() >= at) {
                self.read();
            }
            self.forwarder.end_watch(clock::mono());
            self.send_news();
        }
    }

    fn time_left(&self) -> Option<Duration> {
        if !self.mailbox.is_empty() {
            return Some(Duration::ZERO);
        }
        let due = [self.next_reading, self.forwarder.watch_ends()];
        let first = due.into_iter().flatten().min()?;
        Some(first.saturating_sub(clock::mono()))
    }

    /// Looks at what is said to have changed; once, however often it is said.
    fn take_signs(&mut self) -> io::Result<()> {
        let Thread {
            events, forwarder, ..
        } = self;
        let (mut entries, mut table, mut addresses) = (false, false, false);
        events.take(|sign| match sign {
            Sign::Ended(original) => entries |= forwarder.has_entry(&original),
            Sign::Table => table = true,
            Sign::Addresses => addresses = true,
            Sign::Overrun => (entries, table) = (true, true),
        })?;
        if table {
            forwarder.check_table();
        }
        if addresses {
            forwarder.set_addresses(route::addresses()?);
        }
        if entries {
            self.read_soon(Duration::ZERO);
        } else if table && self.forwarder.has_work() {
            self.read_soon(PERIOD);
        }
        Ok(())
    }

    fn read_soon(&mut self, after: Duration) {
        let soon = (clock::mono() + after).max(self.rest_until);
        self.next_reading = Some(self.next_reading.map_or(soon, |at| at.min(soon)));
    }

    /// False at the end.
    fn take_orders(&mut self) -> bool {
        let mut wanted: Vec<Wanted> = Vec::new();
        let mut withdrawn: Vec<(Key, Withdrawal)> = Vec::new();
        let mut then = Vec::new();
        let mut quit = None;
        for _ in 0..ORDERS {
            match self.mailbox.take() {
                None => break,
                Some(Order::Install(key, ends)) => wanted.push(Wanted { key, ends }),
                Some(Order::Withdraw(key, why)) => {
                    // Not even begun: nothing but an answer is left of it.
                    wanted.retain(|install| install.key != key);
                    withdrawn.push((key, why));
                }
                Some(Order::Nudge) => {}
                Some(Order::Read(act)) => then.push(act),
                Some(Order::Quit(done)) => {
                    quit = Some(done);
                    break;
                }
            }
        }
        let now = clock::mono();
        if !withdrawn.is_empty() {
            self.forwarder.withdraw(&withdrawn, now);
            // Answers to the SIP proxy wait for this, and installing and reading take longer.
            self.send_news();
            if self.forwarder.has_work() {
                self.read_soon(PERIOD);
            }
        }
        if !wanted.is_empty() {
            self.forwarder.install(&wanted, now);
            self.read_soon(EARLY);
        }
        if !then.is_empty() {
            self.read();
            self.send_news();
            then.into_iter().for_each(|act| act());
        }
        if let Some(done) = quit {
            self.forwarder.quit();
            self.send_news();
            // Who asked may have given up waiting.
            let _ = done.send(());
            return false;
        }
        true
    }

    fn read(&mut self) {
        let before = clock::thread_cpu();
        if self.forwarder.has_work() {
            self.forwarder.read(clock::mono());
        }
        let end = clock::mono();
        let cost = clock::thread_cpu().saturating_sub(before);
        let rest = (cost * SHARE).min(self.longest);
        self.rest_until = end + rest;
        let has_work = self.forwarder.has_work();
        self.next_reading = has_work.then(|| end + PERIOD.min(self.longest).max(rest));
    }

    /// Each worker gets what is for it in one message, in order.
    fn send_news(&mut self) {
        self.flows.set(self.forwarder.flows() as u64);
        let workers = &self.workers;
        let mut bundles: Vec<Vec<News>> = workers.iter().map(|_| Vec::new()).collect();
        for (worker, news) in self.forwarder.take_news() {
            if let Some(bundle) = bundles.get_mut(worker) {
                bundle.push(news);
            }
        }
        for (worker, bundle) in workers.iter().zip(bundles) {
            if !bundle.is_empty() {
                // One that is gone has nothing to be told.
                let _ = worker.send(Message::Kernel(bundle));
            }
        }
    }
}
