//! Leases from before a restart of the broker.

use super::*;

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

/// Nor does it come to a second worker while the other one is at work.
#[test]
fn of_two_leases_of_a_line_before_a_restart_the_later_one_waits_when_it_ends() {
    let mut state = SourceState::new(Offset(0));
    state.leases = [0, 1].map(|at| (Offset(at), noted(at, "k"))).into();
    let token = |counter| LeaseToken { epoch: 6, counter };
    let board = || {
        let mut board = board_of(state.clone());
        board.scanned(0, Offset(2), vec![arrived(0, "k"), arrived(1, "k")], 0);
        assert!(board.present(token(0), MemberId(4), 10));
        board
    };
    let mut handed_back = board();
    assert!(handed_back.present(token(1), MemberId(5), 10));
    handed_back.hand_back(token(1));
    let mut failed_at_once = board();
    failed_at_once.vanish(&[token(1)]);
    failed_at_once.failed(id(1), failed(1, 10), 10);
    let mut failed_for_a_while = board();
    failed_for_a_while.vanish(&[token(1)]);
    failed_for_a_while.failed(id(1), failed(1, 50), 10);
    failed_for_a_while.wake_delayed(50);
    for mut of in [handed_back, failed_at_once, failed_for_a_while] {
        assert_eq!((of.ready(), of.suspects()), (0, 0), "its key is at work");
        of.freeze(token(0), 20).unwrap();
        of.settled(id(0), 60);
        assert_eq!(next_ready(&of), Some(id(1)));
    }
}

/// Of one from before a restart too, which has been taken up at 40.
#[test]
fn a_limit_counts_from_when_a_lease_is_taken_up_whatever_is_refused_meanwhile() {
    const LIMIT_MS: u64 = 100;
    let rules = BoardRules {
        processing_limit_ms: LIMIT_MS,
        ..RULES
    };
    let mut state = SourceState::new(Offset(0));
    state.leases.insert(Offset(0), noted(0, ""));
    let held = || Board::new(vec![(SOURCE, state.clone())], NO_PARKING, 7, rules, 10, 0);
    let token = LeaseToken {
        epoch: 6,
        counter: 0,
    };
    assert_eq!(held().pop_overdue(10 + LIMIT_MS), Some(token));
    for refused in [false, true] {
        let mut board = held();
        assert!(board.present(token, MemberId(1), 40));
        if refused {
            board.freeze(token, 50).unwrap();
            board.thaw(id(0), 60, |_| true);
        }
        assert_eq!(board.pop_overdue(40 + LIMIT_MS - 1), None);
        assert_eq!(board.pop_overdue(40 + LIMIT_MS), Some(token));
    }
}
