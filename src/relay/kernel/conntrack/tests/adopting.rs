//! A relay that takes over what another one has left in a kernel in memory, wherever that one was when it ended: no flow is
//! adopted by half, all packets are counted once, and nothing is left behind.

use std::time::Duration;

use super::fake::{Fault, Request, Went};
use super::lab::{Lab, T, entry, flow, key, second};
use crate::session::{FlowNews, Installed, Loss};

/// A relay with two flows of which both parties have sent two packets, one of them told.
fn busy() -> Lab {
    let mut lab = Lab::new();
    lab.install([1, 2], T);
    for _ in 0..2 {
        assert!(lab.goes_on(1) && lab.goes_on(2));
        if lab.told(1) == [0, 0] {
            lab.read(T);
        }
    }
    lab
}

#[test]
fn a_flow_goes_on_and_counts_on_from_what_was_told_of_it() {
    let mut lab = busy().restarted();
    assert!(lab.goes_on(1), "while nobody has claimed it");
    assert_eq!(lab.told(1), [1, 1]);
    assert_eq!(lab.adopt([1, 2]), [2, 0, 0]);
    assert_eq!(lab.news, [], "nothing has happened to them");
    lab.read(T);
    assert_eq!((lab.told(1), lab.told(2)), ([3, 3], [2, 2]));
    assert!(lab.goes_on(1) && lab.goes_on(2));
    lab.withdraw([1, 2]);
    assert_eq!((lab.told(1), lab.told(2)), ([4, 4], [3, 3]));
    lab.assert_empty();
}

#[test]
fn a_flow_whose_packets_do_not_leave_is_stuck_after_a_take_over_too() {
    let mut lab = busy().restarted();
    lab.adopt([1, 2]);
    lab.read(T);
    lab.kernel().drops = true;
    for _ in 0..3 {
        lab.talk(1);
    }
    lab.read(T);
    lab.end_watch(T);
    assert_eq!(lab.losses(1), [Loss::Suspended]);
}

#[test]
fn what_nobody_claims_is_removed_and_what_is_not_ours_stays() {
    let mut lab = busy();
    let theirs = entry(7).original;
    lab.kernel().occupy(theirs, false);
    let mut lab = lab.restarted();
    assert_eq!(lab.adopt([2]), [1, 0, 1]);
    assert_eq!(lab.talk(1), [Went::ToUserSpace; 2]);
    assert!(lab.goes_on(2));
    lab.withdraw([2]);
    lab.read(second(10));
    assert_eq!(lab.kernel().entry_count(), 1, "theirs");
    // Where nothing is claimed at all, too.
    let mut lab = busy().restarted();
    assert_eq!(lab.adopt([]), [0, 0, 2]);
    lab.assert_empty();
}

#[test]
fn before_it_is_known_whose_it_is_nothing_is_touched() {
    let mut lab = busy().restarted();
    lab.install([1], T);
    assert_eq!(lab.answers(1), [Installed::NotNow], "it may be another's");
    lab.install([3], T);
    assert!(lab.goes_on(3));
    for at in [0, 10] {
        lab.read(second(at));
        assert!(lab.goes_on(1) && lab.goes_on(2));
    }
    // Its worker wants it back already: it is answered when it can be.
    lab.withdraw([1]);
    assert_eq!(lab.withdrawn(1), 0);
    assert_eq!(lab.adopt([1, 2]), [2, 0, 0]);
    assert_eq!((lab.withdrawn(1), lab.told(1)), (1, [4, 4]));
    assert_eq!(lab.talk(1), [Went::ToUserSpace; 2]);
    lab.withdraw([2, 3]);
    assert_eq!((lab.told(2), lab.told(3)), ([4, 4], [1, 1]));
    lab.assert_empty();
}

#[test]
fn a_flow_that_is_gone_is_told_with_what_it_had_relayed() {
    let mut lab = busy();
    lab.kernel().flush_entries();
    let mut lab = lab.restarted();
    assert_eq!(lab.adopt([1, 2, 5]), [0, 3, 2]);
    assert_eq!(lab.losses(1), [Loss::Deleted]);
    let all = [1, 2, 5].map(|number| lab.told(number));
    assert_eq!(all, [[2, 2], [2, 2], [0, 0]]);
    lab.assert_empty();
}

#[test]
fn of_two_that_claim_the_same_flow_one_has_it() {
    let mut lab = busy().restarted();
    assert_eq!(lab.adopt([1, 1, 2]), [2, 1, 0]);
    lab.withdraw([1, 2]);
    assert_eq!(lab.told(1), [2, 2], "counted once");
    lab.assert_empty();
}

#[test]
fn a_table_of_another_make_is_replaced_and_its_flows_are_lost_with_their_totals() {
    for is_gone in [false, true] {
        let mut lab = busy();
        lab.kernel().table_is_other = true;
        if is_gone {
            lab.kernel().flush_table();
        }
        let mut lab = lab.restarted();
        assert_eq!(lab.talk(1), [Went::ToUserSpace; 2]);
        assert_eq!(lab.adopt([1]), [0, 1, 2]);
        let known = if is_gone { [1, 1] } else { [2, 2] };
        assert_eq!((lab.losses(1), lab.told(1)), (vec![Loss::Deleted], known));
        lab.install([1], T);
        assert!(lab.goes_on(1));
        lab.withdraw([1]);
        lab.assert_empty();
    }
}

#[test]
fn a_flow_whose_counters_began_anew_before_the_take_over_counts_from_there() {
    let mut lab = busy();
    lab.read(T);
    let noted = lab.counted.clone();
    lab.kernel().flush_table();
    lab.listen(T);
    assert!(lab.news.contains(&FlowNews::CountedAnew));
    assert!(lab.goes_on(1));
    // Nobody has written that down.
    lab.counted = noted;
    let mut lab = lab.restarted();
    assert_eq!(lab.told(1), [2, 2]);
    assert_eq!(lab.adopt([1, 2]), [2, 0, 0]);
    lab.read(T);
    assert_eq!(lab.told(1), [3, 3]);
}

