//! Attacks by those who have a certificate: relays that say what is not so, and a dispatcher that asks too much.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use mediaproxy::proto::line::Lines;
use mediaproxy::sys::clock;
use mediaproxy::tls::{Context, Reader, Writer, accept, connect};

use super::field::Target;
use super::load::standing;
use super::pace::{Going, Pace};
use super::source;

/// Longest handshake.
const LIMIT: Duration = Duration::from_secs(3);
/// Sessions in a list of them.
const LISTED: usize = 150_000;
/// Ends that nobody asked for: as many a second, in heaps.
const INVENTED: u32 = 20_000;
const HEAP: usize = 100;
/// Bytes of call-ids that are too long, and as many a second.
const HUGE: usize = 1 << 20;
const GIANTS: u32 = 40;
/// Calls of a rogue dispatcher, and the bytes of headers in each. They leave room for others: that a relay is full is no
/// attack.
const CALLS: (usize, usize) = (700, 15_000);
/// Lists that it asks for before it reads any.
const LISTS: usize = 40;

/// One end of a link.
pub struct Peer {
    pub reader: Reader,
    pub writer: Writer,
    lines: Lines,
}

impl Peer {
    /// A relay at this address, certificate and all.
    pub fn relay(target: &Target, from: Ipv4Addr) -> Result<Peer, String> {
        Peer::client(target, target.link, from)
    }

    /// An administrator at this address.
    pub fn administrator(target: &Target, from: Ipv4Addr) -> Result<Peer, String> {
        Peer::client(target, target.management, from)
    }

    fn client(target: &Target, to: SocketAddr, from: Ipv4Addr) -> Result<Peer, String> {
        let (context, _) =
            Context::load(&target.directory.join("tls"), "relay").map_err(|e| e.to_string())?;
        let socket = source::connect(from, to).map_err(|e| e.to_string())?;
        let (reader, writer, _) =
            connect(socket, &context, None, LIMIT).map_err(|e| e.to_string())?;
        Ok(Peer::new(reader, writer))
    }

    fn new(reader: Reader, writer: Writer) -> Peer {
        let _ = reader.set_timeout(Some(LIMIT));
        Peer {
            reader,
            writer,
            lines: Lines::new(64 << 20),
        }
    }

    pub fn say(&mut self, line: &str) -> io::Result<()> {
        self.writer.write_all(format!("{line}\r\n").as_bytes())
    }

    /// The next line; an error at the end and where nothing comes in time.
    pub fn line(&mut self) -> io::Result<String> {
        let mut buffer = [0; 16 * 1024];
        loop {
            match self.lines.next_line() {
                Ok(Some(line)) => return Ok(String::from_utf8_lossy(line).into_owned()),
                Ok(None) => {}
                Err(_) => return Err(ErrorKind::InvalidData.into()),
            }
            match self.reader.read(&mut buffer)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => self.lines.extend(&buffer[..count]),
            }
        }
    }

    /// Says who it is, and lists these sessions when it is asked for them.
    pub fn introduce(&mut self, name: &str, sessions: &str) -> io::Result<()> {
        self.say(&format!(
            "hello {{\"name\": \"{name}\", \"version\": \"test\", \"stored\": true}}"
        ))?;
        loop {
            let line = self.line()?;
            if let Some(sequence) = line.strip_prefix("sessions ") {
                return self.say(&format!("{sequence} {sessions}"));
            }
        }
    }
}

/// What a relay tells of a session that ended; the call is nobody's.
fn ended(call_id: &str, dialog_id: &str) -> String {
    let dialog_id = match dialog_id {
        "" => "null".to_owned(),
        id => format!("\"{id}\""),
    };
    // A minute ago: of what ended long ago no dialog is ended.
    let start = clock::now().unix.as_secs().saturating_sub(60);
    format!(
        "{{\"call_id\":\"{call_id}\",\"from_tag\":\"a\",\"to_tag\":\"b\",\"from_uri\":\"a@example.net\",\"to_uri\":\"b@example.net\",\
         \"start_time\":{start}.0,\"duration\":60,\"caller_ua\":\"x\",\"callee_ua\":\"y\",\"username\":null,\
         \"session_id\":\"{}\",\"dialog_id\":{dialog_id},\"streams\":[{{\"media_type\":\"audio\",\
         \"status\":\"conntrack timeout\",\"timeout_wait\":90,\"caller_codec\":\"G711a\",\"callee_codec\":\"G711a\",\
         \"start_time\":0,\"end_time\":60,\"post_dial_delay\":0.1,\"caller_bytes\":1,\"callee_bytes\":1,\
         \"caller_packets\":1,\"callee_packets\":1,\"caller_local\":\"192.0.2.1:4000\",\"callee_local\":\"192.0.2.1:4002\",\
         \"caller_remote\":\"192.0.2.2:4000\",\"callee_remote\":\"192.0.2.3:4000\"}}]}}",
        uuid(call_id)
    )
}

