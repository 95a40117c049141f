//! `WB-PKL-…`: the globals a pickle names and what it does with them.

use weighbridge_core::Result;

use crate::engine::Check;
use crate::finding::{Findings, Global};
use crate::globals::{Catalogue, Standing};
use crate::subject::{ComputedCall, GlobalUse, PickleTrace, Subject, Use};

/// Judges every global of every pickle by the profiles, everything outside them being denied.
#[derive(Debug)]
pub struct PickleGlobals;

impl Check for PickleGlobals {
    fn rules(&self) -> &'static [&'static str] {
        &[
            "WB-PKL-001",
            "WB-PKL-002",
            "WB-PKL-003",
            "WB-PKL-004",
            "WB-PKL-005",
            "WB-PKL-006",
            "WB-PKL-007",
            "WB-PKL-008",
        ]
    }

    fn run(&self, subject: &Subject<'_>, out: &mut Findings) -> Result<()> {
        let catalogue = out.catalogue()?;
        for p in &subject.pickles {
            for g in &p.globals {
                judge(catalogue, p, g, out)?;
            }
            for c in &p.computed {
                judge_computed(catalogue, p, c, out)?;
            }
        }
        Ok(())
    }
}

fn judge(
    catalogue: &Catalogue,
    pickle: &PickleTrace,
    global: &GlobalUse,
    out: &mut Findings,
) -> Result<()> {
    let offset = Some(pickle.offset(global.offset));
    let (Some(module), Some(name)) = (&global.module, &global.name) else {
        return out.add(
            "WB-PKL-006",
            &pickle.place,
            offset,
            "imports a name that the stream does not spell out",
            global.args.as_str(),
        );
    };
    let full = format!("{module}.{name}");
    if global.how == Use::Change {
        let message = format!("sets state on {full}, which it imported");
        let known = Global::of(module, name, global.how);
        return out.add_global("WB-PKL-008", &pickle.place, offset, known, message, &full);
    }
    if pickle.torchscript && is_torchscript_class(module) {
        return Ok(());
    }
    let standing = catalogue.judge(module, name, global.how);
    let (rule, message) = match (standing, global.how) {
        (Standing::Allowed, _) => return Ok(()),
        (Standing::CodeObject, _) => ("WB-PKL-005", format!("builds code with {full}")),
        (Standing::Dangerous { through, why }, Use::Import) if pickle.broken => {
            let tail = "and the stream breaks before it is seen for what";
            (
                "WB-PKL-001",
                format!("imports {full}; {through} can {why}, {tail}"),
            )
        }
        (_, Use::Import) => ("WB-PKL-004", format!("imports {full}")),
        (Standing::Dangerous { through, why }, _) if through == full => {
            ("WB-PKL-001", format!("calls {full}, which can {why}"))
        }
        (Standing::Dangerous { through, why }, _) => {
            ("WB-PKL-001", format!("calls {full}; {through} can {why}"))
        }
        (Standing::Stdlib, _) | (Standing::Installed, Use::Call) => (
            "WB-PKL-002",
            format!("calls {full}, which no profile allows"),
        ),
        (Standing::Main, _) => (
            "WB-PKL-003",
            format!("builds {full}, a class of the program"),
        ),
        (Standing::Installed | Standing::Unknown, _) => {
            ("WB-PKL-003", format!("builds {full}, an unknown class"))
        }
    };
    let evidence = match global.how {
        Use::Import | Use::Change => full,
        Use::Call | Use::Construct => format!("{full}({})", global.args),
    };
    // What an advisory describes is cited where the danger is what is told of.
    let advisory = match rule {
        "WB-PKL-001" | "WB-PKL-004" => catalogue.advisory(module, name),
        _ => None,
    };
    let known = Global::of(module, name, global.how);
    out.add_citing(
        advisory,
        rule,
        &pickle.place,
        offset,
        known,
        message,
        evidence,
    )
}

fn judge_computed(
    catalogue: &Catalogue,
    pickle: &PickleTrace,
    call: &ComputedCall,
    out: &mut Findings,
) -> Result<()> {
    let offset = Some(pickle.offset(call.offset));
    let makes_type = call
        .root
        .as_ref()
        .is_some_and(|(m, n)| call.direct && catalogue.gives_type(m, n));
    let (rule, message) = match call.how {
        Use::Construct => (
            "WB-PKL-003",
            "builds an instance of a class made while loading",
        ),
        _ if makes_type => ("WB-PKL-005", "builds code with a type made while loading"),
        _ => ("WB-PKL-007", "calls what an earlier call gave"),
    };
    out.add(rule, &pickle.place, offset, message, call.text.as_str())
}

/// Classes that the archive's own `code/` defines: the TorchScript reader resolves them there and
/// nowhere else (torch/csrc/jit/serialization/import.cpp).
fn is_torchscript_class(module: &str) -> bool {
    module == "__torch__" || module.starts_with("__torch__.")
}

#[cfg(test)]
mod tests {
    use weighbridge_core::source::SliceSource;

