-- A deleted workspace stays as a row, so that the rows of its tokens can stay: entries remember
-- their writer by a token's id, and a ledger that ever issued a token is not a new one.
ALTER TABLE workspaces ADD COLUMN deleted_at_ms BIGINT;
