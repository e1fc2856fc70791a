//! A relay without TLS and threads (but for its spool's), for tests that try any order of what its dispatchers do: their
//! bytes go in and what is queued for them comes out, connections come and go, and time passes when told. Everything
//! between is what runs in the daemon, media sockets on loopback included, to which nobody sends.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;

use super::dispatcher::Dispatcher;
use super::explain;
use super::kernel::Opened;
use super::link::Conversation;
use super::link_writer::{broke_off, greet};
use super::message::Message;
use super::question::Question;
use super::send_queue::{Task, write_batch};
use super::shared::Shared;
use super::socket_store::SocketStore;
use super::worker::Worker;
use super::{Kept, Parts, Settings, assemble, workers};
use crate::config::Forwarding;
use crate::daemon::StartError;
use crate::moment::{Moment, Now};
use crate::proto::control::{LINK_LIMITS, Requests};
use crate::proto::link::ALONE;
use crate::session::{self, LearningRules};
use crate::sys::clock;
use crate::tls::Store;

/// No ping is due in any rehearsal.
const NO_KEEPALIVE: Duration = Duration::from_secs(1 << 30);

/// Bytes of ended calls on disk.
const SPOOL_LIMIT: u64 = 16 << 20;

/// Ends what is read, so that no writer waits.
const MARK: &[u8] = b"rehearsed\r\n";

/// See the module.
pub struct Rehearsal {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    asked: Receiver<Option<Question>>,
    lines: Vec<Line>,
    /// By how much it is later than the clock says.
    later: Duration,
}

/// A dispatcher, and what came over its connection and is not a whole request.
struct Line {
    dispatcher: Arc<Dispatcher>,
    requests: Requests,
}

impl Rehearsal {
    /// A relay with two workers that has these dispatchers, and what a relay before it has kept in `state_dir`.
    ///
    /// # Errors
    /// As of the daemon's start.
    pub fn new(
        state_dir: &Path,
        port_range: (u16, u32),
        dispatchers: &[SocketAddr],
        store: Arc<Store>,
    ) -> Result<Rehearsal, StartError> {
        let settings = settings(state_dir, port_range);
        let why = Opened::UserSpace("in user space only".into());
        let kept = Kept {
            sockets: SocketStore::none(),
            state: None,
        };
        let assembled = assemble(settings, store, Ipv4Addr::LOCALHOST.into(), why, kept, None)?;
        let (shared, parts) = assembled;
        let Parts {
            mailboxes,
            spool,
            asked,
            ..
        } = parts;
        if let Some(spool) = spool {
            spool.start(&shared.dispatchers)?;
        }
        let workers = workers(&shared, mailboxes)?;
        let mut lines = Vec::new();
        for address in dispatchers {
            if let Some(added) = shared.dispatchers.add(*address, "dispatcher")? {
                lines.push(Line {
                    dispatcher: added.dispatcher,
                    requests: Requests::new(LINK_LIMITS, ALONE),
                });
            }
        }
        shared.dispatchers.set_found();
        let rehearsal = Rehearsal {
            workers,
            asked,
            lines,
            later: Duration::ZERO,
            shared,
        };
        Ok(rehearsal)
    }

    /// A connection to a dispatcher, in place of the one that there was: what the relay says first.
    ///
    /// # Errors
    /// Why there is none.
    pub fn connect(&mut self, dispatcher: usize) -> Result<Vec<u8>, String> {
        self.lose(dispatcher);
        let Some(line) = self.lines.get_mut(dispatcher) else {
            return Err("no such dispatcher".into());
        };
        line.requests = Requests::new(LINK_LIMITS, ALONE);
        line.dispatcher.queue.open(None, None, Moment::NEVER);
        let hello = self.shared.identity.hello_line(line.dispatcher.owner);
        let mut said = Vec::new();
        greet(
            &hello,
            self.shared.ended.spool.as_ref(),
            &line.dispatcher,
            |bytes| {
                said.extend_from_slice(bytes);
                Ok(())
            },
        )?;
        Ok(said)
    }

    /// The connection to a dispatcher stands.
    pub fn is_up(&self, dispatcher: usize) -> bool {
        let line = self.lines.get(dispatcher);
        line.is_some_and(|line| line.dispatcher.queue.standing().is_some())
    }

    /// A dispatcher says something.
    pub fn hear(&mut self, dispatcher: usize, bytes: &[u8]) {
        let Some(line) = self.lines.get_mut(dispatcher) else {
            return;
        };
        if let Some(number) = line.dispatcher.queue.standing() {
            line.requests.extend(bytes);
            let mut conversation = Conversation::new(&self.shared, &line.dispatcher, number);
            if let Err(why) = conversation.take(&mut line.requests) {
                line.dispatcher.queue.close(&why);
            }
        }
        self.settle();
    }

    /// Time passes.
    pub fn pass(&mut self, time: Duration) {
        self.later += time;
        self.settle();
    }

    fn now(&self) -> Now {
        let now = clock::now();
        Now {
            mono: now.mono + self.later,
            unix: now.unix + self.later,
        }
    }

