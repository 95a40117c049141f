//! Every width against the others.

use super::portable::Four;
use super::*;

/// Every operation over every pair of `CASES`, as bits in the order of the cases.
enum Everything {}

const CASES: [f32; 16] = [
    0.0,
    -0.0,
    1.0,
    -1.5,
    2.5,
    1e-42,
    -1e-45,
    1e30,
    -3e38,
    8_388_608.5,
    -2_147_483_648.0,
    3e9,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    0.1,
];

fn calculate<S: Lanes>(s: S, a: S::F, b: S::F, put: &mut impl FnMut(S::I)) {
    let (i, j) = (a.bits(), b.trunc());
    for x in [
        a + b,
        a - b,
        a * b,
        a / b,
        -a,
        a.abs(),
        a.sqrt(),
        a.min(b),
        a.max(b),
    ] {
        // Which NaN comes out is not settled.
        put(x.eq(x).select_i(x.bits(), s.i(0x7fc0_0000)));
    }
    for m in [
        a.lt(b),
        a.le(b),
        a.gt(b),
        a.ge(b),
        a.eq(b),
        i.eq(j),
        i.gt(j),
    ] {
        put(m.select_i(i, j));
        put((!m).select(a, b).bits());
        put(s.i(m.bits() as i32 & 1));
        put(s.i(i32::from(m.any())));
    }
    put((a.lt(b) & i.gt(j) | a.eq(b)).select_i(i, j));
    for x in [i + j, i - j, i * j, i & j, i | j, i ^ j, i.min(j), i.max(j)] {
        put(x);
        put(x.float().bits());
        put(x.low23().from_bits().bits());
        let mut bytes = [0; 16];
        x.store_bytes(&mut bytes);
        put(s.i_from(|lane| i32::from(bytes[lane])));
    }
    for x in [
        i.shl::<3>(),
        i.shr::<5>(),
        i.sar::<7>(),
        a.nearest(s.f(MAGIC)),
        j,
    ] {
        put(x);
    }
    let mut greatest = i32::MIN;
    i.each(|_, x| greatest = Ord::max(greatest, x));
    put(s.i(i.greatest() - greatest));
    put(s.gather(&[3, 1, 4, 1, 5], i & s.i(7)));
}

impl Kernel for Everything {
    fn twin(_: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
        let one = Portable;
        let mut at = 0;
        for a in CASES {
            for b in CASES {
                let mut put = |x: Four<i32>| {
                    out[at..at + 4].copy_from_slice(&x.0[0].to_le_bytes());
                    at += 4;
                };
                calculate(one, one.f(a), one.f(b), &mut put);
            }
        }
    }

    #[inline(always)]
    fn lanes<S: Lanes>(s: S, _: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
        let each = out.len() / (CASES.len() * CASES.len());
        for (row, a) in CASES.into_iter().enumerate() {
            for first in (0..CASES.len()).step_by(S::N) {
                let mut at = 0;
                let mut put = |x: S::I| {
                    x.each(|lane, x| {
                        let place = (row * CASES.len() + first + lane) * each + at;
                        out[place..place + 4].copy_from_slice(&x.to_le_bytes());
                    });
                    at += 4;
                };
                calculate(s, s.f_from(|_| a), s.load(&CASES[first..]), &mut put);
            }
        }
    }
}

/// Turns the lanes' own numbers.
enum Turned {}

impl Kernel for Turned {
    fn twin(_: &[f32], _: Option<&[f32]>, _: &mut [u8]) {}

    #[inline(always)]
    fn lanes<S: Lanes>(s: S, row: &[f32], _: Option<&[f32]>, _: &mut [u8]) {
        let mut rows = [s.f(0.0); 16];
        for (i, x) in rows.iter_mut().enumerate() {
            *x = s.load(&row[16 * i..]);
        }
        s.turn(&mut rows[..S::N]);
        for (column, x) in rows[..S::N].iter().enumerate() {
            x.each(|lane, x| assert_eq!(x, row[16 * lane + column]));
        }
    }
}

