//! Reading one object of a manifest field by field, [`Fields`]: whatever is wrong in it is told, with
//! the field, and not only the first of it.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde_json::{Map, Value};

use crate::excerpt;

/// The fields of an object that were not read yet.
///
/// `null` is as good as nothing, as it is in Kubernetes.
pub(super) struct Fields<'a> {
    /// Stands before each field's name in problems.
    at: String,
    unread: Map<String, Value>,
    problems: &'a mut Vec<String>,
}

impl<'a> Fields<'a> {
    /// Those of `value`, which is found at `at`.
    pub(super) fn new(at: impl Into<String>, value: &Value, problems: &'a mut Vec<String>) -> Self {
        let at = at.into();
        let unread = value.as_object().cloned().unwrap_or_else(|| {
            problems.push(format!("{at} is {}, expected fields and values", kind(value)));
            Map::new()
        });
        Self { at, unread, problems }
    }

    /// What is at `field`, unread.
    pub(super) fn raw(&mut self, field: &str) -> Option<Value> {
        self.unread.remove(field).filter(|value| !value.is_null())
    }

    pub(super) fn is_set(&self, field: &str) -> bool {
        self.unread.get(field).is_some_and(|value| !value.is_null())
    }

    pub(super) fn text(&mut self, field: &str, expected: &str) -> Option<String> {
        match self.raw(field)? {
            Value::String(text) => Some(text),
            other => self.unexpected(field, &other, expected),
        }
    }

    /// What is written as a text and read as something else, with the words of its error.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&mut self, field: &str, expected: &str) -> Option<T> {
        let text = self.text(field, expected)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(_) => self.unexpected(field, &text.into(), expected),
        }
    }

    pub(super) fn number<T>(&mut self, field: &str, range: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<u64> + PartialOrd + Display,
    {
        let value = self.raw(field)?;
        let number = value.as_u64().and_then(|number| T::try_from(number).ok());
        match number.filter(|number| range.contains(number)) {
            Some(number) => Some(number),
            None => self.unexpected(field, &value, &format!("{} to {}", range.start(), range.end())),
        }
    }

    pub(super) fn flag(&mut self, field: &str) -> bool {
        match self.raw(field) {
            None => false,
            Some(Value::Bool(flag)) => flag,
            Some(other) => self.unexpected(field, &other, "true or false").unwrap_or_default(),
        }
    }

    /// One of several words.
    pub(super) fn word<T: Clone>(&mut self, field: &str, words: &[(&str, T)]) -> Option<T> {
        let value = self.raw(field)?;
        let found = words.iter().find(|(word, _)| value.as_str() == Some(word));
        if let Some((_, meant)) = found {
            return Some(meant.clone());
        }
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.unexpected(field, &value, &one_of(&words))
    }

    /// Texts, each read as something else; `parse` says what is expected of one that can't be.
    pub(super) fn list<T>(
        &mut self,
        field: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let value = self.raw(field)?;
        let Value::Array(items) = &value else { return self.unexpected(field, &value, "a list") };
        let mut read = Vec::new();
        for (index, item) in items.iter().enumerate() {
            match item.as_str().map(&parse) {
                Some(Ok(item)) => read.push(item),
                Some(Err(problem)) => self.problem(format!("{field}[{index}]: {problem}")),
                None => self.problem(format!("{field}[{index}] is {}, expected text", excerpt::line(item))),
            }
        }
        Some(read)
    }

    /// The fields of what is at `field`, read by `read`.
    pub(super) fn nested<T>(&mut self, field: &str, read: impl FnOnce(&mut Fields<'_>) -> T) -> Option<T> {
        let value = self.raw(field)?;
        if !value.is_object() {
            self.problem(format!("{field} is {}, expected fields and values", kind(&value)));
            return None;
        }
        let mut fields = Fields::new(self.path(field), &value, self.problems);
        let read = read(&mut fields);
        fields.end();
        Some(read)
    }

    /// Whatever is left is known to nobody.
    pub(super) fn end(self) {
        let Self { at, unread, problems } = self;
        for (field, _) in unread {
            let field = if at.is_empty() { field } else { format!("{at}.{field}") };
            problems.push(format!("{} is not a field that is known here", excerpt::line(&field)));
        }
    }

    pub(super) fn problem(&mut self, problem: impl Display) {
        let problem = if self.at.is_empty() { problem.to_string() } else { format!("{}.{problem}", self.at) };
        self.problems.push(problem);
    }

    pub(super) fn unexpected<T>(&mut self, field: &str, found: &Value, expected: &str) -> Option<T> {
        let found = match found {
            Value::String(text) => excerpt::quoted(text).to_string(),
            Value::Array(_) | Value::Object(_) => kind(found).to_owned(),
            other => other.to_string(),
        };
        self.problem(format!("{field} is {found}, expected {expected}"));
        None
    }

    fn path(&self, field: &str) -> String {
        if self.at.is_empty() { field.to_owned() } else { format!("{}.{field}", self.at) }
    }
}

fn one_of(words: &[&str]) -> String {
    match words {
        [rest @ .., last] if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => words.join(""),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
