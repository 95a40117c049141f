//! `cargo xtask bench quantize`: us and `llama-quantize`, which must write the same bytes.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::llama::{self, Reference};
use super::model::{self, Shape};
use super::report::{self, Contender, Target, find, text, time};
use crate::measure::{measure, median};
use crate::{Result, repo};

const THEIRS: &str = "llama-quantize";
const OURS: &str = "ours";
const COPY: &str = "cp --reflink=never";

/// What stands behind a type that is to be made with the importance matrix.
const WITH_MATRIX: &str = "+imatrix";

/// What is measured, and what for a quick look.
const CASES: &str = "Q4_0,Q8_0,Q2_K,Q3_K_M,Q4_K_M,Q5_K_M,Q6_K,IQ4_XS,IQ3_S+imatrix";
const QUICK: &str = "Q8_0,Q4_K_M,Q6_K,IQ3_S+imatrix";

const THREADS: [u32; 2] = [1, 2];

/// Seconds that the reference may take in all rounds of a row before no further one is begun: runs
/// of a minute average out what disturbs runs of a second.
const ENOUGH: f64 = 60.0;

/// What the benchmarks run on.
struct Setup {
    tool: PathBuf,
    reference: Reference,
    shape: Shape,
    model: PathBuf,
    matrix: PathBuf,
    /// Where outputs go.
    dir: PathBuf,
    quick: bool,
}

/// A type to quantize to.
struct Case {
    name: String,
    matrix: bool,
}

/// A type and a number of threads, and what came out.
struct Row<'a> {
    case: &'a Case,
    threads: u32,
    all: Vec<Contender>,
    /// Bytes of our output.
    bytes: u64,
    /// How the outputs differ.
    differs: Option<String>,
}

/// Measures and writes the section "Quantization" of `docs/benchmarks.md`; `quick`, or a list of
/// `types` other than its own, writes nothing.
///
/// # Errors
/// When something cannot be built, made or run, or the outputs differ.
pub(crate) fn run(quick: bool, types: Option<&str>) -> Result<()> {
    let cases = cases(types.unwrap_or(if quick { QUICK } else { CASES }));
    let setup = setup(quick)?;
    let mut rows = Vec::new();
    for case in &cases {
        for threads in THREADS {
            eprintln!("{} with {threads}", case.words());
            rows.push(side_by_side(&setup, case, threads)?);
        }
    }
    let mut text = preamble(&setup)?;
    let _ = write!(text, "\n{}", table(&rows));
    let _ = write!(
        text,
        "\n### Targets\n\n{}",
        report::targets(&targets(&rows)?)
    );
    println!("{text}");
    let different: Vec<String> = rows.iter().filter_map(Row::difference).collect();
    if !different.is_empty() {
        let all = different.join("\n  ");
        return Err(format!("not the reference's bytes:\n  {all}"));
    }
    if quick || types.is_some() {
        println!("a look at a part: nothing is written down");
        return Ok(());
    }
    report::write_between("docs/benchmarks.md", "quantize", &text)?;
    println!("written to docs/benchmarks.md");
    Ok(())
}

fn cases(list: &str) -> Vec<Case> {
    let case = |word: &str| {
        let (name, matrix) = match word.strip_suffix(WITH_MATRIX) {
            Some(name) => (name, true),
            None => (word, false),
        };
        Case {
            name: name.to_ascii_uppercase(),
            matrix,
        }
    };
    list.split(',')
        .filter(|w| !w.is_empty())
        .map(case)
        .collect()
}

impl Case {
    fn words(&self) -> String {
        match self.matrix {
            true => format!("{}, matrix", self.name),
            false => self.name.clone(),
        }
    }

    /// Whether it is a K or an I type, whose search for scales is what takes the time.
    fn searched(&self) -> bool {
        self.name.starts_with("IQ") || self.name.contains("_K")
    }

    /// How many times as fast as the reference it should be.
    fn wanted(&self) -> f64 {
        if self.searched() { 4.0 } else { 2.0 }
    }
}

