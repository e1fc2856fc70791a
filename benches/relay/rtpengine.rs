//! The peer: Debian's rtpengine in user space, spoken to as SIP proxies do, in the ng protocol: a cookie and a
//! bencoded dictionary in each datagram.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::support::daemons::signal;
use crate::support::ports::PortRange;

const PATIENCE: Duration = Duration::from_secs(10);

/// A running rtpengine; ended when dropped.
pub struct Rtpengine {
    child: Child,
    control: SocketAddrV4,
}

impl Rtpengine {
    /// Starts it on loopback; its log goes to a file, as ours does.
    pub fn start(directory: &Path, ports: PortRange) -> Result<Rtpengine, String> {
        let told = |error: std::io::Error| format!("rtpengine: {error}");
        let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
        let control = SocketAddrV4::new(Ipv4Addr::LOCALHOST, free.map_err(told)?.port());
        let log = File::create(directory.join("rtpengine.log")).map_err(told)?;
        let copy = log.try_clone().map_err(told)?;
        let child = Command::new("rtpengine")
            // No kernel module; a deleted call frees its ports at once, as ours does.
            .args([
                "--table=-1",
                "--foreground",
                "--log-stderr",
                "--delete-delay=0",
            ])
            .args(["--interface=127.0.0.1", &format!("--listen-ng={control}")])
            .arg(format!("--port-min={}", ports.start))
            .arg(format!("--port-max={}", ports.end - 1))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(copy)
            .spawn()
            .map_err(|error| format!("rtpengine (Debian: rtpengine-daemon): {error}"))?;
        let engine = Rtpengine { child, control };
        let mut client = engine.client()?;
        let mut waited = Duration::ZERO;
        let step = Duration::from_millis(50);
        while client.ask("d7:command4:pinge").is_err() {
            waited += step;
            if waited > PATIENCE {
                return Err("rtpengine does not answer".to_owned());
            }
            thread::sleep(step);
        }
        Ok(engine)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// One process of a SIP proxy.
    pub fn client(&self) -> Result<Client, String> {
        let told = |error: std::io::Error| format!("rtpengine: {error}");
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(told)?;
        socket.connect(self.control).map_err(told)?;
        socket
            .set_read_timeout(Some(Duration::from_secs(2)))
            .map_err(told)?;
        let port = socket.local_addr().map_err(told)?.port();
        Ok(Client {
            socket,
            name: port,
            number: 0,
            buffer: vec![0; 65536],
        })
    }
}

impl Drop for Rtpengine {
    fn drop(&mut self) {
        let _ = signal(self.child.id(), "TERM");
        for _ in 0..100 {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client that waits for each answer.
pub struct Client {
    socket: UdpSocket,
    /// Two clients with the same cookie would get each other's answers.
    name: u16,
    number: u64,
    buffer: Vec<u8>,
}

impl Client {
    /// The answer, a dictionary in bencode, without its cookie. `result` must not be `error`.
    fn ask(&mut self, request: &str) -> Result<String, String> {
        self.number += 1;
        let cookie = format!("{}_{} ", self.name, self.number);
        let message = format!("{cookie}{request}");
        self.socket
            .send(message.as_bytes())
            .map_err(|error| format!("rtpengine: {error}"))?;
        loop {
            let length = self
                .socket
                .recv(&mut self.buffer)
                .map_err(|error| format!("rtpengine: {error}"))?;
            let answer = String::from_utf8_lossy(&self.buffer[..length]);
            // An answer that came too late belongs to an earlier cookie.
            if let Some(answer) = answer.strip_prefix(&cookie) {
                if answer.contains("6:result5:error") {
                    return Err(format!("rtpengine: {answer}"));
                }
                return Ok(answer.to_owned());
            }
        }
    }

    /// The port for the callee.
    pub fn offer(&mut self, call_id: &str, caller: SocketAddrV4) -> Result<u16, String> {
        self.describe("offer", call_id, caller)
    }

    /// The port for the caller.
    pub fn answer(&mut self, call_id: &str, callee: SocketAddrV4) -> Result<u16, String> {
        self.describe("answer", call_id, callee)
    }

    pub fn delete(&mut self, call_id: &str) -> Result<(), String> {
        let request = dictionary(&[
            ("call-id", text(call_id)),
            ("command", text("delete")),
            ("from-tag", text("caller")),
        ]);
        self.ask(&request).map(drop)
    }

    fn describe(
        &mut self,
        command: &str,
        call_id: &str,
        address: SocketAddrV4,
    ) -> Result<u16, String> {
        let replace = format!("l{}{}e", text("origin"), text("session-connection"));
        let mut entries = vec![
            ("ICE", text("remove")),
            ("call-id", text(call_id)),
            ("command", text(command)),
            ("from-tag", text("caller")),
            ("replace", replace),
            ("sdp", text(&sdp(address))),
        ];
        if command == "answer" {
            entries.push(("to-tag", text("callee")));
        }
        let answer = self.ask(&dictionary(&entries))?;
        let port = answer.split("m=audio ").nth(1);
        let port = port.and_then(|rest| rest.split(' ').next()?.parse().ok());
        port.ok_or_else(|| format!("rtpengine: no port in {answer}"))
    }
}

/// What a desk phone sends.
fn sdp(address: SocketAddrV4) -> String {
    let (ip, port) = (address.ip(), address.port());
    format!(
        "v=0\r\no=phone 3751 3751 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\n\
         m=audio {port} RTP/AVP 8 0 101\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\n\
         a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\na=ptime:20\r\na=sendrecv\r\n"
    )
}

fn text(value: &str) -> String {
    format!("{}:{value}", value.len())
}

/// Keys in order, as bencode wants them.
fn dictionary(entries: &[(&str, String)]) -> String {
    let mut out = "d".to_owned();
    for (key, value) in entries {
        out.push_str(&text(key));
        out.push_str(value);
    }
    out.push('e');
    out
}
