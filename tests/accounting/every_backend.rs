//! Accounting from end to end: both daemons, calls with media, and all five backends at once, the real ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use mediaproxy::sys::clock;
use serde_json::Value;

use crate::support::between::Between;
use crate::support::callers::{Course, Sent, answered, place};
use crate::support::daemons::{self, Daemon, Daemons};
use crate::support::management;
use crate::support::ports::PortRange;
use crate::support::scrape;
use crate::support::scratch::Scratch;
use crate::support::servers::{FreeRadius, MariaDb, Postgres, Server};
use crate::support::small_disk::SmallDisk;

/// Longest wait for records to arrive, on a busy machine and after failures.
const PATIENCE: Duration = Duration::from_secs(90);

/// All backends, by the beginnings of their names.
const ALL: [&str; 5] = ["file", "mysql", "postgres", "sqlite", "radius"];

/// How long each piece is held back on a slow way to a database and to RADIUS: a datagram after the other there, and no
/// answer may come later than all repetitions.
const SLOW: Duration = Duration::from_millis(100);
const SLOW_DATAGRAM: Duration = Duration::from_millis(10);

/// Between the calls of one caller: in all phases together no more than the backends take in a debug build.
const PAUSE: Duration = Duration::from_millis(50);

/// What the dispatcher that runs tells of a backend since its start.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    is_up: bool,
    failures: u64,
    delivered: u64,
    rejected: u64,
    waiting: u64,
}

/// All servers, and where the daemons have their files.
struct World {
    scratch: Scratch,
    /// What the way to the servers is made slow with.
    ways: Vec<Between>,
    /// A small one, for the file alone; where that is allowed.
    disk: Option<SmallDisk>,
    mariadb: MariaDb,
    postgres: Postgres,
    radius: FreeRadius,
}

impl World {
    /// None where a server is not installed, which is said.
    fn new() -> Option<World> {
        Some(World {
            mariadb: MariaDb::start()?,
            postgres: Postgres::start()?,
            radius: FreeRadius::start()?,
            scratch: Scratch::new("mediaproxy-accounting").unwrap(),
            ways: Vec::new(),
            disk: None,
        })
    }

    /// The servers are reached over ways that can be made slow, and the file is on a small disk.
    fn with_troubles() -> Option<World> {
        let mut world = World::new()?;
        world.ways = vec![
            Between::tcp(world.mariadb.port()),
            Between::tcp(world.postgres.port()),
            Between::udp(world.radius.port()),
        ];
        world.disk = SmallDisk::mount();
        Some(world)
    }

    /// The ways in the order in which they were made.
    fn delay(&self, delays: [Duration; 3]) {
        let ways = self.ways.iter().zip(delays);
        ways.for_each(|(way, delay)| way.set_delay(delay));
    }

    /// The text with the ways' ports instead of the servers' own.
    fn by_the_ways(&self, mut text: String) -> String {
        let own = [
            self.mariadb.port(),
            self.postgres.port(),
            self.radius.port(),
        ];
        for (own, way) in own.iter().zip(&self.ways) {
            text = text.replace(&format!(":{own}"), &format!(":{}", way.port()));
        }
        text
    }

    fn configure(&self) {
        let directory = self.scratch.path();
        daemons::make_certificates(directory).unwrap();
        daemons::write_config(directory, PortRange::find(2000).unwrap()).unwrap();
        let more = "radius_timeout 1\nradius_retries 1";
        let client = self.radius.client(&[], &[], more);
        let text = self.by_the_ways(fs::read_to_string(&client).unwrap());
        fs::write(&client, text).unwrap();
        let dictionary = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/radius/dictionary");
        let databases = [
            self.mariadb.uri(),
            self.postgres.uri(),
            format!("sqlite://{}", self.sqlite().display()),
        ];
        let databases = self.by_the_ways(databases.join(" "));
        let text = format!(
            "accounting = file, database, radius\n[File]\npath = {}\n[Database]\ndburi = {}\n[Radius]\n\
             config_file = {}\nadditional_dictionary = {}\n",
            self.lines().display(),
            databases.replace('%', "%%"),
            client.display(),
            dictionary.display(),
        );
        daemons::extend_config(directory, &text).unwrap();
    }

    fn lines(&self) -> PathBuf {
        let disk = self.disk.as_ref().map(SmallDisk::path);
        disk.unwrap_or(self.scratch.path()).join("calls.jsonl")
    }

    fn sqlite(&self) -> PathBuf {
        self.scratch.path().join("calls.sqlite")
    }

    fn start(&self) -> Daemons {
        self.configure();
        Daemons::start(&binaries(), self.scratch.path()).unwrap()
    }

