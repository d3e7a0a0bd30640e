//! Nothing is left behind.

use crate::harness::{Cluster, Repository, Wishes};

#[tokio::test]
async fn two_hundred_builds_leave_nothing_behind() {
    let cluster = Cluster::start("traces", Wishes { runners: &[2, 2], ..Wishes::default() }).await;
    let repository = Repository::new(&cluster, &[("file", "content\n")]);
    let mut builds = Vec::new();
    for number in 0..200 {
        // What root writes into the workspace, in a folder nobody may enter, is removed too.
        let command = "mkdir -p a/b && echo x >a/b/c && chmod 0 a; exit";
        builds
            .push((cluster.submit(repository.build(&format!("{command} {}", number % 3))).await, number % 3));
    }
    for (id, code) in &builds {
        let build = cluster.ended(id).await;
        assert_eq!(build["exit_code"], *code, "{build:#}");
        assert_eq!(build["attempt"], 1, "{build:#}");
    }
    cluster.is_clean().await;
    cluster.stops_without_a_trace().await;
}
