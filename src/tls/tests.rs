//! Certificates and lists made by openssl, read here; x509-parser gives the second opinion. What openssl makes or not
//! by its version is put together by `forge`.

use std::slice::from_ref;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection,
};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use super::context::Context;
use super::crl::Crl;
use super::crypto::provider;
use super::date::now;
use super::error::Reason;
use super::reload::{Reload, Store};
use super::subject::Subject;
use super::trust::Trust;
use super::x509::Certificate;

use crate::support::certs::Certs;
use crate::support::forge::certificate_of_version_1;

mod forge;

const DAY: i64 = 86_400;

fn cert(certs: &Certs, name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(certs.file(name)).unwrap()
}

fn crl(certs: &Certs) -> CertificateRevocationListDer<'static> {
    CertificateRevocationListDer::from_pem_file(certs.file("crl.pem")).unwrap()
}

fn trust(cas: &[CertificateDer<'_>], lists: &[CertificateRevocationListDer<'_>]) -> Trust {
    let mut trust = Trust::new(provider().signature_verification_algorithms);
    for ca in cas {
        trust.add_ca(ca, now()).unwrap();
    }
    for list in lists {
        trust.add_list(list).unwrap();
    }
    trust
}

fn revoke(certs: &Certs, name: &str) {
    certs.script(&[], &["revoke", name]);
}

/// The list again, as one of version 1.
fn list_of_version_1(certs: &Certs) -> CertificateRevocationListDer<'static> {
    forge::list_of_version_1(&crl(certs), &certs.file("ca/ca.key")).into()
}

fn compare_with_second_opinion(der: &[u8]) {
    let ours = Crl::parse(der).unwrap();
    let (_, theirs) = CertificateRevocationList::from_der(der).unwrap();
    assert_eq!(
        ours.count(),
        theirs.iter_revoked_certificates().count(),
        "as many revoked"
    );
    for entry in theirs.iter_revoked_certificates() {
        assert!(ours.revokes(entry.raw_serial()));
    }
    assert_eq!(ours.this_update(), theirs.last_update().timestamp());
    let next = theirs.next_update().map(|time| time.timestamp());
    assert_eq!(ours.next_update(), next);
    let name = theirs.issuer().as_raw();
    assert!(name.ends_with(ours.issuer()) && !ours.issuer().is_empty());
    assert!(!ours.revokes(&[1]));
}

#[test]
fn lists_of_both_versions_read_as_by_x509_parser() {
    let certs = Certs::new();
    compare_with_second_opinion(&crl(&certs));
    revoke(&certs, "relay");
    revoke(&certs, "dispatcher");
    compare_with_second_opinion(&crl(&certs));
    let der = list_of_version_1(&certs);
    let (_, theirs) = CertificateRevocationList::from_der(&der).unwrap();
    assert_eq!(theirs.version(), None);
    compare_with_second_opinion(&der);
    assert_eq!(Crl::parse(&der).unwrap().count(), 2);
}

#[test]
fn certificates_read_as_by_x509_parser() {
    let certs = Certs::new();
    let options = ["--key", "rsa", "--org", "Größe, Ltd", "--ou", "a+b/c"];
    certs.script(&options, &["cert", "rsa"]);
    for name in ["ca.pem", "relay.crt", "rsa.crt"] {
        let der = cert(&certs, name);
        let ours = Certificate::parse(&der).unwrap();
        let (_, theirs) = X509Certificate::from_der(&der).unwrap();
        assert_eq!(ours.serial, theirs.raw_serial());
        assert_eq!(ours.not_before, theirs.validity().not_before.timestamp());
        assert_eq!(ours.not_after, theirs.validity().not_after.timestamp());
        assert_eq!(ours.key, theirs.public_key().raw);
        assert!(theirs.subject().as_raw().ends_with(ours.subject));
        assert_eq!(u32::from(ours.version), theirs.version().0 + 1);
    }
    let der = cert(&certs, "rsa.crt");
    let subject = Subject::parse(Certificate::parse(&der).unwrap().subject).unwrap();
    assert_eq!(subject.to_string(), "O=Größe, Ltd, OU=a+b/c, CN=rsa");
}

