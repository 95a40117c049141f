//! Small types weighed by a matrix, of models with experts and with fused tensors: whole files
//! against the SHA-256 of those that llama-quantize (llama.cpp 0c1e570, x86-64) makes of them.

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use weighbridge::convert::{ConvertOptions, convert};
use weighbridge::quantize::imatrix::{self, Entry, Form, Matrix};
use weighbridge::quantize::{FileType, QuantizeOptions, quantize};
use weighbridge::{DType, FormatId, Model, Tensor};
use weighbridge_core::model::{Number, Storage, StorageData, TensorSource, Value, View};
use weighbridge_core::source::SliceSource;

/// Numbers that are the same everywhere (xorshift).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1 << 24) as f32
    }

    /// About normal, with a few large ones.
    fn weight(&mut self) -> f32 {
        let sum = (0..6).fold(0.0, |n, _| n + self.next()) - 3.0;
        if self.next() < 0.01 {
            sum * 0.2
        } else {
            sum * 0.02
        }
    }
}

/// The columns of all matrices.
const COLUMNS: u64 = 256;

/// A model and its matrix: rows of 256 values, tensors with `(experts, rows)`.
struct Bench {
    model: Model,
    matrix: Matrix,
    numbers: Numbers,
}

impl Bench {
    fn new(arch: &str, experts: u32, seed: u64) -> Self {
        let mut model = Model::new(FormatId::Gguf);
        let u32s = |n| Value::Number(Number::U32(n));
        let mut key = |name: &str, value| {
            let name = name.replace("ARCH", arch);
            model.metadata.push((name, value));
        };
        key("general.architecture", Value::Str(arch.into()));
        for (name, n) in [
            ("ARCH.block_count", 3),
            ("ARCH.context_length", 64),
            ("ARCH.embedding_length", 256),
            ("ARCH.feed_forward_length", 256),
            ("ARCH.attention.head_count", 4),
            ("ARCH.attention.head_count_kv", 1),
        ] {
            key(name, u32s(n));
        }
        for name in ["layer_norm_epsilon", "layer_norm_rms_epsilon"] {
            let eps = Value::Number(Number::F32(1e-5));
            key(&format!("ARCH.attention.{name}"), eps);
        }
        if experts > 0 {
            key("ARCH.expert_count", u32s(experts));
            key("ARCH.expert_used_count", u32s(2));
        }
        Self {
            model,
            matrix: Matrix {
                form: Form::Gguf,
                datasets: vec![b"text".to_vec()],
                chunk_count: 5,
                chunk_size: 512,
                entries: Default::default(),
            },
            numbers: Numbers(seed),
        }
    }

    /// Adds a tensor; all but the embeddings are weighed.
    fn add(&mut self, name: &str, experts: u64, rows: u64) {
        let n = (experts * rows * COLUMNS) as usize;
        let bytes: Vec<u8> = (0..n)
            .flat_map(|_| ((self.numbers.weight().to_bits() >> 16) as u16).to_le_bytes())
            .collect();
        let data = StorageData::Raw {
            source: Arc::new(SliceSource::new(bytes, name)),
            offset: 0,
            checksum: None,
        };
        let storage = Arc::new(Storage::new(name, 2 * n as u64, false, data).unwrap());
        let source = TensorSource::View(View { storage, offset: 0 });
        let shape = match experts {
            1 => vec![rows, COLUMNS],
            n => vec![n, rows, COLUMNS],
        };
        let tensor = Tensor::new(name, DType::BF16, &shape, source);
        self.model.tensors.push(tensor);
        if name == "token_embd.weight" {
            return;
        }
        let mut entry = Entry::default();
        for expert in 0..experts {
            // One expert that no token reached.
            let seen = if expert == 2 {
                0
            } else {
                100 + 37 * expert as i64
            };
            let sum = |n: &mut Numbers| n.next() * n.next() * n.next() * seen as f32;
            let sums = (0..COLUMNS).map(|_| sum(&mut self.numbers));
            entry.sums.extend(sums);
            entry.counts.push(seen);
        }
        self.matrix.entries.insert(name.to_owned(), entry);
    }

    /// Writes `NAME.gguf` and `NAME.imatrix.gguf`.
    fn write(mut self, folder: &Path, name: &str) -> Matrix {
        // GGUF's readers want them in this order as little as any other; it is that of layers.
        self.model.tensors.sort_by(|a, b| a.name.cmp(&b.name));
        let options = ConvertOptions {
            sync: false,
            ..ConvertOptions::default()
        };
        let path = folder.join(format!("{name}.gguf"));
        convert(self.model, &path, &options, &mut |_, _| {}).unwrap();
        let path = folder.join(format!("{name}.imatrix.gguf"));
        imatrix::write(&self.matrix, Form::Gguf, &path, false).unwrap();
        imatrix::read(&path).unwrap()
    }
}

/// Eight experts, as Mixtral has them.
fn mixtral() -> Bench {
    let mut b = Bench::new("llama", 8, 0x1234_5678_9abc_def1);
    b.add("token_embd.weight", 1, 24);
    b.add("output.weight", 1, 24);
    for layer in 0..3 {
        for (name, experts, rows) in [
            ("attn_q", 1, 8),
            ("attn_k", 1, 4),
            ("attn_v", 1, 4),
            ("attn_output", 1, 8),
            ("ffn_gate_exps", 8, 3),
            ("ffn_down_exps", 8, 3),
            ("ffn_up_exps", 8, 3),
        ] {
            b.add(&format!("blk.{layer}.{name}.weight"), experts, rows);
        }
    }
    b
}

