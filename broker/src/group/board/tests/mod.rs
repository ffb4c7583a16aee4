#![allow(clippy::unwrap_used)] // A failed step is a failed test.

mod random;
mod restart;

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

#[test]
fn leases_that_were_frozen_when_they_were_to_be_noted_are_noted_later_in_order() {
    let mut board = board();
    let tokens = [0, 1, 2].map(|since| {
        board.scanned(0, Offset(since + 1), vec![arrived(since, "")], since);
        leased(&mut board, MEMBER, since)
    });
    for (_, token) in &tokens[..2] {
        board.freeze(*token, 3).unwrap();
    }
    assert_eq!(board.take_outlasting(2, 9), []);
    for (event, _) in &tokens[..2] {
        board.thaw(*event, 4, |_| true);
    }
    assert_eq!(board.take_outlasting(5, 9), tokens.map(|(_, token)| token));
}

/// Those behind it would be moved again and again, and nothing become free by that.
#[test]
fn a_parked_event_that_cannot_be_moved_is_not_tried_again_while_it_is_the_first() {
    let parking = Source {
        topic: TopicId(2),
        partition: PartitionId(0),
    };
    let new = || SourceState::new(Offset(0));
    let lot = Parking {
        source: 1,
        end: Offset(0),
    };
    let sources = vec![(SOURCE, new()), (parking, new())];
    let mut board = Board::new(sources, lot, 7, RULES, 0, 0);
    board.scanned(0, Offset(9), (0..9).map(|at| arrived(at, "")), 0);
    for at in 0..9 {
        let (event, token) = leased(&mut board, MEMBER, 0);
        board.freeze(token, 0).unwrap();
        let due_ms = [1000, 2000].get(at as usize).copied().unwrap_or(100);
        board.parked(event, Offset(at), Some(&failed(1, due_ms)), 0);
    }
    board.wake_delayed(100);
    while board.has_ready() {
        let (event, token) = leased(&mut board, MEMBER, 100);
        board.freeze(token, 100).unwrap();
        board.settled(event, 100);
    }
    assert_eq!(board.stragglers(9, 2), [id(0), id(1)]);
    assert!(board.begin_move(id(0)));
    board.not_moved(id(0), 100);
    assert_eq!(board.stragglers(9, 2), []);
    board.wake_delayed(1000);
    let (event, token) = leased(&mut board, MEMBER, 1000);
    assert_eq!(event, id(0));
    board.freeze(token, 1000).unwrap();
    board.settled(event, 1000);
    assert_eq!(board.stragglers(9, 2), [id(1)]);
}
