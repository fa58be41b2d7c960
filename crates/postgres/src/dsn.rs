//! Reads the file of `ledger_url_file`: where the database is, and how the connection is protected. Pure but for the
//! files themselves. No error names a part of the text, which holds a password.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

use tollgate_disk::{Links, describe, read_regular};

/// Longest file that is read.
const BYTES_MAX: usize = 16 * 1024;

/// How long one host may take to accept a connection.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long data that was sent may stay unacknowledged before the connection is given up.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(5);

/// Where the text is.
#[derive(Clone)]
pub(crate) enum Source {
    /// In a file, which is read anew for each connection, so that a changed password needs no restart.
    File(PathBuf),
    /// On a command line.
    Text(String),
}

impl Source {
    pub(crate) fn read(&self) -> Result<Dsn, BadDsn> {
        match self {
            Self::File(path) => read(path),
            Self::Text(text) => parse(text),
        }
    }
}

/// The file's path; the text has a password.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Text(_) => f.write_str("the URL"),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({self})")
    }
}

/// Where the database is. Has a password: `Debug` and `Display` show neither it nor the user.
#[derive(Clone)]
pub(crate) struct Dsn {
    /// One for each host, in the order of the text.
    pub(crate) hosts: Vec<Target>,
    /// `sslrootcert`: the CA certificates to trust instead of the usual ones.
    pub(crate) root_certificates: Option<PathBuf>,
}

/// One host of the text.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) config: Config,
    /// `host:port/database`.
    pub(crate) name: String,
}

impl Dsn {
    /// Whether every connection uses TLS.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.hosts.iter().all(|host| host.config.get_ssl_mode() != SslMode::Disable)
    }

    /// Whether every host is a Unix socket or a loopback address.
    pub(crate) fn is_local(&self) -> bool {
        let local = |host: &Host| match host {
            Host::Unix(_) => true,
            Host::Tcp(name) => {
                name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            }
        };
        self.hosts.iter().all(|target| target.config.get_hosts().iter().all(local))
    }
}

impl fmt::Display for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.hosts.iter().map(|host| host.name.as_str()).collect();
        f.write_str(&names.join(", "))
    }
}

impl fmt::Debug for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dsn({self})")
    }
}

/// Why the text is of no use; the sentence follows the file's path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadDsn {
    #[error("{0}")]
    Unreadable(String),
    #[error("is not UTF-8 text")]
    NotText,
    #[error(
        "does not hold one URL such as postgres://user:password@host:5432/database; percent-encode other characters \
         than letters, digits, - . _ ~ in its user and password"
    )]
    Form,
    #[error("names no host: write postgres://user:password@host:5432/database")]
    NoHost,
    #[error("names no database: write it after the host, as in postgres://user:password@host:5432/database")]
    NoDatabase,
    #[error(
        "asks for an sslmode that does not check the server's certificate: use sslmode=verify-full, with \
         sslrootcert=/path/ca.pem if its CA is not a public one; sslmode=disable sends everything unencrypted"
    )]
    Mode,
    #[error("has sslrootcert together with sslmode=disable, which uses no certificate: remove one of them")]
    UnusedRoot,
}

/// Reads the file.
fn read(path: &Path) -> Result<Dsn, BadDsn> {
    let bytes = read_regular(path, BYTES_MAX, Links::Follow)
        .map_err(|error| BadDsn::Unreadable(format!("cannot be read: {}", describe(&error))))?;
    parse(std::str::from_utf8(&bytes).map_err(|_| BadDsn::NotText)?)
}

/// Parses the content of the file.
pub(crate) fn parse(text: &str) -> Result<Dsn, BadDsn> {
    let text = text.trim();
    let after = ["postgres://", "postgresql://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    let after = after.ok_or(BadDsn::Form)?;
    // User and password end at the first `@`; before it, a `?` is one of their characters.
    let path = text.len() - after.len() + after.find('@').unwrap_or_default();
    let (url, query) = text.split_at(text[path..].find('?').map_or(text.len(), |mark| path + mark));
    let (mut others, mut mode, mut root_certificates) = (Vec::new(), None, None);
    for parameter in query.trim_start_matches('?').split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("sslmode", value)) => mode = Some(value),
            Some(("sslrootcert", value)) => root_certificates = Some(decoded(value).ok_or(BadDsn::Form)?),
            Some(_) => others.push(parameter),
            None => return Err(BadDsn::Form),
        }
    }
    let encrypted = match mode.unwrap_or("verify-full") {
        "verify-full" => true,
        "disable" => false,
        _ => return Err(BadDsn::Mode),
    };
    // An unset variable of a template leaves an empty value.
    let root_certificates = root_certificates.filter(|path| !path.is_empty()).map(PathBuf::from);
    if !encrypted && root_certificates.is_some() {
        return Err(BadDsn::UnusedRoot);
    }
    // The parser's own error may quote the text.
    let config = Config::from_str(&format!("{url}?{}", others.join("&"))).map_err(|_| BadDsn::Form)?;
    let database = config.get_dbname().filter(|name| !name.is_empty()).ok_or(BadDsn::NoDatabase)?.to_owned();
    let hosts = hosts(&config, &database, encrypted)?;
    Ok(Dsn { hosts, root_certificates })
}

