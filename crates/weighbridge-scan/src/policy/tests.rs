//! Tests of the policy file.

use std::cell::Cell;

use super::*;

fn today() -> Date {
    Date::new(2026, 11, 21).unwrap()
}

fn parse(text: &str) -> Result<Policy> {
    Policy::parse(text, "wb.toml", Path::new("/repo"), today())
}

fn global(module: &str, name: &str, how: Use) -> Global {
    Global {
        module: module.into(),
        name: name.into(),
        how,
    }
}

/// What becomes of a finding, and whether the file had to be hashed for it.
fn ruling(policy: &Policy, rule: &str, g: Option<&Global>, path: &str) -> (Option<Ruling>, bool) {
    let hashed = Cell::new(false);
    let sha256 = || {
        hashed.set(true);
        Some("a".repeat(64))
    };
    let asked = Asked {
        path: Path::new(path),
        sha256: &sha256,
    };
    let r = policy.rule_on(rule, g, &asked);
    (r, hashed.get())
}

fn suppressed(policy: &Policy, rule: &str, g: Option<&Global>, path: &str) -> Option<String> {
    match ruling(policy, rule, g, path).0 {
        Some(Ruling::Suppress(e)) => Some(e.name),
        _ => None,
    }
}

#[test]
fn an_empty_policy_changes_nothing() {
    let p = parse("").unwrap();
    assert_eq!((p.fail_on(), p.allow_incomplete()), (None, None));
    assert!(p.profiles().is_none() && p.expired().is_empty() && !p.denies_something());
    let g = global("os", "system", Use::Call);
    assert_eq!(ruling(&p, "WB-PKL-001", Some(&g), "/x").0, None);
}

#[test]
fn allowed_globals_are_suppressed_for_the_use_that_is_allowed() {
    let p = parse(
        "[[allow]]\nglobals = ['mypkg.models.*']\nreason = 'ours'\n\
         [[allow]]\nglobals = ['other.Thing']\nuse = 'import'\nreason = 'a key'",
    )
    .unwrap();
    let at = |m: &str, n: &str, how| suppressed(&p, "WB-PKL-003", Some(&global(m, n, how)), "/x");
    assert_eq!(
        at("mypkg.models", "Net", Use::Construct).as_deref(),
        Some("allow 1")
    );
    assert!(at("mypkg.models", "Net", Use::Call).is_some());
    assert!(at("mypkg.models", "Net", Use::Import).is_some());
    assert_eq!(at("mypkg.models", "Net", Use::Change), None);
    assert_eq!(at("mypkg.models", "os.system", Use::Call), None);
    assert_eq!(at("mypkg", "Net", Use::Call), None);
    assert_eq!(
        at("other", "Thing", Use::Import).as_deref(),
        Some("allow 2")
    );
    assert_eq!(at("other", "Thing", Use::Call), None);
    // A finding without a global is no matter of globals, and a denial is not allowed away.
    assert_eq!(suppressed(&p, "WB-PKL-007", None, "/x"), None);
    let g = global("mypkg.models", "Net", Use::Call);
    assert_eq!(suppressed(&p, "WB-POL-001", Some(&g), "/x"), None);
}

#[test]
fn the_last_rule_entry_that_fits_decides() {
    let p = parse(
        "[[rule]]\nid = 'WB-PKL-*'\nseverity = 'malicious'\nreason = 'strict'\n\
         [[rule]]\nid = 'wb-pkl-004'\nseverity = 'off'\npaths = ['old/**']\nreason = 'known'",
    )
    .unwrap();
    assert_eq!(
        suppressed(&p, "WB-PKL-004", None, "/repo/old/x.pkl").as_deref(),
        Some("rule 2")
    );
    for (rule, path) in [("WB-PKL-004", "/repo/new/x.pkl"), ("WB-PKL-003", "/x")] {
        let r = ruling(&p, rule, None, path).0;
        assert!(matches!(r, Some(Ruling::Override(Severity::Malicious, _))));
    }
    assert_eq!(ruling(&p, "WB-FMT-002", None, "/x").0, None);
}

#[test]
fn a_file_is_hashed_only_when_everything_else_fits() {
    let text = format!(
        "[[rule]]\nid = 'WB-PKL-004'\nseverity = 'off'\npaths = ['/a/*']\nsha256 = ['{}']\nreason = 'r'",
        "A".repeat(64)
    );
    let p = parse(&text).unwrap();
    let (r, hashed) = ruling(&p, "WB-PKL-004", None, "/a/x");
    assert!(matches!(r, Some(Ruling::Suppress(_))) && hashed);
    assert_eq!(ruling(&p, "WB-PKL-004", None, "/b/x"), (None, false));
    assert_eq!(ruling(&p, "WB-PKL-001", None, "/a/x"), (None, false));
    let other = parse(&text.replace('A', "b")).unwrap();
    assert_eq!(ruling(&other, "WB-PKL-004", None, "/a/x"), (None, true));
}

