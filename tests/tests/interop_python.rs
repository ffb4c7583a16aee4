//! Python workers that have the `.proto` files and nothing else: runs the tests
//! in `interop/python` against the real program, in a virtual environment of
//! their own. Needs `python3` (3.11 or later, with its `venv` module) and, for
//! the first run, a Python package index.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
};

use sluice_tests::broker;

/// In a virtual environment, when everything that is required is in it.
const COMPLETE: &str = "complete";

#[test]
fn python_workers_need_nothing_but_the_proto_files() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/python");
    let python = virtual_environment(&tests.join("requirements.txt"));
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let mut pytest = Command::new(python);
    pytest
        .args(["-m", "pytest", "-v", "--basetemp"])
        .arg(folder.path().join("pytest"))
        .current_dir(&tests)
        .env("SLUICE_BIN", broker::program())
        .env("PYTHONDONTWRITEBYTECODE", "1");
    println!("{}", run(pytest, "the Python tests failed"));
}

/// The Python of an environment with these packages. It is made once for each
/// version of Python and of the requirements.
fn virtual_environment(requirements: &Path) -> PathBuf {
    let mut version = Command::new("python3");
    version.args([
        "-c",
        "import sys; assert sys.version_info >= (3, 11), sys.version; print(sys.version)",
    ]);
    let version = run(
        version,
        "these tests need Python 3.11 or later as `python3`",
    );

    let mut hasher = DefaultHasher::new();
    version.hash(&mut hasher);
    let text = fs::read_to_string(requirements);
    text.expect("the requirements can be read")
        .hash(&mut hasher);
    let name = format!("python-{:016x}", hasher.finish());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let python = folder.join("bin/python");
    if folder.join(COMPLETE).exists() {
        return python;
    }

    let mut venv = Command::new("python3");
    venv.args(["-m", "venv", "--clear"]).arg(&folder);
    run(
        venv,
        "these tests need the module `venv` of Python (python3-venv in Debian)",
    );
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--disable-pip-version-check", "-r"])
        .arg(requirements);
    run(pip, "the packages of the Python tests cannot be installed");
    fs::write(folder.join(COMPLETE), "").expect("our own folder can be written");
    python
}

/// What a program prints.
///
/// # Panics
/// When it cannot be run, or fails: with this message, and all that it prints.
fn run(mut command: Command, failure: &str) -> String {
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => panic!("{failure}: {command:?}: {error}"),
    };
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let status = output.status;
    assert!(
        status.success(),
        "{failure}: {command:?}: {status}\n{stdout}\n{stderr}"
    );
    stdout
}
