//! The Dataplane of Flock on rtnetlink.

#[cfg(target_os = "linux")]
mod attach;
#[cfg(target_os = "linux")]
mod check;
#[cfg(target_os = "linux")]
mod conversation;
#[cfg(target_os = "linux")]
mod links;
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
#[cfg(target_os = "linux")]
mod worker;

#[cfg(target_os = "linux")]
mod facts;

mod dataplane;

pub use dataplane::NetlinkDataplane;

/// The protocol number of every route that Flock makes ("F"; not in use in
/// iproute2's `rt_protos`). To see them: `ip -6 route show proto 70`.
pub const ROUTE_PROTOCOL: u8 = 70;

/// The link group of every host side that Flock makes ("floc").
/// To see them: `ip link show group 1718382435`.
pub const LINK_GROUP: u32 = 0x666c_6f63;

/// The link group that links are moved into in order to be removed together ("flod").
pub const DOOMED_LINK_GROUP: u32 = 0x666c_6f64;

/// The metric of routes to anycast addresses, which tells them from the routes
/// to pods' own addresses.
pub const ANYCAST_METRIC: u32 = 512;
