//! Faults that a test asks for: places at which the process kills itself, so that
//! it is seen what a crash between two steps leaves, a disk that fails, and a wall
//! clock that is set. Only with the feature `fault-points`.
//!
//! `SLUICE_FAULT_POINT=NAME:N` ends the process at the point NAME when it comes
//! there for the Nth time by SIGKILL, as if another had: nothing is flushed, nothing
//! is dropped. While the variable is set, also when it is empty, each time at a point
//! is told on standard error. The code names a point by `fault_point!`, and what
//! is not declared here does not compile, so that all of them are known without
//! being come to; `tests/tests/fault_points` kills a broker at each.
//!
//! `SLUICE_FAULT_SWITCHES` names faults that the process has from its start, as
//! [`Switch`] has them, with commas between.
//!
//! `SLUICE_FAULT_DISK=N` lets the Nth write or sync of the log's folder fail with EIO,
//! and no other; a sync that fails takes away what was written before it. While it is
//! set, also to 0, each is told on standard error.
//!
//! `SLUICE_FAULT_CLOCK=FILE` adds the milliseconds that stand in the file, with a
//! sign, to the wall clock, each time anew.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::FileExt,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use rustix::process::{Signal, getpid, kill_process};

const VARIABLE: &str = "SLUICE_FAULT_POINT";

macro_rules! points {
    ($($(#[$doc:meta])+ $point:ident: $name:literal,)+) => {
        /// A place between two steps.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Point {
            $($(#[$doc])+ $point,)+
        }

        impl Point {
            /// Every point that there is, in the order of its number.
            pub const ALL: &[Self] = &[$(Self::$point),+];

            /// Its name, unique.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)+
                }
            }
        }
    };
}

points! {
    /// An event is to be a dead letter, and nothing is proposed.
    DeadLetterPlanned: "dead_letter_planned",
    /// It was read for that; what was settled together with it is in the log.
    DeadLetterRead: "dead_letter_read",
    /// The log has taken it; its group does not know.
    DeadLetterCommitted: "dead_letter_committed",
    /// Its group knows; the worker has no answer.
    DeadLetterSettled: "dead_letter_settled",
    /// An event is to be parked until its next attempt, and nothing is proposed.
    ParkPlanned: "park_planned",
    /// Events to be parked were read; what was settled together with one is in
    /// the log.
    ParkRead: "park_read",
    /// The log has moved them; their group does not know.
    ParkCommitted: "park_committed",
    /// Their group knows; if one was given back, the worker has no answer.
    ParkMoved: "park_moved",
    /// A worker is answered what became of its settlements.
    SettlementsAnswered: "settlements_answered",

    /// Dead letters are to be redriven, and nothing is done.
    RedriveChosen: "redrive_chosen",
    /// One of them was read; nothing is proposed for it.
    RedriveRead: "redrive_read",
    /// The log has taken one; its group does not know, and the next is not begun.
    RedriveCommitted: "redrive_committed",
    /// The group knows of all; whoever asked has no answer.
    RedriveResolved: "redrive_resolved",
    /// Whoever asked is answered.
    RedriveAnswered: "redrive_answered",

    /// Proposals for a block have left the queue and have no offsets.
    BlockGathered: "block_gathered",
    /// They have, and the state is changed; the block has no place.
    BlockSequenced: "block_sequenced",
    /// The block has its place in the log and is not written.
    BlockPlaced: "block_placed",
    /// It is written and not synced. Direct writes have no such place.
    BlockUnsynced: "block_unsynced",
    /// It is durable, and nobody sees it.
    BlockDurable: "block_durable",
    /// Readers see it; nobody is answered.
    BlockShown: "block_shown",
    /// All who waited for it are answered.
    BlockAnswered: "block_answered",
}

/// What a process does otherwise than it should, or takes for granted, all its
/// life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Blocks are taken for durable when they are written, and never synced: what
    /// a test of durability has to find.
    AckBeforeSync,
    /// Settlements come in no line for the log, and wait for it for ever.
    SettlementsStayOut,
    /// The machine counts as started again since the last run, as it is after a
    /// power loss.
    OtherBoot,
}