    /// None while no dispatcher answers.
    fn told(&self, backend: &str) -> Option<Told> {
        let socket = self.scratch.path().join("run/management.sock");
        let metrics = scrape::parse(&management::ask(&socket, "metrics").ok()?.join("\n"));
        let value = |what: &str| {
            let start = format!("mediaproxy_dispatcher_accounting_{what}{{backend=\"{backend}");
            let samples = &mut metrics.samples.iter();
            let found = samples.find(|(name, _)| name.starts_with(&start));
            *found.unwrap_or_else(|| panic!("no {start}")).1 as u64
        };
        Some(Told {
            is_up: value("backend_up") == 1,
            failures: value("failures_total"),
            delivered: value("delivered_records_total"),
            rejected: value("rejected_records_total"),
            waiting: value("waiting_records"),
        })
    }

    /// Waits until the dispatcher tells so of each of these backends; `is_so` gets what was told at first and what is
    /// now.
    fn wait_told(&self, what: &str, backends: &[&str], is_so: impl Fn(&Told, &Told) -> bool) {
        let end = clock::moment() + PATIENCE;
        // Where none answers yet, the one that is to come begins with nothing.
        let first = |backend: &&str| self.told(backend).unwrap_or_default();
        let first: Vec<Told> = backends.iter().map(first).collect();
        for (backend, first) in backends.iter().zip(first) {
            loop {
                let told = self.told(backend);
                if let Some(now) = told {
                    assert_eq!(now.rejected, 0, "{backend}");
                    if is_so(&first, &now) {
                        break;
                    }
                }
                assert!(clock::moment() < end, "{backend} is not {what}: {told:?}");
                thread::sleep(Duration::from_millis(30));
            }
        }
    }

    /// Some that were up get nothing any more, and records wait for them.
    fn wait_down(&self, backends: &[&str]) {
        self.wait_told("down", backends, |_, now| !now.is_up && now.waiting > 0);
    }

    /// Some get records from now on.
    fn wait_up(&self, backends: &[&str]) {
        self.wait_told("up", backends, |first, now| {
            now.is_up && now.delivered > first.delivered
        });
    }

    /// Calls go on, and these are not behind.
    fn wait_caught_up(&self, backends: &[&str]) {
        self.wait_told("caught up", backends, |_, now| {
            now.is_up && now.delivered > 0 && now.waiting < 10
        });
    }

    /// They go on to get nothing.
    fn wait_failing(&self, backends: &[&str]) {
        self.wait_told("failing", backends, |first, now| {
            now.failures > first.failures
        });
    }

    /// Records come through the slow ways, again and again: what was under way when they became slow is not enough.
    fn wait_slow(&self) {
        for _ in 0..3 {
            self.wait_told("slow", &["mysql", "postgres", "radius"], |first, now| {
                now.delivered >= first.delivered + 10
            });
        }
    }

