//! Strangers, neighbours and rogue peers attack both daemons, one kind in each test, and calls go on: set-up takes as long as
//! before, no packet is lost, every call is recorded, and afterwards memory and descriptors are what they were. The figures
//! of the last run are in `target/tmp/attacks`; soak.rs has all of them at once.

use std::time::Duration;

use super::field::Setting;
use super::probes;
use super::trial::{Limits, trial};
use super::{neighbours, rogues, strangers};

/// Ends of calls that the dispatcher does not know, which it records of one relay in an hour (docs/protocol.md).
const UNKNOWN: u64 = 20_000;

#[test]
fn half_requests_at_the_proxys_socket() {
    trial(
        "half requests",
        Setting::default(),
        &[("neighbour", neighbours::half_requests)],
        &[probes::ADMINISTRATOR_ASKS_HERE],
        Limits {
            // What its threads leave to the allocator; what is remembered of such removals.
            first: Some(16 << 10),
            ..Limits::default()
        },
    );
}

#[test]
fn requests_whose_answers_nobody_reads() {
    trial(
        "unread answers",
        Setting::default(),
        &[("neighbour", neighbours::unread_answers)],
        &[probes::ADMINISTRATOR_ASKS_HERE],
        Limits::default(),
    );
}

#[test]
fn removals_of_unknown_calls() {
    trial(
        "unknown removals",
        Setting::default(),
        &[("neighbour", neighbours::unknown_removals)],
        &[probes::ADMINISTRATOR_ASKS_HERE],
        Limits {
            // What its threads leave to the allocator; what is remembered of such removals.
            first: Some(16 << 10),
            ..Limits::default()
        },
    );
}

#[test]
fn administrators_that_never_read() {
    trial(
        "deaf administrators",
        Setting::default(),
        &[("neighbour", neighbours::deaf_administrators)],
        &[probes::ADMINISTRATOR_ASKS_HERE],
        Limits::default(),
    );
}

#[test]
fn somebody_answers_for_opensips() {
    trial(
        "false answers of OpenSIPS",
        Setting::default(),
        &[("neighbour", neighbours::lies)],
        &[probes::DIALOG_REFUSED],
        Limits::default(),
    );
}

#[test]
fn logs_that_nobody_reads() {
    trial(
        "unread logs",
        Setting::default(),
        &[
            ("neighbour", neighbours::stalled_logs),
            ("stranger", strangers::garbage),
        ],
        &[probes::ADMINISTRATOR_ASKS_HERE],
        Limits::default(),
    );
}

#[test]
fn calls_that_nobody_answers_up_to_the_last_port() {
    trial(
        "ringing",
        Setting {
            more: "[Dispatcher]\nmax_unanswered_per_address = 100\n",
            ..Setting::default()
        },
        &[("caller", neighbours::ringing)],
        &[probes::ADMINISTRATOR_ASKS_HERE],
        Limits {
            // Five for each of its calls, as for each call.
            lines: (600, 5),
            ..Limits::default()
        },
    );
}

#[test]
fn silent_connections_at_the_port_for_relays() {
    trial(
        "silent at the relay port",
        Setting::default(),
        &[("stranger", strangers::silent_to_relay_port)],
        &[probes::RELAY_CONNECTS],
        Limits::default(),
    );
}

#[test]
fn silent_connections_at_the_port_for_administrators() {
    trial(
        "silent at the management port",
        Setting::default(),
        &[("stranger", strangers::silent_to_management)],
        &[probes::ADMINISTRATOR_ASKS],
        Limits::default(),
    );
}

#[test]
fn a_client_hello_again_and_again() {
    trial(
        "replayed hellos",
        Setting::default(),
        &[("stranger", strangers::replayed_hellos)],
        &[probes::RELAY_CONNECTS, probes::ADMINISTRATOR_ASKS],
        Limits::default(),
    );
}

#[test]
fn garbage_at_the_tls_ports() {
    trial(
        "garbage",
        Setting::default(),
        &[("stranger", strangers::garbage)],
        &[probes::RELAY_CONNECTS, probes::ADMINISTRATOR_ASKS],
        Limits::default(),
    );
}

#[test]
fn datagrams_of_strangers_at_all_media_ports() {
    trial(
        "datagrams",
        Setting::default(),
        &[("stranger", strangers::datagrams)],
        &[probes::ADMINISTRATOR_ASKS_HERE],
        Limits::default(),
    );
}

#[test]
fn scrapers_that_take_their_time() {
    trial(
        "slow scrapers",
        Setting::default(),
        &[("stranger", strangers::slow_scrapers)],
        &[probes::BOTH_SCRAPED],
        Limits::default(),
    );
}

#[test]
fn a_relay_that_lists_more_sessions_than_it_can_have() {
    trial(
        "long lists",
        Setting::default(),
        &[("relay", rogues::long_lists)],
        &[probes::RELAY_CONNECTS],
        Limits::default(),
    );
}

#[test]
fn a_relay_that_invents_ends_of_calls() {
    trial(
        "invented ends",
        Setting::default(),
        &[("relay", rogues::invented_ends)],
        &[probes::RELAY_CONNECTS],
        Limits {
            // Calls of before a dispatcher's restart, or of an outage, look the same: so many of them are taken.
            invented: UNKNOWN,
            lines: (UNKNOWN + 40, 5),
            kept: 32 << 10,
            ..Limits::default()
        },
    );
}

#[test]
fn a_relay_with_call_ids_of_a_mebibyte() {
    trial(
        "huge call-ids",
        Setting::default(),
        &[("relay", rogues::huge_call_ids)],
        &[probes::RELAY_CONNECTS],
        Limits::default(),
    );
}

#[test]
fn a_relay_that_ends_others_calls() {
    trial(
        "others' dialogs",
        Setting::default(),
        &[("relay", rogues::others_dialogs)],
        &[probes::RELAY_CONNECTS],
        Limits {
            // It may have had these calls, but not those dialogs.
            invented: 200,
            lines: (240, 5),
            ..Limits::default()
        },
    );
}

#[test]
fn a_relay_that_tells_of_ends_in_arrays() {
    trial(
        "arrays",
        Setting::default(),
        &[("relay", rogues::arrays)],
        &[probes::RELAY_CONNECTS],
        Limits::default(),
    );
}

#[test]
fn a_dispatcher_that_fills_its_relay() {
    trial(
        "rogue dispatcher",
        Setting {
            rogue_dispatcher: true,
            ..Setting::default()
        },
        &[("dispatcher", rogues::dispatcher)],
        &[probes::BOTH_SCRAPED],
        Limits {
            length: Duration::from_secs(5),
            // Two for each of its calls, which it may place more than once.
            lines: (3000, 5),
            ..Limits::default()
        },
    );
}
