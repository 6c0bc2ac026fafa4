//! Client certificates: the names in one that TLS has verified, and the rules that map a name to what its bearer may do.
//!
//! Whether a certificate is signed by the client authority, is in force and belongs to the connection's peer is for TLS to say.
//! Here only subject alternative names count; a common name maps to nothing.

use std::net::IpAddr;

use larder_model::{Access, WorkspaceName};

/// One subject alternative name. Names compare exactly, but for host names, in which case does not count.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum San {
    /// A host name, in lower case. Made by [`San::dns`].
    Dns(String),
    /// A URI, such as a SPIFFE id.
    Uri(String),
    /// An electronic mail address.
    Email(String),
    /// An address of the Internet Protocol.
    Ip(IpAddr),
}

impl San {
    /// A host name. A wildcard is a name like any other and stands for itself.
    pub fn dns(name: &str) -> Self {
        Self::Dns(name.to_ascii_lowercase())
    }
}

/// What the verified certificate of a connection's peer says of its bearer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateNames {
    /// The names that rules can map.
    pub subject_alternative_names: Vec<San>,
    /// When the certificate ends, in unix milliseconds. TLS has looked once; a connection may live longer.
    pub not_after_ms: u64,
}

/// Whoever holds a certificate with this name may do this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRule {
    /// The rule's name in the configuration.
    pub name: String,
    /// The workspace the certificate belongs to.
    pub workspace: WorkspaceName,
    /// The name that a certificate must have.
    pub san: San,
    /// What its bearer may do.
    pub access: Access,
}

/// A rule and the number that its bearers' entries remember as their writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateGrant {
    /// The rule.
    pub rule: CertificateRule,
    /// The writer's number in the ledger.
    pub writer: u64,
}
