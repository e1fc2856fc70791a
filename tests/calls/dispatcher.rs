//! The dispatcher against relays that are silent, late, lost or odd, and proxies that vanish.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use mediaproxy::dispatcher::ended_call::Reason;

use crate::support::bed::{self, Bed, FakeRelay, Proxy, answered, offer, remove, statistics};

const PORTS: &str = "192.0.2.1 40000";

/// A call that a relay has taken and that was answered.
fn talking(proxy: &mut Proxy, relay: &mut FakeRelay, call_id: &str) {
    for request in [offer(call_id), answered(call_id)] {
        proxy.send(request.as_bytes());
        relay.serve("update", PORTS);
        assert_eq!(proxy.answer(), PORTS);
    }
}

fn short(settings: &mut mediaproxy::dispatcher::Settings) {
    settings.relay_timeout = Duration::from_millis(300);
    settings.relay_retry = Duration::from_millis(30);
}

#[test]
fn a_call_from_offer_to_removal() {
    let bed = Bed::new();
    let (mut relay, mut proxy) = (bed.relay("a"), bed.proxy());
    talking(&mut proxy, &mut relay, "one");
    proxy.send(remove("one").as_bytes());
    relay.serve("remove", &statistics("one", "closed"));
    assert_eq!(proxy.answer(), "removed");
    let ended = &bed.ended.wait_for(1)[0];
    assert_eq!(ended.reason, Reason::Removed);
    assert_eq!(ended.statistics.as_ref().unwrap().call_id, "one");
    assert_eq!(proxy.ask(&remove("one")), "error", "not known any more");
}

#[test]
fn without_a_relay_there_is_an_error_at_once() {
    let bed = Bed::new();
    let mut proxy = bed.proxy();
    assert_eq!(proxy.ask(&offer("one")), "error");
    assert_eq!(proxy.ask(&remove("one")), "error");
}

#[test]
fn a_silent_relay_costs_relay_timeout_and_gets_no_new_calls_until_its_ping() {
    let bed = Bed::with(short);
    let (mut relay, mut proxy) = (bed.relay("a"), bed.proxy());
    assert_eq!(proxy.ask(&offer("one")), "error");
    assert_eq!(relay.asked().word, "update");
    assert_eq!(proxy.ask(&offer("two")), "error", "timed out");
    relay.settle();
    proxy.send(offer("three").as_bytes());
    let asked = relay.serve("update", PORTS);
    assert_eq!(asked.headers["call_id"], "three", "two was not asked");
    assert_eq!(proxy.answer(), PORTS);
}

#[test]
fn a_relay_that_does_not_recover_is_closed() {
    let bed = Bed::with(|settings| {
        short(settings);
        settings.relay_recover_interval = Duration::from_millis(300);
    });
    let mut relay = bed.relay("a");
    assert_eq!(bed.proxy().ask(&offer("one")), "error");
    relay.asked();
    relay.ends();
}

#[test]
fn silence_sends_a_new_call_to_the_next_relay_and_the_late_success_is_taken_back() {
    let bed = Bed::new();
    let (mut a, mut b, mut proxy) = (bed.relay("a"), bed.relay("b"), bed.proxy());
    proxy.send(offer("one").as_bytes());
    let (sender, receiver) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        for (relay, name) in [(&mut a, "a"), (&mut b, "b")] {
            let sender = sender.clone();
            scope.spawn(move || sender.send((name, relay.asked())).unwrap());
        }
    });
    let (first, asked_first) = receiver.recv().unwrap();
    let (_, asked_second) = receiver.recv().unwrap();
    let (slow, quick) = if first == "a" {
        (&mut a, &mut b)
    } else {
        (&mut b, &mut a)
    };
    quick.reply(&asked_second, "192.0.2.2 50000");
    assert_eq!(proxy.answer(), "192.0.2.2 50000");
    slow.reply(&asked_first, PORTS);
    let taken_back = slow.serve("remove", &statistics("one", "closed"));
    assert_eq!(taken_back.headers["call_id"], "one");
    assert_eq!(taken_back.headers["from_tag"], "from");
    slow.settle();
    assert_eq!(bed.ended.count(), 0, "the call itself goes on");
    proxy.send(answered("one").as_bytes());
    quick.serve("update", "192.0.2.2 50002");
    assert_eq!(proxy.answer(), "192.0.2.2 50002", "it stays on its relay");
}

