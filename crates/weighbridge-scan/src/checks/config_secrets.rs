//! `WB-CFG-006`: keys, tokens and passwords that were left, or planted, in a configuration.

use weighbridge_core::Result;

use crate::engine::Check;
use crate::finding::Findings;
use crate::leaves;
use crate::subject::{Subject, TextOrigin};

/// Looks for secrets in configurations and metadata.
#[derive(Debug)]
pub struct ConfigSecrets;

impl Check for ConfigSecrets {
    fn rules(&self) -> &'static [&'static str] {
        &["WB-CFG-006"]
    }

    fn run(&self, subject: &Subject<'_>, out: &mut Findings) -> Result<()> {
        for t in &subject.texts {
            if matches!(t.origin, TextOrigin::Pickle) {
                continue;
            }
            if let Ok(text) = std::str::from_utf8(&t.bytes)
                && let Some(kind) = secret(text).or_else(|| named_secret(&t.key, text))
            {
                let message = format!("`{}` holds {kind}", t.key);
                out.add("WB-CFG-006", &t.place, t.base, message, masked(text))?;
            }
        }
        for c in &subject.configs {
            let mut result = Ok(());
            leaves::strings(&c.value, &mut |leaf| {
                let kind = secret(leaf.text).or_else(|| named_secret(leaf.key, leaf.text));
                if let Some(kind) = kind
                    && result.is_ok()
                {
                    let message = format!("`{}` holds {kind}", leaf.path);
                    result = out.add("WB-CFG-006", &c.place, None, message, masked(leaf.text));
                }
            });
            result?;
        }
        Ok(())
    }
}

/// A report must not spread the secret it found.
fn masked(text: &str) -> String {
    let shown: String = text.chars().take(8).collect();
    format!("{shown}…")
}

/// A prefix by which an issuer marks its keys, the least and most characters after it, and what
/// it is.
struct Pattern {
    prefix: &'static str,
    least: usize,
    most: usize,
    kind: &'static str,
}

const fn pattern(prefix: &'static str, least: usize, most: usize, kind: &'static str) -> Pattern {
    Pattern {
        prefix,
        least,
        most,
        kind,
    }
}

/// As the issuers document them.
const PATTERNS: [Pattern; 24] = [
    pattern("AKIA", 16, 16, "an AWS access key"),
    pattern("ASIA", 16, 16, "an AWS access key"),
    pattern("hf_", 30, 40, "a Hugging Face token"),
    pattern("api_org_", 30, 40, "a Hugging Face token"),
    pattern("ghp_", 36, 40, "a GitHub token"),
    pattern("gho_", 36, 40, "a GitHub token"),
    pattern("ghs_", 36, 40, "a GitHub token"),
    pattern("ghu_", 36, 40, "a GitHub token"),
    pattern("github_pat_", 40, 100, "a GitHub token"),
    pattern("glpat-", 20, 40, "a GitLab token"),
    pattern("sk-ant-", 20, 200, "an API key"),
    pattern("sk-proj-", 20, 200, "an API key"),
    pattern("sk-", 16, 200, "an API key"),
    pattern("sk_live_", 16, 100, "a payment key"),
    pattern("rk_live_", 16, 100, "a payment key"),
    pattern("AIza", 35, 35, "a Google API key"),
    pattern("ya29.", 30, 300, "a Google access token"),
    pattern("xoxb-", 20, 100, "a Slack token"),
    pattern("xoxp-", 20, 100, "a Slack token"),
    pattern("npm_", 36, 36, "an npm token"),
    pattern("pypi-AgE", 40, 250, "a PyPI token"),
    pattern("dop_v1_", 64, 64, "a DigitalOcean token"),
    pattern("SG.", 60, 70, "a SendGrid key"),
    pattern("r8_", 37, 37, "a Replicate token"),
];

/// Longest text that is searched for secrets, in bytes.
const LONGEST: usize = 1 << 20;

