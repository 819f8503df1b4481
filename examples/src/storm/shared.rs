//! What all callers know together.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{LabError, Result};

/// Who was answered which address, and what was done.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) seed: u64,
    held: Mutex<BTreeMap<IpAddr, String>>,
    over: AtomicBool,
    lives: AtomicUsize,
    answered: AtomicUsize,
    again: AtomicUsize,
}

impl Shared {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            held: Mutex::default(),
            over: AtomicBool::new(false),
            lives: AtomicUsize::new(0),
            answered: AtomicUsize::new(0),
            again: AtomicUsize::new(0),
        }
    }

    /// `container` was answered these; that another one has one of them is an error.
    pub(super) fn take(&self, container: &str, addresses: &[IpAddr]) -> Result<()> {
        let mut held = self.lock();
        for address in addresses {
            if let Some(other) = held.insert(*address, container.to_owned()) {
                return Err(LabError::Unexpected(format!(
                    "{container} was given {address}, which {other} has"
                )));
            }
        }
        Ok(())
    }

    /// They are about to be given back.
    pub(super) fn leave(&self, addresses: &[IpAddr]) {
        let mut held = self.lock();
        for address in addresses {
            held.remove(address);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, String>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Callers come to an end.
    pub(super) fn finish(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub(super) fn lived(&self) {
        self.lives.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count(&self, answered: bool) {
        let counter = if answered { &self.answered } else { &self.again };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn lives(&self) -> usize {
        self.lives.load(Ordering::Relaxed)
    }

    pub(super) fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    pub(super) fn again(&self) -> usize {
        self.again.load(Ordering::Relaxed)
    }
}
