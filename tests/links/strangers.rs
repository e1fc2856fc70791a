//! Strangers at the TCP ports, who connect and say nothing, or half of something, or the same ClientHello again and
//! again: relays and administrators get in all the same, at once, and little is done and logged for them.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::thread;
use std::time::Duration;

use mediaproxy::dispatcher::rehearsal::rehearse;
use mediaproxy::sys::clock;
use mediaproxy::tls::{Context, HANDSHAKE_LIMIT, Store, connect};

use crate::support::bed::{self, Bed, FakeRelay, LONG};
use crate::support::certs;
use crate::support::from::connect_from;

/// Far more than a handshake takes, far less than strangers may stay.
const SOON: Duration = Duration::from_secs(3);

/// Connections that a stranger has open, the oldest replaced by another a few hundred times a second.
struct Flood<'a> {
    to: SocketAddr,
    /// What each says.
    says: &'a [u8],
    /// How many each source has.
    each: usize,
    opened: AtomicUsize,
    is_over: AtomicBool,
}

impl<'a> Flood<'a> {
    fn new(to: SocketAddr, says: &'a [u8], each: usize) -> Flood<'a> {
        Flood {
            to,
            says,
            each,
            opened: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
        }
    }

    /// From these addresses while `work` is done, which begins when all have what they want.
    fn during(&self, sources: &[Ipv4Addr], work: impl FnOnce()) {
        struct End<'a>(&'a AtomicBool);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        thread::scope(|scope| {
            for source in sources {
                scope.spawn(|| self.open(*source));
            }
            let _end = End(&self.is_over);
            while self.opened.load(Ordering::Relaxed) < sources.len() * self.each {
                thread::yield_now();
            }
            work();
        });
    }

