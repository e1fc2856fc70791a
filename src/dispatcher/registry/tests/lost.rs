//! When calls ended whose relays were lost, and what is told of them twice.

use super::*;
use crate::moment::UnixTime;

const DAY: UnixTime = UnixTime::from_secs(86_400);

fn noting() -> Links {
    let mut registry = registry();
    registry.calls.live.note_calls();
    registry.calls.live.set_wall(Now {
        mono: at(0),
        unix: DAY,
    });
    registry
}

fn answered_at(seconds: u64, id: &str) -> ReceivedUpdate {
    changed(answered(id), |u| u.at = at(seconds))
}

fn ended(finished: &EndedCall) -> UnixTime {
    finished.known.as_ref().unwrap().ended.unwrap()
}

/// The call of a session that its relay tells of, with these keys beside those that all have.
fn told(id: &str, more: &str) -> Statistics {
    let json = format!(
        r#"{{"call_id":"{id}","start_time":{},"to_tag":"t","dialog_id":"1:2","streams":[]{more}}}"#,
        DAY.as_secs()
    );
    Statistics::parse(json.as_bytes()).unwrap()
}

/// It came back 100 s after it was lost, by a crash or without a word.
#[test]
fn a_call_whose_relay_comes_back_without_it_ended_when_the_relay_was_lost() {
    for says_goodbye in [true, false] {
        let mut registry = noting();
        let a = up(&mut registry, ip(1), Some("a"));
        registry.relays.set_instance(a, Some("x-0"));
        registry.updated(a, &answered_at(10, "one"));
        if says_goodbye {
            let lost = registry.link_lost(a, at(50)).unwrap();
            assert_eq!(lost.calls.len(), 1);
            assert_eq!(
                lost.calls[0].call.known.ended,
                Some(DAY + secs(50)),
                "to be noted"
            );
        }
        let back = at(if says_goodbye { 150 } else { 50 });
        let again = LinkId(registry.link_up(ip(1), |id| id.0));
        registry.relays.set_instance(again, Some("x-0"));
        registry.identify(again, Some("a"), back);
        let finished = registry.tells(again, &list(&[]), at(151)).finished;
        assert_eq!(finished[0].reason, Reason::Purged);
        assert_eq!(ended(&finished[0]), DAY + secs(50));
    }
}

#[test]
fn a_call_that_is_there_again_is_noted_as_going_on() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), Some("a"));
    registry.updated(a, &answered_at(10, "one"));
    registry.link_lost(a, at(50));
    let a = up(&mut registry, ip(1), Some("a"));
    let purge = registry.tells(a, &list(&["one"]), at(60));
    assert_eq!(purge.back.len(), 1);
    assert_eq!(purge.back[0].call.known.ended, None);
    assert!(registry.tells(a, &list(&["one"]), at(61)).back.is_empty());
    // Its first request on the new link tells the same.
    registry.link_lost(a, at(70));
    let a = up(&mut registry, ip(1), Some("a"));
    let noted = registry.updated(a, &answered_at(71, "one")).unwrap();
    assert_eq!(noted.call.known.ended, None);
}

/// Two hours of them before the dispatcher was killed.
#[test]
fn a_relay_has_been_away_as_long_as_a_dispatcher_saw() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), Some("a"));
    registry.updated(a, &answered_at(10, "one"));
    let mut call = registry.link_lost(a, at(20)).unwrap().calls.remove(0);
    call.away = secs(7200);
    let mut next = noting();
    next.restore([call], at(10_000));
    assert!(next.tick(at(10_000 + 43_199 - 7200)).finished.is_empty());
    let finished = next.tick(at(10_000 + 43_200 - 7200)).finished;
    assert_eq!(ended(&finished[0]), DAY + secs(20));
}

#[test]
fn a_calendar_that_is_set_makes_no_call_longer() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), Some("a"));
    registry.updated(a, &answered_at(10, "one"));
    registry.calls.live.set_wall(Now {
        mono: at(20),
        unix: DAY + secs(86_400),
    });
    registry.link_lost(a, at(50));
    let finished = registry.tick(at(50 + 43_200)).finished;
    assert_eq!(ended(&finished[0]), DAY + secs(50));
}

#[test]
fn an_answer_that_came_late_is_noted() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), Some("a"));
    registry.updated(a, &update("one"));
    let late = registry.updated_late(a, &answered_at(12, "one"));
    assert!(!late.is_stray);
    assert_eq!(late.noted.unwrap().call.known.started, Some(DAY + secs(12)));
    assert_eq!(
        registry.updated_late(a, &answered_at(12, "one")),
        Late::default()
    );
}

/// By the administrator, through a dispatcher that has not made it.
#[test]
fn what_a_relay_tells_of_a_call_that_is_not_ours_is_not_lost() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), Some("a"));
    registry.tells(a, &list(&[]), at(1));
    let finished = registry.removed(a, &call("one"), told("one", ""), at(2));
    assert_eq!(finished.unwrap().reason, Reason::Removed);
}

/// The disk was full when the first call of that name ended.
#[test]
fn what_is_told_again_ends_no_later_call_of_that_name() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), Some("a"));
    registry.updated(a, &answered_at(10, "one"));
    let finished = registry.ended_before(a, Reason::Expired, told("one", ""), at(20));
    assert!(!finished.unwrap().end_dialog, "it is the live call's");
    assert_eq!(registry.place(&call("one")), CallLocation::On(a, a.0));
}

#[test]
fn a_dialog_of_long_ago_is_not_ended() {
    for (duration, is_ended) in [(20, true), (19, false)] {
        let mut registry = noting();
        registry.calls.set_blind_before(DAY + secs(1));
        let a = up(&mut registry, ip(1), Some("a"));
        let statistics = told("one", &format!(r#","duration":{duration}"#));
        let finished = registry.expire(a, statistics, at(3620)).unwrap();
        assert_eq!(finished.end_dialog, is_ended, "{duration}");
    }
}
