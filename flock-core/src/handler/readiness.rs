//! Which attachments serve their anycast addresses: those whose pods are ready.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::pin;
use std::sync::{MutexGuard, PoisonError};

use futures_util::{FutureExt, StreamExt};
use tokio::time::{Instant, sleep};

use crate::attachment::{Attachment, AttachmentKey};
use crate::handler::anycast::{served_in_kernel, servers_of};
use crate::handler::{Change, Handler, HandlerError};
use crate::name::PodKey;
use crate::pods::{PodChange, PodError, PodRef, PodState, PodUid};

/// What is known of the pods' readiness.
#[derive(Debug, Default)]
pub(super) struct Readiness {
    /// What the pod source has told last of each pod.
    told: BTreeMap<PodKey, Told>,
    /// Of attachments whose pods it has told nothing of yet: what it answered when it was asked, or
    /// what was taken for true as long as it gave no answer.
    found: BTreeMap<AttachmentKey, Found>,
    /// How often something was found.
    finds: u64,
}

type Told = (Option<PodUid>, PodState);

#[derive(Debug, Clone, Copy)]
struct Found {
    ready: bool,
    /// Whether the pod source has answered.
    answered: bool,
    /// Which find it was.
    number: u64,
}

impl Readiness {
    /// Whether the attachment's pod is to get what is sent to its anycast addresses. One that
    /// belongs to no pod that is known always is.
    pub(super) fn is_ready(&self, attachment: &Attachment) -> bool {
        let told = attachment.pod.as_ref().and_then(|pod| self.told.get(pod));
        self.judged(attachment, told)
    }

    fn judged(&self, attachment: &Attachment, told: Option<&Told>) -> bool {
        match told {
            _ if attachment.pod.is_none() => true,
            Some((uid, state)) => {
                *state == PodState::Ready && is_same(uid.as_ref(), attachment.pod_uid.as_ref())
            }
            None => self.found.get(&attachment.key).is_some_and(|found| found.ready),
        }
    }

    /// Returns what was known before of those of which something else is told now.
    fn tell(&mut self, changes: Vec<PodChange>) -> BTreeMap<PodKey, Option<Told>> {
        let mut before = BTreeMap::new();
        for PodChange { pod, uid, state } in changes {
            let now = (uid, state);
            let old = self.told.insert(pod.clone(), now.clone());
            if old.as_ref() != Some(&now) {
                before.entry(pod).or_insert(old);
            }
        }
        before
    }

    /// Takes what the pod source answers, or `otherwise` until it does.
    fn find(&mut self, key: AttachmentKey, answer: Option<bool>, otherwise: bool) {
        self.finds += 1;
        let ready = answer.unwrap_or(otherwise);
        self.found.insert(key, Found { ready, answered: answer.is_some(), number: self.finds });
    }

    /// The attachments that the pod source has still to answer for.
    fn unanswered(&self) -> BTreeSet<AttachmentKey> {
        let unanswered = self.found.iter().filter(|(_, found)| !found.answered);
        unanswered.map(|(key, _)| key.clone()).collect()
    }

    /// Forgets pods that are gone, and attachments that are gone, given those that are there. What
    /// was found after the first `finds` may be of one that has come since they were looked at.
    fn forget(&mut self, records: &[Attachment], finds: u64) {
        self.told.retain(|pod, (_, state)| {
            *state != PodState::Terminating || records.iter().any(|record| record.pod.as_ref() == Some(pod))
        });
        self.found
            .retain(|key, found| found.number > finds || records.iter().any(|record| record.key == *key));
        for record in records {
            if record.pod.as_ref().is_some_and(|pod| self.told.contains_key(pod))
                && let Some(found) = self.found.get_mut(&record.key)
            {
                found.answered = true;
            }
        }
    }
}

/// Whether both are the same pod, as far as both are known.
fn is_same(one: Option<&PodUid>, other: Option<&PodUid>) -> bool {
    one.zip(other).is_none_or(|(one, other)| one == other)
}

impl Handler {
    /// Follows the readiness of the node's pods until `shutdown` is ready: an anycast address is
    /// announced while at least one pod that serves it is ready, and withdrawn when the last one
    /// is not, or terminates, or is gone.
    ///
    /// What routers still send to pods that are not ready any more arrives there for
    /// [`convergence_delay`](super::Settings::convergence_delay), which this ends.
    ///
    /// A source that could not be asked at the start is asked again, each
    /// [`retry_delay`](super::Settings::retry_delay): it tells of the pods that are there, and not of
    /// one that has gone while nobody listened.
    pub async fn run_readiness(&self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        let mut changes = self.backends.pods.changes();
        let mut is_told = true;
        loop {
            let unanswered = !self.readiness().unanswered().is_empty();
            let first = tokio::select! {
                () = &mut shutdown => return,
                change = changes.next(), if is_told => change,
                () = self.withdrawal_expires() => {
                    self.announce(Change::Gain).await;
                    continue;
                }
                () = sleep(self.settings.retry_delay), if unanswered => {
                    self.follow(Vec::new()).await;
                    continue;
                }
            };
            let Some(first) = first else {
                tracing::error!(
                    "the pod source tells nothing any more; the readiness of pods that it told of stays as it is"
                );
                is_told = false;
                continue;
            };
            // What has come meanwhile is one change of the routes.
            let mut told = vec![first];
            while let Some(Some(next)) = changes.next().now_or_never() {
                told.push(next);
            }
            self.follow(told).await;
        }
    }

