//! Tensors: one place for the data, of the size that the dimensions ask for.

use weighbridge_core::model::DType;
use weighbridge_core::wire::protobuf::Span;
use weighbridge_core::{Error, ErrorKind, Result};

use super::super::data::{fits, values_of};
use super::super::raw::{Sparse, Tensor, Typed};
use super::super::types;
use super::{Checker, values};

/// Most integers of one tensor that are said to be no values of its type.
const MOST_VALUES: u64 = 1;

/// The name of a field of `TensorProto` that holds values.
fn field_name(number: u32) -> &'static str {
    match number {
        4 => "float_data",
        5 => "int32_data",
        6 => "string_data",
        7 => "int64_data",
        10 => "double_data",
        _ => "uint64_data",
    }
}

/// The number of elements, as the reference checker multiplies.
fn elements(dims: &[i64]) -> Option<u64> {
    let n = dims.iter().try_fold(1i64, |n, &d| match d < 0 {
        true => None,
        false => n.checked_mul(d),
    });
    n.and_then(|n| u64::try_from(n).ok())
}

impl<'m> Checker<'m> {
    /// A tensor, be it an initializer or a constant.
    pub(super) fn tensor(&mut self, t: &'m Tensor) -> Result<()> {
        self.entries(&t.metadata, false);
        if t.data_type == 0 {
            let message = "the tensor does not say the type of its elements";
            self.wrong("onnx.data-type", t.span, message);
            return Ok(());
        }
        let dtype = types::dtype(t.data_type);
        if dtype.is_none() {
            let message = format!("the element type {} is not known", t.data_type);
            // The reference checker lets unknown types pass in raw bytes and in other files.
            match t.is_external() || raw(t).is_some() {
                true => self.strict("onnx.data-type", t.span, message),
                false => self.wrong("onnx.data-type", t.span, message),
            }
        }
        if t.location.is_some_and(|l| !matches!(l, 0 | 1)) {
            let message = "the place of the data is neither this file nor another";
            self.strict("onnx.external-location", t.span, message);
        }
        let mut fields: Vec<u32> = runs(t).map(|r| r.number).collect();
        fields.sort_unstable();
        fields.dedup();
        let count = fields.len() + usize::from(raw(t).is_some());
        if t.is_external() {
            if count > 0 {
                let message = "the tensor lies in another file and has values here too";
                self.wrong("onnx.tensor-data", t.span, message);
            }
            return self.external(t, dtype);
        }
        let Some(n) = elements(&t.dims) else {
            let message = match t.dims.iter().find(|&&d| d < 0) {
                Some(d) => format!("a dimension is negative ({d})"),
                None => "the number of elements overflows".to_owned(),
            };
            self.wrong("onnx.dimensions", t.span, message);
            return Ok(());
        };
        match (n, count) {
            (0, 0) | (1.., 1) => {}
            (0, _) => {
                let message = "the tensor has no elements and holds data";
                self.wrong("onnx.tensor-size", t.span, message);
                return Ok(());
            }
            (_, 0) => {
                let message = format!("the dimensions need {n} values, the tensor has none");
                self.wrong("onnx.tensor-data", t.span, message);
                return Ok(());
            }
            _ => {
                let message = format!("the values stand in {count} fields, not in one");
                self.wrong("onnx.tensor-data", t.span, message);
                return Ok(());
            }
        }
        match (raw(t), dtype) {
            (Some(span), Some(dtype)) => self.raw(dtype, n, span)?,
            (None, Some(dtype)) if n > 0 => self.typed(t, dtype, n, &fields)?,
            _ => {}
        }
        Ok(())
    }

    fn raw(&mut self, dtype: DType, n: u64, span: Span) -> Result<()> {
        let Some(needed) = dtype.size_of(&[n]) else {
            let message = match dtype {
                DType::Str => "texts cannot stand as raw bytes",
                _ => "the size of the tensor overflows",
            };
            let rule = match dtype {
                DType::Str => "onnx.tensor-field",
                _ => "onnx.dimensions",
            };
            self.wrong(rule, span, message);
            return Ok(());
        };
        let there = span.len();
        let message = format!("the dimensions need {needed} bytes, the tensor has {there}");
        if there < needed {
            self.wrong("onnx.tensor-size", span, message);
        } else if there > needed {
            self.strict("onnx.tensor-size", span, message);
        }
        if there >= needed {
            self.padding(dtype, n, span.start.saturating_add(needed))?;
        }
        Ok(())
    }

