//! Writing checkpoints as `torch.save` does today: a zip archive with a pickle of protocol 2
//! (`torch/serialization.py`, `_save`; `caffe2/serialize/inline_container.cc`,
//! `PyTorchStreamWriter`).

use weighbridge_core::cursor::Cursor;
use weighbridge_core::model::{Chunks, FormatId, Model};
use weighbridge_core::wire::zip::{ALIGN, Writer, plan_size};
use weighbridge_core::{Error, Result};

use super::state_out;
use super::storage_out::Layout;
use crate::format::{FormatWriter, Note, Plan, PlannedFile, WriteOptions};
use crate::output::Sink;

/// The folder inside the archive when the output has no name; torch's own choice for streams.
const ROOT: &str = "archive";

/// The members before the storages, after `data.pkl`.
const HEAD: [(&str, &[u8]); 3] = [
    (".format_version", b"1"),
    (".storage_alignment", b"64"),
    ("byteorder", b"little"),
];

/// Writes PyTorch checkpoints that `torch.load(weights_only=True)` opens.
#[derive(Debug, Clone, Copy, Default)]
pub struct PyTorchWriter;

impl FormatWriter for PyTorchWriter {
    fn id(&self) -> FormatId {
        FormatId::PyTorch
    }

    /// Reads no payload, except of state that was moved into tensors (`__state__.…`) and of
    /// tensors with a recorded alias, which are compared.
    fn plan(&self, model: &Model, options: &WriteOptions) -> Result<Plan> {
        if options.shard_size.is_some() {
            return Err(Error::parameter(
                "pytorch.no-shards",
                "a PyTorch checkpoint is one file: it cannot be split by size",
            )
            .help("leave --shard-size out, or write safetensors"));
        }
        let layout = Layout::new(model, None)?;
        let mut plan = Plan::default();
        let written = state_out::pickle(model, &layout, options, &mut plan)?;
        for (names, why) in &layout.unshared {
            if !why.is_empty() {
                let why = format!("shared storage is written once for each tensor: {why}");
                plan.changed.push(Note::new(names.as_str(), why));
            }
        }
        let prepared = Prepared {
            root: root(options),
            pickle: written.pickle,
            verdicts: layout.verdicts.clone(),
            order: written.stores,
        };
        let members = prepared.members(&layout)?;
        let sizes = members.iter().map(|(name, size)| (name.as_str(), *size));
        plan.files.push(PlannedFile {
            name: String::new(),
            bytes: plan_size(ALIGN, sizes)?,
            tensors: written.tensors,
            prepared: prepared.encode(),
            alignment: 1,
            big_endian: false,
        });
        Ok(plan)
    }

    fn write(
        &self,
        model: &Model,
        plan: &Plan,
        file: usize,
        out: &mut dyn Sink,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let planned = plan
            .files
            .get(file)
            .ok_or_else(|| Error::parameter("pytorch.plan", "the plan has no such file"))?;
        let prepared = Prepared::decode(&planned.prepared)?;
        let layout = Layout::new(model, Some(&prepared.verdicts))?;
        let mut zip = Writer::new(ALIGN)?;
        let mut chunks = Chunks::new();
        let root = &prepared.root;
        let put = |zip: &mut Writer, out: &mut dyn Sink, name: &str, bytes: &[u8]| {
            zip.member(&format!("{root}/{name}"), bytes, &mut |b| out.put(b))
        };
        put(&mut zip, out, "data.pkl", &prepared.pickle)?;
        for (name, bytes) in HEAD {
            put(&mut zip, out, name, bytes)?;
        }
        for (key, &store) in prepared.order.iter().enumerate() {
            let store = layout
                .stores
                .get(store)
                .ok_or_else(|| Error::parameter("pytorch.plan", "the plan is of another model"))?;
            out.put(&zip.start(&format!("{root}/data/{key}"), store.bytes)?)?;
            for run in &store.runs {
                run.stream(&mut chunks, &mut |part| {
                    zip.data(part)?;
                    out.put(part)?;
                    progress(part.len() as u64);
                    Ok(())
                })?;
            }
            out.put(&zip.end()?)?;
        }
        put(&mut zip, out, "version", b"3\n")?;
        put(&mut zip, out, ".data/serialization_id", &prepared.id())?;
        out.put(&zip.finish()?)
    }
}

/// The archive's folder: the output's name without its extension, as torch names it.
fn root(options: &WriteOptions) -> String {
    match options.stem.as_str() {
        "" | "." | ".." => ROOT.to_owned(),
        stem => stem.replace(['/', '\\'], "_"),
    }
}

/// What planning leaves for writing.
struct Prepared {
    root: String,
    pickle: Vec<u8>,
    /// Which recorded alias groups hold, so that they need no second comparison.
    verdicts: Vec<bool>,
    /// The storage behind every key.
    order: Vec<usize>,
}

impl Prepared {
    /// Names and sizes of the archive's members, in order.
    fn members(&self, layout: &Layout<'_>) -> Result<Vec<(String, u64)>> {
        let root = &self.root;
        let mut out = vec![(format!("{root}/data.pkl"), self.pickle.len() as u64)];
        out.extend(HEAD.map(|(name, bytes)| (format!("{root}/{name}"), bytes.len() as u64)));
        for (key, &store) in self.order.iter().enumerate() {
            let bytes = layout.stores.get(store).map_or(0, |s| s.bytes);
            out.push((format!("{root}/data/{key}"), bytes));
        }
        out.push((format!("{root}/version"), 2));
        out.push((
            format!("{root}/.data/serialization_id"),
            self.id().len() as u64,
        ));
        Ok(out)
    }

    /// The identifier torch puts into archives: two numbers of twenty digits, there a hash of the
    /// record names and one of all checksums. Nobody reads it back. This one is made of what is
    /// known before the payload is read, and is the same for the same input.
    fn id(&self) -> Vec<u8> {
        let mut names = 0xcbf2_9ce4_8422_2325u64;
        for b in self
            .root
            .bytes()
            .chain((self.order.len() as u64).to_le_bytes())
        {
            // FNV-1a
            names = (names ^ u64::from(b)).wrapping_mul(0x100_0000_01b3);
        }
        format!("{names:020}{:020}", crc32fast::hash(&self.pickle)).into_bytes()
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.pickle.len() + 64);
        for part in [self.root.as_bytes(), &self.pickle] {
            out.extend((part.len() as u64).to_le_bytes());
            out.extend(part);
        }
        out.extend((self.verdicts.len() as u64).to_le_bytes());
        out.extend(self.verdicts.iter().map(|&v| u8::from(v)));
        out.extend((self.order.len() as u64).to_le_bytes());
        for &s in &self.order {
            out.extend((s as u64).to_le_bytes());
        }
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let mut c = Cursor::new(bytes);
        let part = |c: &mut Cursor<'_>| -> Result<Vec<u8>> {
            let n = usize::try_from(c.u64()?).unwrap_or(usize::MAX);
            c.take(n).map(<[u8]>::to_vec)
        };
        let root = String::from_utf8_lossy(&part(&mut c)?).into_owned();
        let pickle = part(&mut c)?;
        let verdicts = part(&mut c)?.into_iter().map(|v| v != 0).collect();
        let n = c.u64()?;
        let order = (0..n)
            .map(|_| c.u64().map(|s| s as usize))
            .collect::<Result<_>>()?;
        Ok(Self {
            root,
            pickle,
            verdicts,
            order,
        })
    }
}
