//! Values as a camera or a microphone gives them: neighbours are alike.
//!
//! Noise is no sample of what models are made for. A gate that looks for contrast between
//! neighbours is open on noise and shut on anything else.

use super::inputs::Dice;

/// How many waves make up a value.
const WAVES: usize = 6;

/// How much each element differs from what its neighbours say, of the whole range.
const GRAIN: f64 = 0.02;

/// A wave in two directions, told by its values along each.
struct Wave {
    down: Vec<f64>,
    across: Vec<f64>,
}

impl Wave {
    fn new(height: usize, width: usize, dice: &mut Dice) -> Self {
        // Along a picture a few periods, along a recording many.
        let most = if height > 1 { 3.0 } else { width as f64 * 0.05 };
        let mut line = |extent: usize, most: f64| -> Vec<f64> {
            let periods = most * dice.unit().powi(2);
            let (start, step) = (dice.unit() * 6.3, periods * 6.3 / extent.max(1) as f64);
            let strength = dice.unit() / (1.0 + periods * 2.0 / most.max(1.0));
            let at = |i: usize| strength * (start + step * i as f64).cos();
            (0..extent).map(at).collect()
        };
        Self {
            down: line(height, if height > 1 { most } else { 0.0 }),
            across: line(width, most),
        }
    }
}

/// Elements of `dims` from `low` to `high`, brightness and contrast new for each sample.
pub(super) fn natural(dims: &[usize], (low, high): (f64, f64), dice: &mut Dice) -> Vec<f64> {
    let n = dims.iter().fold(1usize, |n, &d| n.saturating_mul(d));
    let width = dims.last().copied().unwrap_or(1).max(1);
    let height = match dims {
        [_, .., h, _] if dims.len() > 2 => (*h).max(1),
        _ => 1,
    };
    let waves: Vec<Wave> = (0..WAVES).map(|_| Wave::new(height, width, dice)).collect();
    // Something with an edge.
    let (top, left) = (dice.below(height), dice.below(width));
    let (bottom, right) = (top + dice.below(height), left + dice.below(width));
    let object = if height > 1 { dice.unit() - 0.5 } else { 0.0 };
    let mut out = Vec::with_capacity(n);
    for _ in 0..n / (height * width) {
        let gains: Vec<f64> = waves.iter().map(|_| 0.6 + 0.4 * dice.unit()).collect();
        for y in 0..height {
            for x in 0..width {
                let one = |(w, g): (&Wave, &f64)| {
                    let (a, b) = (w.down.get(y), w.across.get(x));
                    a.copied().unwrap_or(0.0) * b.copied().unwrap_or(0.0) * g
                };
                let inside = (top..bottom).contains(&y) && (left..right).contains(&x);
                let edge = if inside { object } else { 0.0 };
                out.push(waves.iter().zip(&gains).map(one).sum::<f64>() + edge);
            }
        }
    }
    let most = out.iter().fold(1e-9f64, |m, v| m.max(v.abs()));
    // Half of them reach both ends and beyond.
    let contrast = match dice.below(2) {
        0 => 1.2,
        _ => 0.15 + 0.85 * dice.unit(),
    };
    let room = (1.0 - contrast).max(0.0);
    let middle = room * (2.0 * dice.unit() - 1.0);
    for v in &mut out {
        let grain = GRAIN * (2.0 * dice.unit() - 1.0);
        let x = (middle + contrast * *v / most + grain).clamp(-1.0, 1.0);
        *v = low + (high - low) * (x + 1.0) / 2.0;
    }
    out.resize(n, low);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_alike_and_samples_are_not() {
        let mut dice = Dice::new(5);
        let mut means = Vec::new();
        for dims in [
            vec![1, 3, 16, 16],
            vec![1, 4000],
            vec![2, 20, 80],
            vec![0, 3],
        ] {
            let mut steps = 0.0;
            for _ in 0..20 {
                let v = natural(&dims, (-1.0, 1.0), &mut dice);
                assert_eq!(v.len(), dims.iter().product::<usize>());
                assert!(v.iter().all(|x| (-1.0..=1.0).contains(x)));
                let n = v.len().max(2) as f64 - 1.0;
                steps += v.windows(2).map(|w| (w[1] - w[0]).abs()).sum::<f64>() / n;
                means.push(v.iter().sum::<f64>() / n);
            }
            // Of even noise it would be 0.67.
            assert!(steps / 20.0 < 0.4, "{} in {dims:?}", steps / 20.0);
        }
        let most = means.iter().copied().fold(f64::MIN, f64::max);
        let least = means.iter().copied().fold(f64::MAX, f64::min);
        assert!(most - least > 0.5, "{least} to {most}");
    }
}
