//! The sessions of one worker: finds the one that a request, a packet or a timer is for, and reports its end.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use log::{debug, info, warn};

use super::answers::{Answer, Answers, LONGEST};
use super::belief::How;
use super::call::{Context, Line, Session, send_waiting, withdraw_component};
use super::flows::{offer_to_kernel, when_welcome, withdraw_bypassed};
use super::report::{self, Counters};
use super::strangers::Strangers;
use super::stream::{self, Learned, Relay, Status, Stream};
use super::{
    Action, Asker, Drop, Dropped, Ended, Host, Owner, Place, ReplyTo, SessionKey, Settings, Verdict,
};
use crate::moment::Now;
use crate::proto::control::{Remove, Update};
use crate::proto::link::UpdateReply;
use crate::proto::{CallId, Component, Party, demux};

/// A session that was looked at in vain is not looked at again before this time.
const SOONEST: Duration = Duration::from_millis(100);

/// Where the end of a session is reported, once the kernel has given its last counters.
#[derive(Debug)]
enum Ending {
    Removed(ReplyTo),
    Expired,
}

#[derive(Debug)]
struct Entry {
    session: Session,
    /// Its timer.
    due: Option<Duration>,
    /// Over; reported when its flows are withdrawn.
    ending: Option<Ending>,
}

/// What an engine may hold: streams without ports take memory, too.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub sessions: usize,
    pub streams: usize,
}

impl Default for Room {
    fn default() -> Room {
        Room {
            sessions: usize::MAX,
            streams: usize::MAX,
        }
    }
}

/// The sessions of one worker.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    entries: Vec<(u32, Option<Entry>)>,
    free: Vec<u32>,
    /// The live sessions of a call-id: one as a rule.
    calls: HashMap<CallId, Vec<SessionKey>>,
    /// One for each live session.
    timers: BTreeSet<(Duration, SessionKey)>,
    actions: VecDeque<Action>,
    answers: Answers,
    /// What it may hold, and the streams of all sessions, ended ones included.
    room: Room,
    streams: usize,
    draining: bool,
    /// When the kernel was last found to forward again.
    pub(super) mended: Duration,
    /// When the kernel's counters were last read: what it relayed until then is known.
    pub(super) heard: Duration,
    pub(super) relayed: Counters,
    dropped: Dropped,
    strangers: Strangers,
    /// The kernel's part of it.
    pub(super) relayed_by_kernel: Counters,
}

impl Engine {
    pub fn new(settings: Settings) -> Engine {
        Engine {
            settings,
            entries: Vec::new(),
            free: Vec::new(),
            calls: HashMap::new(),
            timers: BTreeSet::new(),
            actions: VecDeque::new(),
            answers: Answers::default(),
            room: Room::default(),
            streams: 0,
            draining: false,
            mended: Duration::ZERO,
            heard: Duration::ZERO,
            relayed: Counters::default(),
            dropped: Dropped::default(),
            strangers: Strangers::default(),
            relayed_by_kernel: Counters::default(),
        }
    }

    /// Sets what it may hold.
    pub fn set_room(&mut self, room: Room) {
        self.room = room;
    }

    /// A SIP message passed the proxy; the answer comes as [`Action::Updated`].
    pub fn update(&mut self, update: &Update, asker: Asker, host: &mut dyn Host, now: Now) {
        let found = self.find(&update.call_id, |s| {
            s.has_tags(&update.from_tag, update.to_tag.as_ref())
        });
        let is_full = self.streams >= self.room.streams && update.media.is_some();
        let reply = match found {
            _ if is_full => UpdateReply::Error("too many streams in all sessions".into()),
            Some(key) => return self.update_session(key, update, asker, host, now),
            None if update.media.is_none() => {
                let address = host.local_address(None);
                let address = self.settings.advertised_ip.unwrap_or(address);
                UpdateReply::Ports(address.into(), Vec::new())
            }
            None if self.draining => UpdateReply::Halting,
            None if self.held() >= self.room.sessions => {
                UpdateReply::Error("too many sessions for the ports that there are".into())
            }
            None => self.create_session(update, asker.owner, host, now),
        };
        self.actions.push_back(Action::Updated { asker, reply });
    }

