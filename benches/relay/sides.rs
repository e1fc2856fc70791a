//! The two that are compared, seen alike: who places a call with them, and what their processes use.

use std::net::SocketAddrV4;
use std::path::Path;
use std::time::Duration;

use crate::processes;
use crate::rtpengine::{Client, Rtpengine};
use crate::support::daemons::{self, Daemons};
use crate::support::ports::PortRange;
use crate::support::proxy::Proxy;
use crate::support::scratch::Scratch;

/// Places calls over one connection, as one process of a SIP proxy does.
pub trait Caller: Send {
    /// An offer and its answer; the ports for caller and callee to send to.
    fn set_up(&mut self, call_id: &str, ends: [SocketAddrV4; 2]) -> Result<[u16; 2], String>;

    fn hang_up(&mut self, call_id: &str) -> Result<(), String>;
}

impl Caller for Proxy {
    fn set_up(&mut self, call_id: &str, ends: [SocketAddrV4; 2]) -> Result<[u16; 2], String> {
        self.place(call_id, ends)
    }

    fn hang_up(&mut self, call_id: &str) -> Result<(), String> {
        Proxy::hang_up(self, call_id)
    }
}

impl Caller for Client {
    fn set_up(&mut self, call_id: &str, ends: [SocketAddrV4; 2]) -> Result<[u16; 2], String> {
        let for_callee = self.offer(call_id, ends[0])?;
        let for_caller = self.answer(call_id, ends[1])?;
        Ok([for_caller, for_callee])
    }

    fn hang_up(&mut self, call_id: &str) -> Result<(), String> {
        self.delete(call_id)
    }
}

/// Something to compare.
pub trait Side {
    fn name(&self) -> &'static str;

    fn caller(&self) -> Result<Box<dyn Caller>, String>;

    /// All its processes.
    fn pids(&self) -> Vec<u32>;

    /// The process that forwards packets.
    fn relay_pid(&self) -> u32;

    fn cpu_time(&self) -> Result<Duration, String> {
        processes::cpu_time(&self.pids())
    }
}

/// Our two daemons, freshly started.
pub struct Ours {
    pub daemons: Daemons,
    /// Goes last.
    _scratch: Scratch,
}

impl Ours {
    /// `ports`: how many the relay may use.
    pub fn start(binaries: &Path, ports: u16) -> Result<Ours, String> {
        let scratch = Scratch::new("mediaproxy-bench")?;
        daemons::make_certificates(scratch.path())?;
        daemons::write_config(scratch.path(), PortRange::find(ports)?)?;
        Ok(Ours {
            daemons: Daemons::start(binaries, scratch.path())?,
            _scratch: scratch,
        })
    }
}

impl Side for Ours {
    fn name(&self) -> &'static str {
        "dispatcher, TLS and relay"
    }

    fn caller(&self) -> Result<Box<dyn Caller>, String> {
        let socket = self.daemons.control_socket();
        let proxy = Proxy::connect(&socket).map_err(|error| error.to_string())?;
        Ok(Box::new(proxy))
    }

    fn pids(&self) -> Vec<u32> {
        vec![self.daemons.dispatcher.pid(), self.daemons.relay.pid()]
    }

    fn relay_pid(&self) -> u32 {
        self.daemons.relay.pid()
    }
}

/// rtpengine, freshly started.
pub struct Theirs {
    engine: Rtpengine,
    /// Goes last.
    _scratch: Scratch,
}

impl Theirs {
    pub fn start(ports: u16) -> Result<Theirs, String> {
        let scratch = Scratch::new("mediaproxy-bench-peer")?;
        let engine = Rtpengine::start(scratch.path(), PortRange::find(ports)?)?;
        Ok(Theirs {
            engine,
            _scratch: scratch,
        })
    }
}

impl Side for Theirs {
    fn name(&self) -> &'static str {
        "rtpengine"
    }

    fn caller(&self) -> Result<Box<dyn Caller>, String> {
        Ok(Box::new(self.engine.client()?))
    }

    fn pids(&self) -> Vec<u32> {
        vec![self.engine.pid()]
    }

    fn relay_pid(&self) -> u32 {
        self.engine.pid()
    }
}
