-- API keys. project is a name, for a key may come before the first event of its project; scopes and origins are JSON arrays.
CREATE TABLE api_keys (
    key_id TEXT NOT NULL PRIMARY KEY,
    digest BLOB NOT NULL,
    project TEXT NOT NULL,
    scopes TEXT NOT NULL,
    label TEXT NOT NULL,
    origins TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    expires_us INTEGER,
    revoked_us INTEGER,
    last_used_us INTEGER
) STRICT, WITHOUT ROWID;
