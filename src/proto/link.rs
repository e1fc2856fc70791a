//! What a dispatcher and a relay say to each other over TLS: commands with a sequence token one way, lines
//! the other way.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::control::{self, BadFrame, BadRequest, Frame, Remove, SESSION_ID, Update};
use super::{CallId, Excerpt, SessionId, Text};

use crate::objects::objects_only;

/// TCP port that relays connect to.
pub const PORT: u16 = 25060;

/// Lines from a dispatcher that have no headers.
pub const ALONE: &[&str] = &["pong", "hello", "stored"];

/// Longest line towards or from a peer that has not said hello, bytes: from a dispatcher and from a relay.
pub const OLD_DISPATCHER_LINE: usize = 4 << 20;

/// Longest line from any relay that has said hello, bytes.
pub const RELAY_LINE: usize = 64 << 20;

/// Sessions that any relay can have: there are 65,536 ports, and each session has two at least.
const MAX_SESSIONS: usize = 32_768;

/// Sessions that a relay can have which has room for so many streams: twice that, for those that hold no port. One that
/// does not say it may have as many as there are ports for.
pub fn most_sessions(capacity: Option<usize>) -> usize {
    let twice = capacity.map(|streams| streams.saturating_mul(2).max(1000));
    twice.map_or(MAX_SESSIONS, |most| most.min(MAX_SESSIONS))
}

/// Bytes that a session takes in a list, on the average.
const LISTED_SIZE: usize = 4 * 1024;

/// Bytes of a list of so many sessions: beyond that a relay answers `error`.
pub fn longest_list(sessions: usize) -> usize {
    (sessions * LISTED_SIZE).clamp(OLD_DISPATCHER_LINE, RELAY_LINE)
}

/// Longest command or header line towards a relay, bytes.
pub const OLD_RELAY_LINE: usize = 16 * 1024;

/// Ties a reply to its command; chosen by the dispatcher, given back as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sequence(pub u64);

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a relay is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Update(Box<Update>),
    Remove(Remove),
    /// Statistics of all sessions.
    Sessions,
    Summary,
    /// All that is known of a call; see [`EXPLAIN`].
    Explain(CallId),
}

/// The command that only a relay is asked whose [`Hello`] lists it.
pub const EXPLAIN: &str = "explain";

/// What a dispatcher sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromDispatcher {
    /// To be answered with the sequence; an error is answered `error`.
    Command(Sequence, Result<Command, BadRequest>),
    /// The answer to a ping.
    Pong,
    /// The dispatcher is one of ours.
    Hello(Hello),
    /// It has recorded the session of this id.
    Stored(SessionId),
    /// A line without a sequence, of which nothing can be made.
    Unknown(String),
}

/// Who a peer is and what it understands: said by a relay of ours when it connects, answered by a dispatcher
/// of ours. Unknown keys are ignored, so that either end may be newer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Hello {
    /// A relay's name, unique among those behind one address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default)]
    pub version: String,
    /// A dispatcher says `stored` for each finished session that it has recorded; a relay keeps those until then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stored: bool,
    /// What a relay can be asked beyond `update`, `remove`, `sessions` and `summary`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
    /// Names what says this: of a relay one process and one of its links, whatever becomes of their connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Why a dispatcher closes the connection after this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Streams that a relay has room for. One that says it tells in `summary` how many are left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<usize>,
}
objects_only!(Hello, both ways);

impl FromDispatcher {
    /// Reads what was cut with [`ALONE`].
    pub fn parse(incoming: Result<&Frame, BadFrame<'_>>) -> FromDispatcher {
        let line = match &incoming {
            Ok(frame) => frame.command(),
            Err(bad) => bad.command,
        };
        let (word, rest) = split_word(line);
        match word {
            b"pong" => return FromDispatcher::Pong,
            b"hello" => {
                if let Ok(hello) = serde_json::from_slice(rest) {
                    return FromDispatcher::Hello(hello);
                }
            }
            b"stored" => {
                let id = std::str::from_utf8(rest).ok();
                if let Some(Ok(id)) = id.map(str::parse) {
                    return FromDispatcher::Stored(id);
                }
            }
            _ => {
                if let Some(sequence) = parse_number(rest).map(Sequence) {
                    let command = incoming.map_err(|bad| bad.why);
                    let command = command.and_then(|frame| parse_command(word, frame));
                    return FromDispatcher::Command(sequence, command);
                }
            }
        }
        FromDispatcher::Unknown(Excerpt(line).to_string())
    }
}

