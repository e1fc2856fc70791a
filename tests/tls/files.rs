//! TLS files: keys of every form, what is said about unusable ones, and what happens when they change.

use std::time::Duration;

use mediaproxy::moment::Moment;
use mediaproxy::tls::{Context, Reason, Reload, Store, Watch};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::support::certs::Certs;
use crate::support::forge;
use crate::support::links::{connected, context, passport, shake};

fn load_error(certs: &Certs) -> String {
    Context::load(certs.path(), "relay")
        .unwrap_err()
        .to_string()
}

#[test]
fn keys_in_every_form() {
    let certs = Certs::new();
    let dispatcher = context(&certs, "dispatcher");
    let talks = |certs: &Certs| {
        let (server, client) = shake((&dispatcher, None), (&context(certs, "relay"), None));
        assert!(client.is_ok());
        server.unwrap();
    };
    // PKCS#8 is what the script writes.
    talks(&certs);
    certs.openssl(&["ec", "-in", "relay.key", "-out", "sec1.key"]);
    let parameters = certs.openssl(&["ecparam", "-name", "prime256v1"]).stdout;
    certs.write("relay.key", &[parameters, certs.read("sec1.key")].concat());
    talks(&certs);
    certs.openssl(&["genrsa", "-traditional", "-out", "relay.key", "2048"]);
    assert!(
        certs
            .read("relay.key")
            .starts_with(b"-----BEGIN RSA PRIVATE KEY")
    );
    certs.issue("relay", &["-days", "9"]);
    talks(&certs);
    certs.openssl(&["pkey", "-in", "relay.key", "-out", "pkcs8.key"]);
    certs.write("relay.key", &certs.read("pkcs8.key"));
    talks(&certs);
    let leaf = CertificateDer::from_pem_file(certs.file("relay.crt")).unwrap();
    let old = forge::certificate_of_version_1(&leaf, &certs.file("ca/ca.key"));
    certs.write_pem("x509", "relay.crt", &old);
    talks(&certs);
}

#[test]
fn an_intermediate_is_sent_along() {
    let certs = Certs::new();
    certs.script(&["--key", "ec"], &["cert", "sub"]);
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
    ];
    let how = [
        "-set_serial",
        "5",
        "-days",
        "9",
        "-extfile",
        "ca/openssl.cnf",
        "-extensions",
        "leaf",
    ];
    certs.openssl(&[&sign[..], &how[..], &["-out", "leaf.crt"]].concat());
    certs.write(
        "relay.crt",
        &[certs.read("leaf.crt"), certs.read("sub.crt")].concat(),
    );
    let ((..), (_, _, dispatcher)) = connected(&certs);
    assert!(dispatcher.subject().is_some());
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let certs = Certs::new();
    let says = |parts: &[&str]| {
        let error = load_error(&certs);
        for part in parts {
            assert!(error.contains(part), "{error}");
        }
    };
    let key = certs.read("relay.key");
    let arguments = [
        "pkey",
        "-in",
        "relay.key",
        "-aes128",
        "-passout",
        "pass:x",
        "-out",
        "locked.key",
    ];
    certs.openssl(&arguments);
    certs.write("relay.key", &certs.read("locked.key"));
    says(&["relay.key", "encrypted", "openssl pkey"]);
    certs.write("relay.key", &certs.read("dispatcher.key"));
    says(&[
        "relay.key",
        "not the one of the (first) certificate in",
        "relay.crt",
    ]);
    certs.write("relay.key", b"nothing\n");
    says(&["relay.key", "BEGIN PRIVATE KEY"]);
    std::fs::remove_file(certs.file("relay.key")).unwrap();
    says(&["relay.key", "no such file"]);
    certs.write("relay.key", &key);

    let crl = certs.read("crl.pem");
    certs.openssl(&[
        "crl", "-in", "crl.pem", "-outform", "DER", "-out", "crl.der",
    ]);
    certs.write("crl.pem", &certs.read("crl.der"));
    says(&["crl.pem", "looks like DER", "openssl crl"]);
    certs.write("crl.pem", b"");
    says(&["crl.pem", "BEGIN X509 CRL"]);
    certs.write("crl.pem", &crl[..crl.len() / 2]);
    says(&["crl.pem", "not readable as PEM"]);
    let cut = "-----BEGIN X509 CRL-----\nMIIB\n-----END X509 CRL-----\n";
    certs.write("crl.pem", cut.as_bytes());
    says(&["crl.pem", "cut short or damaged"]);
    std::fs::remove_file(certs.file("crl.pem")).unwrap();
    let (_, warnings) = Context::load(certs.path(), "relay").unwrap();
    assert!(
        warnings[0].contains("crl.pem: no such file"),
        "{warnings:?}"
    );
    certs.write("ca.pem", b"");
    says(&["ca.pem", "BEGIN CERTIFICATE"]);
}

