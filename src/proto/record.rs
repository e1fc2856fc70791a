//! The record of a call: the statistics object of docs/protocol.md section 5. A relay writes it when a call ends, and lists it
//! while it goes on; a dispatcher adds what it alone knows; accounting stores the text as it came, keys that nobody here
//! knows included. This is what all of them write and read. Pure.
//!
//! Who reads it decides what is wrong with a value of another type than it should have: see [`Scalar`].

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::raw_object::RawObject;
use super::{DialogId, SessionId, Text};
use crate::objects::objects_only;

/// A call. What another version or another program does not tell is none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct CallRecord<'a> {
    /// A UUID; older relays do not tell one.
    #[serde(borrow, default, skip_serializing_if = "Scalar::is_none")]
    pub session_id: Scalar<'a>,
    #[serde(borrow)]
    pub call_id: Cow<'a, str>,
    #[serde(borrow, default)]
    pub from_tag: Scalar<'a>,
    /// None where the callee has not finally answered.
    #[serde(borrow, default)]
    pub to_tag: Scalar<'a>,
    #[serde(borrow, default)]
    pub from_uri: Scalar<'a>,
    #[serde(borrow, default)]
    pub to_uri: Scalar<'a>,
    /// Of the first answer: seconds since 1970-01-01 UTC. A call without it was never answered.
    #[serde(borrow, default)]
    pub start_time: Scalar<'a>,
    /// Seconds.
    #[serde(borrow, default)]
    pub duration: Scalar<'a>,
    #[serde(borrow, default)]
    pub caller_ua: Scalar<'a>,
    #[serde(borrow, default)]
    pub callee_ua: Scalar<'a>,
    #[serde(borrow, default)]
    pub username: Scalar<'a>,
    #[serde(borrow, default, skip_serializing_if = "Scalar::is_none")]
    pub dialog_id: Scalar<'a>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub exact: Option<ExactNames<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub streams: Option<Vec<StreamRecord<'a>>>,
    /// Of a call that goes on: where the caller's SIP came from, and the streams that wait for an answer.
    #[serde(borrow, default, skip_serializing_if = "Scalar::is_none")]
    pub signaling_ip: Scalar<'a>,
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    pub offered: Vec<OfferedStream<'a>>,
    /// When its relay's present process took it over from the one before: seconds since 1970-01-01 UTC.
    #[serde(borrow, default, skip_serializing_if = "Scalar::is_none")]
    pub adopted: Scalar<'a>,
    /// What a dispatcher has added, see [`Added`].
    #[serde(borrow, default, skip_serializing)]
    pub timed_out: Scalar<'a>,
    #[serde(borrow, default, skip_serializing)]
    pub all_streams_ice: Scalar<'a>,
    #[serde(borrow, default, skip_serializing)]
    pub relay_ip: Scalar<'a>,
}
objects_only!(CallRecord<'a>, both ways);

/// What JSON strings cannot tell: the names of a call of which one at least is not UTF-8, with `\xe9` for such a byte, as
/// commands take them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct ExactNames<'a> {
    #[serde(borrow)]
    pub call_id: Cow<'a, str>,
    #[serde(borrow, default)]
    pub from_tag: Scalar<'a>,
    #[serde(borrow, default)]
    pub to_tag: Scalar<'a>,
}
objects_only!(ExactNames<'a>, both ways);

/// A stream of it. Times are whole seconds since the call's first answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", default)]
pub struct StreamRecord<'a> {
    #[serde(borrow)]
    pub media_type: Scalar<'a>,
    #[serde(borrow)]
    pub status: Scalar<'a>,
    /// How long nothing came before it ended for that.
    #[serde(borrow)]
    pub timeout_wait: Scalar<'a>,
    #[serde(borrow)]
    pub caller_codec: Scalar<'a>,
    #[serde(borrow)]
    pub callee_codec: Scalar<'a>,
    #[serde(borrow)]
    pub start_time: Scalar<'a>,
    #[serde(borrow)]
    pub end_time: Scalar<'a>,
    #[serde(borrow)]
    pub post_dial_delay: Scalar<'a>,
    #[serde(borrow)]
    pub caller_bytes: Scalar<'a>,
    #[serde(borrow)]
    pub callee_bytes: Scalar<'a>,
    #[serde(borrow)]
    pub caller_packets: Scalar<'a>,
    #[serde(borrow)]
    pub callee_packets: Scalar<'a>,
    #[serde(borrow)]
    pub caller_sdp: Scalar<'a>,
    #[serde(borrow)]
    pub callee_sdp: Scalar<'a>,
    #[serde(borrow)]
    pub caller_local: Scalar<'a>,
    #[serde(borrow)]
    pub callee_local: Scalar<'a>,
    #[serde(borrow)]
    pub caller_remote: Scalar<'a>,
    #[serde(borrow)]
    pub callee_remote: Scalar<'a>,
    // By path. Flat, as all of a stream is: CDRTool prints each of its keys as a string.
    #[serde(borrow)]
    pub caller_packets_user_space: Scalar<'a>,
    #[serde(borrow)]
    pub callee_packets_user_space: Scalar<'a>,
    #[serde(borrow)]
    pub caller_bytes_user_space: Scalar<'a>,
    #[serde(borrow)]
    pub callee_bytes_user_space: Scalar<'a>,
    #[serde(borrow)]
    pub caller_packets_kernel: Scalar<'a>,
    #[serde(borrow)]
    pub callee_packets_kernel: Scalar<'a>,
    #[serde(borrow)]
    pub caller_bytes_kernel: Scalar<'a>,
    #[serde(borrow)]
    pub callee_bytes_kernel: Scalar<'a>,
}
objects_only!(StreamRecord<'a>, both ways);

/// A stream that waits for its answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", default)]
pub struct OfferedStream<'a> {
    #[serde(borrow)]
    pub media_type: Scalar<'a>,
    #[serde(borrow)]
    pub caller_sdp: Scalar<'a>,
    #[serde(borrow)]
    pub callee_sdp: Scalar<'a>,
    #[serde(borrow)]
    pub caller_local: Scalar<'a>,
    #[serde(borrow)]
    pub callee_local: Scalar<'a>,
    #[serde(borrow)]
    pub caller_remote: Scalar<'a>,
    #[serde(borrow)]
    pub callee_remote: Scalar<'a>,
}
objects_only!(OfferedStream<'a>, both ways);

impl<'a> StreamRecord<'a> {
    /// Of its parties, by SDP, on the relay, and where they were seen.
    pub fn addresses(&self) -> [&Scalar<'a>; 6] {
        [
            &self.caller_sdp,
            &self.callee_sdp,
            &self.caller_local,
            &self.callee_local,
            &self.caller_remote,
            &self.callee_remote,
        ]
    }
}

impl<'a> OfferedStream<'a> {
    /// Of its parties, by SDP, on the relay, and where they were seen.
    pub fn addresses(&self) -> [&Scalar<'a>; 6] {
        [
            &self.caller_sdp,
            &self.callee_sdp,
            &self.caller_local,
            &self.callee_local,
            &self.caller_remote,
            &self.callee_remote,
        ]
    }
}

/// Where no party, codec or address is known.
pub const UNKNOWN: &str = "Unknown";

impl<'a> CallRecord<'a> {
    /// Reads one object.
    ///
    /// # Errors
    /// What is no object, has no Call-ID or has something else for its streams.
    pub fn parse(json: &'a str) -> Result<CallRecord<'a>, serde_json::Error> {
        serde_json::from_str(json)
    }

    pub fn streams(&self) -> &[StreamRecord<'a>] {
        self.streams.as_deref().unwrap_or_default()
    }

    /// The Call-ID, with `\xe9` for a byte that is not UTF-8 where that is told.
    pub fn exact_call_id(&self) -> &str {
        let exact = self.exact.as_ref().map(|exact| &exact.call_id);
        exact.unwrap_or(&self.call_id)
    }
}

/// What tells a call from others, without a look at its streams: a list may have thousands.
#[derive(Debug, Deserialize)]
#[serde(remote = "Self")]
pub struct RecordHead<'a> {
    #[serde(borrow, default)]
    pub session_id: Scalar<'a>,
    #[serde(borrow)]
    pub call_id: Cow<'a, str>,
    #[serde(borrow, default)]
    pub from_tag: Scalar<'a>,
    #[serde(borrow, default)]
    pub to_tag: Scalar<'a>,
    #[serde(borrow, default)]
    pub start_time: Scalar<'a>,
    #[serde(borrow, default)]
    pub duration: Scalar<'a>,
    #[serde(borrow, default)]
    pub dialog_id: Scalar<'a>,
    #[serde(borrow, default)]
    pub exact: Option<ExactNames<'a>>,
}
objects_only!(RecordHead<'a>);

impl<'a> RecordHead<'a> {
    /// Reads the object.
    ///
    /// # Errors
    /// What is no object, or has no Call-ID.
    pub fn parse(json: &'a str) -> Result<RecordHead<'a>, serde_json::Error> {
        serde_json::from_str(json)
    }

    /// The Call-ID, with `\xe9` for a byte that is not UTF-8 where that is told.
    pub fn exact_call_id(&self) -> &str {
        let exact = self.exact.as_ref().map(|exact| &exact.call_id);
        exact.unwrap_or(&self.call_id)
    }
}

/// The id of the session that a record is of. None where it has none.
pub fn session_id(record: &[u8]) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    #[serde(remote = "Self")]
    struct Named<'a> {
        #[serde(borrow)]
        session_id: Cow<'a, str>,
    }
    objects_only!(Named<'a>);
    let named: Named<'_> = serde_json::from_slice(record).ok()?;
    Some(named.session_id)
}

/// What a dispatcher adds to a relay's record, or to one of its own where the relay is lost.
#[derive(Debug, Serialize)]
pub struct Added<'a> {
    /// None where the relay has told one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
    /// The relay has nothing to tell of it any more.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub relay_lost: bool,
    /// Null where there is none; not told where the relay has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dialog_id: Option<Option<&'a DialogId>>,
    pub timed_out: bool,
    pub all_streams_ice: bool,
    pub relay_ip: IpAddr,
}

/// The keys of [`Added`], as a text has them.
const ADDED_KEYS: [&str; 6] = [
    "\"session_id\"",
    "\"relay_lost\"",
    "\"dialog_id\"",
    "\"timed_out\"",
    "\"all_streams_ice\"",
    "\"relay_ip\"",
];

impl Added<'_> {
    /// The text of a record with this behind what it has, or in the place of what it has of these keys. None where it is no
    /// object.
    pub fn append_to(&self, record: &str) -> Option<String> {
        let added = serde_json::to_string(self).ok()?;
        let record = record.trim_end().strip_suffix('}')?;
        let comma = if record.trim_end().ends_with('{') {
            ""
        } else {
            ","
        };
        let more = added.strip_prefix('{')?;
        let text = format!("{record}{comma}{more}");
        let is_doubled = |key: &str| record.contains(key) && more.contains(key);
        if ADDED_KEYS.iter().any(|key| is_doubled(key)) {
            // A relay may tell what a dispatcher adds, or `null` for it, and most readers take a key that comes twice for
            // damage.
            return RawObject::parse(&text)?.text();
        }
        Some(text)
    }
}

