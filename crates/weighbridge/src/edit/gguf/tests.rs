use std::path::{Path, PathBuf};

use weighbridge_core::model::{Coding, Element, Model, Number, Value};
use weighbridge_core::source::{FileSource, SliceSource};

use super::super::in_place::lock;
use super::super::{Change, EditOptions, Kind, Method, Report};
use super::draft::FILL;
use super::*;

/// Every version and byte order.
const FORMS: [(u32, bool); 6] = [
    (1, false),
    (1, true),
    (2, false),
    (2, true),
    (3, false),
    (3, true),
];

/// Version 3, little-endian.
fn sample() -> Vec<u8> {
    sample_of(3, false)
}

/// A file of this version and byte order: an architecture, a name, a long list of tokens, a
/// template, and two tensors.
fn sample_of(version: u32, big_endian: bool) -> Vec<u8> {
    let wide = version != 1;
    let c = Coding { big_endian, wide };
    let four = |out: &mut Vec<u8>, n: u32| c.put(n.into(), 4, out);
    let text = |out: &mut Vec<u8>, s: &str| c.put_string(s.as_bytes(), out);
    let mut f = b"GGUF".to_vec();
    four(&mut f, version);
    c.put_length(2, &mut f);
    c.put_length(5, &mut f);
    for (key, value) in [
        ("general.architecture", "llama"),
        ("general.name", "a name"),
    ] {
        text(&mut f, key);
        four(&mut f, 8);
        text(&mut f, value);
    }
    text(&mut f, "tokenizer.ggml.tokens");
    [9, 8].iter().for_each(|n| four(&mut f, *n));
    c.put_length(900, &mut f);
    for i in 0..900 {
        text(&mut f, &format!("token {i}"));
    }
    text(&mut f, "llama.block_count");
    [4, 3].iter().for_each(|n| four(&mut f, *n));
    text(&mut f, "tokenizer.chat_template");
    four(&mut f, 8);
    text(&mut f, "{{ messages }}");
    for (name, dims, at) in [("a.weight", [8u64, 5], 0u64), ("b.weight", [3, 2], 160)] {
        text(&mut f, name);
        four(&mut f, 2);
        dims.iter().for_each(|d| c.put_length(*d, &mut f));
        four(&mut f, 0);
        c.put(at, 8, &mut f);
    }
    f.resize(f.len().next_multiple_of(32), 0);
    f.extend((0..160u32).map(|i| i as u8));
    f.extend((0..24u32).map(|i| 200 - i as u8));
    f.extend([0; 8]);
    f
}

struct Bench {
    dir: tempfile::TempDir,
    path: PathBuf,
}

impl Bench {
    fn new(bytes: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        std::fs::write(&path, bytes).unwrap();
        Self { dir, path }
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap()
    }

    fn edit(&self, changes: &[Change]) -> Report {
        self.with(changes, EditOptions::default()).unwrap()
    }

    fn reserve(&self, n: u64) -> Report {
        let options = EditOptions {
            reserve: Some(n),
            ..EditOptions::default()
        };
        self.with(&[], options).unwrap()
    }

    fn with(&self, changes: &[Change], options: EditOptions) -> Result<Report> {
        let options = EditOptions {
            sync: false,
            ..options
        };
        super::super::edit(&self.path, changes, &options, &mut |_, _| {})
    }

    fn refused(&self, change: Change) -> &'static str {
        let before = self.bytes();
        let e = self.with(&[change], EditOptions::default()).unwrap_err();
        assert_eq!(self.bytes(), before, "{e}: the file has changed");
        assert_eq!(std::fs::read_dir(self.dir.path()).unwrap().count(), 1);
        e.rule()
    }

    /// What the file holds, and that it conforms.
    fn content(&self) -> Content {
        content(&self.bytes()).unwrap()
    }
}

