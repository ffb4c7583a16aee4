//! A broker in a process of its own.

use std::path::Path;

use sluice_broker::{Broker, config::Config};

/// Serves until the process is killed.
pub(crate) async fn broker(data_dir: &Path) -> anyhow::Result<()> {
    let broker = Broker::start(Config::local(data_dir)).await?;
    println!("listening on {}", broker.addr());
    std::future::pending().await
}
