//! Verifies the data of a broker that does not run, and changes nothing: every
//! block and frame of the log, that they fold into a state, and that the view
//! says the same.

use std::{
    env, fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use sluice_proto::Offset;

use super::{Paths, boot_id, replay::decode};
use crate::{
    commit::{
        checkpoint,
        record::{Channel, Record},
        state::{LoadError, Placed, State},
    },
    log::{self, Found, Inspection, LogPoint, Position, ReadEnd, ReplayedFrame, Seen},
    view::{Digest, EntityKey, View, ViewError},
};

/// Problems of one kind that are told; more are only counted.
const PROBLEMS_TOLD_MAX: usize = 100;

/// What was found in a data folder.
#[derive(Debug, Default)]
pub struct Checked {
    /// The log's identity; `None` when it has no segment.
    pub log_id: Option<[u8; 16]>,
    /// Segments that could be read.
    pub segments: u64,
    /// Valid blocks.
    pub blocks: u64,
    /// Bytes of them, padding counted in.
    pub block_bytes: u64,
    /// Valid frames.
    pub frames: u64,
    /// Events in them, also those that are not needed any more.
    pub events: u64,
    /// What had been durable and cannot be read, or makes no sense; the first
    /// 100.
    pub damage: Vec<String>,
    /// How much of that there is.
    pub damage_count: u64,
    /// What is not quite in order and does no harm.
    pub notes: Vec<String>,
    /// What the log says; `None` when it is damaged.
    pub state: Option<StateFound>,
    /// What is beside it.
    pub view: ViewFound,
}

/// What the log says, folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateFound {
    /// Equal for equal states, whatever the epoch and the time of the last frame.
    pub hash: u64,
    /// Topics, those of the broker counted in.
    pub topics: usize,
    /// Groups.
    pub groups: usize,
    /// The position where the log ends.
    pub end: Position,
    /// It was closed in order.
    pub clean: bool,
}

/// How the view is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ViewFound {
    /// It was not looked at, because the log is damaged.
    #[default]
    NotChecked,
    /// It says what the log says.
    Agrees {
        /// Up to here.
        position: Position,
        /// Entries of its index, each of which leads to its frame.
        entries: u64,
    },
    /// It is not there, or the next start would not trust it: it builds another.
    ToBeBuilt(String),
    /// It is not what it should be. The next start builds another if it notices;
    /// whoever removes the folder `view` makes sure.
    Unsound(Vec<String>),
}

/// Why a data folder cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] log::OpenError),
    /// The file system says so.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Verifies the data folder of a broker that does not run, and changes nothing
/// in it. The view is looked at in a copy, in the system's folder for temporary
/// files.
///
/// # Errors
/// When the folder is none, or cannot be read.
pub fn check(data_dir: &Path) -> Result<Checked, CheckError> {
    let paths = Paths::of(data_dir);
    let mut checked = Checked::default();
    checked.walk(&Inspection::new(&paths.log)?)?;
    if checked.damage_count > 0 {
        return Ok(checked);
    }
    let found = Found::to_read(&paths.log)?;
    let (state, end) = match fold_the_log(&found) {
        Ok(folded) => folded,
        Err(reason) => {
            checked.damaged(reason);
            return Ok(checked);
        }
    };
    checked.state = Some(StateFound {
        hash: state.digest().0,
        topics: state.topics().count(),
        groups: state.groups().count(),
        end: end.point.position,
        clean: end.clean,
    });
    checked.view = check_view(&paths.view, &found, &state)?;
    Ok(checked)
}

impl Checked {
    /// Whether nothing is lost.
    #[must_use]
    pub fn log_is_sound(&self) -> bool {
        self.damage_count == 0
    }

    /// Adds what is damaged beside the log.
    pub fn damaged(&mut self, what: String) {
        self.damage_count += 1;
        if self.damage.len() < PROBLEMS_TOLD_MAX {
            self.damage.push(what);
        }
    }

