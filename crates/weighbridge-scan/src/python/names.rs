//! Identifiers as Python reads them.

/// Whether a byte may stand in an identifier. Any character beyond ASCII counts: which of them
/// Python takes makes no difference to what a text does.
pub(super) fn is_name_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80
}

/// An identifier in the form that Python compares: NFKC (PEP 3131), as far as it leads to ASCII
/// letters and digits. `𝓮𝔁𝓮𝓬` and `ｅｘｅｃ` are `exec`.
pub(super) fn normalised(word: &str) -> String {
    if word.is_ascii() {
        return word.to_owned();
    }
    word.chars().map(ascii_form).collect()
}

/// The ASCII letter or digit that NFKC makes of `c`, or `c` itself.
fn ascii_form(c: char) -> char {
    const LETTERS: &[u8; 52] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let code = u32::from(c);
    let pick = |table: &[u8], i: u32| table.get(i as usize).map_or(c, |&b| char::from(b));
    match code {
        // Fullwidth forms.
        0xff01..=0xff5e => char::from_u32(code - 0xfee0).unwrap_or(c),
        // Mathematical alphanumeric symbols: thirteen alphabets, then Greek, then five times digits.
        0x1d400..=0x1d6a3 => pick(LETTERS, (code - 0x1d400) % 52),
        0x1d7ce..=0x1d7ff => pick(b"0123456789", (code - 0x1d7ce) % 10),
        // Letterlike symbols that fill the holes of those alphabets, and others of their kind.
        _ => match c {
            'ª' | 'ᵃ' | 'ₐ' => 'a',
            'ᵇ' => 'b',
            'ᶜ' | 'ⅽ' => 'c',
            'ᵈ' | 'ⅆ' | 'ⅾ' => 'd',
            'ᵉ' | 'ₑ' | 'ℯ' | 'ⅇ' => 'e',
            'ᶠ' => 'f',
            'ᵍ' | 'ℊ' => 'g',
            'ʰ' | 'ₕ' | 'ℎ' => 'h',
            'ⁱ' | 'ᵢ' | 'ℹ' | 'ⅈ' | 'ⅰ' => 'i',
            'ʲ' | 'ⱼ' | 'ⅉ' => 'j',
            'ᵏ' | 'ₖ' => 'k',
            'ˡ' | 'ₗ' | 'ℓ' | 'ⅼ' => 'l',
            'ᵐ' | 'ₘ' | 'ⅿ' => 'm',
            'ⁿ' | 'ₙ' => 'n',
            'º' | 'ᵒ' | 'ₒ' | 'ℴ' => 'o',
            'ᵖ' | 'ₚ' => 'p',
            'ʳ' | 'ᵣ' => 'r',
            'ˢ' | 'ₛ' | 'ſ' => 's',
            'ᵗ' | 'ₜ' => 't',
            'ᵘ' | 'ᵤ' => 'u',
            'ᵛ' | 'ᵥ' | 'ⅴ' => 'v',
            'ʷ' => 'w',
            'ˣ' | 'ₓ' | 'ⅹ' => 'x',
            'ʸ' => 'y',
            'ᶻ' => 'z',
            'ℬ' | 'ᴮ' => 'B',
            'ℂ' | 'ℭ' | 'Ⅽ' => 'C',
            'ⅅ' | 'ᴰ' | 'Ⅾ' => 'D',
            'ℰ' | 'ᴱ' => 'E',
            'ℱ' => 'F',
            'ᴳ' => 'G',
            'ℋ' | 'ℌ' | 'ℍ' | 'ᴴ' => 'H',
            'ℐ' | 'ℑ' | 'ᴵ' | 'Ⅰ' => 'I',
            'ᴶ' => 'J',
            'K' | 'ᴷ' => 'K',
            'ℒ' | 'ᴸ' | 'Ⅼ' => 'L',
            'ℳ' | 'ᴹ' | 'Ⅿ' => 'M',
            'ℕ' | 'ᴺ' => 'N',
            'ᴼ' => 'O',
            'ℙ' | 'ᴾ' => 'P',
            'ℚ' => 'Q',
            'ℛ' | 'ℜ' | 'ℝ' | 'ᴿ' => 'R',
            'ᵀ' => 'T',
            'ᵁ' => 'U',
            'Ⅴ' => 'V',
            'ᵂ' => 'W',
            'Ⅹ' => 'X',
            'ℤ' | 'ℨ' => 'Z',
            _ => c,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn look_alikes_that_python_folds_become_ascii() {
        for word in ["𝓮𝔁𝓮𝓬", "ｅｘｅｃ", "𝐞𝚡𝖾𝘤", "ℯˣᵉᶜ", "exec"]
        {
            assert_eq!(normalised(word), "exec", "{word}");
        }
        // Cyrillic letters look alike and are others.
        assert_ne!(normalised("ехес"), "exec");
    }
}
