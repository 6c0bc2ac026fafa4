-- Every credential that can write has a row here, and an entry's writer is its id. Tokens keep the
-- ids that they have; AUTOINCREMENT goes on above every id that a token ever had.
--
-- `identity` tells one writer that a CI's claims or a certificate describe from another. Tokens
-- have none: each is itself.
CREATE TABLE writers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL CHECK (kind IN ('token', 'ci', 'certificate')),
    workspace TEXT NOT NULL REFERENCES workspaces (name),
    access TEXT NOT NULL,
    scope TEXT,
    identity BLOB UNIQUE CHECK (length(identity) = 32),
    issuer TEXT,
    rule TEXT,
    repository_id TEXT,
    repository TEXT,
    git_ref TEXT,
    commit_sha TEXT,
    event TEXT,
    workflow TEXT,
    run_id TEXT,
    run_attempt TEXT,
    job TEXT,
    actor TEXT,
    subject TEXT,
    environment TEXT,
    created_at_ms BIGINT NOT NULL,
    last_seen_at_ms BIGINT NOT NULL,
    last_address TEXT,
    -- Of a run of a CI: nothing that is issued to it counts any more.
    revoked_at_ms BIGINT,
    CHECK ((kind = 'token') = (identity IS NULL))
);

-- What tells few writers from many others. By the rest the rows are read: an operator asks so now and then.
CREATE INDEX writers_by_workspace ON writers (workspace);
CREATE INDEX writers_by_repository_id ON writers (repository_id);
CREATE INDEX writers_by_repository ON writers (repository);
CREATE INDEX writers_by_commit_sha ON writers (commit_sha);
CREATE INDEX writers_by_run_id ON writers (run_id);
CREATE INDEX writers_by_last_seen ON writers (last_seen_at_ms);

INSERT INTO writers (id, kind, workspace, access, scope, created_at_ms, last_seen_at_ms)
SELECT id, 'token', workspace, access, scope, created_at_ms, coalesce(last_used_at_ms, created_at_ms)
FROM tokens;

DELETE FROM sqlite_sequence WHERE name = 'writers';
INSERT INTO sqlite_sequence (name, seq)
SELECT 'writers', seq FROM sqlite_sequence WHERE name = 'tokens';

-- A CHECK cannot be altered, so the table is made again, with the new words of access and with
-- ids that come from `writers`.
CREATE TABLE tokens_again (
    id INTEGER PRIMARY KEY REFERENCES writers (id),
    hash BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
    workspace TEXT NOT NULL REFERENCES workspaces (name),
    access TEXT NOT NULL CHECK (
        access IN ('trusted', 'clean-room', 'isolated', 'gate', 'reader', 'admin')
    ),
    scope TEXT CHECK (
        length(scope) BETWEEN 1 AND 194 AND scope NOT GLOB '*[^A-Za-z0-9._/-]*'
        AND lower(scope) <> 'trusted' AND lower(scope) NOT LIKE 'trusted/%'
    ),
    name TEXT CHECK (length(name) BETWEEN 1 AND 200),
    created_at_ms BIGINT NOT NULL,
    expires_at_ms BIGINT,
    revoked_at_ms BIGINT,
    last_used_at_ms BIGINT,
    CHECK ((access IN ('isolated', 'gate')) = (scope IS NOT NULL))
);

INSERT INTO tokens_again SELECT
    id, hash, workspace, access, scope, name, created_at_ms, expires_at_ms, revoked_at_ms,
    last_used_at_ms
FROM tokens;
DROP TABLE tokens;
ALTER TABLE tokens_again RENAME TO tokens;
CREATE INDEX tokens_by_workspace ON tokens (workspace);

-- What a CI's token was exchanged for. No session is an administrator.
CREATE TABLE sessions (
    hash BLOB NOT NULL PRIMARY KEY CHECK (length(hash) = 32),
    writer BIGINT NOT NULL REFERENCES writers (id),
    workspace TEXT NOT NULL REFERENCES workspaces (name),
    access TEXT NOT NULL CHECK (
        access IN ('trusted', 'clean-room', 'isolated', 'gate', 'reader')
    ),
    scope TEXT CHECK (
        length(scope) BETWEEN 1 AND 194 AND scope NOT GLOB '*[^A-Za-z0-9._/-]*'
        AND lower(scope) <> 'trusted' AND lower(scope) NOT LIKE 'trusted/%'
    ),
    -- What stands for the rule that gave it, with all that it said then.
    rule_mark BLOB CHECK (length(rule_mark) = 32),
    created_at_ms BIGINT NOT NULL,
    expires_at_ms BIGINT NOT NULL,
    revoked_at_ms BIGINT,
    -- The number of `revisions` when the row was last changed.
    revision BIGINT NOT NULL DEFAULT 0,
    CHECK ((access IN ('isolated', 'gate')) = (scope IS NOT NULL))
);

