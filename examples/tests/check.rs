//! `flock-agent check`: every difference that somebody can make by hand is found and mended,
//! and a node at work has none.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where something is not as it should be"
)]

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flock_core::attachment::Attachment;
use flock_core::store::FileStore;
use flock_examples::deadline::{Probe, until};
use flock_examples::fabric::Fabric;
use flock_examples::judge::{self, Mode};
use flock_examples::node::{Node, Pod};
use flock_examples::process::{output, run};
use flock_examples::{Result, programs, sandbox};

const LIMIT: Duration = Duration::from_secs(30);
const ANYCAST: &str = "2001:db8:a::53,198.51.100.53";

/// A node with BIRD and two pods, of which the first serves anycast addresses.
struct Lab {
    fabric: Fabric,
    web: Pod,
    db: Pod,
}

impl Lab {
    fn new() -> Result<Self> {
        let mut fabric = Fabric::build(1)?;
        let node = &mut fabric.nodes[0];
        node.start()?;
        fabric.router.bird.established(2, LIMIT)?;
        let web = node.add_pod("web", &[("anycast", ANYCAST)])?;
        let db = node.add_pod("db", &[])?;
        judge::must_agree(node, Mode::Online)?;
        Ok(Self { fabric, web, db })
    }

    fn node(&self) -> &Node {
        &self.fabric.nodes[0]
    }

    fn kill_agent(&mut self) -> Result<()> {
        self.fabric.nodes[0].agent().unwrap().kill()
    }

    fn record(&self, pod: &Pod) -> Attachment {
        let contents = FileStore::inspect(self.node().files().run.join("attachments")).unwrap();
        let found = contents.records.into_values();
        found.into_iter().find(|record| record.key.container.as_str() == pod.container.id).unwrap()
    }

    fn file(&self, pod: &Pod) -> PathBuf {
        self.node().files().run.join(format!("attachments/{}@eth0.json", pod.container.id))
    }

    /// Changes a record as an editor would.
    fn edit(&self, pod: &Pod, from: &str, to: &str) {
        let text = fs::read_to_string(self.file(pod)).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(self.file(pod), text.replace(from, to)).unwrap();
    }

    fn on_node(&self, command: &str) -> Result<String> {
        run(self.node().netns.command("sh").args(["-c", command]))
    }

    /// The judge finds all of `expected`, each in a line of its own, and nothing else.
    fn assert_found(&self, mode: Mode, what: &str, expected: &[&str]) -> Result<()> {
        let verdict = judge::check(self.node(), mode)?;
        assert!(!verdict.agrees, "{what}: {verdict}");
        let lines: Vec<&str> = verdict.said.lines().filter(|line| !line.starts_with("note: ")).collect();
        let (last, lines) = lines.split_last().unwrap();
        for line in expected {
            assert!(lines.iter().any(|said| said.contains(line)), "{what}: expected {line:?} in {verdict}");
        }
        for line in lines {
            assert!(expected.iter().any(|expected| line.contains(expected)), "{what}: unexpected {line:?}");
        }
        assert!(last.ends_with("differences") || last.ends_with("1 difference"), "{verdict}");
        Ok(())
    }

    /// And mends it.
    fn assert_mended(&self, mode: Mode, what: &str) -> Result<()> {
        let verdict = judge::repair(self.node(), mode)?;
        assert!(verdict.agrees && verdict.said.contains("mended: "), "{what}: {verdict}");
        judge::must_agree(self.node(), mode)
    }
}

