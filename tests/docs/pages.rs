//! What the pages in `docs/`, the README and the manual pages say, against the code: messages of the log, files of
//! configuration, the warnings for a file of MediaProxy, links.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use mediaproxy::config::{self, KEYS, Key};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files below a folder that end so.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_str().unwrap().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The lines of the fenced blocks of a page that begin with this line.
fn fenced(page: &str, fence: &str) -> Vec<String> {
    let mut lines = page.lines();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        if line == fence {
            let block = lines.by_ref().take_while(|line| *line != "```");
            found.extend(block.map(str::to_owned));
        }
    }
    found
}

/// The block after the comment `<!-- name -->`.
fn named(page: &str, name: &str) -> String {
    let (_, rest) = page
        .split_once(&format!("<!-- {name} -->\n```"))
        .unwrap_or_else(|| panic!("no block {name}"));
    let (_, rest) = rest.split_once('\n').unwrap();
    rest.split_once("\n```").unwrap().0.to_owned()
}

/// All string literals of the sources, tests at the end of a file left out, as they are at run time: continued lines
/// joined, escapes undone.
fn strings_of_the_sources() -> Vec<String> {
    let mut strings = Vec::new();
    for path in files("src", ".rs") {
        let text = fs::read_to_string(path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let code = code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        let code: Vec<&str> = code.collect();
        strings.extend(literals(&code.join("\n")));
    }
    strings
}

fn literals(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut chars = code.chars().peekable();
    while let Some(c) = chars.next() {
        // A character literal with a quotation mark in it opens no string.
        if c == '\'' && chars.peek() == Some(&'"') {
            chars.next();
        }
        if c != '"' {
            continue;
        }
        let mut text = String::new();
        while let Some(c) = chars.next() {
            match (c, chars.peek()) {
                ('"', _) => break,
                ('\\', Some('\n')) => while chars.next_if(|c| c.is_whitespace()).is_some() {},
                ('\\', Some(_)) => text.extend(chars.next()),
                _ => text.push(c),
            }
        }
        found.push(text);
    }
    found
}

/// The parts of a message that are always the same; what varies is written as three dots.
fn fixed_parts(message: &str) -> Vec<&str> {
    let parts = message.split("...").map(str::trim);
    parts
        .filter(|part| part.chars().filter(|c| c.is_alphabetic()).count() > 2)
        .collect()
}

/// What of a message no string of the sources has. A message may be put together from two at a colon.
fn unknown_parts(message: &str, strings: &[String]) -> Vec<String> {
    let is_known = |part: &str| {
        let part = part.trim_end_matches(':');
        strings.iter().any(|string| string.contains(part))
    };
    let mut unknown = Vec::new();
    for part in fixed_parts(message) {
        if is_known(part) {
            continue;
        }
        let pieces = part.split(": ").filter(|piece| piece.len() > 3);
        unknown.extend(pieces.filter(|piece| !is_known(piece)).map(str::to_owned));
    }
    unknown
}

#[test]
fn every_message_that_is_quoted_is_one_of_the_program() {
    let strings = strings_of_the_sources();
    let mut quoted = Vec::new();
    for path in files("docs", ".md") {
        let lines = fenced(&fs::read_to_string(&path).unwrap(), "```log");
        quoted.extend(lines.into_iter().map(|line| (path.clone(), line)));
    }
    for path in files("man", "") {
        let page = fs::read_to_string(&path).unwrap();
        let (_, diagnostics) = page.split_once("\n.Sh DIAGNOSTICS\n").unwrap_or_default();
        let messages = diagnostics.lines().filter_map(|line| {
            let message = line.strip_prefix(".It Sy \"")?.strip_suffix('"')?;
            Some(message.replace("\\&", ""))
        });
        quoted.extend(messages.map(|message| (path.clone(), message)));
    }
    assert!(quoted.len() > 60, "{}", quoted.len());
    let mut wrong = Vec::new();
    for (path, message) in &quoted {
        let telling = |part: &str| part != "[session" && part.len() > 3;
        if !fixed_parts(message).iter().any(|part| telling(part)) {
            wrong.push(format!(
                "{}: too little is fixed in: {message}",
                path.display()
            ));
        }
        for part in unknown_parts(message, &strings) {
            wrong.push(format!("{}: \"{part}\" of: {message}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn a_message_that_is_none_is_found() {
    let strings = strings_of_the_sources();
    for (message, unknown) in [
        ("[session ...] update: no relay takes this call", &[][..]),
        (
            "[session ...] update: no relay wants this call",
            &["no relay wants this call"],
        ),
        ("relay ... is not well today", &["is not well today"]),
    ] {
        assert_eq!(unknown_parts(message, &strings), unknown, "{message}");
    }
    assert_eq!(literals("a('\"', \"b \\\n   c\\\"d\")"), ["b c\"d"]);
}

/// The twenty things that go wrong: each with what is seen, what the log says and what to do.
#[test]
fn troubles_are_twenty_and_whole() {
    let page = read("docs/trouble.md");
    let entries: Vec<&str> = page.split("\n## ").skip(1).collect();
    let numbered: Vec<&&str> = entries
        .iter()
        .filter(|entry| entry.starts_with(|c: char| c.is_ascii_digit()))
        .collect();
    assert_eq!(numbered.len(), 20);
    for (index, entry) in numbered.iter().enumerate() {
        assert!(entry.starts_with(&format!("{}. ", index + 1)), "{entry}");
        for part in ["\n**Seen.** ", "\n```log\n", "\n**Do.** "] {
            assert!(entry.contains(part), "{part:?} is missing in {entry}");
        }
    }
}

/// The pages that tell what to type.
fn told() -> Vec<(PathBuf, String)> {
    let mut pages = files("docs", ".md");
    pages.extend(files("man", ""));
    pages.extend(["README.md", "tls/README.md"].map(|name| root().join(name)));
    let text = |path: PathBuf| (path.clone(), fs::read_to_string(path).unwrap());
    pages.into_iter().map(text).collect()
}

/// The options that a program's own manual page explains, as they are typed, and its commands.
fn explained(name: &str) -> BTreeSet<String> {
    let page = read(format!("man/{name}.8"));
    let words = page.lines().filter_map(|line| {
        let option = line.strip_prefix(".It Fl ").map(|rest| format!("-{rest}"));
        option.or_else(|| line.strip_prefix(".It Ic ").map(str::to_owned))
    });
    words
        .filter_map(|item| item.split(' ').next().map(str::to_owned))
        .collect()
}

/// Every option and command that a page has typed is one that the program's page explains (which man_pages.rs holds
/// against the program).
#[test]
fn every_command_line_can_be_typed() {
    let mut count = 0;
    for name in ["media-relay", "media-dispatcher", "media-admin"] {
        let known = explained(name);
        let typed = format!("{name} ");
        for (path, text) in told() {
            let lines = text.split(&typed).skip(1);
            for line in lines.filter_map(|rest| rest.lines().next()) {
                let typed = line
                    .split(['`', '|', '(', '>', ',', ';', ')'])
                    .next()
                    .unwrap();
                let words: Vec<&str> = typed.split_whitespace().collect();
                let options = words.iter().filter(|word| word.starts_with("--"));
                for option in options {
                    count += 1;
                    let option = option.split('=').next().unwrap();
                    assert!(known.contains(option), "{}: {name} {line}", path.display());
                }
            }
        }
    }
    assert!(count > 25, "{count}");
    let known = explained("media-admin");
    for (path, text) in told() {
        for line in text
            .lines()
            .map(|line| line.trim_start_matches(".Dl ").trim())
        {
            let line = line.trim_start_matches("| `");
            let Some(word) = line.strip_prefix("media-admin ") else {
                continue;
            };
            let word = word.split([' ', '`']).next().unwrap();
            if word.starts_with(|c: char| c.is_ascii_lowercase()) {
                assert!(known.contains(word), "{}: {line}", path.display());
            }
        }
    }
}

/// `[Section] key` in a page names a key.
#[test]
fn every_key_that_is_named_is_one() {
    let mut count = 0;
    let sections: BTreeSet<&str> = KEYS.iter().map(|key| key.section).collect();
    for (path, text) in told() {
        for section in &sections {
            let named = format!("[{section}] ");
            for rest in text.split(&named).skip(1) {
                let end = rest.find(|c: char| !(c.is_ascii_lowercase() || c == '_'));
                let name = &rest[..end.unwrap_or(rest.len())];
                if !name.contains('_') {
                    continue;
                }
                count += 1;
                let is_key = |key: &&Key| key.section == *section && key.name == name;
                let is_one = KEYS.iter().any(|key| is_key(&key));
                assert!(is_one, "{}: [{section}] {name}", path.display());
            }
        }
    }
    assert!(count > 8, "{count}");
}

struct Folder(PathBuf);

impl Folder {
    fn with(name: &str, config: &str) -> Folder {
        let unique = format!("mediaproxy-docs-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(unique);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("config.ini"), config).unwrap();
        let closed = std::os::unix::fs::PermissionsExt::from_mode(0o640);
        fs::set_permissions(path.join("config.ini"), closed).unwrap();
        Folder(path)
    }

    fn without_path(&self, warnings: &[String]) -> Vec<String> {
        let prefix = format!("{}/", self.0.display());
        let short = |text: &String| text.replace(&prefix, "");
        warnings.iter().map(short).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_file_of_mediaproxy_loads_with_the_warnings_of_the_page() {
    let sample = read("tests/samples/mediaproxy-4.ini");
    let folder = Folder::with("migration", &sample);
    let page = read("docs/migration.md");
    let relay = config::load_relay(&folder.0).unwrap();
    let told = folder.without_path(&relay.warnings).join("\n");
    assert_eq!(told, named(&page, "warnings of the relay"));
    let dispatcher = config::load_dispatcher(&folder.0).unwrap();
    let told = folder.without_path(&dispatcher.warnings).join("\n");
    assert_eq!(told, named(&page, "warnings of the dispatcher"));
}

/// What the pages say is to be written into `config.ini` can be written there, and nothing is warned about.
#[test]
fn every_configuration_of_the_pages_loads() {
    let page = read("docs/production.md");
    for (name, has_dispatcher, has_relay) in [
        ("one-host.ini", true, true),
        ("dispatcher.ini", true, false),
        ("relay.ini", false, true),
    ] {
        let folder = Folder::with(name, &named(&page, name));
        if has_dispatcher {
            let loaded = config::load_dispatcher(&folder.0).unwrap();
            assert_eq!(loaded.warnings, [""; 0], "{name}");
        }
        if has_relay {
            let loaded = config::load_relay(&folder.0).unwrap();
            assert_eq!(loaded.warnings, [""; 0], "{name}");
        }
    }
}

/// The examples of the manual pages, each `.Bd` block that has sections, together with what it leaves out.
#[test]
fn every_configuration_of_the_manual_loads() {
    let mut count = 0;
    for name in ["mediaproxy.7", "mediaproxy.ini.5"] {
        let page = read(format!("man/{name}"));
        for block in page.split(".Bd -literal").skip(1) {
            let (_, rest) = block.split_once('\n').unwrap();
            let (text, _) = rest.split_once("\n.Ed").unwrap();
            if !text.contains("[Relay]\n") && !text.contains("[Dispatcher]\n") {
                continue;
            }
            count += 1;
            let text = text.replace("\\e", "\\");
            let folder = Folder::with(&format!("{name}-{count}"), &text);
            if text.contains("[Relay]\n") {
                let loaded = config::load_relay(&folder.0).unwrap();
                assert_eq!(loaded.warnings, [""; 0], "{text}");
            }
            if text.contains("[Dispatcher]\n") {
                let loaded = config::load_dispatcher(&folder.0).unwrap();
                assert_eq!(loaded.warnings, [""; 0], "{text}");
            }
        }
    }
    assert!(count >= 8, "{count}");
}

#[test]
fn every_link_leads_somewhere() {
    let mut pages = files("docs", ".md");
    pages.extend(
        [
            "README.md",
            "ARCHITECTURE.md",
            "CHANGELOG.md",
            "tls/README.md",
        ]
        .map(|name| root().join(name)),
    );
    let mut count = 0;
    let mut dead = BTreeSet::new();
    for page in &pages {
        let text = fs::read_to_string(page).unwrap();
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            if link.contains("://") {
                continue;
            }
            count += 1;
            let file = link.split('#').next().unwrap();
            if !page.parent().unwrap().join(file).exists() {
                dead.insert(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(count > 10, "{count}");
    assert!(dead.is_empty(), "{dead:?}");
}
