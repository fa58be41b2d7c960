//! The SQL of each schema version. A released schema never changes: a migration makes the next one.

/// The change from the schema before, or from nothing for the first one. Migrations only add.
pub(super) struct Migration {
    pub(super) sql: &'static str,
    /// The schema of the oldest program that may use the result.
    pub(super) min_reader: i64,
}

pub(super) const MIGRATIONS: [Migration; 4] = [
    Migration { sql: SCHEMA_1, min_reader: 1 },
    Migration { sql: SCHEMA_2, min_reader: 2 },
    Migration { sql: SCHEMA_3, min_reader: 2 },
    // Raised when a rule is used first (`rules`).
    Migration { sql: SCHEMA_4, min_reader: 2 },
];

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

/// The crate's documentation describes each table, `amount` the amounts. Triggers update `totals` and `counts`, so that
/// no statement can change a row without them.
///
/// `region`: where AWS deduplicates the record, fixed at its first attempt. `due_at`: the record is not sent before it.
/// `unconfirmed`: AWS answered `DuplicateRecord` to a record in doubt. `overdue_hour` and `overdue_from`: for
/// `on_unsent`, see `ageing`; `slots` has the same two, for carried usage. The indexes of unsent records are partial,
/// so that an upgrade sorts only unsent records and settled ones need less space. `raw` is the record's amount in the
/// event's own unit if another amount is sent, `rounded` what rounding added; programs of schema 2 and 3 set neither.
const SCHEMA_2: &str = "
ALTER TABLE records ADD COLUMN region TEXT;
ALTER TABLE records ADD COLUMN due_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE records ADD COLUMN unconfirmed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE records ADD COLUMN overdue_hour INTEGER;
ALTER TABLE records ADD COLUMN overdue_from INTEGER;
ALTER TABLE records ADD COLUMN raw BLOB;
ALTER TABLE records ADD COLUMN rounded BLOB;
ALTER TABLE records ADD COLUMN allocation_count INTEGER NOT NULL DEFAULT 0;
CREATE INDEX records_due ON records (due_at) WHERE state = 'sealed';
CREATE INDEX records_overdue_hour ON records (overdue_hour) WHERE overdue_hour IS NOT NULL;
CREATE INDEX records_overdue_from ON records (overdue_from) WHERE overdue_from IS NOT NULL;
CREATE INDEX records_oldest ON records (timestamp) WHERE state = 'sealed';
CREATE INDEX records_doubt ON records (due_at) WHERE in_doubt = 1 AND state = 'sealed';
CREATE TABLE audit (
    id INTEGER PRIMARY KEY, at INTEGER NOT NULL, record INTEGER NOT NULL, action TEXT NOT NULL, note TEXT NOT NULL) STRICT;
CREATE TABLE links (source INTEGER NOT NULL, slot INTEGER, target INTEGER) STRICT;
CREATE INDEX links_slot ON links (slot) WHERE slot IS NOT NULL;
CREATE INDEX links_source ON links (source);
CREATE INDEX links_target ON links (target);
CREATE TABLE slots (
    id INTEGER PRIMARY KEY, pod TEXT NOT NULL, customer TEXT NOT NULL, dimension TEXT NOT NULL, hour INTEGER NOT NULL,
    aggregation TEXT NOT NULL DEFAULT 'sum', amount BLOB NOT NULL, additive BLOB NOT NULL, total BLOB NOT NULL,
    tagged INTEGER NOT NULL DEFAULT 0, tag_bytes INTEGER NOT NULL DEFAULT 0, first_at INTEGER NOT NULL,
    late_from INTEGER, overdue_hour INTEGER, overdue_from INTEGER, UNIQUE (hour, pod, customer, dimension)) STRICT;
CREATE INDEX slots_overdue_from ON slots (overdue_from) WHERE overdue_from IS NOT NULL;
CREATE TABLE shares (
    slot INTEGER NOT NULL, tags TEXT NOT NULL, amount BLOB NOT NULL, additive BLOB NOT NULL,
    PRIMARY KEY (slot, tags)) STRICT, WITHOUT ROWID;
CREATE TABLE totals (
    dimension TEXT PRIMARY KEY, accepted BLOB, rounded_up BLOB, billed BLOB, pending BLOB, dead BLOB, discarded BLOB,
    remainder BLOB, forgotten_billed BLOB, forgotten_discarded BLOB) STRICT, WITHOUT ROWID;
