//! An answer to a pull that nobody has read yet.

use tokio::sync::{mpsc, oneshot};

use super::{
    command::{Command, Pulled},
    handle::{GroupGone, send_later},
};

/// Dropped before it is read, what it brought goes back to the group: nobody has begun
/// to work on it.
pub(super) struct Unread {
    answer: oneshot::Receiver<Pulled>,
    commands: mpsc::Sender<Command>,
}

impl Unread {
    pub(super) fn new(commands: mpsc::Sender<Command>, answer: oneshot::Receiver<Pulled>) -> Self {
        Self { answer, commands }
    }

    pub(super) async fn read(mut self) -> Result<Pulled, GroupGone> {
        (&mut self.answer).await.map_err(|_| GroupGone)
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.answer.close();
        // Not when it was read.
        if let Ok(pulled) = self.answer.try_recv() {
            let tokens: Vec<_> = pulled.deliveries.iter().map(|of| of.token).collect();
            if !tokens.is_empty() {
                send_later(&self.commands, Command::HandBack { tokens });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use bytes::Bytes;
    use sluice_proto::deliveries::DeliveryHead;

    use super::*;
    use crate::group::{LeaseToken, command::IdleReason, message::Delivery};

    const TOKEN: LeaseToken = LeaseToken {
        epoch: 3,
        counter: 7,
    };

    fn one_event() -> Pulled {
        let delivery = Delivery {
            token: TOKEN,
            head: DeliveryHead::default(),
            event: Bytes::new(),
        };
        Pulled {
            deliveries: vec![delivery],
            idle: IdleReason::Delivering,
            lease_ms: 1000,
        }
    }

    #[tokio::test]
    async fn what_comes_for_a_caller_who_is_gone_goes_back() {
        let (commands, mut inbox) = mpsc::channel(1);
        let (reply, answer) = oneshot::channel();
        let unread = Unread::new(commands.clone(), answer);
        reply.send(one_event()).unwrap();
        drop(unread);
        let Ok(Command::HandBack { tokens }) = inbox.try_recv() else {
            panic!("it does not go back");
        };
        assert_eq!(tokens, [TOKEN]);

        let (reply, answer) = oneshot::channel();
        let unread = Unread::new(commands.clone(), answer);
        drop(unread);
        assert!(reply.send(one_event()).is_err(), "the group sees it itself");

        let (reply, answer) = oneshot::channel();
        let unread = Unread::new(commands, answer);
        reply.send(one_event()).unwrap();
        assert_eq!(unread.read().await.unwrap().deliveries.len(), 1);
        assert!(inbox.try_recv().is_err(), "what is read stays");
    }
}
