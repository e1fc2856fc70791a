//! Accounting to a RADIUS server that loses, delays, forges and cuts: a stand-in on loopback.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mediaproxy::accounting::radius::Radius;
use mediaproxy::accounting::{Backend, DeliveryResult, Record};
use mediaproxy::config::RadiusSection;

use crate::support::skip;

const SECRET: &str = "between-us";

/// A datagram that came, and from where.
type Seen = (Vec<u8>, SocketAddr);

/// A server that does with each request what a test says.
struct StandIn {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl StandIn {
    /// `act` gets the socket, the request, its sender, and how often these bytes came before.
    fn start(
        address: &str,
        mut act: impl FnMut(&UdpSocket, &[u8], SocketAddr, usize) + Send + 'static,
    ) -> StandIn {
        let socket = UdpSocket::bind(address).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let address = socket.local_addr().unwrap();
        let (seen, ending) = (
            Arc::new(Mutex::new(Vec::new())),
            Arc::new(AtomicBool::new(false)),
        );
        let (noted, end) = (Arc::clone(&seen), Arc::clone(&ending));
        let thread = thread::spawn(move || {
            let mut buffer = [0; 5000];
            while !end.load(Ordering::SeqCst) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                let request = buffer[..length].to_vec();
                let before = {
                    let mut noted = noted.lock().unwrap();
                    let before = noted.iter().filter(|(other, _)| *other == request).count();
                    noted.push((request.clone(), from));
                    before
                };
                act(&socket, &request, from, before);
            }
        });
        StandIn {
            address,
            seen,
            ending,
            thread: Some(thread),
        }
    }

    /// One that answers all.
    fn good(address: &str) -> StandIn {
        StandIn::start(address, |socket, request, from, _| {
            send(socket, &answer(request), from)
        })
    }

    fn silent(address: &str) -> StandIn {
        StandIn::start(address, |_, _, _, _| ())
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::SeqCst);
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || thread::panicking());
    }
}

fn send(socket: &UdpSocket, datagram: &[u8], to: SocketAddr) {
    socket.send_to(datagram, to).unwrap();
}

/// The answer, signed (RFC 2866 section 3).
fn answer(request: &[u8]) -> Vec<u8> {
    signed(
        &[&[5, request[1], 0, 20][..], &request[4..20]].concat(),
        &[],
        SECRET,
    )
}

/// An answer with these attributes. Of `head` the authenticator is the request's.
fn signed(head: &[u8], attributes: &[u8], secret: &str) -> Vec<u8> {
    let mut answer = [head, attributes].concat();
    let length = answer.len() as u16;
    answer[2..4].copy_from_slice(&length.to_be_bytes());
    let hash = md5::compute([&answer, secret.as_bytes()].concat());
    answer[4..20].copy_from_slice(&*hash);
    answer
}

/// The backend with a configuration in a directory of its own, which goes away with it.
struct Client {
    radius: Radius,
    directory: PathBuf,
}

