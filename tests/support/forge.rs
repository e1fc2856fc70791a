//! Certificates and lists that no openssl of today makes, or not each of them: their bytes are put together here from
//! those of an ordinary one, and signed anew.

use std::path::Path;

use rustls::SignatureScheme;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

pub const BIT_STRING: u8 = 0x03;
const NULL: u8 = 0x05;
const OID: u8 = 0x06;
pub const SEQUENCE: u8 = 0x30;
/// The version of a certificate, the extensions of a list.
pub const CONTEXT_0: u8 = 0xa0;
/// The extensions of a certificate.
const CONTEXT_3: u8 = 0xa3;

pub const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
pub const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

/// One element.
pub fn der(tag: u8, content: &[u8]) -> Vec<u8> {
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
pub fn elements(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
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

pub fn content(bytes: &[u8]) -> &[u8] {
    elements(bytes)[0].1
}

pub fn sequence(parts: &[(u8, &[u8])]) -> Vec<u8> {
    let parts: Vec<Vec<u8>> = parts.iter().map(|(tag, part)| der(*tag, part)).collect();
    der(SEQUENCE, &parts.concat())
}

pub fn algorithm(oid: &[u8]) -> Vec<u8> {
    let mut parts = der(OID, oid);
    if oid.starts_with(&RSA[..8]) {
        parts.extend(der(NULL, b""));
    }
    der(SEQUENCE, &parts)
}

/// What is signed, a name of the algorithm, the signature.
pub fn signed(body: Vec<u8>, oid: &[u8], signature: &[u8]) -> Vec<u8> {
    let signature = der(BIT_STRING, &[&[0], signature].concat());
    der(SEQUENCE, &[body, algorithm(oid), signature].concat())
}

/// By the elliptic curve key in that file.
pub fn signature(key: &Path, message: &[u8]) -> Vec<u8> {
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
