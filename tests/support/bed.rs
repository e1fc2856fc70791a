//! A dispatcher in this process for tests, with scripted relays over TLS and a proxy's connections.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use mediaproxy::config::ManagementFormat;
use mediaproxy::dispatcher::finished::{Finished, Finisher};
use mediaproxy::dispatcher::{Dispatcher, Limits, Running, Settings};
use mediaproxy::proto::line::Lines;
use mediaproxy::tls::{Context, Error, HANDSHAKE_LIMIT, Reader, Store, Writer, connect};

use super::certs::Certs;

/// Longer than anything here takes; only a failing test waits for it.
pub const LONG: Duration = Duration::from_secs(20);

/// Sessions that ended, as the dispatcher handed them over.
#[derive(Default)]
pub struct Ended {
    list: Mutex<Vec<Finished>>,
    more: Condvar,
    most: AtomicUsize,
    /// Nothing is recorded while this holds, as with a full disk.
    pub is_full: AtomicBool,
}

impl Finisher for Ended {
    fn finish(&self, ended: Vec<Finished>) -> Vec<bool> {
        let is_recorded = !self.is_full.load(Ordering::Relaxed);
        let answer = vec![is_recorded; ended.len()];
        self.most.fetch_max(ended.len(), Ordering::Relaxed);
        if is_recorded {
            self.list.lock().unwrap().extend(ended);
            self.more.notify_all();
        }
        answer
    }

    fn records(&self) -> bool {
        true
    }

    fn has(&self, session_id: &str) -> bool {
        let list = self.list.lock().unwrap();
        let mut ids = list
            .iter()
            .filter_map(|ended| ended.statistics.as_ref()?.session_id.as_deref());
        ids.any(|id| id == session_id)
    }
}

impl Ended {
    /// Waits until so many have ended.
    pub fn wait_for(&self, count: usize) -> Vec<Finished> {
        let list = self.list.lock().unwrap();
        let waiting = |list: &mut Vec<Finished>| list.len() < count;
        let (list, timed_out) = self.more.wait_timeout_while(list, LONG, waiting).unwrap();
        assert!(!timed_out.timed_out(), "only {} ended", list.len());
        list.clone()
    }

    /// So many were handed over at once.
    pub fn most_together(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    pub fn count(&self) -> usize {
        self.list.lock().unwrap().len()
    }
}

/// A dispatcher with its certificates and sockets in a directory of its own.
pub struct Bed {
    pub certs: Certs,
    pub running: Running,
    pub ended: Arc<Ended>,
    pub proxy_path: PathBuf,
    pub management_path: PathBuf,
}

impl Bed {
    pub fn new() -> Bed {
        Bed::with(|_| ())
    }

    /// With other settings than the defaults.
    pub fn with(change: impl FnOnce(&mut Settings)) -> Bed {
        let certs = Certs::usual();
        let mut settings = settings(certs.path());
        change(&mut settings);
        let store = Arc::new(Store::open(certs.path(), "dispatcher").unwrap());
        let ended = Arc::new(Ended::default());
        let (proxy_path, management_path) = (
            settings.socket_path.clone(),
            settings.management_path.clone(),
        );
        let finisher = Arc::clone(&ended) as Arc<dyn Finisher>;
        let running = Dispatcher::start(settings, store, finisher).unwrap();
        Bed {
            certs,
            running,
            ended,
            proxy_path,
            management_path,
        }
    }

    pub fn proxy(&self) -> Proxy {
        Proxy::connect(&self.proxy_path)
    }

    /// A client of the management socket speaks as the proxy does: lines both ways.
    pub fn management(&self) -> Proxy {
        Proxy::connect(&self.management_path)
    }

    /// A connected relay that has not said anything.
    pub fn link(&self) -> FakeRelay {
        FakeRelay::connect(self.certs.path(), self.running.relay_address)
    }

    /// An older relay that is up and has no sessions.
    pub fn older_relay(&self) -> FakeRelay {
        let mut relay = self.link();
        relay.list("[]");
        relay
    }

    /// A relay of ours that is up and has no sessions.
    pub fn relay(&self, name: &str) -> FakeRelay {
        self.relay_with(name, "[]")
    }

