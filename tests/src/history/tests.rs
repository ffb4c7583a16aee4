#![allow(clippy::unwrap_used)] // A failed step is a failed test.

use super::*;

fn at(offset: i64) -> Place {
    Place {
        topic: "t".to_owned(),
        partition: 0,
        offset,
    }
}

fn delivery(offset: i64, lease: Lease) -> Delivered {
    Delivered {
        group: "g".to_owned(),
        id: format!("e{offset}"),
        key: None,
        place: at(offset),
        lease,
    }
}

/// Five acked events, one without an answer that is there (e5), one that is
/// not (e6), one refused (e7); all that is there was delivered, and the
/// first two were settled.
fn good() -> History {
    let mut history = History::new();
    for number in 0..8 {
        history.publish_invoked(&format!("e{number}"));
    }
    let placed = |offset| (format!("e{offset}"), at(offset));
    history.batch_acked("p", 1, vec![placed(0), placed(1)]);
    history.batch_acked("p", 2, vec![placed(3), placed(4)]);
    history.batch_acked("q", 1, vec![placed(2)]);
    history.polled("r", vec![placed(0), placed(1), placed(2)]);
    history.polled("r", vec![placed(3), placed(4)]);
    history.polled("r", vec![placed(5)]);
    history.publish_refused("e7");
    for offset in 0..6 {
        history.delivered(delivery(offset, (1, offset)));
        if offset < 2 {
            history.settled("g", &format!("e{offset}"), (1, offset));
        }
    }
    history.delivered(delivery(4, (2, 1)));
    for offset in 0..6 {
        history.read(&format!("e{offset}"), at(offset));
    }
    history
}

fn id(number: u32) -> String {
    format!("e{number}")
}

/// The good history with something done to it, and what is found then.
fn spoilt(spoil: impl FnOnce(&mut History)) -> Vec<Anomaly> {
    let mut history = good();
    spoil(&mut history);
    history.anomalies()
}

#[test]
fn nothing_is_found_in_a_good_history() {
    assert_eq!(good().anomalies(), []);
    assert_eq!(good().undelivered("g", "t"), []);
    assert_eq!(good().unread("r", "t", 0), []);
    assert_eq!(good().polled_count(), 6);
    assert_eq!(good().counts(), (5, 2, 7));
}

#[test]
fn an_acked_event_that_is_gone_is_lost() {
    let found = spoilt(|history| {
        history.publish_invoked("e8");
        history.publish_acked("e8", at(6));
    });
    assert_eq!(
        found,
        [Anomaly::Lost {
            id: id(8),
            place: at(6)
        }]
    );
}

#[test]
fn an_event_that_takes_the_place_of_an_acked_one_is_found() {
    let found = spoilt(|history| history.read[4].0 = "e6".to_owned());
    assert!(found.contains(&Anomaly::Lost {
        id: id(4),
        place: at(4)
    }));
    assert!(found.contains(&Anomaly::Phantom {
        id: id(4),
        place: at(4)
    }));
    assert!(found.contains(&Anomaly::Inconsistent {
        place: at(4),
        ids: vec![id(4), id(6)]
    }));
}

#[test]
fn an_acked_event_at_another_place_has_moved() {
    let found = spoilt(|history| history.publish_acked("e5", at(6)));
    assert_eq!(
        found,
        [Anomaly::Moved {
            id: id(5),
            acked: at(6),
            found: at(5)
        }]
    );
}

#[test]
fn an_event_that_is_there_twice_is_found_acked_or_not() {
    for number in [4, 5] {
        let found = spoilt(|history| history.read(&id(number), at(6)));
        assert_eq!(
            found,
            [Anomaly::Duplicated {
                id: id(number),
                places: vec![at(i64::from(number)), at(6)]
            }]
        );
    }
}

#[test]
fn a_refused_event_that_is_there_is_found() {
    let found = spoilt(|history| history.read("e7", at(6)));
    assert_eq!(
        found,
        [Anomaly::RefusedButThere {
            id: id(7),
            place: at(6)
        }]
    );
}

#[test]
fn an_event_that_nobody_published_is_found() {
    let found = spoilt(|history| history.read("x", at(6)));
    assert_eq!(
        found,
        [Anomaly::Invented {
            id: "x".to_owned(),
            place: at(6)
        }]
    );
}

