//! `media-admin doctor`, and what it finds: nothing that is not fine without a remedy.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::programs::is_root;
use super::site::ADMIN;

/// What begins a remedy: a command, or what to set or write.
const REMEDIES: [&str; 29] = [
    " meant?",
    "allowed:",
    "AmbientCapabilities=",
    "LimitNOFILE=",
    "chgrp ",
    "chmod ",
    "chown ",
    "df -h",
    "groupadd ",
    "install -d",
    "ip -4 address",
    "ip addr",
    "iptables",
    "journalctl ",
    "media-admin ",
    "mediaproxy-make-certs ",
    "modparam(",
    "modprobe ",
    "nft ",
    "set [",
    "set socket_group",
    "ss -l",
    "stop that",
    "sudo media-admin ",
    "sysctl -w",
    "systemctl ",
    "timedatectl ",
    "useradd ",
    "usermod ",
];

/// What `doctor` finds, an object a line, and its exit status; on a host that has no user for the daemons.
pub fn doctor(directory: &Path) -> (Vec<Value>, Option<i32>) {
    run(&mut program_on_host(directory, ""), directory)
}

pub fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The program where the host has that user, and not the one that it may have in truth.
pub fn program_on_host(scratch: &Path, user: &str) -> Command {
    let mut command = on_host(scratch, user);
    command.arg(ADMIN);
    command
}

/// A command, which is to follow, on a host with this line for the user mediaproxy in its passwd(5), or none. Only root
/// can make one of those; where others test, no user's files but their own matter.
pub fn on_host(scratch: &Path, user: &str) -> Command {
    if !is_root() {
        return Command::new("env");
    }
    let numbers = user.split(':').nth(2).unwrap_or_default();
    let group = match numbers {
        "" => String::new(),
        number => format!("mediaproxy:x:{number}:\n"),
    };
    for (name, own) in [("passwd", user), ("group", &group)] {
        let all = fs::read_to_string(format!("/etc/{name}")).unwrap();
        // Who runs a SIP proxy is not let into a test's directory.
        let users = ["mediaproxy", "kamailio", "opensips", "openser"];
        let is_other = |line: &&str| !users.contains(&line.split(':').next().unwrap());
        let others = all.lines().filter(is_other);
        let lines: Vec<&str> = others.chain([own]).collect();
        fs::write(scratch.join(name), lines.join("\n")).unwrap();
        chmod(&scratch.join(name), 0o644);
    }
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "sh",
        "-ec",
        "for name in passwd group; do mount --bind \"$0/$name\" /etc/$name; done; exec \"$@\"",
    ]);
    command.arg(scratch);
    command
}

/// All that is not fine has a remedy, and what it says of systemd is true.
#[track_caller]
pub fn run(command: &mut Command, directory: &Path) -> (Vec<Value>, Option<i32>) {
    let output = command
        .args(["doctor", "--json", "--config-dir"])
        .arg(directory)
        .arg("--runtime-dir")
        .arg(directory.join("run"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let findings = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let findings: Vec<Value> = findings.collect();
    for finding in &findings {
        let text = finding["text"].as_str().unwrap();
        let is_fine = finding["verdict"] == "ok";
        let has_remedy = REMEDIES.iter().any(|remedy| text.contains(remedy));
        assert!(is_fine || has_remedy, "no remedy: {finding}");
        for command in text.split("systemctl ").skip(1) {
            let unit = command.split_whitespace().nth(1).unwrap();
            let unit = unit.trim_end_matches([',', ';', ':', ')']);
            let file = format!("{}/conf/systemd/{unit}.service", env!("CARGO_MANIFEST_DIR"));
            assert!(Path::new(&file).exists(), "no unit {unit}: {text}");
        }
    }
    (findings, output.status.code())
}

#[track_caller]
pub fn found(findings: &[Value], area: &str, subject: &str, verdict: &str) -> String {
    let fits = |finding: &&Value| {
        finding["area"] == area && finding["subject"] == subject && finding["verdict"] == verdict
    };
    match findings.iter().find(fits) {
        Some(finding) => finding["text"].as_str().unwrap().to_owned(),
        None => panic!("no {verdict} for {subject} of the {area}: {findings:#?}"),
    }
}
