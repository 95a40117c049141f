//! Values that `torch.load(weights_only=True)` refuses, as plain dicts with the structure's own
//! tags (`docs/structure.md`).

use weighbridge_core::Result;
use weighbridge_core::model::{Dict, NdArray, Object, Value};

use super::state_out::{Out, hashable};
use crate::structure;

impl<'a> Out<'a, '_> {
    /// A mapping of a class torch does not allow, or with keys that cannot be hashed any more.
    pub(super) fn foreign_dict(&mut self, d: &'a Dict) -> Result<()> {
        let class = d.class.as_deref();
        let shown = class.unwrap_or("dict");
        self.changed(format!("{shown} becomes a plain tagged dict"));
        self.p.empty_dict();
        self.remember();
        if let Some(class) = class {
            self.key("$type")?;
            self.p.str(class)?;
            self.p.set_item();
        }
        self.key("$dict")?;
        if d.entries.iter().all(|(k, _)| hashable(k)) {
            self.p.empty_dict();
            self.entries(d)?;
        } else {
            self.p.empty_list();
            for (i, (k, v)) in d.entries.iter().enumerate() {
                self.p.mark();
                self.p.empty_list();
                self.p.mark();
                self.at("?", |s| s.value(k))?;
                let step = structure::step_name(k).unwrap_or_else(|| i.to_string());
                self.at(&step, |s| s.value(v))?;
                self.p.appends();
                self.p.appends();
            }
        }
        self.p.set_item();
        for (name, v) in &d.attributes {
            self.p.str(name)?;
            self.at(name, |s| s.value(v))?;
            self.p.set_item();
        }
        Ok(())
    }

    fn key(&mut self, key: &str) -> Result<()> {
        self.p.str(key)
    }

    /// `{tag: text}`.
    pub(super) fn tagged_text(&mut self, tag: &str, text: &str) -> Result<()> {
        self.changed(format!(
            "{} {text} becomes a plain tagged dict",
            tag.trim_start_matches('$')
        ));
        self.p.empty_dict();
        self.key(tag)?;
        self.p.str(text)?;
        self.p.set_item();
        Ok(())
    }

    /// `{tag: [items]}`.
    pub(super) fn tagged_list(&mut self, tag: &str, items: &'a [Value]) -> Result<()> {
        self.changed(format!(
            "a {} becomes a plain tagged dict",
            tag.trim_start_matches('$')
        ));
        self.p.empty_dict();
        self.remember();
        self.key(tag)?;
        self.p.empty_list();
        self.list_items(items)?;
        self.p.set_item();
        Ok(())
    }

    pub(super) fn ndarray(&mut self, a: &NdArray) -> Result<()> {
        self.changed("a NumPy array becomes a plain tagged dict with its bytes");
        self.p.empty_dict();
        self.p.mark();
        self.key("$ndarray")?;
        self.p.str(&a.dtype)?;
        self.key("shape")?;
        self.p.empty_list();
        self.p.mark();
        for &d in &a.shape {
            self.p.count(d);
        }
        self.p.appends();
        self.key("sha256")?;
        self.p.str(&a.sha256)?;
        self.key("data")?;
        self.p.bytes(&a.data)?;
        self.p.set_items();
        Ok(())
    }

    pub(super) fn np_scalar(&mut self, dtype: &str, text: &str, raw: &[u8]) -> Result<()> {
        self.changed(format!("a NumPy {dtype} becomes a plain tagged dict"));
        self.p.empty_dict();
        self.p.mark();
        for (key, value) in [("$npscalar", dtype), ("value", text)] {
            self.key(key)?;
            self.p.str(value)?;
        }
        self.key("raw")?;
        self.p.bytes(raw)?;
        self.p.set_items();
        Ok(())
    }

    pub(super) fn object(&mut self, o: &'a Object) -> Result<()> {
        self.changed(format!("{} becomes a plain tagged dict", o.class));
        self.p.empty_dict();
        self.remember();
        self.key("$object")?;
        self.p.str(&o.class)?;
        self.p.set_item();
        if !o.args.is_empty() {
            self.key("args")?;
            self.p.empty_list();
            self.at("args", |s| s.list_items(&o.args))?;
            self.p.set_item();
        }
        if !o.kwargs.is_empty() {
            self.key("kwargs")?;
            self.p.empty_dict();
            for (name, v) in &o.kwargs {
                self.p.str(name)?;
                self.at("kwargs", |s| s.at(name, |s| s.value(v)))?;
                self.p.set_item();
            }
            self.p.set_item();
        }
        let parts = [
            ("state", &o.state),
            ("items", &o.items),
            ("state_dict", &o.state_dict),
        ];
        for (name, part) in parts {
            if let Some(v) = part {
                self.key(name)?;
                // The reader continues an object's own path in its state.
                self.value(v)?;
                self.p.set_item();
            }
        }
        if let Some(text) = &o.text {
            self.key("str")?;
            self.p.str(text)?;
            self.p.set_item();
        }
        Ok(())
    }
}
