//! A model on its way to a changed one: nodes put in the place of others, constants added and
//! taken away, and at the end where every byte goes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use weighbridge_core::model::Tensor;
use weighbridge_core::wire::protobuf::Span;
use weighbridge_core::{Error, Result};

use super::job::{Job, To};
use crate::format::onnx::encode::Fields;
use crate::format::onnx::place::{Alignment, Lying};
use crate::format::onnx::raw;
use crate::format::onnx::splice::{Edits, Piece};
use crate::format::onnx::types;

/// Constants shorter than this stay in the graph even where the others lie in a file beside it:
/// what the reference does (`size_threshold` of `onnx.save_model`).
pub(super) const SMALL: u64 = 1024;

/// Bytes of a constant that is new.
#[derive(Debug, Clone)]
pub(super) enum Data {
    /// A room that a job fills.
    Room(usize, u64),
    /// These.
    Bytes(Vec<u8>),
    /// Those of another tensor.
    Tensor(Arc<Tensor>),
}

/// A constant that is new.
#[derive(Debug, Clone)]
pub(super) struct Constant {
    pub(super) name: String,
    pub(super) data_type: i64,
    pub(super) dims: Vec<u64>,
    pub(super) data: Data,
}

impl Data {
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Room(_, len) => *len,
            Self::Bytes(b) => b.len() as u64,
            Self::Tensor(t) => t.byte_len(),
        }
    }
}

/// What stands in the place of one node.
#[derive(Debug, Default)]
struct Slot {
    graph: Span,
    before: Vec<Fields>,
    after: Vec<Fields>,
    gone: bool,
}

/// Everything that changes.
#[derive(Default)]
pub(super) struct Rewrite {
    pub(super) edits: Edits,
    pub(super) jobs: Vec<Job>,
    /// New constants, each with the graph it goes to.
    pub(super) constants: Vec<(Span, Constant)>,
    slots: BTreeMap<(u64, u64), Slot>,
    /// Names that are in use.
    names: HashSet<String>,
    /// The number that a name was last given, where it was asked for more than once.
    numbers: HashMap<String, u64>,
    rooms: usize,
    /// Constants that go, by where their message lies.
    pub(super) removed: HashSet<Span>,
    /// Whether operators of ONNX Runtime's own came in.
    pub(super) microsoft: bool,
    /// What was done that is no quantization of a constant.
    pub(super) notes: Vec<(String, String)>,
}

impl Rewrite {
    /// Nothing changes yet; new names are none of those of `graph` or the graphs in it.
    pub(super) fn new(graph: &raw::Graph) -> Self {
        let mut out = Self::default();
        out.learn(graph);
        out
    }

    fn learn(&mut self, g: &raw::Graph) {
        let infos = g.inputs.iter().chain(&g.outputs).chain(&g.values);
        self.names.extend(infos.map(|v| v.name.text.clone()));
        self.names
            .extend(g.initializers.iter().map(|t| t.name().to_owned()));
        let sparse = g.sparse_initializers.iter();
        self.names
            .extend(sparse.map(|s| s.values.name().to_owned()));
        for n in &g.nodes {
            let texts = n.inputs.iter().chain(&n.outputs);
            self.names.extend(texts.map(|t| t.text.clone()));
            for a in &n.attributes {
                a.g.iter().for_each(|g| self.learn(g));
                a.graphs.iter().for_each(|g| self.learn(g));
            }
        }
    }

    /// `name`, or one like it that no value has.
    pub(super) fn fresh(&mut self, name: impl Into<String>) -> String {
        let name = name.into();
        if self.names.insert(name.clone()) {
            return name;
        }
        let n = self.numbers.entry(name.clone()).or_insert(1);
        loop {
            *n = n.saturating_add(1);
            let out = format!("{name}_{n}");
            if self.names.insert(out.clone()) {
                return out;
            }
        }
    }

    /// A room for so many bytes.
    pub(super) fn room(&mut self, len: u64) -> Data {
        self.rooms += 1;
        Data::Room(self.rooms - 1, len)
    }

