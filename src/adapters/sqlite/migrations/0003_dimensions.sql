-- Dimensions: properties declared for a project, folded as types are (eventcore.dimensions). A combination of a dimension,
-- a type and a value has a key beside those of types, from 1048576 on, wherever there is a type_key in activity_delta and
-- activity_bitmaps.

-- As users and event_types: combinations counts the keys given out so far.
ALTER TABLE projects ADD COLUMN combinations INTEGER NOT NULL DEFAULT 0;

-- state: building, ready or full. Keys are never given twice: one that is declared again is another one.
CREATE TABLE dimensions (
    dimension_key INTEGER PRIMARY KEY AUTOINCREMENT,
    project_key INTEGER NOT NULL,
    name TEXT NOT NULL,
    state TEXT NOT NULL,
    UNIQUE (project_key, name)
) STRICT;

-- value: as JSON, in the one spelling that eventcore.dimensions.canonical gives it; empty where the property is absent.
-- Those whose dimension is full or gone are dead: no fact of theirs counts, and they wait to be deleted.
CREATE TABLE combinations (
    dimension_key INTEGER NOT NULL,
    type_key INTEGER NOT NULL,
    value TEXT NOT NULL,
    project_key INTEGER NOT NULL,
    combination_key INTEGER NOT NULL,
    PRIMARY KEY (dimension_key, type_key, value),
    UNIQUE (project_key, combination_key)
) STRICT, WITHOUT ROWID;

-- Random, and another one after every change of the list of dimensions, so that writers see it in each transaction.
INSERT INTO store (key, value) VALUES ('dimensions', '');