#[test]
fn cut_or_changed_anywhere_nothing_panics() {
    let certs = Certs::new();
    revoke(&certs, "relay");
    let (ca, leaf, list) = (
        cert(&certs, "ca.pem"),
        cert(&certs, "relay.crt"),
        crl(&certs),
    );
    for length in 0..leaf.len() {
        assert!(Certificate::parse(&leaf[..length]).is_err());
    }
    for length in 0..list.len() {
        assert!(Crl::parse(&list[..length]).is_err());
    }
    let trust = trust(&[ca], &[]);
    for place in 0..leaf.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bytes = leaf.to_vec();
            bytes[place] ^= flip;
            if let Ok(parsed) = Certificate::parse(&bytes) {
                let _ = Subject::parse(parsed.subject).map(|subject| subject.to_string());
            }
            let changed = CertificateDer::from(bytes);
            assert!(trust.check(&[changed], now()).is_err(), "byte {place}");
        }
    }
    for place in 0..list.len() {
        let mut bytes = list.to_vec();
        bytes[place] ^= 0x81;
        let _ = Crl::parse(&bytes);
    }
}

#[test]
fn dates_of_the_certificate_and_of_the_ca() {
    let certs = Certs::new();
    let (ca, leaf) = (cert(&certs, "ca.pem"), cert(&certs, "relay.crt"));
    let trust = trust(&[ca], &[]);
    assert_eq!(trust.check(from_ref(&leaf), now()), Ok(()));
    let early = trust.check(from_ref(&leaf), now() - DAY);
    assert!(matches!(
        early,
        Err(Reason::NotYetValid { issuer: None, .. })
    ));
    let late = trust.check(from_ref(&leaf), now() + 3_651 * DAY);
    assert!(matches!(late, Err(Reason::Expired { issuer: None, .. })));

    certs.script(&["--key", "ec", "--days", "9000"], &["cert", "outlives"]);
    let outlives = cert(&certs, "outlives.crt");
    let after_ca = trust.check(&[outlives], now() + 7_400 * DAY).unwrap_err();
    assert!(matches!(after_ca, Reason::CaExpired { .. }), "{after_ca:?}");
    assert!(
        after_ca
            .to_string()
            .contains("\"O=Example, CN=Example CA\"")
    );
}

#[test]
fn a_ca_that_was_renewed_stands_beside_the_old_one() {
    let certs = Certs::new();
    let root = "req -x509 -new -config ca/openssl.cnf -extensions root -key ca/ca.key -days 9 -out short.pem";
    let mut arguments: Vec<_> = root.split(' ').collect();
    arguments.extend(["-subj", "/O=Example/CN=Example CA"]);
    certs.openssl(&arguments);
    let cas = ["short.pem", "ca.pem"].map(|name| cert(&certs, name));
    let leaf = [cert(&certs, "relay.crt")];
    let later = now() + 20 * DAY;
    let short = trust(&cas[..1], &[]);
    assert!(matches!(
        short.check(&leaf, later),
        Err(Reason::CaExpired { .. })
    ));
    assert_eq!(trust(&cas, &[]).check(&leaf, later), Ok(()));
}

#[test]
fn another_ca_and_another_ca_of_the_same_name() {
    let (ours, theirs, other) = (Certs::new(), Certs::new(), Certs::empty());
    other.script(&["--key", "ec", "--org", "Other"], &["all"]);
    let trust = trust(&[cert(&ours, "ca.pem")], &[]);
    let same_name = trust.check(&[cert(&theirs, "relay.crt")], now());
    assert!(
        matches!(same_name, Err(Reason::BadSignature { .. })),
        "{same_name:?}"
    );
    let unknown = trust.check(&[cert(&other, "relay.crt")], now());
    let issuer = "O=Other, CN=Other CA".to_owned();
    assert_eq!(unknown, Err(Reason::UnknownIssuer { issuer }));
    assert_eq!(trust.check(&[], now()), Err(Reason::Missing));
}

#[test]
fn revoked_by_lists_of_both_versions() {
    let certs = Certs::new();
    revoke(&certs, "relay");
    let ca = [cert(&certs, "ca.pem")];
    for list in [crl(&certs), list_of_version_1(&certs)] {
        let trust = trust(&ca, &[list]);
        let revoked = trust.check(&[cert(&certs, "relay.crt")], now());
        assert_eq!(revoked, Err(Reason::Revoked { issuer: None }));
        assert_eq!(
            trust.check(&[cert(&certs, "dispatcher.crt")], now()),
            Ok(())
        );
    }
}

#[test]
fn a_list_of_another_ca_counts_for_nothing_and_a_forged_one_is_an_error() {
    let (ours, same_name, other) = (Certs::new(), Certs::new(), Certs::empty());
    other.script(&["--key", "ec", "--org", "Other"], &["all"]);
    let mut trust = trust(&[cert(&ours, "ca.pem")], &[]);
    let warnings = trust.add_list(&crl(&other)).unwrap();
    assert!(warnings[0].contains("of no CA in ca.pem"), "{warnings:?}");
    // It is there, as somebody's who may show that issuer.
    assert!(trust.has_lists());
    let forged = trust.add_list(&crl(&same_name)).unwrap_err();
    assert!(forged.contains("not signed by the CA"), "{forged}");
    assert_eq!(trust.add_list(&crl(&ours)).unwrap(), [""; 0]);
}

