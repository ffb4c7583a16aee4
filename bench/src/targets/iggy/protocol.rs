//! The protocol as far as the bench needs it
//! (<https://github.com/apache/iggy/tree/master/core/binary_protocol>): what is sent
//! and what comes, as bytes. Numbers are little endian.

use anyhow::{Context, ensure};
use bytes::{Buf, Bytes};

/// Before each message in a request, and in a batch that is polled.
const MESSAGE_HEAD: usize = 64;
/// In a batch that is polled: partition, offset and count.
const POLLED_HEAD: usize = 16;

/// The commands.
#[derive(Clone, Copy)]
#[repr(u32)]
enum Code {
    Login = 38,
    Poll = 100,
    Send = 101,
    CreateStream = 202,
    DeleteStream = 203,
    CreateTopic = 302,
}

/// A request on its way to the server.
#[derive(Clone, Debug)]
pub(super) struct Request(Vec<u8>);

impl Request {
    pub(super) fn login(user: &str, password: &str) -> Self {
        let (no_version, no_context) = (0, 0);
        Self::new(Code::Login)
            .text(user)
            .text(password)
            .u32(no_version)
            .u32(no_context)
    }

    pub(super) fn create_stream(name: &str) -> Self {
        Self::new(Code::CreateStream).text(name)
    }

    /// With all that is in it.
    pub(super) fn delete_stream(name: &str) -> Self {
        Self::new(Code::DeleteStream).named(name)
    }

    /// A topic that keeps everything.
    pub(super) fn create_topic(stream: &str, name: &str, partitions: u32) -> Self {
        let (no_compression, never, unlimited, one_copy) = (1, u64::MAX, u64::MAX, 1);
        Self::new(Code::CreateTopic)
            .named(stream)
            .u32(partitions)
            .u8(no_compression)
            .u64(never)
            .u64(unlimited)
            .u8(one_copy)
            .text(name)
    }

    /// Messages to a partition: where each ends, then all.
    pub(super) fn send(stream: &str, topic: &str, partition: u32, payloads: &[Bytes]) -> Self {
        let (to_a_partition, number_bytes, count_bytes) = (2, 4, 4);
        let named = |name: &str| 2 + name.len();
        let head_bytes = named(stream) + named(topic) + 2 + 4 + count_bytes;
        let mut request = Self::new(Code::Send)
            .u32(head_bytes as u32)
            .named(stream)
            .named(topic)
            .u8(to_a_partition)
            .u8(number_bytes)
            .u32(partition)
            .u32(payloads.len() as u32);
        let mut end = 0;
        for payload in payloads {
            end += MESSAGE_HEAD + payload.len();
            request = request.u32(0).u32(end as u32).u64(0);
        }
        request.0.reserve(end);
        for payload in payloads {
            let (checksum, id, offset, time, headers) = (0, 0, 0, 0, 0);
            request = request
                .u64(checksum)
                .u128(id)
                .u64(offset)
                .u64(time)
                .u64(time)
                .u32(headers)
                .u32(payload.len() as u32)
                .u64(0);
            request.0.extend_from_slice(payload);
        }
        request
    }

    /// What comes next for a consumer, who has it then.
    pub(super) fn poll(
        stream: &str,
        topic: &str,
        consumer: u32,
        partition: u32,
        count: u32,
    ) -> Self {
        let (by_itself, by_number, number_bytes) = (1, 1, 4);
        let (is_given, next, commits) = (1, 5, 1);
        Self::new(Code::Poll)
            .u8(by_itself)
            .u8(by_number)
            .u8(number_bytes)
            .u32(consumer)
            .named(stream)
            .named(topic)
            .u8(is_given)
            .u32(partition)
            .u8(next)
            .u64(0)
            .u32(count)
            .u8(commits)
    }

    fn new(code: Code) -> Self {
        // The first four bytes are for the size.
        Self(vec![0; 4]).u32(code as u32)
    }

    fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u128(mut self, value: u128) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Of up to 255 bytes.
    fn text(self, text: &str) -> Self {
        let mut with_length = self.u8(text.len() as u8);
        with_length.0.extend(text.as_bytes());
        with_length
    }

    /// Whose name is this.
    fn named(self, name: &str) -> Self {
        let by_name = 2;
        self.u8(by_name).text(name)
    }

    /// As it is sent.
    pub(super) fn encoded(mut self) -> Vec<u8> {
        let size = (self.0.len() - 4) as u32;
        self.0[..4].copy_from_slice(&size.to_le_bytes());
        self.0
    }
}

/// The payloads of what was polled.
pub(super) fn polled(mut answer: Bytes) -> anyhow::Result<Vec<Bytes>> {
    ensure!(answer.len() >= POLLED_HEAD, "half an answer");
    answer.advance(POLLED_HEAD);
    let mut payloads = Vec::new();
    while !answer.is_empty() {
        let head = answer.get(..MESSAGE_HEAD).context("half a message")?;
        let length = |at: usize| {
            let number = head[at..].first_chunk::<4>();
            number.map_or(0, |number| u32::from_le_bytes(*number) as usize)
        };
        let (headers, payload) = (length(48), length(52));
        ensure!(
            answer.len() >= MESSAGE_HEAD + payload + headers,
            "half a message"
        );
        answer.advance(MESSAGE_HEAD);
        payloads.push(answer.split_to(payload));
        answer.advance(headers);
    }
    Ok(payloads)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_its_size_and_its_code_first() {
        let sent = Request::create_stream("bench").encoded();
        assert_eq!(sent, b"\x0a\0\0\0\xca\0\0\0\x05bench");
    }

    #[test]
    fn messages_are_sent_as_they_are_polled() {
        let payloads = [Bytes::from_static(b"one"), Bytes::from_static(b"another")];
        let sent = Request::send("s", "t", 7, &payloads).encoded();
        let head = u32::from_le_bytes(*sent[8..].first_chunk().unwrap()) as usize;
        // After size, code, the head's size, the head, and where each message ends.
        let batch = &sent[8 + 4 + head + 2 * 16..];
        let answer = [&[0; POLLED_HEAD], batch].concat();
        assert_eq!(polled(answer.into()).unwrap(), payloads);
    }

    #[test]
    fn half_a_message_is_refused() {
        let payloads = [Bytes::from_static(b"one")];
        let sent = Request::send("s", "t", 7, &payloads).encoded();
        let batch = &sent[sent.len() - MESSAGE_HEAD - 3..sent.len() - 1];
        let answer = [&[0; POLLED_HEAD], batch].concat();
        assert!(polled(answer.into()).is_err());
    }
}