/// One tensor for queries, keys and values, and embeddings that are the output as well.
fn fused() -> Bench {
    let mut b = Bench::new("falcon", 0, 0x0fed_cba9_8765_4321);
    b.add("token_embd.weight", 1, 24);
    for layer in 0..3 {
        for (name, rows) in [
            ("attn_qkv", 12),
            ("attn_output", 8),
            ("ffn_up", 16),
            ("ffn_down", 8),
        ] {
            b.add(&format!("blk.{layer}.{name}.weight"), 1, rows);
        }
    }
    b
}

#[track_caller]
fn compare(bench: Bench, name: &str, all: &[(&str, &str)]) {
    let dir = tempfile::tempdir().unwrap();
    let matrix = bench.write(dir.path(), name);
    for (file, want) in all {
        let options = QuantizeOptions {
            file: Some(FileType::parse(file).unwrap()),
            matrix: Some((format!("{name}.imatrix.gguf"), matrix.clone())),
            sync: false,
            ..QuantizeOptions::default()
        };
        let model = weighbridge::open(dir.path().join(format!("{name}.gguf"))).unwrap();
        let out = dir.path().join("out.gguf");
        quantize(model, &out, &options, &mut |_, _| {}).unwrap();
        let digest = Sha256::digest(std::fs::read(&out).unwrap());
        let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(&hex, want, "{name} {file}");
    }
}

#[test]
fn experts_are_weighed_as_in_the_reference() {
    compare(
        mixtral(),
        "mixtral",
        &[
            (
                "IQ1_S",
                "3e0173ddfa08ba834a341c78c8920d4179ae52959a3b1800befd5145c949bca4",
            ),
            (
                "IQ1_M",
                "b5179b790bc99dedac039d5b8fd708839f8ed50adbea81104717c28779ed03f3",
            ),
            (
                "IQ2_XXS",
                "50a47cb20e2fb31ed603119e84c1a53679b9b39dac783cc68daab021b03e0d50",
            ),
            (
                "IQ2_XS",
                "0cd211963e9902e6e84f59d094fc5b642b1551d89b24269a269c3517818dbbc5",
            ),
            (
                "IQ2_S",
                "6090493f8ffbdf672b2f29854ac27c9cc0f26f9023afb89778c9de0787b92b33",
            ),
            (
                "IQ2_M",
                "75dd8fc7d891de6d969c7c44d08b08110bc85ea1c99913b0d449126e7213565d",
            ),
            (
                "IQ3_XXS",
                "c1a99361ee55b683a82f3cbc8649818492a0384a970b72f78f51619b48b8053f",
            ),
            (
                "IQ3_XS",
                "90248e4551efd50f2db842941dedaf3c8dd3ba99ab6cb42bd9985175e8d8e7c3",
            ),
            (
                "IQ3_S",
                "766b35d08b39cc27fa9160a108ef5a020c5c54f10e80b3e6be8aaecb0acc1089",
            ),
            (
                "IQ3_M",
                "a1cc3ee61050bc9782a2b3831344eeb835c907f31e3d59abce85e8d0d9f1c906",
            ),
            (
                "IQ4_XS",
                "289075a086fbe79fda7793907ea88555d03680615500d26339754f25383f2509",
            ),
        ],
    );
}

#[test]
fn fused_tensors_are_weighed_as_in_the_reference() {
    compare(
        fused(),
        "falcon",
        &[
            (
                "IQ1_S",
                "bce886393547b1c1503c0e6fc40ca083161176d2fcadb8a0e123ae468078bd28",
            ),
            (
                "IQ1_M",
                "b9d2bdc6ad3d9eb0f8eb151c66eea57771dce6f2adfb4329762daa45ca913590",
            ),
            (
                "IQ2_XXS",
                "37df0c5ee600704862fa515e84761ee206e54038e261524e18142d927bb3a0d0",
            ),
            (
                "IQ2_XS",
                "32fbf7152db5459aa18a79d6653086bc1fbcd2abf7771a4c03987b51845ca538",
            ),
            (
                "IQ2_S",
                "dc157b09e529311adcba66a6872295f86f0fb944251254cd67eb1ae938adbb78",
            ),
            (
                "IQ2_M",
                "8e7924e0b26a7bf3672f436a1a8735f16ce40f98de3d97ac4e87f69e282c35d6",
            ),
            (
                "IQ3_XXS",
                "a6800897062389053043d019e335a84ffdebf6c3602afecd2341849a4f5462ef",
            ),
            (
                "IQ3_XS",
                "c90863b7ca3a569565cbfe773aacafcb822c33bd6c66ebfc4842d02876a05a3c",
            ),
            (
                "IQ3_S",
                "4ee431d468ad3b27a3b9a0a5de0a8e5dd2dc525a370b121b30c8930e54022626",
            ),
            (
                "IQ3_M",
                "2770d0e224496140e68cf825a5199deacef821dda77f775603eb68107b1e956c",
            ),
            (
                "IQ4_XS",
                "3075b0d97256af67208281453cc126058cc59a7f9c989e2da2649241b8210e6f",
            ),
        ],
    );
}