    /// The answer waits where flows of the session are on their way out of the kernel, by this update's doing or
    /// that of one before.
    fn update_session(
        &mut self,
        key: SessionKey,
        update: &Update,
        asker: Asker,
        host: &mut dyn Host,
        now: Now,
    ) {
        let Some(entry) = entry_mut(&mut self.entries, key) else {
            return;
        };
        let mut context = Context {
            settings: &self.settings,
            host,
            actions: &mut self.actions,
            now,
        };
        let session = &mut entry.session;
        let before = session.streams.len();
        let result = session.update(update, &mut context);
        self.streams = self.streams + session.streams.len() - before;
        if result.is_ok() {
            session.owner = asker.owner;
        }
        let reply = report::reply(session, update, result, &self.settings);
        if session.is_withdrawing() {
            let answer = Answer {
                session: key,
                asker,
                reply,
            };
            self.answers.hold(answer, now.mono.since_start());
        } else {
            self.actions.push_back(Action::Updated { asker, reply });
        }
        self.schedule(key, now.mono.since_start());
        self.release_held(key, now.mono.since_start());
    }

    /// Media that came before its sender's SDP (E10).
    fn release_held(&mut self, key: SessionKey, now: Duration) {
        let Some(entry) = entry_mut(&mut self.entries, key) else {
            return;
        };
        let mut held = Vec::new();
        for (index, stream) in entry.session.streams.iter_mut().enumerate() {
            for party in [Party::Caller, Party::Callee] {
                let packets = stream.leg_mut(party).take_held(now).into_iter();
                held.extend(packets.map(|packet| {
                    let place = Place {
                        session: key,
                        stream: index as u16,
                        party,
                        component: packet.component,
                    };
                    (place, packet)
                }));
            }
        }
        for (place, packet) in held {
            let verdict = self.packet(place, packet.from, &packet.data, now);
            if let Verdict::Forward { from_port, to } = verdict {
                // It counts when it goes.
                let bytes = packet.data.len() as u64 + stream::HEADERS;
                self.relayed.take_back(1, bytes);
                self.actions.push_back(Action::Send {
                    from_port,
                    to,
                    data: packet.data,
                });
            }
        }
    }

    fn create_session(
        &mut self,
        update: &Update,
        owner: Owner,
        host: &mut dyn Host,
        now: Now,
    ) -> UpdateReply {
        let key = self.next_key();
        let mut context = Context {
            settings: &self.settings,
            host,
            actions: &mut self.actions,
            now,
        };
        let mut session = Session::new(update, key, owner, &mut context);
        let result = session.update(update, &mut context);
        let accepted = result.is_ok();
        let reply = report::reply(&session, update, result, &self.settings);
        if accepted {
            self.insert(session);
            self.schedule(key, now.mono.since_start());
        }
        reply
    }

    /// Ends a call by the proxy's word; the answer comes as [`Action::Removed`]. False when there is none.
    pub fn remove(&mut self, remove: &Remove, reply_to: ReplyTo, now: Now) -> bool {
        let Some(key) = self.find(&remove.call_id, |s| s.is_meant_by(remove)) else {
            debug!("[session {}] remove: no such session", remove.call_id);
            return false;
        };
        if let Some(entry) = entry_mut(&mut self.entries, key) {
            entry.session.note_remove(remove);
        }
        self.finish(key, Ending::Removed(reply_to), now);
        true
    }

    /// A datagram arrived on a bound port.
    pub fn packet(
        &mut self,
        place: Place,
        from: SocketAddrV4,
        data: &[u8],
        now: Duration,
    ) -> Verdict {
        let Some(entry) = entry_mut(&mut self.entries, place.session) else {
            return Verdict::Drop(Drop::Closed);
        };
        let session = &mut entry.session;
        let Some(stream) = session.streams.get_mut(usize::from(place.stream)) else {
            return Verdict::Drop(Drop::Closed);
        };
        let Place {
            party, component, ..
        } = place;
        let kind = demux::classify(data);
        let outcome = stream.on_packet((party, component), from, data, kind, (&self.settings, now));
        let relay = outcome.relay;
        if let Some(learned) = outcome.learned {
            let line = Line(stream, usize::from(place.stream));
            log_learned(&session.call_id, line, component, learned);
            if component == Component::Rtp && learned.how != How::First {
                let rtcp = (usize::from(place.stream), Component::Rtcp);
                stream.rtp_has_moved(learned.party);
                withdraw_component(place.session, stream, rtcp, &mut self.actions);
            }
            send_waiting(stream, learned.party, &self.settings, &mut self.actions);
        }
        if outcome.is_claimed {
            let line = Line(stream, usize::from(place.stream));
            info!(
                "[session {}] {line}: {from} claims to be the {party}, whose {component} the kernel forwards: taken \
                 back from it to see who is",
                session.call_id
            );
            let which = (usize::from(place.stream), component);
            withdraw_component(place.session, stream, which, &mut self.actions);
        }
        if outcome.is_strange {
            self.strangers.note(session, (party, component), from, now);
        }
        let Some(stream) = session.streams.get_mut(usize::from(place.stream)) else {
            return Verdict::Drop(Drop::Closed);
        };
        if self.settings.kernel.is_ok() {
            let is_media = kind != demux::Kind::Stun && matches!(relay, Relay::To(_));
            if is_media && stream.handovers[component as usize].is_bypassed(now) {
                let line = Line(stream, usize::from(place.stream));
                info!(
                    "[session {}] {line}: {component} does not reach the kernel's entry",
                    session.call_id
                );
                withdraw_bypassed(stream, place, now, &mut self.actions);
            }
            let welcome = when_welcome(self.mended, place.session);
            offer_to_kernel(stream, place, (now, welcome), &mut self.actions);
        }
        let from_port = stream.leg(party.other()).port_of(component);
        if outcome.learned.is_some() {
            // The first of its kind sets a limit of its own.
            self.schedule(place.session, now);
        }
        match relay {
            Relay::To(to) => {
                self.relayed.add(1, data.len() as u64 + stream::HEADERS);
                Verdict::Forward { from_port, to }
            }
            Relay::Queued => Verdict::Queued,
            Relay::Drop(why) => {
                self.dropped.add(why);
                Verdict::Drop(why)
            }
        }
    }

