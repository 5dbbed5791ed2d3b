//! The figures as CSV (RFC 4180, lines ending in a line feed): a row for each figure of each model.

use super::Shown;
use crate::{
    audit::{Bound, Outcome, Unit},
    cli::commands::table::quoted,
};

const COLUMNS: &str = "measure,outcome,figure,of,value,unit,low,high,deviation,bound";

/// A header and the rows. A value that does not exist is empty; a measure that is not assessed has one row with the reason
/// as its figure.
pub(super) fn text(s: &Shown) -> String {
    let mut lines = vec![COLUMNS.to_owned()];
    let number = |v: Option<f64>| v.map_or(String::new(), |v| v.to_string());
    for m in &s.measures {
        let name = m.name;
        match &m.outcome {
            Outcome::NotAssessed { reason } => lines.push(format!("{name},not_assessed,{},,,,,,,", quoted(reason))),
            Outcome::Assessed { figures, .. } => lines.extend(figures.iter().map(|f| {
                let [low, high] = f.interval.map_or([None; 2], |ends| ends.map(Some));
                let unit = match f.unit {
                    Unit::Share => "share",
                    Unit::Number => "number",
                    Unit::Count => "count",
                    Unit::Flag => "flag",
                };
                let bound = match f.bound {
                    Some(Bound::Above) => "above",
                    Some(Bound::Below) => "below",
                    None => "",
                };
                let [value, low, high, deviation] = [f.value, low, high, f.deviation].map(number);
                let (figure, of) = (quoted(&f.figure), quoted(&f.of));
                format!("{name},assessed,{figure},{of},{value},{unit},{low},{high},{deviation},{bound}")
            })),
        }
    }
    lines.join("\n")
}
