//! C2 to C5: whose SDP is what, over all pairs of messages, and calls as phones really make them.

use super::*;

const A: (&str, &str) = ("A", "");
const AB: (&str, &str) = ("A", "B");
const AC: (&str, &str) = ("A", "C");
const BA: (&str, &str) = ("B", "A");

/// Another branch's phone.
const OTHER: &str = "198.18.0.3:7000";

fn media(lab: &mut Lab, from: (&str, u16), there: (&str, u16)) {
    let way = |n: u16| to(n, there.0);
    assert_eq!(lab.rtp(from.0, from.1), way(there.1));
}

/// Both hear each other.
#[track_caller]
fn talk(lab: &mut Lab, caller: (&str, u16), callee: (&str, u16)) {
    lab.rtp(caller.0, caller.1);
    lab.rtp(callee.0, callee.1);
    media(lab, caller, callee);
    media(lab, callee, caller);
}

/// A message of a flow: what it is, and what it must be taken for.
type Step = (
    &'static str,
    u32,
    (&'static str, &'static str),
    &'static str,
);

/// An offer and its answer may be in any of the messages of RFC 6337 section 2.2; the address that each party gave last
/// in an answered exchange is where it is sent to.
#[test]
fn c2_offers_and_answers_in_all_messages() {
    let (a1, a2, b1, b2) = ("11.0.0.1:10", "11.0.0.1:20", "12.0.0.2:10", "12.0.0.2:20");
    let flows: [(&str, &[Step], &str, &str); 14] = [
        (
            "INVITE, 200",
            &[("request", 1, A, a1), ("reply", 1, AB, b1)],
            a1,
            b1,
        ),
        (
            "200, ACK",
            &[("reply", 1, AB, b1), ("request", 1, AB, a1)],
            a1,
            b1,
        ),
        (
            "183, PRACK, 200",
            &[
                ("reply", 1, A, b1),
                ("request", 2, AB, a1),
                ("reply", 1, AB, ""),
            ],
            a1,
            b1,
        ),
        (
            "183, PRACK, 200 with the 183's offer again",
            &[
                ("reply", 1, A, b1),
                ("request", 2, AB, a1),
                ("reply", 1, AB, b1),
            ],
            a1,
            b1,
        ),
        (
            "INVITE, 183, PRACK offers, its 200 answers, 200",
            &[
                ("request", 1, A, a1),
                ("reply", 1, A, b1),
                ("request", 2, AB, a2),
                ("reply", 2, AB, b2),
                ("reply", 1, AB, ""),
            ],
            a2,
            b2,
        ),
        (
            "INVITE, 183, UPDATE of the callee, 200 to it, 200 with the 183's answer again",
            &[
                ("request", 1, A, a1),
                ("reply", 1, A, b1),
                ("request", 1, BA, b2),
                ("reply", 1, BA, a2),
                ("reply", 1, AB, b1),
            ],
            a2,
            b2,
        ),
        (
            "183, PRACK, UPDATE, 200 to it, 200 to the INVITE",
            &[
                ("reply", 1, A, b1),
                ("request", 2, AB, a1),
                ("request", 3, AB, a2),
                ("reply", 3, AB, b2),
                ("reply", 1, AB, ""),
            ],
            a2,
            b2,
        ),
        (
            "re-INVITE without SDP, 200, ACK",
            &[
                ("request", 1, A, a1),
                ("reply", 1, AB, b1),
                ("reply", 2, AB, b2),
                ("request", 2, AB, a2),
            ],
            a2,
            b2,
        ),
        (
            "re-INVITE of the callee without SDP, 200, ACK",
            &[
                ("request", 1, A, a1),
                ("reply", 1, AB, b1),
                ("reply", 1, BA, a2),
                ("request", 1, BA, b2),
            ],
            a2,
            b2,
        ),
        (
            "the ACK's SDP was not seen: the next offer is taken for it, and its answer counts all the same",
            &[
                ("request", 1, A, a1),
                ("reply", 1, AB, b1),
                ("reply", 2, AB, b1),
                ("request", 3, AB, a1),
                ("reply", 3, AB, b2),
            ],
            a1,
            b2,
        ),
        (
            "glare, both refused, then one of them again",
            &[
                ("request", 1, A, a1),
                ("reply", 1, AB, b1),
                ("request", 2, AB, a2),
                ("request", 1, BA, b2),
                ("request", 2, BA, b2),
                ("reply", 2, BA, a1),
            ],
            a1,
            b2,
        ),
        (
            "glare, the first one is answered all the same",
            &[
                ("request", 1, A, a1),
                ("reply", 1, AB, b1),
                ("request", 2, AB, a2),
                ("request", 1, BA, b2),
                ("reply", 2, AB, b1),
            ],
            a2,
            b1,
        ),
        (
            "challenged, and sent elsewhere",
            &[
                ("request", 1, A, a1),
                ("request", 2, A, a1),
                ("reply", 2, A, b1),
                ("request", 3, A, a2),
                ("reply", 3, AB, b2),
            ],
            a2,
            b2,
        ),
        (
            "refused, and later an old answer again",
            &[
                ("request", 1, A, a1),
                ("reply", 1, AB, b1),
                ("request", 2, AB, a2),
                ("reply", 1, AB, b1),
                ("request", 1, BA, b2),
                ("reply", 1, BA, a1),
            ],
            a1,
            b2,
        ),
    ];
    for (name, steps, caller, callee) in flows {
        let mut lab = Lab::new();
        for &(kind, cseq, tags, address) in steps {
            let media = if address.is_empty() {
                String::new()
            } else {
                audio(address)
            };
            let ports = ports(&lab.update(kind, cseq, tags, &media));
            // Twice: a retransmission is the same.
            let again = super::ports(&lab.update(kind, cseq, tags, &media));
            assert_eq!(again, ports, "{name}: {kind} {cseq}");
        }
        assert_eq!(lab.host.bound.len() % 4, 0, "{name}");
        assert_eq!(lab.engine.sessions().live_count(), 1, "{name}");
        let listed = lab.statistics();
        let streams = listed["streams"].as_array().unwrap();
        let active = streams.iter().filter(|s| s["status"] == "active");
        let active: Vec<_> = active.collect();
        assert_eq!(active.len(), 1, "{name}: {listed}");
        assert_eq!(active[0]["caller_sdp"], caller, "{name}");
        assert_eq!(active[0]["callee_sdp"], callee, "{name}");
        assert_eq!(listed["to_tag"], "B", "{name}");
        let port_of = |key: &str| {
            let local = active[0][key].as_str().unwrap();
            local.rsplit(':').next().unwrap().parse::<u16>().unwrap()
        };
        let (caller_side, callee_side) = (port_of("caller_local"), port_of("callee_local"));
        let there = to(callee_side, callee);
        assert_eq!(lab.rtp(caller, caller_side), there, "{name}");
        let back = to(caller_side, caller);
        assert_eq!(lab.rtp(callee, callee_side), back, "{name}");
    }
}