#[test]
fn the_slow_relay_has_the_call_if_it_is_the_first_to_give_ports() {
    let bed = Bed::new();
    let (mut a, mut b, mut proxy) = (bed.relay("a"), bed.relay("b"), bed.proxy());
    proxy.send(offer("one").as_bytes());
    let (asked_a, asked_b) = (a.asked(), b.asked());
    a.reply(&asked_a, PORTS);
    assert_eq!(proxy.answer(), PORTS);
    b.reply(&asked_b, "192.0.2.2 50000");
    assert_eq!(b.asked().word, "remove");
}

#[test]
fn error_and_halting_send_a_new_call_to_the_next_relay() {
    for refusal in ["error", "halting", "None", "nonsense"] {
        let bed = Bed::new();
        let (mut a, mut b, mut proxy) = (bed.relay("a"), bed.relay("b"), bed.proxy());
        let refusals = AtomicUsize::new(0);
        proxy.send(offer("one").as_bytes());
        thread::scope(|scope| {
            for relay in [&mut a, &mut b] {
                scope.spawn(|| {
                    let asked = relay.asked();
                    match refusals.fetch_add(1, Ordering::SeqCst) {
                        0 => relay.reply(&asked, refusal),
                        _ => relay.reply(&asked, PORTS),
                    }
                });
            }
        });
        assert_eq!(proxy.answer(), PORTS, "{refusal}");
    }
}

#[test]
fn when_every_relay_refuses_there_is_an_error_and_no_call() {
    let bed = Bed::new();
    let (mut a, mut b, mut proxy) = (bed.relay("a"), bed.relay("b"), bed.proxy());
    proxy.send(offer("one").as_bytes());
    thread::scope(|scope| {
        scope.spawn(|| a.serve("update", "error"));
        scope.spawn(|| b.serve("update", "error"));
    });
    assert_eq!(proxy.answer(), "error");
    assert_eq!(proxy.ask(&remove("one")), "error");
}

#[test]
fn a_halting_relay_keeps_its_calls_and_gets_no_new_ones() {
    let bed = Bed::new();
    let (mut relay, mut proxy) = (bed.relay("a"), bed.proxy());
    talking(&mut proxy, &mut relay, "one");
    proxy.send(offer("two").as_bytes());
    relay.serve("update", "halting");
    assert_eq!(proxy.answer(), "error");
    assert_eq!(proxy.ask(&offer("three")), "error", "it is not asked again");
    proxy.send(answered("one").as_bytes());
    assert_eq!(relay.serve("update", PORTS).headers["call_id"], "one");
    assert_eq!(proxy.answer(), PORTS);
    relay.cut();
    let mut again = bed.relay("a");
    proxy.send(offer("four").as_bytes());
    again.serve("update", PORTS);
    assert_eq!(proxy.answer(), PORTS, "a new link takes calls");
}

#[test]
fn a_success_that_comes_after_the_deadline_is_taken_back() {
    let bed = Bed::with(short);
    let (mut relay, mut proxy) = (bed.relay("a"), bed.proxy());
    proxy.send(offer("one").as_bytes());
    let asked = relay.asked();
    assert_eq!(proxy.answer(), "error");
    relay.reply(&asked, PORTS);
    assert_eq!(relay.asked().word, "remove");
}

#[test]
fn a_link_cut_in_mid_request_answers_error_and_the_call_waits_for_its_relay() {
    let bed = Bed::new();
    let (mut relay, mut proxy) = (bed.relay("a"), bed.proxy());
    talking(&mut proxy, &mut relay, "one");
    proxy.send(offer("one").as_bytes());
    relay.asked();
    relay.cut();
    assert_eq!(proxy.answer(), "error");
    assert_eq!(proxy.ask(&answered("one")), "error", "its relay is away");
    let mut again = bed.relay_with("a", "[{\"call_id\": \"one\"}, {\"call_id\": \"other\"}]");
    proxy.send(answered("one").as_bytes());
    again.serve("update", PORTS);
    assert_eq!(proxy.answer(), PORTS);
    assert_eq!(bed.ended.count(), 0);
}

#[test]
fn a_link_cut_in_mid_request_sends_a_new_call_elsewhere() {
    let bed = Bed::new();
    let (mut a, mut proxy) = (bed.relay("a"), bed.proxy());
    proxy.send(offer("one").as_bytes());
    a.asked();
    let mut b = bed.relay("b");
    a.cut();
    b.serve("update", PORTS);
    assert_eq!(proxy.answer(), PORTS);
}

