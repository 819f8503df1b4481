//! What is shown, each in a module of its own.

use std::fs;
use std::path::Path;

use flock_examples::screen::Screen;

use crate::options::Options;
use crate::pod::delete_all;
use crate::{Lab, Step};

mod annotations;
mod anycast;
mod api_away;
mod chained;
mod crowd;
mod drain;
mod install;
mod node_config;
mod overlays;
mod reach;
mod seen;
mod uninstall;
mod upgrade;

type Play = fn(&Screen, &mut Lab) -> Step<()>;

/// In this order. The first one is always played: all others need what it installs.
const ALL: [(&str, &str, Play); 14] = [
    ("install", "Flock by its manifests", install::play),
    ("reach", "Everyone reaches everyone", reach::play),
    ("annotations", "What pods ask for by annotations", annotations::play),
    ("anycast", "An address that is served from both nodes", anycast::play),
    ("chained", "hostPort and bandwidth, by the plugins that are chained", chained::play),
    ("seen", "Seen from outside: probes and metrics", seen::play),
    ("agent-upgrade", "An upgrade of the agent under traffic", upgrade::agent),
    ("bird-upgrade", "An upgrade of BIRD under traffic", upgrade::bird),
    ("node-config", "A NodeConfig that is wrong, and one that changes", node_config::play),
    ("drain", "A node that leaves in order", drain::play),
    ("crowd", "A hundred pods at once, three times", crowd::play),
    ("api-away", "The API server is away", api_away::play),
    ("overlays", "Other ways to install it", overlays::play),
    ("uninstall", "Installed again, and taken away", uninstall::play),
];

/// How it went.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
}

/// Plays what is wanted, one after the other.
pub(crate) fn play(screen: &Screen, lab: &mut Lab, options: &Options) -> Tally {
    let mut tally = Tally::default();
    for (place, (name, title, scenario)) in ALL.iter().enumerate() {
        if place > 0 && !options.wants(name) {
            continue;
        }
        screen.heading(title);
        let outcome = scenario(screen, lab);
        let failed = outcome.is_err();
        if let Err(failure) = outcome {
            screen.failure(&failure);
            picture(screen, lab, name, &format!("{}: {}", failure.step, failure.error));
            // Nothing can work on what is not installed.
            if place == 0 {
                return Tally { failed: 1, ..tally };
            }
        }
        let left = delete_all(&lab.cluster);
        if let Err(error) = &left {
            screen.line(format!("  ✗ the pods of this scenario do not go: {error}"));
            picture(screen, lab, &format!("{name}-end"), &error.to_string());
        }
        let good = !failed && left.is_ok();
        tally.passed += usize::from(good);
        tally.failed += usize::from(!good);
    }
    tally
}

/// The scenarios' names, as `--only` knows them.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|(name, ..)| *name)
}

fn picture(screen: &Screen, lab: &Lab, name: &str, error: &str) {
    let file = lab.materials.logs.join(format!("{name}.failed"));
    fs::write(&file, format!("{error}\n\n{}", look(lab))).ok();
    screen.line(format!("    how things stood: {}", file.display()));
}

/// What one would look at first.
fn look(lab: &Lab) -> String {
    let mut text = String::new();
    for command in [
        &["get", "nodes,nodeconfigs,pods,daemonsets,services", "-A", "-o", "wide"][..],
        &["get", "events", "-A", "--sort-by=.metadata.creationTimestamp"],
        &["describe", "pods", "-n", "default"],
        &["describe", "nodeconfigs"],
        &["-n", crate::flock::NAMESPACE, "logs", "-l", "app.kubernetes.io/component=agent", "--tail=60"],
        &["-n", crate::flock::NAMESPACE, "logs", "-l", "app.kubernetes.io/component=bird", "--tail=60"],
    ] {
        let said = lab.cluster.kubectl(command).unwrap_or_else(|error| error.to_string());
        text += &format_section(&command.join(" "), &said);
    }
    for machine in &lab.cluster.machines {
        for arguments in [&["address"][..], &["route"], &["-6", "route"]] {
            let said = machine.netns.ip(arguments).unwrap_or_else(|error| error.to_string());
            text += &format_section(&format!("{}: ip {}", machine.name(), arguments.join(" ")), &said);
        }
        let file = machine.path("/etc/flock/bird/bird.conf");
        text += &format_section(&file.display().to_string(), &read(&file));
    }
    for question in ["show protocols", "show route"] {
        let said = lab.cluster.router.bird.query(question).unwrap_or_else(|error| error.to_string());
        text += &format_section(&format!("router: {question}"), &said);
    }
    text
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| error.to_string())
}

fn format_section(title: &str, said: &str) -> String {
    format!("=== {title}\n{said}\n")
}
