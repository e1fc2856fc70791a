//! What a relay says: replies to requests, and lines that it was not asked for.
//!
//! Runs on the link's reading thread. Sessions are made and ended here, before anybody is told.

use std::sync::Arc;
use std::time::Duration;

use super::Dispatcher;
use super::finished::{Finished, Reason};
use super::link::{Ask, Link, Removal, Shown};
use super::registry::{Doubts, Facts, Identified, Place, RelayKey};
use super::relays::lose;
use super::room::Room;
use super::statistics::{Statistics, of_calls, sessions};
use super::waiting::{Failure, Slot, Updating, lock};
use super::wire::write_plain;
use crate::logging::sparse::Sparse;
use crate::proto::control::Remove;
use crate::proto::line::{Lines, TooLong};
use crate::proto::link::{
    FromRelay, Hello, OLD_DISPATCHER_LINE, RELAY_LINE, Sequence, UpdateReply,
};
use crate::proto::{SessionId, Visible};
use crate::sys::clock;
use crate::words::counted;

/// How long a relay's link may be silent when another one wants its place.
const SILENCE: Duration = Duration::from_secs(2);

/// How long a link that is not wanted may take to read why.
const GOODBYE: Duration = Duration::from_secs(1);

/// Characters in a relay's name.
const MAX_NAME: usize = 128;

/// Bytes of an odd line that the log shows.
const SHOWN: usize = 200;

/// One relay's lines, in the order in which they come.
pub struct Conversation<'a> {
    lines: Lines,
    listener: Listener<'a>,
}

struct Listener<'a> {
    dispatcher: &'a Dispatcher,
    link: &'a Arc<Link>,
    /// Its first line has told who it is.
    is_known: bool,
    /// Another link has its place: nothing that it says counts.
    is_refused: bool,
    /// It keeps ended sessions until it hears that they are recorded.
    relay_keeps: bool,
    /// Not recorded yet.
    ended: Vec<Ended>,
    /// None of a relay that does not tell how much room it has.
    room: Option<Room>,
    odd: Sparse,
}

/// A session that a line told the end of. Those that are told together are recorded together.
struct Ended {
    /// None where there is nothing to record.
    finished: Option<Finished>,
    /// What its relay calls it, to hear that it is recorded.
    session_id: Option<String>,
    /// Who waits for the removal, and what became of it.
    asked: Option<(Arc<Slot<Removal>>, Removal)>,
}

/// What a line means for the reading of those after it.
enum Next {
    Same,
    /// The relay is one of ours.
    LongLines,
    /// Somebody wants to have it, from this byte on.
    Keep(usize, Arc<Shown>),
}

/// Tells a relay of removals that it missed.
fn remove_missed(link: &Link, missed: Vec<Remove>) {
    for remove in missed {
        let call_id = &remove.call_id;
        log::info!("[session {call_id}] removed while relay {link} was away: removed there now");
        link.remove(remove, false);
    }
}

impl Dispatcher {
    /// Tells a relay that has not said which sessions it has of all removals that it missed.
    pub fn remove_owed(&self, link: &Link) {
        let owed = lock(&self.registry).owed(link.id);
        remove_missed(link, owed);
    }
}

impl<'a> Conversation<'a> {
    pub fn new(dispatcher: &'a Dispatcher, link: &'a Arc<Link>) -> Self {
        Conversation {
            lines: Lines::new(OLD_DISPATCHER_LINE),
            listener: Listener {
                dispatcher,
                link,
                is_known: false,
                is_refused: false,
                relay_keeps: false,
                ended: Vec::new(),
                room: None,
                odd: Sparse::default(),
            },
        }
    }

