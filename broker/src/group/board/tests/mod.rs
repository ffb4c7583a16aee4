#![allow(clippy::unwrap_used)] // A failed step is a failed test.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use sluice_proto::{PartitionId, TopicId};

use super::*;
use crate::{
    commit::{StoredEvent, record::LeaseNoted},
    group::payloads::Payloads,
};

const LEASE_MS: u64 = 1000;
const RULES: BoardRules = BoardRules {
    ordering: Ordering::Key,
    overtake: false,
    lease_ms: LEASE_MS,
    processing_limit_ms: 0,
    per_holder_max: 0,
};
const SOURCE: Source = Source {
    topic: TopicId(1),
    partition: PartitionId(0),
};

const NO_PARKING: Parking = Parking {
    source: 1,
    end: Offset(0),
};

fn board_of(state: SourceState) -> Board {
    Board::new(vec![(SOURCE, state)], NO_PARKING, 7, RULES, 0, 0)
}

fn board() -> Board {
    board_of(SourceState::new(Offset(0)))
}

fn arrived(offset: u64, key: &str) -> Arrived<'_> {
    Arrived {
        offset: Offset(offset),
        key: (!key.is_empty()).then(|| LineName::from(key.as_bytes())),
        size: 10,
        parked: false,
    }
}

fn id(offset: u64) -> EventId {
    EventId {
        source: 0,
        offset: Offset(offset),
    }
}

fn failed(attempt: u32, not_before_ms: u64) -> AttemptFailed {
    AttemptFailed {
        attempt,
        not_before_ms,
        ..AttemptFailed::default()
    }
}

const MEMBER: Holder = Holder::Member(MemberId(1));

fn leased(board: &mut Board, holder: Holder, now_ms: u64) -> (EventId, LeaseToken) {
    let given = board.lease(holder, now_ms).unwrap();
    (given.id, given.token)
}

fn next_ready(board: &Board) -> Option<EventId> {
    board.next_ready().map(|seat| seat.id)
}

#[test]
fn a_lease_whose_holder_is_gone_when_its_settlement_is_refused_runs_out() {
    let mut board = board();
    board.scanned(0, Offset(1), vec![arrived(0, "k")], 0);
    let (event, token) = leased(&mut board, MEMBER, 0);
    board.freeze(token, 10).unwrap();
    // While it was frozen, the member left.
    assert!(board.leases_of(MemberId(1)).is_empty());
    board.thaw(event, 20, |_| false);
    assert_eq!(board.pop_expired(20 + LEASE_MS - 1), None);
    assert_eq!(board.pop_expired(20 + LEASE_MS), Some(token));
}

#[test]
fn a_lease_whose_holder_is_there_is_kept_by_it() {
    let mut board = board();
    board.scanned(0, Offset(1), vec![arrived(0, "k")], 0);
    let (event, token) = leased(&mut board, MEMBER, 0);
    board.freeze(token, 10).unwrap();
    board.thaw(event, 20, |member| member == MemberId(1));
    assert_eq!(board.pop_expired(u64::MAX), None);
    assert_eq!(board.leases_of(MemberId(1)), [token]);
}

#[test]
fn an_attempt_that_could_not_be_recorded_is_made_again() {
    let mut board = board();
    board.scanned(0, Offset(1), vec![arrived(0, "k")], 0);
    let (event, token) = leased(&mut board, Holder::Unary("w".into()), 0);
    assert_eq!(board.pop_expired(LEASE_MS), Some(token));
    board.vanish(&[token]);
    assert!(!board.has_ready());
    board.unrecorded(event, 5000, LEASE_MS);
    board.wake_delayed(4999);
    assert!(!board.has_ready());
    board.wake_delayed(5000);
    assert_eq!(next_ready(&board), Some(event));
    assert_eq!(board.attempt(event), 1);
}

#[test]
fn what_waits_behind_a_key_that_moves_on_makes_no_room() {
    let mut board = board();
    let all = (0..3).map(|offset| arrived(offset, "k"));
    board.scanned(0, Offset(3), all, 0);
    assert_eq!(board.movable(9, 0), [id(2), id(1)]);
    let (event, token) = leased(&mut board, MEMBER, 100);
    board.freeze(token, 100).unwrap();
    board.settled(event, 100);
    assert_eq!(board.movable(9, 99), []);
    assert_eq!(board.movable(9, 100), [id(2)]);
}