/// A value that is neither a list nor an object, as JSON has it: who reads it says what type it should have.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Scalar<'a> {
    /// Null, or not there.
    #[default]
    None,
    Text(Cow<'a, str>),
    Whole(u64),
    Real(f64),
    Flag(bool),
    /// It is one all the same.
    Other(&'static str),
}

impl<'a> Scalar<'a> {
    pub fn is_none(&self) -> bool {
        *self == Scalar::None
    }

    /// A text; none where it is something else.
    pub fn text(&self) -> Option<&str> {
        match self {
            Scalar::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A text that is not empty; none where it is something else.
    pub fn told(&self) -> Option<&str> {
        self.text().filter(|text| !text.is_empty())
    }

    /// A number that is whole and not negative.
    pub fn whole(&self) -> Option<u64> {
        match self {
            Scalar::Whole(number) => Some(*number),
            _ => None,
        }
    }

    pub fn number(&self) -> Option<f64> {
        match self {
            Scalar::Whole(number) => Some(*number as f64),
            Scalar::Real(number) => Some(*number),
            _ => None,
        }
    }

    pub fn flag(&self) -> Option<bool> {
        match self {
            Scalar::Flag(flag) => Some(*flag),
            _ => None,
        }
    }

    /// What it is read as; where it is there and cannot be, a sentence that says what it is instead.
    ///
    /// # Errors
    /// That sentence.
    pub fn required_as<'s, T>(
        &'s self,
        expected: &str,
        read: impl FnOnce(&'s Scalar<'a>) -> Option<T>,
    ) -> Result<Option<T>, String> {
        if self.is_none() {
            return Ok(None);
        }
        let value = read(self);
        let odd = || format!("invalid type: {}, expected {expected}", self.unexpected());
        value.map(Some).ok_or_else(odd)
    }

    fn unexpected(&self) -> Unexpected<'_> {
        match self {
            Scalar::None => Unexpected::Unit,
            Scalar::Text(text) => Unexpected::Str(text),
            Scalar::Whole(number) => Unexpected::Unsigned(*number),
            Scalar::Real(number) => Unexpected::Float(*number),
            Scalar::Flag(flag) => Unexpected::Bool(*flag),
            Scalar::Other(what) => Unexpected::Other(what),
        }
    }

    /// A text, or `Unknown`.
    pub fn text_or_unknown(text: Option<&'a Text>) -> Scalar<'a> {
        text.map_or(UNKNOWN.into(), Into::into)
    }

    /// What is displayed, or `Unknown`.
    pub fn or_unknown(value: Option<impl fmt::Display>) -> Scalar<'a> {
        match value {
            Some(value) => value.to_string().into(),
            None => UNKNOWN.into(),
        }
    }
}

impl<'a> From<&'a Text> for Scalar<'a> {
    fn from(text: &'a Text) -> Scalar<'a> {
        Scalar::Text(text.lossy())
    }
}

impl<'a> From<&'a str> for Scalar<'a> {
    fn from(text: &'a str) -> Scalar<'a> {
        Scalar::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Scalar<'_> {
    fn from(text: String) -> Self {
        Scalar::Text(Cow::Owned(text))
    }
}

impl From<u64> for Scalar<'_> {
    fn from(number: u64) -> Self {
        Scalar::Whole(number)
    }
}

impl From<f64> for Scalar<'_> {
    fn from(number: f64) -> Self {
        Scalar::Real(number)
    }
}

