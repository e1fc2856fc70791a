//! One worker: a thread that owns an engine, its sockets and its timers, and never blocks but in epoll and for the
//! half millisecond of a rest.
//!
//! A turn of its loop reads at most one batch from each ready socket, handles at most a few dozen commands and
//! writes at most one piece of a list, so that none of them holds up the others.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::Sender;
use log::{error, warn};

use super::coalescing::{Coalescing, REST};
use super::kernel::flow::{Flow, FlowKey};
use super::kernel::order::Order;
use super::listing::{Listing, Whose};
use super::loops::Loop;
use super::media_sockets::{Addresses, MediaSockets};
use super::message::Message;
use super::request_counts::{Answered, Asked};
use super::send_queue::owner_of;
use super::shared::Shared;
use super::shared_ports::SharedPorts;
use super::state_log::{self, Saved};
use super::summing::{Share, Summing};
use super::worker_counts::WorkerCounts;
use super::{explain, summary};
use crate::counters::Counters;
use crate::logging::sparse::Sparse;
use crate::moment::{Moment, Now};
use crate::proto::control::Update;
use crate::proto::link::{UpdateReply, most_sessions};
use crate::proto::{PerParty, SessionId};
use crate::session::{
    Action, Asker, Capacity, Engine, FlowId, FlowNews, Owner, PacketVerdict, PortKey, ReplyTo,
};
use crate::sys::clock;
use crate::sys::epoll::{Epoll, Events, Trigger};
use crate::sys::mailbox::Mailbox;
use crate::sys::udp::{BATCH, Datagrams, Marks};

/// Commands handled in one turn.
const MOST_COMMANDS: usize = 64;

/// How long a session that has changed waits before its state is written, so that short calls cost nothing, and that what
/// changes together is written together.
const SAVE_AFTER: Duration = Duration::from_millis(5);

/// Sessions written into a list in one turn, and bytes: a dispatcher's headers may be long, and a turn is what all calls wait.
const LISTED_AT_ONCE: (usize, usize) = (64, 64 * 1024);

/// The mailbox among the watched descriptors; sockets have their ports.
const MAILBOX: u64 = u64::MAX;

/// Streams that are kept for each session that there can be, ended ones included.
const STREAMS_PER_SESSION: usize = 16;

/// What one of so many workers may hold: together no more than a dispatcher believes of this relay.
fn capacity_of(ports: &SharedPorts, workers: usize) -> Capacity {
    let capacity = ports.room(clock::moment()).all;
    let sessions = most_sessions(Some(capacity)) / workers.max(1);
    Capacity {
        sessions,
        streams: sessions * STREAMS_PER_SESSION,
    }
}

/// See the module.
pub(super) struct Worker {
    index: usize,
    shared: Arc<Shared>,
    mailbox: Mailbox<Message>,
    engine: Engine,
    sockets: MediaSockets,
    epoll: Arc<Epoll>,
    datagrams: Datagrams,
    /// Of a flood, what goes out of one socket with the same marks: which of the datagrams, and where to.
    group: Vec<(usize, SocketAddr)>,
    /// Lists in the making, and where each goes on.
    listings: VecDeque<(Arc<Listing>, Whose, usize)>,
    round: u64,
    coalescing: Coalescing,
    counts: Arc<WorkerCounts>,
    unsent: u64,
    unreadable: Sparse,
    /// When what has changed is to be saved.
    save_at: Option<Moment>,
    /// Who waits for all requests to be answered.
    settling: Option<Sender<()>>,
    /// Who waits for all sessions to be reported.
    ending: Option<Sender<()>>,
    running: bool,
}

