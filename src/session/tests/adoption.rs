//! Sessions that another process of the relay has begun. That each step of every other test may have a change of the process
//! before it, `shadow` sees to; here is what only a crash brings about.

use super::media::{installs, kernel_lab};
use super::*;

const AB: (&str, &str) = ("A", "B");
const NONE: [Counters; 2] = [Counters {
    packets: 0,
    bytes: 0,
}; 2];

fn count(caller: u64, callee: u64) -> [Counters; 2] {
    [caller, callee].map(|packets| Counters {
        packets,
        bytes: packets * 200,
    })
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

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

/// The next process, after so long: it has taken over a session. The one before has left what it counted in user space.
fn after(lab: &Lab, state: &[u8], gap: Duration) -> (Lab, Vec<AdoptedFlow>) {
    let mut next = Lab::with(lab.settings.clone());
    for (&port, &place) in &lab.host.bound {
        if let Some(tally) = lab.engine.tally(place) {
            next.host.tallies.insert(port, tally);
        }
    }
    next.host.last_alive = Some(lab.now);
    next.now = lab.now + gap;
    let now = next.moment();
    let flows = next.engine.adopt(state, Owner(0), &mut next.host, now);
    next.drain_actions();
    (next, flows.expect("a state that can be used"))
}

fn next(lab: &Lab, state: &[u8]) -> (Lab, Vec<AdoptedFlow>) {
    after(lab, state, seconds(3))
}

/// A call whose RTP the kernel has, and that flow.
fn in_kernel() -> (Lab, FlowId) {
    let mut lab = kernel_lab();
    lab.talking();
    let flow = installs(&mut lab)[0].0;
    lab.flow_installed(flow, Installed::Taken);
    (lab, flow)
}

/// What the kernel has relayed from each party, as the only session's record says.
fn relayed(record: &Value) -> [u64; 2] {
    let stream = &record["streams"][0];
    ["caller", "callee"].map(|party| {
        let number = &stream[format!("{party}_packets_kernel")];
        number.as_u64().unwrap()
    })
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
    let (mut next, flows) = after(&lab, &state, Duration::ZERO);
    assert_eq!(flows, []);
    let mut after = next.statistics();
    let adopted = after.as_object_mut().unwrap().remove("adopted");
    assert_eq!(adopted, Some((1_700_000_000_u64 + 1000).into()));
    assert_eq!(after, before);
    assert_eq!(next.rtp(CALLER, caller_side), to(callee_side, CALLEE));
    assert_eq!(next.rtp(CALLEE, callee_side), to(caller_side, CALLER));
    assert!(next.remove("A", "B"));
    let record = next.removed().unwrap();
    assert_eq!(record["streams"][0]["caller_packets"], 1);
}

#[test]
fn what_user_space_has_counted_since_the_state_was_saved_is_in_the_record() {
    let mut lab = Lab::new();
    let (caller_side, callee_side) = lab.talking();
    let state = state(&mut lab);
    for _ in 0..7 {
        lab.rtp(CALLER, caller_side);
    }
    lab.rtp(CALLEE, callee_side);
    let before = lab.statistics();
    let (mut next, _) = next(&lab, &state);
    assert_eq!(next.statistics()["streams"], {
        let mut streams = before["streams"].clone();
        streams[0]["end_time"] = 3.into();
        streams
    });
    next.rtp(CALLER, caller_side);
    assert!(next.remove("A", "B"));
    let stream = &next.removed().unwrap()["streams"][0];
    assert_eq!(
        (&stream["caller_packets"], &stream["callee_packets"]),
        (&8.into(), &2.into())
    );
}

#[test]
fn what_the_kernel_has_counted_is_in_the_record_once() {
    // As long as the state is older than the readings, and where it is not.
    for is_saved_late in [false, true] {
        let (mut lab, flow) = in_kernel();
        lab.flow_traffic(flow, count(100, 90));
        let early = state(&mut lab);
        lab.flow_traffic(flow, count(10, 9));
        let mut late = Vec::new();
        lab.engine
            .save_all(|_, _, state| late.extend_from_slice(state.unwrap()));
        assert!(!lab.engine.has_changes(), "readings are no change");
        let (mut next, flows) = next(&lab, if is_saved_late { &late } else { &early });
        let [AdoptedFlow { flow, counted, .. }] = flows[..] else {
            panic!("{flows:?}");
        };
        let told = if is_saved_late {
            count(110, 99)
        } else {
            count(100, 90)
        };
        assert_eq!(counted, told.into());
        // The entry has 150 and 140 by now.
        let rest = [150 - told[0].packets, 140 - told[1].packets];
        next.flow_traffic(flow, count(rest[0], rest[1]));
        assert_eq!(relayed(&next.statistics()), [150, 140]);
        assert!(next.remove("A", "B"));
        next.flow_withdrawn(flow, count(1, 1));
        assert_eq!(relayed(&next.removed().unwrap()), [151, 141]);
    }
}

#[test]
fn a_flow_that_was_asked_for_and_not_answered_may_be_in_the_kernel() {
    let mut lab = kernel_lab();
    let (caller_side, _) = lab.talking();
    let (asked, ends) = installs(&mut lab)[0];
    let state = state(&mut lab);
    let (mut next, flows) = next(&lab, &state);
    let [adopted] = flows[..] else {
        panic!("{flows:?}");
    };
    assert_eq!((adopted.ends, adopted.flow.turn), (ends, asked.turn));
    assert_eq!(adopted.counted, PerParty::default());
    next.rtp(CALLER, caller_side);
    assert_eq!(installs(&mut next), [], "it has it");
    // It has not after all.
    next.flow_lost(adopted.flow, Loss::Deleted, NONE);
    next.rtp(CALLER, caller_side);
    assert_eq!(installs(&mut next)[0].0.turn, asked.turn + 1);
}

#[test]
fn a_flow_that_was_to_leave_the_kernel_is_asked_for_again() {
    let (mut lab, flow) = in_kernel();
    lab.flow_traffic(flow, count(50, 50));
    lab.update("request", 2, AB, &audio("198.18.0.7:7000"));
    let reply = request("reply", 2, AB, &format!("media: {}\r\n", audio(CALLEE)));
    lab.ask(reply.as_bytes());
    assert_eq!(lab.answers(), [], "it waits for the kernel");
    let state = state(&mut lab);
    let (mut next, flows) = next(&lab, &state);
    let [adopted] = flows[..] else {
        panic!("{flows:?}");
    };
    assert_eq!(adopted.counted, count(50, 50).into());
    assert!(
        next.actions.contains(&Action::Withdraw(adopted.flow)),
        "{:?}",
        next.actions
    );
    next.flow_withdrawn(adopted.flow, count(2, 3));
    assert_eq!(relayed(&next.statistics()), [52, 53]);
}

#[test]
fn a_call_that_was_over_and_waited_for_the_kernel_is_reported_once_and_is_no_longer_for_that() {
    let (mut lab, flow) = in_kernel();
    lab.flow_traffic(flow, count(50, 50));
    lab.now += seconds(10);
    lab.remove("A", "B");
    let state = state(&mut lab);
    let (mut next, flows) = after(&lab, &state, seconds(60));
    assert_eq!(next.host.bound.len(), 0, "its ports are given back");
    assert_eq!(next.engine.sessions().live_count(), 0);
    let [adopted] = flows[..] else {
        panic!("{flows:?}");
    };
    assert_eq!(
        next.expired(),
        None,
        "not before the kernel has told the rest"
    );
    next.flow_withdrawn(adopted.flow, count(1, 0));
    let record = next.expired().unwrap();
    assert_eq!(relayed(&record), [51, 50]);
    assert_eq!(record["duration"], 10);
    assert_eq!(
        saved(&mut next).pop().unwrap().1,
        None,
        "nothing of it is kept"
    );
}

#[test]
fn when_the_kernel_counts_anew_the_state_says_so() {
    let (mut lab, flow) = in_kernel();
    lab.flow_traffic(flow, count(50, 50));
    state(&mut lab);
    lab.flow_news(FlowNews::CountedAnew);
    let state = state(&mut lab);
    let (mut next, flows) = next(&lab, &state);
    assert_eq!(flows[0].counted, PerParty::default());
    next.flow_traffic(flows[0].flow, count(5, 6));
    assert_eq!(relayed(&next.statistics()), [55, 56]);
}

#[test]
fn a_flow_that_the_kernel_lost_is_not_claimed() {
    let (mut lab, flow) = in_kernel();
    lab.flow_lost(flow, Loss::Stuck, count(5, 6));
    let state = state(&mut lab);
    let (next, flows) = next(&lab, &state);
    assert_eq!(flows, []);
    assert_eq!(relayed(&next.statistics()), [5, 6]);
}

#[test]
fn without_a_kernel_path_nothing_is_waited_for() {
    let (mut lab, _) = in_kernel();
    lab.remove("A", "B");
    let state = state(&mut lab);
    lab.settings.kernel = Err("forwarding = userspace".into());
    let (mut next, flows) = next(&lab, &state);
    assert_eq!(flows, []);
    assert!(next.expired().is_some());
}

#[test]
fn a_call_whose_ports_are_taken_is_ended_with_all_that_is_known() {
    let (mut lab, _) = in_kernel();
    let state = state(&mut lab);
    for is_first in [true, false] {
        let mut next = Lab::with(lab.settings.clone());
        next.now = lab.now + seconds(1);
        let ports = lab.host.bound.keys().filter(|port| port.is_multiple_of(2));
        let mut ports: Vec<u16> = ports.copied().collect();
        ports.sort_unstable();
        let taken = if is_first { ports[0] } else { ports[1] };
        assert!(next.host.pool.claim(taken));
        let now = next.moment();
        let flows = next
            .engine
            .adopt(&state, Owner(7), &mut next.host, now)
            .unwrap();
        next.drain_actions();
        assert_eq!(next.host.bound.len(), 0, "the other pair is closed");
        let closed = next
            .actions
            .iter()
            .filter(|a| matches!(a, Action::Close { .. }));
        assert_eq!(closed.count(), 1);
        assert!(next.actions.contains(&Action::Withdraw(flows[0].flow)));
        next.flow_withdrawn(flows[0].flow, count(3, 4));
        let owner = next.actions.iter().find_map(|action| match action {
            Action::Expired { owner, .. } => Some(*owner),
            _ => None,
        });
        assert_eq!(owner, Some(Owner(7)));
        assert_eq!(relayed(&next.expired().unwrap()), [3, 4]);
    }
}

#[test]
fn the_time_without_a_process_is_nobodys_silence() {
    // In user space, silent for 80 of the 90 seconds that a stream may be, and then nobody listens for a minute.
    let mut lab = Lab::new();
    lab.talking();
    let state = state(&mut lab);
    lab.now += seconds(80);
    let (mut next, _) = after(&lab, &state, seconds(60));
    next.pass(9);
    assert_eq!(next.engine.sessions().live_count(), 1);
    next.pass(1);
    assert_eq!(next.engine.sessions().live_count(), 0);
    // In the kernel, which has not told anything yet.
    let (mut lab, _) = in_kernel();
    let state = self::state(&mut lab);
    lab.now += seconds(80);
    let (mut next, _) = after(&lab, &state, seconds(60));
    next.pass(80);
    assert_eq!(next.engine.sessions().live_count(), 1);
    next.flows_heard(next.now + seconds(20));
    next.pass(10);
    assert_eq!(next.engine.sessions().live_count(), 0);
}

#[test]
fn nobody_takes_a_partys_place_because_no_process_was_there() {
    let mut lab = Lab::new();
    let (caller_side, _) = lab.call();
    let other = "198.18.0.1:4444";
    lab.rtp(other, caller_side);
    let state = state(&mut lab);
    let (mut next, _) = after(&lab, &state, seconds(30));
    let waiting = PacketVerdict::Drop(DropReason::Waiting);
    assert_eq!(
        next.rtp(CALLER, caller_side),
        waiting,
        "what the SDP names, and not in use"
    );
    next.now += seconds(1);
    assert_ne!(
        next.rtp(CALLER, caller_side),
        waiting,
        "the other one is silent"
    );
}

/// A call of which much is known, with names that are not UTF-8.
fn full() -> Lab {
    let mut lab = kernel_lab();
    let more = "signaling_ip: 192.0.2.4\r\ndialog_id: 7:8\r\n";
    let media = format!("{more}media: {}\r\n", audio(CALLER));
    let mut bytes = request("request", 1, ("A", ""), &media).into_bytes();
    let at = bytes.windows(3).position(|w| w == b"a@x").unwrap();
    bytes[at] = 0xe9;
    let callee_side = ports(&lab.take(&bytes))[0];
    let caller_side = ports(&lab.update("reply", 1, AB, &audio(CALLEE)))[0];
    lab.rtp(CALLER, caller_side);
    lab.rtp(CALLEE, callee_side);
    let mut other = rtp(8);
    other[8] = 7;
    lab.packet("198.18.0.9:9", callee_side, &other);
    let flow = installs(&mut lab)[0].0;
    lab.flow_installed(flow, Installed::Taken);
    lab.flow_traffic(flow, count(12, 13));
    lab.update("request", 2, AB, &item("audio", CALLER, "sendonly"));
    lab
}

#[test]
fn a_state_that_is_cut_or_changed_is_refused_and_never_more() {
    let mut lab = full();
    let state = state(&mut lab);
    let try_it = |state: &[u8]| {
        let mut next = Lab::with(lab.settings.clone());
        let now = next.moment();
        next.engine.adopt(state, Owner(0), &mut next.host, now)
    };
    for end in 0..state.len() {
        assert!(try_it(&state[..end]).is_err(), "{end}");
    }
    for at in 0..state.len() {
        let mut other = state.clone();
        other[at] = *b"0\"}9\xff".get(at % 5).unwrap();
        let _ = try_it(&other);
    }
    let text = String::from_utf8(state).unwrap();
    for (one, other) in [
        ("\"stream\":0", "\"stream\":1"),
        ("\"port\":40000", "\"port\":40001"),
    ] {
        assert!(text.contains(one), "{one}: {text}");
        assert!(
            try_it(text.replace(one, other).as_bytes()).is_err(),
            "{other}"
        );
    }
}

#[test]
fn a_state_of_another_version_is_read_as_far_as_it_is_understood() {
    let mut lab = full();
    let state = String::from_utf8(state(&mut lab)).unwrap();
    let mut more = state;
    for object in [
        "{\"saved\"",
        "{\"id\"",
        "{\"call_id\"",
        "{\"type\"",
        "{\"local\"",
        "{\"number\"",
    ] {
        assert!(more.contains(object), "{object}");
        more = more.replace(object, &format!("{{\"no such key\":[1],{}", &object[1..]));
    }
    let (next, flows) = self::next(&lab, more.as_bytes());
    assert_eq!(flows.len(), 1);
    assert_eq!(relayed(&next.statistics()), [12, 13]);
    let less = r#"{"saved":1,"session":{"id":"00000000-0000-4000-8000-000000000001","caller_tag":"A","from_uri":"a","to_uri":"b","media":{"call_id":"call","created":1,"locals":{"caller":"10.9.9.9","callee":"10.9.9.9"}}}}"#;
    let mut next = Lab::new();
    let now = next.moment();
    assert_eq!(
        next.engine
            .adopt(less.as_bytes(), Owner(0), &mut next.host, now),
        Ok(vec![])
    );
    assert!(next.remove("A", ""));
}

/// What a relay of this version writes: one that comes later is to read it.
const STATE: &str = include_str!("state.json");

#[test]
fn the_state_of_this_version() {
    let mut lab = full();
    let state = String::from_utf8(state(&mut lab)).unwrap();
    assert_eq!(state, STATE.trim_end());
    assert!(state.len() < 3000, "{} bytes", state.len());
    let (next, flows) = next(&lab, STATE.as_bytes());
    assert_eq!(flows[0].counted, count(12, 13).into());
    let mut record = next.statistics();
    record.as_object_mut().unwrap().remove("adopted");
    let mut before = lab.statistics();
    before["duration"] = record["duration"].clone();
    before["streams"][0]["end_time"] = record["streams"][0]["end_time"].clone();
    assert_eq!(record, before);
}
