//! Every test that may run beside others, by feature, in one program: it links once. What has to run alone is in
//! attacks.rs, what needs a process of its own in daemonize.rs, and what needs a log of its own in fuzz_seeds.rs. README.md
//! here says where the tests of each feature are.

/// Finished calls: each backend with the real server, and nothing lost or told twice, whatever is killed or full.
mod accounting {
    #[cfg(all(
        feature = "file",
        feature = "sqlite",
        feature = "mysql",
        feature = "postgres",
        feature = "radius"
    ))]
    mod every_backend;
    #[cfg(feature = "file")]
    mod file;
    #[cfg(feature = "file")]
    mod full_disk;
    #[cfg(all(feature = "file", feature = "sqlite"))]
    mod killed;
    #[cfg(all(feature = "mysql", feature = "postgres"))]
    mod killed_databases;
    #[cfg(all(feature = "radius", feature = "sqlite"))]
    mod killed_radius;
    #[cfg(feature = "mysql")]
    mod mysql;
    #[cfg(feature = "postgres")]
    mod postgres;
    #[cfg(feature = "radius")]
    mod radius;
    #[cfg(feature = "radius")]
    mod radius_failures;
    #[cfg(feature = "file")]
    mod removals;
    #[cfg(feature = "file")]
    mod restarts;
    #[cfg(feature = "sqlite")]
    mod sqlite;
    #[cfg(all(feature = "file", feature = "sqlite"))]
    mod torn_journal;
    #[cfg(all(feature = "mysql", feature = "postgres"))]
    mod two_dispatchers;
}

/// `media-admin`: its commands, `top`, `doctor`, completion.
mod admin {
    mod commands;
    mod completion;
    mod doctor;
    mod doctor_calls;
    mod doctor_host;
    mod terminal;
}

/// A call from its offer to its end, as the SIP proxy, the dispatcher, the relay and the phones see it.
mod calls {
    mod away;
    mod dispatcher;
    mod dispatcher_transcripts;
    #[cfg(feature = "file")]
    mod killed_dispatcher;
    mod pairs;
    mod relay;
    mod relay_transcripts;
    mod script;
    mod spool;
    mod take_over;
    mod unanswered;
}

/// `config.ini`.
mod config {
    mod mediaproxy;
    mod reading;
    mod sample;
}

/// Pages and manual pages against the code.
mod docs {
    mod man_pages;
    mod pages;
}

/// Between dispatchers and relays: who finds whom and who is let in.
mod links {
    mod discovery;
    mod relays;
    mod strangers;
}

/// The management port and socket, and what pages and scripts read there.
mod management {
    mod clients;
    mod commands;
    mod drained;
    #[cfg(feature = "file")]
    mod pages;
}

/// Metrics, and the alerts and the dashboard that are made of them.
mod metrics {
    mod daemons;
    mod dispatcher;
    mod prometheus;
}

/// The daemons as processes: start, signals, end, logs, init scripts.
mod processes {
    mod dispatcher;
    mod init_scripts;
    mod relay;
    mod stalled_log;
}

/// What the project itself offers: `make demo`, `make test`.
mod project {
    mod demo;
    mod runner;
}

/// TLS connections and files.
mod tls {
    mod advice;
    mod connections;
    mod files;
    mod openssl;
}

/// What several tests need.
mod support {
    pub mod bed;
    pub mod between;
    pub mod callers;
    pub mod certs;
    pub mod copy;
    pub mod daemons;
    pub mod doctor;
    pub mod forge;
    pub mod from;
    pub mod host_restart;
    pub mod inner;
    pub mod killed;
    pub mod links;
    pub mod management;
    pub mod opensips;
    pub mod ports;
    pub mod programs;
    pub mod proxy;
    pub mod records;
    pub mod relay_bed;
    pub mod relay_process;
    pub mod scrape;
    pub mod scratch;
    pub mod servers;
    pub mod shape;
    pub mod site;
    pub mod skip;
    pub mod small_disk;
    pub mod watched;
}
