//! A BIRD that is absent, killed, or refuses.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use flock_bird::announcer::Status;
use flock_bird::{BirdAnnouncer, BirdConfig};
use flock_core::announcer::{AnnounceError, RouteAnnouncer as _};

use crate::lab::{Bird, Lab, Namespace, ROUTE_PROTOCOL, eventually, names_in, wanted};

#[tokio::test]
async fn a_bird_that_starts_later_starts_with_the_last_state() {
    let lab = Lab::new(&[]);
    lab.node.ip("route add blackhole 10.0.1.0/24 proto 70");
    lab.node.ip("route add 198.51.100.53/32 dev lo proto 70");
    let announcer = BirdAnnouncer::start(&lab.config()).unwrap();
    announcer.sync(&wanted(&[])).await.unwrap();
    let error = announcer.applied().await.unwrap_err();
    assert!(matches!(&error, AnnounceError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("bird.ctl"), "{error}");
    announcer.sync(&wanted(&["198.51.100.53"])).await.unwrap();
    announcer.applied().await.unwrap_err();

    let _bird = lab.start_bird();
    lab.router_has(&["10.0.1.0/24", "198.51.100.53/32"]).await;
    announcer.status().wait_for(|status| *status == Status::Applied { generation: 2 }).await.unwrap();
}

#[tokio::test]
async fn a_bird_that_was_killed_returns_with_the_state_that_came_meanwhile() {
    let lab = Lab::new(&[]);
    lab.node.ip("route add blackhole 10.0.1.0/24 proto 70");
    lab.node.ip("route add 198.51.100.53/32 dev lo proto 70");
    let (announcer, bird) = lab.announcing(&wanted(&[])).await;
    lab.router_has(&["10.0.1.0/24"]).await;
    bird.kill();
    announcer.sync(&wanted(&["198.51.100.53"])).await.unwrap();
    announcer.applied().await.unwrap_err();
    let bird = lab.start_bird();
    eventually("the session is up again", async || bird.is_established("peer_tor-v4").await).await;
    lab.router_has(&["10.0.1.0/24", "198.51.100.53/32"]).await;
    announcer.status().wait_for(|status| matches!(status, Status::Applied { .. })).await.unwrap();
}

#[tokio::test]
async fn a_refusing_bird_is_quoted_and_nothing_is_left_behind() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let initial = directory.path().join("initial.conf");
    fs::write(&initial, "router id 192.0.2.9; protocol device {}").unwrap();
    let closed = directory.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, Permissions::from_mode(0o700)).unwrap();

    // As where the file's group was forgotten: BIRD runs as another user and can't read it.
    let namespace = Namespace::new();
    let bird = Bird::start(&namespace, &initial, &["-u", "nobody", "-g", "nogroup"]);
    assert!(bird.ask("show status").await.is_success());
    let announcer = BirdAnnouncer::start(&BirdConfig {
        config_path: closed.join("bird.conf"),
        socket_path: initial.with_extension("ctl"),
        ..BirdConfig::new(ROUTE_PROTOCOL)
    })
    .unwrap();
    announcer.sync(&wanted(&[])).await.unwrap();
    let error = announcer.applied().await.unwrap_err();
    let message = format!("{}: Permission denied", closed.join("bird.conf").display());
    assert_eq!(error, AnnounceError::Refused { message });
    assert_eq!(names_in(&closed), BTreeSet::new());
    assert!(bird.ask("show status").await.lines().any(|line| line.text.contains("192.0.2.9")));
}

#[tokio::test]
async fn a_full_disk_leaves_the_last_good_file() {
    // Two pages: one file fits, a second one only if it is as small.
    let disk = Namespace::holding("--net --mount", "mount -t tmpfs -o size=8k flock-test /mnt");
    let directory = PathBuf::from(format!("/proc/{}/root/mnt", disk.pid()));
    let config = BirdConfig {
        config_path: directory.join("bird.conf"),
        socket_path: directory.join("bird.ctl"),
        ..BirdConfig::new(ROUTE_PROTOCOL)
    };
    let announcer = BirdAnnouncer::start(&config).unwrap();
    announcer.sync(&wanted(&[])).await.unwrap();
    announcer.applied().await.unwrap_err();
    let good = fs::read_to_string(&config.config_path).unwrap();

    let many: Vec<String> = (0..1_000).map(|n| format!("2001:db8:a::{n:x}")).collect();
    announcer.sync(&wanted(&many.iter().map(String::as_str).collect::<Vec<_>>())).await.unwrap();
    let error = announcer.applied().await.unwrap_err();
    assert!(matches!(&error, AnnounceError::Write { .. }), "{error}");
    assert!(error.to_string().contains("No space left on device"), "{error}");
    assert_eq!(fs::read_to_string(&config.config_path).unwrap(), good);
    assert_eq!(names_in(&directory), BTreeSet::from([PathBuf::from("bird.conf")]));
}
