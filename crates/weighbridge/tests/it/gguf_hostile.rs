//! The classes of memory-safety holes that readers of GGUF have had, one test each: what `check`
//! says of such a file, and what `open` does with it.
//!
//! Numbers without a name are issues and pull requests of llama.cpp.

use weighbridge::format::reader;
use weighbridge::{FormatId, OpenOptions};
use weighbridge_core::source::SliceSource;

/// A file of version 3, field by field.
struct File(Vec<u8>);

impl File {
    fn new(tensors: u64, keys: u64) -> Self {
        let mut f = b"GGUF\x03\0\0\0".to_vec();
        f.extend(tensors.to_le_bytes());
        f.extend(keys.to_le_bytes());
        Self(f)
    }

    fn n32(mut self, n: u32) -> Self {
        self.0.extend(n.to_le_bytes());
        self
    }

    fn n64(mut self, n: u64) -> Self {
        self.0.extend(n.to_le_bytes());
        self
    }

    fn text(mut self, s: &str) -> Self {
        self.0.extend((s.len() as u64).to_le_bytes());
        self.0.extend(s.as_bytes());
        self
    }

    fn string(self, key: &str, value: &str) -> Self {
        self.text(key).n32(8).text(value)
    }

    fn array(self, key: &str, element: u32, len: u64) -> Self {
        self.text(key).n32(9).n32(element).n64(len)
    }

    fn tokens(self, tokens: &[&str]) -> Self {
        let f = self.array("tokenizer.ggml.tokens", 8, tokens.len() as u64);
        tokens.iter().fold(f, |f, t| f.text(t))
    }

    fn tensor(self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        let f = self.text(name).n32(dims.len() as u32);
        let f = dims.iter().fold(f, |f, d| f.n64(*d));
        f.n32(kind).n64(offset)
    }

    fn data(mut self, n: usize) -> Self {
        let at = self.0.len().next_multiple_of(32);
        self.0.resize(at + n, 0);
        self
    }
}

/// The rules that `check` finds broken.
fn checked(f: &File) -> Vec<&'static str> {
    let source = std::sync::Arc::new(SliceSource::new(f.0.clone(), "x.gguf"));
    let gguf = reader(FormatId::Gguf).unwrap();
    let found = gguf.verify(source, &OpenOptions::default()).unwrap();
    found.iter().map(|v| v.rule).collect()
}

/// Neither `check` nor `open` takes the file.
#[track_caller]
fn refused(f: File, rule: &str) {
    assert_eq!(checked(&f).first(), Some(&rule));
    let source = std::sync::Arc::new(SliceSource::new(f.0, "x.gguf"));
    let gguf = reader(FormatId::Gguf).unwrap();
    let e = gguf.open(source, &OpenOptions::default()).unwrap_err();
    assert_eq!(e.rule(), rule, "{e}");
}

/// `check` tells of it; `open`, which takes values for what they are, warns.
#[track_caller]
fn told(f: File, rule: &str) {
    assert_eq!(checked(&f), [rule]);
    let source = std::sync::Arc::new(SliceSource::new(f.0, "x.gguf"));
    let gguf = reader(FormatId::Gguf).unwrap();
    let model = gguf.open(source, &OpenOptions::default()).unwrap();
    let warned: Vec<_> = model.warnings.iter().map(|w| w.rule).collect();
    assert_eq!(warned, [rule]);
    for (_, value) in &model.metadata {
        let form = weighbridge::structure::Form::Inspect;
        let _ = weighbridge::structure::to_json(value, form);
    }
}

#[test]
fn cve_2024_25664_counts_that_overflow_an_allocation() {
    for n in [u64::MAX, 1 << 63, u64::MAX / 24 + 1, 1 << 32] {
        refused(File::new(n, 0).data(64), "gguf.count");
        refused(File::new(0, n).data(64), "gguf.count");
    }
}

#[test]
fn cve_2024_25665_string_lengths_that_wrap() {
    for n in [u64::MAX, u64::MAX - 8, 1 << 63, 1 << 33] {
        refused(File::new(0, 1).n64(n).data(64), "gguf.string-length");
        let f = File::new(0, 1).text("k").n32(8).n64(n);
        refused(f.data(64), "gguf.string-length");
    }
}

#[test]
fn cve_2024_25666_array_lengths_that_wrap() {
    for element in [0, 4, 6, 8, 10, 12] {
        for n in [u64::MAX, 1 << 63, (1 << 61) + 1] {
            refused(
                File::new(0, 1).array("k", element, n).data(64),
                "gguf.array-length",
            );
        }
    }
}

#[test]
fn cve_2024_25667_more_dimensions_than_there_is_room_for() {
    for n in [5u32, 9, 1 << 16, u32::MAX] {
        let f = File::new(1, 0).text("w").n32(n).n64(1).n64(1);
        refused(f.data(200), "gguf.dimensions");
    }
}

#[test]
fn cve_2024_25668_and_2025_53630_element_counts_that_wrap() {
    for dims in [
        &[1u64 << 32, 1 << 32][..],
        &[1 << 62, 4],
        &[u64::MAX, 1],
        &[1 << 40, 1 << 20, 1 << 10],
    ] {
        let f = File::new(1, 0).tensor("w", dims, 0, 0).data(64);
        let found = checked(&f);
        let known = ["gguf.element-count", "gguf.dimension"];
        assert!(known.contains(&found[0]), "{dims:?}: {found:?}");
        refused(f, found[0]);
    }
    // As many bytes as wrap, of elements that do not.
    refused(
        File::new(1, 0).tensor("w", &[(1 << 62) + 1], 0, 0).data(64),
        "gguf.element-count",
    );
}

