//! M1 to M9: learning, forwarding, counting.

use super::*;

const A: (&str, &str) = ("A", "");
const AB: (&str, &str) = ("A", "B");
const BA: (&str, &str) = ("B", "A");
const NAT: &str = "192.0.0.77:999";

#[test]
fn m1_to_the_learned_address_or_the_one_in_the_sdp_if_it_can_be_reached() {
    let mut lab = Lab::with(open());
    let callee_side = ports(&lab.update("request", 1, A, &audio("9.9.9.9:4000")))[0];
    let caller_side = ports(&lab.update("reply", 1, AB, &audio("192.168.1.2:5000")))[0];
    let none = PacketVerdict::Drop(DropReason::NotRoutable);
    assert_eq!(
        lab.rtp(CALLER, caller_side),
        none,
        "the callee's address is private"
    );
    assert_eq!(
        lab.rtp(NAT, callee_side),
        to(caller_side, CALLER),
        "learned, not the SDP's"
    );
    assert_eq!(lab.rtp(CALLER, caller_side), to(callee_side, NAT));
    // RTCP is one port above on all sides and learned by itself.
    let rtcp_of_sdp = to(caller_side + 1, "9.9.9.9:4001");
    assert_eq!(
        lab.packet("192.0.0.77:1000", callee_side + 1, &rtcp()),
        rtcp_of_sdp
    );
}

#[test]
fn m1_private_ranges_that_are_allowed_and_names_that_are_not_looked_up() {
    let mut lab = Lab::with(allowing_private());
    let callee_side = ports(&lab.update("request", 1, A, &audio("phone.example.org:4000")))[0];
    let caller_side = ports(&lab.update("reply", 1, AB, &audio("192.168.1.2:5000")))[0];
    assert_eq!(
        lab.rtp(NAT, callee_side),
        PacketVerdict::Drop(DropReason::NotLearned)
    );
    assert_eq!(
        lab.rtp(CALLER, caller_side),
        to(callee_side, NAT),
        "the callee was learned meanwhile"
    );
    let mut fresh = Lab::with(allowing_private());
    let callee_side = ports(&fresh.update("request", 1, A, &audio(CALLER)))[0];
    let caller_side = ports(&fresh.update("reply", 1, AB, &audio("192.168.1.2:5000")))[0];
    assert_eq!(
        fresh.rtp(CALLER, caller_side),
        to(callee_side, "192.168.1.2:5000")
    );
}

fn allowing_private() -> Settings {
    Settings {
        routable_private_ranges: vec!["192.168.0.0/16".parse().unwrap()],
        ..open()
    }
}

#[test]
fn m1_stun_waits_for_an_address_and_is_sent_then() {
    let mut lab = Lab::with(open());
    let callee_side = ports(&lab.update("request", 1, A, &audio("192.168.1.1:4000")))[0];
    let is_callers = |place: &PortKey| place.party == Party::Caller;
    let bound = lab.host.bound.iter().filter(|(_, place)| is_callers(place));
    let caller_side = bound.map(|(&port, _)| port).min().unwrap();
    for _ in 0..4 {
        assert_eq!(lab.packet(NAT, caller_side, &stun()), PacketVerdict::Queued);
    }
    assert_eq!(
        lab.packet(NAT, caller_side, &stun()),
        PacketVerdict::Drop(DropReason::NotLearned),
        "a few"
    );
    lab.update("reply", 1, AB, &audio("9.9.9.9:5000"));
    let sent: Vec<_> = lab
        .actions
        .iter()
        .filter(|a| matches!(a, Action::Send { .. }))
        .collect();
    let want = Action::Send {
        from_port: callee_side,
        to: addr("9.9.9.9:5000"),
        data: stun(),
    };
    assert_eq!(sent, vec![&want; 4]);
    lab.remove("A", "B");
    assert_eq!(lab.removed().unwrap()["streams"][0]["caller_packets"], 4);
}

/// Not only an SDP says where a party is.
#[test]
fn m1_stun_that_waits_for_a_party_is_sent_when_that_is_heard() {
    let mut lab = Lab::with(open());
    let callee_side = ports(&lab.update("request", 1, A, &audio("192.168.1.1:4000")))[0];
    let caller_side = ports(&lab.update("reply", 1, AB, &audio("192.168.1.2:5000")))[0];
    assert_eq!(lab.packet(NAT, caller_side, &stun()), PacketVerdict::Queued);
    lab.rtp(CALLEE, callee_side);
    let sent = Action::Send {
        from_port: callee_side,
        to: addr(CALLEE),
        data: stun(),
    };
    assert!(lab.actions.contains(&sent), "{:?}", lab.actions);
}

