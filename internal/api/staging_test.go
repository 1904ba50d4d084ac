package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"portico/internal/online"
)

// sdkUpload goes the Python SDK's way to upload one file, unless the blob says that it is complete: the file's size
// does not matter to that way. It says whether the bytes were sent.
func (s *site) sdkUpload(name, text, query string) bool {
	s.t.Helper()
	path := s.URL + "/stor.blob.core.portico/" + s.container() + "/" + name
	head := s.blob("HEAD", path, query, "")
	header := []string{"x-ms-blob-type", "BlockBlob"}
	switch {
	case head.status == 404:
		header = append(header, "If-None-Match", "*")
	case head.header.Get("x-ms-meta-upload_status") == "completed":
		legacy := strings.Replace(path, "LocalUpload", "az-ml-artifacts", 1)
		s.blob("HEAD", legacy, query, "").want(404)
		return false
	}
	s.blob("PUT", path, query, text, header...).want(201)
	s.blob("PUT", path, query+"&comp=metadata", "", "x-ms-meta-upload_status", "completed", "x-ms-meta-name", "n",
		"x-ms-meta-version", "1").want(200)
	return true
}

func (s *site) register(kind, name, version, field, uri string, header ...string) answer {
	s.t.Helper()
	return s.do("PUT", wsPath+"/"+kind+"/"+name+"/versions/"+version, `{"properties":{"`+field+`":"`+uri+`"}}`, header...)
}

// TestTwoPrincipals: what one principal does, the other's upload under the same name, which both can tell from the
// content, is sent, kept, read and registered as it was.
func TestTwoPrincipals(t *testing.T) {
	const file = "LocalUpload/0123456789abcdef/model/model.pkl"
	const uri = "azureml://datastores/workspaceblobstore/paths/LocalUpload/0123456789abcdef/model"
	expected := func() string {
		s := newSite(t)
		s.sdkUpload(file, "good", s.sasToken())
		digest, _ := s.register("models", "m", "1", "modelUri", uri).want(201).get("properties.digest").(string)
		return digest
	}()
	type try func(t *testing.T, s *site, base, evil string)
	plant := func(_ *testing.T, s *site, _, evil string) { s.sdkUpload(file, "evil", evil) }
	for what, c := range map[string]struct{ before, between try }{
		"planted and confirmed": {before: plant},
		"planted and overwritten later": {between: func(t *testing.T, s *site, base, evil string) {
			s.blob("PUT", base+file, evil, "evil", "x-ms-blob-type", "BlockBlob").want(201)
		}},
		"a file added to the folder": {between: func(t *testing.T, s *site, base, evil string) {
			s.blob("PUT", base+"LocalUpload/0123456789abcdef/model/sitecustomize.py", evil, "evil", "x-ms-blob-type",
				"BlockBlob").want(201)
		}},
		"a file added before": {before: func(t *testing.T, s *site, base, evil string) {
			s.blob("PUT", base+"LocalUpload/0123456789abcdef/model/__init__.py", evil, "evil", "x-ms-blob-type",
				"BlockBlob").want(201)
		}},
		"the folder's name taken by a blob": {before: func(t *testing.T, s *site, base, evil string) {
			s.blob("PUT", base+"LocalUpload/0123456789abcdef/model", evil, "evil", "x-ms-blob-type", "BlockBlob").want(201)
		}},
		"confirmed while it is sent": {between: func(t *testing.T, s *site, base, evil string) {
			s.blob("PUT", base+file, evil+"&comp=metadata", "", "x-ms-meta-upload_status", "completed").wantBlobError(404,
				"BlobNotFound")
		}},
		"blocks sent under its name": {before: func(t *testing.T, s *site, base, evil string) {
			s.blob("PUT", base+file, evil+"&comp=block&blockid=YQ==", "evil").want(201)
		}, between: func(t *testing.T, s *site, base, evil string) {
			s.blob("PUT", base+file, evil+"&comp=blocklist", "<BlockList><Latest>YQ==</Latest></BlockList>").want(201)
		}},
		"deleted with a token": {between: func(t *testing.T, s *site, base, _ string) {
			s.do("DELETE", base+file, "", "Authorization", second).wantBlobError(404, "BlobNotFound")
		}},
		"overwritten with a token": {between: func(t *testing.T, s *site, base, _ string) {
			s.do("PUT", base+file, "evil", "Authorization", second, "x-ms-blob-type", "BlockBlob").want(201)
		}},
		"a signature made for somebody else": {before: func(t *testing.T, s *site, base, evil string) {
			good := s.sasToken()
			mixed := evil[:strings.Index(evil, "skoid=")] + good[strings.Index(good, "skoid="):]
			s.blob("PUT", base+file, mixed, "evil", "x-ms-blob-type", "BlockBlob").wantBlobError(403, "AuthenticationFailed")
		}},
		"registered first": {before: func(t *testing.T, s *site, _, evil string) {
			s.sdkUpload(file, "evil", evil)
			s.register("models", "planted", "1", "modelUri", uri, "Authorization", second).want(201)
		}},
	} {
		t.Run(what, func(t *testing.T) {
			s := newSite(t)
			s.t = t
			good, evil := s.sasToken(), s.sasToken("Authorization", second)
			base := s.URL + "/blobs/" + s.container() + "/"
			if c.before != nil {
				c.before(t, s, base, evil)
			}
			if !s.sdkUpload(file, "good", good) {
				t.Fatal("the client skipped its upload")
			}
			if c.between != nil {
				c.between(t, s, base, evil)
			}
			if a := s.blob("GET", base+file, good, "").want(200); a.body != "good" {
				t.Errorf("she reads %q", a.body)
			}
			if a := s.blob("GET", base, good+"&restype=container&comp=list&prefix=LocalUpload/", "").want(200); strings.Count(a.body,
				"<Name>") != 1 {
				t.Errorf("she sees %s", a.body)
			}
			a := s.register("models", "m", "1", "modelUri", uri).want(201)
			if a.get("properties.digest") != expected {
				t.Errorf("registered %v, want %s", a.get("properties.digest"), expected)
			}
			if s.sdkUpload(file, "good", good) {
				t.Error("her own complete upload was sent again")
			}
		})
	}
}

