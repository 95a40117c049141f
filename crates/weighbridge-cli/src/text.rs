//! Text for people: sizes, counts, and strings of files made safe for a terminal.

use std::borrow::Cow;
use std::fmt::Write as _;

/// `s` with everything that could move the cursor, change colours or reorder text written as an
/// escape. Names and metadata come from files; a terminal must not obey them.
pub(crate) fn safe(s: &str) -> Cow<'_, str> {
    if !s.chars().any(unsafe_for_terminals) {
        return Cow::Borrowed(s);
    }
    let mut out = String::with_capacity(s.len() + 8);
    for c in s.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if unsafe_for_terminals(c) => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// Control characters, and the format characters that reorder or hide what stands around them.
pub(crate) fn unsafe_for_terminals(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{061c}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{2069}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// `s` made safe and cut to about `width` characters.
pub(crate) fn brief(s: &str, width: usize) -> String {
    // Cut first: a metadata value can be megabytes.
    let cut = s
        .char_indices()
        .nth(width)
        .map_or(s, |(i, _)| s.get(..i).unwrap_or_default());
    let mut out = safe(cut).into_owned();
    if cut.len() < s.len() {
        out.push('…');
    }
    out
}

/// `n` with its thousands apart: `1,234,567`.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, d) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(d);
    }
    out
}

/// `1 file`, `3 files`.
pub(crate) fn plural(n: u64, one: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{} {one}{s}", count(n))
}

const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];

/// `n` bytes in decimal units with three significant digits: `548 MB`, `1.02 kB`, `12 bytes`.
pub(crate) fn size(n: u64) -> String {
    if n < 1000 {
        return plural(n, "byte");
    }
    let mut value = n as f64 / 1000.0;
    let mut unit = 0;
    // 999.5 would round to "1000 kB".
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!(
        "{value:.decimals$} {}",
        UNITS.get(unit).copied().unwrap_or_default()
    )
}

/// Parses `5GB`, `500MB`, `1.5GiB`, `4096`: decimal units are powers of 1000, `iB` units of 1024.
pub(crate) fn parse_size(s: &str) -> Result<u64, String> {
    let bad = || format!("`{s}` is no size; write 5GB (10^9 bytes), 5GiB (2^30 bytes) or 4096");
    let t = s.trim();
    let split = t.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(t.len());
    let (number, unit) = t.split_at(split);
    let unit = unit.to_ascii_lowercase();
    let factor: u64 = match unit.as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "mb" => 1000 * 1000,
        "gb" => 1000 * 1000 * 1000,
        "tb" => 1000 * 1000 * 1000 * 1000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(bad()),
    };
    let number = number.trim();
    let n = if let Ok(whole) = number.parse::<u64>() {
        whole.checked_mul(factor)
    } else {
        // Digits and one point only: the float parser would take `inf` and exponents.
        if !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return Err(bad());
        }
        let value = number.parse::<f64>().map_err(|_| bad())? * factor as f64;
        (value < 9e18).then_some(value as u64)
    };
    match n {
        Some(0) | None => Err(bad()),
        Some(n) => Ok(n),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_of_files_cannot_drive_the_terminal() {
        assert!(matches!(safe("layer.0.weight — ü 語"), Cow::Borrowed(_)));
        assert_eq!(safe("a\x1b[31mb\n"), "a\\u{1b}[31mb\\n");
        assert_eq!(
            safe("\u{9b}2J\u{202e}gpj.exe\u{7f}"),
            "\\u{9b}2J\\u{202e}gpj.exe\\u{7f}"
        );
        assert_eq!(brief("abc\x1bdef", 4), "abc\\u{1b}…");
        assert_eq!(brief("abc", 3), "abc");
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(plural(1, "file"), "1 file");
        assert_eq!(plural(2, "file"), "2 files");
        for (n, text) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (999, "999 bytes"),
            (1000, "1.00 kB"),
            (1024, "1.02 kB"),
            (9_995, "10.0 kB"),
            (99_950, "100 kB"),
            (999_499, "999 kB"),
            (999_500, "1.00 MB"),
            (548_105_171, "548 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(size(n), text);
        }
    }

    #[test]
    fn sizes_parse_and_nonsense_is_refused() {
        for (text, n) in [
            ("4096", 4096),
            ("5GB", 5_000_000_000),
            ("500mb", 500_000_000),
            ("1GiB", 1 << 30),
            ("1.5 KiB", 1536),
            ("0.5kB", 500),
            ("7 B", 7),
        ] {
            assert_eq!(parse_size(text), Ok(n), "{text}");
        }
        for text in [
            "",
            "0",
            "GB",
            "5G",
            "-1",
            "1e3",
            "inf",
            "nan",
            "1..5MB",
            "99999999TB",
            "5 GB x",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
