//! The state of an optimizer: which variable of which weight each of its numbered values is
//! (`keras/src/optimizers`, Keras 3).

use serde_json::Value as Json;
use weighbridge_core::model::Shape;

use super::labels::Stored;

/// The names of an optimizer's values, by their order, where every one of them is known: as many
/// as there are, each of the shape of its weight. `trained` are the weights in the order in which
/// they are trained.
///
/// Of an optimizer whose values are not all known, those that every optimizer begins with are
/// named.
pub(super) fn names(
    optimizer: &Json,
    stored: &[Stored],
    trained: Option<&[(String, Shape)]>,
) -> Vec<Option<String>> {
    let nothing = || vec![None; stored.len()];
    let numbered = stored.iter().enumerate().all(|(i, s)| s.number == i as u64);
    let class = optimizer.get("class_name").and_then(Json::as_str);
    let (Some(class), Some(config), true) = (class, optimizer.get("config"), numbered) else {
        return nothing();
    };
    let module = optimizer.get("module").and_then(Json::as_str);
    if module.is_some_and(|m| m != "keras" && !m.starts_with("keras.")) {
        return nothing();
    }
    let Some(own) = config.get("name").and_then(Json::as_str) else {
        return nothing();
    };
    let mut all: Vec<(String, Option<&Shape>)> = vec![(format!("{own}/iteration"), None)];
    // A schedule is computed and keeps no value.
    if config.get("learning_rate").is_some_and(Json::is_number) {
        all.push((format!("{own}/learning_rate"), None));
    }
    let first = all.len();
    if let (Some(trained), Some((each, after))) = (trained, slots(class, config)) {
        let value = |(path, shape): &'_ (String, Shape), slot: &str| {
            let path = path.replace('/', "_");
            (format!("{own}/{path}_{slot}"), shape.clone())
        };
        let mut named: Vec<(String, Shape)> = Vec::new();
        let mut common = Vec::new();
        if config.get("use_ema").and_then(Json::as_bool) == Some(true) {
            common.push("average");
        }
        if config
            .get("gradient_accumulation_steps")
            .is_some_and(|v| !v.is_null())
        {
            common.push("gradient_accumulator");
        }
        for slot in common {
            named.extend(trained.iter().map(|v| value(v, slot)));
        }
        for v in trained {
            named.extend(each.iter().map(|slot| value(v, slot)));
        }
        for slot in after {
            named.extend(trained.iter().map(|v| value(v, slot)));
        }
        let rest = stored.get(first..).unwrap_or_default();
        let same = rest.len() == named.len()
            && rest
                .iter()
                .zip(&named)
                .all(|(s, (_, shape))| s.shape == *shape);
        if same {
            let names = all.into_iter().map(|(n, _)| n);
            return names
                .chain(named.into_iter().map(|(n, _)| n))
                .map(Some)
                .collect();
        }
    }
    let scalar = |s: &Stored| s.shape.is_empty();
    let mut out = nothing();
    for ((slot, s), (name, _)) in out.iter_mut().zip(stored).zip(all) {
        if !scalar(s) {
            break;
        }
        *slot = Some(name);
    }
    out
}

/// What an optimizer keeps of each weight, weight by weight, and what it keeps of all weights
/// behind that.
fn slots(class: &str, config: &Json) -> Option<(Vec<&'static str>, Vec<&'static str>)> {
    let on = |key: &str| config.get(key).and_then(Json::as_bool) == Some(true);
    let positive = |key: &str| {
        config
            .get(key)
            .and_then(Json::as_f64)
            .is_some_and(|x| x > 0.0)
    };
    let each = |names: &[&'static str]| Some((names.to_vec(), Vec::new()));
    match class {
        "SGD" if positive("momentum") => each(&["momentum"]),
        "SGD" => each(&[]),
        "Adam" | "AdamW" if on("amsgrad") => {
            Some((vec!["momentum", "velocity"], vec!["velocity_hat"]))
        }
        "Adam" | "AdamW" | "Lamb" => each(&["momentum", "velocity"]),
        "RMSprop" if !positive("momentum") && !on("centered") => each(&["velocity"]),
        "Adagrad" => each(&["accumulator"]),
        "Adadelta" => each(&["accumulated_grad", "accumulated_delta_var"]),
        "Adamax" => each(&["momentum", "norm"]),
        "Ftrl" => each(&["accumulator", "linear"]),
        "Lion" => each(&["momentum"]),
        _ => None,
    }
}
