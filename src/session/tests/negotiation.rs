//! C1 to C9: offers and answers.

use super::*;

const A: (&str, &str) = ("A", "");
const AB: (&str, &str) = ("A", "B");
const BA: (&str, &str) = ("B", "A");

#[test]
fn c1_each_party_gets_the_ports_of_its_own_side() {
    let mut lab = Lab::new();
    let (caller_side, callee_side) = lab.call();
    assert_eq!(lab.host.bound[&caller_side].party, Party::Caller);
    assert_eq!(lab.host.bound[&callee_side].party, Party::Callee);
    // The callee's own request goes upstream, the reply to it downstream.
    let up = lab.update("request", 1, BA, &audio(CALLEE));
    assert_eq!(ports(&up), [caller_side]);
    let down = lab.update("reply", 1, BA, &audio(CALLER));
    assert_eq!(ports(&down), [callee_side]);
    let statistics = lab.statistics();
    assert_eq!(
        (&statistics["from_tag"], &statistics["to_tag"]),
        (&"A".into(), &"B".into())
    );
    assert_eq!(statistics["caller_ua"], "agent-reply");
}

#[test]
fn c1_found_by_either_tag_and_not_by_another() {
    let mut lab = Lab::new();
    lab.call();
    lab.update("request", 1, ("C", "D"), &audio("198.18.0.3:6000"));
    assert_eq!(
        lab.engine.sessions().live_count(),
        2,
        "other tags, another session of the call-id"
    );
    assert!(!lab.remove("X", "Y"));
    assert!(
        lab.remove("B", "A"),
        "the callee hangs up: the tags come swapped"
    );
    assert_eq!(lab.engine.sessions().live_count(), 1);
    assert!(
        lab.remove("D", ""),
        "the callee's tag alone never was an answer's"
    )
}

#[test]
fn c2_a_retransmission_changes_nothing() {
    let mut lab = Lab::new();
    let first = lab.update("request", 1, A, &audio(CALLER));
    assert_eq!(lab.update("request", 1, A, &audio(CALLER)), first);
    let answer = lab.update("reply", 1, AB, &audio(CALLEE));
    assert_eq!(lab.update("reply", 1, AB, &audio(CALLEE)), answer);
    assert_eq!(lab.host.bound.len(), 4, "two pairs");
}

#[test]
fn c2_an_old_offer_gets_its_own_ports_again() {
    let mut lab = Lab::new();
    let (caller_side, callee_side) = lab.call();
    lab.update("request", 2, AB, &audio("198.18.0.1:4444"));
    lab.update("reply", 2, AB, &audio(CALLEE));
    assert_eq!(
        ports(&lab.update("request", 1, AB, &audio(CALLER))),
        [callee_side]
    );
    assert_eq!(
        ports(&lab.update("reply", 1, AB, &audio(CALLEE))),
        [caller_side]
    );
    let statistics = lab.statistics();
    assert_eq!(
        statistics["streams"][0]["status"], "closed",
        "and the old stream stays closed"
    );
    assert_eq!(statistics["streams"][1]["status"], "active");
}

#[test]
fn c2_parties_number_by_themselves() {
    let mut lab = Lab::new();
    let (caller_side, callee_side) = lab.call();
    // The callee's first request has the caller's number, or a lower one: still a new offer.
    for cseq in [0, 1] {
        let up = lab.update("request", cseq, BA, &item("audio", CALLEE, "sendonly"));
        assert_eq!(ports(&up), [caller_side]);
        lab.update("reply", cseq, BA, &item("audio", CALLER, "recvonly"));
    }
    assert_eq!(lab.statistics()["streams"][0]["status"], "on hold");
    // The caller's old request again is not taken for an answer to it.
    assert_eq!(
        ports(&lab.update("request", 1, AB, &audio("198.18.0.1:9"))),
        [callee_side]
    );
    assert_eq!(lab.statistics()["streams"][0]["status"], "on hold");
}

