//! Packets of RADIUS accounting: requests and the answers to them (RFC 2866 sections 3 and 4), with
//! Message-Authenticator (RFC 3579 section 3.2). Signs and checks; knows no attribute but that one.
//!
//! ```text
//!  code 1 | identifier 1 | length 2 | authenticator 16 | attributes: type 1, length 1 (of all three), value
//! ```
//!
//! A request's authenticator is MD5 over the packet, with zeros in its place, and the secret; an answer's over the
//! answer with the request's authenticator in its place, and the secret.

use super::client::Secret;

/// Longest packet; what is sent here stays under it (RFC 2865 section 3).
pub const MAX_PACKET: usize = 4096;
/// Longest value of an attribute.
pub const MAX_VALUE: usize = 253;

const ACCOUNTING_REQUEST: u8 = 4;
const ACCOUNTING_RESPONSE: u8 = 5;
const HEADER: usize = 20;
const AUTHENTICATOR: std::ops::Range<usize> = 4..HEADER;
const MESSAGE_AUTHENTICATOR: u8 = 80;

type Hash = [u8; 16];

/// Why a datagram is not the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Too short, cut off, of another kind, attributes that do not add up, or to a request that is not open.
    NotAnAnswer,
    /// It was signed with another secret, or changed on its way.
    Signature,
}

/// Appends an attribute; a value that is too long is cut. Callers keep strings whole.
pub fn push(attributes: &mut Vec<u8>, number: u8, value: &[u8]) {
    let value = value.get(..MAX_VALUE).unwrap_or(value);
    // At most 255: the value, its number and this length.
    attributes.extend([number, value.len() as u8 + 2]);
    attributes.extend_from_slice(value);
}

/// The signed request. The attributes fit into a packet: there are seventeen kinds of 255 bytes at most.
pub fn request(identifier: u8, attributes: &[u8], secret: &Secret) -> Vec<u8> {
    let mut packet = vec![ACCOUNTING_REQUEST, identifier, 0, 0];
    packet.extend([0; AUTHENTICATOR.end - AUTHENTICATOR.start]);
    let signature = packet.len() + 2;
    push(&mut packet, MESSAGE_AUTHENTICATOR, &[0; 16]);
    packet.extend_from_slice(attributes);
    let length = (packet.len() as u16).to_be_bytes();
    put(&mut packet, 2, &length);
    // The authenticator counts as zero here, since it is made last (RFC 5176 section 3.4 says so for requests of its
    // own kind, and servers do the same in accounting).
    let signed = hmac(secret.reveal(), &packet);
    put(&mut packet, signature, &signed);
    let authenticator = md5(&[&packet, secret.reveal()]);
    put(&mut packet, AUTHENTICATOR.start, &authenticator);
    packet
}

fn put(packet: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = packet.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// The identifier by which an answer tells its request; none where the datagram is too short for an answer.
pub fn identifier(datagram: &[u8]) -> Option<u8> {
    datagram
        .get(1)
        .copied()
        .filter(|_| datagram.len() >= HEADER)
}

/// Whether a datagram is the answer to a request.
///
/// # Errors
/// See [`Wrong`].
pub fn check(datagram: &[u8], request: &[u8], secret: &Secret) -> Result<(), Wrong> {
    let asked = request.get(AUTHENTICATOR).ok_or(Wrong::NotAnAnswer)?;
    let answer = whole(datagram).ok_or(Wrong::NotAnAnswer)?;
    if answer.first() != Some(&ACCOUNTING_RESPONSE) || answer.get(1) != request.get(1) {
        return Err(Wrong::NotAnAnswer);
    }
    let (head, rest) = answer.split_at(AUTHENTICATOR.start);
    let (authenticator, attributes) = rest.split_at(asked.len());
    let signature = find_signature(attributes)?;
    let expected = md5(&[head, asked, attributes, secret.reveal()]);
    if !same(authenticator, &expected) {
        return Err(Wrong::Signature);
    }
    let Some(at) = signature else {
        return Ok(());
    };
    let found = attributes.get(at..at + 16).unwrap_or_default();
    let mut unsigned = answer.to_vec();
    put(&mut unsigned, HEADER + at, &[0; 16]);
    // Signed over the request's authenticator by RFC 3579; FreeRADIUS 3 takes zeros in answers of accounting.
    let fits = [asked, &[0; 16]].iter().any(|taken| {
        put(&mut unsigned, AUTHENTICATOR.start, taken);
        same(found, &hmac(secret.reveal(), &unsigned))
    });
    fits.then_some(()).ok_or(Wrong::Signature)
}

/// The packet without what may follow it in the datagram (RFC 2865 section 3); none where it is cut off.
fn whole(datagram: &[u8]) -> Option<&[u8]> {
    let length = datagram.get(2..4)?;
    let length = length
        .iter()
        .fold(0, |sum, &byte| sum << 8 | usize::from(byte));
    let fits = (HEADER..=MAX_PACKET).contains(&length);
    fits.then(|| datagram.get(..length)).flatten()
}

/// Where the value of Message-Authenticator begins among well-formed attributes, if it is there.
fn find_signature(attributes: &[u8]) -> Result<Option<usize>, Wrong> {
    let (mut at, mut found) = (0, None);
    while let Some(&number) = attributes.get(at) {
        let length = attributes.get(at + 1).copied().map_or(0, usize::from);
        let fits = length >= 2 && at + length <= attributes.len();
        let is_signature = number == MESSAGE_AUTHENTICATOR;
        if !fits || (is_signature && (length != 18 || found.is_some())) {
            return Err(Wrong::NotAnAnswer);
        }
        if is_signature {
            found = Some(at + 2);
        }
        at += length;
    }
    Ok(found)
}

fn md5(parts: &[&[u8]]) -> Hash {
    let mut context = md5::Context::new();
    parts.iter().for_each(|part| context.consume(part));
    context.finalize().into()
}

/// HMAC-MD5 (RFC 2104).
fn hmac(key: &[u8], text: &[u8]) -> Hash {
    const BLOCK: usize = 64;
    let short = md5(&[key]);
    let key = if key.len() > BLOCK { &short } else { key };
    let padded = |with: u8| {
        let mut block = [with; BLOCK];
        block
            .iter_mut()
            .zip(key)
            .for_each(|(byte, key)| *byte ^= key);
        block
    };
    let inner = md5(&[&padded(0x36), text]);
    md5(&[&padded(0x5c), &inner])
}

/// Compares all bytes, however early they differ: the time taken tells nothing.
fn same(one: &[u8], other: &[u8]) -> bool {
    let differing = one.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b));
    one.len() == other.len() && differing == 0
}

#[cfg(test)]
pub mod tests;