/// Key-values by name, without room, and tensors with their bytes.
type Content = (Vec<(String, Value)>, Vec<(String, Vec<u64>, Vec<u8>)>);

fn content(bytes: &[u8]) -> Result<Content> {
    let source = Arc::new(SliceSource::new(bytes.to_vec(), "m.gguf"));
    let reader = crate::format::reader(weighbridge_core::model::FormatId::Gguf).unwrap();
    let options = crate::OpenOptions::default();
    let model: Model = reader.open(source.clone(), &options)?;
    let broken = verify::verify(source.as_ref(), &options.limits)?;
    assert!(broken.iter().all(|v| v.rule == "gguf.utf8"), "{broken:?}");
    let mut keys = model.metadata;
    keys.retain(|(k, _)| k != RESERVE && k != USED);
    keys.sort_by(|a, b| a.0.cmp(&b.0));
    let tensors = model.tensors.iter().map(|t| {
        let bytes = t.bytes().unwrap().to_vec();
        (t.name.clone(), t.shape.to_vec(), bytes)
    });
    Ok((keys, tensors.collect()))
}

fn set(s: &str) -> Change {
    Change::parse_set(s).unwrap()
}

fn value<'c>(content: &'c Content, key: &str) -> Option<&'c Value> {
    content.0.iter().find(|(k, _)| k == key).map(|(_, v)| v)
}

#[test]
fn a_number_is_written_where_it_stands() {
    for (version, big_endian) in FORMS {
        let b = Bench::new(&sample_of(version, big_endian));
        let before = b.bytes();
        let report = b.edit(&[set("llama.block_count=7")]);
        assert_eq!((report.method, report.written), (Method::InPlace, 1));
        let after = b.bytes();
        assert_eq!(before.iter().zip(&after).filter(|(a, b)| a != b).count(), 1);
        let n = value(&b.content(), "llama.block_count").cloned();
        assert_eq!(n, Some(Value::Number(Number::U32(7))), "the type is kept");
        let again = b.edit(&[set("llama.block_count=7")]);
        assert_eq!((again.method, again.written), (Method::Unchanged, 0));
        assert_eq!(b.bytes(), after);
    }
}

#[test]
fn a_header_that_grows_is_what_a_fresh_writer_makes() {
    let b = Bench::new(&sample());
    let template = "{% for m in messages %}{{ m }}{% endfor %}".repeat(9);
    let changes = [
        Change::SetText {
            key: "tokenizer.chat_template".into(),
            text: template.clone(),
        },
        set("general.url=https://example.org"),
        Change::Unset("general.name".into()),
        Change::RenameKey("llama.block_count".into(), "llama.blocks".into()),
        Change::Rename("a.weight".into(), "first.weight".into()),
    ];
    let report = b.edit(&changes);
    assert_eq!(report.method, Method::Rewritten);
    assert_eq!(report.changed.len(), 5, "{:?}", report.changed);
    assert_eq!(report.bytes, b.bytes().len() as u64);
    let content = b.content();
    assert_eq!(value(&content, "general.name"), None);
    let text = Value::Str(template);
    assert_eq!(value(&content, "tokenizer.chat_template"), Some(&text));
    assert_eq!(content.1[0].0, "first.weight");
    assert_eq!(
        content.1[0].2,
        (0..160u32).map(|i| i as u8).collect::<Vec<_>>()
    );
    // The writer of conversions gives the same file.
    let model = crate::open(&b.path).unwrap();
    let out = b.dir.path().join("fresh.gguf");
    let options = crate::convert::ConvertOptions::default();
    crate::convert::convert(model, &out, &options, &mut |_, _| {}).unwrap();
    assert_eq!(std::fs::read(out).unwrap(), b.bytes());
}