#[test]
fn what_a_relay_comes_back_without_is_over() {
    let bed = Bed::new();
    let (mut relay, mut proxy) = (bed.relay("a"), bed.proxy());
    talking(&mut proxy, &mut relay, "kept");
    talking(&mut proxy, &mut relay, "lost");
    relay.cut();
    bed.relay_with("a", "[{\"call_id\": \"kept\"}]");
    let ended = &bed.ended.wait_for(1)[0];
    assert_eq!(ended.reason, Reason::Purged);
    assert_eq!(ended.name.call_id.to_string(), "lost");
    assert!(ended.end_dialog);
    assert_eq!(proxy.ask(&remove("lost")), "removed", "as after expired");
    assert_eq!(proxy.ask(&remove("lost")), "error");
}

#[test]
fn an_expired_session_is_removed_without_its_relay() {
    let bed = Bed::new();
    let (mut relay, mut proxy) = (bed.relay("a"), bed.proxy());
    talking(&mut proxy, &mut relay, "one");
    relay.say(&format!(
        "expired {}",
        statistics("one", "no-traffic timeout")
    ));
    let ended = &bed.ended.wait_for(1)[0];
    assert_eq!(ended.reason, Reason::Expired);
    assert!(ended.end_dialog && ended.timed_out);
    assert_eq!(ended.dialog_id.as_ref().unwrap().to_string(), "4242:77");
    assert_eq!(proxy.ask(&foreign_remove("one")), "error");
    assert_eq!(proxy.ask(&remove("one")), "removed");
    talking(&mut proxy, &mut relay, "two");
    relay.say(&format!("expired {}", statistics("two", "closed")));
    bed.ended.wait_for(2);
    talking(&mut proxy, &mut relay, "two");
    assert_eq!(
        bed.ended.count(),
        2,
        "an update for an expired call is a new call"
    );
}

#[test]
fn a_removal_that_its_relay_missed_is_sent_when_it_is_back() {
    let bed = Bed::new();
    let (mut relay, mut proxy) = (bed.relay("a"), bed.proxy());
    talking(&mut proxy, &mut relay, "one");
    proxy.send(remove("one").as_bytes());
    relay.asked();
    relay.cut();
    assert_eq!(proxy.answer(), "removed", "for the proxy");
    let mut again = bed.link();
    again.say("hello {\"name\": \"a\"}");
    again.serve("sessions", "[{\"call_id\": \"one\"}]");
    let asked = again.serve("remove", &statistics("one", "closed"));
    assert_eq!(asked.headers["call_id"], "one");
    let ended = &bed.ended.wait_for(1)[0];
    assert_eq!(ended.reason, Reason::Removed);
    assert!(ended.statistics.is_some());
}

#[test]
fn a_proxy_that_is_gone_leaves_no_call_behind() {
    let bed = Bed::new();
    let mut relay = bed.relay("a");
    let mut proxy = bed.proxy();
    proxy.send(offer("one").as_bytes());
    let asked = relay.asked();
    drop(proxy);
    relay.reply(&asked, PORTS);
    assert_eq!(
        relay.serve("remove", &statistics("one", "closed")).word,
        "remove"
    );
    bed.ended.wait_for(1);
    let mut other = bed.proxy();
    talking(&mut other, &mut relay, "two");
}

#[test]
fn a_retransmission_over_another_connection_gets_the_call_of_the_one_that_is_gone() {
    let bed = Bed::new();
    let mut relay = bed.relay("a");
    let (mut first, mut second) = (bed.proxy(), bed.proxy());
    first.send(offer("one").as_bytes());
    let asked = relay.asked();
    second.send(offer("one").as_bytes());
    while bed.running.queued() == 0 {
        thread::yield_now();
    }
    drop(first);
    relay.reply(&asked, PORTS);
    relay.serve("update", PORTS);
    assert_eq!(second.answer(), PORTS);
    relay.settle();
    assert_eq!(bed.ended.count(), 0);
}

#[test]
fn half_a_request_costs_only_its_connection() {
    let bed = Bed::new();
    let (mut relay, mut good) = (bed.relay("a"), bed.proxy());
    let mut broken = bed.proxy();
    broken.send(&offer("one").as_bytes()[..100]);
    drop(broken);
    talking(&mut good, &mut relay, "two");
}

