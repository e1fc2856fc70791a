//! The manual pages against the code, both ways: options of the daemons, keys of `config.ini`, commands of the
//! management port, exit statuses. And as manual pages: `mandoc -Tlint` has nothing to say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mediaproxy::config::KEYS;

use crate::support::skip;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn pages() -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("man")).unwrap();
    let mut pages: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    pages.sort();
    pages
}

/// The lines of one `.Sh` or `.Ss` of a page, subsections of a section included.
fn section<'p>(page: &'p str, heading: &str) -> Vec<&'p str> {
    let (macro_name, _) = heading.split_once(' ').unwrap();
    let ends = |line: &&str| match macro_name {
        ".Sh" => !line.starts_with(".Sh "),
        _ => !line.starts_with(".Sh ") && !line.starts_with(".Ss "),
    };
    let mut lines = page.lines().skip_while(|line| *line != heading);
    assert!(lines.next().is_some(), "no {heading}");
    lines.take_while(ends).collect()
}

/// The options that a page explains: the words of its `.It Fl` lines, as they are typed.
fn explained_options(page: &str) -> BTreeSet<String> {
    let items = page.lines().filter_map(|line| line.strip_prefix(".It Fl "));
    items
        .flat_map(|item| {
            let end = [" Ar ", " Cm "]
                .iter()
                .filter_map(|word| item.find(word))
                .min();
            let names = &item[..end.unwrap_or(item.len())];
            names.split(" , ").map(|name| format!("-{}", name.trim()))
        })
        .collect()
}

/// The options in the synopsis.
fn synopsis_options(page: &str) -> BTreeSet<String> {
    let mut options = BTreeSet::new();
    for line in section(page, ".Sh SYNOPSIS") {
        let mut words = line.split_whitespace().peekable();
        while let Some(word) = words.next() {
            if word == "Fl" || word == ".Fl" || word == "|" {
                options.extend(words.peek().map(|name| format!("-{name}")));
            }
        }
    }
    options
}

fn output(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", program.display());
    String::from_utf8(output.stdout).unwrap()
}

/// The long options that a text of `--help` names.
fn long_options(help: &str) -> BTreeSet<String> {
    let words = help.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    words
        .filter(|word| word.len() > 2 && word.starts_with("--"))
        .map(str::to_owned)
        .collect()
}

/// What the source of a command line takes, as it is typed, whether `--help` lists it or not.
fn taken_options(source: &str) -> BTreeSet<String> {
    let code = source
        .split("#[cfg(test)]\nmod tests")
        .next()
        .unwrap_or_default();
    let quoted = |before: &str, end: char, dashes: &str| {
        let pieces = code.split(before).skip(1);
        let names = pieces.filter_map(|piece| piece.split(end).next());
        names
            .map(|name| format!("{dashes}{name}"))
            .collect::<Vec<_>>()
    };
    let mut options = quoted("Arg::Long(\"", '"', "--");
    options.extend(quoted("Arg::Short('", '\'', "-"));
    options.into_iter().collect()
}

fn daemons() -> [(&'static str, &'static Path); 2] {
    [
        ("media-relay", Path::new(env!("CARGO_BIN_EXE_media-relay"))),
        (
            "media-dispatcher",
            Path::new(env!("CARGO_BIN_EXE_media-dispatcher")),
        ),
    ]
}

#[test]
fn every_option_of_the_daemons_and_no_other() {
    let taken = taken_options(&read("src/cli.rs"));
    let mut listed_by_any = BTreeSet::new();
    for (name, program) in daemons() {
        listed_by_any.extend(long_options(&output(program, &["--help"])));
        assert!(listed_by_any.len() > 5, "{name} lists its options");
    }
    // What is taken and listed by neither: short forms, and what MediaProxy had.
    let silent: BTreeSet<String> = taken.difference(&listed_by_any).cloned().collect();
    for (name, program) in daemons() {
        let mut wanted = long_options(&output(program, &["--help"]));
        wanted.extend(silent.iter().cloned());
        let page = read(format!("man/{name}.8"));
        assert_eq!(explained_options(&page), wanted, "{name}(8)");
        let synopsis = synopsis_options(&page);
        let unknown: Vec<_> = synopsis.difference(&wanted).collect();
        assert!(unknown.is_empty(), "{name}(8), SYNOPSIS: {unknown:?}");
        let missing: Vec<_> = wanted
            .difference(&synopsis)
            .filter(|option| *option != "--debug-memory")
            .collect();
        assert!(missing.is_empty(), "{name}(8), SYNOPSIS lacks {missing:?}");
    }
}

