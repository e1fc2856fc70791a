//! A MariaDB.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Held, PASSWORD, Process, Server, URI_PASSWORD, find, until};
use crate::support::ports::free_tcp_port;
use crate::support::programs::{is_root, run, tried};
use crate::support::scratch::Scratch;

/// See the module above.
pub struct MariaDb {
    process: Process,
    socket: PathBuf,
    port: u16,
    _directory: Scratch,
}

impl Server for MariaDb {
    fn process(&self) -> &Process {
        &self.process
    }

    fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl MariaDb {
    pub fn start() -> Option<MariaDb> {
        MariaDb::start_with(&[])
    }

    /// With more options of the server.
    pub fn start_with(options: &[&str]) -> Option<MariaDb> {
        let server = find(&["mariadbd", "mysqld"])?;
        let install = find(&["mariadb-install-db", "mysql_install_db"])?;
        let directory = Scratch::new("mediaproxy-mariadb").unwrap();
        let data = format!("--datadir={}", directory.path().join("data").display());
        // A server that starts removes what others keep in a temporary directory that they share.
        let temporary = directory.path().join("tmp");
        fs::create_dir(&temporary).expect("a directory for its temporary files");
        let temporary = format!("--tmpdir={}", temporary.display());
        let user: &[&str] = if is_root() { &["--user=root"] } else { &[] };
        let installing = ["--no-defaults", "--auth-root-authentication-method=normal"];
        let small = ["--skip-test-db", "--innodb-log-file-size=8M"];
        run(Command::new(install)
            .args(installing)
            .args(small)
            .args(user)
            .args([&data, &temporary]));
        let port = free_tcp_port().unwrap();
        let socket = directory.path().join("socket");
        let mut command = Command::new(server);
        command
            .arg("--no-defaults")
            .args([&data, &temporary])
            .args(user)
            .args(options)
            .args([
                format!("--port={port}"),
                format!("--socket={}", socket.display()),
                format!("--pid-file={}", directory.path().join("pid").display()),
            ]);
        command.args([
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            "--innodb-buffer-pool-size=8M",
            "--innodb-log-file-size=8M",
            // A killed process loses nothing that it has written.
            "--innodb-flush-log-at-trx-commit=2",
        ]);
        let mut server = MariaDb {
            process: Process::new(command, directory.path().join("log")),
            socket,
            port,
            _directory: directory,
        };
        server.restart();
        server.sql("CREATE DATABASE media");
        server.sql(&format!("CREATE USER media IDENTIFIED BY '{PASSWORD}'"));
        server.sql("GRANT ALL ON media.* TO media");
        Some(server)
    }

    /// Over TCP.
    pub fn uri(&self) -> String {
        self.uri_of("media", URI_PASSWORD)
    }

    pub fn uri_of(&self, user: &str, password: &str) -> String {
        format!("mysql://{user}:{password}@127.0.0.1:{}/media", self.port)
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// As root, in the database `media` where there is one.
    pub fn sql(&self, statement: &str) -> String {
        run(&mut client(&self.socket, statement))
    }

    /// Another client, as root in the database `media`.
    pub fn hold(&self, statements: &str) -> Held {
        let mut client = connected(&self.socket);
        client.arg("media");
        Held::new(client, statements)
    }

    /// Nobody adds to the table until this is dropped: who wants to waits.
    pub fn lock_table(&self, table: &str) -> Held {
        let held = self.hold(&format!("LOCK TABLES {table} READ;"));
        let ask = "SHOW OPEN TABLES WHERE In_use > 0";
        until("the lock", || !self.sql(ask).is_empty());
        held
    }

    /// Connections of the user `media` that wait for locks.
    pub fn waiting_for_locks(&self) -> usize {
        let ask = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = 'media' AND \
                   (STATE LIKE 'Waiting for%' OR STATE = 'User lock')";
        self.sql(ask).trim().parse().unwrap()
    }

    /// After `stop` or `kill`.
    pub fn restart(&mut self) {
        let socket = self.socket.clone();
        self.process
            .start(|| tried(&mut client(&socket, "SELECT 1")).is_ok());
    }
}

fn connected(socket: &Path) -> Command {
    let mut client = Command::new("mariadb");
    let socket = format!("--socket={}", socket.display());
    client.args(["--no-defaults", &socket, "--user=root", "--batch", "--raw"]);
    client.args([
        "--default-character-set=utf8mb4",
        "--skip-column-names",
        "--connect-timeout=5",
    ]);
    client
}

fn client(socket: &Path, statement: &str) -> Command {
    let mut client = connected(socket);
    // The database is not there from the beginning.
    client.arg("--execute").arg(match statement {
        "SELECT 1" | "CREATE DATABASE media" => statement.to_owned(),
        _ => format!("USE media; {statement}"),
    });
    client
}
