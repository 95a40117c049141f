//! Data written as text: base64 and its kin, hexadecimal, and what is compressed inside.

use std::io::Read;

/// Most bytes that a compressed constant may expand to.
const INFLATED: u64 = 8 << 20;

/// An encoding that hides data in a constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Codec {
    /// Standard or URL alphabet, padded or not, in lines or not (RFC 4648).
    Base64,
    Base32,
    Hex,
    /// Python's `base64.b85encode` (the alphabet of RFC 1924).
    Base85,
    /// Adobe's, `base64.a85encode`.
    Ascii85,
    Zlib,
    Gzip,
    Rot13,
}

impl Codec {
    /// What reports call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Base64 => "base64",
            Self::Base32 => "base32",
            Self::Hex => "hex",
            Self::Base85 => "base85",
            Self::Ascii85 => "ascii85",
            Self::Zlib => "zlib",
            Self::Gzip => "gzip",
            Self::Rot13 => "rot13",
        }
    }
}

/// Decodes the whole of `data`; `None` when any of it is not in the encoding. White space around
/// and between is skipped where decoders skip it.
pub fn decode(codec: Codec, data: &[u8]) -> Option<Vec<u8>> {
    match codec {
        Codec::Base64 => base64(data),
        Codec::Base32 => base32(data),
        Codec::Hex => hex(data),
        Codec::Base85 => base85(data, b85_digit),
        Codec::Ascii85 => ascii85(data),
        Codec::Zlib => inflate(flate2::read::ZlibDecoder::new(data)),
        Codec::Gzip => inflate(flate2::read::GzDecoder::new(data)),
        Codec::Rot13 => Some(data.iter().map(|&b| rot13(b)).collect()),
    }
}

fn inflate(reader: impl Read) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    reader.take(INFLATED).read_to_end(&mut out).ok()?;
    Some(out)
}

fn rot13(b: u8) -> u8 {
    match b {
        b'a'..=b'z' => (b - b'a' + 13) % 26 + b'a',
        b'A'..=b'Z' => (b - b'A' + 13) % 26 + b'A',
        _ => b,
    }
}

/// The value of a base64 digit in either alphabet.
fn base64_digit(b: u8) -> Option<u32> {
    Some(u32::from(match b {
        b'A'..=b'Z' => b - b'A',
        b'a'..=b'z' => b - b'a' + 26,
        b'0'..=b'9' => b - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    }))
}

fn base64(data: &[u8]) -> Option<Vec<u8>> {
    bits(data, 6, base64_digit)
}

fn base32(data: &[u8]) -> Option<Vec<u8>> {
    bits(data, 5, |b| {
        Some(u32::from(match b {
            b'A'..=b'Z' => b - b'A',
            b'a'..=b'z' => b - b'a',
            b'2'..=b'7' => b - b'2' + 26,
            _ => return None,
        }))
    })
}

/// Digits of `width` bits, then padding. The bits left over must be zero, as encoders leave them.
fn bits(data: &[u8], width: u32, digit: impl Fn(u8) -> Option<u32>) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(data.len() / 8 * width as usize + 8);
    let (mut acc, mut have) = (0u32, 0u32);
    let mut padding = 0usize;
    for &b in data {
        if b.is_ascii_whitespace() {
            continue;
        }
        if b == b'=' {
            padding += 1;
            continue;
        }
        if padding > 0 {
            return None;
        }
        acc = (acc << width | digit(b)?) & 0xffff;
        have += width;
        if have >= 8 {
            have -= 8;
            out.push((acc >> have & 0xff) as u8);
        }
    }
    let rest = acc & ((1 << have) - 1);
    (have < width && padding <= 6 && rest == 0 || have == 0).then_some(out)
}

fn hex(data: &[u8]) -> Option<Vec<u8>> {
    let data = data.trim_ascii();
    let data = data.strip_prefix(b"0x").unwrap_or(data);
    let mut out = Vec::with_capacity(data.len() / 2);
    let mut high = None;
    let mut at = 0;
    while let Some(&b) = data.get(at) {
        // `\x41\x42` and `41 42` and `41:42` are ways to write the same.
        if high.is_none() {
            if data.get(at..at + 2) == Some(b"\\x") {
                at += 2;
                continue;
            }
            if b.is_ascii_whitespace() || b == b':' {
                at += 1;
                continue;
            }
        }
        let digit = char::from(b).to_digit(16)? as u8;
        match high.take() {
            None => high = Some(digit),
            Some(h) => out.push(h << 4 | digit),
        }
        at += 1;
    }
    high.is_none().then_some(out)
}

