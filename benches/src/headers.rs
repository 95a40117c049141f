//! Opening and writing a safetensors header of very many tensors: ours and the official crate, in
//! one process, in turns.
//!
//! ```text
//! headers time DIR TENSORS RUNS          NAME<tab>MEDIAN<tab>FASTEST, in seconds, a line each
//! headers once DIR TENSORS 'open ours'   does one operation once, for its memory
//! headers versions
//! ```

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use memmap2::Mmap;
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize_to_file};
use weighbridge::format::FormatWriter;
use weighbridge::format::WriteOptions;
use weighbridge::format::safetensors::Safetensors;
use weighbridge::output::write_plan;
use weighbridge_core::model::{DType, FormatId, Model, Storage, StorageData, Tensor};
use weighbridge_core::model::{TensorSource, View};
use weighbridge_core::source::SliceSource;

type Failure = Box<dyn std::error::Error>;

/// Values of each tensor: two floats.
const VALUES: u64 = 2;

/// What is written: names and payload are made before the clock runs.
struct Input {
    names: Vec<String>,
    payload: Vec<u8>,
    model: Model,
    from: PathBuf,
    to: PathBuf,
}

fn name(i: usize) -> String {
    format!("model.layers.{}.experts.{}.weight", i / 64, i % 64)
}

fn input(dir: &Path, count: usize) -> Result<Input, Failure> {
    let names: Vec<String> = (0..count).map(name).collect();
    let payload: Vec<u8> = (0..count * VALUES as usize * 4).map(|i| i as u8).collect();
    let source = Arc::new(SliceSource::new(payload.clone(), "bench"));
    let data = StorageData::Raw {
        source,
        offset: 0,
        checksum: None,
    };
    let storage = Storage::new("bench", payload.len() as u64, false, data)?;
    let storage = Arc::new(storage.into_region());
    let mut model = Model::new(FormatId::Safetensors);
    model.tensors = names
        .iter()
        .enumerate()
        .map(|(i, name)| {
            let view = View {
                storage: Arc::clone(&storage),
                offset: i as u64 * VALUES * 4,
            };
            Tensor::new(
                name.as_str(),
                DType::F32,
                &[VALUES],
                TensorSource::View(view),
            )
        })
        .collect();
    let from = dir.join(format!("header-{count}.safetensors"));
    let input = Input {
        names,
        payload,
        model,
        from,
        to: dir.join("header-written.safetensors"),
    };
    if !input.from.is_file() {
        // The official layout, by the official crate.
        official_write(&input, &input.from)?;
    }
    Ok(input)
}

fn views(input: &Input) -> Result<Vec<(&str, TensorView<'_>)>, Failure> {
    let each = input.payload.chunks(VALUES as usize * 4);
    let named = input.names.iter().zip(each);
    named
        .map(|(n, bytes)| {
            let view = TensorView::new(Dtype::F32, vec![VALUES as usize], bytes)?;
            Ok((n.as_str(), view))
        })
        .collect()
}

fn official_write(input: &Input, to: &Path) -> Result<usize, Failure> {
    serialize_to_file(views(input)?, None, to)?;
    Ok(input.names.len())
}

fn our_write(input: &Input) -> Result<usize, Failure> {
    let plan = Safetensors.plan(&input.model, &WriteOptions::default())?;
    write_plan(
        &Safetensors,
        &input.model,
        &plan,
        &input.to,
        false,
        &mut |_| {},
    )?;
    Ok(input.names.len())
}

fn our_open(input: &Input) -> Result<usize, Failure> {
    Ok(weighbridge::open(&input.from)?.tensors.len())
}

fn official_open(input: &Input) -> Result<usize, Failure> {
    let file = File::open(&input.from)?;
    // SAFETY: nothing else writes the bench's own file while it is mapped.
    let map = unsafe { Mmap::map(&file)? };
    Ok(SafeTensors::deserialize(&map)?.len())
}

fn our_names(input: &Input) -> Result<usize, Failure> {
    let model = weighbridge::open(&input.from)?;
    Ok(model.tensors.iter().map(|t| t.name.len()).sum())
}

fn official_names(input: &Input) -> Result<usize, Failure> {
    let file = File::open(&input.from)?;
    // SAFETY: as above.
    let map = unsafe { Mmap::map(&file)? };
    let all = SafeTensors::deserialize(&map)?;
    Ok(all.names().iter().map(|n| n.len()).sum())
}

type Operation = fn(&Input) -> Result<usize, Failure>;

/// Ours beside theirs.
const OPERATIONS: [(&str, Operation); 6] = [
    ("open ours", our_open),
    ("open official crate", official_open),
    ("open-and-list ours", our_names),
    ("open-and-list official crate", official_names),
    ("write ours", our_write),
    ("write official crate", |i| official_write(i, &i.to)),
];

fn time(input: &Input, runs: usize) -> Result<(), Failure> {
    let mut taken: HashMap<&str, Vec<f64>> = HashMap::new();
    for run in 0..runs {
        for turn in 0..OPERATIONS.len() {
            let (name, operation) = OPERATIONS[(run + turn) % OPERATIONS.len()];
            let started = Instant::now();
            let answer = operation(input)?;
            taken
                .entry(name)
                .or_default()
                .push(started.elapsed().as_secs_f64());
            assert!(answer >= input.names.len(), "{name} gave {answer}");
            let _ = std::fs::remove_file(&input.to);
        }
    }
    for (name, _) in OPERATIONS {
        let mut all = taken.remove(name).unwrap_or_default();
        all.sort_by(f64::total_cmp);
        println!("{name}\t{}\t{}", all[all.len() / 2], all[0]);
    }
    Ok(())
}

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["versions"] => println!("safetensors 0.8.0"),
        ["time", dir, count, runs] => {
            time(
                &input(Path::new(dir), count.parse()?)?,
                runs.parse::<usize>()?.max(1),
            )?;
        }
        ["once", dir, count, wanted] => {
            let count: usize = count.parse()?;
            let writes = wanted.starts_with("write");
            let input = if writes {
                input(Path::new(dir), count)?
            } else {
                // Nothing but the file: what is measured is what reading takes.
                Input {
                    names: Vec::new(),
                    payload: Vec::new(),
                    model: Model::new(FormatId::Safetensors),
                    from: Path::new(dir).join(format!("header-{count}.safetensors")),
                    to: PathBuf::new(),
                }
            };
            let found = OPERATIONS.iter().find(|(n, _)| *n == wanted);
            let (_, operation) = found.ok_or("no such operation")?;
            println!("{}", operation(&input)?);
            let _ = std::fs::remove_file(&input.to);
        }
        _ => return Err("headers time DIR TENSORS RUNS | once DIR TENSORS NAME | versions".into()),
    }
    Ok(())
}
