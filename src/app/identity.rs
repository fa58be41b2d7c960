//! Which pod or task this is: found once in a process, for registration and usage.
//!
//! A configured source that does not answer is retried and never replaced: under another name the task's own records
//! would count as another task's.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OnceCell;

use crate::config::{Config, PodIdentity};
use tollgate_aws::region;
use tollgate_clock as clock;
use tollgate_marketplace::schedule::{self, Draw};

/// The identity; clones share what was found.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    configured: PodIdentity,
    metadata_uri: Option<String>,
    found: Arc<OnceCell<String>>,
}

/// Registration needs the name for the state folder only: after this time it goes on without it, and keeps no receipt.
const REGISTRATION_WAITS: Duration = Duration::from_secs(10);

impl Identity {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            configured: config.identity.clone(),
            metadata_uri: config.aws.ecs_metadata_uri.clone(),
            found: Arc::default(),
        }
    }

    /// The name; waits until it is known. Empty if nothing names the pod.
    pub(super) async fn resolve(&self) -> String {
        self.found.get_or_init(|| self.find()).await.clone()
    }

    /// The name, or an empty one if it is not found within `REGISTRATION_WAITS`.
    pub(super) async fn resolve_soon(&self) -> String {
        tokio::time::timeout(REGISTRATION_WAITS, self.resolve()).await.unwrap_or_else(|_| {
            tracing::warn!(
                event = "pod_unknown",
                "the task's ARN is not known yet: the gate may open, but no receipt is kept"
            );
            String::new()
        })
    }

    async fn find(&self) -> String {
        let began = clock::monotonic();
        let task_arn = loop {
            if self.configured.uid.is_some() {
                break None;
            }
            match region::task_arn(self.metadata_uri.as_deref()).await {
                Ok(task_arn) => break task_arn,
                Err(error) => {
                    tracing::warn!(event = "pod_unknown", %error, "the task's ARN cannot be found yet; retries continue");
                    let waited = clock::monotonic().duration_since(began);
                    tokio::time::sleep(schedule::transient(waited, Draw::MIDDLE)).await;
                }
            }
        };
        self.configured.resolve(task_arn.as_deref()).unwrap_or_default().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    fn identity(metadata_uri: Option<String>) -> Identity {
        let configured = PodIdentity { uid: None, hostname: Some("host".to_owned()), kubernetes: false };
        Identity { configured, metadata_uri, found: Arc::default() }
    }

    /// A timeout of one second once made the task's own records count as another task's.
    #[tokio::test(start_paused = true)]
    async fn a_silent_endpoint_is_asked_again_and_once_for_all() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let turn = counted.fetch_add(1, Ordering::AcqRel);
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let answer: &[u8] = match turn {
                    0 => b"HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n",
                    1 => b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n\"garbage\"",
                    2 => continue,
                    _ => b"HTTP/1.1 200 OK\r\ncontent-length: 22\r\n\r\n{\"TaskARN\":\"arn:task\"}",
                };
                let _ = stream.write_all(answer).await;
            }
        });
        let identity = identity(Some(format!("http://{addr}/v4/id")));
        let (first, second) = tokio::join!(identity.resolve(), identity.resolve());
        assert_eq!((first.as_str(), second.as_str()), ("arn:task", "arn:task"));
        assert_eq!(identity.resolve_soon().await, "arn:task");
        assert_eq!(asked.load(Ordering::Acquire), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn registration_does_not_wait_for_ever_and_gets_no_other_name() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let identity = identity(Some(format!("http://{}/v4/id", listener.local_addr().unwrap())));
        assert_eq!(identity.resolve_soon().await, "");
    }

    #[tokio::test]
    async fn without_a_source_the_host_names_the_pod() {
        assert_eq!(identity(None).resolve().await, "host");
    }
}