impl Switch {
    fn name(self) -> &'static str {
        match self {
            Self::AckBeforeSync => "ack_before_sync",
            Self::SettlementsStayOut => "settlements_stay_out",
            Self::OtherBoot => "other_boot",
        }
    }

    /// Whether the process has it.
    #[must_use]
    pub fn is_on(self) -> bool {
        static SET: OnceLock<String> = OnceLock::new();
        let set = SET.get_or_init(|| std::env::var("SLUICE_FAULT_SWITCHES").unwrap_or_default());
        set.split(',').any(|name| name == self.name())
    }
}

static REACHED: [AtomicU32; Point::ALL.len()] = [const { AtomicU32::new(0) }; Point::ALL.len()];

/// At which point to end, and at which time there.
#[derive(Debug)]
struct End {
    point: Point,
    time: u32,
}

/// Comes to a point.
///
/// # Panics
/// When the variable names no point.
pub fn reached(point: Point) {
    static SET: OnceLock<Option<Option<End>>> = OnceLock::new();
    let set = SET.get_or_init(|| std::env::var(VARIABLE).ok().map(|value| end(&value)));
    let Some(end) = set else { return };
    let time = REACHED[point as usize].fetch_add(1, Ordering::Relaxed) + 1;
    eprintln!("fault point {} {time}", point.name());
    if let Some(end) = end
        && end.point == point
        && end.time == time
    {
        eprintln!("fault point {}: the end", point.name());
        let _ = kill_process(getpid(), Signal::KILL);
        // It may take a moment.
        loop {
            std::thread::park();
        }
    }
}

fn end(value: &str) -> Option<End> {
    if value.is_empty() {
        return None;
    }
    let (name, time) = value.split_once(':').unwrap_or((value, "1"));
    let point = Point::ALL.iter().find(|point| point.name() == name);
    Some(End {
        point: *point.unwrap_or_else(|| panic!("{VARIABLE}: there is no point {name:?}")),
        time: time
            .parse()
            .unwrap_or_else(|_| panic!("{VARIABLE}: {time:?} is no number")),
    })
}

/// Comes to a write or sync of the log's folder.
///
/// # Errors
/// EIO, when this is the one that is to fail.
///
/// # Panics
/// When the variable is no number.
pub fn disk(operation: &str) -> io::Result<()> {
    static FAILS: OnceLock<Option<u32>> = OnceLock::new();
    static DONE: AtomicU32 = AtomicU32::new(0);
    let fails = FAILS.get_or_init(|| {
        let number = std::env::var("SLUICE_FAULT_DISK").ok()?;
        Some(number.parse().expect("SLUICE_FAULT_DISK is a number"))
    });
    let Some(fails) = fails else { return Ok(()) };
    let number = DONE.fetch_add(1, Ordering::Relaxed) + 1;
    if number == *fails {
        eprintln!("fault disk {number} {operation}: it fails");
        return Err(rustix::io::Errno::IO.into());
    }
    eprintln!("fault disk {number} {operation}");
    Ok(())
}

/// What was written to a file since its last sync, which a sync that fails takes away:
/// a system drops such pages, and says so once.
#[derive(Debug, Default)]
pub struct Unsynced(Mutex<Vec<(u64, usize)>>);

impl Unsynced {
    /// So many bytes were written at `offset`.
    pub fn wrote(&self, offset: u64, length: usize) {
        self.ranges().push((offset, length));
    }

    /// Comes to a sync of the file.
    ///
    /// # Errors
    /// As [`disk`]; what was written is zeros then.
    pub fn sync(&self, file: &fs::File) -> io::Result<()> {
        let ranges = std::mem::take(&mut *self.ranges());
        disk("sync").inspect_err(|_| {
            for (offset, length) in ranges {
                let _ = file.write_all_at(&vec![0; length], offset);
            }
        })
    }

    fn ranges(&self) -> MutexGuard<'_, Vec<(u64, usize)>> {
        // Each change of it is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the wall clock is ahead, in milliseconds; 0 while the file cannot be read.
pub fn clock_ahead_ms() -> i64 {
    static FILE: OnceLock<Option<OsString>> = OnceLock::new();
    let file = FILE.get_or_init(|| std::env::var_os("SLUICE_FAULT_CLOCK"));
    let text = file.as_ref().and_then(|file| fs::read_to_string(file).ok());
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}
