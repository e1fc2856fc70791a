//! Requests under way with one server: which identifier, when to send, when to send again, when to give up. Pure:
//! time and datagrams are passed in.
//!
//! Several requests are open at once, so that a distant server is not limited to one a round trip. One that got no
//! answer keeps its identifier, and so its bytes, until its session is settled, however much later it comes again:
//! a server that is only slow can tell that it is a repetition (RFC 5080 section 2.2.2; FreeRADIUS does while it
//! works on the first), and an answer that comes late still counts.

use std::collections::VecDeque;
use std::time::Duration;

use super::client::Secret;
use super::packet::{self, Wrong};
use crate::moment::Moment;

/// Requests open at once.
pub(super) const WINDOW: usize = 16;

/// How far requests may run ahead of one that gets no answer. What is behind that comes with a later delivery, and
/// tells then whether the server answers others still.
const MAX_LEAD: usize = 32;

/// A session to be accounted.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub session_id: String,
    pub attributes: Vec<u8>,
}

/// How patient to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// Between one sending and the next.
    pub interval: Duration,
    /// How often a request is sent in all.
    pub tries: u32,
}

/// The requests that were sent from one socket and not answered yet, by identifier.
#[derive(Debug)]
pub(super) struct Ledger {
    slots: Vec<Option<Sent>>,
    next: u8,
}

#[derive(Debug)]
struct Sent {
    session_id: String,
    packet: Vec<u8>,
}

impl Default for Ledger {
    fn default() -> Ledger {
        let slots = (0..=u8::MAX).map(|_| None).collect();
        Ledger { slots, next: 0 }
    }
}

impl Ledger {
    fn sent(&self, identifier: u8) -> Option<&Sent> {
        self.slots.get(usize::from(identifier))?.as_ref()
    }

    pub(super) fn packet(&self, identifier: u8) -> &[u8] {
        self.sent(identifier).map_or(&[], |sent| &sent.packet)
    }

    /// The identifier that a session has, or a new one. The oldest that is not `in_use` makes room where all are taken.
    fn identify(&mut self, request: &Request, in_use: impl Fn(u8) -> bool, secret: &Secret) -> u8 {
        let has_it = |sent: &Sent| sent.session_id == request.session_id;
        let known = self
            .slots
            .iter()
            .position(|slot| slot.as_ref().is_some_and(has_it));
        if let Some(known) = known {
            return known as u8;
        }
        let all = (0..=u8::MAX).map(|step| self.next.wrapping_add(step));
        let free = all
            .clone()
            .find(|&identifier| self.sent(identifier).is_none());
        let oldest = || all.clone().find(|&identifier| !in_use(identifier));
        let identifier = free.or_else(oldest).unwrap_or(self.next);
        self.next = identifier.wrapping_add(1);
        if let Some(slot) = self.slots.get_mut(usize::from(identifier)) {
            *slot = Some(Sent {
                session_id: request.session_id.clone(),
                packet: packet::request(identifier, &request.attributes, secret),
            });
        }
        identifier
    }

    /// Takes a datagram: the session that it settles.
    ///
    /// # Errors
    /// It is no answer to what was sent.
    pub(super) fn receive(&mut self, datagram: &[u8], secret: &Secret) -> Result<String, Wrong> {
        let identifier = packet::identifier(datagram).ok_or(Wrong::NotAnAnswer)?;
        let sent = self.sent(identifier).ok_or(Wrong::NotAnAnswer)?;
        packet::check(datagram, &sent.packet, secret)?;
        let slot = self
            .slots
            .get_mut(usize::from(identifier))
            .and_then(Option::take);
        slot.map(|sent| sent.session_id).ok_or(Wrong::NotAnAnswer)
    }

