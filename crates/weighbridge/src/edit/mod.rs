//! Changing a model file's metadata and its tensors' names, or leaving tensors out, without
//! writing the weights again where that can be helped.
//!
//! GGUF and ONNX are edited; other formats answer `Unsupported` by name. See [`gguf`] and [`onnx`]
//! for how a file is changed so that a crash leaves the old one or the new one.

pub mod gguf;
mod in_place;
pub mod onnx;
mod value;

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value as Json, json};
use weighbridge_core::model::{FormatId, Warning};
use weighbridge_core::source;
use weighbridge_core::{Error, Limits, Result};

pub use value::Kind;

use crate::OpenOptions;
use crate::format::onnx::write::Weights;
use crate::format::{self, Note, format_of};

/// One change. Whatever the order they are given in, keys are renamed first, then removed, then
/// set; tensors are renamed first, then removed. Names of a graph are all changed at once, each
/// from what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Gives `key` the value that `text` spells, of the type `kind`; without one, of the type the
    /// key has, or of one that fits the text where there is no such key.
    Set {
        /// The key.
        key: String,
        /// The type, where the caller names one.
        kind: Option<Kind>,
        /// The value as typed: a number, `true` or `false`, text, or a JSON array.
        text: String,
    },
    /// Makes `text`, as it is, the value of `key`.
    SetText {
        /// The key.
        key: String,
        /// The text.
        text: String,
    },
    /// Removes a key and its value.
    Unset(String),
    /// Gives the value under the first key to the second.
    RenameKey(String, String),
    /// Renames a tensor; in a graph any value, everywhere it is used.
    Rename(String, String),
    /// Renames a node of a graph.
    RenameNode(String, String),
    /// Leaves a tensor out; in a graph a weight or an input that nothing uses.
    Remove(String),
    /// Takes all documentation out of a graph.
    StripDocs,
}

impl Change {
    /// What `K=V` or `K:TYPE=V` asks for.
    ///
    /// # Errors
    /// `Parameter` (`edit.set`) without `=` or key.
    ///
    /// # Examples
    /// ```
    /// use weighbridge::edit::{Change, Kind};
    /// let set = Change::parse_set("general.name=Tiny")?;
    /// assert!(matches!(set, Change::Set { kind: None, .. }));
    /// let Change::Set { key, kind, text } = Change::parse_set("x.ids:arr[i32]=[1,2]")? else {
    ///     unreachable!()
    /// };
    /// assert_eq!((key.as_str(), text.as_str()), ("x.ids", "[1,2]"));
    /// assert_eq!(kind, Kind::parse("arr[i32]"));
    /// # Ok::<(), weighbridge::Error>(())
    /// ```
    pub fn parse_set(s: &str) -> Result<Self> {
        let wrong = || {
            Error::parameter("edit.set", format!("`{s}` is no K=V"))
                .help("write KEY=VALUE, or KEY:TYPE=VALUE with a type such as u32, str or arr[i32]")
        };
        let (key, text) = s.split_once('=').ok_or_else(wrong)?;
        let typed = key
            .rsplit_once(':')
            .and_then(|(k, t)| Some((k, Kind::parse(t)?)));
        let (key, kind) = match typed {
            Some((k, kind)) => (k, Some(kind)),
            None => (key, None),
        };
        if key.is_empty() {
            return Err(wrong());
        }
        Ok(Self::Set {
            key: key.to_owned(),
            kind,
            text: text.to_owned(),
        })
    }

    /// Makes the text of the file at `path` the value of `key`, every byte of it.
    ///
    /// # Errors
    /// `Io`, `Limit` when it is longer than `limits.text_bytes`, `Parameter` when it is no UTF-8.
    pub fn set_file(key: &str, path: &Path, limits: &Limits) -> Result<Self> {
        let name = path.display().to_string();
        let source = source::open_file(path, source::Backend::Pread)?;
        let (len, most) = (source.len(), limits.text_bytes);
        Limits::check(len, most, "edit.text-too-long", "bytes of text")
            .map_err(|e| e.in_file(name.as_str()))?;
        let text = String::from_utf8(source.read_vec(0..len)?).map_err(|e| {
            Error::parameter("edit.utf8", "the file is no UTF-8 text")
                .at(e.utf8_error().valid_up_to() as u64)
                .in_file(name)
        })?;
        Ok(Self::SetText {
            key: key.to_owned(),
            text,
        })
    }
}

