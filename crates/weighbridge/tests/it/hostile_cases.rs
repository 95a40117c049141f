//! Small files made to cost much: time, memory, stack, or a wait that never ends. Each case is
//! one that once did.

mod containers;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use weighbridge::convert::{ConvertOptions, convert};
use weighbridge::scan::{ScanOptions, scan};
use weighbridge::structure::{Form, to_json};
use weighbridge::{Backend, OpenOptions, check, diff};
use weighbridge_core::wire::zip::Writer;

/// Far above what any case takes, even on a busy machine in a debug build, and far below what
/// each took.
const LONGEST: Duration = Duration::from_secs(30);

/// A pickle under construction.
#[derive(Clone, Default)]
struct Pickle(Vec<u8>);

impl Pickle {
    fn new() -> Self {
        Self(b"\x80\x04".to_vec())
    }

    fn op(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn times(mut self, n: usize, bytes: &[u8]) -> Self {
        for _ in 0..n {
            self.0.extend_from_slice(bytes);
        }
        self
    }

    /// `BINUNICODE`.
    fn text(self, s: &str) -> Self {
        let len = (s.len() as u32).to_le_bytes();
        self.op(b"X").op(&len).op(s.as_bytes())
    }

    /// `BINBYTES`.
    fn bytes(self, b: &[u8]) -> Self {
        let len = (b.len() as u32).to_le_bytes();
        self.op(b"B").op(&len).op(b)
    }

    fn int(self, n: i32) -> Self {
        self.op(b"J").op(&n.to_le_bytes())
    }

    fn long(self, n: i64) -> Self {
        self.op(b"\x8a\x08").op(&n.to_le_bytes())
    }

    fn global(self, module: &str, name: &str) -> Self {
        self.op(format!("c{module}\n{name}\n").as_bytes())
    }

    /// `BINPUT`, the value staying on the stack.
    fn put(self, n: u8) -> Self {
        self.op(&[b'q', n])
    }

    /// The value on top kept in the memo and taken off.
    fn keep(self, n: u8) -> Self {
        self.put(n).op(b"0")
    }

    fn get(self, n: u8) -> Self {
        self.op(&[b'h', n])
    }

    /// A list of `n` times memo entry `m`, and the end of the pickle.
    fn list_of(self, n: usize, m: u8) -> Vec<u8> {
        self.op(b"](").times(n, &[b'h', m]).op(b"e.").0
    }

    /// A list of `n` times the opcodes `each`, and the end of the pickle.
    fn list_with(self, n: usize, each: &[u8]) -> Vec<u8> {
        self.op(b"](").times(n, each).op(b"e.").0
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn options() -> OpenOptions {
    OpenOptions {
        backend: Backend::Pread,
        ..OpenOptions::default()
    }
}

/// Everything a user may do with the file, in bounded time: on a thread with the small stack that
/// library users have, in debug builds too. Gives the rule that opening it broke, or "".
fn exercise(path: PathBuf) -> &'static str {
    let started = Instant::now();
    let run = move || {
        let out = path.with_extension("out.safetensors");
        let torch = path.with_extension("out.pt");
        let _ = check::check(&path, &options());
        let _ = scan(
            std::slice::from_ref(&path),
            &ScanOptions::default(),
            &mut |_| {},
        );
        let model = match options().open(&path) {
            Ok(m) => m,
            Err(e) => return e.rule(),
        };
        if let Some(s) = &model.structure {
            let _ = to_json(s, Form::Inspect);
            let _ = to_json(s, Form::Stored).to_string();
        }
        let _ = diff::diff(&model, &model, &diff::DiffOptions::default());
        drop(model);
        for out in [out, torch] {
            let Ok(model) = options().open(&path) else {
                continue;
            };
            let _ = convert(model, &out, &ConvertOptions::default(), &mut |_, _| {});
        }
        ""
    };
    let thread = std::thread::Builder::new().stack_size(2 << 20);
    let rule = thread.spawn(run).unwrap().join().unwrap();
    let took = started.elapsed();
    assert!(took < LONGEST, "took {took:?}");
    rule
}

fn pickle_case(data: &[u8]) -> &'static str {
    let dir = folder();
    let path = dir.path().join("case.pt");
    std::fs::write(&path, data).unwrap();
    exercise(path)
}

/// A zip of stored members, as torch writes it.
fn zip(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut w = Writer::new(64).unwrap();
    let mut out = Vec::new();
    for (name, data) in members {
        out.extend(w.start(name, data.len() as u64).unwrap());
        w.data(data).unwrap();
        out.extend_from_slice(data);
        out.extend(w.end().unwrap());
    }
    out.extend(w.finish().unwrap());
    out
}

const TOO_MANY: &str = "pytorch.too-many-values";
const WORK: &str = "pickle.too-much-work";

#[test]
fn one_value_referred_to_again_and_again() {
    let long = "x".repeat(400_000);
    let bytes = Pickle::new().bytes(&vec![7; 400_000]).keep(0);
    assert_eq!(pickle_case(&bytes.clone().list_of(100_000, 0)), TOO_MANY);
    let text = Pickle::new().text(&long).keep(0);
    assert_eq!(pickle_case(&text.clone().list_of(100_000, 0)), TOO_MANY);
    // As a key that is set again each time.
    let keys = text.clone().op(b"}(").times(100_000, b"h\0N").op(b"u.").0;
    assert_eq!(pickle_case(&keys), TOO_MANY);
    // As the name of a class; each copy was the machine's.
    let names = text.clone().list_with(100_000, b"h\0h\0\x93");
    assert_eq!(pickle_case(&names), "pickle.too-long-names");
    // As a wide integer, whose digits take quadratic time.
    let digits = Pickle::new()
        .op(b"\x8b\0\x08\0\0")
        .op(&[0x55; 2048])
        .keep(0);
    assert!([TOO_MANY, WORK].contains(&pickle_case(&digits.list_of(100_000, 0))));
    // As an array, which is copied and hashed.
    let array = Pickle::new()
        .global("numpy.core.multiarray", "_frombuffer")
        .keep(1)
        .global("numpy", "dtype")
        .text("u1")
        .op(b"\x85R")
        .keep(2)
        .bytes(&vec![1; 300_000])
        .keep(3)
        .int(300_000)
        .op(b"\x85")
        .keep(4)
        .op(b"(h\x01(h\x03h\x02h\x04X\x01\0\0\0CtR")
        .keep(5);
    assert!([TOO_MANY, WORK].contains(&pickle_case(&array.list_of(100_000, 5))));
    // As the sizes of many shapes.
    let sizes = Pickle::new()
        .op(b"(")
        .times(100_000, b"K\x01")
        .op(b"t\x85")
        .keep(0)
        .global("torch", "Size")
        .keep(1);
    assert_eq!(
        pickle_case(&sizes.list_with(50_000, b"h\x01h\0R")),
        TOO_MANY
    );
}

#[test]
fn containers_that_double_at_every_level() {
    let mut p = Pickle::new().op(b"N").keep(0);
    for level in 0..30u8 {
        let inner = [b'h', level];
        p = p.op(b"](").times(10, &inner).op(b"e").keep(level + 1);
    }
    assert_eq!(pickle_case(&p.get(30).op(b".").0), TOO_MANY);
    // Modules without parameters make no values.
    let mut p = Pickle::new().op(b"N").keep(0);
    for level in 0..40u8 {
        p = module(p, &[("a", level), ("b", level), ("c", level)]).keep(level + 1);
    }
    let rule = pickle_case(&p.get(40).op(b".").0);
    assert!([TOO_MANY, WORK].contains(&rule), "{rule}");
}

/// A module with children from the memo.
fn module(p: Pickle, children: &[(&str, u8)]) -> Pickle {
    let mut p = p
        .global("m", "M")
        .op(b")R}(")
        .text("_parameters")
        .op(b"}")
        .text("_modules")
        .op(b"}(");
    for (name, child) in children {
        p = p.text(name).get(*child);
    }
    p.op(b"uub")
}

#[test]
fn recursion_in_every_reader_shares_one_limit() {
    // Lists, calls, states and modules, each as deep as it goes, on a small stack.
    let lists = Pickle::new()
        .times(100_000, b"](")
        .times(100_000, b"e")
        .op(b".")
        .0;
    assert_eq!(pickle_case(&lists), "pytorch.too-deep");
    for depth in [95, 1000] {
        let calls = Pickle::new()
            .op(b"N")
            .times(depth, b"\x85cm\nM\n)R(dN\x86b0")
            .op(b".")
            .0;
        let _ = pickle_case(&calls);
        let mut p = Pickle::new().op(b"N");
        for _ in 0..depth {
            p = p
                .keep(0)
                .global("m", "M")
                .op(b")R}")
                .text("a")
                .get(0)
                .op(b"sb");
        }
        let rule = pickle_case(&p.op(b".").0);
        assert_eq!(rule == "pytorch.too-deep", depth == 1000, "{rule}");
    }
    // A chain of modules in a parameter of a chain of modules in …
    let mut p = Pickle::new().op(b"N").keep(0);
    for _ in 0..150 {
        p = p
            .global("m", "M")
            .op(b")R}(")
            .text("_modules")
            .op(b"}")
            .text("_parameters")
            .op(b"}")
            .text("w")
            .get(0)
            .op(b"sub")
            .keep(0);
        for _ in 0..150 {
            p = module(p, &[("a", 0)]).keep(0);
        }
    }
    assert_eq!(pickle_case(&p.get(0).op(b".").0), "pytorch.too-deep");
    // Constructors in the state of constructors.
    let mut p = Pickle::new()
        .global("torch._utils", "_rebuild_parameter_with_state")
        .keep(1)
        .global("torch._utils", "_rebuild_meta_tensor_no_storage")
        .op(b"(ctorch\nfloat32\n))\x89tR")
        .keep(2)
        .op(b"N")
        .keep(0);
    for _ in 0..150 {
        p = p.get(2).keep(3);
        for _ in 0..15 {
            p = p.op(b"h\x01(h\x03\x88Nh\0tR").keep(3);
        }
        p = p.get(3).op(b"\x85").keep(0);
    }
    assert_eq!(pickle_case(&p.get(0).op(b".").0), "pytorch.too-deep");
}

#[test]
fn constructors_that_multiply() {
    // Sparse tensors whose three parts are sparse tensors.
    let mut p = Pickle::new()
        .global("torch._utils", "_rebuild_sparse_tensor")
        .keep(1)
        .global("torch._utils", "_rebuild_meta_tensor_no_storage")
        .op(b"(ctorch\nfloat32\n))\x89tR")
        .keep(2);
    for _ in 0..15 {
        p = p
            .op(b"h\x01ctorch\nsparse_csr\n(h\x02h\x02h\x02)t\x86R")
            .keep(2);
    }
    assert_eq!(
        pickle_case(&p.get(2).op(b".").0),
        "pytorch.rebuild-arguments"
    );
    // One long tuple of sizes for many meta tensors.
    let p = Pickle::new()
        .op(b"(")
        .times(100_000, b"K\x01")
        .op(b"t")
        .keep(0)
        .global("torch._utils", "_rebuild_meta_tensor_no_storage")
        .keep(1)
        .global("torch", "float32")
        .keep(2);
    let p = p.list_with(50_000, b"h\x01(h\x02h\0)\x89tR");
    assert_eq!(pickle_case(&p), "pytorch.too-many-dimensions");
}

/// A persistent id of storage 0, floats, in memo entry 0.
fn storage(p: Pickle, floats: i32) -> Pickle {
    p.op(b"(")
        .text("storage")
        .global("torch", "FloatStorage")
        .text("0")
        .text("cpu")
        .int(floats)
        .op(b"tQ")
        .keep(0)
}

fn torch_file(pickle: &[u8], floats: usize) -> &'static str {
    let data = vec![0u8; floats * 4];
    pickle_case(&zip(&[("m/data.pkl", pickle), ("m/data/0", &data)]))
}

