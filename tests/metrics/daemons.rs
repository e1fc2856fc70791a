//! The metrics of both daemons at work: what they say is what was done, hostile clients harm nothing, and what is
//! exported, documented and used in the dashboard and the alerts is the same.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::thread;

use crate::support::daemons;
use crate::support::management;
use crate::support::ports::PortRange;
use crate::support::scrape::{
    Scrape, exchange, get, names_in, parse, read_until, scrape, scrape_after, scrape_until,
};
use crate::support::scratch::Scratch;
use crate::support::watched::{Call, ON_WIRE, Watched};

fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Packets and bytes on a path, relayed and dropped.
fn relayed(scrape: &Scrape) -> (u64, u64) {
    let value = |what: &str| {
        scrape.value(&format!(
            "mediaproxy_relay_relayed_{what}_total{{path=\"user_space\"}}"
        )) as u64
    };
    (value("packets"), value("bytes"))
}

fn requests(scrape: &Scrape, request: &str, result: &str) -> f64 {
    let labels = format!("{{request=\"{request}\",result=\"{result}\"}}");
    scrape.value(&format!("mediaproxy_dispatcher_requests_total{labels}"))
}

#[test]
fn the_numbers_are_what_was_done() {
    let mut watched = Watched::start("metrics", "setup_timeout = 2");
    let (first_dispatcher, first_relay) = (scrape(watched.dispatcher), scrape(watched.relay));
    assert_eq!(
        first_dispatcher.sum("mediaproxy_dispatcher_requests_total"),
        0.0
    );
    assert_eq!(first_relay.value("mediaproxy_relay_sessions"), 0.0);
    assert_eq!(relayed(&first_relay), (0, 0));

    let mut proxy = watched.proxy();
    let call = Call::place(&mut proxy, "a");
    call.talk(50);
    call.disturb(7);
    let relay = scrape_until(watched.relay, "seven packets dropped", |scrape| {
        scrape.sum("mediaproxy_relay_dropped_packets_total") == 7.0
    });
    assert_eq!(
        relay.value("mediaproxy_relay_dropped_packets_total{reason=\"other_port\"}"),
        7.0
    );
    assert_eq!(relayed(&relay), (100, 100 * ON_WIRE));
    assert_eq!(
        relay.value("mediaproxy_relay_relayed_packets_total{path=\"kernel\"}"),
        0.0
    );
    assert_eq!(relay.value("mediaproxy_relay_sessions"), 1.0);
    assert_eq!(
        relay.value("mediaproxy_relay_streams{media_type=\"audio\"}"),
        1.0
    );
    assert_eq!(
        relay.value("mediaproxy_relay_port_pairs{state=\"used\"}"),
        2.0
    );
    assert_eq!(relay.sum("mediaproxy_relay_port_pairs"), 100.0);
    assert_eq!(relay.value("mediaproxy_relay_port_pairs_available"), 98.0);
    assert_eq!(
        relay.value("mediaproxy_relay_requests_total{command=\"update\",result=\"ok\"}"),
        2.0
    );
    assert_eq!(
        relay.value("mediaproxy_relay_update_duration_seconds_count"),
        2.0
    );
    assert_eq!(relay.sum("mediaproxy_relay_link_up"), 1.0);
    assert_eq!(
        relay.value("mediaproxy_relay_kernel_forwarding_wanted"),
        0.0
    );
    assert!(
        relay.sum("mediaproxy_relay_worker_cpu_seconds_total") > 0.0,
        "{}",
        relay.text
    );

    let dispatcher = scrape_after(watched.dispatcher, &first_dispatcher);
    assert_eq!(dispatcher.sum("mediaproxy_dispatcher_sessions"), 1.0);
    assert_eq!(requests(&dispatcher, "new_call", "ok"), 1.0);
    assert_eq!(requests(&dispatcher, "update", "ok"), 1.0);
    let new_call = "{request=\"new_call\"}";
    let durations = "mediaproxy_dispatcher_request_duration_seconds";
    assert_eq!(
        dispatcher.value(&format!("{durations}_count{new_call}")),
        1.0
    );
    let took = dispatcher.value(&format!("{durations}_sum{new_call}"));
    assert!(took > 0.0 && took < 5.0, "{took}");
    assert_eq!(
        dispatcher.value("mediaproxy_dispatcher_proxy_connections"),
        1.0
    );
    assert_eq!(dispatcher.sum("mediaproxy_dispatcher_relay_up"), 1.0);

    assert_eq!(
        proxy
            .ask("remove\r\ncall_id: no\r\nfrom_tag: x\r\n\r\n")
            .unwrap(),
        "error"
    );
    assert_eq!(proxy.ask("dance\r\ncall_id: no\r\n\r\n").unwrap(), "error");
    assert_eq!(proxy.ask("update\r\nno colon\r\n\r\n").unwrap(), "error");
    call.hang_up(&mut proxy);
    // Nobody answers this one.
    let ringing = Call::offer(&mut proxy, "b");
    let dispatcher = scrape_until(watched.dispatcher, "the end of the second call", |scrape| {
        scrape.sum("mediaproxy_dispatcher_sessions_ended_total") == 2.0
    });
    assert_eq!(requests(&dispatcher, "remove", "error"), 1.0);
    assert_eq!(requests(&dispatcher, "remove", "ok"), 1.0);
    assert_eq!(requests(&dispatcher, "invalid", "error"), 2.0);
    let ended = |reason: &str| {
        dispatcher.value(&format!(
            "mediaproxy_dispatcher_sessions_ended_total{{reason=\"{reason}\"}}"
        ))
    };
    assert_eq!((ended("removed"), ended("expired")), (1.0, 1.0));
    assert_eq!(
        dispatcher.value("mediaproxy_dispatcher_sessions_timed_out_total"),
        1.0
    );
    let relay = scrape_until(watched.relay, "nothing left", |scrape| {
        scrape.value("mediaproxy_relay_sessions") == 0.0
            && scrape.value("mediaproxy_relay_spool_records") == 0.0
    });
    assert_eq!(relay.value("mediaproxy_relay_sessions_started_total"), 2.0);
    for how in ["removed", "expired"] {
        assert_eq!(
            relay.value(&format!(
                "mediaproxy_relay_sessions_ended_total{{how=\"{how}\"}}"
            )),
            1.0
        );
    }
    assert_eq!(
        relay.value("mediaproxy_relay_port_pairs{state=\"resting\"}"),
        4.0
    );
    assert_eq!(
        relayed(&relay),
        (100, 100 * ON_WIRE),
        "it stays when the call is over"
    );
    relay.assert_follows(&first_relay);
    dispatcher.assert_follows(&first_dispatcher);

    // A relay that goes without calls is forgotten.
    ringing.hang_up(&mut proxy);
    let daemons = watched.daemons.take().unwrap();
    daemons.relay.stop().unwrap();
    scrape_until(watched.dispatcher, "no relay is left", |scrape| {
        scrape.sum("mediaproxy_dispatcher_relays") == 0.0
            && scrape.sum("mediaproxy_dispatcher_relay_up") == 0.0
    });
    daemons.dispatcher.stop().unwrap();
}