    /// Bits of six-bit elements behind the last, in the byte before `end`, are zero.
    fn padding(&mut self, dtype: DType, n: u64, end: u64) -> Result<()> {
        let used = n.wrapping_mul(6) % 8;
        if used == 0 || dtype.bits() != Some(6) {
            return Ok(());
        }
        let start = end.saturating_sub(1);
        let byte = self.source.read_vec(start..end)?;
        if byte.first().is_some_and(|b| b >> used != 0) {
            let message = "the bits behind the last element are not zero";
            self.wrong("onnx.typed-value", Span { start, end }, message);
        }
        Ok(())
    }

    /// Values in a field of their type.
    fn typed(&mut self, t: &'m Tensor, dtype: DType, n: u64, fields: &[u32]) -> Result<()> {
        let Some((right, ..)) = types::typed_field(dtype) else {
            return Ok(());
        };
        let name = types::name(t.data_type).unwrap_or("its type");
        if let Some(&wrong) = fields.iter().find(|&&f| f != right) {
            let message = format!(
                "values of {name} stand in {}, not in {}",
                field_name(right),
                field_name(wrong)
            );
            self.wrong("onnx.tensor-field", t.span, message);
            return Ok(());
        }
        let runs: Vec<Typed> = runs(t).copied().collect();
        let mut bad: Option<(u64, u64)> = None;
        let there = if !matches!(right, 5 | 11) {
            values::count(self.source, &runs)
        } else {
            let mut count = 0u64;
            let read = values::integers(self.source, &runs, &mut |v, at| {
                count = count.saturating_add(1);
                if !fits(dtype, v) {
                    bad.get_or_insert((v, at));
                }
                Ok(())
            });
            read.map(|()| count)
        };
        let there = match there {
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::Io => return Err(e),
            Err(e) => {
                self.push(e);
                return Ok(());
            }
        };
        if let Some((v, at)) = bad {
            let message = format!("{} is no value of {name}", v as i64);
            let span = Span {
                start: at,
                end: at.saturating_add(MOST_VALUES),
            };
            // Of these the reference checker looks at the six bits.
            match dtype.bits() {
                Some(6) => self.wrong("onnx.typed-value", span, message),
                _ => self.strict("onnx.typed-value", span, message),
            }
        }
        let needed = values_of(dtype, n).unwrap_or(u64::MAX);
        // The reference checker takes an integer to hold four bytes of small elements, though every
        // reader takes one.
        let least = match dtype.bits() {
            Some(bits @ (2 | 4)) => n.div_ceil(32 / bits),
            _ => needed,
        };
        let message = format!("the dimensions need {needed} values, the tensor has {there}");
        if there < least {
            self.wrong("onnx.tensor-size", t.span, message);
        } else if there != needed {
            self.strict("onnx.tensor-size", t.span, message);
        }
        Ok(())
    }

    pub(super) fn sparse(&mut self, s: &'m Sparse) -> Result<()> {
        let nothing = Span::default();
        if s.values.span == nothing {
            let message = "the sparse tensor has no values";
            self.wrong("onnx.sparse", s.span, message);
            return Ok(());
        }
        self.tensor(&s.values)?;
        let [count] = s.values.dims.as_slice() else {
            let message = "the values of the sparse tensor are not of one dimension";
            self.wrong("onnx.sparse", s.values.span, message);
            return Ok(());
        };
        if s.dims.is_empty() || s.dims.iter().any(|&d| d <= 0) {
            let message = "the sparse tensor has no dimensions, or one that is not positive";
            self.wrong("onnx.sparse", s.span, message);
            return Ok(());
        }
        if s.indices.span == nothing {
            if *count != 0 {
                self.wrong("onnx.sparse", s.span, "the sparse tensor has no indices");
            }
            return Ok(());
        }
        self.tensor(&s.indices)?;
        if s.indices.data_type != 7 {
            let message = "the indices of a sparse tensor are INT64";
            self.wrong("onnx.sparse", s.indices.span, message);
            return Ok(());
        }
        let rank = s.dims.len() as i64;
        let columns = match s.indices.dims.as_slice() {
            [n] if n == count => 1,
            [n, r] if n == count && *r == rank => s.dims.len(),
            _ => {
                let message = "the indices are not of the shape that the values ask for";
                self.wrong("onnx.sparse", s.indices.span, message);
                return Ok(());
            }
        };
        self.indices(s, columns, u64::try_from(*count).unwrap_or(0))
    }

