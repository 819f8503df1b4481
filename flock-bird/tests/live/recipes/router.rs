//! The router of a rack, a network namespace in which one of three speakers runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use flock_bird::routes::{self, Segment};

use super::frr::Frr;
use super::gobgp::Gobgp;
use super::route::{Route, Routes};
use crate::lab::{Bird, Namespace, bound_to_test};

/// What runs on the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaker {
    Bird,
    Frr,
    Gobgp,
}

impl Speaker {
    /// Its name in the document.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bird => "bird",
            Self::Frr => "frr",
            Self::Gobgp => "gobgp",
        }
    }
}

/// Link-local addresses are of use at once.
pub(crate) const WITHOUT_DAD: &str = "echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad";

/// Network and mount namespaces in which every speaker has its files where it looks for them.
pub(crate) struct Host {
    pub(crate) namespace: Namespace,
    directory: PathBuf,
}

impl Host {
    /// One that keeps its files in `directory`.
    pub(crate) fn new(directory: PathBuf) -> Self {
        for name in ["run/bird", "run/frr", "frr", "tmp"] {
            fs::create_dir_all(directory.join(name)).unwrap();
        }
        // FRR wants to be a user of its own, whom an ordinary user's namespace does not have.
        let as_root = |file: &str, change: fn(&str) -> String| {
            let text = fs::read_to_string(Path::new("/etc").join(file)).unwrap();
            fs::write(directory.join(file), text.lines().map(change).collect::<String>()).unwrap();
        };
        as_root("passwd", |line| match line.strip_prefix("frr:") {
            Some(_) => "frr:x:0:0::/:/bin/false\n".to_owned(),
            None => format!("{line}\n"),
        });
        as_root("group", |line| match line.split_once(':') {
            Some((name @ ("frr" | "frrvty"), _)) => format!("{name}:x:0:root,frr\n"),
            _ => format!("{line}\n"),
        });
        fs::write(directory.join("frr/vtysh.conf"), "service integrated-vtysh-config\n").unwrap();
        let mounts = [
            ("run", "/run"),
            ("frr", "/etc/frr"),
            ("tmp", "/var/tmp"),
            ("passwd", "/etc/passwd"),
            ("group", "/etc/group"),
        ]
        .map(|(from, to)| format!("mount --bind {} {to}", directory.join(from).display()));
        let prepare = format!("{WITHOUT_DAD} && ip link set lo up && {}", mounts.join(" && "));
        Self { namespace: Namespace::holding("--net --mount", &prepare), directory }
    }

    /// A file of `/run` there.
    pub(crate) fn run(&self, name: &str) -> PathBuf {
        self.directory.join("run").join(name)
    }

    /// A file of `/etc/frr` there.
    pub(crate) fn etc_frr(&self, name: &str) -> PathBuf {
        self.directory.join("frr").join(name)
    }

    /// A command there that dies with the test.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = bound_to_test("nsenter");
        let of = |kind: &str| format!("/proc/{}/ns/{kind}", self.namespace.pid());
        command.args([format!("--net={}", of("net")), format!("--mount={}", of("mnt"))]).arg(program);
        command
    }

    /// Runs a program there. What it prints, or what it complains of.
    pub(crate) fn output(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        let output = self.command(program).args(arguments).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        if output.status.success() {
            return Ok(said);
        }
        Err(format!("{program} {arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// A host with its speaker.
pub(crate) struct Router {
    pub(crate) host: Host,
    speaker: Option<Running>,
}

enum Running {
    Bird(Bird),
    Frr(Frr),
    Gobgp { _running: Gobgp },
}

impl Router {
    /// Starts `speaker` with `config`.
    pub(crate) async fn start(host: Host, speaker: Speaker, config: &str) -> Self {
        let speaker = match speaker {
            Speaker::Bird => {
                let path = host.run("bird/bird.conf");
                fs::write(&path, format!("log stderr all;\n{config}")).unwrap();
                Running::Bird(Bird::start(&host.namespace, &path, &[]))
            }
            Speaker::Frr => Running::Frr(Frr::start(&host, config).await),
            Speaker::Gobgp => Running::Gobgp { _running: Gobgp::start(&host, config) },
        };
        Self { host, speaker: Some(speaker) }
    }

    /// Ends the speaker as a crash does, and starts it anew as one that recovers (RFC 4724).
    pub(crate) async fn crash(&mut self) {
        let speaker = match self.speaker.take().unwrap() {
            Running::Bird(bird) => {
                bird.kill();
                Running::Bird(Bird::start(&self.host.namespace, &self.host.run("bird/bird.conf"), &["-R"]))
            }
            Running::Frr(mut frr) => {
                frr.crash(&self.host).await;
                Running::Frr(frr)
            }
            Running::Gobgp { .. } => panic!("GoBGP does not keep its own routes"),
        };
        self.speaker = Some(speaker);
    }

    /// What the router has from its peers.
    pub(crate) async fn routes(&self) -> Routes {
        match self.speaker.as_ref().unwrap() {
            Running::Bird(bird) => of_bird(bird).await,
            Running::Frr(_) => Frr::routes(&self.host),
            Running::Gobgp { .. } => Gobgp::routes(&self.host),
        }
    }
}

async fn of_bird(bird: &Bird) -> Routes {
    let mut found = Routes::new();
    let reply = bird.ask("show route all where source = RTS_BGP").await;
    for route in routes::parse(&reply).known {
        let path = route.bgp.as_path.unwrap_or_default().0.into_iter().flat_map(|segment| match segment {
            Segment::Sequence(systems) => systems,
            other => panic!("{other:?}"),
        });
        let known = Route {
            next_hop: super::route::next_hop(route.bgp.next_hops),
            as_path: path.collect(),
            local_preference: route.bgp.local_preference.unwrap_or(100),
            med: route.bgp.med.unwrap_or(0),
            communities: route.bgp.communities.iter().map(|community| (community.0, community.1)).collect(),
        };
        found.entry(route.prefix).or_default().insert(known);
    }
    found
}
