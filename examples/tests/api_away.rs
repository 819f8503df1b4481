//! An agent of a cluster whose API server is away from the start.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fs;
use std::process::Command;
use std::time::Duration;

use flock_examples::node::Node;
use flock_examples::{LabError, Result, programs, sandbox};
use serde_json::json;

const AT_ONCE: Duration = Duration::from_millis(50);
const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

/// Nobody listens there.
const KUBECONFIG: &str = "
apiVersion: v1
kind: Config
clusters: [{name: away, cluster: {server: 'http://127.0.0.1:1'}}]
contexts: [{name: away, context: {cluster: away, user: nobody}}]
users: [{name: nobody, user: {}}]
current-context: away
";

fn kubernetes_agent(node: &Node) -> Result<Command> {
    let kubeconfig = node.files().dir.join("kubeconfig");
    fs::write(&kubeconfig, KUBECONFIG).map_err(LabError::file("write", &kubeconfig))?;
    let mut command = node.netns.command(programs::agent()?);
    command.args(["--node-name", node.name(), "--source", "kubernetes", "--announcer", "none"]);
    command.arg("--run-dir").arg(&node.files().run).env("KUBECONFIG", kubeconfig);
    command.env_remove("KUBERNETES_SERVICE_HOST");
    Ok(command)
}

#[test]
fn pods_come_and_go_without_the_api_server() -> Result<()> {
    sandbox::within("pods_come_and_go_without_the_api_server", |_| {
        let mut node = Node::alone("node", &json!({"cidr6": "2001:db8:1::/64", "cidr4": "10.0.1.0/24"}))?;
        // As an agent leaves it that had the answer of the API server.
        fs::copy(&node.files().node_config, node.files().run.join("node-config.json")).unwrap();
        let command = kubernetes_agent(&node)?;
        node.start_agent_as(command)?;
        node.wait_ready()?;
        let runtime = node.runtime()?;

        // A runtime that hands over the annotations.
        let container = node.make_container("told", &[])?;
        let annotations = json!({ANNOTATIONS: {"flock.fritzlab.net/ipv6": "2001:db8:1::53"}});
        let add = runtime.prepare("ADD", &container).config("runtimeConfig", annotations);
        let result = add.make()?.success()?;
        assert_eq!(result["ips"][0]["address"], "2001:db8:1::53/128");
        container.netns.must_ping("169.254.1.1", AT_ONCE)?;

        // One that does not: the pod can't be known, and the answer says why.
        let unknown = node.make_container("unknown", &[])?;
        let failure = runtime.prepare("ADD", &unknown).config("timeoutSeconds", 4).make()?.failure()?;
        assert_eq!(failure.code, 11, "{failure:?}");
        for part in ["default/unknown", "API server", "Connection refused"] {
            assert!(failure.text().contains(part), "{failure:?}, expected {part:?} in it");
        }

        runtime.delete(&container)?;
        runtime.delete(&unknown)?;
        // The pod's addresses are not reachable any more.
        assert_eq!(node.netns.ip(&["-6", "route", "show", "2001:db8:1::53"])?.trim(), "");
        Ok(())
    })
}
