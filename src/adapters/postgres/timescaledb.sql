-- The statements for databases with TimescaleDB, by name; :words are parameters. Its functions lie in the schema that
-- the extension was made in, which need not be on the search path.


-- name: is_available
-- Whether the server could have the extension, and the version that this database has; null without it.
SELECT
    EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb'),
    (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb')

-- name: make_extension
CREATE EXTENSION IF NOT EXISTS timescaledb

-- name: widen_search_path
-- For this transaction.
SELECT set_config(
    'search_path',
    concat_ws(', ', quote_ident(current_schema()), quote_ident(nspname)),
    true
)
FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace
WHERE extname = 'timescaledb'

-- name: make_hypertable
-- Chunks have our own index and not the default one on time alone.
SELECT create_hypertable(
    'events', 'occurred_at', chunk_time_interval => make_interval(days => :days), create_default_indexes => false
)

-- name: partition_us
-- The width of the hypertable's chunks; no row where events is a plain table.
SELECT (extract(epoch FROM time_interval) * 1000000)::bigint
FROM timescaledb_information.dimensions
WHERE hypertable_schema = current_schema() AND hypertable_name = 'events' AND dimension_number = 1

-- name: set_partition
SELECT set_chunk_time_interval('events', make_interval(days => :days))

-- name: has_columnstore
-- The edition under the Apache licence has neither compression nor policies.
SELECT coalesce(current_setting('timescaledb.license', true), '') = 'timescale'

-- name: prepare_columnstore
ALTER TABLE events SET (
    timescaledb.compress, timescaledb.compress_segmentby = 'project_key', timescaledb.compress_orderby = 'occurred_at'
)

-- name: end_columnstore
SELECT remove_compression_policy('events', if_exists => true)

-- name: begin_columnstore
SELECT add_compression_policy('events', compress_after => make_interval(days => :days), if_not_exists => true)

-- name: end_retention
SELECT remove_retention_policy('events', if_exists => true)

-- name: begin_retention
SELECT add_retention_policy('events', drop_after => make_interval(days => :days), if_not_exists => true)

-- name: policies
-- The days of the policies on our events, by name of the job; for describe() and verify().
SELECT
    proc_name,
    extract(epoch FROM coalesce(config ->> 'compress_after', config ->> 'drop_after')::interval)::bigint / 86400
FROM timescaledb_information.jobs
WHERE hypertable_schema = current_schema() AND hypertable_name = 'events'
    AND proc_name IN ('policy_compression', 'policy_retention')
