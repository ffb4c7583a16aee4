//! The rules of a group against a simple model: random members join, leave,
//! crash, stall and reconnect, settle in every way, and the broker is restarted
//! from what is durable; after every step the board must be as the model says.
//!
//! `cargo test -p sluice-broker --lib board::model` runs 2,000 seeds.
//! `SLUICE_MODEL_SEED=<seed>` replays one, `SLUICE_MODEL_SEEDS=<count>` runs
//! others.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use sluice_proto::{PartitionId, TopicId};

use super::*;
use crate::{
    commit::record::LeaseNoted,
    group::{
        credit::{Credit, Grant},
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

/// What the model knows of an event.
#[derive(Clone, Debug, Default)]
struct Event {
    key: Option<u8>,
    settled: bool,
    counted: u32,
    suspect: bool,
    delivered: bool,
    /// Waits for its next attempt until then.
    due_ms: u64,
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
    now: u64,
    epoch: u64,
    board: Board,
    solo: Solo,
    durable: SourceState,
    events: Vec<Event>,
    /// Live leases by token.
    given: BTreeMap<LeaseToken, Given>,
    /// Leases that wait for their holders after a restart.
    held: BTreeMap<LeaseToken, Offset>,
    members: BTreeMap<MemberId, Credit>,
    next_member: u64,
    tokens: BTreeSet<LeaseToken>,
    paused: bool,
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
        Self {
            cap: rng.random_range(2..12),
            rng,
            rules,
            now: 0,
            epoch: 1,
            board: Board::new(vec![(SOURCE, durable.clone())], 1, rules, 0, 0),
            solo: Solo::new(SOLO_WAIT_MS),
            durable,
            events: Vec::new(),
            given: BTreeMap::new(),
            held: BTreeMap::new(),
            members: BTreeMap::new(),
            next_member: 0,
            tokens: BTreeSet::new(),
            paused: false,
        }
    }

    fn step(&mut self) {
        match self.rng.random_range(0..20) {
            0..4 => self.publish(),
            4 => self.join(),
            5 => self.grant(),
            6 => self.leave(),
            7 => self.crash(),
            8 => self.restart(),
            9 => self.reconnect(),
            10..13 => self.ack(),
            13 => self.nack(),
            14 => self.reject(),
            15 => self.report(),
            16 => self.refused(),
            17 => self.note(),
            18 => self.paused = !self.paused,
            _ => {
                let passes = self.rng.random_range(0..2 * LEASE_MS);
                self.pass(passes);
            }
        }
        self.deliver();
        self.check();
    }

    fn publish(&mut self) {
        for _ in 0..self.rng.random_range(1..5) {
            let key = self
                .rng
                .random_bool(0.8)
                .then(|| self.rng.random_range(0..3));
            self.events.push(Event {
                key,
                ..Event::default()
            });
        }
        self.scan();
    }

    fn scan(&mut self) {
        let keyed = self.rules.ordering == Ordering::Key;
        let from = self.board.scan_next(0).0 as usize;
        let arrived = self.events.iter().enumerate().skip(from);
        let arrived = arrived.map(|(offset, event)| Arrived {
            offset: Offset(offset as u64),
            key: event
                .key
                .filter(|_| keyed)
                .map(|key| Bytes::from(vec![key])),
            size: 1,
        });
        let arrived = arrived.collect();
        let next = Offset(self.events.len() as u64);
        self.board.scanned(0, next, arrived, self.now);
    }

    fn join(&mut self) {
        self.next_member += 1;
        let mut credit = Credit::default();
        let max_events = self.rng.random_range(0..5);
        let max_bytes = None;
        let grant = Grant {
            max_events,
            max_bytes,
        };
        credit.grant(grant).expect("a first grant cannot shrink");
        self.members.insert(MemberId(self.next_member), credit);
    }

    fn grant(&mut self) {
        for credit in self.members.values_mut() {
            let limit = self.tokens.len() as u64 + 2;
            let _ = credit.grant(Grant {
                max_events: limit,
                max_bytes: None,
            });
        }
    }

    fn some_member(&mut self) -> Option<MemberId> {
        let at = self.rng.random_range(0..self.members.len().max(1));
        self.members.keys().nth(at).copied()
    }

    fn some_lease(&mut self) -> Option<LeaseToken> {
        let at = self.rng.random_range(0..self.given.len().max(1));
        self.given.keys().nth(at).copied()
    }

    fn leave(&mut self) {
        let Some(member) = self.some_member() else {
            return;
        };
        for token in self.board.leases_of(member).into_iter().rev() {
            self.board.hand_back(token);
            self.given.remove(&token);
        }
        self.members.remove(&member);
        self.solo.gone(member);
    }

    /// A member is gone, or silent for too long: what it held vanishes with it.
    fn crash(&mut self) {
        let Some(member) = self.some_member() else {
            return;
        };
        let tokens = self.board.leases_of(member);
        let alone = tokens.len() == 1;
        for token in &tokens {
            let given = self.given.remove(token).expect("it was given");
            let event = &mut self.events[given.offset.0 as usize];
            event.suspect = true;
            event.counted += u32::from(alone);
        }
        let vanished = self.board.vanish(&tokens);
        assert_eq!(vanished.len(), tokens.len());
        self.members.remove(&member);
        self.solo.gone(member);
        self.record(vanished);
        for token in tokens {
            assert!(self.board.leased(token).is_err(), "a lost lease is held");
        }
    }

    /// What vanished goes to the log as the group's task would write it.
    fn record(&mut self, vanished: Vec<Vanished>) {
        for Vanished { id, loss } in vanished {
            let counts = matches!(loss, Loss::Member { alone: true, .. });
            self.fail(id, Some(0), counts, true);
        }
    }

    /// An attempt has failed; the model has counted it already.
    fn fail(&mut self, id: EventId, delay_ms: Option<u64>, counts: bool, suspect: bool) {
        let attempt = self.board.attempt(id);
        let config = GroupConfig {
            max_attempts: MAX_ATTEMPTS,
            initial_delay_ms: 40,
            multiplier: 2.0,
            max_delay_ms: 100,
            jitter: 0.5,
            ..GroupConfig::default()
        };
        let verdict = if counts {
            retry::after_failure(&config, attempt, delay_ms, self.rng.random())
        } else {
            Verdict::RetryAfter(0)
        };
        let event = &mut self.events[id.offset.0 as usize];
        match verdict {
            Verdict::DeadLetter => {
                assert_eq!(event.counted, MAX_ATTEMPTS, "{id:?} died too early");
                self.settle(id);
            }
            Verdict::RetryAfter(delay) => {
                assert!(event.counted < MAX_ATTEMPTS, "{id:?} lives too long");
                event.due_ms = self.now + delay;
                let failed = AttemptFailed {
                    attempt,
                    not_before_ms: event.due_ms,
                    suspect,
                    uncounted: !counts,
                    ..AttemptFailed::default()
                };
                let attempts = self.durable.attempts.entry(id.offset).or_default();
                attempts.push(failed.clone());
                self.durable.leases.remove(&id.offset);
                self.board.failed(id, failed, self.now);
            }
        }
    }

    fn settle(&mut self, id: EventId) {
        self.events[id.offset.0 as usize].settled = true;
        self.durable.window.settle(id.offset);
        self.durable.attempts.remove(&id.offset);
        self.durable.leases.remove(&id.offset);
        self.board.settled(id, self.now);
    }

    /// The broker ends and starts again from what is durable. Some settlements
    /// on their way are lost with it; those of this model are all answered.
    fn restart(&mut self) {
        self.epoch += 1;
        let durable = self.durable.clone();
        self.board = Board::new(vec![(SOURCE, durable)], self.epoch, self.rules, self.now, 0);
        self.solo = Solo::new(SOLO_WAIT_MS);
        self.members.clear();
        self.given.clear();
        // What was noted is held, also if it was handed back since: then nobody
        // presents it.
        let held = self.durable.leases.iter().map(|(offset, noted)| {
            let token = LeaseToken {
                epoch: noted.token_epoch,
                counter: noted.token_counter,
            };
            (token, *offset)
        });
        self.held = held.collect();
        self.scan();
    }

    /// Somebody presents leases: of a lost connection, or from before a restart.
    fn reconnect(&mut self) {
        self.join();
        let member = MemberId(self.next_member);
        let mut presented: Vec<_> = self.held.keys().copied().collect();
        presented.truncate(1);
        for token in presented {
            assert!(self.board.present(token, member, self.now), "a held lease");
            let offset = self.held.remove(&token).expect("it was held");
            let given = Given {
                offset,
                holder: Holder::Member(member),
            };
            self.given.insert(token, given);
        }
        let never = LeaseToken {
            epoch: self.epoch,
            counter: u64::MAX,
        };
        assert!(!self.board.present(never, member, self.now));
    }

    fn ack(&mut self) {
        if let Some(token) = self.some_lease() {
            let id = self.freeze(token);
            self.settle(id);
        }
    }

    fn nack(&mut self) {
        if let Some(token) = self.some_lease() {
            let id = self.freeze(token);
            let event = &mut self.events[id.offset.0 as usize];
            event.counted += 1;
            event.suspect = false;
            let delay_ms = self.rng.random_bool(0.5).then_some(30);
            self.fail(id, delay_ms, true, false);
        }
    }

    fn reject(&mut self) {
        if let Some(token) = self.some_lease() {
            let id = self.freeze(token);
            self.settle(id);
        }
    }

    fn freeze(&mut self, token: LeaseToken) -> EventId {
        let id = self.board.freeze(token, self.now).expect("it is held");
        assert_eq!(
            self.board.freeze(token, self.now),
            Err(LeaseError::Settling)
        );
        assert!(self.board.vanish(&[token]).is_empty(), "a frozen lease");
        assert_eq!(self.board.overdue(token), None);
        self.given.remove(&token);
        id
    }

    fn report(&mut self) {
        if let Some(token) = self.some_lease() {
            let report = Report {
                percent: Some(50),
                note: "half".into(),
            };
            let extended = self.board.extend(token, Some(report.clone()), self.now);
            extended.expect("it is held");
            let (_, lease) = self.board.leased(token).expect("it is held");
            assert_eq!(lease.report, Some(report));
        }
    }

    /// A settlement that the log does not take.
    fn refused(&mut self) {
        if let Some(token) = self.some_lease() {
            let id = self.board.freeze(token, self.now).expect("it is held");
            let members = &self.members;
            self.board
                .thaw(id, self.now, |member| members.contains_key(&member));
            assert!(self.board.leased(token).is_ok(), "its lease goes on");
        }
    }

    fn note(&mut self) {
        if let Some(token) = self.some_lease() {
            let given = &self.given[&token];
            let keyed = self.rules.ordering == Ordering::Key;
            let key = self.events[given.offset.0 as usize].key;
            let key = key.filter(|_| keyed).map(|key| Bytes::from(vec![key]));
            let note = LeaseNoted {
                token_epoch: token.epoch,
                token_counter: token.counter,
                key: key.unwrap_or_default(),
                size: 1,
                since_ms: self.now.max(1),
                ..LeaseNoted::default()
            };
            self.durable.leases.insert(given.offset, note);
        }
    }

    fn pass(&mut self, passes: u64) {
        self.now += passes;
        self.board.wake_delayed(self.now);
        while let Some(token) = self.board.pop_overdue(self.now) {
            let Some((id, _)) = self.board.overdue(token) else {
                continue;
            };
            assert!(self.given.remove(&token).is_some() || self.held.remove(&token).is_some());
            let event = &mut self.events[id.offset.0 as usize];
            event.counted += 1;
            event.suspect = false;
            self.fail(id, None, true, false);
        }
        let mut expired = Vec::new();
        while let Some(token) = self.board.pop_expired(self.now) {
            expired.push(token);
        }
        // Only those that nobody has presented have a deadline here.
        for token in &expired {
            let offset = self.held.remove(token).expect("it was held");
            self.events[offset.0 as usize].suspect = true;
        }
        let vanished = self.board.vanish(&expired);
        assert_eq!(vanished.len(), expired.len());
        self.record(vanished);
    }

    /// As the group's task delivers.
    fn deliver(&mut self) {
        if self.paused {
            return;
        }
        self.solo.tick(self.board.suspects(), self.now);
        while self.board.suspects() > 0
            && self.board.occupied() < self.cap
            && self
                .solo
                .may_give(self.board.has_ready(), self.board.suspects_out())
            && let Some(member) = self.idle_member()
        {
            let leased = self.board.lease_suspect(Holder::Member(member), self.now);
            self.sent(member, leased);
            self.solo.given(self.now);
        }
        if self.board.suspects() > 0 && self.solo.wants_member(self.now) {
            let leases = |id: &MemberId| self.board.holding(&Holder::Member(*id)).leases;
            let busy = self.members.keys().filter(|id| leases(id) > 0);
            if let Some(member) = busy.min_by_key(|id| leases(id)).copied() {
                self.solo.empty(member);
            }
        }
        while self.board.has_ready()
            && self.board.occupied() < self.cap
            && let Some(member) = self.willing_member()
        {
            let leased = self.board.lease(Holder::Member(member), self.now);
            self.sent(member, leased);
        }
    }

    fn idle_member(&self) -> Option<MemberId> {
        let idle = |id: &MemberId| self.board.holding(&Holder::Member(*id)).leases == 0;
        let mut members = self.members.iter().filter(|(_, credit)| credit.may_send());
        members.find(|(id, _)| idle(id)).map(|(id, _)| *id)
    }

    fn willing_member(&self) -> Option<MemberId> {
        let may = |id: &MemberId| {
            self.board.may_have_more(&Holder::Member(*id)) && !self.solo.is_emptying(*id)
        };
        let mut members = self.members.iter().filter(|(_, credit)| credit.may_send());
        members.find(|(id, _)| may(id)).map(|(id, _)| *id)
    }

    fn sent(&mut self, member: MemberId, leased: Option<(EventId, LeaseToken)>) {
        let (id, token) = leased.expect("one is ready");
        let credit = self.members.get_mut(&member).expect("it is a member");
        assert!(credit.remaining_events() > 0, "more than was granted");
        credit.sent(1);
        assert!(self.tokens.insert(token), "{token:?} was given before");
        let offset = id.offset.0 as usize;
        let event = &self.events[offset];
        assert!(!event.settled, "{id:?} is settled and delivered");
        assert!(event.due_ms <= self.now, "{id:?} comes before its delay");
        if !event.delivered {
            self.check_first_delivery(offset);
        }
        self.events[offset].delivered = true;
        let holder = Holder::Member(member);
        let given = Given {
            offset: id.offset,
            holder,
        };
        self.given.insert(token, given);
    }

    /// Whether two events go in one line.
    fn same_line(&self, a: &Event, b: &Event) -> bool {
        match self.rules.ordering {
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

    fn check(&self) {
        // What is given is where the board says, once, and in its line.
        let mut leased = BTreeSet::new();
        for (token, given) in &self.given {
            let (id, lease) = self.board.leased(*token).expect("a live lease");
            assert_eq!((id.offset, &lease.holder), (given.offset, &given.holder));
            assert!(leased.insert(given.offset), "{id:?} has two leases");
            let event = &self.events[id.offset.0 as usize];
            assert!(!event.settled, "{id:?} is settled and under lease");
            self.check_line(id.offset.0 as usize);
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
        assert_eq!(self.board.occupied(), leased.len());
        // Nothing is lost, and nothing is settled that is not.
        let unsettled = self.events.iter().filter(|event| !event.settled).count();
        assert_eq!(self.board.len(), unsettled, "an event is lost");
        let first = self.events.iter().position(|event| !event.settled);
        let first = first.unwrap_or(self.events.len()) as u64;
        assert_eq!(self.board.window(0).committed_end(), Offset(first));
        assert_eq!(self.durable.window.committed_end(), Offset(first));
        // Attempts are as they were counted.
        for (offset, event) in self.events.iter().enumerate() {
            let id = EventId {
                source: 0,
                offset: Offset(offset as u64),
            };
            if !event.settled {
                assert_eq!(self.board.attempt(id), event.counted + 1, "{id:?}");
                let last = self.board.history(id).last();
                let suspect = last.is_some_and(|failed| failed.suspect);
                assert_eq!(suspect, event.suspect, "{id:?}");
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
            // It has failed and let this one pass.
            let passed = self.rules.overtake && other.counted > 0;
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
