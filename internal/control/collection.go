package control

import (
	"fmt"
	"path"
	"strings"

	"portico/internal/artifact"
	"portico/internal/online"
	"portico/internal/store"
)

// Where a collection's data lie when nobody says so, below the workspace's datastore (Azure's default).
const (
	collectedFolder  = "modelDataCollector"
	collectedVersion = "1"
	typeFolder       = "uri_folder"
)

// resolveCollections finds the data assets of a deployment's collections, and registers the default one of an enabled
// collection that names none. data are the references that were given, by collection.
func (s *Service) resolveCollections(tx store.Tx, c Caller, id online.ID, spec *online.DeploymentSpec,
	data map[string]string) ([]*online.Error, error) {
	if spec.DataCollector == nil {
		return nil, nil
	}
	var faults []*online.Error
	for i := range spec.DataCollector.Collections {
		one := &spec.DataCollector.Collections[i]
		target := "properties.dataCollector.collections." + one.Name + ".dataId"
		ref := data[one.Name]
		if ref == "" && !one.Enabled || online.CheckAssetName("name", one.Name, "") != nil {
			continue // Validate says what is wrong with the name
		}
		asset, err := s.collectionAsset(tx, c, id, one.Name, ref, target)
		if err == nil {
			one.Data = &online.AssetRef{Workspace: asset.ID.Workspace, Kind: online.KindData, Name: asset.ID.Parent, Version: asset.ID.Name}
			one.Blobs, err = collectedPlace(asset, target)
		}
		if fault, ok := online.AsError(err); ok {
			faults = append(faults, fault)
		} else if err != nil {
			return nil, err
		}
	}
	return faults, nil
}

func (s *Service) collectionAsset(tx store.Tx, c Caller, id online.ID, collection, ref, target string) (*store.Asset, error) {
	if ref != "" {
		asset, err := s.find(tx, c, id.Workspace, ref, online.KindData, target)
		if err == nil && !asset.ID.Workspace.ID().Same(id.Workspace.ID()) {
			return nil, online.Errorf(online.CodeBadArgument, target,
				"the data asset is one of workspace %q; data is collected in the deployment's own workspace", asset.ID.Workspace.Name)
		}
		return asset, err
	}
	asset := id.Workspace.Asset(online.KindData, strings.Join([]string{id.Parent, id.Name, collection}, "-"), collectedVersion)
	rec, err := find(tx, asset)
	if err != nil {
		return nil, err
	}
	if rec == nil {
		spec := online.AssetSpec{DataType: typeFolder, Description: fmt.Sprintf("Collected data of deployment %s of endpoint %s.", id.Name, id.Parent),
			URI: "azureml://datastores/" + DatastoreName + "/paths/" + path.Join(collectedFolder, id.Parent, id.Name, collection)}
		if err := sameContent(tx, asset, nil, &spec); err != nil {
			return nil, moveTarget(err, target)
		}
		if rec, err = s.storeAsset(tx, c, asset, &spec, nil, "create"); err != nil {
			return nil, err
		}
		if err := s.note(tx, c, asset, "write", succeeded, "", s.now()); err != nil {
			return nil, err
		}
	}
	known, err := store.Decode[online.AssetSpec, struct{}](rec)
	if err != nil {
		return nil, err
	}
	return known, ownCollection(known, id, target)
}

// ownCollection refuses a default data asset that is another deployment's: the names of endpoint, deployment and
// collection may have hyphens, so that joined by hyphens they can be the same.
func ownCollection(asset *store.Asset, id online.ID, target string) error {
	_, at, found := strings.Cut(asset.Spec.URI, "/paths/"+collectedFolder+"/")
	own := id.Parent + "/" + id.Name + "/"
	if !found || len(at) >= len(own) && strings.EqualFold(at[:len(own)], own) {
		return nil
	}
	return online.Errorf(online.CodeBadArgument, target,
		"the default data asset %s:%s is that of another deployment, which collects at %s/%.80s; name a data asset of this one's in dataId",
		asset.ID.Parent, asset.ID.Name, collectedFolder, at)
}

// collectedPlace is where a collection's blobs are written: CONTAINER/PATH of its data asset.
func collectedPlace(asset *store.Asset, target string) (string, error) {
	if asset.Spec.DataType != typeFolder {
		return "", online.Errorf(online.CodeBadArgument, target, "the data asset %s:%s is of type %s; a collection is a %s",
			asset.ID.Parent, asset.ID.Name, asset.Spec.DataType, typeFolder)
	}
	at, err := parseURI(asset.Spec.URI, asset.ID.Workspace, target)
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(at.container, datastorePrefix) {
		return "", online.Errorf(online.CodeBadArgument, target,
			"the data asset %s:%s lies in an upload; give it a path of the datastore %s", asset.ID.Parent, asset.ID.Name, DatastoreName)
	}
	if artifact.IsUploadFolder(at.path) {
		return "", online.Errorf(online.CodeBadArgument, target,
			"the data asset %s:%s lies where clients upload, %.80q; give it another path", asset.ID.Parent, asset.ID.Name, at.path)
	}
	if len(at.path) > maxCollectedPath {
		return "", online.Errorf(online.CodeBadArgument, target, "the path of the data asset %s:%s is longer than %d bytes",
			asset.ID.Parent, asset.ID.Name, maxCollectedPath)
	}
	return at.container + "/" + at.path, nil
}

// maxCollectedPath leaves room in a blob's name for the folders of time and the instance.
const maxCollectedPath = 512 // bytes
