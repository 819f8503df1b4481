//! A machine of the cluster: a network and a mount namespace in which containerd,
//! kubelet and kube-proxy run and find the directories that they have by custom.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::cluster::control::DUAL_STACK;
use crate::cluster::credentials::Credentials;
use crate::cluster::image::PAUSE;
use crate::deadline::{Probe, until};
use crate::netns::Netns;
use crate::process::{Daemon, output, run, send};
use crate::{LabError, Result};

const START_LIMIT: Duration = Duration::from_secs(30);
const CONTAINERD: &str = "/run/containerd/containerd.sock";
const CONTAINERD_CONFIG: &str = "/etc/containerd/config.toml";
/// Where the kubelet looks for pods that no API server knows of.
pub const STATIC_PODS: &str = "/etc/kubernetes/manifests";
const KUBELET_CONFIG: &str = "/etc/kubernetes/kubelet.json";
/// Where Debian's containernetworking-plugins are; here they are in /opt/cni/bin.
const OTHER_PLUGINS: &str = "/usr/lib/cni";

/// Everything that the daemons of a machine write is in directories of its own, in
/// memory; the logs of pods are on disk. They are put together aside and moved to their
/// places, since /run holds what they are made of. Then what is mounted later is seen
/// by containers that ask for it.
const MOUNTS: &str = r#"
set -eu
aside=$1 programs=$2 logs=$3
mkdir -p "$logs/pods" "$aside"
mount -n -t tmpfs -o mode=0755 tmpfs "$aside"
cd "$aside"
mkdir etc run opt lib log
cp -a /etc/. etc/
rm -rf etc/cni etc/kubernetes etc/containerd
for dir in run opt lib log; do mount -n -t tmpfs -o mode=0755 tmpfs "$dir"; done
mkdir -p etc/cni/net.d etc/kubernetes/manifests etc/containerd
mkdir -p run/kubernetes opt/cni/bin lib/kubelet lib/containerd log/pods log/containers
mount -n --bind "$programs" run/kubernetes
mount -n --bind "$logs/pods" log/pods
mount -n --bind etc etc
cp /usr/lib/cni/* opt/cni/bin/
mount -n --move etc /etc
mount -n --move opt /opt
mount -n --move lib /var/lib
mount -n --move log /var/log
mount -n --move run /run
mount -n --make-rshared /
touch /run/is-set-up
exec sleep infinity
"#;

/// A machine. Dropping it kills its daemons.
#[derive(Debug)]
pub struct Machine {
    /// Its network.
    pub netns: Netns,
    /// Its own addresses, IPv6 first.
    pub addresses: [IpAddr; 2],
    /// Holds its mount namespace.
    holder: Daemon,
    containerd: Option<Daemon>,
    kubelet: Option<Daemon>,
    kube_proxy: Option<Daemon>,
    logs: PathBuf,
}

/// A container that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    pid: u32,
}

impl Task {
    /// The id of its first process.
    pub fn pid(self) -> u32 {
        self.pid
    }

    /// Kills that process (SIGKILL).
    pub fn kill(self) -> Result<()> {
        let named = format!("the process {}", self.pid);
        send(self.pid, Signal::KILL).map_err(LabError::file("kill", named))
    }
}

impl Machine {
    /// A machine on which nothing runs yet.
    pub fn create(
        netns: Netns,
        addresses: [IpAddr; 2],
        programs: &Path,
        aside: &Path,
        logs: &Path,
    ) -> Result<Self> {
        fs::create_dir_all(logs).map_err(LabError::file("create", logs))?;
        if !Path::new(OTHER_PLUGINS).exists() {
            return Err(LabError::Unexpected(format!(
                "found no {OTHER_PLUGINS}, expected the plugins of Debian's containernetworking-plugins there"
            )));
        }
        let mut command = netns.command("unshare");
        command.args(["--mount", "--propagation", "slave", "--", "sh", "-c", MOUNTS, "sh"]);
        command.arg(aside).arg(programs).arg(logs);
        let name = format!("the machine {}", netns.name());
        let mut holder = Daemon::start(&name, &mut command, &logs.join("mounts.log"))?;
        let ready = root_of(&holder).join("run/is-set-up");
        until(&format!("the mounts of {name}"), START_LIMIT, || {
            holder.must_run()?;
            Ok(if ready.exists() { Probe::Done(()) } else { Probe::Waiting(String::new()) })
        })?;
        Ok(Self {
            netns,
            addresses,
            holder,
            containerd: None,
            kubelet: None,
            kube_proxy: None,
            logs: logs.to_owned(),
        })
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        self.netns.name()
    }

    /// `program`, to be run on this machine.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.pid().to_string(), "--mount", "--net", "--"]).arg(program);
        command
    }

    /// An absolute path of this machine, as this program reaches it.
    pub fn path(&self, path: &str) -> PathBuf {
        root_of(&self.holder).join(path.trim_start_matches('/'))
    }

    /// Writes a file on this machine.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let path = self.path(path);
        fs::write(&path, text).map_err(LabError::file("write", path))
    }

    /// The names in a directory of this machine, sorted; none where the directory is not there.
    pub fn names(&self, path: &str) -> Result<Vec<String>> {
        let path = self.path(path);
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(LabError::file("list", &path))?,
        };
        let names = entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
        let mut names = names.collect::<io::Result<Vec<_>>>().map_err(LabError::file("list", &path))?;
        names.sort();
        Ok(names)
    }

    /// Starts containerd, waits until it answers, and imports these images.
    pub fn start_containerd(&mut self, images: &[PathBuf]) -> Result<()> {
        self.write(CONTAINERD_CONFIG, &containerd_config())?;
        let mut command = self.command("containerd");
        command.args(["--config", CONTAINERD_CONFIG]);
        let mut daemon = self.daemon("containerd", &mut command)?;
        let mut ask = self.command("ctr");
        ask.args(["--address", CONTAINERD, "version"]);
        until(&format!("containerd on {}", self.name()), START_LIMIT, || {
            daemon.must_run()?;
            let answer = output(&mut ask)?;
            Ok(if answer.status.success() {
                Probe::Done(())
            } else {
                Probe::Waiting(String::from_utf8_lossy(&answer.stderr).into_owned())
            })
        })?;
        self.containerd = Some(daemon);
        for image in images {
            // This directory is not in the place of the image on the machine: it is given as a stream.
            let file = fs::File::open(image).map_err(LabError::file("open", image))?;
            let mut command = self.command("ctr");
            command.args(["--address", CONTAINERD, "--namespace", "k8s.io", "images", "import", "-"]);
            crate::process::run_with(&mut command, file)?;
        }
        Ok(())
    }

    /// What `ctr` says about the containers of the kubelet.
    pub fn ctr(&self, arguments: &[&str]) -> Result<String> {
        run(self.command("ctr").args(["--address", CONTAINERD, "--namespace", "k8s.io"]).args(arguments))
    }

    /// A running container that this filter of containerd selects.
    pub fn task(&self, filter: &str) -> Result<Option<Task>> {
        let containers = self.ctr(&["containers", "list", "--quiet", filter])?;
        let tasks = self.ctr(&["tasks", "list"])?;
        let running = tasks.lines().find_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
            [container, pid, "RUNNING"] if containers.lines().any(|line| line == container) => {
                pid.parse().ok()
            }
            _ => None,
        });
        Ok(running.map(|pid| Task { pid }))
    }

    /// Starts kubelet and kube-proxy.
    pub fn start_kubernetes(&mut self, credentials: &Credentials) -> Result<()> {
        let user = format!("system:node:{}", self.name());
        self.copy(&credentials.kubeconfig(&user), "/etc/kubernetes/kubelet.kubeconfig")?;
        self.copy(&credentials.kubeconfig("system:kube-proxy"), "/etc/kubernetes/kube-proxy.kubeconfig")?;
        self.write(KUBELET_CONFIG, &kubelet_config())?;
        let name = format!("--hostname-override={}", self.name());
        let [ipv6, ipv4] = self.addresses;
        let mut command = self.command("/run/kubernetes/kubelet");
        command.args([
            &format!("--config={KUBELET_CONFIG}"),
            &name,
            &format!("--node-ip={ipv6},{ipv4}"),
            &format!("--container-runtime-endpoint=unix://{CONTAINERD}"),
            "--kubeconfig=/etc/kubernetes/kubelet.kubeconfig",
            "--container-runtime=remote",
            "--root-dir=/var/lib/kubelet",
            "--cert-dir=/var/lib/kubelet/pki",
        ]);
        self.kubelet = Some(self.daemon("kubelet", &mut command)?);
        let mut command = self.command("/run/kubernetes/kube-proxy");
        command.args([
            &name,
            DUAL_STACK,
            "--kubeconfig=/etc/kubernetes/kube-proxy.kubeconfig",
            "--proxy-mode=iptables",
            "--bind-address=::",
            // Limits of the whole machine, which only its first network namespace sets.
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0s",
            "--conntrack-tcp-timeout-close-wait=0s",
            "--oom-score-adj=0",
        ]);
        self.kube_proxy = Some(self.daemon("kube-proxy", &mut command)?);
        Ok(())
    }

    /// An error with the end of its log if one of the daemons has ended.
    pub fn must_run(&mut self) -> Result<()> {
        let daemons = [&mut self.containerd, &mut self.kubelet, &mut self.kube_proxy];
        daemons.into_iter().flatten().try_for_each(Daemon::must_run)
    }

    /// The log of one of its daemons.
    pub fn log(&self, program: &str) -> PathBuf {
        self.logs.join(format!("{program}.log"))
    }

    fn copy(&self, from: &Path, to: &str) -> Result<()> {
        let text = fs::read_to_string(from).map_err(LabError::file("read", from))?;
        self.write(to, &text)
    }

    fn daemon(&self, program: &str, command: &mut Command) -> Result<Daemon> {
        Daemon::start(&format!("{program} on {}", self.name()), command, &self.log(program))
    }
}

/// A mount namespace as seen through a process in it.
fn root_of(holder: &Daemon) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root", holder.pid()))
}

fn containerd_config() -> String {
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
[grpc]
address = "{CONTAINERD}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
# Protecting a container from the kernel's choice needs a capability that is not there in a container.
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".cni]
# A pod's first address is the plugin's first, not always the one of IPv4.
ip_pref = "cni"
bin_dir = "/opt/cni/bin"
conf_dir = "/etc/cni/net.d"
"#
    )
}

fn kubelet_config() -> String {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "featureGates": {"IPv6DualStack": true},
        "staticPodPath": STATIC_PODS,
        "fileCheckFrequency": "2s",
        // What failed without the API server is tried again that often.
        "syncFrequency": "10s",
        "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "address": "::",
        "healthzBindAddress": "127.0.0.1",
        // The machines share the processors and the memory of one.
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": false,
        "enforceNodeAllocatable": [],
        "failSwapOn": false,
        "oomScoreAdj": 0,
        "maxPods": 200,
        "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,
        // Pods come by the hundred.
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
        "eventRecordQPS": 0,
        "registryPullQPS": 0,
        "serializeImagePulls": false,
        "resolvConf": "",
    })
    .to_string()
}