#[test]
fn what_the_topic_drops_does_not_stay_in_memory() {
    let mut board = board();
    let mut payloads = Payloads::new(64 << 10);
    let all = (0..3).map(|offset| arrived(offset, "k"));
    for seat in board.scanned(0, Offset(3), all, 0) {
        let stored = StoredEvent {
            offset: seat.id.offset,
            append_time_ms: 0,
            event: Bytes::from_static(b"0123456789"),
            note: Bytes::new(),
        };
        board.keep_new(seat, payloads.keep_ahead(stored).unwrap());
    }
    assert_eq!(board.drop_below(0, Offset(2), 0), 2);
    let unwanted = board.take_unwanted();
    assert_eq!(unwanted.len(), 2);
    unwanted.into_iter().for_each(|at| payloads.remove(at));
    assert_eq!(payloads.len(), 1);
}

#[test]
fn a_key_is_passed_on_once_when_its_ack_is_in_line() {
    let mut board = board();
    let all = (0..3).map(|offset| arrived(offset, "k"));
    board.scanned(0, Offset(3), all, 0);
    let (first, token) = leased(&mut board, MEMBER, 0);
    let seat = board.freeze(token, 0).unwrap();
    assert!(!board.has_ready());
    board.pass_on(seat, 0);
    assert_eq!(next_ready(&board), Some(id(1)));
    assert_eq!(board.window(0).committed_end(), Offset(0));
    board.settled(first, 0);
    assert_eq!((board.ready(), board.queued()), (1, 1));
    assert_eq!(board.window(0).committed_end(), Offset(1));
}

#[test]
fn an_event_under_lease_before_a_restart_waits_for_its_holder_and_holds_its_key() {
    let mut state = SourceState::new(Offset(0));
    state.leases.insert(
        Offset(0),
        LeaseNoted {
            offset: 0,
            token_epoch: 6,
            token_counter: 3,
            attempt: 1,
            member: "gpu-1".into(),
            key: Bytes::from_static(b"k"),
            size: 10,
            ..LeaseNoted::default()
        },
    );
    let old = LeaseToken {
        epoch: 6,
        counter: 3,
    };
    let mut presented = board_of(state.clone());
    presented.scanned(0, Offset(2), vec![arrived(0, "k"), arrived(1, "k")], 0);
    assert!(presented.has_held());
    assert!(!presented.has_ready());
    assert!(presented.present(old, MemberId(4), 10));
    assert!(!presented.has_held());
    assert_eq!(presented.freeze(old, 20).unwrap().id, id(0));
    presented.settled(id(0), 20);
    assert_eq!(next_ready(&presented), Some(id(1)));

    let mut missed = board_of(state);
    missed.scanned(0, Offset(2), vec![arrived(0, "k"), arrived(1, "k")], 0);
    assert_eq!(missed.pop_expired(LEASE_MS), Some(old));
    let vanished = missed.vanish(&[old]);
    let member = "gpu-1".to_owned();
    let loss = Loss::Restart { member };
    assert_eq!(vanished, [Vanished { id: id(0), loss }]);
    assert!(!missed.present(old, MemberId(4), LEASE_MS));
    missed.failed(id(0), failed(1, 0), LEASE_MS);
    assert_eq!(next_ready(&missed), Some(id(0)));
    assert_eq!(missed.attempt(id(0)), 2);
}

#[test]
fn a_lease_that_was_frozen_when_it_was_to_be_noted_is_noted_later() {
    let mut board = board();
    board.scanned(0, Offset(1), vec![arrived(0, "")], 0);
    let (event, token) = leased(&mut board, Holder::Member(MemberId(1)), 0);
    // Also in time, when it is in line for its note already.
    board.freeze(token, 1).unwrap();
    board.thaw(event, 2, |_| true);
    board.freeze(token, 10).unwrap();
    assert_eq!(board.take_outlasting(5, 9), []);
    board.thaw(event, 20, |_| true);
    board.freeze(token, 21).unwrap();
    board.thaw(event, 22, |_| true);
    assert_eq!(board.take_outlasting(5, 9), [token]);
    board.freeze(token, 30).unwrap();
    board.thaw(event, 40, |_| true);
    assert_eq!(board.take_outlasting(5, 9), [], "once");
}

fn noted(offset: u64, key: &'static str) -> LeaseNoted {
    LeaseNoted {
        offset,
        token_epoch: 6,
        token_counter: offset,
        attempt: 4,
        member: "gpu-1".into(),
        key: Bytes::from_static(key.as_bytes()),
        size: 10,
        ..LeaseNoted::default()
    }
}

