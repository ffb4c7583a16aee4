//! A way to the broker that can be cut, and that leads to the same place after
//! the broker was restarted on another port.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream, tcp::OwnedWriteHalf},
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
    /// What the broker says is kept back.
    muted: watch::Sender<bool>,
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
        let muted = watch::Sender::new(false);
        let mute = muted.subscribe();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (target, cut) = targets.borrow().clone();
                let mute = mute.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = forward(client, target, mute) => {}
                        () = cut.cancelled() => {}
                    }
                });
            }
        });
        Self {
            addr,
            target,
            muted,
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

    /// Keeps back what the broker says from now on, or lets it through; what clients say
    /// goes on.
    pub fn mute(&self, muted: bool) {
        self.muted.send_replace(muted);
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

async fn forward(client: TcpStream, target: String, mute: watch::Receiver<bool>) {
    // A broker that is not there is a connection that ends.
    if let Ok(server) = TcpStream::connect(target).await {
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        let (mut asked, mut answers) = client.into_split();
        let (said, mut to_server) = server.into_split();
        let asking = async {
            let _ = copy(&mut asked, &mut to_server).await;
            let _ = to_server.shutdown().await;
        };
        tokio::join!(asking, answer(said, &mut answers, mute));
    }
}

/// Copies what the broker says, while it is not kept back.
async fn answer(
    mut said: impl AsyncRead + Unpin,
    answers: &mut OwnedWriteHalf,
    mut mute: watch::Receiver<bool>,
) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(count @ 1..) = said.read(&mut bytes).await {
        let let_through = mute.wait_for(|muted| !muted).await.is_ok();
        if !let_through || answers.write_all(&bytes[..count]).await.is_err() {
            break;
        }
    }
    let _ = answers.shutdown().await;
}