fn parse_command(word: &[u8], frame: &Frame) -> Result<Command, BadRequest> {
    match word {
        b"update" => Update::parse(frame).map(|update| Command::Update(Box::new(update))),
        b"remove" => Remove::parse(frame).map(Command::Remove),
        b"sessions" => Ok(Command::Sessions),
        b"summary" => Ok(Command::Summary),
        b"explain" => control::call_id(frame).map(Command::Explain),
        other => Err(BadRequest::UnknownCommand(Excerpt(other).to_string())),
    }
}

/// A line from a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromRelay<'a> {
    Ping,
    /// JSON, see [`Hello`].
    Hello(&'a [u8]),
    /// A session ended by itself; its statistics as JSON.
    Expired(&'a [u8]),
    /// The same of one that was removed, said again because no `stored` came for the answer to the removal.
    Removed(&'a [u8]),
    /// It ends, and its sessions are another process' that comes within so many seconds, or nobody's after that.
    Leaving(u64),
    Reply(Sequence, &'a [u8]),
    Unknown(&'a [u8]),
}

impl<'a> FromRelay<'a> {
    pub fn parse(line: &'a [u8]) -> FromRelay<'a> {
        let (word, rest) = split_word(line);
        match word {
            b"ping" => FromRelay::Ping,
            b"hello" => FromRelay::Hello(rest),
            b"expired" => FromRelay::Expired(rest),
            b"removed" => FromRelay::Removed(rest),
            b"leaving" => parse_number(rest).map_or(FromRelay::Unknown(line), FromRelay::Leaving),
            number => match parse_number(number) {
                Some(sequence) => FromRelay::Reply(Sequence(sequence), rest),
                None => FromRelay::Unknown(line),
            },
        }
    }
}

/// A relay's answer to an `update`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpdateReply {
    /// The relay's address, and a port for each stream of `media`, 0 where there is none.
    Ports(IpAddr, Vec<u16>),
    /// The relay takes no new calls.
    Halting,
    /// And why, where that is known.
    Error(Cow<'static, str>),
}

impl fmt::Display for UpdateReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UpdateReply::Ports(address, ports) => {
                write!(f, "{address}")?;
                ports.iter().try_for_each(|port| write!(f, " {port}"))
            }
            UpdateReply::Halting => f.write_str("halting"),
            UpdateReply::Error(_) => f.write_str("error"),
        }
    }
}

/// That answer as a dispatcher reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpdateResult<'a> {
    /// An address and ports: the SIP proxy gets them as they came.
    Ports(&'a str),
    Halting,
    /// Why, for people.
    Error(String),
}

impl<'a> UpdateResult<'a> {
    /// Reads a relay's result. What no relay should say (`None` of older ones, too) is an error.
    pub fn parse(result: &'a [u8]) -> UpdateResult<'a> {
        if result == b"halting" {
            return UpdateResult::Halting;
        }
        let text = std::str::from_utf8(result).ok();
        match text.filter(|text| are_ports(text)) {
            Some(ports) => UpdateResult::Ports(ports),
            None => {
                let why = result.strip_prefix(b"error: ").unwrap_or_default();
                UpdateResult::Error(Excerpt(why).to_string())
            }
        }
    }
}

fn are_ports(text: &str) -> bool {
    let mut words = text.split(' ');
    let is_address = words
        .next()
        .is_some_and(|word| word.parse::<IpAddr>().is_ok());
    let is_port = |word: &str| parse_number(word.as_bytes()).is_some_and(|n| n <= 0xffff);
    is_address && words.all(is_port)
}

/// What a relay that has not said hello can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compatibility {
    /// One of ours: any bytes, and nothing that the proxy did not say.
    Ours,
    /// UTF-8, lines within [`OLD_RELAY_LINE`], and a `signaling_ip` always.
    Older,
}

/// Writes the command of a request from the SIP proxy for a relay, headers as they came. `session_id` is what a relay
/// of ours is to call the session that it makes. False when the relay could not read it; `out` then holds nothing of
/// it.
pub fn write_command(
    out: &mut Vec<u8>,
    frame: &Frame,
    sequence: Sequence,
    compatibility: Compatibility,
    session_id: Option<SessionId>,
) -> bool {
    let start = out.len();
    begin_command(out, frame.command(), sequence);
    if let (Some(id), Compatibility::Ours) = (session_id, compatibility) {
        // Before what the proxy says: the first of two headers of one name counts.
        out.extend_from_slice(format!("{SESSION_ID}: {id}\r\n").as_bytes());
    }
    let has_all = frame
        .headers()
        .all(|(name, value)| write_header(out, name, value, compatibility));
    if !has_all {
        out.truncate(start);
        return false;
    }
    let is_update = frame.command() == b"update";
    if compatibility == Compatibility::Older && is_update && frame.header("signaling_ip").is_none()
    {
        out.extend_from_slice(b"signaling_ip: 0.0.0.0\r\n");
    }
    out.extend_from_slice(b"\r\n");
    true
}

/// Writes a `remove` that the dispatcher makes itself. False when the relay could not read it: not all names come from the
/// SIP proxy; `out` then holds nothing of it.
pub fn write_remove(
    out: &mut Vec<u8>,
    remove: &Remove,
    sequence: Sequence,
    compatibility: Compatibility,
) -> bool {
    let start = out.len();
    begin_command(out, b"remove", sequence);
    let names = [
        ("call_id", Some(&remove.call_id.0)),
        ("from_tag", Some(&remove.from_tag.0)),
        ("to_tag", remove.to_tag.as_ref().map(|tag| &tag.0)),
    ];
    for (name, value) in names {
        let Some(value) = value.map(Text::as_bytes) else {
            continue;
        };
        let is_odd = value.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n'));
        if is_odd || !write_header(out, name.as_bytes(), value, compatibility) {
            out.truncate(start);
            return false;
        }
    }
    out.extend_from_slice(b"\r\n");
    true
}

fn begin_command(out: &mut Vec<u8>, command: &[u8], sequence: Sequence) {
    out.extend_from_slice(command);
    out.extend_from_slice(format!(" {sequence}\r\n").as_bytes());
}

/// False where it is longer than a relay can read.
fn write_header(
    out: &mut Vec<u8>,
    name: &[u8],
    value: &[u8],
    compatibility: Compatibility,
) -> bool {
    let line = out.len();
    write_text(out, name, compatibility);
    out.extend_from_slice(b": ");
    write_text(out, value, compatibility);
    let fits = out.len() - line <= OLD_RELAY_LINE;
    out.extend_from_slice(b"\r\n");
    fits
}

/// One `?` for each byte that is not UTF-8: the same text wherever the same bytes stand, and no longer.
fn write_text(out: &mut Vec<u8>, text: &[u8], compatibility: Compatibility) {
    if compatibility == Compatibility::Ours {
        out.extend_from_slice(text);
        return;
    }
    for chunk in text.utf8_chunks() {
        out.extend_from_slice(chunk.valid().as_bytes());
        out.extend(chunk.invalid().iter().map(|_| b'?'));
    }
}

fn split_word(line: &[u8]) -> (&[u8], &[u8]) {
    match line.iter().position(|&b| b == b' ') {
        Some(blank) => (&line[..blank], &line[blank + 1..]),
        None => (line, &[]),
    }
}

fn parse_number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let is_number = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}
