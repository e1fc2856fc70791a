//! `media-admin doctor` by root, with the rights of the daemons' user; what it finds out about a relay that runs; dates of
//! revocation lists.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::Command;

use crate::support::daemons::{Daemons, extend_config, make_certificates, write_config};
use crate::support::doctor::{chmod, doctor, found, on_host, program_on_host, run};
use crate::support::ports::{PortRange, free_tcp_port};
use crate::support::programs::is_root;
use crate::support::scratch::Scratch;
use crate::support::site::Site;
use crate::support::skip;
use serde_json::Value;

/// One that no host has.
const USER: &str = "mediaproxy:x:64123:64123::/nonexistent:/usr/sbin/nologin";

/// The commands that let the user in, as `doctor` gives them.
fn remedies(findings: &[Value]) -> Vec<String> {
    let texts = findings.iter().map(|one| one["text"].as_str().unwrap());
    let commands = texts.filter_map(|text| {
        let begins = ["chgrp ", "chown ", "chmod o+x "].map(|begin| text.find(begin));
        let begin = begins.into_iter().flatten().min()?;
        Some(text[begin..].to_owned())
    });
    commands.collect()
}

#[test]
fn doctor_of_root_finds_what_the_daemons_may_not_and_its_commands_let_them() {
    let scratch = Scratch::new("admin-root").unwrap();
    let directory = scratch.path();
    if !is_root() {
        skip::skip("needs root");
        return;
    }
    make_certificates(directory).unwrap();
    let ports = PortRange::find(200).unwrap();
    write_config(directory, ports).unwrap();
    let [books, socket] = ["books", "kamailio.sock"].map(|name| directory.join(name));
    let lines = format!(
        "accounting = database, file\n[Database]\ndburi = sqlite://{0}/calls.db\n[File]\npath = {0}/calls\n[Kamailio]\n\
         socket_path = {1}",
        books.display(),
        socket.display()
    );
    extend_config(directory, &lines).unwrap();
    let _kamailio = UnixDatagram::bind(&socket).unwrap();
    chmod(&socket, 0o660);
    let spool = directory.join(format!("state/relay-{}", ports.start));
    let drained = directory.join("state/drained");
    for made in [&spool, &books] {
        fs::create_dir(made).unwrap();
    }
    for file in [
        &spool.join("lock"),
        &drained,
        &books.join("calls"),
        &books.join("calls.db"),
    ] {
        fs::write(file, "").unwrap();
        chmod(file, 0o600);
    }
    let look = || run(&mut program_on_host(directory, USER), directory).0;
    // Everything is root's, and nobody else may even enter: one command after the other opens it.
    let mut given = Vec::new();
    let end = loop {
        let findings = look();
        let commands = remedies(&findings);
        if commands.is_empty() {
            break findings;
        }
        assert!(given.len() < 40, "{given:#?}");
        for command in commands {
            let done = on_host(directory, USER)
                .args(["sh", "-ec", &command])
                .status();
            assert!(done.unwrap().success(), "{command}");
            given.push(command);
        }
    };
    let shown = |path: &Path| path.display().to_string();
    for want in [
        format!("chgrp mediaproxy {0} && chmod 750 {0}", shown(directory)),
        format!(
            "chgrp mediaproxy {0} && chmod 640 {0}",
            shown(&directory.join("tls/relay.key"))
        ),
        format!("chown mediaproxy: {}", shown(&directory.join("state"))),
        format!("chown -R mediaproxy: {}", shown(&spool)),
        format!("chown -R mediaproxy: {}", shown(&drained)),
        format!("chown mediaproxy: {}", shown(&directory.join("run"))),
        format!("chown mediaproxy: {}", shown(&books)),
        format!("chown mediaproxy: {}", shown(&books.join("calls"))),
    ] {
        assert!(given.contains(&want), "not {want}: {given:#?}");
    }
    for area in ["relay", "dispatcher"] {
        let user = found(&end, area, "user", "ok");
        assert_eq!(user, "mediaproxy, with whose rights files are looked at");
        found(&end, area, "configuration", "ok");
        found(&end, area, "state_dir", "ok");
    }
    for subject in ["sockets", "database", "file"] {
        found(&end, "dispatcher", subject, "ok");
    }
    let proxy = found(&end, "dispatcher", "SIP proxy", "problem");
    assert!(proxy.contains("usermod -aG kamailio mediaproxy"), "{proxy}");
    chmod(&socket, 0o666);
    found(&look(), "dispatcher", "SIP proxy", "ok");
    // Where there is no such user, that is said, and the rest is looked at as root.
    let (findings, _) = doctor(directory);
    let missing = found(&findings, "relay", "user", "warning");
    assert!(missing.contains("useradd --system"), "{missing}");
}

