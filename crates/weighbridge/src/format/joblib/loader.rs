//! joblib's files: pickles with the bytes of arrays in the middle of the opcodes
//! (`joblib/numpy_pickle.py`, `NumpyArrayWrapper.read_array`).
//!
//! What the loader reads follows from the state of the wrapper that the last `BUILD` finished. The
//! bytes of large arrays are left out of what is read: the stream without them is what the machine
//! runs, and [`Holes`] says where they were.

use std::ops::Range;

use weighbridge_core::pickle::{Build, Call, Node, NodeId, Raw, RawArrays, Trace};
use weighbridge_core::wire::npy::Dtype;
use weighbridge_core::{Error, Result};

use super::super::numpy;

/// Modules that have the wrappers: joblib's, the one that scikit-learn carried until 0.22, and the
/// one for the files of joblib before 0.10.
const MODULES: [&str; 4] = [
    "joblib.numpy_pickle",
    "joblib.numpy_pickle_compat",
    "sklearn.externals.joblib.numpy_pickle",
    "sklearn.externals.joblib.numpy_pickle_compat",
];

/// How deep an element type's fields are followed.
const DEEPEST: u32 = 32;

/// Bytes of a stream that were left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hole {
    /// Where they were, in bytes of the stream without them.
    at: usize,
    len: u64,
}

/// What was left out of a stream, in its order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Holes(Vec<Hole>);

impl Holes {
    /// Leaves out `len` bytes at `at` of the stream as it is so far.
    pub(crate) fn push(&mut self, at: usize, len: u64) {
        self.0.push(Hole { at, len });
    }

    /// Bytes left out.
    pub(crate) fn total(&self) -> u64 {
        self.0.iter().fold(0, |n, h| n.saturating_add(h.len))
    }

    /// Where byte `at` of the stream without them lies in the stream with them.
    pub(crate) fn real(&self, at: usize) -> u64 {
        let before = self.0.partition_point(|h| h.at <= at);
        let skipped = self.0.iter().take(before);
        skipped.fold(at as u64, |n, h| n.saturating_add(h.len))
    }

    fn is_at(&self, at: usize) -> bool {
        self.0.binary_search_by_key(&at, |h| h.at).is_ok()
    }
}

/// joblib's loader, as far as it reads arrays.
pub(crate) struct Loader<'h> {
    holes: &'h Holes,
    /// An array that lies not wholly in the bytes at hand: where it begins and how long it is.
    pub(crate) wanted: Option<(usize, u64)>,
    /// Paths of arrays in files of their own, each with the offset of the opcode.
    pub(crate) files: Vec<(usize, String)>,
    /// The arrays met, each with the node of its wrapper.
    pub(crate) met: Vec<(NodeId, Met)>,
}

/// What a wrapper stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Met {
    /// Bytes at this range of the stream with what was left out.
    Bytes(Range<u64>),
    /// A pickle of objects at this place of the stream without what was left out.
    Nested(usize),
}

impl<'h> Loader<'h> {
    pub(crate) fn new(holes: &'h Holes) -> Self {
        Self {
            holes,
            wanted: None,
            files: Vec::new(),
            met: Vec::new(),
        }
    }

    /// Where byte `at` of the stream lies with what was left out.
    pub(crate) fn real(&self, at: usize) -> u64 {
        self.holes.real(at)
    }
}

