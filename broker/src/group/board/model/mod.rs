//! The rules of a group against a simple model: random members join, leave,
//! crash, stall and reconnect, settle in every way, events are parked and parked
//! again, the group is moved to another position, and the broker is restarted
//! from what is durable; after every step the board must be as the model says.
//!
//! Here is what the model knows and what must hold; [`steps`] has what members do,
//! [`park`] what becomes of events that wait long.
//!
//! `cargo test -p sluice-broker --lib board::model` runs 2,000 seeds.
//! `SLUICE_MODEL_SEED=<seed>` replays one, `SLUICE_MODEL_SEEDS=<count>` runs
//! others.

mod park;
mod steps;

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use sluice_proto::{PartitionId, TopicId};

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
const STEPS: usize = 60;
const MAX_ATTEMPTS: u32 = 4;
const SOURCE: Source = Source {
    topic: TopicId(1),
    partition: PartitionId(0),
};
const PARKING: Source = Source {
    topic: TopicId(2),
    partition: PartitionId(0),
};

/// What the model knows of an event.
#[derive(Clone, Debug, Default)]
struct Event {
    key: Option<u8>,
    /// The filter drops it: it is settled when it is met.
    dropped: bool,
    settled: bool,
    counted: u32,
    suspect: bool,
    delivered: bool,
    /// Waits for its next attempt until then.
    due_ms: u64,
    /// Where it is in the parking partition, if it is there.
    parked_at: Option<Offset>,
}

#[derive(Clone, Debug)]
struct Given {
    offset: Offset,
    holder: Holder,
}

