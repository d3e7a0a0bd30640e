//! What holds of the SQLite adapter beside the laws: what it does when its file or disk is not as it should be.

use std::{fs, path::Path, sync::Arc, time::Duration};

use caisson_coordinator::{coordinator::Coordinator, settings::Settings};
use rusqlite::Connection;

use super::*;
use crate::support::Tmpfs;

fn shelf_on(disk: &Tmpfs) -> Shelf {
    Shelf { store: Arc::new(open(&disk.path().join("caisson.db"))), folder: None }
}

/// As many builds as a disk that is nearly full can't take.
fn many(from: u64) -> Vec<Change> {
    (from..from + 200).map(|number| with_command(number, &"x".repeat(4000))).collect()
}

#[tokio::test]
async fn builds_of_an_older_release_are_found_and_read() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("caisson.db");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(include_str!("../../../src/store/sqlite/schema-1.sql")).unwrap();
    old.pragma_update(None, "user_version", 1).unwrap();
    old.execute_batch(
        "INSERT INTO builds (number, id, repository_url, commit_name, command, image, env, labels, timeout_seconds,
             status, queued_at)
         VALUES (1, '019aac1e-7c00-7000-8000-000000000001', 'https://example.org/a.git', 'main', 'make old', 'busybox',
             '{}', '[]', 60, 'canceled', 1)",
    )
    .unwrap();
    drop(old);
    let shelf = Shelf { store: Arc::new(open(&path)), folder: Some(folder) };
    assert_eq!(shelf.numbers(with_text("make old")).await, [1]);
    assert_eq!(shelf.numbers(with_text("make new")).await, NONE);
    let spec = shelf.find(1).await.spec;
    assert!(spec.limits.is_empty() && spec.network.is_bridge());
}

fn error_of(path: &Path) -> String {
    match SqliteStore::open(path) {
        Ok(_) => panic!("it was opened"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn a_full_disk_is_an_outage_that_ends_by_itself_and_loses_nothing() {
    let disk = Tmpfs::mount(4096);
    let shelf = shelf_on(&disk);
    shelf.commit(&[submitted(1), assigned(1, 1, "r1")]).await;
    disk.fill();
    // What fits into what the files have already may still be stored; in the end nothing does.
    let mut stored = 1;
    let error = loop {
        match shelf.store.commit(&[with_command(stored + 1, &"x".repeat(4000))], 1).await {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(error.to_string().contains("full"), "{error}");
    let error = shelf.refuses(&many(stored + 1)).await;
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert_eq!(shelf.find(1).await.attempts.len(), 1, "what is stored can be read");

    disk.empty();
    shelf.store.probe().await.unwrap();
    shelf.commit(&many(stored + 1)).await;
    assert_eq!(shelf.numbers(BuildFilter::default()).await, (1..=stored + 200).rev().collect::<Vec<_>>());
    assert!(shelf.live(1).await.unwrap().runner.is_some());
}

#[tokio::test]
async fn a_full_disk_fails_the_probe() {
    let disk = Tmpfs::mount(2048);
    let shelf = shelf_on(&disk);
    disk.fill();
    let error =
        super::super::support::eventually("the probe notices", async || shelf.store.probe().await.err())
            .await;
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    disk.empty();
    shelf.store.probe().await.unwrap();
}

#[tokio::test]
async fn a_file_that_another_process_holds_is_an_outage_that_ends_by_itself() {
    let shelf = Shelf::sqlite();
    shelf.commit(&[submitted(1)]).await;
    let other = Connection::open(shelf.folder.as_ref().unwrap().path().join("caisson.db")).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let error = shelf.refuses(&[submitted(2)]).await;
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(matches!(shelf.store.probe().await, Err(StoreError::Unavailable(_))));
    assert_eq!(shelf.numbers(BuildFilter::default()).await, [1], "what is stored can be read");
    other.execute_batch("ROLLBACK").unwrap();
    shelf.store.probe().await.unwrap();
    shelf.commit(&[submitted(2)]).await;
}

#[tokio::test]
async fn a_file_that_is_held_for_a_moment_is_waited_for() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("caisson.db");
    let store = SqliteStore::open_patient(&path, Duration::from_secs(30)).unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let commit = tokio::spawn(async move { store.commit(&[submitted(1)], 1).await });
    tokio::task::yield_now().await;
    assert!(!commit.is_finished());
    other.execute_batch("ROLLBACK").unwrap();
    commit.await.unwrap().unwrap();
}

#[test]
fn a_file_of_a_newer_release_is_refused_and_left_alone() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("caisson.db");
    drop(open(&path));
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 1000).unwrap();
    let error = error_of(&path);
    assert!(error.contains("1000") && error.contains("install a newer one"), "{error}");
    let kept: i64 =
        Connection::open(&path).unwrap().pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(kept, 1000);
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("caisson.db");
    let foreign = "My dear diary, ".repeat(1000);
    fs::write(&path, &foreign).unwrap();
    let error = error_of(&path);
    assert!(error.contains("broken") && error.contains("not a database"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), foreign);
}

#[tokio::test]
async fn a_damaged_page_breaks_the_store_with_a_message() {
    let shelf = Shelf::sqlite();
    let path = shelf.folder.as_ref().unwrap().path().join("caisson.db");
    shelf.commit(&many(1)).await;
    let shelf = shelf.reopened();
    Connection::open(&path).unwrap().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[4096..].fill(0xA5);
    fs::write(&path, bytes).unwrap();
    let damaged = Arc::new(open(&path));
    let error = damaged.restore().await.unwrap_err();
    assert!(matches!(error, StoreError::Broken(_)) && error.to_string().contains("malformed"), "{error}");
    drop(shelf);
}

#[tokio::test]
async fn durability_is_as_promised() {
    let shelf = Shelf::sqlite();
    let path = shelf.folder.as_ref().unwrap().path().join("caisson.db");
    let mode: String =
        Connection::open(&path).unwrap().pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
}

#[tokio::test]
async fn a_second_coordinator_on_the_same_folder_is_refused() {
    let folder = TempDir::new().unwrap();
    let settings =
        Settings { listen: "127.0.0.1:0".into(), data_dir: folder.path().to_owned(), ..Settings::default() };
    let first = Coordinator::start(settings.check().unwrap()).await.unwrap();
    let Err(refused) = Coordinator::start(settings.check().unwrap()).await else { panic!("it was started") };
    let refused = format!("{refused:#}");
    assert!(refused.contains("another coordinator") && refused.contains("data_dir"), "{refused}");
    drop(first);
    Coordinator::start(settings.check().unwrap()).await.unwrap();
}