    /// A datagram that was to be forwarded could not be sent after all: it was not relayed. `place` is where it
    /// arrived, `length` its payload's, `errno` the kernel's number for why.
    pub fn unsent(&mut self, place: Place, length: usize, errno: i32, now: Duration) {
        let bytes = length as u64 + stream::HEADERS;
        if let Some(stream) = self.stream_mut(place.session, place.stream) {
            let leg = stream.leg_mut(place.party);
            leg.user_space.take_back(1, bytes);
            leg.unsent += 1;
            leg.last_unsent = Some((now, errno));
            self.relayed.take_back(1, bytes);
        }
    }

    /// A datagram that was to be forwarded has come round too often (M11): it was not relayed. `place` is where it
    /// arrived, `length` its payload's.
    pub fn went_round(&mut self, place: Place, length: usize) {
        let bytes = length as u64 + stream::HEADERS;
        if let Some(stream) = self.stream_mut(place.session, place.stream) {
            let leg = stream.leg_mut(place.party);
            leg.user_space.take_back(1, bytes);
            leg.dropped.add(Drop::WentRound);
            self.relayed.take_back(1, bytes);
            self.dropped.add(Drop::WentRound);
        }
    }

    /// The call that what is sent to an address and the port of `place` comes to, if that is an address of that port.
    pub fn call_at(&self, place: Place, address: Ipv4Addr) -> Option<&CallId> {
        let session = &self.entry(place.session)?.session;
        let leg = session
            .streams
            .get(usize::from(place.stream))?
            .leg(place.party);
        let is_it = address == leg.local || Some(address) == self.settings.advertised_ip;
        is_it.then_some(&session.call_id)
    }

    /// The packets of a party that come round do so by way of this call.
    pub fn note_round(&mut self, place: Place, with: CallId) {
        if let Some(stream) = self.stream_mut(place.session, place.stream) {
            stream.leg_mut(place.party).round_with = Some(with);
        }
    }

    /// Answers what has waited too long. One line for all: when the kernel is slow there are many.
    fn answer_late(&mut self, now: Duration) {
        let mut calls = 0;
        while let Some(late) = self.answers.take_late(now) {
            if let Some(call_id) = self.call_id(late.session).filter(|_| calls == 0) {
                let waited = LONGEST.as_millis();
                warn!(
                    "[session {call_id}] answered before the kernel has let go of what the answer replaces, after {waited} \
                     ms: media may take the former path for a moment"
                );
            }
            calls += 1;
            self.answer(late);
        }
        if calls > 1 {
            warn!("{} more answers went like that one", calls - 1);
        }
    }

    /// Ends what has been silent too long, and answers what has waited too long.
    pub fn tick(&mut self, now: Now) {
        self.answer_late(now.mono.since_start());
        self.strangers.tick(now.mono.since_start());
        while let Some(&(due, key)) = self.timers.first() {
            if due > now.mono.since_start() {
                break;
            }
            self.timers.pop_first();
            let Some(entry) = entry_mut(&mut self.entries, key) else {
                continue;
            };
            entry.due = None;
            if entry.session.expire(
                &self.settings,
                self.heard,
                &mut self.actions,
                now.mono.since_start(),
            ) {
                self.finish(key, Ending::Expired, now);
            } else {
                self.schedule(key, now.mono.since_start() + SOONEST);
            }
        }
    }