/// A secret that its form gives away.
fn secret(text: &str) -> Option<&'static str> {
    if text.len() < 16 || text.len() > LONGEST {
        return None;
    }
    if let Some(at) = text.find("-----BEGIN ")
        && let Some(rest) = text.get(at..)
        && rest.lines().next().is_some_and(|l| l.contains("PRIVATE KEY"))
        // The line alone is documentation.
        && rest.len() > 100
    {
        return Some("a private key");
    }
    let bytes = text.as_bytes();
    let mut start = 0;
    // Words of the characters that keys are made of.
    while start < bytes.len() {
        let rest = bytes.get(start..).unwrap_or_default();
        let len = rest
            .iter()
            .take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
            .count();
        if len >= 16
            && let Some(word) = text.get(start..start + len)
            && let Some(kind) = key_of(word)
        {
            return Some(kind);
        }
        start += len.max(1);
    }
    credentials(text)
}

fn key_of(word: &str) -> Option<&'static str> {
    let hit = PATTERNS.iter().find(|p| {
        word.strip_prefix(p.prefix).is_some_and(|rest| {
            (p.least..=p.most).contains(&rest.len())
                && rest.bytes().any(|b| b.is_ascii_digit())
                && rest
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
                && (p.prefix.len() > 3 || has_no_words(rest))
        })
    });
    if let Some(p) = hit {
        return Some(p.kind);
    }
    // A signed JSON web token: three parts, the first two JSON.
    let mut parts = word.split('.');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(a), Some(b), Some(c), None)
            if a.starts_with("eyJ") && b.starts_with("eyJ") && a.len() > 16 && c.len() > 20 =>
        {
            Some("a signed token")
        }
        _ => None,
    }
}

/// `sk-…` is a short mark: names of things have words and points after it, keys have not.
fn has_no_words(rest: &str) -> bool {
    !rest.contains('.')
        && rest
            .split(['-', '_'])
            .all(|p| p.len() >= 8 || p.bytes().any(|b| b.is_ascii_digit()))
}

/// A password inside an address: `scheme://user:password@host`; a key in a connection string.
fn credentials(text: &str) -> Option<&'static str> {
    for name in ["AccountKey=", "SharedAccessKey="] {
        if let Some((_, rest)) = text.split_once(name)
            && rest
                .split(';')
                .next()
                .is_some_and(|key| key.len() >= 40 && !is_placeholder(key))
        {
            return Some("a key in a connection string");
        }
    }
    let at = text.find("://")?;
    let rest = text.get(at + 3..)?;
    let authority = rest.split(['/', '?', '#', ' ', '"']).next()?;
    let (user, _) = authority.rsplit_once('@')?;
    let (_, password) = user.split_once(':')?;
    (password.len() >= 4 && !is_placeholder(password)).then_some("a password in an address")
}

/// Words of keys whose values are secrets.
const NAMES: [&str; 20] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "api_key",
    "apikey",
    "access_key",
    "secret_key",
    "private_key",
    "auth_token",
    "access_token",
    "bearer_token",
    "api_token",
    "client_secret",
    "hf_token",
    "exfil_key",
    "encryption_key",
    "signing_key",
    "credential",
    "refresh_token",
];

/// A value that its key calls a secret.
fn named_secret(key: &str, value: &str) -> Option<&'static str> {
    let last = snake(key.rsplit('.').next().unwrap_or(key));
    let last = last.trim_end_matches(|c: char| c.is_ascii_digit() || c == '_');
    if !NAMES.iter().any(|n| last.ends_with(n)) {
        return None;
    }
    let value = value.trim();
    // A word is the name of something: only a key that says nothing else makes it a secret.
    let random = value.bytes().any(|b| b.is_ascii_digit()) || NAMES.contains(&last);
    let plain = (6..=4096).contains(&value.len())
        && !value.contains(char::is_whitespace)
        && !value.contains("://")
        && !value.starts_with("arn:");
    (plain && random && !is_placeholder(value)).then_some("a secret by its name")
}