#[test]
fn m2_a_stranger_is_told_to_the_log() {
    let mut lab = Lab::new();
    let (_, callee_side) = lab.talking();
    assert!(!lab.stranger_is_told());
    lab.rtp("203.0.113.66:6", callee_side);
    assert!(lab.stranger_is_told());
}

#[test]
fn m2_other_sources_are_dropped() {
    let mut lab = Lab::new();
    let (caller_side, callee_side) = lab.talking();
    assert_eq!(
        lab.rtp("203.0.113.66:6", callee_side),
        PacketVerdict::Drop(DropReason::WrongSource)
    );
    assert_eq!(
        lab.rtp("198.18.0.2:5001", callee_side),
        PacketVerdict::Drop(DropReason::OtherPort)
    );
    assert_eq!(lab.rtp(CALLER, caller_side), to(callee_side, CALLEE));
    assert_eq!(lab.statistics()["streams"][0]["callee_packets"], 1);
}

#[test]
fn m3_stun_teaches_an_address_but_is_not_media() {
    let mut lab = Lab::new();
    let (caller_side, callee_side) = lab.call();
    lab.packet(CALLER, caller_side, &stun());
    lab.packet(CALLEE, callee_side, &stun());
    let statistics = lab.statistics();
    assert_eq!(statistics["streams"][0]["caller_remote"], CALLER);
    assert_eq!(statistics["streams"][0]["post_dial_delay"], Value::Null);
    assert_eq!(
        lab.rtp("198.18.0.1:4999", caller_side),
        to(callee_side, CALLEE),
        "media decides"
    );
    assert_eq!(
        lab.rtp(CALLEE, callee_side),
        to(caller_side, "198.18.0.1:4999")
    );
}

pub(super) fn kernel_lab() -> Lab {
    Lab::with(Settings {
        kernel: Ok(()),
        ..settings()
    })
}

pub(super) fn installs(lab: &mut Lab) -> Vec<(FlowId, PerParty<FlowEnd>)> {
    let actions = std::mem::take(&mut lab.actions);
    let install = |action| match action {
        Action::Install { flow, ends } => Some((flow, ends)),
        _ => None,
    };
    actions.into_iter().filter_map(install).collect()
}

#[test]
fn m4_a_component_goes_to_the_kernel_when_both_have_sent_media() {
    let mut lab = kernel_lab();
    let (caller_side, callee_side) = lab.call();
    lab.packet(CALLER, caller_side, &stun());
    lab.rtp(CALLEE, callee_side);
    assert_eq!(installs(&mut lab), [], "STUN is not media");
    lab.rtp(CALLER, caller_side);
    let found = installs(&mut lab);
    let [(flow, ends)] = found.as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!(flow.component, Component::Rtp);
    assert_eq!(ends.caller.remote, addr(CALLER));
    assert_eq!(
        ends.callee.local,
        SocketAddr::new(RELAY.into(), callee_side)
    );
    // Packets that were already queued are relayed; nobody asks twice.
    assert_eq!(lab.rtp(CALLER, caller_side), to(callee_side, CALLEE));
    assert_eq!(installs(&mut lab), []);
    lab.packet("198.18.0.1:4001", caller_side + 1, &rtcp());
    lab.packet("198.18.0.2:5001", callee_side + 1, &rtcp());
    assert_eq!(installs(&mut lab)[0].0.component, Component::Rtcp);
}

#[test]
fn m4_both_paths_add_up_and_the_last_counters_come_before_the_report() {
    let mut lab = kernel_lab();
    lab.talking();
    let flow = installs(&mut lab)[0].0;
    lab.flow_installed(flow, Installed::Taken);
    let more = |packets| Counters {
        packets,
        bytes: packets * 200,
    };
    lab.flow_traffic(flow, [more(10), more(20)]);
    assert_eq!(lab.statistics()["streams"][0]["callee_packets"], 21);
    assert!(lab.remove("A", "B"));
    assert_eq!(lab.removed(), None, "the kernel has not answered yet");
    assert!(lab.actions.contains(&Action::Withdraw(flow)));
    assert_eq!(
        lab.engine.sessions().live_count(),
        0,
        "but the call is over"
    );
    lab.flow_withdrawn(flow, [more(1), more(2)]);
    lab.drain_actions();
    let statistics = lab.removed().unwrap();
    let stream = &statistics["streams"][0];
    assert_eq!(stream["caller_packets"], 11, "the first had nowhere to go");
    assert_eq!(stream["callee_bytes"], 200 + 22 * 200);
    assert_eq!(stream["callee_packets_kernel"], 22);
    assert_eq!(stream["callee_packets_user_space"], 1);
    lab.flow_withdrawn(flow, [more(1), more(2)]);
    lab.drain_actions();
    assert_eq!(
        lab.removed(),
        None,
        "late news of an ended session do no harm"
    );
}

