//! All that goes over a connection, in one task.
//!
//! ```text
//!  connection's task ┬ HTTP/2: reads frames, writes frames
//!                    ├ a call: its handler, then its responses
//!                    └ a stream's incoming half
//! ```
//!
//! hyper would give each call a task of its own. Whatever goes over the connection
//! takes the lock of its HTTP/2 state several times; on two threads they wait for
//! each other, and each message that comes in or goes out wakes another thread. What
//! all connections have to do with, the groups and the log, runs elsewhere, and so
//! does a connection that is served beside this one.

use std::{
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::{
    FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered, task::AtomicWaker,
};
use hyper::rt::Executor;
use tokio::sync::mpsc;

/// So often in a row a connection's task goes on with what it has woken itself,
/// before others have their turn. What comes from outside is bounded by tokio's
/// budget.
const TURNS_MAX: usize = 32;

/// Where what is to run in a connection's task goes in. Cheap to clone.
///
/// There is room for all: the connection has so many calls as it may, and each puts
/// one more in at most.
#[derive(Clone, Debug)]
pub(super) struct Calls(mpsc::UnboundedSender<BoxFuture<'static, ()>>);

impl Calls {
    /// Runs it until it ends, also when the connection is gone. A panic ends it
    /// alone.
    pub(super) fn run(&self, call: impl Future<Output = ()> + Send + 'static) {
        let call = AssertUnwindSafe(call).catch_unwind().map(drop);
        // Only while the broker stops there is no task any more.
        let _ = self.0.send(call.boxed());
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Calls {
    fn execute(&self, call: F) {
        self.run(call);
    }
}

/// A connection together with what goes in at its [`Calls`]; done when both are.
pub(super) struct Together<C> {
    connection: Option<Pin<Box<C>>>,
    calls: FuturesUnordered<BoxFuture<'static, ()>>,
    new: mpsc::UnboundedReceiver<BoxFuture<'static, ()>>,
    woken: Arc<Woken>,
    /// Of `woken`.
    waker: Waker,
}

impl<C: Future<Output = ()>> Together<C> {
    pub(super) fn new(connection: impl FnOnce(Calls) -> C) -> Self {
        let (calls, new) = mpsc::unbounded_channel();
        let woken = Arc::<Woken>::default();
        Self {
            connection: Some(Box::pin(connection(Calls(calls)))),
            calls: FuturesUnordered::new(),
            new,
            waker: woken.clone().into(),
            woken,
        }
    }

    fn take_turn(&mut self) -> Poll<()> {
        let mut context = Context::from_waker(&self.waker);
        if let Some(connection) = &mut self.connection
            && connection.as_mut().poll(&mut context).is_ready()
        {
            self.connection = None;
        }
        while let Poll::Ready(Some(call)) = self.new.poll_recv(&mut context) {
            self.calls.push(call);
        }
        while let Poll::Ready(Some(())) = self.calls.poll_next_unpin(&mut context) {}
        let is_over = self.connection.is_none() && self.calls.is_empty() && self.new.is_empty();
        if is_over {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl<C: Future<Output = ()>> Future for Together<C> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.woken.task.register(context.waker());
        for _ in 0..TURNS_MAX {
            self.woken.begin_turn();
            if self.take_turn().is_ready() {
                return Poll::Ready(());
            }
            if self.woken.may_wait() {
                return Poll::Pending;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Whether one of those in a task has been woken. While the task has its turn it
/// needs no waking itself: it goes on. Otherwise the scheduler would be told for
/// every message that one of them has for another, and tell another thread.
#[derive(Debug, Default)]
struct Woken {
    state: AtomicU8,
    task: AtomicWaker,
}

/// One was woken, and the task was woken for it or has its turn.
const WOKEN: u8 = 0;
/// The task has its turn, and none was woken since it began.
const TURN: u8 = 1;
/// The task waits.
const WAITS: u8 = 2;

impl Woken {
    fn begin_turn(&self) {
        self.state.store(TURN, Ordering::SeqCst);
    }

    /// Whether the turn is over without anything that was woken in it.
    fn may_wait(&self) -> bool {
        let change = (TURN, WAITS, Ordering::SeqCst, Ordering::SeqCst);
        self.state
            .compare_exchange(change.0, change.1, change.2, change.3)
            .is_ok()
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(WOKEN, Ordering::SeqCst) == WAITS {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{sync::oneshot, task::yield_now, time::timeout};

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    /// A connection that hands out its calls, and lasts until it is told to end.
    fn connection() -> (
        Together<impl Future<Output = ()>>,
        Calls,
        oneshot::Sender<()>,
    ) {
        let (end, ended) = oneshot::channel();
        let mut handed_out = None;
        let together = Together::new(|calls| {
            handed_out = Some(calls);
            async move {
                let _ = ended.await;
            }
        });
        (together, handed_out.expect("it was called"), end)
    }

    #[tokio::test]
    async fn calls_wake_each_other_and_are_woken_from_outside() {
        let (together, calls, end) = connection();
        let task = tokio::spawn(together);
        let (to_first, mut first) = mpsc::channel(1);
        let (to_second, mut second) = mpsc::channel(1);
        let (done, all_came) = oneshot::channel();
        calls.run(async move {
            while let Some(number) = first.recv().await {
                let _ = to_second.send(number).await;
            }
        });
        calls.run(async move {
            let mut came = Vec::new();
            while let Some(number) = second.recv().await {
                came.push(number);
            }
            let _ = done.send(came);
        });
        // More than a turn has, with and without time for the task to wait.
        for number in 0..1000 {
            to_first.send(number).await.expect("the call waits for it");
            if number % 7 == 0 {
                yield_now().await;
            }
        }
        drop(to_first);
        let came = timeout(LONG, all_came).await.expect("in time");
        assert_eq!(came, Ok((0..1000).collect()));
        let _ = end.send(());
        timeout(LONG, task)
            .await
            .expect("in time")
            .expect("it ends");
    }

    #[tokio::test]
    async fn calls_outlive_the_connection_and_panic_alone() {
        let (together, calls, end) = connection();
        let task = tokio::spawn(together);
        let (go_on, goes_on) = oneshot::channel();
        let (done, is_done) = oneshot::channel();
        calls.run(async { panic!("this one is meant to") });
        let inner = calls.clone();
        calls.run(async move {
            let _ = goes_on.await;
            // One that begins when the connection is gone is run, too.
            inner.run(async move {
                let _ = done.send(());
            });
        });
        let _ = end.send(());
        for _ in 0..100 {
            yield_now().await;
        }
        assert!(!task.is_finished(), "a call is still there");
        let _ = go_on.send(());
        assert_eq!(timeout(LONG, is_done).await.expect("in time"), Ok(()));
        timeout(LONG, task)
            .await
            .expect("in time")
            .expect("it ends");
    }

    #[tokio::test]
    async fn a_call_that_always_goes_on_leaves_turns_to_others() {
        let (together, calls, end) = connection();
        let (stop, mut stopped) = oneshot::channel::<()>();
        calls.run(async move {
            while stopped.try_recv().is_err() {
                // It wakes itself, and costs no budget.
                let mut polled = false;
                std::future::poll_fn(|context| {
                    context.waker().wake_by_ref();
                    if std::mem::replace(&mut polled, true) {
                        Poll::Ready(())
                    } else {
                        Poll::Pending
                    }
                })
                .await;
            }
        });
        let task = tokio::spawn(together);
        // On the same thread, which is the only one of this runtime.
        for _ in 0..10 {
            yield_now().await;
        }
        let _ = stop.send(());
        let _ = end.send(());
        timeout(LONG, task)
            .await
            .expect("in time")
            .expect("it ends");
    }
}
