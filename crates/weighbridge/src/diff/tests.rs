use std::io::Write;
use std::sync::Arc;

use weighbridge_core::model::{
    Checksum, DType, Dict, FormatId, Model, Storage, StorageData, Strided, Tensor, TensorSource,
    Value, View,
};
use weighbridge_core::source::{FileSource, SliceSource};

use super::*;

fn raw(bytes: Vec<u8>, on_disk: bool, crc32: Option<u32>) -> Arc<Storage> {
    let len = bytes.len() as u64;
    let source: Arc<dyn weighbridge_core::source::ByteSource> = if on_disk {
        let mut f = tempfile::tempfile().unwrap();
        f.write_all(&bytes).unwrap();
        Arc::new(FileSource::from_file(f, len, "f"))
    } else {
        Arc::new(SliceSource::new(bytes, "m"))
    };
    let data = StorageData::Raw {
        source,
        offset: 0,
        checksum: crc32.map(Checksum::Crc32),
    };
    Arc::new(Storage::new("s", len, false, data).unwrap())
}

fn tensor(name: &str, dtype: DType, shape: &[u64], bytes: Vec<u8>) -> Tensor {
    let view = View {
        storage: raw(bytes, false, None),
        offset: 0,
    };
    Tensor::new(name, dtype, shape, TensorSource::View(view))
}

fn f32s(name: &str, values: &[f32]) -> Tensor {
    let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    tensor(name, DType::F32, &[values.len() as u64], bytes)
}

fn bf16s(name: &str, values: &[f32]) -> Tensor {
    let bytes = values
        .iter()
        .flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes())
        .collect();
    tensor(name, DType::BF16, &[values.len() as u64], bytes)
}

fn model(tensors: Vec<Tensor>) -> Model {
    let mut m = Model::new(FormatId::Safetensors);
    m.tensors = tensors;
    m
}

fn one(a: Tensor, b: Tensor, options: &DiffOptions) -> Option<Difference> {
    let d = diff(&model(vec![a]), &model(vec![b]), options).unwrap();
    assert_eq!(d.same as usize + d.different.len(), 1);
    assert_eq!(d.identical(), d.different.is_empty());
    d.different.into_iter().next()
}

#[test]
fn names_shapes_and_dtypes() {
    let a = model(vec![
        f32s("x", &[1.0]),
        f32s("gone", &[1.0]),
        f32s("s", &[1.0, 2.0]),
    ]);
    let b = model(vec![
        f32s("s", &[1.0]),
        f32s("new", &[1.0]),
        f32s("x", &[1.0]),
    ]);
    let d = diff(&a, &b, &DiffOptions::default()).unwrap();
    let want = json!({"identical": false, "only_in_a": ["gone"], "only_in_b": ["new"],
        "different": [{"name": "s", "why": "shape", "max_abs": null, "rel_rmse": null, "cosine": null}], "same": 1});
    assert_eq!(d.to_json(), want);
    let exact = DiffOptions::default();
    // Equal values under another dtype are equal; unequal ones differ by their dtype.
    assert!(
        one(
            f32s("x", &[1.5, f32::NAN]),
            bf16s("x", &[1.5, f32::NAN]),
            &exact
        )
        .is_none()
    );
    let d = one(f32s("x", &[1.0, 2.0]), bf16s("x", &[1.0, 2.5]), &exact).unwrap();
    assert_eq!((d.why, d.distance.unwrap().max_abs), (Why::Dtype, 0.5));
    let complex = tensor("x", DType::C64, &[1], vec![0; 8]);
    let d = one(complex, f32s("x", &[0.0]), &exact).unwrap();
    assert_eq!((d.why, d.distance), (Why::Dtype, None));
}

