//! Tests of forwarding by conntrack, from workers' orders down.

mod adopting;
mod bypass;
mod fake;
mod forwarding;
mod lab;
mod messages;
mod real;
mod table;
mod takeover;
