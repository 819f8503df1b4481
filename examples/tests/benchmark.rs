//! The benchmark works, and its floor is a floor: it makes what Flock makes.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fs;
use std::path::Path;
use std::process::Command;

use flock_core::attachment::{Addresses, Attachment, AttachmentKey, AttachmentState};
use flock_core::dataplane::{Dataplane, Link};
use flock_core::name::{ContainerId, InterfaceName, NetworkName};
use flock_examples::bench::{self, AT_ONCE, Scale, Series};
use flock_examples::netns::Netns;
use flock_examples::process::run;
use flock_examples::runtime::INTERFACE;
use flock_examples::{Result, programs, sandbox};
use flock_netlink::NetlinkDataplane;

#[test]
fn a_quick_run_measures_everything() -> Result<()> {
    sandbox::within("a_quick_run_measures_everything", |_| {
        let scale = Scale::quick();
        let report = bench::run(&scale)?;
        let names = |at_once: usize| -> Vec<&str> {
            report.rows.iter().filter(|row| row.at_once == at_once).map(|row| row.name).collect()
        };
        let (bridge, ptp) = ("bridge + host-local", "ptp + host-local");
        let singles = ["Flock", "Flock, pods come and go", bridge, ptp, "floor", "floor, DEL with the link"];
        assert_eq!(names(1), singles);
        assert_eq!(names(AT_ONCE), ["Flock", bridge, ptp, "floor"]);
        for row in &report.rows {
            let slow = row.name == ptp;
            let expected = match (row.at_once, row.name) {
                (1, "Flock, pods come and go") => scale.churn,
                (1, _) => scale.rounds * if slow { scale.slow_pods } else { scale.pods },
                _ if slow => scale.slow_pods_together,
                _ => scale.rounds_together * scale.pods_together,
            };
            assert_eq!((row.add.count(), row.del.count()), (expected, expected), "{row:?}");
            assert!(!row.add.percentile(50).is_zero() && !row.del.percentile(50).is_zero(), "{row:?}");
        }
        assert!(report.agent.loaded_kib > 0 && report.agent.started_kib > 0, "{:?}", report.agent);
        assert_eq!(report.agent.records, scale.records);
        let lines = report.to_string();
        let targets = lines.lines().filter(|line| line.ends_with(" yes") || line.ends_with(" NO"));
        assert_eq!(targets.count(), 14, "{lines}");
        let bgp = &report.bgp;
        let rounds = |series: &Series| series.count();
        let (many, full) = (&bgp.many, &bgp.full);
        assert_eq!([&many.render, &many.apply, &many.heard, &many.asked].map(rounds), [scale.bgp_rounds; 4]);
        assert_eq!((many.by_hand.count(), full.routes), (2 * scale.bgp_rounds, scale.routes));
        assert!(many.batch <= many.learned && many.learned <= many.told, "{many:?}");
        assert_eq!(full.kernel_after, full.kernel_before + 2, "{full:?}");
        assert!(full.session <= full.settled && full.asked.count() > 0, "{full:?}");
        for changes in bgp.changes {
            assert!(changes.changes == scale.changes && changes.configurations == 0, "{changes:?}");
        }
        Ok(())
    })
}

/// Flock's own dataplane finds nothing missing where the floor has been.
#[test]
fn the_floor_makes_what_flock_makes() -> Result<()> {
    sandbox::within("the_floor_makes_what_flock_makes", |_| {
        let pod = Netns::create("pod")?;
        // The dataplane works in the namespace that it is made in: here the sandbox's own.
        run(Command::new("ip").args(["link", "set", "dev", "lo", "up"]))?;
        run(Command::new("ip").args(["address", "add", "192.0.2.1/32", "dev", "lo"]))?;
        let floor = |verb: &[&str]| -> Result<String> {
            let container = ["0a1b2c", "2001:db8:1::2", "10.1.0.2"];
            run(Command::new(programs::floor()?).args(verb).args(container))
        };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let dataplane = NetlinkDataplane::new().unwrap();
        let attachment = runtime.block_on(async {
            dataplane.prepare().await.unwrap();
            attachment(dataplane.identify(pod.path()).await.unwrap())
        });
        let drifts =
            || runtime.block_on(dataplane.check(std::slice::from_ref(&attachment))).unwrap().remove(0);

        floor(&["add", pod.path().to_str().unwrap()])?;
        // Flock keeps a host side from accepting router advertisements by a file in /proc.
        fs::write(setting(&attachment), "0").unwrap();
        assert_eq!(drifts(), []);
        floor(&["detach"])?;
        let missing = drifts().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert!(missing.contains("2001:db8:1::2/128") && missing.contains("10.1.0.2/32"), "{missing}");
        assert_eq!(missing.lines().count(), 2, "{missing}");

        // The links are marked as Flock's, so that what removes Flock's removes them.
        let found = runtime.block_on(dataplane.list()).unwrap();
        let links: Vec<Link> = found.into_iter().map(|found| found.link).collect();
        assert_eq!(links, [Link::of(&attachment)]);
        runtime.block_on(dataplane.reap(&links)).unwrap();
        floor(&["add", pod.path().to_str().unwrap()])?;
        floor(&["remove"])?;
        assert_eq!(runtime.block_on(dataplane.list()).unwrap(), []);
        Ok(())
    })
}

fn setting(attachment: &Attachment) -> impl AsRef<Path> {
    format!("/proc/sys/net/ipv6/conf/{}/accept_ra", attachment.host_interface)
}

fn attachment(netns: flock_core::attachment::Netns) -> Attachment {
    let key = AttachmentKey::new(ContainerId::new("0a1b2c").unwrap(), InterfaceName::new(INTERFACE).unwrap());
    let [host_interface, _] = key.host_interface_candidates();
    Attachment {
        key,
        state: AttachmentState::Committed,
        network: NetworkName::new("flock").unwrap(),
        pod: None,
        pod_uid: None,
        netns,
        host_interface,
        addresses: Addresses {
            ipv6: Some("2001:db8:1::2".parse().unwrap()),
            ipv4: Some("10.1.0.2".parse().unwrap()),
        },
        anycast: Vec::new(),
        mtu: 1500,
        boot_id: String::new(),
        created_ms: 0,
    }
}