/// Else a list that is removed by mistake would make good what was revoked. One that never was is not missed.
#[test]
fn a_list_that_vanishes_stays_in_use() {
    let certs = Certs::new();
    let without = trust(&[cert(&certs, "ca.pem")], &[]);
    assert!(!without.has_lists());
    let directory = certs.file("");
    let reload = |store: &Store| {
        let ca = std::fs::read(certs.file("ca.pem")).unwrap();
        std::fs::write(certs.file("ca.pem"), [&ca[..], b"\n"].concat()).unwrap();
        store.reload_if_changed()
    };
    let store = Store::open(&directory, "relay").unwrap();
    std::fs::remove_file(certs.file("crl.pem")).unwrap();
    match reload(&store) {
        Reload::Kept(why) => assert!(why[0].contains("has vanished"), "{why:?}"),
        other => panic!("{other:?}"),
    }
    let store = Store::open(&directory, "relay").unwrap();
    assert_eq!(reload(&store), Reload::Reloaded);
}

#[test]
fn intermediates_count_and_can_be_revoked() {
    let certs = Certs::new();
    certs.openssl(&[
        "genpkey",
        "-algorithm",
        "EC",
        "-pkeyopt",
        "ec_paramgen_curve:P-384",
        "-out",
        "sub.key",
    ]);
    certs.issue("sub", &["-extensions", "root", "-days", "9"]);
    certs.request("relay");
    let sign = [
        "x509",
        "-req",
        "-in",
        "relay.csr",
        "-CA",
        "sub.crt",
        "-CAkey",
        "sub.key",
        "-set_serial",
        "5",
    ];
    let extensions = [
        "-days",
        "9",
        "-extfile",
        "ca/openssl.cnf",
        "-extensions",
        "leaf",
        "-out",
        "relay.crt",
    ];
    certs.openssl(&[&sign[..], &extensions[..]].concat());
    let (leaf, sub) = (cert(&certs, "relay.crt"), cert(&certs, "sub.crt"));
    let ca = [cert(&certs, "ca.pem")];
    let open = trust(&ca, &[]);
    assert_eq!(open.check(&[leaf.clone(), sub.clone()], now()), Ok(()));
    let alone = open.check(from_ref(&leaf), now());
    assert!(matches!(alone, Err(Reason::UnknownIssuer { .. })));
    revoke(&certs, "sub");
    let closed = trust(&ca, &[crl(&certs)]);
    let revoked = closed.check(&[leaf, sub], now()).unwrap_err();
    let issuer = Some("O=Example, CN=sub".to_owned());
    assert_eq!(revoked, Reason::Revoked { issuer });
}

#[test]
fn version_1_certificates_of_old_deployments() {
    let certs = Certs::new();
    let key = certs.file("ca/ca.key");
    let version_1 = |name: &str| certificate_of_version_1(&cert(&certs, name), &key);
    let leaf = CertificateDer::from(version_1("relay.crt"));
    assert_eq!(Certificate::parse(&leaf).unwrap().version, 1);
    assert_eq!(X509Certificate::from_der(&leaf).unwrap().1.version().0, 0);
    let open = trust(&[cert(&certs, "ca.pem")], &[]);
    assert_eq!(open.check(from_ref(&leaf), now()), Ok(()));
    assert!(open.check(from_ref(&leaf), now() + 4_000 * DAY).is_err());

    let other = Certs::new();
    let unrelated = trust(&[cert(&other, "ca.pem")], &[]);
    let refused = unrelated.check(&[leaf], now());
    assert!(
        matches!(refused, Err(Reason::BadSignature { .. })),
        "{refused:?}"
    );

    // A root of version 1 with a leaf of version 3.
    let leaf = cert(&certs, "dispatcher.crt");
    assert_eq!(Certificate::parse(&leaf).unwrap().version, 3);
    let old_root = CertificateDer::from(version_1("ca.pem"));
    assert_eq!(Certificate::parse(&old_root).unwrap().version, 1);
    let open = trust(&[old_root], &[]);
    assert_eq!(open.check(&[leaf], now()), Ok(()));
}

