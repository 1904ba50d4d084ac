package api

import (
	"net/http"

	"portico/internal/arm"
	"portico/internal/control"
	"portico/internal/online"
)

const (
	deploymentsPath = endpointPath + "/deployments"
	deploymentPath  = deploymentsPath + "/{deployment}"
)

func (a *API) routeDeployments() {
	a.route(deploymentsPath, methods{"GET": listDeployments})
	a.route(deploymentPath, methods{"GET": getDeployment, "PUT": putDeployment, "PATCH": patchDeployment,
		"DELETE": deleteDeployment})
	a.route(deploymentPath+"/getLogs", methods{"POST": getLogs})
	a.route(deploymentPath+"/purgeCache", methods{"POST": purgeCache})
	a.route(deploymentPath+"/skus", methods{"GET": listSKUs})
	a.route(deploymentPath+"/revisions", methods{"GET": listRevisions})
	a.route(deploymentPath+"/rollback", methods{"POST": rollback})
}

func (c *call) deployment(d control.Deployment) arm.Deployment {
	return arm.NewDeployment(d.Meta, d.Spec, d.Status, c.added(arm.PropertyDeploymentID, d.Meta.ID, d.LastOperation,
		d.Spec.Location))
}

func (c *call) names() (endpoint, deployment string) {
	return c.r.PathValue("endpoint"), c.r.PathValue("deployment")
}

func listDeployments(c *call) error {
	q, err := c.listQuery()
	if err != nil {
		return err
	}
	l, err := c.api.Control.ListDeployments(c.r.Context(), c.caller, c.workspace(), c.r.PathValue("endpoint"), q)
	if err != nil {
		return err
	}
	return page(c, l, c.deployment)
}

func getDeployment(c *call) error {
	endpoint, name := c.names()
	d, err := c.api.Control.GetDeployment(c.r.Context(), c.caller, c.workspace(), endpoint, name)
	if err != nil {
		return err
	}
	c.w.Header().Set("ETag", d.Meta.ETag)
	return c.json(http.StatusOK, c.deployment(d))
}

func putDeployment(c *call) error {
	var body arm.Deployment
	if err := c.decode(&body); err != nil {
		return err
	}
	req, faults := body.Domain()
	if e := online.Join(faults); e != nil {
		return e
	}
	m, err := c.match()
	if err != nil {
		return err
	}
	endpoint, name := c.names()
	out, err := c.api.Control.PutDeployment(c.r.Context(), c.caller, c.workspace(), endpoint, name,
		control.PutDeployment{Request: req, Match: m})
	if err != nil {
		return err
	}
	return c.acceptedDeployment(out, putStatus(out.Created))
}

func (c *call) acceptedDeployment(out control.Accepted[control.Deployment], status int) error {
	c.started(out.Operation, out.Resource.Spec.Location)
	c.w.Header().Set("ETag", out.Resource.Meta.ETag)
	return c.json(status, c.deployment(out.Resource))
}

func patchDeployment(c *call) error {
	var body arm.DeploymentPatch
	if err := c.decode(&body); err != nil {
		return err
	}
	m, err := c.match()
	if err != nil {
		return err
	}
	capacity, faults := body.Domain()
	if e := online.Join(faults); e != nil {
		return e
	}
	in := control.PatchDeployment{Tags: body.Tags, Capacity: capacity, Match: m}
	endpoint, name := c.names()
	out, err := c.api.Control.PatchDeployment(c.r.Context(), c.caller, c.workspace(), endpoint, name, in)
	if err != nil {
		return err
	}
	return c.acceptedDeployment(out, patchStatus(out.Operation))
}

func deleteDeployment(c *call) error {
	m, err := c.match()
	if err != nil {
		return err
	}
	endpoint, name := c.names()
	op, err := c.api.Control.DeleteDeployment(c.r.Context(), c.caller, c.workspace(), endpoint, name, m)
	if err != nil {
		return err
	}
	return c.deletion(op, c.location())
}

func getLogs(c *call) error {
	var body arm.LogRequest
	if err := c.decodeOptional(&body); err != nil {
		return err
	}
	q := control.LogQuery{Container: body.Container(), Instance: body.Instance, Tail: control.DefaultLogTail}
	if body.Tail != nil {
		q.Tail = *body.Tail
	}
	endpoint, name := c.names()
	text, err := c.api.Control.GetLogs(c.r.Context(), c.caller, c.workspace(), endpoint, name, q)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, arm.Logs{Content: text})
}

func purgeCache(c *call) error {
	endpoint, name := c.names()
	p, err := c.api.Control.PurgeCache(c.r.Context(), c.caller, c.workspace(), endpoint, name)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, arm.Purged{Entries: p.Entries, Bytes: p.Bytes})
}

// listSKUs says which instance counts a deployment can have.
func listSKUs(c *call) error {
	endpoint, name := c.names()
	d, err := c.api.Control.GetDeployment(c.r.Context(), c.caller, c.workspace(), endpoint, name)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, arm.NewPage([]arm.SKUCapacity{{
		ResourceType: arm.TypeOf(d.Meta.ID), SKU: arm.SKU{Name: "Default", Tier: "Standard"},
		Capacity: arm.Capacity{Default: 1, Minimum: 1, Maximum: online.MaxInstances, ScaleType: "Manual"},
	}}, ""))
}

func listRevisions(c *call) error {
	endpoint, name := c.names()
	all, err := c.api.Control.ListRevisions(c.r.Context(), c.caller, c.workspace(), endpoint, name)
	if err != nil {
		return err
	}
	out := make([]arm.Revision, 0, len(all))
	for _, rev := range all {
		out = append(out, arm.NewRevision(arm.RevisionMeta{Number: rev.Number, Generation: rev.Generation, UID: rev.UID,
			At: rev.At, By: rev.By, Why: rev.Why, InForce: rev.InForce}, rev.Spec))
	}
	return c.json(http.StatusOK, arm.NewPage(out, ""))
}

func rollback(c *call) error {
	var body arm.Rollback
	if err := c.decodeOptional(&body); err != nil {
		return err
	}
	if body.Revision != nil && *body.Revision < 1 {
		return online.Errorf(online.CodeBadArgument, "revision", "a revision is a number from the list of revisions")
	}
	m, err := c.match()
	if err != nil {
		return err
	}
	var number int64
	if body.Revision != nil {
		number = *body.Revision
	}
	endpoint, name := c.names()
	out, err := c.api.Control.Rollback(c.r.Context(), c.caller, c.workspace(), endpoint, name, number, m)
	if err != nil {
		return err
	}
	return c.acceptedDeployment(out, patchStatus(out.Operation))
}
