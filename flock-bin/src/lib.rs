//! The programs of Flock, thin as they are: they pick the backends and compose the rest.
//!
//! | program | what it is | here |
//! |---|---|---|
//! | `flock` | the CNI plugin: small, static, without an async runtime | [`plugin`] |
//! | `flock-agent` | serves the plugin on each node | `agent`, behind the feature of that name |
//! | `flock-installer` | puts the plugin and its configuration on a node | `installer`, behind the feature of that name |
//!
//! An agent with other backends is a main function of one's own: see the module `handler`
//! of flock-core for the parts and `agent::run` for how they are put together here;
//! `agent::run_with` is the same with the backends wrapped. A
//! plugin under another name reuses all of [`plugin::run`], for which the process is an
//! argument:
//!
//! ```
//! use std::ffi::OsString;
//!
//! use flock_bin::plugin::{Environment, run};
//! use flock_core::client::Deadline;
//!
//! /// A runtime that asks which versions of the CNI specification are spoken.
//! struct AsksForVersions;
//!
//! impl Environment for AsksForVersions {
//!     fn arguments(&self) -> Vec<OsString> {
//!         Vec::new()
//!     }
//!     fn variable(&self, name: &str) -> Option<OsString> {
//!         (name == "CNI_COMMAND").then(|| "VERSION".into())
//!     }
//!     fn input(&self, _limit: usize, _deadline: Deadline) -> std::io::Result<Vec<u8>> {
//!         Ok(br#"{"cniVersion": "1.0.0"}"#.to_vec())
//!     }
//!     fn input_is_terminal(&self) -> bool {
//!         false
//!     }
//!     fn output_is_terminal(&self) -> bool {
//!         false
//!     }
//! }
//!
//! let outcome = run(&AsksForVersions);
//! assert_eq!(outcome.status, 0);
//! assert!(outcome.output.starts_with(r#"{"cniVersion":"1.0.0","supportedVersions":["#));
//! ```

#[cfg(feature = "agent")]
pub mod agent;
#[cfg(feature = "installer")]
pub mod installer;
pub mod plugin;
