//! Whether BIRD does what it was told, as far as running pods depend on it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use flock_bird::announcer::Status;
use flock_bird::control::{Client, ControlError};
use tokio::sync::watch;
use tokio::time::Instant;

/// How long a BIRD that has taken everything may be away. A new one takes its place in a few
/// seconds, and routers keep the routes meanwhile (RFC 4724): a node that counted as not
/// ready for that would lose more than it has lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// Looks at BIRD whenever it is asked.
#[derive(Debug)]
pub(super) struct BirdLimits {
    status: watch::Receiver<Status>,
    client: Client,
    /// Since when nobody has answered.
    away: Mutex<Option<Instant>>,
}

impl BirdLimits {
    /// `status` is that of the announcer, `client` asks its BIRD. The plugin gives STATUS
    /// two seconds: the client should take no more than one.
    pub(super) fn new(status: watch::Receiver<Status>, client: Client) -> Self {
        Self { status, client, away: Mutex::default() }
    }

    /// Why pods may not be reachable from other nodes, in one sentence.
    pub(super) async fn reason(&self) -> Option<String> {
        let status = self.status.borrow().clone();
        match status {
            // Nothing is to be announced.
            Status::Idle => None,
            Status::Failed { error, .. } => Some(format!("announcements are not up to date: {error}")),
            Status::Pending { .. } | Status::Applied { .. } => {
                let answer = self.client.ask("show status").await.map(drop);
                let away_for = self.note(answer.as_ref().err())?;
                let error = answer.err().filter(|_| away_for >= PATIENCE)?;
                Some(format!("nothing is announced for {} s: {error}", away_for.as_secs()))
            }
        }
    }

    /// For how long nobody has answered.
    fn note(&self, error: Option<&ControlError>) -> Option<Duration> {
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        match error {
            None => *away = None,
            Some(_) => *away = away.or_else(|| Some(Instant::now())),
        }
        away.map(|since| since.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use flock_core::announcer::AnnounceError;

    use super::*;

    /// Nobody listens there.
    fn limits(status: Status) -> (watch::Sender<Status>, BirdLimits) {
        let (sender, receiver) = watch::channel(status);
        let socket = tempfile::tempdir().unwrap().path().join("bird.ctl");
        (sender, BirdLimits::new(receiver, Client::new(socket, Duration::from_secs(1))))
    }

    #[tokio::test(start_paused = true)]
    async fn a_bird_that_is_away_for_long_is_a_limit() {
        let (_status, limits) = limits(Status::Applied { generation: 1 });
        assert_eq!(limits.reason().await, None);
        tokio::time::advance(PATIENCE.checked_sub(Duration::from_secs(1)).unwrap()).await;
        assert_eq!(limits.reason().await, None);
        tokio::time::advance(Duration::from_secs(1)).await;
        let reason = limits.reason().await.unwrap();
        assert!(reason.starts_with("nothing is announced for 10 s: BIRD can't be reached at "), "{reason}");
        limits.note(None);
        assert_eq!(limits.reason().await, None, "the time begins anew");
    }

    #[tokio::test]
    async fn what_bird_did_not_take_is_a_limit_at_once() {
        let (status, limits) = limits(Status::Idle);
        assert_eq!(limits.reason().await, None, "a node without BGP needs no BIRD");
        let error = AnnounceError::Refused { message: "syntax error".to_owned() };
        status.send_replace(Status::Failed { generation: 1, error });
        let reason = limits.reason().await.unwrap();
        assert!(reason.contains("not up to date: BIRD refused the configuration: syntax error"), "{reason}");
    }
}
