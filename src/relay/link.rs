//! A link to one dispatcher: a thread that connects, reads and hands commands to the workers, and one that
//! writes while there is a connection.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use log::{debug, info, warn};

use super::backoff::Backoff;
use super::explain;
use super::gather::{Listing, Summing};
use super::greeting::greet;
use super::kernel::order::Order;
use super::message::Message;
use super::meter::{Answered, Asked};
use super::outbox::{Outbox, Piece, Task, write_batch};
use super::{Shared, spawn, upkeep};
use crate::logging::sparse::Sparse;
use crate::metrics::Counter;
use crate::proto::control::{LINK_LIMITS, Requests};
use crate::proto::link::{ALONE, Command, FromDispatcher, Sequence, longest_list, most_sessions};
use crate::proto::{CallId, Excerpt};
use crate::session::{Owner, ReplyTo};
use crate::sys::{clock, memory, random};
use crate::tls::{self, HANDSHAKE_LIMIT, Reader, Writer};

/// How long a TCP connection may take to come about.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Bytes read at a time.
const READ_SIZE: usize = 16 * 1024;

/// A dispatcher and how it is reached. Lives as long as the process: its number stands for it in sessions.
#[derive(Debug)]
pub struct Link {
    pub owner: Owner,
    pub address: SocketAddr,
    /// As the configuration names it.
    name: String,
    pub outbox: Outbox,
    /// Connections that were lost, and attempts that failed.
    pub losses: Counter,
    pub failures: Counter,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address;
        if self.name == address.to_string() || self.name == address.ip().to_string() {
            return write!(f, "dispatcher {address}");
        }
        write!(f, "dispatcher {} ({address})", self.name)
    }
}

impl Link {
    pub fn new(owner: Owner, address: SocketAddr, name: &str) -> Link {
        Link {
            owner,
            address,
            name: name.to_owned(),
            outbox: Outbox::new(owner),
            losses: Counter::default(),
            failures: Counter::default(),
        }
    }
}

/// The link's thread: connects again and again until the link is to end.
pub fn run(shared: &Arc<Shared>, link: &Arc<Link>) {
    let longest = shared.settings.reconnect_delay;
    let mut backoff = Backoff::new(longest);
    let mut last_failure = String::new();
    while !link.outbox.is_finishing() {
        match connect(shared, link) {
            Ok((reader, writer, peer)) => {
                last_failure.clear();
                let begin = clock::mono();
                let why = converse(shared, link, reader, writer, &peer);
                // Of a dispatcher that had many long calls, or lists of them.
                memory::give_back();
                if link.outbox.is_finishing() {
                    debug!("{link}: closed");
                    break;
                }
                link.losses.add(1);
                backoff.was_up(clock::mono().saturating_sub(begin));
                let delay = backoff.next(random::bits());
                warn!("{link}: lost: {why}; again in {:.1} s", delay.as_secs_f32());
                link.outbox.pause(delay);
            }
            Err(why) => {
                link.failures.add(1);
                if why != last_failure {
                    let seconds = longest.as_secs_f32();
                    warn!("{link}: no connection: {why}; retrying, after {seconds} s at most");
                    last_failure = why;
                }
                link.outbox.pause(backoff.next(random::bits()));
            }
        }
    }
    link.outbox.set_ended();
}

fn connect(shared: &Shared, link: &Link) -> Result<(Reader, Writer, tls::Peer), String> {
    let socket = TcpStream::connect_timeout(&link.address, CONNECT_LIMIT)
        .map_err(|error| error.to_string())?;
    let context = shared.store.fresh();
    let passport = shared.settings.passport.as_ref();
    tls::connect(socket, &context, passport, HANDSHAKE_LIMIT).map_err(|error| error.to_string())
}

/// One connection, from hello to its end; why it is over.
fn converse(
    shared: &Arc<Shared>,
    link: &Arc<Link>,
    mut reader: Reader,
    writer: Writer,
    peer: &tls::Peer,
) -> String {
    let closer = reader.closer();
    let first_ping = clock::mono() + shared.settings.keepalive_interval;
    let number = link
        .outbox
        .open(Some(closer.clone()), peer.certificates.clone(), first_ping);
    // It may have been revoked since the handshake began, when the files were looked at.
    upkeep::judge(shared, &shared.store.current(), link);
    let (sharing, writing) = (Arc::clone(shared), Arc::clone(link));
    let thread = spawn("link writer", move || {
        write(&sharing, &writing, number, writer);
    });
    let thread = match thread {
        Ok(thread) => thread,
        Err(error) => {
            link.outbox.lost();
            return format!("no thread to write to it: {error}");
        }
    };
    let ended = Conversation::new(shared, link, number).read(&mut reader, peer);
    closer.close();
    let why = link.outbox.lost().unwrap_or(ended);
    // It ends at once: its connection is over. A panic in it has ended the process.
    let _ = thread.join();
    why
}

