//! A host with both daemons on loopback and `media-admin`, and a call that talks.

use std::net::{SocketAddrV4, UdpSocket};
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use mediaproxy::sys::datagram::undisturbed;

use super::daemons::{Daemons, make_certificates, write_config};
use super::ports::PortRange;
use super::proxy::{Media, Proxy};
use super::scratch::Scratch;

/// Longer than anything here takes; only a failing test waits for it.
pub const LONG: Duration = Duration::from_secs(30);
pub const STEP: Duration = Duration::from_millis(50);

pub const ADMIN: &str = env!("CARGO_BIN_EXE_media-admin");

pub fn binaries() -> &'static Path {
    Path::new(ADMIN).parent().unwrap()
}

/// Both daemons in a scratch directory.
pub struct Site {
    pub scratch: Scratch,
    pub daemons: Option<Daemons>,
}

impl Site {
    pub fn new(name: &str) -> Site {
        Site::with(name, |config| config)
    }

    /// With another configuration than the usual one.
    pub fn with(name: &str, change: impl FnOnce(String) -> String) -> Site {
        let scratch = Scratch::new(name).unwrap();
        make_certificates(scratch.path()).unwrap();
        write_config(scratch.path(), PortRange::find(200).unwrap()).unwrap();
        let path = scratch.path().join("config.ini");
        let config = change(std::fs::read_to_string(&path).unwrap());
        std::fs::write(&path, config).unwrap();
        let daemons = Some(Daemons::start(binaries(), scratch.path()).unwrap());
        Site { scratch, daemons }
    }

    pub fn daemons(&self) -> &Daemons {
        self.daemons.as_ref().unwrap()
    }

    pub fn admin(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(ADMIN);
        command
            .arg("--socket")
            .arg(self.daemons().management_socket());
        command.args(arguments).output().unwrap()
    }

    /// What it prints where it ends well.
    pub fn prints(&self, arguments: &[&str]) -> String {
        let output = self.admin(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Prints it again and again until it has this.
    pub fn prints_at_last(&self, arguments: &[&str], part: &str) -> String {
        let mut waited = Duration::ZERO;
        loop {
            let text = self.prints(arguments);
            if text.contains(part) {
                return text;
            }
            assert!(waited < LONG, "never {part:?}: {text}");
            thread::sleep(STEP);
            waited += STEP;
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let ended = self.daemons.take().map(Daemons::stop);
        if !thread::panicking() {
            ended.unwrap_or(Ok(())).unwrap();
        }
    }
}

/// An answered call in which only the caller has spoken.
pub struct Call {
    pub phones: [UdpSocket; 2],
    /// Where each phone sends to.
    pub relay: [SocketAddrV4; 2],
}

pub fn phone() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket
}

impl Call {
    pub fn place(site: &Site, call_id: &str) -> Result<Call, String> {
        let mut proxy = Proxy::connect(&site.daemons().control_socket()).unwrap();
        let phones = [phone(), phone()];
        let ends = [&phones[0], &phones[1]].map(|phone| Media::audio_at(phone).address);
        let ports = proxy.place(call_id, ends)?;
        Ok(Call {
            phones,
            relay: ports.map(|port| SocketAddrV4::new([127, 0, 0, 1].into(), port)),
        })
    }

    /// So many packets from one to the other, each seen to arrive.
    pub fn speak(&self, from: usize, count: usize) {
        let mut packet = [0; 172];
        packet[..2].copy_from_slice(&[0x80, 8]);
        for _ in 0..count {
            self.phones[from]
                .send_to(&packet, self.relay[from])
                .unwrap();
            assert_eq!(
                undisturbed(|| self.phones[1 - from].recv(&mut [0; 200])).unwrap(),
                172
            );
        }
    }
}
