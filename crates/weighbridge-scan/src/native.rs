//! Native programs by their first bytes.

/// What kind of machine or byte code a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum NativeKind {
    Elf,
    Pe,
    /// A DOS program without a Windows part.
    Dos,
    MachO,
    /// Several Mach-O programs in one file.
    MachOFat,
    JavaClass,
    /// Android's byte code.
    Dex,
    WebAssembly,
    /// Compiled Python, `.pyc`.
    PythonBytecode,
    /// LLVM bitcode.
    Llvm,
    Lua,
    /// A Windows shortcut, which runs what it names.
    WindowsLink,
    /// A Windows installer or another compound file.
    Compound,
    /// A static library of object files.
    Archive,
}

impl NativeKind {
    /// What reports call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Elf => "ELF",
            Self::Pe => "Windows PE",
            Self::Dos => "DOS",
            Self::MachO => "Mach-O",
            Self::MachOFat => "Mach-O (universal)",
            Self::JavaClass => "Java class",
            Self::Dex => "Android DEX",
            Self::WebAssembly => "WebAssembly",
            Self::PythonBytecode => "Python bytecode",
            Self::Llvm => "LLVM bitcode",
            Self::Lua => "Lua bytecode",
            Self::WindowsLink => "Windows shortcut",
            Self::Compound => "Windows compound file",
            Self::Archive => "object archive",
        }
    }
}

/// What `head`, the first bytes of a file (64 KiB tell everything, 64 bytes most), is as a
/// program. Formats by their specifications: System V ABI (ELF), Microsoft's PE format, Apple's
/// `mach-o/loader.h` and `mach-o/fat.h`, JVM specification 4.1, `dalvik/dex-format`, WebAssembly
/// core 5.5.16, CPython's `importlib/_bootstrap_external.py`, MS-SHLLINK 2.1, MS-CFB 2.2.
pub fn detect(head: &[u8]) -> Option<NativeKind> {
    match head {
        [0x7f, b'E', b'L', b'F', 1 | 2, 1 | 2, 1, ..] => Some(NativeKind::Elf),
        [b'M', b'Z', ..] => dos(head),
        [0xfe, 0xed, 0xfa, 0xce | 0xcf, ..] | [0xce | 0xcf, 0xfa, 0xed, 0xfe, ..] => {
            (head.len() >= 28).then_some(NativeKind::MachO)
        }
        [0xca, 0xfe, 0xba, 0xbe | 0xbf, a, b, c, d, ..] => {
            // The same magic: a Java class has its version here (45 and above), a universal
            // program the number of its parts.
            let n = u32::from_be_bytes([*a, *b, *c, *d]);
            Some(if (1..45).contains(&n) {
                NativeKind::MachOFat
            } else {
                NativeKind::JavaClass
            })
        }
        [0, b'a', b's', b'm', 1..=2, 0, ..] => Some(NativeKind::WebAssembly),
        [b'd', b'e', b'x', b'\n', b'0', b'3' | b'4', _, 0, ..] => Some(NativeKind::Dex),
        [b'B', b'C', 0xc0, 0xde, ..] => Some(NativeKind::Llvm),
        [0x1b, b'L', b'u', b'a', 0x50..=0x5f, ..] => Some(NativeKind::Lua),
        [0x1b, b'L', b'J', 1..=3, ..] => Some(NativeKind::Lua),
        [0x4c, 0, 0, 0, 0x01, 0x14, 0x02, 0, ..] => Some(NativeKind::WindowsLink),
        [0xd0, 0xcf, 0x11, 0xe0, 0xa1, 0xb1, 0x1a, 0xe1, ..] => Some(NativeKind::Compound),
        [b'!', b'<', b'a', b'r', b'c', b'h', b'>', b'\n', ..] => Some(NativeKind::Archive),
        // A version number, carriage return and line feed; then flags or a date (PEP 552).
        [_, version, b'\r', b'\n', ..]
            if matches!(version, 0x0c..=0x0f | 0xf2..=0xf3) && head.len() > 16 =>
        {
            // A code object follows: marshal's `c`, perhaps with the reference flag.
            let code = |at: usize| matches!(head.get(at), Some(b'c' | 0xe3));
            (code(8) || code(12) || code(16)).then_some(NativeKind::PythonBytecode)
        }
        _ => None,
    }
}

