//! How Caisson's programs are configured: defaults < YAML file < environment < arguments.
//!
//! Every source is checked against the defaults, which name all keys there are. A key that does not exist, or a
//! value of another kind, is an error that names the key, its place and what was expected there.

mod layer;
mod values;

use std::path::PathBuf;

use figment::{
    Figment,
    error::Kind,
    providers::{Format, Serialized, Yaml},
};
use serde::{Serialize, de::DeserializeOwned};

pub use values::{ByteSize, Period, Secret};

use layer::{Layer, leaves};

/// The arguments about configuration that every program takes.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Sources {
    /// YAML file with settings.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Sets any key, such as `--set queue.capacity=50`. May be given again.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Shows every setting in effect and where it came from, and ends.
    #[arg(long)]
    pub print_config: bool,
}

/// Settings that were read, and where each came from.
#[derive(Debug, Clone)]
pub struct Loaded<T> {
    /// The settings in effect.
    pub settings: T,
    figment: Figment,
}

/// Why a program can't be configured this way: one line for each thing that is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct SettingsError(Vec<String>);

impl Sources {
    /// Reads the settings of a program whose environment variables begin with `env_prefix`.
    ///
    /// `arguments` are the keys that have an argument of their own, with what was given for each.
    ///
    /// # Errors
    /// When a source can't be read, names an unknown key or has a value that does not fit.
    pub fn load<T>(
        &self,
        env_prefix: &str,
        arguments: &[(&str, Option<String>)],
    ) -> Result<Loaded<T>, SettingsError>
    where
        T: Default + Serialize + DeserializeOwned,
    {
        self.load_from(env_prefix, arguments, std::env::vars_os().filter_map(text_pair))
    }

    fn load_from<T>(
        &self,
        env_prefix: &str,
        arguments: &[(&str, Option<String>)],
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Loaded<T>, SettingsError>
    where
        T: Default + Serialize + DeserializeOwned,
    {
        let defaults = Figment::from(Serialized::defaults(T::default()));
        let known = leaves(&defaults).map_err(SettingsError::single)?;
        let mut environment = Layer::environment(&known, env_prefix, environment)?;
        let mut arguments = Layer::arguments(&known, arguments, &self.set)?;
        let mut figment = defaults;
        if let Some(path) = &self.config {
            // figment passes over a file that is not there; a file that was asked for must be.
            std::fs::metadata(path)
                .map_err(|error| SettingsError::single(format!("{}: {error}", path.display())))?;
            figment = figment.merge(Yaml::file_exact(path));
        }
        loop {
            let merged = figment.clone().merge(environment.clone()).merge(arguments.clone());
            match merged.extract() {
                Ok(settings) => return Ok(Loaded { settings, figment: merged }),
                // A key that is empty by default does not tell what it takes, so a text is taken first. Each turn
                // makes one text less, so this ends.
                Err(error) if arguments.retype(&known, &error) || environment.retype(&known, &error) => {}
                Err(error) => return Err(explain(error, env_prefix)),
            }
        }
    }
}

impl SettingsError {
    fn single(line: String) -> Self {
        Self(vec![line])
    }
}

impl<T: Serialize> Loaded<T> {
    /// Every setting in effect as `key: value  # source`, secrets hidden.
    #[must_use]
    pub fn print(&self) -> String {
        let shown = Figment::from(Serialized::defaults(&self.settings));
        let line = |(key, value): (String, figment::value::Value)| {
            let source = self.figment.find_metadata(&key).map_or(layer::DEFAULT.into(), layer::describe);
            format!("{key}: {}  # {source}\n", layer::show(&value))
        };
        leaves(&shown).unwrap_or_default().into_iter().map(line).collect()
    }
}

/// One line for each error: the place, the key, what is wrong.
fn explain(errors: figment::Error, env_prefix: &str) -> SettingsError {
    let line = |error: figment::Error| {
        let key = error.path.join(".");
        let what = match &error.kind {
            Kind::UnknownField(name, expected) => {
                let key = if key.is_empty() { name } else { &key };
                format!("unknown key `{key}`; the keys here are {}", expected.join(", "))
            }
            kind if key.is_empty() => kind.to_string(),
            kind => format!("`{key}`: {kind}"),
        };
        match error.metadata.as_ref().map(layer::describe).as_deref() {
            None | Some(layer::DEFAULT) => what,
            Some(layer::ENVIRONMENT) => {
                format!("environment variable {env_prefix}{}: {what}", key.replace('.', "__").to_uppercase())
            }
            Some(place) => format!("{place}: {what}"),
        }
    };
    SettingsError(errors.into_iter().map(line).collect())
}

/// Variables that are not text are nobody's settings.
fn text_pair((name, value): (std::ffi::OsString, std::ffi::OsString)) -> Option<(String, String)> {
    Some((name.into_string().ok()?, value.into_string().ok()?))
}

#[cfg(test)]
mod tests;
