//! The end of a session, as the dispatcher learned of it: what accounting stores and dialog ending acts on.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::call::Known;
use super::statistics::Statistics;
use crate::moment::Now;
use crate::proto::name::Name;
use crate::proto::record::{Added, CallRecord, Scalar};
use crate::proto::{DialogId, SessionId, Visible};

/// A dialog whose call ended longer ago is not ended any more: its id may be another one's by then.
pub const DIALOG_AGE: Duration = Duration::from_secs(3600);

/// How the dispatcher learned that a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The SIP proxy removed it.
    Removed,
    /// Its relay ended it: silence, or the relay's own end.
    Expired,
    /// Its relay stayed away for `cleanup_dead_relays_after`.
    LostRelay,
    /// Its relay came back without it.
    Purged,
    /// The administrator ended it on its relay.
    Ended,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Removed => "removed by the proxy",
            Reason::Expired => "expired on its relay",
            Reason::LostRelay => "its relay stayed away",
            Reason::Purged => "its relay came back without it",
            Reason::Ended => "ended by the administrator",
        })
    }
}

/// A session that is over.
#[derive(Clone, Debug)]
pub struct EndedCall {
    pub name: Name,
    pub dialog_id: Option<DialogId>,
    /// None where the relay had none to give, or was not there to give them.
    pub statistics: Option<Statistics>,
    /// What the proxy's requests told of it; none where its relay alone knew it.
    pub known: Option<Known>,
    pub reason: Reason,
    /// The SIP proxy is to end the dialog (docs/protocol.md section 7).
    pub end_dialog: bool,
    /// It ended without the proxy and the parties did not go direct.
    pub timed_out: bool,
    pub all_streams_ice: bool,
    /// The address that the relay's link comes or came from.
    pub relay_ip: IpAddr,
    /// Its relay tells it again until it hears that it is recorded.
    pub is_kept: bool,
    /// How long it was, where its relay heard so late that the proxy had removed it that the relay's own time is wrong.
    pub length: Option<Duration>,
}

/// The record of a call as accounting takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRecord {
    /// As it is named in the text.
    pub session_id: String,
    /// One JSON object.
    pub text: String,
}

impl EndedCall {
    /// What is to be accounted; none for a call that was never answered. `random` names a session that has no name yet.
    pub fn record(&self, now: Now, random: u128) -> Option<NewRecord> {
        match &self.statistics {
            // A relay that crashed within milliseconds of the final answer has gone on without it.
            Some(statistics) if !statistics.is_answered => {
                self.name.callee.as_ref().and_then(|_| self.lost(now))
            }
            Some(statistics) => self.completed(statistics, random),
            None => self.lost(now),
        }
    }

    /// What the session is called, as far as anybody has told.
    pub fn session_id(&self) -> Option<SessionId> {
        let known = self.known.as_ref().map(|known| known.session_id);
        let told = || self.statistics.as_ref()?.session_id.as_ref()?.parse().ok();
        known.or_else(told)
    }

    /// The relay's statistics with what only the dispatcher knows.
    fn completed(&self, statistics: &Statistics, random: u128) -> Option<NewRecord> {
        let known_id = self.known.as_ref().map(|known| known.session_id);
        let fresh = || known_id.unwrap_or_else(|| SessionId::from_random(random));
        let given = statistics.session_id.is_none().then(fresh);
        let dialog_id = match statistics.dialog_id {
            None => Some(self.dialog_id.as_ref()),
            Some(_) => None,
        };
        let added = Added {
            session_id: given,
            dialog_id,
            ..self.added()
        };
        let shortened = self
            .length
            .and_then(|length| statistics.until(length.as_secs()));
        let given = given.map(|id| id.to_string());
        Some(NewRecord {
            session_id: given.or_else(|| statistics.session_id.clone())?,
            text: added.append_to(shortened.as_deref().unwrap_or(&statistics.json))?,
        })
    }