/// What is written anew keeps its version and byte order, and says the same in all of them.
#[test]
fn every_version_and_byte_order_stays() {
    let changes = [
        set("tokenizer.chat_template=a longer template than before"),
        set("x.list:arr[u16]=[1, 515]"),
        set("x.words=[\"a\", \"b\"]"),
        set("x.wide:i64=-3"),
        set("x.eps=1e-5"),
        set("general.alignment=64"),
        Change::RenameKey("llama.block_count".into(), "llama.blocks".into()),
        Change::Rename("b.weight".into(), "last.weight".into()),
        Change::Remove("a.weight".into()),
    ];
    let want = after(&sample(), &changes);
    for (version, big_endian) in FORMS {
        let b = Bench::new(&sample_of(version, big_endian));
        let report = b.edit(&changes);
        assert_eq!(report.method, Method::Rewritten);
        let header = b.bytes();
        let mut number = Vec::new();
        let wide = true;
        Coding { big_endian, wide }.put(version.into(), 4, &mut number);
        assert_eq!(header[4..8], number, "{version} {big_endian}");
        let content = b.content();
        assert_eq!(content.0, want.0, "{version} {big_endian}");
        let (name, shape, bytes) = &content.1[0];
        assert_eq!((name, shape), (&want.1[0].0, &want.1[0].1));
        let mut numbers = bytes.clone();
        if big_endian {
            numbers.chunks_exact_mut(4).for_each(<[u8]>::reverse);
        }
        assert_eq!(numbers, want.1[0].2, "the data is the same");
        // The writer of conversions gives the same file.
        if big_endian && version == 3 {
            let out = b.dir.path().join("fresh.gguf");
            let options = crate::convert::ConvertOptions {
                endian: Some(crate::convert::Endian::Big),
                ..Default::default()
            };
            let model = crate::open(&b.path).unwrap();
            crate::convert::convert(model, &out, &options, &mut |_, _| {}).unwrap();
            assert_eq!(std::fs::read(out).unwrap(), b.bytes());
        }
    }
}

#[test]
fn a_tensor_left_out_moves_the_others_up() {
    let b = Bench::new(&sample());
    let old = b.content();
    let report = b.edit(&[Change::Remove("a.weight".into())]);
    assert_eq!((report.method, report.tensors), (Method::Rewritten, 1));
    let new = b.content();
    assert_eq!((&new.0, &new.1[..]), (&old.0, &old.1[1..]));
    let b = Bench::new(&sample());
    b.edit(&[Change::Remove("b.weight".into())]);
    assert_eq!(b.content().1[..], old.1[..1]);
}

#[test]
fn another_alignment_moves_the_tensors() {
    let b = Bench::new(&sample());
    let old = b.content();
    let report = b.edit(&[set("general.alignment=128")]);
    assert_eq!(report.method, Method::Rewritten);
    let new = b.content();
    assert_eq!(new.1, old.1);
    let n = value(&new, "general.alignment");
    assert_eq!(n, Some(&Value::Number(Number::U32(128))));
    b.edit(&[Change::Unset("general.alignment".into())]);
    assert_eq!(b.bytes(), sample());
}

#[test]
fn a_reserve_takes_edits_in_place_until_it_is_full() {
    for (version, big_endian) in FORMS {
        fill_a_reserve(&sample_of(version, big_endian));
    }
}