#[test]
fn new_files_are_used_only_as_a_matching_pair() {
    let (certs, new) = (Certs::new(), Certs::empty());
    let store = Store::open(certs.path(), "relay").unwrap();
    let first = store.current().describe();
    assert_eq!(store.reload_if_changed(), Reload::Unchanged);
    for name in ["ca.pem", "crl.pem"] {
        new.take(&certs, name);
    }
    certs.script(&["--key", "ec", "--cn", "new"], &["cert", "other"]);
    certs.write("relay.crt", &certs.read("other.crt"));
    let Reload::Kept(reasons) = store.reload_if_changed() else {
        panic!("a certificate without its key was taken");
    };
    assert!(
        reasons[0].contains("the old pair stays in use"),
        "{reasons:?}"
    );
    assert_eq!(store.current().describe(), first);
    assert_eq!(store.reload_if_changed(), Reload::Unchanged, "said once");
    certs.write("relay.key", &certs.read("other.key"));
    assert_eq!(store.reload_if_changed(), Reload::Reloaded);
    assert!(store.current().describe().contains("CN=new"));

    certs.write("crl.pem", b"rubbish");
    assert!(matches!(store.reload_if_changed(), Reload::Kept(_)));
    std::fs::remove_file(certs.file("crl.pem")).unwrap();
    let Reload::Kept(reasons) = store.reload_if_changed() else {
        panic!("a list vanished and everybody was trusted again");
    };
    assert!(reasons[0].contains("vanished"), "{reasons:?}");
    certs.take(&new, "ca.pem");
    let still = store.reload_if_changed();
    assert!(
        matches!(still, Reload::Kept(_)),
        "not at the next change either"
    );
    certs.take(&new, "crl.pem");
    assert_eq!(store.reload_if_changed(), Reload::Reloaded);
}

#[test]
fn a_live_link_is_judged_again() {
    let certs = Certs::new();
    let store = Store::open(certs.path(), "dispatcher").unwrap();
    let (_server, (_client, _writer, _)) = connected(&certs);
    let (server, _client) = shake((&store.current(), None), (&context(&certs, "relay"), None));
    let relay = server.unwrap().2.certificates.unwrap();
    let any = passport("CN:relay");
    assert_eq!(store.current().verify_again(&relay, any.as_ref()), Ok(()));
    let other = passport("CN:other");
    let refused = store.current().verify_again(&relay, other.as_ref());
    assert!(matches!(refused, Err(Reason::Passport(_))));
    certs.script(&[], &["revoke", "relay"]);
    assert_eq!(store.reload_if_changed(), Reload::Reloaded);
    let refused = store.current().verify_again(&relay, None);
    assert_eq!(refused, Err(Reason::Revoked { issuer: None }));
    let stranger = Certs::empty();
    stranger.script(&["--key", "ec", "--org", "Stranger"], &["all"]);
    for name in ["ca.pem", "crl.pem", "dispatcher.crt", "dispatcher.key"] {
        certs.take(&stranger, name);
    }
    assert_eq!(store.reload_if_changed(), Reload::Reloaded);
    let refused = store.current().verify_again(&relay, None);
    assert!(matches!(refused, Err(Reason::UnknownIssuer { .. })));
}