fn setup(quick: bool) -> Result<Setup> {
    let dir = repo::target().join("bench-quantize");
    std::fs::create_dir_all(&dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
    let (shape, size) = match quick {
        true => (Shape::QUICK, "quick"),
        false => (Shape::FULL, "full"),
    };
    let setup = Setup {
        reference: llama::reference()?,
        tool: repo::build_tool(true)?,
        shape,
        model: dir.join(format!("model-{size}.gguf")),
        matrix: dir.join(format!("matrix-{size}.gguf")),
        dir,
        quick,
    };
    if !setup.model.is_file() {
        println!("making {}", setup.model.display());
        model::write_model(shape, &setup.model)?;
    }
    if !setup.matrix.is_file() {
        model::write_matrix(shape, &setup.matrix)?;
    }
    // Into the page cache, whatever else ran since it was made.
    let mut file = File::open(&setup.model).map_err(|e| e.to_string())?;
    std::io::copy(&mut file, &mut std::io::sink()).map_err(|e| e.to_string())?;
    Ok(setup)
}

/// Runs all in turns, and compares each round's two outputs.
fn side_by_side<'a>(s: &Setup, case: &'a Case, threads: u32) -> Result<Row<'a>> {
    let mut all = contenders(s, case, threads);
    let rounds = match s.quick || case.searched() {
        true => 3,
        false => 5,
    };
    let [theirs, ours] = [THEIRS, OURS].map(|name| s.output(name));
    let mut row = Row {
        case,
        threads,
        all: Vec::new(),
        bytes: 0,
        differs: None,
    };
    for round in 0..rounds {
        // What an earlier, interrupted run left.
        let _ = std::fs::remove_file(&theirs);
        let _ = std::fs::remove_file(&ours);
        let n = all.len();
        for turn in 0..n {
            let c = &mut all[(round + turn) % n];
            let words: Vec<&str> = c.command.iter().map(String::as_str).collect();
            let cost = measure(&words)?;
            eprintln!("  round {} {}: {:.3} s", round + 1, c.name, cost.seconds);
            c.costs.push(cost);
            if let Some(copy) = &c.makes {
                let _ = std::fs::remove_file(copy);
            }
        }
        row.bytes = std::fs::metadata(&ours).map_or(0, |m| m.len());
        row.differs = difference(&theirs, &ours)?;
        if row.differs.is_some() {
            keep(&theirs, case, "theirs");
            keep(&ours, case, "ours");
            break;
        }
        let spent: f64 = find(&all, THEIRS)?.costs.iter().map(|c| c.seconds).sum();
        if spent > ENOUGH {
            break;
        }
    }
    let _ = std::fs::remove_file(&theirs);
    let _ = std::fs::remove_file(&ours);
    row.all = all;
    Ok(row)
}

/// The three commands; only the copy makes what nobody looks at.
fn contenders(s: &Setup, case: &Case, threads: u32) -> Vec<Contender> {
    let (input, matrix, n) = (text(&s.model), text(&s.matrix), threads.to_string());
    let (program, tool) = (text(&s.reference.program), text(&s.tool));
    let [theirs, ours, copy] = [THEIRS, OURS, COPY].map(|name| text(&s.output(name)));
    let with: &[&str] = match case.matrix {
        true => &["--imatrix", &matrix],
        false => &[],
    };
    let one = [program.as_str()];
    let one = [&one, with, &[&input, &theirs, &case.name, &n]].concat();
    let two = [tool.as_str(), "quantize", &input, &ours];
    let two = [&two, with, &["--type", &case.name, "--threads", &n]].concat();
    let two = [&two[..], &["--no-sync", "--quiet"]].concat();
    let three = ["cp", "--reflink=never", &input, &copy];
    vec![
        Contender::new(THEIRS, OURS, &one),
        Contender::new(OURS, OURS, &two),
        Contender::new(COPY, OURS, &three).making(Path::new(&copy)),
    ]
}

impl Setup {
    /// Where a contender writes.
    fn output(&self, name: &str) -> PathBuf {
        let name = name.split(' ').next().unwrap_or(name);
        self.dir.join(format!("out-{name}.gguf"))
    }
}

/// Keeps an output that is not as the other.
fn keep(path: &Path, case: &Case, whose: &str) {
    let name = format!("different-{}-{whose}.gguf", case.name);
    let _ = std::fs::rename(path, path.with_file_name(name));
}

