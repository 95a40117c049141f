use serde_json::{Value as Json, json};
use weighbridge_core::Limits;
use weighbridge_core::model::{
    Dict, FormatId, Model, NdArray, Object, Tensor, TensorSource, Value,
};

use super::*;

/// A small generator (xorshift64*), so that the trees are the same on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn text(&mut self) -> String {
        const WORDS: [&str; 9] = [
            "",
            "$dict",
            "$type",
            "lr",
            "a.b",
            "é世😀",
            "\"\\\n\u{0}",
            "_metadata",
            "0",
        ];
        WORDS[self.below(9) as usize].to_owned()
    }

    fn bytes(&mut self) -> Vec<u8> {
        (0..self.below(6)).map(|_| self.next() as u8).collect()
    }

    fn float(&mut self) -> f64 {
        const SOME: [f64; 8] = [
            0.0,
            -0.0,
            1.0,
            1e-8,
            f64::INFINITY,
            f64::NEG_INFINITY,
            0.1,
            1e300,
        ];
        match self.below(3) {
            0 => f64::from_bits(self.next() & 0x7fef_ffff_ffff_ffff),
            _ => SOME[self.below(8) as usize],
        }
    }

    fn list(&mut self, depth: u32) -> Vec<Value> {
        (0..self.below(4)).map(|_| self.value(depth)).collect()
    }

    fn maybe(&mut self, depth: u32) -> Option<Value> {
        (self.below(2) == 0).then(|| self.value(depth))
    }

    fn dict(&mut self, depth: u32) -> Dict {
        let entries = (0..self.below(4)).map(|_| (self.value(0), self.value(depth)));
        let entries = entries.collect();
        let class = (self.below(2) == 0).then(|| "collections.OrderedDict".to_owned());
        let attributes = match self.below(4) {
            0 => vec![(
                "_metadata".into(),
                metadata(self.below(2) == 0, Value::Int(1)),
            )],
            1 => vec![
                ("$dict".into(), self.value(depth)),
                ("x".into(), self.value(depth)),
            ],
            _ => Vec::new(),
        };
        Dict {
            class,
            entries,
            attributes,
        }
    }

    fn object(&mut self, depth: u32) -> Object {
        Object {
            class: self.text(),
            args: self.list(depth),
            kwargs: vec![(self.text(), self.value(depth))],
            state: self.maybe(depth),
            items: self.maybe(depth),
            state_dict: self.maybe(depth),
            text: (self.below(2) == 0).then(|| self.text()),
        }
    }

    fn value(&mut self, depth: u32) -> Value {
        let kinds = if depth == 0 { 17 } else { 23 };
        let d = depth.saturating_sub(1);
        match self.below(kinds) {
            0 => Value::Null,
            1 => Value::Bool(self.below(2) == 0),
            2 => Value::Int(self.next() as i64 >> self.below(64)),
            3 => Value::BigInt(format!("-1{}", u64::MAX)),
            4 => Value::Float(self.float()),
            5 => Value::Str(self.text()),
            6 => Value::Bytes(self.bytes()),
            7 => Value::ByteArray(self.bytes()),
            8 => Value::Complex(self.float(), self.float()),
            9 => Value::NdArray(NdArray {
                dtype: "float32".into(),
                shape: vec![self.below(9)],
                data: self.bytes(),
                sha256: self.text(),
            }),
            10 => Value::NpScalar {
                dtype: "int64".into(),
                text: "5".into(),
                raw: self.bytes(),
            },
            11 => Value::DType("torch.bfloat16".into()),
            12 => Value::Device("cuda:0".into()),
            13 => Value::Size(vec![2, -1, i64::MAX]),
            14 => Value::Tensor(self.text()),
            15 => Value::Ref("$.a".into()),
            16 => Value::Global(self.text()),
            17 => Value::List(self.list(d)),
            18 => Value::Tuple(self.list(d)),
            19 => Value::Set(self.list(d)),
            20 => Value::FrozenSet(self.list(d)),
            21 => Value::Dict(self.dict(d)),
            _ => Value::Object(Box::new(self.object(d))),
        }
    }
}

fn metadata(ordered: bool, version: Value) -> Value {
    let inner = Dict {
        entries: vec![(Value::Str("version".into()), version)],
        ..Dict::default()
    };
    Value::Dict(Dict {
        class: ordered.then(|| "collections.OrderedDict".to_owned()),
        entries: vec![(Value::Str(String::new()), Value::Dict(inner))],
        attributes: Vec::new(),
    })
}

