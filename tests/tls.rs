//! Connections, files and refusals as the daemons meet them, with the openssl program as the other side too.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use mediaproxy::tls::{
    Context, Error, HANDSHAKE_LIMIT, Passport, Peer, Reader, Reason, Reload, Store, Writer, accept,
    connect, plain_tcp, plain_unix,
};

#[path = "support/certs.rs"]
mod certs;
use certs::Certs;

type Outcome = Result<(Reader, Writer, Peer), Error>;

fn context(certs: &Certs, role: &str) -> Context {
    Context::load(certs.path(), role).unwrap().0
}

fn load_error(certs: &Certs) -> String {
    Context::load(certs.path(), "relay")
        .unwrap_err()
        .to_string()
}

fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener.accept().unwrap().0, client)
}

/// Both handshakes at the same time: what the dispatcher and the relay got.
fn shake(
    dispatcher: (&Context, Option<&Passport>),
    relay: (&Context, Option<&Passport>),
) -> (Outcome, Outcome) {
    let (server, client) = sockets();
    thread::scope(|scope| {
        let server = scope.spawn(|| accept(server, dispatcher.0, dispatcher.1, HANDSHAKE_LIMIT));
        let mut client = connect(client, relay.0, relay.1, HANDSHAKE_LIMIT);
        // What a relay does at once: the server's judgement must survive it.
        if let Ok((_, writer, _)) = &mut client {
            let _ = writer.write_all(b"hello\r\n");
        }
        (server.join().unwrap(), client)
    })
}

fn connected(certs: &Certs) -> ((Reader, Writer, Peer), (Reader, Writer, Peer)) {
    let (server, client) = shake(
        (&context(certs, "dispatcher"), None),
        (&context(certs, "relay"), None),
    );
    let mut server = server.unwrap();
    assert_eq!(read_exactly(&mut server.0, 7), b"hello\r\n");
    (server, client.unwrap())
}

fn read_exactly(reader: &mut Reader, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    let mut have = 0;
    while have < count {
        let got = reader.read(&mut bytes[have..]).unwrap();
        assert!(got > 0, "the end after {have} of {count} bytes");
        have += got;
    }
    bytes
}

fn refusal(outcome: Outcome) -> (String, Reason) {
    match outcome {
        Err(Error::Refused { subject, reason }) => {
            (subject.map(|s| s.to_string()).unwrap_or_default(), reason)
        }
        other => panic!("{other:?}"),
    }
}

