-- The statements of the SQLite adapter, by name. Whatever reads or writes many rows does it in one step: Python's
-- sqlite3 gives up the interpreter lock at every step, and beside a busy thread each return costs a switch interval
-- (DESIGN, trap 12). So many values go in as one JSON array, as one run of 16-byte ids (:ids, cut by substr) or of bytes
-- of any length (:joined, cut by the pairs of start and length in the JSON array :slices), or as a long VALUES list that
-- Python repeats from the one row written here; and many rows come out as one JSON array.


-- name: tables
-- Whether the file has anything in it.
SELECT count(*) FROM sqlite_schema

-- name: library
-- The version of SQLite that runs.
SELECT sqlite_version()

-- name: put_setting
-- Rides the primary key of store.
INSERT INTO store (key, value) VALUES (:key, :value) ON CONFLICT (key) DO UPDATE SET value = excluded.value

-- name: setting
-- Rides the primary key of store.
SELECT value FROM store WHERE key = :key

-- name: head
-- What a transaction must know first: is the schema still ours, has the store become another, the next key, and the mark
-- of the list of dimensions.
SELECT
    (SELECT value FROM store WHERE key = 'schema_version'),
    (SELECT value FROM store WHERE key = 'epoch'),
    (SELECT coalesce(max(event_key), 0) + 1 FROM events),
    coalesce(
        (SELECT mark FROM activity_delta WHERE delta_key = :known_delta),
        (SELECT mark FROM folded_marks WHERE delta_key = :known_delta)
    ),
    (SELECT value FROM store WHERE key = 'dimensions')

-- name: last_delta
-- Where the history of the store ends; rides the primary keys of activity_delta and folded_marks.
SELECT delta_key, mark
FROM (
    SELECT delta_key, mark FROM activity_delta WHERE delta_key = (SELECT max(delta_key) FROM activity_delta)
    UNION ALL
    SELECT delta_key, mark FROM folded_marks WHERE delta_key = (SELECT max(delta_key) FROM folded_marks)
)
ORDER BY delta_key DESC LIMIT 1

-- name: mark
-- Rides the primary key of activity_delta.
SELECT mark FROM activity_delta WHERE delta_key = :delta_key AND project_key = :project_key

-- name: set_epoch
-- Rides the primary key of store.
UPDATE store SET value = :epoch WHERE key = 'epoch'


-- name: known_chunks
-- Positions in :ids of chunks seen before; rides the primary key of chunks.
WITH RECURSIVE positions (at) AS (SELECT 0 UNION ALL SELECT at + 1 FROM positions WHERE at + 1 < :count)
SELECT json_group_array(at)
FROM positions CROSS JOIN chunks ON chunk_id = substr(:ids, at * 16 + 1, 16)

-- name: insert_chunks
-- Remember each id in :ids.
INSERT INTO chunks (chunk_id)
WITH RECURSIVE positions (at) AS (SELECT 0 UNION ALL SELECT at + 1 FROM positions WHERE at + 1 < :count)
SELECT substr(:ids, at * 16 + 1, 16) FROM positions

-- name: insert_project
-- Nothing when the name is there already; rides the unique index on projects.name.
INSERT INTO projects (name) VALUES (:name) ON CONFLICT (name) DO NOTHING

-- name: project
-- Rides the unique index on projects.name.
SELECT project_key FROM projects WHERE name = :name

-- name: project_names
-- All projects, or the one named.
SELECT project_key, name FROM projects WHERE :name IS NULL OR name = :name ORDER BY name

-- name: give_users_keys
-- Count keys given to users, and tell the first that is still free; rides the primary key of projects.
UPDATE projects SET users = users + :given WHERE project_key = :project_key RETURNING users

-- name: give_types_keys
-- As give_users_keys.
UPDATE projects SET event_types = event_types + :given WHERE project_key = :project_key RETURNING event_types

-- name: find_users
-- Positions in the JSON array :names, and keys, of those found; rides the primary key of users.
SELECT json_group_array(json_array(names.key, users.user_key))
FROM json_each(:names) AS names
CROSS JOIN users ON users.project_key = :project_key AND users.user_id = names.value

-- name: insert_users
-- Give keys to the names of a sorted JSON array; rides the primary key of users and its index on keys.
INSERT INTO users (project_key, user_id, user_key)
SELECT :project_key, value, :first_key + key FROM json_each(:names)

-- name: find_types
-- As find_users; rides the primary key of event_types.
SELECT json_group_array(json_array(names.key, event_types.type_key))
FROM json_each(:names) AS names
CROSS JOIN event_types ON event_types.project_key = :project_key AND event_types.name = names.value

-- name: insert_types
-- As insert_users.
INSERT INTO event_types (project_key, name, type_key)
SELECT :project_key, value, :first_key + key FROM json_each(:names)

-- name: insert_import
-- Nothing when it is there already; rides the unique index of imports.
INSERT INTO imports (project_key, import_id) VALUES (:project_key, :import_id)
ON CONFLICT (project_key, import_id) DO NOTHING

-- name: import
-- Rides the unique index of imports.
SELECT import_key FROM imports WHERE project_key = :project_key AND import_id = :import_id

