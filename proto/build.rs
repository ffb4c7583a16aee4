//! Compiles the .proto files with protox, so that no protoc has to be installed,
//! and generates code for them twice:
//!
//! - `pb`: as they are written, with a client;
//! - `wire`: the same messages with every field of type `Event`, and the batches that
//!   streams bring, turned into `bytes`, with a server; its `Deliveries` are written by
//!   hand. The two encodings are the same on the wire, and the broker neither decodes
//!   nor encodes an event that passes through.

use std::{env, fs, path::PathBuf};

use prost::Message;
use prost_types::{FileDescriptorSet, field_descriptor_proto::Type};

const FILES: [&str; 4] = [
    "sluice/v1/event.proto",
    "sluice/v1/error.proto",
    "sluice/v1/broker.proto",
    "sluice/v1/admin.proto",
];

/// What is left encoded in `wire`.
const ENCODED: [&str; 3] = [
    ".sluice.v1.Event",
    ".sluice.v1.PublishBatch",
    ".sluice.v1.SettleBatch",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=sluice");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let public = protox::compile(FILES, ["."])?;
    fs::write(out.join("descriptor.bin"), public.encode_to_vec())?;

    let public_dir = out.join("pb");
    fs::create_dir_all(&public_dir)?;
    tonic_prost_build::configure()
        .build_server(true)
        .bytes(".")
        .out_dir(&public_dir)
        .compile_fds(public.clone())?;

    let wire_dir = out.join("wire");
    fs::create_dir_all(&wire_dir)?;
    tonic_prost_build::configure()
        .build_client(false)
        .bytes(".")
        .extern_path(".sluice.v1.Deliveries", "crate::deliveries::Deliveries")
        .out_dir(&wire_dir)
        .compile_fds(with_encoded_parts(public))?;
    Ok(())
}

fn with_encoded_parts(mut files: FileDescriptorSet) -> FileDescriptorSet {
    for file in &mut files.file {
        // Dropped, because the comments' paths would shift with the removed
        // message; the public code carries them.
        file.source_code_info = None;
        file.message_type
            .retain(|message| !matches!(message.name(), "Event" | "AttributeValue"));
        for field in file
            .message_type
            .iter_mut()
            .flat_map(|message| &mut message.field)
        {
            if ENCODED.contains(&field.type_name()) {
                field.type_name = None;
                field.set_type(Type::Bytes);
            }
        }
    }
    files
}
