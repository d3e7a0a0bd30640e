//! What holds of every store.

use caisson_coordinator::store::{AttemptResult, BuildFilter, BuildKey, StoreError};
use caisson_protocol::{ErrorReason, FailureNote, Network, Outcome, RunnerId, Status};
use caisson_scheduler::{AttemptEnd, Change, IdempotencyKey, RememberedKey, Submission};

use super::*;
use crate::support::{engine_failed, phases};

/// Each law once, and every adapter obeys it.
macro_rules! laws {
    ($($law:ident)+) => {
        mod memory {
            $(#[tokio::test] async fn $law() { super::$law(super::Shelf::memory()).await; })+
        }
        mod sqlite {
            $(#[tokio::test] async fn $law() { super::$law(super::Shelf::sqlite()).await; })+
        }
    };
}

laws! {
    an_empty_store_knows_nothing
    what_is_committed_is_there_after_reopening
    all_changes_are_stored_or_none
    a_build_that_waits_is_restored
    a_build_that_runs_is_restored_with_its_runner
    a_build_that_is_being_canceled_is_restored_so
    a_requeued_build_waits_without_a_runner
    an_infrastructure_failure_is_charged_and_blames_its_runner
    a_lost_runner_is_charged_and_not_blamed
    an_attempt_given_back_or_never_received_costs_nothing
    builds_are_restored_in_the_order_of_submission
    the_latest_number_counts_ended_builds_too
    keys_are_restored_oldest_first_also_of_ended_builds
    what_has_ended_never_changes
    an_attempt_ends_once
    an_attempt_is_made_once
    a_build_is_submitted_once
    what_is_not_there_does_not_change
    another_runners_cleanup_changes_nothing
    a_cleanup_after_the_end_is_kept
    a_build_is_found_by_id_and_by_number
    the_list_is_newest_first
    a_page_goes_on_where_the_one_before_ended
    builds_are_filtered_by_status
    builds_are_filtered_by_repository
    builds_are_searched_by_text_whatever_its_case
    a_search_has_pages_over_live_and_ended_builds
    what_is_special_in_patterns_is_searched_literally
    filters_hold_together
    facts_of_an_attempt_read_back_as_written
    how_a_build_ended_reads_back_as_written
    a_specification_reads_back_as_written
    a_commit_learnt_when_it_started_outlives_a_report_without_one
    an_image_is_known_though_its_start_was_told_too_late
    a_store_that_is_well_says_so
}

async fn an_empty_store_knows_nothing(shelf: Shelf) {
    assert_eq!(shelf.store.restore().await.unwrap(), caisson_scheduler::Restored::default());
    assert_eq!(shelf.numbers(BuildFilter::default()).await, NONE);
    assert_eq!(shelf.store.build(BuildKey::Number(1)).await.unwrap(), None);
}

async fn what_is_committed_is_there_after_reopening(shelf: Shelf) {
    shelf.commit(&[submitted(1), assigned(1, 1, "r1"), submitted(2)]).await;
    let before = (shelf.find(1).await, shelf.find(2).await, shelf.store.restore().await.unwrap());
    let shelf = shelf.reopened();
    assert_eq!((shelf.find(1).await, shelf.find(2).await, shelf.store.restore().await.unwrap()), before);
}

async fn all_changes_are_stored_or_none(shelf: Shelf) {
    shelf.commit(&[submitted(1)]).await;
    let error = shelf.refuses(&[submitted(2), assigned(1, 1, "r1"), started(3, 1)]).await;
    assert!(matches!(error, StoreError::Broken(_)), "{error}");
    shelf.commit(&[submitted(2)]).await;
}

async fn a_build_that_waits_is_restored(shelf: Shelf) {
    shelf.commit(&[submitted(1)]).await;
    let live = shelf.live(1).await.unwrap();
    assert_eq!((live.id, live.number, live.status), (id(1), 1, Status::Queued));
    assert_eq!(live.spec, submission(1, "make test").spec);
    assert_eq!((live.attempts_made, live.attempts_charged, live.runner), (0, 0, None));
    assert!(live.failed_on.is_empty());
}

async fn a_build_that_runs_is_restored_with_its_runner(shelf: Shelf) {
    shelf.commit(&[submitted(1), assigned(1, 1, "r1")]).await;
    let live = shelf.live(1).await.unwrap();
    assert_eq!((live.status, live.attempts_made, live.runner), (Status::Assigned, 1, Some(runner_ref("r1"))));
    shelf.commit(&[started(1, 1)]).await;
    let live = shelf.live(1).await.unwrap();
    assert_eq!((live.status, live.attempts_made, live.runner), (Status::Running, 1, Some(runner_ref("r1"))));
}

async fn a_build_that_is_being_canceled_is_restored_so(shelf: Shelf) {
    shelf.commit(&[submitted(1), assigned(1, 1, "r1"), Change::Canceling { build: id(1) }]).await;
    let live = shelf.live(1).await.unwrap();
    assert_eq!((live.status, live.runner), (Status::Canceling, Some(runner_ref("r1"))));
}

async fn a_requeued_build_waits_without_a_runner(shelf: Shelf) {
    let lost = over(1, 1, AttemptEnd::RunnerLost, true);
    shelf.commit(&[submitted(1), assigned(1, 1, "r1"), started(1, 1), lost, requeued(1)]).await;
    let live = shelf.live(1).await.unwrap();
    assert_eq!((live.status, live.attempts_made, live.runner), (Status::Queued, 1, None));
    assert_eq!(shelf.find(1).await.started_at, None);
}

async fn an_infrastructure_failure_is_charged_and_blames_its_runner(shelf: Shelf) {
    shelf.commit(&[submitted(1), assigned(1, 1, "r1"), reported(1, 1, &engine_failed()), requeued(1)]).await;
    shelf.commit(&[assigned(1, 2, "r2"), reported(1, 2, &engine_failed()), requeued(1)]).await;
    let live = shelf.live(1).await.unwrap();
    assert_eq!((live.attempts_made, live.attempts_charged), (2, 2));
    assert_eq!(live.failed_on, [RunnerId::of_name("r1"), RunnerId::of_name("r2")].into());
}

async fn a_lost_runner_is_charged_and_not_blamed(shelf: Shelf) {
    let lost = over(1, 1, AttemptEnd::RunnerLost, true);
    shelf.commit(&[submitted(1), assigned(1, 1, "r1"), lost, requeued(1)]).await;
    let live = shelf.live(1).await.unwrap();
    assert_eq!((live.attempts_made, live.attempts_charged, live.failed_on), (1, 1, [].into()));
}

async fn an_attempt_given_back_or_never_received_costs_nothing(shelf: Shelf) {
    shelf.commit(&[submitted(1)]).await;
    for (number, end) in [(1, AttemptEnd::GivenBack), (2, AttemptEnd::NeverReceived)] {
        shelf.commit(&[assigned(1, number, "r1"), over(1, number, end, false), requeued(1)]).await;
    }
    let live = shelf.live(1).await.unwrap();
    assert_eq!((live.attempts_made, live.attempts_charged, live.failed_on), (2, 0, [].into()));
    let released: Vec<_> = shelf.find(1).await.attempts.into_iter().map(|one| one.result.unwrap()).collect();
    assert!(released.iter().all(|result| result.status == "released"), "{released:?}");
}

async fn builds_are_restored_in_the_order_of_submission(shelf: Shelf) {
    shelf.commit(&(1..=20).map(submitted).collect::<Vec<_>>()).await;
    shelf.commit(&[assigned(3, 1, "r1"), over(3, 1, AttemptEnd::GivenBack, false), requeued(3)]).await;
    shelf.commit(&[ended(7, Outcome::Canceled)]).await;
    let restored: Vec<u64> =
        shelf.store.restore().await.unwrap().builds.iter().map(|build| build.number).collect();
    assert_eq!(restored, (1..=20).filter(|number| *number != 7).collect::<Vec<_>>());
}

async fn the_latest_number_counts_ended_builds_too(shelf: Shelf) {
    shelf.commit(&[submitted(1), submitted(2), ended(2, Outcome::Canceled)]).await;
    assert_eq!(shelf.store.restore().await.unwrap().latest_number, 2);
}

async fn keys_are_restored_oldest_first_also_of_ended_builds(shelf: Shelf) {
    let key = |name: &str| IdempotencyKey { key: name.into(), digest: format!("digest of {name}") };
    let with_key = |number, name: &str| Change::Submitted {
        submission: Submission { key: Some(key(name)), ..submission(number, "make test") },
        number,
    };
    shelf.commit(&[with_key(1, "b"), submitted(2), with_key(3, "a"), ended(1, Outcome::Canceled)]).await;
    let shelf = shelf.reopened();
    let remembered = |name: &str, number| RememberedKey { key: key(name), build: id(number) };
    assert_eq!(shelf.store.restore().await.unwrap().keys, [remembered("b", 1), remembered("a", 3)]);
}

async fn what_has_ended_never_changes(shelf: Shelf) {
    shelf.commit(&life(1, &Outcome::Succeeded)).await;
    let before = shelf.find(1).await;
    let changes = [
        assigned(1, 2, "r2"),
        started(1, 1),
        Change::Canceling { build: id(1) },
        reported(1, 1, &Outcome::TimedOut),
        requeued(1),
        ended(1, Outcome::Canceled),
    ];
    for change in changes {
        let error = shelf.refuses(std::slice::from_ref(&change)).await;
        assert!(matches!(error, StoreError::Broken(_)), "{change:?}: {error}");
    }
    assert_eq!(shelf.find(1).await, before);
    assert_eq!(shelf.live(1).await, None);
}

async fn an_attempt_ends_once(shelf: Shelf) {
    let back = over(1, 1, AttemptEnd::GivenBack, false);
    shelf.commit(&[submitted(1), assigned(1, 1, "r1"), back, requeued(1)]).await;
    shelf.refuses(&[reported(1, 1, &Outcome::Succeeded)]).await;
}

async fn an_attempt_is_made_once(shelf: Shelf) {
    shelf.commit(&[submitted(1), assigned(1, 1, "r1")]).await;
    shelf.refuses(&[assigned(1, 1, "r2")]).await;
}

async fn a_build_is_submitted_once(shelf: Shelf) {
    shelf.commit(&[submitted(1)]).await;
    shelf.refuses(&[submitted(1)]).await;
    let same_id = Change::Submitted { submission: submission(1, "make test"), number: 2 };
    shelf.refuses(&[same_id]).await;
    let same_number = Change::Submitted { submission: submission(2, "make test"), number: 1 };
    shelf.refuses(&[same_number]).await;
}

async fn what_is_not_there_does_not_change(shelf: Shelf) {
    shelf.commit(&[submitted(1)]).await;
    for change in [
        assigned(2, 1, "r1"),
        started(1, 1),
        started(2, 1),
        Change::Canceling { build: unknown() },
        over(1, 1, AttemptEnd::RunnerLost, true),
        requeued(2),
        ended(2, Outcome::Canceled),
    ] {
        let error = shelf.refuses(std::slice::from_ref(&change)).await;
        assert!(matches!(error, StoreError::Broken(_)), "{change:?}: {error}");
    }
}

async fn another_runners_cleanup_changes_nothing(shelf: Shelf) {
    shelf.commit(&life(1, &Outcome::Succeeded)).await;
    let before = shelf.find(1).await;
    let cleaned = |number, attempt, runner: &str| Change::Cleaned {
        attempt: tried(number, attempt),
        runner: RunnerId::of_name(runner),
        cleanup_ms: 9,
    };
    shelf.commit(&[cleaned(1, 1, "r2"), cleaned(1, 2, "r1"), cleaned(2, 1, "r1")]).await;
    assert_eq!(shelf.find(1).await, before);
}

async fn a_cleanup_after_the_end_is_kept(shelf: Shelf) {
    shelf.commit(&life(1, &Outcome::Succeeded)).await;
    let runner = RunnerId::of_name("r1");
    shelf.commit(&[Change::Cleaned { attempt: tried(1, 1), runner, cleanup_ms: 44 }]).await;
    let build = shelf.reopened().find(1).await;
    assert_eq!(build.attempts[0].phases.cleanup_ms, Some(44));
    assert_eq!((build.attempts[0].phases.run_ms, build.status), (Some(33), Status::Succeeded));
}

async fn a_build_is_found_by_id_and_by_number(shelf: Shelf) {
    shelf.commit(&[submitted(1), submitted(2)]).await;
    assert_eq!(shelf.store.build(by_id(2)).await.unwrap().unwrap(), shelf.find(2).await);
    for missing in
        [BuildKey::Id(unknown()), BuildKey::Number(0), BuildKey::Number(3), BuildKey::Number(u64::MAX)]
    {
        assert_eq!(shelf.store.build(missing).await.unwrap(), None, "{missing:?}");
    }
}

async fn the_list_is_newest_first(shelf: Shelf) {
    shelf.commit(&[submitted(1), submitted(2)]).await;
    shelf.commit(&[submitted(3), assigned(1, 1, "r1"), reported(1, 1, &Outcome::Succeeded)]).await;
    assert_eq!(shelf.numbers(BuildFilter::default()).await, [3, 2, 1]);
    let newest_first = shelf.list(&BuildFilter::default()).await;
    assert_eq!(newest_first[2], shelf.find(1).await, "the list tells as much as the build itself");
}

async fn a_page_goes_on_where_the_one_before_ended(shelf: Shelf) {
    shelf.commit(&(1..=7).map(submitted).collect::<Vec<_>>()).await;
    let page = |before, limit| BuildFilter { before, limit, ..BuildFilter::default() };
    assert_eq!(shelf.numbers(page(None, 3)).await, [7, 6, 5]);
    assert_eq!(shelf.numbers(page(Some(5), 3)).await, [4, 3, 2]);
    assert_eq!(shelf.numbers(page(Some(2), 3)).await, [1]);
    assert_eq!(shelf.numbers(page(Some(1), 3)).await, NONE);
    assert_eq!(shelf.numbers(page(Some(0), 3)).await, NONE);
    assert_eq!(shelf.numbers(page(Some(u64::MAX), 1)).await, [7]);
}

async fn builds_are_filtered_by_status(shelf: Shelf) {
    shelf.commit(&life(1, &Outcome::Succeeded)).await;
    shelf.commit(&life(2, &Outcome::TimedOut)).await;
    shelf.commit(&[submitted(3)]).await;
    assert_eq!(shelf.numbers(of_status(&[Status::TimedOut])).await, [2]);
    assert_eq!(shelf.numbers(of_status(&[Status::Queued, Status::Succeeded])).await, [3, 1]);
    assert_eq!(shelf.numbers(of_status(&[Status::Canceling])).await, NONE);
}

async fn builds_are_filtered_by_repository(shelf: Shelf) {
    let elsewhere =
        with_spec(1, |spec| spec.repository_url = "https://example.org/other.git".parse().unwrap());
    shelf.commit(&[elsewhere, submitted(2)]).await;
    let of = |url: &str| BuildFilter { repository_url: Some(url.into()), ..BuildFilter::default() };
    assert_eq!(shelf.numbers(of("https://example.org/other.git")).await, [1]);
    assert_eq!(shelf.numbers(of("https://example.org/team/app.git")).await, [2]);
    assert_eq!(shelf.numbers(of("https://example.org/")).await, NONE);
}

async fn builds_are_searched_by_text_whatever_its_case(shelf: Shelf) {
    let of_branch = with_spec(2, |spec| spec.commit = "feature/Search".parse().unwrap());
    let elsewhere =
        with_spec(3, |spec| spec.repository_url = "https://example.org/other.git".parse().unwrap());
    shelf.commit(&[with_command(1, "Make ALL, und Größe Ä"), of_branch, elsewhere]).await;
    let searches = [
        ("make all", vec![1]),
        ("MAKE", vec![3, 2, 1]),
        ("feature/s", vec![2]),
        ("OTHER.git", vec![3]),
        ("Größe Ä", vec![1]),
        ("größe ä", vec![]),
        ("nowhere", vec![]),
    ];
    shelf.finds(searches).await;
}

async fn what_is_special_in_patterns_is_searched_literally(shelf: Shelf) {
    let commands = ["100%", "a_b", r"a\b", "axb", "it's [a-z]*?"];
    shelf
        .commit(&(1..).zip(commands).map(|(number, one)| with_command(number, one)).collect::<Vec<_>>())
        .await;
    let searches = [
        ("%", vec![1]),
        ("0%", vec![1]),
        ("_", vec![2]),
        ("a_b", vec![2]),
        (r"\", vec![3]),
        (r"a\b", vec![3]),
        (r"\%", vec![]),
        ("'", vec![5]),
        ("[a-z]*?", vec![5]),
        ("axb OR a_b", vec![]),
        ("\"axb\"", vec![]),
    ];
    shelf.finds(searches).await;
}

async fn a_search_has_pages_over_live_and_ended_builds(shelf: Shelf) {
    shelf.commit(&(1..=9).map(|number| with_command(number, "make all")).collect::<Vec<_>>()).await;
    shelf.commit(&[2, 4, 5, 8].map(|number| ended(number, Outcome::Canceled))).await;
    let page = |before| BuildFilter { before, limit: 4, ..with_text("make") };
    assert_eq!(shelf.numbers(page(None)).await, [9, 8, 7, 6]);
    assert_eq!(shelf.numbers(page(Some(6))).await, [5, 4, 3, 2]);
    assert_eq!(shelf.numbers(page(Some(2))).await, [1]);
    let canceled = BuildFilter { statuses: vec![Status::Canceled], ..page(Some(8)) };
    assert_eq!(shelf.numbers(canceled).await, [5, 4, 2]);
}

async fn filters_hold_together(shelf: Shelf) {
    shelf
        .commit(&[with_command(1, "a"), with_command(2, "a"), with_command(3, "b"), with_command(4, "a")])
        .await;
    shelf.commit(&[ended(4, Outcome::Canceled)]).await;
    let filter = BuildFilter {
        statuses: vec![Status::Queued],
        repository_url: Some("https://example.org/team/app.git".into()),
        before: Some(3),
        limit: 1,
        ..with_text("a")
    };
    assert_eq!(shelf.numbers(filter).await, [2]);
}

async fn facts_of_an_attempt_read_back_as_written(shelf: Shelf) {
    shelf.commit_at(1, &[submitted(1)]).await;
    shelf.commit_at(2, &[assigned(1, 1, "r1 \u{1f980}")]).await;
    shelf.commit_at(3, &[started(1, 1)]).await;
    shelf.commit_at(4, &[reported(1, 1, &engine_failed()), requeued(1)]).await;
    shelf.commit_at(5, &[assigned(1, 2, "r2")]).await;
    let build = shelf.reopened().find(1).await;
    assert_eq!((build.queued_at, build.started_at, build.finished_at), (1, None, None));
    let [first, second] = &build.attempts[..] else { panic!("{:?}", build.attempts) };
    assert_eq!((first.number, &first.runner), (1, &runner_ref("r1 \u{1f980}")));
    assert_eq!((first.assigned_at, first.started_at, first.finished_at), (2, Some(3), Some(4)));
    assert_eq!((first.phases, first.log_bytes, first.charged), (phases(), Some(5), true));
    assert_eq!(first.resolved_commit, Some(commit()));
    assert_eq!(first.image_digest.as_deref(), Some("sha256:feed"));
    assert_eq!(first.result, Some(AttemptResult::from(&engine_failed())));
    assert_eq!((second.number, &second.runner, second.assigned_at), (2, &runner_ref("r2"), 5));
    assert_eq!((second.started_at, second.finished_at, &second.result), (None, None, &None));
    assert_eq!((second.charged, second.log_bytes, &second.image_digest), (false, None, &None));
}

async fn how_a_build_ended_reads_back_as_written(shelf: Shelf) {
    let lost = ErrorReason::RunnerLost;
    let killed = Some(FailureNote::KilledBySignal);
    let outcomes = [
        Outcome::Succeeded,
        Outcome::Failed { exit_code: 7, note: None },
        Outcome::Failed { exit_code: 255, note: killed },
        Outcome::TimedOut,
        Outcome::Canceled,
        Outcome::Errored { reason: lost, message: "quote ' and \"\0\n\u{1f980}".into() },
    ];
    for (number, outcome) in (1..).zip(&outcomes) {
        shelf.commit(&[submitted(number)]).await;
        shelf.commit_at(77, &[ended(number, outcome.clone())]).await;
    }
    let shelf = shelf.reopened();
    for (number, outcome) in (1..).zip(&outcomes) {
        let build = shelf.find(number).await;
        assert_eq!((build.status, build.finished_at), (outcome.status(), Some(77)));
        assert_eq!(build.result, Some(AttemptResult::from(outcome)));
    }
}

async fn a_specification_reads_back_as_written(shelf: Shelf) {
    let written = with_spec(1, |spec| {
        spec.env = serde_json::from_str(r#"{"A": "x=\"1\"\n", "EMPTY": "", "Z_9": "\ud83e\udd80"}"#).unwrap();
        spec.labels = serde_json::from_str(r#"["gpu", "arch=arm64"]"#).unwrap();
        spec.timeout_seconds = 1.try_into().unwrap();
        spec.limits =
            serde_json::from_str(r#"{"memory_bytes": 67108864, "cpus": 0.01, "log_bytes": 65536}"#).unwrap();
        spec.network = Network::None;
        spec.command = "printf '%s\\n' \"$A\"\n\tdone; '; DROP TABLE builds; --".parse().unwrap();
    });
    let Change::Submitted { submission, .. } = &written else { unreachable!() };
    let spec = submission.spec.clone();
    shelf.commit(&[written]).await;
    let shelf = shelf.reopened();
    assert_eq!(shelf.find(1).await.spec, spec);
    assert_eq!(shelf.live(1).await.unwrap().spec, spec);
}

async fn an_image_is_known_though_its_start_was_told_too_late(shelf: Shelf) {
    let digest = Some("sha256:0123".to_owned());
    let end = AttemptEnd::Reported(caisson_protocol::AttemptReport {
        image_digest: digest.clone(),
        ..report(Outcome::Succeeded, 0)
    });
    shelf.commit(&[submitted(1), assigned(1, 1, "r1"), over(1, 1, end, false)]).await;
    assert_eq!(shelf.find(1).await.attempts[0].image_digest, digest);
}

async fn a_commit_learnt_when_it_started_outlives_a_report_without_one(shelf: Shelf) {
    let without = AttemptEnd::Reported(caisson_protocol::AttemptReport {
        resolved_commit: None,
        ..report(Outcome::TimedOut, 0)
    });
    shelf.commit(&[submitted(1), assigned(1, 1, "r1"), started(1, 1), over(1, 1, without, false)]).await;
    assert_eq!(shelf.find(1).await.attempts[0].resolved_commit, Some(commit()));
}

async fn a_store_that_is_well_says_so(shelf: Shelf) {
    shelf.commit(&[submitted(1)]).await;
    let before = shelf.store.restore().await.unwrap();
    for _ in 0..3 {
        shelf.store.probe().await.unwrap();
    }
    assert_eq!(shelf.store.restore().await.unwrap(), before);
}
