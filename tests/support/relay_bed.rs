//! A relay in this process for tests, with scripted dispatchers over TLS and parties that send media.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mediaproxy::config::{DispatcherEntry, Forwarding, Host};
use mediaproxy::proto::line::Lines;
use mediaproxy::relay::{self, Running, Settings};
use mediaproxy::session;
use mediaproxy::sys::datagram::undisturbed;
use mediaproxy::tls::{Context, HANDSHAKE_LIMIT, Reader, Store, Writer, accept};

use super::certs::Certs;
use super::ports::PortRange;
use super::shape;

/// Longer than anything here takes; only a failing test waits for it.
pub const LONG: Duration = Duration::from_secs(20);

/// Where parties and dispatchers are.
pub const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// Where the relay is: on this process's own address, so that no port of its range is ever taken.
pub fn relay_ip() -> Ipv4Addr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 | high | middle, low, 2)
}

/// A relay, its certificates and its dispatchers.
pub struct Bed {
    pub certs: Certs,
    pub dispatchers: Vec<FakeDispatcher>,
    pub running: Running,
}

impl Bed {
    /// A relay with one dispatcher.
    pub fn new() -> Bed {
        Bed::with(1, |_| ())
    }

    /// A relay with so many dispatchers and other settings than the usual ones.
    pub fn with(dispatchers: usize, change: impl FnOnce(&mut Settings)) -> Bed {
        let certs = Certs::usual();
        let dispatchers: Vec<FakeDispatcher> = (0..dispatchers)
            .map(|_| FakeDispatcher::new(certs.path()))
            .collect();
        let addresses: Vec<SocketAddr> = dispatchers.iter().map(|d| d.address).collect();
        let mut settings = settings(&addresses);
        change(&mut settings);
        let store = Arc::new(Store::open(certs.path(), "relay").unwrap());
        let running = run(settings, store);
        Bed {
            certs,
            dispatchers,
            running,
        }
    }

    /// The relay's next connection to the first dispatcher, hello said both ways.
    pub fn link(&self) -> FakeLink {
        self.dispatchers[0].link()
    }

    /// Stops the relay while its calls still stand; returns how many the dispatcher was told of.
    pub fn end(&self, mut link: FakeLink) -> usize {
        std::thread::scope(|scope| {
            scope.spawn(|| self.running.stop());
            while let Some(line) = link.next_line() {
                link.unasked.push(line);
            }
        });
        let lines = link.unasked.iter();
        lines.filter(|line| line.starts_with("expired ")).count()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.running.stop();
    }
}

/// The usual settings, but for what would make tests slow.
pub fn settings(dispatchers: &[SocketAddr]) -> Settings {
    let target = |address: &SocketAddr| DispatcherEntry {
        host: Host::Address(address.ip()),
        port: address.port(),
    };
    Settings {
        dispatchers: dispatchers.iter().map(target).collect(),
        passport: None,
        relay_ip: Some(relay_ip()),
        auto_detect_interfaces: false,
        port_range: range(100),
        dns_check_interval: Duration::from_secs(60),
        keepalive_interval: Duration::from_secs(10),
        reconnect_delay: Duration::from_millis(50),
        traffic_sampling_period: Duration::from_secs(15),
        verify_interval: Duration::from_secs(300),
        forwarding: Forwarding::Userspace,
        mark: (0x4d50_0000, 0xffff_0000),
        session: session::Settings {
            stream_timeout: Duration::from_secs(90),
            on_hold_timeout: Duration::from_secs(7200),
            setup_timeout: Duration::from_secs(300),
            learning: mediaproxy::session::LearningRules::default(),
            advertised_ip: None,
            routable_private_ranges: vec!["127.0.0.0/8".parse().unwrap()],
            kernel: Err("forwarding = userspace".into()),
        },
        state_dir: None,
        journal_limit: 64 << 20,
        runtime_dir: None,
        adopt_within: Duration::from_secs(60),
        workers: Some(2),
    }
}

/// Starts a relay; with another range of as many ports where another run of the tests has this one.
pub fn run(mut settings: Settings, store: Arc<Store>) -> Running {
    loop {
        match relay::lock(&settings) {
            Ok(lock) => return relay::start(settings, store, lock).unwrap(),
            Err(_) => {
                let (start, end) = settings.port_range;
                settings.port_range = range(((end - u32::from(start)) / 2) as u16);
            }
        }
    }
}

/// Ports for so many pairs that no other test of this process uses, and no other relay at the moment. On this process's
/// own address all of them are free.
pub fn range(pairs: u16) -> (u16, u32) {
    let range = PortRange::unlocked(2 * pairs, |_| true).unwrap();
    (range.start, range.end.into())
}

