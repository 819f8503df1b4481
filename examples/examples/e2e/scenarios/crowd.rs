//! A hundred pods that come at once and go at once, three times: all of them run, and
//! nothing of them is left.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use flock_examples::Result;
use flock_examples::cluster::Cluster;
use flock_examples::cluster::machine::Machine;
use flock_examples::deadline::{Probe, until};
use flock_examples::screen::Screen;

use crate::flock::{Holdings, SOON, ask_agent};
use crate::measured::AddDurations;
use crate::pod::{PODS, Pod, Wanted, is_ready, selector};
use crate::scenarios::seen::expect;
use crate::{Lab, Step};

const PODS_AT_ONCE: usize = 100;
const ROUNDS: usize = 3;
/// For all pods of a round.
const LIMIT: Duration = Duration::from_secs(180);

pub(crate) fn play(screen: &Screen, lab: &mut Lab) -> Step<()> {
    let Lab { cluster, measured, .. } = lab;
    let before = screen.step("the agents' histograms", || {
        Ok((AddDurations::of(cluster)?, "the agents' histograms of ADD are read".to_owned()))
    })?;
    measured.add("ADD in the agent, few at once", before.to_string());
    let mut all = Vec::new();
    for round in 1..=ROUNDS {
        let times = screen.step("creation", || {
            let times = create(cluster, round)?;
            let last = times.iter().max().copied().unwrap_or_default().as_secs_f64();
            Ok((times, format!("{PODS_AT_ONCE} pods created at once, all Running after {last:.1} s")))
        })?;
        all.extend(times);
        screen.step("what the nodes hold", || {
            let held = cluster.machines.iter().map(Holdings::of).collect::<Result<Vec<_>>>()?;
            let count = |part: fn(&Holdings) -> usize| held.iter().map(part).sum::<usize>();
            let found =
                [count(|it| it.records.len()), count(|it| it.links.len()), count(|it| it.routes.len())];
            let least = [PODS_AT_ONCE, PODS_AT_ONCE, 2 * PODS_AT_ONCE];
            expect(found[..2] == least[..2] && found[2] >= least[2], || {
                format!("found {found:?} records, links and routes, expected {least:?}")
            })?;
            Ok(((), format!("{} records, {} links, {} routes", found[0], found[1], found[2])))
        })?;
        screen.step("deletion", || {
            let start = Instant::now();
            cluster.api().delete(PODS)?;
            for machine in &cluster.machines {
                Holdings::default().are_those_of(machine, LIMIT)?;
                no_address_in_use(cluster, machine)?;
            }
            let time = start.elapsed().as_secs_f64();
            Ok(((), format!("deleted at once; no record, address, link or route is left after {time:.1} s")))
        })?;
    }
    measured.add_times("pod created to Ready, 100 at once", all);
    let after = screen.step("the agents' histograms", || {
        Ok((AddDurations::of(cluster)?, "the agents' histograms of ADD are read again".to_owned()))
    })?;
    measured.add(format!("ADD in the agent, {PODS_AT_ONCE} at once"), after.since(&before).to_string());
    Ok(())
}

/// How long each pod took from its creation until it was seen to be ready.
fn create(cluster: &Cluster, round: usize) -> Result<Vec<Duration>> {
    // Those of the round before may be in the API for some seconds yet.
    let selected = format!("{PODS}?{}", selector(&[("crowd", &round.to_string())]));
    let mut created = BTreeMap::new();
    for number in 1..=PODS_AT_ONCE {
        let name = format!("crowd-{round}-{number}");
        Wanted::new(&name).label("crowd", &round.to_string()).create(cluster)?;
        created.insert(name, Instant::now());
    }
    let mut times = BTreeMap::new();
    until(&format!("{PODS_AT_ONCE} pods to be ready"), LIMIT, || {
        let pods = cluster.api().list(&selected)?;
        let now = Instant::now();
        for pod in pods.iter().filter(|pod| is_ready(pod)) {
            let Some((name, start)) =
                pod["metadata"]["name"].as_str().and_then(|name| created.get_key_value(name))
            else {
                continue;
            };
            times.entry(name.clone()).or_insert(now - *start);
        }
        let seen = format!("{} are", times.len());
        Ok(if times.len() == PODS_AT_ONCE { Probe::Done(()) } else { Probe::Waiting(seen) })
    })?;
    let pods = cluster.api().list(&selected)?;
    let addresses: BTreeSet<IpAddr> =
        pods.iter().filter_map(Pod::read).flat_map(|pod| pod.addresses).collect();
    expect(addresses.len() == 2 * PODS_AT_ONCE, || {
        format!("{PODS_AT_ONCE} pods have {} addresses, expected two for each", addresses.len())
    })?;
    Ok(times.into_values().collect())
}

/// As the agent counts them.
fn no_address_in_use(cluster: &Cluster, machine: &Machine) -> Result<()> {
    // They are released after the records are gone.
    until(&format!("no address of {} to be in use", machine.name()), SOON, || {
        let text = ask_agent(cluster, machine, "/metrics")?.body;
        let in_use: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("flock_addresses{") && line.contains("\"in_use\""))
            .collect();
        let none =
            in_use.len() == 2 && in_use.iter().all(|line| line.ends_with(" 0.0") || line.ends_with(" 0"));
        Ok(if none { Probe::Done(()) } else { Probe::Waiting(in_use.join("\n")) })
    })
}
