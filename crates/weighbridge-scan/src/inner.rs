//! Pickles inside: bytes that a loader inside a pickle is handed, or that hide in a constant.

use std::sync::Arc;

use weighbridge_core::source::SliceSource;
use weighbridge_core::wire::zip;
use weighbridge_core::{Limits, Result, pickle};

use crate::globals::{Catalogue, Standing};
use crate::subject::{PickleTrace, Use};

/// Most opcodes of an inner pickle.
const OPS: u64 = 4_000_000;

/// Most streams in a row: torch's legacy format has five before its data.
const STREAMS: usize = 16;

/// Most pickles of an inner archive, and most bytes inflated of one.
const MEMBERS: usize = 64;
const INFLATED: u64 = 16 << 20;

/// What bytes are when a loader takes them for a pickle or a torch file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inner {
    /// Nothing that a loader takes.
    Nothing,
    /// Complete, and everything it names is allowed.
    Clean,
    /// Something it names is not allowed: the first such thing as source text, and where its
    /// opcode lies in the bytes (in the member of an archive).
    Disallowed {
        /// `builtins.eval("…")`.
        what: String,
        /// Offset of the opcode.
        offset: u64,
        /// Whether it is called, and not only named or built.
        called: bool,
    },
    /// It begins as one and breaks off; nothing disallowed came before.
    Broken,
}

impl Inner {
    fn worse(self, other: Self) -> Self {
        let rank = |i: &Self| match i {
            Self::Nothing => 0,
            Self::Clean => 1,
            Self::Broken => 2,
            Self::Disallowed { called, .. } => 3 + u8::from(*called),
        };
        if rank(&other) > rank(&self) {
            other
        } else {
            self
        }
    }
}

/// Limits for something that lies inside something.
pub(crate) fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.pickle_ops = OPS;
    limits.values = OPS;
    limits.spare_bytes = 1 << 20;
    limits
}

/// Judges bytes that a loader is handed (`pickle.loads`, `torch.storage._load_from_bytes`,
/// `torch.load` of a buffer): a pickle, torch's legacy streams, or its zip archive.
///
/// # Errors
/// `Parameter` when the compiled-in data does not parse, which the crate's tests rule out.
pub fn judge(catalogue: &Catalogue, data: &[u8]) -> Result<Inner> {
    if data.starts_with(b"PK\x03\x04") {
        return archive(catalogue, data);
    }
    streams(catalogue, data)
}

/// Judges the pickles that follow each other at the start of `data`. What comes after the first
/// is data of some loader when it does not parse.
///
/// # Errors
/// As [`judge`].
pub(crate) fn streams(catalogue: &Catalogue, data: &[u8]) -> Result<Inner> {
    let mut verdict = Inner::Nothing;
    let mut at = 0usize;
    for n in 0..STREAMS {
        let Some(rest) = data.get(at..).filter(|r| !r.is_empty()) else {
            break;
        };
        // After torch's five streams its raw data follows, which may begin as anything.
        if n > 0 && !begins_pickle(rest) {
            break;
        }
        let trace = pickle::run(rest, &limits());
        let found = one(catalogue, &trace)?;
        let complete = trace.error.is_none();
        match found {
            Inner::Broken if n > 0 => break,
            found => verdict = verdict.worse(found),
        }
        if !complete || trace.end == 0 {
            break;
        }
        at = at.saturating_add(trace.end);
    }
    Ok(verdict)
}

/// Whether bytes begin with a protocol header or with what an old pickle begins with.
pub(crate) fn begins_pickle(data: &[u8]) -> bool {
    match data {
        [0x80, 0..=5, ..] => true,
        // MARK, GLOBAL, INST, the empty containers, numbers, strings, None: protocols 0 and 1.
        [first, ..] => b"(ci})]lIJKLMNFGSTUVX".contains(first),
        [] => false,
    }
}

/// Judges one trace.
///
/// # Errors
/// As [`judge`].
pub(crate) fn one(catalogue: &Catalogue, trace: &pickle::Trace<'_>) -> Result<Inner> {
    let p = PickleTrace::of(String::new(), None, trace)?;
    let mut verdict = if trace.error.is_some() {
        Inner::Broken
    } else {
        Inner::Clean
    };
    for g in &p.globals {
        let (full, allowed) = match (&g.module, &g.name) {
            (Some(m), Some(n)) => {
                if !is_identifier(m) || !is_identifier(n) {
                    continue;
                }
                let standing = catalogue.judge(m, n, g.how);
                let allowed = standing == Standing::Allowed && g.how != Use::Change;
                (
                    format!("{m}.{n}"),
                    allowed || loads_clean(catalogue, trace, g.offset, m, n)?,
                )
            }
            _ => ("a name that is computed".to_owned(), false),
        };
        if allowed {
            continue;
        }
        let called = g.how == Use::Call;
        let what = match g.how {
            Use::Call | Use::Construct => format!("{full}({})", g.args),
            _ => full,
        };
        verdict = verdict.worse(Inner::Disallowed {
            what,
            offset: g.offset,
            called,
        });
    }
    for c in &p.computed {
        verdict = verdict.worse(Inner::Disallowed {
            what: c.text.clone(),
            offset: c.offset,
            called: true,
        });
    }
    Ok(verdict)
}

