//! `WB-CFG-007`: addresses that no model has a reason to name.

use weighbridge_core::Result;

use super::config_hooks::{Lists, lists};
use crate::engine::Check;
use crate::finding::Findings;
use crate::leaves;
use crate::subject::{Subject, TextOrigin};

/// Judges the addresses in configurations and metadata.
#[derive(Debug)]
pub struct ConfigUrls;

impl Check for ConfigUrls {
    fn rules(&self) -> &'static [&'static str] {
        &["WB-CFG-007"]
    }

    fn run(&self, subject: &Subject<'_>, out: &mut Findings) -> Result<()> {
        let lists = lists()?;
        for t in &subject.texts {
            if matches!(t.origin, TextOrigin::Pickle) {
                continue;
            }
            if let Ok(text) = std::str::from_utf8(&t.bytes)
                && let Some((why, url)) = judge(lists, &t.key, text)
            {
                let message = format!("`{}` names {why}", t.key);
                out.add("WB-CFG-007", &t.place, t.base, message, url)?;
            }
        }
        for c in &subject.configs {
            let mut result = Ok(());
            leaves::strings(&c.value, &mut |leaf| {
                if result.is_ok()
                    && let Some((why, url)) = judge(lists, leaf.key, leaf.text)
                {
                    let message = format!("`{}` names {why}", leaf.path);
                    result = out.add("WB-CFG-007", &c.place, None, message, url);
                }
            });
            result?;
        }
        Ok(())
    }
}

/// Most addresses of one text that are looked at.
const ADDRESSES: usize = 200;

/// Longest address.
const LONGEST: usize = 2048;

fn judge<'t>(lists: &Lists, key: &str, text: &'t str) -> Option<(&'static str, &'t str)> {
    let mut from = 0;
    for _ in 0..ADDRESSES {
        let at = from + text.get(from..)?.find("://")?;
        let scheme_len = text
            .get(from..at)?
            .bytes()
            .rev()
            .take(10)
            .take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
            .count();
        let start = at - scheme_len;
        let rest = text.get(start..)?;
        let end = rest
            .char_indices()
            .find(|(i, c)| {
                *i >= LONGEST
                    || c.is_whitespace()
                    || matches!(c, '"' | '\'' | '<' | '>' | '`' | '|' | '\\')
            })
            .map_or(rest.len(), |(i, _)| i);
        let url = rest.get(..end)?;
        if let Some(why) = one(lists, key, url, url.len() == text.trim().len()) {
            return Some((why, url));
        }
        from = start + end.max(scheme_len + 3);
    }
    None
}

/// Words of keys that say where data goes to or programs come from.
const SENDS: [&str; 23] = [
    "callback",
    "webhook",
    "exfil",
    "c2",
    "beacon",
    "payload",
    "dropper",
    "backdoor",
    "command_server",
    "report_to",
    "report_url",
    "collect",
    "exec",
    "remote_code",
    "remote_script",
    "phone_home",
    "upload_url",
    "post_url",
    "leak",
    "steal",
    "stage2",
    "implant",
    "reverse_shell",
];

/// Words of hosts and paths that say it themselves.
const WORDS: [&str; 16] = [
    "attacker",
    "evil",
    "exfil",
    "malicious",
    "malware",
    "backdoor",
    "botnet",
    "c2",
    "payload",
    "hacker",
    "phish",
    "ransom",
    "keylog",
    "stealer",
    "reverse-shell",
    "revshell",
];

/// Ends of paths of programs.
const PROGRAMS: [&str; 20] = [
    ".sh", ".exe", ".ps1", ".bat", ".cmd", ".dll", ".so", ".msi", ".vbs", ".hta", ".scr", ".jar",
    ".elf", ".dylib", ".apk", ".pkl", ".pickle", ".py", ".js", ".bin.sh",
];

fn one(lists: &Lists, key: &str, url: &str, whole: bool) -> Option<&'static str> {
    let (scheme, rest) = url.split_once("://")?;
    if !matches!(
        scheme.to_ascii_lowercase().as_str(),
        "http"
            | "https"
            | "ftp"
            | "ftps"
            | "tftp"
            | "ws"
            | "wss"
            | "tcp"
            | "udp"
            | "ldap"
            | "rmi"
            | "hxxp"
            | "hxxps"
    ) {
        return None;
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end)?;
    let host = authority.rsplit('@').next()?;
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next()?,
        None => host.split(':').next()?,
    };
    let host = host
        .trim_end_matches(['.', ',', ')', ';'])
        .to_ascii_lowercase();
    if host.is_empty() || host.contains(['{', '$', '%']) {
        return None;
    }
    if let Some(public) = address(&host) {
        return public.then_some("a bare IP address");
    }
    if matches!(scheme, "ldap" | "rmi" | "hxxp" | "hxxps" | "tftp") {
        return Some("an address of a kind that attacks use");
    }
    let lower = path.to_ascii_lowercase();
    if host.ends_with(".onion") {
        return Some("a hidden service");
    }
    if beneath(&lists.drops, &host) {
        return Some("a place to leave or receive files without a name");
    }
    if host.ends_with("discord.com")
        || host.ends_with("discordapp.com")
        || host.ends_with("slack.com")
    {
        let hook = lower.contains("/webhooks/") || host.starts_with("hooks.");
        return hook.then_some("a webhook");
    }
    if beneath(&lists.trusted, &host) {
        return None;
    }
    let word = |text: &str| {
        text.split(|c: char| !c.is_ascii_alphanumeric())
            .any(|w| WORDS.contains(&w))
            || WORDS.iter().any(|w| w.len() > 4 && text.contains(w))
    };
    if word(&host) || word(&lower) {
        return Some("an address that says what it is for");
    }
    let key = key.to_ascii_lowercase();
    if whole && SENDS.iter().any(|k| key_has(&key, k)) {
        return Some("where data is sent to or programs come from");
    }
    let program = lower.split(['?', '#']).next().unwrap_or_default();
    if whole && key.ends_with("name_or_path") && scheme != "https" {
        return Some("where a model comes from over an open line");
    }
    let fetches = [
        "download",
        "update",
        "fetch",
        "install",
        "script",
        "loader",
        "remote",
        "bootstrap",
        "init",
    ]
    .iter()
    .any(|k| key.contains(k));
    (whole && fetches && PROGRAMS.iter().any(|p| program.ends_with(p)))
        .then_some("where a program comes from")
}

