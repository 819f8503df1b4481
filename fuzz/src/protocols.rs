//! What BIRD says of its protocols, routes, BFD sessions and itself.
//!
//! The data is one reply without its last line, in BIRD's form.

use flock_bird::control::{Reply, ReplyParser};
use flock_bird::protocols::NeighborAddress;
use flock_bird::render::peer_of;
use flock_bird::time::Moment;
use flock_bird::{bfd, protocols, routes, status, table};

/// Reads `data` as the answer to each question.
pub fn check(data: &[u8]) {
    let mut parser = ReplyParser::new();
    parser.push(data);
    parser.push(b"\n0000 \n");
    while let Some(Ok(reply)) = parser.next_reply() {
        of_protocols(&reply);
        of_routes(&reply);
        of_bfd(&reply);
        of_status(&reply);
    }
}

/// The rows of a reply that say something, by their number.
fn rows(reply: &Reply, code: u16) -> usize {
    reply.lines().filter(|line| line.code.0 == code && !line.text.trim().is_empty()).count()
}

/// No row is lost, nothing is counted twice, and what Flock asks for is among it.
fn of_protocols(reply: &Reply) {
    let read = protocols::parse(reply);
    assert_eq!(read.known.len() + read.unknown.len(), rows(reply, 1002), "{read:?}");
    let mut channels = 0;
    for protocol in &read.known {
        for word in [&protocol.name, &protocol.kind] {
            assert!(!word.is_empty() && !word.contains(char::is_whitespace), "{protocol:?}");
        }
        assert_eq!(protocol.bgp.is_some(), protocol.kind == "BGP", "{protocol:?}");
        since(&protocol.since);
        channels += protocol.channels.len();
        let Some(session) = &protocol.bgp else { continue };
        assert!(!session.state.as_str().contains('\n') && session.neighbor_asn != Some(0), "{session:?}");
        if let Some(neighbor) = &session.neighbor {
            assert_eq!(neighbor.to_string().parse::<NeighborAddress>().as_ref(), Ok(neighbor));
        }
    }
    assert!(channels <= rows(reply, 1006), "{read:?}");
    let peers: Vec<&str> = read.known.iter().filter_map(|protocol| peer_of(&protocol.name)).collect();
    assert!(table::peers(reply).iter().all(|peer| peers.contains(&peer.as_str())), "{read:?}");
}

/// Every route has a row, and every next hop a line.
fn of_routes(reply: &Reply) {
    let read = routes::parse(reply);
    let hops: usize = read.known.iter().map(|route| route.next_hops.len()).sum();
    assert!(read.known.len() + read.unknown.len() + hops <= rows(reply, 1007), "{read:?}");
    for route in &read.known {
        since(&route.since);
        assert!(!route.not_in_kernel || route.best, "{route:?}");
        assert!(!route.protocol.is_empty() && !route.destination.is_empty(), "{route:?}");
    }
    assert_eq!(table::prefixes(reply), read.known.iter().map(|route| route.prefix).collect());
    let counts = routes::parse_counts(reply);
    assert_eq!(counts.known.len() + counts.unknown.len(), rows(reply, 1007), "{counts:?}");
}

fn of_bfd(reply: &Reply) {
    let read = bfd::parse(reply);
    assert!(read.known.len() + read.unknown.len() <= rows(reply, 1020), "{read:?}");
    for session in &read.known {
        since(&session.since);
    }
}

fn of_status(reply: &Reply) {
    let read = status::parse(reply);
    assert_eq!(read.daemon, reply.text());
    for at in [read.last_reboot, read.last_reconfiguration].iter().flatten() {
        since(at);
        if let Some(now) = read.now {
            at.age(now);
        }
    }
}

/// What was read is written in a form that is read as the same.
fn since(at: &Moment) {
    assert_eq!(Moment::read(&at.to_string()), *at);
}