#[test]
fn what_is_changed_while_no_agent_runs_is_found_and_mended_offline() -> Result<()> {
    sandbox::within("what_is_changed_while_no_agent_runs_is_found_and_mended_offline", |_| {
        let mut lab = Lab::new()?;
        lab.kill_agent()?;
        judge::must_agree(lab.node(), Mode::Offline)?;
        let (web, db) = (lab.record(&lab.web), lab.record(&lab.db));
        let (web_link, db_link) = (web.host_interface.as_str(), db.host_interface.as_str());
        let (v6, v4) = (db.addresses.ipv6.unwrap(), db.addresses.ipv4.unwrap());
        let missing_link = format!("{}: host side: the interface is missing", db.owner());
        let in_pod =
            |pod: &Pod, command: &str| format!("nsenter --net={} {command}", pod.netns().path().display());
        let whose = db.owner();
        let db_is = |what: &str| format!("{whose}: {what}");
        let cases: Vec<(String, Vec<String>)> = vec![
            (
                format!("ip link del {db_link}"),
                vec![missing_link, db_is("pod side: the interface is missing")],
            ),
            (
                format!("ip link set {db_link} down"),
                vec![
                    db_is("host side: the interface is down"),
                    // The kernel takes what is on it along.
                    db_is("host side: the address fe80::1 is missing"),
                    db_is("host side: the neighbour entry of"),
                    db_is("host side: the route to"),
                ],
            ),
            (
                format!("ip link set {db_link} mtu 1400"),
                vec![db_is("host side: the MTU is 1400, expected 1500")],
            ),
            (
                format!("ip route del {v4}"),
                vec![db_is(&format!("host side: the route to {v4}/32 is missing"))],
            ),
            (
                format!("ip -6 route del {v6}"),
                vec![db_is(&format!("host side: the route to {v6}/128 is missing"))],
            ),
            (
                format!("ip neigh del {v4} dev {db_link}"),
                vec![db_is(&format!("host side: the neighbour entry of {v4} is missing"))],
            ),
            (
                in_pod(&lab.db, &format!("ip addr del {v4}/32 dev eth0")),
                vec![
                    db_is(&format!("pod side: the address {v4} is missing")),
                    // The kernel takes along what hangs on the last one.
                    db_is("pod side: the route to 0.0.0.0/0 is missing"),
                    db_is("pod side: the neighbour entry of 169.254.1.1 is missing"),
                ],
            ),
            (
                in_pod(&lab.db, "ip -6 route del default"),
                vec![db_is("pod side: the route to ::/0 is missing")],
            ),
            (
                in_pod(&lab.db, "ip neigh del 169.254.1.1 dev eth0"),
                vec![db_is("pod side: the neighbour entry of 169.254.1.1 is missing")],
            ),
            (
                "ip route del blackhole 10.0.1.0/24".into(),
                vec![
                    "node: the blackhole route of 10.0.1.0/24 is missing".into(),
                    "BIRD: it has not taken 10.0.1.0/24 from the kernel".into(),
                ],
            ),
            (
                "ip route add blackhole 10.9.9.0/24 proto 70".into(),
                vec!["node: there is a blackhole route of 10.9.9.0/24".into()],
            ),
            (
                "ip -6 route del 2001:db8:a::53".into(),
                vec![
                    format!(
                        "node: the route to the anycast address 2001:db8:a::53 leads over nothing, expected {web_link}"
                    ),
                    "BIRD: it has not taken 2001:db8:a::53/128 from the kernel".into(),
                ],
            ),
            (
                format!("ip route add 198.51.100.99/32 dev {web_link} metric 8 proto 70"),
                vec!["node: there is a route to the anycast address 198.51.100.99".into()],
            ),
            (
                "ip route add 10.9.9.9/32 dev uplink proto 70".into(),
                vec!["node: there is a route of Flock to 10.9.9.9/32 over uplink, which is nobody's".into()],
            ),
            (
                format!("ip -6 route add 2001:db8:1::99/128 dev {db_link} proto 70"),
                vec![format!("node: there is a route of Flock to 2001:db8:1::99/128 over {db_link}")],
            ),
            (
                format!("ip neigh add 10.9.9.9 lladdr 02:00:00:00:00:09 nud permanent dev {db_link}"),
                vec![format!("node: there is a permanent neighbour entry of 10.9.9.9 on {db_link}")],
            ),
            (
                "sysctl -qw net.ipv4.ip_forward=0".into(),
                vec![
                    "node: net.ipv4.ip_forward is 0, expected 1".into(),
                    "forwarding is 0, expected 1".into(),
                ],
            ),
            (
                "ip addr del 169.254.1.1/32 dev lo".into(),
                vec!["node: the pods' gateway 169.254.1.1 is not an address of the node's lo".into()],
            ),
            (
                "ip link add stray type veth peer name other && ip link set stray group 1718382435".into(),
                vec!["stray: it is in Flock's link group, names no owner and is in no record".into()],
            ),
        ];
        for (disturbance, expected) in cases {
            lab.on_node(&disturbance)?;
            let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
            lab.assert_found(Mode::Offline, &disturbance, &expected)?;
            lab.assert_mended(Mode::Offline, &disturbance)?;
        }
        Ok(())
    })
}

