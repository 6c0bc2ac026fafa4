//! What the protocols tell the journal: one line at each place where a request turns out well or badly.

use http::{HeaderMap, Response, StatusCode};
use larder_auth::{BadCredential, Presented};
use larder_cache::Stored;
use larder_model::{Caller, Dialect, EntryKey, Principal};

use super::event::{Act, ActName, Actor, Refused, Written};
use crate::body::Body;
use crate::caller::{NoCaller, authorization};
use crate::excerpt::Excerpt;
use crate::gateway::{Gateway, Origin};
use crate::shown_key::ShownKey;
use crate::writer::Writer;

impl Writer<'_> {
    /// Takes down that an entry was stored: an assertion with its key, a blob without one. What exists already was not stored.
    pub(crate) fn note_stored(
        &self,
        stored: Stored,
        dialect: Dialect,
        key: Option<&EntryKey>,
        bytes: u64,
    ) {
        match stored {
            Stored::New => {}
            Stored::Exists => return,
        }
        self.gateway.journal.record(Written {
            key: key.cloned(),
            address: self.origin.address(),
            ..Written::new(&self.grant, dialect, bytes, self.gateway.now_ms())
        });
    }

    /// Takes down that an entry of a trusted writer is stored although it is hostile. What the sender called it is cut like in a log line.
    pub(crate) fn note_flagged(&self, dialect: Dialect, key: &EntryKey, fault: &str, entry: &str) {
        let mut details = serde_json::Map::new();
        details.insert("fault".to_owned(), fault.into());
        details.insert("entry".to_owned(), Excerpt(entry).to_string().into());
        let writer = Actor::Writer(self.grant.writer());
        self.gateway.journal.record(Act {
            workspace: Some(self.grant.workspace().clone()),
            scope: Some(self.grant.scope().to_string()),
            dialect: Some(dialect),
            key: Some(ShownKey::of(dialect, key).text),
            address: self.origin.address(),
            details,
            ..Act::new(ActName::Flagged, writer, self.gateway.now_ms())
        });
    }
}

impl Gateway {
    /// Takes down that a write was refused to `caller`, whom the credential names, whatever workspace the URL does. It is in order,
    /// or there is none, or nothing is taken down here.
    pub(crate) fn note_refused_write(
        &self,
        caller: &Result<Caller, NoCaller>,
        origin: &Origin,
        dialect: Dialect,
        reason: &'static str,
    ) {
        let principal = match caller {
            Ok(Caller::Known(principal)) => Some(principal),
            Ok(Caller::Anonymous { .. } | Caller::LocalOperator)
            | Err(NoCaller::OtherWorkspace | NoCaller::Expired) => None,
            Err(NoCaller::BadCredential(_)) => return,
        };
        self.journal.record(Refused {
            at_ms: self.now_ms(),
            reason,
            bad_credential: false,
            dialect: Some(dialect),
            workspace: principal.map(|it| it.workspace().clone()),
            writer: principal.map(Principal::writer),
            address: origin.address(),
        });
    }

    /// Takes down that an answer over HTTP says that the credential is bad, if it does.
    pub(crate) fn note_if_bad_credential(
        &self,
        headers: &HeaderMap,
        origin: &Origin,
        answer: &Response<Body>,
    ) {
        if answer.status() == StatusCode::UNAUTHORIZED
            && let Err(NoCaller::BadCredential(bad)) = self.caller(headers, None, origin)
        {
            self.note_bad_credential(bad, headers, origin);
        }
    }

    /// Takes down that a credential is bad, and whose it was, if it was somebody's.
    pub(crate) fn note_bad_credential(
        &self,
        bad: BadCredential,
        headers: &HeaderMap,
        origin: &Origin,
    ) {
        let reason = match bad {
            BadCredential::Unreadable => "unreadable",
            BadCredential::Malformed => "malformed",
            BadCredential::Unknown => "unknown_token",
            BadCredential::Expired => "expired_token",
            BadCredential::Revoked => "revoked_token",
            BadCredential::UnknownSession => "unknown_session",
            BadCredential::Certificate => "ambiguous_certificate",
            // Taken down with what is wrong with it when it was introduced.
            BadCredential::Jwt => return,
        };
        let presented = Presented {
            authorization: authorization(headers).ok().flatten(),
            certificate: None,
        };
        let bearer = self.authenticator.bearer_of_token(&presented);
        self.journal.record(Refused {
            at_ms: self.now_ms(),
            reason,
            bad_credential: true,
            dialect: None,
            workspace: bearer.as_ref().map(|it| it.workspace().clone()),
            writer: bearer.as_ref().map(Principal::writer),
            address: origin.address(),
        });
    }
}
