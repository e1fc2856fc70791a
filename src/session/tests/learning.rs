//! E1 to E9: who is believed to be a party.

use super::media::installs;
use super::*;

const A: (&str, &str) = ("A", "");
const AB: (&str, &str) = ("A", "B");
const NAT: &str = "192.0.0.77:999";
const STRANGER: &str = "203.0.113.66:6";

/// Where the parties' addresses can be reached.
fn with(rules: LearningRules) -> Lab {
    Lab::with(Settings {
        routable_private_ranges: vec!["198.18.0.0/15".parse().unwrap()],
        learning: rules,
        ..settings()
    })
}

fn reachable() -> Lab {
    with(LearningRules::default())
}

/// A packet of one stream.
fn packet(ssrc: u32, sequence: u16) -> Vec<u8> {
    let mut data = rtp(8);
    data[2..4].copy_from_slice(&sequence.to_be_bytes());
    data[8..12].copy_from_slice(&ssrc.to_be_bytes());
    data
}

/// A stream of so many packets, 20 ms apart, from sequence number `first` on; how many went on.
fn stream(lab: &mut Lab, from: &str, port: u16, ssrc: u32, first: u16, count: u16) -> usize {
    (0..count)
        .filter(|n| {
            lab.now += Duration::from_millis(20);
            let data = packet(ssrc, first.wrapping_add(*n));
            matches!(lab.packet(from, port, &data), PacketVerdict::Forward { .. })
        })
        .count()
}

/// A call whose RTP the kernel forwards, and the ports for its caller and its callee to send to.
fn forwarded() -> (Lab, FlowId, u16, u16) {
    let mut lab = super::media::kernel_lab();
    let (caller_side, callee_side) = lab.call();
    stream(&mut lab, CALLER, caller_side, 7, 0, 1);
    stream(&mut lab, CALLEE, callee_side, 8, 0, 1);
    let flow = installs(&mut lab)[0].0;
    lab.flow_installed(flow, Installed::Taken);
    (lab, flow, caller_side, callee_side)
}

#[test]
fn e3_a_spray_over_the_range_is_never_believed_and_the_party_is_at_once() {
    for every in [250, 1200] {
        let mut lab = reachable();
        let (caller_side, callee_side) = lab.call();
        for n in 0..100 {
            lab.now += Duration::from_millis(every);
            for port in [caller_side, callee_side, caller_side + 1] {
                let refused = lab.packet(STRANGER, port, &packet(7, n));
                assert_eq!(refused, PacketVerdict::Drop(DropReason::Unproven));
            }
        }
        assert_eq!(lab.rtp(CALLER, caller_side), to(callee_side, CALLEE));
        assert_eq!(lab.rtp(CALLEE, callee_side), to(caller_side, CALLER));
    }
}

#[test]
fn e3_who_nothing_speaks_for_is_believed_as_a_stream_unless_strict() {
    for (learning, found) in [
        (Learning::Guarded, 35),
        (Learning::Strict, 0),
        (Learning::Open, 50),
    ] {
        let mut lab = with(LearningRules {
            learning,
            ..LearningRules::default()
        });
        let (caller_side, callee_side) = lab.call();
        lab.rtp(CALLEE, callee_side);
        assert_eq!(stream(&mut lab, NAT, caller_side, 7, 65_530, 50), found);
    }
}

#[test]
fn e2_an_attacker_with_a_proper_stream_gives_way_to_the_party_at_once() {
    for party in [CALLER, "198.18.0.1:7777", "198.51.100.9:5"] {
        let mut lab = reachable();
        let signaling = format!("signaling_ip: 198.51.100.9\r\nmedia: {}\r\n", audio(CALLER));
        let callee_side = ports(&lab.update_with("request", 1, A, &signaling))[0];
        let caller_side = ports(&lab.update("reply", 1, AB, &audio(CALLEE)))[0];
        assert_eq!(stream(&mut lab, STRANGER, caller_side, 7, 0, 10), 0);
        assert_eq!(lab.rtp(CALLEE, callee_side), to(caller_side, CALLER));
        assert_eq!(stream(&mut lab, party, caller_side, 8, 0, 1), 1, "{party}");
        assert_eq!(lab.rtp(CALLEE, callee_side), to(caller_side, party));
        assert_eq!(stream(&mut lab, STRANGER, caller_side, 7, 10, 100), 0);
        // The attacker that was believed before the party came.
        let mut lab = reachable();
        let callee_side = ports(&lab.update_with("request", 1, A, &signaling))[0];
        let caller_side = ports(&lab.update("reply", 1, AB, &audio(CALLEE)))[0];
        assert_eq!(stream(&mut lab, STRANGER, caller_side, 7, 0, 16), 1);
        assert_eq!(stream(&mut lab, party, caller_side, 8, 0, 1), 1, "{party}");
        assert_eq!(lab.rtp(CALLEE, callee_side), to(caller_side, party));
        assert_eq!(stream(&mut lab, STRANGER, caller_side, 7, 16, 100), 0);
    }
}

