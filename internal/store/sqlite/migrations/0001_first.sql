-- The first schema. Times are nanoseconds since 1970 (0: none), ids are JSON, rkey is online.ID.Key.

CREATE TABLE counter (
    one      INTEGER PRIMARY KEY CHECK (one = 1),
    revision BIGINT NOT NULL, -- of the newest commit; changed in each transaction that changes anything
    trimmed  BIGINT NOT NULL  -- changes of this revision and older ones may be gone
);
INSERT INTO counter (one, revision, trimmed) VALUES (1, 0, 0);

CREATE TABLE resources (
    rkey            TEXT PRIMARY KEY,
    id              TEXT NOT NULL,
    uid             TEXT NOT NULL,
    generation      BIGINT NOT NULL,
    spec_revision   BIGINT NOT NULL,
    status_revision BIGINT NOT NULL,
    spec            TEXT NOT NULL,
    status          TEXT,
    secrets         BLOB, -- sealed
    created_at      BIGINT NOT NULL,
    created_by      TEXT NOT NULL,
    updated_at      BIGINT NOT NULL,
    updated_by      TEXT NOT NULL,
    deleting_at     BIGINT NOT NULL
);

CREATE TABLE revisions (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    rkey       TEXT NOT NULL,
    id         TEXT NOT NULL,
    uid        TEXT NOT NULL,
    generation BIGINT NOT NULL,
    revision   BIGINT NOT NULL,
    spec       TEXT NOT NULL,
    secrets    BLOB, -- sealed
    at         BIGINT NOT NULL,
    by_whom    TEXT NOT NULL,
    why        TEXT NOT NULL
);
CREATE INDEX revisions_by_name ON revisions (rkey, seq);

CREATE TABLE operations (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    op_id      TEXT NOT NULL UNIQUE,
    target_uid TEXT NOT NULL,
    ended      INTEGER NOT NULL,
    body       TEXT NOT NULL
);

CREATE TABLE activities (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    revision    BIGINT NOT NULL,
    at          BIGINT NOT NULL,
    target_rkey TEXT NOT NULL,
    body        TEXT NOT NULL
);

CREATE TABLE intervals (
    instance        TEXT PRIMARY KEY,
    deployment_rkey TEXT NOT NULL,
    deployment      TEXT NOT NULL,
    uid             TEXT NOT NULL,
    generation      BIGINT NOT NULL,
    instance_type   TEXT NOT NULL,
    start_at        BIGINT NOT NULL,
    end_at          BIGINT NOT NULL,
    reason          TEXT NOT NULL
);

CREATE TABLE secrets (
    owner  TEXT NOT NULL,
    name   TEXT NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (owner, name)
);

CREATE TABLE changes (
    revision BIGINT NOT NULL,
    n        BIGINT NOT NULL, -- order within the transaction
    type     TEXT NOT NULL,
    id       TEXT NOT NULL,
    uid      TEXT NOT NULL,
    PRIMARY KEY (revision, n)
);
