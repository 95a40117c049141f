//! The table. `k…` stands for the dimensions of a filter (width; height and width; depth too), I and
//! O for channels in and out, C for channels and M for how many filters each has, u for units.
//!
//! | weight | Keras | PyTorch |
//! |---|---|---|
//! | Dense, Linear | (in, out) | (out, in) |
//! | Conv1D to 3D | (k…, I, O) | (O, I, k…) |
//! | their transposes | (k…, O, I) | (I, O, k…) |
//! | DepthwiseConv, the first kernel of SeparableConv | (k…, C, M) | (C·M, 1, k…) |
//! | the second kernel of SeparableConv | (1…, C·M, O) | (O, C·M, 1…) |
//! | LSTM | (in, 4u), gates i f c o | (4u, in), gates i f g o: the same four |
//! | GRU with `reset_after` | (in, 3u), gates z r h | (3u, in), gates r z n |
//! | SimpleRNN | (in, u) | (u, in) |
//! | embeddings, norms, biases | the same | the same |
//!
//! A GRU without `reset_after` computes another thing than PyTorch's and is left; so is whatever
//! EinsumDense and attention keep in three dimensions.

use super::{Beside, Layout, Order, Seen};

/// What is done to a tensor, and what that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) order: Order,
    pub(super) what: &'static str,
}

/// What the table says of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It lies the same way in both.
    Same,
    /// It is put in another order.
    Turn(Rule),
    /// There is no telling.
    Open(&'static str),
}

use Verdict::{Open, Same};

/// Names of weights that lie the same way in both.
const SAME: [&str; 15] = [
    "bias",
    "beta",
    "gamma",
    "scale",
    "moving_mean",
    "moving_variance",
    "mean",
    "var",
    "variance",
    "count",
    "embeddings",
    "embedding",
    "alpha",
    "running_mean",
    "running_var",
];

pub(super) const NO_RULE: &str = "the table has no rule for weights of this name";
const CONV1D: &str = "it may be of a Conv1D, of an EinsumDense or of attention";
const NO_GATES: &str = "the number of its gates cannot be told";
const DEPTHWISE: &str = "it may be a depthwise filter or one of a single channel";

fn turn(order: Order, what: &'static str) -> Verdict {
    Verdict::Turn(Rule { order, what })
}

fn transposed(what: &'static str) -> Verdict {
    turn(Order::axes([1, 0]), what)
}

/// The verdict on one tensor.
pub(super) fn find(direction: Layout, seen: &Seen, beside: &Beside, flax: bool) -> Verdict {
    match direction {
        Layout::KerasToTorch => match seen.class.as_deref() {
            Some(class) => keras_class(class, seen, beside),
            None => keras_name(seen, beside, flax),
        },
        // Their layout is Keras' already.
        Layout::TorchToKeras if flax || seen.class.is_some() => match seen.shape.len() {
            0 | 1 => Same,
            _ => Open("it was read from a file of that layout"),
        },
        Layout::TorchToKeras => torch_name(seen, beside),
    }
}

/// Whether the filter has as many dimensions as a class's name says: `Conv2DTranspose`.
fn filter_dims(class: &str) -> Option<usize> {
    let digit = class.find(|c: char| c.is_ascii_digit())?;
    let digit = class.get(digit..)?;
    match digit.get(..2)? {
        "1D" => Some(1),
        "2D" => Some(2),
        "3D" => Some(3),
        _ => None,
    }
}

fn keras_class(class: &str, seen: &Seen, beside: &Beside) -> Verdict {
    let (leaf, rank) = (seen.leaf(), seen.shape.len());
    let filters = filter_dims(class);
    let conv =
        class.contains("Conv") && !class.contains("LSTM") && filters.is_some_and(|n| n + 2 == rank);
    match (class, leaf, rank) {
        ("Dense", "kernel", 2) => transposed("a Dense kernel (in, out) becomes (out, in)"),
        ("LSTM" | "LSTMCell", ..) => lstm(seen),
        ("GRU" | "GRUCell", ..) => gru(seen, beside),
        ("SimpleRNN" | "SimpleRNNCell", "kernel" | "recurrent_kernel", 2) => simple(),
        (_, "depthwise_kernel", _) if conv => depthwise(rank),
        (c, "kernel", _) if conv && c.starts_with("Depthwise") => depthwise(rank),
        (_, "pointwise_kernel", _) if conv => filter(rank),
        (_, "kernel", _) if conv => filter(rank),
        // Layers around others: the names of those tell.
        ("Bidirectional" | "TimeDistributed" | "RNN" | "StackedRNNCells", ..) => {
            keras_name(seen, beside, false)
        }
        _ if rank < 2 || SAME.contains(&leaf) => Same,
        ("Embedding", ..) => Same,
        _ => Open("the table has no rule for weights of its layer"),
    }
}

