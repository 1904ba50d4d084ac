package arm

import (
	"strings"

	"portico/internal/online"
)

// Reference is how a person names an asset version: by its full id, by name and version, or by a label.
// Exactly one of Version and Label is set. Registry is set for an asset of a registry that all workspaces
// share (curated environments); Workspace is then empty.
type Reference struct {
	Workspace online.WorkspaceID
	Registry  string
	Kind      online.Kind
	Name      string
	Version   string
	Label     string
}

// ParseReference reads a reference to an asset of a kind, seen from a workspace. target is the field to report.
//
//	/subscriptions/.../workspaces/W/models/NAME/versions/VERSION      (also .../labels/LABEL, and after "azureml:")
//	azureml:NAME:VERSION      azureml:NAME@LABEL
//	azureml://registries/REGISTRY/models/NAME/versions/VERSION        (also .../labels/LABEL)
func ParseReference(s string, kind online.Kind, from online.WorkspaceID, target string) (Reference, error) {
	bad := func() (Reference, error) {
		return Reference{}, online.Errorf(online.CodeBadArgument, target,
			"%.120q does not name a version of %s: use azureml:NAME:VERSION, azureml:NAME@latest or a full resource id", s, kind)
	}
	if len(s) > MaxIDLength {
		return bad()
	}
	rest := s
	if len(s) >= len(scheme) && strings.EqualFold(s[:len(scheme)], scheme) {
		rest = s[len(scheme):]
	}
	if path, ok := strings.CutPrefix(rest, "//"); ok {
		seg := strings.Split(strings.TrimSuffix(path, "/"), "/")
		if len(seg) != 6 || !strings.EqualFold(seg[0], "registries") || !strings.EqualFold(seg[2], string(kind)) {
			return bad()
		}
		ref, ok := pin(Reference{Registry: seg[1], Kind: kind, Name: seg[3]}, seg[4], seg[5])
		if !ok {
			return bad()
		}
		return ref, nil
	}
	if strings.HasPrefix(rest, "/") {
		w, seg, err := parseWorkspace(rest)
		if err != nil || len(seg) != 4 || !strings.EqualFold(seg[0], string(kind)) {
			return bad()
		}
		ref, ok := pin(Reference{Workspace: w, Kind: kind, Name: seg[1]}, seg[2], seg[3])
		if !ok {
			return bad()
		}
		return ref, nil
	}
	if rest == s { // without the scheme only ids are references
		return bad()
	}
	ref := Reference{Workspace: from, Kind: kind}
	var ok bool
	if ref.Name, ref.Label, ok = strings.Cut(rest, "@"); !ok {
		ref.Label = ""
		if ref.Name, ref.Version, ok = strings.Cut(rest, ":"); !ok {
			return bad()
		}
	}
	if !validReference(ref) {
		return bad()
	}
	return ref, nil
}

const scheme = "azureml:"

func pin(r Reference, how, value string) (Reference, bool) {
	switch {
	case strings.EqualFold(how, "versions"):
		r.Version = value
	case strings.EqualFold(how, "labels"):
		r.Label = value
	default:
		return r, false
	}
	return r, validReference(r)
}

func validReference(r Reference) bool {
	if online.CheckAssetName("name", r.Name, "") != nil {
		return false
	}
	return online.CheckAssetName("version", r.Version+r.Label, "") == nil
}
