//! The action of a request, for all services on the one port: faults' rules name it, and calls are noted under it.

use super::operation::{Operation, ServiceError};
use super::reply::Reply;
use super::{agent, sts, wire};

/// One action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// An operation of the metering service or of License Manager.
    Json(Operation),
    /// STS: credentials of a role for a web identity token, unsigned.
    AssumeRoleWithWebIdentity,
    /// STS: the identity of the signer.
    GetCallerIdentity,
    /// The agent in a container: the credentials of its role.
    ContainerCredentials,
    /// The ECS agent: the task's metadata.
    TaskMetadata,
}

impl Action {
    pub(super) fn all() -> impl Iterator<Item = Self> {
        Operation::ALL.into_iter().map(Self::Json).chain([
            Self::AssumeRoleWithWebIdentity,
            Self::GetCallerIdentity,
            Self::ContainerCredentials,
            Self::TaskMetadata,
        ])
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Json(operation) => operation.name(),
            Self::AssumeRoleWithWebIdentity => "AssumeRoleWithWebIdentity",
            Self::GetCallerIdentity => "GetCallerIdentity",
            Self::ContainerCredentials => "ContainerCredentials",
            Self::TaskMetadata => "TaskMetadata",
        }
    }

    pub(super) fn of_name(name: &str) -> Option<Self> {
        Self::all().find(|action| action.name() == name)
    }

    /// The errors that can be scripted by name: those of the model; for STS and the agent also the errors that every
    /// service has.
    pub(super) const fn exceptions(self) -> &'static [&'static str] {
        match self {
            Self::Json(operation) => operation.exceptions(),
            Self::AssumeRoleWithWebIdentity => &[
                "ExpiredTokenException",
                "IDPCommunicationError",
                "IDPRejectedClaim",
                "InvalidIdentityToken",
                "MalformedPolicyDocument",
                "PackedPolicyTooLarge",
                "RegionDisabledException",
                "AccessDenied",
                "InternalFailure",
                "ServiceUnavailable",
                "Throttling",
            ],
            Self::GetCallerIdentity => &[
                "AccessDenied",
                "ExpiredToken",
                "InternalFailure",
                "InvalidClientTokenId",
                "ServiceUnavailable",
                "SignatureDoesNotMatch",
                "Throttling",
            ],
            Self::ContainerCredentials => &[
                "AccessDenied",
                "CredentialsUninitialized",
                "InternalServerError",
                "InvalidIdInRequest",
                "NoIdInRequest",
                "Throttling",
            ],
            Self::TaskMetadata => &["InternalServerError", "NotFound", "Throttling"],
        }
    }

    /// The exception of a call above the quota.
    pub(super) const fn throttling(self) -> &'static str {
        match self {
            Self::Json(operation) => operation.api().throttling(),
            _ => "Throttling",
        }
    }

    /// Whether it issues credentials.
    pub(super) const fn gives_credentials(self) -> bool {
        matches!(self, Self::AssumeRoleWithWebIdentity | Self::ContainerCredentials)
    }

    /// An error in the service's format.
    pub(super) fn failure(self, error: ServiceError, request_id: &str) -> Reply {
        match self {
            Self::Json(operation) => wire::reply(operation.api(), &Err(error), request_id),
            Self::AssumeRoleWithWebIdentity | Self::GetCallerIdentity => sts::failure(&error, request_id),
            Self::ContainerCredentials | Self::TaskMetadata => agent::failure(&error),
        }
    }
}
