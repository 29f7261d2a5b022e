-- The statements of the PostgreSQL adapter, by name; :words are parameters. A call that concerns many rows is one
-- statement with arrays. Where two transactions may want the same rows, the caller has sorted them, and every
-- transaction takes the tables in the same order (see appending.py), so none waits for another in a circle.


-- name: is_there
-- Whether the schema that we would write to has a store.
SELECT EXISTS (
    SELECT FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relname = 'store' AND relkind = 'r'
)

-- name: setting
-- Rides the primary key of store.
SELECT value FROM store WHERE key = :key

-- name: put_setting
-- Rides the primary key of store.
INSERT INTO store (key, value) VALUES (:key, :value) ON CONFLICT (key) DO UPDATE SET value = excluded.value

-- name: lock_migrations
-- One migration at a time for each schema of a database; let go of at the end of the transaction.
SELECT pg_advisory_xact_lock(hashtextextended('eventcore ' || current_schema(), 0))

-- name: lock_store
-- Waits for every transaction that has read the schema version, and lets none read it before we are done.
LOCK TABLE store IN ACCESS EXCLUSIVE MODE

-- name: head
-- What a transaction must know first: whether the schema is still ours, whether the store has become another, and the mark
-- of the list of dimensions.
SELECT
    (SELECT value FROM store WHERE key = 'schema_version'),
    (SELECT value FROM store WHERE key = 'epoch'),
    (SELECT value FROM store WHERE key = 'dimensions')


-- name: find_projects
-- Rides the unique index on projects.name.
SELECT name, project_key FROM projects WHERE name = ANY (:names::text[])

-- name: insert_projects
-- Names that are there already stay as they are; rides the unique index on projects.name.
INSERT INTO projects (name) SELECT unnest(:names::text[]) ON CONFLICT (name) DO NOTHING

-- name: find_chunks
-- Rides the primary key of chunks.
SELECT chunk_id FROM chunks WHERE chunk_id = ANY (:chunk_ids::uuid[])

-- name: insert_chunks
-- Remembers the ids; tells those that were not known. Waits for who is writing the same chunk. Rides the primary key.
INSERT INTO chunks (chunk_id, received_at)
SELECT * FROM unnest(:chunk_ids::uuid[], :received_at::timestamptz[])
ON CONFLICT (chunk_id) DO NOTHING
RETURNING chunk_id

-- name: insert_letters
-- Of what is there already only the last attempt is new, and the last column is false; a row that is written for the
-- first time has no xmax. Rides the primary key of dead_events.
INSERT INTO dead_events AS letter (
    project_key, event_id, fingerprint, received_at, died_at, import_id, attempts, reason, event
)
SELECT *
FROM unnest(
    :project_keys::integer[], :event_ids::bytea[], :fingerprints::bytea[], :received_at::timestamptz[],
    :died_at::timestamptz[], :import_ids::uuid[], :attempts::integer[], :reasons::text[], :events::bytea[]
)
ON CONFLICT (project_key, event_id, fingerprint) DO UPDATE SET
    died_at = excluded.died_at,
    attempts = excluded.attempts,
    reason = excluded.reason
RETURNING project_key, event_id, fingerprint, xmax = 0

-- name: take_letters
-- Locks them in the order in which others lock them, then deletes them and tells what they were. Rides
-- dead_events_by_name, then the primary key.
WITH taken AS MATERIALIZED (
    SELECT project_key, event_id, fingerprint
    FROM dead_events
    WHERE project_key = (SELECT project_key FROM projects WHERE name = :project)
        AND event_id || fingerprint = ANY (:names::bytea[])
    ORDER BY event_id, fingerprint
    FOR UPDATE
)
DELETE FROM dead_events AS letter USING taken
WHERE (letter.project_key, letter.event_id, letter.fingerprint)
    = (taken.project_key, taken.event_id, taken.fingerprint)
RETURNING event, received_at, import_id, reason, attempts, died_at

-- name: drop_letters
-- As take_letters, but only counts them, in the project too.
WITH taken AS MATERIALIZED (
    SELECT project_key, event_id, fingerprint
    FROM dead_events
    WHERE project_key = (SELECT project_key FROM projects WHERE name = :project)
        AND event_id || fingerprint = ANY (:names::bytea[])
    ORDER BY event_id, fingerprint
    FOR UPDATE
), gone AS (
    DELETE FROM dead_events AS letter USING taken
    WHERE (letter.project_key, letter.event_id, letter.fingerprint)
        = (taken.project_key, taken.event_id, taken.fingerprint)
    RETURNING letter.project_key
)
UPDATE projects SET dropped = dropped + letters
FROM (SELECT project_key, count(*) AS letters FROM gone GROUP BY project_key) AS counted
WHERE projects.project_key = counted.project_key
RETURNING letters

