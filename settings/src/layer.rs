//! Settings that come as text, from the environment and from arguments: each is read as the kind of value its key
//! has by default, so `TOKEN=0123` stays a text and `CAPACITY=4` is a number.

use figment::{
    Figment, Metadata, Profile, Provider, Source,
    error::{Actual, Kind},
    value::{Dict, Map, Value},
};

use crate::SettingsError;

/// What the sources are called where a person is told of one.
pub(crate) const DEFAULT: &str = "default";
pub(crate) const ENVIRONMENT: &str = "environment";
pub(crate) const ARGUMENTS: &str = "arguments";

/// One source of texts, and what it sets.
#[derive(Clone)]
pub(crate) struct Layer {
    name: &'static str,
    values: Dict,
}

impl Layer {
    /// Those variables that begin with `prefix`; `__` stands for a level.
    pub(crate) fn environment(
        known: &[(String, Value)],
        prefix: &str,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, SettingsError> {
        let mut layer = Self { name: ENVIRONMENT, values: Dict::new() };
        let mut errors = Vec::new();
        for (name, text) in variables {
            let Some(key) = name.strip_prefix(prefix) else { continue };
            let key = key.to_lowercase().replace("__", ".");
            if let Err(error) = layer.set(known, &key, &text) {
                errors.push(format!("environment variable {name}: {error}"));
            }
        }
        if errors.is_empty() { Ok(layer) } else { Err(SettingsError(errors)) }
    }

    /// Keys that have an argument of their own, then those given with `--set`.
    pub(crate) fn arguments(
        known: &[(String, Value)],
        named: &[(&str, Option<String>)],
        set: &[String],
    ) -> Result<Self, SettingsError> {
        let mut layer = Self { name: ARGUMENTS, values: Dict::new() };
        let mut errors = Vec::new();
        for (key, text) in named {
            if let Some(Err(error)) = text.as_ref().map(|text| layer.set(known, key, text)) {
                errors.push(format!("argument --{}: {error}", key.replace(['.', '_'], "-")));
            }
        }
        for pair in set {
            let outcome = match pair.split_once('=') {
                Some((key, text)) => layer.set(known, key, text),
                None => Err("write it as KEY=VALUE".to_owned()),
            };
            if let Err(error) = outcome {
                errors
                    .push(format!("argument --set {}: {error}", pair.split('=').next().unwrap_or_default()));
            }
        }
        if errors.is_empty() { Ok(layer) } else { Err(SettingsError(errors)) }
    }

    /// Reads texts as numbers or truth values where that is what their keys, empty by default, turned out to take.
    /// Returns whether there were any.
    pub(crate) fn retype(&mut self, known: &[(String, Value)], errors: &figment::Error) -> bool {
        let mut retyped = false;
        for error in errors.clone() {
            let key = error.path.join(".");
            let empty =
                known.iter().any(|(name, default)| *name == key && matches!(default, Value::Empty(..)));
            let Kind::InvalidType(Actual::Str(text), _) = &error.kind else { continue };
            let value = number(text).or_else(|| text.parse::<bool>().map(Value::from).ok());
            let place = find(&mut self.values, &key);
            if let (true, Some(value), Some(place)) = (empty, value, place)
                && matches!(place, Value::String(..))
            {
                *place = value;
                retyped = true;
            }
        }
        retyped
    }

    fn set(&mut self, known: &[(String, Value)], key: &str, text: &str) -> Result<(), String> {
        let Some((_, default)) = known.iter().find(|(name, _)| name == key) else {
            return Err(format!("unknown key `{key}`{}", nearest(known, key)));
        };
        let value = typed(text, default)?;
        let value = key.rsplit('.').fold(value, |value, part| Dict::from([(part.to_owned(), value)]).into());
        if let Value::Dict(_, dict) = value {
            merge(&mut self.values, dict);
        }
        Ok(())
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name)
    }

    fn data(&self) -> figment::error::Result<Map<Profile, Dict>> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

/// Every key that has a value of its own, written with dots, and the value.
pub(crate) fn leaves(figment: &Figment) -> Result<Vec<(String, Value)>, String> {
    fn walk(prefix: &str, dict: Dict, found: &mut Vec<(String, Value)>) {
        for (key, value) in dict {
            let key = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
            match value {
                Value::Dict(_, dict) => walk(&key, dict, found),
                value => found.push((key, value)),
            }
        }
    }
    let mut data = figment.data().map_err(|error| error.to_string())?;
    let mut found = Vec::new();
    walk("", data.remove(&Profile::Default).unwrap_or_default(), &mut found);
    Ok(found)
}

/// Where a value came from, in a few words.
pub(crate) fn describe(metadata: &Metadata) -> String {
    match &metadata.source {
        Some(Source::File(path)) => path.display().to_string(),
        _ if [ENVIRONMENT, ARGUMENTS].contains(&&*metadata.name) => metadata.name.to_string(),
        _ => DEFAULT.into(),
    }
}

/// A value as it would stand in a file.
pub(crate) fn show(value: &Value) -> String {
    serde_yaml::to_string(value).map_or_else(|_| "?".into(), |text| text.trim_end().replace('\n', " "))
}

fn typed(text: &str, default: &Value) -> Result<Value, String> {
    match default {
        Value::Num(..) => number(text).ok_or_else(|| format!("found {text:?}, expected a number")),
        Value::Bool(..) => text
            .parse::<bool>()
            .map(Value::from)
            .map_err(|_| format!("found {text:?}, expected true or false")),
        Value::Array(..) => list(text),
        Value::Empty(..) if text == "null" => Ok(default.clone()),
        _ => Ok(Value::from(text)),
    }
}

fn number(text: &str) -> Option<Value> {
    let whole = text.parse::<u64>().map(Value::from);
    whole.or_else(|_| text.parse::<f64>().map(Value::from)).ok()
}

/// The place of a key that is written with dots.
fn find<'a>(dict: &'a mut Dict, key: &str) -> Option<&'a mut Value> {
    match key.split_once('.') {
        None => dict.get_mut(key),
        Some((section, rest)) => match dict.get_mut(section)? {
            Value::Dict(_, dict) => find(dict, rest),
            _ => None,
        },
    }
}

/// A list is written as in YAML, `[a, b]`, or without the brackets.
fn list(text: &str) -> Result<Value, String> {
    let text = text.trim();
    if text.starts_with('[') {
        return serde_yaml::from_str(text)
            .map_err(|error| format!("expected a list such as [a, b]: {error}"));
    }
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    Ok(Value::from(parts.map(Value::from).collect::<Vec<_>>()))
}

fn merge(into: &mut Dict, from: Dict) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Dict(_, into)), Value::Dict(_, from)) => merge(into, from),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// The keys of the same section, or all sections, to choose from.
fn nearest(known: &[(String, Value)], key: &str) -> String {
    let section = key.rsplit_once('.').map_or("", |(section, _)| section);
    let same = |name: &&str| name.rsplit_once('.').map_or("", |(section, _)| section) == section;
    let names: Vec<&str> = known.iter().map(|(name, _)| name.as_str()).collect();
    let near: Vec<&str> = names.iter().copied().filter(same).collect();
    format!("; the keys here are {}", if near.is_empty() { names } else { near }.join(", "))
}
