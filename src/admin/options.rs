//! The command line of `media-admin`: commands, options, `--help` for all and for each.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use lexopt::{Arg, Parser, ValueExt};
use serde_json::Value;

use super::client::{Files, Target, Transport};
use super::view::SortKey;

const SOCKET: &str = "/run/mediaproxy/management.sock";
const CERTS: &str = "/etc/mediaproxy/tls";
const CONFIG_DIR: &str = "/etc/mediaproxy";
const RUNTIME_DIR: &str = "/run/mediaproxy";

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Summary,
    Sessions(Sessions),
    Top {
        interval: Duration,
        sort: SortKey,
    },
    Explain {
        call_id: String,
    },
    End {
        call_id: String,
        media_only: bool,
    },
    Drain(String),
    Resume(String),
    Doctor {
        config_dir: PathBuf,
        runtime_dir: PathBuf,
    },
    Version,
}

/// Which sessions, and in which order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sessions {
    /// Key and value, as the management port takes them.
    pub filters: Vec<(&'static str, String)>,
    pub sort: SortKey,
}

/// A command line that makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub command: Command,
    pub target: Target,
    /// JSON, an object a line.
    pub json: bool,
}

/// What a command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    Run(Box<Options>),
    /// A text to be shown.
    Text(String),
}

struct About {
    name: &'static str,
    arguments: &'static str,
    what: &'static str,
    /// Options and their meanings.
    options: &'static [(&'static str, &'static str)],
    more: &'static str,
}

const JSON: (&str, &str) = ("--json", "JSON instead, one object a line");

const COMMANDS: &[About] = &[
    About {
        name: "summary",
        arguments: "",
        what: "all relays: state, calls, streams, traffic",
        options: &[JSON],
        more: "",
    },
    About {
        name: "sessions",
        arguments: "",
        what: "all calls, or those that fit every filter",
        options: &[
            ("--call-id ID", "the call with this Call-ID"),
            (
                "--user TEXT",
                "part of the caller's or callee's URI, or of the username",
            ),
            (
                "--address IP[:PORT]",
                "in the SDP, learned, or the relay's own",
            ),
            (
                "--relay RELAY",
                "on this relay: its name or address, see summary",
            ),
            (
                "--sort KEY",
                "start (default), duration, traffic, packets, quality, caller, callee, status",
            ),
            JSON,
        ],
        more: "Quality puts the worst first: calls in which one side is hardly or not heard.",
    },
    About {
        name: "top",
        arguments: "",
        what: "relays with their rates, busiest and worst calls, live",
        options: &[
            ("--interval SECONDS", "time between looks (2)"),
            ("--sort KEY", "as of sessions (traffic)"),
        ],
        more: "Keys: q quits; t traffic, d duration, w worst (quality), p packets, c caller, s status; r looks now.",
    },
    About {
        name: "explain",
        arguments: "CALL-ID",
        what: "all that is known of a call: addresses, paths, drops, time-outs",
        options: &[JSON],
        more: "",
    },
    About {
        name: "end",
        arguments: "CALL-ID",
        what: "ends a call: its dialog at the SIP proxy, or else its session on the relay",
        options: &[(
            "--media",
            "only the session on the relay, whatever the proxy says",
        )],
        more: "Needs the socket, or TLS with a certificate that management_passport allows.",
    },
    About {
        name: "drain",
        arguments: "RELAY",
        what: "gives a relay no new calls",
        options: &[],
        more: "RELAY is a name or an address as summary shows it. Holds until resume, over lost links and restarts of\n\
               the dispatcher; each dispatcher has to be told. Its log says when the last call is over.\n\
               Needs the socket, or TLS with a certificate that management_passport allows.",
    },
    About {
        name: "resume",
        arguments: "RELAY",
        what: "gives a drained relay calls again",
        options: &[],
        more: "Needs the socket, or TLS with a certificate that management_passport allows.",
    },
    About {
        name: "doctor",
        arguments: "",
        what: "looks at this host: what is wrong, and the command that mends it",
        options: &[
            (
                "--config-dir PATH",
                "directory of config.ini (/etc/mediaproxy)",
            ),
            (
                "--runtime-dir PATH",
                "directory of sockets and pid files (/run/mediaproxy)",
            ),
            JSON,
        ],
        more: "Looks at what config.ini has: [Relay], [Dispatcher] or both. Changes nothing. Exit status 1 where\n\
               something does not work.",
    },
    About {
        name: "version",
        arguments: "",
        what: "the dispatcher's version",
        options: &[],
        more: "",
    },
];

