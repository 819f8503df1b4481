//! What the programs of Flock are made of.

#[cfg(feature = "agent")]
pub mod agent;
pub mod plugin;
