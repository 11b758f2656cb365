//! What is on its way to a room: attributes of people and packets of captions, brought by a task of the room's own, so that a room
//! that does not answer delays nobody else. Rule: nothing here waits; of attributes the newest counts, packets beyond the limit are
//! dropped and counted.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use auralink_proto::livekit::DataPacket;
use auralink_signaling::rooms::{Rooms, RoomsError, To};
use tokio::sync::Notify;

/// Updates that may wait for a room: four a second of 64 speakers.
const LIMIT: usize = 256;

/// The near end. Dropping it ends the task; what waits is dropped.
pub struct Outbox {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    wake: Notify,
}

#[derive(Default)]
struct Pending {
    told: BTreeMap<Arc<str>, HashMap<String, String>>,
    updates: VecDeque<(Arc<str>, Vec<DataPacket>, To)>,
    over: bool,
}

/// One thing to bring.
#[derive(Debug)]
enum Letter {
    Attributes(Arc<str>, HashMap<String, String>),
    Packets(Vec<DataPacket>, To),
}

impl Outbox {
    /// Starts the room's task on the current runtime.
    pub fn open(rooms: Rooms, room: Arc<str>) -> Self {
        Self::with(move |letter| bring(rooms.clone(), Arc::clone(&room), letter))
    }

    fn with<F: Future<Output = ()> + Send>(bring: impl Fn(Letter) -> F + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let far = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Some(letter) = far.next().await {
                bring(letter).await;
            }
        });
        Self { shared }
    }

    /// One that brings nothing anywhere.
    #[cfg(test)]
    pub fn closed() -> Self {
        Self { shared: Arc::default() }
    }

    /// Sets attributes of a participant; of older wishes for the same attribute the newest counts.
    pub fn tell(&self, identity: Arc<str>, attributes: HashMap<String, String>) {
        self.shared.pending().told.entry(identity).or_default().extend(attributes);
        self.shared.wake.notify_one();
    }

    /// Sends the packets of one update, in order.
    pub fn send(&self, speaker: Arc<str>, packets: Vec<DataPacket>, to: To) {
        let mut pending = self.shared.pending();
        if pending.updates.len() >= LIMIT {
            metrics::counter!("auralink_captions_dropped_total").increment(1);
            return;
        }
        pending.updates.push_back((speaker, packets, to));
        drop(pending);
        self.shared.wake.notify_one();
    }

    /// What waits of a speaker is not sent.
    pub fn forget(&self, speaker: &str) {
        self.shared.pending().updates.retain(|(other, ..)| other.as_ref() != speaker);
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.shared.pending().over = true;
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next letter; `None` when it is over. Attributes go first: who is heard matters before what is said.
    async fn next(&self) -> Option<Letter> {
        loop {
            {
                let mut pending = self.pending();
                if pending.over {
                    return None;
                }
                if let Some((identity, attributes)) = pending.told.pop_first() {
                    return Some(Letter::Attributes(identity, attributes));
                }
                if let Some((_, packets, to)) = pending.updates.pop_front() {
                    return Some(Letter::Packets(packets, to));
                }
            }
            self.wake.notified().await;
        }
    }
}

async fn bring(rooms: Rooms, room: Arc<str>, letter: Letter) {
    let brought = match letter {
        Letter::Attributes(identity, attributes) => rooms.set_attributes(&room, &identity, attributes).await,
        Letter::Packets(packets, to) => {
            let mut brought = Ok(());
            for packet in packets {
                brought = rooms.send_packet(&room, packet, true, to.clone()).await;
                if brought.is_err() {
                    break;
                }
            }
            brought
        }
    };
    match brought {
        // They left, or the room ended, in between.
        Ok(()) | Err(RoomsError::ParticipantNotFound { .. } | RoomsError::NotFound { .. } | RoomsError::Closed(_)) => {}
        Err(error) => tracing::warn!(room = &*room, %error, "captions could not be brought to their room"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn a_room_that_does_not_answer_holds_up_nobody_and_its_captions_are_bounded() {
        let (brought, mut seen) = mpsc::channel(8);
        let stuck = Outbox::with(|_| std::future::pending());
        let quick = Outbox::with(move |letter| {
            let brought = brought.clone();
            async move { brought.send(format!("{letter:?}")).await.unwrap() }
        });
        for _ in 0..2 * LIMIT {
            stuck.send("ana".into(), Vec::new(), To::All);
        }
        quick.send("ben".into(), vec![DataPacket::default()], To::All);
        assert!(seen.recv().await.unwrap().starts_with("Packets"));
        assert!(stuck.shared.pending().updates.len() <= LIMIT);
        stuck.forget("ana");
        assert!(stuck.shared.pending().updates.is_empty());
    }

    #[tokio::test]
    async fn the_newest_attributes_count_and_go_before_packets() {
        let (brought, mut seen) = mpsc::channel(8);
        let outbox = Outbox::with(move |letter| {
            let brought = brought.clone();
            async move { brought.send(letter).await.unwrap() }
        });
        // The task has not run yet: this test's runtime has one thread.
        outbox.send("ana".into(), Vec::new(), To::All);
        outbox.tell("ana".into(), HashMap::from([("state".into(), "on".into())]));
        outbox.tell("ana".into(), HashMap::from([("state".into(), "off".into())]));
        outbox.tell("ana".into(), HashMap::from([("language".into(), "de".into())]));
        let Letter::Attributes(_, attributes) = seen.recv().await.unwrap() else { panic!("attributes first") };
        assert_eq!((attributes["state"].as_str(), attributes["language"].as_str()), ("off", "de"));
        assert!(matches!(seen.recv().await.unwrap(), Letter::Packets(..)));
        drop(outbox);
        assert!(seen.recv().await.is_none(), "the task ends with the outbox");
    }
}
