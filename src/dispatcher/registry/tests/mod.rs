//! Every rule of the registry on a virtual clock.

mod away;
mod doubts;
mod lost;
mod manage;
mod names;
mod own;
mod restore;
mod unanswered;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::dispatcher::ended_call::Reason;
use crate::dispatcher::statistics::{ListedCall, Statistics};
use crate::moment::{Moment, Now, UnixTime};
use crate::proto::control::{MessageKind, Signaling, Update};
use crate::proto::name::Name;
use crate::proto::{CSeq, DialogId, SessionId, Tag};

const PATIENCE: Timeouts = Timeouts {
    relay_recover_interval: Duration::from_secs(60),
    cleanup_dead_relays_after: Duration::from_secs(43_200),
    cleanup_expired_sessions_after: Duration::from_secs(86_400),
};

fn ip(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

fn at(seconds: u64) -> Moment {
    Moment::after_start(Duration::from_secs(seconds))
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn unix(seconds: u64) -> UnixTime {
    UnixTime::from_secs(seconds)
}

fn call(id: &str) -> CallId {
    CallId(id.into())
}

fn name(id: &str) -> Name {
    Name {
        call_id: call(id),
        caller: Some(Tag("f".into())),
        callee: None,
    }
}

fn update(id: &str) -> ReceivedUpdate {
    ReceivedUpdate {
        update: Update {
            kind: MessageKind::Request,
            call_id: call(id),
            cseq: CSeq(1),
            from_uri: "x@example.com".into(),
            to_uri: "y@example.com".into(),
            from_tag: Tag("f".into()),
            to_tag: None,
            user_agent: "phone".into(),
            signaling: Signaling::default(),
            dialog_id: Some(DialogId("1:2".into())),
            session_id: None,
            media: Some(Vec::new()),
        },
        session_id: SessionId::from_random(1),
        at: at(0),
    }
}

/// The same with something changed.
fn changed(mut update: ReceivedUpdate, change: impl FnOnce(&mut ReceivedUpdate)) -> ReceivedUpdate {
    change(&mut update);
    update
}

fn kind(is_reply: bool) -> MessageKind {
    if is_reply {
        MessageKind::Reply
    } else {
        MessageKind::Request
    }
}

fn answered(id: &str) -> ReceivedUpdate {
    changed(update(id), |u| {
        u.update.to_tag = Some(Tag("t".into()));
        u.update.kind = MessageKind::Reply;
    })
}

fn statistics(id: &str, status: &str) -> Statistics {
    let json = serde_json::json!({"call_id": id, "streams": [{"status": status}]});
    Statistics::parse(json.to_string().as_bytes()).unwrap()
}

fn list(ids: &[&str]) -> Vec<ListedCall> {
    let one = |id: &&str| ListedCall {
        call_id: (*id).to_owned(),
        ..ListedCall::default()
    };
    ids.iter().map(one).collect()
}

impl Links {
    /// A relay tells all its sessions.
    fn tells(&mut self, id: LinkId, calls: &[ListedCall], now: Moment) -> Purge {
        let mut listed = Listed::default();
        for call in calls {
            self.listed(id, vec![call.clone()], &mut listed);
        }
        self.listed_all(id, listed, now)
    }
}

/// The handle is the link's own number.
type Links = Registry<u64>;

fn registry() -> Links {
    Registry::new(PATIENCE)
}

fn up(registry: &mut Links, address: IpAddr, name: Option<&str>) -> LinkId {
    up_at(registry, address, name, at(0))
}

fn up_at(registry: &mut Links, address: IpAddr, name: Option<&str>, now: Moment) -> LinkId {
    let id = LinkId(registry.link_up(address, |id| id.0));
    registry.identify(id, name, now);
    id
}

fn choose(registry: &mut Links, preferred: Option<IpAddr>, tried: &[LinkId]) -> Option<LinkId> {
    let (id, _) = registry.choose(&call("a new one"), preferred, tried, 0)?;
    registry.relays.attempt_over(id);
    Some(id)
}

#[test]
fn a_link_takes_calls_once_it_is_known() {
    let mut registry = registry();
    let id = LinkId(registry.link_up(ip(1), |id| id.0));
    assert_eq!(choose(&mut registry, None, &[]), None);
    assert!(registry.relays.connected().is_empty());
    registry.identify(id, None, at(0));
    assert_eq!(choose(&mut registry, None, &[]), Some(id));
    assert_eq!(registry.relays.connected().len(), 1);
}

#[test]
fn the_preferred_relay_if_usable_else_the_least_loaded() {
    let mut registry = registry();
    let a = up(&mut registry, ip(1), None);
    let b = up(&mut registry, ip(2), None);
    registry.updated(a, &update("one"));
    assert_eq!(choose(&mut registry, None, &[]), Some(b));
    assert_eq!(choose(&mut registry, Some(ip(1)), &[]), Some(a));
    assert_eq!(choose(&mut registry, Some(ip(9)), &[]), Some(b));
    assert_eq!(choose(&mut registry, Some(ip(1)), &[a]), Some(b));
    assert!(registry.relays.halting(a));
    assert!(!registry.relays.halting(a), "no news");
    assert_eq!(choose(&mut registry, Some(ip(1)), &[]), Some(b));
    assert_eq!(choose(&mut registry, None, &[b]), None);
}

#[test]
fn calls_under_way_count_as_load_and_ties_are_spread() {
    let mut registry = registry();
    let a = up(&mut registry, ip(1), None);
    let b = up(&mut registry, ip(2), None);
    assert_eq!(
        registry.choose(&call("a new one"), None, &[], 6).unwrap().0,
        a
    );
    assert_eq!(
        registry.choose(&call("a new one"), None, &[], 6).unwrap().0,
        b,
        "a has one"
    );
    assert_eq!(
        registry.choose(&call("a new one"), None, &[], 7).unwrap().0,
        b,
        "a tie"
    );
    registry.relays.attempt_over(b);
    registry.relays.attempt_over(b);
    assert_eq!(
        registry.choose(&call("a new one"), None, &[], 0).unwrap().0,
        b
    );
}

#[test]
fn a_call_stays_on_its_relay() {
    let mut registry = registry();
    let a = up(&mut registry, ip(1), None);
    registry.updated(a, &update("one"));
    assert_eq!(registry.place(&call("one")), CallLocation::On(a, a.0));
    assert_eq!(registry.relays.counts(), (1, 1));
    let key = registry.link_lost(a, at(1)).unwrap();
    assert_eq!(registry.place(&call("one")), CallLocation::Away(key.relay));
    assert_eq!(registry.relays.counts(), (0, 1));
    up(&mut registry, ip(2), None);
    let again = up(&mut registry, ip(1), None);
    assert_eq!(
        registry.place(&call("one")),
        CallLocation::On(again, again.0)
    );
    assert_eq!(registry.place(&call("two")), CallLocation::Unknown);
}

/// An administrator writes as much of a Call-ID as is needed: of this dispatcher's calls, and of those that a relay has listed.
#[test]
fn calls_are_found_by_the_beginning_of_their_call_id() {
    let mut registry = registry();
    let link = up(&mut registry, ip(1), None);
    registry.updated(link, &update("abc-1"));
    registry.updated(link, &update("abd-2"));
    registry.tells(link, &list(&["abc-1", "abd-2", "abc-3"]), at(1));
    let begin = |prefix: &str| {
        let mut found = registry.calls.live.beginning(prefix);
        found.sort_by_key(ToString::to_string);
        found
    };
    assert_eq!(begin("abc"), [call("abc-1"), call("abc-3")]);
    assert_eq!(begin("abd-2"), [call("abd-2")]);
    assert!(begin("bc").is_empty());
}

#[test]
fn an_update_without_media_makes_no_session() {
    let mut registry = registry();
    let a = up(&mut registry, ip(1), None);
    let mut none = update("one");
    none.update.media = None;
    registry.updated(a, &none);
    assert_eq!(registry.place(&call("one")), CallLocation::Unknown);
    registry.updated(a, &update("one"));
    none.update.to_tag = Some(Tag("t".into()));
    none.update.kind = MessageKind::Reply;
    registry.updated(a, &none);
    let finished = registry.expire(a, statistics("one", "closed"), at(1));
    assert!(finished.unwrap().end_dialog, "the 200 without SDP counted");
}

#[test]
fn an_expired_session_waits_for_its_removal() {
    let mut registry = registry();
    let a = up(&mut registry, ip(1), None);
    registry.updated(a, &answered("one"));
    let stats = statistics("one", "no-traffic timeout");
    let finished = registry.expire(a, stats.clone(), at(1)).unwrap();
    assert_eq!(finished.reason, Reason::Expired);
    assert!(finished.end_dialog && finished.timed_out);
    assert_eq!(finished.relay_ip, ip(1));
    assert_eq!(finished.dialog_id, Some(DialogId("1:2".into())));
    assert_eq!(registry.place(&call("one")), CallLocation::Expired);
    let again = registry.expire(a, stats, at(1)).unwrap();
    assert!(!again.end_dialog, "told twice");
    assert!(registry.calls.remove_expired(&answered("one").removal()));
    assert!(!registry.calls.remove_expired(&answered("one").removal()));
    assert_eq!(registry.place(&call("one")), CallLocation::Unknown);
}

/// Its relay has it from before this dispatcher's start; or its relay is lost, and the proxy hears of it later.
#[test]
fn the_removal_of_what_ended_without_the_proxy_is_expected() {
    let mut registry = registry();
    let a = up(&mut registry, ip(1), None);
    registry.expire(a, statistics("unknown", "closed"), at(1));
    assert!(
        registry
            .calls
            .remove_expired(&answered("unknown").removal())
    );
    registry.updated(a, &answered("lost"));
    registry.link_lost(a, at(2));
    assert_eq!(registry.tick(at(100_000)).finished.len(), 1);
    assert!(registry.calls.remove_expired(&answered("lost").removal()));
    // What is said of an earlier call of that name does not hide the one that is.
    let b = up(&mut registry, ip(2), None);
    registry.updated(b, &update("one"));
    registry.removed_before(b, statistics("one", "closed"), at(3));
    registry.expire(b, statistics("one", "closed"), at(3));
    assert_eq!(registry.place(&call("one")), CallLocation::Expired);
    registry.updated(b, &update("one"));
    assert!(!registry.calls.remove_expired(&answered("one").removal()));
}

#[test]
fn an_expired_session_without_removal_is_forgotten_in_time() {
    let mut registry = registry();
    let a = up(&mut registry, ip(1), None);
    registry.updated(a, &update("one"));
    registry.expire(a, statistics("one", "closed"), at(10));
    registry.tick(at(86_409));
    assert_eq!(registry.place(&call("one")), CallLocation::Expired);
    registry.tick(at(86_410));
    assert_eq!(registry.place(&call("one")), CallLocation::Unknown);
}

#[test]
fn an_update_for_an_expired_call_is_a_new_call() {
    let mut registry = registry();
    let a = up(&mut registry, ip(1), None);
    let b = up(&mut registry, ip(2), None);
    registry.updated(a, &answered("one"));
    registry.expire(a, statistics("one", "closed"), at(10));
    registry.updated(b, &update("one"));
    assert_eq!(registry.place(&call("one")), CallLocation::On(b, b.0));
    assert_eq!(choose(&mut registry, None, &[]), Some(a), "a has none left");
    registry.tick(at(90_000));
    let place = registry.place(&call("one"));
    assert_eq!(
        place,
        CallLocation::On(b, b.0),
        "the old end is not the new one's"
    );
    let finished = registry.expire(b, statistics("one", "closed"), at(90_000));
    assert!(
        !finished.unwrap().end_dialog,
        "the new call was not answered"
    );
}

#[test]
fn a_dialog_is_ended_for_answered_calls_that_did_not_go_direct() {
    let mut registry = registry();
    let a = up(&mut registry, ip(1), None);
    let mut end = |update: ReceivedUpdate, status| {
        registry.updated(a, &update);
        registry
            .expire(a, statistics("one", status), at(1))
            .unwrap()
    };
    assert!(end(answered("one"), "closed").end_dialog);
    assert!(!end(update("one"), "closed").end_dialog, "it only rang");
    let direct = end(answered("one"), "unselected ICE candidate");
    assert!(!direct.end_dialog && direct.all_streams_ice && !direct.timed_out);
    let mut no_dialog = answered("one");
    no_dialog.update.dialog_id = None;
    assert!(!end(no_dialog, "closed").end_dialog);
}

#[test]
fn a_removal_ends_a_session() {
    let mut registry = registry();
    let a = up(&mut registry, ip(1), None);
    registry.updated(a, &answered("one"));
    let stats = statistics("one", "closed");
    let finished = registry.removed(a, &call("one"), stats, at(1)).unwrap();
    assert_eq!(finished.reason, Reason::Removed);
    assert!(!finished.end_dialog && !finished.timed_out);
    assert_eq!(registry.place(&call("one")), CallLocation::Unknown);
}

#[test]
fn a_removal_that_the_relay_missed_is_owed() {
    let mut registry = registry();
    let a = up(&mut registry, ip(1), None);
    for id in ["one", "two", "three"] {
        registry.updated(a, &answered(id));
    }
    registry.link_lost(a, at(1));
    for id in ["one", "two", "three"] {
        registry.owe(answered(id).removal(), at(1));
    }
    let again = up(&mut registry, ip(1), None);
    let ended = registry
        .expire(again, statistics("three", "closed"), at(2))
        .unwrap();
    assert_eq!(ended.reason, Reason::Removed, "the proxy has long ended it");
    assert_eq!(registry.place(&call("three")), CallLocation::Unknown);
    let purge = registry.tells(again, &list(&["one", "other dispatcher's"]), at(2));
    assert_eq!(purge.owed, [answered("one").removal()]);
    assert_eq!(purge.finished.len(), 1);
    assert_eq!(purge.finished[0].reason, Reason::Removed);
    assert!(!purge.finished[0].end_dialog);
    assert_eq!(registry.place(&call("two")), CallLocation::Unknown);
}

#[test]
fn a_purge_drops_only_what_was_known_when_it_was_asked_for() {
    let mut registry = registry();
    let a = up(&mut registry, ip(1), None);
    let b = up(&mut registry, ip(2), None);
    for id in ["kept", "lost"] {
        registry.updated(a, &answered(id));
    }
    registry.updated(b, &answered("elsewhere"));
    registry.link_lost(a, at(1));
    let again = up(&mut registry, ip(1), None);
    registry.updated(again, &answered("later"));
    let purge = registry.tells(again, &list(&["kept", "not ours"]), at(2));
    assert!(purge.owed.is_empty());
    let [finished] = purge.finished.as_slice() else {
        panic!("{purge:?}")
    };
    assert_eq!(finished.name.call_id, call("lost"));
    assert_eq!(finished.reason, Reason::Purged);
    assert!(finished.end_dialog);
    assert_eq!(registry.place(&call("lost")), CallLocation::Expired);
    for (id, link) in [("kept", again), ("later", again), ("elsewhere", b)] {
        assert_eq!(
            registry.place(&call(id)),
            CallLocation::On(link, link.0),
            "{id}"
        );
    }
}

#[test]
fn a_call_from_before_this_dispatchers_start_is_asked_for_where_it_is() {
    let mut registry = registry();
    let a = up(&mut registry, ip(1), None);
    let b = up(&mut registry, ip(2), None);
    registry.tells(a, &list(&["old", "older"]), at(1));
    registry.tells(b, &list(&[]), at(1));
    assert_eq!(registry.place(&call("old")), CallLocation::On(a, a.0));
    registry.updated(a, &answered("old"));
    assert_eq!(registry.relays.counts(), (2, 1), "from here on it is ours");
    let finished = registry.removed(a, &call("older"), statistics("older", "closed"), at(2));
    assert_eq!(finished.unwrap().reason, Reason::Removed);
    assert_eq!(registry.place(&call("older")), CallLocation::Unknown);
}

#[test]
fn what_one_relay_says_of_a_call_forgets_none_that_another_has() {
    let mut registry = registry();
    let a = up(&mut registry, ip(1), None);
    let b = up(&mut registry, ip(2), None);
    registry.tells(a, &list(&["old"]), at(1));
    let stray = statistics("old", "no-traffic timeout");
    assert!(registry.expire(b, stray.clone(), at(2)).is_some());
    let removed = registry.removed(b, &call("old"), stray, at(2));
    assert_eq!(removed.unwrap().reason, Reason::Removed);
    assert_eq!(registry.place(&call("old")), CallLocation::On(a, a.0));
}

#[test]
fn what_was_found_is_forgotten_with_its_link_and_never_counted_as_lost() {
    let mut registry = registry();
    let a = up(&mut registry, ip(1), None);
    registry.tells(a, &list(&["theirs"]), at(1));
    registry.link_lost(a, at(1));
    assert_eq!(registry.place(&call("theirs")), CallLocation::Unknown);
    let again = up(&mut registry, ip(1), None);
    let purge = registry.tells(again, &list(&[]), at(2));
    assert!(purge.finished.is_empty(), "another dispatcher's call");
    registry.tells(again, &list(&["theirs"]), at(3));
    registry.link_lost(again, at(4));
    assert_eq!(registry.place(&call("theirs")), CallLocation::Unknown);
}

#[test]
fn call_ids_that_are_not_utf8_are_recognised_in_json() {
    let odd = CallId(b"caf\xe9".as_slice().into());
    let mut registry = registry();
    let update = changed(update("x"), |u| u.update.call_id = odd.clone());
    for spelling in ["caf\u{fffd}", "caf?"] {
        let a = up(&mut registry, ip(1), None);
        registry.updated(a, &update);
        registry.link_lost(a, at(1));
        let a = up(&mut registry, ip(1), None);
        assert!(
            registry
                .tells(a, &list(&[spelling]), at(1))
                .finished
                .is_empty()
        );
        let ended = registry
            .expire(a, statistics(spelling, "closed"), at(1))
            .unwrap();
        assert_eq!(ended.name.call_id, odd);
        assert!(registry.calls.remove_expired(&update.removal()));
        registry.link_lost(a, at(1));
    }
    assert!(!registry.calls.live.has_spellings());
    assert!(
        registry.relays.table.is_empty(),
        "gone and without sessions"
    );
}

#[test]
fn l1_a_second_link_replaces_the_first_of_the_same_instance() {
    let mut registry = registry();
    let link = |registry: &mut Links| {
        let id = LinkId(registry.link_up(ip(1), |id| id.0));
        registry.relays.set_instance(id, Some("x-0"));
        (id, registry.identify(id, Some("a"), at(7)))
    };
    let (first, identified) = link(&mut registry);
    let key = RelayKey {
        address: ip(1),
        name: Some("a".into()),
    };
    assert_eq!(identified, Some(Identified::Up(key.clone(), None)));
    registry.updated(first, &update("one"));
    assert_eq!(
        registry.place(&call("one")),
        CallLocation::On(first, first.0)
    );
    let (second, identified) = link(&mut registry);
    assert_eq!(identified, Some(Identified::Up(key, Some(first.0))));
    assert!(
        registry.link_lost(first, at(1)).is_none(),
        "already replaced"
    );
    assert_eq!(
        registry.place(&call("one")),
        CallLocation::On(second, second.0)
    );
}

#[test]
fn l2_no_other_link_replaces_one_that_stands() {
    for (name, instances) in [
        (None, [None, None]),
        (Some("a"), [None, None]),
        (Some("a"), [Some("x-0"), None]),
        (Some("a"), [None, Some("x-0")]),
        (Some("a"), [Some("x-0"), Some("y-0")]),
        (Some("a"), [Some("x-0"), Some("x-1")]),
    ] {
        let mut registry = registry();
        let link = |registry: &mut Links, instance| {
            let id = LinkId(registry.link_up(ip(1), |id| id.0));
            registry.relays.set_instance(id, instance);
            registry.identify(id, name, at(1));
            id
        };
        let first = link(&mut registry, instances[0]);
        registry.updated(first, &answered("one"));
        let second = link(&mut registry, instances[1]);
        let listed = registry.tells(second, &list(&[]), at(2));
        assert!(listed.finished.is_empty(), "it is nobody's link");
        assert_eq!(
            registry.place(&call("one")),
            CallLocation::On(first, first.0)
        );
        let again = registry.identify(second, name, at(3)).unwrap();
        assert!(matches!(again, Identified::Contested(_, old) if old == first.0));
        assert_eq!(
            registry.relays.is_same_process(second, first),
            instances == [Some("x-0"), Some("x-1")]
        );
        // The first says nothing.
        assert!(registry.link_lost(first, at(4)).is_some());
        let up = registry.identify(second, name, at(5)).unwrap();
        assert!(matches!(up, Identified::Up(_, None)));
        assert_eq!(
            registry.place(&call("one")),
            CallLocation::On(second, second.0)
        );
        assert_eq!(registry.tells(second, &list(&[]), at(6)).finished.len(), 1);
    }
}

#[test]
fn relays_behind_one_address_are_told_apart_by_name() {
    let mut registry = registry();
    let a = up(&mut registry, ip(1), Some("a"));
    let b = up(&mut registry, ip(1), Some("b"));
    let old = up(&mut registry, ip(1), None);
    assert_eq!(registry.relays.connected().len(), 3);
    registry.updated(a, &update("one"));
    registry.updated(b, &update("two"));
    assert_eq!(choose(&mut registry, Some(ip(1)), &[]), Some(old));
    registry.link_lost(a, at(1));
    let again = up(&mut registry, ip(1), Some("a"));
    assert_eq!(
        registry.place(&call("one")),
        CallLocation::On(again, again.0)
    );
    assert_eq!(registry.place(&call("two")), CallLocation::On(b, b.0));
}

#[test]
fn a_relay_that_replaces_an_older_one_takes_over_its_sessions() {
    let mut registry = registry();
    let old = up(&mut registry, ip(1), None);
    registry.updated(old, &answered("one"));
    registry.link_lost(old, at(1));
    let new = up(&mut registry, ip(1), Some("a"));
    assert_eq!(registry.place(&call("one")), CallLocation::On(new, new.0));
    let purge = registry.tells(new, &list(&[]), at(2));
    assert_eq!(purge.finished.len(), 1);
    assert!(purge.finished[0].end_dialog);
    let other = up(&mut registry, ip(1), Some("b"));
    assert_eq!(registry.relays.counts().0, 2, "names tell relays apart");
    assert_ne!(new, other);
}

#[test]
fn a_relay_that_does_not_answer_recovers_by_ping_or_is_closed() {
    let mut registry = registry();
    let a = up(&mut registry, ip(1), None);
    registry.updated(a, &update("one"));
    assert!(registry.relays.timed_out(a, at(10)));
    assert!(!registry.relays.timed_out(a, at(11)), "no news");
    assert_eq!(choose(&mut registry, None, &[]), None);
    assert_eq!(registry.place(&call("one")), CallLocation::On(a, a.0));
    assert!(registry.relays.answers_again(a));
    assert!(!registry.relays.answers_again(a));
    assert_eq!(choose(&mut registry, None, &[]), Some(a));
    registry.relays.timed_out(a, at(20));
    assert!(registry.tick(at(79)).dead.is_empty());
    assert_eq!(registry.tick(at(80)).dead, [(a, a.0)]);
}

#[test]
fn a_relay_that_says_hello_again_drains_no_more() {
    let mut registry = registry();
    let a = up(&mut registry, ip(1), Some("a"));
    registry.relays.halting(a);
    assert_eq!(choose(&mut registry, None, &[]), None);
    let identified = registry.identify(a, Some("a"), at(0)).unwrap();
    assert!(matches!(identified, Identified::Up(_, None)));
    assert_eq!(choose(&mut registry, None, &[]), Some(a));
}

#[test]
fn sessions_of_a_relay_that_stays_away_are_given_up() {
    let mut registry = registry();
    let a = up(&mut registry, ip(1), None);
    registry.updated(a, &answered("one"));
    registry.updated(a, &answered("two"));
    registry.expire(a, statistics("two", "closed"), at(1));
    registry.link_lost(a, at(10));
    assert!(registry.tick(at(43_209)).finished.is_empty());
    let finished = registry.tick(at(43_210)).finished;
    assert_eq!(finished.len(), 1, "the expired one has been told");
    assert_eq!(finished[0].reason, Reason::LostRelay);
    assert!(!finished[0].end_dialog, "its media may well flow");
    assert_eq!(registry.place(&call("one")), CallLocation::Expired);
    assert!(registry.relays.table.is_empty());
}

#[test]
fn a_relay_that_comes_back_in_time_keeps_its_sessions() {
    let mut registry = registry();
    let a = up(&mut registry, ip(1), None);
    registry.updated(a, &update("one"));
    registry.link_lost(a, at(10));
    let again = up(&mut registry, ip(1), None);
    assert!(registry.tick(at(50_000)).finished.is_empty());
    assert_eq!(
        registry.place(&call("one")),
        CallLocation::On(again, again.0)
    );
}

#[test]
fn a_late_success_is_removed_unless_the_session_is_there_by_now() {
    let mut registry = registry();
    let a = up(&mut registry, ip(1), None);
    let b = up(&mut registry, ip(2), None);
    assert!(registry.updated_late(a, &update("one")).is_stray);
    registry.updated(b, &update("one"));
    assert!(
        registry.updated_late(a, &update("one")).is_stray,
        "it is on b"
    );
    assert!(!registry.updated_late(b, &answered("one")).is_stray);
    let ended = registry.expire(b, statistics("one", "closed"), at(1));
    assert!(ended.unwrap().end_dialog, "the late answer counts");
    let mut none = update("two");
    none.update.media = None;
    assert!(
        !registry.updated_late(a, &none).is_stray,
        "nothing was made"
    );
}
