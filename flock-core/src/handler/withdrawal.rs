//! Anycast addresses that the node has withdrawn a moment ago.
//!
//! Routers that have not heard of it yet still send packets for them. A node that took a peer's
//! route to the same address at once would send those back, again and again: so what they send
//! goes to the pods that served the address, until the routers had time to hear of it. RFC 8333
//! calls that a local convergence delay. It ends early where those pods are deleted meanwhile.

use std::collections::BTreeMap;
use std::future::pending;
use std::net::IpAddr;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::attachment::AttachmentKey;
use crate::dataplane::{AnycastRoute, AnycastState, DataplaneError};
use crate::handler::Handler;
use crate::handler::anycast::Served;

/// What ends within this time of each other ends together.
const TOGETHER: Duration = Duration::from_millis(50);

/// What the kernel's routes announce, or announced a moment ago.
#[derive(Debug, Default)]
pub(super) struct Withdrawals {
    /// By whom it is, or was, served.
    served: Served,
    /// Of what was withdrawn, the end of the delay.
    ends: BTreeMap<IpAddr, Instant>,
}

impl Withdrawals {
    /// Takes up what an agent before this one has left announced.
    pub(super) fn recall(&mut self, served: Served) {
        self.served = served;
    }

    /// Who served what has been withdrawn.
    pub(super) fn withdrawn(&self) -> Served {
        let served = self.served.iter().filter(|(address, _)| self.ends.contains_key(address));
        served.map(|(address, servers)| (*address, servers.clone())).collect()
    }

    /// The kernel may have these routes from now on.
    fn begin(&mut self, routes: &[AnycastRoute]) {
        for route in announced(routes) {
            self.served.entry(route.address).or_default().extend(keys(route));
        }
    }

    /// The kernel has these routes, and no others. What has been withdrawn by them is so until `end`.
    fn complete(&mut self, routes: &[AnycastRoute], end: Instant) {
        let withdrawing = routes.iter().filter(|route| route.state == AnycastState::Withdrawing);
        let ends: BTreeMap<IpAddr, Instant> = withdrawing
            .map(|route| (route.address, self.ends.get(&route.address).copied().unwrap_or(end)))
            .collect();
        self.ends = ends;
        self.served.retain(|address, _| self.ends.contains_key(address));
        self.served.extend(announced(routes).map(|route| (route.address, keys(route).collect())));
    }

    /// Forgets what was withdrawn long enough ago.
    fn expire(&mut self, now: Instant) {
        let over: Vec<IpAddr> =
            self.ends.iter().filter(|(_, end)| **end <= now).map(|(address, _)| *address).collect();
        for address in over {
            self.ends.remove(&address);
            self.served.remove(&address);
        }
    }
}

fn announced(routes: &[AnycastRoute]) -> impl Iterator<Item = &AnycastRoute> {
    routes.iter().filter(|route| route.state == AnycastState::Announced)
}

fn keys(route: &AnycastRoute) -> impl Iterator<Item = AttachmentKey> {
    route.servers.iter().map(|server| server.key.clone())
}

impl Handler {
    /// Who serves, or served a moment ago, what the kernel announces.
    pub(super) fn served(&self) -> Served {
        if self.settings.convergence_delay.is_zero() {
            Served::new()
        } else {
            self.withdrawals().served.clone()
        }
    }

    /// Makes the kernel's anycast routes equal to `routes`. Who calls this holds `announcing`.
    pub(super) async fn set_anycast(&self, routes: &[AnycastRoute]) -> Result<(), DataplaneError> {
        self.withdrawals().begin(routes);
        self.backends.dataplane.set_anycast(routes).await?;
        self.withdrawals().complete(routes, Instant::now() + self.settings.convergence_delay);
        self.withdrawal_wakes.notify_one();
        Ok(())
    }

    /// Ends the withdrawals that lasted long enough, for the routes that are made next. Who calls
    /// this holds `announcing`.
    pub(super) fn expire_withdrawals(&self) {
        self.withdrawals().expire(Instant::now());
    }

    /// Waits until there is something to end. Cancel safe.
    pub(super) async fn withdrawal_expires(&self) {
        loop {
            let first = self.withdrawals().ends.values().min().copied();
            let expires = async {
                match first {
                    Some(end) => sleep_until(end + TOGETHER).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = expires => return,
                () = self.withdrawal_wakes.notified() => {}
            }
        }
    }

    pub(super) fn withdrawals(&self) -> MutexGuard<'_, Withdrawals> {
        self.withdrawals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
