//! An upgrade of one of Flock's parts while packets are on their way.

use std::net::IpAddr;
use std::time::Instant;

use flock_examples::Result;
use flock_examples::cluster::Cluster;
use flock_examples::screen::Screen;

use crate::flock::{Part, SESSIONS, SOON, sessions};
use crate::pod::{Pod, Wanted};
use crate::scenarios::seen::expect;
use crate::traffic::Stream;
use crate::{Lab, Step};

/// The agent's: nobody notices.
pub(crate) fn agent(screen: &Screen, lab: &mut Lab) -> Step<()> {
    let before = screen.step("sessions before", || {
        lab.cluster.router.bird.established(SESSIONS, SOON)?;
        Ok((sessions(&lab.cluster)?, format!("{SESSIONS} BGP sessions are up")))
    })?;
    restart_under_traffic(screen, lab, Part::Agent)?;
    screen.step("sessions after", || {
        let after = sessions(&lab.cluster)?;
        expect(after == before, || format!("the sessions were {before:?} and are {after:?}"))?;
        Ok(((), "the router's BGP sessions are up since the same time as before".to_owned()))
    })?;
    screen.step("a new pod", || {
        Wanted::new("after").on("node1").start(&lab.cluster)?;
        Ok(((), "the new agents give pods their network".to_owned()))
    })
}

/// BIRD's: its sessions begin anew, and graceful restart (RFC 4724) keeps the routes.
pub(crate) fn bird(screen: &Screen, lab: &mut Lab) -> Step<()> {
    let before = sessions(&lab.cluster);
    restart_under_traffic(screen, lab, Part::Bird)?;
    screen.step("sessions", || {
        lab.cluster.router.bird.established(SESSIONS, SOON)?;
        let (before, after) = (before?, sessions(&lab.cluster)?);
        let kept: Vec<&String> = after.iter().filter(|session| before.contains(session)).collect();
        expect(kept.is_empty(), || format!("these sessions never ended, nothing was shown: {kept:?}"))?;
        Ok(((), format!("the {SESSIONS} BGP sessions are new ones")))
    })
}

fn restart_under_traffic(screen: &Screen, lab: &mut Lab, part: Part) -> Step<()> {
    let Lab { cluster, materials, measured, .. } = lab;
    let pods = screen.step("pods", || {
        let pods = [
            Wanted::new("left").on("node1").start(cluster)?,
            Wanted::new("right").on("node2").start(cluster)?,
        ];
        for pod in &pods {
            for address in &pod.addresses {
                cluster.router.netns.reach(address, SOON)?;
            }
        }
        Ok((pods, "a pod on each node".to_owned()))
    })?;
    let start = Instant::now();
    let streams = screen.step("traffic", || {
        let streams = streams(cluster, &pods)?
            .into_iter()
            .map(|(from, to)| Stream::start(&from, to, &materials.logs))
            .collect::<Result<Vec<_>>>()?;
        let told =
            format!("{} streams of a ping every 10 ms: between the pods, and from the router", streams.len());
        Ok((streams, told))
    })?;
    screen.step("kubectl rollout restart", || {
        part.restart(cluster)?;
        if part == Part::Bird {
            cluster.router.bird.established(SESSIONS, SOON)?;
        }
        Ok(((), format!("kubectl rollout restart daemonset {}", part.daemon_set())))
    })?;
    let sent = screen.step("losses", || {
        let mut sent = 0;
        for stream in streams {
            sent += stream.finish()?.sent;
        }
        Ok((sent, format!("{sent} packets sent, none lost")))
    })?;
    let time = start.elapsed().as_secs_f64();
    measured.add(
        format!("restart of {} on both nodes", part.daemon_set()),
        format!("{time:.1} s, 0 of {sent} packets lost"),
    );
    Ok(())
}

type Ends = (flock_examples::netns::Netns, IpAddr);

fn streams(cluster: &Cluster, pods: &[Pod; 2]) -> Result<Vec<Ends>> {
    let [left, right] = pods;
    let mut streams = Vec::new();
    for ipv6 in [true, false] {
        streams.push((left.netns(cluster)?, right.address(ipv6)?));
        streams.push((right.netns(cluster)?, left.address(ipv6)?));
        streams.push((cluster.router.netns.clone(), left.address(ipv6)?));
    }
    Ok(streams)
}