/// A DOS program: its own header says where that of Windows lies.
fn dos(head: &[u8]) -> Option<NativeKind> {
    let at = head
        .get(0x3c..0x40)?
        .try_into()
        .ok()
        .map(u32::from_le_bytes)?;
    let at = usize::try_from(at).ok()?;
    match head.get(at..at.checked_add(4)?) {
        Some(b"PE\0\0") => Some(NativeKind::Pe),
        Some([b'N' | b'L', b'E' | b'X', ..]) => Some(NativeKind::Dos),
        // Beyond what was read: a plausible place and plausible sizes have to do.
        None if head.len() < at && at < 1 << 20 && at % 4 == 0 => Some(NativeKind::Pe),
        _ => None,
    }
}

/// What an interpreter line names: `#!/usr/bin/env python3` gives `python3`.
pub fn interpreter(head: &[u8]) -> Option<&str> {
    let line = head.strip_prefix(b"#!")?;
    let line = line.split(|b| *b == b'\n').next()?;
    let line = std::str::from_utf8(line.get(..line.len().min(256))?).ok()?;
    let mut words = line.split_whitespace();
    let first = words.next()?.rsplit('/').next()?;
    if first != "env" {
        return Some(first);
    }
    words.find(|w| !w.starts_with('-') && !w.contains('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_known_by_its_first_bytes() {
        let pad = |head: &[u8]| {
            let mut v = head.to_vec();
            v.resize(128, 0);
            v
        };
        for (head, kind) in [
            (&b"\x7fELF\x02\x01\x01"[..], NativeKind::Elf),
            (b"\xcf\xfa\xed\xfe\x07\0\0\x01", NativeKind::MachO),
            (b"\xfe\xed\xfa\xce", NativeKind::MachO),
            (b"\xca\xfe\xba\xbe\0\0\0\x02", NativeKind::MachOFat),
            (b"\xca\xfe\xba\xbe\0\0\0\x34", NativeKind::JavaClass),
            (b"\0asm\x01\0\0\0", NativeKind::WebAssembly),
            (b"dex\n035\0", NativeKind::Dex),
            (b"BC\xc0\xde", NativeKind::Llvm),
            (b"\x1bLuaS", NativeKind::Lua),
            (b"L\0\0\0\x01\x14\x02\0", NativeKind::WindowsLink),
            (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", NativeKind::Compound),
            (b"!<arch>\n", NativeKind::Archive),
            (
                b"\xa7\x0d\r\n\0\0\0\0\x01\x02\x03\x04\x05\0\0\0\xe3",
                NativeKind::PythonBytecode,
            ),
        ] {
            assert_eq!(detect(&pad(head)), Some(kind), "{kind:?}");
        }
        let mut pe = pad(b"MZ");
        pe[0x3c] = 0x40;
        pe[0x40..0x44].copy_from_slice(b"PE\0\0");
        assert_eq!(detect(&pe), Some(NativeKind::Pe));
    }

    #[test]
    fn text_and_weights_are_none() {
        for head in [
            &b"MZ is the initials of Mark Zbikowski and this is a text of some length, nothing more"[..],
            b"",
            b"\x7fEL",
            b"\x80\x04\x95",
            b"PK\x03\x04",
            b"GGUF\x03\0\0\0",
            b"{\"a\": 1}",
            b"\x89HDF\r\n\x1a\n",
            b"a\x0d\r\nsome text that is longer",
        ] {
            assert_eq!(detect(head), None, "{}", head.escape_ascii());
        }
    }

    #[test]
    fn interpreters_are_named() {
        assert_eq!(interpreter(b"#!/bin/sh\nx"), Some("sh"));
        assert_eq!(
            interpreter(b"#!/usr/bin/env -S python3 -u\n"),
            Some("python3")
        );
        assert_eq!(interpreter(b"#! /usr/bin/perl"), Some("perl"));
        assert_eq!(interpreter(b"# no"), None);
    }
}
