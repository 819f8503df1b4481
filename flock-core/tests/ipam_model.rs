//! [`MemoryIpam`] against a plain model that looks at every address: random
//! operations in tiny prefixes, each answer and the usage compared after each.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::result_large_err,
    reason = "the whole file is tests"
)]

use std::sync::Arc;
use std::time::Duration;

use flock_core::attachment::{Addresses, AttachmentKey, NodeCidrs};
use flock_core::clock::ManualClock;
use flock_core::ipam::{AddressRequest, Algorithm, FamilyRequest, Ipam, IpamError, LeaseOwner, MemoryIpam};
use flock_core::name::{ContainerId, InterfaceName, PodKey};
use futures_util::FutureExt;
use ipnet::{Ipv4Net, Ipv6Net};
use proptest::prelude::*;

use crate::model::{Model, REST_MS};

#[path = "ipam_model/model.rs"]
mod model;

/// So many addresses of each family take part: those of a /27 and a /123.
const WINDOW: u8 = 32;
const OWNERS: u8 = 24;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn the_allocator_does_what_the_model_does(
        seed: u64,
        (start, steps) in window().prop_flat_map(|w| (configure(w), prop::collection::vec(step(w), 1..80))),
    ) {
        let clock = Arc::new(ManualClock::new());
        let ipam = MemoryIpam::new(clock.clone(), Duration::from_millis(REST_MS), seed);
        let mut model = Model::default();
        for step in std::iter::once(start).chain(steps) {
            run(&step, &ipam, &clock, &mut model)?;
            prop_assert_eq!(now(ipam.usage()), Ok(model.usage()), "after {:?}", step);
        }
        // Everybody still holds what the model says, nothing else is held.
        for owner in (0..OWNERS).map(owner) {
            let held = model.held_by(&owner.key);
            let request = AddressRequest {
                ipv6: held.ipv6.map_or(FamilyRequest::None, FamilyRequest::Exactly),
                ipv4: held.ipv4.map_or(FamilyRequest::None, FamilyRequest::Exactly),
                ..AddressRequest::default()
            };
            prop_assert_eq!(now(ipam.allocate(&owner, &request)), Ok(held));
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Allocate(LeaseOwner, AddressRequest),
    Release(LeaseOwner),
    Restore(LeaseOwner, Addresses),
    Configure(NodeCidrs, Vec<std::net::IpAddr>),
    Advance(u64),
}

fn run(step: &Step, ipam: &MemoryIpam, clock: &ManualClock, model: &mut Model) -> Result<(), TestCaseError> {
    match step {
        Step::Allocate(owner, request) => {
            let expected = model.allocate(owner, request);
            let found = now(ipam.allocate(owner, request)).map_err(without_reason);
            match (expected, found) {
                (Err(expected), Err(found)) => prop_assert_eq!(found, expected, "{:?}", step),
                (Ok(allowed), Ok(found)) => {
                    prop_assert!(allowed.admits(found), "{:?} got {:?}, expected {:?}", step, found, allowed);
                    model.gave(owner, request, found);
                }
                (expected, found) => prop_assert!(false, "{step:?}: got {found:?}, expected {expected:?}"),
            }
        }
        Step::Release(owner) => {
            prop_assert_eq!(now(ipam.release(&owner.key)), Ok(()));
            model.release(&owner.key);
        }
        Step::Restore(owner, addresses) => {
            prop_assert_eq!(
                now(ipam.restore(owner, *addresses)),
                model.restore(owner, *addresses),
                "{:?}",
                step
            );
        }
        Step::Configure(cidrs, own) => {
            prop_assert_eq!(now(ipam.configure(*cidrs, own)), Ok(()));
            model.configure(*cidrs, own);
        }
        Step::Advance(ms) => {
            clock.advance(Duration::from_millis(*ms));
            model.advance(*ms);
        }
    }
    Ok(())
}

/// The allocator never waits for anything.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("ready at once")
}

/// The words are not the model's business.
fn without_reason(error: IpamError) -> IpamError {
    match error {
        IpamError::Reserved { address, .. } => IpamError::Reserved { address, reason: "" },
        error => error,
    }
}

/// Where the addresses are: in the middle of the number range and at its end.
fn window() -> impl Strategy<Value = Window> {
    prop::sample::select(vec![
        Window { ipv6: 0x2001_0db8 << 96, ipv4: 10 << 24 },
        Window { ipv6: 0, ipv4: 0 },
        Window { ipv6: u128::MAX - 31, ipv4: u32::MAX - 31 },
    ])
}

