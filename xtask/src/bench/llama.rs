//! The reference of `cargo xtask bench quantize`: `llama-quantize`, built as its users build it.
//!
//! Its source is bundled in the source package of llama-cpp-python, a fixed release checked by its
//! digest. Everything lies below the build directory, where the other peers are.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, peers, repo};

/// Names a program that is ready.
const VARIABLE: &str = "WEIGHBRIDGE_LLAMA_QUANTIZE";

/// The release, and the digest of its source package.
const RELEASE: &str = "0.3.36";
const SHA256: &str = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e";

/// What cmake is told beside the defaults. None of it is about code generation: one program
/// instead of libraries, and neither servers nor tests nor anything from the network.
const OPTIONS: &[&str] = &[
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
];

/// A program and where it comes from.
pub(super) struct Reference {
    pub(super) program: PathBuf,
    /// How it was built, for the page.
    pub(super) built: String,
}

/// The program, built when missing.
///
/// # Errors
/// When it cannot be got or built.
pub(super) fn reference() -> Result<Reference> {
    if let Some(named) = std::env::var_os(VARIABLE) {
        let program = repo::root().join(named);
        if !program.is_file() {
            return Err(format!("{VARIABLE}: there is no {}", program.display()));
        }
        let built = format!("a ready program, named by {VARIABLE}");
        return Ok(Reference { program, built });
    }
    let dir = repo::target().join("peers-quantize");
    let build = dir.join("build");
    let name = format!("llama-quantize{}", std::env::consts::EXE_SUFFIX);
    let program = build.join("bin").join(name);
    if !program.is_file() {
        make(&dir, &build)?;
    }
    if !program.is_file() {
        return Err(format!("the build left no {}", program.display()));
    }
    let built = format!(
        "from the source package of llama-cpp-python {RELEASE} (sha256 {}…) by `cmake -G Ninja {}` \
         and `cmake --build . --target llama-quantize`, {}: the default build, whose quantizers \
         are compiled with -O3 for baseline {}",
        &SHA256[..12],
        OPTIONS.join(" "),
        compiler(&build),
        std::env::consts::ARCH,
    );
    Ok(Reference { program, built })
}

/// Downloads, unpacks and builds.
fn make(dir: &Path, build: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
    let python = peers::builders()?;
    let source = source(dir, &python)?;
    println!("building {} (some minutes)", build.display());
    // cmake and ninja of the environment, which pip put beside its Python.
    let bin = python.parent().unwrap_or(&python);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::iter::once(bin.to_owned()).chain(std::env::split_paths(&path));
    let path = std::env::join_paths(path).map_err(|e| e.to_string())?;
    let cmake = || {
        let mut c = Command::new(bin.join(format!("cmake{}", std::env::consts::EXE_SUFFIX)));
        c.env("PATH", &path);
        // What a user's own flags would change: contraction alone changes the bytes.
        for flags in ["CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS"] {
            c.env_remove(flags);
        }
        c
    };
    repo::run(
        cmake()
            .args(["-G", "Ninja"])
            .args(OPTIONS)
            .arg("-S")
            .arg(source.join("vendor").join("llama.cpp"))
            .arg("-B")
            .arg(build),
    )?;
    let target = ["--target", "llama-quantize"];
    repo::run(cmake().arg("--build").arg(build).args(target))
}

/// The folder of the unpacked source package.
fn source(dir: &Path, python: &Path) -> Result<PathBuf> {
    let name = format!("llama_cpp_python-{RELEASE}");
    let unpacked = dir.join(&name);
    if unpacked.is_dir() {
        return Ok(unpacked);
    }
    // pip takes digests from a file only.
    let list = dir.join("package.txt");
    let line = format!("llama-cpp-python=={RELEASE} --hash=sha256:{SHA256}\n");
    std::fs::write(&list, line).map_err(|e| format!("cannot write {}: {e}", list.display()))?;
    println!("getting {name} (a large download)");
    // It prepares the package's metadata, for which it needs what would build it.
    repo::run(
        Command::new(python)
            .args(["-m", "pip", "download", "--quiet", "--no-deps"])
            .args(["--no-binary", ":all:", "--no-build-isolation"])
            .arg("--require-hashes")
            .arg("--dest")
            .arg(dir)
            .arg("--requirement")
            .arg(&list),
    )?;
    let part = dir.join("unpacked.part");
    let _ = std::fs::remove_dir_all(&part);
    repo::run(
        Command::new(python)
            .args(["-m", "tarfile", "--extract"])
            .arg(dir.join(format!("{name}.tar.gz")))
            .arg(&part),
    )?;
    std::fs::rename(part.join(&name), &unpacked)
        .map_err(|e| format!("cannot rename to {}: {e}", unpacked.display()))?;
    let _ = std::fs::remove_dir_all(&part);
    Ok(unpacked)
}

/// The compiler that cmake found, by its own words.
fn compiler(build: &Path) -> String {
    let cache = std::fs::read_to_string(build.join("CMakeCache.txt")).unwrap_or_default();
    let found = cache
        .lines()
        .find(|l| l.starts_with("CMAKE_CXX_COMPILER:"))
        .and_then(|l| l.split_once('='));
    let said = found.and_then(|(_, path)| {
        let said = repo::output(Command::new(path).arg("--version")).ok()?;
        said.lines().next().map(str::to_owned)
    });
    said.unwrap_or_else(|| "an unknown compiler".into())
}
