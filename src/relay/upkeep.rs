//! What time brings about for the relay as a whole: traffic samples, certificates that are no longer good.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::dispatcher::Dispatcher;
use super::shared::Shared;
use crate::sys::clock;
use crate::tls;

/// The upkeep thread.
pub(super) fn run(shared: &Shared) {
    let sampling = Some(shared.settings.traffic_sampling_period).filter(|period| !period.is_zero());
    let start = clock::moment();
    let mut sample_at = sampling.map(|period| start + period);
    let mut certificates = tls::Watch::new(shared.settings.verify_interval, start);
    let mut look_at = start + tls::LOOK_INTERVAL;
    let mut last = (start, shared.workers.bytes());
    loop {
        let next = sample_at.map_or(look_at, |at| at.min(look_at));
        if shared.ending.pause(next.since(clock::moment())) {
            return;
        }
        let now = clock::moment();
        if let (Some(at), Some(period)) = (sample_at, sampling) {
            if now >= at {
                let bytes = shared.workers.bytes();
                let rate = bits_per_second(bytes.saturating_sub(last.1), now - last.0);
                shared.bps.store(rate, Ordering::Relaxed);
                last = (now, bytes);
                sample_at = Some(now + period);
            }
        }
        if now >= look_at {
            look_at = now + tls::LOOK_INTERVAL;
            if let Some(context) = certificates.look(&shared.store, now) {
                verify(shared, &context);
            }
            let lock = shared.lock.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(lock) = lock.as_ref() {
                lock.let_go();
            }
        }
    }
}

fn bits_per_second(bytes: u64, period: Duration) -> u64 {
    let milliseconds = period.as_millis().max(1);
    let bits = u128::from(bytes) * 8 * 1000 / milliseconds;
    u64::try_from(bits).unwrap_or(u64::MAX)
}

/// Closes the links of dispatchers whose certificate would not be accepted any more.
fn verify(shared: &Shared, context: &tls::Context) {
    for dispatcher in shared.dispatchers.all() {
        judge(shared, context, &dispatcher);
    }
}

/// Closes a link whose dispatcher's certificate would not be accepted any more.
pub(super) fn judge(shared: &Shared, context: &tls::Context, dispatcher: &Dispatcher) {
    let Some(certificates) = dispatcher.queue.certificates() else {
        return;
    };
    let passport = shared.settings.passport.as_ref();
    if let Err(reason) = context.verify_again(&certificates, passport) {
        let why = format!("its certificate was refused: {reason}");
        dispatcher.queue.close(&why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_bits_in_a_second() {
        assert_eq!(bits_per_second(1000, Duration::from_secs(2)), 4000);
        assert_eq!(bits_per_second(1000, Duration::from_millis(500)), 16_000);
        assert_eq!(bits_per_second(u64::MAX, Duration::ZERO), u64::MAX);
    }
}