#[test]
fn mappings_looked_up_again_and_again() {
    // The hooks' metadata of every tensor is one mapping of 100,000 entries.
    let p = storage(Pickle::new(), 1)
        .op(b"}(")
        .times(100_000, b"K\x01N")
        .op(b"u")
        .keep(1)
        .global("torch._utils", "_rebuild_tensor_v2")
        .keep(2);
    let p = p.list_with(20_000, b"h\x02(h\0K\0))\x89Nh\x01tR");
    assert_eq!(torch_file(&p, 1), WORK);
    // The state of every object is.
    let p = Pickle::new()
        .op(b"}(")
        .times(100_000, b"K\x01N")
        .op(b"u")
        .keep(1)
        .global("m", "M")
        .keep(2);
    let rule = pickle_case(&p.list_with(20_000, b"h\x02)Rh\x01b"));
    assert!([TOO_MANY, WORK].contains(&rule), "{rule}");
    // The keys of one mapping are one long string.
    let p = Pickle::new()
        .text(&"k".repeat(500_000))
        .keep(0)
        .global("m", "M");
    let p = p.op(b")R}(").times(100_000, b"h\0N").op(b"ub.").0;
    assert_eq!(pickle_case(&p), TOO_MANY);
}

#[test]
fn long_paths_over_many_values() {
    let key = "k".repeat(60_000);
    let p = Pickle::new().op(b"}").text(&key);
    let lists = p.clone().op(b"](").times(200_000, b"]").op(b"es.").0;
    assert_eq!(pickle_case(&lists), TOO_MANY);
    // Named tensors.
    let p = storage(Pickle::new(), 1)
        .global("torch._utils", "_rebuild_tensor_v2")
        .op(b"(h\0K\0))\x89NtR")
        .keep(1)
        .op(b"}")
        .text(&key)
        .op(b"](")
        .times(50_000, b"h\x01")
        .op(b"es.");
    assert_eq!(torch_file(&p.0, 1), TOO_MANY);
    // Prefixes of modules grow at every level.
    let mut p = Pickle::new()
        .text(&"k".repeat(300_000))
        .keep(1)
        .op(b"N")
        .keep(0);
    for _ in 0..150 {
        p = p
            .global("m", "M")
            .op(b")R}(")
            .text("_parameters")
            .op(b"}")
            .text("_modules")
            .op(b"}h\x01h\0sub")
            .keep(0);
    }
    assert_eq!(pickle_case(&p.get(0).op(b".").0), "pytorch.long-name");
}

