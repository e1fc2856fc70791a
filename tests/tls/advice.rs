//! What is said of files that do not do ends at files that do: on a relay's host, where the CA's key is not, and on the
//! CA's own. Each advice is followed with the script.

use std::process::{Command, Output};

use mediaproxy::diagnosis::{Finding, Verdict, certificates};

use crate::support::certs::Certs;

/// What the relay has, copied from where the CA is.
const COPIED: [&str; 4] = ["ca.pem", "crl.pem", "relay.crt", "relay.key"];

const PAST: [&str; 4] = [
    "-startdate",
    "19980101000000Z",
    "-enddate",
    "19990101000000Z",
];
const FUTURE: [&str; 4] = [
    "-startdate",
    "20400101000000Z",
    "-enddate",
    "20410101000000Z",
];

fn host(ca: &Certs) -> Certs {
    let host = Certs::empty();
    for name in COPIED {
        host.take(ca, name);
    }
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(host.file("relay.key"), private).unwrap();
    host
}

fn bad(certs: &Certs) -> Option<Finding> {
    let findings = certificates(certs.path(), "relay");
    findings
        .into_iter()
        .max_by_key(|one| one.verdict)
        .filter(|one| one.verdict != Verdict::Fine)
}

/// The worst that is said of a host's files, which names all of these.
#[track_caller]
fn says(certs: &Certs, verdict: Verdict, parts: &[&str]) -> String {
    let finding = bad(certs).expect("something is wrong");
    assert_eq!(finding.verdict, verdict, "{finding:?}");
    for part in parts {
        assert!(finding.text.contains(part), "{part}: {}", finding.text);
    }
    // No command of the script is of use here.
    let here = format!("mediaproxy-make-certs {} ", certs.path().display());
    assert!(
        certs.file("ca/ca.key").exists() || !finding.text.contains(&here),
        "{}",
        finding.text
    );
    finding.text
}

fn run(certs: &Certs, options: &[&str], command: &[&str]) -> Output {
    let script = format!("{}/tls/make-certs.sh", env!("CARGO_MANIFEST_DIR"));
    let mut call = Command::new("sh");
    call.arg(script)
        .args(options)
        .arg(certs.path())
        .args(command);
    call.output().unwrap()
}

