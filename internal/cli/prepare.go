package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"portico/internal/arm"
	"portico/internal/online"
)

// Names that Azure's own client gives: properties under which a version keeps the client's hash, and the name that
// environments without one share.
const (
	hashProperty         = "hash_sha256"
	hashVersionProperty  = "hash_version"
	hashVersion          = "portico-1" // how tree.digest makes the hash
	anonymousEnvironment = "CliV2AnonymousEnvironment"
	anonymousVersion     = "1"
)

// maxSpecBytes bounds a conda or requirements file.
const maxSpecBytes = 1 << 20

// prepareAssets registers what a deployment file holds in place and gives the ids of everything. Content that the
// server has already is not sent again.
func (s *session) prepareAssets(ctx context.Context, f *deploymentFile, base string) (resolvedAssets, error) {
	var ids resolvedAssets
	if err := s.checkLocal(f, base); err != nil {
		return ids, err
	}
	var err error
	if c := f.CodeConfiguration; c != nil && c.Code != "" {
		if ids.Code, err = s.prepareCode(ctx, c, base); err != nil {
			return ids, fmt.Errorf("code_configuration.code: %w", err)
		}
	}
	if e := f.Environment; e != nil {
		ids.Environment = e.Reference
		if e.Inline != nil {
			if ids.Environment, err = s.registerEnvironment(ctx, e.Inline, base, true); err != nil {
				return ids, fmt.Errorf("environment: %w", err)
			}
		}
	}
	if m := f.Model; m != nil {
		ids.Model = m.Reference
		if m.Inline != nil {
			if ids.Model, err = s.registerModel(ctx, m.Inline, base, true); err != nil {
				return ids, fmt.Errorf("model: %w", err)
			}
		}
	}
	return ids, nil
}

// checkLocal finds missing files before anything is uploaded.
func (s *session) checkLocal(f *deploymentFile, base string) error {
	if m := f.Model; m != nil && m.Inline != nil {
		if m.Inline.Path == "" {
			return usagef("model.path is required for a model that is written in place")
		}
		if _, err := os.Stat(resolvePath(base, m.Inline.Path)); err != nil && !isRemote(m.Inline.Path) {
			return usagef("model.path: %s does not exist", resolvePath(base, m.Inline.Path))
		}
	}
	if e := f.Environment; e != nil && e.Inline != nil {
		if _, _, err := e.Inline.texts(base); err != nil {
			return err
		}
	}
	c := f.CodeConfiguration
	if c == nil || c.Code == "" || isReference(c.Code) {
		return nil
	}
	custom := f.Command != "" || f.Properties[online.PropertyCommand] != "" ||
		f.Environment != nil && (f.Environment.Inline == nil || f.Environment.Inline.Image != "") // the server knows what it is
	if c.ScoringScript == "" && !custom {
		return usagef("code_configuration.scoring_script is required with code")
	}
	dir := resolvePath(base, c.Code)
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return usagef("code_configuration.code: %s is not a folder", dir)
	}
	if c.ScoringScript == "" {
		return nil
	}
	script := filepath.Join(dir, filepath.FromSlash(c.ScoringScript))
	if info, err := os.Stat(script); errors.Is(err, fs.ErrNotExist) || err == nil && info.IsDir() {
		return usagef("code_configuration.scoring_script: %s is not a file in %s", c.ScoringScript, dir)
	}
	return nil
}

func resolvePath(base, p string) string {
	p = strings.TrimPrefix(p, "file://")
	if expanded, err := expandHome(p); err == nil {
		p = expanded
	}
	if filepath.IsAbs(p) {
		return filepath.Clean(p)
	}
	return filepath.Join(base, filepath.FromSlash(p))
}

// isRemote tells a place that the server must read itself from a path on this machine.
func isRemote(p string) bool {
	return strings.Contains(p, "://") && !strings.HasPrefix(p, "file://")
}

