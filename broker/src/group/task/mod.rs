//! The task that owns a group, and its turns. In each it takes [`commands`], lets
//! [`time`] pass, and goes on with [`read_ahead`], [`take_in`] and [`deliver`]; what
//! settling does is in [`super::settle`].

mod commands;
mod deliver;
mod describe;
mod flow;
mod gaps;
mod notes;
mod read_ahead;
mod take_in;
#[cfg(test)]
mod tests;
mod time;

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{
        Arc,
        atomic::{self, AtomicBool},
    },
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use sluice_proto::Offset;
use tokio::{
    sync::{Notify, mpsc, watch},
    task,
    time::sleep_until,
};
use tokio_util::sync::CancellationToken;

pub(super) use self::time::Clock;
use self::{flow::Flowing, take_in::Arriving};
use super::{
    acks::Acks,
    board::{Board, EventId, Holder},
    by_number::NumberSet,
    change::Changing,
    command::{Command, PendingPull},
    failures::Failure,
    members::Members,
    pace::Pace,
    payloads::Payloads,
    registry::GroupLimits,
    routes::Routes,
    scan::{Feed, Scanner},
    solo::Solo,
};
use crate::{
    commit::record::{GroupConfig, Ordering, Settle},
    commit::{AckWindow, Changes, Group, Proposals},
    filter::Counters,
    flow::Metering,
};

/// Read ahead while fewer events are ready …
pub(super) const READY_LOW: usize = 512;
/// … or fewer for each member, so that each is sent whole messages …
const READY_EACH: usize = 1024;
/// … up to this many, as far as memory goes.
const READY_HIGH: usize = 4096;
/// Events that are looked at in one turn whether they must be read again.
const FETCHES_MAX: usize = 256;
/// A lease that lasts so long is noted in the log, so that a restart of the
/// broker waits for its holder.
const NOTE_AFTER_MS: u64 = 1000;
/// Leases that are noted in one turn.
const NOTES_PER_TURN: usize = 1000;
/// What was skipped, mostly by a filter, goes to the log so much later.
const SKIPS_AFTER_MS: u64 = 1000;
/// A source that could not be read is tried again after so long.
pub(super) const READ_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How much longer a pull waits while events are being read.
const READING_EXTENSION: Duration = Duration::from_secs(5);
/// In a group with an order, after so many events were sent, the task gives way, so that
/// they are on their way before it goes on: a thread keeps what a task has woken until
/// that task gives way. Members wait for them, as the next ones wait for their acks.
const SENT_FIRST: usize = 64;
/// Commands handled before the group delivers again.
const COMMANDS_PER_TURN: usize = 64;
/// The same for what the task waited for.
const JOBS_PER_TURN: usize = 256;

/// What is left to do when something that the task waited for is done.
pub(super) type Continuation = Box<dyn FnOnce(&mut GroupTask) + Send>;

pub(super) struct GroupTask {
    pub(super) group: Arc<Group>,
    pub(super) feeds: Vec<Feed>,
    pub(super) board: Board,
    pub(super) members: Members,
    pub(super) solo: Solo,
    /// What leases that ended by themselves come to, until it is recorded.
    pub(super) losses: VecDeque<Failure>,
    /// What was acked in this turn.
    pub(super) acks: Vec<Acks>,
    pub(super) payloads: Payloads,
    pub(super) scanner: Scanner,
    pub(super) routes: Routes,
    pub(super) proposals: Proposals,
    commands: mpsc::Receiver<Command>,
    pub(super) jobs: FuturesUnordered<BoxFuture<'static, Continuation>>,
    pub(super) clock: Clock,
    pub(super) limits: GroupLimits,
    pulls: VecDeque<PendingPull>,
    /// By feed: a page is on its way that is read beside the task.
    scanning: Vec<bool>,
    /// How many of them.
    pages_beside: usize,
    /// Those that have come and are taken in.
    arriving: VecDeque<Arriving>,
    scan_turn: usize,
    pace: Pace,
    /// When to read on, if nothing else happens.
    read_on_ms: Option<u64>,
    /// Events that are being read again …
    fetching: NumberSet<EventId>,
    /// … and the bytes of all that are, those counted in that are read in vain.
    fetching_bytes: usize,
    skips_due_ms: Option<u64>,
    /// What is parked is being looked for.
    pub(super) finding: bool,
    /// Moves to the parking partition under way beside settlements.
    pub(super) parks_under_way: usize,
    /// When to look again what can make room, when there was too little.
    pub(super) look_for_movable_ms: Option<u64>,
    /// When to park again what was not asked for, after a failure.
    pub(super) parks_again_ms: u64,
    pub(super) changing: Changing,
    /// Commits under way that nobody waits for.
    pub(super) quiet: usize,
    /// Counts how often the position was moved, or the filter changed.
    pub(super) generation: u64,
    /// Dead letters that are redriven or purged.
    pub(super) resolved: AckWindow,
    pub(super) redriving: NumberSet<Offset>,
    /// Why nothing is delivered any more.
    pub(super) disabled: Option<String>,
    /// What is on its way to the log is never answered.
    pub(super) log_failed: bool,
    /// Where each source began when that was looked at last.
    starts: Vec<Offset>,
    /// What the filter did, since the broker's start.
    pub(super) counters: Counters,
    /// By feed.
    pub(super) tallies: Vec<Tally>,
    /// Events that were gone before they were settled.
    pub(super) dropped: u64,
    flow: Flowing,
    /// Wakes the task: a member has room again, or there is something on the route.
    pub(super) room: Arc<Notify>,
    /// No member takes more, until one is heard of or has room again. So a group
    /// whose members do not read costs no look at each of them in every turn.
    all_are_full: bool,
    /// Events that are ready and were looked at, one after the other, and fit nobody …
    in_vain: usize,
    /// … since the board was stirred so often.
    stirs: u64,
    /// A member may wait to be told that nothing is left.
    draining: bool,
    /// The broker is about to stop.
    stopping: Arc<AtomicBool>,
}