#[test]
fn cve_2026_7482_data_that_the_file_does_not_have() {
    let f = File::new(1, 0).tensor("w", &[1 << 20], 0, 0).data(64);
    refused(f, "gguf.data-outside");
    let f = File::new(1, 0).tensor("w", &[8], 0, u64::MAX - 31).data(64);
    refused(f, "gguf.data-outside");
}

/// 18674, 19856: sizes near the largest wrap when they are padded; a type below 0 indexes before
/// the table of types.
#[test]
fn pull_19856_offsets_and_types_out_of_range() {
    let f = File::new(2, 0)
        .tensor("a", &[8], 0, 0)
        .tensor("b", &[8], 0, u64::MAX - 15);
    let found = checked(&f.data(64));
    assert!(found.contains(&"gguf.data-outside"), "{found:?}");
    for kind in [u32::MAX, 1 << 31, 43, 4096] {
        refused(
            File::new(1, 0).tensor("w", &[8], kind, 0).data(64),
            "gguf.tensor-type",
        );
    }
    for kind in [u32::MAX, 13, 1 << 31] {
        refused(
            File::new(0, 1).text("k").n32(kind).data(64),
            "gguf.value-type",
        );
        refused(
            File::new(0, 1).array("k", kind, 1).data(64),
            "gguf.value-type",
        );
    }
}

/// 26690: arrays of one-byte elements that loaders read as four-byte ones.
#[test]
fn pull_26690_vocabulary_arrays_of_another_type() {
    for (key, element) in [
        ("tokenizer.ggml.scores", 0),
        ("tokenizer.ggml.token_type", 7),
    ] {
        let mut f = File::new(0, 2).tokens(&["a", "b"]).array(key, element, 2);
        f.0.extend([1, 0]);
        told(f, "gguf.vocabulary");
    }
    let f = File::new(0, 1).array("tokenizer.ggml.tokens", 4, 1).n32(7);
    told(f, "gguf.vocabulary");
    let f = File::new(0, 1).text("tokenizer.ggml.merges").n32(4).n32(7);
    told(f, "gguf.vocabulary");
}

/// 20735: fewer scores than tokens.
#[test]
fn pull_20735_vocabulary_arrays_of_another_length() {
    let f = File::new(0, 2).tokens(&["a", "b", "c"]);
    let f = f.array("tokenizer.ggml.scores", 6, 1).n32(0);
    told(f, "gguf.vocabulary");
    let f = File::new(0, 2).tokens(&["a"]);
    let f = f.array("tokenizer.ggml.token_type", 5, 0);
    told(f, "gguf.vocabulary");
}

/// 25969: the number in `<0x-1>` is an index.
#[test]
fn pull_25969_byte_tokens_that_are_no_bytes() {
    for token in ["<0x-1>", "<0x 1>", "<0xZZ>"] {
        let f = File::new(0, 2).string("tokenizer.ggml.model", "plamo2");
        told(f.tokens(&["<0x0A>", token]), "gguf.byte-token");
        let f = File::new(0, 2).tokens(&["<0x0a>", token]);
        told(
            f.array("tokenizer.ggml.token_type", 5, 2).n32(6).n32(6),
            "gguf.byte-token",
        );
    }
    // A word like any other where nobody parses it.
    let f = File::new(0, 2).tokens(&["<0x0a>", "<0x-1>"]);
    let f = f.array("tokenizer.ggml.token_type", 5, 2).n32(6).n32(1);
    assert!(checked(&f).is_empty());
}

/// 25821: more blocks than loaders have room for.
#[test]
fn pull_25821_a_block_count_past_every_table() {
    for n in [513u32, 1 << 20, u32::MAX] {
        told(
            File::new(0, 1).text("llama.block_count").n32(4).n32(n),
            "gguf.block-count",
        );
    }
    told(
        File::new(0, 1)
            .text("llama.block_count")
            .n32(5)
            .n32(u32::MAX),
        "gguf.block-count",
    );
    let f = File::new(0, 1).text("llama.block_count").n32(4).n32(512);
    assert!(checked(&f).is_empty());
}

/// 24997: the padding to 2^31 wraps in 32 bits; 26318: an alignment of another type.
#[test]
fn issue_24997_and_pull_26318_alignments() {
    for n in [0, 3, 0x8000_0000, u32::MAX] {
        let f = File::new(0, 1).text("general.alignment").n32(4).n32(n);
        refused(f, "gguf.alignment");
    }
    let f = File::new(0, 1).text("general.alignment").n32(5).n32(32);
    refused(f, "gguf.alignment");
}

/// 27188: an array of 2^63 elements in 45 bytes hangs gguf-py 0.19.0.
#[test]
fn pull_27188_an_array_without_end() {
    let f = File::new(0, 1).array("k", 8, 1 << 63);
    let started = std::time::Instant::now();
    refused(f, "gguf.array-length");
    let mut f = File::new(0, 1).array("k", 9, 1);
    for _ in 0..100_000 {
        f = f.n32(9).n64(1);
    }
    let found = checked(&f);
    assert!(found.contains(&"gguf.nested-array"), "{found:?}");
    assert!(started.elapsed().as_secs() < 5);
}
