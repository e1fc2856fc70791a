//! What a call says of itself to who wants to know why somebody hears nothing.

use super::media::{installs, kernel_lab};
use super::*;

fn explain(lab: &Lab) -> Value {
    let mut out = Vec::new();
    let call = CallId("call".into());
    assert!(lab.engine.write_explained(&mut out, &call, lab.moment()));
    let mut list: Vec<Value> = serde_json::from_slice(&out).unwrap();
    assert_eq!(list.len(), 1);
    list.remove(0)
}

#[test]
fn a_call_that_is_not_here_has_nothing_to_say() {
    let lab = Lab::new();
    let call = CallId("call".into());
    let mut out = Vec::new();
    assert!(!lab.engine.write_explained(&mut out, &call, lab.moment()));
}

#[test]
fn addresses_drops_and_time_outs() {
    let mut lab = Lab::with(open());
    let callee_side = ports(&lab.update("request", 1, ("A", ""), &audio("192.168.1.1:4000")))[0];
    let ringing = explain(&lab);
    assert_eq!(ringing["answered"], false);
    let stream = &ringing["streams"][0];
    assert_eq!(stream["caller_sdp"], "192.168.1.1:4000");
    assert_eq!(stream["callee_sdp"], "Unknown");
    assert_eq!(stream["timeout"]["name"], "setup_timeout");
    assert_eq!(stream["timeout"]["left"], 300.0);
    let caller_side = ports(&lab.update("reply", 1, ("A", "B"), &audio("8.8.8.8:5000")))[0];
    // The caller's address is private and it has sent nothing: the callee's media has nowhere to go.
    lab.rtp("8.8.8.8:5000", callee_side);
    lab.rtp("8.8.8.8:5000", callee_side);
    lab.packet(CALLER, caller_side, &stun());
    lab.rtp("198.18.0.9:9", callee_side);
    lab.pass(10);
    let call = explain(&lab);
    assert_eq!(call["answered"], true);
    assert_eq!(call["from_uri"], "a@x");
    let stream = &call["streams"][0];
    let timeout = &stream["timeout"];
    assert_eq!(
        (&timeout["name"], &timeout["left"]),
        (&"stream_timeout".into(), &80.0.into())
    );
    assert_eq!(stream["caller"]["sdp_usable"], false);
    assert_eq!(stream["callee"]["sdp_usable"], true);
    assert_eq!(stream["caller"]["last_media"], Value::Null);
    assert_eq!(stream["callee"]["last_media"], 10.0);
    let dropped = &stream["callee"]["dropped"];
    assert_eq!(
        dropped.to_string(),
        r#"{"receiver not routable":2,"wrong source":1}"#
    );
    // Who was refused, where the party was told to send to, how long its packets are.
    let callee = &stream["callee"];
    assert_eq!(
        callee["stranger"],
        serde_json::json!({"address": "198.18.0.9:9", "ago": 10.0})
    );
    assert_eq!(callee["told"], stream["callee_local"]);
    assert_eq!(callee["longest"], 200);
    assert_eq!(stream["caller"]["stranger"], Value::Null);
    assert_eq!(stream["since_answer"], 10.0);
    let rtp = &stream["rtp"];
    assert_eq!(rtp["why"], "forwarding = userspace");
    assert_eq!(rtp["caller"]["by"], "stun");
    assert_eq!(rtp["callee"]["address"], "8.8.8.8:5000");
    assert_eq!(rtp["path"], "user space");
    assert_eq!(stream["rtcp"]["caller"], Value::Null);
    let counts: u64 = lab
        .engine
        .totals()
        .dropped
        .counts()
        .map(|(_, count)| count)
        .sum();
    assert_eq!(counts, 3);
}

/// A session ends with the last of its streams' limits, which is what is left for each of them (M7).
#[test]
fn m7_the_time_that_is_left_is_the_sessions() {
    let mut lab = Lab::new();
    let two = |address: &str, held: &str| {
        format!(
            "{},{}",
            item("audio", &format!("{address}:4000"), held),
            item("video", &format!("{address}:4002"), "sendrecv")
        )
    };
    lab.update("request", 1, ("A", ""), &two("198.18.0.1", "sendonly"));
    lab.update("reply", 1, ("A", "B"), &two("198.18.0.2", "recvonly"));
    lab.pass(10);
    let streams = &explain(&lab)["streams"];
    let told = |line: usize| {
        let timeout = &streams[line]["timeout"];
        let name = timeout["name"].as_str().unwrap().to_owned();
        (name, timeout["limit"].as_u64(), timeout["left"].as_f64())
    };
    assert_eq!(
        told(0),
        ("on_hold_timeout".into(), Some(7200), Some(7190.0))
    );
    assert_eq!(told(1), ("stream_timeout".into(), Some(90), Some(7190.0)));
}

