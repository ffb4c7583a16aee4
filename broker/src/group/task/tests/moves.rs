//! A position that moves.

use super::*;

#[tokio::test]
async fn what_is_left_of_a_page_when_the_position_moves_is_not_taken_in() {
    let mut standing = Standing::new(Ordering::Key, "").await;
    standing.page_comes(0);
    let task = &mut standing.task;
    assert!(task.take_arriving());
    task.take_over(standing.state.clone(), None, true);
    assert_eq!(task.board.scan_next(0), Offset(0));
    assert!(!task.take_arriving());
    assert_eq!((task.board.len(), task.board.scan_next(0)), (0, Offset(0)));
    assert_eq!((task.scanning[0], task.pages_beside), (false, 0));
    standing.end().await;
}

/// Also of a group that its filter has disabled: what is acked before a seek is settled
/// before it, not in what comes after it.
#[tokio::test]
async fn a_seek_waits_for_acks_on_their_way() {
    let mut standing = Standing::new(Ordering::Key, "").await;
    standing.events_come();
    let task = &mut standing.task;
    task.disabled = Some("its filter took too long".into());
    let given = task.board.lease(Holder::Unary("w".into()), 0).unwrap();
    assert_eq!(given.id.offset, Offset(0));
    let ack = Settlement {
        token: given.token,
        action: SettlementAction::Ack,
    };
    let (reply, acked) = oneshot::channel();
    task.handle(Command::Settle {
        member: None,
        settlements: vec![ack],
        reply,
    });
    task.propose_acks();
    assert_eq!(task.jobs.len(), 1);

    let moved = standing.change(back_to_the_start());
    assert_eq!(standing.task.jobs.len(), 1, "the seek waits");
    let moved = standing.answer(moved).await.unwrap();
    assert!(acked.await.unwrap().is_empty(), "the ack is durable");
    assert_eq!(moved.moves[0].replayed, 1, "what was acked comes again");
    assert!(!standing.task.board.window(0).is_settled(Offset(0)));
    standing.end().await;
}

fn back_to_the_start() -> GroupChange {
    let start = GroupPosition {
        partition: 0,
        offset: 0,
    };
    GroupChange {
        positions: vec![start],
        ..GroupChange::default()
    }
}

#[tokio::test]
async fn a_connection_lost_while_the_position_moves_is_no_failed_attempt() {
    let mut standing = Standing::of(GroupConfig {
        connection_loss_at_once: true,
        max_in_flight: 10_000,
        lease_ms: 60_000,
        ..GroupConfig::default()
    })
    .await;
    standing.events_come();
    let (member, _inbox) = standing.member(1 << 20);
    standing.lease(Holder::Member(member));
    let moved = standing.change(back_to_the_start());
    standing.task.handle(Command::Disconnected { member });
    assert!(standing.task.losses.is_empty());
    assert_eq!(standing.task.jobs.len(), 1, "nothing but the seek");
    let moved = standing.answer(moved).await.unwrap();
    assert_eq!((moved.leases, standing.task.board.in_flight()), (1, 0));
    assert!(standing.task.board.leases_of(member).is_empty());
    assert_eq!(standing.task.members.len(), 0, "nothing is left of it");

    // The same when the position does not move after all.
    standing.events_come();
    let (member, _inbox) = standing.member(1 << 20);
    standing.lease(Holder::Member(member));
    let stale = GroupConfig {
        lease_ms: 1,
        ..GroupConfig::default()
    };
    let refused = standing.change(GroupChange {
        config: Some((stale.clone(), stale)),
        ..back_to_the_start()
    });
    standing.task.handle(Command::Disconnected { member });
    assert!(standing.answer(refused).await.is_err());
    assert_eq!(standing.task.losses.len(), 1);
    assert_eq!(standing.task.members.len(), 0);
    standing.end().await;
}

/// It is judged again where the group goes on; a filter that does not compile is in the
/// way wherever that is.
#[tokio::test]
async fn a_group_that_its_filter_took_too_long_for_goes_on_behind_a_seek() {
    let mut standing = Standing::new(Ordering::None, "event.type == \"even\"").await;
    let why = Some("its filter took too long".to_owned());
    standing.task.disabled = why.clone();
    let moved = standing.change(back_to_the_start());
    standing.answer(moved).await.unwrap();
    assert_eq!(standing.task.disabled, None);

    standing.task.disabled = why.clone();
    standing.task.scanner.filter = None;
    let moved = standing.change(back_to_the_start());
    standing.answer(moved).await.unwrap();
    assert_eq!(standing.task.disabled, why);
    standing.end().await;
}
