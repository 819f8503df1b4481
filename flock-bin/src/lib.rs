//! Library part of the programs.

pub mod plugin;
