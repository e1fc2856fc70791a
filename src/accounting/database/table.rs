//! The table of sessions: its names, what its columns hold, and a record cut to it. Pure.

use std::borrow::Cow;
use std::sync::Arc;

use crate::accounting::Record;
use crate::config::DatabaseSection;

/// Table and columns as they stand in a statement, quoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Quoted {
    pub table: String,
    pub call_id: String,
    pub from_tag: String,
    pub to_tag: String,
    pub info: String,
}

impl Quoted {
    pub(super) fn new(section: &DatabaseSection, mark: char) -> Quoted {
        let quoted = |name: &str| {
            let doubled = name.replace(mark, &format!("{mark}{mark}"));
            format!("{mark}{doubled}{mark}")
        };
        let table: Vec<String> = section.sessions_table.split('.').map(quoted).collect();
        Quoted {
            table: table.join("."),
            call_id: quoted(&section.callid_column),
            from_tag: quoted(&section.fromtag_column),
            to_tag: quoted(&section.totag_column),
            info: quoted(&section.info_column),
        }
    }

    /// The three columns that no two rows have in common.
    pub(super) fn key(&self) -> String {
        [&self.call_id[..], &self.from_tag, &self.to_tag].join(", ")
    }

    /// The statement that makes the table with these types, the first for `id`, the last for the statistics.
    pub(super) fn create(&self, [id, key, info]: [&str; 3], options: &str) -> String {
        let Quoted {
            table,
            call_id,
            from_tag,
            to_tag,
            info: column,
        } = self;
        let mark = call_id.chars().next().unwrap_or_default();
        format!(
            "CREATE TABLE {table} ({mark}id{mark} {id}, {call_id} {key} NOT NULL, {from_tag} {key} NOT NULL, \
             {to_tag} {key}, {column} {info}, UNIQUE ({})){options}",
            self.key()
        )
    }
}

/// How much a column takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Any,
    Characters(usize),
    Bytes(usize),
}

/// Which characters a column takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Letters {
    All,
    /// Those of UTF-8 with up to three bytes.
    Basic,
    Ascii,
    /// These, in order, as the server says.
    These(Arc<[char]>),
}

impl Letters {
    /// What the server held of some characters: those that came back from it as they were, the others being replaced
    /// one by one.
    pub(super) fn held(asked: &str, answered: &str) -> Letters {
        let pairs = || asked.chars().zip(answered.chars());
        if asked.chars().count() == answered.chars().count() {
            Letters::These(pairs().filter(|(a, b)| a == b).map(|(a, _)| a).collect())
        } else {
            Letters::Ascii
        }
    }

    fn has(&self, c: char) -> bool {
        match self {
            Letters::All => true,
            Letters::Basic => c.len_utf8() < 4,
            Letters::Ascii => c.is_ascii(),
            Letters::These(letters) => letters.binary_search(&c).is_ok(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub room: Room,
    pub letters: Letters,
}

impl Column {
    pub(super) const ANY: Column = Column {
        room: Room::Any,
        letters: Letters::All,
    };

    /// A text as the column takes it: cut, and `?` for each character that it cannot hold. A zero byte is one:
    /// PostgreSQL takes it nowhere.
    fn fit<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let text = self.cut(text);
        let fits = |c: char| c != '\0' && self.letters.has(c);
        if text.chars().all(fits) {
            return Cow::Borrowed(text);
        }
        let replaced = text.chars().map(|c| if fits(c) { c } else { '?' });
        Cow::Owned(replaced.collect())
    }

    fn cut<'a>(&self, text: &'a str) -> &'a str {
        let end = match self.room {
            Room::Any => None,
            Room::Characters(count) => text.char_indices().nth(count).map(|(end, _)| end),
            Room::Bytes(count) if text.len() <= count => None,
            Room::Bytes(count) => (0..=count).rev().find(|&end| text.is_char_boundary(end)),
        };
        end.and_then(|end| text.get(..end)).unwrap_or(text)
    }

    fn has_room_for(&self, text: &str) -> bool {
        match self.room {
            Room::Any => true,
            Room::Characters(count) => text.chars().count() <= count,
            Room::Bytes(count) => text.len() <= count,
        }
    }
}

/// What the columns hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub call_id: Column,
    pub from_tag: Column,
    pub to_tag: Column,
    pub info: Column,
    /// Whether the database itself keeps a second row with the same key out.
    pub unique: bool,
}

/// A record as it goes into the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row<'a> {
    pub session_id: &'a str,
    pub call_id: Cow<'a, str>,
    pub from_tag: Cow<'a, str>,
    pub to_tag: Option<Cow<'a, str>>,
    pub info: Cow<'a, str>,
}

/// The key's columns in lower case and order, parted by commas: to find the index that has just these.
pub(super) fn key_columns(section: &DatabaseSection) -> String {
    let columns = [
        &section.callid_column,
        &section.fromtag_column,
        &section.totag_column,
    ];
    let mut columns = columns.map(|column| column.to_lowercase());
    columns.sort();
    columns.join(",")
}

impl Shape {
    /// What a table has, where `column` knows its columns.
    ///
    /// # Errors
    /// One is missing.
    pub(super) fn new(
        section: &DatabaseSection,
        column: impl Fn(&str) -> Option<Column>,
        unique: bool,
    ) -> Result<Shape, String> {
        let column = |wanted: &str| {
            let table = &section.sessions_table;
            column(wanted).ok_or_else(|| format!("the table {table} has no column {wanted}"))
        };
        Ok(Shape {
            call_id: column(&section.callid_column)?,
            from_tag: column(&section.fromtag_column)?,
            to_tag: column(&section.totag_column)?,
            info: column(&section.info_column)?,
            unique,
        })
    }

