//! A relay's `error` is no news of an end, other sessions of one call-id are no news of a call, and a call that the proxy
//! has removed ended then.

use super::*;
use crate::moment::{Moment, UnixTime};

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

/// By these tags; an empty one is none.
fn removal(id: &str, from_tag: &str, to_tag: &str) -> Remove {
    Remove {
        call_id: call(id),
        from_tag: Tag(from_tag.into()),
        to_tag: (!to_tag.is_empty()).then(|| Tag(to_tag.into())),
    }
}

/// The same in a list.
fn has(id: &str, from_tag: &str) -> ListedCall {
    ListedCall {
        call_id: id.to_owned(),
        from_tag: Some(from_tag.to_owned()),
        ..ListedCall::default()
    }
}

/// A relay's word of a session of that call-id which this tag opened.
fn told(id: &str, from_tag: &str, duration: u64) -> Statistics {
    let json = serde_json::json!({"call_id": id, "from_tag": from_tag, "start_time": DAY.as_secs(),
        "duration": duration, "streams": [{"status": "closed", "end_time": duration}]});
    Statistics::parse(json.to_string().as_bytes()).unwrap()
}

/// What a relay is to be asked now.
fn doubted(registry: &mut Links, link: LinkId, now: Moment) -> Vec<CallId> {
    let doubts = registry.doubts(link, true, now);
    doubts.into_iter().flat_map(|one| one.calls).collect()
}

#[test]
fn a_removal_by_tags_that_nobody_has_changes_nothing() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), Some("a"));
    registry.updated(a, &answered_at(10, "one"));
    for (from_tag, to_tag) in [("x", "y"), ("x", ""), ("t", ""), ("x", "t")] {
        let wrong = removal("one", from_tag, to_tag);
        assert_eq!(registry.owe(wrong.clone(), at(15)), None);
        registry.refused(a, &wrong);
    }
    assert!(doubted(&mut registry, a, at(15)).is_empty());
    assert_eq!(registry.place(&call("one")), CallLocation::On(a, a.0));
    // Nor while its relay is away: the right one is owed, and the relay is told by that.
    registry.link_lost(a, at(20));
    assert_eq!(registry.owe(removal("one", "x", "y"), at(21)), None);
    let right = removal("one", "t", "f");
    let noted = registry.owe(right.clone(), at(30)).unwrap();
    assert_eq!(
        noted.call.known.ended,
        Some(DAY + secs(30)),
        "not when the relay was lost"
    );
    let again = up(&mut registry, ip(1), Some("a"));
    let purge = registry.tells(again, &list(&["one"]), at(40));
    assert_eq!(purge.owed, [right]);
}

#[test]
fn a_removal_by_foreign_tags_is_not_that_of_a_call_that_expired() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), Some("a"));
    registry.updated(a, &answered_at(10, "one"));
    registry.expire(a, told("one", "f", 5), at(15));
    assert!(!registry.calls.remove_expired(&removal("one", "x", "y")));
    assert_eq!(registry.place(&call("one")), CallLocation::Expired);
    assert!(registry.calls.remove_expired(&removal("one", "t", "f")));
    assert_eq!(registry.place(&call("one")), CallLocation::Unknown);
}

#[test]
fn a_relay_that_refuses_the_right_removal_is_asked_and_the_call_goes_on_where_it_is_there() {
    for explains in [true, false] {
        let mut registry = noting();
        let a = up(&mut registry, ip(1), Some("a"));
        registry.updated(a, &answered_at(10, "one"));
        let right = removal("one", "f", "t");
        registry.owe(right.clone(), at(15));
        registry.refused(a, &right);
        let doubts = registry.doubts(a, explains, at(15)).remove(0);
        assert_eq!(doubts.calls, [call("one")]);
        assert!(
            registry.doubts(a, explains, at(60)).is_empty(),
            "it was asked"
        );
        let checked = registry.checked(a, doubts, &[has("one", "x"), has("one", "f")], at(16));
        assert!(checked.finished.is_empty());
        assert_eq!(checked.there, [call("one")]);
        let back = &checked.back[0];
        assert_eq!(
            (&back.call.owed, back.call.known.ended),
            (&None, None),
            "to be noted"
        );
        assert_eq!(registry.place(&call("one")), CallLocation::On(a, a.0));
        // Its time goes on, too.
        registry.owe(right, at(50));
        let ended = registry.removed(a, &call("one"), told("one", "f", 40), at(50));
        let ended = ended.unwrap();
        assert_eq!(ended.known.unwrap().ended, Some(DAY + secs(50)));
        assert_eq!(ended.length, None);
    }
}

