//! A table of facts and what they come to.

use serde_json::{Value, json};

use super::*;

/// A call in which both are heard.
fn good() -> Value {
    let party = |told: &str| json!({"sdp_usable": true, "direction": "sendrecv", "last_media": 0.1, "told": told, "longest": 200});
    json!({"relay_link": "connected", "answered": true,
        "host": {"input": [], "routes": [{"to": "198.51.99.1", "mtu": 1500, "next_hop": "192.0.2.254"}], "kernel": null},
        "streams": [{"media_type": "audio", "status": "active", "since_answer": 75.0, "caller_packets": 500,
        "callee_packets": 480, "caller_sdp": "198.51.99.1:4000", "callee_sdp": "8.8.8.8:5000",
        "caller_local": "192.0.2.9:40000", "callee_local": "192.0.2.9:40002", "caller_remote": "198.51.99.1:4000",
        "callee_remote": "8.8.8.8:5000", "caller": party("203.0.114.9:40000"), "callee": party("203.0.114.9:40002"),
        "rtp": {"caller": {"address": "198.51.99.1:4000", "by": "media"},
        "callee": {"address": "8.8.8.8:5000", "by": "media"}, "path": "user space", "why": ""}}]})
}

/// A change to the good call: a path of keys and what is there then.
type Change<'a> = (&'a str, Value);

fn said(changes: &[Change<'_>]) -> Vec<String> {
    let mut call = good();
    for (path, value) in changes {
        *call.pointer_mut(path).unwrap_or_else(|| panic!("{path}")) = value.clone();
    }
    verdict(&serde_json::from_value(call).unwrap())
}

/// The callee has sent nothing yet.
fn mute_callee() -> Vec<Change<'static>> {
    vec![
        ("/streams/0/callee_packets", json!(0)),
        ("/streams/0/callee_remote", json!("Unknown")),
        ("/streams/0/rtp/callee", Value::Null),
        ("/streams/0/callee/last_media", Value::Null),
    ]
}

fn with<'a>(mut changes: Vec<Change<'a>>, more: &[Change<'a>]) -> Vec<String> {
    changes.extend_from_slice(more);
    said(&changes)
}

#[test]
fn both_are_heard() {
    assert_eq!(
        said(&[]),
        [
            "audio: the callee hears the caller: 500 packets so far, the last 0.1 s ago",
            "audio: the caller hears the callee: 480 packets so far, the last 0.1 s ago",
        ]
    );
}

/// Each: what is changed, which direction is looked at, how its sentence begins and what else is in it.
#[test]
fn each_cause_has_its_sentence() {
    let caller = |key: &str| format!("/streams/0/caller/{key}");
    let private = with(
        mute_callee(),
        &[
            ("/streams/0/callee_sdp", json!("10.0.0.9:5000")),
            ("/streams/0/callee/sdp_usable", json!(false)),
            ("/streams/0/caller", {
                let mut leg = good()["streams"][0]["caller"].clone();
                leg["dropped"] = json!({"receiver not routable": 396});
                leg
            }),
            ("/streams/0/caller_packets", json!(0)),
        ],
    );
    assert!(
        private[0].starts_with(
            "audio: the callee hears nothing: nothing has come from the callee since the answer 75 s ago, and its SDP \
             address 10.0.0.9:5000 is private or reserved, so it is not sent to before it is heard: 396 packets of the \
             caller were dropped (receiver not routable); if the relay reaches that network, add it to \
             routable_private_ranges"
        ),
        "{private:#?}"
    );
    assert!(
        private[1].starts_with(
            "audio: the caller hears nothing: nothing has come from the callee since the answer 75 s ago; its SDP address \
             10.0.0.9:5000 is private or reserved, so the relay waits for it to send first, and if it waits for the \
             caller in turn, neither is heard"
        ),
        "{private:#?}"
    );
    let last_media = caller("last_media");
    let silent = said(&[(&last_media, json!(12.4))]);
    assert!(
        silent[0].starts_with(
            "audio: the callee hears nothing any more: nothing has come from the caller for 12 s, 500 packets before: it \
             was muted"
        ) && silent[0].contains("tcpdump -ni any udp port 40000 shows"),
        "{silent:#?}"
    );
    let dead_hop = said(&[(
        "/host/routes",
        json!([{"to": "8.8.8.8", "mtu": 1500, "next_hop": "192.0.2.254", "next_hop_silent": true}]),
    )]);
    assert!(
        dead_hop[0].contains(
            "nothing any more: the next hop to 8.8.8.8, 192.0.2.254, does not answer ARP"
        ) && dead_hop[1].contains("the caller hears the callee"),
        "{dead_hop:#?}"
    );
    let no_route = said(&[(
        "/host/routes",
        json!([{"to": "8.8.8.8", "error": "Network is unreachable (os error 101)"}]),
    )]);
    assert!(
        no_route[0].contains("the relay has no route to 8.8.8.8: Network is unreachable"),
        "{no_route:#?}"
    );
    let narrow = said(&[
        ("/host/routes", json!([{"to": "8.8.8.8", "mtu": 1280}])),
        ("/streams/0/caller/longest", json!(1400)),
    ]);
    assert!(
        narrow[0].contains("up to 1400 bytes are longer than the MTU of 1280 towards 8.8.8.8:5000"),
        "{narrow:#?}"
    );
}

