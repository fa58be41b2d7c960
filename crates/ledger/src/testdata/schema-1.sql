-- A ledger as the first release wrote it (schema 1), frozen: never change it. The pod `pod-1` ended between a call and its answer.
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE keys (id TEXT PRIMARY KEY, content BLOB NOT NULL, seen_at INTEGER NOT NULL)
    STRICT, WITHOUT ROWID;
CREATE INDEX keys_seen_at ON keys (seen_at);
CREATE TABLE sums (
    pod TEXT NOT NULL, customer TEXT NOT NULL, dimension TEXT NOT NULL, hour INTEGER NOT NULL, tags TEXT NOT NULL,
    micros INTEGER NOT NULL, first_at INTEGER NOT NULL, late_from INTEGER,
    PRIMARY KEY (hour, pod, customer, dimension, tags)) STRICT, WITHOUT ROWID;
CREATE TABLE records (
    id INTEGER PRIMARY KEY, pod TEXT NOT NULL, customer TEXT NOT NULL, dimension TEXT NOT NULL, hour INTEGER NOT NULL,
    micros INTEGER NOT NULL, decimal INTEGER NOT NULL, allocations TEXT NOT NULL, timestamp INTEGER NOT NULL,
    client_token TEXT NOT NULL, late_from INTEGER, state TEXT NOT NULL, in_doubt INTEGER NOT NULL DEFAULT 0,
    attempting INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0, code TEXT, metering_record_id TEXT,
    sealed_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, UNIQUE (pod, customer, dimension, hour)) STRICT;
CREATE INDEX records_state ON records (state, hour);
CREATE TABLE settled (dimension TEXT PRIMARY KEY, micros INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE accepted (dimension TEXT PRIMARY KEY, micros INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES
    ('schema', '1'), ('min_reader', '1'), ('ledger_id', '0f0e0d0c0b0a09080706050403020100'), ('last_closed', '498751'),
    ('pod', 'pod-1'), ('started_at', '1795500000000');
INSERT INTO keys VALUES
    ('order-1', X'0000000000000007000000000000000000000000000000000000000000000000', 1795507200000);
INSERT INTO sums VALUES
    ('pod-1', '', 'requests', 498752, '{}', 7, 1795507200000, NULL),
    ('pod-1', '', 'requests', 498752, '{"team":"a"}', 20, 1795507260000, 498750);
INSERT INTO records VALUES
    (1, 'pod-1', '', 'requests', 498749, 100, 1, '[]', 1795496400000, 'token-1', NULL, 'accepted', 0, 0, 1, NULL, 'id-1', 1, 1),
    (2, 'pod-1', '', 'requests', 498750, 3000000, 0, '[{"tags":{"team":"a"},"micros":1000000},{"tags":{},"micros":2000000}]',
        1795500000123, 'token-2', NULL, 'sealed', 0, 1, 1, NULL, NULL, 2, 2),
    (3, 'pod-1', '', 'requests', 498751, 40, 1, '[]', 1795503600000, 'token-3', 498748, 'sealed', 0, 0, 2, 'ThrottlingException', NULL, 3, 3),
    (4, 'pod-0', '', 'requests', 498748, 40, 1, '[]', 1795492800000, 'token-4', NULL, 'carried', 0, 0, 0, 'expired', NULL, 4, 4),
    (5, 'pod-0', '', 'requests', 498747, 500, 1, '[]', 1795489200000, 'token-5', NULL, 'dead', 1, 0, 9, 'in_doubt', NULL, 5, 5);
INSERT INTO settled VALUES ('requests', 6000);
INSERT INTO accepted VALUES ('requests', 3006667);
