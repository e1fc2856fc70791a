//! DialogCounts that are ended at stand-ins for SIP proxies.

use serde_json::{Value, json};

use super::answers::Credible;
use super::*;
use crate::metrics::Counter;
use crate::moment::{Moment, UnixTime};
use crate::proto::name::Name;
use crate::support::opensips;
use crate::sys::datagram::Sender as From;
use crate::sys::users;
use std::os::unix::fs::PermissionsExt;

fn id(text: &str) -> DialogId {
    DialogId(text.into())
}

/// A proxy that answers what it is told to, or nothing.
fn stand_in(name: &str) -> (PathBuf, UnixDatagram) {
    let unique = format!("mediaproxy-dialog-{}-{name}", std::process::id());
    let dir = std::env::temp_dir().join(unique);
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join("proxy.sock");
    let _ = fs::remove_file(&path);
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    (dir, socket)
}

fn asked(proxy: &UnixDatagram) -> (Value, std::os::unix::net::SocketAddr) {
    let mut buffer = [0; 1000];
    let (length, from) = undisturbed(|| proxy.recv_from(&mut buffer)).unwrap();
    (serde_json::from_slice(&buffer[..length]).unwrap(), from)
}

/// Enders that ask OpenSIPS at the stand-in, and have no Kamailio.
fn start(dir: &Path) -> Result<Enders, String> {
    let opensips = at(&[dir.join("proxy.sock")], true);
    Enders::start(
        &opensips,
        &at(&[dir.join("none")], false),
        dir,
        (0o664, None),
    )
}

/// No answers.
fn none() -> Answers {
    Answers {
        secret: 0,
        came: crossbeam_channel::never(),
        emptied: Arc::default(),
    }
}

fn at(paths: &[PathBuf], is_set: bool) -> ProxySocket {
    ProxySocket {
        paths: paths.to_owned(),
        is_set,
    }
}

#[test]
fn the_socket_of_a_live_dispatcher_is_left_alone() {
    let (dir, proxy) = stand_in("second");
    let own = dir.join("opensips.sock");
    let live = bind(&own, 0o600, None).unwrap();
    let refused = start(&dir);
    let error = refused.map(|_| ()).unwrap_err();
    assert!(error.contains("another process listens there"), "{error}");
    proxy.send_to(b"answer", &own).unwrap();
    assert_eq!(
        undisturbed(|| live.recv(&mut [0; 10])).unwrap(),
        6,
        "it still gets answers"
    );
    drop(live);
    assert!(own.exists(), "left by a crash");
    drop(bind(&own, 0o600, None).unwrap());
    fs::remove_dir_all(dir).unwrap();
}

/// More dialogs than are asked for at a time.
#[test]
fn what_waits_at_the_end_is_named() {
    let (dir, proxy) = stand_in("end");
    let enders = start(&dir).unwrap();
    let (told, outcome) = crossbeam_channel::unbounded();
    for number in 0..WINDOW + 8 {
        let call_id = CallId(number.to_string().as_str().into());
        enders.end(
            &call_id,
            &id(&number.to_string()),
            Told::Asker(told.clone()),
        );
    }
    for _ in 0..WINDOW {
        asked(&proxy);
    }
    enders.stop(Duration::ZERO);
    let why = "this dispatcher ends".to_owned();
    assert_eq!(
        outcome.try_iter().collect::<Vec<_>>(),
        vec![Outcome::Failed(why); 8]
    );
    assert_eq!(enders.counts().unasked.get(), 8);
    fs::remove_dir_all(dir).unwrap();
}

