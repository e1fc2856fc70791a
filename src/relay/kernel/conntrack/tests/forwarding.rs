//! The forwarder against a kernel in memory, and every request of its failing in every way: whatever happens, each
//! order is answered once, no packet is lost that need not be, all are counted once, and nothing is left behind.

use super::fake::{Fault, Request, Went};
use super::lab::{Lab, T, ends, entry, flow, key, second};
use crate::netlink::conntrack::Tuple;
use crate::relay::kernel::conntrack;
use crate::relay::kernel::conntrack::forwarding::LIFETIME;
use crate::relay::kernel::flow::Flow;
use crate::session::{FlowNews, Installed, Loss};

#[test]
fn a_flow_goes_there_and_back_and_every_packet_is_counted_once() {
    let mut lab = Lab::new();
    assert_eq!(lab.talk(1), [Went::ToUserSpace; 2]);
    lab.install([1, 2], T);
    assert_eq!(lab.answers(1), [Installed::Taken]);
    let [caller, callee] = lab.talk(1);
    let leaves = |source: &str, destination: &str| {
        Went::On(Tuple {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        })
    };
    assert_eq!(caller, leaves("10.0.0.1:40006", "192.0.2.2:31000"));
    assert_eq!(callee, leaves("10.0.0.1:40004", "192.0.2.1:30000"));
    lab.read(T);
    assert_eq!(lab.told(1), [1, 1]);
    assert_eq!(lab.news.last(), Some(&FlowNews::Heard(T)));
    lab.talk(1);
    lab.talk(1);
    lab.withdraw([1]);
    assert_eq!(lab.told(1), [3, 3]);
    assert_eq!(lab.talk(1), [Went::ToUserSpace; 2]);
    assert!(lab.goes_on(2), "the other one is not touched");
    lab.withdraw([2, 2, 9]);
    assert_eq!((lab.withdrawn(2), lab.withdrawn(9)), (2, 1));
    lab.assert_empty();
}

#[test]
fn what_is_due_together_goes_in_one_transaction() {
    let mut lab = Lab::new();
    lab.install(0..50, T);
    assert_eq!(lab.kernel().log, [Request::Create, Request::Alter]);
    lab.kernel().log.clear();
    lab.withdraw(0..50);
    assert_eq!(
        lab.kernel().log,
        [Request::Alter, Request::Delete, Request::Left]
    );
    lab.install(0..1000, T);
    assert!((0..1000).all(|number| lab.goes_on(number)));
    lab.withdraw(0..1000);
    assert!((0..1000).all(|number| lab.told(number) == [1, 1]));
    lab.assert_empty();
}

#[test]
fn few_flows_are_read_one_by_one_and_all_entries_only_now_and_then() {
    let mut lab = Lab::new();
    lab.install(0..3, T);
    let asked = |lab: &mut Lab, at: u64| {
        (0..3).for_each(|number| assert!(lab.goes_on(number)));
        lab.kernel().log.clear();
        lab.read(second(at));
        lab.kernel().log.clone()
    };
    let listed = [Request::Entries, Request::Elements];
    let by_name = [Request::Get, Request::Elements];
    assert_eq!(asked(&mut lab, 0), listed);
    assert_eq!(asked(&mut lab, 1), by_name);
    assert_eq!(asked(&mut lab, 4), by_name);
    assert_eq!(asked(&mut lab, 5), listed);
    lab.install(3..300, second(5));
    assert_eq!(asked(&mut lab, 6), listed);
    lab.withdraw(3..300);
    // What lingers of them goes.
    lab.read(second(7));
    assert_eq!(asked(&mut lab, 7), by_name);
    assert_eq!(lab.told(1), [6, 6]);
    // One that is gone is missed by name, too.
    lab.kernel().flush_entries();
    lab.read(second(8));
    assert_eq!(lab.losses(1), [Loss::Deleted]);
}