/// Nobody can be asked, so what the kernel has stays.
#[test]
fn a_pod_that_is_not_ready_is_not_announced_by_a_repair_offline() -> Result<()> {
    sandbox::within("a_pod_that_is_not_ready_is_not_announced_by_a_repair_offline", |_| {
        let mut lab = Lab::new()?;
        let route = |lab: &Lab| lab.on_node("ip -6 route show 2001:db8:a::53");
        assert!(route(&lab)?.contains("metric 8"), "{}", route(&lab)?);
        lab.node().set_ready("web", false)?;
        until("the route that stands by", LIMIT, || {
            let found = route(&lab)?;
            let only = found.lines().count() == 1 && found.contains("metric 32768");
            Ok(if only { Probe::Done(()) } else { Probe::Waiting(found) })
        })?;
        let standby = route(&lab)?;
        lab.kill_agent()?;
        lab.on_node("ip route del blackhole 10.0.1.0/24")?;
        lab.assert_mended(Mode::Offline, "a repair of something else")?;
        assert_eq!(route(&lab)?, standby);
        Ok(())
    })
}

#[test]
fn records_are_found_and_mended_offline() -> Result<()> {
    sandbox::within("records_are_found_and_mended_offline", |_| {
        let mut lab = Lab::new()?;
        let names = ["other-boot", "pending", "deleting", "lost", "garbage", "gone"];
        let mut pods = Vec::new();
        for name in names {
            pods.push(lab.node().add_pod(name, &[])?);
        }
        let [other_boot, pending, deleting, lost, garbage, gone] = &pods[..] else { unreachable!() };
        lab.kill_agent()?;
        judge::must_agree(lab.node(), Mode::Offline)?;

        let boot = lab.record(other_boot).boot_id;
        let lost_link = lab.record(lost).host_interface.to_string();
        let gone_path = gone.netns().path().display().to_string();
        let unfinished = lab.node().files().run.join("attachments/abc@eth0.json.tmp");
        fs::write(&unfinished, "{").unwrap();
        lab.edit(other_boot, &boot, "00000000-0000-4000-8000-000000000000");
        lab.edit(pending, "\"committed\"", "\"pending\"");
        lab.edit(deleting, "\"committed\"", "\"deleting\"");
        fs::remove_file(lab.file(lost)).unwrap();
        fs::write(lab.file(garbage), "{").unwrap();
        let expected = [
            format!("{}: was left by an interrupted write", unfinished.display()),
            format!("{}: is not a valid record: it is not JSON", lab.file(garbage).display()),
            "pod default/other-boot (container node1-other-b, eth0): the record is of another boot".to_owned(),
            "pod default/pending (container node1-pending, eth0): the record says that it is being made, and nobody"
                .to_owned(),
            "(container node1-deletin, eth0): the record says that it is being deleted, and nobody".to_owned(),
            format!("container node1-lost (eth0): {lost_link} is there, and there is no record"),
        ];
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        lab.assert_found(Mode::Offline, "records", &expected)?;
        lab.assert_mended(Mode::Offline, "records")?;
        let kept = judge::check(lab.node(), Mode::Offline)?;
        assert!(
            kept.said.contains("note: ") && kept.said.contains(".json.corrupt-1 was set aside"),
            "{kept}"
        );
        assert!(kept.said.ends_with("\n4 attachments, everything agrees\n"), "{kept}");

        // A person has to do the rest.
        gone.netns().delete()?;
        let text = fs::read_to_string(lab.file(&lab.db)).unwrap();
        let twin = lab.node().files().run.join("attachments/twin@eth0.json");
        fs::write(&twin, text.replace(&lab.db.container.id, "twin")).unwrap();
        let twin = "pod default/db (container twin, eth0)";
        let expected = [
            format!("the namespace at {gone_path} is gone or another one; to mend it: the runtime's DEL"),
            format!("{twin}: 2001:db8:1::2 is also in the record of pod default/db"),
            format!("{twin}: 10.0.1.2 is also in the record of pod default/db"),
            format!("{twin}: host side: the interface is not this attachment's"),
            format!("{twin}: pod side: the interface is not this attachment's"),
        ];
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        lab.assert_found(Mode::Offline, "for a person", &expected)?;
        let left = judge::repair(lab.node(), Mode::Offline)?;
        assert!(!left.agrees && left.said.contains(&gone_path), "{left}");
        Ok(())
    })
}

