//! A dispatcher without sockets and threads, for tests that try any order of what its peers do: the bytes of relays go in
//! and what is queued for them comes out, requests of the proxy are asked and waited for by steps, and time passes when
//! told. Everything between is what runs in the daemon.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::call::ReceivedUpdate;
use super::conversation::Conversation;
use super::drained;
use super::failed_connections::{Cause, Port};
use super::finisher::Finisher;
use super::ledger::{Earlier, Ledger};
use super::link::{Ask, Link};
use super::management::command::{self, Bad, Command};
use super::management::text;
use super::pending_update::{PendingUpdate, UpdateNews};
use super::registry::{CallLocation, Limits};
use super::relay_commands::write_plain;
use super::relay_id::{LinkId, RelayKey};
use super::service::ask_update;
use super::{Dispatcher, Settings, dialog, link_end, upkeep};
use crate::config::ManagementFormat;
use crate::moment::{Moment, UnixTime};
use crate::proto::control::{Frame, Remove, Update};
use crate::proto::{CallId, SessionId};
use crate::sys::clock;
use crate::sys::sync::lock;
use crate::tls::Store;

/// Links that there can be in one rehearsal.
pub const LINES: usize = 24;

/// See the module.
pub struct Rehearsal<'a> {
    dispatcher: &'a Dispatcher,
    links: &'a [OnceCell<Arc<Link>>; LINES],
    lines: Vec<Line<'a>>,
}

/// One connection of a relay.
struct Line<'a> {
    conversation: Conversation<'a>,
    /// The dispatcher has closed it.
    is_closed: Arc<AtomicBool>,
    /// Its reading thread would be gone.
    is_over: bool,
}

/// An update that relays were asked for.
pub struct Asked {
    updating: Arc<PendingUpdate>,
    tried: Vec<LinkId>,
}

/// What became of an update.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The relay of this line gave ports.
    Answered(usize),
    Failed,
    Waiting,
}

/// Where a call is.
#[derive(Debug, PartialEq, Eq)]
pub enum Where {
    Unknown,
    Expired,
    On(usize),
    /// Its relay, which has no link.
    Away(String),
}