impl Worker {
    /// A worker that is not running yet.
    ///
    /// # Errors
    /// When no epoll descriptor can be had.
    pub(super) fn new(
        index: usize,
        shared: Arc<Shared>,
        mailbox: Mailbox<Message>,
        addresses: Addresses,
    ) -> io::Result<Worker> {
        let epoll = Arc::new(Epoll::new()?);
        epoll.add(&mailbox, MAILBOX, Trigger::Edge)?;
        let (ports, kept) = (Arc::clone(&shared.ports), Arc::clone(&shared.sockets));
        let mut engine = Engine::new(shared.settings.session.clone());
        engine.set_capacity(capacity_of(&ports, shared.workers.count()));
        Ok(Worker {
            index,
            mailbox,
            engine,
            sockets: MediaSockets::new(
                addresses,
                ports,
                kept,
                Arc::clone(&epoll),
                shared.tallies.clone(),
            ),
            epoll,
            datagrams: Datagrams::new(),
            group: Vec::with_capacity(BATCH),
            listings: VecDeque::new(),
            round: 0,
            coalescing: Coalescing::default(),
            counts: shared.workers.counts(index).cloned().unwrap_or_default(),
            unsent: 0,
            unreadable: Sparse::default(),
            save_at: None,
            settling: None,
            ending: None,
            running: true,
            shared,
        })
    }

    /// Works until it is told to quit.
    pub(super) fn run(mut self) {
        let mut events = Events::new();
        // What taking sessions over has brought about.
        self.act();
        self.save(clock::moment());
        self.publish();
        while self.running {
            if let Err(error) = self.epoll.wait(&mut events, self.time_left()) {
                // Only a closed or wrong descriptor: nothing that this process could go on with.
                error!("worker {}: epoll_wait: {error}", self.index);
                crate::logging::last_words();
                std::process::abort();
            }
            let now = clock::now();
            let read = self.turn(&events, now);
            let has_time = self.time_left() != Some(Duration::ZERO);
            if self.coalescing.rests(read, now.mono) && has_time {
                thread::sleep(REST);
            }
        }
    }

    /// Goes round until nothing is left to do at this moment, without a look at its sockets.
    pub(super) fn settle(&mut self, now: Now) {
        let nothing = Events::new();
        self.turn(&nothing, now);
        while !self.listings.is_empty() || !self.mailbox.is_empty() {
            self.turn(&nothing, now);
        }
    }

    /// Adds the sessions that it has, each as JSON with a comma after it.
    pub(super) fn write_sessions(&self, out: &mut Vec<u8>, now: Now) {
        let all = (usize::MAX, usize::MAX);
        self.engine.write_sessions(out, |_| true, 0, all, now);
    }

    /// Does what is due; how many sockets were read.
    fn turn(&mut self, events: &Events, now: Now) -> usize {
        self.round += 1;
        let mut read = 0;
        for index in 0..events.len() {
            match events.token(index).map(u16::try_from) {
                Some(Ok(port)) => {
                    self.read_socket(port, now);
                    read += 1;
                }
                Some(Err(_)) => self.mailbox.listen(),
                None => {}
            }
        }
        self.take_messages(now);
        let due = self.engine.next_deadline();
        if due.is_some_and(|due| due <= now.mono) {
            self.engine.tick(now);
            self.act();
        }
        self.go_on_listing(now);
        self.save(now.mono);
        if let Some(tallies) = &self.shared.tallies {
            tallies.beat(now.mono);
        }
        self.publish();
        read
    }

    /// Takes over these sessions of the process before this one, each with who has it now; of those that the kernel forwards
    /// it returns the flows, with what was counted of each. Where they have waited for too long, they end. To be called before
    /// [`Worker::run`].
    pub(super) fn adopt(
        &mut self,
        sessions: Vec<(Saved, Owner)>,
        is_too_late: bool,
    ) -> Vec<(Flow, PerParty<Counters>)> {
        let now = clock::now();
        let mut flows = Vec::new();
        for (saved, owner) in sessions {
            let Saved { id, state, .. } = saved;
            let engine = &mut self.engine;
            let adopted = self
                .sockets
                .adopt(id, |sockets| engine.adopt(&state, owner, sockets, now));
            match adopted {
                Ok(adopted) => flows.extend(adopted.into_iter().map(|adopted| {
                    let key = self.key(adopted.flow);
                    let ends = adopted.ends;
                    (Flow { key, ends }, adopted.counted)
                })),
                Err(why) => {
                    warn!("session {id} of an earlier run cannot be taken over: {why}");
                    if let Some(log) = &self.shared.state {
                        log.put([(id, None)]);
                    }
                }
            }
        }
        if is_too_late {
            self.engine.end_all(now);
        }
        flows
    }

