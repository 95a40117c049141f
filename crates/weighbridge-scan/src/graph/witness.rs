//! An input that opens a gate, written so that it can be made again.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::cone::Cone;
use super::inputs::{Dice, Family, Input, Role, carries_sample, sample};
use super::interp::value::{Data, Tensor, Value};
use super::interp::{Halt, Meter};

/// Most runs that making a witness smaller may take.
const MOST_RUNS: usize = 400;

/// Most elements that a witness lists.
const MOST_LISTED: usize = 4096;

/// An input, as the elements that differ from a value that all others have.
#[derive(Debug, Clone)]
pub(crate) struct Witness {
    /// One for each input of the model.
    pub(crate) inputs: Vec<Value>,
    /// What the elements are that are not listed.
    base: Vec<Value>,
    /// How many elements of the sample are set, and how many there are.
    pub(crate) touched: usize,
    pub(crate) of: usize,
    /// Whether it opens on every input that has one value everywhere.
    pub(crate) blank: bool,
}

/// Makes `found` as plain as it can be while `reached` says yes, or as plain as the steps allow:
/// an input that was found opens the gate whether or not there is a shorter one.
pub(crate) fn reduce<'g>(
    cone: &mut Cone<'g>,
    inputs: &[Input],
    found: &[Value],
    reached: &dyn Fn(&Cone<'g>) -> bool,
    meter: &mut Meter,
) -> Result<Witness, Halt> {
    let used = cone.inputs.clone();
    // One run is kept back for what is handed out in the end.
    let last = cone.cost.saturating_mul(2);
    let mut run = |given: &[Value], meter: &mut Meter| -> Result<bool, Halt> {
        match cone.run(inputs, given, meter) {
            Err(Halt::Budget) => Err(Halt::Budget),
            _ => Ok(reached(cone)),
        }
    };
    let spare = |meter: &Meter| meter.left > last;
    let mut base = None;
    for fill in [0.5, 0.25, 0.0, 1.0, -1.0, 7.0, 3.0, 2.0, 5.0, 11.0] {
        let mut dice = Dice::new(1);
        let plain: Vec<Value> = inputs
            .iter()
            .map(|i| match i.role {
                Role::Tokens(_) if fill < 1.0 => sample(i, Family::Same(fill * 4.0), &mut dice),
                _ => sample(i, Family::Same(fill), &mut dice),
            })
            .collect();
        if !spare(meter) {
            break;
        }
        if !run(&plain, meter)? {
            base = Some(plain);
            break;
        }
    }
    let blank = base.is_none() && spare(meter);
    let base = base.unwrap_or_else(|| found.to_vec());
    // The places that differ, of inputs that the gate depends on.
    let mut best = base.clone();
    let mut places: Vec<(usize, usize)> = Vec::new();
    for (k, (b, f)) in best.iter_mut().zip(found).enumerate() {
        if used.contains(&k) {
            places.extend((0..f.len()).filter(|&i| differs(b, f, i)).map(|i| (k, i)));
            *b = f.clone();
        }
    }
    // Parts are put back to the base as long as the gate stays open, large ones first.
    let mut now = best;
    let mut size = places.len().div_ceil(2);
    let mut runs = 0usize;
    while size > 0 {
        let mut kept = Vec::new();
        for part in places.chunks(size) {
            runs += 1;
            if runs <= MOST_RUNS && spare(meter) {
                put(&mut now, &base, part);
                if run(&now, meter)? {
                    continue;
                }
                put(&mut now, found, part);
            }
            kept.extend_from_slice(part);
        }
        places = kept;
        if runs > MOST_RUNS || size == 1 || !spare(meter) {
            break;
        }
        size = size.div_ceil(2);
    }
    let inputs_now = now;
    // Left as it was last seen to work.
    let works = run(&inputs_now, meter)?;
    let inputs_now = if works { inputs_now } else { found.to_vec() };
    let of = inputs
        .iter()
        .enumerate()
        .filter(|(k, i)| used.contains(k) && carries_sample(i))
        .filter_map(|(k, _)| found.get(k).map(|v| v.len()))
        .sum();
    let touched = if works { places.len() } else { of };
    Ok(Witness {
        inputs: inputs_now,
        base,
        touched,
        of,
        blank,
    })
}

/// Takes over the elements at `places`, each an input and an element of it.
fn put(into: &mut [Value], from: &[Value], places: &[(usize, usize)]) {
    for &(k, i) in places {
        if let (Some(slot), Some(f)) = (into.get_mut(k), from.get(k)) {
            copy(Arc::make_mut(slot), f, i);
        }
    }
}

