//! Unary calls and one-message uploads of gRPC, over the HTTP client.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderValue, Request};
use larder_grpc::{Code, Unary, frame};
use larder_proto::Message;

use super::exchange::{Exchange, Refusal, Unclear};
use super::nx;
use super::people::{People, Who};

/// The most bytes of an answer's message. What is asked for here has some hundred.
pub(super) const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// How many characters of a server's explanation are shown.
const EXPLANATION_CHARACTERS_MAX: usize = 120;

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Called<T> {
    Ok(T),
    NotFound,
    AlreadyExists,
    Refused(Refusal),
}

/// Calls `path` of the server at `url` with one message, and reads one.
pub(super) async fn call<A: Message + Default>(
    people: &People,
    who: Who,
    url: &str,
    path: &str,
    message: &impl Message,
    mut headers: HeaderMap,
) -> Exchange<Called<A>> {
    let asked = path.rsplit('/').next().unwrap_or(path).to_owned();
    people.sign(who, &mut headers);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    let request = Request::post(format!("{url}{path}")).body(frame(&message.encode_to_vec()));
    let mut request = match request {
        Ok(request) => request,
        Err(error) => {
            let unclear = Unclear(error.to_string());
            return Exchange::new(asked, "not sent".to_owned(), Err(unclear));
        }
    };
    request.headers_mut().extend(headers);
    match people.client(who).send_for_trailers(request).await {
        Err(error) => {
            let reason = error.to_string();
            Exchange::new(asked, reason.clone(), Err(Unclear(reason)))
        }
        Ok((answer, trailers)) => {
            let (head, body) = answer.into_parts();
            let status = status_of(&trailers).or_else(|| status_of(&head.headers));
            let Some((code, explanation)) = status else {
                let meaning = nx::refusal(head.status).map(Called::Refused);
                let answered = format!("HTTP {} without a gRPC status", head.status.as_u16());
                return Exchange::new(asked, answered, meaning);
            };
            let answered = match &*explanation {
                "" => code.name().to_owned(),
                explanation => format!("{} ({explanation})", code.name()),
            };
            let meaning = read(code, &answered, body);
            Exchange::new(asked, answered, meaning)
        }
    }
}

fn read<A: Message + Default>(
    code: Code,
    answered: &str,
    body: Bytes,
) -> Result<Called<A>, Unclear> {
    match of_code(code) {
        None => Err(Unclear(format!("the server answered {answered}"))),
        Some(Called::Ok(())) => {
            let mut unary = Unary::new(MESSAGE_BYTES_MAX);
            let message = unary.push(body).and_then(|()| unary.finish());
            let message = message.map_err(|status| Unclear(status.to_string()))?;
            let answer = A::decode(message).map_err(|error| Unclear(error.to_string()))?;
            Ok(Called::Ok(answer))
        }
        Some(Called::NotFound) => Ok(Called::NotFound),
        Some(Called::AlreadyExists) => Ok(Called::AlreadyExists),
        Some(Called::Refused(refusal)) => Ok(Called::Refused(refusal)),
    }
}

/// What a code means; `None` for trouble.
pub(super) fn of_code(code: Code) -> Option<Called<()>> {
    match code {
        Code::Ok => Some(Called::Ok(())),
        Code::NotFound => Some(Called::NotFound),
        Code::AlreadyExists => Some(Called::AlreadyExists),
        Code::Unauthenticated => Some(Called::Refused(Refusal::Unauthenticated)),
        Code::PermissionDenied
        | Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented => Some(Called::Refused(Refusal::Forbidden)),
        Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => None,
    }
}

/// The code with this number, if there is one.
pub(super) fn code_of(number: i32) -> Option<Code> {
    let codes: BTreeMap<i32, Code> = Code::ALL
        .into_iter()
        .map(|code| (i32::from(code.number()), code))
        .collect();
    codes.get(&number).copied()
}

/// The status in `headers`, and what the server says about it.
fn status_of(headers: &HeaderMap) -> Option<(Code, String)> {
    let number = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let explanation = headers
        .get("grpc-message")
        .map(|message| String::from_utf8_lossy(message.as_bytes()).into_owned())
        .unwrap_or_default();
    let explanation = explanation
        .chars()
        .take(EXPLANATION_CHARACTERS_MAX)
        .collect();
    Some((code_of(number)?, explanation))
}
