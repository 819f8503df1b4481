//! The programs of Flock, as a library: what they are made of can be called, tested
//! and composed otherwise.
//!
//! - [`plugin`] is `flock`, which a container runtime executes for each verb of each
//!   pod. It is built without the feature `agent`, so that it stays small and static.
//! - `agent` is `flock-agent`: its options, and the composition of one backend for each
//!   trait of flock-core. To compose others, start from its source; it is short.
//!
//! # Example
//!
//! The agent's options, read from a command line and a machine that need not be real:
//!
//! ```
//! # #[cfg(feature = "agent")] {
//! use std::path::Path;
//!
//! use flock_bin::agent::options::{Announcer, Machine, Options};
//!
//! struct Host001;
//!
//! impl Machine for Host001 {
//!     fn variable(&self, _: &str) -> Option<String> {
//!         None
//!     }
//!     fn hostname(&self) -> Option<String> {
//!         Some("host001".to_owned())
//!     }
//!     fn read(&self, _: &Path) -> std::io::Result<String> {
//!         Ok("announcer: none".to_owned())
//!     }
//! }
//!
//! let line = ["flock-agent", "--node-config", "host001.yaml", "--config", "agent.yaml"];
//! let options = Options::read(line, &Host001).unwrap();
//! assert_eq!(options.node_name.as_str(), "host001");
//! assert_eq!(options.announcer, Announcer::None);
//! # }
//! ```

#[cfg(feature = "agent")]
pub mod agent;
pub mod plugin;
