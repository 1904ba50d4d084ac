package control

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/google/uuid"

	"portico/internal/arm"
	"portico/internal/artifact"
	"portico/internal/online"
	"portico/internal/store"
)

// Places of uploads. A container belongs to one workspace, which its name says.
const (
	// BlobPath is the path under which the management listener serves blobs: /blobs/CONTAINER/NAME.
	BlobPath = "/blobs/"
	// DatastoreName is the one datastore that every workspace has.
	DatastoreName = "workspaceblobstore"
	// GrantLifetime is how long a credential for uploads is good.
	GrantLifetime = time.Hour

	pendingPrefix   = "pu-"
	datastorePrefix = "azureml-blobstore-"
	scopeBytes      = 6 // of the digest that stands for a workspace in a container's name
)

// Upload is a place for the content of one version, with the credential to write there.
type Upload struct {
	ID        string // of the pending upload
	Container string
	Grant     Grant
	Query     string // the grant as the query of a URL
}

// StartPendingUpload opens a container for the content of a model or code version that is to be registered.
func (s *Service) StartPendingUpload(ctx context.Context, c Caller, w online.WorkspaceID, kind online.Kind,
	name, version string) (out Upload, err error) {
	if kind != online.KindModel && kind != online.KindCode {
		return out, online.Errorf(online.CodeNotImplemented, "", "startPendingUpload is for models and codes")
	}
	var faults []*online.Error
	for _, f := range []*online.Error{online.CheckAssetName("name", name, "name"),
		online.CheckAssetName("version", version, "version")} {
		if f != nil {
			faults = append(faults, f)
		}
	}
	if err := failIf(faults); err != nil {
		return out, err
	}
	now := s.now()
	id := uuid.NewString()
	err = s.update(ctx, c, func(tx store.Tx) error {
		if _, err := workspace(tx, w); err != nil {
			return err
		}
		out = Upload{ID: id, Container: pendingPrefix + scopeOf(w) + "-" + strings.ReplaceAll(id, "-", "")}
		out.Grant = s.grant(c, out.Container, now)
		out.Query = s.grants.sign(out.Grant)
		return s.note(tx, c, w.Asset(kind, name, version), "startPendingUpload/action", succeeded, "", now)
	})
	return out, err
}

// grant lets the caller use a container for a while.
func (s *Service) grant(c Caller, container string, now time.Time) Grant {
	return Grant{Container: container, Owner: OwnerOf(c.Principal), Permissions: uploadPermissions,
		Expires: now.Add(GrantLifetime)}
}

// Datastore is the place for a workspace's uploads.
type Datastore struct {
	Workspace arm.Meta
	Container string
}

// GetDatastore reads the datastore of a workspace. There is one, workspaceblobstore.
func (s *Service) GetDatastore(ctx context.Context, c Caller, w online.WorkspaceID,
	name string) (out Datastore, err error) {
	err = s.view(ctx, c, func(r store.Reader) error {
		ws, err := workspace(r, w)
		if err != nil {
			return err
		}
		if !strings.EqualFold(name, DatastoreName) {
			return notFound(online.ID{Workspace: w, Kind: online.KindDatastore, Name: name})
		}
		out = Datastore{Workspace: meta(&ws.Record, online.StateSucceeded), Container: datastorePrefix + scopeOf(w)}
		return nil
	})
	return out, err
}

// ListSecrets gives a credential for the datastore's container, as the query of a URL.
func (s *Service) ListSecrets(ctx context.Context, c Caller, w online.WorkspaceID,
	name string) (query string, err error) {
	d, err := s.GetDatastore(ctx, c, w, name)
	if err != nil {
		return "", err
	}
	now := s.now()
	err = s.update(ctx, c, func(tx store.Tx) error {
		id := online.ID{Workspace: w, Kind: online.KindDatastore, Name: name}
		return s.note(tx, c, id, "listSecrets/action", succeeded, "", now)
	})
	return s.grants.sign(s.grant(c, d.Container, now)), err
}

// scopeOf stands for a workspace in the names of its containers.
func scopeOf(w online.WorkspaceID) string {
	sum := sha256.Sum256([]byte(w.ID().Key()))
	return hex.EncodeToString(sum[:scopeBytes])
}

