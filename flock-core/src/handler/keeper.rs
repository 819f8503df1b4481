//! Undoing what others do to the node, as soon as it is noticed.

use std::collections::BTreeMap;
use std::future::{Future, pending};
use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep, sleep_until};

use crate::attachment::{Attachment, AttachmentKey, AttachmentState};
use crate::dataplane::{DataplaneError, Disturbance, NodeDrift, NodeWanted};
use crate::handler::keeper::mender::{Disturbed, Ended};
use crate::handler::keeper::pace::Pace;
use crate::handler::mend::in_a_line;
use crate::handler::{Handler, HandlerError};

mod mender;
mod pace;

/// When to look again at what somebody else was working on.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// What can't be mended is tried again after a time that doubles up to this.
const RETRY_AT_MOST: Duration = Duration::from_secs(60);

/// Where the dataplane can't tell of disturbances, everything is looked at once in so long.
const DEAF: Duration = Duration::from_secs(60);

/// What [`Handler::run_keeper`] has mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repaired {
    /// An attachment.
    Attachment,
    /// Something of the node's own: summaries, anycast routes, the gateway, settings.
    Node,
}

impl Handler {
    /// Waits for others to disturb what is Flock's on the node, and mends it, until
    /// `shutdown` is ready. `repaired` is called for each repair.
    ///
    /// A disturbance is undone after some milliseconds, in which others of the same
    /// origin are gathered. Where they don't end, there are three looks in a second at most.
    /// Attachments are mended two at a time, beside further looks. What is being worked on is
    /// looked at afterwards; what can't be mended is said once and tried again, less and less
    /// often. Pods' traffic is untouched, beside that of what was disturbed.
    pub async fn run_keeper(
        &self,
        repaired: impl Fn(Repaired) + Send + Sync,
        shutdown: impl Future<Output = ()>,
    ) {
        let (mend, disturbed) = unbounded_channel();
        let (end, ended) = unbounded_channel();
        let mut keeper = Keeper {
            handler: self,
            repaired: &repaired,
            open: Disturbance::default(),
            failures: BTreeMap::new(),
            pace: Pace::new(),
            mend,
            ended,
            under_way: BTreeMap::new(),
        };
        tokio::select! {
            () = pin!(shutdown) => {}
            () = keeper.run() => {}
            () = self.mend_disturbed(disturbed, end, &repaired) => {}
        }
    }
}

struct Keeper<'a> {
    handler: &'a Handler,
    repaired: &'a (dyn Fn(Repaired) + Send + Sync),
    /// What is to be looked at.
    open: Disturbance,
    failures: BTreeMap<Subject, Failure>,
    pace: Pace,
    mend: UnboundedSender<Disturbed>,
    ended: UnboundedReceiver<Ended>,
    /// What is being mended, each with what was told of it since.
    under_way: BTreeMap<AttachmentKey, Disturbance>,
}

/// What a failure is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Listening,
    Looking,
    Node,
    Attachment(AttachmentKey),
}

/// What could not be done, and will be tried again.
struct Failure {
    said: String,
    again: Disturbance,
    at: Instant,
    delay: Duration,
}

/// How a look at one thing has ended.
enum Outcome {
    Fine,
    Mended,
    /// Somebody else works on it.
    Busy,
    NotMended {
        found: String,
        error: HandlerError,
    },
}

