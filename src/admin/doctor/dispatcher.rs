//! What a dispatcher needs: its ports, the SIP proxy beside it, the backends that calls are accounted to.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::time::Duration;

use super::common::{certificates, firewall, reach, state_dir};
use super::{Finding, fine, listeners, problem, warning};
use crate::admin::client::{Client, Target, Transport};
use crate::admin::show::read;
use crate::admin::view::Relay;
use crate::config::{
    Backend, DatabaseUri, DispatcherConfig, Loaded, RadiusSection, ServerKind, SocketGroup,
};
use crate::sys::peer::credentials;
use crate::sys::{remedy, users};

/// A dispatcher that runs here, as it answers.
pub struct Running {
    /// None where its socket does not tell.
    pid: Option<i32>,
    version: String,
    relays: Option<Vec<Relay>>,
}

pub fn look(loaded: &Loaded<DispatcherConfig>, runtime_dir: &Path) -> Vec<Finding> {
    let config = &loaded.config;
    let subject = "configuration";
    let warnings = loaded.warnings.iter();
    let mut findings: Vec<Finding> = warnings.map(|text| warning(subject, text)).collect();
    if findings.is_empty() {
        findings.push(fine(subject, loaded.path.display().to_string()));
    }
    findings.extend(certificates(&config.tls.certs_path, "dispatcher").0);
    let running = running(runtime_dir);
    for (key, address) in [
        ("listen", Some(config.listen)),
        ("listen_management", Some(config.listen_management)),
        ("listen_metrics", config.listen_metrics),
    ] {
        findings.extend(address.map(|address| port(key, address, running.as_ref())));
    }
    if !config.listen.ip().is_loopback() {
        let port = config.listen.port();
        findings.extend(firewall("tcp", port, port, "relays"));
    }
    findings.push(runs(running.as_ref()));
    findings.push(group(&config.socket_group));
    findings.push(proxy(config));
    findings.extend(state_dir(&config.state_dir));
    findings.extend(accounting(config));
    findings
}

fn running(runtime_dir: &Path) -> Option<Running> {
    let path = runtime_dir.join("management.sock");
    let socket = UnixStream::connect(&path).ok()?;
    let pid = credentials(&socket).ok().map(|process| process.pid);
    let transport = Transport::Unix(path);
    let timeout = Duration::from_secs(10);
    let target = Target { transport, timeout };
    let version = Client::connect(&target).ok()?.ask("version").ok()?;
    let summary = Client::connect(&target).and_then(|mut client| client.ask("summary"));
    Some(Running {
        pid,
        version: version.first().cloned().unwrap_or_default(),
        relays: summary.and_then(|lines| read(&lines)).ok(),
    })
}

/// Free, or the dispatcher's own.
pub fn port(key: &str, address: SocketAddr, running: Option<&Running>) -> Finding {
    match (TcpListener::bind(address), running) {
        (Ok(_), None) => fine(key, format!("{address} is free")),
        (Ok(_), Some(_)) => warning(
            key,
            format!(
                "{address} is free although media-dispatcher runs here: it has another configuration: \
                 systemctl restart mediaproxy-dispatcher"
            ),
        ),
        (Err(error), Some(running))
            if error.kind() == io::ErrorKind::AddrInUse && has(running, address.port()) =>
        {
            fine(
                key,
                format!("{address}, in use by the media-dispatcher that runs here"),
            )
        }
        (Err(error), _) => problem(
            key,
            match error.kind() {
                io::ErrorKind::AddrInUse => format!(
                    "{address} is taken by another program: ss -ltnp 'sport = :{}' shows which; stop it or set {key}",
                    address.port()
                ),
                io::ErrorKind::AddrNotAvailable => format!(
                    "{address} is on no interface of this host: set {key} to one of those that ip addr shows"
                ),
                _ => format!("{address} cannot be listened on ({error}): set {key}"),
            },
        ),
    }
}

