//! What the classes are called, and which ones a user means.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::DataError;

/// The name of every class, in the order of the model's outputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClassNames(Vec<String>);

impl ClassNames {
    /// Names in class order. Two classes may share a name (ImageNet's lists have such); asking for it is an error.
    pub fn new(names: Vec<String>) -> Self {
        Self(names)
    }

    /// Reads a file with one name a line in UTF-8, the first line being class 0. Blank lines at the end are ignored.
    pub fn from_file(path: &Path) -> Result<Self, DataError> {
        let bytes = fs::read(path).map_err(|source| super::source::unreadable(path, source))?;
        let names = |problem| DataError::Names { path: path.to_path_buf(), problem };
        let text = String::from_utf8(bytes).map_err(|_| names("is not UTF-8 text"))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text).trim_end();
        if text.is_empty() {
            return Err(names("holds no names"));
        }
        let lines: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
        match lines.iter().position(String::is_empty) {
            Some(at) => Err(DataError::BlankName { path: path.to_path_buf(), line: at + 1 }),
            None => Ok(Self(lines)),
        }
    }

    /// The indices themselves as names, for when nothing better is known.
    pub fn indices(classes: usize) -> Self {
        Self((0..classes).map(|class| class.to_string()).collect())
    }

    /// Number of classes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when there is no class.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The name of a class; an index beyond the list is answered with an empty name.
    pub fn name(&self, class: usize) -> &str {
        self.0.get(class).map_or("", String::as_str)
    }

    /// All names in class order.
    pub fn all(&self) -> &[String] {
        &self.0
    }

    /// True when the names are nothing but the indices.
    pub fn are_indices(&self) -> bool {
        self.0.iter().enumerate().all(|(class, name)| *name == class.to_string())
    }

    /// Fails unless there is one name per output of the model.
    pub fn check(&self, classes: usize) -> Result<(), DataError> {
        if self.len() == classes { Ok(()) } else { Err(DataError::NamesCount { names: self.len(), classes }) }
    }

    /// The class meant by a name or, where no class has that name, by an index.
    pub fn find(&self, text: &str) -> Result<usize, DataError> {
        if let Some(class) = self.named(text)? {
            return Ok(class);
        }
        if let Some(index) = index(text) {
            let class = usize::try_from(index).unwrap_or(usize::MAX);
            let classes = self.len();
            return if class < classes { Ok(class) } else { Err(DataError::ClassRange { index, classes }) };
        }
        let near = match self.near(text) {
            near if !near.is_empty() => format!("; did you mean {}?", near.join(" or ")),
            _ if self.are_indices() => "; give the names of the classes with --labels FILE, or use indices".to_owned(),
            _ => format!("; the classes are {}", self.listing()),
        };
        Err(DataError::UnknownClass { name: text.to_owned(), near })
    }

    /// Reads a list such as `airplane,3,cat` into class indices, ascending, each once.
    ///
    /// A list that is the name of a class as a whole means that class, so that names with commas can be used alone.
    pub fn parse(&self, list: &str) -> Result<Vec<usize>, DataError> {
        if let Some(class) = self.named(list.trim())? {
            return Ok(vec![class]);
        }
        let mut classes = Vec::new();
        for part in list.split(',').map(str::trim) {
            if part.is_empty() {
                return Err(DataError::NoClasses { list: list.to_owned() });
            }
            classes.push(self.find(part)?);
        }
        classes.sort_unstable();
        classes.dedup();
        Ok(classes)
    }

    /// The only class of that name, if there is one.
    fn named(&self, text: &str) -> Result<Option<usize>, DataError> {
        let classes: Vec<usize> = (0..self.len()).filter(|&class| self.0[class] == text).collect();
        match classes.as_slice() {
            [] => Ok(None),
            [class] => Ok(Some(*class)),
            _ => Err(DataError::AmbiguousName { name: text.to_owned(), classes: listing(&classes) }),
        }
    }

    /// Up to three names that look like `text`, quoted, the nearest first.
    fn near(&self, text: &str) -> Vec<String> {
        let wanted = text.to_lowercase();
        let allowed = (wanted.chars().count() / 3).max(1);
        let mut found: Vec<(usize, &String)> = self
            .0
            .iter()
            .map(|name| (edits(&wanted, &name.to_lowercase()), name))
            .filter(|(distance, name)| {
                *distance <= allowed || (wanted.len() >= 3 && name.to_lowercase().starts_with(&wanted))
            })
            .collect();
        found.sort();
        found.into_iter().take(3).map(|(_, name)| format!("`{name}`")).collect()
    }

    /// The first names, for a message.
    fn listing(&self) -> String {
        const SHOWN: usize = 12;
        let first = self.0[..self.len().min(SHOWN)].join(", ");
        if self.len() > SHOWN { format!("{first}, ... ({} in all)", self.len()) } else { first }
    }
}

/// Indices as they stand in a sentence: `3, 5 and 8`.
fn listing(classes: &[usize]) -> String {
    let text: Vec<String> = classes.iter().map(ToString::to_string).collect();
    match text.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => text.concat(),
    }
}

/// The number a text consists of, if it is nothing but digits.
pub(super) fn index(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

/// Insertions, deletions and replacements that lead from `a` to `b` (Levenshtein's distance).
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
