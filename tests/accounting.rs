//! Accounting from end to end: both daemons, calls with media, and all five backends at once, the real ones.

#![cfg(all(
    feature = "file",
    feature = "sqlite",
    feature = "mysql",
    feature = "postgres",
    feature = "radius"
))]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use mediaproxy::sys::clock;
use serde_json::Value;

#[path = "support/daemons.rs"]
mod daemons;
#[path = "support/management.rs"]
mod management;
#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/servers/mod.rs"]
mod servers;

use daemons::{Daemon, Daemons, PortRange};
use proxy::{Media, Message, Proxy};
use servers::{FreeRadius, MariaDb, Postgres, Server};

/// Longest wait for records to arrive, on a busy machine and after failures.
const PATIENCE: Duration = Duration::from_secs(90);

/// IP and UDP headers.
const HEADERS: u64 = 28;

/// Bytes of a datagram of these tests.
const PACKET: usize = 172;

/// All servers, and where the daemons have their files.
struct World {
    scratch: daemons::Scratch,
    mariadb: MariaDb,
    postgres: Postgres,
    radius: FreeRadius,
}

/// What one party of the calls has sent, by call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sent {
    caller: u64,
    callee: u64,
}

impl World {
    /// None where a server is not installed, which is said.
    fn new() -> Option<World> {
        let world = World {
            mariadb: MariaDb::start()?,
            postgres: Postgres::start()?,
            radius: FreeRadius::start()?,
            scratch: daemons::Scratch::new("mediaproxy-accounting").unwrap(),
        };
        let directory = world.scratch.path();
        daemons::make_certificates(directory).unwrap();
        daemons::write_config(directory, PortRange::find(2000).unwrap()).unwrap();
        let client = world
            .radius
            .client(&[], &[], "radius_timeout 1\nradius_retries 1");
        let dictionary = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/radius/dictionary");
        let databases = [
            world.mariadb.uri(),
            world.postgres.uri(),
            format!("sqlite://{}", world.sqlite().display()),
        ];
        let text = format!(
            "accounting = file, database, radius\n[File]\npath = {}\n[Database]\ndburi = {}\n[Radius]\n\
             config_file = {}\nadditional_dictionary = {}\n",
            world.lines().display(),
            databases.join(" ").replace('%', "%%"),
            client.display(),
            dictionary.display(),
        );
        daemons::extend_config(directory, &text).unwrap();
        Some(world)
    }

    fn lines(&self) -> PathBuf {
        self.scratch.path().join("calls.jsonl")
    }

    fn sqlite(&self) -> PathBuf {
        self.scratch.path().join("calls.sqlite")
    }

    fn start(&self) -> Daemons {
        Daemons::start(&binaries(), self.scratch.path()).unwrap()
    }

    fn socket(&self) -> PathBuf {
        self.scratch.path().join("run/dispatcher.sock")
    }

