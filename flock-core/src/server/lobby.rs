//! Clients that have connected and not sent a whole request yet. There is room for some;
//! who comes when it is full takes the place of who has waited longest.
//!
//! A plugin sends its request at once, so that who waits longest is hardly ever one. A
//! thousand clients that say nothing therefore push out each other, and a good one that
//! comes among them is read at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// The room, and who is in it by the order of coming.
#[derive(Debug)]
pub(super) struct Lobby {
    free: Arc<Semaphore>,
    seated: Mutex<Seated>,
}

#[derive(Debug, Default)]
struct Seated {
    next: u64,
    by_age: BTreeMap<u64, oneshot::Sender<()>>,
}

/// A client's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    lobby: Arc<Lobby>,
    number: u64,
    dismissed: oneshot::Receiver<()>,
    _place: OwnedSemaphorePermit,
}

impl Lobby {
    pub(super) fn new(places: usize) -> Arc<Self> {
        // With none at all nobody could ever be read.
        Arc::new(Self { free: Arc::new(Semaphore::new(places.max(1))), seated: Mutex::default() })
    }

    /// A place. Where all are taken, the client that has waited longest is told to go, and
    /// its place is free as soon as it has heard of it: clients never wait for each other.
    pub(super) async fn seat(self: &Arc<Self>) -> Option<Seat> {
        let free = Arc::clone(&self.free);
        let place = if let Ok(place) = Arc::clone(&free).try_acquire_owned() {
            place
        } else {
            self.dismiss_oldest();
            free.acquire_owned().await.ok()?
        };
        let (dismiss, dismissed) = oneshot::channel();
        let mut seated = self.seated();
        let number = seated.next;
        seated.next += 1;
        seated.by_age.insert(number, dismiss);
        drop(seated);
        Some(Seat { lobby: Arc::clone(self), number, dismissed, _place: place })
    }

    /// Tells the client that has waited longest to go.
    pub(super) fn dismiss_oldest(&self) {
        if let Some((_, dismiss)) = self.seated().by_age.pop_first() {
            // Who is gone already needs no telling.
            let _ = dismiss.send(());
        }
    }

    fn seated(&self) -> MutexGuard<'_, Seated> {
        self.seated.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Ready when somebody else needs the place.
    pub(super) async fn dismissed(&mut self) {
        // The sender is dropped with the place, which is held here: it is always a message.
        let _ = (&mut self.dismissed).await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.lobby.seated().by_age.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn who_waits_longest_makes_room() {
        let lobby = Lobby::new(2);
        let seat = || lobby.seat().now_or_never().flatten();
        let (mut first, mut second) = (seat().unwrap(), seat().unwrap());
        let mut third = Box::pin(lobby.seat());
        assert!(third.as_mut().now_or_never().is_none(), "three had two places");
        assert!(first.dismissed().now_or_never().is_some());
        assert!(second.dismissed().now_or_never().is_none());
        drop(first);
        let third = third.now_or_never().flatten().unwrap();
        // Who left by itself is not the one who waits longest.
        drop(third);
        let mut fourth = seat().unwrap();
        assert!(second.dismissed().now_or_never().is_none());
        assert!(lobby.seat().now_or_never().is_none());
        assert!(second.dismissed().now_or_never().is_some());
        assert!(fourth.dismissed().now_or_never().is_none());
        drop((second, fourth));
        assert!(lobby.seated().by_age.is_empty());
    }

    #[test]
    fn there_is_always_one_place() {
        assert!(Lobby::new(0).seat().now_or_never().flatten().is_some());
    }
}