/// A start that ends between setting a record aside and making a new one.
#[test]
fn a_record_that_was_set_aside_and_not_made_anew_costs_no_pod_its_network() -> Result<()> {
    sandbox::within("a_record_that_was_set_aside_and_not_made_anew_costs_no_pod_its_network", |_| {
        let mut lab = Lab::new()?;
        lab.kill_agent()?;
        let link = lab.record(&lab.db).host_interface;
        let index = || lab.on_node(&format!("ip -o link show dev {link} | cut -d : -f 1"));
        let before = index()?;
        fs::write(lab.file(&lab.db), "{").unwrap();
        let directory = lab.node().files().run.join("attachments");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (_, set_aside) = runtime.block_on(FileStore::open(&directory)).unwrap();
        let [set_aside] = &set_aside[..] else { panic!("{set_aside:?}") };

        let expected = format!(
            "container node1-db (eth0): {link} is there, and there is no record: it could not be read and is \
             kept as {}; to mend it: start flock-agent anew, or stop it and run flock-agent check --offline \
             --repair",
            set_aside.kept_as.display()
        );
        lab.assert_found(Mode::Offline, "a record that was set aside", &[&expected])?;
        lab.assert_mended(Mode::Offline, "a record that was set aside")?;
        assert_eq!(index()?, before, "its link is another one");
        for address in &lab.db.addresses {
            lab.on_node(&format!("ping -c 1 -W 5 {address}"))?;
        }
        Ok(())
    })
}

#[test]
fn what_is_changed_under_a_running_agent_is_found_and_mended() -> Result<()> {
    sandbox::within("what_is_changed_under_a_running_agent_is_found_and_mended", |_| {
        let mut lab = Lab::new()?;
        records_under_an_agent(&lab)?;
        // The pod's side, which nobody watches either.
        lab.db.netns().ip(&["link", "set", "eth0", "mtu", "1400"])?;
        lab.db.netns().ip(&["-6", "route", "del", "default"])?;
        let expected = ["pod side: the MTU is 1400", "pod side: the route to ::/0"];
        lab.assert_found(Mode::Online, "the pod's side", &expected)?;
        lab.assert_mended(Mode::Online, "the pod's side")?;

        // The node's side: the agent may be faster than the judge.
        let link = lab.record(&lab.db).host_interface.to_string();
        for disturbance in [
            "ip route flush proto 70; ip -6 route flush proto 70; \
             sysctl -qw net.ipv4.ip_forward=0; ip addr del 169.254.1.1/32 dev lo"
                .to_owned(),
            format!(
                "ip link add stray type veth peer name other && ip link set stray group 1718382435 && \
                 ip route add 10.9.9.9/32 dev uplink proto 70 && ip link del {link}"
            ),
            format!("ip neigh add 10.9.9.9 lladdr 02:00:00:00:00:09 nud permanent dev {link}"),
        ] {
            lab.on_node(&disturbance)?;
            let verdict = judge::repair(lab.node(), Mode::Online)?;
            assert!(verdict.agrees, "{disturbance}: {verdict}");
        }

        bird_by_its_command_line(&lab)?;
        lab.fabric.nodes[0].bird().unwrap().daemon().kill()?;
        lab.assert_found(Mode::Online, "no BIRD", &["BIRD: BIRD can't be reached at "])?;
        let left = judge::repair(lab.node(), Mode::Online)?;
        assert!(!left.agrees && left.said.contains("to mend it: start BIRD"), "{left}");
        Ok(())
    })
}

fn records_under_an_agent(lab: &Lab) -> Result<()> {
    let (web, db) = (lab.record(&lab.web), lab.record(&lab.db));
    let link = &db.host_interface;
    fs::remove_file(lab.file(&lab.db)).unwrap();
    fs::write(lab.file(&lab.web), "").unwrap();
    let expected = [
        format!("{}: is not a valid record: it is empty", lab.file(&lab.web).display()),
        "container node1-db (eth0): the agent holds 2001:db8:1::2 and 10.0.1.2 for it, and there is no record"
            .to_owned(),
        format!("container node1-db (eth0): {link} is there, and there is no record"),
        // They are of the record that can't be read.
        "node: there is a route to the anycast address".to_owned(),
        "BIRD: it has taken 2001:db8:a::53/128, which is not to be announced".to_owned(),
        "BIRD: it has taken 198.51.100.53/32, which is not to be announced".to_owned(),
    ];
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    lab.assert_found(Mode::Online, "records", &expected)?;
    lab.assert_mended(Mode::Online, "records")?;
    assert_eq!([lab.record(&lab.web), lab.record(&lab.db)], [web, db]);

    // A record that the agent does not know: only a new start would look at it.
    let text = fs::read_to_string(lab.file(&lab.db)).unwrap().replace("\"committed\"", "\"pending\"");
    let twin = lab.node().files().run.join("attachments/twin@eth0.json");
    fs::write(&twin, text.replace(&lab.db.container.id, "twin")).unwrap();
    let verdict = judge::repair(lab.node(), Mode::Online)?;
    assert!(
        !verdict.agrees && verdict.said.contains("it is being made, and nobody works on it"),
        "{verdict}"
    );
    assert!(verdict.said.contains("to mend it: start flock-agent anew"), "{verdict}");
    fs::remove_file(twin).unwrap();
    judge::must_agree(lab.node(), Mode::Online)
}

