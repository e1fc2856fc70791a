//! `config.ini`: from text to typed settings, checked once, every error with file, line, what was read and
//! what is allowed.
//!
//! ```text
//!  load_relay, load_dispatcher    the file, what it says beyond our keys, the settings
//!  roles                          which daemons the files are for
//!  RelayConfig, DispatcherConfig  the settings, and the rules between them     relay, dispatcher, shared
//!  Section                        a key's value or its default                 section
//!  KEYS                           every key: default, unit, meaning            keys, suggest
//!  values, names, database        a value from text to type
//!  ini, problem                   lines; errors and warnings
//! ```
//!
//! One file serves both daemons. Each reads its own sections and the shared ones; that a line can be read at
//! all and that no key is given twice is asked of the whole file. `conf/config.ini` is the sample.

mod database;
mod dispatcher;
mod ini;
mod keys;
mod names;
mod problem;
mod relay;
mod roles;
mod section;
mod shared;
mod suggest;
mod values;

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

pub use database::{DatabaseUri, Password, ServerKind, ServerUri, TlsMode};
pub use dispatcher::DispatcherConfig;
use ini::{IniEntry, IniSection};
pub use keys::{KEYS, Key};
use names::LookUp;
pub use problem::{ConfigError, quoted};
use problem::{Problem, shown};
pub use relay::RelayConfig;
pub use roles::{Roles, roles};
pub use shared::{
    DatabaseSection, FileSection, KamailioSection, OpenSipsSection, RadiusSection, TlsSection,
};
pub use values::{
    Backend, DispatcherEntry, Forwarding, Host, LogLevel, MANAGEMENT_PORT, ManagementFormat,
    PortRange, ProxySocket, RELAY_LINK_PORT, SocketGroup, host_and_port,
};

use crate::sys::file_access;
use crate::sys::files::open_given;

/// The file's name in the configuration directory.
pub const FILE_NAME: &str = "config.ini";

/// A larger file is no configuration.
const MAX_FILE_SIZE: u64 = 256 * 1024;

/// What each daemon reads.
const RELAY_SECTIONS: &[&str] = &["Relay", "TLS"];
const DISPATCHER_SECTIONS: &[&str] = &[
    "Dispatcher",
    "TLS",
    "Database",
    "Radius",
    "OpenSIPS",
    "Kamailio",
    "File",
];

/// A configuration that can be used.
#[derive(Debug)]
pub struct Loaded<T> {
    pub config: T,
    /// The file that it was read from.
    pub path: PathBuf,
    /// What is odd in it, each as `file:line: text`, in the order of the lines.
    pub warnings: Vec<String>,
}

/// Reads the relay's settings from `config.ini` in `dir`.
///
/// # Errors
/// All that keeps it from being used, a missing file included: there is no default for `dispatchers`.
pub fn load_relay(dir: &Path) -> Result<Loaded<RelayConfig>, ConfigError> {
    load(dir, RELAY_SECTIONS, true, relay::read)
}

/// Reads the dispatcher's settings from `config.ini` in `dir`. Without that file all defaults hold, which is
/// a warning.
///
/// # Errors
/// All that keeps it from being used.
pub fn load_dispatcher(dir: &Path) -> Result<Loaded<DispatcherConfig>, ConfigError> {
    load(dir, DISPATCHER_SECTIONS, false, dispatcher::read)
}

/// What the readers of sections are given.
struct Source<'a> {
    dir: &'a Path,
    file: &'a [IniSection],
    look_up: LookUp,
    errors: &'a mut Vec<Problem>,
    warnings: &'a mut Vec<Problem>,
}

impl Source<'_> {
    fn section(&mut self, name: &'static str) -> section::Section<'_> {
        section::Section::new(name, self.file, self.errors)
    }
}

fn load<T>(
    dir: &Path,
    sections: &[&str],
    required: bool,
    read: impl Fn(&mut Source) -> Option<T>,
) -> Result<Loaded<T>, ConfigError> {
    let path = dir.join(FILE_NAME);
    let mut warnings = Vec::new();
    let bytes = match contents(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !required => {
            warnings.push(Problem::new(None, "not found: all defaults hold"));
            Vec::new()
        }
        Err(error) => {
            let hint = match (error.kind(), file_access::remedy_to_read(&path, &error)) {
                (io::ErrorKind::NotFound, _) => "; it must say at least [Relay] dispatchers".into(),
                (_, Some(command)) => format!("; {command}"),
                (_, None) => String::new(),
            };
            let text = format!("cannot be read: {error}{hint}");
            return Err(ConfigError::new(
                &path,
                vec![Problem::new(None, text)],
                warnings,
            ));
        }
    };
    let text = Text {
        dir,
        path,
        bytes: &bytes,
        warnings,
        look_up: names::by_system,
    };
    read_settings(text, sections, read)
}