// TestSharedDatastorePath: a path that one principal uploaded can be registered by another who asks for it by name, and
// not when it cannot be told whose content is meant.
func TestSharedDatastorePath(t *testing.T) {
	s := newSite(t)
	const uri = "azureml://datastores/workspaceblobstore/paths/shared/model.pkl"
	s.register("models", "m", "1", "modelUri", uri).wantError(400, online.CodeBadArgument, "properties.modelUri")
	s.sdkUpload("shared/model.pkl", "good", s.sasToken())
	s.register("models", "m", "1", "modelUri", uri, "Authorization", second).want(201)
	s.sdkUpload("shared/model.pkl", "evil", s.sasToken("Authorization", second))
	s.do("PUT", s.URL+"/blobs/"+s.container()+"/shared/model.pkl", "third", "x-ms-blob-type", "BlockBlob").want(201)
	s.register("models", "m", "2", "modelUri", uri).want(201)
	s.api.Access = everybody{}
	s.register("models", "m", "3", "modelUri", uri).wantError(409, online.CodeConflict, "properties.modelUri")
}

// everybody is a third principal.
type everybody struct{}

func (everybody) Verify(string) (online.Principal, error) {
	return online.Principal{ID: "3", Name: "carol"}, nil
}

// TestCodeByHash looks codes up as the Python SDK does. The hash is computed here by its description.
func TestCodeByHash(t *testing.T) {
	s := newSite(t)
	hashOf := func(files ...string) string {
		h := sha256.New()
		fmt.Fprint(h, len(files)/2)
		for i := 0; i < len(files); i += 2 {
			fmt.Fprintf(h, "#%s#%d", files[i], len(files[i+1]))
		}
		for i := 1; i < len(files); i += 2 {
			fmt.Fprint(h, files[i])
		}
		return hex.EncodeToString(h.Sum(nil))
	}
	code := func(name, claim string, header []string, files ...string) string {
		t.Helper()
		up := s.do("POST", wsPath+"/codes/"+name+"/versions/1/startPendingUpload", "", header...).want(200)
		sas, _ := up.get("blobReferenceForConsumption.credential.sasUri").(string)
		base, query, _ := strings.Cut(sas, "?")
		for i := 0; i < len(files); i += 2 {
			s.blob("PUT", base+"/src/"+strings.ReplaceAll(files[i], "#", "%23"), query, files[i+1], "x-ms-blob-type", "BlockBlob").want(201)
		}
		id, _ := s.do("PUT", wsPath+"/codes/"+name+"/versions/1", `{"properties":{"codeUri":"`+base+
			`/src","isAnonymous":true,"properties":{"hash_sha256":"`+claim+`","hash_version":202208}}}`, header...).want(201).get("id").(string)
		return id
	}
	found := func(hash, version string) any {
		t.Helper()
		return s.do("GET", wsPath+"/codes/some-new-name/versions?hash="+hash+"&hashVersion="+version, "").want(200).get("value.0.id")
	}
	files := []string{"a/z.py", "12345678901", "B.py", "", "score.py", "def init(): pass"}
	hash := hashOf(files...)
	if got := found(hash, "202208"); got != nil {
		t.Fatalf("found %v before it was there", got)
	}
	code("evil", hash, []string{"Authorization", second}, "score.py", "evil") // claims to be it
	if got := found(hash, "202208"); got != nil {
		t.Fatalf("a claim was believed: %v", got)
	}
	id := code("good", hash, nil, files...)
	if got := found(hash, "202208"); got != id {
		t.Errorf("found %v, want %s", got, id)
	}
	if got := found(strings.ToUpper(hash), ""); got != id {
		t.Errorf("in upper case: %v", got)
	}
	if got := found(hash, "202301"); got != nil {
		t.Errorf("by another way of making it: %v", got)
	}
	odd := []string{"a#1.py", "x"}
	code("odd", hashOf(odd...), nil, odd...)
	if got := found(hashOf(odd...), "202208"); got != nil {
		t.Errorf("a hash that other files could have was believed: %v", got)
	}
}

