//! PostgreSQL. Its library is asynchronous; each connection has a small runtime that runs on the calling thread only
//! while something is asked of it.

use std::error::Error as _;
use std::future::Future;
use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use log::info;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::config::SslMode;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, Error, NoTls};

use super::delivery::{Driver, Failure, LOCK_LIMIT, Link, STATEMENT_LIMIT};
use super::server::{self, CONNECT_LIMIT, TRUSTED_FOR};
use super::table::{Column, Letters, Quoted, Room, Row, Shape, key_columns};
use super::tls::{self, Connector};
use crate::config::{DatabaseSection, DatabaseUri, ServerUri, TlsMode};

/// See the module.
pub(super) struct Postgres {
    uri: ServerUri,
    section: DatabaseSection,
    connector: Connector,
}

impl Postgres {
    /// # Errors
    /// The file of CAs cannot be used.
    pub(super) fn new(uri: &DatabaseUri, section: &DatabaseSection) -> Result<Postgres, String> {
        let DatabaseUri::Server(uri) = uri else {
            return Err("this is not the URI of a server".into());
        };
        let mut section = section.clone();
        // As the server takes names that are not quoted, which is how MediaProxy writes them.
        for name in [
            &mut section.sessions_table,
            &mut section.callid_column,
            &mut section.fromtag_column,
            &mut section.totag_column,
            &mut section.info_column,
        ] {
            name.make_ascii_lowercase();
        }
        Ok(Postgres {
            connector: tls::connector(uri)?,
            uri: uri.clone(),
            section,
        })
    }

    fn config(&self, mode: SslMode) -> Config {
        let mut config = Config::new();
        config
            .user(self.uri.user.as_deref().unwrap_or("mediaproxy"))
            .dbname(&self.uri.database)
            .application_name("media-dispatcher")
            .ssl_mode(mode);
        if let Some(password) = &self.uri.password {
            config.password(password.reveal());
        }
        config
    }

    fn log_in(&self, runtime: &Runtime) -> Result<Client, String> {
        let Some(path) = self.uri.socket() else {
            let client = self.log_in_over_tcp(runtime, self.uri.tls);
            return match (self.uri.tls, client) {
                (TlsMode::Prefer, Err((_, Trouble::Tls))) => {
                    self.log_in_over_tcp(runtime, TlsMode::Disable)
                }
                (_, client) => client,
            }
            .map_err(|(why, _)| why);
        };
        let stream = local(&path).map_err(|error| error.to_string())?;
        let started = async {
            let stream = tokio::net::UnixStream::from_std(stream)?;
            Ok(self.start(stream, SslMode::Disable).await)
        };
        within(runtime, started).and_then(|started| started.map_err(|error| words(&error)))
    }

    fn log_in_over_tcp(
        &self,
        runtime: &Runtime,
        mode: TlsMode,
    ) -> Result<Client, (String, Trouble)> {
        let other = |why: String| (why, Trouble::Other);
        let addresses = server::addresses(&self.uri).map_err(|error| other(error.to_string()))?;
        let mut why = "the name has no address".to_owned();
        for address in addresses {
            let stream = match TcpStream::connect_timeout(&address, CONNECT_LIMIT) {
                Ok(stream) => stream,
                Err(error) => {
                    why = error.to_string();
                    continue;
                }
            };
            let started = async {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                let stream = tokio::net::TcpStream::from_std(stream)?;
                let mode = match mode {
                    TlsMode::Disable => SslMode::Disable,
                    TlsMode::Prefer => SslMode::Prefer,
                    TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
                };
                Ok(self.start(stream, mode).await)
            };
            return within(runtime, started).map_err(other)?.map_err(|error| {
                let trouble = match error.as_db_error() {
                    None if error.to_string().contains("TLS") => Trouble::Tls,
                    _ => Trouble::Other,
                };
                (words(&error), trouble)
            });
        }
        Err(other(why))
    }

