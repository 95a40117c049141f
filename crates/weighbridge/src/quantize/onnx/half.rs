//! A model in binary16 or bfloat16: weights cast, inputs and outputs kept as they are, and
//! operators that need binary32 with `Cast` around them. Which operators those are is what
//! onnxconverter-common's `float16.py` says (`DEFAULT_OP_BLOCK_LIST`, 1.16).

use std::collections::{HashMap, HashSet};

use weighbridge_core::model::{AttributeValue, DType, GraphNode, Tensor};
use weighbridge_core::{Error, Result};

use super::job::{Job, To};
use super::rewrite::{Constant, Data, NewNode, Rewrite, data_type};
use super::view::{View, inner_graphs, is_standard};
use super::{OnnxOptions, OnnxType, opset, types};
use crate::format::onnx::encode::Fields;
use crate::format::onnx::raw::{self, TypeValue};
use crate::format::onnx::splice::Piece;

/// Operators that stay in binary32.
const BLOCKED: [&str; 33] = [
    "ArrayFeatureExtractor",
    "Binarizer",
    "CastMap",
    "CategoryMapper",
    "CumSum",
    "DictVectorizer",
    "DynamicQuantizeLinear",
    "FeatureVectorizer",
    "Imputer",
    "LabelEncoder",
    "LinearClassifier",
    "LinearRegressor",
    "Max",
    "Min",
    "NonMaxSuppression",
    "Normalizer",
    "OneHotEncoder",
    "QuantizeLinear",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Range",
    "Resize",
    "RoiAlign",
    "SVMClassifier",
    "SVMRegressor",
    "Scaler",
    "TopK",
    "TreeEnsembleClassifier",
    "TreeEnsembleRegressor",
    "Upsample",
    "ZipMap",
];

/// Operators that take bfloat16 only since version 22 of the standard ones, or not at all.
const WITHOUT_BF16: [&str; 39] = [
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "AveragePool",
    "Bernoulli",
    "Conv",
    "ConvTranspose",
    "Cos",
    "Cosh",
    "DeformConv",
    "Det",
    "Einsum",
    "Elu",
    "GRU",
    "GlobalAveragePool",
    "GlobalLpPool",
    "GlobalMaxPool",
    "GridSample",
    "HardSigmoid",
    "HardSwish",
    "Hardmax",
    "InstanceNormalization",
    "LSTM",
    "LpNormalization",
    "LpPool",
    "MaxPool",
    "Mish",
    "RNN",
    "Round",
    "Selu",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Tan",
    "ThresholdedRelu",
];

const FLOAT: i64 = 1;

/// Rewrites a graph.
pub(super) fn rewrite(
    model: &raw::Model,
    view: &View<'_>,
    options: &OnnxOptions,
    out: &mut Rewrite,
) -> Result<()> {
    for node in &view.raw.nodes {
        let mut inner = false;
        inner_graphs(node, &mut |_| inner = true);
        if inner {
            let message = format!("{} holds graphs, whose values are not cast", node.title());
            let e = Error::unsupported("quantize.inner-graph", message);
            return Err(e.at(node.span.start));
        }
    }
    let to = match options.kind {
        OnnxType::Bf16 => DType::BF16,
        _ => DType::F16,
    };
    let floats = types::of(view.raw, view.low, true).into_iter();
    let floats: HashSet<&str> = floats
        .filter(|(_, t)| *t == FLOAT)
        .map(|(n, _)| n)
        .collect();
    let mut work = Half {
        view,
        options,
        to,
        without: match to == DType::BF16 && opset(model) < 22 {
            true => &WITHOUT_BF16,
            false => &[],
        },
        wide_only: opset(model) < 19,
        floats,
        made: HashMap::new(),
        needed: HashMap::new(),
        out,
    };
    work.look();
    work.name();
    work.constants();
    work.edges();
    for (node, lowered) in view.raw.nodes.iter().zip(&view.low.nodes) {
        work.node(node, lowered)?;
    }
    Ok(())
}

/// In which of the two forms a value is, or is needed.
#[derive(Debug, Clone, Copy, Default)]
struct Forms {
    wide: bool,
    narrow: bool,
}

/// The names of the sparse initializers.
fn sparse(graph: &raw::Graph) -> impl Iterator<Item = &str> {
    let values = graph.sparse_initializers.iter();
    values.map(|s| s.values.name())
}

struct Half<'w> {
    view: &'w View<'w>,
    options: &'w OnnxOptions,
    to: DType,
    /// Operators that do not take that type.
    without: &'static [&'static str],
    /// Whether `DequantizeLinear` gives binary32 only.
    wide_only: bool,
    /// Values of binary32.
    floats: HashSet<&'w str>,
    /// Whether a value comes as binary32, and the names of both forms.
    made: HashMap<&'w str, (bool, String, String)>,
    needed: HashMap<&'w str, Forms>,
    out: &'w mut Rewrite,
}

