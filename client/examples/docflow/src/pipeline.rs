//! The broker and the stage workers, as they run on one machine.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, bail};
use sluice_broker::{Broker, config::Config};
use sluice_client::{Client, Event, Outputs, Stage, StageError};
use tokio::{sync::Notify, task::spawn_blocking};

use crate::{
    events::PageEntities,
    python::{Environment, PythonWorker},
    stages,
    store::Store,
    topology::{EXTRACT, OCR, RENDER, STORE, StageGroup, TEXT},
};

/// How a broker for documents is set up.
#[must_use]
pub fn broker_config(data_dir: &Path) -> Config {
    let mut config = Config::local(data_dir);
    config.limits.event_bytes_max = 8 << 20;
    config.limits.request_bytes_max = 15 << 20;
    config
}

/// A broker on a free loopback port.
pub enum DocflowBroker {
    /// In this process.
    Here(Broker),
    /// In a process of its own, which can be killed.
    Child(ChildBroker),
}

impl DocflowBroker {
    /// Where it is.
    #[must_use]
    pub fn url(&self) -> String {
        match self {
            Self::Here(broker) => format!("http://{}", broker.addr()),
            Self::Child(child) => child.url(),
        }
    }

    /// Stops it in order.
    pub async fn shut_down(self) {
        match self {
            Self::Here(broker) => broker.shut_down().await,
            Self::Child(child) => drop(child),
        }
    }
}

/// A broker in a process of its own: `PROGRAM broker DATA ADDRESS`. Killed when
/// it is dropped.
#[derive(Debug)]
pub struct ChildBroker {
    program: PathBuf,
    data_dir: PathBuf,
    addr: String,
    child: Child,
}

impl ChildBroker {
    /// Starts it, and waits until it serves.
    ///
    /// # Errors
    /// When it does not.
    pub fn start(program: &Path, data_dir: &Path) -> anyhow::Result<Self> {
        let (child, addr) = spawn(program, data_dir, "127.0.0.1:0")?;
        Ok(Self {
            program: program.to_owned(),
            data_dir: data_dir.to_owned(),
            addr,
            child,
        })
    }

    fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Kills it (SIGKILL), and starts it again on the same port and data.
    ///
    /// # Errors
    /// When it does not start again.
    pub fn kill_and_restart(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        (self.child, _) = spawn(&self.program, &self.data_dir, &self.addr)?;
        Ok(())
    }
}

impl Drop for ChildBroker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(program: &Path, data_dir: &Path, addr: &str) -> anyhow::Result<(Child, String)> {
    let mut child = Command::new(program)
        .arg("broker")
        .arg(data_dir)
        .arg(addr)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("the broker cannot be started")?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    match line.trim().strip_prefix("listening on ") {
        Some(addr) => Ok((child, addr.to_owned())),
        None => {
            let _ = child.kill();
            let _ = child.wait();
            bail!("the broker did not start")
        }
    }
}

/// Which workers run, and where the database is.
#[derive(Clone, Debug)]
pub struct Options {
    /// The database's file.
    pub database: PathBuf,
    /// Whether a worker reads images.
    pub ocr: bool,
    /// The worker of the stage `entities` is one in Python.
    pub python: Option<Environment>,
}

/// Counts what the workers do, so that a kill can be put at a certain moment.
#[derive(Debug, Default)]
pub struct Activity {
    running: AtomicUsize,
    finished: AtomicUsize,
    changed: Notify,
}

impl Activity {
    /// Handlers that are running: leases that are held.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    /// Waits until so many handlers have ended, and the commit of the last one
    /// is about to be sent.
    pub async fn finished(&self, handlers: usize) {
        loop {
            let changed = self.changed.notified();
            if self.finished.load(Ordering::SeqCst) >= handlers {
                return;
            }
            changed.await;
        }
    }

    fn begin(&self) {
        self.running.fetch_add(1, Ordering::SeqCst);
    }

    fn end(&self) {
        self.running.fetch_sub(1, Ordering::SeqCst);
        self.finished.fetch_add(1, Ordering::SeqCst);
        self.changed.notify_waiters();
    }
}

/// The running workers.
#[derive(Debug)]
pub struct Pipeline {
    stages: Vec<Stage>,
    _python: Option<PythonWorker>,
}

impl Pipeline {
    /// Starts the workers, each with connections of its own.
    ///
    /// # Errors
    /// When the database cannot be opened, or the broker does not take them.
    pub async fn start(
        url: &str,
        options: &Options,
        activity: &Arc<Activity>,
    ) -> anyhow::Result<Self> {
        let store = Arc::new(Mutex::new(Store::open(&options.database)?));
        let save = move |event: &Event| {
            let page: PageEntities = event.parse()?;
            let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
            store.save(event, &page)?;
            Ok(Outputs::none())
        };
        let mut stages = vec![
            worker(url, RENDER, 2, activity, stages::render).await?,
            worker(url, TEXT, 4, activity, stages::text).await?,
            worker(url, STORE, 1, activity, save).await?,
        ];
        if options.ocr {
            stages.push(ocr_worker(url, activity).await?);
        }
        let python = match &options.python {
            Some(environment) => Some(environment.start_worker(url)?),
            None => {
                stages.push(worker(url, EXTRACT, 4, activity, stages::extract).await?);
                None
            }
        };
        Ok(Self {
            stages,
            _python: python,
        })
    }

    /// Lets running handlers end, and stops all workers.
    pub async fn stop(self) {
        for stage in self.stages {
            stage.stop().await;
        }
    }
}

/// Starts a worker that reads images.
///
/// # Errors
/// When the broker does not take it.
pub async fn ocr_worker(
    url: &str,
    activity: &Arc<Activity>,
) -> Result<Stage, sluice_client::Error> {
    worker(url, OCR, 2, activity, stages::read_image).await
}

/// Starts a worker of one stage.
///
/// # Errors
/// When the broker does not take it.
pub async fn worker(
    url: &str,
    of: StageGroup,
    concurrency: u32,
    activity: &Arc<Activity>,
    handler: impl Fn(&Event) -> Result<Outputs, StageError> + Send + Sync + 'static,
) -> Result<Stage, sluice_client::Error> {
    let client = Client::connect(url).await?;
    let activity = activity.clone();
    let handler = Arc::new(handler);
    client
        .stage(of.topic, of.group)
        .member(format!("{}@{}", of.group, std::process::id()))
        .concurrency(concurrency)
        .start(move |job| {
            let (activity, handler) = (activity.clone(), handler.clone());
            async move {
                activity.begin();
                // The work is not the runtime's: it draws, reads and waits.
                let result = spawn_blocking(move || handler(&job.event)).await;
                activity.end();
                result.unwrap_or_else(|error| Err(StageError::retry(error)))
            }
        })
        .await
}
