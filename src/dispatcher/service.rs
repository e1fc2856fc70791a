//! Serves the SIP proxy's requests: finds the call's relay, asks it, waits, answers.
//!
//! A new call goes to one relay after the other under one deadline; the first that gives ports has it. The
//! threads that read from relays make and end sessions in the registry, before anybody is told.

use std::net::IpAddr;
use std::sync::Arc;

use super::call::ReceivedUpdate;
use super::call_queues::CallTurn;
use super::counts::Asked;
use super::link::{Ask, Link, Refused, Removal};
use super::pending_update::{PendingUpdate, UpdateFailure, UpdateNews};
use super::registry::{CallLocation, RelayState, TooMany};
use super::relay_id::LinkId;
use super::shared::Dispatcher;
use super::wait::Wait;
use crate::moment::Moment;
use crate::proto::control::{BadRequest, Frame, MessageKind, Remove, Update, preferred_relay};
use crate::proto::link::write_command;
use crate::proto::name::Name;
use crate::proto::{CallId, Excerpt, SessionId};
use crate::sys::sync::{Slot, lock};
use crate::sys::{clock, random};
use crate::words::counted;

/// The answer to any failure.
pub(super) const ERROR: &str = "error";

/// What a request came to. Its call's turn lasts until this is dropped.
#[derive(Debug)]
pub struct Served<'a> {
    /// The line for the proxy, without its end.
    pub answer: String,
    /// What it was.
    pub asked: Asked,
    turn: Option<CallTurn<'a>>,
    /// The new call that this request has made.
    made: Option<(Arc<Link>, Arc<PendingUpdate>)>,
}

impl Served<'_> {
    fn error(asked: Asked) -> Self {
        Served {
            answer: ERROR.to_owned(),
            asked,
            turn: None,
            made: None,
        }
    }
}

/// Why a relay that has a call did not serve an update for it.
enum Unserved {
    LinkLost,
    Refused,
}

/// A new call on its way to a relay.
struct Placing<'a> {
    dispatcher: &'a Dispatcher,
    frame: &'a Frame,
    updating: Arc<PendingUpdate>,
    deadline: Moment,
    tried: Vec<LinkId>,
    /// Asked, and not answered yet.
    silent: Vec<Arc<Link>>,
}

