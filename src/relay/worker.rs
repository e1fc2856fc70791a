//! One worker: a thread that owns an engine, its sockets and its timers, and never blocks but in epoll and for the
//! half millisecond of a rest.
//!
//! A turn of its loop reads at most one batch from each ready socket, handles at most a few dozen commands and
//! writes at most one piece of a list, so that none of them holds up the others.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddrV4;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::Sender;
use log::{error, warn};

use super::Shared;
use super::explain;
use super::gather::{Listing, Share, Summing};
use super::kernel::{self, News, Order};
use super::machine::{Addresses, Machine, SharedPorts};
use super::meter::{Answered, Asked, Meter};
use super::outbox::owner_of;
use super::pace::{Pace, REST};
use super::rounds::Round;
use crate::logging::sparse::Sparse;
use crate::moment::Now;
use crate::proto::CallId;
use crate::proto::control::{Remove, Update};
use crate::proto::link::{UpdateReply, most_sessions};
use crate::session::{
    Action, Asker, Engine, FlowId, Owner, Place, ReplyTo, Room, Settings, Verdict,
};
use crate::sys::clock;
use crate::sys::epoll::{Epoll, Events, Trigger};
use crate::sys::mailbox::Mailbox;
use crate::sys::udp::{BATCH, Datagrams, Marks};

/// Commands handled in one turn.
const COMMANDS: usize = 64;

/// Sessions written into a list in one turn, and bytes: a dispatcher's headers may be long, and a turn is what all calls wait.
const LISTED: (usize, usize) = (64, 64 * 1024);

/// The mailbox among the watched descriptors; sockets have their ports.
const MAILBOX: u64 = u64::MAX;

/// What a worker is told.
#[derive(Debug)]
pub enum Message {
    /// And when it was read.
    Update(Box<Update>, ReplyTo, Duration),
    Remove(Remove, ReplyTo),
    Sessions(Arc<Listing>),
    Summary(Arc<Summing>),
    /// All that is known of a call.
    Explain(CallId, Sender<Vec<u8>>),
    /// How many live streams there are of each type.
    Streams(Sender<BTreeMap<String, usize>>),
    /// How many sessions are to be reported to a dispatcher.
    Owned(Owner, Sender<usize>),
    /// What the kernel thread tells of this worker's flows.
    Kernel(Vec<News>),
    /// Who has the port that packets of a call come round by: the question, or the answer for who has asked.
    Round(Box<Round>),
    /// Nothing but a round of the loop, for the watchdog.
    Nudge,
    /// No new sessions from now on.
    Drain,
    /// End all sessions, and tell when they are reported.
    EndAll(Sender<()>),
    Quit,
}

/// Streams that are kept for each session that there can be, ended ones included.
const STREAMS: usize = 16;

/// What one of so many workers may hold: together no more than a dispatcher believes of this relay.
fn room(ports: &SharedPorts, workers: usize) -> Room {
    let capacity = ports.room(clock::mono()).all;
    let sessions = most_sessions(Some(capacity)) / workers.max(1);
    Room {
        sessions,
        streams: sessions * STREAMS,
    }
}

/// See the module.
pub struct Worker {
    index: usize,
    shared: Arc<Shared>,
    mailbox: Mailbox<Message>,
    engine: Engine,
    machine: Machine,
    epoll: Arc<Epoll>,
    datagrams: Datagrams,
    /// Of a flood, what goes out of one socket with the same marks: which of the datagrams, and where to.
    group: Vec<(usize, SocketAddrV4)>,
    /// Lists in the making, and where each goes on.
    listings: VecDeque<(Arc<Listing>, usize)>,
    round: u64,
    pace: Pace,
    meter: Arc<Meter>,
    unsent: u64,
    unreadable: Sparse,
    /// Who waits for all sessions to be reported.
    ending: Option<Sender<()>>,
    running: bool,
}

