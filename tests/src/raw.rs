//! Calls whose request is any bytes, so that what no generated client would send
//! can be sent.

use std::marker::PhantomData;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use tonic::{
    Request, Response, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    transport::Channel,
};

/// Calls a unary method of `sluice.v1.BrokerService` with a request of these
/// bytes.
///
/// # Errors
/// What the broker answers.
pub async fn call<R: Message + Default + 'static>(
    channel: &Channel,
    method: &str,
    request: Bytes,
) -> Result<R, Status> {
    let path = format!("/sluice.v1.BrokerService/{method}");
    let path = PathAndQuery::try_from(path).expect("method names are valid in paths");
    let mut grpc = Grpc::new(channel.clone());
    let ready = grpc.ready().await;
    ready.map_err(|error| Status::unavailable(error.to_string()))?;
    grpc.unary(Request::new(request), path, BytesCodec::default())
        .await
        .map(Response::into_inner)
}

#[derive(Debug)]
struct BytesCodec<R>(PhantomData<R>);

impl<R> Default for BytesCodec<R> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<R: Message + Default + 'static> Codec for BytesCodec<R> {
    type Encode = Bytes;
    type Decode = R;
    type Encoder = BytesEncoder;
    type Decoder = MessageDecoder<R>;

    fn encoder(&mut self) -> Self::Encoder {
        BytesEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        MessageDecoder(PhantomData)
    }
}

#[derive(Debug)]
struct BytesEncoder;

impl Encoder for BytesEncoder {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

#[derive(Debug)]
struct MessageDecoder<R>(PhantomData<R>);

impl<R: Message + Default> Decoder for MessageDecoder<R> {
    type Item = R;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<R>, Status> {
        let message = R::decode(buffer.copy_to_bytes(buffer.remaining()));
        message
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

/// A protobuf message, written field by field; each goes in as it is given,
/// twice or malformed.
#[derive(Clone, Debug, Default)]
pub struct Fields(BytesMut);

impl Fields {
    /// No fields.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a field of the wire type LEN.
    #[must_use]
    pub fn bytes(mut self, number: u32, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        prost::encoding::encode_varint(u64::from(number << 3 | 2), &mut self.0);
        prost::encoding::encode_varint(value.len() as u64, &mut self.0);
        self.0.extend_from_slice(value);
        self
    }

    /// Appends bytes as they are.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// The message.
    #[must_use]
    pub fn build(self) -> Bytes {
        self.0.freeze()
    }
}

impl AsRef<[u8]> for Fields {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
