//! What an administrator asks and decides.

use super::*;

fn key(address: IpAddr, name: Option<&str>) -> RelayKey {
    RelayKey {
        address,
        name: name.map(Arc::from),
    }
}

#[test]
fn relays_are_named_in_several_ways() {
    let mut registry = registry();
    up(&mut registry, ip(1), Some("10.0.0.1:40000"));
    up(&mut registry, ip(1), Some("10.0.0.1:50000"));
    up(&mut registry, ip(2), None);
    let named = |text: &str| registry.relays.named(text).len();
    assert_eq!(named("10.0.0.1:40000"), 1, "the whole name");
    assert_eq!(named("10.0.0.1"), 2, "its part before the colon");
    assert_eq!((named("192.0.2.1"), named("192.0.2.2")), (2, 1));
    assert_eq!(
        (named("10.0.0.2"), named(""), named("10.0.0.1:4")),
        (0, 0, 0)
    );
    assert_eq!(registry.relays.known().len(), 3);
}

#[test]
fn a_drained_relay_gets_no_calls_whatever_becomes_of_its_link() {
    let mut registry = registry();
    let a = up(&mut registry, ip(1), Some("a"));
    let b = up(&mut registry, ip(2), Some("b"));
    registry.updated(a, &update("one"));
    let drained = key(ip(1), Some("a"));
    assert!(registry.relays.drain(&drained) && !registry.relays.drain(&drained));
    assert_eq!(registry.relays.load(&drained).live, 1);
    assert_eq!(
        choose(&mut registry, Some(ip(1)), &[]),
        Some(b),
        "preferred or not"
    );
    assert_eq!(choose(&mut registry, None, &[b]), None);
    assert!(!registry.relays.has_other(&[b]));
    assert!(matches!(registry.place(&call("one")), CallLocation::On(id, _) if id == a));
    registry.link_lost(a, at(1));
    assert_eq!(
        registry.relays.away().into_iter().collect::<Vec<_>>(),
        [(drained.clone(), 1)]
    );
    registry.link_lost(b, at(1));
    assert_eq!(
        registry.relays.away().len(),
        1,
        "the other one has no calls"
    );
    let b = up(&mut registry, ip(2), Some("b"));
    let again = up(&mut registry, ip(1), Some("a"));
    assert!(registry.relays.away().is_empty());
    assert_eq!(choose(&mut registry, None, &[b]), None);
    assert!(registry.relays.held(&drained).0.drained);
    assert!(registry.relays.resume(&drained) && !registry.relays.resume(&drained));
    assert_eq!(choose(&mut registry, None, &[b]), Some(again));
}

#[test]
fn an_older_relay_that_is_upgraded_stays_drained() {
    let mut registry = registry();
    let older = up(&mut registry, ip(1), None);
    registry.updated(older, &update("one"));
    registry.relays.drain(&key(ip(1), None));
    registry.link_lost(older, at(1));
    let ours = up(&mut registry, ip(1), Some("a"));
    assert_eq!(choose(&mut registry, None, &[]), None);
    assert!(registry.relays.held(&key(ip(1), Some("a"))).0.drained);
    assert!(registry.relays.resume(&key(ip(1), Some("a"))));
    assert_eq!(choose(&mut registry, None, &[]), Some(ours));
}

#[test]
fn one_without_calls_stays_drained_too_and_no_other_relay_is() {
    let mut registry = registry();
    // As after a restart: nothing else is known of it.
    registry.relays.drain(&key(ip(1), None));
    let elsewhere = up(&mut registry, ip(2), Some("b"));
    assert_eq!(choose(&mut registry, None, &[]), Some(elsewhere));
    registry.relays.attempt_over(elsewhere);
    // While the older one is connected, it is the one that is drained.
    let older = up(&mut registry, ip(1), None);
    let beside = up(&mut registry, ip(1), Some("c"));
    assert_eq!(choose(&mut registry, None, &[elsewhere]), Some(beside));
    assert!(registry.relays.held(&key(ip(1), None)).0.drained);
    registry.link_lost(beside, at(1));
    registry.link_lost(older, at(1));
    up(&mut registry, ip(1), Some("a"));
    assert_eq!(choose(&mut registry, None, &[elsewhere]), None);
    let drained: Vec<RelayKey> = registry.relays.drained().into_iter().collect();
    assert_eq!(drained, [key(ip(1), Some("a"))]);
}

