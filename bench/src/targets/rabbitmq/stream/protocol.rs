//! The stream protocol as far as the bench needs it
//! (<https://github.com/rabbitmq/rabbitmq-server/blob/main/deps/rabbitmq_stream/docs/PROTOCOL.adoc>):
//! what is sent and what comes, as bytes.

use anyhow::{Context, bail, ensure};
use bytes::{Buf, Bytes};

/// Set in the key of an answer.
const ANSWER: u16 = 0x8000;
const VERSION: u16 = 1;
/// What an answer says when all is well.
const OK: u16 = 1;

/// The commands that are sent or come here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Key {
    DeclarePublisher = 1,
    Publish = 2,
    PublishConfirm = 3,
    PublishError = 4,
    Subscribe = 7,
    Deliver = 8,
    Credit = 9,
    StoreOffset = 10,
    Create = 13,
    Delete = 14,
    PeerProperties = 17,
    SaslHandshake = 18,
    SaslAuthenticate = 19,
    Tune = 20,
    Open = 21,
    Close = 22,
}

/// A command on its way to the server.
#[derive(Debug)]
pub(super) struct Command(Vec<u8>);

impl Command {
    /// One that has no answer.
    pub(super) fn new(key: Key) -> Self {
        // The first four bytes are for the size.
        Self(vec![0; 4]).u16(key as u16).u16(VERSION)
    }

    /// One whose answer has this number.
    pub(super) fn request(key: Key, number: u32) -> Self {
        Self::new(key).u32(number)
    }

    pub(super) fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub(super) fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(super) fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(super) fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// Of up to 32 KiB.
    pub(super) fn text(self, text: &str) -> Self {
        let mut with_length = self.u16(text.len() as u16);
        with_length.0.extend(text.as_bytes());
        with_length
    }

    pub(super) fn bytes(self, bytes: &[u8]) -> Self {
        let mut with_length = self.u32(bytes.len() as u32);
        with_length.0.extend(bytes);
        with_length
    }

    /// A payload to publish: a message of AMQP 1.0 that has nothing but data, which
    /// is what streams are said to hold.
    pub(super) fn message(mut self, number: u64, payload: &[u8]) -> Self {
        self = self.u64(number);
        let length = payload.len() as u32;
        self = match u8::try_from(length) {
            Ok(short) => self.u32(DATA_SHORT + length).u32(0x0053_75a0).u8(short),
            Err(_) => self.u32(DATA_LONG + length).u32(0x0053_75b0).u32(length),
        };
        self.0.extend(payload);
        self
    }

    /// As it is sent.
    pub(super) fn encoded(mut self) -> Vec<u8> {
        let size = (self.0.len() - 4) as u32;
        self.0[..4].copy_from_slice(&size.to_be_bytes());
        self.0
    }
}

/// Bytes before the data of a message of up to 255 bytes, and of a longer one.
const DATA_SHORT: u32 = 5;
const DATA_LONG: u32 = 8;
/// The most that `Command::message` adds to a payload.
pub(super) const MESSAGE_OVERHEAD: usize = 8 + 4 + DATA_LONG as usize;

/// What comes from the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// The answer with this number: all is well.
    Done(u32),
    /// The answer with this number: it is not.
    Failed(u32, u16),
    /// Messages with these numbers are where they are kept.
    Confirmed(Vec<u64>),
    /// Payloads from this offset on.
    Chunk(u64, Vec<Bytes>),
    /// The longest command that the server takes.
    Tune(u32),
    /// Nothing that matters here.
    Other,
}

impl Came {
    /// Reads a command, without its size.
    pub(super) fn read(mut command: Bytes) -> anyhow::Result<Self> {
        let key = command.try_get_u16()?;
        let _version = command.try_get_u16()?;
        let is = |wanted: Key| key == wanted as u16;
        if key & ANSWER != 0 && key & !ANSWER != Key::Credit as u16 {
            let number = command.try_get_u32()?;
            return Ok(match command.try_get_u16()? {
                OK => Self::Done(number),
                code => Self::Failed(number, code),
            });
        }
        if is(Key::PublishConfirm) {
            let _publisher = command.try_get_u8()?;
            let count = command.try_get_u32()?;
            let numbers = (0..count).map(|_| Ok(command.try_get_u64()?));
            return Ok(Self::Confirmed(numbers.collect::<anyhow::Result<_>>()?));
        }
        if is(Key::Deliver) {
            let _subscription = command.try_get_u8()?;
            return chunk(command);
        }
        if is(Key::Tune) {
            return Ok(Self::Tune(command.try_get_u32()?));
        }
        ensure!(!is(Key::PublishError), "a message was not kept");
        ensure!(!is(Key::Close), "the server closes the connection");
        Ok(Self::Other)
    }
}

