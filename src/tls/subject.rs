//! A certificate's subject: the attributes of an X.500 name (RFC 5280 section 4.1.2.6), as text.

use std::fmt;

use super::der::{self, Der, Malformed, tag};

/// The attributes that a passport can ask for, and their names in configurations and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    Organization,
    OrganizationalUnit,
    CommonName,
    Country,
    Locality,
    State,
    Email,
}

impl Attribute {
    /// All of them with short name and object identifier.
    const ALL: [(Attribute, &'static str, &'static [u8]); 7] = [
        (Attribute::Organization, "O", &[0x55, 4, 10]),
        (Attribute::OrganizationalUnit, "OU", &[0x55, 4, 11]),
        (Attribute::CommonName, "CN", &[0x55, 4, 3]),
        (Attribute::Country, "C", &[0x55, 4, 6]),
        (Attribute::Locality, "L", &[0x55, 4, 7]),
        (Attribute::State, "ST", &[0x55, 4, 8]),
        (
            Attribute::Email,
            "EMAIL",
            &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1],
        ),
    ];

    /// By its short name, in any case.
    pub fn from_name(name: &str) -> Option<Attribute> {
        Self::ALL
            .iter()
            .find(|(_, known, _)| known.eq_ignore_ascii_case(name))
            .map(|(attribute, _, _)| *attribute)
    }

    /// `O`, `OU`, `CN`, `C`, `L`, `ST` or `EMAIL`.
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(attribute, _, _)| *attribute == self)
            .map_or("", |(_, name, _)| name)
    }

    fn oid(self) -> &'static [u8] {
        Self::ALL
            .iter()
            .find(|(attribute, _, _)| *attribute == self)
            .map_or(&[], |(_, _, oid)| oid)
    }
}

/// A name as text. [`fmt::Display`] gives `O=Example, CN=relay1`, with control characters escaped, fit for a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Object identifier and value, in the order of the name.
    attributes: Vec<(Vec<u8>, String)>,
}

impl Subject {
    /// Reads the content of a Name: a sequence of sets of (type, value).
    pub fn parse(name: &[u8]) -> Result<Subject, Malformed> {
        let what = "a name";
        let mut attributes = Vec::new();
        let mut sets = Der::new(name);
        while !sets.is_empty() {
            let mut pairs = Der::new(sets.expect(tag::SET, what)?.content);
            while !pairs.is_empty() {
                let mut pair = Der::new(pairs.expect(tag::SEQUENCE, what)?.content);
                let oid = pair.expect(tag::OID, what)?;
                let value = pair.any(what)?;
                pair.end(what)?;
                attributes.push((oid.content.to_vec(), der::text(value.tag, value.content)));
            }
        }
        Ok(Subject { attributes })
    }

    /// All values of an attribute; a name may have several organizational units, for example.
    pub fn values(&self, attribute: Attribute) -> impl Iterator<Item = &str> {
        self.attributes
            .iter()
            .filter(move |(oid, _)| oid == attribute.oid())
            .map(|(_, value)| value.as_str())
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.attributes.is_empty() {
            return f.write_str("(empty name)");
        }
        for (index, (oid, value)) in self.attributes.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            match Attribute::ALL.iter().find(|(_, _, known)| known == oid) {
                Some((_, name, _)) => f.write_str(name)?,
                None => f.write_str(&der::dotted(oid))?,
            }
            write!(f, "={}", Printable(value))?;
        }
        Ok(())
    }
}

/// Text with its control characters and line separators escaped.
struct Printable<'a>(&'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
                write!(f, "{}", c.escape_default())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The content of a Name with one attribute in each set.
    pub(crate) fn name(attributes: &[(Attribute, u8, &[u8])]) -> Vec<u8> {
        let mut name = Vec::new();
        for (attribute, kind, value) in attributes {
            let oid = element(tag::OID, attribute.oid());
            let pair = [oid, element(*kind, value)].concat();
            name.extend(element(tag::SET, &element(tag::SEQUENCE, &pair)));
        }
        name
    }

    fn element(kind: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind, u8::try_from(content.len()).unwrap()];
        bytes.extend_from_slice(content);
        bytes
    }

    #[test]
    fn reads_and_shows() {
        let der = name(&[
            (Attribute::Country, 0x13, b"NL"),
            (Attribute::OrganizationalUnit, 0x14, b"D\xfcsseldorf"),
            (Attribute::OrganizationalUnit, tag::UTF8_STRING, b"second"),
            (Attribute::CommonName, tag::BMP_STRING, &[0, b'r', 0, b'1']),
            (Attribute::Email, 0x16, b"a@example.com"),
        ]);
        let subject = Subject::parse(&der).unwrap();
        assert_eq!(
            subject.to_string(),
            "C=NL, OU=Düsseldorf, OU=second, CN=r1, EMAIL=a@example.com"
        );
        let units: Vec<_> = subject.values(Attribute::OrganizationalUnit).collect();
        assert_eq!(units, ["Düsseldorf", "second"]);
        assert_eq!(subject.values(Attribute::State).count(), 0);
    }

    #[test]
    fn a_name_forges_no_log_line() {
        let der = name(&[(
            Attribute::CommonName,
            tag::UTF8_STRING,
            b"x\r\nAccepted\x1b[1m",
        )]);
        let shown = Subject::parse(&der).unwrap().to_string();
        assert_eq!(shown, "CN=x\\r\\nAccepted\\u{1b}[1m");
    }

    #[test]
    fn cut_anywhere_it_is_refused() {
        let der = name(&[(Attribute::CommonName, 0x13, b"relay")]);
        for length in 1..der.len() {
            assert!(Subject::parse(&der[..length]).is_err(), "{length} bytes");
        }
    }
}
