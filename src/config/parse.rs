//! Turns texts into values: pure functions, one for each kind of value.
//!
//! A problem is the end of a sentence that begins with the setting's name, and says what to write instead.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{ClockSource, EndpointUrl, ListenAddr, Mode, OnLapse, OnUnsent};
use tollgate_marketplace::license::{ENTITLEMENTS_MAX, Wanted};
use tollgate_marketplace::{DIMENSION_CHARS_MAX, DIMENSIONS_MAX, Invalid};

/// What is wrong with a text.
pub(super) type Problem = Cow<'static, str>;

/// Longest duration accepted: a number beyond a year probably has the wrong unit.
pub const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Reads a duration: whole numbers with the units `d`, `h`, `m`, `s`, `ms`, largest first, such as `1h30m`.
///
/// The one duration syntax of the program, for flags, variables, files and `await --timeout`. The limit is
/// [`DURATION_MAX`].
pub fn duration(text: &str) -> Result<Duration, Invalid> {
    const UNITS: [(&str, u64); 5] =
        [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
    const NOT_ONE: Invalid =
        Invalid("is not a duration; write whole numbers with units, such as 1h30m or 45s");
    const TOO_LONG: Invalid = Invalid("is longer than 366 days; check the unit (d, h, m, s, ms)");

    let mut rest = text;
    let mut units_left = &UNITS[..];
    let mut total_ms: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_lowercase).count();
        let (number, unit) = (&rest[..digits], &rest[digits..digits + letters]);
        let position = units_left.iter().position(|(name, _)| *name == unit).ok_or(NOT_ONE)?;
        if number.is_empty() {
            return Err(NOT_ONE);
        }
        let ms = number.parse::<u64>().ok().and_then(|n| n.checked_mul(units_left[position].1));
        total_ms = ms.and_then(|ms| total_ms.checked_add(ms)).ok_or(TOO_LONG)?;
        units_left = &units_left[position + 1..];
        rest = &rest[digits + letters..];
    }
    if text.is_empty() {
        return Err(NOT_ONE);
    }
    let total = Duration::from_millis(total_ms);
    if total > DURATION_MAX { Err(TOO_LONG) } else { Ok(total) }
}

/// A duration within the setting's limits, which are written as durations too.
pub(super) fn duration_within(text: &str, least: &str, most: &str) -> Result<Duration, Problem> {
    let duration = |text| duration(text).map_err(|invalid: Invalid| Cow::Borrowed(invalid.0));
    let value = duration(text)?;
    if value > duration(most)? {
        return Err(format!("is longer than {most}; choose less").into());
    }
    if value < duration(least)? {
        return Err(format!("is shorter than {least}; choose more").into());
    }
    Ok(value)
}

/// Smallest ledger that holds its own schema and a day of records.
const SIZE_BYTES_MIN: u64 = 64 * 1024;

/// Reads a size: a whole number with `B`, `KiB`, `MiB`, `GiB` or `TiB`, such as `512MiB`; bytes without a unit.
pub(super) fn size(text: &str) -> Result<u64, Problem> {
    const UNITS: [(&str, u32); 6] = [("", 0), ("B", 0), ("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, shift)| *shift);
    let bytes = number
        .parse::<u64>()
        .ok()
        .zip(shift)
        .ok_or("is not a size; write a whole number with a unit, such as 512MiB or 1GiB")
        .map(|(number, shift)| number.checked_mul(1 << shift))?;
    match bytes.filter(|bytes| i64::try_from(*bytes).is_ok()) {
        None => Err("is larger than any disk; check the unit (KiB, MiB, GiB, TiB)".into()),
        Some(bytes) if bytes < SIZE_BYTES_MIN => Err("is smaller than 64KiB; choose more".into()),
        Some(bytes) => Ok(bytes),
    }
}

/// Reads `true`, `false`, `on` or `off`. All are accepted everywhere, because YAML turns an unquoted `on` into `true`.
pub(super) fn switch(text: &str) -> Result<bool, Problem> {
    match text {
        "true" | "on" => Ok(true),
        "false" | "off" => Ok(false),
        _ => Err("is neither true nor false (on and off are accepted too)".into()),
    }
}

pub(super) fn mode(text: &str) -> Result<Mode, Problem> {
    Mode::ALL
        .into_iter()
        .find(|mode| mode.as_str() == text)
        .ok_or("is not a mode; use hourly, metered, contract or saas, as the product is priced".into())
}

pub(super) fn on_lapse(text: &str) -> Result<OnLapse, Problem> {
    Ok(keep_or_close_after(text)?.map_or(OnLapse::Keep, OnLapse::CloseAfter))
}

/// AWS advises not to fail closed before two hours of metering failures.
const ON_UNSENT_MIN: Duration = Duration::from_secs(2 * 60 * 60);

pub(super) fn on_unsent(text: &str) -> Result<OnUnsent, Problem> {
    match keep_or_close_after(text)? {
        None => Ok(OnUnsent::Keep),
        Some(after) if after < ON_UNSENT_MIN => {
            Err("closes in less than 2h; choose 2h or more, as AWS advises".into())
        }
        Some(after) => Ok(OnUnsent::CloseAfter(after)),
    }
}

fn keep_or_close_after(text: &str) -> Result<Option<Duration>, Problem> {
    if text == "keep" {
        return Ok(None);
    }
    let Some(after) = text.strip_prefix("close-after:") else {
        return Err("is neither keep nor close-after:<duration>, such as close-after:6h".into());
    };
    duration(after).map(Some).map_err(|invalid| format!("has a part that {invalid}").into())
}

/// Longest URL of a runbook.
const DOCS_URL_CHARS_MAX: usize = 1024;

/// Unlike an endpoint it may hold a query or a fragment, to which a reason's code is appended.
pub(super) fn docs_url(text: &str) -> Result<String, Problem> {
    let web = text.starts_with("https://") || text.starts_with("http://");
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
    if !web
        || !printable
        || text.len() > DOCS_URL_CHARS_MAX
        || text.split_once("://").is_some_and(|(_, rest)| rest.is_empty())
    {
        return Err("is not a web address; write one such as https://docs.example.com/runbook#".into());
    }
    Ok(text.to_owned())
}

/// Longest log filter: enough for a directive for every module.
const LOG_FILTER_CHARS_MAX: usize = 1024;

/// The levels that a filter and each of its directives may name.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

pub(super) fn log_filter(text: &str) -> Result<String, Problem> {
    // `tracing` takes a directive without a level for a target, so a misspelled level would silence everything else.
    let directive = |directive: &str| {
        let (target, level) = directive.split_once('=').unwrap_or(("tollgate", directive));
        let path = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        !target.is_empty()
            && target.chars().all(path)
            && LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level))
    };
    if text.len() <= LOG_FILTER_CHARS_MAX && text.split(',').all(directive) {
        return Ok(text.to_owned());
    }
    Err("is not a log filter; write off, error, warn, info, debug or trace, or directives such as \
         info,tollgate::registration=debug"
        .into())
}