    fn walk(&mut self, log: &Inspection) -> Result<(), log::OpenError> {
        log.walk((Position(0), Position(u64::MAX)), &mut |seen| {
            match seen {
                Seen::Segment(segment) => {
                    self.log_id.get_or_insert(segment.log_id);
                    self.segments += 1;
                }
                Seen::Block(block) => {
                    self.blocks += 1;
                    self.block_bytes += block.end.0 - block.position.0;
                }
                Seen::Frame(frame) => self.frame(&frame),
                Seen::Wrong(wrong) if wrong.is_damage() => self.damaged(wrong.to_string()),
                Seen::Wrong(wrong) => self.notes.push(wrong.to_string()),
            }
            Ok(())
        })
    }

    fn frame(&mut self, frame: &ReplayedFrame<'_>) {
        self.frames += 1;
        match decode(frame) {
            Ok(decoded) => {
                let appended = decoded.records.iter().map(|record| match record {
                    Record::Append(append) => append.events.len() as u64,
                    _ => 0,
                });
                self.events += appended.sum::<u64>();
            }
            Err(reason) => {
                self.damaged(format!("the frame at {} is none: {reason}", frame.position));
            }
        }
    }
}

/// The state as the log alone tells it, as a start without a view makes it.
fn fold_the_log(found: &Found) -> Result<(State, ReadEnd), String> {
    let checkpoint = checkpoint::find(found).map_err(|error| error.to_string())?;
    let mut state = State::default();
    let mut from = None;
    match checkpoint {
        Some(saved) => {
            for (key, value) in saved.entities {
                state.load(key, &value).map_err(|error| error.to_string())?;
            }
            from = Some(saved.point);
        }
        None => {
            if let Some(first) = found.segments().next()
                && first.base > Position(0)
            {
                return Err(super::OpenError::NoCheckpoint(first.base).to_string());
            }
        }
    }
    let end = fold(found, from, &mut state).map_err(|error| error.to_string())?;
    Ok((state, end))
}

fn fold(
    found: &Found,
    from: Option<LogPoint>,
    state: &mut State,
) -> Result<ReadEnd, log::OpenError> {
    found.read(from, &mut |frame| {
        let applied = state.apply(&decode(&frame)?);
        applied.map(drop).map_err(|error| error.to_string())
    })
}

/// What is wrong with a view.
#[derive(Debug, thiserror::Error)]
enum Unsound {
    #[error(transparent)]
    View(#[from] ViewError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Log(#[from] log::OpenError),
}

fn check_view(dir: &Path, found: &Found, state: &State) -> Result<ViewFound, io::Error> {
    if !dir.exists() {
        return Ok(ViewFound::ToBeBuilt("there is none".to_owned()));
    }
    let copy = Copied::of(dir)?;
    // sled may panic on files that it did not write.
    let looked = catch_unwind(AssertUnwindSafe(|| look_at_view(&copy.0, found, state)));
    Ok(match looked {
        Ok(Ok(view)) => view,
        Ok(Err(error)) => ViewFound::Unsound(vec![error.to_string()]),
        Err(_) => ViewFound::Unsound(vec!["it cannot be opened".to_owned()]),
    })
}

fn look_at_view(dir: &Path, found: &Found, state: &State) -> Result<ViewFound, Unsound> {
    let view = View::open(dir)?;
    let Some(checkpoint) = view.checkpoint()? else {
        return Ok(ViewFound::ToBeBuilt("it is empty".to_owned()));
    };
    if !checkpoint.closed && checkpoint.boot_id != boot_id() {
        let reason = "it was not closed before the machine was restarted";
        return Ok(ViewFound::ToBeBuilt(reason.to_owned()));
    }
    let mut problems = Vec::new();
    let mut of_view = State::default();
    let mut digest = Digest::default();
    view.load::<Unsound>(|key, value| match key {
        // Checked by whoever is to believe it.
        EntityKey::Segment(_) => Ok(()),
        _ => {
            digest.add(key, value);
            Ok(of_view.load(key, value)?)
        }
    })?;
    if digest != checkpoint.state_digest {
        return Err(ViewError::Damaged("its state is not whole").into());
    }
    fold(found, Some(checkpoint.applied_end), &mut of_view)?;
    let (mut has, says) = (of_view.entities(), state.entities());
    for (key, value) in &says {
        if has.remove(key).as_ref() != Some(value) {
            problems.push(format!("{key:?} is not as the log says"));
        }
    }
    problems.extend(has.keys().map(|key| format!("{key:?} is not in the log")));
    let mut index = IndexCheck {
        view: &view,
        state,
        matched: 0,
        problems: &mut problems,
    };
    let end = checkpoint.applied_end.position;
    for segment in found.segments().filter(|segment| segment.base < end) {
        found.scan(segment.base, &mut |frame| {
            if frame.position < end {
                index.frame(&frame).map_err(|error| error.to_string())?;
            }
            Ok(())
        })?;
    }
    let entries = index.matched;
    let all = index.count()?;
    if problems.is_empty() && entries != all {
        problems.push(format!(
            "{} entries of its index lead to no frame",
            all.saturating_sub(entries)
        ));
    }
    problems.truncate(PROBLEMS_TOLD_MAX);
    Ok(match problems.is_empty() {
        true => ViewFound::Agrees {
            position: end,
            entries,
        },
        false => ViewFound::Unsound(problems),
    })
}

/// Compares the index with the frames, one by one.
struct IndexCheck<'a> {
    view: &'a View,
    state: &'a State,
    /// Entries that lead to a frame that was seen.
    matched: u64,
    problems: &'a mut Vec<String>,
}

