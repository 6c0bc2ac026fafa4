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
    HttpListen: "http", "listen", "`ADDRESS:PORT`", "`127.0.0.1:9092`", false,
        "Where to listen. Port 0 picks a free port. Anything but a loopback address needs `insecure_http`.";
    HttpBasePath: "http", "base_path", "path", "none", true,
        "A prefix of every path, for a reverse proxy that does not strip it, such as `/cache`.";
    HttpInsecureHttp: "http", "insecure_http", "`true` or `false`", "`false`", false,
        "Allow plain HTTP on an address that other machines can reach. Tokens then cross the network unencrypted unless a proxy or a private network protects them.";
    HttpMetrics: "http", "metrics", "`local` or `open`", "`local`", true,
        "Who may read `/metrics`: `local` is a process on this machine that did not come through a proxy, `open` everyone. The figures name every workspace; what an admin token may know of its own is at `/v1/control/stats`.";
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
    LogFormat: "log", "format", "`auto`, `human` or `json`", "`auto`", false,
        "How log lines look on standard error. `auto` is `human` on a terminal and `json` elsewhere.";
    LogLevel: "log", "level", "`error`, `warn`, `info`, `debug` or `trace`", "`info`", true,
        "The least important lines to log.";
    WorkspacePublic: "workspace", "public", "`true` or `false`", "`false`", true,
        "Whether a client without a credential may read the workspace's trusted entries. Forks' CI has no secrets; in a public workspace it still gets hits.";
    WorkspaceTrusted: "workspace", "trusted", "size or percent", "the shared pool", true,
        "Budget of a trusted pool of the workspace's own, which no other workspace can fill or evict. Needs `untrusted` too. The budget can be changed while the server runs; getting or losing pools of its own takes a restart, and entries do not move.";
    WorkspaceUntrusted: "workspace", "untrusted", "size or percent", "the shared pool", true,
        "Budget of an untrusted pool of the workspace's own. Needs `trusted` too.";
    WorkspaceEntrySizeMax: "workspace", "entry_size_max", "size", "`limits.entry_size_max`", true,
        "The largest entry of this workspace.";
}

/// The section whose tables carry a workspace's name.
pub(crate) const WORKSPACE_SECTION: &str = "workspace";

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

    /// The environment variable that overrides the key; workspaces' keys have none, because a
    /// workspace's name need not be a variable's.
    pub(crate) fn variable(self) -> Option<String> {
        let spec = self.spec();
        (spec.section != WORKSPACE_SECTION)
            .then(|| format!("LARDER_{}_{}", spec.section, spec.name).to_ascii_uppercase())
    }
}