// TestSDKAssets are the requests around assets that the clients send beside uploads.
func TestSDKAssets(t *testing.T) {
	s := newSite(t)
	s.do("PUT", wsPath+"/data/fraud-blue-model_inputs/versions/1",
		`{"properties":{"dataType":"uri_folder","dataUri":"azureml://datastores/workspaceblobstore/paths/modelDataCollector/fraud/blue/model_inputs","isAnonymous":false}}`).want(201)
	for uri, part := range map[string]string{
		"azureml://jobs/j/outputs/artifacts/paths/model/": "runs no jobs", "runs:/j/model": "runs no jobs",
		"azureml://registries/r/models/m/versions/1": "no registries",
	} {
		if a := s.register("models", "m", "1", "modelUri", uri).wantError(400, online.CodeNotImplemented, "properties.modelUri"); !strings.Contains(a.body, part) {
			t.Errorf("%s: %s", uri, a.body)
		}
	}
	for _, path := range []string{"/models/m/versions/1/publish", "/codes/c/versions/1/publish", "/environments/e/versions/1/publish",
		"/data/d/versions/1/publish"} {
		s.do("POST", wsPath+path, `{"destinationName":"m","destinationVersion":"1","registryName":"r"}`).wantError(400,
			online.CodeNotImplemented, "-")
	}
	s.do("GET", wsPath+"/models/m", "").wantError(404, online.CodeNotFound, "-") // then the SDK begins at version 1
	for i, name := range []string{"10", "9"} {
		s.sdkUpload(fmt.Sprintf("LocalUpload/%d/m.pkl", i), name, s.sasToken())
		s.register("models", "m", name, "modelUri", fmt.Sprintf("azureml://datastores/workspaceblobstore/paths/LocalUpload/%d/m.pkl", i)).want(201)
	}
	if a := s.do("GET", wsPath+"/models/m", "").want(200); a.get("properties.nextVersion") != "11" {
		t.Error(a.body)
	}
	if a := s.do("GET", wsPath+"/models/m/versions?$orderBy=createdtime%20desc&$top=1", "").want(200); a.get("value.0.name") != "9" {
		t.Error(a.body)
	}
	if a := s.do("GET", wsPath+"/models/none/versions?$orderBy=createdtime%20desc&$top=1", "").want(200); a.get("value.0") != nil {
		t.Error(a.body)
	}
	for query, want := range map[string]any{"": "workspaceblobstore", "?isDefault=true": "workspaceblobstore", "?isDefault=false": nil,
		"?names=a,WorkspaceBlobStore": "workspaceblobstore", "?names=a": nil} {
		if a := s.do("GET", wsPath+"/datastores"+query, "").want(200); a.get("value.0.name") != want {
			t.Errorf("%s: %s", query, a.body)
		}
	}
}

