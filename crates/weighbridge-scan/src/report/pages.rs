//! The rules as Markdown: `docs/rules`, one page a family, from the data that the scanner itself
//! is compiled from.

use std::fmt::Write as _;

use crate::globals::Catalogue;
use crate::rule::{FAMILIES, RuleMeta, Rules};

/// The pages: file name and text.
pub fn pages(rules: &Rules, catalogue: &Catalogue) -> Vec<(String, String)> {
    let mut out = vec![("README.md".to_owned(), index(rules, catalogue))];
    for (family, name, about) in FAMILIES {
        let of: Vec<&RuleMeta> = rules.iter().filter(|r| r.family() == family).collect();
        if !of.is_empty() {
            out.push((format!("{family}.md"), page(name, about, &of)));
        }
    }
    out
}

/// Every page begins with where it comes from.
const MADE: &str = "<!-- Made by `cargo xtask bless` from crates/weighbridge-scan/rules/*.toml; change those. -->\n";

fn index(rules: &Rules, catalogue: &Catalogue) -> String {
    let mut out = format!("{MADE}# The scanner's rules\n\n");
    out.push_str(
        "`weighbridge scan --explain ID` shows the same texts, `--list-rules` this list. \
         Identifiers are stable: policies, baselines and reports name them. `malicious` and \
         `suspicious` findings make the verdict; `info` ones are worth knowing and make none. \
         [The policy file](../policy.md) can turn rules off and change their severity.\n",
    );
    for (family, name, about) in FAMILIES {
        let mut of = rules.iter().filter(|r| r.family() == family).peekable();
        if of.peek().is_none() {
            continue;
        }
        let _ = write!(out, "\n## {name}\n\n{}.\n\n", capital(about));
        out.push_str("| rule | severity | finds |\n|---|---|---|\n");
        for r in of {
            let anchor = r.id.to_ascii_lowercase();
            let (id, severity, title) = (&r.id, r.severity.as_str(), cell(r.title));
            let _ = writeln!(
                out,
                "| [{id}]({family}.md#{anchor}) | {severity} | {title} |"
            );
        }
    }
    out.push_str("\n## Profiles of allowed globals\n\n");
    out.push_str(
        "What a pickle may name without a finding. All are on unless a policy's `profiles` says \
         otherwise.\n\n| profile | covers | taken from |\n|---|---|---|\n",
    );
    for p in catalogue.profiles() {
        let (about, source) = (cell(p.about), cell(p.source));
        let _ = writeln!(out, "| `{}` | {about} | {source} |", p.name);
    }
    out
}

fn page(name: &str, about: &str, rules: &[&RuleMeta]) -> String {
    let mut out = format!("{MADE}# {name}: {about}\n");
    for r in rules {
        let severity = r.severity.as_str();
        let _ = write!(
            out,
            "\n## {}\n\n**{}** · {severity}\n\n{}\n\n**What to do:** {}\n",
            r.id, r.title, r.why, r.advice
        );
        if let Some(example) = &r.example {
            let _ = write!(out, "\nEvidence of a finding:\n\n```\n{example}\n```\n");
        }
        let links: Vec<String> = r
            .links()
            .map(|(r, link)| format!("[{}]({link})", r.trim_start_matches("https://")))
            .collect();
        let _ = write!(out, "\nSee: {}\n", links.join(" · "));
    }
    out
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| {
        c.to_uppercase().collect::<String>() + chars.as_str()
    })
}

/// Text that does not end a table's cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_stands_on_its_page_under_the_anchor_that_reports_link_to() {
        let rules = Rules::builtin().unwrap();
        let pages = pages(rules, Catalogue::builtin().unwrap());
        for r in rules.iter() {
            let address = r.page();
            let file = address.rsplit('/').next().unwrap();
            let (name, anchor) = file.split_once('#').unwrap();
            let text = &pages.iter().find(|p| p.0 == name).unwrap().1;
            let heading = format!("\n## {}\n", anchor.to_ascii_uppercase());
            assert_eq!(text.matches(&heading).count(), 1, "{}", r.id);
            assert!(pages[0].1.contains(&format!("{name}#{anchor}")), "{}", r.id);
        }
    }

    #[test]
    fn cells_stay_cells() {
        assert_eq!(cell("a|b"), "a\\|b");
    }
}
