//! Many measurements of one thing.

use serde::Serialize;

/// Values in ascending order, without a unit of their own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample(Vec<f64>);

/// What is written down of a sample.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) count: usize,
    pub(crate) min: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl FromIterator<f64> for Sample {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }
}

impl Sample {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn median(&self) -> f64 {
        self.percentile(50)
    }

    /// The smallest value that so many percent do not exceed; not a number if there is no value.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn summary(&self, name: impl Into<String>, unit: &'static str) -> Summary {
        Summary {
            name: name.into(),
            unit,
            count: self.len(),
            min: self.percentile(0),
            p50: self.median(),
            p90: self.percentile(90),
            p99: self.percentile(99),
            max: self.percentile(100),
        }
    }
}

/// Nanoseconds as microseconds.
pub(crate) fn us(ns: i64) -> f64 {
    ns as f64 / 1e3
}

/// Nanoseconds as milliseconds.
pub(crate) fn ms(ns: i64) -> f64 {
    ns as f64 / 1e6
}