#[test]
fn c3_a_refused_offer_changes_nothing_whatever_it_offered() {
    let two = |first: &str, second: &str| format!("{first},{second}");
    let video = item("video", "198.18.0.2:5002", "sendrecv");
    let offers = [
        two(
            &audio("198.18.0.2:0"),
            &item("image", "198.18.0.2:7000", "sendrecv"),
        ),
        item("image", "198.18.0.2:7000", "sendrecv"),
        audio("198.18.0.2:0"),
        two(&item("audio", CALLEE, "inactive"), &video),
        audio("0.0.0.0:5000"),
    ];
    for refused in offers {
        let mut lab = Lab::new();
        let (caller_side, callee_side) = lab.talking();
        // 488, 491, 487: none of them is told.
        lab.update("request", 1, BA, &refused);
        talk(&mut lab, (CALLER, caller_side), (CALLEE, callee_side));
        assert_eq!(
            lab.statistics()["streams"][0]["status"],
            "active",
            "{refused}"
        );
        // The next one that is accepted takes away what this one had opened.
        lab.update("request", 2, AB, &audio(CALLER));
        lab.update("reply", 2, AB, &audio(CALLEE));
        assert_eq!(lab.host.bound.len(), 4, "{refused}");
        talk(&mut lab, (CALLER, caller_side), (CALLEE, callee_side));
    }
}

