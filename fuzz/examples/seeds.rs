//! Writes `fuzz/seeds/` anew from the data of the crates' tests:
//! `cargo run --manifest-path fuzz/Cargo.toml --example seeds`.

use std::error::Error;
use std::fs;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flock_core::client::Deadline;
use flock_core::cni::{Code, RawCall, Verb};
use flock_core::deletions::{Deletion, DeletionQueue};
use flock_core::frame::{self, Inquiry, InquiryFrame, Request, Response};
use flock_core::{cni, node_config};
use serde_json::{Value, json};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

fn main() -> Outcome {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR"));
    let previous = golden(&fuzz.join("../flock-core/tests/golden/cni"))?;
    let seeds: [(&str, Vec<Vec<u8>>); 9] = [
        ("network_config", network_configs(&previous)),
        ("cni_args", texts(&CNI_ARGS)),
        ("annotations", annotations()),
        ("frame", frames(&previous)?),
        ("record", records()),
        ("deletion", deletions()?),
        ("bird_reply", bird_replies()),
        ("node_config", node_configs()?),
        ("protocols", protocols()),
    ];
    for (target, seeds) in seeds {
        let directory = fuzz.join("seeds").join(target);
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir_all(&directory)?;
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(directory.join(format!("{number:02}")), seed)?;
        }
    }
    Ok(())
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Results of every version, on one line each.
fn golden(directory: &Path) -> Outcome<Vec<Value>> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<Outcome<_>>()?;
    files.sort();
    files.iter().map(|file| Ok(serde_json::from_slice(&fs::read(file)?)?)).collect()
}

fn network_configs(previous: &[Value]) -> Vec<Vec<u8>> {
    let mut configs = vec![
        json!({"cniVersion": "1.1.0", "name": "flock", "type": "flock"}),
        json!({
            "cniVersion": "0.4.0", "name": "flock", "type": "flock", "runDir": "/srv/flock", "mtu": 9000,
            "timeoutSeconds": 110, "capabilities": {"portMappings": true},
            "runtimeConfig": {
                "portMappings": [{"HostPort": 1}],
                "io.kubernetes.cri.pod-annotations": {"flock.fritzlab.net/ipv4": "false"},
            },
        }),
        json!({
            "cniVersion": "1.1.0", "name": "flock", "type": "flock",
            "cni.dev/valid-attachments": [{"containerID": "0123456789ab", "ifname": "eth0"}],
            "cni.dev/attachments": [{"containerID": "a", "ifname": "net1", "extra": 1}],
        }),
        json!({"cniVersion": "1.1.0", "name": "flock", "cni.dev/valid-attachments": []}),
        json!({"cniVersion": "0.2.0", "name": "a/b", "mtu": "x", "runDir": 1, "timeoutSeconds": 0}),
        json!({"name": "flock", "runtimeConfig": [], "prevResult": "x"}),
    ];
    for result in previous {
        let version = result["cniVersion"].clone();
        configs.push(json!({"cniVersion": version, "name": "flock", "type": "flock", "prevResult": result}));
    }
    configs.push(json!({
        "cniVersion": "1.1.0", "name": "flock", "type": "flock",
        "prevResult": {
            "cniVersion": "1.1.0",
            "interfaces": [{"name": "eth0", "mac": "", "mtu": 1, "sandbox": "", "socketPath": "/s", "pciID": "0"}],
            "ips": [{"interface": 0, "address": "192.0.2.1/24", "gateway": ""}, {"address": "2001:db8::1/64"}],
            "routes": [{"dst": "::/0", "gw": "fe80::1", "mtu": 1, "advmss": 1, "priority": -1, "table": 1, "scope": 0}],
            "dns": {"nameservers": ["192.0.2.53"], "domain": "a", "search": ["b"], "options": ["c"]},
        },
    }));
    let mut seeds: Vec<Vec<u8>> = configs.iter().map(|config| config.to_string().into_bytes()).collect();
    seeds.extend(texts(&["", "{", "[]", "{} {}", "\u{feff}{}"]));
    seeds
}

