//! The table, and what of the targets is reached.

use std::fmt;
use std::time::Duration;

use super::series::{Series, Turn};
use super::{AT_ONCE, AgentNumbers, BgpNumbers, Binary};

/// Everything that was measured. Displays as what `make bench` prints.
#[derive(Debug, Clone)]
pub struct Report {
    /// What it was measured on.
    pub machine: String,
    /// ADD and DEL.
    pub rows: Vec<Row>,
    /// Memory and start.
    pub agent: AgentNumbers,
    /// BGP.
    pub bgp: BgpNumbers,
    /// Sizes.
    pub binaries: Vec<Binary>,
}

/// One contender, called in one way.
#[derive(Debug, Clone)]
pub struct Row {
    /// Who.
    pub name: &'static str,
    /// How many calls at a time.
    pub at_once: usize,
    /// Of ADD.
    pub add: Series,
    /// Of DEL.
    pub del: Series,
}

impl Row {
    pub(super) fn new(name: &'static str, at_once: usize) -> Self {
        Self { name, at_once, add: Series::default(), del: Series::default() }
    }

    pub(super) fn take(&mut self, turn: Turn) {
        self.add.append(turn.add);
        self.del.append(turn.del);
    }
}

/// One line of the targets.
pub(super) struct Target {
    pub(super) what: &'static str,
    pub(super) wanted: String,
    pub(super) measured: String,
    pub(super) is_reached: bool,
}

impl Report {
    fn row(&self, name: &str, at_once: usize) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name && row.at_once == at_once)
    }

    fn targets(&self) -> Option<Vec<Target>> {
        let single = |name| self.row(name, 1);
        let (flock, bridge, floor) = (single("Flock")?, single("bridge + host-local")?, single("floor")?);
        let (many, many_bridge) = (self.row("Flock", AT_ONCE)?, self.row("bridge + host-local", AT_ONCE)?);
        let ratio =
            |of: &Series, to: &Series| of.percentile(50).as_secs_f64() / to.percentile(50).as_secs_f64();
        let at_most = |what, limit: f64, of: &str, measured: f64| Target {
            what,
            wanted: format!("at most {limit} of {of}"),
            measured: format!("{measured:.2}"),
            is_reached: measured <= limit,
        };
        let rate = many.add.per_second() / many_bridge.add.per_second();
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
        let mib = self.agent.loaded_kib.max(self.agent.restarted_kib) as f64 / 1024.0;
        let plugin = self.binaries.first()?;
        let start = self.agent.start.as_secs_f64();
        let mut targets = vec![
            at_most("ADD, one at a time, median", 0.35, "bridge", ratio(&flock.add, &bridge.add)),
            at_most("ADD, one at a time, median", 2.0, "the floor", ratio(&flock.add, &floor.add)),
            at_most("DEL, one at a time, median", 0.10, "bridge", ratio(&flock.del, &bridge.del)),
            Target {
                what: "ADD, 16 at a time, pods per second",
                wanted: "at least 3 times bridge".to_owned(),
                measured: format!("{rate:.1}"),
                is_reached: rate >= 3.0,
            },
            Target {
                what: "agent, resident memory",
                wanted: "at most 20 MiB with 250 attachments".to_owned(),
                measured: format!("{mib:.1} MiB with {}", self.agent.attachments),
                is_reached: mib <= 20.0,
            },
            Target {
                what: "plugin",
                wanted: "static, at most 1.5 MiB".to_owned(),
                measured: format!(
                    "{}, {:.2} MiB",
                    if plugin.is_static { "static" } else { "not static" },
                    mebibytes(plugin.size)
                ),
                is_reached: plugin.is_static && mebibytes(plugin.size) <= 1.5,
            },
            Target {
                what: "start until ADD is served",
                wanted: "at most 1 s with 1000 records".to_owned(),
                measured: format!("{start:.2} s with {}", self.agent.records),
                is_reached: start <= 1.0,
            },
        ];
        targets.extend(self.bgp.targets());
        Some(targets)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        writeln!(f, "Milliseconds from the start of the process to its end; dual-stack.\n")?;
        writeln!(
            f,
            "{:24} {:>4}  {:>8}{:>8}{:>8}{:>8}  {:>8}{:>8}{:>8}{:>8}  {:>5}",
            "", "at a", "ADD", "", "", "pods", "DEL", "", "", "pods", ""
        )?;
        writeln!(
            f,
            "{:24} {:>4}  {:>8}{:>8}{:>8}{:>8}  {:>8}{:>8}{:>8}{:>8}  {:>5}",
            "", "time", "median", "p90", "p99", "per s", "median", "p90", "p99", "per s", "calls"
        )?;
        for row in &self.rows {
            write!(f, "{:24} {:>4}", row.name, row.at_once)?;
            for series in [&row.add, &row.del] {
                write!(f, "  ")?;
                for percent in [50, 90, 99] {
                    write!(f, "{:>8}", milliseconds(series.percentile(percent)))?;
                }
                write!(f, "{:>8.1}", series.per_second())?;
            }
            writeln!(f, "  {:>5}", row.add.count())?;
        }
        let agent = &self.agent;
        writeln!(
            f,
            "\nAgent: {} KiB resident without attachments, {} KiB with {}, {} KiB after a restart with them; \
             {} KiB with {}; restarted with those it served ADD after {} ms and had {} KiB.",
            agent.empty_kib,
            agent.loaded_kib,
            agent.attachments,
            agent.restarted_kib,
            agent.full_kib,
            agent.records,
            milliseconds(agent.start),
            agent.started_kib
        )?;
        for binary in &self.binaries {
            let kind = if binary.is_static { "static" } else { "dynamic" };
            writeln!(f, "{:24} {:>6.2} MiB, {kind}", binary.name, mebibytes(binary.size))?;
        }
        write!(f, "\n{}", self.bgp)?;
        writeln!(f, "\n{:36} {:38} {:20} reached", "what", "target", "measured")?;
        for target in self.targets().unwrap_or_default() {
            let reached = if target.is_reached { "yes" } else { "NO" };
            writeln!(f, "{:36} {:38} {:20} {reached}", target.what, target.wanted, target.measured)?;
        }
        Ok(())
    }
}

/// With as many digits as mean something.
pub(super) fn milliseconds(time: Duration) -> String {
    let milliseconds = time.as_secs_f64() * 1000.0;
    match milliseconds {
        ..10.0 => format!("{milliseconds:.2}"),
        10.0..100.0 => format!("{milliseconds:.1}"),
        _ => format!("{milliseconds:.0}"),
    }
}

#[allow(clippy::cast_precision_loss, reason = "files are far smaller than 2^52 bytes")]
fn mebibytes(size: usize) -> f64 {
    size as f64 / 1024.0 / 1024.0
}
