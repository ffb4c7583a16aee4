//! Members that come and go while there is a backlog.

use std::{collections::BTreeMap, time::Instant};

use sluice_proto::pb::GroupConfig;
use sluice_tests::task::{End, Task};

use super::{
    broker, config,
    crew::{Crew, Said, Word, Worker},
    lag,
};

/// How many members each stage of the test has, and events that it takes.
const STAGES: [(usize, usize); 3] = [(1, 40), (8, 320), (2, 80)];
/// Published in all: more than the stages take.
const EVENTS: usize = 1000;
/// What each member is granted at a time, and what the group may have under lease:
/// less than eight members want, so that they have to take turns.
const CREDIT: usize = 4;
const IN_FLIGHT_MAX: i32 = 12;
/// Time that each event takes, in which its worker sleeps: far longer than what else there
/// is to do for it, also where the machine is busy.
const WORK_MS: u64 = 60;

fn is_done(word: &Word) -> bool {
    matches!(word, Word::Done { .. })
}

/// How work went on in a stage.
#[derive(Debug)]
struct Pace {
    /// Events that were worked on at once, at most.
    most: usize,
    /// The same for half of the events, at least.
    usual: usize,
}

/// As the workers say, each of which sleeps in an event before it asks for its ack.
fn pace(said: &[Said]) -> Pace {
    let asks = said.iter().filter_map(|said| match said.word {
        Word::Asks { at_us, .. } => Some(at_us),
        _ => None,
    });
    let mut ends: Vec<u128> = asks.collect();
    ends.sort_unstable();
    // What the wall clock may be wrong by is left out.
    let half_us = u128::from(WORK_MS) * 500 - 1000;
    // Those that end so soon before or after one are worked on in the middle of it.
    let at_once = ends.iter().map(|end| {
        let begin = ends.partition_point(|other| *other < end - half_us);
        ends.partition_point(|other| *other < end + half_us) - begin
    });
    let mut at_once: Vec<usize> = at_once.collect();
    at_once.sort_unstable();
    Pace {
        most: at_once[at_once.len() - 1],
        usual: at_once[at_once.len() / 2],
    }
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
    let mut paces = Vec::new();
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
        let before = crew.heard().len();
        let shares = shares(crew.wait_for(events, is_done).await);
        let pace = pace(&crew.heard()[before..]);
        let rate = events as f64 / since.elapsed().as_secs_f64();
        println!("{members} members: {rate:.0} events/s, {pace:?}, {shares:?}");
        paces.push(pace);
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
    // The rate follows: more are at work when there are more. Seconds would be those of
    // the machine, which may have other things to do.
    let [one, eight, two] = &paces[..] else {
        panic!("a pace for each stage");
    };
    assert_eq!((one.most, two.most), (1, 2), "{paces:?}");
    assert!(eight.most <= 8 && eight.usual > two.most, "{paces:?}");

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
