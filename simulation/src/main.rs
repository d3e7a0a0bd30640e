//! `simulate`: runs seeds.

use caisson_simulation::run;

fn main() -> anyhow::Result<()> {
    let seed: u64 = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let n: u64 = std::env::args().nth(2).and_then(|s| s.parse().ok()).unwrap_or(1);
    for s in seed..seed + n {
        let report = run(s, n == 1)?;
        if report.violation.is_some() {
            println!("{s}: {:?}", report.violation);
        }
    }
    Ok(())
}