    /// When [`Engine::tick`] is to be called next; it may find nothing to do.
    pub fn next_deadline(&self) -> Option<Duration> {
        let session = self.timers.first().map(|(due, _)| *due);
        let others = self
            .answers
            .next_late()
            .into_iter()
            .chain(self.strangers.due());
        session.into_iter().chain(others).min()
    }

    /// The next thing to do, in order.
    pub fn poll_action(&mut self) -> Option<Action> {
        let action = self.actions.pop_front();
        if let Some(Action::Send { data, .. }) = &action {
            self.relayed.add(1, data.len() as u64 + stream::HEADERS);
        }
        action
    }

    /// The kernel may have let go of the last flow of a session that was to be withdrawn: then nothing is waited for.
    pub(super) fn let_go(&mut self, key: SessionKey, now: Now) {
        if self.entry(key).is_some_and(|e| !e.session.is_withdrawing()) {
            for answer in self.answers.release(key) {
                self.answer(answer);
            }
            self.report_end(key, now);
        }
    }

    fn answer(&mut self, answer: Answer) {
        let Answer { asker, reply, .. } = answer;
        self.actions.push_back(Action::Updated { asker, reply });
    }

    /// From now on no new sessions.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Ends all sessions; each is reported as expired.
    pub fn end_all(&mut self, now: Now) {
        let keys: Vec<SessionKey> = self.live().map(|session| session.key).collect();
        for key in keys {
            self.finish(key, Ending::Expired, now);
        }
    }

    /// Live sessions.
    pub fn session_count(&self) -> usize {
        self.calls.values().map(Vec::len).sum()
    }

