//! C6, C7, M7, M8: silence, hold, ringing, ends.

use super::*;

const A: (&str, &str) = ("A", "");
const AB: (&str, &str) = ("A", "B");

#[test]
fn m7_silence_ends_a_stream_and_the_session() {
    let mut lab = Lab::new();
    let (caller_side, _) = lab.talking();
    lab.pass(60);
    lab.rtp(CALLER, caller_side);
    lab.pass(89);
    assert_eq!(lab.expired(), None);
    lab.pass(1);
    let statistics = lab.expired().unwrap();
    assert_eq!(statistics["streams"][0]["status"], "conntrack timeout");
    assert_eq!(statistics["streams"][0]["timeout_wait"], 90);
    assert_eq!(statistics["duration"], 150);
    assert_eq!(lab.engine.sessions().live_count(), 0);
    assert!(lab.host.bound.is_empty());
    assert_eq!(lab.engine.next_deadline(), None);
}

#[test]
fn m7_no_traffic_before_both_ever_flowed() {
    let mut lab = Lab::new();
    lab.call();
    lab.pass(89);
    assert_eq!(lab.expired(), None);
    lab.pass(1);
    assert_eq!(
        lab.expired().unwrap()["streams"][0]["status"],
        "no-traffic timeout"
    );
}

#[test]
fn m7_one_party_keeps_the_stream_alive() {
    let mut lab = Lab::new();
    let (caller_side, _) = lab.call();
    for _ in 0..100 {
        lab.pass(60);
        lab.rtp(CALLER, caller_side);
    }
    assert_eq!(lab.expired(), None);
    lab.pass(90);
    assert_eq!(
        lab.expired().unwrap()["streams"][0]["status"],
        "no-traffic timeout"
    );
}

#[test]
fn m7_rtcp_of_either_party_is_life_and_stun_is_not() {
    let mut lab = Lab::new();
    let (caller_side, callee_side) = lab.talking();
    for round in 0..4 {
        lab.pass(80);
        match round % 2 {
            0 => lab.packet("198.18.0.1:4001", caller_side + 1, &rtcp()),
            _ => lab.packet(CALLEE, callee_side, &rtcp()),
        };
        assert_eq!(lab.expired(), None, "{round}");
    }
    lab.pass(80);
    lab.packet(CALLER, caller_side, &stun());
    lab.pass(10);
    assert!(lab.expired().is_some());

    let mut lab = Lab::new();
    let (caller_side, _) = lab.talking();
    lab.update("request", 2, AB, &item("audio", CALLER, "sendonly"));
    lab.update("reply", 2, AB, &item("audio", CALLEE, "recvonly"));
    for _ in 0..10 {
        lab.pass(7000);
        lab.packet("198.18.0.1:4001", caller_side + 1, &rtcp());
    }
    assert_eq!(lab.expired(), None);
    lab.pass(7200);
    let statistics = lab.expired().unwrap();
    assert_eq!(statistics["streams"][0]["status"], "on hold timeout");
    assert_eq!(statistics["streams"][0]["timeout_wait"], 7200);
}

#[test]
fn m7_silent_rtcp_is_forgotten_and_learned_anew() {
    let mut lab = Lab::with(Settings {
        kernel: Ok(()),
        ..settings()
    });
    let (caller_side, callee_side) = lab.talking();
    lab.packet("198.18.0.1:4001", caller_side + 1, &rtcp());
    lab.packet("198.18.0.2:5001", callee_side + 1, &rtcp());
    lab.actions.clear();
    for _ in 0..5 {
        lab.pass(20);
        lab.rtp(CALLER, caller_side);
    }
    let withdrawn: Vec<_> = lab
        .actions
        .iter()
        .filter(|a| matches!(a, Action::Withdraw(..)))
        .collect();
    let [Action::Withdraw(flow)] = withdrawn[..] else {
        panic!("{withdrawn:?}")
    };
    assert_eq!(flow.component, Component::Rtcp);
    assert_eq!(lab.expired(), None, "nothing else happens");
    let elsewhere = "198.18.0.1:4777";
    assert_eq!(
        lab.packet(elsewhere, caller_side + 1, &rtcp()),
        PacketVerdict::Drop(DropReason::NotRoutable)
    );
    let back = to(caller_side + 1, elsewhere);
    assert_eq!(
        lab.packet("198.18.0.2:5001", callee_side + 1, &rtcp()),
        back
    );
}

