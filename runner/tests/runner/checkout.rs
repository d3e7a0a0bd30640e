//! Where code comes from: every kind of address and name, and what is wrong with those that lead nowhere.

use std::{
    fs::Permissions,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use caisson_protocol::{CoordinatorMessage, ErrorReason, Outcome, Stream};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
};

use super::World;
use crate::world::{Coordinator, Entry, Repository, Runner, kernel, names, servers, spec, spec_from, until};

async fn error(world: &World, url: &str, commit: &str) -> (ErrorReason, String) {
    let attempt = world.coordinator.assign(spec(url, commit, "true"));
    match world.outcome(attempt).await {
        Outcome::Errored { reason, message } => (reason, message),
        other => panic!("{url} at {commit}: {other:?}"),
    }
}

#[tokio::test]
async fn branches_tags_and_shas_are_found() {
    let world = World::with(&["capacity=8"]).await;
    let repository = &world.repository;
    let first = repository.head();
    repository.annotated_tag("v1.0");
    let second = repository.commit(&[("second.txt", "2\n")]);
    repository.branch("feature/x");
    // A branch and a tag of one name: the branch is meant.
    repository.annotated_tag("both");
    let third = repository.commit(&[("third.txt", "3\n")]);
    repository.branch("both");

    for (name, sha) in [
        ("main", &third),
        ("HEAD", &third),
        ("feature/x", &second),
        ("v1.0", &first),
        ("both", &third),
        (first.as_str(), &first),
        (&second[..8], &second),
    ] {
        let attempt = world.coordinator.assign(spec(&repository.url(), name, "true"));
        let report = world.coordinator.finished(attempt).await;
        assert_eq!(report.outcome, Outcome::Succeeded, "{name}");
        assert_eq!(report.resolved_commit.unwrap().as_str(), sha, "{name}");
    }
    world.ends_clean().await;
}

/// Not even a branch that bears the name of another commit is taken for it.
#[tokio::test]
async fn a_whole_sha_is_that_commit_whatever_branches_are_called() {
    let world = World::new().await;
    let repository = &world.repository;
    let http = servers::git_over_http(repository.path.parent().unwrap()).await;
    let nowhere = "0123456789012345678901234567890123456789";
    let sha = repository.head();
    repository.commit(&[("file.txt", "another\n")]);
    for branch in [nowhere, &sha] {
        repository.branch(branch);
    }
    for url in [repository.url(), format!("http://{http}/repository")] {
        let attempt = world.coordinator.assign(spec(&url, &sha, "cat file.txt"));
        assert_eq!(world.outcome(attempt).await, Outcome::Succeeded, "{url}");
        assert_eq!(world.coordinator.log_text(attempt, Stream::Stdout), "hello\n");
        let (reason, message) = error(&world, &url, nowhere).await;
        assert_eq!(reason, ErrorReason::CommitNotFound, "{message}");
    }
    world.ends_clean().await;
}

#[tokio::test]
async fn a_commit_that_no_branch_reaches_is_fetched_by_its_sha() {
    let world = World::new().await;
    let sha = world.repository.commit_unreachable(&[("lost.txt", "lost\n")]);
    // Of a repository on this host everything is taken over; a server gives what it is asked for.
    world.repository.gives_any_commit();
    let http = servers::git_over_http(world.repository.path.parent().unwrap()).await;
    for url in [world.repository.url(), format!("http://{http}/repository")] {
        let attempt = world.coordinator.assign(spec(&url, &sha, "cat lost.txt"));
        assert_eq!(world.outcome(attempt).await, Outcome::Succeeded, "{url}");
        assert_eq!(world.coordinator.log_text(attempt, Stream::Stdout), "lost\n", "{url}");
    }
    world.ends_clean().await;
}

