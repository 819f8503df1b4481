//! The RouteAnnouncer of Flock on BIRD 2.
//!
//! [`BirdAnnouncer`] makes what the network hears equal to what is wanted: it renders
//! [`Announcements`](flock_core::announcer::Announcements) to a configuration ([`render`]), lets
//! BIRD check it, puts it in place in one step and has BIRD take it over its control
//! socket ([`control`]). Both halves are of use without the announcer.
//!
//! What BIRD says can be asked for as types, with or without Flock: its [`protocols`] with their
//! BGP sessions, its [`routes`], its [`bfd`] sessions and its [`status`]. [`peers`] observes the
//! sessions with Flock's peers.
//!
//! ```
//! use std::net::Ipv4Addr;
//!
//! use flock_bird::render::Renderer;
//! use flock_core::announcer::Announcements;
//! use flock_core::node_config::Peer;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let wanted = Announcements {
//!     peers: vec![Peer::new("tor1", "2001:db8:ffff::1".parse()?, 64500)],
//!     summaries: ["2001:db8:1::/64".parse()?].into(),
//!     anycast: ["2001:db8:a::53".parse()?].into(),
//!     ..Announcements::new(64512, Ipv4Addr::new(192, 0, 2, 1))
//! };
//! // 70 is the route protocol that marks the node's own routes in the kernel.
//! let text = Renderer::new(70)?.render(&wanted)?;
//! assert!(text.contains("neighbor 2001:db8:ffff::1 as 64500;"));
//! # Ok(()) }
//! ```
//!
//! # What it needs of the node
//!
//! BIRD 2.0.9 or later with its control socket and its configuration file under the paths of [`BirdConfig`],
//! before or after the announcer starts. BIRD reads the node's routes from the kernel's main
//! table: the Dataplane puts them there, under the route protocol number that
//! [`BirdConfig::route_protocol`] names.
//!
//! # Sessions stay
//!
//! A change of anycast addresses changes filters between BIRD and the kernel and before the peers,
//! which BIRD exchanges under running sessions. Only a changed summary, thus a changed
//! NodeConfig, changes the filter for what peers send; BIRD then asks them to send it again (RFC
//! 2918), and a peer that can't do that loses its session for a moment.

pub mod announcer;
pub mod bfd;
pub mod config;
pub mod control;
mod debounce;
mod file;
pub mod peers;
pub mod protocols;
pub mod query;
pub mod render;
pub mod routes;
mod speaker;
pub mod status;
pub mod table;
pub mod time;
pub mod verdict;

pub use announcer::BirdAnnouncer;
pub use config::BirdConfig;
