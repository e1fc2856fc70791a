//! Network namespaces for tests of what only root may do.

use std::process::Command;

use crate::support::skip::{missing, skip_test};
use crate::sys::netlink::enter_namespace;

/// Runs a test on a thread in a network namespace of its own; without root says that it was skipped.
pub(crate) fn in_namespace(what: &str, test: impl FnOnce() + Send) {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    if let Some(program) = missing(&["ip", "nft", "iptables", "conntrack"]) {
        return skip_test(&name, &format!("{program} is not installed"));
    }
    let run = || match enter_namespace() {
        Ok(()) => test(),
        Err(_) => {
            skip_test(&name, &format!("{what}: needs root"));
        }
    };
    std::thread::scope(|scope| scope.spawn(run).join().unwrap());
}

/// Runs commands in the thread's namespace; each must succeed. What they wrote.
pub(crate) fn shell(commands: &str) -> String {
    let output = Command::new("sh").args(["-ec", commands]).output().unwrap();
    assert!(
        output.status.success(),
        "{commands}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
