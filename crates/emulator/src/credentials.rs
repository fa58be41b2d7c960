//! Credentials of roles, as STS and a container's agent issue them to a real pod.
//!
//! - Their signatures are always verified, because the emulator knows the secret. The caller is the pod that requested
//!   them, not the access key: at AWS, too, a pod stays the same when its keys change.
//! - Clients compare `Expiration` with their own clock, so it is in the system's time. The credentials also expire by
//!   the emulated clock, whichever comes first: advancing it ends them.
//! - They end with the process.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ring::digest;
use ring::rand::{SecureRandom as _, SystemRandom};

use super::world::Secret;
use tollgate_time::Timestamp;

/// Prefix of every issued access key. One with the prefix that is unknown was issued by a process that has ended.
pub(super) const PREFIX: &str = "ASIAEMULATED";

/// Sessions that are stored; the oldest are dropped.
const SESSIONS_MAX: usize = 10_000;

/// A role, by its ARN (`arn:partition:iam::account:role/path/name`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Role {
    arn: String,
    partition: String,
    account_id: String,
    name: String,
}

/// Longest ARN of a role (AWS STS API reference, RoleArn).
const ARN_BYTES_MAX: usize = 2048;

impl Role {
    pub(super) fn parse(arn: &str) -> Option<Self> {
        let mut parts = arn.splitn(6, ':');
        let (Some("arn"), Some(partition), Some("iam"), Some(""), Some(account_id), Some(resource)) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        let name = resource.strip_prefix("role/")?.rsplit('/').next()?;
        let account = account_id.len() == 12 && account_id.bytes().all(|byte| byte.is_ascii_digit());
        let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        (account && plain(partition) && plain(name) && arn.len() <= ARN_BYTES_MAX).then(|| Self {
            arn: arn.to_owned(),
            partition: partition.to_owned(),
            account_id: account_id.to_owned(),
            name: name.to_owned(),
        })
    }

    /// The role of a container to which no order gave one.
    pub(super) fn of_task(account_id: &str) -> Self {
        let (partition, name) = ("aws".to_owned(), "emulated-task".to_owned());
        let arn = format!("arn:{partition}:iam::{account_id}:role/{name}");
        Self { arn, partition, account_id: account_id.to_owned(), name }
    }

    pub(super) fn arn(&self) -> &str {
        &self.arn
    }

    pub(super) fn account_id(&self) -> &str {
        &self.account_id
    }

    /// The ARN of a session of this role.
    pub(super) fn assumed(&self, session: &str) -> String {
        format!("arn:{}:sts::{}:assumed-role/{}/{session}", self.partition, self.account_id, self.name)
    }

    /// The unique identifier of a session of this role: `AROA…:session`.
    pub(super) fn user_id(&self, session: &str) -> String {
        format!("AROA{}:{session}", id_of(&self.arn))
    }
}

/// An identifier in IAM's form, always the same for the same name.
pub(super) fn id_of(name: &str) -> String {
    let digest = digest::digest(&digest::SHA256, name.as_bytes());
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let letters = digest.as_ref().iter().take(17);
    letters.map(|byte| char::from(LETTERS.get(usize::from(byte & 31)).copied().unwrap_or(b'A'))).collect()
}

/// One set of credentials.
#[derive(Debug, Clone)]
pub(super) struct Session {
    /// The pod that they were issued to.
    pub(super) pod: String,
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) access_key: String,
    pub(super) secret: Secret,
    pub(super) token: Secret,
    /// In the system's time.
    pub(super) expires_at: Timestamp,
    /// In the emulated time.
    ends_at: Timestamp,
}

/// The present by both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) system: Timestamp,
    pub(super) emulated: Timestamp,
}

impl Session {
    pub(super) fn has_ended(&self, now: Now) -> bool {
        self.expires_at <= now.system || self.ends_at <= now.emulated
    }
}

