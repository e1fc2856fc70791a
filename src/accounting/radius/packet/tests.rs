//! Packets of FreeRADIUS 3.2.1: requests as its radclient sends them, answers as its server gives them.

use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

pub const SECRET: &[u8] = b"testing123";

fn secret() -> Secret {
    Secret::new(SECRET)
}

/// radclient -r 1 -t 1 -f FILE 127.0.0.1:11814 acct testing123, received by a socket there. FILE:
///     User-Name = "mediaproxy@default"
///     Acct-Status-Type = Interim-Update
///     Acct-Session-Id = "a84b4c76e66710"
///     Sip-From-Tag = "9fxced76sl"
///     Sip-To-Tag = "314159"
///     Acct-Session-Time = 61
///     Acct-Input-Octets = 1000
///     NAS-IP-Address = 192.0.2.7
///     Message-Authenticator = 0x00
const REQUEST: &str = "045c0076 3f748d8361c67ba03d73c20ef202ddf5 01146d6564696170726f78794064656661756c74 \
    280600000003 2c106138346234633736653636373130 690c3966786365643736736c 6808333134313539 2e060000003d \
    2a06000003e8 0406c0000207 5012 bc940720bb42581df73245f2b435d6e6";

/// The same with the last line of FILE first.
const SIGNATURE_FIRST: &str = "04150076 051090b2cc905f5cd4e2c28e65f5c957 5012 394499ce955438cb55d63ef4acd78fca \
    01146d6564696170726f78794064656661756c74 280600000003 2c106138346234633736653636373130 \
    690c3966786365643736736c 6808333134313539 2e060000003d 2a06000003e8 0406c0000207";

/// freeradius -f -d DIR with `update reply { Message-Authenticator := 0x00 }` in its accounting section, to that.
const ANSWER: &str =
    "055c0026 1f111f4ff22fb1c3aea42357498ff25e 5012 58d57865c1d8cb780b5b47d2ad695ff8";

#[test]
fn a_request_is_signed_as_radclient_does() {
    let theirs = bytes(SIGNATURE_FIRST);
    let attributes = &theirs[HEADER + 18..];
    assert_eq!(request(0x15, attributes, &secret()), theirs);
}

#[test]
fn the_answer_of_freeradius_fits_its_request_alone() {
    let (request, answer) = (bytes(REQUEST), bytes(ANSWER));
    assert_eq!(check(&answer, &request, &secret()), Ok(()));
    assert_eq!(identifier(&answer), Some(0x5c));
    let other = Secret::new(b"testing124");
    assert_eq!(check(&answer, &request, &other), Err(Wrong::Signature));
    let mut other = request.clone();
    other[4] ^= 1;
    assert_eq!(check(&answer, &other, &secret()), Err(Wrong::Signature));
    other = request.clone();
    other[1] ^= 1;
    assert_eq!(check(&answer, &other, &secret()), Err(Wrong::NotAnAnswer));
}

#[test]
fn every_bit_of_an_answer_counts() {
    let (request, answer) = (bytes(REQUEST), bytes(ANSWER));
    for bit in 0..answer.len() * 8 {
        let mut changed = answer.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(check(&changed, &request, &secret()).is_err(), "bit {bit}");
    }
    for end in 0..answer.len() {
        assert_eq!(
            check(&answer[..end], &request, &secret()),
            Err(Wrong::NotAnAnswer)
        );
    }
    // What follows the packet in the datagram is padding.
    let padded = [&answer[..], b"\0\0\0"].concat();
    assert_eq!(check(&padded, &request, &secret()), Ok(()));
}

/// An answer signed over the request's authenticator, with these attributes; any Message-Authenticator is left as is.
pub fn answer(request: &[u8], attributes: &[u8]) -> Vec<u8> {
    let mut answer = vec![ACCOUNTING_RESPONSE, request[1]];
    answer.extend((HEADER as u16 + attributes.len() as u16).to_be_bytes());
    answer.extend_from_slice(&request[AUTHENTICATOR]);
    answer.extend_from_slice(attributes);
    let authenticator = md5(&[&answer, SECRET]);
    put(&mut answer, AUTHENTICATOR.start, &authenticator);
    answer
}

#[test]
fn message_authenticator_by_rfc_3579_and_none_at_all() {
    let request = bytes(REQUEST);
    assert_eq!(check(&answer(&request, b""), &request, &secret()), Ok(()));
    let mut unsigned = answer(&request, &[&[80, 18][..], &[0; 16]].concat());
    put(&mut unsigned, AUTHENTICATOR.start, &request[AUTHENTICATOR]);
    let signed = hmac(SECRET, &unsigned);
    let whole = answer(&request, &[&[80, 18][..], &signed].concat());
    assert_eq!(check(&whole, &request, &secret()), Ok(()));
    let wrong = answer(&request, &[&[80, 18][..], &[7; 16]].concat());
    assert_eq!(check(&wrong, &request, &secret()), Err(Wrong::Signature));
}

#[test]
fn attributes_that_do_not_add_up() {
    let request = bytes(REQUEST);
    let twice = [&[80, 18][..], &[0; 16], &[80, 18], &[0; 16]].concat();
    for bad in [&[18][..], &[18, 0], &[18, 1], &[18, 3], &[80, 3, 0], &twice] {
        assert_eq!(
            check(&answer(&request, bad), &request, &secret()),
            Err(Wrong::NotAnAnswer)
        );
    }
    assert_eq!(
        check(&answer(&request, &[18, 2, 18, 3, 65]), &request, &secret()),
        Ok(())
    );
}

#[test]
fn hmac_by_the_vectors_of_rfc_2202() {
    let vectors = [
        (
            vec![0x0b; 16],
            b"Hi There".to_vec(),
            "9294727a3638bb1c13f48ef8158bfc9d",
        ),
        (
            b"Jefe".to_vec(),
            b"what do ya want for nothing?".to_vec(),
            "750c783e6ab0b503eaa86e310a5db738",
        ),
        (
            vec![0xaa; 16],
            vec![0xdd; 50],
            "56be34521d144c88dbb8c733f0e8b3f6",
        ),
        (
            vec![0xaa; 80],
            b"Test Using Larger Than Block-Size Key and Larger Than One Block-Size Data".to_vec(),
            "6f630fad67cda0ee1fb1f562db3aa53e",
        ),
    ];
    for (key, text, hash) in vectors {
        assert_eq!(hmac(&key, &text).to_vec(), bytes(hash));
    }
}