// TestInferenceConfig keeps what says where an image's own server answers, and refuses to deploy it.
func TestInferenceConfig(t *testing.T) {
	s := newSite(t)
	s.assets()
	const routes = `"inferenceConfig":{"livenessRoute":{"path":"/live","port":5001},"scoringRoute":{"path":"/score","port":5001}}`
	path := wsPath + "/environments/own/versions/1"
	s.do("PUT", path, `{"properties":{"condaFile":"dependencies:\n- python=3.11\n",`+routes+`}}`).want(201)
	if a := s.do("GET", path, "").want(200); a.get("properties.inferenceConfig.scoringRoute.port") != 5001.0 ||
		a.get("properties.inferenceConfig.readinessRoute") != nil {
		t.Error(a.body)
	}
	s.do("PUT", path, `{"properties":{"condaFile":"dependencies:\n- python=3.11\n"}}`).wantError(409, online.CodeConflict, "-")
	s.do("PUT", fraud, `{"location":"local"}`).want(201)
	s.do("PUT", fraud+"/deployments/blue", strings.Replace(deploymentBody, "azureml:e:1", "azureml:own:1", 1)).wantError(400,
		online.CodeNotImplemented, "properties.environmentId")
	s.do("PUT", wsPath+"/environments/docker/versions/1",
		`{"properties":{"build":{"contextUri":"https://x/y/","dockerfilePath":"Dockerfile"}}}`).wantError(400, online.CodeNotImplemented, "properties.build")
}

// noise is a stream that costs no memory.
type noise struct{ n uint64 }

func (r *noise) Read(p []byte) (int, error) {
	for i := range p {
		r.n = r.n*6364136223846793005 + 1442695040888963407
		p[i] = byte(r.n >> 56)
	}
	return len(p), nil
}

// TestUploadMemory sends, registers and reads a model that is much larger than what the server may need for it.
func TestUploadMemory(t *testing.T) {
	const size = 64 << 20
	const most = size / 2 // holding it once would take twice that; TLS and, above all, the race detector take some
	s := newSite(t)
	q, path := s.sasToken(), s.URL+"/blobs/"+s.container()+"/big/model.bin"
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	req, err := http.NewRequest(http.MethodPut, path+"?"+q, io.LimitReader(&noise{}, size))
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = size
	req.Header.Set("x-ms-blob-type", "BlockBlob")
	resp, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	s.register("models", "m", "1", "modelUri", "azureml://datastores/workspaceblobstore/paths/big").want(201)
	resp, err = s.Client().Get(path + "?" + q)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
		t.Fatalf("read %d bytes, %v", n, err)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > most {
		t.Errorf("%d MiB were allocated for %d MiB", used>>20, size>>20)
	}
}

// TestInterruptedUpload leaves in the middle of a blob: there is none, and the next attempt is like the first.
func TestInterruptedUpload(t *testing.T) {
	s := newSite(t)
	q, path := s.sasToken(), s.URL+"/blobs/"+s.container()+"/LocalUpload/h/model.bin"
	ctx, cancel := context.WithCancel(context.Background())
	body, feed := io.Pipe()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, path+"?"+q, body)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = 1 << 20
	req.Header.Set("x-ms-blob-type", "BlockBlob")
	ended := make(chan error, 1)
	go func() {
		resp, err := s.Client().Do(req)
		if err == nil {
			resp.Body.Close()
		}
		ended <- err
	}()
	if _, err := feed.Write(make([]byte, 1<<19)); err != nil {
		t.Fatal(err)
	}
	cancel()
	feed.CloseWithError(io.ErrUnexpectedEOF) // the client waits until the rest can be read, or not
	if err := <-ended; err == nil {
		t.Fatal("half a blob was accepted")
	}
	s.blob("HEAD", path, q, "").want(404)
	s.register("models", "m", "1", "modelUri", "azureml://datastores/workspaceblobstore/paths/LocalUpload/h").want(400)
	if !s.sdkUpload("LocalUpload/h/model.bin", "whole", q) {
		t.Error("the second attempt was skipped")
	}
	s.register("models", "m", "1", "modelUri", "azureml://datastores/workspaceblobstore/paths/LocalUpload/h").want(201)
}
