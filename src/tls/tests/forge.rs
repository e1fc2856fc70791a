//! More certificates and lists that no openssl of today makes.

use std::path::Path;

use crate::support::forge::{
    BIT_STRING, CONTEXT_0, ECDSA_SHA256, RSA, SEQUENCE, algorithm, content, der, elements,
    sequence, signature, signed,
};

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const ECDSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01];
const RSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b];

/// The list as one of version 1, without extensions.
pub(super) fn list_of_version_1(list: &[u8], ca_key: &Path) -> Vec<u8> {
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
pub(super) fn signed_with_sha1(certificate: &[u8], ca_key: &Path) -> Vec<u8> {
    let mut parts = elements(content(content(certificate)));
    let told = algorithm(ECDSA_SHA1);
    // Version, serial number, algorithm.
    parts[2] = (SEQUENCE, content(&told));
    let body = sequence(&parts);
    let signature = signature(ca_key, &body);
    signed(body, ECDSA_SHA1, &signature)
}

/// The CA's certificate with an RSA key of 1024 bits instead, and one below that CA.
pub(super) fn of_short_key(ca: &[u8], leaf: &[u8]) -> [Vec<u8>; 2] {
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
