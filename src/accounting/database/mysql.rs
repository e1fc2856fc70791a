//! MySQL and MariaDB.

use std::collections::HashMap;
use std::error::Error as _;
use std::io;
use std::time::Duration;

use log::info;
use mysql::prelude::Queryable;
use mysql::{
    Conn, DriverError, Error, LocalInfileHandler, MySqlError, OptsBuilder, SslOpts, Value,
};

use super::delivery::{Driver, Failure, LOCK_LIMIT, Link, STATEMENT_LIMIT};
use super::server::{self, CONNECT_LIMIT, TRUSTED_FOR};
use super::table::{Column, Letters, Quoted, Room, Row, Shape, key_columns};
use crate::config::{DatabaseSection, DatabaseUri, ServerUri, TlsMode};

/// The key is compared byte for byte, as call-ids are; three columns of 255 characters are as long as an index of
/// InnoDB may be.
const TABLE_OPTIONS: &str =
    " ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin";

/// Statements that are kept prepared: the full batch, the single row, the look, and some.
const PREPARED_STATEMENTS: usize = 8;

/// Characters that the server is asked about at once: some 48 KB, far less than any server takes in one piece.
const CHARACTERS_ASKED: usize = 0x4000;

/// See the module.
pub(super) struct MySql {
    uri: ServerUri,
    section: DatabaseSection,
}

impl MySql {
    /// # Errors
    /// The file of CAs cannot be read.
    pub(super) fn new(uri: &DatabaseUri, section: &DatabaseSection) -> Result<MySql, String> {
        let DatabaseUri::Server(uri) = uri else {
            return Err("this is not the URI of a server".into());
        };
        if matches!(uri.tls, TlsMode::VerifyCa | TlsMode::VerifyFull) {
            server::root_cert(uri)?;
        }
        Ok(MySql {
            uri: uri.clone(),
            section: section.clone(),
        })
    }

    /// Logged in, at the first address that answers.
    fn log_in(&self) -> Result<Conn, String> {
        if let Some(path) = self.uri.socket() {
            let options = self.options().socket(path.to_str());
            return self
                .encrypted_or_not(options)
                .map_err(|error| words(&error));
        }
        // The library looks for the name of the host in the certificate, so it must know it.
        if self.uri.tls == TlsMode::VerifyFull {
            let options = self.options().ip_or_hostname(Some(&self.uri.host));
            return self
                .encrypted_or_not(options)
                .map_err(|error| words(&error));
        }
        let addresses = server::addresses(&self.uri).map_err(|error| error.to_string())?;
        let mut why = "the name has no address".to_owned();
        for address in addresses {
            let options = self
                .options()
                .ip_or_hostname(Some(address.ip().to_string()));
            match self.encrypted_or_not(options) {
                Ok(connection) => return Ok(connection),
                Err(error) => why = words(&error),
            }
        }
        Err(why)
    }

    fn encrypted_or_not(&self, options: OptsBuilder) -> mysql::Result<Conn> {
        let plain = options.clone().ssl_opts(None::<SslOpts>);
        match Conn::new(options) {
            Err(error) if self.uri.tls == TlsMode::Prefer && is_about_tls(&error) => {
                Conn::new(plain)
            }
            connected => connected,
        }
    }

    fn options(&self) -> OptsBuilder {
        let refuse = LocalInfileHandler::new(|_, _| Err(io::Error::other("no file is given away")));
        let locks = LOCK_LIMIT.as_secs();
        // Nothing is cut or replaced unseen, whatever the server's own mode is.
        let init = format!(
            "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', autocommit = 1, \
             innodb_lock_wait_timeout = {locks}, lock_wait_timeout = {locks}"
        );
        OptsBuilder::new()
            .tcp_port(self.uri.port())
            .user(self.uri.user.as_deref())
            .pass(self.uri.password.as_ref().map(|password| password.reveal()))
            .db_name(Some(&self.uri.database))
            .prefer_socket(false)
            .tcp_connect_timeout(Some(CONNECT_LIMIT))
            .read_timeout(Some(STATEMENT_LIMIT))
            .write_timeout(Some(STATEMENT_LIMIT))
            .stmt_cache_size(PREPARED_STATEMENTS)
            .local_infile_handler(Some(refuse))
            .init(vec![init])
            .ssl_opts(self.tls())
    }