/// A file that is a directory takes no records until it is none any more.
#[test]
#[cfg(feature = "file")]
fn what_accounting_has_not_delivered_is_seen() {
    let watched = Watched::start(
        "metrics-accounting",
        "[Dispatcher]\naccounting = file\n[File]\npath = sessions.jsonl",
    );
    let path = watched.scratch.path().join("sessions.jsonl");
    let _ = fs::remove_file(&path);
    fs::create_dir(&path).unwrap();
    let value = |scrape: &Scrape, what: &str| {
        scrape.value(&format!(
            "mediaproxy_dispatcher_accounting_{what}{{backend=\"file\"}}"
        ))
    };
    let first = scrape(watched.dispatcher);
    assert_eq!(value(&first, "waiting_records"), 0.0);
    assert_eq!(value(&first, "oldest_record_age_seconds"), 0.0);
    let mut proxy = watched.proxy();
    let call = Call::place(&mut proxy, "a");
    call.talk(2);
    call.hang_up(&mut proxy);
    let late = scrape_until(watched.dispatcher, "a record that waits", |scrape| {
        value(scrape, "waiting_records") == 1.0
            && value(scrape, "backend_up") == 0.0
            && value(scrape, "oldest_record_age_seconds") > 0.3
    });
    assert!(value(&late, "oldest_record_age_seconds") < 30.0);
    assert!(value(&late, "failures_total") >= 1.0);
    assert_eq!(value(&late, "delivered_records_total"), 0.0);
    let journal = |what: &str| late.value(&format!("mediaproxy_dispatcher_accounting_{what}"));
    assert!(journal("journal_bytes") > 100.0);
    assert_eq!(journal("journal_limit_bytes"), f64::from(1024 << 20));
    assert_eq!(journal("held_records"), 0.0);
    fs::remove_dir(&path).unwrap();
    let done = scrape_until(watched.dispatcher, "the record is delivered", |scrape| {
        value(scrape, "delivered_records_total") == 1.0 && value(scrape, "backend_up") == 1.0
    });
    assert_eq!(value(&done, "waiting_records"), 0.0);
    assert_eq!(value(&done, "rejected_records_total"), 0.0);
    done.assert_follows(&late);
    watched.stop();
}