#[test]
fn e4_better_evidence_waits_for_a_pause_and_the_worse_never_comes_back() {
    let mut lab = reachable();
    let (caller_side, callee_side) = lab.call();
    let near = "198.18.0.1:7777";
    stream(&mut lab, near, caller_side, 7, 0, 5);
    let waits = lab.packet(CALLER, caller_side, &packet(8, 0));
    assert_eq!(waits, PacketVerdict::Drop(DropReason::Waiting));
    lab.now += Duration::from_millis(100);
    assert_eq!(lab.rtp(CALLER, caller_side), to(callee_side, CALLEE));
    lab.now += Duration::from_secs(60);
    let back = lab.packet(near, caller_side, &packet(9, 0));
    assert_eq!(back, PacketVerdict::Drop(DropReason::OtherPort));
}

#[test]
fn e6_noise_teaches_nothing_and_udptl_is_known_by_its_numbers() {
    let mut lab = reachable();
    let (caller_side, _) = lab.call();
    for _ in 0..100 {
        lab.now += Duration::from_millis(20);
        lab.packet(NAT, caller_side, &[0]);
    }
    assert_eq!(stream(&mut lab, STRANGER, caller_side, 7, 0, 20), 5);
    let mut lab = reachable();
    lab.update("request", 1, A, &item("image", CALLER, "sendrecv"));
    let caller_side = ports(&lab.update("reply", 1, AB, &item("image", CALLEE, "sendrecv")))[0];
    let passed = (0..20_u8).filter(|n| {
        lab.now += Duration::from_millis(30);
        let verdict = lab.packet(NAT, caller_side, &[0, *n, 1, 2, 3]);
        matches!(verdict, PacketVerdict::Forward { .. })
    });
    assert_eq!(passed.count(), 10);
}

#[test]
fn e7_rtcp_follows_rtp() {
    let mut lab = reachable();
    let (caller_side, _) = lab.call();
    let unknown = lab.packet("192.0.0.77:1000", caller_side + 1, &rtcp());
    assert_eq!(unknown, PacketVerdict::Drop(DropReason::Unproven));
    stream(&mut lab, NAT, caller_side, 7, 0, 20);
    let known = lab.packet("192.0.0.77:1000", caller_side + 1, &rtcp());
    assert!(matches!(known, PacketVerdict::Forward { .. }), "{known:?}");
    let stranger = lab.packet(STRANGER, caller_side + 1, &rtcp());
    assert_eq!(stranger, PacketVerdict::Drop(DropReason::WrongSource));
}

#[test]
fn e8_a_nat_that_gives_another_port_is_followed() {
    let mut lab = reachable();
    let (caller_side, callee_side) = lab.call();
    stream(&mut lab, CALLER, caller_side, 7, 0, 100);
    assert_eq!(stream(&mut lab, STRANGER, caller_side, 9, 100, 200), 0);
    let found = stream(&mut lab, NAT, caller_side, 7, 400, 200);
    assert_eq!(found, 200, "the old address was silent for 4 s");
    assert_eq!(lab.rtp(CALLEE, callee_side), to(caller_side, NAT));
    let found = stream(&mut lab, "192.0.0.77:1001", caller_side, 7, 600, 200);
    assert_eq!(found, 101, "after 2 s of silence");
    let mut lab = with(LearningRules {
        relearn: None,
        ..LearningRules::default()
    });
    let (caller_side, _) = lab.call();
    stream(&mut lab, CALLER, caller_side, 7, 0, 100);
    assert_eq!(stream(&mut lab, NAT, caller_side, 7, 100, 500), 0);
}

