//! What the management port tells of relays and sessions, as types. Older relays tell less; what is missing is zero or
//! empty. Pure.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::Deserialize;

use super::quantity::time;
use crate::objects::objects_only;
use crate::text_layout::clean;

/// A sum of what was told, which may be anything.
pub(super) fn sum(counts: impl Iterator<Item = u64>) -> u64 {
    counts.fold(0, u64::saturating_add)
}

/// A line of `summary`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(remote = "Self", default)]
pub(super) struct Relay {
    pub ip: String,
    pub name: Option<String>,
    pub version: String,
    pub status: String,
    /// Seconds.
    pub uptime: u64,
    pub session_count: u64,
    /// Calls that nobody has answered; older dispatchers do not tell.
    pub unanswered: Option<u64>,
    pub stream_count: BTreeMap<String, u64>,
    /// Streams that still fit, and those that fit in all; older relays do not tell.
    pub streams_left: Option<u64>,
    pub streams_fit: u64,
    pub bps_relayed: f64,
    pub unsent_packets: u64,
    pub dropped_packets: BTreeMap<String, u64>,
    pub drained: bool,
    /// Not connected; it is listed for its calls, or because it is drained.
    pub away: bool,
}
objects_only!(Relay);

impl Relay {
    /// What to call it in commands.
    pub(super) fn label(&self) -> String {
        clean(self.name.as_deref().unwrap_or(&self.ip))
    }

    pub(super) fn state(&self) -> String {
        let what = match (self.status.as_str(), self.away) {
            ("error", true) => "away",
            ("error", false) => "no answer",
            (_, _) if self.drained => return "drained".to_owned(),
            ("active", _) if self.streams_left == Some(0) => "full",
            (other, _) => return clean(other),
        };
        if self.drained {
            format!("{what}, drained")
        } else {
            what.to_owned()
        }
    }

    /// Something that an administrator should look at. A drained one may go when it has no calls.
    pub(super) fn is_bad(&self) -> bool {
        let is_expected = self.away && self.drained && self.session_count == 0;
        self.status == "error" && !is_expected
    }

    /// New calls may come to it.
    pub(super) fn takes_calls(&self) -> bool {
        !self.drained && !self.away && self.status == "active"
    }

    pub(super) fn streams(&self) -> String {
        let counts = self.stream_count.iter();
        let counts: Vec<String> = counts
            .map(|(kind, n)| format!("{} {n}", clean(kind)))
            .collect();
        counts.join(", ")
    }

    pub(super) fn dropped(&self) -> u64 {
        sum(self.dropped_packets.values().copied())
    }
}

/// A line of `sessions`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(remote = "Self", default)]
pub(super) struct Session {
    pub session_id: Option<String>,
    pub call_id: String,
    pub from_uri: String,
    pub to_uri: String,
    /// UNIX seconds; none before the answer.
    pub start_time: Option<f64>,
    /// Seconds.
    pub duration: f64,
    pub streams: Vec<Stream>,
    /// Those that are not answered yet.
    pub offered: Vec<Stream>,
    /// UNIX seconds at which its relay took it over from the process before; none where it has it from the start.
    pub adopted: Option<f64>,
    pub exact: Option<Exact>,
}
objects_only!(Session);

/// What is not UTF-8, as commands take it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(remote = "Self", default)]
pub(super) struct Exact {
    pub call_id: String,
}
objects_only!(Exact);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(remote = "Self", default)]
pub(super) struct Stream {
    pub media_type: String,
    pub status: String,
    pub caller_codec: String,
    pub callee_codec: String,
    pub caller_bytes: u64,
    pub callee_bytes: u64,
    pub caller_packets: u64,
    pub callee_packets: u64,
    pub caller_local: String,
    pub caller_packets_kernel: u64,
    pub callee_packets_kernel: u64,
}
objects_only!(Stream);

impl Stream {
    fn is_live(&self) -> bool {
        matches!(self.status.as_str(), "active" | "on hold")
    }
}

