//! Events in the formats of CloudEvents 1.0: [JSON](from_json), and
//! [protobuf](from_protobuf).

mod json;
mod protobuf;

pub use self::{
    json::{CloudEventError, from_json, to_json},
    protobuf::{ProtobufError, format, from_protobuf, to_protobuf},
};

fn media_type(content_type: &str) -> String {
    let full = content_type.split(';').next().unwrap_or_default();
    full.trim().to_ascii_lowercase()
}

fn is_json(content_type: &str) -> bool {
    let media_type = media_type(content_type);
    let subtype = media_type
        .split_once('/')
        .map_or("", |(_, subtype)| subtype);
    subtype == "json" || subtype.ends_with("+json")
}