/// One of them was left from an attempt that could not be recorded.
#[test]
fn of_two_leases_of_a_line_before_a_restart_neither_takes_the_other_away() {
    let mut state = SourceState::new(Offset(0));
    state.leases = [0, 1].map(|at| (Offset(at), noted(at, "k"))).into();
    let mut board = board_of(state.clone());
    let token = |counter| LeaseToken { epoch: 6, counter };
    let mut handed_back = board_of(state);
    for of in [&mut board, &mut handed_back] {
        of.scanned(0, Offset(2), vec![arrived(0, "k"), arrived(1, "k")], 0);
        assert!(of.present(token(1), MemberId(4), 10));
        assert!(of.present(token(0), MemberId(4), 10));
    }
    handed_back.hand_back(token(1));
    for of in [&mut board, &mut handed_back] {
        of.freeze(token(0), 20).unwrap();
        of.settled(id(0), 20);
    }
    assert!(!board.has_ready());
    assert!(board.leased(token(1)).is_ok());
    assert_eq!(handed_back.ready(), 1, "it is there once");
}

/// Until it is found where it is parked, its note is all that is known of it.
#[test]
fn a_parked_event_under_lease_before_a_restart_has_the_attempt_of_its_note() {
    let parked = LeaseNoted {
        home_topic: SOURCE.topic.0,
        home_offset: 7,
        suspect: true,
        ..noted(0, "k")
    };
    let parking = Source {
        topic: TopicId(2),
        partition: PartitionId(0),
    };
    let mut state = SourceState::new(Offset(0));
    state.leases.insert(Offset(0), parked);
    let sources = vec![(SOURCE, SourceState::new(Offset(8))), (parking, state)];
    let lot = Parking {
        source: 1,
        end: Offset(1),
    };
    let board = Board::new(sources, lot, 7, RULES, 0, 0);
    assert_eq!(board.attempt(id(7)), 4);
    assert!(board.is_suspect(id(7)));
}

/// What the filter drops, or compaction took, between two of them is not theirs.
#[test]
fn events_under_lease_before_a_restart_are_met_once_around_a_gap() {
    let mut state = SourceState::new(Offset(0));
    state.leases = [0, 3].map(|at| (Offset(at), noted(at, ""))).into();
    let mut board = board_of(state);
    let new = board.scanned(0, Offset(5), vec![arrived(0, ""), arrived(3, "")], 0);
    assert_eq!(new, []);
    assert!(!board.has_ready());
    assert_eq!(board.len(), 2);
    assert_eq!(
        board.take_skipped(),
        [(SOURCE, vec![(Offset(1), 2), (Offset(4), 1)])]
    );
}

#[derive(Clone, Debug)]
enum Step {
    /// As many events arrive, with this key each; `None` is filtered out.
    Arrive(Vec<Option<u8>>),
    Lease,
    /// What is done with one of the leases, by number.
    Ack(usize),
    Nack(usize, u64),
    HandBack(usize),
    Refused(usize),
    Time(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        proptest::collection::vec(proptest::option::weighted(0.8, 0_u8..4), 0..6)
            .prop_map(Step::Arrive),
        Just(Step::Lease),
        Just(Step::Lease),
        (0_usize..8).prop_map(Step::Ack),
        (0_usize..8, 0_u64..3000).prop_map(|(lease, delay)| Step::Nack(lease, delay)),
        (0_usize..8).prop_map(Step::HandBack),
        (0_usize..8).prop_map(Step::Refused),
        (0_u64..1500).prop_map(Step::Time),
    ]
}

/// A board, and what is known of it from outside.
struct Run {
    board: Board,
    now: u64,
    next: u64,
    keys: BTreeMap<Offset, u8>,
    settled: BTreeSet<Offset>,
    leases: Vec<(EventId, LeaseToken)>,
    tokens: BTreeSet<LeaseToken>,
}