-- name: claim_ids
-- Claims the ids that are free and counts them; where some were taken, also tells which were free. :names has the
-- bytes of project key and id of one event after the other, as :fingerprints has those of fingerprints, which is much
-- cheaper to send than arrays; the n-th of :project_keys holds from the n-th of :starts on. Rides the primary key of
-- event_ledger.
WITH claimed AS (
    INSERT INTO event_ledger (project_key, event_id, occurred_us, fingerprint)
    SELECT
        (:project_keys::integer[])[width_bucket(at::integer, :starts::integer[])],
        encode(substr(:names::bytea, at::integer * 20 - 15, 16), 'hex')::uuid,
        occurred_us,
        substr(:fingerprints::bytea, at::integer * 16 - 15, 16)
    FROM unnest(:instants::bigint[]) WITH ORDINALITY AS wanted (occurred_us, at)
    ON CONFLICT (project_key, event_id) DO NOTHING
    RETURNING project_key, event_id
)
SELECT
    count(*),
    CASE
        WHEN count(*) < cardinality(:instants::bigint[])
        THEN string_agg(int4send(project_key) || uuid_send(event_id), ''::bytea)
    END
FROM claimed

-- name: ledger
-- What the ledger says of these ids; rides its primary key.
SELECT event_ledger.project_key, event_ledger.event_id, occurred_us, fingerprint
FROM unnest(:project_keys::integer[], :event_ids::uuid[]) AS wanted (project_key, event_id)
JOIN event_ledger USING (project_key, event_id)

-- name: stored_events
-- The events with these ids, whose instants the ledger told. Rides events_by_time, then the indexes of keys, in this
-- order: a planner that has no statistics yet would join the users of a project first. :first and :last bound the
-- instants for TimescaleDB, which opens the chunks between them only.
WITH found AS MATERIALIZED (
    SELECT events.*
    FROM unnest(:project_keys::integer[], :instants::timestamptz[], :event_ids::uuid[])
        AS wanted (project_key, occurred_at, event_id)
    JOIN events USING (project_key, occurred_at, event_id)
    WHERE events.occurred_at BETWEEN :first::timestamptz AND :last::timestamptz
)
SELECT project_key, event_id, user_id, name, occurred_at, properties, received_at, import_id
FROM found JOIN users USING (project_key, user_key) JOIN event_types USING (project_key, type_key)

-- name: find_users
-- Rides the primary key of users.
SELECT user_id, user_key FROM users WHERE project_key = :project_key AND user_id = ANY (:names::text[])

-- name: find_types
-- Rides the primary key of event_types.
SELECT name, type_key FROM event_types WHERE project_key = :project_key AND name = ANY (:names::text[])

-- name: lock_keys
-- From here to the end of the transaction nobody else gives out keys of this project; rides the primary key.
SELECT project_key FROM projects WHERE project_key = :project_key FOR NO KEY UPDATE

-- name: insert_users
-- Gives keys to users that have none, which only the holder of the lock knows; rides the primary key of projects.
WITH counted AS (
    UPDATE projects SET users = users + cardinality(:names::text[]) WHERE project_key = :project_key
    RETURNING users - cardinality(:names::text[]) AS first_key
)
INSERT INTO users (project_key, user_key, user_id)
SELECT :project_key, first_key + at::integer - 1, user_id
FROM counted, unnest(:names::text[]) WITH ORDINALITY AS wanted (user_id, at)
RETURNING user_id, user_key

-- name: insert_types
-- As insert_users.
WITH counted AS (
    UPDATE projects SET event_types = event_types + cardinality(:names::text[]) WHERE project_key = :project_key
    RETURNING event_types - cardinality(:names::text[]) AS first_key
)
INSERT INTO event_types (project_key, type_key, name)
SELECT :project_key, first_key + at::integer - 1, name
FROM counted, unnest(:names::text[]) WITH ORDINALITY AS wanted (name, at)
RETURNING name, type_key

-- name: share_dimensions
-- To the end of the transaction nobody changes the list of dimensions in this schema of this database.
SELECT pg_advisory_xact_lock_shared(hashtextextended('eventcore dimensions ' || current_schema(), 0))

-- name: lock_dimensions
-- Waits for every transaction that appends, and lets none begin before we are done.
SELECT pg_advisory_xact_lock(hashtextextended('eventcore dimensions ' || current_schema(), 0))

-- name: live_dimensions
-- Of all projects, those whose facts are written; they are few.
SELECT project_key, dimension_key, name FROM dimensions WHERE state IN ('building', 'ready') ORDER BY dimension_key

-- name: dimensions
-- Of a project, by name, with how many values are kept; rides the unique index of dimensions.
SELECT d.name, state, (
    SELECT count(DISTINCT value) FROM combinations AS c WHERE c.dimension_key = d.dimension_key AND value <> ''
)
FROM dimensions AS d JOIN projects USING (project_key)
WHERE projects.name = :project
ORDER BY d.name

-- name: ready
-- Those that answer questions; rides the unique index of dimensions.
SELECT dimension_key, name FROM dimensions WHERE project_key = :project_key AND state = 'ready'

-- name: count_dimensions
-- Rides the unique index of dimensions.
SELECT count(*) FROM dimensions WHERE project_key = :project_key

-- name: dimension
-- Rides the unique index of dimensions.
SELECT dimension_key, state FROM dimensions WHERE project_key = :project_key AND name = :name

