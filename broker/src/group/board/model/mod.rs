//! The rules of a group against a simple model: random members join, leave,
//! crash, stall and reconnect, settle in every way, events are parked and parked
//! again, the group is moved to another position, and the broker is restarted
//! from what is durable; after every step the board must be as the model says.
//!
//! In every other run nothing is done at once: settlements and failures are on their
//! way while other things happen, and may be refused; after a restart events are
//! found, scanned, presented and nacked as it comes; some are pulled by who has no
//! stream, taken away by retention, or redriven; and there are two partitions.
//!
//! Here is what the model knows. [`checks`] has what must hold, [`steps`] what may
//! happen, [`coming`] how events come and go, [`giving`] to whom they are given,
//! [`leases`] what befalls leases, [`settling`] what follows them, [`park`] what
//! becomes of events that wait long, [`anew`] how a board is made from the log.
//!
//! `cargo test -p sluice-broker --lib board::model` runs 2,000 seeds.
//! `SLUICE_MODEL_SEED=<seed>` replays one, `SLUICE_MODEL_SEEDS=<count>` runs
//! others.

mod anew;
mod checks;
mod coming;
mod giving;
mod leases;
mod park;
mod settling;
mod steps;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use sluice_proto::{PartitionId, TopicId};

use self::{
    park::InParking,
    settling::{Failure, UnderWay},
};
use super::*;
use crate::{
    commit::{StoredEvent, record::LeaseNoted},
    group::{
        credit::{Credit, Grant},
        payloads::Payloads,
        retry::{self, Verdict},
        solo::Solo,
    },
};

const LEASE_MS: u64 = 100;
const LIMIT_MS: u64 = 400;
const SOLO_WAIT_MS: u64 = 50;
const MAX_ATTEMPTS: u32 = 4;
const PARKING_TOPIC: TopicId = TopicId(2);

/// What the model knows of an event.
#[derive(Clone, Debug, Default)]
struct Event {
    key: Option<u8>,
    /// The filter drops it: it is settled when it is met.
    dropped: bool,
    /// Retention has taken it away from where it was published.
    gone: bool,
    settled: bool,
    counted: u32,
    suspect: bool,
    delivered: bool,
    /// It has failed, so that others of its line may have passed it.
    has_failed: bool,
    /// Waits for its next attempt until then, by the wall clock.
    due_ms: u64,
    /// Where it is in the parking partition, if it is there.
    parked_at: Option<Offset>,
}

/// A lease that goes on.
#[derive(Clone, Debug)]
struct Given {
    id: EventId,
    holder: Holder,
    /// Since when, by the broker's clock.
    since_ms: u64,
    /// It was given before the broker was restarted.
    from_before: bool,
}

/// A lease that waits for its holder after a restart.
#[derive(Clone, Debug)]
struct HeldFor {
    id: EventId,
    member: String,
}

/// An ack that is in line for the log, behind which its line goes on.
#[derive(Clone, Debug)]
struct InLine {
    token: LeaseToken,
    id: EventId,
    holder: Holder,
}

struct Run {
    rng: StdRng,
    rules: BoardRules,
    cap: usize,
    /// Things are on their way.
    lasts: bool,
    /// There is a filter.
    filters: bool,
    /// Wall clock.
    now: u64,
    /// How far it is ahead of the broker's clock.
    ahead: u64,
    epoch: u64,
    board: Board,
    payloads: Payloads,
    solo: Solo,
    /// What is durable of each source. The last one is the parking partition.
    durable: Vec<SourceState>,
    /// How many events each of the other sources has.
    ends: Vec<u64>,
    parking: Vec<InParking>,
    /// On their way to the parking partition.
    moving: BTreeSet<EventId>,
    events: BTreeMap<EventId, Event>,
    /// In the order in which they are in line.
    in_line: VecDeque<InLine>,
    given: BTreeMap<LeaseToken, Given>,
    held: BTreeMap<LeaseToken, HeldFor>,
    /// Settlements that wait for the log's answer.
    under_way: BTreeMap<LeaseToken, UnderWay>,
    /// The same of attempts that ended by themselves.
    failing: Vec<Failure>,
    /// When leases end that no heartbeat keeps, by the broker's clock.
    deadlines: BTreeMap<LeaseToken, u64>,
    /// They have vanished from a lease, have others, and were not heard of since.
    vanishing: HashSet<Holder>,
    members: BTreeMap<MemberId, Credit>,
    /// Those of them that were not heard of for too long.
    silent: BTreeSet<MemberId>,
    /// Members without a stream, and until when their leases go on.
    disconnected: BTreeMap<MemberId, u64>,
    next_member: u64,
    tokens: BTreeSet<LeaseToken>,
    /// Leases that were taken away: their holders know, whatever a start makes of their
    /// notes.
    lost: BTreeSet<LeaseToken>,
    paused: bool,
}

