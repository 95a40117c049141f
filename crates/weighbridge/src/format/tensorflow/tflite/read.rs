//! Opening a model: its tables are walked, weights stay where they are.

mod about;
mod numbers;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use weighbridge_core::model::{
    AttributeValue, DType, Dim, FormatId, Graph, GraphAttribute, GraphFunction, GraphNode,
    GraphValue, Model, Part, Shape, Storage, StorageData, Tensor, TensorSource, Value as Meta,
    ValueType, View, Warning,
};
use weighbridge_core::source::ByteSource;
use weighbridge_core::wire::flatbuffer::{Buffer, Table};
use weighbridge_core::{Error, Limits, Result};

use super::operators;
use super::texts::Texts;
use crate::format::tensorflow::proto;

/// Most dimensions of a tensor.
const MOST_DIMS: u64 = 64;

/// Longest options of an operator, and longest text of metadata, that are shown.
const SHOWN: u64 = 64 << 10;

/// Fields of the tables, by their numbers in the schema.
mod field {
    pub(super) mod model {
        pub(crate) const VERSION: u16 = 0;
        pub(crate) const OPERATOR_CODES: u16 = 1;
        pub(crate) const SUBGRAPHS: u16 = 2;
        pub(crate) const DESCRIPTION: u16 = 3;
        pub(crate) const BUFFERS: u16 = 4;
        pub(crate) const METADATA_BUFFER: u16 = 5;
        pub(crate) const METADATA: u16 = 6;
        pub(crate) const SIGNATURES: u16 = 7;
        pub(crate) const EXTERNAL_GROUPS: u16 = 8;
        pub(crate) const EXTERNAL_BUFFERS: u16 = 9;
    }
    pub(super) mod tensor {
        pub(crate) const SHAPE: u16 = 0;
        pub(crate) const TYPE: u16 = 1;
        pub(crate) const BUFFER: u16 = 2;
        pub(crate) const NAME: u16 = 3;
        pub(crate) const QUANTIZATION: u16 = 4;
        pub(crate) const IS_VARIABLE: u16 = 5;
        pub(crate) const SPARSITY: u16 = 6;
        pub(crate) const SHAPE_SIGNATURE: u16 = 7;
        pub(crate) const EXTERNAL_BUFFER: u16 = 10;
    }
}

/// What reading a model gives.
pub(crate) struct Read {
    pub model: Model,
    /// Faults that stop nothing, for checks.
    pub faults: Vec<Error>,
    /// Bytes that no table refers to, in runs.
    pub unseen: Vec<Range<u64>>,
    /// Operators that the model names itself, with where the names lie.
    pub custom: Vec<(u64, String)>,
    /// Other texts: what they are, where they lie.
    pub texts: Vec<(&'static str, u64, String)>,
}

/// A tensor as the file has it, before it is known whether it holds values.
struct Entry {
    name: String,
    kind: ValueType,
}

struct Reading<'r> {
    source: &'r Arc<dyn ByteSource>,
    buffer: Buffer<'r>,
    storage: Arc<Storage>,
    /// Where the values of each buffer lie.
    buffers: Vec<Range<u64>>,
    operators: Vec<(String, bool)>,
    names: HashMap<String, u64>,
    /// Bytes of all tensors' values: buffers may be shared.
    taken: u64,
    out: Read,
}

/// Reads the model in `source`.
///
/// # Errors
/// `Malformed` when a table leads out of the file, `Limit` when there is too much.
pub(crate) fn read(source: &Arc<dyn ByteSource>, limits: &Limits) -> Result<Read> {
    let data = StorageData::Raw {
        source: Arc::clone(source),
        offset: 0,
        checksum: None,
    };
    let storage = Storage::new("file", source.len(), false, data)?.into_region();
    let mut model = Model::new(FormatId::TfLite);
    model.parts.push(Part {
        path: source.name().into(),
        bytes: source.len(),
    });
    let mut reading = Reading {
        source,
        buffer: Buffer::new(source.as_ref()),
        storage: Arc::new(storage),
        buffers: Vec::new(),
        operators: Vec::new(),
        names: HashMap::new(),
        taken: 0,
        out: Read {
            model,
            faults: Vec::new(),
            unseen: Vec::new(),
            custom: Vec::new(),
            texts: Vec::new(),
        },
    };
    let mut head = [0u8; 8];
    if source.len() >= 8 {
        source.read_at(0, &mut head)?;
    }
    if head.get(4..) != Some(super::IDENTIFIER) {
        let message = "the file does not begin like a TensorFlow Lite model";
        return Err(Error::malformed("tflite.identifier", message).at(4));
    }
    reading.model(limits)?;
    proto::within_cap(reading.taken, limits, source.len())?;
    let known = reading.buffers.clone();
    reading.out.unseen = reading.buffer.unseen(&known);
    Ok(reading.out)
}

