use std::sync::Mutex;

use weighbridge_core::Limits;
use weighbridge_core::source::SliceSource;
use weighbridge_scan::Subject;

use super::*;

/// A source that counts what is read of it.
#[derive(Debug)]
struct Counted {
    head: Vec<u8>,
    /// Zeros between the head and the tail.
    hole: u64,
    tail: Vec<u8>,
    read: Mutex<u64>,
}

impl ByteSource for Counted {
    fn len(&self) -> u64 {
        self.head.len() as u64 + self.hole + self.tail.len() as u64
    }

    fn name(&self) -> &str {
        "m.joblib"
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        *self.read.lock().unwrap() += buf.len() as u64;
        let tail_at = self.head.len() as u64 + self.hole;
        for (i, b) in buf.iter_mut().enumerate() {
            let at = at + i as u64;
            *b = match at.checked_sub(tail_at) {
                Some(i) => self.tail[i as usize],
                None => self.head.get(at as usize).copied().unwrap_or(0),
            };
        }
        Ok(())
    }

    fn slice(&self, _: std::ops::Range<u64>) -> Option<&[u8]> {
        None
    }
}

/// Globals as name, offset in the file and how; faults; places.
#[derive(Debug, Default, PartialEq)]
struct Taken {
    globals: Vec<(String, u64, Use)>,
    faults: Vec<String>,
    gaps: usize,
    references: Vec<String>,
}

fn taken(source: Arc<dyn ByteSource>) -> Taken {
    let place = Place {
        steps: Vec::new(),
        base: Some(0),
    };
    let item = Item::new(Arc::clone(&source), place, "m.pkl").unwrap();
    let mut s = Subject::new("m.pkl", source.as_ref());
    pickles::take_stream(&mut Examiner::new(&mut s, &Limits::default()), &item, 0).unwrap();
    let mut out = Taken::default();
    for p in &s.pickles {
        for g in &p.globals {
            let name = format!("{}.{}", g.module.clone().unwrap(), g.name.clone().unwrap());
            out.globals.push((name, p.offset(g.offset), g.how));
        }
    }
    out.faults = s.faults.into_iter().map(|f| f.rule).collect();
    out.gaps = s.gaps.len();
    out.references = s.references.into_iter().map(|r| r.path).collect();
    out
}

fn of(bytes: &[u8]) -> Taken {
    taken(Arc::new(SliceSource::new(bytes, "m.pkl")))
}

fn calls(t: &Taken, name: &str) -> Vec<u64> {
    let found = t.globals.iter();
    found
        .filter(|(n, _, how)| n == name && *how == Use::Call)
        .map(|g| g.1)
        .collect()
}

const F8: &str = "cnumpy\ndtype\n(Vf8\nI0\nI1\ntR(I3\nV<\nNNNI-1\nI-1\nI0\ntb";

/// A tuple of an array of `n` doubles, as joblib writes it, up to the array's bytes.
fn array(n: u64) -> Vec<u8> {
    let mut out = b"\x80\x02(cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81}(".to_vec();
    out.extend(format!("Vshape\n(I{n}\ntVdtype\n{F8}ub").into_bytes());
    out
}

const EVIL: &[u8] = b"cposix\nsystem\n(Vid\ntR";

#[test]
fn what_follows_an_array_is_read_and_the_array_is_not() {
    let tail = [EVIL, b"t."].concat();
    for n in [4u64, 10_000, 1 << 20, 1 << 34] {
        let head = array(n);
        let at = head.len() as u64 + n * 8 + EVIL.len() as u64 - 1;
        let source = Arc::new(Counted {
            head,
            hole: n * 8,
            tail: tail.clone(),
            read: Mutex::new(0),
        });
        let t = taken(source.clone());
        assert_eq!(t.faults, [""; 0], "{n}");
        assert_eq!(calls(&t, "posix.system"), [at], "{n}");
        let read = *source.read.lock().unwrap();
        assert!(read < 4 << 20, "{n}: {read}");
    }
    // The file ends in the array.
    let source = Counted {
        head: array(1 << 20),
        hole: 100_000,
        tail: Vec::new(),
        read: Mutex::new(0),
    };
    assert_eq!(taken(Arc::new(source)).faults, ["joblib.short-array"]);
}

