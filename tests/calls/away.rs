//! Requests for calls whose relays are away: they wait for them, nobody else does, and nothing is told twice.

use std::thread;
use std::time::Duration;

use mediaproxy::dispatcher::ended_call::Reason;
use mediaproxy::sys::clock;

use crate::support::bed::{Bed, FakeRelay, LONG, Proxy, answered, offer, remove, statistics};

const PORTS: &str = "192.0.2.1 40000";
const HERE: &str = "[{\"call_id\": \"one\", \"from_tag\": \"from\"}]";

/// An answered call on this relay.
fn talking(proxy: &mut Proxy, relay: &mut FakeRelay, call_id: &str) {
    for request in [offer(call_id), answered(call_id)] {
        proxy.send(request.as_bytes());
        relay.serve("update", PORTS);
        assert_eq!(proxy.answer(), PORTS);
    }
}

/// A dispatcher with an answered call `one`, whose relay `a` is gone.
fn left_alone() -> (Bed, Proxy) {
    let bed = Bed::new();
    let (mut relay, mut proxy) = (bed.relay("a"), bed.proxy());
    talking(&mut proxy, &mut relay, "one");
    relay.cut();
    wait_until(|| bed.running.status() == "0 relays connected, 1 session");
    (bed, proxy)
}

fn wait_until(mut is_so: impl FnMut() -> bool) {
    let end = clock::mono() + LONG;
    while !is_so() {
        assert!(clock::mono() < end, "in vain");
        thread::yield_now();
    }
}

fn waits(bed: &Bed, count: usize) {
    wait_until(|| bed.running.waiting() == count);
}

/// It has said who it is, and is asked for its sessions.
fn coming(bed: &Bed, name: &str) -> FakeRelay {
    let mut relay = bed.link();
    relay.say(&format!("hello {{\"name\": \"{name}\"}}"));
    relay
}

#[test]
fn s8_an_update_waits_for_its_relay_and_new_calls_do_not() {
    let (bed, mut proxy) = left_alone();
    proxy.send(answered("one").as_bytes());
    waits(&bed, 1);
    // Others are served meanwhile.
    let (mut other, mut b) = (bed.proxy(), bed.relay("b"));
    talking(&mut other, &mut b, "two");
    waits(&bed, 1);
    let mut again = coming(&bed, "a");
    let list = again.asked();
    let asked = again.serve("update", PORTS);
    assert_eq!(asked.headers["call_id"], "one");
    assert_eq!(proxy.answer(), PORTS);
    again.reply(&list, HERE);
    again.settle();
    assert_eq!((bed.ended.count(), bed.running.waiting()), (0, 0));
}

/// The proxy would do nothing about an error, and waits for no more than half a second.
#[test]
fn s8_a_removal_waits_for_nobody_and_is_told_once() {
    let (bed, mut proxy) = left_alone();
    assert_eq!(proxy.ask(&remove("one")), "removed");
    assert_eq!(proxy.ask(&remove("one")), "removed", "said again");
    let mut again = coming(&bed, "a");
    again.serve("sessions", HERE);
    let asked = again.serve("remove", &statistics("one", "closed"));
    assert_eq!(asked.headers["call_id"], "one");
    again.settle();
    let ended = bed.ended.wait_for(1);
    assert_eq!((ended.len(), ended[0].reason), (1, Reason::Removed));
    assert!(ended[0].statistics.is_some());
    assert_eq!(proxy.ask(&remove("one")), "error", "it is over");
}

#[test]
fn a_removal_of_what_its_relay_comes_back_without_is_done() {
    let (bed, mut proxy) = left_alone();
    assert_eq!(proxy.ask(&remove("one")), "removed");
    bed.relay("a");
    let ended = bed.ended.wait_for(1);
    assert_eq!((ended.len(), ended[0].reason), (1, Reason::Removed));
    assert!(!ended[0].end_dialog, "the proxy knows");
}

/// The relay ended it while it had no link, and says so before anything else.
#[test]
fn an_end_that_fell_into_the_gap_is_recorded_once() {
    for word in ["expired", "removed"] {
        let (bed, mut proxy) = left_alone();
        assert_eq!(proxy.ask(&remove("one")), "removed");
        let mut again = coming(&bed, "a");
        again.say(&format!("{word} {}", statistics("one", "closed")));
        again.serve("sessions", "[]");
        again.settle();
        let ended = bed.ended.wait_for(1);
        assert_eq!((ended.len(), ended[0].reason), (1, Reason::Removed));
        assert!(ended[0].statistics.is_some());
    }
}

#[test]
fn a_request_that_was_under_way_is_asked_again_on_the_next_link() {
    let bed = Bed::new();
    let (mut relay, mut proxy) = (bed.relay("a"), bed.proxy());
    talking(&mut proxy, &mut relay, "one");
    proxy.send(offer("one").as_bytes());
    relay.asked();
    relay.cut();
    waits(&bed, 1);
    let mut again = coming(&bed, "a");
    again.serve("sessions", HERE);
    again.serve("update", PORTS);
    assert_eq!(proxy.answer(), PORTS);
    proxy.send(remove("one").as_bytes());
    again.asked();
    again.cut();
    assert_eq!(proxy.answer(), "removed");
    let mut again = coming(&bed, "a");
    again.serve("sessions", HERE);
    again.serve("remove", &statistics("one", "closed"));
    again.settle();
    assert_eq!(bed.ended.wait_for(1).len(), 1);
}