#[test]
fn requests_of_one_call_are_served_in_the_order_of_their_arrival() {
    let bed = Bed::new();
    let mut relay = bed.relay("a");
    let (mut first, mut second) = (bed.proxy(), bed.proxy());
    first.send(offer("one").as_bytes());
    let asked = relay.asked();
    second.send(remove("one").as_bytes());
    // Other calls do not wait.
    let mut third = bed.proxy();
    talking(&mut third, &mut relay, "two");
    relay.reply(&asked, PORTS);
    assert_eq!(first.answer(), PORTS);
    relay.serve("remove", &statistics("one", "closed"));
    assert_eq!(second.answer(), "removed");
}

#[test]
fn a_request_that_waits_behind_a_silent_one_has_its_own_deadline() {
    let bed = Bed::with(short);
    let mut relay = bed.relay("a");
    let (mut first, mut second) = (bed.proxy(), bed.proxy());
    first.send(offer("one").as_bytes());
    let asked = relay.asked();
    second.send(remove("one").as_bytes());
    assert_eq!(first.answer(), "error");
    assert_eq!(second.answer(), "error");
    relay.reply(&asked, PORTS);
    assert_eq!(relay.asked().word, "remove", "the late call is taken back");
}

#[test]
fn replies_may_come_in_any_order() {
    let bed = Bed::new();
    let mut relay = bed.relay("a");
    let mut proxies: Vec<Proxy> = (0..8).map(|_| bed.proxy()).collect();
    for (n, proxy) in proxies.iter_mut().enumerate() {
        proxy.send(offer(&format!("call {n}")).as_bytes());
    }
    let mut asked: Vec<_> = proxies.iter().map(|_| relay.asked()).collect();
    asked.reverse();
    for asked in &asked {
        let port = asked.headers["call_id"].replace("call ", "4000");
        relay.reply(asked, &format!("192.0.2.1 {port}"));
    }
    for (n, proxy) in proxies.iter_mut().enumerate() {
        assert_eq!(proxy.answer(), format!("192.0.2.1 4000{n}"));
    }
}

/// Answers everything that a dispatcher of ours asks, until the link ends.
fn obedient(mut relay: FakeRelay) {
    let mut line = Vec::new();
    while let Some(next) = relay.next_line() {
        if !next.is_empty() {
            if line.is_empty() || next.starts_with(b"call_id: ") {
                line.push(String::from_utf8(next).unwrap());
            }
            continue;
        }
        let command = std::mem::take(&mut line);
        let (word, sequence) = command[0].split_once(' ').unwrap();
        let call_id = command[1].trim_start_matches("call_id: ");
        match word {
            "update" => relay.say(&format!("{sequence} {PORTS}")),
            _ => relay.say(&format!("{sequence} {}", statistics(call_id, "closed"))),
        }
    }
}

#[test]
fn a_thousand_pipelined_requests_are_answered_in_order() {
    let bed = Bed::new();
    let relay = bed.relay("a");
    thread::spawn(move || obedient(relay));
    let mut proxy = bed.proxy();
    let requests: String = (0..1000)
        .map(|n| match n % 4 {
            0 => offer(&n.to_string()),
            1 => "nonsense\r\n\r\n".to_owned(),
            2 => remove(&(n - 2).to_string()),
            _ => remove("unknown"),
        })
        .collect();
    let mut writer = proxy.writer();
    let writing =
        thread::spawn(move || std::io::Write::write_all(&mut writer, requests.as_bytes()));
    for n in 0..1000 {
        let expected = [PORTS, "error", "removed", "error"][n % 4];
        assert_eq!(proxy.answer(), expected, "request {n}");
    }
    writing.join().unwrap().unwrap();
    assert_eq!(bed.ended.wait_for(250).len(), 250);
}

#[test]
fn eight_connections_at_once() {
    let bed = Bed::new();
    for name in ["a", "b"] {
        let relay = bed.relay(name);
        thread::spawn(move || obedient(relay));
    }
    thread::scope(|scope| {
        for connection in 0..8 {
            let mut proxy = bed.proxy();
            scope.spawn(move || {
                for n in 0..100 {
                    let call_id = format!("{connection}-{n}");
                    assert_eq!(proxy.ask(&offer(&call_id)), PORTS);
                    assert_eq!(proxy.ask(&answered(&call_id)), PORTS);
                    assert_eq!(proxy.ask(&remove(&call_id)), "removed");
                }
            });
        }
    });
    assert_eq!(bed.ended.wait_for(800).len(), 800);
}

/// A link of a process of ours: its hello, and its list of sessions once it is asked for it.
fn instance(bed: &Bed, instance: &str, sessions: &str) -> FakeRelay {
    let mut relay = bed.link();
    relay.say(&format!(
        "hello {{\"name\": \"a\", \"instance\": \"{instance}\"}}"
    ));
    let asked = relay.line();
    assert!(asked.starts_with("sessions "), "{asked}");
    assert_eq!(relay.line(), "");
    relay.say(&format!("{} {sessions}", &asked["sessions ".len()..]));
    relay
}