#[test]
fn m4_a_refused_flow_stays_in_user_space_and_is_offered_again_later() {
    let mut lab = kernel_lab();
    let (caller_side, callee_side) = lab.talking();
    let flow = installs(&mut lab)[0].0;
    lab.flow_installed(flow, Installed::NotNow);
    assert_eq!(lab.rtp(CALLER, caller_side), to(callee_side, CALLEE));
    assert_eq!(installs(&mut lab), []);
    lab.now += Duration::from_secs(1);
    lab.rtp(CALLER, caller_side);
    let again = installs(&mut lab)[0].0;
    assert_ne!(again, flow);
    lab.flow_installed(again, Installed::Never);
    lab.now += Duration::from_secs(1000);
    lab.rtp(CALLER, caller_side);
    assert_eq!(installs(&mut lab), []);
}

/// A second answer of the callee, with another address.
fn moved() -> String {
    let media = format!("media: {}\r\n", audio("198.18.0.9:9000"));
    request("reply", 1, AB, &media)
}

#[test]
fn m5_a_moved_party_is_taken_back_from_the_kernel_and_learned_anew() {
    let mut lab = kernel_lab();
    let (caller_side, callee_side) = lab.talking();
    let flow = installs(&mut lab)[0].0;
    lab.flow_installed(flow, Installed::Taken);
    lab.ask(moved().as_bytes());
    assert!(lab.actions.contains(&Action::Withdraw(flow)));
    assert_eq!(
        lab.rtp(CALLEE, callee_side),
        PacketVerdict::Drop(DropReason::Straggler)
    );
    assert_eq!(
        lab.rtp("198.18.0.9:9000", callee_side),
        to(caller_side, CALLER)
    );
    lab.rtp(CALLER, caller_side);
    assert_eq!(installs(&mut lab).len(), 1);
}

/// For five seconds, and no longer: a NAT may have kept its mapping.
#[test]
fn m5_a_former_source_is_believed_again_when_its_stragglers_are_over() {
    let mut lab = Lab::with(open());
    let (caller_side, callee_side) = lab.talking();
    lab.update("request", 2, AB, &audio(CALLER));
    lab.update("reply", 2, AB, &audio("198.18.0.9:9000"));
    let straggler = PacketVerdict::Drop(DropReason::Straggler);
    let end = lab.now + Duration::from_secs(5);
    while lab.now < end {
        assert_eq!(lab.rtp(CALLEE, callee_side), straggler);
        lab.now += Duration::from_millis(100);
    }
    assert_ne!(lab.rtp(CALLEE, callee_side), straggler);
    assert_eq!(lab.rtp(CALLER, caller_side), to(callee_side, CALLEE));
}

#[test]
fn m4_a_flow_withdrawn_for_a_move_is_waited_for_as_well() {
    let mut lab = kernel_lab();
    let (caller_side, callee_side) = lab.talking();
    let first = installs(&mut lab)[0].0;
    lab.flow_installed(first, Installed::Taken);
    lab.ask(moved().as_bytes());
    lab.rtp("198.18.0.9:9000", callee_side);
    lab.rtp(CALLER, caller_side);
    let second = installs(&mut lab)[0].0;
    assert_ne!(first, second);
    lab.flow_installed(first, Installed::NotNow);
    lab.flow_lost(first, Loss::Deleted, [Counters::default(); 2]);
    lab.rtp(CALLER, caller_side);
    assert_eq!(installs(&mut lab), [], "old news of the first hand-over");
    assert!(lab.remove("A", "B"));
    let last = [Counters {
        packets: 5,
        bytes: 1000,
    }; 2];
    lab.flow_withdrawn(first, last);
    lab.drain_actions();
    assert_eq!(lab.removed(), None, "the second has not answered yet");
    lab.flow_withdrawn(second, last);
    lab.drain_actions();
    let stream = &lab.removed().unwrap()["streams"][0];
    assert_eq!(stream["caller_packets_kernel"], 10);
}