    /// Everybody does what there is to do; the links that are closed from this side are lost.
    fn settle(&mut self) {
        let now = self.now();
        self.workers
            .iter_mut()
            .for_each(|worker| worker.settle(now));
        while let Ok(Some(question)) = self.asked.try_recv() {
            let reply_to = question.reply_to;
            let told = explain::ask_worker(&self.shared, question);
            self.workers
                .iter_mut()
                .for_each(|worker| worker.settle(now));
            let answer = told.and_then(|told| told.try_recv().ok());
            let busy = || explain::BUSY.to_vec();
            self.shared
                .dispatchers
                .reply(reply_to, &answer.unwrap_or_else(busy));
        }
        for line in &self.lines {
            if line.dispatcher.queue.standing().is_none() {
                line.dispatcher.queue.lost();
            }
        }
    }

    /// The connection to a dispatcher is lost.
    pub fn lose(&mut self, dispatcher: usize) {
        if let Some(line) = self.lines.get(dispatcher) {
            line.dispatcher.queue.lost();
        }
    }

    /// Takes what is queued for a dispatcher, whole lines.
    pub fn read(&mut self, dispatcher: usize) -> Vec<u8> {
        let mut read = Vec::new();
        self.write(dispatcher, |bytes| {
            read.extend_from_slice(bytes);
            Ok(())
        });
        if read.ends_with(MARK) {
            read.truncate(read.len() - MARK.len());
        }
        read
    }

    /// The connection breaks while what is queued is being written.
    pub fn break_off(&mut self, dispatcher: usize) {
        self.write(dispatcher, |_| Err(io::ErrorKind::BrokenPipe.into()));
        self.lose(dispatcher);
    }

    fn write(&self, dispatcher: usize, write: impl FnMut(&[u8]) -> io::Result<()>) {
        let Some(line) = self.lines.get(dispatcher) else {
            return;
        };
        let queue = &line.dispatcher.queue;
        let Some(number) = queue.standing() else {
            return;
        };
        // The writer waits for nothing then.
        queue.say(MARK);
        let mut batch = VecDeque::new();
        if queue.next_task(number, NO_KEEPALIVE, &mut batch) == Task::Write {
            let (mut unsent, mut buffer) = (Vec::new(), Vec::new());
            if let Err(error) = write_batch(&mut batch, &mut unsent, &mut buffer, write) {
                broke_off(&line.dispatcher, batch, unsent, &error);
            }
        }
    }

    /// The sessions that there are, as a JSON array.
    pub fn sessions(&self) -> Vec<u8> {
        let mut sessions = b"[".to_vec();
        for worker in &self.workers {
            worker.write_sessions(&mut sessions, self.now());
        }
        if sessions.ends_with(b",") {
            sessions.pop();
        }
        sessions.push(b']');
        sessions
    }

    /// Port pairs that are bound.
    pub fn bound(&self) -> usize {
        self.shared.ports.bound()
    }

    /// Ended calls that are kept for dispatchers.
    pub fn kept(&self) -> usize {
        let waiting = self.lines.iter().map(|line| line.dispatcher.queue.kept());
        let spool = self.shared.ended.spool.as_ref();
        spool.map_or(0, super::spool::Spool::open) + waiting.sum::<usize>()
    }

    /// All sessions end, as when the daemon is stopped; [`Rehearsal::read`] has the last of it.
    pub fn end_sessions(&mut self) {
        let (done, _is_done) = crossbeam_channel::unbounded();
        self.shared
            .workers
            .send_all(|| Message::EndAll(done.clone()));
        self.settle();
    }
}

impl Drop for Rehearsal {
    /// What was handed to the spool is on disk.
    fn drop(&mut self) {
        if let Some(spool) = &self.shared.ended.spool {
            spool.quit(super::KERNEL_LIMIT);
        }
    }
}

fn settings(state_dir: &Path, port_range: (u16, u32)) -> Settings {
    let minute = Duration::from_secs(60);
    Settings {
        dispatchers: Vec::new(),
        passport: None,
        relay_ip: Some(Ipv4Addr::LOCALHOST),
        auto_detect_interfaces: false,
        port_range,
        dns_check_interval: minute,
        keepalive_interval: NO_KEEPALIVE,
        reconnect_delay: minute,
        traffic_sampling_period: Duration::ZERO,
        verify_interval: minute,
        forwarding: Forwarding::Userspace,
        mark: (0x4d50_0000, 0xffff_0000),
        session: session::Settings {
            stream_timeout: minute,
            on_hold_timeout: minute,
            setup_timeout: minute,
            learning: LearningRules::default(),
            advertised_ip: None,
            routable_private_ranges: Vec::new(),
            kernel: Err("in user space only".into()),
        },
        state_dir: Some(state_dir.to_owned()),
        journal_limit: SPOOL_LIMIT,
        runtime_dir: None,
        adopt_within: Duration::from_secs(60),
        workers: Some(2),
    }
}

/// The lines of what a relay's directory has for dispatchers.
///
/// # Errors
/// What cannot be opened.
pub fn spool(state_dir: &Path, first_port: u16) -> Result<Vec<Vec<u8>>, String> {
    Ok(super::spool::open(state_dir, first_port, SPOOL_LIMIT)?.lines())
}
