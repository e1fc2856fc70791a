//! The relay as dispatchers and phones see it: TLS links, commands, media, ends. The dispatchers are
//! scripted, the parties are sockets on loopback.

use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use crate::support::certs;
use crate::support::inner::{assert_has_passed, this_program};
use crate::support::relay_bed::*;

const MEDIA: &str = "audio:127.0.0.1:4000:sendrecv:ice=no";

/// A call that is up: the relay's RTP ports that the callee and the caller send to.
fn call(link: &mut FakeLink, call_id: &str, parties: (&Party, &Party)) -> (u16, u16) {
    let for_callee = offer(call_id, &parties.0.audio()).ports(link);
    let for_caller = answer(call_id, &parties.1.audio()).ports(link);
    (for_callee[0], for_caller[0])
}

#[test]
fn a_call_with_media_both_ways() {
    let bed = Bed::new();
    let mut link = bed.link();
    let (caller, callee) = (Party::new(), Party::new());
    let (for_callee, for_caller) = call(&mut link, "c@example", (&caller, &callee));
    for n in 0..20 {
        send(&caller.rtp, for_caller, &rtp(8, n));
        assert_eq!(receive(&callee.rtp), (rtp(8, n), for_callee));
        send(&callee.rtp, for_callee, &rtp(0, n));
        assert_eq!(receive(&caller.rtp), (rtp(0, n), for_caller));
    }
    send(&caller.rtcp, for_caller + 1, &rtcp());
    assert_eq!(receive(&callee.rtcp), (rtcp(), for_callee + 1));
    send(&callee.rtcp, for_callee + 1, &rtcp());
    assert_eq!(receive(&caller.rtcp), (rtcp(), for_caller + 1));

    let listed = link.json("sessions");
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(listed[0]["call_id"], "c@example");
    let summary = link.json("summary");
    assert_eq!(summary["ip"], relay_ip().to_string());
    assert_eq!(summary["status"], "active");
    assert_eq!(summary["session_count"], 1);
    assert_eq!(summary["stream_count"]["audio"], 1);

    let statistics = remove(&mut link, "c@example");
    let stream = &statistics["streams"][0];
    assert_eq!(stream["caller_packets"], 21);
    assert_eq!(stream["callee_bytes"], 20 * (172 + 28) + 8 + 28);
    assert_eq!(stream["caller_codec"], "G711a");
    assert_eq!(stream["callee_codec"], "G711u");
    assert_eq!(stream["status"], "closed");
    for port in [for_callee, for_callee + 1, for_caller, for_caller + 1] {
        assert!(
            UdpSocket::bind((relay_ip(), port)).is_ok(),
            "{port} is closed"
        );
    }
    assert_eq!(link.json("sessions"), serde_json::json!([]));
}

#[test]
fn a_flood_of_any_size_of_packets_arrives_whole_and_in_order() {
    let bed = Bed::new();
    let mut link = bed.link();
    let (caller, callee) = (Party::new(), Party::new());
    let (_, for_caller) = call(&mut link, "flood", (&caller, &callee));
    // Less than the sockets' buffers hold: nothing may be lost.
    for round in 0..20 {
        for n in 0..40 {
            send(&caller.rtp, for_caller, &rtp(8, round * 40 + n));
        }
        for n in 0..40 {
            assert_eq!(receive(&callee.rtp).0, rtp(8, round * 40 + n));
        }
    }
    let mut longest = rtp(8, 1);
    longest.resize(60_000, 7);
    send(&caller.rtp, for_caller, &longest);
    assert_eq!(receive(&callee.rtp).0, longest);
    assert_eq!(bed.end(link), 1);
}

/// A STUN binding request: it teaches an address wherever it comes by.
const STUN: [u8; 20] = [
    0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
];

/// Calls on a circle: what a caller sends goes to the callee, and each call's callee is the next one's port for its
/// caller. Returns that port of each.
fn circle(link: &mut FakeLink, calls: &[&str]) -> Vec<u16> {
    let entrances: Vec<u16> = calls
        .iter()
        .map(|call_id| {
            offer(call_id, MEDIA).ports(link);
            answer(call_id, "audio:192.0.2.9:5000:sendrecv:ice=no").ports(link)[0]
        })
        .collect();
    for (index, call_id) in calls.iter().enumerate() {
        let next = entrances[(index + 1) % calls.len()];
        let media = format!("audio:{}:{next}:sendrecv:ice=no", relay_ip());
        let ports = answer(call_id, &media).ports(link);
        assert_eq!(ports, [entrances[index]]);
    }
    entrances
}

