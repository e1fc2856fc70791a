//! Values of `config.ini` from text to types. Every parser answers a bad text by what is allowed, to follow
//! the words "allowed:".

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;

use crate::session::Learning;
use crate::session::address::Range;
use crate::tls::Passport;

/// Of dispatchers and of the dispatcher's own `listen`.
pub const RELAY_LINK_PORT: u16 = 25060;
/// Of `listen_management`.
pub const MANAGEMENT_PORT: u16 = 25061;

/// Where Prometheus reads the dispatcher's metrics, and a relay's; beside the other two.
pub(super) const DISPATCHER_METRICS_PORT: u16 = 25062;
pub(super) const RELAY_METRICS_PORT: u16 = 25063;

/// A parsed value, or what is allowed.
pub(super) type Parsed<T> = Result<T, String>;

/// Longest time that can be set, in seconds: some 30 years.
const MAX_SECONDS: u64 = 1_000_000_000;

/// Least severe message that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Critical,
    Error,
    Warning,
    Info,
    Debug,
}

impl LogLevel {
    /// CRITICAL shows errors too: what ends a daemon is logged as an error.
    pub fn filter(self) -> LevelFilter {
        match self {
            LogLevel::Critical | LogLevel::Error => LevelFilter::Error,
            LogLevel::Warning => LevelFilter::Warn,
            LogLevel::Info => LevelFilter::Info,
            LogLevel::Debug => LevelFilter::Debug,
        }
    }
}

/// Who forwards media that flows both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// The kernel where it can, else the relay.
    Auto,
    /// The kernel; the relay does not start without it.
    Kernel,
    /// The relay.
    Userspace,
}

/// How the management port answers `sessions` and `summary`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManagementFormat {
    /// One JSON object a line, then an empty line.
    Lines,
    /// One JSON array on one line, as MediaProxy 4 does.
    Array,
}

/// A place where finished sessions are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    File,
    Database,
    Radius,
}

/// Group of the SIP proxy's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketGroup {
    /// The first that exists of [`SocketGroup::USUAL`].
    Auto,
    Named(String),
}

impl SocketGroup {
    /// The groups of the SIP proxies, in the order in which `auto` looks for them.
    pub const USUAL: [&'static str; 3] = ["kamailio", "opensips", "openser"];
}

/// Where a SIP proxy listens for what it is told to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxySocket {
    /// The first that is there.
    pub paths: Vec<PathBuf>,
    /// The configuration names it.
    pub is_set: bool,
}

impl fmt::Display for ProxySocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, path) in self.paths.iter().enumerate() {
            let before = if n == 0 { "" } else { " or " };
            write!(f, "{before}{}", path.display())?;
        }
        Ok(())
    }
}

/// Where a dispatcher is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DispatcherEntry {
    pub host: Host,
    /// Of the relay link; an SRV record's port does not replace it.
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    Address(IpAddr),
    /// A host name, or a domain with SRV records: only DNS can tell. In lower case, no dot at its end.
    Name(String),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Address(address) => address.fmt(f),
            Host::Name(name) => f.write_str(name),
        }
    }
}

/// UDP ports for media.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// Even.
    pub start: u16,
    /// Even, up to 65536; not included.
    pub end: u32,
}

impl PortRange {
    /// How many ports there are.
    pub fn count(self) -> u32 {
        self.end.saturating_sub(u32::from(self.start))
    }
}

pub(super) fn boolean(text: &str) -> Parsed<bool> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "on" | "true" | "1" => Ok(true),
        "no" | "off" | "false" | "0" => Ok(false),
        _ => Err("yes or no".into()),
    }
}

/// Whole seconds, `least` or more; more than [`MAX_SECONDS`] is as long.
pub(super) fn seconds(least: u64) -> impl Fn(&str) -> Parsed<Duration> {
    move |text| {
        number(text)
            .filter(|&seconds| seconds >= least)
            .map(|seconds| Duration::from_secs(seconds.min(MAX_SECONDS)))
            .ok_or_else(|| format!("whole seconds from {least} to {MAX_SECONDS}"))
    }
}

