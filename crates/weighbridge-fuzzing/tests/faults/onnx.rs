//! ONNX models whose weights move: a model and the files beside it come into place together.

use super::*;

/// A model of `TENSORS` weights in one file, written without our writer.
fn write_onnx(path: &Path) {
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
    let mut graph = vec![0x12, 1, b'g'];
    for i in 0..TENSORS {
        let mut tensor = vec![0x08];
        varint(&mut tensor, TENSOR_BYTES / 4);
        tensor.extend([0x10, 1]);
        let name = format!("layer.{i:02}.weight");
        head(&mut tensor, 8, name.len());
        tensor.extend(name.as_bytes());
        head(&mut tensor, 9, TENSOR_BYTES);
        tensor.extend(noise(i as u64, TENSOR_BYTES));
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