/// The caller's side of the only stream of a call, as `explain` tells it.
fn explained(link: &mut FakeLink, call_id: &str) -> serde_json::Value {
    let told = link.ask("explain", &[("call_id", call_id)]);
    let mut told: serde_json::Value = serde_json::from_str(&told).unwrap();
    told[0]["streams"][0].take()
}

#[test]
fn m11_a_packet_that_goes_round_between_calls_dies() {
    // On one worker, and on several.
    for calls in [&["one", "two"][..], &["a", "b", "c", "d", "e"][..]] {
        // Anybody is believed: the packet is a stranger's.
        let bed = Bed::with(1, |settings| {
            settings.session.learning.learning = mediaproxy::session::Learning::Open;
        });
        let mut link = bed.link();
        let entrances = circle(&mut link, calls);
        let stranger = UdpSocket::bind((LOCAL, 0)).unwrap();
        let far = UdpSocket::bind((LOCAL, 0)).unwrap();
        far.set_ttl(3).unwrap();
        for (count, from) in [(1, &stranger), (2, &far)] {
            send(from, entrances[0], &STUN);
            let died = |link: &mut FakeLink| -> u64 {
                let dropped = &link.json("summary")["dropped_packets"]["goes round"];
                dropped.as_u64().unwrap_or_default()
            };
            wait_until("it is dropped", || died(&mut link) == count);
        }
        let mut relayed = 0;
        let mut named = Vec::new();
        for (index, call_id) in calls.iter().enumerate() {
            let stream = explained(&mut link, call_id);
            relayed += stream["caller_packets"].as_u64().unwrap();
            let next = calls[(index + 1) % calls.len()];
            if stream["caller"]["dropped"]["goes round"].is_u64() {
                wait_until("the other call is found", || {
                    explained(&mut link, call_id)["caller"]["round_with"] == next
                });
                named.push(next);
            }
        }
        assert!(!named.is_empty());
        assert!((63..200).contains(&relayed), "{relayed} packets of two");
    }
}

#[test]
fn m11_a_call_that_passes_the_relay_twice_loses_nothing() {
    let bed = Bed::new();
    let mut link = bed.link();
    let (caller, callee) = (Party::new(), Party::new());
    let [first, second] = ["first leg", "second leg"];
    // A B2BUA between them: the offer of the second call names the first one's port for its callee, and the answer of
    // the first the second one's for its caller.
    let own = |port: u16| format!("audio:{}:{port}:sendrecv:ice=no", relay_ip());
    let outward = offer(first, &caller.audio()).ports(&mut link)[0];
    let for_callee = offer(second, &own(outward)).ports(&mut link)[0];
    let inward = answer(second, &callee.audio()).ports(&mut link)[0];
    let for_caller = answer(first, &own(inward)).ports(&mut link)[0];
    // Phones of any kind, and however far away.
    for (ttl, back) in [(5, 1), (64, 128), (255, 32)] {
        caller.rtp.set_ttl(ttl).unwrap();
        callee.rtp.set_ttl(back).unwrap();
        for n in 0..1000 {
            send(&caller.rtp, for_caller, &rtp(8, n));
            assert_eq!(receive(&callee.rtp), (rtp(8, n), for_callee));
            send(&callee.rtp, for_callee, &rtp(0, n));
            assert_eq!(receive(&caller.rtp), (rtp(0, n), for_caller));
        }
    }
    for call_id in [first, second] {
        let stream = explained(&mut link, call_id);
        assert_eq!(stream["caller_packets"], 3000);
        assert_eq!(stream["callee_packets"], 3000);
        assert_eq!(stream["caller"]["dropped"], serde_json::json!({}));
    }
}

