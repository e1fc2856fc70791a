//! What stands between a client and its server and passes on what they say, slowly where a test wants that, up to the
//! place in their conversation where it is to stop.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Longest wait for a conversation to come to where it is to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a thread looks at the other of its two sockets.
const POLL: Duration = Duration::from_millis(1);

/// What one side says until the other one speaks; of a server by UDP, one datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    pub from: Side,
    /// Its beginning, for people to read.
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

/// Where it stops: at a turn of one side, counted from 0. Nothing is passed on after that, and nothing closed, until it
/// is told to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Nothing of this turn is passed on.
    Before(Side, usize),
    /// The half of its first piece.
    Within(Side, usize),
}

/// See the module. Connections end with it.
pub struct Between {
    port: u16,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

struct Shared {
    server: SocketAddr,
    talk: Mutex<Talk>,
    stopped: Condvar,
    /// Milliseconds that each piece is held back.
    delay: AtomicU64,
    is_over: AtomicBool,
}

#[derive(Default)]
struct Talk {
    turns: Vec<Turn>,
    stop: Option<Stop>,
    is_stopped: bool,
    open: Vec<TcpStream>,
    /// What is still under way of connections that were closed does not count.
    generation: usize,
}

impl Between {
    /// Between the clients of a new TCP port and a server on this one.
    pub fn tcp(port: u16) -> Between {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let own = listener.local_addr().unwrap().port();
        Between::start(own, port, move |shared| listen(&listener, &shared))
    }

    /// The same by UDP, for one client at a time; every datagram is a turn.
    pub fn udp(port: u16) -> Between {
        let outside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let own = outside.local_addr().unwrap().port();
        Between::start(own, port, move |shared| relay(&outside, &shared))
    }

    fn start(own: u16, port: u16, run: impl FnOnce(Arc<Shared>) + Send + 'static) -> Between {
        let shared = Arc::new(Shared {
            server: (Ipv4Addr::LOCALHOST, port).into(),
            talk: Mutex::default(),
            stopped: Condvar::new(),
            delay: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        });
        let for_thread = Arc::clone(&shared);
        Between {
            port: own,
            shared,
            listening: Some(thread::spawn(move || run(for_thread))),
        }
    }

    /// Of the clients.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Each piece is held back for so long from now on.
    pub fn set_delay(&self, delay: Duration) {
        let milliseconds = delay.as_millis().try_into().unwrap();
        self.shared.delay.store(milliseconds, Ordering::Relaxed);
    }

    /// Closes what was open and counts turns anew, to stop there.
    pub fn stop_at(&self, stop: Stop) {
        self.begin(Some(stop));
    }

    /// Waits until it has stopped.
    pub fn wait_stopped(&self) -> Result<(), String> {
        let talk = self.shared.talk.lock().unwrap();
        let waited = self
            .shared
            .stopped
            .wait_timeout_while(talk, PATIENCE, |t| !t.is_stopped);
        let (talk, _) = waited.unwrap();
        if talk.is_stopped {
            Ok(())
        } else {
            Err(format!("{:?} of {} turns", talk.stop, talk.turns.len()))
        }
    }

    /// Closes what was open and passes everything on again.
    pub fn go_on(&self) {
        self.begin(None);
    }

    fn begin(&self, stop: Option<Stop>) {
        let mut talk = self.shared.talk.lock().unwrap();
        for stream in talk.open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        *talk = Talk {
            stop,
            generation: talk.generation + 1,
            ..Talk::default()
        };
    }