/// What became of a feed's events without a delivery, since the broker's start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// The filter did not match.
    pub(super) filtered: u64,
    /// They became dead letters.
    pub(super) dead_lettered: u64,
}

/// What came of a turn.
struct Turn {
    /// Events that were sent to members.
    sent: usize,
    /// There is more to do at once.
    more: bool,
}

/// What a group's task is made of.
pub(super) struct Parts {
    pub(super) group: Arc<Group>,
    pub(super) feeds: Vec<Feed>,
    pub(super) board: Board,
    pub(super) resolved: AckWindow,
    pub(super) scanner: Scanner,
    pub(super) routes: Routes,
    pub(super) proposals: Proposals,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) clock: Clock,
    pub(super) limits: GroupLimits,
    pub(super) disabled: Option<String>,
    pub(super) metering: Metering,
    pub(super) room: Arc<Notify>,
    pub(super) stopping: Arc<AtomicBool>,
}

impl GroupTask {
    pub(super) fn new(parts: Parts) -> Self {
        let solo = Solo::new(parts.group.config.solo_wait_ms);
        let mut task = Self {
            scanning: vec![false; parts.feeds.len()],
            pages_beside: 0,
            arriving: VecDeque::new(),
            starts: vec![Offset(0); parts.feeds.len()],
            tallies: vec![Tally::default(); parts.feeds.len()],
            group: parts.group,
            feeds: parts.feeds,
            board: parts.board,
            members: Members::default(),
            solo,
            losses: VecDeque::new(),
            acks: Vec::new(),
            payloads: Payloads::new(parts.limits.payload_bytes_max),
            scanner: parts.scanner,
            routes: parts.routes,
            proposals: parts.proposals,
            commands: parts.commands,
            jobs: FuturesUnordered::new(),
            clock: parts.clock,
            limits: parts.limits,
            pulls: VecDeque::new(),
            scan_turn: 0,
            pace: Pace::default(),
            read_on_ms: None,
            fetching: NumberSet::default(),
            fetching_bytes: 0,
            skips_due_ms: None,
            finding: false,
            parks_under_way: 0,
            look_for_movable_ms: None,
            parks_again_ms: 0,
            changing: Changing::default(),
            quiet: 0,
            generation: 0,
            resolved: parts.resolved,
            redriving: NumberSet::default(),
            disabled: parts.disabled,
            log_failed: false,
            counters: Counters::default(),
            dropped: 0,
            flow: Flowing::new(parts.metering),
            room: parts.room,
            all_are_full: false,
            in_vain: 0,
            stirs: 0,
            draining: false,
            stopping: parts.stopping,
        };
        // Before anybody can publish.
        task.tell_backlog();
        task
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut changes: Vec<watch::Receiver<u64>> =
            vec![self.group.topic.changes(), self.group.parking.changes()];
        let [topic, parking] = &mut changes[..] else {
            return;
        };
        let room = self.room.clone();
        let mut opened = self.flow.metering.flow().opened();
        // Set anew only for what is due sooner: one that ends too early costs a turn,
        // and setting it in every turn would cost more.
        let mut sleep = pin!(sleep_until(self.clock.instant(u64::MAX)));
        loop {
            opened.mark_unchanged();
            let Turn { sent, more } = self.turn();
            if self.has_order() && sent >= SENT_FIRST {
                task::yield_now().await;
            }
            self.tell_drained();
            self.end_pulls();
            self.tell_backlog();
            let held_back = self.flow.held_back.is_some();
            let wake = self.next_due_ms().map(|due| self.clock.instant(due));
            if let Some(at) = wake
                && (at < sleep.deadline() || sleep.is_elapsed())
            {
                sleep.as_mut().reset(at);
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.note_the_last().await,
                command = self.commands.recv() => {
                    let Some(command) = command else { return };
                    self.handle(command);
                }
                Some(continuation) = self.jobs.next() => continuation(&mut self),
                Ok(()) = topic.changed(), if self.scanner.route.is_none() => {}
                Ok(()) = parking.changed() => {}
                () = room.notified() => self.look_again(),
                Ok(()) = opened.changed(), if held_back => {}
                () = &mut sleep, if wake.is_some() => {}
                () = task::yield_now(), if more => {}
            }
            self.catch_up();
        }
    }