const CNI_ARGS: [&str; 9] = [
    "",
    "IgnoreUnknown=1;K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=dns-0;K8S_POD_INFRA_CONTAINER_ID=0123abc;K8S_POD_UID=6d1f;K8S_POD_NEW_KEY=a=b",
    "K8S_POD_NAME=;K8S_POD_NAMESPACE=",
    "IgnoreUnknown=0;Foo=1",
    "Foo=1;IgnoreUnknown=TRUE;Bar=",
    "K8S_POD_NAME",
    "=x",
    "K8S_POD_NAMESPACE=a;K8S_POD_NAME=A",
    "K8S_POD_UID=a;K8S_POD_UID=b",
];

fn annotations() -> Vec<Vec<u8>> {
    texts(&[
        "2001:db8:1::/64 10.0.1.0/24\n",
        "2001:db8:1::/64 \nipv4=false\nanycast=2001:db8:a::53",
        " 10.0.1.0/30\nipv6=true\nip-algo=random",
        "2001:db8:1::/64 10.0.1.0/24\nipv6=2001:db8:1::7\nipv4=true\ncidr6=2001:db8:1::/80\ncidr4=10.0.1.64/26\nip-algo=stable\nanycast=2001:db8:a::53,192.0.2.53",
        "2001:db8:1::/127 10.0.1.0/32\nipv4=10.0.1.0\nip-algo=sequential",
        "2001:db8:1::/64 10.0.1.0/24\nipv6= true\\n\nanycast= 192.0.2.1 ,\\n 192.0.2.1 ",
        "2001:db8:1::/64 10.0.1.0/24\ncidr4=10.0.1.1/24\ncidr6=::/0\nipv6=false",
        "2001:db8:1::/64 10.0.1.0/24\nanycast=10.0.1.53,224.0.0.1,::1,x\nipv7=true",
        "2001:db8:1::/64 10.0.1.0/24\nipv6=false\nipv4=false\nexample.com/ipv6=x",
    ])
}