const CONNECTION: &[(&str, &str)] = &[
    (
        "--socket PATH",
        "the dispatcher's management socket (/run/mediaproxy/management.sock)",
    ),
    (
        "--connect HOST[:PORT]",
        "TCP instead; port 25061 unless given",
    ),
    ("--tls", "TLS over TCP, as management_use_tls wants it"),
    (
        "--certs DIR",
        "where its files are (/etc/mediaproxy/tls): ca.pem, crl.pem, and admin.crt with admin.key,",
    ),
    ("", "or those of dispatcher or relay; implies --tls"),
    (
        "--cert FILE, --key FILE, --ca FILE, --crl FILE",
        "single files instead; each implies --tls",
    ),
    ("--timeout SECONDS", "longest wait for an answer (15)"),
];

const ENDING: &str = "Exit status: 0 fine; 1 a problem was found or the dispatcher refused; 2 wrong command line; \
                      3 no connection.\nColour only on a terminal, and not where NO_COLOR is set.\n";

/// Reads a command line, without the program's name.
///
/// # Errors
/// What is wrong, in a few words.
pub fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Parsed, String> {
    let mut raw = Raw::default();
    raw.read(Parser::from_args(arguments))
        .map_err(|error| error.to_string())?;
    if raw.version {
        return Ok(Parsed::Text(format!(
            "media-admin {}\n",
            env!("CARGO_PKG_VERSION")
        )));
    }
    let about = match raw.words.first() {
        Some(word) => Some(
            COMMANDS
                .iter()
                .find(|about| about.name == word)
                .ok_or_else(|| format!("no command \"{}\"", word.escape_debug()))?,
        ),
        None => None,
    };
    match about {
        _ if raw.help => Ok(Parsed::Text(about.map_or_else(help, help_of))),
        Some(about) => raw
            .understand(about)
            .map(|options| Parsed::Run(Box::new(options))),
        None => Err("a command is missing".to_owned()),
    }
}

/// What was given, not yet judged.
#[derive(Default)]
struct Raw {
    words: Vec<String>,
    help: bool,
    version: bool,
    json: bool,
    media: bool,
    tls: bool,
    /// Options with values, by name.
    values: Vec<(&'static str, OsString)>,
}

/// All options that have a value.
const VALUED: &[&str] = &[
    "call-id",
    "user",
    "address",
    "relay",
    "sort",
    "interval",
    "config-dir",
    "runtime-dir",
    "socket",
    "connect",
    "certs",
    "cert",
    "key",
    "ca",
    "crl",
    "timeout",
];

impl Raw {
    fn read(&mut self, mut parser: Parser) -> Result<(), lexopt::Error> {
        while let Some(argument) = parser.next()? {
            match argument {
                Arg::Value(word) => self.words.push(word.string()?),
                Arg::Long("help") | Arg::Short('h') => self.help = true,
                Arg::Long("version") | Arg::Short('V') => self.version = true,
                Arg::Long("json") => self.json = true,
                Arg::Long("media") => self.media = true,
                Arg::Long("tls") => self.tls = true,
                Arg::Long(name) => {
                    let Some(known) = VALUED.iter().find(|known| **known == name) else {
                        return Err(argument.unexpected());
                    };
                    self.values.push((*known, parser.value()?));
                }
                Arg::Short(_) => return Err(argument.unexpected()),
            }
        }
        Ok(())
    }

