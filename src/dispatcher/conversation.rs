//! What a relay says: replies to requests, and lines that it was not asked for.
//!
//! Runs on the link's reading thread. Sessions are made and ended here, before anybody is told.

use std::sync::Arc;
use std::time::Duration;

use super::call::ReceivedUpdate;
use super::counts::Ignored;
use super::ended_call::{EndedCall, Reason};
use super::limits::{self, Bucket, Excess, Limit};
use super::link::{AnswerKind, Ask, Link, Removal, Shown};
use super::link_end::lose;
use super::listing::{Listing, Purpose};
use super::pending_update::{PendingUpdate, UpdateFailure};
use super::port_shortage::PortShortage;
use super::registry::{CallLocation, Doubts, Identified, Listed};
use super::relay_commands::write_plain;
use super::relay_id::RelayKey;
use super::shared::Dispatcher;
use super::statistics::{ListedCall, Statistics, Unfit};
use crate::logging::sparse::Sparse;
use crate::moment::Moment;
use crate::proto::control::Remove;
use crate::proto::line::Lines;
use crate::proto::link::{
    FromRelay, Hello, RELAY_LINE, Sequence, UpdateResult, longest_list, most_sessions,
};
use crate::proto::name::is_spelled;
use crate::proto::{Excerpt, SessionId};
use crate::sys::clock;
use crate::sys::sync::{Slot, lock};
use crate::words::counted;

/// How long a relay's link may be silent when another one wants its place.
const SILENCE_LIMIT: Duration = Duration::from_secs(2);

/// How long a link that is not wanted may take to read why.
const GOODBYE_LIMIT: Duration = Duration::from_secs(1);

/// The time that a relay which has taken calls over may need to connect here.
const ARRIVAL: Duration = Duration::from_secs(15);

/// No relay's calls wait for its successor for longer.
const LONGEST_ABSENCE: Duration = Duration::from_secs(86_400);

/// Characters in a relay's name.
const MAX_NAME: usize = 128;

/// One relay's lines, in the order in which they come.
pub(super) struct Conversation<'a> {
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
    /// It has gone beyond a limit.
    is_cut: bool,
    /// It keeps ended sessions until it hears that they are recorded.
    relay_keeps: bool,
    /// Not recorded yet.
    ended: Vec<Ended>,
    /// None of a relay that does not tell how much room it has.
    shortage: Option<PortShortage>,
    /// Sessions that it can have.
    most: usize,
    /// Its name, where it has one.
    name: Option<String>,
    /// The list that it is telling, on a line whose end is still to come.
    list: Option<Listing>,
    /// Lines that say nothing new.
    idle: Bucket,
    odd: Sparse,
    foreign: Sparse,
}

/// A session that a line told the end of. Those that are told together are recorded together.
struct Ended {
    /// None where there is nothing to record.
    finished: Option<EndedCall>,
    /// What its relay calls it, to hear that it is recorded.
    session_id: Option<String>,
    /// Who waits for the removal, and what became of it.
    asked: Option<(Arc<Slot<Removal>>, Removal)>,
}

/// What a line means for the reading of those after it.
enum Next {
    Same,
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
        let mut registry = lock(&self.registry);
        let owed = registry.owed(link.id);
        registry.relays.set_listed(link.id);
        drop(registry);
        self.relay_news.tell();
        remove_missed(link, owed);
    }
}

impl<'a> Conversation<'a> {
    pub(super) fn new(dispatcher: &'a Dispatcher, link: &'a Arc<Link>) -> Self {
        Conversation {
            lines: Lines::new(RELAY_LINE),
            listener: Listener {
                dispatcher,
                link,
                is_known: false,
                is_refused: false,
                is_cut: false,
                relay_keeps: false,
                ended: Vec::new(),
                shortage: None,
                most: most_sessions(None),
                name: None,
                list: None,
                idle: Bucket::idle(clock::moment()),
                odd: Sparse::default(),
                foreign: Sparse::every(Duration::from_secs(60)),
            },
        }
    }

