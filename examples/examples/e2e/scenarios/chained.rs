//! What Flock leaves to the plugins that its installer chained after it.

use std::net::IpAddr;
use std::time::Instant;

use flock_examples::Result;
use flock_examples::deadline::{Probe, until};
use flock_examples::netns::Netns;
use flock_examples::screen::Screen;

use crate::flock::SOON;
use crate::http::get;
use crate::pod::{Wanted, served_name};
use crate::scenarios::seen::expect;
use crate::{Lab, Step};

const HOST_PORT: u16 = 8080;
/// In bits per second, and how many bytes are sent at that rate.
const RATE: u32 = 1_000_000;
const BYTES: u32 = 300_000;
/// Of bytes that pass at any rate before the limit holds: kubelets give no such number, so
/// that the runtime asks for as much as the plugin takes, 2³¹ bits less a part for rounding.
const BURST: u32 = 21_600_000;

pub(crate) fn play(screen: &Screen, lab: &mut Lab) -> Step<()> {
    let cluster = &lab.cluster;
    screen.step("hostPort", || {
        let pod = Wanted::new("ported").on("node1").host_port(HOST_PORT).start(cluster)?;
        let machine = cluster.machine(&pod.node)?;
        for address in machine.addresses {
            cluster.router.netns.reach(address, SOON)?;
            let name = served_name(&cluster.router.netns, address, HOST_PORT)?;
            expect(name == pod.name, || format!("found {name:?} at {address}, expected {}", pod.name))?;
        }
        pod.delete(cluster)?;
        for address in machine.addresses {
            until(&format!("port {HOST_PORT} of {address} to be gone"), SOON, || {
                let answer = served_name(&cluster.router.netns, address, HOST_PORT);
                Ok(if answer.is_err() { Probe::Done(()) } else { Probe::Waiting("an answer".to_owned()) })
            })?;
        }
        Ok(((), format!("port {HOST_PORT} of the node is the pod's, IPv6 and IPv4, and gone with the pod")))
    })?;
    let rate = screen.step("bandwidth", || {
        let wanted = Wanted::new("narrow").on("node2");
        let narrow =
            wanted.foreign_annotation("kubernetes.io/ingress-bandwidth", &RATE.to_string()).start(cluster)?;
        let wide = Wanted::new("wide").on("node1").start(cluster)?;
        let make = format!(
            "cd /www; dd if=/dev/zero of=blob bs=1000 count={}; dd if=/dev/zero of=burst bs=1000 count={}",
            BYTES / 1000,
            BURST / 1000
        );
        cluster.kubectl(&["exec", &wide.name, "--", "sh", "-c", &make])?;
        let network = narrow.netns(cluster)?;
        for address in &wide.addresses {
            network.reach(address, SOON)?;
        }
        receive(&network, wide.address(true)?, "/burst", BURST)?;
        let mut rate = 0.0_f64;
        for address in &wide.addresses {
            let start = Instant::now();
            receive(&network, *address, "/blob", BYTES)?;
            rate = rate.max(f64::from(BYTES * 8) / start.elapsed().as_secs_f64());
        }
        expect(rate < 1.5 * f64::from(RATE), || {
            format!("{rate:.0} bits per second went through a limit of {RATE}")
        })?;
        Ok((rate, "a pod with kubernetes.io/ingress-bandwidth gets no more than that".to_owned()))
    })?;
    lab.measured.add("a pod limited to 1 Mbit/s", format!("{:.2} Mbit/s", rate / 1e6));
    Ok(())
}

fn receive(at: &Netns, from: IpAddr, path: &str, bytes: u32) -> Result<()> {
    let answer = get(at, (from, 80), path, 20)?;
    expect(u32::try_from(answer.body.len()) == Ok(bytes), || {
        format!("{} of {bytes} bytes came from {from}", answer.body.len())
    })
}