/// A listening dispatcher.
pub struct FakeDispatcher {
    listener: Option<TcpListener>,
    pub address: SocketAddr,
    certs: PathBuf,
}

impl FakeDispatcher {
    pub fn new(certs: &Path) -> FakeDispatcher {
        let listener = TcpListener::bind((LOCAL, 0)).unwrap();
        FakeDispatcher {
            address: listener.local_addr().unwrap(),
            listener: Some(listener),
            certs: certs.to_owned(),
        }
    }

    /// Stops listening.
    pub fn down(&mut self) {
        self.listener = None;
    }

    /// Listens again on the same port.
    pub fn up(&mut self) {
        self.listener = Some(TcpListener::bind(self.address).unwrap());
    }

    /// The next connection; what is refused on the way is passed over.
    pub fn accept(&self) -> FakeLink {
        let context = Context::load(&self.certs, "dispatcher").unwrap().0;
        let listener = self.listener.as_ref().expect("it listens");
        loop {
            let (socket, _) = listener.accept().unwrap();
            if let Ok((reader, writer, _)) = accept(socket, &context, None, HANDSHAKE_LIMIT) {
                reader.set_timeout(Some(LONG)).unwrap();
                return FakeLink {
                    reader,
                    writer,
                    lines: Lines::new(64 << 20),
                    sequence: 0,
                    unasked: Vec::new(),
                };
            }
        }
    }

    /// The next connection, hello said both ways.
    pub fn link(&self) -> FakeLink {
        loop {
            let mut link = self.accept();
            // A relay that was stopped meanwhile may have come before the next one, and left.
            let Some(hello) = link.next_line() else {
                continue;
            };
            assert!(hello.starts_with("hello {"), "{hello}");
            let answer = b"hello {\"version\": \"test\"}\r\n";
            if link.writer.write_all(answer).is_ok() {
                return link;
            }
        }
    }
}

/// The dispatcher's end of a link; a test says what it says.
pub struct FakeLink {
    reader: Reader,
    writer: Writer,
    lines: Lines,
    sequence: u64,
    /// Lines that were not asked for, pings left out.
    pub unasked: Vec<String>,
}

impl FakeLink {
    pub fn say(&mut self, line: &str) {
        self.say_bytes(format!("{line}\r\n").as_bytes());
    }

    pub fn say_bytes(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).unwrap();
    }

    /// The next line as it comes; none at the end.
    pub fn next_line(&mut self) -> Option<String> {
        let mut buffer = [0; 16 * 1024];
        loop {
            if let Some(line) = self.lines.next_line().unwrap() {
                return Some(String::from_utf8(line.to_vec()).unwrap());
            }
            match self.reader.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => self.lines.extend(&buffer[..count]),
                Err(error) => panic!("nothing came: {error}"),
            }
        }
    }

    /// Sends a command and returns its sequence.
    pub fn send(&mut self, word: &str, headers: &[(&str, &str)]) -> u64 {
        self.sequence += 1;
        let mut text = format!("{word} {}\r\n", self.sequence);
        for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        self.say_bytes(text.as_bytes());
        self.sequence
    }

    /// The answer to a command, whatever comes before it.
    pub fn answer(&mut self, sequence: u64) -> String {
        let start = format!("{sequence} ");
        loop {
            let line = self.next_line().expect("the link ended without an answer");
            if let Some(result) = line.strip_prefix(&start) {
                return result.to_owned();
            }
            self.note(line);
        }
    }

    /// The answer to one of several commands under way.
    pub fn answer_any_order(&mut self, sequence: u64) -> String {
        let start = format!("{sequence} ");
        loop {
            if let Some(index) = self.unasked.iter().position(|l| l.starts_with(&start)) {
                return self.unasked.swap_remove(index)[start.len()..].to_owned();
            }
            let line = self.next_line().expect("the link ended without an answer");
            self.note(line);
        }
    }

    pub fn ask(&mut self, word: &str, headers: &[(&str, &str)]) -> String {
        let sequence = self.send(word, headers);
        self.answer(sequence)
    }

    /// The statistics of the next session that ended by itself.
    pub fn expired(&mut self) -> serde_json::Value {
        loop {
            if let Some(index) = self.unasked.iter().position(|l| l.starts_with("expired ")) {
                let line = self.unasked.remove(index);
                let statistics = serde_json::from_str(&line["expired ".len()..]).unwrap();
                shape::ended(&statistics);
                return statistics;
            }
            let line = self.next_line().expect("the link ended");
            self.note(line);
        }
    }

    pub fn json(&mut self, word: &str) -> serde_json::Value {
        let answer = self.ask(word, &[]);
        serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{e}: {answer}"))
    }

    fn note(&mut self, line: String) {
        if line == "ping" {
            self.say("pong");
        } else {
            self.unasked.push(line);
        }
    }
}

