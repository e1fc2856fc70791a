//! A call in full as lines for people: who hears whom, and why not (`verdict`); then all that is known of it. Pure.

use serde_json::{Map, Value};

use super::explained::{Call, Claim, Component, Learned, Leg, Stream, told};
use super::verdict::verdict;
use crate::proto::Visible;
use crate::words::counted;

/// One party's side of a stream.
struct Side<'a> {
    name: &'static str,
    codec: &'a str,
    packets: u64,
    bytes: u64,
    in_kernel: u64,
    sdp: &'a str,
    local: &'a str,
    remote: &'a str,
    leg: Option<&'a Leg>,
    learned: Option<&'a Learned>,
    candidates: &'a [Claim],
}

/// The sessions of a call, one after the other.
///
/// # Errors
/// A key that has another type than it should.
pub(crate) fn lines(sessions: Vec<Map<String, Value>>) -> Result<Vec<String>, serde_json::Error> {
    let mut out = Vec::new();
    for session in sessions {
        let mut call: Call = serde_json::from_value(Value::from(session))?;
        if let Some(exact) = call.exact.take() {
            (call.call_id, call.from_tag, call.to_tag) =
                (exact.call_id, exact.from_tag, exact.to_tag);
        }
        out.extend(verdict(&call));
        head(&mut out, &call);
        for (index, stream) in call.streams.iter().enumerate() {
            self::stream(&mut out, index + 1, stream);
        }
        if call.streams.is_empty() {
            out.push("  no stream yet".to_owned());
        }
    }
    // What peers have said must not move a terminal's cursor.
    let clean = |line: String| Visible(line.as_bytes()).to_string();
    Ok(out.into_iter().map(clean).collect())
}

/// Who hears whom in a session, as [`lines`] begins with it; nothing where it cannot be read.
pub(crate) fn verdict_of(session: Map<String, Value>) -> Vec<String> {
    let call: Call = serde_json::from_value(Value::from(session)).unwrap_or_default();
    let clean = |line: String| Visible(line.as_bytes()).to_string();
    verdict(&call).into_iter().map(clean).collect()
}

fn head(out: &mut Vec<String>, call: &Call) {
    let state = match (call.answered, call.start_time) {
        (Some(true), _) => format!("answered, {} s", call.duration),
        (_, Some(_)) => format!("early media for {} s, not answered yet", call.duration),
        (_, None) => "ringing".to_owned(),
    };
    out.push(format!("call {}: {state}", call.call_id));
    out.push(format!("  from {} to {}", call.from_uri, call.to_uri));
    let to_tag = call.to_tag.as_deref().unwrap_or("none yet");
    out.push(format!("  tags {} and {to_tag}", call.from_tag));
    if let Some(username) = &call.username {
        out.push(format!("  accounted to {username}"));
    }
    let agent = |agent: &Option<String>| agent.clone().unwrap_or_else(|| "Unknown".to_owned());
    let (caller, callee) = (agent(&call.caller_ua), agent(&call.callee_ua));
    out.push(format!("  user agents: caller {caller}, callee {callee}"));
    let name = match &call.relay.name {
        Some(name) => format!("{} ({name})", call.relay.ip),
        None => call.relay.ip.clone(),
    };
    let less = if call.relay_explains {
        ""
    } else {
        "; an older one, which tells no more than sessions"
    };
    out.push(format!("  relay {name}, {}{less}", call.relay_link));
    if let Some(at) = call.adopted {
        let since = call.start_time.map(|start| start + call.duration - at);
        let ago = since.map_or_else(String::new, |ago| format!(", {:.0} s ago", ago.max(0.0)));
        out.push(format!(
            "  adopted{ago}: its relay was started anew and took it over"
        ));
    }
    out.push(match &call.dialog_id {
        Some(dialog) => format!("  dialog {dialog} at the SIP proxy"),
        None => "  no dialog at the SIP proxy is known".to_owned(),
    });
    if let Some(id) = &call.session_id {
        out.push(format!("  session {id}"));
    }
    if let Some(refused) = &call.refused {
        out.push(format!("  an update of it was refused: {refused}"));
    }
}