    use super::*;
    use crate::finding::{Finding, Severity};
    use crate::rule::Rules;

    fn scan(torchscript: bool, module: &str, name: &str, how: Use) -> Vec<Finding> {
        let source = SliceSource::new(Vec::new(), "x");
        let mut subject = Subject::new("x", &source);
        subject.pickles.push(PickleTrace {
            torchscript,
            globals: vec![GlobalUse {
                module: Some(module.into()),
                name: Some(name.into()),
                offset: 2,
                how,
                args: "…".into(),
            }],
            ..PickleTrace::default()
        });
        let mut out = Findings::new(Rules::builtin().unwrap());
        PickleGlobals.run(&subject, &mut out).unwrap();
        out.into_sorted().0
    }

    fn rule(module: &str, name: &str, how: Use) -> Option<String> {
        scan(false, module, name, how).pop().map(|f| f.rule)
    }

    #[test]
    fn what_weight_files_use_gives_nothing() {
        for (module, name, how) in [
            ("torch._utils", "_rebuild_tensor_v2", Use::Call),
            ("collections", "OrderedDict", Use::Call),
            ("torch", "FloatStorage", Use::Import),
            ("torch", "float32", Use::Import),
            ("__builtin__", "set", Use::Call),
            ("copy_reg", "_reconstructor", Use::Call),
            ("numpy.core.multiarray", "_reconstruct", Use::Call),
            ("numpy._core.multiarray", "scalar", Use::Call),
            ("torch.nn.modules.linear", "Linear", Use::Construct),
            ("torch.nn.functional", "relu", Use::Import),
            ("argparse", "Namespace", Use::Construct),
            (
                "pytorch_lightning.utilities.parsing",
                "AttributeDict",
                Use::Call,
            ),
            (
                "torch.distributed.checkpoint.metadata",
                "_MEM_FORMAT_ENCODING",
                Use::Call,
            ),
        ] {
            assert_eq!(rule(module, name, how), None, "{module}.{name}");
        }
    }

    #[test]
    fn calls_outside_the_profiles_are_malicious() {
        for (module, name, expected) in [
            ("posix", "getcwd", "WB-PKL-001"),
            ("nt", "system", "WB-PKL-001"),
            ("os", "system", "WB-PKL-001"),
            ("__builtin__", "eval", "WB-PKL-001"),
            ("builtins", "getattr", "WB-PKL-001"),
            ("commands", "getoutput", "WB-PKL-001"),
            ("torch.hub", "load", "WB-PKL-001"),
            ("pip", "main", "WB-PKL-001"),
            ("pip._internal", "main", "WB-PKL-001"),
            ("numpy.f2py.crackfortran", "getlincoef", "WB-PKL-001"),
            (
                "asyncio.unix_events",
                "_UnixSubprocessTransport._start",
                "WB-PKL-001",
            ),
            ("cProfile", "run", "WB-PKL-001"),
            ("json", "loads", "WB-PKL-002"),
            ("xml.sax", "parse", "WB-PKL-002"),
            ("sklearn.utils", "murmurhash3_32", "WB-PKL-002"),
        ] {
            let f = scan(false, module, name, Use::Call);
            assert_eq!(f.len(), 1, "{module}.{name}");
            assert_eq!(f[0].rule, expected, "{module}.{name}");
            assert_eq!(f[0].severity, Severity::Malicious);
            assert_eq!(f[0].offset, Some(2));
        }
    }

    #[test]
    fn imports_and_unknown_classes_are_suspicious() {
        for (module, name, how, expected) in [
            ("posix", "system", Use::Import, "WB-PKL-004"),
            ("mymodel", "Net", Use::Import, "WB-PKL-004"),
            ("__main__", "Net", Use::Construct, "WB-PKL-003"),
            ("__main__", "make", Use::Call, "WB-PKL-003"),
            ("mymodel", "Net", Use::Construct, "WB-PKL-003"),
            ("sklearn.svm", "NoSuch", Use::Construct, "WB-PKL-003"),
            ("types", "CodeType", Use::Call, "WB-PKL-005"),
            ("dill._dill", "_create_function", Use::Call, "WB-PKL-005"),
        ] {
            let f = scan(false, module, name, how);
            assert_eq!(f.len(), 1, "{module}.{name}");
            assert_eq!(f[0].rule, expected, "{module}.{name}");
            assert_eq!(f[0].severity, Severity::Suspicious);
        }
    }

    #[test]
    fn a_dangerous_module_reached_through_an_attribute_is_still_dangerous() {
        assert_eq!(
            rule("torch.serialization", "os.system", Use::Call).as_deref(),
            Some("WB-PKL-001")
        );
        assert_eq!(
            rule("thirdparty", "subprocess.Popen", Use::Call).as_deref(),
            Some("WB-PKL-001")
        );
        for name in [
            "builtins.eval",
            "x.torch.load",
            "C.__class__.__base__.__subclasses__",
        ] {
            let found = rule("thirdparty", name, Use::Call);
            assert_eq!(found.as_deref(), Some("WB-PKL-001"), "{name}");
        }
        for name in ["builtins.dict", "Net.load", "Net.__init__"] {
            let found = rule("thirdparty", name, Use::Call);
            assert_eq!(found.as_deref(), Some("WB-PKL-003"), "{name}");
        }
        assert_eq!(
            rule("collections", "OrderedDict.fromkeys", Use::Call).as_deref(),
            Some("WB-PKL-002")
        );
    }

