//! What the kernel thread tells workers of their flows, on its way there.

use crate::session::FlowNews;

/// Delivers news to a worker, by its number; does not wait for long.
pub(crate) type Deliver = Box<dyn Fn(usize, Vec<FlowNews>) + Send>;

/// FlowNews that wait to be delivered, in order.
#[derive(Debug)]
pub(crate) struct NewsQueue {
    workers: usize,
    queue: Vec<(usize, FlowNews)>,
}

impl NewsQueue {
    /// For so many workers.
    pub(crate) fn new(workers: usize) -> NewsQueue {
        NewsQueue {
            workers,
            queue: Vec::new(),
        }
    }

    pub(crate) fn tell(&mut self, worker: usize, news: FlowNews) {
        self.queue.push((worker, news));
    }

    pub(crate) fn tell_all(&mut self, news: FlowNews) {
        let workers = 0..self.workers;
        self.queue.extend(workers.map(|worker| (worker, news)));
    }

    /// Takes what is there, for each worker what is for it.
    pub(crate) fn take(&mut self) -> Vec<Vec<FlowNews>> {
        let mut bundles = vec![Vec::new(); self.workers];
        for (worker, news) in self.queue.drain(..) {
            if let Some(bundle) = bundles.get_mut(worker) {
                bundle.push(news);
            }
        }
        bundles
    }
}
