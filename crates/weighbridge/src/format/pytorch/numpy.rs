//! NumPy arrays and scalars inside pickles, read as data (`numpy/_core/multiarray`, `__reduce__`
//! and `__setstate__` of `ndarray`, `dtype` and the scalar types).

use std::borrow::Cow;

use sha2::{Digest, Sha256};
use weighbridge_core::model::{NdArray, Value};
use weighbridge_core::pickle::{Call, Node, NodeId, Trace};
use weighbridge_core::{Error, Limits, Result};

/// A plain NumPy dtype.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NpType {
    kind: u8,
    size: u64,
    big_endian: bool,
}

impl NpType {
    /// Reads a type string such as `f8`, `<i4` or `U12`.
    fn parse(code: &str) -> Option<Self> {
        let (order, rest) = match code.as_bytes().first()? {
            b @ (b'<' | b'>' | b'|' | b'=') => (*b, code.get(1..)?),
            _ => (b'<', code),
        };
        let kind = *rest.as_bytes().first()?;
        let size: u64 = match rest.get(1..)? {
            "" if kind == b'?' => 1,
            digits => digits.parse().ok()?,
        };
        let kind = if kind == b'?' { b'b' } else { kind };
        let size = if kind == b'U' {
            size.checked_mul(4)?
        } else {
            size
        };
        let known = matches!(
            (kind, size),
            (b'b', 1) | (b'i' | b'u', 1 | 2 | 4 | 8) | (b'f', 2 | 4 | 8) | (b'c', 8 | 16)
        ) || matches!(kind, b'S' | b'U' | b'V');
        known.then_some(Self {
            kind,
            size,
            big_endian: order == b'>',
        })
    }

    /// NumPy's `dtype.name`.
    fn name(self) -> String {
        // The width is any number for strings and raw bytes.
        let bits = u128::from(self.size) * 8;
        match self.kind {
            b'b' => "bool".into(),
            b'i' => format!("int{bits}"),
            b'u' => format!("uint{bits}"),
            b'f' => format!("float{bits}"),
            b'c' => format!("complex{bits}"),
            b'S' => format!("bytes{bits}"),
            b'U' => format!("str{bits}"),
            _ => format!("void{bits}"),
        }
    }

    /// Width of what a byte swap turns round.
    fn swap(self) -> usize {
        match self.kind {
            _ if !self.big_endian => 1,
            b'c' => (self.size / 2) as usize,
            b'U' => 4,
            b'S' | b'V' => 1,
            _ => self.size as usize,
        }
    }
}

/// The last component of a module, whatever NumPy's version calls its path.
fn is_numpy(module: &str) -> bool {
    module == "numpy" || module.starts_with("numpy.")
}

/// The dtype that a node describes: `numpy.dtype("f8", …)` with its byte order in the state, or
/// `numpy.dtypes.Float64DType()`.
fn dtype(trace: &Trace<'_>, id: NodeId) -> Option<NpType> {
    let Node::Call(c) = trace.node(id) else {
        return None;
    };
    dtype_of_call(trace, c)
}

fn dtype_of_call(trace: &Trace<'_>, c: &Call) -> Option<NpType> {
    let g = trace.global(c.callee)?;
    if !is_numpy(&g.module) || g.name != "dtype" {
        return None;
    }
    let code = trace.text(*trace.items(c.args)?.first()?)?;
    let mut t = NpType::parse(&code)?;
    if let Some(&state) = c.states.last() {
        let state = trace.items(state)?;
        if let Some(order) = state.get(1).and_then(|&o| trace.text(o)) {
            t.big_endian = order == ">";
        }
        // A sub-array or a structured dtype has more than a byte order.
        let plain = |i: usize| {
            state
                .get(i)
                .is_none_or(|&n| matches!(trace.node(n), Node::None))
        };
        if !plain(2) || !plain(3) || !plain(4) {
            return None;
        }
    }
    Some(t)
}

/// The name of the dtype that `call` makes, for dtypes that stand alone.
pub(super) fn dtype_name_of_call(trace: &Trace<'_>, call: &Call) -> Option<String> {
    dtype_of_call(trace, call).map(NpType::name)
}

