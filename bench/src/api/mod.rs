//! Sluice's API as the bench uses it, on a broker and on the bare path.

pub(crate) mod broker;
pub(crate) mod member;
pub(crate) mod publisher;
pub(crate) mod reader;

use std::net::SocketAddr;

use tonic::transport::{Channel, Endpoint};

/// As the client crate has it.
const FRAME_BYTES: u32 = 256 << 10;

/// A connection that takes frames as large as the client crate does.
pub(crate) async fn connect(addr: SocketAddr) -> anyhow::Result<Channel> {
    let channel = Endpoint::from_shared(format!("http://{addr}"))?
        .tcp_nodelay(true)
        .max_frame_size(FRAME_BYTES)
        .connect()
        .await?;
    Ok(channel)
}
