//! `media-admin doctor` on a host that works, and on one where much is broken.

use std::path::Path;
use std::process::Command;

use crate::support::daemons::{Daemons, make_certificates, write_config};
use crate::support::doctor::{chmod, doctor, found, run};
use crate::support::ports::PortRange;
use crate::support::programs::{copy_program, is_root};
use crate::support::scratch::Scratch;
use crate::support::site::{ADMIN, Site};

#[test]
fn doctor_finds_nothing_on_a_host_that_works() {
    let site = Site::new("admin-doctor");
    let (findings, status) = doctor(site.scratch.path());
    let bad: Vec<_> = findings
        .iter()
        .filter(|one| one["verdict"] == "problem")
        .collect();
    assert_eq!((status, bad), (Some(0), vec![]), "{findings:#?}");
    let running = found(&findings, "dispatcher", "daemon", "ok");
    assert!(running.contains("1 relay takes calls"), "{running}");
    found(&findings, "dispatcher", "listen", "ok");
    // They are valid for a day.
    found(&findings, "dispatcher", "certificates", "warning");
    found(&findings, "relay", "certificates", "warning");
    let link = found(&findings, "relay", "TLS", "ok");
    assert!(link.ends_with("the relay has a link there"), "{link}");
    found(&findings, "relay", "dispatcher", "ok");
    let ports = found(&findings, "relay", "ports", "ok");
    assert_eq!(ports, "in use by the media-relay that runs here");
    site.prints(&["drain", "127.0.0.1"]);
    let (findings, status) = doctor(site.scratch.path());
    assert_eq!(status, Some(1));
    let none = found(&findings, "dispatcher", "daemon", "problem");
    assert!(none.contains("media-admin resume"), "{none}");
}

#[test]
fn doctor_does_not_take_ports_of_others_for_those_of_the_dispatcher_that_runs() {
    let site = Site::new("admin-ports");
    let path = site.scratch.path().join("config.ini");
    let others = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let [one, two] = others.each_ref().map(|other| other.local_addr().unwrap());
    let text = std::fs::read_to_string(&path).unwrap();
    let lines = text.lines().map(|line| match line.split_once(" = ") {
        Some(("listen_management", _)) => {
            format!("listen_management = {one}\nlisten_metrics = {two}")
        }
        _ => line.to_owned(),
    });
    std::fs::write(&path, lines.collect::<Vec<_>>().join("\n")).unwrap();
    let (findings, _) = doctor(site.scratch.path());
    found(&findings, "dispatcher", "listen", "ok");
    for (area, subject) in [
        ("dispatcher", "listen_management"),
        ("dispatcher", "listen_metrics"),
    ] {
        let text = found(&findings, area, subject, "problem");
        assert!(text.contains("is taken by another program"), "{text}");
    }
}

#[test]
fn doctor_tries_the_relays_certificate_at_the_dispatcher() {
    let mut site = Site::new("admin-handshake");
    let Daemons {
        relay, dispatcher, ..
    } = site.daemons.take().unwrap();
    relay.stop().unwrap();
    let (findings, _) = doctor(site.scratch.path());
    let accepted = found(&findings, "relay", "TLS", "ok");
    assert!(
        accepted.ends_with("both certificates are accepted"),
        "{accepted}"
    );
    // One of another CA.
    let other = Scratch::new("admin-other-ca").unwrap();
    make_certificates(other.path()).unwrap();
    let tls = site.scratch.path().join("tls");
    for file in ["relay.crt", "relay.key"] {
        std::fs::copy(other.path().join("tls").join(file), tls.join(file)).unwrap();
    }
    let (findings, status) = doctor(site.scratch.path());
    assert_eq!(status, Some(1));
    let refused = found(&findings, "relay", "TLS", "problem");
    assert!(
        refused.contains("does not accept our certificate"),
        "{refused}"
    );
    dispatcher.stop().unwrap();
}

