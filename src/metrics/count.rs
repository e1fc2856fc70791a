//! Counters, gauges and histograms that any thread may add to. Relaxed atomics: nobody waits, nothing is allocated. Pure.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Something that is counted since the start.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// For a thread that counts by itself, and that nobody else counts with.
    pub fn set(&self, count: u64) {
        self.0.store(count, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many there are now.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

/// One of those that a gauge counts, until it is dropped.
#[derive(Debug)]
pub struct One<'a>(&'a Gauge);

impl Gauge {
    /// One more.
    pub fn enter(&self) -> One<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        One(self)
    }

    pub fn set(&self, count: u64) {
        self.0.store(count, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for One<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Upper bounds of a histogram's buckets, microseconds. A SIP proxy waits half a second for a dispatcher.
pub const BOUNDS: [u64; 15] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000,
];

/// How long things took.
#[derive(Debug, Default)]
pub struct Histogram {
    /// Not cumulative; the last is beyond all bounds.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

/// A histogram as it was at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Of each bound: how many took no longer.
    pub cumulative: [u64; BOUNDS.len()],
    pub count: u64,
    pub sum: Duration,
}

impl Histogram {
    pub fn observe(&self, took: Duration) {
        let bucket = BOUNDS
            .iter()
            .position(|bound| took <= Duration::from_micros(*bound));
        if let Some(bucket) = self.buckets.get(bucket.unwrap_or(BOUNDS.len())) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// Its count is the sum of its buckets, whatever is added meanwhile.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (bucket, cumulative) in self.buckets.iter().zip(&mut snapshot.cumulative) {
            snapshot.count += bucket.load(Ordering::Relaxed);
            *cumulative = snapshot.count;
        }
        let beyond = self.buckets.last();
        snapshot.count += beyond.map_or(0, |bucket| bucket.load(Ordering::Relaxed));
        snapshot.sum = Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed));
        snapshot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_its_bucket_and_all_above() {
        let histogram = Histogram::default();
        for micros in [0, 100, 101, 500_000, 5_000_000, 5_000_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        let snapshot = histogram.snapshot();
        assert_eq!(
            snapshot.cumulative,
            [2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4, 4, 4, 5]
        );
        assert_eq!(snapshot.count, 6);
        assert_eq!(snapshot.sum, Duration::from_micros(10_500_202));
    }

    #[test]
    fn what_is_absurdly_long_is_counted_all_the_same() {
        let histogram = Histogram::default();
        histogram.observe(Duration::MAX);
        assert_eq!(histogram.snapshot().count, 1);
        assert_eq!(histogram.snapshot().cumulative, [0; BOUNDS.len()]);
    }

    #[test]
    fn a_gauge_forgets_who_has_left() {
        let gauge = Gauge::default();
        let first = gauge.enter();
        let second = gauge.enter();
        assert_eq!(gauge.get(), 2);
        drop(first);
        assert_eq!(gauge.get(), 1);
        drop(second);
        assert_eq!(gauge.get(), 0);
    }

    #[test]
    fn threads_that_add_at_once_lose_nothing() {
        let (counter, histogram) = (Counter::default(), Histogram::default());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        counter.add(1);
                        histogram.observe(Duration::from_micros(200));
                    }
                });
            }
        });
        assert_eq!(counter.get(), 40_000);
        let snapshot = histogram.snapshot();
        assert_eq!(
            (snapshot.count, snapshot.sum),
            (40_000, Duration::from_secs(8))
        );
    }
}
