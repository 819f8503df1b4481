//! Two pods on a node of its own, that reach each other.
//!
//! Run it as root, or with the rights of root over new namespaces:
//! `cargo build -p flock-netlink --example attach && unshare -Urnm target/debug/examples/attach`

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

#[path = "lab/lab.rs"]
mod lab;

use std::error::Error;
use std::process::Command;

use flock_core::dataplane::{Dataplane, Link};
use flock_netlink::NetlinkDataplane;

fn main() -> Result<(), Box<dyn Error>> {
    lab::enter_a_node()?;
    tokio::runtime::Builder::new_multi_thread().build()?.block_on(connect())
}

async fn connect() -> Result<(), Box<dyn Error>> {
    let dataplane = NetlinkDataplane::new()?;
    dataplane.prepare().await?;

    let mut pods = Vec::new();
    let mut namespaces = Vec::new();
    for number in 1..=2 {
        let namespace = lab::Namespace::new()?;
        let netns = dataplane.identify(namespace.path().as_ref()).await?;
        let pod = lab::attachment(number, netns)?;
        dataplane.attach(&pod).await?;
        pods.push(pod);
        namespaces.push(namespace);
    }
    let first = &namespaces[0];
    run(first, &["ip", "-br", "address"])?;
    run(first, &["ip", "-6", "route"])?;
    for address in pods[1].addresses.iter() {
        run(first, &["ping", "-n", "-c", "1", "-W", "1", &address.to_string()])?;
    }

    for pod in &pods {
        dataplane.detach(pod).await?;
    }
    let links: Vec<Link> = pods.iter().map(Link::of).collect();
    dataplane.reap(&links).await?;
    println!("left over: {:?}", dataplane.list().await?);
    Ok(())
}

fn run(namespace: &lab::Namespace, program: &[&str]) -> Result<(), Box<dyn Error>> {
    println!("$ {}", program.join(" "));
    let enter = format!("--net={}", namespace.path());
    let status = Command::new("nsenter").arg(enter).args(program).status()?;
    if status.success() { Ok(()) } else { Err(format!("{program:?} ended with {status}").into()) }
}
