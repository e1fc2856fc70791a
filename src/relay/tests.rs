//! Tests of what no dispatcher sees: links that come and go with names.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use super::dispatchers::MOST_DISPATCHERS;
use super::*;
use crate::config::Forwarding;
use crate::proto::control::{self, LINK_LIMITS, Requests};
use crate::proto::link::Sequence;
use crate::session::{self, Owner, ReplyTo};
use crate::support::certs::Certs;

fn settings() -> Settings {
    Settings {
        dispatchers: Vec::new(),
        passport: None,
        relay_ip: Some(Ipv4Addr::LOCALHOST),
        auto_detect_interfaces: false,
        port_range: (32_000, 32_040),
        dns_check_interval: Duration::from_secs(60),
        keepalive_interval: Duration::from_secs(10),
        reconnect_delay: Duration::from_millis(20),
        traffic_sampling_period: Duration::ZERO,
        verify_interval: Duration::from_secs(300),
        forwarding: Forwarding::Userspace,
        mark: (0x4d50_0000, 0xffff_0000),
        session: session::Settings {
            stream_timeout: Duration::from_secs(90),
            on_hold_timeout: Duration::from_secs(90),
            setup_timeout: Duration::from_secs(90),
            learning: Default::default(),
            advertised_ip: None,
            routable_private_ranges: Vec::new(),
            kernel: Err("forwarding = userspace".into()),
        },
        state_dir: None,
        journal_limit: 64 << 20,
        runtime_dir: None,
        adopt_within: Duration::from_secs(60),
        workers: Some(1),
    }
}

