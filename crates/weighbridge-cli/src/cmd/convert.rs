//! `weighbridge convert`.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use weighbridge::convert::{ConvertOptions, Endian, Report, convert, parse_dtype, parse_map};
use weighbridge::{Error, FormatId, Model, OpenOptions, Result};

use crate::args::{ByteOrder, Convert, Names};
use crate::cmd::{open_options, summary};
use crate::exit::Exit;
use crate::output::Output;
use crate::progress::Progress;
use crate::style::Tone;
use crate::text::{count, plural, safe, size};

pub(crate) fn run(args: &Convert, out: &mut Output) -> Result<Exit> {
    let open = OpenOptions {
        constants: args.constants,
        ..open_options(&args.open, None)
    };
    let options = options(args)?;
    let target = Place::resolve(args)?;
    let model = open.open(&args.input)?;
    let mut progress: Option<Progress> = None;
    let report = convert(model, &target.file, &options, &mut |n, total| {
        progress
            .get_or_insert_with(|| Progress::new(out, "writing", total))
            .add(n);
    })?;
    drop(progress);
    target.keep();
    for w in &report.warnings {
        out.note(
            Tone::Warn,
            "warning",
            &format!("{} ({})", w.message, w.rule),
        );
    }
    if out.json {
        out.document(&crate::output::versioned(report.to_json()))?;
    } else if !out.quiet {
        human(args, &report, out)?;
    }
    Ok(Exit::Done)
}

fn options(args: &Convert) -> Result<ConvertOptions> {
    let mut options = ConvertOptions {
        target: args.to.map(|t| t.id()),
        dtype: args.dtype.as_deref().map(parse_dtype).transpose()?,
        shard_size: args.shard_size,
        select: args.select.clone(),
        drop: args.drop.clone(),
        strip_prefix: args.strip_prefix.clone(),
        rename: args.rename.clone(),
        weights_only: args.weights_only,
        dequantize: args.dequantize,
        threads: args.threads,
        densify: args.densify,
        complex_as_real: args.complex_as_real,
        dedupe: args.dedupe,
        labels: args.names == Names::Label,
        layout: args.layout,
        endian: args.endian.map(|order| match order {
            ByteOrder::Little => Endian::Little,
            ByteOrder::Big => Endian::Big,
        }),
        graph: args.graph.graph.clone(),
        map: map(&args.graph.map)?,
        transpose: args.graph.transpose.clone(),
        partial: args.graph.partial,
        constants: args.constants,
        shared_weights: args.graph.shared_weights.clone(),
        strict: args.strict,
        dry_run: args.dry_run,
        sync: !args.no_sync,
        ..ConvertOptions::default()
    };
    options.limits.expand_bytes = args.open.max_expand;
    Ok(options)
}

/// Longest file of names that is read, in bytes.
const MOST_MAP: u64 = 64 << 20;

/// The pairs that `--map` names, in the files it names too.
fn map(given: &[String]) -> Result<Vec<(String, String)>> {
    let mut out = Vec::new();
    for g in given {
        if g.contains('=') {
            out.extend(parse_map(g)?);
            continue;
        }
        let io = |e| Error::io("cannot read the map", e).in_file(g);
        let mut bytes = Vec::new();
        let file = File::open(g).map_err(io)?;
        file.take(MOST_MAP + 1)
            .read_to_end(&mut bytes)
            .map_err(io)?;
        let text = String::from_utf8(bytes)
            .ok()
            .filter(|t| t.len() as u64 <= MOST_MAP);
        let text = text.ok_or_else(|| {
            Error::parameter("convert.map", "a map is text, one FROM=TO a line").in_file(g)
        })?;
        out.extend(parse_map(&text).map_err(|e| e.in_file(g))?);
    }
    Ok(out)
}

/// Where the result goes.
struct Place {
    file: PathBuf,
    /// A folder made for it, to be removed again when nothing comes of it.
    made: Option<PathBuf>,
}

