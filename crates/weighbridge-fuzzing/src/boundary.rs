//! Where one field or record of a file ends and the next begins: the places at which a cut file
//! is most likely to be misread. Found without our parsers, which are what is being tested.

/// Above this size, only boundaries are cut at; below, every byte is one.
const SMALL: usize = 2048;

/// The positions to cut `data` at, ascending, without 0 and the whole length.
pub fn boundaries(data: &[u8]) -> Vec<usize> {
    let mut at: Vec<usize> = if data.len() <= SMALL {
        (1..data.len()).collect()
    } else {
        let mut at = Vec::new();
        if data.starts_with(b"PK") {
            zip(data, &mut at);
        } else if data.get(8) == Some(&b'{') {
            safetensors(data, &mut at);
        } else {
            stream(data, &mut at);
        }
        at
    };
    at.retain(|&n| n > 0 && n < data.len());
    at.sort_unstable();
    at.dedup();
    at
}

/// Around every record signature of a zip archive: its fields, its name, its end.
fn zip(data: &[u8], out: &mut Vec<usize>) {
    // The fixed parts of the local header, the central entry, the end record, the zip64 end
    // record, its locator and the data descriptor (APPNOTE.TXT 4.3).
    let kinds: [(&[u8], &[usize]); 6] = [
        (b"PK\x03\x04", &[4, 6, 8, 10, 12, 14, 18, 22, 26, 28, 30]),
        (
            b"PK\x01\x02",
            &[4, 6, 8, 10, 12, 16, 20, 24, 28, 30, 32, 34, 36, 38, 42, 46],
        ),
        (b"PK\x05\x06", &[4, 6, 8, 10, 12, 16, 20, 22]),
        (b"PK\x06\x06", &[4, 12, 14, 16, 20, 24, 32, 40, 48, 56]),
        (b"PK\x06\x07", &[4, 8, 16, 20]),
        (b"PK\x07\x08", &[4, 8, 12, 16]),
    ];
    for (signature, fields) in kinds {
        for start in memchr::memmem::find_iter(data, signature) {
            out.push(start);
            out.extend(fields.iter().map(|f| start + f));
            // Name and extra field of a local header lie behind its fixed part.
            let half = |at: usize| match data.get(start + at..start + at + 2) {
                Some(&[a, b]) => usize::from(u16::from_le_bytes([a, b])),
                _ => 0,
            };
            if signature == b"PK\x03\x04" {
                out.extend([start + 30 + half(26), start + 30 + half(26) + half(28)]);
            }
            if signature == b"PK\x01\x02" {
                out.extend([start + 46 + half(28), start + 46 + half(28) + half(30)]);
            }
        }
    }
}

/// Every punctuation mark of the header, its end, and the borders of the tensors.
fn safetensors(data: &[u8], out: &mut Vec<usize>) {
    out.extend(1..=8);
    let len = data
        .first_chunk::<8>()
        .map_or(0, |b| u64::from_le_bytes(*b) as usize);
    let header = data.get(8..8usize.saturating_add(len)).unwrap_or(&[]);
    for (i, b) in header.iter().enumerate() {
        if matches!(b, b'{' | b'}' | b'[' | b']' | b',' | b':' | b'"') {
            out.extend([8 + i, 9 + i]);
        }
    }
    let begin = 8 + header.len();
    out.push(begin);
    // Any number in the header may be an offset; most are, and the rest do no harm.
    for word in header.split(|b| !b.is_ascii_digit()) {
        if let Some(n) = std::str::from_utf8(word)
            .ok()
            .and_then(|s| s.parse::<usize>().ok())
        {
            out.extend([
                begin.saturating_add(n).saturating_sub(1),
                begin.saturating_add(n),
            ]);
        }
    }
}

/// The first bytes, every tar block, and around the opcodes that end pickles, in anything else.
fn stream(data: &[u8], out: &mut Vec<usize>) {
    out.extend(1..SMALL / 4);
    out.extend((512..data.len()).step_by(512).take(64));
    // A STOP and a PROTO behind it: where one pickle of a legacy stream ends.
    for at in memchr::memchr_iter(b'.', data) {
        if data.get(at + 1) == Some(&0x80) {
            out.extend([at, at + 1, at + 2, at + 3]);
        }
    }
    // A BINUNICODE or a BINPERSID: names and storages.
    for at in memchr::memchr2_iter(b'X', b'Q', data).take(400) {
        out.extend([at, at + 1, at + 5]);
    }
    out.extend((1..16).map(|n| data.len().saturating_sub(n)));
}

#[cfg(test)]
mod tests {
    use super::boundaries;

    #[test]
    fn small_files_are_cut_at_every_byte() {
        assert_eq!(boundaries(b"abcd"), [1, 2, 3]);
        assert!(boundaries(b"").is_empty());
    }

    #[test]
    fn a_large_safetensors_file_is_cut_around_its_header_and_tensors() {
        let header = br#"{"a":{"dtype":"U8","shape":[4000],"data_offsets":[0,4000]}}"#;
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header);
        file.extend([0; 4000]);
        let at = boundaries(&file);
        for n in [1, 7, 8, 9, 8 + header.len(), file.len() - 1] {
            assert!(at.contains(&n), "{n} is not in {at:?}");
        }
    }

    #[test]
    fn a_large_zip_archive_is_cut_around_its_records() {
        let mut file = b"PK\x03\x04".to_vec();
        file.extend([0; 3000]);
        file.extend(b"PK\x05\x06");
        file.extend([0; 18]);
        let at = boundaries(&file);
        for n in [4, 30, 3004, 3008, 3020] {
            assert!(at.contains(&n), "{n} is not in {at:?}");
        }
    }
}
