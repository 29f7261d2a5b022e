-- What somebody would ask in SQL who has only the raw events, for SQLite, PostgreSQL and DuckDB alike; each names what is
-- put into {braces}. The statements ask a view `raw`, which the first three make, one for each; it gives every event as
--     person  who          kind     the type, whose name `kinds` has      happened_at  when, as the engine keeps it
--     hour    in UTC       day      in UTC, since 1970-01-01              week   the day of its Monday
--     local_day  of another zone       country  a property
-- No statement rides an index but that on events' time in PostgreSQL, where the range is a part of what there is.


-- name: views_sqlite
-- {shift_us}: how far the other zone's clocks are from UTC.
CREATE TEMP VIEW raw AS
SELECT
    user_key AS person,
    type_key AS kind,
    occurred_us AS happened_at,
    occurred_us / 3600000000 AS hour,
    occurred_us / 86400000000 AS day,
    occurred_us / 86400000000 - (occurred_us / 86400000000 + 3) % 7 AS week,
    (occurred_us + {shift_us}) / 86400000000 AS local_day,
    properties ->> '$.country' AS country
FROM events WHERE project_key = (SELECT project_key FROM projects WHERE name = 'default');
CREATE TEMP VIEW kinds AS
SELECT type_key AS kind, name FROM event_types
WHERE project_key = (SELECT project_key FROM projects WHERE name = 'default')

-- name: views_postgresql
CREATE TEMP VIEW raw AS
SELECT
    user_key AS person,
    type_key AS kind,
    occurred_at AS happened_at,
    date_trunc('hour', occurred_at AT TIME ZONE 'UTC') AS hour,
    (occurred_at AT TIME ZONE 'UTC')::date - DATE '1970-01-01' AS day,
    (occurred_at AT TIME ZONE 'UTC')::date - DATE '1970-01-01'
    - ((occurred_at AT TIME ZONE 'UTC')::date - DATE '1970-01-01' + 3) % 7 AS week,
    (occurred_at AT TIME ZONE '{zone}')::date - DATE '1970-01-01' AS local_day,
    properties::jsonb ->> 'country' AS country
FROM events WHERE project_key = (SELECT project_key FROM projects WHERE name = 'default');
CREATE TEMP VIEW kinds AS
SELECT type_key AS kind, name FROM event_types
WHERE project_key = (SELECT project_key FROM projects WHERE name = 'default')

-- name: views_duckdb
CREATE TEMP VIEW raw AS
SELECT
    user_id AS person,
    event_type AS kind,
    occurred_at AS happened_at,
    date_trunc('hour', occurred_at) AS hour,
    occurred_at::date - DATE '1970-01-01' AS day,
    occurred_at::date - DATE '1970-01-01' - (occurred_at::date - DATE '1970-01-01' + 3) % 7 AS week,
    timezone('{zone}', timezone('UTC', occurred_at))::date - DATE '1970-01-01' AS local_day,
    json_extract_string(properties, '$.country') AS country
FROM events;
CREATE TEMP VIEW kinds AS SELECT name AS kind, name FROM event_types

-- name: load_duckdb
-- {files}: CSV files of the generator, as a list. Times are kept in UTC, as the columns of a server would be.
CREATE TABLE events AS
SELECT user_id, event_type, timezone('UTC', occurred_at::timestamptz) AS occurred_at, properties_json AS properties
FROM read_csv({files}, header = true, all_varchar = true, quote = '"', escape = '"');
CREATE TABLE event_types AS SELECT DISTINCT event_type AS name FROM events

-- name: kinds
SELECT kind, name FROM kinds

-- name: users
-- Distinct users of each {period} from {since} until before {until}, of events for which {condition} holds.
SELECT {period}, count(DISTINCT person) FROM raw
WHERE happened_at >= {since} AND happened_at < {until} AND {condition} GROUP BY 1

-- name: counts
-- The same with the number of events.
SELECT {period}, count(DISTINCT person), count(*) FROM raw
WHERE happened_at >= {since} AND happened_at < {until} AND {condition} GROUP BY 1

-- name: parts
-- The same for each value of a {field}.
SELECT {period}, count(DISTINCT person), count(*), {field} FROM raw
WHERE happened_at >= {since} AND happened_at < {until} AND {condition} GROUP BY 1, 4

-- name: kind_counts
SELECT kind, count(DISTINCT person), count(*) FROM raw WHERE happened_at >= {since} AND happened_at < {until} GROUP BY 1

-- name: rolling
-- How much the number of users who were there in the last {days} days changes with each day: a user is, from a day on
-- which he comes, until so many days later or until he comes again, which begins anew.
WITH active AS (SELECT DISTINCT person, day FROM raw WHERE happened_at >= {since} AND happened_at < {until}),
stays AS (
    SELECT day AS begins, lead(day) OVER (PARTITION BY person ORDER BY day) AS comes_again FROM active
),
changes AS (
    SELECT begins AS day, 1 AS change FROM stays
    UNION ALL
    SELECT CASE WHEN comes_again < begins + {days} THEN comes_again ELSE begins + {days} END, -1 FROM stays
)
SELECT day, sum(change) FROM changes GROUP BY 1

-- name: lifecycle
-- Users of each week: all, those who came for the first time ever, those who came the week before.
WITH active AS (SELECT DISTINCT person, week FROM raw WHERE happened_at < {until}),
following AS (SELECT week, lag(week) OVER (PARTITION BY person ORDER BY week) AS previous FROM active)
SELECT
    week, count(*), sum(CASE WHEN previous IS NULL THEN 1 ELSE 0 END),
    sum(CASE WHEN previous = week - 7 THEN 1 ELSE 0 END)
FROM following GROUP BY 1

-- name: cohorts
-- The users of each cohort, by their first {period} ever, who came so many days later; {most_days} at most.
WITH active AS (SELECT DISTINCT person, {period} AS period FROM raw WHERE happened_at < {until}),
firsts AS (SELECT person, min(period) AS cohort FROM active GROUP BY 1)
SELECT cohort, period - cohort, count(*) FROM active JOIN firsts USING (person)
WHERE cohort >= {first} AND cohort <= {last} AND period - cohort <= {most_days} GROUP BY 1, 2

-- name: projection_bytes_sqlite
-- Pages of the table and its index; where SQLite was built without dbstat, see below.
SELECT sum(pgsize) FROM dbstat WHERE aggregate = TRUE AND name LIKE '%activity_bitmaps%'

-- name: projection_lengths_sqlite
-- What the rows hold, without pages half full.
SELECT sum(length(users) + 40) FROM activity_bitmaps

-- name: projection_bytes_postgresql
SELECT pg_total_relation_size('activity_bitmaps')

-- name: projection_rows
SELECT count(*) FROM activity_bitmaps

-- name: waiting_sqlite
-- Events that are not folded, and rows that hold them.
SELECT coalesce(sum(length(users)), 0) / 4, count(*) FROM activity_delta

-- name: waiting_postgresql
SELECT coalesce(sum(octet_length(users)), 0)::bigint / 4, count(*) FROM activity_delta