func (s *session) prepareCode(ctx context.Context, c *codeFile, base string) (string, error) {
	if isReference(c.Code) {
		return c.Code, nil
	}
	t, err := scanTree(ctx, resolvePath(base, c.Code))
	if err != nil {
		return "", err
	}
	id := arm.FormatID(s.scope.Asset(online.KindCode, t.hash, anonymousVersion))
	// Anybody can register something under a name that he can compute: only the server's digest says what it is. When
	// it is something else, registering this will be refused as a conflict.
	var have arm.Asset
	_, err = s.client.get(ctx, id, nil, &have)
	if err != nil && !notFound(err) || err == nil && have.Properties.Digest == t.digest {
		return id, err
	}
	uri, err := s.uploadTree(ctx, id, t)
	if err != nil {
		return "", err
	}
	_, err = s.client.put(ctx, id, &arm.Asset{Properties: arm.AssetProperties{
		CodeURI: uri, IsAnonymous: true, Properties: map[string]string{hashProperty: t.hash,
			hashVersionProperty: hashVersion},
	}}, "")
	return id, err
}

// uploadTree sends a tree to the place that the server opens for one version, and gives the URI to register.
func (s *session) uploadTree(ctx context.Context, id string, t *tree) (string, error) {
	var pending arm.PendingUpload
	err := s.client.post(ctx, id+"/startPendingUpload",
		arm.PendingUploadRequest{PendingUploadType: "TemporaryBlobReference"}, &pending)
	if err != nil {
		return "", err
	}
	ref := pending.BlobReference
	if ref.Credential.SASURI == "" || ref.BlobURI == "" {
		return "", fmt.Errorf("the server opened an upload without saying where")
	}
	if err := newUploader(s.client, s.progress).upload(ctx, t, ref.Credential.SASURI); err != nil {
		return "", err
	}
	return strings.TrimRight(ref.BlobURI, "/") + "/" + (&url.URL{Path: t.name}).EscapedPath(), nil
}

// registerModel registers a model from a file or folder and gives its id. anonymous models are named by their
// content; a model with a name but no version becomes the next one, unless the latest has the same content.
func (s *session) registerModel(ctx context.Context, m *modelFile, base string, mayBeAnonymous bool) (string, error) {
	if m.Path == "" {
		return "", usagef("path is required: the file or folder of the model")
	}
	if isRemote(m.Path) {
		return "", online.Errorf(online.CodeNotImplemented, "path",
			"a model that lies elsewhere (%s) is not implemented yet; give the path of a local file or folder", m.Path)
	}
	t, err := scanTree(ctx, resolvePath(base, m.Path))
	if err != nil {
		return "", err
	}
	name, version := m.Name, m.Version
	if name == "" {
		if !mayBeAnonymous {
			return "", usagef("--name is required for a model")
		}
		name, version = t.hash, anonymousVersion
	}
	if version == "" {
		if version, err = s.nextVersion(ctx, online.KindModel, name, t.hash, t.digest); err != nil {
			return "", err
		}
	}
	id := arm.FormatID(s.scope.Asset(online.KindModel, name, version))
	wanted := arm.AssetProperties{
		Description: m.Description, Tags: orEmpty(m.Tags), Properties: orEmpty(m.Properties), ModelType: m.Type,
		IsAnonymous: m.Name == "",
	}
	wanted.Properties[hashProperty], wanted.Properties[hashVersionProperty] = t.hash, hashVersion
	var have arm.Asset
	_, err = s.client.get(ctx, id, nil, &have)
	switch {
	case err != nil && !notFound(err):
		return "", err
	case err == nil && have.Properties.Properties[hashProperty] == t.hash &&
		have.Properties.Properties[hashVersionProperty] == hashVersion && have.Properties.Digest == t.digest:
		// The server has these bytes; only the words may have changed.
		wanted.ModelURI = have.Properties.ModelURI
		if m.Name == "" || sameWords(&have.Properties, &wanted) {
			return id, nil
		}
		wanted.ModelType = orDefault(wanted.ModelType, have.Properties.ModelType)
	default:
		if wanted.ModelURI, err = s.uploadTree(ctx, id, t); err != nil {
			return "", err
		}
	}
	_, err = s.client.put(ctx, id, &arm.Asset{Properties: wanted}, "")
	return id, err
}

func sameWords(have, wanted *arm.AssetProperties) bool {
	if have.Description != wanted.Description || len(have.Tags) != len(wanted.Tags) || wanted.ModelType != "" &&
		have.ModelType != wanted.ModelType {
		return false
	}
	for k, v := range wanted.Tags {
		if have.Tags[k] != v {
			return false
		}
	}
	for k, v := range wanted.Properties {
		if have.Properties[k] != v {
			return false
		}
	}
	return true
}