    /// Forgets a session that another server answered for.
    pub(super) fn forget(&mut self, settled: impl Fn(&str) -> bool) {
        for slot in &mut self.slots {
            if slot.as_ref().is_some_and(|sent| settled(&sent.session_id)) {
                *slot = None;
            }
        }
    }
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Send the packet of this identifier.
    Send(u8),
    /// Wait for a datagram until then.
    Wait(Moment),
    /// Everything was answered or given up, or must wait for what was given up.
    Done,
    /// A request was sent as often as it may be, and nothing was heard meanwhile.
    Silent,
}

/// One round of requests to one server.
#[derive(Debug)]
pub(super) struct Exchange<'a> {
    pace: Pace,
    /// With their places in the order.
    waiting: VecDeque<(usize, &'a Request)>,
    open: Vec<Open>,
    /// When the last answer came.
    heard: Option<Moment>,
    /// Sessions that got no answer although others did.
    passed_over: Vec<(usize, String)>,
}

#[derive(Debug)]
struct Open {
    place: usize,
    identifier: u8,
    session_id: String,
    first: Moment,
    due: Moment,
    sent: u32,
}

impl<'a> Exchange<'a> {
    pub(super) fn new(requests: impl Iterator<Item = &'a Request>, pace: Pace) -> Exchange<'a> {
        Exchange {
            pace,
            waiting: requests.enumerate().collect(),
            open: Vec::new(),
            heard: None,
            passed_over: Vec::new(),
        }
    }

    pub(super) fn next(&mut self, ledger: &mut Ledger, secret: &Secret, now: Moment) -> Step {
        while let Some(index) = self.open.iter().position(|open| open.due <= now) {
            if let Some(open) = self
                .open
                .get_mut(index)
                .filter(|open| open.sent < self.pace.tries)
            {
                open.sent += 1;
                open.due = now + self.pace.interval;
                return Step::Send(open.identifier);
            }
            let open = self.open.swap_remove(index);
            if self.heard.is_none_or(|heard| heard < open.first) {
                return Step::Silent;
            }
            self.passed_over.push((open.place, open.session_id));
        }
        if self.open.len() < WINDOW
            && self
                .waiting
                .front()
                .is_some_and(|(place, _)| *place < self.bound())
            && let Some((place, request)) = self.waiting.pop_front()
        {
            return self.begin(place, request, ledger, secret, now);
        }
        match self.open.iter().map(|open| open.due).min() {
            Some(due) => Step::Wait(due),
            None => Step::Done,
        }
    }

    /// The first place that is too far ahead.
    fn bound(&self) -> usize {
        let open = self.open.iter().map(|open| open.place);
        let passed_over = self.passed_over.iter().map(|(place, _)| *place);
        open.chain(passed_over)
            .min()
            .map_or(usize::MAX, |oldest| oldest + MAX_LEAD)
    }

    fn begin(
        &mut self,
        place: usize,
        request: &Request,
        ledger: &mut Ledger,
        secret: &Secret,
        now: Moment,
    ) -> Step {
        let in_use = |identifier| self.open.iter().any(|open| open.identifier == identifier);
        let identifier = ledger.identify(request, in_use, secret);
        self.open.push(Open {
            place,
            identifier,
            session_id: request.session_id.clone(),
            first: now,
            due: now + self.pace.interval,
            sent: 1,
        });
        Step::Send(identifier)
    }

    pub(super) fn passed_over(self) -> Vec<String> {
        self.passed_over
            .into_iter()
            .map(|(_, session_id)| session_id)
            .collect()
    }

    /// Whether there was any answer.
    pub(super) fn heard(&self) -> bool {
        self.heard.is_some()
    }

    /// A session was answered for.
    pub(super) fn settled(&mut self, session_id: &str, now: Moment) {
        self.heard = Some(now);
        let open = self.open.len();
        self.open.retain(|open| open.session_id != session_id);
        if self.open.len() == open {
            // A late answer, to what was sent in an earlier round or given up in this one.
            self.waiting
                .retain(|(_, request)| request.session_id != session_id);
            self.passed_over
                .retain(|(_, passed_over)| passed_over != session_id);
        }
    }
}

#[cfg(test)]
mod tests;