impl Reading<'_> {
    fn model(&mut self, limits: &Limits) -> Result<()> {
        use field::model;
        let root = self.buffer.root()?;
        let version = self.buffer.u32(root, model::VERSION)?;
        self.out.model.version = version.map(|v| v.to_string());
        if let Some((at, text)) = self.buffer.text(root, model::DESCRIPTION)? {
            self.out.texts.push(("description", at, text.clone()));
            let entry = ("description".to_owned(), Meta::Str(text));
            self.out.model.metadata.push(entry);
        }
        self.find_buffers(root)?;
        self.find_operators(root)?;
        let mut subgraphs = Vec::new();
        if let Some(all) = self.buffer.vector(root, model::SUBGRAPHS, 4)? {
            for i in 0..all.len {
                let table = self.buffer.table_in(all, i)?;
                subgraphs.push(self.subgraph(table, i, limits)?);
            }
        }
        self.signatures(root, &subgraphs)?;
        self.metadata(root)?;
        self.external(root)?;
        let mut graphs = subgraphs.into_iter().map(|(g, _)| g);
        let mut main = graphs.next().unwrap_or_default();
        main.functions = graphs.map(function).collect();
        self.out.model.graph = Some(main);
        Ok(())
    }

    /// Where the buffers' bytes are: in the tables, or behind them by position.
    fn find_buffers(&mut self, root: Table) -> Result<()> {
        let Some(all) = self.buffer.vector(root, field::model::BUFFERS, 4)? else {
            return Ok(());
        };
        for i in 0..all.len {
            let table = self.buffer.table_in(all, i)?;
            let inside = self.buffer.vector(table, 0, 1)?.map(|v| v.range());
            let offset = self.buffer.u64(table, 1)?.unwrap_or(0);
            let size = self.buffer.u64(table, 2)?.unwrap_or(0);
            // 0 and 1 say that there is none.
            let range = match (inside, offset) {
                (_, 2..) => {
                    let end = offset.checked_add(size).filter(|&e| e <= self.buffer.len());
                    let end = end.ok_or_else(|| {
                        let message = format!("buffer {i} leads out of the file");
                        Error::truncated("tflite.buffer", message).at(table.at)
                    })?;
                    offset..end
                }
                (Some(range), _) => range,
                (None, _) => 0..0,
            };
            self.buffers.push(range);
        }
        Ok(())
    }

    fn find_operators(&mut self, root: Table) -> Result<()> {
        let Some(all) = self.buffer.vector(root, field::model::OPERATOR_CODES, 4)? else {
            return Ok(());
        };
        for i in 0..all.len {
            let table = self.buffer.table_in(all, i)?;
            // The first field is a byte, which newer numbers do not fit.
            let old = u32::from(self.buffer.u8(table, 0)?.unwrap_or(0));
            let code = self.buffer.u32(table, 3)?.unwrap_or(0).max(old);
            let custom = self.buffer.text(table, 1)?;
            if let Some((at, name)) = &custom {
                self.out.custom.push((*at, name.clone()));
            }
            let named = match (code, custom) {
                (operators::CUSTOM, Some((_, name))) => (name, true),
                (code, _) => match operators::name(code) {
                    Some(name) => (name.to_owned(), false),
                    None => (format!("BUILTIN_{code}"), false),
                },
            };
            self.operators.push(named);
        }
        Ok(())
    }

    /// A `SubGraph`, and the names of its tensors.
    fn subgraph(&mut self, table: Table, n: u64, limits: &Limits) -> Result<(Graph, Vec<String>)> {
        let mut graph = Graph::default();
        if let Some((at, name)) = self.buffer.text(table, 4)? {
            self.out.texts.push(("subgraph", at, name.clone()));
            graph.name = name;
        }
        if graph.name.is_empty() {
            graph.name = format!("subgraph_{n}");
        }
        let mut entries = Vec::new();
        if let Some(all) = self.buffer.vector(table, 0, 4)? {
            let known = self.out.model.tensors.len() as u64;
            let sum = known.saturating_add(all.len);
            Limits::check(sum, limits.tensors, "tflite.tensors", "tensors")?;
            for i in 0..all.len {
                let tensor = self.buffer.table_in(all, i)?;
                entries.push(self.tensor(tensor, i)?);
            }
        }
        let value = |i: u32| match usize::try_from(i).ok().and_then(|i| entries.get(i)) {
            Some(e) => GraphValue {
                name: e.name.clone(),
                kind: e.kind.clone(),
            },
            // −1 stands for an input that is left out.
            None => GraphValue::default(),
        };
        graph.inputs = self.indices(table, 1)?.into_iter().map(value).collect();
        graph.outputs = self.indices(table, 2)?.into_iter().map(value).collect();
        if let Some(all) = self.buffer.vector(table, 3, 4)? {
            for i in 0..all.len {
                let operator = self.buffer.table_in(all, i)?;
                let node = self.node(operator, &entries)?;
                graph.nodes.push(node);
            }
        }
        graph.values = entries
            .iter()
            .map(|e| GraphValue {
                name: e.name.clone(),
                kind: e.kind.clone(),
            })
            .collect();
        Ok((graph, entries.into_iter().map(|e| e.name).collect()))
    }

    fn indices(&self, table: Table, n: u16) -> Result<Vec<u32>> {
        let Some(v) = self.buffer.vector(table, n, 4)? else {
            return Ok(Vec::new());
        };
        (0..v.len).map(|i| self.buffer.u32_in(v, i)).collect()
    }

    fn node(&mut self, table: Table, entries: &[Entry]) -> Result<GraphNode> {
        let index = self.buffer.u32(table, 0)?.unwrap_or(0);
        let operator = usize::try_from(index).ok();
        let operator = operator.and_then(|i| self.operators.get(i)).cloned();
        let (operator, custom) = operator.ok_or_else(|| {
            let message = format!("operator code {index} is none of the model's");
            Error::malformed("tflite.operator", message).at(table.at)
        })?;
        let names = |all: Vec<u32>| -> Vec<String> {
            let name = |i: u32| usize::try_from(i).ok().and_then(|i| entries.get(i));
            let of = |i| name(i).map_or_else(String::new, |e: &Entry| e.name.clone());
            all.into_iter().map(of).collect()
        };
        let mut node = GraphNode {
            operator,
            inputs: names(self.indices(table, 1)?),
            outputs: names(self.indices(table, 2)?),
            offset: Some(table.at),
            ..GraphNode::default()
        };
        if custom {
            node.domain = "custom".into();
        }
        if let Some(options) = self.buffer.vector(table, 5, 1)?
            && options.len <= SHOWN
        {
            node.attributes.push(GraphAttribute {
                name: "custom_options".into(),
                value: AttributeValue::Str(self.buffer.read(options)?),
            });
        }
        // Options too long for a table lie behind all of them.
        let at = self.buffer.u64(table, 9)?.unwrap_or(0);
        let len = self.buffer.u64(table, 10)?.unwrap_or(0);
        if at > 1 && len > 0 {
            match at.checked_add(len).filter(|&e| e <= self.buffer.len()) {
                Some(end) => self.buffers.push(at..end),
                None => {
                    let message = "an operator's options lead out of the file";
                    return Err(Error::truncated("tflite.options", message).at(table.at));
                }
            }
        }
        Ok(node)
    }

    /// A tensor; one with values, or a variable, is listed with the model's.
    fn tensor(&mut self, table: Table, i: u64) -> Result<Entry> {
        use field::tensor as f;
        let name = match self.buffer.text(table, f::NAME)? {
            Some((_, name)) if !name.is_empty() => name,
            _ => format!("tensor_{i}"),
        };
        let code = self.buffer.u8(table, f::TYPE)?.unwrap_or(0);
        let dtype = dtype(code).ok_or_else(|| {
            let message = format!("{code} is no type of TensorFlow Lite");
            Error::malformed("tflite.type", message).at(table.at)
        })?;
        let dims = self.dims(table, f::SHAPE)?;
        let signature = self.dims(table, f::SHAPE_SIGNATURE)?;
        let entry = Entry {
            name: name.clone(),
            kind: ValueType::Tensor {
                dtype: Some(dtype),
                shape: signature.or_else(|| dims.clone()).map(extents),
            },
        };
        let index = self.buffer.u32(table, f::BUFFER)?.unwrap_or(0);
        let range = usize::try_from(index)
            .ok()
            .and_then(|i| self.buffers.get(i));
        let range = range.cloned().ok_or_else(|| {
            let message = format!("tensor {name:?} is of buffer {index}, which is none");
            Error::malformed("tflite.buffer", message).at(table.at)
        })?;
        let variable = self.buffer.u8(table, f::IS_VARIABLE)?.unwrap_or(0) != 0;
        let external = self.buffer.u32(table, f::EXTERNAL_BUFFER)?.unwrap_or(0);
        if range.is_empty() && !variable && external == 0 {
            return Ok(entry);
        }
        let shape: Option<Shape> = dims
            .unwrap_or_default()
            .into_iter()
            .map(|n| u64::try_from(n).ok())
            .collect();
        let Some(shape) = shape else {
            self.fault(&name, table.at, "a tensor with values has no shape");
            return Ok(entry);
        };
        let mut t = Tensor::new(self.unique(name), dtype, &shape, TensorSource::Absent);
        let mut say = |key: &str| {
            let yes = Meta::Bool(true);
            t.extra_mut().attributes.push((key.into(), yes));
        };
        if variable {
            say("variable");
        }
        if external != 0 {
            say("external");
        }
        let sparse = self.sparsity(table, &mut t)?;
        self.quantization(table, &mut t)?;
        if !range.is_empty() && !sparse {
            self.values(&mut t, range, table.at);
        }
        self.out.model.tensors.push(t);
        Ok(entry)
    }

    fn dims(&self, table: Table, n: u16) -> Result<Option<Vec<i64>>> {
        let Some(v) = self.buffer.vector(table, n, 4)? else {
            return Ok(None);
        };
        Limits::check(v.len, MOST_DIMS, "tflite.dimensions", "dimensions")?;
        let dims = (0..v.len).map(|i| Ok(i64::from(self.buffer.u32_in(v, i)? as i32)));
        dims.collect::<Result<Vec<i64>>>().map(Some)
    }

    fn fault(&mut self, name: &str, at: u64, message: &str) {
        let message = format!("tensor {name:?}: {message}");
        let e = Error::malformed("tflite.tensor", message).at(at);
        let warning = Warning {
            offset: Some(at),
            ..Warning::new(e.rule(), e.message())
        };
        self.out.model.warnings.push(warning);
        self.out.faults.push(e);
    }

    /// A name that no tensor before has.
    fn unique(&mut self, name: String) -> String {
        let mut tried = name.clone();
        loop {
            let n = self.names.entry(tried.clone()).or_insert(0);
            *n += 1;
            if *n == 1 {
                break;
            }
            let n = *n;
            tried = format!("{name}#{n}");
        }
        if tried != name {
            let message = format!("a second tensor called {name:?} is listed as {tried:?}");
            let warning = Warning::new("names.collision", message);
            self.out.model.warnings.push(warning);
        }
        tried
    }

    /// Gives a tensor its values, which lie in `range`.
    fn values(&mut self, t: &mut Tensor, range: Range<u64>, at: u64) {
        let len = range.end - range.start;
        self.taken = self.taken.saturating_add(len);
        if t.dtype == DType::Str {
            let Some(n) = t.numel() else {
                return self.fault(&t.name, at, "its size does not fit 64 bits");
            };
            let texts = Texts::new(Arc::clone(self.source), range, n);
            t.source = TensorSource::Computed(Arc::new(texts));
            return;
        }
        if t.dtype.size_of(&t.shape) != Some(len) {
            let message = format!("{len} bytes do not fit its shape and type");
            return self.fault(&t.name, at, &message);
        }
        t.source = TensorSource::View(View {
            storage: Arc::clone(&self.storage),
            offset: range.start,
        });
    }
}

