-- The first schema. Small rows: the ledger is the table that every random id touches somewhere else.
-- Keys (project_key, user_key, …) are local to this file; names are what the outside knows.

-- What concerns the whole file: schema_version, epoch, created_us.
CREATE TABLE store (
    key TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- users and event_types count the keys given out so far; a key is never given twice.
CREATE TABLE projects (
    project_key INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    users INTEGER NOT NULL DEFAULT 0,
    event_types INTEGER NOT NULL DEFAULT 0
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

-- Who did what in which quarter of an hour: one row per transaction and project, only ever added to. Each column is a run
-- of 32-bit numbers, little-endian, one for each event: user keys, quarters (occurred_us / 900,000,000), type keys.
-- mark is random: who remembers a row by key and mark sees that a backup was put in the place of what he knew.
CREATE TABLE activity_delta (
    delta_key INTEGER PRIMARY KEY,
    project_key INTEGER NOT NULL,
    users BLOB NOT NULL,
    quarters BLOB NOT NULL,
    types BLOB NOT NULL,
    mark INTEGER NOT NULL DEFAULT (random())
) STRICT;

CREATE INDEX activity_delta_by_project ON activity_delta (project_key);

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

-- Events that were accepted and that the store refuses, whole.
CREATE TABLE dead_events (
    project_key INTEGER NOT NULL,
    event_id BLOB NOT NULL,
    fingerprint BLOB NOT NULL,
    user_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    occurred_us INTEGER NOT NULL,
    received_us INTEGER NOT NULL,
    import_key INTEGER,
    properties TEXT NOT NULL,
    reason TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    dead_us INTEGER NOT NULL,
    PRIMARY KEY (project_key, event_id, fingerprint)
) STRICT, WITHOUT ROWID;

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

-- day is the UTC day of received_us, YYYY-MM-DD. The equations are checked here and not only hoped for.
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
