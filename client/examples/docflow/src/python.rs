//! One stage in Python, for those who want to see that the others do not
//! notice: `python/worker.py`, in a virtual environment of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, bail};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python");
const PROTO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../proto");
const API: [&str; 4] = ["admin", "broker", "error", "event"];
/// In an environment, when all is in it: the requirements that it was made for.
const COMPLETE: &str = "complete.txt";

/// A Python with the packages that the worker needs, and the code that is made
/// of the API.
#[derive(Clone, Debug)]
pub struct Environment {
    python: PathBuf,
    generated: PathBuf,
}

impl Environment {
    /// Makes the environment in `folder`, or takes the one that is there.
    ///
    /// # Errors
    /// When `python3`, its module `venv`, or the packages cannot be had.
    pub fn prepare(folder: &Path) -> anyhow::Result<Self> {
        let environment = Self {
            python: folder.join("bin/python"),
            generated: folder.join("generated"),
        };
        let requirements = format!("{FOLDER}/requirements.txt");
        let wanted = fs::read_to_string(&requirements).context(requirements.clone())?;
        let complete = folder.join(COMPLETE);
        if fs::read_to_string(&complete).is_ok_and(|made_for| made_for == wanted) {
            environment.generate()?;
            return Ok(environment);
        }
        let mut venv = Command::new("python3");
        venv.args(["-m", "venv", "--clear"]).arg(folder);
        run(
            venv,
            "no virtual environment can be made; Python 3.11 or later and its module venv are needed",
        )?;
        let mut pip = Command::new(&environment.python);
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--requirement",
            &requirements,
        ]);
        run(pip, "the Python packages cannot be installed")?;
        environment.generate()?;
        fs::write(complete, wanted)?;
        Ok(environment)
    }

    /// Makes Python code of the .proto files, as any user of Python would.
    fn generate(&self) -> anyhow::Result<()> {
        fs::create_dir_all(&self.generated)?;
        let out = self.generated.display();
        let mut protoc = Command::new(&self.python);
        protoc
            .args(["-m", "grpc_tools.protoc", "-I", PROTO])
            .arg(format!("--python_out={out}"))
            .arg(format!("--grpc_python_out={out}"))
            .args(API.map(|file| format!("sluice/v1/{file}.proto")));
        run(protoc, "no code can be made of the .proto files")
    }

    /// Starts the worker of the stage `entities` against the broker at `url`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_worker(&self, url: &str) -> anyhow::Result<PythonWorker> {
        let address = url.trim_start_matches("http://");
        let child = Command::new(&self.python)
            .args(["worker.py", address])
            .current_dir(FOLDER)
            .env("PYTHONPATH", &self.generated)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .spawn()
            .context("the Python worker cannot be started")?;
        Ok(PythonWorker(child))
    }
}

/// The running worker; killed when it is dropped. What it held then goes to the
/// next one.
#[derive(Debug)]
pub struct PythonWorker(Child);

impl Drop for PythonWorker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(mut command: Command, failure: &str) -> anyhow::Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .context(failure.to_owned())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{failure}: {}", said.trim());
    }
    Ok(())
}