-- name: state
-- Rides the primary key of dimensions.
SELECT state FROM dimensions WHERE dimension_key = :dimension_key

-- name: insert_dimension
-- One that is not there.
INSERT INTO dimensions (project_key, name, state) VALUES (:project_key, :name, 'building')
RETURNING dimension_key, state

-- name: delete_dimension
-- Rides the unique index of dimensions. Its combinations are dead now.
DELETE FROM dimensions
WHERE project_key = (SELECT project_key FROM projects WHERE name = :project) AND name = :name
RETURNING dimension_key

-- name: fill
-- Rides the primary key of dimensions.
UPDATE dimensions SET state = 'full' WHERE dimension_key = ANY (:dimension_keys::integer[])

-- name: finish
-- One that became full or is gone meanwhile stays so; rides the primary key of dimensions.
UPDATE dimensions SET state = 'ready' WHERE dimension_key = :dimension_key AND state = 'building'

-- name: find_combinations
-- Keys of these types and values of a dimension; rides the primary key of combinations.
SELECT c.type_key, c.value, combination_key
FROM unnest(:type_keys::integer[], :values::text[]) AS wanted (type_key, value)
JOIN combinations AS c ON c.type_key = wanted.type_key AND c.value = wanted.value
WHERE dimension_key = :dimension_key

-- name: values
-- How many combinations a dimension has, and the values in them; rides the primary key of combinations.
SELECT count(*), coalesce(array_agg(DISTINCT value), '{}') FROM combinations WHERE dimension_key = :dimension_key

-- name: insert_combinations
-- As insert_users.
WITH counted AS (
    UPDATE projects SET combinations = combinations + cardinality(:values::text[]) WHERE project_key = :project_key
    RETURNING combinations - cardinality(:values::text[]) AS first_key
)
INSERT INTO combinations (dimension_key, type_key, value, project_key, combination_key)
SELECT :dimension_key, type_key, value, :project_key, 1048576 + first_key + at::integer - 1
FROM counted, unnest(:type_keys::integer[], :values::text[]) WITH ORDINALITY AS wanted (type_key, value, at)
RETURNING type_key, value, combination_key

-- name: combinations
-- Of a dimension; rides the primary key of combinations.
SELECT combination_key, type_key, value FROM combinations WHERE dimension_key = :dimension_key

-- name: combination_keys
-- All of a project, live and dead; rides the unique index of combinations.
SELECT combination_key FROM combinations WHERE project_key = :project_key

-- name: live_combinations
-- The keys of those whose facts count; rides the unique index of dimensions and the primary key of combinations.
SELECT dimensions.project_key, combination_key
FROM dimensions JOIN combinations USING (dimension_key)
WHERE dimensions.project_key = ANY (:project_keys::integer[]) AND state IN ('building', 'ready')

-- name: dead_dimensions
-- Whose combinations are to be deleted; steps through the primary key of combinations from dimension to dimension.
WITH RECURSIVE found (dimension_key) AS (
    SELECT min(dimension_key) FROM combinations
    UNION ALL
    SELECT (SELECT min(c.dimension_key) FROM combinations AS c WHERE c.dimension_key > found.dimension_key)
    FROM found WHERE found.dimension_key IS NOT NULL
)
SELECT dimension_key
FROM found
WHERE dimension_key NOT IN (SELECT dimension_key FROM dimensions WHERE state IN ('building', 'ready'))

-- name: delete_dead_rows
-- Walks activity_bitmaps.
DELETE FROM activity_bitmaps AS b
USING combinations AS c
WHERE c.dimension_key = ANY (:dimension_keys::integer[])
    AND b.project_key = c.project_key AND b.type_key = c.combination_key

-- name: delete_dead_combinations
-- Rides the primary key of combinations.
DELETE FROM combinations WHERE dimension_key = ANY (:dimension_keys::integer[])

-- name: insert_conflicts
-- Nothing for what is there already; rides the primary key of conflicts.
INSERT INTO conflicts (
    project_key, event_id, fingerprint, occurred_at, received_at, import_id, user_id, event_type, properties
)
SELECT *
FROM unnest(
    :project_keys::integer[], :event_ids::uuid[], :fingerprints::bytea[], :occurred_at::timestamptz[],
    :received_at::timestamptz[], :import_ids::uuid[], :user_ids::text[], :event_types::text[], :properties::text[]
)
ON CONFLICT (project_key, event_id, fingerprint) DO NOTHING

-- name: add_to_books
-- Rides the primary key of ingestion_books.
INSERT INTO ingestion_books AS book (
    project_key, day, received, accepted, duplicates, conflicts, rejected,
    stored, duplicate_at_store, conflict_at_store, dead
)
SELECT *
FROM unnest(
    :project_keys::integer[], :days::date[], :received::bigint[], :accepted::bigint[], :duplicates::bigint[],
    :conflicts::bigint[], :rejected::bigint[], :stored::bigint[], :duplicate_at_store::bigint[],
    :conflict_at_store::bigint[], :dead::bigint[]
)
ON CONFLICT (project_key, day) DO UPDATE SET
    received = book.received + excluded.received,
    accepted = book.accepted + excluded.accepted,
    duplicates = book.duplicates + excluded.duplicates,
    conflicts = book.conflicts + excluded.conflicts,
    rejected = book.rejected + excluded.rejected,
    stored = book.stored + excluded.stored,
    duplicate_at_store = book.duplicate_at_store + excluded.duplicate_at_store,
    conflict_at_store = book.conflict_at_store + excluded.conflict_at_store,
    dead = book.dead + excluded.dead

