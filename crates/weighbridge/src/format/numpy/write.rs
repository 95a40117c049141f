//! Writing arrays as `numpy.save` and `numpy.savez` do (`numpy/lib/_format_impl.py`,
//! `_write_array_header`): the same header bytes, in an archive of stored members whose data lies
//! at multiples of 64. `numpy.load` reads all of it with `allow_pickle=False`.

use std::collections::HashSet;

use weighbridge_core::cursor::Cursor;
use weighbridge_core::model::{Chunks, DType, FormatId, Model, Tensor};
use weighbridge_core::wire::npy::MAGIC;
use weighbridge_core::wire::zip::{ALIGN, Writer, plan_size};
use weighbridge_core::{Error, Result};

use super::Numpy;
use super::padded::{Padder, Width};
use super::read::{NPY, ROOT};
use crate::format::{FormatWriter, Note, Plan, PlannedFile, WriteOptions, payload};
use crate::output::Sink;
use crate::structure::free_name;

/// Room that `numpy.save` leaves for the first dimension to grow (`GROWTH_AXIS_MAX_DIGITS`).
const GROWTH: usize = 21;

/// The length of a header is a multiple of this (`ARRAY_ALIGN`).
const HEADER_ALIGN: usize = 64;

/// Bytes in front of the text of a header, in version 1.0 and in version 2.0.
const FRONT: [usize; 2] = [10, 12];

/// NumPy's type string of a dtype; `None` where it has no such type.
fn descr(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::Bool => "|b1",
        DType::I8 => "|i1",
        DType::U8 => "|u1",
        DType::I16 => "<i2",
        DType::U16 => "<u2",
        DType::I32 => "<i4",
        DType::U32 => "<u4",
        DType::I64 => "<i8",
        DType::U64 => "<u8",
        DType::F16 => "<f2",
        DType::F32 => "<f4",
        DType::F64 => "<f8",
        DType::C64 => "<c8",
        DType::C128 => "<c16",
        _ => return None,
    })
}

/// The same of a tensor, texts of a fixed width included.
fn type_of(t: &Tensor) -> Option<String> {
    let text = Width::of(t).map(Width::descr);
    text.or_else(|| descr(t.dtype).map(str::to_owned))
}

/// Bytes of the values as NumPy has them.
fn size_of(t: &Tensor) -> Option<u64> {
    match Width::of(t) {
        Some(width) => t.numel()?.checked_mul(width.bytes),
        None => t.dtype.size_of(&t.shape),
    }
}

/// Streams the values as NumPy has them.
fn stream(
    t: &Tensor,
    chunks: &mut Chunks,
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    match Width::of(t) {
        None => t.stream(chunks, sink),
        Some(width) => {
            let mut padder = Padder::new(width);
            t.stream(chunks, &mut |part| padder.take(part, sink))
        }
    }
}

/// The header of an array, byte for byte NumPy's own.
fn header(descr: &str, shape: &[u64]) -> Vec<u8> {
    let dims: Vec<String> = shape.iter().map(u64::to_string).collect();
    let tuple = match dims.as_slice() {
        [one] => format!("({one},)"),
        all => format!("({})", all.join(", ")),
    };
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {tuple}, }}");
    if let Some(first) = dims.first() {
        text.push_str(&" ".repeat(GROWTH.saturating_sub(first.len())));
    }
    let padded = |front: usize| {
        let whole = front + text.len() + 1;
        text.len() + 1 + (HEADER_ALIGN - whole % HEADER_ALIGN)
    };
    let (len, old) = match padded(FRONT[0]) {
        len if len <= usize::from(u16::MAX) => (len, true),
        _ => (padded(FRONT[1]), false),
    };
    let mut out = MAGIC.to_vec();
    match old {
        true => {
            out.extend([1, 0]);
            out.extend((len as u16).to_le_bytes());
        }
        false => {
            out.extend([2, 0]);
            out.extend((len as u32).to_le_bytes());
        }
    }
    let end = out.len() + len - 1;
    out.extend(text.as_bytes());
    out.resize(end, b' ');
    out.push(b'\n');
    out
}