/// Adds keys to the caller's leg.
fn caller_has(more: Value) -> Vec<String> {
    let mut leg = good()["streams"][0]["caller"].clone();
    for (key, value) in more.as_object().unwrap() {
        leg[key] = value.clone();
    }
    said(&[("/streams/0/caller", leg)])
}

#[test]
fn what_the_relay_cannot_send_and_whom_it_refuses() {
    for (errno, part) in [
        (113, "next hop does not answer (ip route get 8.8.8.8"),
        (101, "there is no route"),
        (1, "a rule of hook output refuses it"),
        (90, "longer than the link takes"),
        (5, "error number 5"),
    ] {
        let unsent = caller_has(json!({"unsent": 40, "last_unsent": {"ago": 0.1, "errno": errno}}));
        assert!(
            unsent[0].contains("the relay's host has not taken 40 packets for 8.8.8.8:5000: ")
                && unsent[0].contains(part),
            "{unsent:#?}"
        );
    }
    let now_and_then = json!({"unsent": 1, "last_unsent": {"ago": 3.0, "errno": 105}});
    let now_and_then = caller_has(now_and_then);
    assert!(
        now_and_then[0].contains("the callee hears the caller")
            && now_and_then[0].contains(
                "; the relay's host has not taken 1 packet for 8.8.8.8:5000: the interface's"
            ),
        "{now_and_then:#?}"
    );
    let long_ago = caller_has(json!({"unsent": 40, "last_unsent": {"ago": 60.0, "errno": 113}}));
    assert!(
        long_ago[0].contains("the callee hears the caller"),
        "{long_ago:#?}"
    );
    let moved = caller_has(json!({"last_media": 30.0, "dropped": {"wrong source": 7},
        "stranger": {"address": "198.51.99.1:777", "ago": 0.02}}));
    assert!(
        moved[0].starts_with(
            "audio: the callee hears nothing any more: the caller was first heard at 198.51.99.1:4000, and packets now \
             come from 198.51.99.1:777: 7 packets dropped (wrong source)"
        ) && moved[0].contains("; or nothing has come from the caller for 30 s"),
        "the likelier first: {moved:#?}"
    );
    let both = caller_has(
        json!({"dropped": {"wrong source": 1}, "stranger": {"address": "9.9.9.9:9", "ago": 1.0}}),
    );
    assert!(
        both[0]
            .ends_with("; others send to its port from 9.9.9.9:9: 1 packet dropped (wrong source)"),
        "{both:#?}"
    );
}

#[test]
fn why_nothing_comes_at_all() {
    let wall = json!([{"refusal": "chain INPUT of table filter refuses udp ports 40000 to 40999 by its policy", "opening": "iptables -I INPUT .. -j ACCEPT"}]);
    let nobody = [
        ("/streams/0/caller_packets", json!(0)),
        ("/streams/0/caller_remote", json!("Unknown")),
        ("/streams/0/rtp/caller", Value::Null),
        ("/streams/0/caller/last_media", Value::Null),
    ];
    let walled = with(
        mute_callee(),
        &[nobody.as_slice(), &[("/host/input", wall.clone())]].concat(),
    );
    for sentence in &walled {
        assert!(
            sentence.contains("75 s ago; on the relay's host, chain INPUT of table filter refuses udp ports 40000 to 40999 by its policy: ")
                && sentence.contains("iptables -I INPUT .. -j ACCEPT"),
            "{walled:#?}"
        );
    }
    // Where the caller's packets come in, it is likelier that the callee sends none.
    let open = with(mute_callee(), &[("/host/input", wall)]);
    assert!(
        open[1].starts_with(
            "audio: the caller hears nothing: nothing has come from the callee since the answer 75 s ago; it was told to \
             send to 203.0.114.9:40002"
        ) && open[1].contains("; or on the relay's host, chain INPUT"),
        "{open:#?}"
    );
    assert!(
        open[0].ends_with(
            "sent to 8.8.8.8:5000, which the SDP names and from where nothing has come yet"
        ),
        "{open:#?}"
    );
    let told_private = with(
        mute_callee(),
        &[("/streams/0/callee/told", json!("10.0.0.1:40002"))],
    );
    assert!(
        told_private[1].contains("set advertised_ip"),
        "{told_private:#?}"
    );
    let young = with(mute_callee(), &[("/streams/0/since_answer", json!(0.5))]);
    assert!(
        young[1].contains("the call was answered just now"),
        "{young:#?}"
    );
    let stun = with(
        mute_callee(),
        &[
            (
                "/streams/0/rtp/callee",
                json!({"address": "8.8.8.8:5000", "by": "stun"}),
            ),
            ("/streams/0/callee_remote", json!("8.8.8.8:5000")),
        ],
    );
    assert!(
        stun[1].contains("only STUN has come from the callee"),
        "{stun:#?}"
    );
}