    fn tls(&self) -> Option<SslOpts> {
        let any = SslOpts::default()
            .with_danger_accept_invalid_certs(true)
            .with_danger_skip_domain_validation(true);
        let checked = || SslOpts::default().with_root_cert_path(server::root_cert(&self.uri).ok());
        match self.uri.tls {
            TlsMode::Disable => None,
            TlsMode::Prefer | TlsMode::Require => Some(any),
            TlsMode::VerifyCa => Some(checked().with_danger_skip_domain_validation(true)),
            TlsMode::VerifyFull => Some(checked()),
        }
    }

    fn found_or_made(&self, connection: &mut Conn, names: &Quoted) -> Result<Shape, String> {
        let columns = columns(connection, &self.section).map_err(|error| words(&error))?;
        if !columns.is_empty() {
            let unique = is_unique(connection, &self.section).map_err(|error| words(&error))?;
            return shape(connection, &self.section, &columns, unique);
        }
        let types = [
            "BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY",
            "VARCHAR(255)",
            "MEDIUMBLOB",
        ];
        let create = names.create(types, TABLE_OPTIONS);
        connection.query_drop(&create).map_err(|error| {
            format!(
                "the table cannot be made: {}; the statement is: {create}",
                words(&error)
            )
        })?;
        info!(
            "accounting: {}: made the table {}",
            server::place(&self.uri),
            names.table
        );
        let made = self::columns(connection, &self.section).map_err(|error| words(&error))?;
        shape(connection, &self.section, &made, true)
    }
}

impl Driver for MySql {
    fn connect(&self) -> Result<Box<dyn Link>, String> {
        let named = |why: String| format!("{}: {why}", server::place(&self.uri));
        let mut connection = self.log_in().map_err(named)?;
        let names = Quoted::new(&self.section, '`');
        let shape = self.found_or_made(&mut connection, &names).map_err(named)?;
        Ok(Box::new(Session {
            insert: format!(
                "INSERT INTO {} ({}, {}) VALUES ",
                names.table,
                names.key(),
                names.info
            ),
            find: format!(
                "SELECT {} FROM {} WHERE {} = ? AND {} = ? AND {} <=> ? LIMIT 100",
                names.info, names.table, names.call_id, names.from_tag, names.to_tag
            ),
            connection,
            shape,
            locked: None,
        }))
    }
}

/// A column as `information_schema` tells of it: name, type, characters, bytes, character set.
type Told = (String, String, Option<u64>, Option<u64>, Option<String>);

fn place(section: &DatabaseSection) -> (Option<&str>, &str) {
    let table = section.sessions_table.as_str();
    table
        .split_once('.')
        .map_or((None, table), |(schema, table)| (Some(schema), table))
}

/// None where there is no such table.
fn columns(connection: &mut Conn, section: &DatabaseSection) -> mysql::Result<Vec<Told>> {
    let ask = "SELECT COLUMN_NAME, DATA_TYPE, CHARACTER_MAXIMUM_LENGTH, CHARACTER_OCTET_LENGTH, \
               CHARACTER_SET_NAME FROM information_schema.COLUMNS \
               WHERE TABLE_SCHEMA = COALESCE(?, DATABASE()) AND TABLE_NAME = ?";
    connection.exec(ask, place(section))
}

