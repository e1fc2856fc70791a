//! Packets of a flow that the kernel has and that come to user space all the same: one flow's trouble, or the host's.

use super::lab::{Lab, T, key, second};
use crate::session::{Installed, Withdrawal};

fn bypass(lab: &mut Lab, number: u32) {
    lab.forwarder
        .withdraw(&[(key(number), Withdrawal::Bypassed)], T);
    lab.hear();
}

#[test]
fn one_that_is_bypassed_beside_others_that_are_not_holds_up_nobody() {
    let mut lab = Lab::new();
    lab.install([1, 2], T);
    lab.talk(2);
    lab.read(T);
    bypass(&mut lab, 1);
    lab.install([3], second(1));
    assert_eq!(lab.answers(3), [Installed::Taken]);
    assert!(lab.goes_on(3) && lab.goes_on(2));
}

#[test]
fn where_nothing_enters_all_wait() {
    let mut lab = Lab::new();
    lab.install([1, 2], T);
    bypass(&mut lab, 1);
    lab.install([3], second(1));
    assert_eq!(lab.answers(3), [Installed::Suspended]);
}

#[test]
fn a_flow_that_is_just_over_is_no_trouble() {
    let mut lab = Lab::new();
    lab.install([1, 2], T);
    lab.withdraw([1]);
    lab.install([3], second(1));
    assert_eq!(lab.answers(3), [Installed::Taken]);
}