impl Session {
    /// As commands take it.
    pub(super) fn call_id(&self) -> String {
        clean(self.exact_call_id())
    }

    /// The same, which may hold what a terminal must not see.
    pub(super) fn exact_call_id(&self) -> &str {
        let exact = self.exact.as_ref().map(|exact| &exact.call_id);
        exact.unwrap_or(&self.call_id)
    }

    /// The time from the take-over of this call until `now` (UNIX seconds); none if no relay took it over.
    pub(super) fn adopted(&self, now: f64) -> Option<String> {
        let ago = (now - self.adopted?).max(0.0);
        Some(time(ago as u64))
    }

    pub(super) fn bytes(&self) -> u64 {
        let streams = self.streams.iter();
        sum(streams.flat_map(|stream| [stream.caller_bytes, stream.callee_bytes]))
    }

    /// From the caller, and from the callee.
    pub(super) fn packets(&self) -> [u64; 2] {
        let streams = || self.streams.iter();
        [
            sum(streams().map(|stream| stream.caller_packets)),
            sum(streams().map(|stream| stream.callee_packets)),
        ]
    }

    /// Share of the packets that the kernel relayed.
    pub(super) fn in_kernel(&self) -> f64 {
        let streams = self.streams.iter();
        let by_kernel =
            |stream: &Stream| [stream.caller_packets_kernel, stream.callee_packets_kernel];
        let kernel = sum(streams.flat_map(by_kernel));
        let all = sum(self.packets().into_iter());
        kernel as f64 / all.max(1) as f64
    }

    /// How much of a conversation it is: 1 where both sides are heard alike, 0 where one is not heard at all. On hold,
    /// and in the first seconds, nothing can be said.
    pub(super) fn quality(&self) -> f64 {
        let active = self
            .streams
            .iter()
            .filter(|stream| stream.status == "active");
        let shares = active.map(|stream| {
            let [less, more] = if stream.caller_packets <= stream.callee_packets {
                [stream.caller_packets, stream.callee_packets]
            } else {
                [stream.callee_packets, stream.caller_packets]
            };
            less as f64 / more.max(1) as f64
        });
        if self.start_time.is_some() && self.duration >= 5.0 {
            shares.fold(1.0, f64::min)
        } else {
            1.0
        }
    }

    /// Of its live streams, or else of the last one.
    pub(super) fn status(&self) -> String {
        let live: Vec<&Stream> = self.streams.iter().filter(|s| s.is_live()).collect();
        let first = live.first().copied().or(self.streams.last());
        match first {
            None => "ringing".to_owned(),
            Some(_) if live.iter().any(|s| s.status == "active") && self.quality() < 0.1 => {
                "one way".to_owned()
            }
            Some(stream) => clean(&stream.status),
        }
    }

    pub(super) fn media(&self) -> String {
        // What a later offer adds to a call is not its media yet.
        let ringing = self.offered.iter().filter(|_| self.streams.is_empty());
        let live = self.streams.iter().filter(|stream| stream.is_live());
        let live = live.chain(ringing);
        let kinds: Vec<String> = live.map(|stream| clean(&stream.media_type)).collect();
        kinds.join(",")
    }

    /// The caller's, of the first stream that has one.
    pub(super) fn codec(&self) -> String {
        let codecs = self
            .streams
            .iter()
            .flat_map(|s| [&s.caller_codec, &s.callee_codec]);
        let mut known = codecs.filter(|codec| !codec.is_empty() && *codec != "Unknown");
        known
            .next()
            .map_or_else(|| "-".to_owned(), |codec| clean(codec))
    }

    /// The relay's address on the caller's side.
    pub(super) fn relay(&self) -> String {
        let stream = self.streams.last().or(self.offered.last());
        let local = stream.map(|stream| &stream.caller_local);
        let ip = local.and_then(|local| local.rsplit_once(':'));
        ip.map_or_else(|| "-".to_owned(), |(ip, _)| clean(ip))
    }

