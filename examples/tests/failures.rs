//! What breaks in BGP, as an agent and the pods of its node see it.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use flock_examples::deadline::{Probe, until};
use flock_examples::fabric::Fabric;
use flock_examples::node::Node;
use flock_examples::process::run;
use flock_examples::{Result, sandbox};

const LIMIT: Duration = Duration::from_secs(30);
/// `--birdc-timeout` of the agents here, in seconds.
const PATIENCE: &str = "1";
const LIMITED: u32 = 51;

/// A node whose sessions are up.
fn fabric() -> Result<Fabric> {
    let mut fabric = Fabric::build(1)?;
    let node = &mut fabric.nodes[0];
    let mut command = node.agent_command()?;
    command.args(["--birdc-timeout", PATIENCE]);
    node.start_agent_as(command)?;
    node.start_bird()?;
    node.wait_ready()?;
    fabric.router.bird.established(2, LIMIT)?;
    Ok(fabric)
}

/// Waits until the agent has said all of these in one line.
fn says(node: &Node, parts: &[&str]) -> Result<()> {
    let log = &node.files().agent_log;
    until(&format!("{parts:?} in the agent's log"), LIMIT, || {
        let text = fs::read_to_string(log).unwrap();
        let found = text.lines().any(|line| parts.iter().all(|part| line.contains(part)));
        Ok(if found { Probe::Done(()) } else { Probe::Waiting(text) })
    })
}

fn status_is(node: &Node, holds: impl Fn(Option<(u32, String)>) -> bool) -> Result<()> {
    until("STATUS", LIMIT, || {
        let answer = node.runtime()?.status().make()?;
        let failure = answer.failure().ok().map(|failure| (failure.code, failure.text()));
        Ok(if holds(failure) { Probe::Done(()) } else { Probe::Waiting(answer.said) })
    })
}

/// Waits until the router has a route to this host, or has none.
fn router_has(fabric: &Fabric, host: &str, there: bool) -> Result<()> {
    until(&format!("{host} at the router: {there}"), LIMIT, || {
        let table = fabric.router.bird.query("show route")?;
        Ok(if table.contains(host) == there { Probe::Done(()) } else { Probe::Waiting(table) })
    })
}

/// The router's line for a session, with the time since when it is up.
fn session(fabric: &Fabric, name: &str) -> Result<String> {
    let all = fabric.router.bird.query("show protocols")?;
    Ok(all.lines().find(|line| line.starts_with(name)).unwrap().trim_end().to_owned())
}

#[test]
fn a_bird_that_hangs_holds_no_pod_up() -> Result<()> {
    sandbox::within("a_bird_that_hangs_holds_no_pod_up", |_| {
        let mut fabric = fabric()?;
        let first = fabric.nodes[0].add_pod("first", &[("anycast", "2001:db8:a::1")])?;
        router_has(&fabric, "2001:db8:a::1/128", true)?;
        let before = [session(&fabric, "node1_v6")?, session(&fabric, "node1_v4")?];
        let bird = fabric.nodes[0].bird().unwrap().daemon().pid().to_string();
        let signal = |name| run(Command::new("kill").args(["-s", name, &bird]));

        signal("STOP")?;
        let begin = Instant::now();
        let node = &fabric.nodes[0];
        let second = node.add_pod("second", &[("anycast", "2001:db8:a::2")])?;
        let added = begin.elapsed();
        node.delete_pod(&first)?;
        assert!(added < Duration::from_secs(1), "ADD took {added:?}: it waits for BIRD");
        for address in &second.addresses {
            node.netns.must_ping(*address, Duration::from_secs(1))?;
        }
        let hangs = format!("did not answer within {PATIENCE} s");
        says(node, &["WARN", &hangs, "not applied yet, trying again"])?;
        status_is(node, |failure| {
            failure.is_some_and(|(code, text)| code == LIMITED && text.contains(&hangs))
        })?;

        signal("CONT")?;
        router_has(&fabric, "2001:db8:a::2/128", true)?;
        router_has(&fabric, "2001:db8:a::1/128", false)?;
        status_is(&fabric.nodes[0], |failure| failure.is_none())?;
        says(&fabric.nodes[0], &["BIRD has taken the configuration, after earlier attempts failed"])?;
        assert_eq!([session(&fabric, "node1_v6")?, session(&fabric, "node1_v4")?], before);
        Ok(())
    })
}

#[test]
fn a_bad_entry_of_the_peers_is_told_and_concerns_no_other() -> Result<()> {
    sandbox::within("a_bad_entry_of_the_peers_is_told_and_concerns_no_other", |_| {
        let mut fabric = fabric()?;
        let before = session(&fabric, "node1_v6")?;
        for (hold_time, v4) in [(1, false), (90, true)] {
            fabric.nodes[0].change_bgp(|bgp| bgp["peers"][1]["holdTime"] = hold_time.into())?;
            for restarted in [false, true] {
                let node = &mut fabric.nodes[0];
                if restarted {
                    node.agent().unwrap().kill()?;
                    node.start_agent()?;
                    node.wait_ready()?;
                }
                until("the session of the entry", LIMIT, || {
                    let line = session(&fabric, "node1_v4")?;
                    Ok(if line.contains("Established") == v4 {
                        Probe::Done(())
                    } else {
                        Probe::Waiting(line)
                    })
                })?;
                if !v4 {
                    let told = ["this BGP peer of the NodeConfig can't be used", "tor-v4", "holdTime"];
                    says(&fabric.nodes[0], &told)?;
                }
                router_has(&fabric, "10.0.1.0/24", v4)?;
                assert_eq!(session(&fabric, "node1_v6")?, before, "the other session was reset");
            }
        }
        Ok(())
    })
}