-- name: insert_imports
-- Nothing for what is there already; rides the primary key of imports.
INSERT INTO imports (project_key, import_id)
SELECT * FROM unnest(:project_keys::integer[], :import_ids::uuid[])
ON CONFLICT (project_key, import_id) DO NOTHING

-- name: put_import
-- Rides the primary key of imports.
INSERT INTO imports (project_key, import_id, source, started_at, finished_at, outcome)
VALUES (:project_key, :import_id, :source, :started_at, :finished_at, :outcome)
ON CONFLICT (project_key, import_id) DO UPDATE SET
    source = excluded.source,
    started_at = excluded.started_at,
    finished_at = excluded.finished_at,
    outcome = excluded.outcome

-- name: api_keys
-- Reads api_keys whole: as few rows as a company has keys.
SELECT
    key_id, digest, project, scopes, label, origins, created_at AS created_us, expires_at AS expires_us,
    revoked_at AS revoked_us, last_used_at AS last_used_us
FROM api_keys ORDER BY created_at, key_id

-- name: put_api_key
-- Of a key that is there only the end changes, to the earlier one; no row for one of another digest. Rides the primary
-- key.
INSERT INTO api_keys AS known (
    key_id, digest, project, scopes, label, origins, created_at, expires_at, revoked_at, last_used_at
)
VALUES (
    :key_id, :digest, :project, :scopes::text[], :label, :origins::text[], :created_us, :expires_us, :revoked_us,
    :last_used_us
)
ON CONFLICT (key_id) DO UPDATE SET revoked_at = least(known.revoked_at, excluded.revoked_at)
WHERE known.digest = excluded.digest
RETURNING key_id

-- name: touch_api_keys
-- Rides the primary key of api_keys.
UPDATE api_keys SET last_used_at = greatest(last_used_at, used_at)
FROM unnest(:key_ids::text[], :used_at::timestamptz[]) AS used (id, used_at)
WHERE key_id = id


-- name: books
-- Rides the primary key of ingestion_books.
SELECT
    to_char(day, 'YYYY-MM-DD') AS date, received, accepted, duplicates, ingestion_books.conflicts, rejected, stored,
    duplicate_at_store, conflict_at_store, dead
FROM ingestion_books JOIN projects USING (project_key)
WHERE name = :project AND day BETWEEN :first::date AND :last::date
ORDER BY day

-- name: dead_letters
-- In the order of their names; rides dead_events_by_name, or the primary key where :event_ids is not null.
SELECT event, received_at, import_id, reason, attempts, died_at
FROM dead_events
WHERE project_key = (SELECT project_key FROM projects WHERE name = :project)
    AND event_id || fingerprint > :after::bytea
    AND (:event_ids::bytea[] IS NULL OR event_id = ANY (:event_ids::bytea[]))
ORDER BY event_id || fingerprint
LIMIT :most

-- name: durability
-- What decides whether a COMMIT that was answered survives a crash of the machine.
SELECT name, setting FROM pg_settings WHERE name IN ('synchronous_commit', 'fsync', 'full_page_writes')

-- name: counts
-- Rows of each project. Events are counted by the books, because counting millions of rows takes seconds; verify()
-- compares the two. The others ride primary keys.
SELECT
    name,
    (SELECT coalesce(sum(stored), 0)::bigint FROM ingestion_books WHERE project_key = p.project_key) AS events,
    users,
    event_types,
    (SELECT count(*) FROM conflicts WHERE project_key = p.project_key) AS conflicts,
    (SELECT count(*) FROM dead_events WHERE project_key = p.project_key) AS dead,
    (SELECT count(*) FROM imports WHERE project_key = p.project_key) AS imports
FROM projects AS p


-- name: question
-- What a question must know first: the project, the store's epoch, the zone and the newest fold of its projection, and
-- the first and last UTC day that have rows. No row for a project that nobody has named. Rides the primary keys.
SELECT
    project_key,
    (SELECT value FROM store WHERE key = 'epoch') AS epoch,
    (SELECT value FROM store WHERE key = 'projection_zone') AS zone,
    fold,
    mark,
    (SELECT min(period) FROM activity_bitmaps AS b WHERE b.project_key = p.project_key AND grain = 0) AS first_day,
    (SELECT max(period) FROM activity_bitmaps AS b WHERE b.project_key = p.project_key AND grain = 0) AS last_day
FROM projects AS p LEFT JOIN LATERAL (
    SELECT fold, mark FROM activity_folds AS f WHERE f.project_key = p.project_key ORDER BY fold DESC LIMIT 1
) AS newest ON true
WHERE name = :project

