//! The schema of each version, as SQL. A schema that was released never changes: a migration makes the next one.

/// What makes a schema out of the one before it, the first one out of nothing. Migrations only add.
pub(super) struct Migration {
    pub(super) sql: &'static str,
    /// The oldest program that may use the result.
    pub(super) min_reader: i64,
}

pub(super) const MIGRATIONS: [Migration; 2] =
    [Migration { sql: SCHEMA_1, min_reader: 1 }, Migration { sql: SCHEMA_2, min_reader: 2 }];

/// The schema that this program writes.
pub(super) const SCHEMA: i64 = MIGRATIONS.len() as i64;

const SCHEMA_1: &str = "
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
";

/// Region: where AWS deduplicates the record, frozen at its first attempt. `due_at`: not before it, the record is sent.
/// `unconfirmed`: AWS answered `DuplicateRecord` to a record in doubt. `overdue_hour` and `overdue_from`: for
/// `on_unsent`, the earliest hour whose usage AWS has not accepted, and the ledger's running time at that hour's end.
const SCHEMA_2: &str = "
ALTER TABLE records ADD COLUMN region TEXT;
ALTER TABLE records ADD COLUMN due_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE records ADD COLUMN unconfirmed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE records ADD COLUMN overdue_hour INTEGER;
ALTER TABLE records ADD COLUMN overdue_from INTEGER;
CREATE INDEX records_due ON records (state, due_at);
CREATE INDEX records_doubt ON records (due_at) WHERE in_doubt = 1 AND state = 'sealed';
CREATE TABLE audit (
    id INTEGER PRIMARY KEY, at INTEGER NOT NULL, record INTEGER NOT NULL, action TEXT NOT NULL, note TEXT NOT NULL) STRICT;
CREATE TABLE links (source INTEGER NOT NULL, slot INTEGER, target INTEGER) STRICT;
";