    /// How many rooms there are.
    pub(super) fn rooms(&self) -> usize {
        self.rooms
    }

    /// Adds a constant to `graph`.
    pub(super) fn constant(&mut self, graph: Span, constant: Constant) {
        self.constants.push((graph, constant));
    }

    fn slot(&mut self, graph: Span, node: Span) -> &mut Slot {
        let slot = self.slots.entry((node.start, node.end)).or_default();
        slot.graph = graph;
        slot
    }

    /// Puts `new` before `node`.
    pub(super) fn before(&mut self, graph: Span, node: Span, new: Fields) {
        self.slot(graph, node).before.push(new);
    }

    /// Puts `new` behind `node`.
    pub(super) fn after(&mut self, graph: Span, node: Span, new: Fields) {
        self.slot(graph, node).after.push(new);
    }

    /// Takes `node` out; what stands before and behind it stays.
    pub(super) fn remove_node(&mut self, graph: Span, node: Span) {
        self.slot(graph, node).gone = true;
    }

    /// Whether `node` was taken out.
    pub(super) fn is_removed(&self, node: Span) -> bool {
        let slot = self.slots.get(&(node.start, node.end));
        slot.is_some_and(|s| s.gone)
    }

    /// Gives an input or output (field 1 or 2) of a node another name.
    pub(super) fn rename(&mut self, node: Span, number: u32, text: &raw::Text, to: &str) {
        let field = Fields::new().bytes(number, to);
        self.edits
            .replace(node, text.span, vec![Piece::Fields(field)]);
    }

    /// Puts what was said of nodes into the edits.
    pub(super) fn settle(&mut self) {
        let piece = |f: Fields| Piece::Fields(Fields::new().bytes(1, f));
        for ((start, end), slot) in std::mem::take(&mut self.slots) {
            let node = Span { start, end };
            if slot.gone {
                let all = slot.before.into_iter().chain(slot.after);
                let pieces = all.map(piece).collect();
                self.edits.replace(slot.graph, node, pieces);
                continue;
            }
            if !slot.before.is_empty() {
                let pieces = slot.before.into_iter().map(piece).collect();
                self.edits.before(slot.graph, node, pieces);
            }
            if !slot.after.is_empty() {
                let pieces = slot.after.into_iter().map(piece).collect();
                self.edits.after(slot.graph, node, pieces);
            }
        }
    }
}

/// A node's message.
pub(super) struct NewNode<'a> {
    pub(super) operator: &'a str,
    pub(super) domain: &'a str,
    pub(super) name: String,
    pub(super) inputs: Vec<String>,
    pub(super) outputs: Vec<String>,
    pub(super) attributes: Vec<Fields>,
}

impl<'a> NewNode<'a> {
    /// A node of the standard domain.
    pub(super) fn new(
        operator: &'a str,
        name: impl Into<String>,
        inputs: &[&str],
        outputs: &[&str],
    ) -> Self {
        let own = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect();
        Self {
            operator,
            domain: "",
            name: name.into(),
            inputs: own(inputs),
            outputs: own(outputs),
            attributes: Vec::new(),
        }
    }

    /// Of ONNX Runtime's own operators.
    #[must_use]
    pub(super) fn microsoft(mut self) -> Self {
        self.domain = MICROSOFT;
        self
    }

    /// With an integer attribute.
    #[must_use]
    pub(super) fn int(mut self, name: &str, value: i64) -> Self {
        self.attributes.push(int_attribute(name, value));
        self
    }

    /// The fields of the message.
    pub(super) fn fields(self) -> Fields {
        let mut out = Fields::new();
        // Names that are left out are there, as empty ones.
        for i in &self.inputs {
            out = out.bytes(1, i);
        }
        for o in &self.outputs {
            out = out.bytes(2, o);
        }
        out = out.text(3, &self.name).bytes(4, self.operator);
        for a in &self.attributes {
            out = out.bytes(5, a);
        }
        out.text(7, self.domain)
    }
}

