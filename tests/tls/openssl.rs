//! The openssl program at the other end, in TLS 1.2 and 1.3.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use mediaproxy::tls::{HANDSHAKE_LIMIT, accept, connect};

use crate::support::certs::Certs;
use crate::support::links::{context, read_exactly, shake};

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
    let mut output = BufReader::new(program.0.stdout.take().unwrap()).lines();
    let mut wait_for = |text: &str| {
        let found = output.find(|line| line.as_ref().is_ok_and(|line| line.contains(text)));
        found.expect("s_client ended").unwrap()
    };
    assert!(wait_for("KeyUpdate").starts_with(">>>"), "sent");
    input.write_all(b"second\n").unwrap();
    assert_eq!(read_exactly(&mut reader, 7), b"second\n");
    writer.write_all(b"third\n").unwrap();
    assert!(wait_for("KeyUpdate").starts_with("<<<"), "received");
    wait_for("third");
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

/// Keys of either kind under a CA of either kind; what is there stays.
#[test]
fn new_keys_are_of_elliptic_curves_and_old_ones_stay() {
    let certs = Certs::empty();
    certs.script(&["--key", "rsa"], &["ca"]);
    certs.script(&["--key", "rsa"], &["relay"]);
    let [ca, key, cert] = ["ca.pem", "relay.key", "relay.crt"].map(|name| certs.read(name));
    certs.script(&[], &["all"]);
    assert_eq!(
        [
            certs.read("ca.pem"),
            certs.read("relay.key"),
            certs.read("relay.crt")
        ],
        [ca, key.clone(), cert]
    );
    certs.script(&[], &["renew"]);
    assert_eq!(certs.read("relay.key"), key);
    for (name, kind, usage) in [
        (
            "relay",
            "rsaEncryption",
            "Digital Signature, Key Encipherment\n",
        ),
        ("dispatcher", "id-ecPublicKey", "Digital Signature\n"),
    ] {
        let show = ["x509", "-noout", "-text", "-in", &format!("{name}.crt")];
        let text = String::from_utf8(certs.openssl(&show).stdout).unwrap();
        assert!(text.contains(kind) && text.contains(usage), "{text}");
    }
    let [dispatcher, relay] = ["dispatcher", "relay"].map(|role| context(&certs, role));
    let (server, client) = shake((&dispatcher, None), (&relay, None));
    server.unwrap();
    client.unwrap();
}
