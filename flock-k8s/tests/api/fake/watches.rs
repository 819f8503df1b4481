//! The watches that stand.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use hyper::body::Frame;
use serde_json::json;
use tokio::sync::mpsc;

use super::line;
use super::store::{Event, selects};

#[derive(Default)]
pub struct Watches(Vec<Watch>);

struct Watch {
    collection: String,
    fields: String,
    events: mpsc::UnboundedSender<io::Result<Frame<Bytes>>>,
    muted: Arc<AtomicBool>,
    garbled: AtomicBool,
}

impl Watches {
    /// How many of a kind the client still listens to.
    pub fn count(&self, collection: &str) -> usize {
        self.0.iter().filter(|watch| watch.collection == collection && !watch.events.is_closed()).count()
    }

    pub fn open(
        &mut self,
        collection: &str,
        fields: &str,
        lasts: Duration,
    ) -> impl Stream<Item = io::Result<Frame<Bytes>>> + Send + use<> {
        let (events, receiver) = mpsc::unbounded_channel();
        let muted = Arc::new(AtomicBool::new(false));
        self.0.push(Watch {
            collection: collection.to_owned(),
            fields: fields.to_owned(),
            events,
            muted: Arc::clone(&muted),
            garbled: AtomicBool::new(false),
        });
        let events = stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|event| (event, receiver))
        });
        events.take_until(Box::pin(async move {
            tokio::time::sleep(lasts).await;
            if muted.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
        }))
    }

    pub fn tell(&self, event: &Event) {
        for watch in &self.0 {
            if watch.collection == event.collection && selects(&watch.fields, &event.object) {
                watch.send(Ok(line(&event.json())));
            }
        }
    }

    pub fn bookmark(&self, version: u64) {
        let metadata = json!({"resourceVersion": version.to_string()});
        let event =
            json!({"type": "BOOKMARK", "object": {"kind": "Any", "apiVersion": "v1", "metadata": metadata}});
        for watch in &self.0 {
            watch.send(Ok(line(&event)));
        }
    }

    pub fn garble_next(&self) {
        for watch in &self.0 {
            watch.garbled.store(true, Ordering::SeqCst);
        }
    }

    pub fn break_off(&mut self) {
        for watch in self.0.drain(..) {
            watch.send(Err(io::Error::new(io::ErrorKind::ConnectionReset, "connection reset by peer")));
        }
    }

    pub fn end(&mut self) {
        self.0.clear();
    }

    pub fn mute(&mut self) {
        for watch in &self.0 {
            watch.muted.store(true, Ordering::SeqCst);
        }
    }
}

impl Watch {
    fn send(&self, mut event: io::Result<Frame<Bytes>>) {
        if self.garbled.swap(false, Ordering::SeqCst) {
            event = Ok(Frame::data("nonsense\n".into()));
        }
        if !self.muted.load(Ordering::SeqCst) {
            // The client may have gone.
            let _ = self.events.send(event);
        }
    }
}