    /// The record cut to the columns.
    ///
    /// # Errors
    /// The statistics have no room: they are never cut.
    pub(super) fn row<'a>(&self, record: &'a Record) -> Result<Row<'a>, String> {
        let info = match self.info.letters {
            Letters::All => Cow::Borrowed(&*record.info),
            _ => escaped(&record.info),
        };
        if !self.info.has_room_for(&info) {
            return Err(format!(
                "{} bytes of statistics do not fit into the column for them, which holds {}",
                info.len(),
                match self.info.room {
                    Room::Any => "any".to_owned(),
                    Room::Characters(count) => format!("{count} characters"),
                    Room::Bytes(count) => format!("{count} bytes"),
                }
            ));
        }
        let to_tag = record.to_tag.as_deref();
        Ok(Row {
            session_id: &record.session_id,
            call_id: self.call_id.fit(&record.call_id),
            from_tag: self.from_tag.fit(&record.from_tag),
            to_tag: to_tag.map(|tag| self.to_tag.fit(tag)),
            info,
        })
    }

    /// Whether nobody but us keeps this row from being there twice.
    pub(super) fn needs_a_look(&self, row: &Row) -> bool {
        row.to_tag.is_none() || !self.unique
    }
}

/// The same JSON in ASCII: beyond it are only characters of strings, which may be written so (RFC 8259 section 7).
fn escaped(json: &str) -> Cow<'_, str> {
    if json.is_ascii() {
        return Cow::Borrowed(json);
    }
    let mut ascii = String::with_capacity(json.len() * 2);
    for c in json.chars() {
        if c.is_ascii() {
            ascii.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                ascii.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    Cow::Owned(ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(table: &str, column: &str) -> DatabaseSection {
        DatabaseSection {
            databases: Vec::new(),
            sessions_table: table.into(),
            callid_column: column.into(),
            fromtag_column: "from_tag".into(),
            totag_column: "to_tag".into(),
            info_column: "info".into(),
        }
    }

    fn record(call_id: &str, to_tag: Option<&str>) -> Record {
        let to_tag = serde_json::to_string(&to_tag).unwrap();
        let info = format!(
            r#"{{"call_id":"{call_id}","from_tag":"f","to_tag":{to_tag},"session_id":"s"}}"#
        );
        Record::parse(&info).unwrap()
    }

    #[test]
    fn names_are_quoted_whatever_they_are() {
        let names = Quoted::new(&section("acc.s`x", "a`; drop table b"), '`');
        assert_eq!(names.table, "`acc`.`s``x`");
        assert_eq!(names.call_id, "`a``; drop table b`");
        let names = Quoted::new(&section("t", "c"), '"');
        assert_eq!(
            names.create(["INT", "TEXT", "BLOB"], " X"),
            "CREATE TABLE \"t\" (\"id\" INT, \"c\" TEXT NOT NULL, \"from_tag\" TEXT NOT NULL, \"to_tag\" TEXT, \
             \"info\" BLOB, UNIQUE (\"c\", \"from_tag\", \"to_tag\")) X"
        );
    }

    #[test]
    fn keys_are_cut_and_statistics_never() {
        let mut shape = Shape {
            call_id: Column::ANY,
            from_tag: Column::ANY,
            to_tag: Column::ANY,
            info: Column::ANY,
            unique: true,
        };
        let record = record("a\u{e9}\u{1f600}z", Some("t"));
        let row = shape.row(&record).unwrap();
        assert_eq!((&*row.call_id, &*row.info), ("aé😀z", &*record.info));
        let of_latin1 = Letters::held("\u{1}?az\u{e9}\u{20ac}", "\u{1}?az\u{e9}?");
        for (room, letters, stored) in [
            (Room::Any, of_latin1, "aé?z"),
            (Room::Any, Letters::held("az\u{e9}", "az"), "a??z"),
            (Room::Characters(3), Letters::All, "aé😀"),
            (Room::Bytes(6), Letters::All, "aé"),
            (Room::Bytes(7), Letters::All, "aé😀"),
            (Room::Bytes(0), Letters::All, ""),
            (Room::Any, Letters::Basic, "aé?z"),
            (Room::Characters(4), Letters::Ascii, "a??z"),
        ] {
            shape.call_id = Column { room, letters };
            assert_eq!(shape.row(&record).unwrap().call_id, stored);
        }
        let whole = record.info.len();
        for (room, fits) in [
            (Room::Bytes(whole), true),
            (Room::Bytes(whole - 1), false),
            (Room::Characters(whole - 4), true),
            (Room::Characters(whole - 5), false),
        ] {
            let letters = Letters::All;
            shape.info = Column { room, letters };
            assert_eq!(shape.row(&record).is_ok(), fits, "{room:?}");
        }
    }

    #[test]
    fn json_for_a_narrow_column_says_the_same() {
        let record = record("a\u{e9}\u{1f600}z", None);
        let narrow = Column {
            room: Room::Any,
            letters: Letters::Basic,
        };
        let shape = Shape {
            call_id: Column::ANY,
            from_tag: Column::ANY,
            to_tag: Column::ANY,
            info: narrow,
            unique: true,
        };
        let row = shape.row(&record).unwrap();
        assert!(row.info.contains(r"a\u00e9\ud83d\ude00z"), "{}", row.info);
        assert_eq!(Record::parse(&row.info).unwrap().call_id, record.call_id);
        assert!(shape.needs_a_look(&row));
    }

    #[test]
    fn a_zero_byte_is_replaced() {
        assert_eq!(Column::ANY.fit("a\0b"), "a?b");
    }
}
