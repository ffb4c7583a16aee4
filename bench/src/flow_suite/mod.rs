//! `sluice-bench flow`: what flow control does. A chain whose last stage is slow,
//! consumers that never read, and producers that ask for twice what there is.

mod chain;
mod overload;
mod pipeline;
mod stalled;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use clap::{Args, ValueEnum};

use crate::suite::{machine::Machine, svg::Picture};

/// Settings of the run.
#[derive(Clone, Debug, Args)]
pub(crate) struct Flow {
    /// What is measured [default: all of it].
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Times the seconds, the events and the clients of each part.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Where files are written [default: the system's folder for temporary
    /// files].
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// Also writes a report there: a file of Markdown for each part, and pictures.
    #[arg(long, value_name = "FOLDER")]
    report: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Pipelines whose last stage is 50 times slower than the first, stopped for
    /// a while and resumed: a chain, a diamond, and one event that becomes 100.
    Chain,
    /// A thousand consumers that grant everything and never read: what others
    /// lose by them, and what they take of memory; and clients that come and go.
    Stalled,
    /// Producers that ask for twice as much as is taken, for two minutes.
    Overload,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::Stalled => "stalled",
            Self::Overload => "overload",
        }
    }
}

/// What a part comes to.
struct Findings {
    /// In Markdown.
    text: String,
    pictures: Vec<Picture>,
}

/// Runs the suite and prints what it finds.
pub(crate) async fn run(settings: Flow) -> anyhow::Result<()> {
    anyhow::ensure!(settings.scale > 0.0, "the scale must be above 0");
    let parts = if settings.parts.is_empty() {
        vec![Part::Chain, Part::Stalled, Part::Overload]
    } else {
        settings.parts.clone()
    };
    for part in parts {
        let findings = match part {
            Part::Chain => chain::run(&settings).await?,
            Part::Stalled => stalled::run(&settings).await?,
            Part::Overload => overload::run(&settings).await?,
        };
        println!("{}", findings.text);
        if let Some(folder) = &settings.report {
            write(&settings, part, &findings, folder)?;
        }
    }
    Ok(())
}

fn write(settings: &Flow, part: Part, findings: &Findings, folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let measured = settings.dir.clone().unwrap_or_else(std::env::temp_dir);
    let machine = Machine::of(&measured);
    let scale = match settings.scale {
        1.0 => String::new(),
        scale => format!(" --scale {scale}"),
    };
    let mut text = format!(
        "{}\n```sh\ncargo run --release -p sluice-bench -- flow {}{scale}\n```\n\n{machine}.\n",
        findings.text.trim_start(),
        part.name(),
    );
    for picture in &findings.pictures {
        picture.write(folder)?;
        text += &picture.in_markdown();
    }
    fs::write(folder.join(format!("{}.md", part.name())), text)?;
    Ok(())
}

impl Flow {
    fn seconds(&self, seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds * self.scale)
    }

    /// At least one.
    fn count(&self, count: usize) -> usize {
        ((count as f64 * self.scale) as usize).max(1)
    }
}