    /// Acts on all lines that end in these bytes.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        let heard = self.hear_all(bytes);
        self.settle();
        heard
    }

    /// Records what has been heard of. Nothing is left of it where the lines were taken to their end.
    pub fn settle(&mut self) {
        self.listener.settle();
    }

    fn hear_all(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        self.listener.link.note_heard();
        self.lines.extend(bytes);
        while let Some(line) = self.lines.next_line()? {
            match self.listener.hear(line) {
                Next::Same => {}
                Next::LongLines => self.lines.set_limit(RELAY_LINE),
                Next::Keep(skip, slot) => slot.put(Some(self.lines.take_given(skip))),
            }
        }
        Ok(())
    }
}

impl Listener<'_> {
    fn hear(&mut self, line: &[u8]) -> Next {
        if self.is_refused {
            return Next::Same;
        }
        let said = FromRelay::parse(line);
        if let FromRelay::Hello(json) = said {
            return self.hello(json);
        }
        // An older relay could not read why.
        if !self.is_known && self.identify(None).is_err() {
            self.leave();
            return Next::Same;
        }
        match said {
            FromRelay::Ping => self.ping(),
            FromRelay::Expired(json) => self.ended(json, Reason::Expired),
            FromRelay::Removed(json) => self.ended(json, Reason::Removed),
            FromRelay::Reply(sequence, result) => {
                if let Some(slot) = self.reply(sequence, result) {
                    return Next::Keep(line.len() - result.len(), slot);
                }
            }
            FromRelay::Unknown(line) => self.odd("unexpected line", line),
            FromRelay::Hello(_) => {}
        }
        Next::Same
    }

    fn hello(&mut self, json: &[u8]) -> Next {
        let hello: Hello = match serde_json::from_slice(json) {
            Ok(hello) => hello,
            Err(error) => {
                self.odd(&format!("hello that cannot be read ({error})"), json);
                return Next::Same;
            }
        };
        let name = hello.name.as_deref().filter(|name| !name.is_empty());
        let usable = name.filter(|name| name.chars().count() <= MAX_NAME);
        if name != usable {
            log::warn!(
                "relay {}: its name is over {MAX_NAME} characters and ignored",
                self.link
            );
        }
        self.link.set_ours();
        self.relay_keeps = hello.stored;
        self.link.set_commands(&hello.commands);
        self.room = hello.capacity.map(|_| Room::default());
        lock(&self.dispatcher.registry).set_instance(self.link.id, hello.instance.as_deref());
        match self.identify(usable) {
            Ok(()) => self.say_hello(None),
            Err(why) => {
                self.say_hello(Some(why));
                self.leave();
            }
        }
        Next::LongLines
    }

    fn say_hello(&self, refused: Option<String>) {
        let ours = Hello {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            stored: self.dispatcher.finisher.records(),
            refused,
            ..Hello::default()
        };
        if let Ok(ours) = serde_json::to_string(&ours) {
            self.link.say(&format!("hello {ours}"));
        }
    }

    /// Finds out whose link it is. It is not wanted where its relay has one that is well: it would have all calls of
    /// that one ended, for it knows none of them.
    ///
    /// # Errors
    /// Why it is not wanted.
    fn identify(&mut self, name: Option<&str>) -> Result<(), String> {
        let mut identified = self.identified(name);
        while let Some(Identified::Contested(relay, old)) = identified {
            // What comes meanwhile is read later.
            if old.is_well(clock::mono() + SILENCE) {
                return Err(self.refuse(&relay, &old));
            }
            let why = "it says nothing, and another link has come";
            old.close(why);
            lose(self.dispatcher, &old, why);
            identified = self.identified(name);
        }
        let Some(Identified::Up(relay, replaced)) = identified else {
            return Ok(());
        };
        if !self.is_known {
            self.link.set_label(relay.to_string());
            log::info!("relay {relay}: up, from port {}", self.link.peer.port());
        }
        self.is_known = true;
        if let Some(replaced) = replaced {
            log::info!("relay {relay}: its new link replaces the one before");
            replaced.close("replaced by a new link of the same process");
        }
        Ok(())
    }

    /// Says in the log, once a minute at most, that this link is refused for an old one that is well. Returns why, for its
    /// relay.
    fn refuse(&self, relay: &RelayKey, old: &Link) -> String {
        let (peer, first) = (self.link.peer, old.peer);
        let is_same = lock(&self.dispatcher.registry).is_same_process(self.link.id, old.id);
        let due = lock(&self.dispatcher.refusals).due();
        if is_same {
            if let Some(skipped) = due {
                log::info!(
                    "relay {relay}: its second link, from {peer}, is refused: it is connected already, from {first}, by \
                     another address of this dispatcher{skipped}"
                );
            }
            return format!("this relay is connected already, from {first}, by another address");
        }
        let remedy = "give each relay a relay_ip or port_range of its own, or stop one";
        if let Some(skipped) = due {
            log::warn!(
                "relay {relay}: a second one of that name is refused, from {peer}: the first, from {first}, answers, and \
                 its calls go on; {remedy}{skipped}"
            );
        }
        format!("a relay of that name is there, from {first}, and answers: {remedy}")
    }

    fn identified(&self, name: Option<&str>) -> Option<Identified<Arc<Link>>> {
        lock(&self.dispatcher.registry).identify(self.link.id, name, clock::mono())
    }

    /// Closes a link that is not wanted, once it was told why.
    fn leave(&mut self) {
        let why = "its relay has another link";
        self.is_refused = true;
        self.link.finish(why);
        self.link.wait_written(clock::mono() + GOODBYE);
        self.link.close(why);
    }

    fn ping(&mut self) {
        // Before the answer: who has it may count on getting calls again.
        let is_back = lock(&self.dispatcher.registry).ping(self.link.id);
        self.link.say("pong");
        if is_back {
            log::info!("relay {}: answers again", self.link);
        }
    }

    /// A session has ended on its relay; or it did so before, and the relay has not heard that it is recorded.
    fn ended(&mut self, json: &[u8], reason: Reason) {
        let statistics = match Statistics::parse(json) {
            Ok(statistics) => statistics,
            Err(error) => {
                self.odd(
                    &format!("an ended session that cannot be read ({error})"),
                    json,
                );
                return;
            }
        };
        let session_id = statistics.session_id.clone();
        if self
            .ended
            .iter()
            .any(|before| before.session_id == session_id)
        {
            // What has become of it decides on this one.
            self.settle();
        }
        if let Some(id) = &session_id {
            if self.dispatcher.finisher.has(id) {
                self.say_stored(id);
                return;
            }
        }
        let (link, now) = (self.link.id, clock::mono());
        let mut registry = lock(&self.dispatcher.registry);
        let is_refused = |id: &String| self.dispatcher.finisher.is_refused(id);
        let finished = match reason {
            _ if session_id.as_ref().is_some_and(is_refused) => {
                registry.ended_before(link, reason, statistics, now)
            }
            Reason::Removed => registry.removed_before(link, statistics, now),
            _ => registry.expire(link, statistics, now),
        };
        drop(registry);
        self.finish(finished, session_id, None);
    }

    /// Takes an ended session, to be recorded with those that are told together with it. Whoever has asked for the
    /// removal hears of it then.
    fn finish(
        &mut self,
        finished: Option<Finished>,
        session_id: Option<String>,
        asked: Option<(Arc<Slot<Removal>>, Removal)>,
    ) {
        let finished = finished.map(|finished| Finished {
            is_kept: self.relay_keeps,
            ..finished
        });
        self.ended.push(Ended {
            finished,
            session_id,
            asked,
        });
    }

    /// Records those sessions, and tells who waits for it, and their relay.
    fn settle(&mut self) {
        if self.ended.is_empty() {
            return;
        }
        let (mut finished, mut to_tell) = (Vec::new(), Vec::new());
        for ended in self.ended.drain(..) {
            to_tell.push((ended.finished.is_some(), ended.session_id, ended.asked));
            finished.extend(ended.finished);
        }
        let mut recorded = self.dispatcher.hand_over(finished).into_iter();
        for (is_finished, session_id, asked) in to_tell {
            let is_recorded = is_finished && recorded.next() == Some(true);
            if let (true, Some(id)) = (is_recorded, session_id) {
                self.say_stored(&id);
            }
            if let Some((slot, removal)) = asked {
                slot.put(removal);
            }
        }
    }

    fn say_stored(&self, session_id: &str) {
        if let Ok(id) = session_id.parse::<SessionId>() {
            self.link.confirm(id, self.dispatcher.finisher.mark());
        }
    }

    /// Acts on a reply; what the management port has asked for is to be put there.
    fn reply(&mut self, sequence: Sequence, result: &[u8]) -> Option<Arc<Shown>> {
        let now = clock::mono();
        match self.link.answered(sequence) {
            Some(Ask::Update(updating)) => self.updated(&updating, result),
            Some(Ask::Remove(remove, slot)) => self.removed(&remove, slot, result, now),
            Some(Ask::TakeBack(call_id)) => {
                // The proxy was given another relay: nothing of this one is accounted.
                if let Ok(Statistics {
                    session_id: Some(id),
                    ..
                }) = Statistics::parse(result)
                {
                    self.say_stored(&id);
                }
                log::info!("[session {call_id}] taken back from relay {}", self.link);
            }
            Some(Ask::Purge) => self.listed(result, now),
            Some(Ask::Check(doubts)) => self.checked(doubts, result, now),
            Some(Ask::Show(slot)) => return Some(slot),
            Some(Ask::Room) => self.room_told(result, now),
            None => self.odd("a reply to no request of this dispatcher", result),
        }
        None
    }

    fn updated(&mut self, updating: &Arc<Updating>, result: &[u8]) {
        let (link, registry) = (self.link, &self.dispatcher.registry);
        if updating.is_new {
            lock(registry).attempt_over(link.id);
        }
        let reply = UpdateReply::parse(result);
        match reply {
            UpdateReply::Ports(..) => {
                let commit = || self.commit(&updating.facts);
                if !updating.succeed(link.id, reply.to_string(), commit) {
                    self.updated_late(updating);
                }
            }
            UpdateReply::Halting => {
                if lock(registry).halting(link.id) {
                    log::info!("relay {link}: halting, it gets no new calls");
                }
                updating.fail(link.id, Failure::Halting);
            }
            UpdateReply::Error(why) => {
                updating.fail(link.id, Failure::Error(why.into()));
                if updating.facts.has_media {
                    self.ask_for_room();
                }
            }
        }
    }

    /// Has the relay tell whether ports are what it lacks.
    fn ask_for_room(&mut self) {
        let now = clock::mono();
        let Some(room) = self.room.as_mut() else {
            return;
        };
        if room.is_to_be_asked(now) {
            // What it cannot be asked now, it is with the next call.
            let _ = self.link.send(now, Ask::Room, |out, sequence, _| {
                write_plain(out, "summary", sequence)
            });
        }
    }

    fn room_told(&mut self, summary: &[u8], now: Duration) {
        let room = self.room.as_mut();
        if let Some(text) = room.and_then(|room| room.told(summary, now)) {
            log::warn!("relay {}: {text}", self.link);
        }
    }

    /// Takes it into the registry; an answered call is noted before the proxy hears of it.
    fn commit(&self, facts: &Facts) {
        let noted = lock(&self.dispatcher.registry).updated(self.link.id, facts);
        if let Some(call) = noted {
            self.dispatcher.finisher.note(&call);
        }
    }

    /// Takes back a session that nobody waits for, unless the same call is on its way to this relay again.
    fn updated_late(&mut self, updating: &Updating) {
        let (link, facts) = (self.link, &updating.facts);
        let late = lock(&self.dispatcher.registry).updated_late(link.id, facts);
        if let Some(call) = late.noted {
            self.dispatcher.finisher.note(&call);
        }
        if late.is_stray && updating.is_new && !link.is_updating(facts.mention()) {
            let call_id = &facts.call_id;
            log::warn!("[session {call_id}] relay {link} took the call too late: taken back");
            link.remove(facts.removal(), true);
        }
    }

    /// Only statistics tell that a session is over.
    fn removed(
        &mut self,
        remove: &Remove,
        asked: Option<Arc<Slot<Removal>>>,
        result: &[u8],
        now: Duration,
    ) {
        let call_id = &remove.call_id;
        let statistics = match Statistics::parse(result) {
            Ok(statistics) => Some(statistics),
            Err(_) if result == b"error" => None,
            Err(error) => {
                self.odd(
                    &format!("[session {call_id}] statistics that cannot be read ({error})"),
                    result,
                );
                None
            }
        };
        let session_id = statistics.as_ref().and_then(|s| s.session_id.clone());
        let mut registry = lock(&self.dispatcher.registry);
        // What is not here any more has expired since it was asked for.
        let place = registry.place_of(remove.mention());
        let is_here = matches!(place, Place::On(id, _) if id == self.link.id);
        let removal = match (&statistics, is_here) {
            (Some(_), _) => Removal::Removed,
            (None, false) => Removal::NotThere,
            (None, true) => Removal::Error,
        };
        let finished = match statistics {
            Some(statistics) => registry.removed(self.link.id, call_id, statistics, now),
            None => {
                registry.refused(self.link.id, remove);
                None
            }
        };
        drop(registry);
        self.finish(finished, session_id, asked.map(|slot| (slot, removal)));
    }

    /// The relay says whether it has calls that it does not know by the tags of their removal.
    fn checked(&mut self, doubts: Doubts, result: &[u8], now: Duration) {
        let link = self.link;
        let told = match of_calls(result, |call_id| doubts.has(call_id)) {
            Ok(told) => told,
            Err(_) if result == b"error" && link.explains() => Vec::new(),
            Err(error) => {
                // One that is busy says `error: busy`.
                if !result.starts_with(b"error: ") {
                    self.odd(&format!("sessions that cannot be read ({error})"), result);
                }
                lock(&self.dispatcher.registry).unanswered(link.id, doubts, now);
                return;
            }
        };
        let checked = lock(&self.dispatcher.registry).checked(link.id, doubts, &told, now);
        for call_id in checked.there {
            log::warn!(
                "[session {call_id}] relay {link} has refused to remove it and has it still: it goes on"
            );
        }
        for call in checked.back {
            self.dispatcher.finisher.note(&call);
        }
        self.dispatcher.finish(checked.finished);
    }

    fn listed(&mut self, result: &[u8], now: Duration) {
        let listed = match sessions(result) {
            Ok(listed) => listed,
            Err(error) => {
                self.odd(&format!("sessions that cannot be read ({error})"), result);
                self.dispatcher.remove_owed(self.link);
                return;
            }
        };
        let mut registry = lock(&self.dispatcher.registry);
        let purge = registry.listed(self.link.id, &listed, now);
        drop(registry);
        let count: usize = listed.values().map(Vec::len).sum();
        let sessions = counted(count, "session");
        let gone = match purge.finished.len() {
            0 => "none that we had there is missing".to_owned(),
            1 => "1 that we had there no longer exists".to_owned(),
            more => format!("{more} that we had there no longer exist"),
        };
        log::info!("relay {}: reports {sessions}; {gone}", self.link);
        for call in purge.back {
            self.dispatcher.finisher.note(&call);
        }
        remove_missed(self.link, purge.owed);
        self.dispatcher.finish(purge.finished);
    }

    fn odd(&mut self, what: &str, line: &[u8]) {
        if let Some(skipped) = self.odd.due() {
            let shown = line.get(..SHOWN).unwrap_or(line);
            log::warn!(
                "relay {}: {what}: \"{}\"{skipped}",
                self.link,
                Visible(shown)
            );
        }
    }
}