    /// Acts on all lines that end in these bytes.
    ///
    /// # Errors
    /// The relay has gone beyond a limit: it is cut off.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(), Excess> {
        let heard = self.hear_all(bytes);
        self.settle();
        heard.inspect_err(|excess| self.listener.cut_off(excess))
    }

    /// Returns true if the relay was cut off.
    pub(super) fn is_cut(&self) -> bool {
        self.listener.is_cut
    }

    /// Records what has been heard of. Nothing is left of it where the lines were taken to their end.
    pub(super) fn settle(&mut self) {
        self.listener.settle();
    }

    fn hear_all(&mut self, mut bytes: &[u8]) -> Result<(), Excess> {
        self.listener.link.note_heard();
        if self.listener.list.is_some() {
            let end = bytes.iter().position(|b| *b == b'\n');
            let part = bytes.get(..end.unwrap_or(bytes.len()));
            self.listener.go_on_listing(part.unwrap_or_default())?;
            let Some(end) = end else {
                return Ok(());
            };
            self.listener.list_over();
            bytes = bytes.get(end + 1..).unwrap_or_default();
        }
        self.lines.extend(bytes);
        let too_long = |begun: &Lines| Excess::unknown(begun.begun());
        while !self.listener.is_refused {
            match self.lines.next_line() {
                Ok(Some(line)) => match self.listener.hear(line)? {
                    Next::Same => {}
                    Next::Keep(skip, slot) => slot.put(Some(self.lines.take_given(skip))),
                },
                Ok(None) => break,
                Err(_) => return Err(too_long(&self.lines)),
            }
        }
        if self.listener.is_refused {
            self.lines = Lines::new(0);
            return Ok(());
        }
        let begun = self.lines.begun();
        if begun.len() > limits::LINE {
            if let Some((sequence, skip)) = self.listener.judge(begun)? {
                let begun = self.lines.take_begun();
                let begun = begun.get(skip..).unwrap_or_default();
                self.listener.begin_list(sequence, begun)?;
            }
        }
        Ok(())
    }
}