-- name: version
-- The epoch, and for a project: how many events are stored, and its newest fold. Rides primary keys.
SELECT
    (SELECT value FROM store WHERE key = 'epoch'),
    (SELECT sum(stored) FROM ingestion_books AS b WHERE b.project_key = p.project_key),
    (SELECT mark FROM activity_folds AS f WHERE f.project_key = p.project_key ORDER BY fold DESC LIMIT 1)
FROM projects AS p WHERE name = :project

-- name: as_of
-- Up to when a replica has everything: the last commit that it has replayed, or what it began with. An idle primary looks
-- like one that is far away, which is true in that nothing newer is claimed. Null where this is no replica.
SELECT (extract(epoch FROM coalesce(
    pg_last_xact_replay_timestamp(), (SELECT checkpoint_time FROM pg_control_checkpoint())
)) * 1000000)::bigint
WHERE pg_is_in_recovery()

-- name: type_names
-- Of all types, or of those that :names has; rides the primary key of event_types.
SELECT type_key, name
FROM event_types
WHERE project_key = :project_key AND (:names::text[] IS NULL OR name = ANY (:names::text[]))

-- name: folds_since
-- What the folds from this one on have changed, itself included, in order; rides the primary key of activity_folds.
SELECT fold, mark, periods FROM activity_folds WHERE project_key = :project_key AND fold >= :fold ORDER BY fold

-- name: read_rows
-- The rows of these periods and types; rides the primary key of activity_bitmaps.
SELECT grain, period, type_key, events, users
FROM unnest(:grains::smallint[], :periods::integer[]) AS wanted (grain, period)
JOIN activity_bitmaps USING (grain, period)
WHERE project_key = :project_key AND type_key = ANY (:type_keys::integer[])

-- name: read_rows_of_all_types
-- The same, and those of all types besides; combinations begin at 1048576.
SELECT grain, period, type_key, events, users
FROM unnest(:grains::smallint[], :periods::integer[]) AS wanted (grain, period)
JOIN activity_bitmaps USING (grain, period)
WHERE project_key = :project_key AND (type_key BETWEEN 0 AND 1048575 OR type_key = ANY (:type_keys::integer[]))

-- name: tally_activity
-- The users of every event that is not folded yet, by piece of time, and by type where types are :told apart (else as
-- type -1); combinations, which begin at 1048576, only where they are named. Piece n begins with the n-th of :bounds (from 1); only pieces that are :wanted count. Reads activity_delta
-- whole, which the fold keeps small: an index on the quarter made writing events of many days a sixth slower.
SELECT piece, type_key, string_agg(users, ''::bytea)
FROM (
    SELECT
        width_bucket(quarter, :bounds::integer[]) AS piece,
        CASE WHEN :told THEN type_key ELSE -1 END AS type_key,
        users
    FROM activity_delta
    WHERE project_key = :project_key
        AND quarter >= (:bounds::integer[])[1]
        AND quarter < (:bounds::integer[])[cardinality(:bounds::integer[])]
        AND ((:all_types AND activity_delta.type_key < 1048576) OR activity_delta.type_key = ANY (:type_keys::integer[]))
) AS fact
WHERE (:wanted::boolean[])[piece]
GROUP BY piece, type_key

-- name: tally_events
-- The same from the events, for pieces that begin or end within a quarter of an hour; rides events_by_time.
SELECT piece, type_key, string_agg(int4send(user_key), ''::bytea)
FROM (
    SELECT
        width_bucket(occurred_at, :bounds::timestamptz[]) AS piece,
        CASE WHEN :told THEN type_key ELSE -1 END AS type_key,
        user_key
    FROM events
    WHERE project_key = :project_key
        AND occurred_at >= (:bounds::timestamptz[])[1]
        AND occurred_at < (:bounds::timestamptz[])[cardinality(:bounds::timestamptz[])]
        AND (:all_types OR events.type_key = ANY (:type_keys::integer[]))
) AS fact
WHERE (:wanted::boolean[])[piece]
GROUP BY piece, type_key

-- name: scan_events
-- The events of a span of time that may matter. The :needles are texts that the properties of every matching event
-- hold, unless it spells them with a backslash. Rides events_by_time.
SELECT occurred_at, type_key, user_key, properties
FROM events
WHERE project_key = :project_key
    AND occurred_at >= :start::timestamptz
    AND occurred_at < :end::timestamptz
    AND (:type_keys::integer[] IS NULL OR type_key = ANY (:type_keys::integer[]))
    AND (
        strpos(properties, E'\\') > 0
        OR NOT EXISTS (SELECT FROM unnest(:needles::text[]) AS needle WHERE strpos(properties, needle) = 0)
    )


-- name: lock_fold
-- Whether nobody else folds in this schema of this database; if so, nobody does to the end of the transaction.
SELECT pg_try_advisory_xact_lock(hashtextextended('eventcore fold ' || current_schema(), 0))

