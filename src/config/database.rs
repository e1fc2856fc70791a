//! `dburi`: which database, and the password to it, which no message and no log ever shows.

use std::fmt;
use std::path::{Path, PathBuf};

use super::problem::quoted;
use super::values::Parsed;

/// Where the table of sessions is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseUri {
    Server(ServerUri),
    /// A file; an absolute path.
    Sqlite(PathBuf),
}

/// A database on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUri {
    pub kind: ServerKind,
    pub user: Option<String>,
    pub password: Option<Password>,
    pub host: String,
    /// None stands for the usual one.
    pub port: Option<u16>,
    pub database: String,
    /// The server's UNIX socket, to be used instead of `host`.
    pub unix_socket: Option<PathBuf>,
    pub tls: TlsMode,
    /// CAs in PEM; none stands for those of the system.
    pub root_cert: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerKind {
    MySql,
    PostgreSql,
}

/// Where `localhost` is a socket for MySQL's own programs, and so for MediaProxy: Debian, Red Hat, the sources.
const MYSQL_SOCKETS: [&str; 3] = [
    "/run/mysqld/mysqld.sock",
    "/var/lib/mysql/mysql.sock",
    "/tmp/mysql.sock",
];

impl ServerUri {
    /// The port, whether it is told or the usual one.
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(match self.kind {
            ServerKind::MySql => 3306,
            ServerKind::PostgreSql => 5432,
        })
    }

    /// The UNIX socket to connect to; none where that is done by TCP. Looks at which files there are.
    pub fn socket(&self) -> Option<PathBuf> {
        let is_plain = matches!(self.tls, TlsMode::Disable | TlsMode::Prefer);
        let is_local = self.host == "localhost" && self.port.is_none() && is_plain;
        match (&self.unix_socket, self.kind) {
            (Some(path), ServerKind::PostgreSql) if path.is_dir() => {
                Some(path.join(format!(".s.PGSQL.{}", self.port())))
            }
            (Some(path), _) => Some(path.clone()),
            (None, ServerKind::MySql) if is_local => {
                let mut usual = MYSQL_SOCKETS.iter().map(Path::new);
                usual.find(|path| path.exists()).map(Path::to_path_buf)
            }
            (None, _) => None,
        }
    }
}

/// Whether the way to the server is encrypted, by the names that PostgreSQL gives (`sslmode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    Disable,
    /// Where the server offers it; its certificate is not looked at.
    Prefer,
    /// The certificate is not looked at.
    Require,
    /// The certificate must be of one of the CAs.
    VerifyCa,
    /// And for the host.
    VerifyFull,
}

/// Shown as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// What it really is, for the server alone.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What the parameters after `?` may be.
const PARAMETERS: &str = "sslmode, sslrootcert, unix_socket";

/// One or more databases, separated by blanks: `scheme://user:password@host[:port]/database[?name=value&...]` or
/// `sqlite:///path`. A relative path in a parameter is under `base`. Beside them, what is odd: parameters that are
/// not ours, which MediaProxy hands to its database layer (character sets and time-outs are ours to choose).
pub(super) fn parse(base: &Path) -> impl Fn(&str) -> Parsed<(Vec<DatabaseUri>, Vec<String>)> {
    move |text| {
        let mut odd = Vec::new();
        let uris = separate(text).map(|uri| server_or_file(&uri, base, &mut odd));
        let uris: Option<Vec<DatabaseUri>> = uris.collect();
        match uris {
            Some(uris) if !uris.is_empty() => Ok((uris, odd)),
            _ => Err(
                "mysql://user:password@host[:port]/database, the same with postgres, or sqlite:///path; after ? \
                 sslmode=disable, prefer, require, verify-ca or verify-full, sslrootcert=FILE, unix_socket=PATH"
                    .into(),
            ),
        }
    }
}

/// The text at those blanks that a scheme follows: a password may have one.
fn separate(text: &str) -> impl Iterator<Item = String> {
    let mut uris: Vec<String> = Vec::new();
    for word in text
        .split([' ', '\t', '\n'])
        .filter(|word| !word.is_empty())
    {
        let scheme = word.split_once("://").map(|(scheme, _)| scheme);
        let begins = scheme.is_some_and(|scheme| scheme.bytes().all(|b| b.is_ascii_alphabetic()));
        match uris.last_mut() {
            Some(uri) if !begins => *uri = format!("{uri} {word}"),
            _ => uris.push(word.to_owned()),
        }
    }
    uris.into_iter()
}

