//! Prints how soon a herd of pods is registered with the retry schedule, and with two usual ways instead:
//! `cargo bench --bench herd`.
//!
//! Time is simulated, so the figures are the same on every machine. `tests/herd.rs` asserts the bounds.
#![expect(clippy::print_stdout, reason = "this program prints a table")]

#[path = "herd/simulation.rs"]
mod simulation;

use simulation::{Herd, Policy, Summary};

fn main() {
    sizes();
    println!();
    circumstances();
    println!();
    outages();
}

/// Herds of 5 to 20,000 pods, with each of the three policies.
fn sizes() {
    println!("Time until the last pod is registered ÷ ideal, (N − 5) / 5 s; calls a pod: mean / most.");
    println!("All start within 2 s. A throttled call takes nothing from the quota.");
    println!("The crash loop makes its 3 tries half a second apart; its figure depends on that gap.\n");
    println!(
        "| pods | ideal | seeds | tollgate: mean (worst) | calls | full jitter 1 s–60 s | calls | 3 tries, then CrashLoopBackOff | calls |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let seeds_by_size = [
        (5, 200),
        (20, 200),
        (50, 200),
        (100, 100),
        (200, 60),
        (500, 40),
        (1_000, 20),
        (2_000, 10),
        (5_000, 8),
        (20_000, 2),
    ];
    for (pods, seeds) in seeds_by_size {
        let herd = Herd::registering(pods, 1);
        let shown = |policy, seeds| {
            let summary: Summary = herd.runs(policy, seeds);
            let calls = format!("{:.1} / {}", summary.calls_mean, summary.calls_max);
            if pods <= 5 {
                return format!("last after {:.1} s | {calls}", summary.late_worst + herd.ideal());
            }
            let digits = if pods < 1_000 { 2 } else { 3 };
            format!("{:.digits$} ({:.digits$}) | {calls}", summary.ratio, summary.ratio_worst)
        };
        // A crash loop of thousands of pods takes simulated days. Its figures hardly vary, so a few seeds are enough.
        let crashing =
            if pods > 500 { String::from("– | –") } else { shown(Policy::CrashLoop, seeds.min(10)) };
        let (ours, jitter) = (shown(Policy::Tollgate, seeds), shown(Policy::FullJitter, seeds));
        println!("| {pods} | {:.0} s | {seeds} | {ours} | {jitter} | {crashing} |", herd.ideal());
    }
}

/// Other starts and other quotas: seconds after the ideal, which the quota or the last start sets.
fn circumstances() {
    println!(
        "Other circumstances: seconds behind the ideal, mean (worst) of 20 seeds; calls a pod: mean / most.\n"
    );
    println!("| circumstance | pods | ideal | tollgate | calls | full jitter | calls |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    for pods in [50, 500] {
        let plain = Herd::registering(pods, 100);
        for (name, herd) in [
            ("all start within 0.1 s", Herd { start_window: 0.1, ..plain }),
            ("start over 30 s", Herd { start_window: 30.0, ..plain }),
            ("rolling start over 300 s", Herd { start_window: 300.0, ..plain }),
            ("burst of 1", Herd { burst: 1.0, ..plain }),
            ("burst of 25", Herd { burst: 25.0, ..plain }),
            ("2 of the 5 calls/s taken by others", Herd { others: 2.0, ..plain }),
            ("MeterUsage: 10 calls/s, burst 10", Herd { rate: 10.0, burst: 10.0, ..plain }),
        ] {
            row(name, &herd);
        }
    }
    row("rolling start over 300 s", &Herd { start_window: 300.0, ..Herd::registering(5_000, 100) });
}

/// Outages: a lone pod registers late by at most the pause in which the outage ends, and one failing attempt.
fn outages() {
    println!("After an outage: seconds behind the ideal, mean (worst) of 20 seeds (200 for a lone pod).\n");
    println!("| circumstance | pods | ideal | tollgate | calls | full jitter | calls |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    for (pods, seed) in [(1, 200), (500, 200)] {
        let plain = Herd { outage: 3_600.0, ..Herd::registering(pods, seed) };
        row("names do not resolve for 1 h (fails at once)", &plain);
        row("no answer for 1 h (each attempt times out after 10 s)", &Herd { attempt_time: 10.0, ..plain });
        row("no answer for 1 min", &Herd { outage: 60.0, attempt_time: 10.0, ..plain });
    }
}

fn row(name: &str, herd: &Herd) {
    let seeds = if herd.pods == 1 { 200 } else { 20 };
    let shown = |policy| {
        let summary = herd.runs(policy, seeds);
        format!(
            "{:.1} ({:.1}) | {:.1} / {}",
            summary.late, summary.late_worst, summary.calls_mean, summary.calls_max
        )
    };
    let (ours, jitter) = (shown(Policy::Tollgate), shown(Policy::FullJitter));
    println!("| {name} | {} | {:.0} s | {ours} | {jitter} |", herd.pods, herd.ideal());
}
