//! The moment of death.

use std::env;
use std::fmt;
use std::future::Future;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// Counts moments, and ends the process at one of them.
#[derive(Debug)]
pub(crate) struct Fate {
    trigger: Option<PathBuf>,
    at: Option<usize>,
    quiet: bool,
    /// Whether disturbances of the node are kept from the agent.
    pub(crate) deaf: bool,
    /// Whether changes of pods are kept from the agent: what it does of them comes in between
    /// the moments of anything else.
    pub(crate) unaware: bool,
    next: Mutex<usize>,
}

impl Fate {
    pub(crate) fn from_environment() -> Result<Self, String> {
        let at = match env::var("MORTAL_MOMENT") {
            Ok(text) => {
                Some(text.parse().map_err(|_| format!("MORTAL_MOMENT is {text:?}, expected a number"))?)
            }
            Err(_) => None,
        };
        let trigger = env::var_os("MORTAL_TRIGGER").map(PathBuf::from);
        Ok(Self {
            trigger,
            at,
            quiet: env::var_os("MORTAL_QUIET").is_some(),
            deaf: env::var_os("MORTAL_DEAF").is_some(),
            unaware: env::var_os("MORTAL_UNAWARE").is_some(),
            next: Mutex::new(0),
        })
    }

    /// A moment, just `when` something happens or happened.
    pub(crate) fn moment(&self, when: fmt::Arguments<'_>) {
        if self.trigger.as_ref().is_some_and(|trigger| !trigger.exists()) {
            return;
        }
        // Held while the line is written: nothing comes after the last one.
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let last = self.at == Some(*next);
        if last || !self.quiet {
            let line = format!("moment {next}: {when}\n");
            // Without a log there is nobody to tell; the death itself says enough.
            std::io::stderr().lock().write_all(line.as_bytes()).ok();
        }
        if last {
            let this = rustix::process::getpid();
            rustix::process::kill_process(this, rustix::process::Signal::KILL).ok();
            // The signal is on its way; nothing is done any more.
            loop {
                std::thread::park();
            }
        }
        *next += 1;
    }

    /// `call`, between two moments.
    pub(crate) async fn around<T>(&self, name: &str, call: impl Future<Output = T>) -> T {
        self.moment(format_args!("before {name}"));
        let outcome = call.await;
        self.moment(format_args!("after {name}"));
        outcome
    }
}

/// Makes a moment of each step that the file store tells of.
pub(crate) struct StoreSteps(pub(crate) std::sync::Arc<Fate>);

impl<S: Subscriber> Layer<S> for StoreSteps {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        if *event.metadata().level() == tracing::Level::TRACE {
            self.0.moment(format_args!("in store: {}", message.0));
        }
    }
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}