impl RawArrays for Loader<'_> {
    fn after_build(&mut self, trace: &Trace<'_>, build: &Build, at: usize) -> Result<Raw> {
        let Node::Call(call) = trace.node(build.target) else {
            return Ok(Raw::Nothing);
        };
        match class(trace, call) {
            Some("NumpyArrayWrapper") => {}
            Some("NDArrayWrapper" | "ZNDArrayWrapper") => {
                if let Some(path) = attribute(trace, call, "filename").and_then(|n| trace.text(n)) {
                    self.files.push((build.offset, path.into_owned()));
                }
                return Ok(Raw::Nothing);
            }
            _ => return Ok(Raw::Nothing),
        }
        let Some(bytes) = array(trace, call)? else {
            self.met.push((build.target, Met::Nested(at)));
            return Ok(Raw::Nested);
        };
        if self.holes.is_at(at) {
            // Behind what was left out, padding and bytes.
            let end = self.holes.real(at);
            let bytes = end.saturating_sub(bytes)..end;
            self.met.push((build.target, Met::Bytes(bytes)));
            return Ok(Raw::Skip(0));
        }
        let padding = match attribute(trace, call, "numpy_array_alignment_bytes") {
            Some(n) if !matches!(trace.node(n), Node::None) => match trace.data.get(at) {
                Some(&n) => 1 + u64::from(n),
                None => {
                    self.wanted = Some((at, 1));
                    return Err(short(at));
                }
            },
            _ => 0,
        };
        let whole = bytes.checked_add(padding).ok_or_else(|| too_large(at))?;
        let here = trace.data.len().saturating_sub(at) as u64;
        if whole > here {
            self.wanted = Some((at, whole));
            return Err(short(at));
        }
        let start = self.holes.real(at).saturating_add(padding);
        let met = Met::Bytes(start..start.saturating_add(bytes));
        self.met.push((build.target, met));
        usize::try_from(whole)
            .map(Raw::Skip)
            .map_err(|_| too_large(at))
    }
}

fn short(at: usize) -> Error {
    Error::truncated("joblib.short-array", "the file ends inside an array").at(at as u64)
}

fn too_large(at: usize) -> Error {
    Error::malformed("joblib.array-size", "the size of an array overflows").at(at as u64)
}

/// The array that a wrapper's state describes: its type, shape, and whether the first index runs
/// fastest.
pub(crate) fn described(trace: &Trace<'_>, call: &Call) -> Option<(Dtype, Vec<u64>, bool)> {
    let dtype = numpy::pickled::dtype(trace, attribute(trace, call, "dtype")?)?;
    let shape = numpy::pickled::counts(trace, attribute(trace, call, "shape")?)?;
    let order = attribute(trace, call, "order").and_then(|n| trace.text(n));
    Some((dtype, shape, order.as_deref() == Some("F")))
}

/// The name of the wrapper that `call` makes, if it makes one.
fn class<'t>(trace: &'t Trace<'_>, call: &Call) -> Option<&'t str> {
    let mut g = trace.global(call.callee)?;
    if matches!(g.module.as_str(), "copyreg" | "copy_reg")
        && matches!(g.name.as_str(), "_reconstructor" | "__newobj__")
    {
        g = trace.global(*trace.items(call.args)?.first()?)?;
    }
    MODULES.contains(&g.module.as_str()).then_some(&g.name)
}

/// The attribute `name` that the states of `call` set; the last one wins.
fn attribute(trace: &Trace<'_>, call: &Call, name: &str) -> Option<NodeId> {
    let of = |state: NodeId| trace.lookup(trace.dict(state)?, name);
    call.states.iter().rev().find_map(|&state| {
        of(state).or_else(|| trace.items(state)?.iter().rev().find_map(|&part| of(part)))
    })
}

/// Bytes of the array that a wrapper stands for, or `None` for objects, which are pickled.
fn array(trace: &Trace<'_>, call: &Call) -> Result<Option<u64>> {
    let bad = |what: &str| {
        let message = format!("the wrapper of an array has no {what} that can be read");
        Error::malformed("joblib.array-state", message).at(call.offset as u64)
    };
    let dtype = attribute(trace, call, "dtype").and_then(|n| element(trace, n, 0));
    let (size, objects) = dtype.ok_or_else(|| bad("element type"))?;
    if objects {
        return Ok(None);
    }
    let shape = attribute(trace, call, "shape").and_then(|n| trace.items(n));
    let shape = shape.ok_or_else(|| bad("shape"))?;
    let mut bytes = size;
    for &d in shape {
        let d = trace.int(d).and_then(|d| u64::try_from(d).ok());
        let d = d.ok_or_else(|| bad("shape"))?;
        bytes = bytes.checked_mul(d).ok_or_else(|| too_large(call.offset))?;
    }
    Ok(Some(bytes))
}