fn filter(rank: usize) -> Verdict {
    let spatial = 0..rank.saturating_sub(2);
    let axes = [rank.saturating_sub(1), rank.saturating_sub(2)];
    turn(
        Order::axes(axes.into_iter().chain(spatial)),
        "a filter (k…, in, out) becomes (out, in, k…)",
    )
}

fn depthwise(rank: usize) -> Verdict {
    let channels = [rank.saturating_sub(2), rank.saturating_sub(1)];
    let order = Order {
        axes: channels
            .into_iter()
            .chain(0..rank.saturating_sub(2))
            .collect(),
        fold: true,
        blocks: None,
    };
    turn(order, "a depthwise filter (k…, C, M) becomes (C·M, 1, k…)")
}

fn lstm(seen: &Seen) -> Verdict {
    match (seen.leaf(), seen.shape.len()) {
        ("kernel" | "recurrent_kernel", 2) => {
            transposed("LSTM weights (in, 4 gates) become (4 gates, in), whose order is the same")
        }
        (_, 0 | 1) => Same,
        _ => Open(NO_RULE),
    }
}

fn simple() -> Verdict {
    transposed("recurrent weights (in, units) become (units, in)")
}

/// The GRU of Keras, whose form its bias tells: `(2, 3u)` where the reset gate comes after the
/// recurrent product, as in PyTorch.
fn gru(seen: &Seen, beside: &Beside) -> Verdict {
    let leaf = seen.leaf();
    let bias = match leaf {
        "bias" => Some(seen.shape.as_slice()),
        _ => beside.get(seen, "bias"),
    };
    let after = match bias {
        Some([2, gates]) => gates.is_multiple_of(3),
        Some(_) => return Open("a GRU without reset_after has no counterpart in PyTorch"),
        None => return Open("without a bias there is no telling whether the GRU has reset_after"),
    };
    let swapped = vec![1, 0, 2];
    match (leaf, seen.shape.as_slice()) {
        _ if !after => Open(NO_RULE),
        ("kernel" | "recurrent_kernel", [_, gates]) if gates.is_multiple_of(3) => turn(
            Order {
                axes: vec![1, 0],
                fold: false,
                blocks: Some((0, swapped)),
            },
            "GRU weights (in, gates z r h) become (gates r z n, in)",
        ),
        ("bias", [2, _]) => turn(
            Order {
                blocks: Some((1, swapped)),
                ..Order::default()
            },
            "GRU biases, gates z r h, become gates r z n: row 0 is bias_ih, row 1 is bias_hh",
        ),
        _ => Open(NO_RULE),
    }
}

/// Recurrent weights by their shapes: how many gates a unit has.
fn recurrent(seen: &Seen, beside: &Beside) -> Verdict {
    let own = (seen.leaf() == "recurrent_kernel").then_some(seen.shape.as_slice());
    match own.or_else(|| beside.get(seen, "recurrent_kernel")) {
        Some(&[units, gates]) if units > 0 && gates == units.saturating_mul(4) => lstm(seen),
        Some(&[units, gates]) if units > 0 && gates == units.saturating_mul(3) => gru(seen, beside),
        Some(&[units, gates]) if units == gates && seen.shape.len() == 2 => simple(),
        _ => Open(NO_GATES),
    }
}

fn in_recurrent(seen: &Seen, beside: &Beside) -> bool {
    seen.leaf() == "recurrent_kernel" || beside.get(seen, "recurrent_kernel").is_some()
}

/// Recurrent weights under Keras' names and in PyTorch's layout: what [`lstm`], [`gru`] and
/// [`simple`] gave.
fn recurrent_back(seen: &Seen, beside: &Beside) -> Verdict {
    let own = (seen.leaf() == "recurrent_kernel").then_some(seen.shape.as_slice());
    let Some(&[gates, units]) = own.or_else(|| beside.get(seen, "recurrent_kernel")) else {
        return Open(NO_RULE);
    };
    let is_bias = seen.leaf() == "bias";
    let bias = match is_bias {
        true => Some(seen.shape.as_slice()),
        false => beside.get(seen, "bias"),
    };
    let blocks = |dim| Some((dim, vec![1, 0, 2]));
    match (gates.checked_div(units), seen.shape.len()) {
        (Some(n), _) if n.saturating_mul(units) != gates => Open(NO_GATES),
        (Some(1 | 4), 2) if !is_bias => {
            transposed("recurrent weights (gates, in) become (in, gates), whose order is the same")
        }
        // As it is for PyTorch, the reset gate comes after the recurrent product.
        (Some(3), 2) if !matches!(bias, Some([2, _])) => Open(NO_GATES),
        (Some(3), 2) if is_bias => turn(
            Order {
                blocks: blocks(1),
                ..Order::default()
            },
            "GRU biases, gates r z n, become gates z r h",
        ),
        (Some(3), 2) => turn(
            Order {
                axes: vec![1, 0],
                fold: false,
                blocks: blocks(1),
            },
            "GRU weights (gates r z n, in) become (in, gates z r h)",
        ),
        _ => Open(NO_GATES),
    }
}

