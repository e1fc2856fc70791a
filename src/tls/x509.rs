//! The fields of a certificate that the verifier and its messages need (RFC 5280 section 4.1).
//!
//! Reads versions 1 and 3; does not judge: dates, signatures and trust are in `trust.rs`.

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use webpki::RawPublicKeyEntity;

use super::date;
use super::der::{self, Der, Malformed, tag};

const OID_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

/// Signatures that were common once and that the TLS library refuses.
const OLD_SIGNATURES: [(&str, &str); 6] = [
    ("1.2.840.113549.1.1.2", "RSA with MD2"),
    ("1.2.840.113549.1.1.4", "RSA with MD5"),
    ("1.2.840.113549.1.1.5", "RSA with SHA-1"),
    ("1.2.840.113549.1.1.14", "RSA with SHA-224"),
    ("1.2.840.10040.4.3", "DSA with SHA-1"),
    ("1.2.840.10045.4.1", "ECDSA with SHA-1"),
];

/// Something signed: a certificate or a CRL (RFC 5280 sections 4.1 and 5.1 share the form).
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// What the signature covers.
    pub body: Der<'a>,
    message: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
}

/// Why a signature was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadSignature {
    /// It was not made with this key over these bytes.
    Wrong,
    /// An algorithm that is not accepted, by name.
    Algorithm(String),
    /// An RSA key of fewer bits than accepted.
    ShortKey(usize),
}

impl<'a> Signed<'a> {
    /// `SEQUENCE { SEQUENCE body, SEQUENCE algorithm, BIT STRING signature }`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut outer = Der::new(bytes);
        let all = outer.expect(tag::SEQUENCE, "the outer sequence")?;
        outer.end("the end: more bytes follow")?;
        let mut parts = Der::new(all.content);
        let body = parts.expect(tag::SEQUENCE, "the signed part")?;
        let algorithm = parts.expect(tag::SEQUENCE, "the signature algorithm")?;
        let signature = parts.expect(tag::BIT_STRING, "the signature")?;
        parts.end("the end of the signature")?;
        Ok(Signed {
            body: Der::new(body.content),
            message: body.whole,
            algorithm: algorithm.content,
            signature: der::bit_string(signature.content).ok_or(Malformed("the signature"))?,
        })
    }

    /// Checks the signature with a key (a whole SubjectPublicKeyInfo).
    pub fn verify(
        &self,
        key: &[u8],
        accepted: &WebPkiSupportedAlgorithms,
    ) -> Result<(), BadSignature> {
        let info = SubjectPublicKeyInfoDer::from(key);
        let Ok(entity) = RawPublicKeyEntity::try_from(&info) else {
            return Err(BadSignature::Wrong);
        };
        let mut known = false;
        for algorithm in accepted.all {
            if algorithm.signature_alg_id().as_ref() != self.algorithm {
                continue;
            }
            known = true;
            if entity
                .verify_signature(*algorithm, self.message, self.signature)
                .is_ok()
            {
                return Ok(());
            }
        }
        match short_rsa_key(key) {
            _ if !known => Err(BadSignature::Algorithm(self.algorithm_name())),
            Some(bits) => Err(BadSignature::ShortKey(bits)),
            None => Err(BadSignature::Wrong),
        }
    }

    /// The signature algorithm for people: a name for the old ones, the object identifier for others.
    pub fn algorithm_name(&self) -> String {
        let Ok(oid) = Der::new(self.algorithm).expect(tag::OID, "") else {
            return "an unknown algorithm".to_owned();
        };
        let dotted = der::dotted(oid.content);
        match OLD_SIGNATURES.iter().find(|(known, _)| *known == dotted) {
            Some((_, name)) => (*name).to_owned(),
            None => format!("algorithm {dotted}"),
        }
    }
}

/// One certificate, borrowed from its DER.
#[derive(Clone, Copy, Debug)]
pub struct Certificate<'a> {
    pub signed: Signed<'a>,
    /// 1 or 3.
    pub version: u8,
    /// Without redundant zeros, so that it can be compared.
    pub serial: &'a [u8],
    /// The content of the Name, for comparing.
    pub issuer: &'a [u8],
    /// The content of the Name.
    pub subject: &'a [u8],
    /// Seconds since 1970.
    pub not_before: i64,
    /// Seconds since 1970; still valid in that second.
    pub not_after: i64,
    /// The whole SubjectPublicKeyInfo.
    pub key: &'a [u8],
    /// The extensions one after the other; empty in version 1.
    extensions: &'a [u8],
}

