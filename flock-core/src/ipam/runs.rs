//! A set of points kept as maximal runs.

use std::collections::BTreeMap;

use super::prefix::Span;

/// A set of points on the line of `u128`, kept as maximal runs: neighbours share
/// one entry, and between two entries there is always a gap.
///
/// Because the runs are maximal, the point after a run is never in the set. So
/// the next gap is found with one look-up, however long the run is, and no
/// method here has a loop: each costs a fixed number of look-ups in a tree of
/// as many entries as there are runs.
#[derive(Debug, Default)]
pub(super) struct Runs {
    /// First point to last point, both inside.
    last_by_first: BTreeMap<u128, u128>,
}

impl Runs {
    /// Adds `point`; false if it was there.
    pub(super) fn insert(&mut self, point: u128) -> bool {
        let before = self.run_before(point);
        if before.is_some_and(|(_, last)| last >= point) {
            return false;
        }
        let first = match before {
            Some((first, last)) if last + 1 == point => first,
            _ => point,
        };
        let after = point.checked_add(1).and_then(|next| self.last_by_first.remove(&next));
        self.last_by_first.insert(first, after.unwrap_or(point));
        true
    }

    /// Takes `point` away; false if it was not there.
    pub(super) fn remove(&mut self, point: u128) -> bool {
        let Some((first, last)) = self.run_before(point).filter(|(_, last)| *last >= point) else {
            return false;
        };
        if first == point {
            self.last_by_first.remove(&first);
        } else {
            self.last_by_first.insert(first, point - 1);
        }
        if point < last {
            self.last_by_first.insert(point + 1, last);
        }
        true
    }

    /// Whether `point` is in the set.
    pub(super) fn contains(&self, point: u128) -> bool {
        self.run_before(point).is_some_and(|(_, last)| last >= point)
    }

    /// The first point at or after `from` that is not in the set, going round
    /// inside `span`. A `from` outside of it counts as its beginning.
    pub(super) fn next_gap(&self, from: u128, span: Span) -> Option<u128> {
        let from = if span.contains(from) { from } else { span.first };
        self.gap_at_or_after(from)
            .filter(|gap| *gap <= span.last)
            .or_else(|| self.gap_at_or_after(span.first).filter(|gap| *gap < from))
    }

    fn gap_at_or_after(&self, point: u128) -> Option<u128> {
        match self.run_before(point) {
            Some((_, last)) if last >= point => last.checked_add(1),
            _ => Some(point),
        }
    }

    /// The last run that begins at or before `point`; it may end before it.
    fn run_before(&self, point: u128) -> Option<(u128, u128)> {
        self.last_by_first.range(..=point).next_back().map(|(first, last)| (*first, *last))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const WIDTH: u128 = 24;

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u128),
        Remove(u128),
    }

    /// Small lines at both ends of the number range, where arithmetic could overflow.
    fn line() -> impl Strategy<Value = Span> {
        prop::sample::select(vec![0, 1 << 64, u128::MAX - (WIDTH - 1)])
            .prop_map(|first| Span { first, last: first + (WIDTH - 1) })
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..WIDTH).prop_map(Step::Insert),
            2 => (0..WIDTH).prop_map(Step::Remove),
        ]
    }

    proptest! {
        #[test]
        fn runs_are_a_set(line in line(), steps in prop::collection::vec(step(), 0..120)) {
            let (mut runs, mut model) = (Runs::default(), BTreeSet::new());
            for step in steps {
                match step {
                    Step::Insert(at) => {
                        prop_assert_eq!(runs.insert(line.first + at), model.insert(line.first + at));
                    }
                    Step::Remove(at) => {
                        prop_assert_eq!(runs.remove(line.first + at), model.remove(&(line.first + at)));
                    }
                }
                compare(&runs, &model, line)?;
            }
        }
    }

    fn compare(runs: &Runs, model: &BTreeSet<u128>, line: Span) -> Result<(), TestCaseError> {
        for point in line.first..=line.last {
            prop_assert_eq!(runs.contains(point), model.contains(&point));
        }
        let maximal = model.iter().filter(|p| p.checked_sub(1).is_none_or(|before| !model.contains(&before)));
        prop_assert_eq!(runs.last_by_first.len(), maximal.count(), "every entry is a maximal run");
        for (from, first, last) in [(0, 0, 23), (23, 0, 23), (9, 4, 15), (2, 4, 15), (20, 4, 15), (7, 7, 7)] {
            let span = Span { first: line.first + first, last: line.first + last };
            let from = line.first + from;
            let start = if span.contains(from) { from } else { span.first };
            let round = (start..=span.last).chain(span.first..start);
            prop_assert_eq!(
                runs.next_gap(from, span),
                round.into_iter().find(|point| !model.contains(point))
            );
        }
        Ok(())
    }
}
