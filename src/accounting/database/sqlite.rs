//! SQLite, in a file.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::info;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, Error, ErrorCode, OpenFlags, TransactionBehavior, ffi, params};

use super::delivery::{Driver, Failure, LOCK_LIMIT, Link};
use super::table::{Column, Quoted, Row, Shape, key_columns};
use crate::config::{DatabaseSection, DatabaseUri};
use crate::sys::files::check_target;

/// See the module.
pub(super) struct Sqlite {
    path: PathBuf,
    section: DatabaseSection,
}

impl Sqlite {
    /// # Errors
    /// Never, for this kind.
    pub(super) fn new(uri: &DatabaseUri, section: &DatabaseSection) -> Result<Sqlite, String> {
        let DatabaseUri::Sqlite(path) = uri else {
            return Err("this is not the URI of a file".into());
        };
        Ok(Sqlite {
            path: path.clone(),
            section: section.clone(),
        })
    }

    fn open(&self) -> Result<(Connection, (u64, u64)), String> {
        let made = make(&self.path).and_then(|()| identity(&self.path));
        let identity = made.map_err(|error| error.to_string())?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(&self.path, flags).and_then(|connection| {
            connection.busy_timeout(LOCK_LIMIT)?;
            // In KiB; and what is reported delivered is on the disk.
            connection.pragma_update(None, "cache_size", -256)?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            Ok(connection)
        });
        Ok((opened.map_err(|error| words(&error))?, identity))
    }

    fn link(&self, connection: Connection, identity: (u64, u64)) -> Result<File, String> {
        let told = |error: Error| words(&error);
        let section = &self.section;
        let names = Quoted::new(section, '"');
        let mut types = columns(&connection, section).map_err(told)?;
        if types.is_empty() {
            let create = names.create(["INTEGER PRIMARY KEY", "VARCHAR(255)", "BLOB"], "");
            connection.execute_batch(&create).map_err(|error| {
                let why = words(&error);
                format!("the table cannot be made: {why}; the statement is: {create}")
            })?;
            let place = self.path.display();
            info!("accounting: {place}: made the table {}", names.table);
            types = columns(&connection, section).map_err(told)?;
        }
        let unique = is_unique(&connection, section).map_err(told)?;
        let find = |wanted: &str| {
            let mut columns = types.iter();
            columns.find(|(name, _)| name.eq_ignore_ascii_case(wanted))
        };
        // Lengths are not kept to.
        let shape = Shape::new(section, |wanted| find(wanted).map(|_| Column::ANY), unique)?;
        let kind =
            find(&section.info_column).map_or(String::new(), |(_, kind)| kind.to_uppercase());
        Ok(File {
            insert: format!(
                "INSERT INTO {} ({}, {}) VALUES (?, ?, ?, ?)",
                names.table,
                names.key(),
                names.info
            ),
            find: format!(
                "SELECT {} FROM {} WHERE {} = ? AND {} = ? AND {} IS ? LIMIT 100",
                names.info, names.table, names.call_id, names.from_tag, names.to_tag
            ),
            path: self.path.clone(),
            text: ["CHAR", "CLOB", "TEXT"]
                .iter()
                .any(|text| kind.contains(text)),
            shape,
            connection,
            identity,
        })
    }
}

impl Driver for Sqlite {
    fn connect(&self) -> Result<Box<dyn Link>, String> {
        let linked = self
            .open()
            .and_then(|(connection, identity)| self.link(connection, identity));
        match linked {
            Ok(file) => Ok(Box::new(file)),
            Err(why) => Err(format!("{}: {why}", self.path.display())),
        }
    }
}