#[test]
fn bytes_of_an_array_count_for_loaders_that_know_no_arrays() {
    // pickle.load executes them, joblib.load steps over them.
    let inside = [EVIL, b"0", &[b'N', b'0'].repeat(20)[..]].concat();
    let n = inside.len().next_multiple_of(8);
    let mut data = array((n / 8) as u64);
    let at = (data.len() + EVIL.len() - 1) as u64;
    data.extend(&inside);
    data.resize(data.len() + n - inside.len(), b'0');
    data.extend(b"Nt.");
    assert_eq!(calls(&of(&data), "posix.system"), [at]);
    // Random bytes there import nothing.
    let mut data = array(4);
    data.extend(b"cmod\nname\n)R0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    data.extend(b"t.");
    let t = of(&data);
    assert!(t.globals.iter().all(|g| !g.0.starts_with("mod.")), "{t:?}");
}

#[test]
fn arrays_in_files_of_their_own_are_references() {
    let t = of(b"\x80\x02cjoblib.numpy_pickle\nNDArrayWrapper\n)\x81}Vfilename\nV../x.npy\nsb.");
    assert_eq!(t.references, ["../x.npy"]);
}

#[test]
fn a_loader_in_a_pickle_is_judged_by_its_bytes() {
    let loads = |module: &str, name: &str, bytes: &[u8]| {
        let mut data = format!("c{module}\n{name}\n(").into_bytes();
        data = [b"\x80\x03".to_vec(), data].concat();
        data.push(b'B');
        data.extend((bytes.len() as u32).to_le_bytes());
        data.extend(bytes);
        data.extend(b"tR.");
        data
    };
    for (module, name, own) in [
        ("pickle", "loads", 1),
        ("_pickle", "loads", 1),
        ("torch.storage", "_load_from_bytes", 0),
    ] {
        let loader = format!("{module}.{name}");
        // Clean bytes leave nothing to judge of torch's loader; no pickler calls the others.
        let t = of(&loads(module, name, b"\x80\x02]Na."));
        assert_eq!((t.gaps, t.faults.len()), (0, 0), "{module}: {t:?}");
        assert_eq!((t.globals.len(), calls(&t, &loader).len()), (own, own));
        // What they call counts, where it stands, at any depth.
        let inner = [b"\x80\x02", EVIL, b"."].concat();
        let data = loads(module, name, &inner);
        let at = (data.len() - 3 - 2) as u64;
        assert_eq!(calls(&of(&data), "posix.system"), [at], "{module}");
        let deeper = loads("pickle", "loads", &data);
        assert_eq!(calls(&of(&deeper), "posix.system").len(), 1, "{module}");
        // Bytes that are no constant stay a call of the loader.
        let opaque = format!("c{module}\n{name}\n(cm\nf\n)RtR.");
        assert_eq!(calls(&of(opaque.as_bytes()), &loader).len(), 1);
        // One that can be looked into does not excuse one that cannot.
        let mut both = loads(module, name, b"\x80\x02N.");
        both.pop();
        both.push(b'0');
        both.extend(opaque.as_bytes());
        assert!(!calls(&of(&both), &loader).is_empty());
    }
}

#[test]
fn pickles_in_pickles_end() {
    let mut data = b"N.".to_vec();
    for _ in 0..40 {
        let mut outer = b"\x80\x03cpickle\nloads\n(B".to_vec();
        outer.extend((data.len() as u32).to_le_bytes());
        outer.extend(&data);
        outer.extend(b"tR.");
        data = outer;
    }
    assert!(of(&data).faults.contains(&"scan.nested".to_owned()));
}