fn fill_a_reserve(sample: &[u8]) {
    let b = Bench::new(sample);
    let old = b.content();
    let report = b.reserve(4000);
    assert_eq!(report.method, Method::Rewritten);
    assert!(report.reserve >= 4000 && report.reserve < 4000 + 4096 + 32);
    assert_eq!(b.content(), old, "only the order and the room are new");
    let (mut in_place, mut length) = (0, b.bytes().len());
    for i in 0..60 {
        let template = format!("template {i} {}", "x".repeat(i * 7));
        let report = b.edit(&[set(&format!("tokenizer.chat_template={template}"))]);
        in_place += usize::from(report.method == Method::InPlace);
        if report.method == Method::InPlace {
            assert_eq!(b.bytes().len(), length, "the data has not moved");
        }
        length = b.bytes().len();
        let content = b.content();
        let text = Some(Value::Str(template));
        assert_eq!(value(&content, "tokenizer.chat_template").cloned(), text);
        assert_eq!((content.0.len(), &content.1), (old.0.len(), &old.1));
    }
    assert!(
        (20..60).contains(&in_place),
        "{in_place}: rewritten when full"
    );
    let report = b.edit(&[set("x.new=1"), Change::Unset("general.name".into())]);
    assert_eq!(report.method, Method::InPlace);
    let content = b.content();
    assert_eq!(value(&content, "general.name"), None);
    assert_eq!(
        value(&content, "x.new"),
        Some(&Value::Number(Number::U32(1)))
    );
    // Nothing of what was replaced is left to be read.
    let text = String::from_utf8_lossy(&b.bytes()).into_owned();
    assert!(!text.contains("template 3 ") && !text.contains("a name"));
    // Giving the room back gives the plain file.
    let same = [
        set("tokenizer.chat_template={{ messages }}"),
        set("general.name=a name"),
        Change::Unset("x.new".into()),
    ];
    b.edit(&same);
    let report = b.reserve(0);
    assert_eq!((report.reserve, report.keys), (0, 5));
    assert_eq!(b.bytes().len(), sample.len());
    assert_eq!(b.content(), old);
}

/// Every state that a crash can leave: any part of the first write, the switch or not, any part
/// of the last.
#[test]
fn a_crash_between_or_within_the_writes_leaves_the_old_or_the_new() {
    for (version, big_endian) in [(3, false), (1, true)] {
        crash(&sample_of(version, big_endian));
    }
}

fn crash(sample: &[u8]) {
    let b = Bench::new(sample);
    b.reserve(3000);
    let runs: [&[Change]; 4] = [
        &[set("tokenizer.chat_template=a longer template than before")],
        &[set("x.added=0.5"), Change::Unset("general.name".into())],
        &[set("general.architecture=llama"), set("x.added:i8=-3")],
        &[Change::RenameKey("x.added".into(), "y.much.longer".into())],
    ];
    for changes in runs {
        let old_bytes = b.bytes();
        let old = b.content();
        let source = SliceSource::new(old_bytes.clone(), "m.gguf");
        let header = Header::read(&source, &Default::default(), &mut |e| panic!("{e}")).unwrap();
        let mut draft = Draft::of(&header).unwrap();
        change::apply(&mut draft, changes).unwrap();
        let Way::Reserve(steps) = place::choose(&draft, &source, None).unwrap() else {
            panic!("{changes:?}: not in the reserve");
        };
        let (at, switch) = (&steps.switch.0, &steps.switch.1);
        assert!(*at as usize + switch.len() <= 512, "one sector");
        let put = |bytes: &mut Vec<u8>, at: u64, new: &[u8]| {
            bytes[at as usize..at as usize + new.len()].copy_from_slice(new);
        };
        let (stage_at, stage) = (steps.stage.0, &steps.stage.1);
        for cut in 0..=stage.len() {
            let mut crashed = old_bytes.clone();
            put(&mut crashed, stage_at, &stage[..cut]);
            assert_eq!(content(&crashed).unwrap(), old, "{cut} bytes staged");
            if cut % 64 == 0 {
                // And the next edit goes on from there.
                let next = Bench::new(&crashed);
                let report = next.edit(changes);
                assert_eq!(report.method, Method::InPlace);
                assert_eq!(next.content(), after(&old_bytes, changes));
                let broken = crate::check::check(&next.path, &crate::OpenOptions::default());
                assert!(broken.unwrap().violations.is_empty(), "{cut}");
            }
        }
        let mut switched = old_bytes.clone();
        put(&mut switched, stage_at, stage);
        put(&mut switched, *at, switch);
        let new = after(&old_bytes, changes);
        assert_ne!(new, old);
        for end in steps.blank.start..=steps.blank.end {
            let mut crashed = switched.clone();
            let len = (end - steps.blank.start) as usize;
            put(&mut crashed, steps.blank.start, &vec![FILL; len]);
            assert_eq!(content(&crashed).unwrap(), new, "{len} bytes blanked");
        }
        b.edit(changes);
        assert_eq!(b.content(), new);
    }
}