    /// What each backend has of each call: how often, and the octets of both parties.
    fn recorded(&self) -> [(&'static str, BTreeMap<String, Vec<Sent>>); 5] {
        let text = fs::read_to_string(self.lines()).unwrap_or_default();
        let lines = text.lines().map(str::to_owned).collect();
        let mysql = self
            .mariadb
            .sql("SELECT CONVERT(info USING utf8mb4) FROM media.media_sessions");
        let mysql = mysql
            .lines()
            .map(|line| line.replace("\\\\", "\\"))
            .collect();
        let postgres = self
            .postgres
            .sql("SELECT convert_from(info, 'UTF8') FROM media_sessions");
        let postgres = postgres.lines().map(str::to_owned).collect();
        [
            ("file", by_call(lines)),
            ("mysql", by_call(mysql)),
            ("postgres", by_call(postgres)),
            ("sqlite", by_call(self.rows_of_sqlite())),
            ("radius", self.accounted()),
        ]
    }

    fn rows_of_sqlite(&self) -> Vec<String> {
        let Ok(database) = rusqlite::Connection::open(self.sqlite()) else {
            return Vec::new();
        };
        let Ok(mut query) = database.prepare("SELECT info FROM media_sessions") else {
            return Vec::new();
        };
        let rows = query.query_map([], |row| row.get::<_, Vec<u8>>(0)).unwrap();
        rows.map(|row| String::from_utf8(row.unwrap()).unwrap())
            .collect()
    }

    fn accounted(&self) -> BTreeMap<String, Vec<Sent>> {
        let mut calls: BTreeMap<String, Vec<Sent>> = BTreeMap::new();
        for detail in self.radius.details() {
            let octets = |name: &str| detail.get(name).map_or(0, |text| text.parse().unwrap());
            let sent = Sent {
                caller: octets("Acct-Input-Octets"),
                callee: octets("Acct-Output-Octets"),
            };
            calls
                .entry(detail["Acct-Session-Id"].clone())
                .or_default()
                .push(sent);
        }
        calls
    }

    /// Waits until every backend has so many calls.
    fn wait_for(&self, count: usize) {
        let end = clock::mono() + PATIENCE;
        loop {
            let recorded = self.recorded();
            if recorded.iter().all(|(_, calls)| calls.len() >= count) {
                return;
            }
            let counts = recorded.iter().map(|(name, calls)| (*name, calls.len()));
            let counts: Vec<_> = counts.collect();
            assert!(clock::mono() < end, "of {count} calls there are {counts:?}");
            thread::sleep(Duration::from_millis(100));
        }
    }
}

fn binaries() -> PathBuf {
    let dispatcher = Path::new(env!("CARGO_BIN_EXE_media-dispatcher"));
    dispatcher.parent().unwrap().to_owned()
}

/// The octets of each party in records as text.
fn by_call(lines: Vec<String>) -> BTreeMap<String, Vec<Sent>> {
    let mut calls: BTreeMap<String, Vec<Sent>> = BTreeMap::new();
    for line in lines {
        let record: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
        let streams = record["streams"].as_array().unwrap();
        let sum = |key: &str| streams.iter().map(|s| s[key].as_u64().unwrap()).sum();
        let sent = Sent {
            caller: sum("caller_bytes"),
            callee: sum("callee_bytes"),
        };
        let call_id = record["call_id"].as_str().unwrap().to_owned();
        calls.entry(call_id).or_default().push(sent);
    }
    calls
}

/// Both phones of the calls of one thread, one call after the other.
struct Phones {
    proxy: Option<Proxy>,
    socket: PathBuf,
    caller: UdpSocket,
    callee: UdpSocket,
}

/// How a call went, as far as the proxy knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    Answered(Sent),
    /// The dispatcher went away while it was asked.
    Unclear,
    Failed,
}

impl Phones {
    fn new(socket: PathBuf) -> Phones {
        let phone = || {
            let phone = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            phone
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            phone
        };
        Phones {
            proxy: None,
            socket,
            caller: phone(),
            callee: phone(),
        }
    }

    /// Asks the dispatcher, over a new connection where the last one is gone.
    fn ask<T>(&mut self, ask: impl Fn(&mut Proxy) -> Result<T, String>) -> Result<T, String> {
        if self.proxy.is_none() {
            self.proxy = Some(Proxy::connect(&self.socket).map_err(|e| e.to_string())?);
        }
        let proxy = self.proxy.as_mut().unwrap();
        ask(proxy).inspect_err(|_| self.proxy = None)
    }

    fn call(&mut self, call_id: &str, number: usize) -> Course {
        let (offered, answered) = (
            [Media::audio_at(&self.caller)],
            [Media::audio_at(&self.callee)],
        );
        let offer = Message::offer(call_id, &offered);
        let answer = Message::answer(call_id, &answered);
        let Ok(for_callee) = self.ask(|proxy| proxy.update(&offer)) else {
            return Course::Failed;
        };
        let for_caller = self.ask(|proxy| proxy.update(&answer));
        let course = match for_caller {
            Ok(for_caller) => Course::Answered(self.talk(number, for_caller[0], for_callee[0])),
            Err(_) => Course::Unclear,
        };
        // A proxy that gets no answer asks again when it can; one that was heard is an error then.
        let end = clock::mono() + PATIENCE;
        while let Err(why) = self.ask(|proxy| proxy.remove(&answer)) {
            if why.ends_with(": error") {
                break;
            }
            assert!(clock::mono() < end, "{call_id}: {why}");
            thread::sleep(Duration::from_millis(20));
        }
        course
    }

    /// One to three packets each way; each has to arrive.
    fn talk(&self, number: usize, for_caller: u16, for_callee: u16) -> Sent {
        let sides = [
            (&self.caller, for_caller, &self.callee, 1 + number % 3),
            (&self.callee, for_callee, &self.caller, 1 + number / 3 % 3),
        ];
        for (from, port, to, count) in sides {
            for _ in 0..count {
                let mut packet = [0u8; PACKET];
                packet[..2].copy_from_slice(&[0x80, 8]);
                from.send_to(&packet, SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
                    .unwrap();
                to.recv(&mut packet).unwrap();
            }
        }
        let octets = |count: usize| count as u64 * (PACKET as u64 + HEADERS);
        Sent {
            caller: octets(sides[0].3),
            callee: octets(sides[1].3),
        }
    }
}

/// Places calls in several threads while `is_going_on` holds for their number; how each went.
fn place(socket: &Path, is_going_on: impl Fn(usize) -> bool + Sync) -> BTreeMap<String, Course> {
    let next = AtomicUsize::new(0);
    let caller = || {
        let mut phones = Phones::new(socket.to_owned());
        let mut courses = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if !is_going_on(number) {
                return courses;
            }
            let call_id = format!("{number}-call@192.0.2.1");
            let course = phones.call(&call_id, number);
            if course == Course::Failed {
                thread::sleep(Duration::from_millis(20));
            }
            courses.push((call_id, course));
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(caller)).collect();
        threads
            .into_iter()
            .flat_map(|t| t.join().unwrap())
            .collect()
    })
}

