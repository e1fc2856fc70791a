//! A link to one dispatcher: a thread that connects, reads and hands commands to the workers. While there is a connection
//! another one writes (`link_writer`).

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use log::{debug, info, warn};

use super::backoff::Backoff;
use super::dispatcher::Dispatcher;
use super::dispatchers::Added;
use super::listing::Listing;
use super::message::Message;
use super::request_counts::{Answered, Asked};
use super::shared::Shared;
use super::summing::Summing;
use super::{explain, link_writer, threads, upkeep};
use crate::diagnosis::advertised;
use crate::logging::sparse::Sparse;
use crate::proto::Excerpt;
use crate::proto::control::{LINK_LIMITS, Requests};
use crate::proto::link::{ALONE, Command, FromDispatcher, Sequence, longest_list, most_sessions};
use crate::session::ReplyTo;
use crate::sys::{clock, memory, random};
use crate::tls::{self, HANDSHAKE_LIMIT, Reader, Writer};

/// How long a TCP connection may take to come about.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Bytes read at a time.
const READ_SIZE: usize = 16 * 1024;

/// Sees to it that there is a link to a dispatcher.
///
/// # Errors
/// Why there can be none.
pub(super) fn ensure(shared: &Arc<Shared>, address: SocketAddr, name: &str) -> Result<(), String> {
    let Some(added) = shared.dispatchers.add(address, name)? else {
        return Ok(());
    };
    let Added { dispatcher, is_new } = added;
    if is_new {
        warn_of_reach(shared, address);
    }
    let shared = Arc::clone(shared);
    threads::start("link", move || run(&shared, &dispatcher))
}

/// Says once that parties cannot reach the relay, where it looks like that from the way to a dispatcher.
fn warn_of_reach(shared: &Shared, dispatcher: SocketAddr) {
    let settings = &shared.settings;
    let v4 = |address| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    };
    let told = v4(shared.identity.relay_ip).and_then(|relay_ip| {
        advertised::advertised_address(
            relay_ip,
            settings.session.advertised_ip.and_then(v4),
            settings.auto_detect_interfaces,
            dispatcher.ip(),
        )
    });
    let text = told.and_then(|told| advertised::out_of_reach(told, dispatcher.ip()));
    if let Some(text) = text.filter(|_| !shared.has_warned.swap(true, Ordering::Relaxed)) {
        warn!("relay_ip: {text}");
    }
}

/// The link's thread: connects again and again until the link is to end.
fn run(shared: &Arc<Shared>, dispatcher: &Arc<Dispatcher>) {
    let longest = shared.settings.reconnect_delay;
    let mut backoff = Backoff::new(longest);
    let mut last_failure = String::new();
    while !dispatcher.queue.is_finishing() {
        match connect(shared, dispatcher) {
            Ok((reader, writer, peer)) => {
                last_failure.clear();
                let begin = clock::moment();
                let why = converse(shared, dispatcher, reader, writer, &peer);
                // Of a dispatcher that had many long calls, or lists of them.
                memory::give_back();
                if dispatcher.queue.is_finishing() {
                    debug!("{dispatcher}: closed");
                    break;
                }
                dispatcher.losses.add(1);
                backoff.was_up(clock::moment().since(begin));
                let delay = backoff.next(random::bits());
                warn!(
                    "{dispatcher}: lost: {why}; again in {:.1} s",
                    delay.as_secs_f32()
                );
                dispatcher.queue.pause(delay);
            }
            Err(why) => {
                dispatcher.failures.add(1);
                if why != last_failure {
                    let seconds = longest.as_secs_f32();
                    warn!(
                        "{dispatcher}: no connection: {why}; retrying, after {seconds} s at most"
                    );
                    last_failure = why;
                }
                dispatcher.queue.pause(backoff.next(random::bits()));
            }
        }
    }
    dispatcher.queue.set_ended();
}

fn connect(
    shared: &Shared,
    dispatcher: &Dispatcher,
) -> Result<(Reader, Writer, tls::Peer), String> {
    let socket = TcpStream::connect_timeout(&dispatcher.address, CONNECT_LIMIT)
        .map_err(|error| error.to_string())?;
    let context = shared.store.fresh();
    let passport = shared.settings.passport.as_ref();
    tls::connect(socket, &context, passport, HANDSHAKE_LIMIT).map_err(|error| error.to_string())
}

/// One connection, from hello to its end; why it is over.
fn converse(
    shared: &Arc<Shared>,
    dispatcher: &Arc<Dispatcher>,
    mut reader: Reader,
    writer: Writer,
    peer: &tls::Peer,
) -> String {
    let closer = reader.closer();
    let first_ping = clock::moment() + shared.settings.keepalive_interval;
    let number = dispatcher
        .queue
        .open(Some(closer.clone()), peer.certificates.clone(), first_ping);
    // It may have been revoked since the handshake began, when the files were looked at.
    upkeep::judge(shared, &shared.store.current(), dispatcher);
    let (sharing, writing) = (Arc::clone(shared), Arc::clone(dispatcher));
    let thread = threads::spawn("link writer", move || {
        link_writer::write(&sharing, &writing, number, writer);
    });
    let thread = match thread {
        Ok(thread) => thread,
        Err(error) => {
            dispatcher.queue.lost();
            return format!("no thread to write to it: {error}");
        }
    };
    let ended = Conversation::new(shared, dispatcher, number).read(&mut reader, peer);
    closer.close();
    let why = dispatcher.queue.lost().unwrap_or(ended);
    // It ends at once: its connection is over. A panic in it has ended the process.
    let _ = thread.join();
    why
}