fn stream(out: &mut Vec<String>, number: usize, stream: &Stream) {
    let end = match &stream.timeout {
        Some(limit) => format!(
            "; will be ended in {:.0} s if {} ({} {:.0})",
            limit.left,
            match limit.name.as_str() {
                "setup_timeout" => "it is not answered",
                _ => "neither side sends RTP or RTCP",
            },
            limit.name,
            limit.limit
        ),
        None if stream.timeout_wait > 0.0 => format!(" after {:.0} s", stream.timeout_wait),
        None => String::new(),
    };
    out.push(format!(
        "  stream {number}: {}, {}{end}",
        stream.media_type, stream.status
    ));
    for side in sides(stream) {
        self::side(out, &side);
    }
    for (name, component) in [("RTP", &stream.rtp), ("RTCP", &stream.rtcp)] {
        if let Some(component) = component {
            let Component { path, why, .. } = component;
            out.push(format!("    {name} goes by {path}: {why}"));
        }
    }
}

fn sides(stream: &Stream) -> [Side<'_>; 2] {
    let rtp = stream.rtp.as_ref();
    [
        Side {
            name: "caller",
            codec: &stream.caller_codec,
            packets: stream.caller_packets,
            bytes: stream.caller_bytes,
            in_kernel: stream.caller_packets_kernel,
            sdp: &stream.caller_sdp,
            local: &stream.caller_local,
            remote: &stream.caller_remote,
            leg: stream.caller.as_ref(),
            learned: rtp.and_then(|rtp| rtp.caller.as_ref()),
            candidates: rtp.map_or(&[], |rtp| &rtp.caller_candidates),
        },
        Side {
            name: "callee",
            codec: &stream.callee_codec,
            packets: stream.callee_packets,
            bytes: stream.callee_bytes,
            in_kernel: stream.callee_packets_kernel,
            sdp: &stream.callee_sdp,
            local: &stream.callee_local,
            remote: &stream.callee_remote,
            leg: stream.callee.as_ref(),
            learned: rtp.and_then(|rtp| rtp.callee.as_ref()),
            candidates: rtp.map_or(&[], |rtp| &rtp.callee_candidates),
        },
    ]
}

fn side(out: &mut Vec<String>, side: &Side<'_>) {
    let name = side.name;
    let seen = match (side.learned, side.remote) {
        (Some(learned), _) if learned.by == "stun" => {
            format!("it sends STUN from {}, no media yet", learned.address)
        }
        (Some(learned), _) => format!("it sends from {}", learned.address),
        (None, "" | "Unknown") => "nothing received yet".to_owned(),
        (None, remote) => format!("it sends from {remote}"),
    };
    let told = told(side.leg, side.local);
    out.push(format!("    {name}: {seen}; it was told to send to {told}"));
    if let Some(leg) = side.leg {
        let usable = if leg.sdp_usable {
            "media goes there until something comes from the party"
        } else {
            "no media goes there: the relay waits until something comes from the party"
        };
        let ice = if leg.ice { ", ICE" } else { "" };
        out.push(match side.sdp {
            "" | "Unknown" => "      SDP: none yet".to_owned(),
            sdp => format!("      SDP: {sdp} ({usable}), {}{ice}", leg.direction),
        });
        if !leg.signaling.is_empty() {
            out.push(format!(
                "      its SIP comes from {}",
                leg.signaling.join(" and ")
            ));
        }
    }
    if let Some(learned) = side.learned.filter(|learned| !learned.why.is_empty()) {
        let Learned {
            address, rank, why, ..
        } = learned;
        out.push(format!("      {address} is believed ({rank}): {why}"));
    }
    for claim in side.candidates {
        out.push(format!(
            "      {} is not believed ({}): {}; {}, the last {:.1} s ago",
            claim.address,
            claim.rank,
            claim.why,
            counted(claim.packets, "packet"),
            claim.ago
        ));
    }
    let kernel = match side.in_kernel {
        0 => String::new(),
        packets => format!(" ({packets} by the kernel)"),
    };
    let (codec, bytes) = (side.codec, side.bytes);
    let heard = side.leg.map_or(String::new(), heard);
    out.push(format!(
        "      codec {codec}, {} relayed from it{kernel}, {bytes} bytes{heard}",
        counted(side.packets, "packet")
    ));
    let dropped = side.leg.map_or(String::new(), dropped);
    if !dropped.is_empty() {
        out.push(format!("      DROPPED: {dropped}"));
    }
}

