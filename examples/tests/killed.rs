//! The agent is killed at every moment of ADD, of DEL with what the reaper does after it,
//! and of its own start: just before and just after each call of a backend, and between
//! the steps of the file store. Whatever was done then, the next agent and the runtime's
//! retry come to the same end, and nothing is left.
//!
//! The agent that dies is flock-bin's example `mortal`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]
#![allow(clippy::print_stdout, reason = "numbers for docs/reliability.md")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use flock_core::attachment::AttachmentState;
use flock_core::cni::Verb;
use flock_core::store::{FileStore, Store, StoreError};
use flock_examples::deadline::{Probe, until};
use flock_examples::fabric::ANYCAST_PREFIXES;
use flock_examples::node::{Node, Pod};
use flock_examples::runtime::{Caller, Container};
use flock_examples::snapshot::Snapshot;
use flock_examples::{LabError, Result, programs, sandbox};
use serde_json::json;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(20);

/// How often a moment is tried.
const PASSES: usize = 3;

/// How many nodes die at the same time.
const NODES: usize = 4;

/// What a test kills the agent in the middle of.
trait Scene: Sync {
    /// What has to be there before.
    fn prepare(&self, lab: &mut Lab) -> Result<Vec<Container>>;
    /// Whether moments are counted from the start of the agent on, rather than from the act.
    const AT_START: bool;
    /// The node's prefixes, small enough that an address that is lost is missed at once.
    const PREFIXES: [&'static str; 2] = ["10.0.1.0/30", "2001:db8:1::/126"];
    /// What the agent dies in. Whether the runtime was told that it is done.
    fn act(&self, lab: &Lab, victims: &[Container]) -> Result<bool>;
    /// The last moment that belongs to it.
    const LAST: &'static str;
    /// The runtime's part after the restart, and what must be true then.
    fn retry(&self, lab: &mut Lab, victims: &[Container], done: bool) -> Result<()>;
}

/// A node with nothing on it but its agent.
struct Lab {
    node: Node,
    announcer: &'static str,
    empty: Snapshot,
    caller: Caller,
    containers: BTreeMap<String, Container>,
    made: usize,
}

/// Where a node has its files. In memory nothing is synced, on a disk everything is, by threads
/// of its own.
#[derive(Clone, Copy)]
enum Medium {
    Memory,
    Disk,
}

/// Survives a reboot, says the Filesystem Hierarchy Standard, so it is no tmpfs.
const ON_DISK: &str = "/var/tmp";

impl Lab {
    fn build(
        name: &str,
        [cidr4, cidr6]: [&str; 2],
        announcer: &'static str,
        disk: Option<&Path>,
    ) -> Result<Self> {
        let peers = json!([{"name": "tor", "address": "2001:db8:ffff::1", "asn": 64500}]);
        let spec = json!({
            "cidr4": cidr4,
            "cidr6": cidr6,
            "anycastPrefixes": ANYCAST_PREFIXES,
            "bgp": {"asn": 64501, "routerId": "192.0.2.1", "peers": peers},
        });
        let mut node = match disk {
            None => Node::alone(name, &spec)?,
            Some(disk) => Node::alone_in(&disk.join(name), name, &spec)?,
        };
        node.start_agent_as(command(&node, &programs::agent()?, announcer))?;
        if announcer == "bird" {
            node.start_bird()?;
        }
        node.wait_ready()?;
        let empty = Snapshot::of(&node, &[])?;
        let caller = Caller::by_socket(node.runtime()?);
        Ok(Self { node, announcer, empty, caller, containers: BTreeMap::new(), made: 0 })
    }

    /// Starts the agent that will die, or that tells its moments.
    fn start_mortal(&mut self, moment: Option<usize>, at_start: bool) -> Result<()> {
        let mortal = programs::example("mortal")?;
        let mut command = command(&self.node, &mortal, self.announcer);
        command.env("MORTAL_UNAWARE", "1");
        fs::write(&self.node.files().agent_log, "").unwrap();
        if let Some(moment) = moment {
            command.env("MORTAL_MOMENT", moment.to_string());
        }
        if !at_start {
            let trigger = self.trigger();
            fs::remove_file(&trigger).ok();
            command.env("MORTAL_TRIGGER", trigger);
        }
        self.kill()?;
        self.node.start_agent_as(command)
    }

    fn restart(&mut self) -> Result<()> {
        self.kill()?;
        self.node.start_agent_as(command(&self.node, &programs::agent()?, self.announcer))?;
        self.node.wait_ready()
    }

