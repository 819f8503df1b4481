//! The [`Dataplane`] of Flock on rtnetlink: one veth per pod, one host route per
//! address, no bridge.
//!
//! ```no_run
//! use flock_core::attachment::Attachment;
//! use flock_core::dataplane::{Dataplane, DataplaneError, Link};
//! use flock_netlink::NetlinkDataplane;
//!
//! /// Connects a pod, has a look, and takes it away again. Needs `CAP_NET_ADMIN`,
//! /// and `CAP_SYS_ADMIN` for the pod's namespace.
//! async fn connect(mut attachment: Attachment) -> Result<(), DataplaneError> {
//!     let dataplane = NetlinkDataplane::new()?;
//!     let node = dataplane.prepare().await?;
//!     attachment.mtu = node.default_mtu.unwrap_or(1500);
//!     attachment.netns = dataplane.identify(&attachment.netns.path).await?;
//!
//!     dataplane.attach(&attachment).await?;
//!     assert!(dataplane.check(&[attachment.clone()]).await?[0].is_empty());
//!
//!     dataplane.detach(&attachment).await?;
//!     dataplane.reap(&[Link::of(&attachment)]).await
//! }
//! ```
//!
//! `examples/attach.rs` does so with two namespaces that it makes itself;
//! `examples/timing.rs` shows how long each step takes.
//!
//! # What a pod gets
//!
//! | | on the node | in the pod |
//! |---|---|---|
//! | link | `flock…`, alias with the owner, group [`LINK_GROUP`] | named as asked |
//! | addresses | `fe80::1/64` | `/128` and `/32`, a link-local one, those it serves by anycast |
//! | routes | `/128` and `/32`, protocol [`ROUTE_PROTOCOL`] | default routes via `fe80::1` and `169.254.1.1` |
//! | neighbours, permanent | all of the pod's addresses | both gateways |
//! | settings | forwarding, proxy_arp, rp_filter 1, accept_ra 0 | |
//!
//! - No address is tentative (RFC 4862), no neighbour is searched for: the first
//!   packet of either family passes.
//! - Anycast addresses are answered and never chosen as source: deprecated in
//!   IPv6, of host scope in IPv4.
//! - `169.254.1.1` is on the node's `lo`, with host scope. A node that has no
//!   IPv4 address of its own talks to pods from it.
//! - Where another interface of the pod has the default route already, the
//!   new one routes by its own addresses, in a table of its own.
//! - The effective reverse path filter is the larger of the interface's and
//!   `net.ipv4.conf.all.rp_filter`: a node with 2 there (loose) has it loose for
//!   pods, too. With strict filtering the answers that a server of an anycast
//!   address has on their way when it leaves are dropped.
//! - An interface that has learnt a route from a router advertisement gets
//!   `accept_ra` 2 from [`prepare`](flock_core::dataplane::Dataplane::prepare): with forwarding on, 1
//!   would mean 0, and the node would lose its default route.
//!
//! # How it talks to the kernel
//!
//! With rtnetlink's message builders over sockets of netlink-sys, on threads of
//! its own. The kernel works off a request inside `sendmsg`, where it may wait
//! for its one lock; an async connection would block a thread of the runtime
//! for as long. Requests go many to a datagram with one acknowledgement for
//! all: an attachment takes five datagrams. The same threads are the only ones
//! that enter a pod's network namespace, and do so only to open a socket or a file.
//!
//! [`Dataplane`]: flock_core::dataplane::Dataplane

#[cfg(target_os = "linux")]
mod attach;
#[cfg(target_os = "linux")]
mod check;
#[cfg(target_os = "linux")]
mod conversation;
#[cfg(target_os = "linux")]
mod dataplane;
#[cfg(target_os = "linux")]
mod facts;
#[cfg(target_os = "linux")]
mod links;
#[cfg(target_os = "linux")]
mod listener;
#[cfg(target_os = "linux")]
mod messages;
#[cfg(target_os = "linux")]
mod netns;
#[cfg(target_os = "linux")]
mod node;
#[cfg(target_os = "linux")]
mod pod;
#[cfg(target_os = "linux")]
mod routes;
#[cfg(target_os = "linux")]
mod state;
#[cfg(target_os = "linux")]
mod sysctl;
#[cfg(not(target_os = "linux"))]
mod unsupported;
#[cfg(target_os = "linux")]
mod worker;

#[cfg(target_os = "linux")]
pub use dataplane::NetlinkDataplane;
#[cfg(not(target_os = "linux"))]
pub use unsupported::NetlinkDataplane;

/// The protocol number of every route that Flock makes ("F"; not in use in
/// iproute2's `rt_protos`). To see them: `ip -6 route show proto 70`.
pub const ROUTE_PROTOCOL: u8 = 70;

/// The link group of every host side that Flock makes ("floc").
/// To see them: `ip link show group 1718382435`.
pub const LINK_GROUP: u32 = 0x666c_6f63;

/// The link group that links are moved into in order to be removed together ("flod").
pub const DOOMED_LINK_GROUP: u32 = 0x666c_6f64;

/// The metric of routes to anycast addresses that are announced: better than that of routes to the
/// same address that a BGP speaker makes (of BIRD as flock-bird configures it that is 32), and than
/// those in any other state, so that the new one counts as soon as it is there.
pub const ANNOUNCED_METRIC: u32 = 8;

/// The metric of routes to anycast addresses that were withdrawn a moment ago: better than that of
/// routes that a BGP speaker makes too, so that nothing is sent back to routers that have not heard
/// of it yet.
pub const WITHDRAWING_METRIC: u32 = 16;

/// The metric of routes to anycast addresses that are not announced: worse than that of routes that
/// a BGP speaker makes, so that they only take what would have no other way.
pub const STANDBY_METRIC: u32 = 32_768;

/// The metrics of the routes that are not to be announced.
pub const UNANNOUNCED_METRICS: [u32; 2] = [WITHDRAWING_METRIC, STANDBY_METRIC];