#[test]
fn bits_decide_and_tolerances_relax() {
    let exact = DiffOptions::default();
    let nan = f32::from_bits(0x7fc0_0001);
    assert!(one(f32s("x", &[nan]), f32s("x", &[nan]), &exact).is_none());
    let d = one(f32s("x", &[nan]), f32s("x", &[f32::NAN]), &exact).unwrap();
    assert_eq!(d.distance.unwrap().max_abs, 0.0);
    assert!(one(f32s("x", &[0.0]), f32s("x", &[-0.0]), &exact).is_some());
    let d = one(f32s("x", &[3.0, 4.0]), f32s("x", &[3.0, 4.5]), &exact).unwrap();
    let seen = d.distance.unwrap();
    assert_eq!(seen.max_abs, 0.5);
    assert!((seen.rel_rmse.unwrap() - 0.1).abs() < 1e-12);
    let cosine = (9.0 + 18.0) / (5.0 * (9.0f64 + 20.25).sqrt());
    assert!((seen.cosine.unwrap() - cosine).abs() < 1e-12);
    let loose = |atol, rtol| DiffOptions {
        atol,
        rtol,
        ..exact
    };
    assert!(one(f32s("x", &[4.0]), f32s("x", &[4.5]), &loose(0.5, 0.0)).is_none());
    assert!(one(f32s("x", &[4.0]), f32s("x", &[4.5]), &loose(0.4, 0.0)).is_some());
    assert!(one(f32s("x", &[4.0]), f32s("x", &[4.5]), &loose(0.0, 0.12)).is_none());
    assert!(one(f32s("x", &[4.0]), f32s("x", &[4.5]), &loose(0.0, 0.11)).is_some());
    let inf = f32::INFINITY;
    assert!(one(f32s("x", &[1.0]), f32s("x", &[inf]), &loose(1.0, 1.0)).is_some());
    let d = one(
        f32s("x", &[1.0, inf]),
        f32s("x", &[f32::NAN, inf]),
        &loose(9.0, 9.0),
    )
    .unwrap();
    assert!(d.distance.unwrap().max_abs.is_nan());
    let d = model(vec![f32s("x", &[1.0])]);
    let e = model(vec![f32s("x", &[f32::NAN])]);
    let json = diff(&d, &e, &exact).unwrap().to_json();
    assert_eq!(json["different"][0]["max_abs"], "nan");
}

#[test]
fn large_tensors_are_read_in_step() {
    let n = 3u64 << 20;
    let bytes: Vec<u8> = (0..n * 4).map(|i| (i % 251) as u8).collect();
    let mut other = bytes.clone();
    let last = other.len() - 2;
    other[last] ^= 0x40;
    let on_disk = |bytes: &[u8], crc: Option<u32>| {
        let view = View {
            storage: raw(bytes.to_vec(), true, crc),
            offset: 0,
        };
        Tensor::new("x", DType::I32, &[n], TensorSource::View(view))
    };
    let exact = DiffOptions::default();
    let good = crc32fast::hash(&bytes);
    assert!(one(on_disk(&bytes, None), on_disk(&bytes, Some(good)), &exact).is_none());
    assert!(one(on_disk(&bytes, None), on_disk(&other, None), &exact).is_some());
    // A transposed side comes in other pieces.
    let strided = |bytes: &[u8], strides: [u64; 2]| {
        let s = Strided {
            storage: raw(bytes.to_vec(), true, None),
            offset: 0,
            strides: strides[..].into(),
            conj: false,
            neg: false,
        };
        Tensor::new(
            "x",
            DType::I32,
            &[3, 1 << 20],
            TensorSource::Strided(Box::new(s)),
        )
    };
    assert!(one(strided(&bytes, [1, 3]), strided(&bytes, [1, 3]), &exact).is_none());
    assert!(
        one(
            strided(&bytes, [1, 3]),
            strided(&bytes, [1 << 20, 1]),
            &exact
        )
        .is_some()
    );
    for (left, right) in [(Some(1), None), (None, Some(1))] {
        let (a, b) = (
            model(vec![on_disk(&bytes, left)]),
            model(vec![on_disk(&bytes, right)]),
        );
        let e = diff(&a, &b, &exact).unwrap_err();
        assert_eq!(e.rule(), "zip.crc-mismatch");
    }
    // In memory the fast path must verify as well.
    let mut a = tensor("x", DType::U8, &[4], vec![1; 4]);
    a.source = TensorSource::View(View {
        storage: raw(vec![1; 4], false, Some(7)),
        offset: 0,
    });
    let b = model(vec![tensor("x", DType::U8, &[4], vec![1; 4])]);
    assert_eq!(
        diff(&model(vec![a]), &b, &exact).unwrap_err().rule(),
        "zip.crc-mismatch"
    );
}

