package api

import (
	"net/http"
	"net/url"
	"strings"

	"portico/internal/arm"
	"portico/internal/control"
)

// Beginnings of paths in the mux.
const (
	subscriptionPath = "/subscriptions/{subscription}"
	groupPath        = subscriptionPath + "/resourceGroups/{group}"
	workspacesPath   = groupPath + "/providers/" + arm.Namespace + "/workspaces"
	workspacePath    = workspacesPath + "/{workspace}"
)

// fixed are the segments that a path may have at the places of types and actions, in the spelling of the mux.
var fixed = func() map[string]string {
	m := map[string]string{}
	for _, s := range []string{"subscriptions", "resourceGroups", "providers", arm.Namespace, "workspaces",
		"onlineEndpoints", "deployments", "listKeys", "regenerateKeys", "token", "getLogs", "purgeCache", "skus", "metrics",
		"activities", "revisions", "rollback", "models", "codes", "environments", "data", "versions",
		"startPendingUpload", "publish", "datastores", "listSecrets", "locations", "mfeOperationsStatus", "mfeOperationResults",
		"Microsoft.Insights", "metricDefinitions", "metricNamespaces", "eventtypes", "values", "autoscalesettings",
		"Microsoft.CostManagement", "query", "Microsoft.Authorization", "roleAssignments", "roleDefinitions",
		"privateEndpointConnections", "privateLinkResources"} {
		m[strings.ToLower(s)] = s
	}
	return m
}()

// canonical gives the request with the fixed segments of its ARM path in the mux's spelling; nil when the path has
// an empty or relative segment. A path is a chain of pairs, type and name; only types are folded, so a workspace
// that is called MODELS keeps its name.
func canonical(r *http.Request) *http.Request {
	p := r.URL.EscapedPath()
	seg := strings.Split(strings.TrimSuffix(strings.TrimPrefix(p, "/"), "/"), "/")
	provider := false
	for i, typeNext := 0, true; i < len(seg); i++ {
		name, err := url.PathUnescape(seg[i])
		if err != nil || name == "." || name == ".." || name == "" && len(seg) > 1 {
			return nil
		}
		if typeNext || provider {
			if known, ok := fixed[strings.ToLower(name)]; ok {
				seg[i] = known
			}
		}
		// The segment after "providers" is the namespace, and a type follows it as after any name.
		provider = typeNext && seg[i] == "providers"
		typeNext = !typeNext
	}
	return withPath(r, "/"+strings.Join(seg, "/"))
}

// blobPath is the escaped path of a request to the blob service, as /blobs/CONTAINER/NAME; empty: it is none.
func (a *API) blobPath(r *http.Request) string {
	p := r.URL.EscapedPath()
	if a.StorageAccount != "" && strings.HasPrefix(r.Host, a.StorageAccount+".blob.") {
		return control.BlobPath + strings.TrimPrefix(p, "/")
	}
	if strings.HasPrefix(p, control.BlobPath) {
		return p
	}
	if rest, ok := strings.CutPrefix(p, "/"+AccountPath+".blob."); ok {
		_, rest, _ = strings.Cut(rest, "/") // what follows the suffix
		return control.BlobPath + rest
	}
	return ""
}

// cleanBlobPath keeps a blob's path as it is; nil when it holds what no blob's name may.
func cleanBlobPath(r *http.Request, p string) *http.Request {
	for _, seg := range strings.Split(p[1:], "/") {
		if name, err := url.PathUnescape(seg); err != nil || name == "." || name == ".." {
			return nil
		}
	}
	if strings.Contains(p, "//") { // the mux would redirect it
		return nil
	}
	return withPath(r, p)
}

func withPath(r *http.Request, escaped string) *http.Request {
	plain, err := url.PathUnescape(escaped)
	if err != nil {
		return nil
	}
	u := *r.URL
	u.Path, u.RawPath = plain, escaped
	out := *r
	out.URL = &u
	return &out
}
