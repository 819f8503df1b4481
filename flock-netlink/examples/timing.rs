//! How long attaching, detaching and reaping take, step by step.
//!
//! Run it as root: `cargo run --release -p flock-netlink --example timing`. It
//! works in a network namespace of its own.

use std::error::Error;
use std::fs::File;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use flock_core::attachment::{Addresses, Attachment, AttachmentKey, AttachmentState};
use flock_core::dataplane::{Dataplane, Link};
use flock_core::name::{ContainerId, InterfaceName, NetworkName};
use flock_netlink::NetlinkDataplane;

fn main() -> Result<(), Box<dyn Error>> {
    #[allow(deprecated)] // nothing here shares file descriptors with other threads
    rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET)?;
    Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
    tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build()?.block_on(measure())
}

async fn measure() -> Result<(), Box<dyn Error>> {
    const ROUNDS: usize = 60;
    let dataplane = NetlinkDataplane::new()?;
    dataplane.prepare().await?;
    let (mut attach, mut again, mut detach, mut reap) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut links = Vec::new();
    let mut threads = Vec::new();
    for round in 0..ROUNDS {
        let (file, thread) = namespace()?;
        threads.push(thread);
        let netns = dataplane.identify(file.as_ref()).await?;
        let key = AttachmentKey::new(ContainerId::new(format!("c{round}"))?, InterfaceName::new("eth0")?);
        let attachment = Attachment {
            host_interface: key.host_interface_candidates()[0].clone(),
            key,
            state: AttachmentState::Pending,
            network: NetworkName::new("flock")?,
            pod: None,
            pod_uid: None,
            netns,
            addresses: Addresses {
                ipv6: Some(format!("2001:db8:1::{round:x}").parse()?),
                ipv4: Some(format!("10.1.0.{}", round + 1).parse()?),
            },
            anycast: Vec::new(),
            mtu: 1500,
            boot_id: String::new(),
            created_ms: 0,
        };
        let start = Instant::now();
        dataplane.attach(&attachment).await?;
        attach.push(start.elapsed());
        let start = Instant::now();
        dataplane.attach(&attachment).await?;
        again.push(start.elapsed());
        let start = Instant::now();
        dataplane.detach(&attachment).await?;
        detach.push(start.elapsed());
        links.push(Link::of(&attachment));
    }
    for link in links.drain(..10) {
        let start = Instant::now();
        dataplane.reap(&[link]).await?;
        reap.push(start.elapsed());
    }
    let start = Instant::now();
    dataplane.reap(&links).await?;
    let batch = start.elapsed();
    print("attach", &mut attach);
    print("attach again", &mut again);
    print("detach", &mut detach);
    print("reap one", &mut reap);
    println!("{:14} {batch:>12.1?}", "reap fifty");
    Ok(())
}

fn print(what: &str, times: &mut [Duration]) {
    times.sort();
    let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)];
    println!("{what:14} {:>12.1?} median {:>12.1?} p90 {:>12.1?} p99", at(50), at(90), at(99));
}

/// A new namespace, kept alive by a thread that is in it.
fn namespace() -> Result<(String, File), Box<dyn Error>> {
    let made = thread::spawn(|| {
        #[allow(deprecated)]
        rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).ok()?;
        File::open("/proc/thread-self/ns/net").ok()
    });
    let file = made.join().ok().flatten().ok_or("no namespace")?;
    use std::os::fd::AsRawFd;
    Ok((format!("/proc/self/fd/{}", file.as_raw_fd()), file))
}