    fn open(&self, source: Ipv4Addr) {
        let mut open = VecDeque::new();
        while !self.is_over.load(Ordering::Relaxed) {
            if let Ok(mut socket) = connect_from(source, self.to) {
                let _ = socket.write_all(self.says);
                open.push_back(socket);
                self.opened.fetch_add(1, Ordering::Relaxed);
            }
            if open.len() > self.each {
                open.pop_front();
            }
            // Its pace.
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// 127.0.`network`.1 and so many that follow.
fn sources(network: u8, count: u8) -> Vec<Ipv4Addr> {
    let source = |host| Ipv4Addr::new(127, 0, network, host);
    (1..=count).map(source).collect()
}

/// A relay that connects from an address, is up, and goes.
fn visit_as_relay(bed: &Bed, source: Ipv4Addr) {
    let start = clock::moment();
    let socket = connect_from(source, bed.running.relay_address).unwrap();
    let mut relay = FakeRelay::on(bed.certs.path(), socket).expect("it is let in");
    relay.say(&format!("hello {{\"name\": \"relay at {source}\"}}"));
    relay.list("[]");
    assert!(
        (clock::moment() - start) < SOON,
        "{:?}",
        (clock::moment() - start)
    );
}

/// What an administrator is told who asks for the version.
fn ask_version(bed: &Bed, source: Ipv4Addr) -> String {
    let context = Context::load(bed.certs.path(), "relay").unwrap().0;
    let socket = connect_from(source, bed.running.management_address).unwrap();
    let start = clock::moment();
    let Ok((mut reader, mut writer, _)) = connect(socket, &context, None, HANDSHAKE_LIMIT) else {
        return "no handshake".to_owned();
    };
    reader.set_timeout(Some(LONG)).unwrap();
    let _ = writer.write_all(b"version\r\nquit\r\n");
    let mut text = Vec::new();
    let mut buffer = [0; 100];
    while let Ok(count @ 1..) = reader.read(&mut buffer) {
        text.extend_from_slice(&buffer[..count]);
    }
    assert!(
        (clock::moment() - start) < SOON,
        "{:?}",
        (clock::moment() - start)
    );
    String::from_utf8(text).unwrap()
}

fn version() -> String {
    format!("{}\r\n\r\n", env!("CARGO_PKG_VERSION"))
}

/// How many connections failed by a cause, or by any.
fn failed(bed: &Bed, port: &str, cause: &str) -> usize {
    let mut client = bed.management();
    client.send(b"metrics\r\n");
    let family =
        format!("mediaproxy_dispatcher_failed_connections_total{{port=\"{port}\",cause=\"{cause}");
    let mut count = 0;
    loop {
        let line = client.answer();
        if line.is_empty() {
            return count;
        }
        if line.starts_with(&family) {
            count += line.rsplit(' ').next().unwrap().parse::<usize>().unwrap();
        }
    }
}

#[test]
fn l5_silent_connections_keep_no_relay_out() {
    let bed = Bed::new();
    let known = Ipv4Addr::new(127, 0, 1, 100);
    visit_as_relay(&bed, known);
    let flood = Flood::new(bed.running.relay_address, b"", 100);
    let four = sources(1, 4);
    flood.during(&four, || {
        for n in 0..10 {
            visit_as_relay(&bed, known);
            visit_as_relay(&bed, Ipv4Addr::new(127, 0, 1, 101 + n));
            // From an address of theirs.
            visit_as_relay(&bed, four[0]);
        }
    });
    assert!(failed(&bed, "relays", "gave_way") > 100);
    assert_eq!(failed(&bed, "relays", "timed_out"), 0);
}

#[test]
fn l5_half_a_hello_from_many_addresses_keeps_no_relay_out() {
    let bed = Bed::new();
    let flood = Flood::new(bed.running.relay_address, b"\x16\x03\x01", 2);
    flood.during(&sources(2, 60), || {
        for n in 0..5 {
            visit_as_relay(&bed, Ipv4Addr::new(127, 0, 2, 101 + n));
        }
    });
    let turned = ["gave_way", "over_budget"].map(|cause| failed(&bed, "relays", cause));
    assert!(turned.iter().sum::<usize>() > 0, "{turned:?}");
}

/// Who gives way is closed, and its thread ends: the peer reads the end.
#[test]
fn who_gives_way_is_closed_at_once() {
    let bed = Bed::new();
    let mut slow: Vec<TcpStream> = Vec::new();
    for source in sources(3, 65) {
        let mut socket = connect_from(source, bed.running.relay_address).unwrap();
        socket.write_all(b"\x16").unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        slow.push(socket);
    }
    let start = clock::moment();
    assert_eq!(slow[0].read(&mut [0]).unwrap_or(0), 0, "the oldest");
    assert!(
        (clock::moment() - start) < SOON,
        "{:?}",
        (clock::moment() - start)
    );
    slow[1].set_nonblocking(true).unwrap();
    assert!(slow[1].read(&mut [0]).is_err(), "it may go on");
}

#[test]
fn silent_connections_keep_no_administrator_out() {
    let bed = Bed::new();
    let shared = Ipv4Addr::new(127, 0, 4, 1);
    let flood = Flood::new(bed.running.management_address, b"", 150);
    flood.during(&[shared], || {
        for n in 0..20 {
            assert_eq!(ask_version(&bed, shared), version(), "{n}");
            assert_eq!(
                ask_version(&bed, Ipv4Addr::new(127, 0, 4, 100 + n)),
                version()
            );
        }
    });
}

#[test]
fn the_management_port_without_tls_has_room_too() {
    let bed = Bed::with(|settings| settings.management_use_tls = false);
    let shared = Ipv4Addr::new(127, 0, 5, 1);
    for says in [&b""[..], b"version\r\n"] {
        let flood = Flood::new(bed.running.management_address, says, 150);
        flood.during(&[shared], || {
            let answers = (0..20).filter(|_| {
                let mut socket = connect_from(shared, bed.running.management_address).unwrap();
                socket.set_read_timeout(Some(LONG)).unwrap();
                // One that gave way is closed, with or without an error.
                let mut text = String::new();
                let said = socket.write_all(b"version\r\nquit\r\n");
                let _ = said.and_then(|()| socket.read_to_string(&mut text));
                text == version()
            });
            // A machine that is busy with other tests may look at one too late. Without room, none gets in.
            let answered = answers.count();
            assert!(answered >= 18, "{answered} of 20");
        });
    }
}

/// What a relay says first.
fn client_hello(bed: &Bed) -> Vec<u8> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let context = Context::load(bed.certs.path(), "relay").unwrap().0;
    thread::scope(|scope| {
        scope.spawn(move || {
            let socket = TcpStream::connect(address).unwrap();
            connect(socket, &context, None, HANDSHAKE_LIMIT).map(drop)
        });
        let mut hello = vec![0; 4096];
        let length = listener.accept().unwrap().0.read(&mut hello).unwrap();
        hello.truncate(length);
        hello
    })
}

/// How many of so many are answered.
fn replay(bed: &Bed, hello: &[u8], source: Ipv4Addr, tries: usize) -> usize {
    let is_answered = || {
        let Ok(mut socket) = connect_from(source, bed.running.relay_address) else {
            return false;
        };
        socket.set_read_timeout(Some(LONG)).unwrap();
        let _ = socket.write_all(hello);
        matches!(socket.read(&mut [0]), Ok(1))
    };
    (0..tries).filter(|_| is_answered()).count()
}

/// Relays of the dispatcher before this one are no strangers: the file has who was drained.
#[test]
fn l5_relays_from_before_a_restart_are_known() {
    let state = bed::fresh_directory("strangers-restart");
    std::fs::write(state.join("drained"), "127.0.8.1\n").unwrap();
    let bed = Bed::with(|settings| settings.state_dir = state.clone());
    let hello = client_hello(&bed);
    let [known, unknown] = [1, 2].map(|host| {
        let start = clock::moment();
        let answered = replay(&bed, &hello, Ipv4Addr::new(127, 0, 8, host), 100);
        answered.saturating_sub(2 * (clock::moment() - start).as_secs() as usize)
    });
    assert!(known > 80 && unknown < 25, "{known}, {unknown}");
    std::fs::remove_dir_all(state).unwrap();
}

#[test]
fn l6_a_replayed_hello_is_answered_as_often_as_the_budget_allows() {
    let bed = Bed::new();
    let known = Ipv4Addr::new(127, 0, 6, 100);
    visit_as_relay(&bed, known);
    let hello = client_hello(&bed);
    let (start, answered) = (clock::moment(), AtomicUsize::new(0));
    let tries = 150;
    let strangers = sources(6, 8);
    thread::scope(|scope| {
        for source in &strangers {
            scope.spawn(|| {
                let count = replay(&bed, &hello, *source, tries);
                answered.fetch_add(count, Ordering::Relaxed);
            });
        }
        for n in 0..5 {
            visit_as_relay(&bed, known);
            visit_as_relay(&bed, Ipv4Addr::new(127, 0, 6, 101 + n));
        }
    });
    let (answered, took) = (
        answered.into_inner(),
        (clock::moment() - start).as_secs_f64(),
    );
    let allowed = strangers.len() as f64 * (20.0 + 2.0 * took + 1.0);
    assert!((answered as f64) < allowed, "{answered} in {took} s");
    assert!(answered >= strangers.len(), "some are");
    assert!(failed(&bed, "relays", "over_budget") > 500);
    assert_eq!(
        ask_version(&bed, Ipv4Addr::new(127, 0, 6, 1)),
        version(),
        "each port by itself"
    );
}

/// Lines of warnings that name an address.
struct Lines(Mutex<Vec<String>>);

static LINES: Lines = Lines(Mutex::new(Vec::new()));

impl log::Log for Lines {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Info
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            self.0.lock().unwrap().push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

fn lines_with(text: &str) -> Vec<String> {
    let lines = LINES.0.lock().unwrap();
    let fitting = lines.iter().filter(|line| line.contains(text));
    fitting.cloned().collect()
}

fn listen_to_the_log() {
    static SET: Once = Once::new();
    SET.call_once(|| {
        log::set_logger(&LINES).unwrap();
        log::set_max_level(log::LevelFilter::Info);
    });
}

/// On the virtual clock: what came after the first line of a minute is told at its end, though nothing comes any more.
#[test]
fn the_end_of_a_flood_is_told_too() {
    listen_to_the_log();
    let certs = certs::Certs::usual();
    let store = Arc::new(Store::open(certs.path(), "dispatcher").unwrap());
    rehearse(store, Arc::new(bed::Ended::default()), |rehearsal| {
        for number in 0..1_000 {
            rehearsal.turn_away(&format!("192.0.2.77:{number}"));
        }
        rehearsal.pass(Duration::from_secs(50));
        assert_eq!(lines_with("192.0.2.77:").len(), 1);
        rehearsal.pass(Duration::from_secs(61));
        rehearsal.pass(Duration::from_secs(200));
        let lines = lines_with("192.0.2.77:");
        let text = "no connection: the peer does not speak TLS";
        let expected = [
            format!("relay 192.0.2.77:0: {text}"),
            format!("relay 192.0.2.77:1: {text} (and 998 more like it in the last minute)"),
        ];
        assert_eq!(lines, expected);
    });
}

#[test]
fn strangers_write_few_lines() {
    listen_to_the_log();
    let bed = Bed::new();
    let strangers = sources(7, 5);
    let each = 100;
    for port in [bed.running.relay_address, bed.running.management_address] {
        thread::scope(|scope| {
            for source in &strangers {
                scope.spawn(move || {
                    for _ in 0..each {
                        let mut socket = connect_from(*source, port).unwrap();
                        socket.set_read_timeout(Some(LONG)).unwrap();
                        let _ = socket.write_all(b"GET / HTTP/1.1\r\n\r\n");
                        let _ = socket.read_to_end(&mut Vec::new());
                    }
                });
            }
        });
    }
    let all = strangers.len() * each;
    for port in ["relays", "management"] {
        let start = clock::moment();
        while failed(&bed, port, "") < all && (clock::moment() - start) < LONG {
            thread::yield_now();
        }
        let [tls, budget] = ["tls", "over_budget"].map(|cause| failed(&bed, port, cause));
        assert_eq!(tls + budget, all, "{tls} and {budget}");
        assert!(tls >= 100 && budget > 200, "{tls} and {budget}");
    }
    let lines = lines_with(" 127.0.7.");
    assert_eq!(lines.len(), 4, "{lines:#?}");
    let is_tls = |line: &&String| line.contains("no connection: the peer does not speak TLS");
    assert_eq!(lines.iter().filter(is_tls).count(), 2, "{lines:#?}");
    assert!(lines.iter().any(|line| line.starts_with("relay 127.0.7.")));
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("management client 127.0.7."))
    );
}
