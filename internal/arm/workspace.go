package arm

import "portico/internal/online"

// Workspace is a workspace on the wire, in both directions.
type Workspace struct {
	ID         string              `json:"id,omitempty"`
	Name       string              `json:"name,omitempty"`
	Type       string              `json:"type,omitempty"`
	ETag       string              `json:"etag,omitempty"`
	Location   string              `json:"location,omitempty"`
	Tags       map[string]string   `json:"tags"`
	Kind       string              `json:"kind,omitempty"`
	Identity   *Identity           `json:"identity,omitempty"`
	SKU        *SKU                `json:"sku,omitempty"`
	SystemData *SystemData         `json:"systemData,omitempty"`
	Properties WorkspaceProperties `json:"properties"`
}

// WorkspaceProperties are the properties of a workspace. What points to other Azure resources is refused when a
// client sets it: nothing here would use it.
type WorkspaceProperties struct {
	FriendlyName         string  `json:"friendlyName"`
	Description          string  `json:"description"`
	WorkspaceID          string  `json:"workspaceId,omitempty"`
	ProvisioningState    string  `json:"provisioningState,omitempty"`
	PublicNetworkAccess  string  `json:"publicNetworkAccess,omitempty"`
	HBIWorkspace         Refused `json:"hbiWorkspace,omitzero"`
	StorageAccount       Refused `json:"storageAccount,omitzero"`
	KeyVault             Refused `json:"keyVault,omitzero"`
	ApplicationInsights  Refused `json:"applicationInsights,omitzero"`
	ContainerRegistry    Refused `json:"containerRegistry,omitzero"`
	Encryption           Refused `json:"encryption,omitzero"`
	ManagedNetwork       Refused `json:"managedNetwork,omitzero"`
	PrivateEndpoints     Refused `json:"privateEndpointConnections,omitzero"`
	SharedPrivateLinks   Refused `json:"sharedPrivateLinkResources,omitzero"`
	PrimaryUserIdentity  Refused `json:"primaryUserAssignedIdentity,omitzero"`
	ServerlessCompute    Refused `json:"serverlessComputeSettings,omitzero"`
	FeatureStoreSettings Refused `json:"featureStoreSettings,omitzero"`
}

// WorkspacePatch is the body of a PATCH: absent members stay as they are.
type WorkspacePatch struct {
	Tags       *map[string]string       `json:"tags,omitempty"`
	Properties WorkspacePatchProperties `json:"properties"`
}

// WorkspacePatchProperties are the properties that a PATCH can change.
type WorkspacePatchProperties struct {
	FriendlyName *string `json:"friendlyName,omitempty"`
	Description  *string `json:"description,omitempty"`
}

// Domain translates a workspace.
func (w *Workspace) Domain() (online.WorkspaceSpec, []*online.Error) {
	p := &w.Properties
	faults := refuse(nil,
		refusal{p.HBIWorkspace, "properties.hbiWorkspace"}, refusal{p.StorageAccount, "properties.storageAccount"},
		refusal{p.KeyVault, "properties.keyVault"}, refusal{p.ApplicationInsights, "properties.applicationInsights"},
		refusal{p.ContainerRegistry, "properties.containerRegistry"}, refusal{p.Encryption, "properties.encryption"},
		refusal{p.ManagedNetwork, "properties.managedNetwork"},
		refusal{p.PrivateEndpoints, "properties.privateEndpointConnections"},
		refusal{p.SharedPrivateLinks, "properties.sharedPrivateLinkResources"},
		refusal{p.PrimaryUserIdentity, "properties.primaryUserAssignedIdentity"},
		refusal{p.ServerlessCompute, "properties.serverlessComputeSettings"},
		refusal{p.FeatureStoreSettings, "properties.featureStoreSettings"})
	faults = refuse(faults, onlyKind(w.Kind, "Default"),
		refusal{Refused(w.Identity != nil && len(w.Identity.UserAssignedIdentities) > 0),
			"identity.userAssignedIdentities"})
	if a := word(p.PublicNetworkAccess, access...); a == "Disabled" {
		faults = refuse(faults, refusal{true, "properties.publicNetworkAccess"})
	} else if a != "" {
		faults = oneOf(faults, "properties.publicNetworkAccess", a, access)
	}
	return online.WorkspaceSpec{Location: w.Location, FriendlyName: p.FriendlyName, Description: p.Description,
		Tags: w.Tags}, faults
}

