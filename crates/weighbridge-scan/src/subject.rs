//! What the scanner looks at: everything a caller saw of one file.

use std::collections::HashSet;

use weighbridge_core::source::ByteSource;
use weighbridge_core::{Error, ErrorKind, model::Model};

use crate::finding::Gap;

/// Most faults kept for one file: the first ones tell the story.
const MOST_FAULTS: usize = 100;

/// What a pickle does with a global it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Use {
    /// It is only referred to.
    Import,
    /// An instance is built without calling the class (`NEWOBJ`, `NEWOBJ_EX`).
    Construct,
    /// It is called (`REDUCE`, `INST`, `OBJ`), or handed to an allowed function that calls it.
    Call,
    /// State is set on the imported thing itself (`BUILD` on a module, class or function).
    Change,
}

/// A call of what an earlier call gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComputedCall {
    /// Where the opcode that calls lies, in bytes from the start of the pickle.
    pub offset: u64,
    /// What is done: `Construct` or `Call`.
    pub how: Use,
    /// The global at the root of the chain, as module and name, where there is one.
    pub root: Option<(String, String)>,
    /// Whether what is called is what that global gave, with no further call between them.
    pub direct: bool,
    /// The whole call as source text.
    pub text: String,
}

/// One global of a pickle and what is done with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GlobalUse {
    /// The module as the stream spells it, or `None` when it is no constant of the stream.
    pub module: Option<String>,
    /// The name as the stream spells it, possibly dotted, or `None` likewise.
    pub name: Option<String>,
    /// Where the opcode that uses it lies, in bytes from the start of the pickle.
    pub offset: u64,
    /// What is done with it.
    pub how: Use,
    /// The arguments of the call as source text, without the parentheses.
    pub args: String,
}

/// What one pickle stream does.
#[derive(Debug, Clone, Default)]
pub struct PickleTrace {
    /// The place inside the file: an archive member, `stream 2`; empty for the file itself.
    pub place: String,
    /// Where the stream's first byte lies in the file; `None` when it is stored compressed, and
    /// then offsets count from the start of the stream.
    pub base: Option<u64>,
    /// The globals it names and uses, in stream order. One that is used in the same way many
    /// times is listed for the first few only.
    pub globals: Vec<GlobalUse>,
    /// The calls of what earlier calls gave, likewise.
    pub computed: Vec<ComputedCall>,
    /// Whether the stream breaks before its end, so that what it would do with the globals it
    /// names is not known.
    pub broken: bool,
    /// Whether it lies in a TorchScript archive, whose own code defines the classes it names.
    pub torchscript: bool,
}

impl PickleTrace {
    /// The offset to report for `at` of the stream.
    pub fn offset(&self, at: u64) -> u64 {
        self.base.unwrap_or(0).saturating_add(at)
    }
}

/// A template that a loader renders.
#[derive(Debug, Clone, Default)]
pub struct Template {
    /// The place inside the file; empty for the file itself.
    pub place: String,
    /// Where its first byte lies in the file, when it lies there as it is.
    pub base: Option<u64>,
    /// The key it stands under, such as `chat_template` or `tokenizer.chat_template`.
    pub key: String,
    /// The template.
    pub text: String,
}

/// What kind of place a text was found in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TextOrigin {
    /// A constant of a pickle.
    Pickle,
    /// Metadata of a model file.
    Metadata,
    /// A configuration file.
    Config,
    /// A comment, which no loader reads.
    Comment,
}

/// A piece of text or bytes that stands in a file as data.
#[derive(Debug, Clone)]
pub struct Text {
    /// The place inside the file; empty for the file itself.
    pub place: String,
    /// Where its first byte lies in the file, when it lies there as it is.
    pub base: Option<u64>,
    /// The key or path of keys it stands under; empty where there is none.
    pub key: String,
    /// What kind of place it was found in.
    pub origin: TextOrigin,
    /// The bytes, UTF-8 where they are text.
    pub bytes: Vec<u8>,
}