fn heard(leg: &Leg) -> String {
    let media = match leg.last_media {
        Some(seconds) => format!(", last media {seconds:.1} s ago"),
        None => ", no media yet".to_owned(),
    };
    match leg.last_rtcp {
        Some(seconds) => format!("{media}, last RTCP {seconds:.1} s ago"),
        None => media,
    }
}

fn dropped(leg: &Leg) -> String {
    let reasons = leg.dropped.iter();
    let mut reasons: Vec<String> = reasons
        .map(|(why, count)| format!("{count} {why}"))
        .collect();
    if leg.unsent > 0 {
        reasons.push(format!("{} not taken by the relay's host", leg.unsent));
    }
    reasons.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(json: &str) -> String {
        let session = serde_json::from_str(json).unwrap();
        lines(vec![session]).unwrap().join("\n")
    }

    #[test]
    fn a_call_that_was_taken_over() {
        let call = |more: &str| format!(r#"{{"call_id": "a", "duration": 75, {more}}}"#);
        let text = shown(&call(r#""start_time": 1000.5, "adopted": 1030"#));
        let line = "\n  adopted, 46 s ago: its relay was started anew and took it over\n";
        assert!(text.contains(line), "{text}");
        let text = shown(&call(r#""adopted": 1030"#));
        assert!(text.contains("\n  adopted: its relay was"), "{text}");
        assert!(!shown(&call(r#""answered": true"#)).contains("adopted"));
    }

    #[test]
    fn a_call_of_a_relay_of_ours() {
        let text = shown(
            r#"{"call_id": "a@x", "session_id": "id", "from_uri": "alice@x", "to_uri": "bob@y", "from_tag": "A",
            "to_tag": "B", "username": "al", "caller_ua": "one", "callee_ua": "Unknown", "start_time": 17.5,
            "duration": 75, "answered": true, "relay": {"ip": "192.0.2.9", "name": "r1"}, "relay_link": "connected",
            "relay_explains": true, "dialog_id": "4242:77", "streams": [{"media_type": "audio", "status": "active",
            "timeout_wait": 0, "timeout": {"name": "stream_timeout", "limit": 90, "left": 88.4},
            "caller_codec": "G711a", "callee_codec": "Unknown", "caller_packets": 12, "callee_packets": 0,
            "caller_bytes": 2400, "callee_bytes": 0, "caller_sdp": "10.0.0.5:4000", "callee_sdp": "8.8.8.8:5000",
            "caller_local": "192.0.2.9:40000", "callee_local": "192.0.2.9:40002", "caller_remote": "203.0.113.7:31022",
            "callee_remote": "Unknown", "caller_packets_kernel": 10, "callee_packets_kernel": 0,
            "caller": {"sdp_usable": false, "direction": "sendrecv", "ice": true, "last_media": 0.12, "last_rtcp": 3.0,
            "signaling": ["203.0.113.7", "203.0.113.9"],
            "told": "198.51.100.9:40000",
            "dropped": {"wrong source": 3, "receiver not routable": 1}, "unsent": 2},
            "callee": {"sdp_usable": true, "direction": "recvonly", "ice": false, "last_media": null, "last_rtcp": null,
            "dropped": {}, "unsent": 0},
            "rtp": {"caller": {"address": "203.0.113.7:31022", "by": "stun", "rank": "near", "why": "its SIP comes from this address"},
            "callee": null, "callee_candidates": [{"address": "198.51.100.66:9", "packets": 3, "rank": "other", "ago": 0.54,
            "why": "3 packets in a row of one stream"}], "path": "user space",
            "why": "nothing has come from the callee yet"}, "rtcp": {"caller": null, "callee": null, "path": "kernel",
            "why": "since 5 s"}}]}"#,
        );
        let want = "\
audio: the callee hears the caller: 12 packets so far, the last 0.1 s ago, sent to 8.8.8.8:5000, which the SDP names and from where nothing has come yet
audio: the caller hears nothing: the callee's SDP says recvonly: it does not send; a re-INVITE with sendrecv ends that
call a@x: answered, 75 s
  from alice@x to bob@y
  tags A and B
  accounted to al
  user agents: caller one, callee Unknown
  relay 192.0.2.9 (r1), connected
  dialog 4242:77 at the SIP proxy
  session id
  stream 1: audio, active; will be ended in 88 s if neither side sends RTP or RTCP (stream_timeout 90)
    caller: it sends STUN from 203.0.113.7:31022, no media yet; it was told to send to 198.51.100.9:40000
      SDP: 10.0.0.5:4000 (no media goes there: the relay waits until something comes from the party), sendrecv, ICE
      its SIP comes from 203.0.113.7 and 203.0.113.9
      203.0.113.7:31022 is believed (near): its SIP comes from this address
      codec G711a, 12 packets relayed from it (10 by the kernel), 2400 bytes, last media 0.1 s ago, last RTCP 3.0 s ago
      DROPPED: 1 receiver not routable, 3 wrong source, 2 not taken by the relay's host
    callee: nothing received yet; it was told to send to 192.0.2.9:40002
      SDP: 8.8.8.8:5000 (media goes there until something comes from the party), recvonly
      198.51.100.66:9 is not believed (other): 3 packets in a row of one stream; 3 packets, the last 0.5 s ago
      codec Unknown, 0 packets relayed from it, 0 bytes, no media yet
    RTP goes by user space: nothing has come from the callee yet
    RTCP goes by kernel: since 5 s";
        assert_eq!(text, want);
    }

    #[test]
    fn a_call_of_an_older_relay_has_what_sessions_has() {
        let text = shown(
            r#"{"call_id": "a", "from_uri": "alice\u001b[2J", "to_uri": "bob", "from_tag": "A", "to_tag": null,
            "start_time": null, "duration": 0, "caller_ua": "x\r\ny", "callee_ua": "Unknown", "relay": {"ip": "192.0.2.9"},
            "relay_link": "does not answer", "streams": []}"#,
        );
        let want = "\
the relay does not answer at the moment: what follows may be old; look at that host (processor, swap, network)
no stream has been answered: no media is expected yet
call a: ringing
  from alice\\u{1b}[2J to bob
  tags A and none yet
  user agents: caller x\\r\\ny, callee Unknown
  relay 192.0.2.9, does not answer; an older one, which tells no more than sessions
  no dialog at the SIP proxy is known
  no stream yet";
        assert_eq!(text, want);
    }

    #[test]
    fn identifiers_that_are_not_utf_8_are_shown_as_commands_take_them() {
        let text = shown(
            r#"{"call_id": "caf\ufffd", "from_tag": "A\ufffd", "to_tag": null,
            "exact": {"call_id": "caf\\xe9", "from_tag": "A\\xff", "to_tag": null}}"#,
        );
        assert!(text.contains("\ncall caf\\xe9: ringing\n"), "{text}");
        assert!(text.contains("\n  tags A\\xff and none yet\n"), "{text}");
    }

    #[test]
    fn what_is_of_the_wrong_type_is_an_error() {
        let session = serde_json::from_str(r#"{"call_id": 7}"#).unwrap();
        assert!(lines(vec![session]).is_err());
    }
}