fn nothing_kept() -> Payloads {
    Payloads::new(64 << 10)
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let ordering = [Ordering::Key, Ordering::Partition, Ordering::None][(seed % 3) as usize];
        let rules = BoardRules {
            ordering,
            overtake: ordering == Ordering::Key && rng.random_bool(0.5),
            lease_ms: LEASE_MS,
            processing_limit_ms: if rng.random_bool(0.5) { LIMIT_MS } else { 0 },
            per_holder_max: [0, 2][rng.random_range(0..2)],
        };
        let lasts = seed % 2 == 1;
        let ends = vec![0; if lasts { rng.random_range(1..3) } else { 1 }];
        let durable = vec![SourceState::new(Offset(0)); ends.len() + 1];
        let (sources, parking) = sources_of(&durable, 0);
        Self {
            cap: rng.random_range(2..12),
            rng,
            rules,
            lasts,
            filters: seed % 5 == 4,
            now: 0,
            ahead: 0,
            epoch: 1,
            board: Board::new(sources, parking, 1, rules, 0, 0),
            payloads: nothing_kept(),
            solo: Solo::new(SOLO_WAIT_MS),
            durable,
            ends,
            parking: Vec::new(),
            moving: BTreeSet::new(),
            events: BTreeMap::new(),
            in_line: VecDeque::new(),
            given: BTreeMap::new(),
            held: BTreeMap::new(),
            under_way: BTreeMap::new(),
            failing: Vec::new(),
            deadlines: BTreeMap::new(),
            vanishing: HashSet::new(),
            members: BTreeMap::new(),
            silent: BTreeSet::new(),
            disconnected: BTreeMap::new(),
            next_member: 0,
            tokens: BTreeSet::new(),
            lost: BTreeSet::new(),
            paused: false,
        }
    }

    /// The broker's clock.
    fn clock(&self) -> u64 {
        self.now - self.ahead
    }

    /// Which of the sources the parking partition is.
    fn lot(&self) -> usize {
        self.ends.len()
    }

    fn event_mut(&mut self, id: EventId) -> &mut Event {
        self.events.get_mut(&id).expect("it was published")
    }

    /// The event's key, in a group that is ordered by key.
    fn key_of(&self, id: EventId) -> Option<Bytes> {
        let keyed = self.rules.ordering == Ordering::Key;
        let key = self.events[&id].key.filter(|_| keyed);
        key.map(|key| Bytes::from(vec![key]))
    }

    /// Whether something that could be on its way is.
    fn takes_long(&mut self) -> bool {
        self.lasts && self.rng.random_bool(0.5)
    }

    /// Everything that is left can be worked off.
    fn finish(mut self) {
        self.paused = false;
        for _ in 0..20 * self.events.len() + 20 {
            if self.events.values().all(|event| event.settled) {
                assert!(self.board.is_empty());
                return;
            }
            if self.members.is_empty() {
                self.join();
            }
            while let Some(member) = self.silent.first().copied() {
                self.is_heard(member);
            }
            self.answer_all();
            self.log_answers();
            self.arrive_parked();
            self.find_parked();
            self.scan();
            self.grant();
            self.pass(SOLO_WAIT_MS + LEASE_MS);
            self.deliver();
            self.check();
            self.ack();
            self.check();
        }
        panic!("nothing goes on: {:?}", self.events);
    }
}

/// The sources of a board, as the log has them.
fn sources_of(
    durable: &[SourceState],
    parking_end: usize,
) -> (Vec<(Source, SourceState)>, Parking) {
    let lot = durable.len() - 1;
    let sources = durable.iter().enumerate();
    let sources = sources.map(|(at, state)| (source_of(at, lot), state.clone()));
    let parking = Parking {
        source: lot,
        end: Offset(parking_end as u64),
    };
    (sources.collect(), parking)
}

fn source_of(at: usize, lot: usize) -> Source {
    match at == lot {
        true => Source {
            topic: PARKING_TOPIC,
            partition: PartitionId(0),
        },
        false => Source {
            topic: TopicId(1),
            partition: PartitionId(at as u32),
        },
    }
}

fn run(seed: u64) {
    let mut run = Run::new(seed);
    for _ in 0..if run.lasts { 120 } else { 60 } {
        run.step();
    }
    run.finish();
}

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    let given = std::env::var(name).ok()?;
    Some(given.parse().expect("it is a number"))
}

#[test]
fn a_group_keeps_its_rules_whatever_happens() {
    if let Some(seed) = number("SLUICE_MODEL_SEED") {
        return run(seed);
    }
    let count = number("SLUICE_MODEL_SEEDS").unwrap_or(2000);
    for seed in 0..count {
        if let Err(failure) = std::panic::catch_unwind(|| run(seed)) {
            println!("SLUICE_MODEL_SEED={seed} replays this");
            std::panic::resume_unwind(failure);
        }
    }
}
