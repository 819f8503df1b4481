//! The NodeConfig custom resource: its definition, and the watch of one of them.

mod watch;

pub use self::watch::{NodeConfigState, NodeConfigWatch};
