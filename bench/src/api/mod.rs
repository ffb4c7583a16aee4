//! Sluice's API as the bench uses it, on a broker and on the bare path.

pub(crate) mod broker;
pub(crate) mod member;
pub(crate) mod publisher;
pub(crate) mod reader;

use std::net::SocketAddr;

use tonic::transport::{Channel, Endpoint};

/// A connection with the settings that the client crate has.
pub(crate) async fn connect(addr: SocketAddr) -> anyhow::Result<Channel> {
    let channel = Endpoint::from_shared(format!("http://{addr}"))?
        .tcp_nodelay(true)
        .connect()
        .await?;
    Ok(channel)
}