impl IndexCheck<'_> {
    fn frame(&mut self, frame: &ReplayedFrame<'_>) -> Result<(), ViewError> {
        let Ok(decoded) = decode(frame) else {
            return Ok(());
        };
        for record in &decoded.records {
            if let Some(placed) = Placed::by(record, decoded.time_ms) {
                self.placed(&placed, frame)?;
            }
        }
        Ok(())
    }

    /// Every offset of it that is kept is in the index, here or at a later place.
    fn placed(&mut self, placed: &Placed, frame: &ReplayedFrame<'_>) -> Result<(), ViewError> {
        let source = placed.source;
        let Some(start) = self.start(source) else {
            return Ok(());
        };
        let end = placed.first + u64::from(placed.count);
        let mut next = placed.first.max(start);
        if next >= end {
            return Ok(());
        }
        let entries = self
            .view
            .index_entries(source.topic, source.partition, next, end)?;
        for entry in entries {
            let here = entry.position == frame.position;
            if here {
                self.matched += 1;
            }
            let fits =
                entry.first >= placed.first && entry.end() <= end && entry.length == frame.length;
            if entry.position < frame.position || (here && !fits) || entry.first > next {
                break;
            }
            next = next.max(entry.end());
        }
        if next < end && self.problems.len() < PROBLEMS_TOLD_MAX {
            self.problems.push(format!(
                "offset {next} of partition {} of topic {} is in the frame at {}, and its index \
                 does not say so",
                source.partition, source.topic, frame.position
            ));
        }
        Ok(())
    }

    /// Where a partition begins whose events are in the log.
    fn start(&self, source: crate::commit::record::Source) -> Option<Offset> {
        let (_, topic) = self.state.topics().find(|(id, _)| *id == source.topic)?;
        if topic.definition.channel() == Channel::Memory {
            return None;
        }
        let partition = topic.partitions.get(source.partition.0 as usize)?;
        Some(partition.start_offset)
    }

    /// Entries of offsets that are kept.
    fn count(&self) -> Result<u64, ViewError> {
        let mut count = 0;
        for (id, topic) in self.state.topics() {
            for (number, partition) in topic.partitions.iter().enumerate() {
                let number = sluice_proto::PartitionId(number as u32);
                let (start, end) = (partition.start_offset, partition.next_offset);
                count += self.view.index_entries(id, number, start, end)?.len() as u64;
            }
        }
        Ok(count)
    }
}

/// A copy of a folder, removed when dropped.
struct Copied(PathBuf);

impl Copied {
    fn of(dir: &Path) -> io::Result<Self> {
        let name = format!("sluice-check-{:016x}", rand::random::<u64>());
        let copied = Self(env::temp_dir().join(name));
        copy(dir, &copied.0)?;
        Ok(copied)
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