impl Dispatcher {
    /// Serves one request that was read at `arrival`; takes `relay_timeout` from then at most.
    pub fn serve(&self, frame: &Frame, arrival: Moment) -> Served<'_> {
        let served = match frame.command() {
            b"update" => Update::parse(frame).map(|update| self.update(frame, update, arrival)),
            b"remove" => Remove::parse(frame).map(|remove| self.remove(frame, remove, arrival)),
            other => Err(BadRequest::UnknownCommand(Excerpt(other).to_string())),
        };
        served.unwrap_or_else(|why| {
            self.refuse(frame, &why);
            Served::error(Asked::Invalid)
        })
    }

    fn refuse(&self, frame: &Frame, why: &BadRequest) {
        match frame.header("call_id") {
            Some(call_id) => log::warn!("[session {}] bad request: {why}", Excerpt(call_id)),
            None => log::warn!("bad request from the SIP proxy: {why}"),
        }
    }

    /// The proxy's connection was gone before it could be answered: a call that nobody knows of is ended,
    /// unless a further request for it waits already.
    pub fn undo(&self, served: Served<'_>) {
        let Some((link, updating)) = served.made else {
            return;
        };
        // The turn is kept: a request that came between would find the call and lose it to this.
        let turn = served.turn;
        if turn.as_ref().is_some_and(CallTurn::is_waited_for) {
            return;
        }
        let remove = updating.update.removal();
        log::warn!(
            "[session {}] the SIP proxy's connection is gone: taken back from relay {link}",
            remove.call_id
        );
        self.remove_unwaited(remove);
        drop(turn);
    }

    /// Removes a call from its relay without waiting for the answer. What the relay is not told now, it is
    /// when it connects again.
    pub(super) fn remove_unwaited(&self, remove: Remove) {
        self.owe(remove.clone(), clock::moment());
        let place = lock(&self.registry).place_of(remove.mention());
        if let CallLocation::On(_, link) = place {
            link.remove(remove, false);
        }
    }

    /// Notes that a call's relay has to be told of its removal.
    fn owe(&self, remove: Remove, now: Moment) {
        let noted = lock(&self.registry).owe(remove, now);
        if let Some(call) = noted {
            self.finisher.note(&call);
        }
    }

    fn update(&self, frame: &Frame, update: Update, arrival: Moment) -> Served<'_> {
        let Some((turn, started)) = self.turn(&update.call_id, arrival) else {
            return Served::error(Asked::Update);
        };
        let deadline = arrival + self.settings.relay_timeout;
        let update = ReceivedUpdate {
            update,
            session_id: SessionId::from_random(random::bits()),
            at: arrival,
        };
        let has_media = update.has_media();
        let may_be_elsewhere = update.is_reply() || update.to_tag.is_some();
        let mut wait = Wait::new(self, deadline, may_be_elsewhere);
        let place = self.located(&update, &mut wait);
        let is_new = matches!(place, CallLocation::Unknown | CallLocation::Expired);
        if is_new {
            let admitted = lock(&self.registry).calls.live.admit(&update);
            if let Err(too_many) = admitted {
                self.limit(&update, &too_many);
                return Served::error(Asked::NewCall);
            }
        }
        let updating = Arc::new(PendingUpdate::new(update, is_new));
        let answered = if is_new {
            let placed = self.place_call(frame, &updating, wait.over(started), deadline);
            lock(&self.registry).calls.live.placed(&updating.update);
            placed
        } else {
            self.update_where_it_is(frame, &updating, place, wait, started)
        };
        let turn = Some(turn);
        let makes_call = is_new && has_media;
        let asked = if makes_call {
            Asked::NewCall
        } else {
            Asked::Update
        };
        let Some((link, answer)) = answered else {
            let why = updating.troubles();
            let name = lock(&self.registry)
                .calls
                .live
                .name_of(updating.update.mention());
            lock(&self.recent_calls).refuse(name, &why, clock::moment());
            return Served {
                turn,
                ..Served::error(asked)
            };
        };
        log_update(&updating.update, &link, &answer, is_new);
        let made = makes_call.then_some((link, updating));
        Served {
            answer,
            asked,
            turn,
            made,
        }
    }

    /// Where the session of an update is, once its relay is there or is waited for no longer.
    fn located(&self, update: &Update, wait: &mut Wait<'_>) -> CallLocation<Arc<Link>> {
        loop {
            let place = lock(&self.registry).place_of(update.mention());
            if !wait.goes_on(&update.call_id, &place) {
                return place;
            }
        }
    }

    /// Asks the relay that has a call; once more where it loses its link meanwhile and comes back.
    fn update_where_it_is(
        &self,
        frame: &Frame,
        updating: &Arc<PendingUpdate>,
        mut place: CallLocation<Arc<Link>>,
        mut wait: Wait<'_>,
        started: Moment,
    ) -> Option<(Arc<Link>, String)> {
        loop {
            let why = match place {
                CallLocation::On(_, link) => {
                    let since = wait.over(started);
                    match self.update_call(frame, updating, &link, since, wait.deadline) {
                        Ok(answer) => return Some((link, answer)),
                        Err(Unserved::LinkLost)
                            if wait.for_news(&updating.update.call_id, wait.deadline) =>
                        {
                            place = self.located(&updating.update, &mut wait);
                            continue;
                        }
                        Err(_) => return None,
                    }
                }
                CallLocation::Away(relay) => format!("its relay {relay} is not connected"),
                CallLocation::Unknown | CallLocation::Expired => {
                    "its relay has come back without it".to_owned()
                }
            };
            self.trouble(updating, &why);
            return None;
        }
    }

    /// A new call is refused, as too many of its source are unanswered. A caller that dials on and on has one line each
    /// ten seconds.
    fn limit(&self, update: &Update, too_many: &TooMany) {
        self.counts.limited(&too_many.source);
        if let Some(skipped) = lock(&self.limited).due() {
            log::warn!(
                "[session {}] update: refused: {too_many}{skipped}",
                update.call_id
            );
        }
        let name = Name::opened_by(update.mention());
        lock(&self.recent_calls).refuse(name, &too_many.to_string(), clock::moment());
    }

    /// Waits for the call's turn. With it comes the time from which a relay's silence counts.
    fn turn(&self, call_id: &CallId, arrival: Moment) -> Option<(CallTurn<'_>, Moment)> {
        let deadline = arrival + self.settings.relay_timeout;
        let turn = self.call_queues.enter(call_id, deadline);
        let now = clock::moment();
        match turn {
            Some(turn) if now < deadline => {
                let started = if turn.waited { now } else { arrival };
                Some((turn, started))
            }
            _ => {
                log::warn!("[session {call_id}] a request waited too long for those before it");
                None
            }
        }
    }

    /// Something is wrong with an update: the log says it, and so does `explain` later where nothing comes of it.
    fn trouble(&self, updating: &PendingUpdate, what: &str) {
        log::warn!("[session {}] update: {what}", updating.update.call_id);
        updating.trouble(what);
    }

    /// How those relays stand that could take calls and do not.
    fn why_no_relay(&self) -> String {
        let standings = lock(&self.registry).relays.statuses();
        let mut told: Vec<String> = Vec::new();
        for one in &standings {
            let state = match one.state {
                RelayState::Active => continue,
                RelayState::Drained => "is drained (media-admin resume)",
                RelayState::Halting => "is halting",
                RelayState::TimedOut => "does not answer",
                RelayState::Away => "is not connected",
            };
            told.push(format!("relay {} {state}", one.relay));
        }
        match (
            standings.iter().any(|one| one.state.is_connected()),
            told.is_empty(),
        ) {
            (false, true) => ": no relay is connected".to_owned(),
            (_, true) => String::new(),
            (_, false) => format!(": {}", told.join(", ")),
        }
    }

    fn place_call(
        &self,
        frame: &Frame,
        updating: &Arc<PendingUpdate>,
        started: Moment,
        deadline: Moment,
    ) -> Option<(Arc<Link>, String)> {
        let call_id = &updating.update.call_id;
        let preferred = preferred_relay(frame).unwrap_or_else(|why| {
            log::warn!("[session {call_id}] preference ignored: {why}");
            None
        });
        let unavailable = preferred.and_then(|ip| lock(&self.registry).relays.unavailable(ip));
        if let (Some(ip), Some(why)) = (preferred, unavailable) {
            log::warn!("[session {call_id}] media_relay {ip} {why}: another relay is asked");
        }
        let mut placing = Placing {
            dispatcher: self,
            frame,
            updating: Arc::clone(updating),
            deadline,
            tried: Vec::new(),
            silent: Vec::new(),
        };
        placing.run(preferred, started)
    }

    fn update_call(
        &self,
        frame: &Frame,
        updating: &Arc<PendingUpdate>,
        link: &Arc<Link>,
        started: Moment,
        deadline: Moment,
    ) -> Result<String, Unserved> {
        if let Err(refused) = ask_update(link, frame, updating, started) {
            self.trouble(updating, &format!("relay {link}: {refused}"));
            return Err(match refused {
                Refused::Closed => Unserved::LinkLost,
                Refused::Full | Refused::Unwritable => Unserved::Refused,
            });
        }
        match updating.next(deadline) {
            UpdateNews::Answer(_, answer) => Ok(answer),
            UpdateNews::Failed(_, failure) => {
                self.trouble(updating, &format!("relay {link} {failure}"));
                Err(match failure {
                    UpdateFailure::LinkLost => Unserved::LinkLost,
                    UpdateFailure::Error(_) | UpdateFailure::Halting => Unserved::Refused,
                })
            }
            UpdateNews::Silence => match updating.give_up() {
                Some((_, answer)) => Ok(answer),
                None => {
                    self.trouble(updating, &format!("relay {link} does not answer"));
                    self.look_for_silence(link, clock::moment());
                    Err(Unserved::Refused)
                }
            },
        }
    }

    /// That of a call whose relay is away is done for the proxy, which would do nothing about it: the relay is told later.
    fn remove(&self, frame: &Frame, remove: Remove, arrival: Moment) -> Served<'_> {
        let call_id = remove.call_id.clone();
        let Some((turn, started)) = self.turn(&call_id, arrival) else {
            // Nobody waits for this any more, but the call is over all the same.
            self.remove_unwaited(remove);
            return Served::error(Asked::Remove);
        };
        let (place, is_known) = {
            let registry = lock(&self.registry);
            let mention = remove.mention();
            (
                registry.place_to_remove(mention),
                registry.calls.live.knows(mention),
            )
        };
        let is_removed = match place {
            None => {
                log::info!(
                    "[session {call_id}] remove: another branch than this one has answered: the call goes on"
                );
                false
            }
            Some(CallLocation::Unknown) => {
                log::debug!("[session {call_id}] remove: not known");
                self.owe(remove, arrival);
                false
            }
            Some(CallLocation::Expired) => lock(&self.registry).calls.remove_expired(&remove),
            Some(CallLocation::Away(relay)) => {
                log::warn!(
                    "[session {call_id}] remove: its relay {relay} is not connected: it is told when it is back"
                );
                self.owe(remove.clone(), arrival);
                lock(&self.registry).is_owed(remove.mention())
            }
            Some(CallLocation::On(_, link)) => {
                lock(&self.registry).owe(remove.clone(), arrival);
                let deadline = arrival + self.settings.relay_timeout;
                let asked = remove.clone();
                let removal = self.remove_call(frame, asked, &link, started, deadline);
                // What was there when it was asked for has ended meanwhile.
                let has_ended = is_known && removal == Some(Removal::NotThere);
                let is_removed = has_ended || removal == Some(Removal::Removed);
                if is_removed {
                    true
                } else {
                    // A relay that has heard it keeps the session's record until that has come: nothing to note then.
                    let mut registry = lock(&self.registry);
                    let owed = registry.still_owed(remove.mention());
                    let is_owed = registry.is_owed(remove.mention());
                    drop(registry);
                    owed.iter().for_each(|call| self.finisher.note(call));
                    is_owed && removal == Some(Removal::LinkLost)
                }
            }
        };
        let answer = if is_removed { "removed" } else { ERROR };
        Served {
            answer: answer.to_owned(),
            asked: Asked::Remove,
            turn: Some(turn),
            made: None,
        }
    }

    fn remove_call(
        &self,
        frame: &Frame,
        remove: Remove,
        link: &Arc<Link>,
        started: Moment,
        deadline: Moment,
    ) -> Option<Removal> {
        let call_id = remove.call_id.clone();
        let slot = Arc::new(Slot::new());
        let ask = Ask::Remove(remove, Some(Arc::clone(&slot)));
        let sent = link.send(started, ask, |out, sequence, compatibility| {
            write_command(out, frame, sequence, compatibility, None)
        });
        if let Err(refused) = sent {
            log::warn!("[session {call_id}] remove: relay {link}: {refused}");
            return (refused == Refused::Closed).then_some(Removal::LinkLost);
        }
        let removal = slot.take_until(deadline);
        match removal {
            Some(Removal::Removed) => {}
            Some(Removal::NotThere | Removal::Error) => {
                log::warn!(
                    "[session {call_id}] remove: relay {link} knows no session by these tags"
                );
            }
            Some(Removal::LinkLost) => {
                log::warn!("[session {call_id}] remove: relay {link} lost its link");
            }
            None => {
                log::warn!("[session {call_id}] remove: relay {link} does not answer");
                self.look_for_silence(link, clock::moment());
            }
        }
        removal
    }
}