/// The functions that load a pickle from the bytes they are handed.
pub fn is_bytes_loader(module: &str, name: &str) -> bool {
    matches!(
        (module, name),
        ("torch.storage", "_load_from_bytes")
            | (
                "pickle" | "_pickle" | "cPickle" | "dill" | "dill._dill" | "cloudpickle",
                "loads"
            )
    )
}

/// Whether the call at `offset` hands clean bytes to `torch.storage._load_from_bytes`, which is
/// how torch pickles a storage. The loaders of plain pickles are no part of a model, whatever
/// they are handed.
fn loads_clean(
    catalogue: &Catalogue,
    trace: &pickle::Trace<'_>,
    offset: u64,
    module: &str,
    name: &str,
) -> Result<bool> {
    if (module, name) != ("torch.storage", "_load_from_bytes") {
        return Ok(false);
    }
    let call = trace.nodes.iter().find_map(|n| match n {
        pickle::Node::Call(c) if c.offset as u64 == offset => Some(c),
        _ => None,
    });
    let Some(bytes) = call.and_then(|c| bytes_argument(trace, c)) else {
        return Ok(false);
    };
    // One level: torch nests no further.
    match bytes.starts_with(b"PK\x03\x04") || begins_pickle(bytes) {
        true if nested(bytes) => Ok(judge(catalogue, bytes)? == Inner::Clean),
        _ => Ok(false),
    }
}

/// Whether bytes may be judged without going round: what names the loader again is not clean.
fn nested(bytes: &[u8]) -> bool {
    !bytes.windows(16).any(|w| w == b"_load_from_bytes")
}

/// The only argument of a call, when it is constant bytes.
pub fn bytes_argument<'t>(trace: &'t pickle::Trace<'_>, call: &pickle::Call) -> Option<&'t [u8]> {
    let [only] = trace.items(call.args)? else {
        return None;
    };
    match trace.node(*only) {
        pickle::Node::Bytes(b) | pickle::Node::ByteArray(b) | pickle::Node::ByteStr(b) => {
            Some(trace.blob(b))
        }
        _ => None,
    }
}

/// Whether a module or a dotted name is made of identifiers: what random bytes name is not.
pub(crate) fn is_identifier(name: &str) -> bool {
    !name.is_empty()
        && name.split('.').all(|part| {
            !part.is_empty()
                && !part.starts_with(|c: char| c.is_ascii_digit())
                && part
                    .chars()
                    .all(|c| c.is_alphanumeric() || matches!(c, '_' | '<' | '>'))
        })
}

fn archive(catalogue: &Catalogue, data: &[u8]) -> Result<Inner> {
    let limits = limits();
    let source = Arc::new(SliceSource::new(data, "bytes"));
    let Ok(archive) = zip::Archive::open(source, &limits) else {
        return Ok(Inner::Nothing);
    };
    let mut verdict = Inner::Nothing;
    let pickles = archive
        .members()
        .iter()
        .filter(|m| m.name.ends_with(".pkl") && m.size <= INFLATED);
    for m in pickles.take(MEMBERS) {
        verdict = match archive.read(m, INFLATED) {
            Ok(bytes) => verdict.worse(streams(catalogue, &bytes)?),
            Err(_) => verdict.worse(Inner::Broken),
        };
    }
    Ok(verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(data: &[u8]) -> Result<Inner> {
        judge(Catalogue::builtin()?, data)
    }

    fn disallowed(data: &[u8]) -> Option<String> {
        match judged(data).unwrap() {
            Inner::Disallowed { what, .. } => Some(what),
            _ => None,
        }
    }

    #[test]
    fn what_a_loader_would_run_is_told_from_data() {
        assert_eq!(judged(b"\x80\x02}q\x00.").unwrap(), Inner::Clean);
        assert_eq!(judged(b"").unwrap(), Inner::Nothing);
        assert_eq!(judged(b"\x80\x04\x95").unwrap(), Inner::Broken);
        assert_eq!(
            disallowed(b"cposix\nsystem\n(Vid\ntR.").as_deref(),
            Some("posix.system(\"id\")")
        );
        // The second stream of a legacy torch file.
        assert!(disallowed(b"\x80\x02K\x01.\x80\x02cposix\nsystem\n(Vid\ntR.").is_some());
        // Raw data after the streams.
        assert_eq!(
            judged(b"\x80\x02}q\x00.\x00\x01\x02\x80\x02").unwrap(),
            Inner::Clean
        );
    }

    #[test]
    fn a_storage_loaded_from_clean_bytes_is_clean() {
        let call = |inner: &[u8]| {
            let mut p = b"\x80\x03ctorch.storage\n_load_from_bytes\nC".to_vec();
            p.push(u8::try_from(inner.len()).unwrap());
            p.extend_from_slice(inner);
            p.extend_from_slice(b"\x85R.");
            p
        };
        assert_eq!(judged(&call(b"\x80\x02}q\x00.")).unwrap(), Inner::Clean);
        assert!(disallowed(&call(b"\x80\x02cposix\nsystem\n(Vid\ntR.")).is_some());
        assert!(disallowed(&call(b"nothing")).is_some());
        let twice = call(&call(b"\x80\x02}q\x00."));
        assert!(disallowed(&twice).is_some());
    }

    #[test]
    fn names_that_are_no_identifiers_are_chance() {
        assert_eq!(disallowed(b"c\x01\x02\n\xff\xfe\n."), None);
        assert_eq!(disallowed(b"c a b\nc d\n."), None);
    }
}
