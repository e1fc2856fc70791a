//! Tests of top.

use super::*;
use crate::admin::show;
use crate::admin::view::Stream;

fn at(seconds: u64) -> Moment {
    Moment::after_start(Duration::from_secs(seconds))
}

fn session(call_id: &str, packets: [u64; 2]) -> Session {
    Session {
        call_id: call_id.into(),
        from_uri: format!("caller-of-{call_id}@example.com"),
        start_time: Some(1.0),
        duration: 60.0,
        streams: vec![Stream {
            status: "active".into(),
            caller_packets: packets[0],
            callee_packets: packets[1],
            caller_bytes: packets[0] * 200,
            ..Stream::default()
        }],
        ..Session::default()
    }
}

fn look() -> Look {
    let mut look = Look {
        relays: vec![Relay {
            ip: "192.0.2.1".into(),
            status: "active".into(),
            session_count: 3,
            bps_relayed: 64_000.0,
            ..Relay::default()
        }],
        ..Look::default()
    };
    let before = vec![
        session("quiet", [100, 100]),
        session("busy", [100, 100]),
        session("mute", [9, 0]),
    ];
    look.note(before, at(1));
    let now = vec![
        session("quiet", [101, 101]),
        session("busy", [200, 200]),
        session("mute", [9, 0]),
    ];
    look.note(now, at(2));
    look
}

fn shown(look: &Look, sort: SortKey, size: (usize, usize), colour: bool) -> Vec<String> {
    let mut wish = Wish {
        sort,
        ..Wish::default()
    };
    frame(look, &mut wish, size, colour)
}

fn place(lines: &[String], text: &str) -> Option<usize> {
    lines.iter().position(|line| line.contains(text))
}

/// Forty calls, sorted by their callers.
fn many() -> (Look, Wish) {
    let mut look = look();
    let sessions = (0..40).map(|n| session(&format!("{n:02}"), [100, 100]));
    look.note(sessions.collect(), at(3));
    let wish = Wish {
        sort: SortKey::Caller,
        ..Wish::default()
    };
    (look, wish)
}

#[test]
fn rates_are_shown_from_the_second_look_on() {
    let mut look = Look::default();
    look.note(vec![session("a", [100, 100])], at(1));
    let first = &shown(&look, SortKey::Traffic, (120, 30), false);
    let row = &first[place(first, "  caller-of-a")
        .or(place(first, "> caller-of-a"))
        .unwrap()];
    assert!(row.contains("  -  100/100"), "{row}");
    look.note(vec![session("a", [150, 100])], at(2));
    let second = shown(&look, SortKey::Traffic, (120, 30), false);
    assert!(place(&second, "80k  150/100").is_some(), "{second:#?}");
}

#[test]
fn a_long_list_is_scrolled_with_what_is_chosen() {
    let (look, mut wish) = many();
    let size = (100, 24);
    let lines = frame(&look, &mut wish, size, false);
    let page = wish.page;
    assert!((5..15).contains(&page), "{page}");
    assert!(
        place(&lines, &format!("calls by caller: 1 to {page} of 40")).is_some(),
        "{lines:#?}"
    );
    assert!(place(&lines, "> caller-of-00").is_some());
    for _ in 0..page {
        assert!(matches!(wish.on_key(Key::Down, &look), Next::Show));
    }
    let lines = frame(&look, &mut wish, size, false);
    assert!(
        place(&lines, &format!(": 2 to {} of 40", page + 1)).is_some(),
        "{lines:#?}"
    );
    assert!(place(&lines, &format!("> caller-of-{page:02}")).is_some());
    wish.on_key(Key::Last, &look);
    let lines = frame(&look, &mut wish, size, false);
    assert!(place(&lines, "to 40 of 40").is_some() && place(&lines, "> caller-of-39").is_some());
    wish.on_key(Key::PageUp, &look);
    frame(&look, &mut wish, size, false);
    wish.on_key(Key::Home, &look);
    let lines = frame(&look, &mut wish, size, false);
    assert!(place(&lines, ": 1 to ").is_some());
    // What was chosen stays so, wherever it goes; where it is over, the first is.
    wish.chosen = Some("17".to_owned());
    wish.on_key(Key::Letter(b'p'), &look);
    let lines = frame(&look, &mut wish, size, false);
    assert!(place(&lines, "> caller-of-17").is_some(), "{lines:#?}");
    wish.chosen = Some("over".to_owned());
    wish.on_key(Key::Letter(b'c'), &look);
    let lines = frame(&look, &mut wish, size, false);
    assert!(place(&lines, "> caller-of-00").is_some());
}

#[test]
fn what_is_cut_in_the_list_can_be_read() {
    let mut look = look();
    let one = show::tests::session();
    look.note(vec![one.clone()], at(3));
    let lines = shown(&look, SortKey::Traffic, (80, 24), false);
    let text = lines.concat();
    for part in [&one.call_id, &one.from_uri, &one.to_uri, "198.51.100.107"] {
        assert!(text.contains(part), "{part}: {lines:#?}");
    }
}

