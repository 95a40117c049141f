//! What a tensor loses.

use serde_json::{Value as Json, json};

/// Sums over values and what became of them, in the order of the values.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Sums {
    values: u64,
    error: f64,
    before: f64,
    after: f64,
    product: f64,
    greatest: f64,
}

impl Sums {
    pub(super) fn of(before: &[f32], after: &[f32]) -> Self {
        let mut s = Self {
            values: before.len() as u64,
            ..Self::default()
        };
        for (x, y) in before.iter().zip(after) {
            let (x, y) = (f64::from(*x), f64::from(*y));
            let d = x - y;
            s.error += d * d;
            s.before += x * x;
            s.after += y * y;
            s.product += x * y;
            s.greatest = s.greatest.max(d.abs());
        }
        s
    }

    pub(super) fn add(&mut self, o: &Self) {
        self.values += o.values;
        self.error += o.error;
        self.before += o.before;
        self.after += o.after;
        self.product += o.product;
        self.greatest = self.greatest.max(o.greatest);
    }

    pub(super) fn quality(&self) -> Quality {
        let n = self.values.max(1) as f64;
        let rms = (self.before / n).sqrt();
        let rmse = (self.error / n).sqrt();
        Quality {
            rmse,
            relative: if rms > 0.0 { rmse / rms } else { 0.0 },
            snr_db: (self.error > 0.0 && self.before > 0.0)
                .then(|| 10.0 * (self.before / self.error).log10()),
            cosine: (self.before > 0.0 && self.after > 0.0)
                .then(|| self.product / (self.before.sqrt() * self.after.sqrt())),
            greatest: self.greatest,
        }
    }
}

/// How near the quantized values are to the others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quality {
    /// The root of the mean squared error.
    pub rmse: f64,
    /// The same, divided by the root of the mean square of the values.
    pub relative: f64,
    /// Signal to noise in decibels; none where nothing was lost.
    pub snr_db: Option<f64>,
    /// The cosine of the angle between the two; none where one is all zeros.
    pub cosine: Option<f64>,
    /// The greatest error.
    pub greatest: f64,
}

impl Quality {
    /// As a document has it.
    pub fn to_json(&self) -> Json {
        json!({
            "rmse": self.rmse,
            "relative_rmse": self.relative,
            "snr_db": self.snr_db,
            "cosine": self.cosine,
            "max_abs": self.greatest,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_small_case() {
        let mut s = Sums::of(&[3.0, 0.0], &[3.0, 1.0]);
        s.add(&Sums::of(&[4.0, 0.0], &[4.0, 0.0]));
        let q = s.quality();
        assert_eq!(q.rmse, 0.5);
        assert_eq!(q.relative, 0.2);
        assert!((q.snr_db.unwrap() - 13.979_400_086).abs() < 1e-6);
        assert!((q.cosine.unwrap() - 25.0 / (5.0 * 26f64.sqrt())).abs() < 1e-12);
        assert_eq!(q.greatest, 1.0);
        let same = Sums::of(&[0.0], &[0.0]).quality();
        assert_eq!((same.snr_db, same.cosine, same.relative), (None, None, 0.0));
    }
}
