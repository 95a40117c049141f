//! What each value depends on: inputs, and weights on the way.

use std::sync::Arc;

use weighbridge_core::model::{AttributeValue, Tensor as Stored};

use super::flat::{Body, Flat, Id, Node, Origin};
use super::interp::Op;
use super::interp::value::load;
use super::run::Values;

/// Most weights that are told apart; what is left of the smaller ones counts as one.
const MOST_WEIGHTS: usize = 1024;

/// The part of a model's weights up to which a path counts as one that goes round them.
const LIGHT: f64 = 0.1;

/// Largest tensor whose zeros are counted, in elements; of all together, 64 times as many.
const MOST_COUNTED: u64 = 1 << 14;

/// A set of weights.
type Set = Option<Arc<[u64]>>;

/// The facts of one value.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fact {
    /// Whether it depends on what inputs hold, and not on their shapes alone.
    pub(crate) data: bool,
    /// The inputs it depends on, one bit each.
    pub(crate) sources: u64,
    /// The weights on the way: of a constant, the tensors it is made of.
    weights: Set,
}

/// The facts of a graph.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) of: Vec<Fact>,
    /// The node that makes each value.
    pub(crate) maker: Vec<Option<usize>>,
    /// The size of each weight, and whether it is a table that is looked up.
    sizes: Vec<(u64, bool)>,
    /// The weights behind the outputs, without and with tables.
    total: (u64, u64),
    /// How many elements were looked at for zeros.
    counted: u64,
}

/// Whether an operator weighs its operands with learned numbers.
pub(crate) fn weighs(node: &Node<'_>) -> bool {
    match node.op {
        Op::MatMul | Op::Gemm | Op::Conv | Op::Einsum | Op::IntegerMatMul => true,
        Op::Other => !matches!(node.node.operator.as_str(), "Sequence" | "Optional"),
        _ => false,
    }
}

impl Facts {
    /// Goes through `flat`, whose shapes are known as far as `shapes` says.
    pub(crate) fn of(flat: &Flat<'_>, shapes: &Values) -> Self {
        let n = flat.values.len();
        let mut f = Self {
            of: vec![Fact::default(); n],
            maker: vec![None; n],
            sizes: Vec::new(),
            total: (0, 0),
            counted: 0,
        };
        let slots = f.weights(flat);
        for (id, v) in flat.values.iter().enumerate() {
            let Some(fact) = f.of.get_mut(id) else {
                continue;
            };
            match &v.origin {
                Origin::Input(i) => {
                    fact.data = true;
                    fact.sources = 1u64 << (*i).min(63);
                }
                Origin::Stored(_) => {
                    let bit = slots.get(id).copied().flatten();
                    fact.weights = bit.and_then(|b| one(b, f.sizes.len()));
                }
                _ => {}
            }
        }
        for (at, node) in flat.nodes.iter().enumerate() {
            f.node(at, node, shapes);
        }
        let mut all = None;
        for &o in &flat.outputs {
            let of = f.of.get(o).and_then(|x| x.weights.clone());
            all = union(all, of);
        }
        f.total = (f.sum(&all, false), f.sum(&all, true));
        f
    }

    /// A bit for every stored tensor that is large enough to be a weight.
    fn weights(&mut self, flat: &Flat<'_>) -> Vec<Option<usize>> {
        let mut large: Vec<(u64, Id)> = Vec::new();
        for (id, v) in flat.values.iter().enumerate() {
            if let Origin::Stored(t) = &v.origin {
                let n = t.numel().unwrap_or(0);
                if n > 1 {
                    let bytes = t.dtype.size_of(&[n]).unwrap_or(0);
                    large.push((bytes.saturating_sub(self.zeros(t, n)).max(1), id));
                }
            }
        }
        large.sort_by_key(|&(bytes, id)| (std::cmp::Reverse(bytes), id));
        let mut slots = vec![None; flat.values.len()];
        for (i, (bytes, id)) in large.into_iter().enumerate() {
            let bit = i.min(MOST_WEIGHTS - 1);
            match self.sizes.get_mut(bit) {
                Some((sum, _)) => *sum = sum.saturating_add(bytes),
                None => self.sizes.push((bytes, false)),
            }
            if let Some(s) = slots.get_mut(id) {
                *s = Some(bit);
            }
        }
        slots
    }

    /// How many bytes of a small tensor are spent on zeros, which weigh nothing: a matrix that
    /// picks a few elements is no learned one.
    fn zeros(&mut self, t: &Stored, n: u64) -> u64 {
        if n > MOST_COUNTED || self.counted >= MOST_COUNTED * 64 {
            return 0;
        }
        self.counted += n;
        let all = load(t, MOST_COUNTED as usize).and_then(|t| t.to_floats());
        let zeros = all.map_or(0, |v| v.iter().filter(|x| **x == 0.0).count());
        t.dtype.size_of(&[zeros as u64]).unwrap_or(0)
    }

    fn node(&mut self, at: usize, node: &Node<'_>, shapes: &Values) {
        let mut fact = Fact::default();
        for id in node.reads() {
            let Some(r) = self.of.get(id) else { continue };
            fact.data |= r.data;
            fact.sources |= r.sources;
        }
        let weighs = weighs(node);
        let table = node.op == Op::Gather && fact.data;
        for (k, id) in node.reads().enumerate() {
            let Some(r) = self.of.get(id) else { continue };
            let counts = r.data || !fact.data || weighs || (table && k == 0);
            if !counts {
                continue;
            }
            let w = r.weights.clone();
            if table && !r.data {
                self.tables(&w);
            }
            fact.weights = union(fact.weights, w);
        }
        if let Some(body) = &node.body {
            let inner = self.inside(body, 0);
            fact.weights = union(fact.weights, inner);
        }
        if node.op == Op::Other {
            let bytes = attribute_bytes(node);
            if bytes > 64 && self.sizes.len() < MOST_WEIGHTS {
                self.sizes.push((bytes, false));
                let bit = one(self.sizes.len() - 1, self.sizes.len());
                fact.weights = union(fact.weights, bit);
            }
        }
        for id in node.makes() {
            let mut own = fact.clone();
            // What is known already where only shapes are does not depend on data.
            if shapes
                .get(id)
                .and_then(|v| v.as_ref())
                .is_some_and(|v| v.is_known())
            {
                own.data = false;
                own.sources = 0;
            }
            if let Some(slot) = self.of.get_mut(id) {
                *slot = own;
            }
            if let Some(slot) = self.maker.get_mut(id) {
                *slot = Some(at);
            }
        }
    }

