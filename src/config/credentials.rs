//! The variables from which the AWS SDK takes credentials. It reads them itself; a Kubernetes Secret hands them over as
//! somebody typed them, and the SDK passes them on: a line feed in a key becomes a header that cannot be built.
//!
//! Their values appear in no fault.

use super::env::filled;
use super::fault::{Fault, Origin};
use super::reader::Reader;

/// Texts: printable ASCII without white space or quotes, whatever AWS puts into them.
const TEXTS: [&str; 8] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
];

/// Names and paths, which may hold a space.
const NAMES: [&str; 6] = [
    "AWS_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CA_BUNDLE",
];

/// The two halves of a key. With one of them alone the SDK looks for other credentials, without a word.
const KEY: [&str; 2] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];

/// Notes each variable that would not reach AWS as it was meant.
pub(super) fn check(reader: &mut Reader<'_>) {
    let texts = TEXTS.into_iter().map(|name| (name, true));
    for (name, text) in texts.chain(NAMES.into_iter().map(|name| (name, false))) {
        if let Some(problem) = reader.env.get(name).and_then(|value| problem(&value, text)) {
            let origin = Some(Origin::Environment(name.into()));
            reader.faults.push(Fault { origin, ..Fault::of(name, problem) });
        }
    }
    let given = KEY.map(|name| filled(reader.env, name).is_some());
    if given[0] != given[1] {
        let (set, missing) = if given[0] { (KEY[0], KEY[1]) } else { (KEY[1], KEY[0]) };
        reader.warnings.push(format!("{set} is set without {missing} and is ignored; set both, or neither"));
    }
}

fn problem(value: &str, text: bool) -> Option<&'static str> {
    let quote = |c: char| c == '"' || c == '\'';
    // The start takes it off for every reader; what is left here could not be taken off.
    if value != value.trim() {
        return Some("has white space at an end; remove it where the variable is set");
    }
    if value.starts_with(quote) || value.ends_with(quote) || (text && value.contains(quote)) {
        return Some("holds quotes; remove them where the variable is set");
    }
    if text && value.contains(char::is_whitespace) {
        return Some("holds white space; set exactly what AWS issued");
    }
    let printable = |c: char| if text { c.is_ascii_graphic() } else { !c.is_control() && c != '\u{fffd}' };
    (!value.chars().all(printable)).then_some("holds characters that cannot be in it; set it again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_secret_hands_over_is_taken_or_refused_and_never_passed_on() {
        for good in ["", "AKIAEXAMPLE", "wJalr/XUtn+FEMI=", "arn:aws:iam::111122223333:role/app"] {
            assert_eq!(problem(good, true), None, "{good}");
        }
        for (bad, word) in [
            ("AKIA\n", "at an end"),
            (" AKIA", "at an end"),
            ("\"AKIA\"", "quotes"),
            ("'AKIA", "quotes"),
            ("AK\"IA", "quotes"),
            ("AK IA", "white space"),
            ("AK\nIA", "white space"),
            ("AKIÄ", "characters"),
            ("AK\u{0}IA", "characters"),
        ] {
            assert!(problem(bad, true).is_some_and(|problem| problem.contains(word)), "{bad:?}");
        }
        assert_eq!(problem("/var/my secrets/token", false), None);
        assert!(problem("'/var/token'", false).is_some() && problem("/a\nb", false).is_some());
    }
}