#[test]
fn what_cannot_be_read_is_lost_and_removed_later() {
    for request in [Request::Entries, Request::Elements] {
        let mut lab = busy().restarted();
        let fault = Some(Fault::Refused(libc::ENOBUFS));
        lab.kernel().faults.insert(request, vec![fault; 2]);
        assert_eq!(lab.adopt([1, 2]), [0, 2, 0]);
        assert_eq!(lab.told(1), [2, 2], "it was read at the start");
        assert!(lab.forwarder.has_work());
        lab.read(T);
        lab.read(T);
        lab.assert_empty();
    }
}

#[test]
fn a_relay_that_leaves_leaves_all_as_it_is() {
    for fault in [None, Some(Fault::Refused(libc::EPERM))] {
        let mut lab = busy();
        lab.kernel().faults.insert(Request::Leave, vec![fault]);
        lab.forwarder.leave(Duration::from_secs(60));
        let left_for = fault.is_none().then_some(Duration::from_secs(60));
        assert_eq!(lab.kernel().left_for, left_for);
        assert!(lab.goes_on(1) && lab.goes_on(2));
        let mut lab = lab.restarted();
        assert_eq!(lab.adopt([1, 2]), [2, 0, 0]);
    }
}

/// One that is killed while it looks at why a flow is stuck, or leaves then, leaves no trace of that.
#[test]
fn a_relay_that_leaves_ends_its_watch() {
    let mut lab = busy();
    lab.read(T);
    lab.kernel().drops = true;
    for _ in 0..3 {
        lab.talk(1);
    }
    lab.read(T);
    assert!(lab.kernel().watched.is_some());
    lab.forwarder.leave(Duration::from_secs(60));
    assert!(lab.kernel().watched.is_none());
}

/// A relay dies with each of its requests, that one done or not. The next one claims what the first had not said to be
/// withdrawn.
#[test]
fn wherever_a_relay_dies_nothing_is_adopted_by_half_and_all_is_counted_once() {
    let mut deaths = 0;
    for fault in [Fault::Dead, Fault::AnswerLost] {
        for request in 0.. {
            if !dies_at(request, fault) {
                break;
            }
            deaths += 1;
        }
    }
    assert!(deaths > 40, "{deaths}");
}

/// False where it has no such request.
fn dies_at(request: usize, fault: Fault) -> bool {
    let what = format!("{fault:?} {request}");
    let mut lab = Lab::new();
    lab.kernel().dies_at = Some((request, fault));
    let mut relayed = [0; 4];
    let mut talk = |lab: &mut Lab, may_fail: bool| {
        for (number, relayed) in (1..).zip(&mut relayed) {
            let went = lab.talk(number);
            assert!(!went.contains(&Went::Nowhere), "{what}");
            let on = went.map(|went| matches!(went, Went::On(_)));
            assert!(may_fail || on[0] == on[1], "{what}: flow {number} by half");
            *relayed += u64::from(on[0]) + u64::from(on[1]);
        }
    };
    let steps: [&dyn Fn(&mut Lab); 10] = [
        &|lab| lab.forwarder.install(&[wanted(1), wanted(2)], T),
        &|lab| lab.forwarder.read(T),
        &|lab| lab.forwarder.withdraw(&[key(1)], T),
        &|lab| lab.forwarder.install(&[wanted(1), wanted(3)], T),
        &|lab| lab.forwarder.read(second(10)),
        &|lab| lab.forwarder.withdraw(&[key(2), key(3)], second(10)),
        &|lab| lab.forwarder.install(&[wanted(4)], second(10)),
        &|lab| lab.forwarder.read(second(20)),
        &|lab| lab.forwarder.withdraw(&[key(1)], second(20)),
        &|lab| lab.forwarder.withdraw(&[key(4)], second(20)),
    ];
    let mut claimed = vec![];
    for (number, step) in steps.into_iter().enumerate() {
        let asked_for: &[u32] = match number {
            0 => &[1, 2],
            3 => &[1, 3],
            6 => &[4],
            _ => &[],
        };
        claimed.extend(asked_for);
        step(&mut lab);
        if lab.kernel().is_dead {
            // Whether they were installed nobody knows.
            let unknown = asked_for
                .iter()
                .map(|number| (flow(*number), [u64::MAX; 2]));
            lab.counted.extend(unknown);
            break;
        }
        let news_before = lab.news.len();
        lab.hear();
        for news in &lab.news[news_before..] {
            if let FlowNews::Withdrawn(of, _) = news {
                claimed.retain(|number| flow(*number) != *of);
            }
        }
        talk(&mut lab, false);
    }
    let is_dead = lab.kernel().is_dead;
    talk(&mut lab, true);
    let mut lab = lab.restarted();
    talk(&mut lab, true);
    let [adopted, lost, _] = lab.adopt(claimed.clone());
    assert_eq!(adopted + lost, claimed.len(), "{what}");
    talk(&mut lab, false);
    lab.read(second(21));
    lab.withdraw(1..5);
    lab.assert_empty();
    for (number, relayed) in (1..).zip(relayed) {
        let told: u64 = lab.told(number).iter().sum();
        assert_eq!(told, relayed, "{what}: flow {number}");
    }
    is_dead
}

fn wanted(number: u32) -> crate::relay::kernel::flow::Flow {
    crate::relay::kernel::flow::Flow {
        key: key(number),
        ends: super::lab::ends(number),
    }
}
