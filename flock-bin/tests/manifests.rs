//! The manifests under deploy/: that Kubernetes knows every field in them, that they give
//! no more rights than is written here, and that their scripts do what they say.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use flock_core::node_config::Peer;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

#[track_caller]
fn documents(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All objects of the manifests, without the definition of NodeConfig and the kustomizations.
fn objects() -> Vec<Value> {
    let files = [
        "base/namespace.yaml",
        "base/rbac.yaml",
        "base/agent.yaml",
        "base/bird.yaml",
        "overlays/startup-taint/rbac.yaml",
        "uninstall/uninstall.yaml",
    ];
    files.iter().flat_map(|file| documents(&deploy().join(file))).collect()
}

fn daemon_sets() -> Vec<DaemonSet> {
    let objects = objects().into_iter().filter(|object| object["kind"] == "DaemonSet");
    objects.map(|object| serde_json::from_value(object).unwrap()).collect()
}

/// What is in `written` and not in `understood`.
fn lost(path: &str, written: &Value, understood: &Value) -> Vec<String> {
    match (written, understood) {
        (Value::Object(written), Value::Object(understood)) => written
            .iter()
            .flat_map(|(key, value)| {
                let path = format!("{path}.{key}");
                match understood.get(key) {
                    Some(understood) => lost(&path, value, understood),
                    None => vec![path],
                }
            })
            .collect(),
        (Value::Array(written), Value::Array(understood)) if written.len() == understood.len() => written
            .iter()
            .zip(understood)
            .enumerate()
            .flat_map(|(index, (written, understood))| lost(&format!("{path}[{index}]"), written, understood))
            .collect(),
        (written, understood) if written == understood => Vec::new(),
        (written, understood) => vec![format!("{path}: {written} is taken as {understood}")],
    }
}

#[track_caller]
fn assert_known<T: DeserializeOwned + Serialize>(object: &Value) {
    let name = &object["metadata"]["name"];
    let typed: T = serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
    let lost = lost("", object, &serde_json::to_value(typed).unwrap());
    assert_eq!(lost, Vec::<String>::new(), "fields that Kubernetes does not know, in {name}");
}

#[test]
fn every_field_is_known() {
    for object in objects() {
        match object["kind"].as_str().unwrap() {
            "Namespace" => assert_known::<Namespace>(&object),
            "ServiceAccount" => assert_known::<ServiceAccount>(&object),
            "ClusterRole" => assert_known::<ClusterRole>(&object),
            "ClusterRoleBinding" => assert_known::<ClusterRoleBinding>(&object),
            "Role" => assert_known::<Role>(&object),
            "RoleBinding" => assert_known::<RoleBinding>(&object),
            "DaemonSet" => assert_known::<DaemonSet>(&object),
            other => panic!("{other} is not looked at here: add it"),
        }
    }
}

#[test]
fn a_kustomization_names_all_files_beside_it() {
    for dir in ["base", "example", "overlays/node-label", "overlays/startup-taint", "uninstall"] {
        let dir = deploy().join(dir);
        let text = fs::read_to_string(dir.join("kustomization.yaml")).unwrap();
        for entry in fs::read_dir(&dir).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let named = name == "kustomization.yaml" || text.contains(&name);
            assert!(named, "{} does not name {name}", dir.display());
        }
    }
}

/// A rule in one line.
fn rule(rule: &Value) -> String {
    let words = |key: &str| {
        let words: Vec<_> = rule[key].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
        words.join(",")
    };
    format!("{}/{}: {}", words("apiGroups"), words("resources"), words("verbs"))
}

