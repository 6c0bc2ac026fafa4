//! Google Cloud Storage, as far as its documents say what it does.
//!
//! There is no server to be had that speaks its XML API with preconditions: fake-gcs-server 1.56 knows neither
//! `x-goog-if-generation-match` nor multipart there. So this is a stand-in of ours over a map, written from
//! <https://cloud.google.com/storage/docs/xml-api/reference-methods>. It shows that what goes out is what those pages ask for; that
//! Google's servers do what the pages say it cannot show.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use larder_bucket::link::{BucketOptions, BucketUrl, Link, LinkError, Trouble};

use crate::contract;

const TOKEN: &str = "a-token-of-the-test";
const MODIFIED: &str = "Sat, 21 Nov 2026 12:00:00 GMT";

#[tokio::test]
async fn the_contract_holds_for_googles_protocol() {
    let address = serve().await;
    contract::holds_for(&open(address, "gs://builds/some/where", TOKEN)).await;
    contract::denies_the_wrong_credentials(&open(address, "gs://builds", "another")).await;
    let missing = open(address, "gs://nowhere", TOKEN).get("v1/a", 10).await;
    assert_eq!(
        missing.as_ref().err().and_then(LinkError::trouble),
        Some(Trouble::Failed),
        "{missing:?}"
    );
}

fn open(address: SocketAddr, url: &str, token: &str) -> Link {
    let options = BucketOptions {
        endpoint: Some(format!("http://{address}")),
        environment: vec![("GOOGLE_BEARER_TOKEN".to_owned(), token.to_owned())],
        ..BucketOptions::default()
    };
    let url: BucketUrl = url.parse().unwrap();
    Link::open(&url, &options, None).unwrap()
}

/// Serves the bucket `builds` until the test ends.
async fn serve() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let bucket = Arc::new(Mutex::new(Bucket::default()));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let bucket = Arc::clone(&bucket);
            let service = service_fn(move |request: Request<Incoming>| {
                let bucket = Arc::clone(&bucket);
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect().await?.to_bytes();
                    let answer = bucket.lock().unwrap().answer(&head, body);
                    Ok::<_, hyper::Error>(answer)
                }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), service),
            );
        }
    });
    address
}

/// Names to generations and bytes; uploads to their parts.
#[derive(Default)]
struct Bucket {
    objects: BTreeMap<String, (u64, Bytes)>,
    uploads: BTreeMap<String, BTreeMap<u32, Bytes>>,
    numbers: u64,
}

type Answer = Response<Full<Bytes>>;

