use super::*;

fn clean(text: &str) -> Tree {
    let t = parse(text);
    assert_eq!(t.errors, [], "{text}");
    t
}

#[test]
fn dump_env() {
    let Ok(dir) = std::env::var("WB_DUMP") else {
        return;
    };
    for e in std::fs::read_dir(dir).unwrap() {
        let p = e.unwrap().path();
        let Ok(s) = std::fs::read_to_string(&p) else {
            continue;
        };
        let t = parse(&s);
        println!(
            "@@{}\t{}\t{:?}",
            p.file_name().unwrap().to_str().unwrap(),
            t.errors.len(),
            t.errors.first()
        );
    }
}

#[test]
fn x() {
    clean("{{ a }}");
}