/// Makes the file where there is none, not for everybody to read, and its directory.
fn make(path: &Path) -> io::Result<()> {
    // SQLite would wait for ever for what a FIFO says.
    check_target(path)?;
    if path.exists() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut options = OpenOptions::new();
    options
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
        .map(drop)
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// Schema and table, as the functions about tables take them.
fn place(section: &DatabaseSection) -> (&str, &str) {
    let table = section.sessions_table.as_str();
    table.split_once('.').unwrap_or(("main", table))
}

/// Names and types; none where there is no such table.
fn columns(
    connection: &Connection,
    section: &DatabaseSection,
) -> rusqlite::Result<Vec<(String, String)>> {
    let (schema, table) = place(section);
    let mut statement = connection.prepare("SELECT name, type FROM pragma_table_info(?, ?)")?;
    let rows = statement.query_map([table, schema], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

/// Whether an index keeps the key from being there twice.
fn is_unique(connection: &Connection, section: &DatabaseSection) -> rusqlite::Result<bool> {
    let (schema, table) = place(section);
    let mut statement = connection.prepare(
        "SELECT (SELECT group_concat(lower(name)) FROM (SELECT name FROM pragma_index_info(list.name, ?1) \
         ORDER BY lower(name))) FROM pragma_index_list(?2, ?1) list WHERE \"unique\" AND NOT partial",
    )?;
    let key = key_columns(section);
    let rows = statement.query_map([schema, table], |row| row.get::<_, Option<String>>(0))?;
    let indices: rusqlite::Result<Vec<Option<String>>> = rows.collect();
    Ok(indices?.into_iter().flatten().any(|columns| columns == key))
}

/// An open file.
struct File {
    connection: Connection,
    path: PathBuf,
    /// Device and inode, to know the file again.
    identity: (u64, u64),
    insert: String,
    find: String,
    shape: Shape,
    /// Whether the statistics are stored as text, and not as a blob.
    text: bool,
}

/// Statistics as the column wants them.
struct Info<'a>(&'a str, bool);

impl ToSql for Info<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let Info(json, text) = self;
        Ok(ToSqlOutput::Borrowed(if *text {
            ValueRef::Text(json.as_bytes())
        } else {
            ValueRef::Blob(json.as_bytes())
        }))
    }
}

fn insert(connection: &Connection, sql: &str, rows: &[Row], text: bool) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(sql)?;
    for row in rows {
        let info = Info(&row.info, text);
        statement.execute(params![row.call_id, row.from_tag, row.to_tag, info])?;
    }
    Ok(())
}

impl Link for File {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The file may have been moved or removed under us; SQLite would go on writing to it.
    fn is_alive(&mut self, _: Duration) -> bool {
        identity(&self.path).is_ok_and(|identity| identity == self.identity)
    }

    fn insert(&mut self, rows: &[Row]) -> Result<(), Failure> {
        let Self {
            connection,
            insert: sql,
            text,
            ..
        } = self;
        if !connection.is_autocommit() {
            return insert(connection, sql, rows, *text).map_err(failure);
        }
        let added = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .and_then(|transaction| {
                insert(&transaction, sql, rows, *text)?;
                transaction.commit()
            });
        added.map_err(failure)
    }

    fn find(&mut self, row: &Row) -> Result<Vec<Vec<u8>>, Failure> {
        let found = self
            .connection
            .prepare(&self.find)
            .and_then(|mut statement| {
                let key = params![row.call_id, row.from_tag, row.to_tag];
                let infos = statement.query_map(key, |row| {
                    let info = row.get_ref(0)?;
                    Ok(info
                        .as_bytes_or_null()
                        .ok()
                        .flatten()
                        .unwrap_or_default()
                        .to_vec())
                })?;
                infos.collect()
            });
        found.map_err(failure)
    }

    fn lock(&mut self, _: &str) -> Result<(), Failure> {
        self.connection
            .execute_batch("BEGIN IMMEDIATE")
            .map_err(failure)
    }

    fn unlock(&mut self) -> Result<(), Failure> {
        self.connection.execute_batch("COMMIT").map_err(failure)
    }
}

fn words(error: &Error) -> String {
    match error {
        Error::SqliteFailure(code, None) => code.to_string(),
        other => other.to_string(),
    }
}

fn failure(error: Error) -> Failure {
    let text = words(&error);
    let Error::SqliteFailure(code, _) = error else {
        return Failure::Unavailable(text);
    };
    match (code.code, code.extended_code) {
        (_, ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY) => {
            Failure::Duplicate(text)
        }
        (ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch, _) => {
            Failure::Row(text)
        }
        _ => Failure::Unavailable(text),
    }
}
