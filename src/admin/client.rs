//! A connection to a dispatcher's management port: one command, its answer, in either of its formats.

use std::fmt;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Once;
use std::time::Duration;

use crate::config::MANAGEMENT_PORT;
use crate::moment::Moment;
use crate::proto::Visible;
use crate::proto::line::Lines;
use crate::sys::clock;
use crate::text_layout::clean;
use crate::tls::{self, Context, Paths, Reader, Writer};

/// Longest line of an answer, bytes: all sessions may stand on one.
const MAX_LINE_SIZE: usize = 256 << 20;

/// Longest answer, bytes.
const MAX_ANSWER_SIZE: usize = 512 << 20;

const READ_SIZE: usize = 64 * 1024;

/// Where the dispatcher is and how long it is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub transport: Transport,
    pub timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Unix(PathBuf),
    Tcp {
        /// Host, or host and port.
        address: String,
        tls: Option<Files>,
    },
}

/// Certificates; what is not named is in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Files {
    pub directory: PathBuf,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub ca: Option<PathBuf>,
    pub crl: Option<PathBuf>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The dispatcher's own words.
    Refused(String),
    /// No connection, or not any more.
    Lost(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused(why) | Failure::Lost(why) => f.write_str(why),
        }
    }
}

/// See the module.
pub(super) struct Client {
    reader: Reader,
    writer: Writer,
    lines: Lines,
    timeout: Duration,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// [`Failure::Lost`] with what was tried and what may be wrong.
    pub(super) fn connect(target: &Target) -> Result<Client, Failure> {
        let (reader, writer) = match &target.transport {
            Transport::Unix(path) => {
                let connected = UnixStream::connect(path).and_then(tls::plain_unix);
                let connected = connected.map_err(|error| {
                    Failure::Lost(format!("{}: {error}{}", path.display(), hint(&error)))
                });
                let (reader, writer, _) = connected?;
                (reader, writer)
            }
            Transport::Tcp { address, tls } => {
                let failed = |why: String| Failure::Lost(format!("{address}: {why}"));
                let socket = tcp(address, target.timeout).map_err(failed)?;
                match tls {
                    None => {
                        let halves = tls::plain_tcp(socket).map_err(|e| failed(e.to_string()))?;
                        (halves.0, halves.1)
                    }
                    Some(files) => {
                        let context = files.load().map_err(Failure::Lost)?;
                        let halves = tls::connect(socket, &context, None, target.timeout);
                        let halves = halves.map_err(|error| failed(error.to_string()))?;
                        (halves.0, halves.1)
                    }
                }
            }
        };
        Ok(Client {
            reader,
            writer,
            lines: Lines::new(MAX_LINE_SIZE),
            timeout: target.timeout,
        })
    }

    /// Sends a command and returns the lines of its answer: JSON objects, or lines for people. After a failure the
    /// connection is of no more use.
    ///
    /// # Errors
    /// See [`Failure`].
    pub(super) fn ask(&mut self, command: &str) -> Result<Vec<String>, Failure> {
        self.send(command)?;
        self.answer(command)
    }

    fn send(&mut self, command: &str) -> Result<(), Failure> {
        let written = self.writer.write_all(format!("{command}\r\n").as_bytes());
        written.map_err(|error| Failure::Lost(format!("the dispatcher is gone: {error}")))
    }

    fn answer(&mut self, command: &str) -> Result<Vec<String>, Failure> {
        let deadline = clock::moment() + self.timeout;
        read_answer(command, || self.line(deadline))
    }

    fn line(&mut self, deadline: Moment) -> Result<String, Failure> {
        let lost = |error: io::Error| {
            Failure::Lost(match error.kind() {
                io::ErrorKind::TimedOut => "the dispatcher does not answer".to_owned(),
                io::ErrorKind::PermissionDenied => {
                    format!("the dispatcher does not accept our certificate: {error}")
                }
                _ => format!("the connection is lost: {error}"),
            })
        };
        let mut buffer = [0; READ_SIZE];
        loop {
            match self.lines.next_line() {
                Ok(Some(line)) => return Ok(String::from_utf8_lossy(line).into_owned()),
                Ok(None) => {}
                Err(too_long) => return Err(Failure::Lost(too_long.to_string())),
            }
            let left = deadline.since(clock::moment());
            let left = left.max(Duration::from_millis(1));
            self.reader.set_timeout(Some(left)).map_err(lost)?;
            match self.reader.read(&mut buffer).map_err(lost)? {
                0 => {
                    return Err(Failure::Lost(
                        "the dispatcher has closed the connection: is this certificate allowed by \
                         management_passport, does the port want TLS (--tls), are too many clients connected?"
                            .to_owned(),
                    ));
                }
                count => self.lines.extend(buffer.get(..count).unwrap_or_default()),
            }
        }
    }
}

