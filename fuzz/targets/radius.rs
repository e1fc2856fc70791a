//! RADIUS accounting: answers of a server, and the files of a client.

use std::io;
use std::path::Path;
use std::time::Duration;

use mediaproxy::accounting::radius::client::{Client, Secret, Secrets};
use mediaproxy::accounting::radius::dictionary::Dictionary;
use mediaproxy::accounting::radius::packet;

use super::visible;

const SECRET: &[u8] = b"testing123";

/// A datagram as it comes, and the same bytes as the attributes of an answer whose signature is right.
pub fn answer(data: &[u8]) {
    let secret = Secret::new(SECRET);
    // The request that the seed of FreeRADIUS answers has this identifier.
    let request = packet::request(0x5c, &[44, 3, b'a'], &secret);
    if packet::check(data, &request, &secret).is_ok() {
        assert_eq!(data[..2], [5, 0x5c]);
        assert_eq!(packet::identifier(data), Some(0x5c));
    }
    let attributes = &data[..data.len().min(packet::MAX_PACKET - 20)];
    let mut answer = vec![5, 0x5c];
    answer.extend((20 + attributes.len() as u16).to_be_bytes());
    answer.extend_from_slice(&request[4..20]);
    answer.extend_from_slice(attributes);
    let hash = md5::compute([&answer, SECRET].concat());
    answer[4..20].copy_from_slice(&*hash);
    let taken = packet::check(&answer, &request, &secret).is_ok();
    // A fuzzer may well find a signature: it sees what its bytes are compared with.
    let expected = match signatures(attributes).as_deref() {
        None => false,
        Some([]) => true,
        Some([(at, 16)]) => {
            let found = &attributes[*at..at + 16];
            [&request[4..20], &[0; 16]]
                .iter()
                .any(|asked| found == sign(&answer, 20 + at, asked))
        }
        Some(_) => false,
    };
    assert_eq!(taken, expected);
    // And one that is right.
    if let Some([(at, 16)]) = signatures(attributes).as_deref() {
        let signature = sign(&answer, 20 + at, &request[4..20]);
        answer[20 + at..36 + at].copy_from_slice(&signature);
        answer[4..20].copy_from_slice(&request[4..20]);
        let hash = md5::compute([&answer, SECRET].concat());
        answer[4..20].copy_from_slice(&*hash);
        assert!(packet::check(&answer, &request, &secret).is_ok());
    }
}

/// HMAC-MD5 over an answer with this authenticator, and zeros in the place of the signature.
fn sign(answer: &[u8], at: usize, authenticator: &[u8]) -> [u8; 16] {
    let mut text = answer.to_vec();
    text[4..20].copy_from_slice(authenticator);
    text[at..at + 16].fill(0);
    let keyed = |pad: u8| {
        let mut key = [pad; 64];
        key.iter_mut().zip(SECRET).for_each(|(k, s)| *k ^= s);
        key
    };
    let inner = md5::compute([&keyed(0x36)[..], &text].concat());
    *md5::compute([&keyed(0x5c)[..], &*inner].concat())
}

/// Where the values of Message-Authenticators begin, and their lengths; none where the attributes' lengths do not add up.
fn signatures(attributes: &[u8]) -> Option<Vec<(usize, usize)>> {
    let (mut at, mut found) = (0, Vec::new());
    while let Some(&number) = attributes.get(at) {
        let length = usize::from(*attributes.get(at + 1)?);
        if length < 2 || at + length > attributes.len() {
            return None;
        }
        if number == 80 {
            found.push((at + 2, length - 2));
        }
        at += length;
    }
    Some(found)
}

/// Any bytes as each of the files: settings, or an error that names file and line, fit for a terminal and without
/// a secret.
pub fn files(data: &[u8]) {
    match Client::parse(Path::new("/etc/radius/client"), data) {
        Ok(client) => {
            assert!(!client.servers.is_empty() && client.timeout >= Duration::from_secs(1));
            assert!(client.servers.iter().all(|server| server.port > 0));
        }
        Err(why) => refused(&why, "/etc/radius/client:"),
    }
    if let Err(why) = Secrets::parse(Path::new("/etc/radius/servers"), data) {
        refused(&why, "/etc/radius/servers:");
        let said = why.rsplit(':').next();
        assert_eq!(
            said,
            Some(" a host and its secret, with blanks between"),
            "{why}"
        );
    }
    let mut dictionary = Dictionary::default();
    // Whatever it includes, it includes itself.
    let mut load = |path: &Path| {
        if path.ends_with("gone") {
            Err(io::ErrorKind::NotFound.into())
        } else {
            Ok(data.to_vec())
        }
    };
    match dictionary.read(Path::new("/etc/radius/dictionary"), &mut load) {
        Ok(found) => assert!(found),
        Err(why) => refused(&why, "/"),
    }
    if let Err(why) = dictionary.check() {
        visible(&why);
    }
}

fn refused(why: &str, start: &str) {
    visible(why);
    assert!(why.starts_with(start), "{why}");
}