fn after(bytes: &[u8], changes: &[Change]) -> Content {
    let b = Bench::new(bytes);
    b.edit(changes);
    b.content()
}

#[test]
fn values_get_the_type_of_the_key_or_the_one_named() {
    let b = Bench::new(&sample());
    b.edit(&[
        set("x.list:arr[u8]=[1, 2]"),
        set("x.words=[\"a\", \"b\"]"),
        set("x.flag=true"),
        set("x.wide:u64=3"),
        set("x.eps=1e-5"),
        set("general.name=8"),
    ]);
    let c = b.content();
    let Some(Value::Packed(list)) = value(&c, "x.list") else {
        panic!("no list");
    };
    assert_eq!((list.element(), list.len()), (Element::U8, 2));
    assert!(matches!(value(&c, "x.words"), Some(Value::Packed(p)) if p.element() == Element::Str));
    assert_eq!(value(&c, "x.flag"), Some(&Value::Bool(true)));
    assert_eq!(value(&c, "x.wide"), Some(&Value::Number(Number::U64(3))));
    assert_eq!(value(&c, "x.eps"), Some(&Value::Number(Number::F32(1e-5))));
    assert_eq!(value(&c, "general.name"), Some(&Value::Str("8".into())));
    b.edit(&[set("x.list=[3]")]);
    let c = b.content();
    assert!(matches!(value(&c, "x.list"), Some(Value::Packed(p)) if p.element() == Element::U8));
    assert_eq!(b.refused(set("x.list=[256]")), "edit.value");
    assert_eq!(b.refused(set("llama.block_count=many")), "edit.value");
    assert_eq!(Kind::parse("arr[f64]"), Some(Kind::Array(Element::F64)));
}

#[test]
fn what_readers_depend_on_is_guarded() {
    let b = Bench::new(&sample());
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    for (change, rule) in [
        (
            Change::Unset("general.architecture".into()),
            "edit.reserved-key",
        ),
        (set("general.architecture="), "edit.reserved-key"),
        (set("general.architecture:u32=1"), "edit.reserved-key"),
        (set("general.architecture=qwen2"), "edit.architecture"),
        (set("general.alignment=48"), "edit.reserved-key"),
        (set("general.alignment=0"), "edit.reserved-key"),
        (set("general.alignment=2147483648"), "edit.reserved-key"),
        (set("general.alignment:u64=64"), "edit.reserved-key"),
        (set("split.count=3"), "edit.split"),
        (set("weighbridge.reserve=x"), "edit.reserve"),
        (Change::Unset("no.such".into()), "edit.no-such-key"),
        (Change::Remove("no.such".into()), "edit.no-such-tensor"),
        (
            Change::SetText {
                key: "llama.block_count".into(),
                text: "x".into(),
            },
            "edit.type",
        ),
    ] {
        assert_eq!(b.refused(change.clone()), rule, "{change:?}");
    }
    for (a, c, rule) in [
        ("a.weight", "b.weight", "edit.name-taken"),
        ("a.weight", "", "edit.name"),
        ("none", "x", "edit.no-such-tensor"),
    ] {
        let (a, c) = pair(a, c);
        assert_eq!(b.refused(Change::Rename(a, c)), rule);
    }
    let long = Change::Rename("a.weight".into(), "n".repeat(64));
    assert_eq!(b.refused(long), "edit.name");
    for (a, c, rule) in [
        ("general.name", "llama.block_count", "edit.key-taken"),
        ("general.architecture", "x", "edit.reserved-key"),
        ("none", "x", "edit.no-such-key"),
    ] {
        let (a, c) = pair(a, c);
        assert_eq!(b.refused(Change::RenameKey(a, c)), rule);
    }
    // All at once, it is meant.
    b.edit(&[
        set("general.architecture=qwen2"),
        Change::RenameKey("llama.block_count".into(), "qwen2.block_count".into()),
        Change::Rename("a.weight".into(), "c.weight".into()),
        Change::Rename("b.weight".into(), "a.weight".into()),
    ]);
    let c = b.content();
    assert_eq!(
        (c.1[0].0.as_str(), c.1[1].0.as_str()),
        ("c.weight", "a.weight")
    );
}

