//! The numbers of attributes, as dictionary files of FreeRADIUS and radiusclient give them. Only what accounting
//! sends is looked at; of the rest no more than that it looks like a dictionary. Vendors' attributes are passed
//! over. Opens no file itself: it is given what does.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::lines::lines;
use crate::config::quoted;

/// How deep files may include others, and how many there may be in all: FreeRADIUS ships 225, three deep.
const MAX_DEPTH: usize = 16;
const MAX_FILES: usize = 2_000;

/// Words that begin a line, of FreeRADIUS 2 to 4 and of radiusclient. Those without a branch of their own need nothing done.
const KEYWORDS: &[&str] = &[
    "ATTRIBUTE",
    "VALUE",
    "VENDOR",
    "VENDORATTR",
    "STRUCT",
    "MEMBER",
    "ENUM",
    "ALIAS",
    "FLAGS",
    "DEFINE",
    "PROTOCOL",
    "BEGIN-PROTOCOL",
    "END-PROTOCOL",
    "BEGIN",
    "END",
    "BEGIN-VENDOR",
    "BEGIN-TLV",
    "BEGIN-STRUCT",
];

/// What an attribute holds, by the types' names in dictionaries.
type Types = &'static [&'static str];
const STRING: Types = &["string", "text", "octets"];
/// OpenSIPS declares its tags as `integer` until 3.2.17 and 3.4.4, and sends text all the same.
const TAG: Types = &["string", "text", "octets", "integer"];
const INTEGER: Types = &["integer", "uint32"];
const ADDRESS: Types = &["ipaddr", "ipv4addr"];
const DATE: Types = &["date", "integer", "uint32"];

/// An attribute that accounting sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    UserName,
    NasIpAddress,
    AcctStatusType,
    AcctDelayTime,
    AcctInputOctets,
    AcctOutputOctets,
    AcctSessionId,
    AcctSessionTime,
    AcctInputGigawords,
    AcctOutputGigawords,
    EventTimestamp,
    SipToTag,
    SipFromTag,
    MediaCodecs,
    MediaInfo,
    SipUserAgents,
    SipApplications,
}

/// All of them, in the order of the enum: name, number where no dictionary says another, types.
const KNOWN: [(&str, u8, Types); 17] = [
    ("User-Name", 1, STRING),
    ("NAS-IP-Address", 4, ADDRESS),
    ("Acct-Status-Type", 40, INTEGER),
    ("Acct-Delay-Time", 41, INTEGER),
    ("Acct-Input-Octets", 42, INTEGER),
    ("Acct-Output-Octets", 43, INTEGER),
    ("Acct-Session-Id", 44, STRING),
    ("Acct-Session-Time", 46, INTEGER),
    ("Acct-Input-Gigawords", 52, INTEGER),
    ("Acct-Output-Gigawords", 53, INTEGER),
    ("Event-Timestamp", 55, DATE),
    ("Sip-To-Tag", 104, TAG),
    ("Sip-From-Tag", 105, TAG),
    ("Media-Codecs", 233, STRING),
    ("Media-Info", 234, STRING),
    ("Sip-User-Agents", 235, STRING),
    ("Sip-Applications", 236, STRING),
];

/// Not to be used for anything else: Vendor-Specific (RFC 2865) and Message-Authenticator (RFC 3579).
const RESERVED: [u8; 2] = [26, 80];

/// Opens a dictionary file.
pub type Load<'a> = &'a mut dyn FnMut(&Path) -> io::Result<Vec<u8>>;

/// The number of each attribute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dictionary {
    /// As the files say; the usual ones hold only where none says anything.
    told: [Option<u8>; KNOWN.len()],
    /// What the files say and an administrator should know, with file and line, since somebody asked: numbers that took
    /// the place of others, tags that are declared as numbers.
    warnings: Vec<String>,
}

impl Dictionary {
    pub fn number(&self, attribute: Attribute) -> u8 {
        let mut numbers = self.numbers();
        // The enum has as many values as the array.
        numbers.nth(attribute as usize).unwrap_or_default()
    }

    /// Whether a file names it.
    pub fn is_told(&self, attribute: Attribute) -> bool {
        self.told
            .get(attribute as usize)
            .is_some_and(Option::is_some)
    }

    /// See the field.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    fn numbers(&self) -> impl Iterator<Item = u8> {
        let usual = KNOWN.iter().map(|(_, number, _)| *number);
        self.told
            .iter()
            .zip(usual)
            .map(|(told, usual)| told.unwrap_or(usual))
    }

    /// Reads a file and what it includes; what it says takes the place of what was known.
    ///
    /// # Errors
    /// `file:line: what was read; allowed: ...`, or the file and why it cannot be read. A file that is not there
    /// is `Ok(false)`; one that is included must be there.
    pub fn read(&mut self, file: &Path, load: Load) -> Result<bool, String> {
        let mut reader = Reader {
            dictionary: self,
            load,
            open: Vec::new(),
            files: 0,
        };
        match (reader.load)(file) {
            Ok(text) => reader.take(file, &text).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(format!("{}: {error}", file.display())),
        }
    }

    /// Two attributes under one number could not be told apart.
    ///
    /// # Errors
    /// Which two.
    pub fn check(&self) -> Result<(), String> {
        let mut seen: HashSet<u8> = RESERVED.into();
        for ((name, ..), number) in KNOWN.iter().zip(self.numbers()) {
            if !seen.insert(number) {
                return Err(format!(
                    "RADIUS dictionaries: {name} has number {number}, which another attribute has; every attribute \
                     needs a number of its own"
                ));
            }
        }
        Ok(())
    }
}