#[test]
fn c3_a_refused_offers_own_streams_are_given_up_after_a_time() {
    let mut lab = Lab::new();
    let (caller_side, callee_side) = lab.talking();
    let fresh = ports(&lab.update("request", 2, AB, &audio("198.18.0.1:4444")))[0];
    for _ in 0..5 {
        lab.pass(59);
        lab.rtp(CALLER, caller_side);
        // Whoever still sends there does not keep it.
        lab.rtp("198.18.0.2:9999", fresh);
    }
    assert_eq!(lab.host.bound.len(), 8);
    lab.pass(5);
    assert_eq!(lab.host.bound.len(), 4);
    talk(&mut lab, (CALLER, caller_side), (CALLEE, callee_side));
}

#[test]
fn c4_the_first_final_answer_stands() {
    let mut lab = Lab::new();
    let (caller_side, callee_side) = lab.talking();
    // Somebody else has picked up at the same moment. He gets ports, and a BYE from the proxy.
    let late = ports(&lab.update("reply", 1, AC, &audio(OTHER)));
    assert_eq!(late, [caller_side]);
    talk(&mut lab, (CALLER, caller_side), (CALLEE, callee_side));
    let listed = lab.statistics();
    assert_eq!(
        (&listed["to_tag"], &listed["streams"][0]["callee_sdp"]),
        (&"B".into(), &CALLEE.into())
    );
    for (from, to_tag) in [("A", "C"), ("C", "A")] {
        assert!(!lab.remove(from, to_tag), "{from} {to_tag}");
    }
    // What he offers within his own dialog is nothing to this call either.
    lab.update("request", 1, ("C", "A"), &audio("198.18.0.3:0"));
    lab.update("reply", 1, ("C", "A"), &audio("198.18.0.1:0"));
    // A 183 that was overtaken by the answer.
    lab.update("reply", 1, A, &audio(OTHER));
    talk(&mut lab, (CALLER, caller_side), (CALLEE, callee_side));
    assert!(lab.remove("B", "A"));
    assert_eq!(lab.removed().unwrap()["to_tag"], "B");
    assert!(lab.host.bound.is_empty());
}

#[test]
fn c4_an_old_answer_again_gives_up_no_offer_that_waits() {
    let mut lab = Lab::new();
    lab.talking();
    let moved = "198.18.0.1:4444";
    let there = ports(&lab.update("request", 2, AB, &audio(moved)))[0];
    lab.update("reply", 1, AB, &audio(CALLEE));
    let here = ports(&lab.update("reply", 2, AB, &audio(CALLEE)))[0];
    talk(&mut lab, (moved, here), (CALLEE, there));
}

/// The proxy's workers take messages in any order: an offer may come here before the answer that its sender gave first.
#[test]
fn c3_an_answer_that_was_overtaken_leaves_the_offer_that_overtook_it() {
    let mut lab = Lab::new();
    lab.call();
    let (moved, callee_moved) = ("198.18.0.1:4444", "198.18.0.2:5555");
    lab.update("request", 3, AB, &audio(moved));
    let here = ports(&lab.update("request", 9, BA, &audio(callee_moved)))[0];
    lab.update("reply", 3, AB, &audio(CALLEE));
    let there = ports(&lab.update("reply", 9, BA, &audio(moved)))[0];
    talk(&mut lab, (moved, here), (callee_moved, there));
    assert_eq!(lab.host.bound.len(), 4);
}

