//! TLS connections: both directions at once, ends, time limits, refusals and what each side learns of them.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use mediaproxy::tls::{
    Error, HANDSHAKE_LIMIT, Reader, Reason, Writer, accept, plain_tcp, plain_unix,
};

use crate::support::certs::Certs;
use crate::support::links::{connected, context, passport, read_exactly, refusal, shake, sockets};

#[test]
fn both_see_the_other_and_talk() {
    let certs = Certs::new();
    let ((mut server, server_writer, relay), (mut client, mut writer, dispatcher)) =
        connected(&certs);
    assert_eq!(relay.subject().unwrap().to_string(), "O=Example, CN=relay");
    assert_eq!(
        dispatcher.subject().unwrap().to_string(),
        "O=Example, CN=dispatcher"
    );
    assert!(relay.to_string().starts_with("127.0.0.1:"));
    writer.write_all(b"ping\r\n").unwrap();
    assert_eq!(read_exactly(&mut server, 6), b"ping\r\n");
    // A close_notify ends one direction only.
    server_writer.finish();
    assert_eq!(client.read(&mut [0; 9]).unwrap(), 0);
    assert_eq!(client.read(&mut [0; 9]).unwrap(), 0);
    writer.write_all(b"bye").unwrap();
    assert_eq!(read_exactly(&mut server, 3), b"bye");
}

#[test]
fn an_end_without_close_notify_is_an_end() {
    let certs = Certs::new();
    let ((mut server, ..), (client, writer, _)) = connected(&certs);
    client.closer().close();
    drop((client, writer));
    assert_eq!(server.read(&mut [0; 9]).unwrap(), 0);
}

#[test]
fn any_thread_can_end_a_connection() {
    let certs = Certs::new();
    let ((mut reader, mut writer, _), _client) = connected(&certs);
    let closer = writer.closer();
    thread::scope(|scope| {
        let reading = scope.spawn(move || reader.read(&mut [0; 9]));
        // The peer reads nothing, so this fills the buffers and waits.
        let writing = scope.spawn(move || {
            let block = vec![0; 1 << 20];
            while writer.write_all(&block).is_ok() {}
        });
        closer.close();
        assert_eq!(reading.join().unwrap().unwrap(), 0);
        writing.join().unwrap();
    });
}

