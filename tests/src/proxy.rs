//! A way to the broker that can be cut, and that leads to the same place after
//! the broker was restarted on another port.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
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
    /// Bytes that clients have said.
    asked: Arc<AtomicU64>,
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
        let asked = Arc::new(AtomicU64::new(0));
        let counter = asked.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (target, cut) = targets.borrow().clone();
                let (mute, counter) = (mute.clone(), counter.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = forward(client, target, mute, &counter) => {}
                        () = cut.cancelled() => {}
                    }
                });
            }
        });
        Self {
            addr,
            target,
            muted,
            asked,
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

    /// How many bytes clients have said so far.
    #[must_use]
    pub fn asked_bytes(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
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

async fn forward(
    client: TcpStream,
    target: String,
    mute: watch::Receiver<bool>,
    asked_bytes: &AtomicU64,
) {
    // A broker that is not there is a connection that ends.
    if let Ok(server) = TcpStream::connect(target).await {
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        let (asked, mut answers) = client.into_split();
        let (said, mut to_server) = server.into_split();
        let asking = async {
            ask(asked, &mut to_server, asked_bytes).await;
            let _ = to_server.shutdown().await;
        };
        tokio::join!(asking, answer(said, &mut answers, mute));
    }
}

/// Copies what the client says, and counts it.
async fn ask(
    mut asked: impl AsyncRead + Unpin,
    to_server: &mut (impl AsyncWrite + Unpin),
    asked_bytes: &AtomicU64,
) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(count @ 1..) = asked.read(&mut bytes).await {
        asked_bytes.fetch_add(count as u64, Ordering::Relaxed);
        if to_server.write_all(&bytes[..count]).await.is_err() {
            break;
        }
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
