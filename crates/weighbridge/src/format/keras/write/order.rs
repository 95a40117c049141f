//! In which order a layer's weights stand, by their names: Keras' older loader goes by that order
//! and not by names.

/// Weights that are trained, in the order in which Keras' layers make them.
const TRAINED: [&str; 14] = [
    "embeddings",
    "depthwise_kernel",
    "pointwise_kernel",
    "kernel",
    "recurrent_kernel",
    "gamma",
    "beta",
    "alpha",
    "scale",
    "weight",
    "weights",
    "bias",
    "lora_kernel_a",
    "lora_kernel_b",
];

/// Weights that are not trained, which stand behind all others of the layer.
const KEPT: [&str; 7] = [
    "moving_mean",
    "moving_variance",
    "moving_var",
    "mean",
    "variance",
    "count",
    "seed_generator_state",
];

/// Parts of a layer of which the order is known.
const PARTS: [&str; 6] = [
    "query",
    "key",
    "value",
    "attention_output",
    "forward",
    "backward",
];

/// The last part of a weight's name without the number of its output.
fn leaf(name: &str) -> &str {
    let name = name.rsplit_once(':').map_or(name, |(n, _)| n);
    name.rsplit('/').next().unwrap_or(name)
}

fn rank(list: &[&str], name: &str) -> Option<usize> {
    list.iter().position(|n| *n == name)
}

/// Sorts the names of one layer's weights; leaves them where not every name is known.
pub(super) fn sort<T>(weights: &mut [T], name: impl Fn(&T) -> &str) {
    let known = |w: &T| {
        let leaf = leaf(name(w));
        TRAINED.contains(&leaf) || KEPT.contains(&leaf)
    };
    if !weights.iter().all(known) {
        return;
    }
    let mut parts: Vec<String> = Vec::new();
    let part = |w: &T| {
        let n = name(w);
        n.rsplit_once('/').map_or("", |(p, _)| p).to_owned()
    };
    for w in weights.iter() {
        let p = part(w);
        if !parts.contains(&p) {
            parts.push(p);
        }
    }
    weights.sort_by_key(|w| {
        let leaf = leaf(name(w));
        let prefix = part(w);
        let step = prefix.rsplit('/').find_map(|s| {
            PARTS.iter().position(|p| {
                s.strip_prefix(p)
                    .is_some_and(|r| r.is_empty() || r.starts_with('_'))
            })
        });
        let seen = parts.iter().position(|p| *p == prefix);
        (
            KEPT.contains(&leaf),
            step.unwrap_or(0),
            seen,
            rank(&TRAINED, leaf).or_else(|| rank(&KEPT, leaf)),
        )
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(names: &[&str]) -> Vec<String> {
        let mut names: Vec<String> = names.iter().map(|s| (*s).to_owned()).collect();
        sort(&mut names, String::as_str);
        names
    }

    #[test]
    fn weights_stand_as_keras_makes_them() {
        assert_eq!(
            sorted(&[
                "n/beta:0",
                "n/gamma:0",
                "n/moving_mean:0",
                "n/moving_variance:0"
            ]),
            [
                "n/gamma:0",
                "n/beta:0",
                "n/moving_mean:0",
                "n/moving_variance:0"
            ]
        );
        assert_eq!(sorted(&["d/bias", "d/kernel"]), ["d/kernel", "d/bias"]);
        assert_eq!(
            sorted(&[
                "a/key/bias",
                "a/key/kernel",
                "a/query/kernel",
                "a/query/bias"
            ]),
            [
                "a/query/kernel",
                "a/query/bias",
                "a/key/kernel",
                "a/key/bias"
            ]
        );
        assert_eq!(
            sorted(&[
                "b/backward_l/c/bias",
                "b/backward_l/c/kernel",
                "b/forward_l/c/kernel"
            ]),
            [
                "b/forward_l/c/kernel",
                "b/backward_l/c/kernel",
                "b/backward_l/c/bias"
            ]
        );
        // What is not kept is in front of what is, through all parts.
        assert_eq!(
            sorted(&["m/bn/moving_mean", "m/bn/gamma", "m/d/kernel"]),
            ["m/bn/gamma", "m/d/kernel", "m/bn/moving_mean"]
        );
        assert_eq!(sorted(&["x/zeta", "x/kernel"]), ["x/zeta", "x/kernel"]);
    }
}