fn answered(courses: &BTreeMap<String, Course>) -> BTreeMap<&str, Sent> {
    let sent = |course: &Course| match course {
        Course::Answered(sent) => Some(*sent),
        Course::Unclear | Course::Failed => None,
    };
    let calls = courses.iter();
    calls
        .filter_map(|(call_id, course)| Some((call_id.as_str(), sent(course)?)))
        .collect()
}

#[test]
fn a_thousand_calls_are_in_all_five_backends_with_what_was_sent() {
    let Some(world) = World::new() else { return };
    let running = world.start();
    let courses = place(&world.socket(), |number| number < 1000);
    let expected = answered(&courses);
    assert_eq!(expected.len(), 1000, "every call is answered");
    world.wait_for(1000);
    for (backend, calls) in world.recorded() {
        assert_eq!(calls.len(), 1000, "{backend}");
        for (call_id, sent) in &calls {
            assert_eq!(
                sent.as_slice(),
                [expected[call_id.as_str()]],
                "{backend}: {call_id}"
            );
        }
    }
    running.stop().unwrap();
}

fn killed(dispatcher: &mut Option<Daemon>) {
    let dispatcher = dispatcher.take().unwrap();
    daemons::signal(dispatcher.pid(), "KILL").unwrap();
}

fn started(world: &World) -> Daemon {
    Daemon::start(&binaries(), "media-dispatcher", world.scratch.path()).unwrap()
}

#[test]
fn servers_that_stop_die_and_freeze_and_a_dispatcher_that_is_killed_lose_nothing() {
    let Some(mut world) = World::new() else {
        return;
    };
    let Daemons {
        dispatcher, relay, ..
    } = world.start();
    let mut dispatcher = Some(dispatcher);
    let is_over = AtomicBool::new(false);
    let pause = || thread::sleep(Duration::from_millis(700));
    let courses = thread::scope(|scope| {
        let socket = world.socket();
        let is_over = &is_over;
        let calls = scope.spawn(move || place(&socket, |_| !is_over.load(Ordering::Relaxed)));
        pause();
        world.mariadb.kill();
        world.postgres.freeze();
        pause();
        killed(&mut dispatcher);
        pause();
        dispatcher = Some(started(&world));
        world.mariadb.restart();
        world.radius.stop();
        pause();
        world.postgres.thaw();
        world.postgres.stop();
        pause();
        killed(&mut dispatcher);
        world.postgres.restart();
        world.radius.restart();
        dispatcher = Some(started(&world));
        pause();
        world.radius.freeze();
        world.mariadb.freeze();
        pause();
        world.radius.thaw();
        world.mariadb.thaw();
        pause();
        is_over.store(true, Ordering::Relaxed);
        calls.join().unwrap()
    });
    let expected = answered(&courses);
    assert!(expected.len() > 100, "only {} calls", expected.len());
    world.wait_for(expected.len());
    for (backend, calls) in world.recorded() {
        for (call_id, sent) in &expected {
            let found = calls
                .get(*call_id)
                .unwrap_or_else(|| panic!("{backend}: {call_id} is lost"));
            // RADIUS: at least once on the wire.
            let distinct: BTreeSet<_> = found.iter().map(|s| (s.caller, s.callee)).collect();
            assert_eq!(
                distinct,
                BTreeSet::from([(sent.caller, sent.callee)]),
                "{backend}: {call_id}"
            );
            assert!(
                found.len() == 1 || backend == "radius",
                "{backend}: {call_id} {} times",
                found.len()
            );
        }
        let unclear = |call_id: &String| courses.get(call_id) == Some(&Course::Unclear);
        let strange: Vec<_> = calls
            .keys()
            .filter(|id| !expected.contains_key(id.as_str()) && !unclear(id))
            .collect();
        assert!(strange.is_empty(), "{backend}: {strange:?}");
    }
    dispatcher.unwrap().stop().unwrap();
    relay.stop().unwrap();
}