    fn understand(mut self, about: &About) -> Result<Options, String> {
        self.refuse_foreign(about)?;
        let target = self.target()?;
        let command = match (about.name, self.words.len()) {
            ("summary", 1) => Command::Summary,
            ("version", 1) => Command::Version,
            ("sessions", 1) => Command::Sessions(self.sessions()?),
            ("top", 1) => Command::Top {
                interval: self.seconds("interval")?.unwrap_or(Duration::from_secs(2)),
                sort: self.sort(SortKey::Traffic)?,
            },
            ("doctor", 1) => Command::Doctor {
                config_dir: self.path("config-dir", CONFIG_DIR),
                runtime_dir: self.path("runtime-dir", RUNTIME_DIR),
            },
            ("explain", 2) => Command::Explain {
                call_id: self.words.remove(1),
            },
            ("end", 2) => Command::End {
                call_id: self.words.remove(1),
                media_only: self.media,
            },
            ("drain", 2) => Command::Drain(self.words.remove(1)),
            ("resume", 2) => Command::Resume(self.words.remove(1)),
            (name, _) => {
                let usage = format!("usage: media-admin {name} {}", about.arguments);
                return Err(usage.trim_end().to_owned());
            }
        };
        Ok(Options {
            command,
            target,
            json: self.json,
        })
    }

    /// An option that the command does not have would be ignored silently.
    fn refuse_foreign(&self, about: &About) -> Result<(), String> {
        let name = about.name;
        let lists = |list: &[(&str, &str)], option: &str| {
            let mut words = list.iter().flat_map(|(text, _)| text.split([' ', ',']));
            words.any(|word| word.strip_prefix("--") == Some(option))
        };
        let has = |option: &str| lists(about.options, option) || lists(CONNECTION, option);
        let flags = [("json", self.json), ("media", self.media)];
        let flags = flags
            .into_iter()
            .filter_map(|(flag, given)| given.then_some(flag));
        let given = self.values.iter().map(|(option, _)| *option);
        match given.chain(flags).find(|option| !has(option)) {
            Some(option) => Err(format!("{name} has no option --{option}")),
            None => Ok(()),
        }
    }

    /// The last one given.
    fn value(&self, name: &str) -> Option<&OsString> {
        let mut values = self.values.iter().rev();
        values
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }

    fn text(&self, name: &str) -> Result<Option<String>, String> {
        let text = self.value(name).map(|value| value.clone().into_string());
        text.transpose().map_err(|_| format!("--{name}: not UTF-8"))
    }

    fn path(&self, name: &str, default: &str) -> PathBuf {
        self.value(name)
            .map_or_else(|| default.into(), PathBuf::from)
    }

    fn seconds(&self, name: &str) -> Result<Option<Duration>, String> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let seconds = text.parse::<f64>().ok();
        let seconds = seconds.filter(|seconds| (0.1..=3600.0).contains(seconds));
        let wrong = || {
            format!(
                "--{name} {}: allowed: seconds from 0.1 to 3600",
                text.escape_debug()
            )
        };
        seconds
            .map(Duration::from_secs_f64)
            .map(Some)
            .ok_or_else(wrong)
    }

    fn sort(&self, default: SortKey) -> Result<SortKey, String> {
        match self.text("sort")? {
            Some(text) => SortKey::parse(&text),
            None => Ok(default),
        }
    }

    fn sessions(&self) -> Result<Sessions, String> {
        let mut filters = Vec::new();
        for (option, key) in [
            ("call-id", "call_id"),
            ("user", "user"),
            ("address", "address"),
            ("relay", "relay"),
        ] {
            filters.extend(self.text(option)?.map(|value| (key, value)));
        }
        let sort = self.sort(SortKey::Start)?;
        Ok(Sessions { filters, sort })
    }