impl Keeper<'_> {
    async fn run(&mut self) {
        loop {
            self.wait().await;
            sleep(self.pace.pause(Instant::now())).await;
            // What was told meanwhile.
            if let Some(told) = self.handler.backends.dataplane.disturbed().now_or_never() {
                self.hear(told);
            }
            let start = Instant::now();
            self.look().await;
            self.pace.took(start.elapsed());
        }
    }

    /// Until something is told, or it is time for another attempt.
    async fn wait(&mut self) {
        let begin = Instant::now();
        loop {
            let soon = (!self.open.is_empty()).then(|| begin + LOOK_AGAIN);
            let later = self.failures.values().map(|failure| failure.at).min();
            let attempt = async {
                match soon.into_iter().chain(later).min() {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            // A dataplane that has failed to tell may do so at once again.
            let is_deaf = self.failures.contains_key(&Subject::Listening);
            tokio::select! {
                told = self.handler.backends.dataplane.disturbed(), if !is_deaf => {
                    self.hear(told);
                    break;
                }
                Some(ended) = self.ended.recv() => self.end(ended),
                () = attempt => break,
            }
            // Belongs to the look before, and is not put off as another one would be.
            if self.open.node && self.under_way.is_empty() {
                self.open.node = false;
                self.look_at_node().await;
            }
        }
        let now = Instant::now();
        for failure in self.failures.values_mut().filter(|failure| failure.at <= now) {
            self.open.merge(failure.again.clone());
            // Set anew if it fails again.
            failure.at = now + RETRY_AT_MOST;
        }
    }

    fn hear(&mut self, told: Result<Disturbance, DataplaneError>) {
        match told {
            Ok(told) => {
                self.open.merge(told);
                // What was missed meanwhile.
                if let Some(deaf) = self.failures.remove(&Subject::Listening) {
                    self.open.merge(deaf.again);
                }
            }
            Err(error) => {
                let what = "what others change on the node is noticed late";
                self.fail(Subject::Listening, Disturbance::of_everything(), what, &error.into(), DEAF);
            }
        }
    }

    async fn look(&mut self) {
        while let Ok(ended) = self.ended.try_recv() {
            self.end(ended);
        }
        let mut told = std::mem::take(&mut self.open);
        // First, since pods' routes may name the gateway as their source.
        if told.node || told.everything {
            self.look_at_node().await;
        }
        if !told.everything && told.interfaces.is_empty() {
            return;
        }
        // With that what could not be looked at before: this look ends or renews the failure.
        if let Some(before) = self.failures.get(&Subject::Looking) {
            told.merge(before.again.clone());
        }
        match self.look_at_attachments(&told).await {
            Ok(()) => drop(self.failures.remove(&Subject::Looking)),
            Err(error) => {
                let delay = self.handler.settings.retry_delay;
                let what = "what others may have changed on the node can't be looked at";
                self.fail(Subject::Looking, told, what, &error, delay);
            }
        }
    }

    async fn look_at_node(&mut self) {
        let outcome = self.handler.mend_node().await;
        if matches!(outcome, Ok(Outcome::Mended)) {
            (self.repaired)(Repaired::Node);
        }
        self.settle(Subject::Node, Disturbance::of_node(), outcome);
    }

    /// Has mended what is not as it should be.
    async fn look_at_attachments(&mut self, told: &Disturbance) -> Result<(), HandlerError> {
        let handler = self.handler;
        let mut records = handler.backends.store.list().await?;
        self.forget_failures(&records);
        records.retain(|record| told.everything || told.interfaces.contains(&record.host_interface));
        // What is being mended is looked at afterwards.
        records.retain(|record| match self.under_way.get_mut(&record.key) {
            Some(since) => {
                since.merge(Disturbance::of_interface(record.host_interface.clone()));
                false
            }
            None => true,
        });
        let (committed, others): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|record| record.state == AttachmentState::Committed);
        // What was taken from an ADD that is at work is to be looked at when that is done.
        let unfinished = others.into_iter().filter(|record| record.state == AttachmentState::Pending);
        for record in unfinished.filter(|record| handler.locks.try_lock(&record.key).is_none()) {
            self.open.interfaces.insert(record.host_interface);
        }
        if committed.is_empty() {
            return Ok(());
        }
        // Without locks: nearly always there is nothing to be done.
        let drifts = handler.backends.dataplane.check(&committed).await?;
        for (record, drifts) in committed.into_iter().zip(drifts) {
            if drifts.is_empty() {
                self.failures.remove(&Subject::Attachment(record.key));
                continue;
            }
            self.under_way.insert(record.key.clone(), Disturbance::default());
            // It has no receiver where the keeper is about to stop.
            let _ = self.mend.send(Disturbed { record, drifts });
        }
        Ok(())
    }

    fn end(&mut self, Ended { record, outcome }: Ended) {
        self.open.merge(self.under_way.remove(&record.key).unwrap_or_default());
        // The anycast routes may have gone with the link.
        if matches!(outcome, Ok(Outcome::Mended)) && !record.anycast.is_empty() {
            self.open.merge(Disturbance::of_node());
        }
        let again = Disturbance::of_interface(record.host_interface);
        self.settle(Subject::Attachment(record.key), again, outcome);
    }

    /// Those of attachments that are deleted.
    fn forget_failures(&mut self, records: &[Attachment]) {
        let is_there = |key: &AttachmentKey| records.iter().any(|record| record.key == *key);
        self.failures.retain(|subject, _| match subject {
            Subject::Attachment(key) => is_there(key),
            _ => true,
        });
    }

    fn settle(&mut self, subject: Subject, again: Disturbance, outcome: Result<Outcome, HandlerError>) {
        let delay = self.handler.settings.retry_delay;
        match outcome {
            Ok(Outcome::Busy) => self.open.merge(again),
            Ok(Outcome::Fine | Outcome::Mended) => drop(self.failures.remove(&subject)),
            Ok(Outcome::NotMended { found, error }) => self.fail(subject, again, &found, &error, delay),
            Err(error) => self.fail(subject, again, "it can't be looked at", &error, delay),
        }
    }

    /// Says it, unless that was said already, and tries again later.
    fn fail(
        &mut self,
        subject: Subject,
        again: Disturbance,
        found: &str,
        error: &HandlerError,
        delay: Duration,
    ) {
        let said = format!("{found}: {error}");
        let before = self.failures.remove(&subject);
        if before.as_ref().is_none_or(|before| before.said != said) {
            let whose = match &subject {
                Subject::Attachment(key) => key.to_string(),
                _ => "the node".to_owned(),
            };
            tracing::error!(whose, found, %error, "could not be repaired; trying again");
        }
        let delay = before.map_or(delay, |before| (2 * before.delay).min(RETRY_AT_MOST));
        self.failures.insert(subject, Failure { said, again, at: Instant::now() + delay, delay });
    }
}