fn bird_by_its_command_line(lab: &Lab) -> Result<()> {
    let birdc = |command: &[&str]| {
        run(Command::new("birdc").arg("-s").arg(&lab.node().files().bird_socket).args(command))
    };
    birdc(&["disable", "flock_kernel4"])?;
    let expected = ["10.0.1.0/24", "198.51.100.53/32"]
        .map(|prefix| format!("BIRD: it has not taken {prefix} from the kernel"));
    lab.assert_found(Mode::Online, "BIRD", &expected.each_ref().map(String::as_str))?;
    lab.assert_mended(Mode::Online, "BIRD")?;

    let other = lab.node().files().dir.join("other.conf");
    fs::write(&other, "router id 192.0.2.9;\nprotocol device {}\n").unwrap();
    birdc(&["configure", &format!("\"{}\"", other.display())])?;
    let expected = ["BIRD: BIRD does not answer \"show route protocol flock_kernel4\""];
    lab.assert_found(Mode::Online, "BIRD's configuration", &expected)?;
    lab.assert_mended(Mode::Online, "BIRD's configuration")
}

/// Eight callers add and delete pods, with and without anycast addresses that they share.
#[test]
fn a_node_at_work_has_no_differences() -> Result<()> {
    sandbox::within("a_node_at_work_has_no_differences", |_| {
        let lab = Lab::new()?;
        let node = lab.node();
        let done = AtomicBool::new(false);
        let caller = |index: usize| -> Result<usize> {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) {
                let annotations: &[(&str, &str)] =
                    if index.is_multiple_of(2) { &[("anycast", ANYCAST)] } else { &[] };
                // Some are the same container again, others a new one.
                let name = if index % 4 < 2 { format!("p{index}") } else { format!("p{index}-{rounds}") };
                let pod = node.add_pod(&name, annotations)?;
                node.delete_pod(&pod)?;
                rounds += 1;
            }
            Ok(rounds)
        };
        let rounds = std::thread::scope(|scope| {
            let callers: Vec<_> = (0..8).map(|index| scope.spawn(move || caller(index))).collect();
            let looks = (0..25).try_for_each(|_| judge::must_agree(node, Mode::Online));
            done.store(true, Ordering::Relaxed);
            let rounds: Result<Vec<usize>> =
                callers.into_iter().map(|caller| caller.join().unwrap()).collect();
            looks.and(rounds)
        })?;
        println!("rounds of each caller: {rounds:?}");
        assert!(rounds.iter().all(|rounds| *rounds > 3), "{rounds:?}");
        until("everything to be gone", LIMIT, || {
            let verdict = judge::check(node, Mode::Online)?;
            let only_two = verdict.said.ends_with("2 attachments, everything agrees\n");
            Ok(if only_two { Probe::Done(()) } else { Probe::Waiting(verdict.said) })
        })
    })
}

#[test]
fn what_can_not_be_checked_is_told_from_what_does_not_agree() -> Result<()> {
    sandbox::within("what_can_not_be_checked_is_told_from_what_does_not_agree", |_| {
        let mut lab = Lab::new()?;
        // Offline beside an agent is allowed, its repair is not.
        judge::must_agree(lab.node(), Mode::Offline)?;
        lab.edit(&lab.db, "1500", "1400");
        let refused = judge::repair(lab.node(), Mode::Offline).unwrap_err().to_string();
        assert!(refused.contains("status 2") && refused.contains("is already serving"), "{refused}");
        assert!(refused.contains("flock-agent check --repair"), "{refused}");
        lab.assert_mended(Mode::Online, "a record that was edited")?;

        lab.kill_agent()?;
        let away = judge::check(lab.node(), Mode::Online).unwrap_err().to_string();
        assert!(away.contains("status 2") && away.contains("flock-agent is not running"), "{away}");
        assert!(away.contains("flock-agent check --offline"), "{away}");
        let mut command = lab.node().netns.command(programs::agent()?);
        command.args(["check", "--offline", "--run-dir"]).arg(&lab.node().files().run);
        let answer = output(&mut command)?;
        let said = String::from_utf8_lossy(&answer.stderr).into_owned();
        assert_eq!(answer.status.code(), Some(2), "{said}");
        assert!(said.contains("say where the NodeConfig of this node is with --node-config FILE"), "{said}");
        Ok(())
    })
}