/// A configuration with other lines for these keys, wherever they stand.
fn set(directory: &Path, keys: &[(&str, String)]) {
    let path = directory.join("config.ini");
    let text = fs::read_to_string(&path).unwrap();
    let lines = text.lines().map(|line| {
        let key = line.split_once(" = ").map(|(key, _)| key);
        let other = keys.iter().find(|(name, _)| Some(*name) == key);
        other.map_or(line.to_owned(), |(key, value)| format!("{key} = {value}"))
    });
    fs::write(&path, lines.collect::<Vec<_>>().join("\n")).unwrap();
}

fn first_port(directory: &Path) -> u16 {
    let text = fs::read_to_string(directory.join("config.ini")).unwrap();
    let (_, rest) = text.split_once("port_range = ").unwrap();
    rest.split_once(':').unwrap().0.parse().unwrap()
}

#[test]
fn doctor_goes_by_who_has_the_relays_ports() {
    let metrics = free_tcp_port().unwrap();
    let mut site = Site::with("admin-holds", |config| {
        config + &format!("\n[Relay]\nlisten_metrics = 127.0.0.1:{metrics}\n")
    });
    let directory = site.scratch.path().to_owned();
    let first = first_port(&directory);
    let (findings, _) = doctor(&directory);
    let daemon = found(&findings, "relay", "daemon", "ok");
    let pid = site.daemons().relay.pid();
    assert_eq!(daemon, format!("media-relay runs, process {pid}"));
    let listening = found(&findings, "relay", "listen_metrics", "ok");
    assert!(
        listening.ends_with("in use by the media-relay that runs here"),
        "{listening}"
    );
    // Of its ports one is another's.
    let other = UdpSocket::bind(("127.0.0.1", first + 7)).unwrap();
    let (findings, _) = doctor(&directory);
    let ports = found(&findings, "relay", "ports", "warning");
    let want = format!(
        "1 of 200 ports are taken by other programs, {} among them",
        first + 7
    );
    assert!(ports.starts_with(&want), "{ports}");
    drop(other);
    // The relay that has a link from this host is not the one of another configuration.
    let beside = Scratch::new("admin-beside").unwrap();
    for name in ["tls", "run"] {
        std::os::unix::fs::symlink(directory.join(name), beside.path().join(name)).unwrap();
    }
    fs::copy(
        directory.join("config.ini"),
        beside.path().join("config.ini"),
    )
    .unwrap();
    let range = PortRange::find(200).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    set(
        beside.path(),
        &[
            ("port_range", format!("{}:{}", range.start, range.end)),
            ("listen_metrics", listener.local_addr().unwrap().to_string()),
        ],
    );
    let _taken = UdpSocket::bind(("127.0.0.1", range.start)).unwrap();
    let (findings, _) = doctor(beside.path());
    let ports = found(&findings, "relay", "ports", "warning");
    assert!(ports.starts_with("1 of 200 ports are taken"), "{ports}");
    let daemon = found(&findings, "relay", "daemon", "problem");
    let want = format!("no media-relay has ports from {} on", range.start);
    assert!(daemon.starts_with(&want), "{daemon}");
    assert!(daemon.contains(&first.to_string()), "{daemon}");
    let taken = found(&findings, "relay", "listen_metrics", "problem");
    assert!(taken.contains("is taken by another program"), "{taken}");
    // It has been given another port meanwhile.
    set(
        &directory,
        &[(
            "listen_metrics",
            format!("127.0.0.1:{}", free_tcp_port().unwrap()),
        )],
    );
    let (findings, _) = doctor(&directory);
    let unused = found(&findings, "relay", "listen_metrics", "warning");
    assert!(
        unused.ends_with("systemctl reload mediaproxy-relay"),
        "{unused}"
    );
    // It has ended, and somebody else has its lock.
    let Daemons {
        relay, dispatcher, ..
    } = site.daemons.take().unwrap();
    relay.stop().unwrap();
    let (findings, _) = doctor(&directory);
    let gone = found(&findings, "relay", "daemon", "problem");
    assert!(gone.contains("systemctl "), "{gone}");
    let free = found(&findings, "relay", "ports", "ok");
    assert!(free.ends_with("are free"), "{free}");
    let name = SocketAddr::from_abstract_name(format!("mediaproxy-relay-{first}")).unwrap();
    let _lock = UnixDatagram::bind_addr(&name).unwrap();
    let (findings, status) = doctor(&directory);
    let stranger = found(&findings, "relay", "ports", "problem");
    let want = format!("process {}, which is no media-relay", std::process::id());
    assert!(stranger.contains(&want), "{stranger}");
    assert_eq!(status, Some(1));
    dispatcher.stop().unwrap();
}

