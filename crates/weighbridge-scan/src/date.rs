//! Calendar dates, for exceptions that expire.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, de};

/// A day of the Gregorian calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date {
    year: i64,
    month: u8,
    day: u8,
}

impl Date {
    /// The day, when there is one of these numbers.
    pub fn new(year: i64, month: u8, day: u8) -> Option<Self> {
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let last = match month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => return None,
        };
        (1..=last)
            .contains(&day)
            .then_some(Self { year, month, day })
    }

    /// Today, in UTC.
    pub fn today() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self::of_unix_days(since.map_or(0, |d| d.as_secs() / 86_400))
    }

    /// The day that begins `days` after 1970-01-01.
    fn of_unix_days(days: u64) -> Self {
        // Counted from 1 March of year 0, so that the leap day is a year's last.
        let days = days as i64 + 719_468;
        let era = days.div_euclid(146_097);
        let day = days.rem_euclid(146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let of_year = day - (365 * year + year / 4 - year / 100);
        let month = (5 * of_year + 2) / 153;
        let d = of_year - (153 * month + 2) / 5 + 1;
        let m = if month < 10 { month + 3 } else { month - 9 };
        Self {
            year: year + era * 400 + i64::from(m <= 2),
            month: m as u8,
            day: d as u8,
        }
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

/// A TOML local date: `2027-01-31`, without quotes and without a time.
impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let value = toml::value::Datetime::deserialize(d)?;
        match value {
            toml::value::Datetime {
                date: Some(date),
                time: None,
                offset: None,
            } => Self::new(i64::from(date.year), date.month, date.day)
                .ok_or_else(|| de::Error::custom(format!("there is no day {value}"))),
            _ => Err(de::Error::custom(
                "expected a day without a time, such as 2027-01-31",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_as_the_calendar_does() {
        for (days, text) in [
            (0, "1970-01-01"),
            (11_016, "2000-02-29"),
            (11_017, "2000-03-01"),
            (20_819, "2027-01-01"),
            (47_540, "2100-02-28"),
            (47_541, "2100-03-01"),
        ] {
            assert_eq!(Date::of_unix_days(days).to_string(), text);
        }
        assert!(Date::today() > Date::new(2025, 1, 1).unwrap());
    }

    #[test]
    fn days_that_do_not_exist_are_refused() {
        assert!(Date::new(2027, 2, 29).is_none());
        assert!(Date::new(2028, 2, 29).is_some());
        assert!(Date::new(2100, 2, 29).is_none());
        assert!(Date::new(2027, 13, 1).is_none());
        assert!(Date::new(2027, 4, 31).is_none());
        assert!(Date::new(2027, 1, 0).is_none());
    }

    #[test]
    fn days_are_ordered() {
        assert!(Date::new(2026, 12, 31) < Date::new(2027, 1, 1));
        assert!(Date::new(2027, 1, 31) < Date::new(2027, 2, 1));
    }
}