#[test]
fn the_management_port_gives_the_same_text() {
    let watched = Watched::start("metrics-management", "");
    let socket = watched.scratch.path().join("run/management.sock");
    let ask = || parse(&management::ask(&socket, "metrics").unwrap().join("\n"));
    // The dispatcher may not have seen yet that the client which waited for the relay has gone.
    let asked = read_until("this client alone", ask, |asked| {
        asked.value("mediaproxy_dispatcher_management_clients") == 1.0
    });
    let scraped = scrape(watched.dispatcher);
    assert_eq!(asked.types, scraped.types);
    let names = |scrape: &Scrape| scrape.samples.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&asked), names(&scraped));
    watched.stop();
}

/// Slow, silent, huge and senseless clients, hundreds of them, while a call goes on.
#[test]
fn hostile_clients_harm_nothing_and_no_call() {
    let mut watched = Watched::start("metrics-hostile", "");
    let mut proxy = watched.proxy();
    let call = Call::place(&mut proxy, "a");
    call.talk(10);
    let before = [watched.dispatcher, watched.relay].map(scrape);
    let addresses = [watched.dispatcher, watched.relay];
    thread::scope(|scope| {
        for address in addresses {
            scope.spawn(move || {
                let silent: Vec<TcpStream> = (0..100)
                    .filter_map(|_| TcpStream::connect(address).ok())
                    .collect();
                let begun = b"GET /metrics HTTP/1.1\r\nX: ";
                for mut socket in &silent {
                    let _ = socket.write_all(begun);
                }
                drop(silent);
            });
            scope.spawn(move || {
                let huge = vec![b'A'; 4 << 20];
                for request in [
                    huge.as_slice(),
                    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
                    b"\0\0\0\0",
                    b"GET /metrics HTTP/9.9\r\n\r\n",
                    b"DELETE / HTTP/1.1\r\nHost: x\r\n\r\n",
                    b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
                    b"\r\n\r\n\r\n\r\n",
                ] {
                    for _ in 0..5 {
                        let answer = exchange(address, request);
                        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
                    }
                }
            });
        }
        scope.spawn(|| call.talk(100));
    });
    for (address, before) in addresses.into_iter().zip(&before) {
        let now = scrape_after(address, before);
        now.assert_follows(before);
        let memory = |scrape: &Scrape| scrape.value("process_resident_memory_bytes");
        let more = memory(&now) - memory(before);
        assert!(more < 32e6, "{more} bytes more");
        scrape_until(address, "its clients' threads are gone", |scrape| {
            scrape.value("process_threads") <= before.value("process_threads") + 2.0
        });
    }
    scrape_until(watched.relay, "all packets are counted", |scrape| {
        relayed(scrape).0 == 2 * 110
    });
    let other = Call::place(&mut proxy, "b");
    other.talk(5);
    watched.daemons().check().unwrap();
    other.hang_up(&mut proxy);
    call.hang_up(&mut proxy);
    watched.stop();
}

/// Who says nothing costs a descriptor, on any port, and gives it back.
#[test]
fn silent_connections_cost_no_thread() {
    let watched = Watched::start("metrics-silent", "");
    let config = fs::read_to_string(watched.scratch.path().join("config.ini")).unwrap();
    let ports: Vec<&str> = ["listen = ", "listen_management = "]
        .into_iter()
        .filter_map(|key| config.lines().find_map(|line| line.strip_prefix(key)))
        .collect();
    let before = scrape(watched.dispatcher);
    let metrics = watched.dispatcher.to_string();
    let all = || ports.iter().copied().chain([metrics.as_str()]);
    let silent: Vec<TcpStream> = (0..200)
        .flat_map(|_| all())
        .map(|address| TcpStream::connect(address).unwrap())
        .collect();
    let during = scrape_after(watched.dispatcher, &before);
    let more = |of: &Scrape, name| of.value(name) - before.value(name);
    assert!(more(&during, "process_threads") <= 1.0);
    let open = more(&during, "process_open_fds");
    assert!(
        (128.0..=128.0 + 128.0 + 16.0 + 4.0).contains(&open),
        "{open}"
    );
    drop(silent);
    scrape_until(watched.dispatcher, "they are gone", |scrape| {
        more(scrape, "process_open_fds") <= 1.0
    });
    watched.stop();
}

