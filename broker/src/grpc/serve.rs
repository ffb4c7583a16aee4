//! The HTTP/2 server: its settings, and the services on it.

use std::{sync::Arc, time::Duration};

use sluice_proto::{
    FILE_DESCRIPTOR_SET,
    wire::{admin_service_server::AdminServiceServer, broker_service_server::BrokerServiceServer},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{Status, codegen::http::Response, transport::Server};
use tonic_health::server::HealthReporter;
use tower::util::MapResponseLayer;

use super::{api::Api, connections, refusal::unread_message, service::Services};
use crate::log;

/// A connection that is silent for so long is asked, and cut when it does not
/// answer in the same time again.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Measured: with these and large messages, twice the speed of the defaults. Twice or
/// four times as much is no faster, and is what each stream keeps in memory that is
/// not read.
const FRAME_BYTES: u32 = 64 << 10;
const STREAM_WINDOW_BYTES: u32 = 384 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// h2's own default, which tonic takes away: streams that the server resets
/// because of the client's faults, before it cuts the connection.
const ERROR_RESETS_MAX: usize = 1024;
/// How often it is looked whether the log has failed, for the health service.
const FAILURE_LOOK: Duration = Duration::from_millis(200);
/// Room for a response that holds one event of the largest size.
const RESPONSE_OVERHEAD: usize = 1 << 20;

/// Serves until `api.stopping` is cancelled and every call has ended.
///
/// # Errors
/// When the listener fails.
pub(crate) async fn serve(
    api: Arc<Api>,
    listener: TcpListener,
) -> Result<(), tonic::transport::Error> {
    let request_bytes_max = api.limits.request_bytes_max;
    let response_bytes_max = request_bytes_max + RESPONSE_OVERHEAD;
    let stopping = api.stopping.clone();
    let streams_max = api.limits.connection_streams_max;
    let connections_max = api.limits.connections_max;
    let log = api.log.clone();
    let services = Services(api);
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<BrokerServiceServer<Services>>().await;
    health.set_serving::<AdminServiceServer<Services>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let router = Server::builder()
        .layer(MapResponseLayer::new(in_the_apis_terms))
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .max_concurrent_streams(Some(streams_max))
        .http2_max_local_error_reset_streams(Some(ERROR_RESETS_MAX))
        .max_frame_size(Some(FRAME_BYTES))
        .initial_stream_window_size(Some(STREAM_WINDOW_BYTES))
        .initial_connection_window_size(Some(CONNECTION_WINDOW_BYTES))
        .add_service(health_service)
        .add_service(
            reflection()
                .build_v1()
                .expect("the descriptor set was made with the code"),
        )
        .add_service(
            reflection()
                .build_v1alpha()
                .expect("the descriptor set was made with the code"),
        )
        .add_service(
            BrokerServiceServer::new(services.clone())
                .max_decoding_message_size(request_bytes_max)
                .max_encoding_message_size(response_bytes_max),
        )
        .add_service(
            AdminServiceServer::new(services)
                .max_decoding_message_size(request_bytes_max)
                .max_encoding_message_size(response_bytes_max * 16),
        );
    tokio::spawn(no_health_after_a_failure(
        health.clone(),
        log,
        stopping.clone(),
    ));
    let stopped = async move {
        stopping.cancelled().await;
        health
            .set_not_serving::<BrokerServiceServer<Services>>()
            .await;
        health
            .set_not_serving::<AdminServiceServer<Services>>()
            .await;
    };
    let incoming = connections::limited(listener, connections_max);
    router.serve_with_incoming_shutdown(incoming, stopped).await
}

/// A broker whose log has failed does the work of BrokerService no more, although it
/// still reads; AdminService tells why.
async fn no_health_after_a_failure(
    health: HealthReporter,
    log: log::Reader,
    stopping: CancellationToken,
) {
    while log.failure().is_none() {
        tokio::select! {
            () = tokio::time::sleep(FAILURE_LOOK) => {}
            () = stopping.cancelled() => return,
        }
    }
    health
        .set_not_serving::<BrokerServiceServer<Services>>()
        .await;
}

/// Turns the status of a request that tonic refused, because it is too large or
/// no message, into one of the API's.
fn in_the_apis_terms<B>(mut response: Response<B>) -> Response<B> {
    if let Some(status) = Status::from_header_map(response.headers())
        && status.code() != tonic::Code::Ok
    {
        // A status that cannot be written as headers stays as it was.
        let _ = unread_message(status).add_header(response.headers_mut());
    }
    response
}
