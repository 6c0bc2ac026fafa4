//! The one list of configuration keys.
//!
//! What is not in this list is an unknown key. The page `docs/config.md` and the names of the
//! environment variables are made from it, so none of the three can say something else.

/// One key as an operator knows it.
#[derive(Debug)]
pub(crate) struct KeySpec {
    /// The table the key is in. `workspace` stands for every `[workspace.NAME]`.
    pub(crate) section: &'static str,
    /// The key's name in its table.
    pub(crate) name: &'static str,
    /// What its value looks like.
    pub(crate) value: &'static str,
    /// The value it has when nobody sets it.
    pub(crate) default: &'static str,
    /// Whether SIGHUP applies a new value.
    pub(crate) reloads: bool,
    /// What it does.
    pub(crate) text: &'static str,
}

macro_rules! keys {
    ($($key:ident: $section:literal, $name:literal, $value:literal, $default:literal, $reloads:literal, $text:literal;)*) => {
        /// A configuration key.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Key { $($key),* }

        impl Key {
            /// Every key, in the order of the page.
            pub(crate) const ALL: &'static [Self] = &[$(Self::$key),*];

            /// What there is to know about the key.
            pub(crate) fn spec(self) -> &'static KeySpec {
                match self {
                    $(Self::$key => &KeySpec {
                        section: $section, name: $name, value: $value, default: $default,
                        reloads: $reloads, text: $text,
                    }),*
                }
            }
        }
    };
}