    fn added(&self) -> Added<'_> {
        Added {
            session_id: None,
            relay_lost: false,
            dialog_id: Some(self.dialog_id.as_ref()),
            timed_out: self.timed_out,
            all_streams_ice: self.all_streams_ice,
            relay_ip: self.relay_ip,
        }
    }

    /// What is known of a session whose relay has nothing to tell of it any more.
    fn lost(&self, now: Now) -> Option<NewRecord> {
        let known = self.known.as_ref()?;
        let started = known.started?;
        let ended = known.ended.unwrap_or(now.unix);
        let session_id = known.session_id.to_string();
        let record = CallRecord {
            session_id: session_id.as_str().into(),
            call_id: self.name.call_id.0.lossy(),
            from_tag: self.name.caller.as_ref().map(|tag| &tag.0).into(),
            to_tag: self.name.callee.as_ref().map(|tag| &tag.0).into(),
            from_uri: (&known.from_uri).into(),
            to_uri: (&known.to_uri).into(),
            start_time: (started.elapsed().as_micros() as f64 / 1e6).into(),
            duration: ended.since(started).as_secs().into(),
            caller_ua: Scalar::text_or_unknown(known.caller_ua.as_ref()),
            callee_ua: Scalar::text_or_unknown(known.callee_ua.as_ref()),
            username: known.username.as_ref().into(),
            streams: Some(Vec::new()),
            ..CallRecord::default()
        };
        let added = Added {
            relay_lost: true,
            ..self.added()
        };
        let text = added.append_to(&serde_json::to_string(&record).ok()?)?;
        Some(NewRecord { session_id, text })
    }
}