    async fn start<S>(&self, stream: S, mode: SslMode) -> Result<Client, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let config = self.config(mode);
        if mode == SslMode::Disable {
            let (client, connection) = config.connect_raw(stream, NoTls).await?;
            tokio::spawn(connection);
            return Ok(client);
        }
        let (client, connection) = config.connect_raw(stream, self.connector.clone()).await?;
        tokio::spawn(connection);
        Ok(client)
    }
}

/// Whether another way to the server may be tried.
enum Trouble {
    Tls,
    Other,
}

fn local(path: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Runs it, for as long as a statement may take.
fn within<T>(runtime: &Runtime, run: impl Future<Output = io::Result<T>>) -> Result<T, String> {
    let limited = async { tokio::time::timeout(STATEMENT_LIMIT, run).await };
    match runtime.block_on(limited) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", STATEMENT_LIMIT.as_secs())),
    }
}

impl Driver for Postgres {
    fn connect(&self) -> Result<Box<dyn Link>, String> {
        let named = |why: String| format!("{}: {why}", server::place(&self.uri));
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let client = self.log_in(&runtime).map_err(named)?;
        let mut session = Session {
            insert: String::new(),
            find: String::new(),
            blob: true,
            shape: Shape {
                call_id: Column::ANY,
                from_tag: Column::ANY,
                to_tag: Column::ANY,
                info: Column::ANY,
                unique: true,
            },
            client,
            runtime,
        };
        self.look_around(&mut session).map_err(named)?;
        Ok(Box::new(session))
    }
}

/// Name, type, length as the system's tables have it.
type Told = (String, String, i32);

impl Postgres {
    /// Settles what the session needs to know of the table.
    fn look_around(&self, session: &mut Session) -> Result<(), String> {
        let names = Quoted::new(&self.section, '"');
        session
            .run(&format!("SET lock_timeout = '{}s'", LOCK_LIMIT.as_secs()))
            .map_err(told)?;
        let mut columns = session.columns(&names).map_err(told)?;
        if columns.is_empty() {
            let types = ["BIGSERIAL PRIMARY KEY", "VARCHAR(255)", "BYTEA"];
            let create = names.create(types, "");
            session.run(&create).map_err(|failure| {
                let why = told(failure);
                format!("the table cannot be made: {why}; the statement is: {create}")
            })?;
            let place = server::place(&self.uri);
            info!("accounting: {place}: made the table {}", names.table);
            columns = session.columns(&names).map_err(told)?;
        }
        let letters = session.letters().map_err(told)?;
        let unique = session.is_unique(&names, &self.section).map_err(told)?;
        let find = |wanted: &str| columns.iter().find(|(name, ..)| name == wanted);
        let column = |wanted: &str| find(wanted).map(|found| understood(found, letters.clone()));
        session.shape = Shape::new(&self.section, column, unique)?;
        let kind = find(&self.section.info_column).map_or("", |(_, kind, _)| kind);
        session.blob = kind == "bytea";
        session.write_statements(&names, kind);
        Ok(())
    }
}

fn told(failure: Failure) -> String {
    match failure {
        Failure::Duplicate(why) | Failure::Row(why) | Failure::Unavailable(why) => why,
    }
}

fn understood((_, kind, length): &Told, letters: Letters) -> Column {
    // The length counts four bytes of its own.
    let characters = length
        .checked_sub(4)
        .and_then(|length| usize::try_from(length).ok());
    match (kind.as_str(), characters) {
        ("bytea", _) => Column::ANY,
        ("varchar" | "bpchar", Some(characters)) => Column {
            room: Room::Characters(characters),
            letters,
        },
        _ => Column {
            room: Room::Any,
            letters,
        },
    }
}

/// A connection.
struct Session {
    client: Client,
    runtime: Runtime,
    insert: String,
    find: String,
    /// Whether the statistics are stored as bytes, and not as text.
    blob: bool,
    shape: Shape,
}

type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