    /// Live sessions.
    pub(super) fn live_sessions(&self) -> usize {
        self.engine.sessions().live_count()
    }

    /// Hands over what has changed to be written, when it is time.
    fn save(&mut self, now: Moment) {
        if self.shared.state.is_none() || !self.engine.has_changes() {
            return;
        }
        match self.save_at {
            None => self.save_at = Some(now + SAVE_AFTER),
            Some(at) if at > now => {}
            Some(_) => {
                self.save_at = None;
                self.save_now(|engine, each| engine.take_changes(each));
            }
        }
    }

    /// Hands over what this function of the engine tells of.
    fn save_now(
        &mut self,
        tell: impl FnOnce(&mut Engine, &mut dyn FnMut(SessionId, Owner, Option<&[u8]>)),
    ) {
        let dispatchers = &self.shared.dispatchers;
        let mut changes = Vec::new();
        tell(&mut self.engine, &mut |id, owner, state| {
            let mut record = None;
            if let Some(state) = state {
                dispatchers.with(owner, |dispatcher| {
                    let (address, confirms) = (dispatcher.address, dispatcher.queue.confirms());
                    record = Some(state_log::record(id, address, confirms, state));
                });
            }
            changes.push((id, record));
        });
        if let Some(log) = &self.shared.state {
            log.put(changes);
        }
    }

    /// How long there is nothing to do but what comes.
    fn time_left(&self) -> Option<Duration> {
        if !self.listings.is_empty() || !self.mailbox.is_empty() {
            return Some(Duration::ZERO);
        }
        let due = [self.engine.next_deadline(), self.save_at];
        let first = due.into_iter().flatten().min()?;
        Some(first.since(clock::moment()))
    }

    fn publish(&self) {
        self.counts.publish(&self.engine, self.unsent);
        self.counts.pulse.beat();
    }

    fn read_socket(&mut self, port: u16, now: Now) {
        // It may have been closed in this very round.
        let Some(pair) = self.sockets.pair(port) else {
            return;
        };
        let flood = pair.is_flood(port, self.round);
        let socket = pair.socket(port);
        let received = if flood {
            self.datagrams.receive_many(socket)
        } else {
            self.datagrams.receive_one(socket)
        };
        if let Err(error) = received {
            if let Some(left_out) = self.unreadable.due() {
                warn!("port {port} cannot be read: {error}{left_out}");
            }
            return;
        }
        pair.keep_if_heard(now.mono, &self.shared.sockets);
        if flood {
            self.relay_many(port, now);
        } else {
            self.relay_one(port, now);
        }
        if let Some(pair) = self.sockets.pair(port) {
            let place = pair.place(port);
            self.sockets.note_tally(port, place, &self.engine);
        }
        self.act();
    }

    fn relay_one(&mut self, port: u16, now: Now) {
        let Some(pair) = self.sockets.pair(port) else {
            return;
        };
        let place = pair.place(port);
        let Some(datagram) = self.datagrams.get(0) else {
            return;
        };
        let verdict = self
            .engine
            .packet(place, datagram.from, datagram.data, now.mono);
        if let PacketVerdict::Forward { from_port, to } = verdict {
            let Some(marks) = pair.onward(port, datagram.marks, now.mono) else {
                let length = datagram.data.len();
                return self.went_round(port, to, length, now.mono);
            };
            // Before: who gets the packet may see this process killed before another line.
            self.sockets.note_tally(port, place, &self.engine);
            let sent = self.sockets.send(from_port, to, datagram.data, marks);
            if let Err(error) = sent {
                let errno = error.raw_os_error().unwrap_or_default();
                self.engine
                    .unsent(place, datagram.data.len(), errno, now.mono);
                self.note_unsent(from_port, 1, &error);
            }
        }
    }