#[test]
fn what_a_relay_that_refused_its_removal_has_not_is_over_since_that_removal() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), Some("a"));
    for id in ["one", "two"] {
        registry.updated(a, &answered_at(10, id));
        registry.owe(removal(id, "f", "t"), at(15));
        registry.refused(a, &removal(id, "f", "t"));
    }
    let doubts = registry.doubts(a, false, at(16)).remove(0);
    let checked = registry.checked(a, doubts, &[has("two", "t")], at(18));
    let [finished] = &checked.finished[..] else {
        panic!("{checked:?}");
    };
    assert_eq!(
        (&finished.name.call_id, finished.reason),
        (&call("one"), Reason::Removed)
    );
    assert!(!finished.end_dialog && !finished.timed_out);
    assert_eq!(finished.known.as_ref().unwrap().ended, Some(DAY + secs(15)));
    assert_eq!(registry.place(&call("one")), CallLocation::Unknown);
    assert_eq!(registry.place(&call("two")), CallLocation::On(a, a.0));
}

#[test]
fn another_session_of_that_call_id_is_not_what_a_relay_is_asked_for() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), Some("a"));
    registry.updated(a, &answered_at(10, "one"));
    registry.owe(removal("one", "f", "t"), at(15));
    registry.refused(a, &removal("one", "f", "t"));
    let doubts = registry.doubts(a, true, at(16)).remove(0);
    assert!(doubts.has("one") && !doubts.has("two"));
    let checked = registry.checked(a, doubts, &[has("one", "x")], at(16));
    assert_eq!((checked.finished.len(), checked.there.len()), (1, 0));
    assert_eq!(registry.relays.counts(), (1, 0));
    assert_eq!(
        registry.place(&call("one")),
        CallLocation::On(a, a.0),
        "the other one"
    );
}

#[test]
fn what_was_heard_since_a_relay_was_asked_counts_more() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), Some("a"));
    let b = up(&mut registry, ip(2), Some("b"));
    let right = |id: &str| removal(id, "f", "t");
    for id in ["updated", "removed", "again", "elsewhere"] {
        registry.updated(a, &answered_at(10, id));
        registry.owe(right(id), at(15));
        registry.refused(a, &right(id));
    }
    let doubts = registry.doubts(a, false, at(16)).remove(0);
    registry.updated(a, &answered_at(17, "updated"));
    registry.removed(a, &call("removed"), told("removed", "f", 5), at(17));
    registry.updated(a, &answered_at(17, "again"));
    registry.owe(right("again"), at(17));
    registry.removed(a, &call("elsewhere"), told("elsewhere", "f", 5), at(17));
    registry.updated(b, &answered_at(17, "elsewhere"));
    let checked = registry.checked(a, doubts, &[], at(18));
    assert!(checked.finished.is_empty(), "{checked:?}");
    for id in ["updated", "again"] {
        assert_eq!(registry.place(&call(id)), CallLocation::On(a, a.0), "{id}");
    }
    assert_eq!(registry.place(&call("elsewhere")), CallLocation::On(b, b.0));
}

