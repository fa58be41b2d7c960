//! A day of 200 pods that share 100 seats, in simulated time: the machine of mode `contract` against a model of License
//! Manager, with deaths and lost answers.

#[path = "seats/service.rs"]
mod service;
#[path = "seats/simulation.rs"]
mod simulation;

use simulation::{Deaths, Simulation};

/// The time until a waiting pod notices a free seat: each of a hundred waiting pods asks once a minute.
const NOTICED_MILLIS: u64 = 10_000;

/// A seat's time to live at AWS, unless the license says otherwise.
const TIME_TO_LIVE_MILLIS: u64 = 3_600_000;

#[test]
fn two_hundred_pods_on_a_hundred_seats_waste_none_for_longer_than_its_time_to_live() {
    let report = Simulation::new(200, 100, Deaths::EVERY_KIND, 1).run_for_hours(24);
    println!("{report:?}");
    assert_eq!((report.held_most, report.open_most), (100, 100));
    assert!(report.deaths > 1000 && report.answers_lost > 500 && report.left == 0);
    assert!(report.idle_most_millis <= TIME_TO_LIVE_MILLIS + NOTICED_MILLIS);
    // A lost node keeps its seat for up to an hour, because License Manager cannot know that it is
    // lost.
    assert!(report.used > 0.9);
}

/// No seat stays taken after containers whose folder is kept, nor after pods that are stopped.
#[test]
fn without_lost_nodes_no_seat_stays_unused_for_more_than_moments() {
    let report = Simulation::new(200, 100, Deaths::WITHOUT_EVICTIONS, 3).run_for_hours(24);
    println!("{report:?}");
    assert_eq!((report.held_most, report.open_most), (100, 100));
    assert!(report.deaths > 1000 && report.answers_lost > 500 && report.left == 0);
    // A container restarts within a minute, and a request whose answer was lost is repeated after ten seconds.
    assert!(report.idle_most_millis <= 180_000);
    assert!(report.used > 0.98);
}