#[test]
fn the_rights_are_those_that_are_used() {
    let objects = objects();
    let of_kind = |kind: &'static str| objects.iter().filter(move |object| object["kind"] == kind);
    let roles: BTreeMap<_, Vec<_>> = of_kind("ClusterRole")
        .map(|role| {
            let rules = role["rules"].as_array().unwrap();
            (role["metadata"]["name"].as_str().unwrap(), rules.iter().map(rule).collect())
        })
        .collect();
    let base = [
        "/pods: list,watch",
        "flock.fritzlab.net/nodeconfigs: list,watch",
        "flock.fritzlab.net/nodeconfigs/status: patch",
        "/nodes: get,list,watch",
        "/nodes/status: patch",
        "/events: create,patch",
    ];
    // The second one is only in an overlay.
    let expected = [("flock-agent", base.to_vec()), ("flock-startup-taint", vec!["/nodes: patch"])];
    let expected = expected.map(|(name, rules)| (name, rules.into_iter().map(str::to_owned).collect()));
    assert_eq!(roles, BTreeMap::from(expected));
    assert!(
        documents(&deploy().join("base/rbac.yaml"))
            .iter()
            .all(|object| object["metadata"]["name"] != "flock-startup-taint")
    );
    let bound: Vec<_> = of_kind("ClusterRoleBinding")
        .map(|binding| {
            assert_eq!(
                binding["subjects"],
                json!([{"kind": "ServiceAccount", "name": "flock-agent", "namespace": "flock-system"}])
            );
            assert_eq!(binding["roleRef"]["name"], binding["metadata"]["name"]);
            binding["metadata"]["name"].as_str().unwrap()
        })
        .collect();
    assert_eq!(bound, ["flock-agent", "flock-startup-taint"]);
    // Secrets only where the agent itself is.
    let agents = |kind| {
        let [object] = of_kind(kind).collect::<Vec<_>>()[..] else { panic!("not one {kind}") };
        assert_eq!(object["metadata"]["namespace"], "flock-system");
        object
    };
    assert_eq!(
        agents("Role")["rules"],
        json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}])
    );
    let binding = agents("RoleBinding");
    assert_eq!(
        (&binding["roleRef"]["kind"], &binding["roleRef"]["name"]),
        (&json!("Role"), &agents("Role")["metadata"]["name"])
    );
    assert_eq!(
        binding["subjects"],
        json!([{"kind": "ServiceAccount", "name": "flock-agent", "namespace": "flock-system"}])
    );
    // Only the agent has a token.
    for set in daemon_sets() {
        let name = set.metadata.name.unwrap();
        let pod = set.spec.unwrap().template.spec.unwrap();
        let token = pod.automount_service_account_token;
        assert_eq!(token, (name != "flock-agent").then_some(false), "{name}");
        let account = if name == "flock-agent" { "flock-agent" } else { "flock-node" };
        assert_eq!(pod.service_account_name.as_deref(), Some(account), "{name}");
    }
}

#[test]
fn containers_are_confined() {
    let mut capabilities = BTreeMap::new();
    for set in daemon_sets() {
        let set_name = set.metadata.name.unwrap();
        let pod = set.spec.unwrap().template.spec.unwrap();
        let seccomp = pod.security_context.unwrap().seccomp_profile.unwrap();
        assert_eq!(seccomp.type_, "RuntimeDefault", "{set_name}");
        assert_eq!((pod.host_pid, pod.host_ipc), (None, None), "{set_name}");
        for container in pod.containers.into_iter().chain(pod.init_containers.unwrap_or_default()) {
            let name = format!("{set_name}/{}", container.name);
            let context = container.security_context.unwrap();
            assert_eq!(context.privileged, None, "{name}");
            assert_eq!(context.allow_privilege_escalation, Some(false), "{name}");
            assert_eq!(context.read_only_root_filesystem, Some(true), "{name}");
            let found = context.capabilities.unwrap();
            assert_eq!(found.drop, Some(vec!["ALL".to_owned()]), "{name}");
            capabilities.insert(name.clone(), found.add.unwrap_or_default().join(" "));
            let requests = container.resources.unwrap().requests.unwrap_or_default();
            assert!(requests.contains_key("cpu") && requests.contains_key("memory"), "{name}");
        }
    }
    let expected = [
        ("flock-agent/agent", "NET_ADMIN SYS_ADMIN"),
        ("flock-agent/installer", "DAC_OVERRIDE"),
        ("flock-bird/bird", "NET_ADMIN NET_RAW NET_BIND_SERVICE"),
        ("flock-bird/bootstrap", ""),
        ("flock-uninstall/bird-config", ""),
        ("flock-uninstall/done", ""),
        ("flock-uninstall/uninstall", "DAC_OVERRIDE"),
    ];
    let expected = expected.map(|(name, added)| (name.to_owned(), added.to_owned()));
    assert_eq!(capabilities, BTreeMap::from(expected));
}