#[test]
fn hold_and_closed_streams_are_told() {
    let mut lab = Lab::new();
    lab.talking();
    lab.update("request", 2, ("A", "B"), &item("audio", CALLER, "sendonly"));
    lab.update("reply", 2, ("A", "B"), &item("audio", CALLEE, "recvonly"));
    let stream = &explain(&lab)["streams"][0];
    assert_eq!(stream["status"], "on hold");
    assert_eq!(stream["caller"]["direction"], "sendonly");
    assert_eq!(stream["timeout"]["name"], "on_hold_timeout");
    lab.update("request", 3, ("A", "B"), &audio("198.18.0.1:0"));
    assert_eq!(explain(&lab)["streams"][0]["status"], "on hold");
    lab.update("reply", 3, ("A", "B"), &audio("198.18.0.2:0"));
    let stream = &explain(&lab)["streams"][0];
    assert_eq!(stream["status"], "closed");
    assert_eq!(stream["timeout"], Value::Null);
    assert_eq!(stream["rtp"]["why"], "the stream has ended");
}

fn why(lab: &Lab) -> (String, String) {
    let rtp = &explain(lab)["streams"][0]["rtp"];
    let text = |key: &str| rtp[key].as_str().unwrap().to_owned();
    (text("path"), text("why"))
}

#[test]
fn why_a_stream_is_or_is_not_in_the_kernel() {
    let mut lab = kernel_lab();
    let (caller_side, callee_side) = lab.call();
    assert_eq!(
        why(&lab).1,
        "nothing has come from the caller yet, nothing has come from the callee yet"
    );
    lab.packet(CALLER, caller_side, &stun());
    lab.rtp(CALLEE, callee_side);
    assert_eq!(why(&lab).1, "only STUN has come from the caller");
    lab.rtp(CALLER, caller_side);
    assert_eq!(why(&lab).1, "the kernel is being asked");
    let flow = installs(&mut lab)[0].0;
    lab.flow_installed(flow, Installed::Suspended);
    let suspended = why(&lab);
    assert_eq!(suspended.0, "user space");
    assert!(suspended.1.contains("does not leave") && suspended.1.ends_with("again in 1 s"));
    lab.now += Duration::from_secs(1);
    lab.rtp(CALLER, caller_side);
    let flow = installs(&mut lab)[0].0;
    lab.flow_installed(flow, Installed::Taken);
    lab.now += Duration::from_secs(5);
    assert_eq!(why(&lab), ("kernel".to_owned(), "since 5 s".to_owned()));
    let none = [Counters::default(); 2];
    lab.flow_lost(flow, Loss::Stuck, none);
    assert!(why(&lab).1.contains("entered the kernel and did not leave"));
}

#[test]
fn what_the_kernel_never_takes_is_named() {
    let mut lab = kernel_lab();
    lab.talking();
    let flow = installs(&mut lab)[0].0;
    lab.flow_installed(flow, Installed::Never);
    assert_eq!(why(&lab).1, "a party is on the relay's own host");
}

#[test]
fn what_the_host_does_not_take_is_counted_for_who_sent_it() {
    let mut lab = Lab::new();
    let (caller_side, _) = lab.talking();
    let place = lab.host.bound[&caller_side];
    lab.engine.unsent(place, 172, 113, lab.now);
    lab.pass(2);
    let stream = &explain(&lab)["streams"][0];
    assert_eq!(stream["caller"]["unsent"], 1);
    assert_eq!(
        stream["caller"]["last_unsent"],
        serde_json::json!({"ago": 2.0, "errno": 113})
    );
    assert_eq!(stream["callee"]["unsent"], 0);
    assert_eq!(stream["callee"]["last_unsent"], Value::Null);
}

#[test]
fn m11_the_call_that_packets_go_round_by_is_told() {
    let mut lab = Lab::new();
    let (caller_side, _) = lab.talking();
    let place = lab.host.bound[&caller_side];
    lab.engine.went_round(place, 172);
    assert_eq!(
        explain(&lab)["streams"][0]["caller"]["round_with"],
        Value::Null
    );
    lab.engine.note_round(place, CallId("other".into()));
    let stream = &explain(&lab)["streams"][0];
    assert_eq!(stream["caller"]["round_with"], "other");
    assert_eq!(stream["caller"]["dropped"]["goes round"], 1);
    assert_eq!(stream["callee"]["round_with"], Value::Null);
}

