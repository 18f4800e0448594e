-- AUTOINCREMENT: an event's id is never used again, whatever was deleted.
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    host_id TEXT,
    author TEXT,
    message TEXT NOT NULL,
    data TEXT
);
CREATE INDEX events_host ON events (host_id, id);
CREATE INDEX events_at ON events (at);

CREATE TABLE quarantine (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at BIGINT NOT NULL,
    user_id TEXT,
    reason TEXT NOT NULL,
    body TEXT NOT NULL
);

CREATE TABLE replies (
    id TEXT NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL,
    body TEXT NOT NULL
);
