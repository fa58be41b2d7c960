//! The inputs of License Manager's operations, shape by shape.

use super::{Pattern, Shape, UNBOUNDED, is_license_arn, optional, required};

const STRING: Shape = Shape::Text { min: 0, max: UNBOUNDED, pattern: None };
const INTEGER: Shape = Shape::Integer { min: i32::MIN as i64, max: i32::MAX as i64 };

/// Texts without blanks.
pub(super) const SOLID: Pattern = Pattern { written: "\\S+", matches: is_solid };
const CLIENT_TOKEN: Shape = Shape::Text { min: 0, max: 2048, pattern: Some(SOLID) };
const TOKEN_STRING: Shape = Shape::Text { min: 0, max: 4096, pattern: Some(SOLID) };
const ARN: Shape = Shape::Text {
    min: 0,
    max: 2048,
    pattern: Some(Pattern {
        written: "^arn:aws[a-zA-Z-]*:[A-Za-z0-9][A-Za-z0-9_/.-]{0,62}:[A-Za-z0-9_/.-]{0,63}:[A-Za-z0-9_/.-]{0,63}:\
                  [A-Za-z0-9][A-Za-z0-9:_/+=,@.-]{0,1023}$",
        matches: is_license_arn,
    }),
};
const DATE_TIME: Shape = Shape::Text {
    min: 0,
    max: 50,
    pattern: Some(Pattern {
        written: "^(-?(?:[1-9][0-9]*)?[0-9]{4})-(1[0-2]|0[1-9])-(3[0-1]|0[1-9]|[1-2][0-9])T(2[0-3]|[0-1][0-9]):\
                  ([0-5][0-9]):([0-5][0-9])(\\.[0-9]+)?(Z|[+-](?:2[ 0-3]|[0-1][0-9]):[0-5][0-9])+$",
        matches: is_date_time,
    }),
};

/// The units of entitlements: `EntitlementUnit` and `EntitlementDataUnit`, which are the same. The sidecar has its own
/// list, so that a mistake in one of them shows.
pub(crate) const UNITS: &[&str] = &[
    "Count",
    "None",
    "Seconds",
    "Microseconds",
    "Milliseconds",
    "Bytes",
    "Kilobytes",
    "Megabytes",
    "Gigabytes",
    "Terabytes",
    "Bits",
    "Kilobits",
    "Megabits",
    "Gigabits",
    "Terabits",
    "Percent",
    "Bytes/Second",
    "Kilobytes/Second",
    "Megabytes/Second",
    "Gigabytes/Second",
    "Terabytes/Second",
    "Bits/Second",
    "Kilobits/Second",
    "Megabits/Second",
    "Gigabits/Second",
    "Terabits/Second",
    "Count/Second",
];
const UNIT: Shape = Shape::Choice(UNITS);

const STRINGS: Shape = list(&STRING);
const ENTITLEMENT_DATA: Shape =
    Shape::Structure(&[required("Name", &STRING), optional("Value", &STRING), required("Unit", &UNIT)]);
const ENTITLEMENT: Shape = Shape::Structure(&[
    required("Name", &STRING),
    optional("Value", &STRING),
    optional("MaxCount", &Shape::Long),
    optional("Overage", &Shape::Boolean),
    required("Unit", &UNIT),
    optional("AllowCheckIn", &Shape::Boolean),
]);
const FILTER: Shape = Shape::Structure(&[optional("Name", &STRING), optional("Values", &STRINGS)]);
const NAME_AND_VALUE: Shape = Shape::Structure(&[optional("Name", &STRING), optional("Value", &STRING)]);
const TAG: Shape = Shape::Structure(&[optional("Key", &STRING), optional("Value", &STRING)]);
const ISSUER: Shape = Shape::Structure(&[required("Name", &STRING), optional("SignKey", &STRING)]);
const VALIDITY: Shape = Shape::Structure(&[required("Begin", &DATE_TIME), optional("End", &DATE_TIME)]);
const PROVISIONAL: Shape = Shape::Structure(&[required("MaxTimeToLiveInMinutes", &INTEGER)]);
const BORROW: Shape = Shape::Structure(&[
    required("AllowEarlyCheckIn", &Shape::Boolean),
    required("MaxTimeToLiveInMinutes", &INTEGER),
]);
const CONSUMPTION: Shape = Shape::Structure(&[
    optional("RenewType", &Shape::Choice(&["None", "Weekly", "Monthly"])),
    optional("ProvisionalConfiguration", &PROVISIONAL),
    optional("BorrowConfiguration", &BORROW),
]);

pub(super) const CHECKOUT_LICENSE: Shape = Shape::Structure(&[
    required("ProductSKU", &STRING),
    required("CheckoutType", &Shape::Choice(&["PROVISIONAL", "PERPETUAL"])),
    required("KeyFingerprint", &STRING),
    required("Entitlements", &list(&ENTITLEMENT_DATA)),
    required("ClientToken", &CLIENT_TOKEN),
    optional("Beneficiary", &STRING),
    optional("NodeId", &STRING),
]);
pub(super) const EXTEND_LICENSE_CONSUMPTION: Shape =
    Shape::Structure(&[required("LicenseConsumptionToken", &STRING), optional("DryRun", &Shape::Boolean)]);
