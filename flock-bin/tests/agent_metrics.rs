//! What a scrape says, and that `docs/metrics.md` says the same.
#![cfg(feature = "agent")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use flock_bin::agent::metrics::{
    AddressFamily, AddressState, AttachmentState, BirdConfigurations, BirdResult, Code, Format, Metrics,
    Phase, Repair, Step, Verb, Watch,
};
use flock_bin::agent::readiness::Readiness;
use flock_bird::peers::{self, FamilyRoutes, PeerStatus, Peers};
use flock_bird::protocols::SessionState;
use flock_core::attachment::{self, Attachment, AttachmentKey, NodeCidrs};
use flock_core::clock::ManualClock;
use flock_core::cni;
use flock_core::drain::DrainPhase;
use flock_core::handler::{QueuedDeletions, Recovery};
use flock_core::ipam::{AddressRequest, FamilyRequest, Ipam, LeaseOwner, MemoryIpam};
use flock_core::store::conformance::{attachment, key};
use flock_core::store::{MemoryStore, Store, StoreError};
use tokio::sync::watch;

fn ready() -> Metrics {
    Metrics::new(watch::channel(Readiness::Ready).1)
}

async fn ipam(ipv6: Option<&str>, ipv4: Option<&str>) -> Arc<MemoryIpam> {
    let ipam = MemoryIpam::new(Arc::new(ManualClock::new()), Duration::from_secs(60), 0);
    let cidrs = NodeCidrs {
        ipv6: ipv6.map(|cidr| cidr.parse().unwrap()),
        ipv4: ipv4.map(|cidr| cidr.parse().unwrap()),
    };
    let own: &[IpAddr] = &[];
    ipam.configure(cidrs, own).await.unwrap();
    Arc::new(ipam)
}

/// With routes of one family.
fn peer(name: &str, state: SessionState) -> PeerStatus {
    PeerStatus {
        name: name.to_owned(),
        address: None,
        asn: Some(64500),
        state,
        since: None,
        families: vec![FamilyRoutes { family: peers::Family::Ipv6, received: 7, advertised: 2 }],
        last_error: None,
    }
}

/// Every metric with every label, at least once.
async fn everything() -> Metrics {
    let metrics = ready();
    metrics.request(Verb::Add, Code::Success, Duration::from_millis(3));
    metrics.step(Verb::Add, Step::Kernel, Duration::from_millis(2));
    metrics.step_failed(Verb::None, Step::Kernel);
    metrics.started(Duration::from_millis(450));
    metrics.bird_configurations(BirdConfigurations::default);
    metrics.watch_restarts(Watch::Pods, || 0);
    metrics.watch_restarts(Watch::NodeConfig, || 0);
    metrics.watch_restarts(Watch::Node, || 0);
    metrics.queued_deletions(QueuedDeletions::default);
    metrics.events_dropped(|| 0);
    metrics.collected(|| 0);
    metrics.drain(|| None);
    metrics.bgp(watch::channel(Peers::Known(vec![peer("tor1", SessionState::Active)])).1);
    metrics.observe(ipam(Some("2001:db8:1::/64"), Some("10.0.1.0/24")).await, Arc::new(MemoryStore::new()));
    metrics
}

async fn scrape(metrics: &Metrics) -> String {
    metrics.scrape(Format::Prometheus).await.unwrap()
}

/// The samples of a metric, sorted.
async fn samples(metrics: &Metrics, name: &str) -> Vec<String> {
    let text = scrape(metrics).await;
    let mut samples: Vec<String> =
        text.lines().filter_map(|line| line.strip_prefix(name)).map(str::to_owned).collect();
    samples.sort();
    samples
}

/// The same by labels, with values as a scraper reads them.
async fn values(metrics: &Metrics, name: &str) -> BTreeMap<String, f64> {
    let samples = samples(metrics, name).await;
    let values = samples.iter().map(|sample| {
        let (labels, value) = sample.rsplit_once(' ').unwrap();
        (labels.to_owned(), value.parse().unwrap())
    });
    values.collect()
}

