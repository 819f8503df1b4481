//! How long the allocator takes, and that it does not depend on how full it is.
//!
//! `cargo bench -p flock-core --bench ipam`, or with `-- --quick` a smaller run
//! of about a second.
#![allow(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flock_core::attachment::{AttachmentKey, NodeCidrs};
use flock_core::clock::SystemClock;
use flock_core::ipam::{AddressRequest, Algorithm, FamilyRequest, Ipam, IpamError, LeaseOwner, MemoryIpam};
use flock_core::name::{ContainerId, InterfaceName, PodKey};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// So many calls are timed together.
const CHUNK: u64 = 1000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    if std::env::args().any(|argument| argument == "--list") {
        // A test runner asks which tests there are: none.
        return Ok(());
    }
    let quick = std::env::args().any(|argument| argument == "--quick");
    let (leases, prefix4, churns) =
        if quick { (50_000, "10.0.0.0/20", 10_000) } else { (1_000_000, "10.0.0.0/16", 200_000) };
    let algorithms = [Algorithm::Sequential, Algorithm::Random, Algorithm::Stable];

    println!("{:<44} {:>12} {:>12} {:>12}", "time of one call", "first 1000", "last 1000", "median");
    for algorithm in algorithms {
        let ipam = ipam(NodeCidrs { ipv6: Some("2001:db8:1::/64".parse()?), ipv4: None }).await?;
        let request = AddressRequest { ipv6: FamilyRequest::Any, ipv4: FamilyRequest::None, algorithm };
        let before = resident_bytes();
        let times = fill(&ipam, leases, &request).await?;
        print_times(&format!("allocate {leases} in a /64, {algorithm:?}"), &times);
        // Later fills use the memory again that this one has given back.
        if algorithm == Algorithm::Sequential
            && let Some((before, after)) = before.zip(resident_bytes())
        {
            println!(
                "{:<44} {:>38} B",
                "  resident memory for each lease",
                after.saturating_sub(before) / leases
            );
        }
    }
    for algorithm in algorithms {
        let (ipam, request, times) = full(prefix4, algorithm).await?;
        print_times(&format!("fill {prefix4}, {algorithm:?}"), &times);
        print_times("  release and allocate, one address free", &churn(&ipam, churns, &request).await?);
        print_times("  be refused, none free", &refuse(&ipam, churns, &request).await?);
    }
    Ok(())
}

async fn ipam(cidrs: NodeCidrs) -> Outcome<MemoryIpam> {
    let ipam = MemoryIpam::new(Arc::new(SystemClock), Duration::ZERO, 1);
    ipam.configure(cidrs, &[]).await?;
    Ok(ipam)
}

async fn full(prefix: &str, algorithm: Algorithm) -> Outcome<(MemoryIpam, AddressRequest, Vec<Duration>)> {
    let ipam = ipam(NodeCidrs { ipv6: None, ipv4: Some(prefix.parse()?) }).await?;
    let size = ipam.usage().await?.first().map_or(0, |usage| usage.size);
    let request = AddressRequest { ipv6: FamilyRequest::None, ipv4: FamilyRequest::Any, algorithm };
    let times = fill(&ipam, u64::try_from(size)?, &request).await?;
    Ok((ipam, request, times))
}

/// The mean time of one call, for each chunk.
async fn fill(ipam: &MemoryIpam, count: u64, request: &AddressRequest) -> Outcome<Vec<Duration>> {
    let mut times = Vec::new();
    for first in (0..count).step_by(usize::try_from(CHUNK)?) {
        // The names are made outside of what is timed.
        let owners = (first..count.min(first + CHUNK)).map(owner).collect::<Outcome<Vec<_>>>()?;
        let start = Instant::now();
        for owner in &owners {
            ipam.allocate(owner, request).await?;
        }
        times.push(start.elapsed() / u32::try_from(owners.len())?);
    }
    Ok(times)
}

/// One owner after the other gives its address back, and asks for one: the only one there is.
async fn churn(ipam: &MemoryIpam, count: u64, request: &AddressRequest) -> Outcome<Vec<Duration>> {
    let mut times = Vec::new();
    let owners = (0..CHUNK).map(owner).collect::<Outcome<Vec<_>>>()?;
    for _ in 0..count / CHUNK {
        let start = Instant::now();
        for owner in &owners {
            ipam.release(&owner.key).await?;
            ipam.allocate(owner, request).await?;
        }
        times.push(start.elapsed() / u32::try_from(CHUNK)?);
    }
    Ok(times)
}

async fn refuse(ipam: &MemoryIpam, count: u64, request: &AddressRequest) -> Outcome<Vec<Duration>> {
    let mut times = Vec::new();
    let late = owner(u64::MAX)?;
    for _ in 0..count / CHUNK {
        let start = Instant::now();
        for _ in 0..CHUNK {
            match ipam.allocate(&late, request).await {
                Err(IpamError::Exhausted(_)) => {}
                other => return Err(format!("expected that nothing is free, got {other:?}").into()),
            }
        }
        times.push(start.elapsed() / u32::try_from(CHUNK)?);
    }
    Ok(times)
}

/// Names as long as those of real containers and pods.
fn owner(n: u64) -> Outcome<LeaseOwner> {
    let key = AttachmentKey::new(ContainerId::new(format!("{n:064x}"))?, InterfaceName::new("eth0")?);
    Ok(LeaseOwner { key, pod: Some(PodKey::new("default", format!("web-{n:x}"))?) })
}

fn print_times(what: &str, times: &[Duration]) {
    let [first, last] = [times.first(), times.last()].map(|time| time.copied().unwrap_or_default());
    // Other work on the machine makes single chunks slow; the median shows what the calls cost.
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
    let [first, last, median] = [first, last, median].map(|time| format!("{} ns", time.as_nanos()));
    println!("{what:<44} {first:>12} {last:>12} {median:>12}");
}

/// Of this process, where the system tells it in this way.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
