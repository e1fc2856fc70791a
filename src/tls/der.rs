//! Reads DER (X.690): tag, length, value, and the strings of certificates.
//!
//! Only what certificates and CRLs need (RFC 5280): no indefinite lengths, no tags of several bytes.
//! Nothing here panics on any input; what does not fit is [`Malformed`].

/// Tags used by certificates and CRLs.
pub(super) mod tag {
    pub(crate) const BOOLEAN: u8 = 0x01;
    pub(crate) const INTEGER: u8 = 0x02;
    pub(crate) const BIT_STRING: u8 = 0x03;
    pub(crate) const OCTET_STRING: u8 = 0x04;
    pub(crate) const OID: u8 = 0x06;
    pub(crate) const UTF8_STRING: u8 = 0x0c;
    pub(crate) const UTC_TIME: u8 = 0x17;
    pub(crate) const GENERALIZED_TIME: u8 = 0x18;
    pub(crate) const UNIVERSAL_STRING: u8 = 0x1c;
    pub(crate) const BMP_STRING: u8 = 0x1e;
    pub(crate) const SEQUENCE: u8 = 0x30;
    pub(crate) const SET: u8 = 0x31;
    /// `[0]`, constructed.
    pub(crate) const CONTEXT_0: u8 = 0xa0;
    /// `[1]`, primitive; unique identifiers and the like.
    pub(crate) const CONTEXT_1: u8 = 0x81;
    /// `[2]`, primitive.
    pub(crate) const CONTEXT_2: u8 = 0x82;
    /// `[3]`, constructed.
    pub(crate) const CONTEXT_3: u8 = 0xa3;
}

/// The bytes are not the DER that was expected; says which part could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cut short or damaged at: {}", self.0)
    }
}

/// One element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tlv<'a> {
    pub tag: u8,
    /// The value alone.
    pub content: &'a [u8],
    /// Tag, length and value.
    pub whole: &'a [u8],
}

/// Walks over elements that follow one another.
#[derive(Clone, Copy, Debug)]
pub struct Der<'a> {
    rest: &'a [u8],
}

