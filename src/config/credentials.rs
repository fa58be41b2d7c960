//! Checks the variables from which the AWS SDK takes credentials. The SDK uses their values as they are: a line feed
//! in a key, from a Kubernetes Secret, would become a header that cannot be built.
//!
//! - Their values appear in no fault.
//! - Half of a pair, or the name of a missing file, makes the SDK look for other credentials silently. Other
//!   credentials may exist, so this is no fault but a [gap](Gaps): a warning, and the reason if nothing else gives
//!   credentials.

use std::borrow::Cow;
use std::net::IpAddr;
use std::path::Path;

use super::disk::describe;
use super::env::filled;
use super::fault::{Fault, Origin, is_path};
use super::profiles;
use super::reader::Reader;
use super::setting::Setting;
use tollgate_disk::Links;
use tollgate_marketplace::CREDENTIAL_FILE_BYTES_MAX;

const ACCESS_KEY: &str = "AWS_ACCESS_KEY_ID";
const SECRET_KEY: &str = "AWS_SECRET_ACCESS_KEY";
pub(super) const ROLE: &str = "AWS_ROLE_ARN";
const RELATIVE_URI: &str = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
const FULL_URI: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
const CONTAINER_TOKEN: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN";

/// The file of IRSA's projected token; the SDK reads it, here it is only checked.
pub(super) const WEB_IDENTITY_TOKEN_FILE: &str = "AWS_WEB_IDENTITY_TOKEN_FILE";

/// The file of the EKS Pod Identity agent's token; the SDK reads it, here it is only checked.
pub(super) const CONTAINER_TOKEN_FILE: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE";

/// The addresses where the ECS agent or the EKS Pod Identity agent hands out credentials; `doctor` distinguishes the
/// two agents.
pub(super) const CONTAINER_URIS: [&str; 2] = [RELATIVE_URI, FULL_URI];

/// Variables whose values are printable ASCII without white space or quotes.
const TEXTS: [&str; 9] = [
    ACCESS_KEY,
    SECRET_KEY,
    "AWS_SESSION_TOKEN",
    ROLE,
    "AWS_ROLE_SESSION_NAME",
    RELATIVE_URI,
    FULL_URI,
    CONTAINER_TOKEN,
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
];

/// Variables whose values are names or paths, which may hold a space.
const NAMES: [&str; 6] = [
    profiles::PROFILE,
    WEB_IDENTITY_TOKEN_FILE,
    CONTAINER_TOKEN_FILE,
    profiles::CONFIG_FILE,
    profiles::CREDENTIALS_FILE,
    "AWS_CA_BUNDLE",
];

/// Variables of endpoints begin with this; they are checked as [`TEXTS`] are, since STS's is used for credentials.
const ENDPOINTS: &str = "AWS_ENDPOINT_URL";

/// Pairs of which the SDK uses neither half alone.
const PAIRS: [[&str; 2]; 2] = [[ACCESS_KEY, SECRET_KEY], [ROLE, WEB_IDENTITY_TOKEN_FILE]];

/// What was set and gives no credentials: sentences without a full stop. They name variables and files, but no values
/// of keys.
pub(super) type Gaps = Vec<String>;

/// Reports each variable whose value cannot be used as it is, and returns what gives no credentials.
pub(super) fn check(reader: &mut Reader<'_>) -> Option<Gaps> {
    // The variable that sets `endpoint_url` is checked as that setting; beside a seller's file `resolve` refuses all.
    let ours = reader.origin(Setting::EndpointUrl);
    let judged =
        |name: &String| reader.resolution.sealed() || ours == Origin::Environment(Cow::Owned(name.clone()));
    let endpoints: Vec<String> =
        reader.env.names().into_iter().filter(|name| name.starts_with(ENDPOINTS) && !judged(name)).collect();
    let texts = TEXTS.into_iter().map(str::to_owned).chain(endpoints).map(|name| (name, true));
    for (name, text) in texts.chain(NAMES.into_iter().map(|name| (name.to_owned(), false))) {
        if let Some(problem) = reader.env.get(&name).and_then(|value| problem(&value, text)) {
            refuse(reader, name, problem);
        }
    }
    addresses(reader);
    let mut gaps = Gaps::new();
    // Outside AWS the license token completes the pair of the role.
    let licensed = license_token(reader);
    for [one, other] in PAIRS {
        let given = [one, other].map(|name| filled(reader.env, name).is_some());
        if one == ROLE && given == [true, false] && licensed {
            continue;
        }
        if given[0] != given[1] {
            let (set, missing) = if given[0] { (one, other) } else { (other, one) };
            gaps.push(format!("{set} is set without {missing} and is ignored; set both, or neither"));
        }
    }
    if licensed && filled(reader.env, ROLE).is_none() {
        gaps.push(format!("license_token_file is set without {ROLE} and is ignored; set both, or neither"));
    }
    let agent = asks_agent(reader);
    for name in [CONTAINER_TOKEN, CONTAINER_TOKEN_FILE] {
        if !agent && filled(reader.env, name).is_some() {
            gaps.push(format!("{name} is set without {FULL_URI} or {RELATIVE_URI}; set both, or neither"));
        }
    }
    for name in [WEB_IDENTITY_TOKEN_FILE, CONTAINER_TOKEN_FILE] {
        match token_gap(reader, name) {
            Some(Gap::Warning(gap)) => gaps.push(gap),
            Some(Gap::TokenItself) => refuse(
                reader,
                name,
                "names no file, and may be the token itself; write that into a file and name the file",
            ),
            None => {}
        }
    }
    gaps.extend(profiles::check(reader));
    reader.warnings.extend(gaps.iter().cloned());
    Some(gaps)
}