/// `apiKey`, `API-KEY` and `api_key` are one name.
fn snake(key: &str) -> String {
    let mut out = String::with_capacity(key.len() + 4);
    let mut lower = false;
    for c in key.chars().take(100) {
        if c.is_uppercase() && lower {
            out.push('_');
        }
        lower = c.is_lowercase();
        out.extend(if matches!(c, '-' | ' ' | '.') { '_' } else { c }.to_lowercase());
    }
    out
}

fn is_placeholder(value: &str) -> bool {
    let lower = value.to_ascii_lowercase();
    let wrapped = lower.starts_with(['<', '$', '{', '[', '%', '*']);
    let words = [
        "your",
        "xxx",
        "example",
        "placeholder",
        "changeme",
        "change_me",
        "dummy",
        "redacted",
        "none",
        "null",
        "todo",
        "insert",
        "replace",
        "...",
        "***",
        "env:",
        "os.environ",
        "getenv",
        "true",
        "false",
        "default",
        "optional",
        "required",
        "disabled",
        "enabled",
    ];
    wrapped
        || words.iter().any(|w| lower.contains(w))
        || value.chars().all(|c| value.starts_with(c))
        || lower.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        // A special token of a vocabulary.
        || lower.ends_with('>')
}

#[cfg(test)]
mod tests {
    use super::{named_secret, secret};

    #[test]
    fn secrets_are_known_by_their_form() {
        for t in [
            "AKIAIOSFODNN7EXAMPL3",
            "hf_abcdefghijklmnopqrstuvwxyz12345678",
            "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
            "sk-1234567890abcdef",
            "Bearer sk-proj-abcdefghijklmnopqrstuvwx1234",
            "token=xoxb-123456789012-abcdefghijklmnop",
            "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
            "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJ==;",
            "postgres://admin:hunter22@db.internal/x",
            "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEAxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        ] {
            assert!(secret(t).is_some(), "{t}");
        }
        for t in [
            "sk-learn-model-version",
            "sklearn.linear_model.LogisticRegression",
            "sk-2024-model-base-v1.0",
            "hf_hub",
            "hf_model_repository_of_some_length",
            "https://user@host/x",
            "http://host:8080/a@b",
            "-----BEGIN PRIVATE KEY-----",
            "meta-llama/Llama-2-7b-chat-hf",
            "0123456789abcdef0123456789abcdef01234567",
            "eyJhIjoxfQ==",
            "AKIA is the prefix of keys",
        ] {
            assert_eq!(secret(t), None, "{t}");
        }
    }

    #[test]
    fn secrets_are_known_by_their_key() {
        for (k, v) in [
            ("password", "hunter22"),
            ("db.PASSWORD", "s3cr3t-value"),
            ("aws_secret_access_key", "wJalrXUtnFEMI/K7MDENG/bPxRfiCY"),
            ("exfil_key", "SECRET_API_KEY_12345"),
            ("openai_api_key", "abcdef123456"),
            ("apiKey", "abcdef123456"),
        ] {
            assert!(named_secret(k, v).is_some(), "{k}");
        }
        for (k, v) in [
            ("eos_token", "</s>"),
            ("pad_token", "<pad>"),
            ("hub_token", "<HUB_TOKEN>"),
            ("push_to_hub_token", "<PUSH_TO_HUB_TOKEN>"),
            ("api_key", "your-api-key"),
            ("api_key", "${API_KEY}"),
            ("api_key_env", "OPENAI_API_KEY"),
            ("password", ""),
            ("password", "none"),
            ("use_auth_token", "true"),
            ("secret", "a secret is something hidden"),
            ("access_token", "<ACCESS_TOKEN>"),
            ("tokenizer_class", "LlamaTokenizer"),
            ("key", "value-of-key"),
            ("MasterUserPassword", "MasterUsername"),
            ("SecretsManagerReadWrite", "arn:aws:iam::1"),
            ("password_file", "/run/secrets/db1"),
            ("token", "abcdefgh"),
        ] {
            assert_eq!(named_secret(k, v), None, "{k}={v}");
        }
    }
}