/// The chunk of a stream, as it lies on the disk.
fn chunk(mut bytes: Bytes) -> anyhow::Result<Came> {
    ensure!(bytes.len() >= 48, "a chunk without its head");
    let magic = bytes.get_u8();
    ensure!(magic == 0x50, "a chunk of another version, {magic:#x}");
    let kind = bytes.get_u8();
    let entries = bytes.get_u16();
    let (_records, _time, _epoch) = (bytes.get_u32(), bytes.get_u64(), bytes.get_u64());
    let first_offset = bytes.get_u64();
    // CRC, lengths of data and trailer, and what is reserved.
    bytes.advance(16);
    if kind != 0 {
        // Not of users.
        return Ok(Came::Chunk(first_offset, Vec::new()));
    }
    let mut payloads = Vec::with_capacity(entries.into());
    for _ in 0..entries {
        let size = bytes.try_get_u32()? as usize;
        ensure!(size >> 31 == 0, "several messages in one entry");
        ensure!(size <= bytes.len(), "a message goes over its chunk");
        payloads.push(data(bytes.split_to(size))?);
    }
    Ok(Came::Chunk(first_offset, payloads))
}

/// What a message holds.
fn data(mut message: Bytes) -> anyhow::Result<Bytes> {
    let kind = message.try_get_u32().context("a message without a kind")?;
    let length = match kind {
        0x0053_75a0 => message.try_get_u8()?.into(),
        0x0053_75b0 => message.try_get_u32()? as usize,
        other => bail!("a message of the kind {other:#x}"),
    };
    ensure!(length == message.len(), "a message of another length");
    Ok(message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn command(bytes: &[&[u8]]) -> Bytes {
        bytes.concat().into()
    }

    #[test]
    fn a_command_has_its_size_in_front() {
        let encoded = Command::request(Key::Open, 7).text("/").encoded();
        assert_eq!(encoded, [0, 0, 0, 11, 0, 21, 0, 1, 0, 0, 0, 7, 0, 1, b'/']);
    }

    #[test]
    fn what_was_published_is_read_from_a_chunk() {
        let payloads = [vec![1; 20], vec![2; 255], vec![3; 256], vec![4; 70_000]];
        let mut head = vec![0x50, 0, 0, payloads.len() as u8];
        head.extend([0; 20]);
        head.extend(77_u64.to_be_bytes());
        head.extend([0; 16]);
        let mut entries = Vec::new();
        for (number, payload) in payloads.iter().enumerate() {
            let published = Command(Vec::new()).message(number as u64, payload).0;
            assert!(published.len() <= payload.len() + MESSAGE_OVERHEAD);
            // A chunk has no numbers of messages.
            entries.extend(&published[8..]);
        }
        let deliver = command(&[&[0, 8, 0, 1, 0], &head, &entries]);
        let came = Came::read(deliver).unwrap();
        assert_eq!(came, Came::Chunk(77, payloads.map(Bytes::from).to_vec()));
    }

    #[test]
    fn answers_and_confirms_are_told_apart() {
        let done = command(&[&[0x80, 13, 0, 1, 0, 0, 0, 9, 0, 1]]);
        assert_eq!(Came::read(done).unwrap(), Came::Done(9));
        let failed = command(&[&[0x80, 13, 0, 1, 0, 0, 0, 9, 0, 5]]);
        assert_eq!(Came::read(failed).unwrap(), Came::Failed(9, 5));
        let numbers = [3_u64.to_be_bytes(), 4_u64.to_be_bytes()].concat();
        let confirm = command(&[&[0, 3, 0, 1, 0, 0, 0, 0, 2], &numbers]);
        assert_eq!(Came::read(confirm).unwrap(), Came::Confirmed(vec![3, 4]));
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        let whole = [[0, 3, 0, 1, 0, 0, 0, 0, 1].as_slice(), &[0; 8]].concat();
        for length in 0..whole.len() {
            let cut = Bytes::copy_from_slice(&whole[..length]);
            assert!(Came::read(cut).is_err(), "{length}");
        }
    }
}
