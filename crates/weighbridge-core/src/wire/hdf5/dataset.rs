//! Datasets: the messages of a header put together.

use super::datatype::Datatype;
use super::fields::Fields;
use super::file::File;
use super::filter::Pipeline;
use super::header::{Header, kind};
use super::layout::Layout;
use super::message::{Dataspace, Fill};
use crate::error::{Error, Result};

/// A dataset: what its values are, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// The type of its elements.
    pub datatype: Datatype,
    /// How many elements there are.
    pub space: Dataspace,
    /// Where they lie.
    pub layout: Layout,
    /// What was done to each chunk when it was written.
    pub pipeline: Pipeline,
    /// What elements are that were never written.
    pub fill: Fill,
    /// The files its values lie in instead. They are never opened.
    pub external: Vec<External>,
}

/// A file that values of a dataset lie in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External {
    /// Its name, as the dataset has it.
    pub file: String,
    /// Where the name is said.
    pub at: u64,
}

impl File {
    /// The dataset that `header` is of.
    ///
    /// # Errors
    /// What the specification does not allow, and messages that are not there.
    pub fn dataset(&self, header: &Header<'_>) -> Result<Dataset> {
        let at = self.place(header.address);
        let missing = |what: &str| {
            Error::malformed(
                "hdf5.object-header",
                format!("a dataset without its {what}"),
            )
            .at(at)
        };
        let read = |kind: u16| -> Result<Option<_>> {
            match header.first(kind) {
                Some(m) => self.body(header, m).map(Some),
                None => Ok(None),
            }
        };
        let (body, at) = read(kind::DATATYPE)?.ok_or_else(|| missing("type"))?;
        let datatype = Datatype::read(&mut self.fields(&body, at))?;
        let (body, at) = read(kind::DATASPACE)?.ok_or_else(|| missing("space"))?;
        let space = Dataspace::read(&mut self.fields(&body, at))?;
        let (body, at) = read(kind::LAYOUT)?.ok_or_else(|| missing("layout"))?;
        let layout = Layout::read(&mut self.fields(&body, at))?;
        let pipeline = match read(kind::PIPELINE)? {
            Some((body, at)) => Pipeline::read(&mut self.fields(&body, at))?,
            None => Pipeline::default(),
        };
        let mut fill = match read(kind::FILL)? {
            Some((body, at)) => Fill::read(&mut self.fields(&body, at))?,
            None => match read(kind::OLD_FILL)? {
                Some((body, at)) => Fill::old(&mut self.fields(&body, at))?,
                None => Fill::default(),
            },
        };
        if fill.value.len() != datatype.size as usize {
            // A value of another type cannot be one of these.
            fill = Fill::default();
        }
        let mut external = Vec::new();
        if let Some((body, at)) = read(kind::EXTERNAL)? {
            external = self.external(&mut self.fields(&body, at))?;
        }
        Ok(Dataset {
            datatype,
            space,
            layout,
            pipeline,
            fill,
            external,
        })
    }

    /// The list of external files (IV.A.2.h).
    fn external(&self, f: &mut Fields<'_>) -> Result<Vec<External>> {
        let at = f.place();
        f.version(1..=1, "hdf5.external-storage")?;
        f.skip(5)?;
        let used = f.u16()?;
        let heap = f.address()?;
        let mut files: Vec<External> = Vec::new();
        for _ in 0..used {
            let name = f.length()?;
            f.length()?;
            f.length()?;
            let file = match heap {
                Some(heap) => self.local_text(heap, name)?,
                None => String::new(),
            };
            // Parts of one file are one file.
            if files.iter().all(|e| e.file != file) {
                files.push(External { file, at });
            }
            if files.len() >= 1000 {
                break;
            }
        }
        Ok(files)
    }
}