    fn kill(&mut self) -> Result<()> {
        self.node.agent().unwrap().kill()
    }

    fn is_dead(&mut self) -> bool {
        self.node.agent().unwrap().must_run().is_err()
    }

    fn trigger(&self) -> PathBuf {
        self.node.files().dir.join("trigger")
    }

    /// The moments that the mortal agent has told of, in order. What comes more than once
    /// is numbered from the second time on.
    fn moments(&self) -> Vec<String> {
        let log = fs::read_to_string(&self.node.files().agent_log).unwrap();
        let moments = log.lines().filter_map(|line| line.strip_prefix("moment ")?.split_once(": "));
        let mut times = BTreeMap::<&str, usize>::new();
        moments
            .map(|(_, what)| {
                let time = times.entry(what).and_modify(|time| *time += 1).or_insert(1);
                if *time == 1 { what.to_owned() } else { format!("{what} ({time})") }
            })
            .collect()
    }

    /// Waits until the agent is dead, or has lived through the scene. The moment that it
    /// died at, if it died.
    fn fate(&mut self, last: &str) -> Result<Option<String>> {
        until("the agent to die, or to come to an end", LIMIT, || {
            if self.is_dead() {
                return Ok(Probe::Done(self.moments().pop()));
            }
            let moments = self.moments();
            let over = moments.iter().any(|moment| moment == last);
            // A line is written before the signal is sent: an agent that lives on answers.
            if over && self.node.runtime()?.status().make()?.is_of_a_served_node() && !self.is_dead() {
                return Ok(Probe::Done(None));
            }
            Ok(Probe::Waiting(format!("{moments:?}")))
        })
    }

    /// ADD as a runtime does it, which comes again when it is told to (code 11).
    fn add(&self, container: &Container) -> Result<Pod> {
        let addresses = self.caller.until_done(Verb::Add, container, LIMIT)?;
        Ok(Pod { container: container.clone(), node: self.node.name().to_owned(), addresses })
    }

    fn delete(&self, container: &Container) -> Result<()> {
        self.caller.until_done(Verb::Del, container, LIMIT).map(drop)
    }

    /// A new container with anycast addresses, so that every backend has its part. Of one
    /// name, they have one network namespace after the other.
    fn container(&mut self, name: &str) -> Result<Container> {
        self.made += 1;
        let id = format!("{}-{name}-{}", self.node.name(), self.made);
        if let Some(container) = self.containers.get(name) {
            return Ok(Container { id, ..container.clone() });
        }
        let anycast = [("anycast", "2001:db8:a::1,198.51.100.1")];
        let container = self.node.make_container(&format!("{}-{name}", self.node.name()), &anycast)?;
        self.containers.insert(name.to_owned(), container.clone());
        Ok(Container { id, ..container })
    }

    /// Both addresses of each family can be given and none is given twice; then all of
    /// these go, and nothing is left of them.
    fn fill_and_empty(&mut self, first: &Pod) -> Result<()> {
        let other = self.container("other")?;
        let second = self.add(&other)?;
        assert_eq!((first.addresses.len(), second.addresses.len()), (2, 2));
        assert!(
            first.addresses.iter().all(|address| !second.addresses.contains(address)),
            "{first:?} {second:?}"
        );
        for pod in [first, &second] {
            self.caller.until_done(Verb::Check, &pod.container, LIMIT)?;
        }
        self.delete(&second.container)?;
        self.delete(&first.container)?;
        self.is_empty()
    }