#[test]
fn a_party_on_this_host_stays_in_user_space() {
    let mut lab = Lab::new();
    for remote in ["10.0.0.7:4000", "127.0.0.9:4000"] {
        let mut ends = ends(1);
        ends.callee.remote = remote.parse().unwrap();
        lab.forwarder.install(&[Flow { key: key(1), ends }], T);
        lab.hear();
        assert_eq!(
            lab.news.pop(),
            Some(FlowNews::Installed(flow(1), Installed::Never))
        );
    }
    lab.assert_empty();
}

#[test]
fn an_entry_in_the_way_is_removed_if_it_is_the_relays_own() {
    for blocked in entry(1).entering() {
        let mut lab = Lab::new();
        lab.kernel().occupy(blocked, true);
        lab.install([1], T);
        assert_eq!(lab.answers(1), [Installed::Taken]);
        assert!(lab.goes_on(1));
        let mut lab = Lab::new();
        lab.kernel().occupy(blocked, false);
        lab.install([1], T);
        assert_eq!(lab.answers(1), [Installed::NotNow]);
        assert_eq!(lab.kernel().entry_count(), 1, "somebody else's stays");
        assert_eq!(lab.talk(1), [Went::ToUserSpace; 2]);
    }
}

#[test]
fn deleted_entries_are_noticed_and_come_back() {
    let mut lab = Lab::new();
    lab.install([1, 2], T);
    lab.talk(1);
    lab.kernel().flush_entries();
    assert_eq!(lab.talk(1), [Went::ToUserSpace; 2], "nothing is lost");
    lab.read(T);
    assert_eq!(lab.losses(1), [Loss::Deleted]);
    assert_eq!(lab.told(1), [1, 1]);
    lab.assert_empty();
    lab.install([1, 2], T);
    assert!(lab.goes_on(1) && lab.goes_on(2));
}

#[test]
fn an_entry_that_nears_its_end_is_replaced_in_time() {
    let mut lab = Lab::new();
    lab.install([1], T);
    lab.kernel().age(LIFETIME - 1000);
    lab.read(T);
    assert_eq!(lab.losses(1), []);
    lab.kernel().age(500);
    lab.talk(1);
    lab.read(T);
    assert_eq!(lab.losses(1), [Loss::Deleted]);
    assert_eq!(lab.told(1), [1, 1]);
    lab.assert_empty();
}

#[test]
fn packets_that_enter_and_do_not_leave_are_not_counted_and_the_call_is_taken_back() {
    let mut lab = Lab::new();
    lab.install([1, 2], T);
    lab.talk(1);
    lab.read(T);
    lab.kernel().drops = true;
    lab.talk(1);
    lab.talk(1);
    lab.read(T);
    assert_eq!(lab.losses(1), [], "two packets may be an accident");
    lab.talk(1);
    lab.read(T);
    let stuck = vec![Loss::Suspended];
    assert_eq!((lab.losses(1), lab.losses(2)), (vec![], stuck.clone()));
    assert_eq!(
        lab.talk(1),
        [Went::Nowhere; 2],
        "it shows how far they come"
    );
    lab.read(T);
    assert_eq!(lab.losses(1), [], "and is left to it");
    lab.end_watch(T);
    assert_eq!((lab.losses(1), lab.losses(2)), (stuck.clone(), stuck));
    assert_eq!(lab.kernel().explained, [(entry(1), Some(true))]);
    assert_eq!(lab.told(1), [1, 1]);
    assert_eq!(lab.talk(1), [Went::ToUserSpace; 2]);
    lab.install([3], second(1));
    assert_eq!(lab.answers(3), [Installed::Suspended], "new ones wait");
    lab.kernel().drops = false;
    lab.install([4], second(16));
    lab.install([5], second(16));
    assert_eq!(
        (lab.answers(4), lab.answers(5)),
        (vec![Installed::Taken], vec![Installed::Suspended])
    );
    assert!(lab.goes_on(4));
    assert_eq!(lab.mended(), 0);
    lab.read(second(17));
    assert_eq!(lab.mended(), 1, "those that wait are told");
    lab.install([1, 6], second(17));
    assert!(lab.goes_on(1) && lab.goes_on(6));
    lab.read(second(18));
    assert_eq!(lab.mended(), 1, "once");
}