-- name: take_deltas
-- Takes away whole deltas, about as they came, until they hold :most_events or are :most_rows, and gives what they held
-- by quarter and type. What others commit meanwhile stays for the next time, wherever in the table it lies.
WITH taken AS (
    DELETE FROM activity_delta WHERE ctid = ANY (ARRAY(
        SELECT ctid
        FROM (
            SELECT ctid, events, sum(events) OVER (ROWS UNBOUNDED PRECEDING) AS up_to_here
            FROM (SELECT ctid, length(users) / 4 AS events FROM activity_delta LIMIT :most_rows) AS first_ones
        ) AS counted
        WHERE up_to_here - events < :most_events
    ))
    RETURNING project_key, quarter, type_key, users
)
SELECT project_key, quarter, type_key, string_agg(users, ''::bytea) FROM taken GROUP BY project_key, quarter, type_key

-- name: rows_to_change
-- Those of these rows that are there already; rides the primary key of activity_bitmaps.
SELECT project_key, grain, period, type_key, users
FROM unnest(:project_keys::integer[], :grains::smallint[], :periods::integer[], :type_keys::integer[])
    AS wanted (project_key, grain, period, type_key)
JOIN activity_bitmaps USING (project_key, grain, period, type_key)

-- name: put_rows
-- Events are added, users take the place of those before; rides the primary key of activity_bitmaps.
INSERT INTO activity_bitmaps AS known (project_key, grain, period, type_key, events, users, distinct_users)
SELECT *
FROM unnest(
    :project_keys::integer[], :grains::smallint[], :periods::integer[], :type_keys::integer[], :events::bigint[],
    :users::bytea[], :distinct_users::integer[]
)
ON CONFLICT (project_key, grain, period, type_key) DO UPDATE SET
    events = known.events + excluded.events,
    users = excluded.users,
    distinct_users = excluded.distinct_users

-- name: number_folds
-- Gives the fold of each project the next number and tells it; rides the primary key of activity_folds.
INSERT INTO activity_folds (project_key, fold, periods)
SELECT
    project_key,
    1 + coalesce((SELECT max(fold) FROM activity_folds AS f WHERE f.project_key = wanted.project_key), 0),
    periods
FROM unnest(:project_keys::integer[], :periods::bytea[]) AS wanted (project_key, periods)
RETURNING project_key, fold

-- name: forget_folds
-- Those of each project up to this number; rides the primary key of activity_folds.
DELETE FROM activity_folds AS old
USING unnest(:project_keys::integer[], :folds::bigint[]) AS wanted (project_key, fold)
WHERE old.project_key = wanted.project_key AND old.fold <= wanted.fold


-- The rebuild. Rows of the projection are only written by whoever has the lock of the fold.

-- name: wait_for_folds
-- From here to the end of the transaction nobody else folds or rebuilds in this schema of this database.
SELECT pg_advisory_xact_lock(hashtextextended('eventcore fold ' || current_schema(), 0))

-- name: day_counts
-- How many events each UTC day has by the ledger, which keeps them for ever, or 0 where only events say so. Reads both
-- tables whole.
SELECT project_key, day, sum(listed)::bigint
FROM (
    SELECT project_key, (occurred_us / 86400000000)::integer AS day, count(*) AS listed
    FROM event_ledger
    WHERE project_key = ANY (:project_keys::integer[])
    GROUP BY 1, 2
    UNION ALL
    SELECT DISTINCT project_key, floor(extract(epoch FROM occurred_at) / 86400)::integer, 0
    FROM events
    WHERE project_key = ANY (:project_keys::integer[])
) AS counted
GROUP BY project_key, day

-- name: periods
-- Of which UTC days there are rows, and of which local days and months; of the next zone's where :shift is 2, else 0.
SELECT DISTINCT project_key, CASE grain WHEN 0 THEN 0 ELSE grain - :shift::integer END, period
FROM activity_bitmaps
WHERE project_key = ANY (:project_keys::integer[])
    AND grain = ANY (ARRAY[0, 1 + :shift::integer, 2 + :shift::integer])

-- name: facts_of_day
-- The users of every event of a UTC day, and those of them that are not folded yet: one statement, so one snapshot.
-- Rides events_by_time.
SELECT false AS waiting, quarter, type_key, string_agg(int4send(user_key), ''::bytea)
FROM (
    SELECT floor(extract(epoch FROM occurred_at) / 900)::integer AS quarter, type_key, user_key
    FROM events
    WHERE project_key = :project_key AND occurred_at >= :start::timestamptz AND occurred_at < :end::timestamptz
) AS fact
GROUP BY quarter, type_key
UNION ALL
SELECT true, quarter, type_key, string_agg(users, ''::bytea)
FROM activity_delta
WHERE project_key = :project_key AND quarter >= :first AND quarter < :after AND type_key < 1048576
GROUP BY quarter, type_key

-- name: values_of_day
-- For the combinations: quarter, type, user and properties of every event of a UTC day, and with no properties the facts
-- of combinations that are not folded yet: one statement, so one snapshot. Rides events_by_time.
SELECT
    floor(extract(epoch FROM occurred_at) / 900)::integer AS quarter, type_key, int4send(user_key) AS users, properties
