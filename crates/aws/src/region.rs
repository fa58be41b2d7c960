//! The region of an ECS task, from its metadata endpoint (ECS developer guide, "Task metadata endpoint version 4").
//!
//! `AWS_REGION` takes precedence and IMDS comes after; both are read elsewhere. No region is built in: AWS requires the
//! call in the region where the task runs.

use std::time::Duration;

use serde::Deserialize;

use crate::connection::host_of;
use tollgate_http::client::{self, ClientError};
use tollgate_marketplace::{Fault, FaultClass, Place, Region};

/// The endpoint is on the same host.
const METADATA_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Task {
    #[serde(rename = "TaskARN")]
    task_arn: String,
}

/// The endpoint is configured but gives no task.
#[derive(Debug, thiserror::Error)]
pub enum Silent {
    /// No answer.
    #[error("the ECS task metadata endpoint: {0}")]
    NoAnswer(#[from] ClientError),
    /// An answer without a task, with its status.
    #[error("the ECS task metadata endpoint answers without a task (HTTP {0})")]
    NoTask(u16),
}

impl Silent {
    /// The fault of a call that needed the task.
    #[must_use]
    pub fn fault(&self, metadata_uri: Option<&str>) -> Fault {
        let code = match self {
            Self::NoAnswer(ClientError::TimedOut { .. }) => "Timeout",
            Self::NoAnswer(ClientError::Connect { .. }) => "Connection",
            Self::NoAnswer(ClientError::Protocol { .. } | ClientError::Url) | Self::NoTask(_) => {
                "InvalidAnswer"
            }
        };
        let seen = match self {
            Self::NoAnswer(ClientError::Connect { source, .. }) => source.kind().to_string(),
            Self::NoAnswer(_) => String::new(),
            Self::NoTask(status) => format!("HTTP {status}"),
        };
        let fault = Fault::local(FaultClass::Transient, code, self.to_string()).seeing(seen);
        fault.at(Place::TaskMetadata, metadata_uri.and_then(host_of)).unsent()
    }
}

/// The ARN of the task, from the metadata endpoint; `None` if no endpoint is configured.
pub async fn task_arn(metadata_uri: Option<&str>) -> Result<Option<String>, Silent> {
    let Some(uri) = metadata_uri else { return Ok(None) };
    let url = format!("{}/task", uri.trim_end_matches('/'));
    let answer = client::get_url(&url, METADATA_TIMEOUT).await?;
    let no_task = Silent::NoTask(answer.status().as_u16());
    let task = serde_json::from_slice::<Task>(answer.body()).map_err(|_| no_task)?;
    Ok(Some(task.task_arn))
}

/// The region in the task's ARN.
pub async fn from_ecs(metadata_uri: Option<&str>) -> Result<Option<Region>, Silent> {
    match task_arn(metadata_uri).await? {
        // An answer that parses has status 200 in practice.
        Some(arn) => of_arn(&arn).map(Some).ok_or(Silent::NoTask(200)),
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

    /// The clock source is read the same way.
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
        assert_eq!(task_arn(Some(&uri)).await.unwrap_err().fault(Some(&uri)).place, Place::TaskMetadata);
        let taken: usize = served.await.unwrap();
        assert!(taken < client::SMALL_ANSWER_BYTES_MAX + (16 << 20), "{taken}");
        assert!(task_arn(None).await.unwrap().is_none());
    }
}
