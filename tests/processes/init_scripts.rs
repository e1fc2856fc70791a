//! The init scripts without a service manager's machine: the system's own programs are stand-ins.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use crate::support::programs::write_program;

#[test]
fn without_a_syslog_daemon_they_say_that_logs_go_nowhere() {
    let name = format!("mediaproxy-init-{}", std::process::id());
    let scratch = std::env::temp_dir().join(name);
    fs::create_dir(&scratch).unwrap();
    let program = |name: &str, text: &str| {
        write_program(&scratch.join(name), text);
    };
    for name in ["start-stop-daemon", "id", "install"] {
        program(name, "#!/bin/sh\n");
    }
    let log = scratch.join("log");
    let functions =
        "log_daemon_msg() { echo \"$1\"; }; log_end_msg() { :; }; pidofproc() { return 3; }";
    for role in ["relay", "dispatcher"] {
        let path = format!("conf/init.d/mediaproxy-{role}");
        let script = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
        let lines = script.lines().map(|line| match line.split('=').next() {
            Some("PATH") => format!("PATH={}:/usr/bin:/bin", scratch.display()),
            Some("DAEMON") => "DAEMON=/bin/true".to_owned(),
            Some("RUN") => format!("RUN={}", scratch.display()),
            Some("LOG") => format!("LOG={}", log.display()),
            Some(". /lib/lsb/init-functions") => functions.to_owned(),
            _ => line.to_owned(),
        });
        program("script", &lines.collect::<Vec<_>>().join("\n"));
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
