//! Which groups run, and where to find them.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{self, AtomicBool, AtomicU64},
    },
};

use sluice_proto::{GroupId, Offset};
use tokio::sync::{Notify, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    board::{Board, BoardRules},
    buffered::{BufferLimits, Buffers},
    handle::GroupHandle,
    parking::parking_of,
    routes::Routes,
    scan::{Feed, Scanner},
    task::{Clock, GroupTask, Parts},
};
use crate::{
    commit::{
        AckWindow, Group, GroupState, PageLimits, Proposals, Store,
        record::{Ordering, Source},
    },
    filter::Filter,
    flow::Flow,
};

/// Limits of each group.
#[derive(Clone, Copy, Debug)]
pub struct GroupLimits {
    /// Members at once, disconnected ones that hold leases counted in.
    pub members_max: usize,
    /// Unsettled events that a group keeps track of.
    pub window_events_max: usize,
    /// Pieces in which what is settled of a source may be.
    pub window_ranges_max: usize,
    /// An event that waits longer for its next attempt is parked.
    pub park_after_ms: u64,
    /// Events that a group may have parked.
    pub parked_events_max: usize,
    /// Bytes of events that wait in memory for delivery.
    pub payload_bytes_max: usize,
    /// Commands that may wait.
    pub commands_max: usize,
    /// Events that wait in members' streams.
    pub buffer: BufferLimits,
    /// What is read at once.
    pub page: PageLimits,
    /// Postings that find the events of groups whose filters fix an attribute, of
    /// all topics together.
    pub postings_max: usize,
}

/// The running groups.
pub struct Groups {
    proposals: Proposals,
    store: Store,
    limits: GroupLimits,
    epoch: u64,
    flow: Flow,
    buffers: Buffers,
    running: Mutex<HashMap<GroupId, Running>>,
    tasks: TaskTracker,
    routes: Routes,
    /// The next number of a group, if any was to be deleted in this run of the broker.
    number: AtomicU64,
    /// The broker is about to stop.
    stopping: Arc<AtomicBool>,
}

/// No group gives more leases than these in one run, by far.
const LEASES_MAX: u64 = 1 << 40;
/// Then counters of leases begin from the start again: they have 63 bits.
const NUMBERS_MAX: u64 = 1 << 22;

struct Running {
    handle: GroupHandle,
    stop: CancellationToken,
}

impl Groups {
    /// No groups run. `epoch` is the log's, and `flow` has no gate yet.
    #[must_use]
    pub fn new(
        proposals: Proposals,
        store: Store,
        limits: GroupLimits,
        epoch: u64,
        flow: Flow,
    ) -> Self {
        let tasks = TaskTracker::new();
        Self {
            routes: Routes::new(store.clone(), limits.postings_max, tasks.clone()),
            proposals,
            store,
            limits,
            epoch,
            flow,
            buffers: Buffers::new(limits.buffer),
            running: Mutex::default(),
            tasks,
            number: AtomicU64::new(0),
            stopping: Arc::default(),
        }
    }

    /// The gates of the topics that groups with a limit read.
    #[must_use]
    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    /// Starts a group as it is in the log. Nothing happens if it runs, or is not
    /// in the catalog any more.
    pub fn start(&self, id: GroupId, state: GroupState) {
        let mut running = self.running();
        // Not before: one that is deleted meanwhile is stopped only if it runs.
        let catalog = self.proposals.catalog();
        let Some(group) = catalog.groups().find(|group| group.id == id).cloned() else {
            return;
        };
        // Nor one that nobody would stop.
        if running.contains_key(&id) || self.stopping.load(atomic::Ordering::SeqCst) {
            return;
        }
        let (commands, receiver) = mpsc::channel(self.limits.commands_max);
        let room = Arc::new(Notify::new());
        let handle = GroupHandle {
            group: group.clone(),
            commands,
            room: room.clone(),
            buffers: self.buffers.clone(),
        };
        let task = self.make_task(group, state, receiver, room);
        let stop = CancellationToken::new();
        self.tasks.spawn(task.run(stop.clone()));
        running.insert(id, Running { handle, stop });
    }

    pub(super) fn make_task(
        &self,
        group: Arc<Group>,
        state: GroupState,
        commands: mpsc::Receiver<super::command::Command>,
        room: Arc<Notify>,
    ) -> GroupTask {
        let config = &group.config;
        let (filter, disabled) = match Filter::of_definition(&config.filter, &config.dialects) {
            Ok(filter) => (filter, None),
            // It compiled when the group was made, by another version then.
            Err(error) => (None, Some(error.to_string())),
        };
        let clock = Clock::start();
        let mut feeds = Vec::new();
        let mut sources = Vec::new();
        let mut resolved = AckWindow::new(Offset(0));
        for (source, of_source) in state.sources {
            let Source { topic, partition } = source;
            if topic == group.dead_letters.id {
                resolved = of_source.window;
                continue;
            }
            let parked = topic == group.parking.id;
            feeds.push(Feed {
                topic: if parked { &group.parking } else { &group.topic }.clone(),
                id: partition,
                filtered: !parked,
            });
            sources.push((source, of_source));
        }
        let parking = parking_of(&feeds, &group);
        let mut board = Board::new(
            sources,
            parking,
            self.epoch,
            BoardRules::from(&group.config),
            clock.now_ms(),
            clock.wall_ahead_ms(),
        );
        board.count_leases_from(self.next_number() % NUMBERS_MAX * LEASES_MAX + 1);
        GroupTask::new(Parts {
            scanner: Scanner {
                store: self.store.clone(),
                route: self.routes.of(&group, filter.as_ref(), &room),
                filter,
                keyed: group.config.ordering() == Ordering::Key,
                limits: self.limits.page,
            },
            routes: self.routes.clone(),
            metering: self.flow.register(&group),
            group,
            feeds,
            board,
            resolved,
            proposals: self.proposals.clone(),
            commands,
            clock,
            limits: self.limits,
            disabled,
            room,
            stopping: self.stopping.clone(),
        })
    }

    /// Where to find a group.
    #[must_use]
    pub fn get(&self, id: GroupId) -> Option<GroupHandle> {
        self.running().get(&id).map(|of| of.handle.clone())
    }

    /// A group is about to be deleted: one that is made later, perhaps of its name,
    /// gives no lease tokens that it may have given.
    pub fn deleting(&self) {
        self.number.fetch_max(1, atomic::Ordering::SeqCst);
    }

    /// A number of its own for each group that starts, once one was deleted; 0 before.
    fn next_number(&self) -> u64 {
        let order = atomic::Ordering::SeqCst;
        let next = |number: u64| (number > 0).then_some(number + 1);
        self.number.fetch_update(order, order, next).unwrap_or(0)
    }

    /// Stops a group that was deleted.
    pub fn stop(&self, id: GroupId) {
        if let Some(running) = self.running().remove(&id) {
            running.stop.cancel();
        }
    }

    /// The broker is about to stop, and cuts the streams of members who are at work: no
    /// lease runs out any more.
    pub fn keep_leases(&self) {
        self.stopping.store(true, atomic::Ordering::SeqCst);
    }

    /// Stops all groups and waits for their tasks, which note who is at work on what.
    pub async fn shut_down(&self) {
        self.keep_leases();
        for (_, running) in self.running().drain() {
            running.stop.cancel();
        }
        self.routes.shut_down();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn running(&self) -> MutexGuard<'_, HashMap<GroupId, Running>> {
        // Nothing that runs under this lock can leave the map half changed.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
