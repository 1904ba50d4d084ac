package control

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"portico/internal/arm"
	"portico/internal/environment"
	"portico/internal/online"
	"portico/internal/store"
)

// Asset is one version of a model, code, environment or data asset as people see it.
type Asset struct {
	Meta arm.Meta
	Spec online.AssetSpec
}

// Container is the container of an asset's versions.
type Container struct {
	Meta   arm.Meta
	Spec   online.AssetSpec // Description, Tags, Properties and IsArchived only
	Latest string           // the version that was registered last; empty while there is none
	Next   string           // one more than the largest number among the versions that ever were
}

// PutAsset is the wish for one version.
type PutAsset struct {
	Spec  online.AssetSpec // URI is where the content lies; Digest, Path and IsFile are found out
	Match Match
}

// PutAsset registers a version, or changes the words, tags and archived mark of one that exists. The content of a
// version never changes: another one under the same number is a Conflict, the same one is accepted again.
func (s *Service) PutAsset(ctx context.Context, c Caller, w online.WorkspaceID, kind online.Kind, name, version string,
	in PutAsset) (Accepted[Asset], error) {
	id := w.Asset(kind, name, version)
	notes, err := s.checkAsset(ctx, c, id, &in.Spec)
	if err != nil {
		return Accepted[Asset]{}, err
	}
	source, err := s.takeContent(ctx, c, id, &in.Spec)
	if err != nil {
		return Accepted[Asset]{}, err
	}
	now := s.now()
	var out Accepted[Asset]
	err = s.update(ctx, c, func(tx store.Tx) error {
		spec := in.Spec
		if _, err := workspace(tx, w); err != nil {
			return err
		}
		rec, err := findForChange(tx, id, in.Match, false)
		if err != nil {
			return err
		}
		if err := sameContent(tx, id, rec, &spec); err != nil {
			return err
		}
		why := "update"
		if rec == nil {
			why = "create"
		}
		stored, err := s.storeAsset(tx, c, id, &spec, rec, why)
		if err != nil {
			return err
		}
		if err := s.note(tx, c, id, "write", succeeded, "", now); err != nil {
			return err
		}
		out = Accepted[Asset]{Resource: Asset{Meta: meta(stored, online.StateSucceeded), Spec: spec},
			Created: rec == nil, Notes: notes}
		return nil
	})
	if err == nil {
		s.discard(ctx, source)
	}
	return out, err
}

// checkAsset validates all that does not need the content.
func (s *Service) checkAsset(ctx context.Context, c Caller, id online.ID,
	spec *online.AssetSpec) (notes []string, err error) {
	var faults []*online.Error
	if f := online.CheckAssetName("name", id.Parent, "name"); f != nil {
		faults = append(faults, f)
	}
	if f := online.CheckAssetName("version", id.Name, "version"); f != nil {
		faults = append(faults, f)
	}
	faults = append(faults, checkWords(spec.Description, spec.Tags, spec.Properties, "properties.tags")...)
	switch field := uriField(id.Kind); {
	case id.Kind == online.KindEnvironment:
		var fault *online.Error
		if notes, fault = checkEnvironmentSpec(spec.Environment); fault != nil {
			faults = append(faults, fault)
		}
	case spec.URI == "":
		faults = append(faults, online.Errorf(online.CodeBadArgument, field, "a location of the content is required"))
	}
	if err := failIf(faults); err != nil {
		return nil, err
	}
	return notes, s.view(ctx, c, func(r store.Reader) error {
		_, err := workspace(r, id.Workspace)
		return err
	})
}

