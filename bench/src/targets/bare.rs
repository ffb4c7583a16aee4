//! The bare path: what the API and durable writes alone can do.

use std::{ffi::OsStr, time::Instant};

use async_trait::async_trait;

use super::sluice::EventPublisher;
use crate::{
    api::publisher::Publisher,
    load::{
        target::{Consumer, Producer, Target},
        workload::Spec,
    },
    process::ServerProcess,
};

/// A bare path, with a file to write to or without.
pub(crate) struct Bare {
    process: ServerProcess,
    _dir: Option<tempfile::TempDir>,
}

impl Bare {
    /// gRPC, checksum, durable write, ack.
    pub(crate) fn start(dir: tempfile::TempDir) -> anyhow::Result<Self> {
        Self::start_with(dir, &[])
    }

    /// The same, to blocks that are allocated and were never written.
    pub(crate) fn start_on_new_blocks(dir: tempfile::TempDir) -> anyhow::Result<Self> {
        Self::start_with(dir, &["--new-blocks".as_ref()])
    }

    fn start_with(dir: tempfile::TempDir, options: &[&OsStr]) -> anyhow::Result<Self> {
        let file = dir.path().join("log");
        let args = [&["bare".as_ref(), file.as_os_str()], options].concat();
        Ok(Self {
            process: ServerProcess::start(&args)?,
            _dir: Some(dir),
        })
    }

    /// gRPC and ack.
    pub(crate) fn start_without_disk() -> anyhow::Result<Self> {
        Ok(Self {
            process: ServerProcess::start(&["bare".as_ref()])?,
            _dir: None,
        })
    }
}

#[async_trait]
impl Target for Bare {
    fn settings(&self) -> &str {
        "the same API, checksum and durable write, and no broker"
    }

    fn pid(&self) -> Option<u32> {
        Some(self.process.pid())
    }

    async fn create(&self, _: &[String], _: &Spec) -> anyhow::Result<()> {
        Ok(())
    }

    async fn restart(&self) -> anyhow::Result<Instant> {
        self.process.restart()
    }

    async fn producer(&self, topics: &[String], _: &Spec) -> anyhow::Result<Box<dyn Producer>> {
        Ok(Box::new(EventPublisher {
            topics: topics.to_vec(),
            publisher: Publisher::open(self.process.addr()).await?,
            encoded: None,
        }))
    }

    async fn consumer(&self, _: &str, _: usize, _: &Spec) -> anyhow::Result<Box<dyn Consumer>> {
        anyhow::bail!("nobody can read from the bare path")
    }
}
