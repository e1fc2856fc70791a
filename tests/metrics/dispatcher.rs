//! What the dispatcher counts of relays that drain, are silent, stay away or are asked in vain; read over the
//! management socket.

use std::time::Duration;

use crate::support::bed::{Bed, answered, offer, remove, statistics};
use crate::support::scrape::{Scrape, parse};

fn metrics(bed: &Bed) -> Scrape {
    let mut client = bed.management();
    let mut text = client.ask("metrics\r\n");
    loop {
        let line = client.answer();
        if line.is_empty() {
            return parse(&text);
        }
        text = format!("{text}\n{line}");
    }
}

fn wait_for(bed: &Bed, what: &str, holds: impl Fn(&Scrape) -> bool) -> Scrape {
    for _ in 0..400 {
        let metrics = metrics(bed);
        if holds(&metrics) {
            return metrics;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    panic!("not in time: {what}:\n{}", metrics(bed).text);
}

/// How many relays are active, drained, halting, timed out and away.
fn states(metrics: &Scrape) -> [f64; 5] {
    ["active", "drained", "halting", "timed_out", "away"].map(|state| {
        metrics.value(&format!(
            "mediaproxy_dispatcher_relays{{state=\"{state}\"}}"
        ))
    })
}

fn of_relay(metrics: &Scrape, family: &str, relay: &str) -> f64 {
    let labels = format!("{{relay=\"{relay}\",address=\"127.0.0.1\"}}");
    metrics.value(&format!("mediaproxy_dispatcher_{family}{labels}"))
}

#[test]
fn a_relay_that_is_silent_costs_a_retry_and_is_timed_out() {
    let bed = Bed::with(|settings| settings.relay_timeout = Duration::from_secs(1));
    let mut second = bed.relay("two");
    let mut proxy = bed.proxy();
    proxy.send(offer("earlier").as_bytes());
    second.serve("update", "192.0.2.2 40000");
    proxy.answer();
    // It has no calls yet, so it is asked first.
    let mut first = bed.relay("one");
    proxy.send(offer("a").as_bytes());
    first.asked();
    second.serve("update", "192.0.2.2 40000");
    assert_eq!(proxy.answer(), "192.0.2.2 40000");
    let now = wait_for(&bed, "the first is timed out", |m| {
        states(m) == [1.0, 0.0, 0.0, 1.0, 0.0]
    });
    assert_eq!(now.value("mediaproxy_dispatcher_relay_retries_total"), 1.0);
    assert_eq!(
        of_relay(&now, "relay_up", "one"),
        1.0,
        "connected all the same"
    );
    assert_eq!(
        (
            of_relay(&now, "sessions", "one"),
            of_relay(&now, "sessions", "two")
        ),
        (0.0, 2.0)
    );
    let took =
        now.value("mediaproxy_dispatcher_request_duration_seconds_sum{request=\"new_call\"}");
    assert!(took >= 0.15, "{took}");
    first.settle();
    wait_for(&bed, "a ping clears that", |m| {
        states(m) == [2.0, 0.0, 0.0, 0.0, 0.0]
    });
}

#[test]
fn a_relay_that_drains_and_one_that_stays_away() {
    let bed = Bed::with(|settings| settings.cleanup_dead_relays_after = Duration::from_secs(1));
    let mut relay = bed.relay("one");
    let mut proxy = bed.proxy();
    proxy.send(offer("a").as_bytes());
    relay.serve("update", "192.0.2.1 40000");
    proxy.answer();
    let mut client = bed.management();
    let drained = client.ask("drain one\r\n");
    assert!(!drained.starts_with("error"), "{drained}");
    assert_eq!(states(&metrics(&bed)), [0.0, 1.0, 0.0, 0.0, 0.0]);
    assert!(client.answer().starts_with("warning: NO RELAY IS LEFT"));
    assert_eq!(client.answer(), "");
    assert!(!client.ask("resume one\r\n").starts_with("error"));
    proxy.send(offer("b").as_bytes());
    relay.serve("update", "halting");
    assert_eq!(proxy.answer(), "error");
    let now = metrics(&bed);
    assert_eq!(states(&now), [0.0, 0.0, 1.0, 0.0, 0.0]);
    let new_calls = |result: &str| {
        now.value(&format!(
            "mediaproxy_dispatcher_requests_total{{request=\"new_call\",result=\"{result}\"}}"
        ))
    };
    assert_eq!((new_calls("ok"), new_calls("error")), (1.0, 1.0));
    relay.cut();
    let now = wait_for(&bed, "it is away", |m| {
        states(m) == [0.0, 0.0, 0.0, 0.0, 1.0]
    });
    assert_eq!(
        (
            of_relay(&now, "relay_up", "one"),
            of_relay(&now, "sessions", "one")
        ),
        (0.0, 1.0)
    );
    let now = wait_for(&bed, "it is given up", |m| states(m) == [0.0; 5]);
    assert_eq!(
        now.value("mediaproxy_dispatcher_sessions_ended_total{reason=\"lost_relay\"}"),
        1.0
    );
    assert_eq!(
        now.value("mediaproxy_dispatcher_sessions_timed_out_total"),
        0.0
    );
    assert_eq!(bed.ended.count(), 1);
}

/// A session is counted when it is recorded: what its relay tells again is one session.
#[test]
fn an_end_that_cannot_be_recorded_is_counted_once() {
    let bed = Bed::new();
    let mut relay = bed.link();
    relay.say("hello {\"name\": \"one\", \"stored\": true}");
    relay.list("[]");
    let mut proxy = bed.proxy();
    for request in [offer("a"), answered("a"), offer("b"), answered("b")] {
        proxy.send(request.as_bytes());
        relay.serve("update", "192.0.2.1 40000");
        proxy.answer();
    }
    bed.ended
        .is_full
        .store(true, std::sync::atomic::Ordering::Relaxed);
    let line = format!("expired {}", statistics("a", "conntrack timeout"));
    relay.say(&line);
    relay.settle();
    let ended = |m: &Scrape| m.sum("mediaproxy_dispatcher_sessions_ended_total");
    assert_eq!(ended(&metrics(&bed)), 0.0, "its relay keeps it");
    bed.ended
        .is_full
        .store(false, std::sync::atomic::Ordering::Relaxed);
    relay.say(&line);
    relay.settle();
    let now = metrics(&bed);
    assert_eq!(ended(&now), 1.0);
    assert_eq!(
        now.value("mediaproxy_dispatcher_sessions_ended_total{reason=\"expired\"}"),
        1.0
    );
    proxy.send(remove("b").as_bytes());
    relay.serve("remove", &statistics("b", "closed"));
    assert_eq!(proxy.answer(), "removed");
    let now = metrics(&bed);
    assert_eq!(
        now.value("mediaproxy_dispatcher_sessions_ended_total{reason=\"removed\"}"),
        1.0
    );
    assert_eq!(now.sum("mediaproxy_dispatcher_sessions"), 0.0);
}

/// A name that a relay chose is a label's value and nothing else.
#[test]
fn a_relays_name_forges_no_sample() {
    let bed = Bed::new();
    let mut relay = bed.link();
    relay.say(r#"hello {"name": "x\"} 1\nmediaproxy_forged{y=\"\\"}"#);
    relay.list("[]");
    let now = metrics(&bed);
    assert!(!now.types.contains_key("mediaproxy_forged"));
    assert!(
        now.samples
            .keys()
            .all(|name| !name.starts_with("mediaproxy_forged")),
        "{}",
        now.text
    );
    assert_eq!(now.sum("mediaproxy_dispatcher_relay_up"), 1.0);
}
