package control

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"portico/internal/arm"
	"portico/internal/online"
	"portico/internal/store"
)

func meta(rec *store.Record, state online.ProvisioningState) arm.Meta {
	if !rec.Deleting.IsZero() {
		state = online.StateDeleting
	}
	return arm.Meta{ID: rec.ID, UID: rec.UID, ETag: etag(rec.SpecRevision), State: state,
		CreatedAt: rec.CreatedAt, CreatedBy: rec.CreatedBy, UpdatedAt: rec.UpdatedAt, UpdatedBy: rec.UpdatedBy}
}

// shownState derives the provisioning state from what is wished and what was observed. scaling is asked only
// when an observed resource has a newer spec.
func shownState(generation, observed int64, state online.ProvisioningState,
	scaling func() bool) online.ProvisioningState {
	switch {
	case generation <= observed:
		return state
	case observed == 0:
		return online.StateCreating
	case scaling():
		return online.StateScaling
	}
	return online.StateUpdating
}

func never() bool { return false }

// onlyCountDiffers compares the newest spec with the one that was brought about last.
func onlyCountDiffers(r store.Reader, d *store.Deployment) (bool, error) {
	before, err := specOf(r, d, d.Status.ObservedGeneration)
	if err != nil || before == nil {
		return false, err
	}
	changed := before.InstanceCount != d.Spec.InstanceCount
	before.InstanceCount = d.Spec.InstanceCount
	was, err := json.Marshal(before)
	if err != nil {
		return false, fmt.Errorf("encode spec: %w", err)
	}
	is, err := json.Marshal(d.Spec)
	if err != nil {
		return false, fmt.Errorf("encode spec: %w", err)
	}
	return changed && bytes.Equal(was, is) && maps.Equal(before.EnvironmentVariables, d.Secrets), nil
}

// specOf reads the spec of one generation of a deployment; nil when it is not kept.
func specOf(r store.Reader, d *store.Deployment, generation int64) (*online.DeploymentSpec, error) {
	all, err := r.Revisions(d.ID)
	if err != nil {
		return nil, fmt.Errorf("read revisions of %s: %w", d.ID.Key(), err)
	}
	for _, rev := range all {
		if rev.UID != d.UID || rev.Generation != generation {
			continue
		}
		spec := new(online.DeploymentSpec)
		if err := json.Unmarshal(rev.Spec, spec); err != nil {
			return nil, fmt.Errorf("decode revision %d of %s: %w", rev.Revision, d.ID.Key(), err)
		}
		spec.EnvironmentVariables = rev.Secrets
		return spec, nil
	}
	return nil, nil
}

// Limits of tags (Azure Resource Manager).
const (
	MaxTags        = 50
	MaxTagName     = 512 // characters
	MaxTagValue    = 256
	MaxProperties  = 100
	MaxDescription = 4096
)

// checkWords validates the free texts that every resource has.
func checkWords(description string, tags, properties map[string]string, path string) []*online.Error {
	var faults []*online.Error
	if n := len([]rune(description)); n > MaxDescription {
		faults = append(faults, online.Errorf(online.CodeBadArgument, "properties.description",
			"the description has %d characters; at most %d are allowed", n, MaxDescription))
	}
	if len(tags) > MaxTags {
		faults = append(faults, online.Errorf(online.CodeBadArgument, path, "%d tags are given; at most %d are allowed",
			len(tags), MaxTags))
	}
	if len(properties) > MaxProperties {
		faults = append(faults, online.Errorf(online.CodeBadArgument, "properties.properties",
			"%d properties are given; at most %d are allowed", len(properties), MaxProperties))
	}
	for _, name := range slices.Sorted(maps.Keys(tags)) {
		if name == "" || len([]rune(name)) > MaxTagName || len([]rune(tags[name])) > MaxTagValue {
			faults = append(faults, online.Errorf(online.CodeBadArgument, path+fmt.Sprintf(".%.40s", name),
				"a tag's name must have 1 to %d characters and its value at most %d", MaxTagName, MaxTagValue))
		}
	}
	return faults
}
