//! The configuration of a RADIUS client in the form of radiusclient, freeradius-client and radcli: one file that
//! names servers, time-outs and two more files, and the file of secrets. Opens none of them.
//!
//! Keys of no concern here (authserver, login_tries ...) are passed over: the file is shared with other programs.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::lines::{lines, word};
use crate::config::{Host, host_and_port, quoted};

/// Of accounting (RFC 2866 section 3).
const PORT: u16 = 1813;

/// What radiusclient's own sample sets.
const TIMEOUT: Duration = Duration::from_secs(10);
const RETRIES: u32 = 3;

/// What the main file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// In the order in which they are to be asked; at least one.
    pub servers: Vec<Address>,
    /// The file of secrets.
    pub secrets: PathBuf,
    pub dictionary: Option<PathBuf>,
    /// How long an answer is waited for before the request is sent again.
    pub timeout: Duration,
    /// How often a request is sent again.
    pub retries: u32,
    /// The address to send from; none: whichever leads there.
    pub bind: Option<IpAddr>,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// As it is written.
    pub text: String,
    pub host: Host,
    pub port: u16,
}

/// What a client and a server share. Shown as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    pub fn new(bytes: &[u8]) -> Secret {
        Secret(bytes.to_vec())
    }

    /// What it really is, for signatures alone.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Client {
    /// Reads the main file; relative paths in it are under its own directory.
    ///
    /// # Errors
    /// `file:line: what was read; allowed: ...`, or what is missing.
    pub fn parse(file: &Path, text: &[u8]) -> Result<Client, String> {
        let base = file.parent().unwrap_or(Path::new(""));
        let mut client = Client {
            servers: Vec::new(),
            secrets: PathBuf::new(),
            dictionary: None,
            timeout: TIMEOUT,
            retries: RETRIES,
            bind: None,
        };
        let file = file.display();
        for (number, line) in lines(text) {
            let (key, value) = word(line);
            let (key, value) = (String::from_utf8_lossy(key), String::from_utf8_lossy(value));
            client.set(&key, &value, base).map_err(|allowed| {
                // A secret may stand behind a server, as radcli takes it: not to be shown.
                let shown = if key == "acctserver" {
                    String::new()
                } else {
                    format!(" = {}", quoted(&value))
                };
                format!("{file}:{number}: {key}{shown}; allowed: {allowed}")
            })?;
        }
        let complete = client.complete();
        complete.map_err(|why| format!("{file}: {why}"))?;
        Ok(client)
    }

    /// Takes one line; the error says what is allowed.
    fn set(&mut self, key: &str, value: &str, base: &Path) -> Result<(), &'static str> {
        let path = || path(base, value).ok_or("a path");
        match key {
            "acctserver" => self.servers.append(&mut addresses(value).ok_or(
                "host[:port], several separated by commas, IPv6 in brackets; secrets belong in the file that \
                 \"servers\" names",
            )?),
            "servers" => self.secrets = path()?,
            "dictionary" => self.dictionary = Some(path()?),
            "radius_timeout" => {
                let seconds = number_in(value, 1, 3600).ok_or("whole seconds from 1 to 3600")?;
                self.timeout = Duration::from_secs(seconds.into());
            }
            "radius_retries" => {
                self.retries = number_in(value, 0, 100).ok_or("a number from 0 to 100")?;
            }
            "bindaddr" if matches!(value, "" | "*") => self.bind = None,
            "bindaddr" => {
                let address = value.parse().ok();
                self.bind = Some(address.ok_or("an address of this host, or *")?);
            }
            _ => {}
        }
        Ok(())
    }

    fn complete(&self) -> Result<(), String> {
        if self.servers.is_empty() {
            return Err("acctserver is missing: host[:port] of the accounting server".into());
        }
        if self.secrets.as_os_str().is_empty() {
            return Err("servers is missing: the file with the servers' secrets".into());
        }
        self.check_bind()
    }

    /// A server of the one family cannot be reached from an address of the other.
    fn check_bind(&self) -> Result<(), String> {
        let Some(bind) = self.bind else {
            return Ok(());
        };
        let unlike = |server: &&Address| match server.host {
            Host::Address(address) => address.is_ipv4() != bind.is_ipv4(),
            Host::Name(_) => false,
        };
        match self.servers.iter().find(unlike) {
            Some(server) => Err(format!(
                "acctserver {} cannot be reached from bindaddr {bind}: IPv4 and IPv6 do not mix",
                server.text
            )),
            None => Ok(()),
        }
    }
}

/// A list of servers; none where one of them is not one.
fn addresses(text: &str) -> Option<Vec<Address>> {
    let items = text.split(|c: char| c == ',' || c.is_whitespace());
    let items = items.filter(|item| !item.is_empty());
    let list: Option<Vec<Address>> = items
        .map(|item| {
            let (host, port) = host_and_port(item, PORT)?;
            let text = item.to_owned();
            Some(Address { text, host, port })
        })
        .collect();
    list.filter(|list| !list.is_empty())
}

fn path(base: &Path, text: &str) -> Option<PathBuf> {
    let fits = !text.is_empty() && !text.contains(char::is_control);
    fits.then(|| base.join(text))
}

fn number_in(text: &str, least: u32, most: u32) -> Option<u32> {
    let number = text.parse().ok()?;
    let fits = (least..=most).contains(&number) && !text.starts_with('+');
    fits.then_some(number)
}

/// The secrets file: a host and its secret a line. What is no host is passed over, other programs' lines may be.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    known: Vec<(Host, Secret)>,
}

