//! `WB-POL-…`: the globals that the user's own policy forbids.

use serde_json::Value;
use weighbridge_core::Result;

use super::{config_hooks, keras_config, markup};
use crate::engine::Check;
use crate::finding::{Findings, Global};
use crate::leaves;
use crate::subject::{Config, GlobalUse, Subject, Use};

/// Longest dotted name that is held against a policy. No real one comes near; a longer one is
/// denied, so that padding it with attributes leads past no entry.
const MOST_BYTES: usize = 4096;

/// Most attributes that a name walks, likewise.
const MOST_STEPS: usize = 16;

/// Reports what a policy denies, allowed by a profile or not.
#[derive(Debug)]
pub struct Denied;

impl Check for Denied {
    fn rules(&self) -> &'static [&'static str] {
        &["WB-POL-001"]
    }

    fn run(&self, subject: &Subject<'_>, out: &mut Findings) -> Result<()> {
        if !out.policy().is_some_and(|p| p.denies_something()) {
            return Ok(());
        }
        for p in &subject.pickles {
            for g in &p.globals {
                judge(&p.place, Some(p.offset(g.offset)), g, out)?;
            }
        }
        for c in &subject.configs {
            configuration(c, out)?;
        }
        Ok(())
    }
}

/// The globals that a configuration makes a loader look up: tags of YAML, objects of Keras,
/// targets of Hydra.
fn configuration(c: &Config, out: &mut Findings) -> Result<()> {
    let global = |module: &str, name: &str, how| GlobalUse {
        module: Some(module.to_owned()),
        name: Some(name.to_owned()),
        offset: 0,
        how,
        args: String::new(),
    };
    for (tag, at) in &c.tags {
        if let Some((module, name, how)) = markup::named(tag) {
            judge(&c.place, Some(*at), &global(module, name, how), out)?;
        }
    }
    let mut result = Ok(());
    leaves::nodes(&c.value, &mut |_, key, value| {
        let found = match value {
            Value::Object(o) => {
                let object = keras_config::imported(o);
                object.map(|(m, n, is_function)| global(m, n, keras_config::used(is_function)))
            }
            Value::String(name) if matches!(key, "_target_" | "__target__") => {
                config_hooks::target(name).map(|(m, n)| global(m, n, Use::Call))
            }
            _ => None,
        };
        if let Some(g) = found.filter(|_| result.is_ok()) {
            result = judge(&c.place, None, &g, out);
        }
        result.is_ok()
    });
    result
}

fn judge(place: &str, offset: Option<u64>, g: &GlobalUse, out: &mut Findings) -> Result<()> {
    let (Some(policy), Some(module), Some(name)) = (out.policy(), &g.module, &g.name) else {
        return Ok(());
    };
    let full = format!("{module}.{name}");
    let walked = name.match_indices('.').count();
    let reason = if full.len() > MOST_BYTES || walked > MOST_STEPS {
        Some("no entry can be held against a name of this length")
    } else {
        // Under its own name, under the one Python 3 knows it by, and, because a name with points
        // walks attributes, under what every step of it leads to.
        let canonical = out.catalogue()?.canonical(module, name);
        let steps = name.split('.').collect::<Vec<_>>();
        let tails = (0..walked).filter_map(|n| Some(steps.get(n..)?.join(".")));
        [full.clone(), canonical]
            .into_iter()
            .chain(tails)
            .find_map(|n| policy.denies(&n, g.how))
    };
    let Some(reason) = reason else {
        return Ok(());
    };
    let does = match g.how {
        Use::Import => "imports",
        Use::Construct => "builds",
        Use::Call => "calls",
        Use::Change => "changes",
    };
    let evidence = match g.how {
        Use::Import | Use::Change => full.clone(),
        Use::Call | Use::Construct => format!("{full}({})", g.args),
    };
    let message = format!("{does} {full}, which the policy denies: {reason}");
    let global = Global::of(module, name, g.how);
    out.add_global("WB-POL-001", place, offset, global, message, evidence)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use weighbridge_core::source::SliceSource;

    use super::*;
    use crate::policy::{Date, Policy};
    use crate::rule::Rules;
    use crate::subject::PickleTrace;

    fn found(policy: &str, module: &str, name: &str, how: Use) -> Vec<String> {
        let today = Date::new(2026, 1, 1).unwrap();
        let policy = Policy::parse(policy, "p.toml", Path::new("/"), today).unwrap();
        let source = SliceSource::new(Vec::new(), "x");
        let mut subject = Subject::new("x", &source);
        subject.pickles.push(PickleTrace {
            globals: vec![GlobalUse {
                module: Some(module.into()),
                name: Some(name.into()),
                offset: 2,
                how,
                args: "1".into(),
            }],
            ..PickleTrace::default()
        });
        let mut out = Findings::judged_by(Rules::builtin().unwrap(), None, Some(&policy));
        Denied.run(&subject, &mut out).unwrap();
        out.into_sorted().0.into_iter().map(|f| f.message).collect()
    }

    #[test]
    fn what_a_profile_allows_can_be_denied() {
        let policy = "[[deny]]\nglobals = ['collections.OrderedDict']\nreason = 'plain dicts only'";
        assert_eq!(
            found(policy, "collections", "OrderedDict", Use::Call),
            ["calls collections.OrderedDict, which the policy denies: plain dicts only"]
        );
        assert!(found(policy, "collections", "Counter", Use::Call).is_empty());
        assert!(found("", "collections", "OrderedDict", Use::Call).is_empty());
    }

    #[test]
    fn what_a_configuration_names_can_be_denied() {
        let today = Date::new(2026, 1, 1).unwrap();
        let text = "[[deny]]\nglobals = ['keras.layers.Dense', 'torch.optim.AdamW', 'collections.*']\n\
                    reason = 'no'";
        let policy = Policy::parse(text, "p.toml", Path::new("/"), today).unwrap();
        let source = SliceSource::new(Vec::new(), "x");
        let mut subject = Subject::new("x", &source);
        subject.configs.push(Config {
            value: serde_json::json!({
                "layers": [{"module": "keras.layers", "class_name": "Dense", "config": {}}],
                "optim": {"_target_": "torch.optim.AdamW"}}),
            tags: vec![(
                "tag:yaml.org,2002:python/object/apply:collections.OrderedDict".into(),
                5,
            )],
            ..Config::default()
        });
        let mut out = Findings::judged_by(Rules::builtin().unwrap(), None, Some(&policy));
        Denied.run(&subject, &mut out).unwrap();
        let found = out.into_sorted().0;
        assert_eq!(found.len(), 3);
        assert!(found.iter().all(|f| f.global.is_some()));
    }

    #[test]
    fn other_spellings_and_attribute_walks_are_denied_too() {
        let policy = "[[deny]]\nglobals = ['builtins.*', 'os.**']\nreason = 'no'";
        for (module, name) in [
            ("builtins", "getattr"),
            ("__builtin__", "getattr"),
            ("torch.serialization", "os.system"),
            ("a", "b.os.path.join"),
            ("os.path", "join"),
        ] {
            assert_eq!(
                found(policy, module, name, Use::Import).len(),
                1,
                "{module} {name}"
            );
        }
        assert!(found(policy, "oss", "system", Use::Import).is_empty());
        let padded = format!("{}os.system", "__class__.".repeat(600));
        assert_eq!(found(policy, "torch", &padded, Use::Import).len(), 1);
    }
}
