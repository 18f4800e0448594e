//! One row of the report: a figure, what it is compared with, and its target.

use serde::Serialize;

/// Several measurements of the same thing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sample {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub count: usize,
}

impl Sample {
    /// `None` if there are no values.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.retain(|value| value.is_finite());
        values.sort_unstable_by(f64::total_cmp);
        Some(Self {
            median: quantile(&values, 0.5)?,
            min: *values.first()?,
            max: *values.last()?,
            count: values.len(),
        })
    }

    pub fn one(value: f64) -> Self {
        Self {
            median: value,
            min: value,
            max: value,
            count: 1,
        }
    }
}

/// The quantile `at` (0 to 1) of sorted values, interpolated between neighbours.
pub fn quantile(sorted: &[f64], at: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = at.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (
        sorted.get(place.floor() as usize)?,
        sorted.get(place.ceil() as usize)?,
    );
    Some(below + (above - below) * place.fract())
}

/// The limit of a figure, or of its ratio to the peer's figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    FigureAtMost(f64),
    FigureAtLeast(f64),
    RatioAtMost(f64),
    RatioAtLeast(f64),
}

/// What the figure is compared with, measured in the same run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Peer {
    pub what: String,
    pub figure: Sample,
    /// The figure divided by the peer's figure, for each pair.
    pub ratio: Sample,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Name of the benchmark.
    pub bench: &'static str,
    pub what: String,
    pub unit: &'static str,
    pub figure: Sample,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<Peer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Met,
    Missed,
    NoTarget,
}

impl Row {
    pub fn new(bench: &'static str, what: impl Into<String>, unit: &'static str, figure: Sample) -> Self {
        Self {
            bench,
            what: what.into(),
            unit,
            figure,
            peer: None,
            target: None,
            note: String::new(),
        }
    }

    /// From rounds of (figure, peer's figure), measured in turn; `None` if there are none.
    pub fn compared(
        bench: &'static str,
        what: impl Into<String>,
        unit: &'static str,
        peer: impl Into<String>,
        rounds: &[(f64, f64)],
    ) -> Option<Self> {
        let figure = Sample::of(rounds.iter().map(|round| round.0).collect())?;
        let mut row = Self::new(bench, what, unit, figure);
        row.peer = Some(Peer {
            what: peer.into(),
            figure: Sample::of(rounds.iter().map(|round| round.1).collect())?,
            ratio: Sample::of(rounds.iter().map(|round| round.0 / round.1).collect())?,
        });
        Some(row)
    }

    pub fn target(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }

    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    pub fn verdict(&self) -> Verdict {
        let ratio = self.peer.as_ref().map(|peer| peer.ratio.median);
        let met = match self.target {
            None => return Verdict::NoTarget,
            Some(Target::FigureAtMost(limit)) => self.figure.median <= limit,
            Some(Target::FigureAtLeast(limit)) => self.figure.median >= limit,
            Some(Target::RatioAtMost(limit)) => ratio.is_some_and(|ratio| ratio <= limit),
            Some(Target::RatioAtLeast(limit)) => ratio.is_some_and(|ratio| ratio >= limit),
        };
        if met { Verdict::Met } else { Verdict::Missed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_its_median_smallest_and_largest_value() {
        let sample = |values: &[f64]| Sample::of(values.to_vec()).map(|s| (s.median, s.min, s.max, s.count));
        assert_eq!(sample(&[3.0, 1.0, 2.0]), Some((2.0, 1.0, 3.0, 3)));
        assert_eq!(sample(&[1.0, 2.0, 4.0, 3.0]), Some((2.5, 1.0, 4.0, 4)));
        assert_eq!(sample(&[]), None);
        assert_eq!(quantile(&[0.0, 100.0], 0.99), Some(99.0));
    }

    #[test]
    fn a_target_is_met_or_missed_by_the_figure_or_by_the_ratio() {
        let row = Row::compared("x", "x", "ms", "y", &[(3.0, 2.0), (4.0, 2.0), (2.0, 2.0)]).unwrap();
        for (target, verdict) in [
            (Target::RatioAtMost(1.5), Verdict::Met),
            (Target::RatioAtMost(1.4), Verdict::Missed),
            (Target::RatioAtLeast(1.6), Verdict::Missed),
            (Target::FigureAtMost(3.0), Verdict::Met),
            (Target::FigureAtLeast(3.1), Verdict::Missed),
        ] {
            assert_eq!(row.clone().target(target).verdict(), verdict, "{target:?}");
        }
        assert_eq!(row.verdict(), Verdict::NoTarget);
        let alone = Row::new("x", "x", "ms", Sample::one(1.0)).target(Target::RatioAtMost(9.0));
        assert_eq!(
            alone.verdict(),
            Verdict::Missed,
            "there is nothing to compare it with"
        );
    }
}