impl Session {
    /// `kind` is the type of the column for the statistics.
    fn write_statements(&mut self, names: &Quoted, kind: &str) {
        let (cast, array) = match kind {
            "bytea" => ("", "bytea[]"),
            "json" => ("::json", "text[]"),
            "jsonb" => ("::jsonb", "text[]"),
            _ => ("", "text[]"),
        };
        self.insert = format!(
            "INSERT INTO {} ({}, {}) SELECT c, f, t, i{cast} FROM \
             unnest($1::text[], $2::text[], $3::text[], $4::{array}) AS r(c, f, t, i)",
            names.table,
            names.key(),
            names.info
        );
        let stored = if self.blob {
            names.info.clone()
        } else {
            format!("convert_to({}::text, 'UTF8')", names.info)
        };
        self.find = format!(
            "SELECT {stored} FROM {} WHERE {} = $1 AND {} = $2 AND {} IS NOT DISTINCT FROM $3 LIMIT 100",
            names.table, names.call_id, names.from_tag, names.to_tag
        );
    }

    fn run(&self, sql: &str) -> Result<(), Failure> {
        self.wait(self.client.batch_execute(sql))
    }

    fn ask(
        &self,
        sql: &str,
        parameters: &[Parameter],
    ) -> Result<Vec<tokio_postgres::Row>, Failure> {
        self.wait(self.client.query_typed(sql, parameters))
    }

    fn wait<T>(&self, run: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
        let answered = within(&self.runtime, async { Ok(run.await) });
        answered
            .map_err(Failure::Unavailable)?
            .map_err(|error| failure(&error))
    }

    /// None where there is no such table in the schemas that are searched.
    fn columns(&self, names: &Quoted) -> Result<Vec<Told>, Failure> {
        let ask = "SELECT a.attname::text, t.typname::text, a.atttypmod FROM pg_attribute a \
                   JOIN pg_type t ON t.oid = a.atttypid \
                   WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped";
        let rows = self.ask(ask, &[(&names.table, Type::TEXT)])?;
        let told =
            |row: &tokio_postgres::Row| Some((text(row, 0)?, text(row, 1)?, row.try_get(2).ok()?));
        Ok(rows.iter().filter_map(told).collect())
    }

    /// What the database's encoding has. Where a character is one byte the server is asked what each byte is.
    fn letters(&self) -> Result<Letters, Failure> {
        let ask = "SELECT name, pg_encoding_max_length(pg_char_to_encoding(name)) \
                   FROM current_setting('server_encoding') AS name";
        let rows = self.ask(ask, &[])?;
        let told = rows
            .first()
            .and_then(|row| Some((text(row, 0)?, row.try_get::<_, i32>(1).ok()?)));
        match told {
            Some((name, _)) if name == "UTF8" => Ok(Letters::All),
            // Of bytes that nobody knows the meaning of.
            Some((name, 1)) if name != "SQL_ASCII" => {
                let bytes: Vec<u8> = (1..=255).collect();
                let mut letters = Vec::new();
                self.collect(&name, &bytes, &mut letters)?;
                letters.sort_unstable();
                Ok(Letters::These(letters.into()))
            }
            _ => Ok(Letters::Ascii),
        }
    }

    /// The characters of these bytes. One that means nothing fails them all, and is looked for by halves.
    fn collect(
        &self,
        encoding: &str,
        bytes: &[u8],
        letters: &mut Vec<char>,
    ) -> Result<(), Failure> {
        let ask = "SELECT convert($1, $2, 'UTF8')";
        match self.ask(ask, &[(&bytes, Type::BYTEA), (&encoding, Type::NAME)]) {
            Ok(rows) => {
                let utf8: Option<Vec<u8>> = rows.first().and_then(|row| row.try_get(0).ok());
                letters.extend(String::from_utf8_lossy(&utf8.unwrap_or_default()).chars());
                Ok(())
            }
            Err(Failure::Row(_)) if bytes.len() > 1 => {
                let (first, second) = bytes.split_at(bytes.len() / 2);
                self.collect(encoding, first, letters)?;
                self.collect(encoding, second, letters)
            }
            Err(Failure::Row(_)) => Ok(()),
            Err(other) => Err(other),
        }
    }

