//! What relays say about sessions, as JSON, read as little as possible: `expired`, `remove` and `sessions`
//! carry statistics that are stored and shown as they came (docs/protocol.md section 5).
//!
//! A list of sessions may be megabytes: it is read element by element, here by [`each`].

use std::fmt;
use std::time::Duration;

use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::limits::{self, Excess};
use crate::moment::UnixTime;
use crate::proto::control::Remove;
use crate::proto::name::{Fit, Name, is_spelled};
use crate::proto::raw_object::RawObject;
use crate::proto::record::{CallRecord, RecordHead, Scalar, StreamRecord};
use crate::proto::{CallId, DialogId, SessionId, Tag};

/// What a relay's list tells of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListedCall {
    /// As in [`Statistics`].
    pub call_id: String,
    /// Of the session's caller, as in [`Statistics`].
    pub from_tag: Option<String>,
    /// Of the callee, where it has answered.
    pub to_tag: Option<String>,
    /// What the session is called; older relays do not tell.
    pub session_id: Option<SessionId>,
    /// The first answer, since 1970-01-01 UTC by the relay's calendar.
    pub started: Option<UnixTime>,
    /// The SIP proxy's dialog, as a relay of ours was told it.
    pub dialog_id: Option<DialogId>,
}

impl ListedCall {
    /// Reads an element of the answer to `sessions`.
    ///
    /// # Errors
    /// What it is not, or a name that is too long.
    pub fn parse(element: &[u8]) -> Result<ListedCall, Unfit> {
        let text = std::str::from_utf8(element).map_err(serde_json::Error::custom)?;
        let head = RecordHead::parse(text)?;
        let names = [
            ("from_tag", &head.from_tag),
            ("to_tag", &head.to_tag),
            ("session_id", &head.session_id),
            ("dialog_id", &head.dialog_id),
        ];
        bounded(&head.call_id, names)?;
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Ok(ListedCall {
            // Empty where the proxy has made no dialog.
            dialog_id: head.dialog_id.told().map(|id| DialogId(id.into())),
            from_tag: owned(head.from_tag.text()),
            to_tag: owned(head.to_tag.told()),
            session_id: head.session_id.text().and_then(|id| id.parse().ok()),
            started: head.start_time.number().and_then(since_1970),
            call_id: head.call_id.into_owned(),
        })
    }

    /// How well it fits a session of that Call-ID.
    pub fn fit(&self, name: &Name) -> Fit {
        name.fit_told(self.from_tag.as_deref())
    }

    /// The session's name, as far as its relay tells.
    pub fn name(&self, call_id: CallId) -> Name {
        name(call_id, self.from_tag.as_deref(), self.to_tag.as_deref())
    }
}

fn name(call_id: CallId, from_tag: Option<&str>, to_tag: Option<&str>) -> Name {
    let tag = |told: &str| Tag(told.into());
    Name {
        call_id,
        caller: from_tag.map(tag),
        callee: to_tag.map(tag),
    }
}

/// The status of a stream whose parties went direct.
const UNSELECTED: &str = "unselected ICE candidate";

/// One session's statistics as its relay sent them.
#[derive(Clone, Debug)]
pub struct Statistics {
    /// The object, byte for byte.
    pub json: Box<str>,
    /// What is not UTF-8 in a call-id was replaced by the relay.
    pub call_id: String,
    /// Of the session's caller; what is not UTF-8 in it was replaced as well.
    pub from_tag: Option<String>,
    /// Of the callee, where it has answered: by an older relay, that of any message that had one.
    pub to_tag: Option<String>,
    /// None where an older relay sent them.
    pub session_id: Option<String>,
    /// The SIP proxy's dialog, as a relay of ours was told it.
    pub dialog_id: Option<String>,
    /// It was answered, if only by a 183: it is to be accounted.
    pub is_answered: bool,
    /// Its first answer, since 1970-01-01 UTC by the relay's calendar.
    pub started: Option<UnixTime>,
    /// Its end, since 1970-01-01 UTC; none where it was not answered or does not tell.
    pub ended: Option<UnixTime>,
    /// Whole seconds that it lasted, as it tells.
    pub duration: u64,
    pub streams: Vec<EndedStream>,
    /// It had streams, and both parties used ICE and went direct with every one of them that ever was (M8).
    pub all_streams_ice: bool,
}

/// A stream of it, as people are told of it.
#[derive(Clone, Debug, Default)]
pub struct EndedStream {
    pub media_type: String,
    pub status: String,
    /// Whole seconds.
    pub timeout_wait: u64,
    pub end_time: Option<u64>,
    pub caller: EndedLeg,
    pub callee: EndedLeg,
}

/// What came from a party.
#[derive(Clone, Debug, Default)]
pub struct EndedLeg {
    pub packets: u64,
    /// Where it came from, and where the party's SDP had told it would.
    pub remote: String,
    pub sdp: String,
}

