//! The targets.

use std::sync::Arc;

use weighbridge::OpenOptions;
use weighbridge::format::safetensors::{Safetensors, header};
use weighbridge::format::{FormatReader, detect, pytorch, reader};
use weighbridge::scan::{ScanOptions, scan};
use weighbridge::structure::{Form, from_json, from_str, to_json};
use weighbridge_core::model::FormatId;
use weighbridge_core::source::{ByteSource, SliceSource};
use weighbridge_core::wire::{tar, zip};
use weighbridge_core::{Limits, pickle};
use weighbridge_scan::report::table;

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
        name: "pickle_machine",
        run: pickle_machine,
    },
    Target {
        name: "structure_json",
        run: structure_json,
    },
    Target {
        name: "scan_file",
        run: scan_file,
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
            }
            Err(e) => panic!("what is wrong with a file is in its report: {e}"),
        }
    });
}
