//! What a ledger tells the dispatcher after the one that wrote it.

use std::slice;

use super::*;
use crate::dispatcher::call::{Known, LiveCall};
use crate::dispatcher::relay_id::RelayKey;
use crate::proto::control::Remove;
use crate::proto::{CSeq, CallId, DialogId, Tag};
use crate::sys::scratch::Scratch;

const NONE: fn(SessionId) -> bool = |_| false;

fn open(scratch: &Scratch) -> (Ledger, Vec<CallNote>) {
    let (ledger, earlier) = open_at(scratch, at(400));
    assert_eq!(earlier.dialogs, []);
    (ledger, earlier.calls)
}

fn open_at(scratch: &Scratch, now: UnixTime) -> (Ledger, Earlier) {
    Ledger::open(scratch.path(), now, NONE).unwrap()
}

fn at(seconds: u64) -> UnixTime {
    UnixTime::from_secs(1_000_000 + seconds)
}

fn id(number: u128) -> SessionId {
    SessionId::from_random(number)
}

fn call(number: u128) -> CallNote {
    let odd: &[u8] = b"caf\xe9\x01 \"";
    let call = LiveCall {
        name: Name {
            call_id: CallId(format!("call-{number}").as_str().into()),
            caller: Some(Tag(odd.into())),
            callee: Some(Tag("t".into())),
        },
        dialog_id: Some(DialogId("7:8".into())),
        opening: Some(CSeq(7)),
        begun_by_reply: false,
        known: Known {
            session_id: id(number),
            from_uri: "Zoë@example.com".into(),
            to_uri: odd.into(),
            caller_ua: Some("phone".into()),
            callee_ua: None,
            username: None,
            started: Some(at(10)),
            ended: None,
        },
        owed: None,
    };
    CallNote {
        call,
        relay: RelayKey {
            address: [192, 0, 2, 1].into(),
            name: Some("relay1:40000".into()),
        },
        away: Duration::ZERO,
        order: 0,
    }
}

/// As one that its dispatcher saw last at that time.
fn seen(mut note: CallNote, seconds: u64) -> CallNote {
    note.call.known.ended = Some(at(seconds));
    note
}

#[test]
fn the_next_dispatcher_knows_the_calls_that_are_not_over() {
    let scratch = Scratch::new("ledger");
    let (ledger, earlier) = open(&scratch);
    assert_eq!(earlier, []);
    (1..=3).for_each(|number| ledger.note(&call(number), at(20)));
    ledger.over(&[(id(2), true)]);
    drop(ledger);
    let (ledger, earlier) = open(&scratch);
    assert_eq!(earlier, [1, 3].map(|number| seen(call(number), 20)));
    ledger.over(&[(id(3), true)]);
    drop(ledger);
    let (_, earlier) = open(&scratch);
    assert_eq!(
        earlier,
        [seen(call(1), 20)],
        "the second one goes on with it"
    );
}

#[test]
fn older_news_that_comes_late_changes_nothing() {
    let scratch = Scratch::new("ledger");
    let (ledger, _) = open(&scratch);
    let callee = |answered: bool| answered.then(|| Tag("t".into()));
    let news = |order, answered| {
        let mut call = call(1);
        (call.order, call.call.name.callee) = (order, callee(answered));
        call
    };
    let told = |answered, seconds| {
        let mut call = seen(call(1), seconds);
        call.call.name.callee = callee(answered);
        call
    };
    ledger.note(&news(2, true), at(20));
    ledger.note(&news(1, false), at(20));
    ledger.note(&call(2), at(20));
    ledger.over(&[(id(2), true)]);
    ledger.note(&call(2), at(20));
    drop(ledger);
    // The next dispatcher's news is newer than all of that.
    let (ledger, earlier) = open(&scratch);
    assert_eq!(earlier, [told(true, 20)]);
    ledger.note(&news(1, false), at(20));
    ledger.note(&news(1, false), at(20));
    drop(ledger);
    assert_eq!(open(&scratch).1, [told(false, 400)]);
}

#[test]
fn only_the_last_calls_that_were_over_are_remembered() {
    let mut struck = Struck::default();
    for number in 0..=MAX_STRUCK as u128 {
        struck.add(id(number));
        struck.add(id(number));
    }
    assert!(!struck.contains(id(0)) && struck.contains(id(1)));
    assert_eq!(
        (struck.ids.len(), struck.order.len()),
        (MAX_STRUCK, MAX_STRUCK)
    );
}

