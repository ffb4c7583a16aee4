//! Where the sequencer's threads are while there is nothing to do.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::Wake,
};

/// Waking it calls one thread: one that waits, or the next one that is about to.
/// Whoever is called looks at all that there is to do.
#[derive(Debug, Default)]
pub(super) struct Idle {
    state: Mutex<State>,
    called: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// One was called and is not there yet.
    called: bool,
    waiting: usize,
}

impl Idle {
    /// Waits for a call.
    pub(super) fn wait(&self) {
        let mut state = self.state();
        state.waiting += 1;
        while !state.called {
            let waited = self.called.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
        state.called = false;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under this lock can leave it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Idle {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut state = self.state();
        // To tell the system, of nobody, costs as much as a write.
        let tells = !state.called && state.waiting > 0;
        state.called = true;
        drop(state);
        if tells {
            self.called.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc,
        thread,
        time::{Duration, Instant},
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    /// So many threads wait; each tells when it was called.
    fn waiting(idle: &Arc<Idle>, threads: usize) -> mpsc::Receiver<()> {
        let (came, comes) = mpsc::channel();
        for _ in 0..threads {
            let (idle, came) = (idle.clone(), came.clone());
            thread::spawn(move || {
                idle.wait();
                let _ = came.send(());
            });
        }
        comes
    }

    #[test]
    fn a_call_is_kept_for_the_next_one_that_waits() {
        let idle = Arc::<Idle>::default();
        idle.wake_by_ref();
        idle.wake_by_ref();
        // Both calls came before anybody waited: they are one.
        let comes = waiting(&idle, 2);
        assert_eq!(comes.recv_timeout(LONG), Ok(()));
        assert!(comes.try_recv().is_err());
        idle.wake_by_ref();
        assert_eq!(comes.recv_timeout(LONG), Ok(()));
    }

    #[test]
    fn a_call_reaches_one_of_those_that_wait() {
        let idle = Arc::<Idle>::default();
        let comes = waiting(&idle, 2);
        let give_up = Instant::now() + LONG;
        while idle.state().waiting < 2 {
            assert!(Instant::now() < give_up, "both wait");
            thread::yield_now();
        }
        idle.wake_by_ref();
        assert_eq!(comes.recv_timeout(LONG), Ok(()));
        assert_eq!(idle.state().waiting, 1);
        idle.wake_by_ref();
        assert_eq!(comes.recv_timeout(LONG), Ok(()));
    }
}
