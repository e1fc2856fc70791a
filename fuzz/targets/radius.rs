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
    let attributes = &data[..data.len().min(packet::LONGEST - 20)];
    let mut answer = vec![5, 0x5c];
    answer.extend((20 + attributes.len() as u16).to_be_bytes());
    answer.extend_from_slice(&request[4..20]);
    answer.extend_from_slice(attributes);
    let hash = md5::compute([&answer, SECRET].concat());
    answer[4..20].copy_from_slice(&*hash);
    let taken = packet::check(&answer, &request, &secret).is_ok();
    // A Message-Authenticator of its own would have to be signed by somebody who knows the secret.
    assert_eq!(
        taken,
        numbers(attributes).is_some_and(|numbers| !numbers.contains(&80))
    );
}

/// The attributes' numbers; none where their lengths do not add up.
fn numbers(attributes: &[u8]) -> Option<Vec<u8>> {
    let (mut rest, mut numbers) = (attributes, Vec::new());
    while let Some(&number) = rest.first() {
        let length = usize::from(*rest.get(1)?);
        rest = (length >= 2).then(|| rest.get(length..))??;
        numbers.push(number);
    }
    Some(numbers)
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
    let mut load = |path: &Path| match path.ends_with("gone") {
        true => Err(io::ErrorKind::NotFound.into()),
        false => Ok(data.to_vec()),
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
