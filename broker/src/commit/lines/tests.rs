use std::future::poll_fn;

use futures_executor::block_on;
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use proptest::prelude::*;
use sluice_proto::{GroupId, GroupName, Offset, PartitionId, TopicId, TopicName};

use super::*;
use crate::{
    commit::{
        CatalogChange, CatalogChanged, CommitConfig, NewGroup, TopicConfig, open,
        proposal::AppendRequest,
        record::{GroupConfig, NewEvent, NewEvents, Settle, Source},
    },
    config::Config,
};

const SOURCE: Source = Source {
    topic: TopicId(1),
    partition: PartitionId(0),
};

/// Changes of a line, which carry so many bytes of events, and a number.
fn changes(line: Line, bytes: usize, number: u64) -> Changes {
    let append = AppendRequest {
        target: SOURCE,
        events: NewEvents::from_iter([NewEvent {
            event: vec![0; bytes].into(),
            note: Vec::new().into(),
        }]),
    };
    let settle = Settle {
        group: GroupId(number),
        source: SOURCE,
        runs: vec![(Offset(number), 1)],
    };
    let appends = (line != Line::Settlements).then_some(append);
    let settles = (line != Line::Intake).then_some(settle);
    Changes {
        appends: appends.into_iter().collect(),
        settles: settles.into_iter().collect(),
        ..Changes::default()
    }
}

/// Not within a task, as the sequencer is none.
fn put(lines: &Lines, changes: Changes) {
    let line = Line::of(&changes);
    let bytes = changes.frame_bytes();
    let room = block_on(lines.room(line, bytes)).expect("it is open");
    let (reply, _) = oneshot::channel();
    let proposal = Proposal::Changes {
        changes,
        reply,
        room,
    };
    block_on(lines.put(line, proposal)).expect("it is open");
}

/// Waits for the next one.
fn wait(waiting: &mut Waiting) -> Option<Proposal> {
    block_on(poll_fn(|context| waiting.poll_take(context.waker())))
}

#[test]
fn settlements_are_first_and_work_goes_beside_what_is_published() {
    let (lines, mut waiting) = lines(64 << 20, 800);
    for number in 0..20 {
        put(&lines, changes(Line::Intake, 100_000, number));
    }
    for number in 0..40 {
        put(&lines, changes(Line::Work, 10_000, number));
    }
    let first = waiting.take().expect("something waits");
    put(&lines, changes(Line::Settlements, 0, 0));
    // What did not fit the block before it goes after settlements.
    waiting.hold(first);
    let order: Vec<_> = std::iter::from_fn(|| waiting.take().map(|p| p.line())).collect();
    assert_eq!(order.len(), 61);
    assert_eq!(order[0], Line::Settlements);
    // For each that is published ten of the others, which are a tenth as large.
    let published = order.iter().rposition(|line| *line == Line::Work);
    let before = &order[..published.expect("there is work")];
    let beside = before.iter().filter(|line| **line == Line::Intake).count();
    assert!((3..=5).contains(&beside), "{order:?}");
}

#[test]
fn there_is_room_for_settlements_when_nothing_else_has_any() {
    let (lines, _waiting) = lines(1 << 20, 80);
    for line in [Line::Intake, Line::Work] {
        let bytes = lines.entrance(line).bytes_max;
        std::mem::forget(block_on(lines.room(line, bytes)));
    }
    put(&lines, changes(Line::Settlements, 0, 0));
}

#[test]
fn what_was_in_line_comes_before_the_end_and_nothing_after() {
    let (lines, mut waiting) = lines(1 << 20, 80);
    put(&lines, changes(Line::Intake, 10, 0));
    let (reply, _closed) = oneshot::channel();
    let close = Proposal::Close { reply };
    block_on(lines.put(Line::Intake, close)).expect("it is open");
    put(&lines, changes(Line::Intake, 10, 1));
    put(&lines, changes(Line::Work, 10, 0));
    put(&lines, changes(Line::Settlements, 0, 0));
    let order: Vec<_> = std::iter::from_fn(|| {
        let proposal = wait(&mut waiting).expect("the end is one, too");
        let line = proposal.line();
        (!matches!(proposal, Proposal::Close { .. })).then_some(line)
    })
    .collect();
    assert_eq!(order, [Line::Settlements, Line::Work, Line::Intake]);
    assert_eq!(waiting.rest().count(), 1);
    drop(lines);
    assert!(wait(&mut waiting).is_none());
}

