//! `flock-agent check`: whether records, leases, the kernel and BIRD agree, as an independent
//! judge sees it.
//!
//! The judge reads the records' files and asks the kernel and BIRD by itself. Only what nobody
//! else can know it asks the agent: see [`flock_core::inspection`].

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flock_bird::control::Client;
use flock_bird::table;
use flock_core::boot;
use flock_core::client::{self, ClientError, Deadline, SOCKET_NAME};
use flock_core::dataplane::{Dataplane, DataplaneError};
use flock_core::deletions::{DeletionQueue, QueueError};
use flock_core::frame::{Inquiry, Response};
use flock_core::handler::HandlerError;
use flock_core::inspection::{Difference, Kernel, Look, PATIENCE, Spoken, View, lasting};
use flock_core::node_config::{NodeConfig, NodeConfigError};
use flock_core::server::BindError;
use flock_core::store::{Contents, FileStore, StoreError};
use flock_netlink::NetlinkDataplane;
use tokio::time::Instant;

pub mod options;
mod repair;
mod report;

use crate::agent::records;
use options::{CheckOptions, Output};
pub use report::Report;

/// How long the agent may take to say what it knows.
const VIEW_LIMIT: Duration = Duration::from_secs(10);
/// And to mend what it can.
const REPAIR_LIMIT: Duration = Duration::from_secs(120);
/// Between two looks at a node that is at work.
const PAUSE: Duration = Duration::from_millis(100);

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The agent can't be asked.
    #[error(
        "{0}\nWithout the agent, only records, kernel and BIRD can be compared: flock-agent check --offline"
    )]
    Client(#[from] ClientError),
    /// The agent did not say what was asked.
    #[error("flock-agent answered {}: {error}{}", .inquiry.as_str(), details(.error))]
    Refused {
        /// What it was asked.
        inquiry: Inquiry,
        /// Its answer.
        error: flock_core::cni::Error,
    },
    /// The agent's answer makes no sense.
    #[error("the answer of flock-agent can't be read: {0}; are this program and the agent from one release?")]
    Answer(String),
    /// There is no NodeConfig to compare with.
    #[error("{0}; say where the NodeConfig of this node is with --node-config FILE")]
    NoNodeConfig(String),
    /// The NodeConfig is none.
    #[error(transparent)]
    NodeConfig(#[from] NodeConfigError),
    /// The records.
    #[error("{0}; is this the agent's --run-dir?")]
    Store(#[from] StoreError),
    /// The queue of deletions.
    #[error("{0}; is this the agent's --run-dir?")]
    Queue(#[from] QueueError),
    /// The kernel.
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    /// The boot can't be told.
    #[error("can't read which boot this is from {path}: {0}; mount /proc", path = boot::ID_FILE)]
    BootId(#[source] std::io::Error),
    /// An agent runs that would be in the way.
    #[error("{0}\nAn agent that runs does it by itself: flock-agent check --repair")]
    AgentRuns(BindError),
    /// The repair ended early.
    #[error("the repair ended early: {0}")]
    Repair(#[from] HandlerError),
    /// A thread failed.
    #[error("a part of the check failed: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

fn details(error: &flock_core::cni::Error) -> String {
    if error.details.is_empty() { String::new() } else { format!("; {}", error.details) }
}

/// Looks, mends if that was asked for, and says what came of it.
pub async fn run(options: &CheckOptions) -> Result<Report, CheckError> {
    let dataplane = Arc::new(NetlinkDataplane::with_proc(&options.proc_dir)?);
    Judge { options, dataplane, boot_id: boot::id().map_err(CheckError::BootId)? }.run().await
}

struct Judge<'a> {
    options: &'a CheckOptions,
    dataplane: Arc<dyn Dataplane>,
    boot_id: String,
}

impl Judge<'_> {
    async fn run(&self) -> Result<Report, CheckError> {
        // A repair of what would have passed by itself does no harm.
        let patience = if self.options.repair { Duration::ZERO } else { PATIENCE };
        let report = self.judge(patience).await?;
        if !self.options.repair || report.differences.is_empty() {
            return Ok(report);
        }
        if self.options.offline {
            repair::offline(self.options, Arc::clone(&self.dataplane), self.node_config()?, &self.boot_id)
                .await?;
        } else {
            self.ask(Inquiry::Repair, REPAIR_LIMIT).await?;
        }
        Ok(self.judge(PATIENCE).await?.after(report.differences))
    }

    /// What is found each time it is looked.
    async fn judge(&self, patience: Duration) -> Result<Report, CheckError> {
        let begin = Instant::now();
        let mut look = self.look().await?;
        let mut found = look.differences();
        // Nothing changes where nobody is at work.
        let is_still = self.options.offline && !self.is_agent_running();
        let mut looks = 1;
        while !found.is_empty() && !is_still {
            let lasts = !found.iter().any(Difference::may_pass) || begin.elapsed() >= patience;
            if lasts && looks > 1 {
                break;
            }
            tokio::time::sleep(PAUSE).await;
            look = self.look().await?;
            found = lasting(&found, look.differences());
            looks += 1;
        }
        Ok(Report {
            attachments: look.attachments(),
            differences: found,
            notes: look.notes(),
            mended: Vec::new(),
        })
    }

    async fn look(&self) -> Result<Look, CheckError> {
        let (view, before) = self.records().await?;
        let config = match &view {
            Some(view) => NodeConfig::from_manifest(&view.node_config)?,
            None => self.node_config()?,
        };
        let queue = DeletionQueue::of_run_dir(&self.options.run_dir);
        let deletions = tokio::task::spawn_blocking(move || queue.inspect()).await??;
        let kernel = Kernel::look(&*self.dataplane, &before, &config, &self.boot_id, view.as_ref()).await?;
        let spoken = self.spoken(view.as_ref(), &config).await;
        let (view_after, after) = self.records().await?;
        let views = view.zip(view_after).map(|(before, after)| [before, after]);
        let boot_id = self.boot_id.clone();
        Ok(Look { config, boot_id, records: [before, after], views, deletions, kernel, spoken })
    }

    async fn records(&self) -> Result<(Option<View>, Contents), CheckError> {
        let view = if self.options.offline { None } else { Some(self.view().await?) };
        let directory = records::directory(&self.options.run_dir);
        let contents = tokio::task::spawn_blocking(move || FileStore::inspect(directory)).await??;
        Ok((view, contents))
    }

    async fn view(&self) -> Result<View, CheckError> {
        match self.ask(Inquiry::View, VIEW_LIMIT).await? {
            Some(json) => {
                serde_json::from_str(json.get()).map_err(|error| CheckError::Answer(error.to_string()))
            }
            None => Err(CheckError::Answer("it is empty".to_owned())),
        }
    }

    async fn ask(
        &self,
        inquiry: Inquiry,
        limit: Duration,
    ) -> Result<Option<Box<serde_json::value::RawValue>>, CheckError> {
        let socket = self.options.run_dir.join(SOCKET_NAME);
        let answer = move || client::ask(&socket, inquiry, Deadline::after(limit));
        match tokio::task::spawn_blocking(answer).await?? {
            Response::Result(json) => Ok(json),
            Response::Error(error) => Err(CheckError::Refused { inquiry, error }),
        }
    }

    /// What BIRD has, where there should be one.
    async fn spoken(&self, view: Option<&View>, config: &NodeConfig) -> Option<Result<Spoken, String>> {
        config.bgp.as_ref()?;
        // The agent knows best whether it announces, and where.
        let socket = match (&self.options.bird_socket, view) {
            _ if !self.options.announces => None,
            (Some(socket), _) => Some(socket.clone()),
            (None, Some(view)) => view.speaker.clone(),
            (None, None) => Some(self.options.run_dir.join("bird.ctl")),
        };
        let client = Client::new(socket?, self.options.birdc_timeout);
        Some(table::spoken(&client).await.map_err(|error| error.to_string()))
    }

    /// Offline: the file that was named, else what the agent remembered.
    fn node_config(&self) -> Result<NodeConfig, CheckError> {
        let remembered = self.options.run_dir.join("node-config.json");
        let path: &Path = self.options.node_config.as_deref().unwrap_or(&remembered);
        let text = std::fs::read_to_string(path)
            .map_err(|error| CheckError::NoNodeConfig(format!("can't read {}: {error}", path.display())))?;
        Ok(NodeConfig::from_yaml(&text, &path.display().to_string())?)
    }

    fn is_agent_running(&self) -> bool {
        let socket = self.options.run_dir.join(SOCKET_NAME);
        let answer = client::connect(&socket, Deadline::after(VIEW_LIMIT));
        !matches!(answer, Err(ClientError::NotRunning { .. }))
    }
}

/// The form of what is printed.
pub fn render(report: &Report, output: Output) -> String {
    match output {
        Output::Text => report.to_string(),
        Output::Json => format!("{:#}\n", report.to_json()),
    }
}