/// Has `act` play with a dispatcher of which nothing is left afterwards.
pub fn rehearse<R>(
    store: Arc<Store>,
    finisher: Arc<dyn Finisher>,
    act: impl FnOnce(&mut Rehearsal<'_>) -> R,
) -> R {
    let dispatcher = Dispatcher::new(settings(), store, finisher, &Earlier::default());
    let links = [const { OnceCell::new() }; LINES];
    act(&mut Rehearsal {
        dispatcher: &dispatcher,
        links: &links,
        lines: Vec::new(),
    })
}

/// None of these paths and addresses is used.
fn settings() -> Settings {
    let nowhere = Path::new("/nonexistent/mediaproxy");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Settings {
        socket_path: nowhere.join("dispatcher.sock"),
        socket_mode: 0o600,
        socket_group: None,
        management_path: nowhere.join("management.sock"),
        state_dir: nowhere.to_owned(),
        listen: address,
        listen_management: address,
        management_use_tls: false,
        management_format: ManagementFormat::Lines,
        passport: None,
        management_passport: None,
        relay_timeout: Duration::from_secs(5),
        relay_retry: Duration::from_secs(1),
        relay_recover_interval: Duration::from_secs(60),
        cleanup_dead_relays_after: Duration::from_secs(7200),
        cleanup_expired_sessions_after: Duration::from_secs(86_400),
        verify_interval: Duration::from_secs(300),
        limits: Limits::default(),
    }
}

impl<'a> Rehearsal<'a> {
    /// A relay connects. None where there were too many lines.
    pub fn connect(&mut self, peer: SocketAddr) -> Option<usize> {
        let index = self.lines.len();
        let place = self.links.get(index)?;
        let is_closed = Arc::new(AtomicBool::new(false));
        let closing = Arc::clone(&is_closed);
        let link = lock(&self.dispatcher.registry).link_up(peer.ip(), |id| {
            let shutdown = Box::new(move || closing.store(true, Ordering::Relaxed));
            Arc::new(Link::new(id, peer, None, shutdown))
        });
        let link = place.get_or_init(|| link);
        // As `relays` does it.
        let _ = link.send(clock::moment(), Ask::Purge, |out, sequence, _| {
            write_plain(out, "sessions", sequence)
        });
        self.lines.push(Line {
            conversation: Conversation::new(self.dispatcher, link),
            is_closed,
            is_over: false,
        });
        Some(index)
    }

    fn link(&self, line: usize) -> Option<&'a Arc<Link>> {
        self.links.get(line)?.get()
    }

    fn line_of(&self, id: LinkId) -> Option<usize> {
        let is_it = |place: &OnceCell<Arc<Link>>| place.get().is_some_and(|link| link.id == id);
        self.links.iter().position(is_it)
    }

    /// The connection stands.
    pub fn is_up(&self, line: usize) -> bool {
        self.lines.get(line).is_some_and(|line| !line.is_over)
    }

    /// What a relay says.
    pub fn hear(&mut self, line: usize, bytes: &[u8]) {
        if let Some(line) = self.lines.get_mut(line).filter(|line| !line.is_over) {
            if line.conversation.take(bytes).is_err() {
                line.is_closed.store(true, Ordering::Relaxed);
            }
        }
        self.reap();
    }

    /// The connection is gone.
    pub fn lose(&mut self, line: usize) {
        if let Some(line) = self.lines.get(line) {
            line.is_closed.store(true, Ordering::Relaxed);
        }
        self.reap();
    }

    /// What the reading threads do whose connections were closed.
    fn reap(&mut self) {
        for index in 0..self.lines.len() {
            let link = self.link(index);
            let line = self.lines.get_mut(index);
            let Some((link, line)) = link.zip(line) else {
                continue;
            };
            if !line.is_over && line.is_closed.load(Ordering::Relaxed) {
                line.is_over = true;
                line.conversation.settle();
                link_end::end(self.dispatcher, link, "closed");
            }
        }
    }

    /// What is queued for a relay, whole lines.
    pub fn sent(&self, line: usize) -> Vec<u8> {
        const MARK: &str = "rehearsed";
        let Some(link) = self.link(line).filter(|_| self.is_up(line)) else {
            return Vec::new();
        };
        // The writer waits for nothing then.
        link.say(MARK);
        let mut sent = Vec::new();
        let _ = link.write_to(|bytes| {
            sent.extend_from_slice(bytes);
            Err(std::io::ErrorKind::WouldBlock.into())
        });
        let mark = [MARK.as_bytes(), b"\r\n"].concat();
        if sent.ends_with(&mark) {
            sent.truncate(sent.len() - mark.len());
        }
        sent
    }

    /// The proxy's update is sent to the call's relay, or to one that can take it.
    pub fn update(&self, frame: &Frame, random: u128) -> Option<Asked> {
        let update = Update::parse(frame).ok()?;
        let at = clock::moment();
        let update = ReceivedUpdate {
            update,
            session_id: SessionId::from_random(random),
            at,
        };
        let place = lock(&self.dispatcher.registry).place(&update.call_id);
        match place {
            CallLocation::Unknown | CallLocation::Expired => {
                let mut asked = Asked {
                    updating: Arc::new(PendingUpdate::new(update, true)),
                    tried: Vec::new(),
                };
                self.try_another(frame, &mut asked).then_some(asked)
            }
            CallLocation::On(id, link) => {
                let updating = Arc::new(PendingUpdate::new(update, false));
                ask_update(&link, frame, &updating, at).ok()?;
                let tried = vec![id];
                Some(Asked { updating, tried })
            }
            CallLocation::Away(_) => None,
        }
    }

    /// One more relay is asked for a new call. False where there is none.
    pub fn try_another(&self, frame: &Frame, asked: &mut Asked) -> bool {
        let random = self.dispatcher.random();
        let call_id = &asked.updating.update.call_id;
        let chosen = lock(&self.dispatcher.registry).choose(call_id, None, &asked.tried, random);
        let Some((id, link)) = chosen.filter(|_| asked.updating.is_new) else {
            return false;
        };
        asked.tried.push(id);
        let sent = ask_update(&link, frame, &asked.updating, clock::moment());
        if sent.is_err() {
            lock(&self.dispatcher.registry).relays.attempt_over(id);
        }
        sent.is_ok()
    }

    /// What has become of an update.
    pub fn outcome(&self, asked: &Asked) -> Outcome {
        match asked.updating.next(Moment::START) {
            UpdateNews::Answer(id, _) => {
                self.line_of(id).map_or(Outcome::Failed, Outcome::Answered)
            }
            UpdateNews::Failed(..) => Outcome::Failed,
            UpdateNews::Silence => Outcome::Waiting,
        }
    }

    /// Nobody waits for it any longer. It may have been answered just before.
    pub fn give_up(&self, asked: &Asked) -> Outcome {
        let answer = asked.updating.give_up();
        let line = answer.and_then(|(id, _)| self.line_of(id));
        line.map_or(Outcome::Failed, Outcome::Answered)
    }

    /// The proxy removes a call.
    pub fn remove(&self, remove: Remove) {
        let place = lock(&self.dispatcher.registry).place(&remove.call_id);
        match place {
            CallLocation::Expired => {
                lock(&self.dispatcher.registry)
                    .calls
                    .remove_expired(&remove);
            }
            _ => self.dispatcher.remove_unwaited(remove),
        }
    }

    /// What the upkeep thread does when so much time has passed.
    pub fn pass(&mut self, time: Duration) {
        let now = clock::moment() + time;
        upkeep::look_after_links(self.dispatcher, now);
        upkeep::tick(self.dispatcher, now);
        self.reap();
    }

    /// A stranger at the relays' port speaks no TLS.
    pub fn turn_away(&self, stranger: &str) {
        let name = format!("relay {stranger}");
        let why = "the peer does not speak TLS";
        self.dispatcher
            .failed(Port::Relays, Cause::Tls, &name, &why);
    }

    /// Where a call is.
    pub fn place(&self, call_id: &CallId) -> Where {
        match lock(&self.dispatcher.registry).place(call_id) {
            CallLocation::Unknown => Where::Unknown,
            CallLocation::Expired => Where::Expired,
            CallLocation::On(id, _) => self.line_of(id).map_or(Where::Unknown, Where::On),
            CallLocation::Away(relay) => Where::Away(relay.to_string()),
        }
    }

    /// The dialogs of the calls that are known.
    pub fn dialogs(&self) -> BTreeSet<String> {
        let registry = lock(&self.dispatcher.registry);
        registry
            .calls
            .live
            .dialogs()
            .map(ToString::to_string)
            .collect()
    }

    /// Sessions that are known from relays' lists alone.
    pub fn found(&self) -> usize {
        lock(&self.dispatcher.registry).calls.live.found()
    }

    /// Connected relays, and calls that relays should have.
    pub fn counts(&self) -> (usize, usize) {
        lock(&self.dispatcher.registry).relays.counts()
    }
}

