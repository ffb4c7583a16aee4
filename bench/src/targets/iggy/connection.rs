//! A connection to the TCP listener of a server.

use anyhow::ensure;
use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::protocol::Request;
use crate::targets::address::IggyAddress;

/// Bytes before an answer: its status, 0 for all is well, and its length.
const ANSWER_HEAD: usize = 8;

/// One request is under way at a time.
pub(super) struct Connection {
    stream: TcpStream,
    come: BytesMut,
}

impl Connection {
    /// Connects as the user of the address.
    pub(super) async fn open(to: &IggyAddress) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(to.address.to_string()).await?;
        stream.set_nodelay(true)?;
        let mut connection = Self {
            stream,
            come: BytesMut::new(),
        };
        let login = Request::login(&to.user, &to.password);
        connection.request(login).await?;
        Ok(connection)
    }

    /// Sends a request, and waits for its answer. Who gives up has to give up the
    /// connection as well.
    pub(super) async fn request(&mut self, request: Request) -> anyhow::Result<Bytes> {
        self.stream.write_all(&request.encoded()).await?;
        loop {
            if let Some(head) = self.come.first_chunk::<ANSWER_HEAD>() {
                let [s0, s1, s2, s3, l0, l1, l2, l3] = *head;
                let status = u32::from_le_bytes([s0, s1, s2, s3]);
                ensure!(status == 0, "refused with status {status}");
                let end = ANSWER_HEAD + u32::from_le_bytes([l0, l1, l2, l3]) as usize;
                if self.come.len() >= end {
                    let answer = self.come.split_to(end).freeze();
                    return Ok(answer.slice(ANSWER_HEAD..));
                }
                self.come.reserve(end - self.come.len());
            }
            self.come.reserve(256 << 10);
            let read = self.stream.read_buf(&mut self.come).await?;
            ensure!(read > 0, "the server has closed the connection");
        }
    }
}