struct Reader<'a> {
    dictionary: &'a mut Dictionary,
    load: Load<'a>,
    /// The files that are being read, each included by the one before.
    open: Vec<PathBuf>,
    files: usize,
}

impl Reader<'_> {
    fn take(&mut self, file: &Path, text: &[u8]) -> Result<(), String> {
        self.files += 1;
        self.open.push(file.to_owned());
        // The vendor's block, or that of another kind, which holds none of ours.
        let mut block: Option<String> = None;
        for (number, line) in lines(text) {
            let line = String::from_utf8_lossy(line);
            let line = line.split_once('#').map_or(&*line, |(before, _)| before);
            let words: Vec<&str> = line.split_whitespace().collect();
            let taken = match words.as_slice() {
                [include @ ("$INCLUDE" | "$INCLUDE-"), name] => {
                    self.include(file, name, include.ends_with('-'))
                }
                ["BEGIN-VENDOR" | "BEGIN-TLV" | "BEGIN-STRUCT", name, ..] => {
                    block.get_or_insert((*name).to_owned());
                    Ok(())
                }
                ["END-VENDOR" | "END-TLV" | "END-STRUCT", rest @ ..] => {
                    block = block.filter(|open| rest.first().is_some_and(|name| name != open));
                    Ok(())
                }
                ["ATTRIBUTE", rest @ ..] if block.is_none() => {
                    let place = format_args!("{}:{number}", file.display());
                    self.attribute(rest, place)
                }
                [keyword, ..] => known(keyword),
                [] => Ok(()),
            };
            // An error of an included file has its place already.
            taken.map_err(|why| match why {
                Trouble::Here(why) => format!("{}:{number}: {why}", file.display()),
                Trouble::Inside(why) => why,
            })?;
        }
        self.open.pop();
        Ok(())
    }

    /// `$INCLUDE file`, relative to the file in which it stands; `$INCLUDE-` where it need not be there.
    fn include(&mut self, from: &Path, name: &str, optional: bool) -> Result<(), Trouble> {
        let file = from.parent().unwrap_or(Path::new("")).join(name);
        let here = |why: String| Trouble::Here(format!("$INCLUDE {}: {why}", quoted(name)));
        if name.contains(char::is_control) {
            return Err(here("allowed: a path".into()));
        }
        if self.open.contains(&file) {
            return Err(here("this file is included by itself".into()));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(here(format!("more than {MAX_DEPTH} files deep")));
        }
        if self.files >= MAX_FILES {
            return Err(here(format!("more than {MAX_FILES} files")));
        }
        match (self.load)(&file) {
            Ok(text) => self.take(&file, &text).map_err(Trouble::Inside),
            Err(error) if optional && error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(here(error.to_string())),
        }
    }

    /// `ATTRIBUTE name number type [vendor or flags]`.
    fn attribute(&mut self, words: &[&str], place: fmt::Arguments<'_>) -> Result<(), Trouble> {
        let [name, number, kind, rest @ ..] = words else {
            return Err(Trouble::Here("allowed: ATTRIBUTE name number type".into()));
        };
        let ours = KNOWN
            .iter()
            .position(|(known, ..)| known.eq_ignore_ascii_case(name));
        let told = &mut self.dictionary.told;
        let slot = ours.and_then(|index| Some((told.get_mut(index)?, KNOWN.get(index)?)));
        let Some((slot, (_, _, types))) = slot else {
            return Ok(());
        };
        // FreeRADIUS 1 and radiusclient write a vendor's name after the type; flags are in small letters.
        let vendor = |word: &&str| {
            word.starts_with(|c: char| c.is_ascii_uppercase()) || word.starts_with("vendor=")
        };
        if rest.iter().any(vendor) {
            return Ok(());
        }
        let parsed = number
            .parse()
            .ok()
            .filter(|number| *number > 0 && !RESERVED.contains(number));
        let Some(parsed) = parsed else {
            return Err(Trouble::Here(format!(
                "{name} has number {}; allowed: 1 to 255, without 26 and 80",
                quoted(number)
            )));
        };
        if !types.iter().any(|known| known.eq_ignore_ascii_case(kind)) {
            return Err(Trouble::Here(format!(
                "{name} is of type {}; allowed: {}",
                quoted(kind),
                types.join(", ")
            )));
        }
        if *types == TAG && kind.eq_ignore_ascii_case("integer") {
            self.dictionary.warnings.push(format!(
                "{place}: {name} is of type integer and is sent as text, which a server with this file shows as no \
                 tag: make it a string, as OpenSIPS has since 3.2.17 and 3.4.4"
            ));
        }
        if let Some(before) = slot.replace(parsed).filter(|before| *before != parsed) {
            self.dictionary.warnings.push(format!(
                "{place}: {name} is number {parsed} here; {before}, which was read before, does not count"
            ));
        }
        Ok(())
    }
}

/// Where an error belongs to.
enum Trouble {
    /// The line that is being read.
    Here(String),
    /// An included file; complete.
    Inside(String),
}

fn known(keyword: &str) -> Result<(), Trouble> {
    if KEYWORDS.contains(&keyword) {
        return Ok(());
    }
    Err(Trouble::Here(format!(
        "{} begins no line of a dictionary; allowed: ATTRIBUTE, VALUE, VENDOR, BEGIN-VENDOR, END-VENDOR, $INCLUDE",
        quoted(keyword)
    )))
}

#[cfg(test)]
mod tests;
