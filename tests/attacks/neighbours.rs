//! Attacks by processes of the same host: on the SIP proxy's socket, the administrator's, and the one on which OpenSIPS
//! answers. And a log that nobody reads.

use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Duration;

use mediaproxy::sys::clock;

use super::field::{Target, is_passing};
use super::pace::{Going, Pace};
use crate::support::proxy::Proxy;

/// Connections that stop in the middle of a request.
const HALVES: usize = 900;
/// Requests of which no answer is read, and on how many connections.
const UNREAD: (usize, usize) = (10_000, 4);
/// A second, of calls that nobody knows.
const REMOVALS: u32 = 20_000;
/// Removals that are sent before their answers are read.
const HEAP: usize = 50;
/// Administrators that never read, and how much each asks.
const DEAF: (usize, usize) = (8, 2000);
/// A second, of answers that nobody asked for.
const LIES: u32 = 2000;
/// Calls that ring at the same time, at most; more than the relay has ports for.
const RINGING: usize = 800;
/// For how long they ring.
const RINGS: Duration = Duration::from_secs(8);
/// How long no log is read at a time, and how long it is then.
const STALLED: Duration = Duration::from_secs(3);
const READ: Duration = Duration::from_secs(2);

fn silent(socket: &std::path::Path) -> Option<UnixStream> {
    let stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    stream
        .set_write_timeout(Some(Duration::from_millis(200)))
        .ok()?;
    Some(stream)
}

/// Half a request on each of many connections, and nothing more.
pub fn half_requests(target: &Target, going: &Going) -> String {
    let mut held = Vec::new();
    let mut pace = Pace::new(600);
    while held.len() < HALVES && pace.next(going) {
        let Some(mut stream) = silent(&target.control) else {
            continue;
        };
        let half = "update\r\ntype: request\r\ncall_id: half-of-a-request\r\nfrom_ta";
        if stream.write_all(half.as_bytes()).is_ok() {
            held.push(stream);
        }
    }
    while going.pause(Duration::from_secs(1)) {}
    format!("{} half requests", held.len())
}

/// Many requests on each connection, whose answers are not read.
pub fn unread_answers(target: &Target, going: &Going) -> String {
    let (requests, connections) = UNREAD;
    let mut held = Vec::new();
    let mut written = 0;
    for connection in 0..connections {
        let Some(mut stream) = silent(&target.control) else {
            continue;
        };
        let mut heap = String::new();
        for number in 0..requests / connections {
            heap.push_str(&format!(
                "remove\r\ncall_id: unread-{connection}-{number}\r\nfrom_tag: a\r\nto_tag: b\r\n\r\n"
            ));
        }
        let mut rest = heap.as_bytes();
        while !rest.is_empty() && going.is_on() {
            match stream.write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if is_passing(error.kind()) => break,
                Err(_) => break,
            }
        }
        written += heap.len() - rest.len();
        held.push(stream);
    }
    while going.pause(Duration::from_secs(1)) {}
    format!("{written} bytes of requests, no answer read")
}

/// Removals of calls that nobody knows, as fast as they are answered up to a limit.
pub fn unknown_removals(target: &Target, going: &Going) -> String {
    let Ok(mut proxy) = UnixStream::connect(&target.control) else {
        return "no connection".to_owned();
    };
    let _ = proxy.set_read_timeout(Some(Duration::from_secs(5)));
    let mut pace = Pace::new(REMOVALS / HEAP as u32);
    let mut done = 0;
    while pace.next(going) {
        let mut heap = String::new();
        for number in done..done + HEAP {
            heap.push_str(&format!(
                "remove\r\ncall_id: unknown-{number}\r\nfrom_tag: a\r\nto_tag: b\r\n\r\n"
            ));
        }
        let mut answers = [0; HEAP * "error\r\n".len()];
        if proxy.write_all(heap.as_bytes()).is_err() || proxy.read_exact(&mut answers).is_err() {
            break;
        }
        done += HEAP;
    }
    format!("{done} removals of unknown calls")
}

