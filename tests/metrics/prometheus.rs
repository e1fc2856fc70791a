//! The metrics, alerts and dashboard against real Prometheus: `promtool` finds nothing to say, a server of the test's
//! own reads both daemons, evaluates every rule and every panel, and an alert fires when the relay goes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::support::ports::free_tcp_port;
use crate::support::scrape::{exchange, get};
use crate::support::skip;
use crate::support::watched::{Call, Watched, wait_until};

const RULES: &str = "conf/prometheus/mediaproxy.rules.yml";

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Whether Prometheus is there; says so where it is not.
fn is_there() -> bool {
    let there = ["prometheus", "promtool"].iter().all(|program| {
        let output = Command::new(program).arg("--version").output();
        output.is_ok_and(|output| output.status.success())
    });
    if !there {
        skip::skip("needs prometheus and promtool (tests/deps.sh)");
    }
    there
}

fn promtool(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

/// It succeeds, and has found nothing that could be better.
fn is_content(output: &Output) {
    let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{said}");
}

/// A server with its files in a directory; killed when dropped.
struct Prometheus {
    child: Child,
    address: SocketAddr,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    /// Reads both daemons five times a second, with these rule files.
    fn start(watched: &Watched, rules: &[&Path]) -> Prometheus {
        let directory = watched.scratch.path().join("prometheus");
        fs::create_dir(&directory).unwrap();
        let rules: String = rules
            .iter()
            .map(|path| format!("  - {}\n", path.display()))
            .collect();
        let config = format!(
            "global:\n  scrape_interval: 200ms\n  scrape_timeout: 200ms\n  evaluation_interval: 200ms\n\
             rule_files:\n{rules}\
             scrape_configs:\n\
             - job_name: mediaproxy-dispatcher\n  static_configs:\n  - targets: ['{}']\n\
             - job_name: mediaproxy-relay\n  static_configs:\n  - targets: ['{}']\n",
            watched.dispatcher, watched.relay
        );
        let config_file = directory.join("prometheus.yml");
        fs::write(&config_file, config).unwrap();
        let port = free_tcp_port().unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let log = File::create(directory.join("log")).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config_file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut prometheus = Prometheus { child, address };
        wait_until("prometheus is ready", || {
            let ended = prometheus.child.try_wait().unwrap();
            let log = fs::read_to_string(directory.join("log")).unwrap();
            assert!(ended.is_none(), "it ended: {log}");
            std::net::TcpStream::connect(address).is_ok() && prometheus.is_ready()
        });
        prometheus
    }

    fn is_ready(&self) -> bool {
        let answer = exchange(self.address, b"GET /-/ready HTTP/1.0\r\n\r\n");
        answer.starts_with("HTTP/1.0 200")
    }

    /// The data of an answer; the whole of it where it is a failure.
    fn api(&self, path: &str) -> Result<Value, String> {
        let answer = exchange(
            self.address,
            format!("GET /api/v1/{path} HTTP/1.0\r\n\r\n").as_bytes(),
        );
        let (_, body) = answer
            .split_once("\r\n\r\n")
            .ok_or_else(|| answer.clone())?;
        let body: Value = serde_json::from_str(body).map_err(|error| format!("{error}: {body}"))?;
        match body["status"].as_str() {
            Some("success") => Ok(body["data"].clone()),
            _ => Err(body.to_string()),
        }
    }

    /// The results of an expression now.
    fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        let data = self.api(&format!("query?query={}", encoded(expression)))?;
        let result = data["result"].as_array().cloned();
        result.ok_or_else(|| format!("{expression}: {data}"))
    }

    /// The names of alerts in a state.
    fn alerts(&self, state: &str) -> BTreeSet<String> {
        let data = self.api("alerts").unwrap();
        let alerts = data["alerts"].as_array().unwrap().iter();
        let alerts = alerts.filter(|alert| alert["state"] == state);
        alerts
            .map(|alert| alert["labels"]["alertname"].as_str().unwrap().to_owned())
            .collect()
    }
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

/// Every expression of the dashboard's panels.
fn panels() -> Vec<String> {
    let text = fs::read_to_string(path("conf/grafana/mediaproxy.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default());
    targets
        .map(|target| target["expr"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn promtool_has_nothing_to_say() {
    if !is_there() {
        return;
    }
    let watched = Watched::start("promtool", "");
    let mut proxy = watched.proxy();
    let call = Call::place(&mut proxy, "a");
    call.talk(3);
    for address in [watched.dispatcher, watched.relay] {
        let output = promtool(&["check", "metrics"], &get(address, "/metrics"));
        is_content(&output);
        let said = [output.stdout, output.stderr].concat();
        assert_eq!(String::from_utf8_lossy(&said), "", "a hint on {address}");
    }
    call.hang_up(&mut proxy);
    watched.stop();
}

#[test]
fn the_alerts_fire_in_time_and_not_without_reason() {
    if !is_there() {
        return;
    }
    let rules = path(RULES);
    is_content(&promtool(&["check", "rules", rules.to_str().unwrap()], ""));
    let tests = path("tests/prometheus/rules.test.yml");
    is_content(&promtool(&["test", "rules", tests.to_str().unwrap()], ""));
}

#[test]
fn prometheus_reads_both_evaluates_all_and_an_alert_fires() {
    if !is_there() {
        return;
    }
    let mut watched = Watched::start("prometheus", "");
    // The same alerts without their waiting times, beside them; under other names, since two rules that write one
    // series get into each other's way.
    let rules = fs::read_to_string(path(RULES)).unwrap();
    let at_once = |line: &str| match line.trim_start().strip_prefix("for: ") {
        Some(_) => "        for: 0s\n".to_owned(),
        None => format!("{}\n", line.replace("- alert: ", "- alert: Hasty")),
    };
    let hasty = watched.scratch.path().join("hasty.rules.yml");
    fs::write(&hasty, rules.lines().map(at_once).collect::<String>()).unwrap();
    let prometheus = Prometheus::start(&watched, &[&path(RULES), &hasty]);
    wait_until("both are read", || {
        let up = prometheus.query("up == 1").unwrap();
        up.len() == 2
    });
    let mut proxy = watched.proxy();
    let call = Call::place(&mut proxy, "a");
    call.talk(50);

    let count = rules.matches("- alert: ").count();
    wait_until("every rule was evaluated", || {
        let groups = prometheus.api("rules").unwrap();
        let groups = groups["groups"].as_array().unwrap().clone();
        let rules: Vec<&Value> = groups
            .iter()
            .flat_map(|group| group["rules"].as_array().unwrap())
            .collect();
        let failed: Vec<_> = rules
            .iter()
            .filter(|rule| rule["health"] == "err")
            .collect();
        assert!(failed.is_empty(), "{failed:?}");
        rules.len() == 2 * count && rules.iter().all(|rule| rule["health"] == "ok")
    });
    wait_until("what was sent is stored", || {
        let sent = prometheus
            .query("sum(mediaproxy_relay_relayed_packets_total) == 100")
            .unwrap();
        sent.len() == 1
    });
    // Rates need two readings of a series.
    wait_until("the panels have something to show", || {
        let empty = empty_panels(&prometheus);
        empty.iter().all(|panel| panel.contains("accounting"))
    });
    // Certificates of the test are valid for a day; a slow machine may have alerts of its own.
    let firing = prometheus.alerts("firing");
    assert!(
        firing.contains("HastyMediaproxyCertificateExpires"),
        "{firing:?}"
    );
    let want = ["HastyMediaproxyNoRelay", "HastyMediaproxyDown"];
    assert!(
        want.iter().all(|alert| !firing.contains(*alert)),
        "{firing:?}"
    );

    let relay = watched.daemons.take().unwrap();
    relay.relay.stop().unwrap();
    wait_until("the alerts fire", || {
        let firing = prometheus.alerts("firing");
        want.iter().all(|alert| firing.contains(*alert))
    });
    drop(prometheus);
    relay.dispatcher.stop().unwrap();
}

/// Panels whose expressions have no result at the moment; one that cannot be evaluated is the test's end.
fn empty_panels(prometheus: &Prometheus) -> Vec<String> {
    let panels = panels();
    assert!(panels.len() > 40, "{panels:?}");
    let is_empty = |panel: &String| {
        let expression = panel
            .replace("$__rate_interval", "1m")
            .replace("$dispatcher", ".*")
            .replace("$relay", ".*");
        prometheus
            .query(&expression)
            .unwrap_or_else(|why| panic!("{panel}: {why}"))
            .is_empty()
    };
    panels.into_iter().filter(is_empty).collect()
}
