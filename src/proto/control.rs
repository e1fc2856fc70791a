//! Requests about calls: what the SIP proxy asks of a dispatcher and a dispatcher of a relay.
//!
//! A request is a command line, header lines `name: value` and an empty line. [`Requests`] cuts the bytes of
//! a connection into [`Frame`]s within fixed limits; [`Update`] and [`Remove`] are their meaning. What is
//! missing or wrong is a parse error here, never a later check.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::line::{Lines, TooLong};
use super::media::{self, MediaDescription};
use super::name::Mention;
use super::{CSeq, CallId, DialogId, Excerpt, MAX_ID, SessionId, Tag, Text};

use crate::objects::objects_only;

/// What one peer may send in one request.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes in a line.
    pub line: usize,
    /// Headers in a request.
    pub headers: usize,
    /// Bytes in a request.
    pub request: usize,
}

/// What the SIP proxy may send.
pub const PROXY_LIMITS: Limits = Limits {
    line: 8 * 1024,
    headers: 64,
    request: 64 * 1024,
};

/// What a dispatcher may send to a relay: the proxy's request, a longer first line, replaced bytes.
pub const LINK_LIMITS: Limits = Limits {
    line: 16 * 1024,
    headers: 72,
    request: 128 * 1024,
};

/// A request as it came: the command line and the headers that have a value, in order, folded lines joined.
#[derive(Debug, Default)]
pub struct Frame {
    /// All text one after the other; `command` and `headers` are cut out of it.
    text: Vec<u8>,
    command: usize,
    headers: Vec<Span>,
}

/// Where in the text a header's name and value end.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: usize,
    name_end: usize,
    value_end: usize,
}

impl Frame {
    /// The command line.
    pub fn command(&self) -> &[u8] {
        &self.text[..self.command]
    }

    /// Names and values, in the order in which they came.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.headers.iter().map(|span| {
            let name = &self.text[span.start..span.name_end];
            (name, &self.text[span.name_end..span.value_end])
        })
    }

    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let mut headers = self.headers();
        headers.find(|(n, _)| *n == name.as_bytes()).map(|(_, v)| v)
    }

    fn clear(&mut self) {
        self.text.clear();
        self.command = 0;
        self.headers.clear();
    }

    fn set_command(&mut self, line: &[u8]) {
        self.text.extend_from_slice(line);
        self.command = line.len();
    }

    fn add_header(&mut self, name: &[u8], value: &[u8]) {
        let start = self.text.len();
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(value);
        self.headers.push(Span {
            start,
            name_end: start + name.len(),
            value_end: self.text.len(),
        });
    }

    /// Joins a folded line to the last header by one blank (RFC 3261 section 7.3.1).
    fn continue_header(&mut self, line: &[u8]) -> bool {
        let Some(last) = self.headers.last_mut() else {
            return false;
        };
        let rest = line.trim_ascii();
        if !rest.is_empty() {
            self.text.push(b' ');
            self.text.extend_from_slice(rest);
            last.value_end = self.text.len();
        }
        true
    }

    fn drop_empty_headers(&mut self) {
        self.headers.retain(|span| span.value_end > span.name_end);
    }
}

/// What is wrong with a request. The connection can go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadRequest {
    UnknownCommand(String),
    MissingHeader(&'static str),
    BadHeader {
        name: &'static str,
        why: String,
    },
    NotAHeader(String),
    /// A NUL, or a CR that does not end the line.
    ForbiddenByte(String),
    TooManyHeaders(usize),
}

impl fmt::Display for BadRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadRequest::UnknownCommand(command) => write!(f, "unknown command \"{command}\""),
            BadRequest::MissingHeader(name) => write!(f, "no {name}"),
            BadRequest::BadHeader { name, why } => write!(f, "bad {name}: {why}"),
            BadRequest::NotAHeader(line) => write!(f, "header line without \": \": \"{line}\""),
            BadRequest::ForbiddenByte(line) => {
                write!(f, "header line with a NUL or CR in it: \"{line}\"")
            }
            BadRequest::TooManyHeaders(limit) => write!(f, "over {limit} headers"),
        }
    }
}