/// The network swallowed the end of its first connection.
#[test]
fn l1_a_relay_that_comes_again_replaces_its_link_at_once() {
    let bed = Bed::new();
    let (mut first, mut proxy) = (instance(&bed, "x-0", "[]"), bed.proxy());
    first.settle();
    talking(&mut proxy, &mut first, "one");
    let mut second = instance(&bed, "x-0", "[{\"call_id\": \"one\"}]");
    second.settle();
    // It was not asked anything.
    first.ends();
    proxy.send(answered("one").as_bytes());
    second.serve("update", PORTS);
    assert_eq!(proxy.answer(), PORTS);
    assert_eq!(bed.ended.count(), 0);
}

/// Whoever it is, and whatever it says it has: another process of ours, an older relay beside an older one.
#[test]
fn l2_a_relay_that_answers_keeps_its_link_and_its_calls() {
    let another = Some("a relay of that name is there");
    for (hello, told) in [
        (
            "hello {\"name\": \"a\", \"instance\": \"y-0\"}\r\n",
            another,
        ),
        ("hello {\"name\": \"a\"}\r\n", another),
        // By another address of this dispatcher.
        (
            "hello {\"name\": \"a\", \"instance\": \"x-1\"}\r\n",
            Some("this relay is connected already"),
        ),
        ("", None),
    ] {
        let is_told = told.is_some();
        let bed = Bed::new();
        let mut first = if is_told {
            instance(&bed, "x-0", "[]")
        } else {
            bed.older_relay()
        };
        first.settle();
        let mut proxy = bed.proxy();
        talking(&mut proxy, &mut first, "one");
        let mut second = bed.link();
        second.say_bytes(
            format!("{hello}1 []\r\nexpired {{\"call_id\": \"one\"}}\r\nping\r\n").as_bytes(),
        );
        first.serve("summary", "{}");
        assert_eq!(second.line(), "sessions 1");
        assert_eq!(second.line(), "");
        if let Some(why) = told {
            let line = second.line();
            assert!(line.contains(&format!("\"refused\":\"{why}")), "{line}");
        }
        second.ends();
        first.settle();
        proxy.send(answered("one").as_bytes());
        first.serve("update", PORTS);
        assert_eq!(proxy.answer(), PORTS);
        assert_eq!(bed.ended.count(), 0, "nothing that it said counts");
        // Gone at once, as after a restart, the first gives way to the next.
        drop(first);
        let mut third = bed.relay("a");
        third.settle();
    }
}

/// Its host is gone: half of its connection stands.
#[test]
fn l3_a_relay_that_says_nothing_gives_way_to_the_next() {
    for is_older in [false, true] {
        let bed = Bed::new();
        let mut first = if is_older {
            bed.older_relay()
        } else {
            instance(&bed, "x-0", "[]")
        };
        first.settle();
        let mut proxy = bed.proxy();
        talking(&mut proxy, &mut first, "one");
        let begun = mediaproxy::sys::clock::moment();
        let mut second = if is_older {
            bed.older_relay()
        } else {
            instance(&bed, "y-0", "[]")
        };
        second.settle();
        let taken = mediaproxy::sys::clock::moment() - begun;
        assert!(
            taken > Duration::from_millis(1900) && taken < Duration::from_secs(15),
            "{taken:?}"
        );
        assert_eq!(first.asked().word, "summary");
        first.ends();
        let ended = bed.ended.wait_for(1);
        assert_eq!(ended[0].reason, Reason::Purged, "its calls went with it");
        proxy.send(offer("two").as_bytes());
        second.serve("update", PORTS);
        assert_eq!(proxy.answer(), PORTS);
    }
}

/// A relay that talks of something else is well, too; one whose end comes while it is asked is not.
#[test]
fn l2_whatever_is_heard_of_a_relay_is_an_answer() {
    let bed = Bed::new();
    let mut first = instance(&bed, "x-0", "[]");
    first.settle();
    let mut second = bed.link();
    second.say("hello {\"name\": \"a\", \"instance\": \"y-0\"}");
    assert_eq!(first.asked().word, "summary");
    first.settle();
    while let Some(line) = second.next_line() {
        assert!(!line.starts_with(b"pong"));
    }
    let mut third = bed.link();
    third.say("hello {\"name\": \"a\", \"instance\": \"z-0\"}");
    assert_eq!(first.asked().word, "summary");
    drop(first);
    third.list("[]");
}