FROM events
WHERE project_key = :project_key AND occurred_at >= :start::timestamptz AND occurred_at < :end::timestamptz
UNION ALL
SELECT quarter, type_key, users, NULL
FROM activity_delta
WHERE project_key = :project_key AND quarter >= :first AND quarter < :after AND type_key >= 1048576

-- name: days_of_events
-- The UTC days of the events of a project; reads them all.
SELECT DISTINCT floor(extract(epoch FROM occurred_at) / 86400)::integer FROM events WHERE project_key = :project_key

-- name: rows_between
-- Rows of a grain, whole; rides the primary key of activity_bitmaps.
SELECT grain, period, type_key, events, distinct_users, users
FROM activity_bitmaps
WHERE project_key = :project_key AND grain = :grain AND period >= :first AND period < :after

-- name: set_rows
-- Rows that take the place of those before; rides the primary key of activity_bitmaps.
INSERT INTO activity_bitmaps (project_key, grain, period, type_key, events, distinct_users, users)
SELECT :project_key, *
FROM unnest(
    :grains::smallint[], :periods::integer[], :type_keys::integer[], :events::bigint[], :distinct_users::integer[],
    :users::bytea[]
)
ON CONFLICT (project_key, grain, period, type_key) DO UPDATE SET
    events = excluded.events,
    distinct_users = excluded.distinct_users,
    users = excluded.users

-- name: delete_rows
-- Rides the primary key of activity_bitmaps.
DELETE FROM activity_bitmaps AS b
USING unnest(:grains::smallint[], :periods::integer[], :type_keys::integer[]) AS wanted (grain, period, type_key)
WHERE b.project_key = :project_key
    AND (b.grain, b.period, b.type_key) = (wanted.grain, wanted.period, wanted.type_key)

-- name: delete_strays
-- Rows of periods that no calendar has; nobody ever reads them.
DELETE FROM activity_bitmaps
WHERE project_key = ANY (:project_keys::integer[])
    AND CASE grain
        WHEN 0 THEN period NOT BETWEEN 0 AND :last_utc_day
        WHEN 1 THEN period NOT BETWEEN :first_day AND :last_day
        WHEN 2 THEN period NOT BETWEEN :first_month AND :last_month
        ELSE grain NOT IN (3, 4)
    END
RETURNING project_key

-- name: delete_setting
-- Rides the primary key of store.
DELETE FROM store WHERE key = :key

-- name: zone_periods
-- All local days and months, those of the next zone by the grain that they will have.
SELECT DISTINCT project_key, (grain - 1) % 2 + 1, period FROM activity_bitmaps WHERE grain = ANY (ARRAY[1, 2, 3, 4])

-- name: delete_next_rows
-- Those of the next zone.
DELETE FROM activity_bitmaps WHERE grain IN (3, 4)

-- name: delete_zone_rows
-- Those of the projection's zone.
DELETE FROM activity_bitmaps WHERE grain IN (1, 2)

-- name: take_over_next_rows
-- Those of the next zone become those of the projection's.
UPDATE activity_bitmaps SET grain = grain - 2 WHERE grain IN (3, 4)


-- The checks of verify(): each tells the name of a project and one sentence for each difference. :project is null for
-- all; :since leaves out events that a retention policy may have dropped. They read whole tables.

-- name: check_received
SELECT name, format('%s: received is not accepted + duplicates + conflicts + rejected', to_char(day, 'YYYY-MM-DD'))
FROM ingestion_books AS book JOIN projects USING (project_key)
WHERE (:project::text IS NULL OR name = :project) AND received <> accepted + duplicates + book.conflicts + rejected
ORDER BY name, day
LIMIT :shown

-- name: check_accepted
SELECT name, format('%s: accepted is not the sum of what became of it', to_char(day, 'YYYY-MM-DD'))
FROM ingestion_books AS book JOIN projects USING (project_key)
WHERE (:project::text IS NULL OR name = :project)
    AND accepted <> stored + duplicate_at_store + conflict_at_store + dead
ORDER BY name, day
LIMIT :shown

-- name: check_stored
SELECT name, format('the books say %s events are stored, the ledger has %s', booked, listed)
FROM projects,
    LATERAL (
        SELECT coalesce(sum(stored), 0) AS booked FROM ingestion_books AS b WHERE b.project_key = projects.project_key
    ) AS book,
    LATERAL (SELECT count(*) AS listed FROM event_ledger AS l WHERE l.project_key = projects.project_key) AS ledger
WHERE (:project::text IS NULL OR name = :project) AND booked <> listed
ORDER BY name
LIMIT :shown

-- name: check_dead
SELECT name, format('the books say %s events are dead, there are %s letters and %s dropped ones', booked, kept, dropped)
FROM projects,
    LATERAL (
        SELECT coalesce(sum(dead), 0) AS booked FROM ingestion_books AS b WHERE b.project_key = projects.project_key
    ) AS book,
    LATERAL (SELECT count(*) AS kept FROM dead_events AS d WHERE d.project_key = projects.project_key) AS letter