/// Administrators that ask for all sessions again and again, and never read.
pub fn deaf_administrators(target: &Target, going: &Going) -> String {
    let (clients, questions) = DEAF;
    let mut held = Vec::new();
    for _ in 0..clients {
        let Some(mut stream) = silent(&target.management_socket) else {
            continue;
        };
        let _ = stream.write_all("sessions\r\n".repeat(questions).as_bytes());
        held.push(stream);
    }
    while going.pause(Duration::from_secs(1)) {}
    format!("{} administrators that read nothing", held.len())
}

/// Somebody answers for OpenSIPS, without having been asked.
pub fn lies(target: &Target, going: &Going) -> String {
    let Ok(socket) = UnixDatagram::unbound() else {
        return "no socket".to_owned();
    };
    let _ = socket.set_nonblocking(true);
    let (mut pace, mut sent, mut number) = (Pace::new(LIES), 0, 0u64);
    while pace.next(going) {
        number += 1;
        let lie = match number % 4 {
            0 => "{}".to_owned(),
            1 => r#"{"jsonrpc":"2.0","result":"OK"}"#.to_owned(),
            2 => format!(
                r#"{{"jsonrpc":"2.0","id":{},"result":"OK"}}"#,
                number / 4 % 50
            ),
            // As text from this user it would be believed: he could be the proxy.
            _ => format!(
                r#"{{"jsonrpc":"2.0","id":"{}","result":"OK"}}"#,
                number / 4 % 50
            ),
        };
        sent += u64::from(socket.send_to(lie.as_bytes(), &target.answers).is_ok());
    }
    format!("{sent} of {number} lies")
}

/// Nobody reads what the daemons write to standard error, but for a moment now and then.
pub fn stalled_logs(target: &Target, going: &Going) -> String {
    let mut times = 0;
    while going.is_on() {
        times += 1;
        for (is_stalled, length) in [(true, STALLED), (false, READ)] {
            for log in &target.logs {
                log.stall(is_stalled);
            }
            going.pause(length);
        }
    }
    format!(
        "both logs unread {times} times, for {} s each",
        STALLED.as_secs()
    )
}

/// One who calls and whom nobody answers, until the relay has no port left; who gives up and begins anew.
pub fn ringing(target: &Target, going: &Going) -> String {
    let Ok(mut proxy) = Proxy::connect(&target.control) else {
        return "no connection".to_owned();
    };
    let (mut rang, mut refused) = (0, 0);
    while going.is_on() {
        let mut rings = Vec::new();
        let end = clock::moment() + RINGS;
        let mut pace = Pace::new(400);
        while rings.len() < RINGING && clock::moment() < end && pace.next(going) {
            let number = rang + refused;
            let request = format!(
                "update\r\ntype: request\r\ndialog_id: \r\ncall_id: ringing-{number}\r\ncseq: 1\r\nfrom_uri: mallory@example.net\r\n\
                 to_uri: bob@example.com\r\nfrom_tag: from\r\nto_tag: \r\nuser_agent: dialler\r\nsignaling_ip: 203.0.113.9\r\n\
                 media_relay: 127.0.0.1\r\nmedia: audio:127.0.6.6:4000:sendrecv:ice=no\r\n\r\n"
            );
            match proxy.ask(&request).as_deref() {
                Ok("error") => refused += 1,
                Ok(_) => {
                    rings.push(number);
                    rang += 1;
                }
                Err(error) => return format!("no answer: {error}"),
            }
        }
        going.pause(end.since(clock::moment()));
        for number in &rings {
            let request = format!(
                "remove\r\ncall_id: ringing-{number}\r\nfrom_tag: from\r\nto_tag: \r\n\r\n"
            );
            if let Err(error) = proxy.ask(&request) {
                return format!("no answer: {error}");
            }
        }
    }
    format!("{rang} calls rang, {refused} were refused")
}
