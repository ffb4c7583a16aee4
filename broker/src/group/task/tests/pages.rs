//! How pages are taken in.

use super::*;

#[tokio::test]
async fn a_page_is_on_its_way_until_all_of_it_is_taken_in() {
    let mut standing = Standing::new(Ordering::Key, "").await;
    standing.page_comes(0);
    for part in 1..=2 {
        let task = &mut standing.task;
        assert!(task.take_arriving(), "there is more");
        assert_eq!(task.board.ready(), part * EVENTS_AT_ONCE);
        let next = Offset((part * EVENTS_AT_ONCE) as u64);
        assert_eq!(task.board.scan_next(0), next);
        assert!(!task.wants_page(0), "nothing is read twice");
    }
    let task = &mut standing.task;
    assert!(!task.take_arriving());
    assert_eq!(task.board.ready(), EVENTS);
    assert_eq!(task.board.scan_next(0), Offset(EVENTS as u64));
    assert_eq!((task.scanning[0], task.pages_beside), (false, 0));
    assert!(!task.take_arriving(), "nothing is left");
    standing.end().await;
}

#[tokio::test]
async fn while_a_page_is_on_its_way_others_are_read_if_little_is_ready() {
    let mut standing = Standing::new(Ordering::Key, "").await;
    let (_, _inbox) = standing.member(1 << 20);
    standing.page_comes(0);
    let task = &mut standing.task;
    while task.board.ready() < READY_LOW {
        assert!(task.wants_page(1), "{} are ready", task.board.ready());
        assert!(task.take_arriving());
    }
    assert!(!task.wants_page(1), "those are enough meanwhile");
    assert!(!task.take_arriving());
    assert!(task.wants_page(1), "the member takes more than there are");
    standing.end().await;
}

#[tokio::test]
async fn without_an_order_a_page_is_taken_in_as_a_whole() {
    let mut standing = Standing::new(Ordering::None, "").await;
    standing.page_comes(0);
    assert!(!standing.task.take_arriving());
    assert_eq!(standing.task.board.ready(), EVENTS);
    standing.end().await;
}

#[tokio::test]
async fn of_several_pages_only_the_last_is_taken_in_by_parts() {
    let mut standing = Standing::new(Ordering::Key, "").await;
    standing.page_comes(0);
    standing.page_comes(1);
    let task = &mut standing.task;
    assert!(task.take_arriving());
    assert_eq!(task.board.ready(), EVENTS + EVENTS_AT_ONCE);
    assert_eq!(task.pages_beside, 1);
    standing.end().await;
}

#[tokio::test]
async fn a_page_that_came_before_another_filter_is_taken_in_whole() {
    let mut standing = Standing::new(Ordering::Key, r#"event.type != "odd""#).await;
    standing.page_comes(0);
    let task = &mut standing.task;
    assert!(task.take_arriving());
    assert_eq!(task.board.ready(), EVENTS_AT_ONCE, "those that match");
    let filtered = task.tallies[0].filtered;
    assert_eq!(filtered, EVENTS as u64 / 2, "they are counted");

    let other = Filter::of_definition(r#"event.type != "even""#, "").unwrap();
    task.take_over(standing.state.clone(), Some(other), false);
    assert_eq!(task.board.ready(), EVENTS / 2);
    assert_eq!(task.board.scan_next(0), Offset(EVENTS as u64));
    assert_eq!((task.scanning[0], task.pages_beside), (false, 0));
    assert!(!task.take_arriving());
    standing.end().await;
}