/// What a container has of the host, by where it sees it.
fn mounted(set: &DaemonSet) -> BTreeMap<String, BTreeMap<String, String>> {
    let pod = set.spec.as_ref().unwrap().template.spec.clone().unwrap();
    let volumes = pod.volumes.unwrap().into_iter();
    let hosts: BTreeMap<_, _> =
        volumes.filter_map(|volume| Some((volume.name, volume.host_path?.path))).collect();
    let containers = pod.containers.into_iter().chain(pod.init_containers.unwrap_or_default());
    let mounts = containers.map(|container| {
        let mounts = container.volume_mounts.unwrap_or_default().into_iter();
        let mounts = mounts.filter_map(|mount| Some((mount.mount_path, hosts.get(&mount.name)?.clone())));
        (container.name, mounts.collect())
    });
    mounts.collect()
}

fn daemon_set(name: &str) -> DaemonSet {
    daemon_sets().into_iter().find(|set| set.metadata.name.as_deref() == Some(name)).unwrap()
}

/// Two containers that are to meet in a directory mount the same one.
#[test]
fn paths_are_those_that_the_programs_take_by_default() {
    for set in daemon_sets() {
        let name = set.metadata.name.clone().unwrap();
        for (container, mounts) in mounted(&set) {
            for (inside, host) in mounts {
                let expected = match (&*container, &*inside) {
                    // What it parses comes from the network: it has nothing of the agent's.
                    ("bird" | "bird-config", "/run/flock") => "/run/flock/bird",
                    _ => inside.strip_prefix("/host").unwrap_or(&inside),
                };
                assert_eq!(host, expected, "{inside} of {name}/{container}");
            }
        }
    }
}

#[test]
fn bird_has_its_own_directories_and_the_agent_finds_its_socket_there() {
    let bird = &mounted(&daemon_set("flock-bird"))["bird"];
    let expected = [("/etc/flock/bird", "/etc/flock/bird"), ("/run/flock", "/run/flock/bird")];
    let expected = expected.map(|(inside, host)| (inside.to_owned(), host.to_owned()));
    assert_eq!(*bird, BTreeMap::from(expected));

    let agent = daemon_set("flock-agent");
    assert_eq!(mounted(&agent)["agent"]["/run/flock"], "/run/flock");
    let arguments = agent.spec.unwrap().template.spec.unwrap().containers.remove(0).args.unwrap();
    let socket = format!("--bird-socket={}/bird.ctl", bird["/run/flock"]);
    assert!(arguments.contains(&socket), "{arguments:?} without {socket}");
    assert!(script("bird", &[]).contains(" -s /run/flock/bird.ctl"));
}

/// A container's script, with `dirs` in place of what it has mounted.
fn script(container: &str, dirs: &[(&str, &Path)]) -> String {
    let containers = daemon_sets().into_iter().flat_map(|set| {
        let pod = set.spec.unwrap().template.spec.unwrap();
        pod.containers.into_iter().chain(pod.init_containers.unwrap_or_default())
    });
    let container = containers.into_iter().find(|found| found.name == container).unwrap();
    assert_eq!(container.command.unwrap(), ["sh", "-euc"]);
    let script = container.args.unwrap().remove(0);
    dirs.iter().fold(script, |script, (mounted, dir)| {
        assert!(script.contains(mounted), "{mounted} is not in {script}");
        script.replace(mounted, dir.to_str().unwrap())
    })
}

fn sh(script: &str) -> Output {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    Command::new("sh").args(["-euc", script]).env("PATH", path).output().unwrap()
}