#[test]
fn e8_a_flow_in_the_kernel_is_taken_back_to_follow_a_party() {
    let (mut lab, flow, caller_side, callee_side) = forwarded();
    let more = Counters {
        packets: 70_000,
        bytes: 14_000_000,
    };
    lab.flow_traffic(flow, [more; 2]);
    lab.packet(NAT, caller_side, &packet(7, 40_000));
    lab.packet(STRANGER, caller_side, &packet(9, 70_010_u32 as u16));
    let withdrawal = Action::Withdraw(flow);
    assert!(!lab.actions.contains(&withdrawal), "nobody's stream");
    lab.packet(NAT, caller_side, &packet(7, 70_010_u32 as u16));
    assert!(lab.actions.contains(&withdrawal));
    lab.flow_withdrawn(flow, [Counters::default(), more]);
    lab.drain_actions();
    let found = stream(&mut lab, NAT, caller_side, 7, 70_011_u32 as u16, 150);
    assert_eq!(found, 51, "2 s later");
    stream(&mut lab, CALLEE, callee_side, 8, 9, 1);
    assert_eq!(installs(&mut lab).len(), 1, "and back");
}

/// t03: A rings with media, B is silent, then answers.
#[test]
fn e9_an_old_branch_is_not_believed_again_however_long_it_rang() {
    let mut lab = reachable();
    let callee_side = ports(&lab.update("request", 1, A, &audio(CALLER)))[0];
    lab.update("reply", 1, A, &audio(CALLEE));
    stream(&mut lab, CALLEE, callee_side, 7, 0, 10);
    lab.update("reply", 1, A, &audio("198.18.0.3:5000"));
    assert_eq!(stream(&mut lab, CALLEE, callee_side, 7, 10, 400), 0);
    lab.update("reply", 1, AB, &audio("198.18.0.3:5000"));
    let found = stream(&mut lab, "198.18.0.3:5000", callee_side, 8, 0, 10);
    assert_eq!(found, 10);
}

/// t08: one phone, two addresses in its SDP.
#[test]
fn e9_an_answer_with_another_address_does_not_mute_who_sends_from_there() {
    let mut lab = reachable();
    let callee_side = ports(&lab.update("request", 1, A, &audio(CALLER)))[0];
    let private = format!(
        "signaling_ip: 198.18.0.2\r\nmedia: {}\r\n",
        audio("192.168.1.20:5000")
    );
    lab.update_with("reply", 1, A, &private);
    assert_eq!(stream(&mut lab, CALLEE, callee_side, 7, 0, 10), 10);
    lab.update("reply", 1, AB, &audio(CALLEE));
    assert_eq!(stream(&mut lab, CALLEE, callee_side, 7, 10, 10), 10);
}

/// A check with an answer, through the relay, whose parties are where nothing says.
#[test]
fn e5_an_answered_check_proves_its_source_and_a_stranger_gets_no_media() {
    let mut lab = reachable();
    let ice = |address: &str| format!("audio:{address}:sendrecv:ice=yes");
    let callee_side = ports(&lab.update("request", 1, A, &ice(CALLER)))[0];
    let caller_side = ports(&lab.update("reply", 1, AB, &ice(CALLEE)))[0];
    let check = |kind: [u8; 2], id: u8| {
        let mut data = stun();
        data[..2].copy_from_slice(&kind);
        data[8..].fill(id);
        data
    };
    let ask = |lab: &mut Lab, from: &str, id| lab.packet(from, caller_side, &check([0, 1], id));
    assert_eq!(ask(&mut lab, STRANGER, 1), to(callee_side, CALLEE));
    assert_eq!(ask(&mut lab, NAT, 2), to(callee_side, CALLEE));
    let refusal = lab.packet(CALLEE, callee_side, &check([1, 0x11], 1));
    assert_eq!(refusal, to(caller_side, STRANGER), "to who asked");
    assert_eq!(lab.rtp(CALLEE, callee_side), to(caller_side, CALLER));
    assert!(!lab.stranger_is_told());
    let forged = lab.packet(STRANGER, callee_side, &check([1, 1], 1));
    assert_eq!(
        forged,
        PacketVerdict::Drop(DropReason::Unproven),
        "two strangers"
    );
    assert!(lab.stranger_is_told());
    let success = lab.packet(CALLEE, callee_side, &check([1, 1], 2));
    assert_eq!(success, to(caller_side, NAT));
    assert_eq!(lab.rtp(CALLEE, callee_side), to(caller_side, NAT));
    assert_eq!(lab.rtp(NAT, caller_side), to(callee_side, CALLEE));
}

