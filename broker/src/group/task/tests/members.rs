//! Members, and what is noted of them.

use super::*;

#[tokio::test]
async fn a_lease_of_a_silent_member_ends_also_after_a_commit_that_was_refused() {
    let mut standing = Standing::new(Ordering::None, "").await;
    standing.events_come();
    let (member, _inbox) = standing.member(1 << 20);
    let (id, token) = standing.lease(Holder::Member(member));
    let task = &mut standing.task;
    let (reply, frozen) = oneshot::channel();
    let tokens = vec![token];
    task.handle(Command::Freeze { tokens, reply });
    assert!(frozen.await.unwrap().is_ok());
    assert_eq!(task.members.pop_silent(u64::MAX), Some(member));
    let (events, thaw) = (vec![id], Thaw::Unchanged);
    task.handle(Command::Thaw { events, thaw });
    let due = task.board.next_due();
    assert!(due.is_some(), "nothing else would end it");
    let heartbeat = |task: &mut GroupTask| {
        let (reply, _) = oneshot::channel();
        let grant = None;
        task.handle(Command::Heartbeat {
            member,
            grant,
            reply,
        });
    };
    heartbeat(task);
    assert_eq!(task.board.next_due(), None, "its member keeps it again");

    assert_eq!(task.members.pop_silent(u64::MAX), Some(member));
    // Nor would anything else forget the member.
    task.handle(Command::Disconnected { member });
    assert!(task.members.next_due().is_some());
    standing.end().await;
}

#[tokio::test]
async fn nobody_is_made_idle_for_a_suspect_that_fits_none_of_its_messages() {
    let mut standing = Standing::new(Ordering::None, "").await;
    standing.events_come();
    let (_, token) = standing.lease(Holder::Unary("gone".into()));
    let task = &mut standing.task;
    let vanished = task.board.vanish(&[token]);
    let failed = AttemptFailed {
        suspect: true,
        attempt: 1,
        ..AttemptFailed::default()
    };
    task.board.failed(vanished[0].id, failed, 0);
    assert_eq!(task.board.suspects(), 1);
    let (small, _inbox) = standing.member(65);
    standing.lease(Holder::Member(small));
    let late = standing.task.clock.now_ms() + 1_000_000;
    let emptied = |standing: &mut Standing| {
        standing.task.solo.tick(1, 0);
        standing.task.empty_for_suspects(late);
        standing.task.solo.emptying()
    };
    assert_eq!(emptied(&mut standing), None, "it goes on with the others");
    let (large, _inbox) = standing.member(1 << 20);
    let (_, lease) = standing.lease(Holder::Member(large));
    assert_eq!(emptied(&mut standing), Some(large));
    // It is idle now, and has no credit.
    standing.task.board.freeze(lease, late).unwrap();
    let id = standing.task.board.leased(lease).map(|(id, _)| id);
    assert!(id.is_err());
    standing.task.board.settled(
        EventId {
            source: 0,
            offset: Offset(2),
        },
        late,
    );
    assert_eq!(
        emptied(&mut standing),
        None,
        "it keeps the suspect from nobody"
    );
    standing.end().await;
}

/// One suspect at a time is out beside others, and work on it may take long.
#[tokio::test]
async fn nobody_is_kept_idle_for_a_suspect_while_another_is_out_beside_others() {
    let mut standing = Standing::new(Ordering::None, "").await;
    standing.events_come();
    for _ in 0..2 {
        let (id, token) = standing.lease(Holder::Unary("gone".into()));
        let board = &mut standing.task.board;
        board.vanish(&[token]);
        let failed = AttemptFailed {
            suspect: true,
            attempt: 1,
            ..AttemptFailed::default()
        };
        board.failed(id, failed, 0);
    }
    let late = standing.task.clock.now_ms() + 1_000_000;
    let emptied = |standing: &mut Standing| {
        standing.task.solo.tick(1, 0);
        standing.task.empty_for_suspects(late);
        standing.task.solo.emptying()
    };
    let (one, _inbox) = standing.member(1 << 20);
    let (other, _inbox) = standing.member(1 << 20);
    standing.grant(one, 10);
    let (id, token) = standing.lease(Holder::Member(one));
    assert_eq!(emptied(&mut standing), Some(one));
    let board = &mut standing.task.board;
    let given = board.lease_suspect(Holder::Member(other), 0).unwrap();
    assert_eq!(emptied(&mut standing), Some(one), "it is not idle yet");
    let board = &mut standing.task.board;
    board.freeze(token, late).unwrap();
    board.settled(id, late);
    assert_eq!(emptied(&mut standing), None, "it has other work meanwhile");
    standing.lease(Holder::Member(one));
    assert_eq!(emptied(&mut standing), None, "nor is it made idle again");

    let board = &mut standing.task.board;
    board.freeze(given.token, late).unwrap();
    board.settled(given.id, late);
    assert_eq!(emptied(&mut standing), Some(one), "it is the other's turn");
    standing.end().await;
}

