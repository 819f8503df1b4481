//! Flock under a real container runtime: containerd, whose CNI side is libcni, runs a
//! container on a node of the lab, with another plugin chained after Flock.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is not as it should be"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use flock_examples::deadline::{Probe, until};
use flock_examples::fabric::{DIR, Fabric};
use flock_examples::netns::Netns;
use flock_examples::node::Node;
use flock_examples::process::{Daemon, output, run};
use flock_examples::{LabError, Result, programs, sandbox};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(30);
const IMAGE: &str = "localhost/lab/busybox:1";
/// Where Debian's containernetworking-plugins are.
const OTHER_PLUGINS: &str = "/usr/lib/cni";

/// A containerd of its own on a node. Dropping it kills it.
struct Containerd {
    netns: Netns,
    socket: PathBuf,
    _daemon: Daemon,
}

impl Containerd {
    fn start(node: &Node) -> Result<Self> {
        let dir = Path::new(DIR).join("containerd");
        fs::create_dir_all(&dir).unwrap();
        let (config, socket) = (dir.join("config.toml"), dir.join("containerd.sock"));
        let text = format!(
            "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{1}\"\n",
            dir.display(),
            socket.display()
        );
        fs::write(&config, text).unwrap();
        let mut command = node.netns.command("containerd");
        let mut daemon = Daemon::start("containerd", command.arg("-c").arg(&config), &dir.join("log"))?;
        let mut ask = Command::new("ctr");
        ask.arg("--address").arg(&socket).arg("version");
        until("containerd to answer", LIMIT, || {
            daemon.must_run()?;
            let answer = output(&mut ask)?;
            Ok(if answer.status.success() { Probe::Done(()) } else { Probe::Waiting(String::new()) })
        })?;
        Ok(Self { netns: node.netns.clone(), socket, _daemon: daemon })
    }

    fn ctr(&self, arguments: &[&str]) -> Result<String> {
        run(self.netns.command("ctr").arg("--address").arg(&self.socket).args(arguments))
    }

    /// A container that runs `script` to its end; the network is made and taken away by libcni.
    fn run(&self, name: &str, script: &str) -> Result<String> {
        self.ctr(&[
            "run",
            "--rm",
            "--cni",
            "--snapshotter",
            "native",
            IMAGE,
            name,
            "/bin/busybox",
            "sh",
            "-c",
            script,
        ])
    }
}

/// An image of one layer with busybox in it, as `docker save` writes one.
fn image(dir: &Path) -> Result<PathBuf> {
    let root = dir.join("root");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::copy("/bin/busybox", root.join("bin/busybox")).map_err(LabError::file("copy", "/bin/busybox"))?;
    let tar = |archive: &str, from: &Path, names: &[&str]| {
        run(Command::new("tar").arg("-cf").arg(dir.join(archive)).arg("-C").arg(from).args(names))
    };
    tar("layer.tar", &root, &["."])?;
    let sum = run(Command::new("sha256sum").arg(dir.join("layer.tar")))?;
    let digest = sum.split_whitespace().next().unwrap();
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    fs::write(dir.join("manifest.json"), manifest.to_string()).unwrap();
    tar("image.tar", dir, &["manifest.json", "config.json", "layer.tar"])?;
    Ok(dir.join("image.tar"))
}

/// What an operator installs, in the sandbox's own `/opt/cni` and `/etc/cni`.
fn install(node: &Node) -> Result<()> {
    for dir in ["/opt/cni", "/etc/cni"] {
        fs::create_dir_all(dir).map_err(LabError::file("create", dir))?;
        run(Command::new("mount").args(["-t", "tmpfs", "tmpfs", dir]))?;
    }
    fs::create_dir_all("/opt/cni/bin").unwrap();
    fs::create_dir_all("/etc/cni/net.d").unwrap();
    fs::copy(programs::plugin()?, "/opt/cni/bin/flock").unwrap();
    let tuning = Path::new(OTHER_PLUGINS).join("tuning");
    fs::copy(&tuning, "/opt/cni/bin/tuning").map_err(LabError::file("copy", &tuning))?;
    let list = json!({
        "cniVersion": "1.0.0",
        "name": "flock",
        "plugins": [
            {"type": "flock", "runDir": node.files().run},
            {"type": "tuning", "sysctl": {"net.core.somaxconn": "321"}},
        ],
    });
    fs::write("/etc/cni/net.d/01-flock.conflist", list.to_string()).unwrap();
    Ok(())
}

#[test]
fn a_container_of_containerd_gets_its_addresses_and_gives_them_back() -> Result<()> {
    sandbox::within("a_container_of_containerd_gets_its_addresses_and_gives_them_back", |_| {
        let mut fabric = Fabric::build(1)?;
        let router = (fabric.router.ipv6, fabric.router.ipv4);
        let node = &mut fabric.nodes[0];
        node.start()?;
        let established = &fabric.router.bird;
        established.established(2, LIMIT)?;
        let probe = node.add_pod("probe", &[])?;
        for address in &probe.addresses {
            fabric.router.netns.reach(*address, LIMIT)?;
        }

        install(node)?;
        let containerd = Containerd::start(node)?;
        let image = image(&Path::new(DIR).join("containerd"))?;
        containerd.ctr(&["image", "import", &image.display().to_string()])?;
        let before = node.netns.ip(&["route"])? + &node.netns.ip(&["-6", "route"])?;

        let script = format!(
            "b=/bin/busybox; $b ip addr show eth0; $b cat /proc/sys/net/core/somaxconn; \
             $b ping -c 1 -W 1 {} && $b ping -c 1 -W 1 {}",
            router.0, router.1
        );
        let said = containerd.run("first", &script)?;
        assert!(said.contains("inet6 2001:db8:1::") && said.contains("inet 10.0.1."), "{said}");
        assert!(said.lines().any(|line| line == "321"), "the chained plugin did not run: {said}");
        assert_eq!(said.matches("1 packets received").count(), 2, "{said}");

        // DEL came too: nothing of the container is left on the node.
        until("the container's records and links to be gone", LIMIT, || {
            let records = fs::read_dir(node.files().run.join("attachments")).unwrap().count();
            let links =
                node.netns.ip(&["-brief", "link"])?.lines().filter(|link| link.starts_with("flock")).count();
            let left = format!("{records} records, {links} links");
            // Those of the probe stay.
            Ok(if (records, links) == (1, 1) { Probe::Done(()) } else { Probe::Waiting(left) })
        })?;
        let after = node.netns.ip(&["route"])? + &node.netns.ip(&["-6", "route"])?;
        assert_eq!(after, before);
        Ok(())
    })
}

/// What the runtime shows to its user when Flock says no.
#[test]
fn containerd_passes_on_why_a_container_gets_no_network() -> Result<()> {
    sandbox::within("containerd_passes_on_why_a_container_gets_no_network", |_| {
        let mut fabric = Fabric::build(1)?;
        let node = &mut fabric.nodes[0];
        node.start()?;
        install(node)?;
        let containerd = Containerd::start(node)?;
        let image = image(&Path::new(DIR).join("containerd"))?;
        containerd.ctr(&["image", "import", &image.display().to_string()])?;
        node.agent().unwrap().kill()?;
        let error = containerd.run("orphan", "true").unwrap_err().to_string();
        assert!(error.contains("flock-agent"), "{error}");
        assert!(error.contains(&node.files().run.join("flock.sock").display().to_string()), "{error}");
        Ok(())
    })
}
