//! What becomes of the kernel's routes, without a gap between two looks.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::lab::{Namespace, eventually};

/// Listens to the kernel until it is dropped.
pub(crate) struct RouteWatch {
    monitor: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl RouteWatch {
    /// Begins; every later change of a route in the namespace is heard.
    pub(crate) async fn begin(namespace: &Namespace) -> Self {
        let mut command = namespace.command("ip");
        let mut monitor =
            command.args(["-oneline", "monitor", "route"]).stdout(Stdio::piped()).spawn().unwrap();
        let (lines, said) = (Arc::<Mutex<Vec<String>>>::default(), monitor.stdout.take().unwrap());
        let heard = Arc::clone(&lines);
        thread::spawn(move || {
            for line in BufReader::new(said).lines() {
                heard.lock().unwrap().push(line.unwrap());
            }
        });
        let watch = Self { monitor, lines };
        watch.hears(namespace, "198.18.0.1").await;
        watch
    }

    /// Makes a route and removes it until that is heard: whatever happened before was heard too.
    async fn hears(&self, namespace: &Namespace, marker: &str) {
        let heard = || self.lines.lock().unwrap().iter().any(|line| line.contains(marker));
        eventually("ip monitor to listen", async || {
            namespace.ip(&format!("route add blackhole {marker}/32 proto 99"));
            namespace.ip(&format!("route del blackhole {marker}/32 proto 99"));
            heard()
        })
        .await;
    }

    /// What was said of this destination since the beginning.
    pub(crate) async fn of(&self, namespace: &Namespace, destination: &str) -> Vec<String> {
        // Another one for each time, as the one before was heard already.
        let count = self.lines.lock().unwrap().len();
        let marker = format!("198.18.{}.{}", 1 + count / 200, count % 200);
        self.hears(namespace, &marker).await;
        let destination = destination.trim_end_matches("/32").trim_end_matches("/128");
        let lines = self.lines.lock().unwrap();
        let of = lines.iter().filter(|line| line.split_whitespace().any(|word| word == destination));
        of.cloned().collect()
    }

    /// Makes sure that these were there all the time; they may have been replaced in one step.
    pub(crate) async fn assert_kept(&self, namespace: &Namespace, destinations: &[&str]) {
        for destination in destinations {
            let said = self.of(namespace, destination).await;
            assert!(!said.iter().any(|line| line.starts_with("Deleted")), "{destination}: {said:?}");
        }
    }

    /// Makes sure that these were neither removed nor changed since the beginning.
    pub(crate) async fn assert_untouched(&self, namespace: &Namespace, destinations: &[&str]) {
        for destination in destinations {
            assert_eq!(self.of(namespace, destination).await, [""; 0], "{destination} was touched");
        }
    }
}

impl Drop for RouteWatch {
    fn drop(&mut self) {
        let _ = self.monitor.kill();
        let _ = self.monitor.wait();
    }
}
