//! `diff`: what differs between two models?

use crate::{
    cli::{Status, args::DiffArgs, printer::Printer},
    provenance::diff::{Change, Difference, diff},
};
use anyhow::Result;
use serde_json::json;
use wildmatch::WildMatch;

pub fn run(args: &DiffArgs, printer: Printer) -> Result<Status> {
    let difference = diff(&args.before, &args.after)?;
    // Equal files may have different data beside them.
    let same = difference.before.file == difference.after.file && difference.is_empty();
    let allowed = |key: &str| args.only.iter().any(|pattern| WildMatch::new(pattern).matches(key));
    let beyond: Vec<&str> = difference.tensors.iter().map(|t| t.key.as_str()).filter(|key| !allowed(key)).collect();
    let yes = if args.only.is_empty() { same } else { beyond.is_empty() && difference.nothing_else == Some(true) };
    printer.json(&json!({"answer": if yes { "yes" } else { "no" }, "difference": difference}))?;
    print(&difference, printer);
    printer.result(match (args.only.is_empty(), yes) {
        (true, true) => "the models are the same".to_owned(),
        (true, false) => {
            format!("{} tensors and {} other fields differ", difference.tensors.len(), difference.fields.len())
        }
        (false, true) => "yes: nothing differs but these tensors and the stamp, byte for byte".to_owned(),
        (false, false) if beyond.is_empty() => "no: more differs than these tensors and the stamp".to_owned(),
        (false, false) => format!("no: tensors differ that --only does not name: {}", beyond.join(", ")),
    });
    Ok(if yes { Status::Yes } else { Status::No })
}

fn print(difference: &Difference, printer: Printer) {
    for tensor in &difference.tensors {
        let change = match tensor.change {
            Change::Changed => "changed",
            Change::Added => "added",
            Change::Removed => "removed",
        };
        let distance = tensor.distance.map_or_else(String::new, |d| {
            format!("  l2 {:.4e} (relative {:.4e}), largest {:.4e}, {} elements", d.l2, d.relative, d.max, d.elements)
        });
        printer.result(format!("tensor   {change:<8} {} {:?}{distance}", tensor.key, tensor.dims));
    }
    for field in &difference.fields {
        let value = |v: &Option<String>| v.as_ref().map_or("absent".to_owned(), |text| format!("{text:?}"));
        printer.result(format!("field    {}: {} -> {}", field.field, value(&field.before), value(&field.after)));
    }
}