    /// A relay of ours with these sessions.
    pub fn relay_with(&self, name: &str, sessions: &str) -> FakeRelay {
        let mut relay = self.link();
        relay.say(&format!("hello {{\"name\": \"{name}\"}}"));
        relay.list(sessions);
        relay
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.running.stop();
    }
}

/// The defaults, with free ports.
pub fn settings(directory: &Path) -> Settings {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Settings {
        socket_path: directory.join("dispatcher.sock"),
        socket_mode: 0o660,
        socket_group: None,
        management_path: directory.join("management.sock"),
        state_dir: directory.join("state"),
        listen: any,
        listen_management: any,
        management_use_tls: true,
        management_format: ManagementFormat::Lines,
        passport: None,
        management_passport: None,
        relay_timeout: Duration::from_secs(5),
        relay_retry: Duration::from_millis(150),
        relay_recover_interval: Duration::from_secs(60),
        cleanup_dead_relays_after: Duration::from_secs(43_200),
        cleanup_expired_sessions_after: Duration::from_secs(86_400),
        verify_interval: Duration::from_secs(300),
        limits: Limits::default(),
    }
}

/// What a dispatcher asks a relay.
#[derive(Debug)]
pub struct Asked {
    pub word: String,
    pub sequence: String,
    /// What is not UTF-8 as `\xe9`.
    pub headers: BTreeMap<String, String>,
}

/// The relay's end of a link; a test says what it says.
pub struct FakeRelay {
    reader: Reader,
    writer: Writer,
    lines: Lines,
}

impl FakeRelay {
    pub fn connect(certs: &Path, address: SocketAddr) -> FakeRelay {
        FakeRelay::try_connect(certs, address).unwrap()
    }

    pub fn try_connect(certs: &Path, address: SocketAddr) -> Result<FakeRelay, Error> {
        FakeRelay::on(certs, TcpStream::connect(address).map_err(Error::Io)?)
    }

    /// On a connection that is there.
    pub fn on(certs: &Path, socket: TcpStream) -> Result<FakeRelay, Error> {
        let context = Context::load(certs, "relay").unwrap().0;
        let (reader, writer, _) = connect(socket, &context, None, HANDSHAKE_LIMIT)?;
        reader.set_timeout(Some(LONG)).unwrap();
        let lines = Lines::new(1 << 20);
        Ok(FakeRelay {
            reader,
            writer,
            lines,
        })
    }

    /// Says a line.
    pub fn say(&mut self, line: &str) {
        self.say_bytes(format!("{line}\r\n").as_bytes());
    }

    pub fn say_bytes(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).unwrap();
    }

    /// Says something to a dispatcher that may have closed the link by now.
    pub fn try_say(&mut self, bytes: &[u8]) {
        let _ = self.writer.write_all(bytes);
    }