impl Placing<'_> {
    /// Asks relay after relay until one gives ports, none is left or the deadline comes.
    fn run(&mut self, preferred: Option<IpAddr>, started: Moment) -> Option<(Arc<Link>, String)> {
        let mut since = started;
        let mut next_try = started;
        loop {
            if self.silent.is_empty() || clock::moment() >= next_try {
                let asked = self.ask_next(preferred, since);
                if !asked && self.silent.is_empty() {
                    let why = self.dispatcher.why_no_relay();
                    self.warn(&format!("no relay takes this call{why}"));
                    return None;
                }
                next_try = if asked {
                    clock::moment() + self.dispatcher.settings.relay_retry
                } else {
                    self.deadline
                };
            }
            match self.updating.next(next_try.min(self.deadline)) {
                UpdateNews::Answer(id, answer) => return self.placed(id, answer),
                UpdateNews::Failed(id, failure) => {
                    if !self.failed(id, failure) {
                        return None;
                    }
                    next_try = clock::moment();
                }
                UpdateNews::Silence if clock::moment() >= self.deadline => return self.give_up(),
                UpdateNews::Silence => {}
            }
            since = clock::moment();
        }
    }

    /// Asks the next relay whose queue has room; false when there is none.
    fn ask_next(&mut self, preferred: Option<IpAddr>, since: Moment) -> bool {
        loop {
            let random = self.dispatcher.random();
            let call_id = &self.updating.update.call_id;
            let registry = &self.dispatcher.registry;
            let chosen = lock(registry).choose(call_id, preferred, &self.tried, random);
            let Some((id, link)) = chosen else {
                return false;
            };
            if !self.silent.is_empty() {
                self.warn(&format!("no answer yet, trying relay {link} too"));
            }
            if !self.tried.is_empty() {
                self.dispatcher.counts.retries.add(1);
            }
            self.tried.push(id);
            match ask_update(&link, self.frame, &self.updating, since) {
                Ok(()) => {
                    self.silent.push(link);
                    return true;
                }
                Err(refused) => {
                    lock(&self.dispatcher.registry).relays.attempt_over(id);
                    self.warn(&format!("relay {link}: {refused}"));
                }
            }
        }
    }

    fn placed(&mut self, id: LinkId, answer: String) -> Option<(Arc<Link>, String)> {
        let index = self.silent.iter().position(|link| link.id == id)?;
        Some((self.silent.swap_remove(index), answer))
    }

    /// False when asking others is of no use.
    fn failed(&mut self, id: LinkId, failure: UpdateFailure) -> bool {
        if let Some(index) = self.silent.iter().position(|link| link.id == id) {
            let link = self.silent.swap_remove(index);
            self.warn(&format!("relay {link} {failure}"));
        }
        // Without media nobody else knows more: older relays have no ports to give.
        self.updating.update.has_media() || !matches!(failure, UpdateFailure::Error(_))
    }

    fn give_up(&mut self) -> Option<(Arc<Link>, String)> {
        if let Some((id, answer)) = self.updating.give_up() {
            return self.placed(id, answer);
        }
        for link in &self.silent {
            self.warn(&format!("relay {link} does not answer"));
            self.dispatcher.look_for_silence(link, clock::moment());
        }
        None
    }

    fn warn(&self, what: &str) {
        self.dispatcher.trouble(&self.updating, what);
    }
}

pub(super) fn ask_update(
    link: &Link,
    frame: &Frame,
    updating: &Arc<PendingUpdate>,
    since: Moment,
) -> Result<(), Refused> {
    let ask = Ask::Update(Arc::clone(updating));
    // Only a new session gets the name: the one that is there has one.
    let session_id = updating.is_new.then_some(updating.update.session_id);
    link.send(since, ask, |out, sequence, compatibility| {
        write_command(out, frame, sequence, compatibility, session_id)
    })
}

fn log_update(update: &Update, link: &Link, answer: &str, is_new: bool) {
    let kind = match update.kind {
        MessageKind::Request => "request",
        MessageKind::Reply => "reply",
    };
    let streams = counted(update.media.as_ref().map_or(0, Vec::len), "stream");
    log::info!(
        "[session {}] {}update by {kind}, cseq {}, {streams}: relay {link} gives {answer}",
        update.call_id,
        if is_new { "new call, " } else { "" },
        update.cseq.0,
    );
}