// checkEnvironmentSpec says why an environment can never be built, and what a build will not honour.
func checkEnvironmentSpec(e *online.EnvironmentSpec) (notes []string, fault *online.Error) {
	if e.Image == "" && e.CondaFile == "" && e.Requirements == "" && e.InferenceConfig == (online.InferenceConfig{}) {
		return nil, online.Errorf(online.CodeBadArgument, "properties",
			"an environment needs a condaFile, requirements or an image, or the inferenceConfig of a custom server that needs none of them")
	}
	notes, err := environment.Check(*e)
	if err != nil {
		fault, known := online.AsError(err)
		if !known {
			fault = online.Errorf(online.CodeBadArgument, "", "the environment cannot be read: %w", err)
		}
		moved := *fault
		moved.Target = strings.TrimSuffix("properties."+fault.Target, ".")
		return nil, &moved
	}
	if e.Image != "" && e.CondaFile+e.Requirements != "" {
		notes = append(notes, "properties.image is recorded and not run: the environment is built from its packages")
	}
	return notes, nil
}

// sameContent enforces that a version means the same content for ever, also after it was deleted.
func sameContent(tx store.Tx, id online.ID, rec *store.Record, spec *online.AssetSpec) error {
	if rec != nil {
		before, err := store.Decode[online.AssetSpec, struct{}](rec)
		if err != nil {
			return err
		}
		if !equalContent(&before.Spec, spec) {
			return online.Errorf(online.CodeConflict, arm.FormatID(id),
				"%s %s:%s exists with other content, and a version never changes; register the next version", id.Kind, id.Parent, id.Name)
		}
		// What was found when it was registered stays: the client's address of the content may differ by now.
		spec.URI, spec.IsAnonymous = before.Spec.URI, before.Spec.IsAnonymous
		return nil
	}
	earlier, err := tx.Revisions(id)
	if err != nil {
		return fmt.Errorf("read revisions of %s: %w", id.Key(), err)
	}
	for _, rev := range earlier {
		var before online.AssetSpec
		if err := json.Unmarshal(rev.Spec, &before); err != nil {
			return fmt.Errorf("decode revision %d of %s: %w", rev.Revision, id.Key(), err)
		}
		if !equalContent(&before, spec) {
			return online.Errorf(online.CodeConflict, arm.FormatID(id),
				"%s %s:%s once had other content, and a version never changes, not even after its deletion; register the next version",
				id.Kind, id.Parent, id.Name)
		}
	}
	return nil
}

func equalContent(a, b *online.AssetSpec) bool {
	if a.Digest != b.Digest || a.IsFile != b.IsFile || a.Path != b.Path || a.DataType != b.DataType {
		return false
	}
	if a.Digest == "" && a.URI != b.URI {
		return false
	}
	if a.Environment == nil || b.Environment == nil {
		return a.Environment == b.Environment
	}
	return *a.Environment == *b.Environment
}

// storeAsset writes a version, and its container with the first one. An unchanged version is left alone.
func (s *Service) storeAsset(tx store.Tx, c Caller, id online.ID, spec *online.AssetSpec, rec *store.Record,
	why string) (*store.Record, error) {
	now := s.now()
	container := id.Workspace.Asset(id.Kind, "", id.Parent)
	known, err := find(tx, container)
	if err != nil {
		return nil, err
	}
	if known == nil {
		if _, err := putJSON(tx, c, container, online.AssetSpec{DataType: dataTypeOf(spec, id.Kind)}, "create",
			now); err != nil {
			return nil, err
		}
	}
	doc, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", id.Kind, err)
	}
	if rec != nil && string(rec.Spec) == string(doc) {
		return rec, nil
	}
	return putJSON(tx, c, id, spec, why, now)
}

func dataTypeOf(spec *online.AssetSpec, kind online.Kind) string {
	if kind == online.KindData {
		return spec.DataType
	}
	return ""
}

func putJSON(tx store.Tx, c Caller, id online.ID, spec any, why string, now time.Time) (*store.Record, error) {
	doc, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", id.Kind, err)
	}
	rec, err := tx.PutSpec(store.Spec{ID: id, JSON: doc, By: c.Principal.Name, Why: why, At: now})
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", id.Key(), err)
	}
	return rec, nil
}