#[test]
fn what_has_expired_no_longer_applies_and_is_said() {
    let text = "[[allow]]\nglobals = ['m.*']\nreason = 'until we moved'\nexpires = 2026-11-20\n\
                [[rule]]\nid = 'WB-PKL-001'\nseverity = 'off'\nreason = 'x'\nexpires = 2026-01-01\n\
                [[rule]]\nid = 'WB-PKL-003'\nseverity = 'off'\nreason = 'y'\nexpires = 2026-11-21";
    let p = parse(text).unwrap();
    let g = global("m", "N", Use::Call);
    assert_eq!(ruling(&p, "WB-PKL-001", Some(&g), "/x").0, None);
    // Its last day is a day on which it applies; and the entries keep their numbers.
    assert_eq!(
        suppressed(&p, "WB-PKL-003", None, "/x").as_deref(),
        Some("rule 2")
    );
    let said: Vec<&str> = p.expired().iter().map(|e| e.entry.as_str()).collect();
    assert_eq!(said, ["allow 1", "rule 1"]);
    assert_eq!(p.expired()[0].expires, "2026-11-20");
    assert_eq!(p.expired()[0].reason, "until we moved");
}

#[test]
fn denials_speak_of_imports_or_of_calls_only() {
    let p = parse(
        "[[deny]]\nglobals = ['a.*']\nreason = 'never'\n\
         [[deny]]\nglobals = ['b.**']\nuse = 'call'\nreason = 'no calls'",
    )
    .unwrap();
    assert!(p.denies_something());
    assert_eq!(p.denies("a.x", Use::Import), Some("never"));
    assert_eq!(p.denies("a.x", Use::Call), Some("never"));
    assert_eq!(p.denies("b.x.y", Use::Import), None);
    assert_eq!(p.denies("b.x.y", Use::Construct), Some("no calls"));
    assert_eq!(p.denies("c.x", Use::Call), None);
}

#[test]
fn settings_are_read() {
    let p = parse(
        "fail_on = 'malicious'\nallow_incomplete = true\nprofiles = ['torch-weights-only']\n\
         [limits]\npickle_bytes = 1_000\ndepth = 3",
    )
    .unwrap();
    assert_eq!(p.fail_on(), Some(Severity::Malicious));
    assert_eq!(p.allow_incomplete(), Some(true));
    assert_eq!(p.profiles().unwrap(), ["torch-weights-only"]);
    let mut limits = Limits::default();
    let members = limits.members;
    p.limit(&mut limits);
    assert_eq!((limits.pickle_bytes, limits.depth), (1000, 3));
    assert_eq!(limits.members, members);
}

#[test]
fn faults_name_line_and_column_and_what_to_do() {
    for (text, place, says) in [
        ("fail_on = 'never'", "line 1, column 11", "unknown variant"),
        ("fail_on = 'info'", "line 1, column 11", "unknown variant"),
        ("\n\nfailon = 'x'", "line 3, column 1", "unknown field"),
        ("x = [", "line 1, column", ""),
        (
            "[[allow]]\nglobals = ['*']\nreason = 'x'",
            "line 2, column 11",
            "every package",
        ),
        (
            "[[allow]]\nglobals = ['a..b']\nreason = 'x'",
            "line 2, column 11",
            "pattern",
        ),
        ("[[allow]]\nglobals = ['a.b']", "line 1", "`reason`"),
        (
            "[[allow]]\nglobals = ['a.b']\nreason = ' '",
            "line 3, column 10",
            "empty",
        ),
        (
            "[[allow]]\nglobals = ['a.b']\nreason = 'x'\nexpires = 2027-02-30",
            "line 4, column",
            "",
        ),
        (
            "[[allow]]\nglobals = ['a.b']\nreason = 'x'\nexpires = 2027-02-03T10:00:00",
            "line 4, column 11",
            "2027-01-31",
        ),
        (
            "[[rule]]\nid = 'WB-PKL-999'\nseverity = 'off'\nreason = 'x'",
            "line 2, column 6",
            "--list-rules",
        ),
        (
            "[[rule]]\nid = 'WB-PKX-*'\nseverity = 'off'\nreason = 'x'",
            "line 2, column 6",
            "--list-rules",
        ),
        (
            "[[rule]]\nid = 'WB-*'\nseverity = 'of'\nreason = 'x'",
            "line 3, column 12",
            "unknown variant",
        ),
        (
            "[[rule]]\nid = 'WB-PKL-001'\nseverity = 'off'\nsha256 = ['abc']\nreason = 'x'",
            "line 4, column 10",
            "64 hexadecimal",
        ),
        (
            "profiles = ['torch']",
            "line 1, column 12",
            "torch-weights-only",
        ),
        ("[limits]\ndepth = -1", "line 2, column 9", ""),
    ] {
        let e = parse(text).unwrap_err();
        assert_eq!(e.rule(), "policy.syntax", "{text}");
        assert!(e.message().starts_with(place), "{text}\n{e}");
        assert!(e.message().contains(says), "{text}\n{e}");
        assert!(e.advice().is_some(), "{text}");
        assert_eq!(e.file(), Some("wb.toml"));
    }
}