/// Gives the CA a list of those times, as openssl writes them.
fn list(directory: &Path, made: &str, next: &str) {
    let script = format!(
        "set -e; : >index.txt
         printf '[a]\\ndatabase=index.txt\\ndefault_md=sha256\\n' >list.cnf
         openssl ca -gencrl -config list.cnf -name a -cert ca.pem -keyfile \"$(ls ca/*.key | head -1)\" \
            -crl_lastupdate {made} -crl_nextupdate {next} -out crl.pem"
    );
    let output = Command::new("sh")
        .args(["-c", &script])
        .current_dir(directory.join("tls"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn doctor_tells_when_a_revocation_list_is_to_be_renewed() {
    let scratch = Scratch::new("admin-lists").unwrap();
    let directory = scratch.path();
    make_certificates(directory).unwrap();
    write_config(directory, PortRange::find(200).unwrap()).unwrap();
    let about_lists = |area: &str| {
        let (findings, _) = doctor(directory);
        let found = findings.into_iter().filter(|one| {
            one["area"] == area
                && one["subject"] == "certificates"
                && one["text"].as_str().unwrap().contains("crl.pem")
        });
        let found: Vec<(String, String)> = found
            .map(|one| {
                ["verdict", "text"]
                    .map(|key| one[key].as_str().unwrap().to_owned())
                    .into()
            })
            .collect();
        assert_eq!(found.len(), 1, "{found:?}");
        found.into_iter().next().unwrap()
    };
    let (verdict, text) = about_lists("relay");
    assert_eq!(verdict, "ok", "{text}");
    let output = Command::new("date")
        .args(["-u", "-d", "+3 days", "+%Y%m%d%H%M%SZ"])
        .output()
        .unwrap();
    let soon = String::from_utf8(output.stdout).unwrap();
    let crl = format!(
        "mediaproxy-make-certs {} crl",
        directory.join("tls").display()
    );
    for (next, want) in [
        ("19990101000000Z", "was to be renewed by 1999-01-01"),
        (soon.trim(), "is to be renewed by "),
    ] {
        list(directory, "19980101000000Z", next);
        for area in ["relay", "dispatcher"] {
            let (verdict, text) = about_lists(area);
            assert_eq!(verdict, "warning", "{text}");
            assert!(text.contains(want) && text.contains(&crl), "{text}");
        }
    }
}
