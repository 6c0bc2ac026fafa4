//! The clients of the Remote Execution API, and where they need an answer of their own.
//!
//! Who calls is what `RequestMetadata` says, else the user agent; nobody has to say anything, and nothing but the quirks here
//! depends on it: never what a caller may do.
//!
//! Needed by a client and given to all, because it is within the specification:
//!
//! | what | for |
//! |---|---|
//! | each answer of `BatchReadBlobs` has an explicit status | Pants 2.x takes an absent one for `unknown error` |
//! | each request of `BatchUpdateBlobs`, duplicates too, has its answer | moon counts them, and drops its result if one is missing |
//! | `max_batch_total_size_bytes` is a number, and below 4 MiB | moon 2.4.0 to 2.4.3 read 0 as 4 MiB and took the refusal for a full disk; Buck2 and gRPC libraries refuse answers above 4 MiB |
//! | uploads have no state beyond their stream | moon uses one UUID for all uploads of a process |
//! | messages of 8 KiB as well as of many MiB | moon's zstd streams; Bazel sends 16 KiB |
//! | resource names with a slash in front | moon with an empty instance name |
//! | a resource name in each message, or an empty one after the first | Pants repeats it, others do not |
//! | `committed_size` of a new compressed blob counts the bytes sent, and is -1 for one that existed | Bazel up to 9.0, Buck2 |
//! | nothing asks that the action itself has been uploaded, or what it is | moon 2.4.0 to 2.4.3 do not; moon's is JSON |

use http::HeaderMap;
use http::header::USER_AGENT;
use larder_cache::Encoding;
use larder_model::Refusal;

use super::capabilities::BATCH_BYTES_MAX;
use super::request_metadata::{self, RequestMetadata};

/// The longest message that a gRPC client takes if nobody told it otherwise.
const MESSAGE_BYTES_USUAL: usize = 4 << 20;

/// The user agent of moon 1.41.7. That of 2.4.3 and 2.5.5 says 0.14.6.
const MOON_1_AGENT: &[u8] = b"moon tonic/0.14.2";

/// A tool that is told from others in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tool {
    Bazel,
    Buck2,
    Buildstream,
    BuildboxCasd,
    Moon,
    Pants,
    Please,
    Recc,
    Siso,
    Other,
}

/// By the beginning of a tool's name or user agent, lower case. The first that fits counts: casd appends itself to the name
/// of the tool it speaks for.
const NAMES: [(&str, Tool); 12] = [
    ("bazel", Tool::Bazel),
    ("buck2", Tool::Buck2),
    ("buildstream", Tool::Buildstream),
    ("bst", Tool::Buildstream),
    ("moon", Tool::Moon),
    ("pants", Tool::Pants),
    ("please", Tool::Please),
    ("recc", Tool::Recc),
    ("siso", Tool::Siso),
    ("buildbox-casd", Tool::BuildboxCasd),
    ("(via buildbox-casd)", Tool::BuildboxCasd),
    ("buildbox", Tool::BuildboxCasd),
];

impl Tool {
    /// The tool's name in metrics and logs.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bazel => "bazel",
            Self::Buck2 => "buck2",
            Self::Buildstream => "buildstream",
            Self::BuildboxCasd => "buildbox-casd",
            Self::Moon => "moon",
            Self::Pants => "pants",
            Self::Please => "please",
            Self::Recc => "recc",
            Self::Siso => "siso",
            Self::Other => "other",
        }
    }

    fn of(name: &[u8]) -> Option<Self> {
        let name = name.trim_ascii();
        let begins = |with: &str| {
            let start = name.get(..with.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()))
        };
        let found = NAMES.iter().find(|(with, _)| begins(with));
        found.map(|(_, tool)| *tool)
    }
}

/// Who calls, as far as it says so.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) tool: Tool,
    /// The first two numbers of the tool's version.
    version: Option<(u32, u32)>,
    /// moon says no version, but that of its gRPC library.
    is_moon_1: bool,
    metadata: Option<bytes::Bytes>,
}

