-- A removal is finished by the server, long after a person asked for it. The record now keeps who asked, so
-- that the revision left behind can name that person.
ALTER TABLE resources ADD COLUMN deleting_by TEXT NOT NULL DEFAULT '';
