//! `make test` itself: a stand-in for cargo says what cargo says, and the end names all that failed and was skipped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::programs::{copy_program, write_program};

/// A tree with the runner in it, gone when dropped.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str) -> Tree {
        let name = format!("mediaproxy-runner-{}-{name}", std::process::id());
        let tree = Tree(std::env::temp_dir().join(name));
        fs::create_dir_all(tree.0.join("tests")).unwrap();
        copy_program(&root().join("tests/run.sh"), &tree.0.join("tests/run.sh"));
        tree.program("tests/deps.sh", "#!/bin/sh\n");
        tree.lab("0 passed, 0 failed, 0 skipped\n", 0);
        tree
    }

    /// What the lab of namespaces says, where root asks for it.
    fn lab(&self, said: &str, status: u8) {
        fs::write(self.0.join("lab"), said).unwrap();
        self.program("python3", &format!("#!/bin/sh\ncat lab\nexit {status}\n"));
    }

    fn program(&self, name: &str, text: &str) {
        write_program(&self.0.join(name), text);
    }

    /// What the runner says at its end, and whether it is content, where `cargo test` says this.
    fn run(&self, said: &str, status: u8) -> (String, bool) {
        fs::write(self.0.join("said"), said).unwrap();
        self.program(
            "cargo",
            &format!(
                "#!/bin/sh\n[ \"$1\" = test ] || exit 0\ncase \" $* \" in *' --no-fail-fast '*) ;; *) exit 99 ;; esac\n\
                 cat said\nexit {status}\n"
            ),
        );
        let output = Command::new(self.0.join("tests/run.sh"))
            .env("CARGO", self.0.join("cargo"))
            .env("PATH", format!("{}:/usr/bin:/bin", self.0.display()))
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let end = said.rsplit("\n\n").next().unwrap_or_default();
        (end.to_owned(), output.status.success())
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn without_the_lab(end: &str) -> String {
    let lines = end.lines().filter(|line| !line.contains("tests/netns ("));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_end_names_what_failed_and_what_was_skipped() {
    let tree = Tree::new("failed");
    tree.lab(
        "ok   basic/engage (1.0 s)\nFAIL hold/engage (2.0 s): no media\n     a trace\n\
         SKIP ipv6/engage (0.1 s): none here\n1 passed, 1 failed, 1 skipped\n",
        1,
    );
    let (end, content) = tree.run(
        "\nrunning 3 tests\n..SKIP: sys::a: needs root\n.\ntest result: ok. 3 passed; 0 failed; 0 ignored\n\
         \nrunning 4 tests\n.FiFSKIP: b: tmux is not installed\n.\nfailures:\n\n---- tls::c stdout ----\n    not_a_name\n\
         assertion failed\n\nfailures:\n    tls::c\n    tls::d\n\ntest result: FAILED. 2 passed; 2 failed; 0 ignored\n\
         error: test failed, to rerun pass `--lib`\n\
         error: test failed, to rerun pass `--test daemonize`\n\nCaused by:\n  process didn't exit successfully (signal: 11)\n\
         error: 2 targets failed:\n    `--lib`\n    `--test daemonize`\n",
        101,
    );
    assert!(!content);
    let is_root = end.contains("hold/engage");
    for line in [
        "  sys::a: needs root",
        "  b: tmux is not installed",
        "  cargo test --lib tls::c",
        "  cargo test --lib tls::d",
        "  cargo test --test daemonize",
    ] {
        assert!(end.lines().any(|said| said == line), "{line}: {end}");
    }
    assert!(
        !end.contains("not_a_name") && !end.contains("targets failed"),
        "{end}"
    );
    let sum = if is_root {
        "6 passed, 3 failed, 3 skipped"
    } else {
        "5 passed, 2 failed, 3 skipped"
    };
    assert_eq!(end.lines().last(), Some(sum), "{end}");
}

#[test]
fn where_nothing_failed_only_the_sum_is_left() {
    let tree = Tree::new("fine");
    let (end, content) = tree.run("test result: ok. 3 passed; 0 failed; 0 ignored\n", 0);
    assert!(content, "{end}");
    assert!(!end.contains("FAILED"), "{end}");
    let sum = without_the_lab(&end);
    assert!(
        sum.lines()
            .last()
            .unwrap()
            .starts_with("3 passed, 0 failed, "),
        "{end}"
    );
}

#[test]
fn a_program_that_fails_without_a_word_counts() {
    let tree = Tree::new("silent");
    let (end, content) = tree.run("", 99);
    assert!(!content);
    assert!(
        end.contains("\n  tests on one host\n") && end.contains("0 passed, 1 failed"),
        "{end}"
    );
}

/// Small systems have no program `kill`, and the harness keeps what a test that passes prints.
#[test]
fn tests_need_no_kill_program_and_say_all_in_one_way_that_they_are_skipped() {
    let (program, word) = (
        ["Command::new(\"", "kill\")"].concat(),
        ["\"SK", "IP"].concat(),
    );
    let mut folders = vec![root().join("src"), root().join("tests")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let is_skip = path.ends_with("support/skip.rs");
                assert!(!text.contains(&program), "{}", path.display());
                assert!(is_skip || !text.contains(&word), "{}", path.display());
                files += 1;
            }
        }
    }
    assert!(files > 100);
}