impl<'a, T: Into<Scalar<'a>>> From<Option<T>> for Scalar<'a> {
    fn from(value: Option<T>) -> Scalar<'a> {
        value.map_or(Scalar::None, Into::into)
    }
}

impl Serialize for Scalar<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Scalar::None | Scalar::Other(_) => serializer.serialize_none(),
            Scalar::Text(text) => serializer.serialize_str(text),
            Scalar::Whole(number) => serializer.serialize_u64(*number),
            Scalar::Real(number) => serializer.serialize_f64(*number),
            Scalar::Flag(flag) => serializer.serialize_bool(*flag),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Scalar<'a> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Scalar<'a>, D::Error> {
        json.deserialize_any(AnyScalar)
    }
}

struct AnyScalar;

impl<'de> Visitor<'de> for AnyScalar {
    type Value = Scalar<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Scalar<'de>, E> {
        Ok(text.into())
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar<'de>, E> {
        Ok(text.to_owned().into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Scalar<'de>, E> {
        Ok(number.into())
    }

    fn visit_i64<E>(self, number: i64) -> Result<Scalar<'de>, E> {
        Ok(match u64::try_from(number) {
            Ok(number) => number.into(),
            Err(_) => (number as f64).into(),
        })
    }

    fn visit_f64<E>(self, number: f64) -> Result<Scalar<'de>, E> {
        Ok(number.into())
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Flag(flag))
    }

    fn visit_unit<E>(self) -> Result<Scalar<'de>, E> {
        Ok(Scalar::None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Scalar<'de>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other("a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Scalar<'de>, A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other("an object"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a relay of ours writes it.
    const WRITTEN: &str = r#"{"session_id":"s","call_id":"a","from_tag":"f","to_tag":null,"from_uri":"x@y","to_uri":"z@y","start_time":1.5,"duration":9,"caller_ua":"phone","callee_ua":"Unknown","username":null,"streams":[{"media_type":"audio","status":"closed","timeout_wait":0,"caller_codec":"G711a","callee_codec":"Unknown","start_time":0,"end_time":9,"post_dial_delay":null,"caller_bytes":1,"callee_bytes":2,"caller_packets":3,"callee_packets":4,"caller_sdp":"10.0.0.5:4000","callee_sdp":"Unknown","caller_local":"192.0.2.1:40000","callee_local":"192.0.2.1:40002","caller_remote":"Unknown","callee_remote":"Unknown","caller_packets_user_space":3,"callee_packets_user_space":4,"caller_bytes_user_space":1,"callee_bytes_user_space":2,"caller_packets_kernel":0,"callee_packets_kernel":0,"caller_bytes_kernel":0,"callee_bytes_kernel":0}]}"#;

    #[test]
    fn what_is_read_is_written_key_by_key_as_before() {
        let record = CallRecord::parse(WRITTEN).unwrap();
        assert!(matches!(record.call_id, Cow::Borrowed("a")), "no copy");
        assert!(matches!(
            record.from_uri,
            Scalar::Text(Cow::Borrowed("x@y"))
        ));
        assert_eq!(serde_json::to_string(&record).unwrap(), WRITTEN);
        assert_eq!(session_id(WRITTEN.as_bytes()).as_deref(), Some("s"));
        let unnamed = WRITTEN.replace(r#""session_id":"s","#, "");
        assert_eq!(session_id(unnamed.as_bytes()), None);
        let record = CallRecord::parse(&unnamed).unwrap();
        assert_eq!(serde_json::to_string(&record).unwrap(), unnamed);
    }

    /// Of another version or another program.
    #[test]
    fn what_is_of_another_type_spoils_nothing_else() {
        let odd = r#"{"call_id":"a\u00e9","more":[{}],"from_tag":7,"to_tag":[1,{}],"duration":"long","start_time":-2,
            "username":{"a":[]},"timed_out":true,"streams":[{"status":1.5,"caller_bytes":null,"end_time":true}, {}]}"#;
        let record = CallRecord::parse(odd).unwrap();
        assert_eq!(
            (&*record.call_id, record.from_tag.text()),
            ("a\u{e9}", None)
        );
        assert_eq!(record.to_tag, Scalar::Other("a list"));
        assert_eq!(
            (record.start_time.number(), record.start_time.whole()),
            (Some(-2.0), None)
        );
        assert_eq!(
            (record.timed_out.flag(), record.duration.flag()),
            (Some(true), None)
        );
        let strictly = record.duration.required_as("u64", Scalar::whole);
        let sentence = "invalid type: string \"long\", expected u64";
        assert_eq!(strictly, Err(sentence.to_owned()));
        let [first, second] = record.streams() else {
            panic!("{record:?}");
        };
        assert_eq!(
            first.caller_bytes.required_as("u64", Scalar::whole),
            Ok(None)
        );
        assert_eq!(
            (first.status.number(), second.status.text()),
            (Some(1.5), None)
        );
        for bad in [
            "[]",
            "{}",
            r#"{"call_id":7}"#,
            r#"{"call_id":"a","streams":7}"#,
            r#"{"call_id":"a","streams":[[1]]}"#,
        ] {
            assert!(CallRecord::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_dispatcher_adds_what_it_knows_and_changes_nothing() {
        let added = Added {
            session_id: None,
            relay_lost: false,
            dialog_id: Some(None),
            timed_out: true,
            all_streams_ice: false,
            relay_ip: [192, 0, 2, 1].into(),
        };
        let more =
            r#""dialog_id":null,"timed_out":true,"all_streams_ice":false,"relay_ip":"192.0.2.1"}"#;
        let text = r#"{"call_id": "a", "x":  1.50 } "#;
        let expected = format!(r#"{{"call_id": "a", "x":  1.50 ,{more}"#);
        assert_eq!(added.append_to(text), Some(expected));
        assert_eq!(added.append_to("{}"), Some(format!("{{{more}")));
        assert_eq!(added.append_to("[]"), None);
    }
}
