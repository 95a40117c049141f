//! What `inspect` computes from the values, as it is shown.

use serde_json::{Value as Json, json};
use weighbridge::stats::{Number, Stats};

use crate::text::count;

/// The heads of the columns of [`stats_cells`].
pub(super) const STATS_HEAD: [&str; 7] = ["min", "max", "mean", "std", "zeros", "NaN", "Inf"];

/// Integers beyond this size are tagged text, since many readers hold numbers as doubles.
const SAFE_INT: u128 = 1 << 53;

/// A float as the JSON documents have it: NaN and the infinities are strings.
pub(super) fn number(x: f64) -> Json {
    if x.is_nan() {
        "nan".into()
    } else if x == f64::INFINITY {
        "inf".into()
    } else if x == f64::NEG_INFINITY {
        "-inf".into()
    } else {
        json!(x)
    }
}

fn either(n: Number) -> Json {
    match n {
        Number::Float(x) => number(x),
        Number::Int(i) if i.unsigned_abs() > SAFE_INT => json!({"$int": i.to_string()}),
        Number::Int(i) => i64::try_from(i).map_or(Json::Null, Json::from),
    }
}

pub(super) fn stats_json(s: &Stats) -> Json {
    json!({
        "count": s.count,
        "min": s.min.map(either),
        "max": s.max.map(either),
        "mean": s.mean.map(number),
        "std": s.std.map(number),
        "zeros": s.zeros,
        "nan": s.nan,
        "inf": s.inf,
    })
}

pub(super) fn stats_cells(s: Option<&Stats>) -> Vec<String> {
    let Some(s) = s else {
        return vec!["-".into(); STATS_HEAD.len()];
    };
    let either = |n: Option<Number>| match n {
        None => "-".into(),
        Some(Number::Int(i)) => i.to_string(),
        Some(Number::Float(x)) => short(x),
    };
    let float = |x: Option<f64>| x.map_or_else(|| "-".into(), short);
    vec![
        either(s.min),
        either(s.max),
        float(s.mean),
        float(s.std),
        count(s.zeros),
        count(s.nan),
        count(s.inf),
    ]
}

/// A float in at most five significant digits, without an exponent where it is readable.
fn short(x: f64) -> String {
    if x == 0.0 || (1e-3..1e6).contains(&x.abs()) {
        let digits = if x == 0.0 {
            0.0
        } else {
            x.abs().log10().floor()
        };
        let decimals = (4.0 - digits).clamp(0.0, 8.0) as usize;
        let text = format!("{x:.decimals$}");
        if text.contains('.') {
            return text.trim_end_matches('0').trim_end_matches('.').to_owned();
        }
        return text;
    }
    format!("{x:.4e}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_json_lacks_are_strings_and_big_ones_are_tagged() {
        assert_eq!(number(f64::NAN), "nan");
        assert_eq!(number(f64::INFINITY), "inf");
        assert_eq!(number(f64::NEG_INFINITY), "-inf");
        assert_eq!(number(0.5), 0.5);
        assert_eq!(either(Number::Int(-7)), -7);
        assert_eq!(either(Number::Int(1 << 53)), 1u64 << 53);
        assert_eq!(
            either(Number::Int(i128::from(u64::MAX))),
            json!({"$int": "18446744073709551615"})
        );
    }

    #[test]
    fn floats_are_short() {
        for (x, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (-0.5, "-0.5"),
            (123456.0, "123456"),
            (0.00123456, "0.0012346"),
            (1e-9, "1.0000e-9"),
            (2.5e20, "2.5000e20"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(short(x), text);
        }
    }
}
