package api

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"portico/internal/arm"
	"portico/internal/control"
	"portico/internal/online"
)

func (a *API) routeWorkspaces() {
	a.route(subscriptionPath+"/providers/"+arm.Namespace+"/workspaces", methods{"GET": listWorkspaces})
	a.route(workspacesPath, methods{"GET": listWorkspaces})
	a.route(workspacePath, methods{"GET": getWorkspace, "PUT": putWorkspace, "PATCH": patchWorkspace,
		"DELETE": deleteWorkspace})
}

func renderWorkspace(w control.Workspace) arm.Workspace { return arm.NewWorkspace(w.Meta, w.Spec) }

func listWorkspaces(c *call) error {
	q, err := c.listQuery()
	if err != nil {
		return err
	}
	l, err := c.api.Control.ListWorkspaces(c.r.Context(), c.caller, c.r.PathValue("subscription"),
		c.r.PathValue("group"), q)
	if err != nil {
		return err
	}
	return page(c, l, renderWorkspace)
}

func getWorkspace(c *call) error {
	w, err := c.api.Control.GetWorkspace(c.r.Context(), c.caller, c.workspace())
	if err != nil {
		return err
	}
	c.w.Header().Set("ETag", w.Meta.ETag)
	return c.json(http.StatusOK, renderWorkspace(w))
}

func putWorkspace(c *call) error {
	var body arm.Workspace
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
	out, err := c.api.Control.PutWorkspace(c.r.Context(), c.caller, c.workspace(), spec, m)
	if err != nil {
		return err
	}
	return c.acceptedWorkspace(out)
}

func (c *call) acceptedWorkspace(out control.Accepted[control.Workspace]) error {
	c.w.Header().Set("ETag", out.Resource.Meta.ETag)
	return c.json(putStatus(out.Created), renderWorkspace(out.Resource))
}

func patchWorkspace(c *call) error {
	var body arm.WorkspacePatch
	if err := c.decode(&body); err != nil {
		return err
	}
	m, err := c.match()
	if err != nil {
		return err
	}
	out, err := c.api.Control.PatchWorkspace(c.r.Context(), c.caller, c.workspace(), control.PatchWorkspace{
		Tags: body.Tags, FriendlyName: body.Properties.FriendlyName, Description: body.Properties.Description, Match: m})
	if err != nil {
		return err
	}
	return c.acceptedWorkspace(out)
}

func deleteWorkspace(c *call) error {
	m, err := c.match()
	if err != nil {
		return err
	}
	found, err := c.api.Control.DeleteWorkspace(c.r.Context(), c.caller, c.workspace(), m)
	if err != nil {
		return err
	}
	return c.deleted(found)
}

func (a *API) routeDatastores() {
	stores := workspacePath + "/datastores"
	a.route(stores, methods{"GET": listDatastores})
	a.route(stores+"/{datastore}", methods{"GET": getDatastore, "PUT": putDatastore})
	a.route(stores+"/{datastore}/listSecrets", methods{"POST": listSecrets})
}

func (c *call) datastore(d control.Datastore) arm.Datastore {
	endpoint := StorageSuffix
	if c.api.StorageAccount != "" {
		endpoint = publicStorageSuffix
	}
	return arm.NewDatastore(d.Workspace, control.DatastoreName, c.storageAccount(), d.Container, endpoint)
}

// blobBase is the beginning of the URLs of blobs, with a slash at its end.
func (c *call) blobBase() string {
	if account := c.api.StorageAccount; account != "" {
		return "https://" + account + ".blob." + publicStorageSuffix + "/"
	}
	return c.base() + control.BlobPath
}

func listDatastores(c *call) error {
	d, err := c.api.Control.GetDatastore(c.r.Context(), c.caller, c.workspace(), control.DatastoreName)
	if err != nil {
		return err
	}
	all := []arm.Datastore{c.datastore(d)}
	v := c.r.URL.Query()
	names := strings.Split(strings.ToLower(v.Get("names")), ",")
	if strings.EqualFold(v.Get("isDefault"), "false") || v.Get("names") != "" && !slices.Contains(names, control.DatastoreName) {
		all = nil
	}
	return c.json(http.StatusOK, arm.NewPage(all, ""))
}

func getDatastore(c *call) error {
	d, err := c.api.Control.GetDatastore(c.r.Context(), c.caller, c.workspace(), c.r.PathValue("datastore"))
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, c.datastore(d))
}

func putDatastore(*call) error {
	return online.Errorf(online.CodeNotImplemented, "",
		"other datastores than %s are not implemented yet; upload to that one", control.DatastoreName)
}

func listSecrets(c *call) error {
	var body arm.ListSecrets
	if err := c.decodeOptional(&body); err != nil {
		return err
	}
	if h := body.ExpireAfterHours; h != nil && *h < 1 {
		return online.Errorf(online.CodeBadArgument, "expireAfterHours", "expireAfterHours must be at least 1")
	}
	if h := body.ExpireAfterHours; h != nil && time.Duration(*h)*time.Hour > control.GrantLifetime {
		c.note("the credential is good for " + control.GrantLifetime.String() + ", not longer")
	}
	if !body.ExpirableSecret {
		key, err := c.api.Control.ListAccountKey(c.r.Context(), c.caller, c.workspace(), c.r.PathValue("datastore"))
		if err != nil {
			return err
		}
		return c.json(http.StatusOK, arm.DatastoreSecrets{SecretsType: "AccountKey", Key: key.Reveal()})
	}
	query, err := c.api.Control.ListSecrets(c.r.Context(), c.caller, c.workspace(), c.r.PathValue("datastore"))
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, arm.DatastoreSecrets{SecretsType: "Sas", SASToken: query})
}