impl fmt::Display for EndedCall {
    /// The one line that a log keeps of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EndedCall {
            name,
            reason,
            relay_ip,
            ..
        } = self;
        let call_id = &name.call_id;
        write!(
            f,
            "[session {call_id}] finished: {reason}, relay {relay_ip}"
        )?;
        if let Some(dialog_id) = &self.dialog_id {
            write!(f, ", dialog {dialog_id}")?;
        }
        if self.end_dialog {
            f.write_str(", dialog to be ended")?;
        }
        if let Some(length) = self.length {
            let seconds = length.as_secs();
            write!(
                f,
                ", {seconds} s until the proxy removed it, of which its relay heard later"
            )?;
        }
        match &self.statistics {
            Some(statistics) => {
                let json = Visible(statistics.json.as_bytes());
                write!(f, ", statistics {json}")
            }
            None => f.write_str(", no statistics"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moment::{Moment, UnixTime};
    use crate::proto::{CallId, Tag};

    const ID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

    fn finished(statistics: Option<&str>) -> EndedCall {
        EndedCall {
            name: Name {
                call_id: CallId("a".into()),
                caller: Some(Tag("f".into())),
                callee: Some(Tag("t".into())),
            },
            dialog_id: Some(DialogId("7:8".into())),
            statistics: statistics.map(|json| Statistics::parse(json.as_bytes()).unwrap()),
            known: Some(Known {
                session_id: ID.parse().unwrap(),
                from_uri: "x@example.com".into(),
                to_uri: "y@example.com".into(),
                caller_ua: Some("phone".into()),
                callee_ua: None,
                username: None,
                started: Some(UnixTime::from_secs(999_960)),
                ended: Some(UnixTime::from_secs(999_990)),
            }),
            reason: Reason::Removed,
            end_dialog: false,
            timed_out: true,
            all_streams_ice: false,
            relay_ip: [192, 0, 2, 1].into(),
            is_kept: false,
            length: None,
        }
    }

    fn now() -> Now {
        Now {
            mono: Moment::after_start(Duration::from_secs(50)),
            unix: UnixTime::since_epoch(Duration::from_secs(1_000_000)),
        }
    }

    fn record(finished: &EndedCall) -> serde_json::Value {
        let record = finished.record(now(), 0).unwrap();
        let value: serde_json::Value = serde_json::from_str(&record.text).unwrap();
        assert_eq!(value["session_id"], record.session_id);
        value
    }

    #[test]
    fn the_dispatcher_adds_what_the_relay_cannot_know() {
        let json = r#"{"call_id":"a", "start_time": 1.50, "streams":[] }"#;
        let text = finished(Some(json)).record(now(), 0).unwrap().text;
        assert!(
            text.starts_with(r#"{"call_id":"a", "start_time": 1.50, "streams":[]"#),
            "{text}"
        );
        let value = record(&finished(Some(json)));
        assert_eq!(value["session_id"], ID, "an older relay names none");
        assert_eq!(
            (&value["dialog_id"], &value["timed_out"]),
            (&"7:8".into(), &true.into())
        );
        assert_eq!(
            (&value["relay_ip"], &value["all_streams_ice"]),
            (&"192.0.2.1".into(), &false.into())
        );
        let named = r#"{"call_id":"a","start_time":1.5,"session_id":"mine","dialog_id":"1:2"}"#;
        let text = finished(Some(named)).record(now(), 0).unwrap().text;
        assert_eq!(text.matches("session_id").count(), 1, "{text}");
        assert_eq!(text.matches("dialog_id").count(), 1, "{text}");
    }

    /// Whatever it is that a relay tells of what the dispatcher adds: accounting takes a key that comes twice for damage.
    #[test]
    fn no_key_of_a_record_comes_twice() {
        let json = r#"{"dialog_id":null,"call_id":"a","from_tag":"f","start_time":1.5,"session_id":null,"streams":[{"timed_out":1}],
            "timed_out":false,"relay_ip":"192.0.2.9","all_streams_ice":null,"relay_lost":"x","other":[1, 2]}"#;
        let text = finished(Some(json)).record(now(), 0).unwrap().text;
        assert!(crate::accounting::Record::parse(&text).is_ok(), "{text}");
        let told =
            r#"{"dialog_id":"7:8","call_id":"a","from_tag":"f","start_time":1.5,"session_id":"#;
        assert!(text.starts_with(told), "{text}");
        let told = r#","streams":[{"timed_out":1}],"timed_out":true,"relay_ip":"192.0.2.1","all_streams_ice":false,"#;
        assert!(text.contains(told), "{text}");
        assert!(
            text.ends_with(r#""relay_lost":"x","other":[1, 2]}"#),
            "{text}"
        );
    }

    #[test]
    fn what_a_relay_heard_late_adds_packets_and_no_time() {
        let json = r#"{"call_id":"a","start_time":1.5,"duration":16,"streams":[{"end_time":16,"caller_packets":5}]}"#;
        let late = EndedCall {
            length: Some(Duration::from_millis(8900)),
            ..finished(Some(json))
        };
        let value = record(&late);
        assert_eq!(
            (&value["duration"], &value["dialog_id"]),
            (&8.into(), &"7:8".into())
        );
        let stream = &value["streams"][0];
        assert_eq!(
            (&stream["end_time"], &stream["caller_packets"]),
            (&8.into(), &5.into())
        );
        assert!(
            late.to_string()
                .contains(", 8 s until the proxy removed it"),
            "{late}"
        );
    }

    #[test]
    fn a_call_that_was_never_answered_is_not_accounted() {
        let mut ringing = finished(Some(UNANSWERED));
        ringing.name.callee = None;
        assert_eq!(ringing.record(now(), 0), None);
        let mut lost = finished(None);
        lost.known.as_mut().unwrap().started = None;
        assert_eq!(lost.record(now(), 0), None);
    }

    const UNANSWERED: &str = r#"{"call_id":"a","start_time":null,"streams":[]}"#;

    /// Its relay was killed before it had noted the answer, and came back with the call as it was before.
    #[test]
    fn a_call_whose_answer_its_relay_has_lost_is_accounted_with_what_is_known() {
        let value = record(&finished(Some(UNANSWERED)));
        assert_eq!(
            (
                &value["relay_lost"],
                &value["start_time"],
                &value["duration"]
            ),
            (&true.into(), &999_960.0.into(), &30.into())
        );
    }

    #[test]
    fn a_call_whose_relay_is_lost_is_accounted_with_what_is_known() {
        let value = record(&finished(None));
        assert_eq!(
            (&value["session_id"], &value["relay_lost"]),
            (&ID.into(), &true.into())
        );
        assert_eq!(
            (&value["start_time"], &value["duration"]),
            (&999_960.0.into(), &30.into())
        );
        assert_eq!(
            (&value["caller_ua"], &value["callee_ua"]),
            (&"phone".into(), &"Unknown".into())
        );
        assert_eq!(value["to_tag"], "t");
    }
}
