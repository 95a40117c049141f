//! scratch
fn main() {
    use sha2::Digest;
    let dir = std::env::args().nth(1).unwrap();
    let ans: serde_json::Value =
        serde_json::from_slice(&std::fs::read(format!("{dir}/answers.json")).unwrap()).unwrap();
    for (f, want) in ans.as_object().unwrap() {
        match weighbridge::open(format!("{dir}/{f}")) {
            Err(e) => println!("{f}: ERROR {e}"),
            Ok(m) => {
                let want = want.as_object().unwrap();
                let mut n = 0;
                for (k, v) in want {
                    match m.tensor(k) {
                        None => println!("{f}: missing {k:?}"),
                        Some(t) => {
                            let s = match t.read_vec() {
                                Ok(b) => hex::encode(sha2::Sha256::digest(&b)),
                                Err(e) => e.to_string(),
                            };
                            let sh: Vec<u64> = v[0]
                                .as_array()
                                .unwrap()
                                .iter()
                                .map(|x| x.as_u64().unwrap())
                                .collect();
                            if sh != t.shape.to_vec() || v[1].as_str().unwrap() != s {
                                println!("{f}: {k:?} differs {:?} {} {s}", t.shape, v)
                            } else {
                                n += 1;
                            }
                        }
                    }
                }
                for t in &m.tensors {
                    if !want.contains_key(&t.name) {
                        println!(
                            "{f}: extra {:?} {:?} {:?} {}",
                            t.name,
                            t.dtype,
                            t.shape,
                            t.layout.as_str()
                        );
                    }
                }
                println!(
                    "{f}: ok {n}/{} {:?} w={:?} o={:?}",
                    want.len(),
                    m.container,
                    m.warnings.iter().map(|w| &w.message).collect::<Vec<_>>(),
                    m.omitted
                );
                if std::env::args().nth(2).as_deref() == Some(f) {
                    println!(
                        "{}",
                        m.structure
                            .as_ref()
                            .map(|s| weighbridge::structure::to_json(
                                s,
                                weighbridge::structure::Form::Inspect
                            )
                            .to_string())
                            .unwrap_or_default()
                    );
                    println!("{:?}", m.metadata);
                }
            }
        }
    }
}
