//! ONNX models whose weights move: a model and the files beside it come into place together.

use super::*;

fn write_onnx(path: &Path) {
    write_other(path, 0);
}

/// A model of `TENSORS` weights in one file, written without our writer: others for each `seed`,
/// and another name.
fn write_other(path: &Path, seed: usize) {
    fn varint(out: &mut Vec<u8>, mut n: usize) {
        while n >= 0x80 {
            out.push((n & 0x7f) as u8 | 0x80);
            n >>= 7;
        }
        out.push(n as u8);
    }
    fn head(out: &mut Vec<u8>, number: usize, len: usize) {
        varint(out, number << 3 | 2);
        varint(out, len);
    }
    let mut graph = vec![0x12, 1, b'g' + (seed % 16) as u8];
    for i in 0..TENSORS {
        let mut tensor = vec![0x08];
        varint(&mut tensor, TENSOR_BYTES / 4);
        tensor.extend([0x10, 1]);
        let name = format!("layer.{i:02}.weight");
        head(&mut tensor, 8, name.len());
        tensor.extend(name.as_bytes());
        head(&mut tensor, 9, TENSOR_BYTES);
        tensor.extend(noise((seed + i) as u64, TENSOR_BYTES));
        head(&mut graph, 5, tensor.len());
        graph.extend(tensor);
    }
    let mut model = vec![0x08, 8];
    head(&mut model, 7, graph.len());
    model.extend(graph);
    fs::write(path, model).expect("writes");
}

#[test]
fn killed_while_weights_move_leaves_a_whole_model() {
    let dir = folder();
    let path = dir.path().join("m.onnx");
    write_onnx(&path);
    let old = fs::read(&path).expect("reads");
    let (_, data) = said_and_held(&path);
    // What waits for a disk takes now this long and now that: kills would miss.
    let words = ["--external", "--no-sync"];
    let mut took = Duration::MAX;
    for _ in 0..3 {
        fs::write(&path, &old).expect("writes");
        let started = Instant::now();
        succeed(edit(&path, &words));
        took = took.min(started.elapsed());
    }
    let right = fs::read(&path).expect("reads");
    assert!(right.len() < 8192 && said_and_held(&path).1 == data);
    let beside = dir.path().join("m.onnx.data");
    let weights = fs::read(&beside).expect("reads");
    let mut rng = Rng::new(13);
    let mut died = 0;
    for n in 0..KILLS {
        fs::write(&path, &old).expect("writes");
        for name in listing(dir.path()).into_keys().filter(|n| n != "m.onnx") {
            fs::remove_file(dir.path().join(name)).expect("removes");
        }
        let mut child = edit(&path, &words);
        let most = took.as_micros() as usize;
        std::thread::sleep(Duration::from_micros(rng.below(most) as u64));
        child.kill().expect("kills");
        let out = child.wait_with_output().expect("ends");
        died += usize::from(out.status.signal() == Some(9));
        let now = fs::read(&path).expect("the file is there");
        assert!(
            now == old || now == right,
            "kill {n}: neither the old nor the new"
        );
        if now == right {
            assert!(
                fs::read(&beside).is_ok_and(|b| b == weights),
                "kill {n}: the model is there and its weights are not"
            );
        }
    }
    assert!(died >= KILLS / 4, "hardly any kill came in time: {died}");
}

/// Two models of one layout: the weights of the one under the other would read without an error.
#[test]
fn killed_while_both_files_are_replaced_leaves_no_model_with_other_weights() {
    let dir = folder();
    let at = |name: &str| dir.path().join(name);
    let split = |from: &str| {
        let (from, to) = (at(from), at("s"));
        spawn(&[Path::new("split"), &from, &to, Path::new("--no-sync")])
    };
    // No two of the files are the same in both.
    let pair = || ["s.onnx", "s.onnx.data"].map(|n| fs::read(at(n)).ok());
    let (mut pairs, mut took) = (Vec::new(), Duration::MAX);
    for (seed, name) in ["a.onnx", "b.onnx"].into_iter().enumerate() {
        write_other(&at(name), 1001 * seed);
        let started = Instant::now();
        succeed(split(name));
        took = took.min(started.elapsed());
        pairs.push(pair());
    }
    assert!(pairs[0][0] != pairs[1][0] && pairs[0][1] != pairs[1][1]);
    let mut rng = Rng::new(14);
    let mut died = 0;
    for n in 0..KILLS {
        let mut child = split(["a.onnx", "b.onnx"][n % 2]);
        let most = took.as_micros() as usize;
        std::thread::sleep(Duration::from_micros(rng.below(most) as u64));
        child.kill().expect("kills");
        let out = child.wait_with_output().expect("ends");
        died += usize::from(out.status.signal() == Some(9));
        let now = pair();
        assert!(
            now[0].is_none() || pairs.contains(&now),
            "kill {n}: a model with the weights of the other"
        );
        for name in listing(dir.path())
            .into_keys()
            .filter(|n| n.starts_with('.'))
        {
            fs::remove_file(at(&name)).expect("removes");
        }
    }
    assert!(died >= KILLS / 4, "hardly any kill came in time: {died}");
}

/// A limit on the size of files stands for the full disk, as above.
#[test]
fn weights_for_which_there_is_no_room_stay_where_they_are() {
    let dir = folder();
    let path = dir.path().join("m.onnx");
    write_onnx(&path);
    let old = fs::read(&path).expect("reads");
    let script = "ulimit -f 20000; exec \"$@\"";
    for verb in ["edit", "split"] {
        let mut words = vec![tool(), Path::new(verb), &path];
        words.push(match verb {
            "edit" => Path::new("--external"),
            _ => Path::new("new"),
        });
        let out = Command::new("sh")
            .current_dir(dir.path())
            .args(["-c", script, "sh"])
            .args(&words)
            .output()
            .expect("sh runs");
        let mut left = listing(dir.path());
        left.remove("m.onnx");
        told_of_a_full_disk(&out, &left);
        assert!(
            fs::read(&path).expect("reads") == old,
            "the file has changed"
        );
    }
}