#[test]
fn a_leaf_that_is_marked_as_a_ca() {
    let certs = Certs::new();
    certs.issue("relay", &["-extensions", "root", "-days", "9000"]);
    let open = trust(&[cert(&certs, "ca.pem")], &[]);
    let leaf = cert(&certs, "relay.crt");
    assert_eq!(open.check(from_ref(&leaf), now()), Ok(()));
    let after_ca = open.check(from_ref(&leaf), now() + 7_400 * DAY);
    assert!(matches!(after_ca, Err(Reason::CaExpired { .. })));
    let unrelated = trust(&[cert(&Certs::new(), "ca.pem")], &[]);
    assert!(
        unrelated
            .check(&[cert(&certs, "relay.crt")], now())
            .is_err()
    );
}

#[test]
fn old_signatures_and_short_keys_are_named() {
    let certs = Certs::new();
    let (ca, leaf) = (cert(&certs, "ca.pem"), cert(&certs, "relay.crt"));
    let open = trust(from_ref(&ca), &[]);
    let old = forge::signed_with_sha1(&leaf, &certs.file("ca/ca.key"));
    let refused = open.check(&[old.into()], now());
    assert_eq!(
        refused,
        Err(Reason::Algorithm("ECDSA with SHA-1".to_owned()))
    );

    let [ca, leaf] = forge::of_short_key(&ca, &leaf).map(CertificateDer::from);
    let refused = trust(&[ca], &[]).check(&[leaf], now());
    assert_eq!(refused, Err(Reason::ShortKey(1024)));
}

/// Runs a handshake in memory to its end; the first error of either side.
fn handshake(client: ClientConfig, server: ServerConfig) -> Result<(), rustls::Error> {
    let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
    let mut client = Connection::from(ClientConnection::new(Arc::new(client), name.to_owned())?);
    let mut server = Connection::from(ServerConnection::new(Arc::new(server))?);
    while client.wants_write() || server.wants_write() {
        pass(&mut client, &mut server)?;
        pass(&mut server, &mut client)?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(())
}

fn pass(from: &mut Connection, to: &mut Connection) -> Result<(), rustls::Error> {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut bytes = bytes.as_slice();
    while !bytes.is_empty() {
        to.read_tls(&mut bytes).unwrap();
        to.process_new_packets()?;
    }
    Ok(())
}

#[test]
fn a_stolen_certificate_without_its_key_is_of_no_use() {
    let certs = Certs::new();
    certs.script(&["--key", "ec"], &["cert", "thief"]);
    certs.script(&["--key", "rsa"], &["cert", "rsa"]);
    certs.script(&["--key", "rsa"], &["cert", "rsathief"]);
    let trust = Arc::new(trust(&[cert(&certs, "ca.pem")], &[]));
    let pair = |cert_of: &str, key_of: &str| {
        let key = PrivateKeyDer::from_pem_file(certs.file(&format!("{key_of}.key"))).unwrap();
        let signer = provider().key_provider.load_private_key(key).unwrap();
        let chain = vec![cert(&certs, &format!("{cert_of}.crt"))];
        Arc::new(CertifiedKey::new(chain, signer))
    };
    let own = pair("dispatcher", "dispatcher");
    let server = Context::new(trust.clone(), own.clone());
    for version in [&TLS12, &TLS13] {
        for (cert_of, key_of) in [
            ("relay", "relay"),
            ("rsa", "rsa"),
            ("relay", "thief"),
            ("rsa", "rsathief"),
            ("rsa", "thief"),
        ] {
            let shown = pair(cert_of, key_of);
            let config = |verifier, pair: &Arc<CertifiedKey>| {
                ClientConfig::builder_with_provider(provider())
                    .with_protocol_versions(&[version])
                    .unwrap()
                    .dangerous()
                    .with_custom_certificate_verifier(verifier)
                    .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair.clone())))
            };
            let (_, verifier) = server.client().unwrap();
            let as_client = handshake(config(verifier, &shown), server.server().unwrap().0);
            let (_, verifier) = server.client().unwrap();
            let thief = Context::new(trust.clone(), shown.clone());
            let as_server = handshake(config(verifier, &own), thief.server().unwrap().0);
            let honest = cert_of == key_of;
            assert_eq!(
                as_client.is_ok(),
                honest,
                "{cert_of} with the key of {key_of}"
            );
            assert_eq!(
                as_server.is_ok(),
                honest,
                "{cert_of} with the key of {key_of}"
            );
            if !honest && key_of != "thief" {
                let bad = rustls::Error::InvalidCertificate(CertificateError::BadSignature);
                assert_eq!(as_client, Err(bad));
            }
        }
    }
}