/// A request that came whole but cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadFrame<'a> {
    /// Its command line: what has to be answered may stand there.
    pub command: &'a [u8],
    pub why: BadRequest,
}

/// What is wrong with a connection. Nothing that follows on it can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    Line(TooLong),
    /// The limit, bytes.
    Request(usize),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Line(too_long) => too_long.fmt(f),
            Broken::Request(limit) => write!(f, "request over {limit} bytes"),
        }
    }
}

/// Cuts a connection's bytes into requests.
#[derive(Debug)]
pub struct Requests {
    lines: Lines,
    limits: Limits,
    /// First words of lines that stand alone: no headers and no empty line follow.
    alone: &'static [&'static str],
    frame: Frame,
    /// The request that is being read.
    state: State,
    /// Bytes of it so far.
    size: usize,
    bad: Option<BadRequest>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Command,
    Headers,
}

impl Requests {
    /// A connection on which a line that begins with one of `alone` is a request by itself.
    pub fn new(limits: Limits, alone: &'static [&'static str]) -> Self {
        Requests {
            lines: Lines::new(limits.line),
            limits,
            alone,
            frame: Frame::default(),
            state: State::Command,
            size: 0,
            bad: None,
        }
    }

    /// Adds what was read. Take all requests with [`Requests::next_request`] before adding more.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.lines.extend(bytes);
    }

    /// The next whole request, or none until more is read. A bad one is read to its end, so that the one
    /// after it is understood; only `Broken` ends the connection.
    pub fn next_request(&mut self) -> Result<Option<Result<&Frame, BadFrame<'_>>>, Broken> {
        loop {
            let Some(line) = self.lines.next_line().map_err(Broken::Line)? else {
                return Ok(None);
            };
            self.size += line.len() + 1;
            if self.size > self.limits.request {
                return Err(Broken::Request(self.limits.request));
            }
            if self.state == State::Command {
                self.frame.clear();
                self.frame.set_command(line);
                if line.is_empty() || stands_alone(line, self.alone) {
                    return Ok(Some(self.finish()));
                }
                self.state = State::Headers;
            } else if line.is_empty() {
                return Ok(Some(self.finish()));
            } else if self.bad.is_none() {
                self.bad = read_header(&mut self.frame, line, self.limits.headers).err();
            }
        }
    }

    fn finish(&mut self) -> Result<&Frame, BadFrame<'_>> {
        self.state = State::Command;
        self.size = 0;
        self.frame.drop_empty_headers();
        match self.bad.take() {
            Some(why) => Err(BadFrame {
                command: self.frame.command(),
                why,
            }),
            None => Ok(&self.frame),
        }
    }
}

fn stands_alone(line: &[u8], alone: &[&str]) -> bool {
    let word = line.split(|&b| b == b' ').next().unwrap_or_default();
    alone.iter().any(|a| a.as_bytes() == word)
}

fn read_header(frame: &mut Frame, line: &[u8], limit: usize) -> Result<(), BadRequest> {
    let not_a_header = || BadRequest::NotAHeader(Excerpt(line).to_string());
    if line.iter().any(|byte| matches!(byte, 0 | b'\r')) {
        return Err(BadRequest::ForbiddenByte(Excerpt(line).to_string()));
    }
    if line.starts_with(b" ") || line.starts_with(b"\t") {
        let continued = frame.continue_header(line);
        return if continued {
            Ok(())
        } else {
            Err(not_a_header())
        };
    }
    let colon = line.windows(2).position(|pair| pair == b": ");
    let colon = colon.ok_or_else(not_a_header)?;
    if frame.headers.len() == limit {
        return Err(BadRequest::TooManyHeaders(limit));
    }
    frame.add_header(&line[..colon], &line[colon + 2..]);
    Ok(())
}

/// Whether the SIP message that carried the SDP was a request or a reply to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageKind {
    Request,
    Reply,
}

/// Where the signalling of this message came from and goes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signaling {
    pub source: Option<IpAddr>,
    pub destination: Option<IpAddr>,
    /// Who is to be accounted.
    pub username: Option<Text>,
}

