//! Safetensors headers, zip directories and folders made to cost much.

use super::*;

/// A safetensors file.
fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.extend(data);
    out
}

fn safetensors_case(header: &str, data: &[u8]) -> &'static str {
    let dir = folder();
    let path = dir.path().join("case.safetensors");
    std::fs::write(&path, safetensors(header, data)).unwrap();
    exercise(path)
}

#[test]
fn recorded_aliases_take_no_more_than_they_say() {
    let json = |s: &str| serde_json::to_string(s).unwrap();
    let file = |shape: &str, bytes: usize, aliases: &str| {
        format!(
            "{{\"__metadata__\":{{\"weighbridge.aliases\":{}}},\"t\":{{\"dtype\":\"U8\",\
             \"shape\":[{shape}],\"data_offsets\":[0,{bytes}]}}}}",
            json(aliases)
        )
    };
    let record = |i: usize, stride: &str| {
        format!(
            "{{\"name\":\"a{i}\",\"offset\":0,\"stride\":[{stride}],\"stored\":false,\
             \"same_as\":\"t\"}}"
        )
    };
    let records = |n: usize, stride: &str| {
        let all: Vec<String> = (0..n).map(|i| record(i, stride)).collect();
        format!("[{{\"bytes\":1,\"tensors\":[{}]}}]", all.join(","))
    };
    // A shape of 100,000 dimensions, copied for every alias.
    let shape = vec!["1"; 100_000].join(",");
    assert_eq!(
        safetensors_case(&file(&shape, 1, &records(10_000, "")), &[0]),
        ""
    );
    // 10,000 aliases of 1 MiB: 10 GiB written out.
    let data = vec![0u8; 1 << 20];
    let text = file("1048576", 1 << 20, &records(10_000, "1"));
    let dir = folder();
    let path = dir.path().join("case.safetensors");
    std::fs::write(&path, safetensors(&text, &data)).unwrap();
    let model = options().open(&path).unwrap();
    assert_eq!(model.tensors.len(), 1);
    assert!(
        model
            .warnings
            .iter()
            .any(|w| w.rule == "safetensors.expansion")
    );
}

#[test]
fn a_recorded_group_names_one_tensor_again_and_again() {
    let member = "{\"name\":\"t\",\"offset\":0,\"stride\":[1],\"stored\":true}";
    let group = |n: usize| {
        let all = vec![member; n].join(",");
        format!("{{\"bytes\":1,\"tensors\":[{all}]}}")
    };
    for record in [
        format!("[{}]", group(20_000)),
        format!("[{}]", vec![group(2); 10_000].join(",")),
    ] {
        let header = format!(
            "{{\"__metadata__\":{{\"weighbridge.aliases\":{}}},\"t\":{{\"dtype\":\"U8\",\
             \"shape\":[4000000],\"data_offsets\":[0,4000000]}}}}",
            serde_json::to_string(&record).unwrap()
        );
        assert_eq!(safetensors_case(&header, &vec![0; 4_000_000]), "");
    }
}

#[test]
fn members_that_lie_over_each_other_are_not_all_read() {
    // 5,000 entries of the central directory for one stored member of 1 MB.
    let data = [b"\x80\x02](".as_slice(), &vec![b'N'; 4_000_000], b"e."].concat();
    let whole = zip(&[("m/data.pkl", &data)]);
    let central = whole.windows(4).rposition(|w| w == b"PK\x01\x02").unwrap();
    let end = whole.windows(4).rposition(|w| w == b"PK\x05\x06").unwrap();
    let entry = &whole[central..end];
    let count = 5000u16;
    let mut file = whole[..central].to_vec();
    file.extend(entry.repeat(count.into()));
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([count.to_le_bytes(), count.to_le_bytes()].concat());
    file.extend((u32::try_from(entry.len()).unwrap() * u32::from(count)).to_le_bytes());
    file.extend(u32::try_from(central).unwrap().to_le_bytes());
    file.extend([0, 0]);
    assert_eq!(pickle_case(&file), "zip.duplicate-name");
}

#[test]
fn classes_of_scripted_code_are_read_once() {
    // As many modules as classes in one file of code.
    let mut code = String::new();
    let mut p = Pickle::new().global("__torch__.m", "Root").op(b")R}(");
    for i in 0..20_000 {
        code += &format!("class C{i}(Module):\n  __parameters__ = []\n");
        let name = format!("c{i}");
        p = p
            .text(&name)
            .global("__torch__.m", &format!("C{i}"))
            .op(b")R}b");
    }
    let pickle = p.op(b"ub.").0;
    let empty = Pickle::new().op(b").").0;
    let file = zip(&[
        ("m/data.pkl", &pickle),
        ("m/constants.pkl", &empty),
        ("m/code/__torch__/m.py", code.as_bytes()),
    ]);
    assert_eq!(pickle_case(&file), "");
}

#[test]
fn json_in_metadata_nests_without_end() {
    for open in ["[", "{\\\"a\\\":", "{\\\"$list\\\":["] {
        for key in [
            "weighbridge.structure",
            "weighbridge.aliases",
            "weighbridge.tensors",
        ] {
            let text = open.repeat(100_000);
            let header = format!("{{\"__metadata__\":{{\"{key}\":\"{text}\"}}}}");
            assert_eq!(safetensors_case(&header, &[]), "");
        }
    }
    let header = format!("{{\"a\":{}", "[".repeat(100_000));
    assert_ne!(safetensors_case(&header, &[]), "");
    // The deepest that is read, on a small stack.
    let deep = format!("{}null{}", "{\\\"$list\\\":[".repeat(199), "]}".repeat(199));
    let header = format!("{{\"__metadata__\":{{\"weighbridge.structure\":\"{deep}\"}}}}");
    assert_eq!(safetensors_case(&header, &[]), "");
    let dir = folder();
    let path = dir.path().join("model.safetensors.index.json");
    std::fs::write(&path, "{\"weight_map\":".repeat(100_000)).unwrap();
    assert_eq!(exercise(path), "shards.bad-index");
}