// NewWorkspace renders a workspace.
func NewWorkspace(m Meta, s online.WorkspaceSpec) Workspace {
	return Workspace{
		ID: FormatID(m.ID), Name: m.ID.Workspace.Name, Type: TypeOf(m.ID), ETag: m.ETag, Location: s.Location,
		Tags: orEmpty(s.Tags), Kind: "Default", SystemData: m.systemData(),
		Identity: &Identity{Type: "SystemAssigned", PrincipalID: m.UID}, SKU: &SKU{Name: "Basic", Tier: "Basic"},
		Properties: WorkspaceProperties{FriendlyName: orDefault(s.FriendlyName, m.ID.Workspace.Name),
			Description: s.Description,
			WorkspaceID: m.UID, ProvisioningState: string(m.State), PublicNetworkAccess: "Enabled"},
	}
}

// Datastore is a place for blobs on the wire; answered only.
type Datastore struct {
	ID         string              `json:"id"`
	Name       string              `json:"name"`
	Type       string              `json:"type"`
	SystemData *SystemData         `json:"systemData,omitempty"`
	Properties DatastoreProperties `json:"properties"`
}

// DatastoreProperties describe the one kind of datastore that there is: Portico's own blobs.
type DatastoreProperties struct {
	Description                   string            `json:"description"`
	Tags                          map[string]string `json:"tags"`
	Properties                    map[string]string `json:"properties"`
	IsDefault                     bool              `json:"isDefault"`
	Credentials                   Credentials       `json:"credentials"`
	DatastoreType                 string            `json:"datastoreType"`
	AccountName                   string            `json:"accountName"`
	ContainerName                 string            `json:"containerName"`
	Endpoint                      string            `json:"endpoint"`
	Protocol                      string            `json:"protocol"`
	ServiceDataAccessAuthIdentity string            `json:"serviceDataAccessAuthIdentity"`
}

// Credentials name the kind of credential that listSecrets gives.
type Credentials struct {
	CredentialsType string `json:"credentialsType"`
}

// ListSecrets is the body of a datastore's listSecrets.
type ListSecrets struct {
	ExpirableSecret  bool `json:"expirableSecret,omitempty"`
	ExpireAfterHours *int `json:"expireAfterHours,omitempty"`
}

// DatastoreSecrets is its answer.
type DatastoreSecrets struct {
	SecretsType string `json:"secretsType"` // Sas or AccountKey
	SASToken    string `json:"sasToken,omitempty"`
	Key         string `json:"key,omitempty"` // base64
}

// NewDatastore renders the datastore of a workspace's own blobs. m is the workspace's; endpoint is the suffix of the
// hosts that serve blobs. Clients put ACCOUNT.blob.SUFFIX together from account and the suffix that they know.
func NewDatastore(m Meta, name, account, container, endpoint string) Datastore {
	id := online.ID{Workspace: m.ID.Workspace, Kind: online.KindDatastore, Name: name}
	return Datastore{ID: FormatID(id), Name: name, Type: TypeOf(id), SystemData: m.systemData(),
		Properties: DatastoreProperties{Tags: map[string]string{}, Properties: map[string]string{}, IsDefault: true,
			Credentials: Credentials{CredentialsType: "AccountKey"}, DatastoreType: "AzureBlob", AccountName: account,
			ContainerName: container, Endpoint: endpoint, Protocol: "https", ServiceDataAccessAuthIdentity: "None"}}
}