    fn target(&self) -> Result<Target, String> {
        let single = ["certs", "cert", "key", "ca", "crl"];
        let tls = self.tls || single.iter().any(|name| self.value(name).is_some());
        let connect = self.text("connect")?;
        let transport = match connect {
            None if tls => return Err("TLS needs --connect HOST[:PORT]".to_owned()),
            None => Transport::Unix(self.path("socket", SOCKET)),
            Some(_) if self.value("socket").is_some() => {
                return Err("--socket and --connect exclude each other".to_owned());
            }
            Some(address) => Transport::Tcp {
                address,
                tls: tls.then(|| Files {
                    directory: self.path("certs", CERTS),
                    cert: self.value("cert").map(PathBuf::from),
                    key: self.value("key").map(PathBuf::from),
                    ca: self.value("ca").map(PathBuf::from),
                    crl: self.value("crl").map(PathBuf::from),
                }),
            },
        };
        let timeout = self.seconds("timeout")?.unwrap_or(Duration::from_secs(15));
        Ok(Target { transport, timeout })
    }
}

impl Command {
    /// The line for the management port.
    pub fn line(&self, json: bool) -> String {
        let quoted = |text: &str| Value::from(text).to_string();
        match self {
            Command::Summary => "summary".to_owned(),
            Command::Sessions(sessions) => {
                let filters = sessions.filters.iter();
                let filters = filters.map(|(key, value)| format!(" {key}={}", quoted(value)));
                format!("sessions{}", filters.collect::<String>())
            }
            Command::Top { .. } | Command::Doctor { .. } => "summary".to_owned(),
            Command::Explain { call_id } => {
                let json = if json { "json " } else { "" };
                format!("explain {json}{}", quoted(call_id))
            }
            Command::End {
                call_id,
                media_only,
            } => {
                let media = if *media_only { "media " } else { "" };
                format!("end {media}{}", quoted(call_id))
            }
            Command::Drain(relay) => format!("drain {}", quoted(relay)),
            Command::Resume(relay) => format!("resume {}", quoted(relay)),
            Command::Version => "version".to_owned(),
        }
    }
}

fn help() -> String {
    let mut text = "media-admin: shows and changes what media-dispatcher and its relays do\n\n\
                    usage: media-admin [OPTIONS] COMMAND\n\nCommands (media-admin COMMAND --help tells more):\n"
        .to_owned();
    let commands: Vec<(String, &str)> = COMMANDS
        .iter()
        .map(|about| (format!("{} {}", about.name, about.arguments), about.what))
        .collect();
    let lines: Vec<(&str, &str)> = commands
        .iter()
        .map(|(left, right)| (left.as_str(), *right))
        .collect();
    list(&mut text, &lines);
    text.push_str("\nOptions:\n");
    list(&mut text, CONNECTION);
    list(
        &mut text,
        &[
            ("--version", "show the version"),
            ("--help", "show this text"),
        ],
    );
    text.push('\n');
    text.push_str(ENDING);
    text
}

fn help_of(about: &About) -> String {
    let About {
        name,
        arguments,
        what,
        options,
        more,
    } = about;
    let usage = format!("usage: media-admin [OPTIONS] {name} {arguments}");
    let mut text = format!("media-admin {name}: {what}\n\n{}\n", usage.trim_end());
    if !options.is_empty() {
        text.push('\n');
        list(&mut text, options);
    }
    if !more.is_empty() {
        text.push('\n');
        text.push_str(more);
        text.push('\n');
    }
    if *name != "doctor" {
        text.push_str("\nThe connection:\n");
        list(&mut text, CONNECTION);
    }
    text.push('\n');
    text.push_str(ENDING);
    text
}

/// Two columns; what is too long for the first has a line to itself.
fn list(text: &mut String, lines: &[(&str, &str)]) {
    const LEFT: usize = 22;
    for (left, right) in lines {
        match left.len() <= LEFT {
            true => text.push_str(&format!("  {left:LEFT$}  {right}\n")),
            false => text.push_str(&format!("  {left}\n  {:LEFT$}  {right}\n", "")),
        }
    }
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