    async fn follow(&self, told: Vec<PodChange>) {
        let untold = self.untold();
        let (before, finds) = {
            let mut readiness = self.readiness();
            (readiness.tell(told), readiness.finds)
        };
        // Behind that: what is in no record yet is announced, once it is, with what is told by now.
        let records = match self.backends.store.list().await {
            Ok(records) => records,
            Err(error) => {
                tracing::warn!(%error, "whose readiness has changed is not known");
                // Fails too, and is tried again until it does not.
                return self.tell(untold, Change::Gain).await;
            }
        };
        let answers = self.ask_again(&records).await;
        let mut concerned = false;
        {
            let mut readiness = self.readiness();
            for server in servers_of(&records) {
                let news = server.pod.as_ref().and_then(|pod| before.get(pod));
                let was = match news {
                    Some(before) => readiness.judged(server, before.as_ref()),
                    None => readiness.is_ready(server),
                };
                if let Some(ready) = answers.get(&server.key) {
                    readiness.find(server.key.clone(), Some(*ready), *ready);
                }
                let ready = readiness.is_ready(server);
                if was != ready {
                    concerned = true;
                    let attachment = server.owner();
                    tracing::info!(%attachment, ready, anycast = ?server.anycast, "the pod's readiness has changed");
                }
            }
            readiness.forget(&records, finds);
        }
        if !concerned {
            return untold.settle();
        }
        // No route goes: one that loses its last ready server gets another state.
        self.tell(untold, Change::Gain).await;
    }

    /// Which of the attachments that have anycast addresses serve them.
    pub(super) fn ready_servers(&self, records: &[Attachment]) -> BTreeSet<AttachmentKey> {
        let readiness = self.readiness();
        let ready = servers_of(records).filter(|record| readiness.is_ready(record));
        ready.map(|record| record.key.clone()).collect()
    }

    /// Takes up the readiness of an attachment that is being made.
    pub(super) async fn find_readiness(&self, attachment: &Attachment) {
        if attachment.anycast.is_empty() {
            return;
        }
        let answer = self.ask(attachment).await;
        self.readiness().find(attachment.key.clone(), answer, false);
    }

    /// Takes up the readiness of all attachments as the pod source says. Where that is away, as
    /// the kernel shows it: what is announced stays until somebody says that it should not.
    pub(super) async fn recall_readiness(&self, records: &[Attachment]) -> Result<(), HandlerError> {
        if servers_of(records).next().is_none() {
            return Ok(());
        }
        let announced = self.backends.dataplane.announced_anycast().await?;
        let served = served_in_kernel(records, &announced);
        let in_kernel: BTreeSet<AttachmentKey> = served.values().flatten().cloned().collect();
        self.withdrawals().recall(served);
        for server in servers_of(records) {
            let answer = self.ask(server).await;
            self.readiness().find(server.key.clone(), answer, in_kernel.contains(&server.key));
        }
        Ok(())
    }

    /// What the pod source says by now of those that it gave no answer for.
    async fn ask_again(&self, records: &[Attachment]) -> BTreeMap<AttachmentKey, bool> {
        let unanswered = self.readiness().unanswered();
        let mut answers = BTreeMap::new();
        for server in servers_of(records).filter(|server| unanswered.contains(&server.key)) {
            answers.extend(self.ask(server).await.map(|ready| (server.key.clone(), ready)));
        }
        answers
    }

    /// Whether the pod of `attachment` is ready, if the pod source can say so now.
    async fn ask(&self, attachment: &Attachment) -> Option<bool> {
        // Nobody knows more of one that belongs to no pod.
        let Some(key) = attachment.pod.clone() else { return Some(true) };
        let wanted = PodRef { key, uid: attachment.pod_uid.clone() };
        // Not the backend's clock: this is no time that anybody looks at, but a wait of none.
        match self.backends.pods.pod(&wanted, Instant::now().into_std()).await {
            Ok(pod) => Some(pod.state == PodState::Ready),
            Err(PodError::NotFound { .. }) => Some(false),
            Err(_) => None,
        }
    }

    pub(super) fn readiness(&self) -> MutexGuard<'_, Readiness> {
        self.readiness.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
