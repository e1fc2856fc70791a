//! `dburi`: which database, and the password to it, which no message and no log ever shows.

use std::fmt;
use std::path::PathBuf;

use super::values::Parsed;

/// Where the table of sessions is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseUri {
    Server {
        kind: ServerKind,
        user: Option<String>,
        password: Option<Password>,
        host: String,
        /// None stands for the usual one.
        port: Option<u16>,
        database: String,
    },
    /// A file; an absolute path.
    Sqlite(PathBuf),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerKind {
    MySql,
    PostgreSql,
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

/// `scheme://user:password@host[:port]/database` or `sqlite:///path`. Parameters after `?`, which MediaProxy
/// hands to its database layer, are left out: character sets and time-outs are ours to choose.
pub fn parse(text: &str) -> Parsed<DatabaseUri> {
    server_or_file(text).ok_or_else(|| {
        "mysql://user:password@host[:port]/database, the same with postgres, or sqlite:///path"
            .into()
    })
}

fn server_or_file(text: &str) -> Option<DatabaseUri> {
    if text.chars().any(char::is_control) {
        return None;
    }
    let text = text.split_once('?').map_or(text, |(uri, _)| uri);
    let (scheme, rest) = text.split_once("://")?;
    let kind = match scheme.to_ascii_lowercase().as_str() {
        "sqlite" => {
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
    let database = given(database)??;
    Some(DatabaseUri::Server {
        kind,
        user,
        password,
        host,
        port,
        database,
    })
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
pub fn without_password(text: &str) -> String {
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
mod tests {
    use super::*;

    #[test]
    fn servers_and_files() {
        let uri = parse("mysql://media:s%40cr:et@db.example.com:3307/media?charset=utf8").unwrap();
        let DatabaseUri::Server {
            kind,
            user,
            password,
            host,
            port,
            database,
        } = &uri
        else {
            panic!("{uri:?}");
        };
        assert_eq!(
            (*kind, host.as_str()),
            (ServerKind::MySql, "db.example.com")
        );
        assert_eq!((*port, database.as_str()), (Some(3307), "media"));
        assert_eq!(user.as_deref(), Some("media"));
        assert_eq!(password.as_ref().map(Password::reveal), Some("s@cr:et"));
        assert!(!format!("{uri:?}").contains("cr:et"));

        let uri = parse("postgresql://[2001:db8::1]/media").unwrap();
        assert_eq!(
            uri,
            DatabaseUri::Server {
                kind: ServerKind::PostgreSql,
                user: None,
                password: None,
                host: "2001:db8::1".into(),
                port: None,
                database: "media".into()
            }
        );
        assert_eq!(
            parse("sqlite:///var/lib/a%20b.db"),
            Ok(DatabaseUri::Sqlite("/var/lib/a b.db".into()))
        );
    }

    #[test]
    fn refused() {
        for bad in [
            "",
            "mysql",
            "mysql:/host/db",
            "oracle://u:p@host/db",
            "mysql://host",
            "mysql://host/",
            "mysql:///db",
            "mysql://host:x/db",
            "mysql://host:0/db",
            "mysql://[::1/db",
            "mysql://u:%zz@host/db",
            "mysql://u:%é@host/db",
            "mysql://u:%ff@host/db",
            "sqlite://relative.db",
            "sqlite:///dir/",
            "mysql://u:p@host/d\nb",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_password_is_shown() {
        for (text, shown) in [
            ("mysql://u:pass@host/db", "mysql://u:***@host/db"),
            ("mysql://u:p@ss:w@host/db", "mysql://u:***@host/db"),
            ("u:pass@host", "u:***@host"),
            ("mysql://u@host/db", "mysql://u@host/db"),
            ("sqlite:///db", "sqlite:///db"),
        ] {
            assert_eq!(without_password(text), shown);
        }
    }
}
