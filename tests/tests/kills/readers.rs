//! A reader without a group, that follows one partition from the beginning on and
//! goes on after each kill where it had come to.

use sluice_proto::pb::{ReadRequest, ReadStart, read_start::At};
use sluice_tests::{
    api::{Api, expect},
    history::Place,
};

use crate::run::Run;

pub(crate) fn name(partition: i32) -> String {
    format!("reader of {partition}")
}

/// Follows the partition until the run has drained, and then reads what is left.
pub(crate) async fn following(run: Run, partition: i32) {
    let mut next = 0;
    let mut drained = run.drained.clone();
    while let Some(api) = run.connect(&run.drained).await {
        tokio::select! {
            _ = drained.changed() => break,
            () = read(&run, &api, partition, &mut next, true) => {}
        }
    }
    let url = run.url.borrow().clone();
    let api = Api::connect(&url.unwrap()).await;
    expect(
        "a read to the end",
        read(&run, &api, partition, &mut next, false),
    )
    .await;
}

/// Reads until the stream ends, or the broker is gone.
async fn read(run: &Run, api: &Api, partition: i32, next: &mut i64, follow: bool) {
    let request = ReadRequest {
        topic: "in".to_owned(),
        partitions: vec![partition],
        start: Some(ReadStart {
            at: Some(At::Offset(*next)),
            ..ReadStart::default()
        }),
        follow,
        ..ReadRequest::default()
    };
    let mut stream = match api.broker.clone().read(request).await {
        Ok(response) => response.into_inner(),
        Err(status) => {
            let gone = sluice_tests::api::is_unknown(&status);
            assert!(gone, "reading on at {next} is refused: {status:?}");
            return;
        }
    };
    while let Ok(Some(page)) = stream.message().await {
        let page = page.events.into_iter().map(|read| {
            *next = read.offset + 1;
            let place = Place {
                topic: "in".to_owned(),
                partition: read.partition,
                offset: read.offset,
            };
            (read.event.unwrap().id, place)
        });
        let page = page.collect();
        run.note(|history| history.polled(&name(partition), page));
    }
}
