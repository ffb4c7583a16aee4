//! The servers of a comparison: a new one for each load, but those that take long to
//! start, or that somebody else has started, stay, and each load makes topics of its own
//! on them.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    load::{
        target::Target,
        workload::{Kind, Spec},
    },
    process,
    targets::{Broker, address::Addresses},
};

/// Starts servers over folders of their own in a folder.
pub(super) struct Servers {
    folder: PathBuf,
    addresses: Addresses,
    kept: Vec<(Broker, Arc<dyn Target>)>,
}

impl Servers {
    pub(super) fn new(folder: &Path, addresses: &Addresses) -> Self {
        Self {
            folder: folder.to_owned(),
            addresses: addresses.clone(),
            kept: Vec::new(),
        }
    }

    /// A server for a load.
    pub(super) fn start(&mut self, broker: Broker, spec: &Spec) -> anyhow::Result<Arc<dyn Target>> {
        if let Some((_, target)) = self.kept.iter().find(|(kept, _)| *kept == broker) {
            if let Some(pid) = target.pid() {
                process::forget_peak_memory(pid)?;
            }
            return Ok(target.clone());
        }
        let target = broker.start(tempfile::tempdir_in(&self.folder)?, &self.addresses)?;
        // What is to be killed has nothing of other loads to open.
        if broker.stays() && spec.kind != Kind::Recovery {
            self.kept.push((broker, target.clone()));
        }
        Ok(target)
    }

    /// To be called when a load is over, and whoever held its server has let it go:
    /// a server on which a load has failed goes, and the disk is idle for the next.
    pub(super) fn settle(&mut self, broker: Broker, has_failed: bool) -> anyhow::Result<()> {
        if has_failed {
            self.kept.retain(|(kept, _)| *kept != broker);
        }
        rustix::fs::syncfs(File::open(&self.folder)?)?;
        Ok(())
    }
}