impl Client {
    /// `timeout` in seconds.
    fn new(servers: &[String], timeout: u32, retries: u32) -> Client {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mediaproxy-radius-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).unwrap();
        let servers = servers.join(",");
        let text = format!(
            "acctserver {servers}\nservers secrets\nradius_timeout {timeout}\nradius_retries {retries}\n"
        );
        fs::write(directory.join("client.conf"), text).unwrap();
        let secrets =
            ["127.0.0.1", "127.0.0.2", "::1", "localhost"].map(|host| format!("{host} {SECRET}\n"));
        fs::write(directory.join("secrets"), secrets.concat()).unwrap();
        let section = RadiusSection {
            config_file: directory.join("client.conf"),
            additional_dictionary: directory.join("dictionary"),
        };
        let radius = Radius::open(&section).unwrap();
        Client { radius, directory }
    }

    fn of(server: &StandIn, timeout: u32, retries: u32) -> Client {
        Client::new(&[server.address.to_string()], timeout, retries)
    }

    /// How many were delivered, and what was said if not all were.
    fn deliver(&mut self, records: &[Record]) -> (usize, Option<String>) {
        let mut verdicts = Vec::new();
        let result = self.radius.deliver(records, &mut verdicts);
        assert!(
            verdicts
                .iter()
                .all(|verdict| *verdict == DeliveryResult::Delivered),
            "{verdicts:?}"
        );
        let why = result.err().map(|why| why.to_string());
        assert!(
            why.as_ref().is_none_or(|why| !why.contains(SECRET)),
            "{why:?}"
        );
        assert!(!format!("{:?}", self.radius).contains(SECRET));
        (verdicts.len(), why)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn records(count: usize) -> Vec<Record> {
    let record = |number: usize| {
        let info = format!(
            r#"{{"session_id":"s{number}","call_id":"call-{number}","from_tag":"f","to_tag":"t"}}"#
        );
        Record::parse(&info).unwrap()
    };
    (0..count).map(record).collect()
}

/// Acct-Session-Id (44) of a request.
fn call_id(request: &[u8]) -> String {
    let mut rest = &request[20..];
    while let [number, length, ..] = *rest {
        let (attribute, after) = rest.split_at(usize::from(length));
        if number == 44 {
            return String::from_utf8(attribute[2..].to_vec()).unwrap();
        }
        rest = after;
    }
    panic!("no Acct-Session-Id");
}

#[test]
fn what_is_lost_on_either_way_comes_again_with_the_same_bytes() {
    // The first two sendings of every third request come to nothing.
    let server = StandIn::start("127.0.0.1:0", |socket, request, from, before| {
        if request[1] % 3 != 0 || before == 2 {
            send(socket, &answer(request), from);
        }
    });
    let mut client = Client::of(&server, 1, 2);
    assert_eq!(client.deliver(&records(20)), (20, None));
    let mut times: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    let seen = server.seen();
    for (request, from) in &seen {
        *times.entry(request.clone()).or_default() += 1;
        assert_eq!(*from, seen[0].1, "all from one socket");
    }
    assert_eq!(times.len(), 20, "one packet for each session");
    for (request, times) in times {
        assert_eq!(
            times,
            if request[1] % 3 == 0 { 3 } else { 1 },
            "{}",
            call_id(&request)
        );
    }
}

/// What is no answer to a request, though it looks like one.
fn lies(request: &[u8]) -> Vec<Vec<u8>> {
    let good = answer(request);
    let head = [&[5, request[1], 0, 20][..], &request[4..20]].concat();
    let with = |at: usize, value: u8| {
        let mut changed = head.clone();
        changed[at] = value;
        signed(&changed, &[], SECRET)
    };
    vec![
        Vec::new(),
        vec![5],
        good[..19].to_vec(),
        // Says more than it brings, then less than a header.
        [&good[..2], &[0, 21], &good[4..]].concat(),
        [&good[..2], &[0, 19], &good[4..]].concat(),
        vec![5; 5000],
        // Another kind, another identifier.
        with(0, 2),
        with(0, 4),
        with(1, request[1].wrapping_add(100)),
        // Attributes that do not add up, a Message-Authenticator that is wrong or short.
        signed(&head, &[18, 1], SECRET),
        signed(&head, &[18, 9, 65], SECRET),
        signed(&head, &[&[80, 18][..], &[0; 16]].concat(), SECRET),
        signed(&head, &[80, 4, 0, 0], SECRET),
        // Signed with another secret, or for another request.
        signed(&head, &[], "not-between-us"),
        with(10, request[10] ^ 1),
    ]
}

#[test]
fn lies_settle_nothing_and_do_not_hide_the_truth() {
    // Few at once: a socket holds only so many of them.
    let server = StandIn::start("127.0.0.1:0", |socket, request, from, _| {
        lies(request).iter().for_each(|lie| send(socket, lie, from));
        // The truth comes twice.
        send(socket, &answer(request), from);
        send(socket, &answer(request), from);
    });
    assert_eq!(Client::of(&server, 10, 0).deliver(&records(5)), (5, None));
    assert_eq!(server.seen().len(), 5);

    let server = StandIn::start("127.0.0.1:0", |socket, request, from, _| {
        lies(request).iter().for_each(|lie| send(socket, lie, from));
    });
    let (delivered, why) = Client::of(&server, 1, 0).deliver(&records(2));
    // Three lies a request have a wrong signature and nothing else.
    let expected = format!(
        "{}: no answer, asked 1 time in 1 s, but 6 with a wrong signature: is the secret the same?",
        server.address
    );
    assert_eq!((delivered, why), (0, Some(expected)));
}

#[test]
fn what_comes_from_elsewhere_is_no_answer() {
    let elsewhere = UdpSocket::bind("127.0.0.2:0").unwrap();
    let beside = UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = StandIn::start("127.0.0.1:0", move |_, request, from, _| {
        send(&elsewhere, &answer(request), from);
        send(&beside, &answer(request), from);
    });
    let (delivered, why) = Client::of(&server, 1, 0).deliver(&records(1));
    assert_eq!(delivered, 0);
    assert!(
        why.unwrap()
            .contains("no answer, asked 1 time in 1 s: does it run")
    );
}

#[test]
fn a_late_answer_counts_and_nothing_is_sent_again() {
    let server = StandIn::silent("127.0.0.1:0");
    let mut client = Client::of(&server, 1, 1);
    let all = records(3);
    assert_eq!(client.deliver(&all).0, 0);
    let seen = server.seen();
    assert_eq!(seen.len(), 6, "each twice");
    // Through the server's own port, as only that is listened to.
    let socket = reuse(server);
    for (request, from) in &seen[..3] {
        send(&socket, &answer(request), *from);
    }
    assert_eq!(client.deliver(&all), (3, None));
    socket.set_nonblocking(true).unwrap();
    assert!(
        socket.recv(&mut [0; 5000]).is_err(),
        "nothing was sent again"
    );
}

/// Ends a stand-in and takes over its address.
fn reuse(server: StandIn) -> UdpSocket {
    let address = server.address;
    drop(server);
    UdpSocket::bind(address).unwrap()
}

#[test]
fn a_session_that_comes_again_is_the_same_packet() {
    let server = StandIn::silent("127.0.0.1:0");
    let mut client = Client::of(&server, 1, 0);
    let all = records(2);
    client.deliver(&all);
    client.deliver(&all);
    let packets: BTreeSet<Vec<u8>> = server
        .seen()
        .into_iter()
        .map(|(request, _)| request)
        .collect();
    assert_eq!((server.seen().len(), packets.len()), (4, 2));
}

#[test]
fn the_answers_behind_a_gap_are_remembered() {
    // Nothing for the first session until the test says so.
    let open = Arc::new(AtomicBool::new(false));
    let opened = Arc::clone(&open);
    let server = StandIn::start("127.0.0.1:0", move |socket, request, from, _| {
        if call_id(request) != "call-0" || opened.load(Ordering::SeqCst) {
            send(socket, &answer(request), from);
        }
    });
    let mut client = Client::of(&server, 1, 0);
    let all = records(10);
    let (delivered, why) = client.deliver(&all);
    assert_eq!(
        (delivered, why.as_deref()),
        (0, Some("session s0 alone got no answer, 1 of 3 times"))
    );
    assert_eq!(server.seen().len(), 10);
    open.store(true, Ordering::SeqCst);
    assert_eq!(client.deliver(&all), (10, None));
    assert_eq!(server.seen().len(), 11, "only the first again");
}

#[test]
fn a_silent_server_is_followed_by_the_next_and_asked_last_then() {
    let (silent, good) = (StandIn::silent("127.0.0.1:0"), StandIn::good("127.0.0.2:0"));
    let servers = [silent.address.to_string(), good.address.to_string()];
    let mut client = Client::new(&servers, 1, 1);
    assert_eq!(client.deliver(&records(40)), (40, None));
    assert_eq!(
        (silent.seen().len(), good.seen().len()),
        (32, 40),
        "a window of 16, each twice"
    );
    assert_eq!(client.deliver(&records(40)), (40, None));
    assert_eq!(
        (silent.seen().len(), good.seen().len()),
        (32, 80),
        "not asked again"
    );
}

#[test]
fn a_closed_port_is_known_at_once_and_all_failures_are_told() {
    let closed = [
        StandIn::silent("127.0.0.1:0"),
        StandIn::silent("127.0.0.2:0"),
    ]
    .map(|server| {
        let address = server.address;
        drop(server);
        address.to_string()
    });
    let mut client = Client::new(&closed, 1, 100);
    let refused = "Connection refused (os error 111)";
    let expected = format!("{}: {refused}; {}: {refused}", closed[0], closed[1]);
    assert_eq!(client.deliver(&records(5)), (0, Some(expected)));
    // What the first attempt left in the socket says nothing about now.
    let _server = StandIn::good(&closed[0]);
    assert_eq!(client.deliver(&records(5)), (5, None));
}

#[test]
fn sixteen_requests_are_open_at_once() {
    let mut open = Vec::new();
    let server = StandIn::start("127.0.0.1:0", move |socket, request, from, before| {
        assert_eq!(before, 0);
        open.push((request.to_vec(), from));
        // One round trip for all of them: a client that waited for each answer would wait for ever.
        if open.len() == 16 {
            open.drain(..)
                .for_each(|(request, from)| send(socket, &answer(&request), from));
        }
    });
    assert_eq!(
        Client::of(&server, 10, 0).deliver(&records(16 * 40)),
        (16 * 40, None)
    );
}

#[test]
fn servers_by_ipv6_and_by_name() {
    let server = StandIn::good("127.0.0.1:0");
    let by_name = format!("localhost:{}", server.address.port());
    assert_eq!(
        Client::new(&[by_name], 10, 0).deliver(&records(3)),
        (3, None)
    );
    if UdpSocket::bind("[::1]:0").is_err() {
        skip::skip("this host has no IPv6");
        return;
    }
    let server = StandIn::good("[::1]:0");
    assert_eq!(Client::of(&server, 10, 0).deliver(&records(3)), (3, None));
}