// place is where content lies.
type place struct {
	container string
	path      string // without slashes at its ends; empty: the whole container
}

// takeContent imports what a version's URI names and fills in what the server found. A version that exists and
// names the same URI is not read again when its upload is gone: the first import is what counts.
func (s *Service) takeContent(ctx context.Context, c Caller, id online.ID, spec *online.AssetSpec) (place, error) {
	if id.Kind != online.KindModel && id.Kind != online.KindCode {
		return place{}, nil
	}
	at, err := parseURI(spec.URI, id.Workspace, uriField(id.Kind))
	if err != nil {
		return place{}, err
	}
	spec.URI = withoutQuery(spec.URI)
	content, err := s.importUpload(ctx, c, at)
	if errors.Is(err, artifact.ErrNotFound) {
		return place{}, s.keepContent(ctx, c, id, spec)
	}
	if err != nil {
		return place{}, translate(fmt.Errorf("import the content of %s: %w", id.Key(), moveTarget(err, uriField(id.Kind))))
	}
	if id.Kind == online.KindCode && content.IsFile {
		return place{}, online.Errorf(online.CodeBadArgument, uriField(id.Kind),
			"the code must be a folder, and %.120q is a file", spec.URI)
	}
	spec.Digest, spec.IsFile = content.Digest, content.IsFile
	if at.path != "" {
		spec.Path = path.Base(at.path)
	}
	if id.Kind == online.KindCode {
		if spec.ContentHash, err = s.codeHash(ctx, spec.Digest); err != nil {
			return place{}, fmt.Errorf("hash %s: %w", id.Key(), err)
		}
	}
	return at, nil
}

// importUpload takes over what the caller uploaded to a place, or what one other principal did where he did not.
func (s *Service) importUpload(ctx context.Context, c Caller, at place) (artifact.Tree, error) {
	source, err := s.Uploads.View(OwnerOf(c.Principal)).Source(path.Join(at.container, at.path))
	if err != nil {
		return artifact.Tree{}, err
	}
	return s.Artifacts.ImportUpload(ctx, s.Uploads, source)
}

// keepContent takes over what was imported when the version was registered.
func (s *Service) keepContent(ctx context.Context, c Caller, id online.ID, spec *online.AssetSpec) error {
	before, err := s.GetAsset(ctx, c, id.Workspace, id.Kind, id.Parent, id.Name)
	if err == nil && before.Spec.URI == spec.URI {
		spec.Digest, spec.IsFile, spec.Path = before.Spec.Digest, before.Spec.IsFile, before.Spec.Path
		spec.ContentHash = before.Spec.ContentHash
		return nil
	}
	if err != nil && !online.IsCode(err, online.CodeNotFound) {
		return err
	}
	return online.Errorf(online.CodeBadArgument, uriField(id.Kind),
		"nothing was uploaded to %.200q; upload the content first", spec.URI)
}

// discardBatch is how many blobs are deleted between two looks at the context.
const discardBatch = 100

// discard deletes a container that was opened for one upload, after its content was taken over.
func (s *Service) discard(ctx context.Context, at place) {
	if !strings.HasPrefix(at.container, pendingPrefix) {
		return
	}
	for ctx.Err() == nil {
		blobs := s.Uploads.List(at.container+"/", "", discardBatch)
		if len(blobs) == 0 {
			return
		}
		for _, b := range blobs {
			if err := s.Uploads.Delete(b.Name); err != nil && !errors.Is(err, artifact.ErrNotFound) {
				s.Logger.Warn("cannot discard an upload", "container", at.container, "error", err)
				return
			}
		}
	}
}

