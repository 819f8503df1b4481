//! The control plane: etcd, API server, controller manager and scheduler, in a
//! namespace that is one hop from the router as the nodes are.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::cluster::api::Api;
use crate::cluster::credentials::Credentials;
use crate::deadline::{Probe, until};
use crate::netns::Netns;
use crate::process::{Daemon, run};
use crate::{LabError, Result};

/// The prefixes that addresses of Services are taken from, the family that the
/// cluster prefers first.
pub const SERVICE_CIDRS: &str = "2001:db8:5::/108,10.96.0.0/16";
/// The address of the API server as a Service, from the first of them.
pub const API_SERVICE: &str = "2001:db8:5::1";
/// The API server's port.
pub const PORT: u16 = 6443;
/// Behind this gate in the version of Kubernetes that runs here.
pub(super) const DUAL_STACK: &str = "--feature-gates=IPv6DualStack=true";

/// For one of its parts to answer.
const START_LIMIT: Duration = Duration::from_secs(60);
const ETCD: &str = "http://127.0.0.1:2379";
const ETCD_PEERS: &str = "http://127.0.0.1:2380";

/// A control plane. Dropping it kills it.
#[derive(Debug)]
pub struct ControlPlane {
    /// Where it is.
    pub netns: Netns,
    /// Of everyone who speaks with it.
    pub credentials: Credentials,
    programs: PathBuf,
    dir: PathBuf,
    logs: PathBuf,
    addresses: [IpAddr; 2],
    api_server: Option<Daemon>,
    others: Vec<Daemon>,
}

impl ControlPlane {
    /// Starts it in a namespace that has these addresses, IPv6 first, and waits until
    /// the API server is ready. `programs` is the directory of Kubernetes' programs.
    pub fn start(
        netns: Netns,
        addresses: [IpAddr; 2],
        nodes: &[String],
        programs: &Path,
        dir: &Path,
        logs: &Path,
    ) -> Result<Self> {
        for dir in [dir, logs] {
            fs::create_dir_all(dir).map_err(LabError::file("create", dir))?;
        }
        let names = [addresses[0], addresses[1], API_SERVICE.parse().unwrap_or(addresses[0])];
        let server = format!("https://[{}]:{PORT}", addresses[0]);
        let credentials = Credentials::create(&dir.join("credentials"), &server, &names, nodes)?;
        let mut control = Self {
            netns,
            credentials,
            programs: programs.to_owned(),
            dir: dir.to_owned(),
            logs: logs.to_owned(),
            addresses,
            api_server: None,
            others: Vec::new(),
        };
        control.start_etcd()?;
        control.start_proxy()?;
        control.start_api_server()?;
        control.start_controllers()?;
        Ok(control)
    }

    /// Requests to the API server as an administrator.
    pub fn api(&self) -> Api {
        Api::new(&self.proxy_socket())
    }

    /// `kubectl` as an administrator, to be given arguments.
    pub fn kubectl(&self) -> Command {
        let mut command = self.netns.command(self.programs.join("kubectl"));
        command.arg("--kubeconfig").arg(self.credentials.kubeconfig("admin"));
        command.arg("--cache-dir").arg(self.dir.join("kubectl"));
        command
    }

    /// Applies a manifest.
    pub fn apply(&self, manifest: &Value) -> Result<String> {
        let file = self.dir.join("manifest.json");
        fs::write(&file, manifest.to_string()).map_err(LabError::file("write", &file))?;
        run(self.kubectl().args(["apply", "-f"]).arg(&file))
    }

