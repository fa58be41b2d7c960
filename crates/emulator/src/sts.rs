//! STS: AWS's Query protocol, with parameters in a form or a query, and answers in XML (AWS STS API reference, version
//! 2011-06-15).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use hyper::StatusCode;
use serde_json::{Map, Value};

use super::action::Action;
use super::credentials::{Role, Session};
use super::operation::ServiceError;
use super::reply::Reply;
use super::web_identity::{self, Token};

/// The parameters of a request.
#[derive(Debug, Default, Clone)]
pub(super) struct Parameters(BTreeMap<String, String>);

impl Parameters {
    /// Parses a query and a form (`application/x-www-form-urlencoded`); the parameters may be in either or both.
    pub(super) fn parse(query: &[u8], form: &[u8]) -> Self {
        let texts = [query, form].map(String::from_utf8_lossy);
        let pairs = texts.iter().flat_map(|text| text.split('&')).filter_map(|pair| pair.split_once('='));
        Self(pairs.map(|(name, value)| (decoded(name), decoded(value))).collect())
    }

    pub(super) fn get(&self, name: &str) -> &str {
        self.0.get(name).map(String::as_str).unwrap_or_default()
    }

    /// The requested action.
    pub(super) fn action(&self) -> Result<Action, ServiceError> {
        match self.get("Action") {
            "AssumeRoleWithWebIdentity" => Ok(Action::AssumeRoleWithWebIdentity),
            "GetCallerIdentity" => Ok(Action::GetCallerIdentity),
            "" => Err(ServiceError::new("MissingAction", "the request names no Action")),
            other => Err(ServiceError::new(
                "InvalidAction",
                format!(
                    "Could not find operation {other}; the emulator has AssumeRoleWithWebIdentity and GetCallerIdentity"
                ),
            )),
        }
    }

    /// The parameters as they are noted: a token without its signature, so that nobody can use it elsewhere, and
    /// without the parameters that sign a URL.
    pub(super) fn shown(&self) -> String {
        let shown = |name: &str, value: &str| match (name, Token::parse(value)) {
            ("WebIdentityToken", Some(token)) => format!("{}.…", token.shown()),
            ("WebIdentityToken" | "X-Amz-Security-Token" | "X-Amz-Signature", _) => "…".to_owned(),
            _ => value.to_owned(),
        };
        let members = self.0.iter().map(|(name, value)| (name.clone(), Value::String(shown(name, value))));
        Value::Object(members.collect::<Map<_, _>>()).to_string()
    }
}

/// The checked parameters of `AssumeRoleWithWebIdentity`.
#[derive(Debug)]
pub(super) struct AssumeRole<'a> {
    pub(super) role: Role,
    pub(super) session_name: &'a str,
    pub(super) token: Token<'a>,
    pub(super) duration: Duration,
}

/// The default and the bounds of `DurationSeconds`.
const DURATION_SECONDS: u64 = 3600;
const DURATION_SECONDS_MIN: u64 = 900;
const DURATION_SECONDS_MAX: u64 = 43_200;

const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 4..=20_000;
const SESSION_NAME_BYTES: std::ops::RangeInclusive<usize> = 2..=64;
const POLICY_CHARS_MAX: usize = 2048;

/// The pod that asks: the one that its token is bound to, else the session's name.
pub(super) fn pod(parameters: &Parameters) -> String {
    let token = Token::parse(parameters.get("WebIdentityToken"));
    token.and_then(|token| token.pod()).unwrap_or_else(|| parameters.get("RoleSessionName").to_owned())
}

