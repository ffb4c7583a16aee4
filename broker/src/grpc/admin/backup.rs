//! Backup: the log as it is now, sent to whoever keeps it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use sluice_proto::wire::{self, backup_response::Message};
use tokio::{runtime::Handle, sync::mpsc, time::timeout};
use tonic::Status;

use crate::{
    grpc::{
        api::Api,
        authorize::{Action, Resource},
        convert,
        refusal::Refusal,
    },
    log::{CopyError, Piece, Snapshot},
};

/// Responses that may wait for the connection, of at most 256 KiB each.
const RESPONSES_MAX: usize = 4;

/// How far the backup is that is under way, if there is one.
#[derive(Clone, Debug, Default)]
pub(in crate::grpc) struct Progress(Arc<Mutex<Option<wire::BackupProgress>>>);

impl Progress {
    pub(in crate::grpc) fn now(&self) -> Option<wire::BackupProgress> {
        *self.lock()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<wire::BackupProgress>> {
        // It is changed in one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Responses = mpsc::Sender<Result<wire::BackupResponse, Status>>;

/// Checks a request, and starts to answer it.
pub(in crate::grpc) async fn start(
    api: Arc<Api>,
    request: wire::BackupRequest,
) -> Result<mpsc::Receiver<Result<wire::BackupResponse, Status>>, Refusal> {
    api.allow(Action::Administer, Resource::Broker)?;
    let asked = convert::count("bytes_per_second_max", request.bytes_per_second_max)?;
    let rate = match asked {
        0 => api.limits.backup_bytes_per_s,
        asked => asked.min(api.limits.backup_bytes_per_s),
    };
    let log = api.log.clone();
    let snapshot = tokio::task::spawn_blocking(move || log.snapshot())
        .await
        .map_err(Refusal::internal)??;
    let (responses, stream) = mpsc::channel(RESPONSES_MAX);
    let sending = Sending::new(api, rate, responses);
    tokio::task::spawn_blocking(move || sending.run(snapshot));
    Ok(stream)
}

/// A backup that is under way, on a thread of its own.
struct Sending {
    api: Arc<Api>,
    responses: Responses,
    runtime: Handle,
    bytes_per_second: u64,
    begun: Instant,
    /// Bytes of all files.
    sent: u64,
    file: OfFile,
}

/// What was sent of a file.
#[derive(Default)]
struct OfFile {
    bytes: u64,
    crc32: crc32fast::Hasher,
}

/// Why no more is sent.
#[derive(Debug)]
enum Stopped {
    /// Nobody takes it.
    Gone,
    /// It was not taken in time.
    Stalled(Duration),
    /// The broker is shutting down.
    Stopping,
}

impl Sending {
    fn new(api: Arc<Api>, bytes_per_second: u64, responses: Responses) -> Self {
        Self {
            api,
            responses,
            runtime: Handle::current(),
            bytes_per_second,
            begun: Instant::now(),
            sent: 0,
            file: OfFile::default(),
        }
    }

    fn run(mut self, snapshot: Snapshot) {
        let progress = self.api.backup.clone();
        let begun = self.begun_message(&snapshot);
        *progress.lock() = Some(wire::BackupProgress {
            began_at: begun.began_at,
            sent_bytes: 0,
            total_bytes: begun.total_bytes,
        });
        tracing::info!(end = %snapshot.end(), files = begun.file_count, "a backup begins");
        let result = self.send_all(&snapshot, begun);
        *progress.lock() = None;
        // Only now can there be another one.
        drop(snapshot);
        match result {
            Ok(()) => tracing::info!(bytes = self.sent, "a backup is done"),
            Err(CopyError::Stopped(Stopped::Gone)) => {
                tracing::warn!(bytes = self.sent, "a backup was broken off by its client");
            }
            Err(CopyError::Stopped(Stopped::Stalled(after))) => tracing::warn!(
                bytes = self.sent,
                "a backup is broken off, because its client has taken nothing for {after:?}"
            ),
            Err(CopyError::Stopped(Stopped::Stopping)) => {
                let _ = self
                    .responses
                    .try_send(Err(Refusal::shutting_down().into()));
            }
            Err(CopyError::Log(error)) => {
                tracing::error!(%error, "a backup is broken off");
                let refusal = Refusal::unreadable_log(error);
                let _ = self.responses.blocking_send(Err(refusal.into()));
            }
        }
    }

    fn begun_message(&self, snapshot: &Snapshot) -> wire::BackupBegun {
        let log = &self.api.info.recovery.log;
        let segments = snapshot.segments();
        let bytes = segments.iter().map(|segment| {
            let end = segment.end.min(snapshot.end());
            end.0 - segment.base.0
        });
        wire::BackupBegun {
            version: env!("CARGO_PKG_VERSION").into(),
            source_log_id: convert::log_id(log.log_id),
            source_log_epoch: log.epoch as i64,
            log_id: convert::log_id(snapshot.log_id()),
            end_position: snapshot.end().0 as i64,
            file_count: segments.len() as i64,
            total_bytes: bytes.sum::<u64>() as i64,
            began_at: Some(convert::time(SystemTime::now())),
        }
    }

    fn send_all(
        &mut self,
        snapshot: &Snapshot,
        begun: wire::BackupBegun,
    ) -> Result<(), CopyError<Stopped>> {
        let ended = wire::BackupEnded {
            file_count: begun.file_count,
        };
        let stopped = CopyError::Stopped;
        self.send(Message::Begun(begun)).map_err(stopped)?;
        snapshot.copy(&mut |piece| self.piece(piece))?;
        self.send(Message::Ended(ended)).map_err(stopped)
    }

    fn piece(&mut self, piece: Piece<'_>) -> Result<(), Stopped> {
        match piece {
            Piece::File { name, size } => {
                self.file = OfFile::default();
                self.send(Message::File(wire::BackupFile {
                    path: format!("log/{name}"),
                    size: size as i64,
                }))
            }
            Piece::Bytes(bytes) => {
                self.file.crc32.update(bytes);
                self.file.bytes += bytes.len() as u64;
                self.send(Message::Data(Bytes::copy_from_slice(bytes)))?;
                self.sent += bytes.len() as u64;
                if let Some(progress) = &mut *self.api.backup.lock() {
                    progress.sent_bytes = self.sent as i64;
                }
                self.slow_down()
            }
            Piece::FileEnd => {
                let of = std::mem::take(&mut self.file);
                self.send(Message::FileEnd(wire::BackupFileEnd {
                    data_bytes: of.bytes as i64,
                    crc32: of.crc32.finalize(),
                }))
            }
        }
    }

    /// Waits until what was sent may have been.
    fn slow_down(&self) -> Result<(), Stopped> {
        let due = Duration::from_secs_f64(self.sent as f64 / self.bytes_per_second as f64);
        let Some(wait) = due.checked_sub(self.begun.elapsed()) else {
            return Ok(());
        };
        self.runtime.block_on(async {
            tokio::select! {
                () = tokio::time::sleep(wait) => Ok(()),
                () = self.responses.closed() => Err(Stopped::Gone),
                () = self.api.stopping.cancelled() => Err(Stopped::Stopping),
            }
        })
    }

    fn send(&self, message: Message) -> Result<(), Stopped> {
        let response = wire::BackupResponse {
            message: Some(message),
        };
        let after = Duration::from_millis(self.api.limits.backup_stall_ms);
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.api.stopping.cancelled() => Err(Stopped::Stopping),
                sent = timeout(after, self.responses.send(Ok(response))) => match sent {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(_)) => Err(Stopped::Gone),
                    Err(_) => Err(Stopped::Stalled(after)),
                },
            }
        })
    }
}
