//! Sessions that share a Call-ID, and branches of one session (rules S1..).

use super::*;
use crate::dispatcher::ended_call::EndedCall;
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

fn tag(text: &str) -> Option<Tag> {
    (!text.is_empty()).then(|| Tag(text.into()))
}

/// A message of the Call-ID `one` with these tags.
fn message(seconds: u64, is_reply: bool, from_tag: &str, to_tag: &str) -> ReceivedUpdate {
    changed(update("one"), |u| {
        u.update.from_tag = Tag(from_tag.into());
        u.update.to_tag = tag(to_tag);
        u.update.dialog_id = Some(DialogId(format!("{from_tag}:1").as_str().into()));
        u.session_id = SessionId::from_random(from_tag.bytes().map(u128::from).sum());
        u.update.kind = kind(is_reply);
        u.at = at(seconds);
    })
}

fn removal(from_tag: &str, to_tag: &str) -> Remove {
    Remove {
        call_id: call("one"),
        from_tag: Tag(from_tag.into()),
        to_tag: tag(to_tag),
    }
}

fn told(from_tag: &str, to_tag: &str) -> Statistics {
    let json = serde_json::json!({"call_id": "one", "from_tag": from_tag, "to_tag": to_tag,
        "start_time": DAY.as_secs(), "duration": 5, "streams": [{"status": "conntrack timeout"}]});
    Statistics::parse(json.to_string().as_bytes()).unwrap()
}

fn listed(from_tags: &[&str]) -> Vec<ListedCall> {
    let one = |from_tag: &&str| ListedCall {
        call_id: "one".to_owned(),
        from_tag: Some((*from_tag).to_owned()),
        ..ListedCall::default()
    };
    from_tags.iter().map(one).collect()
}

/// Two sessions, both answered: `fa` with `ta` and `fb` with `tb`.
fn both(registry: &mut Links, first: LinkId, second: LinkId) -> [CallNote; 2] {
    for (link, from_tag) in [(first, "fa"), (second, "fb")] {
        registry.updated(link, &message(1, false, from_tag, ""));
    }
    [(first, "fa", "ta"), (second, "fb", "tb")].map(|(link, from_tag, to_tag)| {
        let noted = registry.updated(link, &message(2, true, from_tag, to_tag));
        noted.expect("it is answered")
    })
}

fn dialog(finished: &EndedCall) -> String {
    finished.dialog_id.as_ref().unwrap().to_string()
}

#[test]
fn s5_each_of_two_sessions_ends_by_itself_and_with_its_own_dialog() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), Some("a"));
    both(&mut registry, a, a);
    assert_eq!(registry.relays.counts(), (1, 2));
    let expired = registry.expire(a, told("fb", "tb"), at(9)).unwrap();
    assert!(expired.end_dialog && dialog(&expired) == "fb:1");
    assert_eq!(registry.relays.counts(), (1, 1));
    let first = removal("ta", "fa");
    assert_eq!(registry.place_of(first.mention()), CallLocation::On(a, a.0));
    assert_eq!(
        registry.place_of(removal("fb", "tb").mention()),
        CallLocation::Expired
    );
    registry.owe(first, at(10));
    let removed = registry
        .removed(a, &call("one"), told("fa", "ta"), at(10))
        .unwrap();
    assert_eq!(
        (removed.reason, dialog(&removed).as_str()),
        (Reason::Removed, "fa:1")
    );
    assert!(
        !registry.calls.remove_expired(&removal("fa", "ta")),
        "that one is over"
    );
    assert!(registry.calls.remove_expired(&removal("fb", "tb")));
    assert_eq!(registry.place(&call("one")), CallLocation::Unknown);
    assert_eq!(registry.relays.counts(), (1, 0));
}

#[test]
fn s5_both_expire_and_each_waits_for_its_own_removal() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), None);
    both(&mut registry, a, a);
    for (from_tag, to_tag) in [("fa", "ta"), ("fb", "tb")] {
        let ended = registry.expire(a, told(from_tag, to_tag), at(9)).unwrap();
        assert!(ended.end_dialog && ended.name.caller == tag(from_tag));
    }
    for (from_tag, to_tag) in [("tb", "fb"), ("fa", "ta")] {
        let remove = removal(from_tag, to_tag);
        assert_eq!(
            registry.place_to_remove(remove.mention()),
            Some(CallLocation::Expired)
        );
        assert!(registry.calls.remove_expired(&remove) && !registry.calls.remove_expired(&remove));
    }
}