#[test]
fn m7_ice_checks_keep_what_is_learned_of_rtcp() {
    let mut lab = Lab::new();
    let (caller_side, callee_side) = lab.talking();
    let (caller, callee) = ("198.18.0.1:4001", "198.18.0.2:5001");
    lab.packet(caller, caller_side + 1, &stun());
    lab.packet(callee, callee_side + 1, &stun());
    for _ in 0..10 {
        lab.pass(30);
        lab.rtp(CALLER, caller_side);
        let there = to(callee_side + 1, callee);
        assert_eq!(lab.packet(caller, caller_side + 1, &stun()), there);
        let back = to(caller_side + 1, caller);
        assert_eq!(lab.packet(callee, callee_side + 1, &stun()), back);
    }
    for _ in 0..2 {
        lab.pass(45);
        lab.rtp(CALLER, caller_side);
    }
    let lost = lab.packet(caller, caller_side + 1, &rtcp());
    assert_eq!(
        lost,
        PacketVerdict::Drop(DropReason::NotRoutable),
        "silent at last"
    );
}

/// Two lines, both from one host.
fn two(kinds: [&str; 2], address: &str, directions: [&str; 2]) -> String {
    let line = |n: usize| {
        let port = [4000, 4002][n];
        item(kinds[n], &format!("{address}:{port}"), directions[n])
    };
    format!("{},{}", line(0), line(1))
}

#[test]
fn m7_a_stream_that_pauses_lives_as_long_as_its_session() {
    const BOTH: [&str; 2] = ["audio", "video"];
    let mut lab = Lab::new();
    let on = ["sendrecv"; 2];
    let there = ports(&lab.update("request", 1, A, &two(BOTH, "198.18.0.1", on)));
    let here = ports(&lab.update("reply", 1, AB, &two(BOTH, "198.18.0.2", on)));
    for line in [0, 1] {
        lab.rtp(["198.18.0.1:4000", "198.18.0.1:4002"][line], here[line]);
        lab.rtp(["198.18.0.2:4000", "198.18.0.2:4002"][line], there[line]);
    }
    for _ in 0..10 {
        lab.pass(60);
        lab.rtp("198.18.0.1:4000", here[0]);
    }
    assert_eq!(lab.expired(), None);
    let back = to(here[1], "198.18.0.1:4002");
    assert_eq!(
        lab.rtp("198.18.0.2:4002", there[1]),
        back,
        "the camera again"
    );
    lab.pass(90);
    let ended = lab.expired().unwrap();
    for line in [0, 1] {
        assert_eq!(ended["streams"][line]["status"], "conntrack timeout");
        assert_eq!(ended["streams"][line]["timeout_wait"], 90);
    }
    assert!(lab.host.bound.is_empty());
}

#[test]
fn m7_each_stream_is_silent_after_its_own_limit() {
    let mut lab = Lab::new();
    let directions = ["sendonly", "sendrecv"];
    lab.update(
        "request",
        1,
        A,
        &two(["audio", "video"], "198.18.0.1", directions),
    );
    lab.update(
        "reply",
        1,
        AB,
        &two(["audio", "video"], "198.18.0.2", ["recvonly", "sendrecv"]),
    );
    lab.pass(7199);
    assert_eq!(lab.expired(), None, "one is on hold");
    lab.pass(1);
    let ended = lab.expired().unwrap();
    let told = |line: usize| {
        let stream = &ended["streams"][line];
        (
            stream["status"].as_str().unwrap(),
            stream["timeout_wait"].as_u64().unwrap(),
        )
    };
    assert_eq!(told(0), ("on hold timeout", 7200));
    assert_eq!(told(1), ("no-traffic timeout", 90));
}

#[test]
fn c6_hold_by_either_side_and_by_either_word() {
    for (caller, callee) in [
        (
            item("audio", CALLER, "sendonly"),
            item("audio", CALLEE, "recvonly"),
        ),
        (
            item("audio", CALLER, "inactive"),
            item("audio", CALLEE, "inactive"),
        ),
        (audio("0.0.0.0:4000"), audio(CALLEE)),
        (audio(CALLER), item("audio", CALLEE, "sendonly")),
    ] {
        let mut lab = Lab::new();
        lab.talking();
        lab.pass(80);
        lab.update("request", 2, AB, &caller);
        assert_eq!(
            lab.statistics()["streams"][0]["status"],
            "active",
            "until it is answered"
        );
        lab.update("reply", 2, AB, &callee);
        assert_eq!(
            lab.statistics()["streams"][0]["status"],
            "on hold",
            "{caller} {callee}"
        );
        lab.pass(7199);
        assert_eq!(lab.expired(), None);
        // Resumed: silence counts from now.
        lab.update("request", 3, AB, &audio(CALLER));
        lab.update("reply", 3, AB, &audio(CALLEE));
        lab.pass(89);
        assert_eq!(lab.expired(), None);
        lab.pass(1);
        assert_eq!(
            lab.expired().unwrap()["streams"][0]["status"],
            "conntrack timeout"
        );
    }
}