/// The bytes a node stands for: plain, or the text forms that protocols below 3 write.
pub(super) fn bytes_of<'t>(trace: &'t Trace<'_>, id: NodeId) -> Option<Cow<'t, [u8]>> {
    match trace.node(id) {
        Node::Bytes(b) | Node::ByteArray(b) | Node::ByteStr(b) => {
            Some(Cow::Borrowed(trace.blob(b)))
        }
        Node::Call(c) => bytes_of_call(trace, c),
        _ => None,
    }
}

/// The bytes that a call of `_codecs.encode`, `bytes` or `bytearray` makes.
pub(super) fn bytes_of_call<'t>(trace: &'t Trace<'_>, c: &Call) -> Option<Cow<'t, [u8]>> {
    let latin1 = |text: NodeId, coding: Option<&NodeId>| {
        let coding = coding.and_then(|&c| trace.text(c));
        if !matches!(coding.as_deref(), Some("latin1" | "latin-1")) {
            return None;
        }
        let text = trace.text(text)?;
        let bytes = text.chars().map(|c| u8::try_from(u32::from(c)).ok());
        bytes.collect::<Option<Vec<u8>>>().map(Cow::Owned)
    };
    let g = trace.global(c.callee)?;
    let args = trace.items(c.args)?;
    match (g.module.as_str(), g.name.as_str(), args) {
        ("_codecs", "encode", [text, rest @ ..]) => latin1(*text, rest.first()),
        ("__builtin__" | "builtins", "bytearray", [text, coding]) => latin1(*text, Some(coding)),
        ("__builtin__" | "builtins", "bytes" | "bytearray", []) => Some(Cow::Borrowed(&[])),
        ("__builtin__" | "builtins", "bytes" | "bytearray", [one]) => match trace.node(*one) {
            Node::List(items) => {
                trace.spend(items.len().saturating_mul(8));
                let bytes = items
                    .iter()
                    .map(|&i| trace.int(i).and_then(|n| u8::try_from(n).ok()));
                bytes.collect::<Option<Vec<u8>>>().map(Cow::Owned)
            }
            _ => bytes_of_shallow(trace, *one),
        },
        ("pickle", "PickleBuffer", [one]) => bytes_of_shallow(trace, *one),
        _ => None,
    }
}

/// [`bytes_of`] without following calls of calls for ever.
fn bytes_of_shallow<'t>(trace: &'t Trace<'_>, id: NodeId) -> Option<Cow<'t, [u8]>> {
    match trace.node(id) {
        Node::Bytes(b) | Node::ByteArray(b) | Node::ByteStr(b) => {
            Some(Cow::Borrowed(trace.blob(b)))
        }
        Node::Call(c) => {
            let g = trace.global(c.callee)?;
            let encode = (g.module.as_str(), g.name.as_str()) == ("_codecs", "encode");
            if encode {
                bytes_of_call(trace, c)
            } else {
                None
            }
        }
        _ => None,
    }
}

/// The array that `call` would rebuild, if it is an array of plain elements.
pub(super) fn array(trace: &Trace<'_>, call: &Call, limits: &Limits) -> Result<Option<NdArray>> {
    let Some(g) = trace.global(call.callee) else {
        return Ok(None);
    };
    if !is_numpy(&g.module) {
        return Ok(None);
    }
    let Some(args) = trace.items(call.args) else {
        return Ok(None);
    };
    let (shape, ty, fortran, data) = match g.name.as_str() {
        "_reconstruct" => {
            let Some(state) = call.states.last().and_then(|&s| trace.items(s)) else {
                return Ok(None);
            };
            // Before NumPy 1.0 the state had no version number in front.
            let state = if state.len() == 5 {
                state.get(1..).unwrap_or_default()
            } else {
                state
            };
            let [shape, ty, fortran, data] = *state else {
                return Ok(None);
            };
            let fortran = matches!(trace.node(fortran), Node::Bool(true) | Node::Int(1));
            (shape, ty, fortran, data)
        }
        "_frombuffer" => {
            let [data, ty, shape, order] = *args else {
                return Ok(None);
            };
            (shape, ty, trace.text(order).as_deref() == Some("F"), data)
        }
        _ => return Ok(None),
    };
    let Some(ty) = dtype(trace, ty) else {
        return Ok(None);
    };
    let Some(bytes) = bytes_of(trace, data) else {
        return Ok(None);
    };
    // Copied, turned round, hashed: an array may be met in many places.
    trace.spend(bytes.len().saturating_mul(16));
    trace.check_work()?;
    let dims = match trace.items(shape) {
        Some(items) if items.len() > 64 => {
            return Err(Error::malformed(
                "numpy.too-many-dimensions",
                "an array has over 64 dimensions",
            ));
        }
        Some(items) => items
            .iter()
            .map(|&i| trace.int(i).and_then(|n| u64::try_from(n).ok()))
            .collect::<Option<Vec<u64>>>(),
        None => None,
    };
    let Some(shape) = dims else {
        return Err(Error::malformed(
            "numpy.bad-shape",
            "the shape of an array is no tuple of counts",
        ));
    };
    let numel = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
    if numel.and_then(|n| n.checked_mul(ty.size)) != Some(bytes.len() as u64) {
        return Err(Error::malformed(
            "numpy.size-mismatch",
            format!(
                "an array of shape {shape:?} and {} bytes an element has {} bytes",
                ty.size,
                bytes.len()
            ),
        ));
    }
    Limits::check(
        bytes.len() as u64,
        limits.inflate_bytes,
        "numpy.too-large",
        "bytes of an array",
    )?;
    let mut data = bytes.into_owned();
    swap(&mut data, ty.swap());
    if fortran && shape.len() > 1 && ty.size > 0 {
        data = to_row_major(&data, &shape, ty.size as usize);
    }
    let sha256 = hex::encode(Sha256::digest(&data));
    Ok(Some(NdArray {
        dtype: ty.name(),
        shape,
        data,
        sha256,
    }))
}

