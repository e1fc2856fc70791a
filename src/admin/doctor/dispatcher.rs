//! What a dispatcher needs: its ports, the SIP proxy beside it, the backends that calls are accounted to.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::{access, unusable};
use crate::admin::client::{Client, Target, Transport};
use crate::admin::show::read;
use crate::admin::view::Relay;
use crate::config::{
    self, Backend, DatabaseUri, DispatcherConfig, Loaded, ProxySocket, RadiusSection, ServerKind,
};
use crate::diagnosis::certificates;
use crate::diagnosis::daemon::{Daemon, firewall, port, reach, state_dir};
use crate::diagnosis::file_user::FileUser;
use crate::diagnosis::finding::{Finding, fine, problem, strict, warning};
use crate::diagnosis::input_chains::Protocol;
use crate::diagnosis::processes;
use crate::sys::datagram::{first_there, is_there, listens};
use crate::sys::files::check_target;
use crate::sys::peer::credentials;
use crate::sys::{file_access, host};

/// A dispatcher that runs here, as it answers.
pub(super) struct Running {
    daemon: Daemon,
    version: String,
    relays: Option<Vec<Relay>>,
}

/// What there is of one.
enum Found {
    Running(Running),
    /// It takes connections and does not answer.
    Silent(Daemon, String),
    /// It may run: its socket is not for this user.
    Hidden,
    Nobody,
}

impl Found {
    fn daemon(&self) -> Option<&Daemon> {
        match self {
            Found::Running(running) => Some(&running.daemon),
            Found::Silent(daemon, _) => Some(daemon),
            Found::Hidden | Found::Nobody => None,
        }
    }
}

/// `is_meant` where more than a certificate beside a relay's tells that there is to be one.
pub(super) fn look(config_dir: &Path, runtime_dir: &Path, is_meant: bool) -> Vec<Finding> {
    let found = find(runtime_dir);
    let daemon = found.daemon();
    let user = FileUser::of(daemon);
    let mut findings = vec![user.finding.clone()];
    let loaded = match user.run(|| config::load_dispatcher(config_dir)) {
        Ok(loaded) => loaded,
        Err(error) => {
            findings.extend(unusable(&error));
            return findings;
        }
    };
    let config = &loaded.config;
    findings.extend(user.run(|| files(&loaded, runtime_dir)));
    for (key, address) in [
        ("listen", Some(config.listen)),
        ("listen_management", Some(config.listen_management)),
        ("listen_metrics", config.listen_metrics),
    ] {
        findings.extend(address.map(|address| port(key, address, daemon)));
    }
    if !config.listen.ip().is_loopback() {
        let port = config.listen.port();
        findings.extend(firewall(Protocol::Tcp, port, port, "relays"));
    }
    findings.push(match (&found, is_meant) {
        (Found::Nobody, false) => copied(&config.tls.certs_path),
        _ => runs(&found, runtime_dir),
    });
    if let Found::Running(Running {
        relays: Some(relays),
        ..
    }) = &found
    {
        findings.extend(relays.iter().filter_map(relay));
    }
    findings.push(access::look(config, runtime_dir, &user, daemon.is_some()));
    findings.push(user.run(|| proxy(config)));
    findings.extend(user.run(|| accounting(config)));
    findings
}

/// What it reads and writes, with the rights of the calling thread.
fn files(loaded: &Loaded<DispatcherConfig>, runtime_dir: &Path) -> Vec<Finding> {
    let config = &loaded.config;
    let subject = "configuration";
    let warnings = loaded.warnings.iter();
    let mut findings: Vec<Finding> = warnings
        .map(|text| strict(warning(subject, text)))
        .collect();
    if findings.is_empty() {
        findings.push(fine(subject, loaded.path.display().to_string()));
    }
    let certificates = certificates(&config.tls.certs_path, "dispatcher");
    findings.extend(certificates.into_iter().map(strict));
    let socket = runtime_dir.join(&config.socket_path);
    let mut places = vec![runtime_dir, socket.parent().unwrap_or(runtime_dir)];
    places.dedup();
    findings.extend(places.into_iter().map(sockets_in));
    findings.extend(state_dir(&config.state_dir, &["accounting", "drained"]));
    findings
}

