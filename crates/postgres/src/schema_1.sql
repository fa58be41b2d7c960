-- The tables of schema 1; `schema.rs` describes them. Text that is a key, or that rows are ordered by, is compared by
-- its bytes: another version of the system's collations changes no order, so it damages no index.
CREATE TABLE tollgate.ledger (
    one boolean PRIMARY KEY DEFAULT true CHECK (one), schema int NOT NULL, min_reader int NOT NULL,
    ledger_id text NOT NULL, product text NOT NULL, state text NOT NULL DEFAULT 'ready', started_at bigint NOT NULL,
    closed bigint NOT NULL, version bigint NOT NULL DEFAULT 0, flushed bigint NOT NULL DEFAULT 0,
    forgotten bigint, denied boolean NOT NULL DEFAULT false);
CREATE FUNCTION tollgate.ledger_now() RETURNS bigint LANGUAGE sql VOLATILE AS
    'SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint';
CREATE TABLE tollgate.writers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, session bigint NOT NULL DEFAULT 0,
    last_group bigint NOT NULL DEFAULT 0, name text NOT NULL, seen_at timestamptz NOT NULL DEFAULT clock_timestamp())
    WITH (fillfactor = 50);
CREATE TABLE tollgate.lease (
    name text COLLATE "C" PRIMARY KEY, holder bigint, epoch bigint NOT NULL DEFAULT 0,
    expires_at timestamptz NOT NULL DEFAULT '-infinity') WITH (fillfactor = 50);
INSERT INTO tollgate.lease (name) VALUES ('sender');
CREATE TABLE tollgate.keys (hash bytea PRIMARY KEY, content bytea NOT NULL, hour bigint NOT NULL) PARTITION BY HASH (hash);
CREATE TABLE tollgate.sums (
    hour bigint NOT NULL, customer text COLLATE "C" NOT NULL, dimension text COLLATE "C" NOT NULL, writer bigint NOT NULL,
    tags_key bytea NOT NULL, tags text COLLATE "C" NOT NULL, amount numeric(38,0) NOT NULL, peak numeric(38,0),
    additive numeric(38,0) NOT NULL DEFAULT 0, first_at bigint NOT NULL, late_from bigint,
    PRIMARY KEY (hour, customer, dimension, writer, tags_key)) WITH (fillfactor = 70);
CREATE TABLE tollgate.rules (
    hour bigint NOT NULL, dimension text COLLATE "C" NOT NULL, rule text NOT NULL, PRIMARY KEY (hour, dimension));
CREATE TABLE tollgate.remainders (
    customer text COLLATE "C" NOT NULL, dimension text COLLATE "C" NOT NULL, scale numeric(38,0) NOT NULL,
    amount numeric(38,0) NOT NULL, PRIMARY KEY (customer, dimension, scale)) WITH (fillfactor = 70);
CREATE TABLE tollgate.accepted (
    customer text COLLATE "C" NOT NULL, dimension text COLLATE "C" NOT NULL, writer bigint NOT NULL,
    amount numeric(38,0) NOT NULL, PRIMARY KEY (customer, dimension, writer)) WITH (fillfactor = 70);
CREATE TABLE tollgate.outcome (
    customer text COLLATE "C" NOT NULL, dimension text COLLATE "C" NOT NULL, billed numeric(38,0) NOT NULL DEFAULT 0,
    discarded numeric(38,0) NOT NULL DEFAULT 0, rounded_up numeric(38,0) NOT NULL DEFAULT 0,
    PRIMARY KEY (customer, dimension)) WITH (fillfactor = 70);
CREATE TABLE tollgate.records (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer text COLLATE "C" NOT NULL,
    dimension text COLLATE "C" NOT NULL, hour bigint NOT NULL, micros bigint NOT NULL, decimal boolean NOT NULL,
    allocations text NOT NULL, allocation_count int NOT NULL, timestamp bigint NOT NULL, client_token text NOT NULL,
    late_from bigint, state text COLLATE "C" NOT NULL, in_doubt boolean NOT NULL DEFAULT false,
    attempting boolean NOT NULL DEFAULT false, unconfirmed boolean NOT NULL DEFAULT false,
    attempts bigint NOT NULL DEFAULT 0, epoch bigint, code text, metering_record_id text, sealed_at bigint NOT NULL,
    updated_at bigint NOT NULL, due_at bigint NOT NULL DEFAULT 0, region text, raw numeric(38,0), rounded numeric(38,0),
    UNIQUE (customer, dimension, hour)) WITH (fillfactor = 80);