    /// Goes on with all that can go on now.
    fn turn(&mut self) -> Turn {
        self.go_on_changing();
        self.let_time_pass();
        self.follow_starts();
        self.find_parked();
        self.drop_unwanted();
        let more = self.record_losses() | self.take_arriving() | self.read_ahead();
        self.park_waiting();
        self.follow_outputs();
        let delivered = self.deliver();
        Turn {
            sent: delivered.sent,
            more: more || (delivered.goes_on && self.has_more_to_deliver()),
        }
    }

    /// Takes what else has happened, so that one delivery answers to all of it:
    /// what was settled in one block of the log goes on in one message.
    fn catch_up(&mut self) {
        for _ in 0..COMMANDS_PER_TURN {
            let Ok(command) = self.commands.try_recv() else {
                break;
            };
            self.handle(command);
        }
        self.propose_acks();
        for _ in 0..JOBS_PER_TURN {
            let Some(Some(continuation)) = self.jobs.next().now_or_never() else {
                break;
            };
            continuation(self);
        }
    }

    /// Gives back the memory of events that nobody will want.
    fn drop_unwanted(&mut self) {
        for at in self.board.take_unwanted() {
            self.payloads.remove(at);
        }
    }

    /// The board was made anew: forgets what rested on the one before.
    pub(super) fn begin_anew(&mut self, payloads: Payloads) {
        self.payloads = payloads;
        self.fetching.clear();
        self.losses.clear();
        self.forget_arriving();
        self.skips_due_ms = None;
        self.generation += 1;
    }

    /// The broker is about to stop.
    fn is_stopping(&self) -> bool {
        self.stopping.load(atomic::Ordering::SeqCst)
    }

    pub(super) fn config(&self) -> &GroupConfig {
        &self.group.config
    }

    /// Whether events wait for others that were delivered before them.
    pub(super) fn has_order(&self) -> bool {
        self.config().ordering() != Ordering::None
    }

    pub(super) fn holder_name(&self, holder: &Holder) -> String {
        match holder {
            Holder::Unary(name) => name.clone(),
            Holder::Member(id) => self
                .members
                .get(*id)
                .map(|member| member.name.clone())
                .unwrap_or_default(),
        }
    }

    fn save_skips(&mut self) {
        self.skips_due_ms = None;
        let group = self.group.id;
        let settles: Vec<Settle> = self
            .board
            .take_skipped()
            .into_iter()
            .map(|(source, runs)| Settle {
                group,
                source,
                runs,
            })
            .collect();
        if !settles.is_empty() {
            self.commit_quietly(Changes {
                settles,
                ..Changes::default()
            });
        }
    }

    /// Commits what nobody waits for.
    fn commit_quietly(&mut self, changes: Changes) {
        let proposals = self.proposals.clone();
        self.quiet += 1;
        self.jobs.push(Box::pin(async move {
            let result = proposals.commit(changes).await;
            Box::new(move |task: &mut Self| {
                task.quiet -= 1;
                if let Err(error) = result {
                    task.disable_if_the_log_failed(&error);
                }
            }) as Continuation
        }));
    }
}