    #[test]
    fn a_type_made_while_loading_builds_code_and_what_it_builds_is_called() {
        let source = SliceSource::new(Vec::new(), "x");
        let rule = |direct| {
            let mut subject = Subject::new("x", &source);
            subject.pickles.push(PickleTrace {
                computed: vec![ComputedCall {
                    offset: 0,
                    how: Use::Call,
                    root: Some(("dill._dill".into(), "_load_type".into())),
                    direct,
                    text: "…".into(),
                }],
                ..PickleTrace::default()
            });
            let mut out = Findings::new(Rules::builtin().unwrap());
            PickleGlobals.run(&subject, &mut out).unwrap();
            out.into_sorted().0[0].rule.clone()
        };
        assert_eq!(rule(true), "WB-PKL-005");
        assert_eq!(rule(false), "WB-PKL-007");
    }

    #[test]
    fn a_danger_with_an_advisory_cites_it() {
        let cited = |module, name| scan(false, module, name, Use::Call)[0].reference.clone();
        assert_eq!(cited("pty", "spawn"), "GHSA-vqmv-47xg-9wpr");
        assert_eq!(
            cited("numpy.f2py.crackfortran", "getlincoef"),
            "GHSA-r8g5-cgf2-4m4m"
        );
        assert_eq!(cited("operator", "attrgetter"), "GHSA-46h3-79wf-xr6c");
        assert_eq!(cited("commands", "getoutput"), cited("os", "system"));
        assert!(cited("os", "system").starts_with("https://"));
    }

    #[test]
    fn what_may_be_built_may_not_be_called() {
        let class = ("sklearn.linear_model._base", "LinearRegression");
        assert_eq!(rule(class.0, class.1, Use::Construct), None);
        assert_eq!(rule(class.0, class.1, Use::Import), None);
        assert_eq!(
            rule(class.0, class.1, Use::Call).as_deref(),
            Some("WB-PKL-002")
        );
    }

    #[test]
    fn attributes_of_what_is_allowed_may_be_imported_and_not_called() {
        assert_eq!(
            rule("collections", "OrderedDict.fromkeys", Use::Import),
            None
        );
        for name in [
            "OrderedDict.__init__",
            "OrderedDict.func_globals",
            "OrderedDict.sys.path",
        ] {
            let found = rule("collections", name, Use::Import);
            assert_eq!(found.as_deref(), Some("WB-PKL-004"), "{name}");
        }
        assert_eq!(rule("zoneinfo", "ZoneInfo._unpickle", Use::Call), None);
    }

    #[test]
    fn a_name_allowed_for_reference_only_may_not_be_called() {
        assert_eq!(
            rule("torch", "float32", Use::Call).as_deref(),
            Some("WB-PKL-002")
        );
    }

    #[test]
    fn a_dangerous_import_in_a_broken_stream_counts_as_its_use() {
        let source = SliceSource::new(Vec::new(), "x");
        let rule = |broken| {
            let mut subject = Subject::new("x", &source);
            subject.pickles.push(PickleTrace {
                globals: vec![GlobalUse {
                    module: Some("builtins".into()),
                    name: Some("exec".into()),
                    offset: 0,
                    how: Use::Import,
                    args: String::new(),
                }],
                broken,
                ..PickleTrace::default()
            });
            let mut out = Findings::new(Rules::builtin().unwrap());
            PickleGlobals.run(&subject, &mut out).unwrap();
            out.into_sorted().0[0].rule.clone()
        };
        assert_eq!(rule(true), "WB-PKL-001");
        assert_eq!(rule(false), "WB-PKL-004");
    }

    #[test]
    fn torchscript_classes_are_fine_in_torchscript_only() {
        let class = "__torch__.torch.nn.modules.linear";
        assert!(scan(true, class, "Linear", Use::Construct).is_empty());
        assert_eq!(
            rule(class, "Linear", Use::Construct).as_deref(),
            Some("WB-PKL-003")
        );
        assert_eq!(scan(true, "__torch__x", "y", Use::Call).len(), 1);
    }

    #[test]
    fn a_computed_name_is_malicious() {
        let source = SliceSource::new(Vec::new(), "x");
        let mut subject = Subject::new("x", &source);
        subject.pickles.push(PickleTrace {
            globals: vec![GlobalUse {
                module: None,
                name: Some("system".into()),
                offset: 0,
                how: Use::Call,
                args: String::new(),
            }],
            ..PickleTrace::default()
        });
        let mut out = Findings::new(Rules::builtin().unwrap());
        PickleGlobals.run(&subject, &mut out).unwrap();
        assert_eq!(out.into_sorted().0[0].rule, "WB-PKL-006");
    }
}