#[test]
fn every_exit_status() {
    let admin = ("media-admin", Path::new(env!("CARGO_BIN_EXE_media-admin")));
    for (name, program) in daemons().into_iter().chain([admin]) {
        let help = output(program, &["--help"]);
        let (_, statuses) = help.split_once("Exit status:").unwrap();
        let statuses = statuses.split(".\n").next().unwrap_or_default();
        let numbers = statuses.split(|c: char| !c.is_ascii_digit());
        let wanted: BTreeSet<&str> = numbers.filter(|number| !number.is_empty()).collect();
        let page = read(format!("man/{name}.8"));
        let lines = section(&page, ".Sh EXIT STATUS");
        let explained: BTreeSet<&str> = lines
            .iter()
            .filter_map(|line| line.strip_prefix(".It "))
            .collect();
        assert_eq!(explained, wanted, "{name}(8)");
    }
}

/// Section and key to what stands in parentheses behind the key: its default and unit.
fn explained_keys(page: &str) -> BTreeMap<(String, String), String> {
    let mut keys = BTreeMap::new();
    let mut section = None;
    for line in page.lines() {
        if line.starts_with(".Sh ") {
            section = None;
        } else if let Some(heading) = line.strip_prefix(".Ss ") {
            let name = heading
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix("]\\&"));
            section = name.map(str::to_owned);
        } else if let (Some(section), Some(item)) = (&section, line.strip_prefix(".It Cm ")) {
            let Some((name, default)) = item.split_once(" Pq ") else {
                continue;
            };
            let place = (section.clone(), name.to_owned());
            let before = keys.insert(place, default.to_owned());
            assert_eq!(before, None, "[{section}] {name} stands there twice");
        }
    }
    keys
}

#[test]
fn every_key_with_its_default_and_unit_and_no_other() {
    let wanted: BTreeMap<_, _> = KEYS
        .iter()
        .map(|key| {
            let default = match (key.default, key.unit) {
                ("", _) => "none".to_owned(),
                (default, "") => default.to_owned(),
                (default, unit) => format!("{default} {unit}"),
            };
            ((key.section.to_owned(), key.name.to_owned()), default)
        })
        .collect();
    let explained = explained_keys(&read("man/mediaproxy.ini.5"));
    for (place, default) in &wanted {
        assert_eq!(explained.get(place), Some(default), "{place:?}");
    }
    let unknown: Vec<_> = explained
        .keys()
        .filter(|place| !wanted.contains_key(*place))
        .collect();
    assert!(unknown.is_empty(), "keys that are none: {unknown:?}");
}

/// Every key is more than a name: a sentence follows it.
#[test]
fn every_key_is_explained() {
    let page = read("man/mediaproxy.ini.5");
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with(".It Cm ") && line.contains(" Pq ") {
            let next = lines.peek().copied().unwrap_or_default();
            assert!(!next.is_empty() && !next.starts_with(".It"), "{line}");
        }
    }
}

/// The commands that a part of a page explains: the words of its `.It Ic` lines.
fn explained_commands(lines: &[&str]) -> BTreeSet<String> {
    let items = lines.iter().filter_map(|line| line.strip_prefix(".It Ic "));
    items
        .flat_map(|item| {
            let ends = [" Ar ", " Op ", " Oo "];
            let end = ends.iter().filter_map(|word| item.find(word)).min();
            item[..end.unwrap_or(item.len())].split(" , ")
        })
        .map(|word| word.trim().to_owned())
        .collect()
}

/// The words that the management port's source takes as commands: the patterns of its first `match`.
fn management_commands() -> BTreeSet<String> {
    let source = read("src/dispatcher/management/command.rs");
    let (_, body) = source.split_once("match (word, rest) {\n").unwrap();
    let (arms, _) = body.split_once("_ => return Err(Bad::Unknown(").unwrap();
    let patterns = arms.lines().filter_map(|line| {
        let (pattern, _) = line.trim().strip_prefix('(')?.split_once(',')?;
        Some(pattern)
    });
    patterns
        .flat_map(|pattern| pattern.split(" | "))
        .map(|word| word.trim_matches('"').to_owned())
        .collect()
}

#[test]
fn every_management_command_and_no_other() {
    let commands = management_commands();
    assert!(commands.contains("sessions"), "{commands:?}");
    let page = read("man/media-dispatcher.8");
    let explained = explained_commands(&section(&page, ".Sh MANAGEMENT"));
    assert_eq!(explained, commands);
}

/// The commands of media-admin, by its source.
fn admin_commands() -> BTreeSet<String> {
    let source = read("src/admin/options/help.rs");
    let names = source.split("name: \"").skip(1);
    names
        .filter_map(|rest| rest.split_once('"'))
        .map(|(name, _)| name.to_owned())
        .collect()
}

