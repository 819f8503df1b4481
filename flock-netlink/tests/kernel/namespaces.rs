//! Paths and names that somebody hostile has chosen: a path that names something else all the
//! time, and whatever the kernel takes for the name of an interface.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use flock_core::attachment::{Attachment, AttachmentKey, AttachmentState};
use flock_core::dataplane::conformance::wanted;
use flock_core::dataplane::{Dataplane, DataplaneError, Link};
use flock_core::name::InterfaceName;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::lab::{Lab, pod_interfaces, run, set_in_pod};

/// A look at a path opens nothing that could block, so this is never reached.
const LIMIT: Duration = Duration::from_secs(10);

fn fifo(path: &Path) -> &Path {
    mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap();
    path
}

/// The namespace of this thread, the node's.
fn own_namespace() -> PathBuf {
    fs::canonicalize("/proc/thread-self").unwrap().join("ns/net")
}

async fn identify(lab: &Lab, path: &Path) -> Result<flock_core::attachment::Netns, DataplaneError> {
    tokio::time::timeout(LIMIT, lab.dataplane.identify(path)).await.expect("the look at a path was blocked")
}

#[tokio::test]
async fn what_is_no_namespace_of_a_pod_is_refused_and_never_opened() {
    let lab = Lab::new();
    let (node, folder) = (own_namespace(), tempfile::tempdir().unwrap());
    let path = |name: &str| folder.path().join(name);
    File::create(path("file")).unwrap();
    fifo(&path("fifo"));
    for (name, target) in [
        ("to-file", path("file")),
        ("to-fifo", path("fifo")),
        ("to-device", "/dev/zero".into()),
        ("to-uts", "/proc/self/ns/uts".into()),
        ("to-mnt", "/proc/thread-self/ns/mnt".into()),
        ("to-node", node.clone()),
        ("to-itself", path("to-itself")),
        ("to-nothing", path("nothing")),
        ("to-folder", folder.path().to_owned()),
    ] {
        symlink(target, path(name)).unwrap();
    }
    let foreign = "it is not a namespace file, but one of another file system";
    let kind = "it is a namespace of another kind than network";
    for (name, expected) in [
        ("file", foreign),
        ("fifo", foreign),
        ("to-file", foreign),
        ("to-fifo", foreign),
        ("to-device", foreign),
        ("to-folder", foreign),
        ("to-folder/to-fifo", foreign),
        ("to-uts", kind),
        ("to-mnt", kind),
        ("to-node", "it is the node's own network namespace"),
        ("to-itself", "it can't be looked at: Too many levels of symbolic links"),
        ("to-nothing", "there is no such file"),
        ("file/..", "it can't be looked at: Not a directory"),
    ] {
        let error = identify(&lab, &path(name)).await.unwrap_err();
        assert!(matches!(error, DataplaneError::NotANamespace { .. }), "{name}: {error}");
        assert!(error.to_string().contains(expected), "{name}: {error}");
    }
}

/// As runtimes hand them over: links, and paths with dots, are no harm by themselves.
#[tokio::test]
async fn a_namespace_may_be_reached_by_a_link() {
    let lab = Lab::new();
    let attachment = wanted(&lab, 1).await;
    let folder = tempfile::tempdir().unwrap();
    symlink(&attachment.netns.path, folder.path().join("link")).unwrap();
    for path in [folder.path().join("link"), folder.path().join("../..").join(&attachment.netns.path)] {
        assert!(identify(&lab, &path).await.unwrap().is_same(&attachment.netns), "{}", path.display());
    }
}

