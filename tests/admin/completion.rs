//! Completion on the command line: what bash offers is what `--help` of the programs lists; zsh reads its file.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::programs::write_program;
use crate::support::skip;

const PROGRAMS: [&str; 3] = ["media-admin", "media-relay", "media-dispatcher"];

fn binaries() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_media-admin"));
    program.parent().unwrap().to_owned()
}

fn file(shell: &str, name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("conf/completion").join(shell).join(name)
}

/// What bash offers for the last of these words, with the programs of that directory.
fn offered_from(programs: &Path, words: &[&str]) -> BTreeSet<String> {
    let script = "PATH=$1:/usr/bin:/bin; . \"$2\"; shift 2
        COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1))
        function=$(complete -p \"$1\"); function=${function#*-F }; ${function%% *}
        printf '%s\\n' \"${COMPREPLY[@]}\"";
    let output = Command::new("bash")
        .args(["--norc", "-c", script, "bash"])
        .arg(programs)
        .arg(file("bash", words[0]))
        .args(words)
        .output()
        .unwrap();
    assert!(output.stderr.is_empty(), "{words:?}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let offered = text.lines().filter(|line| !line.is_empty());
    offered.map(str::to_owned).collect()
}

fn offered(words: &[&str]) -> BTreeSet<String> {
    offered_from(&binaries(), words)
}

fn help(program: &str, command: &[&str]) -> String {
    let mut help = Command::new(binaries().join(program));
    let output = help.args(command).arg("--help").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn options(help: &str) -> BTreeSet<String> {
    let words = help.split(|c: char| !(c.is_ascii_lowercase() || c == '-'));
    let options = words.filter(|word| word.starts_with("--") && word.len() > 2);
    options.map(str::to_owned).collect()
}

fn commands() -> Vec<String> {
    let help = help("media-admin", &[]);
    let list = help.split("\nCommands").nth(1).unwrap();
    let list = list.split("\n\n").next().unwrap();
    let names = list.lines().filter_map(|line| line.strip_prefix("  "));
    names
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect()
}

#[test]
fn commands_and_options_are_those_of_the_help() {
    let commands = commands();
    assert!(commands.len() >= 9 && commands.contains(&"sessions".to_owned()));
    let all: BTreeSet<String> = commands.iter().cloned().collect();
    assert_eq!(offered(&["media-admin", ""]), all);
    assert_eq!(offered(&["media-admin", "--tls", ""]), all);
    assert_eq!(
        offered(&["media-admin", "dra"]),
        ["drain".to_owned()].into()
    );
    assert_eq!(
        offered(&["media-admin", "--"]),
        options(&help("media-admin", &[]))
    );
    for command in &commands {
        let listed = options(&help("media-admin", &[command]));
        assert_eq!(
            offered(&["media-admin", command, "--"]),
            listed,
            "{command}"
        );
    }
    for daemon in &PROGRAMS[1..] {
        let help = help(daemon, &[]);
        // Not those that are only spoken of.
        let lines = help.lines().filter(|line| line.starts_with("  --"));
        let listed = options(&lines.collect::<Vec<_>>().join("\n"));
        assert!(listed.contains("--check-config"));
        assert_eq!(offered(&[daemon, "--"]), listed);
        for with_path in help.lines().filter(|line| line.contains(" PATH ")) {
            let option = with_path.split_whitespace().next().unwrap();
            assert!(
                offered(&[daemon, option, "/et"]).contains("/etc"),
                "{option}"
            );
        }
    }
}

#[test]
fn values_of_options() {
    let keys = offered(&["media-admin", "sessions", "--sort", ""]);
    assert!(
        keys.contains("start") && keys.contains("quality") && keys.len() >= 8,
        "{keys:?}"
    );
    assert_eq!(offered(&["media-admin", "top", "--sort", ""]), keys);
    for option in ["--socket", "--certs", "--ca"] {
        assert!(
            offered(&["media-admin", option, "/et"]).contains("/etc"),
            "{option}"
        );
    }
    assert_eq!(offered(&["media-admin", "--timeout", ""]), [].into());
}

#[test]
fn relays_are_those_of_the_dispatcher() {
    let name = format!("mediaproxy-completion-{}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    fs::create_dir(&directory).unwrap();
    let real = binaries().join("media-admin");
    let stand_in = format!(
        "#!/bin/sh\ncase \"$*\" in\n*--help) exec {} \"$@\" ;;\n'--timeout 1 summary --json')\n\
         echo '{{\"ip\": \"192.0.2.1\", \"version\": \"1\"}}'; echo '{{\"ip\":\"192.0.2.9\"}}' ;;\n*) exit 3 ;;\nesac\n",
        real.display()
    );
    write_program(&directory.join("media-admin"), &stand_in);
    for words in [
        ["media-admin", "drain", ""],
        ["media-admin", "resume", "192"],
        ["media-admin", "--relay", ""],
    ] {
        let relays = offered_from(&directory, &words);
        assert_eq!(relays, ["192.0.2.1", "192.0.2.9"].map(str::to_owned).into());
    }
    fs::remove_dir_all(&directory).unwrap();
    // Nobody to ask.
    assert_eq!(
        offered(&["media-admin", "--socket", "/none", "drain", ""]),
        [].into()
    );
}

#[test]
fn zsh_reads_its_files() {
    for program in PROGRAMS {
        let path = file("zsh", &format!("_{program}"));
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(&format!("#compdef {program}\n")));
        match Command::new("zsh").arg("-n").arg(&path).output() {
            Ok(output) => assert!(
                output.status.success() && output.stderr.is_empty(),
                "{output:?}"
            ),
            Err(_) => return skip::skip("zsh is not installed"),
        }
    }
}
