//! Certificates and lists that no openssl of today makes, or not each of them: their bytes are put together here from
//! those of an ordinary one, and signed anew.

use std::path::Path;

use rustls::SignatureScheme;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const NULL: u8 = 0x05;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// The version of a certificate, the extensions of a list.
const CONTEXT_0: u8 = 0xa0;
/// The extensions of a certificate.
const CONTEXT_3: u8 = 0xa3;

const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const ECDSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01];
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const RSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b];

/// One element.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut made = vec![tag];
    let length = content.len();
    match length {
        0..=0x7f => made.push(length as u8),
        0x80..=0xff => made.extend([0x81, length as u8]),
        _ => made.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    made.extend(content);
    made
}

/// Tag and content of each element; of sound ones below 64 KiB.
fn elements(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut found = Vec::new();
    while let [tag, first, ..] = *bytes {
        let digits = usize::from(first).saturating_sub(0x80);
        let length = match digits {
            0 => usize::from(first),
            _ => bytes[2..2 + digits]
                .iter()
                .fold(0, |sum, &digit| sum << 8 | usize::from(digit)),
        };
        let start = 2 + digits;
        found.push((tag, &bytes[start..start + length]));
        bytes = &bytes[start + length..];
    }
    found
}

fn content(bytes: &[u8]) -> &[u8] {
    elements(bytes)[0].1
}

fn sequence(parts: &[(u8, &[u8])]) -> Vec<u8> {
    let parts: Vec<Vec<u8>> = parts.iter().map(|(tag, part)| der(*tag, part)).collect();
    der(SEQUENCE, &parts.concat())
}

fn algorithm(oid: &[u8]) -> Vec<u8> {
    let mut parts = der(OID, oid);
    if oid.starts_with(&RSA[..8]) {
        parts.extend(der(NULL, b""));
    }
    der(SEQUENCE, &parts)
}

/// What is signed, a name of the algorithm, the signature.
fn signed(body: Vec<u8>, oid: &[u8], signature: &[u8]) -> Vec<u8> {
    let signature = der(BIT_STRING, &[&[0], signature].concat());
    der(SEQUENCE, &[body, algorithm(oid), signature].concat())
}

/// By the elliptic curve key in that file.
fn signature(key: &Path, message: &[u8]) -> Vec<u8> {
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let key = rustls::crypto::ring::default_provider()
        .key_provider
        .load_private_key(key)
        .unwrap();
    let signer = key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]);
    signer.unwrap().sign(message).unwrap()
}

/// The certificate as one of version 1: what `openssl x509 -req` made before 3.2. `ca_key` is the file of its CA's key.
pub fn certificate_of_version_1(certificate: &[u8], ca_key: &Path) -> Vec<u8> {
    let mut parts = elements(content(content(certificate)));
    parts.retain(|(tag, _)| !matches!(*tag, CONTEXT_0 | CONTEXT_3));
    let body = sequence(&parts);
    let signature = signature(ca_key, &body);
    signed(body, ECDSA_SHA256, &signature)
}

/// The list as one of version 1, without extensions.
pub fn list_of_version_1(list: &[u8], ca_key: &Path) -> Vec<u8> {
    let mut parts = elements(content(content(list)));
    parts.retain(|(tag, _)| !matches!(*tag, INTEGER | CONTEXT_0));
    // After algorithm, issuer and dates: the entries, each of which may have extensions, too.
    let at = parts
        .iter()
        .rposition(|(tag, _)| matches!(*tag, UTC_TIME | GENERALIZED_TIME));
    let entries: Vec<u8> = match parts.get(at.unwrap() + 1) {
        Some((_, entries)) => elements(entries)
            .iter()
            .flat_map(|(_, entry)| sequence(&elements(entry)[..2]))
            .collect(),
        None => Vec::new(),
    };
    if let Some((_, plain)) = parts.get_mut(at.unwrap() + 1) {
        *plain = &entries;
    }
    let body = sequence(&parts);
    let signature = signature(ca_key, &body);
    signed(body, ECDSA_SHA256, &signature)
}

/// The certificate as one that says to be signed with SHA-1. The signature is another one: nobody who refuses the
/// algorithm can tell.
pub fn signed_with_sha1(certificate: &[u8], ca_key: &Path) -> Vec<u8> {
    let mut parts = elements(content(content(certificate)));
    let told = algorithm(ECDSA_SHA1);
    // Version, serial number, algorithm.
    parts[2] = (SEQUENCE, content(&told));
    let body = sequence(&parts);
    let signature = signature(ca_key, &body);
    signed(body, ECDSA_SHA1, &signature)
}

/// The CA's certificate with an RSA key of 1024 bits instead, and one below that CA.
pub fn of_short_key(ca: &[u8], leaf: &[u8]) -> [Vec<u8>; 2] {
    // Two numbers of that size: no key belongs to them, and nobody asks.
    let (modulus, signature) = ([0xc5; 128], [0x5c; 128]);
    let modulus = der(INTEGER, &[&[0], &modulus[..]].concat());
    let key = der(SEQUENCE, &[modulus, der(INTEGER, &[1, 0, 1])].concat());
    let key = [algorithm(RSA), der(BIT_STRING, &[&[0], &key[..]].concat())].concat();
    let told = algorithm(RSA_SHA256);
    [(ca, Some(&key)), (leaf, None)].map(|(certificate, key)| {
        let mut parts = elements(content(content(certificate)));
        parts[2] = (SEQUENCE, content(&told));
        if let Some(key) = key {
            // Version, serial number, algorithm, issuer, dates, subject, key.
            parts[6] = (SEQUENCE, key);
        }
        signed(sequence(&parts), RSA_SHA256, &signature)
    })
}
