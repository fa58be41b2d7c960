//! An answer of any of the services, before it is sent.

use std::borrow::Cow;

use hyper::header::{HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use tollgate_http::{self as http, Body};

/// An answer, and what is noted of it.
#[derive(Debug)]
pub(super) struct Reply {
    /// `ok`, or the exception.
    pub(super) outcome: Cow<'static, str>,
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: String,
    /// The body as it is sent, if that is not its text.
    pub(super) encoded: Option<Vec<u8>>,
    pub(super) headers: Vec<(&'static str, String)>,
    /// Parts of the body that notes omit.
    pub(super) secrets: Vec<String>,
}

impl Reply {
    /// The body as it is noted.
    pub(super) fn shown(&self) -> String {
        self.secrets.iter().fold(self.body.clone(), |body, secret| body.replace(secret, "…"))
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.encoded.unwrap_or_else(|| self.body.into_bytes())
    }

    pub(super) fn response(mut self) -> Response<Body> {
        let headers = std::mem::take(&mut self.headers);
        let mut response = http::answer(self.status, self.content_type, self.into_bytes());
        for (name, value) in headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(HeaderName::from_static(name), value);
            }
        }
        response
    }
}
