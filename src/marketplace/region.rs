//! The region of an ECS task, from its metadata endpoint (ECS developer guide, "Task metadata endpoint version 4").
//!
//! `AWS_REGION` comes before it and IMDS after it; both are found elsewhere. Never built in: AWS wants the call made in
//! the region where the task runs.

use std::time::Duration;

use serde::Deserialize;

use super::Region;
use crate::http::client;

/// The endpoint is on the same host.
const METADATA_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Task {
    #[serde(rename = "TaskARN")]
    task_arn: String,
}

/// The ARN of the task that the metadata endpoint describes, where there is one.
pub async fn task_arn(metadata_uri: Option<&str>) -> Option<String> {
    let url = format!("{}/task", metadata_uri?.trim_end_matches('/'));
    match client::get_url(&url, METADATA_TIMEOUT).await {
        Ok(answer) => serde_json::from_slice::<Task>(answer.body()).ok().map(|task| task.task_arn),
        Err(error) => {
            tracing::debug!(%error, "no ECS task metadata");
            None
        }
    }
}

/// The region in the task's ARN.
pub async fn from_ecs(metadata_uri: Option<&str>) -> Option<Region> {
    of_arn(&task_arn(metadata_uri).await?)
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
}