-- name: put_import
-- Rides the unique index of imports; the key stays, because events point to it.
INSERT INTO imports (project_key, import_id, source, started_us, finished_us, outcome)
VALUES (:project_key, :import_id, :source, :started_us, :finished_us, :outcome)
ON CONFLICT (project_key, import_id) DO UPDATE SET
    source = excluded.source,
    started_us = excluded.started_us,
    finished_us = excluded.finished_us,
    outcome = excluded.outcome

-- name: insert_ledger
-- Claim each id of :ids for the event key beside it, unless it is taken; the first of two equal ids wins. Sorted, so
-- that each page of the primary key is touched once.
INSERT INTO event_ledger (project_key, event_id, event_key)
WITH RECURSIVE positions (at) AS (SELECT 0 UNION ALL SELECT at + 1 FROM positions WHERE at + 1 < :count)
SELECT :project_key, substr(:ids, at * 16 + 1, 16), :first_key + at FROM positions WHERE true ORDER BY 2, 3
ON CONFLICT (project_key, event_id) DO NOTHING

-- name: losers
-- Positions in :ids whose claim failed, with the event key that holds the id; rides the primary key of event_ledger.
WITH RECURSIVE positions (at) AS (SELECT 0 UNION ALL SELECT at + 1 FROM positions WHERE at + 1 < :count)
SELECT json_group_array(json_array(at, event_key))
FROM positions
CROSS JOIN event_ledger ON project_key = :project_key AND event_id = substr(:ids, at * 16 + 1, 16)
WHERE event_key <> :first_key + at

