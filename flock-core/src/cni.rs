//! The CNI specification's side of Flock: what runtimes send and what they expect back.
//!
//! Nothing here does any I/O. What a runtime says arrives as a [`RawCall`] and
//! becomes an [`Operation`] or an [`Error`]; what Flock answers is a [`CniResult`],
//! a [`version_info`] or an [`Error`], each written in the [`SpecVersion`] that the
//! network configuration asks for.
//!
//! ```
//! use flock_core::cni::{Operation, RawCall, Verb};
//!
//! let call = RawCall {
//!     verb: Verb::Add,
//!     container_id: "0123456789ab",
//!     ifname: "eth0",
//!     netns: "/run/netns/pod1",
//!     args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0",
//!     config: br#"{"cniVersion": "1.1.0", "name": "flock", "type": "flock"}"#,
//!     ..RawCall::default()
//! };
//! let Operation::Attachment(call) = Operation::parse(&call)? else { unreachable!() };
//! assert_eq!(call.key.to_string(), "0123456789ab/eth0");
//! assert_eq!(call.args.pod.unwrap().to_string(), "default/web-0");
//! # Ok::<(), flock_core::cni::Error>(())
//! ```
//!
//! The specification is at <https://www.cni.dev/docs/spec/>.

mod args;
mod call;
mod config;
mod error;
mod json;
mod result;
mod version;

pub use args::Args;
pub use call::{Call, GcCall, Operation, RawCall, StatusCall, Verb};
pub use config::{DEFAULT_RUN_DIR, DEFAULT_TIMEOUT, Delivery, NetworkConfig};
pub use error::{Code, Error};
pub use result::{CniResult, Dns, Interface, IpConfig, Route};
pub use version::{SpecVersion, version_info};