/// A configuration for each host, so that a host that accepts connections and does not answer takes only its own time.
fn hosts(all: &Config, database: &str, encrypted: bool) -> Result<Vec<Target>, BadDsn> {
    let (hosts, addresses, ports) = (all.get_hosts(), all.get_hostaddrs(), all.get_ports());
    let count = hosts.len().max(addresses.len());
    let fits = |length: usize| length <= 1 || length == count;
    if count == 0 || hosts.iter().any(|host| *host == Host::Tcp(String::new())) {
        return Err(BadDsn::NoHost);
    }
    if !fits(ports.len()) || !(hosts.is_empty() || addresses.is_empty() || hosts.len() == addresses.len()) {
        return Err(BadDsn::Form);
    }
    let target = |index: usize| {
        let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432);
        let mut config = Config::new();
        config.dbname(database).port(port).application_name(all.get_application_name().unwrap_or("tollgate"));
        if let Some(user) = all.get_user() {
            config.user(user);
        }
        if let Some(password) = all.get_password() {
            config.password(password);
        }
        if let Some(options) = all.get_options() {
            config.options(options);
        }
        config
            .channel_binding(all.get_channel_binding())
            .ssl_negotiation(all.get_ssl_negotiation())
            .connect_timeout(all.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT))
            .tcp_user_timeout(UNACKNOWLEDGED_MAX)
            .keepalives_idle(UNACKNOWLEDGED_MAX)
            .keepalives_interval(Duration::from_secs(1))
            .keepalives_retries(3);
        let (mut mode, mut name) =
            (if encrypted { SslMode::Require } else { SslMode::Disable }, String::new());
        if let Some(address) = addresses.get(index) {
            config.hostaddr(*address);
            name = address.to_string();
        }
        match hosts.get(index) {
            Some(Host::Tcp(host)) => {
                config.host(host);
                name.clone_from(host);
            }
            // PostgreSQL has no TLS on its socket, which no other machine can reach.
            Some(Host::Unix(folder)) => {
                config.host_path(folder);
                mode = SslMode::Disable;
                name = folder.display().to_string();
            }
            None => {}
        }
        config.ssl_mode(mode);
        Target { config, name: format!("{name}:{port}/{database}") }
    };
    Ok((0..count).map(target).collect())
}

/// Decodes `%XX`.
fn decoded(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let code = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(code, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> String {
        parse(text).unwrap().to_string()
    }

    #[test]
    fn the_usual_forms_are_read() {
        assert_eq!(name("postgres://u:p@db.example:6432/usage\n"), "db.example:6432/usage");
        assert_eq!(name("postgresql://u@db.example/usage"), "db.example:5432/usage");
        assert_eq!(name("postgres://u:p%40s@a:1,b:2/usage?connect_timeout=1"), "a:1/usage, b:2/usage");
        assert_eq!(name("postgres://u:p@%2Frun%2Fpostgresql/usage"), "/run/postgresql:5432/usage");
        assert_eq!(name("postgres://u:p/?s=1@h/d?sslmode=disable"), "h:5432/d");
        let target = &parse("postgres://u:p%40s@db.example/usage").unwrap().hosts[0].config;
        assert_eq!((target.get_user(), target.get_password()), (Some("u"), Some(&b"p@s"[..])));
    }

    #[test]
    fn the_certificate_is_checked_unless_the_text_says_that_nothing_is_encrypted() {
        let mode = |text: &str| parse(text).map(|dsn| dsn.hosts[0].config.get_ssl_mode());
        assert_eq!(mode("postgres://u@h/d"), Ok(SslMode::Require));
        assert_eq!(mode("postgres://u@h/d?sslmode=verify-full"), Ok(SslMode::Require));
        assert_eq!(mode("postgres://u@h/d?sslmode=disable"), Ok(SslMode::Disable));
        assert_eq!(mode("postgres://u@%2Frun/d"), Ok(SslMode::Disable));
        for weaker in ["require", "prefer", "allow", "verify-ca", ""] {
            assert_eq!(mode(&format!("postgres://u@h/d?sslmode={weaker}")), Err(BadDsn::Mode), "{weaker}");
        }
        let root = parse("postgres://u@h/d?sslrootcert=%2Fetc%2Fca.pem").unwrap().root_certificates;
        assert_eq!(root.as_deref(), Some(Path::new("/etc/ca.pem")));
        assert_eq!(mode("postgres://u@h/d?sslmode=disable&sslrootcert=/ca"), Err(BadDsn::UnusedRoot));
    }

    #[test]
    fn no_error_shows_a_part_of_the_text() {
        for (text, why) in [
            ("", BadDsn::Form),
            ("host=h dbname=d password=geheim", BadDsn::Form),
            ("mysql://u:geheim@h/d", BadDsn::Form),
            ("postgres://u:geh?eim=1@h", BadDsn::NoDatabase),
            ("postgres://u:geheim@h/d?nonsense=geheim", BadDsn::Form),
            ("postgres://u:geheim@h:port/d", BadDsn::Form),
            ("postgres://u:geheim@h", BadDsn::NoDatabase),
            ("postgres://u:geheim@/d", BadDsn::NoHost),
            ("postgres://u:geheim@a:1,b:2,c/d?hostaddr=127.0.0.1", BadDsn::Form),
        ] {
            let found = parse(text).unwrap_err();
            assert_eq!(found, why, "{text}");
            assert!(!found.to_string().contains("geh") && !found.to_string().contains("eim"), "{text}");
        }
        assert!(!format!("{:?}", parse("postgres://u:geheim@h/d").unwrap()).contains("geheim"));
    }
}