    /// Sessions that are live or not yet reported, counted without looking at them.
    pub fn held(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// The call of a session that is not yet reported.
    pub fn call_id(&self, session: SessionKey) -> Option<&CallId> {
        self.entry(session).map(|entry| &entry.session.call_id)
    }

    /// Sessions that are not yet reported, to be reported to this dispatcher.
    pub fn owned_by(&self, owner: Owner) -> usize {
        let entries = self.entries.iter().filter_map(|(_, entry)| entry.as_ref());
        entries.filter(|entry| entry.session.owner == owner).count()
    }

    /// Whether a call is here.
    pub fn has_call(&self, call_id: &CallId) -> bool {
        self.calls.contains_key(call_id)
    }

    /// All that was ever dropped, by reason; of sessions that are no more, not.
    pub fn dropped(&self) -> Dropped {
        self.dropped
    }

    /// The live sessions of a call-id.
    pub(super) fn sessions_of(&self, call_id: &CallId) -> impl Iterator<Item = &Session> {
        let keys = self.calls.get(call_id).into_iter().flatten();
        keys.filter_map(|key| Some(&self.entry(*key)?.session))
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Appends the statistics of sessions, each followed by a comma, beginning at `cursor` (0 at first): up to
    /// so many, and none once there are so many bytes. The cursor to go on from, or none at the end: a long list
    /// can be written in pieces.
    pub fn write_sessions(
        &self,
        out: &mut Vec<u8>,
        cursor: usize,
        (sessions, bytes): (usize, usize),
        now: Now,
    ) -> Option<usize> {
        let mut written = 0;
        for (slot, (_, entry)) in self.entries.iter().enumerate().skip(cursor) {
            if written == sessions || out.len() >= bytes {
                return Some(slot);
            }
            if let Some(entry) = entry.as_ref().filter(|entry| entry.ending.is_none()) {
                report::write_listed(out, &entry.session, now);
                out.push(b',');
                written += 1;
            }
        }
        None
    }

    pub(super) fn stream_mut(&mut self, session: SessionKey, stream: u16) -> Option<&mut Stream> {
        let entry = entry_mut(&mut self.entries, session)?;
        entry.session.streams.get_mut(usize::from(stream))
    }

    fn find(&self, call_id: &CallId, is_it: impl Fn(&Session) -> bool) -> Option<SessionKey> {
        let keys = self.calls.get(call_id)?;
        let found = keys
            .iter()
            .find(|&&key| self.entry(key).is_some_and(|e| is_it(&e.session)));
        found.copied()
    }

    fn entry(&self, key: SessionKey) -> Option<&Entry> {
        let (generation, entry) = self.entries.get(key.slot as usize)?;
        entry.as_ref().filter(|_| *generation == key.generation)
    }

    pub(super) fn live(&self) -> impl Iterator<Item = &Session> {
        let entries = self.entries.iter().filter_map(|(_, entry)| entry.as_ref());
        entries
            .filter(|entry| entry.ending.is_none())
            .map(|entry| &entry.session)
    }

    /// The key that [`Engine::insert`] will use.
    fn next_key(&self) -> SessionKey {
        match self.free.last() {
            Some(&slot) => SessionKey {
                slot,
                generation: self.entries[slot as usize].0,
            },
            None => SessionKey {
                slot: self.entries.len() as u32,
                generation: 0,
            },
        }
    }

    fn insert(&mut self, session: Session) {
        let key = session.key;
        self.streams += session.streams.len();
        self.calls
            .entry(session.call_id.clone())
            .or_default()
            .push(key);
        let entry = Entry {
            session,
            due: None,
            ending: None,
        };
        match self.free.pop() {
            Some(slot) => self.entries[slot as usize].1 = Some(entry),
            None => self.entries.push((0, Some(entry))),
        }
    }

    /// Sets a timer where the session's deadline is earlier than the one already set; a later one is found
    /// out when that fires. Not before `earliest`.
    fn schedule(&mut self, key: SessionKey, earliest: Duration) {
        let Some(entry) = entry_mut(&mut self.entries, key) else {
            return;
        };
        let deadline = entry.session.deadline(&self.settings).max(earliest);
        if entry.due.is_none_or(|due| deadline < due) {
            if let Some(due) = entry.due.replace(deadline) {
                self.timers.remove(&(due, key));
            }
            self.timers.insert((deadline, key));
        }
    }

    /// Ends a session: its ports go now, its report when the kernel has given its counters.
    fn finish(&mut self, key: SessionKey, ending: Ending, now: Now) {
        let Some(entry) = entry_mut(&mut self.entries, key) else {
            return;
        };
        let session = &mut entry.session;
        for index in 0..session.streams.len() {
            let declined = session.streams[index].declined;
            let status = if declined {
                Status::Rejected
            } else {
                Status::Closed
            };
            session.end_stream(
                index,
                status,
                Duration::ZERO,
                &mut self.actions,
                now.mono.since_start(),
            );
        }
        entry.ending = Some(ending);
        if let Some(due) = entry.due.take() {
            self.timers.remove(&(due, key));
        }
        if let Some(keys) = self.calls.get_mut(&session.call_id) {
            keys.retain(|&other| other != key);
            if keys.is_empty() {
                self.calls.remove(&session.call_id);
            }
        }
        self.report_end(key, now);
    }

    /// Reports a session that is over, as soon as none of its flows is still to be withdrawn.
    fn report_end(&mut self, key: SessionKey, now: Now) {
        let is_done = |entry: &Entry| entry.ending.is_some() && !entry.session.is_withdrawing();
        if !self.entry(key).is_some_and(is_done) {
            return;
        }
        let Some((generation, entry)) = self.entries.get_mut(key.slot as usize) else {
            return;
        };
        let Some(Entry {
            session,
            ending: Some(ending),
            ..
        }) = entry.take()
        else {
            return;
        };
        *generation = generation.wrapping_add(1);
        self.streams -= session.streams.len();
        self.free.push(key.slot);
        let mut statistics = Vec::new();
        report::write_session(&mut statistics, &session, now);
        let how = match ending {
            Ending::Removed(_) => "removed",
            Ending::Expired => "expired",
        };
        report::log_end(&session, how, &statistics, now);
        let ended = Ended {
            session_id: session.id,
            is_answered: session.started.is_some(),
            call_id: session.call_id,
            statistics,
        };
        self.actions.push_back(match ending {
            Ending::Removed(reply_to) => Action::Removed { reply_to, ended },
            Ending::Expired => Action::Expired {
                owner: session.owner,
                ended,
            },
        });
    }
}

/// Where a party was found, and why it is believed where another was before.
fn log_learned(call_id: &CallId, line: Line<'_>, component: Component, learned: Learned) {
    let Learned {
        party,
        address,
        how,
    } = learned;
    let why = match how {
        How::First => String::new(),
        How::Better(old) => {
            format!(": more speaks for it than for {old}, where it was taken to be")
        }
        How::Followed(old) => {
            format!(": its stream goes on there, and {old} is silent (another NAT mapping)")
        }
    };
    info!("[session {call_id}] {line}: {party} {component} is at {address}{why}");
}

fn entry_mut(entries: &mut [(u32, Option<Entry>)], key: SessionKey) -> Option<&mut Entry> {
    let (generation, entry) = entries.get_mut(key.slot as usize)?;
    entry.as_mut().filter(|_| *generation == key.generation)
}