impl Client {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let sent = request_metadata::sent(headers);
        let read = sent.as_deref().map(RequestMetadata::read);
        let agent = || headers.get(USER_AGENT).map(http::HeaderValue::as_bytes);
        let tool = read
            .as_ref()
            .and_then(|read| Tool::of(read.tool_name.as_bytes()))
            .or_else(|| Tool::of(agent()?))
            .unwrap_or(Tool::Other);
        let version = read.as_ref().and_then(|read| version(read.tool_version));
        let is_moon_1 = agent().is_some_and(|agent| agent == MOON_1_AGENT);
        Self {
            tool,
            version,
            is_moon_1,
            metadata: sent,
        }
    }

    /// What the client says of the call.
    pub(super) fn metadata(&self) -> RequestMetadata<'_> {
        self.metadata
            .as_deref()
            .map(RequestMetadata::read)
            .unwrap_or_default()
    }

    /// What `update_enabled` says to a caller that policy refuses writes.
    ///
    /// Bazel before 6.0 (seen: 4.2.3) takes `false` for an error: `--remote_upload_local_results is set, but the current
    /// account is not authorized to write local results to the remote cache`, and there is no build. It is told `true`; its
    /// writes are refused like anybody's, which it prints as warnings. Since 6.0 Bazel stops uploading by itself. A Bazel without
    /// a version (Debian's 4.2.3) counts as old: a new one would lose nothing but the upload that is refused.
    ///
    /// moon 1 (seen: 1.41.7) takes `false` for a cache without action results and does not even read from it. Told `true`, it
    /// prints one warning for what is refused.
    pub(super) fn update_enabled(&self, refused: Refusal) -> bool {
        let is_old_bazel = self.tool == Tool::Bazel && self.version.is_none_or(|at| at < (6, 0));
        match refused {
            Refusal::Anonymous | Refusal::ReadOnly => is_old_bazel || self.is_moon_1,
            // Loud at `GetCapabilities` already.
            Refusal::ControlPlaneOnly
            | Refusal::NotAdmin
            | Refusal::LabelNeedsIsolated
            | Refusal::TooDeep => false,
        }
    }

    /// The most bytes of the answer to a batch of reads, with all that is around the blobs.
    ///
    /// gRPC libraries refuse a message above 4 MiB unless they are told otherwise. Buck2 counts the bytes of blobs alone into its
    /// batches, fails for any blob that it does not get, and takes twice the batch limit.
    pub(super) fn batch_answer_bytes_max(&self) -> usize {
        if self.tool == Tool::Buck2 {
            2 * BATCH_BYTES_MAX
        } else {
            MESSAGE_BYTES_USUAL
        }
    }

    /// `committed_size` of an upload whose blob exists now. `sent` bytes arrived; `None`: it had existed, and they were not needed.
    ///
    /// Identity: the blob's size, both ways; Pants compares it. Compressed: what was sent, or -1, which Bazel up to 9.0 and Buck2
    /// ask for. Siso (from the text of Bazel's pull request 30000) takes the uncompressed size alone, Bazel with that change both.
    pub(super) fn committed_size(&self, encoding: Encoding, size: u64, sent: Option<u64>) -> i64 {
        match encoding {
            Encoding::Identity => size.cast_signed(),
            Encoding::Zstd if self.tool == Tool::Siso => size.cast_signed(),
            Encoding::Zstd => sent.map_or(-1, u64::cast_signed),
        }
    }
}

/// The first two numbers of a text like `4.2.3`, `4.2.3-debian`, `release 7.0` or `6.0.0rc1`.
fn version(text: &str) -> Option<(u32, u32)> {
    let text = text.trim_start_matches(|char: char| !char.is_ascii_digit());
    let mut numbers = text.split(|char: char| !char.is_ascii_digit());
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next().and_then(|minor| minor.parse().ok());
    Some((major, minor.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reapi::request_metadata::tests::header;

    fn client(tool: &str, version: &str) -> Client {
        let mut headers = HeaderMap::new();
        let (name, value) = header(&[tool, version], &[]);
        headers.insert(name, value);
        Client::of(&headers)
    }

    #[test]
    fn a_tool_is_known_by_its_metadata_and_else_by_its_user_agent() {
        for (name, tool) in [
            ("bazel", Tool::Bazel),
            ("Bazel", Tool::Bazel),
            ("bazel (via buildbox-casd)", Tool::Bazel),
            (" (via buildbox-casd)", Tool::BuildboxCasd),
            ("buildbox-casd", Tool::BuildboxCasd),
            ("buck2", Tool::Buck2),
            ("BuildStream", Tool::Buildstream),
            ("recc:1.2", Tool::Recc),
            ("", Tool::Other),
            ("moo", Tool::Other),
        ] {
            assert_eq!(client(name, "1").tool, tool, "{name}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, "moon tonic/0.14.6".parse().unwrap());
        assert_eq!(Client::of(&headers).tool, Tool::Moon);
        let (name, value) = header(&["recc", "1"], &[]);
        headers.insert(name, value);
        assert_eq!(Client::of(&headers).tool, Tool::Recc);
        assert_eq!(Client::of(&HeaderMap::new()).tool, Tool::Other);
    }

    #[test]
    fn bazel_before_six_alone_is_told_that_it_may_write() {
        for (tool, version, expected) in [
            ("bazel", "4.2.3", true),
            ("bazel", "4.2.3- (@non-git)", true),
            ("bazel", "release 5.4.1", true),
            ("bazel", "6.0.0", false),
            ("bazel", "6.0.0rc1", false),
            ("bazel", "10.1.0", false),
            ("bazel", "", true),
            ("bazel", "99999999999999999.1", true),
            ("recc", "1.2", false),
        ] {
            let client = client(tool, version);
            for refused in [Refusal::ReadOnly, Refusal::Anonymous] {
                assert_eq!(client.update_enabled(refused), expected, "{tool} {version}");
            }
            assert!(!client.update_enabled(Refusal::ControlPlaneOnly));
        }
    }

    #[test]
    fn each_client_gets_the_committed_size_it_takes() {
        use Encoding::{Identity, Zstd};
        for (tool, encoding, sent, expected) in [
            ("bazel", Identity, Some(100), 100),
            ("pants", Identity, None, 100),
            ("buck2", Zstd, Some(40), 40),
            ("bazel", Zstd, None, -1),
            ("siso", Zstd, Some(40), 100),
            ("siso", Zstd, None, 100),
        ] {
            let size = client(tool, "9.0").committed_size(encoding, 100, sent);
            assert_eq!(size, expected, "{tool} {encoding:?} {sent:?}");
        }
    }
}