/// E1 to E9: who is believed and why, who is not and why.
#[test]
fn who_is_believed_and_who_is_not_is_told_with_the_reason() {
    let mut lab = Lab::new();
    let former = "198.51.100.9:4001";
    let stranger = "203.0.113.66:6";
    let callee_side = ports(&lab.update("request", 1, ("A", ""), &audio(CALLER)))[0];
    lab.update("reply", 1, ("A", ""), &audio(former));
    lab.rtp(former, callee_side);
    lab.update("reply", 1, ("A", "B"), &audio("198.51.100.7:7000"));
    lab.rtp(former, callee_side);
    lab.rtp(stranger, callee_side);
    let claims = |lab: &Lab| {
        let claims = explain(lab)["streams"][0]["rtp"]["callee_candidates"].clone();
        let claims = claims.as_array().unwrap().iter();
        let text = |claim: &Value| {
            let [address, rank, why] =
                ["address", "rank", "why"].map(|key| claim[key].as_str().unwrap().to_owned());
            format!("{address} {rank} x{}: {why}", claim["packets"])
        };
        claims.map(text).collect::<Vec<_>>()
    };
    let of_former = format!("{former} other x1: the callee was there before its SDP changed");
    assert_eq!(
        claims(&lab),
        [
            of_former.clone(),
            format!("{stranger} other x1: 1 of the 5 packets in a row that make a stream")
        ]
    );
    lab.rtp("198.51.100.7:7000", callee_side);
    assert_eq!(
        claims(&lab),
        [
            of_former,
            format!("{stranger} other x1: the callee is known at 198.51.100.7:7000")
        ]
    );
    let learned = &explain(&lab)["streams"][0]["rtp"]["callee"];
    assert_eq!(
        (&learned["address"], &learned["by"], &learned["rank"]),
        (
            &"198.51.100.7:7000".into(),
            &"media".into(),
            &"exact".into()
        )
    );
}

#[test]
fn identifiers_that_are_not_utf_8_are_told_byte_by_byte() {
    let mut lab = Lab::new();
    let request = b"update\r\ntype: request\r\ncall_id: call\r\ncseq: 1\r\nfrom_uri: a@x\r\nto_uri: b@x\r\n\
        from_tag: A\xff\r\nto_tag: \r\nuser_agent: \xe9\r\nmedia: audio:8.8.8.8:4000:sendrecv:ice=no\r\n\r\n";
    lab.take(request);
    let call = explain(&lab);
    assert_eq!(call["from_tag"], "A\u{fffd}");
    let exact = serde_json::json!({"call_id": "call", "from_tag": "A\\xff", "to_tag": null});
    assert_eq!(call["exact"], exact);
    // Others have nothing to add.
    let mut lab = Lab::new();
    lab.update("request", 1, ("A", ""), &audio("8.8.8.8:4000"));
    assert!(explain(&lab).get("exact").is_none());
}

#[test]
fn what_waits_for_its_answer_is_listed_apart() {
    let mut lab = Lab::new();
    let callee_side = ports(&lab.update("request", 1, ("A", ""), &audio(CALLER)))[0];
    let ringing = lab.statistics();
    assert_eq!(ringing["streams"], serde_json::json!([]));
    let offered = &ringing["offered"][0];
    assert_eq!(
        (&offered["caller_sdp"], &offered["callee_sdp"]),
        (&CALLER.into(), &"Unknown".into())
    );
    let local = offered["callee_local"].as_str().unwrap();
    assert!(local.ends_with(&format!(":{callee_side}")), "{ringing}");
    lab.update("reply", 1, ("A", "B"), &audio(CALLEE));
    let answered = lab.statistics();
    assert!(answered.get("offered").is_none(), "{answered}");
    assert_eq!(answered["streams"].as_array().unwrap().len(), 1);
    // An offer within the call that is not answered yet.
    lab.update(
        "request",
        2,
        ("A", "B"),
        &format!("{},video:198.18.0.1:4002:sendrecv:ice=no", audio(CALLER)),
    );
    let both = lab.statistics();
    assert_eq!(both["offered"][0]["media_type"], "video", "{both}");
    assert_eq!(both["streams"].as_array().unwrap().len(), 1);
}
