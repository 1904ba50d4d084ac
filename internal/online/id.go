package online

import (
	"regexp"
	"strings"
)

// WorkspaceID names a workspace. The three parts are compared without regard to case, as Azure does.
type WorkspaceID struct {
	Subscription  string `json:"subscription"`
	ResourceGroup string `json:"resourceGroup"`
	Name          string `json:"name"`
}

// Kind is a type of stored resource.
type Kind string

// The kinds of resources. The value is part of the store's key: never change one.
const (
	KindWorkspace   Kind = "workspaces"
	KindEndpoint    Kind = "onlineEndpoints"
	KindDeployment  Kind = "deployments"
	KindModel       Kind = "models"
	KindCode        Kind = "codes"
	KindEnvironment Kind = "environments"
	KindData        Kind = "data"
	KindDatastore   Kind = "datastores"

	// KindPrincipal is a principal that a person made; it belongs to the server and to no workspace.
	KindPrincipal Kind = "principals"
	// KindUserIdentity is a user-assigned identity; it belongs to a resource group and to no workspace.
	KindUserIdentity Kind = "userAssignedIdentities"
)

// Versioned says whether resources of this kind are versions of a named asset.
func (k Kind) Versioned() bool {
	return k == KindModel || k == KindCode || k == KindEnvironment || k == KindData
}

// ID names one resource. It is comparable only through Key: the parts keep the case in which they were given.
type ID struct {
	Workspace WorkspaceID `json:"workspace"`
	Kind      Kind        `json:"kind"`
	Parent    string      `json:"parent,omitempty"` // endpoint of a deployment, asset of a version
	Name      string      `json:"name,omitempty"`   // empty for a workspace; the version for an asset version
}

// Key is the canonical form that the store indexes by: lower-case, '/'-separated, kind first.
//
//	onlineendpoints/SUB/RG/WS/NAME        deployments/SUB/RG/WS/ENDPOINT/NAME
//	models/SUB/RG/WS/ASSET/VERSION        workspaces/SUB/RG/WS
func (id ID) Key() string { return id.Prefix() + strings.ToLower(id.Name) }

// Prefix is the part of Key before Name; every sibling (the deployments of one endpoint, the versions of one
// asset, the endpoints of one workspace) starts with it.
func (id ID) Prefix() string {
	p := string(id.Kind) + "/" + id.Workspace.Subscription + "/" + id.Workspace.ResourceGroup + "/" + id.Workspace.Name
	if id.Kind != KindWorkspace {
		p += "/"
	}
	if id.Parent != "" {
		p += id.Parent + "/"
	}
	return strings.ToLower(p)
}

// Endpoint is the id of an endpoint in w.
func (w WorkspaceID) Endpoint(name string) ID {
	return ID{Workspace: w, Kind: KindEndpoint, Name: name}
}

// Deployment is the id of a deployment behind an endpoint in w.
func (w WorkspaceID) Deployment(endpoint, name string) ID {
	return ID{Workspace: w, Kind: KindDeployment, Parent: endpoint, Name: name}
}

// Asset is the id of one version of a model, code, environment or data asset in w.
func (w WorkspaceID) Asset(kind Kind, name, version string) ID {
	return ID{Workspace: w, Kind: kind, Parent: name, Name: version}
}

// UserIdentity is the id of a user-assigned identity.
func UserIdentity(subscription, group, name string) ID {
	return ID{Workspace: WorkspaceID{Subscription: subscription, ResourceGroup: group}, Kind: KindUserIdentity, Name: name}
}

// PrincipalID is the id of a principal that a person made.
func PrincipalID(name string) ID { return ID{Kind: KindPrincipal, Name: name} }

// ID is the workspace's own id.
func (w WorkspaceID) ID() ID { return ID{Workspace: w, Kind: KindWorkspace} }

// Same compares two ids without regard to case.
func (id ID) Same(other ID) bool { return id.Key() == other.Key() }

// Names of endpoints and deployments: a letter, then letters, digits and inner hyphens, 3 to 32 characters
// (Azure's constants/_endpoint.py).
const (
	NameMinLength = 3
	NameMaxLength = 32
)

var (
	nameRule  = regexp.MustCompile(`^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$`)
	assetRule = regexp.MustCompile(`^[a-zA-Z0-9][-_.a-zA-Z0-9]{0,254}$`)
	scopeRule = regexp.MustCompile(`^[-_.()a-zA-Z0-9]{1,90}$`)
)

// CheckName validates the name of an endpoint or a deployment; target is the path to report.
func CheckName(what, name, target string) *Error {
	if len(name) < NameMinLength || len(name) > NameMaxLength || !nameRule.MatchString(name) {
		return Errorf(CodeBadArgument, target,
			"%s name %.40q is not valid: use %d to %d letters, digits and hyphens, beginning with a letter and not ending with a hyphen",
			what, name, NameMinLength, NameMaxLength)
	}
	return nil
}

// CheckAssetName validates the name or the version of an asset.
func CheckAssetName(what, name, target string) *Error {
	if !assetRule.MatchString(name) {
		return Errorf(CodeBadArgument, target,
			"%s %.40q is not valid: use up to 255 letters, digits, '-', '_' and '.', beginning with a letter or digit", what, name)
	}
	return nil
}

// CheckScope validates a subscription, resource group or workspace name.
func CheckScope(w WorkspaceID) *Error {
	for _, p := range []struct{ what, v string }{{"subscription", w.Subscription}, {"resource group", w.ResourceGroup}, {"workspace", w.Name}} {
		if !scopeRule.MatchString(p.v) || strings.HasSuffix(p.v, ".") {
			return Errorf(CodeBadArgument, "id", "%s name %.40q is not valid: use up to 90 letters, digits, '-', '_', '.' and parentheses", p.what, p.v)
		}
	}
	return nil
}
