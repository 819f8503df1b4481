//! Times as BIRD writes them.

use std::fmt;
use std::time::Duration;

use jiff::civil::{Date, DateTime, Time};

/// A point in time, in the local time of BIRD's machine, as exact as BIRD's configuration has it
/// (`timeformat`).
///
/// ```
/// use flock_bird::time::Moment;
///
/// let now: jiff::civil::DateTime = "2026-01-02T00:00:30".parse().unwrap();
/// let age = Moment::read("2026-01-01 23:59:00.250").age(now);
/// assert_eq!(age, Some(std::time::Duration::from_millis(89_750)));
/// assert_eq!(Moment::read("23:59:30.000").age(now), Some(std::time::Duration::from_secs(60)));
/// assert_eq!(Moment::read("2026-01-01").age(now), None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moment {
    /// With date and time: `iso long`, which is what Flock configures.
    DateTime(DateTime),
    /// With a time of the day only: `iso short` of something less than 20 hours ago, which is
    /// what BIRD writes without a configuration.
    Time(Time),
    /// With a date only: `iso short` of something older.
    Date(Date),
    /// In another form, as BIRD wrote it.
    Other(String),
}

const DAY: Duration = Duration::from_secs(24 * 3600);
/// BIRD reckons each time anew, and clocks change to winter time: what seems to be as old as this is
/// of an hour to come at most, since BIRD would have given a date.
const LATER: Duration = Duration::from_secs(23 * 3600);

impl Moment {
    /// Reads what BIRD wrote. [`to_string`](ToString::to_string) has the same again.
    pub fn read(text: &str) -> Self {
        // Years may be negative elsewhere.
        if !text.starts_with(|first: char| first.is_ascii_digit()) {
            return Self::Other(text.to_owned());
        }
        if let Ok(at) = DateTime::strptime("%Y-%m-%d %H:%M:%S%.f", text) {
            return Self::DateTime(at);
        }
        if let Ok(at) = Time::strptime("%H:%M:%S%.f", text) {
            return Self::Time(at);
        }
        Date::strptime("%Y-%m-%d", text).map_or_else(|_| Self::Other(text.to_owned()), Self::Date)
    }

    /// How long before `now`, BIRD's [own time](crate::status::Status::now), it was; zero if that
    /// is hardly later. `None` where BIRD was not exact enough.
    pub fn age(&self, now: DateTime) -> Option<Duration> {
        match self {
            Self::DateTime(at) => Some(Duration::try_from(now.duration_since(*at)).unwrap_or_default()),
            Self::Time(at) => {
                let later = now.time().duration_since(*at);
                let age = if later.is_negative() {
                    DAY.checked_sub(later.unsigned_abs())?
                } else {
                    later.unsigned_abs()
                };
                Some(if age > LATER { Duration::ZERO } else { age })
            }
            Self::Date(_) | Self::Other(_) => None,
        }
    }

    /// The time that `words` begin with, and how many of them it takes.
    pub(crate) fn of_words(words: &[&str]) -> (Self, usize) {
        if let [date, time, ..] = words
            && let at @ Self::DateTime(_) = Self::read(&format!("{date} {time}"))
        {
            return (at, 2);
        }
        words.first().map_or((Self::Other(String::new()), 0), |word| (Self::read(word), 1))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DateTime(at) => write!(f, "{} {}", at.date(), at.time()),
            Self::Time(at) => at.fmt(f),
            Self::Date(at) => at.fmt(f),
            Self::Other(text) => text.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_in_no_known_form_stays_as_it_is() {
        for text in
            ["", "2026-02-30", "25:00:00", "1795660", "-2026-01-01", "Mon 10:00", "2026-01-01T10:00:00"]
        {
            assert_eq!(Moment::read(text), Moment::Other(text.to_owned()));
            assert_eq!(Moment::read(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_hardly_later_is_now() {
        let now: DateTime = "2026-01-01T12:00:00".parse().unwrap();
        for text in ["2026-01-01 12:00:00.001", "12:00:00.001"] {
            assert_eq!(Moment::read(text).age(now), Some(Duration::ZERO), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_bird_writes_is_read(
            seconds in 0_i64..4_000_000_000,
            micros in 0_u32..1_000_000,
            passed in 0_u64..20 * 3600,
        ) {
            let micros_i64 = i64::from(micros);
            let at = DateTime::constant(1970, 1, 1, 0, 0, 0, 0)
                + jiff::SignedDuration::from_micros(seconds * 1_000_000 + micros_i64);
            let now = at + jiff::SignedDuration::from_secs(i64::try_from(passed).unwrap());
            let age = Duration::from_secs(passed);
            let (date, time) = (at.strftime("%F"), at.strftime("%T"));
            prop_assert_eq!(Moment::read(&format!("{date} {time}.{micros:06}")), Moment::DateTime(at));
            prop_assert_eq!(Moment::read(&format!("{date} {time}.{micros:06}")).age(now), Some(age));
            prop_assert_eq!(Moment::read(&format!("{time}.{micros:06}")), Moment::Time(at.time()));
            prop_assert_eq!(Moment::read(&format!("{time}.{micros:06}")).age(now), Some(age));
            prop_assert_eq!(Moment::read(&date.to_string()), Moment::Date(at.date()));
            for read in [Moment::DateTime(at), Moment::Time(at.time()), Moment::Date(at.date())] {
                prop_assert_eq!(Moment::read(&read.to_string()), read);
            }
        }
    }
}