/// How two files differ.
fn difference(a: &Path, b: &Path) -> Result<Option<String>> {
    let fail = |p: &Path, e| format!("cannot read {}: {e}", p.display());
    let open = |p: &Path| File::open(p).map_err(|e| fail(p, e));
    let (one, two) = (open(a)?, open(b)?);
    let size = |p: &Path, f: &File| f.metadata().map(|m| m.len()).map_err(|e| fail(p, e));
    let sizes = (size(a, &one)?, size(b, &two)?);
    let (mut one, mut two) = (BufReader::new(one), BufReader::new(two));
    let (mut x, mut y) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let (mut at, mut first, mut count) = (0, None, 0u64);
    while at < sizes.0.min(sizes.1) {
        let n = (sizes.0.min(sizes.1) - at).min(1 << 20) as usize;
        one.read_exact(&mut x[..n]).map_err(|e| fail(a, e))?;
        two.read_exact(&mut y[..n]).map_err(|e| fail(b, e))?;
        if x[..n] != y[..n] {
            let pairs = x[..n].iter().zip(&y[..n]);
            let mut unlike = pairs.enumerate().filter(|(_, (x, y))| x != y);
            if let Some((i, _)) = unlike.next() {
                first = first.or(Some(at + i as u64));
                count += 1 + unlike.count() as u64;
            }
        }
        at += n as u64;
    }
    Ok(match (first, sizes.0 == sizes.1) {
        (None, true) => None,
        (None, false) => Some(format!("{} bytes, ours {}", sizes.0, sizes.1)),
        (Some(at), _) => Some(format!(
            "{count} bytes, the first at {at} ({} bytes, ours {})",
            sizes.0, sizes.1
        )),
    })
}

impl Row<'_> {
    fn difference(&self) -> Option<String> {
        let how = self.differs.as_ref()?;
        let Case { name, .. } = self.case;
        Some(format!(
            "{} with {} threads: {how}; kept as different-{name}-*.gguf",
            self.case.words(),
            self.threads
        ))
    }

    /// Reference's median by ours.
    fn ratio(&self) -> Result<f64> {
        Ok(find(&self.all, THEIRS)?.seconds() / find(&self.all, OURS)?.seconds())
    }

    /// The middle of the ratios of processor time, round by round.
    fn processor(&self) -> Result<f64> {
        let (theirs, ours) = (find(&self.all, THEIRS)?, find(&self.all, OURS)?);
        let pairs = theirs.costs.iter().zip(&ours.costs);
        let ratios: Vec<f64> = pairs.map(|(a, b)| a.processor / b.processor).collect();
        Ok(median(&ratios))
    }

    /// Our private memory by the reference's.
    fn memory(&self) -> Result<f64> {
        Ok(find(&self.all, OURS)?.private() / find(&self.all, THEIRS)?.private())
    }
}