#[tokio::test]
async fn suspects_wait_as_long_as_the_group_says_now() {
    let mut standing = Standing::new(Ordering::None, "").await;
    let before = standing.task.config().clone();
    let after = GroupConfig {
        solo_wait_ms: 123,
        ..before.clone()
    };
    let changed = standing.change(GroupChange {
        config: Some((before, after)),
        ..GroupChange::default()
    });
    standing.answer(changed).await.unwrap();
    standing.task.solo.tick(1, 0);
    assert_eq!(standing.task.solo.next_due(0), Some(123));
    standing.end().await;
}

#[tokio::test]
async fn notes_of_leases_with_long_keys_go_in_several_frames() {
    let mut standing = Standing::new(Ordering::Key, "").await;
    let note = LeaseNoted {
        key: vec![b'k'; 600 << 10].into(),
        ..LeaseNoted::default()
    };
    standing.task.commit_notes(vec![note; 5]);
    assert_eq!(standing.task.jobs.len(), 3);
    standing.end().await;
}

/// Their members cannot be heard of any more, and go on after its start.
#[tokio::test]
async fn no_lease_runs_out_while_the_broker_stops() {
    let mut standing = Standing::of(GroupConfig {
        max_in_flight: 10_000,
        lease_ms: 100,
        ..GroupConfig::default()
    })
    .await;
    standing.events_come();
    standing.lease(Holder::Unary("w".into()));
    let task = &mut standing.task;
    task.stopping.store(true, atomic::Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(150)).await;
    task.let_time_pass();
    assert!(task.losses.is_empty() && task.board.in_flight() == 1);
    assert_eq!(task.next_due_ms(), None, "nothing is to be waited for");
    task.stopping.store(false, atomic::Ordering::SeqCst);
    task.let_time_pass();
    assert_eq!(task.losses.len(), 1);
    standing.end().await;
}

#[tokio::test]
async fn what_somebody_works_on_is_noted_when_the_broker_stops_and_nothing_else() {
    let mut standing = Standing::new(Ordering::None, "").await;
    standing.events_come();
    let holder = || Holder::Unary("w".into());
    let (_, works) = standing.lease(holder());
    let (_, unsent) = standing.lease(holder());
    let (acked, done) = standing.lease(holder());
    let tokens = vec![unsent];
    let hand_back = Command::HandBack { tokens };
    standing.commands.try_send(hand_back).unwrap();
    let (reply, answer) = oneshot::channel();
    let task = &mut standing.task;
    task.handle(Command::Settle {
        member: None,
        settlements: vec![Settlement {
            token: done,
            action: SettlementAction::Ack,
        }],
        reply,
    });
    task.propose_acks();
    task.stopping.store(true, atomic::Ordering::SeqCst);
    task.note_the_last().await;
    assert_eq!(answer.await.unwrap().len(), 0, "the ack is answered");
    assert!(task.board.window(0).is_settled(acked.offset));
    assert!(task.board.leased(unsent).is_err(), "it was handed back");
    let (_, lease) = task.board.leased(works).unwrap();
    assert!(lease.noted && task.quiet == 0, "its note is in the log");
    standing.end().await;
}