fn b85_digit(b: u8) -> Option<u32> {
    const DIGITS: &[u8; 85] =
        b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";
    DIGITS.iter().position(|&d| d == b).map(|n| n as u32)
}

/// Groups of five digits of base 85, each four bytes.
fn base85(data: &[u8], digit: impl Fn(u8) -> Option<u32>) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(data.len() / 5 * 4 + 4);
    for group in data.chunks(5) {
        let mut n = 0u64;
        for i in 0..5 {
            // A short group is filled with the highest digit.
            let d = group.get(i).map_or(Some(84), |&b| digit(b))?;
            n = n * 85 + u64::from(d);
        }
        let n = u32::try_from(n).ok()?;
        let keep = group.len().checked_sub(1)?;
        out.extend_from_slice(n.to_be_bytes().get(..keep)?);
    }
    Some(out)
}

fn ascii85(data: &[u8]) -> Option<Vec<u8>> {
    let data = data.trim_ascii();
    let data = data.strip_prefix(b"<~").unwrap_or(data);
    let data = data.strip_suffix(b"~>").unwrap_or(data);
    let mut plain = Vec::with_capacity(data.len());
    for &b in data {
        match b {
            b if b.is_ascii_whitespace() => {}
            b'z' if plain.len() % 5 == 0 => plain.extend_from_slice(b"!!!!!"),
            b => plain.push(b),
        }
    }
    base85(&plain, |b| {
        (b'!'..=b'u').contains(&b).then(|| u32::from(b - b'!'))
    })
}

/// Shortest constant that is taken for an encoding.
const SHORTEST: usize = 12;

/// Base64 and hexadecimal, then those that hardly anything but an attack uses.
const ENCODINGS: [Codec; 5] = [
    Codec::Hex,
    Codec::Base64,
    Codec::Base32,
    Codec::Base85,
    Codec::Ascii85,
];

/// Digits decoded to see whether the rest is worth it.
const HEAD: usize = 64;

/// The encodings `data` as a whole may be in, with what it decodes to. Ordinary text costs a look
/// at its first bytes.
pub fn decodings(data: &[u8]) -> Vec<(Codec, Vec<u8>)> {
    let mut out = Vec::new();
    if data.len() < SHORTEST {
        return out;
    }
    if let Some(codec) = compressed(data) {
        out.extend(decode(codec, data).map(|d| (codec, d)));
        return out;
    }
    let text = data_url(data.trim_ascii());
    let head = text.get(..HEAD.min(text.len())).unwrap_or_default();
    for codec in ENCODINGS {
        if !promising(codec, head, text.len()) {
            continue;
        }
        if let Some(d) = decode(codec, text)
            && worth_it(codec, &d)
        {
            out.push((codec, d));
        }
    }
    out
}

/// Whether `data` may be in one of the encodings, by a glance at its first bytes.
pub(crate) fn may_decode(data: &[u8]) -> bool {
    if data.len() < SHORTEST {
        return false;
    }
    let text = data_url(data.trim_ascii());
    let head = text.get(..HEAD.min(text.len())).unwrap_or_default();
    compressed(data).is_some()
        || ENCODINGS
            .into_iter()
            .any(|codec| promising(codec, head, text.len()))
}

/// Whether the first digits are digits and give the beginning of something.
fn promising(codec: Codec, head: &[u8], len: usize) -> bool {
    let group = match codec {
        Codec::Base64 => 4,
        Codec::Base32 => 8,
        Codec::Base85 | Codec::Ascii85 => 5,
        _ => 2,
    };
    // Whole groups of the head decode by themselves, unless lines break them.
    let whole = if head.len() < len {
        head.len() / group * group
    } else {
        head.len()
    };
    let cut = head.get(..whole).unwrap_or_default();
    if cut.iter().any(u8::is_ascii_whitespace) && matches!(codec, Codec::Base64 | Codec::Hex) {
        return cut.iter().all(|&b| {
            b.is_ascii_whitespace() || b == b'=' || base64_digit(b).is_some() || b == b':'
        });
    }
    decode(codec, cut).is_some_and(|d| worth_it(codec, &d))
}