/// What was looked at is what is entered, whatever the path names a moment later.
#[tokio::test]
async fn a_path_that_changes_all_the_time_leads_nowhere_else() {
    let lab = Lab::new();
    let good = wanted(&lab, 1).await;
    let other = wanted(&lab, 2).await;
    let folder = tempfile::tempdir().unwrap();
    let (path, next) = (folder.path().join("netns"), folder.path().join("next"));
    let targets = [
        good.netns.path.clone(),
        fifo(&folder.path().join("fifo")).to_owned(),
        other.netns.path.clone(),
        "/dev/zero".into(),
        good.netns.path.clone(),
        "/proc/self/ns/uts".into(),
        own_namespace(),
        folder.path().join("nothing"),
    ];
    symlink(&targets[0], &path).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let swapping = thread::spawn({
        let (path, stop) = (path.clone(), Arc::clone(&stop));
        move || {
            for target in targets.iter().cycle() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                symlink(target, &next).unwrap();
                fs::rename(&next, &path).unwrap();
            }
        }
    });
    let (mut led_to_good, mut refused) = (0_u32, 0_u32);
    let mut wandering = good.clone();
    wandering.netns.path.clone_from(&path);
    for round in 0..100_000 {
        match identify(&lab, &path).await {
            Ok(found) if found.is_same(&good.netns) => led_to_good += 1,
            Ok(found) => assert!(found.is_same(&other.netns), "{found:?} is neither of the pods"),
            Err(DataplaneError::NotANamespace { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
        if round % 100 == 0 {
            // The record names an inode, so nothing but that namespace is entered.
            match tokio::time::timeout(LIMIT, lab.dataplane.attach(&wandering)).await.expect("blocked") {
                Ok(())
                | Err(DataplaneError::NamespaceChanged { .. } | DataplaneError::NotANamespace { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        if round >= 5_000 && led_to_good > 100 && refused > 100 {
            break;
        }
    }
    stop.store(true, Ordering::Relaxed);
    swapping.join().unwrap();
    assert!(led_to_good > 0 && refused > 0, "the path did not change: {led_to_good} {refused}");
    // Nothing was made in the other pod, nor in the node beside the one link.
    assert_eq!(pod_interfaces(&other.netns.path), Vec::<String>::new());
    assert_eq!(lab.dataplane.list().await.unwrap().len(), 1);
}

fn named(attachment: &Attachment, name: &str) -> Attachment {
    let interface = InterfaceName::new(name).unwrap();
    let key = AttachmentKey::new(attachment.key.container.clone(), interface);
    let [_, host_interface] = key.host_interface_candidates();
    Attachment { key, host_interface, state: AttachmentState::Pending, ..attachment.clone() }
}

/// The kernel takes them as they are, and so does everything that Flock makes of them, such as
/// the path of a setting.
#[tokio::test]
async fn whatever_is_a_name_names_the_interface() {
    let lab = Lab::new();
    for (number, name) in
        ["-rf", "eth0.100", "...", "$(reboot)", "a'\"\\b;#", "~", "fifteen-bytes-x"].into_iter().enumerate()
    {
        let attachment = named(&wanted(&lab, u16::try_from(number).unwrap()).await, name);
        // Then a setting is written below /proc/sys/net/ipv6/conf/NAME.
        set_in_pod(&attachment.netns.path, "net.ipv6.conf.default.disable_ipv6", "1");
        lab.dataplane.attach(&attachment).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(pod_interfaces(&attachment.netns.path), [name]);
        assert_eq!(lab.drift(&attachment).await, [], "{name}");
        lab.dataplane.reap(&[Link::of(&attachment)]).await.unwrap();
        assert_eq!(pod_interfaces(&attachment.netns.path), Vec::<String>::new());
    }
    let attachment = named(&wanted(&lab, 100).await, "lo");
    let error = lab.dataplane.attach(&attachment).await.unwrap_err();
    assert!(error.to_string().starts_with("the interface lo already exists in "), "{error}");
    assert_eq!(lab.dataplane.list().await.unwrap(), []);
}

/// Why a name with a percent sign is none: the kernel would make another one of it.
#[tokio::test]
async fn the_kernel_makes_another_name_of_a_template() {
    let _lab = Lab::new();
    assert!(InterfaceName::new("eth%d").is_err());
    run(&["ip", "link", "add", "name", "eth%d", "type", "bridge"]);
    run(&["ip", "link", "show", "dev", "eth0"]);
}
