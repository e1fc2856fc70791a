//! What a RADIUS server is told of a session: docs/protocol.md section 8, in attributes of RFC 2865, 2866 and 2869.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};

use super::dictionary::{Attribute, Dictionary};
use super::packet::{MAX_VALUE, push};
use crate::accounting::Record;
use crate::proto::record::{CallRecord, Scalar, StreamRecord, UNKNOWN};

/// Acct-Status-Type of Interim-Update (RFC 2869 section 2.1): the SIP proxy sends Start and Stop.
const INTERIM_UPDATE: u32 = 3;

/// User-Name where the SIP proxy gave none.
const NO_USER: &str = "mediaproxy@default";

/// The part of the record that is told. A call whose relay was lost has little of it.
struct Told<'a> {
    username: Option<&'a str>,
    start_time: Option<f64>,
    duration: Option<u64>,
    caller_ua: Option<&'a str>,
    callee_ua: Option<&'a str>,
    streams: Vec<ToldStream<'a>>,
    timed_out: Option<bool>,
    all_streams_ice: Option<bool>,
    relay_ip: Option<&'a str>,
}

struct ToldStream<'a> {
    media_type: Option<&'a str>,
    caller_codec: Option<&'a str>,
    start_time: Option<f64>,
    end_time: Option<f64>,
    post_dial_delay: Option<f64>,
    caller_bytes: Option<u64>,
    callee_bytes: Option<u64>,
    caller_local: Option<&'a str>,
}

fn text<'a>(value: &'a Scalar<'_>) -> Result<Option<&'a str>, String> {
    value.required_as("a string", Scalar::text)
}

fn whole(value: &Scalar<'_>) -> Result<Option<u64>, String> {
    value.required_as("u64", Scalar::whole)
}

fn number(value: &Scalar<'_>) -> Result<Option<f64>, String> {
    value.required_as("f64", Scalar::number)
}

fn flag(value: &Scalar<'_>) -> Result<Option<bool>, String> {
    value.required_as("a boolean", Scalar::flag)
}

impl<'a> Told<'a> {
    fn of(record: &'a CallRecord<'_>) -> Result<Told<'a>, String> {
        let streams = record.streams().iter().map(ToldStream::of);
        Ok(Told {
            username: text(&record.username)?,
            start_time: number(&record.start_time)?,
            duration: whole(&record.duration)?,
            caller_ua: text(&record.caller_ua)?,
            callee_ua: text(&record.callee_ua)?,
            streams: streams.collect::<Result<_, String>>()?,
            timed_out: flag(&record.timed_out)?,
            all_streams_ice: flag(&record.all_streams_ice)?,
            relay_ip: text(&record.relay_ip)?,
        })
    }
}

impl<'a> ToldStream<'a> {
    fn of(stream: &'a StreamRecord<'_>) -> Result<ToldStream<'a>, String> {
        Ok(ToldStream {
            media_type: text(&stream.media_type)?,
            caller_codec: text(&stream.caller_codec)?,
            start_time: number(&stream.start_time)?,
            end_time: number(&stream.end_time)?,
            post_dial_delay: number(&stream.post_dial_delay)?,
            caller_bytes: whole(&stream.caller_bytes)?,
            callee_bytes: whole(&stream.callee_bytes)?,
            caller_local: text(&stream.caller_local)?,
        })
    }
}

/// The attributes of a record's request, but for what signs it.
///
/// # Errors
/// What in the record is not as it should be: it cannot ever be sent.
pub(super) fn encode(record: &Record, dictionary: &Dictionary) -> Result<Vec<u8>, String> {
    let call = CallRecord::parse(&record.info).map_err(|error| error.to_string());
    let told = call.as_ref().map_err(String::clone).and_then(Told::of);
    let told =
        told.map_err(|why| format!("the statistics cannot be told to a RADIUS server: {why}"))?;
    let mut list = List {
        dictionary,
        bytes: Vec::new(),
    };
    let streams = told.streams.as_slice();

    list.number(Attribute::AcctStatusType, INTERIM_UPDATE);
    let username = told.username.filter(|name| !name.is_empty());
    list.string(Attribute::UserName, username.unwrap_or(NO_USER));
    list.string(Attribute::AcctSessionId, &record.call_id);
    list.string(Attribute::SipFromTag, &record.from_tag);
    list.string(
        Attribute::SipToTag,
        record.to_tag.as_deref().unwrap_or_default(),
    );
    if let Some(duration) = told.duration {
        list.number(Attribute::AcctSessionTime, clamp(duration));
    }
    list.octets(
        [Attribute::AcctInputOctets, Attribute::AcctInputGigawords],
        streams.iter().map(|stream| stream.caller_bytes),
    );
    list.octets(
        [Attribute::AcctOutputOctets, Attribute::AcctOutputGigawords],
        streams.iter().map(|stream| stream.callee_bytes),
    );
    if let Some(address) = relay_address(&told) {
        list.add(Attribute::NasIpAddress, &address.octets());
    }
    list.string(Attribute::SipUserAgents, &user_agents(&told));
    list.string(Attribute::SipApplications, &applications(streams));
    list.string(Attribute::MediaCodecs, &codecs(streams));
    list.string(Attribute::MediaInfo, media_info(&told));
    // Not the age of the report, which RFC 2866 means: what CDRTool reads from it since MediaProxy 2.
    if let Some(delay) = streams.iter().find_map(|stream| stream.post_dial_delay) {
        list.number(Attribute::AcctDelayTime, delay as u32);
    }
    // When the session ended: a record may come hours later.
    if let Some(start) = told.start_time {
        let end = (start.max(0.0) as u64).saturating_add(told.duration.unwrap_or_default());
        list.number(Attribute::EventTimestamp, clamp(end));
    }
    Ok(list.bytes)
}

