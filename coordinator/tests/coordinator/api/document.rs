//! The OpenAPI document: valid, whole and current.

use caisson_coordinator::http;
use serde_json::Value;

use crate::support::House;

fn document() -> Value {
    serde_json::to_value(http::openapi()).unwrap()
}

/// Every object within a value, the value itself included.
fn objects(value: &Value) -> Vec<&serde_json::Map<String, Value>> {
    match value {
        Value::Object(object) => std::iter::once(object).chain(object.values().flat_map(objects)).collect(),
        Value::Array(values) => values.iter().flat_map(objects).collect(),
        _ => Vec::new(),
    }
}

#[tokio::test]
async fn the_document_that_is_served_is_the_one_that_is_generated() {
    let house = House::start().await;
    let served = house.get("/api/v1/openapi.json").await;
    assert_eq!(served.header("content-type"), "application/json");
    assert_eq!(served.json(), document());
}

/// The dashboard's types are generated from its copy of the document.
#[test]
fn the_dashboard_has_the_current_document() {
    let copy = concat!(env!("CARGO_MANIFEST_DIR"), "/../web/openapi.json");
    let current = http::openapi().to_pretty_json().unwrap() + "\n";
    if std::env::var_os("CAISSON_UPDATE").is_some() {
        std::fs::write(copy, &current).unwrap();
    }
    let found = std::fs::read_to_string(copy).unwrap();
    assert!(
        found == current,
        "run `CAISSON_UPDATE=1 cargo test -p caisson-coordinator the_dashboard_has`, then `npm run api` in web/"
    );
}

#[test]
fn every_reference_leads_somewhere() {
    let document = document();
    let references: Vec<&str> =
        objects(&document).iter().filter_map(|object| object.get("$ref")?.as_str()).collect();
    assert!(references.len() > 20, "{references:?}");
    for reference in references {
        let pointer = reference.strip_prefix('#').expect("it stays within the document");
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}

#[test]
fn every_operation_says_what_it_takes_and_gives() {
    let document = document();
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    let mut names = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        assert!(path.starts_with("/api/v1/"), "{path}");
        for (method, operation) in operations.as_object().unwrap() {
            let what = format!("{method} {path}");
            names.push(operation["operationId"].as_str().expect(&what).to_owned());
            assert!(operation["summary"].as_str().is_some_and(|text| text.ends_with('.')), "{what}");
            assert!(!operation["responses"].as_object().expect(&what).is_empty(), "{what}");
            let described = operation["parameters"].as_array().into_iter().flatten();
            let in_path = described.filter(|one| one["in"] == "path").count();
            assert_eq!(in_path, path.matches('{').count(), "{what}");
        }
    }
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "operations are named once each: {names:?}");
}

#[test]
fn what_must_be_submitted_is_told() {
    let required = &document()["components"]["schemas"]["NewBuild"]["required"];
    assert_eq!(*required, serde_json::json!(["commit", "command"]));
}

#[tokio::test]
async fn a_build_has_the_fields_that_the_document_names() {
    let house = House::start().await;
    house.submitted("a").await;
    let shown = house.build("1").await;
    let schema = &document()["components"]["schemas"]["Build"];
    let described: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
    assert_eq!(shown.as_object().unwrap().keys().collect::<Vec<_>>(), described);
}
