//! A connection to the stream listener of a node.

use anyhow::{Context, bail, ensure};
use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::protocol::{Came, Command, Key};

/// The half that sends.
pub(super) struct Sender {
    to: OwnedWriteHalf,
    last_number: u32,
    /// The longest command that the server takes.
    pub(super) longest: usize,
}

/// The half that gets.
pub(super) struct Receiver {
    from: OwnedReadHalf,
    come: BytesMut,
}

/// Both.
pub(super) struct Connection {
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
}

impl Sender {
    pub(super) async fn send(&mut self, command: Command) -> anyhow::Result<()> {
        Ok(self.to.write_all(&command.encoded()).await?)
    }
}

impl Receiver {
    /// What comes next.
    pub(super) async fn next(&mut self) -> anyhow::Result<Came> {
        loop {
            if let Some(size) = self.come.first_chunk::<4>() {
                let size = u32::from_be_bytes(*size) as usize;
                if self.come.len() >= 4 + size {
                    let command = self.come.split_to(4 + size).freeze();
                    return Came::read(command.slice(4..));
                }
                self.come.reserve(4 + size - self.come.len());
            }
            self.come.reserve(256 << 10);
            let read = self.from.read_buf(&mut self.come).await?;
            ensure!(read > 0, "the server has closed the connection");
        }
    }
}

impl Connection {
    /// Connects as the user that is there by default.
    pub(super) async fn open(port: u16) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let (from, to) = stream.into_split();
        let mut connection = Self {
            sender: Sender {
                to,
                last_number: 0,
                longest: 0,
            },
            receiver: Receiver {
                from,
                come: BytesMut::new(),
            },
        };
        let no_properties = 0;
        connection
            .request(Key::PeerProperties, |request| request.u32(no_properties))
            .await?;
        connection
            .request(Key::SaslHandshake, |request| request)
            .await?;
        connection
            .request(Key::SaslAuthenticate, |request| {
                request.text("PLAIN").bytes(b"\0guest\0guest")
            })
            .await?;
        let Came::Tune(longest) = connection.receiver.next().await? else {
            bail!("the server says no limits");
        };
        let no_heartbeat = 0;
        let tune = Command::new(Key::Tune).u32(longest).u32(no_heartbeat);
        connection.sender.send(tune).await?;
        connection.sender.longest = longest as usize;
        connection
            .request(Key::Open, |request| request.text("/"))
            .await?;
        Ok(connection)
    }

    /// Sends a request, and waits for its answer.
    pub(super) async fn request(
        &mut self,
        key: Key,
        fill: impl FnOnce(Command) -> Command,
    ) -> anyhow::Result<()> {
        self.sender.last_number += 1;
        let number = self.sender.last_number;
        let request = fill(Command::request(key, number));
        self.sender.send(request).await?;
        loop {
            let came = self.receiver.next().await;
            match came.with_context(|| format!("{key:?} has no answer"))? {
                Came::Done(answered) if answered == number => return Ok(()),
                Came::Failed(answered, code) if answered == number => {
                    bail!("{key:?} is refused with code {code}")
                }
                Came::Other => {}
                other => bail!("{other:?} before the answer to {key:?}"),
            }
        }
    }
}
