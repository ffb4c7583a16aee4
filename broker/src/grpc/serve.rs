//! The HTTP/2 server: its settings, and the services on it.

use std::{convert::Infallible, sync::Arc, time::Duration};

use futures_util::StreamExt;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use sluice_proto::{
    FILE_DESCRIPTOR_SET,
    wire::{admin_service_server::AdminServiceServer, broker_service_server::BrokerServiceServer},
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    body::Body,
    codegen::{
        Service,
        http::{Request, Response},
    },
    service::Routes,
    transport::server::Connected,
};
use tonic_health::server::HealthReporter;

use super::{
    admission::deadline,
    api::Api,
    calls::{Calls, Together},
    connections::{self, Connection},
    refusal::unread_message,
    service::Services,
};
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
/// Streams that the server resets because of the client's faults, before it cuts
/// the connection.
const ERROR_RESETS_MAX: usize = 1024;
/// How often it is looked whether the log has failed, for the health service.
const FAILURE_LOOK: Duration = Duration::from_millis(200);
/// After an error of the listener, such as too many open files, before it is asked
/// again.
const LISTEN_AGAIN_AFTER: Duration = Duration::from_millis(10);
/// Room for a response that holds one event of the largest size.
const RESPONSE_OVERHEAD: usize = 1 << 20;

/// Serves until `api.stopping` is cancelled and every call has ended. Dropping it
/// cuts those that have not.
pub(crate) async fn serve(api: Arc<Api>, listener: TcpListener) {
    let stopping = api.stopping.clone();
    let streams_max = api.limits.connection_streams_max;
    let log = api.log.clone();
    let mut incoming = std::pin::pin!(connections::limited(listener, api.limits.connections_max));
    let (health, routes) = routes(api).await;
    let mut serving = JoinSet::new();
    serving.spawn(no_health_after_a_failure(
        health.clone(),
        log,
        stopping.clone(),
    ));
    loop {
        tokio::select! {
            () = stopping.cancelled() => break,
            accepted = incoming.next() => match accepted {
                Some(Ok(connection)) => {
                    let (routes, stopping) = (routes.clone(), stopping.clone());
                    let together = |calls| speak(connection, calls, routes, streams_max, stopping);
                    serving.spawn(Together::new(together));
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(LISTEN_AGAIN_AFTER).await;
                }
                None => break,
            },
            Some(_) = serving.join_next() => {}
        }
    }
    set_not_serving(&health).await;
    while serving.join_next().await.is_some() {}
}

/// All services, and who tells of their health.
async fn routes(api: Arc<Api>) -> (HealthReporter, Routes) {
    let request_bytes_max = api.limits.request_bytes_max;
    let response_bytes_max = request_bytes_max + RESPONSE_OVERHEAD;
    let services = Services(api);
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<BrokerServiceServer<Services>>().await;
    health.set_serving::<AdminServiceServer<Services>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let routes = Routes::new(health_service)
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
    (health, routes.prepare())
}

async fn set_not_serving(health: &HealthReporter) {
    health
        .set_not_serving::<BrokerServiceServer<Services>>()
        .await;
    health
        .set_not_serving::<AdminServiceServer<Services>>()
        .await;
}

/// Speaks HTTP/2 on a connection, until it ends or `stopping` is cancelled and its
/// calls have ended.
async fn speak(
    connection: Connection,
    calls: Calls,
    routes: Routes,
    streams_max: u32,
    stopping: CancellationToken,
) {
    let from = connection.connect_info();
    let each = calls.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(from.clone());
        request.extensions_mut().insert(each.clone());
        answer(routes.clone(), request.map(Body::new))
    });
    let served = http2::Builder::new(calls)
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(KEEPALIVE))
        .keep_alive_timeout(KEEPALIVE)
        .max_concurrent_streams(Some(streams_max))
        .max_local_error_reset_streams(Some(ERROR_RESETS_MAX))
        .max_frame_size(Some(FRAME_BYTES))
        .initial_stream_window_size(Some(STREAM_WINDOW_BYTES))
        .initial_connection_window_size(Some(CONNECTION_WINDOW_BYTES))
        .serve_connection(TokioIo::new(connection), service);
    let mut served = std::pin::pin!(served);
    let result = tokio::select! {
        result = &mut served => result,
        () = stopping.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection has ended");
    }
}

/// Answers a request, until its deadline if it has one.
async fn answer(mut routes: Routes, request: Request<Body>) -> Result<Response<Body>, Infallible> {
    let deadline = deadline(request.headers());
    let answered = routes.call(request);
    let response = match deadline {
        None => answered.await?,
        Some(deadline) => match tokio::time::timeout(deadline, answered).await {
            Ok(response) => response?,
            Err(_) => late().into_http(),
        },
    };
    Ok(in_the_apis_terms(response))
}

fn late() -> Status {
    Status::cancelled("Timeout expired")
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
fn in_the_apis_terms(mut response: Response<Body>) -> Response<Body> {
    if let Some(status) = Status::from_header_map(response.headers())
        && status.code() != tonic::Code::Ok
    {
        // A status that cannot be written as headers stays as it was.
        let _ = unread_message(status).add_header(response.headers_mut());
    }
    response
}
