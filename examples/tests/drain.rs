//! A node that is drained by its NodeConfig, as its router sees it.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::time::{Duration, Instant};

use flock_examples::deadline::{Probe, until};
use flock_examples::fabric::{Fabric, Plan};
use flock_examples::judge::{Mode, check};
use flock_examples::router::Router;
use flock_examples::{Result, sandbox};

const LIMIT: Duration = Duration::from_secs(30);
/// The shortest that leaves something to be seen.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// What the router's table has of the node's summaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Usual,
    Marked,
    Nothing,
}

fn seen(router: &Router) -> Result<Option<Seen>> {
    let plan = Plan::new(1);
    let table = router.bird.query("show route all")?;
    let all = [plan.cidr6(), plan.cidr4()].map(|prefix| {
        let mut lines = table.lines().skip_while(|line| !line.starts_with(&prefix));
        if lines.next().is_none() {
            return Seen::Nothing;
        }
        let mut of_prefix = lines.take_while(|line| line.starts_with([' ', '\t']));
        if of_prefix.any(|line| line.contains("(65535,0)")) { Seen::Marked } else { Seen::Usual }
    });
    Ok((all[0] == all[1]).then_some(all[0]))
}

fn until_seen(router: &Router, expected: Seen) -> Result<Instant> {
    until(&format!("{expected:?} of the node in the router's table"), LIMIT, || {
        let seen = seen(router)?;
        Ok(if seen == Some(expected) {
            Probe::Done(Instant::now())
        } else {
            Probe::Waiting(format!("{seen:?}"))
        })
    })
}

/// Of both sessions: since when they are up, and how many routes they have brought so far.
fn sessions(router: &Router) -> Result<[Vec<String>; 2]> {
    let all = router.bird.query("show protocols all \"node1*\"")?;
    let of = |start: &str| {
        all.lines().map(str::trim).filter(|line| line.starts_with(start)).map(str::to_owned).collect()
    };
    Ok([of("node1"), of("Import updates:")])
}

/// Also over the death of its agent: what was withdrawn is not announced for a moment.
#[test]
fn a_node_leaves_in_order_and_comes_back() -> Result<()> {
    sandbox::within("a_node_leaves_in_order_and_comes_back", |_| {
        let mut fabric = Fabric::build(1)?;
        let Fabric { nodes, router, .. } = &mut fabric;
        let node = &mut nodes[0];
        node.start()?;
        router.bird.established(2, LIMIT)?;
        until_seen(router, Seen::Usual)?;
        let [up, _] = sessions(router)?;
        assert_eq!(up.len(), 2, "{up:?}");

        node.change_bgp(|bgp| {
            bgp["drain"] = true.into();
            bgp["drainTime"] = DRAIN_TIME.as_secs().into();
        })?;
        let marked = until_seen(router, Seen::Marked)?;
        let withdrawn = until_seen(router, Seen::Nothing)?;
        // As far as can be told by looking now and then.
        assert!(withdrawn - marked > DRAIN_TIME / 2, "after {:?}", withdrawn - marked);

        let verdict = check(node, Mode::Online)?;
        assert!(verdict.agrees && verdict.said.contains("drained (NodeConfig): nothing is"), "{verdict}");

        let before = sessions(router)?;
        node.agent().unwrap().kill()?;
        node.start_agent()?;
        node.wait_ready()?;
        // Whatever it told BIRD stands there before something else does.
        node.change_bgp(|bgp| bgp["maximumPaths"] = 2.into())?;
        let config = node.files().bird_config.clone();
        until("the next agent's configuration", LIMIT, || {
            let text = std::fs::read_to_string(&config).unwrap();
            Ok(if text.contains("limit 2;") { Probe::Done(()) } else { Probe::Waiting(text) })
        })?;
        assert_eq!(sessions(router)?, before);
        assert_eq!(seen(router)?, Some(Seen::Nothing));

        node.change_bgp(|bgp| bgp["drain"] = false.into())?;
        until_seen(router, Seen::Usual)?;
        assert_eq!(sessions(router)?[0], up, "sessions stay");
        Ok(())
    })
}

/// What can't be used says so, and changes nothing.
#[test]
fn a_changed_nodeconfig_that_is_wrong_leaves_the_drain_as_it_is() -> Result<()> {
    sandbox::within("a_changed_nodeconfig_that_is_wrong_leaves_the_drain_as_it_is", |_| {
        let mut fabric = Fabric::build(1)?;
        let Fabric { nodes, router, .. } = &mut fabric;
        let node = &mut nodes[0];
        node.change_bgp(|bgp| bgp["drain"] = true.into())?;
        node.start()?;
        router.bird.established(2, LIMIT)?;
        // It has announced nothing since it booted.
        assert_eq!(seen(router)?, Some(Seen::Nothing));
        node.change_bgp(|bgp| bgp["drain"] = "perhaps".into())?;
        let log = node.files().agent_log.clone();
        until("the problem in the log", LIMIT, || {
            let text = std::fs::read_to_string(&log).unwrap();
            let said = text.matches("the changed NodeConfig is not in force").count();
            Ok(if said == 1 { Probe::Done(()) } else { Probe::Waiting(text) })
        })?;
        assert_eq!(seen(router)?, Some(Seen::Nothing));
        node.change_bgp(|bgp| bgp["drain"] = false.into())?;
        until_seen(router, Seen::Usual)?;
        Ok(())
    })
}

/// BIRD has what stood in its configuration before the boot, and its sessions may be up sooner than the
/// agent.
#[test]
fn a_node_that_boots_while_it_is_to_be_drained_is_not_announced_for_a_moment() -> Result<()> {
    sandbox::within("a_node_that_boots_while_it_is_to_be_drained_is_not_announced_for_a_moment", |_| {
        let mut fabric = Fabric::build(1)?;
        let Fabric { nodes, router, .. } = &mut fabric;
        let node = &mut nodes[0];
        node.start()?;
        router.bird.established(2, LIMIT)?;
        until_seen(router, Seen::Usual)?;
        // What a boot leaves: the configurations.
        node.agent().unwrap().kill()?;
        for family in ["-6", "-4"] {
            node.netns.ip(&[family, "route", "flush", "proto", "70"])?;
        }
        std::fs::remove_dir_all(node.files().run.join("attachments")).ok();
        std::fs::remove_file(node.files().run.join("drain.json")).unwrap();
        until_seen(router, Seen::Nothing)?;

        let before = sessions(router)?;
        node.change_bgp(|bgp| bgp["drain"] = true.into())?;
        node.start_agent()?;
        node.wait_ready()?;
        let config = node.files().bird_config.clone();
        until("nothing to be exported", LIMIT, || {
            let text = std::fs::read_to_string(&config).unwrap();
            Ok(if text.contains("export none;") { Probe::Done(()) } else { Probe::Waiting(text) })
        })?;
        // Whatever was told before stands there before something else does.
        node.change_bgp(|bgp| bgp["maximumPaths"] = 2.into())?;
        until("the next configuration", LIMIT, || {
            let text = std::fs::read_to_string(&config).unwrap();
            Ok(if text.contains("limit 2;") { Probe::Done(()) } else { Probe::Waiting(text) })
        })?;
        assert_eq!(sessions(router)?, before);
        assert_eq!(seen(router)?, Some(Seen::Nothing));
        Ok(())
    })
}
