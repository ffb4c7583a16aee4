//! Runs the document pipeline: a broker, the stage workers, and every PDF of a
//! folder through them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use docflow::{
    feed, ocr,
    pipeline::{self, Activity, ChildBroker, DocflowBroker, Options, Pipeline},
    progress::{self, Progress, Watch},
    python::Environment,
    topology,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use sluice_broker::Broker;
use sluice_client::Client;
use tokio::time::{Instant, sleep};

/// An intelligent document pipeline on Sluice: splits PDF files into pages, reads
/// them, finds dates, amounts, addresses, numbers and IBANs, and stores them.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// The folder with the PDF files [default: the samples that come with it].
    folder: Option<PathBuf>,
    /// Where the broker's data and the database are kept [default: a temporary
    /// folder].
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Runs the broker in a process of its own, kills it (SIGKILL) in the
    /// middle, starts it again, and goes on.
    #[arg(long)]
    kill: bool,
    /// Where the kill happens.
    #[arg(long, value_name = "NUMBER", requires = "kill", default_value_t = 1)]
    seed: u64,
    /// Runs the stage `entities` in Python, in a virtual environment of its own.
    #[arg(long)]
    python: bool,
    /// Prints the rows of the database at the end.
    #[arg(long)]
    rows: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs only a worker that reads images, against a broker that is there.
    Ocr {
        /// The broker.
        #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7070")]
        broker: String,
    },
    /// Runs only the broker; `--kill` needs it.
    #[command(hide = true)]
    Broker {
        data_dir: PathBuf,
        listen: SocketAddr,
    },
}

/// Longest time without any progress.
const PATIENCE: Duration = Duration::from_secs(180);
const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/samples");

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("DOCFLOW_LOG")
                .unwrap_or_else(|_| "off".into()),
        )
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    // A damaged file can make the PDF libraries panic, which is caught and
    // reported as the event's failure.
    std::panic::set_hook(Box::new(|panic| tracing::debug!(%panic, "caught")));
    let cli = Cli::parse();
    let result = match cli.command {
        Some(Command::Broker { data_dir, listen }) => run_broker(&data_dir, listen).await,
        Some(Command::Ocr { broker }) => run_ocr(&broker).await,
        None => run_pipeline(&cli).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("docflow: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run_broker(data_dir: &Path, listen: SocketAddr) -> anyhow::Result<()> {
    let mut config = pipeline::broker_config(data_dir);
    config.listen = listen;
    let broker = Broker::start(config).await?;
    println!("listening on {}", broker.addr());
    tokio::signal::ctrl_c().await?;
    broker.shut_down().await;
    Ok(())
}

async fn run_ocr(broker: &str) -> anyhow::Result<()> {
    if !ocr::is_available() {
        bail!("the program `tesseract` is not there; install it (Debian: tesseract-ocr)");
    }
    let stage = pipeline::ocr_worker(broker, &Arc::default()).await?;
    println!("reading images for {broker}; Ctrl-C ends");
    tokio::signal::ctrl_c().await?;
    stage.stop().await;
    Ok(())
}

async fn run_pipeline(cli: &Cli) -> anyhow::Result<()> {
    let folder = cli.folder.clone().unwrap_or_else(|| SAMPLES.into());
    let uploads =
        feed::find(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    if uploads.is_empty() {
        bail!("there is no PDF file in {}", folder.display());
    }
    let temporary = tempfile::tempdir()?;
    let data = cli
        .data
        .clone()
        .unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&data)?;
    let options = Options {
        database: data.join("documents.sqlite"),
        ocr: ocr::is_available(),
        python: cli.python.then(python_environment).transpose()?,
    };
    let broker_data = data.join("broker");
    let mut broker = if cli.kill {
        let program = std::env::current_exe()?;
        DocflowBroker::Child(ChildBroker::start(&program, &broker_data)?)
    } else {
        DocflowBroker::Here(Broker::start(pipeline::broker_config(&broker_data)).await?)
    };
    let url = broker.url();
    println!(
        "broker at {url}, {} documents from {}",
        uploads.len(),
        folder.display()
    );
    if !options.ocr {
        println!("tesseract is not installed: scanned pages wait for an OCR worker");
    }
    let client = Client::connect(&url).await?;
    topology::create(&client.admin()).await?;
    let activity = Arc::new(Activity::default());
    let workers = Pipeline::start(&url, &options, &activity).await?;
    let watch = Watch::start(client.clone(), uploads.clone(), &options.database)?;
    feed::publish(&client, &uploads).await?;
    if let DocflowBroker::Child(child) = &mut broker {
        kill_in_the_middle(child, cli.seed, &activity).await?;
    }
    let documents = wait(&watch, options.ocr).await?;
    workers.stop().await;
    println!("{}", progress::table(&documents));
    if cli.rows {
        for row in docflow::store::Store::open(&options.database)?.rows()? {
            println!("{}", row.content);
        }
    }
    drop(watch);
    broker.shut_down().await;
    Ok(())
}

/// Beside the program, so that it is made once.
fn python_environment() -> anyhow::Result<Environment> {
    let program = std::env::current_exe()?;
    let folder = program.with_file_name("docflow-python");
    println!("preparing Python in {}", folder.display());
    Environment::prepare(&folder)
}

/// Kills the broker right after some handler has ended, when its commit is on
/// its way and others hold leases.
async fn kill_in_the_middle(
    broker: &mut ChildBroker,
    seed: u64,
    activity: &Activity,
) -> anyhow::Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let handlers = random.random_range(1..12);
    let delay = Duration::from_micros(random.random_range(0..4000));
    activity.finished(handlers).await;
    sleep(delay).await;
    let running = activity.running();
    broker.kill_and_restart()?;
    println!(
        "killed the broker {} µs after handler {handlers} ended, with {running} handlers \
         running, and started it again (seed {seed})",
        delay.as_micros()
    );
    Ok(())
}

async fn wait(watch: &Watch, ocr: bool) -> anyhow::Result<Vec<Progress>> {
    let mut last: Option<Vec<Progress>> = None;
    let mut changed = Instant::now();
    loop {
        let now = watch.progress().await?;
        if now.iter().all(|document| document.is_settled(ocr)) {
            return Ok(now);
        }
        if last.as_ref() != Some(&now) {
            let pages: u32 = now.iter().map(|document| document.stored).sum();
            println!("{pages} pages stored");
            last = Some(now);
            changed = Instant::now();
        } else if changed.elapsed() > PATIENCE {
            println!("{}", progress::table(&now));
            bail!("nothing has happened for {} s", PATIENCE.as_secs());
        }
        sleep(Duration::from_millis(100)).await;
    }
}