#[test]
fn c2_a_forgotten_number_is_an_error() {
    let mut lab = Lab::new();
    lab.call();
    for cseq in 10..40 {
        lab.update("request", cseq, AB, &audio(CALLER));
        lab.update("reply", cseq, AB, &audio(CALLEE));
    }
    assert_eq!(
        lab.update("request", 5, AB, &audio(CALLER)),
        UpdateReply::Error("an old CSeq that is not remembered".into())
    );
    assert_eq!(
        lab.update("request", 10, AB, &audio(CALLER)),
        UpdateReply::Error("an old CSeq that is not remembered".into())
    );
    assert_eq!(lab.host.bound.len(), 4);
}

#[test]
fn c3_a_kept_stream_keeps_its_ports() {
    let mut lab = Lab::new();
    let (caller_side, callee_side) = lab.call();
    for (cseq, media) in [
        (2, item("audio", CALLER, "sendonly")),
        (3, audio("0.0.0.0:4000")),
        (4, audio(CALLER)),
    ] {
        assert_eq!(
            ports(&lab.update("request", cseq, AB, &media)),
            [callee_side]
        );
        assert_eq!(
            ports(&lab.update("reply", cseq, AB, &audio(CALLEE))),
            [caller_side]
        );
    }
    assert_eq!(lab.statistics()["streams"].as_array().unwrap().len(), 1);
}

/// A call that a third party sets up begins on hold, without an address (RFC 3725 section 4.4).
#[test]
fn c3_an_address_that_follows_a_hold_from_the_start_is_sent_to() {
    let mut lab = Lab::new();
    let public = "8.8.4.4:4000";
    let first = lab.update("request", 1, A, &audio("0.0.0.0:4000"));
    let caller_side = ports(&lab.update("reply", 1, AB, &audio(CALLEE)))[0];
    let again = lab.update("request", 2, AB, &audio(public));
    assert_eq!(again, first, "the stream is kept");
    let callee_side = ports(&first)[0];
    let dropped = PacketVerdict::Drop(DropReason::NotLearned);
    assert_eq!(lab.rtp(CALLEE, callee_side), dropped, "not answered yet");
    lab.update("reply", 2, AB, &audio(CALLEE));
    assert_eq!(lab.rtp(CALLEE, callee_side), to(caller_side, public));
    // From now on it has an address that can change.
    let moved = lab.update("request", 3, AB, &audio("8.8.4.4:4100"));
    assert_ne!(moved, first);
}

#[test]
fn c3_an_added_stream_gets_its_own_ports() {
    let mut lab = Lab::new();
    let (caller_side, callee_side) = lab.call();
    let offer = format!(
        "{},{}",
        audio(CALLER),
        item("video", "198.18.0.1:4002", "sendrecv")
    );
    let to_callee = ports(&lab.update("request", 2, AB, &offer));
    assert_eq!(to_callee[0], callee_side);
    let answer = format!(
        "{},{}",
        audio(CALLEE),
        item("video", "198.18.0.2:5002", "sendrecv")
    );
    let to_caller = ports(&lab.update("reply", 2, AB, &answer));
    assert_eq!(to_caller[0], caller_side);
    assert_eq!(lab.host.bound[&to_caller[1]].stream, 1);
    assert_eq!(lab.host.bound[&to_callee[1]].party, Party::Callee);
    assert_eq!(lab.host.bound.len(), 8);
}

