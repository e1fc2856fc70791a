//! Strangers, neighbours and rogue peers attack both daemons while calls go on. What the calls see is measured, so these
//! tests run alone: apart from all others, and one after the other. README.md in attacks/ says what is measured.

mod attacks {
    mod field;
    mod load;
    mod log_flood;
    mod neighbours;
    mod one_by_one;
    mod pace;
    mod probes;
    mod rogue_relay;
    mod rogues;
    mod soak;
    mod source;
    mod strangers;
    mod trial;
    mod watch;
}

/// As it.rs has it, what is needed here.
mod support {
    pub mod daemons;
    pub mod management;
    pub mod ports;
    pub mod proxy;
    pub mod scratch;
}