    /// As [`Worker::relay_one`] for each of a batch; what goes the same way goes in one system call.
    fn relay_many(&mut self, port: u16, now: Now) {
        let Some(pair) = self.sockets.pair(port) else {
            return;
        };
        let place = pair.place(port);
        let mut way = None;
        for index in 0..self.datagrams.len() {
            let Some(datagram) = self.datagrams.get(index) else {
                break;
            };
            let verdict = self
                .engine
                .packet(place, datagram.from, datagram.data, now.mono);
            let PacketVerdict::Forward { from_port, to } = verdict else {
                continue;
            };
            let pair = self.sockets.pair(port);
            let marks = pair.and_then(|pair| pair.onward(port, datagram.marks, now.mono));
            let Some(marks) = marks else {
                let length = datagram.data.len();
                self.went_round(port, to, length, now.mono);
                continue;
            };
            if way != Some((from_port, marks)) {
                self.send_group(port, place, way, now.mono);
                way = Some((from_port, marks));
            }
            self.group.push((index, to));
        }
        self.send_group(port, place, way, now.mono);
    }

    /// Sends what has come to `port`, which is `arrived`.
    fn send_group(&mut self, port: u16, arrived: PortKey, way: Option<(u16, Marks)>, now: Moment) {
        let Some((from_port, marks)) = way else {
            return;
        };
        self.sockets.note_tally(port, arrived, &self.engine);
        if let Some(pair) = self.sockets.pair(from_port) {
            let socket = pair.socket(from_port);
            let unsent = socket.send_many(&self.datagrams, &self.group, marks);
            let lost = unsent.indices.iter().filter_map(|i| self.datagrams.get(*i));
            let error = unsent.error.as_ref();
            let errno = error.and_then(io::Error::raw_os_error).unwrap_or_default();
            for datagram in lost {
                self.engine.unsent(arrived, datagram.data.len(), errno, now);
            }
            if let Some(error) = unsent.error {
                self.note_unsent(from_port, unsent.indices.len() as u64, &error);
            }
        }
        self.group.clear();
    }

    /// A packet that came to `port` and was to go `to` has come round so often that it goes no further. Which calls they
    /// are that it goes round between is found out and said once a minute.
    fn went_round(&mut self, port: u16, to: SocketAddr, length: usize, now: Moment) {
        let Some(pair) = self.sockets.pair(port) else {
            return;
        };
        let place = pair.place(port);
        self.engine.went_round(place, length);
        if pair.is_loop_due(now) {
            if let Some(call_id) = self.engine.sessions().call_id(place.session) {
                let found = Loop::new(self.index, place, call_id.clone(), to);
                self.find_loop(found, now);
            }
        }
    }

    /// Looks for who has the port of a loop, or has the next worker look. Whoever knows, or is the last one, tells the
    /// worker that has asked. No worker waits for another: where a mailbox is full the line is left out.
    fn find_loop(&mut self, mut found: Loop, now: Moment) {
        let here = self.sockets.pair(found.to.port());
        let place = here.map(|pair| pair.place(found.to.port()));
        let with = place.and_then(|place| self.engine.call_at(place, found.to.ip()));
        found.with = with.cloned();
        found.asked += 1;
        let workers = &self.shared.workers;
        let is_answered = found.with.is_some() || found.asked >= workers.count();
        let next = if is_answered {
            found.asker
        } else {
            (self.index + 1) % workers.count()
        };
        if next == self.index {
            self.tell_loop(&found, now);
        } else {
            workers.nudge(next, Message::Loop(Box::new(found)));
        }
    }

