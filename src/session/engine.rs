//! The sessions of one worker: finds the one that a request, a packet, a timer or the kernel's news is for, and reports
//! its end.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use log::{debug, info, warn};

use super::actions::{Action, Asker, Ended, Owner, ReplyTo};
use super::adoption;
use super::answers::{Answer, Answers, LONGEST_HOLD};
use super::call::Session;
use super::drops::DropReason;
use super::environment::{Environment, Tally};
use super::explain;
use super::forwarding::{AdoptedFlow, FlowNews};
use super::kernel::Kernel;
use super::keys::{PortKey, SessionKey};
use super::negotiation::Context;
use super::packets::{self, PacketContext, Received};
use super::refusal::Refusal;
use super::report;
use super::saved::{self, Saved};
use super::settings::Settings;
use super::silence::{self, Expiry, Silence};
use super::status::Status;
use super::strangers::Strangers;
use super::table::{Capacity, Change, Ending, SessionTable};
use super::timers::Timers;
use super::totals::Totals;
use super::verdict::PacketVerdict;
use crate::counters::Counters;
use crate::moment::{Moment, Now};
use crate::proto::control::{MessageKind, Remove, Update};
use crate::proto::link::UpdateReply;
use crate::proto::{CallId, Party, SessionId};

/// A session that was looked at in vain is not looked at again before this time.
const LOOKED_AT_EVERY: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    sessions: SessionTable,
    timers: Timers,
    actions: VecDeque<Action>,
    answers: Answers,
    kernel: Kernel,
    strangers: Strangers,
    totals: Totals,
    draining: bool,
    /// The latest time that it was told.
    latest: Moment,
}

impl Engine {
    pub fn new(settings: Settings) -> Engine {
        Engine {
            settings,
            sessions: SessionTable::default(),
            timers: Timers::default(),
            actions: VecDeque::new(),
            answers: Answers::default(),
            kernel: Kernel::default(),
            strangers: Strangers::default(),
            totals: Totals::default(),
            draining: false,
            latest: Moment::START,
        }
    }

    /// Sets what it may hold.
    pub fn set_capacity(&mut self, capacity: Capacity) {
        self.sessions.capacity = capacity;
    }