#[test]
fn the_last_word_on_a_call_counts() {
    let scratch = Scratch::new("ledger");
    let (ledger, _) = open(&scratch);
    ledger.note(&call(1), at(20));
    let mut removed = call(1);
    removed.call.known.ended = Some(at(30));
    removed.call.owed = Some(Remove {
        call_id: removed.call.name.call_id.clone(),
        from_tag: removed.call.name.caller.clone().unwrap(),
        to_tag: None,
    });
    ledger.note(&removed, at(30));
    drop(ledger);
    assert_eq!(open(&scratch).1, [removed], "with the time of its removal");
}

#[test]
fn a_call_was_last_seen_when_its_dispatcher_was() {
    let scratch = Scratch::new("ledger");
    let (ledger, _) = open(&scratch);
    ledger.note(&call(1), at(20));
    ledger.tend(at(300), NONE);
    ledger.tend(at(305), NONE);
    drop(ledger);
    assert_eq!(open(&scratch).1, [seen(call(1), 300)]);
}

#[test]
fn what_was_accounted_before_the_kill_is_over() {
    let scratch = Scratch::new("ledger");
    let (ledger, _) = open(&scratch);
    ledger.note(&call(1), at(20));
    ledger.note(&call(2), at(20));
    drop(ledger);
    let (_, earlier) = Ledger::open(scratch.path(), at(30), |one| one == id(1)).unwrap();
    assert_eq!(earlier.calls, [seen(call(2), 20)]);
    // Once accounting has forgotten it, it is over all the same.
    assert_eq!(open(&scratch).1, [seen(call(2), 20)]);
}

#[test]
fn a_call_that_is_not_recorded_yet_stays() {
    let scratch = Scratch::new("ledger");
    let (ledger, _) = open(&scratch);
    ledger.note(&call(1), at(20));
    ledger.over(&[(id(1), false)]);
    ledger.tend(at(21), NONE);
    drop(ledger);
    let (ledger, earlier) = open(&scratch);
    assert_eq!(earlier.len(), 1);
    ledger.over(&[(id(1), false)]);
    ledger.tend(at(22), |_| true);
    drop(ledger);
    assert_eq!(open(&scratch).1, []);
}

#[test]
fn the_ledger_stays_small_however_many_calls_come_and_go() {
    let scratch = Scratch::new("ledger");
    let (ledger, _) = open(&scratch);
    let lasting: Vec<CallNote> = (0..20).map(call).collect();
    for (number, lasting) in lasting.iter().enumerate() {
        ledger.note(lasting, at(20));
        for short in 0..500 {
            let number = 1_000 * (number as u128 + 1) + short;
            ledger.note(&call(number), at(20));
            ledger.over(&[(id(number), true)]);
        }
        ledger.tend(at(21), NONE);
    }
    // Two segments and what has been written since.
    ledger.tend(at(22), NONE);
    assert!(
        ledger.log.size() < 4 * OPTIONS.segment,
        "{}",
        ledger.log.size()
    );
    assert!(!scratch.path().join("0000000001.journal").exists());
    drop(ledger);
    assert_eq!(open(&scratch).1.len(), lasting.len());
}

#[test]
fn what_the_disk_refuses_is_written_later() {
    let scratch = Scratch::new("ledger");
    let (mut ledger, _) = open(&scratch);
    ledger.note(&call(1), at(20));
    ledger.log.set_size(ledger.log.size() + 10);
    ledger.note(&call(2), at(21));
    ledger.over(&[(id(1), true)]);
    ledger.note(&call(3), at(22));
    ledger.over(&[(id(3), true)]);
    ledger.tend(at(23), NONE);
    ledger.log.set_size(OPTIONS.size);
    ledger.tend(at(24), NONE);
    assert!(ledger.log.in_memory().is_empty());
    drop(ledger);
    let (_, earlier) = open(&scratch);
    let ids: Vec<SessionId> = earlier
        .iter()
        .map(|call| call.call.known.session_id)
        .collect();
    assert_eq!(ids, [id(2)]);
}

#[test]
fn a_line_that_cannot_be_read_costs_itself_alone() {
    let scratch = Scratch::new("ledger");
    let (ledger, _) = open(&scratch);
    ledger.note(&call(1), at(20));
    for rubbish in [
        "call {}",
        "call [1]",
        "over x",
        "over",
        "",
        "seen -1",
        "what 7",
        "dialog x {}",
        "dialog {}",
    ] {
        ledger.log.remark(rubbish.as_bytes());
    }
    ledger.note(&call(2), at(20));
    drop(ledger);
    assert_eq!(open(&scratch).1.len(), 2);
}

