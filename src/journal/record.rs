//! One record of a journal: `CRC32 TEXT` and a line feed, so that `cut -c10-` shows what a journal holds. Pure.
//!
//! The checksum is that of the text, eight hexadecimal digits (CRC-32/ISO-HDLC, as of zlib). A text has no line feed,
//! so that reading goes on behind whatever is damaged.

use std::fmt;
use std::io::Write;

/// The checksum and a blank.
const CHECKSUM_SIZE: usize = 9;

/// Bytes of the longest text: the largest statistics that a relay may send, with what the dispatcher adds.
pub const MAX_RECORD: usize = 5 << 20;

/// Why a record cannot be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    TooLong,
    LineFeed,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unfit::TooLong => "it is longer than 5 MiB",
            Unfit::LineFeed => "it has a line feed in it",
        })
    }
}

/// Appends a record.
///
/// # Errors
/// What no journal can hold; `out` is as before.
pub(super) fn write(out: &mut Vec<u8>, text: &[u8]) -> Result<(), Unfit> {
    if text.len() > MAX_RECORD {
        return Err(Unfit::TooLong);
    }
    if text.contains(&b'\n') {
        return Err(Unfit::LineFeed);
    }
    out.reserve(CHECKSUM_SIZE + text.len() + 1);
    let _ = write!(out, "{:08x} ", crc32fast::hash(text)); // a Vec takes all
    out.extend_from_slice(text);
    out.push(b'\n');
    Ok(())
}

/// The text of a line without its line feed; none where it is damaged.
pub(super) fn text(line: &[u8]) -> Option<&[u8]> {
    let (head, text) = line.split_at_checked(CHECKSUM_SIZE)?;
    let digits = std::str::from_utf8(head.strip_suffix(b" ")?).ok()?;
    // from_str_radix would take a sign.
    let are_digits = digits.bytes().all(|b| b.is_ascii_hexdigit());
    let sum = u32::from_str_radix(digits, 16).ok()?;
    (are_digits && sum == crc32fast::hash(text)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_that_people_can_read() {
        let mut out = Vec::new();
        write(&mut out, b"123456789").unwrap();
        // The check value of CRC-32/ISO-HDLC.
        assert_eq!(out, b"cbf43926 123456789\n");
        assert_eq!(text(&out[..out.len() - 1]), Some(&b"123456789"[..]));
    }

    #[test]
    fn every_damage_is_seen() {
        let mut out = Vec::new();
        write(&mut out, b"{\"call_id\":\"a\"}").unwrap();
        let line = &out[..out.len() - 1];
        for cut in 0..line.len() {
            assert_eq!(text(&line[..cut]), None, "cut at {cut}");
        }
        for at in 0..line.len() {
            let mut damaged = line.to_vec();
            damaged[at] ^= 0x01;
            assert_eq!(text(&damaged), None, "changed at {at}");
        }
    }

    #[test]
    fn what_would_not_be_one_line_is_refused() {
        let mut out = Vec::new();
        assert_eq!(write(&mut out, b"a\nb"), Err(Unfit::LineFeed));
        assert_eq!(
            write(&mut out, &vec![b'x'; MAX_RECORD + 1]),
            Err(Unfit::TooLong)
        );
        assert!(out.is_empty());
        assert_eq!(write(&mut out, &vec![b'x'; MAX_RECORD]), Ok(()));
    }
}
