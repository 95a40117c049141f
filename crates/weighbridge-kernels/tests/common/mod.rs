//! Rows of every kind that a quantizer meets, from a seed.

/// Pseudo-random numbers, the same everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn bits(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// From 0 up to 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.unit() * n as f64) as usize
    }

    pub(crate) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

pub(crate) const KINDS: usize = 24;

/// A row of the given kind, all values finite.
pub(crate) fn row(r: &mut Random, kind: usize, n: usize) -> Vec<f32> {
    let at = r.below(n);
    let size = 10f64.powf(r.unit() * 8.0 - 5.0);
    (0..n)
        .map(|i| {
            let normal = r.normal();
            let x = match kind % KINDS {
                0 => normal * 0.02,
                1 => normal * size,
                2 => normal / (r.normal().powi(2) + r.normal().powi(2)).sqrt() * 0.05,
                3 => 0.0,
                4 => size,
                5 => -size,
                6 => normal * 1e-40,
                7 => f64::from(f32::from_bits(r.below(4) as u32)) * normal.signum(),
                8 => normal * 1e-38,
                9 => normal * 1e30,
                10 => normal * 3e37,
                11 if i == at => size * 1e4,
                11 => normal * size,
                12 => size * normal.signum(),
                13 if r.unit() < 0.9 => 0.0,
                13 => normal * size,
                14 => normal.abs() * size,
                15 => -normal.abs() * size,
                16 => (normal * 3.0).round() * size,
                17 => normal * 10f64.powf(r.unit() * 60.0 - 30.0),
                18 => normal * 10f64.powi([-30, -20, -12, 0, 9, 15][i / 16 % 6]),
                19 => (i as f64 - n as f64 / 2.0) * size,
                20 if i / 32 % 3 == 0 => 0.0,
                20 => normal,
                21 if i % 2 == 0 => -0.0,
                21 => 0.0,
                22 => 2f64.powi(r.below(9) as i32 - 4) * normal.signum(),
                _ if i == at => f64::from(f32::MAX),
                _ => normal * 1e-3,
            };
            (x as f32).clamp(-f32::MAX, f32::MAX)
        })
        .collect()
}

/// Importance weights of the given kind, none negative.
pub(crate) fn weights(r: &mut Random, kind: usize, n: usize) -> Vec<f32> {
    (0..n)
        .map(|i| match kind % 6 {
            0 => r.normal().powi(2) as f32,
            1 => 1.0,
            2 => 0.0,
            3 if r.unit() < 0.3 => 0.0,
            3 => (r.unit() * 1e-6) as f32,
            4 => 10f64.powf(r.unit() * 12.0 - 6.0) as f32,
            _ => f32::from(i / 32 % 2 == 0),
        })
        .collect()
}