/// The two hosts of a flow: those of all others of the tests are 192.0.2.1 and .2.
fn between(number: u32, hosts: [&str; 2]) -> Flow {
    let mut ends = ends(number);
    for (end, host) in ends.iter_mut().zip(hosts) {
        end.remote.set_ip(host.parse().unwrap());
    }
    let key = key(number);
    Flow { key, ends }
}

fn talk_between(lab: &mut Lab, wanted: Flow) -> [Went; 2] {
    let entry = conntrack::entry(&wanted.ends).unwrap();
    entry.entering().map(|tuple| lab.kernel().packet(tuple))
}

#[test]
fn one_host_that_gets_nothing_holds_up_the_flows_to_it_alone() {
    let mut lab = Lab::new();
    let blocked = [7, 8, 9].map(|number| between(number, ["192.0.2.1", "192.0.2.9"]));
    lab.forwarder.install(&blocked[..2], T);
    lab.install([1], T);
    let talk = |lab: &mut Lab, drops: bool| {
        for _ in 0..3 {
            lab.kernel().drops = drops;
            for wanted in blocked {
                talk_between(lab, wanted);
            }
            lab.kernel().drops = false;
            lab.talk(1);
        }
    };
    talk(&mut lab, true);
    lab.read(T);
    lab.end_watch(T);
    let losses = [1, 7, 8].map(|number| lab.losses(number));
    assert_eq!(
        losses,
        [vec![], vec![Loss::Suspended], vec![Loss::Suspended]]
    );
    assert_eq!(lab.kernel().explained.len(), 1);
    // New ones wait as well, in either direction; those to others do not.
    let back = between(9, ["192.0.2.9", "192.0.2.1"]);
    lab.forwarder.install(
        &[blocked[2], back, between(2, ["192.0.2.1", "192.0.2.2"])],
        second(1),
    );
    lab.hear();
    assert_eq!(lab.answers(9), [Installed::Suspended; 2]);
    assert_eq!(lab.answers(2), [Installed::Taken]);
    // Its trial fails, and costs this one alone some packets.
    for (number, at) in [(7, 15), (8, 15)] {
        lab.forwarder.install(&[blocked[number - 7]], second(at));
    }
    talk(&mut lab, true);
    lab.read(second(16));
    assert_eq!(lab.losses(7).len(), 2);
    assert_eq!(lab.answers(8), [Installed::Taken, Installed::Suspended]);
    assert_eq!(lab.kernel().explained.len(), 1, "no news");
    // Mended.
    lab.forwarder.install(&[blocked[1]], second(16 + 30));
    talk(&mut lab, false);
    lab.read(second(47));
    assert_eq!(lab.mended(), 1);
    lab.forwarder.install(&[blocked[0], blocked[2]], second(47));
    lab.hear();
    for wanted in blocked {
        assert!(
            talk_between(&mut lab, wanted)
                .iter()
                .all(|went| matches!(went, Went::On(_)))
        );
    }
    assert!(
        lab.forwarder
            .trust()
            .paths
            .admit(&ends(1), second(48), false)
    );
}

#[test]
fn trouble_of_one_flow_is_its_own() {
    let mut lab = Lab::new();
    lab.install([1, 2], T);
    for _ in 0..3 {
        lab.kernel().drops = true;
        lab.talk(1);
        lab.kernel().drops = false;
        lab.talk(2);
    }
    lab.read(T);
    lab.end_watch(T);
    assert_eq!((lab.losses(1), lab.losses(2)), (vec![Loss::Stuck], vec![]));
    assert!(
        lab.forwarder.trust().paths.is_empty(),
        "others go the same way"
    );
}