fn passport(text: &str) -> Option<Passport> {
    Passport::parse(text).unwrap()
}

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
    assert_eq!(error.unwrap().kind(), std::io::ErrorKind::TimedOut);
    reader.set_timeout(Some(Duration::from_millis(20))).unwrap();
    for _ in 0..2 {
        let error = reader.read(&mut [0; 9]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
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
    for (client, server, subject, reason, told) in [
        (
            &revoked,
            &server_with_list,
            "O=Example, CN=relay",
            "revoked",
            "it is revoked",
        ),
        (
            &expired,
            &server,
            "O=Example, CN=relay",
            "expired on 2021-01-01",
            "expired",
        ),
        (
            &stranger,
            &server,
            "O=Stranger, CN=relay",
            "no CA in ca.pem",
            "does not know the CA",
        ),
    ] {
        let outcome = shake((server, None), (&context(client, "relay"), None));
        let (named, why) = refusal(outcome.0);
        assert_eq!(named, subject);
        assert!(why.to_string().contains(reason), "{why}");
        let (mut reader, ..) = outcome.1.unwrap();
        let error = reader.read(&mut [0; 9]).unwrap_err();
        assert_eq!(
            error.kind(),
            std::io::ErrorKind::PermissionDenied,
            "{error}"
        );
        assert!(error.to_string().contains(told), "{error}");
    }
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
fn passports_of_both_sides() {
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

    let (_, client) = shake((&dispatcher, None), (&relay, bad.as_ref()));
    assert!(matches!(refusal(client).1, Reason::Passport(_)));
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
fn keys_in_every_form() {
    let certs = Certs::new();
    let dispatcher = context(&certs, "dispatcher");
    let talks = |certs: &Certs| {
        let (server, client) = shake((&dispatcher, None), (&context(certs, "relay"), None));
        assert!(client.is_ok());
        server.unwrap();
    };
    // PKCS#8 is what the script writes.
    talks(&certs);
    certs.openssl(&["ec", "-in", "relay.key", "-out", "sec1.key"]);
    let parameters = certs.openssl(&["ecparam", "-name", "prime256v1"]).stdout;
    certs.write("relay.key", &[parameters, certs.read("sec1.key")].concat());
    talks(&certs);
    certs.openssl(&["genrsa", "-traditional", "-out", "relay.key", "2048"]);
    assert!(
        certs
            .read("relay.key")
            .starts_with(b"-----BEGIN RSA PRIVATE KEY")
    );
    certs.issue("relay", &["-days", "9"]);
    talks(&certs);
    certs.openssl(&["pkey", "-in", "relay.key", "-out", "pkcs8.key"]);
    certs.write("relay.key", &certs.read("pkcs8.key"));
    talks(&certs);
    certs.issue_version_1("relay", &["-CA", "ca.pem", "-CAkey", "ca/ca.key"]);
    talks(&certs);
}

#[test]
fn an_intermediate_is_sent_along() {
    let certs = Certs::new();
    certs.script(&["--key", "ec"], &["cert", "sub"]);
    certs.issue("sub", &["-extensions", "root", "-days", "9"]);
    certs.request("relay");
    let sign = [
        "x509",
        "-req",
        "-in",
        "relay.csr",
        "-CA",
        "sub.crt",
        "-CAkey",
        "sub.key",
    ];
    let how = [
        "-set_serial",
        "5",
        "-days",
        "9",
        "-extfile",
        "ca/openssl.cnf",
        "-extensions",
        "leaf",
    ];
    certs.openssl(&[&sign[..], &how[..], &["-out", "leaf.crt"]].concat());
    certs.write(
        "relay.crt",
        &[certs.read("leaf.crt"), certs.read("sub.crt")].concat(),
    );
    let ((..), (_, _, dispatcher)) = connected(&certs);
    assert!(dispatcher.subject().is_some());
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let certs = Certs::new();
    let says = |parts: &[&str]| {
        let error = load_error(&certs);
        for part in parts {
            assert!(error.contains(part), "{error}");
        }
    };
    let key = certs.read("relay.key");
    let arguments = [
        "pkey",
        "-in",
        "relay.key",
        "-aes128",
        "-passout",
        "pass:x",
        "-out",
        "locked.key",
    ];
    certs.openssl(&arguments);
    certs.write("relay.key", &certs.read("locked.key"));
    says(&["relay.key", "encrypted", "openssl pkey"]);
    certs.write("relay.key", &certs.read("dispatcher.key"));
    says(&[
        "relay.key",
        "not the one of the (first) certificate in",
        "relay.crt",
    ]);
    certs.write("relay.key", b"nothing\n");
    says(&["relay.key", "BEGIN PRIVATE KEY"]);
    std::fs::remove_file(certs.file("relay.key")).unwrap();
    says(&["relay.key", "no such file"]);
    certs.write("relay.key", &key);

    let crl = certs.read("crl.pem");
    certs.openssl(&[
        "crl", "-in", "crl.pem", "-outform", "DER", "-out", "crl.der",
    ]);
    certs.write("crl.pem", &certs.read("crl.der"));
    says(&["crl.pem", "looks like DER", "openssl crl"]);
    certs.write("crl.pem", b"");
    says(&["crl.pem", "BEGIN X509 CRL"]);
    certs.write("crl.pem", &crl[..crl.len() / 2]);
    says(&["crl.pem", "not readable as PEM"]);
    let cut = "-----BEGIN X509 CRL-----\nMIIB\n-----END X509 CRL-----\n";
    certs.write("crl.pem", cut.as_bytes());
    says(&["crl.pem", "cut short or damaged"]);
    std::fs::remove_file(certs.file("crl.pem")).unwrap();
    let (_, warnings) = Context::load(certs.path(), "relay").unwrap();
    assert!(
        warnings[0].contains("crl.pem: no such file"),
        "{warnings:?}"
    );
    certs.write("ca.pem", b"");
    says(&["ca.pem", "BEGIN CERTIFICATE"]);
}

#[test]
fn new_files_are_used_only_as_a_matching_pair() {
    let (certs, new) = (Certs::new(), Certs::empty());
    let store = Store::open(certs.path(), "relay").unwrap();
    let first = store.current().describe();
    assert_eq!(store.reload_if_changed(), Reload::Unchanged);
    for name in ["ca.pem", "crl.pem"] {
        new.take(&certs, name);
    }
    certs.script(&["--key", "ec", "--cn", "new"], &["cert", "other"]);
    certs.write("relay.crt", &certs.read("other.crt"));
    let Reload::Kept(reasons) = store.reload_if_changed() else {
        panic!("a certificate without its key was taken");
    };
    assert!(
        reasons[0].contains("the old pair stays in use"),
        "{reasons:?}"
    );
    assert_eq!(store.current().describe(), first);
    assert_eq!(store.reload_if_changed(), Reload::Unchanged, "said once");
    certs.write("relay.key", &certs.read("other.key"));
    assert_eq!(store.reload_if_changed(), Reload::Reloaded);
    assert!(store.current().describe().contains("CN=new"));

    certs.write("crl.pem", b"rubbish");
    assert!(matches!(store.reload_if_changed(), Reload::Kept(_)));
    std::fs::remove_file(certs.file("crl.pem")).unwrap();
    let Reload::Kept(reasons) = store.reload_if_changed() else {
        panic!("a list vanished and everybody was trusted again");
    };
    assert!(reasons[0].contains("vanished"), "{reasons:?}");
    certs.take(&new, "crl.pem");
    assert_eq!(store.reload_if_changed(), Reload::Reloaded);
}

#[test]
fn a_live_link_is_judged_again() {
    let certs = Certs::new();
    let store = Store::open(certs.path(), "dispatcher").unwrap();
    let (_server, (_client, _writer, _)) = connected(&certs);
    let (server, _client) = shake((&store.current(), None), (&context(&certs, "relay"), None));
    let relay = server.unwrap().2.certificates.unwrap();
    let any = passport("CN:relay");
    assert_eq!(store.current().verify_again(&relay, any.as_ref()), Ok(()));
    let other = passport("CN:other");
    let refused = store.current().verify_again(&relay, other.as_ref());
    assert!(matches!(refused, Err(Reason::Passport(_))));
    certs.script(&[], &["revoke", "relay"]);
    assert_eq!(store.reload_if_changed(), Reload::Reloaded);
    let refused = store.current().verify_again(&relay, None);
    assert_eq!(refused, Err(Reason::Revoked { issuer: None }));
    let stranger = Certs::empty();
    stranger.script(&["--key", "ec", "--org", "Stranger"], &["all"]);
    for name in ["ca.pem", "crl.pem", "dispatcher.crt", "dispatcher.key"] {
        certs.take(&stranger, name);
    }
    assert_eq!(store.reload_if_changed(), Reload::Reloaded);
    let refused = store.current().verify_again(&relay, None);
    assert!(matches!(refused, Err(Reason::UnknownIssuer { .. })));
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

/// A program that is ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn openssl(certs: &Certs, arguments: &[&str]) -> Running {
    let child = Command::new("openssl")
        .args(arguments)
        .current_dir(certs.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Running(child)
}

#[test]
fn openssl_as_the_relay() {
    let certs = Certs::new();
    let dispatcher = context(&certs, "dispatcher");
    for version in ["-tls1_2", "-tls1_3"] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let show = [
            "s_client",
            "-quiet",
            "-verify_return_error",
            "-CAfile",
            "ca.pem",
            version,
        ];
        let own = [
            "-cert",
            "relay.crt",
            "-key",
            "relay.key",
            "-connect",
            &address,
        ];
        let mut program = openssl(&certs, &[&show[..], &own[..]].concat());
        let socket = listener.accept().unwrap().0;
        let (mut reader, mut writer, peer) =
            accept(socket, &dispatcher, None, HANDSHAKE_LIMIT).unwrap();
        assert_eq!(peer.subject().unwrap().to_string(), "O=Example, CN=relay");
        program
            .0
            .stdin
            .as_mut()
            .unwrap()
            .write_all(b"ping\n")
            .unwrap();
        assert_eq!(read_exactly(&mut reader, 5), b"ping\n");
        writer.write_all(b"pong\n").unwrap();
        let mut line = String::new();
        let output = program.0.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert_eq!(line, "pong\n");
    }
    // And one that shows no certificate.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let _program = openssl(&certs, &["s_client", "-quiet", "-connect", &address]);
    let socket = listener.accept().unwrap().0;
    let error = accept(socket, &dispatcher, None, HANDSHAKE_LIMIT).unwrap_err();
    assert_eq!(error.to_string(), "the peer showed no certificate");
}

/// `K` makes s_client change its keys and ask for ours to be changed (RFC 8446 section 4.6.3).
#[test]
fn a_request_for_new_keys_is_answered_by_the_writer() {
    let certs = Certs::new();
    let dispatcher = context(&certs, "dispatcher");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let show = ["s_client", "-msg", "-tls1_3", "-connect", &address];
    let own = ["-cert", "relay.crt", "-key", "relay.key"];
    let mut program = openssl(&certs, &[&show[..], &own[..]].concat());
    let socket = listener.accept().unwrap().0;
    let (mut reader, mut writer, _) = accept(socket, &dispatcher, None, HANDSHAKE_LIMIT).unwrap();
    let mut input = program.0.stdin.take().unwrap();
    // It takes a command only at the start of what one read gives it.
    input.write_all(b"first\n").unwrap();
    assert_eq!(read_exactly(&mut reader, 6), b"first\n");
    input.write_all(b"K\n").unwrap();
    reader
        .set_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    assert!(reader.read(&mut [0; 9]).is_err(), "nothing to read");
    reader.set_timeout(None).unwrap();
    input.write_all(b"second\n").unwrap();
    assert_eq!(read_exactly(&mut reader, 7), b"second\n");
    writer.write_all(b"third\n").unwrap();
    let mut updates = Vec::new();
    for line in BufReader::new(program.0.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if line.contains("KeyUpdate") {
            updates.push(line[..3].to_owned());
        } else if line == "third" {
            break;
        }
    }
    assert_eq!(updates, [">>>", "<<<"]);
}

#[test]
fn openssl_as_the_dispatcher() {
    let certs = Certs::new();
    let relay = context(&certs, "relay");
    for version in ["-tls1_2", "-tls1_3"] {
        // Answers each line with its letters in reverse.
        let listen = [
            "s_server",
            "-accept",
            "127.0.0.1:0",
            "-rev",
            "-Verify",
            "1",
            version,
        ];
        let own = [
            "-cert",
            "dispatcher.crt",
            "-key",
            "dispatcher.key",
            "-CAfile",
            "ca.pem",
        ];
        let mut program = openssl(
            &certs,
            &[&listen[..], &own[..], &["-verify_return_error"]].concat(),
        );
        let mut output = BufReader::new(program.0.stdout.take().unwrap());
        let mut line = String::new();
        while !line.starts_with("ACCEPT ") {
            line.clear();
            assert!(output.read_line(&mut line).unwrap() > 0, "s_server ended");
        }
        let address = line.trim_start_matches("ACCEPT ").trim().to_owned();
        let socket = TcpStream::connect(address).unwrap();
        let (mut reader, mut writer, peer) =
            connect(socket, &relay, None, HANDSHAKE_LIMIT).unwrap();
        assert_eq!(
            peer.subject().unwrap().to_string(),
            "O=Example, CN=dispatcher"
        );
        writer.write_all(b"gnip\n").unwrap();
        assert_eq!(read_exactly(&mut reader, 5), b"ping\n");
    }
}
