//! A broker in a process of its own, over a folder of its own.

use std::{ffi::OsStr, path::Path};

use sluice_proto::pb::{self, admin_service_client::AdminServiceClient};
use tonic::transport::Channel;

use super::connect;
use crate::process::{self, ServerProcess};

/// It is killed, and its folder removed, when this is dropped.
pub(crate) struct OwnBroker {
    pub(crate) process: ServerProcess,
    _dir: tempfile::TempDir,
}

impl OwnBroker {
    /// Starts one over a new folder in `dir`, or where the system has its own.
    pub(crate) fn start(dir: Option<&Path>) -> anyhow::Result<Self> {
        Self::start_with(dir, &[])
    }

    /// With limits, as NAME=VALUE.
    pub(crate) fn start_with(dir: Option<&Path>, limits: &[&str]) -> anyhow::Result<Self> {
        let dir = process::temporary_folder(dir)?;
        let mut args: Vec<&OsStr> = vec!["broker".as_ref(), dir.path().as_os_str()];
        args.extend(limits.iter().map(OsStr::new));
        Ok(Self {
            process: ServerProcess::start(&args)?,
            _dir: dir,
        })
    }

    pub(crate) async fn admin(&self) -> anyhow::Result<AdminServiceClient<Channel>> {
        Ok(AdminServiceClient::new(connect(self.process.addr()).await?))
    }

    /// Makes a topic of the default configuration.
    pub(crate) async fn create_topic(&self, topic: &str) -> anyhow::Result<()> {
        let request = pb::CreateTopicRequest {
            topic: topic.to_owned(),
            config: None,
        };
        self.admin().await?.create_topic(request).await?;
        Ok(())
    }
}