/// Why a tensor cannot be written, with the flag that makes it possible.
fn refusal(t: &Tensor) -> Option<String> {
    let d = t.dtype;
    if let Some(why) = crate::format::not_dense(t, "NumPy") {
        return Some(why);
    }
    if matches!(d, DType::Compound | DType::Null) {
        return Some(format!("a dataset of type {d} is no array of numbers"));
    }
    if d.is_text() && Width::of(t).is_none() {
        let why = "NumPy's texts have one width and these may be of any length";
        return Some(why.into());
    }
    if !t.has_data() {
        return Some("the tensor has no data".into());
    }
    if t.quantization().is_some() || d.is_quantized() || d.block().is_some() {
        return Some(format!(
            "NumPy has no quantized type such as {d}: --dequantize writes the values as F32"
        ));
    }
    if type_of(t).is_none() {
        return Some(match d {
            DType::U4 | DType::I4 | DType::U2 | DType::I2 => {
                format!("NumPy has no dtype {d}: --dequantize writes one integer a byte")
            }
            _ if d.is_float() => {
                format!("NumPy has no dtype {d}: --dtype f32 writes the values as F32")
            }
            _ if d.is_complex() => {
                format!("NumPy has no dtype {d}: --complex-as-real writes real and imaginary parts")
            }
            _ => format!("NumPy has no dtype {d}"),
        });
    }
    let size = size_of(t).filter(|&n| i64::try_from(n).is_ok());
    size.is_none()
        .then(|| "its size does not fit 63 bits".into())
}

/// The name that a tensor's member gets: as it is, unless unpacking the archive would put the file
/// elsewhere.
fn member_name(name: &str) -> String {
    let plain = !name.contains(['\\', '\0', ':']);
    let steps = || name.split('/');
    if plain && steps().all(|s| !matches!(s, "" | "." | "..")) {
        return name.to_owned();
    }
    let step = |s: &str| match s {
        "" | "." | ".." => "_".to_owned(),
        s => s.replace(['\\', '\0', ':'], "_"),
    };
    steps().map(step).collect::<Vec<_>>().join("/")
}

/// The tensors that can be written, with the names of the others in the plan's `lost`.
fn fitting(model: &Model, plan: &mut Plan) -> Vec<usize> {
    let mut out = Vec::with_capacity(model.tensors.len());
    for (i, t) in model.tensors.iter().enumerate() {
        match refusal(t) {
            Some(why) => plan.lost.push(Note::new(t.name.as_str(), why)),
            None => out.push(i),
        }
    }
    out
}

fn refuse_shards(options: &WriteOptions) -> Result<()> {
    if options.shard_size.or(options.shard_tensors).is_none() {
        return Ok(());
    }
    let message = "NumPy's archives are one file: they cannot be split by size";
    Err(Error::parameter("numpy.no-shards", message)
        .help("leave --shard-size out, or write safetensors"))
}

fn at(model: &Model, index: usize) -> Result<&Tensor> {
    let tensor = model.tensors.get(index);
    tensor
        .ok_or_else(|| Error::parameter("plan.other-model", "the plan was made for another model"))
}

fn head_of(t: &Tensor) -> Vec<u8> {
    header(&type_of(t).unwrap_or_default(), &t.shape)
}

impl FormatWriter for Numpy {
    fn id(&self) -> FormatId {
        FormatId::Numpy
    }

