//! What the kernel forwards is known by its counters alone: until they have been read, nothing is silent.

use super::media::{installs, kernel_lab};
use super::*;

/// That it is over is told later, with the kernel's last word: that it was taken out is seen at once.
#[test]
fn m7_nothing_is_taken_out_of_the_kernel_before_its_counters_were_read() {
    let mut lab = kernel_lab();
    lab.talking();
    let flow = installs(&mut lab)[0].0;
    lab.flow_installed(flow, Installed::Taken);
    lab.flows_heard(lab.now);
    let is_taken_out = |lab: &mut Lab| {
        lab.drain_actions();
        let mut actions = lab.actions.iter();
        actions.any(|action| matches!(action, Action::Withdraw(out, _) if *out == flow))
    };
    lab.pass(200);
    assert!(!is_taken_out(&mut lab), "nobody has looked");
    let more = [Counters {
        packets: 1,
        bytes: 200,
    }; 2];
    lab.flow_traffic(flow, more);
    lab.flows_heard(lab.now);
    lab.pass(89);
    assert!(!is_taken_out(&mut lab), "it was talking a moment ago");
    lab.flows_heard(lab.now + Duration::from_secs(1));
    lab.pass(2);
    assert!(is_taken_out(&mut lab), "silent for long, and seen to be");
}
