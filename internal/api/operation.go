package api

import (
	"net/http"
	"net/url"
	"strings"

	"portico/internal/arm"
	"portico/internal/control"
	"portico/internal/online"
)

const locationPath = subscriptionPath + "/providers/" + arm.Namespace + "/locations/{location}"

func (a *API) routeOperations() {
	a.route(locationPath+"/mfeOperationsStatus/{operation}", methods{"GET": getOperation})
	a.route(locationPath+"/mfeOperationResults/{operation}", methods{"GET": getResult})
}

// operationPath is the path of an operation's status or result.
func operationPath(subscription, location, what, id string) string {
	return "/subscriptions/" + url.PathEscape(subscription) + "/providers/" + arm.Namespace + "/locations/" +
		url.PathEscape(location) + "/" + what + "/" + url.PathEscape(id)
}

func (c *call) operationURL(subscription, location, what, id string) string {
	return c.base() + operationPath(subscription, location, what, id) + "?api-version=" + c.version()
}

// started sets the headers of a long-running operation. Without Retry-After the Python SDK sleeps up to 30 s.
func (c *call) started(op *online.Operation, location string) {
	s := op.Target.Workspace.Subscription
	h := c.w.Header()
	h.Set("Azure-AsyncOperation", c.operationURL(s, location, "mfeOperationsStatus", op.ID))
	h.Set("Location", c.operationURL(s, location, "mfeOperationResults", op.ID))
	h.Set("Retry-After", "1")
}

// deletion answers a DELETE: 202 with the literal null as Azure does, or 204 when there was nothing.
func (c *call) deletion(op *online.Operation, location string) error {
	if op == nil {
		return c.empty(http.StatusNoContent)
	}
	c.started(op, location)
	return c.json(http.StatusAccepted, nil)
}

// readOperation finds the operation of the path; it must belong to the subscription of the path.
func readOperation(c *call) (control.Operation, error) {
	id := c.r.PathValue("operation")
	op, err := c.api.Control.GetOperation(c.r.Context(), c.caller, id)
	if err == nil && !strings.EqualFold(op.Target.Workspace.Subscription, c.r.PathValue("subscription")) {
		err = online.Errorf(online.CodeNotFound, id, "the operation %.60q is not known", id)
	}
	return op, err
}

func getOperation(c *call) error {
	op, err := readOperation(c)
	if err != nil {
		return err
	}
	if !op.State.Final() {
		c.w.Header().Set("Retry-After", "1")
	}
	path := operationPath(c.r.PathValue("subscription"), c.r.PathValue("location"), "mfeOperationsStatus", op.ID)
	return c.json(http.StatusOK, arm.NewOperationStatus(path, &op.Operation, op.Stages))
}

// getResult answers 202 until the operation has ended, then what it made: the resource, or nothing.
func getResult(c *call) error {
	op, err := readOperation(c)
	if err != nil {
		return err
	}
	switch {
	case op.State == online.OperationRunning:
		c.started(&op.Operation, c.r.PathValue("location"))
		return c.empty(http.StatusAccepted)
	case op.State != online.OperationSucceeded:
		if op.Error == nil {
			return online.Errorf(online.CodeOperationCanceled, op.ID, "the operation ended as %s", op.State)
		}
		return op.Error
	case op.Action != "write":
		return c.empty(http.StatusNoContent)
	}
	return c.resource(op.Target)
}

// resource answers with the endpoint or deployment that an operation was about.
func (c *call) resource(id online.ID) error {
	if id.Kind == online.KindDeployment {
		d, err := c.api.Control.GetDeployment(c.r.Context(), c.caller, id.Workspace, id.Parent, id.Name)
		if err != nil {
			return err
		}
		return c.json(http.StatusOK, c.deployment(d))
	}
	e, err := c.api.Control.GetEndpoint(c.r.Context(), c.caller, id.Workspace, id.Name)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, c.endpoint(e))
}
