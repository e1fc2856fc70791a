//! Whoever reaches a socket or a port of the dispatcher makes it log, as fast as it can: the log has a bounded number of
//! short lines, the number of those left out, and all that it has to tell of a call.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use mediaproxy::sys::clock;

use super::trial;
use crate::support::daemons::{self, Daemons};
use crate::support::ports::PortRange;
use crate::support::proxy::{Media, Proxy};
use crate::support::scratch::Scratch;

/// Connections or requests of each kind.
const FLOOD: usize = 1000;

/// Lines that one place in the program may write at once, and in a second after that (`src/logging/limit.rs`).
const BURST: usize = 100;
const RATE: usize = 10;

/// Requests that cannot be read, in one connection.
fn bad_requests(socket: &Path) {
    let mut proxy = Proxy::connect(socket).unwrap();
    let call_id = "x".repeat(8000);
    for _ in 0..FLOOD {
        let answer = proxy.ask(&format!("update\r\ncall_id: {call_id}\r\n\r\n"));
        assert_eq!(answer.unwrap(), "error");
    }
}

/// Connections that break a limit, each.
fn long_lines(socket: &Path, line: usize) {
    let line = vec![b'x'; line + 2];
    for _ in 0..FLOOD {
        let mut stream = UnixStream::connect(socket).unwrap();
        // It may be closed before all of it is written.
        let _ = stream.write_all(&line);
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

/// Connections that are no TLS.
fn no_handshakes(port: u16) {
    for _ in 0..FLOOD {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let _ = stream.write_all(&[b'x'; 100]);
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

fn port(log: &str, after: &str) -> u16 {
    let (_, rest) = log.split_once(after).unwrap();
    let address = rest.split([',', '\n']).next().unwrap();
    address.rsplit(':').next().unwrap().parse().unwrap()
}

#[test]
fn a_flood_of_every_port_and_socket_leaves_a_short_log_that_has_every_call() {
    let _turn = trial::turn();
    let scratch = Scratch::new("mediaproxy-flood").unwrap();
    let directory = scratch.path();
    daemons::make_certificates(directory).unwrap();
    daemons::write_config(directory, PortRange::find(200).unwrap()).unwrap();
    let binaries = Path::new(env!("CARGO_BIN_EXE_media-relay"));
    let both = Daemons::start(binaries.parent().unwrap(), directory).unwrap();
    let file = directory.join("media-dispatcher.log");
    let log = || fs::read_to_string(&file).unwrap();
    let before = log();
    let began = clock::moment();
    bad_requests(&both.control_socket());
    long_lines(&both.control_socket(), 8 * 1024);
    long_lines(&both.management_socket(), 64 * 1024);
    no_handshakes(port(&before, "relays at "));
    // What an operator looks for comes all the same.
    let mut proxy = Proxy::connect(&both.control_socket()).unwrap();
    let ends = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    let ends = ends.each_ref().map(|end| Media::audio_at(end).address);
    for number in 0..2 * BURST {
        let call_id = format!("honest-{number}");
        proxy.place(&call_id, ends).unwrap();
        proxy.hang_up(&call_id).unwrap();
    }
    let told = "more lines like the next one were left out in ";
    while !log().contains(told) {
        assert!(
            clock::moment() < began + Duration::from_secs(120),
            "{}",
            log()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    let took = (clock::moment() - began).as_secs() as usize + 1;
    both.stop().unwrap();
    let log = log();
    for number in 0..2 * BURST {
        let lines = log.lines();
        let ends = format!("[session honest-{number}] ");
        let count = lines.filter(|line| line.contains(&ends)).count();
        assert!(count >= 3, "offer, answer and end of {number}: {count}");
    }
    let noise: Vec<&str> = log
        .lines()
        .filter(|line| !line.contains("[session honest-"))
        .collect();
    // Four kinds, the usual lines of start and end, and numbers.
    let most = 4 * (BURST + RATE * took) + 60;
    println!("{} lines of {}, in {took} s", noise.len(), 4 * FLOOD);
    assert!(noise.len() < most, "{} lines, {most} at most", noise.len());
    let longest = noise.iter().map(|line| line.len()).max().unwrap();
    assert!(longest < 600, "{longest} bytes");
    let cut = format!("[session {}... (8000 bytes)] ", "x".repeat(200));
    assert!(log.contains(&cut), "{}", noise[noise.len() / 2]);
}
