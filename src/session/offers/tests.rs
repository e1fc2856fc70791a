//! The table of states (C2): what each message is in each of them.

use super::*;

/// A message: whose SDP, `Q` in a request or `P` in a reply, the request's number, the callee's tag or `-`, and
/// where its sender is. `caller P 1 B x`: the caller's reply to the callee's request 1.
fn take(offers: &mut Offers, text: &str) -> String {
    let words: Vec<&str> = text.split(' ').collect();
    let [who, how, cseq, tag, place] = words[..] else {
        panic!("{text}");
    };
    let sender = match who {
        "caller" => Party::Caller,
        _ => Party::Callee,
    };
    let (kind, party) = match how {
        "Q" => (MessageKind::Request, sender),
        _ => (MessageKind::Reply, sender.other()),
    };
    let media = format!("audio:{place}.example:4000:sendrecv");
    let media = crate::proto::media::parse_list(media.as_bytes()).unwrap();
    let message = Message {
        kind,
        number: offers.number(
            party,
            CSeq(cseq.parse().unwrap()),
            (tag != "-").then(|| Tag(tag.into())).as_ref(),
        ),
        sender,
        source: None,
        media: &media,
    };
    if !offers.is_foreign(message.number.tag.as_ref()) {
        offers.note_opening(kind, &message.number);
    }
    let meaning = offers.meaning(&message);
    match meaning {
        Meaning::Offer => drop(offers.propose(&message, Vec::new())),
        Meaning::Answer(index) => offers.agree(index, &message),
        Meaning::Known(_) | Meaning::Forgotten => {}
    }
    if offers.is_final(kind, &message.number) {
        offers.establish(message.number.tag.as_ref().unwrap(), Some(&media));
    }
    match meaning {
        Meaning::Offer => "offer".to_owned(),
        Meaning::Answer(index) => format!("answer {index}"),
        Meaning::Known(index) => format!("known {index}"),
        Meaning::Forgotten => "forgotten".to_owned(),
    }
}

/// Each state, by the messages that lead there.
const STATES: [(&str, &[&str]); 10] = [
    ("nothing yet", &[]),
    ("invited", &["caller Q 1 - a"]),
    ("offered in a 183", &["callee P 1 - b"]),
    ("early answer", &["caller Q 1 - a", "callee P 1 - b"]),
    ("answered", &["caller Q 1 - a", "callee P 1 B b"]),
    ("offered in a 200", &["callee P 1 B b"]),
    ("acknowledged", &["callee P 1 B b", "caller Q 1 B a"]),
    (
        "re-invited by the caller",
        &["caller Q 1 - a", "callee P 1 B b", "caller Q 2 B aa"],
    ),
    (
        "re-invited by the callee",
        &["caller Q 1 - a", "callee P 1 B b", "callee Q 1 B bb"],
    ),
    (
        "glare",
        &[
            "caller Q 1 - a",
            "callee P 1 B b",
            "caller Q 2 B aa",
            "callee Q 1 B bb",
        ],
    ),
];

