//! Weights of Keras 3 without the configuration of their model: what their paths and the names of
//! their groups say.
//!
//! Each group `vars` has the name of its layer as an attribute (`_save_state` of
//! `keras/src/saving/saving_lib.py`, since Keras 3.8), and the step before it is the layer's class
//! in small letters.

use std::collections::HashMap;

use weighbridge_core::model::Model;

use super::labels::{Groups, Named, Stored};

/// The weights of `model` by the object that they belong to.
pub(super) fn groups(model: &Model) -> Groups {
    let mut out = Groups::new();
    for (i, t) in model.tensors.iter().enumerate() {
        let Some((group, number)) = t.name.rsplit_once('/') else {
            continue;
        };
        let owner = match group {
            "vars" => "",
            group => match group.strip_suffix("/vars") {
                Some(owner) => owner,
                None => continue,
            },
        };
        let plain = number.len() == 1 || !number.starts_with('0');
        if let (Ok(number), true) = (number.parse::<u64>(), plain) {
            out.entry(owner.to_owned()).or_default().push(Stored {
                number,
                tensor: i,
                shape: t.shape.clone(),
            });
        }
    }
    for group in out.values_mut() {
        group.sort_by_key(|s| s.number);
    }
    out
}

/// Whether every tensor of `model` lies where Keras 3 keeps weights.
pub(super) fn is_tree(model: &Model) -> bool {
    let mut any = false;
    for t in &model.tensors {
        let group = t.name.rsplit_once('/').map(|(g, _)| g);
        if !group.is_some_and(|g| g == "vars" || g.ends_with("/vars")) {
            return false;
        }
        any = true;
    }
    any || {
        let at_vars = |k: &String| k.starts_with("vars@") || k.contains("/vars@");
        model.metadata.iter().any(|(k, _)| at_vars(k))
    }
}

/// What is known of the weights in `groups` without a configuration.
pub(super) fn names(model: &Model, groups: &Groups) -> HashMap<usize, Named> {
    let mut called: HashMap<&str, &str> = HashMap::new();
    for (key, value) in &model.metadata {
        let owner = match key.strip_suffix("vars@name") {
            Some("") => "",
            Some(owner) => match owner.strip_suffix('/') {
                Some(owner) => owner,
                None => continue,
            },
            None => continue,
        };
        if let Some(name) = value.as_str() {
            called.insert(owner, name);
        }
    }
    let mut out = HashMap::new();
    for (owner, stored) in groups.iter().filter(|(o, _)| !o.is_empty()) {
        let called_as = called.get(owner.as_str()).copied().unwrap_or_default();
        let Some((class, names)) = variables(owner, called_as, stored) else {
            continue;
        };
        let scope = scope(owner, &called);
        for (i, s) in stored.iter().enumerate() {
            let label = match (&scope, names.get(i)) {
                (Some(scope), Some(name)) => Some(format!("{scope}/{name}")),
                _ => None,
            };
            let class = class.to_owned();
            out.insert(s.tensor, Named { label, class });
        }
    }
    out
}

/// The names of the objects on the way to `owner`, joined; functional models are not named in
/// the paths of variables.
fn scope(owner: &str, called: &HashMap<&str, &str>) -> Option<String> {
    called.get(owner)?;
    let mut names = Vec::new();
    let ends = owner.match_indices('/').map(|(i, _)| i);
    for end in ends.chain([owner.len()]) {
        let Some(part) = owner.get(..end) else {
            continue;
        };
        let step = part.rsplit('/').next().unwrap_or(part);
        if let Some(name) = called.get(part).filter(|_| bare(step) != "functional") {
            names.push(*name);
        }
    }
    Some(names.join("/"))
}

/// A step without its number.
fn bare(step: &str) -> &str {
    match step.rsplit_once('_') {
        Some((class, n)) if !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()) => class,
        _ => step,
    }
}

const BIASED: &[&[&str]] = &[&["kernel"], &["kernel", "bias"]];

const RECURRENT: &[&[&str]] = &[
    &["kernel", "recurrent_kernel"],
    &["kernel", "recurrent_kernel", "bias"],
];