/// A directory in which it makes sockets. The units and init scripts make the usual one at each start.
fn sockets_in(directory: &Path) -> Finding {
    let (subject, shown) = ("sockets", directory.display());
    match host::may_write(directory) {
        Ok(()) => fine(subject, format!("made in {shown}")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => fine(
            subject,
            format!("{shown} is not there, it is made when the dispatcher starts"),
        ),
        Err(error) => problem(
            subject,
            format!(
                "{shown} cannot be written to ({error}), media-dispatcher will not start: {}",
                file_access::remedy_to_write(directory, &error)
            ),
        ),
    }
}

fn find(runtime_dir: &Path) -> Found {
    let path = runtime_dir.join("management.sock");
    let socket = match UnixStream::connect(&path) {
        Ok(socket) => socket,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Found::Hidden,
        Err(_) => return Found::Nobody,
    };
    let pid = credentials(&socket).ok().map(|process| process.pid);
    drop(socket);
    let transport = Transport::Unix(path);
    let timeout = Duration::from_secs(10);
    let target = Target { transport, timeout };
    let ask = |command| Client::connect(&target).and_then(|mut client| client.ask(command));
    let version = match ask("version") {
        Ok(version) => version,
        Err(why) => return Found::Silent(daemon(pid), why.to_string()),
    };
    Found::Running(Running {
        daemon: daemon(pid),
        version: version.first().cloned().unwrap_or_default(),
        relays: ask("summary").and_then(|lines| read(&lines)).ok(),
    })
}

fn daemon(pid: Option<i32>) -> Daemon {
    Daemon {
        name: "media-dispatcher",
        again: "systemctl restart mediaproxy-dispatcher",
        pid,
    }
}

fn runs(found: &Found, runtime_dir: &Path) -> Finding {
    let subject = "daemon";
    let Running {
        version, relays, ..
    } = match found {
        Found::Running(running) => running,
        Found::Silent(Daemon { pid, .. }, why) => {
            let (process, mend) = match pid {
                Some(pid) if processes::is_stopped(*pid) => (
                    format!("media-dispatcher, process {pid}, is stopped"),
                    format!("kill -CONT {pid}, or "),
                ),
                Some(pid) => (
                    format!("media-dispatcher, process {pid}, does not answer"),
                    String::new(),
                ),
                None => ("media-dispatcher does not answer".to_owned(), String::new()),
            };
            return problem(
                subject,
                format!(
                    "{process} ({why}), calls have no relay: {mend}systemctl restart mediaproxy-dispatcher"
                ),
            );
        }
        Found::Hidden => {
            let text = "whether media-dispatcher runs cannot be seen by this user: sudo media-admin doctor";
            return warning(subject, text);
        }
        Found::Nobody => return absent(runtime_dir),
    };
    let able = |relay: &&Relay| relay.status == "active" && !relay.drained;
    match relays
        .as_ref()
        .map(|relays| relays.iter().filter(able).count())
    {
        None => problem(
            subject,
            format!(
                "media-dispatcher {version} runs and does not tell of its relays: journalctl -u mediaproxy-dispatcher"
            ),
        ),
        Some(0) => problem(
            subject,
            format!(
                "media-dispatcher {version} runs and no relay takes calls, all are refused: media-admin summary; \
                 systemctl start mediaproxy-relay and media-relay --check on the relays' hosts; media-admin resume where one is drained"
            ),
        ),
        Some(count) => fine(
            subject,
            match count {
                1 => format!("media-dispatcher {version} runs, 1 relay takes calls"),
                _ => format!("media-dispatcher {version} runs, {count} relays take calls"),
            },
        ),
    }
}

/// No dispatcher has a socket there.
fn absent(runtime_dir: &Path) -> Finding {
    let others = processes::named("media-dispatcher");
    let other = others.first().map(|pid| {
        let directory = runtime_dir.display();
        format!(" (process {pid} is one without a socket in {directory}: for that --runtime-dir)")
    });
    let other = other.unwrap_or_default();
    problem(
        "daemon",
        format!(
            "media-dispatcher does not run here{other}, calls have no relay: systemctl start mediaproxy-dispatcher; where it \
             has ended, journalctl -u mediaproxy-dispatcher says why"
        ),
    )
}

/// A relay's host that has the dispatcher's certificate, too.
fn copied(certificates: &Path) -> Finding {
    warning(
        "daemon",
        format!(
            "media-dispatcher does not run here: where it should, systemctl start mediaproxy-dispatcher; where {}/dispatcher.crt \
             and .key only came with the relay's, remove them",
            certificates.display()
        ),
    )
}

/// What is wrong with one of its relays.
fn relay(relay: &Relay) -> Option<Finding> {
    let subject = "relay";
    let name = relay.label();
    let host = "on its host media-admin doctor tells more";
    match relay.streams_left {
        _ if relay.is_bad() && relay.away => Some(problem(
            subject,
            format!(
                "{name} is not connected, and has calls: {host}; systemctl start mediaproxy-relay there"
            ),
        )),
        _ if relay.is_bad() => Some(problem(
            subject,
            format!(
                "{name} is connected and does not answer: {host}; systemctl restart mediaproxy-relay there"
            ),
        )),
        Some(0) => Some(problem(
            subject,
            format!(
                "{name} has no room left, all of {} streams that fit are in use and it refuses calls: set [Relay] port_range \
                 to a wider one there, or add a relay",
                relay.streams_fit
            ),
        )),
        _ => None,
    }
}

/// Where dialogs of dead calls are ended.
fn proxy(config: &DispatcherConfig) -> Finding {
    let subject = "SIP proxy";
    let proxies = [
        ("Kamailio", "kamailio", &config.kamailio.socket),
        ("OpenSIPS", "opensips", &config.opensips.socket),
    ];
    let is_set = |socket: &ProxySocket| socket.is_set;
    let is_found = |socket: &ProxySocket| socket.paths.iter().any(|path| is_there(path));
    let first =
        |which: &dyn Fn(&ProxySocket) -> bool| proxies.iter().find(|(.., socket)| which(socket));
    // OpenSIPS' path may come from an old file of a host that has Kamailio now.
    let kamailio = proxies.first().filter(|(.., socket)| socket.is_set);
    let Some((name, group, socket)) = kamailio.or(first(&is_found)).or(first(&is_set)) else {
        let load = "load jsonrpcs.so in Kamailio, or mi_datagram.so with its socket_name in OpenSIPS, or set [Kamailio] socket_path or [OpenSIPS] socket_path";
        return warning(
            subject,
            format!(
                "neither Kamailio listens at {} nor OpenSIPS at {}; dead calls get no BYE: {load}",
                config.kamailio.socket, config.opensips.socket
            ),
        );
    };
    let path = first_there(&socket.paths);
    let shown = path.display();
    let how = if socket.is_set {
        "socket_path"
    } else {
        "found there"
    };
    match listens(path) {
        Ok(()) => fine(subject, format!("{name} listens at {shown} ({how})")),
        Err(error) => {
            let load = match *group {
                "kamailio" => format!(
                    "load jsonrpcs.so with modparam(\"jsonrpcs\", \"transport\", 4) and modparam(\"jsonrpcs\", \
                     \"dgram_socket\", \"{shown}\")"
                ),
                _ => format!(
                    "load mi_datagram.so with modparam(\"mi_datagram\", \"socket_name\", \"{shown}\")"
                ),
            };
            let mend = to_send(&error, group).unwrap_or(load);
            problem(
                subject,
                format!(
                    "{name}'s {shown} ([{name}] {how}): {error}; dead calls get no BYE: {mend}"
                ),
            )
        }
    }
}

/// What lets the dispatcher use a socket of the SIP proxy; none where rights are not what it lacks.
fn to_send(error: &io::Error, group: &str) -> Option<String> {
    let command =
        format!("usermod -aG {group} mediaproxy && systemctl restart mediaproxy-dispatcher");
    (error.kind() == io::ErrorKind::PermissionDenied).then_some(command)
}

/// What the configured backends can be asked without a password.
fn accounting(config: &DispatcherConfig) -> Vec<Finding> {
    let backends = config.accounting.iter();
    backends
        .flat_map(|backend| match backend {
            Backend::Database => config.database.databases.iter().map(database).collect(),
            Backend::Radius => vec![radius(&config.radius)],
            Backend::File => vec![file(&config.file.path)],
        })
        .collect()
}

fn database(uri: &DatabaseUri) -> Finding {
    let subject = "database";
    match uri {
        DatabaseUri::Server(server) => {
            let name = match server.kind {
                ServerKind::MySql => "MySQL",
                ServerKind::PostgreSql => "PostgreSQL",
            };
            let reached = match server.socket() {
                Some(path) => UnixStream::connect(&path)
                    .map(|_| path.display().to_string())
                    .map_err(|error| {
                        let path = path.display();
                        (
                            format!("{path} cannot be reached ({error})"),
                            format!("ss -lx src {path}"),
                        )
                    }),
                None => {
                    let port = server.port();
                    reach(&server.host, port)
                        .map(|(address, _)| address.to_string())
                        .map_err(|why| (why, format!("ss -ltn 'sport = :{port}'")))
                }
            };
            match reached {
                Ok(place) => fine(subject, format!("{name} at {place} accepts connections")),
                Err((why, command)) => problem(
                    subject,
                    format!(
                        "{name}: {why}; calls are kept until it is back: {command} on its host shows whether it listens; \
                         start it, open its port in the firewall, or set [Database] dburi"
                    ),
                ),
            }
        }
        DatabaseUri::Sqlite(path) => match may_grow(path) {
            Ok(()) => fine(subject, format!("SQLite in {}", path.display())),
            Err(why) => problem(subject, why),
        },
    }
}

fn file(path: &Path) -> Finding {
    match may_grow(path) {
        Ok(()) => fine("file", path.display().to_string()),
        Err(why) => problem("file", why),
    }
}

/// Whether a file can be made or, where it is there, written to; and others beside it.
fn may_grow(path: &Path) -> Result<(), String> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let shown = path.display();
    host::may_write(directory).map_err(|error| {
        let mend = file_access::remedy_to_write(directory, &error);
        let directory = directory.display();
        format!("{shown} cannot be written: {directory}: {error}: {mend}")
    })?;
    check_target(path).map_err(|error| format!("{shown} cannot be written: {error}"))?;
    match host::may_change(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!(
            "{shown} cannot be written: {error}: {}",
            file_access::remedy_to_write(path, &error)
        )),
        _ => Ok(()),
    }
}

