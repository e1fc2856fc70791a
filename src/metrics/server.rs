//! Answers scrapes. Strangers may reach this port: requests, times and work are bounded, and so are clients, none of
//! which keeps Prometheus out (see [`Door`]).

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::http::{self, Parsed, Request, Status};
use super::text::CONTENT_TYPE;
use crate::door::admission::Limits;
use crate::door::origin::Origin;
use crate::door::{Arrival, Door, Visit};
use crate::moment::Moment;
use crate::sys::clock;

/// Clients at once that have said nothing, and as many that have; the oldest is closed for one more.
const CLIENTS: usize = 16;

const LIMITS: Limits = Limits {
    silent: CLIENTS,
    working: CLIENTS,
    inside: 0,
    patience: PATIENCE,
    is_costly: false,
};

/// How long a client may take to send its request, and to read the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long, and for how many bytes, a client that sends more than its request is listened to after the answer:
/// closing earlier could lose that.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES: usize = 256 * 1024;

/// A text younger than this is given to the next client, too: however many ask, little is done for them.
const FRESH: Duration = Duration::from_millis(100);

/// A client's thread needs little; the text is on the heap.
const STACK: usize = 256 * 1024;

/// What `/` says.
const SIGNPOST: &str = "Metrics for Prometheus are at /metrics; /health answers ok.\n";

const PLAIN: &str = "text/plain; charset=utf-8";

/// A bound port that nobody serves yet.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    pub address: SocketAddr,
}

struct Server<F> {
    render: F,
    /// The last text, and when it was begun.
    last: Mutex<Option<(Moment, Arc<str>)>>,
}

/// Binds the address of `listen_metrics`.
///
/// # Errors
/// A sentence with the key.
pub fn listen(address: SocketAddr) -> Result<Listener, String> {
    let told = |error| format!("listen_metrics = {address}: cannot listen: {error}");
    let socket = TcpListener::bind(address).map_err(told)?;
    socket.set_nonblocking(true).map_err(told)?;
    let address = socket.local_addr().map_err(told)?;
    Ok(Listener { socket, address })
}

impl Listener {
    /// Starts the thread that answers with what `render` writes, for as long as the process lives. Clients' threads
    /// call `render`, one at a time.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn serve(self, render: impl Fn() -> String + Send + Sync + 'static) -> Result<(), String> {
        let server = Arc::new(Server {
            render,
            last: Mutex::new(None),
        });
        let address = self.address;
        let accept = move || accept(&self.socket, &server);
        spawn("metrics", accept)
            .map_err(|error| format!("cannot start the metrics thread: {error}"))?;
        log::info!("metrics for Prometheus at http://{address}/metrics");
        Ok(())
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let builder = thread::Builder::new().name(name.to_owned());
    builder.stack_size(STACK).spawn(run).map(drop)
}

fn accept<F: Fn() -> String + Send + Sync + 'static>(
    listener: &TcpListener,
    server: &Arc<Server<F>>,
) {
    let what = "the metrics port";
    let door = Door::new(LIMITS, move |why, name| {
        log::debug!("{what}: {name}: {why}")
    });
    let accept = || {
        let (socket, address) = listener.accept()?;
        Ok(Arrival {
            socket: socket.into(),
            origin: Origin::of(address.ip()),
            name: address.to_string(),
        })
    };
    door.tend(what, listener.as_fd(), &accept, &|arrival, visit| {
        serve(server, arrival, visit);
    });
}

fn serve<F: Fn() -> String + Send + Sync + 'static>(
    server: &Arc<Server<F>>,
    arrival: Arrival,
    visit: Visit,
) {
    let server = Arc::clone(server);
    let run = move || {
        let socket = TcpStream::from(arrival.socket);
        if let Err(error) = talk(&server, &socket) {
            log::debug!("the metrics port: {}: {error}", arrival.name);
        }
        drop(visit);
    };
    if let Err(error) = spawn("metrics client", run) {
        log::debug!("the metrics port: no thread for a client: {error}");
    }
}

/// One request, one answer.
fn talk<F: Fn() -> String>(server: &Server<F>, socket: &TcpStream) -> io::Result<()> {
    let answer = match read_request(socket, clock::moment() + PATIENCE)? {
        Ok(request) => server.answer(&request),
        Err(status) => refusal(status, false),
    };
    write(socket, &answer, clock::moment() + PATIENCE)?;
    linger(socket, clock::moment() + LINGER)
}

/// The request, or with what it is refused.
fn read_request(mut socket: &TcpStream, deadline: Moment) -> io::Result<Result<Request, Status>> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let count = match limited(socket, deadline, TcpStream::set_read_timeout)
            .and_then(|()| socket.read(&mut buffer))
        {
            Ok(0) if bytes.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(0) => return Ok(Err(Status::BadRequest)),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if is_late(&error) => return Ok(Err(Status::TimedOut)),
            Err(error) => return Err(error),
        };
        bytes.extend_from_slice(buffer.get(..count).unwrap_or_default());
        match http::parse(&bytes) {
            Parsed::More => {}
            Parsed::Request(request) => return Ok(Ok(request)),
            Parsed::Refused(status) => return Ok(Err(status)),
        }
    }
}