/// It starts with the host, and a little later than this.
#[test]
fn a_proxy_that_is_not_there_yet_is_asked_every_minute_for_an_hour() {
    let (dir, proxy) = stand_in("later");
    let ledger = Arc::new(
        Ledger::open(&dir.join("calls"), UnixTime::EPOCH, |_| false)
            .unwrap()
            .0,
    );
    let due = ledger.due(
        &Name::untold(CallId("a".into())),
        &id("7"),
        UnixTime::EPOCH,
        1,
    );
    let socket = bind(&dir.join("own.sock"), 0o600, None).unwrap();
    let counts = Arc::new(DialogCounts::default());
    let paths = vec![dir.join("proxy.sock")];
    let mut ender = Ender::new(Proxy::OpenSips, paths, socket, none(), counts);
    let at = |seconds: u64| Moment::after_start(Duration::from_secs(10_000 + seconds));
    let pending = Arc::new(());
    let dialog = Dialog {
        call_id: due.name.call_id.clone(),
        dialog_id: due.dialog_id.clone(),
        told: Told::Ledger(Arc::clone(&ledger), due),
        since: at(0),
        pending: Some(Arc::clone(&pending)),
    };
    ender.unanswered(dialog, at(6));
    assert_eq!(
        Arc::strong_count(&pending),
        1,
        "nobody waits for it at the end"
    );
    assert_eq!(ender.rest(at(6)), LATER);
    ender.ask_again(at(65));
    assert!(ender.open.is_empty());
    ender.ask_again(at(66));
    assert_eq!(asked(&proxy).0["params"], json!(["0.7"]));
    let open = ender.open.drain().next().unwrap().1;
    ender.unanswered(open.dialog, at(3599));
    ender.ask_again(at(3659));
    let open = ender.open.drain().next().unwrap().1;
    ender.unanswered(open.dialog, at(3665));
    assert!(ender.later.is_empty(), "its id may be another one's");
    drop(ledger);
    let left = Ledger::open(&dir.join("calls"), UnixTime::EPOCH, |_| false)
        .unwrap()
        .1;
    assert_eq!(left.dialogs, []);
    fs::remove_dir_all(dir).unwrap();
}

/// The one that the proxy has answered for is over; the others wait for the next start, and are no error.
#[test]
fn what_the_ledger_has_is_settled_by_an_answer_alone() {
    let (dir, proxy) = stand_in("ledger");
    let open = || Ledger::open(&dir.join("calls"), UnixTime::EPOCH, |_| false).unwrap();
    let ledger = Arc::new(open().0);
    let enders = start(&dir).unwrap();
    for number in 0..WINDOW + 8 {
        let call_id = CallId(number.to_string().as_str().into());
        let dialog_id = id(&number.to_string());
        let due = ledger.due(
            &Name::untold(call_id.clone()),
            &dialog_id,
            UnixTime::EPOCH,
            number as u128,
        );
        enders.end(&call_id, &dialog_id, Told::Ledger(Arc::clone(&ledger), due));
    }
    let (request, from) = asked(&proxy);
    let answer = json!({"jsonrpc": "2.0", "id": request["id"], "result": {}});
    proxy
        .send_to_addr(answer.to_string().as_bytes(), &from)
        .unwrap();
    // One more is asked for in its place.
    for _ in 0..WINDOW {
        asked(&proxy);
    }
    enders.stop(Duration::ZERO);
    assert_eq!(enders.counts().unasked.get(), 0);
    let left = open().1.dialogs;
    assert_eq!(left.len(), WINDOW + 7);
    assert!(left.iter().all(|due| due.dialog_id != id("0")));
    fs::remove_dir_all(dir).unwrap();
}