#[test]
fn metadata_again_and_again() {
    let mut header = String::from("{\"__metadata__\":{");
    for i in 0..50_000 {
        header += &format!("\"{i}\":\"\",");
    }
    header.pop();
    header.push('}');
    header += &",\"__metadata__\":{}".repeat(50_000);
    header.push('}');
    let dir = folder();
    let path = dir.path().join("case.safetensors");
    std::fs::write(&path, safetensors(&header, &[])).unwrap();
    let started = Instant::now();
    let lenient = OpenOptions {
        lenient: true,
        ..options()
    };
    let _ = lenient.open(&path);
    let _ = check::check(&path, &lenient);
    assert!(started.elapsed() < LONGEST);
}

#[test]
fn state_that_takes_one_tensor_many_times() {
    let item = "{\"$bytes\":{\"$tensor\":\"t\"}}";
    let list = format!("{{\"$list\":[{}]}}", vec![item; 20_000].join(","));
    let header = format!(
        "{{\"__metadata__\":{{\"weighbridge.structure\":{}}},\"t\":{{\"dtype\":\"U8\",\
         \"shape\":[1000000],\"data_offsets\":[0,1000000]}}}}",
        serde_json::to_string(&list).unwrap()
    );
    let dir = folder();
    let path = dir.path().join("case.safetensors");
    std::fs::write(&path, safetensors(&header, &vec![0; 1_000_000])).unwrap();
    let model = options().open(&path).unwrap();
    let out = dir.path().join("out.pt");
    let e = convert(model, &out, &ConvertOptions::default(), &mut |_, _| {}).unwrap_err();
    assert_eq!(e.rule(), "structure.moved-bytes");
    assert!(!out.exists());
}

#[cfg(unix)]
#[test]
fn pipes_and_devices_in_a_folder() {
    let fifo = |path: &Path| {
        let done = std::process::Command::new("mkfifo").arg(path).status();
        assert!(done.unwrap().success());
    };
    for name in [
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "model.pt",
        "latest",
        "latest_checkpointed_iteration.txt",
        ".metadata",
        "a.distcp",
        "model-00001-of-00001.safetensors",
    ] {
        let dir = folder();
        fifo(&dir.path().join(name));
        assert_ne!(exercise(dir.path().to_owned()), "", "{name}");
        assert_ne!(exercise(dir.path().join(name)), "", "{name}");
        let dir = folder();
        std::os::unix::fs::symlink("/dev/zero", dir.path().join(name)).unwrap();
        assert_ne!(exercise(dir.path().to_owned()), "", "{name}");
        assert_ne!(exercise(dir.path().join(name)), "", "{name}");
        // A folder, a link to nothing and a link to itself.
        let dir = folder();
        std::fs::create_dir(dir.path().join(name)).unwrap();
        assert_ne!(exercise(dir.path().to_owned()), "", "{name}");
        for target in ["nothing", name] {
            let dir = folder();
            std::os::unix::fs::symlink(target, dir.path().join(name)).unwrap();
            assert_ne!(exercise(dir.path().to_owned()), "", "{name}");
            assert_ne!(exercise(dir.path().join(name)), "", "{name}");
        }
    }
}

#[cfg(unix)]
#[test]
fn names_that_are_no_text() {
    use std::os::unix::ffi::OsStrExt;
    let dir = folder();
    let odd = dir
        .path()
        .join(std::ffi::OsStr::from_bytes(b"m\xff.safetensors"));
    let good = safetensors("{}", &[]);
    // Some file systems refuse such names.
    if std::fs::write(&odd, &good).is_err() {
        return;
    }
    assert_eq!(exercise(dir.path().to_owned()), "directory.no-model");
    let _ = exercise(odd);
    std::fs::write(dir.path().join("model.safetensors"), good).unwrap();
    assert_eq!(exercise(dir.path().to_owned()), "");
}

#[test]
fn entries_of_a_distributed_checkpoint_that_name_one_item() {
    const M: &str = "torch.distributed.checkpoint.metadata";
    let object = Pickle::new().op(b"](").times(300_000, b"N").op(b"e.").0;
    let info = Pickle::default()
        .global("torch.distributed.checkpoint.filesystem", "_StorageInfo")
        .op(b")R}(")
        .text("relative_path")
        .text("__0_0.distcp")
        .text("offset")
        .int(0)
        .text("length")
        .int(i32::try_from(object.len()).unwrap())
        .op(b"ub");
    let (mut stored, mut entries) = (Pickle::default(), Pickle::default());
    for i in 0..2000 {
        let name = format!("e{i}");
        stored = stored
            .global(M, "MetadataIndex")
            .op(b")R}")
            .text("fqn")
            .text(&name);
        stored = stored.op(b"sb").op(&info.0);
        entries = entries
            .text(&name)
            .global(M, "BytesStorageMetadata")
            .op(b")R");
    }
    let metadata = Pickle::new()
        .global(M, "Metadata")
        .op(b")R}(")
        .text("state_dict_metadata")
        .op(b"}(")
        .op(&entries.0)
        .op(b"u")
        .text("storage_data")
        .op(b"}(")
        .op(&stored.0)
        .op(b"uub.");
    let dir = folder();
    std::fs::write(dir.path().join(".metadata"), metadata.0).unwrap();
    std::fs::write(dir.path().join("__0_0.distcp"), object).unwrap();
    assert_eq!(exercise(dir.path().to_owned()), "dcp.overlap");
}
