//! NumPy arrays of a pickle as tensors of the model, their bytes left where they lie: what joblib's
//! files and NumPy's arrays of objects are read for. (In PyTorch's files arrays are structure.)

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use weighbridge_core::model::{DType, Storage, StorageData, Tensor, TensorSource, Value, Warning};
use weighbridge_core::pickle::{Blob, Call, Node, NodeId};
use weighbridge_core::source::{ByteSource, SliceSource};
use weighbridge_core::{Error, Result};

use super::lower::Lower;
use super::numpy::bytes_of;
use crate::format::joblib::{Holes, Met, described};
use crate::format::numpy::array::Array;
use crate::format::numpy::pickled::{self, Pickled};
use crate::format::numpy::texts::Listed;

/// Most warnings about arrays: they are alike.
const MOST_WARNINGS: usize = 100;

/// Where the stream lies that a trace was made from, and which arrays lie between its opcodes.
pub(crate) struct Arrays {
    /// The bytes that the stream is part of.
    source: Arc<dyn ByteSource>,
    /// Position of its first byte there.
    base: u64,
    /// What was left out of it.
    holes: Rc<Holes>,
    /// First byte of the trace in the stream without that.
    start: usize,
    /// The arrays between the opcodes, by the node of their wrapper.
    met: HashMap<NodeId, Met>,
    /// Tensors that were made, by their node: another reference shares the bytes.
    made: RefCell<HashMap<NodeId, Tensor>>,
    warnings: Rc<RefCell<Vec<Warning>>>,
}

impl Arrays {
    /// Of a stream that begins at `base` of `source`, where the loader met `met`.
    pub(crate) fn new(
        source: Arc<dyn ByteSource>,
        base: u64,
        holes: Holes,
        met: Vec<(NodeId, Met)>,
    ) -> Self {
        Self {
            source,
            base,
            holes: Rc::new(holes),
            start: 0,
            met: met.into_iter().collect(),
            made: RefCell::default(),
            warnings: Rc::default(),
        }
    }

    /// The same for a pickle that lies at `start` of the stream.
    fn inside(&self, start: usize) -> Self {
        Self {
            source: Arc::clone(&self.source),
            base: self.base,
            holes: Rc::clone(&self.holes),
            start,
            met: HashMap::new(),
            made: RefCell::default(),
            warnings: Rc::clone(&self.warnings),
        }
    }

    /// What had to be decided about arrays.
    pub(crate) fn warnings(&self) -> Vec<Warning> {
        let mut all = self.warnings.borrow().clone();
        all.truncate(MOST_WARNINGS);
        all
    }

    fn tensor(
        &self,
        array: &Array<'_>,
        storage: &dyn Fn(bool) -> Result<Arc<Storage>>,
        offset: u64,
    ) -> Result<Tensor> {
        array.tensor(storage, offset, &mut self.warnings.borrow_mut())
    }
}

/// The value of a call that makes an array; `None` for all others.
pub(super) fn value(s: &mut Lower<'_, '_>, id: NodeId, call: &Call) -> Result<Option<Value>> {
    let Some(arrays) = s.arrays.clone() else {
        return Ok(None);
    };
    if let Some(t) = arrays.made.borrow().get(&id).cloned() {
        return s.emit(t).map(Some);
    }
    let trace = s.trace;
    let made = match arrays.met.get(&id) {
        Some(Met::Nested(at)) => return nested(s, &arrays, *at).map(Some),
        Some(Met::Bytes(range)) => {
            let (dtype, shape, fortran) = described(trace, call).ok_or_else(|| {
                let message = "the wrapper of an array has a state that is not understood";
                Error::unsupported("joblib.array-state", message).at(call.offset as u64)
            })?;
            let array = Array {
                name: s.place(),
                dtype: &dtype,
                descr: None,
                shape: &shape,
                fortran,
            };
            let offset = arrays.base.saturating_add(range.start);
            let len = range.end.saturating_sub(range.start);
            raw(&arrays, &array, offset, len)?
        }
        None => match pickled::array(trace, call) {
            Some(p) if p.dtype.has_objects() => return objects(s, &p),
            Some(p) => match plain(s, &arrays, &p)? {
                Some(t) => t,
                None => return Ok(None),
            },
            None => return Ok(None),
        },
    };
    arrays.made.borrow_mut().insert(id, made.clone());
    s.emit(made).map(Some)
}

/// An array whose bytes lie in the file.
fn raw(arrays: &Arrays, array: &Array<'_>, offset: u64, len: u64) -> Result<Tensor> {
    let storage = |big_endian| {
        let data = StorageData::Raw {
            source: Arc::clone(&arrays.source),
            offset,
            checksum: None,
        };
        Storage::new(format!("array at {offset}"), len, big_endian, data).map(Arc::new)
    };
    arrays.tensor(array, &storage, 0)
}

