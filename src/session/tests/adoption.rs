//! Sessions that another process of the relay has begun.

use super::*;

fn saved(lab: &mut Lab) -> Vec<(SessionId, Option<Vec<u8>>)> {
    let mut changes = Vec::new();
    lab.engine.take_changes(|id, owner, state| {
        assert_eq!(owner, Owner(0));
        changes.push((id, state.map(<[u8]>::to_vec)));
    });
    changes
}

/// The state of the only session that has changed.
#[track_caller]
fn state(lab: &mut Lab) -> Vec<u8> {
    let mut changes = saved(lab);
    assert_eq!(changes.len(), 1);
    changes.remove(0).1.expect("it goes on")
}

/// The next process, which has taken over a session.
fn next(lab: &Lab, state: &[u8]) -> (Lab, Vec<AdoptedFlow>) {
    let mut next = Lab::with(lab.settings.clone());
    next.now = lab.now;
    next.host.last_alive = Some(lab.now);
    let now = next.moment();
    let flows = next.engine.adopt(state, Owner(0), &mut next.host, now);
    next.drain_actions();
    (next, flows.expect("a state that can be used"))
}

#[test]
fn a_session_is_told_of_when_it_has_changed_and_not_for_packets() {
    let mut lab = Lab::new();
    assert!(!lab.engine.has_changes());
    let (caller_side, callee_side) = lab.call();
    assert!(lab.engine.has_changes());
    state(&mut lab);
    assert_eq!(saved(&mut lab), []);
    for (party, side) in [(CALLER, caller_side), (CALLEE, callee_side)] {
        lab.rtp(party, side);
        state(&mut lab);
        for _ in 0..100 {
            lab.rtp(party, side);
        }
        assert!(!lab.engine.has_changes());
    }
    lab.remove("A", "B");
    let changes = saved(&mut lab);
    assert_eq!((changes.len(), &changes[0].1), (1, &None));
}

#[test]
fn a_session_that_ends_before_it_is_saved_is_not_told_of() {
    let mut lab = Lab::new();
    lab.talking();
    lab.remove("A", "B");
    assert_eq!(saved(&mut lab), []);
}

#[test]
fn a_call_goes_on_in_the_next_process() {
    let mut lab = Lab::new();
    let (caller_side, callee_side) = lab.talking();
    let state = state(&mut lab);
    assert!(!state.contains(&b'\n'));
    let before = lab.statistics();
    let (mut next, flows) = next(&lab, &state);
    assert_eq!(flows, []);
    let mut after = next.statistics();
    after.as_object_mut().unwrap().remove("adopted");
    assert_eq!(after, before);
    assert_eq!(next.rtp(CALLER, caller_side), to(callee_side, CALLEE));
    assert_eq!(next.rtp(CALLEE, callee_side), to(caller_side, CALLER));
    assert!(next.remove("A", "B"));
    let record = next.removed().unwrap();
    assert_eq!(record["streams"][0]["caller_packets"], 2);
}
