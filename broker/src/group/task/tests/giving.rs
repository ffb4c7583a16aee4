//! What is ready, and who takes it.

use super::*;
use crate::group::members::DELIVERY_OVERHEAD;

/// Bytes of the `number`th event of the first partition.
fn size(number: usize) -> usize {
    event(0, number).encoded_len()
}

/// Also when all others were looked at in vain before.
#[tokio::test]
async fn what_becomes_ready_behind_many_that_fit_nobody_is_given() {
    let mut standing = Standing::new(Ordering::None, "").await;
    standing.events_come();
    standing.page_comes(1);
    while standing.task.take_arriving() {}
    // Only the first ten of each partition are as small as that.
    let small = size(0);
    assert!((10..EVENTS).all(|number| size(number) > small));
    standing.come_to_rest().await;
    let mut leases = Vec::new();
    for _ in 0..standing.task.board.ready() {
        let next = standing.task.board.next_ready().unwrap();
        match standing.task.size(next.id) <= small {
            true => leases.push(standing.lease(Holder::Unary("w".into()))),
            false => standing.task.board.rotate_ready(),
        }
    }
    assert_eq!(leases.len(), 10 * PARTITIONS as usize);
    let (first, token) = leases[0];
    let (member, mut inbox) = standing.member(small + DELIVERY_OVERHEAD);
    standing.grant(member, 10);
    standing.come_to_rest().await;
    assert!(standing.task.board.ready() > 256);
    assert!(inbox.try_recv().is_err(), "none of them fits");

    // A job, or time, makes it ready: no command wakes the group.
    let now = standing.task.clock.now_ms();
    let board = &mut standing.task.board;
    assert_eq!(board.overdue(token).map(|(id, _)| id), Some(first));
    let failed = AttemptFailed {
        attempt: 1,
        ..AttemptFailed::default()
    };
    board.failed(first, failed, now);
    standing.come_to_rest().await;
    let Ok(Outgoing::Deliveries(message)) = inbox.try_recv() else {
        panic!("it fits and is not given");
    };
    assert_eq!(message.tokens().len(), 1);
    standing.end().await;
}

/// However often it is looked at what is ready while it is being read.
#[tokio::test]
async fn no_more_is_read_again_at_once_than_there_is_room_for() {
    let mut standing = Standing::new(Ordering::None, "").await;
    let room = 10 * size(999);
    standing.task.payloads = Payloads::new(room);
    standing.events_come();
    let (member, _inbox) = standing.member(1 << 20);
    standing.grant(member, 1);
    let task = &mut standing.task;
    for _ in 0..20 {
        for _ in 0..64 {
            task.board.rotate_ready();
        }
        task.fetch_missing();
    }
    let read: usize = task.fetching.iter().map(|id| task.size(*id)).sum();
    assert!(read > 0 && read <= room, "{read} of {room} bytes");
    while let Some(done) = task.jobs.next().await {
        done(task);
    }
    assert_eq!(task.fetching_bytes, 0);
    standing.end().await;
}
