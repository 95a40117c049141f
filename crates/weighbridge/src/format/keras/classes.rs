//! What the layers of Keras 3 keep: the names of their own variables in the order in which they
//! are stored, and the layers in them with the attribute they are stored under
//! (`keras/src/layers`, Keras 3.0 to 3.15).

use serde_json::Value as Json;

/// The variables of a layer's own, in stored order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Own {
    pub trained: Vec<&'static str>,
    pub kept: Vec<&'static str>,
}

impl Own {
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.trained.iter().chain(&self.kept).copied()
    }
}

/// The switch `key` of a layer's configuration.
fn on(config: &Json, key: &str, default: bool) -> bool {
    config.get(key).and_then(Json::as_bool).unwrap_or(default)
}

fn is_set(config: &Json, key: &str) -> bool {
    config.get(key).is_some_and(|v| !v.is_null())
}

/// The variables that a layer of `class` with `config` has, where the class is known.
pub(super) fn own(class: &str, config: &Json) -> Option<Own> {
    let with = |always: &[&'static str], some: &[(&str, bool, &'static str)]| {
        let mut trained = always.to_vec();
        for &(key, default, name) in some {
            if on(config, key, default) {
                trained.push(name);
            }
        }
        Own {
            trained,
            kept: Vec::new(),
        }
    };
    let bias: &[(&str, bool, &str)] = &[("use_bias", true, "bias")];
    let affine: &[(&str, bool, &str)] = &[("scale", true, "gamma"), ("center", true, "beta")];
    Some(match class {
        "Dense" | "Conv1D" | "Conv2D" | "Conv3D" | "Conv1DTranspose" | "Conv2DTranspose"
        | "Conv3DTranspose" | "DepthwiseConv1D" | "DepthwiseConv2D" => with(&["kernel"], bias),
        "SeparableConv1D" | "SeparableConv2D" => {
            with(&["depthwise_kernel", "pointwise_kernel"], bias)
        }
        "EinsumDense" => {
            let mut own = with(&["kernel"], &[]);
            own.trained
                .extend(is_set(config, "bias_axes").then_some("bias"));
            own
        }
        "Embedding" => with(&["embeddings"], &[]),
        "LSTMCell" | "GRUCell" | "SimpleRNNCell" | "ConvLSTMCell" => {
            with(&["kernel", "recurrent_kernel"], bias)
        }
        "BatchNormalization" => Own {
            kept: vec!["moving_mean", "moving_variance"],
            ..with(&[], affine)
        },
        "LayerNormalization" if on(config, "rms_scaling", false) => with(&["gamma"], &[]),
        "LayerNormalization" | "GroupNormalization" => with(&[], affine),
        "RMSNormalization" => with(&["scale"], &[]),
        "PReLU" => with(&["alpha"], &[]),
        "Attention" if config.get("score_mode").and_then(Json::as_str) == Some("concat") => {
            return None;
        }
        "Attention" => with(&[], &[("use_scale", false, "scale")]),
        "AdditiveAttention" => with(&[], &[("use_scale", true, "scale")]),
        "Normalization" => Own {
            kept: vec!["mean", "variance", "count"],
            ..Own::default()
        },
        _ => return None,
    })
}

/// A layer inside another.
pub(super) struct Inner<'c> {
    /// The attributes under which it may be stored, the newest first.
    pub attributes: &'static [&'static str],
    /// Its class, or the node of the configuration that tells.
    pub what: What<'c>,
}

/// What an inner layer is.
pub(super) enum What<'c> {
    /// A node of its own.
    Node(&'c Json),
    /// A layer that its owner makes: class, name, and its owner's configuration in place of its
    /// own.
    Made(&'static str, &'static str),
}

/// The layers in a layer of `class`, in the order in which they were made.
pub(super) fn inner<'c>(class: &str, config: &'c Json) -> Vec<Inner<'c>> {
    let node = |key: &str, attributes: &'static [&'static str]| {
        config.get(key).filter(|v| v.is_object()).map(|v| Inner {
            attributes,
            what: What::Node(v),
        })
    };
    let made = |attributes: &'static [&'static str], class, name| Inner {
        attributes,
        what: What::Made(class, name),
    };
    let cell = |class, name| vec![made(&["cell"], class, name)];
    match class {
        "LSTM" => cell("LSTMCell", "lstm_cell"),
        "GRU" => cell("GRUCell", "gru_cell"),
        "SimpleRNN" => cell("SimpleRNNCell", "simple_rnn_cell"),
        "ConvLSTM1D" | "ConvLSTM2D" | "ConvLSTM3D" => cell("ConvLSTMCell", "conv_lstm_cell"),
        "RNN" => node("cell", &["cell"]).into_iter().collect(),
        "Bidirectional" => {
            let both = [
                node("layer", &["forward_layer"]),
                node("backward_layer", &["backward_layer"]),
            ];
            both.into_iter().flatten().collect()
        }
        "TimeDistributed" | "SpectralNormalization" | "Wrapper" => {
            node("layer", &["layer"]).into_iter().collect()
        }
        "MultiHeadAttention" | "GroupQueryAttention" => vec![
            made(&["query_dense", "_query_dense"], PROJECTION, "query"),
            made(&["key_dense", "_key_dense"], PROJECTION, "key"),
            made(&["value_dense", "_value_dense"], PROJECTION, "value"),
            made(
                &["output_dense", "_output_dense"],
                PROJECTION,
                "attention_output",
            ),
        ],
        _ => Vec::new(),
    }
}

/// The `EinsumDense` layers that attention makes; their bias goes by the attention's `use_bias`.
pub(super) const PROJECTION: &str = "<projection>";

/// `to_snake_case` of `keras/src/utils/naming.py`.
pub(super) fn snake_case(name: &str) -> String {
    // Classes are stored by the name they have in Python, configured by the one they are known by.
    let name = match name {
        "GroupQueryAttention" => "GroupedQueryAttention",
        name => name,
    };
    let word = |c: &char| c.is_alphanumeric() || *c == '_';
    let chars: Vec<char> = name.chars().filter(word).collect();
    // A capital with a small letter behind it begins a word.
    let mut spread: Vec<char> = Vec::with_capacity(chars.len() + 8);
    for (i, &c) in chars.iter().enumerate() {
        let small = chars.get(i + 1).is_some_and(char::is_ascii_lowercase);
        if i > 0 && c.is_ascii_uppercase() && small {
            spread.push('_');
        }
        spread.push(c);
    }
    // And so does one behind a small letter.
    let mut out = String::with_capacity(spread.len() + 8);
    let mut before = '_';
    for c in spread {
        if c.is_ascii_uppercase() && before.is_ascii_lowercase() {
            out.push('_');
        }
        out.extend(c.to_lowercase());
        before = c;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_spelled_as_keras_spells_them() {
        for (class, snake) in [
            ("Dense", "dense"),
            ("Conv2DTranspose", "conv2d_transpose"),
            ("PReLU", "p_re_lu"),
            ("GroupQueryAttention", "grouped_query_attention"),
            ("RMSNormalization", "rms_normalization"),
            ("ConvLSTM2D", "conv_lstm2d"),
            ("RMSprop", "rm_sprop"),
            ("AdamW", "adam_w"),
            ("My_Dense", "my__dense"),
            ("GRU", "gru"),
            ("LSTMCell", "lstm_cell"),
        ] {
            assert_eq!(snake_case(class), snake);
        }
    }
}
