//! Reads a topic from its beginning to its end.

use std::net::SocketAddr;

use sluice_proto::wire;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

use super::connect;

/// Tells of each page how many bytes of events it had.
pub(crate) async fn read_to_end(
    addr: SocketAddr,
    topic: &str,
    mut page: impl FnMut(u64),
) -> anyhow::Result<()> {
    let mut client = tonic::client::Grpc::new(connect(addr).await?);
    client.ready().await?;
    let request = wire::ReadRequest {
        topic: topic.to_owned(),
        ..wire::ReadRequest::default()
    };
    let path = PathAndQuery::from_static("/sluice.v1.BrokerService/Read");
    let codec = ProstCodec::<wire::ReadRequest, wire::ReadResponse>::default();
    let pages = client.server_streaming(tonic::Request::new(request), path, codec);
    let mut pages = pages.await?.into_inner();
    while let Some(response) = pages.message().await? {
        page(
            response
                .events
                .iter()
                .map(|read| read.event.len() as u64)
                .sum(),
        );
    }
    Ok(())
}
