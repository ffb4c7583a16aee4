//! A slow last stage slows down the source, through chains of every shape, and
//! nothing deadlocks. With `SLUICE_FLOW_FULL` set, at length:
//! `tests/results/flow.md`.

use std::time::Duration;

use super::pipeline::{Pipeline, Step, scaled};

/// How long the slow step takes for one event; 50 times as long as the others, at
/// length.
fn slow(topic: &'static str, limit: i64) -> Step {
    let work = u64::try_from(scaled(20, 50)).unwrap();
    Step::new(topic, &[], limit).slow(Duration::from_millis(work))
}

/// Lets the backlogs fill up, then compares the source with the slow step over
/// so many events of that one. `per_source` is how many of them come of one event
/// of the source.
async fn settles(pipeline: &mut Pipeline, name: &str, slow: usize, per_source: i64) {
    pipeline.watch_until_done(slow, scaled(30, 300)).await;
    let events = scaled(60, 2000);
    let (published, done) = (pipeline.published(), pipeline.done(slow));
    pipeline.watch_until_done(slow, events).await;
    let published = (pipeline.published() - published) * per_source;
    let done = pipeline.done(slow) - done;
    eprintln!("{name}: {published} published for {done} done");
    // Ten percent, and what comes and goes between the marks of the backlogs on
    // the way.
    let slack = done / 10 + 20 * per_source;
    assert!(
        (published - done).abs() <= slack,
        "{published} published, {done} done"
    );
    pipeline.check_backlogs(name);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_settles_at_the_rate_of_its_slowest() {
    let mut pipeline = Pipeline::new(vec![
        Step::new("a", &["b"], 20),
        Step::new("b", &["c"], 20),
        Step::new("c", &["d"], 20),
        slow("d", 20),
    ])
    .await;
    pipeline.start_all().await;
    settles(&mut pipeline, "chain", 3, 1).await;
    pipeline.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_does_a_diamond() {
    let mut pipeline = Pipeline::new(vec![
        Step::new("a", &["b"], 20),
        Step::new("a", &["c"], 20),
        Step::new("b", &["d"], 20),
        Step::new("c", &["d"], 20),
        slow("d", 20),
    ])
    .await;
    pipeline.start_all().await;
    settles(&mut pipeline, "diamond", 4, 2).await;
    pipeline.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_loop_does_not_deadlock() {
    // Some events of "a" go round by "again", and some by "a" itself.
    let mut pipeline = Pipeline::new(vec![
        Step::new("a", &["b", "again", "a"], 20),
        Step::new("again", &["a"], 20),
        slow("b", 20),
    ])
    .await;
    pipeline.start_all().await;
    pipeline.watch_until_done(2, scaled(60, 1000)).await;
    // "a" itself is fed by an edge that closes a cycle, so its limit is soft; the
    // others are not.
    pipeline.largest[0] = 0;
    pipeline.check_backlogs("retry loop");
    pipeline.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_event_may_become_many() {
    let fan_out = usize::try_from(scaled(20, 100)).unwrap();
    let mut first = Step::new("a", &["b"], 20);
    first.fan_out = fan_out;
    let mut second = slow("b", 20);
    second.work = Duration::from_millis(10);
    let mut pipeline = Pipeline::new(vec![first, second]).await;
    pipeline.start_all().await;
    pipeline.watch_until_done(1, scaled(200, 4000)).await;
    pipeline.check_backlogs("fan-out");
    pipeline.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_that_stops_stops_the_source_and_goes_on() {
    let mut pipeline = Pipeline::new(vec![
        Step::new("a", &["b"], 20),
        Step::new("b", &["c"], 20),
        slow("c", 20),
    ])
    .await;
    pipeline.start_all().await;
    pipeline.watch_until_done(2, scaled(20, 200)).await;
    pipeline.stop(2).await;
    let stopped = tokio::time::Instant::now();
    let pause = Duration::from_millis(u64::try_from(scaled(1500, 10_000)).unwrap());
    while stopped.elapsed() < pause {
        pipeline.watch().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let published = pipeline.published();
    let flow = pipeline.flow().await;
    assert_eq!(flow.topics[0].full_by, "to-b", "{flow:#?}");
    assert!(flow.groups[2].backlog.unwrap().abandoned, "{flow:#?}");
    let most = 3 * 20 + pipeline.done(2) + 8;
    assert!(
        published <= most,
        "{published} were published, at most {most} have room"
    );
    pipeline.start(2).await;
    pipeline.watch_until_done(2, scaled(60, 400)).await;
    assert!(pipeline.published() > published);
    pipeline.check_backlogs("stopped");
    pipeline.drain().await;
}