#[test]
fn a_call_is_explained_and_left_again() {
    let (look, mut wish) = many();
    wish.on_key(Key::Down, &look);
    assert!(matches!(wish.on_key(Key::Enter, &look), Next::Look));
    let explained = wish.explained.as_mut().unwrap();
    assert_eq!(explained.call_id, "01");
    explained.lines = (0..50)
        .map(|n| format!("line {n} {}", "word ".repeat(20)))
        .collect();
    let lines = frame(&look, &mut wish, (80, 24), false);
    assert_eq!(lines[0], "media-admin top: call 01, lines 1 to 21 of 100");
    assert!(
        lines[23] == BACK && lines[2].starts_with("line 0 "),
        "{lines:#?}"
    );
    wish.on_key(Key::PageDown, &look);
    let lines = frame(&look, &mut wish, (80, 24), false);
    assert_eq!(lines[0], "media-admin top: call 01, lines 22 to 42 of 100");
    wish.on_key(Key::Last, &look);
    assert!(frame(&look, &mut wish, (80, 24), false)[0].ends_with("to 100 of 100"));
    assert!(matches!(wish.on_key(Key::Letter(b'q'), &look), Next::Show));
    assert!(wish.explained.is_none());
    assert!(matches!(wish.on_key(Key::Letter(b'q'), &look), Next::End));
    let nothing = Look::default();
    assert!(matches!(wish.on_key(Key::Enter, &nothing), Next::Nothing));
    wish.on_key(Key::Down, &nothing);
}

#[test]
fn the_busiest_stand_above_and_the_worst_below() {
    let lines = shown(&look(), SortKey::Traffic, (120, 30), false);
    assert_eq!(lines[0], "media-admin top: 1 relay, 3 calls, 64k bit/s");
    let place = |text: &str| lines.iter().position(|line| line.contains(text)).unwrap();
    assert!(place("calls by traffic") < place("caller-of-busy"));
    assert!(place("caller-of-busy") < place("caller-of-quiet"));
    let busy = &lines[place("caller-of-busy")];
    assert!(
        busy.contains("160k"),
        "100 packets of 200 bytes in a second: {busy}"
    );
    let worst = place("worst:");
    assert!(lines[worst + 2].contains("caller-of-mute") && lines[worst + 2].contains("one way"));
    assert_eq!(lines.last().unwrap(), KEYS[0]);
}

#[test]
fn it_fits_any_screen() {
    for columns in [1, 20, 80, 200] {
        for rows in [1, 2, 5, 24, 100] {
            for failure in [None, Some("gone, and so are all its friends ".repeat(9))] {
                let look = Look { failure, ..look() };
                let lines = shown(&look, SortKey::Quality, (columns, rows), false);
                assert_eq!(lines.len(), rows);
                assert!(lines.iter().all(|line| line.chars().count() <= columns));
            }
        }
    }
}

#[test]
fn a_look_that_failed_is_said_and_the_old_one_stays() {
    let mut look = look();
    look.failure = Some("the dispatcher is gone\x1b".into());
    let lines = shown(&look, SortKey::Traffic, (80, 24), true);
    assert_eq!(
        lines.last().unwrap(),
        "\x1b[31mold figures: the dispatcher is gone\\u{1b}\x1b[0m"
    );
    // A long one is told whole.
    look.failure = Some("a sentence of its own ".repeat(6));
    let long = shown(&look, SortKey::Traffic, (80, 24), false);
    assert!(long[22].starts_with("old figures: a sentence"), "{long:?}");
    assert!(long[23].ends_with("of its own"), "{long:?}");
    assert!(lines.iter().any(|line| line.contains("caller-of-busy")));
}

#[test]
fn a_narrow_screen_shows_what_matters_most() {
    let row = row(&look(), &show::tests::session());
    let out = ["TIME PACKETS KERNEL RELAY", "KERNEL RELAY", "", ""];
    assert_eq!(show::tests::left_out(CALLS, &row), out);
    let page = include_str!("../../../man/media-admin.8").replace('\n', " ");
    let order = show::tests::order(CALLS);
    assert!(page.contains(&order), "{order}");
    for columns in show::tests::WIDTHS {
        let lines = shown(&look(), SortKey::Traffic, (columns, 24), false);
        let keys = lines.last().unwrap();
        assert!(keys.starts_with("q quit") && !keys.contains('…'), "{keys}");
        assert!(lines[0].ends_with("64k bit/s"), "{}", lines[0]);
    }
}

#[test]
fn keys_sort() {
    assert_eq!(
        (sort_of(b'w'), sort_of(b'x')),
        (Some(SortKey::Quality), None)
    );
    for key in [
        "t traffic",
        "d duration",
        "w worst",
        "p packets",
        "c caller",
        "s status",
    ] {
        assert!(KEYS[0].contains(key) && KEYS[1].contains(key));
        assert!(sort_of(key.as_bytes()[0]).is_some(), "{key}");
    }
}
