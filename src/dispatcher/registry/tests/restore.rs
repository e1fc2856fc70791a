//! Calls that a dispatcher has left to the one after it.

use super::*;
use crate::moment::UnixTime;

const DAY: UnixTime = UnixTime::from_secs(86_400);

fn noting() -> Links {
    let mut registry = registry();
    registry.calls.live.note_calls();
    registry.calls.live.set_wall(Now {
        mono: at(5),
        unix: DAY + secs(5),
    });
    registry
}

fn update_at(seconds: u64, update: ReceivedUpdate) -> ReceivedUpdate {
    changed(update, |u| u.at = at(seconds))
}

fn reply(id: &str) -> ReceivedUpdate {
    changed(answered(id), |u| {
        u.update.kind = MessageKind::Reply;
        u.update.user_agent = "other phone".into();
    })
}

/// What is left of a call that was answered at 10 on relay 1.
fn left(id: &str) -> CallNote {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), Some("a"));
    assert_eq!(
        registry.updated(a, &update_at(9, update(id))),
        None,
        "rings"
    );
    let noted = registry.updated(a, &update_at(10, reply(id)));
    noted.expect("it was answered")
}

#[test]
fn an_answered_call_is_noted_when_there_is_news_of_it() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), Some("a"));
    registry.updated(a, &update_at(9, update("one")));
    let early = changed(reply("one"), |u| u.update.to_tag = None);
    let call = registry.updated(a, &update_at(10, early)).unwrap();
    assert_eq!(call.call.known.started, Some(DAY + secs(10)));
    assert_eq!(call.call.known.callee_ua, Some("other phone".into()));
    assert_eq!(call.relay.name.as_deref(), Some("a"));
    assert!(call.call.name.callee.is_none() && call.call.owed.is_none());
    let again = registry.updated(a, &update_at(12, reply("one"))).unwrap();
    assert_eq!(again.call.name.callee, Some(Tag("t".into())));
    assert_eq!(again.call.known.started, call.call.known.started);

    assert_eq!(registry.updated(a, &update_at(13, reply("one"))), None);
    let removed = registry.owe(answered("one").removal(), at(20)).unwrap();
    assert_eq!(removed.call.known.ended, Some(DAY + secs(20)));
    assert_eq!(removed.call.owed, Some(answered("one").removal()));
    assert_eq!(
        registry.owe(answered("one").removal(), at(21)),
        None,
        "no news"
    );
}

#[test]
fn nothing_is_noted_where_nobody_keeps_it() {
    let mut registry = registry();
    let a = up(&mut registry, ip(1), None);
    assert_eq!(registry.updated(a, &answered("one")), None);
    assert_eq!(registry.updated(a, &reply("one")), None);
}

#[test]
fn a_call_waits_for_its_relay_and_is_lost_with_it() {
    let mut call = left("one");
    call.call.known.ended = Some(DAY + secs(40));
    let mut registry = noting();
    registry.restore([call.clone()], at(0));
    assert!(matches!(
        registry.place(&call.call.name.call_id),
        CallLocation::Away(_)
    ));
    assert_eq!(registry.tick(at(43_199)).finished.len(), 0);
    let finished = registry.tick(at(43_200)).finished;
    assert_eq!(finished.len(), 1);
    assert_eq!(finished[0].reason, Reason::LostRelay);
    assert_eq!(
        finished[0].known.as_ref().unwrap().ended,
        Some(DAY + secs(40)),
        "when it was last seen"
    );
    assert_eq!(
        registry.place(&call.call.name.call_id),
        CallLocation::Expired
    );
}

#[test]
fn a_call_goes_on_where_its_relay_comes_back_with_it() {
    let mut call = left("one");
    call.call.known.ended = Some(DAY + secs(40));
    let mut registry = noting();
    registry.restore([call], at(0));
    let other = up(&mut registry, ip(1), Some("b"));
    assert!(registry.tells(other, &list(&[]), at(1)).finished.is_empty());
    let a = up(&mut registry, ip(1), Some("a"));
    let purge = registry.tells(a, &list(&["one"]), at(1));
    assert!(purge.finished.is_empty() && purge.owed.is_empty());
    assert_eq!(
        registry.place(&super::call("one")),
        CallLocation::On(a, a.0)
    );
    registry.link_lost(a, at(100));
    let finished = registry.tick(at(100 + 43_200)).finished;
    let ended = finished[0].known.as_ref().unwrap().ended;
    assert_eq!(ended, Some(DAY + secs(100)), "it was seen until then");
}

#[test]
fn a_call_is_over_where_its_relay_comes_back_without_it() {
    let mut registry = noting();
    registry.restore([left("one")], at(0));
    let a = up(&mut registry, ip(1), Some("a"));
    let finished = registry.tells(a, &list(&[]), at(1)).finished;
    assert_eq!(finished.len(), 1);
    assert_eq!(finished[0].reason, Reason::Purged);
    assert!(finished[0].end_dialog, "the proxy does not know");
}

#[test]
fn a_removal_that_is_owed_is_made_up_for() {
    let mut call = left("one");
    call.call.owed = Some(answered("one").removal());
    let mut registry = noting();
    registry.restore([call], at(0));
    let a = up(&mut registry, ip(1), Some("a"));
    let purge = registry.tells(a, &list(&["one"]), at(1));
    assert_eq!(purge.owed, [answered("one").removal()]);
}

#[test]
fn a_removal_that_the_dispatcher_before_did_not_hear_of_ends_the_call() {
    let call = left("one");
    let json = serde_json::json!({
        "call_id": "one", "session_id": call.call.known.session_id, "streams": []});
    let told = Statistics::parse(json.to_string().as_bytes()).unwrap();
    let mut registry = noting();
    registry.restore([call], at(0));
    let a = up(&mut registry, ip(1), Some("a"));
    let finished = registry.removed_before(a, told, at(1)).unwrap();
    assert!(finished.known.is_some());
    assert!(registry.tells(a, &list(&[]), at(2)).finished.is_empty());
}

#[test]
fn a_listed_call_keeps_its_relays_name_for_it() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), None);
    let id = SessionId::from_random(77);
    let listed = ListedCall {
        call_id: "one".to_owned(),
        session_id: Some(id),
        started: Some(DAY.saturating_sub(secs(20))),
        ..ListedCall::default()
    };
    registry.tells(a, &[listed], at(1));
    let call = registry.updated(a, &answered("one")).unwrap();
    assert_eq!(call.call.known.session_id, id);
    assert_eq!(
        call.call.known.started,
        Some(DAY.saturating_sub(secs(20))),
        "it was answered before"
    );
}

#[test]
fn the_early_answer_of_a_call_that_was_found_is_its_start() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), None);
    registry.tells(a, &list(&["one"]), at(1));
    let early = changed(reply("one"), |u| u.update.to_tag = None);
    let call = registry.updated(a, &update_at(3, early)).unwrap();
    assert_eq!(call.call.known.started, Some(DAY + secs(3)));
    let call = registry.updated(a, &update_at(9, reply("one"))).unwrap();
    assert_eq!(call.call.known.started, Some(DAY + secs(3)));
}

#[test]
fn of_two_calls_with_one_call_id_the_later_is_kept() {
    let (early, mut late) = (left("one"), left("one"));
    late.relay.name = Some("b".into());
    let mut registry = noting();
    registry.restore([early, late], at(0));
    assert_eq!(registry.relays.counts(), (0, 1));
    let CallLocation::Away(relay) = registry.place(&call("one")) else {
        panic!("it is known");
    };
    assert_eq!(relay.name.as_deref(), Some("b"));
}
