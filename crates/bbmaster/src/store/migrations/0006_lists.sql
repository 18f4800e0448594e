-- Lists of hosts are answered by indexes, and a heartbeat writes little.

-- The last status of each host, as it came: apart from what lists and filters read.
CREATE TABLE statuses (
    host_id TEXT NOT NULL PRIMARY KEY,
    body TEXT NOT NULL
);
INSERT INTO statuses (host_id, body) SELECT host_id, body FROM hosts WHERE body IS NOT NULL;

ALTER TABLE hosts RENAME TO hosts_before;
DROP INDEX hosts_state;
-- Nothing that a heartbeat changes is in an index.
DROP INDEX hosts_silence;
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
    -- Of all columns but last_seen, seq and lost: a status that has the same leaves them alone. 0: not known.
    facts_digest BIGINT NOT NULL DEFAULT 0,
    -- What the filter "text" looks at, in lower case.
    search TEXT NOT NULL DEFAULT ''
);
INSERT INTO hosts (
    host_id, first_seen, last_seen, boot_id, previous_boot_id, seq, lost, state, responding, satisfied,
    reported_generation, hostname, os_info, agent_version, error, apps_digest, errors_digest, search
)
SELECT
    host_id, first_seen, last_seen, boot_id, previous_boot_id, seq, lost, state, responding, satisfied,
    reported_generation, hostname, os_info, agent_version, error, apps_digest, errors_digest,
    LOWER(host_id || ' ' || SUBSTR(hostname, 1, 253) || ' ' || SUBSTR(os_info, 1, 100))
FROM hosts_before;
DROP TABLE hosts_before;

-- Each answers a page and the number of all that match, without the table. What a PUT changes is in as few as can be:
-- "satisfied" in one, desired applications in none.
CREATE INDEX hosts_by_state ON hosts (state, host_id, responding);
CREATE INDEX hosts_by_responding ON hosts (responding, host_id);
CREATE INDEX hosts_by_satisfied ON hosts (satisfied, host_id);
CREATE INDEX hosts_by_text ON hosts (host_id, search, state, responding);

DROP INDEX host_apps_name;
CREATE INDEX host_apps_by_name ON host_apps (name, host_id) WHERE desired = 0;
CREATE INDEX host_apps_by_name_version ON host_apps (name, version, host_id) WHERE desired = 0;
CREATE INDEX host_apps_by_version ON host_apps (version, host_id) WHERE desired = 0;

DROP INDEX labels_name;
CREATE INDEX labels_by_name ON labels (name, host_id);
CREATE INDEX labels_by_value ON labels (name, value, host_id);
