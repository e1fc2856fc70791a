//! Who may connect as a relay, for how long, and what strangers can take up; the daemon's sockets.

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use mediaproxy::dispatcher::Dispatcher;
use mediaproxy::tls::{Context, HANDSHAKE_LIMIT, Passport, Store, connect};

use crate::support::bed::{self, Bed, FakeRelay, LONG, offer};
use crate::support::certs::Certs;

#[test]
fn strangers_in_mid_handshake_do_not_keep_relays_out() {
    let bed = Bed::new();
    let _idle: Vec<TcpStream> = (0..10)
        .map(|_| TcpStream::connect(bed.running.relay_address).unwrap())
        .collect();
    let mut relay = bed.relay("a");
    let mut proxy = bed.proxy();
    proxy.send(offer("one").as_bytes());
    relay.serve("update", "192.0.2.1 40000");
    assert_eq!(proxy.answer(), "192.0.2.1 40000");
}

#[test]
fn only_relays_with_the_passport_are_let_in() {
    for (passport, welcome) in [("O:Example, CN:rel*", true), ("O:Other", false)] {
        let bed = Bed::with(|settings| settings.passport = Passport::parse(passport).unwrap());
        let mut relay = bed.link();
        if welcome {
            relay.list("[]")
        } else {
            relay.ends()
        }
    }
}

#[test]
fn a_relay_of_another_ca_is_not_let_in() {
    let bed = Bed::new();
    let stranger = Certs::new();
    // It trusts the dispatcher, so that only the dispatcher can refuse.
    stranger.take(&bed.certs, "ca.pem");
    stranger.take(&bed.certs, "crl.pem");
    let mut relay = FakeRelay::connect(stranger.path(), bed.running.relay_address);
    assert!(relay.is_refused());
}

/// At once, whatever `verify_interval` is; and while the list is written, nobody is cut off.
#[test]
fn a_certificate_that_is_revoked_ends_its_link_and_gets_no_other() {
    let bed = Bed::with(|settings| settings.verify_interval = Duration::from_secs(86_400));
    let mut relay = bed.relay("a");
    let before = bed.certs.read("crl.pem");
    bed.certs.script(&[], &["revoke", "relay"]);
    let list = bed.certs.read("crl.pem");
    // Nobody looks before this: the looks are half a second apart.
    bed.certs.write("crl.pem", &before);
    let context = Context::load(bed.certs.path(), "relay").unwrap().0;
    let socket = TcpStream::connect(bed.running.management_address).unwrap();
    let (mut reader, mut writer, _) = connect(socket, &context, None, HANDSHAKE_LIMIT).unwrap();
    reader.set_timeout(Some(LONG)).unwrap();
    let mut client = || {
        writer.write_all(b"version\r\n").unwrap();
        reader.read(&mut [0; 100]).unwrap_or(0)
    };
    assert_ne!(client(), 0);
    bed.certs.write("crl.pem", &list[..list.len() / 2]);
    bed.running.reload();
    let elsewhere = Certs::empty();
    elsewhere.write("crl.pem", &before);
    for name in ["ca.pem", "relay.crt", "relay.key"] {
        elsewhere.take(&bed.certs, name);
    }
    let connect = || FakeRelay::connect(elsewhere.path(), bed.running.relay_address);
    connect().list("[]");
    relay.settle();
    bed.certs.write("crl.pem", &list);
    assert!(
        connect().is_refused(),
        "files are looked at for each connection"
    );
    relay.ends();
    assert_eq!(client(), 0, "a client that stays");
}

#[test]
fn reading_certificates_again_cuts_nothing() {
    let bed = Bed::new();
    let mut relay = bed.relay("a");
    bed.certs
        .script(&["--key", "ec", "--org", "Example"], &["renew"]);
    bed.running.reload();
    relay.settle();
    bed.relay("b").settle();
}

