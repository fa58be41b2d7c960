//! Who may call the application's server: the application, and no web page in a browser.
//!
//! A page can make a browser send requests to loopback. It cannot hide its `Origin`, and by DNS rebinding it reaches us
//! under its own `Host`; both are refused (WHATWG Fetch, "Origin header"; RFC 9110, section 7.2).

use std::net::{Ipv4Addr, Ipv6Addr};

use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, ORIGIN};
use hyper::{Response, StatusCode, Uri};

use super::code::Code;
use super::problem;
use crate::config::Secret;
use tollgate_http::Body;

/// Refuses every client but the application: browsers by their headers, others by the token, if one is configured.
///
/// Without a token, a request with two `Host` headers is refused, and one whose target names a host that is not local:
/// two readers could understand it differently (RFC 9112, section 3.2).
pub(super) fn refusal(target: &Uri, headers: &HeaderMap, token: Option<&Secret>) -> Option<Response<Body>> {
    if headers.contains_key(ORIGIN) {
        return Some(problem(
            StatusCode::FORBIDDEN,
            Code::OriginRefused,
            "requests of web pages are refused",
        ));
    }
    let Some(token) = token else {
        let mut hosts = headers.get_all(HOST).iter();
        let host = hosts.next().and_then(|host| host.to_str().ok()).unwrap_or_default();
        let other = target.authority().is_some_and(|other| !is_local_host(other.as_str()));
        if is_local_host(host) && hosts.next().is_none() && !other {
            return None;
        }
        let detail = "the Host must be localhost or a loopback address";
        return Some(problem(StatusCode::FORBIDDEN, Code::HostRefused, detail));
    };
    let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // The scheme is case-insensitive (RFC 9110, section 11.1), the token is not.
    let (scheme, given) = given.split_once(' ').unwrap_or_default();
    let given = if scheme.eq_ignore_ascii_case("bearer") { given } else { "" };
    // Compared through a keyed hash, so that the time of the comparison reveals nothing about the token.
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, token.expose().as_bytes());
    let expected = ring::hmac::sign(&key, token.expose().as_bytes());
    if ring::hmac::verify(&key, given.as_bytes(), expected.as_ref()).is_err() {
        let detail = "the bearer token is missing or wrong; it is the content of app_token_file";
        return Some(problem(StatusCode::UNAUTHORIZED, Code::TokenRefused, detail));
    }
    None
}

/// Refuses a body that is not declared as JSON: a web page can send some other types without a CORS preflight.
pub(super) fn not_json(headers: &HeaderMap) -> Option<Response<Body>> {
    if is_media_type(headers, "application/json") {
        return None;
    }
    let detail = "the Content-Type must be application/json";
    Some(problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::ContentTypeRefused, detail))
}

/// Whether the `Content-Type` is this type: case-insensitive, parameters may follow (RFC 9110, section 8.3.1).
pub(super) fn is_media_type(headers: &HeaderMap, media_type: &str) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let given = content_type.split(';').next().unwrap_or_default();
    given.trim().eq_ignore_ascii_case(media_type)
}

fn is_local_host(host: &str) -> bool {
    let name = host
        .rsplit_once(':')
        .map_or(host, |(name, port)| if port.bytes().all(|b| b.is_ascii_digit()) { name } else { host });
    // An IPv6 address is written in one pair of brackets (RFC 3986, section 3.2.2).
    let bracketed = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
        || bracketed.is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn status(pairs: &[(&'static str, &str)], token: Option<&str>) -> u16 {
        let token = token.map(|token| Secret::new(token.to_owned()));
        refusal(&"/v1/usage".parse().unwrap(), &headers(pairs), token.as_ref())
            .map_or(200, |refused| refused.status().as_u16())
    }

    #[test]
    fn only_local_names_are_admitted_without_a_token() {
        for host in [
            "localhost",
            "localhost:19181",
            "LOCALHOST:1",
            "127.0.0.1:19181",
            "127.9.9.9",
            "[::1]:19181",
            "[::1]",
        ] {
            assert_eq!(status(&[("host", host)], None), 200, "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:19181",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "localhost.evil.example",
            "]::1]:19181",
            "[[::1]]",
            "::1",
            "[127.0.0.1]:19181",
        ] {
            assert_eq!(status(&[("host", host)], None), 403, "{host}");
        }
    }

    #[test]
    fn whoever_names_two_hosts_is_refused() {
        let mut twice = headers(&[("host", "localhost")]);
        twice.append(HOST, "evil.example".parse().unwrap());
        assert!(refusal(&"/".parse().unwrap(), &twice, None).is_some());
        let once = headers(&[("host", "localhost")]);
        for (target, admitted) in [("http://evil.example/", false), ("http://localhost:19181/", true)] {
            assert_eq!(refusal(&target.parse().unwrap(), &once, None).is_none(), admitted, "{target}");
        }
    }

    #[test]
    fn a_web_page_is_refused_even_with_the_token() {
        let page =
            [("host", "localhost"), ("origin", "http://localhost"), ("authorization", "Bearer secret")];
        assert_eq!(status(&page, Some("secret")), 403);
        assert_eq!(status(&[("host", "localhost"), ("origin", "null")], None), 403);
    }

    #[test]
    fn with_a_token_any_host_will_do_but_no_other_token() {
        let with =
            |value: &str| status(&[("host", "tollgate.ns.svc"), ("authorization", value)], Some("secret"));
        for good in ["Bearer secret", "bearer secret", "BEARER secret"] {
            assert_eq!(with(good), 200, "{good}");
        }
        for bad in [
            "Bearer SECRET",
            "Bearersecret",
            "",
            "secret",
            "Bearer",
            "Bearer secre",
            "Bearer secrets",
            "Basic secret",
        ] {
            assert_eq!(with(bad), 401, "{bad}");
        }
    }

    #[test]
    fn bodies_say_that_they_are_json() {
        for good in ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8"]
        {
            assert!(not_json(&headers(&[("content-type", good)])).is_none(), "{good}");
        }
        for bad in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""] {
            assert!(not_json(&headers(&[("content-type", bad)])).is_some(), "{bad}");
        }
    }
}