/// `sun_path` has 108 bytes with the final NUL (unix(7)).
const UNIX_PATH_BYTES_MAX: usize = 107;

pub(super) fn tcp_addr(text: &str) -> Result<SocketAddr, Problem> {
    text.parse().map_err(|_| "is not an address; write IP:port, such as 0.0.0.0:19180 or [::]:19180".into())
}

pub(super) fn listen_addr(text: &str) -> Result<ListenAddr, Problem> {
    let Some(path) = text.strip_prefix("unix:") else {
        return text.parse().map(ListenAddr::Tcp).map_err(|_| {
            "is not an address; write IP:port, such as 127.0.0.1:19181, or unix:/path/to/socket".into()
        });
    };
    if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
        return Err(
            "has no absolute path of a socket after unix:, such as unix:/run/tollgate/app.sock".into()
        );
    }
    if path.len() > UNIX_PATH_BYTES_MAX {
        return Err(
            "has a socket path longer than the 107 bytes that Linux allows; choose a shorter one".into()
        );
    }
    Ok(ListenAddr::Unix(PathBuf::from(path)))
}

pub(super) fn endpoint_url(text: &str) -> Result<EndpointUrl, Problem> {
    text.parse()
}

pub(super) fn clock(text: &str) -> Result<ClockSource, Problem> {
    if text == "system" {
        return Ok(ClockSource::System);
    }
    endpoint_url(text)
        .map(ClockSource::Follow)
        .map_err(|problem| format!("{problem}, or write system").into())
}

/// Any text is a path, except an empty one and one with a NUL.
pub(super) fn path(text: &str) -> Result<PathBuf, Problem> {
    if text.is_empty() || text.contains('\0') {
        return Err("is not a path; name a file or folder, or remove the setting".into());
    }
    Ok(Path::new(text).to_owned())
}

pub(super) fn dimension(text: &str) -> Result<String, Problem> {
    let chars = text.chars().count();
    if chars == 0 || chars > DIMENSION_CHARS_MAX || text.chars().any(char::is_control) {
        return Err(
            "holds a dimension name that is empty, longer than 255 characters or not printable".into()
        );
    }
    Ok(text.to_owned())
}

pub(super) fn dimensions(items: &[String]) -> Result<Vec<String>, Problem> {
    if items.is_empty() || items.len() > DIMENSIONS_MAX {
        return Err("must hold 1 to 200 dimension names".into());
    }
    let mut names = Vec::with_capacity(items.len());
    for item in items {
        let name = dimension(item)?;
        if names.contains(&name) {
            return Err(format!("names {name:?} twice; remove one").into());
        }
        names.push(name);
    }
    Ok(names)
}

/// The entitlements that a license must have, each named once.
pub(super) fn entitlements(items: &[String]) -> Result<Vec<Wanted>, Problem> {
    if items.is_empty() || items.len() > ENTITLEMENTS_MAX {
        return Err(format!("must hold 1 to {ENTITLEMENTS_MAX} entitlements").into());
    }
    let mut all: Vec<Wanted> = Vec::with_capacity(items.len());
    for item in items {
        let wanted: Wanted =
            item.parse().map_err(|invalid: Invalid| format!("holds {item:?}, which {invalid}"))?;
        if all.iter().any(|known| known.name == wanted.name) {
            return Err(format!("names {:?} twice; remove one", wanted.name).into());
        }
        all.push(wanted);
    }
    Ok(all)
}

