//! A PostgreSQL. It does not run as root: then it is the user `postgres`, or `nobody`.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Held, PASSWORD, Process, Server, URI_PASSWORD, until};
use crate::support::ports::free_tcp_port;
use crate::support::programs::{is_root, run, tried};
use crate::support::scratch::Scratch;
use crate::support::skip::skip;

/// See the module above.
pub struct Postgres {
    process: Process,
    directory: Scratch,
    port: u16,
}

impl Server for Postgres {
    fn process(&self) -> &Process {
        &self.process
    }

    fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Postgres {
    pub fn start() -> Option<Postgres> {
        Postgres::start_with(&[], &[])
    }

    /// With more settings (`name=value`), and files that are copied into its directory, for it alone to read.
    pub fn start_with(settings: &[&str], files: &[&Path]) -> Option<Postgres> {
        let programs = programs()?;
        let directory = Scratch::new("mediaproxy-postgres").unwrap();
        let user = if is_root() {
            Some(unprivileged())
        } else {
            None
        };
        if let Some(name) = &user {
            let id = |option: &str| {
                run(Command::new("id").args([option, name]))
                    .trim()
                    .parse()
                    .ok()
            };
            chown(directory.path(), id("-u"), id("-g")).unwrap();
        }
        let data = directory.path().join("data");
        let mut initdb = as_user(&user, &programs.join("initdb"));
        initdb.arg("-D").arg(&data).args([
            "-U",
            "postgres",
            "--no-sync",
            "-E",
            "UTF8",
            "--locale=C",
        ]);
        run(initdb.args(["--auth-local=trust", "--auth-host=scram-sha-256"]));
        for file in files {
            let copy = data.join(file.file_name().unwrap());
            fs::write(&copy, fs::read(file).unwrap()).unwrap();
            run(Command::new("chmod").arg("600").arg(&copy));
            if let Some(name) = &user {
                run(Command::new("chown").arg(name).arg(&copy));
            }
        }
        let port = free_tcp_port().unwrap();
        let mut command = as_user(&user, &programs.join("postgres"));
        command
            .arg("-D")
            .arg(&data)
            .args(["-h", "127.0.0.1", "-p", &port.to_string()]);
        command.arg("-k").arg(directory.path());
        // A killed process loses nothing that it has written.
        for setting in ["fsync=off", "shared_buffers=8MB"].iter().chain(settings) {
            command.args(["-c", setting]);
        }
        let mut process = Process::new(command, directory.path().join("log"));
        // It does not wait for clients then.
        process.orderly = "INT";
        let mut server = Postgres {
            process,
            directory,
            port,
        };
        server.restart();
        server.sql_in(
            "postgres",
            &format!("CREATE USER media PASSWORD '{PASSWORD}'"),
        );
        server.sql_in("postgres", "CREATE DATABASE media OWNER media");
        Some(server)
    }

    /// Over TCP.
    pub fn uri(&self) -> String {
        self.uri_of("media", URI_PASSWORD)
    }

    pub fn uri_of(&self, user: &str, password: &str) -> String {
        format!("postgres://{user}:{password}@127.0.0.1:{}/media", self.port)
    }

    /// From now on nobody is asked for a password, which takes much longer than anything else in a short visit.
    pub fn trust_all(&self) {
        let rules = "local all all trust\nhost all all 127.0.0.1/32 trust\n";
        fs::write(self.directory.path().join("data/pg_hba.conf"), rules).unwrap();
        self.sql("SELECT pg_reload_conf()");
    }

    /// From now on, over TCP with TLS alone.
    pub fn only_encrypted(&self) {
        let rules = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
        fs::write(self.directory.path().join("data/pg_hba.conf"), rules).unwrap();
        self.sql("SELECT pg_reload_conf()");
    }

    /// From now on it offers a TLS that is too old, and plain connections.
    pub fn only_old_tls(&self) {
        let rules = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
        fs::write(self.directory.path().join("data/pg_hba.conf"), rules).unwrap();
        self.sql("ALTER SYSTEM SET ssl_min_protocol_version = 'TLSv1'");
        self.sql("ALTER SYSTEM SET ssl_max_protocol_version = 'TLSv1.1'");
        self.sql("SELECT pg_reload_conf()");
        while self.sql("SHOW ssl_max_protocol_version") != "TLSv1.1\n" {
            std::thread::sleep(super::STEP);
        }
    }

    /// The directory of its socket.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// As the superuser, in the database `media`.
    pub fn sql(&self, statement: &str) -> String {
        self.sql_in("media", statement)
    }

    pub fn sql_in(&self, database: &str, statement: &str) -> String {
        run(&mut psql(
            self.directory.path(),
            self.port,
            database,
            statement,
        ))
    }

    /// Another client, as the superuser in the database `media`.
    pub fn hold(&self, statements: &str) -> Held {
        Held::new(
            connected(self.directory.path(), self.port, "media"),
            statements,
        )
    }

    /// Nobody adds to the table until this is dropped: who wants to waits.
    pub fn lock_table(&self, table: &str) -> Held {
        let held = self.hold(&format!("BEGIN; LOCK TABLE {table} IN SHARE MODE;"));
        let ask = "SELECT 1 FROM pg_locks WHERE mode = 'ShareLock' AND locktype = 'relation'";
        until("the lock", || !self.sql(ask).is_empty());
        held
    }

    /// Connections of the user `media` that wait for locks.
    pub fn waiting_for_locks(&self) -> usize {
        let ask = "SELECT COUNT(*) FROM pg_stat_activity \
                   WHERE usename = 'media' AND wait_event_type = 'Lock'";
        self.sql(ask).trim().parse().unwrap()
    }

    /// After `stop` or `kill`.
    pub fn restart(&mut self) {
        let directory = self.directory.path().to_owned();
        let _ = fs::remove_file(directory.join("data/postmaster.pid"));
        let port = self.port;
        let is_ready = || tried(&mut psql(&directory, port, "postgres", "SELECT 1")).is_ok();
        self.process.start(is_ready);
    }
}

/// Debian keeps them apart by version; the newest is taken.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok();
    let mut versions: Vec<PathBuf> = versions
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|path| path.join("postgres").exists() && path.join("initdb").exists())
        .collect();
    let number = |path: &PathBuf| {
        let version = path.parent()?.file_name()?.to_str()?;
        version.split('.').next()?.parse::<u32>().ok()
    };
    versions.sort_by_key(number);
    if versions.is_empty() {
        skip("postgresql: not installed");
    }
    versions.pop()
}

fn unprivileged() -> String {
    let exists = |name: &&str| tried(Command::new("id").args(["-u", name])).is_ok();
    let name = ["postgres", "nobody"].into_iter().find(exists);
    name.expect("a user that is not root").to_owned()
}

fn as_user(user: &Option<String>, program: &Path) -> Command {
    let Some(user) = user else {
        return Command::new(program);
    };
    let group = run(Command::new("id").args(["-gn", user]));
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid",
        user,
        "--regid",
        group.trim(),
        "--clear-groups",
        "--",
    ]);
    command.arg(program).current_dir("/");
    command
}

fn connected(directory: &Path, port: u16, database: &str) -> Command {
    let mut client = Command::new("psql");
    client.arg("-h").arg(directory);
    client.args(["-p", &port.to_string(), "-U", "postgres", "-d", database]);
    client.args(["-X", "-q", "-t", "-A", "-F", "\t", "-v", "ON_ERROR_STOP=1"]);
    client
}

fn psql(directory: &Path, port: u16, database: &str, statement: &str) -> Command {
    let mut client = connected(directory, port, database);
    client.args(["-c", statement]);
    client
}
