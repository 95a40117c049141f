use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::ErrorKind;
use crate::source::{Backend, SliceSource, open_file};

/// A header block and the padded payload.
fn member(name: &[u8], flag: u8, payload: &[u8]) -> Vec<u8> {
    sealed(header(name, flag, payload.len() as u64), payload)
}

fn header(name: &[u8], flag: u8, size: u64) -> [u8; 512] {
    let mut h = [0u8; 512];
    h[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
    h[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    h[156] = flag;
    h[257..265].copy_from_slice(b"ustar\x0000");
    h
}

fn sealed(mut h: [u8; 512], payload: &[u8]) -> Vec<u8> {
    h[148..156].fill(b' ');
    let sum: u32 = h.iter().map(|&b| u32::from(b)).sum();
    h[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut out = h.to_vec();
    out.extend(payload);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    let mut out = members.concat();
    out.extend([0u8; 1024]);
    out
}

fn open(bytes: impl Into<Vec<u8>>) -> Result<Archive> {
    let bytes: Vec<u8> = bytes.into();
    Archive::open(
        Arc::new(SliceSource::new(bytes, "t.tar")),
        &Limits::default(),
    )
}

fn rules(a: &Archive) -> Vec<&'static str> {
    a.check_layout().unwrap().iter().map(Error::rule).collect()
}

#[test]
fn plain_members_read_back() {
    let long = vec![9u8; 1500];
    let bytes = archive(&[
        member(b"a", b'0', b"first"),
        member(b"dir/", b'5', b""),
        member(b"dir/b", 0, &long),
    ]);
    assert!(is_tar(&bytes));
    assert!(!is_tar(&[0u8; 512]) && !is_tar(&bytes[1..]) && !is_tar(&bytes[..100]));
    let a = open(bytes).unwrap();
    a.strict().unwrap();
    assert_eq!(rules(&a), [] as [&str; 0]);
    assert_eq!(a.read(a.by_name("a").unwrap(), 5).unwrap(), b"first");
    assert_eq!(
        a.read(a.by_name("a").unwrap(), 4).unwrap_err().rule(),
        "tar.member-size"
    );
    let b = a.by_name("dir/b").unwrap();
    assert_eq!(a.window(b).unwrap().read_vec(0..1500).unwrap(), long);
    assert_eq!(a.storage(b, false).unwrap().len(), 1500);
    assert_eq!(a.by_name("dir/").unwrap().kind, Kind::Dir);
    assert!(a.is_ended());
}

#[test]
fn long_names_and_sizes_of_every_kind() {
    let long = "n".repeat(300);
    let mut prefixed = header(b"tail", b'0', 1);
    prefixed[345..351].copy_from_slice(b"prefix");
    let mut base256 = header(b"wide", b'0', 0);
    base256[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    let mut gnu = header(b"gnu", b'0', 0);
    gnu[257..265].copy_from_slice(b"ustar  \0");
    gnu[345..348].copy_from_slice(b"123"); // atime in a GNU header, no prefix
    let pax = format!("311 path=/{long}\n9 size=3\n");
    let a = open(archive(&[
        member(b"././@LongLink", b'L', format!("{long}\0").as_bytes()),
        member(b"nnn", b'0', b"1"),
        sealed(prefixed, b"2"),
        sealed(base256, b"33"),
        sealed(gnu, b""),
        member(b"PaxHeader", b'x', pax.as_bytes()),
        sealed(header(b"short", b'0', 0), b"444"),
        member(b"././@LongLink", b'K', b"../../target\0"),
        member(b"link", b'2', b""),
    ]))
    .unwrap();
    let names: Vec<_> = a.members().iter().map(|m| m.name.as_str()).collect();
    let slashed = format!("/{long}");
    assert_eq!(
        names,
        [
            long.as_str(),
            "prefix/tail",
            "wide",
            "gnu",
            &slashed,
            "link"
        ]
    );
    let sizes: Vec<_> = a.members().iter().map(|m| m.size).collect();
    assert_eq!(sizes, [1, 1, 2, 0, 3, 0]);
    assert_eq!(a.read(&a.members()[4], 9).unwrap(), b"444");
    let link = a.by_name("link").unwrap();
    assert_eq!(
        (link.kind, link.link.as_deref()),
        (Kind::SymLink, Some("../../target"))
    );
    assert_eq!(a.read(link, 9).unwrap_err().rule(), "tar.no-payload");
    assert_eq!(rules(&a), [] as [&str; 0]);
}

#[test]
fn global_records_hold_for_all_and_yield_to_own() {
    let a = open(archive(&[
        member(b"g", b'g', b"14 path=every\n"),
        member(b"a", b'0', b"1"),
        member(b"x", b'x', b"12 path=own\n"),
        member(b"b", b'0', b"2"),
    ]))
    .unwrap();
    let names: Vec<_> = a.members().iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["every", "own"]);
    assert_eq!(a.members()[1].header_offset, 2048);
}

#[test]
fn broken_headers_are_refused() {
    let good = archive(&[member(b"a", b'0', b"first")]);
    let mut flipped = good.clone();
    flipped[0] ^= 1;
    assert_eq!(open(flipped).unwrap_err().rule(), "tar.bad-checksum");
    let mut negative = header(b"a", b'0', 0);
    negative[124..136].fill(0xff);
    assert_eq!(
        open(archive(&[sealed(negative, b"")])).unwrap_err().rule(),
        "tar.bad-number"
    );
    let mut words = header(b"a", b'0', 0);
    words[124..136].copy_from_slice(b"12345678999\0");
    assert_eq!(
        open(archive(&[sealed(words, b"")])).unwrap_err().rule(),
        "tar.bad-number"
    );
    let huge = sealed(header(b"a", b'0', 1 << 32), b"");
    assert_eq!(open(archive(&[huge])).unwrap_err().rule(), "tar.truncated");
    for pax in [
        "99 path=a\n",
        "8 path=a\n",
        "x",
        "10 path:a\n",
        "11 size=-1\n",
        "5 \n",
    ] {
        let bytes = archive(&[member(b"x", b'x', pax.as_bytes()), member(b"a", b'0', b"")]);
        assert_eq!(open(bytes).unwrap_err().rule(), "tar.bad-pax", "{pax:?}");
    }
    let alone = archive(&[member(b"x", b'x', b"12 path=own\n")]);
    assert_eq!(open(alone).unwrap_err().rule(), "tar.truncated");
    let long = member(b"L", b'L', &vec![b'n'; (1 << 20) + 1]);
    assert_eq!(open(archive(&[long])).unwrap_err().kind(), ErrorKind::Limit);
    let few = Limits {
        members: 1,
        ..Limits::default()
    };
    let two = archive(&[member(b"a", b'0', b""), member(b"b", b'0', b"")]);
    let e = Archive::open(Arc::new(SliceSource::new(two, "t")), &few).unwrap_err();
    assert_eq!(e.rule(), "tar.members");
}

#[test]
fn layout_violations_are_listed() {
    let a = open(archive(&[
        member(b"a", b'0', b"1"),
        member(b"a", b'0', b"2"),
    ]))
    .unwrap();
    assert_eq!(rules(&a), ["tar.duplicate-name"]);
    assert_eq!(a.read(a.by_name("a").unwrap(), 9).unwrap(), b"2");
    let a = open(archive(&[sealed(header(b"l", b'1', 7), b"")])).unwrap();
    assert_eq!(a.strict().unwrap_err().rule(), "tar.sized-link");
    let mut bytes = archive(&[member(b"a", b'0', b"1")]);
    bytes[600] = 1;
    bytes.extend(b"tail");
    assert_eq!(
        rules(&open(bytes).unwrap()),
        ["tar.hidden-bytes", "tar.trailing-data"]
    );
    let a = open(member(b"a", b'0', b"1")).unwrap();
    assert_eq!(a.strict().unwrap_err().rule(), "tar.no-end");
    let a = open(archive(&[
        member(b"x", b'x', b"12 path=a\0b\n"),
        member(b"a", b'0', b""),
    ]))
    .unwrap();
    assert_eq!(rules(&a), ["tar.bad-name"]);
}

#[test]
fn maps_of_holes_are_stepped_over() {
    let mut sparse = header(b"holes", b'S', 3);
    sparse[482] = 1;
    let mut map = [0u8; 512];
    map[504] = 1;
    let mut bytes = sealed(sparse, b"");
    bytes.extend(map);
    bytes.extend([0u8; 512]);
    bytes.extend(b"abc");
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    let a = open(archive(&[bytes, member(b"after", b'0', b"1")])).unwrap();
    assert_eq!(a.members()[0].kind, Kind::Sparse);
    assert_eq!(a.members()[0].offset, 3 * 512);
    assert_eq!(
        a.read(&a.members()[0], 9).unwrap_err().rule(),
        "tar.no-payload"
    );
    assert_eq!(a.read(a.by_name("after").unwrap(), 9).unwrap(), b"1");
    let a = open(archive(&[
        member(b"x", b'x', b"24 GNU.sparse.name=real\n12 path=tmp\n"),
        member(b"tmp", b'0', b"1"),
    ]))
    .unwrap();
    assert_eq!(
        (a.members()[0].name.as_str(), a.members()[0].kind),
        ("real", Kind::Sparse)
    );
}

fn exercise(bytes: &[u8]) -> usize {
    let Ok(a) = open(bytes) else { return 0 };
    let _ = (a.strict(), a.check_layout());
    a.members()
        .iter()
        .filter(|m| a.read(m, 1 << 20).is_ok())
        .count()
}

#[test]
fn cuts_and_mutations_never_panic() {
    let long = "n".repeat(120);
    let seed = archive(&[
        member(b"././@LongLink", b'L', long.as_bytes()),
        member(b"nnn", b'0', b"12345"),
        member(b"x", b'x', b"12 path=own\n9 size=3\n"),
        member(b"b", b'0', b"333"),
    ]);
    assert_eq!(exercise(&seed), 2);
    for n in 0..seed.len() {
        // A cut before the end blocks never passes as whole.
        let whole = open(&seed[..n]).is_ok_and(|a| a.strict().is_ok());
        assert!(!whole, "{n}");
    }
    let mut state = 0x5eed_u64;
    let mut next = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let (mut refused, mut whole) = (0, 0);
    for _ in 0..4000 {
        let mut bytes = seed.clone();
        let at = next() % bytes.len();
        match next() % 3 {
            0 => bytes[at] = next() as u8,
            1 => bytes[at] ^= 1 << (next() % 8),
            _ => {
                bytes.remove(at);
            }
        }
        // Half of them with the checksums made right again, to get past that door.
        if next() % 2 == 0 {
            for b in bytes
                .chunks_exact_mut(512)
                .filter(|b| b.iter().any(|&b| b != 0))
            {
                let fixed = sealed(b.try_into().unwrap(), b"");
                b.copy_from_slice(&fixed);
            }
        }
        match exercise(&bytes) {
            0 => refused += 1,
            2 => whole += 1,
            _ => {}
        }
    }
    assert!(
        refused > 400 && whole > 100,
        "{refused} refused, {whole} whole"
    );
}

#[test]
fn corpus_tar_opens() {
    let Some(root) = std::env::var_os("WEIGHBRIDGE_CORPUS") else {
        println!("skipped: WEIGHBRIDGE_CORPUS is not set");
        return;
    };
    let path = PathBuf::from(root).join("torch/legacy_tar.pth");
    let a = Archive::open(
        open_file(&path, Backend::Pread).unwrap(),
        &Limits::default(),
    )
    .unwrap();
    a.strict().unwrap();
    assert_eq!(rules(&a), [] as [&str; 0]);
    let names: Vec<_> = a.members().iter().map(|m| m.name.as_str()).collect();
    for want in ["storages", "tensors", "pickle"] {
        assert!(names.contains(&want), "{names:?}");
    }
}

#[test]
fn members_that_lead_out_are_told() {
    let link = |name: &[u8], flag: u8, target: &[u8]| {
        let mut h = header(name, flag, 0);
        h[157..157 + target.len()].copy_from_slice(target);
        sealed(h, b"")
    };
    let a = open(archive(&[
        member(b"../up", b'0', b"1"),
        member(b"/abs", b'0', b"2"),
        link(b"d/in", b'2', b"../x"),
        link(b"d/out", b'2', b"../../x"),
        link(b"d/hard", b'1', b"../x"),
        link(b"etc", b'2', b"/etc"),
        member(b"dev", b'3', b""),
        member(b"fifo", b'6', b""),
        member(b"odd", b'Q', b"payload"),
    ]))
    .unwrap();
    let told: Vec<_> = a
        .members()
        .iter()
        .map(|m| (m.escape(), m.link_escape()))
        .collect();
    let (absolute, parent) = (Some(Escape::Absolute), Some(Escape::Parent));
    assert_eq!(
        told,
        [
            (parent, None),
            (absolute, None),
            (None, None),
            (None, parent),
            (None, parent),
            (None, absolute),
            (None, None),
            (None, None),
            (None, None),
        ]
    );
    let kinds: Vec<_> = a.members().iter().map(|m| m.kind).collect();
    assert_eq!(
        kinds[5..],
        [Kind::SymLink, Kind::Device, Kind::Fifo, Kind::Other(b'Q')]
    );
    let odd = a.stored(&a.members()[8]);
    assert_eq!(a.source().read_vec(odd).unwrap(), b"payload");
    assert_eq!(a.stored(&a.members()[3]).count(), 0);
}

#[test]
fn names_and_sizes_that_records_override_are_kept() {
    let a = open(archive(&[
        member(b"PaxHeader", b'x', b"15 path=../bad\n9 size=3\n"),
        sealed(header(b"good", b'0', 2), b"444"),
        member(b"plain", b'0', b""),
    ]))
    .unwrap();
    assert_eq!(a.members()[0].name, "../bad");
    assert_eq!(a.members()[0].header_name.as_deref(), Some("good"));
    assert_eq!(a.members()[1].header_name, None);
    assert_eq!(rules(&a), ["tar.size-mismatch"]);
}

#[test]
fn what_follows_the_end_is_told() {
    let one = archive(&[member(b"a", b'0', b"1")]);
    let n = one.len() as u64;
    assert_eq!(open(one.clone()).unwrap().trailing().unwrap(), None);
    let padded = [one.clone(), vec![0; 8192]].concat();
    assert_eq!(open(padded).unwrap().trailing().unwrap(), None);
    // Another archive, behind padding.
    let two = [one.clone(), vec![0; 1024], one.clone()].concat();
    let a = open(two.clone()).unwrap();
    assert_eq!(a.trailing().unwrap(), Some(n + 1024..2 * n + 1024));
    assert!(is_tar(&two[n as usize + 1024..]));
    assert_eq!(rules(&a), ["tar.trailing-data"]);
    // A lone block of zeros, then more members.
    let lone = [member(b"a", b'0', b"1"), vec![0; 512], one].concat();
    let a = open(lone.clone()).unwrap();
    assert_eq!(a.members().len(), 1);
    assert_eq!(a.trailing().unwrap(), Some(1536..lone.len() as u64));
    assert!(is_tar(&lone[1536..]));
}
