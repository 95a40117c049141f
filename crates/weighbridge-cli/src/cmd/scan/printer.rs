//! Reports as they are printed: file by file where the format lets them.

use std::path::PathBuf;

use weighbridge::Result;
use weighbridge_scan::FileReport;
use weighbridge_scan::report::{Basis, Report, Totals, json, sarif, table};

use crate::args::{ReportFormat, Scan};
use crate::exit::Exit;
use crate::output::Output;
use crate::sandbox::LateFile;
use crate::style::Tone;
use crate::text::safe;

/// Takes the files of a scan in order.
pub(super) struct Printer {
    shape: Shape,
    /// The file that the report goes to instead of standard output.
    to: Option<LateFile>,
    /// The current directory: asked for while it may be.
    root: PathBuf,
    lines: String,
}

enum Shape {
    /// Line by line; clean files too when somebody named them.
    Table {
        all: bool,
    },
    /// One line for each file that is not clean.
    Brief,
    Json(Report),
    Sarif(Report),
}

impl Printer {
    /// Opens what is to be written.
    ///
    /// # Errors
    /// `Io` when the file cannot be opened.
    pub(super) fn new(args: &Scan, out: &Output) -> Result<Self> {
        let shape = if args.report.format == ReportFormat::Sarif {
            Shape::Sarif(Report::default())
        } else if out.json {
            Shape::Json(Report::default())
        } else if out.quiet {
            Shape::Brief
        } else {
            let all = !args.paths.iter().any(|p| p.is_dir());
            Shape::Table { all }
        };
        Ok(Self {
            shape,
            to: super::late(args.report.output.as_deref())?,
            root: std::env::current_dir().unwrap_or_default(),
            lines: String::new(),
        })
    }

    /// The file that the report goes to, if any.
    pub(super) fn file_to(&self) -> Option<&LateFile> {
        self.to.as_ref()
    }

    /// Takes the next file.
    ///
    /// # Errors
    /// `Io` when standard output cannot be written.
    pub(super) fn file(&mut self, file: FileReport, out: &mut Output) -> Result<()> {
        match &mut self.shape {
            Shape::Json(r) | Shape::Sarif(r) => r.files.push(file),
            Shape::Table { all } => {
                let lines = table::file(&file, *all);
                self.print(&lines, out)?;
            }
            Shape::Brief => {
                if let Some(line) = table::brief(&file) {
                    self.print(&[line], out)?;
                }
            }
        }
        Ok(())
    }

    /// Ends the report.
    ///
    /// # Errors
    /// `Io` when it cannot be written.
    pub(super) fn finish(
        mut self,
        totals: &Totals,
        basis: &Basis,
        exit: Exit,
        out: &mut Output,
    ) -> Result<()> {
        let document = match &self.shape {
            Shape::Table { .. } => {
                self.print(&table::summary(totals), out)?;
                None
            }
            Shape::Brief => {
                let line = table::brief_summary(totals);
                self.print(line.as_slice(), out)?;
                None
            }
            Shape::Json(r) => {
                let document = json::Document::new(r, basis).ignoring(totals.ignored);
                Some(Output::rendered(&document)?)
            }
            Shape::Sarif(r) => {
                let run = sarif::Run {
                    basis,
                    exit_code: exit.code(),
                    root: &self.root,
                };
                Some(Output::rendered(&sarif::log(r, &run)?)?)
            }
        };
        let bytes = document.unwrap_or_else(|| self.lines.into_bytes());
        match self.to {
            Some(file) => {
                file.write(&bytes)?;
                for line in table::summary(totals) {
                    out.note(tone(line.tone), "scan", &line.text);
                }
                Ok(())
            }
            None => out.bytes(&bytes),
        }
    }

    fn print(&mut self, lines: &[table::Line], out: &mut Output) -> Result<()> {
        for line in lines {
            let text = safe(&line.text);
            if self.to.is_some() {
                self.lines.push_str(&text);
                self.lines.push('\n');
            } else {
                out.line(out.style.paint(tone(line.tone), text))?;
            }
        }
        Ok(())
    }
}

fn tone(tone: table::Tone) -> Tone {
    match tone {
        table::Tone::Plain => Tone::Plain,
        table::Tone::Good => Tone::Good,
        table::Tone::Warn => Tone::Warn,
        table::Tone::Bad => Tone::Bad,
    }
}