struct List<'a> {
    dictionary: &'a Dictionary,
    bytes: Vec<u8>,
}

impl List<'_> {
    fn add(&mut self, attribute: Attribute, value: &[u8]) {
        push(&mut self.bytes, self.dictionary.number(attribute), value);
    }

    fn number(&mut self, attribute: Attribute, value: u32) {
        self.add(attribute, &value.to_be_bytes());
    }

    /// Cut between characters; an empty one is left out (RFC 2865 section 5).
    fn string(&mut self, attribute: Attribute, text: &str) {
        let cut = (0..=MAX_VALUE).rev().find_map(|end| text.get(..end));
        let value = if text.len() > MAX_VALUE {
            cut.unwrap_or_default()
        } else {
            text
        };
        if !value.is_empty() {
            self.add(attribute, value.as_bytes());
        }
    }

    /// The low 32 bits, and the high ones where there are any (RFC 2869 section 5.1).
    fn octets(&mut self, [low, high]: [Attribute; 2], bytes: impl Iterator<Item = Option<u64>>) {
        let total = bytes.flatten().fold(0u64, u64::saturating_add);
        self.number(low, total as u32);
        let gigawords = (total >> 32) as u32;
        if gigawords > 0 {
            self.number(high, gigawords);
        }
    }
}

fn clamp(value: u64) -> u32 {
    value.try_into().unwrap_or(u32::MAX)
}

/// The relay's address on the caller's side of the first stream, else that of its link.
fn relay_address(told: &Told<'_>) -> Option<Ipv4Addr> {
    let first = told.streams.first().and_then(|stream| stream.caller_local);
    let local = first.and_then(|local| local.parse::<SocketAddrV4>().ok());
    let of_link = || told.relay_ip?.parse().ok();
    local.map(|local| *local.ip()).or_else(of_link)
}

fn user_agents(told: &Told<'_>) -> String {
    if told.caller_ua.or(told.callee_ua).is_none() {
        return String::new();
    }
    let [caller, callee] = [told.caller_ua, told.callee_ua].map(|name| name.unwrap_or(UNKNOWN));
    format!("{caller}+{callee}")
}

/// The kinds of media that lasted.
fn applications(streams: &[ToldStream<'_>]) -> String {
    let lasted = |stream: &&ToldStream<'_>| {
        stream.end_time.is_some() && stream.start_time != stream.end_time
    };
    let kinds = streams
        .iter()
        .filter(lasted)
        .filter_map(|stream| stream.media_type);
    let kinds: BTreeSet<&str> = kinds.collect();
    Vec::from_iter(kinds).join(", ")
}

