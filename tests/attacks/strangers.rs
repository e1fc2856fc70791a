//! Attacks over the network by those who have no certificate of ours.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};

use super::field::{Target, is_passing};
use super::pace::{Going, Pace};
use super::source;

/// Silent connections from one address.
const SILENT: usize = 60;
/// A second, over both TLS ports.
const HELLOS: u32 = 150;
const GARBAGE: u32 = 300;
/// A second, to the relay's media ports.
const DATAGRAMS: u32 = 4000;
/// Scrapers that send a byte now and then.
const SLOW: usize = 40;
/// New ones in a tenth of a second: whoever is given up comes back.
const NEW: usize = 10;

/// Numbers that are the same in each run.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

/// Connections that say nothing; one that was closed is replaced.
fn silent(to: SocketAddr, from: &[Ipv4Addr], going: &Going) -> String {
    let mut held: Vec<TcpStream> = Vec::new();
    let (mut made, mut closed) = (0, 0);
    let mut pace = Pace::new(400);
    while pace.next(going) {
        if held.len() < SILENT * from.len() {
            let address = from[made % from.len()];
            if let Ok(stream) = source::connect(address, to) {
                let _ = stream.set_nonblocking(true);
                held.push(stream);
                made += 1;
            }
        } else {
            let before = held.len();
            held.retain(|stream| match stream.peek(&mut [0]) {
                Ok(_) => false,
                Err(error) => is_passing(error.kind()),
            });
            closed += before - held.len();
            going.pause(Duration::from_millis(50));
        }
    }
    format!("{made} silent connections, {closed} given up by the dispatcher")
}

fn addresses(third: u8, count: u8) -> Vec<Ipv4Addr> {
    (1..=count)
        .map(|last| Ipv4Addr::new(127, 0, third, last))
        .collect()
}

/// From four addresses, on the port for relays.
pub fn silent_to_relay_port(target: &Target, going: &Going) -> String {
    silent(target.link, &addresses(1, 4), going)
}

/// From one address and from many, on the port for administrators.
pub fn silent_to_management(target: &Target, going: &Going) -> String {
    silent(target.management, &addresses(2, 2), going)
}

/// Believes every server: what a stranger does who only wants to be served.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// The first record of a handshake, made once: repeated, it costs its sender nothing.
fn client_hello() -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_no_client_auth();
    let name = ServerName::try_from("dispatcher").unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    hello
}

/// The same ClientHello again and again, on both ports; each waits for its answer.
pub fn replayed_hellos(target: &Target, going: &Going) -> String {
    let hello = client_hello();
    let from = addresses(3, 4);
    let (mut pace, mut sent, mut answered) = (Pace::new(HELLOS), 0, 0);
    while pace.next(going) {
        let to = [target.link, target.management][sent % 2];
        let Ok(mut stream) = source::connect(from[sent % from.len()], to) else {
            continue;
        };
        let _ = stream.set_read_timeout(Some(Duration::from_millis(300)));
        if stream.write_all(&hello).is_ok() {
            sent += 1;
            answered += usize::from(matches!(stream.read(&mut [0; 4096]), Ok(1..)));
        }
    }
    format!("{sent} replayed ClientHellos, {answered} answered")
}

/// What is no TLS at all, on both ports.
pub fn garbage(target: &Target, going: &Going) -> String {
    let from = addresses(4, 4);
    let mut dice = Dice(0x5eed);
    let (mut pace, mut sent) = (Pace::new(GARBAGE), 0);
    while pace.next(going) {
        let to = [target.link, target.management][sent % 2];
        let Ok(mut stream) = source::connect(from[sent / 2 % from.len()], to) else {
            continue;
        };
        let bytes = match sent % 3 {
            0 => dice.bytes(500),
            1 => b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n".to_vec(),
            _ => [&[22, 3, 1, 1, 0], &dice.bytes(256)[..]].concat(),
        };
        let _ = stream.write_all(&bytes);
        sent += 1;
    }
    format!("{sent} connections with garbage")
}

/// RTP, STUN and RTCP of nobody's to all of the relay's ports.
pub fn datagrams(target: &Target, going: &Going) -> String {
    let bind = |address: &Ipv4Addr| UdpSocket::bind((*address, 0)).unwrap();
    let sockets: Vec<UdpSocket> = addresses(5, 4).iter().map(bind).collect();
    let mut dice = Dice(0xfeed);
    let (mut pace, mut sent) = (Pace::new(DATAGRAMS), 0u32);
    let (start, length) = (target.ports.start, target.ports.end - target.ports.start);
    while pace.next(going) {
        let port = start + (dice.next() % u64::from(length)) as u16;
        let packet = match dice.next() % 4 {
            // Of one stream, as far as the port is hit again.
            0 => [
                &[
                    0x80,
                    8,
                    (sent >> 8) as u8,
                    sent as u8,
                    0,
                    0,
                    0,
                    0,
                    9,
                    9,
                    9,
                    9,
                ][..],
                &[0; 160],
            ]
            .concat(),
            // A binding request.
            1 => [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &dice.bytes(12)].concat(),
            // RTCP whose lengths are lies.
            2 => [
                &[
                    0x80 | dice.next() as u8,
                    200 + (dice.next() % 8) as u8,
                    0xff,
                    0xff,
                ][..],
                &dice.bytes(40),
            ]
            .concat(),
            _ => dice.bytes((dice.0 % 1400) as usize),
        };
        let socket = &sockets[sent as usize % sockets.len()];
        let _ = socket.send_to(&packet, (Ipv4Addr::LOCALHOST, port));
        sent = sent.wrapping_add(1);
    }
    format!("{sent} datagrams")
}

/// Scrapers that take their time, on both daemons.
pub fn slow_scrapers(target: &Target, going: &Going) -> String {
    let request = b"GET /metrics HTTP/1.1\r\nHost: relay\r\nX-Slow: ";
    let mut held: Vec<(TcpStream, usize)> = Vec::new();
    let mut made = 0;
    while going.pause(Duration::from_millis(100)) {
        for _ in held.len()..(2 * SLOW).min(held.len() + NEW) {
            let to = target.metrics[made % 2];
            let Ok(stream) = TcpStream::connect(to) else {
                break;
            };
            let _ = stream.set_write_timeout(Some(Duration::from_millis(50)));
            held.push((stream, 0));
            made += 1;
        }
        held.retain_mut(|(stream, at)| {
            let byte = request.get(*at).copied().unwrap_or(b'x');
            *at += 1;
            stream.write_all(&[byte]).is_ok()
        });
    }
    format!("{made} slow scrapers")
}
