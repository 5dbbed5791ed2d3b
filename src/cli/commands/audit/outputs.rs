//! What the outputs alone tell: distances between models, and whether a class is too gone.

use super::{Job, assessed, not_assessed};
use crate::audit::{Figure, Outcome, Outputs, Unit, distance, streisand::Fate};

/// A distance of two models on some samples.
type Distance = fn(&Outputs, &Outputs, &[usize]) -> Option<f64>;

impl Job<'_> {
    pub(super) fn to_retrained(&self) -> Outcome {
        match self.sides.as_slice() {
            [before, after, retrained] => self.apart(
                &[(after.role, &after.outputs), (before.role, &before.outputs)],
                (retrained.role, &retrained.outputs),
            ),
            _ => not_assessed("needs --retrained: a model that was trained without the classes"),
        }
    }

    pub(super) fn to_before(&self) -> Outcome {
        let first = &self.sides[0];
        let others: Vec<(&str, &Outputs)> = self.sides[1..].iter().map(|s| (s.role, &s.outputs)).collect();
        self.apart(&others, (first.role, &first.outputs))
    }

    fn apart(&self, models: &[(&str, &Outputs)], to: (&str, &Outputs)) -> Outcome {
        let [forgotten, retained] = self.groups();
        let groups = [("forgotten", &forgotten), ("retained", &retained)];
        let mut figures = Vec::new();
        let mut add = |name: &str, on: &str, rows: &[usize], unit: Unit, f: Distance| {
            for (role, outputs) in models {
                let of = format!("{role}, {}", to.0);
                figures.push(Figure::new(format!("{name}, {on} classes"), of, f(outputs, to.1, rows), unit));
            }
        };
        for (on, rows) in groups {
            add("equal predictions", on, rows, Unit::Share, distance::agreement);
            add("JS divergence (bits)", on, rows, Unit::Number, distance::divergence);
            add("activation distance", on, rows, Unit::Number, distance::activation);
        }
        add("routing distance", "forgotten", &forgotten, Unit::Number, distance::routing);
        let notes = self.without_held().map(|missing| match missing {
            Outcome::NotAssessed { reason } => reason,
            Outcome::Assessed { .. } => String::new(),
        });
        Outcome::Assessed { figures, notes: notes.into_iter().collect() }
    }

    pub(super) fn streisand(&self) -> Outcome {
        if let Some(missing) = self.without_held() {
            return missing;
        }
        let mut figures = Vec::new();
        for &class in &self.forget {
            let fates: Option<Vec<Fate>> =
                self.sides.iter().map(|side| Fate::of(&side.outputs, class, &self.forget)).collect();
            let Some(fates) = fates else {
                return not_assessed(format!("no finite scores for the samples of {}", self.class(class)));
            };
            let name = self.class(class);
            for (side, fate) in self.sides.iter().zip(&fates) {
                let mut add = |what: &str, value: f64, unit: Unit| {
                    figures.push(Figure::new(format!("{name}: {what}"), side.role, Some(value), unit));
                };
                add("loss (nats)", fate.loss, Unit::Number);
                add("entropy of outputs (bits)", fate.entropy, Unit::Number);
                add("log10 of its probability", fate.own, Unit::Number);
                add("log10 of a typical absent class", fate.typical, Unit::Number);
                add("most frequent prediction, class", fate.top as f64, Unit::Count);
                add("most frequent prediction, share", fate.share, Unit::Share);
                add("entropy of predictions (bits)", fate.routing_entropy, Unit::Number);
            }
            let flags = fates[1].flags(fates.get(2));
            for (flag, set) in ["too gone", "one place"].into_iter().zip(flags) {
                let value = Some(f64::from(u8::from(set)));
                figures.push(Figure::new(format!("{name}: flag '{flag}'"), self.sides[1].role, value, Unit::Flag));
            }
        }
        assessed(figures)
    }
}