/// How a file is edited.
#[derive(Debug, Clone)]
pub struct EditOptions {
    /// Write a new file here and leave the edited one as it is.
    pub output: Option<PathBuf>,
    /// Leave this many bytes of room in the header for edits to come; 0 gives room back.
    pub reserve: Option<u64>,
    /// Where the weights of a graph go.
    pub weights: Weights,
    /// Write an ONNX file of more than 2 GiB where it is asked for, which others cannot read.
    pub over_2gib: bool,
    /// Say what would be done, write nothing.
    pub dry_run: bool,
    /// Wait until the result is on the disk.
    pub sync: bool,
    /// How the file is opened.
    pub open: OpenOptions,
}

impl Default for EditOptions {
    fn default() -> Self {
        Self {
            output: None,
            reserve: None,
            weights: Weights::Keep,
            over_2gib: false,
            dry_run: false,
            sync: true,
            open: OpenOptions::default(),
        }
    }
}

/// How a file came by its new content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// It had it already.
    Unchanged,
    /// A few bytes of it were written.
    InPlace,
    /// It was written anew beside itself and put in its place, or to another path.
    Rewritten,
}

impl Method {
    /// The spelling of documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::InPlace => "in-place",
            Self::Rewritten => "rewritten",
        }
    }
}

/// What an edit did, or would do.
#[derive(Debug, Clone)]
pub struct Report {
    /// The file that has the result.
    pub output: PathBuf,
    /// Files of weights that were written with it.
    pub beside: Vec<PathBuf>,
    /// How it came by it.
    pub method: Method,
    /// How many tensors it has.
    pub tensors: u64,
    /// How many key-values it has.
    pub keys: u64,
    /// Its size, in bytes.
    pub bytes: u64,
    /// Bytes written, those copied inside the kernel included.
    pub written: u64,
    /// Room left for edits in place, in bytes.
    pub reserve: u64,
    /// What is different now.
    pub changed: Vec<Note>,
    /// What was noticed.
    pub warnings: Vec<Warning>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

impl Report {
    /// The report as the JSON document of `edit`.
    pub fn to_json(&self) -> Json {
        let output = std::iter::once(&self.output).chain(&self.beside);
        let output: Vec<String> = output.map(|p| p.display().to_string()).collect();
        let changed: Vec<Json> = self.changed.iter().map(Note::to_json).collect();
        let warnings = format::warnings(&self.warnings);
        json!({
            "output": output,
            "method": self.method.as_str(),
            "tensors": self.tensors,
            "keys": self.keys,
            "bytes": self.bytes,
            "written": self.written,
            "reserve": self.reserve,
            "changed": changed,
            "warnings": warnings,
            "seconds": self.seconds,
        })
    }
}

/// Edits the file at `path`. `progress` is told the bytes written since its last call and the
/// total, where there is much to write.
///
/// # Errors
/// `Unsupported` for a format that is not edited, `Parameter` for a change that makes no sense or
/// that readers of the file would not survive, what reading the file gives, and `Io`. The file is
/// unchanged then.
///
/// # Examples
/// ```no_run
/// use std::path::Path;
/// use weighbridge::edit::{Change, EditOptions, edit};
/// let changes = [Change::parse_set("general.name=Tiny")?];
/// let report = edit(Path::new("m.gguf"), &changes, &EditOptions::default(), &mut |_, _| {})?;
/// println!("{}", report.method.as_str());
/// # Ok::<(), weighbridge::Error>(())
/// ```
pub fn edit(
    path: &Path,
    changes: &[Change],
    options: &EditOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report> {
    let started = Instant::now();
    let name = path.display().to_string();
    if path.is_dir() {
        return Err(
            Error::parameter("edit.not-a-file", "a folder is not edited")
                .in_file(name)
                .help("name the file in it; of a split model, the first file has the metadata"),
        );
    }
    let source = source::open_file(path, options.open.backend)?;
    let report = match format_of(&source, &options.open)? {
        FormatId::Gguf => {
            drop(source);
            no_graph(changes, options)?;
            gguf::edit(path, changes, options, progress)
        }
        FormatId::Onnx => {
            drop(source);
            onnx::edit(path, changes, options, progress)
        }
        other => Err(Error::unsupported(
            "edit.format",
            format!("editing {} is not supported yet", other.as_str()),
        )
        .help(
            "GGUF and ONNX files are edited; for others, `weighbridge convert` renames and drops tensors",
        )),
    };
    let report = report.map_err(|e| e.in_file(name))?;
    Ok(Report {
        seconds: started.elapsed().as_secs_f64(),
        ..report
    })
}

/// Refuses what only a graph can be asked for.
fn no_graph(changes: &[Change], options: &EditOptions) -> Result<()> {
    let nodes = |c: &Change| matches!(c, Change::RenameNode(..) | Change::StripDocs);
    if changes.iter().any(nodes) || options.weights != Weights::Keep || options.over_2gib {
        let message = "the file has no graph: nodes, documentation and external data are ONNX's";
        return Err(Error::parameter("edit.no-graph", message));
    }
    Ok(())
}
