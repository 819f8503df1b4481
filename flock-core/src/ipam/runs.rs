//! Runs of used offsets.
