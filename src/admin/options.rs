//! The command line of `media-admin`: commands and options; `help` has them in words.

mod help;

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use lexopt::{Arg, Parser, ValueExt};
use serde_json::Value;

use self::help::{About, COMMANDS, CONNECTION, help, help_of};
use super::client::{Files, Target, Transport};
use super::view::SortKey;

const SOCKET: &str = "/run/mediaproxy/management.sock";
const CERTS: &str = "/etc/mediaproxy/tls";
const CONFIG_DIR: &str = "/etc/mediaproxy";
const RUNTIME_DIR: &str = "/run/mediaproxy";

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
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
        /// Of the sessions of that Call-ID the one that this tag opened.
        from_tag: Option<String>,
        media_only: bool,
    },
    Drain {
        relay: String,
        /// Until it has no calls.
        wait: bool,
    },
    Resume(String),
    Doctor {
        config_dir: PathBuf,
        runtime_dir: PathBuf,
    },
    Version,
}

/// Which sessions, and in which order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sessions {
    /// Key and value, as the management port takes them.
    pub filters: Vec<(&'static str, String)>,
    /// A part of a URI, an address or the beginning of a Call-ID: whatever fits.
    pub word: Option<String>,
    pub sort: SortKey,
}

/// A command line that makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Options {
    pub command: Command,
    pub target: Target,
    /// JSON, an object a line.
    pub json: bool,
}

/// What a command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    Run(Box<Options>),
    /// A text to be shown.
    Text(String),
}

/// Reads a command line, without the program's name.
///
/// # Errors
/// What is wrong, in a few words.
pub(super) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Parsed, String> {
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
    wait: bool,
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
                Arg::Long("wait") => self.wait = true,
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
            ("sessions", 1) => Command::Sessions(self.sessions(None)?),
            ("sessions", 2) => {
                let word = name(self.words.remove(1))?;
                Command::Sessions(self.sessions(Some(word))?)
            }
            ("top", 1) => Command::Top {
                interval: self.seconds("interval")?.unwrap_or(Duration::from_secs(2)),
                sort: self.sort(SortKey::Traffic)?,
            },
            ("doctor", 1) => Command::Doctor {
                config_dir: self.path("config-dir", CONFIG_DIR),
                runtime_dir: self.path("runtime-dir", RUNTIME_DIR),
            },
            ("explain", 2) => Command::Explain {
                call_id: name(self.words.remove(1))?,
            },
            ("end", 2 | 3) => Command::End {
                call_id: name(self.words.remove(1))?,
                from_tag: self.words.drain(1..).next().map(name).transpose()?,
                media_only: self.media,
            },
            ("drain", 2) => Command::Drain {
                relay: name(self.words.remove(1))?,
                wait: self.wait,
            },
            ("resume", 2) => Command::Resume(name(self.words.remove(1))?),
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
        let flags = [
            ("json", self.json),
            ("media", self.media),
            ("wait", self.wait),
        ];
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

    fn sessions(&self, word: Option<String>) -> Result<Sessions, String> {
        let mut filters = Vec::new();
        for (option, key) in [
            ("call-id", "call_id"),
            ("user", "user"),
            ("address", "address"),
            ("relay", "relay"),
        ] {
            let Some(value) = self.text(option)? else {
                continue;
            };
            let allowed = match option {
                "address" if !is_address(&value) => "IP or IP:PORT",
                _ if value.is_empty() => "one that is not empty",
                _ => {
                    filters.push((key, value));
                    continue;
                }
            };
            let value = value.escape_debug();
            return Err(format!("--{option} {value}: allowed: {allowed}"));
        }
        let sort = self.sort(SortKey::Start)?;
        Ok(Sessions {
            filters,
            word,
            sort,
        })
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

/// A Call-ID or a relay's name, as the dispatcher takes them.
fn name(word: String) -> Result<String, String> {
    if word.is_empty() || word.contains(['\r', '\n', '\0']) {
        Err(format!(
            "\"{}\": allowed: a name without CR, LF and NUL",
            word.escape_debug()
        ))
    } else {
        Ok(word)
    }
}

fn is_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok() || text.parse::<SocketAddr>().is_ok()
}

impl Command {
    /// The line for the management port.
    pub(super) fn line(&self, json: bool) -> String {
        let quoted = |text: &str| Value::from(text).to_string();
        match self {
            Command::Summary => "summary".to_owned(),
            Command::Sessions(sessions) => {
                let filters = sessions.filters.iter();
                let filters = filters.map(|(key, value)| format!(" {key}={}", quoted(value)));
                let word = sessions
                    .word
                    .iter()
                    .map(|word| format!(" {}", quoted(word)));
                let words: Vec<String> = filters.chain(word).collect();
                format!("sessions{}", words.concat())
            }
            Command::Top { .. } | Command::Doctor { .. } => "summary".to_owned(),
            Command::Explain { call_id } => {
                let json = if json { "json " } else { "" };
                format!("explain {json}{}", quoted(call_id))
            }
            Command::End {
                call_id,
                from_tag,
                media_only,
            } => {
                let media = if *media_only { "media " } else { "" };
                let tag = from_tag.as_ref().map(|tag| format!(" {}", quoted(tag)));
                format!("end {media}{}{}", quoted(call_id), tag.unwrap_or_default())
            }
            Command::Drain { relay, .. } => format!("drain {}", quoted(relay)),
            Command::Resume(relay) => format!("resume {}", quoted(relay)),
            Command::Version => "version".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