impl<'a> AssumeRole<'a> {
    pub(super) fn parse(parameters: &'a Parameters) -> Result<Self, ServiceError> {
        let validation = |text: String| Err(ServiceError::new("ValidationError", text));
        for name in ["RoleArn", "RoleSessionName", "WebIdentityToken"] {
            if parameters.get(name).is_empty() {
                return validation(format!("{name} must not be empty"));
            }
        }
        let Some(role) = Role::parse(parameters.get("RoleArn")) else {
            return validation("Request ARN is invalid".to_owned());
        };
        let session_name = parameters.get("RoleSessionName");
        let plain =
            session_name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte));
        if !plain || !SESSION_NAME_BYTES.contains(&session_name.len()) {
            return validation("RoleSessionName must have 2 to 64 letters, digits and _+=,.@-".to_owned());
        }
        let seconds = match parameters.get("DurationSeconds") {
            "" => Some(DURATION_SECONDS),
            text => text.parse().ok(),
        };
        let Some(seconds) = seconds.filter(|s| (DURATION_SECONDS_MIN..=DURATION_SECONDS_MAX).contains(s))
        else {
            let bounds = format!("{DURATION_SECONDS_MIN} to {DURATION_SECONDS_MAX}");
            return validation(format!("DurationSeconds must be {bounds}"));
        };
        let policy = parameters.get("Policy");
        if policy.chars().count() > POLICY_CHARS_MAX {
            return validation(format!("Policy must have at most {POLICY_CHARS_MAX} characters"));
        }
        if !policy.is_empty() && serde_json::from_str::<Map<String, Value>>(policy).is_err() {
            let text = "This policy contains invalid Json";
            return Err(ServiceError::new("MalformedPolicyDocument", text));
        }
        let token = parameters.get("WebIdentityToken");
        if !TOKEN_BYTES.contains(&token.len()) {
            let (least, most) = (TOKEN_BYTES.start(), TOKEN_BYTES.end());
            return validation(format!("WebIdentityToken must have {least} to {most} characters"));
        }
        let token = Token::parse(token).ok_or_else(web_identity::malformed)?;
        Ok(Self { role, session_name, token, duration: Duration::from_secs(seconds) })
    }

    /// The answer with a session's credentials.
    pub(super) fn reply(&self, session: &Session, request_id: &str) -> Reply {
        let assumed = escaped(&session.role.assumed(&session.name));
        let result = format!(
            "<AssumeRoleWithWebIdentityResult>\
             <SubjectFromWebIdentityToken>{}</SubjectFromWebIdentityToken>\
             <Audience>{}</Audience>\
             <AssumedRoleUser><AssumedRoleId>{}</AssumedRoleId><Arn>{assumed}</Arn></AssumedRoleUser>\
             <Provider>{}</Provider>\
             <Credentials><AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey>\
             <SessionToken>{}</SessionToken><Expiration>{}</Expiration></Credentials>\
             </AssumeRoleWithWebIdentityResult>",
            escaped(self.token.subject()),
            escaped(self.token.audiences().first().unwrap_or(&"")),
            escaped(&session.role.user_id(&session.name)),
            escaped(self.token.issuer()),
            session.access_key,
            session.secret.0,
            session.token.0,
            session.expires_at,
        );
        let mut reply = answer("AssumeRoleWithWebIdentity", &result, request_id);
        reply.secrets = vec![session.secret.0.clone(), session.token.0.clone()];
        reply
    }
}

/// The answer to `GetCallerIdentity`.
pub(super) fn caller_identity(account_id: &str, user_id: &str, arn: &str, request_id: &str) -> Reply {
    let result = format!(
        "<GetCallerIdentityResult><Arn>{}</Arn><UserId>{}</UserId><Account>{account_id}</Account>\
         </GetCallerIdentityResult>",
        escaped(arn),
        escaped(user_id)
    );
    answer("GetCallerIdentity", &result, request_id)
}

const CONTENT_TYPE: &str = "text/xml";

const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

fn answer(action: &str, result: &str, request_id: &str) -> Reply {
    let body = format!(
        "<{action}Response xmlns=\"{NAMESPACE}\">{result}<ResponseMetadata><RequestId>{request_id}</RequestId>\
         </ResponseMetadata></{action}Response>"
    );
    Reply { outcome: Cow::Borrowed("ok"), ..reply(StatusCode::OK, body, request_id) }
}

fn reply(status: StatusCode, body: String, request_id: &str) -> Reply {
    Reply {
        outcome: Cow::Borrowed(""),
        status,
        content_type: CONTENT_TYPE,
        body,
        encoded: None,
        headers: vec![("x-amzn-requestid", request_id.to_owned())],
        secrets: Vec::new(),
    }
}

/// An error in STS's format.
pub(super) fn failure(error: &ServiceError, request_id: &str) -> Reply {
    let code = error.code.clone();
    let status = status(&code);
    let kind = if status.is_server_error() { "Receiver" } else { "Sender" };
    let body = format!(
        "<ErrorResponse xmlns=\"{NAMESPACE}\"><Error><Type>{kind}</Type><Code>{code}</Code><Message>{}</Message></Error>\
         <RequestId>{request_id}</RequestId></ErrorResponse>",
        escaped(&error.message)
    );
    Reply { outcome: code, ..reply(status, body, request_id) }
}

/// Faults of a signature have other codes in the Query protocol (AWS STS API reference, common errors).
pub(super) fn of_signature(error: ServiceError) -> ServiceError {
    let code = match error.code.as_ref() {
        "InvalidSignatureException" => "SignatureDoesNotMatch",
        "UnrecognizedClientException" => "InvalidClientTokenId",
        "MissingAuthenticationTokenException" => "MissingAuthenticationToken",
        "IncompleteSignatureException" => "IncompleteSignature",
        "ExpiredTokenException" => "ExpiredToken",
        _ => return error,
    };
    ServiceError::new(code, error.message)
}