    /// Says which calls a packet goes round between.
    fn tell_loop(&mut self, found: &Loop, now: Moment) {
        if let Some(with) = &found.with {
            self.engine.note_round(found.place, with.clone());
        }
        let loops = self.shared.loops.lock();
        let mut loops = loops.unwrap_or_else(PoisonError::into_inner);
        if let Some(left_out) = loops.due(found, now) {
            warn!("{found}{left_out}");
        }
    }

    /// Counts what could not be sent, and says so once for each pair of ports.
    fn note_unsent(&mut self, from_port: u16, count: u64, error: &io::Error) {
        self.unsent += count;
        let Some(pair) = self.sockets.pair(from_port) else {
            return;
        };
        if std::mem::replace(&mut pair.has_failed, true) {
            return;
        }
        let place = pair.place(from_port);
        if let Some(call_id) = self.engine.sessions().call_id(place.session) {
            let (party, component) = (place.party, place.component);
            warn!(
                "[session {call_id}] {component} to the {party} cannot be sent from port {from_port}: {error}"
            );
        }
    }

    fn take_messages(&mut self, now: Now) {
        for _ in 0..MOST_COMMANDS {
            let Some(message) = self.mailbox.take() else {
                break;
            };
            self.handle(message, now);
            self.act();
        }
        if !self.engine.owes_answers() {
            if let Some(done) = self.settling.take() {
                let _ = done.send(());
            }
        }
        if self.engine.sessions().held() == 0 {
            if let Some(done) = self.ending.take() {
                let _ = done.send(());
            }
        }
    }

    fn handle(&mut self, message: Message, now: Now) {
        match message {
            Message::Update(update, reply_to, read_at) => {
                self.update(&update, reply_to, read_at, now);
            }
            Message::Remove(remove, reply_to) => {
                let answered = if self.engine.remove(&remove, reply_to, now) {
                    Answered::Ok
                } else {
                    self.reply(reply_to, b"error");
                    Answered::Error
                };
                self.shared.requests.count(Asked::Remove, answered);
            }
            Message::Sessions(listing) => self.listings.push_back((listing, Whose::Own, 0)),
            Message::Summary(summing) => self.add_share(&summing),
            Message::Explain(call_id, answer) => {
                // Who asked may have given up waiting.
                let _ = answer.send(explain::answer(&self.engine, &call_id, now));
            }
            Message::Streams(answer) => {
                // Who asked may have given up waiting.
                let _ = answer.send(self.engine.sessions().stream_counts());
            }
            Message::Owned(owner, answer) => {
                // Who asked may have given up waiting.
                let _ = answer.send(self.engine.sessions().owned_by(owner));
            }
            Message::Kernel(news) => {
                for news in news {
                    self.take_news(news, now);
                }
            }
            Message::Loop(found) if found.asker == self.index => self.tell_loop(&found, now.mono),
            Message::Loop(found) => self.find_loop(*found, now.mono),
            Message::Nudge => {}
            Message::Drain => {
                self.engine.drain();
                // What was begun before is counted before.
                self.publish();
                self.counts.drained.store(true, Ordering::Release);
            }
            Message::Settle(done) => self.settling = Some(done),
            Message::HandOver(done, released) => {
                self.save_now(|engine, each| engine.save_all(each));
                self.sockets.keep_heard();
                let _ = done.send(());
                // What is queued in the sockets may be the next process's. It ends by an error.
                let _ = released.recv();
                self.running = false;
            }
            Message::EndAll(done) => {
                self.engine.drain();
                self.engine.end_all(now);
                self.act();
                self.ending = Some(done);
            }
            Message::Quit => self.running = false,
        }
    }

