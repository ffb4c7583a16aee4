//! A broker in a process of its own.

use std::path::Path;

use anyhow::Context;

use sluice_broker::{Broker, config::Config};

/// Serves until the process is killed. Limits are as NAME=VALUE.
pub(crate) async fn broker(data_dir: &Path, limits: &[String]) -> anyhow::Result<()> {
    sluice_broker::allocator::keep_freed_memory();
    let config = Config {
        limits: toml::from_str(&limits.join("\n")).context("limits")?,
        ..Config::local(data_dir)
    };
    let broker = Broker::start(config).await?;
    println!("listening on {}", broker.addr());
    std::future::pending().await
}