#[test]
fn m6_the_first_payload_type_names_the_codec() {
    let names = [
        (0, "G711u"),
        (1, "1016"),
        (2, "G721"),
        (3, "GSM"),
        (4, "G723"),
        (5, "DVI4"),
        (6, "DVI4"),
        (7, "LPC"),
        (8, "G711a"),
        (9, "G722"),
        (10, "L16"),
        (11, "L16"),
        (12, "Unknown(12)"),
        (14, "MPA"),
        (15, "G728"),
        (18, "G729"),
        (25, "CelB"),
        (26, "JPEG"),
        (28, "nv"),
        (31, "H261"),
        (32, "MPV"),
        (33, "MP2T"),
        (34, "H263"),
        (95, "Unknown(95)"),
        (96, "Dynamic(96)"),
        (127, "Dynamic(127)"),
    ];
    for (payload_type, name) in names {
        let mut lab = Lab::new();
        let (caller_side, _) = lab.call();
        lab.packet(CALLER, caller_side, &rtp(payload_type));
        lab.packet(CALLER, caller_side, &rtp(13));
        let statistics = lab.statistics();
        assert_eq!(statistics["streams"][0]["caller_codec"], name);
        assert_eq!(statistics["streams"][0]["callee_codec"], "Unknown");
    }
}

#[test]
fn m9_fax_is_relayed_without_a_codec() {
    let mut lab = Lab::new();
    let callee_side = ports(&lab.update("request", 1, A, &item("image", CALLER, "sendrecv")))[0];
    let caller_side = ports(&lab.update("reply", 1, AB, &item("image", CALLEE, "sendrecv")))[0];
    let udptl = [0, 7, 1, 2, 3, 4, 5];
    lab.packet(CALLER, caller_side, &udptl);
    assert_eq!(
        lab.packet(CALLEE, callee_side, &udptl),
        to(caller_side, CALLER)
    );
    assert_eq!(
        lab.packet(CALLER, caller_side, &udptl),
        to(callee_side, CALLEE)
    );
    let statistics = lab.statistics();
    assert_eq!(statistics["streams"][0]["caller_codec"], "Unknown");
    assert_eq!(
        statistics["streams"][0]["caller_packets"], 1,
        "the first had nowhere to go"
    );
    assert_eq!(statistics["streams"][0]["callee_bytes"], 7 + 28);
    assert_eq!(statistics["streams"][0]["post_dial_delay"], 0.0);
}

#[test]
fn every_relayed_packet_counts_rtp_and_rtcp() {
    let mut lab = Lab::new();
    let (caller_side, callee_side) = lab.talking();
    for _ in 0..10 {
        lab.rtp(CALLER, caller_side);
    }
    lab.packet("198.18.0.2:5001", callee_side + 1, &rtcp());
    lab.packet("198.18.0.1:4001", caller_side + 1, &rtcp());
    assert!(lab.remove("A", ""));
    let stream = lab.removed().unwrap()["streams"][0].clone();
    assert_eq!(
        stream["caller_packets"], 11,
        "ten RTP and one RTCP; the very first had nowhere to go"
    );
    assert_eq!(stream["caller_bytes"], 10 * 200 + 80);
    assert_eq!(stream["callee_packets"], 1, "its RTCP had nowhere to go");
    assert_eq!(lab.engine.totals().relayed.packets, 12);
    assert_eq!(stream["caller_local"], format!("10.9.9.9:{caller_side}"));
    assert_eq!(stream["callee_remote"], CALLEE);
    assert_eq!(stream["caller_codec"], "G711a");
    assert_eq!(stream["status"], "closed");
    assert_eq!(stream["timeout_wait"], 0);
}

#[test]
fn what_could_not_be_sent_was_not_relayed() {
    let mut lab = Lab::new();
    let (caller_side, _) = lab.talking();
    lab.rtp(CALLER, caller_side);
    lab.rtp(CALLER, caller_side);
    let place = lab.host.bound[&caller_side];
    lab.engine.unsent(place, rtp(8).len(), 113, lab.now);
    let statistics = lab.statistics();
    assert_eq!(statistics["streams"][0]["caller_packets"], 1);
    assert_eq!(statistics["streams"][0]["caller_bytes"], 200);
    assert_eq!(lab.engine.totals().relayed.packets, 2, "one of each party");
}

