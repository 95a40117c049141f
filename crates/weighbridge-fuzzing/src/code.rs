//! The targets that read programs and look into constants.

use serde_json::Value;
use weighbridge_core::source::SliceSource;
use weighbridge_scan::{
    Catalogue, Config, Engine, Program, ProgramKind, Subject, Text, TextOrigin, encoded, inner,
    native, python,
};

/// Python source: whether it is a program or not, every call it reports lies in the text.
pub fn python_source(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match python::read(&text) {
        Ok(program) => {
            for c in &program.calls {
                assert!(c.start <= c.end, "a call that ends before it begins: {c:?}");
                assert!(
                    text.get(c.start..c.end).is_some(),
                    "a call outside the text: {c:?}"
                );
                assert!(!c.name.is_empty(), "a call without a name: {c:?}");
            }
        }
        Err(e) => assert!(e.at <= text.len() + 2, "stopped behind the text: {e:?}"),
    }
}

/// A constant, taken for everything it may hide: judged as a text of every origin, as a program
/// of every kind, as the strings of a configuration, and as bytes that a loader is handed.
pub fn hidden_constant(data: &[u8]) {
    for (codec, decoded) in encoded::decodings(data) {
        assert!(
            codec.as_str() == "zlib" || codec.as_str() == "gzip" || decoded.len() <= data.len(),
            "{codec:?} made more of it"
        );
    }
    let _ = native::detect(data).map(native::NativeKind::as_str);
    let _ = native::interpreter(data);
    if let Err(e) = Catalogue::builtin().and_then(|c| inner::judge(c, data)) {
        panic!("the compiled-in data is at fault: {e}");
    }
    let source = SliceSource::new(data, "input");
    let mut subject = Subject::new("input", &source);
    for origin in [
        TextOrigin::Pickle,
        TextOrigin::Metadata,
        TextOrigin::Config,
        TextOrigin::Comment,
    ] {
        subject.texts.push(Text {
            place: String::new(),
            base: None,
            key: "webhook_password".into(),
            origin,
            bytes: data.to_vec(),
        });
    }
    let text = String::from_utf8_lossy(data).into_owned();
    subject.configs.push(Config {
        name: "config.json".into(),
        value: serde_json::from_slice(data)
            .unwrap_or_else(|_| Value::Array(vec![Value::String(text.clone())])),
        ..Config::default()
    });
    for kind in [
        ProgramKind::Python,
        ProgramKind::Notebook,
        ProgramKind::Script("shell"),
    ] {
        subject.programs.push(Program {
            place: String::new(),
            base: Some(0),
            kind,
            text: Some(text.clone()),
            beside_model: true,
        });
    }
    match Engine::new().and_then(|e| e.run(subject)) {
        Ok(_) => {}
        Err(e) => panic!("a check and its rules disagree: {e}"),
    }
}