/// Both parties come from where neither SDP nor signaling says, as with ICE behind two NATs that the SDP does not know.
#[test]
fn e5_two_parties_that_nothing_speaks_for_find_each_other_by_their_checks() {
    let other_nat = "192.0.0.88:888";
    for learning in [Learning::Guarded, Learning::Strict] {
        let mut lab = with(LearningRules {
            learning,
            ..LearningRules::default()
        });
        let ice = |address: &str| format!("audio:{address}:sendrecv:ice=yes");
        let callee_side = ports(&lab.update("request", 1, A, &ice("192.168.1.1:4000")))[0];
        let caller_side = ports(&lab.update("reply", 1, AB, &ice("192.168.1.2:5000")))[0];
        lab.now += Duration::from_secs(1);
        let check = |kind: u8, id: u8| {
            let mut data = stun();
            data[..2].copy_from_slice(&[kind, 1]);
            data[8..].fill(id);
            data
        };
        // A check of each every 200 ms; the fifth of one is over `learning_wait` after its first.
        for id in 0..5 {
            lab.now += Duration::from_millis(200);
            lab.packet(NAT, caller_side, &check(0, id));
            lab.packet(other_nat, callee_side, &check(0, 100 + id));
        }
        let reached = lab.packet(NAT, caller_side, &check(0, 50));
        if learning == Learning::Strict {
            assert!(
                !matches!(reached, PacketVerdict::Forward { .. }),
                "strict: {reached:?}"
            );
            continue;
        }
        assert_eq!(reached, to(callee_side, other_nat));
        let media = lab.rtp(NAT, caller_side);
        assert_eq!(
            media,
            PacketVerdict::Drop(DropReason::Unproven),
            "a trial is no proof"
        );
        let forged = lab.packet(STRANGER, callee_side, &check(1, 50));
        assert_eq!(forged, PacketVerdict::Drop(DropReason::Unproven));
        let media = lab.rtp(NAT, caller_side);
        assert_eq!(
            media,
            PacketVerdict::Drop(DropReason::Unproven),
            "a forged answer"
        );
        let answer = lab.packet(other_nat, callee_side, &check(1, 50));
        assert_eq!(answer, to(caller_side, NAT));
        assert_eq!(
            lab.rtp(NAT, caller_side),
            PacketVerdict::Drop(DropReason::NotRoutable),
            "no check of the callee was answered yet"
        );
        assert_eq!(
            lab.packet(other_nat, callee_side, &check(0, 60)),
            to(caller_side, NAT)
        );
        assert_eq!(
            lab.packet(NAT, caller_side, &check(1, 60)),
            to(callee_side, other_nat)
        );
        assert_eq!(lab.rtp(NAT, caller_side), to(callee_side, other_nat));
        assert_eq!(lab.rtp(other_nat, callee_side), to(caller_side, NAT));
        // The SIP proxy says later where the caller is: who comes from there takes over.
        let renewed = format!(
            "signaling_ip: 198.51.100.9\r\nmedia: {}\r\n",
            ice("192.168.1.1:4000")
        );
        lab.update_with("request", 2, AB, &renewed);
        assert_eq!(stream(&mut lab, "198.51.100.9:5", caller_side, 8, 0, 1), 1);
        assert_eq!(
            lab.rtp(other_nat, callee_side),
            to(caller_side, "198.51.100.9:5")
        );
    }
}

/// A branch rings with media from its NAT; the answer names another private address. Both are where the SIP comes from.
#[test]
fn e9_a_former_branch_that_may_be_the_party_stays_until_another_is_heard() {
    let ringing = "198.51.100.9:4001";
    let answered = "198.51.100.9:4002";
    let private = |address: &str| {
        format!(
            "signaling_ip: 198.51.100.9\r\nmedia: {}\r\n",
            audio(address)
        )
    };
    let mut lab = reachable();
    let callee_side = ports(&lab.update("request", 1, A, &audio(CALLER)))[0];
    lab.update_with("reply", 1, A, &private("192.168.1.20:5000"));
    assert_eq!(stream(&mut lab, ringing, callee_side, 7, 0, 10), 10);
    let caller_side = ports(&lab.update_with("reply", 1, AB, &private("192.168.1.21:5000")))[0];
    assert_eq!(
        stream(&mut lab, ringing, callee_side, 7, 10, 10),
        10,
        "it may be the same phone"
    );
    let waits = lab.packet(answered, callee_side, &packet(8, 0));
    assert_eq!(
        waits,
        PacketVerdict::Drop(DropReason::OtherPort),
        "the former one is heard"
    );
    lab.now += Duration::from_millis(100);
    assert_eq!(stream(&mut lab, answered, callee_side, 8, 1, 10), 10);
    assert_eq!(lab.rtp(CALLER, caller_side), to(callee_side, answered));
    lab.now += Duration::from_secs(60);
    assert_eq!(
        stream(&mut lab, ringing, callee_side, 7, 20, 100),
        0,
        "it was the branch that lost"
    );
}

