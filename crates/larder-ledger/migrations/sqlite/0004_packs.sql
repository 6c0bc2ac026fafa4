-- The catalogue of the bucket. `revision` is the number of `revisions` when the row was last changed, and no two rows have the
-- same; a pack's number is the revision with which its row was made. A removed row stays for a while, for those who follow.
CREATE TABLE packs (
    number BIGINT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    workspace TEXT NOT NULL,
    trust TEXT NOT NULL CHECK (trust IN ('trusted', 'untrusted')),
    object_bytes BIGINT NOT NULL,
    index_offset BIGINT NOT NULL,
    index_bytes BIGINT NOT NULL,
    entry_count BIGINT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    removed_at_ms BIGINT,
    revision BIGINT NOT NULL UNIQUE
);

CREATE INDEX packs_by_workspace ON packs (workspace);
CREATE INDEX packs_by_removal ON packs (removed_at_ms);

-- What is no longer to be believed in the bucket, in the words of who gave the order. The number is that of `revisions`.
CREATE TABLE bucket_orders (
    number BIGINT NOT NULL PRIMARY KEY,
    given_at_ms BIGINT NOT NULL,
    text TEXT NOT NULL
);

INSERT INTO revisions (name, number) VALUES ('packs', 0), ('bucket_orders', 0);

-- What makes the bucket's contents believable; it is never in the bucket. One row at most.
CREATE TABLE bucket_key (
    one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    mac_key BLOB NOT NULL CHECK (length(mac_key) = 32)
);
