//! What accounting tells Prometheus (docs/metrics.md).

use super::{Accounting, Progress};
use crate::metrics::Exposition;
use crate::moment::UnixTime;
use crate::proto::record::RecordHead;
use crate::sys::clock;

/// Writes the families of accounting; without samples where nothing is accounted.
pub fn write(text: &mut Exposition, accounting: Option<&Accounting>) {
    write_backends(text, accounting);
    let mut journal = |name, help, value: &dyn Fn(&Accounting) -> u64| {
        let mut family = text.gauge(name, help);
        if let Some(accounting) = accounting {
            family.is(value(accounting));
        }
    };
    journal(
        "mediaproxy_dispatcher_accounting_journal_bytes",
        "Bytes of the journal of finished calls on disk, history included.",
        &|accounting| accounting.journal.size(),
    );
    journal(
        "mediaproxy_dispatcher_accounting_journal_limit_bytes",
        "What the journal may have: journal_limit.",
        &|accounting| accounting.journal.limit(),
    );
    journal(
        "mediaproxy_dispatcher_accounting_held_records",
        "Finished calls in memory that the journal refuses.",
        &|accounting| accounting.held() as u64,
    );
}

fn write_backends(text: &mut Exposition, accounting: Option<&Accounting>) {
    let backends = || accounting.into_iter().flat_map(Accounting::progress);
    let mut gauge = |name, help, value: &dyn Fn(&Progress) -> f64| {
        let mut family = text.gauge(name, help);
        for progress in backends() {
            family.with(&[("backend", progress.name())], value(progress));
        }
    };
    gauge(
        "mediaproxy_dispatcher_accounting_backend_up",
        "0 while a backend's last attempt has failed.",
        &|progress| f64::from(u8::from(!progress.is_down())),
    );
    gauge(
        "mediaproxy_dispatcher_accounting_waiting_records",
        "Finished calls that a backend has not got yet.",
        &|progress| progress.waiting() as f64,
    );
    gauge(
        "mediaproxy_dispatcher_accounting_oldest_record_age_seconds",
        "How long ago the first of these calls ended; 0 where none waits.",
        &|progress| {
            let age = accounting.and_then(|accounting| accounting.oldest_age(progress));
            age.unwrap_or_default()
        },
    );
    let mut counter = |name, help, value: &dyn Fn(&Progress) -> u64| {
        let mut family = text.counter(name, help);
        for progress in backends() {
            family.with(&[("backend", progress.name())], value(progress));
        }
    };
    counter(
        "mediaproxy_dispatcher_accounting_delivered_records_total",
        "Finished calls that a backend got.",
        &Progress::delivered,
    );
    counter(
        "mediaproxy_dispatcher_accounting_rejected_records_total",
        "Finished calls that a backend refused for good; they are in its rejected file.",
        &Progress::rejected,
    );
    counter(
        "mediaproxy_dispatcher_accounting_failures_total",
        "Attempts to deliver to a backend that failed.",
        &Progress::failures,
    );
}

impl Accounting {
    /// Seconds since the end of the first session that a backend has not got.
    fn oldest_age(&self, progress: &Progress) -> Option<f64> {
        if progress.waiting() == 0 {
            return None;
        }
        let record = self.journal.read_at(progress.position())?;
        age(&record, clock::now().unix)
    }
}

fn age(record: &[u8], now: UnixTime) -> Option<f64> {
    let head = RecordHead::parse(std::str::from_utf8(record).ok()?).ok()?;
    let end = head.start_time.number()? + head.duration.number().unwrap_or_default();
    Some((now.elapsed().as_secs_f64() - end).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_as_old_as_its_calls_end() {
        let now = UnixTime::from_secs(1000);
        let of = |times: &str| {
            let record = times.replace('{', r#"{"call_id": "a", "#);
            age(record.as_bytes(), now)
        };
        assert_eq!(of(r#"{"start_time": 900.5, "duration": 60}"#), Some(39.5));
        assert_eq!(of(r#"{"start_time": 900.5}"#), Some(99.5));
        assert_eq!(of(r#"{"start_time": 2000, "duration": 1}"#), Some(0.0));
        assert_eq!(of(r#"{"start_time": null, "duration": 1}"#), None);
        assert_eq!(of("{"), None);
    }

    #[test]
    fn without_accounting_the_families_are_empty() {
        let mut text = Exposition::default();
        write(&mut text, None);
        let text = text.finish();
        assert!(text.lines().all(|line| line.starts_with('#')), "{text}");
        assert_eq!(text.lines().count(), 2 * 9);
    }
}