impl<'w> Half<'w> {
    fn blocked(&self, node: &raw::Node) -> bool {
        let name = node.operator.text.as_str();
        let foreign = !is_standard(node) && node.domain() != super::rewrite::MICROSOFT;
        let plain = match name {
            // Numbers that are no tensor are binary32.
            "Constant" => node.attribute("value").is_none(),
            "ConstantOfShape" => node.attribute("value").is_none(),
            _ => false,
        };
        foreign
            || plain
            || BLOCKED.contains(&name)
            || self.without.contains(&name)
            || (self.wide_only && name == "DequantizeLinear")
            || self.options.block_ops.iter().any(|o| o == name)
            || self.view.is_excluded(node)
    }

    /// Who makes values in which form, and who needs them.
    fn look(&mut self) {
        let wide = |made: &mut HashMap<&'w str, (bool, String, String)>, name: &'w str, wide| {
            made.insert(name, (wide, String::new(), String::new()));
        };
        for v in &self.view.raw.inputs {
            if self.floats.contains(v.name.text.as_str()) {
                wide(&mut self.made, v.name.text.as_str(), true);
            }
        }
        // Sparse ones stay as they are.
        for name in sparse(self.view.raw).filter(|n| self.floats.contains(n)) {
            wide(&mut self.made, name, true);
        }
        for node in &self.view.raw.nodes {
            let blocked = self.blocked(node);
            for t in node
                .inputs
                .iter()
                .filter(|t| self.floats.contains(t.text.as_str()))
            {
                let forms = self.needed.entry(t.text.as_str()).or_default();
                forms.wide |= blocked;
                forms.narrow |= !blocked;
            }
            for t in node
                .outputs
                .iter()
                .filter(|t| self.floats.contains(t.text.as_str()))
            {
                wide(&mut self.made, t.text.as_str(), blocked);
            }
        }
        for v in &self.view.raw.outputs {
            if self.floats.contains(v.name.text.as_str()) {
                self.needed.entry(v.name.text.as_str()).or_default().wide = true;
            }
        }
        for t in &self.view.raw.initializers {
            if self.floats.contains(t.name()) {
                let narrow_only = !self.needed.get(t.name()).is_some_and(|f| f.wide);
                wide(&mut self.made, t.name(), !narrow_only);
            }
        }
    }

    /// Names of both forms: a value keeps its name in the form it is made in, and a value that
    /// the graph gives in binary32.
    fn name(&mut self) {
        let outputs: HashSet<&str> = self
            .view
            .raw
            .outputs
            .iter()
            .map(|o| o.name.text.as_str())
            .collect();
        let mut all: Vec<&str> = self.made.keys().copied().collect();
        all.sort_unstable();
        for name in all {
            let Some((wide, w, n)) = self.made.get_mut(name) else {
                continue;
            };
            if *wide || outputs.contains(name) {
                *w = name.to_owned();
                *n = self
                    .out
                    .fresh(format!("{name}_{}", self.options.kind.name()));
            } else {
                *n = name.to_owned();
                *w = self.out.fresh(format!("{name}_f32"));
            }
        }
    }

    fn constants(&mut self) {
        for (raw, tensor) in self
            .view
            .raw
            .initializers
            .iter()
            .zip(&self.view.low.initializers)
        {
            let forms = self.needed.get(raw.name()).copied().unwrap_or_default();
            let known = self.made.get(raw.name());
            let Some((wide, _, narrow)) = known.filter(|_| tensor.dtype == DType::F32) else {
                continue;
            };
            if !forms.narrow && (forms.wide || *wide) {
                continue;
            }
            let (narrow, graph) = (narrow.clone(), self.view.graph_of(raw.span));
            if !*wide {
                self.out.removed.insert(raw.span);
                self.out.edits.remove(graph, raw.span);
                let view = self.view;
                for v in view.inputs(raw.name()) {
                    self.retype(v);
                }
            }
            let data = self.cast(raw.name(), tensor);
            let constant = Constant {
                name: narrow,
                data_type: data_type(self.to),
                dims: tensor.shape.to_vec(),
                data,
            };
            self.out.constant(graph, constant);
        }
    }

    /// A room for a tensor's values, and the work on them.
    fn cast(&mut self, name: &str, tensor: &Tensor) -> Data {
        let (room, len) = (
            self.out.rooms(),
            tensor.numel().unwrap_or(0).saturating_mul(2),
        );
        self.out.jobs.push(Job {
            name: name.to_owned(),
            tensor: tensor.clone(),
            to: To::Cast,
            rooms: [Some(room), None, None],
            after: len,
            dtype: self.to,
            scales: tensor.dtype,
            biases: Vec::new(),
        });
        self.out.room(len)
    }