/// All issued credentials.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    by_key: BTreeMap<String, Session>,
    by_age: VecDeque<String>,
}

impl Sessions {
    pub(super) fn find(&self, access_key: &str) -> Option<&Session> {
        self.by_key.get(access_key)
    }

    /// Issues credentials of a role.
    pub(super) fn issue(
        &mut self,
        now: Now,
        pod: &str,
        name: &str,
        role: Role,
        lifetime: Duration,
    ) -> Result<Session, String> {
        let session = Session {
            pod: pod.to_owned(),
            name: name.to_owned(),
            role,
            access_key: format!("{PREFIX}{}", random(6)?.to_uppercase().replace(['+', '/'], "A")),
            secret: Secret(random(30)?),
            token: Secret(random(90)?),
            expires_at: now.system.plus(lifetime),
            ends_at: now.emulated.plus(lifetime),
        };
        self.by_age.push_back(session.access_key.clone());
        self.by_key.insert(session.access_key.clone(), session.clone());
        while self.by_age.len() > SESSIONS_MAX
            && let Some(oldest) = self.by_age.pop_front()
        {
            self.by_key.remove(&oldest);
        }
        Ok(session)
    }
}

fn random(bytes: usize) -> Result<String, String> {
    let mut random = vec![0; bytes];
    SystemRandom::new().fill(&mut random).map_err(|_| "the system has no random bytes".to_owned())?;
    Ok(STANDARD_NO_PAD.encode(random))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Timestamp = Timestamp::from_unix_seconds(1_795_507_200);
    const NOW: Now = Now { system: AT, emulated: AT };
    const HOUR: Duration = Duration::from_secs(3600);

    fn issue(sessions: &mut Sessions, pod: &str) -> Session {
        sessions.issue(NOW, pod, "name", Role::of_task("111122223333"), HOUR).unwrap()
    }

    #[test]
    fn credentials_end_by_the_clock_that_is_first() {
        let mut sessions = Sessions::default();
        let session = issue(&mut sessions, "pod-7");
        assert!(session.access_key.starts_with(PREFIX));
        assert_eq!(sessions.find(&session.access_key).unwrap().pod, "pod-7");
        assert!(!format!("{session:?}").contains(&session.secret.0));
        let later = |seconds| AT.plus(Duration::from_secs(seconds));
        for (system, emulated, ended) in
            [(3599, 3599, false), (3600, 0, true), (0, 3600, true), (3599, 0, false), (1, 7200, true)]
        {
            let now = Now { system: later(system), emulated: later(emulated) };
            assert_eq!(session.has_ended(now), ended, "{now:?}");
        }
    }

    #[test]
    fn the_oldest_sessions_give_way() {
        let mut sessions = Sessions::default();
        let first = issue(&mut sessions, "first");
        for _ in 0..SESSIONS_MAX {
            issue(&mut sessions, "other");
        }
        assert!(sessions.find(&first.access_key).is_none());
        assert_eq!(sessions.by_key.len(), SESSIONS_MAX);
    }

    #[test]
    fn roles_are_read_from_their_arn() {
        let role = Role::parse("arn:aws-us-gov:iam::111122223333:role/some/path/app").unwrap();
        assert_eq!(role.assumed("s"), "arn:aws-us-gov:sts::111122223333:assumed-role/app/s");
        assert_eq!(role.account_id(), "111122223333");
        assert!(
            role.user_id("s").starts_with("AROA") && role.user_id("s").len() == 23,
            "{}",
            role.user_id("s")
        );
        for bad in [
            "",
            "arn:aws:iam::1:role/a",
            "arn:aws:iam::111122223333:user/a",
            "arn:aws:iam::111122223333:role/",
            "arn:aws:sts::111122223333:role/a",
            "arn:aws:iam:us-east-1:111122223333:role/a",
            "arn:aws:iam::111122223333:role/a b",
        ] {
            assert_eq!(Role::parse(bad), None, "{bad}");
        }
    }
}