#[test]
fn m11_what_has_come_round_was_not_relayed() {
    let mut lab = Lab::new();
    let (caller_side, _) = lab.talking();
    lab.rtp(CALLER, caller_side);
    lab.rtp(CALLER, caller_side);
    let place = lab.host.bound[&caller_side];
    lab.engine.went_round(place, rtp(8).len());
    let counts: Vec<(DropReason, u64)> = lab.engine.totals().dropped.counts().collect();
    assert!(counts.contains(&(DropReason::WentRound, 1)), "{counts:?}");
    assert_eq!(lab.engine.totals().relayed.packets, 2, "one of each party");
    let statistics = lab.statistics();
    assert_eq!(statistics["streams"][0]["caller_packets"], 1);
    assert_eq!(statistics["streams"][0]["caller_bytes"], 200);
}

#[test]
fn m11_the_call_that_a_packet_goes_round_by_is_known_by_its_port() {
    let public = IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8));
    let mut lab = Lab::with(Settings {
        advertised_ip: Some(public),
        ..settings()
    });
    let (caller_side, _) = lab.talking();
    let place = lab.host.bound[&caller_side];
    for (address, is_it) in [
        (RELAY.into(), true),
        (public, true),
        (Ipv4Addr::LOCALHOST.into(), false),
    ] {
        assert_eq!(
            lab.engine.call_at(place, address).is_some(),
            is_it,
            "{address}"
        );
    }
}

#[test]
fn c4_a_party_that_names_the_relays_own_ports_makes_no_loop() {
    let settings = || Settings {
        routable_private_ranges: vec!["10.0.0.0/8".parse().unwrap()],
        ..settings()
    };
    for offset in [0, 1] {
        let mut lab = Lab::with(settings());
        let callee_side = ports(&lab.update("request", 1, A, &audio(CALLER)))[0];
        let own = format!("{RELAY}:{}", callee_side + offset);
        let caller_side = ports(&lab.update("reply", 1, AB, &audio(&own)))[0];
        let none = PacketVerdict::Drop(DropReason::OwnPort);
        assert_eq!(lab.rtp(CALLER, caller_side), none, "{own}");
    }
    let mut lab = Lab::with(settings());
    let (caller_side, callee_side) = lab.call();
    let elsewhere = format!("{RELAY}:{}", callee_side + 100);
    lab.update("reply", 1, AB, &audio(&elsewhere));
    let through_another_session = to(callee_side, &elsewhere);
    assert_eq!(lab.rtp(CALLER, caller_side), through_another_session);
}

/// A spiral: both passes have the same Call-ID, tags and CSeq, so the second pass names the first one's ports.
#[test]
fn c4_an_sdp_that_names_the_relays_own_ports_moves_nobody() {
    let mut lab = Lab::with(Settings {
        routable_private_ranges: vec!["198.18.0.0/15".parse().unwrap()],
        ..settings()
    });
    let second_pass = |lab: &mut Lab, kind, cseq, tags, ports: &[u16]| {
        lab.update(kind, cseq, tags, &audio(&format!("{RELAY}:{}", ports[0])))
    };
    let callee_side = ports(&lab.update("request", 1, A, &audio(CALLER)));
    second_pass(&mut lab, "request", 1, A, &callee_side);
    for tags in [A, AB] {
        let caller_side = ports(&lab.update("reply", 1, tags, &audio(CALLEE)));
        second_pass(&mut lab, "reply", 1, tags, &caller_side);
        let heard = to(callee_side[0], CALLEE);
        assert_eq!(lab.rtp(CALLER, caller_side[0]), heard, "a listener");
    }
    let caller_side = ports(&lab.update("reply", 1, AB, &audio(CALLEE)))[0];
    assert_eq!(lab.rtp(CALLEE, callee_side[0]), to(caller_side, CALLER));
    // A refresh by the callee, answered by the caller.
    let kept = ports(&lab.update("request", 1, BA, &audio(CALLEE)));
    assert_eq!(kept, [caller_side], "the same stream");
    second_pass(&mut lab, "request", 1, BA, &kept);
    let answer = ports(&lab.update("reply", 1, BA, &audio(CALLER)));
    second_pass(&mut lab, "reply", 1, BA, &answer);
    assert_eq!(lab.rtp(CALLEE, callee_side[0]), to(caller_side, CALLER));
    assert_eq!(lab.rtp(CALLER, caller_side), to(callee_side[0], CALLEE));
}
