//! The targets.

use std::sync::Arc;

use weighbridge::OpenOptions;
use weighbridge::format::flax::Flax;
use weighbridge::format::numpy::Numpy;
use weighbridge::format::safetensors::{Safetensors, header};
use weighbridge::format::{FormatReader, detect, gguf, onnx::Onnx, pytorch, reader};
use weighbridge::scan::{ScanOptions, scan};
use weighbridge::structure::{Form, from_json, from_str, to_json};
use weighbridge_core::model::FormatId;
use weighbridge_core::source::{ByteSource, SliceSource};
use weighbridge_core::wire::codec::{self, Caps, Codec};
use weighbridge_core::wire::{marshal, msgpack, npy, protobuf, sevenz, tar, zip};
use weighbridge_core::{Limits, pickle};
use weighbridge_scan::checks::templates::{Context, judge};
use weighbridge_scan::graph::{Level, examine, unread};
use weighbridge_scan::jinja;
use weighbridge_scan::policy::Date;
use weighbridge_scan::report::{Basis, sarif, table};
use weighbridge_scan::{Baseline, Policy};

use crate::exercise::{self, Budget};

/// A target's name, as `fuzz/fuzz_targets` has it, and its function.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The file name without `.rs`.
    pub name: &'static str,
    /// What it does with an input.
    pub run: fn(&[u8]),
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target {
        name: "safetensors_header",
        run: safetensors_header,
    },
    Target {
        name: "pytorch_open",
        run: pytorch_open,
    },
    Target {
        name: "detect_open",
        run: detect_open,
    },
    Target {
        name: "zip_archive",
        run: zip_archive,
    },
    Target {
        name: "tar_archive",
        run: tar_archive,
    },
    Target {
        name: "zip_survey",
        run: zip_survey,
    },
    Target {
        name: "sevenz_archive",
        run: sevenz_archive,
    },
    Target {
        name: "codec_stream",
        run: codec_stream,
    },
    Target {
        name: "pickle_machine",
        run: pickle_machine,
    },
    Target {
        name: "protobuf_fields",
        run: protobuf_fields,
    },
    Target {
        name: "marshal_code",
        run: marshal_code,
    },
    Target {
        name: "onnx_gates",
        run: onnx_gates,
    },
    Target {
        name: "structure_json",
        run: structure_json,
    },
    Target {
        name: "gguf_header",
        run: gguf_header,
    },
    Target {
        name: "gguf_edit",
        run: crate::edit::gguf_edit,
    },
    Target {
        name: "onnx_edit",
        run: crate::onnx_edit::onnx_edit,
    },
    Target {
        name: "onnx_inject",
        run: crate::onnx_inject::onnx_inject,
    },
    Target {
        name: "onnx_quantize",
        run: crate::onnx_quantize::onnx_quantize,
    },
    Target {
        name: "hdf5",
        run: crate::hdf5::hdf5,
    },
    Target {
        name: "keras",
        run: crate::keras::keras,
    },
    Target {
        name: "onnx_read",
        run: onnx_read,
    },
    Target {
        name: "npy",
        run: npy,
    },
    Target {
        name: "sstable",
        run: crate::tensorflow::sstable,
    },
    Target {
        name: "tf_checkpoint",
        run: crate::tensorflow::tf_checkpoint,
    },
    Target {
        name: "tflite",
        run: crate::tensorflow::tflite,
    },
    Target {
        name: "graphdef",
        run: crate::tensorflow::graphdef,
    },
    Target {
        name: "numpy_open",
        run: numpy_open,
    },
    Target {
        name: "joblib_open",
        run: joblib_open,
    },
    Target {
        name: "msgpack",
        run: msgpack,
    },
    Target {
        name: "scan_file",
        run: scan_file,
    },
    Target {
        name: "scan_policy",
        run: scan_policy,
    },
    Target {
        name: "jinja_template",
        run: jinja_template,
    },
    Target {
        name: "python_source",
        run: crate::code::python_source,
    },
    Target {
        name: "hidden_constant",
        run: crate::code::hidden_constant,
    },
];

fn source(data: &[u8]) -> Arc<dyn ByteSource> {
    Arc::new(SliceSource::new(data, "input"))
}

