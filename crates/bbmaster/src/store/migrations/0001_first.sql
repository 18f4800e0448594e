-- One text for SQLite and PostgreSQL. Times are microseconds since 1970, UTC; flags are 0 and 1.

CREATE TABLE hosts (
    host_id TEXT NOT NULL PRIMARY KEY,
    -- NULL: has never reported.
    first_seen BIGINT,
    last_seen BIGINT,
    boot_id TEXT NOT NULL DEFAULT '',
    -- A status of it that comes late is known for old.
    previous_boot_id TEXT NOT NULL DEFAULT '',
    seq BIGINT NOT NULL DEFAULT 0,
    lost BIGINT NOT NULL DEFAULT 0,
    state TEXT NOT NULL DEFAULT 'missing',
    responding BIGINT NOT NULL DEFAULT 0,
    satisfied BIGINT NOT NULL DEFAULT 0,
    reported_generation BIGINT,
    hostname TEXT NOT NULL DEFAULT '',
    os_info TEXT NOT NULL DEFAULT '',
    agent_version TEXT NOT NULL DEFAULT '',
    error TEXT,
    apps_digest BIGINT NOT NULL DEFAULT 0,
    errors_digest BIGINT NOT NULL DEFAULT 0,
    -- The last status: the whole message, as it came.
    body TEXT
);

CREATE INDEX hosts_state ON hosts (state);
CREATE INDEX hosts_silence ON hosts (responding, last_seen);

CREATE TABLE desired (
    host_id TEXT NOT NULL PRIMARY KEY,
    generation BIGINT NOT NULL,
    apps TEXT NOT NULL,
    author TEXT NOT NULL,
    changed_at BIGINT NOT NULL
);

-- What is in `hosts.body` and `desired.apps`, to be searched and counted.
CREATE TABLE host_apps (
    host_id TEXT NOT NULL,
    -- 0: installed, 1: desired.
    desired BIGINT NOT NULL,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    running BIGINT NOT NULL,
    failing BIGINT NOT NULL,
    PRIMARY KEY (host_id, desired, name)
);

CREATE INDEX host_apps_name ON host_apps (name, version);

CREATE TABLE labels (
    host_id TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (host_id, name)
);

CREATE INDEX labels_name ON labels (name, value);

CREATE TABLE tokens (
    name TEXT NOT NULL PRIMARY KEY,
    -- SHA-256 of the secret, in hex: the secret is 256 random bits, so it needs no salt.
    digest TEXT NOT NULL UNIQUE,
    role TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    expires_at BIGINT
);
