package api

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestMetadata: the document is for everybody, at any api-version, and its resource manager is a part of the URL that
// was asked, by which the Python SDK chooses the cloud.
func TestMetadata(t *testing.T) {
	s := newSite(t)
	for _, query := range []string{"", "?api-version=2019-05-01", "?api-version=2099-01-01"} {
		a := s.do("GET", "/metadata/endpoints"+query, "", "Authorization", "").want(200)
		want := `[{"name":"Portico","portal":"https://portal.azure.com/","resourceManager":"URL","authentication":{"loginEndpoint":"URL",` +
			`"audiences":["URL","https://management.azure.com","https://management.core.windows.net/"],"tenant":"common","identityProvider":"AAD"},` +
			`"suffixes":{"storage":"core.portico","keyVaultDns":"vault.core.portico"}}]`
		if got := strings.ReplaceAll(strings.TrimSpace(a.body), s.URL, "URL"); got != want {
			t.Errorf("%s", got)
		}
	}
	s.do("HEAD", "/metadata/endpoints", "", "Authorization", "").want(200)
	s.do("GET", "/METADATA/endpoints", "", "Authorization", "").want(404)
	s.do("POST", "/metadata/endpoints", "{}", "Authorization", "").want(404)
}

// TestMetadataByAzuresNames: where clients know this server by Azure's own names, the document has these, and the
// datastore names an account of which they make a host.
func TestMetadataByAzuresNames(t *testing.T) {
	s := newSite(t)
	cfg := s.api.Config
	cfg.StorageAccount = "portico"
	a := New(cfg)
	ask := func(path, token string) map[string]any {
		r := httptest.NewRequest(http.MethodGet, "https://management.azure.com"+path, nil)
		r.Header.Set("Authorization", token)
		w := httptest.NewRecorder()
		a.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			t.Fatalf("%s: %d %s", path, w.Code, w.Body)
		}
		var one map[string]any
		if err := json.Unmarshal([]byte(strings.Trim(strings.TrimSpace(w.Body.String()), "[]")), &one); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		return one
	}
	cloud := ask("/metadata/endpoints?api-version=2019-05-01", "")
	suffixes, _ := cloud["suffixes"].(map[string]any)
	login, _ := cloud["authentication"].(map[string]any)
	if cloud["name"] != "AzureCloud" || cloud["resourceManager"] != "https://management.azure.com" ||
		suffixes["storage"] != "core.windows.net" ||
		login["loginEndpoint"] != "https://login.microsoftonline.com" {
		t.Errorf("%v", cloud)
	}
	store := ask(wsPath+"/datastores/workspaceblobstore?api-version=2024-04-01", "Bearer "+token1)
	properties, _ := store["properties"].(map[string]any)
	if properties["accountName"] != "portico" || properties["endpoint"] != "core.windows.net" {
		t.Errorf("%v", properties)
	}
}