#[test]
fn c7_a_call_may_ring_for_its_setup_time() {
    let mut lab = Lab::new();
    lab.update("request", 1, A, &audio(CALLER));
    lab.pass(200);
    lab.update("reply", 1, A, &audio(CALLEE));
    lab.pass(99);
    assert_eq!(lab.expired(), None, "ringing with a 183 and no media");
    lab.pass(1);
    let statistics = lab.expired().unwrap();
    assert_eq!(statistics["to_tag"], Value::Null);
    assert_eq!(statistics["streams"][0]["timeout_wait"], 300);
}

#[test]
fn c7_silence_counts_from_the_answer_or_the_first_media() {
    let mut lab = Lab::with(open());
    lab.update("request", 1, A, &audio(CALLER));
    lab.pass(250);
    lab.update("reply", 1, AB, &audio(CALLEE));
    lab.pass(89);
    assert_eq!(lab.expired(), None);
    lab.pass(1);
    assert!(lab.expired().is_some());

    // Announcements, and then it rings on: its time to be answered is the same. After that what it hears counts.
    let mut lab = Lab::with(open());
    let callee_side = ports(&lab.update("request", 1, A, &audio(CALLER)))[0];
    lab.pass(100);
    lab.rtp(CALLEE, callee_side);
    lab.pass(199);
    assert_eq!(lab.expired(), None);
    lab.rtp(CALLEE, callee_side);
    lab.pass(89);
    assert_eq!(lab.expired(), None);
    lab.pass(1);
    assert_eq!(
        lab.expired().unwrap()["streams"],
        serde_json::json!([]),
        "never answered: none listed"
    );
}

/// Preconditions (RFC 3312): the call rings after an early UPDATE, whose 200 has a to_tag, and nobody sends media.
#[test]
fn c7_a_call_rings_on_after_an_early_update() {
    let mut lab = Lab::new();
    lab.update("request", 1, A, &item("audio", CALLER, "inactive"));
    lab.update("reply", 1, A, &item("audio", CALLEE, "inactive"));
    lab.update("request", 3, AB, &audio(CALLER));
    lab.update("reply", 3, AB, &audio(CALLEE));
    lab.pass(299);
    assert_eq!(lab.expired(), None);
    assert_eq!(
        lab.statistics()["to_tag"],
        Value::Null,
        "nobody has picked up"
    );
    let mut cancelled = Lab::new();
    std::mem::swap(&mut lab, &mut cancelled);
    cancelled.remove("A", "");
    assert_eq!(cancelled.removed().unwrap()["to_tag"], Value::Null);
    lab.update("request", 1, A, &audio(CALLER));
    lab.update("reply", 1, A, &audio(CALLEE));
    lab.update("request", 3, AB, &audio(CALLER));
    lab.update("reply", 3, AB, &audio(CALLEE));
    lab.pass(250);
    lab.update("reply", 1, AB, "");
    assert_eq!(lab.statistics()["to_tag"], "B");
    lab.pass(89);
    assert_eq!(lab.expired(), None);
    lab.pass(1);
    assert!(lab.expired().is_some());
}

#[test]
fn m7_what_the_kernel_has_is_silent_only_when_a_reading_says_so() {
    let mut lab = Lab::with(Settings {
        kernel: Ok(()),
        ..settings()
    });
    lab.talking();
    let flow = lab.actions.iter().find_map(|action| match action {
        Action::Install { flow, .. } => Some(*flow),
        _ => None,
    });
    let flow = flow.unwrap();
    lab.flow_installed(flow, Installed::Taken);
    let more = [Counters {
        packets: 1,
        bytes: 200,
    }; 2];
    lab.pass(50);
    lab.flow_traffic(flow, more);
    lab.flows_heard(lab.now);
    lab.pass(200);
    assert_eq!(lab.expired(), None, "nobody has looked for long");
    lab.flow_traffic(flow, more);
    lab.flows_heard(lab.now);
    lab.pass(89);
    assert_eq!(lab.expired(), None);
    lab.flows_heard(lab.now + Duration::from_secs(1));
    lab.pass(2);
    lab.flow_withdrawn(flow, [Counters::default(); 2]);
    lab.drain_actions();
    let expired = lab.expired().unwrap();
    assert_eq!(expired["streams"][0]["status"], "conntrack timeout");
}