#[test]
fn what_the_parties_themselves_do_not_want() {
    let silent = ("/streams/0/caller/last_media", json!(30.0));
    let direction = |who: &str, word: &str| {
        let path = format!("/streams/0/{who}/direction");
        said(&[(&path, json!(word)), silent.clone()])[0].clone()
    };
    assert!(
        direction("callee", "sendonly").contains("the callee has put the call on hold (sendonly)")
    );
    assert!(direction("callee", "hold (0.0.0.0)").contains("on hold (0.0.0.0 in its SDP)"));
    assert!(direction("caller", "recvonly").contains("the caller's SDP says recvonly"));
    assert!(direction("caller", "inactive").contains("the call is on hold (inactive)"));
    let status = |word: &str| said(&[("/streams/0/status", json!(word))]);
    assert!(status("rejected")[0].starts_with("audio: it was rejected with port 0"));
    assert_eq!(status("rejected").len(), 1);
    assert!(status("conntrack timeout")[0].contains("neither side sent RTP"));
    assert!(status("unselected ICE candidate")[0].contains("went direct by ICE"));
    for sdp in ["/streams/0/callee_sdp", "/streams/0/caller_sdp"] {
        let rings = said(&[
            (sdp, json!("Unknown")),
            ("/streams/0/caller_packets", json!(0)),
            ("/streams/0/callee_packets", json!(0)),
        ]);
        assert_eq!(
            rings,
            ["audio: it waits for an answer with SDP, no media is expected yet"]
        );
    }
    let own = said(&[
        ("/streams/0/callee_remote", json!("Unknown")),
        ("/streams/0/callee_sdp", json!("192.0.2.9:40000")),
        ("/streams/0/callee/sdp_usable", json!(false)),
        (
            "/streams/0/caller",
            json!({"last_media": 0.1, "dropped": {"receiver is this relay": 9}}),
        ),
    ]);
    assert!(
        own[0].contains("names this relay's own port 192.0.2.9:40000, 9 packets of the caller were dropped (receiver is this relay)"),
        "{own:#?}"
    );
}

#[test]
fn m11_what_goes_round_is_named_with_the_other_call() {
    let leg = |last_media: serde_json::Value, with: serde_json::Value| json!({"last_media": last_media, "dropped": {"goes round": 9}, "round_with": with});
    for last_media in [json!(0.1), json!(null)] {
        let round = said(&[("/streams/0/caller", leg(last_media, json!("other@x")))]);
        assert!(
            round[0].contains("comes back by call other@x: it goes round, 9 packets of the caller were dropped (goes round)"),
            "{round:#?}"
        );
    }
    let round = said(&[("/streams/0/caller", leg(json!(0.1), json!(null)))]);
    assert!(
        round[0].contains("comes back by a way that the relay does not see"),
        "{round:#?}"
    );
}

#[test]
fn the_relay_and_its_kernel_are_told_of() {
    let silent = said(&[("/relay_link", json!("does not answer"))]);
    assert!(silent[0].starts_with("the relay does not answer at the moment"));
    let kernel = said(&[(
        "/host/kernel",
        json!("packets of a to b do not leave to c: rp_filter"),
    )]);
    assert!(
        kernel[2]
            .ends_with("since the kernel does not: packets of a to b do not leave to c: rp_filter")
    );
}

#[test]
fn of_an_older_relay_there_is_a_sensible_one_too() {
    let call = json!({"streams": [{"media_type": "video", "status": "active", "caller_packets": 12,
        "caller_remote": "8.8.8.8:1", "callee_remote": "Unknown", "callee_local": "192.0.2.9:40002"}]});
    let said = verdict(&serde_json::from_value(call).unwrap());
    assert_eq!(
        said[0],
        "video: 12 packets of the caller went to the callee so far; an older relay does not tell when"
    );
    assert!(
        said[1].starts_with(
            "video: the caller sees nothing: nothing has come from the callee; it was told to send to 192.0.2.9:40002: on \
             the relay, tcpdump -ni any udp port 40002"
        ),
        "{said:#?}"
    );
    let none = verdict(&serde_json::from_value(json!({})).unwrap());
    assert_eq!(
        none,
        ["no stream has been answered: no media is expected yet"]
    );
}