/// The writing thread of one connection: who we are, what was not confirmed before, then whatever comes. No answer
/// may overtake a session that has ended: the dispatcher would take it for lost.
fn write(shared: &Shared, link: &Link, number: u64, mut writer: Writer) {
    let hello = shared.hello_line(link.owner);
    let greeted = greet(&hello, shared.spool.as_ref(), link, |bytes| {
        let written = writer.write_all(bytes);
        written.map_err(|error| format!("writing failed: {error}"))
    });
    if let Err(why) = greeted {
        return link.outbox.close(&why);
    }
    let keepalive = shared.settings.keepalive_interval;
    let (mut batch, mut unsent, mut buffer) = (VecDeque::new(), Vec::new(), Vec::new());
    loop {
        match link.outbox.next_task(number, keepalive, &mut batch) {
            Task::Write => {}
            Task::Finish => return writer.finish(),
            Task::Stop => return,
        }
        let written = write_batch(&mut batch, &mut unsent, &mut buffer, |bytes| {
            writer.write_all(bytes)
        });
        if let Err(error) = written {
            return broke_off(link, batch, unsent, &error);
        }
    }
}

/// A batch could not be written: what is for the dispatcher, whatever its connection, stays for the next one.
pub fn broke_off(link: &Link, batch: VecDeque<Piece>, unsent: Vec<Vec<u8>>, error: &io::Error) {
    let left = batch.into_iter().filter_map(Piece::notice);
    let notices: Vec<Vec<u8>> = unsent.into_iter().chain(left).collect();
    link.outbox.put_back(notices.into_iter());
    link.outbox.close(&format!("writing failed: {error}"));
}

/// What is read from one connection.
pub struct Conversation<'a> {
    shared: &'a Arc<Shared>,
    link: &'a Arc<Link>,
    number: u64,
    odd: Sparse,
}

impl<'a> Conversation<'a> {
    pub fn new(shared: &'a Arc<Shared>, link: &'a Arc<Link>, number: u64) -> Self {
        Conversation {
            shared,
            link,
            number,
            odd: Sparse::default(),
        }
    }