    /// Starts the API server and waits until it is ready.
    pub fn start_api_server(&mut self) -> Result<()> {
        let (certificate, key) = self.credentials.server();
        let service_accounts = self.credentials.service_accounts();
        let mut command = self.netns.command(self.programs.join("kube-apiserver"));
        for (option, value) in [
            ("tls-cert-file", &certificate),
            ("tls-private-key-file", &key),
            ("token-auth-file", &self.credentials.tokens()),
            ("service-account-key-file", &service_accounts),
            ("service-account-signing-key-file", &service_accounts),
        ] {
            command.arg(format!("--{option}={}", value.display()));
        }
        command.args([
            &format!("--advertise-address={}", self.addresses[0]),
            &format!("--secure-port={PORT}"),
            &format!("--etcd-servers={ETCD}"),
            &format!("--service-cluster-ip-range={SERVICE_CIDRS}"),
            DUAL_STACK,
            "--bind-address=::",
            "--insecure-port=0",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            // Else it would look up the names of the nodes for exec and logs.
            "--kubelet-preferred-address-types=InternalIP",
        ]);
        let log = self.logs.join("kube-apiserver.log");
        let mut daemon = Daemon::start("kube-apiserver", &mut command, &log)?;
        let api = self.api();
        until("a ready API server", START_LIMIT, || {
            daemon.must_run()?;
            Ok(match api.get("/readyz") {
                Ok(_) => Probe::Done(()),
                Err(error) => Probe::Waiting(error.to_string()),
            })
        })?;
        self.api_server = Some(daemon);
        Ok(())
    }

    /// Ends the API server; everything else goes on.
    pub fn stop_api_server(&mut self) -> Result<()> {
        match self.api_server.take() {
            Some(mut daemon) => daemon.kill(),
            None => Ok(()),
        }
    }

    fn start_etcd(&mut self) -> Result<()> {
        let mut command = self.netns.command("etcd");
        // Nothing of this is wanted after a crash of the machine.
        command.args(["--name", "lab", "--unsafe-no-fsync", "--data-dir"]).arg(self.dir.join("etcd"));
        command.args(["--listen-client-urls", ETCD, "--advertise-client-urls", ETCD]);
        command.args(["--listen-peer-urls", ETCD_PEERS, "--initial-advertise-peer-urls", ETCD_PEERS]);
        command.args(["--initial-cluster", &format!("lab={ETCD_PEERS}")]);
        self.daemon("etcd", &mut command)
    }

    /// The way of [`api`](Self::api) to the API server.
    fn start_proxy(&mut self) -> Result<()> {
        let socket = self.proxy_socket();
        let mut command = self.kubectl();
        command.arg("proxy").arg(format!("--unix-socket={}", socket.display()));
        self.daemon("kubectl proxy", &mut command)?;
        until("the socket of kubectl proxy", START_LIMIT, || {
            Ok(if socket.exists() { Probe::Done(()) } else { Probe::Waiting(String::new()) })
        })
    }

    fn start_controllers(&mut self) -> Result<()> {
        let mut command = self.component("kube-controller-manager", "system:kube-controller-manager");
        command.args([
            &format!("--root-ca-file={}", self.credentials.authority().display()),
            &format!("--service-account-private-key-file={}", self.credentials.service_accounts().display()),
            &format!("--service-cluster-ip-range={SERVICE_CIDRS}"),
            DUAL_STACK,
            "--use-service-account-credentials=true",
            // The nodes' prefixes and their routes are not its business here.
            "--controllers=*,-nodeipam,-route,-cloud-node-lifecycle,-service",
        ]);
        self.daemon("kube-controller-manager", &mut command)?;
        let mut command = self.component("kube-scheduler", "system:kube-scheduler");
        self.daemon("kube-scheduler", command.arg(DUAL_STACK))
    }

    fn component(&self, program: &str, user: &str) -> Command {
        let mut command = self.netns.command(self.programs.join(program));
        command.arg("--kubeconfig").arg(self.credentials.kubeconfig(user));
        command.args(["--leader-elect=false", "--port=0", "--kube-api-qps=200", "--kube-api-burst=400"]);
        command
    }

    fn daemon(&mut self, name: &str, command: &mut Command) -> Result<()> {
        let log = self.logs.join(format!("{}.log", name.replace(' ', "-")));
        self.others.push(Daemon::start(name, command, &log)?);
        Ok(())
    }

    fn proxy_socket(&self) -> PathBuf {
        self.dir.join("api.sock")
    }
}
