//! The lab that the examples run in.