impl EndedStream {
    fn new(stream: &StreamRecord<'_>) -> EndedStream {
        let text = |value: &Scalar<'_>| value.text().unwrap_or_default().to_owned();
        let leg = |packets: &Scalar<'_>, remote, sdp| EndedLeg {
            packets: packets.whole().unwrap_or_default(),
            remote: text(remote),
            sdp: text(sdp),
        };
        EndedStream {
            media_type: text(&stream.media_type),
            status: text(&stream.status),
            timeout_wait: stream.timeout_wait.whole().unwrap_or_default(),
            end_time: stream.end_time.whole(),
            caller: leg(
                &stream.caller_packets,
                &stream.caller_remote,
                &stream.caller_sdp,
            ),
            callee: leg(
                &stream.callee_packets,
                &stream.callee_remote,
                &stream.callee_sdp,
            ),
        }
    }
}

impl EndedStream {
    /// What became of it by the end of the call, where that came before its relay's: the call's end has closed it, not the
    /// silence after that.
    pub fn status_until(&self, length: Option<u64>) -> &str {
        let went_on = length
            .zip(self.end_time)
            .is_some_and(|(length, end)| end > length);
        if went_on && is_timeout(&self.status) {
            "closed"
        } else {
            &self.status
        }
    }
}

fn is_timeout(status: &str) -> bool {
    status.ends_with(" timeout")
}

/// It was rejected, or off from the start: there was no media whose way could tell anything.
fn never_was(stream: &StreamRecord<'_>) -> bool {
    let is_off = matches!(stream.status.text(), Some("rejected" | "closed"));
    is_off && stream.start_time.number() == stream.end_time.number()
}

/// What a relay tells of a session and what cannot be used.
#[derive(Debug)]
pub enum Unfit {
    Json(serde_json::Error),
    /// No array of objects.
    NoList,
    Excess(Excess),
}

impl From<serde_json::Error> for Unfit {
    fn from(error: serde_json::Error) -> Unfit {
        Unfit::Json(error)
    }
}

impl From<Excess> for Unfit {
    fn from(excess: Excess) -> Unfit {
        Unfit::Excess(excess)
    }
}

