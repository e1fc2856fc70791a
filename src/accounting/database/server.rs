//! The way to a database server: its addresses, its socket, the CAs that its certificate may be of.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::ServerUri;

/// For the connection to one address.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(4);

/// More addresses of one name are not tried.
const MAX_ADDRESSES: usize = 3;

/// Idle for so long, a connection is asked whether it is there before it is used.
pub(super) const TRUSTED_FOR: Duration = Duration::from_secs(20);

/// Where systems keep the CAs that they trust: Debian and others, Red Hat, SUSE, Alpine.
const SYSTEM_CAS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// By the system's resolver: databases are often named in `/etc/hosts`.
pub(super) fn addresses(uri: &ServerUri) -> io::Result<Vec<SocketAddr>> {
    let addresses = (uri.host.as_str(), uri.port()).to_socket_addrs()?;
    Ok(addresses.take(MAX_ADDRESSES).collect())
}

/// `host:port`, or the socket's path: for messages.
pub(super) fn place(uri: &ServerUri) -> String {
    match uri.socket() {
        Some(path) => path.display().to_string(),
        None => format!("{}:{}", uri.host, uri.port()),
    }
}

/// The file of CAs to check a certificate by.
///
/// # Errors
/// There is none, or it cannot be read.
pub(super) fn root_cert(uri: &ServerUri) -> Result<PathBuf, String> {
    let usual = || {
        SYSTEM_CAS
            .iter()
            .map(Path::new)
            .find(|path| path.exists())
            .map(Path::to_path_buf)
    };
    let path = uri.root_cert.clone().or_else(usual);
    let path = path.ok_or("sslrootcert is not set, and this system has no file of CAs")?;
    match std::fs::File::open(&path) {
        Ok(_) => Ok(path),
        Err(error) => Err(format!("sslrootcert {}: {error}", path.display())),
    }
}
