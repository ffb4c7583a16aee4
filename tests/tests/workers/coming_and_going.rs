//! Members that come and go while there is a backlog.

use std::{collections::BTreeMap, time::Instant};

use sluice_proto::pb::GroupConfig;
use sluice_tests::task::{End, Task};

use super::{
    broker, config,
    crew::{Crew, Word, Worker},
    lag,
};

/// Events that each stage of the test takes, and how many members it has.
const STAGES: [(usize, usize); 3] = [(1, 100), (8, 800), (2, 200)];
/// Published in all: more than the stages take.
const EVENTS: usize = 3000;
/// What each member is granted at a time, and what the group may have under lease:
/// less than eight members want, so that they have to take turns.
const CREDIT: usize = 4;
const IN_FLIGHT_MAX: i32 = 12;
/// Time that each event takes.
const WORK_MS: u64 = 8;

fn is_done(word: &Word) -> bool {
    matches!(word, Word::Done { .. })
}

/// The members of a stage, how many events each has done, by name.
fn shares(done: Vec<String>) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for member in done {
        *shares.entry(member).or_default() += 1;
    }
    shares
}

#[tokio::test(flavor = "multi_thread")]
async fn work_spreads_over_members_as_they_come_and_go_and_nothing_is_done_twice() {
    let capped = GroupConfig {
        max_in_flight: IN_FLIGHT_MAX,
        ..config()
    };
    let (broker, api) = broker(4, capped).await;
    let task = Task {
        ms: WORK_MS,
        end: End::Ack,
        nacks: 0,
    };
    let events = (0..EVENTS).map(|number| task.event(&format!("e{number}")));
    api.publish("in", events.collect()).await.unwrap();

    let mut crew = Crew::of(broker.url());
    let mut workers = Vec::new();
    for (members, events) in STAGES {
        while workers.len() < members {
            workers.push(crew.start(&format!("w{}", workers.len()), CREDIT));
            crew.wait_for(1, |word| *word == Word::Joined).await;
        }
        if workers.len() > members {
            let mut leaving = workers.split_off(members);
            leaving.iter_mut().for_each(Worker::leave);
            crew.wait_for(leaving.len(), |word| *word == Word::Left)
                .await;
        }
        let since = Instant::now();
        let shares = shares(crew.wait_for(events, is_done).await);
        let rate = events as f64 / since.elapsed().as_secs_f64();
        println!("{members} members: {rate:.0} events/s, {shares:?}");
        assert!(lag(&api).await > 0, "there is a backlog all the time");
        let names: Vec<_> = workers.iter().map(|worker| &worker.name).collect();
        assert_eq!(shares.keys().collect::<Vec<_>>(), names, "all of them work");
        let least = shares.values().min().unwrap();
        assert!(
            *least >= events / members / 4,
            "a share is too small: {shares:?}"
        );
    }
    workers.iter_mut().for_each(Worker::leave);
    crew.wait_for(workers.len(), |word| *word == Word::Left)
        .await;

    let said = tokio::task::block_in_place(|| crew.end(workers));
    let mut taken: BTreeMap<String, u32> = BTreeMap::new();
    let done = said.iter().filter(|said| is_done(&said.word)).count();
    for said in said {
        if let Word::Took { id, attempt, .. } = said.word {
            assert_eq!(attempt, 1, "{id}");
            *taken.entry(id).or_default() += 1;
        }
    }
    let left = usize::try_from(lag(&api).await).unwrap();
    assert_eq!((done, taken.len()), (EVENTS - left, EVENTS - left));
    let twice: Vec<_> = taken.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "delivered again: {twice:?}");
}