impl<'a> Certificate<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let signed = Signed::parse(bytes)?;
        let mut body = signed.body;
        let version = version(&mut body)?;
        let serial = body.expect(tag::INTEGER, "the serial number")?;
        body.expect(tag::SEQUENCE, "the algorithm")?;
        let issuer = body.expect(tag::SEQUENCE, "the issuer")?;
        let validity = body.expect(tag::SEQUENCE, "the dates")?;
        let mut dates = Der::new(validity.content);
        let not_before = date::read(&mut dates, "the date from which it is valid")?;
        let not_after = date::read(&mut dates, "the date until which it is valid")?;
        dates.end("the dates")?;
        let subject = body.expect(tag::SEQUENCE, "the subject")?;
        let key = body.expect(tag::SEQUENCE, "the public key")?;
        body.optional(tag::CONTEXT_1, "the issuer's identifier")?;
        body.optional(tag::CONTEXT_2, "the subject's identifier")?;
        let extensions = match body.optional(tag::CONTEXT_3, "the extensions")? {
            Some(outer) => {
                let mut inner = Der::new(outer.content);
                let list = inner.expect(tag::SEQUENCE, "the extensions")?;
                inner.end("the extensions")?;
                list.content
            }
            None => &[],
        };
        body.end("the end of the signed part")?;
        Ok(Certificate {
            signed,
            version,
            serial: der::integer(serial.content),
            issuer: issuer.content,
            subject: subject.content,
            not_before,
            not_after,
            key: key.whole,
            extensions,
        })
    }

    /// Object identifiers of the extensions that must not be ignored.
    pub fn critical_extensions(&self) -> Result<Vec<&'a [u8]>, Malformed> {
        critical_extensions(self.extensions)
    }
}

/// Object identifiers of the extensions in a list that are marked critical.
pub(super) fn critical_extensions(list: &[u8]) -> Result<Vec<&[u8]>, Malformed> {
    let what = "an extension";
    let mut list = Der::new(list);
    let mut found = Vec::new();
    while !list.is_empty() {
        let mut extension = Der::new(list.expect(tag::SEQUENCE, what)?.content);
        let oid = extension.expect(tag::OID, what)?;
        let critical = extension.optional(tag::BOOLEAN, what)?;
        extension.expect(tag::OCTET_STRING, what)?;
        extension.end(what)?;
        if critical.is_some_and(|flag| flag.content != [0]) {
            found.push(oid.content);
        }
    }
    Ok(found)
}

fn version(body: &mut Der<'_>) -> Result<u8, Malformed> {
    let what = "the version";
    let Some(outer) = body.optional(tag::CONTEXT_0, what)? else {
        return Ok(1);
    };
    let mut inner = Der::new(outer.content);
    match inner.expect(tag::INTEGER, what)?.content {
        [number @ 0..=2] => Ok(number + 1),
        _ => Err(Malformed(what)),
    }
}

/// The bits of the key itself, which are the same however the algorithm around them is written.
pub(super) fn key_bits(key: &[u8]) -> Option<&[u8]> {
    let info = Der::new(key).expect(tag::SEQUENCE, "").ok()?;
    let mut parts = Der::new(info.content);
    parts.expect(tag::SEQUENCE, "").ok()?;
    der::bit_string(parts.expect(tag::BIT_STRING, "").ok()?.content)
}

/// The number of bits of an RSA key that is too short to be accepted.
fn short_rsa_key(key: &[u8]) -> Option<usize> {
    let info = Der::new(key).expect(tag::SEQUENCE, "").ok()?;
    let algorithm = Der::new(info.content).expect(tag::SEQUENCE, "").ok()?;
    let oid = Der::new(algorithm.content).expect(tag::OID, "").ok()?;
    if oid.content != OID_RSA {
        return None;
    }
    let pair = Der::new(key_bits(key)?).expect(tag::SEQUENCE, "").ok()?;
    let modulus = Der::new(pair.content).expect(tag::INTEGER, "").ok()?;
    let digits: &[u8] = match modulus.content {
        [0, rest @ ..] => rest,
        all => all,
    };
    let bits = digits.len() * 8 - digits.first().map_or(0, |top| top.leading_zeros() as usize);
    (bits < 2048).then_some(bits)
}
