-- What lets a new host in. Kept after its last use, to be able to say so.
CREATE TABLE enroll_tokens (
    name TEXT NOT NULL PRIMARY KEY,
    -- As of API tokens.
    digest TEXT NOT NULL UNIQUE,
    uses_left BIGINT NOT NULL,
    -- NULL: any host that is not known.
    host_id TEXT,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    expires_at BIGINT NOT NULL
);

-- Hosts that have a login at the broker by one of them.
CREATE TABLE enrolled (
    host_id TEXT NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL,
    token TEXT NOT NULL
);
