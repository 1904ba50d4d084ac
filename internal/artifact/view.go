package artifact

import (
	"context"
	"fmt"
	"io"
	"maps"
	"path"
	"regexp"
	"slices"
	"sort"
	"strings"

	"portico/internal/online"
)

// View is the staging area as one owner sees it. What he writes is his own: nobody else's write replaces it or stands
// in its way, and his replaces nobody's. He reads his own blobs and, where he has none, what one other owner uploaded
// under the name. What several others uploaded under one name is shown to none of the rest: it cannot be told which
// was meant.
//
// Clients skip an upload when a blob says that it is complete. Another owner's blob never says so: its content is what
// its writer claims, and whoever trusted the mark would register a stranger's bytes.
//
// What the server itself wrote, the blobs of the ledger, everybody reads who has no blob of his own under the name, and
// whoever may delete at all may delete it: it is the workspace's, and it is not imported.
//
// In the staging area the blob CONTAINER/PATH of an owner is CONTAINER/OWNER/PATH.
type View struct {
	u     *Uploads
	owner string
}

// completedKey is the metadata by which the Python SDK marks the upload that a blob belongs to as complete.
const completedKey = "upload_status"

var ownerRule = regexp.MustCompile(`^[0-9a-z]{1,64}$`)

// View gives the staging area as an owner sees it. An owner is 1 to 64 lower-case letters and digits; another text is
// a mistake of the caller.
func (u *Uploads) View(owner string) View {
	if !ownerRule.MatchString(owner) {
		panic("artifact: " + owner + " cannot be an owner")
	}
	return View{u: u, owner: owner}
}

// Put is Uploads.Put for a blob of the owner's own.
func (v View) Put(ctx context.Context, name string, r io.Reader, o PutOptions) (Blob, error) {
	if err := checkBlobName(name); err != nil {
		return Blob{}, fmt.Errorf("put blob: %w", err)
	}
	b, err := v.u.Put(ctx, staged(name, v.owner), r, o)
	return named(b, name), err
}

// PutBlock is Uploads.PutBlock for a blob of the owner's own.
func (v View) PutBlock(ctx context.Context, name, id string, r io.Reader, o BlockOptions) error {
	if err := checkBlobName(name); err != nil {
		return fmt.Errorf("put block: %w", err)
	}
	return v.u.PutBlock(ctx, staged(name, v.owner), id, r, o)
}

// CommitBlocks is Uploads.CommitBlocks for a blob of the owner's own.
func (v View) CommitBlocks(ctx context.Context, name string, list []BlockRef, o CommitOptions) (Blob, error) {
	if err := checkBlobName(name); err != nil {
		return Blob{}, fmt.Errorf("commit blocks: %w", err)
	}
	b, err := v.u.CommitBlocks(ctx, staged(name, v.owner), list, o)
	return named(b, name), err
}

// Blocks is Uploads.Blocks for a blob of the owner's own.
func (v View) Blocks(name string) (committed, uncommitted []Block, err error) {
	if err := checkBlobName(name); err != nil {
		return nil, nil, fmt.Errorf("list blocks: %w", err)
	}
	return v.u.Blocks(staged(name, v.owner))
}

// SetMetadata is Uploads.SetMetadata for a blob of the owner's own.
func (v View) SetMetadata(name string, metadata map[string]string) (Blob, error) {
	if err := checkBlobName(name); err != nil {
		return Blob{}, fmt.Errorf("set metadata: %w", err)
	}
	b, err := v.u.SetMetadata(staged(name, v.owner), metadata)
	return named(b, name), err
}

// Delete is Uploads.Delete for a blob of the owner's own, or one of the ledger.
func (v View) Delete(name string) error {
	if err := checkBlobName(name); err != nil {
		return fmt.Errorf("delete blob: %w", err)
	}
	if v.ofLedger(name) {
		return v.u.ledger.Delete(name)
	}
	return v.u.Delete(staged(name, v.owner))
}