    fn is_empty(&mut self) -> Result<()> {
        self.empty.returns(&self.node, &[])?;
        // Changes are gathered for half a second before BIRD is told.
        let path = self.node.files().bird_config.clone();
        let Some(bird) = self.node.bird() else { return Ok(()) };
        until("nothing to be announced any more", LIMIT, || {
            let config = fs::read_to_string(&path).unwrap();
            let routes = bird.query("show route all")?;
            let found = format!("{config}{routes}");
            let gone = !found.contains("198.51.100.1") && !found.contains("2001:db8:a::1");
            Ok(if gone { Probe::Done(()) } else { Probe::Waiting(found) })
        })
    }
}

fn command(node: &Node, agent: &Path, announcer: &str) -> std::process::Command {
    let mut command = node.command_of(agent, announcer);
    command.args(["--address-rest", "0"]);
    command
}

/// Lets the agent die at each moment of the scene for which `wanted` is true, on several
/// nodes at once. Returns the moments at which it died.
fn die_everywhere<S: Scene>(
    scene: &S,
    announcer: &'static str,
    medium: Medium,
    wanted: fn(&str) -> bool,
) -> Result<BTreeSet<String>> {
    let nodes = if announcer == "bird" { 1 } else { NODES };
    let disk = match medium {
        Medium::Memory => None,
        Medium::Disk => Some(tempfile::tempdir_in(ON_DISK).unwrap()),
    };
    let mut labs = (0..nodes)
        .map(|index| {
            Lab::build(&format!("n{index}"), S::PREFIXES, announcer, disk.as_ref().map(TempDir::path))
        })
        .collect::<Result<Vec<_>>>()?;
    let (_, survived) = round(scene, &mut labs[0], None)?;
    assert!(survived.len() >= 10, "too few moments to be true: {survived:?}");
    let mut died = BTreeSet::new();
    // What goes on beside the scene, the collector for example, may make the count of one
    // round another one: what was missed so is tried again.
    for _ in 0..PASSES {
        let is_due = |&index: &usize| wanted(&survived[index]) && !died.contains(&survived[index]);
        let moments: Vec<usize> = (0..survived.len()).filter(is_due).collect();
        died.append(&mut die_at(scene, &mut labs, &moments, &survived)?);
    }
    let due: Vec<_> = survived.iter().filter(|moment| wanted(moment)).collect();
    let met = due.iter().filter(|moment| died.contains(**moment)).count();
    println!("the agent died at {met} of the {} moments", due.len());
    Ok(died)
}

/// Lets the agent die at each of `moments`, of which `names` are the names.
fn die_at<S: Scene>(
    scene: &S,
    labs: &mut [Lab],
    moments: &[usize],
    names: &[String],
) -> Result<BTreeSet<String>> {
    let (next, died) = (AtomicUsize::new(0), Mutex::new(BTreeSet::new()));
    let work = |lab: &mut Lab| -> Result<()> {
        while let Some(&moment) = moments.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (death, _) = round(scene, lab, Some(moment)).map_err(|error| {
                LabError::Unexpected(format!("after a death at moment {moment}, {}: {error}", names[moment]))
            })?;
            died.lock().unwrap().extend(death);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = labs.iter_mut().map(|lab| scope.spawn(|| work(lab))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap())
    })?;
    Ok(died.into_inner().unwrap())
}

/// The moment of death, if there was one, and all moments up to it.
fn round<S: Scene>(scene: &S, lab: &mut Lab, moment: Option<usize>) -> Result<(Option<String>, Vec<String>)> {
    if !S::AT_START {
        lab.start_mortal(moment, false)?;
        lab.node.wait_ready()?;
    }
    let victims = scene.prepare(lab)?;
    if S::AT_START {
        lab.start_mortal(moment, true)?;
    } else {
        fs::write(lab.trigger(), "").unwrap();
    }
    let done = scene.act(lab, &victims)?;
    let death = lab.fate(S::LAST)?;
    let moments = lab.moments();
    assert!(moment.is_some() || death.is_none(), "it died of itself: {death:?}");
    lab.restart()?;
    scene.retry(lab, &victims, done)?;
    Ok((death, moments))
}

/// Each of these calls, before and after it, is among the moments of death.
fn covers(died: &BTreeSet<String>, calls: &[&str], steps: &[impl std::fmt::Display]) {
    let around = calls.iter().flat_map(|call| ["before", "after"].map(|when| format!("{when} {call}")));
    let missing: Vec<String> = around
        .chain(steps.iter().map(|step| format!("in store: {step}")))
        .filter(|moment| !died.contains(moment))
        .collect();
    assert!(missing.is_empty(), "nobody died {missing:?}; there was {died:?}");
}

const OF_PUT: [&str; 3] = ["the new file is made", "the new file is written", "the new file is in place"];
const OF_SYNC: [&str; 2] = ["the new file is synced", "the directory is synced"];
const NO_STEPS: &[&str] = &[];
const ANNOUNCING: [&str; 3] = ["store.list", "dataplane.set_anycast", "announcer.sync"];

struct Adding;

impl Scene for Adding {
    const AT_START: bool = false;
    const LAST: &'static str = "after announcer.sync";

    fn prepare(&self, lab: &mut Lab) -> Result<Vec<Container>> {
        Ok(vec![lab.container("victim")?])
    }