#[test]
fn c3_what_a_branch_offers_that_loses_is_given_up() {
    let mut lab = Lab::new();
    lab.update("request", 1, A, &audio(CALLER));
    lab.update("reply", 1, A, &audio(CALLEE));
    lab.update("request", 5, ("C", "A"), &audio(OTHER));
    assert_eq!(lab.host.bound.len(), 8);
    lab.update("reply", 1, AB, &audio(CALLEE));
    assert_eq!(lab.host.bound.len(), 4);
}

#[test]
fn c4_a_line_that_one_branch_turns_off_is_told_to_another_that_has_it_on() {
    let mut lab = Lab::new();
    let both = |address: &str, video: u16| {
        let line = item("video", &format!("{address}:{video}"), "sendrecv");
        format!("{},{line}", audio(&format!("{address}:4000")))
    };
    lab.update("request", 1, A, &both("198.18.0.1", 4002));
    let on = lab.update("reply", 1, A, &both("198.18.0.2", 4002));
    let off = ports(&lab.update("reply", 1, A, &both("198.18.0.3", 0)));
    assert_eq!(off[1], 0);
    assert_eq!(lab.update("reply", 1, A, &both("198.18.0.2", 4002)), on);
}

#[test]
fn c5_a_final_answer_is_one_though_it_makes_the_offer() {
    let mut lab = Lab::new();
    lab.update("reply", 1, AB, &audio(CALLEE));
    assert!(lab.remove("A", "B"));
    assert!(lab.removed().unwrap()["start_time"].is_f64());
}

/// A 1xx has no To tag, within a dialog either: of the callee's requests it has no tag of the caller's.
#[test]
fn c2_a_ringing_reply_to_the_callee_is_of_its_call() {
    let mut lab = Lab::new();
    let (caller_side, callee_side) = lab.talking();
    assert_eq!(
        ports(&lab.update("request", 2, BA, &audio(CALLEE))),
        [caller_side]
    );
    assert_eq!(
        ports(&lab.update("reply", 2, ("B", ""), &audio(CALLER))),
        [callee_side]
    );
    assert_eq!(lab.engine.sessions().live_count(), 1);
    // And one without an offer, whose 183 makes it.
    assert_eq!(
        ports(&lab.update("reply", 3, ("B", ""), &audio(CALLER))),
        [callee_side]
    );
    assert_eq!(
        ports(&lab.update("request", 4, BA, &audio(CALLEE))),
        [caller_side]
    );
    assert_eq!(lab.engine.sessions().live_count(), 1);
    talk(&mut lab, (CALLER, caller_side), (CALLEE, callee_side));
}

/// One branch's UPDATE waits while another one rings, and is then answered.
#[test]
fn c4_the_offerer_is_where_the_offer_that_is_answered_says() {
    let mut lab = Lab::new();
    let there = ports(&lab.update("request", 1, A, &audio(CALLER)))[0];
    let here = ports(&lab.update("reply", 1, A, &audio(CALLEE)))[0];
    lab.update("request", 1, BA, &audio(CALLEE));
    lab.update("reply", 1, A, &audio(OTHER));
    talk(&mut lab, (CALLER, here), (OTHER, there));
    lab.update("reply", 1, BA, &audio(CALLER));
    lab.update("reply", 1, AB, "");
    talk(&mut lab, (CALLER, here), (CALLEE, there));
}