/// A name of the form that sessions have, of this call-id's characters.
fn uuid(call_id: &str) -> String {
    let sum = call_id
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
            (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        sum >> 32,
        sum >> 16 & 0xffff,
        sum >> 4 & 0xfff,
        sum >> 20 & 0xfff,
        sum & 0xffff_ffff_ffff
    )
}

/// A relay at this address that says lines in heaps, and comes back when it was cut off. `lines` makes the heap of this
/// number.
fn relay(
    target: &Target,
    going: &Going,
    (from, name): (u8, &str),
    per_second: u32,
    lines: impl Fn(usize) -> String,
) -> (usize, usize) {
    let (mut heaps, mut cut) = (0, 0);
    while going.is_on() {
        let peer = Peer::relay(target, Ipv4Addr::new(127, 0, 7, from));
        let Ok(mut peer) = peer else {
            going.pause(Duration::from_millis(200));
            continue;
        };
        let mut link = || -> io::Result<()> {
            peer.introduce(name, "[]")?;
            let mut pace = Pace::new(per_second);
            while pace.next(going) {
                peer.writer.write_all(lines(heaps).as_bytes())?;
                heaps += 1;
            }
            Ok(())
        };
        if link().is_err() {
            cut += 1;
            going.pause(Duration::from_millis(200));
        }
    }
    (heaps, cut)
}

/// A relay that lists far more sessions than it could have.
pub fn long_lists(target: &Target, going: &Going) -> String {
    let mut list = String::with_capacity(LISTED * 50);
    for number in 0..LISTED {
        list.push(if number == 0 { '[' } else { ',' });
        list.push_str(&format!(
            "{{\"call_id\":\"listed-{number}\",\"from_tag\":\"a\"}}"
        ));
    }
    list.push(']');
    let (mut told, mut cut) = (0, 0);
    while going.is_on() {
        let peer = Peer::relay(target, Ipv4Addr::new(127, 0, 7, 1));
        let listed = peer.and_then(|mut peer| {
            peer.introduce("lister", &list).map_err(|e| e.to_string())?;
            told += 1;
            // An answer shows that it was read.
            peer.say("ping").map_err(|e| e.to_string())?;
            peer.line().map_err(|e| e.to_string())
        });
        cut += usize::from(listed.is_err());
        going.pause(Duration::from_millis(500));
    }
    format!("{told} lists of {LISTED} sessions, {cut} cut off")
}

/// A relay that tells of ends of calls that never were.
pub fn invented_ends(target: &Target, going: &Going) -> String {
    let heap = |number: usize| {
        let ids = number * HEAP..(number + 1) * HEAP;
        ids.map(|id| format!("expired {}\r\n", ended(&format!("invented-{id}"), "")))
            .collect()
    };
    let (heaps, cut) = relay(target, going, (2, "inventor"), INVENTED / HEAP as u32, heap);
    format!("{} invented ends, cut off {cut} times", heaps * HEAP)
}

/// A relay whose call-ids are a mebibyte each.
pub fn huge_call_ids(target: &Target, going: &Going) -> String {
    let heap = |number: usize| {
        let call_id = format!("huge-{number}-{}", "x".repeat(HUGE));
        format!("expired {}\r\n", ended(&call_id, ""))
    };
    let (heaps, cut) = relay(target, going, (3, "giant"), GIANTS, heap);
    format!("{heaps} call-ids of {HUGE} bytes, cut off {cut} times")
}

/// A relay that tells of ends of invented calls, with dialogs of calls that go on.
pub fn others_dialogs(target: &Target, going: &Going) -> String {
    let heap = |number: usize| {
        let (call_id, dialog) = standing(number as u64 % 6);
        let invented = ended(&format!("nobody-{number}"), &dialog);
        // And the call itself, which is another relay's.
        let stolen =
            ended(&call_id, &dialog).replace("\"from_tag\":\"a\"", "\"from_tag\":\"from\"");
        let stolen = stolen.replace("\"to_tag\":\"b\"", "\"to_tag\":\"to\"");
        format!("expired {invented}\r\nexpired {stolen}\r\n")
    };
    let (heaps, cut) = relay(target, going, (4, "thief"), 50, heap);
    format!(
        "{} ends with others' dialogs, cut off {cut} times",
        2 * heaps
    )
}

