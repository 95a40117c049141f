//! Sequences put in place: where it is known how many values a sequence has, each of them gets
//! its own name, and what is taken out by position becomes a choice between them.
//!
//! Optional values are what they hold; normalisations that only few operators know are written as
//! the sums and quotients that define them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use weighbridge_core::model::{AttributeValue, Dim, ValueType};

use super::flat::{Flat, Id, Named, Node, Origin};
use super::interp::value::{Kind, Tensor, Value, load};
use super::interp::{Attributes, Binary, Fold, Move, Op, Reduce, Unary};

/// Most values of one sequence.
const MOST_VALUES: usize = 64;

/// Most nodes that are put in for those that are taken out.
const MOST_NODES: usize = 4096;

static INT64: AttributeValue = AttributeValue::Int(7);

/// Puts the sequences of `flat` in place, unless one of them is used in some other way.
pub(crate) fn place(flat: &mut Flat<'_>) {
    let known = |n: &Node<'_>| named(n).is_some();
    if !flat.nodes.iter().any(known) {
        return;
    }
    let before = flat.values.len();
    let mut p = Placer {
        flat,
        held: HashMap::new(),
        out: Vec::new(),
        made: 0,
    };
    let nodes = p.flat.nodes.clone();
    for node in nodes {
        if p.made > MOST_NODES {
            break;
        }
        if p.node(&node).is_none() {
            p.out.push(node);
        }
    }
    let (held, out, made) = (p.held, p.out, p.made);
    let held: HashSet<Id> = held.into_keys().collect();
    let kept = out
        .iter()
        .flat_map(Node::reads)
        .chain(flat.outputs.iter().copied())
        .any(|id| held.contains(&id));
    if made > MOST_NODES || kept {
        flat.values.truncate(before);
        return;
    }
    flat.nodes = out;
}

/// The operators that are taken out.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Taken {
    Empty,
    Construct,
    Insert,
    Erase,
    At,
    Length,
    Split,
    Concat,
    Optional,
    LpNorm,
    Mvn,
}

fn named(node: &Node<'_>) -> Option<Taken> {
    let standard = node.node.domain.is_empty() || node.node.domain == "ai.onnx";
    if !standard || node.op != Op::Other {
        return None;
    }
    Some(match node.node.operator.as_str() {
        "SequenceEmpty" => Taken::Empty,
        "SequenceConstruct" => Taken::Construct,
        "SequenceInsert" => Taken::Insert,
        "SequenceErase" => Taken::Erase,
        "SequenceAt" => Taken::At,
        "SequenceLength" => Taken::Length,
        "SplitToSequence" => Taken::Split,
        "ConcatFromSequence" => Taken::Concat,
        "Optional" | "OptionalGetElement" => Taken::Optional,
        "LpNormalization" => Taken::LpNorm,
        "MeanVarianceNormalization" => Taken::Mvn,
        _ => return None,
    })
}

struct Placer<'f, 'g> {
    flat: &'f mut Flat<'g>,
    /// The values of each sequence.
    held: HashMap<Id, Vec<Id>>,
    out: Vec<Node<'g>>,
    /// How many nodes were put in.
    made: usize,
}