/// The PRACK of a branch that lost had the number of the caller's next request within the call.
#[test]
fn c2_a_ringing_reply_within_the_call_is_not_of_another_branch() {
    let mut lab = Lab::new();
    lab.update("reply", 1, A, &audio(OTHER));
    lab.update("request", 2, AC, &audio(CALLER));
    let here = ports(&lab.update("reply", 1, AB, &audio(CALLEE)))[0];
    let there = ports(&lab.update("request", 1, AB, &audio(CALLER)))[0];
    assert_eq!(ports(&lab.update("reply", 2, A, &audio(CALLEE))), [here]);
    assert_eq!(
        ports(&lab.update("request", 3, AB, &audio(CALLER))),
        [there]
    );
    talk(&mut lab, (CALLER, here), (CALLEE, there));
    assert_eq!(lab.host.bound.len(), 4);
}

#[test]
fn c4_a_remove_without_a_to_tag_ends_the_session() {
    for answered in [false, true] {
        let mut lab = Lab::new();
        lab.update("request", 1, A, &audio(CALLER));
        lab.update("reply", 1, if answered { AB } else { A }, &audio(CALLEE));
        assert!(lab.remove("A", ""), "{answered}");
    }
}

#[test]
fn c5_a_bye_tells_the_tag_of_an_answer_that_was_missed() {
    let mut lab = Lab::new();
    lab.update("request", 1, A, &audio(CALLER));
    lab.update("reply", 1, A, &audio(CALLEE));
    assert!(lab.remove("B", "A"));
    assert_eq!(lab.removed().unwrap()["to_tag"], "B");
}

#[test]
fn c4_the_branch_that_answers_counts_though_another_one_has_agreed_on_more() {
    let mut lab = Lab::new();
    let both = |address: &str| {
        let video = item("video", &format!("{address}2"), "sendrecv");
        format!("{},{video}", audio(&format!("{address}0")))
    };
    let there = ports(&lab.update("request", 1, A, &both("198.18.0.1:400")));
    let here = ports(&lab.update("reply", 1, A, &both("198.18.0.2:500")));
    // The branch that rings first has its video off and its audio elsewhere by an early UPDATE (RFC 3311).
    let update = format!(
        "{},{}",
        audio("198.18.0.2:5100"),
        item("video", "198.18.0.2:0", "inactive")
    );
    lab.update("request", 1, BA, &update);
    let answer = format!(
        "{},{}",
        audio("198.18.0.1:4000"),
        item("video", "198.18.0.1:0", "inactive")
    );
    lab.update("reply", 1, BA, &answer);
    // Another one picks up.
    let again = ports(&lab.update("reply", 1, AC, &both("198.18.0.3:700")));
    assert_eq!(again, here);
    for line in [0, 1] {
        let (caller, callee) = (
            ["198.18.0.1:4000", "198.18.0.1:4002"],
            ["198.18.0.3:7000", "198.18.0.3:7002"],
        );
        talk(
            &mut lab,
            (caller[line], here[line]),
            (callee[line], there[line]),
        );
    }
    assert_eq!(
        lab.host.bound.len(),
        8,
        "what the other branch had is given up"
    );
    assert_eq!(lab.statistics()["to_tag"], "C");
}

/// Both branches answer in a reliable 183 (RFC 3262), so that the 200 has no SDP: whose it is, only the address tells that
/// their SIP comes from.
#[test]
fn c4_a_final_answer_without_sdp_is_the_one_that_its_branch_gave_before() {
    let from = |who: &str, media: &str| {
        let media = match media {
            "" => String::new(),
            media => audio(media),
        };
        format!("signaling_ip: {who}\r\nmedia: {media}\r\n")
    };
    let update_of_the_other = |lab: &mut Lab| {
        lab.update_with("request", 3, AC, &from("198.18.0.1", CALLER));
        lab.update_with("reply", 3, AC, &from("198.18.0.3", OTHER));
    };
    let none = |_: &mut Lab| {};
    let cases: [&dyn Fn(&mut Lab); 2] = [&none, &update_of_the_other];
    for between in cases {
        for first in [true, false] {
            let mut lab = Lab::with(Settings {
                routable_private_ranges: vec!["198.18.0.0/15".parse().unwrap()],
                ..settings()
            });
            let invite = from("198.18.0.1", CALLER);
            let callee_side = ports(&lab.update_with("request", 1, A, &invite))[0];
            let branches = [("198.18.0.2", CALLEE), ("198.18.0.3", OTHER)];
            let mut caller_side = 0;
            for (who, media) in branches {
                let answer = lab.update_with("reply", 1, A, &from(who, media));
                caller_side = ports(&answer)[0];
                lab.now += Duration::from_secs(1);
                lab.rtp(media, callee_side);
            }
            between(&mut lab);
            let (tags, (who, media)) = if first {
                (AB, branches[0])
            } else {
                (AC, branches[1])
            };
            lab.update_with("reply", 1, tags, &from(who, ""));
            talk(&mut lab, (CALLER, caller_side), (media, callee_side));
        }
    }
}