/// RADIUS answers nobody whom it does not know: what can be seen is whether its files are in order.
fn radius(section: &RadiusSection) -> Finding {
    let subject = "RADIUS";
    match read_radius(section) {
        Ok(None) => fine(subject, section.config_file.display().to_string()),
        Ok(Some(open)) => problem(subject, open),
        Err(why) => problem(
            subject,
            format!(
                "{why}: mend that file or set [Radius] config_file, then systemctl restart mediaproxy-dispatcher"
            ),
        ),
    }
}

#[cfg(feature = "radius")]
fn read_radius(section: &RadiusSection) -> Result<Option<String>, String> {
    crate::accounting::radius::Radius::open(section).map(|radius| radius.open_secrets)
}

#[cfg(not(feature = "radius"))]
fn read_radius(_: &RadiusSection) -> Result<Option<String>, String> {
    Err("this program was built without RADIUS".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::finding::Severity;

    fn with(relays: &[Relay]) -> Found {
        Found::Running(Running {
            daemon: daemon(None),
            version: "1".to_owned(),
            relays: Some(relays.to_vec()),
        })
    }

    fn one(status: &str) -> Relay {
        Relay {
            status: status.to_owned(),
            ..Relay::default()
        }
    }

    #[test]
    fn a_dispatcher_without_relays_is_a_problem() {
        let verdict = |relays: &[Relay]| runs(&with(relays), Path::new("/run")).severity;
        let drained = Relay {
            drained: true,
            ..one("active")
        };
        assert_eq!(verdict(&[one("active"), one("error")]), Severity::Fine);
        assert_eq!(verdict(&[drained, one("halting")]), Severity::Problem);
        assert_eq!(verdict(&[]), Severity::Problem);
        let silent = Found::Silent(daemon(Some(i32::MAX)), "no answer in 10 s".to_owned());
        let silent = runs(&silent, Path::new("/run"));
        assert_eq!(silent.severity, Severity::Problem);
        assert!(silent.text.contains("does not answer"), "{silent:?}");
        assert_eq!(
            runs(&Found::Hidden, Path::new("/run")).severity,
            Severity::Warning
        );
        assert_eq!(
            runs(&Found::Nobody, Path::new("/run")).severity,
            Severity::Problem
        );
    }

    #[test]
    fn a_relay_that_takes_no_calls_is_a_problem() {
        let text = |relay: &Relay| super::relay(relay).map(|found| found.text);
        assert_eq!(text(&one("active")), None);
        let full = Relay {
            streams_left: Some(0),
            streams_fit: 50,
            ..one("active")
        };
        assert!(text(&full).unwrap().contains("all of 50 streams"));
        assert!(text(&one("error")).unwrap().contains("does not answer"));
        let away = Relay {
            away: true,
            session_count: 2,
            ..one("error")
        };
        assert!(text(&away).unwrap().contains("is not connected"));
        let expected = Relay {
            session_count: 0,
            drained: true,
            ..away
        };
        assert_eq!(text(&expected), None);
    }

    #[test]
    fn backends_that_are_not_there() {
        let section = RadiusSection {
            config_file: "/nonexistent/radius.conf".into(),
            additional_dictionary: "/nonexistent".into(),
        };
        assert_eq!(radius(&section).severity, Severity::Problem);
        let found = database(&DatabaseUri::Sqlite("/nonexistent/a.db".into()));
        assert_eq!(found.severity, Severity::Problem);
        assert!(found.text.ends_with(" /nonexistent"), "{found:?}");
        assert_eq!(
            file(Path::new("/nonexistent/a.json")).severity,
            Severity::Problem
        );
    }
}