#[test]
fn s4_another_branch_than_the_one_that_answered_changes_and_ends_nothing() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), None);
    registry.updated(a, &message(1, false, "f", ""));
    registry.updated(a, &message(2, true, "f", ""));
    let first = registry.updated(a, &message(3, true, "f", "t")).unwrap();
    assert_eq!(first.call.name.callee, tag("t"));
    let other = changed(message(4, true, "f", "u"), |u| {
        u.update.dialog_id = Some(DialogId("9:9".into()))
    });
    assert_eq!(registry.updated(a, &other), None);
    assert_eq!(registry.updated_late(a, &other), Late::default());
    let about = registry.calls.live.about(&call("one")).remove(0);
    assert_eq!(
        (about.name.callee, about.dialog_id),
        (tag("t"), first.call.dialog_id)
    );
    for (from_tag, to_tag) in [("f", "u"), ("u", "f")] {
        let remove = removal(from_tag, to_tag);
        assert_eq!(registry.place_to_remove(remove.mention()), None);
        assert_eq!(registry.owe(remove, at(5)), None);
    }
    // A CANCEL that has crossed the answer tells no tag.
    for (from_tag, to_tag) in [("f", ""), ("t", "f"), ("f", "t")] {
        let place = registry.place_to_remove(removal(from_tag, to_tag).mention());
        assert_eq!(place, Some(CallLocation::On(a, a.0)), "{from_tag} {to_tag}");
    }
    registry.expire(a, told("f", "t"), at(9));
    assert_eq!(registry.place_to_remove(removal("f", "u").mention()), None);
    assert!(!registry.calls.remove_expired(&removal("f", "u")));
    assert!(registry.calls.remove_expired(&removal("f", "t")));
}

#[test]
fn s3_answered_is_a_reply_to_what_opened_the_session() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), None);
    registry.updated(a, &message(1, false, "f", ""));
    let early = registry.updated(a, &message(2, true, "f", "")).unwrap();
    assert_eq!(early.call.name.callee, None);
    // PRACK or UPDATE while it rings: both have the tag of who rings, and another number.
    for (is_reply, from_tag, to_tag) in [(false, "f", "t"), (true, "f", "t"), (false, "t", "f")] {
        let other = changed(message(3, is_reply, from_tag, to_tag), |u| {
            u.update.cseq = CSeq(2)
        });
        registry.updated(a, &other);
        assert!(
            !registry.calls.live.about(&call("one"))[0].answered,
            "{is_reply} {from_tag}"
        );
    }
    // It is cancelled while its relay is away: nobody has answered, by what is known here.
    registry.link_lost(a, at(4));
    registry.owe(removal("f", ""), at(5));
    let lost = registry.tick(at(100_000)).finished.remove(0);
    let record = lost
        .record(
            Now {
                mono: at(0),
                unix: DAY,
            },
            0,
        )
        .unwrap();
    let record: serde_json::Value = serde_json::from_str(&record.text).unwrap();
    assert_eq!(
        (&record["to_tag"], lost.end_dialog),
        (&serde_json::Value::Null, false)
    );
    // The one that is asked again with a password, and answered.
    let a = up(&mut registry, ip(1), None);
    registry.updated(a, &message(1, false, "f", ""));
    let again = |update| changed(update, |u| u.update.cseq = CSeq(2));
    registry.updated(a, &again(message(2, false, "f", "")));
    registry.updated(a, &message(3, true, "f", "t"));
    assert!(
        !registry.calls.live.about(&call("one"))[0].answered,
        "the first was refused"
    );
    registry.updated(a, &again(message(3, true, "f", "t")));
    assert!(registry.calls.live.about(&call("one"))[0].answered);
}

#[test]
fn s3_a_late_offer_is_answered_by_the_reply_that_opened_it() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), None);
    registry.updated(a, &message(1, true, "f", ""));
    let prack = changed(message(2, false, "f", "t"), |u| u.update.cseq = CSeq(2));
    registry.updated(a, &prack);
    registry.updated(a, &changed(prack, |u| u.update.kind = MessageKind::Reply));
    assert!(!registry.calls.live.about(&call("one"))[0].answered);
    registry.updated(a, &message(5, true, "f", "t"));
    assert!(registry.calls.live.about(&call("one"))[0].answered);
}

#[test]
fn one_that_rings_is_cancelled_beside_one_that_is_answered() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), None);
    registry.updated(a, &message(1, false, "fa", ""));
    registry.updated(a, &message(1, false, "fb", ""));
    registry.updated(a, &message(2, true, "fa", "ta"));
    registry.owe(removal("fb", ""), at(3));
    let removed = registry
        .removed(a, &call("one"), told("fb", ""), at(3))
        .unwrap();
    assert_eq!(removed.name.caller, tag("fb"));
    let left = registry.calls.live.about(&call("one"));
    assert!(left.len() == 1 && left[0].answered && left[0].name.caller == tag("fa"));
}