impl<'g> Placer<'_, 'g> {
    /// Puts other nodes in for `node`; `None`, with nothing done, where it stays.
    fn node(&mut self, node: &Node<'g>) -> Option<()> {
        let input = |k: usize| node.inputs.get(k).copied().flatten();
        let first = input(0);
        let held = first.and_then(|id| self.held.get(&id).cloned());
        let result = node.outputs.first().copied().flatten()?;
        let Some(taken) = named(node) else {
            return self.passed(node, result);
        };
        let values = match taken {
            Taken::Empty => Vec::new(),
            Taken::Construct => node.inputs.iter().copied().collect::<Option<_>>()?,
            Taken::Split => self.split(node, first?)?,
            Taken::Insert => self.insert(node, held?, input(1)?, input(2))?,
            Taken::Erase => self.erase(node, held?, input(1))?,
            Taken::Optional if held.is_some() => held?,
            Taken::Optional => {
                self.put(node, Op::Move(Move::Identity), vec![first?], Some(result));
                return Some(());
            }
            Taken::Length => {
                let n = Arc::new(Tensor::scalar(held?.len() as i64));
                self.flat.values.get_mut(result)?.origin = Origin::Known(n);
                return Some(());
            }
            Taken::At => return self.at(node, &held?, input(1)?, result),
            Taken::Concat => return self.concat(node, held?, result),
            Taken::LpNorm => return self.lp_norm(node, first?, result),
            Taken::Mvn => return self.mean_variance(node, first?, result),
        };
        if values.len() > MOST_VALUES {
            return None;
        }
        self.held.insert(result, values);
        Some(())
    }

    /// What hands sequences on: the same under another name, or one of two.
    fn passed(&mut self, node: &Node<'g>, result: Id) -> Option<()> {
        let held = |k: usize| {
            let id = node.inputs.get(k).copied().flatten()?;
            self.held.get(&id).cloned()
        };
        match node.op {
            Op::Move(Move::Identity) => {
                let same = held(0)?;
                self.held.insert(result, same);
            }
            Op::Select => {
                let (a, b) = (held(1)?, held(2)?);
                let flag = node.inputs.first().copied().flatten()?;
                if a.len() != b.len() {
                    return None;
                }
                let pairs = a.into_iter().zip(b);
                let one = |(a, b)| self.put(node, Op::Select, vec![flag, a, b], None);
                let each = pairs.map(one).collect();
                self.held.insert(result, each);
            }
            _ => return None,
        }
        Some(())
    }

    fn known(&mut self, v: Tensor) -> Id {
        self.flat.values.push(Named {
            name: "",
            origin: Origin::Known(Arc::new(v)),
        });
        self.flat.values.len() - 1
    }

    fn put(&mut self, like: &Node<'g>, op: Op, inputs: Vec<Id>, result: Option<Id>) -> Id {
        self.put_with(like, op, inputs, result, Attributes::default())
    }

    fn put_with(
        &mut self,
        like: &Node<'g>,
        op: Op,
        inputs: Vec<Id>,
        result: Option<Id>,
        attributes: Attributes<'g>,
    ) -> Id {
        let id = result.unwrap_or_else(|| {
            let name = like.node.outputs.first().map_or("", String::as_str);
            let origin = Origin::Made;
            self.flat.values.push(Named { name, origin });
            self.flat.values.len() - 1
        });
        self.made += 1;
        self.out.push(Node {
            op,
            node: like.node,
            attributes,
            opset: 18,
            inputs: inputs.into_iter().map(Some).collect(),
            outputs: vec![Some(id)],
            body: None,
            place: like.place.clone(),
        });
        id
    }

    /// A constant of the file.
    fn constant(&self, id: Id) -> Option<Value> {
        match &self.flat.values.get(id)?.origin {
            Origin::Known(v) => Some(v.clone()),
            Origin::Stored(t) => load(t, MOST_VALUES).ok().map(Arc::new),
            _ => None,
        }
    }

    /// A position as a constant from the front.
    fn position(&self, id: Id, of: usize) -> Option<usize> {
        let at = self.constant(id)?.one().ok()?;
        let at = if at < 0 { at + of as i64 } else { at };
        usize::try_from(at).ok().filter(|&at| at <= of)
    }

    /// A position that is computed, from the front of `of` values.
    fn counted(&mut self, node: &Node<'g>, at: Id, of: usize) -> Id {
        let to = Attributes(vec![("to", &INT64)]);
        let at = self.put_with(node, Op::Cast, vec![at], None, to);
        let of = self.known(Tensor::scalar(of as i64));
        self.put(node, Op::Binary(Binary::Mod), vec![at, of], None)
    }

    fn compared(&mut self, node: &Node<'g>, how: Binary, k: usize, at: Id) -> Id {
        let k = self.known(Tensor::scalar(k as i64));
        self.put(node, Op::Binary(how), vec![k, at], None)
    }

    fn at(&mut self, node: &Node<'g>, held: &[Id], at: Id, result: Id) -> Option<()> {
        let first = *held.first()?;
        if let Some(k) = self.position(at, held.len()) {
            let id = *held.get(k)?;
            self.put(node, Op::Move(Move::Identity), vec![id], Some(result));
            return Some(());
        }
        let at = self.counted(node, at, held.len());
        let mut chosen = first;
        for (k, &id) in held.iter().enumerate().skip(1) {
            let here = self.compared(node, Binary::Equal, k, at);
            chosen = self.put(node, Op::Select, vec![here, id, chosen], None);
        }
        self.put(node, Op::Move(Move::Identity), vec![chosen], Some(result));
        Some(())
    }

    fn insert(
        &mut self,
        node: &Node<'g>,
        mut held: Vec<Id>,
        value: Id,
        at: Option<Id>,
    ) -> Option<Vec<Id>> {
        let known = match at {
            None => Some(held.len()),
            Some(at) => self.position(at, held.len()),
        };
        if let Some(k) = known {
            held.insert(k, value);
            return Some(held);
        }
        let at = self.counted(node, at?, held.len() + 1);
        let mut out = Vec::new();
        for k in 0..=held.len() {
            let mut chosen = value;
            if let Some(&before) = k.checked_sub(1).and_then(|k| held.get(k)) {
                let here = self.compared(node, Binary::Equal, k, at);
                chosen = self.put(node, Op::Select, vec![here, value, before], None);
            }
            if let Some(&own) = held.get(k) {
                let later = self.compared(node, Binary::Less, k, at);
                chosen = self.put(node, Op::Select, vec![later, own, chosen], None);
            }
            out.push(chosen);
        }
        Some(out)
    }

    fn erase(&mut self, node: &Node<'g>, mut held: Vec<Id>, at: Option<Id>) -> Option<Vec<Id>> {
        let last = held.len().checked_sub(1)?;
        let known = match at {
            None => Some(last),
            Some(at) => self.position(at, held.len()),
        };
        if let Some(k) = known.filter(|&k| k <= last) {
            held.remove(k);
            return Some(held);
        }
        let at = self.counted(node, at?, held.len());
        let mut out = Vec::new();
        for (k, pair) in held.windows(2).enumerate() {
            let &[own, next] = pair else { return None };
            let later = self.compared(node, Binary::Less, k, at);
            out.push(self.put(node, Op::Select, vec![later, own, next], None));
        }
        Some(out)
    }

    /// The pieces of a value, where it is known how large they are.
    fn split(&mut self, node: &Node<'g>, x: Id) -> Option<Vec<Id>> {
        let parts = match node.inputs.get(1).copied().flatten() {
            Some(id) => self.constant(id)?,
            None if node.attributes.int_or("keepdims", 1) == 0 => return None,
            None => Arc::new(Tensor::scalar(1)),
        };
        let mut sizes = parts.to_ints().ok()?;
        if parts.dims.is_empty() {
            let each = parts.one().ok().filter(|&n| n > 0)?;
            let mut left = self.extent(x, node.attributes.int_or("axis", 0))?;
            if left / each > MOST_VALUES as i64 {
                return None;
            }
            sizes.clear();
            while left > 0 {
                sizes.push(left.min(each));
                left -= each;
            }
        }
        if sizes.len() > MOST_VALUES {
            return None;
        }
        let n = sizes.len();
        let sizes = self.known(Tensor::ints(sizes));
        let axis = node.attributes.get("axis").map(|a| ("axis", a));
        let axis = Attributes(axis.into_iter().collect());
        let first = self.put_with(node, Op::Move(Move::Split), vec![x, sizes], None, axis);
        let mut out = vec![first];
        for _ in 1..n {
            let (name, origin) = ("", Origin::Made);
            self.flat.values.push(Named { name, origin });
            out.push(self.flat.values.len() - 1);
        }
        self.out.last_mut()?.outputs = out.iter().copied().map(Some).collect();
        Some(out)
    }

    /// How far a value goes along an axis, where the file says so.
    fn extent(&self, id: Id, axis: i64) -> Option<i64> {
        let ValueType::Tensor {
            shape: Some(dims), ..
        } = &self.flat.types.get(&id)?.kind
        else {
            return None;
        };
        let at = if axis < 0 {
            axis + dims.len() as i64
        } else {
            axis
        };
        match dims.get(usize::try_from(at).ok()?)? {
            Dim::Known(n) => Some(*n),
            _ => None,
        }
    }

    fn concat(&mut self, node: &Node<'g>, held: Vec<Id>, result: Id) -> Option<()> {
        let axis = node.attributes.get("axis")?;
        let mut parts = held;
        if node.attributes.int_or("new_axis", 0) != 0 {
            let at = self.known(Tensor::ints(vec![axis.as_int()?]));
            let wide = |&id: &Id| self.put(node, Op::Move(Move::Unsqueeze), vec![id, at], None);
            parts = parts.iter().map(wide).collect();
        }
        let axis = Attributes(vec![("axis", axis)]);
        self.put_with(node, Op::Move(Move::Concat), parts, Some(result), axis);
        Some(())
    }

    /// Divided by the length along one axis.
    fn lp_norm(&mut self, node: &Node<'g>, x: Id, result: Id) -> Option<()> {
        let axes = self.known(Tensor::ints(vec![node.attributes.int_or("axis", -1)]));
        let how = match node.attributes.int_or("p", 2) {
            1 => Reduce::L1,
            _ => Reduce::L2,
        };
        let length = self.put(node, Op::Reduce(how), vec![x, axes], None);
        // Of length nothing stays nothing.
        let least = self.known(Tensor::float(Kind::F32, Vec::new(), vec![1e-30]));
        let length = self.put(node, Op::Fold(Fold::Max), vec![length, least], None);
        self.put(node, Op::Binary(Binary::Div), vec![x, length], Some(result));
        Some(())
    }

    /// Centred and divided by the spread.
    fn mean_variance(&mut self, node: &Node<'g>, x: Id, result: Id) -> Option<()> {
        let axes = node.attributes.ints("axes").unwrap_or(&[0, 2, 3]).to_vec();
        let axes = self.known(Tensor::ints(axes));
        let mean = Op::Reduce(Reduce::Mean);
        let middle = self.put(node, mean, vec![x, axes], None);
        let apart = self.put(node, Op::Binary(Binary::Sub), vec![x, middle], None);
        let square = self.put(node, Op::Binary(Binary::Mul), vec![apart, apart], None);
        let spread = self.put(node, mean, vec![square, axes], None);
        let root = self.put(node, Op::Unary(Unary::Sqrt), vec![spread], None);
        let least = self.known(Tensor::float(Kind::F32, Vec::new(), vec![1e-9]));
        let root = self.put(node, Op::Binary(Binary::Add), vec![root, least], None);
        self.put(
            node,
            Op::Binary(Binary::Div),
            vec![apart, root],
            Some(result),
        );
        Some(())
    }
}