/// What is read from one connection.
pub(super) struct Conversation<'a> {
    shared: &'a Arc<Shared>,
    dispatcher: &'a Arc<Dispatcher>,
    number: u64,
    odd: Sparse,
}

impl<'a> Conversation<'a> {
    pub(super) fn new(
        shared: &'a Arc<Shared>,
        dispatcher: &'a Arc<Dispatcher>,
        number: u64,
    ) -> Self {
        Conversation {
            shared,
            dispatcher,
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
            Some(subject) => info!("{}: connected, certificate \"{subject}\"", self.dispatcher),
            None => info!("{}: connected", self.dispatcher),
        }
    }

    /// Does what has come.
    ///
    /// # Errors
    /// Why the connection has to end.
    pub(super) fn take(&mut self, requests: &mut Requests) -> Result<(), String> {
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
            FromDispatcher::Pong => self.dispatcher.queue.pong(),
            FromDispatcher::Hello(hello) => {
                debug!("{}: version {}", self.dispatcher, hello.version);
                let longest = longest_list(most_sessions(self.shared.identity.capacity()));
                self.dispatcher.queue.set_ours(hello.stored, longest);
                if let Some(why) = hello.refused {
                    let why = Excerpt(why.as_bytes());
                    self.dispatcher.queue.close(&format!("refused: {why}"));
                }
            }
            FromDispatcher::Stored(id) => {
                if let Some(spool) = &self.shared.ended.spool {
                    spool.stored(self.dispatcher.address, id);
                }
            }
            FromDispatcher::Unknown(line) if line.is_empty() => {}
            FromDispatcher::Unknown(line) => {
                if let Some(left_out) = self.odd.due() {
                    info!("{}: ignored: \"{line}\"{left_out}", self.dispatcher);
                }
            }
            FromDispatcher::Command(sequence, Ok(command)) => self.pass_on(sequence, command),
            FromDispatcher::Command(sequence, Err(why)) => {
                if let Some(left_out) = self.odd.due() {
                    warn!("{}: command {sequence}: {why}{left_out}", self.dispatcher);
                }
                self.count(Asked::Invalid, false);
                self.refuse(self.reply_to(sequence));
            }
        }
    }

    fn count(&self, asked: Asked, is_taken: bool) {
        let answered = if is_taken {
            Answered::Ok
        } else {
            Answered::Error
        };
        self.shared.requests.count(asked, answered);
    }

    /// To the worker that has the call, or to all. Waits while a worker has too much to do.
    fn pass_on(&self, sequence: Sequence, command: Command) {
        if self.shared.is_handing_over.load(Ordering::Relaxed) {
            // The dispatcher asks the next process.
            return;
        }
        let reply_to = self.reply_to(sequence);
        // A list is asked for before anybody has said who it is, a call is not.
        if matches!(command, Command::Update(_) | Command::Remove(_)) {
            self.dispatcher.queue.note_call();
        }
        let taken = match command {
            Command::Update(update) => {
                let worker = self.shared.workers.of(&update.call_id);
                self.shared
                    .workers
                    .send(worker, Message::Update(update, reply_to, clock::moment()))
            }
            Command::Remove(remove) => {
                let worker = self.shared.workers.of(&remove.call_id);
                self.shared
                    .workers
                    .send(worker, Message::Remove(remove, reply_to))
            }
            Command::Sessions => {
                let taken = self.list(reply_to);
                self.count(Asked::Sessions, taken);
                taken
            }
            Command::Explain(call_id) => {
                let worker = self.shared.workers.of(&call_id);
                let taken = explain::ask(self.shared, worker, call_id, reply_to);
                self.count(Asked::Explain, taken);
                if !taken {
                    // A plain `error` would say that the call is not here.
                    self.dispatcher.queue.reply(reply_to, explain::BUSY);
                }
                return;
            }
            Command::Summary => {
                let summing = Arc::new(Summing::new(reply_to, self.shared.workers.count()));
                let taken = self
                    .shared
                    .workers
                    .send_all(|| Message::Summary(Arc::clone(&summing)));
                self.count(Asked::Summary, taken);
                taken
            }
        };
        if !taken {
            self.refuse(reply_to);
        }
    }

    fn list(&self, reply_to: ReplyTo) -> bool {
        if !self.dispatcher.queue.begin_listing() {
            return false;
        }
        let limit = self.dispatcher.queue.line_limit(reply_to);
        let workers = self.shared.workers.count();
        let listing = Arc::new(Listing::new(reply_to, workers, limit));
        // What the kernel has relayed comes first.
        let shared = Arc::clone(self.shared);
        self.shared.kernel.after_reading(move || {
            // All of them are gone, or none.
            shared
                .workers
                .send_all(|| Message::Sessions(Arc::clone(&listing)));
        })
    }

    fn refuse(&self, reply_to: ReplyTo) {
        self.dispatcher.queue.reply(reply_to, b"error");
    }

    fn reply_to(&self, sequence: Sequence) -> ReplyTo {
        ReplyTo {
            link: self.number,
            sequence,
        }
    }
}
