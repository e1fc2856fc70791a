//! Tells systemd how the service is: sd_notify(3) by hand, one datagram for each change.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

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
        let address = match address.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(address)?,
            _ => {
                let text = "NOTIFY_SOCKET is neither an absolute path nor @name";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
        };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::scratch::Scratch;

    fn next(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
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
            notifier.stopping().unwrap();
            assert_eq!(next(&socket), "STOPPING=1");
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