// GetAsset reads a version.
func (s *Service) GetAsset(ctx context.Context, c Caller, w online.WorkspaceID, kind online.Kind,
	name, version string) (out Asset, err error) {
	err = s.view(ctx, c, func(r store.Reader) error {
		rec, err := must(r, w.Asset(kind, name, version))
		if err != nil {
			return err
		}
		out, err = readAsset(rec)
		return err
	})
	return out, err
}

func readAsset(rec *store.Record) (Asset, error) {
	a, err := store.Decode[online.AssetSpec, struct{}](rec)
	if err != nil {
		return Asset{}, err
	}
	return Asset{Meta: meta(rec, online.StateSucceeded), Spec: a.Spec}, nil
}

// ContentHash selects codes by the hash that the Python SDK makes of their files. Only what the server computed is
// compared: by the hash that a client claimed, it could have its code used in place of another's.
type ContentHash struct {
	Hash    string // hexadecimal; empty: every version
	Version string // of the way it is made; empty: CodeHashVersion
}

// selects says whether a version has the hash.
func (h ContentHash) selects(spec *online.AssetSpec) bool {
	return strings.EqualFold(h.Hash, spec.ContentHash) && (h.Version == "" || h.Version == CodeHashVersion)
}

// ListAssets lists the versions of an asset; with a hash, those of every asset of the kind: clients ask under a name
// that they made up for the occasion, and take over the name that is answered.
func (s *Service) ListAssets(ctx context.Context, c Caller, w online.WorkspaceID, kind online.Kind, name string,
	hash ContentHash, q ListQuery) (out Listing[Asset], err error) {
	err = s.view(ctx, c, func(r store.Reader) error {
		if _, err := workspace(r, w); err != nil {
			return err
		}
		prefix := w.Asset(kind, name, "").Prefix()
		if hash.Hash != "" {
			prefix = w.Asset(kind, "", "").Prefix()
		}
		recs, err := r.List(prefix, store.Page{})
		if err != nil {
			return fmt.Errorf("list versions of %s: %w", name, err)
		}
		if hash.Hash != "" {
			if recs, err = withHash(recs, hash); err != nil {
				return err
			}
		}
		out, err = listing(recs, q, readAsset, func(a *Asset) described {
			return described{meta: a.Meta, tags: a.Spec.Tags, properties: a.Spec.Properties, archived: a.Spec.IsArchived}
		})
		return err
	})
	return out, err
}

// withHash keeps of the records those of versions that have a hash.
func withHash(recs []*store.Record, hash ContentHash) (out []*store.Record, err error) {
	for _, rec := range recs {
		if rec.ID.Parent == "" {
			continue // a container
		}
		a, err := readAsset(rec)
		if err != nil {
			return nil, err
		}
		if hash.selects(&a.Spec) {
			out = append(out, rec)
		}
	}
	return out, nil
}

// versions reads every version of an asset.
func versions(r store.Reader, w online.WorkspaceID, kind online.Kind, name string) ([]*store.Asset, error) {
	all, err := store.List[online.AssetSpec, struct{}](r, w.Asset(kind, name, "").Prefix(), store.Page{})
	if err != nil {
		return nil, fmt.Errorf("list versions of %s: %w", name, err)
	}
	return all, nil
}

// newestOf finds the version that was registered last and is not archived; nil when there is none.
func newestOf(all []*store.Asset) *store.Asset {
	var newest *store.Asset
	for _, a := range all {
		if !a.Spec.IsArchived && (newest == nil || later(a, newest)) {
			newest = a
		}
	}
	return newest
}

func later(a, b *store.Asset) bool {
	if n := a.CreatedAt.Compare(b.CreatedAt); n != 0 {
		return n > 0
	}
	return a.SpecRevision > b.SpecRevision
}

