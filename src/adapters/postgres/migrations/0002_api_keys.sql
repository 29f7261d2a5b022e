-- API keys. project is a name, for a key may come before the first event of its project. Room is left in its pages,
-- because last_used_at changes often.
CREATE TABLE api_keys (
    key_id text COLLATE "C" PRIMARY KEY,
    digest bytea NOT NULL,
    project text COLLATE "C" NOT NULL,
    scopes text[] NOT NULL,
    label text NOT NULL,
    origins text[] NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz
) WITH (fillfactor = 70);