#[test]
fn the_script_keeps_what_exists() {
    use std::os::unix::fs::PermissionsExt;

    let certs = Certs::new();
    let names = [
        "ca.pem",
        "ca/ca.key",
        "crl.pem",
        "dispatcher.key",
        "relay.crt",
        "relay.key",
    ];
    let read = || names.map(|name| certs.read(name));
    let before = read();
    certs.script(&[], &["all"]);
    assert_eq!(read(), before);
    for name in names.iter().filter(|name| name.ends_with(".key")) {
        let mode = std::fs::metadata(certs.file(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    certs.script(&["--days", "5"], &["renew"]);
    let after = read();
    assert_eq!(after[5], before[5], "the key stays");
    assert_ne!(after[4], before[4], "the certificate is new");
    assert_ne!(after[2], before[2], "the list is new");
    let (context, warnings) = Context::load(certs.path(), "relay").unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert!(
        context.describe().contains("O=Example, CN=relay"),
        "names stay"
    );
    certs.script(&["--force", "--key", "ec"], &["relay"]);
    assert_ne!(certs.read("relay.key"), before[5]);
}

/// What a handshake begun now would say to the relay's certificate.
fn accepts(store: &Store, relay: &Context) -> Result<(), String> {
    let (server, _) = shake((&store.fresh(), None), (relay, None));
    server.map(drop).map_err(|error| error.to_string())
}

#[test]
fn a_new_connection_sees_what_was_just_revoked() {
    let certs = Certs::new();
    let store = Store::open(certs.path(), "dispatcher").unwrap();
    let relay = context(&certs, "relay");
    assert_eq!(accepts(&store, &relay), Ok(()));
    certs.script(&[], &["revoke", "relay"]);
    let why = accepts(&store, &relay).unwrap_err();
    assert!(why.contains("revoked"), "{why}");
}

/// A list that is cut anywhere, as it is while somebody writes it: the last good one counts, in every direction.
#[test]
fn half_a_list_is_none() {
    let certs = Certs::new();
    let store = Store::open(certs.path(), "dispatcher").unwrap();
    let relay = context(&certs, "relay");
    let before = certs.read("crl.pem");
    certs.script(&[], &["revoke", "relay"]);
    let list = certs.read("crl.pem");
    for length in [0, 1, 30, list.len() / 2, list.len() - 30] {
        certs.write("crl.pem", &list[..length]);
        let Reload::Kept(reasons) = store.reload_if_changed() else {
            panic!("{length} bytes of {}", list.len());
        };
        assert!(reasons[0].contains("crl.pem"), "{reasons:?}");
        assert!(reasons[0].contains("stay as they were"), "{reasons:?}");
        assert_eq!(accepts(&store, &relay), Ok(()), "{length} bytes");
    }
    certs.write("crl.pem", &list);
    assert!(accepts(&store, &relay).is_err());
    certs.write("crl.pem", &before[..before.len() / 2]);
    assert!(accepts(&store, &relay).is_err(), "revoked is revoked");
}

/// On the virtual clock: who is connected is judged when files have changed and stand still, and in each interval.
#[test]
fn files_in_the_making_cut_nobody_off() {
    let certs = Certs::new();
    let store = Store::open(certs.path(), "dispatcher").unwrap();
    let second = Duration::from_secs;
    let mut watch = Watch::new(second(300), Moment::START);
    let mut look = |at: u64| {
        watch
            .look(&store, Moment::after_start(second(at)))
            .is_some()
    };
    assert!(!look(1) && !look(299));
    assert!(look(300), "its own time has come");
    assert!(!look(301));
    // Two CAs, and for a moment one of them is in the file.
    let (other, both) = (Certs::new().read("ca.pem"), certs.read("ca.pem"));
    certs.write("ca.pem", &other);
    assert!(!look(302), "it has just changed");
    certs.write("ca.pem", &[both, other].concat());
    assert!(!look(303), "and again");
    assert!(look(304));
    assert!(!look(305));
    assert!(look(604));
    // Somebody who connects has read it first.
    certs.script(&[], &["revoke", "relay"]);
    store.fresh();
    assert!(!look(605));
    assert!(look(606));
    assert!(!look(607));
}