#[test]
fn several_streams_and_a_rejected_one() {
    let bed = Bed::new();
    let mut link = bed.link();
    let offered = "audio:127.0.0.1:4000:sendrecv:ice=no,video:127.0.0.1:4002:sendrecv:ice=no";
    let answered = "audio:127.0.0.1:5000:sendrecv:ice=no,video:127.0.0.1:0:sendrecv:ice=no";
    let ports = offer("av", offered).ports(&mut link);
    assert!(ports.len() == 2 && ports.iter().all(|port| *port != 0));
    let ports = answer("av", answered).ports(&mut link);
    assert!(ports[0] != 0 && ports[1] == 0, "{ports:?}");
    let statistics = remove(&mut link, "av");
    assert_eq!(statistics["streams"][1]["status"], "rejected");
}

#[test]
fn malformed_commands_are_answered_and_the_link_goes_on() {
    let bed = Bed::new();
    let mut link = bed.link();
    let cases: [&[u8]; 9] = [
        b"update 900\r\n\r\n",
        b"update 900\r\ncall_id: c\r\nno colon here\r\n\r\n",
        b"update 900\ncall_id: c\nfrom_tag: f\nfrom_uri: a\nto_uri: b\ncseq: many\nuser_agent: u\ntype: request\n\n",
        b"remove 900\r\ncall_id: c\r\n\r\n",
        b"remove 900\r\ncall_id: unknown\r\nfrom_tag: f\r\n\r\n",
        b"remove 900\r\n: \r\n\r\n",
        b"dance 900\r\n\r\n",
        b"pong\r\ndance 900\r\n\r\n",
        b"stored 1234\r\nnonsense\r\n\r\n\r\n\xff\xfe\r\n\r\ndance 900\r\n\r\n",
    ];
    for case in cases {
        link.say_bytes(case);
        let shown = String::from_utf8_lossy(case);
        assert_eq!(link.answer(900), "error", "{shown}");
    }
    let bad_media = offer("c", "audio:127.0.0.1:99999:sendrecv:ice=no").ask(&mut link);
    assert_eq!(bad_media, "error");
    // A reply without media for an unknown call: the relay's address alone.
    assert!(answer("c", "").ports(&mut link).is_empty());
    assert_eq!(link.json("summary")["session_count"], 0);
}

#[test]
fn a_line_without_end_ends_the_link_and_a_new_one_comes() {
    let bed = Bed::new();
    let mut link = bed.link();
    link.say_bytes(&vec![b'x'; 20_000]);
    assert_eq!(link.next_line(), None);
    let mut link = bed.link();
    assert_eq!(link.json("sessions"), serde_json::json!([]));
}

#[test]
fn each_dispatcher_hears_of_its_own_calls() {
    let bed = Bed::with(2, |settings| {
        settings.session.setup_timeout = Duration::from_millis(300);
    });
    let mut links = [bed.dispatchers[0].link(), bed.dispatchers[1].link()];
    for (link, call_id) in links.iter_mut().zip(["first", "second"]) {
        offer(call_id, MEDIA).ports(link);
    }
    for (link, call_id) in links.iter_mut().zip(["first", "second"]) {
        assert_eq!(link.expired()["call_id"], call_id);
    }
    for link in &mut links {
        assert_eq!(link.json("sessions"), serde_json::json!([]));
        assert!(link.unasked.is_empty(), "{:?}", link.unasked);
    }
}

#[test]
fn an_absent_dispatcher_hears_of_ended_calls_before_the_list() {
    let mut bed = Bed::with(1, |settings| {
        settings.session.setup_timeout = Duration::from_millis(200);
    });
    let mut link = bed.link();
    bed.dispatchers[0].down();
    for call_id in ["one", "two", "three"] {
        offer(call_id, MEDIA).ports(&mut link);
    }
    drop(link);
    wait_until("the calls have ended", || bed.running.sessions() == 0);
    bed.dispatchers[0].up();
    let mut link = bed.link();
    assert_eq!(link.json("sessions"), serde_json::json!([]));
    let mut ended: Vec<String> = link
        .unasked
        .iter()
        .map(|line| {
            let json = line.strip_prefix("expired ").expect("nothing else");
            let json: serde_json::Value = serde_json::from_str(json).unwrap();
            json["call_id"].as_str().unwrap().to_owned()
        })
        .collect();
    ended.sort();
    assert_eq!(ended, ["one", "three", "two"]);
}

