-- What a build is held to below what its runner allows.
ALTER TABLE builds ADD COLUMN limits TEXT NOT NULL DEFAULT '{}'; -- JSON object
ALTER TABLE builds ADD COLUMN network TEXT NOT NULL DEFAULT '"bridge"'; -- JSON string