fn swap(data: &mut [u8], width: usize) {
    if width > 1 {
        data.chunks_exact_mut(width).for_each(<[u8]>::reverse);
    }
}

/// Column-major to row-major.
fn to_row_major(data: &[u8], shape: &[u64], width: usize) -> Vec<u8> {
    let mut strides = vec![1usize; shape.len()];
    let mut n = 1usize;
    for (s, &d) in strides.iter_mut().zip(shape) {
        *s = n;
        n = n.saturating_mul(d as usize);
    }
    let mut out = Vec::with_capacity(data.len());
    let mut index = vec![0u64; shape.len()];
    for _ in 0..n {
        let at: usize = index
            .iter()
            .zip(&strides)
            .map(|(&i, &s)| i as usize * s)
            .sum::<usize>()
            * width;
        out.extend_from_slice(data.get(at..at + width).unwrap_or_default());
        for (i, &d) in index.iter_mut().zip(shape).rev() {
            *i += 1;
            if *i < d {
                break;
            }
            *i = 0;
        }
    }
    out
}

/// The scalar that `call` would make: `scalar(dtype, bytes)`.
pub(super) fn scalar(trace: &Trace<'_>, call: &Call) -> Option<Value> {
    let g = trace.global(call.callee)?;
    if !is_numpy(&g.module) || g.name != "scalar" {
        return None;
    }
    let [ty, data] = *trace.items(call.args)? else {
        return None;
    };
    let ty = dtype(trace, ty)?;
    let raw = bytes_of(trace, data)?;
    if raw.len() as u64 != ty.size {
        return None;
    }
    trace.spend(raw.len().saturating_mul(8));
    let mut raw = raw.into_owned();
    swap(&mut raw, ty.swap());
    let text = scalar_text(ty, &raw)?;
    Some(Value::NpScalar {
        dtype: ty.name(),
        text,
        raw,
    })
}

fn scalar_text(ty: NpType, raw: &[u8]) -> Option<String> {
    let int = |signed: bool| {
        let fill = if signed && raw.last().is_some_and(|b| b & 0x80 != 0) {
            0xff
        } else {
            0
        };
        let mut a = [fill; 16];
        a.get_mut(..raw.len())?.copy_from_slice(raw);
        Some(i128::from_le_bytes(a).to_string())
    };
    Some(match (ty.kind, ty.size) {
        (b'b', _) => {
            if raw == [0] {
                "False".into()
            } else {
                "True".into()
            }
        }
        (b'i', _) => int(true)?,
        (b'u', _) => int(false)?,
        (b'f', 8) => float_text(f64::from_le_bytes(raw.try_into().ok()?), false),
        (b'f', 4) => float_text(f64::from(f32::from_le_bytes(raw.try_into().ok()?)), true),
        (b'f', 2) => {
            let mut f = [0f32];
            weighbridge_kernels::decode_f32(weighbridge_kernels::Kind::F16, raw, &mut f);
            half_text(f[0])
        }
        (b'S', _) => String::from_utf8_lossy(raw)
            .trim_end_matches('\0')
            .to_owned(),
        (b'U', _) => raw
            .chunks_exact(4)
            .map(|c| {
                c.try_into()
                    .ok()
                    .map(u32::from_le_bytes)
                    .and_then(char::from_u32)
            })
            .collect::<Option<String>>()?
            .trim_end_matches('\0')
            .to_owned(),
        (b'c', 16) => {
            let part = |r: &[u8]| r.try_into().ok().map(f64::from_le_bytes);
            complex_text(part(raw.get(..8)?)?, part(raw.get(8..)?)?, false)
        }
        (b'c', 8) => {
            let part = |r: &[u8]| r.try_into().ok().map(f32::from_le_bytes).map(f64::from);
            complex_text(part(raw.get(..4)?)?, part(raw.get(4..)?)?, true)
        }
        _ => return None,
    })
}

