//! The kernel thread: waits for orders, for what others do to the kernel's forwarding, and for the next reading.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use log::{error, info};

use super::flow::{Flow, FlowKey};
use super::forwarder::Forwarder;
use super::mechanism::Mechanism;
use super::news::Deliver;
use super::order::Order;
use super::takeover::{TakeOverCounts, TakenOver};
use crate::counters::Counters;
use crate::daemon::Pulse;
use crate::metrics::Gauge;
use crate::moment::Moment;
use crate::proto::PerParty;
use crate::sys::clock;
use crate::sys::epoll::{self, Epoll, Trigger};
use crate::sys::mailbox::Mailbox;
use crate::sys::netlink::AddressChanges;
use crate::sys::route;

/// How often counters are read.
const READING_PERIOD: Duration = Duration::from_millis(250);
/// How soon after a flow was handed over: that it works is to be known early.
const FIRST_READING_AFTER: Duration = Duration::from_millis(100);
/// Readings may take this part of a processor's time at most, one in so many. (Not of the time: where others keep this
/// thread waiting, flows that have got stuck would be noticed late.)
const READING_SHARE: u32 = 50;
/// Orders handled in one go.
const MOST_ORDERS: usize = 1024;

/// What is waited on.
const MAILBOX: u64 = 0;
const ADDRESSES: u64 = 1;
const MECHANISM: u64 = 2;

/// See the module.
struct Thread {
    forwarder: Forwarder<dyn Mechanism>,
    mailbox: Mailbox<Order>,
    addresses: AddressChanges,
    deliver: Deliver,
    pulse: Arc<Pulse>,
    flows: Arc<Gauge>,
    takeover: Arc<TakeOverCounts>,
    /// The longest time between two readings.
    longest: Duration,
    /// None while the kernel has nothing.
    next_reading: Option<Moment>,
    /// No reading before this time: they would cost too much.
    rest_until: Moment,
}

/// How the thread ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// All flows stay, for so long.
    Leave(Duration),
    Quit,
}

/// What the thread has to do with.
pub(super) struct Surroundings {
    pub mailbox: Mailbox<Order>,
    /// Tells of changes of this host's addresses.
    pub addresses: AddressChanges,
    pub deliver: Deliver,
    /// The shortest time after which silence ends a stream.
    pub shortest_silence: Duration,
    /// Beats with each round.
    pub pulse: Arc<Pulse>,
    /// How many flows the kernel has.
    pub flows: Arc<Gauge>,
    pub takeover: Arc<TakeOverCounts>,
}

/// Runs the kernel thread until it is told to quit.
pub(super) fn run(forwarder: Forwarder<dyn Mechanism>, surroundings: Surroundings) {
    let Surroundings {
        mailbox,
        addresses,
        deliver,
        shortest_silence,
        pulse,
        flows,
        takeover,
    } = surroundings;
    let mut thread = Thread {
        forwarder,
        mailbox,
        addresses,
        deliver,
        pulse,
        flows,
        takeover,
        longest: shortest_silence / 3,
        next_reading: None,
        rest_until: Moment::START,
    };
    if let Err(error) = thread.work() {
        // Only a closed or wrong descriptor: nothing that this process could go on with.
        error!("the kernel thread cannot wait: {error}");
        crate::logging::last_words();
        std::process::abort();
    }
}

impl Thread {
    fn work(&mut self) -> io::Result<()> {
        let epoll = Epoll::new()?;
        epoll.add(&self.mailbox, MAILBOX, Trigger::Edge)?;
        epoll.add(&self.addresses, ADDRESSES, Trigger::Level)?;
        for source in &self.forwarder.mechanism.sources() {
            epoll.add(source, MECHANISM, Trigger::Level)?;
        }
        let mut ready = epoll::Events::new();
        loop {
            epoll.wait(&mut ready, self.time_left())?;
            self.pulse.beat();
            let (mut has_moved, mut is_touched) = (false, false);
            for index in 0..ready.len() {
                match ready.token(index) {
                    Some(MAILBOX) => self.mailbox.listen(),
                    Some(ADDRESSES) => has_moved = true,
                    _ => is_touched = true,
                }
            }
            if is_touched {
                self.hear()?;
            }
            if has_moved && self.addresses.read()? {
                self.forwarder.set_addresses(route::addresses()?);
            }
            if !self.take_orders() {
                return Ok(());
            }
            if self.next_reading.is_some_and(|at| clock::moment() >= at) {
                self.read();
            }
            self.forwarder.tick(clock::moment());
            self.send_news();
        }
    }