#[test]
fn an_older_relay_gets_nothing_that_it_cannot_read() {
    let bed = Bed::new();
    let mut relay = bed.link();
    assert_eq!(relay.next_line().unwrap(), b"sessions 1");
    assert_eq!(relay.next_line().unwrap(), b"");
    relay.say("1 []");
    relay.settle();
    let mut proxy = bed.proxy();
    let odd = offer("caf\u{e9}").replace("signaling_ip: 192.0.2.4\r\n", "");
    let latin: Vec<u8> = odd.chars().map(|c| u8::try_from(c).unwrap()).collect();
    proxy.send(&latin);
    let asked = relay.serve("update", PORTS);
    assert_eq!(asked.headers["call_id"], "caf?");
    assert_eq!(asked.headers["signaling_ip"], "0.0.0.0");
    assert!(!asked.headers.contains_key("to_tag"));
    assert_eq!(proxy.answer(), PORTS);
    relay.say(&format!("expired {}", statistics("caf?", "closed")));
    assert_eq!(
        bed.ended.wait_for(1)[0].name.call_id.0.as_bytes(),
        b"caf\xe9"
    );
}

#[test]
fn a_relay_that_talks_nonsense_does_no_harm() {
    let bed = Bed::new();
    let (mut relay, mut proxy) = (bed.relay("a"), bed.proxy());
    for line in [
        "",
        "pong",
        "77 what",
        "expired",
        "expired {",
        "hello",
        "hello []",
        "\u{1b}[2J",
    ] {
        relay.say(line);
    }
    relay.say_bytes(b"expired {\"call_id\": \"\xff\"}\r\n\xff\xfe\r\n");
    relay.settle();
    talking(&mut proxy, &mut relay, "one");
}

#[test]
fn a_line_without_end_closes_the_link_only() {
    let bed = Bed::new();
    let (mut relay, mut proxy) = (bed.relay("a"), bed.proxy());
    let mut endless = bed.link();
    assert_eq!(endless.asked().word, "sessions");
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..4 {
        endless.try_say(&piece);
    }
    endless.try_say(b"xxxx");
    endless.ends();
    talking(&mut proxy, &mut relay, "one");
}

#[test]
fn the_answer_to_a_call_counts_even_when_its_relay_says_so_too_late() {
    let bed = Bed::with(short);
    let (mut relay, mut proxy) = (bed.relay("a"), bed.proxy());
    proxy.send(offer("one").as_bytes());
    relay.serve("update", PORTS);
    assert_eq!(proxy.answer(), PORTS);
    proxy.send(answered("one").as_bytes());
    let asked = relay.asked();
    assert_eq!(proxy.answer(), "error");
    relay.reply(&asked, PORTS);
    relay.say(&format!("expired {}", statistics("one", "closed")));
    assert!(bed.ended.wait_for(1)[0].end_dialog);
    relay.settle();
}

#[test]
fn a_removal_that_is_answered_too_late_still_ends_the_session() {
    let bed = Bed::with(short);
    let (mut relay, mut proxy) = (bed.relay("a"), bed.proxy());
    talking(&mut proxy, &mut relay, "one");
    proxy.send(remove("one").as_bytes());
    let asked = relay.asked();
    assert_eq!(proxy.answer(), "error");
    assert_eq!(bed.ended.count(), 0);
    relay.reply(&asked, &statistics("one", "closed"));
    let ended = &bed.ended.wait_for(1)[0];
    assert_eq!(ended.reason, Reason::Removed);
    assert!(ended.statistics.is_some());
    assert_eq!(proxy.ask(&remove("one")), "error", "gone");
}

#[test]
fn a_session_that_expires_while_it_is_being_removed_is_removed() {
    let bed = Bed::new();
    let (mut relay, mut proxy) = (bed.relay("a"), bed.proxy());
    talking(&mut proxy, &mut relay, "one");
    proxy.send(remove("one").as_bytes());
    let asked = relay.asked();
    relay.say(&format!("expired {}", statistics("one", "closed")));
    relay.reply(&asked, "error");
    assert_eq!(proxy.answer(), "removed");
    let ended = &bed.ended.wait_for(1)[0];
    assert!(!ended.end_dialog, "the proxy has just ended it");
    assert!(ended.statistics.is_some());
}