/// The header alone, strictly and leniently: what is accepted strictly is accepted leniently, and
/// says the same.
pub fn safetensors_header(data: &[u8]) {
    let strict = header::parse(data, false);
    let lenient = header::parse(data, true);
    if let (Ok(s), Err(e)) = (&strict, &lenient) {
        panic!("accepted strictly and refused leniently ({e}): {s:?}");
    }
    // The bytes may be a file already.
    both(&Safetensors, FormatId::Safetensors, data);
    // And as a file: with its length in front, and the payload it asks for behind it where that
    // is not much.
    let mut file = (data.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(data);
    if let Some(n) = lenient.ok().and_then(|h| h.data_len())
        && n <= 1 << 20
    {
        file.resize(file.len() + n as usize, 7);
    }
    both(&Safetensors, FormatId::Safetensors, &file);
}

/// A PyTorch file in any container: opened, read, verified.
pub fn pytorch_open(data: &[u8]) {
    both(&pytorch::PyTorch, FormatId::PyTorch, data);
    if let Ok(pickles) = pytorch::pickles(&source(data), &Limits::default()) {
        for p in pickles.iter().take(64) {
            pickle_machine(&p.data);
        }
    }
}

/// Any file: what it is found to be, then opened as that.
pub fn detect_open(data: &[u8]) {
    let options = OpenOptions::default();
    if let Ok(detect::Detected::Content(format) | detect::Detected::Extension(format)) =
        detect::detect(&source(data), &options.limits)
        && let Some(reader) = reader(format)
    {
        both(reader, format, data);
    }
}

/// Opens `data` strictly and leniently, reads what opens, verifies it.
fn both(reader: &dyn FormatReader, format: FormatId, data: &[u8]) {
    for lenient in [false, true] {
        let options = OpenOptions {
            lenient,
            format: Some(format),
            ..OpenOptions::default()
        };
        if let Ok(m) = reader.open(source(data), &options) {
            exercise::model(&m);
        }
        let _ = reader.verify(source(data), &options);
    }
}

/// A zip archive: its directory, its layout, every member.
pub fn zip_archive(data: &[u8]) {
    let budget = Budget::new();
    let Ok(archive) = zip::Archive::open(source(data), &Limits::default()) else {
        return;
    };
    let _ = archive.strict();
    let _ = archive.check_layout();
    for m in archive.members() {
        let _ = archive.storage(m, true);
        let mut got = 0;
        let done = archive.stream(m, &mut |part| {
            got += part.len() as u64;
            budget.take(part)
        });
        if done.is_ok() {
            assert_eq!(got, m.size, "{} gives another number of bytes", m.name);
            assert!(
                archive.read(m, got).is_ok_and(|v| v.len() as u64 == got),
                "{} can be streamed and not read",
                m.name
            );
        }
    }
}

/// A tar archive: its headers, its layout, every member.
pub fn tar_archive(data: &[u8]) {
    let _ = tar::is_tar(data);
    let Ok(archive) = tar::Archive::open(source(data), &Limits::default()) else {
        return;
    };
    let _ = archive.strict();
    let _ = archive.check_layout();
    for m in archive.members() {
        let _ = archive.window(m);
        let _ = archive.storage(m, false);
        if let Ok(v) = archive.read(m, 1 << 20) {
            assert_eq!(v.len() as u64, m.size, "{} has another size", m.name);
        }
    }
}

/// Caps that keep a run short whatever the input claims.
fn caps() -> Caps {
    let mut caps = Caps::new(exercise::READ_BUDGET, 2000);
    caps.max_window = exercise::READ_BUDGET;
    caps
}

/// A zip archive in every view: what is said of it, every reading of every member, and that its
/// gaps are in order and in the file.
pub fn zip_survey(data: &[u8]) {
    let limits = Limits::default();
    let source = source(data);
    let Ok(survey) = zip::Survey::of(Arc::clone(&source), &limits) else {
        return;
    };
    let mut at = 0;
    for gap in survey.gaps() {
        assert!(at <= gap.start && gap.start < gap.end, "gaps out of order");
        at = gap.end;
    }
    assert!(at <= data.len() as u64, "a gap leaves the file");
    let count = survey.entries().len();
    for d in survey.differences() {
        assert!(d.entry.is_none_or(|i| i < count), "{d:?}");
    }
    let budget = Budget::new();
    for i in 0..count {
        for r in survey.readings(i) {
            assert!(r.at + r.stored <= data.len() as u64, "{r:?}");
            let _ = survey.read(&r, &caps(), &mut |part| budget.take(part));
        }
    }
    for part in zip::Survey::parts(&source, &limits).unwrap_or_default() {
        assert!(part.end <= data.len() as u64);
    }
}

/// A 7z archive, as it is and with its header's checksums put right: what lies behind them is
/// reached by changed inputs too.
pub fn sevenz_archive(data: &[u8]) {
    sevenz_members(data);
    if let Some(sealed) = resealed(data) {
        sevenz_members(&sealed);
    }
}

/// `data` with right checksums of its signature header and its header.
fn resealed(data: &[u8]) -> Option<Vec<u8>> {
    let number = |at: usize| {
        let raw = data.get(at..at + 8)?.try_into().ok()?;
        usize::try_from(u64::from_le_bytes(raw)).ok()
    };
    let start = number(12)?.checked_add(32)?;
    let header = data.get(start..start.checked_add(number(20)?)?)?;
    let mut out = data.to_vec();
    out.get_mut(28..32)?
        .copy_from_slice(&crc32fast::hash(header).to_le_bytes());
    let crc = crc32fast::hash(out.get(12..32)?);
    out.get_mut(8..12)?.copy_from_slice(&crc.to_le_bytes());
    Some(out)
}

/// Its header, then all of its members; each begins and ends once.
fn sevenz_members(data: &[u8]) {
    let Ok(archive) = sevenz::Archive::open(source(data), &Limits::default()) else {
        return;
    };
    let members = archive.members();
    let mut sizes = vec![None; members.len()];
    let done = archive.read(&caps(), &mut |i, event| {
        match event {
            sevenz::Event::Begin => {
                assert!(sizes[i].replace(0u64).is_none(), "a member begins twice");
            }
            sevenz::Event::Bytes(part) => {
                if let Some(n) = &mut sizes[i] {
                    *n += part.len() as u64;
                }
            }
            sevenz::Event::End(Ok(())) => assert_eq!(sizes[i], Some(members[i].size)),
            sevenz::Event::End(Err(e)) => assert!(!e.rule().is_empty()),
        }
        Ok(())
    });
    if done.is_ok() {
        assert!(sizes.iter().all(Option::is_some), "a member was left out");
    }
}

/// A compressed stream: decoded as what it looks like, or as everything.
pub fn codec_stream(data: &[u8]) {
    const ALL: [Codec; 8] = [
        Codec::Gzip,
        Codec::Zlib,
        Codec::JoblibZlib,
        Codec::Bzip2,
        Codec::Xz,
        Codec::Lzma,
        Codec::Lz4,
        Codec::Zstd,
    ];
    let head = data.get(..data.len().min(codec::HEAD)).unwrap_or_default();
    let found = Codec::detect(head);
    let source = source(data);
    for c in found.map_or(ALL.to_vec(), |c| vec![c]) {
        let mut got = 0u64;
        let done = codec::decode(c, source.as_ref(), &caps(), &mut |part| {
            got += part.len() as u64;
            Ok(())
        });
        assert!(got <= exercise::READ_BUDGET, "{got} bytes came out");
        if let Ok(done) = done {
            assert_eq!(done.produced, got);
            assert!(done.consumed <= data.len() as u64);
            assert!(got == 0 || codec::confirm(c, source.as_ref()));
        }
    }
}

/// A pickle: run by the abstract machine; every node, global and event of the trace is looked at,
/// in every reading, and so is the listing of its opcodes.
pub fn pickle_machine(data: &[u8]) {
    let trace = pickle::run(data, &Limits::default());
    look_at(data, &trace);
    let mut end = 0;
    for o in pickle::disasm::opcodes(data, &trace.raw) {
        let Ok(o) = o else { break };
        assert!(o.offset >= end && o.end > o.offset, "an opcode overlaps");
        end = o.end;
    }
    assert!(end <= data.len(), "the listing ran past the stream");
    let _ = weighbridge_scan::PickleTrace::of("fuzz", None, &trace);
}

fn look_at(data: &[u8], trace: &pickle::Trace<'_>) {
    assert!(trace.end <= data.len(), "the machine ran past the stream");
    let last = trace.nodes.len();
    if let Some(root) = trace.root {
        assert!((root as usize) < last, "the root is no node");
    }
    for b in &trace.builds {
        assert!((b.target as usize) < last && (b.state as usize) < last);
    }
    for c in &trace.changes {
        assert!((c.target as usize) < last && c.items.iter().all(|i| (*i as usize) < last));
    }
    assert!(
        trace.events.is_sorted_by_key(|e| e.0),
        "events go backwards"
    );
    let _ = format!("{:?}", trace.error);
    // Nodes name bytes of the stream: formatting follows every range.
    for node in trace.nodes.iter().take(10_000) {
        let _ = format!("{node:?}");
    }
    for line in pickle::program(trace, 1000) {
        assert!(line.offset <= data.len());
    }
    for reading in &trace.readings {
        look_at(data, reading);
    }
}

/// A protobuf message: every field, and every payload taken for a message again, as far as that
/// goes.
pub fn protobuf_fields(data: &[u8]) {
    let source = SliceSource::new(data, "input");
    let mut reader = protobuf::Reader::new(&source, 20_000);
    let mut open = vec![(protobuf::Span::of(&source), 0)];
    while let Some((span, depth)) = open.pop() {
        let mut message = protobuf::Message::new(span);
        let mut last = span.start;
        while let Ok(Some(f)) = reader.next(&mut message) {
            assert!(f.at >= last && f.at < span.end, "fields go backwards");
            last = message.at();
            assert!(
                last > f.at && last <= span.end,
                "a field passes its message"
            );
            let _ = reader.varints(&f, &mut |_| Ok(()));
            let (protobuf::Value::Bytes(inner) | protobuf::Value::Group(inner)) = f.value else {
                continue;
            };
            assert!(
                inner.start > f.at && inner.start <= inner.end && inner.end <= last,
                "a payload lies outside its field"
            );
            let _ = reader.text(inner, 64);
            if depth < 8 {
                open.push((inner, depth + 1));
            }
        }
    }
}

/// The gates of a graph: looking for them comes to an end, and finds the same twice.
pub fn onnx_gates(data: &[u8]) {
    let source: Arc<dyn ByteSource> = Arc::new(SliceSource::new(data.to_vec(), "m.onnx"));
    let Ok(model) = Onnx.open(source, &OpenOptions::default()) else {
        return;
    };
    let Some(graph) = &model.graph else {
        return;
    };
    let first = examine(graph);
    for gate in &first.gates {
        let opened = gate.level == Level::Opened;
        assert_eq!(opened, gate.witness.is_some(), "{gate:?}");
    }
    let idle = unread(graph);
    assert!(idle.iter().all(|u| u.bytes > 0), "an empty tensor is told");
    // Cheap ones are looked at again: equal graphs get equal answers.
    if data.len() < 1 << 10 {
        let again = examine(graph);
        assert_eq!(format!("{first:?}"), format!("{again:?}"));
    }
}

/// A marshalled object: every reference in the tree leads to a node.
pub fn marshal_code(data: &[u8]) {
    let Ok(tree) = marshal::read(data) else {
        return;
    };
    assert!(tree.end <= data.len(), "the reader ran past the stream");
    let known = |i: usize| assert!(tree.node(i).is_some(), "{i} is no node");
    known(tree.root);
    for node in &tree.nodes {
        if let marshal::Node::Items(items) = node {
            items.iter().copied().for_each(known);
        }
    }
    for code in tree.codes() {
        [code.code, code.consts, code.names]
            .into_iter()
            .for_each(known);
    }
}

/// The tagged JSON of a structure: what is read can be written, and gives the same tree again.
pub fn structure_json(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let limits = Limits::default();
    let Ok(value) = from_str(text, &limits) else {
        return;
    };
    let _ = to_json(&value, Form::Inspect);
    let written = to_json(&value, Form::Stored);
    let again = match from_json(&written, &limits) {
        Ok(v) => v,
        Err(e) => panic!("our own JSON is refused: {e}\n{written}"),
    };
    assert_eq!(
        to_json(&again, Form::Stored),
        written,
        "a tree changed on the way"
    );
}

/// An ONNX model: opened with its constants, read and verified. What breaks no rule opens, what the
/// reference checker refuses breaks one, and every violation lies in the file.
pub fn onnx_read(data: &[u8]) {
    let options = |lenient| OpenOptions {
        lenient,
        constants: true,
        format: Some(FormatId::Onnx),
        ..OpenOptions::default()
    };
    let opened = Onnx.open(source(data), &options(false));
    if let Ok(m) = &opened {
        exercise::model(m);
    }
    let verify = |lenient| match Onnx.verify(source(data), &options(lenient)) {
        Ok(found) => found,
        Err(e) => panic!("what is wrong with a file is in its answer: {e}"),
    };
    let (strict, lenient) = (verify(false), verify(true));
    if let (Err(e), true) = (&opened, strict.is_empty()) {
        panic!("a model that breaks no rule does not open: {e}");
    }
    if strict.is_empty() && !lenient.is_empty() {
        panic!("accepted strictly and refused leniently: {lenient:?}");
    }
    for v in strict.iter().chain(&lenient) {
        let end = v.offset.map(|o| o.saturating_add(v.length.unwrap_or(0)));
        assert!(
            end.is_some_and(|e| e <= data.len() as u64),
            "a violation outside of the file: {v:?}"
        );
    }
}

/// A GGUF file: its header, every value of it, its layout.
pub fn gguf_header(data: &[u8]) {
    let source = source(data);
    let limits = Limits::default();
    let (header, errors) = match gguf::verify::header(source.as_ref(), &limits) {
        Ok(found) => found,
        Err(e) => panic!("what is wrong with a file is in its answer: {e}"),
    };
    assert!(
        header.end <= data.len() as u64,
        "the header ends past the file"
    );
    assert!(
        header.complete || !errors.is_empty(),
        "a break was not told"
    );
    for e in &errors {
        let at = e.byte_span().map_or(0, |s| s.offset);
        assert!(at <= data.len() as u64, "{e}: past the file");
    }
    let mut budget = 1u64 << 20;
    for entry in &header.entries {
        let _ = header.bytes(&entry.key);
        if let gguf::raw::Value::Array(array) = &entry.value {
            let mut strings = 0;
            let counted = header.each_string(array, &mut |_, _| {
                strings += 1;
                strings < budget
            });
            assert!(counted.is_ok(), "an array that was walked cannot be read");
            let all = array.element == gguf::types::ValueType::String;
            let short = strings < array.len.min(budget) && all;
            assert!(!short, "an array has fewer strings than it says");
            budget = budget.saturating_sub(strings);
        }
    }
    if errors.is_empty() {
        let start = header.data_start().unwrap_or(u64::MAX);
        for t in &header.tensors {
            let end = t
                .bytes
                .and_then(|n| start.checked_add(t.offset)?.checked_add(n));
            assert!(
                end.is_some_and(|end| end <= data.len() as u64),
                "a tensor past the file"
            );
        }
    }
}

/// A NumPy header.
pub fn npy(data: &[u8]) {
    let whole = npy::needs_only_head(data);
    match npy::Header::parse(data) {
        Ok(h) => {
            assert!(
                h.data_at <= data.len() as u64,
                "the header ends past the file"
            );
            let expected = h.data_bytes().map(|n| h.data_at.saturating_add(n));
            assert_eq!(whole, expected);
        }
        Err(_) => assert_eq!(whole, None),
    }
    // The text of a header by itself, which random bytes rarely get to.
    let mut file = b"\x93NUMPY\x03\0".to_vec();
    file.extend_from_slice(&(data.len() as u32).to_le_bytes());
    file.extend_from_slice(data);
    let _ = npy::Header::parse(&file);
}

/// A `.npy` or `.npz`: opened, read, verified. What breaks no rule opens.
pub fn numpy_open(data: &[u8]) {
    both(&Numpy, FormatId::Numpy, data);
    let options = OpenOptions::default();
    match Numpy.verify(source(data), &options) {
        Ok(found) if found.is_empty() => {
            if let Err(e) = Numpy.open(source(data), &options) {
                panic!("a file that breaks no rule does not open: {e}");
            }
        }
        Ok(_) => {}
        Err(e) => panic!("what is wrong with a file is in its answer: {e}"),
    }
}

/// A pickle with arrays between its opcodes, compressed or not: opened as its name would have it.
pub fn joblib_open(data: &[u8]) {
    let source: Arc<dyn ByteSource> = Arc::new(SliceSource::new(data, "input.joblib"));
    let options = OpenOptions::default();
    if let Ok(m) = pytorch::open(Arc::clone(&source), &options) {
        exercise::model(&m);
    }
    let _ = pytorch::PyTorch.verify(source, &options);
}

/// MessagePack: every item of it in order, and the whole as a file of Flax's.
pub fn msgpack(data: &[u8]) {
    let bytes = SliceSource::new(data, "input");
    let len = data.len() as u64;
    let mut reader = msgpack::Reader::new(&bytes, 0..len);
    let mut last = 0;
    while !reader.is_done() {
        let Ok(item) = reader.item() else { break };
        assert!(
            reader.at() > last && reader.at() <= len,
            "items go backwards"
        );
        if let msgpack::Item::Str(r) | msgpack::Item::Bin(r) | msgpack::Item::Ext(_, r) = item {
            assert!(
                r.start > last && r.end == reader.at(),
                "a payload lies outside"
            );
            let _ = reader.text(&r, 64);
        }
        last = reader.at();
    }
    let _ = msgpack::Reader::new(&bytes, 0..len).skip(1 << 16);
    both(&Flax, FormatId::Flax, data);
}

thread_local! {
    /// Where this thread's scanned file lies; made once.
    static SCANNED: Option<tempfile::TempDir> = tempfile::tempdir().ok();
}

/// A file as the scanner takes it: apart by what its bytes are, with no name to go by.
pub fn scan_file(data: &[u8]) {
    SCANNED.with(|dir| {
        let path = match dir {
            Some(dir) => dir.path().join("input"),
            None => panic!("there is no temporary directory"),
        };
        if let Err(e) = std::fs::write(&path, data) {
            panic!("{}: {e}", path.display());
        }
        match scan(&[path], &ScanOptions::default(), &mut |_| {}) {
            Ok(report) => {
                assert_eq!(report.files.len(), 1, "one file was scanned");
                let _ = report.verdict();
                let _ = table::lines(&report, true);
                let run = sarif::Run {
                    basis: &Basis::default(),
                    exit_code: 0,
                    root: std::path::Path::new("/"),
                };
                if let Err(e) = sarif::log(&report, &run) {
                    panic!("a report that cannot be written: {e}");
                }
            }
            Err(e) => panic!("what is wrong with a file is in its report: {e}"),
        }
    });
}

/// The files by which a user sets the scanner up, which may come with a repository.
pub fn scan_policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let _ = Baseline::parse(text, "input");
    let Some(day) = Date::new(2026, 1, 1) else {
        return;
    };
    let policy = Policy::parse(text, "input", std::path::Path::new("/"), day);
    if let Err(e) = policy {
        assert!(e.advice().is_some(), "no word on what to do: {e}");
    }
}

/// A template: parsed and judged as whatever it may stand for. Every expression and finding lies
/// in the text, and no expression refers to a later one.
pub fn jinja_template(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if text.len() > jinja::MOST_BYTES {
        return;
    }
    let tree = jinja::parse(&text);
    for e in &tree.exprs {
        assert!(
            text.get(e.span.clone()).is_some(),
            "no span of the text: {e:?}"
        );
    }
    assert!(tree.errors.iter().all(|e| e.at <= text.len()));
    if tree.tags > 0 {
        assert!(jinja::looks_like_template(&text), "tags in a text without");
    }
    for context in [Context::Chat, Context::Template, Context::Text] {
        if let Ok(judged) = judge(&text, context) {
            for f in judged.findings {
                assert!(f.span.start <= text.len(), "a finding outside: {f:?}");
            }
        }
    }
}
