-- A ledger of schema 4, frozen: never change it. The pod `pod-1` ended between a call and its answer.
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE records (
    id INTEGER PRIMARY KEY, pod TEXT NOT NULL, customer TEXT NOT NULL, dimension TEXT NOT NULL, hour INTEGER NOT NULL,
    micros INTEGER NOT NULL, decimal INTEGER NOT NULL, allocations TEXT NOT NULL, timestamp INTEGER NOT NULL,
    client_token TEXT NOT NULL, late_from INTEGER, state TEXT NOT NULL, in_doubt INTEGER NOT NULL DEFAULT 0,
    attempting INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0, code TEXT, metering_record_id TEXT,
    sealed_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, region TEXT, due_at INTEGER NOT NULL DEFAULT 0, unconfirmed INTEGER NOT NULL DEFAULT 0, overdue_hour INTEGER, overdue_from INTEGER, raw BLOB, rounded BLOB, allocation_count INTEGER NOT NULL DEFAULT 0, UNIQUE (pod, customer, dimension, hour)) STRICT;
CREATE INDEX records_state ON records (state, hour);
CREATE INDEX records_due ON records (due_at) WHERE state = 'sealed';
CREATE INDEX records_overdue_hour ON records (overdue_hour) WHERE overdue_hour IS NOT NULL;
CREATE INDEX records_overdue_from ON records (overdue_from) WHERE overdue_from IS NOT NULL;
CREATE INDEX records_doubt ON records (due_at) WHERE in_doubt = 1 AND state = 'sealed';
CREATE INDEX records_oldest ON records (timestamp) WHERE state = 'sealed';
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
CREATE TABLE key_tables (
    number INTEGER PRIMARY KEY, turn INTEGER NOT NULL, first_at INTEGER, last_at INTEGER, held INTEGER NOT NULL) STRICT;
CREATE TABLE keys_0 (hash BLOB PRIMARY KEY, content BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE keys_1 (hash BLOB PRIMARY KEY, content BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE keys_2 (hash BLOB PRIMARY KEY, content BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE keys_3 (hash BLOB PRIMARY KEY, content BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE forms (hour INTEGER NOT NULL, account TEXT NOT NULL, licensed INTEGER NOT NULL, PRIMARY KEY (hour, account))
    STRICT, WITHOUT ROWID;
CREATE TABLE identities (id INTEGER PRIMARY KEY, identifier TEXT NOT NULL UNIQUE, account TEXT NOT NULL) STRICT;
CREATE TABLE licenses (
    license TEXT PRIMARY KEY, account TEXT NOT NULL, agreement TEXT, event_at INTEGER NOT NULL,
    deprovisioned_at INTEGER) STRICT, WITHOUT ROWID;
CREATE INDEX licenses_event_at ON licenses (event_at);
CREATE INDEX licenses_deprovisioned_at ON licenses (deprovisioned_at) WHERE deprovisioned_at IS NOT NULL;
CREATE TABLE marketplace_events (id TEXT PRIMARY KEY, seen_at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX marketplace_events_seen_at ON marketplace_events (seen_at);
CREATE INDEX identities_account ON identities (account);
CREATE TABLE remainders (
    customer TEXT NOT NULL, dimension TEXT NOT NULL, scale TEXT NOT NULL, amount BLOB NOT NULL,
    PRIMARY KEY (customer, dimension, scale)) STRICT, WITHOUT ROWID;
INSERT INTO licenses VALUES ('l-demo', '111122223333', 'agmt-1', 1795503600000, NULL),
    ('l-ended', '111122223333', 'agmt-2', 1795503600000, 1795503600000);
INSERT INTO marketplace_events VALUES ('event-1', 1795503600000);
INSERT INTO meta VALUES
    ('schema', '4'), ('min_reader', '4'), ('rules', '{"storage":"sum 1000 none"}'), ('ledger_id', '0f0e0d0c0b0a09080706050403020100'), ('last_closed', '498751'),
    ('pod', 'pod-1'), ('started_at', '1795500000000'), ('forgotten_before', '1795334400000');
INSERT INTO keys_1 VALUES (X'39E10F0027E59715E21B177F02440CEB', X'0000000000000007');
INSERT INTO key_tables VALUES
    (0, 1, NULL, NULL, 0), (1, 2, 1795507200000, 1795507200000, 1), (2, 0, NULL, NULL, 0), (3, 0, NULL, NULL, 0);
INSERT INTO slots VALUES
    (1, 'pod-1', '', 'requests', 498752, 'sum', X'00000000000000000000000000000007', X'00000000000000000000000000000000',
        X'0000000000000000000000000000001B', 1, 252, 1795507200000, 498750, NULL, NULL);
INSERT INTO shares VALUES
    (1, '{"team":"a"}', X'0000000000000000000000000000000F', X'00000000000000000000000000000005');
INSERT INTO records VALUES
    (1, 'pod-1', '', 'requests', 498749, 100, 1, '[]', 1795496400000, 'token-1', NULL, 'accepted', 0, 0, 1, NULL, 'id-1', 1, 1,
        'us-east-1', 0, 0, NULL, NULL, NULL, NULL, 0),
    (2, 'pod-1', '', 'requests', 498750, 3000000, 0, '[{"tags":{"team":"a"},"micros":1000000},{"tags":{},"micros":2000000}]',
        1795500000123, 'token-2', NULL, 'sealed', 0, 1, 1, NULL, NULL, 2, 2, 'us-east-1', 0, 0, NULL, NULL, NULL, NULL, 2),
    (3, 'pod-1', '', 'requests', 498751, 40, 1, '[]', 1795503600000, 'token-3', 498748, 'sealed', 0, 0, 2, 'ThrottlingException', NULL,
        3, 3, 'us-east-1', 5, 0, NULL, NULL, NULL, NULL, 0),
    (4, 'pod-0', '', 'requests', 498748, 40, 1, '[]', 1795492800000, 'token-4', NULL, 'carried', 0, 0, 0, 'expired', NULL, 4, 4,
        NULL, 0, 0, NULL, NULL, NULL, NULL, 0),
    (5, 'pod-0', '', 'requests', 498747, 500, 1, '[]', 1795489200000, 'token-5', NULL, 'dead', 1, 0, 9, 'in_doubt', NULL, 5, 5,
        'us-east-1', 0, 0, NULL, NULL, NULL, NULL, 0);
INSERT INTO links VALUES (4, NULL, 3);
INSERT INTO audit VALUES (1, 1795503600000, 5, 'note', 'asked the seller');
INSERT INTO counts VALUES ('slots', 1), ('shares', 1), ('sealed', 2), ('claimed', 0), ('accepted', 1), ('carried', 1),
    ('dead', 1), ('discarded', 0);
INSERT INTO totals VALUES
    ('requests', X'000000000000000000000000002DE0CB', NULL, X'000000000000000000000000000017D4',
        X'000000000000000000000000002DC703', X'000000000000000000000000000001F4', NULL, NULL, X'00000000000000000000000000001770', NULL),
    ('storage', X'00000000000000000000000000000005', NULL, NULL, NULL, NULL, NULL, X'00000000000000000000000000000005', NULL, NULL);
INSERT INTO remainders VALUES ('', 'storage', '1000000000', X'00000000000000000000000000000005');
-- After the rows, which they would count again.
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