/// All in one write, and one of them twice.
#[test]
fn sessions_that_end_together_are_recorded_together_and_once() {
    let bed = Bed::new();
    let (mut relay, mut proxy) = (bed.relay("a"), bed.proxy());
    for call in ["one", "two", "three", "four"] {
        talking(&mut proxy, &mut relay, call);
    }
    proxy.send(remove("four").as_bytes());
    let asked = relay.asked();
    let told = |call: &str| {
        let id = format!(
            "\"session_id\": \"00000000-0000-4000-8000-{:012x}\", \"call_id\"",
            call.len()
        );
        let told = statistics(call, "closed").replace("\"call_id\"", &id);
        format!("expired {told}\r\n")
    };
    let four = format!("{} error\r\n", asked.sequence);
    let burst = ["one", "three", "three", "four"].map(told).concat() + &four;
    relay.say_bytes(burst.as_bytes());
    assert_eq!(proxy.answer(), "removed");
    let ended = bed.ended.wait_for(3);
    let calls: Vec<String> = ended
        .iter()
        .map(|one| one.name.call_id.to_string())
        .collect();
    assert_eq!(calls, ["one", "three", "four"]);
    assert!(
        bed.ended.most_together() >= 2,
        "{}",
        bed.ended.most_together()
    );
    assert_eq!(proxy.ask(&remove("one")), "removed");
    relay.settle();
    assert_eq!(bed.ended.count(), 3);
}

/// By somebody who knows the Call-ID.
fn foreign_remove(call_id: &str) -> String {
    format!("remove\r\ncall_id: {call_id}\r\nfrom_tag: x\r\nto_tag: y\r\n\r\n")
}