/// Who cannot see whose a port is takes it for the dispatcher's.
fn has(running: &Running, port: u16) -> bool {
    let seen = running.pid.and_then(|pid| listeners::has(pid, port));
    seen.unwrap_or(true)
}

fn runs(running: Option<&Running>) -> Finding {
    let subject = "daemon";
    let Some(Running {
        version, relays, ..
    }) = running
    else {
        return warning(
            subject,
            "media-dispatcher does not run here, or its socket is not for this user: systemctl start \
             mediaproxy-dispatcher",
        );
    };
    let able = |relay: &&Relay| relay.status == "active" && !relay.drained;
    match relays
        .as_ref()
        .map(|relays| relays.iter().filter(able).count())
    {
        None => warning(
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
            format!("media-dispatcher {version} runs, {count} relay(s) take calls"),
        ),
    }
}

/// The SIP proxy must be let into the socket.
fn group(wanted: &SocketGroup) -> Finding {
    let subject = "socket_group";
    let is_there = |name: &str| matches!(users::group_by_name(name), Ok(Some(_)));
    match wanted {
        SocketGroup::Named(name) if is_there(name) => fine(subject, name.clone()),
        SocketGroup::Named(name) => problem(
            subject,
            format!(
                "there is no group {name}, media-dispatcher will not start: groupadd {name}, or set socket_group"
            ),
        ),
        SocketGroup::Auto => match SocketGroup::USUAL.into_iter().find(|name| is_there(name)) {
            Some(name) => fine(subject, format!("{name} (auto)")),
            None => warning(
                subject,
                format!(
                    "there is no group of {}: a SIP proxy that is not root cannot connect; set socket_group to its group",
                    SocketGroup::USUAL.join(", ")
                ),
            ),
        },
    }
}

