//! The secrets that this process can reach, so that documents for other people can be searched for them.

use tollgate_disk::Links;
use tollgate_marketplace::CREDENTIAL_FILE_BYTES_MAX;

use super::disk::Installation;
use super::env::{Environment, filled};
use super::fault::userinfo;
use super::setting::Setting;
use super::{Flags, credentials, resolve};

/// A shorter text may occur in a document by chance.
const CHARS_MIN: usize = 8;

/// Values of variables, and contents of files, that are secret. Best effort: a second protection for documents
/// that hold no secret in the first place.
#[must_use]
pub fn secrets(flags: &Flags, env: &dyn Environment, installed: &Installation<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for name in env.names() {
        let shouted = name.to_ascii_uppercase();
        let file = shouted.ends_with("_FILE") || shouted.ends_with("_URI") || shouted.ends_with("_VERSION");
        let secret = ["SECRET", "TOKEN", "PASSWORD", "ACCESS_KEY"].iter().any(|word| shouted.contains(word));
        let Some(value) = filled(env, &name) else { continue };
        // URLs of proxies, endpoints and the application's databases may hold passwords.
        if let Some(userinfo) = userinfo(&value) {
            found.extend(userinfo.split_once(':').map(|(_, password)| password.to_owned()));
            found.push(userinfo.to_owned());
        }
        if secret && !file {
            found.push(value);
        }
    }
    let resolution = resolve::resolve(flags, env, installed);
    let ours = [Setting::AppTokenFile, Setting::LicenseTokenFile].into_iter();
    let ours = ours.filter_map(|setting| Some(resolution.choice(setting)?.raw.to_text()));
    let tokens = [credentials::WEB_IDENTITY_TOKEN_FILE, credentials::CONTAINER_TOKEN_FILE];
    for path in tokens.into_iter().filter_map(|name| filled(env, name)).chain(ours) {
        let read = installed.disk.read(path.as_ref(), CREDENTIAL_FILE_BYTES_MAX, Links::Follow);
        found.extend(read.ok().map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()));
    }
    // The URL of a shared ledger holds a password.
    let url = resolution.choice(Setting::LedgerUrlFile).map(|choice| choice.raw.to_text());
    let url = url
        .and_then(|path| installed.disk.read(path.as_ref(), CREDENTIAL_FILE_BYTES_MAX, Links::Follow).ok());
    if let Some(userinfo) = url.and_then(|bytes| Some(userinfo(&String::from_utf8(bytes).ok()?)?.to_owned()))
    {
        found.extend(userinfo.split_once(':').map(|(_, password)| password.to_owned()));
        found.push(userinfo);
    }
    found.retain(|secret| secret.chars().count() >= CHARS_MIN);
    found
}

#[cfg(test)]
mod tests {
    use super::super::{MapEnvironment, MemoryDisk};
    use super::*;

    #[test]
    fn what_nobody_else_may_read_is_found() {
        let disk = MemoryDisk::default().with("/t", "bearer-token\n").with("/w", "web.identity.token");
        let disk = disk.with("/l", "license.refresh.token\n").with("/u", "postgres://app:url-word@db/x\n");
        let installed = Installation { disk: &disk, ..Installation::compiled_in() };
        let env = MapEnvironment::from([
            ("AWS_SECRET_ACCESS_KEY", "the-long-key"),
            ("X_TOKEN", "true"),
            ("DATABASE", "postgres://app:data-base-word@db/x"),
            ("AWS_SESSION_TOKEN", "the-session"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/w"),
            ("HTTPS_PROXY", "http://user:pass-word@proxy:3128"),
            ("AWS_LICENSE_ACCESS_FILE", "/l"),
            ("AWS_REGION", "us-east-1"),
            ("SHORT_PASSWORD", "abc"),
        ]);
        let flags = Flags::default().with(Setting::AppTokenFile, "/t").with(Setting::LedgerUrlFile, "/u");
        let found = secrets(&flags, &env, &installed);
        let mut found: Vec<&str> = found.iter().map(String::as_str).collect();
        found.sort_unstable();
        let all = [
            "app:data-base-word",
            "app:url-word",
            "bearer-token",
            "data-base-word",
            "license.refresh.token",
            "pass-word",
            "the-long-key",
            "the-session",
            "url-word",
            "user:pass-word",
            "web.identity.token",
        ];
        assert_eq!(found, all);
    }
}
