//! The domain of Flock, a Kubernetes CNI that gives every pod a routed address and
//! announces it over BGP: types, five traits, reference backends, and the handler
//! that carries out ADD, DEL and CHECK on them. No netlink, no Kubernetes client and
//! no BGP speaker in here: those are backends, in crates of their own.
//!
//! Take what you need:
//!
//! - **A whole agent**: fill [`handler::Backends`] with one backend of each trait and
//!   give the [`handler::Handler`] to a [`server::Server`].
//! - **Parts of one**: [`ipam::MemoryIpam`] and [`store::FileStore`] know nothing of the
//!   rest and serve any CNI; [`cni`] speaks the specification from 0.3.0 to 1.1.0.
//! - **A backend of your own**: implement a trait and run its conformance suite from your
//!   tests (feature `conformance`); `mocks` has mockall mocks for tests of callers.
//!
//! | trait | what it promises | here | elsewhere |
//! |---|---|---|---|
//! | [`ipam::Ipam`] | unique addresses, idempotent release, rest before reuse | [`ipam::MemoryIpam`] | |
//! | [`store::Store`] | records that survive death at any instruction | [`store::MemoryStore`], [`store::FileStore`] | |
//! | [`dataplane::Dataplane`] | links and routes, idempotent | [`dataplane::MemoryDataplane`] | flock-netlink |
//! | [`announcer::RouteAnnouncer`] | the announced set equals the wanted set | [`announcer::MemoryAnnouncer`] | flock-bird |
//! | [`pods::PodSource`] | annotations of pods, whether they are ready, and each change of that | [`pods::FixedPods`], [`pods::PodDirectory`] | |
//!
//! # A node in memory
//!
//! ```
//! use std::sync::Arc;
//! use std::time::{Duration, Instant};
//!
//! use flock_core::announcer::MemoryAnnouncer;
//! use flock_core::clock::SystemClock;
//! use flock_core::cni::{Operation, RawCall, Verb};
//! use flock_core::dataplane::MemoryDataplane;
//! use flock_core::handler::{Backends, Handler, Settings};
//! use flock_core::ipam::MemoryIpam;
//! use flock_core::node_config::NodeConfig;
//! use flock_core::pods::FixedPods;
//! use flock_core::store::MemoryStore;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let clock = Arc::new(SystemClock);
//! let dataplane = Arc::new(MemoryDataplane::new());
//! dataplane.add_namespace("/run/netns/web-0");
//! let backends = Backends {
//!     ipam: Arc::new(MemoryIpam::new(clock.clone(), Duration::from_secs(30), 0)),
//!     store: Arc::new(MemoryStore::new()),
//!     dataplane,
//!     announcer: Arc::new(MemoryAnnouncer::new()),
//!     pods: Arc::new(FixedPods::default()),
//!     clock,
//! };
//! let config = NodeConfig::from_yaml(
//!     "apiVersion: flock.fritzlab.net/v1alpha1
//! kind: NodeConfig
//! metadata: {name: host001}
//! spec: {cidr6: '2001:db8:1::/64', cidr4: 10.0.1.0/24}",
//!     "host001.yaml",
//! )?;
//! let handler = Handler::new(backends, config, Settings::new("this boot"));
//! handler.recover(&[]).await?;
//! handler.publish().await?;
//!
//! // What a container runtime says: environment variables and standard input.
//! let said = RawCall {
//!     verb: Verb::Add,
//!     container_id: "0123456789ab",
//!     ifname: "eth0",
//!     netns: "/run/netns/web-0",
//!     config: br#"{"cniVersion": "1.1.0", "name": "flock", "type": "flock"}"#,
//!     ..RawCall::default()
//! };
//! let Operation::Attachment(call) = Operation::parse(&said)? else { unreachable!() };
//! let result = handler.add(&call, Instant::now() + Duration::from_secs(60)).await?;
//! let addresses: Vec<String> = result.ips.iter().map(|ip| ip.address.to_string()).collect();
//! assert_eq!(addresses, ["2001:db8:1::1/128", "10.0.1.1/32"]);
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! - `conformance`: the contract tests of each trait, one public function per case.
//! - `mocks`: [mockall](https://docs.rs/mockall) mocks of the five traits.

pub mod annotations;
pub mod announcer;
pub mod attachment;
pub mod boot;
pub mod client;
pub mod clock;
pub mod cni;
pub mod dataplane;
pub mod deletions;
mod directory;
pub mod drain;
pub mod excerpt;
pub mod frame;
pub mod handler;
pub mod inspection;
pub mod ipam;
mod locks;
pub mod name;
pub mod node_config;
pub mod pods;
pub mod retry;
pub mod server;
pub mod store;