    /// Names it among others from one look to the next.
    pub(super) fn key(&self) -> &str {
        self.session_id.as_deref().unwrap_or(&self.call_id)
    }
}

/// What sessions are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum SortKey {
    /// The oldest first.
    #[default]
    Start,
    /// The others: the greatest first.
    Duration,
    Traffic,
    Packets,
    /// The worst first.
    Quality,
    Caller,
    Callee,
    Status,
}

impl SortKey {
    /// And how it is named.
    pub(super) const ALL: [(&'static str, SortKey); 8] = [
        ("start", SortKey::Start),
        ("duration", SortKey::Duration),
        ("traffic", SortKey::Traffic),
        ("packets", SortKey::Packets),
        ("quality", SortKey::Quality),
        ("caller", SortKey::Caller),
        ("callee", SortKey::Callee),
        ("status", SortKey::Status),
    ];

    /// By its name.
    ///
    /// # Errors
    /// What is allowed.
    pub(super) fn parse(text: &str) -> Result<SortKey, String> {
        let found = Self::ALL.iter().find(|(name, _)| *name == text);
        found.map(|(_, key)| *key).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|(name, _)| *name).collect();
            format!(
                "--sort {}: allowed: {}",
                text.escape_debug(),
                names.join(", ")
            )
        })
    }

    pub(super) fn name(self) -> &'static str {
        let found = Self::ALL.iter().find(|(_, key)| *key == self);
        found.map_or("", |(name, _)| name)
    }

    /// The order of two sessions; `traffic` is what counts as theirs.
    pub(super) fn compare(
        self,
        one: &Session,
        other: &Session,
        traffic: impl Fn(&Session) -> f64,
    ) -> Ordering {
        let packets = |session: &Session| sum(session.packets().into_iter());
        let start = |session: &Session| session.start_time.unwrap_or(f64::MAX);
        let order = match self {
            SortKey::Start => start(one).total_cmp(&start(other)),
            SortKey::Duration => other.duration.total_cmp(&one.duration),
            SortKey::Traffic => traffic(other).total_cmp(&traffic(one)),
            SortKey::Packets => packets(other).cmp(&packets(one)),
            SortKey::Quality => one.quality().total_cmp(&other.quality()),
            SortKey::Caller => one.from_uri.cmp(&other.from_uri),
            SortKey::Callee => one.to_uri.cmp(&other.to_uri),
            SortKey::Status => one.status().cmp(&other.status()),
        };
        order.then_with(|| one.call_id.cmp(&other.call_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(call_id: &str, packets: [u64; 2]) -> Session {
        let [caller_packets, callee_packets] = packets;
        Session {
            call_id: call_id.into(),
            start_time: Some(1.0),
            duration: 10.0,
            streams: vec![Stream {
                media_type: "audio".into(),
                status: "active".into(),
                caller_packets,
                callee_packets,
                caller_bytes: caller_packets.saturating_mul(200),
                caller_local: "192.0.2.1:40000".into(),
                ..Stream::default()
            }],
            ..Session::default()
        }
    }

    #[test]
    fn a_call_that_rings_has_a_relay() {
        let mut ringing = Session::default();
        let columns = |session: &Session| (session.status(), session.media(), session.relay());
        let want = |media: &str, relay: &str| ("ringing".into(), media.into(), relay.into());
        assert_eq!(columns(&ringing), want("", "-"), "an older relay's");
        ringing.offered = std::mem::take(&mut session("a", [0, 0]).streams);
        assert_eq!(columns(&ringing), want("audio", "192.0.2.1"));
        ringing.streams = session("a", [0, 0]).streams;
        assert_eq!(ringing.media(), "audio");
    }

    #[test]
    fn a_call_in_which_one_is_not_heard_is_the_worst() {
        let [good, poor, mute] = [
            session("a", [500, 490]),
            session("b", [500, 100]),
            session("c", [0, 500]),
        ];
        assert!(good.quality() > 0.9 && poor.quality() < 0.3 && mute.quality() == 0.0);
        assert_eq!(
            (good.status(), mute.status()),
            ("active".into(), "one way".into())
        );
        let mut all = [good, poor, mute];
        all.sort_by(|one, other| SortKey::Quality.compare(one, other, |_| 0.0));
        assert_eq!(all.map(|session| session.call_id), ["c", "b", "a"]);
        let mut young = session("d", [0, 10]);
        young.duration = 2.0;
        assert_eq!(young.quality(), 1.0, "it has just begun");
    }

    /// Each number fits, their sums do not.
    #[test]
    fn what_no_dispatcher_should_tell_is_shown_all_the_same() {
        let mut one = session("a", [u64::MAX, 1]);
        one.streams.push(one.streams[0].clone());
        one.streams[0].caller_packets_kernel = u64::MAX;
        one.streams[0].callee_packets_kernel = 1;
        one.streams[0].caller_bytes = u64::MAX;
        assert_eq!((one.bytes(), one.packets()), (u64::MAX, [u64::MAX, 2]));
        assert_eq!(one.in_kernel(), 1.0);
        let relay = Relay {
            dropped_packets: [("a".into(), u64::MAX), ("b".into(), 1)].into(),
            ..Relay::default()
        };
        assert_eq!(relay.dropped(), u64::MAX);
    }

    #[test]
    fn sums_and_words() {
        let mut one = session("a", [3, 2]);
        assert_eq!(
            (one.bytes(), one.packets(), one.relay()),
            (600, [3, 2], "192.0.2.1".into())
        );
        one.streams[0].caller_packets_kernel = 3;
        one.streams[0].callee_packets_kernel = 1;
        assert_eq!(one.in_kernel(), 0.8);
        one.streams[0].status = "closed".into();
        assert_eq!(
            (one.status(), one.media()),
            ("closed".into(), String::new())
        );
        assert_eq!(Session::default().status(), "ringing");
        assert_eq!(Session::default().relay(), "-");
        let odd = r#"{"call_id": "caf\ufffd", "exact": {"call_id": "caf\\xe9", "from_tag": "t"}}"#;
        let odd: Session = serde_json::from_str(odd).unwrap();
        assert_eq!(
            (odd.call_id(), session("a", [0, 0]).call_id()),
            ("caf\\xe9".into(), "a".into())
        );
    }

    #[test]
    fn relays_of_any_age() {
        let read = |text: &str| serde_json::from_str::<Relay>(text).unwrap();
        let old = read(
            r#"{"ip": "192.0.2.1", "version": "4.0", "status": "active", "stream_count": {"audio": 2}}"#,
        );
        assert_eq!(
            (old.label(), old.state(), old.streams()),
            ("192.0.2.1".into(), "active".into(), "audio 2".into())
        );
        let gone = |calls| {
            let text = r#"{"ip": "192.0.2.1", "name": "r\u001b", "status": "error", "drained": true, "away": true,
                "session_count": N}"#;
            read(&text.replace('N', calls))
        };
        assert_eq!(
            (gone("0").label(), gone("0").state()),
            ("r\\u{1b}".into(), "away, drained".into())
        );
        assert!(gone("1").is_bad() && !gone("0").is_bad() && !old.is_bad());
        assert!(old.takes_calls() && !gone("0").takes_calls());
        let takes = |state: &str| read(&format!("{{{state}}}")).takes_calls();
        assert!(takes(r#""status": "active""#) && !takes(r#""status": "halting""#));
        assert!(!takes(r#""status": "active", "drained": true"#));
        let silent = read(r#"{"ip": "192.0.2.1", "status": "error", "session_count": 2}"#);
        assert_eq!(silent.state(), "no answer");
        assert!(silent.is_bad());
    }
}
