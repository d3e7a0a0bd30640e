-- Ended builds by the pieces of their text: three letters at a time and without places, which is small. What it finds
-- is compared with the text itself. A build comes in when it ends, so that accepting one costs no more for it.
CREATE VIRTUAL TABLE builds_text USING fts5 (
    command, repository_url, commit_name,
    content = 'builds', content_rowid = 'number', tokenize = 'trigram', detail = 'none'
);

INSERT INTO builds_text (rowid, command, repository_url, commit_name)
SELECT number, command, repository_url, commit_name FROM builds
WHERE status IN ('succeeded', 'failed', 'timed_out', 'canceled', 'errored');

CREATE TRIGGER builds_are_found_when_ended AFTER UPDATE OF status ON builds
WHEN NEW.status IN ('succeeded', 'failed', 'timed_out', 'canceled', 'errored')
BEGIN
    INSERT INTO builds_text (rowid, command, repository_url, commit_name)
    VALUES (NEW.number, NEW.command, NEW.repository_url, NEW.commit_name);
END;