// DeleteAsset removes a version. It is refused while a deployment names it. Nothing to delete is no error; the
// answer says whether there was something.
func (s *Service) DeleteAsset(ctx context.Context, c Caller, w online.WorkspaceID, kind online.Kind,
	name, version string, m Match) (found bool, err error) {
	id := w.Asset(kind, name, version)
	now := s.now()
	err = s.update(ctx, c, func(tx store.Tx) error {
		rec, err := findForChange(tx, id, m, false)
		if err != nil {
			return err
		}
		if found = rec != nil; !found {
			return nil
		}
		return s.removeAssets(tx, c, []*store.Record{rec}, now)
	})
	return found, err
}

// removeAssets removes versions that no deployment names.
func (s *Service) removeAssets(tx store.Tx, c Caller, recs []*store.Record, now time.Time) error {
	users, err := assetUsers(tx)
	if err != nil {
		return err
	}
	for _, rec := range recs {
		if by := users[rec.ID.Key()]; by != "" {
			return online.Errorf(online.CodeConflict, arm.FormatID(rec.ID),
				"%s %s:%s is used by deployment %s; delete the deployment first, or archive the version", rec.ID.Kind, rec.ID.Parent, rec.ID.Name, by)
		}
		if err := tx.Remove(rec.ID, c.Principal.Name, now); err != nil {
			return fmt.Errorf("remove %s: %w", rec.ID.Key(), err)
		}
		if err := s.note(tx, c, rec.ID, "delete", succeeded, "", now); err != nil {
			return err
		}
	}
	return nil
}

// assetUsers says which deployment uses an asset version, by the version's key. A deployment uses what its newest
// spec names, and what the specs name that its sets were made from: an older one may still serve.
func assetUsers(r store.Reader) (map[string]string, error) {
	all, err := store.List[online.DeploymentSpec, online.DeploymentStatus](r, kindPrefix(online.KindDeployment), store.Page{})
	if err != nil {
		return nil, fmt.Errorf("list deployments: %w", err)
	}
	users := map[string]string{}
	use := func(d *store.Deployment, spec *online.DeploymentSpec) {
		for _, ref := range []*online.AssetRef{spec.Model, spec.Code, spec.Environment} {
			if ref != nil {
				users[ref.ID().Key()] = d.ID.Parent + "/" + d.ID.Name
			}
		}
	}
	for _, d := range all {
		use(d, &d.Spec)
		for _, set := range []*online.SetStatus{d.Status.Current, d.Status.Target} {
			if set == nil || set.Generation == d.Generation {
				continue
			}
			spec, err := specOf(r, d, set.Generation)
			if err != nil {
				return nil, err
			}
			if spec != nil {
				use(d, spec)
			}
		}
	}
	return users, nil
}

// PutContainer makes a container, or changes its words, tags and archived mark.
func (s *Service) PutContainer(ctx context.Context, c Caller, w online.WorkspaceID, kind online.Kind, name string,
	spec online.AssetSpec, m Match) (out Accepted[Container], err error) {
	id := w.Asset(kind, "", name)
	faults := checkWords(spec.Description, spec.Tags, spec.Properties, "properties.tags")
	if f := online.CheckAssetName("name", name, "name"); f != nil {
		faults = append(faults, f)
	}
	if err := failIf(faults); err != nil {
		return out, err
	}
	now := s.now()
	err = s.update(ctx, c, func(tx store.Tx) error {
		if _, err := workspace(tx, w); err != nil {
			return err
		}
		rec, err := findForChange(tx, id, m, false)
		if err != nil {
			return err
		}
		next := spec
		why := "create"
		if rec != nil {
			before, err := store.Decode[online.AssetSpec, struct{}](rec)
			if err != nil {
				return err
			}
			next.DataType, why = before.Spec.DataType, "update"
		}
		stored, err := putJSON(tx, c, id, next, why, now)
		if err != nil {
			return err
		}
		if err := s.note(tx, c, id, "write", succeeded, "", now); err != nil {
			return err
		}
		out.Created = rec == nil
		out.Resource, err = readContainer(tx, stored)
		return err
	})
	return out, err
}

