//! Changing a member of a zip archive so that the archive around it stays right: otherwise every
//! change inside would only ever show that checksums are verified.

use std::sync::Arc;

use weighbridge_core::source::SliceSource;
use weighbridge_core::wire::zip::{Archive, Writer};
use weighbridge_core::{Limits, Result};

/// The members of an archive, unpacked.
#[derive(Debug, Clone)]
pub struct Members(pub Vec<(String, Vec<u8>)>);

impl Members {
    /// Unpacks `data`; directories and members that cannot be read are left out.
    ///
    /// # Errors
    /// When it is no archive.
    pub fn of(data: &[u8]) -> Result<Self> {
        let limits = Limits::default();
        let archive = Archive::open(Arc::new(SliceSource::new(data, "repack")), &limits)?;
        let read = archive.members().iter().filter(|m| !m.is_dir());
        Ok(Self(
            read.filter_map(|m| Some((m.name.clone(), archive.read(m, 1 << 24).ok()?)))
                .collect(),
        ))
    }

    /// Packs them again, `changed` in place of member number `index`.
    ///
    /// # Errors
    /// When a name is too long.
    pub fn with(&self, index: usize, changed: &[u8]) -> Result<Vec<u8>> {
        let mut writer = Writer::new(64)?;
        let mut out = Vec::new();
        for (i, (name, payload)) in self.0.iter().enumerate() {
            let payload = if i == index { changed } else { payload };
            writer.member(name, payload, &mut |part| {
                out.extend_from_slice(part);
                Ok(())
            })?;
        }
        out.extend(writer.finish()?);
        Ok(out)
    }

    /// The members that describe the model rather than being its payload: everything but raw
    /// storages and source code.
    pub fn headers(&self) -> Vec<usize> {
        let describes = |name: &str| {
            [
                ".pkl",
                ".json",
                ".h5",
                "byteorder",
                "version",
                "archive_format",
            ]
            .iter()
            .any(|end| name.ends_with(end))
        };
        let all = self.0.iter().enumerate();
        all.filter(|(_, (name, payload))| describes(name) && !payload.is_empty())
            .map(|(i, _)| i)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_member_is_read_back_and_the_rest_stays() {
        let first = Members(vec![
            ("a/data.pkl".into(), b"one".to_vec()),
            ("a/data/0".into(), vec![7; 100]),
        ]);
        let packed = first.with(usize::MAX, b"").expect("packs");
        let again = Members::of(&packed).expect("opens");
        assert_eq!(again.0, first.0);
        assert_eq!(again.headers(), [0]);
        let changed = Members::of(&again.with(0, b"two!").expect("packs")).expect("opens");
        assert_eq!(changed.0[0].1, b"two!");
        assert_eq!(changed.0[1].1, [7; 100]);
    }
}