CREATE INDEX sessions_by_writer ON sessions (writer);
CREATE INDEX sessions_by_workspace ON sessions (workspace);
CREATE INDEX sessions_by_end ON sessions (expires_at_ms);
CREATE INDEX sessions_by_revision ON sessions (revision);

-- What may be exchanged once: the ids of tokens of an issuer, hashed.
CREATE TABLE used_once (
    issuer TEXT NOT NULL,
    jti_hash BLOB NOT NULL CHECK (length(jti_hash) = 32),
    until_ms BIGINT NOT NULL,
    PRIMARY KEY (issuer, jti_hash)
);

CREATE INDEX used_once_by_end ON used_once (until_ms);

-- What servers follow: a number for each kind of change that they must learn of within a second.
-- Triggers keep them, so that a change by any hand is seen. The audit, the times of last use, and
-- of writers all but their revocation are no such changes.
CREATE TABLE revisions (name TEXT NOT NULL PRIMARY KEY, number BIGINT NOT NULL);
INSERT INTO revisions (name, number) VALUES ('tokens', 1), ('sessions', 1);

CREATE TRIGGER workspaces_inserted AFTER INSERT ON workspaces BEGIN
    UPDATE revisions SET number = number + 1 WHERE name = 'tokens';
END;
CREATE TRIGGER workspaces_updated AFTER UPDATE ON workspaces BEGIN
    UPDATE revisions SET number = number + 1 WHERE name = 'tokens';
END;
CREATE TRIGGER workspaces_deleted AFTER DELETE ON workspaces BEGIN
    UPDATE revisions SET number = number + 1 WHERE name = 'tokens';
END;
CREATE TRIGGER tokens_inserted AFTER INSERT ON tokens BEGIN
    UPDATE revisions SET number = number + 1 WHERE name = 'tokens';
END;
CREATE TRIGGER tokens_updated
AFTER UPDATE OF id, hash, workspace, access, scope, name, expires_at_ms, revoked_at_ms ON tokens BEGIN
    UPDATE revisions SET number = number + 1 WHERE name = 'tokens';
END;
CREATE TRIGGER tokens_deleted AFTER DELETE ON tokens BEGIN
    UPDATE revisions SET number = number + 1 WHERE name = 'tokens';
END;
CREATE TRIGGER writers_revoked AFTER UPDATE OF revoked_at_ms ON writers BEGIN
    UPDATE revisions SET number = number + 1 WHERE name = 'tokens';
END;
CREATE TRIGGER sessions_inserted AFTER INSERT ON sessions BEGIN
    UPDATE revisions SET number = number + 1 WHERE name = 'sessions';
    UPDATE sessions SET revision = (SELECT number FROM revisions WHERE name = 'sessions')
    WHERE hash = NEW.hash;
END;
CREATE TRIGGER sessions_updated
AFTER UPDATE OF hash, writer, workspace, access, scope, expires_at_ms, revoked_at_ms ON sessions BEGIN
    UPDATE revisions SET number = number + 1 WHERE name = 'sessions';
    UPDATE sessions SET revision = (SELECT number FROM revisions WHERE name = 'sessions')
    WHERE hash = NEW.hash;
END;

-- What was done, and by whom. Rows are only ever added; they go as `audit_kept` says, which only
-- moves forward.
CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms BIGINT NOT NULL,
    action TEXT NOT NULL CHECK (length(action) BETWEEN 1 AND 40),
    outcome TEXT NOT NULL CHECK (length(outcome) BETWEEN 1 AND 40),
    reason TEXT,
    workspace TEXT,
    scope TEXT,
    dialect TEXT,
    key TEXT,
    writer BIGINT,
    actor TEXT,
    address TEXT,
    count BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    details TEXT
);

