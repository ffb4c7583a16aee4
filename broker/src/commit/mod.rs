//! Proposals in, frames out: everything that changes the broker's durable state
//! passes here.
//!
//! ```text
//!  Proposals ──lines──> Sequencer (one thread) ──block──> log
//!                          │ applies to State      │ durable
//!                          │                       └─> Catalog, visible ends, replies
//!                          └─ now and then ─> Checkpoints (a thread) ──> view
//!  Store  <── index entries (Catalog's heads, view) and frames (log)
//! ```
//!
//! [`open`] puts the parts together: it loads what the view knows, replays the
//! rest of the log, and starts the threads.

mod ack_window;
mod backlog;
mod catalog;
mod checkpoint;
mod epochs;
mod keep;
mod lagging;
mod lines;
mod memory;
mod occupancy;
mod open;
mod producers;
mod proposal;
pub mod record;
mod saved_window;
mod sequencer;
mod state;
mod store;
#[cfg(test)]
pub(crate) mod testing;

pub use self::{
    ack_window::{AckWindow, WindowError},
    backlog::Backlog,
    catalog::{Catalog, Group, Partition, Topic},
    checkpoint::Followed,
    keep::{Keeper, Trim, Unread},
    lagging::{LaggingLimits, Turn},
    occupancy::{Occupancy, Run},
    open::{
        CheckError, Checked, CommitConfig, OpenError, Opened, Recovery, Running, StateFound,
        ViewFound, check, open,
    },
    producers::{Appended, SEQUENCES_REMEMBERED, SequenceError},
    proposal::{
        AppendRequest, CatalogChange, CatalogChanged, CatalogError, Changes, CommitError,
        Committed, GroupChange, NewGroup, OpenProducerError, ProducerSession, Proposals, Submitted,
        TopicConfig, Unavailable,
    },
    state::{ATTEMPTS_REMEMBERED, GroupState, Placed, SourceState},
    store::{Page, PageLimits, ReadError, Store, StoredEvent},
};