/// A graph that operators of the first one run.
fn function(g: Graph) -> GraphFunction {
    let names = |all: Vec<GraphValue>| all.into_iter().map(|v| v.name).collect();
    GraphFunction {
        name: g.name,
        inputs: names(g.inputs),
        outputs: names(g.outputs),
        nodes: g.nodes,
        ..GraphFunction::default()
    }
}

fn extents(dims: Vec<i64>) -> Vec<Dim> {
    let dim = |n: i64| match n {
        n if n < 0 => Dim::Unknown,
        n => Dim::Known(n),
    };
    dims.into_iter().map(dim).collect()
}

/// The type of number `code` (`TensorType`).
fn dtype(code: u8) -> Option<DType> {
    Some(match code {
        0 => DType::F32,
        1 => DType::F16,
        2 => DType::I32,
        3 => DType::U8,
        4 => DType::I64,
        5 => DType::Str,
        6 => DType::Bool,
        7 => DType::I16,
        8 => DType::C64,
        9 => DType::I8,
        10 => DType::F64,
        11 => DType::C128,
        12 => DType::U64,
        13 | 14 => DType::Compound,
        15 => DType::U32,
        16 => DType::U16,
        17 => DType::I4,
        18 => DType::BF16,
        19 => DType::I2,
        20 => DType::U4,
        _ => return None,
    })
}