/// The script refuses, and says all of this.
#[track_caller]
fn refuses(certs: &Certs, command: &[&str], parts: &[&str]) {
    let output = run(certs, &[], command);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{text}");
    for part in parts {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_relays_host_is_sent_to_where_the_ca_is() {
    let ca = Certs::new();
    let relay = host(&ca);
    assert_eq!(bad(&relay), None);
    let there = "mediaproxy-make-certs CA-DIR renew relay, then copy relay.crt";
    for (dates, words) in [
        (&PAST, "it expired on 1999-01-01"),
        (&FUTURE, "it is not valid before 2040-01-01"),
    ] {
        ca.issue("relay", dates);
        relay.take(&ca, "relay.crt");
        let text = says(
            &relay,
            Verdict::Problem,
            &[words, "this host's clock shows 2", there],
        );
        assert_eq!(text.contains("timedatectl"), dates == &FUTURE, "{text}");
        // Whoever tries it here is sent there, too.
        for command in [&["renew", "relay"][..], &["renew"], &["crl"]] {
            refuses(
                &relay,
                command,
                &["the CA's key is not in", "on another host"],
            );
        }
        ca.script(&[], &["renew", "relay"]);
        relay.take(&ca, "relay.crt");
        assert_eq!(bad(&relay), None);
    }
    let there = "mediaproxy-make-certs CA-DIR crl, then copy ca.pem and crl.pem";
    std::fs::remove_file(relay.file("crl.pem")).unwrap();
    says(&relay, Verdict::Warning, &["no such file", there]);
    ca.openssl(&[
        "ca",
        "-gencrl",
        "-config",
        "ca/openssl.cnf",
        "-crl_lastupdate",
        "20200101000000Z",
        "-crl_nextupdate",
        "20210101000000Z",
        "-out",
        "crl.pem",
    ]);
    relay.take(&ca, "crl.pem");
    says(
        &relay,
        Verdict::Warning,
        &[
            "was to be renewed by 2021-01-01",
            "this host's clock shows 2",
            there,
        ],
    );
    ca.script(&[], &["crl"]);
    relay.take(&ca, "crl.pem");
    assert_eq!(bad(&relay), None);
}

#[test]
fn files_of_another_set_and_damaged_ones() {
    let (ca, other) = (Certs::new(), Certs::empty());
    other.script(&["--key", "ec", "--org", "Other"], &["all"]);
    let relay = host(&ca);
    for name in ["relay.crt", "relay.key"] {
        relay.take(&other, name);
    }
    says(
        &relay,
        Verdict::Problem,
        &[
            "not of one set",
            "CA-DIR cert relay",
            "ca.pem, crl.pem and the pair",
        ],
    );
    ca.script(&[], &["cert", "relay"]);
    let relay = host(&ca);
    assert_eq!(bad(&relay), None);
    relay.write("relay.key", &ca.read("dispatcher.key"));
    says(
        &relay,
        Verdict::Problem,
        &[
            "the key is not the one",
            "make-certs --force CA-DIR relay, then copy both",
        ],
    );
    ca.script(&["--force", "--key", "ec"], &["relay"]);
    let relay = host(&ca);
    assert_eq!(bad(&relay), None);
    // Every host has the same CA: no new one is made beside it.
    for damage in [Some(&b"rubbish"[..]), None] {
        match damage {
            Some(bytes) => relay.write("ca.pem", bytes),
            None => std::fs::remove_file(relay.file("ca.pem")).unwrap(),
        }
        let finding = bad(&relay).unwrap();
        assert!(finding.text.contains("copy ca.pem to"), "{}", finding.text);
    }
    refuses(&relay, &["all"], &["there is no", "copy ca.pem back"]);
    relay.take(&ca, "ca.pem");
    assert_eq!(bad(&relay), None);
}

#[test]
fn the_cas_own_host_is_told_what_it_lacks() {
    let ca = Certs::new();
    ca.issue("relay", &PAST);
    let renew = format!("mediaproxy-make-certs {} renew relay", ca.path().display());
    says(&ca, Verdict::Problem, &["expired on", &renew]);
    ca.script(&[], &["renew", "relay"]);
    assert_eq!(bad(&ca), None);
    let keep = ca.read("ca.pem");
    let back = "copy ca.pem back";
    ca.write("ca.pem", b"rubbish");
    refuses(&ca, &["renew", "relay"], &["cannot be read", back]);
    std::fs::remove_file(ca.file("ca.pem")).unwrap();
    for command in ["ca", "all", "crl"] {
        refuses(&ca, &[command], &["there is no", back]);
    }
    let other = Certs::new();
    ca.take(&other, "ca.pem");
    refuses(&ca, &["crl"], &["is not the key of", back]);
    ca.write("ca.pem", &keep);
    ca.script(&[], &["crl"]);
    assert_eq!(bad(&ca), None);
    // A CA that is over helps nobody.
    let subject = "/O=Example/CN=Example CA";
    ca.openssl(&[
        "req",
        "-new",
        "-key",
        "ca/ca.key",
        "-subj",
        subject,
        "-out",
        "ca.csr",
    ]);
    let sign = [
        "ca",
        "-batch",
        "-selfsign",
        "-config",
        "ca/openssl.cnf",
        "-extensions",
        "root",
        "-notext",
    ];
    let files = ["-keyfile", "ca/ca.key", "-in", "ca.csr", "-out", "ca.pem"];
    ca.openssl(&[&sign[..], &PAST[..], &files[..]].concat());
    let force = format!("mediaproxy-make-certs --force {} all", ca.path().display());
    says(&ca, Verdict::Problem, &["out of date", &force]);
    refuses(&ca, &["renew", "relay"], &["is over", "--force"]);
    ca.script(&["--force", "--key", "ec"], &["all"]);
    assert_eq!(bad(&ca), None);
}
