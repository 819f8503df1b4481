//! Prints the configuration of a small node: `cargo run -p flock-bird --example render`.
//!
//! To look at what BIRD says about it: `… --example render > bird.conf; bird -p -c bird.conf`.

use std::error::Error;
use std::net::Ipv4Addr;

use flock_bird::render::Renderer;
use flock_core::announcer::Announcements;
use flock_core::node_config::Peer;

/// The route protocol that the node's own routes carry.
const ROUTE_PROTOCOL: u8 = 70;

fn main() -> Result<(), Box<dyn Error>> {
    let wanted = Announcements {
        peers: vec![
            Peer::new("tor1-v6", "2001:db8:ffff::1".parse()?, 64500),
            Peer::new("tor1-v4", "192.0.2.254".parse()?, 64500),
        ],
        summaries: ["2001:db8:1::/64".parse()?, "10.0.1.0/24".parse()?].into(),
        anycast: ["2001:db8:a::53".parse()?].into(),
        ..Announcements::new(64512, Ipv4Addr::new(192, 0, 2, 1))
    };
    let text = Renderer::new(ROUTE_PROTOCOL)?.render(&wanted)?;
    #[allow(clippy::print_stdout, reason = "printing is what the example is for")]
    {
        print!("{text}");
    }
    Ok(())
}