/// Starts a relay in a range that no other test has, nor another run of them.
fn run(mut settings: Settings, store: Arc<Store>) -> Running {
    loop {
        match lock(&settings) {
            Ok(lock) => return start(settings, store, lock).unwrap(),
            Err(_) => {
                let (start, end) = settings.port_range;
                settings.port_range = (start + 40, end + 40);
            }
        }
    }
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

fn named(addresses: &[SocketAddr]) -> BTreeMap<SocketAddr, String> {
    let names = addresses.iter().map(|a| (*a, "example.com".to_owned()));
    names.collect()
}

const HEADERS: &str = "type: request\r\ncall_id: c\r\ncseq: 1\r\nfrom_uri: a\r\nto_uri: b\r\n\
    from_tag: f\r\nuser_agent: u\r\nmedia: audio:192.0.2.1:4000:sendrecv:ice=no\r\n\r\n";

fn ask(running: &Running, word: &str) {
    let mut requests = Requests::new(LINK_LIMITS, &[]);
    requests.extend(format!("{word}\r\n{HEADERS}").as_bytes());
    let frame = requests.next_request().unwrap().unwrap().unwrap();
    let reply_to = ReplyTo {
        link: 1,
        sequence: Sequence(1),
    };
    let message = match word {
        "update" => {
            let update = control::Update::parse(frame).unwrap();
            Message::Update(Box::new(update), reply_to, clock::moment())
        }
        _ => Message::Remove(control::Remove::parse(frame).unwrap(), reply_to),
    };
    assert!(running.shared.workers.send(0, message));
}

fn wait_for_sessions(running: &Running, count: usize) {
    for _ in 0..1000 {
        if running.sessions() == count {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("never {count} sessions");
}

#[test]
fn a_dispatcher_named_no_more_keeps_its_link_until_its_sessions_are_over() {
    let certs = Certs::new();
    let store = Arc::new(Store::open(certs.path(), "relay").unwrap());
    let running = run(settings(), store);
    let shared = &running.shared;
    let (old, new) = (nobody(), nobody());
    discovery::apply(shared, &named(&[old]));
    discovery::apply(shared, &named(&[old]));
    assert_eq!(shared.dispatchers.all().len(), 1);
    ask(&running, "update");
    wait_for_sessions(&running, 1);

    discovery::apply(shared, &named(&[new]));
    let all = shared.dispatchers.all();
    assert_eq!(all.len(), 2);
    assert!(!all[0].queue.is_finishing(), "it has a session");
    ask(&running, "remove");
    wait_for_sessions(&running, 0);
    discovery::apply(shared, &named(&[new]));
    assert!(all[0].queue.is_finishing());
    assert!(!all[1].queue.is_finishing());

    // Named again: the same link, the same owner, as soon as its thread is over.
    for _ in 0..1000 {
        discovery::apply(shared, &named(&[old, new]));
        if !all[0].queue.is_finishing() {
            break;
        }
        thread::sleep(Duration::from_millis(5));
    }
    assert!(!all[0].queue.is_finishing());
    assert_eq!(shared.dispatchers.all().len(), 2);
    running.stop();
}

/// Knows a name from the third question on.
struct Late(u32);

impl crate::resolver::Resolver for Late {
    fn srv_targets(&mut self, _: &str) -> Result<Vec<String>, crate::sys::dns::Failure> {
        Ok(Vec::new())
    }

    fn addresses(&mut self, _: &str) -> Result<Vec<std::net::IpAddr>, String> {
        self.0 += 1;
        match self.0 {
            3.. => Ok(vec![Ipv4Addr::LOCALHOST.into()]),
            _ => Err("no network yet".to_owned()),
        }
    }
}

/// A host that starts: its network is there a little later than its relay.
#[test]
fn l4_a_name_that_is_not_found_is_looked_up_again_soon() {
    let certs = Certs::new();
    let store = Arc::new(Store::open(certs.path(), "relay").unwrap());
    let mut settings = settings();
    settings.dns_check_interval = Duration::from_secs(3600);
    let running = run(settings, store);
    let directory = Directory::new(&[crate::config::DispatcherEntry {
        host: crate::config::Host::Name("sip.example.com".to_owned()),
        port: nobody().port(),
    }]);
    let shared = Arc::clone(&running.shared);
    let thread = thread::spawn(move || discovery::run(&shared, directory, Late(0)));
    for _ in 0..2000 {
        if !running.shared.dispatchers.all().is_empty() {
            break;
        }
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(running.shared.dispatchers.all().len(), 1);
    running.stop();
    thread.join().unwrap();
}

#[test]
fn there_is_an_end_to_links() {
    let certs = Certs::new();
    let store = Arc::new(Store::open(certs.path(), "relay").unwrap());
    let mut settings = settings();
    settings.reconnect_delay = Duration::from_secs(60);
    let running = run(settings, store);
    let address = |n: usize| SocketAddr::from(([127, 0, 1 + (n >> 8) as u8, n as u8], 1));
    let results: Vec<bool> = (0..MOST_DISPATCHERS + 2)
        .map(|n| link::ensure(&running.shared, address(n), "many").is_ok())
        .collect();
    assert_eq!(results.iter().filter(|ok| **ok).count(), MOST_DISPATCHERS);
    assert!(!results[MOST_DISPATCHERS]);
    running.stop();
}

#[test]
fn a_thread_that_panics_ends_the_process() {
    const INNER: &str = "RELAY_TEST_PANIC";
    if std::env::var_os(INNER).is_some() {
        threads::spawn("doomed", || panic!("on purpose")).unwrap();
        thread::sleep(Duration::from_secs(60));
        return;
    }
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let name = "relay::tests::a_thread_that_panics_ends_the_process";
    let output = command.args(["--exact", name]).env(INNER, "1").output();
    let status = output.unwrap().status;
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(6)
    );
}

/// A worker that hangs is seen, whatever the others do, and so is that it goes on.
#[test]
fn a_worker_that_stands_still_is_found() {
    let certs = Certs::new();
    let store = Arc::new(Store::open(certs.path(), "relay").unwrap());
    let two = Settings {
        workers: Some(2),
        ..settings()
    };
    let running = run(two, store);
    let examined = |wanted: Result<(), String>| {
        for _ in 0..1000 {
            if running.examine() == wanted {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("never {wanted:?}");
    };
    assert_eq!(running.examine(), Ok(()));
    examined(Ok(()));
    // It waits until its answer is taken.
    let (answer, taken) = crossbeam_channel::bounded(0);
    let held = Message::Owned(Owner(0), answer);
    assert!(running.shared.workers.send(1, held));
    for _ in 0..3 {
        examined(Err("no answer from worker 1".to_owned()));
    }
    taken.recv().unwrap();
    examined(Ok(()));
    running.stop();
}
