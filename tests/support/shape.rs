//! The JSON that MediaProxy has too: its keys and their types, as its relay and dispatcher write them
//! (docs/protocol.md section 5), and those that are ours beside them. CDRTool prints each key of a stream as a string,
//! and MediaProxy's dispatcher takes the relay's address from the first stream of each call that has started.

use serde_json::{Map, Value};

/// A key and what it holds; the key may be missing where the type begins with `?`.
type Keys = &'static [(&'static str, &'static str)];

const SESSION: Keys = &[
    ("call_id", "string"),
    ("from_tag", "string"),
    ("to_tag", "string or null"),
    ("from_uri", "string"),
    ("to_uri", "string"),
    ("start_time", "number or null"),
    ("duration", "integer"),
    ("caller_ua", "string"),
    ("callee_ua", "string"),
    ("username", "string or null"),
    ("streams", "array"),
    // Ours.
    ("session_id", "string"),
];

/// Ours, in lists of what goes on.
const LISTED: Keys = &[
    ("adopted", "?integer"),
    ("dialog_id", "?string"),
    ("exact", "?object"),
    ("signaling_ip", "?string"),
    ("offered", "?array"),
];

/// Ours, in what a relay tells of a session that is over.
const ENDED: Keys = &[("dialog_id", "?string"), ("exact", "?object")];

/// What the dispatcher adds for accounting.
const RECORDED: Keys = &[
    ("dialog_id", "string or null"),
    ("timed_out", "boolean"),
    ("all_streams_ice", "boolean"),
    // Ours.
    ("relay_ip", "string"),
    ("relay_lost", "?boolean"),
    ("exact", "?object"),
];

const STREAM: Keys = &[
    ("media_type", "string"),
    ("status", "string"),
    ("timeout_wait", "integer"),
    ("caller_codec", "string"),
    ("callee_codec", "string"),
    ("start_time", "integer"),
    ("end_time", "integer"),
    ("post_dial_delay", "number or null"),
    ("caller_bytes", "integer"),
    ("callee_bytes", "integer"),
    ("caller_packets", "integer"),
    ("callee_packets", "integer"),
    ("caller_local", "string"),
    ("callee_local", "string"),
    ("caller_remote", "string"),
    ("callee_remote", "string"),
    // Ours.
    ("caller_sdp", "string"),
    ("callee_sdp", "string"),
    ("caller_packets_user_space", "integer"),
    ("callee_packets_user_space", "integer"),
    ("caller_bytes_user_space", "integer"),
    ("callee_bytes_user_space", "integer"),
    ("caller_packets_kernel", "integer"),
    ("callee_packets_kernel", "integer"),
    ("caller_bytes_kernel", "integer"),
    ("callee_bytes_kernel", "integer"),
];

const SUMMARY: Keys = &[
    ("ip", "string"),
    ("version", "string"),
    ("status", "string"),
    ("uptime", "integer"),
    ("session_count", "integer"),
    ("stream_count", "object"),
    ("bps_relayed", "number"),
];

const STATUSES: [&str; 8] = [
    "active",
    "on hold",
    "closed",
    "rejected",
    "no-traffic timeout",
    "on hold timeout",
    "conntrack timeout",
    "unselected ICE candidate",
];

/// An element of `sessions`.
#[track_caller]
pub fn listed(session: &Value) {
    session_of(session, LISTED);
}

/// What a relay tells of a session that is over.
#[track_caller]
pub fn ended(session: &Value) {
    session_of(session, ENDED);
}

/// What accounting stores.
#[track_caller]
pub fn recorded(session: &Value) {
    let session = session_of(session, RECORDED);
    assert!(!session["start_time"].is_null(), "{session:?}");
}

/// A relay's entry in `summary`.
#[track_caller]
pub fn summary(summary: &Value) {
    let object = summary.as_object().unwrap();
    for (key, kind) in SUMMARY {
        is_of(object, key, kind);
    }
    let counts = object["stream_count"].as_object().unwrap();
    assert!(counts.values().all(Value::is_u64), "{summary}");
}

#[track_caller]
fn session_of(session: &Value, more: Keys) -> &Map<String, Value> {
    let object = session.as_object().unwrap();
    only(object, &[SESSION, more]);
    let streams = object["streams"].as_array().unwrap();
    // A relay that is lost has told nothing of them.
    let is_lost = object.contains_key("relay_lost");
    let has_started = !object["start_time"].is_null();
    assert_eq!(has_started && !is_lost, !streams.is_empty(), "{session}");
    for stream in streams {
        let stream = stream.as_object().unwrap();
        only(stream, &[STREAM]);
        assert!(
            STATUSES.iter().any(|status| stream["status"] == *status),
            "{stream:?}"
        );
        assert!(
            stream["start_time"].as_u64() <= stream["end_time"].as_u64(),
            "{stream:?}"
        );
        for (key, is_known) in [
            ("caller_local", true),
            ("callee_local", true),
            ("caller_remote", false),
            ("callee_remote", false),
        ] {
            let text = stream[key].as_str().unwrap();
            let (ip, port) = text.split_once(':').unwrap_or(("", ""));
            let is_address =
                ip.parse::<std::net::Ipv4Addr>().is_ok() && port.parse::<u16>().is_ok();
            assert!(
                is_address || !is_known && text == "Unknown",
                "{key}: {text}"
            );
        }
    }
    object
}

/// All of these keys and no others.
#[track_caller]
fn only(object: &Map<String, Value>, parts: &[Keys]) {
    let keys = || parts.iter().copied().flatten();
    for (key, kind) in keys() {
        is_of(object, key, kind);
    }
    let is_known = |name: &String| keys().any(|(key, _)| key == name);
    let others: Vec<&String> = object.keys().filter(|name| !is_known(name)).collect();
    assert!(others.is_empty(), "{others:?} in {object:?}");
}

#[track_caller]
fn is_of(object: &Map<String, Value>, key: &str, kind: &str) {
    let (kind, may_miss) = match kind.strip_prefix('?') {
        Some(kind) => (kind, true),
        None => (kind, false),
    };
    let is = |value: &Value| match kind.trim_end_matches(" or null") {
        "string" => value.is_string(),
        "integer" => value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other}"),
    };
    let fits = match object.get(key) {
        None => may_miss,
        Some(Value::Null) => kind.ends_with(" or null"),
        Some(value) => is(value),
    };
    assert!(fits, "{key} is not {kind}: {object:?}");
}