#[test]
fn many_parameters_of_one_name() {
    let p = storage(Pickle::new(), 1)
        .global("torch._utils", "_rebuild_tensor_v2")
        .op(b"(h\0K\0))\x89NtR")
        .keep(1)
        .text("w")
        .keep(2)
        .global("m", "M")
        .op(b")R}(")
        .text("_modules")
        .op(b"}")
        .text("_parameters")
        .op(b"}(")
        .times(30_000, b"h\x02h\x01")
        .op(b"uub.");
    assert_eq!(torch_file(&p.0, 1), "");
}

#[test]
fn files_inside_files() {
    // A legacy file in a byte string, behind every tensor: opened once, and its own bombs count.
    let inner = Pickle::new().op(b"N").keep(0).list_of(50_000, 0);
    let p = Pickle::new()
        .global("torch.storage", "_load_from_bytes")
        .keep(1)
        .bytes(&inner)
        .op(b"\x85")
        .keep(2)
        .global("torch._utils", "_rebuild_tensor_v2")
        .keep(3);
    let rule = pickle_case(&p.list_with(20_000, b"h\x03(h\x01h\x02RK\0))\x89NtR"));
    assert_ne!(rule, "");
}

#[test]
fn numbers_at_their_ends() {
    let timedelta = Pickle::new().global("datetime", "timedelta").long(i64::MIN);
    assert_eq!(
        pickle_case(&timedelta.long(i64::MIN).long(i64::MIN).op(b"\x87R.").0),
        ""
    );
    for code in [
        "V18446744073709551615",
        "S9223372036854775808",
        "U4611686018427387903",
    ] {
        let p = Pickle::new().global("numpy", "dtype").text(code);
        assert_eq!(pickle_case(&p.op(b"\x85R.").0), "");
    }
    // Sizes, strides and offsets at the edge of 64 bits.
    let ends = [
        0,
        1,
        -1,
        1 << 32,
        i64::MAX,
        i64::MAX - 1,
        i64::MIN,
        1 << 62,
        1 << 31,
    ];
    for &offset in &ends {
        for &size in &ends {
            for &stride in &ends {
                let p = storage(Pickle::new(), 4)
                    .global("torch._utils", "_rebuild_tensor_v2")
                    .op(b"(h\0")
                    .long(offset)
                    .long(size)
                    .long(2)
                    .op(b"\x86")
                    .long(stride)
                    .long(stride)
                    .op(b"\x86\x89NtR.");
                let dir = folder();
                let path = dir.path().join("case.pt");
                let file = zip(&[("m/data.pkl", &p.0), ("m/data/0", &[0; 16])]);
                std::fs::write(&path, file).unwrap();
                if let Ok(m) = options().open(&path) {
                    let _ = m.tensors.iter().map(|t| t.read_vec()).collect::<Vec<_>>();
                }
            }
        }
    }
}