#[test]
fn a_relay_that_does_not_say_is_asked_again_and_a_long_list_is_not_asked_for_all_the_time() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), None);
    let right = removal("one", "f", "t");
    registry.updated(a, &answered_at(10, "one"));
    registry.owe(right.clone(), at(15));
    registry.refused(a, &right);
    let doubts = registry.doubts(a, false, at(15)).remove(0);
    registry.unanswered(a, doubts, at(20));
    assert!(registry.doubts(a, false, at(29)).is_empty());
    let doubts = registry.doubts(a, false, at(30)).remove(0);
    registry.checked(a, doubts, &[has("one", "f")], at(31));
    registry.owe(right.clone(), at(32));
    registry.refused(a, &right);
    assert!(
        registry.doubts(a, false, at(39)).is_empty(),
        "a list is not long ago"
    );
    assert_eq!(registry.doubts(a, false, at(40)).len(), 1);
    // A new link's first list says it anyway.
    registry.link_lost(a, at(41));
    let again = up(&mut registry, ip(1), None);
    assert!(registry.doubts(again, false, at(60)).is_empty());
    assert_eq!(registry.tells(again, &list(&[]), at(61)).finished.len(), 1);
}

#[test]
fn a_relay_that_explains_calls_is_asked_for_a_few_at_a_time() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), None);
    for n in 0..20 {
        let id = format!("call-{n}");
        registry.updated(a, &answered_at(10, &id));
        let right = removal(&id, "f", "t");
        registry.owe(right.clone(), at(15));
        registry.refused(a, &right);
    }
    let mut asked: Vec<CallId> = Vec::new();
    for count in [8, 8, 4, 0] {
        let now = doubted(&mut registry, a, at(15));
        assert_eq!(now.len(), count);
        asked.extend(now);
    }
    asked.sort_unstable();
    asked.dedup();
    assert_eq!(asked.len(), 20);
}

#[test]
fn another_session_of_that_call_id_is_not_the_call() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), Some("a"));
    let b = up(&mut registry, ip(2), Some("b"));
    registry.updated(a, &answered_at(10, "one"));
    let other = changed(answered_at(12, "one"), |u| {
        u.update.from_tag = Tag("x".into());
        u.update.to_tag = None;
        u.update.dialog_id = Some(DialogId("7:8".into()));
    });
    assert_eq!(registry.updated(a, &other), None);
    let about = registry.calls.live.about(&call("one")).remove(0);
    assert_eq!(about.dialog_id, Some(DialogId("1:2".into())));
    assert_eq!(registry.updated_late(a, &other), Late::default());
    // It rings for ever, and is ended by its relay; then one that is removed.
    let expired = registry.expire(a, told("one", "x", 0), at(300)).unwrap();
    assert!(!expired.end_dialog && expired.known.is_some());
    let removed = registry
        .removed(a, &call("one"), told("one", "x", 0), at(301))
        .unwrap();
    assert!(removed.known.is_none());
    assert_eq!(registry.place(&call("one")), CallLocation::On(a, a.0));
    // When the call is over, the other one is still asked for where it is.
    registry.updated(a, &other);
    registry.owe(removal("one", "f", "t"), at(310));
    let ended = registry
        .removed(a, &call("one"), told("one", "f", 300), at(310))
        .unwrap();
    assert!(ended.known.is_some());
    assert_eq!(registry.place(&call("one")), CallLocation::On(a, a.0));
    registry.removed(a, &call("one"), told("one", "x", 0), at(311));
    assert_eq!(registry.place(&call("one")), CallLocation::Unknown);
    assert_eq!(registry.relays.counts(), (2, 0));
    assert_eq!(choose(&mut registry, None, &[a]), Some(b));
}

#[test]
fn tags_that_are_not_utf8_are_recognised_in_json() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), Some("a"));
    for (id, spelling) in [("one", "t\u{fffd}"), ("two", "t?")] {
        let odd = changed(answered_at(10, id), |u| {
            u.update.from_tag = Tag(b"t\xe9".as_slice().into())
        });
        registry.updated(a, &odd);
        let ended = registry.expire(a, told(id, spelling, 5), at(15)).unwrap();
        assert!(ended.known.is_some(), "{spelling}");
    }
    // This dispatcher has met the call by a request of the callee's.
    registry.updated(a, &answered_at(10, "three"));
    let ended = registry.expire(a, told("three", "t", 5), at(15)).unwrap();
    assert!(ended.known.is_some());
}

