//! Both daemons with their metrics ports, and calls through them, for the tests of metrics.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use mediaproxy::sys::datagram::undisturbed;

use super::daemons::{self, Daemons};
use super::ports::{PortRange, free_tcp_port};
use super::proxy::{Media, Message, Proxy};
use super::scrape::{LONG, scrape_until};
use super::scratch::Scratch;

/// Ports for the relay.
const PORTS: u16 = 200;

/// Bytes of a packet on the wire: IP, UDP, RTP, 20 ms of G.711.
pub const ON_WIRE: u64 = 28 + 172;

/// Both at work.
pub struct Watched {
    pub daemons: Option<Daemons>,
    pub dispatcher: SocketAddr,
    pub relay: SocketAddr,
    pub scratch: Scratch,
}

impl Watched {
    /// With these lines more in the configuration.
    pub fn start(name: &str, more: &str) -> Watched {
        let scratch = Scratch::new(&format!("mediaproxy-{name}")).unwrap();
        let directory = scratch.path();
        daemons::make_certificates(directory).unwrap();
        daemons::write_config(directory, PortRange::find(PORTS).unwrap()).unwrap();
        let port = || SocketAddr::from((Ipv4Addr::LOCALHOST, free_tcp_port().unwrap()));
        let (dispatcher, relay) = (port(), port());
        let lines = format!(
            "[Dispatcher]\nlisten_metrics = {dispatcher}\n[Relay]\nlisten_metrics = {relay}\n{more}"
        );
        daemons::extend_config(directory, &lines).unwrap();
        let binaries = Path::new(env!("CARGO_BIN_EXE_media-relay"))
            .parent()
            .unwrap();
        let daemons = Some(Daemons::start(binaries, directory).unwrap());
        let watched = Watched {
            daemons,
            dispatcher,
            relay,
            scratch,
        };
        scrape_until(watched.dispatcher, "a relay for new calls", |scrape| {
            scrape.value("mediaproxy_dispatcher_relays{state=\"active\"}") == 1.0
        });
        watched
    }

    pub fn daemons(&mut self) -> &mut Daemons {
        self.daemons.as_mut().unwrap()
    }

    pub fn proxy(&self) -> Proxy {
        Proxy::connect(&self.daemons.as_ref().unwrap().control_socket()).unwrap()
    }

    /// Both end as asked.
    pub fn stop(mut self) {
        self.daemons.take().unwrap().stop().unwrap();
    }
}

/// One call with one audio stream, both parties on sockets of their own.
pub struct Call {
    pub id: String,
    pub caller: UdpSocket,
    pub callee: UdpSocket,
    /// Where each sends.
    pub ports: [u16; 2],
}

fn phone() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket
}

impl Call {
    /// Offered and not answered.
    pub fn offer(proxy: &mut Proxy, id: &str) -> Call {
        let (caller, callee) = (phone(), phone());
        let ports = proxy
            .update(&Message::offer(id, &[Media::audio_at(&caller)]))
            .unwrap();
        Call {
            id: id.to_owned(),
            caller,
            callee,
            ports: [0, ports[0]],
        }
    }

    /// Answered, too.
    pub fn place(proxy: &mut Proxy, id: &str) -> Call {
        let mut call = Call::offer(proxy, id);
        let callee = [Media::audio_at(&call.callee)];
        let ports = proxy.update(&Message::answer(id, &callee)).unwrap();
        call.ports[0] = ports[0];
        call
    }

    pub fn hang_up(&self, proxy: &mut Proxy) {
        proxy.hang_up(&self.id).unwrap();
    }

    /// Each sends so many packets, and each must arrive before the next is sent.
    pub fn talk(&self, packets: u16) {
        for number in 0..packets {
            for (from, to, port) in [
                (&self.caller, &self.callee, self.ports[0]),
                (&self.callee, &self.caller, self.ports[1]),
            ] {
                let packet = rtp(number);
                from.send_to(&packet, (Ipv4Addr::LOCALHOST, port)).unwrap();
                let mut buffer = [0; 2000];
                let length = undisturbed(|| to.recv(&mut buffer)).expect("the packet");
                assert_eq!(&buffer[..length], packet);
            }
        }
    }

    /// Somebody else sends to the caller's port.
    pub fn disturb(&self, packets: u16) {
        let stranger = phone();
        for number in 0..packets {
            stranger
                .send_to(&rtp(number), (Ipv4Addr::LOCALHOST, self.ports[0]))
                .unwrap();
        }
    }
}

fn rtp(number: u16) -> Vec<u8> {
    let mut packet = vec![0x80, 8];
    packet.extend(number.to_be_bytes());
    packet.resize((ON_WIRE - 28) as usize, 0x55);
    packet
}

/// Waits until a condition holds.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..600 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("not in time: {what}");
}