/// What a management client's line comes to, and whether its filter fits a session.
pub fn command(line: &[u8], session: &str) -> Result<String, String> {
    match command::parse(line) {
        Ok(Command::Sessions(filter)) => {
            let fits = filter.fits(session, Ipv4Addr::LOCALHOST.into());
            Ok(format!("{filter:?} {fits}"))
        }
        Ok(other) => Ok(format!("{other:?}")),
        Err(Bad::Unknown(why) | Bad::Usage(why)) => Err(why),
    }
}

/// The answer of a relay to `explain` as people read it, and who hears whom by it; none where it cannot be read.
pub fn explained(answer: &[u8]) -> Option<(Vec<String>, Vec<String>)> {
    type Session = serde_json::Map<String, serde_json::Value>;
    let sessions: Vec<Session> = serde_json::from_slice(answer).ok()?;
    let verdicts = sessions
        .iter()
        .cloned()
        .flat_map(text::verdict_of)
        .collect();
    Some((text::lines(sessions).ok()?, verdicts))
}

/// What a SIP proxy's answer says about a dialog.
pub fn dialog_answer(answer: &[u8]) -> String {
    let (_, answer) = dialog::question::understand(answer);
    format!("{answer:?}")
}

/// What the file of drained relays says, and the warnings.
pub fn drained(text: &[u8]) -> (BTreeSet<RelayKey>, Vec<String>) {
    let mut warnings = Vec::new();
    let found = drained::parse(text, "/x/drained", |text| warnings.push(text));
    (found, warnings)
}

/// How many calls and dialogs a ledger in this directory tells of.
///
/// # Errors
/// What cannot be opened.
pub fn ledger(directory: &Path, now: UnixTime) -> Result<(usize, usize), String> {
    let (_, earlier) = Ledger::open(directory, now, |_| false)?;
    Ok((earlier.calls.len(), earlier.dialogs.len()))
}
