//! What was measured, to be shown at the end.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use flock_examples::cluster::Cluster;
use flock_examples::screen::Screen;
use flock_examples::{LabError, Result};

use crate::flock::ask_agent;

/// The agent's histogram of how long its answers took.
const DURATIONS: &str = "flock_request_duration_seconds_bucket{";

/// Lines in the order in which they were measured.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    lines: Vec<(String, String)>,
}

impl Measured {
    /// Adds a line.
    pub(crate) fn add(&mut self, what: impl Into<String>, value: impl Into<String>) {
        self.lines.push((what.into(), value.into()));
    }

    /// Adds a line with the median, the ninth tenth and the longest of some times.
    pub(crate) fn add_times(&mut self, what: impl Into<String>, mut times: Vec<Duration>) {
        times.sort();
        let at = |tenths: usize| times.get((times.len() * tenths / 10).min(times.len().saturating_sub(1)));
        let longest = times.last().copied().unwrap_or_default();
        let shown = |time: Option<&Duration>| {
            let time = time.copied().unwrap_or_default();
            if longest < Duration::from_secs(1) {
                format!("{} ms", time.as_millis())
            } else {
                format!("{:.1} s", time.as_secs_f64())
            }
        };
        let text = format!(
            "median {}, 90 % within {}, all {} within {}",
            shown(at(5)),
            shown(at(9)),
            times.len(),
            shown(times.last())
        );
        self.add(what, text);
    }

    /// Prints all of it, and leaves it in a file.
    pub(crate) fn show(&self, screen: &Screen, logs: &Path) {
        screen.heading("Measured");
        let lines: Vec<String> =
            self.lines.iter().map(|(what, value)| format!("  {what:<42} {value}")).collect();
        for line in &lines {
            screen.line(line);
        }
        let file = logs.join("measured.txt");
        if let Err(error) = fs::write(&file, lines.join("\n") + "\n") {
            screen.line(format!("  can't write {}: {error}", file.display()));
        }
    }
}

/// The agents' histogram of how long their answers to ADD took: upper bounds in seconds,
/// each with how many took no longer, of all nodes together.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AddDurations {
    buckets: Vec<(f64, f64)>,
}

impl AddDurations {
    /// As it is now.
    pub(crate) fn of(cluster: &Cluster) -> Result<Self> {
        let texts = cluster.machines.iter().map(|machine| ask_agent(cluster, machine, "/metrics"));
        let texts = texts.map(|answer| answer.map(|answer| answer.body)).collect::<Result<Vec<_>>>()?;
        let mut sums: Vec<(f64, f64)> = Vec::new();
        for (bound, count) in texts.iter().flat_map(|text| buckets(text, "ADD")) {
            match sums.iter_mut().find(|(known, _)| known.total_cmp(&bound).is_eq()) {
                Some((_, sum)) => *sum += count,
                None => sums.push((bound, count)),
            }
        }
        if sums.is_empty() {
            return Err(LabError::Unexpected(format!("no agent shows {DURATIONS}verb=\"ADD\"}}")));
        }
        sums.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        Ok(Self { buckets: sums })
    }

    /// What was added since an earlier look.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let both = self.buckets.iter().zip(&before.buckets);
        Self { buckets: both.map(|((bound, now), (_, then))| (*bound, now - then)).collect() }
    }

    /// The bound that this share of them is within.
    fn quantile(&self, share: f64) -> f64 {
        let total = self.buckets.last().map_or(0.0, |(_, count)| *count);
        let found = self.buckets.iter().find(|(_, count)| *count >= total * share);
        found.map_or(f64::INFINITY, |(bound, _)| *bound)
    }
}

impl fmt::Display for AddDurations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound = |share| self.quantile(share) * 1000.0;
        let count = self.buckets.last().map_or(0.0, |(_, count)| *count);
        if count == 0.0 {
            return f.write_str("none");
        }
        write!(f, "median within {} ms, 90 % within {} ms, of {count}", bound(0.5), bound(0.9))
    }
}

/// From `flock_request_duration_seconds_bucket{le="0.001",verb="ADD"} 12`.
fn buckets(text: &str, verb: &str) -> Vec<(f64, f64)> {
    let verb = format!("verb=\"{verb}\"");
    let lines = text.lines().filter(|line| line.starts_with(DURATIONS) && line.contains(&verb));
    lines
        .filter_map(|line| {
            let (_, after) = line.split_once("le=\"")?;
            let (bound, _) = after.split_once('"')?;
            let (_, count) = line.rsplit_once(' ')?;
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
            Some((bound, count.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_read() {
        let text = "\
flock_request_duration_seconds_bucket{le=\"0.001\",verb=\"ADD\"} 2
flock_request_duration_seconds_bucket{le=\"0.001\",verb=\"DEL\"} 9
flock_request_duration_seconds_bucket{verb=\"ADD\",le=\"+Inf\"} 4
";
        let durations = AddDurations { buckets: buckets(text, "ADD") };
        assert_eq!(durations.to_string(), "median within 1 ms, 90 % within inf ms, of 4");
        let earlier = AddDurations { buckets: vec![(0.001, 1.0), (f64::INFINITY, 3.0)] };
        assert_eq!(durations.since(&earlier).to_string(), "median within 1 ms, 90 % within 1 ms, of 1");
    }
}