#[test]
fn a_delivered_event_that_is_gone_is_a_phantom() {
    let found = spoilt(|history| history.delivered(delivery(6, (2, 2))));
    assert_eq!(
        found,
        [Anomaly::Phantom {
            id: id(6),
            place: at(6)
        }]
    );
}

#[test]
fn a_place_with_two_events_is_found() {
    let found = spoilt(|history| {
        let elsewhere = Delivered {
            place: at(3),
            ..delivery(4, (2, 2))
        };
        history.delivered(elsewhere);
    });
    assert_eq!(
        found,
        [Anomaly::Inconsistent {
            place: at(3),
            ids: vec![id(3), id(4)]
        }]
    );
}

#[test]
fn offsets_that_leave_something_out_are_found() {
    let found = spoilt(|history| {
        history.publish_invoked("e8");
        history.read("e8", at(7));
    });
    assert_eq!(
        found,
        [Anomaly::Gap {
            expected: 6,
            found: at(7)
        }]
    );
    let found = spoilt(|history| history.read.swap(1, 2));
    assert!(
        found
            .iter()
            .all(|found| matches!(found, Anomaly::Gap { .. }))
    );
    assert!(!found.is_empty());
}

#[test]
fn a_delivery_after_a_durable_ack_is_found() {
    let found = spoilt(|history| history.delivered(delivery(1, (2, 2))));
    assert_eq!(
        found,
        [Anomaly::Redelivered {
            group: "g".to_owned(),
            id: id(1)
        }]
    );
}

#[test]
fn a_delivery_from_before_the_ack_may_be_noted_late_or_go_to_another_group() {
    assert_eq!(spoilt(|history| history.delivered(delivery(1, (1, 0)))), []);
    let other = Delivered {
        group: "h".to_owned(),
        ..delivery(1, (2, 2))
    };
    assert_eq!(spoilt(|history| history.delivered(other)), []);
}

fn keyed(offset: i64, lease: Lease) -> Delivered {
    Delivered {
        key: Some("k".to_owned()),
        ..delivery(offset, lease)
    }
}

#[test]
fn an_event_that_comes_after_a_later_one_of_its_key_is_found() {
    let mut history = good();
    // Noted in another order than the leases', which does not count.
    history.delivered(keyed(3, (3, 4)));
    history.delivered(keyed(2, (3, 1)));
    history.delivered(keyed(2, (3, 2)));
    assert_eq!(history.anomalies(), []);
    history.delivered(keyed(2, (3, 5)));
    assert_eq!(
        history.anomalies(),
        [Anomaly::OutOfOrder {
            group: "g".to_owned(),
            key: "k".to_owned(),
            id: id(2),
            place: at(2)
        }]
    );
}

#[test]
fn a_crash_loses_the_last_acks_of_a_key_and_no_others() {
    // Deliveries of offset and lease, and which of them were settled durably.
    let names = |deliveries: &[(u32, Lease)], settled: &[(u32, Lease)]| -> Vec<_> {
        let mut history = History::new();
        for (offset, lease) in deliveries {
            history.publish_acked(&id(*offset), at((*offset).into()));
            history.delivered(keyed((*offset).into(), *lease));
        }
        for (offset, lease) in settled {
            history.settled("g", &id(*offset), *lease);
        }
        for offset in 0..=4_u32 {
            history.publish_acked(&id(offset), at(offset.into()));
            history.read(&id(offset), at(offset.into()));
        }
        history.anomalies().iter().map(Anomaly::name).collect()
    };
    let before = [(0, (3, 1)), (1, (3, 2)), (2, (3, 3))];
    let then = |more: &[(u32, Lease)]| [&before[..], more].concat();
    let replayed = then(&[(1, (4, 1)), (2, (4, 2)), (3, (4, 3))]);
    assert_eq!(names(&replayed, &[(0, (3, 1))]), [""; 0]);
    // A later ack was kept.
    let kept = [(0, (3, 1)), (2, (3, 3))];
    let once = then(&[(1, (4, 1)), (3, (4, 3))]);
    assert_eq!(names(&once, &kept), ["out-of-order"]);
    // Nothing crashed.
    let in_one_life = then(&[(1, (3, 4))]);
    assert_eq!(names(&in_one_life, &[]), ["out-of-order"]);
    // The key begins again, and then goes back.
    let back = then(&[(1, (4, 1)), (2, (4, 2)), (1, (4, 3))]);
    assert_eq!(names(&back, &[]), ["out-of-order"]);
    // It was passed over, and comes for the first time.
    let late = [(0, (3, 1)), (2, (3, 2)), (1, (4, 1))];
    assert_eq!(names(&late, &[]), ["out-of-order"]);
}