fn table(rows: &[Row<'_>]) -> String {
    let mut text = String::from(
        "| type | threads | runs | llama-quantize | ours | ratio | of processor time | cp | \
         memory: llama-quantize | ours | share | output | identical |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|\n",
    );
    for r in rows {
        let [Ok(theirs), Ok(ours), Ok(copy)] = [THEIRS, OURS, COPY].map(|n| find(&r.all, n)) else {
            continue;
        };
        let (Ok(ratio), Ok(processor), Ok(memory)) = (r.ratio(), r.processor(), r.memory()) else {
            continue;
        };
        let ratio = match ratio >= r.case.wanted() {
            true => format!("{ratio:.2}"),
            false => format!("**{ratio:.2}**"),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {ratio} | {processor:.2} | {} | {} | {} | {:.1} % | {:.1} MB | {} |",
            r.case.words(),
            r.threads,
            theirs.costs.len(),
            time(theirs.seconds()),
            time(ours.seconds()),
            time(copy.seconds()),
            held(theirs),
            held(ours),
            memory * 100.0,
            r.bytes as f64 / 1e6,
            if r.differs.is_none() { "yes" } else { "**no**" },
        );
    }
    text
}

/// Peak private memory, and resident in brackets.
fn held(c: &Contender) -> String {
    format!("{:.1} ({:.1}) MiB", c.private(), c.resident())
}

fn targets(rows: &[Row<'_>]) -> Result<Vec<Target>> {
    let mut out = Vec::new();
    let groups = [
        ("our time, K and I types, 1 thread", true, 1),
        ("our time, K and I types, 2 threads", true, 2),
        ("our time, other types, 1 thread", false, 1),
        ("our time, other types, 2 threads", false, 2),
    ];
    for (what, searched, threads) in groups {
        let of = |r: &&Row<'_>| r.case.searched() == searched && r.threads == threads;
        let mut least = None;
        for r in rows.iter().filter(of) {
            let ratio = r.ratio()?;
            least = Some(least.map_or(ratio, |l: f64| l.min(ratio)));
        }
        if let Some(least) = least {
            out.push(Target {
                what,
                wanted: if searched { 0.25 } else { 0.5 },
                reached: 1.0 / least,
                unit: "× the reference's",
            });
        }
    }
    let mut most: f64 = 0.0;
    for r in rows {
        most = most.max(r.memory()?);
    }
    out.push(Target {
        what: "private memory",
        wanted: 0.2,
        reached: most,
        unit: "× the reference's",
    });
    Ok(out)
}

fn preamble(s: &Setup) -> Result<String> {
    let bytes = std::fs::metadata(&s.model).map_or(0, |m| m.len());
    Ok(format!(
        "Measured {} by `cargo xtask bench quantize` at commit {}.\n\
         Machine: {}.\n\
         Versions: {}; llama-quantize {}.\n\
         Model: {:.2} GB in F16, {}; three rows of four gaussian, one of Student's t distribution, \
         of a fixed seed. \"matrix\": with an importance matrix made in the same way.\n\
         Warm page cache throughout, none of the three waits for the disk. Runs alternate, and \
         each round starts with another command; medians of whole processes, of fewer runs where \
         the reference takes minutes. Ratio: the \
         reference's time by ours, 4 wanted for K and I types and 2 for the others, bold where it \
         is less; beside it that of the processor time of all threads. Memory: peak private, and \
         in brackets peak resident, mapped pages of the input included. The outputs of every round \
         were compared as whole files. Targets take the worst type.\n",
        repo::today(),
        repo::commit()?,
        repo::machine(),
        repo::rustc()?,
        built(s),
        bytes as f64 / 1e9,
        s.shape.words(),
    ))
}

/// What the program says of itself, and how it was built. It tells only when it has work to do.
fn built(s: &Setup) -> String {
    let mut command = Command::new(&s.reference.program);
    let said = command.arg("--dry-run").arg(&s.model).arg("Q8_0").output();
    let said = said.map_or_else(
        |_| String::new(),
        |o| String::from_utf8_lossy(&o.stderr).into_owned(),
    );
    let told = |l: &&str| l.starts_with("version: ") || l.starts_with("built with ");
    let mut words: Vec<&str> = said.lines().filter(told).collect();
    words.push(&s.reference.built);
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Cost;

    #[test]
    fn a_list_names_types_with_and_without_the_matrix() {
        let all = cases("q8_0,IQ3_S+imatrix,");
        let [a, b] = all.as_slice() else {
            panic!("{} cases", all.len());
        };
        assert_eq!(
            (a.name.as_str(), a.matrix, a.wanted()),
            ("Q8_0", false, 2.0)
        );
        assert_eq!((b.words().as_str(), b.wanted()), ("IQ3_S, matrix", 4.0));
        assert_eq!(cases(CASES).len(), 9);
        assert!(cases("Q2_K")[0].searched());
    }

    #[test]
    fn files_are_compared_to_their_ends() {
        let dir = std::env::temp_dir().join(format!("xtask-differ-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        let file = |name: &str, bytes: &[u8]| {
            let path = dir.join(name);
            std::fs::write(&path, bytes).expect("it is written");
            path
        };
        let mut bytes = vec![7; (1 << 20) + 10];
        let a = file("a", &bytes);
        assert_eq!(difference(&a, &a), Ok(None));
        bytes[5] = 0;
        bytes[(1 << 20) + 3] = 0;
        let said = difference(&a, &file("b", &bytes)).expect("read");
        assert!(said.is_some_and(|s| s.starts_with("2 bytes, the first at 5 (")));
        let said = difference(&a, &file("c", &[7; 100])).expect("read");
        assert!(said.is_some_and(|s| s.ends_with("ours 100")));
        std::fs::remove_dir_all(dir).expect("it is removed");
    }

    #[test]
    fn targets_take_the_worst_type() {
        let case = Case {
            name: "Q6_K".into(),
            matrix: false,
        };
        let cost = |seconds, private| Cost {
            seconds,
            private,
            ..Cost::default()
        };
        let row = |theirs, ours| {
            let mut all = vec![
                Contender::new(THEIRS, OURS, &[]),
                Contender::new(OURS, OURS, &[]),
                Contender::new(COPY, OURS, &[]),
            ];
            all[0].costs.push(cost(theirs, 100));
            all[1].costs.push(cost(ours, 10));
            all[2].costs.push(cost(1.0, 1));
            Row {
                case: &case,
                threads: 1,
                all,
                bytes: 0,
                differs: None,
            }
        };
        let rows = [row(8.0, 1.0), row(6.0, 2.0)];
        let reached: Vec<f64> = targets(&rows)
            .expect("all there")
            .iter()
            .map(|t| t.reached)
            .collect();
        assert_eq!(reached, [1.0 / 3.0, 0.1]);
        let text = table(&rows);
        assert!(
            text.contains("| 8.00 | ") && text.contains("| **3.00** | "),
            "{text}"
        );
    }
}
