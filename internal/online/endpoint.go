package online

import (
	"maps"
	"slices"
)

// AuthMode is how callers of the scoring URL identify themselves.
type AuthMode string

// The three modes of Azure Machine Learning.
const (
	AuthKey      AuthMode = "Key"
	AuthAMLToken AuthMode = "AMLToken"
	AuthAADToken AuthMode = "AADToken"
)

// EndpointSpec is what a person wishes of an endpoint.
type EndpointSpec struct {
	Location      string            `json:"location,omitempty"`
	Description   string            `json:"description,omitempty"`
	Tags          map[string]string `json:"tags,omitempty"`
	Properties    map[string]string `json:"properties,omitempty"`
	AuthMode      AuthMode          `json:"authMode"`
	Identity      Identity          `json:"identity"`
	Traffic       Traffic           `json:"traffic,omitempty"`
	MirrorTraffic Traffic           `json:"mirrorTraffic,omitempty"`
	// DroppedMirror is the mirror that ended because its deployment received live traffic. A client that goes on
	// sending the same object repeats it with every change; DropMirror then knows it for an echo.
	DroppedMirror       Traffic `json:"droppedMirror,omitempty"`
	PublicNetworkAccess string  `json:"publicNetworkAccess"` // Enabled | Disabled
	Compute             string  `json:"compute,omitempty"`
}

// Identity is the principal that the endpoint's instances act as.
type Identity struct {
	Type         string   `json:"type"`
	UserAssigned []string `json:"userAssigned,omitempty"` // resource ids
}

// The types of an identity.
const (
	IdentitySystem = "SystemAssigned"
	IdentityUser   = "UserAssigned"
	IdentityBoth   = "SystemAssigned,UserAssigned"
	IdentityNone   = "None"
)

// MaxUserIdentities bounds the user-assigned identities of one endpoint.
const MaxUserIdentities = 20

// System says whether there is a system-assigned identity.
func (i *Identity) System() bool { return i.Type == IdentitySystem || i.Type == IdentityBoth }

// User says whether there are user-assigned identities.
func (i *Identity) User() bool { return i.Type == IdentityUser || i.Type == IdentityBoth }

func (i *Identity) validate() []*Error {
	const target, list = "identity.type", "identity.userAssignedIdentities"
	switch {
	case !i.System() && !i.User() && i.Type != IdentityNone:
		return []*Error{Errorf(CodeBadArgument, target,
			"identity type %.40q is not one of SystemAssigned, UserAssigned, None", i.Type)}
	case i.User() && len(i.UserAssigned) == 0:
		return []*Error{Errorf(CodeBadArgument, list, "identity type %s needs the resource id of at least one user-assigned identity", i.Type)}
	case !i.User() && len(i.UserAssigned) > 0:
		return []*Error{Errorf(CodeBadArgument, list, "identity type %s has no user-assigned identities", i.Type)}
	case len(i.UserAssigned) > MaxUserIdentities:
		return []*Error{Errorf(CodeBadArgument, list, "%d user-assigned identities are more than %d", len(i.UserAssigned), MaxUserIdentities)}
	}
	return nil
}

// EndpointStatus is what is. Only reconcile writes it.
type EndpointStatus struct {
	ObservedGeneration int64             `json:"observedGeneration"`
	State              ProvisioningState `json:"state"` // Succeeded | Failed of ObservedGeneration
	Error              *Error            `json:"error,omitempty"`
}

// Traffic gives each deployment its share of requests in percent. A deployment that is absent has none.
type Traffic map[string]int

// Sum adds the shares.
func (t Traffic) Sum() int {
	n := 0
	for _, v := range t {
		n += v
	}
	return n
}

// Names lists the deployments in order.
func (t Traffic) Names() []string { return slices.Sorted(maps.Keys(t)) }

// MaxMirrorPercent is Azure's bound on mirrored traffic.
const MaxMirrorPercent = 50

// Default fills in what Azure's service fills in.
func (s *EndpointSpec) Default() {
	if s.AuthMode == "" {
		s.AuthMode = AuthKey
	}
	if s.Identity.Type == "" {
		s.Identity.Type = IdentitySystem
	}
	if s.PublicNetworkAccess == "" {
		s.PublicNetworkAccess = "Enabled"
	}
	s.Traffic = s.Traffic.withoutZeroes()
	s.MirrorTraffic = s.MirrorTraffic.withoutZeroes()
}