impl Bucket {
    fn answer(&mut self, head: &http::request::Parts, body: Bytes) -> Answer {
        let authorization = head
            .headers
            .get("authorization")
            .map(http::HeaderValue::as_bytes);
        if authorization != Some(format!("Bearer {TOKEN}").as_bytes()) {
            return refused(StatusCode::UNAUTHORIZED, "AuthenticationRequired");
        }
        let path = decoded(head.uri.path());
        let Some(rest) = path.strip_prefix("/builds") else {
            return refused(StatusCode::NOT_FOUND, "NoSuchBucket");
        };
        let name = rest.trim_start_matches('/');
        let (upload, part) = (query(&head.uri, "uploadId"), query(&head.uri, "partNumber"));
        match (&head.method, upload, part) {
            (&Method::GET, ..) if name.is_empty() => self.list(&head.uri),
            (&Method::GET, ..) => self.read(name, &head.headers),
            (&Method::DELETE, Some(upload), _) => {
                self.uploads.remove(&upload);
                plain(StatusCode::NO_CONTENT)
            }
            (&Method::DELETE, ..) => match self.objects.remove(name) {
                Some(_) => plain(StatusCode::NO_CONTENT),
                None => refused(StatusCode::NOT_FOUND, "NoSuchKey"),
            },
            (&Method::PUT, Some(upload), Some(part)) => self.part(&upload, &part, body),
            (&Method::PUT, ..) => self.put(name, &head.headers, body),
            (&Method::POST, Some(upload), _) => self.complete(name, &upload),
            (&Method::POST, None, _) if query(&head.uri, "uploads").is_some() => self.begin(),
            _ => refused(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        }
    }

    fn store(&mut self, name: &str, body: Bytes) -> u64 {
        self.numbers += 1;
        self.objects.insert(name.to_owned(), (self.numbers, body));
        self.numbers
    }

    fn put(&mut self, name: &str, headers: &HeaderMap, body: Bytes) -> Answer {
        let wanted = headers
            .get("x-goog-if-generation-match")
            .map(|value| value.to_str().unwrap());
        let generation = self
            .objects
            .get(name)
            .map_or(0, |(generation, _)| *generation);
        if wanted.is_some_and(|wanted| wanted != generation.to_string()) {
            return refused(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
        }
        let body = match headers.get("x-goog-copy-source") {
            None => body,
            Some(source) => {
                let source = decoded(source.to_str().unwrap());
                let found = source
                    .strip_prefix("builds/")
                    .and_then(|from| self.objects.get(from));
                match found {
                    Some((_, body)) => body.clone(),
                    None => return refused(StatusCode::NOT_FOUND, "NoSuchKey"),
                }
            }
        };
        let generation = self.store(name, body);
        tagged(StatusCode::OK, generation)
            .body(Full::default())
            .unwrap()
    }

    fn read(&self, name: &str, headers: &HeaderMap) -> Answer {
        let Some((generation, body)) = self.objects.get(name) else {
            return refused(StatusCode::NOT_FOUND, "NoSuchKey");
        };
        let range = headers.get("range").map(|range| {
            let range = range.to_str().unwrap().strip_prefix("bytes=").unwrap();
            let (first, last) = range.split_once('-').unwrap();
            (
                first.parse::<usize>().unwrap(),
                last.parse::<usize>().unwrap(),
            )
        });
        let Some((first, last)) = range else {
            return tagged(StatusCode::OK, *generation)
                .body(Full::new(body.clone()))
                .unwrap();
        };
        if first >= body.len() {
            return refused(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange");
        }
        let end = (last + 1).min(body.len());
        tagged(StatusCode::PARTIAL_CONTENT, *generation)
            .header(
                "content-range",
                format!("bytes {first}-{}/{}", end - 1, body.len()),
            )
            .body(Full::new(body.slice(first..end)))
            .unwrap()
    }

    fn begin(&mut self) -> Answer {
        self.numbers += 1;
        let upload = format!("upload-{}", self.numbers);
        let xml = format!(
            "<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
        );
        self.uploads.insert(upload, BTreeMap::new());
        Response::new(Full::from(xml))
    }

    fn part(&mut self, upload: &str, part: &str, body: Bytes) -> Answer {
        match self.uploads.get_mut(upload) {
            Some(parts) => {
                parts.insert(part.parse().unwrap(), body);
                tagged(StatusCode::OK, 1).body(Full::default()).unwrap()
            }
            None => refused(StatusCode::NOT_FOUND, "NoSuchUpload"),
        }
    }

    fn complete(&mut self, name: &str, upload: &str) -> Answer {
        let Some(parts) = self.uploads.remove(upload) else {
            return refused(StatusCode::NOT_FOUND, "NoSuchUpload");
        };
        let whole: Vec<u8> = parts.into_values().flatten().collect();
        let generation = self.store(name, Bytes::from(whole));
        let xml =
            "<CompleteMultipartUploadResult><ETag>\"1\"</ETag></CompleteMultipartUploadResult>";
        tagged(StatusCode::OK, generation)
            .body(Full::from(xml))
            .unwrap()
    }

    /// Pages of 300, so that one of the caller's takes several.
    fn list(&self, uri: &Uri) -> Answer {
        const NAMES: usize = 300;
        let prefix = query(uri, "prefix").unwrap_or_default();
        let after = query(uri, "continuation-token")
            .or(query(uri, "start-after"))
            .unwrap_or_default();
        let mut names = self.objects.range(after.clone()..);
        let mut xml = "<ListBucketResult>".to_owned();
        let mut last = None;
        let fits = |name: &&String| name.starts_with(&prefix) && **name > after;
        for (name, (_, body)) in names.by_ref().filter(|(name, _)| fits(name)).take(NAMES) {
            let (bytes, modified) = (body.len(), "2026-11-21T12:00:00Z");
            write!(xml, "<Contents><Key>{name}</Key><Size>{bytes}</Size><LastModified>{modified}</LastModified></Contents>").unwrap();
            last = Some(name);
        }
        if let (Some(last), true) = (last, names.any(|(name, _)| fits(&name))) {
            write!(xml, "<NextContinuationToken>{last}</NextContinuationToken>").unwrap();
        }
        Response::new(Full::from(xml + "</ListBucketResult>"))
    }
}

fn tagged(status: StatusCode, generation: u64) -> http::response::Builder {
    Response::builder()
        .status(status)
        .header("etag", format!("\"{generation}\""))
        .header("last-modified", MODIFIED)
        .header("x-goog-generation", generation)
}

fn plain(status: StatusCode) -> Answer {
    Response::builder()
        .status(status)
        .body(Full::default())
        .unwrap()
}

fn refused(status: StatusCode, code: &str) -> Answer {
    let xml =
        format!("<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>");
    Response::builder()
        .status(status)
        .body(Full::from(xml))
        .unwrap()
}

fn query(uri: &Uri, key: &str) -> Option<String> {
    let mut pairs = uri
        .query()?
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs
        .find(|(name, _)| *name == key)
        .map(|(_, value)| decoded(value))
}

fn decoded(text: &str) -> String {
    let mut pieces = text.split('%');
    let mut plain = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        plain.push(u8::from_str_radix(&piece[..2], 16).unwrap());
        plain.extend_from_slice(&piece.as_bytes()[2..]);
    }
    String::from_utf8(plain).unwrap()
}