#[tokio::test]
async fn addresses_are_counted_also_where_there_are_more_than_an_integer_holds() {
    let metrics = ready();
    let ipam = ipam(Some("2001:db8:1::/64"), Some("10.0.1.0/24")).await;
    metrics.observe(ipam.clone(), Arc::new(MemoryStore::new()));
    let owner = LeaseOwner { key: key("0a1b", "eth0"), pod: None };
    let request =
        AddressRequest { ipv6: FamilyRequest::Any, ipv4: FamilyRequest::Any, ..AddressRequest::default() };
    ipam.allocate(&owner, &request).await.unwrap();
    let expected = [
        (r#"{family="ipv4",state="free"}"#, 253.0),
        (r#"{family="ipv4",state="in_use"}"#, 1.0),
        (r#"{family="ipv4",state="resting"}"#, 0.0),
        // Less two, for which a double has no room.
        (r#"{family="ipv6",state="free"}"#, 2_f64.powi(64)),
        (r#"{family="ipv6",state="in_use"}"#, 1.0),
        (r#"{family="ipv6",state="resting"}"#, 0.0),
    ];
    let expected = expected.map(|(labels, value)| (labels.to_owned(), value));
    assert_eq!(values(&metrics, "flock_addresses").await, expected.into());
}

#[tokio::test]
async fn a_family_without_a_prefix_is_absent() {
    let metrics = ready();
    let ipam = ipam(Some("2001:db8::/32"), None).await;
    metrics.observe(ipam, Arc::new(MemoryStore::new()));
    let expected = [
        (r#"{family="ipv6",state="free"}"#, 2_f64.powi(96)),
        (r#"{family="ipv6",state="in_use"}"#, 0.0),
        (r#"{family="ipv6",state="resting"}"#, 0.0),
    ];
    let expected = expected.map(|(labels, value)| (labels.to_owned(), value));
    assert_eq!(values(&metrics, "flock_addresses").await, expected.into());
}

#[tokio::test]
async fn attachments_are_counted_by_state() {
    let metrics = ready();
    assert_eq!(samples(&metrics, "flock_attachments").await, [""; 0], "nobody was asked yet");
    let store = Arc::new(MemoryStore::new());
    for (number, state) in [
        (1, attachment::AttachmentState::Committed),
        (2, attachment::AttachmentState::Committed),
        (3, attachment::AttachmentState::Deleting),
    ] {
        let container = format!("pod{number}");
        store.put(&Attachment { state, ..attachment(&container, "eth0", number) }).await.unwrap();
    }
    metrics.observe(ipam(None, None).await, store);
    assert_eq!(
        samples(&metrics, "flock_attachments").await,
        [r#"{state="committed"} 2.0"#, r#"{state="deleting"} 1.0"#, r#"{state="pending"} 0.0"#]
    );
}

#[tokio::test]
async fn what_was_repaired_adds_up() {
    let metrics = ready();
    metrics.recovered(&Recovery { repaired: 2, orphans: 1, ..Recovery::default() });
    metrics.repaired(Repair::Mended, 1);
    assert_eq!(
        samples(&metrics, "flock_repairs_total").await,
        [
            r#"{kind="disturbed"} 0"#,
            r#"{kind="mended"} 3"#,
            r#"{kind="node"} 0"#,
            r#"{kind="orphan"} 1"#,
            r#"{kind="other_boot"} 0"#,
            r#"{kind="salvaged"} 0"#,
            r#"{kind="undone"} 0"#,
        ]
    );
}

#[tokio::test]
async fn readiness_is_followed() {
    let (readiness, receiver) = watch::channel(Readiness::waiting_for("NodeConfig host001"));
    let metrics = Metrics::new(receiver);
    assert_eq!(samples(&metrics, "flock_ready").await, [" 0.0"]);
    assert_eq!(samples(&metrics, "flock_start_duration_seconds").await, [""; 0]);
    readiness.send_replace(Readiness::Ready);
    metrics.started(Duration::from_millis(450));
    assert_eq!(samples(&metrics, "flock_ready").await, [" 1.0"]);
    assert_eq!(samples(&metrics, "flock_start_duration_seconds").await, [" 0.45"]);
    readiness.send_replace(Readiness::Stopping);
    assert_eq!(samples(&metrics, "flock_ready").await, [" 0.0"]);
}

#[tokio::test]
async fn what_others_count_is_read_at_the_scrape() {
    let metrics = ready();
    let restarts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&restarts);
    metrics.watch_restarts(Watch::Pods, move || u64::try_from(counted.load(Ordering::Relaxed)).unwrap());
    metrics.bird_configurations(|| BirdConfigurations { applied: 3, refused: 2, failed: 1 });
    restarts.store(7, Ordering::Relaxed);
    assert_eq!(samples(&metrics, "flock_watch_restarts_total").await, [r#"{watch="pods"} 7"#]);
    assert_eq!(
        samples(&metrics, "flock_bird_configurations_total").await,
        [r#"{result="applied"} 3"#, r#"{result="failed"} 1"#, r#"{result="refused"} 2"#]
    );
}

/// What BIRD said before it fell silent is not shown as if it still were so.
#[tokio::test]
async fn sessions_are_shown_while_bird_answers() {
    let metrics = ready();
    let (bird, peers) = watch::channel(Peers::Unknown);
    metrics.bgp(peers);
    assert_eq!(samples(&metrics, "flock_bird_up").await, [""; 0]);
    bird.send_replace(Peers::Known(vec![
        peer("tor1", SessionState::Established),
        peer("tor2", SessionState::OpenConfirm),
    ]));
    assert_eq!(samples(&metrics, "flock_bird_up").await, [" 1"]);
    let up = samples(&metrics, "flock_bgp_session_up").await;
    assert_eq!(up, [r#"{peer="tor1"} 1"#, r#"{peer="tor2"} 0"#]);
    let received = samples(&metrics, "flock_bgp_prefixes_received").await;
    assert_eq!(received, [r#"{peer="tor1",family="ipv6"} 7"#, r#"{peer="tor2",family="ipv6"} 7"#]);
    let advertised = samples(&metrics, "flock_bgp_prefixes_advertised").await;
    assert_eq!(advertised, [r#"{peer="tor1",family="ipv6"} 2"#, r#"{peer="tor2",family="ipv6"} 2"#]);
    let error = flock_bird::control::ControlError::Timeout {
        socket: "bird.ctl".into(),
        after: Duration::from_secs(5),
    };
    bird.send_replace(Peers::Away(error.into()));
    assert_eq!(samples(&metrics, "flock_bird_up").await, [" 0"]);
    assert_eq!(samples(&metrics, "flock_bgp").await, [""; 0]);
}

/// The process is this one, so that its numbers can be told from nonsense.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_process_measures_itself() {
    let metrics = ready();
    let one = async |name: &str| -> f64 {
        let samples = samples(&metrics, name).await;
        assert_eq!(samples.len(), 1, "{name}: {samples:?}");
        samples[0].trim().parse().unwrap()
    };
    let megabytes = one("process_resident_memory_bytes").await / 1e6;
    assert!((1.0..10_000.0).contains(&megabytes), "{megabytes} MB");
    let before = one("process_open_fds").await;
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(one("process_open_fds").await > before - 1.0 && before >= 3.0, "{before} open");
    drop(file);
    assert!((0.0..10_000.0).contains(&one("process_cpu_seconds_total").await));
    // Between 2020 and 2100.
    assert!((1.58e9..4.1e9).contains(&one("process_start_time_seconds").await));
}

/// A store that is looked at and may never answer.
#[derive(Debug, Default)]
struct Watched {
    lists: AtomicUsize,
    hangs: bool,
}

#[async_trait]
impl Store for Watched {
    async fn put(&self, _: &Attachment) -> Result<(), StoreError> {
        Ok(())
    }

    async fn get(&self, _: &AttachmentKey) -> Result<Option<Attachment>, StoreError> {
        Ok(None)
    }

    async fn delete(&self, _: &AttachmentKey) -> Result<(), StoreError> {
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Attachment>, StoreError> {
        self.lists.fetch_add(1, Ordering::Relaxed);
        if self.hangs { std::future::pending().await } else { Ok(Vec::new()) }
    }
}

#[tokio::test(start_paused = true)]
async fn many_scrapes_are_no_load() {
    let metrics = ready();
    let store = Arc::new(Watched::default());
    metrics.observe(ipam(None, Some("10.0.1.0/24")).await, store.clone());
    for _ in 0..10 {
        scrape(&metrics).await;
    }
    assert_eq!(store.lists.load(Ordering::Relaxed), 1);
    tokio::time::advance(Duration::from_secs(1)).await;
    scrape(&metrics).await;
    assert_eq!(store.lists.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_hangs_is_left_out() {
    let metrics = ready();
    let store = Arc::new(Watched { hangs: true, ..Watched::default() });
    metrics.observe(ipam(None, Some("10.0.1.0/24")).await, store);
    assert_eq!(samples(&metrics, "flock_attachments").await, [""; 0]);
    assert_eq!(samples(&metrics, "flock_addresses").await.len(), 3);
}

#[test]
fn every_cni_code_has_a_label_value_of_its_own() {
    for code in Code::ALL.iter().filter(|code| **code != Code::Other && **code != Code::Success) {
        let number = cni::Code(code.as_str().parse().unwrap());
        assert_eq!(Code::from(number), *code);
    }
    assert_eq!(Code::from(cni::Code(999)), Code::Other);
}

/// Names, types and labels as they are written.
#[derive(Debug, Default, PartialEq, Eq)]
struct Described {
    kind: String,
    labels: BTreeSet<String>,
}

fn described(text: &str) -> BTreeMap<String, Described> {
    let mut all = BTreeMap::<String, Described>::new();
    for line in text.lines() {
        if let Some(line) = line.strip_prefix("# TYPE ") {
            let (name, kind) = line.split_once(' ').unwrap();
            all.insert(name.to_owned(), Described { kind: kind.to_owned(), ..Described::default() });
        } else if !line.starts_with('#') {
            let (name, rest) = line.split_at(line.find(['{', ' ']).unwrap());
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| {
                name.strip_suffix(suffix)
                    .filter(|name| all.get(*name).is_some_and(|one| one.kind == "histogram"))
            });
            let one = all.get_mut(family.unwrap_or(name)).unwrap_or_else(|| panic!("no type: {line}"));
            let labels = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(l, _)| l);
            let labels = labels.split(',').filter_map(|label| label.split_once('=')).map(|(name, _)| name);
            one.labels.extend(labels.filter(|label| *label != "le").map(str::to_owned));
        }
    }
    all
}

/// The cells of each row of the table with this header.
fn table<'a>(document: &'a str, header: &str) -> Vec<Vec<&'a str>> {
    let mut lines = document.lines().skip_while(|line| *line != header);
    assert!(lines.next().is_some(), "docs/metrics.md has no table {header}");
    lines
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

const DOCUMENT: &str = include_str!("../../docs/metrics.md");

#[tokio::test]
async fn the_documentation_lists_every_metric_and_no_other() {
    let documented: BTreeMap<String, Described> = table(DOCUMENT, "| name | type | labels | meaning |")
        .iter()
        .map(|row| {
            let labels = quoted(row[2]).into_iter().map(str::to_owned).collect();
            (quoted(row[0])[0].to_owned(), Described { kind: row[1].to_owned(), labels })
        })
        .collect();
    let metrics = everything().await;
    let written = described(&scrape(&metrics).await);
    assert_eq!(documented, written);
}

#[tokio::test]
async fn the_documentation_lists_every_label_value_and_no_other() {
    fn texts<T: Copy>(all: &[T], text: fn(T) -> &'static str) -> Vec<&'static str> {
        all.iter().map(|value| text(*value)).collect()
    }
    let states = [
        ("flock_addresses", texts(AddressState::ALL, AddressState::as_str)),
        ("flock_attachments", texts(AttachmentState::ALL, AttachmentState::as_str)),
    ];
    let metrics = everything().await;
    let written = described(&scrape(&metrics).await);
    let mut documented = BTreeSet::new();
    for row in table(DOCUMENT, "| label | of | values |") {
        let (label, of, values) = (quoted(row[0])[0], quoted(row[1]), quoted(row[2]));
        let expected = match label {
            "verb" => texts(Verb::ALL, Verb::as_str),
            "code" => texts(Code::ALL, Code::as_str),
            "step" => texts(Step::ALL, Step::as_str),
            "family" => texts(AddressFamily::ALL, AddressFamily::as_str),
            "kind" => texts(Repair::ALL, Repair::as_str),
            "result" => texts(BirdResult::ALL, BirdResult::as_str),
            "phase" => texts(Phase::ALL, Phase::as_str),
            "watch" => texts(Watch::ALL, Watch::as_str),
            "state" => states.iter().find(|(name, _)| of == [*name]).unwrap().1.clone(),
            other => panic!("no metric has a label {other}"),
        };
        assert_eq!(values, expected, "{label}");
        documented.extend(of.into_iter().map(|name| (name.to_owned(), label.to_owned())));
    }
    let all: BTreeSet<_> = written
        .into_iter()
        .flat_map(|(name, one)| one.labels.into_iter().map(move |label| (name.clone(), label)))
        // Whatever Cargo.toml and the NodeConfig say.
        .filter(|(_, label)| label != "version" && label != "peer")
        .collect();
    assert_eq!(documented, all);
}

/// OpenMetrics wants base units, in the name (specification 1.0.0, "Units and Base Units").
#[tokio::test]
async fn both_formats_say_the_same() {
    let metrics = everything().await;
    let text = metrics.scrape(Format::OpenMetrics).await.unwrap();
    // Limits of buckets are written differently, and a scraper knows.
    let series = |text: &str| -> BTreeSet<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.contains("_bucket{"));
        lines.map(|line| line[..line.rfind(' ').unwrap()].to_owned()).collect()
    };
    assert_eq!(series(&text), series(&scrape(&metrics).await));
    assert!(text.ends_with("# EOF\n"));
    assert!(text.contains("# UNIT flock_request_duration_seconds seconds\n"), "{text}");
}

/// Prometheus refuses a scrape that says a series twice.
#[tokio::test]
async fn no_line_is_written_twice() {
    let metrics = everything().await;
    let text = scrape(&metrics).await;
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        let series = line.rfind(' ').map_or(line, |at| &line[..at]);
        assert!(seen.insert(series), "{line}");
    }
}

#[tokio::test]
async fn the_phase_of_a_drain_is_one_of_them_or_none() {
    let metrics = ready();
    let now = Arc::new(std::sync::Mutex::new(None));
    let read = Arc::clone(&now);
    metrics.drain(move || *read.lock().unwrap());
    for (phase, expected) in
        [(None, [0, 0]), (Some(DrainPhase::Marked), [1, 0]), (Some(DrainPhase::Withdrawn), [0, 1])]
    {
        *now.lock().unwrap() = phase;
        let [marked, withdrawn] = expected;
        assert_eq!(
            samples(&metrics, "flock_drain").await,
            [format!(r#"{{phase="marked"}} {marked}"#), format!(r#"{{phase="withdrawn"}} {withdrawn}"#)]
        );
    }
}
