//! Library part of the programs.
