//! Text protocols: bytes in, types out. Pure: no socket, clock or thread.
//!
//! Read `docs/protocol.md` for the wire forms. `line` bounds what a peer can make us hold, `control` turns
//! lines into requests and back, `media` reads one m= line, `demux` tells packets apart, `link` is what a
//! relay and a dispatcher say to each other, `record` what a call was like, `saved` how values are kept for another process.

mod component;
pub mod control;
pub mod demux;
pub mod elements;
pub mod line;
pub mod link;
pub mod media;
pub mod name;
mod party;
pub mod raw_object;
pub mod record;
pub mod saved;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

pub use self::component::{Component, PerComponent};
pub use self::party::{Party, PerParty};

/// Longest Call-ID, tag or dialog_id, bytes, wherever one is read. It is what a line of the SIP proxy's may have.
pub const MAX_ID: usize = 8 * 1024;

/// Bytes that are kept of a URI, a user agent or a user's name: what is only shown and accounted.
pub const MAX_TEXT: usize = 1024;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A header's value: any bytes but CR, LF and NUL, kept as they came.
///
/// Displayed as [`Excerpt`] does, what is not UTF-8 as `\xe9`, which [`Text::from_shown`] reads; serialised as a JSON string with what is not UTF-8 replaced by U+FFFD.
/// Cloning is cheap.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Text(Arc<[u8]>);

impl Text {
    /// The bytes as they came.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As much of a text as is kept where it is only shown: no character is cut in two.
    pub fn shortened(bytes: &[u8]) -> Text {
        let mut end = bytes.len().min(MAX_TEXT);
        if end < bytes.len() {
            let is_inside = |at: &usize| bytes.get(*at).is_some_and(|byte| byte & 0xc0 == 0x80);
            end = (end.saturating_sub(3)..=end)
                .rev()
                .find(|at| !is_inside(at))
                .unwrap_or(end);
        }
        bytes.get(..end).unwrap_or(bytes).into()
    }

    pub fn is_utf8(&self) -> bool {
        std::str::from_utf8(&self.0).is_ok()
    }

    /// As a text: U+FFFD for what is not UTF-8.
    pub fn lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }

    /// As a text: bytes that are not UTF-8 as `\xe9`, everything else as it is.
    pub fn escaped(&self) -> String {
        escaped(&self.0)
    }

    /// The bytes that a text shows where some are not UTF-8: `\x80` to `\xff` stand for one each. None where it shows
    /// no such bytes, and means itself.
    pub fn from_shown(text: &str) -> Option<Text> {
        let mut bytes = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("\\x") {
            bytes.extend_from_slice(before.as_bytes());
            let digits = after.get(..2);
            match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                Some(byte @ 0x80..) => {
                    bytes.push(byte);
                    rest = after.get(2..).unwrap_or_default();
                }
                _ => {
                    bytes.extend_from_slice(b"\\x");
                    rest = after;
                }
            }
        }
        bytes.extend_from_slice(rest.as_bytes());
        let meant = Text::from(bytes.as_slice());
        (!meant.is_utf8()).then_some(meant)
    }
}

impl From<&[u8]> for Text {
    fn from(bytes: &[u8]) -> Self {
        Text(bytes.into())
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Text(text.as_bytes().into())
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Excerpt(&self.0).fmt(f)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.lossy())
    }
}

/// As [`Text::escaped`].
pub fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        let invalid = chunk.invalid().iter();
        invalid.for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
    }
    text
}

/// A peer's bytes for people, in a log line as a rule: UTF-8 with control characters escaped, so that no line can be
/// forged, other bytes as `\xe9`, and no more than the first 200 of them, with the number of all: nobody may fill a log.
pub struct Excerpt<'a>(pub &'a [u8]);

/// Bytes of it that are shown.
const EXCERPT_SIZE: usize = 200;

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(beginning) = self
            .0
            .get(..EXCERPT_SIZE)
            .filter(|_| self.0.len() > EXCERPT_SIZE)
        else {
            return write_visible(self.0, f);
        };
        // Not within a character.
        let end = match std::str::from_utf8(beginning) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => EXCERPT_SIZE,
        };
        write_visible(beginning.get(..end).unwrap_or(beginning), f)?;
        write!(f, "... ({} bytes)", self.0.len())
    }
}

/// The same bytes, all of them.
pub struct Visible<'a>(pub &'a [u8]);

impl fmt::Display for Visible<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_visible(self.0, f)
    }
}

fn write_visible(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?;
            } else {
                fmt::Write::write_char(f, c)?;
            }
        }
        for byte in chunk.invalid() {
            write!(f, "\\x{byte:02x}")?;
        }
    }
    Ok(())
}

/// SIP Call-ID (RFC 3261 section 8.1.1.4).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct CallId(pub Text);

/// A From or To tag (RFC 3261 section 19.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Tag(pub Text);

/// The SIP proxy's name for a dialog: opaque but when the dialog is ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct DialogId(pub Text);

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for DialogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl DialogId {
    /// `h_entry` and `h_id`, where that is its form: decimal numbers, which OpenSIPS up to 3.0.0 prints as signed.
    pub fn halves(&self) -> Option<(u32, u32)> {
        let half = |text: &str| {
            let signed = || text.parse::<i32>().ok().map(i32::cast_unsigned);
            text.parse::<u32>().ok().or_else(signed)
        };
        let text = std::str::from_utf8(self.0.as_bytes()).ok()?;
        let (entry, id) = text.split_once(':')?;
        Some((half(entry)?, half(id)?))
    }
}

/// CSeq number (RFC 3261 section 8.1.1.5); each party numbers its own requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CSeq(pub u32);

/// Names one session wherever it goes: a random UUID (RFC 9562 section 5.4).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(u128);

impl SessionId {
    /// Its 128 bits.
    pub fn bits(self) -> u128 {
        self.0
    }

    /// A version 4 UUID of these random bits.
    pub fn from_random(bits: u128) -> Self {
        let version = (bits & !(0xf << 76)) | (0x4 << 76);
        SessionId((version & !(0x3 << 62)) | (0x2 << 62))
    }
}

impl std::str::FromStr for SessionId {
    type Err = ();

    /// Reads what [`SessionId`] displays, in either case.
    fn from_str(text: &str) -> Result<SessionId, ()> {
        if text.len() != 36 {
            return Err(());
        }
        let mut bits = 0;
        for (at, byte) in text.bytes().enumerate() {
            match (at, char::from(byte).to_digit(16)) {
                (8 | 13 | 18 | 23, _) if byte == b'-' => {}
                (8 | 13 | 18 | 23, _) | (_, None) => return Err(()),
                (_, Some(digit)) => bits = bits << 4 | u128::from(digit),
            }
        }
        Ok(SessionId(bits))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v = self.0;
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            v >> 96,
            (v >> 80) & 0xffff,
            (v >> 64) & 0xffff,
            (v >> 48) & 0xffff,
            v & 0xffff_ffff_ffff
        )
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for SessionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SessionId, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map_err(|()| serde::de::Error::custom("not a UUID"))
    }
}