impl Handler {
    /// Makes the node itself be as it should, where it is not.
    async fn mend_node(&self) -> Result<Outcome, HandlerError> {
        // Who puts a configuration in force, or announces, sets the routes himself.
        let (Ok(_alone), Ok(_announcing)) = (self.configuring.try_lock(), self.announcing.try_lock()) else {
            return Ok(Outcome::Busy);
        };
        let wanted = self.node_wanted(self.backends.store.list().await?);
        let mut drifts = self.backends.dataplane.check_node(&wanted).await?;
        // Nothing that others need: it may also be of an ADD that is at work.
        drifts.retain(|drift| !matches!(drift, NodeDrift::Stray(_)));
        if drifts.is_empty() {
            return Ok(Outcome::Fine);
        }
        let found = in_a_line(&drifts);
        match self.make_node(&wanted, &drifts).await {
            Ok(()) => {
                tracing::warn!(node = %self.node().config.name, found, "repaired what something else had changed");
                Ok(Outcome::Mended)
            }
            Err(error) => Ok(Outcome::NotMended { found, error: error.into() }),
        }
    }

    async fn make_node(&self, wanted: &NodeWanted, drifts: &[NodeDrift]) -> Result<(), DataplaneError> {
        let dataplane = &self.backends.dataplane;
        let has = |kind: fn(&NodeDrift) -> bool| drifts.iter().any(kind);
        if has(|drift| matches!(drift, NodeDrift::GatewayMissing(_) | NodeDrift::Setting { .. })) {
            dataplane.prepare().await?;
        }
        if has(|drift| matches!(drift, NodeDrift::SummaryMissing(_) | NodeDrift::SummaryUnexpected(_))) {
            dataplane.set_summaries(&wanted.summaries).await?;
        }
        if has(|drift| matches!(drift, NodeDrift::Anycast { .. } | NodeDrift::AnycastUnexpected { .. })) {
            self.set_anycast(&wanted.anycast).await?;
        }
        Ok(())
    }
}