#[test]
fn a_dialog_is_due_until_the_proxy_has_been_asked() {
    let scratch = Scratch::new("ledger");
    let (ledger, _) = open(&scratch);
    let odd = Name {
        call_id: CallId(b"caf\xe9"[..].into()),
        caller: Some(Tag(b"f\xe9"[..].into())),
        callee: Some(Tag("t".into())),
    };
    let first = ledger.due(&odd, &DialogId("1:2".into()), at(20), 1);
    let second = ledger.due(&odd, &DialogId("3:4".into()), at(21), 2);
    ledger.note(&call(3), at(22));
    ledger.settled(&first);
    drop(ledger);
    let (ledger, earlier) = open_at(&scratch, at(30));
    assert_eq!(earlier.dialogs, slice::from_ref(&second));
    assert_eq!(earlier.calls, [seen(call(3), 22)]);
    ledger.settled(&second);
    drop(ledger);
    assert_eq!(open_at(&scratch, at(31)).1.dialogs, []);
}

/// A proxy that has started anew may have given its id to another one.
#[test]
fn an_old_dialog_is_left_alone() {
    let scratch = Scratch::new("ledger");
    let (ledger, _) = open(&scratch);
    let due = ledger.due(
        &Name::untold(CallId("a".into())),
        &DialogId("1:2".into()),
        at(0),
        1,
    );
    drop(ledger);
    let kept = open_at(&scratch, at(3600)).1.dialogs;
    assert_eq!(kept, [due]);
    assert_eq!(open_at(&scratch, at(3601)).1.dialogs, []);
    assert_eq!(open_at(&scratch, at(0)).1.dialogs, [], "given up for good");
}

/// A relay that was lost, and a dispatcher that lived on for 270 s; the one after it tells the same of it.
#[test]
fn what_is_known_of_a_lost_relay_outlives_restarts() {
    let scratch = Scratch::new("ledger");
    let (ledger, _) = open(&scratch);
    let lost = seen(call(1), 30);
    ledger.note(&lost, at(30));
    ledger.note(&call(2), at(40));
    ledger.tend(at(300), NONE);
    drop(ledger);
    let away = |call, seconds| CallNote {
        away: Duration::from_secs(seconds),
        ..call
    };
    let expected = [away(lost, 270), seen(call(2), 300)];
    assert_eq!(open(&scratch).1, expected);
    // A day later: nobody saw it being away meanwhile.
    assert_eq!(open_at(&scratch, at(86_400)).1.calls, expected);
    assert_eq!(open_at(&scratch, at(86_401)).1.calls, expected);
}

#[test]
fn a_clock_that_was_ahead_does_not_make_calls_longer() {
    let scratch = Scratch::new("ledger");
    let (ledger, _) = open(&scratch);
    ledger.note(&call(1), at(20));
    ledger.tend(at(5_000), NONE);
    ledger.tend(at(300), NONE);
    drop(ledger);
    assert_eq!(open(&scratch).1, [seen(call(1), 300)]);
}

/// As versions left it that wrote no line with the format: word for word, tags that are no UTF-8 and all.
#[test]
fn what_an_earlier_version_has_noted_is_known() {
    let scratch = Scratch::new("ledger");
    let lines = [
        r#"call {"session_id":"SESSION","call_id":"call-1","from_tag":[99,97,102,233,1,32,34],"to_tag":"t","from_uri":"Zo\u00eb@example.com","to_uri":[99,97,102,233,1,32,34],"caller_ua":"phone","callee_ua":null,"username":null,"started":1000010000000,"ended":null,"dialog_id":"7:8","answered":true,"opening":7,"begun_by_reply":false,"relay":"192.0.2.1","relay_name":"relay1:40000","owed":null,"away":0,"at":1000020000000}"#,
        r#"dialog OTHER {"call_id":"a","from_tag":null,"to_tag":null,"dialog_id":"1:2","at":1000020000000}"#,
        "seen 1000300000000",
    ];
    let lines = lines.map(|line| {
        let line = line.replace("SESSION", &id(1).to_string());
        let line = line.replace("OTHER", &id(2).to_string());
        format!("{:08x} {line}\n", crc32fast::hash(line.as_bytes()))
    });
    let path = scratch.path().join("0000000001.journal");
    std::fs::write(&path, lines.concat()).unwrap();
    let (_, earlier) = open_at(&scratch, at(400));
    assert!(earlier.is_known);
    assert_eq!(earlier.calls, [seen(call(1), 300)]);
    let due = &earlier.dialogs[0];
    assert_eq!((due.id, &due.dialog_id), (id(2), &DialogId("1:2".into())));
    assert_eq!(std::fs::read_to_string(path).unwrap(), lines.concat());
    let (_, earlier) = open_at(&scratch, at(400));
    assert_eq!((earlier.calls.len(), earlier.dialogs.len()), (1, 1));
}
