//! One lock for each attachment, so that what concerns one is serialised and what concerns
//! different ones is not.

mod keyed;
#[cfg(test)]
mod shuttled;
#[cfg(test)]
mod tests;

pub(crate) use keyed::{KeyGuard, KeyedLocks};

/// What the locks are made of.
mod sync {
    pub(super) use std::sync::{Mutex, MutexGuard};
}
