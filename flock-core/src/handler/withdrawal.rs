//! Anycast addresses that the node has withdrawn a moment ago.
//!
//! Routers that have not heard of it yet still send packets for them. A node that took a peer's
//! route to the same address at once would send those back, again and again: so what they send
//! goes to the pods that are not ready any more, until the routers had time to hear of it. RFC 8333
//! calls that a local convergence delay.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::net::IpAddr;
use std::sync::{MutexGuard, PoisonError};

use tokio::time::{Instant, sleep_until};

use crate::dataplane::{AnycastRoute, AnycastState, DataplaneError};
use crate::handler::Handler;

#[derive(Debug, Default)]
pub(super) struct Withdrawals {
    /// What the kernel's routes announce, or may announce.
    announced: BTreeSet<IpAddr>,
    /// What they have announced, and until when routers may not have heard that they do not any more.
    until: BTreeMap<IpAddr, Instant>,
}

impl Withdrawals {
    /// Takes up what an agent before this one has left.
    pub(super) fn recall(&mut self, announced: impl IntoIterator<Item = IpAddr>) {
        self.announced = announced.into_iter().collect();
    }

    /// What is being withdrawn.
    pub(super) fn addresses(&self) -> BTreeSet<IpAddr> {
        self.until.keys().copied().collect()
    }

    /// Of `routes`, those that would stand by do not do so yet if they were announced just now.
    fn hold(&self, routes: &mut [AnycastRoute]) {
        for route in routes.iter_mut().filter(|route| route.state == AnycastState::Standby) {
            if self.announced.contains(&route.address) || self.until.contains_key(&route.address) {
                route.state = AnycastState::Withdrawing;
            }
        }
    }

    /// Takes down that the kernel may have these from now on.
    fn making(&mut self, routes: &[AnycastRoute]) {
        let announced = routes.iter().filter(|route| route.state == AnycastState::Announced);
        self.announced.extend(announced.map(|route| route.address));
    }

    /// Takes down that the kernel has `routes`.
    fn made(&mut self, routes: &[AnycastRoute], until: Instant) {
        let of_state = |state| routes.iter().filter(move |route| route.state == state);
        self.announced = of_state(AnycastState::Announced).map(|route| route.address).collect();
        let withdrawing = of_state(AnycastState::Withdrawing).map(|route| route.address);
        let until = |address| (address, self.until.get(&address).copied().unwrap_or(until));
        self.until = withdrawing.map(until).collect();
    }

    fn end_until(&mut self, now: Instant) {
        self.until.retain(|_, until| *until > now);
    }
}

impl Handler {
    /// Gives `routes` the states that they should have now.
    pub(super) fn hold_withdrawn(&self, mut routes: Vec<AnycastRoute>) -> Vec<AnycastRoute> {
        self.withdrawals().hold(&mut routes);
        routes
    }

    /// Makes the kernel's anycast routes equal to `routes`. Who calls this holds `announcing`.
    pub(super) async fn set_anycast(&self, routes: &[AnycastRoute]) -> Result<(), DataplaneError> {
        self.withdrawals().making(routes);
        self.backends.dataplane.set_anycast(routes).await?;
        self.withdrawals().made(routes, Instant::now() + self.settings.convergence_delay);
        self.withdrawn.notify_one();
        Ok(())
    }

    /// Waits until the delay of some address is over, and ends it.
    pub(super) async fn withdrawal_over(&self) {
        loop {
            let next = self.withdrawals().until.values().min().copied();
            let over = async {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = over => return self.withdrawals().end_until(Instant::now()),
                () = self.withdrawn.notified() => {}
            }
        }
    }

    pub(super) fn withdrawals(&self) -> MutexGuard<'_, Withdrawals> {
        self.withdrawals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
