package api

import (
	"net/http"
	"strings"

	"portico/internal/arm"
	"portico/internal/control"
	"portico/internal/online"
)

func (a *API) routeAssets() {
	for _, kind := range []online.Kind{online.KindModel, online.KindCode, online.KindEnvironment, online.KindData} {
		containers := workspacePath + "/" + string(kind)
		container := containers + "/{asset}"
		version := container + "/versions/{version}"
		of := assets(kind)
		a.route(containers, methods{"GET": of.listContainers})
		a.route(container, methods{"GET": of.getContainer, "PUT": of.putContainer, "DELETE": of.deleteContainer})
		a.route(container+"/versions", methods{"GET": of.list})
		a.route(version, methods{"GET": of.get, "PUT": of.put, "DELETE": of.remove})
		a.route(version+"/publish", methods{"POST": of.publish})
		if kind == online.KindModel || kind == online.KindCode {
			a.route(version+"/startPendingUpload", methods{"POST": of.startPendingUpload})
		}
	}
}

// assets are the handlers of one kind of asset.
type assets online.Kind

func (k assets) kind() online.Kind { return online.Kind(k) }

func (k assets) listContainers(c *call) error {
	q, err := c.listQuery()
	if err != nil {
		return err
	}
	l, err := c.api.Control.ListContainers(c.r.Context(), c.caller, c.workspace(), k.kind(), q)
	if err != nil {
		return err
	}
	return page(c, l, renderContainer)
}

func renderContainer(a control.Container) arm.AssetContainer {
	return arm.NewAssetContainer(a.Meta, a.Spec, a.Latest, a.Next)
}

func renderAsset(a control.Asset) arm.Asset { return arm.NewAsset(a.Meta, a.Spec) }

func (k assets) getContainer(c *call) error {
	a, err := c.api.Control.GetContainer(c.r.Context(), c.caller, c.workspace(), k.kind(), c.r.PathValue("asset"))
	if err != nil {
		return err
	}
	c.w.Header().Set("ETag", a.Meta.ETag)
	return c.json(http.StatusOK, renderContainer(a))
}

func (k assets) putContainer(c *call) error {
	var body arm.AssetContainer
	if err := c.decode(&body); err != nil {
		return err
	}
	m, err := c.match()
	if err != nil {
		return err
	}
	out, err := c.api.Control.PutContainer(c.r.Context(), c.caller, c.workspace(), k.kind(), c.r.PathValue("asset"),
		body.Domain(), m)
	if err != nil {
		return err
	}
	c.w.Header().Set("ETag", out.Resource.Meta.ETag)
	return c.json(putStatus(out.Created), renderContainer(out.Resource))
}

func (k assets) deleteContainer(c *call) error {
	m, err := c.match()
	if err != nil {
		return err
	}
	found, err := c.api.Control.DeleteContainer(c.r.Context(), c.caller, c.workspace(), k.kind(),
		c.r.PathValue("asset"), m)
	if err != nil {
		return err
	}
	return c.deleted(found)
}

// deleted answers a DELETE that is over: 200, or 204 when there was nothing.
func (c *call) deleted(found bool) error {
	if found {
		return c.empty(http.StatusOK)
	}
	return c.empty(http.StatusNoContent)
}

func (k assets) list(c *call) error {
	q, err := c.listQuery()
	if err != nil {
		return err
	}
	v := c.r.URL.Query()
	l, err := c.api.Control.ListAssets(c.r.Context(), c.caller, c.workspace(), k.kind(), c.r.PathValue("asset"),
		control.ContentHash{Hash: v.Get("hash"), Version: v.Get("hashVersion")}, q)
	if err != nil {
		return err
	}
	return page(c, l, renderAsset)
}

func (k assets) get(c *call) error {
	a, err := c.api.Control.GetAsset(c.r.Context(), c.caller, c.workspace(), k.kind(), c.r.PathValue("asset"),
		c.r.PathValue("version"))
	if err != nil {
		return err
	}
	c.w.Header().Set("ETag", a.Meta.ETag)
	return c.json(http.StatusOK, renderAsset(a))
}

func (k assets) put(c *call) error {
	var body arm.Asset
	if err := c.decode(&body); err != nil {
		return err
	}
	spec, faults := body.Domain(k.kind())
	if e := online.Join(faults); e != nil {
		return e
	}
	m, err := c.match()
	if err != nil {
		return err
	}
	out, err := c.api.Control.PutAsset(c.r.Context(), c.caller, c.workspace(), k.kind(), c.r.PathValue("asset"),
		c.r.PathValue("version"),
		control.PutAsset{Spec: spec, Match: m})
	if err != nil {
		return err
	}
	for _, text := range out.Notes {
		c.note(text)
	}
	c.w.Header().Set("ETag", out.Resource.Meta.ETag)
	return c.json(putStatus(out.Created), renderAsset(out.Resource))
}

func (k assets) remove(c *call) error {
	m, err := c.match()
	if err != nil {
		return err
	}
	found, err := c.api.Control.DeleteAsset(c.r.Context(), c.caller, c.workspace(), k.kind(), c.r.PathValue("asset"),
		c.r.PathValue("version"), m)
	if err != nil {
		return err
	}
	return c.deleted(found)
}

// publish would copy a version to a registry.
func (k assets) publish(*call) error {
	return online.Errorf(online.CodeNotImplemented, "publish",
		"this server has no registries, so %s cannot be published to one; register them in the other workspace", k.kind())
}

// The pending upload types (armmachinelearning).
const (
	uploadNone      = "None"
	uploadTemporary = "TemporaryBlobReference"
)

func (k assets) startPendingUpload(c *call) error {
	var body arm.PendingUploadRequest
	if err := c.decodeOptional(&body); err != nil {
		return err
	}
	if t := body.PendingUploadType; t != "" && !strings.EqualFold(t, uploadTemporary) && !strings.EqualFold(t,
		uploadNone) {
		return online.Errorf(online.CodeBadArgument, "pendingUploadType",
			"pendingUploadType %.40q is not one of None, TemporaryBlobReference", t)
	}
	ws := c.workspace()
	up, err := c.api.Control.StartPendingUpload(c.r.Context(), c.caller, ws, k.kind(), c.r.PathValue("asset"),
		c.r.PathValue("version"))
	if err != nil {
		return err
	}
	uri := c.blobBase() + up.Container
	return c.json(http.StatusOK, arm.PendingUpload{
		PendingUploadID: up.ID, PendingUploadType: uploadTemporary,
		BlobReference: arm.BlobReference{BlobURI: uri,
			StorageAccountARMID: arm.FormatID(online.ID{Workspace: ws, Kind: online.KindDatastore,
				Name: control.DatastoreName}),
			Credential: arm.BlobCredential{CredentialType: "SAS", SASURI: uri + "?" + up.Query}},
	})
}