// nextVersion is the version that new content of a named asset gets: the latest if it has the same hash, else the
// next number. digest is the server's, of content that has one.
func (s *session) nextVersion(ctx context.Context, kind online.Kind, name, hash, digest string) (string, error) {
	var c arm.AssetContainer
	path := arm.FormatID(online.ID{Workspace: s.scope, Kind: kind, Name: name})
	if _, err := s.client.get(ctx, path, nil, &c); err != nil {
		if notFound(err) {
			return anonymousVersion, nil
		}
		return "", err
	}
	if latest := text(c.Properties.LatestVersion); latest != "" {
		var have arm.Asset
		if _, err := s.client.get(ctx, path+"/versions/"+url.PathEscape(latest), nil, &have); err != nil && !notFound(err) {
			return "", err
		}
		if p := have.Properties.Properties; p[hashProperty] == hash && p[hashVersionProperty] == hashVersion &&
			have.Properties.Digest == digest && !have.Properties.IsArchived {
			return latest, nil
		}
	}
	return orDefault(c.Properties.NextVersion, anonymousVersion), nil
}

// texts reads the conda specification and the pip requirements of an environment.
func (e *environmentFile) texts(base string) (conda, requirements string, err error) {
	if e.CondaFile != nil {
		if conda = e.CondaFile.Text; conda == "" {
			if conda, err = readSpec(base, e.CondaFile.Path, "conda_file"); err != nil {
				return "", "", err
			}
		}
	}
	if e.Requirements != "" {
		if requirements, err = readSpec(base, e.Requirements, "requirements"); err != nil {
			return "", "", err
		}
	}
	return conda, requirements, nil
}

func readSpec(base, name, key string) (string, error) {
	p := resolvePath(base, name)
	info, err := os.Stat(p)
	if err != nil || !info.Mode().IsRegular() {
		return "", usagef("%s: %s is not a file", key, p)
	}
	if info.Size() > maxSpecBytes {
		return "", usagef("%s: %s is larger than %s", key, p, byteCount(maxSpecBytes))
	}
	text, err := os.ReadFile(p)
	if err != nil {
		return "", usagef("%s: %v", key, err)
	}
	return string(text), nil
}

// registerEnvironment registers an environment and gives its id. Without a name it is named by its content.
func (s *session) registerEnvironment(ctx context.Context, e *environmentFile, base string,
	mayBeAnonymous bool) (string, error) {
	conda, requirements, err := e.texts(base)
	if err != nil {
		return "", err
	}
	wanted := arm.AssetProperties{
		Description: e.Description, Tags: orEmpty(e.Tags), Properties: orEmpty(e.Properties), Image: e.Image,
		CondaFile: conda, Requirements: requirements, OSType: osWords.wire(e.OSType),
		Build: e.Build != nil, InferenceConfig: e.InferenceConfig.wire(),
	}
	sum := sha256.New()
	for _, part := range []string{conda, requirements, e.Image, wanted.OSType} {
		fmt.Fprintf(sum, "%d:%s", len(part), part)
	}
	if wanted.InferenceConfig != nil {
		if err := json.NewEncoder(sum).Encode(wanted.InferenceConfig); err != nil {
			return "", fmt.Errorf("encode inference_config: %w", err)
		}
	}
	hash := hex.EncodeToString(sum.Sum(nil))
	name, version := e.Name, e.Version
	if name == "" {
		if !mayBeAnonymous {
			return "", usagef("--name is required for an environment")
		}
		name, version, wanted.IsAnonymous = anonymousEnvironment, hash, true
	}
	wanted.Properties[hashProperty], wanted.Properties[hashVersionProperty] = hash, hashVersion
	if version == "" {
		if version, err = s.nextVersion(ctx, online.KindEnvironment, name, hash, ""); err != nil {
			return "", err
		}
	}
	id := arm.FormatID(s.scope.Asset(online.KindEnvironment, name, version))
	_, err = s.client.put(ctx, id, &arm.Asset{Properties: wanted}, "")
	return id, err
}
