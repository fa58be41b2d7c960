//! Credentials for pods that have a name: what IRSA and ECS hand to a real pod, handed out by the emulator.
//!
//! - `GET /_emulator/credentials/<session>` answers as an ECS container endpoint does, and
//!   `AssumeRoleWithWebIdentity` as STS does, so that an SDK's own chain can be rehearsed.
//! - Their signatures are always verified, for the emulator knows the secret; the pod is the session's name,
//!   whatever the access key, as pods at AWS outlive their keys.
//! - They live in real time, as signatures do, and not longer than the process.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::{Value, json};

use crate::world::Secret;
use tollgate_time::Timestamp;

/// Every key that is handed out begins with it: one that does and is not known has expired with its process.
pub(super) const PREFIX: &str = "ASIAEMULATED";

/// Sessions remembered; the oldest give way.
const SESSIONS_MAX: usize = 10_000;

/// Longest name of a session (AWS STS API reference, RoleSessionName).
const NAME_CHARS_MAX: usize = 64;

/// How long they last unless the caller asks for less: STS's default.
const LIFETIME: Duration = Duration::from_secs(3600);

/// One set of credentials.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub(super) name: String,
    pub(super) access_key: String,
    pub(super) secret: Secret,
    pub(super) token: Secret,
    pub(super) expires_at: Timestamp,
}

/// All that were handed out.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    by_key: BTreeMap<String, Session>,
    by_age: VecDeque<String>,
}

impl Sessions {
    pub(super) fn find(&self, access_key: &str) -> Option<&Session> {
        self.by_key.get(access_key)
    }

    /// New credentials for the pod of this name.
    pub(super) fn issue(
        &mut self,
        now: Timestamp,
        name: &str,
        lifetime: Option<Duration>,
    ) -> Result<Session, String> {
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b));
        if !plain || !(1..=NAME_CHARS_MAX).contains(&name.len()) {
            return Err(format!("a session's name has 1 to {NAME_CHARS_MAX} letters, digits and _+=,.@-"));
        }
        let session = Session {
            name: name.to_owned(),
            access_key: format!("{PREFIX}{}", random(6)?.to_uppercase().replace(['+', '/'], "A")),
            secret: Secret(random(30)?),
            token: Secret(random(90)?),
            expires_at: now.plus(lifetime.unwrap_or(LIFETIME).min(LIFETIME)),
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

impl Session {
    /// As an ECS container credentials endpoint answers.
    pub(super) fn json(&self) -> Value {
        json!({
            "AccessKeyId": self.access_key,
            "SecretAccessKey": self.secret.0,
            "Token": self.token.0,
            "Expiration": self.expires_at.to_string(),
            "RoleArn": "arn:aws:iam::111122223333:role/emulated",
        })
    }
}

/// Answers a request to STS: `AssumeRoleWithWebIdentity` (AWS STS API reference), XML with its status.
pub(super) fn sts(sessions: &mut Sessions, now: Timestamp, form: &[u8]) -> (u16, String) {
    let form = fields(form);
    let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    if field("Action") != "AssumeRoleWithWebIdentity" {
        return failure("InvalidAction", &format!("Could not find operation {}", field("Action")));
    }
    for name in ["RoleArn", "RoleSessionName", "WebIdentityToken"] {
        if field(name).is_empty() {
            return failure("ValidationError", &format!("{name} must not be empty"));
        }
    }
    let lifetime = field("DurationSeconds").parse().ok().map(Duration::from_secs);
    let session = match sessions.issue(now, field("RoleSessionName"), lifetime) {
        Ok(session) => session,
        Err(error) => return failure("ValidationError", &error),
    };
    let role = field("RoleArn").replacen(":role/", ":assumed-role/", 1);
    let text = format!(
        "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <AssumeRoleWithWebIdentityResult>\
         <SubjectFromWebIdentityToken>emulated</SubjectFromWebIdentityToken>\
         <AssumedRoleUser><Arn>{}/{}</Arn><AssumedRoleId>AROAEMULATED:{}</AssumedRoleId></AssumedRoleUser>\
         <Credentials><AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey>\
         <SessionToken>{}</SessionToken><Expiration>{}</Expiration></Credentials>\
         </AssumeRoleWithWebIdentityResult>\
         <ResponseMetadata><RequestId>00000000-0000-4000-a000-000000000000</RequestId></ResponseMetadata>\
         </AssumeRoleWithWebIdentityResponse>",
        escaped(&role),
        session.name,
        session.name,
        session.access_key,
        session.secret.0,
        session.token.0,
        session.expires_at
    );
    (200, text)
}

fn failure(code: &str, message: &str) -> (u16, String) {
    let text = format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
         <Code>{code}</Code><Message>{}</Message></Error>\
         <RequestId>00000000-0000-4000-a000-000000000000</RequestId></ErrorResponse>",
        escaped(message)
    );
    (400, text)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The fields of a form (`application/x-www-form-urlencoded`).
fn fields(form: &[u8]) -> BTreeMap<String, String> {
    let form = String::from_utf8_lossy(form);
    let pairs = form.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decoded(name), decoded(value))).collect()
}

/// A part of a form or query, with its percent signs and plus signs undone.
pub(super) fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.bytes());
    while let Some(byte) = rest.next() {
        let hex = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let mut ahead = rest.clone();
                match (hex(ahead.next()), hex(ahead.next())) {
                    (Some(high), Some(low)) => {
                        bytes.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                        rest = ahead;
                    }
                    _ => bytes.push(b'%'),
                }
            }
            _ => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_507_200);

    #[test]
    fn credentials_name_their_pod_and_expire() {
        let mut sessions = Sessions::default();
        let session = sessions.issue(NOW, "pod-7", Some(Duration::from_secs(900))).unwrap();
        assert!(session.access_key.starts_with(PREFIX));
        assert_eq!(sessions.find(&session.access_key).unwrap().name, "pod-7");
        assert_eq!(session.json()["Expiration"], "2026-11-24T08:15:00Z");
        assert!(!format!("{session:?}").contains(&session.secret.0));
        for bad in ["", "a b", &"x".repeat(65)] {
            assert!(sessions.issue(NOW, bad, None).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_oldest_sessions_give_way() {
        let mut sessions = Sessions::default();
        let first = sessions.issue(NOW, "first", None).unwrap();
        for _ in 0..SESSIONS_MAX {
            sessions.issue(NOW, "other", None).unwrap();
        }
        assert!(sessions.find(&first.access_key).is_none());
        assert_eq!(sessions.by_key.len(), SESSIONS_MAX);
    }

    #[test]
    fn sts_answers_in_its_own_words() {
        let mut sessions = Sessions::default();
        let form =
            b"Action=AssumeRoleWithWebIdentity&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fa%26b&RoleSessionName=pod-7\
                     &WebIdentityToken=t";
        let (status, xml) = sts(&mut sessions, NOW, form);
        assert_eq!(status, 200, "{xml}");
        assert!(xml.contains("<Arn>arn:aws:iam::1:assumed-role/a&amp;b/pod-7</Arn>"), "{xml}");
        assert_eq!(sts(&mut sessions, NOW, b"Action=Dance").0, 400);
        assert!(
            sts(&mut sessions, NOW, b"Action=AssumeRoleWithWebIdentity")
                .1
                .contains("RoleArn must not be empty")
        );
    }

    #[test]
    fn forms_are_decoded() {
        assert_eq!(decoded("a%20b+c%2"), "a b c%2");
        assert_eq!(decoded("%zz%C3%BC"), "%zzü");
    }
}
