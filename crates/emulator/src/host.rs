//! Whether a request was meant for this machine. By DNS rebinding a web page reaches loopback under its own name, and
//! the browser takes this server for the page's own; the `Host` header still has the page's name.

use std::net::{Ipv4Addr, Ipv6Addr};

use hyper::header::{HOST, HeaderMap};

/// Suffixes of names that cannot be published in the Internet's DNS (RFC 6761, 6762; ICANN's reservation of `internal`;
/// the names of Kubernetes services). A name without a dot is one of a container network.
const PRIVATE: [&str; 5] = ["localhost", "local", "internal", "svc", "cluster.local"];

/// Whether `Host` is an address, or a name that only exists on this machine and its networks.
pub(super) fn is_ours(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok()).unwrap_or_default();
    hosts.next().is_none() && is_private(host)
}

pub(super) fn is_private(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    if let Some(address) = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    if name.parse::<Ipv4Addr>().is_ok() {
        return true;
    }
    let name = name.to_ascii_lowercase();
    let word = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let private = !name.contains('.')
        || PRIVATE.iter().any(|end| name.strip_suffix(end).is_some_and(|rest| rest.ends_with('.')));
    private && name.split('.').all(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_private_names_are_ours_and_no_page_is() {
        for host in [
            "127.0.0.1:8090",
            "127.0.0.1",
            "[::1]:8090",
            "172.17.0.2:8090",
            "localhost:8090",
            "LOCALHOST",
            "app.localhost:8090",
            "emulator:8090",
            "host.docker.internal:8090",
            "emulator.default.svc:8090",
            "emulator.default.svc.cluster.local:8090",
        ] {
            assert!(is_private(host), "{host}");
        }
        for host in [
            "",
            ":8090",
            "evil.example:8090",
            "127.0.0.1.evil.example",
            "localhost.evil.example:8090",
            "emulator.svc.evil.example",
            "evil-svc.example",
            "xsvc.example",
            ".localhost",
            "evil.example.",
            "evil example",
            "::1",
            "[127.0.0.1]",
        ] {
            assert!(!is_private(host), "{host}");
        }
    }

    #[test]
    fn whoever_names_two_hosts_or_none_is_refused() {
        let mut headers = HeaderMap::new();
        assert!(!is_ours(&headers));
        headers.append(HOST, "localhost".parse().unwrap());
        assert!(is_ours(&headers));
        headers.append(HOST, "localhost".parse().unwrap());
        assert!(!is_ours(&headers));
    }
}
