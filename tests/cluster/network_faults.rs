//! The network between a runner and its coordinator breaks, in each way a network does.

use std::time::Duration;

use crate::{
    chaos_proxy::{ChaosProxy, Weather},
    harness::{Cluster, Repository, Wishes},
};

/// Some 300 kB in numbered lines, over a second or so.
const WRITES: &str = r#"i=0; while [ $i -lt 60 ]; do
    awk -v i=$i 'BEGIN { for (n = 1; n <= 100; n++) print i, n, "........................................" }'
    i=$((i+1)); sleep 0.02
done"#;

fn written() -> String {
    let line = |i, n| format!("{i} {n} ........................................\n");
    (0..60).flat_map(|i| (1..=100).map(move |n| line(i, n))).collect()
}

/// A cluster whose only runner speaks through a network that can be made bad.
async fn behind_a_proxy(name: &str) -> (Cluster, ChaosProxy, Repository) {
    let mut cluster = Cluster::start(name, Wishes::default()).await;
    let proxy = ChaosProxy::start(cluster.address()).await;
    cluster.add_runner(1, Some(&proxy.address.to_string())).await;
    let repository = Repository::new(&cluster, &[]);
    (cluster, proxy, repository)
}

async fn has_written(cluster: &Cluster, id: &str, attempt: u64) {
    let build = cluster.is(id, "succeeded").await;
    assert_eq!(build["attempt"], attempt, "{build:#}");
    let log = String::from_utf8(cluster.log(id, "stream=stdout").await).unwrap();
    assert!(log == written(), "the log is not what was written: {} bytes of {}", log.len(), written().len());
}

#[tokio::test]
async fn a_connection_cut_in_mid_build_is_resumed_without_a_gap() {
    let (cluster, proxy, repository) = behind_a_proxy("cut").await;
    let id = cluster.submit(repository.build(WRITES)).await;
    for line in ["\n5 1 ", "\n20 1 ", "\n40 1 "] {
        cluster.log_says(&id, line).await;
        proxy.turns(Weather::Cut);
        cluster.runner_is(&cluster.runners[0].name, "disconnected").await;
        proxy.turns(Weather::Fine);
    }
    has_written(&cluster, &id, 1).await;
    cluster.stops_without_a_trace().await;
}

#[tokio::test]
async fn connections_that_break_in_mid_frame_again_and_again_get_the_log_through() {
    let (cluster, proxy, repository) = behind_a_proxy("mid-frame").await;
    proxy.turns(Weather::CutAfter(100_000));
    let id = cluster.submit(repository.build(WRITES)).await;
    // What was connected in fine weather has its count from its beginning.
    has_written(&cluster, &id, 1).await;
    proxy.turns(Weather::Fine);
    cluster.stops_without_a_trace().await;
}

#[tokio::test]
async fn messages_that_arrive_twice_count_once() {
    let (cluster, proxy, repository) = behind_a_proxy("twice").await;
    let id = cluster.submit(repository.build(WRITES)).await;
    cluster.log_says(&id, "\n1 1 ").await;
    proxy.turns(Weather::Twice);
    has_written(&cluster, &id, 1).await;
    let next = cluster.submit(repository.build(WRITES)).await;
    has_written(&cluster, &next, 1).await;
    proxy.turns(Weather::Fine);
    cluster.stops_without_a_trace().await;
}

#[tokio::test]
async fn a_slow_network_delays_and_loses_nothing() {
    let (cluster, proxy, repository) = behind_a_proxy("slow").await;
    proxy.turns(Weather::Slow(Duration::from_millis(150)));
    let id = cluster.submit(repository.build(WRITES)).await;
    has_written(&cluster, &id, 1).await;
    proxy.turns(Weather::Fine);
    cluster.stops_without_a_trace().await;
}

#[tokio::test]
async fn a_network_that_swallows_everything_costs_an_attempt_and_no_build() {
    let (mut cluster, proxy, repository) = behind_a_proxy("swallow").await;
    let id = cluster.submit(repository.build(WRITES)).await;
    cluster.log_says(&id, "\n2 1 ").await;
    proxy.turns(Weather::Swallow);
    cluster.runner_is_removed(0).await;
    cluster.add_runner(1, None).await;
    has_written(&cluster, &id, 2).await;

    // The other one comes back by itself, is told that its attempt is stale, and drops it.
    proxy.turns(Weather::Fine);
    let name = cluster.runners[0].name.clone();
    cluster.runner_is(&name, "ready").await;
    cluster.is_clean().await;
    has_written(&cluster, &id, 2).await;
    cluster.stops_without_a_trace().await;
}
