//! The bare path: gRPC, checksum, durable write, ack, and no broker. It serves
//! PublishStream, so that the same load runs against it; and Consume, without
//! anything behind it.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use prost::Message;
use sluice_proto::wire::{
    self,
    broker_service_server::{BrokerService, BrokerServiceServer},
    publish_stream_request::Message as In,
    publish_stream_response::Message as Out,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming, async_trait,
    transport::{Server, server::TcpIncoming},
};

use crate::{
    bare_consume,
    raw_disk::{Block, Blocks, RawLog},
};

/// What one write gathers, as in the broker.
const BLOCK_BYTES: usize = 1 << 20;
/// Blocks that are written at a time, as in the broker.
pub(crate) const BLOCKS_UNDER_WAY: usize = 2;
const MESSAGE_BYTES_MAX: usize = 16 << 20;

type Answer<T> = ReceiverStream<Result<T, Status>>;

/// Serves until the process is killed; writes to `file`, or nowhere.
pub(crate) async fn serve(file: Option<&Path>, blocks: Blocks) -> anyhow::Result<()> {
    let disk = match file {
        Some(file) => Some(start_writers(RawLog::create(file, blocks)?)?),
        None => None,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on {}", listener.local_addr()?);
    // The broker's settings.
    Server::builder()
        .max_frame_size(Some(64 << 10))
        .initial_stream_window_size(Some(384 << 10))
        .initial_connection_window_size(Some(1 << 20))
        .add_service(
            BrokerServiceServer::new(Bare { disk }).max_decoding_message_size(MESSAGE_BYTES_MAX),
        )
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await?;
    Ok(())
}

/// A batch to write, and whom to tell.
struct Write {
    batch: wire::PublishBatch,
    durable: oneshot::Sender<()>,
}

/// Starts as many threads as the broker has. They take turns: while one writes
/// its block, the next gathers.
fn start_writers(log: RawLog) -> anyhow::Result<mpsc::Sender<Write>> {
    let (writes, queue) = mpsc::channel::<Write>(1024);
    let (log, queue) = (Arc::new(log), Arc::new(Mutex::new(queue)));
    for number in 0..BLOCKS_UNDER_WAY {
        let (log, queue) = (log.clone(), queue.clone());
        thread::Builder::new()
            .name(format!("writer-{number}"))
            .spawn(move || {
                let mut block = Block::new(BLOCK_BYTES + MESSAGE_BYTES_MAX + 4);
                while let Some(waiting) = gather(&queue, &mut block) {
                    let crc = crc32fast::hash(block.bytes());
                    block.extend(&crc.to_le_bytes());
                    log.write(&mut block)
                        .expect("the bench's disk takes writes");
                    for durable in waiting {
                        // Whoever does not wait any more has ended its load.
                        let _ = durable.send(());
                    }
                }
            })?;
    }
    Ok(writes)
}

/// Fills the block with what is there, at least one batch; `None` when nothing
/// will come any more.
fn gather(
    queue: &Mutex<mpsc::Receiver<Write>>,
    block: &mut Block,
) -> Option<Vec<oneshot::Sender<()>>> {
    let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
    let mut waiting = Vec::new();
    let mut next = Some(queue.blocking_recv()?);
    block.clear();
    while let Some(write) = next {
        for event in &write.batch.events {
            block.extend(event);
        }
        waiting.push(write.durable);
        next = (block.bytes().len() < BLOCK_BYTES)
            .then(|| queue.try_recv().ok())
            .flatten();
    }
    Some(waiting)
}

struct Bare {
    disk: Option<mpsc::Sender<Write>>,
}

#[async_trait]
impl BrokerService for Bare {
    type PublishStreamStream = Answer<wire::PublishStreamResponse>;
    type ConsumeStream = Answer<wire::ConsumeResponse>;
    type ReadStream = Answer<wire::ReadResponse>;

    async fn publish_stream(
        &self,
        request: Request<Streaming<wire::PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let (answers, stream) = mpsc::channel(64);
        let (acks, mut in_order) = mpsc::channel::<(i64, Option<oneshot::Receiver<()>>)>(1024);
        let disk = self.disk.clone();
        let mut requests = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                let Some(In::Batch(batch)) = request.message else {
                    continue;
                };
                let Ok(batch) = wire::PublishBatch::decode(batch) else {
                    return;
                };
                let request_id = batch.request_id;
                let durable = match &disk {
                    Some(disk) => {
                        let (durable, written) = oneshot::channel();
                        if disk.send(Write { batch, durable }).await.is_err() {
                            return;
                        }
                        Some(written)
                    }
                    None => None,
                };
                if acks.send((request_id, durable)).await.is_err() {
                    return;
                }
            }
        });
        tokio::spawn(async move {
            while let Some((request_id, durable)) = in_order.recv().await {
                if let Some(durable) = durable
                    && durable.await.is_err()
                {
                    return;
                }
                let ack = wire::PublishAck {
                    request_id,
                    ..wire::PublishAck::default()
                };
                let response = wire::PublishStreamResponse {
                    message: Some(Out::Ack(ack)),
                };
                if answers.send(Ok(response)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn open_producer(
        &self,
        _: Request<wire::OpenProducerRequest>,
    ) -> Result<Response<wire::OpenProducerResponse>, Status> {
        Err(not_bare())
    }

    async fn publish(
        &self,
        _: Request<wire::PublishRequest>,
    ) -> Result<Response<wire::PublishResponse>, Status> {
        Err(not_bare())
    }

    async fn consume(
        &self,
        request: Request<Streaming<wire::ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        let (answers, stream) = mpsc::channel(4);
        tokio::spawn(bare_consume::serve(request.into_inner(), answers));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn pull(
        &self,
        _: Request<wire::PullRequest>,
    ) -> Result<Response<wire::PullResponse>, Status> {
        Err(not_bare())
    }

    async fn settle(
        &self,
        _: Request<wire::SettleRequest>,
    ) -> Result<Response<wire::SettleResponse>, Status> {
        Err(not_bare())
    }

    async fn commit(
        &self,
        _: Request<wire::CommitRequest>,
    ) -> Result<Response<wire::CommitResponse>, Status> {
        Err(not_bare())
    }

    async fn read(
        &self,
        _: Request<wire::ReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        Err(not_bare())
    }
}

fn not_bare() -> Status {
    Status::unimplemented("the bare path has PublishStream and Consume only")
}
