//! Brings the state back when the broker starts: what the view knows, then what
//! the log says since.

mod check;
#[cfg(test)]
mod flips;
mod rebuild;
mod replay;

use std::{
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Instant,
};

use sluice_proto::GroupId;
use tokio::sync::watch;

pub use self::check::{CheckError, Checked, StateFound, ViewFound, check};
use self::replay::Replay;
use super::{
    checkpoint::{Beginning, Checkpoints, Followed, Identity, Intervals, Mirror},
    lagging::{Lagging, LaggingLimits, Published},
    lines::lines,
    occupancy::Occupancy,
    proposal::Proposals,
    record::{EpochStarted, Frame, Record},
    sequencer::{self, AtOnce, Publisher, Sequencer, Volatile},
    state::{GroupState, LoadError, State},
    store::Store,
};
use crate::{
    log::{self, LogConfig, LogPoint, OpenReport, Position},
    view::{EntityKey, View, ViewError},
};

/// The identity of no log.
const NO_LOG: [u8; 16] = [0; 16];

/// How the log and its view are kept.
#[derive(Clone, Copy, Debug)]
pub struct CommitConfig {
    /// The log's files.
    pub log: LogConfig,
    /// The folder is a copy of that of a broker which may go on: nothing that this
    /// one gives out may be the same as what that one does.
    pub is_copy: bool,
    /// Bytes of frames that a block gathers; a larger frame goes alone.
    pub block_bytes: usize,
    /// Blocks that may be under way to the disk at a time.
    pub blocks_in_flight: usize,
    /// Log bytes between two checkpoints of the view.
    pub checkpoint_bytes: u64,
    /// Bytes of the events of one memory topic.
    pub memory_topic_bytes: usize,
    /// Bytes of the events of all memory topics.
    pub memory_bytes: usize,
    /// Log bytes between two checkpoints of the state in the log, at least.
    pub log_checkpoint_bytes: u64,
    /// What is read for those who lag.
    pub lagging: LaggingLimits,
    /// Proposals that may wait.
    pub queue_len: usize,
    /// Bytes of proposals that may wait.
    pub queue_bytes: usize,
    /// Topics that there may be, those of the broker counted in.
    pub topics_max: usize,
    /// Groups that there may be.
    pub groups_max: usize,
    /// Producers that are remembered.
    pub producers_max: usize,
    /// A producer that has been idle for so long may be forgotten when there
    /// are too many.
    pub producer_idle_ms: u64,
}

/// How the broker was brought back.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// What the log's files held.
    pub log: OpenReport,
    /// The view was dropped and built again from the log.
    pub view_rebuilt: bool,
    /// Where the log was found to be damaged below the checkpoint from which it was
    /// replayed, when the view was built again: the events there are not in it.
    pub skipped: Vec<Range<Position>>,
    /// How long it took.
    pub took: std::time::Duration,
}

/// The running parts.
#[derive(Debug)]
pub struct Opened {
    /// Where changes go.
    pub proposals: Proposals,
    /// Where events come from.
    pub store: Store,
    /// The log's reading end.
    pub reader: log::Reader,
    /// What takes segments out of the log.
    pub reclaimer: log::Reclaimer,
    /// How far view and checkpoints have followed the log.
    pub followed: Arc<Followed>,
    /// The time by which events grow old, as far as it was noted, or else that of the
    /// log's last frame before this run; milliseconds since 1970, 0 in a new log.
    pub retention_ms: u64,
    /// What each group has settled.
    pub groups: Vec<(GroupId, GroupState)>,
    /// What was found.
    pub recovery: Recovery,
    /// The sequencer, to be joined after [`Proposals::close`].
    pub running: Running,
}

/// The sequencer's threads.
#[derive(Debug)]
pub struct Running(Vec<JoinHandle<()>>);

impl Running {
    /// Waits for the end of the sequencer.
    pub fn join(self) {
        for thread in self.0 {
            if thread.join().is_err() {
                tracing::error!("the sequencer ended with a panic");
            }
        }
    }
}

