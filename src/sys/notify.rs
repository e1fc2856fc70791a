//! Tells systemd how the service is: sd_notify(3) by hand, one datagram for each change.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The way to the service manager.
#[derive(Debug)]
pub struct Notifier {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl Notifier {
    /// The service manager that started us; none where it did not ask to be told.
    ///
    /// # Errors
    /// `NOTIFY_SOCKET` is no address of a UNIX socket.
    pub fn from_environment() -> io::Result<Option<Notifier>> {
        let address: Option<OsString> = std::env::var_os("NOTIFY_SOCKET");
        match address.filter(|address| !address.is_empty()) {
            Some(address) => Notifier::to(&address).map(Some),
            None => Ok(None),
        }
    }

    /// An absolute path, or `@name` for an abstract socket.
    ///
    /// # Errors
    /// It is neither, or too long.
    pub fn to(address: &OsStr) -> io::Result<Notifier> {
        let address = address_of(address)?;
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Notifier { socket, address })
    }

    /// The service works.
    ///
    /// # Errors
    /// The service manager cannot be told.
    pub fn ready(&self) -> io::Result<()> {
        self.send("READY=1")
    }

    /// The service is ending.
    ///
    /// # Errors
    /// The service manager cannot be told.
    pub fn stopping(&self) -> io::Result<()> {
        self.send("STOPPING=1")
    }

    /// The service is well; to be said within every watchdog interval.
    ///
    /// # Errors
    /// The service manager cannot be told.
    pub fn well(&self) -> io::Result<()> {
        self.send("WATCHDOG=1")
    }

    /// One line for `systemctl status`.
    ///
    /// # Errors
    /// The service manager cannot be told.
    pub fn status(&self, text: &str) -> io::Result<()> {
        let line = text.replace(char::is_control, " ");
        self.send(&format!("STATUS={line}"))
    }

    fn send(&self, text: &str) -> io::Result<()> {
        self.socket.send_to_addr(text.as_bytes(), &self.address)?;
        Ok(())
    }
}

/// The address of the service manager's socket: an absolute path, or `@name` for an abstract one.
///
/// # Errors
/// It is neither, or too long.
pub(super) fn address_of(address: &OsStr) -> io::Result<SocketAddr> {
    match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(address),
        _ => {
            let text = "NOTIFY_SOCKET is neither an absolute path nor @name";
            Err(io::Error::new(io::ErrorKind::InvalidInput, text))
        }
    }
}

/// How long the service manager waits to hear that this process is well, before it ends it and starts it again; none
/// where it does not watch (sd_watchdog_enabled(3)).
pub fn watchdog_interval() -> Option<Duration> {
    let variable = |name| std::env::var(name).ok();
    interval(
        variable("WATCHDOG_USEC").as_deref(),
        variable("WATCHDOG_PID").as_deref(),
    )
}

fn interval(microseconds: Option<&str>, pid: Option<&str>) -> Option<Duration> {
    let microseconds: u64 = microseconds?.parse().ok()?;
    let is_ours = pid.is_none_or(|pid| pid.parse() == Ok(std::process::id()));
    (is_ours && microseconds > 0).then(|| Duration::from_micros(microseconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::datagram::undisturbed;
    use crate::sys::scratch::Scratch;

    fn next(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = undisturbed(|| socket.recv(&mut buffer)).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn by_path_and_by_abstract_name() {
        let dir = Scratch::new("notify");
        let path = dir.path().join("notify");
        let name = format!("@{}", path.display());
        let abstract_address = SocketAddr::from_abstract_name(path.as_os_str().as_bytes()).unwrap();
        for (address, socket) in [
            (path.clone().into_os_string(), UnixDatagram::bind(&path)),
            (name.into(), UnixDatagram::bind_addr(&abstract_address)),
        ] {
            let socket = socket.unwrap();
            let notifier = Notifier::to(&address).unwrap();
            notifier.ready().unwrap();
            assert_eq!(next(&socket), "READY=1");
            notifier.status("2 calls\nREADY=1").unwrap();
            assert_eq!(next(&socket), "STATUS=2 calls READY=1");
            notifier.well().unwrap();
            assert_eq!(next(&socket), "WATCHDOG=1");
            notifier.stopping().unwrap();
            assert_eq!(next(&socket), "STOPPING=1");
        }
    }

    #[test]
    fn the_interval_is_for_this_process_only() {
        let us = std::process::id().to_string();
        let second = Some(Duration::from_secs(1));
        assert_eq!(interval(Some("1000000"), None), second);
        assert_eq!(interval(Some("1000000"), Some(&us)), second);
        for (microseconds, pid) in [
            (None, None),
            (Some("0"), None),
            (Some("soon"), None),
            (Some("1000000"), Some("1")),
            (Some("1000000"), Some("x")),
        ] {
            assert_eq!(interval(microseconds, pid), None);
        }
    }

    #[test]
    fn nobody_there_and_no_address() {
        let dir = Scratch::new("notify");
        let gone = Notifier::to(dir.path().join("none").as_os_str()).unwrap();
        assert!(gone.ready().is_err());
        assert!(Notifier::to(OsStr::new("vsock:2:1234")).is_err());
        assert!(Notifier::to(OsStr::new(&format!("/{}", "x".repeat(200)))).is_err());
    }
}