#[test]
fn every_command_and_option_of_media_admin_and_no_other() {
    let admin = Path::new(env!("CARGO_BIN_EXE_media-admin"));
    let commands = admin_commands();
    assert!(commands.contains("summary"), "{commands:?}");
    let page = read("man/media-admin.8");
    let description = section(&page, ".Sh DESCRIPTION");
    let explained = explained_commands(&description);
    assert_eq!(explained, commands);
    let mut wanted = long_options(&output(admin, &["--help"]));
    for command in &commands {
        let help = output(admin, &[command, "--help"]);
        let own = long_options(&help);
        wanted.extend(own);
    }
    wanted.extend(["-h", "-V", "--version", "--help"].map(str::to_owned));
    assert_eq!(explained_options(&page), wanted);
}

/// The script that makes certificates, by its own `--help`.
#[test]
fn every_command_and_option_of_make_certs_and_no_other() {
    let script = root().join("tls/make-certs.sh");
    let help = output(&script, &["--help"]);
    let page = read("man/mediaproxy-make-certs.8");
    let mut wanted = long_options(&help);
    wanted.insert("--help".to_owned());
    assert_eq!(explained_options(&page), wanted);
    let (_, rest) = help.split_once("Commands\n").unwrap();
    let (commands, _) = rest.split_once("\n\n").unwrap();
    let lines = commands.lines().filter(|line| !line.starts_with("    "));
    let wanted: BTreeSet<&str> = lines
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let items = page.lines().filter_map(|line| line.strip_prefix(".It Cm "));
    let explained: BTreeSet<&str> = items.filter_map(|item| item.split(' ').next()).collect();
    assert_eq!(explained, wanted);
}

/// Every page has what somebody looks for, and every program a page.
#[test]
fn every_program_has_a_page_with_what_one_looks_for() {
    let programs = fs::read_dir(root().join("src/bin")).unwrap();
    for program in programs {
        let path = program.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let page = read(format!("man/{name}.8"));
        for heading in [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "FILES",
            "EXIT STATUS",
            "EXAMPLES",
            "DIAGNOSTICS",
            "SEE ALSO",
        ] {
            assert!(
                page.contains(&format!("\n.Sh {heading}\n")),
                "{name}(8): {heading}"
            );
        }
    }
}

#[test]
fn every_reference_to_another_page_of_ours_leads_there() {
    let pages = pages();
    let name = |page: &PathBuf| page.file_name().unwrap().to_str().unwrap().to_owned();
    let ours: BTreeSet<String> = pages.iter().map(name).collect();
    for page in &pages {
        for line in fs::read_to_string(page).unwrap().lines() {
            let Some(reference) = line.strip_prefix(".Xr media") else {
                continue;
            };
            let words: Vec<&str> = reference.split_whitespace().collect();
            let file = format!("media{}.{}", words[0], words[1]);
            assert!(ours.contains(&file), "{}: {line}", page.display());
        }
    }
}

/// As lintian asks: a page that groff warns about is a warning of the package.
#[test]
fn groff_has_nothing_to_say() {
    let version = Command::new("man").arg("--version").output();
    let is_man_db = |output: std::process::Output| output.stdout.starts_with(b"man ");
    if !version.is_ok_and(is_man_db) {
        skip::skip("man-db is not installed");
        return;
    }
    for page in pages() {
        let mut man = Command::new("man");
        man.args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"]);
        man.arg(&page)
            .env("LC_ALL", "C.UTF-8")
            .env("MANROFFSEQ", "");
        let shown = man.output().unwrap();
        let said = String::from_utf8_lossy(&shown.stderr).into_owned();
        assert_eq!(said, "", "{}", page.display());
        assert!(shown.stdout.len() > 1000, "{}", page.display());
    }
}

#[test]
fn mandoc_has_nothing_to_say() {
    let pages = pages();
    // Pages of one set find each other where they are.
    let names = pages.iter().filter_map(|page| page.file_name());
    let mut mandoc = Command::new("mandoc");
    mandoc
        .arg("-Tlint")
        .args(names)
        .current_dir(root().join("man"));
    let Ok(lint) = mandoc.output() else {
        skip::skip("mandoc is not installed");
        return;
    };
    let said = String::from_utf8_lossy(&lint.stdout).into_owned();
    let ours: Vec<String> = pages
        .iter()
        .map(|page| format!("Xr {} ", page.file_stem().unwrap().to_str().unwrap()))
        .collect();
    // Pages of other packages need not be installed where this runs.
    let of_others = |line: &&str| {
        line.contains("referenced manual not found") && !ours.iter().any(|name| line.contains(name))
    };
    let said: Vec<&str> = said.lines().filter(|line| !of_others(line)).collect();
    assert!(said.is_empty(), "{}", said.join("\n"));
}