/// Whether a license token may give credentials.
fn license_token(reader: &Reader<'_>) -> bool {
    let setting = Setting::LicenseTokenFile;
    reader.is_given(setting) && reader.no_effect(setting).is_none()
}

/// Whether the SDK asks an agent for credentials. The agent's token is used only then.
pub(super) fn asks_agent(reader: &Reader<'_>) -> bool {
    CONTAINER_URIS.iter().any(|name| filled(reader.env, name).is_some())
}

fn refuse(reader: &mut Reader<'_>, name: impl Into<String>, problem: &str) {
    let name = name.into();
    let origin = Some(Origin::Environment(name.clone().into()));
    reader.faults.push(Fault { origin, ..Fault::of(name, problem) });
}

/// Whether a variable of [`NAMES`] was refused already for its form, so that the file that it names is not read.
pub(super) fn is_refused(reader: &Reader<'_>, name: &str) -> bool {
    reader.env.get(name).is_some_and(|value| problem(&value, false).is_some())
}

/// Checks the addresses of the agents by the SDK's own rules; the SDK would say only that an address is invalid.
fn addresses(reader: &mut Reader<'_>) {
    let given = |name| filled(reader.env, name).filter(|value| problem(value, true).is_none());
    let (relative, full, role) = (given(RELATIVE_URI), given(FULL_URI), given(ROLE));
    if relative.is_some_and(|path| !path.starts_with('/')) {
        refuse(
            reader,
            RELATIVE_URI,
            "does not begin with a slash; write the path at 169.254.170.2, as ECS sets it",
        );
    }
    if full.is_some_and(|uri| !is_agents(&uri)) {
        let problem = "is not where an agent hands out credentials; write https://host/path, or http:// with a loopback \
                       address or the agent's (169.254.170.2, 169.254.170.23, [fd00:ec2::23])";
        refuse(reader, FULL_URI, problem);
    }
    if role.is_some_and(|role| !(role.starts_with("arn:") && role.contains(":role/"))) {
        refuse(reader, ROLE, "is not the ARN of a role; write arn:aws:iam::<account>:role/<name>");
    }
}

fn is_agents(uri: &str) -> bool {
    let Ok(uri) = uri.parse::<hyper::Uri>() else { return false };
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(host)) => !host.is_empty(),
        (Some("http"), Some(host)) => match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(ip) => ip.is_loopback() || AGENTS.iter().any(|agent| agent.parse() == Ok(ip)),
            // The SDK resolves a name and applies the same rule to its addresses.
            Err(_) => !host.is_empty(),
        },
        _ => false,
    }
}

/// ECS, and EKS Pod Identity over IPv4 and IPv6 (AWS SDKs and tools reference, "Container credential provider").
const AGENTS: [&str; 3] = ["169.254.170.2", "169.254.170.23", "fd00:ec2::23"];

/// Why a variable that names a token's file gives no token.
enum Gap {
    Warning(String),
    /// The value may be the token itself. It is shown nowhere, and is a fault, since no such file can exist later.
    TokenItself,
}

fn token_gap(reader: &Reader<'_>, name: &'static str) -> Option<Gap> {
    let file = filled(reader.env, name).filter(|_| !is_refused(reader, name))?;
    let read = reader.installed.disk.read(Path::new(&file), CREDENTIAL_FILE_BYTES_MAX, Links::Follow);
    let seen = match read {
        Ok(token) => tollgate_aws::token_problem(&token, name == CONTAINER_TOKEN_FILE)?.to_owned(),
        Err(_) if !is_path(&file) => return Some(Gap::TokenItself),
        Err(error) => describe(&error),
    };
    Some(Gap::Warning(format!("{name} names {file}, which gives no token ({seen})")))
}

fn problem(value: &str, text: bool) -> Option<&'static str> {
    let quote = |c: char| c == '"' || c == '\'';
    // `restart_if_untidy` trims the values; white space that is left here could not be trimmed.
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

    #[test]
    fn addresses_of_agents() {
        for good in [
            "http://127.0.0.1:8080/creds",
            "http://[::1]/creds",
            "http://localhost/creds",
            "http://169.254.170.2/v2/credentials/id",
            "http://169.254.170.23/v1/credentials",
            "http://[fd00:ec2::23]/v1/credentials",
            "https://agent.example/creds",
        ] {
            assert!(is_agents(good), "{good}");
        }
        for bad in [
            "169.254.170.23/v1/credentials",
            "127.0.0.1:80",
            "http://169.254.169.254/latest",
            "http://10.0.0.1/creds",
            "http:///creds",
            "ftp://127.0.0.1/creds",
            "/v1/credentials",
            "http://",
        ] {
            assert!(!is_agents(bad), "{bad}");
        }
    }
}
