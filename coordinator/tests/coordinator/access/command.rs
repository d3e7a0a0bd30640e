//! `caisson-coordinator user …`, beside a coordinator that runs.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use super::{Browser, PASSWORD, added, audited, tries_to_sign_in};
use crate::support::{House, eventually};

fn user(data_dir: &Path, arguments: &[&str], typed: &str) -> (bool, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_caisson-coordinator"))
        .arg("user")
        .args(arguments)
        .arg("--data-dir")
        .arg(data_dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Who refuses before it reads has closed it.
    let _ = child.stdin.take().unwrap().write_all(typed.as_bytes());
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    (status.success(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[tokio::test]
async fn the_first_admin_is_added_at_the_machine_and_signs_in() {
    let house = House::start().await;
    let data_dir = house.data_dir();
    let typed = format!("{PASSWORD}\n");
    let (done, said, _) = user(&data_dir, &["add", "anna", "--role", "admin"], &typed);
    assert!(done && said == "anna may sign in, as admin\n", "{said}");
    // The coordinator looks each second whether somebody else has changed who may do what.
    eventually("anna may sign in", async || {
        (tries_to_sign_in(&house, "anna", PASSWORD).await.status == 204).then_some(())
    })
    .await;
    assert_eq!(audited(&house, "action=person_added", 1).await[0]["actor_kind"], "system");
    let (_, listed, _) = user(&data_dir, &["list"], "");
    assert!(listed.starts_with("anna: admin, signed in 20"), "{listed}");
}

#[tokio::test]
async fn a_lost_password_is_replaced_and_the_sessions_with_it_end() {
    let house = House::start().await;
    added(&house, "anna", "admin").await;
    let anna = Browser::of(&house, "anna").await;
    let file = house.data_dir().join("new-password");
    fs::write(&file, "another horse entirely\r\nwhat stands below is not read\n").unwrap();
    let (done, ..) =
        user(&house.data_dir(), &["password", "anna", "--password-file", file.to_str().unwrap()], "");
    assert!(done);
    eventually("the session ends", async || (!anna.is_signed_in().await).then_some(())).await;
    assert_eq!(tries_to_sign_in(&house, "anna", "another horse entirely").await.status, 204);
    // What the coordinator changes next goes on from there.
    added(&house, "ben", "viewer").await;
    let (_, listed, _) = user(&house.data_dir(), &["list"], "");
    assert_eq!(listed.lines().count(), 2, "{listed}");
}

#[tokio::test]
async fn it_works_before_the_coordinator_runs() {
    let mut house = House::start().await;
    house.stop().await;
    assert!(user(&house.data_dir(), &["add", "anna"], &format!("{PASSWORD}\n")).0);
    house.start_again().await;
    assert_eq!(tries_to_sign_in(&house, "anna", PASSWORD).await.status, 204);
}

#[tokio::test]
async fn what_can_not_be_done_is_told_in_one_line_without_the_password() {
    let house = House::start().await;
    added(&house, "anna", "viewer").await;
    let data_dir = house.data_dir();
    let refused = |arguments: &[&str], typed: &str| {
        let (done, said, told) = user(&data_dir, arguments, typed);
        assert!(!done && said.is_empty(), "{said}");
        assert!(typed.trim().is_empty() || !told.contains(typed.trim()), "{told}");
        told
    };
    assert!(
        refused(&["add", "anna"], "correct horse battery\n").contains("there is a person \"anna\" already")
    );
    assert!(refused(&["password", "ben"], "correct horse battery\n").contains("there is no person \"ben\""));
    assert!(refused(&["add", "ben"], "tooshort\n").contains("at least 10 characters"));
    assert!(refused(&["add", "Ben"], "").contains("a-z 0-9"));
    assert!(refused(&["add", "ben", "--role", "owner"], "").contains("viewer, submitter, operator, admin"));
    assert!(refused(&["password", "anna", "--password-file", "/nowhere"], "").contains("/nowhere"));
    let nowhere = user(Path::new("/nowhere"), &["list"], "");
    assert!(!nowhere.0 && nowhere.2.contains("data_dir /nowhere"), "{}", nowhere.2);
}
