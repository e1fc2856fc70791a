//! A log that nobody reads: standard error of both daemons is a pipe whose reader has stopped, as behind a container's
//! or a supervisor's log collector that hangs. Calls are set up and media is relayed all the same.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::daemons::{self, Daemons};
use crate::support::ports::PortRange;
use crate::support::proxy::{Media, Message, Proxy};
use crate::support::scratch::Scratch;

/// Each makes more than a line in both logs: together many times what a pipe holds, 64 KiB.
const REQUESTS: usize = 3000;

/// A pipe by this name, which somebody holds open and does not read.
fn stalled(path: &Path) -> File {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap()
}

fn phone() -> UdpSocket {
    let phone = UdpSocket::bind("127.0.0.1:0").unwrap();
    phone
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    phone
}

/// One packet of audio from a phone to the other, by the relay's port.
fn talk(from: &UdpSocket, port: u16, to: &UdpSocket, number: u16) {
    let mut packet = [0; 172];
    packet[..2].copy_from_slice(&[0x80, 8]);
    packet[2..4].copy_from_slice(&number.to_be_bytes());
    from.send_to(&packet, ("127.0.0.1", port)).unwrap();
    let mut buffer = [0; 2048];
    let length = to.recv(&mut buffer).expect("media goes on");
    assert_eq!(buffer[..length], packet);
}

#[test]
fn calls_and_media_go_on_while_nobody_reads_the_logs() {
    let scratch = Scratch::new("mediaproxy-stalled").unwrap();
    let directory = scratch.path();
    daemons::make_certificates(directory).unwrap();
    daemons::write_config(directory, PortRange::find(200).unwrap()).unwrap();
    let logs = ["media-relay", "media-dispatcher"].map(|name| {
        let path = directory.join(format!("{name}.log"));
        stalled(&path)
    });
    let both = Daemons::start(
        Path::new(env!("CARGO_BIN_EXE_media-relay"))
            .parent()
            .unwrap(),
        directory,
    )
    .unwrap();
    let mut proxy = Proxy::connect(&both.control_socket()).unwrap();
    let (caller, callee) = (phone(), phone());
    let ends = [Media::audio_at(&caller), Media::audio_at(&callee)];
    let [caller_port, callee_port] = proxy
        .place("stalled", ends.clone().map(|media| media.address))
        .unwrap();
    talk(&caller, caller_port, &callee, 0);
    talk(&callee, callee_port, &caller, 0);
    for number in 0..REQUESTS {
        let again = Message::offer("stalled", &ends[..1]);
        assert_eq!(proxy.update(&again).unwrap(), [callee_port], "{number}");
        if number % 10 == 0 {
            talk(&caller, caller_port, &callee, number as u16);
            talk(&callee, callee_port, &caller, number as u16);
        }
    }
    proxy.hang_up("stalled").unwrap();
    for log in logs {
        let told = BufReader::new(log)
            .lines()
            .map_while(Result::ok)
            .any(|line| line.contains("[session stalled]"));
        assert!(told, "once there is a reader, it gets what was kept");
    }
    both.stop().unwrap();
}
