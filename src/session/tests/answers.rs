//! M10: answers to updates wait until the kernel has let go of what they replace.

use super::media::{installs, kernel_lab};
use super::*;

const AB: (&str, &str) = ("A", "B");
const NONE: [Counters; 2] = [Counters {
    packets: 0,
    bytes: 0,
}; 2];
const ELSEWHERE: &str = "198.18.0.9:9000";

/// A call whose RTP and RTCP the kernel has.
fn in_kernel() -> (Lab, [FlowId; 2]) {
    let mut lab = kernel_lab();
    let (caller_side, callee_side) = lab.talking();
    lab.packet("198.18.0.1:4001", caller_side + 1, &rtcp());
    lab.packet("198.18.0.2:5001", callee_side + 1, &rtcp());
    let flows = installs(&mut lab);
    for (flow, _) in &flows {
        lab.flow_installed(*flow, Installed::Taken);
    }
    (lab, [flows[0].0, flows[1].0])
}

fn ask(lab: &mut Lab, kind: &str, cseq: u32, media: &str) {
    let request = request(kind, cseq, AB, &format!("media: {media}\r\n"));
    lab.ask(request.as_bytes());
}

fn withdrawn(lab: &mut Lab, flow: FlowId) {
    lab.flow_withdrawn(flow, NONE);
    while let Some(action) = lab.engine.poll_action() {
        lab.actions.push(action);
    }
}

fn withdrawals(lab: &Lab) -> usize {
    let is_it = |action: &&Action| matches!(action, Action::Withdraw(..));
    lab.actions.iter().filter(is_it).count()
}

#[test]
fn m10_every_answer_waits_that_takes_flows_out_of_the_kernel() {
    // What comes before, and the update that takes something away.
    let moved = audio(ELSEWHERE);
    let off = audio("198.18.0.1:0");
    let callee_off = audio("198.18.0.2:0");
    let fresh = audio("198.18.0.1:4444");
    let hold = item("audio", "198.18.0.7:7000", "inactive");
    let same = audio(CALLER);
    let video = item("video", CALLER, "sendrecv");
    let video_answer = item("video", CALLEE, "sendrecv");
    let cases = [
        (None, ("reply", 1, &moved)),
        (Some(&off), ("reply", 2, &callee_off)),
        (Some(&same), ("reply", 2, &callee_off)),
        (Some(&fresh), ("reply", 2, &moved)),
        (Some(&same), ("reply", 2, &hold)),
        (Some(&video), ("reply", 2, &video_answer)),
    ];
    for (offer, (kind, cseq, media)) in cases {
        let (mut lab, [rtp, rtcp]) = in_kernel();
        if let Some(offer) = offer {
            ask(&mut lab, "request", 2, offer);
            assert_eq!(lab.answers().len(), 1, "{offer}: nothing is replaced yet");
        }
        ask(&mut lab, kind, cseq, media);
        assert_eq!(lab.answers(), [], "{media}");
        assert_eq!(withdrawals(&lab), 2, "{media}");
        withdrawn(&mut lab, rtp);
        assert_eq!(lab.answers(), [], "{media}: half of it");
        withdrawn(&mut lab, rtcp);
        assert_eq!(lab.answers().len(), 1, "{media}");
    }
}

#[test]
fn m10_nothing_waits_where_nothing_is_taken_out() {
    let (mut lab, [rtp, rtcp]) = in_kernel();
    for (cseq, media) in [(2, audio(CALLER)), (3, item("audio", CALLER, "sendonly"))] {
        ask(&mut lab, "request", cseq, &media);
        ask(&mut lab, "reply", cseq, &audio(CALLEE));
        assert_eq!(lab.answers().len(), 2, "{media}");
    }
    // In user space nothing is waited for at all.
    lab.flow_lost(rtp, Loss::Deleted, NONE);
    lab.flow_lost(rtcp, Loss::Deleted, NONE);
    ask(&mut lab, "reply", 3, &audio(ELSEWHERE));
    assert_eq!((lab.answers().len(), withdrawals(&lab)), (1, 0));
}

#[test]
fn m10_a_flow_that_the_kernel_is_only_asked_to_take_is_waited_for() {
    let mut lab = kernel_lab();
    lab.talking();
    let flow = installs(&mut lab)[0].0;
    ask(&mut lab, "reply", 1, &audio(ELSEWHERE));
    assert_eq!(lab.answers(), []);
    withdrawn(&mut lab, flow);
    assert_eq!(lab.answers().len(), 1);
}

#[test]
fn m10_the_answers_of_a_call_keep_their_order_and_others_do_not_wait() {
    let (mut lab, flows) = in_kernel();
    let before = lab.asked;
    ask(&mut lab, "reply", 1, &audio(ELSEWHERE));
    ask(&mut lab, "reply", 1, &audio(ELSEWHERE));
    ask(&mut lab, "request", 2, &audio(CALLER));
    assert_eq!(lab.answers(), []);
    lab.update("request", 1, ("X", ""), &audio("198.18.0.5:5555"));
    assert!(lab.remove("A", "B"));
    assert_eq!(lab.answers(), [], "the call's end changes nothing");
    withdrawn(&mut lab, flows[1]);
    withdrawn(&mut lab, flows[0]);
    let is_removed = |action: &Action| matches!(action, Action::Removed { .. });
    assert_eq!(
        lab.actions.iter().position(is_removed),
        Some(lab.actions.len() - 1)
    );
    let order: Vec<u64> = lab.answers().iter().map(|(number, _)| *number).collect();
    assert_eq!(order, [before, before + 1, before + 2]);
    assert!(lab.removed().is_some());
}

#[test]
fn m10_an_answer_waits_ten_milliseconds_at_most() {
    let (mut lab, flows) = in_kernel();
    let start = lab.now;
    ask(&mut lab, "reply", 1, &audio(ELSEWHERE));
    lab.now += Duration::from_millis(4);
    ask(&mut lab, "reply", 1, &audio(ELSEWHERE));
    for (at, answers) in [(9, 0), (10, 1), (13, 0), (14, 1)] {
        lab.now = start + Duration::from_millis(at);
        lab.pass(0);
        assert_eq!(lab.answers().len(), answers, "after {at} ms");
    }
    // The kernel thread's word comes late, and the call is as it would be.
    for flow in flows {
        withdrawn(&mut lab, flow);
    }
    assert_eq!(lab.answers(), []);
    ask(&mut lab, "request", 2, &audio(CALLER));
    assert_eq!(lab.answers().len(), 1);
    assert!(lab.remove("A", "B"));
    assert!(lab.removed().is_some());
}

#[test]
fn m10_a_kernel_that_never_answers_holds_up_nothing_but_the_end() {
    let (mut lab, _) = in_kernel();
    for round in 0..3 {
        ask(&mut lab, "reply", 1, &audio(ELSEWHERE));
        assert_eq!(lab.answers(), [], "{round}");
        lab.pass(1);
        assert_eq!(lab.answers().len(), 1, "{round}");
    }
    assert!(lab.remove("A", "B"));
    lab.pass(1);
    assert_eq!(lab.removed(), None);
}
