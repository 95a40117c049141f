//! The fields of one tensor in the general spelling.

use std::borrow::Cow;

use weighbridge_core::model::Shape;
use weighbridge_core::{Error, Result};

use super::entry::{Entry, Shown, clip, dtype};
use super::json::Number;
use super::walk::Walker;

impl<'a> Walker<'a, '_> {
    pub(super) fn fields(&mut self, entry: &mut Entry<'a>) -> Result<()> {
        let mut seen = 0u8;
        self.scan.enter()?;
        let mut first = true;
        while self.scan.more(b'}', first)? {
            first = false;
            self.scan.peek();
            let start = self.scan.at();
            let key = self.scan.string_key()?;
            let end = self.scan.at();
            self.scan.expect(b':')?;
            let bit = match key.as_ref() {
                "dtype" => 1,
                "shape" => 2,
                "data_offsets" => 4,
                _ => 0,
            };
            if seen & bit != 0 {
                let message = format!("tensor {} has the field `{key}` twice", Shown(&entry.name));
                let e = Error::malformed("safetensors.duplicate-field", message);
                self.visit
                    .broken(e.span(start as u64, (end - start) as u64))?;
            }
            seen |= bit;
            match bit {
                1 => self.dtype(entry)?,
                2 => self.shape(entry)?,
                4 => self.offsets(entry)?,
                _ => self.scan.skip()?,
            }
        }
        if seen == 7 {
            return Ok(());
        }
        for (bit, field) in [(1, "dtype"), (2, "shape"), (4, "data_offsets")] {
            if seen & bit == 0 {
                let message = format!("tensor {} has no field `{field}`", Shown(&entry.name));
                let e = Error::malformed("safetensors.missing-field", message);
                let (at, len) = (entry.name_at.start, entry.name_at.len());
                self.visit.broken(e.span(at as u64, len as u64))?;
            }
        }
        Ok(())
    }

    /// `["F32", [2], [0, 8]]`, which the reference reader takes for a tensor.
    pub(super) fn listed_fields(&mut self, entry: &mut Entry<'a>) -> Result<()> {
        let start = self.scan.at();
        self.scan.enter()?;
        let mut n = 0;
        while self.scan.more(b']', n == 0)? {
            match n {
                0 => self.dtype(entry)?,
                1 => self.shape(entry)?,
                2 => self.offsets(entry)?,
                _ => self.scan.skip()?,
            }
            n += 1;
        }
        if n == 3 {
            return Ok(());
        }
        let message = format!(
            "tensor {} is a list of {n} values instead of 3",
            Shown(&entry.name)
        );
        let e = Error::malformed("safetensors.missing-field", message);
        self.visit
            .broken(e.span(start as u64, (self.scan.at() - start) as u64))
    }

    fn dtype(&mut self, entry: &mut Entry<'a>) -> Result<()> {
        let start = {
            self.scan.peek();
            self.scan.at()
        };
        let name = match self.scan.peek() {
            Some(b'"') => self.scan.string()?,
            Some(b'{') if self.lenient => {
                self.scan.enter()?;
                let mut name = Cow::Borrowed("");
                let mut n = 0;
                let mut unit = true;
                while self.scan.more(b'}', n == 0)? {
                    name = self.scan.key()?;
                    unit = self.scan.null();
                    if !unit {
                        self.scan.skip()?;
                    }
                    n += 1;
                }
                if n == 1 && unit {
                    name
                } else {
                    Cow::Borrowed("")
                }
            }
            _ => {
                let wanted = format!(
                    "the dtype of tensor {} must be a string",
                    Shown(&entry.name)
                );
                return self.other_kind("safetensors.bad-dtype", &wanted);
            }
        };
        entry.dtype = dtype(&name);
        if entry.dtype.is_some() {
            return Ok(());
        }
        let message = format!(
            "tensor {} has the unknown dtype {}",
            Shown(&entry.name),
            Shown(&name)
        );
        let e = Error::malformed("safetensors.unknown-dtype", message);
        self.visit
            .broken(e.span(start as u64, (self.scan.at() - start) as u64))
    }

    fn shape(&mut self, entry: &mut Entry<'a>) -> Result<()> {
        let start = {
            self.scan.peek();
            self.scan.at()
        };
        if self.scan.peek() != Some(b'[') {
            let wanted = format!("the shape of tensor {} must be a list", Shown(&entry.name));
            return self.other_kind("safetensors.bad-shape", &wanted);
        }
        self.scan.enter()?;
        let mut shape = Shape::new();
        let mut good = true;
        let mut first = true;
        while self.scan.more(b']', first)? {
            first = false;
            match self.unsigned(&entry.name, "safetensors.bad-shape", "extents")? {
                Some(d) => shape.push(d),
                None => good = false,
            }
        }
        entry.shape = good.then_some(shape);
        entry.shape_at = start..self.scan.at();
        Ok(())
    }

    fn offsets(&mut self, entry: &mut Entry<'a>) -> Result<()> {
        let start = {
            self.scan.peek();
            self.scan.at()
        };
        if self.scan.peek() != Some(b'[') {
            let wanted = format!(
                "the data_offsets of tensor {} must be a list",
                Shown(&entry.name)
            );
            return self.other_kind("safetensors.bad-offsets", &wanted);
        }
        self.scan.enter()?;
        let mut pair = [None; 2];
        let mut n = 0usize;
        while self.scan.more(b']', n == 0)? {
            match pair.get_mut(n) {
                Some(slot) => {
                    *slot =
                        self.unsigned(&entry.name, "safetensors.bad-offsets", "data_offsets")?;
                }
                None => self.scan.skip()?,
            }
            n += 1;
        }
        entry.offsets_at = start..self.scan.at();
        if n != 2 {
            let message = format!(
                "tensor {} has {n} data_offsets instead of 2",
                Shown(&entry.name)
            );
            let e = Error::malformed("safetensors.bad-offsets", message);
            return self
                .visit
                .broken(e.span(start as u64, entry.offsets_at.len() as u64));
        }
        if let [Some(begin), Some(end)] = pair {
            entry.offsets = Some((begin, end));
        }
        Ok(())
    }

    /// A non-negative integer of at most 64 bits; `None` when it was something else and that
    /// was let pass.
    #[inline]
    fn unsigned(&mut self, name: &str, rule: &'static str, what: &str) -> Result<Option<u64>> {
        let next = self.scan.peek();
        let start = self.scan.at();
        if matches!(next, Some(b'0'..=b'9' | b'-')) {
            if let Number::Unsigned(n) = self.scan.number()? {
                return Ok(Some(n));
            }
            let text = self.scan.since(start);
            let e = Error::malformed(
                rule,
                format!(
                    "{what} of tensor {} must be integers from 0 to 2^64 - 1, found {}",
                    Shown(name),
                    clip(text)
                ),
            );
            self.visit.broken(e.span(start as u64, text.len() as u64))?;
        } else {
            let wanted = format!("{what} of tensor {} must be integers", Shown(name));
            self.other_kind(rule, &wanted)?;
        }
        Ok(None)
    }
}