    /// Casts behind the graph's inputs, and types of values between.
    fn edges(&mut self) {
        let constants: HashSet<&str> = self
            .view
            .raw
            .initializers
            .iter()
            .map(raw::Tensor::name)
            .collect();
        let first = self.view.raw.nodes.first();
        let inputs = self.view.raw.inputs.iter().map(|v| v.name.text.as_str());
        for name in inputs.chain(sparse(self.view.raw)) {
            let needed = self.needed.get(name).is_some_and(|f| f.narrow);
            if constants.contains(name) || !needed {
                continue;
            }
            if let (Some(first), Some(cast)) = (first, self.between(name, true)) {
                self.out
                    .before(self.view.graph_of(first.span), first.span, cast);
            }
        }
        for v in &self.view.raw.values {
            let made = self.made.get(v.name.text.as_str());
            if made.is_some_and(|(wide, ..)| !*wide) {
                self.retype(v);
            }
        }
    }

    /// The `Cast` from the one form of a value to the other.
    fn between(&self, name: &str, from_wide: bool) -> Option<Fields> {
        let (_, wide, narrow) = self.made.get(name)?;
        let (from, to, kind) = match from_wide {
            true => (wide, narrow, self.to),
            false => (narrow, wide, DType::F32),
        };
        let title = format!("{to}_Cast");
        let cast = NewNode::new("Cast", title, &[from], &[to]);
        Some(cast.int("to", data_type(kind)).fields())
    }

    fn node(&mut self, node: &'w raw::Node, lowered: &GraphNode) -> Result<()> {
        let blocked = self.blocked(node);
        let pick = |made: Option<&(bool, String, String)>, blocked: bool| {
            made.map(|(_, wide, narrow)| {
                if blocked {
                    wide.clone()
                } else {
                    narrow.clone()
                }
            })
        };
        for t in &node.inputs {
            let name = pick(self.made.get(t.text.as_str()), blocked);
            if let Some(name) = name.filter(|n| *n != t.text) {
                self.out.rename(node.span, 1, t, &name);
            }
        }
        for t in &node.outputs {
            let Some(name) = pick(self.made.get(t.text.as_str()), blocked) else {
                continue;
            };
            if name != t.text {
                self.out.rename(node.span, 2, t, &name);
            }
            let forms = self
                .needed
                .get(t.text.as_str())
                .copied()
                .unwrap_or_default();
            let other = if blocked { forms.narrow } else { forms.wide };
            if let Some(cast) = self.between(&t.text, blocked).filter(|_| other) {
                self.out
                    .after(self.view.graph_of(node.span), node.span, cast);
            }
        }
        if blocked {
            return Ok(());
        }
        let kind = if node.operator.text == "Cast" {
            "to"
        } else {
            "dtype"
        };
        if let Some(a) = node.attribute(kind).filter(|a| a.i == Some(FLOAT)) {
            let field = Fields::new().int(3, data_type(self.to));
            self.out.edits.set(a.span, 3, vec![Piece::Fields(field)]);
        }
        for (a, lowered) in node.attributes.iter().zip(&lowered.attributes) {
            if let (AttributeValue::Tensor(t), Some(stored)) = (&lowered.value, &a.t)
                && t.dtype == DType::F32
            {
                let name = node.outputs.first().map_or("", |o| o.text.as_str());
                self.attribute(name, stored, t);
            }
        }
        Ok(())
    }

    /// A tensor that stands in an attribute.
    fn attribute(&mut self, name: &str, stored: &raw::Tensor, tensor: &Tensor) {
        let Data::Room(id, len) = self.cast(name, tensor) else {
            return;
        };
        for number in [4, 13, 14] {
            self.out.edits.set(stored.span, number, Vec::new());
        }
        let kind = Fields::new().int(2, data_type(self.to));
        self.out
            .edits
            .set(stored.span, 2, vec![Piece::Fields(kind)]);
        self.out
            .edits
            .set(stored.span, 9, vec![Piece::Room(9, len, id)]);
        self.out.removed.insert(stored.span);
    }

    /// Says of a value that it is in the narrow form.
    fn retype(&mut self, v: &raw::ValueInfo) {
        let Some(kind) = &v.kind else { return };
        let TypeValue::Tensor(FLOAT, dims) = &kind.value else {
            return;
        };
        let mut tensor = Fields::new().int(1, data_type(self.to));
        if let Some(dims) = dims {
            let mut shape = Fields::new();
            for d in dims {
                let one = match (&d.symbol, d.value) {
                    (_, Some(n)) => Fields::new().int(1, n),
                    (Some(s), None) => Fields::new().bytes(2, &s.text),
                    (None, None) => Fields::new(),
                };
                shape = shape.bytes(1, one);
            }
            tensor = tensor.bytes(2, shape);
        }
        let field = Fields::new().bytes(2, Fields::new().bytes(1, tensor));
        self.out.edits.set(v.span, 2, vec![Piece::Fields(field)]);
    }
}