/// A period in whole seconds that 0 and less switch off.
pub(super) fn period(text: &str) -> Parsed<Option<Duration>> {
    match integer(text) {
        Some(..=0) => Ok(None),
        _ => seconds(0)(text).map(Some),
    }
}

/// Mebibytes as bytes, from 16 MiB on.
pub(super) fn mebibytes(text: &str) -> Parsed<u64> {
    number(text)
        .filter(|count| (16..=1 << 20).contains(count))
        .map(|count| count << 20)
        .ok_or_else(|| "MiB from 16 to 1048576".to_owned())
}

/// How many; 0 is any number, as a rule.
pub(super) fn count(text: &str) -> Parsed<u32> {
    let count = number(text).and_then(|count| count.try_into().ok());
    count.ok_or_else(|| format!("a whole number from 0 to {}", u32::MAX))
}

/// Seconds with up to three decimals, from a thousandth on.
pub(super) fn decimal_seconds(text: &str) -> Parsed<Duration> {
    let allowed = || format!("seconds such as 5 or 0.15, from 0.001 to {MAX_SECONDS}");
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let milliseconds = Some(decimals)
        .filter(|decimals| (1..=3).contains(&decimals.len()))
        .and_then(|decimals| digits(&format!("{decimals:0<3}")));
    let whole = number(whole).filter(|&whole| whole < MAX_SECONDS);
    match (whole, milliseconds) {
        (Some(whole), Some(milliseconds)) if whole + milliseconds > 0 => {
            Ok(Duration::from_millis(whole * 1000 + milliseconds))
        }
        _ => Err(allowed()),
    }
}

/// Digits only, as in a port.
fn digits(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// A whole number as Python reads one, so that files in use mean what they meant: a sign, underscores between digits.
/// What is too large for the type is the largest.
fn integer(text: &str) -> Option<i64> {
    let (sign, amount) = match text.strip_prefix('-') {
        Some(amount) => (-1, amount),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let groups = amount.split('_');
    let sound = groups
        .clone()
        .all(|group| !group.is_empty() && group.bytes().all(|byte| byte.is_ascii_digit()));
    let amount: String = groups.collect();
    sound.then(|| sign * amount.parse().unwrap_or(i64::MAX))
}

/// One that is not negative.
fn number(text: &str) -> Option<u64> {
    integer(text)?.try_into().ok()
}

/// Names of a fixed set, in any case.
pub(super) fn one_of<T: Copy>(names: &'static [(&'static str, T)]) -> impl Fn(&str) -> Parsed<T> {
    move |text| {
        let found = names
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(text));
        found.map(|&(_, value)| value).ok_or_else(|| choice(names))
    }
}

fn choice<T>(names: &[(&str, T)]) -> String {
    let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => names.concat(),
    }
}

/// By name, or by the number that Python gives to it; numbers between stand for the next level above, 0 and less for all
/// there is, as does NOTSET.
pub(super) fn log_level(text: &str) -> Parsed<LogLevel> {
    const NAMES: &[(&str, LogLevel)] = &[
        ("CRITICAL", LogLevel::Critical),
        ("ERROR", LogLevel::Error),
        ("WARNING", LogLevel::Warning),
        ("INFO", LogLevel::Info),
        ("DEBUG", LogLevel::Debug),
    ];
    if text.eq_ignore_ascii_case("NOTSET") {
        return Ok(LogLevel::Debug);
    }
    match integer(text) {
        Some(..=10) => Ok(LogLevel::Debug),
        Some(11..=20) => Ok(LogLevel::Info),
        Some(21..=30) => Ok(LogLevel::Warning),
        Some(31..=40) => Ok(LogLevel::Error),
        Some(_) => Ok(LogLevel::Critical),
        None => one_of(NAMES)(text)
            .map_err(|names| format!("{names}, or a number from 0 (all) to 50 (CRITICAL)")),
    }
}

pub(super) fn forwarding(text: &str) -> Parsed<Forwarding> {
    one_of(&[
        ("auto", Forwarding::Auto),
        ("kernel", Forwarding::Kernel),
        ("userspace", Forwarding::Userspace),
    ])(text)
}

pub(super) fn learning(text: &str) -> Parsed<Learning> {
    one_of(&[
        ("open", Learning::Open),
        ("guarded", Learning::Guarded),
        ("strict", Learning::Strict),
    ])(text)
}

