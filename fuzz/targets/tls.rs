//! What is read of certificates, revocation lists and passports. The files come from an administrator; a
//! certificate comes from any peer.

use std::fs;

use mediaproxy::tls::{Attribute, Certificate, Context, Crl, Passport, Paths, Subject};

use super::journal::directory;
use super::visible;

/// A certificate in DER.
pub fn certificate(data: &[u8]) {
    match Certificate::parse(data) {
        Ok(certificate) => {
            let _ = certificate.critical_extensions();
            visible(&certificate.signed.algorithm_name());
            for name in [certificate.subject, certificate.issuer] {
                match Subject::parse(name) {
                    Ok(subject) => passport_of(&subject),
                    Err(malformed) => visible(&malformed.to_string()),
                }
            }
        }
        Err(malformed) => visible(&malformed.to_string()),
    }
}

/// A passport that says what a subject says lets that subject in.
fn passport_of(subject: &Subject) {
    visible(&subject.to_string());
    for name in ["O", "OU", "CN", "C", "L", "ST", "EMAIL"] {
        let attribute = Attribute::from_name(name).expect("a known attribute");
        for value in subject.values(attribute) {
            let is_plain = !value.contains(['*', '\\', ',']) && value.trim() == value;
            if is_plain && !value.is_empty() {
                let passport = Passport::parse(&format!("{name}:{value}"));
                let passport = passport.expect("a good passport").expect("a condition");
                assert!(passport.matches(subject), "{passport}");
            }
        }
    }
}

/// A revocation list in DER.
pub fn revocations(data: &[u8]) {
    match Crl::parse(data) {
        Ok(list) => {
            assert!(list.signed().is_ok(), "read once, read again");
            let _ = list.revokes(&[1]);
            assert!(list.count() <= data.len());
        }
        Err(why) => visible(&why.to_string()),
    }
}

/// The `passport` setting: shown in the log, it means the same.
pub fn passport(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    // A backslash before a comma of the list cannot be written.
    if let (Ok(Some(passport)), false) = (Passport::parse(text), text.contains('\\')) {
        assert_eq!(Passport::parse(&passport.to_string()), Ok(Some(passport)));
    }
}

/// The files of a daemon: CAs and lists, or a chain and its key, with the same bytes in each place.
pub fn pem(data: &[u8]) {
    let directory = directory();
    fs::create_dir(&directory).expect("a directory");
    for name in ["ca.pem", "crl.pem", "relay.crt", "relay.key"] {
        fs::write(directory.join(name), data).expect("a file");
    }
    match Context::load_files(&Paths::new(&directory, "relay")) {
        Ok((context, warnings)) => {
            visible(&context.describe());
            warnings.iter().for_each(|text| visible(text));
        }
        Err(why) => visible(&why.to_string()),
    }
    fs::remove_dir_all(directory).expect("it goes");
}
