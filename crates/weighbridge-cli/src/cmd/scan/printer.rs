//! Reports as they are printed: file by file where the format lets them.

use std::path::PathBuf;

use weighbridge::Result;
use weighbridge_scan::FileReport;
use weighbridge_scan::report::{Basis, Report, Totals, json, sarif, table};

use super::written::Written;
use crate::args::{ReportFormat, Scan};
use crate::exit::Exit;
use crate::output::Output;
use crate::style::Tone;
use crate::text::safe;

/// Takes the files of a scan in order.
pub(super) struct Printer<'a> {
    shape: Shape,
    out: &'a mut Output,
    /// The text that goes into a file instead of to standard output.
    text: Option<String>,
    root: PathBuf,
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

impl<'a> Printer<'a> {
    /// A printer for what `args` ask, in a program that runs in the folder `root`.
    pub(super) fn new(args: &Scan, root: PathBuf, out: &'a mut Output) -> Self {
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
        Self {
            shape,
            out,
            text: args.report.output.as_ref().map(|_| String::new()),
            root,
        }
    }

    /// Takes the next file.
    ///
    /// # Errors
    /// `Io` when standard output cannot be written.
    pub(super) fn file(&mut self, file: FileReport) -> Result<()> {
        match &mut self.shape {
            Shape::Json(r) | Shape::Sarif(r) => r.files.push(file),
            Shape::Table { all } => {
                let lines = table::file(&file, *all);
                self.print(&lines)?;
            }
            Shape::Brief => {
                if let Some(line) = table::brief(&file) {
                    self.print(&[line])?;
                }
            }
        }
        Ok(())
    }

    /// Ends the report, and writes it into `to` where it goes into a file.
    ///
    /// # Errors
    /// `Io` when it cannot be written.
    pub(super) fn finish(
        mut self,
        totals: &Totals,
        basis: &Basis,
        exit: Exit,
        to: Option<Written>,
    ) -> Result<()> {
        let document = match &self.shape {
            Shape::Table { .. } => {
                self.print(&table::summary(totals))?;
                None
            }
            Shape::Brief => None,
            Shape::Json(r) => Some(Output::rendered(&json::Document::new(r, basis))?),
            Shape::Sarif(r) => {
                let run = sarif::Run {
                    basis,
                    exit_code: exit.code(),
                    root: &self.root,
                };
                Some(Output::rendered(&sarif::log(r, &run)?)?)
            }
        };
        let bytes = document.unwrap_or_else(|| self.text.unwrap_or_default().into_bytes());
        let Some(to) = to else {
            return self.out.bytes(&bytes);
        };
        to.write(&bytes)?;
        for line in table::summary(totals) {
            self.out.note(tone(line.tone), "scan", &line.text);
        }
        Ok(())
    }

    fn print(&mut self, lines: &[table::Line]) -> Result<()> {
        for line in lines {
            let shown = safe(&line.text);
            if let Some(text) = &mut self.text {
                text.push_str(&shown);
                text.push('\n');
            } else {
                let painted = self.out.style.paint(tone(line.tone), shown);
                self.out.line(painted)?;
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
