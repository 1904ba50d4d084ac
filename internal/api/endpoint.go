package api

import (
	"net/http"
	"strings"

	"portico/internal/arm"
	"portico/internal/control"
	"portico/internal/online"
)

const (
	endpointsPath = workspacePath + "/onlineEndpoints"
	endpointPath  = endpointsPath + "/{endpoint}"
)

func (a *API) routeEndpoints() {
	a.route(endpointsPath, methods{"GET": listEndpoints})
	a.route(endpointPath, methods{"GET": getEndpoint, "PUT": putEndpoint, "PATCH": patchEndpoint,
		"DELETE": deleteEndpoint})
	a.route(endpointPath+"/listKeys", methods{"POST": listKeys})
	a.route(endpointPath+"/regenerateKeys", methods{"POST": regenerateKeys})
	a.route(endpointPath+"/token", methods{"POST": token})
	a.route(endpointPath+"/metrics", methods{"GET": getMetrics})
	a.route(endpointPath+"/activities", methods{"GET": listActivities})
}

// endpoint renders an endpoint. Its URIs are shown once it has been brought about.
func (c *call) endpoint(e control.Endpoint) arm.Endpoint {
	name := e.Meta.ID.Name
	var scoring, swagger string
	if e.Meta.State != online.StateCreating {
		scoring, swagger = c.api.ScoringURI(name, e.ScoringPath), c.api.SwaggerURI(name)
	}
	return arm.NewEndpoint(e.Meta, e.Spec, e.Identity, scoring, swagger, c.added(arm.PropertyEndpointID, e.Meta.ID, e.LastOperation,
		e.Spec.Location), e.Fault)
}

// added are the properties that the service puts beside a person's own.
func (c *call) added(idName string, id online.ID, operation, location string) map[string]string {
	extra := map[string]string{idName: strings.ToLower(arm.FormatID(id))}
	if operation != "" {
		extra[arm.PropertyOperation] = c.operationURL(id.Workspace.Subscription, location, "mfeOperationsStatus",
			operation)
	}
	return extra
}

func listEndpoints(c *call) error {
	q, err := c.listQuery()
	if err != nil {
		return err
	}
	l, err := c.api.Control.ListEndpoints(c.r.Context(), c.caller, c.workspace(), q)
	if err != nil {
		return err
	}
	return page(c, l, c.endpoint)
}

func getEndpoint(c *call) error {
	e, err := c.api.Control.GetEndpoint(c.r.Context(), c.caller, c.workspace(), c.r.PathValue("endpoint"))
	if err != nil {
		return err
	}
	c.w.Header().Set("ETag", e.Meta.ETag)
	return c.json(http.StatusOK, c.endpoint(e))
}

func putEndpoint(c *call) error {
	var body arm.Endpoint
	if err := c.decode(&body); err != nil {
		return err
	}
	spec, faults := body.Domain()
	if e := online.Join(faults); e != nil {
		return e
	}
	m, err := c.match()
	if err != nil {
		return err
	}
	in := control.PutEndpoint{Spec: spec, Match: m}
	if k := body.Properties.Keys; k != nil {
		in.Keys = control.Keys{Primary: online.Secret(k.PrimaryKey), Secondary: online.Secret(k.SecondaryKey)}
	}
	out, err := c.api.Control.PutEndpoint(c.r.Context(), c.caller, c.workspace(), c.r.PathValue("endpoint"), in)
	if err != nil {
		return err
	}
	return c.acceptedEndpoint(out, putStatus(out.Created))
}

// putStatus is 201 for a new resource and 200 for a changed one.
func putStatus(created bool) int {
	if created {
		return http.StatusCreated
	}
	return http.StatusOK
}

// patchStatus is 202 while the change is being brought about.
func patchStatus(op *online.Operation) int {
	if op.State.Final() {
		return http.StatusOK
	}
	return http.StatusAccepted
}

func (c *call) acceptedEndpoint(out control.Accepted[control.Endpoint], status int) error {
	for _, text := range out.Notes {
		c.note(text)
	}
	c.started(out.Operation, out.Resource.Spec.Location)
	c.w.Header().Set("ETag", out.Resource.Meta.ETag)
	return c.json(status, c.endpoint(out.Resource))
}

func patchEndpoint(c *call) error {
	var body arm.EndpointPatch
	if err := c.decode(&body); err != nil {
		return err
	}
	m, err := c.match()
	if err != nil {
		return err
	}
	in := control.PatchEndpoint{Tags: body.Tags, Match: m}
	if body.Identity != nil {
		identity := body.Identity.Domain()
		in.Identity = &identity
	}
	out, err := c.api.Control.PatchEndpoint(c.r.Context(), c.caller, c.workspace(), c.r.PathValue("endpoint"), in)
	if err != nil {
		return err
	}
	return c.acceptedEndpoint(out, patchStatus(out.Operation))
}

func deleteEndpoint(c *call) error {
	m, err := c.match()
	if err != nil {
		return err
	}
	op, err := c.api.Control.DeleteEndpoint(c.r.Context(), c.caller, c.workspace(), c.r.PathValue("endpoint"), m)
	if err != nil {
		return err
	}
	return c.deletion(op, c.location())
}

// location is a workspace's location, for links; "-" when the workspace is unknown.
func (c *call) location() string {
	ws, err := c.api.Control.GetWorkspace(c.r.Context(), c.caller, c.workspace())
	if err != nil {
		return "-"
	}
	return ws.Spec.Location
}

func listKeys(c *call) error {
	k, err := c.api.Control.ListKeys(c.r.Context(), c.caller, c.workspace(), c.r.PathValue("endpoint"))
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, arm.Keys{PrimaryKey: k.Primary.Reveal(), SecondaryKey: k.Secondary.Reveal()})
}

// regenerateKeys answers 200 without a body: the key is in force, there is nothing to poll for.
func regenerateKeys(c *call) error {
	var body arm.RegenerateKeys
	if err := c.decode(&body); err != nil {
		return err
	}
	_, err := c.api.Control.RegenerateKey(c.r.Context(), c.caller, c.workspace(), c.r.PathValue("endpoint"),
		body.KeyKind(), online.Secret(body.KeyValue))
	if err != nil {
		return err
	}
	return c.empty(http.StatusOK)
}
