//! Biases that become 32-bit integers with the weights they belong to.

use weighbridge_core::Result;
use weighbridge_core::model::{DType, Tensor};

use super::job::{Places, scale_bytes};

/// A bias that becomes 32-bit integers in the product of two scales.
pub(super) struct Bias {
    pub(super) tensor: Tensor,
    /// The scale of the other factor.
    pub(super) input: f32,
    /// The same, where it is the other factor's own and the weight's may follow it.
    pub(super) own: Option<f32>,
    pub(super) beta: f32,
    pub(super) rooms: [usize; 3],
}

impl Bias {
    /// Widens the weight's scales where the bias would overflow, as
    /// `_adjust_weight_scale_for_int32_bias` of the reference does.
    pub(super) fn widen(&self, values: &[f32], scales: &mut [f32]) {
        let Some(input) = self.own else { return };
        let alone = scales.len() == 1;
        let most = values.iter().fold(0f32, |m, v| m.max(v.abs()));
        for (i, scale) in scales.iter_mut().enumerate() {
            let far = if alone {
                most
            } else {
                values.get(i).map_or(0.0, |v| v.abs())
            };
            let least = 1.0001 * (2.0 * f64::from(far)) / 4_294_967_294.0;
            let product = f64::from(input) * f64::from(*scale);
            if product > 0.0 && product < least {
                *scale = (f64::from(*scale) * (least / product)) as f32;
            }
        }
    }

    pub(super) fn write(&self, values: &[f32], scales: &[f32], places: &Places<'_>) -> Result<()> {
        let [q, s, z] = self.rooms;
        let scales: Vec<f32> = scales.iter().map(|w| self.input * w * self.beta).collect();
        let mut integers = Vec::with_capacity(values.len().saturating_mul(4));
        for (i, v) in values.iter().enumerate() {
            let scale = if scales.len() == 1 {
                scales.first()
            } else {
                scales.get(i)
            };
            let scale = f64::from(scale.copied().unwrap_or(1.0));
            let n = (f64::from(*v) / scale).round_ties_even();
            let n = n.clamp(f64::from(i32::MIN), f64::from(i32::MAX));
            integers.extend_from_slice(&(n as i32).to_le_bytes());
        }
        places.write(Some(q), 0, &integers)?;
        places.write(Some(s), 0, &scale_bytes(&scales, DType::F32))?;
        places.write(Some(z), 0, &vec![0; scales.len().saturating_mul(4)])
    }
}