/// Where dialogs of dead calls are ended.
fn proxy(config: &DispatcherConfig) -> Finding {
    let subject = "SIP proxy";
    let answers = |path: &Path| UnixDatagram::unbound().and_then(|socket| socket.connect(path));
    if let Some(path) = &config.kamailio.socket_path {
        let shown = path.display();
        return match answers(path) {
            Ok(()) => fine(subject, format!("Kamailio listens at {shown}")),
            Err(error) => {
                let load = format!(
                    "load jsonrpcs.so with modparam(\"jsonrpcs\", \"transport\", 4) and modparam(\"jsonrpcs\", \
                     \"dgram_socket\", \"{shown}\")"
                );
                let mend = to_send(&error, "kamailio").unwrap_or(load);
                problem(
                    subject,
                    format!(
                        "Kamailio's {shown} ([Kamailio] socket_path): {error}; dead calls get no BYE: {mend}"
                    ),
                )
            }
        };
    }
    let path = &config.opensips.socket_path;
    let shown = path.display();
    match answers(path) {
        Ok(()) => fine(subject, format!("OpenSIPS listens at {shown}")),
        Err(error) => {
            let load = "load mi_datagram.so there, or with Kamailio set [Kamailio] socket_path to the dgram_socket of \
                        its jsonrpcs";
            let mend = to_send(&error, "opensips").unwrap_or(load.to_owned());
            warning(
                subject,
                format!("OpenSIPS' {shown}: {error}; dead calls get no BYE: {mend}"),
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
            let (name, usual) = match server.kind {
                ServerKind::MySql => ("MySQL", 3306),
                ServerKind::PostgreSql => ("PostgreSQL", 5432),
            };
            let reached = match &server.unix_socket {
                Some(path) => UnixStream::connect(path)
                    .map(|_| path.display().to_string())
                    .map_err(|error| {
                        let path = path.display();
                        (
                            format!("{path} cannot be reached ({error})"),
                            format!("ss -lx src {path}"),
                        )
                    }),
                None => {
                    let port = server.port.unwrap_or(usual);
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
        DatabaseUri::Sqlite(path) => {
            let directory = path.parent().unwrap_or(Path::new("/"));
            match crate::sys::host::may_write(directory) {
                Ok(()) => fine(subject, format!("SQLite in {}", path.display())),
                Err(error) => problem(
                    subject,
                    format!(
                        "{} cannot be made: {}: {error}: {}",
                        path.display(),
                        directory.display(),
                        remedy::to_write(directory, &error)
                    ),
                ),
            }
        }
    }
}

fn file(path: &Path) -> Finding {
    let directory = path.parent().unwrap_or(Path::new("/"));
    match crate::sys::host::may_write(directory) {
        Ok(()) => fine("file", path.display().to_string()),
        Err(error) => problem(
            "file",
            format!(
                "{} cannot be written: {}: {error}: {}",
                path.display(),
                directory.display(),
                remedy::to_write(directory, &error)
            ),
        ),
    }
}

/// RADIUS answers nobody whom it does not know: what can be seen is whether its files are in order.
fn radius(section: &RadiusSection) -> Finding {
    let subject = "RADIUS";
    match read_radius(section) {
        Ok(()) => fine(subject, section.config_file.display().to_string()),
        Err(why) => problem(
            subject,
            format!(
                "{why}: mend that file or set [Radius] config_file, then systemctl restart mediaproxy-dispatcher"
            ),
        ),
    }
}

#[cfg(feature = "radius")]
fn read_radius(section: &RadiusSection) -> Result<(), String> {
    crate::accounting::radius::Radius::open(section).map(drop)
}

#[cfg(not(feature = "radius"))]
fn read_radius(_: &RadiusSection) -> Result<(), String> {
    Err("this program was built without RADIUS".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::checks::Verdict;

    #[test]
    fn ports_are_free_taken_or_our_own() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let of = |pid| Running {
            pid: Some(pid),
            version: "1".into(),
            relays: None,
        };
        let ours = of(i32::try_from(std::process::id()).unwrap());
        let taken = port("listen", address, None);
        assert_eq!(taken.verdict, Verdict::Problem);
        assert!(taken.text.contains("ss -ltnp"), "{taken:?}");
        assert_eq!(port("listen", address, Some(&ours)).verdict, Verdict::Fine);
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let another = of(i32::try_from(child.id()).unwrap());
        // From its fork to its exec it has all our files.
        while port("listen", address, Some(&another)).verdict == Verdict::Fine {
            std::thread::yield_now();
        }
        child.kill().and_then(|()| child.wait()).unwrap();
        let nowhere = port("listen", "203.0.113.9:1".parse().unwrap(), None);
        assert!(nowhere.text.contains("is on no interface"), "{nowhere:?}");
    }

    #[test]
    fn a_dispatcher_without_relays_is_a_problem() {
        let with = |relays: &[(&str, bool)]| {
            let relay = |(status, drained): &(&str, bool)| Relay {
                status: (*status).to_owned(),
                drained: *drained,
                ..Relay::default()
            };
            let relays = Some(relays.iter().map(relay).collect());
            let version = "1".to_owned();
            runs(Some(&Running {
                pid: None,
                version,
                relays,
            }))
            .verdict
        };
        assert_eq!(with(&[("active", false), ("error", false)]), Verdict::Fine);
        assert_eq!(
            with(&[("active", true), ("halting", false)]),
            Verdict::Problem
        );
        assert_eq!(with(&[]), Verdict::Problem);
        assert_eq!(runs(None).verdict, Verdict::Warning);
    }

    #[test]
    fn backends_that_are_not_there() {
        let section = RadiusSection {
            config_file: "/nonexistent/radius.conf".into(),
            additional_dictionary: "/nonexistent".into(),
        };
        assert_eq!(radius(&section).verdict, Verdict::Problem);
        let found = database(&DatabaseUri::Sqlite("/nonexistent/a.db".into()));
        assert_eq!(found.verdict, Verdict::Problem);
        assert!(found.text.ends_with(" /nonexistent"), "{found:?}");
        assert_eq!(
            file(Path::new("/nonexistent/a.json")).verdict,
            Verdict::Problem
        );
    }
}