#[derive(Debug, Clone, Copy)]
struct Window {
    ipv6: u128,
    ipv4: u32,
}

impl Window {
    fn v6(self, at: u8) -> std::net::Ipv6Addr {
        self.ipv6.wrapping_add(at.into()).into()
    }

    fn v4(self, at: u8) -> std::net::Ipv4Addr {
        self.ipv4.wrapping_add(at.into()).into()
    }

    /// The prefix with `host_bits` that `at` is in.
    fn net6(self, at: u8, host_bits: u8) -> Ipv6Net {
        Ipv6Net::new(self.v6(at), 128 - host_bits).unwrap().trunc()
    }

    fn net4(self, at: u8, host_bits: u8) -> Ipv4Net {
        Ipv4Net::new(self.v4(at), 32 - host_bits).unwrap().trunc()
    }
}

fn step(window: Window) -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => allocate(window),
        5 => owners().prop_map(Step::Release),
        2 => (0..=REST_MS + REST_MS / 4).prop_map(Step::Advance),
        1 => restore(window),
        1 => configure(window),
    ]
}

fn allocate(window: Window) -> impl Strategy<Value = Step> {
    let algorithm = prop::sample::select(vec![Algorithm::Sequential, Algorithm::Random, Algorithm::Stable]);
    let ipv6 = prop_oneof![
        2 => Just(FamilyRequest::None),
        4 => Just(FamilyRequest::Any),
        3 => (0..WINDOW, 0..=4_u8).prop_map(move |(at, bits)| FamilyRequest::From(window.net6(at, bits))),
        2 => any_address().prop_map(move |at| FamilyRequest::Exactly(window.v6(at))),
        1 => any_address().prop_map(move |at| FamilyRequest::Granted(window.v6(at))),
    ];
    let ipv4 = prop_oneof![
        2 => Just(FamilyRequest::None),
        4 => Just(FamilyRequest::Any),
        3 => (0..WINDOW, 0..=4_u8).prop_map(move |(at, bits)| FamilyRequest::From(window.net4(at, bits))),
        2 => any_address().prop_map(move |at| FamilyRequest::Exactly(window.v4(at))),
        1 => any_address().prop_map(move |at| FamilyRequest::Granted(window.v4(at))),
    ];
    (owners(), ipv6, ipv4, algorithm).prop_map(|(owner, ipv6, ipv4, algorithm)| {
        Step::Allocate(owner, AddressRequest { ipv6, ipv4, algorithm })
    })
}

fn restore(window: Window) -> impl Strategy<Value = Step> {
    (owners(), prop::option::of(any_address()), prop::option::of(any_address())).prop_map(
        move |(owner, ipv6, ipv4)| {
            let ipv6 = ipv6.map(|at| window.v6(at));
            Step::Restore(owner, Addresses { ipv6, ipv4: ipv4.map(|at| window.v4(at)) })
        },
    )
}

/// Mostly /28 and /124, so that some of what was given stays inside; now and then down to a single address.
fn configure(window: Window) -> impl Strategy<Value = Step> {
    let prefix = || prop::option::weighted(0.9, (0..WINDOW, prop_oneof![2 => Just(4_u8), 3 => 0..=4_u8]));
    let own = prop::collection::vec((any::<bool>(), any_address()), 0..4);
    (prefix(), prefix(), own).prop_map(move |(ipv6, ipv4, own)| {
        let cidrs = NodeCidrs {
            ipv6: ipv6.map(|(at, bits)| window.net6(at, bits)),
            ipv4: ipv4.map(|(at, bits)| window.net4(at, bits)),
        };
        let address = |(six, at)| if six { window.v6(at).into() } else { window.v4(at).into() };
        Step::Configure(cidrs, own.into_iter().map(address).collect())
    })
}

/// Now and then one outside of the window; beyond the end of the numbers it goes on at the beginning.
fn any_address() -> impl Strategy<Value = u8> {
    prop_oneof![20 => 0..WINDOW, 1 => Just(WINDOW + 3)]
}

fn owners() -> impl Strategy<Value = LeaseOwner> {
    (0..OWNERS).prop_map(owner)
}

/// Two interfaces in each container, some of the containers of one pod, some of none.
fn owner(n: u8) -> LeaseOwner {
    let interface = InterfaceName::new(format!("eth{}", n % 2)).unwrap();
    let container = n / 2;
    let pod = (container % 5 != 4).then(|| PodKey::new("default", format!("p{}", container % 5)).unwrap());
    LeaseOwner { key: AttachmentKey::new(ContainerId::new(format!("c{container}")).unwrap(), interface), pod }
}
