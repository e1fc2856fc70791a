//! The limits of unanswered calls when relays refuse, are lost or come back, and when many ask at once; and a limit seen
//! by who looks: management, metrics, explain.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use mediaproxy::dispatcher::Limits;

use crate::support::bed::{Bed, FakeRelay, Proxy, offer};

const PORTS: &str = "192.0.2.1 40000";

fn limited(per_address: u32) -> Bed {
    Bed::with(|settings| {
        settings.limits = Limits {
            max_unanswered_per_address: per_address,
            max_unanswered_per_user: 0,
        };
    })
}

/// A call that rings on a relay.
fn rings(proxy: &mut Proxy, relay: &mut FakeRelay, call_id: &str) {
    proxy.send(offer(call_id).as_bytes());
    relay.serve("update", PORTS);
    assert_eq!(proxy.answer(), PORTS);
}

fn lines(bed: &Bed, command: &str) -> String {
    let mut client = bed.management();
    let mut text = client.ask(&format!("{command}\r\n"));
    loop {
        match client.answer() {
            line if line.is_empty() => return text,
            line => text = format!("{text}\n{line}"),
        }
    }
}

#[test]
fn s7_a_call_that_no_relay_took_counts_no_more() {
    let bed = limited(1);
    let (mut relay, mut proxy) = (bed.relay("a"), bed.proxy());
    for call_id in ["one", "two"] {
        proxy.send(offer(call_id).as_bytes());
        relay.serve("update", "error");
        assert_eq!(proxy.answer(), "error");
    }
    rings(&mut proxy, &mut relay, "three");
    assert_eq!(proxy.ask(&offer("four")), "error");
    relay.settle();
}

#[test]
fn s7_the_calls_of_a_lost_relay_leave_and_are_back_with_it() {
    let bed = limited(1);
    let (mut other, mut proxy) = (bed.relay("b"), bed.proxy());
    let mut lost = bed.relay("a");
    proxy.send(offer("one").as_bytes());
    // Either may get it.
    let on_lost = match lost.asked_within(std::time::Duration::from_millis(100)) {
        Some(asked) => {
            lost.reply(&asked, PORTS);
            true
        }
        None => {
            other.serve("update", PORTS);
            false
        }
    };
    assert_eq!(proxy.answer(), PORTS);
    assert_eq!(proxy.ask(&offer("two")), "error", "one rings");
    let (gone, mut left, name) = if on_lost {
        (lost, other, "a")
    } else {
        (other, lost, "b")
    };
    gone.cut();
    while !lines(&bed, "metrics").contains(&format!(
        "relay_up{{relay=\"{name}\",address=\"127.0.0.1\"}} 0"
    )) {
        thread::yield_now();
    }
    rings(&mut proxy, &mut left, "two");
    // What its relay has still does ring, and the limit holds for both together.
    let _back = bed.relay_with(
        name,
        r#"[{"call_id": "one", "from_tag": "from", "streams": []}]"#,
    );
    let both = |text: &str| {
        let ringing = text.lines().filter(|line| line.contains("_unanswered{"));
        ringing.filter(|line| line.ends_with(" 1")).count() == 2
    };
    while !both(&lines(&bed, "metrics")) {
        thread::yield_now();
    }
    assert_eq!(proxy.ask(&offer("three")), "error");
}

#[test]
fn s7_many_at_once_get_in_as_far_as_the_limit_goes() {
    let bed = limited(5);
    let mut relay = bed.relay("a");
    let taken = AtomicUsize::new(0);
    thread::scope(|scope| {
        let proxies: Vec<_> = (0..20)
            .map(|number| {
                let (bed, taken) = (&bed, &taken);
                scope.spawn(move || {
                    let answer = bed.proxy().ask(&offer(&number.to_string()));
                    if answer == PORTS {
                        taken.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for _ in 0..5 {
            relay.serve("update", PORTS);
        }
        proxies.into_iter().for_each(|proxy| proxy.join().unwrap());
    });
    assert_eq!(taken.load(Ordering::Relaxed), 5);
    relay.settle();
}

#[test]
fn a_refusal_is_counted_and_explained() {
    let bed = limited(1);
    let (mut relay, mut proxy) = (bed.relay("a"), bed.proxy());
    rings(&mut proxy, &mut relay, "one");
    for _ in 0..3 {
        assert_eq!(proxy.ask(&offer("two")), "error");
    }
    let metrics = lines(&bed, "metrics");
    for line in [
        "mediaproxy_dispatcher_calls_limited_total{limit=\"address\"} 3",
        "mediaproxy_dispatcher_calls_limited_total{limit=\"user\"} 0",
        "mediaproxy_dispatcher_sessions_unanswered{relay=\"a\",address=\"127.0.0.1\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    let told = lines(&bed, "explain two");
    let why = "192.0.2.4 has 1 call that nobody has answered (max_unanswered_per_address)";
    assert!(
        told.starts_with("call two was refused ") && told.contains(why),
        "{told}"
    );
}