    /// Whether an index keeps the key from being there twice.
    fn is_unique(&self, names: &Quoted, section: &DatabaseSection) -> Result<bool, Failure> {
        let ask = "SELECT string_agg(a.attname::text, ',' ORDER BY a.attname::text COLLATE \"C\") FROM pg_index i \
                   JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) \
                   WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indpred IS NULL \
                   AND i.indexprs IS NULL GROUP BY i.indexrelid";
        let rows = self.ask(ask, &[(&names.table, Type::TEXT)])?;
        let key = key_columns(section);
        Ok(rows
            .iter()
            .filter_map(|row| text(row, 0))
            .any(|columns| columns == key))
    }
}

fn text(row: &tokio_postgres::Row, column: usize) -> Option<String> {
    row.try_get(column).ok()
}

impl Link for Session {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn is_alive(&mut self, idle: Duration) -> bool {
        !self.client.is_closed() && (idle < TRUSTED_FOR || self.run("SELECT 1").is_ok())
    }

    fn insert(&mut self, rows: &[Row]) -> Result<(), Failure> {
        let call_ids: Vec<&str> = rows.iter().map(|row| &*row.call_id).collect();
        let from_tags: Vec<&str> = rows.iter().map(|row| &*row.from_tag).collect();
        let to_tags: Vec<Option<&str>> = rows.iter().map(|row| row.to_tag.as_deref()).collect();
        let bytes: Vec<&[u8]> = rows.iter().map(|row| row.info.as_bytes()).collect();
        let texts: Vec<&str> = rows.iter().map(|row| &*row.info).collect();
        let infos: Parameter = if self.blob {
            (&bytes, Type::BYTEA_ARRAY)
        } else {
            (&texts, Type::TEXT_ARRAY)
        };
        let parameters = [
            (&call_ids as _, Type::TEXT_ARRAY),
            (&from_tags as _, Type::TEXT_ARRAY),
            (&to_tags as _, Type::TEXT_ARRAY),
            infos,
        ];
        self.wait(self.client.execute_typed(&self.insert, &parameters))
            .map(drop)
    }

    fn find(&mut self, row: &Row) -> Result<Vec<Vec<u8>>, Failure> {
        let to_tag = row.to_tag.as_deref();
        let key = [
            (&row.call_id as _, Type::TEXT),
            (&row.from_tag as _, Type::TEXT),
            (&to_tag as _, Type::TEXT),
        ];
        let rows = self.ask(&self.find, &key)?;
        let info = |row: &tokio_postgres::Row| row.try_get(0).ok().flatten().unwrap_or_default();
        Ok(rows.iter().map(info).collect())
    }

    /// Within a transaction, whose end frees it.
    fn lock(&mut self, session_id: &str) -> Result<(), Failure> {
        self.run("BEGIN")?;
        let number = number(session_id);
        self.ask("SELECT pg_advisory_xact_lock($1)", &[(&number, Type::INT8)])
            .map(drop)
    }

    /// After an error within, nothing was done and nothing will be.
    fn unlock(&mut self) -> Result<(), Failure> {
        self.run("COMMIT")
    }
}

/// FNV-1a: the same in every run and on every host.
fn number(text: &str) -> i64 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    i64::from_ne_bytes(hash.to_ne_bytes())
}

/// The server's words, or the whole chain of what went wrong on the way to it.
fn words(error: &Error) -> String {
    if let Some(told) = error.as_db_error() {
        return format!("{} ({})", told.message(), told.code().code());
    }
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// By SQLSTATE (PostgreSQL's manual, appendix A): 22 data, 23 constraints, 54 limits, P0 a trigger's word.
fn failure(error: &Error) -> Failure {
    let text = words(error);
    let code = error.code().map_or("", |code| code.code());
    match code.get(..2) {
        _ if code == "23505" => Failure::Duplicate(text),
        Some("22" | "23" | "54" | "P0") => Failure::Row(text),
        _ => Failure::Unavailable(text),
    }
}
