package api

import (
	"net/http"
	"strings"
)

// What the metadata document calls the cloud, and the suffix of its storage hosts.
//
// The Python SDK makes the URL of a blob from the datastore's account name and this suffix:
// https://ACCOUNT.blob.SUFFIX/CONTAINER/NAME. With HOST:PORT/AccountPath as the account that is
// https://HOST:PORT/AccountPath.blob.SUFFIX/CONTAINER/NAME, so that blobs are found on this listener without a DNS name.
const (
	CloudName     = "Portico"
	AccountPath   = "stor"
	StorageSuffix = "core.portico"

	publicCloudName     = "AzureCloud"
	publicStorageSuffix = "core.windows.net"

	publicManagementURL      = "https://management.azure.com"
	publicManagementAudience = "https://management.core.windows.net/"
	publicLoginURL           = "https://login.microsoftonline.com"

	// portalURL is never fetched. Clients take what follows its second dot for the end of the audience of their
	// tokens, https://ml.azure.com, which has to be one that the token service knows.
	portalURL = "https://portal.azure.com/"
)

// cloud is one entry of the metadata document: what clients read, and what Azure's own document has beside it.
type cloud struct {
	Name            string              `json:"name"`
	Portal          string              `json:"portal"`
	ResourceManager string              `json:"resourceManager"`
	Authentication  cloudAuthentication `json:"authentication"`
	Suffixes        cloudSuffixes       `json:"suffixes"`
}

type cloudAuthentication struct {
	LoginEndpoint    string   `json:"loginEndpoint"`
	Audiences        []string `json:"audiences"`
	Tenant           string   `json:"tenant"`
	IdentityProvider string   `json:"identityProvider"`
}

type cloudSuffixes struct {
	Storage     string `json:"storage"`
	KeyVaultDNS string `json:"keyVaultDns"`
}

func (a *API) routeMetadata() {
	a.mux.HandleFunc("GET /metadata/endpoints", func(_ http.ResponseWriter, r *http.Request) {
		c := r.Context().Value(callKey{}).(*call)
		_ = c.json(http.StatusOK, []cloud{c.cloud()}) // json answers by itself and has no error
	})
}

// cloud describes this server as clients that find their cloud by ARM_CLOUD_METADATA_URL want it: no credential is
// asked for, since they have none yet, and resourceManager is a part of the URL that was asked for, since they choose
// the cloud by that.
func (c *call) cloud() cloud {
	base := c.base()
	d := cloud{
		Name: CloudName, Portal: portalURL, ResourceManager: base,
		Authentication: cloudAuthentication{
			LoginEndpoint: base, Audiences: []string{base, publicManagementURL, publicManagementAudience},
			Tenant: "common", IdentityProvider: "AAD",
		},
		Suffixes: cloudSuffixes{Storage: StorageSuffix, KeyVaultDNS: "vault." + StorageSuffix},
	}
	if c.api.StorageAccount != "" { // reached by Azure's own names
		d.Name, d.Suffixes = publicCloudName, cloudSuffixes{Storage: publicStorageSuffix, KeyVaultDNS: "vault.azure.net"}
		d.Authentication.LoginEndpoint = publicLoginURL
		d.Authentication.Audiences = []string{publicManagementAudience, publicManagementURL}
	}
	return d
}

// storageAccount is the account name that datastores show.
func (c *call) storageAccount() string {
	if c.api.StorageAccount != "" {
		return c.api.StorageAccount
	}
	return strings.TrimPrefix(strings.TrimPrefix(c.base(), "https://"), "http://") + "/" + AccountPath
}
