//! The management port with and without TLS, its socket, large listings and clients that do not read.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use mediaproxy::tls::{Context, HANDSHAKE_LIMIT, Passport, connect};

use crate::support::bed::{Bed, LONG, offer};

#[test]
fn the_port_speaks_tls_and_looks_at_passports() {
    for (passport, answers) in [("CN:relay", true), ("CN:someone else", false)] {
        let passport = Passport::parse(passport).unwrap();
        let bed = Bed::with(|settings| settings.management_passport = passport);
        let socket = TcpStream::connect(bed.running.management_address).unwrap();
        let context = Context::load(bed.certs.path(), "relay").unwrap().0;
        let (mut reader, mut writer, _) = connect(socket, &context, None, HANDSHAKE_LIMIT).unwrap();
        reader.set_timeout(Some(LONG)).unwrap();
        let _ = writer.write_all(b"version\r\nquit\r\n");
        let mut text = Vec::new();
        let mut buffer = [0; 100];
        while let Ok(count @ 1..) = reader.read(&mut buffer) {
            text.extend_from_slice(&buffer[..count]);
        }
        let expected = if answers {
            format!("{}\r\n\r\n", env!("CARGO_PKG_VERSION"))
        } else {
            String::new()
        };
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }
}

#[test]
fn the_port_without_tls() {
    let bed = Bed::with(|settings| settings.management_use_tls = false);
    let mut socket = TcpStream::connect(bed.running.management_address).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    // As `nc` does: everything at once, then the end of what it sends.
    socket.write_all(b"summary\nversion\n").unwrap();
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    assert_eq!(text, format!("\r\n{}\r\n\r\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_client_without_tls_on_the_tls_port_harms_nobody() {
    let bed = Bed::new();
    let mut plain = TcpStream::connect(bed.running.management_address).unwrap();
    plain.write_all(b"sessions\r\n").unwrap();
    plain.set_read_timeout(Some(LONG)).unwrap();
    let mut rest = Vec::new();
    let _ = plain.read_to_end(&mut rest);
    assert!(!rest.starts_with(b"["));
    assert_eq!(
        bed.management().ask("version\r\n"),
        env!("CARGO_PKG_VERSION")
    );
}

#[test]
fn the_socket_is_for_its_group_only() {
    let bed = Bed::with(|settings| settings.socket_mode = 0o600);
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&bed.management_path), 0o660);
    assert_eq!(mode(&bed.proxy_path), 0o600);
}

/// A list as of so many sessions, about 1.5 KB each.
fn listing(count: usize) -> String {
    let padding = "x".repeat(1450);
    let sessions: Vec<String> = (0..count)
        .map(|n| format!("{{\"call_id\": \"call {n}\", \"padding\": \"{padding}\"}}"))
        .collect();
    format!("[{}]", sessions.join(", "))
}

#[test]
fn two_thousand_sessions_of_two_relays_each() {
    let bed = Bed::new();
    let mut relays = [bed.relay("a"), bed.relay("b")];
    let listing = listing(2000);
    assert!(listing.len() > 2_900_000);
    let socket = UnixStream::connect(&bed.management_path).unwrap();
    (&socket).write_all(b"sessions\r\n").unwrap();
    thread::scope(|scope| {
        for relay in &mut relays {
            scope.spawn(|| relay.serve("sessions", &listing));
        }
        let mut lines = BufReader::new(&socket).lines();
        for n in 0..4000 {
            let line = lines.next().unwrap().unwrap();
            let expected = format!("{{\"call_id\": \"call {}\",", n % 2000);
            assert!(line.starts_with(&expected) && line.ends_with("x\"}"), "{n}");
        }
        assert_eq!(lines.next().unwrap().unwrap(), "");
    });
}

#[test]
fn clients_that_do_not_read_hold_up_nobody() {
    let bed = Bed::new();
    let mut relay = bed.relay("a");
    let listing = listing(2000);
    let idle: Vec<UnixStream> = (0..2)
        .map(|_| {
            let mut idle = UnixStream::connect(&bed.management_path).unwrap();
            idle.write_all(b"sessions\r\n").unwrap();
            relay.serve("sessions", &listing);
            idle
        })
        .collect();
    let (mut client, mut proxy) = (bed.management(), bed.proxy());
    client.send(b"sessions\r\n");
    relay.serve("sessions", "[{\"call_id\": \"one\"}]");
    assert_eq!(client.answer(), "{\"call_id\": \"one\"}");
    proxy.send(offer("one").as_bytes());
    relay.serve("update", "192.0.2.1 40000");
    assert_eq!(proxy.answer(), "192.0.2.1 40000");
    drop(idle);
}

#[test]
fn a_relay_that_does_not_answer_is_named_in_the_summary() {
    let bed = Bed::with(|settings| settings.relay_timeout = Duration::from_millis(200));
    let (mut silent, mut good) = (bed.relay("a"), bed.relay("b"));
    let mut client = bed.management();
    client.send(b"summary\r\n");
    good.serve("summary", "{\"ip\": \"192.0.2.2\"}");
    silent.asked();
    let missing =
        ",\"uptime\":0,\"session_count\":0,\"stream_count\":{},\"bps_relayed\":0,\"unanswered\":0}";
    let failed = r#"{"ip":"127.0.0.1","name":"a","status":"error","version":"""#;
    assert_eq!(client.answer(), format!("{failed}{missing}"));
    let poor = r#"{"ip": "192.0.2.2","version":"","status":"active""#;
    assert_eq!(client.answer(), format!("{poor}{missing}"));
    assert_eq!(client.answer(), "");
}

#[test]
fn of_more_than_64_clients_who_has_not_asked_for_longest_goes() {
    let bed = Bed::new();
    let mut clients: Vec<_> = (0..64).map(|_| bed.management()).collect();
    for client in &mut clients {
        assert_eq!(client.ask("version\r\n"), env!("CARGO_PKG_VERSION"));
        assert_eq!(client.answer(), "");
    }
    // The first one asks again.
    assert_eq!(clients[0].ask("version\r\n"), env!("CARGO_PKG_VERSION"));
    assert_eq!(clients[0].answer(), "");
    assert_eq!(
        bed.management().ask("version\r\n"),
        env!("CARGO_PKG_VERSION")
    );
    clients[1].ends();
    for client in [0, 2, 63] {
        assert_eq!(
            clients[client].ask("version\r\n"),
            env!("CARGO_PKG_VERSION")
        );
    }
}

#[test]
fn a_client_that_says_nothing_takes_no_place() {
    let bed = Bed::new();
    let mut clients: Vec<_> = (0..64).map(|_| bed.management()).collect();
    for client in &mut clients {
        assert_eq!(client.ask("version\r\n"), env!("CARGO_PKG_VERSION"));
        assert_eq!(client.answer(), "");
    }
    let _silent: Vec<_> = (0..200).map(|_| bed.management()).collect();
    for client in &mut clients {
        assert_eq!(client.ask("version\r\n"), env!("CARGO_PKG_VERSION"));
    }
}
