//! A cache of Nx, as its clients see it: `PUT` and `GET` of `/v1/cache/HASH`.
//!
//! What is stored is what Nx stores, a gzipped tar file, so that a server that looks into archives takes it. It is not
//! compressed: whoever finds it can read in it where it comes from.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};

use super::exchange::{Exchange, Key, Loaded, Refusal, Stored, Unclear};
use super::people::{People, Who};
use super::tricks::HttpTrick;

/// The name of the one file in an archive.
const FILE: &str = "creep-check.txt";

pub(super) struct NxCache {
    /// Without a slash at the end: what the client appends to begins with one.
    url: String,
}

impl NxCache {
    pub(super) fn new(url: &str) -> Self {
        Self {
            url: url.trim_end_matches('/').to_owned(),
        }
    }

    /// What an entry with this text is, byte for byte.
    pub(super) fn archive(text: &str) -> Bytes {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::none()));
        archive
            .append_data(&mut header, FILE, text.as_bytes())
            .expect("a vector takes every write");
        let packed = archive.into_inner().and_then(GzEncoder::finish);
        packed.expect("a vector takes every write").into()
    }

    pub(super) async fn store(
        &self,
        people: &People,
        who: Who,
        key: Key,
        body: Bytes,
        trick: Option<&HttpTrick>,
    ) -> Exchange<Stored> {
        let plain = HttpTrick::default();
        let trick = trick.unwrap_or(&plain);
        let mut headers = HeaderMap::new();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        for (name, value) in &trick.headers {
            let value = value.replace("{key}", &key.0.to_string());
            headers.append(
                *name,
                HeaderValue::try_from(value).expect("tricks are visible ASCII"),
            );
        }
        if let (Some(user), Some(token)) = (trick.basic_user, people.token(who)) {
            let basic = BASE64_STANDARD.encode(token.with_user(user));
            let mut value =
                HeaderValue::try_from(format!("Basic {basic}")).expect("base64 is visible ASCII");
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let path = trick.path_of(key);
        exchange(
            &self.url,
            people,
            who,
            trick.method.clone(),
            &path,
            headers,
            body,
        )
        .await
        .read(|(status, _)| {
            if trick.method == Method::GET {
                // Taken for what it is, it stored nothing, whatever it found.
                return Ok(Stored::Refused(Refusal::Forbidden));
            }
            stored(status)
        })
    }

    pub(super) async fn load(&self, people: &People, who: Who, key: Key) -> Exchange<Loaded> {
        let path = HttpTrick::default().path_of(key);
        let method = Method::GET;
        exchange(
            &self.url,
            people,
            who,
            method,
            &path,
            HeaderMap::new(),
            Bytes::new(),
        )
        .await
        .read(|(status, body)| loaded(status, body))
    }

    pub(super) async fn delete(&self, people: &People, who: Who, key: Key) -> Exchange<Stored> {
        let path = HttpTrick::default().path_of(key);
        let method = Method::DELETE;
        exchange(
            &self.url,
            people,
            who,
            method,
            &path,
            HeaderMap::new(),
            Bytes::new(),
        )
        .await
        .read(|(status, _)| stored(status))
    }
}

/// A request of HTTP to `url` and the path behind it.
pub(super) async fn exchange(
    url: &str,
    people: &People,
    who: Who,
    method: Method,
    path: &str,
    mut headers: HeaderMap,
    body: Bytes,
) -> Exchange<(StatusCode, Bytes)> {
    let asked = format!("{method} {path}");
    people.sign(who, &mut headers);
    let request = Request::builder()
        .method(method)
        .uri(format!("{url}{path}"))
        .body(body);
    let mut request = match request {
        Ok(request) => request,
        Err(error) => {
            return Exchange::new(
                asked,
                "not sent".to_owned(),
                Err(Unclear(error.to_string())),
            );
        }
    };
    request.headers_mut().extend(headers);
    match people.client(who).send(request).await {
        Ok(answer) => {
            let (head, body) = answer.into_parts();
            let answered = head.status.as_u16().to_string();
            Exchange::new(asked, answered, Ok((head.status, body)))
        }
        Err(error) => {
            let reason = error.to_string();
            Exchange::new(asked, reason.clone(), Err(Unclear(reason)))
        }
    }
}

pub(super) fn stored(status: StatusCode) -> Result<Stored, Unclear> {
    match status.as_u16() {
        200 | 201 | 202 | 204 => Ok(Stored::Accepted),
        409 | 412 => Ok(Stored::Exists),
        _ => refusal(status).map(Stored::Refused),
    }
}

pub(super) fn loaded(status: StatusCode, body: Bytes) -> Result<Loaded, Unclear> {
    match status.as_u16() {
        200 => Ok(Loaded::Bytes(body)),
        204 | 404 | 410 => Ok(Loaded::Nothing),
        _ => refusal(status).map(Loaded::Refused),
    }
}

/// What a status means that is neither success nor a plain miss.
pub(super) fn refusal(status: StatusCode) -> Result<Refusal, Unclear> {
    match status.as_u16() {
        401 => Ok(Refusal::Unauthenticated),
        408 | 429 => Err(Unclear(format!("the server is overloaded ({status})"))),
        400..=499 => Ok(Refusal::Forbidden),
        300..=399 => Err(Unclear(format!(
            "the server sends clients elsewhere ({status}), which is not followed"
        ))),
        _ => Err(Unclear(format!("the server answered {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read_as_clients_of_nx_read_them() {
        let status = |code| StatusCode::from_u16(code).unwrap();
        for code in [200, 201, 202, 204] {
            assert_eq!(stored(status(code)), Ok(Stored::Accepted), "{code}");
        }
        assert_eq!(stored(status(409)), Ok(Stored::Exists));
        let unauthenticated = Refusal::Unauthenticated;
        assert_eq!(stored(status(401)), Ok(Stored::Refused(unauthenticated)));
        for code in [400, 403, 404, 405, 413] {
            let refused = Stored::Refused(Refusal::Forbidden);
            assert_eq!(stored(status(code)), Ok(refused), "{code}");
        }
        for code in [301, 307, 408, 429, 500, 502, 503] {
            assert!(stored(status(code)).is_err(), "{code}");
            assert!(loaded(status(code), Bytes::new()).is_err(), "{code}");
        }
        assert_eq!(loaded(status(404), Bytes::new()), Ok(Loaded::Nothing));
        let body = Bytes::from_static(b"hello");
        assert_eq!(loaded(status(200), body.clone()), Ok(Loaded::Bytes(body)));
    }

    #[test]
    fn an_archive_is_a_tar_file_in_gzip_that_says_where_it_comes_from() {
        let packed = NxCache::archive("creep-check: hello");
        let visible = packed.windows(11).any(|bytes| bytes == b"creep-check");
        assert!(visible);
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&packed[..]));
        let mut entries = archive.entries().unwrap();
        let mut text = String::new();
        let mut entry = entries.next().unwrap().unwrap();
        std::io::Read::read_to_string(&mut entry, &mut text).unwrap();
        assert_eq!(text, "creep-check: hello");
        assert_eq!(packed, NxCache::archive("creep-check: hello"));
    }
}
