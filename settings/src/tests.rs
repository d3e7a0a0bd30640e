use std::{fs, time::Duration};

use serde::Deserialize;
use tempfile::TempDir;

use super::*;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    listen: String,
    repository_url: Option<String>,
    token: Option<Secret>,
    labels: Vec<String>,
    queue: Queue,
    /// Empty by default, which does not tell what they take.
    retries: Option<u32>,
    ratio: Option<f64>,
    verbose: Option<bool>,
    size: Option<ByteSize>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Queue {
    capacity: u32,
    patience: Period,
    size: ByteSize,
    strict: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let queue =
            Queue { capacity: 1000, patience: Period::seconds(90), size: ByteSize::mib(256), strict: false };
        Self {
            listen: "127.0.0.1:3000".into(),
            repository_url: None,
            token: None,
            labels: vec![],
            queue,
            retries: None,
            ratio: None,
            verbose: None,
            size: None,
        }
    }
}

#[derive(Default)]
struct Given {
    file: Option<&'static str>,
    environment: Vec<(&'static str, &'static str)>,
    arguments: Vec<(&'static str, Option<String>)>,
    set: Vec<&'static str>,
}

impl Given {
    fn load(self) -> Result<Loaded<Settings>, String> {
        let folder = TempDir::new().unwrap();
        let config = self.file.map(|text| {
            let path = folder.path().join("caisson.yaml");
            fs::write(&path, text).unwrap();
            path
        });
        let set = self.set.into_iter().map(str::to_owned).collect();
        let environment =
            self.environment.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        Sources { config, set, print_config: false }
            .load_from("CAISSON_TEST_", &self.arguments, environment)
            .map_err(|error| error.to_string().replace(&folder.path().display().to_string(), "<folder>"))
    }

