//! Calling and timing.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::contender::{Contender, Verb};
use super::pods::Pod;
use crate::netns::Netns;
use crate::process::{start_error, status_text};
use crate::{LabError, Result};

/// How long calls of one kind took.
#[derive(Debug, Clone, Default)]
pub struct Series {
    times: Vec<Duration>,
    /// How long it took in all, from the start of the first to the end of the last.
    elapsed: Duration,
}

impl Series {
    /// The smallest time that at least `percent` of the calls did not exceed; zero without any.
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut times = self.times.clone();
        times.sort_unstable();
        let rank = (times.len() * percent).div_ceil(100).max(1);
        times.get(rank - 1).copied().unwrap_or_default()
    }

    /// Calls in a second.
    #[allow(clippy::cast_precision_loss, reason = "counts of calls are small")]
    pub fn per_second(&self) -> f64 {
        self.times.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// How many calls.
    pub fn count(&self) -> usize {
        self.times.len()
    }

    /// Of times one after the other.
    pub(super) fn of(times: Vec<Duration>) -> Self {
        Self { elapsed: times.iter().sum(), times }
    }

    pub(super) fn append(&mut self, other: Self) {
        self.times.extend(other.times);
        self.elapsed += other.elapsed;
    }
}

/// What one turn of a contender took.
#[derive(Debug, Default)]
pub(super) struct Turn {
    pub(super) add: Series,
    pub(super) del: Series,
}

/// Adds all the pods, one after the other, then deletes them.
pub(super) fn in_order(contender: &mut Contender, pods: &[Pod]) -> Result<Turn> {
    together(contender, pods, 1)
}

/// Adds a pod and deletes it, then the next.
pub(super) fn in_turn(contender: &mut Contender, pods: &[Pod]) -> Result<Turn> {
    contender.next_turn();
    let mut turn = Turn::default();
    let times = within(contender.netns(), || {
        let both = |pod| Ok((call(contender, Verb::Add, pod)?, call(contender, Verb::Del, pod)?));
        pods.iter().map(both).collect::<Result<Vec<_>>>()
    })?;
    for (add, del) in times {
        turn.add.append(Series { times: vec![add], elapsed: add });
        turn.del.append(Series { times: vec![del], elapsed: del });
    }
    Ok(turn)
}

/// Adds all the pods, `at_once` at a time, then deletes them in the same way.
pub(super) fn together(contender: &mut Contender, pods: &[Pod], at_once: usize) -> Result<Turn> {
    let add = add_all(contender, pods, at_once)?;
    let del = all(contender, Verb::Del, pods, at_once)?;
    Ok(Turn { add, del })
}

/// Adds all the pods, `at_once` at a time.
pub(super) fn add_all(contender: &mut Contender, pods: &[Pod], at_once: usize) -> Result<Series> {
    contender.next_turn();
    all(contender, Verb::Add, pods, at_once)
}

fn all(contender: &Contender, verb: Verb, pods: &[Pod], at_once: usize) -> Result<Series> {
    let next = AtomicUsize::new(0);
    let times = Mutex::new(Vec::with_capacity(pods.len()));
    let start = Instant::now();
    thread::scope(|scope| {
        let work = || {
            within(contender.netns(), || {
                while let Some(pod) = pods.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let took = call(contender, verb, pod)?;
                    times.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(took);
                }
                Ok(())
            })
        };
        let threads: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| joined(thread.join()))
    })?;
    let elapsed = start.elapsed();
    Ok(Series { times: times.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner), elapsed })
}

/// Runs `body` on a thread in the namespace; programs that it starts are there too,
/// without another program in between.
pub(super) fn within<T: Send>(netns: &Netns, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let enter = || {
        let file = File::open(netns.path())?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(())
    };
    let inside = || {
        enter().map_err(LabError::file("enter", netns.path()))?;
        body()
    };
    thread::scope(|scope| joined(scope.spawn(inside).join()))
}

fn joined<T>(result: thread::Result<Result<T>>) -> Result<T> {
    result.unwrap_or_else(|_| Err(LabError::Unexpected("a thread of the benchmark panicked".to_owned())))
}

/// One call, from before the start of the process until it has ended.
pub(super) fn call(contender: &Contender, verb: Verb, pod: &Pod) -> Result<Duration> {
    let (mut command, input) = contender.command(verb, pod);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let start = Instant::now();
    let output = exchange(&mut command, input)?;
    let took = start.elapsed();
    if output.status.success() {
        return Ok(took);
    }
    let said = [output.stdout, output.stderr].concat();
    Err(LabError::Failed {
        command: format!("{verb:?} of {} for {}", contender.name(), pod.netns.display()),
        status: status_text(output.status),
        output: String::from_utf8_lossy(&said).trim().to_owned(),
    })
}

fn exchange(command: &mut Command, input: &str) -> Result<std::process::Output> {
    let mut child = command.spawn().map_err(start_error(command))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read to the end says why by its answer.
        stdin.write_all(input.as_bytes()).ok();
    }
    child.wait_with_output().map_err(LabError::file("wait for", command.get_program()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let times = (1..=200).rev().map(Duration::from_millis).collect();
        let series = Series { times, elapsed: Duration::from_secs(4) };
        let milliseconds = |percent| series.percentile(percent).as_millis();
        assert_eq!([milliseconds(50), milliseconds(90), milliseconds(99)], [100, 180, 198]);
        assert!((series.per_second() - 50.0).abs() < 1e-9);
        assert_eq!(Series::default().percentile(50), Duration::ZERO);
        let one = Series { times: vec![Duration::from_millis(7)], elapsed: Duration::from_millis(7) };
        assert_eq!(one.percentile(99).as_millis(), 7);
    }
}