/// A name that was a file is a folder, or the other way round, in the runner's mirror.
#[tokio::test]
async fn a_branch_that_is_renamed_is_found_by_its_new_name() {
    let world = World::new().await;
    let repository = &world.repository;
    let http = servers::git_over_http(repository.path.parent().unwrap()).await;
    repository.branch("deeper");
    repository.branch("higher/1");
    let urls = [repository.url(), format!("http://{http}/repository")];
    let builds = async |name| {
        for url in &urls {
            let attempt = world.coordinator.assign(spec(url, name, "true"));
            assert_eq!(world.outcome(attempt).await, Outcome::Succeeded, "{name} of {url}");
        }
    };
    for name in ["deeper", "higher/1", "main"] {
        builds(name).await;
    }
    for (from, to) in [("deeper", "deeper/1"), ("higher/1", "higher"), ("main", "main/1")] {
        repository.rename_branch(from, to);
        builds(to).await;
        builds("HEAD").await;
        let (reason, message) = error(&world, &urls[1], from).await;
        assert_eq!(reason, ErrorReason::CommitNotFound, "{message}");
    }
    world.ends_clean().await;
}

#[tokio::test]
async fn repositories_come_over_http_and_over_gits_own_protocol() {
    let world = World::with(&["capacity=2"]).await;
    let root = world.repository.path.parent().unwrap();
    let http = servers::git_over_http(root).await;
    let (_daemon, port) = servers::git_daemon(root).await;
    let over_http =
        world.coordinator.assign(spec(&format!("http://{http}/repository"), "main", "cat file.txt"));
    let over_git =
        world.coordinator.assign(spec(&format!("git://127.0.0.1:{port}/repository"), "main", "cat file.txt"));
    for attempt in [over_http, over_git] {
        let outcome = world.outcome(attempt).await;
        let said = world.coordinator.log_text(attempt, Stream::Caisson);
        assert_eq!(outcome, Outcome::Succeeded, "{said}");
        assert_eq!(world.coordinator.log_text(attempt, Stream::Stdout), "hello\n");
        // A server that says how it gets on is not another checkout that is waited for.
        assert!(!said.contains("Waiting"), "{said}");
    }

    let (reason, message) = error(&world, &format!("http://{http}/nosuch"), "main").await;
    assert_eq!(reason, ErrorReason::RepositoryNotFound, "{message}");
    let (reason, message) = error(&world, &format!("git://127.0.0.1:{port}/nosuch"), "main").await;
    assert_eq!(reason, ErrorReason::RepositoryNotFound, "{message}");
    let sha = "0123456789012345678901234567890123456789";
    let (reason, message) = error(&world, &format!("http://{http}/repository"), sha).await;
    assert_eq!(reason, ErrorReason::CommitNotFound, "{message}");
    world.ends_clean().await;
}

#[tokio::test]
async fn a_repository_that_is_not_there_is_told_from_a_server_that_is_not() {
    let world = World::with(&["git.stall=1s", "capacity=4"]).await;
    let silent = servers::silent().await;
    let (reason, message) = error(&world, "file:///nowhere/at/all", "main").await;
    assert_eq!(reason, ErrorReason::RepositoryNotFound, "{message}");
    let (reason, message) = error(&world, "http://127.0.0.1:1/app.git", "main").await;
    assert_eq!(reason, ErrorReason::CloneFailed, "{message}");
    let (reason, message) = error(&world, "http://no-such-host.invalid/app.git", "main").await;
    assert_eq!(reason, ErrorReason::CloneFailed, "{message}");
    assert!(message.contains("no-such-host.invalid"), "{message}");
    for scheme in ["http", "https", "git", "ssh"] {
        let (reason, message) = error(&world, &format!("{scheme}://{silent}/app.git"), "main").await;
        assert_eq!(reason, ErrorReason::CloneFailed, "{scheme}: {message}");
        // Who did not answer, and not only that nothing went on.
        assert!(message.contains(&silent.to_string()), "{scheme}: {message}");
    }
    world.ends_clean().await;
}

