//! The text protocols and the packet kinds: nothing panics, input in pieces means what it means whole, and
//! what is written is read back as what it was.

use mediaproxy::proto::control::{
    BadRequest, Broken, Frame, LINK_LIMITS, Limits, PROXY_LIMITS, Remove, Requests, Update,
};
use mediaproxy::proto::demux::{Kind, classify};
use mediaproxy::proto::line::{Lines, TooLong};
use mediaproxy::proto::link::{
    ALONE, Compatibility, FromDispatcher, FromRelay, Hello, OLD_RELAY_LINE, Sequence, UpdateResult,
    write_command,
};
use mediaproxy::proto::media::parse_list;
use mediaproxy::proto::{control, media as media_header};
use mediaproxy::session::address::Range;

use super::visible;

/// So small that a few bytes reach every limit.
const SMALL: Limits = Limits {
    line: 40,
    headers: 3,
    request: 150,
};

/// First byte: which limits. Second: the size of the pieces that arrive. The rest is what arrives.
pub fn proxy_requests(data: &[u8]) {
    let [limits, piece, stream @ ..] = data else {
        return;
    };
    let limits = if limits % 2 == 0 { PROXY_LIMITS } else { SMALL };
    let whole = requests(limits, stream, stream.len());
    assert_eq!(whole, requests(limits, stream, usize::from(*piece)));
}

/// What each request comes to, and what ends the connection.
fn requests(limits: Limits, stream: &[u8], piece: usize) -> (Vec<String>, Option<Broken>) {
    let mut reader = Requests::new(limits, &[]);
    let mut found = Vec::new();
    for piece in stream.chunks(piece.max(1)) {
        reader.extend(piece);
        loop {
            match reader.next_request() {
                Ok(Some(Ok(frame))) => found.push(request(frame)),
                Ok(Some(Err(bad))) => found.push(format!("{:?} {}", bad.command, bad.why)),
                Ok(None) => break,
                Err(broken) => {
                    visible(&broken.to_string());
                    return (found, Some(broken));
                }
            }
        }
    }
    (found, None)
}

/// One request from the proxy: what it means, and that a relay reads the same from the command it becomes.
fn request(frame: &Frame) -> String {
    for (name, value) in frame.headers() {
        assert!(!value.is_empty(), "an empty header is absent");
        assert!(![name, value].concat().contains(&b'\n'));
    }
    let update = Update::parse(frame);
    let remove = Remove::parse(frame);
    let preferred = control::preferred_relay(frame);
    for error in [update.as_ref().err(), remove.as_ref().err()] {
        visible(&error.map(BadRequest::to_string).unwrap_or_default());
    }
    let same = passed_on(frame, Compatibility::Ours, |again| {
        assert_eq!(Update::parse(again), update);
        assert_eq!(Remove::parse(again), remove);
        assert!(again.headers().eq(frame.headers()));
    });
    let older = passed_on(frame, Compatibility::Older, |again| {
        let is_text = |text: &[u8]| std::str::from_utf8(text).is_ok();
        assert!(again.headers().all(|(n, v)| is_text(n) && is_text(v)));
    });
    assert_eq!(same, older);
    format!("{frame:?} {update:?} {remove:?} {preferred:?}")
}

/// Writes a request as the command for a relay and reads it as the relay does. False where it is too long.
fn passed_on(frame: &Frame, compatibility: Compatibility, check: impl Fn(&Frame)) -> bool {
    if !matches!(frame.command(), b"update" | b"remove") {
        return true;
    }
    let mut out = b"before".to_vec();
    if !write_command(&mut out, frame, Sequence(u64::MAX), compatibility, None) {
        assert_eq!(out, b"before");
        return false;
    }
    let written = &out[b"before".len()..];
    assert!(
        written
            .split(|&b| b == b'\n')
            .all(|line| line.len() <= OLD_RELAY_LINE + 1)
    );
    let mut reader = Requests::new(LINK_LIMITS, ALONE);
    reader.extend(written);
    match reader.next_request() {
        Ok(Some(Ok(again))) => check(again),
        other => panic!("a relay reads {other:?}"),
    }
    assert!(matches!(reader.next_request(), Ok(None)));
    true
}