    fn act(&self, lab: &Lab, victims: &[Container]) -> Result<bool> {
        Ok(lab.node.runtime()?.exec("ADD", &victims[0])?.status.success())
    }

    /// Also where ADD was answered: the kubelet may not have heard of it.
    fn retry(&self, lab: &mut Lab, victims: &[Container], _: bool) -> Result<()> {
        let pod = lab.add(&victims[0])?;
        lab.fill_and_empty(&pod)
    }
}

fn anywhere_in_add(medium: Medium) -> Result<BTreeSet<String>> {
    let died = die_everywhere(&Adding, "none", medium, |_| true)?;
    let calls =
        ["dataplane.identify", "store.get", "pods.pod", "ipam.allocate", "store.put", "dataplane.attach"];
    covers(&died, &calls, &OF_PUT);
    // The record is written a second time, as committed.
    covers(&died, &["store.put (2)"], &OF_PUT.map(|step| format!("{step} (2)")));
    covers(&died, &ANNOUNCING, NO_STEPS);
    Ok(died)
}

#[test]
fn an_agent_killed_anywhere_in_add_leaves_nothing() -> Result<()> {
    sandbox::within("an_agent_killed_anywhere_in_add_leaves_nothing", |_| {
        anywhere_in_add(Medium::Memory).map(drop)
    })
}

#[test]
fn an_agent_on_a_disk_killed_anywhere_in_add_leaves_nothing() -> Result<()> {
    sandbox::within("an_agent_on_a_disk_killed_anywhere_in_add_leaves_nothing", |_| {
        covers(&anywhere_in_add(Medium::Disk)?, &[], &OF_SYNC);
        Ok(())
    })
}

struct Deleting;

impl Scene for Deleting {
    const AT_START: bool = false;
    const LAST: &'static str = "after ipam.release";

    fn prepare(&self, lab: &mut Lab) -> Result<Vec<Container>> {
        let container = lab.container("victim")?;
        lab.add(&container)?;
        Ok(vec![container])
    }

    fn act(&self, lab: &Lab, victims: &[Container]) -> Result<bool> {
        Ok(lab.node.runtime()?.exec("DEL", &victims[0])?.status.success())
    }

    fn retry(&self, lab: &mut Lab, victims: &[Container], done: bool) -> Result<()> {
        if done {
            // Nobody has to ask again for the rest to be done, and may nevertheless.
            lab.is_empty()?;
        }
        lab.delete(&victims[0])?;
        lab.is_empty()?;
        let again = lab.add(&victims[0])?;
        lab.fill_and_empty(&again)
    }
}

fn anywhere_in_del(medium: Medium) -> Result<BTreeSet<String>> {
    let died = die_everywhere(&Deleting, "none", medium, |_| true)?;
    let of_del = ["store.get", "store.put", "dataplane.detach"];
    let of_reaper = ["dataplane.reap", "store.delete", "ipam.release"];
    covers(&died, &of_del, &OF_PUT);
    covers(&died, &of_reaper, &["the file is removed"]);
    covers(&died, &ANNOUNCING, NO_STEPS);
    Ok(died)
}

#[test]
fn an_agent_killed_anywhere_in_del_leaves_nothing() -> Result<()> {
    sandbox::within("an_agent_killed_anywhere_in_del_leaves_nothing", |_| {
        anywhere_in_del(Medium::Memory).map(drop)
    })
}

#[test]
fn an_agent_on_a_disk_killed_anywhere_in_del_leaves_nothing() -> Result<()> {
    sandbox::within("an_agent_on_a_disk_killed_anywhere_in_del_leaves_nothing", |_| {
        covers(&anywhere_in_del(Medium::Disk)?, &[], &OF_SYNC);
        Ok(())
    })
}

/// The start after a crash that left everything that a crash can leave.
struct Starting;

/// How many addresses of the smaller prefix can be given.
const USABLE: usize = 6;

