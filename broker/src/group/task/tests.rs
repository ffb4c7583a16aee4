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
        record::{AttemptFailed, GroupPosition, LeaseNoted, NewEvent, NewEvents, Source},
        testing::small_config,
    },
    config::Config,
    filter::Filter,
    flow::Flow,
    group::{
        ChangeError, ChangeRequest, Groups, LeaseToken, MemberId, Moved, Outgoing, Settlement,
        SettlementAction, buffered::Buffers, command::Thaw,
    },
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
        let config = GroupConfig {
            ordering: ordering.into(),
            filter: filter.into(),
            max_in_flight: 10_000,
            lease_ms: 60_000,
            ..GroupConfig::default()
        };
        Self::of(config).await
    }

    async fn of(config: GroupConfig) -> Self {
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
            config,
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

    /// All of a page comes, and is taken in.
    fn events_come(&mut self) {
        self.page_comes(0);
        while self.task.take_arriving() {}
    }

    /// Somebody joins whose messages have so many bytes.
    fn member(&mut self, message_bytes_max: usize) -> (MemberId, mpsc::Receiver<Outgoing>) {
        let (outgoing, inbox) = mpsc::channel(4);
        let task = &mut self.task;
        let buffer = Buffers::new(task.limits.buffer).stream();
        let deadline = task.clock.now_ms() + 60_000;
        let members = &mut task.members;
        let id = members.add("w".into(), message_bytes_max, outgoing, buffer, deadline);
        (id, inbox)
    }

    fn lease(&mut self, holder: Holder) -> (EventId, LeaseToken) {
        let now = self.task.clock.now_ms();
        let given = self.task.board.lease(holder, now).unwrap();
        (given.id, given.token)
    }

    /// A change of the group is asked for.
    fn change(&mut self, change: GroupChange) -> oneshot::Receiver<Result<Moved, ChangeError>> {
        let filter = None;
        let (reply, changed) = oneshot::channel();
        self.task.handle(Command::Change {
            request: Box::new(ChangeRequest { change, filter }),
            reply,
        });
        changed
    }

    /// Lets what is under way end until the answer is there.
    async fn answer<T>(&mut self, mut answer: oneshot::Receiver<T>) -> T {
        loop {
            if let Ok(answer) = answer.try_recv() {
                return answer;
            }
            let done = self.task.jobs.next().await.unwrap();
            done(&mut self.task);
            self.task.go_on_changing();
        }
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
