//! The sections beside those of the daemons: certificates, and what the dispatcher hands finished calls to.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::database::{self, DatabaseUri};
use super::values::{self, ProxySocket};
use super::{Problem, Source};
use crate::session::address::is_routable;
use crate::sys::file_access;

/// Where `auto` looks: in the directory that OpenSIPS' packages make, first the name that MediaProxy had, then that of
/// mi_datagram's manual.
const OPENSIPS_SOCKETS: [&str; 2] = ["/run/opensips/socket", "/run/opensips/opensips.sock"];

/// Where jsonrpcs listens when it is told nothing, with Kamailio's packages; and the name in docs/production.md.
const KAMAILIO_SOCKETS: [&str; 2] = ["/run/kamailio/kamailio_rpc.sock", "/run/kamailio/rpc.sock"];

/// `[TLS]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSection {
    /// The directory of the certificates.
    pub certs_path: PathBuf,
    /// How often the certificates of connected peers are checked again.
    pub verify_interval: Duration,
}

/// `[Database]`: the names have letters, digits and underscores only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseSection {
    /// Each gets every session. Empty where `dburi` is not set.
    pub databases: Vec<DatabaseUri>,
    pub sessions_table: String,
    pub callid_column: String,
    pub fromtag_column: String,
    pub totag_column: String,
    pub info_column: String,
}

/// `[Radius]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RadiusSection {
    /// In the form of radiusclient: server, secret, dictionary.
    pub config_file: PathBuf,
    /// Read after the dictionary that `config_file` names.
    pub additional_dictionary: PathBuf,
}

/// `[OpenSIPS]`, or `[OpenSER]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenSipsSection {
    /// Its management interface's datagram socket.
    pub socket: ProxySocket,
}

/// `[Kamailio]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KamailioSection {
    /// The datagram socket of its jsonrpcs module.
    pub socket: ProxySocket,
}

/// `[File]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSection {
    pub path: PathBuf,
}

pub(super) fn tls(source: &mut Source) -> Option<TlsSection> {
    let dir = source.dir;
    let mut section = source.section("TLS");
    let certs_path = section.value("certs_path", values::path(dir));
    let verify_interval = section.value("verify_interval", values::seconds(1));
    Some(TlsSection {
        certs_path: certs_path?,
        verify_interval: verify_interval?,
    })
}

pub(super) fn database(source: &mut Source) -> Option<DatabaseSection> {
    let dir = source.dir;
    let mut section = source.section("Database");
    let dburi = section.optional("dburi", database::parse(dir));
    let dburi_line = section.line("dburi");
    let sessions_table = section.value("sessions_table", values::table);
    let callid_column = section.value("callid_column", values::column);
    let fromtag_column = section.value("fromtag_column", values::column);
    let totag_column = section.value("totag_column", values::column);
    let info_column = section.value("info_column", values::column);
    let (databases, odd) = dburi?.unwrap_or_default();
    let odd = odd
        .into_iter()
        .map(|text| format!("[Database] dburi: {text}"));
    source
        .warnings
        .extend(odd.map(|text| Problem::new(dburi_line, text)));
    let has_password = databases
        .iter()
        .any(|found| matches!(found, DatabaseUri::Server(server) if server.password.is_some()));
    if let Some(open) = has_password
        .then(|| file_access::exposure(&dir.join(super::FILE_NAME)))
        .flatten()
    {
        let text = format!("[Database] dburi: its password is in a file that is open: {open}");
        source.warnings.push(Problem::new(dburi_line, text));
    }
    Some(DatabaseSection {
        databases,
        sessions_table: sessions_table?,
        callid_column: callid_column?,
        fromtag_column: fromtag_column?,
        totag_column: totag_column?,
        info_column: info_column?,
    })
}

pub(super) fn radius(source: &mut Source) -> Option<RadiusSection> {
    let dir = source.dir;
    let mut section = source.section("Radius");
    let config_file = section.value("config_file", values::path(dir));
    let additional_dictionary = section.value("additional_dictionary", values::path(dir));
    Some(RadiusSection {
        config_file: config_file?,
        additional_dictionary: additional_dictionary?,
    })
}

pub(super) fn opensips(source: &mut Source) -> Option<OpenSipsSection> {
    let dir = source.dir;
    let mut section = source.section("OpenSIPS");
    let socket = section.value("socket_path", values::proxy_socket(dir, &OPENSIPS_SOCKETS));
    Some(OpenSipsSection { socket: socket? })
}

pub(super) fn kamailio(source: &mut Source) -> Option<KamailioSection> {
    let dir = source.dir;
    let mut section = source.section("Kamailio");
    let socket = section.value("socket_path", values::proxy_socket(dir, &KAMAILIO_SOCKETS));
    Some(KamailioSection { socket: socket? })
}

pub(super) fn file(source: &mut Source) -> Option<FileSection> {
    let dir = source.dir;
    let mut section = source.section("File");
    let path = section.value("path", values::path(dir));
    Some(FileSection { path: path? })
}

/// The metrics port has neither TLS nor a password: one address is a choice, all of them seldom are.
pub(super) fn exposed_metrics(
    section: &str,
    address: Option<SocketAddr>,
    line: Option<usize>,
) -> Option<Problem> {
    let port = address
        .filter(|address| address.ip().is_unspecified())?
        .port();
    let text = format!(
        "[{section}] listen_metrics: port {port} on every address of this host: whoever reaches one sees counts (of \
         calls, media and errors); name the address that Prometheus asks"
    );
    Some(Problem::new(line, text))
}

/// Returns true if others than this host and its private networks may reach a port on that address.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_unspecified() || is_routable(address.into(), &[]),
        IpAddr::V6(address) => {
            !address.is_loopback() && !address.is_unique_local() && !address.is_unicast_link_local()
        }
    }
}
