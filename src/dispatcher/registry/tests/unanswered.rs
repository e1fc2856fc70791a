//! When a call counts as unanswered, and when it does so no more.

use super::*;
use crate::proto::control::Remove;

const HERE: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 77)));

/// One call of each source may ring.
fn limited() -> (Links, LinkId) {
    let mut registry = registry();
    registry.calls.live.limit_unanswered(Limits {
        max_unanswered_per_address: 1,
        max_unanswered_per_user: 1,
    });
    let link = up(&mut registry, ip(1), None);
    (registry, link)
}

fn dialled(number: u128) -> ReceivedUpdate {
    changed(update(&number.to_string()), |u| {
        u.session_id = SessionId::from_random(number);
        u.update.signaling.source = HERE;
    })
}

fn unanswered(registry: &Links) -> usize {
    registry
        .relays
        .statuses()
        .iter()
        .map(|one| one.unanswered)
        .sum()
}

/// A call that its relay has taken.
fn rings(registry: &mut Links, link: LinkId, update: &ReceivedUpdate) {
    assert_eq!(registry.calls.live.admit(update), Ok(()));
    registry.updated(link, update);
    registry.calls.live.placed(update);
    assert_eq!(unanswered(registry), 1);
    let further = registry.calls.live.admit(&dialled(1000)).unwrap_err();
    assert_eq!(further.source, Source::Address(HERE.unwrap()));
}

/// Nothing counts: the next call is let in.
fn nothing_rings(registry: &mut Links, why: &str) {
    assert_eq!(unanswered(registry), 0, "{why}");
    let next = dialled(2000);
    assert_eq!(registry.calls.live.admit(&next), Ok(()), "{why}");
    registry.calls.live.placed(&next);
}

fn removal(update: &ReceivedUpdate) -> Remove {
    Remove {
        to_tag: None,
        ..update.removal()
    }
}

#[test]
fn s7_a_call_counts_from_its_placing_to_its_final_answer() {
    let (mut registry, link) = limited();
    let call = dialled(1);
    registry.calls.live.admit(&call).unwrap();
    assert!(
        registry.calls.live.admit(&dialled(2)).is_err(),
        "while a relay is asked"
    );
    registry.calls.live.placed(&call);
    nothing_rings(&mut registry, "no relay has taken it");
    rings(&mut registry, link, &call);
    // A 183, a PRACK and the reply to that answer nothing.
    for (is_reply, to_tag, cseq) in [(true, None, 1), (false, Some("t"), 2), (true, Some("t"), 2)] {
        let message = changed(call.clone(), |u| {
            u.update.kind = kind(is_reply);
            u.update.to_tag = to_tag.map(|tag| Tag(tag.into()));
            u.update.cseq = CSeq(cseq);
        });
        registry.updated(link, &message);
        assert_eq!(unanswered(&registry), 1);
    }
    let answer = changed(call, |u| {
        u.update.kind = MessageKind::Reply;
        u.update.to_tag = Some(Tag("t".into()));
        u.update.media = None;
    });
    registry.updated(link, &answer);
    nothing_rings(&mut registry, "answered");
    assert_eq!(registry.relays.counts(), (1, 1), "and the call goes on");
}

#[test]
fn s7_what_is_of_a_dialog_or_makes_no_session_is_let_through() {
    let (mut registry, link) = limited();
    rings(&mut registry, link, &dialled(1));
    let in_dialog = changed(dialled(2), |u| u.update.to_tag = Some(Tag("t".into())));
    let without_media = changed(dialled(3), |u| u.update.media = None);
    for update in [in_dialog, without_media] {
        assert_eq!(registry.calls.live.admit(&update), Ok(()));
    }
    assert_eq!(unanswered(&registry), 1);
}

#[test]
fn s7_each_end_of_a_call_ends_its_count_once() {
    let call = dialled(1);
    let told = statistics("1", "closed");
    type End<'a> = &'a dyn Fn(&mut Links, LinkId);
    let ends: [(&str, End); 6] = [
        (
            "the proxy's removal, before its relay has heard it",
            &|registry, _| {
                registry.owe(removal(&call), at(1));
            },
        ),
        ("its relay's answer to that", &|registry, link| {
            registry.owe(removal(&call), at(1));
            let ended = registry.removed(link, &call.call_id, told.clone(), at(1));
            assert!(ended.is_some());
        }),
        ("its expiry", &|registry, link| {
            assert!(registry.expire(link, told.clone(), at(1)).is_some());
        }),
        ("its relay's loss", &|registry, link| {
            registry.link_lost(link, at(1));
        }),
        ("its relay's loss for good", &|registry, link| {
            registry.link_lost(link, at(1));
            let finished = registry.tick(at(50_000)).finished;
            assert_eq!(finished.len(), 1);
        }),
        ("a list without it", &|registry, link| {
            registry.link_lost(link, at(1));
            let again = up(registry, ip(1), None);
            assert_eq!(registry.tells(again, &list(&[]), at(2)).finished.len(), 1);
        }),
    ];
    for (why, end) in ends {
        let (mut registry, link) = limited();
        rings(&mut registry, link, &call);
        end(&mut registry, link);
        nothing_rings(&mut registry, why);
    }
}

#[test]
fn s7_a_call_whose_relay_is_back_counts_again_and_so_does_one_that_it_did_not_remove() {
    let (mut registry, link) = limited();
    let call = dialled(1);
    rings(&mut registry, link, &call);
    registry.link_lost(link, at(1));
    nothing_rings(&mut registry, "its relay is away");
    let again = up(&mut registry, ip(1), None);
    registry.tells(again, &list(&["1"]), at(2));
    assert_eq!(unanswered(&registry), 1);
    assert!(registry.calls.live.admit(&dialled(2)).is_err());
    registry.owe(removal(&call), at(3));
    registry.refused(again, &removal(&call));
    nothing_rings(&mut registry, "removed");
    let doubts = registry.doubts(again, false, at(3)).remove(0);
    registry.checked(again, doubts, &list(&["1"]), at(3));
    assert_eq!(unanswered(&registry), 1, "the relay has it still");
    assert!(registry.calls.live.admit(&dialled(2)).is_err());
}

#[test]
fn s7_a_late_answer_counts_as_one() {
    let (mut registry, link) = limited();
    let call = dialled(1);
    rings(&mut registry, link, &call);
    let answer = changed(call, |u| {
        u.update.kind = MessageKind::Reply;
        u.update.to_tag = Some(Tag("t".into()));
    });
    registry.updated_late(link, &answer);
    nothing_rings(
        &mut registry,
        "answered, though the proxy did not wait for that",
    );
}