/// Both daemons' settings of a text in memory, as if it stood in the file in `dir`: for the fuzz targets. Names are not
/// looked up.
#[doc(hidden)]
pub fn read_text(
    dir: &Path,
    bytes: &[u8],
) -> (LoadResult<RelayConfig>, LoadResult<DispatcherConfig>) {
    let text = || Text {
        dir,
        path: dir.join(FILE_NAME),
        bytes,
        warnings: Vec::new(),
        look_up: names::localhost_alone,
    };
    (
        read_settings(text(), RELAY_SECTIONS, relay::read),
        read_settings(text(), DISPATCHER_SECTIONS, dispatcher::read),
    )
}

type LoadResult<T> = Result<Loaded<T>, ConfigError>;

/// A file that was read.
struct Text<'a> {
    dir: &'a Path,
    path: PathBuf,
    bytes: &'a [u8],
    warnings: Vec<Problem>,
    look_up: LookUp,
}

fn read_settings<T>(
    text: Text,
    sections: &[&str],
    read: impl Fn(&mut Source) -> Option<T>,
) -> LoadResult<T> {
    let (path, mut warnings) = (text.path, text.warnings);
    let mut errors = Vec::new();
    let file = ini::parse(text.bytes, &mut errors);
    refuse_repetitions(&file, &mut errors);
    warn_of_unknown(&file, sections, &mut warnings);
    let config = read(&mut Source {
        dir: text.dir,
        file: &file,
        look_up: text.look_up,
        errors: &mut errors,
        warnings: &mut warnings,
    });
    match config {
        Some(config) if errors.is_empty() => Ok(Loaded {
            config,
            warnings: problem::listed(&path, warnings),
            path,
        }),
        _ => Err(ConfigError::new(&path, errors, warnings)),
    }
}

fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = open_given(path)?
        .take(MAX_FILE_SIZE + 1)
        .read_to_end(&mut bytes)?;
    if read as u64 > MAX_FILE_SIZE {
        return Err(io::Error::other(
            "larger than 256 KiB; allowed: a configuration file",
        ));
    }
    Ok(bytes)
}

fn refuse_repetitions(file: &[IniSection], errors: &mut Vec<Problem>) {
    let mut first_lines: HashMap<(String, &str), usize> = HashMap::new();
    for section in file {
        let name = keys::section(&section.name).unwrap_or(&section.name);
        for entry in &section.entries {
            let key = (name.to_lowercase(), entry.key.as_str());
            let first = *first_lines.entry(key).or_insert(entry.line);
            if first != entry.line {
                let text = format!(
                    "[{}] {}: given a second time, first in line {first}; allowed: once",
                    shown(name),
                    shown(&entry.key)
                );
                errors.push(Problem::new(entry.line, text));
            }
        }
    }
}

/// What is in the file and has no effect. `ours` are the sections that this daemon reads.
fn warn_of_unknown(file: &[IniSection], ours: &[&str], warnings: &mut Vec<Problem>) {
    for section in file {
        // What nobody will read is not thought about: a file may be full of it.
        let suggesting = warnings.len() < problem::MAX_SHOWN;
        let ignored = keys::IGNORED_SECTIONS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(&section.name));
        if section.name == ini::DEFAULT_SECTION {
            let unknown = section.entries.iter();
            let unknown = unknown.filter(|entry| {
                !entry.is_referred_to && !KEYS.iter().any(|key| key.name == entry.key)
            });
            warnings.extend(unknown.map(|entry| {
                let text = format!("[DEFAULT] unknown key {}, ignored", quoted(&entry.key));
                Problem::new(entry.line, text)
            }));
            continue;
        }
        let text = match (keys::section(&section.name), ignored) {
            (Some(name), _) => {
                if ours.contains(&name) {
                    for entry in &section.entries {
                        let suggesting = warnings.len() < problem::MAX_SHOWN;
                        warnings.extend(key_warning(name, entry, suggesting));
                    }
                }
                continue;
            }
            (None, Some((name, why))) => format!("[{name}] has no effect: {why}"),
            (None, None) => {
                let suggestion = suggesting.then(|| suggest::section(&section.name));
                let meant = suggestion
                    .flatten()
                    .map_or(String::new(), |name| format!("; is [{name}] meant?"));
                let name = quoted(&section.name);
                format!("unknown section {name}, ignored with all its keys{meant}")
            }
        };
        warnings.push(Problem::new(section.line, text));
    }
}

fn key_warning(section: &str, entry: &IniEntry, suggesting: bool) -> Option<Problem> {
    let text = match keys::find(section, &entry.key) {
        Some(key) => {
            let why = key.ignored?;
            format!("[{section}] {}: has no effect: {why}", key.name)
        }
        None if entry.is_referred_to => return None,
        None => {
            let suggestion = suggesting.then(|| suggest::key(section, &entry.key));
            let meant = match suggestion.flatten() {
                Some(key) if key.section == section => format!("; is {} meant?", key.name),
                Some(key) => format!("; it belongs to [{}]", key.section),
                None => String::new(),
            };
            let name = quoted(&entry.key);
            format!("[{section}] unknown key {name}, ignored{meant}")
        }
    };
    Some(Problem::new(entry.line, text))
}
