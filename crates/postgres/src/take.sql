-- Counts a group of events in the transaction of the caller. A released function never changes: a program of the version
-- before may call it. Each statement below has a snapshot of its own, younger than the locks (READ COMMITTED).
--
-- `present` and `settling`: the hours of the time, and of the time less `settle` (milliseconds), that the caller assumes.
-- `locks`: the second parts of the keys of the hours' locks, ascending. `r_*`: rules by which the caller counts and of
-- which it does not know whether the hour began with them, ascending. `f_*`: forms that the caller does not know.
-- `s_*`: slots; `s_form` is the number of the slot's form in `f_*`, from 1; `s_is_max`: the largest event counts. `e_*`:
-- events with a key, in the order of their hashes, and aggregates of events without one (`e_hash` NULL). An event whose
-- `e_slot` is NULL is only looked up. An amount is `e_amount` + 2^62 * `e_high`; `e_high` is empty if all amounts are at
-- most 2^62, and `e_amount` is 0 only if the amount is.
--
-- Result: `status` is `counted`, or why nothing was counted: `stale` (the caller's facts are old), `ended` (another
-- connection of this writer has begun, or its row is gone), `rules` (`rule_*`: the hours began with other rules than
-- the caller's), `forms` (of those that the caller does not know, `form_*` are known here). `left_hash`: keys that were
-- not claimed; `known_*`: those of them that were claimed before.
CREATE FUNCTION tollgate.take_1(
    w bigint, w_session bigint, w_group bigint, known_version bigint, present bigint, settling bigint, settle bigint,
    locks int[],
    r_hour bigint[], r_dimension text[], r_rule text[],
    f_hour bigint[], f_account text[], f_form smallint[],
    s_hour bigint[], s_customer text[], s_dimension text[], s_key bytea[], s_tags text[], s_form int[],
    s_is_max boolean[],
    e_hash bytea[], e_content bytea[], e_slot int[], e_amount bigint[], e_high bigint[], e_first bigint[],
    e_late bigint[],
    OUT status text, OUT now bigint, OUT left_hash bytea[], OUT known_hash bytea[], OUT known_content bytea[],
    OUT form_hour bigint[], OUT form_account text[], OUT form_form smallint[],
    OUT rule_hour bigint[], OUT rule_dimension text[], OUT rule_rule text[])
LANGUAGE plpgsql VOLATILE
-- The plans do not know how long the arrays are. Nested loops over two of them would take seconds.
SET enable_nestloop = off SET enable_mergejoin = off SET jit = off SET plan_cache_mode = force_generic_plan
AS $take$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'the ledger needs default_transaction_isolation = read committed';
    END IF;
    IF current_setting('synchronous_commit') <> 'remote_apply' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    PERFORM set_config('lock_timeout', '5s', true);
    PERFORM pg_advisory_xact_lock_shared(1953459308, hour) FROM unnest(locks) AS hour;
    now := tollgate.ledger_now();
    PERFORM 1 FROM tollgate.ledger WHERE version = known_version AND state = 'ready';
    IF NOT FOUND OR now / 3600000 <> present OR (now - settle) / 3600000 <> settling THEN
        status := 'stale';
        RETURN;
    END IF;
    IF cardinality(r_hour) > 0 THEN
        -- The first replica that counts usage of the hour notes its rule. The others wait for its commit.
        INSERT INTO tollgate.rules (hour, dimension, rule)
            SELECT hour, dimension, rule FROM unnest(r_hour, r_dimension, r_rule) AS ours (hour, dimension, rule)
            ON CONFLICT DO NOTHING;
        SELECT array_agg(rules.hour), array_agg(rules.dimension), array_agg(rules.rule)
            INTO rule_hour, rule_dimension, rule_rule
            FROM unnest(r_hour, r_dimension, r_rule) AS ours (hour, dimension, rule)
            JOIN tollgate.rules ON rules.hour = ours.hour AND rules.dimension = ours.dimension
            WHERE rules.rule <> ours.rule;
        IF rule_hour IS NOT NULL THEN
            status := 'rules';
            RETURN;
        END IF;
    END IF;
    IF cardinality(f_hour) > 0 THEN
        SELECT array_agg(forms.hour), array_agg(forms.account), array_agg(forms.form)
            INTO form_hour, form_account, form_form
            FROM unnest(f_hour, f_account) AS asked (hour, account)
            JOIN tollgate.forms ON forms.hour = asked.hour AND forms.account = asked.account;
        IF form_hour IS NOT NULL THEN
            status := 'forms';
            RETURN;
        END IF;
    END IF;
    UPDATE tollgate.writers SET last_group = w_group, seen_at = clock_timestamp() WHERE id = w AND session = w_session;
    IF NOT FOUND THEN
        status := 'ended';
        RETURN;
    END IF;
    WITH events AS MATERIALIZED (
        SELECT * FROM unnest(e_hash, e_content, e_slot, e_amount, e_high, e_first, e_late)
            AS event (hash, content, slot, amount, high, first_at, late_from)),
    claimed AS (
        INSERT INTO tollgate.keys (hash, content, hour)
            SELECT hash, content, present FROM events WHERE hash IS NOT NULL AND amount > 0 AND slot IS NOT NULL
            ON CONFLICT DO NOTHING RETURNING hash),
    counted AS (
        SELECT slot, amount, high, first_at, late_from FROM events WHERE hash IS NULL
        UNION ALL
        SELECT slot, amount, high, first_at, late_from FROM events JOIN claimed USING (hash) WHERE amount > 0
        UNION ALL
        -- An event of 0 keeps no key.
        SELECT slot, amount, high, first_at, late_from FROM events
            WHERE hash IS NOT NULL AND amount = 0 AND slot IS NOT NULL
                AND NOT EXISTS (SELECT FROM tollgate.keys WHERE keys.hash = events.hash)),
    -- Almost no amount is above 2^62: arithmetic with numeric would cost more than all else here.
    parts AS (
        SELECT slot, sum(amount) + coalesce(4611686018427387904 * sum(high), 0) AS amount,
            greatest(max(amount) FILTER (WHERE high IS NULL),
                max(CASE WHEN high IS NOT NULL THEN 4611686018427387904 * high::numeric + amount END)) AS peak,
            min(first_at) AS first_at, min(late_from) AS late_from
            FROM counted WHERE slot IS NOT NULL GROUP BY slot),
    slots AS MATERIALIZED (
        SELECT s.hour, s.customer, s.dimension, s.tags_key, s.tags, s.form,
            CASE WHEN s.is_max THEN 0 ELSE parts.amount END AS amount, CASE WHEN s.is_max THEN parts.peak END AS peak,
            parts.first_at, parts.late_from
            FROM unnest(s_hour, s_customer, s_dimension, s_key, s_tags, s_form, s_is_max) WITH ORDINALITY
                AS s (hour, customer, dimension, tags_key, tags, form, is_max, slot) JOIN parts ON parts.slot = s.slot),
    summed AS (
        INSERT INTO tollgate.sums AS sums
            (hour, customer, dimension, writer, tags_key, tags, amount, peak, first_at, late_from)
            SELECT hour, customer, dimension, w, tags_key, tags, amount, peak, first_at, late_from FROM slots
            ON CONFLICT (hour, customer, dimension, writer, tags_key) DO UPDATE
                SET amount = sums.amount + excluded.amount, peak = greatest(sums.peak, excluded.peak),
                    first_at = least(sums.first_at, excluded.first_at),
                    late_from = least(sums.late_from, excluded.late_from)),
    total AS (
        INSERT INTO tollgate.accepted AS accepted (customer, dimension, writer, amount)
            SELECT customer, dimension, w, sum(amount) FROM slots GROUP BY customer, dimension
            ON CONFLICT (customer, dimension, writer) DO UPDATE SET amount = accepted.amount + excluded.amount),
    -- Another replica may note another form at the same time: then this fails, and the caller tries again.
    formed AS (
        INSERT INTO tollgate.forms (hour, account, form)
            SELECT form.hour, account, form.form FROM unnest(f_hour, f_account, f_form) WITH ORDINALITY
                AS form (hour, account, form, number) WHERE number IN (SELECT slots.form FROM slots))
    SELECT array_agg(events.hash) INTO left_hash FROM events LEFT JOIN claimed ON claimed.hash = events.hash
        WHERE events.hash IS NOT NULL AND claimed.hash IS NULL;
    IF left_hash IS NOT NULL THEN
        SELECT array_agg(hash), array_agg(content) INTO known_hash, known_content
            FROM tollgate.keys WHERE hash = ANY (left_hash);
    END IF;
    status := 'counted';
END
$take$;