/// It gave up after 500 ms, and its phones go on.
#[test]
fn a_proxy_that_has_hung_up_gets_its_answer_on_its_next_try() {
    let (bed, mut first) = left_alone();
    first.send(answered("one").as_bytes());
    waits(&bed, 1);
    drop(first);
    let mut second = bed.proxy();
    second.send(answered("one").as_bytes());
    wait_until(|| bed.running.queued() == 1);
    let mut again = coming(&bed, "a");
    again.serve("sessions", HERE);
    again.serve("update", PORTS);
    again.serve("update", PORTS);
    assert_eq!(second.answer(), PORTS);
    again.settle();
    assert_eq!(bed.ended.count(), 0);
}

/// The dispatcher before this one had it, and nobody had answered it: it is in no ledger.
#[test]
fn s8_a_ringing_call_of_before_the_start_is_waited_for_until_its_relay_tells_of_it() {
    let bed = Bed::new();
    let mut proxy = bed.proxy();
    proxy.send(answered("one").as_bytes());
    waits(&bed, 1);
    let mut new = bed.proxy();
    assert_eq!(new.ask(&offer("new")), "error", "that waits for nobody");
    let mut relay = coming(&bed, "a");
    relay.serve("sessions", HERE);
    let asked = relay.serve("update", PORTS);
    assert_eq!(asked.headers["call_id"], "one");
    assert!(
        !asked.headers.contains_key("session_id"),
        "it is no new one"
    );
    assert_eq!(proxy.answer(), PORTS);
    // All relays that may have calls of before have told them: what is not known now is new.
    new.send(answered("two").as_bytes());
    let asked = relay.serve("update", PORTS);
    assert!(asked.headers.contains_key("session_id"));
    assert_eq!(new.answer(), PORTS);
}

#[test]
fn a_relay_that_comes_while_another_is_waited_for_does_not_get_its_calls() {
    let (bed, mut proxy) = left_alone();
    proxy.send(answered("one").as_bytes());
    waits(&bed, 1);
    let mut other = bed.relay("b");
    other.settle();
    waits(&bed, 1);
    let mut again = coming(&bed, "a");
    again.serve("sessions", HERE);
    again.serve("update", PORTS);
    assert_eq!(proxy.answer(), PORTS);
    other.settle();
}

/// Its process ends and leaves its calls to the next one, which has them.
#[test]
fn a_relay_that_leaves_gets_no_new_calls_and_its_own_wait() {
    let bed = Bed::new();
    let (mut relay, mut proxy) = (bed.relay("a"), bed.proxy());
    talking(&mut proxy, &mut relay, "one");
    relay.say("leaving nonsense");
    relay.say("leaving 60");
    relay.settle();
    assert_eq!(proxy.ask(&offer("new")), "error");
    relay.cut();
    wait_until(|| bed.running.status() == "0 relays connected, 1 session");
    proxy.send(answered("one").as_bytes());
    waits(&bed, 1);
    let mut again = coming(&bed, "a");
    again.serve("sessions", HERE);
    again.serve("update", PORTS);
    assert_eq!(proxy.answer(), PORTS);
    talking(&mut proxy, &mut again, "new");
    assert_eq!(bed.ended.count(), 0);
}

/// Nobody restarts it, or its calls are given up soon.
#[test]
fn a_relay_that_stays_away_is_not_waited_for_any_longer() {
    let bed = Bed::with(|settings| {
        settings.relay_timeout = 3 * LONG;
        settings.cleanup_dead_relays_after = Duration::from_secs(2);
    });
    let (mut relay, mut proxy) = (bed.relay("a"), bed.proxy());
    talking(&mut proxy, &mut relay, "one");
    relay.cut();
    wait_until(|| bed.running.status() == "0 relays connected, 1 session");
    assert_eq!(proxy.ask(&answered("one")), "error");
    assert_eq!(bed.ended.count(), 0, "it is not given up yet");
}

/// As many as may wait do; for the rest it is as without waiting, and other calls are placed.
#[test]
fn those_who_wait_leave_room_for_others() {
    const MOST: usize = 500;
    let bed = Bed::with(|settings| settings.relay_timeout = 3 * LONG);
    let (mut relay, mut proxy) = (bed.relay("a"), bed.proxy());
    let name = |number: usize| format!("call {number}");
    for number in 0..=MOST {
        talking(&mut proxy, &mut relay, &name(number));
    }
    relay.cut();
    wait_until(|| bed.running.status() == format!("0 relays connected, {} sessions", MOST + 1));
    let mut waiting: Vec<Proxy> = (0..MOST).map(|_| bed.proxy()).collect();
    for (number, one) in waiting.iter_mut().enumerate() {
        one.send(answered(&name(number)).as_bytes());
    }
    waits(&bed, MOST);
    assert_eq!(proxy.ask(&answered(&name(MOST))), "error");
    let mut other = bed.relay("b");
    talking(&mut proxy, &mut other, "another");
    let mut again = coming(&bed, "a");
    let list = again.asked();
    for _ in 0..MOST {
        again.serve("update", PORTS);
    }
    for one in &mut waiting {
        assert_eq!(one.answer(), PORTS);
    }
    again.reply(&list, "[]");
    again.settle();
    assert_eq!(bed.running.waiting(), 0);
}