pub(super) const CHECK_IN_LICENSE: Shape =
    Shape::Structure(&[required("LicenseConsumptionToken", &STRING), optional("Beneficiary", &STRING)]);
pub(super) const LIST_RECEIVED_LICENSES: Shape = Shape::Structure(&[
    optional("LicenseArns", &list(&ARN)),
    optional("Filters", &list(&FILTER)),
    optional("NextToken", &STRING),
    optional("MaxResults", &Shape::Integer { min: 1, max: 100 }),
]);
pub(super) const GET_LICENSE: Shape =
    Shape::Structure(&[required("LicenseArn", &ARN), optional("Version", &STRING)]);
pub(super) const GET_LICENSE_USAGE: Shape = Shape::Structure(&[required("LicenseArn", &ARN)]);
pub(super) const GET_ACCESS_TOKEN: Shape = Shape::Structure(&[
    required("Token", &TOKEN_STRING),
    optional("TokenProperties", &Shape::List { min: 0, max: 3, member: &STRING }),
]);
pub(super) const CREATE_LICENSE: Shape = Shape::Structure(&[
    required("LicenseName", &STRING),
    required("ProductName", &STRING),
    required("ProductSKU", &STRING),
    required("Issuer", &ISSUER),
    required("HomeRegion", &STRING),
    required("Validity", &VALIDITY),
    required("Entitlements", &list(&ENTITLEMENT)),
    required("Beneficiary", &STRING),
    required("ConsumptionConfiguration", &CONSUMPTION),
    optional("LicenseMetadata", &list(&NAME_AND_VALUE)),
    required("ClientToken", &CLIENT_TOKEN),
    optional("Tags", &list(&TAG)),
]);

/// A list without a length limit in the model; the request's size limits it.
const fn list(member: &'static Shape) -> Shape {
    Shape::List { min: 0, max: UNBOUNDED, member }
}

fn is_solid(text: &str) -> bool {
    !text.is_empty() && !text.bytes().any(|byte| byte.is_ascii_whitespace() || byte == 0x0b)
}

/// The model's pattern, which is wider than any calendar: years of any length, repeated zones, a blank in an hour.
fn is_date_time(text: &str) -> bool {
    let Some((date, time)) = text.strip_prefix('-').unwrap_or(text).split_once('T') else { return false };
    let mut parts = date.rsplitn(3, '-');
    let (Some(day), Some(month), Some(year)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let year_fits = digits(year) && (year.len() == 4 || (year.len() > 4 && !year.starts_with('0')));
    if !year_fits || !in_range(month, 1, 12) || !in_range(day, 1, 31) {
        return false;
    }
    let Some((clock, rest)) = time.split_at_checked(8) else { return false };
    let parts: Vec<&str> = clock.split(':').collect();
    let [hour, minute, second] = parts[..] else { return false };
    if !in_range(hour, 0, 23) || !in_range(minute, 0, 59) || !in_range(second, 0, 59) {
        return false;
    }
    let zones = match rest.strip_prefix('.') {
        Some(fraction) => {
            let zones = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            if zones.len() == fraction.len() {
                return false;
            }
            zones
        }
        None => rest,
    };
    !zones.is_empty() && are_zones(zones)
}

fn are_zones(mut zones: &str) -> bool {
    while !zones.is_empty() {
        if let Some(rest) = zones.strip_prefix('Z') {
            zones = rest;
            continue;
        }
        let Some((zone, rest)) = zones.split_at_checked(6) else { return false };
        let Some((hour, minute)) = zone.strip_prefix(['+', '-']).and_then(|zone| zone.split_once(':')) else {
            return false;
        };
        if !(in_range(hour, 0, 23) || hour == "2 ") || !in_range(minute, 0, 59) {
            return false;
        }
        zones = rest;
    }
    true
}

fn digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Two digits within bounds.
fn in_range(text: &str, least: u8, most: u8) -> bool {
    text.len() == 2 && digits(text) && text.parse().is_ok_and(|number: u8| (least..=most).contains(&number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_match_the_models_pattern() {
        for (text, good) in [
            ("2026-11-24T08:30:00Z", true),
            ("2026-11-24T08:30:00.5Z", true),
            ("2026-02-31T23:59:59+01:00", true),
            ("-12026-11-24T08:30:00ZZ", true),
            ("2026-11-24T08:30:00+2 :00", true),
            ("2026-11-24T08:30:00", false),
            ("2026-11-24T08:30:00.Z", false),
            ("2026-11-24 08:30:00Z", false),
            ("2026-13-24T08:30:00Z", false),
            ("2026-11-32T08:30:00Z", false),
            ("2026-11-24T24:30:00Z", false),
            ("2026-11-24T08:60:00Z", false),
            ("226-11-24T08:30:00Z", false),
            ("02026-11-24T08:30:00Z", false),
            ("2026-11-24T08:30:00+24:00", false),
            ("2026-11-24T08:30:00Zü", false),
            ("2026-11-24T08:3ü:00Z", false),
            ("", false),
        ] {
            assert_eq!(is_date_time(text), good, "{text}");
        }
    }

    #[test]
    fn texts_without_blanks() {
        for (text, good) in [("a", true), ("ü.-", true), ("", false), ("a b", false), ("a\n", false)] {
            assert_eq!(is_solid(text), good, "{text:?}");
        }
    }
}
