//! What all threads of a relay share.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock};

use super::dispatchers::Dispatchers;
use super::ended_calls::EndedCalls;
use super::ending::Ending;
use super::identity::Identity;
use super::kernel::handle::KernelHandle;
use super::loops::Loops;
use super::question::Questions;
use super::request_counts::RequestCounts;
use super::settings::Settings;
use super::shared_ports::SharedPorts;
use super::socket_store::SocketStore;
use super::state_log::StateLog;
use super::taken_over::TakenOver;
use super::tallies::Tallies;
use super::workers::Workers;
use crate::moment::Moment;
use crate::sys::range_lock::RangeLock;
use crate::tls::Store;

/// See the module.
pub(super) struct Shared {
    pub settings: Settings,
    pub identity: Identity,
    pub store: Arc<Store>,
    pub ports: Arc<SharedPorts>,
    pub sockets: Arc<SocketStore>,
    pub workers: Workers,
    pub kernel: KernelHandle,
    pub dispatchers: Arc<Dispatchers>,
    pub ended: EndedCalls,
    /// Where the state of calls is kept for the next process; none keeps none.
    pub state: Option<StateLog>,
    pub tallies: Option<Arc<Tallies>>,
    /// What became of the calls of the process before this one.
    pub taken_over: OnceLock<TakenOver>,
    /// Calls go to the next process: no request is taken any more.
    pub is_handing_over: AtomicBool,
    pub requests: RequestCounts,
    /// For the thread of [`super::explain`].
    pub questions: Questions,
    /// Which calls send packets round, as far as the log has told.
    pub loops: Mutex<Loops>,
    /// The lock of the port range, until the relay has ended.
    pub lock: Mutex<Option<RangeLock>>,
    pub started: Moment,
    /// Bits a second over the last sampling period.
    pub bps: AtomicU64,
    pub draining: AtomicBool,
    /// It was said that parties cannot reach the relay.
    pub has_warned: AtomicBool,
    pub ending: Ending,
}