#[test]
fn bird_gets_a_configuration_to_start_with_and_keeps_a_good_one() {
    let dir = tempfile::tempdir().unwrap();
    let script = script(
        "bootstrap",
        &[
            ("/etc/flock/bird", dir.path()),
            ("/bootstrap/bird.conf", &deploy().join("base/bootstrap-bird.conf")),
        ],
    );
    let bootstrap = fs::read_to_string(deploy().join("base/bootstrap-bird.conf")).unwrap();
    let good = format!("{bootstrap}# and more\n");
    let conf = dir.path().join("bird.conf");
    let run = || {
        let output = sh(&script);
        assert!(output.status.success(), "{output:?}");
        fs::read_to_string(&conf).unwrap()
    };
    // As a kubelet makes it.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(run(), bootstrap);
    let mode = fs::metadata(dir.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "others can look into the directory: {mode:o}");
    fs::write(&conf, &good).unwrap();
    assert_eq!(run(), good);
    // What BIRD does not take is set aside.
    fs::write(&conf, "protocol nothing {}").unwrap();
    assert_eq!(run(), bootstrap);
    let mut names: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["bird.conf", "bird.conf.refused"]);
}

/// With a program in BIRD's place that says how it was started.
#[test]
fn bird_knows_a_restart_from_the_first_start_after_a_boot() {
    let run = tempfile::tempdir().unwrap();
    let script = script("bird", &[("/run/flock", run.path())]);
    let script = script.replace("exec bird ", "exec echo ");
    let started = || String::from_utf8(sh(&script).stdout).unwrap();
    let files = format!("-c /etc/flock/bird/bird.conf -s {}/bird.ctl\n", run.path().display());
    assert_eq!(started(), format!("-f {files}"));
    assert_eq!(started(), format!("-f -R {files}"));
    assert_eq!(started(), format!("-f -R {files}"));
}

/// With a program in the place of BIRD's client that says how it was called.
#[test]
fn bird_leaves_without_a_word_unless_the_node_shuts_down() {
    let run = tempfile::tempdir().unwrap();
    let pod = daemon_set("flock-bird").spec.unwrap().template.spec.unwrap();
    let stop = pod.containers[0].lifecycle.clone().unwrap().pre_stop.unwrap().exec.unwrap().command.unwrap();
    assert_eq!(stop[..2], ["sh", "-euc"]);
    let script = stop[2]
        .replace("/run/flock", run.path().to_str().unwrap())
        .replace("exec timeout 5 birdc ", "exec echo ");
    let client = format!("-s {}/bird.ctl graceful restart\n", run.path().display());
    assert_eq!(String::from_utf8(sh(&script).stdout).unwrap(), client);

    let word = run.path().join("shutdown");
    let script = script.replace("do sleep", "do echo waits; sleep");
    for last in [Some("Withdrawn\n"), None] {
        fs::write(&word, "Marked\n").unwrap();
        let mut stopping = Command::new("sh").args(["-euc", &script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(stopping.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert_eq!(said.next().as_deref(), Some("waits"));
        match last {
            Some(last) => fs::write(&word, last).unwrap(),
            None => fs::remove_file(&word).unwrap(),
        }
        assert!(said.all(|line| line == "waits"));
        assert!(stopping.wait().unwrap().success());
    }
}

/// Routers that hear nothing for the hold time drop the node's routes; where the connection ends
/// before, they keep them (RFC 4724).
#[test]
fn a_bird_that_hangs_is_replaced_within_the_hold_time() {
    let pod = daemon_set("flock-bird").spec.unwrap().template.spec.unwrap();
    let probe = pod.containers[0].liveness_probe.clone().unwrap();
    let noticed =
        probe.period_seconds.unwrap() * probe.failure_threshold.unwrap() + probe.timeout_seconds.unwrap();
    let ended = i64::from(noticed) + pod.termination_grace_period_seconds.unwrap();
    // Its last word may be as old as the keepalive time, and it has to start again.
    let left = i64::from(Peer::DEFAULT_HOLD_TIME) * 2 / 3 - 5;
    assert!(ended <= left, "{ended} s, expected at most {left} s");
}
