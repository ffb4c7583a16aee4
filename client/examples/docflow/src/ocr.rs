//! Reads the text off an image, by the `tesseract` program.

use std::{
    io::Write,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

/// How long one page may take.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Why an image was not read.
#[derive(Debug, thiserror::Error)]
pub enum OcrError {
    /// The program is missing, or does not run.
    #[error("tesseract cannot be run: {0}")]
    NotRun(#[from] std::io::Error),
    /// It failed.
    #[error("tesseract failed: {0}")]
    Failed(String),
    /// It took too long, and was ended.
    #[error("tesseract took longer than {} s", TIMEOUT.as_secs())]
    TooSlow,
}

/// The program: `tesseract`, or what `DOCFLOW_TESSERACT` names.
fn program() -> String {
    std::env::var("DOCFLOW_TESSERACT").unwrap_or_else(|_| "tesseract".into())
}

/// Whether the program is there.
#[must_use]
pub fn is_available() -> bool {
    Command::new(program())
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Reads a PNG.
///
/// # Errors
/// When the program is missing, fails, or takes too long.
pub fn read(png: &[u8]) -> Result<String, OcrError> {
    let mut child = Command::new(program())
        .args(["stdin", "stdout", "--dpi", "150", "--psm", "6"])
        // It would use every core for one page, and be hardly faster.
        .env("OMP_THREAD_LIMIT", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (done, finished) = mpsc::channel();
    let stdin = child.stdin.take();
    let image = png.to_vec();
    let writer = thread::spawn(move || {
        // A program that ends early tells why by its status.
        stdin.map(|mut stdin| stdin.write_all(&image))
    });
    let id = child.id();
    thread::spawn(move || {
        let _ = done.send(child.wait_with_output());
    });
    let Ok(output) = finished.recv_timeout(TIMEOUT) else {
        // It has not been waited for, so the id is still its own.
        let _ = Command::new("kill").args(["-9", &id.to_string()]).status();
        return Err(OcrError::TooSlow);
    };
    let output = output?;
    let _ = writer.join();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(OcrError::Failed(said.trim().replace('\n', "; ")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