// GetContainer reads a container.
func (s *Service) GetContainer(ctx context.Context, c Caller, w online.WorkspaceID, kind online.Kind,
	name string) (out Container, err error) {
	err = s.view(ctx, c, func(r store.Reader) error {
		rec, err := must(r, w.Asset(kind, "", name))
		if err != nil {
			return err
		}
		out, err = readContainer(r, rec)
		return err
	})
	return out, err
}

func readContainer(r store.Reader, rec *store.Record) (Container, error) {
	a, err := store.Decode[online.AssetSpec, struct{}](rec)
	if err != nil {
		return Container{}, err
	}
	all, err := versions(r, rec.ID.Workspace, rec.ID.Kind, rec.ID.Name)
	if err != nil {
		return Container{}, err
	}
	var names []string
	for _, v := range all {
		names = append(names, v.ID.Name)
	}
	next, err := nextVersion(r, rec.ID, names)
	if err != nil {
		return Container{}, err
	}
	out := Container{Meta: meta(rec, online.StateSucceeded), Spec: a.Spec, Next: next}
	if newest := newestOf(all); newest != nil {
		out.Latest = newest.ID.Name
	}
	return out, nil
}

// nextVersion is the first number after all versions that there are and that ever were: a deleted version cannot
// get other content.
func nextVersion(r store.Reader, container online.ID, names []string) (string, error) {
	for {
		next := arm.NextVersion(names)
		past, err := r.Revisions(container.Workspace.Asset(container.Kind, container.Name, next))
		if err != nil {
			return "", fmt.Errorf("read revisions of %s: %w", container.Key(), err)
		}
		if len(past) == 0 {
			return next, nil
		}
		names = append(names, next)
	}
}

// ListContainers lists the assets of a kind.
func (s *Service) ListContainers(ctx context.Context, c Caller, w online.WorkspaceID, kind online.Kind,
	q ListQuery) (out Listing[Container], err error) {
	err = s.view(ctx, c, func(r store.Reader) error {
		if _, err := workspace(r, w); err != nil {
			return err
		}
		recs, err := r.List(w.Asset(kind, "", "").Prefix(), store.Page{})
		if err != nil {
			return fmt.Errorf("list %s: %w", kind, err)
		}
		recs = slices.DeleteFunc(recs, func(rec *store.Record) bool { return rec.ID.Parent != "" })
		out, err = listing(recs, q, func(rec *store.Record) (Container, error) { return readContainer(r, rec) },
			func(a *Container) described {
				return described{meta: a.Meta, tags: a.Spec.Tags, properties: a.Spec.Properties,
					archived: a.Spec.IsArchived}
			})
		return err
	})
	return out, err
}

// DeleteContainer removes an asset with all its versions. It is refused while a deployment names one of them.
func (s *Service) DeleteContainer(ctx context.Context, c Caller, w online.WorkspaceID, kind online.Kind, name string,
	m Match) (found bool, err error) {
	id := w.Asset(kind, "", name)
	now := s.now()
	err = s.update(ctx, c, func(tx store.Tx) error {
		rec, err := findForChange(tx, id, m, false)
		if err != nil {
			return err
		}
		if found = rec != nil; !found {
			return nil
		}
		all, err := tx.List(w.Asset(kind, name, "").Prefix(), store.Page{})
		if err != nil {
			return fmt.Errorf("list versions of %s: %w", name, err)
		}
		return s.removeAssets(tx, c, append(all, rec), now)
	})
	return found, err
}

// uriField is the wire name of the location of a kind's content.
func uriField(kind online.Kind) string {
	return "properties." + map[online.Kind]string{
		online.KindModel: "modelUri", online.KindCode: "codeUri", online.KindData: "dataUri"}[kind]
}
