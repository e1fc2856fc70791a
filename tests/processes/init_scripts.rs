//! The init scripts without a service manager's machine: the system's own programs are stand-ins.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use crate::support::daemons;
use crate::support::programs::write_program;

/// A relay's script whose system is in a directory: programs, files and log.
fn script_in(scratch: &Path, role: &str, pidofproc: &str) -> String {
    let path = format!("conf/init.d/mediaproxy-{role}");
    let script = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let functions = format!(
        "log_daemon_msg() {{ echo \"$1\"; }}; log_end_msg() {{ :; }}; pidofproc() {{ {pidofproc}; }}"
    );
    let lines = script.lines().map(|line| match line.split('=').next() {
        Some("PATH") => format!("PATH={}:/usr/bin:/bin", scratch.display()),
        Some("DAEMON") => format!("DAEMON={}/daemon", scratch.display()),
        Some("RUN") => format!("RUN={}", scratch.display()),
        Some("FOLLOWS") => format!("FOLLOWS={}/follows", scratch.display()),
        Some("LOG") => format!("LOG={}", scratch.join("log").display()),
        Some(". /lib/lsb/init-functions") => functions.clone(),
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_restart_hands_over_where_the_running_relay_knows_how_and_the_new_one_can_start() {
    let name = format!("mediaproxy-init-restart-{}", std::process::id());
    let scratch = std::env::temp_dir().join(name);
    fs::create_dir(&scratch).unwrap();
    let program = |name: &str, text: &str| write_program(&scratch.join(name), text);
    for name in ["id", "install"] {
        program(name, "#!/bin/sh\n");
    }
    // Ends what runs, and notes what it was asked for.
    let pid = scratch.join("pid");
    let asked = scratch.join("asked");
    let ended = format!(
        "#!/bin/sh\necho \"$*\" >>{}\ncase \"$*\" in *--stop*) kill -9 $(cat {}) ;; esac\n",
        asked.display(),
        pid.display()
    );
    program("start-stop-daemon", &ended);
    let pidofproc = format!("cat {}", pid.display());
    program("script", &script_in(&scratch, "relay", &pidofproc));
    // What the relay that runs has blocked, whether the new one can start, and what is done.
    let cases = [
        (
            "--block-signal=QUIT",
            0,
            "--signal QUIT",
            "running calls go on",
            0,
        ),
        (
            "--block-signal=TERM",
            0,
            "--retry TERM/20/KILL/5",
            "calls are cut",
            0,
        ),
        ("--block-signal=QUIT", 1, "", "running calls go on", 6),
    ];
    for (blocked, check, signal, said, status) in cases {
        let _ = fs::remove_file(&asked);
        program("daemon", &format!("#!/bin/sh\nexit {check}\n"));
        let run = format!("env {blocked} sleep 60 & echo $! >{}", pid.display());
        assert!(
            Command::new("sh")
                .args(["-c", &run])
                .status()
                .unwrap()
                .success()
        );
        let relay = fs::read_to_string(&pid).unwrap();
        let mask = || fs::read_to_string(format!("/proc/{}/comm", relay.trim()));
        while mask().unwrap().trim() != "sleep" {
            std::thread::yield_now();
        }
        let output = Command::new(scratch.join("script"))
            .arg("restart")
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(said), "{blocked}, check {check}: {text}");
        assert_eq!(
            output.status.code(),
            Some(status),
            "{blocked}, check {check}"
        );
        let asked = fs::read_to_string(&asked).unwrap_or_default();
        if signal.is_empty() {
            assert_eq!(asked, "", "what runs is left alone");
            assert!(mask().is_ok());
            daemons::signal(relay.trim().parse().unwrap(), "TERM").unwrap();
        } else {
            assert!(
                asked.contains(signal) && asked.contains("--start"),
                "{asked}"
            );
        }
    }
    fs::remove_dir_all(&scratch).unwrap();
}

#[test]
fn without_a_syslog_daemon_they_say_that_logs_go_nowhere() {
    let name = format!("mediaproxy-init-{}", std::process::id());
    let scratch = std::env::temp_dir().join(name);
    fs::create_dir(&scratch).unwrap();
    let program = |name: &str, text: &str| {
        write_program(&scratch.join(name), text);
    };
    for name in ["start-stop-daemon", "id", "install", "daemon"] {
        program(name, "#!/bin/sh\n");
    }
    let log = scratch.join("log");
    for role in ["relay", "dispatcher"] {
        program("script", &script_in(&scratch, role, "return 3"));
        let said = |action: &str| {
            let output = Command::new(scratch.join("script")).arg(action).output();
            let output = output.unwrap();
            assert!(output.status.success(), "{role} {action}: {output:?}");
            String::from_utf8(output.stderr).unwrap()
        };
        let lost = format!(
            "nothing listens on {}: the log of media-{role} goes nowhere; install a syslog daemon such as rsyslog\n",
            log.display()
        );
        for action in ["start", "restart"] {
            assert_eq!(said(action), lost);
        }
        assert_eq!(said("stop"), "");
        let syslog = UnixDatagram::bind(&log).unwrap();
        assert_eq!(said("start"), "");
        drop(syslog);
        fs::remove_file(&log).unwrap();
    }
    fs::remove_dir_all(&scratch).unwrap();
}