#[test]
fn a_port_that_is_taken_keeps_a_daemon_from_starting_and_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let scratch = Scratch::new("mediaproxy-metrics-taken").unwrap();
    daemons::make_certificates(scratch.path()).unwrap();
    daemons::write_config(scratch.path(), PortRange::find(100).unwrap()).unwrap();
    let config = scratch.path().join("config.ini");
    let text = fs::read_to_string(&config).unwrap();
    let more =
        format!("[Relay]\nlisten_metrics = {address}\n[Dispatcher]\nlisten_metrics = {address}\n");
    fs::write(&config, format!("{text}{more}")).unwrap();
    for program in [
        env!("CARGO_BIN_EXE_media-relay"),
        env!("CARGO_BIN_EXE_media-dispatcher"),
    ] {
        let mut command = std::process::Command::new(program);
        command
            .arg("--no-fork")
            .arg("--config-dir")
            .arg(scratch.path());
        command.arg("--runtime-dir").arg(scratch.path().join("run"));
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{program}");
        let said = String::from_utf8_lossy(&output.stderr);
        let want = format!("listen_metrics = {address}: cannot listen: ");
        assert!(said.contains(&want), "{program}: {said}");
    }
    let left: Vec<_> = fs::read_dir(scratch.path().join("run"))
        .unwrap()
        .flatten()
        .collect();
    let sockets = left
        .iter()
        .filter(|entry| entry.path().extension().is_some_and(|end| end == "sock"));
    assert_eq!(sockets.count(), 0, "{left:?}");
}

/// What is exported is documented and the reverse; what the dashboard and the alerts use is exported.
#[test]
fn names_agree_everywhere() {
    let watched = Watched::start("metrics-names", "");
    assert!(get(watched.relay, "/").contains("/metrics"));
    assert_eq!(get(watched.dispatcher, "/health"), "ok\n");
    let (dispatcher, relay) = (scrape(watched.dispatcher), scrape(watched.relay));
    watched.stop();
    let mut exported = dispatcher.types.clone();
    for (name, kind) in &relay.types {
        let known = exported.insert(name.clone(), kind.clone());
        assert!(known.is_none_or(|known| known == *kind), "{name}");
    }
    let documentation = file("docs/metrics.md");
    let rows = documentation
        .lines()
        .filter_map(|line| line.strip_prefix("| `"));
    let documented: Vec<(String, String)> = rows
        .map(|row| {
            let mut cells = row.split(" | ");
            let name = cells.next().unwrap().trim_end_matches('`');
            (name.to_owned(), cells.next().unwrap().to_owned())
        })
        .collect();
    let names: BTreeSet<_> = documented.iter().cloned().collect();
    assert_eq!(names.len(), documented.len(), "a metric stands there twice");
    let exported_names: BTreeSet<_> = exported.clone().into_iter().collect();
    let missing: Vec<_> = exported_names.symmetric_difference(&names).collect();
    assert!(
        missing.is_empty(),
        "in docs/metrics.md or exported, not both: {missing:?}"
    );

    let known: BTreeSet<String> = exported.keys().cloned().collect();
    for path in [
        "conf/grafana/mediaproxy.json",
        "conf/prometheus/mediaproxy.rules.yml",
        "docs/metrics.md",
    ] {
        let used = names_in(&file(path), &exported);
        let strange: Vec<_> = used.difference(&known).collect();
        assert!(
            strange.is_empty(),
            "{path} uses what nobody exports: {strange:?}"
        );
        assert!(used.len() > 20, "{path}: {used:?}");
    }
    // What nobody looks at is of no use: the dashboard shows nearly all of it.
    let used = names_in(&file("conf/grafana/mediaproxy.json"), &exported);
    let unused: Vec<_> = known
        .difference(&used)
        .filter(|name| name.starts_with("mediaproxy_"))
        .collect();
    let alerts = names_in(&file("conf/prometheus/mediaproxy.rules.yml"), &exported);
    let unused: Vec<_> = unused
        .into_iter()
        .filter(|name| !alerts.contains(*name))
        .collect();
    assert!(unused.len() < 4, "neither shown nor watched: {unused:?}");
}

/// Every alert is tested for its times.
#[test]
fn every_alert_has_a_test_and_words_for_people() {
    let rules = file("conf/prometheus/mediaproxy.rules.yml");
    let tests = file("tests/prometheus/rules.test.yml");
    let alerts: Vec<&str> = rules
        .split("- alert: ")
        .skip(1)
        .map(|rule| {
            let name = rule.lines().next().unwrap_or_default();
            for part in ["severity: ", "summary: ", "description: >-"] {
                assert!(rule.contains(part), "{name} has no {part}");
            }
            // The command or setting that helps.
            assert!(
                rule.contains("\"media-")
                    || rule.contains("\"journalctl ")
                    || rule.contains("state_dir")
                    || rule.contains("\"systemctl "),
                "{name}"
            );
            name
        })
        .collect();
    assert!(alerts.len() >= 20, "{alerts:?}");
    for alert in alerts {
        let fires = format!("{{alertname=\"{alert}\"}}");
        assert!(tests.contains(&fires), "{alert}: no test in which it fires");
    }
}