#[test]
fn keys_of_storages_are_short() {
    // Every persistent id was read, copied and hashed while the stream was laid out.
    let long = "9".repeat(400_000);
    let object = Pickle::new()
        .text("storage")
        .keep(0)
        .global("torch", "FloatStorage")
        .keep(1)
        .text(&long)
        .keep(2)
        .op(b"](")
        .times(50_000, b"(h\0h\x01h\x02h\0K\x01tQ")
        .op(b"e.");
    let mut file = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.".to_vec();
    file.extend(b"\x80\x02M\xe9\x03.\x80\x02}.");
    file.extend(&object.0);
    file.extend(b"\x80\x02].");
    let rule = pickle_case(&file);
    assert!(["pytorch.persistent-id", WORK].contains(&rule), "{rule}");
}

#[test]
fn packages_of_many_pickles() {
    let mut laugh = Pickle::new().op(b"N").keep(0);
    for level in 0..9u8 {
        let inner = [b'h', level];
        laugh = laugh.op(b"](").times(6, &inner).op(b"e").keep(level + 1);
    }
    let laugh = laugh.get(6).op(b".").0;
    let names: Vec<String> = (0..500).map(|i| format!("p/r/{i}.pkl")).collect();
    let mut members: Vec<(&str, &[u8])> = vec![("p/.data/extern_modules", b"")];
    members.extend(names.iter().map(|n| (n.as_str(), laugh.as_slice())));
    assert_eq!(pickle_case(&zip(&members)), TOO_MANY);
}

#[test]
fn attributes_of_scripted_modules_under_a_long_name() {
    let p = Pickle::new()
        .global("__torch__", "M")
        .op(b")R}")
        .text(&"k".repeat(60_000))
        .op(b"}(");
    let mut p = p;
    for i in 0..30_000 {
        p = p.int(i).op(b"K\x01");
    }
    let p = p.op(b"usb.");
    let empty = Pickle::new().op(b").").0;
    let file = zip(&[("m/data.pkl", &p.0), ("m/constants.pkl", &empty)]);
    assert_eq!(pickle_case(&file), TOO_MANY);
}