/// `update`: a SIP message with (or, for a 200, without) an SDP passes the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    pub kind: MessageKind,
    pub call_id: CallId,
    pub cseq: CSeq,
    pub from_uri: Text,
    pub to_uri: Text,
    /// Of the request, also where this is the reply to it.
    pub from_tag: Tag,
    /// None until the callee has finally answered.
    pub to_tag: Option<Tag>,
    pub user_agent: Text,
    pub signaling: Signaling,
    /// The SIP proxy's dialog, where it named one.
    pub dialog_id: Option<DialogId>,
    /// What the session is to be called, where this update makes one; from a dispatcher of ours.
    pub session_id: Option<SessionId>,
    /// The m= lines in order; none for a message without SDP.
    pub media: Option<Vec<MediaDescription>>,
}

/// `remove`: the call is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remove {
    pub call_id: CallId,
    pub from_tag: Tag,
    pub to_tag: Option<Tag>,
}

impl Update {
    /// The session that it means.
    pub fn mention(&self) -> Mention<'_> {
        Mention {
            call_id: &self.call_id,
            from_tag: &self.from_tag,
            to_tag: self.to_tag.as_ref(),
        }
    }

    /// What takes back a session that this update has made.
    pub fn removal(&self) -> Remove {
        Remove {
            call_id: self.call_id.clone(),
            from_tag: self.from_tag.clone(),
            to_tag: self.to_tag.clone(),
        }
    }

    /// It is the reply to a request of the one with the from_tag.
    pub fn is_reply(&self) -> bool {
        self.kind == MessageKind::Reply
    }

    /// It has media, so that its success makes a session.
    pub fn has_media(&self) -> bool {
        self.media.is_some()
    }

    /// Reads the headers of an `update`; its command line is not looked at.
    pub fn parse(frame: &Frame) -> Result<Update, BadRequest> {
        let media = frame.header("media").map(media::parse_list).transpose();
        let media = media.map_err(|why| bad("media", &why))?;
        Ok(Update {
            kind: parse_kind(required(frame, "type")?)?,
            call_id: call_id(frame)?,
            cseq: parse_cseq(required(frame, "cseq")?)?,
            from_uri: Text::shortened(required(frame, "from_uri")?),
            to_uri: Text::shortened(required(frame, "to_uri")?),
            from_tag: from_tag(frame)?,
            to_tag: to_tag(frame)?,
            user_agent: Text::shortened(required(frame, "user_agent")?),
            signaling: match frame.header("signaling_ip") {
                Some(value) => parse_signaling(value)?,
                None => Signaling::default(),
            },
            dialog_id: dialog_id(frame)?,
            session_id: frame.header(SESSION_ID).and_then(session_id),
            media,
        })
    }
}

impl Remove {
    /// The session that it means.
    pub fn mention(&self) -> Mention<'_> {
        Mention {
            call_id: &self.call_id,
            from_tag: &self.from_tag,
            to_tag: self.to_tag.as_ref(),
        }
    }

    /// Reads the headers of a `remove`; its command line is not looked at.
    pub fn parse(frame: &Frame) -> Result<Remove, BadRequest> {
        Ok(Remove {
            call_id: call_id(frame)?,
            from_tag: from_tag(frame)?,
            to_tag: to_tag(frame)?,
        })
    }
}

/// The call that a request is about.
pub fn call_id(frame: &Frame) -> Result<CallId, BadRequest> {
    Ok(CallId(id("call_id", required(frame, "call_id")?)?))
}

fn from_tag(frame: &Frame) -> Result<Tag, BadRequest> {
    Ok(Tag(id("from_tag", required(frame, "from_tag")?)?))
}

fn to_tag(frame: &Frame) -> Result<Option<Tag>, BadRequest> {
    let tag = frame.header("to_tag").map(|tag| id("to_tag", tag));
    Ok(tag.transpose()?.map(Tag))
}

