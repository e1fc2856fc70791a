//! Pairs of TLS connections over loopback for tests.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;

use mediaproxy::tls::{
    Context, Error, HANDSHAKE_LIMIT, Passport, Peer, Reader, Reason, Writer, accept, connect,
};

use super::certs::Certs;

pub type Outcome = Result<(Reader, Writer, Peer), Error>;

pub fn context(certs: &Certs, role: &str) -> Context {
    Context::load(certs.path(), role).unwrap().0
}

pub fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener.accept().unwrap().0, client)
}

/// Both handshakes at the same time: what the dispatcher and the relay got.
pub fn shake(
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

pub fn connected(certs: &Certs) -> ((Reader, Writer, Peer), (Reader, Writer, Peer)) {
    let (server, client) = shake(
        (&context(certs, "dispatcher"), None),
        (&context(certs, "relay"), None),
    );
    let mut server = server.unwrap();
    assert_eq!(read_exactly(&mut server.0, 7), b"hello\r\n");
    (server, client.unwrap())
}

pub fn read_exactly(reader: &mut Reader, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    let mut have = 0;
    while have < count {
        let got = reader.read(&mut bytes[have..]).unwrap();
        assert!(got > 0, "the end after {have} of {count} bytes");
        have += got;
    }
    bytes
}

pub fn refusal(outcome: Outcome) -> (String, Reason) {
    match outcome {
        Err(Error::Refused { subject, reason }) => {
            (subject.map(|s| s.to_string()).unwrap_or_default(), reason)
        }
        other => panic!("{other:?}"),
    }
}

pub fn passport(text: &str) -> Option<Passport> {
    Passport::parse(text).unwrap()
}