/// Whether an index keeps the key from being there twice.
fn is_unique(connection: &mut Conn, section: &DatabaseSection) -> mysql::Result<bool> {
    // A part of an index that is an expression has no column.
    let ask = "SELECT IF(COUNT(*) = COUNT(COLUMN_NAME), \
               GROUP_CONCAT(LOWER(COLUMN_NAME) ORDER BY LOWER(COLUMN_NAME)), NULL) FROM \
               information_schema.STATISTICS WHERE TABLE_SCHEMA = COALESCE(?, DATABASE()) AND TABLE_NAME = ? \
               AND NON_UNIQUE = 0 GROUP BY INDEX_NAME";
    let indices: Vec<Option<String>> = connection.exec(ask, place(section))?;
    Ok(indices.contains(&Some(key_columns(section))))
}

fn shape(
    connection: &mut Conn,
    section: &DatabaseSection,
    columns: &[Told],
    unique: bool,
) -> Result<Shape, String> {
    // A table has one as a rule.
    let mut sets: HashMap<&str, Letters> = HashMap::new();
    for set in columns.iter().filter_map(|column| column.4.as_deref()) {
        if !sets.contains_key(set) {
            let letters = letters(connection, set).map_err(|error| words(&error))?;
            sets.insert(set, letters);
        }
    }
    let column = |wanted: &str| {
        let mut columns = columns.iter();
        let found = columns.find(|(name, ..)| name.eq_ignore_ascii_case(wanted))?;
        let set = found.4.as_deref().and_then(|set| sets.get(set));
        Some(understood(found, set.cloned().unwrap_or(Letters::All)))
    };
    Shape::new(section, column, unique)
}

/// What a character set has. The server knows, of some forty: it is asked what becomes of each character.
fn letters(connection: &mut Conn, set: &str) -> mysql::Result<Letters> {
    match set {
        "utf8mb4" | "utf16" | "utf16le" | "utf32" | "gb18030" | "binary" => {
            return Ok(Letters::All);
        }
        "utf8" | "utf8mb3" | "ucs2" => return Ok(Letters::Basic),
        "ascii" => return Ok(Letters::Ascii),
        odd if !odd.bytes().all(|byte| byte.is_ascii_alphanumeric()) => return Ok(Letters::Ascii),
        _ => (),
    }
    let ask = format!("SELECT CONVERT(CONVERT(? USING {set}) USING utf8mb4)");
    let basic: Vec<char> = ('\u{1}'..='\u{ffff}').collect();
    let (mut asked, mut answered) = (String::new(), String::new());
    for part in basic.chunks(CHARACTERS_ASKED) {
        let part = String::from_iter(part);
        let answer: Option<Option<String>> = connection.exec_first(&ask, (&part,))?;
        answered.push_str(&answer.flatten().unwrap_or_default());
        asked.push_str(&part);
    }
    Ok(Letters::held(&asked, &answered))
}

/// A text's length is in bytes, that of a varchar in characters.
fn understood((_, kind, characters, bytes, set): &Told, letters: Letters) -> Column {
    let size = |size: &Option<u64>| size.and_then(|size| usize::try_from(size).ok());
    let in_characters = set.is_some() && kind.to_ascii_lowercase().ends_with("char");
    let room = if in_characters {
        size(characters).map(Room::Characters)
    } else {
        size(bytes).map(Room::Bytes)
    };
    Column {
        room: room.unwrap_or(Room::Any),
        letters,
    }
}

/// A connection.
struct Session {
    connection: Conn,
    /// Up to the rows.
    insert: String,
    find: String,
    shape: Shape,
    /// The name of the lock that is held.
    locked: Option<String>,
}

impl Link for Session {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn is_alive(&mut self, idle: Duration) -> bool {
        idle < TRUSTED_FOR || self.connection.ping().is_ok()
    }

    fn insert(&mut self, rows: &[Row]) -> Result<(), Failure> {
        let statement = self.insert.clone() + &vec!["(?, ?, ?, ?)"; rows.len()].join(", ");
        let values = rows.iter().flat_map(|row| {
            let [call_id, from_tag, to_tag] = key(row);
            [call_id, from_tag, to_tag, Value::from(&*row.info)]
        });
        let values: Vec<Value> = values.collect();
        self.connection
            .exec_drop(statement, values)
            .map_err(failure)
    }