#[test]
fn doctor_names_what_is_broken_and_what_mends_it() {
    let scratch = Scratch::new("admin-broken").unwrap();
    let directory = scratch.path();
    make_certificates(directory).unwrap();
    write_config(directory, PortRange::find(200).unwrap()).unwrap();
    // The dispatcher's port is somebody else's, and the relay is sent where nobody is.
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap();
    let path = directory.join("config.ini");
    let text = std::fs::read_to_string(&path).unwrap();
    let lines = text.lines().map(|line| match line.split_once(" = ") {
        Some(("listen", _)) => format!("listen = {taken}"),
        Some(("dispatchers", _)) => format!("dispatchers = 127.0.0.1:1\nlisten_metrics = {taken}"),
        Some(("state_dir", _)) => format!("state_dir = {}", directory.join("nowhere").display()),
        _ => line.to_owned(),
    });
    let text = lines.collect::<Vec<_>>().join("\n")
        + "\naccounting = database, radius, file\n[Database]\ndburi = mysql://u:secret@127.0.0.1:1/x\n"
        + "[Radius]\nconfig_file = /nonexistent/radius.conf\n[File]\npath = /nonexistent/calls.json\n"
        + "[Kamailio]\nsocket_path = /nonexistent/kamailio.sock\n";
    std::fs::write(&path, text).unwrap();
    expire(directory, "relay");
    std::fs::remove_file(directory.join("tls/dispatcher.key")).unwrap();
    let (findings, status) = doctor(directory);
    assert_eq!(status, Some(1));
    let is = |area: &str, subject: &str, verdict: &str, part: &str| {
        let text = found(&findings, area, subject, verdict);
        assert!(text.contains(part), "{text}");
    };
    is("relay", "certificates", "problem", "renew relay");
    is("relay", "dispatcher", "problem", "cannot be reached");
    is("relay", "state_dir", "warning", "install -d -m 750");
    is("relay", "listen_metrics", "problem", "ss -ltnp");
    is(
        "dispatcher",
        "certificates",
        "problem",
        "dispatcher.key: no such file",
    );
    is("dispatcher", "listen", "problem", "ss -ltnp");
    is(
        "dispatcher",
        "database",
        "problem",
        "MySQL: 127.0.0.1 port 1 cannot be reached",
    );
    is(
        "dispatcher",
        "RADIUS",
        "problem",
        "/nonexistent/radius.conf",
    );
    is("dispatcher", "file", "problem", "/nonexistent/calls.json");
    is("dispatcher", "SIP proxy", "problem", "dgram_socket");
    is("dispatcher", "daemon", "problem", "does not run here");
    assert!(!format!("{findings:?}").contains("secret"), "a password");
    // One set of commands, not two.
    let missing = found(&findings, "dispatcher", "certificates", "problem");
    assert_eq!(
        missing.matches("mediaproxy-make-certs").count(),
        1,
        "{missing}"
    );
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(
        &path,
        text.replace("relay_ip = 127.0.0.1", "relay_ip = 203.0.113.9"),
    )
    .unwrap();
    let (findings, _) = doctor(directory);
    let text = found(&findings, "relay", "relay_ip", "problem");
    assert!(text.ends_with("ip -4 address shows this host's"), "{text}");
    // A file that cannot be used is a finding, too.
    let text = "[Relay]\nport_range = x\nrelay_ip = y\ndispatchers = 127.0.0.1\nport_rang = 1\n";
    std::fs::write(&path, text).unwrap();
    let (findings, status) = doctor(directory);
    assert_eq!(status, Some(1));
    let of_relay = findings
        .iter()
        .filter(|one| one["area"] == "relay" && one["subject"] == "configuration");
    let lines: Vec<_> = of_relay
        .map(|one| [&one["verdict"], &one["text"]].map(|text| text.as_str().unwrap()))
        .collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    for ([verdict, text], (want, line)) in
        lines
            .iter()
            .zip([("problem", 2), ("problem", 3), ("warning", 5)])
    {
        assert_eq!(*verdict, want, "{text}");
        assert!(text.contains(&format!("config.ini:{line}: ")), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }
}

/// After each command that is named, nothing is wrong any more.
#[test]
fn doctor_names_secrets_that_others_may_read() {
    let scratch = Scratch::new("admin-secrets").unwrap();
    let directory = scratch.path();
    make_certificates(directory).unwrap();
    write_config(directory, PortRange::find(200).unwrap()).unwrap();
    let [config, key, secrets] =
        ["config.ini", "tls/dispatcher.key", "servers"].map(|name| directory.join(name));
    let radius = directory.join("radius.conf");
    let text = std::fs::read_to_string(&config).unwrap()
        + "\naccounting = database, radius, file\n[Database]\ndburi = mysql://u:secret@127.0.0.1:1/x\n"
        + &format!("[Radius]\nconfig_file = {}\n", radius.display())
        + &format!("[File]\npath = {}\n", directory.join("fifo").display());
    std::fs::write(&config, text).unwrap();
    let text = format!("acctserver 127.0.0.1\nservers {}\n", secrets.display());
    std::fs::write(&radius, text).unwrap();
    std::fs::write(&secrets, "127.0.0.1 secret\n").unwrap();
    for open in [directory, &directory.join("tls")] {
        chmod(open, 0o755);
    }
    for (file, mode) in [(&config, 0o644), (&key, 0o664), (&secrets, 0o666)] {
        chmod(file, mode);
    }
    let made = Command::new("mkfifo").arg(directory.join("fifo")).status();
    assert!(made.unwrap().success());
    let (findings, status) = doctor(directory);
    assert_eq!(status, Some(1));
    let fifo = found(&findings, "dispatcher", "file", "problem");
    assert!(fifo.contains("a FIFO"), "{fifo}");
    for (subject, file, what) in [
        ("configuration", &config, "may read it (mode 0644)"),
        ("certificates", &key, "may read it (mode 0664)"),
        ("RADIUS", &secrets, "may read and change it (mode 0666)"),
    ] {
        let text = found(&findings, "dispatcher", subject, "problem");
        assert!(text.contains(what), "{text}");
        let (_, command) = text.split_once("): ").unwrap();
        assert!(command.ends_with(&file.display().to_string()), "{text}");
        let done = Command::new("sh").args(["-c", command]).status().unwrap();
        assert!(done.success(), "{command}");
    }
    assert!(!format!("{findings:?}").contains("u:secret"), "a password");
    let (findings, _) = doctor(directory);
    let open = findings
        .iter()
        .filter(|one| one.to_string().contains("every user of this host"));
    assert_eq!(open.count(), 0, "{findings:#?}");
}

/// `doctor` as a user whom rights hold for.
fn doctor_of_nobody(scratch: &Scratch) -> Vec<serde_json::Value> {
    if !is_root() {
        return doctor(scratch.path()).0;
    }
    // Others may not get to where it was built.
    let program = scratch.path().join("media-admin");
    copy_program(Path::new(ADMIN), &program);
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    run(command.arg(program), scratch.path()).0
}

#[test]
fn doctor_names_who_must_be_let_in_where_rights_are_missing() {
    let scratch = Scratch::new("admin-rights").unwrap();
    let directory = scratch.path();
    chmod(directory, 0o755);
    make_certificates(directory).unwrap();
    write_config(directory, PortRange::find(200).unwrap()).unwrap();
    let [tls, state, shut] = ["tls", "state", "shut"].map(|name| directory.join(name));
    let [socket, config] = ["kamailio.sock", "config.ini"].map(|name| directory.join(name));
    std::fs::create_dir(&shut).unwrap();
    let _kamailio = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    let text = std::fs::read_to_string(&config).unwrap()
        + &format!(
            "accounting = database, radius, file\n[Database]\ndburi = sqlite://{0}/calls.db\n[File]\npath = {0}/calls\n\
             [Radius]\nconfig_file = {0}.conf\n[Kamailio]\nsocket_path = {1}\n",
            shut.display(),
            socket.display()
        );
    std::fs::write(&config, text).unwrap();
    std::fs::write(directory.join("shut.conf"), "").unwrap();
    for (path, mode) in [
        (&tls, 0o755),
        (&state, 0o555),
        (&shut, 0o555),
        (&socket, 0),
        (&config, 0o644),
    ] {
        chmod(path, mode);
    }
    for name in ["ca.pem", "crl.pem", "relay.crt", "dispatcher.crt"] {
        chmod(&tls.join(name), 0o644);
    }
    let locked =
        ["tls/relay.key", "tls/dispatcher.key", "shut.conf"].map(|name| directory.join(name));
    locked.iter().for_each(|path| chmod(path, 0));
    let findings = doctor_of_nobody(&scratch);
    let is = |area: &str, subject: &str, part: &str| {
        let text = found(&findings, area, subject, "problem");
        assert!(text.contains(part), "{part}: {text}");
        assert!(text.matches("mediaproxy-make-certs").count() == 0, "{text}");
    };
    let may_read = |path: &Path| {
        let path = path.display();
        format!("chgrp mediaproxy {path} && chmod 640 {path}")
    };
    is("relay", "certificates", &may_read(&locked[0]));
    is("dispatcher", "certificates", &may_read(&locked[1]));
    is("dispatcher", "RADIUS", &may_read(&locked[2]));
    let proxy = "usermod -aG kamailio mediaproxy && systemctl restart mediaproxy-dispatcher";
    is("dispatcher", "SIP proxy", proxy);
    for (subject, path) in [("state_dir", &state), ("database", &shut), ("file", &shut)] {
        is(
            "dispatcher",
            subject,
            &format!("chown mediaproxy: {}", path.display()),
        );
    }
    is(
        "relay",
        "state_dir",
        &format!("chown mediaproxy: {}", state.display()),
    );
    chmod(&config, 0);
    let findings = doctor_of_nobody(&scratch);
    for area in ["relay", "dispatcher"] {
        let text = found(&findings, area, "configuration", "problem");
        assert!(text.ends_with(&may_read(&config)), "{text}");
    }
}

/// The packaged configuration with these keys of one section set.
fn packaged(section: &str, keys: &[(&str, String)]) -> String {
    let mut here = "";
    let set = include_str!("../../conf/config.ini").lines().map(|line| {
        if line.starts_with('[') {
            here = line;
        }
        let name = line.strip_prefix(';').and_then(|key| key.split_once(" ="));
        let ours = name.filter(|_| here == section);
        match keys
            .iter()
            .find(|(key, _)| Some(*key) == ours.map(|name| name.0))
        {
            Some((key, value)) => format!("{key} = {value}\n"),
            None => format!("{line}\n"),
        }
    });
    set.collect()
}

/// Another host beside a site: the packaged configuration, and of the certificates only those of its role.
fn split(site: &Site, section: &str, keys: &[&str], role: &str) -> Scratch {
    let scratch = Scratch::new("admin-split").unwrap();
    let [from, to] = [site.scratch.path(), scratch.path()];
    let text = std::fs::read_to_string(from.join("config.ini")).unwrap();
    let own = text.split_once(section).unwrap().1;
    let value = |key: &&str| {
        let line = own.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap().trim_start_matches(" = ").to_owned()
    };
    let keys: Vec<_> = keys.iter().map(|key| (*key, value(key))).collect();
    std::fs::write(to.join("config.ini"), packaged(section, &keys)).unwrap();
    std::fs::create_dir(to.join("tls")).unwrap();
    for file in [
        "ca.pem",
        "crl.pem",
        &format!("{role}.crt"),
        &format!("{role}.key"),
    ] {
        std::fs::copy(from.join("tls").join(file), to.join("tls").join(file)).unwrap();
    }
    std::os::unix::fs::symlink(from.join("run"), to.join("run")).unwrap();
    scratch
}

#[track_caller]
fn is_clean(host: &Scratch, role: &str) {
    let (findings, status) = doctor(host.path());
    let is_bad = |one: &&serde_json::Value| {
        one["verdict"] == "problem" || !["host", role].contains(&one["area"].as_str().unwrap())
    };
    let bad: Vec<_> = findings.iter().filter(is_bad).collect();
    assert_eq!((status, bad), (Some(0), vec![]));
    found(&findings, role, "configuration", "ok");
}

#[test]
fn doctor_looks_at_one_daemon_where_the_packaged_configuration_is_of_one() {
    let site = Site::new("admin-packaged");
    let keys = ["dispatchers", "relay_ip", "port_range", "state_dir"];
    is_clean(&split(&site, "[Relay]", &keys, "relay"), "relay");
    let keys = [
        "listen",
        "listen_management",
        "management_use_tls",
        "state_dir",
    ];
    let host = split(&site, "[Dispatcher]", &keys, "dispatcher");
    is_clean(&host, "dispatcher");
    // All defaults: its certificate tells.
    let areas = || {
        let mut areas: Vec<_> = doctor(host.path()).0;
        areas.dedup_by_key(|one| one["area"].clone());
        let names = areas
            .iter()
            .map(|one| one["area"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    std::fs::write(host.path().join("config.ini"), packaged("", &[])).unwrap();
    assert_eq!(areas(), ["host", "dispatcher"]);
    let certificate = |role: &str| host.path().join(format!("tls/{role}.crt"));
    std::fs::copy(certificate("dispatcher"), certificate("relay")).unwrap();
    assert_eq!(areas(), ["host", "relay", "dispatcher"]);
    for role in ["relay", "dispatcher"] {
        std::fs::remove_file(certificate(role)).unwrap();
    }
    assert_eq!(areas(), ["host", "dispatcher"]);
    let (findings, _) = doctor(host.path());
    let neither = found(&findings, "host", "daemons", "warning");
    assert!(
        neither.ends_with("for a relay set [Relay] dispatchers"),
        "{neither}"
    );
}

/// Gives a role a certificate that ended in the last century, for the same key and of the same CA.
fn expire(directory: &Path, role: &str) {
    let tls = directory.join("tls");
    let script = format!(
        "set -e; openssl req -new -key {role}.key -subj /CN={role} -out old.csr
         touch index.txt; echo 99 >serial
         printf '[a]\\ndatabase=index.txt\\nserial=serial\\nnew_certs_dir=.\\ndefault_md=sha256\\npolicy=p\\n[p]\\ncommonName=supplied\\n' >ca.cnf
         openssl ca -batch -config ca.cnf -name a -cert ca.pem -keyfile \"$(ls ca/*.key | head -1)\" \
            -startdate 19980101000000Z -enddate 19990101000000Z -in old.csr -out {role}.crt -notext"
    );
    let output = Command::new("sh")
        .args(["-c", &script])
        .current_dir(&tls)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}