impl Run {
    fn new() -> Self {
        Self {
            board: board(),
            now: 0,
            next: 0,
            keys: BTreeMap::new(),
            settled: BTreeSet::new(),
            leases: Vec::new(),
            tokens: BTreeSet::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Arrive(events) => {
                let first = self.next;
                self.next += events.len() as u64;
                let mut matched = Vec::new();
                for (offset, key) in (first..).zip(events) {
                    match key {
                        // 0 is no key.
                        Some(0) => matched.push((offset, String::new())),
                        Some(key) => {
                            self.keys.insert(Offset(offset), key);
                            matched.push((offset, key.to_string()));
                        }
                        None => drop(self.settled.insert(Offset(offset))),
                    }
                }
                let matched = matched.iter().map(|(offset, key)| arrived(*offset, key));
                self.board.scanned(0, Offset(self.next), matched, self.now);
            }
            Step::Lease => self.lease(),
            Step::Ack(at) => {
                if let Some((event, token)) = self.take_lease(at) {
                    assert_eq!(self.board.freeze(token, self.now).unwrap().id, event);
                    assert_eq!(
                        self.board.freeze(token, self.now),
                        Err(LeaseError::Settling)
                    );
                    self.board.settled(event, self.now);
                    assert!(self.settled.insert(event.offset));
                }
            }
            Step::Nack(at, delay) => {
                if let Some((event, token)) = self.take_lease(at) {
                    self.board.freeze(token, self.now).unwrap();
                    self.fail(event, delay);
                }
            }
            Step::HandBack(at) => {
                if let Some((event, token)) = self.take_lease(at) {
                    self.board.hand_back(token);
                    assert_eq!(next_ready(&self.board), Some(event));
                }
            }
            Step::Refused(at) => {
                if !self.leases.is_empty() {
                    let (event, token) = self.leases[at % self.leases.len()];
                    self.board.freeze(token, self.now).unwrap();
                    self.board.thaw(event, self.now, |_| true);
                    assert!(self.board.leased(token).is_ok());
                }
            }
            Step::Time(passes) => {
                self.now += passes;
                self.board.wake_delayed(self.now);
                while let Some(token) = self.board.pop_expired(self.now) {
                    let at = self.leases.iter().position(|(_, t)| *t == token).unwrap();
                    let (event, _) = self.leases.remove(at);
                    assert_eq!(self.board.vanish(&[token])[0].id, event);
                    self.fail(event, 0);
                }
            }
        }
    }

    fn lease(&mut self) {
        // Every other one belongs to a stream.
        let holder = if self.tokens.len().is_multiple_of(2) {
            MEMBER
        } else {
            Holder::Unary("w".into())
        };
        if let Some(given) = self.board.lease(holder, self.now) {
            let (event, token) = (given.id, given.token);
            assert!(self.tokens.insert(token), "a token given twice");
            assert!(!self.settled.contains(&event.offset), "{event:?} again");
            self.leases.push((event, token));
        }
    }

    fn take_lease(&mut self, at: usize) -> Option<(EventId, LeaseToken)> {
        let at = at.checked_rem(self.leases.len())?;
        Some(self.leases.remove(at))
    }

    fn fail(&mut self, event: EventId, delay: u64) {
        let attempt = self.board.attempt(event);
        self.board
            .failed(event, failed(attempt, self.now + delay), self.now);
        assert_eq!(self.board.attempt(event), attempt + 1);
    }

    fn check(&self) {
        // One at a time of each key, and the first of those not settled.
        let mut leased_keys = BTreeSet::new();
        for (event, token) in &self.leases {
            assert_eq!(self.board.leased(*token).unwrap().0, *event);
            if let Some(key) = self.keys.get(&event.offset) {
                assert!(leased_keys.insert(*key), "key {key} twice");
                let earlier = self.keys.range(..event.offset).filter(|(_, k)| *k == key);
                for (offset, _) in earlier {
                    assert!(self.settled.contains(offset), "{event:?} before {offset}");
                }
            }
        }
        assert_eq!(self.board.in_flight(), self.leases.len());
        let unsettled = self.next - self.settled.len() as u64;
        assert_eq!(self.board.len() as u64, unsettled);
        let window = self.board.window(0);
        assert_eq!(window.unsettled_below(Offset(self.next)), unsettled);
        let places = self.leases.len() + self.board.ready() + self.board.queued();
        assert_eq!(places + self.board.delayed(), self.board.len());
    }

    /// Everything that is left can be worked off.
    fn finish(mut self) {
        while self.settled.len() < self.next as usize {
            self.step(Step::Time(4000));
            self.step(Step::Lease);
            let before = self.settled.len();
            self.step(Step::Ack(0));
            assert!(self.settled.len() > before, "nothing can be leased");
            self.check();
        }
        assert!(self.board.is_empty());
        assert_eq!(self.board.window(0).committed_end(), Offset(self.next));
    }
}

proptest! {
    /// Whatever happens: no event is lost or given to two, keys keep their
    /// order, and everything can be worked off in the end.
    #[test]
    fn no_event_is_lost_doubled_or_out_of_order(
        steps in proptest::collection::vec(step(), 0..80),
    ) {
        let mut run = Run::new();
        for step in steps {
            run.step(step);
            run.check();
        }
        run.finish();
    }
}
