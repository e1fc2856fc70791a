//! Both daemons on loopback with all their ports open, a SIP proxy's socket for dialogs, and where each of these is.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::Duration;

use mediaproxy::sys::clock;

use super::watch::{Log, Taken};
use crate::support::daemons::{self, signal};
use crate::support::management;
use crate::support::ports::{PortRange, free_tcp_port};
use crate::support::scratch::Scratch;

/// Longest wait for a daemon to start or to end.
const PATIENCE: Duration = Duration::from_secs(20);
/// Media ports of the relay.
const PORTS: u16 = 2000;

/// Where the attacked are.
pub struct Target {
    pub directory: PathBuf,
    /// The SIP proxy's, the administrator's, and where OpenSIPS answers.
    pub control: PathBuf,
    pub management_socket: PathBuf,
    pub answers: PathBuf,
    /// Where relays and administrators connect, both by TLS.
    pub link: SocketAddr,
    pub management: SocketAddr,
    /// The dispatcher's and the relay's.
    pub metrics: [SocketAddr; 2],
    pub ports: PortRange,
    /// The relay takes this for a second dispatcher.
    pub rogue: Option<TcpListener>,
    /// The dispatcher's and the relay's.
    pub logs: [Arc<Log>; 2],
    pub dialogs: Arc<Dialogs>,
    pub records: PathBuf,
}

/// What else there is than usual.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setting<'a> {
    /// The relay has a second dispatcher, an attacker.
    pub rogue_dispatcher: bool,
    /// More lines of the configuration.
    pub more: &'a str,
}

/// What OpenSIPS was asked to end. It is too busy to do so.
#[derive(Default)]
pub struct Dialogs {
    asked: Mutex<Vec<String>>,
}

impl Dialogs {
    fn listen(path: &Path) -> Arc<Dialogs> {
        let socket = UnixDatagram::bind(path).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let dialogs = Arc::new(Dialogs::default());
        let weak: Weak<Dialogs> = Arc::downgrade(&dialogs);
        thread::spawn(move || {
            let mut buffer = [0; 64 * 1024];
            while let Some(dialogs) = weak.upgrade() {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                let id = serde_json::from_str::<serde_json::Value>(&text)
                    .map(|request| request["id"].clone())
                    .unwrap_or_default();
                let answer = serde_json::json!({
                    "jsonrpc": "2.0", "id": id, "error": {"code": 500, "message": "busy"},
                });
                dialogs.asked.lock().unwrap().push(text);
                let _ = socket.send_to_addr(answer.to_string().as_bytes(), &from);
            }
        });
        dialogs
    }