fn frames(previous: &[Value]) -> Outcome<Vec<Vec<u8>>> {
    let config = br#"{"cniVersion": "1.1.0", "name": "flock", "type": "flock"}"#;
    let raw = RawCall {
        container_id: "0123456789ab",
        ifname: "eth0",
        netns: "/run/netns/pod1",
        args: "IgnoreUnknown=1",
        config,
        ..RawCall::default()
    };
    let mut wires = Vec::new();
    for verb in [Verb::Add, Verb::Check, Verb::Del, Verb::Gc, Verb::Status, Verb::Version] {
        wires.push(frame::encode(&Request::new(&RawCall { verb, ..raw })?)?);
    }
    for inquiry in [Inquiry::View, Inquiry::Repair] {
        wires.push(frame::encode(&InquiryFrame::new(inquiry))?);
    }
    wires.push(frame::encode(&json!({"protocol": 2, "verb": {"new": "form"}}))?);
    wires.push(frame::encode(&Response::EMPTY)?);
    wires.push(frame::encode(&Response::from(cni::Error::new(Code::TRY_AGAIN_LATER, "a", "b")))?);
    for result in previous.iter().take(3) {
        wires.push(frame::encode(&Response::result(result))?);
    }
    wires.push(u32::MAX.to_be_bytes().to_vec());
    wires.push(b"\x00\x00\x00\x07{\"a\":1".to_vec());
    // Without a header, too: the JSON alone.
    wires.push(br#"{"error":{"code":11,"msg":"a"}}"#.to_vec());
    wires.push(serde_json::to_vec(&Request::new(&RawCall { verb: Verb::Add, ..raw })?)?);
    Ok((1..).zip(wires).map(|(piece, wire)| [vec![piece], wire].concat()).collect())
}

fn records() -> Vec<Vec<u8>> {
    let full = json!({"version": 1, "attachment": {
        "key": {"container": "0123abc", "interface": "eth0"}, "state": "committed", "network": "flock",
        "pod": {"namespace": "default", "name": "web-0"}, "podUid": "5f0f6c1e-0000-4000-8000-000000000001",
        "netns": {"path": "/run/netns/web", "device": 4, "inode": 4_026_532_000_u64},
        "hostInterface": "flock01234567", "addresses": {"ipv6": "2001:db8:1::1", "ipv4": "10.0.1.1"},
        "anycast": ["2001:db8:a::53", "192.0.2.53"], "mtu": 1500,
        "bootId": "0f9c3f5e-0000-4000-8000-000000000001", "createdMs": 1_700_000_000_000_u64,
    }});
    let least = json!({"version": 1, "attachment": {
        "key": {"container": "a", "interface": "e@0"}, "state": "pending", "network": "flock",
        "netns": {"path": "", "device": 0, "inode": 0}, "hostInterface": "flock01234567", "addresses": {},
        "mtu": 0, "bootId": "", "createdMs": 0,
    }});
    let deleting = least.to_string().replace("pending", "deleting");
    [
        ("0123abc@eth0.json", full.to_string()),
        ("a@e%400.json", least.to_string()),
        ("a@e%400.json", deleting),
        ("b@eth0.json", full.to_string()),
        ("0123abc@eth0.json.tmp", full.to_string()),
        ("a@eth0.json", String::new()),
        ("a@eth0.json", "{".to_owned()),
        ("a@eth0.json", json!({"version": 2, "attachment": {"later": 1}}).to_string()),
        ("a@eth0.json", json!({"version": 0}).to_string()),
        ("a@eth0.json", json!({"version": 1}).to_string()),
        ("a@eth0.corrupt-1", "{".to_owned()),
        ("%.json", "{}".to_owned()),
    ]
    .map(|(name, content)| format!("{name}\n{content}").into_bytes())
    .into()
}

/// As they are queued, and what is none.
fn deletions() -> Outcome<Vec<Vec<u8>>> {
    let run = tempfile::tempdir()?;
    let queue = DeletionQueue::of_run_dir(&run.path().join("flock"));
    let keys =
        [json!({"container": "0123abc", "interface": "eth0"}), json!({"container": "a", "interface": "e@0"})];
    let pods = [Some(json!({"namespace": "default", "name": "web-0"})), None];
    for (key, pod) in keys.into_iter().zip(pods) {
        let mut deletion =
            json!({"key": key, "bootId": "0f9c3f5e-0000-4000-8000-000000000001", "queuedMs": 1});
        if let Some(pod) = pod {
            deletion["pod"] = pod;
        }
        let deletion: Deletion = serde_json::from_value(deletion)?;
        queue.lock(Deadline::after(Duration::from_secs(1)))?.push(&deletion)?;
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(queue.path())? {
        let entry = entry?;
        files.push((entry.file_name().to_string_lossy().into_owned(), fs::read_to_string(entry.path())?));
    }
    files.sort();
    let (name, text) = files.first().cloned().ok_or("nothing was queued")?;
    let other = files.last().cloned().ok_or("nothing was queued")?.1;
    files.extend([
        (name.clone(), text.replace("eth0", "a/b")),
        (name.clone(), other),
        (name.clone(), String::new()),
        (name.clone(), "{".to_owned()),
        (name.clone(), json!({"version": 2, "deletion": {"later": 1}}).to_string()),
        (name.clone(), json!({"version": 1}).to_string()),
        (format!("{name}.tmp"), text.clone()),
        (name.replace(".json", ".corrupt-1"), text.clone()),
        ("a.json".to_owned(), text.clone()),
        (format!("+{}", &name[1..]), text),
    ]);
    Ok(files.into_iter().map(|(name, text)| format!("{name}\n{text}").into_bytes()).collect())
}

fn bird_replies() -> Vec<Vec<u8>> {
    let said = [
        "0001 BIRD 2.0.12 ready.\n",
        "0001 BIRD 2.0.12 ready.\n0002-Reading configuration from /x\n8002 /x:3:7 syntax error\n",
        "0002-Reading configuration from /x\n0003 Reconfigured\n",
        "0002-Reading configuration from /x\n0020 Configuration OK\n",
        "1000-BIRD 2.0.12\n1011-Router ID is 192.0.2.1\n Hostname is host001\n0013 Daemon is up and running\n",
        "1006-State\n+ device1 < interface up\n  Since:\n \n1002-b\n  x\n0000 \n",
        "9001 syntax error\n",
        "HTTP/1.1 400\n",
        "\n",
        "00x1 a\n",
        "0001\n",
        " a\n",
        "0000 \n a\n",
        "0002-Reading configuration from /x\n0004 Reconfiguration in progress\n",
        "1007-Table master4:\n 10.0.1.0/24          blackhole [flock_kernel4 10:00:00.000] * (10)\n1008-\tType: inherit univ\n1007-10.0.9.1/32 unicast\n \tdev eth0\n0000 \n",
        "0006 Reconfiguration ignored, shutting down\n",
        "1007-2001:db8:1::/64 blackhole [flock_kernel6 10:00:00.000] * (10)\n0000 \n",
        "2002-Name       Proto      Table      State  Since         Info\n1002-device1    Device     ---        up     10:00:00.000\n peer_tor-1     BGP        ---        up     10:00:00.000  Established\n peer_a/b       BGP\n0000 \n",
    ];
    let seed = |(index, said): (usize, &str)| {
        let lengths = [u8::try_from(index).unwrap_or_default(), if index % 4 == 3 { 24 } else { 0 }];
        [lengths.as_slice(), said.as_bytes()].concat()
    };
    said.into_iter().enumerate().map(seed).collect()
}

/// As BIRD 2.0.12 says it of two routers.
fn protocols() -> Vec<Vec<u8>> {
    let session = "1002-peer_tor1  BGP        ---        up     2026-01-01 10:00:00.250  Established   \n\
        1006-  Description:    the first\n   BGP state:          Established\n     Neighbor address: fe80::1%eth0\n     \
        Neighbor AS:      64500\n     Local AS:         64512\n     Neighbor ID:      192.0.2.254\n     \
        Local capabilities\n       Multiprotocol\n         AF announced: ipv4 ipv6\n       Route refresh\n       \
        Extended next hop\n         IPv6 nexthop: ipv4\n       Graceful restart\n         Restart time: 120\n         \
        AF supported: ipv4 ipv6\n         AF preserved:\n       4-octet AS numbers\n       Enhanced refresh\n     \
        Neighbor capabilities\n       Long-lived graceful restart\n         LL stale time: 3600\n         \
        AF supported: ipv4\n         AF preserved:\n     Session:          external AS4\n     \
        Source address:   fe80::2\n     Hold timer:       213.084/240\n     Keepalive timer:  71.314/80\n   \
        Channel ipv4\n     State:          UP\n     Table:          master4\n     Import limit:   4 [HIT]\n       \
        Action:       block\n     Routes:         4 imported, 1 filtered, 3 exported, 4 preferred\n     \
        Route change stats:     received   rejected   filtered    ignored   accepted\n       \
        Import updates:              6          0          1          1          4\n     \
        BGP Next hop:   2001:db8:ffff::2 fe80::2\n \n";
    let down = "2002-Name       Proto      Table      State  Since         Info\n\
        1002-device1    Device     ---        up     10:00:00.000  \n1006-\n\
        1002-peer_tor2  BGP        ---        start  2026-01-01    Active        Socket: Connection refused\n\
        1006-  BGP state:          Active\n     Neighbor range:   198.51.100.0/24\n     Neighbor AS:      0\n     \
        Connect delay:    0.404/1\n     Last error:       Socket: Connection refused\n   Channel ipv6\n     \
        State:          DOWN\n     Export limit:   9\n       Action:       disable\n \n1002-b BGP\n";
    let routes = "1007-Table master4:\n 203.0.113.0/24       unicast [peer_tor1 10:00:00.250 from 192.0.2.7] * (100/5) [AS64500i]\n \
        \tvia 192.0.2.254 on eth0 weight 2\n \tvia fe80::1 on eth1 onlink weight 1\n1008-\tType: BGP univ\n\
        1012-\tBGP.origin: IGP\n \tBGP.as_path: 64500 {64501 64502} (1 2) ({3})\n \tBGP.next_hop: 2001:db8::1 fe80::1\n \
        \tBGP.med: 7\n \tBGP.local_pref: 100\n \tBGP.community: (64500,1) (65535,0)\n \t\t(64500,3)\n \
        \tBGP.large_community: (64500, 1, 2)\n \tBGP.aggregator: 192.0.2.1 AS1\n\
        1007-                     blackhole [static1 2026-01-01 10:00:00] (200)\n1007-\n Table master6:\n \
        2001:db8::/32 unreachable [flock_kernel6 2026-01-01] ! (100)\n \tdev eth0\n";
    let counts = "1007-4 of 5 routes for 3 networks in table master4\n 0 of 0 routes for 0 networks in table master6\n";
    let bfd = "1020-bfd1:\n IP address                Interface  State      Since         Interval  Timeout\n \
        192.0.2.254               eth0       Up         2026-01-01 10:00:00.074    0.100    0.500\n \
        2001:db8::1               ---        Down       10:00:00.074    1.000    0.000\n";
    let status = "1000-BIRD 2.0.12\n1011-Router ID is 192.0.2.1\n Hostname is host001\n \
        Current server time is 2026-01-01 10:00:30.500\n Last reboot on 2026-01-01 10:00:00.250\n \
        Last reconfiguration on 09:00:01.000\n Graceful restart recovery in progress\n0013 Daemon is up and running";
    texts(&[session, down, routes, counts, bfd, status])
}

fn node_configs() -> Outcome<Vec<Vec<u8>>> {
    let full = "apiVersion: flock.fritzlab.net/v1alpha1
kind: NodeConfig
metadata: {name: host001}
spec:
  cidr6: 2001:db8:1::/64
  cidr4: 10.0.1.0/24
  mtu: 1500
  bgp:
    asn: 64512
    routerId: 192.0.2.1
    peers:
    - {name: tor2, address: 192.0.2.254, asn: 64500}
    - {name: tor1, address: 2001:db8:ffff::1, asn: 64512}
";
    let rich = "    - name: tor1
      address: 2001:db8:ffff::1
      asn: 64512
      holdTime: 30
      bfd: {minRxMs: 100}
      ttlSecurity: true
      families: [ipv6, ipv4]
      import: default
      gracefulRestart: {longLived: {staleTime: 600}}
      maxPrefixes: {count: 10, action: block}
      export: {communities: ['64512:100'], anycast: {med: 5}}
    - {name: tor3, interface: eth1, asn: 64500, passwordFile: /etc/flock/tor3}
";
    let changed = |from: &str, to: &str| {
        let text = full.replace(from, to);
        if text == full { Err(format!("{from} is not in the manifest")) } else { Ok(text) }
    };
    let config = node_config::NodeConfig::from_yaml(full, "full")?;
    let json = serde_json::to_string(&node_config::Manifest::from(&config))?;
    // The values of the same, as the target takes them.
    let mut values = vec![0, 0b11_1111];
    values.extend("2001:db8:1::".parse::<Ipv6Addr>()?.octets());
    values.extend([64, 10, 0, 1, 0, 24, 0, 0, 5, 220, 0, 0, 252, 0, 192, 0, 2, 1, 2]);
    values.extend(b"\x00\xc0\x00\x02\xfe\x04tor2\x00\x00\xfb\xf4\x01");
    values.extend("2001:db8:ffff::1".parse::<Ipv6Addr>()?.octets());
    values.extend(b"\x04tor1\x00\x00\xfc\x00\x07host001");
    let mut seeds: Vec<Vec<u8>> = [
        full.to_owned(),
        json,
        changed("metadata: {name: host001}", "metadata: {name: host001, labels: {a: b}}")?,
        changed("  cidr6: 2001:db8:1::/64\n", "")?,
        changed("  cidr4: 10.0.1.0/24\n", "")?,
        changed("    - {name: tor1, address: 2001:db8:ffff::1, asn: 64512}\n", rich)?,
        changed("name: tor2", "name: 'a;b'")?,
        changed("name: tor2", "name: tor1")?,
        changed("192.0.2.254", "10.0.1.7")?,
        changed("mtu: 1500", "mtu: 1000")?,
        changed("kind: NodeConfig", "kind: Node")?,
        changed("metadata: {name: host001}", "metadata: &a {name: *a}")?,
        format!("---\n{full}---\n{full}"),
        String::new(),
    ]
    .map(String::into_bytes)
    .into();
    seeds.push(values);
    Ok(seeds)
}