impl<'a> Der<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Der { rest: bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next element, whatever it is; `what` names it in the error.
    pub fn any(&mut self, what: &'static str) -> Result<Tlv<'a>, Malformed> {
        let (tlv, rest) = split(self.rest).ok_or(Malformed(what))?;
        self.rest = rest;
        Ok(tlv)
    }

    /// The next element, which must have this tag.
    pub fn expect(&mut self, tag: u8, what: &'static str) -> Result<Tlv<'a>, Malformed> {
        let tlv = self.any(what)?;
        if tlv.tag == tag {
            Ok(tlv)
        } else {
            Err(Malformed(what))
        }
    }

    /// The next element if it has this tag.
    pub fn optional(&mut self, tag: u8, what: &'static str) -> Result<Option<Tlv<'a>>, Malformed> {
        if self.rest.first() == Some(&tag) {
            self.any(what).map(Some)
        } else {
            Ok(None)
        }
    }

    /// Whether a time comes next.
    pub fn at_time(&self) -> bool {
        matches!(
            self.rest.first(),
            Some(&tag::UTC_TIME | &tag::GENERALIZED_TIME)
        )
    }

    /// Nothing may follow.
    pub fn end(&self, what: &'static str) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Malformed(what))
        }
    }
}

/// The first element and what follows it.
fn split(bytes: &[u8]) -> Option<(Tlv<'_>, &[u8])> {
    let (&tag, after_tag) = bytes.split_first()?;
    if tag & 0x1f == 0x1f {
        return None;
    }
    let (&first, mut value) = after_tag.split_first()?;
    let mut length = usize::from(first);
    if first >= 0x80 {
        let digits = usize::from(first & 0x7f);
        if digits == 0 || digits > 4 {
            return None;
        }
        let (head, tail) = value.split_at_checked(digits)?;
        length = head
            .iter()
            .fold(0usize, |sum, &byte| (sum << 8) | usize::from(byte));
        value = tail;
    }
    let (content, rest) = value.split_at_checked(length)?;
    let whole = bytes.get(..bytes.len() - rest.len())?;
    Some((
        Tlv {
            tag,
            content,
            whole,
        },
        rest,
    ))
}

/// The bytes of a BIT STRING whose number of bits is a multiple of eight.
pub(super) fn bit_string(content: &[u8]) -> Option<&[u8]> {
    match content.split_first() {
        Some((0, bits)) => Some(bits),
        _ => None,
    }
}

/// An INTEGER's bytes without the leading zeros that change nothing, so that equal numbers are equal bytes.
pub(super) fn integer(content: &[u8]) -> &[u8] {
    let mut bytes = content;
    while let [0, rest @ ..] = bytes {
        match rest.first() {
            Some(next) if *next < 0x80 => bytes = rest,
            _ => break,
        }
    }
    bytes
}

/// Text of an ASN.1 string type. T61String is read as Latin-1, as every implementation does; so is an
/// unknown type, so that something can be shown and compared.
pub(super) fn text(tag: u8, content: &[u8]) -> String {
    match tag {
        tag::UTF8_STRING => String::from_utf8_lossy(content).into_owned(),
        tag::BMP_STRING => {
            let units = content
                .chunks(2)
                .map(|pair| pair.iter().fold(0u16, |sum, &b| (sum << 8) | u16::from(b)));
            char::decode_utf16(units)
                .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
                .collect()
        }
        tag::UNIVERSAL_STRING => content
            .chunks(4)
            .map(|four| four.iter().fold(0u32, |sum, &b| (sum << 8) | u32::from(b)))
            .map(|code| char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect(),
        _ => content.iter().map(|&byte| char::from(byte)).collect(),
    }
}

/// An object identifier in dotted form, `1.2.840.113549.1.1.5`.
pub(super) fn dotted(oid: &[u8]) -> String {
    let mut text = String::new();
    let mut arc: u64 = 0;
    for &byte in oid {
        arc = (arc << 7) | u64::from(byte & 0x7f);
        if byte & 0x80 != 0 {
            continue;
        }
        if text.is_empty() {
            let first = (arc / 40).min(2);
            text = format!("{first}.{}", arc - first * 40);
        } else {
            text.push_str(&format!(".{arc}"));
        }
        arc = 0;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_lengths() {
        let mut der = Der::new(&[0x02, 0x01, 0x07, 0x04, 0x81, 0x02, 0xaa, 0xbb]);
        assert_eq!(der.any("a").unwrap().content, [7]);
        let second = der.expect(tag::OCTET_STRING, "b").unwrap();
        assert_eq!(second.content, [0xaa, 0xbb]);
        assert_eq!(second.whole, [0x04, 0x81, 0x02, 0xaa, 0xbb]);
        assert!(der.is_empty());
    }

    #[test]
    fn refuses_what_it_does_not_read() {
        for bad in [
            &[][..],
            &[0x30],
            &[0x30, 0x80, 0, 0],                   // indefinite
            &[0x30, 0x85, 0, 0, 0, 0, 1, 0],       // five length bytes
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], // 4 GiB that are not there
            &[0x1f, 0x81, 0x01, 0x00],             // a tag of several bytes
            &[0x30, 0x02, 0x00],                   // one byte short
        ] {
            assert_eq!(Der::new(bad).any("it"), Err(Malformed("it")), "{bad:?}");
        }
    }

    #[test]
    fn integers_compare_as_numbers() {
        assert_eq!(integer(&[0, 0, 5]), [5]);
        assert_eq!(integer(&[0, 0x80]), [0, 0x80]);
        assert_eq!(integer(&[0]), [0]);
        assert_eq!(integer(&[]), [0u8; 0]);
    }

    #[test]
    fn strings_of_every_type() {
        assert_eq!(text(tag::UTF8_STRING, "Zürich".as_bytes()), "Zürich");
        assert_eq!(text(0x14, b"Z\xfcrich"), "Zürich");
        assert_eq!(text(0x13, b"Sample"), "Sample");
        assert_eq!(
            text(tag::BMP_STRING, &[0, b'a', 0x20, 0xac, 0xd8]),
            "a€\u{d8}"
        );
        assert_eq!(text(tag::BMP_STRING, &[0xd8, 0x00]), "\u{fffd}");
        assert_eq!(
            text(tag::UNIVERSAL_STRING, &[0, 0, 0, b'x', 0xff, 0xff, 0, 0]),
            "x\u{fffd}"
        );
    }

    #[test]
    fn object_identifiers() {
        assert_eq!(dotted(&[0x55, 0x04, 0x03]), "2.5.4.3");
        assert_eq!(
            dotted(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05]),
            "1.2.840.113549.1.1.5"
        );
        assert_eq!(dotted(&[0x88, 0x37]), "2.999");
        assert_eq!(dotted(&[0xff; 40]), "");
    }
}
