//! What a SIP proxy does for a call: asks the dispatcher over the UNIX socket, one request at a time.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// One worker process of a SIP proxy: a connection on which it waits for each answer.
pub struct Proxy {
    stream: BufReader<UnixStream>,
}

impl Proxy {
    pub fn connect(socket: &Path) -> io::Result<Proxy> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Proxy {
            stream: BufReader::new(stream),
        })
    }

    /// Sends a request as it stands, and gives the line that answers it.
    pub fn ask(&mut self, request: &str) -> io::Result<String> {
        self.ask_bytes(request.as_bytes())
    }

    /// The same with a request that is not all UTF-8.
    pub fn ask_bytes(&mut self, request: &[u8]) -> io::Result<String> {
        self.stream.get_mut().write_all(request)?;
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    /// The relay's ports for the receiver of an SDP; the answer as it came where it is none of that kind.
    pub fn update(&mut self, message: &Message<'_>) -> Result<Vec<u16>, String> {
        let answer = self.ask(&message.update()).map_err(|e| e.to_string())?;
        let mut words = answer.split_ascii_whitespace().skip(1);
        let ports: Result<Vec<u16>, _> = words.by_ref().map(str::parse).collect();
        match ports {
            Ok(ports) if ports.len() == message.media.len() => Ok(ports),
            _ => Err(format!("update of {}: {answer}", message.call_id)),
        }
    }

    /// A call of one audio stream, offered and answered; the relay's ports for caller and callee to send to.
    pub fn place(&mut self, call_id: &str, ends: [SocketAddrV4; 2]) -> Result<[u16; 2], String> {
        let [caller, callee] = ends.map(|end| [Media::audio(end)]);
        let for_callee = self.update(&Message::offer(call_id, &caller))?;
        let for_caller = self.update(&Message::answer(call_id, &callee))?;
        match (&for_caller[..], &for_callee[..]) {
            ([for_caller], [for_callee]) => Ok([*for_caller, *for_callee]),
            _ => Err(format!("{call_id}: not one port each")),
        }
    }

    /// Ends a call that was answered.
    pub fn hang_up(&mut self, call_id: &str) -> Result<(), String> {
        self.remove(&Message::answer(call_id, &[]))
    }

    /// Ends a call.
    pub fn remove(&mut self, message: &Message<'_>) -> Result<(), String> {
        let answer = self.ask(&message.remove()).map_err(|e| e.to_string())?;
        match answer.as_str() {
            "removed" => Ok(()),
            other => Err(format!("remove of {}: {other}", message.call_id)),
        }
    }
}

/// An m= line.
#[derive(Clone, Debug)]
pub struct Media {
    pub kind: &'static str,
    pub address: SocketAddrV4,
    pub direction: &'static str,
}

impl Media {
    pub const fn audio(address: SocketAddrV4) -> Media {
        Media {
            kind: "audio",
            address,
            direction: "sendrecv",
        }
    }

    /// Audio to this socket.
    pub fn audio_at(phone: &UdpSocket) -> Media {
        match phone.local_addr() {
            Ok(SocketAddr::V4(address)) => Media::audio(address),
            other => panic!("no IPv4 address: {other:?}"),
        }
    }
}

/// What a proxy knows of a SIP message that carries an SDP.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    /// `request` or `reply`.
    pub kind: &'static str,
    pub call_id: &'a str,
    pub cseq: u32,
    /// URIs and tags of the request, also in a reply to it.
    pub from: (&'a str, &'a str),
    /// The tag is empty until the callee has answered.
    pub to: (&'a str, &'a str),
    pub user_agent: &'a str,
    pub media: &'a [Media],
}

impl<'a> Message<'a> {
    /// Alice's INVITE to Bob.
    pub const fn offer(call_id: &'a str, media: &'a [Media]) -> Message<'a> {
        Message {
            kind: "request",
            call_id,
            cseq: 1,
            from: ("alice@example.com", "from"),
            to: ("bob@example.com", ""),
            user_agent: "phone",
            media,
        }
    }

    /// Bob's 200 to it.
    pub const fn answer(call_id: &'a str, media: &'a [Media]) -> Message<'a> {
        Message {
            kind: "reply",
            to: ("bob@example.com", "to"),
            user_agent: "other phone",
            ..Message::offer(call_id, media)
        }
    }
}

impl Message<'_> {
    /// The request `update`, worded as the SIP proxies' module does.
    pub fn update(&self) -> String {
        let items: Vec<String> = self.media.iter().map(item).collect();
        let mut text = String::with_capacity(512);
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "update\r\ntype: {}\r\ndialog_id: \r\ncall_id: {}\r\ncseq: {}\r\nfrom_uri: {}\r\nto_uri: {}\r\n\
             from_tag: {}\r\nto_tag: {}\r\nuser_agent: {}\r\nsignaling_ip: 127.0.0.1\r\nmedia_relay: \r\n\
             media: {}\r\n\r\n",
            self.kind,
            self.call_id,
            self.cseq,
            self.from.0,
            self.to.0,
            self.from.1,
            self.to.1,
            self.user_agent,
            items.join(",")
        );
        text
    }

    /// The request `remove`.
    pub fn remove(&self) -> String {
        format!(
            "remove\r\ncall_id: {}\r\nfrom_tag: {}\r\nto_tag: {}\r\n\r\n",
            self.call_id, self.from.1, self.to.1
        )
    }
}

fn item(media: &Media) -> String {
    let (ip, port) = (media.address.ip(), media.address.port());
    let (kind, direction) = (media.kind, media.direction);
    format!("{kind}:{ip}:{port}:{direction}:ice=no")
}