/// The answer to a command, of which `line` tells line by line.
///
/// # Errors
/// As [`Client::ask`].
pub(super) fn read_answer(
    command: &str,
    mut line: impl FnMut() -> Result<String, Failure>,
) -> Result<Vec<String>, Failure> {
    let mut answer = Vec::new();
    let mut size = 0;
    loop {
        let line = line()?;
        size += line.len();
        if size > MAX_ANSWER_SIZE {
            return Err(Failure::Lost(format!(
                "an answer of over {MAX_ANSWER_SIZE} bytes"
            )));
        }
        let is_first = answer.is_empty();
        if is_first && line.starts_with("error") {
            return Err(Failure::Refused(refusal(&line)));
        }
        if is_first && line.starts_with('[') {
            return array(&line);
        }
        if line.is_empty() {
            return Ok(answer);
        }
        let is_version = is_first && command == "version";
        answer.push(fit(line));
        // In the format of MediaProxy 4 no empty line follows it; nothing else is asked here.
        if is_version {
            return Ok(answer);
        }
    }
}

/// Two connections that are asked at the same time: a relay that hangs is waited for once and not twice.
pub(super) struct Pair([Client; 2]);

impl Pair {
    /// Connects, twice.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub(super) fn connect(target: &Target) -> Result<Pair, Failure> {
        Ok(Pair([Client::connect(target)?, Client::connect(target)?]))
    }

    /// The answers to a command each. After a failure the connections are of no more use.
    ///
    /// # Errors
    /// As [`Client::ask`], the first one's first.
    pub(super) fn ask(&mut self, [one, other]: [&str; 2]) -> Result<[Vec<String>; 2], Failure> {
        let Pair([first, second]) = self;
        first.send(one)?;
        second.send(other)?;
        Ok([first.answer(one)?, second.answer(other)?])
    }
}

impl Pair {
    /// The answer to one command.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub(super) fn ask_one(&mut self, command: &str) -> Result<Vec<String>, Failure> {
        self.0[0].ask(command)
    }
}

/// A line that is fit for a terminal, whatever has said it; an object stays as it came.
fn fit(line: String) -> String {
    let moves = |c: char| c.is_control() && c != '\t';
    if line.starts_with('{') && !line.contains(moves) {
        line
    } else {
        clean(&line)
    }
}

/// What follows `error`, fit for a terminal.
fn refusal(line: &str) -> String {
    let why = line.strip_prefix("error").unwrap_or(line);
    let why = why.trim_start_matches([':', ' ']);
    match why {
        "" => "the dispatcher answers error: an older one, which does not know this command"
            .to_owned(),
        why => Visible(why.as_bytes()).to_string(),
    }
}

/// The elements of an answer in the format of MediaProxy 4: objects as they stand, texts as they are meant, and fit for a
/// terminal.
fn array(line: &str) -> Result<Vec<String>, Failure> {
    let elements: Vec<&serde_json::value::RawValue> = serde_json::from_str(line)
        .map_err(|error| Failure::Lost(format!("an answer that cannot be read: {error}")))?;
    let text = |element: &&serde_json::value::RawValue| {
        let text = serde_json::from_str::<String>(element.get());
        fit(text.unwrap_or_else(|_| element.get().to_owned()))
    };
    Ok(elements.iter().map(text).collect())
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ": is media-dispatcher running on this host? (--socket and --connect say where it is)"
        }
        io::ErrorKind::PermissionDenied => {
            ": run it as root, or as a member of the socket's group (socket_group)"
        }
        _ => "",
    }
}

fn tcp(address: &str, timeout: Duration) -> Result<TcpStream, String> {
    let looked_up = match address.to_socket_addrs() {
        Ok(found) => Ok(found),
        // Without a port.
        Err(_) => (address, MANAGEMENT_PORT).to_socket_addrs(),
    };
    let mut last = "no address is known".to_owned();
    for address in looked_up.map_err(|error| error.to_string())? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(socket) => return Ok(socket),
            Err(error) => {
                last = format!("{error}: is media-dispatcher running there, and this port open?")
            }
        }
    }
    Err(last)
}