const SEPARABLE: &[&[&str]] = &[
    &["depthwise_kernel", "pointwise_kernel"],
    &["depthwise_kernel", "pointwise_kernel", "bias"],
];

/// Classes by the step that they are stored under, with the variables they can have. Where as many
/// can be several, the layer is not here.
const CLASSES: &[(&str, &str, &[&[&str]])] = &[
    ("dense", "Dense", BIASED),
    ("einsum_dense", "EinsumDense", BIASED),
    ("conv1d", "Conv1D", BIASED),
    ("conv2d", "Conv2D", BIASED),
    ("conv3d", "Conv3D", BIASED),
    ("conv1d_transpose", "Conv1DTranspose", BIASED),
    ("conv2d_transpose", "Conv2DTranspose", BIASED),
    ("conv3d_transpose", "Conv3DTranspose", BIASED),
    ("depthwise_conv1d", "DepthwiseConv1D", BIASED),
    ("depthwise_conv2d", "DepthwiseConv2D", BIASED),
    ("separable_conv1d", "SeparableConv1D", SEPARABLE),
    ("separable_conv2d", "SeparableConv2D", SEPARABLE),
    ("embedding", "Embedding", &[&["embeddings"]]),
    (
        "batch_normalization",
        "BatchNormalization",
        &[
            &["moving_mean", "moving_variance"],
            &["gamma", "beta", "moving_mean", "moving_variance"],
        ],
    ),
    (
        "layer_normalization",
        "LayerNormalization",
        &[&["gamma", "beta"]],
    ),
    (
        "group_normalization",
        "GroupNormalization",
        &[&["gamma", "beta"]],
    ),
    ("rms_normalization", "RMSNormalization", &[&["scale"]]),
    ("p_re_lu", "PReLU", &[&["alpha"]]),
    (
        "normalization",
        "Normalization",
        &[&["mean", "variance", "count"]],
    ),
    ("lstm_cell", "LSTMCell", RECURRENT),
    ("gru_cell", "GRUCell", RECURRENT),
    ("simple_rnn_cell", "SimpleRNNCell", RECURRENT),
];

/// The class of the object at `owner` and the names of its variables, as far as its path tells.
fn variables(
    owner: &str,
    called: &str,
    stored: &[Stored],
) -> Option<(&'static str, &'static [&'static str])> {
    let mut steps = owner.rsplit('/');
    let (last, before) = (bare(steps.next()?), steps.next().map_or("", bare));
    let (class, sets) = match (last, before) {
        // Layers name the cells that they make, wherever they themselves lie.
        ("cell", _) if called == "lstm_cell" => ("LSTM", RECURRENT),
        ("cell", _) if called == "gru_cell" => ("GRU", RECURRENT),
        ("cell", _) if called == "simple_rnn_cell" => ("SimpleRNN", RECURRENT),
        ("cell", "lstm") => ("LSTM", RECURRENT),
        ("cell", "gru") => ("GRU", RECURRENT),
        ("cell", "simple_rnn") => ("SimpleRNN", RECURRENT),
        ("cell", "conv_lstm1d") => ("ConvLSTM1D", RECURRENT),
        ("cell", "conv_lstm2d") => ("ConvLSTM2D", RECURRENT),
        ("cell", "conv_lstm3d") => ("ConvLSTM3D", RECURRENT),
        (
            "query_dense" | "key_dense" | "value_dense" | "output_dense" | "_query_dense"
            | "_key_dense" | "_value_dense" | "_output_dense",
            "multi_head_attention" | "grouped_query_attention",
        ) => ("MultiHeadAttention", BIASED),
        (step, _) => {
            let found = CLASSES.iter().find(|(s, _, _)| *s == step)?;
            (found.1, found.2)
        }
    };
    let numbered = stored.iter().enumerate().all(|(i, s)| s.number == i as u64);
    let names = sets.iter().find(|s| s.len() == stored.len() && numbered);
    Some((class, names.copied().unwrap_or_default()))
}
