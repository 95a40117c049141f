use super::super::value::CallOp;
use super::*;

fn ok(data: &[u8]) -> Trace<'_> {
    let t = run(data, &Limits::default());
    assert!(t.error.is_none(), "{:?}", t.error);
    t
}

fn rule(data: &[u8]) -> &'static str {
    run(data, &Limits::default()).error.unwrap().rule()
}

#[test]
fn containers_memo_and_numbers() {
    let t = ok(b"\x80\x02}q\x00(X\x01\x00\x00\x00aK\x05X\x01\x00\x00\x00bh\x00u.");
    let root = t.root.unwrap();
    let d = t.dict(root).unwrap();
    assert_eq!(t.int(t.lookup(d, "a").unwrap()), Some(5));
    assert_eq!(t.lookup(d, "b"), Some(root));
    assert_eq!((t.protocol, t.end), (2, 24));
    let t = ok(b"\x80\x02\x8a\x09\0\0\0\0\0\0\0\0\x40.");
    assert_eq!(t.render(t.root.unwrap(), 80), "1180591620717411303424");
    assert_eq!(decimal_of(-(1i128 << 65)), "-36893488147419103232");
    let t = ok(b"I01\n.");
    assert_eq!(t.node(t.root.unwrap()), &Node::Bool(true));
}

fn decimal_of(v: i128) -> String {
    super::super::decimal(&v.to_le_bytes())
}

#[test]
fn calls_are_data() {
    let t = ok(b"cposix\nsystem\n(X\x02\x00\x00\x00lstR}b.");
    let Node::Call(c) = t.node(t.root.unwrap()) else {
        panic!()
    };
    assert_eq!(t.global_name(c.callee).unwrap(), "posix.system");
    assert_eq!(
        (c.op, c.states.len(), t.builds.len()),
        (CallOp::Reduce, 1, 1)
    );
    assert_eq!(t.render(t.root.unwrap(), 80), "posix.system(\"ls\")");
    let t = ok(b"(X\x01\0\0\0aios\nsystem\n.");
    assert_eq!(t.render(t.root.unwrap(), 80), "os.system(\"a\")");
    let t = ok(b"\x80\x04\x8c\x02os\x8c\x06system\x93.");
    assert_eq!(t.globals[0].offset, 14);
}

#[test]
fn broken_streams_name_rule_and_offset() {
    assert_eq!(rule(b"."), "pickle.stack-underflow");
    assert_eq!(rule(b"N"), "pickle.no-stop");
    assert_eq!(rule(b"t."), "pickle.no-mark");
    assert_eq!(rule(b"(N0000."), "pickle.stack-underflow");
    assert_eq!(rule(b"h\x05."), "pickle.memo-miss");
    assert_eq!(rule(b"\xff"), "pickle.unknown-opcode");
    assert_eq!(rule(b"X\xff\xff\xff\x7fab"), "pickle.truncated");
    assert_eq!(rule(b"\x80\x04\x95\xff\xff\0\0\0\0\0\0N."), "pickle.frame");
    let e = run(b"NN\xfe", &Limits::default()).error.unwrap();
    assert_eq!(e.byte_span().unwrap().offset, 2);
    assert_eq!(e.path(), ["opcode 2", "?"]);
}

#[test]
fn a_huge_memo_index_allocates_nothing() {
    let t = ok(b"Nr\xff\xff\xff\xffp4294967294\n0j\xff\xff\xff\xff.");
    assert_eq!(t.root, Some(NONE));
}

#[test]
fn every_truncation_and_byte_flip_ends() {
    let good = b"\x80\x04\x95\x20\0\0\0\0\0\0\0}\x94(\x8c\x01a\x94]\x94(K\x01G?\xf0\0\0\0\0\0\0e\x8c\x01bNu.";
    for n in 0..good.len() {
        let _ = run(&good[..n], &Limits::default());
        for b in 0..=255u8 {
            let mut m = good.to_vec();
            m[n] = b;
            let _ = run(&m, &Limits::default());
        }
    }
}
