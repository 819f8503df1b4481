//! BIRD is replaced under traffic, as the DaemonSet does it, and is killed: peers keep the
//! node's routes, the kernel keeps the peers' (graceful restart, RFC 4724).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is not as it should be"
)]

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use flock_examples::bird::Bird;
use flock_examples::deadline::{Probe, until};
use flock_examples::fabric::Fabric;
use flock_examples::node::{Node, Pod};
use flock_examples::process::{Daemon, output, run};
use flock_examples::{Result, sandbox};

const LIMIT: Duration = Duration::from_secs(60);

/// One ping every 10 ms for each address, both ways, until it is ended.
struct Traffic {
    pings: Vec<(String, Child)>,
}

impl Traffic {
    fn between(one: &Pod, other: &Pod) -> Self {
        let ways = [(one, other), (other, one)];
        let pings = ways.into_iter().flat_map(|(from, to)| {
            to.addresses.iter().map(|address| {
                let mut command = from.netns().command("ping");
                command.args(["-n", "-i", "0.01", "-W", "1"]).arg(address.to_string());
                command.stdout(Stdio::piped());
                (format!("{} to {address}", from.name()), command.spawn().unwrap())
            })
        });
        Self { pings: pings.collect() }
    }

    /// Ends it and makes sure that each echo request had its answer.
    fn assert_nothing_lost(self, while_: &str) -> Result<()> {
        for (what, ping) in self.pings {
            // Asked so, ping prints its summary and ends.
            run(Command::new("kill").args(["-INT", &ping.id().to_string()]))?;
            let said = String::from_utf8(ping.wait_with_output().unwrap().stdout).unwrap();
            let summary = said.lines().find(|line| line.contains("packets transmitted")).unwrap_or_default();
            let numbers: Vec<u32> = summary.split(' ').filter_map(|word| word.parse().ok()).collect();
            let [sent, received, ..] = numbers[..] else {
                unreachable!("{while_}: {what}: no summary in {said}");
            };
            // The last request may be on its way when the ping ends.
            assert!(sent > 20 && received + 1 >= sent, "{while_}: {what}: {summary}");
        }
        Ok(())
    }
}

/// The sessions of both families with this node, as the router lists them.
fn sessions_of_first_node_are_gone(router: &Bird) -> Result<()> {
    until("the router to notice", LIMIT, || {
        let sessions = router.query("show protocols \"*\"")?;
        let up = sessions.lines().filter(|line| line.contains("Established")).count();
        Ok(if up == 2 { Probe::Done(()) } else { Probe::Waiting(sessions) })
    })
}

/// Starts the node's BIRD as it is started when it was there before.
fn start_again(node: &Node) -> Result<Daemon> {
    let files = node.files();
    let mut command = node.netns.command("bird");
    command.args(["-f", "-R", "-c"]).arg(&files.bird_config).arg("-s").arg(&files.bird_socket);
    let mut daemon = Daemon::start("BIRD again", &mut command, &files.bird_log)?;
    until("BIRD to have its peers' routes again", LIMIT, || {
        daemon.must_run()?;
        let status =
            output(Command::new("birdc").arg("-s").arg(&files.bird_socket).args(["show", "status"]))?;
        let said = String::from_utf8_lossy(&status.stdout).into_owned();
        let done = said.contains("up and running") && !said.contains("recovery in progress");
        Ok(if done { Probe::Done(()) } else { Probe::Waiting(said) })
    })?;
    Ok(daemon)
}

fn routes(fabric: &Fabric) -> Result<[String; 4]> {
    let (router, node) = (&fabric.router.netns, &fabric.nodes[0].netns);
    let of = |netns: &flock_examples::netns::Netns, family| netns.ip(&[family, "route"]);
    Ok([of(router, "-4")?, of(router, "-6")?, of(node, "-4")?, of(node, "-6")?])
}

#[test]
fn no_packet_is_lost_while_bird_is_replaced_or_killed() -> Result<()> {
    sandbox::within("no_packet_is_lost_while_bird_is_replaced_or_killed", |_| {
        let mut fabric = Fabric::build(2)?;
        for node in &mut fabric.nodes {
            node.start()?;
        }
        fabric.router.bird.established(4, LIMIT)?;
        let here = fabric.nodes[0].add_pod("here", &[])?;
        let there = fabric.nodes[1].add_pod("there", &[])?;
        for (from, to) in [(&here, &there), (&there, &here)] {
            for address in &to.addresses {
                from.netns().reach(*address, LIMIT)?;
            }
        }
        let before = routes(&fabric)?;

        // As the preStop hook asks it to end.
        let traffic = Traffic::between(&here, &there);
        let node = &mut fabric.nodes[0];
        let socket = node.files().bird_socket.clone();
        run(Command::new("birdc").arg("-s").arg(&socket).args(["graceful", "restart"]))?;
        node.bird().unwrap().daemon().wait()?;
        sessions_of_first_node_are_gone(&fabric.router.bird)?;
        assert_eq!(routes(&fabric)?, before, "BIRD has ended");
        let mut bird = start_again(&fabric.nodes[0])?;
        fabric.router.bird.established(4, LIMIT)?;
        assert_eq!(routes(&fabric)?, before, "BIRD is back");
        traffic.assert_nothing_lost("replaced")?;

        let traffic = Traffic::between(&here, &there);
        bird.kill()?;
        sessions_of_first_node_are_gone(&fabric.router.bird)?;
        assert_eq!(routes(&fabric)?, before, "BIRD was killed");
        let _bird = start_again(&fabric.nodes[0])?;
        fabric.router.bird.established(4, LIMIT)?;
        assert_eq!(routes(&fabric)?, before, "BIRD is back after it was killed");
        traffic.assert_nothing_lost("killed")
    })
}
