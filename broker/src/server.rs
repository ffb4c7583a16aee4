//! Puts the parts together in order, and takes them apart in the other.

use std::{fs::File, io, net::SocketAddr, sync::Arc, time::SystemTime};

use tokio::{net::TcpListener, task::JoinHandle, time::timeout};

use crate::{
    backup::{self, BackupError},
    commit::{self, CommitConfig, Running},
    config::{Config, ConfigError},
    data_dir::{self, LockError},
    flow::Flow,
    group::Groups,
    grpc::{self, Api, BrokerInfo},
    retention::{self, Retaining},
    space::Space,
    wall_clock::AgeClock,
};

/// A broker that serves.
pub struct Broker {
    addr: SocketAddr,
    api: Arc<Api>,
    serving: JoinHandle<()>,
    sequencer: Running,
    retaining: Retaining,
    drain: std::time::Duration,
    /// Held as long as the broker lives, so that no other opens the folder.
    _lock: File,
}

/// Why a broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data folder cannot be made or locked, or another broker has it.
    #[error(transparent)]
    Folder(#[from] LockError),
    /// It is a backup that is not whole.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// What is in it cannot be opened.
    #[error("the data cannot be opened: {0}")]
    Open(#[from] commit::OpenError),
    /// The address cannot be had.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, io::Error),
    /// A thread could not be started.
    #[error("a thread cannot be started: {0}")]
    Thread(io::Error),
    /// A thread ended with a panic.
    #[error("the data could not be opened: {0}")]
    Panicked(#[from] tokio::task::JoinError),
}

impl Broker {
    /// Starts a broker; it serves when this returns. Must run in a tokio
    /// runtime.
    ///
    /// # Errors
    /// When a setting is wrong, the data folder is in use or damaged, or the
    /// address cannot be had.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        config.validate()?;
        let lock = data_dir::lock(&config.data_dir)?;
        let copy_of = backup::of(&config.data_dir)?;
        if let Some(copy_of) = &copy_of {
            copy_of.check_sizes(&config.data_dir)?;
        }
        // First the address: whoever asks in vain is not kept waiting by a long
        // recovery, and a wrong one is told at once.
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|error| StartError::Listen(config.listen, error))?;
        let addr = listener
            .local_addr()
            .map_err(|error| StartError::Listen(config.listen, error))?;
        let data_dir = config.data_dir.clone();
        let commit_config = CommitConfig {
            is_copy: copy_of.is_some(),
            ..config.commit()
        };
        let opened =
            tokio::task::spawn_blocking(move || commit::open(&data_dir, commit_config)).await??;
        if let Some(copy_of) = copy_of {
            backup::forget(&config.data_dir)?;
            tracing::info!(
                taken_at = copy_of.taken_at,
                of = copy_of.source_log_id,
                "the data folder was a backup; it is this broker's own from now on"
            );
        }
        let space = Space::watch(&config.data_dir, config.limits.disk_reserve_bytes)
            .map_err(|error| LockError::Folder(config.data_dir.clone(), error))?;
        let recovery = opened.recovery;
        tracing::info!(
            data = %config.data_dir.display(), epoch = recovery.log.epoch,
            clean = recovery.log.clean, replayed_bytes = recovery.log.replayed_bytes,
            cut_bytes = recovery.log.cut_bytes, view_rebuilt = recovery.view_rebuilt,
            took_ms = recovery.took.as_millis() as u64, "data folder opened",
        );
        let clock = AgeClock::start(opened.retention_ms);
        let groups = Groups::new(
            opened.proposals.clone(),
            opened.store.clone(),
            config.group(),
            recovery.log.epoch,
            Flow::new(clock.clone()),
        );
        for (id, state) in opened.groups {
            groups.start(id, state);
        }
        let drain = config.drain();
        let parts = retention::Parts {
            proposals: opened.proposals.clone(),
            store: opened.store.clone(),
            reader: opened.reader.clone(),
            reclaimer: opened.reclaimer,
            followed: opened.followed,
            clock,
        };
        let retaining = Retaining::start(parts, config.retention()).map_err(StartError::Thread)?;
        let info = BrokerInfo {
            recovery,
            started: SystemTime::now(),
            retention: retaining.status(),
        };
        let api = Arc::new(Api::new(
            opened.proposals,
            opened.store,
            opened.reader,
            groups,
            space,
            config.limits,
            info,
        ));
        let serving = tokio::spawn(grpc::serve(api.clone(), listener));
        tracing::info!(%addr, "listening");
        Ok(Self {
            addr,
            api,
            serving,
            sequencer: opened.running,
            retaining,
            drain,
            _lock: lock,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops in order: long streams end and tell their clients to come back,
    /// other calls have `limits.drain_ms` to end, groups stop, and the log is
    /// closed. Everything that was acked is kept in any case.
    pub async fn shut_down(self) {
        tracing::info!("stopping");
        // Before anybody is cut.
        self.api.groups.keep_leases();
        self.api.stopping.cancel();
        let mut serving = self.serving;
        match timeout(self.drain, &mut serving).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the server ended with a panic"),
            Err(_) => {
                tracing::warn!("some calls did not end in time and are cut");
                serving.abort();
                let _ = serving.await;
            }
        }
        // What comes now is not worth waiting for more than a write.
        self.api.proposals.wait_for_no_room();
        self.api.groups.shut_down().await;
        let retaining = self.retaining;
        let _ = tokio::task::spawn_blocking(move || retaining.stop()).await;
        self.api.proposals.close().await;
        let sequencer = self.sequencer;
        let _ = tokio::task::spawn_blocking(move || sequencer.join()).await;
        tracing::info!("stopped");
    }
}