#[test]
fn rows_turn_into_columns() {
    let row: Vec<f32> = (0..256u16).map(f32::from).collect();
    for path in Path::ALL {
        run::<Turned>(path, &row, None, &mut []);
    }
}

/// Loads and stores at the very ends of what they may touch.
enum Edges {}

impl Kernel for Edges {
    fn twin(_: &[f32], _: Option<&[f32]>, _: &mut [u8]) {}

    #[inline(always)]
    fn lanes<S: Lanes>(s: S, row: &[f32], _: Option<&[f32]>, _: &mut [u8]) {
        // Memory of exactly so many elements: an interpreter sees one byte too many.
        for skip in 0..4 {
            let floats = row[..S::N + skip].to_vec();
            let mut out = vec![7f32; S::N + skip];
            s.load(&floats[skip..]).store(&mut out[skip..]);
            assert_eq!(out[skip..], floats[skip..]);
            assert!(out[..skip].iter().all(|x| *x == 7.0));
            let ints: Vec<i32> = (0..(S::N + skip) as i32).collect();
            let mut out = vec![7; S::N + skip];
            s.load_i(&ints[skip..]).store(&mut out[skip..]);
            assert_eq!(out[skip..], ints[skip..]);
            let halves: Vec<u16> = (0..(S::N + skip) as u16).map(|x| u16::MAX - x).collect();
            s.widen(&halves[skip..])
                .each(|lane, x| assert_eq!(x, i32::from(halves[skip + lane])));
            let mut bytes = vec![7; S::N + skip];
            s.load_i(&ints[skip..]).store_bytes(&mut bytes[skip..]);
            for (lane, b) in bytes[skip..].iter().enumerate() {
                assert_eq!(i32::from(*b), ints[skip + lane]);
            }
        }
    }
}

/// Gathers at the very ends of what they may touch, and beyond.
enum Gathers {}

impl Kernel for Gathers {
    fn twin(_: &[f32], _: Option<&[f32]>, _: &mut [u8]) {}

    #[inline(always)]
    fn lanes<S: Lanes>(s: S, _: &[f32], _: Option<&[f32]>, _: &mut [u8]) {
        for len in 1..2 * S::N {
            let table: Vec<i32> = (7..7 + len as i32).collect();
            for (place, want) in [(0, 0), (len - 1, len - 1), (len, len - 1)] {
                let found = s.gather(&table, s.i(place as i32));
                found.each(|_, x| assert_eq!(x, table[want]));
            }
            for beyond in [-1, i32::MIN, i32::MAX] {
                let found = s.gather(&table, s.i(beyond));
                found.each(|_, x| assert_eq!(x, table[len - 1]));
            }
        }
    }
}

/// By this name Miri runs it: the unsafe code of the vectors is what touches memory.
#[test]
fn every_length_is_touched_exactly() {
    let row: Vec<f32> = (0..32u16).map(f32::from).collect();
    for path in Path::ALL.into_iter().filter(|p| p.is_available()) {
        run::<Edges>(path, &row, None, &mut []);
    }
}

/// By itself, as Miri does not know the gathers of sixteen lanes.
#[test]
fn every_length_is_gathered_exactly() {
    for path in Path::ALL.into_iter().filter(|p| p.is_available()) {
        run::<Gathers>(path, &[], None, &mut []);
    }
}

#[test]
fn every_width_calculates_the_same() {
    let each = 4 * (9 + 7 * 4 + 1 + 8 * 4 + 5 + 2);
    let mut want = vec![0; 256 * each];
    run::<Everything>(Path::Twin, &[], None, &mut want);
    for path in Path::ALL.into_iter().filter(|p| p.is_available()) {
        let mut got = vec![0; want.len()];
        run::<Everything>(path, &[], None, &mut got);
        for (place, (a, b)) in want.chunks(4).zip(got.chunks(4)).enumerate() {
            let op = place % (each / 4);
            // `bits() & 1` and `any` of a vector mix lanes.
            if (9..9 + 28).contains(&op) && (op - 9) % 4 >= 2 {
                continue;
            }
            assert_eq!(a, b, "{path:?} pair {} op {op}", place / (each / 4));
        }
    }
}