    fn plan(&self, model: &Model, options: &WriteOptions) -> Result<Plan> {
        refuse_shards(options)?;
        let mut plan = Plan::default();
        let tensors = fitting(model, &mut plan);
        let mut taken = HashSet::new();
        let (mut names, mut sizes) = (Vec::new(), Vec::new());
        for &i in &tensors {
            let t = at(model, i)?;
            let name = free_name(&member_name(&t.name), &mut taken);
            if name != t.name {
                plan.changed.push(Note {
                    what: t.name.clone(),
                    why: format!("written as {name}: the name is taken or would leave the archive"),
                    naming: true,
                });
            }
            let values = size_of(t).unwrap_or(u64::MAX);
            let bytes = values.saturating_add(head_of(t).len() as u64);
            sizes.push((format!("{name}{NPY}"), bytes));
            names.push(name);
        }
        let members = sizes.iter().map(|(name, bytes)| (name.as_str(), *bytes));
        let bytes = plan_size(ALIGN, members)?;
        let mut prepared = Vec::new();
        for name in names {
            prepared.extend((name.len() as u64).to_le_bytes());
            prepared.extend(name.as_bytes());
        }
        plan.files.push(PlannedFile {
            name: String::new(),
            bytes,
            tensors,
            prepared,
            alignment: 1,
            big_endian: false,
        });
        Ok(plan)
    }

    fn write(
        &self,
        model: &Model,
        plan: &Plan,
        file: usize,
        out: &mut dyn Sink,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let planned = plan
            .files
            .get(file)
            .ok_or_else(|| Error::parameter("plan.no-such-file", "the plan has no such file"))?;
        let mut zip = Writer::new(ALIGN)?;
        let mut chunks = Chunks::new();
        let mut names = Cursor::new(&planned.prepared);
        for &i in &planned.tensors {
            let t = at(model, i)?;
            let n = usize::try_from(names.u64()?).unwrap_or(usize::MAX);
            let name = String::from_utf8_lossy(names.take(n)?);
            let head = head_of(t);
            let values = size_of(t).unwrap_or(u64::MAX);
            let bytes = values.saturating_add(head.len() as u64);
            out.put(&zip.start(&format!("{name}{NPY}"), bytes)?)?;
            zip.data(&head)?;
            out.put(&head)?;
            stream(t, &mut chunks, &mut |part| {
                zip.data(part)?;
                out.put(part)?;
                progress(part.len() as u64);
                Ok(())
            })?;
            // Refuses a tensor that gave another number of bytes than it said.
            out.put(&zip.end()?)?;
        }
        out.put(&zip.finish()?)
    }
}

/// The writer of single arrays, `.npy`.
#[derive(Debug, Clone, Copy)]
pub struct NpyWriter;

impl FormatWriter for NpyWriter {
    fn id(&self) -> FormatId {
        FormatId::Numpy
    }

    fn plan(&self, model: &Model, options: &WriteOptions) -> Result<Plan> {
        refuse_shards(options)?;
        let mut plan = Plan::default();
        let tensors = fitting(model, &mut plan);
        let (mut prepared, mut bytes) = (Vec::new(), 0);
        match tensors.as_slice() {
            [] => {}
            [one] => {
                let t = at(model, *one)?;
                prepared = head_of(t);
                bytes = size_of(t).unwrap_or(u64::MAX);
                if t.name != ROOT {
                    plan.changed.push(Note {
                        what: t.name.clone(),
                        why: "the only array of a .npy has no name".into(),
                        naming: true,
                    });
                }
            }
            many => {
                let message = format!("a .npy holds one array, the model has {}", many.len());
                return Err(Error::parameter("numpy.one-array", message)
                    .help("name an OUT that ends in .npz, or choose one with --select"));
            }
        }
        plan.files.push(PlannedFile {
            name: String::new(),
            bytes: bytes.saturating_add(prepared.len() as u64),
            tensors,
            prepared,
            alignment: 1,
            big_endian: false,
        });
        Ok(plan)
    }