    /// The disk of the file has no room, where there is one of its own.
    fn wait_disk_full(&self) {
        if self.disk.is_some() {
            self.wait_down(&["file"]);
            assert!(self.log().contains("No space left"));
        }
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

    /// By another process's transaction, as it were, until it is dropped.
    fn lock_sqlite(&self) -> rusqlite::Connection {
        let other = rusqlite::Connection::open(self.sqlite()).unwrap();
        other.busy_timeout(PATIENCE).unwrap();
        other.execute_batch("BEGIN EXCLUSIVE").unwrap();
        other
    }

    fn fill_disk(&self) {
        if let Some(disk) = &self.disk {
            let full = fs::write(disk.path().join("ballast"), [0; 256 * 1024]);
            assert!(full.is_err(), "the disk is full");
        }
    }

    /// Of the dispatcher that runs.
    fn log(&self) -> String {
        fs::read_to_string(self.scratch.path().join("media-dispatcher.log")).unwrap()
    }

    fn enlarge_disk(&self) {
        self.disk.iter().for_each(SmallDisk::enlarge);
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

    /// Waits until every backend has these calls.
    fn wait_for(&self, expected: &BTreeMap<&str, Sent>) {
        let end = clock::moment() + PATIENCE;
        loop {
            let missing = self.recorded().map(|(backend, calls)| {
                let is_missing = |id: &&&str| !calls.contains_key(**id);
                (backend, expected.keys().filter(is_missing).count())
            });
            if missing.iter().all(|(_, count)| *count == 0) {
                return;
            }
            assert!(clock::moment() < end, "missing: {missing:?}");
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

#[test]
fn a_thousand_calls_are_in_all_five_backends_with_what_was_sent() {
    let Some(world) = World::new() else { return };
    let running = world.start();
    let courses = place(&world.socket(), |number| number < 1000);
    let expected = answered(&courses);
    assert_eq!(expected.len(), 1000, "every call is answered");
    world.wait_for(&expected);
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

/// Has the callers end when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn backends_that_stop_die_and_are_slow_and_a_dispatcher_that_is_killed_lose_nothing() {
    let Some(mut world) = World::with_troubles() else {
        return;
    };
    let Daemons {
        dispatcher, relay, ..
    } = world.start();
    let mut dispatcher = Some(dispatcher);
    let (is_over, is_hurried) = (AtomicBool::new(false), AtomicBool::new(false));
    // Calls without a pause, so that the kill hits some.
    let hurry = |world: &World, backend: &str| {
        is_hurried.store(true, Ordering::Relaxed);
        world.wait_told("hurried", &[backend], |first, now| {
            now.delivered >= first.delivered + 20
        });
    };
    let courses = thread::scope(|scope| {
        let socket = world.socket();
        let (is_over, is_hurried) = (&is_over, &is_hurried);
        // However this ends: the scope waits for the callers.
        let over = Over(is_over);
        let calls = scope.spawn(move || {
            place(&socket, |_| {
                if !is_hurried.load(Ordering::Relaxed) {
                    thread::sleep(PAUSE);
                }
                !is_over.load(Ordering::Relaxed)
            })
        });
        world.wait_up(&ALL);
        world.mariadb.kill();
        world.postgres.freeze();
        let sqlite = world.lock_sqlite();
        world.fill_disk();
        world.wait_disk_full();
        world.wait_down(&["mysql", "postgres", "sqlite"]);
        hurry(&world, "radius");
        killed(&mut dispatcher);
        is_hurried.store(false, Ordering::Relaxed);
        dispatcher = Some(started(&world));
        world.wait_disk_full();
        world.wait_down(&["mysql", "postgres", "sqlite"]);
        world.wait_up(&["radius"]);
        world.mariadb.restart();
        world.radius.stop();
        world.wait_down(&["radius"]);
        world.wait_up(&["mysql"]);
        drop(sqlite);
        world.postgres.thaw();
        world.wait_up(&["postgres", "sqlite"]);
        world.postgres.kill();
        world.wait_down(&["postgres"]);
        hurry(&world, "mysql");
        killed(&mut dispatcher);
        is_hurried.store(false, Ordering::Relaxed);
        world.postgres.restart();
        world.radius.restart();
        dispatcher = Some(started(&world));
        world.enlarge_disk();
        world.wait_caught_up(&ALL);
        world.delay([SLOW, SLOW, SLOW_DATAGRAM]);
        world.wait_slow();
        world.delay([Duration::ZERO; 3]);
        world.mariadb.stop();
        world.radius.freeze();
        world.wait_down(&["mysql", "radius"]);
        world.mariadb.restart();
        world.radius.kill();
        world.postgres.stop();
        world.wait_failing(&["radius"]);
        world.wait_down(&["postgres"]);
        world.wait_up(&["mysql"]);
        world.postgres.restart();
        world.radius.restart();
        world.mariadb.freeze();
        world.wait_down(&["mysql"]);
        world.wait_up(&["postgres", "radius"]);
        world.mariadb.thaw();
        world.wait_caught_up(&ALL);
        drop(over);
        calls.join().unwrap()
    });
    let expected = answered(&courses);
    assert!(expected.len() > 100, "only {} calls", expected.len());
    world.wait_for(&expected);
    // What has yet to come, such as what is told a second time, has come when they have ended.
    relay.stop().unwrap();
    dispatcher.unwrap().stop().unwrap();
    for (backend, calls) in world.recorded() {
        for (call_id, sent) in &expected {
            let found = calls
                .get(*call_id)
                .unwrap_or_else(|| panic!("{backend}: {call_id} is lost"));
            let distinct: BTreeSet<_> = found.iter().map(|s| (s.caller, s.callee)).collect();
            assert_eq!(
                distinct,
                BTreeSet::from([(sent.caller, sent.callee)]),
                "{backend}: {call_id}"
            );
        }
        for (call_id, found) in &calls {
            let course = courses.get(call_id);
            let is_placed = matches!(course, Some(Course::Answered(_) | Course::Unclear));
            assert!(is_placed, "{backend}: {call_id} is strange: {course:?}");
            // Those that the kill hit, too. RADIUS: at least once on the wire.
            assert!(
                found.len() == 1 || backend == "radius",
                "{backend}: {call_id} {} times",
                found.len()
            );
        }
    }
}