fn complex_text(re: f64, im: f64, single: bool) -> String {
    let strip = |t: String| t.strip_suffix(".0").map(str::to_owned).unwrap_or(t);
    let im = strip(float_text(im, single));
    let sign = if im.starts_with('-') { "" } else { "+" };
    let re = strip(float_text(re, single));
    if re == "0" {
        format!("{im}j")
    } else {
        format!("({re}{sign}{im}j)")
    }
}

/// The shortest decimal digits that read back as the same half.
fn half_text(v: f32) -> String {
    if !v.is_finite() {
        return float_text(f64::from(v), true);
    }
    for digits in 0..8 {
        let text = format!("{v:.digits$e}");
        if let Ok(back) = text.parse::<f32>() {
            let mut half = [0u8; 2];
            weighbridge_kernels::encode_f32(weighbridge_kernels::Kind::F16, &[back], &mut half);
            let mut again = [0f32];
            weighbridge_kernels::decode_f32(weighbridge_kernels::Kind::F16, &half, &mut again);
            if again[0] == v {
                return python_layout(&text);
            }
        }
    }
    float_text(f64::from(v), true)
}

/// A float as Python prints it: the shortest digits that read back (of an `f32` when `single`),
/// in exponent form below 1e-4 and from 1e16.
pub(super) fn float_text(v: f64, single: bool) -> String {
    if v.is_nan() {
        return "nan".into();
    }
    if v.is_infinite() {
        return if v < 0.0 { "-inf".into() } else { "inf".into() };
    }
    let text = if single {
        format!("{:e}", v as f32)
    } else {
        format!("{v:e}")
    };
    python_layout(&text)
}

/// Lays Rust's `d.ddde±x` out as Python does.
fn python_layout(text: &str) -> String {
    let (sign, text) = text.strip_prefix('-').map_or(("", text), |t| ("-", t));
    let (mantissa, exp) = text.split_once('e').unwrap_or((text, "0"));
    let exp: i32 = exp.parse().unwrap_or(0);
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let digits = match digits.trim_end_matches('0') {
        "" => "0",
        d => d,
    };
    let n = digits.len() as i32;
    let (head, tail) = digits.split_at(1);
    if !(-4..16).contains(&exp) {
        let tail = if tail.is_empty() {
            String::new()
        } else {
            format!(".{tail}")
        };
        let mark = if exp < 0 { '-' } else { '+' };
        return format!("{sign}{head}{tail}e{mark}{:02}", exp.abs());
    }
    if exp < 0 {
        return format!("{sign}0.{}{digits}", "0".repeat((-exp - 1) as usize));
    }
    if n <= exp + 1 {
        return format!("{sign}{digits}{}.0", "0".repeat((exp + 1 - n) as usize));
    }
    let (whole, part) = digits.split_at((exp + 1) as usize);
    format!("{sign}{whole}.{part}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_in_python() {
        for (v, text) in [
            (1.25, "1.25"),
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (1e16, "1e+16"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (100.5, "100.5"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(float_text(v, false), text);
        }
        assert_eq!(float_text(f64::from(0.1f32), true), "0.1");
    }

    #[test]
    fn column_major_becomes_row_major() {
        assert_eq!(
            to_row_major(&[1, 4, 2, 5, 3, 6], &[2, 3], 1),
            [1, 2, 3, 4, 5, 6]
        );
    }
}