-- name: insert_event
-- One row, to be repeated; appends to events.
INSERT INTO events (
    event_key, project_key, user_key, type_key, import_key, occurred_us, received_us, event_id, fingerprint, properties
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: insert_conflict
-- One row, to be repeated; nothing for what is there already. Rides the primary key of conflicts.
INSERT OR IGNORE INTO conflicts (
    project_key, event_id, fingerprint, user_id, event_type, occurred_us, received_us, import_key, properties
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: insert_delta
-- Appends to activity_delta.
INSERT INTO activity_delta (project_key, users, quarters, types) VALUES (:project_key, :users, :quarters, :types)

-- name: add_to_book
-- Rides the primary key of ingestion_books.
INSERT INTO ingestion_books (
    project_key, day, received, accepted, duplicates, conflicts, rejected,
    stored, duplicate_at_store, conflict_at_store, dead
) VALUES (
    :project_key, :day, :received, :accepted, :duplicates, :conflicts, :rejected,
    :stored, :duplicate_at_store, :conflict_at_store, :dead
)
ON CONFLICT (project_key, day) DO UPDATE SET
    received = received + excluded.received,
    accepted = accepted + excluded.accepted,
    duplicates = duplicates + excluded.duplicates,
    conflicts = conflicts + excluded.conflicts,
    rejected = rejected + excluded.rejected,
    stored = stored + excluded.stored,
    duplicate_at_store = duplicate_at_store + excluded.duplicate_at_store,
    conflict_at_store = conflict_at_store + excluded.conflict_at_store,
    dead = dead + excluded.dead

-- name: known_dead
-- Positions in :slices of names that are dead letters. Rides dead_events_by_name, which SQLite has to be told: it would
-- take the primary key, for the project alone.
SELECT json_group_array(slice.key)
FROM json_each(:slices) AS slice
CROSS JOIN dead_events INDEXED BY dead_events_by_name
    ON project_key = :project_key
    AND name = substr(:joined, json_extract(slice.value, '$[0]'), json_extract(slice.value, '$[1]'))

-- name: insert_dead
-- One row, to be repeated; of one that is there already, only the last attempt is new. Rides the primary key of
-- dead_events.
INSERT INTO dead_events (
    project_key, event_id, fingerprint, event, received_us, import_key, reason, attempts, died_us
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (project_key, event_id, fingerprint) DO UPDATE SET
    reason = excluded.reason,
    attempts = excluded.attempts,
    died_us = excluded.died_us

-- name: delete_dead
-- The dead letters of these names; rides dead_events_by_name.
DELETE FROM dead_events INDEXED BY dead_events_by_name
WHERE project_key = :project_key
    AND name IN (
        SELECT substr(:joined, json_extract(value, '$[0]'), json_extract(value, '$[1]')) FROM json_each(:slices)
    )

-- name: count_dropped
-- Rides the primary key of projects.
UPDATE projects SET dropped = dropped + :dropped WHERE project_key = :project_key


-- name: find_events
-- The event keys of those of :ids that are stored; rides the primary key of event_ledger.
WITH RECURSIVE positions (at) AS (SELECT 0 UNION ALL SELECT at + 1 FROM positions WHERE at + 1 < :count)
SELECT json_group_array(event_key)
FROM positions
CROSS JOIN event_ledger ON project_key = :project_key AND event_id = substr(:ids, at * 16 + 1, 16)

-- name: fingerprints
-- Of the events with these keys; rides the primary key of events.
SELECT json_group_array(json_array(event_key, hex(fingerprint)))
FROM json_each(:event_keys) AS wanted
CROSS JOIN events ON event_key = wanted.value

-- name: stored_events
-- The events with these keys, whole; rides the primary keys of events and imports, and the indexes on user and type
-- keys.
SELECT json_group_array(json_array(
    event_key, hex(event_id), user_id, event_types.name, occurred_us, properties, hex(fingerprint), received_us,
    hex(import_id)
))
FROM json_each(:event_keys) AS wanted
CROSS JOIN events ON event_key = wanted.value
CROSS JOIN users USING (project_key, user_key)
CROSS JOIN event_types USING (project_key, type_key)
LEFT JOIN imports USING (import_key)

-- name: dead_after
-- The next dead letters after the name :after, in order of names; only those with an id among :slices, unless that is
-- null. Rides dead_events_by_name, and the primary key of imports.
SELECT json_group_array(json_array(
    hex(name), hex(event), received_us, hex(import_id), reason, attempts, died_us
))
FROM (
    SELECT * FROM dead_events
    WHERE project_key = :project_key
        AND name > :after
        AND (
            :slices IS NULL
            OR event_id IN (
                SELECT substr(:joined, json_extract(value, '$[0]'), json_extract(value, '$[1]')) FROM json_each(:slices)
            )
        )
    ORDER BY name LIMIT :rows
)
LEFT JOIN imports USING (import_key)

-- name: dead_named
-- The dead letters of these names, in the order of the names; rides as dead_after.
SELECT json_group_array(json_array(
    hex(name), hex(event), received_us, hex(import_id), reason, attempts, died_us
))
FROM json_each(:slices) AS slice
CROSS JOIN dead_events INDEXED BY dead_events_by_name
    ON dead_events.project_key = :project_key
    AND name = substr(:joined, json_extract(slice.value, '$[0]'), json_extract(slice.value, '$[1]'))
LEFT JOIN imports USING (import_key)

-- name: books
-- Rides the primary key of ingestion_books.
SELECT json_group_array(json_object(
    'date', day, 'received', received, 'accepted', accepted, 'duplicates', duplicates, 'conflicts', conflicts,
    'rejected', rejected, 'stored', stored, 'duplicate_at_store', duplicate_at_store,
    'conflict_at_store', conflict_at_store, 'dead', dead
))
FROM (
    SELECT * FROM ingestion_books
    WHERE project_key = :project_key AND day BETWEEN :first AND :last
    ORDER BY day
)

-- name: api_keys
-- Walks api_keys, one row a step: as few as a company has keys.
SELECT key_id, digest, project, scopes, label, origins, created_us, expires_us, revoked_us, last_used_us
FROM api_keys ORDER BY created_us, key_id

-- name: put_api_key
-- Of a key that is there only the end changes, to the earlier one; none of another digest. Rides the primary key.
INSERT INTO api_keys (
    key_id, digest, project, scopes, label, origins, created_us, expires_us, revoked_us, last_used_us
)
VALUES (
    :key_id, :digest, :project, :scopes, :label, :origins, :created_us, :expires_us, :revoked_us, :last_used_us
)
ON CONFLICT (key_id) DO UPDATE SET
    revoked_us = min(coalesce(revoked_us, excluded.revoked_us), coalesce(excluded.revoked_us, revoked_us))
WHERE digest = excluded.digest

-- name: touch_api_keys
-- :used is a JSON object of instants by id; rides the primary key of api_keys.
UPDATE api_keys SET last_used_us = max(coalesce(last_used_us, used.value), used.value)
FROM json_each(:used) AS used
WHERE key_id = used.key

-- name: counts
-- Rows per project. Events are counted by the books, because a count of millions of rows takes seconds; verify()
-- compares the two.
SELECT json_group_object(name, json_object(
    'events', (SELECT coalesce(sum(stored), 0) FROM ingestion_books AS b WHERE b.project_key = p.project_key),
    'users', users,
    'event_types', event_types,
    'conflicts', (SELECT count(*) FROM conflicts AS c WHERE c.project_key = p.project_key),
    'dead', (SELECT count(*) FROM dead_events AS d WHERE d.project_key = p.project_key),
    'imports', (SELECT count(*) FROM imports AS i WHERE i.project_key = p.project_key)
))
FROM projects AS p

-- name: types
-- Names of event types in order of their keys, which are 0, 1, 2, …; rides the unique index of event_types.
SELECT json_group_array(name)
FROM (SELECT name FROM event_types WHERE project_key = :project_key ORDER BY type_key)

-- name: deltas_after
-- The next rows after :delta_key, put together column by column, and the last key; rides activity_delta_by_project.
-- As text and back, because only texts can be put together; they are not read as text on the way.
SELECT
    max(delta_key),
    CAST(group_concat(CAST(users AS TEXT), '') AS BLOB),
    CAST(group_concat(CAST(quarters AS TEXT), '') AS BLOB),
    CAST(group_concat(CAST(types AS TEXT), '') AS BLOB)
FROM (
    SELECT * FROM activity_delta
    WHERE project_key = :project_key AND delta_key > :delta_key
    ORDER BY delta_key LIMIT :rows
)

-- name: waiting_events
-- How many events wait to be folded; walks activity_delta, which the folds keep small.
SELECT coalesce(sum(length(users) / 4), 0) FROM activity_delta

-- name: next_fold
-- The project with the oldest delta that is not empty, and the last of its oldest deltas that hold :most_events together,
-- or the first alone. Empty ones, of transactions that only buried events, go with others of their project.
SELECT
    project_key,
    (
        SELECT max(first.delta_key, coalesce(max(delta_key) FILTER (WHERE total <= :most_events), 0))
        FROM (
            SELECT delta_key, sum(length(users) / 4) OVER (ORDER BY delta_key) AS total
            FROM activity_delta AS d WHERE d.project_key = first.project_key
        )
    )
FROM activity_delta AS first
WHERE length(users) > 0
ORDER BY delta_key LIMIT 1

-- name: deltas_between
-- As deltas_after, up to :last_key.
SELECT
    max(delta_key),
    CAST(group_concat(CAST(users AS TEXT), '') AS BLOB),
    CAST(group_concat(CAST(quarters AS TEXT), '') AS BLOB),
    CAST(group_concat(CAST(types AS TEXT), '') AS BLOB)
FROM (
    SELECT * FROM activity_delta
    WHERE project_key = :project_key AND delta_key > :delta_key AND delta_key <= :last_key
    ORDER BY delta_key LIMIT :rows
)

-- name: keep_marks
-- Rides activity_delta_by_project.
INSERT INTO folded_marks (delta_key, mark)
SELECT delta_key, mark FROM activity_delta WHERE project_key = :project_key AND delta_key <= :last_key

-- name: forget_marks
-- Rides the primary key of folded_marks.
DELETE FROM folded_marks WHERE delta_key <= (SELECT max(delta_key) FROM folded_marks) - :kept

-- name: delete_deltas
-- Rides activity_delta_by_project.
DELETE FROM activity_delta WHERE project_key = :project_key AND delta_key <= :last_key

-- name: bitmap
-- Rides the unique index of activity_bitmaps.
SELECT users FROM activity_bitmaps
WHERE project_key = :project_key AND grain = :grain AND period = :period AND type_key = :type_key

-- name: put_bitmap
-- One row, to be repeated; rides the unique index of activity_bitmaps.
INSERT INTO activity_bitmaps (project_key, grain, period, type_key, events, distinct_users, users)
VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (project_key, grain, period, type_key) DO UPDATE SET
    events = events + excluded.events,
    distinct_users = excluded.distinct_users,
    users = excluded.users

-- name: put_fold
-- The next fold of a project; rides the primary key of activity_folds.
INSERT INTO activity_folds (project_key, fold, keys)
SELECT :project_key, coalesce(max(fold), 0) + 1, :keys FROM activity_folds WHERE project_key = :project_key

-- name: forget_folds
-- Rides the primary key of activity_folds.
DELETE FROM activity_folds
WHERE project_key = :project_key
    AND fold <= (SELECT max(fold) FROM activity_folds WHERE project_key = :project_key) - :kept

-- name: last_fold
-- Which version of the projection this is, and between which UTC days it has rows; rides the primary key of
-- activity_folds and the unique index of activity_bitmaps.
SELECT
    fold, mark,
    (SELECT min(period) FROM activity_bitmaps WHERE project_key = :project_key AND grain = 0),
    (SELECT max(period) FROM activity_bitmaps WHERE project_key = :project_key AND grain = 0)
FROM activity_folds WHERE project_key = :project_key
ORDER BY fold DESC LIMIT 1

-- name: version
-- The epoch, and for a project: how many events are stored, its newest fold, and its newest delta. Rides primary keys and
-- activity_delta_by_project.
SELECT
    (SELECT value FROM store WHERE key = 'epoch'),
    (SELECT sum(stored) FROM ingestion_books WHERE project_key = :project_key),
    (SELECT mark FROM activity_folds WHERE project_key = :project_key ORDER BY fold DESC LIMIT 1),
    (SELECT mark FROM activity_delta WHERE project_key = :project_key ORDER BY delta_key DESC LIMIT 1)

-- name: folds_since
-- The mark of the fold that is known, null when it is not there; and what changed in each of those after it.
SELECT
    (SELECT mark FROM activity_folds WHERE project_key = :project_key AND fold = :fold),
    (
        SELECT json_group_array(json(keys)) FROM activity_folds WHERE project_key = :project_key AND fold > :fold
    )

-- name: bitmaps
-- Rows of these periods, a JSON array of [grain, period]: their keys, counts and sizes, and their users put together; those
-- with a key in the JSON array :keys, and of all types where :all_types is true. Combinations begin at 1048576. Rides the unique index of activity_bitmaps.
SELECT
    json_group_array(json_array(grain, period, type_key, events, length(users))),
    CAST(group_concat(CAST(users AS TEXT), '') AS BLOB)
FROM (
    SELECT b.*
    FROM json_each(:periods) AS wanted
    CROSS JOIN activity_bitmaps AS b
        ON b.project_key = :project_key
        AND b.grain = json_extract(wanted.value, '$[0]')
        AND b.period = json_extract(wanted.value, '$[1]')
    WHERE (:all_types AND b.type_key BETWEEN 0 AND 1048575) OR b.type_key IN (SELECT value FROM json_each(:keys))
)

-- name: all_bitmaps
-- Every row of a project that a question may read, in order; rides the unique index of activity_bitmaps.
SELECT grain, period, type_key, events, users FROM activity_bitmaps
WHERE project_key = :project_key AND grain IN (0, 1, 2) ORDER BY grain, period, type_key

-- name: scan_events
-- The next rows after :event_key that may matter, in order of keys; reads events from there on. The needles are texts
-- that the properties of a matching event hold, unless it spells them with a backslash; '' is in every text.
SELECT json_group_array(json_array(
    event_key, user_key, type_key, occurred_us, CASE WHEN :with_properties THEN properties ELSE '' END
))
FROM (
    SELECT * FROM events
    WHERE event_key > :event_key
        AND project_key = :project_key
        AND occurred_us >= :start_us AND occurred_us < :end_us
        AND (:type_keys IS NULL OR type_key IN (SELECT value FROM json_each(:type_keys)))
        AND (
            instr(properties, '\') > 0
            OR (instr(properties, :needle_1) > 0 AND instr(properties, :needle_2) > 0)
        )
    ORDER BY event_key LIMIT :rows
)


-- name: live_dimensions
-- Of all projects, those whose facts are written; they are few.
SELECT project_key, dimension_key, name FROM dimensions WHERE state IN ('building', 'ready') ORDER BY dimension_key

-- name: dimensions
-- Of a project, by name, with how many values are kept; rides the unique index of dimensions.
SELECT name, state, (
    SELECT count(DISTINCT value) FROM combinations AS c WHERE c.dimension_key = d.dimension_key AND value <> ''
)
FROM dimensions AS d WHERE project_key = :project_key ORDER BY name

-- name: ready
-- Those that answer questions; rides the unique index of dimensions.
SELECT name, dimension_key FROM dimensions WHERE project_key = :project_key AND state = 'ready'

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

-- name: delete_dimension
-- Rides the unique index of dimensions. Its combinations are dead now.
DELETE FROM dimensions WHERE project_key = :project_key AND name = :name

-- name: set_state
-- From the state :found, or from any where that is empty; rides the primary key of dimensions.
UPDATE dimensions SET state = :state WHERE dimension_key = :dimension_key AND :found IN ('', state)

-- name: find_combinations
-- Positions in the JSON array :wanted, of [type_key, value], and keys, of those found; rides the primary key of
-- combinations.
SELECT json_group_array(json_array(wanted.key, combination_key))
FROM json_each(:wanted) AS wanted
CROSS JOIN combinations AS c
    ON c.dimension_key = :dimension_key
    AND c.type_key = json_extract(wanted.value, '$[0]')
    AND c.value = json_extract(wanted.value, '$[1]')

-- name: values
-- How many combinations a dimension has, and the values in them; rides the primary key of combinations.
SELECT (SELECT count(*) FROM combinations WHERE dimension_key = :dimension_key), json_group_array(value)
FROM (SELECT DISTINCT value FROM combinations WHERE dimension_key = :dimension_key)

-- name: give_combinations_keys
-- As give_users_keys.
UPDATE projects SET combinations = combinations + :given WHERE project_key = :project_key RETURNING combinations

-- name: insert_combinations
-- Give keys to what find_combinations did not find.
INSERT INTO combinations (dimension_key, type_key, value, project_key, combination_key)
SELECT
    :dimension_key, json_extract(value, '$[0]'), json_extract(value, '$[1]'), :project_key, :first_key + key
FROM json_each(:wanted)

-- name: combinations
-- Of a dimension: keys, types and values; rides the primary key of combinations.
SELECT json_group_array(json_array(combination_key, type_key, value))
FROM combinations WHERE dimension_key = :dimension_key

-- name: live_combinations
-- The keys of those of a project whose facts count; rides the unique index of dimensions and the primary key of
-- combinations.
SELECT json_group_array(combination_key)
FROM dimensions CROSS JOIN combinations USING (dimension_key)
WHERE dimensions.project_key = :project_key AND state IN ('building', 'ready')

-- name: has_dead_combinations
-- Whether any are to be deleted; steps through the primary key of combinations from dimension to dimension.
WITH RECURSIVE found (dimension_key) AS (
    SELECT min(dimension_key) FROM combinations
    UNION ALL
    SELECT (SELECT min(c.dimension_key) FROM combinations AS c WHERE c.dimension_key > found.dimension_key)
    FROM found WHERE found.dimension_key IS NOT NULL
)
SELECT EXISTS (
    SELECT 1 FROM found
    WHERE dimension_key NOT IN (SELECT dimension_key FROM dimensions WHERE state IN ('building', 'ready'))
)

-- name: delete_dead_rows
-- Walks the index of activity_bitmaps.
DELETE FROM activity_bitmaps
WHERE (project_key, type_key) IN (
    SELECT project_key, combination_key FROM combinations
    WHERE dimension_key NOT IN (SELECT dimension_key FROM dimensions WHERE state IN ('building', 'ready'))
)

-- name: delete_dead_combinations
-- Rides the primary key of combinations.
DELETE FROM combinations
WHERE dimension_key NOT IN (SELECT dimension_key FROM dimensions WHERE state IN ('building', 'ready'))


-- name: make_gathered
-- Who was active when, of all events up to one, for a rebuild: up_to says how far each row reaches. On disk, gone with
-- the connection.
CREATE TEMPORARY TABLE gathered (
    project_key INTEGER NOT NULL,
    quarter INTEGER NOT NULL,
    type_key INTEGER NOT NULL,
    up_to INTEGER NOT NULL,
    users TEXT NOT NULL,
    PRIMARY KEY (project_key, quarter, type_key, up_to)
) WITHOUT ROWID

-- name: make_gathered_values
-- The same of the values of dimensions, as value_of gives them.
CREATE TEMPORARY TABLE gathered_values (
    project_key INTEGER NOT NULL,
    dimension_key INTEGER NOT NULL,
    quarter INTEGER NOT NULL,
    type_key INTEGER NOT NULL,
    value TEXT NOT NULL,
    up_to INTEGER NOT NULL,
    users TEXT NOT NULL,
    PRIMARY KEY (project_key, dimension_key, quarter, type_key, value, up_to)
) WITHOUT ROWID

-- name: newest_event
-- Rides the primary key of events.
SELECT event_key, event_id FROM events WHERE event_key = (SELECT max(event_key) FROM events)

-- name: event_id
-- Rides the primary key of events.
SELECT event_id FROM events WHERE event_key = :event_key

-- name: gather
-- Walks events after one up to another and sorts them on disk; there is no index on time. Of all projects where
-- :project_key is null. 900000000 is a quarter of an hour.
INSERT INTO gathered (project_key, quarter, type_key, up_to, users)
SELECT project_key, occurred_us / 900000000, type_key, :up_to, json_group_array(user_key)
FROM events
WHERE event_key > :event_key AND event_key <= :up_to AND (:project_key IS NULL OR project_key = :project_key)
GROUP BY 1, 2, 3

-- name: gather_values
-- As gather, for one dimension of one project.
INSERT INTO gathered_values (project_key, dimension_key, quarter, type_key, value, up_to, users)
SELECT
    project_key, :dimension_key, occurred_us / 900000000, type_key, value_of(properties, :name), :up_to,
    json_group_array(user_key)
FROM events
WHERE event_key > :event_key AND event_key <= :up_to AND project_key = :project_key
GROUP BY 1, 3, 4, 5

-- name: gathered_values_of_day
-- Rides the primary key of gathered_values.
SELECT quarter, type_key, value, users FROM gathered_values
WHERE project_key = :project_key AND dimension_key = :dimension_key AND quarter >= :first AND quarter < :after

-- name: gathered_day
-- Rides the primary key of gathered.
SELECT quarter, type_key, users FROM gathered
WHERE project_key = :project_key AND quarter >= :first AND quarter < :after

-- name: gathered_days
-- The UTC days of the events that were gathered; rides the primary keys of gathered and gathered_values.
SELECT quarter / 96 FROM gathered WHERE project_key = :project_key
UNION
SELECT quarter / 96 FROM gathered_values WHERE project_key = :project_key

-- name: periods
-- Of which UTC days there are rows, and of which local days and months; of the next zone's where :shift is 2, else 0.
-- Rides the unique index of activity_bitmaps.
SELECT DISTINCT iif(grain = 0, 0, grain - :shift), period FROM activity_bitmaps
WHERE project_key = :project_key AND grain IN (0, 1 + :shift, 2 + :shift)

-- name: events_since
-- Quarters, types and users of the events of a stretch of time after :event_key, and their properties where
-- :with_properties is true; reads events from there on.
SELECT json_group_array(json_array(
    occurred_us / 900000000, type_key, user_key, CASE WHEN :with_properties THEN properties ELSE '{}' END
))
FROM events
WHERE event_key > :event_key
    AND project_key = :project_key
    AND occurred_us >= :start_us AND occurred_us < :end_us

-- name: rows_between
-- Rows of a grain, whole; rides the unique index of activity_bitmaps.
SELECT grain, period, type_key, events, distinct_users, users FROM activity_bitmaps
WHERE project_key = :project_key AND grain = :grain AND period >= :first AND period < :after

-- name: set_bitmap
-- One row, to be repeated; rides the unique index of activity_bitmaps.
INSERT INTO activity_bitmaps (project_key, grain, period, type_key, events, distinct_users, users)
VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (project_key, grain, period, type_key) DO UPDATE SET
    events = excluded.events,
    distinct_users = excluded.distinct_users,
    users = excluded.users

-- name: delete_bitmap
-- Rides the unique index of activity_bitmaps.
DELETE FROM activity_bitmaps
WHERE project_key = :project_key AND grain = :grain AND period = :period AND type_key = :type_key

-- name: delete_strays
-- Rows of periods that no calendar has; nobody ever reads them.
DELETE FROM activity_bitmaps
WHERE project_key = :project_key
    AND CASE grain
        WHEN 0 THEN period NOT BETWEEN 0 AND :last_utc_day
        WHEN 1 THEN period NOT BETWEEN :first_day AND :last_day
        WHEN 2 THEN period NOT BETWEEN :first_month AND :last_month
        ELSE grain NOT IN (3, 4)
    END

-- name: delete_setting
-- Rides the primary key of store.
DELETE FROM store WHERE key = :key

-- name: zone_periods
-- The local days and months of a project, those of the next zone by the grain that they will have.
SELECT DISTINCT (grain - 1) % 2 + 1, period FROM activity_bitmaps
WHERE project_key = :project_key AND grain IN (1, 2, 3, 4)

-- name: delete_next_rows
-- Those of the next zone; walks the index of activity_bitmaps.
DELETE FROM activity_bitmaps WHERE grain IN (3, 4)

-- name: delete_zone_rows
-- Those of the projection's zone.
DELETE FROM activity_bitmaps WHERE grain IN (1, 2)

-- name: take_over_next_rows
-- Those of the next zone become those of the projection's.
UPDATE activity_bitmaps SET grain = grain - 2 WHERE grain IN (3, 4)


-- name: make_facts
-- Who was active when, as the deltas and the projection have it, for the check that compares them with the events; on
-- disk, gone with the connection.
CREATE TEMPORARY TABLE facts (
    project_key INTEGER NOT NULL,
    user_key INTEGER NOT NULL,
    quarter INTEGER NOT NULL,
    type_key INTEGER NOT NULL
)

-- name: make_happened
-- Which facts of dimensions the events make.
CREATE TEMPORARY TABLE happened (
    project_key INTEGER NOT NULL,
    user_key INTEGER NOT NULL,
    quarter INTEGER NOT NULL,
    type_key INTEGER NOT NULL
)

-- name: insert_happened
-- Of one dimension; walks events, rides the primary key of combinations. What has no combination is of none that
-- anything can be of.
INSERT INTO happened (project_key, user_key, quarter, type_key)
SELECT e.project_key, e.user_key, e.occurred_us / 900000000, coalesce(combination_key, 1048575)
FROM dimensions AS d
CROSS JOIN events AS e USING (project_key)
LEFT JOIN combinations AS c
    ON c.dimension_key = d.dimension_key AND c.type_key = e.type_key AND c.value = value_of(e.properties, d.name)
WHERE d.dimension_key = :dimension_key

-- name: combination_keys
-- All of a project, live and dead; rides the unique index of combinations.
SELECT combination_key FROM combinations WHERE project_key = :project_key

-- name: insert_fact
-- One row, to be repeated.
INSERT INTO facts (project_key, user_key, quarter, type_key) VALUES (?, ?, ?, ?)

-- name: make_counted
-- How many events there were, as they have it.
CREATE TEMPORARY TABLE counted (
    project_key INTEGER NOT NULL,
    quarter INTEGER NOT NULL,
    type_key INTEGER NOT NULL,
    events INTEGER NOT NULL
)

-- name: insert_counted
-- One row, to be repeated.
INSERT INTO counted (project_key, quarter, type_key, events) VALUES (?, ?, ?, ?)

-- name: check_ledger
-- Ledger rows whose event is not there; walks the ledger, rides the primary key of events.
SELECT projects.name, printf('the ledger holds event %s, which is not stored', lower(hex(l.event_id)))
FROM event_ledger AS l
LEFT JOIN projects USING (project_key)
LEFT JOIN events AS e USING (event_key)
WHERE (:project_key IS NULL OR l.project_key = :project_key)
    AND (e.project_key IS NOT l.project_key OR e.event_id IS NOT l.event_id)
LIMIT :shown

-- name: check_events
-- Events that the ledger does not hold, or holds for another; walks events, rides the primary key of event_ledger.
SELECT projects.name, printf('event %s is stored, and the ledger does not hold it', lower(hex(e.event_id)))
FROM events AS e
LEFT JOIN projects USING (project_key)
LEFT JOIN event_ledger AS l ON l.project_key = e.project_key AND l.event_id = e.event_id
WHERE (:project_key IS NULL OR e.project_key = :project_key) AND l.event_key IS NOT e.event_key
LIMIT :shown

-- name: check_names
-- Events of a user or type without a name; walks events, rides the indexes on user and type keys.
SELECT projects.name, printf('event %s has a user or a type that is not known', lower(hex(e.event_id)))
FROM events AS e
LEFT JOIN projects USING (project_key)
LEFT JOIN users AS u ON u.project_key = e.project_key AND u.user_key = e.user_key
LEFT JOIN event_types AS t ON t.project_key = e.project_key AND t.type_key = e.type_key
WHERE (:project_key IS NULL OR e.project_key = :project_key) AND (u.user_id IS NULL OR t.name IS NULL)
LIMIT :shown

-- name: users_after
-- The next users by their keys, names as bytes, which need not be text; rides the index on user keys.
SELECT user_key, CAST(user_id AS BLOB) FROM users
WHERE project_key = :project_key AND user_key > :after
ORDER BY user_key
LIMIT :rows

-- name: types_after
-- As users_after.
SELECT type_key, CAST(name AS BLOB) FROM event_types
WHERE project_key = :project_key AND type_key > :after
ORDER BY type_key
LIMIT :rows

-- name: check_users
-- Keys must be 0, 1, 2, … up to how many were given out; rides the index on user keys.
SELECT name, printf(
    'user keys are not dense: %d were given to users, %d users are there, the highest key is %d', users, found, highest
)
FROM (
    SELECT name, users,
        (SELECT count(*) FROM users AS u WHERE u.project_key = p.project_key) AS found,
        (SELECT coalesce(max(user_key), -1) FROM users AS u WHERE u.project_key = p.project_key) AS highest
    FROM projects AS p
    WHERE :project_key IS NULL OR project_key = :project_key
)
WHERE found <> users OR highest <> users - 1
LIMIT :shown

-- name: check_types
-- As check_users; rides the index on type keys.
SELECT name, printf(
    'event type keys are not dense: %d were given to types, %d types are there, the highest key is %d',
    event_types, found, highest
)
FROM (
    SELECT name, event_types,
        (SELECT count(*) FROM event_types AS t WHERE t.project_key = p.project_key) AS found,
        (SELECT coalesce(max(type_key), -1) FROM event_types AS t WHERE t.project_key = p.project_key) AS highest
    FROM projects AS p
    WHERE :project_key IS NULL OR project_key = :project_key
)
WHERE found <> event_types OR highest <> event_types - 1
LIMIT :shown

-- name: check_received
-- The first equation of the books.
SELECT name, printf(
    'in the book of %s, received is %d, and accepted + duplicates + conflicts + rejected is %d',
    day, received, accepted + duplicates + conflicts + rejected
)
FROM ingestion_books
LEFT JOIN projects USING (project_key)
WHERE (:project_key IS NULL OR project_key = :project_key)
    AND received <> accepted + duplicates + conflicts + rejected
LIMIT :shown

-- name: check_accepted
-- The second equation of the books; nothing is pending in a store.
SELECT name, printf(
    'in the book of %s, accepted is %d, and stored + duplicate_at_store + conflict_at_store + dead is %d',
    day, accepted, stored + duplicate_at_store + conflict_at_store + dead
)
FROM ingestion_books
LEFT JOIN projects USING (project_key)
WHERE (:project_key IS NULL OR project_key = :project_key)
    AND accepted <> stored + duplicate_at_store + conflict_at_store + dead
LIMIT :shown

-- name: check_stored
-- The books against the events, per project; walks both.
SELECT name, printf('the books count %d events as stored, and %d are stored', sum(booked), sum(found))
FROM (
    SELECT project_key, sum(stored) AS booked, 0 AS found FROM ingestion_books GROUP BY 1
    UNION ALL
    SELECT project_key, 0, count(*) FROM events GROUP BY 1
)
LEFT JOIN projects USING (project_key)
WHERE :project_key IS NULL OR project_key = :project_key
GROUP BY project_key
HAVING sum(booked) <> sum(found)
LIMIT :shown

-- name: check_dead
-- The books against the dead letters, those that are there and those that were dropped, per project; walks all three.
SELECT name, printf(
    'the books count %d events as dead, %d are dead letters, and %d were dropped', sum(booked), sum(found), sum(gone)
)
FROM (
    SELECT project_key, sum(dead) AS booked, 0 AS found, 0 AS gone FROM ingestion_books GROUP BY 1
    UNION ALL
    SELECT project_key, 0, count(*), 0 FROM dead_events GROUP BY 1
    UNION ALL
    SELECT project_key, 0, 0, dropped FROM projects
)
LEFT JOIN projects USING (project_key)
WHERE :project_key IS NULL OR project_key = :project_key
GROUP BY project_key
HAVING sum(booked) <> sum(found) + sum(gone)
LIMIT :shown

-- name: check_activity
-- Who was active, by the facts and by the events; sorts both on disk. 900000000 is a quarter of an hour.
SELECT name, printf(
    'activity %s user key %d with %s %d in the quarter of an hour from %s on, and the events %s',
    iif(max(counted), 'has', 'lacks'), user_key, iif(type_key < 1048575, 'type key', 'combination'), type_key,
    strftime('%Y-%m-%dT%H:%MZ', quarter * 900, 'unixepoch'), iif(max(found), 'do', 'do not')
)
FROM (
    SELECT project_key, quarter, type_key, user_key, 1 AS counted, 0 AS found FROM facts
    UNION ALL
    SELECT project_key, occurred_us / 900000000, type_key, user_key, 0, 1 FROM events
    WHERE :project_key IS NULL OR project_key = :project_key
    UNION ALL
    SELECT project_key, quarter, type_key, user_key, 0, 1 FROM happened
)
LEFT JOIN projects USING (project_key)
GROUP BY project_key, quarter, type_key, user_key
HAVING max(counted) <> max(found)
LIMIT :shown

-- name: check_activity_counts
-- How many events there were, by what was counted and by the events; sorts both on disk.
SELECT name, printf(
    'activity counts %d events with %s %d in the quarter of an hour from %s on, and %d are stored',
    sum(counted), iif(type_key < 1048575, 'type key', 'combination'), type_key, strftime('%Y-%m-%dT%H:%MZ', quarter * 900, 'unixepoch'), sum(found)
)
FROM (
    SELECT project_key, quarter, type_key, events AS counted, 0 AS found FROM counted
    UNION ALL
    SELECT project_key, occurred_us / 900000000, type_key, 0, 1 FROM events
    WHERE :project_key IS NULL OR project_key = :project_key
    UNION ALL
    SELECT project_key, quarter, type_key, 0, 1 FROM happened
)
LEFT JOIN projects USING (project_key)
GROUP BY project_key, quarter, type_key
HAVING sum(counted) <> sum(found)
LIMIT :shown
