//! A group's task, by the turns of its hand.

#![allow(clippy::unwrap_used)]

use prost::Message;
use sluice_proto::{GroupName, Offset, PartitionId, TopicName, pb};
use tokio::sync::oneshot;

use super::{take_in::EVENTS_AT_ONCE, *};
use crate::{
    commit::{
        AppendRequest, CatalogChange, CatalogChanged, GroupChange, GroupState, NewGroup, Opened,
        TopicConfig, open,
        record::{GroupPosition, NewEvent, NewEvents, Source},
        testing::small_config,
    },
    config::Config,
    filter::Filter,
    flow::Flow,
    group::{ChangeRequest, Groups, Settlement, SettlementAction, buffered::Buffers},
    wall_clock::AgeClock,
};

const PARTITIONS: u32 = 2;
/// Of each partition.
const EVENTS: usize = 2 * EVENTS_AT_ONCE + 100;

/// A group whose topic has events, with a task that nobody runs.
struct Standing {
    task: GroupTask,
    /// As it was made.
    state: GroupState,
    opened: Opened,
    _folder: tempfile::TempDir,
}

impl Standing {
    async fn new(ordering: Ordering, filter: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let opened = open(folder.path(), small_config()).unwrap();
        let proposals = &opened.proposals;
        let topic = TopicName::new("t").unwrap();
        let made = proposals.change_catalog(CatalogChange::CreateTopic {
            name: topic.clone(),
            config: Some(TopicConfig {
                partitions: PARTITIONS,
                ..TopicConfig::default()
            }),
            retention: None,
        });
        made.await.unwrap();
        let group = NewGroup {
            topic: topic.clone(),
            name: GroupName::new("g").unwrap(),
            config: GroupConfig {
                ordering: ordering.into(),
                filter: filter.into(),
                max_in_flight: 10_000,
                ..GroupConfig::default()
            },
            or_as_it_is: false,
            start: vec![0; PARTITIONS as usize],
        };
        let made = proposals.change_catalog(CatalogChange::CreateGroup(Box::new(group)));
        let CatalogChanged::GroupCreated(state) = made.await.unwrap() else {
            panic!("another group was there");
        };
        let events = |partition| {
            let all = (0..EVENTS).map(|number| NewEvent {
                event: event(partition, number).encode_to_vec().into(),
                note: bytes::Bytes::new(),
            });
            AppendRequest {
                target: Source {
                    topic: proposals.catalog().topic(&topic).unwrap().id,
                    partition: PartitionId(partition),
                },
                events: all.collect::<NewEvents>(),
            }
        };
        let changes = Changes {
            appends: (0..PARTITIONS).map(events).collect(),
            ..Changes::default()
        };
        proposals.commit(changes).await.unwrap();

        let config = Config::local(folder.path());
        let groups = Groups::new(
            proposals.clone(),
            opened.store.clone(),
            config.group(),
            1,
            Flow::new(AgeClock::start(0)),
        );
        let group = proposals.catalog().groups().next().unwrap().clone();
        let (_, commands) = mpsc::channel(1);
        let task = groups.make_task(group, (*state).clone(), commands, Arc::default());
        assert_eq!(task.disabled, None, "its filter compiles");
        Self {
            task,
            state: *state,
            opened,
            _folder: folder,
        }
    }

    /// The next page of a source comes as if another thread had read it.
    fn page_comes(&mut self, source: usize) {
        let task = &mut self.task;
        let from = task.board.scan_next(source);
        let page = task.scanner.scan(&task.feeds[source], from).unwrap();
        task.scanning[source] = true;
        task.pages_beside += 1;
        task.page_came(source, page);
    }

    async fn end(self) {
        drop(self.task);
        self.opened.proposals.close().await;
        self.opened.running.join();
    }
}

/// Every event has a key of its own.
fn event(partition: u32, number: usize) -> pb::Event {
    let key = ("partitionkey".to_owned(), format!("{partition} {number}"));
    pb::Event {
        id: number.to_string(),
        source: "/test".into(),
        r#type: if number.is_multiple_of(2) {
            "even"
        } else {
            "odd"
        }
        .into(),
        attributes: [key].into(),
        ..pb::Event::default()
    }
}

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
    let task = &mut standing.task;
    let (outgoing, _inbox) = mpsc::channel(1);
    let buffer = Buffers::new(task.limits.buffer).stream();
    task.members
        .add("w".into(), 1 << 20, outgoing, buffer, u64::MAX);
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
    standing.page_comes(0);
    let task = &mut standing.task;
    while task.take_arriving() {}
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

    let back = GroupPosition {
        partition: 0,
        offset: 0,
    };
    let request = ChangeRequest {
        change: GroupChange {
            positions: vec![back],
            ..GroupChange::default()
        },
        filter: None,
    };
    let (reply, mut moved) = oneshot::channel();
    task.handle(Command::Change {
        request: Box::new(request),
        reply,
    });
    assert_eq!(task.jobs.len(), 1, "the seek waits");
    let moved = loop {
        if let Ok(moved) = moved.try_recv() {
            break moved.unwrap();
        }
        let done = task.jobs.next().await.unwrap();
        done(task);
        task.go_on_changing();
    };
    assert!(acked.await.unwrap().is_empty(), "the ack is durable");
    assert_eq!(moved.moves[0].replayed, 1, "what was acked comes again");
    assert!(!task.board.window(0).is_settled(Offset(0)));
    standing.end().await;
}