    fn find(&mut self, row: &Row) -> Result<Vec<Vec<u8>>, Failure> {
        let found: mysql::Result<Vec<Option<Vec<u8>>>> =
            self.connection.exec(&self.find, key(row).to_vec());
        let found = found.map_err(failure)?;
        Ok(found.into_iter().map(Option::unwrap_or_default).collect())
    }

    /// The server frees it when the connection ends, and not before it has done what the connection asked for.
    fn lock(&mut self, session_id: &str) -> Result<(), Failure> {
        let name: String = session_id.chars().take(64).collect();
        let ask = "SELECT GET_LOCK(?, ?)";
        let got = self
            .connection
            .exec_first(ask, (&name, LOCK_LIMIT.as_secs()));
        self.locked = Some(name);
        match got.map_err(failure)?.flatten() {
            Some(1u8) => Ok(()),
            _ => Err(Failure::Unavailable(
                "an earlier connection is at the same record still".into(),
            )),
        }
    }

    fn unlock(&mut self) -> Result<(), Failure> {
        let name = self.locked.take();
        let freed = self.connection.exec_drop("DO RELEASE_LOCK(?)", (name,));
        freed.map_err(failure)
    }
}

fn key(row: &Row) -> [Value; 3] {
    let to_tag = row.to_tag.as_deref().map_or(Value::NULL, Value::from);
    [
        Value::from(&*row.call_id),
        Value::from(&*row.from_tag),
        to_tag,
    ]
}

/// What went wrong at the socket.
fn at_socket(error: &Error) -> Option<&io::Error> {
    match error {
        Error::IoError(error) => Some(error),
        // None for a packet that is too large, or out of order.
        Error::CodecError(error) => error.source()?.downcast_ref(),
        _ => None,
    }
}

/// A failed handshake comes as bad data from the socket.
fn is_about_tls(error: &Error) -> bool {
    match error {
        Error::DriverError(DriverError::TlsNotSupported) | Error::TlsError(_) => true,
        other => at_socket(other).is_some_and(|error| error.kind() == io::ErrorKind::InvalidData),
    }
}

fn words(error: &Error) -> String {
    if let Some(error) = at_socket(error) {
        return match error.kind() {
            io::ErrorKind::WouldBlock => {
                format!("no answer within {} s", STATEMENT_LIMIT.as_secs())
            }
            _ => error.to_string(),
        };
    }
    match error {
        Error::MySqlError(MySqlError { code, message, .. }) => format!("{message} (error {code})"),
        Error::DriverError(DriverError::CouldNotConnect(Some((_, why, _)))) => why.clone(),
        Error::DriverError(DriverError::TlsNotSupported) => "the server offers no TLS".into(),
        other => other.to_string(),
    }
}

/// By <https://mariadb.com/kb/en/mariadb-error-codes/>; SQLSTATE classes 22 (data) and 23 (constraints).
fn failure(error: Error) -> Failure {
    let text = words(&error);
    match &error {
        Error::MySqlError(error) => match (error.code, error.state.get(..2)) {
            // ER_DUP_ENTRY and its kin.
            (1062 | 1022 | 1169 | 1586, _) => Failure::Duplicate(text),
            // Too large a packet or row, a wrong character, a check, a trigger's word.
            (1153 | 1118 | 1366 | 3140 | 3819 | 4025 | 1644, _) | (_, Some("22" | "23")) => {
                Failure::Row(text)
            }
            _ => Failure::Unavailable(text),
        },
        Error::DriverError(DriverError::PacketTooLarge) => Failure::Row(text),
        // The packet is larger than the server takes.
        Error::CodecError(_)
            if at_socket(&error).is_none() && text.contains("max_allowed_packet") =>
        {
            Failure::Row(text)
        }
        _ => Failure::Unavailable(text),
    }
}