CREATE TABLE counts (name TEXT PRIMARY KEY, held INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO counts VALUES ('slots', 0), ('shares', 0), ('sealed', 0), ('claimed', 0), ('accepted', 0), ('carried', 0),
    ('dead', 0), ('discarded', 0);
CREATE TABLE key_tables (
    number INTEGER PRIMARY KEY, turn INTEGER NOT NULL, first_at INTEGER, last_at INTEGER, held INTEGER NOT NULL) STRICT;
INSERT INTO key_tables VALUES (0, 1, NULL, NULL, 0), (1, 0, NULL, NULL, 0), (2, 0, NULL, NULL, 0), (3, 0, NULL, NULL, 0);
CREATE TABLE keys_0 (hash BLOB PRIMARY KEY, content BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE keys_1 (hash BLOB PRIMARY KEY, content BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE keys_2 (hash BLOB PRIMARY KEY, content BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE keys_3 (hash BLOB PRIMARY KEY, content BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE forms (hour INTEGER NOT NULL, account TEXT NOT NULL, licensed INTEGER NOT NULL, PRIMARY KEY (hour, account))
    STRICT, WITHOUT ROWID;
CREATE TABLE identities (id INTEGER PRIMARY KEY, identifier TEXT NOT NULL UNIQUE, account TEXT NOT NULL) STRICT;
CREATE TRIGGER slots_made AFTER INSERT ON slots BEGIN
    UPDATE counts SET held = held + 1 WHERE name = 'slots';
    INSERT INTO totals (dimension, pending) VALUES (NEW.dimension, NEW.total)
        ON CONFLICT (dimension) DO UPDATE SET pending = plus(pending, excluded.pending);
END;
CREATE TRIGGER slots_grown AFTER UPDATE OF total ON slots BEGIN
    UPDATE totals SET pending = minus(plus(pending, NEW.total), OLD.total) WHERE dimension = NEW.dimension;
END;
CREATE TRIGGER slots_tagged AFTER UPDATE OF tagged ON slots BEGIN
    UPDATE counts SET held = held + NEW.tagged - OLD.tagged WHERE name = 'shares';
END;
CREATE TRIGGER slots_gone AFTER DELETE ON slots BEGIN
    UPDATE counts SET held = held - 1 WHERE name = 'slots';
    UPDATE counts SET held = held - OLD.tagged WHERE name = 'shares' AND OLD.tagged > 0;
    UPDATE totals SET pending = minus(pending, OLD.total) WHERE dimension = OLD.dimension;
END;
CREATE TRIGGER records_made AFTER INSERT ON records BEGIN
    UPDATE counts SET held = held + 1 WHERE name = NEW.state;
    INSERT INTO totals (dimension, pending)
        VALUES (NEW.dimension, CASE NEW.state WHEN 'sealed' THEN plus(coalesce(NEW.raw, NEW.micros), 0) END)
        ON CONFLICT (dimension) DO UPDATE SET pending = plus(pending, excluded.pending);
END;
CREATE TRIGGER records_moved AFTER UPDATE OF state ON records WHEN OLD.state <> NEW.state BEGIN
    UPDATE counts SET held = held + iif(name = NEW.state, 1, -1) WHERE name IN (NEW.state, OLD.state);
    UPDATE totals SET
        accepted = CASE OLD.state WHEN 'claimed' THEN plus(accepted, coalesce(NEW.raw, NEW.micros)) ELSE accepted END,
        pending = CASE 'sealed' WHEN NEW.state THEN plus(pending, coalesce(NEW.raw, NEW.micros))
            WHEN OLD.state THEN minus(pending, coalesce(NEW.raw, NEW.micros)) ELSE pending END,
        billed = CASE 'accepted' WHEN NEW.state THEN plus(billed, coalesce(NEW.raw, NEW.micros))
            WHEN OLD.state THEN minus(billed, coalesce(NEW.raw, NEW.micros)) ELSE billed END,
        dead = CASE 'dead' WHEN NEW.state THEN plus(dead, coalesce(NEW.raw, NEW.micros))
            WHEN OLD.state THEN minus(dead, coalesce(NEW.raw, NEW.micros)) ELSE dead END,
        discarded = CASE 'discarded' WHEN NEW.state THEN plus(discarded, coalesce(NEW.raw, NEW.micros))
            WHEN OLD.state THEN minus(discarded, coalesce(NEW.raw, NEW.micros)) ELSE discarded END
        WHERE dimension = NEW.dimension;
END;
CREATE TRIGGER records_gone AFTER DELETE ON records BEGIN
    UPDATE counts SET held = held - 1 WHERE name = OLD.state;
    UPDATE totals SET forgotten_billed = plus(forgotten_billed, coalesce(OLD.raw, OLD.micros))
        WHERE dimension = OLD.dimension AND OLD.state = 'accepted';
    UPDATE totals SET forgotten_discarded = plus(forgotten_discarded, coalesce(OLD.raw, OLD.micros))
        WHERE dimension = OLD.dimension AND OLD.state = 'discarded';
    DELETE FROM links WHERE source = OLD.id OR target = OLD.id;
END;
";

/// `licenses`: the latest event about each license that AWS Marketplace named. `marketplace_events`: the events that
/// were processed. A program of schema 2 runs without them: it counts usage of a license that has ended. The index
/// finds the legacy identifiers of an account.
const SCHEMA_3: &str = "
CREATE TABLE licenses (
    license TEXT PRIMARY KEY, account TEXT NOT NULL, agreement TEXT, event_at INTEGER NOT NULL,
    deprovisioned_at INTEGER) STRICT, WITHOUT ROWID;
CREATE INDEX licenses_event_at ON licenses (event_at);
CREATE INDEX licenses_deprovisioned_at ON licenses (deprovisioned_at) WHERE deprovisioned_at IS NOT NULL;
CREATE TABLE marketplace_events (id TEXT PRIMARY KEY, seen_at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX marketplace_events_seen_at ON marketplace_events (seen_at);
CREATE INDEX identities_account ON identities (account);
";

/// `remainders`: what stays of sealed hours, by the scale in millionths. A program of schema 2 or 3 runs without it, as
/// long as every dimension is metered by the default.
const SCHEMA_4: &str = "
CREATE TABLE remainders (
    customer TEXT NOT NULL, dimension TEXT NOT NULL, scale TEXT NOT NULL, amount BLOB NOT NULL,
    PRIMARY KEY (customer, dimension, scale)) STRICT, WITHOUT ROWID;
";

/// Tables of schema 1 that schema 2 does not use. While one exists, some of its rows were not yet moved or forgotten.
pub(super) const LEFT_BEHIND: [&str; 4] = ["keys", "sums", "settled", "accepted"];