// withoutZeroes drops the shares that say what absence says. Negative ones stay, for Validate to refuse.
func (t Traffic) withoutZeroes() Traffic {
	out := maps.Clone(t)
	maps.DeleteFunc(out, func(_ string, v int) bool { return v == 0 })
	if len(out) == 0 {
		return nil
	}
	return out
}

// Validate checks the spec against the deployments that exist behind the endpoint (their names, lower-case).
// Every fault is reported, each with the wire path of its field. What nothing acts on yet is refused with
// NotImplemented and its name.
func (s *EndpointSpec) Validate(deployments map[string]bool) []*Error {
	var faults []*Error
	add := func(code Code, target, format string, args ...any) {
		faults = append(faults, Errorf(code, target, format, args...))
	}
	switch s.AuthMode {
	case AuthKey, AuthAMLToken, AuthAADToken:
	default:
		add(CodeBadArgument, "properties.authMode", "authMode %.40q is not one of Key, AMLToken, AADToken", s.AuthMode)
	}
	faults = append(faults, s.Identity.validate()...)
	switch s.PublicNetworkAccess {
	case "Enabled":
	case "Disabled":
		add(CodeNotImplemented, "properties.publicNetworkAccess", "publicNetworkAccess Disabled is not implemented yet; use Enabled")
	default:
		add(CodeBadArgument, "properties.publicNetworkAccess", "publicNetworkAccess %.40q is not one of Enabled, Disabled", s.PublicNetworkAccess)
	}
	if s.Compute != "" {
		add(CodeNotImplemented, "properties.compute", "compute (an attached Kubernetes cluster) is not implemented yet; leave it out")
	}
	faults = append(faults, s.Traffic.validate("properties.traffic", deployments)...)
	if sum := s.Traffic.Sum(); sum != 0 && sum != 100 {
		add(CodeBadArgument, "properties.traffic", "traffic adds up to %d; it must be 0 or 100", sum)
	}
	faults = append(faults, s.MirrorTraffic.validate("properties.mirrorTraffic", deployments)...)
	return append(faults, s.checkMirror()...)
}

// checkMirror enforces Azure's rules for mirrored traffic (how-to-safely-rollout-online-endpoints).
func (s *EndpointSpec) checkMirror() []*Error {
	const target = "properties.mirrorTraffic"
	var faults []*Error
	if len(s.MirrorTraffic) > 1 {
		faults = append(faults, Errorf(CodeBadArgument, target,
			"mirrorTraffic names %d deployments; only one can receive mirrored traffic", len(s.MirrorTraffic)))
	}
	for _, name := range s.MirrorTraffic.Names() {
		if share := s.MirrorTraffic[name]; share > MaxMirrorPercent && share <= 100 {
			faults = append(faults, Errorf(CodeBadArgument, target+"."+name, "share %d is more than the %d %% that can be mirrored",
				share, MaxMirrorPercent))
		}
		if s.Traffic[name] > 0 {
			faults = append(faults, Errorf(CodeBadArgument, target+"."+name,
				"deployment %s has live traffic and cannot also receive mirrored traffic", name))
		}
	}
	return faults
}

// DropMirror ends the mirror of a deployment that a change of traffic makes live, and says which share of which
// deployment it dropped; none is "". before is the spec in force, nil when there is none. Only what was in force
// before, or the echo of it, is dropped: a mirror that is newly asked for a live deployment is a fault, which
// Validate reports. Names must be in the case in which they are kept.
func (s *EndpointSpec) DropMirror(before *EndpointSpec) (name string, share int) {
	if before == nil || len(s.MirrorTraffic) != 1 {
		return "", 0
	}
	s.DroppedMirror = nil
	name = s.MirrorTraffic.Names()[0]
	share = s.MirrorTraffic[name]
	becomesLive := before.MirrorTraffic[name] > 0 && before.Traffic[name] == 0
	echo := share > 0 && before.DroppedMirror[name] == share
	if s.Traffic[name] <= 0 || share <= 0 || !becomesLive && !echo {
		return "", 0
	}
	s.DroppedMirror, s.MirrorTraffic = s.MirrorTraffic, nil
	return name, share
}

func (t Traffic) validate(target string, deployments map[string]bool) []*Error {
	var faults []*Error
	for _, name := range t.Names() {
		if v := t[name]; v < 0 || v > 100 {
			faults = append(faults, Errorf(CodeBadArgument, target+"."+name, "share %d is not between 0 and 100", v))
		}
		if !deployments[name] {
			faults = append(faults, Errorf(CodeBadArgument, target+"."+name, "deployment %.40q does not exist behind this endpoint; create it first", name))
		}
	}
	return faults
}