#[test]
fn c2_each_branch_has_numbers_of_its_own() {
    let mut lab = Lab::new();
    lab.update("request", 1, A, &audio(CALLER));
    lab.update("reply", 1, A, &audio(CALLEE));
    // Both early dialogs are updated, by requests of the same number; one branch numbers lower.
    for (tags, address, cseq) in [(AB, CALLEE, 2), (AC, OTHER, 2), (AB, CALLEE, 3)] {
        let there = lab.update("request", cseq, tags, &audio(CALLER));
        assert_eq!(ports(&there).len(), 1, "{tags:?} {cseq}");
        lab.update("reply", cseq, tags, &audio(address));
        assert_eq!(lab.statistics()["streams"][0]["callee_sdp"], address);
    }
    for (tag, address, cseq) in [("B", CALLEE, 50), ("C", OTHER, 7)] {
        let back = lab.update("request", cseq, (tag, "A"), &audio(address));
        assert_eq!(ports(&back).len(), 1, "{tag}");
    }
    lab.update("reply", 1, AC, &audio(OTHER));
    let listed = lab.statistics();
    assert_eq!(
        (&listed["to_tag"], &listed["streams"][0]["callee_sdp"]),
        (&"C".into(), &OTHER.into())
    );
}

#[test]
fn c4_a_ringing_branch_that_repeats_itself_moves_nobody() {
    let mut lab = Lab::new();
    let callee_side = ports(&lab.update("request", 1, A, &audio(CALLER)))[0];
    let caller_side = ports(&lab.update("reply", 1, A, &audio(CALLEE)))[0];
    lab.update("reply", 1, A, &audio(OTHER));
    talk(&mut lab, (CALLER, caller_side), (OTHER, callee_side));
    // The first branch's 183 once more: it has had no PRACK yet (RFC 3262).
    lab.update("reply", 1, A, &audio(CALLEE));
    talk(&mut lab, (CALLER, caller_side), (OTHER, callee_side));
    lab.update("reply", 1, AB, &audio(CALLEE));
    assert_eq!(
        lab.statistics()["streams"][0]["callee_sdp"],
        CALLEE,
        "but it picks up"
    );
}

#[test]
fn c8_branches_may_each_make_a_late_offer() {
    let mut lab = Lab::new();
    let first = ports(&lab.update("reply", 1, A, &audio(CALLEE)))[0];
    let second = ports(&lab.update("reply", 1, A, &audio(OTHER)))[0];
    assert_ne!(first, second, "two dialogs, two offers");
    assert_eq!(ports(&lab.update("reply", 1, A, &audio(CALLEE)))[0], first);
    // The second is answered by PRACK, and picks up; the first is given up.
    let there = ports(&lab.update("request", 2, AC, &audio(CALLER)))[0];
    lab.update("reply", 1, AC, "");
    talk(&mut lab, (CALLER, second), (OTHER, there));
    assert_eq!(lab.host.bound.len(), 4);
    assert_eq!(lab.statistics()["to_tag"], "C");
}