/// A relay that tells of ends in arrays, where an object is meant.
pub fn arrays(target: &Target, going: &Going) -> String {
    let heap = |number: usize| {
        let (call_id, dialog) = standing(number as u64 % 6);
        let uuid = uuid(&call_id);
        format!(
            "expired [\"{call_id}\",\"{uuid}\",\"from\",\"to\",\"{dialog}\"]\r\nexpired [\"array-{number}\",\"{uuid}\",[]]\r\n\
             expired [[],{{}}]\r\n"
        )
    };
    let (heaps, cut) = relay(target, going, (5, "lister"), 50, heap);
    format!("{} ends in arrays, cut off {cut} times", 3 * heaps)
}

/// A dispatcher that fills its relay's memory with headers, asks for lists that it does not read, and takes its time. What
/// it has filled it empties at the end: what is measured then is what the relay gives back.
pub fn dispatcher(target: &Target, going: &Going) -> String {
    let Some(listener) = &target.rogue else {
        return "the relay has no such dispatcher".to_owned();
    };
    let mut rogue = Dispatcher::default();
    let mut links = 0;
    let _ = listener.set_nonblocking(true);
    let mut last = None;
    loop {
        let now = clock::moment();
        if !going.is_on() && (rogue.placed.is_empty() || now > *last.get_or_insert(now + LIMIT)) {
            break;
        }
        let Ok((socket, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        let _ = socket.set_nonblocking(false);
        let context = Context::load(&target.directory.join("tls"), "dispatcher");
        let Ok((reader, writer, _)) = accept(socket, &context.unwrap().0, None, LIMIT) else {
            continue;
        };
        links += 1;
        let mut peer = Peer::new(reader, writer);
        let _ = rogue.talk(&mut peer, going);
        peer.reader.closer().close();
    }
    let (asked, bytes) = (rogue.sequence, CALLS.1);
    let left = rogue.placed.len();
    format!(
        "{asked} requests, calls with {bytes} bytes of headers, over {links} links; {left} calls left"
    )
}

#[derive(Default)]
struct Dispatcher {
    sequence: u64,
    /// Calls that it has and that were not removed.
    placed: Vec<u64>,
}

impl Dispatcher {
    fn talk(&mut self, peer: &mut Peer, going: &Going) -> io::Result<()> {
        if !peer.line()?.starts_with("hello ") {
            return Err(ErrorKind::InvalidData.into());
        }
        peer.say("hello {\"version\": \"test\", \"stored\": true}")?;
        let (calls, bytes) = CALLS;
        let agent = "u".repeat(bytes / 2);
        while going.is_on() {
            self.empty(peer)?;
            let mut pace = Pace::new(1500);
            while self.placed.len() < calls && pace.next(going) {
                let number = self.next();
                // A stream that is off takes no port; the names are what fills.
                peer.say(&format!(
                    "update {number}\r\ntype: request\r\ncall_id: rogue-{number}\r\ncseq: 1\r\nfrom_uri: a@example.net\r\n\
                     to_uri: b@example.net\r\nfrom_tag: from\r\nuser_agent: {agent}\r\ndialog_id: {agent}\r\n\
                     signaling_ip: 127.0.0.1\r\nmedia: audio:127.0.8.1:0:sendrecv:ice=no\r\n"
                ))?;
                self.placed.push(number);
            }
            let mut pace = Pace::new(20);
            for _ in 0..LISTS {
                if !pace.next(going) {
                    break;
                }
                let number = self.next();
                peer.say(&format!("sessions {number}\r\n"))?;
            }
            going.pause(LIMIT);
        }
        self.empty(peer)
    }

    fn next(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// Removes all calls, and reads what is answered to the last one, so that they are gone.
    fn empty(&mut self, peer: &mut Peer) -> io::Result<()> {
        let mut last = None;
        for call in &self.placed {
            self.sequence += 1;
            let number = self.sequence;
            peer.say(&format!(
                "remove {number}\r\ncall_id: rogue-{call}\r\nfrom_tag: from\r\n"
            ))?;
            last = Some(format!("{number} "));
        }
        if let Some(last) = last {
            while !peer.line()?.starts_with(&last) {}
        }
        self.placed.clear();
        Ok(())
    }
}