/// t25: a server plays ringback, then the callee answers from precisely where its SDP says.
#[test]
fn e9_a_ringback_server_gives_way_to_the_callee_that_the_answer_names() {
    for server in ["203.0.113.5:8000", NAT] {
        let mut lab = reachable();
        let callee_side = ports(&lab.update("request", 1, A, &audio(CALLER)))[0];
        lab.update("reply", 1, A, &audio("203.0.113.5:8000"));
        lab.now += Duration::from_secs(1);
        stream(&mut lab, server, callee_side, 7, 0, 50);
        let caller_side = ports(&lab.update("reply", 1, AB, &audio(CALLEE)))[0];
        assert_eq!(
            stream(&mut lab, CALLEE, callee_side, 8, 0, 50),
            50,
            "{server}"
        );
        assert_eq!(lab.rtp(CALLER, caller_side), to(callee_side, CALLEE));
        assert_eq!(
            stream(&mut lab, server, callee_side, 7, 50, 100),
            0,
            "{server}"
        );
    }
}

/// The party was followed, and the kernel takes the flow no more; and a claim comes while the kernel does not answer.
#[test]
fn e8_a_kernel_that_fails_costs_the_followed_party_nothing() {
    let (mut lab, flow, caller_side, callee_side) = forwarded();
    lab.packet(NAT, caller_side, &packet(7, 1));
    let withdrawal = Action::Withdraw(flow);
    assert!(lab.actions.contains(&withdrawal));
    // It is asked once, however long its answer takes, and whoever goes on claiming.
    lab.actions.clear();
    stream(&mut lab, NAT, caller_side, 7, 2, 500);
    assert!(!lab.actions.contains(&withdrawal), "asked again");
    lab.flow_withdrawn(flow, [Counters::default(); 2]);
    lab.drain_actions();
    let found = stream(&mut lab, NAT, caller_side, 7, 502, 400);
    assert_eq!(found, 301, "followed after 2 s of silence");
    stream(&mut lab, CALLEE, callee_side, 8, 1, 1);
    let flow = installs(&mut lab)[0].0;
    lab.flow_installed(flow, Installed::NotNow);
    assert_eq!(
        stream(&mut lab, NAT, caller_side, 7, 902, 100),
        100,
        "user space goes on"
    );
}

/// A phone sends when it answers; the answer comes here a moment later.
#[test]
fn e10_media_that_comes_before_its_senders_sdp_is_not_lost() {
    let mut lab = Lab::with(Settings {
        routable_private_ranges: vec!["198.18.0.0/15".parse().unwrap()],
        ..settings()
    });
    let callee_side = ports(&lab.update("request", 1, ("A", ""), &audio(CALLER)))[0];
    let packet = |n: u8| {
        let mut data = rtp(8);
        data[3] = n;
        data
    };
    for n in 0..3 {
        assert_eq!(
            lab.packet(CALLEE, callee_side, &packet(n)),
            PacketVerdict::Queued
        );
        assert_eq!(
            lab.packet("198.18.0.66:9", callee_side, &packet(n)),
            PacketVerdict::Queued
        );
    }
    lab.now += Duration::from_millis(30);
    let caller_side = ports(&lab.update("reply", 1, ("A", "B"), &audio(CALLEE)))[0];
    let sent = lab.actions.iter().filter_map(|action| match action {
        Action::Send {
            from_port,
            to,
            data,
        } => Some((*from_port, *to, data[3])),
        _ => None,
    });
    let want: Vec<_> = (0..3).map(|n| (caller_side, addr(CALLER), n)).collect();
    assert_eq!(
        sent.collect::<Vec<_>>(),
        want,
        "and nothing of the stranger"
    );
    assert_eq!(lab.engine.totals().relayed.packets, 3);
    assert_eq!(lab.statistics()["streams"][0]["callee_packets"], 3);
    let dropped: u64 = lab
        .engine
        .totals()
        .dropped
        .counts()
        .map(|(_, count)| count)
        .sum();
    assert_eq!(dropped, 3);
}

#[test]
fn e10_what_is_kept_is_little_and_not_for_long() {
    let mut lab = Lab::new();
    let callee_side = ports(&lab.update("request", 1, ("A", ""), &audio(CALLER)))[0];
    for _ in 0..1000 {
        lab.rtp(CALLEE, callee_side);
    }
    lab.now += Duration::from_millis(1001);
    lab.update("reply", 1, ("A", "B"), &audio(CALLEE));
    assert!(
        !lab.actions
            .iter()
            .any(|action| matches!(action, Action::Send { .. }))
    );
    assert_eq!(lab.engine.totals().relayed.packets, 0);
}
