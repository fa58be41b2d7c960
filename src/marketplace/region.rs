//! The region of an ECS task, from its metadata endpoint (ECS developer guide, "Task metadata endpoint version 4").
//!
//! `AWS_REGION` comes before it and IMDS after it; both are found elsewhere. Never built in: AWS wants the call made in
//! the region where the task runs.

use std::time::Duration;

use serde::Deserialize;

use super::{Fault, FaultClass, Place, Region};
use tollgate_http::client::{self, ClientError};

/// The regions of all partitions, as AWS's SDKs of November 2026 list them. One that is missing works all the same:
/// only warnings and reasons are chosen by this list.
const LISTED: &str = "\
    af-south-1 ap-east-1 ap-east-2 ap-northeast-1 ap-northeast-2 ap-northeast-3 ap-south-1 ap-south-2 ap-southeast-1 \
    ap-southeast-2 ap-southeast-3 ap-southeast-4 ap-southeast-5 ap-southeast-6 ap-southeast-7 ca-central-1 ca-west-1 \
    cn-north-1 cn-northwest-1 eu-central-1 eu-central-2 eu-isoe-west-1 eu-north-1 eu-south-1 eu-south-2 eu-west-1 \
    eu-west-2 eu-west-3 eusc-de-east-1 il-central-1 me-central-1 me-south-1 mx-central-1 sa-east-1 us-east-1 us-east-2 \
    us-gov-east-1 us-gov-west-1 us-iso-east-1 us-iso-west-1 us-isob-east-1 us-isob-west-1 us-isof-east-1 \
    us-isof-south-1 us-west-1 us-west-2";

impl Region {
    /// Whether it existed when this version was made.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        LISTED.split(' ').any(|listed| listed == self.as_str())
    }
}

/// The endpoint is on the same host.
const METADATA_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Task {
    #[serde(rename = "TaskARN")]
    task_arn: String,
}

/// The endpoint is configured and says nothing usable.
#[derive(Debug, thiserror::Error)]
pub enum Silent {
    /// No answer.
    #[error("the ECS task metadata endpoint: {0}")]
    NoAnswer(#[from] ClientError),
    /// An answer that names no task.
    #[error("the ECS task metadata endpoint answers without a task")]
    NoTask,
}

impl Silent {
    /// As a fault of a call that needed the task.
    #[must_use]
    pub fn fault(&self) -> Fault {
        let code = match self {
            Self::NoAnswer(ClientError::TimedOut { .. }) => "Timeout",
            Self::NoAnswer(ClientError::Connect { .. }) => "Connection",
            Self::NoAnswer(ClientError::Protocol { .. } | ClientError::Url) | Self::NoTask => "InvalidAnswer",
        };
        Fault::local(FaultClass::Transient, code, self.to_string()).at(Place::TaskMetadata, None).unsent()
    }
}

/// The ARN of the task that the metadata endpoint describes; nothing where no endpoint is configured.
pub async fn task_arn(metadata_uri: Option<&str>) -> Result<Option<String>, Silent> {
    let Some(uri) = metadata_uri else { return Ok(None) };
    let url = format!("{}/task", uri.trim_end_matches('/'));
    let answer = client::get_url(&url, METADATA_TIMEOUT).await?;
    let task = serde_json::from_slice::<Task>(answer.body()).map_err(|_| Silent::NoTask)?;
    Ok(Some(task.task_arn))
}

/// The region in the task's ARN.
pub async fn from_ecs(metadata_uri: Option<&str>) -> Result<Option<Region>, Silent> {
    match task_arn(metadata_uri).await? {
        Some(arn) => of_arn(&arn).map(Some).ok_or(Silent::NoTask),
        None => Ok(None),
    }
}

/// `arn:partition:ecs:region:account:…` (AWS general reference, ARNs).
fn of_arn(arn: &str) -> Option<Region> {
    let mut parts = arn.split(':');
    let (arn, _partition, service) = (parts.next()?, parts.next()?, parts.next()?);
    if arn != "arn" || service != "ecs" {
        return None;
    }
    parts.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_is_the_fourth_part_of_the_arn() {
        let region = of_arn("arn:aws:ecs:eu-central-1:111122223333:task/demo/0123456789abcdef");
        assert_eq!(region.unwrap().as_str(), "eu-central-1");
        for bad in
            ["", "arn:aws:ecs", "arn:aws:ec2:eu-central-1:1:x", "arn:aws:ecs::1:x", "arn:aws:ecs:EU:1:x"]
        {
            assert_eq!(of_arn(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_region_that_is_not_listed_is_accepted_and_known_for_it() {
        for name in LISTED.split(' ') {
            assert!(name.parse::<Region>().is_ok_and(|region| region.is_listed()), "{name}");
        }
        assert!("us-east-9".parse::<Region>().is_ok_and(|region| !region.is_listed()));
    }

    /// The clock that is followed is read the same way.
    #[tokio::test]
    async fn an_endpoint_that_never_ends_its_answer_is_silent() {
        use tokio::io::AsyncWriteExt as _;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/v4/id", listener.local_addr().unwrap());
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut taken = 0;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            while stream.write_all(&[b' '; 1 << 16]).await.is_ok() {
                taken += 1 << 16;
            }
            taken
        });
        assert_eq!(task_arn(Some(&uri)).await.unwrap_err().fault().place, Place::TaskMetadata);
        let taken: usize = served.await.unwrap();
        assert!(taken < client::SMALL_ANSWER_BYTES_MAX + (16 << 20), "{taken}");
        assert!(task_arn(None).await.unwrap().is_none());
    }
}