impl Listener<'_> {
    /// Judges a line that is long, as far as it has come. Where it is a list that is read while it comes: the answer to
    /// which request, and from which byte on.
    fn judge(&self, begun: &[u8]) -> Result<Option<(Sequence, usize)>, Excess> {
        let (what, allowed) = match FromRelay::parse(begun) {
            FromRelay::Expired(_) | FromRelay::Removed(_) => {
                ("an ended session", limits::STATISTICS)
            }
            FromRelay::Reply(sequence, result) => match self.link.wants(sequence) {
                Some(AnswerKind::List) => return Ok(Some((sequence, begun.len() - result.len()))),
                Some(AnswerKind::WholeList) => ("an answer with sessions", longest_list(self.most)),
                Some(AnswerKind::Statistics) => ("an answer with statistics", limits::STATISTICS),
                Some(AnswerKind::Summary) => ("a summary", limits::SUMMARY),
                Some(AnswerKind::Ports) => ("an answer to an update", limits::LINE),
                None => ("a reply to no request", limits::LINE),
            },
            FromRelay::Hello(_) => ("hello", limits::LINE),
            FromRelay::Ping | FromRelay::Leaving(_) | FromRelay::Unknown(_) => {
                return Err(Excess::unknown(begun));
            }
        };
        if begun.len() > allowed {
            Err(Excess::line(what, begun.len(), allowed))
        } else {
            Ok(None)
        }
    }

    fn hear(&mut self, line: &[u8]) -> Result<Next, Excess> {
        if line.len() > limits::LINE {
            self.judge(line)?;
        }
        let said = FromRelay::parse(line);
        if let FromRelay::Hello(json) = said {
            self.hello(json);
            return self.idle("hello");
        }
        if !self.is_welcome() {
            return Ok(Next::Same);
        }
        match said {
            FromRelay::Ping => {
                self.ping();
                self.idle("ping")
            }
            FromRelay::Leaving(seconds) => {
                self.leaving(seconds);
                self.idle("leaving")
            }
            FromRelay::Expired(json) => self.ended(json, Reason::Expired),
            FromRelay::Removed(json) => self.ended(json, Reason::Removed),
            FromRelay::Reply(sequence, result) => {
                let slot = self.reply(sequence, result)?;
                let skip = line.len() - result.len();
                Ok(slot.map_or(Next::Same, |slot| Next::Keep(skip, slot)))
            }
            FromRelay::Unknown(line) => {
                self.odd("unexpected line", line);
                self.idle("unexpected lines")
            }
            FromRelay::Hello(_) => Ok(Next::Same),
        }
    }

    /// A relay that says no hello tells who it is by its first line, whatever that says.
    fn is_welcome(&mut self) -> bool {
        // An older relay could not read why.
        let is_welcome = self.is_known || self.identify(None).is_ok();
        if !is_welcome {
            self.leave();
        }
        is_welcome
    }

    /// A line that says nothing new.
    fn idle(&mut self, what: &str) -> Result<Next, Excess> {
        if self.idle.take(1, clock::moment()) {
            Ok(Next::Same)
        } else {
            let allowed = self.idle.most();
            let what = format!("lines that say nothing new (the last: {what}), at once");
            Err(Excess::new(Limit::Idle, what, allowed + 1, allowed))
        }
    }

    /// The relay has gone beyond a limit.
    fn cut_off(&mut self, excess: &Excess) {
        self.is_cut = true;
        let address = self.link.peer.ip();
        let name = self.name.as_deref();
        let away = lock(&self.dispatcher.banned_relays).cut(address, name, clock::moment());
        let seconds = away.as_secs();
        self.dispatcher.counts.cut_off(excess.limit);
        log::warn!(
            "relay {}: cut off, and not let in for {seconds} s: {excess}; its calls wait for it as those of a lost relay",
            self.link
        );
        self.link.close(&format!("cut off: {excess}"));
    }

    fn hello(&mut self, json: &[u8]) {
        let hello: Hello = match serde_json::from_slice(json) {
            Ok(hello) => hello,
            Err(error) => {
                self.odd(&format!("hello that cannot be read ({error})"), json);
                return;
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
        self.shortage = hello.capacity.map(|_| PortShortage::default());
        self.most = most_sessions(hello.capacity);
        lock(&self.dispatcher.registry)
            .relays
            .set_instance(self.link.id, hello.instance.as_deref());
        match self.identify(usable) {
            Ok(()) => self.say_hello(None),
            Err(why) => {
                self.say_hello(Some(why));
                self.leave();
            }
        }
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
        if !self.is_known {
            self.name = name.map(str::to_owned);
            self.is_forgiven(name)?;
        }
        let mut identified = self.identified(name);
        while let Some(Identified::Contested(relay, old)) = identified {
            // What comes meanwhile is read later.
            if old.is_well(clock::moment() + SILENCE_LIMIT) {
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
            self.dispatcher.relay_news.tell();
        }
        self.is_known = true;
        if let Some(replaced) = replaced {
            log::info!("relay {relay}: its new link replaces the one before");
            replaced.close("replaced by a new link of the same process");
        }
        Ok(())
    }

    /// A relay that was cut off comes back later.
    ///
    /// # Errors
    /// It does not wait.
    fn is_forgiven(&self, name: Option<&str>) -> Result<(), String> {
        let address = self.link.peer.ip();
        let key = RelayKey {
            address: address.to_canonical(),
            name: name.map(Arc::from),
        };
        let is_known = lock(&self.dispatcher.registry).relays.is_known(&key);
        let outcasts = lock(&self.dispatcher.banned_relays);
        let Some(left) = outcasts.wait(address, name, is_known, clock::moment()) else {
            return Ok(());
        };
        drop(outcasts);
        let seconds = left.as_secs() + 1;
        if let Some(skipped) = lock(&self.dispatcher.refusals).due() {
            log::info!(
                "relay {key}: not let in for {seconds} s, it or another one of that address was cut off{skipped}"
            );
        }
        Err(format!(
            "it or another relay of its address was cut off for what it said: not for {seconds} s"
        ))
    }

    /// Says in the log, once a minute at most, that this link is refused for an old one that is well. Returns why, for its
    /// relay.
    fn refuse(&self, relay: &RelayKey, old: &Link) -> String {
        let (peer, first) = (self.link.peer, old.peer);
        let is_same = lock(&self.dispatcher.registry)
            .relays
            .is_same_process(self.link.id, old.id);
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
        lock(&self.dispatcher.registry).identify(self.link.id, name, clock::moment())
    }

    /// Closes a link that is not wanted, once it was told why.
    fn leave(&mut self) {
        let why = "it is refused";
        self.is_refused = true;
        self.link.finish(why);
        self.link.wait_written(clock::moment() + GOODBYE_LIMIT);
        self.link.close(why);
    }

    fn ping(&mut self) {
        // Before the answer: who has it may count on getting calls again.
        self.answers_again();
        self.link.say("pong");
    }

    /// Its process ends, and hands its calls over.
    fn leaving(&self, seconds: u64) {
        let within = Duration::from_secs(seconds).min(LONGEST_ABSENCE);
        let until = clock::moment() + within + ARRIVAL;
        let mut registry = lock(&self.dispatcher.registry);
        registry.relays.leaves(self.link.id, until);
        drop(registry);
        log::info!(
            "relay {}: it ends, and its calls go on for {} s: who takes them over comes within that time, or they are over",
            self.link,
            within.as_secs()
        );
    }

    fn answers_again(&mut self) {
        let mut registry = lock(&self.dispatcher.registry);
        let is_news = registry.relays.answers_again(self.link.id);
        drop(registry);
        if is_news {
            log::info!("relay {}: answers again", self.link);
        }
    }

    /// A session has ended on its relay; or it did so before, and the relay has not heard that it is recorded.
    fn ended(&mut self, json: &[u8], reason: Reason) -> Result<Next, Excess> {
        let Some(statistics) = self.statistics(json, "an ended session that")? else {
            return self.idle("ended sessions that cannot be read");
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
                return Ok(Next::Same);
            }
        }
        let (link, now) = (self.link.id, clock::moment());
        let is_refused = |id: &String| self.dispatcher.finisher.is_refused(id);
        let is_refused = session_id.as_ref().is_some_and(is_refused);
        let mut registry = lock(&self.dispatcher.registry);
        if let (false, Some(owner)) = (is_refused, registry.owner_elsewhere(link, &statistics)) {
            let owner = owner.clone();
            drop(registry);
            self.is_anothers(&statistics.call_id, &owner);
            return self.idle("ends of other relays' sessions");
        }
        if !is_refused && !registry.is_given(link, &statistics) {
            drop(registry);
            let mut outcasts = lock(&self.dispatcher.banned_relays);
            if !outcasts.record(self.link.peer.ip(), json.len(), now)? {
                drop(outcasts);
                self.leave_out();
                return Ok(Next::Same);
            }
            drop(outcasts);
            registry = lock(&self.dispatcher.registry);
        }
        let finished = match reason {
            _ if is_refused => registry.ended_before(link, reason, statistics, now),
            Reason::Removed => registry.removed_before(link, statistics, now),
            _ => registry.expire(link, statistics, now),
        };
        drop(registry);
        self.finish(finished, session_id, None);
        Ok(Next::Same)
    }

    /// What a relay tells of a session; none where it cannot be read.
    fn statistics(&mut self, json: &[u8], what: &str) -> Result<Option<Statistics>, Excess> {
        let error = match Statistics::parse(json) {
            Ok(statistics) => return Ok(Some(statistics)),
            Err(Unfit::Excess(excess)) => return Err(excess),
            Err(Unfit::Json(error)) => error.to_string(),
            Err(Unfit::NoList) => String::new(),
        };
        self.odd(&format!("{what} cannot be read ({error})"), json);
        Ok(None)
    }

    /// It has spoken of a session that another relay was given: nothing of that counts.
    fn is_anothers(&mut self, call_id: &str, owner: &RelayKey) {
        self.dispatcher.counts.ignored(Ignored::Foreign);
        if let Some(skipped) = self.foreign.due() {
            let call_id = Excerpt(call_id.as_bytes());
            log::warn!(
                "[session {call_id}] relay {} tells of it, and relay {owner} has it: that changes nothing{skipped}",
                self.link
            );
        }
    }

    /// It has told of more sessions that are not known than are taken at once. One of ours tells them again.
    fn leave_out(&mut self) {
        self.dispatcher.counts.ignored(Ignored::TooMany);
        if let Some(skipped) = self.foreign.due() {
            log::warn!(
                "relay {}: it has told the ends of over {} sessions that are not known here: more are taken later, as it \
                 tells them again{skipped}",
                self.link,
                limits::RECORDS
            );
        }
    }

    /// Takes an ended session, to be recorded with those that are told together with it. Whoever has asked for the
    /// removal hears of it then.
    fn finish(
        &mut self,
        finished: Option<EndedCall>,
        session_id: Option<String>,
        asked: Option<(Arc<Slot<Removal>>, Removal)>,
    ) {
        let finished = finished.map(|finished| EndedCall {
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

    /// The request that a reply belongs to. A relay that was silent is back with its first answer in time.
    fn asked(&mut self, sequence: Sequence) -> Option<Ask> {
        let (ask, is_back) = self.link.answered(sequence)?;
        if is_back {
            self.answers_again();
        }
        Some(ask)
    }

    /// Acts on a reply; what the management port has asked for is to be put there.
    fn reply(&mut self, sequence: Sequence, result: &[u8]) -> Result<Option<Arc<Shown>>, Excess> {
        let now = clock::moment();
        match self.asked(sequence) {
            Some(Ask::Update(updating)) => self.updated(&updating, result),
            Some(Ask::Remove(remove, slot)) => self.removed(&remove, slot, result, now)?,
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
            Some(Ask::Check(doubts)) if result.starts_with(b"error") => {
                self.has_none(doubts, result, now);
            }
            Some(ask @ (Ask::Purge | Ask::Check(_))) => {
                self.list = Purpose::of(ask).map(|purpose| Listing::new(purpose, self.most));
                self.go_on_listing(result)?;
                self.list_over();
            }
            Some(Ask::Show(slot)) => return Ok(Some(slot)),
            Some(Ask::PortShortage) => self.shortage_told(result, now),
            None => {
                self.dispatcher.counts.ignored(Ignored::Unasked);
                self.odd("a reply to no request of this dispatcher", result);
                self.idle("replies to no request")?;
            }
        }
        Ok(None)
    }

    fn updated(&mut self, updating: &Arc<PendingUpdate>, result: &[u8]) {
        let (link, registry) = (self.link, &self.dispatcher.registry);
        if updating.is_new {
            lock(registry).relays.attempt_over(link.id);
        }
        match UpdateResult::parse(result) {
            UpdateResult::Ports(ports) => {
                let commit = || self.commit(&updating.update);
                if !updating.succeed(link.id, ports.to_owned(), commit) {
                    self.updated_late(updating);
                }
            }
            UpdateResult::Halting => {
                if lock(registry).relays.halting(link.id) {
                    log::info!("relay {link}: halting, it gets no new calls");
                }
                updating.fail(link.id, UpdateFailure::Halting);
            }
            UpdateResult::Error(why) => {
                updating.fail(link.id, UpdateFailure::Error(why.into()));
                if updating.update.has_media() {
                    self.ask_for_shortage();
                }
            }
        }
    }

    /// Has the relay tell whether ports are what it lacks.
    fn ask_for_shortage(&mut self) {
        let now = clock::moment();
        let Some(shortage) = self.shortage.as_mut() else {
            return;
        };
        if shortage.is_to_be_asked(now) {
            // What it cannot be asked now, it is with the next call.
            let _ = self.link.send(now, Ask::PortShortage, |out, sequence, _| {
                write_plain(out, "summary", sequence)
            });
        }
    }

    fn shortage_told(&mut self, summary: &[u8], now: Moment) {
        let shortage = self.shortage.as_mut();
        if let Some(text) = shortage.and_then(|shortage| shortage.told(summary, now)) {
            log::warn!("relay {}: {text}", self.link);
        }
    }

    /// Takes it into the registry; an answered call is noted before the proxy hears of it.
    fn commit(&self, update: &ReceivedUpdate) {
        let noted = lock(&self.dispatcher.registry).updated(self.link.id, update);
        if let Some(call) = noted {
            self.dispatcher.finisher.note(&call);
        }
    }

    /// Takes back a session that nobody waits for, unless the same call is on its way to this relay again.
    fn updated_late(&mut self, updating: &PendingUpdate) {
        let (link, update) = (self.link, &updating.update);
        let late = lock(&self.dispatcher.registry).updated_late(link.id, update);
        if let Some(call) = late.noted {
            self.dispatcher.finisher.note(&call);
        }
        if late.is_stray && updating.is_new && !link.is_updating(update.mention()) {
            let call_id = &update.call_id;
            log::warn!("[session {call_id}] relay {link} took the call too late: taken back");
            link.remove(update.removal(), true);
        }
    }

    /// Only statistics tell that a session is over.
    fn removed(
        &mut self,
        remove: &Remove,
        asked: Option<Arc<Slot<Removal>>>,
        result: &[u8],
        now: Moment,
    ) -> Result<(), Excess> {
        let call_id = &remove.call_id;
        let statistics = match result {
            b"error" => None,
            json => self.statistics(json, &format!("[session {call_id}] statistics that"))?,
        };
        // A relay answers for the call that it was asked for.
        let is_it = |told: &Statistics| is_spelled(&call_id.0, &told.call_id);
        if statistics.as_ref().is_some_and(|told| !is_it(told)) {
            self.odd(
                &format!("[session {call_id}] statistics of another call"),
                result,
            );
        }
        let statistics = statistics.filter(is_it);
        let session_id = statistics.as_ref().and_then(|s| s.session_id.clone());
        let mut registry = lock(&self.dispatcher.registry);
        // What is not here any more has expired since it was asked for.
        let place = registry.place_of(remove.mention());
        let is_here = matches!(place, CallLocation::On(id, _) if id == self.link.id);
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
        Ok(())
    }

    /// A list has begun to come.
    fn begin_list(&mut self, sequence: Sequence, begun: &[u8]) -> Result<(), Excess> {
        let asked = self.asked(sequence).filter(|_| self.is_welcome());
        let purpose = asked.and_then(Purpose::of);
        self.list = purpose.map(|purpose| Listing::new(purpose, self.most));
        self.go_on_listing(begun)
    }

    fn go_on_listing(&mut self, bytes: &[u8]) -> Result<(), Excess> {
        match &mut self.list {
            Some(list) => list.take(self.dispatcher, self.link, bytes),
            None => Ok(()),
        }
    }

    /// The list's line is over.
    fn list_over(&mut self) {
        let Some(list) = self.list.take() else {
            return;
        };
        let (count, now) = (list.calls, clock::moment());
        let (purpose, read) = list.finish();
        if let Err(why) = &read {
            self.odd(&format!("sessions that cannot be read ({why})"), b"");
        }
        match (purpose, read) {
            (Purpose::Purge(listed), Ok(())) => self.listed(listed, count, now),
            (Purpose::Purge(_), Err(_)) => self.dispatcher.remove_owed(self.link),
            (Purpose::Check(doubts, told), Ok(())) => self.checked(doubts, &told, now),
            (Purpose::Check(doubts, _), Err(_)) => {
                lock(&self.dispatcher.registry).unanswered(self.link.id, doubts, now);
            }
        }
    }

    /// The relay, asked for a call, has answered `error`: it has it not, or could not find out.
    fn has_none(&mut self, doubts: Doubts, result: &[u8], now: Moment) {
        if result == b"error" && self.link.explains() {
            return self.checked(doubts, &[], now);
        }
        // One that is busy says `error: busy`.
        if !result.starts_with(b"error: ") {
            self.odd("sessions that cannot be read", result);
        }
        lock(&self.dispatcher.registry).unanswered(self.link.id, doubts, now);
    }

    /// The relay says whether it has calls that it does not know by the tags of their removal.
    fn checked(&mut self, doubts: Doubts, told: &[ListedCall], now: Moment) {
        let link = self.link;
        let checked = lock(&self.dispatcher.registry).checked(link.id, doubts, told, now);
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

    fn listed(&mut self, listed: Listed, count: usize, now: Moment) {
        if let Some((owner, call_id)) = &listed.first_foreign {
            self.is_anothers(&call_id.0.escaped(), owner);
        }
        let mut registry = lock(&self.dispatcher.registry);
        let purge = registry.listed_all(self.link.id, listed, now);
        registry.relays.set_listed(self.link.id);
        drop(registry);
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
        self.dispatcher.relay_news.tell();
        remove_missed(self.link, purge.owed);
        self.dispatcher.finish(purge.finished);
    }

    fn odd(&mut self, what: &str, line: &[u8]) {
        if let Some(skipped) = self.odd.due() {
            log::warn!(
                "relay {}: {what}: \"{}\"{skipped}",
                self.link,
                Excerpt(line)
            );
        }
    }
}