#[test]
fn packets_that_do_not_reach_an_entry_are_trouble_unless_it_was_gone() {
    let mut lab = Lab::new();
    lab.install([1], T);
    lab.kernel().flush_entries();
    lab.read(T);
    // The kernel thread was held up, and worker and thread have found out at once.
    lab.forwarder.suspect(&[key(1)], T);
    lab.hear();
    lab.install([1], T);
    assert_eq!(lab.answers(1), [Installed::Taken; 2]);
    lab.forwarder.suspect(&[key(1)], T);
    lab.hear();
    lab.install([1], second(14));
    assert_eq!(lab.answers(1).pop(), Some(Installed::Suspended));
    lab.install([1], second(15));
    assert!(lab.goes_on(1), "the rule is gone");
    lab.read(second(16));
    assert_eq!(lab.mended(), 1);
}

#[test]
fn a_table_that_comes_back_is_told() {
    let mut lab = Lab::new();
    lab.install([1], T);
    let fault = Some(Fault::Refused(libc::EPERM));
    lab.kernel().faults.insert(Request::Rebuild, vec![fault; 3]);
    lab.kernel().flush_table();
    lab.listen(T);
    lab.read(second(1));
    assert_eq!((lab.losses(1), lab.mended()), (vec![Loss::Deleted], 0));
    lab.read(second(2));
    assert_eq!(lab.mended(), 1);
    lab.install([1], second(2));
    assert!(lab.goes_on(1));
}

#[test]
fn one_destination_that_gets_nothing_does_not_stop_the_others() {
    let mut lab = Lab::new();
    lab.install([1, 2], T);
    for _ in 0..3 {
        lab.kernel().drops = true;
        lab.talk(1);
        lab.kernel().drops = false;
        lab.talk(2);
    }
    lab.read(T);
    lab.end_watch(T);
    assert_eq!((lab.losses(1), lab.losses(2)), (vec![Loss::Stuck], vec![]));
    lab.install([3], T);
    assert_eq!(lab.answers(3), [Installed::Taken]);
}

#[test]
fn what_cannot_be_watched_is_taken_back_and_explained_at_once() {
    let mut lab = Lab::new();
    lab.install([1, 2, 3], T);
    let fault = Some(Fault::Refused(libc::ENOBUFS));
    lab.kernel().faults.insert(Request::Watch, vec![fault]);
    let stick = |lab: &mut Lab, number| {
        for _ in 0..3 {
            lab.kernel().drops = true;
            lab.talk(number);
            lab.kernel().drops = false;
            lab.talk(3);
        }
        lab.read(T);
    };
    stick(&mut lab, 1);
    assert_eq!((lab.losses(1), lab.losses(2)), (vec![Loss::Stuck], vec![]));
    assert_eq!(lab.forwarder.watch_ends(), None);
    lab.install([4, 5], T);
    stick(&mut lab, 4);
    stick(&mut lab, 5);
    let stuck = vec![Loss::Stuck];
    assert_eq!((lab.losses(4), lab.losses(5)), (vec![], stuck.clone()));
    lab.withdraw([4]);
    lab.end_watch(T);
    assert_eq!((lab.losses(4), lab.withdrawn(4)), (vec![], 1), "it ended");
    let explained = [(entry(1), None), (entry(5), None), (entry(4), Some(true))];
    assert_eq!(lab.kernel().explained, explained);
}

#[test]
fn a_table_that_somebody_took_away_is_made_again_with_all_flows() {
    let mut lab = Lab::new();
    lab.install([1, 2], T);
    lab.talk(1);
    lab.read(T);
    lab.kernel().flush_table();
    lab.read(T);
    assert!(lab.goes_on(1) && lab.goes_on(2));
    lab.kernel().flush_table();
    lab.listen(T);
    assert!(lab.goes_on(1) && lab.goes_on(2));
    lab.withdraw([1, 2]);
    assert_eq!(lab.told(1), [2, 2], "what was not read before is lost");
    lab.assert_empty();
}

#[test]
fn a_full_table_leaves_calls_in_user_space() {
    let mut lab = Lab::new();
    lab.kernel().most_entries = Some(1);
    lab.install([1, 2], T);
    assert_eq!(
        (lab.answers(1), lab.answers(2)),
        (vec![Installed::Taken], vec![Installed::NotNow])
    );
    assert!(lab.goes_on(1));
    assert_eq!(lab.talk(2), [Went::ToUserSpace; 2]);
    lab.kernel().most_entries = None;
    lab.install([2], T);
    assert!(lab.goes_on(2));
}