    fn error(self) -> String {
        self.load().unwrap_err()
    }
}

#[test]
fn arguments_win_over_the_environment_which_wins_over_the_file_which_wins_over_defaults() {
    let loaded = Given {
        file: Some("listen: file\nqueue: { capacity: 1, patience: 1s, size: 1KiB }"),
        environment: vec![("CAISSON_TEST_QUEUE__CAPACITY", "2"), ("CAISSON_TEST_QUEUE__PATIENCE", "2s")],
        arguments: vec![("listen", None), ("repository_url", Some("https://example.org/x".into()))],
        set: vec!["queue.patience=3m", "labels=gpu, arm64"],
    }
    .load()
    .unwrap();
    let settings = &loaded.settings;
    assert_eq!(settings.listen, "file");
    assert_eq!(settings.repository_url.as_deref(), Some("https://example.org/x"));
    assert_eq!(settings.labels, ["gpu", "arm64"]);
    assert_eq!(settings.queue.capacity, 2);
    assert_eq!(settings.queue.patience.0, Duration::from_secs(180));
    assert_eq!(settings.queue.size, ByteSize(1024));
    assert!(!settings.queue.strict);
}

#[test]
fn what_is_in_effect_is_shown_with_its_source_and_without_secrets() {
    let shown = Given {
        environment: vec![("CAISSON_TEST_TOKEN", "0123"), ("CAISSON_TEST_LABELS", "[a, b]")],
        set: vec!["queue.capacity=5"],
        ..Given::default()
    }
    .load()
    .unwrap()
    .print();
    assert!(shown.contains("listen: 127.0.0.1:3000  # default\n"), "{shown}");
    assert!(shown.contains("queue.capacity: 5  # arguments\n"), "{shown}");
    assert!(shown.contains("queue.patience: 1m30s  # default\n"), "{shown}");
    assert!(shown.contains("queue.size: 256MiB  # default\n"), "{shown}");
    assert!(shown.contains("token: (hidden)  # environment\n"), "{shown}");
    assert!(!shown.contains("0123"), "{shown}");
}

#[test]
fn a_secret_that_looks_like_a_number_stays_as_it_is() {
    let given = Given { environment: vec![("CAISSON_TEST_TOKEN", "0123")], ..Given::default() };
    assert_eq!(given.load().unwrap().settings.token.unwrap().expose(), "0123");
}

#[test]
fn what_is_empty_by_default_takes_what_its_kind_takes() {
    let settings = Given {
        environment: vec![
            ("CAISSON_TEST_RETRIES", "3"),
            ("CAISSON_TEST_VERBOSE", "true"),
            ("CAISSON_TEST_TOKEN", "0123"),
        ],
        set: vec!["ratio=1.5", "size=1KiB", "repository_url=42"],
        ..Given::default()
    }
    .load()
    .unwrap()
    .settings;
    assert_eq!((settings.retries, settings.ratio, settings.verbose), (Some(3), Some(1.5), Some(true)));
    assert_eq!((settings.size, settings.repository_url.as_deref()), (Some(ByteSize(1024)), Some("42")));
    assert_eq!(settings.token.unwrap().expose(), "0123");

    let error = Given { set: vec!["retries=many"], ..Given::default() }.error();
    assert!(error.contains("`retries`") && error.contains("many"), "{error}");
    let nothing = Given { set: vec!["retries=null"], ..Given::default() }.load().unwrap();
    assert_eq!(nothing.settings.retries, None);
}

#[test]
fn an_unknown_key_is_named_with_its_place_and_the_keys_there_are() {
    let file = Given { file: Some("queue: { capasity: 5 }"), ..Given::default() }.error();
    assert_eq!(
        file,
        "<folder>/caisson.yaml: unknown key `queue.capasity`; the keys here are capacity, patience, size, strict"
    );
    let variable =
        Given { environment: vec![("CAISSON_TEST_QUEUE__CAPASITY", "5")], ..Given::default() }.error();
    assert!(
        variable
            .starts_with("environment variable CAISSON_TEST_QUEUE__CAPASITY: unknown key `queue.capasity`")
    );
    let argument = Given { set: vec!["capacity=5"], ..Given::default() }.error();
    assert!(
        argument.starts_with("argument --set capacity: unknown key `capacity`; the keys here are "),
        "{argument}"
    );
}

#[test]
fn a_value_that_does_not_fit_is_named_with_what_was_expected() {
    let file = Given { file: Some("queue: { capacity: many }"), ..Given::default() }.error();
    assert!(file.starts_with("<folder>/caisson.yaml: `queue.capacity`: "), "{file}");
    assert!(file.contains("many") && file.contains("expected u32"), "{file}");

    let file = Given { file: Some("queue: { patience: 10 }"), ..Given::default() }.error();
    assert!(file.contains(r#"found "10", expected a duration such as"#), "{file}");

    let variable =
        Given { environment: vec![("CAISSON_TEST_QUEUE__SIZE", "big")], ..Given::default() }.error();
    assert!(
        variable.contains("CAISSON_TEST_QUEUE__SIZE: `queue.size`: found \"big\", expected a size"),
        "{variable}"
    );

    let argument = Given { set: vec!["queue.strict=maybe"], ..Given::default() }.error();
    assert_eq!(argument, r#"argument --set queue.strict: found "maybe", expected true or false"#);
}

#[test]
fn other_programs_variables_are_not_ours() {
    let given = Given { environment: vec![("CAISSON_OTHER_X", "1"), ("CI_TOKEN", "1")], ..Given::default() };
    assert!(given.load().is_ok());
}

#[test]
fn a_file_that_is_not_there_or_not_yaml_is_an_error() {
    let sources = Sources { config: Some("/nowhere/caisson.yaml".into()), ..Sources::default() };
    let error = sources.load::<Settings>("CAISSON_TEST_", &[]).unwrap_err().to_string();
    assert!(error.starts_with("/nowhere/caisson.yaml: No such file"), "{error}");
    let error = Given { file: Some("listen: [unclosed"), ..Given::default() }.error();
    assert!(error.contains("caisson.yaml") && error.contains("line"), "{error}");
}

#[test]
fn values_read_back_as_they_are_written() {
    for text in ["250ms", "10s", "1m30s", "1h", "0s"] {
        let period: Period = serde_yaml::from_str(text).unwrap();
        assert_eq!(period.to_string(), text);
    }
    for text in ["0B", "1000B", "64KiB", "512MiB", "2GiB", "1025KiB"] {
        let size: ByteSize = serde_yaml::from_str(text).unwrap();
        assert_eq!(size.to_string(), text);
    }
    for wrong in ["-1s", "10", "soon", "99999999999h"] {
        assert!(serde_yaml::from_str::<Period>(wrong).is_err(), "{wrong}");
    }
}