#[test]
fn a_peer_that_takes_nothing_is_given_up() {
    let certs = Certs::new();
    let ((mut reader, mut writer, _), _client) = connected(&certs);
    writer.set_timeout(Duration::from_millis(50)).unwrap();
    let block = vec![0; 1 << 20];
    let error = (0..200).find_map(|_| writer.write_all(&block).err());
    assert_eq!(error.unwrap().kind(), ErrorKind::TimedOut);
    reader.set_timeout(Some(Duration::from_millis(20))).unwrap();
    for _ in 0..2 {
        let error = reader.read(&mut [0; 9]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
}

/// Thousands of lines and one of 5 MB, both ways at once.
#[test]
fn full_duplex() {
    const LINES: usize = 5_000;
    const LONG: usize = 5_000_000;
    fn line(index: usize) -> String {
        format!("{index} {}\r\n", "x".repeat(index * 7 % 300))
    }
    fn send(mut writer: Writer) {
        for index in 0..LINES {
            writer.write_all(line(index).as_bytes()).unwrap();
            if index == LINES / 2 {
                let mut long = vec![b'y'; LONG];
                long.push(b'\n');
                writer.write_all(&long).unwrap();
            }
        }
        writer.finish();
    }
    struct Input(Reader);
    impl Read for Input {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(buffer)
        }
    }
    fn receive(reader: Reader) {
        let mut input = BufReader::new(Input(reader));
        let mut got = Vec::new();
        for index in 0..LINES {
            got.clear();
            input.read_until(b'\n', &mut got).unwrap();
            assert_eq!(got, line(index).as_bytes());
            if index == LINES / 2 {
                got.clear();
                assert_eq!(input.read_until(b'\n', &mut got).unwrap(), LONG + 1);
                assert!(got[..LONG].iter().all(|&byte| byte == b'y'));
            }
        }
        assert_eq!(input.read_until(b'\n', &mut got).unwrap(), 0);
    }
    let certs = Certs::new();
    let ((server, server_writer, _), (client, client_writer, _)) = connected(&certs);
    thread::scope(|scope| {
        scope.spawn(|| send(server_writer));
        scope.spawn(|| send(client_writer));
        scope.spawn(|| receive(server));
        scope.spawn(|| receive(client));
    });
}

/// The server names subject and reason, the client learns why with its first read.
#[test]
fn a_refused_client_is_told_why() {
    let good = Certs::new();
    let server = context(&good, "dispatcher");
    let revoked = Certs::new();
    for name in ["ca.pem", "crl.pem", "relay.crt", "relay.key"] {
        revoked.take(&good, name);
    }
    good.script(&[], &["revoke", "relay"]);
    let server_with_list = context(&good, "dispatcher");
    let expired = Certs::new();
    for name in ["ca.pem", "crl.pem", "relay.key"] {
        expired.take(&good, name);
    }
    let dates = [
        "-startdate",
        "20200101000000Z",
        "-enddate",
        "20210101000000Z",
    ];
    good.issue("relay", &dates);
    expired.take(&good, "relay.crt");
    // The stranger trusts our CA, but ours does not know its own.
    let stranger = Certs::empty();
    stranger.script(&["--key", "ec", "--org", "Stranger"], &["all"]);
    stranger.take(&good, "ca.pem");
    stranger.take(&good, "crl.pem");
    let relay = "O=Example, CN=relay";
    let cases = [
        (
            &revoked,
            &server_with_list,
            relay,
            "revoked",
            "it is revoked",
        ),
        (&expired, &server, relay, "expired on 2021-01-01", "expired"),
        (
            &stranger,
            &server,
            "O=Stranger, CN=relay",
            "no CA in ca.pem",
            "not know the CA",
        ),
    ];
    thread::scope(|scope| {
        for (client, server, subject, reason, told) in cases {
            scope.spawn(move || {
                let outcome = shake((server, None), (&context(client, "relay"), None));
                let (named, why) = refusal(outcome.0);
                assert_eq!(named, subject);
                assert!(why.to_string().contains(reason), "{why}");
                let (mut reader, ..) = outcome.1.unwrap();
                let error = reader.read(&mut [0; 9]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
                assert!(error.to_string().contains(told), "{error}");
            });
        }
    });
}

#[test]
fn a_refused_server_is_named_to_the_client() {
    let (ours, theirs) = (Certs::new(), Certs::empty());
    theirs.script(&["--key", "ec", "--org", "Stranger"], &["all"]);
    let outcome = shake(
        (&context(&theirs, "dispatcher"), None),
        (&context(&ours, "relay"), None),
    );
    let (subject, reason) = refusal(outcome.1);
    assert_eq!(subject, "O=Stranger, CN=dispatcher");
    assert!(matches!(reason, Reason::UnknownIssuer { .. }));
    let error = outcome.0.unwrap_err();
    assert!(error.is_refusal(), "{error:?}");
    assert!(
        error.to_string().contains("does not know the CA"),
        "{error}"
    );
}

#[test]
fn a_passport_for_the_relay() {
    let certs = Certs::new();
    let (dispatcher, relay) = (context(&certs, "dispatcher"), context(&certs, "relay"));
    let good = passport("O:Example, CN:*");
    let (server, client) = shake((&dispatcher, good.as_ref()), (&relay, good.as_ref()));
    assert!(server.is_ok() && client.is_ok());

    let bad = passport("CN:relay2*");
    let (server, client) = shake((&dispatcher, bad.as_ref()), (&relay, None));
    let error = server.unwrap_err();
    let text = "the peer's certificate \"O=Example, CN=relay\" was refused: it does not fit the passport CN:relay2*";
    assert_eq!(error.to_string(), text);
    assert!(error.is_refusal());
    let (mut reader, ..) = client.unwrap();
    assert_eq!(reader.read(&mut [0; 9]).unwrap(), 0, "only a close");
}

#[test]
fn a_passport_for_the_dispatcher() {
    let certs = Certs::new();
    let (dispatcher, relay) = (context(&certs, "dispatcher"), context(&certs, "relay"));
    let passport = passport("CN:relay");
    let (server, client) = shake((&dispatcher, None), (&relay, passport.as_ref()));
    assert!(matches!(refusal(client).1, Reason::Passport(_)));
    let (mut reader, ..) = server.unwrap();
    assert_eq!(reader.read(&mut [0; 9]).unwrap(), 0, "only a close");
}

#[test]
fn slow_and_silent_peers_are_given_up_in_time() {
    let certs = Certs::new();
    let dispatcher = context(&certs, "dispatcher");
    let limit = Duration::from_millis(300);
    let (server, client) = sockets();
    let outcome = accept(server, &dispatcher, None, limit);
    assert!(matches!(outcome, Err(Error::TimedOut(_))), "{outcome:?}");
    drop(client);

    // One byte at a time, each well within the limit.
    let (server, mut client) = sockets();
    thread::scope(|scope| {
        scope.spawn(move || {
            client.write_all(&[0x16, 3, 1, 0x10, 0]).unwrap();
            while client.write_all(&[0]).is_ok() {
                thread::sleep(Duration::from_millis(5));
            }
        });
        let outcome = accept(server, &dispatcher, None, limit);
        assert!(matches!(outcome, Err(Error::TimedOut(_))), "{outcome:?}");
    });
}

#[test]
fn what_is_not_tls_is_said_so() {
    let certs = Certs::new();
    let dispatcher = context(&certs, "dispatcher");
    let (server, mut client) = sockets();
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let error = accept(server, &dispatcher, None, HANDSHAKE_LIMIT).unwrap_err();
    assert_eq!(error.to_string(), "the peer does not speak TLS");
    let (server, client) = sockets();
    drop(client);
    let outcome = accept(server, &dispatcher, None, HANDSHAKE_LIMIT);
    assert!(matches!(outcome, Err(Error::Closed)));
}

#[test]
fn the_same_types_without_tls() {
    let (server, client) = sockets();
    let (left, right) = UnixStream::pair().unwrap();
    let tcp = (plain_tcp(server).unwrap(), plain_tcp(client).unwrap());
    let unix = (plain_unix(left).unwrap(), plain_unix(right).unwrap());
    for ((mut reader, ..), (_, mut writer, peer)) in [tcp, unix] {
        assert!(peer.subject().is_none());
        writer.write_all(b"version\r\n").unwrap();
        assert_eq!(read_exactly(&mut reader, 9), b"version\r\n");
        writer.finish();
        assert_eq!(reader.read(&mut [0; 9]).unwrap(), 0);
    }
}