    /// Indices in range, each greater than the one before.
    fn indices(&mut self, s: &'m Sparse, columns: usize, count: u64) -> Result<()> {
        let linear = columns == 1 && s.indices.dims.len() == 1;
        let size = s.dims.iter().try_fold(1i64, |n, &d| n.checked_mul(d));
        let Some(size) = size else {
            let message = "the number of elements overflows";
            self.wrong("onnx.dimensions", s.span, message);
            return Ok(());
        };
        let extents: Vec<i64> = if linear { vec![size] } else { s.dims.clone() };
        let mut order = Order {
            extents,
            column: 0,
            at: 0,
            before: -1,
            seen: 0,
        };
        let mut take = |v: u64, at: u64| order.take(v as i64, at);
        let needed = count.saturating_mul(columns as u64);
        let read = match (raw(&s.indices), s.indices.is_external()) {
            (_, true) => return self.external_indices(s),
            (Some(span), _) if span.len() == needed.saturating_mul(8) => {
                values::words(self.source, span, &mut take)
            }
            (None, _) => {
                let runs: Vec<Typed> = runs(&s.indices)
                    .filter(|r| r.number == 7)
                    .copied()
                    .collect();
                values::integers(self.source, &runs, &mut take)
            }
            // The size has been told.
            _ => return Ok(()),
        };
        match read {
            Err(e) if e.kind() == ErrorKind::Io => return Err(e),
            Err(e) => self.push(e),
            Ok(()) => {}
        }
        Ok(())
    }

    /// The reference checker does not read indices from another file.
    fn external_indices(&mut self, s: &'m Sparse) -> Result<()> {
        if self.lenient {
            let message = "the indices of the sparse tensor lie in another file";
            self.wrong("onnx.sparse", s.indices.span, message);
        }
        Ok(())
    }
}

/// Checks indices one after the other.
struct Order {
    /// The extent that each number of an index has to be below.
    extents: Vec<i64>,
    column: usize,
    /// The index so far, as a position in the flattened whole.
    at: i64,
    before: i64,
    seen: u64,
}

impl Order {
    fn take(&mut self, n: i64, place: u64) -> Result<()> {
        let bad = |message: String| Err(Error::malformed("onnx.sparse-index", message).at(place));
        let extent = self.extents.get(self.column).copied().unwrap_or(0);
        if n < 0 || n >= extent {
            return bad(format!(
                "index {} of the sparse tensor, {n}, is not below {extent}",
                self.seen
            ));
        }
        // Neither overflows: the product of all extents does not.
        self.at = self.at.saturating_mul(extent).saturating_add(n);
        self.column += 1;
        if self.column < self.extents.len() {
            return Ok(());
        }
        if self.at <= self.before {
            return bad(format!(
                "index {} of the sparse tensor is not behind the one before it",
                self.seen
            ));
        }
        self.before = self.at;
        (self.at, self.column) = (0, 0);
        self.seen = self.seen.saturating_add(1);
        Ok(())
    }
}

/// The raw bytes, if there are any.
fn raw(t: &Tensor) -> Option<Span> {
    t.raw.filter(|s| !s.is_empty())
}

/// The runs of typed values that are not empty.
fn runs(t: &Tensor) -> impl Iterator<Item = &Typed> {
    t.typed.iter().filter(|r| r.count != Some(0))
}
