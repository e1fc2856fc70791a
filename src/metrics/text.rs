//! Prometheus' text format, version 0.0.4: families of samples, each with a line of help and its type. Pure.
//!
//! A family is written with its head also where it has no sample yet, so that who reads the text sees all that there
//! could be.

use std::fmt::{self, Write};
use std::time::Duration;

use super::count::{BOUNDS, Snapshot};

/// What a response with this text is labelled as.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A label's name and value.
pub type Label<'a> = (&'a str, &'a str);

/// The text in the making.
#[derive(Debug, Default)]
pub struct Exposition(String);

/// A family that has its head and is given its samples.
#[derive(Debug)]
pub struct Family<'a> {
    out: &'a mut String,
    name: &'a str,
}

/// A family of histograms.
#[derive(Debug)]
pub struct Histograms<'a>(Family<'a>);

/// A sample's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    Whole(u64),
    Real(f64),
}

impl Exposition {
    /// Something that is counted since the start; its name ends in `_total`.
    pub fn counter<'a>(&'a mut self, name: &'a str, help: &str) -> Family<'a> {
        self.family(name, "counter", help)
    }

    /// Something that goes up and down.
    pub fn gauge<'a>(&'a mut self, name: &'a str, help: &str) -> Family<'a> {
        self.family(name, "gauge", help)
    }

    /// Durations in seconds.
    pub fn histogram<'a>(&'a mut self, name: &'a str, help: &str) -> Histograms<'a> {
        Histograms(self.family(name, "histogram", help))
    }

    fn family<'a>(&'a mut self, name: &'a str, kind: &str, help: &str) -> Family<'a> {
        let out = &mut self.0;
        out.push_str("# HELP ");
        out.push_str(name);
        out.push(' ');
        escape(out, help, false);
        out.push_str("\n# TYPE ");
        out.push_str(name);
        out.push(' ');
        out.push_str(kind);
        out.push('\n');
        Family { out, name }
    }

    /// The text; each line has its end.
    pub fn finish(self) -> String {
        self.0
    }
}

