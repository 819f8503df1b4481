//! What must hold of everything that comes from outside, whatever it is.
//!
//! Each module has one function, `check`, that takes bytes, hands them to the code that reads
//! them in Flock, and panics where a documented promise does not hold: what is accepted is
//! valid and can be written and read again, what is refused is refused with a message that
//! says what was wrong. The programs in `fuzz_targets/` let libFuzzer look for such bytes.
//!
//! | module | reads | as it comes from |
//! |---|---|---|
//! | [`network_config`] | network configurations, with every verb | the container runtime |
//! | [`cni_args`] | `CNI_ARGS` | the container runtime |
//! | [`annotations`] | pods' annotations, on nodes with any prefixes | whoever may create pods |
//! | [`frame`] | frames of the agent's socket, in pieces | whoever may connect |
//! | [`record`] | files of records | the disk |
//! | [`deletion`] | files of queued deletions | the disk |
//! | [`bird_reply`] | replies, in pieces, and what is made of them | BIRD's control socket |
//! | [`protocols`] | what BIRD says of protocols, routes, BFD and itself | BIRD's control socket |
//! | [`node_config`] | NodeConfig manifests, and renders what they say for BIRD | whoever may write them |

pub mod annotations;
pub mod bird_reply;
pub mod cni_args;
pub mod deletion;
mod files;
pub mod frame;
mod message;
pub mod network_config;
pub mod node_config;
pub mod protocols;
pub mod record;
mod rendered;