impl Files {
    fn load(&self) -> Result<Context, String> {
        let has = |role: &&str| self.directory.join(format!("{role}.crt")).exists();
        let role = ["admin", "dispatcher", "relay"].into_iter().find(has);
        let usual = Paths::new(&self.directory, role.unwrap_or("admin"));
        let or = |given: &Option<PathBuf>, usual: PathBuf| given.clone().unwrap_or(usual);
        let paths = Paths {
            ca: or(&self.ca, usual.ca),
            crl: or(&self.crl, usual.crl),
            cert: or(&self.cert, usual.cert),
            key: or(&self.key, usual.key),
        };
        let (context, warnings) = Context::load_files(&paths).map_err(|error| error.to_string())?;
        // Not once more for each connection.
        static SAID: Once = Once::new();
        SAID.call_once(|| {
            warnings
                .iter()
                .for_each(|text| eprintln!("media-admin: {text}"));
        });
        Ok(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    /// A client, and the dispatcher's end.
    fn client(timeout: Duration) -> (Client, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (reader, writer, _) = tls::plain_unix(ours).unwrap();
        let lines = Lines::new(MAX_LINE_SIZE);
        let client = Client {
            reader,
            writer,
            lines,
            timeout,
        };
        (client, theirs)
    }

    /// What a client makes of an answer.
    fn asked(command: &str, answer: &[u8]) -> Result<Vec<String>, Failure> {
        let (mut client, mut theirs) = client(Duration::from_millis(200));
        theirs.write_all(answer).unwrap();
        let result = client.ask(command);
        let mut sent = vec![0; command.len() + 2];
        theirs.read_exact(&mut sent).unwrap();
        assert_eq!(sent, format!("{command}\r\n").as_bytes());
        result
    }

    #[test]
    fn both_formats_are_understood() {
        let lines = asked("sessions", b"{\"a\":  1}\r\n{}\r\n\r\n").unwrap();
        assert_eq!(lines, ["{\"a\":  1}", "{}"]);
        assert_eq!(asked("sessions", b"[{\"a\":  1}, {}]\r\n").unwrap(), lines);
        assert_eq!(asked("summary", b"\r\n").unwrap(), [""; 0]);
        assert_eq!(asked("summary", b"[]\r\n").unwrap(), [""; 0]);
        assert_eq!(
            asked("drain", b"[\"a \\\"b\\\"\"]\r\n").unwrap(),
            ["a \"b\""]
        );
        assert_eq!(asked("version", b"0.1\r\n").unwrap(), ["0.1"]);
    }

    #[test]
    fn a_pair_is_asked_before_either_answer_is_waited_for() {
        let [(one, first), (other, second)] = [(); 2].map(|()| client(Duration::from_secs(30)));
        let dispatcher = std::thread::spawn(move || {
            let mut ends = [first, second];
            let asked = ends.each_mut().map(|end| {
                let mut word = [0; 6];
                end.read_exact(&mut word).unwrap();
                String::from_utf8(word.into()).unwrap()
            });
            for (end, answer) in ends.iter_mut().zip(["{\"a\": 1}", "{\"b\": 2}"]) {
                end.write_all(format!("{answer}\r\n\r\n").as_bytes())
                    .unwrap();
            }
            asked
        });
        let answers = Pair([one, other]).ask(["some", "more"]).unwrap();
        assert_eq!(answers, [["{\"a\": 1}"], ["{\"b\": 2}"]]);
        assert_eq!(dispatcher.join().unwrap(), ["some\r\n", "more\r\n"]);
    }

    /// Ours sends no such thing. What answers may be another program, or a call's name in an older one's words.
    #[test]
    fn nothing_that_is_said_moves_the_terminals_cursor() {
        for (told, shown) in [
            ("a\x1b[2J\r\n\r\n", "a\\u{1b}[2J"),
            ("[\"a\\u001b[2J\"]\r\n", "a\\u{1b}[2J"),
            ("{\"a\":\"\x1b\"}\r\n\r\n", "{\"a\":\"\\u{1b}\"}"),
            ("{\"a\":\t1}\r\n\r\n", "{\"a\":\t1}"),
        ] {
            assert_eq!(
                asked("explain a", told.as_bytes()),
                Ok(vec![shown.to_owned()])
            );
        }
    }

    #[test]
    fn refusals_and_silence() {
        let refused = |answer: &[u8]| match asked("x", answer) {
            Err(Failure::Refused(why)) => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            refused(b"error: no relay \x1b[2J\r\n\r\n"),
            "no relay \\u{1b}[2J"
        );
        assert!(refused(b"error\r\n").contains("an older one"));
        for (answer, part) in [
            (&b"{}\r\n"[..], "does not answer"),
            (b"[{]\r\n", "cannot be read"),
        ] {
            match asked("summary", answer) {
                Err(Failure::Lost(why)) => assert!(why.contains(part), "{why}"),
                other => panic!("{other:?}"),
            }
        }
    }
}