    fn write(
        &self,
        model: &Model,
        plan: &Plan,
        file: usize,
        out: &mut dyn Sink,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let planned = plan.files.get(file);
        let text = planned.and_then(|f| model.tensors.get(*f.tensors.first()?));
        match text.filter(|t| Width::of(t).is_some()).zip(planned) {
            None => payload::write(model, plan, file, out, progress),
            Some((t, planned)) => {
                out.put(&planned.prepared)?;
                stream(t, &mut Chunks::new(), &mut |part| {
                    progress(part.len() as u64);
                    out.put(part)
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weighbridge_core::model::{Storage, StorageData, TensorSource, View};
    use weighbridge_core::source::SliceSource;
    use weighbridge_core::wire::npy::Header;

    use super::*;
    use crate::OpenOptions;
    use crate::format::FormatReader;

    fn tensor(name: &str, dtype: DType, shape: &[u64], fill: u8) -> Tensor {
        let n = dtype.size_of(shape).unwrap();
        let data = StorageData::Raw {
            source: Arc::new(SliceSource::new(vec![fill; n as usize], "s")),
            offset: 0,
            checksum: None,
        };
        let storage = Arc::new(Storage::new("s", n, false, data).unwrap());
        let source = TensorSource::View(View { storage, offset: 0 });
        Tensor::new(name, dtype, shape, source)
    }

    fn written(writer: &dyn FormatWriter, model: &Model) -> (Plan, Vec<u8>) {
        let plan = writer.plan(model, &WriteOptions::default()).unwrap();
        let mut out = Vec::new();
        writer
            .write(model, &plan, 0, &mut out, &mut |_| {})
            .unwrap();
        assert_eq!(out.len() as u64, plan.files[0].bytes);
        (plan, out)
    }

    #[test]
    fn headers_are_numpys_own() {
        // numpy.save of zeros((2, 3), "f4") begins with these bytes.
        let text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
        let head = header("<f4", &[2, 3]);
        assert_eq!(&head[..10], b"\x93NUMPY\x01\0v\0");
        assert_eq!(&head[10..10 + text.len()], text);
        assert_eq!((head.len(), head.last()), (128, Some(&b'\n')));
        for shape in [&[][..], &[7], &[0, 1], &[1; 60]] {
            let head = header("<c16", shape);
            let read = Header::parse(&head).unwrap();
            assert_eq!((read.shape.as_slice(), head.len() % 64), (shape, 0));
        }
    }

    #[test]
    fn archives_are_read_back_and_names_stay_inside() {
        let mut model = Model::new(FormatId::Safetensors);
        model.tensors = vec![
            tensor("a/b.weight", DType::F32, &[2, 3], 1),
            tensor("../up", DType::I64, &[], 2),
            tensor("/root", DType::Bool, &[3], 1),
            tensor("brain", DType::BF16, &[2], 4),
            tensor("empty", DType::C64, &[0, 2], 0),
        ];
        let (plan, bytes) = written(&Numpy, &model);
        assert_eq!(plan.lost.len(), 1);
        assert!(plan.lost[0].why.contains("--dtype f32"), "{:?}", plan.lost);
        assert_eq!(plan.changed.iter().filter(|n| n.naming).count(), 2);
        let source = Arc::new(SliceSource::new(bytes, "m.npz"));
        let options = OpenOptions::default();
        assert_eq!(Numpy.verify(source.clone(), &options).unwrap(), []);
        let back = Numpy.open(source, &options).unwrap();
        let names: Vec<&str> = back.tensors.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["a/b.weight", "_/up", "_/root", "empty"]);
        for (new, old) in back.tensors.iter().zip([0, 1, 2, 4]) {
            let old = &model.tensors[old];
            assert_eq!((new.dtype, &new.shape), (old.dtype, &old.shape));
            assert_eq!(new.read_vec().unwrap(), old.read_vec().unwrap());
        }
    }

    #[test]
    fn one_array_is_a_file_and_two_are_none() {
        let mut model = Model::new(FormatId::Safetensors);
        model.tensors = vec![tensor("w", DType::F16, &[5], 7)];
        let (plan, bytes) = written(&NpyWriter, &model);
        assert!(plan.changed.iter().all(|n| n.naming) && plan.lost.is_empty());
        let source = Arc::new(SliceSource::new(bytes, "m.npy"));
        let back = Numpy.open(source, &OpenOptions::default()).unwrap();
        assert_eq!(back.tensors[0].name, ROOT);
        assert_eq!(back.tensors[0].read_vec().unwrap(), [7; 10]);
        model.tensors.push(tensor("v", DType::F16, &[5], 7));
        let e = NpyWriter
            .plan(&model, &WriteOptions::default())
            .unwrap_err();
        assert_eq!(e.rule(), "numpy.one-array");
    }
}
