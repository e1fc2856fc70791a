//! A relay that is away with several calls: each of them is waited for and recorded, whichever ends first.

use super::*;
use crate::moment::UnixTime;

fn on_a_relay_that_went(ids: &[&str]) -> (Links, LinkId) {
    let mut registry = registry();
    let a = up(&mut registry, ip(1), Some("a"));
    let b = up(&mut registry, ip(2), Some("b"));
    for id in ids {
        registry.updated(a, &answered(id));
    }
    assert_eq!(registry.relays.counts(), (2, ids.len()));
    registry.link_lost(a, at(10));
    (registry, b)
}

/// The first has another relay by now.
#[test]
fn the_first_call_that_ends_there_does_not_forget_the_others() {
    let (mut registry, b) = on_a_relay_that_went(&["one", "two", "three"]);
    registry.updated(b, &answered("one"));
    assert_eq!(registry.place(&call("one")), CallLocation::On(b, b.0));
    for id in ["two", "three"] {
        assert!(
            matches!(registry.place(&call(id)), CallLocation::Away(_)),
            "{id}"
        );
    }
    assert_eq!(registry.relays.counts(), (1, 3));
    let finished = registry.tick(at(43_210)).finished;
    let mut ids: Vec<CallId> = finished
        .iter()
        .map(|one| one.name.call_id.clone())
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, [call("three"), call("two")]);
    assert!(finished.iter().all(|one| one.reason == Reason::LostRelay));
    assert_eq!(registry.relays.counts(), (1, 1));
}

#[test]
fn the_others_are_there_again_with_their_relay() {
    let (mut registry, b) = on_a_relay_that_went(&["one", "two", "three"]);
    registry.updated(b, &answered("one"));
    let again = up(&mut registry, ip(1), Some("a"));
    assert_eq!(
        registry.place(&call("two")),
        CallLocation::On(again, again.0)
    );
    let finished = registry.tells(again, &list(&["two"]), at(30)).finished;
    assert_eq!(finished.len(), 1);
    assert_eq!(finished[0].name.call_id, call("three"));
    assert_eq!(registry.relays.counts(), (2, 2));
}

#[test]
fn it_is_forgotten_with_its_last_call_and_not_while_it_is_connected() {
    let (mut registry, b) = on_a_relay_that_went(&["one", "two"]);
    registry.updated(b, &answered("one"));
    assert_eq!(registry.relays.named("a").len(), 1);
    registry.updated(b, &answered("two"));
    assert!(
        registry.relays.named("a").is_empty(),
        "nothing is waited for"
    );
    registry.expire(b, statistics("one", "closed"), at(20));
    registry.expire(b, statistics("two", "closed"), at(20));
    assert_eq!(registry.relays.counts(), (1, 0));
    assert_eq!(registry.relays.named("b").len(), 1);
}

/// The last is what goes into a record where its relay tells nothing more.
#[test]
fn when_a_call_ended_is_told_however_it_ended() {
    let mut registry = registry();
    registry.calls.live.set_wall(crate::moment::Now {
        mono: at(0),
        unix: UnixTime::from_secs(1_000_000),
    });
    let a = up(&mut registry, ip(1), Some("a"));
    registry.updated(a, &answered("one"));
    let finished = registry
        .expire(a, statistics("one", "closed"), at(50))
        .unwrap();
    assert_eq!(finished.known.unwrap().ended, Some(unix(1_000_050)));
    registry.updated(a, &answered("two"));
    let told = statistics("two", "closed");
    let finished = registry.removed(a, &call("two"), told, at(60)).unwrap();
    assert_eq!(finished.known.unwrap().ended, Some(unix(1_000_060)));
}

#[test]
fn lists_are_due_until_all_relays_with_calls_have_told() {
    let mut registry = registry();
    assert!(registry.relays.are_lists_due(), "nobody has told anything");
    let b = up(&mut registry, ip(2), Some("b"));
    assert!(registry.relays.are_lists_due());
    registry.relays.set_listed(b);
    assert!(!registry.relays.are_lists_due());
    let a = up(&mut registry, ip(1), Some("a"));
    registry.relays.set_listed(a);
    registry.updated(a, &answered("one"));
    registry.link_lost(a, at(10));
    assert!(registry.relays.are_lists_due());
    let a = up(&mut registry, ip(1), Some("a"));
    assert!(registry.relays.are_lists_due() && !registry.relays.has_listed(a));
}

/// It was told to hand its calls over (QUIT), and nobody came.
#[test]
fn calls_that_nobody_took_over_are_over_and_their_dialogs_ended() {
    let mut registry = registry();
    let a = up(&mut registry, ip(1), Some("a"));
    registry.updated(a, &answered("one"));
    registry.relays.leaves(a, at(75));
    assert!(registry.choose(&call("two"), None, &[], 0).is_none());
    assert!(
        registry.tick(at(80)).finished.is_empty(),
        "its link is there"
    );
    registry.link_lost(a, at(80));
    let finished = registry.tick(at(81)).finished;
    assert_eq!(finished.len(), 1);
    assert_eq!(finished[0].reason, Reason::LostRelay);
    assert!(finished[0].end_dialog, "no media goes on");
    assert_eq!(registry.place(&call("one")), CallLocation::Expired);
}

#[test]
fn calls_that_somebody_took_over_in_time_go_on() {
    let mut registry = registry();
    let a = up(&mut registry, ip(1), Some("a"));
    registry.updated(a, &answered("one"));
    registry.relays.leaves(a, at(75));
    registry.link_lost(a, at(1));
    assert!(registry.tick(at(74)).finished.is_empty());
    let a = up(&mut registry, ip(1), Some("a"));
    let purge = registry.tells(a, &list(&["one"]), at(74));
    assert!(purge.finished.is_empty());
    // Lost later, without a word: its media may go on.
    registry.link_lost(a, at(80));
    assert!(registry.tick(at(200)).finished.is_empty());
    let finished = registry.tick(at(43_280)).finished;
    assert!(!finished[0].end_dialog);
}
