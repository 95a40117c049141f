//! Fields on their way into a file. Numbers of fields are those of `onnx/onnx.proto3`.

/// A message under construction, or any run of fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(pub Vec<u8>);

impl Fields {
    /// No fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a number (`int32`, `int64`, enums).
    #[must_use]
    pub fn int(mut self, number: u32, value: i64) -> Self {
        tag(&mut self.0, number, 0);
        varint(&mut self.0, value as u64);
        self
    }

    /// Adds a `float`.
    #[must_use]
    pub fn float(self, number: u32, value: f32) -> Self {
        self.fixed32(number, value.to_bits())
    }

    /// Adds a `fixed32`.
    #[must_use]
    pub fn fixed32(mut self, number: u32, value: u32) -> Self {
        tag(&mut self.0, number, 5);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Adds text, bytes or a message.
    #[must_use]
    pub fn bytes(mut self, number: u32, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        head(&mut self.0, number, value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    /// Adds text, unless it is empty.
    #[must_use]
    pub fn text(self, number: u32, value: &str) -> Self {
        match value {
            "" => self,
            value => self.bytes(number, value),
        }
    }

    /// Adds packed integers, unless there are none.
    #[must_use]
    pub fn ints(self, number: u32, values: &[i64]) -> Self {
        let mut packed = Vec::new();
        for &v in values {
            varint(&mut packed, v as u64);
        }
        match packed.is_empty() {
            true => self,
            false => self.bytes(number, packed),
        }
    }

    /// Adds unpacked integers: what the reference writes for `repeated int64` of its `proto2`.
    #[must_use]
    pub fn each_int(mut self, number: u32, values: &[i64]) -> Self {
        for &v in values {
            self = self.int(number, v);
        }
        self
    }

    /// Adds a `StringStringEntryProto`.
    #[must_use]
    pub fn entry(self, number: u32, key: &str, value: &str) -> Self {
        self.bytes(number, Self::new().bytes(1, key).bytes(2, value))
    }
}

impl AsRef<[u8]> for Fields {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Tag and length of a length-delimited field.
pub fn head(out: &mut Vec<u8>, number: u32, len: u64) {
    tag(out, number, 2);
    varint(out, len);
}

/// Bytes that tag and length take.
pub fn head_len(number: u32, len: u64) -> u64 {
    let mut out = Vec::with_capacity(16);
    head(&mut out, number, len);
    out.len() as u64
}

fn tag(out: &mut Vec<u8>, number: u32, wire: u64) {
    varint(out, u64::from(number) << 3 | wire);
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}
