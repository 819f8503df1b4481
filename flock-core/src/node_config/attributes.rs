//! What announcements carry as it is written in a manifest: read from there, and written again.

use std::fmt::Display;
use std::str::FromStr;

use serde_json::{Map, Value};

use super::export::{Attributes, Export};
use super::fields::Fields;

pub(super) fn read(fields: &mut Fields<'_>) -> Export {
    let summaries = fields.nested("summaries", level).unwrap_or_default();
    let anycast = fields.nested("anycast", level).unwrap_or_default();
    let exceptions = fields.nested("exceptions", level).unwrap_or_default();
    Export { all: level(fields), summaries, anycast, exceptions }
}

fn level(fields: &mut Fields<'_>) -> Attributes {
    Attributes {
        communities: fields.list("communities", parse).unwrap_or_default().into_iter().collect(),
        large_communities: fields.list("largeCommunities", parse).unwrap_or_default().into_iter().collect(),
        local_preference: fields.number("localPreference", 0..=u32::MAX),
        med: fields.number("med", 0..=u32::MAX),
        prepend: fields.number("prepend", 0..=Attributes::MAX_PREPEND),
    }
}

fn parse<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// What [`read`] would read as this.
pub(super) fn write(export: &Export) -> Value {
    let mut written = write_level(&export.all);
    for (field, level) in
        [("summaries", &export.summaries), ("anycast", &export.anycast), ("exceptions", &export.exceptions)]
    {
        if !level.is_empty() {
            written.insert(field.to_owned(), Value::Object(write_level(level)));
        }
    }
    Value::Object(written)
}

fn write_level(level: &Attributes) -> Map<String, Value> {
    let Attributes { communities, large_communities, local_preference, med, prepend } = level;
    let mut written = Map::new();
    let communities: Vec<Value> = communities.iter().map(|one| one.to_string().into()).collect();
    let large: Vec<Value> = large_communities.iter().map(|one| one.to_string().into()).collect();
    for (field, list) in [("communities", communities), ("largeCommunities", large)] {
        if !list.is_empty() {
            written.insert(field.to_owned(), list.into());
        }
    }
    let numbers = [
        ("localPreference", local_preference.map(Value::from)),
        ("med", med.map(Value::from)),
        ("prepend", prepend.map(Value::from)),
    ];
    for (field, number) in numbers {
        if let Some(number) = number {
            written.insert(field.to_owned(), number);
        }
    }
    written
}
