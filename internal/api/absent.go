package api

import "portico/internal/online"

// absent are resources that Azure has and that nothing here acts on yet. They are answered by name instead of with
// a 404, so that a script says what it misses.
var absent = []struct{ path, name, hint string }{
	{subscriptionPath + insights + "/autoscalesettings", "autoscaleSettings", "set sku.capacity of the deployment"},
	{groupPath + insights + "/autoscalesettings", "autoscaleSettings", "set sku.capacity of the deployment"},
	{groupPath + insights + "/autoscalesettings/{name}", "autoscaleSettings", "set sku.capacity of the deployment"},
	{workspacePath + "/privateEndpointConnections", "privateEndpointConnections", "bind the listeners to a private address"},
	{workspacePath + "/privateEndpointConnections/{name}", "privateEndpointConnections", "bind the listeners to a private address"},
	{workspacePath + "/privateLinkResources", "privateLinkResources", "bind the listeners to a private address"},
}

// authorizationScopes are where roles can be assigned.
var authorizationScopes = []string{subscriptionPath, groupPath, workspacePath, endpointPath, deploymentPath}

func (a *API) routeAbsent() {
	refuse := func(path, name, hint string) {
		h := func(*call) error {
			return online.Errorf(online.CodeNotImplemented, name, "%s is not implemented yet; %s", name, hint)
		}
		a.route(path, methods{"GET": h, "PUT": h, "PATCH": h, "POST": h, "DELETE": h})
	}
	for _, r := range absent {
		refuse(r.path, r.name, r.hint)
	}
	for _, scope := range authorizationScopes {
		for _, name := range []string{"roleAssignments", "roleDefinitions"} {
			path := scope + "/providers/Microsoft.Authorization/" + name
			refuse(path, name, "this server has no roles yet")
			refuse(path+"/{name}", name, "this server has no roles yet")
		}
	}
}
