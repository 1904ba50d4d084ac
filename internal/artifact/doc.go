// Package artifact keeps the bytes of models and code: a content-addressed store of file trees, and the staging
// area into which clients upload before they register a version. Beside it lies the ledger: blobs that the server
// itself appends lines to.
//
// It owns the directories artifacts/, uploads/ and collected/. A tree's digest is computed here from what was read, never
// taken from a client; a tree is complete or absent, and read-only from the moment it has its name. It never
// decides which tree is still needed: the caller lists, compares with what it knows and removes.
package artifact