#[test]
fn generated_trees_come_back_equal() {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for n in 0..4000 {
        let tree = random.value(1 + n % 5);
        let text = to_json(&tree, Form::Stored).to_string();
        let back = from_str(&text, &Limits::default()).unwrap();
        // Debug text tells -0.0 from 0.0 and the bits of NaN are the next test's.
        assert_eq!(format!("{back:?}"), format!("{tree:?}"), "{text}");
    }
}

#[test]
fn numbers_keep_their_kind_and_bits() {
    let text = |v: Value| to_json(&v, Form::Stored).to_string();
    assert_eq!(text(Value::Float(1.0)), "1.0");
    assert_eq!(text(Value::Int(1)), "1");
    assert_eq!(text(Value::Float(-0.0)), "-0.0");
    assert_eq!(to_json(&Value::Float(1e-8), Form::Inspect), json!(1e-08));
    assert_eq!(text(Value::Int(1 << 53)), "9007199254740992");
    assert_eq!(
        text(Value::Int((1 << 53) + 1)),
        r#"{"$int":"9007199254740993"}"#
    );
    assert_eq!(text(Value::Float(f64::NAN)), r#"{"$float":"nan"}"#);
    for bits in [
        f64::NAN.to_bits(),
        0xfff8_0000_0000_0000,
        0x7ff0_0000_0000_0123,
    ] {
        let json = text(Value::Float(f64::from_bits(bits)));
        match from_str(&json, &Limits::default()).unwrap() {
            Value::Float(f) => assert_eq!(f.to_bits(), bits),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_forms_of_inspect_match_the_corpus() {
    let null = |v: &str| Value::Str(v.to_owned());
    let path = Object {
        class: "pathlib.PurePosixPath".into(),
        args: vec![null("runs"), null("1")],
        text: Some("runs/1".into()),
        ..Object::default()
    };
    let shown = to_json(&Value::Object(Box::new(path)), Form::Inspect);
    assert_eq!(
        shown,
        json!({"$object": "pathlib.PurePosixPath", "str": "runs/1"})
    );
    let d = Dict {
        class: Some("collections.OrderedDict".into()),
        entries: vec![(null("w"), Value::Tensor("w".into()))],
        attributes: vec![("_metadata".into(), metadata(true, Value::Int(2)))],
    };
    let want = r#"{"$dict":[["w",{"$tensor":"w"}]],"$type":"collections.OrderedDict","_metadata":[["",{"version":2}]]}"#;
    assert_eq!(to_json(&Value::Dict(d), Form::Inspect).to_string(), want);
}

/// Decoding inspect's own form works too, where it lost nothing: every structure of the corpus
/// comes out as it went in.
#[test]
fn corpus_structures_round_trip() {
    let Some(corpus) = std::env::var_os("WEIGHBRIDGE_CORPUS") else {
        println!("skipped: WEIGHBRIDGE_CORPUS is not set");
        return;
    };
    let mut seen = 0;
    for entry in std::fs::read_dir(std::path::Path::new(&corpus).join("torch")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let json: Json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let structure = &json["structure"];
        // Arrays are shown by digest there, so there is nothing to decode.
        if structure.is_null() || structure.to_string().contains("$ndarray") {
            continue;
        }
        let tree = from_json(structure, &Limits::default()).unwrap();
        assert_eq!(&to_json(&tree, Form::Inspect), structure, "{path:?}");
        seen += 1;
    }
    assert!(seen > 30, "{seen} structures seen");
}

#[test]
fn hostile_json_is_refused_by_rule() {
    let deep = |n: usize| format!("{}{}", r#"{"$list":["#.repeat(n), "]}".repeat(n));
    let cases = [
        (r#"{"$later":1}"#.to_owned(), "structure.unknown-tag"),
        (r#"{"a":1}"#.to_owned(), "structure.untagged"),
        ("[1]".to_owned(), "structure.untagged"),
        (r#"{"$dict":[["a"]]}"#.to_owned(), "structure.bad-value"),
        (
            r#"{"$dict":[],"$list":[]}"#.to_owned(),
            "structure.bad-value",
        ),
        (r#"{"$bytes":"0"}"#.to_owned(), "structure.bad-value"),
        (r#"{"$int":"07"}"#.to_owned(), "structure.bad-value"),
        (
            r#"{"$ndarray":"float32","shape":[-1],"sha256":"","data":""}"#.to_owned(),
            "structure.bad-value",
        ),
        ("{".to_owned(), "structure.bad-json"),
        ("1 2".to_owned(), "structure.bad-json"),
        (String::new(), "structure.bad-json"),
        (deep(202), "structure.too-deep"),
        (deep(100_000), "structure.too-deep"),
    ];
    for (text, rule) in cases {
        let e = from_str(&text, &Limits::default()).unwrap_err();
        assert_eq!(e.rule(), rule, "{}", text.get(..60).unwrap_or(&text));
    }
    assert!(from_str(&deep(200), &Limits::default()).is_ok());
}

#[test]
fn long_bytes_become_tensors_and_come_back() {
    let long: Vec<u8> = (0..5000u32).map(|i| i as u8).collect();
    use sha2::Digest;
    let array = NdArray {
        dtype: "float32".into(),
        shape: vec![1250],
        data: long.clone(),
        sha256: hex::encode(sha2::Sha256::digest(&long)),
    };
    let key = |k: &str| Value::Str(k.into());
    let tree = Value::Dict(Dict {
        entries: vec![
            (key("b"), Value::List(vec![Value::Bytes(long.clone())])),
            (key("a"), Value::NdArray(array)),
            (key("s"), Value::Bytes(vec![1; BULK_BYTES])),
        ],
        ..Dict::default()
    });
    let mut moved = tree.clone();
    let mut taken = ["__state__.a".to_owned()].into();
    let tensors = move_bulk(&mut moved, &mut taken);
    let named: Vec<_> = tensors
        .iter()
        .map(|t| (t.name.as_str(), t.dtype.as_str()))
        .collect();
    assert_eq!(named, [("__state__.b.0", "U8"), ("__state__.a#2", "F32")]);
    let json = to_json(&moved, Form::Stored);
    let back = from_json(&json, &Limits::default()).unwrap();
    assert_eq!(back, moved);
    let Some(Value::Moved { value, tensor }) = back.get("a") else {
        panic!("{back:?}");
    };
    assert_eq!(tensor, "__state__.a#2");
    assert_eq!(
        Some(&bulk_bytes(value, tensors.get(1)).unwrap()),
        tree.get("a")
    );
    let other = bulk_bytes(value, tensors.first()).map(|_| ());
    assert!(
        other.is_ok(),
        "equal bytes under another dtype are equal bytes"
    );
    assert_eq!(
        bulk_bytes(value, None).unwrap_err().rule(),
        "structure.missing-tensor"
    );
}

#[test]
fn restore_takes_what_it_understands() {
    let mut m = Model::new(FormatId::Safetensors);
    m.tensors.push(Tensor::new(
        "w",
        crate::DType::F32,
        &[2],
        TensorSource::Absent,
    ));
    let entry = |k: &str, v: &str| (k.to_owned(), Value::Str(v.to_owned()));
    m.metadata = vec![
        entry("format", "pt"),
        entry(
            STRUCTURE_KEY,
            r#"{"$dict":[["epoch",3],["w",{"$tensor":"w"}]]}"#,
        ),
        entry(TENSORS_KEY, r#"{"w":{"requires_grad":true},"gone":{}}"#),
    ];
    let before = m.clone();
    restore(&mut m, &Limits::default());
    assert_eq!(m.metadata, [entry("format", "pt")]);
    assert_eq!(
        m.structure.as_ref().unwrap().get("epoch"),
        Some(&Value::Int(3))
    );
    assert!(m.warnings.is_empty());
    let again: Vec<_> = metadata_entries(&m);
    assert_eq!(
        again[0].1,
        r#"{"$dict":[["epoch",3],["w",{"$tensor":"w"}]]}"#
    );
    assert_eq!(again[1].1, r#"{"w":{"requires_grad":true}}"#);
    let mut m = before;
    m.metadata[1].1 = Value::Str(r#"{"$new":1}"#.into());
    restore(&mut m, &Limits::default());
    assert_eq!(m.metadata.len(), 2);
    assert_eq!(m.warnings[0].rule, "structure.unknown-tag");
}