#[test]
fn calls_outlive_their_dispatchers_link() {
    let bed = Bed::new();
    let mut link = bed.link();
    let (caller, callee) = (Party::new(), Party::new());
    let (_, for_caller) = call(&mut link, "stays", (&caller, &callee));
    drop(link);
    send(&caller.rtp, for_caller, &rtp(8, 1));
    assert_eq!(receive(&callee.rtp).0, rtp(8, 1));
    let mut link = bed.link();
    assert_eq!(link.json("sessions")[0]["call_id"], "stays");
    assert_eq!(
        remove(&mut link, "stays")["streams"][0]["caller_packets"],
        1
    );
}

#[test]
fn the_end_reports_every_call_and_closes_every_link() {
    let bed = Bed::with(2, |_| ());
    let mut links = [bed.dispatchers[0].link(), bed.dispatchers[1].link()];
    for n in 0..20 {
        let call_id = format!("call-{n}");
        offer(&call_id, MEDIA).ports(&mut links[n % 2]);
    }
    std::thread::scope(|scope| {
        scope.spawn(|| bed.running.stop());
        for (index, mut link) in links.into_iter().enumerate() {
            let mut ended = Vec::new();
            while let Some(line) = link.next_line() {
                let json = line.strip_prefix("expired ").expect("nothing else");
                let json: serde_json::Value = serde_json::from_str(json).unwrap();
                ended.push(json["call_id"].as_str().unwrap().to_owned());
            }
            let mut expected: Vec<String> = (0..20)
                .filter(|n| n % 2 == index)
                .map(|n| format!("call-{n}"))
                .collect();
            ended.sort();
            expected.sort();
            assert_eq!(ended, expected);
        }
    });
    assert_eq!(bed.running.sessions(), 0);
}

#[test]
fn a_draining_relay_keeps_its_calls_and_takes_no_new_ones() {
    let bed = Bed::new();
    let mut link = bed.link();
    let (caller, callee) = (Party::new(), Party::new());
    let (_, for_caller) = call(&mut link, "old", (&caller, &callee));
    bed.running.drain();
    assert_eq!(offer("new", MEDIA).ask(&mut link), "halting");
    assert_eq!(link.json("summary")["status"], "halting");
    assert!(!bed.running.is_drained());
    send(&caller.rtp, for_caller, &rtp(8, 1));
    assert_eq!(receive(&callee.rtp).0, rtp(8, 1));
    remove(&mut link, "old");
    wait_until("it is drained", || bed.running.is_drained());
}

#[test]
fn unanswered_pings_end_a_link_and_answered_ones_keep_it() {
    // The fourth ping finds three that were not answered: so long may this test have to wait for a processor.
    let bed = Bed::with(1, |settings| {
        settings.keepalive_interval = Duration::from_millis(700);
    });
    let mut link = bed.link();
    for _ in 0..4 {
        assert_eq!(link.next_line().as_deref(), Some("ping"));
        link.say("pong");
    }
    for _ in 0..3 {
        assert_eq!(link.next_line().as_deref(), Some("ping"));
    }
    assert_eq!(link.next_line(), None);
    let mut link = bed.link();
    assert_eq!(link.next_line().as_deref(), Some("ping"));
}

#[test]
fn an_older_dispatcher_never_says_hello() {
    let bed = Bed::new();
    let mut link = bed.dispatchers[0].accept();
    assert_eq!(link.json("sessions"), serde_json::json!([]));
    assert_eq!(link.unasked.len(), 1, "our hello: {:?}", link.unasked);
    let ports = offer("c", MEDIA).ports(&mut link);
    assert_ne!(ports[0], 0);
    assert_eq!(bed.end(link), 1);
}

#[test]
fn answers_come_for_every_command_in_a_pile() {
    let bed = Bed::new();
    let mut link = bed.link();
    let mut pile = String::new();
    for n in 0..500 {
        pile.push_str(&format!(
            "update {n}\r\ntype: request\r\ncall_id: c{n}\r\ncseq: 1\r\nfrom_uri: a\r\nto_uri: b\r\nfrom_tag: f\r\n\
             user_agent: u\r\nmedia: {MEDIA}\r\n\r\npong\r\nremove {}\r\ncall_id: c{n}\r\nfrom_tag: f\r\n\r\n",
            n + 1000
        ));
    }
    link.say_bytes(pile.as_bytes());
    let mut answers = std::collections::BTreeMap::new();
    while answers.len() < 1000 {
        let line = link.next_line().unwrap();
        let (sequence, result) = line.split_once(' ').unwrap();
        let sequence: u64 = sequence.parse().unwrap();
        assert!(
            answers.insert(sequence, result.to_owned()).is_none(),
            "{line}"
        );
    }
    for n in 0..500u64 {
        assert_eq!(parse_ports(&answers[&n]).len(), 1);
        assert!(
            answers[&(n + 1000)].starts_with('{'),
            "{}",
            answers[&(n + 1000)]
        );
    }
}

