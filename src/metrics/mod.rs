//! What a daemon counts, and how Prometheus reads it: `listen_metrics` of either daemon, and the command `metrics` of
//! the management port. docs/metrics.md lists every metric.
//!
//! ```text
//!  count      counters and histograms that any thread may add to: relaxed atomics, no lock    pure
//!  text       families of samples as text                                                     pure
//!  http       requests and responses of HTTP/1.1, as far as a scrape needs them               pure
//!  server     one thread that accepts, one for each client, both bounded
//!  process    what the operating system knows of this process
//! ```
//!
//! There is no registry: a daemon writes its families one after the other, each with the values of that moment.

pub mod count;
pub mod http;
pub mod process;
pub mod server;
pub mod text;

pub use count::{Counter, Gauge, Histogram};
pub use server::{Listener, listen};
pub use text::Exposition;