#[test]
fn flows_that_cannot_be_watched_are_taken_back_after_a_while() {
    let mut lab = Lab::new();
    lab.install([1], T);
    let fault = Some(Fault::Refused(libc::ENOBUFS));
    lab.kernel().faults.insert(Request::Entries, vec![fault; 3]);
    for at in [0, 9] {
        lab.talk(1);
        lab.read(second(at));
        assert_eq!(lab.losses(1), []);
    }
    lab.read(second(10));
    assert_eq!(lab.losses(1), [Loss::Deleted]);
    assert_eq!(lab.told(1), [2, 2]);
    lab.install([2], second(10));
    assert_eq!(lab.answers(2), [Installed::Suspended], "not at once");
    lab.assert_empty();
}

#[test]
fn at_the_end_nothing_stays() {
    let mut lab = Lab::new();
    lab.install([1, 2], T);
    lab.talk(1);
    lab.forwarder.quit(T);
    lab.hear();
    assert_eq!(lab.told(1), [1, 1]);
    lab.assert_empty();
}

/// Every request, in each of its first calls and for a while, fails in every way while two flows are installed, read, taken back and
/// installed again.
#[test]
fn whatever_request_fails_the_call_goes_on_and_nothing_stays() {
    let faults = [
        Fault::Refused(libc::EPERM),
        Fault::Refused(libc::ENOMEM),
        Fault::Refused(libc::EEXIST),
        Fault::Refused(libc::EBUSY),
        Fault::Refused(libc::ENOBUFS),
        Fault::AnswerLost,
    ];
    let requests = [
        Request::Create,
        Request::Get,
        Request::Delete,
        Request::Entries,
        Request::Alter,
        Request::Elements,
        Request::Left,
        Request::Rebuild,
    ];
    for request in requests {
        for fault in faults {
            for call in 0..8 {
                for length in [1, 2, 30] {
                    survive(request, fault, (call, length));
                }
            }
        }
    }
}

fn survive(request: Request, fault: Fault, (call, length): (usize, usize)) {
    let what = format!("{request:?} {fault:?} {call} {length}");
    let mut lab = Lab::new();
    let mut script = vec![None; call];
    script.extend(vec![Some(fault); length]);
    lab.kernel().faults.insert(request, script);
    let mut relayed = [0; 2];
    for round in 0..3 {
        lab.install([1, 2], second(round));
        for step in 0..4 {
            for (index, number) in [1, 2].into_iter().enumerate() {
                let went = lab.talk(number);
                assert!(!went.contains(&Went::Nowhere), "{what}: lost");
                relayed[index] += went
                    .iter()
                    .filter(|went| matches!(went, Went::On(_)))
                    .count() as u64;
            }
            if step == 2 && round == 1 {
                lab.kernel().flush_entries();
            }
            if step == 1 && round == 1 {
                lab.kernel().flush_table();
                lab.listen(second(round));
            }
            lab.read(second(round));
        }
        lab.withdraw([1, 2]);
        assert_eq!(
            lab.talk(1),
            [Went::ToUserSpace; 2],
            "{what}: a stale source"
        );
        assert_eq!(lab.withdrawn(1), round as usize + 1, "{what}");
    }
    assert_eq!(lab.answers(1).len(), 3, "{what}: answered once each");
    assert!(lab.kernel().log.contains(&request), "{what}: never asked");
    // What could not be undone at once is found later.
    lab.kernel().faults.clear();
    lab.read(second(9));
    lab.read(second(9));
    assert!(!lab.forwarder.has_work(), "{what}");
    lab.assert_empty();
    for (index, number) in [1, 2].into_iter().enumerate() {
        let [caller, callee] = lab.told(number);
        assert!(caller + callee <= relayed[index], "{what}: counted twice");
    }
}
