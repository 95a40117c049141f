//! What a model says beside its graphs: signatures, metadata, weights elsewhere.

use weighbridge_core::Result;
use weighbridge_core::model::{Dict, Graph, Value as Meta, Warning};
use weighbridge_core::wire::flatbuffer::Table;

use super::{Reading, field};

impl Reading<'_> {
    pub(super) fn signatures(
        &mut self,
        root: Table,
        graphs: &[(Graph, Vec<String>)],
    ) -> Result<()> {
        let Some(all) = self.buffer.vector(root, field::model::SIGNATURES, 4)? else {
            return Ok(());
        };
        let mut out = Vec::new();
        for i in 0..all.len {
            let s = self.buffer.table_in(all, i)?;
            let key = self.buffer.text(s, 2)?.map(|(_, k)| k).unwrap_or_default();
            let n = self.buffer.u32(s, 4)?.unwrap_or(0);
            let names = usize::try_from(n).ok().and_then(|n| graphs.get(n));
            let names = names.map(|(_, names)| names.as_slice()).unwrap_or_default();
            let entries = vec![
                (Meta::Str("subgraph".into()), Meta::Int(i64::from(n))),
                (Meta::Str("inputs".into()), self.arguments(s, 0, names)?),
                (Meta::Str("outputs".into()), self.arguments(s, 1, names)?),
            ];
            let said = Meta::Dict(Dict {
                entries,
                ..Dict::default()
            });
            out.push((Meta::Str(key), said));
        }
        if !out.is_empty() {
            let all = Meta::Dict(Dict {
                entries: out,
                ..Dict::default()
            });
            self.out.model.metadata.push(("signatures".into(), all));
        }
        Ok(())
    }

    /// What a signature calls the tensors that it takes or gives.
    fn arguments(&self, s: Table, n: u16, names: &[String]) -> Result<Meta> {
        let mut entries = Vec::new();
        if let Some(all) = self.buffer.vector(s, n, 4)? {
            for i in 0..all.len {
                let map = self.buffer.table_in(all, i)?;
                let name = self
                    .buffer
                    .text(map, 0)?
                    .map(|(_, n)| n)
                    .unwrap_or_default();
                let index = self.buffer.u32(map, 1)?.unwrap_or(0);
                let tensor = usize::try_from(index).ok().and_then(|i| names.get(i));
                let tensor = tensor.cloned().unwrap_or_default();
                entries.push((Meta::Str(name), Meta::Str(tensor)));
            }
        }
        Ok(Meta::Dict(Dict {
            entries,
            ..Dict::default()
        }))
    }

    /// What is kept beside the graph: names, and short texts.
    pub(super) fn metadata(&mut self, root: Table) -> Result<()> {
        self.buffer.vector(root, field::model::METADATA_BUFFER, 4)?;
        let Some(all) = self.buffer.vector(root, field::model::METADATA, 4)? else {
            return Ok(());
        };
        for i in 0..all.len {
            let entry = self.buffer.table_in(all, i)?;
            let Some((at, name)) = self.buffer.text(entry, 0)? else {
                continue;
            };
            self.out.texts.push(("metadata", at, name.clone()));
            let index = self.buffer.u32(entry, 1)?.unwrap_or(0);
            let range = usize::try_from(index)
                .ok()
                .and_then(|i| self.buffers.get(i));
            let range = range.cloned().unwrap_or_default();
            let len = range.end.saturating_sub(range.start);
            let text = match len <= 256 {
                true => self.source.read_vec(range)?,
                false => Vec::new(),
            };
            // Versions are texts padded with NULs.
            let text = String::from_utf8(text).ok();
            let text = text.map(|t| t.trim_end_matches('\0').to_owned());
            let text = text.filter(|t| !t.is_empty() && !t.chars().any(char::is_control));
            let value = text.map_or_else(|| Meta::Int(len as i64), Meta::Str);
            self.out.model.metadata.push((name, value));
        }
        Ok(())
    }

    /// Weights in files of their own are named and never looked for.
    pub(super) fn external(&mut self, root: Table) -> Result<()> {
        let groups = self.buffer.vector(root, field::model::EXTERNAL_GROUPS, 4)?;
        self.buffer
            .vector(root, field::model::EXTERNAL_BUFFERS, 4)?;
        let Some(groups) = groups.filter(|g| g.len > 0) else {
            return Ok(());
        };
        for i in 0..groups.len {
            let group = self.buffer.table_in(groups, i)?;
            if let Some((at, name)) = self.buffer.text(group, 0)? {
                let message = format!("weights lie in another file, {name:?}, which is not read");
                let warning = Warning::new("tflite.external", message);
                self.out.model.warnings.push(warning);
                self.out.texts.push(("external_buffer", at, name));
            }
        }
        Ok(())
    }
}
