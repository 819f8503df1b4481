//! How watches are opened: not in a circle, and so that it is known that one stands ([`opener`]).

use std::sync::{Arc, Mutex, PoisonError};

use kube::Client;
use tokio::time::{Instant, sleep_until};
use tower::{BoxError, service_fn};

use super::{Link, STABLE};
use crate::backoff::Backoff;
use crate::deadline::is_watch;

/// Sends by `client`, for one watch after the other. kube's watcher opens the next one as soon as
/// the last one ends, also if that was at once, and does not tell that one stands which has nothing
/// to say; so `link` is told here.
pub(super) fn opener(client: Client, link: Link) -> Client {
    let namespace = client.default_namespace().to_owned();
    let pace = Arc::new(Mutex::new(Pace::new()));
    let service = service_fn(move |request| {
        let (client, link, pace) = (client.clone(), link.clone(), Arc::clone(&pace));
        async move {
            if !is_watch(&request) {
                return client.send(request).await.map_err(BoxError::from);
            }
            let opens = pace.lock().unwrap_or_else(PoisonError::into_inner).next(Instant::now());
            sleep_until(opens).await;
            let response = client.send(request).await?;
            if response.status().is_success() {
                link.established();
            }
            Ok(response)
        }
    });
    Client::new(service, namespace)
}

/// Spaces watches that last for less than [`STABLE`].
struct Pace {
    opened: Option<Instant>,
    backoff: Backoff,
}

impl Pace {
    fn new() -> Self {
        Self { opened: None, backoff: Backoff::new() }
    }

    /// When the next one may be opened, asked when the last one has ended.
    fn next(&mut self, now: Instant) -> Instant {
        let opens = match self.opened {
            Some(opened) if now < opened + STABLE => now.max(opened + self.backoff.pause()),
            _ => {
                self.backoff.reset();
                now
            }
        };
        self.opened = Some(opens);
        opens
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_that_lasted_is_followed_at_once() {
        let start = Instant::now();
        let mut pace = Pace::new();
        assert_eq!(pace.next(start), start);
        assert_eq!(pace.next(start + STABLE), start + STABLE);
    }

    #[test]
    fn pauses_grow_while_they_end_at_once_and_begin_anew() {
        let mut pace = Pace::new();
        let mut now = pace.next(Instant::now());
        for least in [100, 200, 400, 800] {
            let opens = pace.next(now);
            assert!(opens >= now + Duration::from_millis(least), "{:?} of {least} ms", opens - now);
            now = opens;
        }
        now = pace.next(now + STABLE);
        assert!(pace.next(now) <= now + Duration::from_millis(200));
    }

    #[test]
    fn a_pause_after_a_failure_counts() {
        let start = Instant::now();
        let mut pace = Pace::new();
        pace.next(start);
        let later = start + Duration::from_millis(500);
        assert_eq!(pace.next(later), later);
    }
}
