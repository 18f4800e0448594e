-- What has happened once, for good.
CREATE TABLE once (
    what TEXT NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL
);

-- The first API token: from then on nobody comes in without one, not even when all are revoked.
INSERT INTO once (what, at)
SELECT 'token_made', made.at
FROM (
    SELECT created_at AS at FROM tokens
    UNION ALL
    SELECT at FROM events WHERE kind = 'token_created'
) AS made
ORDER BY made.at
LIMIT 1;
