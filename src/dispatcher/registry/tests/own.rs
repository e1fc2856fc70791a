//! A relay speaks for the calls that it was given (R1 to R3).

use super::*;
use crate::moment::UnixTime;

const START: UnixTime = UnixTime::from_secs(1_000_000);

/// As a relay tells it of an answered call that began so many seconds before this dispatcher.
fn told(id: &str, from_tag: &str, dialog_id: &str, before: u64) -> Statistics {
    let json = serde_json::json!({"call_id": id, "from_tag": from_tag, "to_tag": "t", "dialog_id": dialog_id,
        "start_time": START.saturating_sub(secs(before)).as_secs(), "duration": before, "streams": [{"status": "conntrack timeout"}]});
    Statistics::parse(json.to_string().as_bytes()).unwrap()
}

fn listed(id: &str, dialog_id: &str) -> ListedCall {
    ListedCall {
        call_id: id.to_owned(),
        from_tag: Some("f".to_owned()),
        dialog_id: Some(DialogId(dialog_id.into())),
        ..ListedCall::default()
    }
}

/// Two relays, and a call on the first; nothing is known of what was before.
fn two() -> (Links, LinkId, LinkId) {
    let mut registry = registry();
    registry.calls.live.set_wall(Now {
        mono: at(0),
        unix: START,
    });
    registry.calls.set_blind_before(START);
    let a = up(&mut registry, ip(1), Some("a"));
    let b = up(&mut registry, ip(2), Some("b"));
    registry.updated(a, &answered("one"));
    (registry, a, b)
}

#[test]
fn r1_what_a_relay_says_of_anothers_call_changes_nothing() {
    let (mut registry, a, b) = two();
    let word = || told("one", "f", "1:2", 60);
    let key = registry.relays.relay_of(a).cloned();
    assert_eq!(registry.owner_elsewhere(b, &word()), key.as_ref());
    assert!(!registry.is_given(b, &word()) && registry.is_given(a, &word()));
    assert!(registry.expire(b, word(), at(1)).is_none());
    assert!(registry.removed_before(b, word(), at(1)).is_none());
    // Without tags it may be any.
    assert!(
        registry
            .expire(b, statistics("one", "closed"), at(1))
            .is_none()
    );
    let mut listed_by = Listed::default();
    registry.listed(b, vec![listed("one", "1:2")], &mut listed_by);
    assert_eq!(listed_by.first_foreign, key.zip(Some(call("one"))));
    registry.listed_all(b, listed_by, at(2));
    assert_eq!(registry.place(&call("one")), CallLocation::On(a, a.0));
    assert_eq!(registry.links_of(&call("one")), [a]);
    let finished = registry.expire(a, word(), at(3)).unwrap();
    assert!(finished.end_dialog && finished.known.is_some());
    // What the other relay had of it may be told now: it was a call of that name before.
    let late = registry.expire(b, word(), at(4)).unwrap();
    assert!(late.known.is_none() && !late.end_dialog);
    assert!(registry.calls.remove_expired(&answered("one").removal()));
}

#[test]
fn r1_it_holds_while_the_relay_is_away() {
    let (mut registry, a, b) = two();
    registry.link_lost(a, at(1));
    assert!(
        registry
            .expire(b, told("one", "f", "1:2", 60), at(2))
            .is_none()
    );
    assert!(matches!(
        registry.place(&call("one")),
        CallLocation::Away(_)
    ));
    // Another session of that Call-ID is another's.
    assert!(
        registry
            .expire(b, told("one", "g", "3:4", 60), at(2))
            .is_some()
    );
}

#[test]
fn r2_a_call_ends_with_the_dialog_that_was_noted_for_it() {
    let (mut registry, a, b) = two();
    let other = changed(answered("other"), |u| {
        u.update.dialog_id = Some(DialogId("7:8".into()))
    });
    registry.updated(b, &other);
    let finished = registry
        .expire(b, told("other", "f", "1:2", 60), at(1))
        .unwrap();
    assert_eq!(finished.dialog_id, other.dialog_id);
    // The proxy has named another one since.
    let renamed = changed(answered("one"), |u| {
        u.update.dialog_id = Some(DialogId("9:9".into()))
    });
    registry.updated(a, &renamed);
    let unknown = registry
        .expire(b, told("x", "f", "9:9", 60), at(2))
        .unwrap();
    assert!(!unknown.end_dialog);
    let finished = registry
        .expire(a, told("one", "f", "1:2", 60), at(3))
        .unwrap();
    assert_eq!(finished.dialog_id, renamed.dialog_id);
    let free = registry
        .expire(b, told("y", "f", "9:9", 60), at(4))
        .unwrap();
    assert!(free.end_dialog, "nobody has it any more");
}

#[test]
fn r3_the_dialog_of_an_unknown_call_is_ended_where_nobody_else_can_tell_and_nobody_has_it() {
    let (mut registry, a, b) = two();
    let ends = |registry: &mut Links, statistics| {
        let finished = registry.expire(b, statistics, at(1)).unwrap();
        finished.end_dialog
    };
    assert!(ends(&mut registry, told("before", "f", "5:6", 60)));
    assert!(
        !ends(&mut registry, told("after", "f", "5:6", 0)),
        "it began since"
    );
    assert!(
        !ends(&mut registry, told("invented", "f", "1:2", 60)),
        "another call's"
    );
    // One that a relay has listed and that is not known otherwise.
    registry.tells(a, &[listed("listed", "7:8"), listed("one", "1:2")], at(1));
    assert!(!ends(&mut registry, told("invented", "f", "7:8", 60)));
    // The one that has listed it may end it.
    assert!(
        registry
            .expire(a, told("listed", "f", "7:8", 60), at(2))
            .unwrap()
            .end_dialog
    );
    registry.tells(a, &[listed("again", "7:8")], at(3));
    registry.link_lost(a, at(4));
    assert!(
        ends(&mut registry, told("gone", "f", "7:8", 60)),
        "with its link"
    );
    // A ledger has told which calls there were.
    let mut knowing = Links::new(PATIENCE);
    let b = up(&mut knowing, ip(2), Some("b"));
    assert!(
        !knowing
            .expire(b, told("before", "f", "5:6", 60), at(1))
            .unwrap()
            .end_dialog
    );
}