    /// The next line as bytes; none at the end.
    pub fn next_line(&mut self) -> Option<Vec<u8>> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(line) = self.lines.next_line().unwrap() {
                return Some(line.to_vec());
            }
            match self.reader.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => self.lines.extend(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub fn line(&mut self) -> String {
        let line = self.next_line().expect("a line, not the end");
        String::from_utf8(line).expect("UTF-8")
    }

    /// The next request; the answer to a hello is read over.
    pub fn asked(&mut self) -> Asked {
        let mut command = self.line();
        while command.starts_with("hello ") {
            command = self.line();
        }
        let (word, sequence) = command.split_once(' ').expect(&command);
        let mut headers = BTreeMap::new();
        loop {
            let line = self.next_line().expect("a line, not the end");
            let line = mediaproxy::proto::escaped(&line);
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ").expect(&line);
            headers.insert(name.to_owned(), value.to_owned());
        }
        Asked {
            word: word.to_owned(),
            sequence: sequence.to_owned(),
            headers,
        }
    }

    /// The next request, if one comes within this time.
    pub fn asked_within(&mut self, limit: Duration) -> Option<Asked> {
        self.reader.set_timeout(Some(limit)).unwrap();
        let mut buffer = [0; 4096];
        let read = self.reader.read(&mut buffer);
        self.reader.set_timeout(Some(LONG)).unwrap();
        match read {
            Ok(count) => self.lines.extend(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::TimedOut => return None,
            Err(error) => panic!("{error}"),
        }
        Some(self.asked())
    }

    /// Waits for a request of this kind and answers it.
    pub fn serve(&mut self, word: &str, result: &str) -> Asked {
        let asked = self.asked();
        assert_eq!(asked.word, word);
        self.reply(&asked, result);
        asked
    }

    pub fn reply(&mut self, asked: &Asked, result: &str) {
        self.say(&format!("{} {result}", asked.sequence));
    }

    /// Answers the question for its sessions that a new link gets.
    pub fn list(&mut self, sessions: &str) {
        self.serve("sessions", sessions);
        self.settle();
    }

    /// Returns once the dispatcher has acted on everything that was said. It acts at once on all ends that one read brings,
    /// after it has answered a ping in that read: so the second one is waited for.
    pub fn settle(&mut self) {
        for _ in 0..2 {
            self.say("ping");
            let mut line = self.line();
            while line.starts_with("hello ") {
                line = self.line();
            }
            assert_eq!(line, "pong");
        }
    }

    /// The dispatcher does not want this relay's certificate.
    pub fn is_refused(&mut self) -> bool {
        match self.reader.read(&mut [0; 100]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() != ErrorKind::TimedOut,
        }
    }

    /// Cuts the connection.
    pub fn cut(self) {
        self.reader.closer().close();
    }

    /// Nothing more is said by the dispatcher, and the connection ends.
    pub fn ends(&mut self) {
        assert_eq!(self.next_line(), None);
    }
}

/// One connection of a SIP proxy, or of a management client on the UNIX socket.
pub struct Proxy {
    reader: BufReader<UnixStream>,
}

impl Proxy {
    pub fn connect(path: &Path) -> Proxy {
        let socket = UnixStream::connect(path).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        let reader = BufReader::new(socket);
        Proxy { reader }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.reader.get_mut().write_all(bytes).unwrap();
    }

    /// A second handle, to write from another thread.
    pub fn writer(&self) -> UnixStream {
        self.reader.get_ref().try_clone().unwrap()
    }

    /// The next answer without its end; empty at the connection's end.
    pub fn answer(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        assert!(line.is_empty() || line.ends_with("\r\n"), "{line:?}");
        line.truncate(line.len().saturating_sub(2));
        line
    }

    /// The next line without its end, which is CRLF; none at the connection's end.
    pub fn line_or_end(&mut self) -> Option<Vec<u8>> {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line).unwrap();
        let line = line.strip_suffix(b"\r\n");
        line.map(<[u8]>::to_vec)
    }

    pub fn ask(&mut self, request: &str) -> String {
        self.send(request.as_bytes());
        self.answer()
    }

    /// The connection ends without another byte.
    pub fn ends(&mut self) {
        let mut rest = Vec::new();
        self.reader.read_to_end(&mut rest).unwrap();
        assert_eq!(String::from_utf8_lossy(&rest), "");
    }
}

/// An offer or (with a to_tag) an answer.
pub fn update(call_id: &str, kind: &str, to_tag: &str) -> String {
    format!(
        "update\r\ntype: {kind}\r\ndialog_id: 4242:77\r\ncall_id: {call_id}\r\ncseq: 2\r\n\
         from_uri: alice@example.com\r\nto_uri: bob@example.com\r\nfrom_tag: from\r\n\
         to_tag: {to_tag}\r\nuser_agent: some agent\r\nsignaling_ip: 192.0.2.4\r\n\
         media_relay: \r\nmedia: audio:10.0.0.5:4000:sendrecv:ice=no\r\n\r\n"
    )
}

pub fn offer(call_id: &str) -> String {
    update(call_id, "request", "")
}

pub fn answered(call_id: &str) -> String {
    update(call_id, "reply", "to")
}

pub fn remove(call_id: &str) -> String {
    format!("remove\r\ncall_id: {call_id}\r\nfrom_tag: from\r\nto_tag: to\r\n\r\n")
}

/// What a relay answers to a removal or says of an expired session.
pub fn statistics(call_id: &str, status: &str) -> String {
    format!("{{\"call_id\": \"{call_id}\", \"streams\": [{{\"status\": \"{status}\"}}]}}")
}

/// A socket directory that goes with the test, which has the name to itself.
pub fn fresh_directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("dispatcher-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}