#[test]
fn a_second_dispatcher_is_refused_and_the_first_goes_on() {
    let bed = Bed::new();
    let store = std::sync::Arc::new(Store::open(bed.certs.path(), "dispatcher").unwrap());
    let settings = bed::settings(bed.certs.path());
    let refused = Dispatcher::start(settings, store, std::sync::Arc::new(bed::Ended::default()));
    let error = refused.map(|_| ()).unwrap_err();
    assert!(error.contains("another process listens there"), "{error}");
    assert_eq!(bed.proxy().ask("nonsense\r\n\r\n"), "error");
    let unknown = bed.management().ask("what\r\n");
    assert!(unknown.starts_with("error: no command "), "{unknown}");
}

#[test]
fn a_port_in_use_is_named() {
    let bed = Bed::new();
    let store = std::sync::Arc::new(Store::open(bed.certs.path(), "dispatcher").unwrap());
    let directory = bed::fresh_directory("port");
    let mut settings = bed::settings(&directory);
    settings.listen = bed.running.relay_address;
    let refused = Dispatcher::start(settings, store, std::sync::Arc::new(bed::Ended::default()));
    let error = refused.map(|_| ()).unwrap_err();
    assert!(error.starts_with("listen = 127.0.0.1:"), "{error}");
    assert_eq!(
        std::fs::read_dir(&directory).unwrap().count(),
        0,
        "nothing left behind"
    );
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_clean_end_says_so_to_relays_and_removes_the_sockets() {
    let bed = Bed::new();
    let mut relay = bed.relay("a");
    bed.running.stop();
    relay.ends();
    assert!(!bed.proxy_path.exists() && !bed.management_path.exists());
}

#[test]
fn a_thousand_connections_and_no_more() {
    let bed = Bed::new();
    let mut proxies: Vec<_> = (0..1000).map(|_| bed.proxy()).collect();
    let mut last = bed.proxy();
    last.ends();
    for proxy in &mut proxies {
        assert_eq!(proxy.ask("nonsense\r\n\r\n"), "error");
    }
}

#[test]
fn calls_are_spread_over_relays_and_a_preferred_one_is_heeded() {
    let bed = Bed::new();
    let mut relays = [bed.relay("a"), bed.relay("b")];
    let mut proxy = bed.proxy();
    let counts: Vec<usize> = thread::scope(|scope| {
        let serving: Vec<_> = relays
            .iter_mut()
            .map(|relay| {
                scope.spawn(|| {
                    let mut count = 0;
                    loop {
                        let asked = relay.asked();
                        if asked.word == "summary" {
                            relay.reply(&asked, "{}");
                            return count;
                        }
                        relay.reply(&asked, "192.0.2.1 40000");
                        count += 1;
                    }
                })
            })
            .collect();
        for n in 0..20 {
            assert_eq!(proxy.ask(&offer(&n.to_string())), "192.0.2.1 40000");
        }
        assert!(bed.management().ask("summary\r\n").starts_with('{'));
        serving.into_iter().map(|s| s.join().unwrap()).collect()
    });
    assert_eq!(counts, [10, 10]);
    let preferring = offer("x").replace("media_relay: ", "media_relay: not an address");
    proxy.send(preferring.as_bytes());
    let (sender, receiver) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        let [a, b] = &mut relays;
        for relay in [a, b] {
            let sender = sender.clone();
            scope.spawn(move || {
                let asked = relay.asked();
                if asked.word == "update" {
                    relay.reply(&asked, "192.0.2.1 40000");
                    let _ = sender.send(());
                }
            });
        }
        receiver.recv().unwrap();
        assert_eq!(proxy.answer(), "192.0.2.1 40000");
        let mut client = bed.management();
        client.send(b"summary\r\n");
    });
}

#[test]
fn half_a_hello_and_a_vanished_relay_leave_nothing() {
    let bed = Bed::new();
    for _ in 0..20 {
        let mut relay = bed.link();
        relay.say_bytes(b"hello {\"name\": ");
        relay.cut();
    }
    let mut raw = TcpStream::connect(bed.running.relay_address).unwrap();
    raw.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    drop(raw);
    assert_eq!(bed.management().ask("summary\r\n"), "", "no relay is known");
}