// parseURI finds the place that a location of content names. These forms are read:
//
//	https://HOST/blobs/CONTAINER/PATH                      as startPendingUpload gave it
//	https://ACCOUNT.blob.SUFFIX/CONTAINER/PATH             the same by the account's own name
//	https://HOST/ACCOUNT.blob.SUFFIX/CONTAINER/PATH        the same where HOST/ACCOUNT stands for the account
//	https://HOST/CONTAINER/PATH                            which the Python SDK makes of that
//	azureml://subscriptions/S/resourcegroups/G/workspaces/W/datastores/workspaceblobstore/paths/PATH
//	azureml://datastores/workspaceblobstore/paths/PATH
//
// HOST is not looked at: a server has many names, and the container's says which workspace it belongs to.
func parseURI(uri string, w online.WorkspaceID, target string) (place, error) {
	bad := func(why string) (place, error) {
		return place{}, online.Errorf(online.CodeBadArgument, target,
			"%.200q %s; use a location that startPendingUpload or the datastore %s gave",
			withoutQuery(uri), why, DatastoreName)
	}
	u, err := url.Parse(uri)
	if err != nil || len(uri) > arm.MaxIDLength {
		return bad("is not a URI")
	}
	var at place
	switch strings.ToLower(u.Scheme) {
	case "https", "http":
		var ok bool
		if at, ok = blobPlace(u.Path, w); !ok {
			return bad("is not an upload of this workspace on this server")
		}
	case "azureml":
		p := "/" + u.Host + u.Path
		if what := notHere(p); what != "" {
			return place{}, online.Errorf(online.CodeNotImplemented, target,
				"%.200q lies in %s; give a local path, or a path of the datastore %s", withoutQuery(uri), what, DatastoreName)
		}
		rest, ok := datastorePath(p, w)
		if !ok {
			return bad("is not a path of this workspace's datastore")
		}
		at = place{container: datastorePrefix + scopeOf(w), path: rest}
	case "runs":
		return place{}, online.Errorf(online.CodeNotImplemented, target,
			"%.200q lies in %s; give a local path, or a path of the datastore %s", withoutQuery(uri), jobStore, DatastoreName)
	default:
		return bad("is not a location that this server can read")
	}
	at.path = strings.Trim(at.path, "/")
	if at.path == "" && strings.HasPrefix(at.container, datastorePrefix) {
		return bad("names the whole datastore")
	}
	if at.path != "" && !fs.ValidPath(at.path) {
		return bad("has an invalid path")
	}
	return at, nil
}

// blobPlace reads the path of a blob's URL: the workspace's container is its first or second part.
func blobPlace(p string, w online.WorkspaceID) (place, bool) {
	for range 2 {
		var at place
		at.container, at.path, _ = strings.Cut(strings.TrimPrefix(p, "/"), "/")
		if ownContainer(at.container, w) {
			return at, true
		}
		p = at.path
	}
	return place{}, false
}

// ownContainer says whether a container is one of a workspace's.
func ownContainer(container string, w online.WorkspaceID) bool {
	return container == datastorePrefix+scopeOf(w) || strings.HasPrefix(container, pendingPrefix+scopeOf(w)+"-")
}

// jobStore says what is not here of the outputs of jobs.
const jobStore = "the output of a job, and this server runs no jobs"

// notHere names the store that a path of azureml:// leads to, when this server has none of its kind.
func notHere(p string) string {
	switch first, _, _ := strings.Cut(strings.TrimPrefix(p, "/"), "/"); strings.ToLower(first) {
	case "jobs":
		return jobStore
	case "registries":
		return "a registry, and this server has no registries"
	}
	return ""
}

// datastorePath reads the path within the workspace's own datastore.
func datastorePath(p string, w online.WorkspaceID) (string, bool) {
	seg := strings.Split(strings.Trim(p, "/"), "/")
	if len(seg) > 6 && strings.EqualFold(seg[0], "subscriptions") {
		if !strings.EqualFold(seg[2], "resourcegroups") || !strings.EqualFold(seg[4], "workspaces") {
			return "", false
		}
		named := online.WorkspaceID{Subscription: seg[1], ResourceGroup: seg[3], Name: seg[5]}
		if !named.ID().Same(w.ID()) {
			return "", false
		}
		seg = seg[6:]
	}
	if len(seg) < 4 || !strings.EqualFold(seg[0], "datastores") || !strings.EqualFold(seg[1],
		DatastoreName) || !strings.EqualFold(seg[2], "paths") {
		return "", false
	}
	return strings.Join(seg[3:], "/"), true
}

// withoutQuery drops what may be a credential.
func withoutQuery(uri string) string {
	base, _, _ := strings.Cut(uri, "?")
	return base
}