-- Builds write thousands of rows a second, so there are only indexes that grow at few places at a time. Keys come in no
-- order: an index on them would write a page of the disk for each row. Whoever looks for a key or an address reads the rows.
CREATE INDEX audit_by_time ON audit (at_ms);
CREATE INDEX audit_by_workspace ON audit (workspace);
CREATE INDEX audit_by_writer ON audit (writer);
CREATE INDEX audit_by_action ON audit (action) WHERE action <> 'write';

-- Rows before `since_ms` may be deleted. So may rows with an id below `since_id`, if they are about entries or about the
-- sessions of untrusted jobs: clients decide how many of those there are, and must not be able to push out the others. Of
-- entries in `trusted` it is `trusted_since_id` that counts: what trunk stores is not pushed out by what pull requests do.
-- `clock_ms` is the time that deletions go by, which does not jump.
CREATE TABLE audit_kept (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    since_ms BIGINT NOT NULL,
    since_id BIGINT NOT NULL,
    trusted_since_id BIGINT NOT NULL,
    clock_ms BIGINT NOT NULL
);
INSERT INTO audit_kept (one, since_ms, since_id, trusted_since_id, clock_ms) VALUES (1, 0, 0, 0, 0);

CREATE TRIGGER audit_is_not_rewritten BEFORE INSERT ON audit
WHEN EXISTS (SELECT 1 FROM audit WHERE id = NEW.id) BEGIN
    SELECT raise(ABORT, 'rows of the audit are not replaced');
END;
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit BEGIN
    SELECT raise(ABORT, 'rows of the audit are not changed');
END;
CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit
WHEN NOT EXISTS (
    SELECT 1 FROM audit_kept
    WHERE OLD.at_ms < since_ms
        OR (OLD.id < since_id AND (
            (OLD.action IN ('write', 'bad-credential', 'flagged')
                AND (OLD.id < trusted_since_id OR coalesce(OLD.scope, '') <> 'trusted'))
            OR (OLD.action IN ('session-created', 'session-revoked')
                AND OLD.details NOT LIKE '{"access":"trusted"%'
                AND OLD.details NOT LIKE '{"access":"clean-room"%')
        ))
) BEGIN
    SELECT raise(ABORT, 'rows of the audit are deleted only when their time is over');
END;
CREATE TRIGGER audit_kept_moves_forward BEFORE UPDATE ON audit_kept
WHEN NEW.one <> OLD.one OR NEW.since_ms < OLD.since_ms OR NEW.since_id < OLD.since_id
    OR NEW.trusted_since_id < OLD.trusted_since_id OR NEW.clock_ms < OLD.clock_ms BEGIN
    SELECT raise(ABORT, 'what may be deleted of the audit only moves forward');
END;
CREATE TRIGGER audit_kept_stays BEFORE DELETE ON audit_kept BEGIN
    SELECT raise(ABORT, 'what may be deleted of the audit only moves forward');
END;
CREATE TRIGGER audit_kept_is_one BEFORE INSERT ON audit_kept BEGIN
    SELECT raise(ABORT, 'what may be deleted of the audit only moves forward');
END;

-- Results of actions that were stored again with other outputs.
CREATE TABLE rewrites (
    workspace TEXT NOT NULL,
    scope TEXT NOT NULL,
    key TEXT NOT NULL,
    count BIGINT NOT NULL,
    first_at_ms BIGINT NOT NULL,
    last_at_ms BIGINT NOT NULL,
    writer BIGINT,
    writer_before BIGINT,
    PRIMARY KEY (workspace, scope, key)
);

CREATE INDEX rewrites_by_time ON rewrites (last_at_ms);

-- What the choice of an index goes by: rows of a table, and rows that one value of an index has in a large ledger. Nobody
-- counts them, because a count that is taken of a small ledger misleads in a large one.
ANALYZE sqlite_schema;
INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES
    ('audit', 'audit_by_time', '10000000 4'),
    ('audit', 'audit_by_workspace', '10000000 2000000'),
    ('audit', 'audit_by_writer', '10000000 2000'),
    ('audit', 'audit_by_action', '10000 1000'),
    ('writers', 'writers_by_workspace', '1000000 200000'),
    ('writers', 'writers_by_repository_id', '1000000 20000'),
    ('writers', 'writers_by_repository', '1000000 20000'),
    ('writers', 'writers_by_commit_sha', '1000000 40'),
    ('writers', 'writers_by_run_id', '1000000 40'),
    ('writers', 'writers_by_last_seen', '1000000 4');