keys! {
    HttpListen: "http", "listen", "`ADDRESS:PORT` or `off`", "`127.0.0.1:9092`", false,
        "Where to listen for plain HTTP. Port 0 picks a free port. Anything but a loopback address needs `insecure_http`; other machines are what `[tls]` is for. `off` leaves TLS alone.";
    HttpBasePath: "http", "base_path", "path", "none", true,
        "A prefix of every path, for a reverse proxy that does not strip it, such as `/cache`.";
    HttpInsecureHttp: "http", "insecure_http", "`true` or `false`", "`false`", false,
        "Allow plain HTTP on an address that other machines can reach. Tokens then cross the network unencrypted unless a proxy or a private network protects them.";
    HttpMetrics: "http", "metrics", "`local` or `open`", "`local`", true,
        "Who may read `/metrics`: `local` is a process on this machine that did not come through a proxy, `open` everyone. With a proxy on this machine among the `trusted_proxies` nobody is local, as not every request shows that it came through it; then `/metrics` is at the control socket, or `open` and closed at the proxy. The figures name every workspace; what an admin token may know of its own is at `/v1/control/stats`.";
    HttpTrustedProxies: "http", "trusted_proxies", "list of networks", "`[]`", true,
        "The reverse proxies in front, such as `[\"10.0.0.0/8\"]`. From them, and nobody else, `X-Forwarded-For` says which address a request came from.";
    TlsListen: "tls", "listen", "`ADDRESS:PORT`", "`127.0.0.1:9443` with a certificate", false,
        "Where to listen for HTTPS, HTTP/2 and gRPC over TLS. Any address will do; `0.0.0.0:9443` is what other machines reach.";
    TlsCertificate: "tls", "certificate", "path", "none: no TLS", true,
        "The server's certificate and the chain below its authority, in PEM, the server's own first. Read again when it changes, without breaking a connection. Relative paths of this section count from the configuration's directory.";
    TlsKeyFile: "tls", "key", "path", "required with a certificate", true,
        "The certificate's private key, in PEM, without a passphrase.";
    TlsClientCa: "tls", "client_ca", "path", "none", true,
        "The authorities, in PEM, whose client certificates are believed. What a certificate may do is said in `[workspace.NAME.certificate.RULE]`.";
    TlsClientCertificates: "tls", "client_certificates", "`off`, `optional` or `required`", "`optional` with `client_ca`, else `off`", true,
        "Whether clients are asked for a certificate. `required` lets no connection in without one, of health checks neither.";
    TlsClientCrl: "tls", "client_crl", "path", "none", true,
        "Lists of revoked client certificates, in PEM. With them, every authority that issued one in a client's chain needs a list. A list that has expired goes on to count.";
    StoreDataDir: "store", "data_dir", "path", "`larder-data`", false,
        "Where everything is kept. A relative path in the file counts from the file's directory, elsewhere from the working directory.";
    StoreTrusted: "store", "trusted", "size or percent", "40% of the space available to Larder", true,
        "Budget of the shared pool of trusted entries. A percentage is of the whole disk. Never exceeded.";
    StoreUntrusted: "store", "untrusted", "size or percent", "10% of the space available to Larder", true,
        "Budget of the shared pool of untrusted entries: what pull requests and other isolated credentials write. They can never displace a trusted entry.";
    StoreDurability: "store", "durability", "`written` or `synced`", "`written`", false,
        "When an upload is acknowledged: `written` survives the death of the process at once and of the machine within seconds, `synced` survives power loss before it is acknowledged.";
    StoreLease: "store", "lease", "duration", "`1h`", false,
        "How long a blob that was reported present stays readable, whatever else is written. What untrusted callers ask for in the trusted pool stays as long as it holds back no more than a small part of it.";
    StoreFreeReserve: "store", "free_reserve", "size or percent", "`1GiB`, at most 5% of the disk", false,
        "Space of the disk that Larder leaves free, even when a budget is not used up.";
    BucketUrl: "bucket", "url", "`s3://BUCKET/PREFIX`, `gs://…`, `az://CONTAINER/…` or `file:///FOLDER`", "none: no bucket", false,
        "Where entries are kept besides this machine's disk, for all nodes of a deployment. A bucket that does not answer slows nothing down and breaks no build. See `docs/bucket.md`.";
    BucketAck: "bucket", "ack", "`local` or `bucket`", "`local`", false,
        "When an upload is acknowledged: `local` once it is on this machine's disk and queued for the bucket, `bucket` once every other node can find it. With `bucket`, what the bucket does not take is not stored, as far as the client knows.";
    BucketExpireAfter: "bucket", "expire_after", "duration", "`30d`", false,
        "How long an entry stays in the bucket that nobody uses, at least `1d`. What is used is written again once in half of this time. `larder bucket gc` deletes what has expired a day later.";
    BucketEndpoint: "bucket", "endpoint", "URL", "the cloud's own", false,
        "Where requests go instead, for another S3 server, a private endpoint or an emulator: `https://minio.example.com`.";
    BucketAddressing: "bucket", "addressing", "`path` or `virtual-host`", "`path` with an `endpoint`, else `virtual-host`", false,
        "`s3`: where the bucket's name is in a request, in its path or in its host.";
    BucketRegion: "bucket", "region", "text", "`AWS_REGION`, else `us-east-1`", false,
        "`s3`: the bucket's region.";
    BucketAccount: "bucket", "account", "text", "`AZURE_STORAGE_ACCOUNT_NAME`", false,
        "`az`: the storage account.";
    BucketEncryption: "bucket", "encryption", "`s3` or `kms:KEY`", "the bucket's own", false,
        "`s3`: with what objects are encrypted there: keys of S3's own (SSE-S3), or a key of the key management by its id, ARN or alias (SSE-KMS).";
    BucketCaFile: "bucket", "ca_file", "path", "none", false,
        "Certificate authorities (PEM) to trust for the bucket besides the system's. A relative path counts from the configuration's directory.";
    LimitsEntrySizeMax: "limits", "entry_size_max", "size", "`2GiB`", true,
        "The largest entry. A larger upload is refused in the way that breaks no build.";
    LimitsConnectionsMax: "limits", "connections_max", "number", "`65536`, at most what open files allow", false,
        "The most connections at a time. At the limit, idle ones are closed and new ones wait.";
    LimitsHeaderTimeout: "limits", "header_timeout", "duration", "`30s`", false,
        "How long a request's head may take from its first byte.";
    LimitsHeaderSizeMax: "limits", "header_size_max", "size", "`32KiB`", false,
        "The largest request head, at least `8KiB`.";
    LimitsIdleTimeout: "limits", "idle_timeout", "duration", "`10m`", false,
        "How long a connection may wait between requests. Keep it longer than clients keep idle connections themselves: one that asks at the moment of closing may fail its build.";
    LimitsStallTimeout: "limits", "stall_timeout", "duration", "`1m`", false,
        "How long a client may take nothing of an answer, or send nothing of a body, before it is dropped. A transfer that moves is not dropped, unless it is an upload of less than 1 KiB a second or, over HTTP/2, an answer of which less than 256 KiB are taken in this time.";
    LimitsDrainTimeout: "limits", "drain_timeout", "duration", "`30s`", true,
        "How long a stopping server waits for requests that have begun.";
    NxInspect: "nx", "inspect", "`all` or `untrusted`", "`all`", true,
        "Whose archives of Nx are unpacked and looked into while they are uploaded; those of untrusted writers always are. A trusted writer's archive is stored in any case, and inspection only tells that it is hostile; without it, the upload of a large archive takes a quarter to a third of the processor time.";
    LogFormat: "log", "format", "`auto`, `human` or `json`", "`auto`", false,
        "How log lines look on standard error. `auto` is `human` on a terminal and `json` elsewhere.";
    LogLevel: "log", "level", "`error`, `warn`, `info`, `debug` or `trace`", "`info`", true,
        "The least important lines to log.";
    IdentityAudience: "identity", "audience", "URL", "none", true,
        "The server's address as clients write it, such as `https://cache.example.com`. Identity tokens must have been made for it (`aud`). Needed as soon as there is a rule for CI jobs.";
    IdentitySessionTtlTrusted: "identity", "session_ttl_trusted", "duration", "`2h`", true,
        "How long a session lasts that writes trusted entries, at most `24h`. A client can ask for less.";
    IdentitySessionTtlUntrusted: "identity", "session_ttl_untrusted", "duration", "`6h`", true,
        "How long any other session lasts, at most `24h`.";
    IssuerUrl: "issuer", "url", "URL", "required", true,
        "The issuer, exactly as its tokens say (`iss`). A table is needed only for what differs from the defaults.";
    IssuerJwksFile: "issuer", "jwks_file", "path", "none", true,
        "A file with the issuer's public keys (a JWK set), for a server without a way to the issuer. Nothing is fetched then. A relative path counts from the configuration's directory.";
    IssuerJwksUrl: "issuer", "jwks_url", "URL", "what discovery says", true,
        "Where the issuer's public keys are, if its `/.well-known/openid-configuration` is not to be asked.";
    IssuerCaFile: "issuer", "ca_file", "path", "none", true,
        "Certificate authorities (PEM) to trust for this issuer besides the system's.";
    IssuerAlgorithms: "issuer", "algorithms", "list of `RS256`, `ES256`, `ES384`, `EdDSA`", "`[\"RS256\"]`", true,
        "The signature algorithms that its tokens may have.";
    IssuerAllowLinkLocal: "issuer", "allow_link_local", "`true` or `false`", "`false`", true,
        "Whether its keys may be fetched from a link-local address, or from one where clouds answer questions about their machines (`169.254.169.254` and others).";
    IssuerMaxTokenLifetime: "issuer", "max_token_lifetime", "duration", "`24h`", true,
        "The longest time between the making and the end of a token that is accepted, at most `24h`.";
    AuditRetention: "audit", "retention", "duration", "`90d`", true,
        "How long the audit keeps what was done, and the list of actions whose results differ.";
    AuditRows: "audit", "rows", "number", "`10000000`", true,
        "How many of the last rows of the audit are kept, whatever they are about; 200 to 400 bytes each. Of older ones, those about writes go. Builds decide how many of those there are.";
    AuditWriters: "audit", "writers", "duration", "`400d`", true,
        "How long a CI run or a certificate is remembered after it was last seen. What it stored after that names a writer that nobody can look up. Tokens are remembered for good.";
    WorkspacePublic: "workspace", "public", "`true` or `false`", "`false`", true,
        "Whether a client without a credential may read the workspace's trusted entries. Forks' CI has no secrets; in a public workspace it still gets hits.";
    WorkspaceTrusted: "workspace", "trusted", "size or percent", "the shared pool", true,
        "Budget of a trusted pool of the workspace's own, which no other workspace can fill or evict. Needs `untrusted` too. The budget can be changed while the server runs; getting or losing pools of its own takes a restart, and entries do not move.";
    WorkspaceUntrusted: "workspace", "untrusted", "size or percent", "the shared pool", true,
        "Budget of an untrusted pool of the workspace's own. Needs `trusted` too.";
    WorkspaceEntrySizeMax: "workspace", "entry_size_max", "size", "`limits.entry_size_max`", true,
        "The largest entry of this workspace.";
    CiProvider: "workspace.ci", "provider", "`github`, `gitlab`, `buildkite`, `circleci`, `azure-devops` or `custom`", "required", true,
        "Whose jobs they are. It decides which of the other keys apply; see `docs/ci.md`.";
    CiIssuer: "workspace.ci", "issuer", "URL or NAME of an `[issuer.NAME]`", "the provider's public one", true,
        "Who makes the jobs' identity tokens. `custom` has no default.";
    CiAudience: "workspace.ci", "audience", "text", "`identity.audience`", true,
        "What the tokens must have been made for instead. All rules of one issuer agree on it.";
    CiRepositoryId: "workspace.ci", "repository_id", "text or number", "required for `github`, `azure-devops`", true,
        "The repository's id, which is never given to another one.";
    CiRepositoryOwnerId: "workspace.ci", "repository_owner_id", "text or number", "required for `github`", true,
        "The number of the repository's owner.";
    CiRepository: "workspace.ci", "repository", "text", "none", true,
        "`github`: the repository's name, to notice when it was renamed. It decides nothing.";
    CiProjectId: "workspace.ci", "project_id", "text or number", "required for `gitlab`, `circleci`, `azure-devops`", true,
        "The project's number or UUID.";
    CiNamespaceId: "workspace.ci", "namespace_id", "text or number", "none", true,
        "`gitlab`: the namespace that the project has to be in.";
    CiProjectPath: "workspace.ci", "project_path", "text", "none", true,
        "`gitlab`: the project's path, to notice when it was moved. It decides nothing.";
    CiOrganizationId: "workspace.ci", "organization_id", "UUID", "required for `buildkite`, `circleci`, `azure-devops`", true,
        "The organization.";
    CiPipelineId: "workspace.ci", "pipeline_id", "UUID", "required for `buildkite`", true,
        "The pipeline.";
    CiDefinitionId: "workspace.ci", "definition_id", "text or number", "required for `azure-devops`", true,
        "The pipeline's definition, a number.";
    CiVcsOrigin: "workspace.ci", "vcs_origin", "text", "required for `circleci`", true,
        "The repository as CircleCI writes it, such as `github.com/acme/web`. Forks have another one.";
    CiForkBuilds: "workspace.ci", "fork_builds", "`enabled`, `disabled` or `prefixed`", "`enabled`: nothing is trusted", true,
        "`buildkite`: what the pipeline does with pull requests of forks. Buildkite's tokens do not say, and a fork's branch can have trunk's name.";
    CiAcceptSharedAudience: "workspace.ci", "accept_shared_audience", "`true` or `false`", "`false`", true,
        "`azure-devops`: must be `true`. Its tokens all have the same audience, so whoever gets one for another purpose can use it here.";
    CiTrustedRefs: "workspace.ci", "trusted_refs", "list", "`[]`", true,
        "The refs whose jobs write trusted entries, such as `refs/heads/main`.";
    CiTrustedEvents: "workspace.ci", "trusted_events", "list of `push`, `schedule`", "`[\"push\", \"schedule\"]`", true,
        "Which events of a trusted ref are trusted.";
    CiTrustedWorkflows: "workspace.ci", "trusted_workflows", "list", "`[]`: any", true,
        "`github`: the workflows that may write trusted entries, as `OWNER/REPO/.github/workflows/FILE`.";
    CiRequireRefProtected: "workspace.ci", "require_ref_protected", "`true` or `false`", "`true`", true,
        "`github`, `gitlab`: whether a trusted ref must be protected.";
    CiCreationRestricted: "workspace.ci", "creation_restricted", "`true` or `false`", "`false`", true,
        "`github`, `gitlab`: must be `true` for a pattern in `trusted_refs`. It is your word that the CI system lets only those create such refs whom you trust; tokens do not tell. See `docs/ci.md`.";
    CiDispatchTrusted: "workspace.ci", "dispatch_trusted", "`true` or `false`", "`false`", true,
        "`github`: whether a run that somebody started by hand on a trusted ref is trusted.";
    CiCleanRoomEnvironments: "workspace.ci", "clean_room_environments", "list", "`[]`", true,
        "Deployment environments whose trusted jobs read nothing.";
    CiCleanRoomWorkflows: "workspace.ci", "clean_room_workflows", "list", "`[]`", true,
        "`github`: workflows whose trusted jobs read nothing.";
    CiPullRequests: "workspace.ci", "pull_requests", "`isolated`, `read-only` or `none`", "`isolated`", true,
        "What jobs of pull requests get: a scope of their own, reading alone, or nothing.";
    CiIsolation: "workspace.ci", "isolation", "`pr`, `commit` or `run`", "`pr`", true,
        "What shares a pull request's scope: all its jobs, those of one commit, or those of one run.";
    CiClaims: "workspace.ci", "claims", "table of claims", "required for `custom`", true,
        "`custom`: what each of these claims must be, such as `{ project = \"7\", kind = [\"a\", \"b\"] }`, for a token to be this rule's.";
    CiTrustedClaims: "workspace.ci", "trusted_claims", "table of claims", "none: nothing is trusted", true,
        "`custom`: what claims must be besides for a job to write trusted entries.";
    CiRefClaim: "workspace.ci", "ref_claim", "text", "none", true,
        "`custom`: the claim with the ref.";
    CiRunClaim: "workspace.ci", "run_claim", "text", "none", true,
        "`custom`: the claim with the run's id.";
    CiPullRequestClaim: "workspace.ci", "pull_request_claim", "text", "none", true,
        "`custom`: the claim with the pull request's number. A token in which it says anything is not trusted.";
    CiCommitClaim: "workspace.ci", "commit_claim", "text", "none", true,
        "`custom`: the claim with the commit.";
    CertificateSan: "workspace.certificate", "san", "`DNS:…`, `URI:…`, `email:…` or `IP:…`", "required", true,
        "The subject alternative name that a client's certificate must have.";
    CertificateAccess: "workspace.certificate", "access", "`trusted`, `clean-room`, `isolated`, `gate`, `reader` or `admin`", "required", true,
        "What the client may do.";
    CertificateScope: "workspace.certificate", "scope", "text", "required for `isolated` and `gate`", true,
        "The client's own scope.";
}

