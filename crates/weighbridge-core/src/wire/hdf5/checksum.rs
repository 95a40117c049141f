//! The checksum of the format's newer structures: Bob Jenkins' lookup3 (`hashlittle` with a seed
//! of 0), as the specification's section III says, and the Fletcher sum of the filter.

/// The checksum of `data`.
pub(super) fn lookup3(data: &[u8]) -> u32 {
    let start = 0xdead_beef_u32.wrapping_add(data.len() as u32);
    let (mut a, mut b, mut c) = (start, start, start);
    let mut rest = data;
    while rest.len() > 12
        && let Some((block, after)) = rest.split_first_chunk::<12>()
    {
        let [x, y, z] = words(block);
        (a, b, c) = mix(a.wrapping_add(x), b.wrapping_add(y), c.wrapping_add(z));
        rest = after;
    }
    if rest.is_empty() {
        return c;
    }
    let mut last = [0u8; 12];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    let [x, y, z] = words(&last);
    finish(a.wrapping_add(x), b.wrapping_add(y), c.wrapping_add(z))
}

fn words(block: &[u8; 12]) -> [u32; 3] {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = *block;
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
        u32::from_le_bytes([i, j, k, l]),
    ]
}

fn mix(mut a: u32, mut b: u32, mut c: u32) -> (u32, u32, u32) {
    let step = |x: &mut u32, y: u32, z: &mut u32, n: u32| {
        *x = x.wrapping_sub(*z) ^ z.rotate_left(n);
        *z = z.wrapping_add(y);
    };
    step(&mut a, b, &mut c, 4);
    step(&mut b, c, &mut a, 6);
    step(&mut c, a, &mut b, 8);
    step(&mut a, b, &mut c, 16);
    step(&mut b, c, &mut a, 19);
    step(&mut c, a, &mut b, 4);
    (a, b, c)
}

fn finish(mut a: u32, mut b: u32, mut c: u32) -> u32 {
    let step = |x: &mut u32, y: u32, n: u32| *x = (*x ^ y).wrapping_sub(y.rotate_left(n));
    step(&mut c, b, 14);
    step(&mut a, c, 11);
    step(&mut b, a, 25);
    step(&mut c, b, 16);
    step(&mut a, c, 4);
    step(&mut b, a, 14);
    step(&mut c, b, 24);
    c
}

/// The Fletcher sum of the filter: sixteen-bit words, the high byte first, and an odd last byte as
/// the high half of a word (`H5_checksum_fletcher32`).
pub(super) fn fletcher32(data: &[u8]) -> u32 {
    let (mut low, mut high) = (0u32, 0u32);
    // 360 words are the most that cannot overflow the sums.
    for block in data.chunks(720) {
        for word in block.chunks(2) {
            let (a, b) = match *word {
                [a, b] => (a, b),
                [a] => (a, 0),
                _ => (0, 0),
            };
            low += u32::from(a) << 8 | u32::from(b);
            high += low;
        }
        low = (low & 0xffff) + (low >> 16);
        high = (high & 0xffff) + (high >> 16);
    }
    low = (low & 0xffff) + (low >> 16);
    high = (high & 0xffff) + (high >> 16);
    high << 16 | low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lookup3_gives_what_its_author_says() {
        // The self-tests of Jenkins' lookup3.c.
        assert_eq!(lookup3(b""), 0xdead_beef);
        assert_eq!(lookup3(b"Four score and seven years ago"), 0x1777_0551);
    }

    #[test]
    fn the_sum_of_the_filter_counts_an_odd_byte_as_a_high_one() {
        assert_eq!(fletcher32(&[1, 2]), 0x0102_0102);
        assert_eq!(fletcher32(&[1]), 0x0100_0100);
        // Sums are kept within sixteen bits, however long the data.
        assert_eq!(fletcher32(&[0xff; 2000]), 0xffff_ffff);
    }
}
