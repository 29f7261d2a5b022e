-- The first schema. Small rows: the ledger is the table that every random id touches somewhere else.
-- Keys (project_key, user_key, …) are local to this file; names are what the outside knows.

-- What concerns the whole file: schema_version, epoch, created_us, projection_zone.
CREATE TABLE store (
    key TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- users and event_types count the keys given out so far; a key is never given twice. dropped counts the dead letters that
-- somebody deleted: with those that are left, they are what the books have as dead.
CREATE TABLE projects (
    project_key INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    users INTEGER NOT NULL DEFAULT 0,
    event_types INTEGER NOT NULL DEFAULT 0,
    dropped INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE event_types (
    project_key INTEGER NOT NULL,
    name TEXT NOT NULL,
    type_key INTEGER NOT NULL,
    PRIMARY KEY (project_key, name),
    UNIQUE (project_key, type_key)
) STRICT, WITHOUT ROWID;

-- user_key is 0, 1, 2, … in its project and fits 32 bits: roaring bitmaps hold it.
CREATE TABLE users (
    project_key INTEGER NOT NULL,
    user_id TEXT NOT NULL,
    user_key INTEGER NOT NULL,
    PRIMARY KEY (project_key, user_id),
    UNIQUE (project_key, user_key)
) STRICT, WITHOUT ROWID;

-- In order of insertion, which is what makes writing cheap; there is no index on time.
CREATE TABLE events (
    event_key INTEGER PRIMARY KEY,
    project_key INTEGER NOT NULL,
    user_key INTEGER NOT NULL,
    type_key INTEGER NOT NULL,
    import_key INTEGER,
    occurred_us INTEGER NOT NULL,
    received_us INTEGER NOT NULL,
    event_id BLOB NOT NULL,
    fingerprint BLOB NOT NULL,
    properties TEXT NOT NULL
) STRICT;

-- The arbiter of uniqueness. Its B-tree is the hot spot with random ids, so it holds nothing else.
CREATE TABLE event_ledger (
    project_key INTEGER NOT NULL,
    event_id BLOB NOT NULL,
    event_key INTEGER NOT NULL,
    PRIMARY KEY (project_key, event_id)
) STRICT, WITHOUT ROWID;

-- Who did what in which quarter of an hour, until it is folded: one row per transaction and project. Each column is a run
-- of 32-bit numbers, little-endian, one for each event: user keys, quarters (occurred_us / 900,000,000), type keys.
-- Keys are never given twice; mark is random: who remembers a row by key and mark sees that a backup was put in the place
-- of what he knew.
CREATE TABLE activity_delta (
    delta_key INTEGER PRIMARY KEY AUTOINCREMENT,
    project_key INTEGER NOT NULL,
    users BLOB NOT NULL,
    quarters BLOB NOT NULL,
    types BLOB NOT NULL,
    mark INTEGER NOT NULL DEFAULT (random())
) STRICT;

CREATE INDEX activity_delta_by_project ON activity_delta (project_key);

-- The marks of deltas that were folded, the newest of them.
CREATE TABLE folded_marks (
    delta_key INTEGER PRIMARY KEY,
    mark INTEGER NOT NULL
) STRICT;

-- The projection: users and counts by period. grain 0: period is a UTC day (days since 1970), users its quarters, packed;
-- 1 and 2: a local day, or a month (12 * year + month - 1), of the projection's zone, users one roaring bitmap of user keys.
-- type_key -1 unites all types.
CREATE TABLE activity_bitmaps (
    bitmap_key INTEGER PRIMARY KEY,
    project_key INTEGER NOT NULL,
    grain INTEGER NOT NULL,
    period INTEGER NOT NULL,
    type_key INTEGER NOT NULL,
    events INTEGER NOT NULL,
    distinct_users INTEGER,
    users BLOB NOT NULL,
    UNIQUE (project_key, grain, period, type_key)
) STRICT;

-- The last folds of each project: keys says which rows each changed, as a JSON array of [grain, period, type_key].
CREATE TABLE activity_folds (
    project_key INTEGER NOT NULL,
    fold INTEGER NOT NULL,
    mark INTEGER NOT NULL DEFAULT (random()),
    keys TEXT NOT NULL,
    PRIMARY KEY (project_key, fold)
) STRICT, WITHOUT ROWID;

-- For people who ask in SQL: days of the projection's zone, as of the last fold.
CREATE VIEW daily_active_users AS
SELECT projects.name AS project, date(period * 86400, 'unixepoch') AS day, distinct_users AS users, events
FROM activity_bitmaps JOIN projects USING (project_key)
WHERE grain = 1 AND type_key = -1;

CREATE VIEW event_type_counts AS
SELECT
    projects.name AS project, date(period * 86400, 'unixepoch') AS day, event_types.name AS event_type,
    distinct_users AS users, activity_bitmaps.events AS events
FROM activity_bitmaps JOIN projects USING (project_key) JOIN event_types USING (project_key, type_key)
WHERE grain = 1;

-- Events whose id was taken by other content, whole.
CREATE TABLE conflicts (
    project_key INTEGER NOT NULL,
    event_id BLOB NOT NULL,
    fingerprint BLOB NOT NULL,
    user_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    occurred_us INTEGER NOT NULL,
    received_us INTEGER NOT NULL,
    import_key INTEGER,
    properties TEXT NOT NULL,
    PRIMARY KEY (project_key, event_id, fingerprint)
) STRICT, WITHOUT ROWID;

-- Events that were accepted and that the store refuses, each whole in one value (MessagePack), because it may hold what
-- no column takes. name is what the outside calls one; two blobs put together are a text in SQLite, hence the CAST.
CREATE TABLE dead_events (
    project_key INTEGER NOT NULL,
    event_id BLOB NOT NULL,
    fingerprint BLOB NOT NULL,
    name BLOB NOT NULL AS (CAST(event_id || fingerprint AS BLOB)),
    event BLOB NOT NULL,
    received_us INTEGER NOT NULL,
    import_key INTEGER,
    reason TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    died_us INTEGER NOT NULL,
    PRIMARY KEY (project_key, event_id, fingerprint)
) STRICT, WITHOUT ROWID;

CREATE INDEX dead_events_by_name ON dead_events (project_key, name);

-- source, started_us, finished_us and outcome (JSON) are null until the importer writes them down.
CREATE TABLE imports (
    import_key INTEGER PRIMARY KEY,
    project_key INTEGER NOT NULL,
    import_id BLOB NOT NULL,
    source TEXT,
    started_us INTEGER,
    finished_us INTEGER,
    outcome TEXT,
    UNIQUE (project_key, import_id)
) STRICT;

-- day is the UTC day of received_us, YYYY-MM-DD. `verify` holds them to their equations.
CREATE TABLE ingestion_books (
    project_key INTEGER NOT NULL,
    day TEXT NOT NULL,
    received INTEGER NOT NULL,
    accepted INTEGER NOT NULL,
    duplicates INTEGER NOT NULL,
    conflicts INTEGER NOT NULL,
    rejected INTEGER NOT NULL,
    stored INTEGER NOT NULL,
    duplicate_at_store INTEGER NOT NULL,
    conflict_at_store INTEGER NOT NULL,
    dead INTEGER NOT NULL,
    PRIMARY KEY (project_key, day)
) STRICT, WITHOUT ROWID;

-- Chunks that came through a queue and may be delivered again.
CREATE TABLE chunks (
    chunk_id BLOB NOT NULL PRIMARY KEY
) STRICT, WITHOUT ROWID;