#[test]
fn other_files_are_refused_by_name() {
    let b = Bench::new(b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert!(b.with(&[], EditOptions::default()).is_err());
    let mut st = 2u64.to_le_bytes().to_vec();
    st.extend(b"{}");
    let e = Bench::new(&st);
    let other = e.dir.path().join("m.safetensors");
    std::fs::rename(&e.path, &other).unwrap();
    let said = super::super::edit(&other, &[], &EditOptions::default(), &mut |_, _| {});
    assert_eq!(said.unwrap_err().rule(), "edit.format");
    let mut hole = sample();
    hole.truncate(hole.len() - 30);
    assert_eq!(Bench::new(&hole).refused(set("a=1")), "gguf.data-outside");
}

#[test]
fn a_dry_run_and_another_output_leave_the_file_alone() {
    let b = Bench::new(&sample());
    let change = [set("general.name=another, longer name")];
    let dry = EditOptions {
        dry_run: true,
        ..EditOptions::default()
    };
    let planned = b.with(&change, dry).unwrap();
    assert_eq!(b.bytes(), sample());
    let out = b.dir.path().join("out.gguf");
    let elsewhere = EditOptions {
        output: Some(out.clone()),
        ..EditOptions::default()
    };
    let report = b.with(&change, elsewhere).unwrap();
    assert_eq!(b.bytes(), sample());
    assert_eq!(report.output, out);
    b.edit(&change);
    assert_eq!(std::fs::read(&out).unwrap(), b.bytes());
    assert_eq!(planned.bytes, b.bytes().len() as u64);
    assert_eq!(planned.method, Method::Rewritten);
}

#[test]
fn an_edit_keeps_other_edits_out() {
    let b = Bench::new(&sample());
    let held = lock(&b.path).unwrap();
    assert_eq!(b.refused(set("general.name=b name")), "edit.locked");
    drop(held);
    b.edit(&[set("general.name=b name")]);
}

/// The vocabularies of the corpus: no tensors, hundreds of thousands of strings.
#[test]
fn vocabularies_are_edited_and_come_back() {
    let Some(corpus) = std::env::var_os("WEIGHBRIDGE_CORPUS") else {
        println!("skipped: WEIGHBRIDGE_CORPUS is not set");
        return;
    };
    let mut seen = 0;
    for entry in std::fs::read_dir(Path::new(&corpus).join("gguf/vocab")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "gguf") {
            continue;
        }
        let original = std::fs::read(&path).unwrap();
        let b = Bench::new(&original);
        let old = b.content();
        b.reserve(20_000);
        let report = b.edit(&[set("tokenizer.chat_template=much longer than nothing")]);
        assert_eq!(report.method, Method::InPlace, "{}", path.display());
        assert!(report.written < 40_000, "{}", report.written);
        b.edit(&[Change::Unset("tokenizer.chat_template".into())]);
        assert_eq!(b.content(), old);
        let model = weighbridge_core::source::open_file(&path, Default::default()).unwrap();
        assert_eq!(model.len(), FileSource::open(&path).unwrap().len());
        seen += 1;
    }
    assert!(seen >= 5, "{seen}");
}
