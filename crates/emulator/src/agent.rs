//! The ECS agent: the credentials of a task's role, and the task metadata endpoint version 4 (ECS developer guide). The
//! last part of the path names the task, which is the pod of the metering service.

use std::borrow::Cow;

use hyper::StatusCode;
use ring::digest;
use serde_json::{Value, json};

use super::action::Action;
use super::credentials::Session;
use super::hash::hex;
use super::operation::ServiceError;
use super::reply::Reply;
use super::world::PodView;

/// The action and the task that a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) action: Action,
    pub(super) task: String,
    /// Whether only the container's metadata are wanted, without its task.
    container: bool,
}

/// The name of the task if the metadata URI has none.
const NAMELESS: &str = "task";

impl Path {
    pub(super) fn parse(path: &str) -> Option<Self> {
        let asks =
            |action, task: &str, container| Some(Self { action, task: super::sts::decoded(task), container });
        let credentials = ["/v2/credentials", "/_emulator/credentials"];
        let rest = credentials.into_iter().find_map(|prefix| path.strip_prefix(prefix));
        if let Some(rest) = rest.filter(|rest| rest.is_empty() || rest.starts_with('/')) {
            return asks(Action::ContainerCredentials, rest.trim_start_matches('/'), false);
        }
        if path == "/task" {
            return asks(Action::TaskMetadata, NAMELESS, false);
        }
        let task = path.strip_prefix("/v4/")?;
        match task.strip_suffix("/task") {
            Some(task) => asks(Action::TaskMetadata, task, false),
            None => asks(Action::TaskMetadata, task, true),
        }
    }

    /// Checks the task's name.
    pub(super) fn check(&self) -> Result<(), ServiceError> {
        if self.task.is_empty() {
            return Err(ServiceError::new("NoIdInRequest", "the path names no task"));
        }
        let plain = self.task.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte));
        if !plain || self.task.len() > NAME_CHARS_MAX {
            let text = format!("a task's name has 1 to {NAME_CHARS_MAX} letters, digits and _+=,.@-");
            return Err(ServiceError::new("InvalidIdInRequest", text));
        }
        Ok(())
    }

    /// The answer of the task metadata endpoint.
    pub(super) fn metadata(&self, pod: &PodView<'_>, fargate: bool) -> Reply {
        let task = metadata(pod, fargate);
        success(if self.container { &task["Containers"][0] } else { &task })
    }
}

/// Longest name; it is also the session's name (AWS STS API reference, RoleSessionName).
const NAME_CHARS_MAX: usize = 64;

/// The members in AWS's own example that do not depend on a container runtime.
fn metadata(pod: &PodView<'_>, fargate: bool) -> Value {
    let PodView { region, account_id, name, .. } = pod;
    let arn = |kind: &str, rest: &str| format!("arn:aws:ecs:{region}:{account_id}:{kind}/{rest}");
    let digest = hex(digest::digest(&digest::SHA256, name.as_bytes()));
    let id = digest.get(..32).unwrap_or_default();
    let (cluster, launch_type) = ("emulated", if fargate { "FARGATE" } else { "EC2" });
    let container = json!({
        "DockerId": format!("{id}-1"),
        "Name": "app",
        "DockerName": "app",
        "Image": "app",
        "Labels": {
            "com.amazonaws.ecs.cluster": cluster,
            "com.amazonaws.ecs.container-name": "app",
            "com.amazonaws.ecs.task-arn": arn("task", &format!("{cluster}/{id}")),
            "com.amazonaws.ecs.task-definition-family": name,
            "com.amazonaws.ecs.task-definition-version": "1",
        },
        "DesiredStatus": "RUNNING",
        "KnownStatus": "RUNNING",
        "Type": "NORMAL",
        "ContainerARN": arn("container", &format!("{cluster}/{id}/1")),
    });
    json!({
        "Cluster": arn("cluster", cluster),
        "TaskARN": arn("task", &format!("{cluster}/{id}")),
        "Family": name,
        "Revision": "1",
        "DesiredStatus": "RUNNING",
        "KnownStatus": "RUNNING",
        "AvailabilityZone": format!("{region}a"),
        "LaunchType": launch_type,
        "Containers": [container],
    })
}

/// The credentials of a task's role.
pub(super) fn credentials(session: &Session) -> Value {
    json!({
        "AccessKeyId": session.access_key,
        "SecretAccessKey": session.secret.0,
        "Token": session.token.0,
        "Expiration": session.expires_at.to_string(),
        "RoleArn": session.role.arn(),
    })
}

pub(super) fn credentials_reply(session: &Session) -> Reply {
    let secrets = vec![session.secret.0.clone(), session.token.0.clone()];
    Reply { secrets, ..success(&credentials(session)) }
}

fn success(document: &Value) -> Reply {
    reply(Cow::Borrowed("ok"), StatusCode::OK, document)
}

/// An error in the agent's format.
pub(super) fn failure(error: &ServiceError) -> Reply {
    let status = match error.code.as_ref() {
        "AccessDenied" => StatusCode::FORBIDDEN,
        "NotFound" => StatusCode::NOT_FOUND,
        "MethodNotAllowed" => StatusCode::METHOD_NOT_ALLOWED,
        "Throttling" => StatusCode::TOO_MANY_REQUESTS,
        "InternalServerError" | "InternalFailure" => StatusCode::INTERNAL_SERVER_ERROR,
        "CredentialsUninitialized" => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_REQUEST,
    };
    let document = json!({"code": error.code, "message": error.message, "HTTPErrorCode": status.as_u16()});
    reply(error.code.clone(), status, &document)
}

fn reply(outcome: Cow<'static, str>, status: StatusCode, document: &Value) -> Reply {
    Reply {
        outcome,
        status,
        content_type: "application/json",
        body: document.to_string(),
        encoded: None,
        headers: Vec::new(),
        secrets: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_their_task() {
        let named = |path: &str| Path::parse(path).map(|path| (path.action, path.task, path.container));
        let (credentials, metadata) = (Action::ContainerCredentials, Action::TaskMetadata);
        for (path, action, task, container) in [
            ("/v2/credentials/task-1", credentials, "task-1", false),
            ("/v2/credentials", credentials, "", false),
            ("/task", metadata, "task", false),
            ("/v4/task-1/task", metadata, "task-1", false),
            ("/v4/task-1", metadata, "task-1", true),
            ("/v4/", metadata, "", true),
        ] {
            assert_eq!(named(path), Some((action, task.to_owned(), container)), "{path}");
        }
        for path in ["/", "/v1/credentials", "/v2/credentialsx", "/v4", "/tasks", "/v3/x/task"] {
            assert_eq!(named(path), None, "{path}");
        }
        for (path, code) in [
            ("/v2/credentials/", "NoIdInRequest"),
            ("/v4//task", "NoIdInRequest"),
            ("/v2/credentials/a/b", "InvalidIdInRequest"),
            ("/v2/credentials/a%20b", "InvalidIdInRequest"),
        ] {
            assert_eq!(Path::parse(path).unwrap().check().unwrap_err().code, code, "{path}");
        }
    }

    #[test]
    fn errors_have_the_agents_form() {
        let reply = failure(&ServiceError::new("InternalServerError", "no"));
        assert_eq!(reply.status.as_u16(), 500);
        assert_eq!(reply.body, r#"{"HTTPErrorCode":500,"code":"InternalServerError","message":"no"}"#);
    }
}