pub(super) fn management_format(text: &str) -> Parsed<ManagementFormat> {
    one_of(&[
        ("lines", ManagementFormat::Lines),
        ("array", ManagementFormat::Array),
    ])(text)
}

/// The items of a list: separated by commas, blanks or both.
pub(super) fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c == ',' || c.is_whitespace())
        .filter(|item| !item.is_empty())
}

/// Each item once, in the order written.
fn list<T: PartialEq>(text: &str, parse: impl Fn(&str) -> Parsed<T>) -> Parsed<Vec<T>> {
    let mut list = Vec::new();
    for item in items(text) {
        let value = parse(item).map_err(|allowed| at_item(text, item, allowed))?;
        if !list.contains(&value) {
            list.push(value);
        }
    }
    Ok(list)
}

/// Which item it is, where there are several.
pub(super) fn at_item(text: &str, item: &str, allowed: String) -> String {
    if item == text {
        return allowed;
    }
    format!("{allowed} (not {})", super::problem::quoted(item))
}

pub(super) fn backends(text: &str) -> Parsed<Vec<Backend>> {
    let names = &[
        ("file", Backend::File),
        ("database", Backend::Database),
        ("radius", Backend::Radius),
    ];
    list(text, |item| {
        one_of(names)(item).map_err(|_| "a list of file, database, radius".into())
    })
}

/// One range; `any` is every address, and 0 may stand for 0.0.0.0.
pub(super) fn range(text: &str) -> Option<Range> {
    if text.eq_ignore_ascii_case("any") {
        return "0.0.0.0/0".parse().ok();
    }
    let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
    match address {
        "0" => format!("0.0.0.0/{prefix}").parse().ok(),
        _ => text.parse().ok(),
    }
}

pub(super) fn dispatchers(text: &str) -> Parsed<Vec<DispatcherEntry>> {
    let list = list(text, |item| {
        dispatcher(item).ok_or_else(|| {
            "a list of host[:port] where host is an address (IPv6 in brackets), a name or a domain".into()
        })
    })?;
    if list.is_empty() {
        return Err("at least one host[:port]".into());
    }
    Ok(list)
}

fn dispatcher(text: &str) -> Option<DispatcherEntry> {
    let (host, port) = host_and_port(text, RELAY_LINK_PORT)?;
    Some(DispatcherEntry { host, port })
}

/// `host[:port]` where host is the address of one host (IPv6 in brackets where a port follows) or a name.
pub fn host_and_port(text: &str, default_port: u16) -> Option<(Host, u16)> {
    if let Some(address) = address_and_port(text, default_port) {
        let usable = !address.ip().is_unspecified() && !address.ip().is_multicast();
        return usable.then(|| (Host::Address(address.ip()), address.port()));
    }
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => (name, self::port(port)?),
        None => (text, default_port),
    };
    Some((Host::Name(host_name(name)?), port))
}

/// The form of RFC 1123, with the underscores that are seen in the wild. A last label of digits alone is an
/// address with a typing error.
pub(super) fn host_name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label_fits = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    let fits = name.len() <= 253
        && name.split('.').all(label_fits)
        && !last.bytes().all(|byte| byte.is_ascii_digit());
    fits.then(|| name.to_ascii_lowercase())
}

/// `ip[:port]` or `any[:port]`; none is something else.
pub(super) fn any_or_address(text: &str, default_port: u16) -> Option<SocketAddr> {
    let (host, port) = text.split_once(':').unwrap_or((text, ""));
    if !host.eq_ignore_ascii_case("any") {
        return address_and_port(text, default_port);
    }
    let port = if text.contains(':') {
        self::port(port)?
    } else {
        default_port
    };
    Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
}

fn address_and_port(text: &str, default_port: u16) -> Option<SocketAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(SocketAddr::new(address, default_port));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']')?;
        let address: Ipv6Addr = address.parse().ok()?;
        let port = match rest {
            "" => default_port,
            _ => port(rest.strip_prefix(':')?)?,
        };
        return Some(SocketAddr::from((address, port)));
    }
    let (address, port) = text.split_once(':')?;
    let address: Ipv4Addr = address.parse().ok()?;
    Some(SocketAddr::from((address, self::port(port)?)))
}