    fn time_left(&self) -> Option<Duration> {
        if !self.mailbox.is_empty() {
            return Some(Duration::ZERO);
        }
        let due = [self.next_reading, self.forwarder.due()];
        let first = due.into_iter().flatten().min()?;
        Some(first.since(clock::moment()))
    }

    /// Looks at what is said to have changed; once, however often it is said.
    fn hear(&mut self) -> io::Result<()> {
        let heard = self.forwarder.hear(clock::moment())?;
        if heard.has_ended {
            self.read_soon(Duration::ZERO);
        } else if heard.is_changed && self.forwarder.has_work() {
            self.read_soon(READING_PERIOD);
        }
        Ok(())
    }

    fn read_soon(&mut self, after: Duration) {
        let soon = (clock::moment() + after).max(self.rest_until);
        self.next_reading = Some(self.next_reading.map_or(soon, |at| at.min(soon)));
    }

    /// False at the end.
    fn take_orders(&mut self) -> bool {
        let mut wanted: Vec<Flow> = Vec::new();
        let mut withdrawn: Vec<FlowKey> = Vec::new();
        let mut suspected: Vec<FlowKey> = Vec::new();
        let mut then = Vec::new();
        let mut end = None;
        for _ in 0..MOST_ORDERS {
            match self.mailbox.take() {
                None => break,
                Some(Order::Install(key, ends)) => wanted.push(Flow { key, ends }),
                Some(Order::Withdraw(key)) => {
                    // Not even begun: nothing but an answer is left of it.
                    wanted.retain(|install| install.key != key);
                    withdrawn.push(key);
                }
                Some(Order::Suspect(key)) => suspected.push(key),
                Some(Order::Nudge) => {}
                Some(Order::Read(act)) => then.push(act),
                Some(Order::Adopt(flows)) => self.adopt(&flows),
                Some(Order::Leave(time, done)) => {
                    end = Some((End::Leave(time), done));
                    break;
                }
                Some(Order::Quit(done)) => {
                    end = Some((End::Quit, done));
                    break;
                }
            }
        }
        let now = clock::moment();
        if !withdrawn.is_empty() {
            self.forwarder.withdraw(&withdrawn, now);
            // Answers to the SIP proxy wait for this, and installing and reading take longer.
            self.send_news();
            if self.forwarder.has_work() {
                self.read_soon(READING_PERIOD);
            }
        }
        if !suspected.is_empty() {
            self.forwarder.suspect(&suspected, now);
        }
        if !wanted.is_empty() {
            self.forwarder.install(&wanted, now);
            self.read_soon(FIRST_READING_AFTER);
        }
        if !then.is_empty() {
            self.read();
            self.send_news();
            then.into_iter().for_each(|act| act());
        }
        if let Some((end, done)) = end {
            match end {
                End::Leave(time) => self.forwarder.leave(time),
                End::Quit => self.forwarder.quit(now),
            }
            self.send_news();
            // Who asked may have given up waiting.
            let _ = done.send(());
            return false;
        }
        true
    }

    fn adopt(&mut self, claimed: &[(Flow, PerParty<Counters>)]) {
        let taken = self.forwarder.adopt(claimed, clock::moment());
        self.takeover.set(taken);
        self.send_news();
        if taken != TakenOver::default() {
            let TakenOver {
                adopted,
                lost,
                swept,
            } = taken;
            info!(
                "{adopted} flows of an earlier relay go on in the kernel; {lost} of its calls' were gone, {swept} of no \
                 call were removed"
            );
        }
        self.read_soon(Duration::ZERO);
    }

    fn read(&mut self) {
        let before = clock::thread_cpu();
        if self.forwarder.has_work() {
            self.forwarder.read(clock::moment());
        }
        let end = clock::moment();
        let cost = clock::thread_cpu().saturating_sub(before);
        let rest = (cost * READING_SHARE).min(self.longest);
        self.rest_until = end + rest;
        let has_work = self.forwarder.has_work();
        self.next_reading = has_work.then(|| end + READING_PERIOD.min(self.longest).max(rest));
    }

    /// Each worker gets what is for it in one message, in order.
    fn send_news(&mut self) {
        self.flows.set(self.forwarder.flows() as u64);
        for (worker, news) in self.forwarder.take_news().into_iter().enumerate() {
            if !news.is_empty() {
                (self.deliver)(worker, news);
            }
        }
    }
}