#[test]
fn a_relay_that_refuses_is_asked_on_where_a_call_was_found() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), Some("a"));
    up(&mut registry, ip(2), Some("b"));
    registry.tells(a, &list(&["one"]), at(1));
    registry.refused(a, &removal("one", "x", "y"));
    assert_eq!(registry.place(&call("one")), CallLocation::On(a, a.0));
}

/// The relay was cut off and hears of the removal at 26; or it has ended the session by itself, for the silence after it.
#[test]
fn a_call_that_was_removed_while_its_relay_was_away_is_as_long_as_until_then() {
    for is_listed in [true, false] {
        let mut registry = noting();
        let a = up(&mut registry, ip(1), Some("a"));
        registry.updated(a, &answered_at(10, "one"));
        registry.link_lost(a, at(13));
        registry.owe(removal("one", "t", "f"), at(18));
        let a = up_at(&mut registry, ip(1), Some("a"), at(26));
        let ended = if is_listed {
            assert_eq!(registry.tells(a, &list(&["one"]), at(26)).owed.len(), 1);
            registry.removed(a, &call("one"), told("one", "f", 16), at(26))
        } else {
            registry.expire(a, told("one", "f", 98), at(116))
        };
        let ended = ended.unwrap();
        assert_eq!(ended.length, Some(secs(8)));
        assert_eq!((ended.reason, ended.timed_out), (Reason::Removed, false));
        let now = Now {
            mono: at(26),
            unix: DAY + secs(26),
        };
        let record: serde_json::Value =
            serde_json::from_str(&ended.record(now, 0).unwrap().text).unwrap();
        assert_eq!(
            (&record["duration"], &record["streams"][0]["end_time"]),
            (&8.into(), &8.into())
        );
    }
}

/// A link that is cut without a word is up until the new one wants its place.
#[test]
fn a_relay_whose_loss_was_not_seen_adds_no_time_either() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), Some("a"));
    registry.updated(a, &answered_at(10, "one"));
    registry.owe(removal("one", "f", "t"), at(18));
    assert!(
        registry
            .still_owed(removal("one", "f", "").mention())
            .is_some(),
        "to be noted"
    );
    registry.link_lost(a, at(130));
    let a = up_at(&mut registry, ip(1), Some("a"), at(130));
    let ended = registry.expire(a, told("one", "f", 98), at(130)).unwrap();
    assert_eq!((ended.length, ended.timed_out), (Some(secs(8)), false));
}

/// From before the start of a dispatcher that has no ledger of them, or another one's.
#[test]
fn calls_that_were_not_known_when_they_were_removed_are_removed_where_they_are_found() {
    let mut registry = noting();
    // The proxy removes many calls that never had media here, and repeats itself.
    for id in ["told", "listed", "foreign", "never"] {
        registry.owe(removal(id, "t", "f"), at(8));
        registry.owe(removal(id, "t", "f"), at(9));
    }
    let a = up_at(&mut registry, ip(1), Some("a"), at(20));
    let told_first = registry.expire(a, told("told", "f", 18), at(20)).unwrap();
    assert_eq!(
        (told_first.length, told_first.timed_out),
        (Some(secs(8)), false)
    );
    assert_eq!(told_first.reason, Reason::Removed);
    let purge = registry.tells(a, &list(&["listed", "foreign", "other"]), at(20));
    let mut owed: Vec<String> = purge.owed.iter().map(|r| r.call_id.to_string()).collect();
    owed.sort();
    assert_eq!(owed, ["foreign", "listed"]);
    let removed = registry.removed(a, &call("listed"), told("listed", "f", 20), at(20));
    assert_eq!(removed.unwrap().length, Some(secs(8)));
    // Once, and not where the relay has said that it is another session.
    registry.refused(a, &removal("foreign", "t", "f"));
    let goes_on = registry
        .expire(a, told("foreign", "x", 30), at(40))
        .unwrap();
    assert_eq!((goes_on.length, goes_on.timed_out), (None, true));
    assert!(
        registry
            .tells(a, &list(&["listed", "foreign"]), at(41))
            .owed
            .is_empty()
    );
    // A new call of that name is another one.
    registry.updated(a, &answered_at(50, "never"));
    registry.link_lost(a, at(51));
    let a = up(&mut registry, ip(1), Some("a"));
    assert!(registry.tells(a, &list(&["never"]), at(52)).owed.is_empty());
}

