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
    pub(super) headers: Vec<(&'static str, String)>,
    /// Parts of the body that notes omit.
    pub(super) secrets: Vec<String>,
}

impl Reply {
    /// The body as it is noted.
    pub(super) fn shown(&self) -> String {
        self.secrets.iter().fold(self.body.clone(), |body, secret| body.replace(secret, "…"))
    }

    pub(super) fn response(self) -> Response<Body> {
        let mut response = http::answer(self.status, self.content_type, self.body);
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(HeaderName::from_static(name), value);
            }
        }
        response
    }
}