proptest! {
    /// Each line keeps its order, and nothing is lost, whatever does not fit its
    /// block; and whoever has to do with work that waits is served: of two lines
    /// that wait neither has more than the other and its largest proposal.
    #[test]
    fn lines_keep_their_order_and_share_by_bytes(
        puts in proptest::collection::vec((0_u8..3, 1_usize..20_000, any::<bool>()), 1..120),
    ) {
        let (lines, mut waiting) = lines(64 << 20, 4000);
        let mut left = [0; 3];
        for (number, (line, bytes, _)) in puts.iter().enumerate() {
            let of = [Line::Settlements, Line::Work, Line::Intake][usize::from(*line)];
            left[usize::from(*line)] += 1;
            put(&lines, changes(of, *bytes, number as u64));
        }
        let mut bytes = [0_i64; 3];
        let mut numbers: [Vec<usize>; 3] = Default::default();
        let mut holds = puts.iter().map(|(_, _, hold)| *hold);
        while let Some(mut proposal) = waiting.take() {
            if holds.next() == Some(true) {
                waiting.hold(proposal);
                proposal = waiting.take().expect("one is held");
            }
            let at = proposal.line() as usize;
            prop_assert!(at == 0 || left[0] == 0, "a settlement waits");
            left[at] -= 1;
            bytes[at] += proposal.frame_bytes() as i64;
            numbers[at].push(proposal.frame_bytes());
            if left[1] > 0 && left[2] > 0 {
                prop_assert!((bytes[1] - bytes[2]).abs() < 21_000, "{bytes:?}");
            }
        }
        for (at, numbers) in numbers.into_iter().enumerate() {
            let of_line = puts.iter().filter(|(line, ..)| usize::from(*line) == at);
            let expected: Vec<_> = of_line.map(|(line, bytes, _)| {
                let of = [Line::Settlements, Line::Work, Line::Intake][usize::from(*line)];
                changes(of, *bytes, 0).frame_bytes()
            }).collect();
            prop_assert_eq!(numbers, expected);
        }
    }
}

/// The same of the whole way to the disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_is_durable_before_what_was_published_before_it() {
    const PUBLISHED: usize = 200;
    let dir = tempfile::tempdir().expect("a folder");
    let config = CommitConfig {
        queue_bytes: 1 << 20,
        block_bytes: 256 << 10,
        ..Config::local(dir.path()).commit()
    };
    let opened = open(dir.path(), config).expect("a new log");
    let proposals = opened.proposals;
    let topic = TopicName::new("in").expect("a name");
    let made = proposals.change_catalog(CatalogChange::CreateTopic {
        name: topic.clone(),
        config: Some(TopicConfig::default()),
        retention: None,
    });
    made.await.expect("a topic");
    let group = NewGroup {
        topic: topic.clone(),
        name: GroupName::new("workers").expect("a name"),
        config: GroupConfig::default(),
        or_as_it_is: false,
        start: vec![0],
    };
    let made = proposals.change_catalog(CatalogChange::CreateGroup(Box::new(group)));
    let made = made.await.expect("a group");
    assert!(matches!(made, CatalogChanged::GroupCreated(_)));
    let catalog = proposals.catalog();
    let source = Source {
        topic: catalog.topic(&topic).expect("it was made").id,
        partition: PartitionId(0),
    };
    let group = catalog.groups().next().expect("it was made").id;
    let publish = || {
        let mut changes = changes(Line::Intake, 100_000, 0);
        changes.appends[0].target = source;
        proposals.commit(changes)
    };
    publish().await.expect("the first");
    let all = (0..PUBLISHED).map(|_| publish());
    let mut published: FuturesUnordered<_> = all.collect();
    // All of them are in line now, or wait for room in it.
    let mut done = usize::from(published.next().now_or_never().is_some());
    let mut settle = changes(Line::Settlements, 0, 0);
    settle.settles[0].group = group;
    settle.settles[0].source = source;
    let mut settled = Box::pin(proposals.commit(settle));
    loop {
        tokio::select! {
            biased;
            settled = &mut settled => {
                settled.expect("a settlement");
                break;
            }
            Some(one) = published.next() => {
                one.expect("an append");
                done += 1;
            }
        }
    }
    assert!(done < PUBLISHED / 2, "{done} of {PUBLISHED} came before it");
    drop((published, settled));
    proposals.close().await;
    drop(proposals);
    opened.running.join();
}