#[test]
fn c9_when_no_pair_is_left_nothing_of_a_request_is_kept() {
    let bed = Bed::with(1, |settings| settings.port_range = range(3));
    let mut link = bed.link();
    let ports = offer("one", MEDIA).ports(&mut link);
    assert_eq!(offer("two", MEDIA).ask(&mut link), "error: no ports left");
    assert_eq!(link.json("summary")["session_count"], 1);
    let again = offer("one", MEDIA).ports(&mut link);
    assert_eq!(again, ports);
    remove(&mut link, "one");
    offer("two", MEDIA).ports(&mut link);
    assert_eq!(bed.end(link), 1);
}

#[test]
fn two_thousand_calls_are_listed_while_others_go_on() {
    let bed = Bed::with(1, |settings| settings.port_range = range(4000));
    let mut link = bed.link();
    let sequences: Vec<u64> = (0..1990)
        .map(|n| offer(&format!("call-{n}"), MEDIA).send(&mut link))
        .collect();
    for sequence in sequences {
        let result = link.answer_any_order(sequence);
        assert_eq!(parse_ports(&result).len(), 1);
    }
    let list = link.send("sessions", &[]);
    let more: Vec<u64> = (0..5)
        .map(|n| offer(&format!("more-{n}"), MEDIA).send(&mut link))
        .collect();
    let listed = link.answer_any_order(list);
    let listed: Vec<serde_json::Value> = serde_json::from_str(&listed).unwrap();
    let names: std::collections::HashSet<&str> = listed
        .iter()
        .map(|s| s["call_id"].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), listed.len(), "each once");
    assert!((0..1990).all(|n| names.contains(format!("call-{n}").as_str())));
    for sequence in more {
        let result = link.answer_any_order(sequence);
        assert_eq!(parse_ports(&result).len(), 1);
    }
    assert_eq!(bed.end(link), 1995);
}

/// Runs one test of this program in a process of its own, since it changes what all tests share.
fn in_a_process_of_its_own(test: &str, shell: &str) {
    let (program, arguments) = this_program(module_path!(), test);
    let output = Command::new("sh")
        .args(["-c", &format!("{shell}; exec \"$0\" \"$@\"")])
        .arg(program)
        .args(arguments)
        .env("RELAY_TEST_INNER", test)
        .output()
        .unwrap();
    assert_has_passed(&output);
}

fn is_inner(test: &str) -> bool {
    std::env::var("RELAY_TEST_INNER").is_ok_and(|inner| inner == test)
}

#[test]
fn without_files_left_calls_are_refused_and_come_back() {
    const NAME: &str = "without_files_left_calls_are_refused_and_come_back";
    if !is_inner(NAME) {
        return in_a_process_of_its_own(NAME, "ulimit -S -n 200");
    }
    let bed = Bed::with(1, |settings| settings.port_range = range(10));
    let mut link = bed.link();
    let mut files = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        files.push(file);
    }
    assert!(files.len() < 200, "the limit is in force");
    files.truncate(files.len() - 3);
    assert_eq!(offer("one", MEDIA).ask(&mut link), "error: no ports left");
    assert_eq!(link.json("summary")["session_count"], 0);
    drop(files);
    for n in 0..5 {
        // All ten pairs are there still.
        offer(&format!("call-{n}"), MEDIA).ports(&mut link);
    }
    assert_eq!(bed.end(link), 5);
}

#[test]
fn a_dispatcher_whose_certificate_is_revoked_is_left() {
    let bed = Bed::with(1, |settings| {
        settings.verify_interval = Duration::from_secs(86_400);
    });
    let mut link = bed.link();
    assert_eq!(link.json("sessions"), serde_json::json!([]));
    bed.certs.script(&[], &["revoke", "dispatcher"]);
    while let Some(line) = link.next_line() {
        assert_eq!(line, "ping");
    }
}

