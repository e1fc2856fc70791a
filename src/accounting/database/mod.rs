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
    const LONGEST: usize = 100;
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
    if let Some(at) = name.len().checked_sub(LONGEST).filter(|&at| at > 0) {
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