#[test]
fn the_end_of_the_last_call_is_told_once() {
    let mut registry = registry();
    let a = up(&mut registry, ip(1), Some("a"));
    let drained = key(ip(1), Some("a"));
    registry.updated(a, &update("one"));
    registry.relays.drain(&drained);
    assert!(registry.relays.drained_empty().is_empty(), "it has a call");
    registry.removed(a, &call("one"), statistics("one", "closed"), at(1));
    assert_eq!(registry.relays.drained_empty().len(), 1);
    assert!(registry.relays.note_drained_empty(&drained));
    assert!(registry.relays.drained_empty().is_empty());
    registry.relays.resume(&drained);
    assert!(
        !registry.relays.note_drained_empty(&drained),
        "resumed meanwhile"
    );
}

#[test]
fn what_the_administrator_ended_waits_for_the_proxys_remove_and_ends_no_dialog() {
    let mut registry = registry();
    let a = up(&mut registry, ip(1), None);
    for id in ["one", "two"] {
        registry.updated(a, &answered(id));
    }
    let about = registry.calls.live.about(&call("one")).remove(0);
    assert!(about.answered && about.dialog_id.is_some());
    registry.calls.by_admin(&name("one"), Through::Relay);
    let closed = statistics("one", "closed");
    let ended = registry.removed(a, &call("one"), closed, at(1)).unwrap();
    assert_eq!(ended.reason, Reason::Ended);
    assert!(!ended.end_dialog && !ended.timed_out);
    assert_eq!(registry.place(&call("one")), CallLocation::Expired);
    assert!(registry.calls.live.about(&call("one")).is_empty());
    assert!(registry.calls.remove_expired(&answered("one").removal()));
    // What did not come about is the proxy's again.
    registry.calls.by_admin(&name("two"), Through::Proxy);
    registry.calls.not_by_admin(&name("two"));
    let closed = statistics("two", "closed");
    let removed = registry.removed(a, &call("two"), closed, at(2)).unwrap();
    assert_eq!(removed.reason, Reason::Removed);
}

#[test]
fn what_the_proxy_ended_for_the_administrator_is_removed_for_good() {
    let mut registry = registry();
    let a = up(&mut registry, ip(1), None);
    registry.updated(a, &answered("one"));
    registry.calls.by_admin(&name("one"), Through::Proxy);
    let closed = statistics("one", "closed");
    let ended = registry.removed(a, &call("one"), closed, at(1)).unwrap();
    assert_eq!(ended.reason, Reason::Ended);
    assert!(!ended.end_dialog && !ended.timed_out);
    assert_ne!(registry.place(&call("one")), CallLocation::Expired);
    // A later call of that name is nobody's but the phones'.
    registry.updated(a, &answered("one"));
    let closed = statistics("one", "closed");
    let removed = registry.removed(a, &call("one"), closed, at(2)).unwrap();
    assert_eq!(removed.reason, Reason::Removed);
}

#[test]
fn a_call_id_that_is_no_text_is_meant_by_what_relays_call_it() {
    let mut registry = registry();
    let a = up(&mut registry, ip(1), None);
    let odd = CallId(b"caf\xe9".as_slice().into());
    let update = changed(update("x"), |u| u.update.call_id = odd.clone());
    registry.updated(a, &update);
    assert_eq!(registry.calls.live.meant("caf\u{fffd}"), odd);
    assert_eq!(registry.calls.live.meant("caf?"), odd);
    assert_eq!(registry.calls.live.meant("caf"), call("caf"));
    // As it is shown: also one that is not known here, unless a call has just this name.
    assert_eq!(registry.calls.live.meant("caf\\xe9"), odd);
    let other = CallId(b"th\xe9".as_slice().into());
    assert_eq!(registry.calls.live.meant("th\\xe9"), other);
    registry.updated(a, &super::update("th\\xe9"));
    assert_eq!(registry.calls.live.meant("th\\xe9"), call("th\\xe9"));
}