/// Most seats of one pod: a larger number is probably a typing error.
const SEATS_MAX: u32 = 1_000_000;

pub(super) fn seats(text: &str) -> Result<u32, Problem> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let seats = text.parse::<u32>().ok().filter(|seats| digits && (1..=SEATS_MAX).contains(seats));
    seats.ok_or_else(|| format!("is not a whole number from 1 to {SEATS_MAX}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let good = [
            ("0s", 0),
            ("45s", 45_000),
            ("500ms", 500),
            ("1h30m", 5_400_000),
            ("1d2h3m4s5ms", 93_784_005),
            ("90m", 5_400_000),
            ("366d", 31_622_400_000),
        ];
        for (text, ms) in good {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        let bad = [
            "",
            "0",
            "10",
            "s",
            "1",
            "1m1h",
            "1h1h",
            "1.5h",
            "-1s",
            "+1s",
            " 1s",
            "1s ",
            "1 s",
            "1H",
            "1ms1s",
            "1w",
            "1µs",
            "367d",
            "99999999999999999999s",
            "18446744073709551615d",
            "1h30",
            "１s",
        ];
        for text in bad {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("1GiB", 1 << 30), ("64KiB", 65_536), ("65536", 65_536), ("65536B", 65_536)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in
            ["", "GiB", "1GB", "1.5GiB", "-1GiB", "1 GiB", "63KiB", "8388608TiB", "99999999999999999999"]
        {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn listen_addresses() {
        assert_eq!(listen_addr("[::1]:1"), Ok(ListenAddr::Tcp("[::1]:1".parse().unwrap())));
        assert_eq!(listen_addr("unix:/run/a.sock"), Ok(ListenAddr::Unix("/run/a.sock".into())));
        let long = format!("unix:/{}", "x".repeat(107));
        for text in
            ["", ":19180", "localhost:1", "1.2.3.4", "1.2.3.4:70000", "unix:", "unix:a", "unix:/", &long]
        {
            assert!(listen_addr(text).is_err(), "{text}");
        }
    }

    #[test]
    fn policies() {
        assert_eq!(on_lapse("close-after:6h"), Ok(OnLapse::CloseAfter(Duration::from_secs(6 * 3600))));
        assert!(
            on_lapse("close-after:").is_err() && on_lapse("close-after:6").is_err() && on_lapse("").is_err()
        );
        assert_eq!(mode("contract"), Ok(Mode::Contract));
        assert!(mode("contracts").unwrap_err().contains("hourly, metered, contract or saas"));
        for text in ["on", "true"] {
            assert_eq!(switch(text), Ok(true));
        }
        assert!(switch("yes").is_err() && switch("True").is_err());
    }

    #[test]
    fn log_filters_name_levels() {
        for good in ["off", "trace", "info,tollgate=debug", "tollgate::usage=WARN", "warn,aws_config=debug"] {
            assert_eq!(log_filter(good).as_deref(), Ok(good));
        }
        for bad in
            ["", "inof", "info,", "tollgate", "info,tolgate", "a=b=c", "a=inof", "=info", "a b=info", "3"]
        {
            let problem = log_filter(bad).expect_err(bad);
            assert!(problem.contains("off, error, warn, info, debug or trace"), "{problem}");
        }
    }

    #[test]
    fn dimension_lists() {
        let list = |names: &[&str]| dimensions(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        assert_eq!(list(&["requests", "gigabytes"]).unwrap().len(), 2);
        for bad in [&[][..], &[""], &["a", "a"], &["a\n"], &["x"; 201]] {
            assert!(list(bad).is_err(), "{bad:?}");
        }
    }
    #[test]
    fn entitlements_stand_once_and_say_which_is_wrong() {
        let list = |names: &[&str]| entitlements(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        assert_eq!(list(&["users:Count:10", "premium:None", "nodes"]).map(|all| all.len()), Ok(3));
        for (bad, said) in [
            (&[][..], "must hold 1 to 200"),
            (&["users"; 201], "must hold 1 to 200"),
            (&["users:Count", "users"], "names \"users\" twice"),
            (&["users", "seats:Seats"], "holds \"seats:Seats\", which is not a unit"),
            (&["users:Count:0"], "holds \"users:Count:0\", which has a quantity"),
            (&["users", ""], "holds \"\", which does not begin with the name"),
        ] {
            let problem = list(bad).unwrap_err();
            assert!(problem.starts_with(said), "{problem}");
        }
    }

    #[test]
    fn a_pod_takes_a_number_of_seats() {
        assert_eq!((seats("1"), seats("1000000")), (Ok(1), Ok(1_000_000)));
        for bad in ["", "0", "-1", "+1", "1.5", "1000001", "99999999999"] {
            assert!(seats(bad).is_err(), "{bad}");
        }
    }
}