    /// What was said so far.
    pub fn turns(&self) -> Vec<Turn> {
        self.shared.talk.lock().unwrap().turns.clone()
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        self.go_on();
        // Whoever listens wakes up.
        let own = (Ipv4Addr::LOCALHOST, self.port);
        let _ = TcpStream::connect(own);
        let _ = self.listening.take().map(JoinHandle::join);
    }
}

impl Shared {
    /// Notes what came, and how much of it to pass on; none where nothing is any more. `of` is the generation of a
    /// connection, none of a datagram.
    fn pass(&self, from: Side, piece: &[u8], of: Option<usize>) -> Option<usize> {
        let delay = Duration::from_millis(self.delay.load(Ordering::Relaxed));
        if !delay.is_zero() {
            thread::sleep(delay);
        }
        let mut talk = self.talk.lock().unwrap();
        if talk.is_stopped || of.is_some_and(|of| of != talk.generation) {
            return None;
        }
        if of.is_none() || talk.turns.last().is_none_or(|last| last.from != from) {
            let shown = piece.iter().take(300).map(|&byte| char::from(byte));
            let text = shown.map(|c| {
                if c.is_ascii_graphic() || c == ' ' {
                    c
                } else {
                    '.'
                }
            });
            talk.turns.push(Turn {
                from,
                text: text.collect(),
            });
        }
        let of_this_side = talk.turns.iter().filter(|turn| turn.from == from).count();
        let is_there = |side, turn| side == from && of_this_side > turn;
        let count = match talk.stop {
            Some(Stop::Before(side, turn)) if is_there(side, turn) => 0,
            Some(Stop::Within(side, turn)) if is_there(side, turn) => piece.len() / 2,
            _ => return Some(piece.len()),
        };
        talk.is_stopped = true;
        Some(count)
    }

    /// After what was to be passed on before it.
    fn tell_stopped(&self) {
        if self.talk.lock().unwrap().is_stopped {
            self.stopped.notify_all();
        }
    }
}

fn listen(listener: &TcpListener, shared: &Arc<Shared>) {
    while let Ok((client, _)) = listener.accept() {
        if shared.is_over.load(Ordering::SeqCst) {
            return;
        }
        // A server that is away is one whose connections end at once.
        let _ = connect(client, shared);
    }
}

fn connect(client: TcpStream, shared: &Arc<Shared>) -> io::Result<()> {
    let server = TcpStream::connect(shared.server)?;
    let mut talk = shared.talk.lock().unwrap();
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
        talk.open.push(stream.try_clone()?);
    }
    let of = talk.generation;
    drop(talk);
    let ends = [
        (Side::Client, client.try_clone()?, server.try_clone()?),
        (Side::Server, server, client),
    ];
    for (side, from, to) in ends {
        let shared = Arc::clone(shared);
        thread::spawn(move || pump(side, [from, to], of, &shared));
    }
    Ok(())
}

fn pump(side: Side, [mut from, mut to]: [TcpStream; 2], of: usize, shared: &Shared) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length) = from.read(&mut buffer) {
        if length == 0 {
            break;
        }
        let Some(count) = shared.pass(side, &buffer[..length], Some(of)) else {
            return;
        };
        let written = to.write_all(&buffer[..count]);
        shared.tell_stopped();
        if count < length {
            return;
        }
        if written.is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}

fn relay(outside: &UdpSocket, shared: &Shared) {
    let inside = || {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(POLL)).unwrap();
        socket
    };
    outside.set_read_timeout(Some(POLL)).unwrap();
    // The client, and where the server sees it.
    let mut known: Option<(SocketAddr, UdpSocket)> = None;
    let mut buffer = [0; 5000];
    while !shared.is_over.load(Ordering::SeqCst) {
        while let Ok((length, from)) = outside.recv_from(&mut buffer) {
            let (_, server) = match known.take().filter(|(client, _)| *client == from) {
                Some(same) => known.insert(same),
                None => known.insert((from, inside())),
            };
            if shared.pass(Side::Client, &buffer[..length], None) == Some(length) {
                // The server may be away.
                let _ = server.send_to(&buffer[..length], shared.server);
            }
        }
        if let Some((client, server)) = &known {
            while let Ok((length, _)) = server.recv_from(&mut buffer) {
                if shared.pass(Side::Server, &buffer[..length], None) == Some(length) {
                    let _ = outside.send_to(&buffer[..length], client);
                }
            }
        }
        shared.tell_stopped();
    }
}