#[test]
fn packed_dtypes_line_up_with_others() {
    // 0.5, 1.0 | 1.5, 2.0 | 3.0 in F4 codes 1, 2, 3, 4, 5.
    let f4 = tensor("x", DType::F4, &[5], vec![0x21, 0x43, 0x05]);
    let exact = DiffOptions::default();
    assert!(one(f4.clone(), f32s("x", &[0.5, 1.0, 1.5, 2.0, 3.0]), &exact).is_none());
    assert!(one(f32s("x", &[0.5, 1.0, 1.5, 2.0, 3.0]), f4.clone(), &exact).is_none());
    assert!(one(f4, f32s("x", &[0.5, 1.0, 1.5, 2.0, 4.0]), &exact).is_some());
}

#[test]
fn metadata_is_compared_when_asked() {
    let key = |k: &str| Value::Str(k.into());
    let dict = |entries: Vec<(Value, Value)>| {
        Value::Dict(Dict {
            entries,
            ..Dict::default()
        })
    };
    let long = vec![3u8; 5000];
    let mut a = model(vec![f32s("w", &[1.0])]);
    a.metadata = vec![
        ("format".into(), key("pt")),
        ("author".into(), key("me")),
        ("x".into(), key("1")),
    ];
    a.structure = Some(dict(vec![
        (key("epoch"), Value::Int(1)),
        (key("nan"), Value::Float(f64::NAN)),
        (key("rng"), Value::Bytes(long.clone())),
        (key("l"), Value::List(vec![Value::Int(1), Value::Int(2)])),
        (key("w"), Value::Tensor("w".into())),
    ]));
    let mut b = a.clone();
    b.tensors
        .push(tensor("__state__.rng", DType::U8, &[5000], long));
    b.metadata = vec![("author".into(), key("you")), ("y".into(), key("1"))];
    let moved = Value::Moved {
        value: Box::new(Value::Bytes(Vec::new())),
        tensor: "__state__.rng".into(),
    };
    b.structure = Some(dict(vec![
        (key("epoch"), Value::Float(1.0)),
        (key("rng"), moved),
        (key("nan"), Value::Float(f64::NAN)),
        (key("l"), Value::List(vec![Value::Int(1), Value::Int(3)])),
        (key("w"), Value::Tensor("w".into())),
        (key("more"), Value::Null),
    ]));
    assert!(diff(&a, &b, &DiffOptions::default()).unwrap().identical());
    let options = DiffOptions {
        metadata: true,
        ..DiffOptions::default()
    };
    let d = diff(&a, &b, &options).unwrap();
    assert!(!d.identical());
    let m = d.metadata.unwrap();
    assert_eq!(m.only_in_a, ["x"]);
    assert_eq!(m.only_in_b, ["y", "structure.more"]);
    assert_eq!(m.different, ["author", "structure.epoch", "structure.l.1"]);
    assert!(diff(&a, &a, &options).unwrap().identical());
    // A flat dict of the tensors says no more than no structure.
    a.structure = Some(dict(vec![(key("w"), Value::Tensor("w".into()))]));
    b = a.clone();
    b.structure = None;
    assert!(diff(&a, &b, &options).unwrap().identical());
}

/// Texts, as readers give them: in pieces, and without a length that is known ahead.
#[derive(Debug)]
struct Texts(Vec<&'static str>);

impl weighbridge_core::model::Compute for Texts {
    fn stream(
        &self,
        sink: &mut dyn FnMut(&[u8]) -> weighbridge_core::Result<()>,
    ) -> weighbridge_core::Result<()> {
        for t in &self.0 {
            sink(&(t.len() as u64).to_le_bytes())?;
            sink(t.as_bytes())?;
        }
        Ok(())
    }
}

#[test]
fn texts_are_compared_whatever_they_are_stored_as() {
    let of = |dtype, all: &[&'static str]| {
        let source = TensorSource::Computed(Arc::new(Texts(all.to_vec())));
        let mut m = Model::new(FormatId::Hdf5);
        let shape = [all.len() as u64];
        m.tensors.push(Tensor::new("t", dtype, &shape, source));
        m
    };
    let same = |a: &Model, b: &Model| diff(a, b, &DiffOptions::default()).unwrap().identical();
    let a = of(DType::Str, &["ab", "", "c"]);
    assert!(same(&a, &of(DType::Str, &["ab", "", "c"])));
    assert!(same(&a, &of(DType::Bytes(4), &["ab", "", "c"])));
    assert!(!same(&a, &of(DType::Str, &["ab", "c", ""])));
    assert!(!same(
        &of(DType::Str, &["ab", ""]),
        &of(DType::Str, &["ab", "c"])
    ));
}