fn differs(a: &Tensor, b: &Tensor, i: usize) -> bool {
    match (&a.data, &b.data) {
        (Data::Text(a), Data::Text(b)) => a.get(i) != b.get(i),
        _ => a.at(i) != b.at(i),
    }
}

fn copy(into: &mut Tensor, from: &Tensor, i: usize) {
    match (&mut into.data, &from.data) {
        (Data::Float(a), Data::Float(b)) => {
            if let (Some(a), Some(b)) = (a.get_mut(i), b.get(i)) {
                *a = *b;
            }
        }
        (Data::Int(a), Data::Int(b)) => {
            if let (Some(a), Some(b)) = (a.get_mut(i), b.get(i)) {
                *a = *b;
            }
        }
        (Data::Text(a), Data::Text(b)) => {
            if let (Some(a), Some(b)) = (a.get_mut(i), b.get(i)) {
                *a = b.clone();
            }
        }
        _ => {}
    }
}

fn element(v: &Tensor, i: usize) -> Json {
    match &v.data {
        Data::Float(f) => json!(f.get(i).copied().unwrap_or_default()),
        Data::Int(n) => json!(n.get(i).copied().unwrap_or_default()),
        Data::Text(t) => {
            let text = t.get(i).map(|t| String::from_utf8_lossy(t).into_owned());
            json!(text.unwrap_or_default())
        }
        Data::Unknown => Json::Null,
    }
}

impl Witness {
    /// The places that are set in each input.
    pub(crate) fn places(&self) -> Vec<Vec<usize>> {
        let both = self.inputs.iter().zip(&self.base);
        both.map(|(v, b)| (0..v.len()).filter(|&i| differs(v, b, i)).collect())
            .collect()
    }

    /// The machine-readable form: every input with its type, its shape, the value that all
    /// elements have, and those that have another, by their place in row-major order.
    pub(crate) fn json(&self, inputs: &[Input]) -> Json {
        let mut all = Vec::new();
        for ((input, v), base) in inputs.iter().zip(&self.inputs).zip(&self.base) {
            let fill = element(base, 0);
            let places = (0..v.len()).filter(|&i| element(v, i) != fill);
            let listed: Vec<usize> = places.take(MOST_LISTED + 1).collect();
            let whole = listed.len() <= MOST_LISTED;
            let shown = listed.iter().take(MOST_LISTED);
            let set: Vec<Json> = shown.map(|&i| json!([i, element(v, i)])).collect();
            all.push(json!({
                "name": input.name,
                "dtype": input.kind.as_str(),
                "shape": input.dims,
                "base": fill,
                "set": set,
                "complete": whole,
            }));
        }
        json!({ "inputs": all })
    }

    /// The form for people: what is set in the inputs that matter.
    pub(crate) fn text(&self, inputs: &[Input], used: &[usize]) -> String {
        let mut parts = Vec::new();
        for &k in used {
            let (Some(input), Some(v), Some(base)) =
                (inputs.get(k), self.inputs.get(k), self.base.get(k))
            else {
                continue;
            };
            let places: Vec<usize> = (0..v.len()).filter(|&i| differs(v, base, i)).collect();
            if places.is_empty() {
                continue;
            }
            let one = |&i: &usize| format!("{}={}", index(&input.dims, i), short(&element(v, i)));
            let shown: Vec<String> = places.iter().take(8).map(one).collect();
            let more = match places.len() {
                n if n > 8 => format!(" and {} more", n - 8),
                _ => String::new(),
            };
            parts.push(format!(
                "{} of shape {:?}, {} everywhere but {}{more}",
                input.name,
                input.dims,
                short(&element(base, 0)),
                shown.join(" "),
            ));
        }
        match parts.is_empty() {
            true => "the same value everywhere".into(),
            false => parts.join("; "),
        }
    }
}

/// A flat place as coordinates.
fn index(dims: &[usize], flat: usize) -> String {
    let own = super::interp::value::strides(dims);
    let parts = own
        .iter()
        .zip(dims)
        .map(|(s, d)| (flat / s.max(&1) % d.max(&1)).to_string());
    format!("[{}]", parts.collect::<Vec<_>>().join(","))
}

fn short(v: &Json) -> String {
    match v.as_f64() {
        Some(x) if v.is_f64() => format!("{}", x as f32),
        _ => v.to_string(),
    }
}