    pub fn sessions(&self) -> &SessionTable {
        &self.sessions
    }

    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// A SIP message passed the proxy; the answer comes as [`Action::Updated`].
    pub fn update(
        &mut self,
        update: &Update,
        asker: Asker,
        environment: &mut dyn Environment,
        now: Now,
    ) {
        self.latest = now.mono;
        let found = self.find(&update.call_id, |s| {
            s.has_tags(&update.from_tag, update.to_tag.as_ref())
        });
        let reply = match found {
            _ if update.media.is_some() && !self.sessions.has_room_for_streams() => {
                refused(Refusal::TooManyStreamsInAll)
            }
            Some(key) => return self.update_session(key, update, asker, environment, now),
            None if update.media.is_none() => {
                let usual = environment.local_address(None);
                UpdateReply::Ports(self.settings.advertised_ip.unwrap_or(usual), Vec::new())
            }
            None if self.draining => UpdateReply::Halting,
            None if !self.sessions.has_room_for_sessions() => refused(Refusal::TooManySessions),
            None => self.create_session(update, asker.owner, environment, now),
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
        environment: &mut dyn Environment,
        now: Now,
    ) {
        let Some(entry) = self.sessions.entry_mut(key) else {
            return;
        };
        let mut context = Context {
            settings: &self.settings,
            environment,
            actions: &mut self.actions,
            now,
        };
        let session = &mut entry.session;
        let before = session.media.streams.len();
        let result = session.update(update, &mut context);
        if result.is_ok() {
            session.owner = asker.owner;
        }
        let reply = answer_to(session, update, result, &self.settings);
        let new_streams = session.media.streams.len() - before;
        if session.media.is_withdrawing() {
            let answer = Answer {
                session: key,
                asker,
                reply,
            };
            self.answers.hold(answer, now.mono);
        } else {
            self.actions.push_back(Action::Updated { asker, reply });
        }
        self.sessions.add_streams(new_streams);
        self.sessions.touch(key);
        self.schedule(key, now.mono);
        self.release_held(key, now.mono);
    }

    /// Media that came before its sender's SDP (E10).
    fn release_held(&mut self, key: SessionKey, now: Moment) {
        let Some(entry) = self.sessions.entry_mut(key) else {
            return;
        };
        let mut held = Vec::new();
        for (index, stream) in entry.session.media.streams.iter_mut().enumerate() {
            for party in Party::BOTH {
                held.extend(stream.legs[party].take_held(now).into_iter().map(|packet| {
                    let port = PortKey {
                        session: key,
                        stream: index as u16,
                        party,
                        component: packet.component,
                    };
                    (port, packet)
                }));
            }
        }
        for (port, packet) in held {
            let verdict = self.packet(port, packet.from, &packet.data, now);
            if let PacketVerdict::Forward { from_port, to } = verdict {
                // It counts when it goes.
                let counted = Counters::datagram(packet.data.len(), packet.from.ip());
                self.totals.relayed.take_back(counted);
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
        environment: &mut dyn Environment,
        now: Now,
    ) -> UpdateReply {
        let key = self.sessions.next_key();
        let mut context = Context {
            settings: &self.settings,
            environment,
            actions: &mut self.actions,
            now,
        };
        let mut session = Session::new(update, key, owner, &mut context);
        let result = session.update(update, &mut context);
        let is_accepted = result.is_ok();
        let reply = answer_to(&session, update, result, &self.settings);
        if is_accepted {
            self.sessions.insert(session);
            self.sessions.touch(key);
            self.schedule(key, now.mono);
        }
        reply
    }

    /// Ends a call by the proxy's word; the answer comes as [`Action::Removed`]. False when there is none.
    pub fn remove(&mut self, remove: &Remove, reply_to: ReplyTo, now: Now) -> bool {
        self.latest = now.mono;
        let Some(key) = self.find(&remove.call_id, |s| s.is_meant_by(remove)) else {
            debug!("[session {}] remove: no such session", remove.call_id);
            return false;
        };
        if let Some(entry) = self.sessions.entry_mut(key) {
            entry.session.note_remove(remove);
        }
        self.finish(key, Ending::Removed(reply_to), now);
        true
    }

    /// A datagram arrived on a bound port.
    pub fn packet(
        &mut self,
        port: PortKey,
        from: SocketAddr,
        data: &[u8],
        now: Moment,
    ) -> PacketVerdict {
        self.latest = now;
        let Some(entry) = self.sessions.entry_mut(port.session) else {
            return PacketVerdict::Drop(DropReason::Closed);
        };
        let context = PacketContext {
            settings: &self.settings,
            actions: &mut self.actions,
            strangers: &mut self.strangers,
            now,
            welcome: self.kernel.welcomes(port.session),
        };
        let Received {
            verdict,
            has_latched,
            is_changed,
        } = packets::receive(&mut entry.session, port, (from, data), context);
        match verdict {
            PacketVerdict::Forward { .. } => {
                self.totals.relayed += Counters::datagram(data.len(), from.ip());
            }
            PacketVerdict::Queued => {}
            PacketVerdict::Drop(why) => self.totals.dropped.add(why),
        }
        if has_latched {
            // The first of its kind sets a limit of its own.
            self.schedule(port.session, now);
        }
        if is_changed {
            self.sessions.touch(port.session);
        }
        verdict
    }

    /// A datagram that was to be forwarded could not be sent after all: it was not relayed. `port` is where it
    /// arrived, `length` its payload's, `errno` the kernel's number for why.
    pub fn unsent(&mut self, port: PortKey, length: usize, errno: i32, now: Moment) {
        if let Some(stream) = self.sessions.stream_mut(port.session, port.stream) {
            let leg = &mut stream.legs[port.party];
            let counted = leg.datagram(length);
            leg.user_space.take_back(counted);
            leg.unsent += 1;
            leg.incidents_mut().last_unsent = Some((now, errno));
            self.totals.relayed.take_back(counted);
        }
    }

    /// A datagram that was to be forwarded has come round too often (M11): it was not relayed. `port` is where it
    /// arrived, `length` its payload's.
    pub fn went_round(&mut self, port: PortKey, length: usize) {
        if let Some(stream) = self.sessions.stream_mut(port.session, port.stream) {
            let leg = &mut stream.legs[port.party];
            let counted = leg.datagram(length);
            leg.user_space.take_back(counted);
            leg.dropped.add(DropReason::WentRound);
            self.totals.relayed.take_back(counted);
            self.totals.dropped.add(DropReason::WentRound);
        }
    }

    /// The call that what is sent to an address and the port of `port` comes to, if that is an address of that port.
    pub fn call_at(&self, port: PortKey, address: IpAddr) -> Option<&CallId> {
        let session = self.sessions.get(port.session)?;
        let stream = session.media.streams.get(usize::from(port.stream))?;
        let is_it = address == stream.legs[port.party].local
            || Some(address) == self.settings.advertised_ip;
        is_it.then_some(session.call_id())
    }

    /// The packets of a party that come round do so by way of this call.
    pub fn note_round(&mut self, port: PortKey, with: CallId) {
        if let Some(stream) = self.sessions.stream_mut(port.session, port.stream) {
            stream.legs[port.party].incidents_mut().round_with = Some(with);
        }
    }

    /// The kernel tells of the flows that it forwards.
    pub fn on_flow_news(&mut self, news: FlowNews, now: Now) {
        self.latest = now.mono;
        let rules = &self.settings.learning;
        let relayed = self
            .kernel
            .take_news(news, &mut self.sessions, rules, now.mono);
        self.totals.relayed += relayed;
        self.totals.relayed_by_kernel += relayed;
        if let FlowNews::Withdrawn(flow, _) = news {
            self.let_go(flow.session, now);
        }
    }

    /// The kernel may have let go of the last flow of a session that was to be withdrawn: then nothing is waited for.
    fn let_go(&mut self, key: SessionKey, now: Now) {
        if self
            .sessions
            .get(key)
            .is_some_and(|s| !s.media.is_withdrawing())
        {
            for answer in self.answers.release(key) {
                self.answer(answer);
            }
            self.report_end(key, now);
        }
    }

    /// Answers what has waited too long. One line for all: when the kernel is slow there are many.
    fn answer_late(&mut self, now: Moment) {
        let mut calls = 0;
        while let Some(late) = self.answers.take_late(now) {
            let call_id = self.sessions.call_id(late.session);
            if let Some(call_id) = call_id.filter(|_| calls == 0) {
                let waited = LONGEST_HOLD.as_millis();
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

    fn answer(&mut self, answer: Answer) {
        let Answer { asker, reply, .. } = answer;
        self.actions.push_back(Action::Updated { asker, reply });
    }

    /// Ends what has been silent too long, and answers what has waited too long.
    pub fn tick(&mut self, now: Now) {
        self.latest = now.mono;
        self.answer_late(now.mono);
        self.strangers.tick(now.mono);
        while let Some(key) = self.timers.take_due(now.mono) {
            let Some(entry) = self.sessions.entry_mut(key) else {
                continue;
            };
            entry.timer.has_fired();
            let heard = self.kernel.heard();
            let media = &mut entry.session.media;
            let expiry = silence::expire(media, &self.settings, heard, &mut self.actions, now.mono);
            match expiry {
                Expiry::All => self.finish(key, Ending::Expired, now),
                Expiry::Some => self.sessions.touch(key),
                Expiry::Nothing => {}
            }
            if expiry != Expiry::All {
                self.schedule(key, now.mono + LOOKED_AT_EVERY);
            }
        }
    }

    /// When [`Engine::tick`] is to be called next; it may find nothing to do.
    pub fn next_deadline(&self) -> Option<Moment> {
        let all = [
            self.timers.next(),
            self.answers.next_late(),
            self.strangers.due(),
        ];
        all.into_iter().flatten().min()
    }

    /// The next thing to do, in order.
    pub fn poll_action(&mut self) -> Option<Action> {
        let action = self.actions.pop_front();
        if let Some(Action::Send { to, data, .. }) = &action {
            self.totals.relayed += Counters::datagram(data.len(), to.ip());
        }
        action
    }

    /// From now on no new sessions.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Ends all sessions; each is reported as expired.
    pub fn end_all(&mut self, now: Now) {
        let live = self.sessions.live_from(0);
        let keys: Vec<SessionKey> = live.map(|(_, session)| session.key()).collect();
        for key in keys {
            self.finish(key, Ending::Expired, now);
        }
    }

    /// Appends the statistics of the sessions of wanted owners: [`report::write_list`].
    pub fn write_sessions(
        &self,
        out: &mut Vec<u8>,
        is_wanted: impl Fn(Owner) -> bool,
        cursor: usize,
        most: (usize, usize),
        now: Now,
    ) -> Option<usize> {
        report::write_list(out, &self.sessions, is_wanted, cursor, most, now)
    }

    /// Appends an array of all that is known of the sessions of a call-id. False where there are none.
    pub fn write_explained(&self, out: &mut Vec<u8>, call_id: &CallId, now: Now) -> bool {
        explain::write(out, &self.sessions, call_id, &self.settings, now)
    }

    /// Calls `each` for every session that has changed since this was asked last: its id, its owner, and its state, or none
    /// where it is over and reported. A session changes by requests, by what is learned of a party, by what becomes of a flow,
    /// and by an end; not by packets and not by readings of counters. One that began and ended in between is left out.
    pub fn take_changes(&mut self, mut each: impl FnMut(SessionId, Owner, Option<&[u8]>)) {
        let mut state = Vec::new();
        for change in self.sessions.take_changes() {
            match change {
                Change::Session(key) => {
                    if let Some(session) = self.sessions.save(key) {
                        state.clear();
                        saved::write(&mut state, session, self.latest);
                        each(session.id, session.owner, Some(&state));
                    }
                }
                Change::Over(id, owner) => each(id, owner, None),
            }
        }
    }

    /// Returns true if [`Engine::take_changes`] may have something.
    pub fn has_changes(&self) -> bool {
        self.sessions.has_changes()
    }

    /// As [`Engine::take_changes`], and all other sessions besides: as they are now, their counters to the packet.
    pub fn save_all(&mut self, each: impl FnMut(SessionId, Owner, Option<&[u8]>)) {
        self.sessions.touch_all();
        self.take_changes(each);
    }

    /// Takes over a session that another process has saved, before anything else is asked of this engine. Its pairs are
    /// bound by [`Environment::rebind`]; where one cannot be had the session is ended as expired with all that is known of
    /// it, and so is one that was over when it was saved. Flows that the kernel may have are returned: it is to go on with
    /// them, and to be told that before what comes out as actions. Where it has one no more, [`FlowNews::Lost`] tells that.
    ///
    /// # Errors
    /// Why the state is of no use.
    pub fn adopt(
        &mut self,
        saved: &[u8],
        owner: Owner,
        environment: &mut dyn Environment,
        now: Now,
    ) -> Result<Vec<AdoptedFlow>, String> {
        let Saved {
            saved: at,
            mut session,
        } = saved::read(saved)?;
        self.latest = now.mono;
        let key = self.sessions.next_key();
        session.media.key = key;
        session.owner = owner;
        session.adopted = Some(now);
        adoption::catch_up(&mut session, environment);
        adoption::skip_gap(&mut session, (at, environment.last_alive()), now.mono);
        let flows = if self.settings.kernel.is_ok() {
            adoption::flows(&mut session, now.mono)
        } else {
            adoption::forget_kernel(&mut session);
            Vec::new()
        };
        adoption::withdraw_leaving(&session, &mut self.actions);
        let taken = adoption::rebind(&session, environment);
        let is_over = session.media.over.is_some() || !taken.is_empty();
        self.sessions.insert(session);
        self.sessions.note_saved(key);
        self.sessions.touch(key);
        if is_over {
            let before = self.actions.len();
            self.finish(key, Ending::Expired, now);
            adoption::keep_closed(&mut self.actions, before, &taken);
        } else {
            self.schedule(key, now.mono);
        }
        Ok(flows)
    }

    /// Returns true if an update is taken and not answered yet.
    pub fn owes_answers(&self) -> bool {
        self.answers.next_late().is_some()
    }

    /// What the next process is to know of the leg of a port even where it has only an older state.
    pub fn tally(&self, port: PortKey) -> Option<(SessionId, Tally)> {
        let session = self.sessions.get(port.session)?;
        let stream = session.media.streams.get(usize::from(port.stream))?;
        Some((session.id, stream.legs[port.party].tally()))
    }

    fn find(&self, call_id: &CallId, is_it: impl Fn(&Session) -> bool) -> Option<SessionKey> {
        let found = self
            .sessions
            .of_call(call_id)
            .find(|&session| is_it(session));
        found.map(Session::key)
    }

    /// Sets a session's timer to its deadline, but not before `earliest`.
    fn schedule(&mut self, key: SessionKey, earliest: Moment) {
        if let Some(entry) = self.sessions.entry_mut(key) {
            let deadline = Silence::of(&entry.session.media, &self.settings).deadline();
            let deadline = deadline.max(earliest);
            self.timers.set(key, &mut entry.timer, deadline);
        }
    }

    /// Ends a session: its ports go now, its report when the kernel has given its counters.
    fn finish(&mut self, key: SessionKey, ending: Ending, now: Now) {
        let Some(entry) = self.sessions.entry_mut(key) else {
            return;
        };
        let media = &mut entry.session.media;
        for index in 0..media.streams.len() {
            let status = if media.streams[index].declined {
                Status::Rejected
            } else {
                Status::Closed
            };
            let actions = &mut self.actions;
            media.end_stream(index, status, Duration::ZERO, actions, now.mono);
        }
        media.over.get_or_insert(now.mono);
        entry.ending = Some(ending);
        self.timers.clear(key, &mut entry.timer);
        let call_id = media.call_id.clone();
        self.sessions.touch(key);
        self.sessions.unlist(key, &call_id);
        self.report_end(key, now);
    }

    /// Reports a session that is over, as soon as none of its flows is still to be withdrawn.
    fn report_end(&mut self, key: SessionKey, now: Now) {
        let Some((session, ending)) = self.sessions.take_done(key) else {
            return;
        };
        let mut statistics = Vec::new();
        report::write_session(&mut statistics, &session, now);
        let how = match ending {
            Ending::Removed(_) => "removed",
            Ending::Expired => "expired",
        };
        session.log_end(how, &statistics, now.mono);
        let ended = Ended {
            session_id: session.id,
            is_answered: session.media.started.is_some(),
            call_id: session.media.call_id,
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

#[cfg(test)]
impl Engine {
    /// The state of each session, as it would be saved now.
    pub(super) fn states(&self, now: Moment) -> Vec<(SessionKey, SessionId, Vec<u8>)> {
        let all = self.sessions.all();
        let state = |session: &Session| {
            let mut state = Vec::new();
            saved::write(&mut state, session, now);
            (session.key(), session.id, state)
        };
        all.map(state).collect()
    }

    /// Sessions, and their streams.
    pub(super) fn size(&self) -> (usize, usize) {
        let streams = self.sessions.all().map(|s| s.media.streams.len());
        (self.sessions.all().count(), streams.sum())
    }

    /// The session that was adopted last.
    pub(super) fn last_adopted(&self) -> SessionKey {
        let keys = self.sessions.all().map(Session::key);
        keys.max().expect("there is one")
    }

    /// One without sessions that knows of everything else what this one does.
    pub(super) fn like(&self) -> Engine {
        let mut other = Engine::new(self.settings.clone());
        other.set_capacity(self.sessions.capacity);
        other.kernel = self.kernel.clone();
        other.draining = self.draining;
        other
    }

    /// Returns true if everything that it knows outlives it: nobody waits for an answer, no packet waits for its receiver,
    /// and what the kernel has is known.
    pub(super) fn is_plain(&self) -> bool {
        let streams = || self.sessions.all().flat_map(|s| &s.media.streams);
        let mut legs = streams().flat_map(|stream| stream.legs.iter());
        let mut handovers = streams().flat_map(|stream| stream.handovers.iter());
        self.answers.is_empty()
            && !legs.any(|leg| leg.has_kept_packets())
            && handovers.all(|handover| handover.is_plain())
    }
}

/// The answer to an update of a session, and its log line.
fn answer_to(
    session: &Session,
    update: &Update,
    result: Result<Vec<u16>, Refusal>,
    settings: &Settings,
) -> UpdateReply {
    let call_id = session.call_id();
    let sender = session.sender(update);
    let kind = match update.kind {
        MessageKind::Request => "request",
        MessageKind::Reply => "reply",
    };
    let about = format_args!("{kind} {} of the {sender}", update.cseq.0);
    match result {
        Ok(told) => {
            let local = session.media.locals[sender.other()];
            let address = settings.advertised_ip.unwrap_or(local);
            info!("[session {call_id}] {about}: relay {address} ports {told:?}");
            UpdateReply::Ports(address, told)
        }
        Err(why) => {
            warn!("[session {call_id}] {about} refused: {}", why.as_str());
            refused(why)
        }
    }
}

fn refused(why: Refusal) -> UpdateReply {
    UpdateReply::Error(why.as_str().into())
}
