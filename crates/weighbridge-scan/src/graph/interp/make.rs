//! Operators that make values of shapes, bounds and texts.

use std::sync::Arc;

use weighbridge_core::model::AttributeValue;

use super::elementwise::{broadcast, stretch};
use super::value::{Data, Kind, MOST_ELEMENTS, Tensor, count, load};
use super::{Call, Halt, Meter, Op};

pub(crate) fn shape(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let x = c.input(0)?;
    meter.spend(x.dims.len())?;
    let dims: Vec<i64> = x
        .dims
        .iter()
        .map(|&d| d.min(i64::MAX as usize) as i64)
        .collect();
    if c.op == Op::Size {
        let n = count(&x.dims).ok_or(Halt::Budget)?;
        return Ok(vec![Tensor::scalar(n as i64)]);
    }
    let rank = dims.len() as i64;
    let clamp = |n: i64| {
        let n = if n < 0 { n.saturating_add(rank) } else { n };
        n.clamp(0, rank) as usize
    };
    let start = clamp(c.attributes.int_or("start", 0));
    let end = clamp(c.attributes.int_or("end", rank));
    Ok(vec![Tensor::ints(
        dims.get(start..end).unwrap_or_default().to_vec(),
    )])
}

pub(crate) fn constant_of_shape(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let dims = c.input(0)?.to_ints()?;
    let one = |&d: &i64| usize::try_from(d).map_err(|_| Halt::Wrong("an extent is negative"));
    let dims = dims.iter().map(one).collect::<Result<Vec<_>, _>>()?;
    let fill = match c.attributes.get("value") {
        Some(AttributeValue::Tensor(t)) => load(t, 1)?,
        _ => Tensor::float(Kind::F32, vec![1], vec![0.0]),
    };
    let n = meter.value(&dims)?;
    if n > MOST_ELEMENTS {
        return Ok(vec![Tensor::unknown(fill.kind, dims)]);
    }
    Ok(vec![fill.picked(dims, &vec![0; n])])
}

pub(crate) fn range(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let three = (0..3).map(|i| c.input(i)).collect::<Result<Vec<_>, _>>()?;
    let kind = three.first().map_or(Kind::I64, |t| t.kind);
    let at = |i: usize| {
        let t: Option<&&Tensor> = three.get(i);
        t.and_then(|t| t.at(0)).ok_or(Halt::Unknown)
    };
    let (start, limit, step) = (at(0)?, at(1)?, at(2)?);
    let n = ((limit - start) / step).ceil();
    if !n.is_finite() || n > MOST_ELEMENTS as f64 {
        return Err(Halt::Budget);
    }
    let n = n.max(0.0) as usize;
    meter.value(&[n])?;
    let all = (0..n).map(|i| start + step * i as f64).collect();
    Ok(vec![Tensor::numbers(kind, vec![n], all)])
}

pub(crate) fn eye_like(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let x = c.input(0)?;
    let [r, k] = *x.dims.as_slice() else {
        return Err(Halt::Wrong("no matrix"));
    };
    let n = meter.value(&x.dims)?;
    let kind = match c.attributes.int("dtype") {
        Some(n) => Kind::numbered(n).ok_or(Halt::Unsupported)?,
        None => x.kind,
    };
    if n > MOST_ELEMENTS || r == 0 {
        return Ok(vec![Tensor::unknown(kind, x.dims.clone())]);
    }
    let shift = c.attributes.int_or("k", 0);
    let one = |i: usize| {
        let (row, column) = ((i / k.max(1)) as i64, (i % k.max(1)) as i64);
        f64::from(u8::from(row.saturating_add(shift) == column))
    };
    Ok(vec![Tensor::numbers(
        kind,
        x.dims.clone(),
        (0..n).map(one).collect(),
    )])
}

/// Random values are the mean of what they could be: they decide nothing.
pub(crate) fn random(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let x = c.input(0)?;
    let n = meter.value(&x.dims)?;
    let kind = if x.kind.is_float() { x.kind } else { Kind::F32 };
    if n > MOST_ELEMENTS {
        return Ok(vec![Tensor::unknown(kind, x.dims.clone())]);
    }
    let (low, high) = (
        c.attributes.float_or("low", 0.0),
        c.attributes.float_or("high", 0.0),
    );
    let mean = c.attributes.float_or("mean", (low + high) / 2.0);
    Ok(vec![Tensor::float(kind, x.dims.clone(), vec![mean; n])])
}

pub(crate) fn normalize_text(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let x = c.input(0)?;
    meter.value(&x.dims)?;
    if c.attributes.get("stopwords").is_some() {
        return Err(Halt::Unsupported);
    }
    let Data::Text(v) = &x.data else {
        return Ok(vec![Tensor::unknown(Kind::Text, x.dims.clone())]);
    };
    let how = c.attributes.text("case_change_action").unwrap_or("NONE");
    let one = |t: &Arc<[u8]>| -> Arc<[u8]> {
        let text = String::from_utf8_lossy(t);
        match how {
            "LOWER" => Arc::from(text.to_lowercase().as_bytes()),
            "UPPER" => Arc::from(text.to_uppercase().as_bytes()),
            _ => t.clone(),
        }
    };
    Ok(vec![Tensor::texts(
        x.dims.clone(),
        v.iter().map(one).collect(),
    )])
}

pub(crate) fn concat_text(c: &Call<'_, '_>, meter: &mut Meter) -> Result<Vec<Tensor>, Halt> {
    let (a, b) = (c.input(0)?, c.input(1)?);
    let dims = broadcast(&[&a.dims, &b.dims])?;
    meter.value(&dims)?;
    let (Data::Text(x), Data::Text(y)) = (&a.data, &b.data) else {
        return Ok(vec![Tensor::unknown(Kind::Text, dims)]);
    };
    let (i, j) = (stretch(&a.dims, &dims), stretch(&b.dims, &dims));
    let mut out: Vec<Arc<[u8]>> = Vec::with_capacity(i.len());
    for (&i, &j) in i.iter().zip(&j) {
        let both = [x.get(i), y.get(j)];
        let bytes: Vec<u8> = both
            .into_iter()
            .flatten()
            .flat_map(|t| t.iter().copied())
            .collect();
        meter.spend(bytes.len())?;
        out.push(Arc::from(bytes));
    }
    Ok(vec![Tensor::texts(dims, out)])
}