#[test]
fn an_event_that_was_never_delivered_is_found() {
    let mut history = good();
    history.publish_acked("e6", at(6));
    history.read("e6", at(6));
    assert_eq!(history.anomalies(), []);
    assert_eq!(
        history.undelivered("g", "t"),
        [Anomaly::Undelivered {
            group: "g".to_owned(),
            id: id(6),
            place: at(6)
        }]
    );
}

/// Names of what is found in the good history with something done to it.
fn names(spoil: impl FnOnce(&mut History)) -> Vec<&'static str> {
    spoilt(spoil).iter().map(Anomaly::name).collect()
}

#[test]
fn each_anomaly_of_jepsens_kafka_workload_is_found_by_its_name() {
    type Spoil = fn(&mut History);
    let placed = |offset| (format!("e{offset}"), at(offset));
    let page = |offsets: &[i64]| offsets.iter().copied().map(placed).collect::<Vec<_>>();
    let cases: [(&str, Spoil); 12] = [
        ("lost-write", |history| {
            history.publish_acked("e6", at(6));
        }),
        ("duplicate", |history| history.read("e5", at(6))),
        ("inconsistent-offsets", |history| {
            history.publish_acked("e6", at(5));
            history.read("e6", at(5));
        }),
        ("aborted-read", |history| history.read("e7", at(6))),
        ("aborted-read", |history| {
            history.polled("r", vec![("e7".to_owned(), at(6))]);
        }),
        ("phantom", |history| {
            history.polled("r", vec![("e6".to_owned(), at(6))]);
        }),
        ("int-nonmonotonic-send", |history| {
            let requests = history.sent.get_mut("p").unwrap();
            requests.get_mut(&2).unwrap().swap(0, 1);
        }),
        ("nonmonotonic-send", |history| {
            let requests = history.sent.get_mut("p").unwrap();
            let second = requests.remove(&2).unwrap();
            requests.insert(0, second);
        }),
        ("int-send-skip", |history| {
            let requests = history.sent.get_mut("p").unwrap();
            requests.get_mut(&2).unwrap()[1].offset = 5;
        }),
        ("int-nonmonotonic-poll", |history| {
            history.polls.get_mut("r").unwrap()[0].swap(1, 2);
        }),
        ("int-poll-skip", |history| {
            history.polls.get_mut("r").unwrap()[0].remove(1);
        }),
        ("poll-skip", |history| {
            history.polls.get_mut("r").unwrap().remove(1);
        }),
    ];
    for (name, spoil) in cases {
        let found = names(spoil);
        assert!(found.contains(&name), "{name}: {found:?}");
    }
    // A reader that goes back, and one that does not begin at the beginning.
    let found = names(|history| history.polled("r", page(&[4, 5])));
    assert_eq!(found, ["nonmonotonic-poll"]);
    let found = names(|history| history.polled("late", page(&[2, 3])));
    assert_eq!(found, ["poll-skip"]);
    // Others may publish between two requests.
    assert_eq!(names(|history| drop(history.sent.remove("q"))), [""; 0]);
}

#[test]
fn an_event_that_a_reader_or_a_group_never_got_is_unseen() {
    let mut history = good();
    history.polls.get_mut("r").unwrap().pop();
    let found = history.unread("r", "t", 0);
    assert_eq!(
        found,
        [Anomaly::Unseen {
            reader: "r".to_owned(),
            id: id(5),
            place: at(5)
        }]
    );
    assert_eq!(found[0].name(), "unseen");
    assert_eq!(history.unread("nobody", "t", 0).len(), 6);
    history.deliveries.retain(|delivered| delivered.id != "e5");
    let found = history.undelivered("g", "t");
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].name(), "unseen");
}
