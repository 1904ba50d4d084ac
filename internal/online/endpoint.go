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
	Location            string            `json:"location,omitempty"`
	Description         string            `json:"description,omitempty"`
	Tags                map[string]string `json:"tags,omitempty"`
	Properties          map[string]string `json:"properties,omitempty"`
	AuthMode            AuthMode          `json:"authMode"`
	Identity            Identity          `json:"identity"`
	Traffic             Traffic           `json:"traffic,omitempty"`
	MirrorTraffic       Traffic           `json:"mirrorTraffic,omitempty"`
	PublicNetworkAccess string            `json:"publicNetworkAccess"` // Enabled | Disabled
	Compute             string            `json:"compute,omitempty"`
}

// Identity is the principal that the endpoint's instances act as.
type Identity struct {
	Type         string   `json:"type"` // SystemAssigned | UserAssigned | None
	UserAssigned []string `json:"userAssigned,omitempty"`
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
		s.Identity.Type = "SystemAssigned"
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
	case AuthKey:
	case AuthAMLToken, AuthAADToken:
		add(CodeNotImplemented, "properties.authMode", "authMode %s is not implemented yet; use Key", s.AuthMode)
	default:
		add(CodeBadArgument, "properties.authMode", "authMode %.40q is not one of Key, AMLToken, AADToken", s.AuthMode)
	}
	switch s.Identity.Type {
	case "SystemAssigned", "None":
	case "UserAssigned", "SystemAssigned,UserAssigned":
		add(CodeNotImplemented, "identity.type", "identity type %s is not implemented yet; use SystemAssigned or None", s.Identity.Type)
	default:
		add(CodeBadArgument, "identity.type", "identity type %.40q is not one of SystemAssigned, UserAssigned, None", s.Identity.Type)
	}
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
	for _, name := range s.MirrorTraffic.Names() {
		if s.Traffic[name] > 0 {
			add(CodeBadArgument, "properties.mirrorTraffic."+name, "deployment %s has live traffic and cannot also receive mirrored traffic", name)
		}
	}
	if len(s.MirrorTraffic) > 0 && len(faults) == 0 {
		add(CodeNotImplemented, "properties.mirrorTraffic", "mirrorTraffic is not implemented yet; leave it out")
	}
	return faults
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
