//! The attacks that look at losses and features: membership, probe, prototypes.

use super::{Job, Side, not_assessed, or_not_assessed, ticking};
use crate::{
    audit::{
        AuditError, Features, Figure, Outcome, Outputs,
        membership::{self, Auc},
        probe::Probe,
        prototype::{self, LastLayer},
    },
    cli::progress::Progress,
    data::Dataset,
    train::Penultimate,
};
use anyhow::Result;

impl Job<'_> {
    pub(super) fn membership(&mut self) -> Result<Outcome> {
        if let Some(missing) = self.without_train().or_else(|| self.without_held()) {
            return Ok(missing);
        }
        let (forget, seed, printer) = (self.forget.clone(), self.args.seed, self.printer);
        let (mut figures, mut compared) = (Vec::new(), 0);
        for side in &mut self.sides {
            let Some(train) = side.train.clone() else { continue };
            let members = train.of_classes(&forget);
            let mut progress = Progress::new(printer);
            let batches = members.len().div_ceil(side.opened.classifier.batch);
            let go_on = ticking(&mut progress, "members", batches);
            let trained = Outputs::of(&mut side.opened.classifier, &train, &members, go_on)?;
            progress.finish();
            let (mut inside, mut outside) = (Vec::new(), Vec::new());
            for &class in &forget {
                let [a, b] = [&trained, &side.outputs].map(|o| o.samples(|c| c == class));
                let [a, b] = membership::balanced(a, b, seed, class);
                inside.extend(a.into_iter().map(|i| trained.loss(i)));
                outside.extend(b.into_iter().map(|i| side.outputs.loss(i)));
            }
            compared = inside.len();
            let found = membership::auc(&inside, &outside);
            figures.push(Figure {
                interval: found.and_then(|Auc { interval, .. }| interval),
                ..Figure::number("AUC", side.role, found.map(|auc| auc.value))
            });
        }
        let notes = vec![format!("{compared} members and as many held-out samples")];
        Ok(Outcome::Assessed { figures, notes })
    }

    pub(super) fn probe(&mut self) -> Result<Outcome> {
        if let Some(missing) = self.without_train().or_else(|| self.without_held()) {
            return Ok(missing);
        }
        or_not_assessed(self.probed())
    }

    fn probed(&self) -> Result<Outcome, AuditError> {
        let mut figures = Vec::new();
        let mut notes = Vec::new();
        for side in &self.sides {
            let (layer, [train, held]) = self.features(side)?;
            self.printer.note(format!("fitting the probe of {}", side.opened.subject.name()));
            let predicted = Probe::fit(train, self.names.len()).predict(held);
            self.recalls(side.role, &predicted, &held.labels, &mut figures);
            notes.push(format!("{}: {} features, which node {} reads", side.role, train.width, layer.node));
        }
        figures.sort_by_key(|f| f.figure.starts_with("accuracy"));
        Ok(Outcome::Assessed { figures, notes })
    }

    pub(super) fn prototype(&mut self) -> Result<Outcome> {
        if let Some(missing) = self.without_train().or_else(|| self.without_held()) {
            return Ok(missing);
        }
        or_not_assessed(self.attacked())
    }

    fn attacked(&self) -> Result<Outcome, AuditError> {
        let (mut figures, mut notes) = (Vec::new(), Vec::new());
        for side in &self.sides {
            let (layer, [train, held]) = self.features(side)?;
            let last = layer.rows.as_ref().and_then(|rows| LastLayer::of(rows, train));
            let Some(last) = last else {
                return Ok(not_assessed(format!(
                    "{}: the scores are not the features times the weights of node {} plus offsets, so that no row of them \
                     stands for a class",
                    side.opened.subject.name(),
                    layer.node
                )));
            };
            let draws = (0..prototype::DRAWS).map(|d| last.attacked(train, &self.forget, self.args.seed, d));
            let Some(attacked) = draws.collect::<Option<Vec<LastLayer>>>() else {
                let (shots, data) = (prototype::SHOTS, "--train-data");
                return Ok(not_assessed(format!(
                    "{data} has fewer than {shots} different samples of a forgotten class"
                )));
            };
            let mut runs: Vec<Vec<Figure>> = Vec::new();
            for layer in &attacked {
                let mut of_draw = Vec::new();
                self.recalls(side.role, &layer.predict(held), &held.labels, &mut of_draw);
                runs.push(of_draw);
            }
            for i in 0..runs[0].len() {
                let values: Vec<f64> = runs.iter().filter_map(|run| run[i].value).collect();
                let (mean, deviation) = prototype::mean_and_deviation(&values);
                figures.push(Figure { value: mean, deviation, ..runs[0][i].clone() });
            }
            notes.push(format!("{}: the weights of node {}", side.role, layer.node));
        }
        figures.sort_by_key(|f| f.figure.starts_with("accuracy"));
        Ok(Outcome::Assessed { figures, notes })
    }

    /// Recall of each forgotten class, and the accuracy on the others.
    fn recalls(&self, of: &str, predicted: &[usize], labels: &[usize], figures: &mut Vec<Figure>) {
        let share = |pick: &dyn Fn(usize) -> bool| {
            let (mut n, mut hits) = (0usize, 0usize);
            for (p, l) in predicted.iter().zip(labels).filter(|(_, l)| pick(**l)) {
                n += 1;
                hits += usize::from(p == l);
            }
            (n > 0).then(|| hits as f64 / n as f64)
        };
        for &class in &self.forget {
            figures.push(Figure::share(format!("recall of {}", self.class(class)), of, share(&|l| l == class)));
        }
        figures.push(Figure::share("accuracy on the others", of, share(&|l| !self.is_forgotten(l))));
    }

    /// The penultimate layer, and its features of training and of held-out samples.
    fn features<'s>(&self, side: &'s Side<'_>) -> Result<&'s (Penultimate, [Features; 2]), AuditError> {
        if let Some(known) = side.features.get() {
            return Ok(known);
        }
        let layer = Penultimate::of(side.model, &self.choice)?;
        let mut session = layer.session(&self.engine, side.opened.subject.reading.live_batch_norm)?;
        let mut of = |data: &Dataset| {
            let mut progress = Progress::new(self.printer);
            let batches = data.len().div_ceil(side.opened.classifier.batch);
            let go_on = ticking(&mut progress, "features", batches);
            let found = Features::of(&layer, &mut session, &side.opened.classifier, data, go_on);
            progress.finish();
            found
        };
        let train = side.train.as_deref().map_or_else(|| Ok(Features::default()), &mut of)?;
        let held = of(&side.held)?;
        Ok(side.features.get_or_init(|| (layer, [train, held])))
    }
}
