//! Arrays and element types as pickles have them (`__reduce__` and `__setstate__` of `ndarray` and
//! `dtype`, `numpy/_core/src/multiarray/`), with their bytes left where they are.

use weighbridge_core::pickle::{Call, Node, NodeId, Trace};
use weighbridge_core::wire::npy::Dtype;

/// How deep the fields of an element type are followed.
const DEEPEST: u32 = 32;

/// Most fields of an element type.
const MOST_FIELDS: usize = 10_000;

/// Most dimensions of an array.
const MOST_DIMS: usize = 64;

fn is_numpy(module: &str) -> bool {
    module == "numpy" || module.starts_with("numpy.")
}

/// The element type of the `numpy.dtype` that a node makes.
pub(crate) fn dtype(trace: &Trace<'_>, id: NodeId) -> Option<Dtype> {
    inner_dtype(trace, id, 0)
}

fn inner_dtype(trace: &Trace<'_>, id: NodeId, depth: u32) -> Option<Dtype> {
    if depth > DEEPEST {
        return None;
    }
    let Node::Call(call) = trace.node(id) else {
        return None;
    };
    let g = trace.global(call.callee)?;
    if !is_numpy(&g.module) || g.name != "dtype" {
        return None;
    }
    let what = *trace.items(call.args)?.first()?;
    // Types of other packages are classes.
    if let Some(class) = trace.global(what) {
        let named = class.module == "ml_dtypes" || class.module.starts_with("ml_dtypes.");
        return Dtype::of_name(&class.name).filter(|d| named && matches!(d, Dtype::Named(..)));
    }
    let mut plain = Dtype::parse(&trace.text(what)?)?;
    let Some(state) = call.states.last().and_then(|&s| trace.items(s)) else {
        return Some(plain);
    };
    let part = |i: usize| {
        let id = *state.get(i)?;
        (!matches!(trace.node(id), Node::None)).then_some(id)
    };
    let size = part(5)
        .and_then(|n| trace.int(n))
        .and_then(|n| u64::try_from(n).ok());
    if let Some(sub) = part(2).and_then(|n| trace.items(n)) {
        let [inner, shape] = sub else { return None };
        let inner = inner_dtype(trace, *inner, depth + 1)?;
        return Some(Dtype::Sub(Box::new(inner), counts(trace, *shape)?));
    }
    if let Some(names) = part(3).and_then(|n| trace.items(n)) {
        let fields = trace.dict(part(4)?)?;
        return fields_of(trace, names, fields, size?, depth);
    }
    if let Dtype::Plain {
        kind,
        big_endian,
        bytes,
    } = &mut plain
    {
        *big_endian = part(1).and_then(|n| trace.text(n)).as_deref() == Some(">");
        if let (b'S' | b'U' | b'V', Some(size)) = (*kind, size) {
            *bytes = size;
        }
    }
    Some(plain)
}

/// The fields in the order of their offsets, with the padding between them.
fn fields_of(
    trace: &Trace<'_>,
    names: &[NodeId],
    fields: &[(NodeId, NodeId)],
    size: u64,
    depth: u32,
) -> Option<Dtype> {
    if names.len() > MOST_FIELDS || fields.len() > MOST_FIELDS {
        return None;
    }
    let mut all = Vec::with_capacity(names.len());
    for &name in names {
        let name = trace.text(name)?.into_owned();
        let field = trace.items(trace.lookup(fields, &name)?)?;
        let inner = inner_dtype(trace, *field.first()?, depth + 1)?;
        let offset = u64::try_from(trace.int(*field.get(1)?)?).ok()?;
        all.push((offset, name, inner));
        trace.check_work().ok()?;
    }
    all.sort_by_key(|(offset, ..)| *offset);
    let pad = |bytes| Dtype::Plain {
        kind: b'V',
        big_endian: false,
        bytes,
    };
    let (mut out, mut at) = (Vec::new(), 0u64);
    for (offset, name, inner) in all {
        // Fields that lie over each other are no sequence of fields.
        let gap = offset.checked_sub(at)?;
        if gap > 0 {
            out.push((String::new(), pad(gap)));
        }
        at = offset.checked_add(inner.bytes()?)?;
        out.push((name, inner));
    }
    let rest = size.checked_sub(at)?;
    if rest > 0 {
        out.push((String::new(), pad(rest)));
    }
    Some(Dtype::Fields(out))
}

/// A shape: a tuple of counts, or one count.
pub(crate) fn counts(trace: &Trace<'_>, id: NodeId) -> Option<Vec<u64>> {
    let one = [id];
    let items = trace.items(id).unwrap_or(&one);
    if items.len() > MOST_DIMS {
        return None;
    }
    items
        .iter()
        .map(|&d| u64::try_from(trace.int(d)?).ok())
        .collect()
}

/// An array that a call would rebuild: its type, shape and order, and the node of its bytes or, for
/// objects, of the list of them.
#[derive(Debug)]
pub(crate) struct Pickled {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<u64>,
    pub(crate) fortran: bool,
    pub(crate) data: NodeId,
}

/// What `call` would rebuild, if it is an array.
pub(crate) fn array(trace: &Trace<'_>, call: &Call) -> Option<Pickled> {
    let g = trace.global(call.callee)?;
    if !is_numpy(&g.module) {
        return None;
    }
    let (shape, ty, fortran, data) = match g.name.as_str() {
        "_reconstruct" => {
            let state = trace.items(*call.states.last()?)?;
            // Before NumPy 1.0 the state had no version number in front.
            let state = match state.len() {
                5 => state.get(1..)?,
                _ => state,
            };
            let [shape, ty, fortran, data] = *state else {
                return None;
            };
            let fortran = matches!(trace.node(fortran), Node::Bool(true) | Node::Int(1));
            (shape, ty, fortran, data)
        }
        "_frombuffer" => {
            let [data, ty, shape, order] = *trace.items(call.args)? else {
                return None;
            };
            (shape, ty, trace.text(order).as_deref() == Some("F"), data)
        }
        _ => return None,
    };
    trace.items(shape)?;
    Some(Pickled {
        dtype: dtype(trace, ty)?,
        shape: counts(trace, shape)?,
        fortran,
        data,
    })
}