#[test]
fn s6_a_new_session_goes_where_another_of_its_call_id_is() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), Some("a"));
    let b = up(&mut registry, ip(2), Some("b"));
    registry.updated(a, &message(1, false, "fa", ""));
    let second = message(1, false, "fb", "");
    assert_eq!(
        registry.place_of(second.mention()),
        CallLocation::Unknown,
        "a new one"
    );
    // Without a preference, and although the other one has no call.
    let beside = |registry: &mut Links, preferred, tried: &[LinkId]| {
        let (id, _) = registry.choose(&call("one"), preferred, tried, 0)?;
        registry.relays.attempt_over(id);
        Some(id)
    };
    assert_eq!(beside(&mut registry, None, &[]), Some(a));
    assert_eq!(beside(&mut registry, Some(ip(2)), &[]), Some(b));
    assert_eq!(beside(&mut registry, None, &[a]), Some(b));
    registry.relays.halting(a);
    assert_eq!(beside(&mut registry, None, &[]), Some(b));
    // Two relays, of which one is lost and one answers.
    registry.updated(b, &second);
    registry.updated(b, &message(2, true, "fb", "tb"));
    registry.updated(a, &message(2, true, "fa", "ta"));
    registry.link_lost(a, at(5));
    assert!(matches!(
        registry.place_of(removal("fa", "ta").mention()),
        CallLocation::Away(_)
    ));
    assert_eq!(
        registry.place_of(removal("tb", "fb").mention()),
        CallLocation::On(b, b.0)
    );
    // What nobody knows may be where the other one is.
    let unknown = registry.place_to_remove(removal("x", "y").mention());
    assert_eq!(unknown, Some(CallLocation::On(b, b.0)));
    let lost = registry.tick(at(100_000)).finished;
    assert_eq!((lost.len(), dialog(&lost[0]).as_str()), (1, "fa:1"));
    assert_eq!(registry.relays.counts(), (1, 1));
}

#[test]
fn a_relay_that_comes_back_with_one_of_two_has_lost_the_other() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), Some("a"));
    both(&mut registry, a, a);
    assert_eq!(registry.link_lost(a, at(5)).unwrap().calls.len(), 2);
    registry.owe(removal("tb", "fb"), at(6));
    let a = up(&mut registry, ip(1), Some("a"));
    let purge = registry.tells(a, &listed(&["fb", "fc"]), at(7));
    assert_eq!(purge.owed, [removal("tb", "fb")]);
    let [gone] = &purge.finished[..] else {
        panic!("{purge:?}")
    };
    assert!(gone.end_dialog && dialog(gone) == "fa:1");
    // A third one is another dispatcher's.
    assert_eq!(
        registry.place_of(removal("fc", "").mention()),
        CallLocation::On(a, a.0)
    );
    assert_eq!(
        registry.place_of(removal("fa", "ta").mention()),
        CallLocation::Expired
    );
}

#[test]
fn two_dialogs_outlive_a_restart() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), Some("a"));
    let left = both(&mut registry, a, a);
    let mut next = noting();
    next.restore(left, at(0));
    assert_eq!(next.relays.counts(), (0, 2));
    let a = up(&mut next, ip(1), Some("a"));
    assert!(
        next.tells(a, &listed(&["fa", "fb"]), at(1))
            .finished
            .is_empty()
    );
    let expired = next.expire(a, told("fa", "ta"), at(9)).unwrap();
    assert!(expired.end_dialog && dialog(&expired) == "fa:1");
    assert_eq!(
        next.place_of(removal("tb", "fb").mention()),
        CallLocation::On(a, a.0)
    );
}

#[test]
fn a_relays_doubt_is_of_one_of_two_sessions() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), Some("a"));
    both(&mut registry, a, a);
    registry.owe(removal("fa", "ta"), at(5));
    registry.owe(removal("fb", "tb"), at(5));
    registry.refused(a, &removal("fa", "ta"));
    let doubts = registry.doubts(a, true, at(6)).remove(0);
    let checked = registry.checked(a, doubts, &[], at(6));
    let ended: Vec<String> = checked.finished.iter().map(dialog).collect();
    assert_eq!(ended, ["fa:1"], "the other one's answer is on its way");
    let removed = registry.removed(a, &call("one"), told("fb", "tb"), at(6));
    assert!(removed.unwrap().known.is_some());
}

#[test]
fn the_same_caller_twice_one_after_the_other() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), None);
    registry.updated(a, &message(1, false, "f", ""));
    registry.updated(a, &message(2, true, "f", "t"));
    registry.expire(a, told("f", "t"), at(5));
    registry.updated(a, &message(6, false, "f", ""));
    // The proxy's removal of the first comes late.
    let first = removal("f", "t");
    assert_eq!(
        registry.place_to_remove(first.mention()),
        Some(CallLocation::Expired)
    );
    assert!(registry.calls.remove_expired(&first));
    registry.updated(a, &message(7, true, "f", "u"));
    let place = registry.place_to_remove(removal("f", "u").mention());
    assert_eq!(place, Some(CallLocation::On(a, a.0)));
}

#[test]
fn the_administrators_end_of_one_is_not_that_of_the_other() {
    let mut registry = noting();
    let a = up(&mut registry, ip(1), None);
    both(&mut registry, a, a);
    let about = registry.calls.live.about(&call("one"));
    registry.calls.by_admin(&about[0].name, Through::Proxy);
    let other = registry
        .removed(a, &call("one"), told("fb", "tb"), at(5))
        .unwrap();
    assert_eq!(other.reason, Reason::Removed);
    let ended = registry
        .removed(a, &call("one"), told("fa", "ta"), at(5))
        .unwrap();
    assert_eq!(ended.reason, Reason::Ended);
}
