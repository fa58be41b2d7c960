//! The URL of a service that stands in for AWS's own endpoint.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use hyper::Uri;

/// An absolute `http` or `https` URL with a host, without user name, query or fragment.
#[derive(Clone, PartialEq, Eq)]
pub struct EndpointUrl {
    text: String,
    https: bool,
    host: String,
    port: u16,
}

/// Longest URL accepted: a host name has at most 253 characters, and a base path is short.
const URL_CHARS_MAX: usize = 1024;

impl FromStr for EndpointUrl {
    type Err = Cow<'static, str>;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const NOT_ONE: &str =
            "is not a URL; write http:// or https:// and a host, such as http://127.0.0.1:8090";
        if text.len() > URL_CHARS_MAX || text.contains('#') {
            return Err(NOT_ONE.into());
        }
        let uri: Uri = text.parse().map_err(|_| NOT_ONE)?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(NOT_ONE.into()),
        };
        let authority = uri.authority().ok_or(NOT_ONE)?;
        if authority.as_str().contains('@') {
            return Err("holds a user name or password; remove it, requests are signed instead".into());
        }
        if uri.query().is_some() {
            return Err("holds a query; write scheme, host, port and path only".into());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        // The parser takes "host:" and "host:99999" as hosts without a port.
        let stated_port = authority.as_str().len() > authority.host().len();
        let port = match authority.port_u16() {
            Some(0) => return Err(NOT_ONE.into()),
            Some(port) => port,
            None if stated_port => return Err(NOT_ONE.into()),
            None if https => 443,
            None => 80,
        };
        if host.is_empty() {
            return Err(NOT_ONE.into());
        }
        Ok(Self { text: text.to_owned(), https, host: host.to_ascii_lowercase(), port })
    }
}

impl EndpointUrl {
    /// The URL as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The host, lower-case, without the brackets of an IPv6 address.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, stated or the scheme's own.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Encrypted and authenticated by TLS.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.https
    }

    /// The host is this machine by name or address.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(ip) => ip.to_canonical().is_loopback(),
            Err(_) => self.host == "localhost" || self.host.ends_with(".localhost"),
        }
    }

    /// Whether a server that listens at `addr` on this machine would answer requests to this URL.
    #[must_use]
    pub fn reaches(&self, addr: SocketAddr) -> bool {
        if self.port != addr.port() {
            return false;
        }
        let listens_everywhere = addr.ip().is_unspecified();
        match self.host.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
            Ok(ip) if ip == addr.ip().to_canonical() => true,
            // An unspecified destination reaches loopback on Linux.
            Ok(ip) if ip.is_loopback() || ip.is_unspecified() => {
                listens_everywhere || (ip.is_unspecified() && addr.ip().is_loopback())
            }
            Ok(_) => false,
            Err(_) => self.is_loopback() && (listens_everywhere || addr.ip().to_canonical().is_loopback()),
        }
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EndpointUrl({})", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let url: EndpointUrl = "https://metering.example/base".parse().unwrap();
        assert_eq!((url.host(), url.port(), url.is_https()), ("metering.example", 443, true));
        let url: EndpointUrl = "http://[::1]:8090".parse().unwrap();
        assert_eq!((url.host(), url.port(), url.is_loopback()), ("::1", 8090, true));
        let bad = [
            "",
            "metering.example",
            "ftp://x",
            "http://",
            "http:///x",
            "http://:80",
            "http://u:p@h",
            "http://h?q",
            "http://h#f",
            "http://h h",
            "http://h:0",
            "http://h:99999",
            "http://h:",
            "/path",
            "http:/h",
            "http://[::1",
        ];
        for text in bad {
            assert!(text.parse::<EndpointUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_endpoint_that_is_ourselves_is_recognised() {
        let reaches = |url: &str, addr: &str| {
            url.parse::<EndpointUrl>().unwrap().reaches(addr.parse::<SocketAddr>().unwrap())
        };
        assert!(reaches("http://127.0.0.1:19181", "127.0.0.1:19181"));
        assert!(reaches("http://localhost:19181/x", "127.0.0.1:19181"));
        assert!(reaches("http://LOCALHOST:19180", "[::]:19180"));
        assert!(reaches("http://0.0.0.0:19181", "127.0.0.1:19181"));
        assert!(reaches("http://[::ffff:127.0.0.1]:19181", "127.0.0.1:19181"));
        assert!(!reaches("http://127.0.0.1:8090", "127.0.0.1:19181"));
        assert!(!reaches("http://metering.example:19181", "127.0.0.1:19181"));
        assert!(!reaches("http://10.0.0.9:19181", "0.0.0.0:19181"));
    }
}
