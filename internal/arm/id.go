package arm

import (
	"strings"

	"portico/internal/online"
)

// Namespace is the resource provider whose API this is.
const Namespace = "Microsoft.MachineLearningServices"

// MaxIDLength bounds a resource id in bytes.
const MaxIDLength = 2048

// FormatWorkspace prints a workspace's resource id. Clients match `resourceGroups` with exactly this case.
func FormatWorkspace(w online.WorkspaceID) string {
	return "/subscriptions/" + w.Subscription + "/resourceGroups/" + w.ResourceGroup +
		"/providers/" + Namespace + "/workspaces/" + w.Name
}

// FormatID prints a resource id. An asset without a Parent is the container of its versions.
func FormatID(id online.ID) string {
	ws := FormatWorkspace(id.Workspace)
	switch {
	case id.Kind == online.KindWorkspace:
		return ws
	case id.Kind == online.KindPrincipal:
		return "/portico/v1/identities/" + id.Name
	case id.Kind == online.KindUserIdentity:
		return "/subscriptions/" + id.Workspace.Subscription + "/resourceGroups/" + id.Workspace.ResourceGroup +
			"/providers/" + userIdentityType + "/" + id.Name
	case id.Kind == online.KindDeployment:
		return ws + "/onlineEndpoints/" + id.Parent + "/deployments/" + id.Name
	case id.Kind.Versioned() && id.Parent != "":
		return ws + "/" + string(id.Kind) + "/" + id.Parent + "/versions/" + id.Name
	}
	return ws + "/" + string(id.Kind) + "/" + id.Name
}

// TypeOf is the resource type of an id, as the `type` member and the activity log spell it.
func TypeOf(id online.ID) string {
	const ws = Namespace + "/workspaces"
	switch {
	case id.Kind == online.KindWorkspace:
		return ws
	case id.Kind == online.KindPrincipal:
		return "Portico/identities"
	case id.Kind == online.KindUserIdentity:
		return userIdentityType
	case id.Kind == online.KindDeployment:
		return ws + "/onlineEndpoints/deployments"
	case id.Kind.Versioned() && id.Parent != "":
		return ws + "/" + string(id.Kind) + "/versions"
	}
	return ws + "/" + string(id.Kind)
}

// userIdentityType is the resource type of user-assigned identities.
const userIdentityType = "Microsoft.ManagedIdentity/userAssignedIdentities"

// ParseUserIdentity reads the resource id of a user-assigned identity without regard to the case of its fixed
// segments. The error is a BadArgument without a target.
func ParseUserIdentity(s string) (online.ID, error) {
	parts := strings.Split(s, "/")
	if len(s) > MaxIDLength || len(parts) != 9 || parts[0] != "" || !strings.EqualFold(parts[1], "subscriptions") ||
		!strings.EqualFold(parts[3], "resourceGroups") || !strings.EqualFold(parts[5], "providers") ||
		!strings.EqualFold(parts[6]+"/"+parts[7], userIdentityType) {
		return online.ID{}, badID(s)
	}
	// An identity belongs to no workspace; its name follows the rule of one.
	if fault := online.CheckScope(online.WorkspaceID{Subscription: parts[2], ResourceGroup: parts[4], Name: parts[8]}); fault != nil {
		return online.ID{}, badID(s)
	}
	return online.UserIdentity(parts[2], parts[4], parts[8]), nil
}

// ParseID reads a resource id without regard to the case of its fixed segments. The names keep their case.
// The error is a BadArgument without a target: the caller knows which field held the id.
func ParseID(s string) (online.ID, error) {
	w, rest, err := parseWorkspace(s)
	if err != nil {
		return online.ID{}, err
	}
	switch len(rest) {
	case 0:
		return w.ID(), nil
	case 2:
		for _, k := range []online.Kind{online.KindEndpoint, online.KindModel, online.KindCode,
			online.KindEnvironment, online.KindData, online.KindDatastore} {
			if strings.EqualFold(rest[0], string(k)) {
				return online.ID{Workspace: w, Kind: k, Name: rest[1]}, nil
			}
		}
	case 4:
		if strings.EqualFold(rest[0], "onlineEndpoints") && strings.EqualFold(rest[2], "deployments") {
			return w.Deployment(rest[1], rest[3]), nil
		}
		if k, ok := assetKind(rest[0]); ok && strings.EqualFold(rest[2], "versions") {
			return w.Asset(k, rest[1], rest[3]), nil
		}
	}
	return online.ID{}, badID(s)
}

// parseWorkspace reads the workspace and gives the segments after it, in pairs.
func parseWorkspace(s string) (online.WorkspaceID, []string, error) {
	var none online.WorkspaceID
	if len(s) > MaxIDLength || !strings.HasPrefix(s, "/") {
		return none, nil, badID(s)
	}
	seg := strings.Split(strings.TrimSuffix(s[1:], "/"), "/")
	if len(seg) < 8 || len(seg)%2 != 0 {
		return none, nil, badID(s)
	}
	for i, want := range []string{"subscriptions", "", "resourceGroups", "", "providers", Namespace, "workspaces"} {
		if want != "" && !strings.EqualFold(seg[i], want) {
			return none, nil, badID(s)
		}
	}
	for _, part := range seg {
		if part == "" {
			return none, nil, badID(s)
		}
	}
	return online.WorkspaceID{Subscription: seg[1], ResourceGroup: seg[3], Name: seg[7]}, seg[8:], nil
}

func assetKind(s string) (online.Kind, bool) {
	for _, k := range []online.Kind{online.KindModel, online.KindCode, online.KindEnvironment, online.KindData} {
		if strings.EqualFold(s, string(k)) {
			return k, true
		}
	}
	return "", false
}

func badID(s string) error {
	return online.Errorf(online.CodeBadArgument, "",
		"%.120q is not a resource id of the form /subscriptions/SUB/resourceGroups/GROUP/providers/%s/workspaces/WORKSPACE/...",
		s, Namespace)
}