/// Types and the offerer's ports of m= lines.
type Lines<'a> = &'a [(&'a str, u16)];

fn offer_of(lines: Lines<'_>) -> String {
    let line = |&(kind, port): &(&str, u16)| item(kind, &format!("198.18.0.1:{port}"), "sendrecv");
    lines.iter().map(line).collect::<Vec<_>>().join(",")
}

fn answer_of(lines: Lines<'_>) -> String {
    offer_of(lines).replace("198.18.0.1", "198.18.0.2")
}

const THREE: [(&str, u16); 3] = [("audio", 4000), ("video", 4002), ("audio", 4004)];

/// The relay's ports towards the callee, of a call with these three lines.
fn three(lab: &mut Lab) -> Vec<u16> {
    let to_callee = ports(&lab.update("request", 1, A, &offer_of(&THREE)));
    lab.update("reply", 1, AB, &answer_of(&THREE));
    to_callee
}

#[test]
fn c3_lines_that_are_dropped_or_reordered_keep_the_ports_of_their_addresses() {
    let [audio, video, second] = THREE;
    let cases: [(Lines<'_>, &[usize]); 5] = [
        (&[video, second], &[1, 2]),
        (&[second], &[2]),
        (&[second, video, audio], &[2, 1, 0]),
        (&[video, audio, second], &[1, 0, 2]),
        (&[audio, second], &[0, 2]),
    ];
    for (lines, wanted) in cases {
        let mut lab = Lab::new();
        let before = three(&mut lab);
        let kept = ports(&lab.update("request", 2, AB, &offer_of(lines)));
        let wanted: Vec<u16> = wanted.iter().map(|&index| before[index]).collect();
        assert_eq!(kept, wanted, "{lines:?}");
        assert_eq!(lab.host.bound.len(), 12, "all as it was until the answer");
        lab.update("reply", 2, AB, &answer_of(lines));
        assert_eq!(lab.host.bound.len(), 4 * lines.len(), "{lines:?}");
        // The other party's offer finds them in their new places.
        let upstream = ports(&lab.update("request", 1, ("B", "A"), &answer_of(lines)));
        assert!(
            upstream
                .iter()
                .all(|port| lab.host.bound[port].party == Party::Caller)
        );
        assert_eq!(lab.host.bound.len(), 4 * lines.len(), "{lines:?}");
    }
}

#[test]
fn c3_the_place_counts_before_the_address() {
    let mut lab = Lab::new();
    let before = three(&mut lab);
    // The first moves to a port of its own, and the others stay.
    let moved = [("audio", 4444), THREE[1], THREE[2]];
    let after = ports(&lab.update("request", 2, AB, &offer_of(&moved)));
    assert!(!before.contains(&after[0]));
    assert_eq!(after[1..], before[1..]);
    // Two lines with one address: each keeps its own.
    let mut lab = Lab::new();
    let twice = [("video", 4002), ("video", 4002)];
    let before = ports(&lab.update("request", 1, A, &offer_of(&twice)));
    lab.update(
        "reply",
        1,
        AB,
        &answer_of(&[("video", 5000), ("video", 5002)]),
    );
    let again = ports(&lab.update("request", 2, AB, &offer_of(&twice)));
    assert_eq!(again, before);
}

#[test]
fn c3_a_line_of_fewer_on_hold_is_known_by_its_port() {
    let mut lab = Lab::new();
    let before = three(&mut lab);
    let hold = ports(&lab.update("request", 2, AB, &audio("0.0.0.0:4004")));
    assert_eq!(hold, [before[2]]);
    // Of one that names no port of before, the place tells.
    let hold = ports(&lab.update("request", 3, AB, &audio("0.0.0.0:9")));
    assert_eq!(hold, [before[0]]);
}

#[test]
fn c3_port_zero_closes_its_own_line_and_none_that_goes_on_elsewhere() {
    let [audio, video, second] = THREE;
    let off = |line: (&'static str, u16)| (line.0, 0);
    let cases: [(Lines<'_>, &[usize], usize); 4] = [
        // Reordered and disabled in one.
        (&[video, off(audio), second], &[1, 2], 1),
        (&[off(video), second], &[2], 2),
        (&[off(audio), video, second], &[1, 2], 1),
        // What moves in the place of the disabled one flows on until the answer.
        (&[("audio", 4444), video, second, off(audio)], &[1, 2], 1),
    ];
    for (lines, wanted, closed) in cases {
        let mut lab = Lab::new();
        let before = three(&mut lab);
        let after = ports(&lab.update("request", 2, AB, &offer_of(lines)));
        let kept: Vec<u16> = after
            .iter()
            .copied()
            .filter(|port| before.contains(port))
            .collect();
        let wanted: Vec<u16> = wanted.iter().map(|&index| before[index]).collect();
        assert_eq!(kept, wanted, "{lines:?}");
        assert!(
            kept.iter().all(|port| lab.host.bound.contains_key(port)),
            "{lines:?}"
        );
        let gone = |lab: &Lab| {
            let gone = before.iter().filter(|p| !lab.host.bound.contains_key(p));
            gone.count()
        };
        assert_eq!(
            gone(&lab),
            0,
            "{lines:?}: nothing changes before the answer"
        );
        lab.update("reply", 2, AB, &answer_of(lines));
        assert_eq!(gone(&lab), closed, "{lines:?}");
    }
}

#[test]
fn c3_a_moved_stream_leaves_the_old_one_until_the_answer() {
    let mut lab = Lab::new();
    let (caller_side, callee_side) = lab.talking();
    let moved = "198.18.0.1:4444";
    let fresh = ports(&lab.update("request", 2, AB, &audio(moved)))[0];
    assert_ne!(fresh, callee_side);
    assert_eq!(
        lab.rtp(CALLER, caller_side),
        to(callee_side, CALLEE),
        "the old one flows"
    );
    let fresh_caller_side = ports(&lab.update("reply", 2, AB, &audio(CALLEE)))[0];
    assert_eq!(
        lab.rtp(CALLER, caller_side),
        PacketVerdict::Drop(DropReason::Closed)
    );
    lab.rtp(CALLEE, fresh);
    assert_eq!(lab.rtp(moved, fresh_caller_side), to(fresh, CALLEE));
    assert_eq!(lab.host.bound.len(), 4);
}

#[test]
fn c3_an_offer_without_an_answer_leaves_everything_as_it_was() {
    let mut lab = Lab::new();
    let (caller_side, callee_side) = lab.talking();
    let second = format!(
        "{},{}",
        audio("198.18.0.1:4444"),
        item("video", "198.18.0.1:4002", "sendrecv")
    );
    lab.update("request", 2, AB, &second);
    assert_eq!(lab.host.bound.len(), 12);
    // Refused by the callee; the next offer is matched against the last answered one.
    assert_eq!(
        ports(&lab.update("request", 3, AB, &audio(CALLER))),
        [callee_side]
    );
    assert_eq!(
        lab.host.bound.len(),
        4,
        "the unanswered offer's own streams are given up"
    );
    assert_eq!(lab.rtp(CALLER, caller_side), to(callee_side, CALLEE));
}

#[test]
fn c3_a_first_offer_again_with_a_new_number_starts_anew() {
    let mut lab = Lab::new();
    let first = ports(&lab.update("request", 1, A, &audio(CALLER)))[0];
    let second = ports(&lab.update("request", 2, A, &audio(CALLER)))[0];
    assert_ne!(first, second);
    assert_eq!(lab.host.bound.len(), 4, "after a challenge, say");
}

#[test]
fn c3_port_zero_closes_with_the_answer_and_opens_anew() {
    let mut lab = Lab::new();
    let (caller_side, callee_side) = lab.talking();
    assert_eq!(
        ports(&lab.update("request", 2, AB, &audio("198.18.0.1:0"))),
        [0]
    );
    let forward = to(callee_side, CALLEE);
    assert_eq!(lab.rtp(CALLER, caller_side), forward, "not answered yet");
    assert_eq!(
        ports(&lab.update("reply", 2, AB, &audio("198.18.0.2:0"))),
        [0]
    );
    assert_eq!(
        lab.rtp(CALLER, caller_side),
        PacketVerdict::Drop(DropReason::Closed)
    );
    assert_eq!(lab.statistics()["streams"][0]["status"], "closed");
    assert_eq!(lab.engine.sessions().live_count(), 1, "the call goes on");
    let again = ports(&lab.update("request", 3, AB, &audio(CALLER)))[0];
    assert!(again != 0 && again != callee_side);
}

#[test]
fn c3_another_type_at_the_same_place_is_another_stream() {
    let mut lab = Lab::new();
    let (_, callee_side) = lab.call();
    let fresh = ports(&lab.update("request", 2, AB, &item("image", CALLER, "sendrecv")))[0];
    assert_ne!(fresh, callee_side);
    lab.update("reply", 2, AB, &item("image", CALLEE, "sendrecv"));
    let statistics = lab.statistics();
    let types: Vec<_> = statistics["streams"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| &s["media_type"])
        .collect();
    assert_eq!(types, ["audio", "image"]);
}

#[test]
fn c4_rejected_and_missing_streams() {
    let mut lab = Lab::new();
    let offer = format!(
        "{},{},{}",
        audio(CALLER),
        item("video", "198.18.0.1:4002", "sendrecv"),
        item("text", "198.18.0.1:4004", "sendrecv")
    );
    assert_eq!(ports(&lab.update("request", 1, A, &offer)).len(), 3);
    let answer = format!(
        "{},{}",
        audio(CALLEE),
        item("video", "198.18.0.2:0", "sendrecv")
    );
    let reply = ports(&lab.update("reply", 1, AB, &answer));
    assert!(reply[0] != 0);
    assert_eq!(reply[1..], [0]);
    let statistics = lab.statistics();
    let statuses: Vec<_> = statistics["streams"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| &s["status"])
        .collect();
    assert_eq!(statuses, ["active", "rejected", "rejected"]);
    assert_eq!(
        statistics["streams"][1]["end_time"],
        statistics["streams"][1]["start_time"]
    );
    assert_eq!(lab.host.bound.len(), 4);
}

#[test]
fn c4_more_lines_in_the_answer_than_offered_get_no_port() {
    let mut lab = Lab::new();
    lab.update("request", 1, A, &audio(CALLER));
    let answer = format!(
        "{},{}",
        audio(CALLEE),
        item("video", "198.18.0.2:5002", "sendrecv")
    );
    assert_eq!(ports(&lab.update("reply", 1, AB, &answer))[1..], [0]);
}

#[test]
fn c4_a_branch_that_declines_leaves_the_stream_to_another() {
    let mut lab = Lab::new();
    let offer = format!(
        "{},{}",
        audio(CALLER),
        item("video", "198.18.0.1:4002", "sendrecv")
    );
    lab.update("request", 1, A, &offer);
    let declined = format!(
        "{},{}",
        audio(CALLEE),
        item("video", "198.18.0.2:0", "sendrecv")
    );
    assert_eq!(ports(&lab.update("reply", 1, A, &declined))[1], 0);
    let accepted = format!(
        "{},{}",
        audio("198.18.0.3:7000"),
        item("video", "198.18.0.3:7002", "sendrecv")
    );
    let reply = ports(&lab.update("reply", 1, ("A", "C"), &accepted));
    assert!(reply.iter().all(|&port| port != 0));
    assert_eq!(lab.statistics()["streams"][1]["status"], "active");
}

#[test]
fn c4_a_second_answer_moves_the_party_on_the_same_ports() {
    let mut lab = Lab::new();
    lab.update("request", 1, A, &audio(CALLER));
    let callee_side = ports(&lab.update("request", 1, A, &audio(CALLER)))[0];
    let early = lab.update("reply", 1, A, &audio(CALLEE));
    let caller_side = ports(&early)[0];
    lab.rtp(CALLEE, callee_side);
    lab.rtp(CALLER, caller_side);
    let other = "198.18.0.3:7000";
    assert_eq!(lab.update("reply", 1, ("A", "C"), &audio(other)), early);
    assert_eq!(
        lab.rtp(CALLER, caller_side),
        PacketVerdict::Drop(DropReason::NotRoutable)
    );
    assert_eq!(
        lab.rtp(CALLEE, callee_side),
        PacketVerdict::Drop(DropReason::Straggler),
        "M5"
    );
    assert_eq!(lab.rtp(other, callee_side), to(caller_side, CALLER));
    assert_eq!(lab.rtp(CALLER, caller_side), to(callee_side, other));
}

/// A phone may name an inside address in its 183 and the one that its media comes from in its 200.
#[test]
fn c4_a_party_that_was_there_all_the_time_loses_nothing() {
    let mut lab = Lab::with(open());
    let callee_side = ports(&lab.update("request", 1, A, &audio(CALLER)))[0];
    let caller_side = ports(&lab.update("reply", 1, A, &audio("10.0.0.2:5000")))[0];
    lab.rtp(CALLER, caller_side);
    let back = to(caller_side, CALLER);
    assert_eq!(lab.rtp(CALLEE, callee_side), back);
    lab.update("reply", 1, AB, &audio(CALLEE));
    assert_eq!(lab.rtp(CALLEE, callee_side), back);
}

#[test]
fn c4_another_media_type_is_an_error_and_changes_nothing() {
    let mut lab = Lab::new();
    lab.update("request", 1, A, &audio(CALLER));
    assert_eq!(
        lab.update("reply", 1, AB, &item("video", CALLEE, "sendrecv")),
        UpdateReply::Error("the answer's media types are not those of the offer".into())
    );
    assert_eq!(lab.statistics()["start_time"], Value::Null);
    assert_eq!(lab.statistics()["to_tag"], Value::Null);
    assert!(ports(&lab.update("reply", 1, AB, &audio(CALLEE)))[0] != 0);
}

#[test]
fn c4_an_answer_without_media_marks_the_start() {
    let mut lab = Lab::new();
    lab.update("request", 1, A, &audio(CALLER));
    let reply = lab.update("reply", 1, AB, "");
    assert_eq!(reply, UpdateReply::Ports(RELAY.into(), vec![]));
    assert!(lab.statistics()["start_time"].is_f64());
}

#[test]
fn c5_the_start_is_the_first_answer_early_media_included() {
    let mut lab = Lab::new();
    lab.update("request", 1, A, &audio(CALLER));
    lab.pass(5);
    lab.update("reply", 1, A, &audio(CALLEE));
    lab.pass(10);
    lab.update("reply", 1, AB, &audio(CALLEE));
    lab.pass(3);
    let statistics = lab.statistics();
    assert_eq!(statistics["start_time"], 1_700_001_005.0);
    assert_eq!(statistics["duration"], 13);
    assert_eq!(statistics["streams"][0]["end_time"], 13);
}

#[test]
fn c8_a_late_offer_comes_from_the_callee() {
    let mut lab = Lab::new();
    assert_eq!(
        lab.update("request", 1, A, ""),
        UpdateReply::Ports(RELAY.into(), vec![])
    );
    assert_eq!(
        lab.update("reply", 1, AB, ""),
        UpdateReply::Ports(RELAY.into(), vec![])
    );
    assert_eq!(
        lab.engine.sessions().live_count(),
        0,
        "without media nothing is created"
    );
    let caller_side = ports(&lab.update("reply", 1, AB, &audio(CALLEE)))[0];
    let callee_side = ports(&lab.update("request", 1, AB, &audio(CALLER)))[0];
    assert_eq!(lab.host.bound[&caller_side].party, Party::Caller);
    assert_eq!(lab.host.bound[&callee_side].party, Party::Callee);
    let statistics = lab.statistics();
    assert_eq!(
        (&statistics["from_tag"], &statistics["to_tag"]),
        (&"A".into(), &"B".into())
    );
    assert_eq!(statistics["streams"][0]["status"], "active");
}

#[test]
fn c9_no_ports_is_an_error_and_nothing_is_kept() {
    for binds in 0..2 {
        let mut lab = Lab::new();
        lab.host.binds_left = binds;
        assert_eq!(
            lab.update("request", 1, A, &audio(CALLER)),
            UpdateReply::Error("no ports left".into())
        );
        assert_eq!(lab.engine.sessions().live_count(), 0);
        assert!(lab.host.bound.is_empty(), "after {binds} binds");
    }
}

#[test]
fn c9_a_failed_reinvite_gives_back_its_first_pair_and_keeps_the_call() {
    for binds in 0..4 {
        let mut lab = Lab::new();
        let (caller_side, callee_side) = lab.talking();
        lab.host.binds_left = binds;
        let offer = format!(
            "{},{}",
            audio("198.18.0.1:0"),
            item("video", "198.18.0.1:4002", "sendrecv")
        );
        let two = format!("{offer},{}", item("text", "198.18.0.1:4006", "sendrecv"));
        let refused = UpdateReply::Error("no ports left".into());
        assert_eq!(lab.update("request", 2, AB, &two), refused);
        assert_eq!(lab.host.bound.len(), 4, "after {binds} binds");
        assert_eq!(lab.rtp(CALLER, caller_side), to(callee_side, CALLEE));
        lab.host.binds_left = 9;
        assert_eq!(
            ports(&lab.update("request", 2, AB, &two)).len(),
            3,
            "and may be tried again"
        );
    }
}

#[test]
fn ipv6_is_refused_while_it_is_not_relayed() {
    let mut lab = Lab::new();
    let v6 = "audio:2001:db8::2:6000:sendrecv:ice=no";
    let refused = UpdateReply::Error("IPv6 media is not relayed".into());
    assert_eq!(lab.update("request", 1, A, v6), refused);
    assert_eq!(lab.engine.sessions().live_count(), 0);
}

#[test]
fn the_address_that_goes_into_sdp() {
    let mut lab = Lab::with(Settings {
        advertised_ip: Some(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7))),
        ..settings()
    });
    let reply = lab.update("request", 1, A, &audio(CALLER));
    assert!(reply.to_string().starts_with("203.0.113.7 "));

    let mut lab = Lab::new();
    let more = format!(
        "signaling_ip: 10.1.1.1_172.16.1.1\r\nmedia: {}\r\n",
        audio(CALLER)
    );
    let to_callee = lab.update_with("request", 1, A, &more);
    assert!(
        to_callee.to_string().starts_with("172.16.9.9 "),
        "towards the callee"
    );
    let to_caller = lab.update("reply", 1, AB, &audio(CALLEE));
    assert!(to_caller.to_string().starts_with("10.9.9.9 "));

    let mut lab = Lab::new();
    let more = format!("signaling_ip: 172.16.1.1\r\nmedia: {}\r\n", audio(CALLER));
    let reply = lab.update_with("request", 1, A, &more);
    assert!(
        reply.to_string().starts_with("172.16.9.9 "),
        "without a destination the caller's for both"
    );
}

#[test]
fn a_draining_relay_takes_no_new_calls() {
    let mut lab = Lab::new();
    let (_, callee_side) = lab.call();
    lab.engine.drain();
    assert_eq!(
        lab.update("request", 1, ("X", ""), &audio(CALLER)),
        UpdateReply::Halting
    );
    assert_eq!(
        ports(&lab.update("request", 2, AB, &audio(CALLER))),
        [callee_side],
        "but serves those it has"
    );
}

#[test]
fn every_stream_list_is_bounded() {
    let mut lab = Lab::new();
    let mut last = lab.update("request", 1, A, &audio(CALLER));
    for cseq in 2..1100 {
        last = lab.update("request", cseq, A, &audio(CALLER));
    }
    let refused = UpdateReply::Error("too many streams in one session".into());
    assert_eq!(last, refused);
    assert_eq!(lab.host.bound.len(), 4);
}

#[test]
fn c4_a_line_that_is_turned_off_may_have_any_type_and_address() {
    let mut lab = Lab::new();
    let offer = format!("{},image:198.18.0.1:4002:sendrecv", audio(CALLER));
    lab.update("request", 1, A, &offer);
    let answer = format!("{},audio:2001:db8::1:0:INACTIVE:ice=no", audio(CALLEE));
    let answered = ports(&lab.update("reply", 1, AB, &answer));
    assert_ne!(answered[0], 0);
    assert_eq!(answered[1], 0, "T.38 is refused");
    assert_eq!(lab.statistics()["streams"][1]["status"], "rejected");
}