/// The section whose tables carry a workspace's name.
pub(crate) const WORKSPACE_SECTION: &str = "workspace";
/// The section whose tables carry an issuer's name.
pub(crate) const ISSUER_SECTION: &str = "issuer";
/// The section whose tables carry the names of a workspace and of a rule for CI jobs.
pub(crate) const CI_SECTION: &str = "workspace.ci";
/// The section whose tables carry the names of a workspace and of a rule for client certificates.
pub(crate) const CERTIFICATE_SECTION: &str = "workspace.certificate";

/// A section's table as an operator writes it.
pub(crate) fn title(section: &str) -> String {
    match section {
        WORKSPACE_SECTION => "[workspace.NAME]".to_owned(),
        ISSUER_SECTION => "[issuer.NAME]".to_owned(),
        CI_SECTION => "[workspace.NAME.ci.RULE]".to_owned(),
        CERTIFICATE_SECTION => "[workspace.NAME.certificate.RULE]".to_owned(),
        section => format!("[{section}]"),
    }
}

/// Whether a section's tables carry names that the operator chose.
fn has_names(section: &str) -> bool {
    title(section) != format!("[{section}]")
}

impl Key {
    /// The sections, in the order of the page.
    pub(crate) fn sections() -> Vec<&'static str> {
        let mut sections: Vec<&str> = Self::ALL.iter().map(|key| key.spec().section).collect();
        sections.dedup();
        sections
    }

    /// The key `name` of `section`.
    pub(crate) fn find(section: &str, name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|key| {
            let spec = key.spec();
            spec.section == section && spec.name == name
        })
    }

    /// `section.name`.
    pub(crate) fn path(self) -> String {
        format!("{}.{}", self.spec().section, self.spec().name)
    }

    /// The environment variable that overrides the key; keys below a name that the operator chose have none, because it need not
    /// be a variable's.
    pub(crate) fn variable(self) -> Option<String> {
        let spec = self.spec();
        (!has_names(spec.section))
            .then(|| format!("LARDER_{}_{}", spec.section, spec.name).to_ascii_uppercase())
    }
}
