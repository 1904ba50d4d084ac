-- A store as the first schema wrote it, dumped as SQL. It is history: never edit it, whatever the schema becomes.
BEGIN TRANSACTION;
CREATE TABLE activities (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    revision    BIGINT NOT NULL,
    at          BIGINT NOT NULL,
    target_rkey TEXT NOT NULL,
    body        TEXT NOT NULL
);
INSERT INTO "activities" VALUES(1,3,1763899200000000005,'onlineendpoints/sub/rg/ws/iris','{"revision":3,"time":"2025-11-23T12:00:00.000000005Z","principal":"bob","action":"x/write","target":{"workspace":{"subscription":"Sub","resourceGroup":"rg","name":"ws"},"kind":"onlineEndpoints","name":"Iris"},"outcome":"Accepted"}');
CREATE TABLE changes (
    revision BIGINT NOT NULL,
    n        BIGINT NOT NULL, -- order within the transaction
    type     TEXT NOT NULL,
    id       TEXT NOT NULL,
    uid      TEXT NOT NULL,
    PRIMARY KEY (revision, n)
);
INSERT INTO "changes" VALUES(3,0,'spec','{"workspace":{"subscription":"Sub","resourceGroup":"rg","name":"ws"},"kind":"onlineEndpoints","name":"Iris"}','uid-iris');
INSERT INTO "changes" VALUES(4,0,'status','{"workspace":{"subscription":"Sub","resourceGroup":"rg","name":"ws"},"kind":"onlineEndpoints","name":"Iris"}','uid-iris');
INSERT INTO "changes" VALUES(5,0,'spec','{"workspace":{"subscription":"Sub","resourceGroup":"rg","name":"ws"},"kind":"deployments","parent":"Iris","name":"blue"}','uid-blue');
INSERT INTO "changes" VALUES(6,0,'removed','{"workspace":{"subscription":"Sub","resourceGroup":"rg","name":"ws"},"kind":"onlineEndpoints","name":"gone"}','uid-gone');
CREATE TABLE counter (
    one      INTEGER PRIMARY KEY CHECK (one = 1),
    revision BIGINT NOT NULL, -- of the newest commit; changed in each transaction that changes anything
    trimmed  BIGINT NOT NULL  -- changes of this revision and older ones may be gone
);
INSERT INTO "counter" VALUES(1,6,2);
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
INSERT INTO "intervals" VALUES('i-1','deployments/sub/rg/ws/iris/blue','{"workspace":{"subscription":"Sub","resourceGroup":"rg","name":"ws"},"kind":"deployments","parent":"Iris","name":"blue"}','uid-blue',1,'Standard_DS1_v2',1763899200000000000,1763899200000000060,'stopped');
INSERT INTO "intervals" VALUES('i-2','deployments/sub/rg/ws/iris/blue','{"workspace":{"subscription":"Sub","resourceGroup":"rg","name":"ws"},"kind":"deployments","parent":"Iris","name":"blue"}','uid-blue',1,'Standard_DS1_v2',1763899200000000061,0,'');
CREATE TABLE operations (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    op_id      TEXT NOT NULL UNIQUE,
    target_uid TEXT NOT NULL,
    ended      INTEGER NOT NULL,
    body       TEXT NOT NULL
);
INSERT INTO "operations" VALUES(1,'op-1','uid-iris',1,'{"id":"op-1","target":{"workspace":{"subscription":"Sub","resourceGroup":"rg","name":"ws"},"kind":"onlineEndpoints","name":"Iris"},"targetUid":"uid-iris","action":"write","generation":2,"state":"Succeeded","principal":"bob","start":"2025-11-23T12:00:00Z","end":"2025-11-23T12:00:01Z"}');
INSERT INTO "operations" VALUES(2,'op-2','uid-blue',0,'{"id":"op-2","target":{"workspace":{"subscription":"Sub","resourceGroup":"rg","name":"ws"},"kind":"deployments","parent":"Iris","name":"blue"},"targetUid":"uid-blue","action":"delete","generation":1,"state":"InProgress","principal":"ada","start":"2025-11-23T12:00:02Z"}');
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
INSERT INTO "resources" VALUES('onlineendpoints/sub/rg/ws/iris','{"workspace":{"subscription":"Sub","resourceGroup":"rg","name":"ws"},"kind":"onlineEndpoints","name":"Iris"}','uid-iris',2,3,4,'{"authMode":"Key"}','{"state":"Succeeded"}',NULL,1763899200000000000,'ada',1763899200000000005,'bob',0);
INSERT INTO "resources" VALUES('deployments/sub/rg/ws/iris/blue','{"workspace":{"subscription":"Sub","resourceGroup":"rg","name":"ws"},"kind":"deployments","parent":"Iris","name":"blue"}','uid-blue',1,5,0,'{"instanceCount":1}',NULL,X'D2A539585A178D6762A363B322142EE65126E2A1EA4BF8E7BC6C7D83266C562F7114775BF69E0536F8FC70',1763899200000000000,'ada',1763899200000000000,'ada',1763899200000000009);
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
INSERT INTO "revisions" VALUES(1,'onlineendpoints/sub/rg/ws/gone','{"workspace":{"subscription":"Sub","resourceGroup":"rg","name":"ws"},"kind":"onlineEndpoints","name":"gone"}','uid-gone',1,1,'{"old":1}',NULL,1763899200000000000,'ada','create');
INSERT INTO "revisions" VALUES(2,'onlineendpoints/sub/rg/ws/iris','{"workspace":{"subscription":"Sub","resourceGroup":"rg","name":"ws"},"kind":"onlineEndpoints","name":"Iris"}','uid-iris',1,2,'{"authMode":"AMLToken"}',NULL,1763899200000000000,'ada','create');
INSERT INTO "revisions" VALUES(3,'onlineendpoints/sub/rg/ws/iris','{"workspace":{"subscription":"Sub","resourceGroup":"rg","name":"ws"},"kind":"onlineEndpoints","name":"Iris"}','uid-iris',2,3,'{"authMode":"Key"}',NULL,1763899200000000000,'ada','update');
INSERT INTO "revisions" VALUES(4,'deployments/sub/rg/ws/iris/blue','{"workspace":{"subscription":"Sub","resourceGroup":"rg","name":"ws"},"kind":"deployments","parent":"Iris","name":"blue"}','uid-blue',1,5,'{"instanceCount":1}',X'E662C2867031293A20A2046CDD52F3A39FC3732D023D85501C95CAA90B5703931BF4D1E75F5071CAD0600F',1763899200000000000,'ada','create');
INSERT INTO "revisions" VALUES(5,'onlineendpoints/sub/rg/ws/gone','{"workspace":{"subscription":"Sub","resourceGroup":"rg","name":"ws"},"kind":"onlineEndpoints","name":"gone"}','uid-gone',1,6,'{"old":1}',NULL,1763899200000000000,'ada','delete');
CREATE TABLE schema_version (version BIGINT NOT NULL);
INSERT INTO "schema_version" VALUES(1);
CREATE TABLE secrets (
    owner  TEXT NOT NULL,
    name   TEXT NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (owner, name)
);
INSERT INTO "secrets" VALUES('uid-iris','primary',X'39E22F19640CB212C8D849BEC1F04100AD937EE68BB9CFC2869E752F942D7CACB5');
CREATE INDEX revisions_by_name ON revisions (rkey, seq);
INSERT INTO "sqlite_sequence" VALUES('revisions',5);
INSERT INTO "sqlite_sequence" VALUES('operations',2);
INSERT INTO "sqlite_sequence" VALUES('activities',1);
COMMIT;
