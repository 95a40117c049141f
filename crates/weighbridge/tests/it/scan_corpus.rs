//! The scanner over the whole corpus of clean and hostile files, held against its index.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use weighbridge::scan::{ScanOptions, scan};
use weighbridge_scan::Verdict;

/// One row: the path, what it is, and how it was made.
struct Row {
    path: String,
    expected: String,
    technique: String,
}

fn rows(corpus: &Path) -> Vec<Row> {
    let text = std::fs::read_to_string(corpus.join("index.tsv")).unwrap();
    text.lines()
        .skip(1)
        .map(|line| {
            let mut fields = line.split('\t').map(str::to_owned);
            let mut next = || fields.next().unwrap_or_default();
            Row {
                path: next(),
                expected: next(),
                technique: next(),
            }
        })
        .filter(|r| r.technique != "companion file")
        .collect()
}

fn is_right(row: &Row, got: Verdict) -> bool {
    match row.expected.as_str() {
        "malicious" => got == Verdict::Malicious,
        "suspicious" => got >= Verdict::Suspicious,
        "malformed" => got != Verdict::Clean,
        "clean" => got == Verdict::Clean,
        other => panic!("the index says {other}"),
    }
}

/// The least share of right answers, in percent.
fn wanted(expected: &str) -> usize {
    match expected {
        "malformed" => 100,
        "suspicious" => 95,
        _ => 99,
    }
}

#[test]
fn every_row_of_the_corpus_is_judged_as_its_index_says() {
    let Some(corpus) = std::env::var_os("WEIGHBRIDGE_CORPUS").map(PathBuf::from) else {
        println!("skipped: WEIGHBRIDGE_CORPUS is not set");
        return;
    };
    let corpus = corpus.join("scan");
    let rows = rows(&corpus);
    assert!(rows.len() > 300, "{} rows", rows.len());
    let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut wrong = Vec::new();
    for row in &rows {
        let path = corpus.join(&row.path);
        let report = scan(&[path], &ScanOptions::default(), &mut |_| {}).unwrap();
        let got = report.verdict();
        let count = counts.entry(&row.expected).or_default();
        count.0 += 1;
        if is_right(row, got) {
            count.1 += 1;
        } else {
            wrong.push(format!(
                "{} is {}, judged {}: {}",
                row.path,
                row.expected,
                got.as_str(),
                row.technique
            ));
        }
    }
    println!("{counts:?}\n{}", wrong.join("\n"));
    for (expected, (all, right)) in counts {
        assert!(
            right * 100 >= all * wanted(expected),
            "{right} of {all} {expected} rows:\n{}",
            wrong.join("\n")
        );
    }
}
