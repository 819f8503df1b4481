//! What an agent says of its BGP sessions, in its log and its metrics, with a real router.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is not as it should be"
)]

use std::fs;
use std::process::Command;
use std::time::Duration;

use flock_examples::deadline::{Probe, until};
use flock_examples::fabric::Fabric;
use flock_examples::node::Node;
use flock_examples::process::run;
use flock_examples::{Result, sandbox};

/// Of the agent's metrics.
const PORT: u16 = 9431;
const LIMIT: Duration = Duration::from_secs(60);

/// Waits until a metric has this value. It is absent while nothing is known.
fn is(node: &Node, series: &str, value: u64) -> Result<()> {
    until(&format!("{series} to be {value}"), LIMIT, || {
        Ok(match node.counted(PORT, &format!("{series} ")) {
            Ok(found) if found == value => Probe::Done(()),
            found => Probe::Waiting(format!("{found:?}")),
        })
    })
}

/// Waits until the agent has said so often something of this text, of this peer.
fn says(node: &Node, text: &str, of: &str, times: usize) -> Result<()> {
    until(&format!("{text:?} of {of:?}, {times} times"), LIMIT, || {
        let found = said(node, text, of);
        Ok(if found == times { Probe::Done(()) } else { Probe::Waiting(format!("{found} times")) })
    })
}

/// How many lines of the agent's log have both.
fn said(node: &Node, text: &str, of: &str) -> usize {
    let log = fs::read_to_string(&node.files().agent_log).unwrap();
    log.lines().filter(|line| line.contains(text) && line.contains(of)).count()
}

#[test]
fn each_change_of_a_session_is_logged_once_and_measured() -> Result<()> {
    sandbox::within("each_change_of_a_session_is_logged_once_and_measured", |_| {
        let mut fabric = Fabric::build(1)?;
        let node = &mut fabric.nodes[0];
        let mut command = node.agent_command()?;
        command.args(["--http-address", &format!("127.0.0.1:{PORT}")]);
        node.start_agent_as(command)?;
        node.start_bird()?;
        for (peer, family) in [("tor-v6", "ipv6"), ("tor-v4", "ipv4")] {
            is(node, &format!(r#"flock_bgp_session_up{{peer="{peer}"}}"#), 1)?;
            let routes = format!(r#"{{peer="{peer}",family="{family}"}}"#);
            is(node, &format!("flock_bgp_prefixes_advertised{routes}"), 1)?;
            is(node, &format!("flock_bgp_prefixes_received{routes}"), 1)?;
            says(node, "the BGP session is up", peer, 1)?;
        }

        let socket = fabric.router.bird.socket();
        let router = |what| run(Command::new("birdc").arg("-s").arg(socket).args([what, "node1_v4"]));
        router("disable")?;
        is(node, r#"flock_bgp_session_up{peer="tor-v4"}"#, 0)?;
        is(node, r#"flock_bgp_session_up{peer="tor-v6"}"#, 1)?;
        router("enable")?;
        is(node, r#"flock_bgp_session_up{peer="tor-v4"}"#, 1)?;
        says(node, "the BGP session is up", "tor-v4", 2)?;
        says(node, "the BGP session is up", "tor-v6", 1)?;
        // Each with another reason; before the first time it was up, there may have been one too.
        assert!((1..=4).contains(&said(node, "the BGP session is down", "tor-v4")));
        assert!(said(node, "the BGP session is down", "error=") >= 1, "without a reason");

        // BIRD may have been started later than it was asked first.
        let (away, back) = ("BIRD does not answer; how the BGP sessions are", "BIRD answers again");
        let before = (said(node, away, ""), said(node, back, ""));
        node.bird().unwrap().daemon().kill()?;
        is(node, "flock_bird_up", 0)?;
        assert!(node.counted(PORT, r#"flock_bgp_session_up{peer="tor-v6"} "#).is_err(), "it is shown on");
        says(node, away, "", before.0 + 1)?;
        node.start_bird()?;
        is(node, r#"flock_bgp_session_up{peer="tor-v6"}"#, 1)?;
        says(node, back, "", before.1 + 1)?;
        says(node, "the BGP session is up", "tor-v6", 2)?;
        Ok(())
    })
}