impl Worker {
    /// A worker that is not running yet.
    ///
    /// # Errors
    /// When no epoll descriptor can be had.
    pub fn new(
        index: usize,
        shared: Arc<Shared>,
        mailbox: Mailbox<Message>,
        settings: Settings,
        addresses: Addresses,
    ) -> io::Result<Worker> {
        let epoll = Arc::new(Epoll::new()?);
        epoll.add(&mailbox, MAILBOX, Trigger::Edge)?;
        let ports = Arc::clone(&shared.ports);
        let mut engine = Engine::new(settings);
        engine.set_room(room(&ports, shared.workers.len()));
        Ok(Worker {
            index,
            mailbox,
            engine,
            machine: Machine::new(addresses, ports, Arc::clone(&epoll)),
            epoll,
            datagrams: Datagrams::new(),
            group: Vec::with_capacity(BATCH),
            listings: VecDeque::new(),
            round: 0,
            pace: Pace::default(),
            meter: shared.meters.get(index).map(Arc::clone).unwrap_or_default(),
            unsent: 0,
            unreadable: Sparse::default(),
            ending: None,
            running: true,
            shared,
        })
    }

    /// Works until it is told to quit.
    pub fn run(mut self) {
        let mut events = Events::new();
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
            if self.pace.rests(read, now.mono.since_start()) && has_time {
                thread::sleep(REST);
            }
        }
    }

    /// Goes round until nothing is left to do at this moment, without a look at its sockets.
    pub fn settle(&mut self, now: Now) {
        let nothing = Events::new();
        self.turn(&nothing, now);
        while !self.listings.is_empty() || !self.mailbox.is_empty() {
            self.turn(&nothing, now);
        }
    }

    /// Adds the sessions that it has, each as JSON with a comma after it.
    pub fn write_sessions(&self, out: &mut Vec<u8>, now: Now) {
        let all = (usize::MAX, usize::MAX);
        self.engine.write_sessions(out, 0, all, now);
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
        if due.is_some_and(|due| due <= now.mono.since_start()) {
            self.engine.tick(now);
            self.act();
        }
        self.go_on_listing(now);
        self.publish();
        read
    }

    /// How long there is nothing to do but what comes.
    fn time_left(&self) -> Option<Duration> {
        if !self.listings.is_empty() || !self.mailbox.is_empty() {
            return Some(Duration::ZERO);
        }
        let due = self.engine.next_deadline()?;
        Some(due.saturating_sub(clock::mono()))
    }

    fn publish(&self) {
        self.meter.publish(&self.engine, self.unsent);
        self.meter.pulse.beat();
    }

    fn read_socket(&mut self, port: u16, now: Now) {
        // It may have been closed in this very round.
        let Some(pair) = self.machine.pair(port) else {
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
        if flood {
            self.relay_many(port, now);
        } else {
            self.relay_one(port, now);
        }
        self.act();
    }

    fn relay_one(&mut self, port: u16, now: Now) {
        let Some(pair) = self.machine.pair(port) else {
            return;
        };
        let place = pair.place(port);
        let Some(datagram) = self.datagrams.get(0) else {
            return;
        };
        let verdict =
            self.engine
                .packet(place, datagram.from, datagram.data, now.mono.since_start());
        if let Verdict::Forward { from_port, to } = verdict {
            let Some(marks) = pair.onward(port, datagram.marks, now.mono.since_start()) else {
                let length = datagram.data.len();
                return self.went_round(port, to, length, now.mono.since_start());
            };
            let sent = self.machine.send(from_port, to, datagram.data, marks);
            if let Err(error) = sent {
                let errno = error.raw_os_error().unwrap_or_default();
                self.engine
                    .unsent(place, datagram.data.len(), errno, now.mono.since_start());
                self.note_unsent(from_port, 1, &error);
            }
        }
    }

    /// As [`Worker::relay_one`] for each of a batch; what goes the same way goes in one system call.
    fn relay_many(&mut self, port: u16, now: Now) {
        let Some(pair) = self.machine.pair(port) else {
            return;
        };
        let place = pair.place(port);
        let mut way = None;
        for index in 0..self.datagrams.len() {
            let Some(datagram) = self.datagrams.get(index) else {
                break;
            };
            let verdict =
                self.engine
                    .packet(place, datagram.from, datagram.data, now.mono.since_start());
            let Verdict::Forward { from_port, to } = verdict else {
                continue;
            };
            let pair = self.machine.pair(port);
            let marks =
                pair.and_then(|pair| pair.onward(port, datagram.marks, now.mono.since_start()));
            let Some(marks) = marks else {
                let length = datagram.data.len();
                self.went_round(port, to, length, now.mono.since_start());
                continue;
            };
            if way != Some((from_port, marks)) {
                self.send_group(place, way, now.mono.since_start());
                way = Some((from_port, marks));
            }
            self.group.push((index, to));
        }
        self.send_group(place, way, now.mono.since_start());
    }

    fn send_group(&mut self, arrived: Place, way: Option<(u16, Marks)>, now: Duration) {
        let Some((from_port, marks)) = way else {
            return;
        };
        if let Some(pair) = self.machine.pair(from_port) {
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
    fn went_round(&mut self, port: u16, to: SocketAddrV4, length: usize, now: Duration) {
        let Some(pair) = self.machine.pair(port) else {
            return;
        };
        let place = pair.place(port);
        self.engine.went_round(place, length);
        if pair.is_round_due(now) {
            if let Some(call_id) = self.engine.call_id(place.session) {
                let round = Round::new(self.index, place, call_id.clone(), to);
                self.find_round(round, now);
            }
        }
    }

    /// Looks for who has the port of a round, or has the next worker look. Whoever knows, or is the last one, tells the
    /// worker that has asked. No worker waits for another: where a mailbox is full the line is left out.
    fn find_round(&mut self, mut round: Round, now: Duration) {
        let here = self.machine.pair(round.to.port());
        let place = here.map(|pair| pair.place(round.to.port()));
        let with = place.and_then(|place| self.engine.call_at(place, *round.to.ip()));
        round.with = with.cloned();
        round.asked += 1;
        let workers = &self.shared.workers;
        let is_answered = round.with.is_some() || round.asked >= workers.len();
        let next = match is_answered {
            true => round.asker,
            false => (self.index + 1) % workers.len(),
        };
        if next == self.index {
            self.tell_round(&round, now);
        } else if let Some(next) = workers.get(next) {
            next.nudge(Message::Round(Box::new(round)));
        }
    }

    /// Says which calls a packet goes round between.
    fn tell_round(&mut self, round: &Round, now: Duration) {
        if let Some(with) = &round.with {
            self.engine.note_round(round.place, with.clone());
        }
        let rounds = self.shared.rounds.lock();
        let mut rounds = rounds.unwrap_or_else(PoisonError::into_inner);
        if let Some(left_out) = rounds.due(round, now) {
            warn!("{round}{left_out}");
        }
    }

    /// Counts what could not be sent, and says so once for each pair of ports.
    fn note_unsent(&mut self, from_port: u16, count: u64, error: &io::Error) {
        self.unsent += count;
        let Some(pair) = self.machine.pair(from_port) else {
            return;
        };
        if std::mem::replace(&mut pair.has_failed, true) {
            return;
        }
        let place = pair.place(from_port);
        if let Some(call_id) = self.engine.call_id(place.session) {
            let (party, component) = (place.party, place.component);
            warn!(
                "[session {call_id}] {component} to the {party} cannot be sent from port {from_port}: {error}"
            );
        }
    }

    fn take_messages(&mut self, now: Now) {
        for _ in 0..COMMANDS {
            let Some(message) = self.mailbox.take() else {
                break;
            };
            self.handle(message, now);
            self.act();
        }
        if self.engine.held() == 0 {
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
                let answered = match self.engine.remove(&remove, reply_to, now) {
                    true => Answered::Ok,
                    false => {
                        self.reply(reply_to, b"error");
                        Answered::Error
                    }
                };
                self.shared.requests.count(Asked::Remove, answered);
            }
            Message::Sessions(listing) => self.listings.push_back((listing, 0)),
            Message::Summary(summing) => self.add_share(&summing),
            Message::Explain(call_id, answer) => {
                // Who asked may have given up waiting.
                let _ = answer.send(explain::answer(&self.engine, &call_id, now));
            }
            Message::Streams(answer) => {
                // Who asked may have given up waiting.
                let _ = answer.send(self.engine.stream_counts());
            }
            Message::Owned(owner, answer) => {
                // Who asked may have given up waiting.
                let _ = answer.send(self.engine.owned_by(owner));
            }
            Message::Kernel(news) => {
                for news in news {
                    self.take_news(news, now);
                }
            }
            Message::Round(round) if round.asker == self.index => {
                self.tell_round(&round, now.mono.since_start())
            }
            Message::Round(round) => self.find_round(*round, now.mono.since_start()),
            Message::Nudge => {}
            Message::Drain => {
                self.engine.drain();
                // What was begun before is counted before.
                self.publish();
                self.meter.drained.store(true, Ordering::Release);
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

    fn update(&mut self, update: &Update, reply_to: ReplyTo, read_at: Duration, now: Now) {
        let asker = Asker {
            reply_to,
            owner: owner_of(reply_to),
            since: read_at,
        };
        let before = self.engine.held();
        self.engine.update(update, asker, &mut self.machine, now);
        if self.engine.held() > before {
            self.meter.started.add(1);
            // Before the answer: a relay that ends at the first moment without a call must know of this one.
            self.meter.publish_sessions(&self.engine);
        }
    }

    fn updated(&self, asker: Asker, reply: &UpdateReply) {
        match reply {
            UpdateReply::Error(why) => self.shared.refuse(asker.reply_to, why),
            reply => self.reply(asker.reply_to, reply.to_string().as_bytes()),
        }
        let requests = &self.shared.requests;
        requests.count(Asked::Update, Answered::from(reply));
        let took = clock::mono().saturating_sub(asker.since);
        requests.updates.observe(took);
    }

    fn add_share(&self, summing: &Summing) {
        let share = Share {
            sessions: self.engine.session_count(),
            streams: self.engine.stream_counts(),
            unsent: self.unsent,
            dropped: self.engine.dropped(),
        };
        if let Some(sum) = summing.add(share) {
            let summary = self.shared.summary(sum);
            self.reply(summing.reply_to, &summary);
        }
    }

    fn take_news(&mut self, news: News, now: Now) {
        let engine = &mut self.engine;
        self.meter.flows.count(&news);
        match news {
            News::Installed(flow, answer) => {
                engine.flow_installed(flow, answer, now.mono.since_start())
            }
            News::Traffic(flow, more) => engine.flow_traffic(flow, more, now.mono.since_start()),
            News::Lost(flow, loss, last) => {
                engine.flow_lost(flow, loss, last, now.mono.since_start())
            }
            News::Withdrawn(flow, last) => engine.flow_withdrawn(flow, last, now),
            News::Heard(until) => engine.flows_heard(until),
            News::Mended => engine.forwarding_mended(now.mono.since_start()),
        }
    }

    fn key(&self, flow: FlowId) -> kernel::Key {
        let worker = self.index;
        kernel::Key { worker, flow }
    }

    /// Writes the next piece of the first list.
    fn go_on_listing(&mut self, now: Now) {
        let Some((listing, cursor)) = self.listings.pop_front() else {
            return;
        };
        let mut piece = Vec::new();
        let next = self.engine.write_sessions(&mut piece, cursor, LISTED, now);
        let is_wanted = listing.add(piece);
        if let Some(next) = next.filter(|_| is_wanted) {
            // Lists take turns, too.
            self.listings.push_back((listing, next));
        } else if let Some(pieces) = listing.finish_one() {
            self.shared.reply_in_pieces(listing.reply_to, pieces);
        }
    }

    /// Does what the engine wants done.
    fn act(&mut self) {
        while let Some(action) = self.engine.poll_action() {
            match action {
                Action::Close { port } => self.machine.close(port),
                Action::Send {
                    from_port,
                    to,
                    data,
                } => {
                    if let Err(error) = self.machine.send(from_port, to, &data, Marks::FRESH) {
                        self.note_unsent(from_port, 1, &error);
                    }
                }
                Action::Updated { asker, reply } => self.updated(asker, &reply),
                Action::Removed { reply_to, ended } => {
                    self.meter.removed.add(1);
                    self.shared.removed(reply_to, &ended);
                }
                Action::Expired { owner, ended } => {
                    self.meter.expired.add(1);
                    self.shared.expired(owner, &ended);
                }
                Action::Install { flow, ends } => {
                    self.shared.order(Order::Install(self.key(flow), ends));
                }
                Action::Withdraw(flow, why) => {
                    self.meter.flows.count_withdrawal(why);
                    self.shared.order(Order::Withdraw(self.key(flow), why));
                }
            }
        }
    }

    fn reply(&self, to: ReplyTo, result: &[u8]) {
        self.shared.reply(to, result);
    }
}
