//! What can go wrong, by what the caller can do about it.
//!
//! The libraries below say it in chains of errors, some of them without a public type; here they are read once. No error
//! has anything of a request or an answer but the host.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use hyper_util::client::legacy::Error as LegacyError;
use rustls::CertificateError;

use crate::addresses::LinkLocal;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The request's URI is not one that can be asked. It is not repeated: it may have a password in it.
    #[error("the URL must be http:// or https://, with a host and without a user's name")]
    Url,
    /// Nothing was sent.
    #[error("cannot connect to {peer}: {problem}")]
    Connect {
        /// `host:port`.
        peer: String,
        /// Why.
        problem: ConnectProblem,
    },
    /// The exchange was not over in time.
    #[error("no whole answer from {peer} within {} s", limit.as_secs_f32())]
    TimedOut {
        /// `host:port`.
        peer: String,
        /// How long it was given.
        limit: Duration,
    },
    /// The answer's body was not read to its end.
    #[error("the answer of {peer} is larger than {limit} bytes")]
    AnswerTooLarge {
        /// `host:port`.
        peer: String,
        /// How many bytes it may have.
        limit: usize,
    },
    /// The request may have arrived; the answer did not, or not whole, or it was not HTTP.
    #[error("the exchange with {peer} broke off: {reason}")]
    BrokenOff {
        /// `host:port`.
        peer: String,
        /// What the libraries say.
        reason: String,
    },
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectProblem {
    /// The host's name has no address.
    #[error("its name cannot be resolved")]
    NoSuchName,
    /// Every address of it is link-local, or one at which a cloud answers its own machines.
    #[error(
        "its address is link-local, or a cloud's for its own machines, and those are not asked"
    )]
    LinkLocal,
    /// Nobody listens there.
    #[error("connection refused")]
    Refused,
    /// The certificate leads to no authority that is trusted.
    #[error("its certificate is from an unknown issuer")]
    UnknownIssuer,
    /// The certificate is another host's.
    #[error("its certificate is for another name")]
    WrongName,
    /// The certificate's time is over, or has not come.
    #[error("its certificate is not valid at this time")]
    WrongTime,
    /// What answered does not speak TLS.
    #[error("it does not speak TLS")]
    NotTls,
    /// The server ended the handshake, with this alert: `HandshakeFailure`, `CertificateRequired` and so on.
    #[error("it refused the TLS connection ({0})")]
    TlsRefused(String),
    /// Anything else, in the words of the libraries.
    #[error("{0}")]
    Other(String),
}

/// Why there is no client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OptionsError {
    /// A text among `extra_roots_pem` is not what it should be.
    #[error("these are no certificates in PEM form that can be trusted: {0}")]
    Roots(String),
    /// `identity_pem` is not what it should be.
    #[error("this is no private key with its certificate in PEM form: {0}")]
    Identity(String),
    /// `user_agent` cannot be a header.
    #[error("{0:?} cannot be sent as the user agent")]
    UserAgent(String),
}

impl ClientError {
    /// Why a request to `peer` (`host:port`) has no answer.
    pub fn of_request(peer: &str, error: &LegacyError) -> Self {
        if error.is_connect() {
            Self::Connect {
                peer: peer.to_owned(),
                problem: ConnectProblem::read(error),
            }
        } else {
            Self::broken_off(peer, error)
        }
    }

    pub(crate) fn broken_off(peer: &str, error: &(dyn StdError + 'static)) -> Self {
        Self::BrokenOff {
            peer: peer.to_owned(),
            reason: innermost(error),
        }
    }
}

impl ConnectProblem {
    fn read(error: &(dyn StdError + 'static)) -> Self {
        let mut link = Some(error);
        while let Some(error) = link {
            if error.downcast_ref::<LinkLocal>().is_some() {
                return Self::LinkLocal;
            }
            link = cause(error);
        }
        let mut link = Some(error);
        while let Some(error) = link {
            if let Some(tls) = error.downcast_ref::<rustls::Error>() {
                return Self::of_tls(tls);
            }
            // The connector's own error type is private; its text is all that tells a name's look-up from the rest.
            if error.to_string().starts_with("dns error") {
                return Self::NoSuchName;
            }
            let refused = |io: &io::Error| io.kind() == io::ErrorKind::ConnectionRefused;
            if error.downcast_ref::<io::Error>().is_some_and(refused) {
                return Self::Refused;
            }
            link = cause(error);
        }
        Self::Other(innermost(error))
    }

    fn of_tls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(certificate) => match certificate {
                // A bad signature is that of an authority with the name, but not the key, of one that is trusted.
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    Self::UnknownIssuer
                }
                CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. } => Self::WrongName,
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Self::WrongTime,
                other => Self::Other(other.to_string()),
            },
            rustls::Error::InvalidMessage(_) => Self::NotTls,
            rustls::Error::AlertReceived(alert) => Self::TlsRefused(format!("{alert:?}")),
            other => Self::Other(other.to_string()),
        }
    }
}

/// What `error` wraps. An `io::Error` hides what it wraps from `source`, which passes it over.
fn cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
    {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}

/// The words of the error at the end of the chain: those in front of it say only that there is one.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut last = error;
    while let Some(next) = cause(last) {
        last = next;
    }
    last.to_string()
}
