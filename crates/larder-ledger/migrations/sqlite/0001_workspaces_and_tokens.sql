-- Times are unix milliseconds. A migration that has been released is never edited: the ledger
-- remembers its checksum. Only this folder is in SQLite's dialect; the queries are not.

CREATE TABLE workspaces (
    name TEXT NOT NULL PRIMARY KEY
        CHECK (
            length(name) BETWEEN 1 AND 63
            AND name GLOB '[a-z0-9]*' AND name NOT GLOB '*[^a-z0-9._-]*'
        ),
    created_at_ms BIGINT NOT NULL
);

-- AUTOINCREMENT: the id of a token that is gone never becomes another's. Entries remember their
-- writer by this id.
CREATE TABLE tokens (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    hash BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
    workspace TEXT NOT NULL REFERENCES workspaces (name),
    access TEXT NOT NULL CHECK (access IN ('trusted', 'isolated', 'reader', 'admin')),
    scope TEXT CHECK (
        length(scope) BETWEEN 1 AND 194 AND scope NOT GLOB '*[^A-Za-z0-9._/-]*'
        AND lower(scope) <> 'trusted' AND lower(scope) NOT LIKE 'trusted/%'
    ),
    name TEXT CHECK (length(name) BETWEEN 1 AND 200),
    created_at_ms BIGINT NOT NULL,
    expires_at_ms BIGINT,
    revoked_at_ms BIGINT,
    last_used_at_ms BIGINT,
    CHECK ((access = 'isolated') = (scope IS NOT NULL))
);

CREATE INDEX tokens_by_workspace ON tokens (workspace);