/// An array whose bytes are a value of the pickle.
fn plain(s: &mut Lower<'_, '_>, arrays: &Arrays, p: &Pickled) -> Result<Option<Tensor>> {
    let trace = s.trace;
    let array = Array {
        name: s.place(),
        dtype: &p.dtype,
        descr: None,
        shape: &p.shape,
        fortran: p.fortran,
    };
    if let Node::Bytes(Blob::At { start, len }) | Node::ByteArray(Blob::At { start, len }) =
        trace.node(p.data)
    {
        let real = arrays.holes.real(arrays.start.saturating_add(*start));
        let offset = arrays.base.saturating_add(real);
        return raw(arrays, &array, offset, *len as u64).map(Some);
    }
    let Some(bytes) = bytes_of(trace, p.data) else {
        return Ok(None);
    };
    let len = bytes.len() as u64;
    let name = format!("array {:?}", array.name);
    let source: Arc<dyn ByteSource> = Arc::new(SliceSource::new(bytes.into_owned(), name.clone()));
    let storage = |big_endian| {
        let data = StorageData::Raw {
            source: Arc::clone(&source),
            offset: 0,
            checksum: None,
        };
        Storage::new(name.as_str(), len, big_endian, data).map(Arc::new)
    };
    let made = arrays.tensor(&array, &storage, 0)?;
    s.charge(usize::try_from(len).unwrap_or(usize::MAX))?;
    Ok(Some(made))
}

/// An array of objects that is pickled in the middle of joblib's stream.
fn nested(s: &mut Lower<'_, '_>, arrays: &Arrays, at: usize) -> Result<Value> {
    let trace = s.trace;
    let inner = trace.nested.iter().find(|n| n.start == at);
    let Some(inner) = inner.filter(|n| n.trace.root.is_some()) else {
        let message = "the pickle of an array of objects is missing";
        return Err(Error::malformed("joblib.no-objects", message).at(at as u64));
    };
    s.nested_value(&inner.trace, Rc::new(arrays.inside(at)))
}

/// An array of objects: its texts are a tensor, anything else is structure by place; an array
/// without dimensions is its one object.
fn objects(s: &mut Lower<'_, '_>, p: &Pickled) -> Result<Option<Value>> {
    let trace = s.trace;
    let (Some(items), true) = (trace.items(p.data), is_object(p)) else {
        return Ok(None);
    };
    let count = p.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
    if count != Some(items.len() as u64) {
        let message = format!(
            "an array of shape {:?} lists {} objects",
            p.shape,
            items.len()
        );
        return Err(Error::malformed("numpy.size-mismatch", message));
    }
    if let ([], [one]) = (p.shape.as_slice(), items) {
        return s.value(*one).map(Some);
    }
    trace.spend(items.len().saturating_mul(8));
    trace.check_work()?;
    if !items.is_empty()
        && let Some(t) = texts(s, p, items)?
    {
        return s.emit(t).map(Some);
    }
    rows(s, &p.shape, items).map(Some)
}

fn is_object(p: &Pickled) -> bool {
    use weighbridge_core::wire::npy::Dtype;
    matches!(p.dtype, Dtype::Plain { kind: b'O', .. })
}

/// The tensor of an array that holds nothing but texts.
fn texts(s: &mut Lower<'_, '_>, p: &Pickled, items: &[NodeId]) -> Result<Option<Tensor>> {
    let trace = s.trace;
    let text = |id: &NodeId| match trace.node(*id) {
        Node::Str(b) | Node::ByteStr(b) => Some(trace.blob(b)),
        _ => None,
    };
    let Some(all) = items.iter().map(text).collect::<Option<Vec<&[u8]>>>() else {
        return Ok(None);
    };
    for text in &all {
        s.charge(text.len().saturating_add(8))?;
    }
    let listed = Arc::new(Listed::new(all.into_iter()));
    let source = TensorSource::Computed(listed);
    let mut t = Tensor::new(s.place(), DType::Str, &p.shape, source);
    let attribute = ("numpy_dtype".to_owned(), Value::Str("|O".into()));
    t.extra_mut().attributes.push(attribute);
    Ok(Some(t))
}

/// Lists of lists, as `tolist()` gives them.
fn rows(s: &mut Lower<'_, '_>, shape: &[u64], items: &[NodeId]) -> Result<Value> {
    let [first, rest @ ..] = shape else {
        return match items {
            [one] => s.value(*one),
            _ => Ok(Value::Null),
        };
    };
    let count = usize::try_from(*first).unwrap_or(usize::MAX);
    // Rows of nothing are as many as the shape claims, and take no bytes there.
    if items.is_empty() || count == 0 {
        return Ok(Value::List(Vec::new()));
    }
    let width = items.len() / count;
    let mut out = Vec::new();
    for (i, row) in items.chunks(width.max(1)).enumerate() {
        out.push(s.at(&i.to_string(), |s| s.deeper(|s| rows(s, rest, row)))?);
    }
    Ok(Value::List(out))
}