fn bounded(call_id: &str, names: [(&str, &Scalar<'_>); 4]) -> Result<(), Excess> {
    limits::name("call_id", Some(call_id))?;
    let mut names = names.into_iter();
    names.try_for_each(|(key, value)| limits::name(key, value.text()))
}

impl Statistics {
    /// Returns true if a removal has the tag that opened this session, as far as its relay tells.
    pub fn is_meant_by(&self, remove: &Remove) -> bool {
        let tags = [Some(&remove.from_tag), remove.to_tag.as_ref()];
        let is_it = |told: &String| {
            let mut tags = tags.into_iter().flatten();
            tags.any(|tag| is_spelled(&tag.0, told))
        };
        self.from_tag.as_ref().is_none_or(is_it)
    }

    /// Reads one object; what else it holds is kept and not looked at.
    ///
    /// # Errors
    /// What it is not, or a name that is too long.
    pub fn parse(json: &[u8]) -> Result<Statistics, Unfit> {
        let text = std::str::from_utf8(json).map_err(serde_json::Error::custom)?;
        let record = CallRecord::parse(text)?;
        let names = [
            ("from_tag", &record.from_tag),
            ("to_tag", &record.to_tag),
            ("session_id", &record.session_id),
            ("dialog_id", &record.dialog_id),
        ];
        bounded(&record.call_id, names)?;
        let (start, length) = (record.start_time.number(), record.duration.number());
        let ended = start.zip(length);
        let ended = ended.and_then(|(start, length)| since_1970(start + length));
        let mut real = record.streams().iter().filter(|s| !never_was(s)).peekable();
        let is_direct = |stream: &StreamRecord<'_>| stream.status.text() == Some(UNSELECTED);
        let all_streams_ice = real.peek().is_some() && real.all(is_direct);
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Ok(Statistics {
            json: text.trim_ascii().into(),
            from_tag: owned(record.from_tag.text()),
            to_tag: owned(record.to_tag.told()),
            session_id: owned(record.session_id.text()),
            dialog_id: owned(record.dialog_id.told()),
            is_answered: start.is_some(),
            started: start.and_then(since_1970),
            ended,
            duration: length.unwrap_or_default().round() as u64,
            streams: record.streams().iter().map(EndedStream::new).collect(),
            all_streams_ice,
            call_id: record.call_id.into_owned(),
        })
    }

    /// The session's name, as far as its relay tells.
    pub fn name(&self, call_id: CallId) -> Name {
        name(call_id, self.from_tag.as_deref(), self.to_tag.as_deref())
    }

    /// The object of a call that was over after so many seconds, though its relay heard of that later: packets and bytes
    /// as they are, no time beyond that. None where it tells of no longer call.
    pub fn until(&self, seconds: u64) -> Option<String> {
        let is_later = |time: &str| time.parse().is_ok_and(|time: f64| time > seconds as f64);
        let mut record = RawObject::parse(&self.json)?;
        record.get("duration").filter(|time| is_later(time))?;
        let streams: Vec<&RawValue> = match record.get("streams") {
            Some(streams) => serde_json::from_str(streams).unwrap_or_default(),
            None => Vec::new(),
        };
        let shortened = |stream: &&RawValue| {
            let mut stream = RawObject::parse(stream.get())?;
            let went_on = stream.get("end_time").is_some_and(is_later);
            for time in ["start_time", "end_time"] {
                if stream.get(time).is_some_and(is_later) {
                    stream.set(time, seconds.to_string());
                }
            }
            // The call's end has closed it, not the silence after that.
            let status = stream.get("status").map(|status| status.trim_matches('"'));
            if went_on && status.is_some_and(is_timeout) {
                stream.set("status", "\"closed\"".to_owned());
                stream.set("timeout_wait", 0.to_string());
            }
            stream.text()
        };
        let texts = streams.iter().map(|stream| {
            let shortened = shortened(stream);
            shortened.unwrap_or_else(|| stream.get().to_owned())
        });
        let texts: Vec<String> = texts.collect();
        if !texts.is_empty() {
            let streams = format!("[{}]", texts.join(","));
            record.set("streams", streams);
        }
        record.set("duration", seconds.to_string());
        record.text()
    }
}

/// What cannot be a time is none.
fn since_1970(seconds: f64) -> Option<UnixTime> {
    let since = Duration::try_from_secs_f64(seconds).ok()?;
    Some(UnixTime::since_epoch(since))
}

/// Hands every element of a JSON array to `take`, as it stands in the text. Stops at the first failure, of
/// the text or of `take`; the elements before it have been taken by then.
pub fn each<E: fmt::Display>(
    list: &[u8],
    take: impl FnMut(&RawValue) -> Result<(), E>,
) -> Result<(), serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(list);
    reader.deserialize_seq(Each { take })?;
    reader.end()
}

struct Each<F> {
    take: F,
}

impl<'de, E: fmt::Display, F: FnMut(&RawValue) -> Result<(), E>> Visitor<'de> for Each<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an array of sessions")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<(), A::Error> {
        while let Some(element) = elements.next_element::<&RawValue>()? {
            (self.take)(element).map_err(Error::custom)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_stay_byte_for_byte() {
        let json = br#"{"call_id": "a\u00e9", "x":  [1, 2.50], "streams": []}"#;
        let statistics = Statistics::parse(json).unwrap();
        assert_eq!(statistics.json.as_bytes(), json);
        assert_eq!(statistics.call_id, "a\u{e9}");
        assert!(!statistics.all_streams_ice, "no stream, no ICE");
    }

    #[test]
    fn an_array_is_no_session() {
        let id = "00000000-0000-4000-8000-000000000001";
        let array = format!(r#"["x",null,"{id}"]"#);
        assert!(Statistics::parse(array.as_bytes()).is_err());
        let streams = r#"{"call_id":"a","streams":[["closed",0,0]]}"#;
        assert!(Statistics::parse(streams.as_bytes()).is_err());
    }

    #[test]
    fn all_streams_must_have_gone_direct() {
        let with = |statuses: &[&str]| {
            let streams: Vec<String> = statuses
                .iter()
                .map(|status| {
                    format!(r#"{{"status": "{status}", "start_time": 0, "end_time": 9}}"#)
                })
                .collect();
            let json = format!(r#"{{"call_id":"a","streams":[{}]}}"#, streams.join(","));
            Statistics::parse(json.as_bytes()).unwrap().all_streams_ice
        };
        assert!(with(&[UNSELECTED, UNSELECTED]));
        assert!(!with(&[UNSELECTED, "closed"]));
    }

    #[test]
    fn a_call_that_was_over_before_its_relay_heard_of_it_has_no_more_time_than_that() {
        let json = br#"{"call_id":"a","duration":98,"start_time":1.25,"streams":[
            {"status":"conntrack timeout","timeout_wait":90,"start_time":0,"end_time":98,"caller_packets":7},
            {"status":"conntrack timeout","timeout_wait":90,"start_time":0,"end_time":5},
            {"status":"unselected ICE candidate","timeout_wait":90,"start_time":9,"end_time":98},
            {"status":"rejected","timeout_wait":0,"start_time":9,"end_time":9},
            {"status":"closed","start_time":null,"end_time":null}]}"#;
        let statistics = Statistics::parse(json).unwrap();
        assert_eq!((statistics.until(98), statistics.until(99)), (None, None));
        let value: serde_json::Value = serde_json::from_str(&statistics.until(8).unwrap()).unwrap();
        let expected = serde_json::json!({"call_id":"a","duration":8,"start_time":1.25,"streams":[
            {"status":"closed","timeout_wait":0,"start_time":0,"end_time":8,"caller_packets":7},
            {"status":"conntrack timeout","timeout_wait":90,"start_time":0,"end_time":5},
            {"status":"unselected ICE candidate","timeout_wait":90,"start_time":8,"end_time":8},
            {"status":"rejected","timeout_wait":0,"start_time":8,"end_time":8},
            {"status":"closed","start_time":null,"end_time":null}]});
        assert_eq!(value, expected);
        for odd in [
            r#""duration":"98""#,
            r#""streams":[]"#,
            r#""duration":null,"streams":7"#,
        ] {
            let json = format!(r#"{{"call_id":"a",{odd}}}"#);
            let parsed = Statistics::parse(json.as_bytes());
            assert!(
                parsed.is_err() || parsed.unwrap().until(8).is_none(),
                "{odd}"
            );
        }
    }

    #[test]
    fn m8_a_stream_that_never_was_does_not_count() {
        let with = |streams: &str| {
            let json = format!(r#"{{"call_id":"a","streams":[{streams}]}}"#);
            Statistics::parse(json.as_bytes()).unwrap().all_streams_ice
        };
        let direct = r#"{"status": "unselected ICE candidate", "start_time": 0, "end_time": 95}"#;
        for (other, is_direct) in [
            (
                r#"{"status": "closed", "start_time": 0, "end_time": 0}"#,
                true,
            ),
            (
                r#"{"status": "rejected", "start_time": 7, "end_time": 7}"#,
                true,
            ),
            (
                r#"{"status": "closed", "start_time": 0, "end_time": 95}"#,
                false,
            ),
            (
                r#"{"status": "active", "start_time": 95, "end_time": 95}"#,
                false,
            ),
        ] {
            assert_eq!(with(&format!("{other}, {direct}")), is_direct, "{other}");
            assert!(!with(other), "{other}");
        }
    }

    #[test]
    fn what_is_no_statistics_is_an_error() {
        for bad in ["", "[]", "{}", r#"{"call_id": 7}"#, "{\"call_id\":\"a\"} x"] {
            assert!(Statistics::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(Statistics::parse(b"{\"call_id\":\"\xff\"}").is_err());
    }

    #[test]
    fn elements_come_one_by_one_as_they_stand() {
        let mut found = Vec::new();
        let list = br#"[{"call_id":"a", "n": 1.0}, {"call_id":"b","start_time":1.5}]"#;
        each(list, |element| {
            found.push(element.get().to_owned());
            Ok::<(), String>(())
        })
        .unwrap();
        assert_eq!(
            found,
            [
                r#"{"call_id":"a", "n": 1.0}"#,
                r#"{"call_id":"b","start_time":1.5}"#
            ]
        );
        let call = ListedCall::parse(found[1].as_bytes()).unwrap();
        let expected = ListedCall {
            call_id: "b".to_owned(),
            started: Some(UnixTime::since_epoch(Duration::from_millis(1500))),
            ..ListedCall::default()
        };
        assert_eq!(call, expected);
    }

    #[test]
    fn an_empty_dialog_is_none() {
        let json = br#"{"call_id":"a","dialog_id":"","streams":[]}"#;
        assert_eq!(Statistics::parse(json).unwrap().dialog_id, None);
        assert_eq!(ListedCall::parse(json).unwrap().dialog_id, None);
    }

    #[test]
    fn r5_no_name_in_what_a_relay_tells_is_longer_than_any_that_it_was_given() {
        let long = "x".repeat(crate::proto::MAX_ID + 1);
        for key in ["call_id", "from_tag", "to_tag", "session_id", "dialog_id"] {
            let json = serde_json::json!({"call_id": "a", "streams": []});
            let mut object = json.as_object().unwrap().clone();
            object.insert(key.to_owned(), long.as_str().into());
            let json = serde_json::to_vec(&object).unwrap();
            let is_excess = |unfit| matches!(unfit, Unfit::Excess(e) if e.what == key);
            assert!(is_excess(Statistics::parse(&json).unwrap_err()), "{key}");
            let listed = ListedCall::parse(&json).err();
            assert!(
                key == "session_id" || listed.is_some_and(is_excess),
                "{key}"
            );
        }
    }

    #[test]
    fn a_broken_list_is_an_error_after_what_came_before_it() {
        let mut count = 0;
        let result = each(b"[{\"a\":1},{", |_| {
            count += 1;
            Ok::<(), String>(())
        });
        assert!(result.is_err());
        assert_eq!(count, 1);
        assert!(matches!(ListedCall::parse(b"{}"), Err(Unfit::Json(_))));
    }
}