impl Scene for Starting {
    const AT_START: bool = true;
    const PREFIXES: [&'static str; 2] = ["10.0.1.0/29", "2001:db8:1::/125"];
    const LAST: &'static str = "after announcer.sync";

    /// One that is complete, one whose record can't be read, one half made, one half
    /// deleted, and a link without a record.
    fn prepare(&self, lab: &mut Lab) -> Result<Vec<Container>> {
        let names = ["live", "torn", "pending", "deleting", "orphan"];
        let mut containers = Vec::new();
        for name in names {
            let container = lab.container(name)?;
            lab.add(&container)?;
            containers.push(container);
        }
        lab.kill()?;
        let [_, torn, pending, deleting, orphan] = &containers[..] else { panic!("{containers:?}") };
        let attachments = lab.node.files().run.join("attachments");
        mark(&attachments, pending, AttachmentState::Pending);
        mark(&attachments, deleting, AttachmentState::Deleting);
        fs::write(attachments.join(format!("{}@eth0.json", torn.id)), "{").unwrap();
        fs::remove_file(attachments.join(format!("{}@eth0.json", orphan.id))).unwrap();
        Ok(containers)
    }

    fn act(&self, _: &Lab, _: &[Container]) -> Result<bool> {
        Ok(false)
    }

    fn retry(&self, lab: &mut Lab, victims: &[Container], _: bool) -> Result<()> {
        let [live, torn, pending, deleting, orphan] = victims else { panic!("{victims:?}") };
        lab.caller.until_done(Verb::Check, live, LIMIT)?;
        for gone in [pending, deleting, orphan] {
            assert!(!gone.netns.ip(&["link"])?.contains("eth0"), "{}", gone.id);
        }
        let of_torn = torn.netns.ip(&["-o", "address", "show", "dev", "eth0"])?;
        // Runtimes ask again for what was not answered, and go on with the others.
        lab.delete(deleting)?;
        lab.delete(orphan)?;
        let mut pods = vec![lab.add(live)?, lab.add(pending)?];
        for index in 0..USABLE - 3 {
            let container = lab.container(&format!("more-{index}"))?;
            pods.push(lab.add(&container)?);
        }
        let addresses: BTreeSet<_> = pods.iter().flat_map(|pod| &pod.addresses).collect();
        assert_eq!(addresses.len(), 2 * pods.len(), "{pods:?}");
        assert!(
            !addresses.iter().any(|address| of_torn.contains(&format!(" {address}/"))),
            "{of_torn} {pods:?}"
        );
        // And the one that could not be read has the last addresses.
        let more = lab.container("refused")?;
        let refused = lab.node.runtime()?.add(&more).unwrap_err().to_string();
        assert!(refused.contains("10.0.1.0/29 is exhausted"), "{refused}");
        lab.delete(torn)?;
        for pod in &pods {
            lab.delete(&pod.container)?;
        }
        for kept in fs::read_dir(lab.node.files().run.join("attachments")).unwrap() {
            let kept = kept.unwrap();
            if kept.file_name().as_encoded_bytes().starts_with(torn.id.as_bytes())
                && kept.metadata().unwrap().len() == 1
            {
                fs::remove_file(kept.path()).unwrap();
            }
        }
        lab.is_empty()
    }
}

fn mark(attachments: &Path, container: &Container, state: AttachmentState) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        // A process that another thread is just starting holds the lock a moment longer.
        let store = loop {
            match FileStore::open(attachments).await {
                Ok((store, _)) => break store,
                Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
        };
        let records = store.list().await.unwrap();
        let mut record =
            records.into_iter().find(|record| record.key.container.as_str() == container.id).unwrap();
        record.state = state;
        store.put(&record).await.unwrap();
    });
}

#[test]
fn an_agent_killed_anywhere_in_its_start_leaves_nothing_and_keeps_what_runs() -> Result<()> {
    sandbox::within("an_agent_killed_anywhere_in_its_start_leaves_nothing_and_keeps_what_runs", |_| {
        let died = die_everywhere(&Starting, "none", Medium::Memory, |_| true)?;
        let calls = [
            "dataplane.prepare",
            "ipam.configure",
            "store.put",
            "ipam.restore",
            "dataplane.check",
            "dataplane.reap",
            "store.delete",
            "ipam.release",
            "dataplane.list",
            "dataplane.set_summaries",
        ];
        covers(&died, &calls, &OF_PUT);
        covers(&died, &ANNOUNCING, &["the file is removed"]);
        Ok(())
    })
}

/// With a BIRD that follows: what was announced of a pod that is gone is withdrawn.
#[test]
fn an_agent_killed_while_it_announces_leaves_no_announcement() -> Result<()> {
    sandbox::within("an_agent_killed_while_it_announces_leaves_no_announcement", |_| {
        let announcing = |moment: &str| ANNOUNCING.iter().any(|call| moment.contains(call));
        let died = die_everywhere(&Adding, "bird", Medium::Memory, announcing)?;
        covers(&died, &ANNOUNCING, NO_STEPS);
        Ok(())
    })
}