fn server_or_file(text: &str, base: &Path, odd: &mut Vec<String>) -> Option<DatabaseUri> {
    if text.chars().any(char::is_control) {
        return None;
    }
    let (text, parameters) = text.split_once('?').unwrap_or((text, ""));
    let parameters = parameters.split('&').filter(|text| !text.is_empty());
    let (scheme, rest) = text.split_once("://")?;
    let kind = match scheme.to_ascii_lowercase().as_str() {
        "sqlite" => {
            odd.extend(parameters.map(|text| without_effect(text, "none")));
            let path = decode(rest)?;
            let usable = path.starts_with('/') && !path.ends_with('/');
            return usable.then(|| DatabaseUri::Sqlite(path.into()));
        }
        "mysql" => ServerKind::MySql,
        "postgres" | "postgresql" => ServerKind::PostgreSql,
        _ => return None,
    };
    let (authority, database) = rest.rsplit_once('/')?;
    let (login, host) = match authority.rsplit_once('@') {
        Some((login, host)) => (Some(login), host),
        None => (None, authority),
    };
    let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
        Some((user, password)) => (given(user)?, given(password)?.map(Password)),
        None => (None, None),
    };
    let (host, port) = host_and_port(host)?;
    let mut uri = ServerUri {
        kind,
        user,
        password,
        host,
        port,
        database: given(database)??,
        unix_socket: None,
        tls: TlsMode::Prefer,
        root_cert: None,
    };
    for text in parameters {
        if !set(&mut uri, text, base)? {
            odd.push(without_effect(text, PARAMETERS));
        }
    }
    Some(DatabaseUri::Server(uri))
}

/// Takes over `name=value`, and says whether it is known; none is a value that cannot be used.
fn set(uri: &mut ServerUri, text: &str, base: &Path) -> Option<bool> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    let value = decode(value)?;
    let path = || {
        Some(&value)
            .filter(|path| !path.is_empty())
            .map(|path| base.join(path))
    };
    match name {
        "sslmode" => {
            uri.tls = match value.as_str() {
                "disable" => TlsMode::Disable,
                "prefer" => TlsMode::Prefer,
                "require" => TlsMode::Require,
                "verify-ca" => TlsMode::VerifyCa,
                "verify-full" => TlsMode::VerifyFull,
                _ => return None,
            }
        }
        "sslrootcert" => uri.root_cert = Some(path()?),
        "unix_socket" => uri.unix_socket = Some(path()?),
        _ => return Some(false),
    }
    Some(true)
}

/// The value is not shown: it may be a password.
fn without_effect(parameter: &str, known: &str) -> String {
    let name = parameter.split('=').next().unwrap_or_default();
    format!(
        "the parameter {} has no effect; known: {known}",
        quoted(name)
    )
}

fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']')?,
        None => text
            .find(':')
            .map_or((text, ""), |colon| text.split_at(colon)),
    };
    let port = match port {
        "" => None,
        _ => Some(
            port.strip_prefix(':')?
                .parse()
                .ok()
                .filter(|&port| port > 0)?,
        ),
    };
    let fits = !host.is_empty() && !host.contains(['/', '[', ']', ' ']);
    fits.then(|| (host.to_owned(), port))
}

/// A decoded part, or none where it is empty; the outer none is a bad text.
fn given(text: &str) -> Option<Option<String>> {
    let text = decode(text)?;
    Some(Some(text).filter(|text| !text.is_empty()))
}

/// `%XX` to the byte that it stands for (RFC 3986 section 2.1).
fn decode(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut decoded = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let code = part.get(..2)?;
        decoded.push(u8::from_str_radix(code, 16).ok()?);
        decoded.extend_from_slice(part.get(2..)?.as_bytes());
    }
    String::from_utf8(decoded).ok()
}

/// The text as it may be shown: without what stands for the password.
pub(super) fn without_password(text: &str) -> String {
    let shown = without_login(text);
    match shown.split_once('?') {
        Some((uri, parameters)) if parameters.to_lowercase().contains("pass") => {
            format!("{uri}?***")
        }
        _ => shown,
    }
}

fn without_login(text: &str) -> String {
    let Some((before, host)) = text.rsplit_once('@') else {
        return text.to_owned();
    };
    let login_at = before.find("://").map_or(0, |at| at + 3);
    match before.get(login_at..).and_then(|login| login.find(':')) {
        Some(colon) => format!("{}:***@{host}", &before[..login_at + colon]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