/// Bytes of an element of the `numpy.dtype` that a node makes, and whether it holds objects, as
/// `dtype.__setstate__` leaves it (`numpy/_core/src/multiarray/descriptor.c`).
fn element(trace: &Trace<'_>, id: NodeId, depth: u32) -> Option<(u64, bool)> {
    if depth > DEEPEST {
        return None;
    }
    let Node::Call(call) = trace.node(id) else {
        return None;
    };
    let g = trace.global(call.callee)?;
    if !(g.module == "numpy" || g.module.starts_with("numpy.")) || g.name != "dtype" {
        return None;
    }
    let what = *trace.items(call.args)?.first()?;
    if trace.global(what).is_some() {
        let d = numpy::pickled::dtype(trace, id)?;
        return Some((d.bytes()?, d.has_objects()));
    }
    let code = trace.text(what)?;
    let plain = Dtype::parse(&code)?;
    let (mut size, mut objects) = (plain.bytes()?, plain.has_objects());
    let Some(state) = call.states.last().and_then(|&s| trace.items(s)) else {
        return Some((size, objects));
    };
    let part = |i: usize| {
        let id = *state.get(i)?;
        (!matches!(trace.node(id), Node::None)).then_some(id)
    };
    if let Some(sub) = part(2).and_then(|n| trace.items(n)) {
        let [inner, shape] = sub else { return None };
        let (bytes, inner_objects) = element(trace, *inner, depth + 1)?;
        let one = [*shape];
        let counts = trace.items(*shape).unwrap_or(&one);
        size = counts.iter().try_fold(bytes, |n, &d| {
            n.checked_mul(u64::try_from(trace.int(d)?).ok()?)
        })?;
        objects = inner_objects;
    }
    if let Some(fields) = part(4).and_then(|n| trace.dict(n)) {
        for (_, field) in fields {
            let inner = *trace.items(*field)?.first()?;
            objects |= element(trace, inner, depth + 1)?.1;
        }
    }
    // Only types of flexible size take the size of the state, and not the -1 of the others.
    let flexible = matches!(
        plain,
        Dtype::Plain {
            kind: b'S' | b'U' | b'V',
            ..
        }
    );
    if flexible && let Some(n) = part(5).and_then(|n| trace.int(n)) {
        size = u64::try_from(n).ok()?;
    }
    // NPY_ITEM_HASOBJECT is what the loader asks for, whatever the type is.
    if let Some(flags) = part(7).and_then(|n| trace.int(n)) {
        objects = flags & 1 != 0;
    }
    Some((size, objects))
}

#[cfg(test)]
mod tests {
    use weighbridge_core::{Limits, pickle};

    use super::*;

    /// A wrapper of an array of `shape` whose element type `dtype` makes, in protocol 2.
    fn wrapper(dtype: &str, shape: &str, more: &str) -> Vec<u8> {
        format!(
            "\u{1}cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\u{2}}}(Vshape\n{shape}Vdtype\n{dtype}{more}ub"
        )
        .into_bytes()
        .into_iter()
        .flat_map(|b| match b {
            1 => vec![0x80, 2],
            2 => vec![0x81],
            b => vec![b],
        })
        .collect()
    }

    const F8: &str = "cnumpy\ndtype\n(Vf8\nI0\nI1\ntR(I3\nV<\nNNNI-1\nI-1\nI0\ntb";
    const OBJECT: &str = "cnumpy\ndtype\n(VO8\nI0\nI1\ntR(I3\nV|\nNNNI-1\nI-1\nI63\ntb";
    const FORGED: &str = "cnumpy\ndtype\n(Vf8\nI0\nI1\ntR(I3\nV<\nNNNI-1\nI-1\nI63\ntb";
    const ALIGNED: &str = "Vnumpy_array_alignment_bytes\nI16\n";