/// Whatever a relay says to it that is no statistics, for calls that are known and such that it has listed.
#[test]
fn a_removal_that_a_relay_refuses_leaves_the_call_where_it_is() {
    for answer in ["error", "None", "halting", "", "{}", "[]"] {
        let bed = Bed::new();
        let mut proxy = bed.proxy();
        let mut relay = bed.relay_with("a", r#"[{"call_id": "found"}]"#);
        talking(&mut proxy, &mut relay, "known");
        let mut other = bed.relay("b");
        for (before, call_id) in ["known", "found"].into_iter().enumerate() {
            proxy.send(foreign_remove(call_id).as_bytes());
            relay.serve("remove", answer);
            assert_eq!(proxy.answer(), "error", "{answer}");
            for _ in 0..10 {
                proxy.send(answered(call_id).as_bytes());
                relay.serve("update", PORTS);
                assert_eq!(proxy.answer(), PORTS);
            }
            assert_eq!(bed.ended.count(), before, "{answer}");
            proxy.send(remove(call_id).as_bytes());
            relay.serve("remove", &statistics(call_id, "closed"));
            assert_eq!(proxy.answer(), "removed", "{answer}");
        }
        let ended = bed.ended.wait_for(2);
        assert!(ended.iter().all(|one| one.statistics.is_some()));
        other.settle();
    }
}

/// A relay of ours is asked for the one call, an older one for all that it has.
#[test]
fn a_relay_that_refuses_the_right_removal_is_asked_whether_it_has_the_call() {
    let cases = [
        ("explain", r#"[{"call_id": "one"}]"#, true),
        ("explain", "error", false),
        (
            "sessions",
            r#"[{"call_id": "two"}, {"call_id": "one"}]"#,
            true,
        ),
        ("sessions", r#"[{"call_id": "two"}]"#, false),
    ];
    for (word, answer, is_there) in cases {
        let bed = Bed::new();
        let (mut relay, mut proxy) = (bed.link(), bed.proxy());
        if word == "explain" {
            relay.say(r#"hello {"name": "a", "commands": ["explain"]}"#);
        }
        relay.list("[]");
        talking(&mut proxy, &mut relay, "one");
        let mut other = bed.relay("b");
        proxy.send(remove("one").as_bytes());
        relay.serve("remove", "error");
        assert_eq!(proxy.answer(), "error");
        let asked = relay.serve(word, answer);
        assert_eq!(asked.headers.contains_key("call_id"), word == "explain");
        if is_there {
            relay.settle();
            proxy.send(answered("one").as_bytes());
            relay.serve("update", PORTS);
            assert_eq!(proxy.answer(), PORTS);
            proxy.send(remove("one").as_bytes());
            relay.serve("remove", &statistics("one", "closed"));
            assert_eq!(proxy.answer(), "removed");
        }
        let ended = &bed.ended.wait_for(1)[0];
        assert_eq!(ended.reason, Reason::Removed);
        assert_eq!(ended.statistics.is_some(), is_there);
        assert!(!ended.end_dialog);
        assert_eq!(proxy.ask(&remove("one")), "error");
        other.settle();
    }
}

/// A relay that is busy has not said that the call is over.
#[test]
fn a_relay_that_cannot_say_now_whether_it_has_a_call_ends_none() {
    let bed = Bed::new();
    let (mut relay, mut proxy) = (bed.link(), bed.proxy());
    relay.say(r#"hello {"name": "a", "commands": ["explain"]}"#);
    relay.list("[]");
    talking(&mut proxy, &mut relay, "one");
    proxy.send(remove("one").as_bytes());
    relay.serve("remove", "error");
    assert_eq!(proxy.answer(), "error");
    relay.serve("explain", "error: busy");
    relay.settle();
    assert_eq!(bed.ended.count(), 0);
    proxy.send(remove("one").as_bytes());
    relay.serve("remove", &statistics("one", "closed"));
    assert_eq!(proxy.answer(), "removed");
    assert!(bed.ended.wait_for(1)[0].statistics.is_some());
}

/// A link that is cut while it is asked: the list on the new one says the same.
#[test]
fn a_relay_that_is_lost_before_it_says_whether_it_has_a_call_says_so_when_it_is_back() {
    let bed = Bed::new();
    let (mut relay, mut proxy) = (bed.older_relay(), bed.proxy());
    talking(&mut proxy, &mut relay, "one");
    proxy.send(remove("one").as_bytes());
    relay.serve("remove", "error");
    assert_eq!(proxy.answer(), "error");
    assert_eq!(relay.asked().word, "sessions");
    relay.cut();
    let mut again = bed.link();
    again.serve("sessions", "error");
    // What it has cannot be known: it is told what it may have missed.
    again.serve("remove", &statistics("one", "closed"));
    let ended = &bed.ended.wait_for(1)[0];
    assert!(ended.statistics.is_some());
}

/// It lives, and says nothing of what it has been asked: it is told all the same what it missed.
#[test]
fn a_relay_that_does_not_list_its_sessions_is_told_what_it_missed() {
    let bed = Bed::with(|settings| {
        short(settings);
        settings.relay_recover_interval = Duration::from_millis(300);
    });
    let (mut relay, mut proxy) = (bed.relay("a"), bed.proxy());
    talking(&mut proxy, &mut relay, "one");
    relay.cut();
    // From here on the dispatcher knows that it is away.
    while proxy.ask(&answered("one")) != "error" {}
    assert_eq!(proxy.ask(&remove("one")), "removed");
    let mut again = bed.link();
    again.say("hello {\"name\": \"a\"}");
    let end = mediaproxy::sys::clock::moment() + bed::LONG;
    let told = loop {
        again.say("ping");
        match again.line() {
            line if line.starts_with("remove ") => break line,
            _ => thread::sleep(Duration::from_millis(10)),
        }
        assert!(mediaproxy::sys::clock::moment() < end, "it is not told");
    };
    let (_, sequence) = told.split_once(' ').unwrap();
    again.say(&format!("{sequence} {}", statistics("one", "closed")));
    assert_eq!(bed.ended.wait_for(1)[0].reason, Reason::Removed);
}

/// Somebody who knows the Call-ID has a session of its own under it, which rings until its relay ends it.
#[test]
fn another_session_of_that_call_id_ends_without_the_call() {
    let bed = Bed::new();
    let (mut relay, mut proxy) = (bed.relay("a"), bed.proxy());
    talking(&mut proxy, &mut relay, "one");
    let other = offer("one").replace("from_tag: from", "from_tag: x");
    proxy.send(other.replace("4242:77", "1:1").as_bytes());
    relay.serve("update", PORTS);
    assert_eq!(proxy.answer(), PORTS);
    let told = statistics("one", "closed").replace('{', r#"{"from_tag": "x", "#);
    let told = told.replacen(r#"{"from_tag": "x", "status"#, r#"{"status"#, 1);
    relay.say(&format!("expired {told}"));
    relay.settle();
    assert!(bed.ended.wait_for(1).iter().all(|one| !one.end_dialog));
    proxy.send(remove("one").as_bytes());
    relay.serve("remove", &statistics("one", "closed"));
    assert_eq!(proxy.answer(), "removed");
    let ended = &bed.ended.wait_for(2)[1];
    assert_eq!(ended.dialog_id.as_ref().unwrap().to_string(), "4242:77");
}
