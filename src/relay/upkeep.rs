//! What time brings about for the relay as a whole: traffic samples, certificates that are no longer good.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Shared;
use super::link::Link;
use crate::sys::clock;

/// The upkeep thread.
pub fn run(shared: &Shared) {
    let sampling = Some(shared.settings.traffic_sampling_period).filter(|period| !period.is_zero());
    let verifying = shared.settings.verify_interval;
    let start = clock::mono();
    let mut sample_at = sampling.map(|period| start + period);
    let mut verify_at = start + verifying;
    let mut last = (start, shared.bytes());
    loop {
        let next = sample_at.map_or(verify_at, |at| at.min(verify_at));
        if shared.pause(next.saturating_sub(clock::mono())) {
            return;
        }
        let now = clock::mono();
        if let (Some(at), Some(period)) = (sample_at, sampling) {
            if now >= at {
                let bytes = shared.bytes();
                let rate = bits_per_second(bytes.saturating_sub(last.1), now - last.0);
                shared.bps.store(rate, Ordering::Relaxed);
                last = (now, bytes);
                sample_at = Some(now + period);
            }
        }
        if now >= verify_at {
            verify_at = now + verifying;
            verify(shared);
        }
    }
}

fn bits_per_second(bytes: u64, period: Duration) -> u64 {
    let milliseconds = period.as_millis().max(1);
    let bits = u128::from(bytes) * 8 * 1000 / milliseconds;
    u64::try_from(bits).unwrap_or(u64::MAX)
}

/// Reads changed files, and closes the links of dispatchers whose certificate would not be accepted any more.
fn verify(shared: &Shared) {
    shared.store.reload_if_changed();
    let context = shared.store.current();
    let passport = shared.settings.passport.as_ref();
    let refused = |link: &Link| {
        let certificates = link.outbox.certificates()?;
        context.verify_again(&certificates, passport).err()
    };
    for link in shared.all_links() {
        if let Some(reason) = refused(&link) {
            link.outbox
                .close(&format!("its certificate was refused: {reason}"));
        }
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