fn write(mut socket: &TcpStream, mut bytes: &[u8], deadline: Moment) -> io::Result<()> {
    while !bytes.is_empty() {
        limited(socket, deadline, TcpStream::set_write_timeout)?;
        match socket.write(bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Says that there is no more, and reads until the client says so, too.
fn linger(mut socket: &TcpStream, deadline: Moment) -> io::Result<()> {
    socket.shutdown(Shutdown::Write)?;
    let mut buffer = [0; 4096];
    let mut left = LINGER_BYTES;
    while left > 0 {
        limited(socket, deadline, TcpStream::set_read_timeout)?;
        match socket.read(&mut buffer)? {
            0 => return Ok(()),
            count => left = left.saturating_sub(count),
        }
    }
    Ok(())
}

/// Gives the next call on a socket the time that is left.
fn limited(
    socket: &TcpStream,
    deadline: Moment,
    set: impl Fn(&TcpStream, Option<Duration>) -> io::Result<()>,
) -> io::Result<()> {
    let left = deadline.since(clock::moment());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    set(socket, Some(left))
}

fn is_late(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

impl<F: Fn() -> String> Server<F> {
    fn answer(&self, request: &Request) -> Vec<u8> {
        let (content_type, body): (_, Arc<str>) = match request.path.as_str() {
            "/metrics" => (CONTENT_TYPE, self.text()),
            "/" => (PLAIN, SIGNPOST.into()),
            "/health" => (PLAIN, "ok\n".into()),
            _ => return refusal(Status::NotFound, request.is_head),
        };
        http::response(Status::Ok, content_type, &body, request.is_head)
    }

    fn text(&self) -> Arc<str> {
        let mut last = lock(&self.last);
        let now = clock::moment();
        if let Some((since, text)) = &*last {
            if now < *since + FRESH {
                return Arc::clone(text);
            }
        }
        let text: Arc<str> = (self.render)().into();
        *last = Some((now, Arc::clone(&text)));
        text
    }
}

fn refusal(status: Status, is_head: bool) -> Vec<u8> {
    let body = format!("{}\n{SIGNPOST}", status.as_str());
    http::response(status, PLAIN, &body, is_head)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Longer than anything here takes.
    const LONG: Duration = Duration::from_secs(20);

    fn serve(render: impl Fn() -> String + Send + Sync + 'static) -> SocketAddr {
        let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = listener.address;
        listener.serve(render).unwrap();
        address
    }

    fn connect(address: SocketAddr) -> TcpStream {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        socket
    }

    /// Everything up to the end, which may be a reset.
    fn rest(mut socket: &TcpStream) -> String {
        let mut bytes = Vec::new();
        let _ = socket.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut socket = connect(address);
        socket.write_all(request.as_bytes()).unwrap();
        rest(&socket)
    }

    fn get(address: SocketAddr, path: &str) -> String {
        ask(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
    }

    #[test]
    fn paths_and_methods() {
        let address = serve(|| "a 1\n".to_owned());
        let metrics = get(address, "/metrics");
        assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n"), "{metrics}");
        assert!(metrics.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
        assert!(metrics.ends_with("\r\n\r\na 1\n"), "{metrics}");
        assert!(get(address, "/").contains("at /metrics"));
        assert!(get(address, "/health").ends_with("\r\n\r\nok\n"));
        assert!(get(address, "/other").starts_with("HTTP/1.1 404 "));
        let post = "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";
        assert!(ask(address, post).starts_with("HTTP/1.1 405 "));
        let head = ask(address, "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(
            head.contains("Content-Length: 4\r\n") && head.ends_with("\r\n\r\n"),
            "{head}"
        );
    }

    #[test]
    fn a_request_of_a_megabyte_is_refused_and_the_answer_arrives() {
        let address = serve(String::new);
        let mut socket = connect(address);
        let long = vec![b'x'; 1 << 20];
        // It may be reset before it has sent everything.
        let _ = socket.write_all(&long);
        let answer = rest(&socket);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
            "{answer}"
        );
        let mut socket = connect(address);
        socket.write_all(&long[..10 * 1024]).unwrap();
        assert!(rest(&socket).starts_with("HTTP/1.1 431 "));
    }

    #[test]
    fn a_client_that_says_nothing_gives_way_to_the_next() {
        let address = serve(|| "a 1\n".to_owned());
        let silent: Vec<TcpStream> = (0..CLIENTS).map(|_| connect(address)).collect();
        assert!(get(address, "/metrics").ends_with("a 1\n"));
        assert_eq!(rest(&silent[0]), "", "the oldest was closed");
        for _ in 0..10 * CLIENTS {
            connect(address);
        }
        assert!(get(address, "/metrics").ends_with("a 1\n"));
    }

    #[test]
    fn a_client_that_is_slow_is_told_so() {
        let address = serve(String::new);
        let mut socket = connect(address);
        socket.write_all(b"GET /metrics HT").unwrap();
        assert!(rest(&socket).starts_with("HTTP/1.1 408 "));
    }

    #[test]
    fn many_clients_at_once_cause_few_renderings() {
        static RENDERED: AtomicUsize = AtomicUsize::new(0);
        let address = serve(|| {
            RENDERED.fetch_add(1, Ordering::Relaxed);
            "a 1\n".to_owned()
        });
        let start = clock::moment();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        get(address, "/metrics");
                    }
                });
            }
        });
        let most = (clock::moment() - start).as_millis() / FRESH.as_millis() + 2;
        assert!((RENDERED.load(Ordering::Relaxed) as u128) < most + 1);
    }

    #[test]
    fn a_port_that_is_taken_is_named_with_its_key() {
        let taken = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let text = listen(taken.address).unwrap_err();
        assert!(text.starts_with(&format!(
            "listen_metrics = {}: cannot listen: ",
            taken.address
        )));
    }
}