fn keras_name(seen: &Seen, beside: &Beside, flax: bool) -> Verdict {
    let (leaf, rank) = (seen.leaf(), seen.shape.len());
    let in_recurrent = in_recurrent(seen, beside);
    match (leaf, rank) {
        ("kernel" | "recurrent_kernel" | "bias", 2) if in_recurrent => recurrent(seen, beside),
        (_, 0 | 1) => Same,
        (l, _) if SAME.contains(&l) => Same,
        ("kernel", 2) => transposed("a Dense kernel (in, out) becomes (out, in)"),
        ("kernel", 3..=5) if flax && seen.is_in(&["transpose"]) => {
            Open("Flax's transposed convolutions have their filters the other way round")
        }
        ("kernel", 3..=5) if in_recurrent || seen.is_in(&["lstm"]) => Open(NO_RULE),
        ("kernel", 3..=5) if seen.is_in(&["depthwise"]) => depthwise(rank),
        // One filter, or one for each channel.
        ("kernel", 4) if seen.shape.last() == Some(&1) && !seen.is_in(&["conv"]) => Open(DEPTHWISE),
        ("kernel", 4 | 5) => filter(rank),
        ("kernel", 3) if seen.is_in(&["conv"]) => filter(rank),
        ("kernel", 3) => Open(CONV1D),
        ("depthwise_kernel", 3..=5) => depthwise(rank),
        ("pointwise_kernel", 3..=5) => filter(rank),
        _ => Open(NO_RULE),
    }
}

/// The gates of torch's recurrent layers, `weight_ih_l0` and the like.
fn torch_recurrent(seen: &Seen, beside: &Beside) -> Option<Verdict> {
    let leaf = seen.leaf();
    let (kind, rest) = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
        .iter()
        .find_map(|k| Some((*k, leaf.strip_prefix(k)?)))?;
    let hidden = match kind {
        "weight_hh" => Some(seen.shape.as_slice()),
        _ => beside.get(seen, &format!("weight_hh{rest}")),
    };
    let Some(&[gates, units]) = hidden else {
        return Some(Open("its recurrent weights are not beside it"));
    };
    let weight = kind.starts_with("weight") && seen.shape.len() == 2;
    let times = gates
        .checked_div(units)
        .filter(|n| n.saturating_mul(units) == gates);
    let blocks = |dim| Some((dim, vec![1, 0, 2]));
    Some(match (times, weight) {
        (Some(4), true) => {
            transposed("LSTM weights (4 gates, in) become (in, 4 gates), whose order is the same")
        }
        (Some(1), true) => transposed("recurrent weights (units, in) become (in, units)"),
        (Some(3), true) => turn(
            Order {
                axes: vec![1, 0],
                fold: false,
                blocks: blocks(1),
            },
            "GRU weights (gates r z n, in) become (in, gates z r h)",
        ),
        (Some(3), false) if seen.shape.len() == 1 => turn(
            Order {
                blocks: blocks(0),
                ..Order::default()
            },
            "GRU biases, gates r z n, become gates z r h",
        ),
        (Some(1 | 4), false) => Same,
        _ => Open(NO_GATES),
    })
}

fn torch_name(seen: &Seen, beside: &Beside) -> Verdict {
    if let Some(verdict) = torch_recurrent(seen, beside) {
        return verdict;
    }
    let rank = seen.shape.len();
    let to_filter = || {
        turn(
            Order::axes((2..rank).chain([1, 0])),
            "a filter (out, in, k…) becomes (k…, in, out)",
        )
    };
    let single = seen.shape.get(1) == Some(&1) && seen.shape.first() != Some(&1);
    match (seen.leaf(), rank) {
        (_, 0 | 1) => Same,
        // Keras' names, which a turn to PyTorch's layout leaves.
        ("kernel" | "recurrent_kernel" | "bias", _) if in_recurrent(seen, beside) => {
            recurrent_back(seen, beside)
        }
        ("kernel", 2) => transposed("a Dense kernel (out, in) becomes (in, out)"),
        ("kernel", 3) if !seen.is_in(&["conv"]) => Open(CONV1D),
        ("kernel", 3..=5) if single || seen.is_in(&["depthwise"]) => Open(DEPTHWISE),
        ("kernel" | "pointwise_kernel", 3..=5) => to_filter(),
        ("depthwise_kernel", _) => Open("nothing tells how many filters a channel has"),
        (l, _) if SAME.contains(&l) => Same,
        ("weight", 2) => {
            let out = beside.get(seen, "bias");
            match (out, seen.shape.first()) {
                // Embeddings have no bias.
                (Some([n]), Some(out)) if n == out => {
                    transposed("a Linear weight (out, in) becomes (in, out)")
                }
                _ if seen.is_in(&["embed"]) => Same,
                _ => Open("without a bias it may be of a Linear or of an Embedding"),
            }
        }
        ("weight", 3..=5) if single => Open(DEPTHWISE),
        ("weight", 3..=5) => to_filter(),
        _ => Open(NO_RULE),
    }
}
