//! Accounting to databases: one row for each session.
//!
//! ```text
//!  open        a backend for each database of the configuration
//!  Database    what all kinds have in common: batches, duplicates, time limits     delivery
//!  Quoted      names of the table; Shape, Row: a record cut to its columns         table
//!  Driver      connects and speaks to one kind            sqlite, mysql, postgres (tls)
//! ```

#[cfg(any(feature = "sqlite", feature = "mysql", feature = "postgres"))]
#[cfg_attr(
    not(all(feature = "mysql", feature = "postgres")),
    allow(dead_code, reason = "each kind needs its own part of this")
)]
mod delivery;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod server;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(any(feature = "sqlite", feature = "mysql", feature = "postgres"))]
#[cfg_attr(
    not(all(feature = "mysql", feature = "postgres")),
    allow(dead_code, reason = "each kind needs its own part of this")
)]
mod table;
#[cfg(feature = "postgres")]
mod tls;

use super::Backend;
use crate::config::{DatabaseSection, DatabaseUri, ServerKind};

/// A backend for each database, named after what and where it is, so that none is taken for another when the
/// configuration changes. Nothing is connected yet.
///
/// # Errors
/// A database of a kind that was not built in, one that is named twice, a file of CAs that cannot be used.
pub fn open(section: &DatabaseSection) -> Result<Vec<Box<dyn Backend>>, String> {
    let mut backends: Vec<Box<dyn Backend>> = Vec::new();
    for uri in &section.databases {
        let name = name(uri);
        if backends.iter().any(|backend| backend.name() == name) {
            return Err(format!(
                "[Database] dburi: the database {name} is there twice"
            ));
        }
        backends.push(match uri {
            DatabaseUri::Sqlite(_) => sqlite_backend(name, uri, section)?,
            DatabaseUri::Server(server) => match server.kind {
                ServerKind::MySql => mysql_backend(name, uri, section)?,
                ServerKind::PostgreSql => postgres_backend(name, uri, section)?,
            },
        });
    }
    Ok(backends)
}

/// Of `[a-z0-9-]`, short enough for a file's name.
fn name(uri: &DatabaseUri) -> String {
    const MAX_NAME: usize = 100;
    let text = match uri {
        DatabaseUri::Sqlite(path) => format!("sqlite{}", path.display()),
        DatabaseUri::Server(server) => {
            let kind = match server.kind {
                ServerKind::MySql => "mysql",
                ServerKind::PostgreSql => "postgres",
            };
            let port = server.port.map_or(String::new(), |port| format!("-{port}"));
            let place = match &server.unix_socket {
                Some(path) => path.display().to_string(),
                None => server.host.clone(),
            };
            format!("{kind}-{place}{port}-{}", server.database)
        }
    };
    let mut name = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_ascii_alphanumeric() => name.push(c.to_ascii_lowercase()),
            _ if name.ends_with('-') => (),
            _ => name.push('-'),
        }
    }
    // The end tells more than the beginning, but for the kind.
    if let Some(at) = name.len().checked_sub(MAX_NAME).filter(|&at| at > 0) {
        let kind = name.split('-').next().unwrap_or_default();
        name = format!("{kind}-{}", name.get(at..).unwrap_or_default());
    }
    name.trim_end_matches('-').to_owned()
}

type Opened = Result<Box<dyn Backend>, String>;

/// A kind of database under its feature, or the words that it is not built in.
macro_rules! backend {
    ($function:ident, $feature:literal, $scheme:literal, $kind:literal, $driver:path) => {
        #[cfg(feature = $feature)]
        fn $function(name: String, uri: &DatabaseUri, section: &DatabaseSection) -> Opened {
            let driver = <$driver>::new(uri, section)?;
            Ok(Box::new(delivery::Database::new(name, Box::new(driver))))
        }

        #[cfg(not(feature = $feature))]
        fn $function(_: String, _: &DatabaseUri, _: &DatabaseSection) -> Opened {
            Err(concat!(
                "accounting = database with ",
                $scheme,
                "://: this build has no ",
                $kind,
                " (cargo feature ",
                $feature,
                ")"
            )
            .into())
        }
    };
}

backend!(sqlite_backend, "sqlite", "sqlite", "SQLite", sqlite::Sqlite);
backend!(mysql_backend, "mysql", "mysql", "MySQL", mysql::MySql);
backend!(
    postgres_backend,
    "postgres",
    "postgres",
    "PostgreSQL",
    postgres::Postgres
);

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn opened(uris: &str) -> Opened {
        let text = format!("[Dispatcher]\naccounting = database\n[Database]\ndburi = {uris}\n");
        let (_, dispatcher) = crate::config::read_text(Path::new("/"), text.as_bytes());
        let mut backends = open(&dispatcher.unwrap().config.database)?;
        Ok(backends.remove(0))
    }

    #[test]
    fn named_after_kind_and_place() {
        let long = "x".repeat(100);
        for (uri, expected) in [
            ("mysql://u@Db.example.com/m", "mysql-db-example-com-m"),
            (
                "mysql://u@h:3307/m_1?unix_socket=/run/s",
                "mysql-run-s-3307-m-1",
            ),
            ("postgresql://[2001:db8::1]/m", "postgres-2001-db8-1-m"),
            ("sqlite:///var/Sessions.db", "sqlite-var-sessions-db"),
            (
                &format!("sqlite:///var/{long}/s.db"),
                &format!("sqlite-{}-s-db", &long[..95]),
            ),
        ] {
            let text = format!("[Database]\ndburi = {uri}\n");
            let (_, dispatcher) = crate::config::read_text(Path::new("/"), text.as_bytes());
            let databases = dispatcher.unwrap().config.database.databases;
            assert_eq!(name(&databases[0]), expected);
        }
    }

    /// What is not in the build says so.
    #[test]
    fn each_kind_is_a_feature() {
        for (uri, is_built, words) in [
            (
                "sqlite:///a.db",
                cfg!(feature = "sqlite"),
                "accounting = database with sqlite://: this build has no SQLite (cargo feature sqlite)",
            ),
            (
                "mysql://u@h/d",
                cfg!(feature = "mysql"),
                "accounting = database with mysql://: this build has no MySQL (cargo feature mysql)",
            ),
            (
                "postgres://u@h/d",
                cfg!(feature = "postgres"),
                "accounting = database with postgres://: this build has no PostgreSQL (cargo feature postgres)",
            ),
        ] {
            match opened(uri) {
                Ok(_) => assert!(is_built, "{uri}"),
                Err(why) => assert_eq!((is_built, why.as_str()), (false, words)),
            }
        }
    }
}