#[test]
fn m8_both_with_ice_and_silent_is_an_unselected_candidate() {
    let mut lab = Lab::new();
    let ice = |address: &str| format!("audio:{address}:sendrecv:ice=yes");
    let callee_side = ports(&lab.update("request", 1, A, &ice(CALLER)))[0];
    let caller_side = ports(&lab.update("reply", 1, AB, &ice(CALLEE)))[0];
    lab.rtp(CALLER, caller_side);
    lab.rtp(CALLEE, callee_side);
    lab.pass(90);
    assert_eq!(
        lab.expired().unwrap()["streams"][0]["status"],
        "unselected ICE candidate"
    );
}

#[test]
fn a_session_without_streams_waits_and_then_ends() {
    let mut lab = Lab::new();
    lab.talking();
    lab.update("request", 2, AB, &audio("198.18.0.1:0"));
    lab.update("reply", 2, AB, &audio("198.18.0.2:0"));
    lab.pass(7199);
    assert_eq!(lab.expired(), None);
    lab.pass(1);
    assert!(lab.expired().is_some());
}

#[test]
fn an_unanswered_reinvite_does_not_hold_its_ports_for_ever() {
    let mut lab = Lab::new();
    let (caller_side, _) = lab.talking();
    lab.update("request", 2, AB, &audio("198.18.0.1:4444"));
    assert_eq!(lab.host.bound.len(), 8);
    for _ in 0..6 {
        lab.pass(50);
        lab.rtp(CALLER, caller_side);
    }
    assert_eq!(lab.host.bound.len(), 4);
    assert_eq!(lab.expired(), None);
}

#[test]
fn an_ending_relay_reports_every_session() {
    let mut lab = Lab::new();
    lab.talking();
    let now = lab.moment();
    lab.engine.end_all(now);
    lab.drain_actions();
    assert_eq!(lab.expired().unwrap()["streams"][0]["status"], "closed");
    assert_eq!(lab.engine.sessions().live_count(), 0);
}

#[test]
fn thousands_of_packets_set_no_timers() {
    let mut lab = Lab::new();
    let (caller_side, callee_side) = lab.talking();
    for _ in 0..1000 {
        lab.now += Duration::from_millis(20);
        lab.rtp(CALLER, caller_side);
        lab.rtp(CALLEE, callee_side);
    }
    let mut fired = 0;
    let end = lab.now + Duration::from_secs(60);
    while lab.engine.next_deadline().is_some_and(|due| due < end) {
        lab.now = lab.engine.next_deadline().unwrap();
        lab.engine.tick(lab.moment());
        fired += 1;
    }
    assert!(fired <= 2, "{fired}");
}

#[test]
fn a_long_list_is_written_in_pieces() {
    let mut lab = Lab::new();
    for tag in 0..10 {
        lab.update("request", 1, (&format!("t{tag}"), ""), &audio(CALLER));
    }
    lab.remove("t3", "");
    let mut out = b"[".to_vec();
    let (mut cursor, mut pieces) = (0, 0);
    while let Some(next) =
        lab.engine
            .write_sessions(&mut out, |_| true, cursor, (4, usize::MAX), lab.moment())
    {
        cursor = next;
        pieces += 1;
    }
    *out.last_mut().unwrap() = b']';
    let list: Vec<Value> = serde_json::from_slice(&out).unwrap();
    assert_eq!((list.len(), pieces), (9, 2));
}

#[test]
fn a_piece_of_a_list_is_bounded_in_bytes() {
    let mut lab = Lab::new();
    for tag in 0..10 {
        lab.update("request", 1, (&format!("t{tag}"), ""), &audio(CALLER));
    }
    let (mut cursor, mut pieces) = (0, 0);
    loop {
        let mut piece = Vec::new();
        let next = lab
            .engine
            .write_sessions(&mut piece, |_| true, cursor, (100, 1), lab.moment());
        assert!(piece.len() < 2000, "one session, however many there are");
        pieces += 1;
        match next {
            Some(next) => cursor = next,
            None => break,
        }
    }
    assert_eq!(pieces, 10);
}

#[test]
fn c6_an_unspecified_address_with_ice_is_no_hold() {
    let mut lab = Lab::new();
    lab.update("request", 1, A, "audio:0.0.0.0:9:sendrecv:ice=yes");
    lab.update("reply", 1, AB, "audio:0.0.0.0:9:sendrecv:ice=yes");
    assert_eq!(lab.statistics()["streams"][0]["status"], "active");
}