fn port(text: &str) -> Option<u16> {
    digits(text)?.try_into().ok().filter(|&port| port > 0)
}

/// An address of one host: where media comes and goes.
pub(super) fn ipv4(text: &str) -> Parsed<Ipv4Addr> {
    let address = text.parse().ok().filter(|address: &Ipv4Addr| {
        !address.is_unspecified() && !address.is_multicast() && !address.is_broadcast()
    });
    address.ok_or_else(|| "the IPv4 address of one host".into())
}

pub(super) fn port_range(text: &str) -> Parsed<PortRange> {
    let allowed = "start:end, both even, from 1024 to 65536, end at least 4 above start";
    let range = text.split_once(':').and_then(|(start, end)| {
        let (start, end) = (number(start.trim())?, number(end.trim())?);
        let range = PortRange {
            start: start.try_into().ok()?,
            end: end.try_into().ok().filter(|&end: &u32| end <= 65536)?,
        };
        let even = start % 2 == 0 && end % 2 == 0;
        (even && start >= 1024 && end >= start + 4).then_some(range)
    });
    range.ok_or_else(|| allowed.into())
}

/// A conntrack mark or its mask.
pub(super) fn mark(text: &str) -> Parsed<u32> {
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let value = match hexadecimal {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            u32::from_str_radix(digits, 16).ok()
        }
        Some(_) => None,
        None => digits(text).and_then(|value| value.try_into().ok()),
    };
    value
        .filter(|&value| value != 0)
        .ok_or_else(|| "a number from 1 to 0xffffffff, hexadecimal (0x...) or decimal".into())
}

/// Permissions of a socket.
pub(super) fn mode(text: &str) -> Parsed<u32> {
    let digits =
        (3..=4).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    let mode = digits.then(|| u32::from_str_radix(text, 8).ok()).flatten();
    mode.filter(|&mode| mode <= 0o777)
        .ok_or_else(|| "octal permissions such as 0660".into())
}

pub(super) fn group(text: &str) -> Parsed<SocketGroup> {
    if text.eq_ignore_ascii_case("auto") {
        return Ok(SocketGroup::Auto);
    }
    let fits = text
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b':' | b',' | b'/'));
    if fits {
        Ok(SocketGroup::Named(text.to_owned()))
    } else {
        Err("auto, or the name of a group".into())
    }
}

/// A path; a relative one is under `base`.
pub(super) fn path(base: &Path) -> impl Fn(&str) -> Parsed<PathBuf> {
    move |text| {
        if text.chars().any(char::is_control) {
            return Err("a path on one line".into());
        }
        Ok(base.join(text))
    }
}

/// `auto` is the first that is there of what is usual.
pub(super) fn proxy_socket(base: &Path, usual: &[&str]) -> impl Fn(&str) -> Parsed<ProxySocket> {
    let usual: Vec<PathBuf> = usual.iter().map(PathBuf::from).collect();
    let path = path(base);
    move |text| {
        let is_set = !text.eq_ignore_ascii_case("auto");
        let paths = if is_set {
            vec![path(text)?]
        } else {
            usual.clone()
        };
        Ok(ProxySocket { paths, is_set })
    }
}

/// None is written as no value at all, which never comes here.
pub(super) fn passport(text: &str) -> Parsed<Option<Passport>> {
    let allowed = "AN:value[, AN:value...] with AN one of O, OU, CN, C, L, ST or EMAIL, or None";
    Passport::parse(&text.replace('\n', " ")).map_err(|_| allowed.into())
}

/// A column's name, which goes into SQL as it is.
pub(super) fn column(text: &str) -> Parsed<String> {
    let fits = (1..=64).contains(&text.len())
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if fits {
        Ok(text.to_owned())
    } else {
        Err("a name of letters, digits and underscores".into())
    }
}

/// A table's name; its schema may stand before it.
pub(super) fn table(text: &str) -> Parsed<String> {
    let (schema, table) = text.split_once('.').unwrap_or((text, text));
    column(schema)?;
    column(table)?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests;