/// Whether a key has a word: short ones only between separators.
fn key_has(key: &str, word: &str) -> bool {
    if word.len() > 4 {
        return key.contains(word);
    }
    key.split(|c: char| !c.is_ascii_alphanumeric())
        .any(|w| w == word)
}

/// Whether a host is on a list or lies beneath one that is.
fn beneath(list: &std::collections::HashSet<String>, host: &str) -> bool {
    let mut part = host;
    loop {
        if list.contains(part) {
            return true;
        }
        match part.split_once('.') {
            Some((_, rest)) => part = rest,
            None => return false,
        }
    }
}

/// Whether a host that is an IP address is a public one; `None` when it is a name.
fn address(host: &str) -> Option<bool> {
    if let Ok(v6) = host.parse::<std::net::Ipv6Addr>() {
        return Some(
            !v6.is_loopback() && !v6.is_unspecified() && (v6.segments()[0] & 0xfe00) != 0xfc00,
        );
    }
    let v4 = match host.parse::<std::net::Ipv4Addr>() {
        Ok(v4) => v4,
        // One number, as browsers and libraries take it too: decimal or hexadecimal.
        Err(_) => {
            let n = match host.strip_prefix("0x") {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None if host.len() >= 8 => host.parse().ok()?,
                None => return None,
            };
            std::net::Ipv4Addr::from(n)
        }
    };
    let [a, b, ..] = v4.octets();
    let shared = a == 100 && (64..128).contains(&b);
    Some(
        !(v4.is_private()
            || v4.is_loopback()
            || v4.is_unspecified()
            || v4.is_link_local()
            || v4.is_broadcast()
            || v4.is_multicast()
            || shared),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(key: &str, text: &str) -> Option<&'static str> {
        judge(lists().unwrap(), key, text).map(|(why, _)| why)
    }

    #[test]
    fn doubtful_addresses_are_found() {
        for (k, t) in [
            ("url", "http://185.220.101.4:8080/collect"),
            ("a", "see http://45.33.32.156/x for more"),
            ("a", "http://3109445892/x"),
            ("a", "http://0xB9DC6504/x"),
            ("a", "http://[2a01:4f8::1]/x"),
            ("api_endpoint", "http://attacker-c2.evil.com/data"),
            ("remote_url", "http://suspicious-domain.com/exfiltrate"),
            ("webhook_url", "http://collector.acme.io/steal-data"),
            ("callback", "https://collector.acme.io/x"),
            ("c2_server", "https://cdn.acme.io"),
            ("a", "https://pastebin.com/raw/abc"),
            ("a", "https://abc123.ngrok.io/x"),
            ("a", "http://abcdefghijklmnop.onion/"),
            ("a", "https://discord.com/api/webhooks/1/2"),
            ("a", "https://hooks.slack.com/services/T/B/x"),
            ("a", "https://webhook.site/123"),
            ("download_url", "http://files.acme.io/setup.sh"),
            ("a", "ldap://x.acme.io/a"),
        ] {
            assert!(found(k, t).is_some(), "{k} {t}");
        }
    }

    #[test]
    fn ordinary_addresses_are_quiet() {
        for (k, t) in [
            ("url", "https://huggingface.co/a/b/resolve/main/model.bin"),
            ("license", "https://www.apache.org/licenses/LICENSE-2.0"),
            ("a", "https://github.com/x/malicious-url-detector"),
            ("a", "https://arxiv.org/abs/1706.03762"),
            ("ss_tag", "https://example.org/model"),
            ("homepage", "https://my-lab.university.edu/project"),
            ("base_url", "http://localhost:8000/v1"),
            ("tracking_uri", "http://10.0.0.5:5000"),
            ("a", "http://127.0.0.1/x"),
            ("url", "https://dl.fbaipublicfiles.com/x.pt"),
            ("download_url", "https://files.acme.io/model.safetensors"),
            ("a", "://"),
            ("a", "http://"),
            ("a", "https://{host}/x"),
            ("a", "s3://bucket/x"),
            ("exact_match", "1.2.3.4"),
            ("a", "https://medieval.museum.org/x"),
        ] {
            assert_eq!(found(k, t), None, "{k} {t}");
        }
    }
}
