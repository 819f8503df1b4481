//! Anycast addresses, from a pod's annotation to the router's table.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::time::{Duration, Instant};

use flock_examples::deadline::{Probe, until};
use flock_examples::fabric::Fabric;
use flock_examples::{Result, sandbox};

const LIMIT: Duration = Duration::from_secs(30);
/// The announcer gathers changes for half a second; BIRD's own looks at the kernel's
/// table, which would find what it has missed, are ten seconds apart.
const PROMPT: Duration = Duration::from_secs(3);

/// Every time, not only nearly every time.
#[test]
fn an_anycast_address_is_announced_and_withdrawn_promptly() -> Result<()> {
    sandbox::within("an_anycast_address_is_announced_and_withdrawn_promptly", |_| {
        let mut fabric = Fabric::build(1)?;
        let node = &mut fabric.nodes[0];
        node.start()?;
        fabric.router.bird.established(2, LIMIT)?;
        let addresses = ["2001:db8:a::1", "198.51.100.1"];
        let annotation = addresses.join(",");
        let until_table = |present: bool| {
            let start = Instant::now();
            until(&format!("the addresses in the router's table: {present}"), PROMPT, || {
                let table = fabric.router.bird.query("show route")?;
                let here = addresses.iter().filter(|address| table.contains(&format!("{address}/"))).count();
                let wanted = if present { addresses.len() } else { 0 };
                Ok(if here == wanted { Probe::Done(()) } else { Probe::Waiting(table) })
            })?;
            Ok(start.elapsed())
        };
        let mut slowest = Duration::ZERO;
        for round in 0..40 {
            let pod = node.add_pod(&format!("pod{round}"), &[("anycast", &annotation)])?;
            slowest = slowest.max(until_table(true)?);
            node.delete_pod(&pod)?;
            slowest = slowest.max(until_table(false)?);
        }
        println!("the slowest of 80 changes took {slowest:?}");
        Ok(())
    })
}