// ofLedger says whether the blob that the owner reads under a name is one of the ledger.
func (v View) ofLedger(name string) bool {
	if v.u.ledger == nil {
		return false
	}
	if _, err := v.u.Stat(staged(name, v.owner)); err == nil {
		return false
	}
	_, err := v.u.ledger.Stat(name)
	return err == nil
}

// Stat describes the blob that the owner reads under a name; ErrNotFound.
func (v View) Stat(name string) (Blob, error) {
	if v.ofLedger(name) {
		return v.u.ledger.Stat(name)
	}
	owner, err := v.reader(name)
	if err != nil {
		return Blob{}, err
	}
	b, err := v.u.Stat(staged(name, owner))
	return v.shown(b, name, owner), err
}

// Open gives the blob that the owner reads under a name, and its bytes; see Uploads.Open. ErrNotFound.
func (v View) Open(name string) (Blob, io.ReadSeekCloser, error) {
	if v.ofLedger(name) {
		return v.u.ledger.Open(name)
	}
	owner, err := v.reader(name)
	if err != nil {
		return Blob{}, nil, err
	}
	b, r, err := v.u.Open(staged(name, owner))
	return v.shown(b, name, owner), r, err
}

// List gives at most limit blobs that the owner reads, whose names begin with prefix (CONTAINER/ and more) and come
// after a name, in order.
func (v View) List(prefix, after string, limit int) []Blob {
	uploaded := v.listUploads(prefix, after, limit)
	if v.u.ledger == nil || !strings.Contains(prefix, "/") {
		return uploaded
	}
	all := append(v.u.ledger.List(prefix, after, limit), uploaded...)
	slices.SortStableFunc(all, func(a, b Blob) int { return strings.Compare(a.Name, b.Name) })
	out := all[:0]
	for _, b := range all {
		switch same := len(out) > 0 && out[len(out)-1].Name == b.Name; {
		case !same:
			out = append(out, b)
		case !v.ofLedger(b.Name): // the later one of two is the upload
			out[len(out)-1] = b
		}
	}
	return out[:min(len(out), limit)]
}

func (v View) listUploads(prefix, after string, limit int) []Blob {
	container, rest, ok := strings.Cut(prefix, "/")
	if !ok {
		return nil
	}
	owners := v.u.owners(container)
	seen := map[string]string{} // who is read in a unit
	var out []Blob
	for len(out) < limit {
		next := ""
		for _, owner := range owners {
			found := v.u.List(container+"/"+owner+"/"+rest, stagedAfter(after, container, owner), 1)
			if len(found) == 0 {
				continue
			}
			if name := plain(found[0].Name); next == "" || name < next {
				next = name
			}
		}
		if next == "" {
			break
		}
		after = next
		u, _ := unit(next)
		owner, known := seen[u]
		if !known {
			owner = v.ownerOf(owners, next)
			seen[u] = owner
		}
		if owner == "" {
			continue
		}
		if b, err := v.u.Stat(staged(next, owner)); err == nil { // another owner may have the unit and not this name
			out = append(out, v.shown(b, next, owner))
		}
	}
	return out
}

// Source gives what ImportUpload is to read for CONTAINER/PATH, or for CONTAINER as a whole: all of it belongs to one
// owner, so that nobody can add a file to what another uploaded. Errors: ErrNotFound, online.Error when several others
// uploaded there.
func (v View) Source(name string) (string, error) {
	name = strings.TrimSuffix(name, "/")
	container, rest, _ := strings.Cut(name, "/")
	if err := checkPath(name, "blob"); err != nil {
		return "", fmt.Errorf("find upload: %w", err)
	}
	owners := v.u.having(v.u.owners(container), name, true)
	switch owner := v.choose(owners); {
	case owner != "":
		return path.Join(container, owner, rest), nil
	case len(owners) == 0:
		return "", fmt.Errorf("find upload %s: %w", name, ErrNotFound)
	}
	return "", online.Errorf(online.CodeConflict, "blob",
		"several others uploaded to %.200q, and it cannot be told whose content is meant; upload it yourself", rest)
}

