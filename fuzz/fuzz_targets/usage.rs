//! Any bytes as an application's report of usage: events and rejections, never a panic, and each accepted event is
//! within the limits.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tollgate_marketplace::{AHEAD_MAX, Customer, DIMENSION_CHARS_MAX};
use tollgate_metering::event::{AGE_MAX, EVENTS_MAX, ID_BYTES_MAX, Rules, read};
use tollgate_time::Timestamp;

fuzz_target!(|input: &[u8]| {
    let now = Timestamp::from_unix_seconds(1_795_507_200);
    let named =
        Rules { dimensions: Some(vec!["requests".to_owned(), "gigabytes".to_owned()]), ..Rules::default() };
    let sellers =
        Rules { customers: true, entitlement_dimension: Some("alive".to_owned()), ..Rules::default() };
    for rules in [Rules::default(), named, sellers] {
        let Ok(events) = read(input, &rules, now) else { continue };
        assert!(events.len() <= EVENTS_MAX);
        for event in events {
            let event = match event {
                Ok(event) => event,
                Err((_, rejected)) => {
                    assert!(!rejected.text.is_empty());
                    continue;
                }
            };
            assert!((1..=DIMENSION_CHARS_MAX).contains(&event.dimension.chars().count()));
            assert!(rules.dimensions.as_ref().is_none_or(|allowed| allowed.contains(&event.dimension)));
            assert_ne!(rules.entitlement_dimension.as_ref(), Some(&event.dimension));
            assert!(event.id.as_ref().is_none_or(|id| (1..=ID_BYTES_MAX).contains(&id.len())));
            assert!(event.at >= now.minus(AGE_MAX) && event.at <= now.plus(AHEAD_MAX));
            // The texts that the ledger stores are read back as the same values.
            let shown = event.quantity.to_string();
            assert_eq!(shown.parse(), Ok(event.quantity), "{shown}");
            assert_eq!(Customer::from_canonical(&event.customer.canonical()).as_ref(), Some(&event.customer));
            assert_eq!(rules.customers, event.customer != Customer::Own);
        }
    }
});