#[test]
fn a_dispatcher_without_the_passport_is_not_talked_to() {
    use mediaproxy::tls::{Context, HANDSHAKE_LIMIT, Passport, accept};
    let certs = certs::Certs::usual();
    let listener = std::net::TcpListener::bind((LOCAL, 0)).unwrap();
    let mut settings = settings(&[listener.local_addr().unwrap()]);
    settings.passport = Passport::parse("O:Somebody else").unwrap();
    let store = mediaproxy::tls::Store::open(certs.path(), "relay").unwrap();
    let running = run(settings, store.into());
    let context = Context::load(certs.path(), "dispatcher").unwrap().0;
    for _ in 0..2 {
        let socket = listener.accept().unwrap().0;
        if let Ok((mut reader, _, _)) = accept(socket, &context, None, HANDSHAKE_LIMIT) {
            assert_eq!(reader.read(&mut [0; 100]).unwrap_or(0), 0, "no hello");
        }
    }
    running.stop();
}

#[test]
fn what_cannot_work_is_said_at_start() {
    let certs = certs::Certs::usual();
    let fail = |change: &dyn Fn(&mut mediaproxy::relay::Settings)| {
        let mut settings = settings(&[]);
        change(&mut settings);
        let store = mediaproxy::tls::Store::open(certs.path(), "relay").unwrap();
        let lock = mediaproxy::relay::lock(&settings).unwrap();
        match mediaproxy::relay::start(settings, store.into(), lock) {
            Ok(_) => panic!("it started"),
            Err(why) => why.reason,
        }
    };
    let why = fail(&|s| s.relay_ip = Some("192.0.2.1".parse().unwrap()));
    assert!(why.starts_with("relay_ip = 192.0.2.1:"), "{why}");
}

#[test]
fn what_cannot_be_sent_is_counted_and_not_relayed() {
    let bed = Bed::with(1, |settings| {
        // Sending there is forbidden without a socket option that no relay sets.
        let everybody = "127.255.255.255".parse().unwrap();
        settings.session.routable_private_ranges.push(everybody);
    });
    let mut link = bed.link();
    let caller = Party::new();
    offer("lost", &caller.audio()).ports(&mut link);
    let ports = answer("lost", "audio:127.255.255.255:4000:sendrecv:ice=no").ports(&mut link);
    // One at a time and as a flood.
    for n in 0..50 {
        send(&caller.rtp, ports[0], &rtp(8, n));
    }
    wait_until("all are counted", || {
        link.json("summary")["unsent_packets"] == 50
    });
    let statistics = remove(&mut link, "lost");
    assert_eq!(statistics["streams"][0]["caller_packets"], 0);
    assert_eq!(statistics["streams"][0]["caller_bytes"], 0);
}

#[test]
fn media_keeps_its_dscp() {
    use mediaproxy::sys::udp::{Datagrams, Marks, MediaSocket};
    use std::net::SocketAddr;
    let bed = Bed::new();
    let mut link = bed.link();
    // The usual sockets of the standard library cannot mark what they send.
    let (port, _) = range(2);
    let bind = |port| MediaSocket::bind(SocketAddr::from((relay_ip(), port))).unwrap();
    let (mut caller, callee) = (bind(port), bind(port + 2));
    let audio = |port: u16| format!("audio:{}:{port}:sendrecv:ice=no", relay_ip());
    offer("marked", &audio(port)).ports(&mut link);
    let ports = answer("marked", &audio(port + 2)).ports(&mut link);
    let mut datagrams = Datagrams::new();
    for dscp in [0xb8, 0xb8, 0x88, 0] {
        let to = SocketAddr::from((relay_ip(), ports[0]));
        caller
            .send(&rtp(8, 1), to, Marks { dscp, ttl: 64 })
            .unwrap();
        wait_until("it arrives", || {
            datagrams.receive_one(&callee).unwrap();
            !datagrams.is_empty()
        });
        assert_eq!(datagrams.get(0).unwrap().marks.dscp, dscp);
    }
    remove(&mut link, "marked");
}
