//! Servers that run already, by their addresses.

#[cfg(any(feature = "iggy", feature = "kafka"))]
use std::str::FromStr;

#[cfg(any(feature = "iggy", feature = "kafka"))]
use anyhow::{Context, ensure};
use clap::Args;

use super::Broker;

/// Where servers are that somebody else has started.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Addresses {
    /// Also measures the Kafka that listens there, which is taken to ack as it does by
    /// default. Nothing is told of its process, it is not killed, and the topics that
    /// were made are removed.
    #[cfg(feature = "kafka")]
    #[arg(long = "kafka-address", value_name = "HOST:PORT")]
    pub(super) kafka: Option<Address>,
    /// In the same way, the Apache Iggy whose TCP listener is there.
    #[cfg(feature = "iggy")]
    #[arg(long = "iggy-address", value_name = "[USER:PASSWORD@]HOST:PORT")]
    pub(super) iggy: Option<IggyAddress>,
}

impl Addresses {
    /// The brokers that are there.
    pub(crate) fn brokers(&self) -> Vec<Broker> {
        #[allow(unused_mut, reason = "there may be no others in a build")]
        let mut brokers = Vec::new();
        #[cfg(feature = "kafka")]
        brokers.extend(self.kafka.as_ref().map(|_| Broker::KafkaGiven));
        #[cfg(feature = "iggy")]
        brokers.extend(self.iggy.as_ref().map(|_| Broker::IggyGiven));
        brokers
    }
}

/// A host, by its name or number, and a port.
#[cfg(any(feature = "iggy", feature = "kafka"))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    host: String,
    pub(super) port: u16,
}

#[cfg(any(feature = "iggy", feature = "kafka"))]
impl Address {
    pub(super) fn of_loopback(port: u16) -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port,
        }
    }
}

#[cfg(any(feature = "iggy", feature = "kafka"))]
impl FromStr for Address {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (host, port) = text.rsplit_once(':').context("there is no port")?;
        let is_bracketed = host.starts_with('[') && host.ends_with(']');
        ensure!(!host.is_empty(), "there is no host");
        ensure!(
            is_bracketed || !host.contains(':'),
            "an IPv6 address is written in brackets, as in [::1]:{port}"
        );
        let port = port.parse();
        let port: u16 = port.context("the port is not a number from 1 to 65535")?;
        ensure!(port > 0, "the port is not a number from 1 to 65535");
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

#[cfg(any(feature = "iggy", feature = "kafka"))]
impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Where a server of Iggy is, and who is known there.
#[cfg(feature = "iggy")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IggyAddress {
    pub(super) user: String,
    pub(super) password: String,
    pub(super) address: Address,
}

#[cfg(feature = "iggy")]
impl IggyAddress {
    /// As the user that a server has by default.
    pub(super) fn of(address: Address) -> Self {
        Self {
            user: "iggy".to_owned(),
            password: "iggy".to_owned(),
            address,
        }
    }
}

#[cfg(feature = "iggy")]
impl FromStr for IggyAddress {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let Some((user, address)) = text.rsplit_once('@') else {
            return Ok(Self::of(text.parse()?));
        };
        let (user, password) = user.split_once(':').context("there is no password")?;
        for (name, value) in [("user", user), ("password", password)] {
            ensure!(
                (1..=255).contains(&value.len()),
                "the {name} has {} bytes, not from 1 to 255",
                value.len()
            );
        }
        Ok(Self {
            user: user.to_owned(),
            password: password.to_owned(),
            address: address.parse()?,
        })
    }
}

#[cfg(test)]
#[cfg(all(feature = "iggy", feature = "kafka"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for text in ["localhost:9092", "10.0.0.7:1", "[::1]:65535"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for (text, why) in [
            ("localhost", "no port"),
            (":9092", "no host"),
            ("localhost:", "port is not"),
            ("localhost:0", "port is not"),
            ("localhost:65536", "port is not"),
            ("::1:9092", "in brackets"),
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(format!("{error:#}").contains(why), "{text}: {error:#}");
        }
    }

    #[test]
    fn iggy_has_a_user_by_default() {
        let address: IggyAddress = "host:8090".parse().unwrap();
        assert_eq!(
            (address.user, address.password),
            ("iggy".into(), "iggy".into())
        );
        let address: IggyAddress = "me:a:b@c@host:8090".parse().unwrap();
        assert_eq!(
            (address.user, address.password),
            ("me".into(), "a:b@c".into())
        );
        assert_eq!(address.address.to_string(), "host:8090");
        for text in ["me@host:8090", ":x@host:8090", "me:@host:8090", "me:x@host"] {
            assert!(text.parse::<IggyAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn servers_that_are_given_are_the_brokers() {
        assert!(Addresses::default().brokers().is_empty());
        let given = Addresses {
            kafka: Some("localhost:9092".parse().unwrap()),
            iggy: None,
        };
        assert_eq!(given.brokers(), [Broker::KafkaGiven]);
    }
}
