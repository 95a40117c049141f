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
    let data = b"Nr\xff\xff\xff\xffp4294967294\n0j\xff\xff\xff\xff.";
    let t = run(data, &Limits::default());
    // The real unpickler allocates, which is told; the run goes on to the end.
    assert_eq!(t.error.as_ref().unwrap().rule(), "pickle.memo-index");
    assert_eq!(t.end, data.len());
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

/// A frame that ends inside the length of a `BINBYTES`: read in order, the bytes of the call are
/// data; with the rest of the frame dropped, they are opcodes (python/cpython issue 154848).
fn parting() -> Vec<u8> {
    let call = b"cposix\nsystem\n(Vid\ntR";
    let mut d = b"\x80\x05(\x95\x02\0\0\0\0\0\0\0B\x07\x01\0\0\0".to_vec();
    // Dropped: the length is 0x00000001 and one byte is data.
    d.push(b'x');
    d.extend_from_slice(call);
    d.push(b'(');
    d.resize(d.len() + 0x107 - call.len() - 2, b'N');
    d.extend_from_slice(b"1N.");
    d
}

#[test]
fn readers_part_where_an_opcode_crosses_its_frame() {
    let d = parting();
    let t = run(&d, &Limits::default());
    assert_eq!(
        t.error.as_ref().map(|e| e.rule()),
        Some("pickle.frame-crossed")
    );
    assert!(t.globals.is_empty());
    assert!(t.root.is_some());
    let dropped = &t.readings[0];
    assert_eq!(dropped.globals[0].module, "posix");
    assert!(dropped.root.is_some());
    // The file's own buffer holds the whole of this short one.
    assert!(t.readings[1].globals.is_empty());
}

#[test]
fn many_crossings_are_bounded() {
    let mut d = b"\x80\x05".to_vec();
    for _ in 0..1000 {
        d.extend_from_slice(b"\x95\x02\0\0\0\0\0\0\0J\0\0\0\x000");
    }
    d.extend_from_slice(b"N.");
    let t = run(&d, &Limits::default());
    assert!(!t.readings.is_empty() && t.readings.len() <= 16);
}

#[test]
fn a_frame_past_the_end_stops_some_readers_only() {
    let t = run(
        b"\x80\x04\x95\x14\0\0\0\0\0\0\0\x8c\x02nt\x8c\x06system\x93.",
        &Limits::default(),
    );
    assert_eq!(t.error.as_ref().unwrap().rule(), "pickle.frame");
    assert_eq!(t.globals[0].module, "nt");
    assert!(t.root.is_some());
}

#[test]
fn a_frame_past_the_stop_is_told() {
    let t = ok(b"\x80\x04\x95\x04\0\0\0\0\0\0\0N.ab");
    assert_eq!((t.end, t.frame_end), (13, Some(15)));
}

#[test]
fn anything_can_be_changed_and_plain_values_cannot() {
    let t = ok(b"csys\nmodules\nVos\nNs(K\x01e.");
    assert_eq!(t.changes.len(), 2);
    assert_eq!(t.changes[0].items.len(), 2);
    assert_eq!(rule(b"NK\x01a."), "pickle.not-a-list");
    assert_eq!(rule(b"NK\x01K\x02s."), "pickle.not-a-dict");
    assert_eq!(rule(b"](K\x01\x90."), "pickle.not-a-set");
    assert_eq!(rule(b"K\x01)R."), "pickle.not-callable");
    assert_eq!(rule(b"cm\nf\nK\x01R."), "pickle.no-arguments");
    assert_eq!(rule(b"}]Ns."), "pickle.unhashable");
    assert_eq!(rule(b"NN\x93."), "pickle.no-name");
    let t = ok(b"\x96\x02\0\0\0\0\0\0\0abK\x63aK\x00K\x41s.");
    assert_eq!(t.render(t.root.unwrap(), 80), "b\"Abc\"");
    // A list can be set at the places it has.
    let t = ok(b"](NNeK\x01K\x05s.");
    assert_eq!(t.render(t.root.unwrap(), 80), "[None, 5]");
}

#[test]
fn what_only_some_unpicklers_do_is_recorded_with_a_fault() {
    // joblib's takes a list of arguments, and a class whose line the end of the file cuts off.
    let t = run(b"cm\nf\n]R.", &Limits::default());
    assert!(t.error.is_some() && t.root.is_some());
    assert_eq!(t.render(t.root.unwrap(), 80), "m.f()");
    let t = run(b"(Vid\nios\nsystemX", &Limits::default());
    let called = t.nodes.iter().any(|n| matches!(n, Node::Call(_)));
    assert!(called && t.root.is_none());
    assert_eq!(t.globals[0].name, "system");
}

#[test]
fn names_are_kept_with_the_protocol_they_were_read_under() {
    let t = ok(b"c__builtin__\neval\n0\x80\x04\x8c\x01m\x8c\x03a.b\x930\x80\x02ccommands\nx\n.");
    assert_eq!(t.globals[0].resolved(), ("builtins", "eval"));
    assert!(t.globals[1].is_walked());
    assert_eq!(t.globals[2].resolved(), ("subprocess", "x"));
    assert_eq!(t.protocol, 4);
}

#[test]
fn memory_is_bounded() {
    let limits = Limits {
        pickle_memory: 1 << 20,
        ..Limits::default()
    };
    let t = run(&[b']'; 1 << 20], &limits);
    assert_eq!(t.error.unwrap().rule(), "pickle.too-much-memory");
    assert!(t.nodes.len() < 1 << 16);
}

#[test]
fn values_are_small() {
    // What they take is counted by these sizes.
    assert!(size_of::<Node>() <= 32, "{}", size_of::<Node>());
    assert!(size_of::<super::super::Call>() <= 128);
}