/// A party's RTP socket and the RTCP socket above it.
pub struct Party {
    pub rtp: UdpSocket,
    pub rtcp: UdpSocket,
}

impl Party {
    pub fn new() -> Party {
        loop {
            let rtp = UdpSocket::bind((LOCAL, 0)).unwrap();
            let port = rtp.local_addr().unwrap().port();
            if let Some(Ok(rtcp)) = port.checked_add(1).map(|p| UdpSocket::bind((LOCAL, p))) {
                for socket in [&rtp, &rtcp] {
                    socket.set_read_timeout(Some(LONG)).unwrap();
                }
                return Party { rtp, rtcp };
            }
        }
    }

    /// The item of `media` that describes this party.
    pub fn audio(&self) -> String {
        let port = self.rtp.local_addr().unwrap().port();
        format!("audio:{LOCAL}:{port}:sendrecv:ice=no")
    }
}

/// An RTP packet with this payload type and number.
pub fn rtp(payload_type: u8, number: u16) -> Vec<u8> {
    let mut packet = vec![0x80, payload_type];
    packet.extend_from_slice(&number.to_be_bytes());
    packet.resize(172, number as u8);
    packet
}

/// An RTCP receiver report.
pub fn rtcp() -> Vec<u8> {
    vec![0x80, 201, 0, 1, 1, 2, 3, 4]
}

pub fn send(socket: &UdpSocket, port: u16, packet: &[u8]) {
    socket.send_to(packet, (relay_ip(), port)).unwrap();
}

/// The next packet and the port it came from.
pub fn receive(socket: &UdpSocket) -> (Vec<u8>, u16) {
    let mut buffer = vec![0; 65_536];
    let (count, from) = undisturbed(|| socket.recv_from(&mut buffer)).expect("a packet");
    buffer.truncate(count);
    (buffer, from.port())
}

/// The headers of an update about a call.
pub struct Update<'a> {
    pub kind: &'a str,
    pub call_id: &'a str,
    pub cseq: u32,
    pub to_tag: &'a str,
    pub media: &'a str,
}

impl Update<'_> {
    /// The ports that the relay answers; an error is the test's end.
    pub fn ports(&self, link: &mut FakeLink) -> Vec<u16> {
        let answer = self.ask(link);
        parse_ports(&answer)
    }

    pub fn ask(&self, link: &mut FakeLink) -> String {
        let sequence = self.send(link);
        link.answer(sequence)
    }

    pub fn send(&self, link: &mut FakeLink) -> u64 {
        let cseq = self.cseq.to_string();
        link.send(
            "update",
            &[
                ("type", self.kind),
                ("call_id", self.call_id),
                ("cseq", &cseq),
                ("from_uri", "alice@example.com"),
                ("to_uri", "bob@example.com"),
                ("from_tag", "from"),
                ("to_tag", self.to_tag),
                ("user_agent", "phone"),
                ("signaling_ip", "127.0.0.1"),
                ("media", self.media),
            ],
        )
    }
}

/// The ports in an answer with the relay's address.
pub fn parse_ports(answer: &str) -> Vec<u16> {
    let mut words = answer.split(' ');
    assert_eq!(words.next(), Some(&*relay_ip().to_string()), "{answer}");
    words.map(|word| word.parse().unwrap()).collect()
}

/// The caller's INVITE.
pub fn offer<'a>(call_id: &'a str, media: &'a str) -> Update<'a> {
    Update {
        kind: "request",
        call_id,
        cseq: 1,
        to_tag: "",
        media,
    }
}

/// The callee's 200 to it.
pub fn answer<'a>(call_id: &'a str, media: &'a str) -> Update<'a> {
    Update {
        kind: "reply",
        to_tag: "to",
        ..offer(call_id, media)
    }
}

/// Removes a call and returns its statistics.
pub fn remove(link: &mut FakeLink, call_id: &str) -> serde_json::Value {
    let headers = [("call_id", call_id), ("from_tag", "from")];
    let answer = link.ask("remove", &headers);
    serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{e}: {answer}"))
}

/// Waits until a condition holds.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..4000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("not in time: {what}");
}