// reader finds whose blob the owner reads under a name.
func (v View) reader(name string) (string, error) {
	if err := checkBlobName(name); err != nil {
		return "", fmt.Errorf("find blob: %w", err)
	}
	container, _, _ := strings.Cut(name, "/")
	if owner := v.ownerOf(v.u.owners(container), name); owner != "" {
		return owner, nil
	}
	return "", fmt.Errorf("blob %.80q: %w", name, ErrNotFound)
}

// ownerOf finds whose blob is read under a name; empty: nobody's.
func (v View) ownerOf(owners []string, name string) string {
	u, isFolder := unit(name)
	return v.choose(v.u.having(owners, u, isFolder))
}

// choose picks the owner himself, or else the only other one; empty: nobody.
func (v View) choose(owners []string) string {
	for _, o := range owners {
		if o == v.owner {
			return o
		}
	}
	if len(owners) == 1 {
		return owners[0]
	}
	return ""
}

// shown is a blob as its reader sees it.
func (v View) shown(b Blob, name, owner string) Blob {
	if owner != v.owner && b.Metadata[completedKey] != "" {
		b.Metadata = maps.Clone(b.Metadata)
		delete(b.Metadata, completedKey)
	}
	return named(b, name)
}

// uploadFolders are the folders in which the Python SDK gives every upload a folder of its own, named by its hash.
var uploadFolders = map[string]bool{"LocalUpload": true, "az-ml-artifacts": true}

// IsUploadFolder says whether a path inside a container lies where clients put uploads, each in a folder that is one
// owner's.
func IsUploadFolder(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return uploadFolders[first]
}

// unit is the part of a blob's name below which all is one owner's: the folder of one upload, or the blob alone.
func unit(name string) (of string, isFolder bool) {
	parts := strings.SplitN(name, "/", 4)
	if len(parts) == 4 && uploadFolders[parts[1]] {
		return strings.Join(parts[:3], "/"), true
	}
	return name, false
}

// staged is the name in the staging area of an owner's blob.
func staged(name, owner string) string {
	container, rest, _ := strings.Cut(name, "/")
	return container + "/" + owner + "/" + rest
}

// stagedAfter is staged for a name to go on after, which may be none or end in the middle of a folder.
func stagedAfter(after, container, owner string) string {
	if rest, ok := strings.CutPrefix(after, container+"/"); ok {
		return container + "/" + owner + "/" + rest
	}
	return ""
}

// plain is the name of a blob without its owner.
func plain(stagedName string) string {
	container, rest, _ := strings.Cut(stagedName, "/")
	_, rest, _ = strings.Cut(rest, "/")
	return container + "/" + rest
}

func named(b Blob, name string) Blob {
	if b.Name != "" {
		b.Name = name
	}
	return b
}

// owners lists who has blobs in a container.
func (u *Uploads) owners(container string) []string {
	u.mu.RLock()
	defer u.mu.RUnlock()
	var out []string
	for from := container + "/"; ; {
		i := sort.SearchStrings(u.sorted, from)
		if i == len(u.sorted) {
			return out
		}
		rest, ok := strings.CutPrefix(u.sorted[i], container+"/")
		if !ok {
			return out
		}
		owner, _, _ := strings.Cut(rest, "/")
		out = append(out, owner)
		from = container + "/" + owner + "0" // '0' comes right after '/'
	}
}

// having keeps of the owners those who have a blob of that name (CONTAINER/PATH, or CONTAINER), or one below it.
func (u *Uploads) having(owners []string, name string, below bool) []string {
	u.mu.RLock()
	defer u.mu.RUnlock()
	var out []string
	for _, owner := range owners {
		at := strings.TrimSuffix(staged(name, owner), "/")
		_, has := u.blobs[at]
		if !has && below {
			i := sort.SearchStrings(u.sorted, at+"/")
			has = i < len(u.sorted) && strings.HasPrefix(u.sorted[i], at+"/")
		}
		if has {
			out = append(out, owner)
		}
	}
	return out
}