/// A configuration: JSON, YAML or TOML as one tree.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The place inside the file; empty for the file itself.
    pub place: String,
    /// The file's or member's own name without its folder.
    pub name: String,
    /// The tree.
    pub value: serde_json::Value,
    /// The tags of YAML nodes that are none of YAML's own, in full, with their positions.
    pub tags: Vec<(String, u64)>,
}

/// What language or machine a program is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProgramKind {
    /// Python source.
    Python,
    /// A notebook.
    Notebook,
    /// A script for a shell or another interpreter, which the text names.
    Script(&'static str),
    /// Native or byte code, of the kind that the text names.
    Native(&'static str),
}

/// A program: source or native code.
#[derive(Debug, Clone)]
pub struct Program {
    /// The place inside the file; empty for the file itself.
    pub place: String,
    /// Where its first byte lies in the file, when it lies there as it is.
    pub base: Option<u64>,
    /// What it is written for.
    pub kind: ProgramKind,
    /// Its source, where it has one.
    pub text: Option<String>,
    /// Whether a model lies in the same folder or archive.
    pub beside_model: bool,
}

/// The kind of graph an operator belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GraphKind {
    /// ONNX.
    Onnx,
    /// TensorFlow's `GraphDef`, in a `SavedModel` or alone.
    TensorFlow,
}

/// An operator of a graph, as often as it stands in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// The kind of graph.
    pub graph: GraphKind,
    /// The place inside the file, such as `function __inference_f`; empty for the main graph.
    pub place: String,
    /// Where the first node lies in the file.
    pub offset: Option<u64>,
    /// The domain; empty for the standard one.
    pub domain: String,
    /// The operator.
    pub name: String,
    /// The first node's own name.
    pub node: String,
    /// The constant strings that feed the node, where they are known: a file name.
    pub constants: Vec<String>,
}

/// A function that a graph defines for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// The kind of graph.
    pub graph: GraphKind,
    /// Where it lies in the file.
    pub offset: Option<u64>,
    /// Its domain; empty for the standard one.
    pub domain: String,
    /// Its name.
    pub name: String,
}

/// A path inside a file that a loader opens: external data, a shard, a vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The place inside the file.
    pub place: String,
    /// Where it stands in the file.
    pub offset: Option<u64>,
    /// What kind of reference: `external data`, `shard`, `HDF5 external link`.
    pub kind: &'static str,
    /// The path as written.
    pub path: String,
}

/// A link in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The member that is a link.
    pub member: String,
    /// What it points to.
    pub target: String,
    /// Whether it is a hard link.
    pub hard: bool,
}

/// Two views of the same bytes that disagree: a loader may read either.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The rule of the reader that saw it, such as `zip.view.name`.
    pub rule: String,
    /// The place inside the file.
    pub place: String,
    /// First byte it concerns.
    pub offset: Option<u64>,
    /// What differs.
    pub message: String,
}

/// A source file of a TorchScript archive.
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// The archive member.
    pub place: String,
    /// Where its first byte lies in the file; `None` when it is stored compressed.
    pub base: Option<u64>,
    /// The code.
    pub text: String,
}

/// A model that carries its graph.
#[derive(Debug, Clone)]
pub struct GraphModel {
    /// The place inside the file; empty for the file itself.
    pub place: String,
    /// Where its first byte lies in the file; `None` when it is stored compressed.
    pub base: Option<u64>,
    /// The model.
    pub model: Model,
}

/// A broken rule of the file's own format, or a limit that was reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The reader's rule, such as `zip.crc-mismatch`.
    pub rule: String,
    /// The place inside the file; empty for the file itself.
    pub place: String,
    /// First byte it concerns.
    pub offset: Option<u64>,
    /// What is wrong.
    pub message: String,
}