    /// Marks weights as tables that are looked up.
    fn tables(&mut self, set: &Set) {
        for (i, word) in set.iter().flat_map(|s| s.iter().enumerate()) {
            for b in 0..64 {
                if word >> b & 1 == 1
                    && let Some((_, table)) = self.sizes.get_mut(i * 64 + b)
                {
                    *table = true;
                }
            }
        }
    }

    /// The weights that a body uses.
    fn inside(&self, body: &Body<'_>, depth: usize) -> Set {
        let mut all = None;
        for n in &body.nodes {
            if weighs(n) {
                for id in n.reads() {
                    if let Some(f) = self.of.get(id).filter(|f| !f.data) {
                        all = union(all, f.weights.clone());
                    }
                }
            }
            if let (Some(b), true) = (&n.body, depth < 8) {
                all = union(all, self.inside(b, depth + 1));
            }
        }
        all
    }

    fn sum(&self, set: &Set, tables: bool) -> u64 {
        let Some(set) = set else {
            return 0;
        };
        let mut sum = 0u64;
        for (i, &word) in set.iter().enumerate() {
            let mut rest = word;
            while rest != 0 {
                let b = rest.trailing_zeros() as usize;
                rest &= rest - 1;
                if let Some((bytes, table)) = self.sizes.get(i * 64 + b)
                    && (tables || !table)
                {
                    sum = sum.saturating_add(*bytes);
                }
            }
        }
        sum
    }

    /// Whether the graph has learned weights at all.
    pub(crate) fn has_trunk(&self) -> bool {
        self.total.1 > 0
    }

    fn mass(&self, id: Id, tables: bool) -> u64 {
        self.of.get(id).map_or(0, |f| self.sum(&f.weights, tables))
    }

    /// Whether the way to `id` goes round the weights.
    pub(crate) fn is_light(&self, id: Id) -> bool {
        let mass = self.mass(id, false);
        mass == 0 || mass as f64 <= self.total.0 as f64 * LIGHT
    }

    /// Whether weights lie behind `id`, looked-up tables among them.
    pub(crate) fn has_weights(&self, id: Id) -> bool {
        self.mass(id, true) > 0
    }

    /// Whether hardly any weights lie behind `id`, tables included.
    pub(crate) fn is_slight(&self, id: Id) -> bool {
        let mass = self.mass(id, true);
        self.is_light(id) && (mass == 0 || mass as f64 <= self.total.1 as f64 * LIGHT)
    }

    /// Whether weights other than looked-up tables lie behind `id`, and more than few.
    pub(crate) fn is_deep(&self, id: Id) -> bool {
        self.mass(id, false) > 0 && !self.is_light(id)
    }

    /// The part of the weights that lie behind `id`, in percent.
    pub(crate) fn percent(&self, id: Id) -> f64 {
        match self.total {
            (0, 0) => 0.0,
            (0, all) => self.mass(id, true) as f64 * 100.0 / all as f64,
            (plain, _) => self.mass(id, false) as f64 * 100.0 / plain as f64,
        }
    }

    pub(crate) fn is_data(&self, id: Id) -> bool {
        self.of.get(id).is_some_and(|f| f.data)
    }

    pub(crate) fn sources(&self, id: Id) -> u64 {
        self.of.get(id).map_or(0, |f| f.sources)
    }
}

/// The numbers that an operator carries in its attributes, as trees of decisions do.
fn attribute_bytes(node: &Node<'_>) -> u64 {
    let of = |v: &AttributeValue| match v {
        AttributeValue::Floats(v) => v.len() * 4,
        AttributeValue::Ints(v) => v.len() * 8,
        AttributeValue::Tensor(t) => usize::try_from(t.byte_len()).unwrap_or(usize::MAX),
        _ => 0,
    };
    let all = node.attributes.0.iter();
    all.fold(0u64, |n, (_, v)| n.saturating_add(of(v) as u64))
}

fn one(bit: usize, most: usize) -> Set {
    let mut words = vec![0u64; most.max(bit + 1).div_ceil(64)];
    if let Some(w) = words.get_mut(bit / 64) {
        *w |= 1 << (bit % 64);
    }
    Some(Arc::from(words))
}

/// Sets are shared: the union of a set and a part of it is that set itself.
fn union(a: Set, b: Set) -> Set {
    let (Some(x), Some(y)) = (&a, &b) else {
        return a.or(b);
    };
    let within = |x: &[u64], y: &[u64]| {
        let of = |i: usize| y.get(i).copied().unwrap_or(0);
        x.iter().enumerate().all(|(i, w)| w & !of(i) == 0)
    };
    if Arc::ptr_eq(x, y) || within(y, x) {
        return a;
    }
    if within(x, y) {
        return b;
    }
    let n = x.len().max(y.len());
    let of = |s: &[u64], i: usize| s.get(i).copied().unwrap_or(0);
    Some((0..n).map(|i| of(x, i) | of(y, i)).collect())
}