    fn read(&mut self, reader: &mut Reader, peer: &tls::Peer) -> String {
        let mut requests = Requests::new(LINK_LIMITS, ALONE);
        let mut buffer = vec![0; READ_SIZE];
        let mut is_accepted = false;
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => return "closed by the dispatcher".to_owned(),
                Ok(count) => count,
                Err(error) => return error.to_string(),
            };
            if !is_accepted {
                // In TLS 1.3 only now is it certain that the dispatcher accepts our certificate.
                is_accepted = true;
                self.say_connected(peer);
            }
            requests.extend(buffer.get(..count).unwrap_or_default());
            if let Err(broken) = self.take(&mut requests) {
                return broken;
            }
        }
    }

    fn say_connected(&self, peer: &tls::Peer) {
        match peer.subject() {
            Some(subject) => info!("{}: connected, certificate \"{subject}\"", self.link),
            None => info!("{}: connected", self.link),
        }
    }

    /// Does what has come.
    ///
    /// # Errors
    /// Why the connection has to end.
    pub fn take(&mut self, requests: &mut Requests) -> Result<(), String> {
        loop {
            match requests.next_request() {
                Ok(Some(request)) => {
                    let line = FromDispatcher::parse(request);
                    self.handle(line);
                }
                Ok(None) => return Ok(()),
                Err(broken) => return Err(broken.to_string()),
            }
        }
    }

    fn handle(&mut self, line: FromDispatcher) {
        match line {
            FromDispatcher::Pong => self.link.outbox.pong(),
            FromDispatcher::Hello(hello) => {
                debug!("{}: version {}", self.link, hello.version);
                let longest = longest_list(most_sessions(self.shared.hello.capacity));
                self.link.outbox.set_ours(hello.stored, longest);
                if let Some(why) = hello.refused {
                    let why = Excerpt(why.as_bytes());
                    self.link.outbox.close(&format!("refused: {why}"));
                }
            }
            FromDispatcher::Stored(id) => {
                if let Some(spool) = &self.shared.spool {
                    spool.stored(self.link.address, id);
                }
            }
            FromDispatcher::Unknown(line) if line.is_empty() => {}
            FromDispatcher::Unknown(line) => {
                if let Some(left_out) = self.odd.due() {
                    info!("{}: ignored: \"{line}\"{left_out}", self.link);
                }
            }
            FromDispatcher::Command(sequence, Ok(command)) => self.pass_on(sequence, command),
            FromDispatcher::Command(sequence, Err(why)) => {
                if let Some(left_out) = self.odd.due() {
                    warn!("{}: command {sequence}: {why}{left_out}", self.link);
                }
                self.count(Asked::Invalid, false);
                self.refuse(self.reply_to(sequence));
            }
        }
    }

    fn count(&self, asked: Asked, is_taken: bool) {
        let answered = match is_taken {
            true => Answered::Ok,
            false => Answered::Error,
        };
        self.shared.requests.count(asked, answered);
    }

    /// To the worker that has the call, or to all. Waits while a worker has too much to do.
    fn pass_on(&self, sequence: Sequence, command: Command) {
        let reply_to = self.reply_to(sequence);
        // A list is asked for before anybody has said who it is, a call is not.
        if matches!(command, Command::Update(_) | Command::Remove(_)) {
            self.link.outbox.note_call();
        }
        let taken = match command {
            Command::Update(update) => {
                let worker = self.worker_of(&update.call_id);
                self.send(worker, Message::Update(update, reply_to, clock::mono()))
            }
            Command::Remove(remove) => {
                let worker = self.worker_of(&remove.call_id);
                self.send(worker, Message::Remove(remove, reply_to))
            }
            Command::Sessions => {
                let taken = self.list(reply_to);
                self.count(Asked::Sessions, taken);
                taken
            }
            Command::Explain(call_id) => {
                let worker = self.worker_of(&call_id);
                let taken = explain::ask(self.shared, worker, call_id, reply_to);
                self.count(Asked::Explain, taken);
                if !taken {
                    // A plain `error` would say that the call is not here.
                    self.link.outbox.reply(reply_to, explain::BUSY);
                }
                return;
            }
            Command::Summary => {
                let summing = Arc::new(Summing::new(reply_to, self.shared.workers.len()));
                let taken = self.send_all(|| Message::Summary(Arc::clone(&summing)));
                self.count(Asked::Summary, taken);
                taken
            }
        };
        if !taken {
            self.refuse(reply_to);
        }
    }

    fn list(&self, reply_to: ReplyTo) -> bool {
        if !self.link.outbox.begin_listing() {
            return false;
        }
        let limit = self.link.outbox.line_limit(reply_to);
        let workers = self.shared.workers.len();
        let listing = Arc::new(Listing::new(reply_to, workers, limit));
        let Some(kernel) = &self.shared.kernel else {
            return self.send_all(|| Message::Sessions(Arc::clone(&listing)));
        };
        // What the kernel has relayed comes first.
        let shared = Arc::clone(self.shared);
        let list = move || {
            for worker in &shared.workers {
                // All of them are gone, or none.
                let _ = worker.send(Message::Sessions(Arc::clone(&listing)));
            }
        };
        kernel.send(Order::Read(Box::new(list))).is_ok()
    }

    fn send(&self, worker: usize, message: Message) -> bool {
        let postbox = self.shared.workers.get(worker);
        postbox.is_some_and(|postbox| postbox.send(message).is_ok())
    }

    fn send_all(&self, message: impl Fn() -> Message) -> bool {
        (0..self.shared.workers.len()).all(|worker| self.send(worker, message()))
    }

    fn refuse(&self, reply_to: ReplyTo) {
        self.link.outbox.reply(reply_to, b"error");
    }

    fn reply_to(&self, sequence: Sequence) -> ReplyTo {
        ReplyTo {
            link: self.number,
            sequence,
        }
    }

    fn worker_of(&self, call_id: &CallId) -> usize {
        worker_of(call_id, self.shared.workers.len())
    }
}

/// Spreads calls over workers: FNV-1a, the same in every run.
fn worker_of(call_id: &CallId, workers: usize) -> usize {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in call_id.0.as_bytes() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    // The upper bits are the better ones.
    ((hash >> 32) % workers.max(1) as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_spread_evenly_and_always_alike() {
        let mut counts = [0; 4];
        for n in 0..4000 {
            let call_id = CallId(format!("call-{n}@192.0.2.1").as_str().into());
            let worker = worker_of(&call_id, 4);
            assert_eq!(worker, worker_of(&call_id, 4));
            counts[worker] += 1;
        }
        assert!(counts.iter().all(|n| (900..1100).contains(n)), "{counts:?}");
        assert_eq!(worker_of(&CallId("x".into()), 0), 0);
    }

    #[test]
    fn links_are_named_as_configured() {
        let address: SocketAddr = "192.0.2.1:25060".parse().unwrap();
        let shown = |name: &str| Link::new(Owner(0), address, name).to_string();
        assert_eq!(shown("192.0.2.1"), "dispatcher 192.0.2.1:25060");
        assert_eq!(
            shown("sip.example.com"),
            "dispatcher sip.example.com (192.0.2.1:25060)"
        );
    }
}