/// Why the data folder could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log.
    #[error(transparent)]
    Log(#[from] log::OpenError),
    /// The view.
    #[error(transparent)]
    View(#[from] ViewError),
    /// A stored entity of the view or of a checkpoint.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The beginning of the log is gone, and no checkpoint says what it said.
    #[error(
        "the log begins at {0} and holds no whole checkpoint; restore the data folder \
         from a copy"
    )]
    NoCheckpoint(Position),
    /// The first block of the new epoch.
    #[error("the log takes no writes: {0}")]
    Write(#[from] log::WriteError),
    /// The file system or a thread.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Opens the data folder and starts the sequencer.
///
/// # Errors
/// When the log is damaged, or the folder cannot be used. A view that is
/// damaged, or not to be trusted, is built again.
pub fn open(data_dir: &Path, mut config: CommitConfig) -> Result<Opened, OpenError> {
    let started = Instant::now();
    if config.is_copy {
        config.log.epoch_ahead = far_ahead();
    }
    let boot_id = boot_id();
    let paths = Paths::of(data_dir);
    let mut replayed = match trusted_view(&paths.view, boot_id) {
        Ok(Some(trusted)) => match Replayed::from_view(&paths.log, config, boot_id, trusted) {
            Err(OpenError::Log(log::OpenError::NotFromHere(at))) => {
                tracing::warn!(%at, "the view does not fit the log; building it again");
                None
            }
            other => Some(other?),
        },
        Ok(None) => None,
        Err(error) => {
            tracing::warn!(%error, "the view cannot be used; building it again");
            None
        }
    };
    let view_rebuilt = replayed.is_none();
    let replayed = match replayed.take() {
        Some(replayed) => replayed,
        None => Replayed::from_the_log_alone(&paths, config, boot_id)?,
    };
    let recovery = Recovery {
        log: replayed.report,
        view_rebuilt: view_rebuilt && !replayed.report.created,
        skipped: replayed.skipped.clone(),
        took: started.elapsed(),
    };
    replayed.start(config, recovery)
}

struct Paths {
    log: PathBuf,
    view: PathBuf,
}

impl Paths {
    fn of(data_dir: &Path) -> Self {
        Self {
            log: data_dir.join("log"),
            view: data_dir.join("view"),
        }
    }
}

/// A view whose state the log goes on from.
struct TrustedView {
    view: View,
    point: LogPoint,
    state: State,
    mirror: Mirror,
    occupancy: Occupancy,
    /// It and the log were closed in order.
    closed: bool,
}

/// The view, if it may be trusted: it was closed in order, or the machine has
/// not been restarted since it was written.
fn trusted_view(dir: &Path, boot_id: [u8; 16]) -> Result<Option<TrustedView>, OpenError> {
    if !dir.exists() {
        return Ok(None);
    }
    let view = View::open(dir)?;
    let Some(checkpoint) = view.checkpoint()? else {
        return Ok(None);
    };
    let closed = checkpoint.closed;
    if !checkpoint.closed && checkpoint.boot_id != boot_id {
        return Ok(None);
    }
    let mut state = State::default();
    let (mut mirror, mut occupancy) = (Mirror::default(), Occupancy::default());
    view.load::<OpenError>(|key, value| {
        mirror.set(key, Some(value));
        match key {
            EntityKey::Segment(base) if occupancy.load(base, value) => Ok(()),
            EntityKey::Segment(_) => Err(ViewError::Damaged("what is in a segment").into()),
            _ => Ok(state.load(key, value)?),
        }
    })?;
    if mirror.digest() != checkpoint.state_digest {
        return Err(ViewError::Damaged("its state is not whole").into());
    }
    let point = checkpoint.applied_end;
    view.write(&crate::view::Changes {
        entities: Vec::new(),
        index: Vec::new(),
        relocated: Vec::new(),
        trimmed: Vec::new(),
        deleted_topics: Vec::new(),
        // From here on it is not closed any more.
        checkpoint: crate::view::Checkpoint {
            closed: false,
            boot_id,
            ..checkpoint
        },
    })?;
    Ok(Some(TrustedView {
        view,
        point,
        state,
        mirror,
        occupancy,
        closed,
    }))
}

struct Replayed {
    view: View,
    mirror: Mirror,
    replay: Replay,
    /// Every frame below is in the view, and in the mirror.
    collected_end: LogPoint,
    /// Which events are in segments below is the view's word.
    known_from: Position,
    identity: Identity,
    writer: log::Writer,
    reader: log::Reader,
    reclaimer: log::Reclaimer,
    report: OpenReport,
    /// As in [`Recovery::skipped`].
    skipped: Vec<Range<Position>>,
}

impl Replayed {
    fn from_view(
        log_dir: &Path,
        config: CommitConfig,
        boot_id: [u8; 16],
        trusted: TrustedView,
    ) -> Result<Self, OpenError> {
        let TrustedView {
            view,
            point,
            state,
            mirror,
            occupancy,
            closed,
        } = trusted;
        let mut replay = Replay::from(state, occupancy);
        let opened = log::open(log_dir, config.log, Some(point), &mut |frame| {
            replay.apply(&frame)
        })?;
        let mut report = opened.report;
        // The mark that the log was closed lies before the view's checkpoint.
        report.clean |= closed && report.replayed_bytes == 0 && report.cut_bytes == 0;
        let log_id = report.log_id;
        if view.checkpoint()?.is_none_or(|c| c.log_id != log_id) {
            return Err(log::OpenError::NotFromHere(point.position).into());
        }
        Ok(Self {
            view,
            mirror,
            replay,
            collected_end: point,
            known_from: point.position,
            identity: Identity { log_id, boot_id },
            writer: opened.writer,
            reader: opened.reader,
            reclaimer: opened.reclaimer,
            report,
            skipped: Vec::new(),
        })
    }

    /// Makes the new epoch durable, and starts the threads.
    fn start(mut self, config: CommitConfig, recovery: Recovery) -> Result<Opened, OpenError> {
        let Replay {
            mut state,
            catalog,
            occupancy,
            deleted_topics,
            ..
        } = self.replay;
        let retention_ms = match state.retention_ms {
            0 => state.time_ms,
            noted_ms => noted_ms,
        };
        let started = Frame {
            time_ms: state.time_ms,
            producer: None,
            records: vec![Record::EpochStarted(EpochStarted {
                epoch: self.writer.epoch(),
                version: env!("CARGO_PKG_VERSION").into(),
                last_id: match config.is_copy {
                    true => state.next_id() + far_ahead(),
                    false => 0,
                },
            })],
        };
        let mut block = self.writer.block(started.encoded_len());
        block.frame(started.encoded_len(), |out| started.encode(out));
        self.writer.write(block)?;
        state
            .apply(&started)
            .expect("starting an epoch refers to nothing");

        let published = Published::default();
        let lagging = Lagging::new(config.lagging, published.clone(), self.reader.clone());
        let store = Store::new(
            self.reader.clone(),
            self.view.clone(),
            lagging,
            self.writer.epoch(),
        );
        state.producers.resume();
        for (id, topic) in state.topics() {
            let read = catalog.topic_by_id(id);
            for (at, epochs) in &topic.epochs {
                if let Some(partition) = read.and_then(|read| read.partition(*at)) {
                    partition.recovered(epochs.clone());
                }
            }
        }
        let groups = state
            .groups()
            .map(|(id, group)| (id, group.clone()))
            .collect();
        let (lines, waiting) = lines(config.queue_bytes, config.queue_len);
        let catalog = watch::Sender::new(Arc::new(catalog));
        let proposals = Proposals {
            lines,
            at_once: AtOnce::default(),
            catalog: catalog.subscribe(),
            end_of_waiting: self.writer.wait_for_room(),
        };
        let volatile = Volatile::new(config.memory_topic_bytes, config.memory_bytes);
        let volatile = Arc::new(Mutex::new(volatile));
        let (checkpoints, followed) = Checkpoints::start(
            self.view,
            self.reader.clone(),
            proposals.keeper(),
            self.identity,
            Intervals {
                view_bytes: config.checkpoint_bytes,
                log_bytes: config.log_checkpoint_bytes,
            },
            Beginning {
                collected_end: self.collected_end,
                mirror: self.mirror,
                occupancy,
                known_from: self.known_from,
                deleted_topics,
            },
        )?;
        let sequencer = Sequencer {
            volatile: volatile.clone(),
            catalog: catalog.subscribe(),
            state,
            writer: self.writer,
            published,
            waiting,
            checkpoints: Some(checkpoints),
            config,
        };
        let publisher = Publisher::new(catalog, volatile, self.reader.clone());
        let threads = sequencer::start(
            sequencer,
            publisher,
            config.blocks_in_flight,
            &proposals.at_once,
        )?;
        Ok(Opened {
            proposals,
            store,
            reader: self.reader,
            reclaimer: self.reclaimer,
            followed,
            retention_ms,
            groups,
            recovery,
            running: Running(threads),
        })
    }
}

/// Further than a broker's epochs and ids come while a copy of its data is of
/// use, and not the same for two copies.
fn far_ahead() -> u64 {
    (1 << 24) + u64::from(rand::random::<u32>())
}

/// Identifies this boot of the machine; random where the system does not tell,
/// so that nothing is taken to have survived.
fn boot_id() -> [u8; 16] {
    fault_switch!(OtherBoot, rand::random());
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .ok()
        .and_then(|text| {
            let digits = text.trim().replace('-', "");
            u128::from_str_radix(&digits, 16).ok()
        })
        .unwrap_or_else(rand::random)
        .to_be_bytes()
}
