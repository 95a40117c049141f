//! Every rule of the scanner has files that it finds and files that it leaves alone, and its page
//! in the documents is up to date.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use weighbridge::scan::{ScanOptions, scan};
use weighbridge_scan::report::{Report, pages};
use weighbridge_scan::{Catalogue, Policy, RuleMeta, Rules, Settings};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/scan")
}

/// The names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| !n.starts_with('.'))
        .collect();
    names.sort();
    names
}

/// What a rule finds in a fixture: the evidence of each finding of it, and the whole report.
fn evidence(rule: &str, folder: &Path, name: &str) -> (Vec<String>, Report) {
    let policy = folder.join("policy.toml");
    let policy = policy
        .is_file()
        .then(|| Arc::new(Policy::load(&policy).unwrap()));
    let options = ScanOptions {
        settings: Settings {
            policy,
            ..Settings::default()
        },
        ..ScanOptions::default()
    };
    let report = scan(&[folder.join(name)], &options, &mut |_| {}).unwrap();
    let found = report.files.iter().flat_map(|f| &f.findings);
    let of = found.filter(|f| f.rule == rule);
    (of.map(|f| f.evidence.clone()).collect(), report)
}

/// What is wrong with the fixtures of a rule.
fn faults(rule: &RuleMeta) -> Vec<String> {
    let folder = fixtures().join(rule.id);
    if !folder.is_dir() {
        return vec![format!("{}: there is no folder of fixtures", rule.id)];
    }
    let (mut out, mut shown) = (Vec::new(), BTreeSet::new());
    let (mut hits, mut misses) = (0, 0);
    for name in names(&folder) {
        let at = format!("{}/{name}", rule.id);
        if name.starts_with("hit") {
            hits += 1;
            let (found, report) = evidence(rule.id, &folder, &name);
            if found.is_empty() {
                out.push(format!("{at} is not found: {report:#?}"));
            }
            shown.extend(found);
        } else if name.starts_with("miss") {
            misses += 1;
            let (found, _) = evidence(rule.id, &folder, &name);
            if !found.is_empty() {
                out.push(format!("{at} is found: {found:?}"));
            }
        } else if name != "policy.toml" {
            out.push(format!("{at} is neither hit*, miss* nor policy.toml"));
        }
    }
    if hits == 0 || misses == 0 {
        out.push(format!("{}: {hits} hits and {misses} misses", rule.id));
    }
    // What `--explain` shows is what the scanner says.
    if let Some(example) = rule.example
        && !shown.contains(example)
    {
        out.push(format!(
            "{}: the example is {example:?}, the fixtures give {shown:?}",
            rule.id
        ));
    }
    out
}

#[test]
fn every_rule_finds_its_hits_and_leaves_its_misses_alone() {
    let faults: Vec<String> = Rules::builtin().unwrap().iter().flat_map(faults).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_folder_of_fixtures_belongs_to_a_rule() {
    let rules = Rules::builtin().unwrap();
    for name in names(&fixtures()) {
        if fixtures().join(&name).is_dir() {
            assert!(rules.get(&name).is_ok_and(|r| r.id == name), "{name}");
        }
    }
}

#[test]
fn golden_rule_pages_are_up_to_date() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/rules");
    let pages = pages::pages(Rules::builtin().unwrap(), Catalogue::builtin().unwrap());
    if std::env::var_os("WEIGHBRIDGE_BLESS").is_some() {
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        for (name, text) in &pages {
            std::fs::write(folder.join(name), text).unwrap();
        }
    }
    let expected: BTreeSet<String> = pages.iter().map(|p| p.0.clone()).collect();
    let help = "`cargo xtask bless` writes them";
    assert_eq!(
        names(&folder).into_iter().collect::<BTreeSet<_>>(),
        expected,
        "{help}"
    );
    for (name, text) in pages {
        let there = std::fs::read_to_string(folder.join(&name)).unwrap();
        assert!(there == text, "docs/rules/{name} is out of date; {help}");
    }
}
