//! A way to the broker that can be cut, and that leads to the same place after
//! the broker was restarted on another port.

use std::net::SocketAddr;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::broker::TestBroker;

/// Where nobody listens: a port that is not given out by itself, and needs
/// privileges.
const NOWHERE: &str = "127.0.0.1:1";

/// Forwards connections on a port of its own to a broker.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    /// Where the broker is, and what ends the connections to it.
    target: watch::Sender<(String, CancellationToken)>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A way to `broker` as it runs now.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn to(broker: &TestBroker) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a loopback port is free");
        let addr = listener.local_addr().expect("it is bound");
        let target = watch::Sender::new((broker.address().to_owned(), CancellationToken::new()));
        let targets = target.subscribe();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (target, cut) = targets.borrow().clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = forward(client, target) => {}
                        () = cut.cancelled() => {}
                    }
                });
            }
        });
        Self {
            addr,
            target,
            accepting,
        }
    }

    /// Where it listens, for as long as it is there.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Cuts all connections; new ones end at once, until the next cut.
    pub fn close(&self) {
        self.lead_to(NOWHERE);
    }

    /// Cuts all connections; new ones lead to `broker` as it runs now.
    pub fn cut(&self, broker: &TestBroker) {
        self.lead_to(broker.address());
    }

    fn lead_to(&self, address: &str) {
        let target = (address.to_owned(), CancellationToken::new());
        let (_, connections) = self.target.send_replace(target);
        connections.cancel();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.target.borrow().1.cancel();
    }
}

async fn forward(mut client: TcpStream, target: String) {
    // A broker that is not there is a connection that ends.
    if let Ok(mut server) = TcpStream::connect(target).await {
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        let _ = copy_bidirectional(&mut client, &mut server).await;
    }
}