impl Place {
    /// OUT itself, or, where it is a folder, the file in it that other tools look for.
    fn resolve(args: &Convert) -> Result<Self> {
        let path = &args.output;
        let folder = path.is_dir() || path.to_string_lossy().ends_with(std::path::is_separator);
        if !folder {
            return Ok(Self {
                file: path.clone(),
                made: None,
            });
        }
        let name = match args.to.map(|t| t.id()) {
            Some(FormatId::Safetensors) => "model.safetensors",
            Some(FormatId::PyTorch) => "pytorch_model.bin",
            Some(FormatId::Gguf) => "model.gguf",
            Some(FormatId::Onnx) => "model.onnx",
            Some(FormatId::TfCheckpoint) => "model.ckpt",
            Some(FormatId::Numpy) => "model.npz",
            Some(FormatId::Hdf5) => "model.weights.h5",
            Some(FormatId::Keras) => "model.keras",
            _ => {
                return Err(Error::parameter("convert.target", "the output is a folder")
                    .in_file(path.display().to_string())
                    .help("name a file in it, or name the format with --to"));
            }
        };
        let mut made = None;
        if !path.exists() && !args.dry_run {
            std::fs::create_dir(path).map_err(|e| {
                Error::io("cannot make the folder", e).in_file(path.display().to_string())
            })?;
            made = Some(path.clone());
        }
        Ok(Self {
            file: path.join(name),
            made,
        })
    }

    fn keep(mut self) {
        self.made = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(folder) = &self.made {
            // Fails, rightly, when something lies in it.
            let _ = std::fs::remove_dir(folder);
        }
    }
}

fn human(args: &Convert, report: &Report, out: &mut Output) -> Result<()> {
    let style = out.style;
    let (from, to) = (args.input.to_string_lossy(), args.output.to_string_lossy());
    let head = format!("{} → {}", safe(&from), safe(&to));
    out.line(style.paint(Tone::Head, head))?;
    // What was really written says more than what was meant to be.
    let written = if args.dry_run { None } else { reopen(report) };
    match &written {
        Some(model) => {
            summary::tensors(model, "carried", out)?;
            summary::aliases(model, "aliased", out)?;
            summary::metadata(model, "kept", out)?;
            summary::structure(model, "kept", out)?;
        }
        None => {
            let carried = plural(report.tensors, "tensor");
            summary::field(out, "carried", carried)?;
        }
    }
    summary::notes(out, "changed", &report.changed)?;
    summary::notes(out, "lost", &report.lost)?;
    let verb = if args.dry_run { "would write" } else { "wrote" };
    let files: Vec<String> = report.output.iter().take(4).map(|p| file_name(p)).collect();
    let more = match report.output.len().saturating_sub(files.len()) {
        0 => String::new(),
        n => format!(" and {} more", count(n as u64)),
    };
    let seconds = if args.dry_run {
        String::new()
    } else {
        format!(" in {:.2} s", report.seconds)
    };
    summary::field(
        out,
        verb,
        format_args!(
            "{}{more}, {}{seconds}",
            files.join(", "),
            size(report.bytes)
        ),
    )
}

pub(super) fn file_name(path: &Path) -> String {
    safe(
        &path
            .file_name()
            .unwrap_or(path.as_os_str())
            .to_string_lossy(),
    )
    .into_owned()
}

/// The result, opened again: by its index or graph where it has one, else by its first file.
fn reopen(report: &Report) -> Option<Model> {
    let whole = |p: &&PathBuf| {
        let e = p.extension().and_then(|e| e.to_str());
        matches!(e, Some("json" | "onnx" | "index"))
    };
    let index = report.output.iter().find(whole);
    let path = match (index, report.output.as_slice()) {
        (Some(index), _) => index,
        (None, [first, ..]) => first,
        (None, []) => return None,
    };
    open_options(&crate::args::Open::default(), None)
        .open(path)
        .ok()
}
