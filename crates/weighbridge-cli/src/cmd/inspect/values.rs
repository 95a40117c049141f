//! What `inspect` computes from the values: digests and statistics.

use serde_json::{Value as Json, json};

/// A number as the JSON documents have it: NaN and the infinities are strings.
pub(super) fn number(x: f64) -> Json {
    if x.is_nan() {
        "NaN".into()
    } else if x == f64::INFINITY {
        "Infinity".into()
    } else if x == f64::NEG_INFINITY {
        "-Infinity".into()
    } else {
        json!(x)
    }
}

/// Placeholder until the library's own lands.
#[derive(Debug)]
pub(super) struct Stats;

pub(super) const STATS_HEAD: [&str; 7] = ["min", "max", "mean", "std", "zeros", "NaN", "Inf"];

pub(super) fn stats_json(_: &Stats) -> Json {
    number(f64::NAN)
}

pub(super) fn stats_cells(_: Option<&Stats>) -> Vec<String> {
    vec![String::new(); STATS_HEAD.len()]
}
