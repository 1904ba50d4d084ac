package api

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// transcript writes requests and their answers down; what differs from run to run is given stable names.
type transcript struct {
	*site
	text  bytes.Buffer
	names map[string]string
}

var changing = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|pu-[0-9a-f]+-[0-9a-f]{32}|sig=[^"&]+|"key": "[^"]+"`)

func (tr *transcript) stable(s string) string {
	s = strings.ReplaceAll(s, tr.URL, "https://HOST")
	s = strings.ReplaceAll(s, strings.TrimPrefix(tr.URL, "https://"), "HOST")
	return changing.ReplaceAllStringFunc(s, func(id string) string {
		if tr.names[id] == "" {
			kind := "uuid"
			for _, prefix := range []string{"pu-", "sig=", `"key": `} {
				if strings.HasPrefix(id, prefix) {
					kind = prefix
				}
			}
			tr.names[id] = fmt.Sprintf("%s%d", kind, len(tr.names)+1)
		}
		return tr.names[id]
	})
}

// exchange sends a request and writes both sides down.
func (tr *transcript) exchange(method, path, body string, header ...string) answer {
	tr.t.Helper()
	a := tr.do(method, path, body, header...)
	fmt.Fprintf(&tr.text, "> %s %s\n", method, tr.stable(path))
	for i := 0; i < len(header); i += 2 {
		fmt.Fprintf(&tr.text, "> %s: %s\n", header[i], tr.stable(header[i+1]))
	}
	if body != "" {
		fmt.Fprintf(&tr.text, ">\n%s\n", tr.stable(indent(body)))
	}
	fmt.Fprintf(&tr.text, "< %d\n", a.status)
	for _, name := range []string{"Azure-Asyncoperation", "Location", "Retry-After", "Etag", "X-Ms-Error-Code",
		"X-Portico-Warning", "Www-Authenticate", "Allow"} {
		if v := a.header.Get(name); v != "" {
			fmt.Fprintf(&tr.text, "< %s: %s\n", name, tr.stable(v))
		}
	}
	fmt.Fprintf(&tr.text, "<\n%s\n\n", tr.stable(indent(a.body)))
	return a
}

func indent(doc string) string {
	var out bytes.Buffer
	if json.Indent(&out, []byte(doc), "", "  ") != nil {
		return strings.TrimSpace(doc)
	}
	return strings.TrimSpace(out.String())
}

func (tr *transcript) golden(name string) {
	tr.t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, tr.text.Bytes(), 0o644); err != nil {
			tr.t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		tr.t.Fatal(err)
	}
	if got := tr.text.String(); got != string(want) {
		tr.t.Errorf("%s differs from:\n%s", name, got)
	}
}

// TestGoldenDeploymentStory is one endpoint with one deployment from the first PUT to the last DELETE.
func TestGoldenDeploymentStory(t *testing.T) {
	tr := &transcript{site: newSite(t), names: map[string]string{}}
	tr.assets()
	tr.exchange("GET", wsPath, "")
	tr.exchange("PUT", fraud, `{"location":"local","tags":{"team":"risk"},"identity":{"type":"SystemAssigned"},"properties":{"authMode":"Key","colour":"red"}}`)
	tr.Settle()
	put := tr.exchange("PUT", fraud+"/deployments/blue", deploymentBody)
	tr.exchange("GET", put.header.Get("Azure-AsyncOperation"), "")
	tr.exchange("GET", put.header.Get("Location"), "")
	tr.Settle()
	tr.exchange("GET", put.header.Get("Azure-AsyncOperation"), "")
	tr.exchange("GET", fraud+"/deployments/blue", "")
	tr.exchange("PUT", fraud, `{"properties":{"traffic":{"blue":100}}}`)
	tr.Settle()
	tr.exchange("GET", fraud, "")
	tr.exchange("DELETE", fraud+"/deployments/blue", "")
	tr.exchange("PUT", fraud, `{"properties":{"traffic":{"blue":90}}}`, "If-Match", `"1"`)
	tr.exchange("PUT", fraud, `{"properties":{"traffic":{"blue":90,"red":5}}}`)
	tr.exchange("GET", fraud+"/deployments", "")
	tr.exchange("GET", fraud+"/deployments/blue/revisions", "")
	tr.exchange("GET", fraud+"/activities", "")
	gone := tr.exchange("DELETE", fraud, "")
	tr.Settle()
	tr.exchange("GET", gone.header.Get("Location"), "")
	tr.exchange("GET", fraud, "")
	tr.exchange("GET", fraud, "", "Authorization", "Bearer wrong")
	tr.golden("deployment.http")
}

// TestGoldenAssetStory is the registration of a model.
func TestGoldenAssetStory(t *testing.T) {
	tr := &transcript{site: newSite(t), names: map[string]string{}}
	up := tr.exchange("POST", wsPath+"/models/m/versions/1/startPendingUpload",
		`{"pendingUploadType":"TemporaryBlobReference"}`)
	sas, _ := up.get("blobReferenceForConsumption.credential.sasUri").(string)
	uri, _ := up.get("blobReferenceForConsumption.blobUri").(string)
	base, query, _ := strings.Cut(sas, "?")
	tr.do("PUT", base+"/src/model.pkl?"+query, "weights", "x-ms-blob-type", "BlockBlob").want(201)
	tr.exchange("PUT", wsPath+"/models/m/versions/1",
		`{"properties":{"modelType":"custom_model","modelUri":"`+uri+`/src"}}`)
	tr.exchange("GET", wsPath+"/models/m/versions", "")
	tr.exchange("GET", wsPath+"/models/m", "")
	tr.exchange("PUT", wsPath+"/environments/e/versions/1",
		`{"properties":{"image":"base:1","condaFile":"dependencies:\n- python=3.11\n"}}`)
	tr.exchange("PUT", wsPath+"/environments/e/versions/1",
		`{"properties":{"condaFile":"dependencies:\n- python=3.12\n"}}`)
	tr.exchange("GET", wsPath+"/datastores", "")
	tr.exchange("GET", wsPath+"/datastores?count=30&isDefault=true&orderByAsc=false", "")
	tr.exchange("POST", wsPath+"/datastores/workspaceblobstore/listSecrets",
		`{"expirableSecret":true,"expireAfterHours":24}`)
	tr.exchange("POST", wsPath+"/datastores/workspaceblobstore/listSecrets", "")
	tr.golden("asset.http")
}