    fn update(&mut self, update: &Update, reply_to: ReplyTo, read_at: Moment, now: Now) {
        let asker = Asker {
            reply_to,
            owner: owner_of(reply_to),
            since: read_at,
        };
        let before = self.engine.sessions().held();
        self.engine.update(update, asker, &mut self.sockets, now);
        self.sockets.note_fresh(&self.engine);
        if self.engine.sessions().held() > before {
            self.counts.started.add(1);
            // Before the answer: a relay that ends at the first moment without a call must know of this one.
            self.counts.publish_sessions(&self.engine);
        }
    }

    fn updated(&self, asker: Asker, reply: &UpdateReply) {
        match reply {
            UpdateReply::Error(why) => self.shared.dispatchers.refuse(asker.reply_to, why),
            reply => self.reply(asker.reply_to, reply.to_string().as_bytes()),
        }
        let requests = &self.shared.requests;
        requests.count(Asked::Update, Answered::from(reply));
        let took = clock::moment().since(asker.since);
        requests.updates.observe(took);
    }

    fn add_share(&self, summing: &Summing) {
        let share = Share {
            sessions: self.engine.sessions().live_count(),
            streams: self.engine.sessions().stream_counts(),
            unsent: self.unsent,
            dropped: self.engine.totals().dropped,
        };
        if let Some(sum) = summing.add(share) {
            let summary = summary::write(&self.shared, sum);
            self.reply(summing.reply_to, &summary);
        }
    }

    fn take_news(&mut self, news: FlowNews, now: Now) {
        self.counts.flows.count(&news);
        self.engine.on_flow_news(news, now);
    }

    fn key(&self, flow: FlowId) -> FlowKey {
        let worker = self.index;
        FlowKey { worker, flow }
    }

    /// Writes the next piece of the first list.
    fn go_on_listing(&mut self, now: Now) {
        let Some((listing, whose, cursor)) = self.listings.pop_front() else {
            return;
        };
        let asker = owner_of(listing.reply_to);
        let is_wanted = |owner| (owner == asker) == (whose == Whose::Own);
        let mut piece = Vec::new();
        let next = self
            .engine
            .write_sessions(&mut piece, is_wanted, cursor, LISTED_AT_ONCE, now);
        let has_room = listing.add(whose, piece);
        if let Some(next) = next.filter(|_| has_room) {
            // Lists take turns, too.
            self.listings.push_back((listing, whose, next));
        } else if whose == Whose::Own && has_room {
            self.listings.push_back((listing, Whose::Others, 0));
        } else if let Some(pieces) = listing.finish_one() {
            self.shared
                .dispatchers
                .reply_in_pieces(listing.reply_to, pieces);
        }
    }

    /// Does what the engine wants done.
    fn act(&mut self) {
        while let Some(action) = self.engine.poll_action() {
            match action {
                Action::Close { port } => self.sockets.close(port),
                Action::Send {
                    from_port,
                    to,
                    data,
                } => {
                    if let Err(error) = self.sockets.send(from_port, to, &data, Marks::FRESH) {
                        self.note_unsent(from_port, 1, &error);
                    }
                }
                Action::Updated { asker, reply } => self.updated(asker, &reply),
                Action::Removed { reply_to, ended } => {
                    self.counts.removed.add(1);
                    self.shared.ended.removed(reply_to, &ended);
                }
                Action::Expired { owner, ended } => {
                    self.counts.expired.add(1);
                    self.shared.ended.expired(owner, &ended);
                }
                Action::Install { flow, ends } => {
                    self.shared
                        .kernel
                        .order(Order::Install(self.key(flow), ends));
                }
                Action::Withdraw(flow) => {
                    self.shared.kernel.order(Order::Withdraw(self.key(flow)));
                }
                Action::Suspect(flow) => {
                    self.shared.kernel.order(Order::Suspect(self.key(flow)));
                }
            }
        }
    }

    fn reply(&self, to: ReplyTo, result: &[u8]) {
        self.shared.dispatchers.reply(to, result);
    }
}
