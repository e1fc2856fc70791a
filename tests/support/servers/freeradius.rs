//! Debian's FreeRADIUS on a port and in a directory of the test's own, with a writer of detail files. Nothing of the
//! system's configuration is read but the standard dictionaries, and the queries of its own for a database.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Process, Server};
use crate::support::ports::free_tcp_port;
use crate::support::scratch::Scratch;
use crate::support::skip::skip;

/// What the server and its clients share.
pub const RADIUS_SECRET: &str = "correct horse battery";

const PROGRAM: &str = "/usr/sbin/freeradius";

/// Its own for a database of SQLite.
const QUERIES: &str = "/etc/freeradius/3.0/mods-config/sql/main/sqlite/queries.conf";
const SCHEMA: &str = "/etc/freeradius/3.0/mods-config/sql/main/sqlite/schema.sql";

/// What more there is in its configuration: modules, and where requests come by.
#[derive(Default)]
struct Parts {
    modules: String,
    accounting: String,
}

/// A server, running or not; killed and its directory removed when dropped.
pub struct FreeRadius {
    process: Process,
    port: u16,
    directory: Scratch,
}

/// An accounting request as the server wrote it: attributes by name, as text without quotes.
pub type Detail = BTreeMap<String, String>;

impl Server for FreeRadius {
    fn process(&self) -> &Process {
        &self.process
    }

    fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl FreeRadius {
    /// Writes the configuration and waits until the server answers. None where it is not installed, which is said.
    pub fn start() -> Option<FreeRadius> {
        FreeRadius::start_with(&Parts::default())
    }

    /// With a table `radacct` too, in SQLite, by the tables and queries that it brings along.
    pub fn start_with_table() -> Option<FreeRadius> {
        if !Path::new(QUERIES).exists() {
            skip(&format!("{QUERIES} is not there"));
            return None;
        }
        FreeRadius::start_with(&Parts::with_table())
    }

    fn start_with(parts: &Parts) -> Option<FreeRadius> {
        if !Path::new(PROGRAM).exists() {
            skip(&format!("{PROGRAM} is not installed"));
            return None;
        }
        let is_free = |port: &u16| UdpSocket::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
        let port = std::iter::repeat_with(|| free_tcp_port().unwrap()).find(is_free)?;
        let directory = Scratch::new("mediaproxy-freeradius").unwrap();
        let mut command = Command::new(PROGRAM);
        command.arg("-f").arg("-d").arg(directory.path());
        let process = Process::new(command, directory.path().join("output"));
        let mut server = FreeRadius {
            process,
            port,
            directory,
        };
        server.configure(parts);
        server.restart();
        Some(server)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    fn configure(&self, parts: &Parts) {
        let Parts {
            modules,
            accounting,
        } = parts;
        let at = self.directory.path().display();
        let port = self.port;
        // What a request without Message-Authenticator would get: FreeRADIUS 3.2 itself requires it of
        // Access-Request alone.
        let text = format!(
            "name = freeradius\nprefix = /usr\nlibdir = /usr/lib/freeradius\n\
             logdir = {at}\nrun_dir = {at}\ndb_dir = {at}\n\
             max_request_time = 30\ncleanup_delay = 5\nmax_requests = 16384\nhostname_lookups = no\n\
             log {{\n destination = files\n file = {at}/log\n}}\n\
             security {{\n allow_core_dumps = no\n max_attributes = 200\n status_server = yes\n}}\n\
             client loopback {{\n ipaddr = 127.0.0.0/8\n secret = \"{RADIUS_SECRET}\"\n require_message_authenticator = yes\n}}\n\
             thread pool {{\n start_servers = 2\n max_servers = 4\n min_spare_servers = 1\n max_spare_servers = 4\n \
             max_requests_per_server = 0\n}}\n\
             modules {{\n detail {{\n  filename = {at}/detail\n  permissions = 0600\n  header = \"%t\"\n  locking = yes\n }}\n \
             always refuse {{\n  rcode = fail\n }}\n {modules}\n}}\n\
             server accounting {{\n listen {{\n  type = acct\n  ipaddr = 127.0.0.1\n  port = {port}\n }}\n \
             accounting {{\n  if (!&Message-Authenticator || &User-Name == \"refused\") {{\n   refuse\n  }}\n  detail\n  {accounting}\n  \
             update reply {{\n   Message-Authenticator := 0x00\n  }}\n }}\n}}\n"
        );
        let text = text.replace("DIRECTORY", &at.to_string());
        fs::write(self.directory.path().join("radiusd.conf"), text).unwrap();
        self.write_dictionary([105, 104]);
    }

    /// The lines that docs/accounting.md has for it, with these numbers of Sip-From-Tag and Sip-To-Tag.
    fn write_dictionary(&self, [from, to]: [u8; 2]) {
        let page = include_str!("../../../docs/accounting.md");
        let lines = page.lines().map(str::trim);
        let lines = lines.filter(|line| line.starts_with("ATTRIBUTE"));
        let text = lines.map(|line| format!("{line}\n")).collect::<String>();
        let text = text
            .replace("206", &from.to_string())
            .replace("207", &to.to_string());
        fs::write(self.directory.path().join("dictionary"), text).unwrap();
    }

    /// Goes on with other numbers of Sip-From-Tag and Sip-To-Tag.
    pub fn restart_with_tags(&mut self, numbers: [u8; 2]) {
        self.kill();
        self.write_dictionary(numbers);
        self.restart();
    }

    /// Starts the server again, on the same port.
    pub fn restart(&mut self) {
        let port = self.port;
        self.process.start(|| answers(port));
    }

    /// A client's configuration of this server and the given ones, tried in this order: its main file.
    pub fn client(&self, before: &[&str], after: &[&str], more: &str) -> PathBuf {
        let own = format!("127.0.0.1:{}", self.port);
        let servers = [before, &[own.as_str()], after].concat().join(",");
        let directory = self.directory.path().join("client");
        fs::create_dir_all(&directory).unwrap();
        let text = format!(
            "acctserver {servers}\nservers servers\ndictionary /usr/share/freeradius/dictionary\n{more}\n"
        );
        fs::write(directory.join("client.conf"), text).unwrap();
        fs::write(
            directory.join("servers"),
            format!("127.0.0.1 {RADIUS_SECRET}\n"),
        )
        .unwrap();
        directory.join("client.conf")
    }

    /// What was accounted so far, in the order in which it was written.
    pub fn details(&self) -> Vec<Detail> {
        let text = self.detail_file();
        // The last one may be half written.
        let whole = text.rsplit_once("\n\n").map_or("", |(whole, _)| whole);
        let records = whole.split("\n\n").filter(|record| !record.is_empty());
        records.map(detail).collect()
    }

    /// The table of [`FreeRadius::start_with_table`].
    pub fn table(&self) -> PathBuf {
        self.directory.path().join("radacct.sqlite")
    }

    /// How many of them there are.
    pub fn accounted(&self) -> usize {
        self.detail_file().matches("\n\n").count()
    }

    fn detail_file(&self) -> String {
        let text = fs::read(self.directory.path().join("detail")).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Parts {
    /// The unique id is what FreeRADIUS's own policy `acct_unique` makes of a request.
    fn with_table() -> Parts {
        // The queries name them, and none of those is asked.
        let unused = [
            "client_table",
            "authcheck_table",
            "authreply_table",
            "usergroup_table",
            "groupcheck_table",
            "groupreply_table",
            "postauth_table",
        ];
        let unused = unused
            .map(|name| format!("{name} = \"unused\"\n  "))
            .concat();
        Parts {
            modules: format!(
                "expr {{\n }}\n sql {{\n  driver = \"rlm_sql_sqlite\"\n  dialect = \"sqlite\"\n  sqlite {{\n   \
                 filename = \"DIRECTORY/radacct.sqlite\"\n   busy_timeout = 5000\n   \
                 bootstrap = \"{SCHEMA}\"\n  }}\n  open_query = \"PRAGMA synchronous = OFF\"\n  \
                 sql_user_name = \"%{{User-Name}}\"\n  \
                 class {{\n   packet_xlat = \"\"\n   reply_xlat = \"\"\n   column_name = \"\"\n  }}\n  \
                 pool {{\n   start = 4\n   min = 4\n   max = 8\n  }}\n  acct_table1 = \"radacct\"\n  \
                 acct_table2 = \"radacct\"\n  {unused}group_attribute = \"SQL-Group\"\n  $INCLUDE {QUERIES}\n }}"
            ),
            accounting: "update request {\n   &Acct-Unique-Session-Id := \
                         \"%{md5:%{User-Name},%{Acct-Session-ID},%{NAS-IP-Address}}\"\n  }\n  sql"
                .to_owned(),
        }
    }
}

/// A record of the detail file: a time, then `\tname = value` lines.
fn detail(record: &str) -> Detail {
    let attributes = record.lines().filter_map(|line| line.strip_prefix('\t'));
    let pairs = attributes.map(|line| line.split_once(" = ").expect("name = value"));
    pairs
        .map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()))
        .collect()
}

/// Whether Status-Server (RFC 5997) is answered, as radclient asks it.
fn answers(port: u16) -> bool {
    let mut asked = Command::new("radclient")
        .args(["-q", "-r", "1", "-t", "0.2", "-f", "/dev/stdin"])
        .arg(format!("127.0.0.1:{port}"))
        .args(["status", RADIUS_SECRET])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    if let Some(mut input) = asked.stdin.take() {
        let _ = input.write_all(b"Message-Authenticator = 0x00\n");
    }
    asked.wait().unwrap().success()
}
