//! The shape of the statistics in every state that a session can be in.

use super::*;

use crate::support::shape;

const A: (&str, &str) = ("A", "");
const AB: (&str, &str) = ("A", "B");

/// The call as it is listed, then as it ends by its removal, both of the right shape.
#[track_caller]
fn both(lab: &mut Lab) -> [Value; 2] {
    let listed = lab.statistics();
    shape::listed(&listed);
    assert!(lab.remove("A", "B"));
    let ended = lab.removed().unwrap();
    shape::ended(&ended);
    [listed, ended]
}

#[track_caller]
fn statuses(session: &Value, want: &[(&str, &str)]) {
    let streams = session["streams"].as_array().unwrap();
    let found: Vec<_> = streams
        .iter()
        .map(|s| {
            (
                s["media_type"].as_str().unwrap(),
                s["status"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(found, want);
}

fn video(address: &str) -> String {
    item("video", address, "sendrecv")
}

#[test]
fn ringing_talking_and_on_hold() {
    let mut lab = Lab::new();
    lab.update("request", 1, A, &audio(CALLER));
    statuses(&both(&mut lab)[0], &[]);
    let mut lab = Lab::new();
    lab.talking();
    lab.pass(7);
    let [listed, ended] = both(&mut lab);
    statuses(&listed, &[("audio", "active")]);
    statuses(&ended, &[("audio", "closed")]);
    let mut lab = Lab::new();
    lab.talking();
    lab.update("request", 2, AB, &item("audio", CALLER, "sendonly"));
    lab.update("reply", 2, AB, &item("audio", CALLEE, "recvonly"));
    statuses(&both(&mut lab)[0], &[("audio", "on hold")]);
}

#[test]
fn ended_by_silence_and_by_the_relays_own_end() {
    let mut lab = Lab::new();
    lab.talking();
    lab.pass(200);
    let expired = lab.expired().unwrap();
    shape::ended(&expired);
    statuses(&expired, &[("audio", "conntrack timeout")]);
    assert_eq!(expired["streams"][0]["timeout_wait"], 90);
    lab.call();
    let now = lab.moment();
    lab.engine.end_all(now);
    lab.drain_actions();
    shape::ended(&lab.expired().unwrap());
}

#[test]
fn bytes_that_are_no_utf_8_are_beside_the_streams() {
    let mut lab = Lab::new();
    let mut request =
        b"update\r\ntype: request\r\ncall_id: call\r\ncseq: 1\r\nfrom_uri: a@x\r\nto_uri: b@x\r\n\
        from_tag: \xe9\r\nuser_agent: x\r\nmedia: "
            .to_vec();
    request.extend_from_slice(audio(CALLER).as_bytes());
    request.extend_from_slice(b"\r\n\r\n");
    lab.take(&request);
    let listed = lab.statistics();
    shape::listed(&listed);
    assert_eq!(listed["exact"]["from_tag"], "\\xe9");
}

/// Every key of the head comes from the place that it should, and all are there.
#[test]
fn the_head_of_a_record_is_whole() {
    let mut lab = Lab::new();
    let more = |media: &str| {
        let signaling = r#"{"signaling_ip":"192.0.2.7","username":"alice"}"#;
        format!("signaling_ip: {signaling}\r\ndialog_id: 12:34\r\nmedia: {media}\r\n")
    };
    lab.update_with("request", 1, A, &more(&audio(CALLER)));
    lab.update_with("reply", 1, AB, &more(&audio(CALLEE)));
    lab.pass(7);
    let [listed, ended] = both(&mut lab);
    let head = |mut record: Value| {
        record.as_object_mut().unwrap().remove("streams");
        record
    };
    let mut expected = serde_json::json!({
        "session_id": "00000000-0000-4000-8000-000000000001",
        "call_id": "call",
        "from_tag": "A",
        "to_tag": "B",
        "from_uri": "a@x",
        "to_uri": "b@x",
        "start_time": 1_700_001_000.0,
        "duration": 7,
        "caller_ua": "agent-request",
        "callee_ua": "agent-reply",
        "username": "alice",
        "dialog_id": "12:34",
    });
    assert_eq!(head(ended), expected);
    expected["signaling_ip"] = "192.0.2.7".into();
    assert_eq!(head(listed), expected);
}

/// A line that was off in the first offer, and stays so over re-INVITEs, is one closed stream.
#[test]
fn c3_a_line_that_was_never_on_is_listed_as_closed() {
    let mut lab = Lab::new();
    let off = |address: &str| format!("{},{}", video(address), audio(CALLER));
    let reply = lab.update("request", 1, A, &off("198.18.0.1:0"));
    assert_eq!(ports(&reply)[0], 0);
    assert_eq!(lab.statistics()["streams"].as_array().unwrap().len(), 0);
    lab.pass(4);
    let answer = format!("{},{}", video("198.18.0.2:0"), audio(CALLEE));
    let caller_side = ports(&lab.update("reply", 1, AB, &answer));
    assert!(caller_side[0] == 0 && caller_side[1] != 0);
    lab.pass(10);
    for cseq in 2..5 {
        lab.update("request", cseq, AB, &off("198.18.0.1:0"));
        lab.update("reply", cseq, AB, &answer);
    }
    assert_eq!(lab.host.bound.len(), 4, "it never had ports");
    let [listed, ended] = both(&mut lab);
    statuses(&listed, &[("video", "closed"), ("audio", "active")]);
    statuses(&ended, &[("video", "closed"), ("audio", "closed")]);
    let stream = &ended["streams"][0];
    assert_eq!(
        (&stream["start_time"], &stream["end_time"]),
        (&0.into(), &0.into())
    );
    assert_eq!(stream["caller_local"], "10.9.9.9:0");
    assert_eq!(stream["caller_sdp"], "198.18.0.1:0");
}

#[test]
fn c3_a_line_that_is_turned_on_later_is_another_stream() {
    let mut lab = Lab::new();
    lab.update("request", 1, A, &audio("198.18.0.1:0"));
    lab.update("reply", 1, AB, &audio("198.18.0.2:0"));
    lab.pass(3);
    assert!(ports(&lab.update("request", 2, AB, &audio(CALLER)))[0] != 0);
    let caller_side = ports(&lab.update("reply", 2, AB, &audio(CALLEE)))[0];
    assert!(lab.host.bound.contains_key(&caller_side));
    let [listed, _] = both(&mut lab);
    statuses(&listed, &[("audio", "closed"), ("audio", "active")]);
    assert_eq!(listed["streams"][1]["start_time"], 3);
}

/// Whatever is offered and answered, a call that has started lists a stream.
#[test]
fn no_started_call_is_without_a_stream() {
    let off = audio("198.18.0.2:0");
    for (offer, answer, status) in [
        // Nothing is offered.
        (audio("198.18.0.1:0"), off.clone(), "closed"),
        // The answer takes what was not offered.
        (audio("198.18.0.1:0"), audio(CALLEE), "closed"),
        // The answer refuses.
        (audio(CALLER), off, "rejected"),
        // It has no SDP: none came before it either.
        (audio(CALLER), String::new(), "active"),
        (audio("198.18.0.1:0"), String::new(), "closed"),
    ] {
        let mut lab = Lab::new();
        lab.update("request", 1, A, &offer);
        lab.update("reply", 1, AB, &answer);
        lab.pass(2);
        let [listed, ended] = both(&mut lab);
        statuses(&listed, &[("audio", status)]);
        assert_eq!(listed.get("offered"), None);
        assert_eq!(ended["streams"][0]["start_time"], 0);
    }
}

/// A phone asked its user for longer than an offer's own streams are kept: the answer comes to one that is over.
#[test]
fn an_answer_to_what_has_ended_is_listed() {
    let mut lab = Lab::new();
    let (caller_side, _) = lab.talking();
    let offer = format!("{},{}", audio(CALLER), video("198.18.0.1:4002"));
    lab.update("request", 2, AB, &offer);
    for _ in 0..6 {
        lab.pass(60);
        lab.rtp(CALLER, caller_side);
    }
    let answer = format!("{},{}", audio(CALLEE), video("198.18.0.2:5002"));
    lab.update("reply", 2, AB, &answer);
    let [listed, _] = both(&mut lab);
    statuses(&listed, &[("audio", "active"), ("video", "closed")]);
}

#[test]
fn lines_that_are_off_are_bounded_as_streams_are() {
    let mut lab = Lab::new();
    for cseq in 1..1200 {
        // Another type each time: none is what was there before.
        let kind = format!("x{cseq}");
        let reply = lab.update("request", cseq, A, &item(&kind, "198.18.0.1:0", "sendrecv"));
        assert_eq!(ports(&reply), [0]);
        lab.update("reply", cseq, AB, &item(&kind, "198.18.0.2:0", "sendrecv"));
    }
    let listed = lab.statistics();
    shape::listed(&listed);
    assert_eq!(listed["streams"].as_array().unwrap().len(), 1024);
    assert_eq!(lab.host.bound.len(), 0);
}