/// The domain of ONNX Runtime's own operators.
pub(super) const MICROSOFT: &str = "com.microsoft";

/// An attribute that is an integer.
pub(super) fn int_attribute(name: &str, value: i64) -> Fields {
    let kind = raw::kind::INT;
    Fields::new().bytes(1, name).int(3, value).int(20, kind)
}

/// Where new constants go, and old ones that lie beside the model.
pub(super) struct Beside {
    /// The file's name.
    pub(super) location: String,
    /// What lies in it: offset and data.
    pub(super) parts: Vec<(u64, Data)>,
    /// Its length.
    pub(super) len: u64,
}

impl Beside {
    pub(super) fn new(location: String) -> Self {
        Self {
            location,
            parts: Vec::new(),
            len: 0,
        }
    }

    /// Gives `data` a place; what says where that is.
    fn place(&mut self, data: Data) -> Result<Vec<Piece>> {
        let len = data.len();
        let offset = self.add(data)?;
        let lying = self.lying(offset, len);
        let fields = [lying.entries(), Lying::kind()];
        Ok(fields.map(Piece::Fields).into())
    }

    /// Gives `data` a place; what is large begins with a page, so that it can be mapped.
    fn add(&mut self, data: Data) -> Result<u64> {
        let len = data.len();
        let offset = Alignment::LARGE_AT_PAGES.next(self.len, len);
        let end = offset.and_then(|o| o.checked_add(len));
        let (Some(offset), Some(end)) = (offset, end) else {
            let message = "the data is too long for a file";
            return Err(Error::limit("quantize.size", message));
        };
        self.len = end;
        self.parts.push((offset, data));
        Ok(offset)
    }

    fn lying(&self, offset: u64, length: u64) -> Lying<'_> {
        Lying {
            location: &self.location,
            offset,
            length,
        }
    }

    /// Moves the data of a constant that stays into the file.
    pub(super) fn take(
        &mut self,
        edits: &mut Edits,
        tensor: &raw::Tensor,
        low: &Tensor,
    ) -> Result<()> {
        let offset = self.add(Data::Tensor(Arc::new(low.clone())))?;
        self.lying(offset, low.byte_len()).leave(edits, tensor);
        Ok(())
    }
}

impl Constant {
    /// The message, with its data inside or beside.
    pub(super) fn pieces(self, beside: Option<&mut Beside>) -> Result<Vec<Piece>> {
        let mut head = Fields::new();
        for &d in &self.dims {
            head = head.int(1, i64::try_from(d).unwrap_or(i64::MAX));
        }
        head = head.int(2, self.data_type).bytes(8, &self.name);
        let mut out = vec![Piece::Fields(head)];
        match beside.filter(|_| self.data.len() >= SMALL) {
            Some(beside) => out.extend(beside.place(self.data)?),
            None => out.push(match self.data {
                Data::Room(id, len) => Piece::Room(9, len, id),
                Data::Bytes(b) => Piece::Fields(Fields::new().bytes(9, b)),
                Data::Tensor(t) => Piece::Tensor(9, t),
            }),
        }
        Ok(out)
    }
}

/// The element type of a dtype that ONNX has.
pub(super) fn data_type(dtype: weighbridge_core::model::DType) -> i64 {
    types::data_type(dtype).unwrap_or(0)
}

/// Jobs by the constant and what it becomes, so that shared ones are done once.
#[derive(Default)]
pub(super) struct Known(HashMap<(String, String), [String; 3]>);

impl Known {
    /// The names of what `name` became.
    pub(super) fn get(&self, name: &str, to: &To) -> Option<&[String; 3]> {
        self.0.get(&(name.to_owned(), format!("{to:?}")))
    }

    pub(super) fn put(&mut self, name: &str, to: &To, names: [String; 3]) {
        self.0.insert((name.to_owned(), format!("{to:?}")), names);
    }
}
