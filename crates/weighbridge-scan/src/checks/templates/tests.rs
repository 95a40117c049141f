use super::*;

#[test]
fn dump_env() {
    let Ok(dir) = std::env::var("WB_DUMP") else {
        return;
    };
    let cx = match std::env::var("WB_CX").as_deref() {
        Ok("text") => Context::Text,
        _ => Context::Chat,
    };
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    names.sort();
    for p in names {
        let Ok(s) = std::fs::read_to_string(&p) else {
            continue;
        };
        let t = std::time::Instant::now();
        let j = judge(&s, cx).unwrap();
        let ms = t.elapsed().as_millis();
        if ms > 60 {
            println!("SLOW {ms} {}", p.display());
        }
        for f in j.findings {
            println!(
                "@@{}\t{}\t{}\t{:?}",
                p.file_name().unwrap().to_str().unwrap(),
                f.rule,
                f.message,
                excerpt(&s, &f.span)
            );
        }
    }
}
