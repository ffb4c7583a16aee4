//! What is not gRPC.

use rand::RngExt;
use sluice_tests::{api::expect, seed::seeded};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::bench::Bench;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_grpc_on_the_port_is_cut_off() {
    let mut bench = Bench::start().await;
    let mut random = seeded();
    let mut noise = vec![0; 64 << 10];
    random.fill(&mut noise[..]);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let cases = [
        ("HTTP/1", b"GET / HTTP/1.1\r\nhost: sluice\r\n\r\n".to_vec()),
        ("random bytes", noise.clone()),
        (
            "random bytes after the preface of HTTP/2",
            [preface, noise].concat(),
        ),
    ];
    for (case, bytes) in cases {
        let mut connection = TcpStream::connect(bench.broker.address()).await.unwrap();
        // It may be cut off before it has sent everything.
        let _ = connection.write_all(&bytes).await;
        let mut answer = vec![0; 4096];
        expect(case, async {
            while let Ok(1..) = connection.read(&mut answer).await {}
        })
        .await;
        bench.goes_on(case).await;
    }

    // Connections that say nothing do not stop others.
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(bench.broker.address()).await.unwrap());
    }
    bench.goes_on("silent connections").await;
    drop(silent);
    bench.finish().await;
}