    fn end(data: &[u8]) -> (Option<usize>, Option<(usize, u64)>, usize) {
        let holes = Holes::default();
        let mut loader = Loader::new(&holes);
        let t = pickle::run_with(data, &Limits::default(), &mut loader);
        let ok = t.error.is_none().then_some(t.end);
        (ok, loader.wanted, t.nested.len())
    }

    #[test]
    fn raw_bytes_are_stepped_over() {
        let head = wrapper(F8, "(I2\nI3\nt", "");
        let data = [&head[..], &[b'.'; 48], b"."].concat();
        assert_eq!(end(&data), (Some(data.len()), None, 0));
        // With its padding.
        let head = wrapper(F8, "(I2\nt", ALIGNED);
        let data = [&head[..], &[3, 0xff, 0xff, 0xff], &[b'.'; 16], b"."].concat();
        assert_eq!(end(&data), (Some(data.len()), None, 0));
        let short = &data[..data.len() - 2];
        assert_eq!(end(short), (None, Some((head.len(), 20)), 0));
        assert_eq!(end(&head), (None, Some((head.len(), 1)), 0));
    }

    #[test]
    fn objects_are_a_pickle_whatever_their_type_says() {
        for dtype in [OBJECT, FORGED] {
            let data = [&wrapper(dtype, "(I1\nt", "")[..], b"\x80\x02N..."].concat();
            let (ok, wanted, nested) = end(&data);
            assert_eq!((wanted, nested), (None, 1));
            assert_eq!(ok, Some(data.len() - 1));
        }
    }

    #[test]
    fn states_that_cannot_be_read_break_the_stream() {
        for (dtype, shape) in [
            ("N", "(I2\nt"),
            ("Vf8\n", "(I2\nt"),
            (F8, "N"),
            (F8, "(I-1\nt"),
            (F8, "(Vx\nt"),
            (F8, "(I9223372036854775807\nI2\nt"),
            ("cnumpy\ndtype\n(Vzz\ntR", "(I2\nt"),
        ] {
            let data = [&wrapper(dtype, shape, "")[..], &[0; 64]].concat();
            assert_eq!(end(&data), (None, None, 0), "{dtype} {shape}");
        }
    }

    #[test]
    fn structured_and_subarray_types_have_their_own_size() {
        let fields = format!(
            "cnumpy\ndtype\n(VV12\nI0\nI1\ntR(I3\nV|\nN(Va\nVb\nt}}(Va\n({F8}I0\ntVb\n({F8}I8\ntuI12\nI1\nI16\ntb"
        );
        let data = [&wrapper(&fields, "(I2\nt", "")[..], &[b'.'; 24], b"."].concat();
        assert_eq!(end(&data).0, Some(data.len()));
        let sub =
            format!("cnumpy\ndtype\n(VV16\nI0\nI1\ntR(I3\nV|\n({F8}(I2\ntt NNI16\nI1\nI0\ntb")
                .replace("t NN", "tNN");
        let data = [&wrapper(&sub, "(I2\nt", "")[..], &[b'.'; 32], b"."].concat();
        assert_eq!(end(&data).0, Some(data.len()));
    }

    #[test]
    fn arrays_in_files_of_their_own_are_named() {
        let data = b"\x80\x02cjoblib.numpy_pickle\nNDArrayWrapper\n)\x81}Vfilename\nV../x.npy\nsb.";
        let holes = Holes::default();
        let mut loader = Loader::new(&holes);
        let t = pickle::run_with(data, &Limits::default(), &mut loader);
        assert!(t.error.is_none(), "{:?}", t.error);
        assert_eq!(loader.files.len(), 1);
        assert_eq!(loader.files[0].1, "../x.npy");
    }

    #[test]
    fn holes_move_what_lies_behind_them() {
        let mut holes = Holes::default();
        holes.push(10, 100);
        holes.push(20, 1000);
        assert_eq!(holes.total(), 1100);
        for (at, real) in [(0, 0), (9, 9), (10, 110), (19, 119), (20, 1120), (21, 1121)] {
            assert_eq!(holes.real(at), real);
        }
    }
}