/// One file, as far as the caller could take it apart.
#[derive(Debug)]
pub struct Subject<'a> {
    /// The path shown in the report.
    pub path: String,
    /// The format, as the JSON documents spell it; `unknown` when none was recognised.
    pub format: String,
    /// The container or variant, where the format has several.
    pub container: Option<String>,
    /// The bytes.
    pub source: &'a dyn ByteSource,
    /// The model, when it opened.
    pub model: Option<&'a Model>,
    /// Models with a graph, the file's own and those inside it.
    pub graphs: Vec<GraphModel>,
    /// Every pickle found in it.
    pub pickles: Vec<PickleTrace>,
    /// The code of a TorchScript archive.
    pub scripts: Vec<Script>,
    /// Templates that a loader renders.
    pub templates: Vec<Template>,
    /// Texts that stand in it as data.
    pub texts: Vec<Text>,
    /// Configurations.
    pub configs: Vec<Config>,
    /// Programs.
    pub programs: Vec<Program>,
    /// Operators of graphs.
    pub operators: Vec<Operator>,
    /// Functions that graphs define for themselves.
    pub functions: Vec<Function>,
    /// Paths that a loader opens.
    pub references: Vec<Reference>,
    /// Links in archives.
    pub links: Vec<Link>,
    /// Views that disagree.
    pub differences: Vec<Difference>,
    /// Formats it can be taken for beyond the first, with the offset where they begin.
    pub polyglots: Vec<(String, u64)>,
    /// What the name promises and the content is not, as two formats, where they differ.
    pub misnamed: Option<(String, String)>,
    /// The names of all archive members.
    pub members: Vec<String>,
    /// Archive members whose contents are encrypted.
    pub encrypted: Vec<String>,
    /// What is wrong with it.
    pub faults: Vec<Fault>,
    /// What could not be looked at.
    pub gaps: Vec<Gap>,
    /// Whether what lies beside the file was asked for.
    pub of_folder: bool,
}

impl<'a> Subject<'a> {
    /// A subject of which nothing is known but its bytes.
    pub fn new(path: impl Into<String>, source: &'a dyn ByteSource) -> Self {
        Self {
            path: path.into(),
            format: "unknown".into(),
            container: None,
            source,
            model: None,
            graphs: Vec::new(),
            pickles: Vec::new(),
            scripts: Vec::new(),
            templates: Vec::new(),
            texts: Vec::new(),
            configs: Vec::new(),
            programs: Vec::new(),
            operators: Vec::new(),
            functions: Vec::new(),
            references: Vec::new(),
            links: Vec::new(),
            differences: Vec::new(),
            polyglots: Vec::new(),
            misnamed: None,
            members: Vec::new(),
            encrypted: Vec::new(),
            faults: Vec::new(),
            gaps: Vec::new(),
            of_folder: false,
        }
    }

    /// The places that lie in the file compressed, so that offsets there count from the place's
    /// own first byte.
    pub(crate) fn compressed(&self) -> HashSet<String> {
        let pickles = self.pickles.iter().map(|x| (&x.place, x.base));
        let scripts = self.scripts.iter().map(|x| (&x.place, x.base));
        let templates = self.templates.iter().map(|x| (&x.place, x.base));
        let texts = self.texts.iter().map(|x| (&x.place, x.base));
        let programs = self.programs.iter().map(|x| (&x.place, x.base));
        pickles
            .chain(scripts)
            .chain(templates)
            .chain(texts)
            .chain(programs)
            .filter(|(place, base)| base.is_none() && !place.is_empty())
            .map(|(place, _)| place.clone())
            .collect()
    }

    /// Records that reading gave `error`: what the file is to blame for makes it malformed,
    /// anything else leaves it incomplete.
    pub fn failed(&mut self, error: &Error) {
        let place = error.path().join(" → ");
        let offset = error.byte_span().map(|s| s.offset);
        match error.kind() {
            ErrorKind::Malformed
            | ErrorKind::Truncated
            | ErrorKind::Limit
            | ErrorKind::Integrity => {
                let fault = Fault {
                    rule: error.rule().to_owned(),
                    place,
                    offset,
                    message: error.message().to_owned(),
                };
                // Several readers meet the same damage.
                let same = |f: &Fault| {
                    (&f.rule, f.offset, &f.message) == (&fault.rule, offset, &fault.message)
                };
                if !self.faults.iter().any(same) && self.faults.len() < MOST_FAULTS {
                    self.faults.push(fault);
                }
            }
            _ => self.gaps.push(Gap {
                place,
                offset,
                reason: format!("{} ({})", error.message(), error.rule()),
            }),
        }
    }
}