CREATE INDEX records_due ON tollgate.records (due_at, id) WHERE state = 'sealed';
CREATE INDEX records_doubt ON tollgate.records (due_at, id) WHERE state = 'sealed' AND in_doubt;
CREATE INDEX records_oldest ON tollgate.records (timestamp) WHERE state = 'sealed';
CREATE INDEX records_state ON tollgate.records (state, hour, id);
CREATE TABLE tollgate.settled (
    day int NOT NULL, id bigint NOT NULL, customer text COLLATE "C" NOT NULL, dimension text COLLATE "C" NOT NULL,
    hour bigint NOT NULL, micros bigint NOT NULL, decimal boolean NOT NULL, allocations text NOT NULL,
    allocation_count int NOT NULL, timestamp bigint NOT NULL, client_token text NOT NULL, late_from bigint,
    state text COLLATE "C" NOT NULL, in_doubt boolean NOT NULL, unconfirmed boolean NOT NULL, attempts bigint NOT NULL,
    epoch bigint, code text, metering_record_id text, sealed_at bigint NOT NULL, updated_at bigint NOT NULL, region text,
    raw numeric(38,0), rounded numeric(38,0), UNIQUE (customer, dimension, hour, day)) PARTITION BY RANGE (day);
CREATE INDEX settled_id ON tollgate.settled (id);
CREATE INDEX settled_hour ON tollgate.settled (hour, id);
CREATE TABLE tollgate.settled_other PARTITION OF tollgate.settled DEFAULT;
CREATE TABLE tollgate.daily (
    day int NOT NULL, customer text COLLATE "C" NOT NULL, dimension text COLLATE "C" NOT NULL,
    billed numeric(38,0) NOT NULL, discarded numeric(38,0) NOT NULL, records bigint NOT NULL,
    PRIMARY KEY (day, customer, dimension)) WITH (fillfactor = 70);
CREATE TABLE tollgate.forms (
    hour bigint NOT NULL, account text COLLATE "C" NOT NULL, form smallint NOT NULL, PRIMARY KEY (hour, account));
CREATE TABLE tollgate.identities (
    identifier text COLLATE "C" PRIMARY KEY, account text COLLATE "C" NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY);
CREATE INDEX identities_account ON tollgate.identities (account);
CREATE TABLE tollgate.closed_early (
    customer text COLLATE "C" NOT NULL, hour bigint NOT NULL, in_time boolean NOT NULL DEFAULT true,
    PRIMARY KEY (hour, customer));
CREATE TABLE tollgate.licenses (
    license text COLLATE "C" PRIMARY KEY, account text NOT NULL, agreement text, event_at bigint NOT NULL,
    deprovisioned_at bigint);
CREATE INDEX licenses_event_at ON tollgate.licenses (event_at);
CREATE INDEX licenses_deprovisioned_at ON tollgate.licenses (deprovisioned_at) WHERE deprovisioned_at IS NOT NULL;
CREATE TABLE tollgate.marketplace_events (id text COLLATE "C" PRIMARY KEY, seen_at bigint NOT NULL);
CREATE INDEX marketplace_events_seen_at ON tollgate.marketplace_events (seen_at);
CREATE TABLE tollgate.links (
    source bigint NOT NULL, hour bigint, customer text COLLATE "C", dimension text COLLATE "C", target bigint);
CREATE INDEX links_slot ON tollgate.links (hour, customer, dimension) WHERE target IS NULL;
CREATE INDEX links_source ON tollgate.links (source);
CREATE INDEX links_target ON tollgate.links (target);
CREATE TABLE tollgate.audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at bigint NOT NULL, record bigint NOT NULL, action text NOT NULL,
    note text NOT NULL);
DO $$
BEGIN
    FOR part IN 0..15 LOOP
        EXECUTE format(
            'CREATE TABLE tollgate.keys_%s PARTITION OF tollgate.keys FOR VALUES WITH (MODULUS 16, REMAINDER %s)', part, part);
    END LOOP;
END $$;