/// And what each message is there, in the order of the states.
const TABLE: [(&str, [&str; 10]); 13] = [
    // The INVITE, again.
    (
        "caller Q 1 - a",
        [
            "offer", "known 0", "answer 0", "known 0", "known 0", "answer 0", "answer 0",
            "known 0", "known 0", "known 0",
        ],
    ),
    // A challenged caller's, after which nobody is in a dialog; within a call it is within none and old.
    (
        "caller Q 2 - a",
        [
            "offer", "offer", "answer 0", "offer", "offer", "answer 0", "offer", "known 1",
            "offer", "known 1",
        ],
    ),
    // PRACK, UPDATE or a re-INVITE of the caller.
    (
        "caller Q 3 B a",
        [
            "offer", "offer", "answer 0", "offer", "offer", "answer 0", "offer", "offer", "offer",
            "offer",
        ],
    ),
    // UPDATE or a re-INVITE of the callee.
    (
        "callee Q 2 B b",
        [
            "offer", "offer", "offer", "offer", "offer", "offer", "offer", "offer", "offer",
            "offer",
        ],
    ),
    // 183 of the INVITE, of the one branch and another; after the final answer too late.
    (
        "callee P 1 - b",
        [
            "offer", "answer 0", "known 0", "answer 0", "known 0", "known 0", "known 0", "known 0",
            "known 0", "known 0",
        ],
    ),
    (
        "callee P 1 - c",
        [
            "offer", "answer 0", "offer", "answer 0", "known 0", "known 0", "known 0", "known 0",
            "known 0", "known 0",
        ],
    ),
    // 200, the one that stands again, and another branch's.
    (
        "callee P 1 B b",
        [
            "offer", "answer 0", "known 0", "answer 0", "answer 0", "known 0", "known 0",
            "answer 0", "answer 0", "answer 0",
        ],
    ),
    (
        "callee P 1 C c",
        [
            "offer", "answer 0", "offer", "answer 0", "known 0", "known 0", "known 0", "known 0",
            "known 0", "known 0",
        ],
    ),
    // 200 to the caller's later request, which may have had no SDP.
    (
        "callee P 2 B b",
        [
            "offer", "offer", "offer", "offer", "offer", "offer", "offer", "answer 1", "offer",
            "answer 1",
        ],
    ),
    // The caller's reply to the callee's request.
    (
        "caller P 1 B a",
        [
            "offer", "offer", "offer", "offer", "offer", "offer", "offer", "offer", "answer 1",
            "answer 2",
        ],
    ),
    // ACK with SDP.
    (
        "caller Q 1 B a",
        [
            "offer", "known 0", "answer 0", "known 0", "known 0", "answer 0", "answer 0",
            "known 0", "known 0", "known 0",
        ],
    ),
    // Another branch's own request.
    (
        "callee Q 9 C c",
        [
            "offer", "offer", "offer", "offer", "known 0", "known 0", "known 0", "known 0",
            "known 0", "known 0",
        ],
    ),
    // Numbers below what was seen.
    (
        "caller Q 0 B a",
        [
            "offer",
            "forgotten",
            "forgotten",
            "forgotten",
            "forgotten",
            "forgotten",
            "forgotten",
            "forgotten",
            "forgotten",
            "forgotten",
        ],
    ),
];

#[test]
fn c2_every_message_in_every_state() {
    for (message, meanings) in TABLE {
        for ((state, steps), meaning) in STATES.iter().zip(meanings) {
            let mut offers = Offers::default();
            for step in *steps {
                take(&mut offers, step);
            }
            assert_eq!(take(&mut offers, message), meaning, "{message}: {state}");
        }
    }
}

/// No two messages in a row, from any state, leave more than one offer agreed or more offers than are kept.
#[test]
fn c2_every_pair_of_messages_in_every_state() {
    for (_, steps) in STATES {
        for (first, _) in TABLE {
            for (second, _) in TABLE {
                let mut offers = Offers::default();
                steps.iter().for_each(|step| drop(take(&mut offers, step)));
                take(&mut offers, first);
                let one = take(&mut offers, second);
                let agreed = offers
                    .kept
                    .iter()
                    .filter(|o| o.state == OfferState::Current);
                assert!(agreed.count() <= 1, "{steps:?} {first} {second}");
                // Once more: nothing new comes of it.
                let before = offers.kept.len();
                let again = take(&mut offers, second);
                assert_eq!(offers.kept.len(), before, "{steps:?} {first} {second}");
                assert!(one != again || one != "offer", "{steps:?} {first} {second}");
            }
        }
    }
}

#[test]
fn offers_are_forgotten_and_never_the_one_that_counts() {
    let mut offers = Offers::default();
    take(&mut offers, "caller Q 1 - a");
    take(&mut offers, "callee P 1 B b");
    for cseq in 2..200 {
        take(&mut offers, &format!("caller Q {cseq} B a{cseq}"));
        take(&mut offers, &format!("callee Q {cseq} B b{cseq}"));
    }
    assert_eq!(offers.kept.len(), OFFERS_KEPT);
    assert_eq!(offers.current_index(), Some(0));
    assert_eq!(take(&mut offers, "caller Q 20 B a20"), "forgotten");
    for place in 0..100 {
        take(&mut offers, &format!("callee P 1 B c{place}"));
    }
    assert_eq!(offers.kept[0].answers.len(), ANSWERS_KEPT);
}