    /// Requests so far, each as it came.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// One daemon.
pub struct Server {
    name: &'static str,
    child: Child,
    pub log: Arc<Log>,
}

impl Server {
    fn start(name: &'static str, directory: &Path) -> Server {
        let binaries = Path::new(env!("CARGO_BIN_EXE_media-relay"))
            .parent()
            .unwrap();
        let mut child = Command::new(binaries.join(name))
            .args(["--no-fork", "--config-dir"])
            .arg(directory)
            .arg("--runtime-dir")
            .arg(directory.join("run"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let log = Log::of(child.stderr.take().unwrap());
        Server { name, child, log }
    }

    pub fn taken(&self) -> Taken {
        Taken::by(self.child.id())
    }

    /// The end of its log where it has ended by itself.
    pub fn check(&mut self) -> Result<(), String> {
        match self.child.try_wait().unwrap() {
            None => Ok(()),
            Some(status) => Err(format!(
                "{} ended ({status}):\n  {}",
                self.name,
                self.log.end()
            )),
        }
    }

    /// Asks it to end, and an error where it does not, or not well.
    fn stop(&mut self) -> Result<(), String> {
        self.log.stall(false);
        signal(self.child.id(), "TERM")?;
        let end = clock::moment() + PATIENCE;
        while clock::moment() < end {
            match self.child.try_wait().unwrap() {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    let log = self.log.end();
                    return Err(format!("{} ended ({status}):\n  {log}", self.name));
                }
                None => thread::sleep(Duration::from_millis(20)),
            }
        }
        Err(format!("{} did not end:\n  {}", self.name, self.log.end()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Both daemons.
pub struct Field {
    pub dispatcher: Server,
    pub relay: Server,
    pub target: Arc<Target>,
    _scratch: Scratch,
}

impl Field {
    pub fn start(name: &str, setting: Setting<'_>) -> Field {
        let scratch = Scratch::new(&format!("mediaproxy-{name}")).unwrap();
        let directory = scratch.path();
        daemons::make_certificates(directory).unwrap();
        let ports = PortRange::find(PORTS).unwrap();
        daemons::write_config(directory, ports).unwrap();
        let port = || SocketAddr::from((Ipv4Addr::LOCALHOST, free_tcp_port().unwrap()));
        let metrics = [port(), port()];
        let rogue = setting
            .rogue_dispatcher
            .then(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let (link, management) = configure(directory, rogue.as_ref());
        let records = directory.join("sessions.jsonl");
        let proxy = directory.join("proxy.sock");
        let lines = format!(
            "[Dispatcher]\nlisten_metrics = {}\naccounting = file\n[File]\npath = {}\n\
             [OpenSIPS]\nsocket_path = {}\n[Relay]\nlisten_metrics = {}\n{}",
            metrics[0],
            records.display(),
            proxy.display(),
            metrics[1],
            setting.more
        );
        daemons::extend_config(directory, &lines).unwrap();
        let dialogs = Dialogs::listen(&proxy);
        let runtime = directory.join("run");
        let control = runtime.join("dispatcher.sock");
        let mut dispatcher = Server::start("media-dispatcher", directory);
        until("the dispatcher listens", || {
            dispatcher.check().unwrap();
            control.exists()
        });
        let relay = Server::start("media-relay", directory);
        let management_socket = runtime.join("management.sock");
        until("the relay has found the dispatcher", || {
            let summary = management::ask(&management_socket, "summary");
            summary.is_ok_and(|lines| lines.iter().any(|line| line.contains("\"active\"")))
        });
        let logs = [dispatcher.log.clone(), relay.log.clone()];
        let target = Target {
            directory: directory.to_owned(),
            control,
            management_socket,
            answers: runtime.join("opensips.sock"),
            link,
            management,
            metrics,
            ports,
            rogue,
            logs,
            dialogs,
            records,
        };
        Field {
            dispatcher,
            relay,
            target: Arc::new(target),
            _scratch: scratch,
        }
    }

    /// The dispatcher's and the relay's.
    pub fn taken(&self) -> [Taken; 2] {
        [self.dispatcher.taken(), self.relay.taken()]
    }

    /// Both are alive.
    pub fn check(&mut self) -> Result<(), String> {
        self.dispatcher.check()?;
        self.relay.check()
    }

    /// Ends both, the relay first, so that it can still report.
    pub fn stop(&mut self) -> Result<(), String> {
        let relay = self.relay.stop();
        relay.and(self.dispatcher.stop())
    }
}

/// Changes the usual configuration to one with TLS for administrators; where relays and administrators connect.
fn configure(directory: &Path, rogue: Option<&TcpListener>) -> (SocketAddr, SocketAddr) {
    let path = directory.join("config.ini");
    let mut text = fs::read_to_string(&path).unwrap();
    let address = |key: &str| -> SocketAddr {
        let value = text.lines().find_map(|line| line.strip_prefix(key));
        value.unwrap().parse().unwrap()
    };
    let (link, management) = (address("listen = "), address("listen_management = "));
    text = text.replace("management_use_tls = no", "management_use_tls = yes");
    if let Some(rogue) = rogue {
        let own = format!("dispatchers = {link}");
        let both = format!("{own}, {}", rogue.local_addr().unwrap());
        text = text.replace(&own, &both);
    }
    fs::write(&path, text).unwrap();
    (link, management)
}

/// Waits until a condition holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = clock::moment() + PATIENCE;
    while !holds() {
        assert!(clock::moment() < end, "not in time: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// What an operation on a socket gives that has nothing at the moment.
pub fn is_passing(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}
