//! Checks the proxies that the usual variables name. The HTTP client reads the variables itself and ignores what it
//! does not understand: requests would then leave without the proxy. So what it would ignore is a fault here.

use hyper::Uri;

use super::env::filled;
use super::fault::{Fault, Origin};
use super::parse::Problem;
use super::reader::Reader;
use super::{Proxies, Secret};

/// Upper case first, as the HTTP client looks for them.
const HTTPS: [&str; 2] = ["HTTPS_PROXY", "https_proxy"];
const HTTP: [&str; 2] = ["HTTP_PROXY", "http_proxy"];
const ALL: [&str; 2] = ["ALL_PROXY", "all_proxy"];
const NO: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// All variables about proxies.
pub(super) const VARIABLES: [&str; 8] = [HTTPS[0], HTTPS[1], HTTP[0], HTTP[1], ALL[0], ALL[1], NO[0], NO[1]];

/// With this variable set, the HTTP client takes the process for a CGI program and uses no proxy at all.
const CGI_VARIABLE: &str = "REQUEST_METHOD";

/// Reads all proxies.
pub(super) fn read(reader: &mut Reader<'_>) -> Option<Proxies> {
    let https = proxy(reader, HTTPS);
    let http = proxy(reader, HTTP);
    let all = proxy(reader, ALL);
    let no_proxy = exceptions(reader);
    let proxies = Proxies { https: https?, http: http?, all: all?, no_proxy: no_proxy? };
    let some = proxies.https.is_some() || proxies.http.is_some() || proxies.all.is_some();
    if some && reader.env.get(CGI_VARIABLE).is_some() {
        let problem = "makes the HTTP client ignore every proxy variable; remove it, or remove the proxies";
        reader.faults.push(Fault::of(CGI_VARIABLE, problem));
        return None;
    }
    Some(proxies)
}

fn chosen(reader: &Reader<'_>, names: [&'static str; 2]) -> Option<(&'static str, String)> {
    names.into_iter().find_map(|name| Some((name, filled(reader.env, name)?)))
}

fn proxy(reader: &mut Reader<'_>, names: [&'static str; 2]) -> Option<Option<Secret>> {
    let Some((name, value)) = chosen(reader, names) else { return Some(None) };
    match check(&value) {
        Ok(()) => Some(Some(Secret::new(value))),
        Err(problem) => {
            // The fault never shows the value, which may hold a password.
            refuse(reader, name, problem);
            None
        }
    }
}

fn exceptions(reader: &mut Reader<'_>) -> Option<Option<String>> {
    let Some((name, value)) = chosen(reader, NO) else { return Some(None) };
    if value.contains(['"', '\'']) {
        refuse(reader, name, "holds quotes; write the names without them, separated by commas".into());
        return None;
    }
    Some(Some(value))
}

fn refuse(reader: &mut Reader<'_>, name: &'static str, problem: Problem) {
    let origin = Some(Origin::Environment(name.into()));
    reader.faults.push(Fault { origin, ..Fault::of(name, problem) });
}

/// Longest address of a proxy, with user name and password.
const URL_CHARS_MAX: usize = 2048;

fn check(value: &str) -> Result<(), Problem> {
    const NOT_ONE: &str = "is not the address of a proxy; write http://host:port";
    const USERINFO: &str = "holds a user name or password with special characters; percent-encode them";
    if value.contains(['"', '\'']) {
        return Err("holds quotes; write the address without them, as http://host:port".into());
    }
    if value.contains(char::is_whitespace) {
        return Err("holds white space; write the address without it, as http://host:port".into());
    }
    let rest = match value.split_once("://") {
        Some(("http" | "https", rest)) => rest,
        Some((scheme, _)) if scheme.starts_with("socks") => {
            return Err("names a SOCKS proxy, which is not supported; name an HTTP proxy".into());
        }
        Some(_) => return Err(NOT_ONE.into()),
        None => value,
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // A password with one of these characters would end the address too early, and leave an @ in the rest.
    if path.contains('@') || authority.matches('@').count() > 1 {
        return Err(USERINFO.into());
    }
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let parsed: Option<Uri> = format!("http://{host}/").parse().ok();
    let whole: Option<Uri> = value.parse().ok();
    let good = value.len() <= URL_CHARS_MAX
        && matches!(path, "" | "/")
        && whole.is_some_and(|uri| uri.authority().is_some())
        && parsed.as_ref().and_then(Uri::authority).is_some_and(|authority| {
            let stated = authority.as_str().len() > authority.host().len();
            !authority.host().is_empty() && stated == authority.port_u16().is_some_and(|port| port > 0)
        });
    if good { Ok(()) } else { Err(NOT_ONE.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_proxies() {
        for good in [
            "http://proxy:3128",
            "http://proxy",
            "https://proxy.example:3128/",
            "proxy:3128",
            "proxy.example",
            "10.0.0.1:3128",
            "http://user:p%40ss@proxy:3128",
            "http://[fd00::1]:3128",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        let cases = [
            ("\"http://proxy:3128\"", "quotes"),
            ("'proxy:3128'", "quotes"),
            ("http://pro xy:3128", "white space"),
            ("http://user:pa#ss@proxy:3128", "percent-encode"),
            ("http://user:pa/ss@proxy:3128", "percent-encode"),
            ("http://user:p@ss@proxy:3128", "percent-encode"),
            ("socks5://proxy:1080", "SOCKS"),
            ("ftp://proxy", "http://host:port"),
            ("http//proxy:3128", "http://host:port"),
            ("http://", "http://host:port"),
            ("http://:3128", "http://host:port"),
            ("http://proxy:", "http://host:port"),
            ("http://proxy:0", "http://host:port"),
            ("http://proxy:port", "http://host:port"),
            ("http://proxy:99999", "http://host:port"),
            ("http://proxy:3128/path", "http://host:port"),
            ("http://prüxy:3128", "http://host:port"),
        ];
        for (bad, word) in cases {
            let problem = check(bad).expect_err(bad);
            assert!(problem.contains(word), "{bad}: {problem}");
        }
    }
}