impl Secrets {
    /// Reads `host secret`, where `client/server` may stand for the host: either of them is the server then. The
    /// secret is the rest of the line, as MediaProxy takes it.
    ///
    /// # Errors
    /// A line without a secret: `file:line: ...`.
    pub fn parse(file: &Path, text: &[u8]) -> Result<Secrets, String> {
        let mut known = Vec::new();
        for (number, line) in lines(text) {
            let (hosts, secret) = word(line);
            if secret.is_empty() {
                // The one word may be a secret: not to be shown.
                let file = file.display();
                return Err(format!(
                    "{file}:{number}: allowed: a host and its secret, with blanks between"
                ));
            }
            let hosts = String::from_utf8_lossy(hosts);
            for host in hosts
                .split('/')
                .filter_map(|host| host_and_port(host, PORT))
            {
                known.push((host.0, Secret::new(secret)));
            }
        }
        Ok(Secrets { known })
    }

    /// The first that is given for a host.
    pub fn of(&self, host: &Host) -> Option<&Secret> {
        let found = self.known.iter().find(|(known, _)| known == host);
        found.map(|(_, secret)| secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Client, String> {
        Client::parse(Path::new("/etc/radius/client.conf"), text.as_bytes())
    }

    #[test]
    fn a_file_as_radcli_ships_it() {
        let client = parse(
            "authserver\tlocalhost\nacctserver \tlocalhost\nservers\t\t/etc/radcli/servers\n\
             dictionary \t/etc/radcli/dictionary\ndefault_realm\nradius_timeout\t10\nradius_retries\t3\nbindaddr\t*\n",
        )
        .unwrap();
        assert_eq!(client.servers.len(), 1);
        assert_eq!(client.servers[0].host, Host::Name("localhost".into()));
        assert_eq!(client.servers[0].port, 1813);
        assert_eq!(client.secrets, Path::new("/etc/radcli/servers"));
        assert_eq!(
            client.dictionary.as_deref(),
            Some(Path::new("/etc/radcli/dictionary"))
        );
        assert_eq!(
            (client.timeout, client.retries),
            (Duration::from_secs(10), 3)
        );
        assert_eq!(client.bind, None);
    }

    #[test]
    fn several_servers_in_both_ways_of_writing_them() {
        let client = parse(
            "acctserver 192.0.2.1:1646, [2001:db8::1]:9\nacctserver 2001:db8::2 radius.example.com\nservers secrets\n",
        )
        .unwrap();
        let all: Vec<(&str, u16)> = client
            .servers
            .iter()
            .map(|s| (s.text.as_str(), s.port))
            .collect();
        let expected = [
            ("192.0.2.1:1646", 1646),
            ("[2001:db8::1]:9", 9),
            ("2001:db8::2", 1813),
            ("radius.example.com", 1813),
        ];
        assert_eq!(all, expected);
        assert_eq!(client.secrets, Path::new("/etc/radius/secrets"));
        assert_eq!(client.dictionary, None);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let start = "servers s\nacctserver a\n";
        for (line, message) in [
            (
                "radius_timeout 0",
                ":3: radius_timeout = \"0\"; allowed: whole seconds from 1 to 3600",
            ),
            (
                "radius_timeout 1.5",
                ":3: radius_timeout = \"1.5\"; allowed: whole seconds from 1 to 3600",
            ),
            (
                "radius_retries",
                ":3: radius_retries = \"\"; allowed: a number from 0 to 100",
            ),
            (
                "bindaddr eth0",
                ":3: bindaddr = \"eth0\"; allowed: an address of this host, or *",
            ),
            ("dictionary", ":3: dictionary = \"\"; allowed: a path"),
        ] {
            let error = parse(&format!("{start}{line}\n")).unwrap_err();
            assert_eq!(error, format!("/etc/radius/client.conf{message}"));
        }
        assert!(
            parse("servers s\n")
                .unwrap_err()
                .contains("acctserver is missing")
        );
        assert!(
            parse("acctserver a\n")
                .unwrap_err()
                .contains("servers is missing")
        );
        let error = parse("servers s\nacctserver 192.0.2.1\nbindaddr ::1\n").unwrap_err();
        assert!(error.ends_with("IPv4 and IPv6 do not mix"), "{error}");
    }

    #[test]
    fn no_secret_is_shown() {
        let error = parse("servers s\nacctserver localhost:1813:hush\n").unwrap_err();
        assert!(error.contains(":2: acctserver; allowed: host[:port]") && !error.contains("hush"));
        let file = Path::new("/servers");
        let error = Secrets::parse(file, b"a b\nhush\n").unwrap_err();
        assert!(error.starts_with("/servers:2: ") && !error.contains("hush"));
        let secrets = Secrets::parse(file, b"localhost hush").unwrap();
        assert!(!format!("{secrets:?}").contains("hush"));
    }

    #[test]
    fn secrets_of_hosts_and_of_pairs() {
        let text = b"#localhost no\nLocalhost\tone\n192.0.2.9/192.0.2.1 two words\xff \n[2001:db8::1] three\nlocalhost late";
        let secrets = Secrets::parse(Path::new("/servers"), text).unwrap();
        let of = |host: &str| {
            let (host, _) = host_and_port(host, 1).unwrap();
            secrets.of(&host).map(Secret::reveal)
        };
        assert_eq!(of("localhost"), Some(&b"one"[..]));
        assert_eq!(of("192.0.2.1"), Some(&b"two words\xff"[..]));
        assert_eq!(of("2001:db8::1"), Some(&b"three"[..]));
        assert_eq!(of("192.0.2.2"), None);
    }
}