/// What a relay reads. First byte: the size of the pieces.
pub fn from_dispatcher(data: &[u8]) {
    let [piece, stream @ ..] = data else {
        return;
    };
    let read = |piece: usize| {
        let mut reader = Requests::new(LINK_LIMITS, ALONE);
        let mut found = Vec::new();
        for piece in stream.chunks(piece.max(1)) {
            reader.extend(piece);
            while let Ok(Some(incoming)) = reader.next_request() {
                found.push(FromDispatcher::parse(incoming));
            }
        }
        found
    };
    let whole = read(stream.len());
    for message in &whole {
        match message {
            FromDispatcher::Unknown(line) => visible(line),
            FromDispatcher::Command(_, Err(why)) => visible(&why.to_string()),
            FromDispatcher::Hello(hello) => hello_again(hello),
            _ => {}
        }
    }
    assert_eq!(whole, read(usize::from(*piece)));
}

/// What a dispatcher reads. First byte: the size of the pieces.
pub fn from_relay(data: &[u8]) {
    let [piece, stream @ ..] = data else {
        return;
    };
    let whole = lines(stream, stream.len());
    assert_eq!(whole, lines(stream, usize::from(*piece)));
    for line in &whole.0 {
        match FromRelay::parse(line) {
            FromRelay::Hello(json) => {
                if let Ok(hello) = serde_json::from_slice::<Hello>(json) {
                    hello_again(&hello);
                }
            }
            FromRelay::Reply(_, result) => {
                if let UpdateResult::Ports(ports) = UpdateResult::parse(result) {
                    assert_eq!(ports.as_bytes(), result);
                }
            }
            FromRelay::Ping
            | FromRelay::Leaving(_)
            | FromRelay::Expired(_)
            | FromRelay::Removed(_)
            | FromRelay::Unknown(_) => {}
        }
    }
}

fn lines(stream: &[u8], piece: usize) -> (Vec<Vec<u8>>, Option<TooLong>) {
    let mut reader = Lines::new(200);
    let mut found = Vec::new();
    for piece in stream.chunks(piece.max(1)) {
        reader.extend(piece);
        loop {
            match reader.next_line() {
                Ok(Some(line)) => found.push(line.to_vec()),
                Ok(None) => break,
                Err(too_long) => return (found, Some(too_long)),
            }
        }
    }
    (found, None)
}

fn hello_again(hello: &Hello) {
    let json = serde_json::to_vec(hello).expect("a hello can be written");
    assert!(!json.contains(&b'\n'), "a hello is one line");
    assert_eq!(
        serde_json::from_slice::<Hello>(&json).ok().as_ref(),
        Some(hello)
    );
}

/// The `media` header.
pub fn media(data: &[u8]) {
    match parse_list(data) {
        Ok(list) => {
            assert_eq!(list.len(), data.split(|&b| b == b',').count());
            for media_header::MediaDescription { media_type, .. } in &list {
                let name = media_type.as_str();
                assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic()));
            }
        }
        Err(why) => visible(&why.to_string()),
    }
}

/// A datagram.
pub fn demux(data: &[u8]) {
    let kind = classify(data);
    let header = match kind {
        Kind::Stun => 20,
        Kind::Rtp(rtp) => {
            assert!(rtp.payload_type < 128);
            12
        }
        Kind::Dtls => 13,
        Kind::Rtcp => 8,
        Kind::Other => 0,
    };
    assert!(data.len() >= header, "{kind:?} in {} bytes", data.len());
}

/// `routable_private_ranges`, one range.
pub fn ranges(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(range) = text.parse::<Range>() {
        assert_eq!(range.to_string().parse::<Range>().ok(), Some(range));
    }
}