WHERE (:project::text IS NULL OR name = :project) AND booked <> kept + dropped
ORDER BY name
LIMIT :shown

-- name: letters
-- Whole letters, for the check that they can be read; of all projects where :project is null. Rides the primary key.
SELECT name, event_id, fingerprint, event
FROM dead_events JOIN projects USING (project_key)
WHERE (:project::text IS NULL OR name = :project)
ORDER BY project_key, event_id, fingerprint

-- name: check_ledger
-- An event stored twice shows here too: the ledger has it once.
WITH listed AS (
    SELECT project_key, event_id, count(*) AS times
    FROM event_ledger
    WHERE state IS NULL AND occurred_us >= extract(epoch FROM :since::timestamptz) * 1000000
    GROUP BY project_key, event_id, occurred_us
), stored AS (
    SELECT project_key, event_id, count(*) AS times
    FROM events
    WHERE occurred_at >= :since::timestamptz
    GROUP BY project_key, event_id, occurred_at
)
SELECT
    name,
    format(
        'event %s is %s times in the ledger and stored %s times', event_id, coalesce(listed.times, 0),
        coalesce(stored.times, 0)
    )
FROM listed FULL JOIN stored USING (project_key, event_id) JOIN projects USING (project_key)
WHERE (:project::text IS NULL OR name = :project) AND listed.times IS DISTINCT FROM stored.times
ORDER BY name, event_id
LIMIT :shown

-- name: check_instants
SELECT name, format('event %s has another instant than the ledger says', event_id)
FROM events JOIN event_ledger USING (project_key, event_id) JOIN projects USING (project_key)
WHERE (:project::text IS NULL OR name = :project)
    AND occurred_us <> (extract(epoch FROM occurred_at) * 1000000)::bigint
ORDER BY name, event_id
LIMIT :shown

-- name: check_users
SELECT name, format('%s keys were given to users, %s users have keys up to %s', users, listed, last)
FROM projects,
    LATERAL (
        SELECT count(*) AS listed, coalesce(max(user_key), -1) AS last, coalesce(min(user_key), 0) AS first
        FROM users AS u WHERE u.project_key = projects.project_key
    ) AS found
WHERE (:project::text IS NULL OR name = :project) AND (users <> listed OR last <> listed - 1 OR first <> 0)
ORDER BY name
LIMIT :shown

-- name: check_types
SELECT name, format('%s keys were given to event types, %s types have keys up to %s', event_types, listed, last)
FROM projects,
    LATERAL (
        SELECT count(*) AS listed, coalesce(max(type_key), -1) AS last, coalesce(min(type_key), 0) AS first
        FROM event_types AS t WHERE t.project_key = projects.project_key
    ) AS found
WHERE (:project::text IS NULL OR name = :project) AND (event_types <> listed OR last <> listed - 1 OR first <> 0)
ORDER BY name
LIMIT :shown

-- name: check_names
SELECT projects.name, format('event %s has a user or a type without a name', event_id)
FROM events
JOIN projects USING (project_key)
LEFT JOIN users USING (project_key, user_key)
LEFT JOIN event_types USING (project_key, type_key)
WHERE (:project::text IS NULL OR projects.name = :project) AND (user_id IS NULL OR event_types.name IS NULL)
ORDER BY projects.name, event_id
LIMIT :shown


-- What verify() compares itself, because the server cannot look into bitmaps. All in the order of project and period.

-- name: stored_users
-- As bytes: what a driver cannot read as text is told, too.
SELECT name, user_key, textsend(user_id)
FROM users JOIN projects USING (project_key)
WHERE :project::text IS NULL OR name = :project
ORDER BY name, user_key

-- name: stored_types
-- As stored_users.
SELECT projects.name, type_key, textsend(event_types.name)
FROM event_types JOIN projects USING (project_key)
WHERE :project::text IS NULL OR projects.name = :project
ORDER BY projects.name, type_key

-- name: project_names
SELECT project_key, name FROM projects WHERE :project::text IS NULL OR name = :project

-- name: happened
-- The users of every event.
SELECT project_key, quarter, type_key, string_agg(int4send(user_key), ''::bytea) AS users
FROM (
    SELECT project_key, floor(extract(epoch FROM occurred_at) / 900)::integer AS quarter, type_key, user_key
    FROM events
    WHERE project_key = ANY (:project_keys::integer[]) AND occurred_at >= :since::timestamptz
) AS fact
GROUP BY project_key, quarter, type_key
ORDER BY project_key, quarter, type_key

-- name: waiting
-- The same of the activity that is not folded yet.
SELECT project_key, quarter, type_key, string_agg(users, ''::bytea) AS users
FROM activity_delta
WHERE project_key = ANY (:project_keys::integer[])
GROUP BY project_key, quarter, type_key
ORDER BY project_key, quarter, type_key

-- name: folded
-- All rows of a grain; rides the primary key of activity_bitmaps.
SELECT project_key, period, type_key, events, users, distinct_users
FROM activity_bitmaps
WHERE project_key = ANY (:project_keys::integer[]) AND grain = :grain
ORDER BY project_key, period, type_key