/// Two of the model's errors are 403, and those common errors that deny access.
fn status(code: &str) -> StatusCode {
    match code {
        "AccessDenied"
        | "ExpiredToken"
        | "IDPRejectedClaim"
        | "InvalidClientTokenId"
        | "MissingAuthenticationToken"
        | "RegionDisabledException"
        | "SignatureDoesNotMatch" => StatusCode::FORBIDDEN,
        "InternalFailure" => StatusCode::INTERNAL_SERVER_ERROR,
        "ServiceUnavailable" => StatusCode::SERVICE_UNAVAILABLE,
        "RequestEntityTooLargeException" => StatusCode::PAYLOAD_TOO_LARGE,
        "RequestTimeoutException" => StatusCode::REQUEST_TIMEOUT,
        _ => StatusCode::BAD_REQUEST,
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Decodes a part of a form or query: percent signs and plus signs.
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

    fn parsed(change: &[(&str, &str)]) -> Result<Duration, String> {
        // {"alg":"none"} and {}
        let mut fields = BTreeMap::from([
            ("RoleArn", "arn:aws:iam::111122223333:role/path/a"),
            ("RoleSessionName", "pod-7"),
            ("WebIdentityToken", "eyJhbGciOiJub25lIn0.e30.c2ln"),
        ]);
        fields.extend(change.iter().copied());
        let parameters = Parameters(fields.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
        AssumeRole::parse(&parameters).map(|asked| asked.duration).map_err(|error| error.code.into_owned())
    }

    #[test]
    fn the_models_bounds_hold() {
        let seconds = |seconds| Ok(Duration::from_secs(seconds));
        let code = |code: &str| Err(code.to_owned());
        let (long, many) = ("x".repeat(2049), "x".repeat(65));
        for (change, expected) in [
            (vec![], seconds(3600)),
            (vec![("DurationSeconds", "900")], seconds(900)),
            (vec![("DurationSeconds", "43200")], seconds(43_200)),
            (vec![("DurationSeconds", "899")], code("ValidationError")),
            (vec![("DurationSeconds", "43201")], code("ValidationError")),
            (vec![("DurationSeconds", "soon")], code("ValidationError")),
            (vec![("RoleArn", "")], code("ValidationError")),
            (vec![("RoleArn", "arn:aws:iam::1:role/a")], code("ValidationError")),
            (vec![("RoleArn", "arn:aws:iam::111122223333:user/a")], code("ValidationError")),
            (vec![("RoleSessionName", "a b")], code("ValidationError")),
            (vec![("RoleSessionName", "x")], code("ValidationError")),
            (vec![("RoleSessionName", &many)], code("ValidationError")),
            (vec![("WebIdentityToken", "abc")], code("ValidationError")),
            (vec![("WebIdentityToken", "a.b.c")], code("InvalidIdentityToken")),
            (vec![("Policy", "{}")], seconds(3600)),
            (vec![("Policy", "{")], code("MalformedPolicyDocument")),
            (vec![("Policy", &long)], code("ValidationError")),
        ] {
            assert_eq!(parsed(&change), expected, "{change:?}");
        }
    }

    #[test]
    fn errors_have_the_names_and_statuses_of_the_model() {
        for (code, status) in [
            ("ExpiredTokenException", 400),
            ("IDPCommunicationError", 400),
            ("IDPRejectedClaim", 403),
            ("InvalidIdentityToken", 400),
            ("MalformedPolicyDocument", 400),
            ("PackedPolicyTooLarge", 400),
            ("RegionDisabledException", 403),
            ("SignatureDoesNotMatch", 403),
            ("ExpiredToken", 403),
            ("Throttling", 400),
            ("InternalFailure", 500),
        ] {
            let reply = failure(&ServiceError::new(code, "a < b & c"), "id");
            assert_eq!((reply.outcome.as_ref(), reply.status.as_u16()), (code, status));
            assert!(
                reply.body.contains(&format!("<Code>{code}</Code><Message>a &lt; b &amp; c<")),
                "{reply:?}"
            );
        }
    }

    #[test]
    fn a_noted_token_has_no_signature() {
        let form =
            b"Action=AssumeRoleWithWebIdentity&WebIdentityToken=eyJhbGciOiJub25lIn0.e30.c2ln&RoleArn=a%26b";
        let shown = Parameters::parse(b"", form).shown();
        assert!(shown.contains("eyJhbGciOiJub25lIn0.e30.…") && shown.contains("a&b"), "{shown}");
        assert!(!shown.contains("c2ln"), "{shown}");
        for name in ["WebIdentityToken", "X-Amz-Security-Token", "X-Amz-Signature"] {
            let query = format!("Action=GetCallerIdentity&{name}=secret");
            assert!(!Parameters::parse(query.as_bytes(), b"").shown().contains("secret"), "{name}");
        }
    }

    #[test]
    fn parameters_stand_in_query_and_form() {
        let action = |query: &[u8], form: &[u8]| Parameters::parse(query, form).action().map(Action::name);
        for (query, form) in
            [(&b"Action=GetCallerIdentity"[..], &b""[..]), (b"", b"Action=GetCallerIdentity")]
        {
            assert_eq!(action(query, form), Ok("GetCallerIdentity"));
        }
        assert_eq!(
            action(b"", b"").map_err(|error| error.code.into_owned()),
            Err("MissingAction".to_owned())
        );
    }

    #[test]
    fn forms_are_decoded() {
        assert_eq!(decoded("a%20b+c%2"), "a b c%2");
        assert_eq!(decoded("%zz%C3%BC"), "%zzü");
    }
}
