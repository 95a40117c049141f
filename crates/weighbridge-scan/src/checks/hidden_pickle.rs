//! The constants of a pickle that hide something, for `WB-COD-001` to `WB-COD-005`.

use weighbridge_core::Result;
use weighbridge_core::pickle::Trace;

use crate::globals::Catalogue;
use crate::hidden::{self, Looker, Wanted};
use crate::subject::{Text, TextOrigin};

/// Most constants that are kept for one pickle.
const MOST: usize = 64;

/// Longest constant that is kept, in bytes.
const LONGEST: usize = 8 << 20;

/// Most bytes kept for one pickle.
const BYTES: usize = 16 << 20;

/// The constants of a pickle that hide code, a command line or another pickle. An ordinary string
/// costs one glance, so that a pickle of ten million of them stays a matter of its length.
/// `place` and `base` are where the pickle lies, as in [`crate::PickleTrace`].
///
/// # Errors
/// `Parameter` when the compiled-in data does not parse, which the crate's tests rule out.
pub fn constants(place: &str, base: Option<u64>, trace: &Trace<'_>) -> Result<Vec<Text>> {
    let mut looker = Looker::new(Catalogue::builtin()?)?;
    let wanted = Wanted { commands: false };
    let mut out = Vec::new();
    let mut bytes_left = BYTES;
    for node in &trace.nodes {
        let Some(bytes) = hidden::constant(trace, node) else {
            continue;
        };
        if bytes.len() > LONGEST.min(bytes_left) || !hidden::may_hide(bytes, wanted) {
            continue;
        }
        if looker.look(bytes, wanted)?.is_none() {
            continue;
        }
        bytes_left -= bytes.len();
        out.push(Text {
            place: place.to_owned(),
            base: base
                .zip(offset(trace.data, bytes))
                .map(|(b, at)| b.saturating_add(at)),
            key: String::new(),
            origin: TextOrigin::Pickle,
            bytes: bytes.to_vec(),
        });
        if out.len() >= MOST {
            break;
        }
    }
    Ok(out)
}

/// Where `part` lies in `whole`, when it is a part of it and no copy.
fn offset(whole: &[u8], part: &[u8]) -> Option<u64> {
    let at = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    (at.checked_add(part.len())? <= whole.len()).then_some(at as u64)
}

#[cfg(test)]
mod tests {
    use weighbridge_core::{Limits, pickle};

    use super::*;

    fn found(data: &[u8]) -> Vec<(Option<u64>, String)> {
        let trace = pickle::run(data, &Limits::default());
        assert!(trace.error.is_none());
        constants("p", Some(100), &trace)
            .unwrap()
            .into_iter()
            .map(|t| (t.base, t.bytes.escape_ascii().to_string()))
            .collect()
    }

    #[test]
    fn only_what_hides_something_is_kept_with_its_place() {
        let data = b"\x80\x04](\x8c\x05hello\x8c\x0eos.system('x')\x8c\x09os.system\x8c\x05eval(e.";
        let got = found(data);
        assert_eq!(got, [(Some(113), "os.system(\\'x\\')".to_owned())]);
        let simple = b"\x80\x04\x8c\x0eos.system('x').";
        assert_eq!(
            found(simple),
            [(Some(104), "os.system(\\'x\\')".to_owned())]
        );
        assert_eq!(found(b"\x80\x04\x8c\x09os.system."), []);
    }

    #[test]
    fn many_ordinary_strings_cost_a_glance_each() {
        let mut data = b"(".to_vec();
        for i in 0..50_000 {
            let s = format!("token number {i} (of many)");
            data.push(0x8c);
            data.push(u8::try_from(s.len()).unwrap());
            data.extend_from_slice(s.as_bytes());
        }
        data.extend_from_slice(b"l.");
        let begun = std::time::Instant::now();
        assert_eq!(found(&data), []);
        assert!(begun.elapsed() < std::time::Duration::from_secs(20));
    }
}