/// Anybody may send to the socket: what he says ends nothing, and what came before the question is no answer to it.
#[test]
fn d5_nobody_else_answers_for_the_proxy() {
    let (dir, proxy) = stand_in("stranger");
    let own = dir.join("opensips.sock");
    let enders = start(&dir).unwrap();
    let elsewhere = UnixDatagram::bind(dir.join("elsewhere.sock")).unwrap();
    let unnamed = UnixDatagram::unbound().unwrap();
    for socket in [&elsewhere, &unnamed] {
        let limit = Some(Duration::from_secs(20));
        socket.set_write_timeout(limit).unwrap();
        // More than its queue takes: it is read while nothing is asked, and a full one would hold up the proxy.
        for _ in 0..100 {
            socket.send_to(b"200 OK", &own).unwrap();
            socket
                .send_to(br#"{"id": "1", "result": "OK"}"#, &own)
                .unwrap();
        }
    }
    let (told, outcome) = unbounded();
    enders.end(&CallId("a".into()), &id("1"), Told::Asker(told));
    let (request, _) = asked(&proxy);
    let name = &request["id"];
    let right = json!({"id": name, "result": "OK"}).to_string();
    elsewhere.send_to(right.as_bytes(), &own).unwrap();
    elsewhere.send_to(b"200 OK", &own).unwrap();
    for odd in [
        "{}",
        "[]",
        "null",
        r#"{"result": "OK"}"#,
        r#"{"id": "1", "result": "OK"}"#,
    ] {
        unnamed.send_to(odd.as_bytes(), &own).unwrap();
    }
    let nothing = json!({"jsonrpc": "2.0", "id": name}).to_string();
    unnamed.send_to(nothing.as_bytes(), &own).unwrap();
    let busy = json!({"id": name, "error": {"code": 500, "message": "busy"}}).to_string();
    // OpenSIPS answers from a socket without a name.
    unnamed.send_to(busy.as_bytes(), &own).unwrap();
    let refused = outcome.recv().unwrap();
    assert!(
        matches!(&refused, Outcome::Failed(why) if why.contains("busy")),
        "{refused:?}"
    );
    let counts = enders.counts();
    assert_eq!((counts.ended.get(), counts.refused.get()), (0, 1));
    fs::remove_dir_all(dir).unwrap();
}

/// Who may ask may answer, and nobody else: a full queue costs answers.
#[test]
fn d5_the_socket_of_answers_is_for_whom_the_socket_of_requests_is_for() {
    let dir = crate::sys::scratch::Scratch::new("answers");
    let path = dir.path().join("own.sock");
    let group = users::is_root().then_some(Group {
        id: 1,
        is_required: false,
    });
    let _socket = bind(&path, 0o660, group).unwrap();
    let found = fs::metadata(&path).unwrap();
    assert_eq!(found.permissions().mode() & 0o777, 0o660);
    assert!(group.is_none_or(|group| std::os::unix::fs::MetadataExt::gid(&found) == group.id));
}

/// A text has no id: it counts where root, the socket's owner or who asks for relays has sent it.
#[test]
fn d5_a_text_of_another_user_is_no_answer() {
    let (dir, _proxy) = stand_in("text");
    let paths = vec![dir.join("proxy.sock")];
    let own = users::own_number();
    let by = |user, path: Option<&str>| From {
        user,
        path: path.map(|name| dir.join(name)),
    };
    // Another name of the same socket.
    std::os::unix::fs::symlink(&paths[0], dir.join("link")).unwrap();
    let askers = Askers::default();
    let credible = Credible {
        secret: 7,
        paths,
        askers: Arc::clone(&askers),
    };
    let is = |from: &From, to| credible.believes(from, to);
    assert!(is(&by(Some(0), None), To::First) && is(&by(Some(own), None), To::First));
    for path in [None, Some("proxy.sock"), Some("link")] {
        let other = by(Some(own + 1), path);
        assert!(!is(&other, To::First) && !is(&other, To::Nothing));
        assert!(!is(&other, To::Number(1 << 64 | 8)));
        // OpenSIPS may run as another user than the one whose socket it is.
        assert!(is(&other, To::Number(1 << 64 | 7)));
    }
    assert!(!is(&by(None, None), To::First));
    let elsewhere = by(Some(own), Some("elsewhere.sock"));
    assert!(!is(&elsewhere, To::First) && !is(&elsewhere, To::Number(1 << 64 | 7)));
    // As with OpenSIPS before 3.0 whose unix_socket_user is another than its own.
    lock(&askers).insert(own + 1);
    assert!(is(&by(Some(own + 1), None), To::First));
    assert!(!is(&by(Some(own + 2), None), To::First));
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_proxy_that_does_not_answer_is_asked_once_more_and_holds_up_no_other_dialog() {
    let (dir, proxy) = stand_in("silent");
    let enders = start(&dir).unwrap();
    let (told, outcome) = crossbeam_channel::unbounded();
    enders.end(&CallId("a".into()), &id("1"), Told::Asker(told.clone()));
    enders.end(&CallId("b".into()), &id("2"), Told::Asker(told));
    let (first, from) = asked(&proxy);
    let (second, _) = asked(&proxy);
    assert_eq!(
        (&first["params"][0], &second["params"][0]),
        (&json!("0.1"), &json!("0.2"))
    );
    let path = from.as_pathname().unwrap();
    assert_eq!(path, dir.join("opensips.sock"));
    assert_eq!(
        fs::metadata(path).unwrap().permissions().mode() & 0o777,
        0o664
    );
    proxy.send_to(b"nonsense", path).unwrap();
    let answer = json!({"jsonrpc": "2.0", "result": "OK", "id": second["id"]}).to_string();
    proxy.send_to(answer.as_bytes(), path).unwrap();
    let refused = outcome.recv().unwrap();
    assert!(matches!(refused, Outcome::Failed(why) if why == "OpenSIPS refuses: nonsense"));
    assert_eq!(outcome.recv(), Ok(Outcome::Ended(Proxy::OpenSips)));
    enders.end(&CallId("c".into()), &id("3"), Told::Nobody);
    let (third, _) = asked(&proxy);
    assert_eq!(
        third["params"][0], "0.3",
        "the first was refused by nonsense, the second answered"
    );
    let counts = enders.counts();
    let counts = [&counts.refused, &counts.ended, &counts.unasked].map(Counter::get);
    assert_eq!(counts, [1, 1, 0]);
    let (again, _) = asked(&proxy);
    assert_eq!(again, third, "once more after {ANSWER_LIMIT:?}");
    fs::remove_dir_all(dir).unwrap();
}

/// Each version ends what is asked for in its own form, which is learned.
#[test]
fn d1_each_opensips_is_asked_in_the_form_that_it_takes() {
    use crate::support::opensips::Version;
    for (version, sent_as_halves, first, later) in [
        (Version::V2_2, true, 3, 1),
        (Version::V2_4, true, 2, 1),
        // The module of 3.0.0.
        (Version::V3_0, true, 2, 1),
        (Version::V3_0, false, 2, 1),
        (Version::V3_1, false, 1, 1),
        (Version::Later, false, 4, 2),
    ] {
        let site = Site::new(&format!("{version:?}-{sent_as_halves}"), version);
        let end = |dialog: &opensips::Dialog| {
            let id = if sent_as_halves {
                format!("{}:{}", dialog.entry, dialog.id)
            } else {
                dialog.number()
            };
            site.end(&dialog.call_id, &id)
        };
        for (n, want) in [(1, first), (2, later), (3, later)] {
            let dialog = opensips::Dialog::new(0xb2e, 0x46ca_a32d + n, &format!("{n}@x"));
            site.opensips
                .with(|state| state.dialogs.push(dialog.clone()));
            assert_eq!(end(&dialog), Outcome::Ended(Proxy::OpenSips), "{version:?}");
            assert_eq!(site.opensips.with(|state| state.dialogs.len()), 0);
            let asked = site.opensips.asked();
            assert_eq!(asked.len(), want, "{version:?}: {asked:?}");
        }
        let gone = opensips::Dialog::new(1, 2, "4@x");
        assert_eq!(end(&gone), Outcome::Gone(Proxy::OpenSips), "{version:?}");
    }
}

/// OpenSIPS is upgraded, and downgraded.
#[test]
fn d2_another_version_is_learned_anew() {
    use crate::support::opensips::Version;
    let site = Site::new("upgrade", Version::V3_0);
    for (n, version) in [Version::V3_0, Version::V3_1, Version::V3_0, Version::V3_1]
        .into_iter()
        .enumerate()
    {
        let dialog = opensips::Dialog::new(7, 8, &format!("{n}@x"));
        site.opensips.with(|state| {
            state.version = version;
            state.dialogs.push(dialog.clone());
        });
        let outcome = site.end(&dialog.call_id, &dialog.number());
        assert_eq!(outcome, Outcome::Ended(Proxy::OpenSips), "{version:?}");
        assert_eq!(
            site.opensips.asked().len(),
            2,
            "the form before comes first"
        );
    }
}

/// 404 to all, and yet there.
#[test]
fn d3_a_dialog_that_opensips_lists_and_does_not_find_is_no_end() {
    let site = Site::new("unclear", opensips::Version::V3_1);
    let dialog = opensips::Dialog::new(7, 8, "a@x");
    site.opensips.with(|state| {
        state.dialogs.push(dialog.clone());
        state.finds_nothing = true;
    });
    let outcome = site.end("a@x", &dialog.number());
    assert!(
        matches!(&outcome, Outcome::Failed(why) if why.contains("lists it as 7.8")),
        "{outcome:?}"
    );
    // Nobody knows which form this version takes, and it lists nothing.
    site.opensips.with(|state| state.lists_nothing = true);
    let outcome = site.end("a@x", &dialog.number());
    assert!(
        matches!(&outcome, Outcome::Failed(why) if why.contains("dlg_list fails")),
        "{outcome:?}"
    );
    let refused = site.enders.counts().refused.get();
    assert_eq!(refused, 2);
    // It has ended one, so its form is known, and 404 means what it says.
    site.opensips.with(|state| state.finds_nothing = false);
    assert_eq!(
        site.end("a@x", &dialog.number()),
        Outcome::Ended(Proxy::OpenSips)
    );
    assert_eq!(
        site.end("a@x", &dialog.number()),
        Outcome::Gone(Proxy::OpenSips)
    );
}

#[test]
fn d4_a_call_id_that_was_used_again_ends_no_other_dialog() {
    let site = Site::new("reused", opensips::Version::V3_1);
    let other = opensips::Dialog::new(7, 9, "a@x");
    site.opensips
        .with(|state| state.dialogs.push(other.clone()));
    let gone = opensips::Dialog::new(7, 8, "a@x");
    assert_eq!(
        site.end("a@x", &gone.number()),
        Outcome::Gone(Proxy::OpenSips)
    );
    assert_eq!(site.opensips.with(|state| state.dialogs.clone()), [other]);
}

/// More dialogs than are asked for at a time, while the form is not known yet.
#[test]
fn many_dialogs_are_ended_while_the_form_is_learned() {
    let site = Site::new("many", opensips::Version::V3_0);
    let (told, outcome) = unbounded();
    let count = 5 * WINDOW;
    for n in 0..count {
        let dialog = opensips::Dialog::new(7, u32::try_from(n).unwrap(), &format!("{n}@x"));
        site.opensips
            .with(|state| state.dialogs.push(dialog.clone()));
        let call_id = CallId(dialog.call_id.as_str().into());
        let number = dialog.number();
        site.enders
            .end(&call_id, &id(&number), Told::Asker(told.clone()));
    }
    for _ in 0..count {
        assert_eq!(outcome.recv(), Ok(Outcome::Ended(Proxy::OpenSips)));
    }
    let asked = site.opensips.asked().len();
    assert!(asked <= count + WINDOW, "{asked} for {count}");
}

/// OpenSIPS before 3.0.1 says `h:i` as Kamailio does: who is there is asked.
#[test]
fn a_socket_is_found_where_the_packages_put_it() {
    let dir = std::env::temp_dir().join(format!("mediaproxy-dialog-{}-found", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let [kamailio, other, opensips] =
        ["rpc.sock", "kamailio_rpc.sock", "socket"].map(|name| dir.join(name));
    let enders = Enders::start(
        &at(std::slice::from_ref(&opensips), false),
        &at(&[other.clone(), kamailio.clone()], false),
        &dir,
        (0o600, None),
    )
    .unwrap();
    let (told, outcome) = unbounded();
    let end = || enders.end(&CallId("a@x".into()), &id("1:2"), Told::Asker(told.clone()));
    end();
    let refused = outcome.recv().unwrap();
    let Outcome::Failed(why) = refused else {
        panic!("{refused:?}");
    };
    assert!(
        why.starts_with(&format!(
            "Kamailio has no socket at {} or {}: ",
            other.display(),
            kamailio.display()
        )),
        "{why}"
    );
    let stand_in = opensips::OpenSips::listen(&opensips, opensips::Version::V2_4);
    stand_in.with(|state| state.dialogs.push(opensips::Dialog::new(1, 2, "a@x")));
    end();
    assert_eq!(outcome.recv(), Ok(Outcome::Ended(Proxy::OpenSips)));
    // Kamailio's goes first, and the socket that somebody reads.
    drop(UnixDatagram::bind(&other).unwrap());
    let proxy = UnixDatagram::bind(&kamailio).unwrap();
    end();
    let (request, from) = asked(&proxy);
    assert_eq!(request["params"], json!([1, 2]));
    let answer = json!({"jsonrpc": "2.0", "result": {}, "id": request["id"]});
    proxy
        .send_to_addr(answer.to_string().as_bytes(), &from)
        .unwrap();
    assert_eq!(outcome.recv(), Ok(Outcome::Ended(Proxy::Kamailio)));
    // It is just starting again: it is waited for.
    drop(proxy);
    fs::remove_file(&kamailio).unwrap();
    let queue = enders.queue(&id("1:2")).unwrap();
    assert_eq!(queue.socket.paths.len(), 2);
    fs::remove_dir_all(dir).unwrap();
}

/// OpenSIPS as a stand-in, and those who ask it.
struct Site {
    dir: PathBuf,
    opensips: opensips::OpenSips,
    enders: Enders,
}

impl Site {
    fn new(name: &str, version: opensips::Version) -> Site {
        let unique = format!("mediaproxy-dialog-{}-{name}", std::process::id());
        let dir = std::env::temp_dir().join(unique);
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("proxy.sock");
        let opensips = opensips::OpenSips::listen(&path, version);
        let enders = start(&dir).unwrap();
        Site {
            dir,
            opensips,
            enders,
        }
    }

    fn end(&self, call_id: &str, dialog_id: &str) -> Outcome {
        let (told, outcome) = unbounded();
        self.enders
            .end(&CallId(call_id.into()), &id(dialog_id), Told::Asker(told));
        outcome.recv().unwrap()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}
