//! Discovery through the C library's resolver and a name server made by this test, in network and mount
//! namespaces of its own: needs root.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use mediaproxy::config::{DispatcherEntry, Host};
use mediaproxy::resolver::{Directory, SystemResolver};

use crate::support::inner::{assert_has_passed, this_program};
use crate::support::programs::is_root;
use crate::support::skip;

const NAME: &str = "names_are_found_through_real_name_servers";

/// The same test again inside new namespaces, where 127.0.0.1 is the only name server.
fn in_namespaces() {
    let mut file = std::env::temp_dir();
    file.push(format!("mediaproxy-resolv-{}", std::process::id()));
    let text = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n";
    std::fs::write(&file, text).unwrap();
    let script = "ip link set lo up && mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    let (program, arguments) = this_program(module_path!(), NAME);
    let output = Command::new("unshare")
        .args(["--mount", "--net", "sh", "-c", script])
        .arg(&file)
        .arg(program)
        .args(arguments)
        .env("RELAY_TEST_INNER", "1")
        .output()
        .unwrap();
    let _ = std::fs::remove_file(&file);
    assert_has_passed(&output);
}

/// A name as it stands in a packet.
fn labels(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// A record of one minute, its name being that of the question.
fn record(kind: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60];
    bytes.extend_from_slice(&(data.len() as u16).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

fn srv(target: &str) -> Vec<u8> {
    let mut data = vec![0, 1, 0, 1, 0x13, 0xc4];
    data.extend_from_slice(&labels(target));
    record(33, &data)
}

/// Answers from a table of (name, type); `broken` makes it fail at everything.
fn serve(socket: &UdpSocket, broken: &AtomicBool) {
    let mut table: BTreeMap<(Vec<u8>, u8), Vec<u8>> = BTreeMap::new();
    let mut add = |name: &str, kind, record| table.insert((labels(name), kind), record);
    add("_sip._udp.domain.test", 33, srv("one.domain.test"));
    add("one.domain.test", 1, record(1, &[192, 0, 2, 1]));
    add("domain.test", 1, record(1, &[192, 0, 2, 80]));
    add("host.test", 1, record(1, &[192, 0, 2, 2]));
    let mut buffer = [0; 512];
    while let Ok((count, from)) = socket.recv_from(&mut buffer) {
        let question = &buffer[12..count];
        let name_length = question.iter().position(|byte| *byte == 0).unwrap() + 1;
        let name = question[..name_length].to_vec();
        let kind = question[name_length + 1];
        let is_known = table.keys().any(|(known, _)| *known == name);
        let found = table.get(&(name, kind));
        let code = match (broken.load(Ordering::Relaxed), is_known) {
            (true, _) => 2,
            (false, true) => 0,
            (false, false) => 3,
        };
        let found = found.filter(|_| code == 0);
        let mut answer = buffer[..2].to_vec();
        answer.extend_from_slice(&[0x81, 0x80 | code, 0, 1, 0, u8::from(found.is_some())]);
        answer.extend_from_slice(&[0, 0, 0, 0]);
        answer.extend_from_slice(&question[..name_length + 4]);
        answer.extend_from_slice(found.map_or(&[][..], Vec::as_slice));
        socket.send_to(&answer, from).unwrap();
    }
}

#[test]
fn names_are_found_through_real_name_servers() {
    if std::env::var_os("RELAY_TEST_INNER").is_none() {
        if is_root() {
            return in_namespaces();
        }
        skip::skip("needs root");
        return;
    }
    let server = UdpSocket::bind("127.0.0.1:53").unwrap();
    let broken = Arc::new(AtomicBool::new(false));
    let serving = Arc::clone(&broken);
    thread::spawn(move || serve(&server, &serving));

    let target = |name: &str| DispatcherEntry {
        host: Host::Name(name.to_owned()),
        port: 25060,
    };
    let names = ["domain.test", "host.test", "nobody.test"];
    let mut directory = Directory::new(&names.map(target));
    directory.refresh(&mut SystemResolver);
    let found = |directory: &Directory| -> Vec<String> {
        let all = directory.dispatchers();
        all.iter().map(|(a, name)| format!("{name} {a}")).collect()
    };
    let expected = ["domain.test 192.0.2.1:25060", "host.test 192.0.2.2:25060"];
    assert_eq!(found(&directory), expected);
    broken.store(true, Ordering::Relaxed);
    directory.refresh(&mut SystemResolver);
    assert_eq!(found(&directory), expected);
    let mut directory = Directory::new(&names.map(target));
    directory.refresh(&mut SystemResolver);
    assert!(found(&directory).is_empty());
}