/// The relay answers at once: its own time is right.
#[test]
fn the_removal_of_a_call_that_was_found_is_not_late() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), Some("a"));
    registry.tells(a, &list(&["one", "two"]), at(1));
    registry.owe(removal("one", "f", "t"), at(8));
    let ended = registry
        .removed(a, &call("one"), told("one", "f", 8), at(8))
        .unwrap();
    assert_eq!(ended.length, None);
    // After an hour nobody has it.
    registry.owe(removal("two", "f", "t"), at(8));
    registry.tick(at(8 + 3600));
    assert!(
        registry
            .tells(a, &list(&["one", "two"]), at(3700))
            .owed
            .is_empty()
    );
}

#[test]
fn the_next_dispatcher_knows_when_a_call_was_removed() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), Some("a"));
    registry.updated(a, &answered_at(10, "one"));
    registry.link_lost(a, at(13));
    let removed = registry.owe(removal("one", "f", "t"), at(18)).unwrap();
    let mut next = noting();
    // Its clock begins anew.
    next.calls.live.set_wall(Now {
        mono: at(1),
        unix: DAY + secs(40),
    });
    next.restore([removed], at(1));
    let a = up_at(&mut next, ip(1), Some("a"), at(2));
    assert_eq!(next.tells(a, &list(&["one"]), at(2)).owed.len(), 1);
    let ended = next
        .removed(a, &call("one"), told("one", "f", 31), at(2))
        .unwrap();
    assert_eq!(ended.length, Some(secs(8)));
    // One that was noted at its relay's loss, and is removed by the proxy later: not before.
    let mut registry = noting();
    let a = up(&mut registry, ip(1), Some("a"));
    registry.updated(a, &answered_at(10, "two"));
    let lost = registry.link_lost(a, at(13)).unwrap().calls;
    let mut next = noting();
    next.restore(lost, at(20));
    let noted = next.owe(removal("two", "f", "t"), at(25)).unwrap();
    assert_eq!(noted.call.known.ended, Some(DAY + secs(25)));
}

#[test]
fn a_relay_whose_list_cannot_be_read_is_told_what_it_missed() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), Some("a"));
    for id in ["one", "two"] {
        registry.updated(a, &answered_at(10, id));
    }
    registry.link_lost(a, at(13));
    registry.owe(removal("one", "f", "t"), at(14));
    let a = up(&mut registry, ip(1), Some("a"));
    assert_eq!(registry.owed(a), [removal("one", "f", "t")]);
}

#[test]
fn it_is_told_why_a_wanted_relay_gets_no_call() {
    let mut registry = registry();
    let wanted = |registry: &Links| registry.relays.unavailable(ip(1));
    assert_eq!(wanted(&registry), Some("is not connected"));
    let id = LinkId(registry.link_up(ip(1), |id| id.0));
    assert_eq!(wanted(&registry), Some("is not connected"));
    registry.identify(id, Some("a"), at(0));
    assert_eq!(wanted(&registry), None);
    registry.relays.timed_out(id, at(0));
    assert_eq!(wanted(&registry), Some("does not answer"));
    registry.relays.answers_again(id);
    registry.relays.halting(id);
    assert_eq!(wanted(&registry), Some("is halting"));
    let key = registry.relays.relay_of(id).unwrap().clone();
    registry.relays.drain(&key);
    assert_eq!(wanted(&registry), Some("is drained"));
    up(&mut registry, ip(1), Some("b"));
    assert_eq!(wanted(&registry), None, "another one there takes it");
}