struct Run {
    rng: StdRng,
    rules: BoardRules,
    cap: usize,
    /// There is a filter.
    filters: bool,
    now: u64,
    epoch: u64,
    board: Board,
    payloads: Payloads,
    solo: Solo,
    durable: SourceState,
    /// What is settled of the parking partition, and what is in it.
    durable_parking: SourceState,
    parking: Vec<Found>,
    /// On their way to the parking partition.
    moving: BTreeSet<EventId>,
    events: Vec<Event>,
    /// Acked events, in the order in which their acks are in line for the log, and
    /// who has them until then.
    in_line: VecDeque<(EventId, Holder)>,
    /// Live leases by token.
    given: BTreeMap<LeaseToken, Given>,
    /// Leases that wait for their holders after a restart.
    held: BTreeMap<LeaseToken, Offset>,
    members: BTreeMap<MemberId, Credit>,
    next_member: u64,
    tokens: BTreeSet<LeaseToken>,
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
        let durable = SourceState::new(Offset(0));
        let sources = vec![(SOURCE, durable.clone()), (PARKING, durable.clone())];
        let parking = Parking {
            source: 1,
            end: Offset(0),
        };
        Self {
            cap: rng.random_range(2..12),
            rng,
            rules,
            filters: seed % 5 == 4,
            now: 0,
            epoch: 1,
            board: Board::new(sources, parking, 1, rules, 0, 0),
            payloads: nothing_kept(),
            solo: Solo::new(SOLO_WAIT_MS),
            durable_parking: durable.clone(),
            durable,
            parking: Vec::new(),
            moving: BTreeSet::new(),
            events: Vec::new(),
            in_line: VecDeque::new(),
            given: BTreeMap::new(),
            held: BTreeMap::new(),
            members: BTreeMap::new(),
            next_member: 0,
            tokens: BTreeSet::new(),
            paused: false,
        }
    }

    /// Whether two events go in one line.
    fn same_line(&self, a: &Event, b: &Event) -> bool {
        match self.rules.ordering {
            _ if a.dropped || b.dropped => false,
            Ordering::None => false,
            Ordering::Key => a.key.is_some() && a.key == b.key,
            Ordering::Partition => true,
        }
    }

    /// First deliveries of a line come in order.
    fn check_first_delivery(&self, offset: usize) {
        let event = &self.events[offset];
        for (later, other) in self.events.iter().enumerate().skip(offset + 1) {
            let overtaken = self.same_line(event, other) && other.delivered;
            assert!(!overtaken, "{later} was delivered before {offset}");
        }
    }

    fn check(&mut self) {
        for at in self.board.take_unwanted() {
            self.payloads.remove(at);
        }
        let kept = self.board.events.values().filter(|of| of.kept.is_some());
        assert_eq!(self.payloads.len(), kept.count(), "in memory for nobody");
        // What is given is where the board says, once, and in its line.
        let mut leased = BTreeSet::new();
        for (token, given) in &self.given {
            let (id, lease) = self.board.leased(*token).expect("a live lease");
            assert_eq!((id.offset, &lease.holder), (given.offset, &given.holder));
            assert!(leased.insert(given.offset), "{id:?} has two leases");
            let event = &self.events[id.offset.0 as usize];
            assert!(!event.settled, "{id:?} is settled and under lease");
            self.check_line(id.offset.0 as usize);
            // It is noted with the lease.
            let key = self.key_of(id.offset.0);
            assert_eq!(self.board.key(id), key.as_deref(), "the key of {id:?}");
            let neighbours = self.given.values().filter(|g| g.holder == given.holder);
            let neighbours = neighbours.count();
            if event.suspect {
                assert_eq!(neighbours, 1, "suspect {id:?} has neighbours");
                assert!(lease.solo, "suspect {id:?} does not count as one");
            }
            let cap = self.rules.per_holder_max;
            assert!(cap == 0 || neighbours <= cap, "a member above its cap");
        }
        for offset in self.held.values() {
            assert!(leased.insert(*offset), "{offset:?} is held and leased");
        }
        assert_eq!(self.board.occupied(), leased.len() + self.in_line.len());
        // Nothing is lost, and nothing is settled that is not.
        let unsettled = self.events.iter().filter(|event| !event.settled).count();
        assert_eq!(self.board.len(), unsettled, "an event is lost");
        let stays = |event: &Event| !event.settled && event.parked_at.is_none();
        let first = self.events.iter().position(stays);
        let first = first.unwrap_or(self.events.len()) as u64;
        assert_eq!(self.board.window(0).committed_end(), Offset(first));
        assert_eq!(self.durable.window.committed_end(), Offset(first));
        assert_eq!(self.board.window(0), &self.durable.window);
        assert_eq!(self.board.window(1), &self.durable_parking.window);
        let parked = self.events.iter().filter(|event| event.parked_at.is_some());
        let on_their_way = self.moving.iter().filter(|id| self.board.at(**id) == **id);
        let parked = parked.count() + on_their_way.count();
        assert_eq!(self.board.parked_events(), parked);
        let counts = self.board.counts();
        let of = counts[0];
        let sum = of.in_flight + of.delayed + of.parked + of.held + of.ready + of.suspect;
        assert_eq!(sum + of.queued, unsettled as u64, "{counts:?}");
        // Attempts are as they were counted.
        for (offset, event) in self.events.iter().enumerate() {
            let id = EventId {
                source: 0,
                offset: Offset(offset as u64),
            };
            if !event.settled {
                assert_eq!(self.board.attempt(id), event.counted + 1, "{id:?}");
                assert_eq!(self.board.is_suspect(id), event.suspect, "{id:?}");
                assert_eq!(self.board.at(id), self.lies(id), "{id:?}");
            }
        }
    }

    /// What is under lease is the first of its line that may be.
    fn check_line(&self, offset: usize) {
        let event = &self.events[offset];
        for (earlier, other) in self.events.iter().enumerate().take(offset) {
            if !self.same_line(event, other) || other.settled {
                continue;
            }
            // It has failed and let this one pass, or its ack is in line.
            let in_line = self
                .in_line
                .iter()
                .any(|(id, _)| id.offset.0 as usize == earlier);
            let passed = in_line || (self.rules.overtake && other.counted > 0);
            assert!(passed, "{offset} is under lease before {earlier}");
        }
        let others = self.given.values().map(|given| given.offset.0 as usize);
        for other in others.filter(|other| *other != offset) {
            let same = self.same_line(event, &self.events[other]);
            assert!(!same, "{other} and {offset} at once");
        }
    }

    /// Everything that is left can be worked off.
    fn finish(mut self) {
        self.paused = false;
        for _ in 0..20 * self.events.len() + 20 {
            if self.events.iter().all(|event| event.settled) {
                assert!(self.board.is_empty());
                return;
            }
            if self.members.is_empty() {
                self.join();
            }
            self.log_answers();
            self.arrive_parked();
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

fn run(seed: u64) {
    let mut run = Run::new(seed);
    for _ in 0..STEPS {
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