/// Whether decoded bytes may be a pickle, code, a command or a further layer. Anything looks like
/// digits of base 85, so there only the unmistakable counts.
fn worth_it(codec: Codec, data: &[u8]) -> bool {
    let Some(&first) = data.first() else {
        return false;
    };
    let binary = matches!((first, data.get(1)), (0x80, Some(0..=5))) || compressed(data).is_some();
    if matches!(codec, Codec::Base85 | Codec::Ascii85 | Codec::Base32) {
        return binary || data.len() >= 8 && is_printable(data.get(..48).unwrap_or(data));
    }
    binary
        || is_printable(data.get(..16).unwrap_or(data))
        || data.starts_with(b"(")
        || data.starts_with(b"c")
}

fn is_printable(data: &[u8]) -> bool {
    data.iter()
        .all(|b| (0x20..0x7f).contains(b) || matches!(b, b'\n' | b'\r' | b'\t'))
}

/// The compression that the first bytes name.
fn compressed(data: &[u8]) -> Option<Codec> {
    match data {
        [0x1f, 0x8b, 8, ..] => Some(Codec::Gzip),
        // RFC 1950: method 8, window up to 32 KiB, a checksum over the two bytes.
        [a, b, ..]
            if a & 0x0f == 8
                && a >> 4 <= 7
                && b & 0x20 == 0
                && (u16::from(*a) << 8 | u16::from(*b)) % 31 == 0
                && data.len() > 8 =>
        {
            Some(Codec::Zlib)
        }
        _ => None,
    }
}

/// What a `data:` address holds, or the text itself.
fn data_url(text: &[u8]) -> &[u8] {
    let Some(rest) = text.strip_prefix(b"data:") else {
        return text;
    };
    let head = rest.get(..rest.len().min(128)).unwrap_or_default();
    match head.windows(8).position(|w| w == b";base64,") {
        Some(at) => rest.get(at + 8..).unwrap_or_default(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_encoding_gives_back_what_python_encoded() {
        // base64.b64encode(b"os.system('x')") and its kin, Python 3.11.
        let want = b"os.system('x')".to_vec();
        for (codec, text) in [
            (Codec::Base64, "b3Muc3lzdGVtKCd4Jyk="),
            (Codec::Base64, "b3Muc3lz\ndGVtKCd4Jyk"),
            (Codec::Base32, "N5ZS443ZON2GK3JIE54COKI="),
            (Codec::Hex, "6f732e73797374656d2827782729"),
            (Codec::Hex, "6F 73 2e 73 79 73 74 65 6d 28 27 78 27 29"),
            (
                Codec::Hex,
                r"\x6f\x73\x2e\x73\x79\x73\x74\x65\x6d\x28\x27\x78\x27\x29",
            ),
            (Codec::Base85, "Z*wkld2@7SZ73&rCn*"),
            (Codec::Ascii85, "<~Df[OPH#n(=D($cV-Rf~>"),
            (Codec::Rot13, "bf.flfgrz('k')"),
        ] {
            assert_eq!(decode(codec, text.as_bytes()), Some(want.clone()), "{text}");
        }
        assert_eq!(decode(Codec::Base64, b"not base64!"), None);
        assert_eq!(decode(Codec::Hex, b"abc"), None);
    }

    #[test]
    fn ordinary_text_is_no_encoding() {
        for text in [
            "a model of images",
            "bert-base-uncased-finetuned",
            "",
            "0123456789abcdef0123456789abcdef01234567",
        ] {
            assert_eq!(decodings(text.as_bytes()), [], "{text}");
        }
        let got = decodings(b"b3Muc3lzdGVtKCd4Jyk=");
        assert_eq!(got, [(Codec::Base64, b"os.system('x')".to_vec())]);
        assert_eq!(
            decodings(b"data:text/plain;base64,b3Muc3lzdGVtKCd4Jyk=").len(),
            1
        );
    }
}
