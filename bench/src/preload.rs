//! Fills a topic before it is measured how fast it is worked off.

use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use prost::Message;
use sluice_proto::pb;

use crate::{api::publisher::Publisher, events};

/// Bytes of a batch.
const BATCH_BYTES: usize = 256 << 10;
/// Batches under way.
const IN_FLIGHT: usize = 8;

/// Publishes `count` events of `event_bytes` each, whose keys are `keys` ones in
/// turn, or none.
pub(crate) async fn run(
    addr: SocketAddr,
    topic: &str,
    count: u64,
    event_bytes: usize,
    keys: usize,
) -> anyhow::Result<()> {
    let publisher = Publisher::open(addr).await?;
    let distinct = keyed_events(event_bytes, keys);
    let mut events = distinct.iter().cycle().take(count as usize).cloned();
    let per_batch = (BATCH_BYTES / event_bytes).clamp(1, 1000);
    let mut on_their_way = FuturesUnordered::new();
    loop {
        let batch: Vec<Bytes> = events.by_ref().take(per_batch).collect();
        if batch.is_empty() {
            break;
        }
        on_their_way.push(publisher.send(topic, batch).await?);
        if on_their_way.len() == IN_FLIGHT {
            on_their_way.next().await.transpose()?;
        }
    }
    while on_their_way.next().await.transpose()?.is_some() {}
    Ok(())
}

/// One event for each key; one without a key when there are none.
fn keyed_events(event_bytes: usize, keys: usize) -> Vec<Bytes> {
    let plain = events::event(event_bytes);
    if keys == 0 {
        return vec![plain];
    }
    let event = pb::Event::decode(plain).expect("the bench has encoded it");
    (0..keys)
        .map(|key| {
            let mut event = event.clone();
            let key = ("partitionkey".to_owned(), format!("key-{key}"));
            event.attributes.extend([key]);
            event.encode_to_vec().into()
        })
        .collect()
}