impl Family<'_> {
    /// The only sample.
    pub fn is(&mut self, value: impl Into<Value>) {
        self.sample("", &[], None, value.into());
    }

    /// One of several samples; no two may have the same labels.
    pub fn with(&mut self, labels: &[Label<'_>], value: impl Into<Value>) -> &mut Self {
        self.sample("", labels, None, value.into());
        self
    }

    /// Writing to memory does not fail.
    fn sample(&mut self, suffix: &str, labels: &[Label<'_>], bound: Option<f64>, value: Value) {
        self.out.push_str(self.name);
        self.out.push_str(suffix);
        let mut before = '{';
        for (name, text) in labels {
            self.out.push(before);
            self.out.push_str(name);
            self.out.push_str("=\"");
            escape(self.out, text, true);
            self.out.push('"');
            before = ',';
        }
        if let Some(bound) = bound {
            let _ = write!(self.out, "{before}le=\"{}\"", Value::Real(bound));
            before = ',';
        }
        if before == ',' {
            self.out.push('}');
        }
        let _ = writeln!(self.out, " {value}");
    }
}

impl Histograms<'_> {
    /// One histogram; no two may have the same labels.
    pub fn with(&mut self, labels: &[Label<'_>], snapshot: &Snapshot) -> &mut Self {
        let family = &mut self.0;
        for (micros, count) in BOUNDS.iter().zip(snapshot.cumulative) {
            let bound = Duration::from_micros(*micros).as_secs_f64();
            family.sample("_bucket", labels, Some(bound), Value::Whole(count));
        }
        let count = Value::Whole(snapshot.count);
        family.sample("_bucket", labels, Some(f64::INFINITY), count);
        family.sample("_sum", labels, None, snapshot.sum.into());
        family.sample("_count", labels, None, count);
        self
    }
}

/// A quotation mark means something in a label's value only.
fn escape(out: &mut String, text: &str, is_label: bool) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if is_label => out.push_str("\\\""),
            c => out.push(c),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Whole(value) => value.fmt(f),
            Value::Real(value) if value.is_nan() => f.write_str("NaN"),
            Value::Real(f64::INFINITY) => f.write_str("+Inf"),
            Value::Real(f64::NEG_INFINITY) => f.write_str("-Inf"),
            Value::Real(value) => value.fmt(f),
        }
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Value {
        Value::Whole(value)
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Value {
        Value::Whole(value as u64)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Value {
        Value::Whole(u64::from(value))
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Value {
        Value::Real(value)
    }
}

impl From<Duration> for Value {
    /// Seconds.
    fn from(value: Duration) -> Value {
        Value::Real(value.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::super::count::Histogram;
    use super::*;

    #[test]
    fn families_with_and_without_samples() {
        let mut text = Exposition::default();
        text.counter("a_total", "How many.").is(u64::MAX);
        text.gauge("b", "Two.")
            .with(&[("x", "1")], true)
            .with(&[("x", "2"), ("y", "z")], 1.5);
        text.gauge("c", "None yet.");
        let want = "# HELP a_total How many.\n# TYPE a_total counter\na_total 18446744073709551615\n\
                    # HELP b Two.\n# TYPE b gauge\nb{x=\"1\"} 1\nb{x=\"2\",y=\"z\"} 1.5\n\
                    # HELP c None yet.\n# TYPE c gauge\n";
        assert_eq!(text.finish(), want);
    }

    #[test]
    fn what_a_peer_gives_as_a_name_forges_nothing() {
        let mut text = Exposition::default();
        text.gauge("a", "one\\two\n\"three\"")
            .with(&[("x", "\"} 1\nb{y=\"\\")], 0_u64);
        let want =
            "# HELP a one\\\\two\\n\"three\"\n# TYPE a gauge\na{x=\"\\\"} 1\\nb{y=\\\"\\\\\"} 0\n";
        assert_eq!(text.finish(), want);
    }

    #[test]
    fn numbers_as_prometheus_reads_them() {
        let shown = |value: f64| Value::from(value).to_string();
        assert_eq!(shown(f64::INFINITY), "+Inf");
        assert_eq!(shown(f64::NEG_INFINITY), "-Inf");
        assert_eq!(shown(f64::NAN), "NaN");
        assert_eq!(shown(0.000_1), "0.0001");
        assert_eq!(shown(1_764_000_000.0), "1764000000");
        assert_eq!(Value::from(Duration::from_millis(1500)).to_string(), "1.5");
    }

    #[test]
    fn a_histogram_has_buckets_sum_and_count() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(2));
        let mut text = Exposition::default();
        text.histogram("h_seconds", "Times.")
            .with(&[("k", "v")], &histogram.snapshot());
        let text = text.finish();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "# TYPE h_seconds histogram");
        assert_eq!(lines[2], "h_seconds_bucket{k=\"v\",le=\"0.0001\"} 0");
        assert_eq!(lines[6], "h_seconds_bucket{k=\"v\",le=\"0.0025\"} 1");
        assert_eq!(lines[16], "h_seconds_bucket{k=\"v\",le=\"5\"} 1");
        assert_eq!(lines[17], "h_seconds_bucket{k=\"v\",le=\"+Inf\"} 1");
        assert_eq!(lines[18], "h_seconds_sum{k=\"v\"} 0.002");
        assert_eq!(lines[19], "h_seconds_count{k=\"v\"} 1");
        assert_eq!(lines.len(), 20);
    }

    #[test]
    fn a_histogram_without_labels() {
        let mut text = Exposition::default();
        text.histogram("h_seconds", "Times.")
            .with(&[], &Snapshot::default());
        let text = text.finish();
        assert!(
            text.contains("\nh_seconds_bucket{le=\"0.0001\"} 0\n"),
            "{text}"
        );
        assert!(
            text.ends_with("\nh_seconds_sum 0\nh_seconds_count 0\n"),
            "{text}"
        );
    }
}
