//! Certificate revocation lists, versions 1 and 2 (RFC 5280 section 5).
//!
//! Gives the issuer, the dates and the revoked serial numbers. Leaves out what would need more than one
//! list to understand, and says so: delta lists and entries of another issuer than the list's own.

use super::date;
use super::der::{self, Der, Malformed, tag};
use super::x509::{Signed, critical_extensions};

const OID_ISSUING_DISTRIBUTION_POINT: &[u8] = &[0x55, 0x1d, 0x1c];
const OID_DELTA_CRL: &[u8] = &[0x55, 0x1d, 0x1b];

/// A parsed list that keeps its bytes, so that its signature can be checked once its issuer is known.
#[derive(Debug)]
pub struct Crl {
    bytes: Vec<u8>,
    /// The content of the issuer's Name.
    issuer: Vec<u8>,
    /// Seconds since 1970, both.
    this_update: i64,
    next_update: Option<i64>,
    /// Serial numbers, sorted.
    revoked: Vec<Box<[u8]>>,
}

/// Why a list cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CrlError {
    Malformed(Malformed),
    /// A critical extension that is not understood, by object identifier.
    Critical(String),
    /// A list of changes to another list.
    Delta,
}

impl From<Malformed> for CrlError {
    fn from(malformed: Malformed) -> Self {
        CrlError::Malformed(malformed)
    }
}

impl std::fmt::Display for CrlError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CrlError::Malformed(malformed) => malformed.fmt(f),
            CrlError::Delta => f.write_str("a delta list; give the complete list"),
            CrlError::Critical(oid) => {
                write!(
                    f,
                    "it has a critical extension {oid} that is not understood"
                )
            }
        }
    }
}

impl Crl {
    /// Reads one list from DER.
    pub fn parse(bytes: &[u8]) -> Result<Crl, CrlError> {
        let mut body = Signed::parse(bytes)?.body;
        body.optional(tag::INTEGER, "the version")?;
        body.expect(tag::SEQUENCE, "the algorithm")?;
        let issuer = body.expect(tag::SEQUENCE, "the issuer")?;
        let this_update = date::read(&mut body, "the date of this list")?;
        let next_update = if body.at_time() {
            Some(date::read(&mut body, "the date of the next list")?)
        } else {
            None
        };
        let mut revoked = match body.optional(tag::SEQUENCE, "the revoked certificates")? {
            Some(list) => entries(list.content)?,
            None => Vec::new(),
        };
        revoked.sort_unstable();
        if let Some(outer) = body.optional(tag::CONTEXT_0, "the extensions")? {
            let list = Der::new(outer.content).expect(tag::SEQUENCE, "the extensions")?;
            check_extensions(list.content)?;
        }
        body.end("the end of the list")?;
        Ok(Crl {
            bytes: bytes.to_vec(),
            issuer: issuer.content.to_vec(),
            this_update,
            next_update,
            revoked,
        })
    }

    /// The content of the issuer's Name.
    pub fn issuer(&self) -> &[u8] {
        &self.issuer
    }

    /// When this list was made, seconds since 1970.
    pub fn this_update(&self) -> i64 {
        self.this_update
    }

    /// When the next list was promised, seconds since 1970.
    pub fn next_update(&self) -> Option<i64> {
        self.next_update
    }

    /// Whether a certificate of this list's issuer is revoked.
    pub fn revokes(&self, serial: &[u8]) -> bool {
        self.revoked
            .binary_search_by(|known| known.as_ref().cmp(serial))
            .is_ok()
    }

    /// Number of revoked certificates.
    pub fn count(&self) -> usize {
        self.revoked.len()
    }

    /// The signed form, to check the signature.
    pub fn signed(&self) -> Result<Signed<'_>, Malformed> {
        Signed::parse(&self.bytes)
    }
}

/// Serial numbers of the entries. Every reason counts as revoked, `certificateHold` too.
fn entries(list: &[u8]) -> Result<Vec<Box<[u8]>>, CrlError> {
    let what = "a revoked certificate";
    let mut serials = Vec::new();
    let mut list = Der::new(list);
    while !list.is_empty() {
        let mut entry = Der::new(list.expect(tag::SEQUENCE, what)?.content);
        let serial = entry.expect(tag::INTEGER, what)?;
        date::read(&mut entry, what)?;
        if let Some(extensions) = entry.optional(tag::SEQUENCE, what)? {
            // The one critical entry extension is certificateIssuer: the entry is about another CA.
            if let Some(oid) = critical_extensions(extensions.content)?.first() {
                return Err(CrlError::Critical(der::dotted(oid)));
            }
        }
        entry.end(what)?;
        serials.push(der::integer(serial.content).into());
    }
    Ok(serials)
}

/// A list that covers only some certificates (issuingDistributionPoint) still revokes what it names.
fn check_extensions(list: &[u8]) -> Result<(), CrlError> {
    for oid in critical_extensions(list)? {
        if oid == OID_DELTA_CRL {
            return Err(CrlError::Delta);
        }
        if oid != OID_ISSUING_DISTRIBUTION_POINT {
            return Err(CrlError::Critical(der::dotted(oid)));
        }
    }
    Ok(())
}