/// The SIP proxy's dialog, where it named one.
fn dialog_id(frame: &Frame) -> Result<Option<DialogId>, BadRequest> {
    let dialog = frame.header("dialog_id").map(|text| id("dialog_id", text));
    Ok(dialog.transpose()?.map(DialogId))
}

/// What names something. A line is bounded; a header of folded lines may be longer.
fn id(name: &'static str, value: &[u8]) -> Result<Text, BadRequest> {
    match value.len() {
        0..=MAX_ID => Ok(value.into()),
        length => Err(bad(
            name,
            &format_args!("{length} bytes, at most {MAX_ID} are allowed"),
        )),
    }
}

/// The header by which a dispatcher of ours names a session; docs/protocol.md section 9.
pub const SESSION_ID: &str = "session_id";

/// What is no UUID is no name: the relay finds its own.
fn session_id(value: &[u8]) -> Option<SessionId> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// The relay that the SIP proxy would like for this call.
pub fn preferred_relay(frame: &Frame) -> Result<Option<IpAddr>, BadRequest> {
    let Some(value) = frame.header("media_relay") else {
        return Ok(None);
    };
    let ip = parse_ip(value).ok_or_else(|| not("media_relay", "an IP address", value))?;
    Ok(Some(ip))
}

fn required<'a>(frame: &'a Frame, name: &'static str) -> Result<&'a [u8], BadRequest> {
    frame.header(name).ok_or(BadRequest::MissingHeader(name))
}

fn bad(name: &'static str, why: &dyn fmt::Display) -> BadRequest {
    let why = why.to_string();
    BadRequest::BadHeader { name, why }
}

fn not(name: &'static str, what: &str, value: &[u8]) -> BadRequest {
    bad(name, &format_args!("\"{}\" is not {what}", Excerpt(value)))
}

fn parse_kind(value: &[u8]) -> Result<MessageKind, BadRequest> {
    match value {
        b"request" => Ok(MessageKind::Request),
        b"reply" => Ok(MessageKind::Reply),
        other => Err(not("type", "request or reply", other)),
    }
}

fn parse_cseq(value: &[u8]) -> Result<CSeq, BadRequest> {
    let text = std::str::from_utf8(value).ok();
    let digits = text.filter(|t| t.bytes().all(|b| b.is_ascii_digit()));
    let number = digits.and_then(|t| t.parse().ok());
    number
        .map(CSeq)
        .ok_or_else(|| not("cseq", "a number of 32 bits", value))
}

fn parse_ip(value: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// One address, `source_destination`, or a JSON object with `signaling_ip`, `destination_ip`, `username`.
fn parse_signaling(value: &[u8]) -> Result<Signaling, BadRequest> {
    if value.starts_with(b"{") {
        return parse_signaling_json(value);
    }
    let address =
        |part: &[u8]| parse_ip(part).ok_or_else(|| not("signaling_ip", "an address", part));
    let mut parts = value.splitn(2, |&b| b == b'_');
    let source = parts.next().map(address).transpose()?;
    let destination = parts.next().map(address).transpose()?;
    Ok(Signaling {
        source,
        destination,
        username: None,
    })
}

fn parse_signaling_json(value: &[u8]) -> Result<Signaling, BadRequest> {
    #[derive(serde::Deserialize)]
    #[serde(remote = "Self")]
    struct Object {
        signaling_ip: Option<String>,
        destination_ip: Option<String>,
        username: Option<String>,
    }
    objects_only!(Object);
    let object: Object =
        serde_json::from_slice(value).map_err(|error| bad("signaling_ip", &error))?;
    // As with headers, what the proxy's script has no value for is not there.
    let address = |text: Option<String>| match text.filter(|text| !text.is_empty()) {
        Some(text) => match parse_ip(text.as_bytes()) {
            Some(ip) => Ok(Some(ip)),
            None => Err(not("signaling_ip", "an address", text.as_bytes())),
        },
        None => Ok(None),
    };
    let username = object.username.filter(|name| !name.is_empty());
    Ok(Signaling {
        source: address(object.signaling_ip)?,
        destination: address(object.destination_ip)?,
        username: username.map(|name| Text::shortened(name.as_bytes())),
    })
}
