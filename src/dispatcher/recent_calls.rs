//! Calls that are over, or were refused, for who asks why a short time later. Pure: times are passed in.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use super::ended_call::{EndedCall, Reason};
use super::statistics::{EndedLeg, EndedStream};
use crate::moment::Moment;
use crate::proto::name::Name;
use crate::proto::record::UNKNOWN;
use crate::proto::{CallId, SessionId};

/// How long a call is remembered.
pub const REMEMBERED: Duration = Duration::from_secs(15 * 60);

/// Bytes that they may take together; beyond this the oldest are forgotten.
const MAX_BYTES: usize = 16 << 20;

/// What a call takes beside its texts, bytes, about.
const CALL_OVERHEAD: usize = 200;

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// How it ended.
    Ended(Box<str>),
    /// Why it, or what was wanted of it, was refused.
    Refused(Box<str>),
}

impl Fate {
    fn text(&self) -> &str {
        let (Fate::Ended(text) | Fate::Refused(text)) = self;
        text
    }

    /// In a sentence: so long ago.
    pub fn told(&self, ago: Duration) -> String {
        let ago = ago.as_secs();
        match self {
            Fate::Ended(how) => format!("ended {ago} s ago: {how}"),
            Fate::Refused(why) => format!("was refused {ago} s ago: {why}"),
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct RecentCalls {
    /// A Call-ID may have several.
    calls: HashMap<CallId, Vec<Over>>,
    /// By their numbers, so that the oldest is the first: as many as there are calls.
    order: BTreeMap<u64, CallId>,
    bytes: usize,
    noted: u64,
    /// Those that their relays alone told of, of which so many are kept.
    untold: VecDeque<u64>,
}

const MAX_UNTOLD: usize = 2000;

#[derive(Debug)]
struct Over {
    name: Name,
    at: Moment,
    number: u64,
    /// What ended, where that is known.
    session: Option<SessionId>,
    fate: Fate,
}

impl RecentCalls {
    /// A session is over. One that is told again ended when it was told first.
    pub fn end(&mut self, finished: &EndedCall, now: Moment) {
        let session = finished.session_id();
        let mut known = self.calls.get(&finished.name.call_id).into_iter().flatten();
        if known.any(|over| session.is_some() && over.session == session) {
            return;
        }
        let fate = Fate::Ended(how(finished).into());
        self.note(finished.name.clone(), session, fate, now);
        if finished.known.is_none() {
            self.untold.push_back(self.noted);
            if self.untold.len() > MAX_UNTOLD {
                let oldest = self.untold.pop_front();
                oldest.into_iter().for_each(|number| self.forget(number));
            }
        }
    }

    /// A relay could not be found for it, or the one that has it refused.
    pub fn refuse(&mut self, name: Name, why: &str, now: Moment) {
        self.note(name, None, Fate::Refused(why.into()), now);
    }

    fn note(&mut self, name: Name, session: Option<SessionId>, fate: Fate, now: Moment) {
        self.noted += 1;
        let number = self.noted;
        let call_id = name.call_id.clone();
        let known = self.calls.get(&call_id).into_iter().flatten();
        let mut before = known.filter(|over| over.name.is_of(&name));
        let before = before.next().map(|over| over.number);
        before.into_iter().for_each(|number| self.forget(number));
        self.bytes += size(&name, &fate);
        self.calls.entry(call_id.clone()).or_default().push(Over {
            name,
            at: now,
            number,
            session,
            fate,
        });
        self.order.insert(number, call_id);
        while self.bytes > MAX_BYTES && self.forget_first() {}
    }

    /// What became of the sessions of a Call-ID, of each last, and how long ago.
    pub fn of(
        &self,
        call_id: &CallId,
        now: Moment,
    ) -> impl Iterator<Item = (&Name, &Fate, Duration)> + use<'_> {
        let calls = self.calls.get(call_id).into_iter().flatten();
        let calls = calls.map(move |over| (&over.name, &over.fate, now.since(over.at)));
        calls.filter(|(_, _, ago)| *ago < REMEMBERED)
    }

    /// The calls whose Call-IDs begin so, as they are shown.
    pub fn beginning(&self, prefix: &str) -> Vec<CallId> {
        let calls = self.calls.keys();
        let begins = |call_id: &&CallId| call_id.0.escaped().starts_with(prefix);
        calls.filter(begins).cloned().collect()
    }

    /// Forgets what is too old.
    pub fn tick(&mut self, now: Moment) {
        let first_is_old = |past: &RecentCalls| {
            let Some((number, call_id)) = past.order.first_key_value() else {
                return false;
            };
            let calls = past.calls.get(call_id).into_iter().flatten();
            let mut first = calls.filter(|over| over.number == *number);
            first.all(|over| over.at + REMEMBERED <= now)
        };
        while first_is_old(self) && self.forget_first() {}
    }

    /// False where there is nothing.
    fn forget_first(&mut self) -> bool {
        let first = self.order.first_key_value().map(|(number, _)| *number);
        first.into_iter().for_each(|number| self.forget(number));
        first.is_some()
    }

    fn forget(&mut self, number: u64) {
        let Some(call_id) = self.order.remove(&number) else {
            return;
        };
        let Some(calls) = self.calls.get_mut(&call_id) else {
            return;
        };
        if let Some(at) = calls.iter().position(|over| over.number == number) {
            let over = calls.remove(at);
            self.bytes -= size(&over.name, &over.fate);
        }
        if calls.is_empty() {
            self.calls.remove(&call_id);
        }
    }
}

/// The Call-ID stands in the map and in the order.
fn size(name: &Name, fate: &Fate) -> usize {
    2 * name.call_id.0.as_bytes().len() + name.tags() + fate.text().len() + CALL_OVERHEAD
}

/// How a session ended, in a sentence.
fn how(finished: &EndedCall) -> String {
    let who = match finished.reason {
        Reason::Removed => "the SIP proxy removed it (BYE or CANCEL)",
        Reason::Expired => "its relay ended it",
        Reason::LostRelay => "its relay stayed away for too long (cleanup_dead_relays_after)",
        Reason::Purged => "its relay came back without it (was the relay restarted?)",
        Reason::Ended => "an administrator ended it (the log says who)",
    };
    let relay = finished.relay_ip;
    let Some(statistics) = &finished.statistics else {
        return format!("{who}; relay {relay} told nothing of its media");
    };
    // As accounting has it: the relay's own time goes on until it hears of a removal that it missed.
    let length = finished.length.map(|length| length.as_secs());
    let length = length.filter(|length| *length < statistics.duration);
    let mut text = if statistics.is_answered {
        let duration = length.unwrap_or(statistics.duration);
        format!("{who} after {duration} s, relay {relay}")
    } else {
        format!("{who} before it was answered, relay {relay}")
    };
    for stream in &statistics.streams {
        text.push_str(&format!("; {}", of_stream(stream, length)));
    }
    text
}

/// `length` is the call's, where its relay tells of a longer one.
fn of_stream(stream: &EndedStream, length: Option<u64>) -> String {
    let party = |leg: &EndedLeg, name: &str| {
        let unknown = |text: &str| text.is_empty() || text == UNKNOWN;
        let at = match (unknown(&leg.remote), unknown(&leg.sdp)) {
            (false, _) => leg.remote.clone(),
            (true, false) => format!("SDP {}, nothing came", leg.sdp),
            (true, true) => "nothing came".to_owned(),
        };
        format!("{} from the {name} ({at})", leg.packets)
    };
    let status = match stream.status_until(length) {
        status @ ("no-traffic timeout" | "conntrack timeout" | "on hold timeout") => {
            let seconds = stream.timeout_wait;
            format!("{status}: neither side sent RTP for {seconds} s")
        }
        status => status.to_owned(),
    };
    format!(
        "{}: {status}, packets: {}, {}",
        stream.media_type,
        party(&stream.caller, "caller"),
        party(&stream.callee, "callee"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatcher::statistics::Statistics;
    use crate::proto::Tag;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn at(seconds: u64) -> Moment {
        Moment::after_start(Duration::from_secs(seconds))
    }

    fn call(name: &str) -> CallId {
        CallId(name.into())
    }

    fn named(id: &str) -> Name {
        Name {
            call_id: call(id),
            caller: Some(Tag("f".into())),
            callee: None,
        }
    }

    /// Of the only session of that Call-ID.
    fn of<'a>(past: &'a RecentCalls, id: &str, now: Moment) -> Option<(&'a Fate, Duration)> {
        let call_id = call(id);
        let mut found = past.of(&call_id, now).map(|(_, fate, ago)| (fate, ago));
        let only = found.next();
        assert!(found.next().is_none());
        only
    }

    fn finished(json: Option<&str>, reason: Reason) -> EndedCall {
        EndedCall {
            name: named("a"),
            dialog_id: None,
            statistics: json.map(|json| Statistics::parse(json.as_bytes()).unwrap()),
            known: None,
            reason,
            end_dialog: false,
            timed_out: false,
            all_streams_ice: false,
            relay_ip: [192, 0, 2, 1].into(),
            is_kept: false,
            length: None,
        }
    }

    const TOLD: &str = r#"{"call_id": "a", "session_id": "0f8fad5b-d9cb-469f-a165-70867728950e", "start_time": 1.5,
        "duration": 95, "streams": [{"media_type": "audio", "status": "conntrack timeout", "timeout_wait": 90,
        "caller_packets": 12, "callee_packets": 0, "caller_remote": "203.0.113.7:31022", "callee_remote": "Unknown",
        "caller_sdp": "10.0.0.5:4000", "callee_sdp": "10.0.0.9:5000"}]}"#;

    #[test]
    fn how_a_call_ended_is_told_with_its_media() {
        let mut past = RecentCalls::default();
        past.end(&finished(Some(TOLD), Reason::Expired), at(100));
        let (fate, ago) = of(&past, "a", at(112)).unwrap();
        assert_eq!(
            fate.told(ago),
            "ended 12 s ago: its relay ended it after 95 s, relay 192.0.2.1; audio: conntrack timeout: neither side sent \
             RTP for 90 s, packets: 12 from the caller (203.0.113.7:31022), 0 from the callee (SDP 10.0.0.9:5000, nothing \
             came)"
        );
        // Its relay tells it again, since it could not be recorded.
        past.end(&finished(Some(TOLD), Reason::Expired), at(200));
        assert_eq!(of(&past, "a", at(200)).unwrap().1, secs(100));
        past.end(&finished(None, Reason::Purged), at(300));
        let (fate, _) = of(&past, "a", at(300)).unwrap();
        assert!(fate.text().contains("came back without it"), "{fate:?}");
    }

    #[test]
    fn a_call_whose_removal_came_late_is_as_long_as_accounting_has_it() {
        let told = TOLD.replace("\"timeout_wait\"", "\"end_time\": 95, \"timeout_wait\"");
        let late = EndedCall {
            length: Some(secs(60)),
            ..finished(Some(&told), Reason::Removed)
        };
        let how = how(&late);
        assert!(
            how.contains(" after 60 s, relay 192.0.2.1; audio: closed, packets: 12"),
            "{how}"
        );
    }

    #[test]
    fn a_call_that_is_noted_again_and_again_is_held_once() {
        let mut past = RecentCalls::default();
        for n in 0..1000 {
            past.refuse(named("first"), "no ports left", at(n));
            past.refuse(named("second"), "no ports left", at(n));
        }
        assert_eq!((past.calls.len(), past.order.len()), (2, 2));
    }

    #[test]
    fn what_is_told_in_no_form_that_is_known_is_told_briefly() {
        let odd = r#"{"call_id": "a", "start_time": 1.5, "streams": [{"status": null, "media_type": 7}]}"#;
        let mut odd = finished(Some(odd.replace("null", "\"x\"").as_str()), Reason::Removed);
        odd.name = named("odd");
        assert!(how(&odd).starts_with("the SIP proxy removed it"));
    }

    #[test]
    fn refusals_and_ends_are_forgotten_after_a_quarter_of_an_hour() {
        let mut past = RecentCalls::default();
        past.refuse(named("first"), "no relay is connected", at(0));
        past.refuse(named("second"), "no ports left", at(10));
        // The first is wanted once more.
        past.refuse(named("first"), "no ports left", at(20));
        let told = |past: &RecentCalls, name: &str, now: u64| {
            let (fate, ago) = of(past, name, at(now))?;
            Some(fate.told(ago))
        };
        assert_eq!(
            told(&past, "first", 25).as_deref(),
            Some("was refused 5 s ago: no ports left")
        );
        past.tick(at(900));
        assert!(told(&past, "first", 900).is_some() && told(&past, "second", 900).is_some());
        assert_eq!(
            told(&past, "second", 910),
            None,
            "even before it is forgotten"
        );
        past.tick(at(910));
        past.tick(at(920));
        assert!(past.calls.is_empty() && past.order.is_empty());
        assert_eq!(past.bytes, 0);
    }

    #[test]
    fn the_oldest_give_way_where_there_are_too_many() {
        let mut past = RecentCalls::default();
        let why = "x".repeat(100_000);
        (0..400).for_each(|n| past.refuse(named(&n.to_string()), &why, at(n)));
        assert!(past.bytes <= MAX_BYTES);
        assert!(of(&past, "0", at(400)).is_none());
        assert!(of(&past, "399", at(400)).is_some());
        assert!(
            (100..200).contains(&past.calls.len()),
            "{}",
            past.calls.len()
        );
    }

    #[test]
    fn a_prefix_finds_them() {
        let mut past = RecentCalls::default();
        for name in ["call-1", "call-2", "other"] {
            past.refuse(named(name), "", at(0));
        }
        assert_eq!(past.beginning("call-").len(), 2);
        assert_eq!(past.beginning("oth"), [call("other")]);
    }
}
