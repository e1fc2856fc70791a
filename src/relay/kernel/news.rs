//! What the kernel thread tells workers of their flows.

use crate::counters::Counters;
use crate::moment::Moment;
use crate::session::{FlowId, Installed, Loss};

/// What a worker is told of its flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    Installed(FlowId, Installed),
    /// Relayed since the last news of this flow, by party.
    Traffic(FlowId, [Counters; 2]),
    Lost(FlowId, Loss, [Counters; 2]),
    Withdrawn(FlowId, [Counters; 2]),
    /// All that was relayed until this time has been told.
    Heard(Moment),
    /// The kernel forwards again what it could not: flows that wait may be offered.
    Mended,
}

/// Delivers news to a worker, by its number; does not wait for long.
pub type Deliver = Box<dyn Fn(usize, Vec<News>) + Send>;

/// News that wait to be delivered, in order.
#[derive(Debug)]
pub struct NewsQueue {
    workers: usize,
    queue: Vec<(usize, News)>,
}

impl NewsQueue {
    /// For so many workers.
    pub fn new(workers: usize) -> NewsQueue {
        NewsQueue {
            workers,
            queue: Vec::new(),
        }
    }

    pub fn tell(&mut self, worker: usize, news: News) {
        self.queue.push((worker, news));
    }

    pub fn tell_all(&mut self, news: News) {
        let workers = 0..self.workers;
        self.queue.extend(workers.map(|worker| (worker, news)));
    }

    /// Takes what is there, for each worker what is for it.
    pub fn take(&mut self) -> Vec<Vec<News>> {
        let mut bundles = vec![Vec::new(); self.workers];
        for (worker, news) in self.queue.drain(..) {
            if let Some(bundle) = bundles.get_mut(worker) {
                bundle.push(news);
            }
        }
        bundles
    }
}