#[tokio::test]
async fn the_checkout_is_a_repository_that_works_inside_the_container() {
    let world = World::new().await;
    world.repository.annotated_tag("v1.0");
    world.repository.commit(&[("second.txt", "2\n")]);
    // git itself is not in the test image, so what it would read is looked at from outside.
    let attempt = world.submit("echo ready; while [ ! -e go ]; do sleep 0.05; done");
    world.coordinator.prints(attempt, "ready").await;
    let workspace = world.runner.work_dir().join("tmp").join(attempt.build.to_string());
    let git = |arguments: &[&str]| {
        let output =
            std::process::Command::new("git").arg("-C").arg(&workspace).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    assert!(git(&["describe"]).starts_with("v1.0-1-g"));
    assert_eq!(git(&["log", "--oneline"]).lines().count(), 2);
    assert_eq!(git(&["status", "--porcelain"]), "");
    assert_eq!(git(&["remote", "get-url", "origin"]), world.repository.url());
    assert_eq!(git(&["rev-parse", "origin/main"]), world.repository.head());
    git(&["fsck"]);
    assert!(!workspace.join(".git/objects/info/alternates").exists());
    world.go(attempt);
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    world.ends_clean().await;
}

#[tokio::test]
async fn a_command_cant_change_what_the_next_build_gets() {
    let world = World::new().await;
    let spoils =
        world.submit("find .git/objects -type f -exec sh -c 'chmod u+w $0; echo spoilt > $0' {} \\;");
    assert_eq!(world.outcome(spoils).await, Outcome::Succeeded);
    let next = world.submit("cat file.txt");
    assert_eq!(world.outcome(next).await, Outcome::Succeeded);
    assert_eq!(world.coordinator.log_text(next, Stream::Stdout), "hello\n");
    // Not because what was spoilt has been found out and fetched again.
    let said = world.coordinator.log_text(next, Stream::Caisson);
    assert!(!said.contains("anew"), "{said}");
    world.ends_clean().await;
}

#[tokio::test]
async fn a_known_commit_needs_no_server() {
    let world = World::new().await;
    let root = world.repository.path.parent().unwrap();
    let (daemon, port) = servers::git_daemon(root).await;
    let url = format!("git://127.0.0.1:{port}/repository");
    let sha = world.repository.head();
    let first = world.coordinator.assign(spec(&url, &sha, "true"));
    assert_eq!(world.outcome(first).await, Outcome::Succeeded);
    drop(daemon);
    let second = world.coordinator.assign(spec(&url, &sha, "true"));
    assert_eq!(world.outcome(second).await, Outcome::Succeeded);
    world.ends_clean().await;
}

#[tokio::test]
async fn a_damaged_mirror_is_made_anew() {
    let world = World::new().await;
    let first = world.submit("true");
    assert_eq!(world.outcome(first).await, Outcome::Succeeded);
    let mirror = only_mirror(&world);
    let objects = mirror.join("objects");
    for folder in names(&objects) {
        for file in names(&objects.join(&folder)) {
            let path = objects.join(&folder).join(file);
            let _ = std::fs::remove_file(&path);
            std::fs::write(path, "damaged").unwrap();
        }
    }
    let by_name = world.submit("cat file.txt");
    assert_eq!(world.outcome(by_name).await, Outcome::Succeeded);
    assert_eq!(world.coordinator.log_text(by_name, Stream::Stdout), "hello\n");

    // A commit that is known as such, and whose files are not there.
    let sha = world.repository.head();
    lose_contents(&mirror, &sha);
    let by_sha = world.coordinator.assign(spec(&world.repository.url(), &sha, "cat file.txt"));
    assert_eq!(world.outcome(by_sha).await, Outcome::Succeeded);
    assert_eq!(world.coordinator.log_text(by_sha, Stream::Stdout), "hello\n");
    world.ends_clean().await;
}

/// As a loss of power leaves it, which keeps names of files and not what is in them.
#[tokio::test]
async fn a_mirror_whose_references_are_damaged_is_made_anew() {
    let world = World::new().await;
    let first = world.submit("true");
    assert_eq!(world.outcome(first).await, Outcome::Succeeded);
    for (file, content) in [
        ("refs/heads/main", ""),
        ("refs/heads/other", "\0\0\0"),
        ("HEAD", ""),
        ("HEAD", "garbage"),
        ("packed-refs", "garbage\n"),
        ("config", "[garbage"),
    ] {
        for commit in ["main", "HEAD", world.repository.head().as_str()] {
            std::fs::write(only_mirror(&world).join(file), content).unwrap();
            let attempt = world.coordinator.assign(spec(&world.repository.url(), commit, "cat file.txt"));
            let outcome = world.outcome(attempt).await;
            assert_eq!(outcome, Outcome::Succeeded, "{content:?} in {file}, {commit}");
            assert_eq!(world.coordinator.log_text(attempt, Stream::Stdout), "hello\n");
        }
    }
    world.ends_clean().await;
}

/// It is the same however often it is fetched.
#[tokio::test]
async fn a_commit_that_can_not_be_written_costs_no_mirror() {
    let world = World::new().await;
    let first = world.submit("true");
    assert_eq!(world.outcome(first).await, Outcome::Succeeded);
    let of_mirror = only_mirror(&world).join("stays");
    std::fs::write(&of_mirror, "").unwrap();
    let long = "n".repeat(1000);
    for (branch, entries) in [
        ("leads-out", &[("100644", &b".."[..], Entry::File("out"))]),
        ("long", &[("100644", long.as_bytes(), Entry::File("long"))]),
    ] {
        world.repository.branch_with_tree(branch, entries);
        for _ in 0..2 {
            let (reason, message) = error(&world, &world.repository.url(), branch).await;
            assert_eq!(reason, ErrorReason::CloneFailed, "{branch}: {message}");
            assert!(of_mirror.exists(), "{branch}: the mirror was thrown away: {message}");
        }
    }
    // Nor does a repository that is away for a while.
    std::fs::rename(world.repository.path.join(".git"), world.repository.path.join("away")).unwrap();
    let (_, message) = error(&world, &world.repository.url(), "main").await;
    assert!(of_mirror.exists(), "the mirror was thrown away: {message}");
    world.ends_clean().await;
}

/// As one leaves it that is killed while it writes a reference.
#[tokio::test]
async fn locks_that_a_killed_checkout_left_keep_nobody_out() {
    let world = World::new().await;
    world.repository.branch("feature/x");
    let first = world.submit("true");
    assert_eq!(world.outcome(first).await, Outcome::Succeeded);
    for lock in
        ["HEAD.lock", "config.lock", "packed-refs.lock", "refs/heads/main.lock", "refs/heads/feature/x.lock"]
    {
        std::fs::write(only_mirror(&world).join(lock), "").unwrap();
    }
    let sha = world.repository.commit(&[("second.txt", "2\n")]);
    world.repository.branch("feature/x");
    for name in ["main", "feature/x", "HEAD"] {
        let attempt = world.coordinator.assign(spec(&world.repository.url(), name, "true"));
        let report = world.coordinator.finished(attempt).await;
        assert_eq!(report.outcome, Outcome::Succeeded, "{name}");
        assert_eq!(report.resolved_commit.unwrap().as_str(), sha, "{name}");
    }
    let said = world
        .coordinator
        .look(|seen| seen.logs.values().map(|log| log.text(Stream::Caisson)).collect::<String>());
    assert!(!said.contains("anew"), "a good mirror was thrown away: {said}");
    world.ends_clean().await;
}

/// Leaves of a mirror only a commit and its folder.
fn lose_contents(mirror: &Path, sha: &str) {
    let kept = {
        let git = git2::Repository::open_bare(mirror).unwrap();
        let (odb, commit) = (git.odb().unwrap(), git.find_commit(sha.parse().unwrap()).unwrap());
        [commit.id(), commit.tree_id()].map(|id| {
            let object = odb.read(id).unwrap();
            (object.kind(), object.data().to_vec())
        })
    };
    for pack in names(&mirror.join("objects/pack")) {
        std::fs::remove_file(mirror.join("objects/pack").join(pack)).unwrap();
    }
    let git = git2::Repository::open_bare(mirror).unwrap();
    for (kind, content) in kept {
        git.odb().unwrap().write(kind, &content).unwrap();
    }
}

#[tokio::test]
async fn many_builds_of_one_repository_share_its_mirror() {
    let world = World::with(&["capacity=6"]).await;
    let attempts: Vec<_> = (0..6).map(|_| world.submit("cat file.txt")).collect();
    for attempt in attempts {
        assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    }
    let mirrors = names(&world.runner.work_dir().join("mirrors"));
    assert_eq!(mirrors.iter().filter(|name| name.ends_with(".git")).count(), 1);
    world.ends_clean().await;
}

/// Whoever may write a repository on the host would read with the runner's rights otherwise.
#[tokio::test]
async fn links_among_a_repositorys_packs_bring_no_other_file_of_the_host() {
    let world = World::new().await;
    let secret = world.repository.path.with_file_name("secret");
    std::fs::write(&secret, "hush").unwrap();
    let packs = world.repository.path.join(".git/objects/pack");
    for (name, linked) in [("both", &["pack", "idx"][..]), ("pack", &["pack"]), ("idx", &["idx"])] {
        for ending in ["pack", "idx"] {
            let path = packs.join(format!("pack-{name}.{ending}"));
            if linked.contains(&ending) {
                std::os::unix::fs::symlink(&secret, path).unwrap();
            } else {
                std::fs::write(path, "no pack").unwrap();
            }
        }
    }
    let attempt = world.submit("cat file.txt; grep -rl hush .git || true");
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    assert_eq!(world.coordinator.log_text(attempt, Stream::Stdout), "hello\n");
    world.ends_clean().await;
}

#[tokio::test]
async fn hooks_templates_and_the_hosts_settings_stay_out() {
    let world = World::new().await;
    // Would lead every fetch astray.
    let settings = "[url \"file:///nowhere\"]\n\tinsteadOf = /\n";
    std::fs::write(world.runner.work_dir().join("home/.gitconfig"), settings).unwrap();
    let repository = Repository::make(
        &world.repository.path.with_file_name("attributes"),
        &[(".gitattributes", "* text eol=crlf filter=evil\n"), ("file.txt", "one\n")],
    );
    let (hooks, has_run) =
        (repository.path.join(".git/hooks"), world.repository.path.with_file_name("hook-ran"));
    std::fs::create_dir_all(&hooks).unwrap();
    let hook = format!("#!/bin/sh\ntouch {}\n", has_run.display());
    for name in ["post-checkout", "reference-transaction", "pre-upload-pack"] {
        std::fs::write(hooks.join(name), &hook).unwrap();
        std::fs::set_permissions(hooks.join(name), Permissions::from_mode(0o755)).unwrap();
    }
    let mut value = serde_json::to_value(world.spec("ls .git/hooks; od -c file.txt")).unwrap();
    value["repository_url"] = repository.url().into();
    let attempt = world.coordinator.assign(spec_from(value));
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    assert!(!has_run.exists(), "a hook has run");
    let printed = world.coordinator.log_text(attempt, Stream::Stdout);
    assert!(!printed.contains("post-checkout"), "{printed}");
    assert!(!printed.contains("pre-commit"), "hooks of the host's template: {printed}");
    assert!(printed.contains("o   n   e  \\n"), "{printed}");
    world.ends_clean().await;
}

/// Whatever a repository calls its files, no checkout writes beside its workspace, or into its `.git`.
#[tokio::test]
async fn names_that_lead_elsewhere_lead_nowhere() {
    let world = World::new().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().to_str().unwrap();
    let folder = Entry::Folder;
    let escape = [("100644", b"escaped".as_slice(), Entry::File("x"))];
    let hooks =
        [("40000", b"hooks".as_slice(), folder(&[("100755", b"post-checkout", Entry::File("#!/bin/sh\n"))]))];
    let repository = &world.repository;
    repository.branch_with_tree("up", &[("40000", b"..", folder(&escape))]);
    repository.branch_with_tree("slash", &[("100644", b"../../escaped", Entry::File("x"))]);
    repository.branch_with_tree("git", &[("40000", b".git", folder(&hooks))]);
    repository.branch_with_tree("capitals", &[("40000", b".GIT", folder(&hooks))]);
    repository
        .branch_with_tree("link", &[("120000", b"l", Entry::File(target)), ("40000", b"l", folder(&escape))]);

    for (branch, refusal) in [
        ("up", "invalid path '../escaped'"),
        ("slash", "invalid path '../../escaped'"),
        ("git", "invalid path '.git/hooks/post-checkout'"),
        ("capitals", "invalid path '.GIT/hooks/post-checkout'"),
        // The folder is made first, and so the link is none.
        ("link", "could not create symlink"),
    ] {
        let (reason, message) = error(&world, &repository.url(), branch).await;
        assert_eq!(reason, ErrorReason::CloneFailed, "{branch}: {message}");
        assert!(message.contains(refusal), "{branch}: {message}");
    }
    assert_eq!(names(elsewhere.path()), [""; 0]);
    world.runner.becomes_empty().await;
    let beside = names(&world.runner.work_dir());
    assert!(!beside.iter().any(|name| name == "escaped"), "{beside:?}");
    world.ends_clean().await;
}

#[tokio::test]
async fn names_that_are_only_strange_are_kept_to_the_byte() {
    let world = World::new().await;
    world.repository.branch_with_tree(
        "strange",
        &[
            ("100644", b"-rf", Entry::File("1")),
            ("100644", b"Case", Entry::File("2")),
            ("100644", b"case", Entry::File("3")),
            ("100644", b"new\nline", Entry::File("4")),
            ("100644", b"\xff\xfe not UTF-8", Entry::File("5")),
        ],
    );
    let attempt = world.coordinator.assign(spec(
        &world.repository.url(),
        "strange",
        "for file in *; do echo \"$file\"; done; cat ./*",
    ));
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    assert_eq!(
        world.coordinator.log(attempt, Stream::Stdout),
        b"-rf\nCase\ncase\nnew\nline\n\xff\xfe not UTF-8\n12345"
    );
    world.ends_clean().await;
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_costs_the_runner_nothing() {
    let world = World::with(&["git.fetch_size=1MiB", "git.checkout_files=3", "git.checkout_size=2MiB"]).await;
    let before = world.runner.memory_peak_kib();
    let root = world.repository.path.parent().unwrap();
    world.repository.branch_with_bomb("bomb");
    let http = servers::git_over_http(root).await;
    let over_http = format!("http://{http}/repository");
    for url in [&world.repository.url(), &over_http] {
        let (reason, message) = error(&world, url, "bomb").await;
        assert_eq!(reason, ErrorReason::TooLarge, "{message}");
        assert!(message.contains("git.checkout_files"), "{message}");
    }
    // What is written compresses well, so little of it comes over the wire.
    world.repository.commit(&[("zeros.txt", &"0".repeat(3 * 1024 * 1024))]);
    let (reason, message) = error(&world, &over_http, "main").await;
    assert_eq!(reason, ErrorReason::TooLarge, "{message}");
    assert!(message.contains("git.checkout_size"), "{message}");

    let large = Repository::make(&root.join("large"), &[("noise.txt", &noise(3 * 1024 * 1024))]);
    for url in [&large.url(), &format!("http://{http}/large")] {
        let (reason, message) = error(&world, url, "main").await;
        assert_eq!(reason, ErrorReason::TooLarge, "{message}");
        assert!(message.contains("git.fetch_size"), "{message}");
    }
    let grown = world.runner.memory_peak_kib() - before;
    assert!(grown < 16 * 1024, "the runner grew by {grown} KiB");
    world.ends_clean().await;
}

// Making so large a commit takes longer than a runner waits for a silent coordinator, which is in this very process.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkout_that_wants_too_much_memory_is_refused() {
    let world = World::with(&["git.memory=64MiB"]).await;
    world.repository.commit(&[("zeros.txt", &"0".repeat(80 * 1024 * 1024))]);
    let (reason, message) = error(&world, &world.repository.url(), "main").await;
    assert_eq!(reason, ErrorReason::TooLarge, "{message}");
    assert!(message.contains("git.memory"), "{message}");
    world.ends_clean().await;
}

/// A few kilobytes that are a hundred megabytes, and names without end.
// A large file is made whole in this very process.
#[tokio::test(flavor = "multi_thread")]
async fn bombs_from_a_server_end_their_checkout_and_cost_the_runner_nothing() {
    let world = World::with(&["git.memory=64MiB", "git.stall=20s"]).await;
    let before = world.runner.memory_peak_kib();
    world.repository.branch_with_delta_bomb("bomb");
    let http = servers::git_over_http(world.repository.path.parent().unwrap()).await;
    let endless = servers::endless_references().await;
    for url in [format!("http://{http}/repository"), format!("http://{endless}/repository")] {
        let (reason, message) = error(&world, &url, "bomb").await;
        assert_eq!(reason, ErrorReason::TooLarge, "{message}");
        assert!(message.contains("git.memory"), "{message}");
    }
    let grown = world.runner.memory_peak_kib() - before;
    assert!(grown < 16 * 1024, "the runner grew by {grown} KiB");
    world.ends_clean().await;
}

#[tokio::test]
async fn a_server_that_drips_is_given_up() {
    let world = World::with(&["git.stall=1s"]).await;
    let root = world.repository.path.parent().unwrap();
    world.repository.commit(&[("noise.txt", &noise(200_000))]);
    let http = servers::git_over_http(root).await;
    let dripping = servers::dripping(http, 20_000).await;
    let (reason, message) = error(&world, &format!("http://{dripping}/repository"), "main").await;
    assert_eq!(reason, ErrorReason::CloneFailed, "{message}");
    assert!(message.contains("next to nothing"), "{message}");
    world.ends_clean().await;
}

/// In force in the process itself, and not only where it is written.
#[tokio::test]
async fn s19_a_checkouts_process_has_a_filter_on_its_calls_and_gets_no_privileges() {
    let world = World::new().await;
    let silent = servers::silent().await;
    let attempt = world.coordinator.assign(spec(&format!("http://{silent}/app.git"), "main", "true"));
    let mut status = String::new();
    until("a checkout asks the server", async || {
        status = world
            .runner
            .children()
            .map(|pid| std::fs::read_to_string(format!("/proc/{pid}/status")))
            .filter_map(Result::ok)
            .collect();
        status.contains("Seccomp:\t2")
    })
    .await;
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    world.coordinator.say(CoordinatorMessage::Cancel { attempt });
    assert_eq!(world.outcome(attempt).await, Outcome::Canceled);
    world.ends_clean().await;
}

#[tokio::test]
async fn a_checkout_has_a_time_limit() {
    let world = World::with(&["git.timeout=2s"]).await;
    let silent = servers::silent().await;
    let (reason, message) = error(&world, &format!("http://{silent}/app.git"), "main").await;
    assert_eq!(reason, ErrorReason::CloneFailed, "{message}");
    assert!(message.contains("git.timeout"), "{message}");
    world.ends_clean().await;
}

/// Only a server's silence is limited: what its disk takes is the runner's own business.
#[tokio::test]
async fn a_checkout_says_when_a_server_is_to_speak_and_when_it_is_not() {
    let home = tempfile::tempdir().unwrap();
    let repository = Repository::make(&home.path().join("repository"), &[("file.txt", "hello\n")]);
    let http = servers::git_over_http(home.path()).await;
    let url = format!("http://{http}/repository");
    let told = told_by_a_checkout(home.path(), &url).await;
    assert_eq!(told[0]["type"], "asking", "{told:?}");
    let last = told.iter().rfind(|event| event["type"] == "receiving").unwrap();
    assert_eq!(last["objects"], last["total"], "{told:?}");

    repository.branch("new");
    let told = told_by_a_checkout(home.path(), &url).await;
    let types: Vec<_> = told.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert!(types.starts_with(&["asking", "working"]) && types.ends_with(&["done"]), "{types:?}");
}

#[tokio::test]
async fn a_host_that_allows_less_memory_than_the_runner_is_built_on() {
    let home = tempfile::tempdir().unwrap();
    let repository = Repository::make(&home.path().join("repository"), &[("file.txt", "hello\n")]);
    let told = told_by_a_checkout_after("ulimit -v 2000000", home.path(), &repository.url()).await;
    assert_eq!(told.last().unwrap()["type"], "done", "{told:?}");
}

/// What a checkout's process tells the runner, of which a user sees a part.
async fn told_by_a_checkout(home: &Path, url: &str) -> Vec<serde_json::Value> {
    told_by_a_checkout_after(":", home, url).await
}

/// As `told_by_a_checkout`, of one that is started after something else was done in its process.
async fn told_by_a_checkout_after(preparation: &str, home: &Path, url: &str) -> Vec<serde_json::Value> {
    let workspace = tempfile::tempdir_in(home).unwrap();
    let mirrors = home.join("mirrors");
    std::fs::create_dir_all(&mirrors).unwrap();
    let plenty = 1_u64 << 30;
    let request = json!({
        "repository": url, "commit": "main", "workspace": workspace.path(),
        "mirrors": mirrors, "mirrors_bytes": plenty,
        "limits": {
            "stall_ms": 60_000, "memory_bytes": plenty, "fetch_bytes": plenty,
            "checkout_bytes": plenty, "checkout_files": plenty,
        },
        "ssh_key_file": null,
        "targets": { "private": "allow", "allowed_hosts": [], "coordinator": "http://127.0.0.1:1" },
    });
    let mut child = Command::new("sh")
        .args(["-c", &format!("{preparation}; exec \"$0\" checkout"), env!("CARGO_BIN_EXE_caisson-runner")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(format!("{request}\n").as_bytes()).await.unwrap();
    let mut output = String::new();
    child.stdout.take().unwrap().read_to_string(&mut output).await.unwrap();
    output.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn mirrors_stay_few_files_and_within_their_size() {
    let world = World::with(&["git.mirrors_size=1B"]).await;
    let root = world.repository.path.parent().unwrap();
    let other = Repository::make(&root.join("other"), &[("other.txt", "other\n")]);
    let mirrors = || {
        let names = names(&world.runner.work_dir().join("mirrors"));
        names.into_iter().filter(|name| name.ends_with(".git")).collect::<Vec<_>>()
    };
    for number in 0..20 {
        let sha = world.repository.commit(&[("file.txt", &format!("{number}\n"))]);
        let attempt = world.coordinator.assign(spec(&world.repository.url(), &sha, "cat file.txt"));
        assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
        assert_eq!(world.coordinator.log_text(attempt, Stream::Stdout), format!("{number}\n"));
    }
    let first = mirrors();
    assert_eq!(first.len(), 1);
    let packs = names(&world.runner.work_dir().join("mirrors").join(&first[0]).join("objects/pack"));
    assert!(packs.len() <= 2 * 17, "{packs:?}");
    // There is room for one at most, the one that is in use.
    let attempt = world.coordinator.assign(spec(&other.url(), "main", "cat other.txt"));
    assert_eq!(world.outcome(attempt).await, Outcome::Succeeded);
    assert_eq!(mirrors().len(), 1);
    assert_ne!(mirrors(), first);
    world.ends_clean().await;
}

/// Where the mirror of the one repository is that was built.
fn only_mirror(world: &World) -> PathBuf {
    let mirrors = world.runner.work_dir().join("mirrors");
    let mirror = names(&mirrors).into_iter().find(|name| name.ends_with(".git")).unwrap();
    mirrors.join(mirror)
}

/// Text that does not compress to much less than it is.
fn noise(bytes: usize) -> String {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("{:016x}", state ^ (state >> 33))
    };
    std::iter::repeat_with(&mut next).take(bytes / 16).collect()
}

#[tokio::test]
async fn a_kernel_without_landlock_is_told_of_at_the_start_and_builds_all_the_same() {
    let home = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start().await;
    let repository = Repository::make(&home.path().join("repository"), &[("file.txt", "hello\n")]);
    let mut runner =
        kernel::without_landlock(|| Runner::start(&home.path().join("runner"), &coordinator, &[]));
    coordinator.wait("the runner registers", |seen| seen.registrations.len() == 1).await;
    for _ in 0..2 {
        let attempt = coordinator.assign(spec(&repository.url(), "main", "cat file.txt"));
        assert_eq!(coordinator.finished(attempt).await.outcome, Outcome::Succeeded);
    }
    assert_eq!(runner.log().matches("has no Landlock").count(), 1, "{}", runner.log());
    assert_eq!(runner.end().await, Some(0));
    runner.has_left_nothing().await;
}
