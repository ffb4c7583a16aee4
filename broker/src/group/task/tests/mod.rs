//! A group's task, by the turns of its hand.

#![allow(clippy::unwrap_used)]

mod giving;
mod limits;
mod members;
mod moves;
mod pages;

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
        SettlementAction, buffered::Buffers, command::Thaw, credit::Grant,
    },
    wall_clock::AgeClock,
};

const PARTITIONS: u32 = 2;
/// Of each partition.
const EVENTS: usize = 2 * EVENTS_AT_ONCE + 100;

/// A group whose topic has events, with a task that nobody runs.
struct Standing {
    task: GroupTask,
    commands: mpsc::Sender<Command>,
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
        let (commands, asked) = mpsc::channel(4);
        let task = groups.make_task(group, (*state).clone(), asked, Arc::default());
        assert_eq!(task.disabled, None, "its filter compiles");
        Self {
            task,
            commands,
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

    fn grant(&mut self, member: MemberId, max_events: u64) {
        let (reply, _) = oneshot::channel();
        let max_bytes = None;
        let grant = Grant {
            max_events,
            max_bytes,
        };
        self.task.handle(Command::Grant {
            member,
            grant,
            reply,
        });
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

    /// Turns until there is nothing to do that others do not have to do first, and what
    /// was under way has ended.
    async fn come_to_rest(&mut self) {
        loop {
            while self.task.turn().more {}
            self.task.propose_acks();
            let Some(done) = self.task.jobs.next().await else {
                return;
            };
            done(&mut self.task);
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
