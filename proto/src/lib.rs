//! Sluice's public API: the generated code, and what every user of it shares.
//!
//! The `.proto` files in `sluice/v1` are the reference; their comments give
//! meaning, unit, bound and default of each field.

/// The API as it is written in the `.proto` files, with clients.
pub mod pb {
    #![allow(missing_docs, unreachable_pub, clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/pb/sluice.v1.rs"));
}

/// The same API with every event, and every batch that a stream brings, left encoded
/// (`bytes::Bytes`), with servers.
///
/// Byte for byte the same on the wire as [`pb`]. The broker is built on it, so
/// that it neither decodes nor encodes the events that it passes on.
pub mod wire {
    #![allow(missing_docs, unreachable_pub, clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/wire/sluice.v1.rs"));

    pub use crate::deliveries::Deliveries;
}

/// The encoded `FileDescriptorSet` of the public API, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));

pub mod batch;
pub mod deliveries;
pub mod event;
mod fields;
mod ids;
mod names;
mod partition;
pub mod settlements;

pub use ids::{Epoch, GroupId, Offset, PartitionId, ProducerId, TopicId};
pub use names::{GroupName, NAME_BYTES_MAX, NameError, TopicName};
pub use partition::partition_of_key;
