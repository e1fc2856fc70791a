//! M4: how flows come back from the kernel, and go to it again.

use super::media::{installs, kernel_lab};
use super::*;

const LAST: [Counters; 2] = [Counters {
    packets: 5,
    bytes: 1000,
}; 2];

/// A call whose RTP the kernel has; the relay's ports for the caller and for the callee.
fn in_kernel() -> (Lab, (u16, u16), FlowId) {
    let mut lab = kernel_lab();
    let sides = lab.talking();
    let flow = installs(&mut lab)[0].0;
    lab.flow_installed(flow, Installed::Taken);
    (lab, sides, flow)
}

/// Whether the next packet has the flow offered to the kernel.
fn is_offered(lab: &mut Lab, (caller_side, callee_side): (u16, u16)) -> Option<FlowId> {
    assert_eq!(lab.rtp(CALLER, caller_side), to(callee_side, CALLEE));
    Some(installs(lab).first()?.0)
}

#[test]
fn m4_a_lost_flow_comes_back_and_one_whose_packets_got_stuck_later() {
    let (mut lab, sides, flow) = in_kernel();
    lab.flow_lost(flow, Loss::Deleted, LAST);
    assert_eq!(lab.statistics()["streams"][0]["caller_packets_kernel"], 5);
    let mut again = is_offered(&mut lab, sides).unwrap();
    // Each try may lose some packets, so they become rare.
    for wait in [15, 30, 60, 120, 240, 480, 600, 600] {
        lab.flow_installed(again, Installed::Taken);
        lab.flow_lost(again, Loss::Stuck, LAST);
        // Others' trouble that is over is not its own.
        lab.forwarding_mended();
        lab.now += Duration::from_millis(wait * 1000 - 1);
        assert_eq!(is_offered(&mut lab, sides), None, "{wait} s");
        lab.now += Duration::from_millis(1);
        again = is_offered(&mut lab, sides).unwrap();
    }
    // It was well for long: that was another trouble.
    lab.flow_installed(again, Installed::Taken);
    lab.now += Duration::from_secs(300);
    lab.flow_lost(again, Loss::Stuck, LAST);
    lab.now += Duration::from_secs(15);
    assert!(is_offered(&mut lab, sides).is_some());
}

#[test]
fn m4_calls_go_back_to_a_kernel_that_forwards_again_a_few_at_a_time() {
    let mut lab = kernel_lab();
    let mut calls = Vec::new();
    for number in 0..200 {
        let (caller, callee) = (
            format!("198.18.1.1:{}", 6000 + 2 * number),
            format!("198.18.1.2:{}", 6000 + 2 * number),
        );
        let tags = (format!("A{number}"), format!("B{number}"));
        let to_callee = ports(&lab.update("request", 1, (&tags.0, ""), &audio(&caller)))[0];
        let to_caller = ports(&lab.update("reply", 1, (&tags.0, &tags.1), &audio(&callee)))[0];
        lab.rtp(&caller, to_caller);
        lab.rtp(&callee, to_callee);
        let flow = installs(&mut lab)[0].0;
        lab.flow_installed(flow, Installed::Taken);
        lab.flow_lost(flow, Loss::Suspended, LAST);
        calls.push((caller, to_caller));
    }
    let talk = |lab: &mut Lab| {
        for (caller, port) in &calls {
            lab.rtp(caller, *port);
        }
        installs(lab)
    };
    // One of them asks for all, and it takes some time.
    for wait in [1, 2, 4, 8, 8] {
        lab.now += Duration::from_secs(wait);
        let asked = talk(&mut lab);
        assert_eq!(asked.len(), 200, "an offer costs nothing");
        for (flow, _) in asked {
            lab.flow_installed(flow, Installed::Suspended);
        }
    }
    lab.forwarding_mended();
    let mut back = Vec::new();
    for _ in 0..80 {
        lab.now += Duration::from_millis(50);
        let some = talk(&mut lab);
        for (flow, _) in &some {
            lab.flow_installed(*flow, Installed::Taken);
        }
        back.push(some.len());
    }
    assert_eq!(back.iter().sum::<usize>(), 200, "{back:?}");
    assert!(back.iter().all(|&count| count < 10), "{back:?}");
}

#[test]
fn m4_packets_that_do_not_reach_the_kernels_entry_are_relayed_and_it_is_given_up_for_a_while() {
    let (mut lab, sides, flow) = in_kernel();
    let (caller_side, callee_side) = sides;
    let start = lab.now;
    while !lab
        .actions
        .contains(&Action::Withdraw(flow, Withdrawal::Bypassed))
    {
        assert!(lab.now < start + Duration::from_secs(4));
        lab.now += Duration::from_millis(20);
        assert_eq!(lab.rtp(CALLER, caller_side), to(callee_side, CALLEE));
        lab.packet(CALLER, caller_side, &stun());
    }
    assert!(lab.now >= start + Duration::from_secs(3));
    lab.rtp(CALLER, caller_side);
    assert_eq!(installs(&mut lab), [], "not at once");
    lab.now += Duration::from_secs(15);
    lab.rtp(CALLER, caller_side);
    let again = installs(&mut lab)[0].0;
    lab.flow_installed(again, Installed::NotNow);
    assert!(lab.remove("A", "B"));
    assert_eq!(lab.removed(), None, "its last counters are waited for");
    lab.flow_withdrawn(flow, [Counters::default(); 2]);
    lab.drain_actions();
    assert!(lab.removed().is_some());
}