fn codecs(streams: &[ToldStream<'_>]) -> String {
    let codecs = streams.iter().filter_map(|stream| stream.caller_codec);
    codecs.collect::<Vec<_>>().join(", ")
}

/// How the session ended without the SIP proxy; empty where it did not.
fn media_info(told: &Told<'_>) -> &'static str {
    match (told.all_streams_ice, told.timed_out) {
        (Some(true), _) => "ICE session",
        (_, Some(true)) => "timeout",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(info: &str) -> Result<Vec<u8>, String> {
        let names = r#""session_id":"s","call_id":"c@h","from_tag":"f","#;
        let info = format!("{{{names}{}", info.strip_prefix('{').unwrap());
        encode(&Record::parse(&info).unwrap(), &Dictionary::default())
    }

    /// Each attribute's number with its value: text where it is one, else in hexadecimal.
    fn shown(bytes: &[u8]) -> Vec<String> {
        let (mut all, mut rest) = (Vec::new(), bytes);
        while let [number, length, ..] = *rest {
            let (attribute, after) = rest.split_at(usize::from(length));
            let value = &attribute[2..];
            let is_text = matches!(number, 1 | 44 | 104 | 105 | 233..=236);
            all.push(if is_text {
                format!("{number} {}", std::str::from_utf8(value).unwrap())
            } else {
                format!(
                    "{number} {}",
                    value.iter().map(|b| format!("{b:02x}")).collect::<String>()
                )
            });
            rest = after;
        }
        all
    }

    #[test]
    fn a_call_with_voice_and_rejected_video() {
        let info = r#"{"to_tag":"t","username":"alice@example.com","start_time":1700000000.25,"duration":61,
            "caller_ua":"A 1","callee_ua":"Unknown","timed_out":true,"all_streams_ice":false,"relay_ip":"192.0.2.1",
            "streams":[
            {"media_type":"video","start_time":0,"end_time":0,"post_dial_delay":null,"caller_codec":"Unknown",
             "caller_bytes":0,"callee_bytes":0,"caller_local":"192.0.2.7:40000"},
            {"media_type":"audio","start_time":0,"end_time":61,"post_dial_delay":2.9,"caller_codec":"G711a",
             "caller_bytes":4294967296,"callee_bytes":4294967295,"caller_local":"192.0.2.8:40004"},
            {"media_type":"audio","start_time":3,"end_time":61,"post_dial_delay":7,"caller_codec":"G711a",
             "caller_bytes":5,"callee_bytes":0,"caller_local":"192.0.2.8:40008"}]}"#;
        assert_eq!(
            shown(&encoded(info).unwrap()),
            [
                "40 00000003",
                "1 alice@example.com",
                "44 c@h",
                "105 f",
                "104 t",
                "46 0000003d",
                "42 00000005",
                "52 00000001",
                "43 ffffffff",
                "4 c0000207",
                "235 A 1+Unknown",
                "236 audio",
                "233 Unknown, G711a, G711a",
                "234 timeout",
                "41 00000002",
                "55 6553f13d",
            ]
        );
    }

    #[test]
    fn a_call_of_which_little_is_known() {
        let of_a_lost_relay =
            r#"{"to_tag":null,"relay_ip":"192.0.2.1","relay_lost":true,"username":null}"#;
        let least = [
            "40 00000003",
            "1 mediaproxy@default",
            "44 c@h",
            "105 f",
            "42 00000000",
            "43 00000000",
        ];
        let mut expected = least.to_vec();
        expected.push("4 c0000201");
        assert_eq!(shown(&encoded(of_a_lost_relay).unwrap()), expected);
        let odd = r#"{"to_tag":"","username":"","streams":[{"caller_local":"Unknown"}],"relay_ip":"2001:db8::1"}"#;
        assert_eq!(shown(&encoded(odd).unwrap()), least);
    }

    #[test]
    fn parties_that_went_direct_did_not_time_out() {
        let bytes = encoded(r#"{"timed_out":true,"all_streams_ice":true}"#).unwrap();
        assert!(shown(&bytes).contains(&"234 ICE session".to_owned()));
    }

    #[test]
    fn long_strings_are_cut_between_characters() {
        let name = "\u{e9}".repeat(200);
        let bytes = encoded(&format!(
            r#"{{"username":"{name}","caller_ua":"{name}","callee_ua":"x"}}"#
        ))
        .unwrap();
        let all = shown(&bytes);
        assert!(all.contains(&format!("1 {}", "\u{e9}".repeat(126))));
        assert!(all.contains(&format!("235 {}", "\u{e9}".repeat(126))));
        let fits = "x".repeat(253);
        let bytes = encoded(&format!(r#"{{"username":"{fits}"}}"#)).unwrap();
        assert!(shown(&bytes).contains(&format!("1 {fits}")));
    }

    #[test]
    fn numbers_out_of_range_are_the_nearest_and_what_is_none_is_refused() {
        let far = r#"{"start_time":-5,"duration":99999999999,"streams":[{"post_dial_delay":-1.5,
            "caller_bytes":18446744073709551615},{"caller_bytes":18446744073709551615}]}"#;
        let all = shown(&encoded(far).unwrap());
        for expected in [
            "46 ffffffff",
            "41 00000000",
            "55 ffffffff",
            "42 ffffffff",
            "52 ffffffff",
        ] {
            assert!(all.contains(&expected.to_owned()), "{expected}: {all:?}");
        }
        for bad in [
            r#"{"duration":"61"}"#,
            r#"{"duration":-1}"#,
            r#"{"streams":7}"#,
            r#"{"streams":[{"caller_bytes":1.5}]}"#,
            r#"{"username":["a"]}"#,
        ] {
            let why = encoded(bad).unwrap_err();
            assert!(
                why.starts_with("the statistics cannot be told to a RADIUS server: invalid "),
                "{why}"
            );
        }
    }
}
