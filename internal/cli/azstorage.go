package cli

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"portico/internal/arm"
	"portico/internal/online"
)

// The `az storage blob` commands work on the workspace's datastore: its account and its container are the only ones.

const (
	azStorageName    = "workspaceblobstore" // the datastore
	azBlobPath       = "/blobs/"            // of the server's management URL
	azBlobsMost      = 5000                 // that a listing gives when nobody says how many
	maxBlobListBytes = 64 << 20
)

func azStorage() []azCommand {
	account := []azArg{azOne("--account-name"), azOne("--auth-mode").from("login", "key").silent(), azGroupArg,
		azWorkspaceArg,
		azMaybe("--no-progress").silent(),
		azOne("--account-key").refuse("the container is opened with the token of who runs this"),
		azOne("--connection-string").refuse("the container is opened with the token of who runs this"),
		azOne("--sas-token").refuse("the container is opened with the token of who runs this")}
	container := azOne("--container-name", "-c").must()
	with := func(args ...azArg) []azArg { return append(args, account...) }
	return []azCommand{
		{words: "storage blob upload", short: "Upload a file", run: azBlobUpload,
			args: with(container, azOne("--file", "-f").must(), azNameArg,
				azMaybe("--overwrite"), azOne("--type", "-t").from("block"))},
		{words: "storage blob upload-batch", short: "Upload the files of a folder", run: azBlobUploadBatch, args: with(
			azOne("--source", "-s").must(), azOne("--destination", "-d").must(), azOne("--destination-path"), azOne("--pattern"),
			azMaybe("--overwrite"), azOne("--type", "-t").from("block"), azSwitch("--dryrun"))},
		{words: "storage blob list", short: "List blobs", run: azBlobList, args: with(container, azOne("--prefix"),
			azOne("--num-results"),
			azOne("--delimiter"))},
		{words: "storage blob download", short: "Download a blob", run: azBlobDownload,
			args: with(container, azNameArg.must(),
				azOne("--file", "-f"), azMaybe("--overwrite"))},
		{words: "storage blob show", short: "Show a blob's properties", run: azBlobShow,
			args: with(container, azNameArg.must())},
		{words: "storage blob exists", short: "Say whether a blob exists", run: azBlobExists,
			args: with(container, azNameArg.must())},
	}
}

// azContainer is the workspace's container with a grant to use it.
type azContainer struct {
	*session
	name  string
	grant string // query
}

// container opens a container by name, and refuses one that is not the workspace's.
func (c *azCall) container(ctx context.Context, name string) (*azContainer, error) {
	s, err := c.session()
	if err != nil {
		return nil, err
	}
	var d arm.Datastore
	if _, err := s.client.get(ctx, s.containerPath(online.KindDatastore, azStorageName), nil, &d); err != nil {
		return nil, err
	}
	if account := c.one("account-name"); account != "" && !strings.EqualFold(account, d.Properties.AccountName) {
		return nil, fmt.Errorf("the storage account '%s' is not here; the workspace's is '%s' (`az ml datastore show -n %s`)",
			account, d.Properties.AccountName, azStorageName)
	}
	if name != d.Properties.ContainerName {
		return nil, online.Errorf("ContainerNotFound", "", "The container '%s' does not exist; the workspace's is '%s'.",
			name,
			d.Properties.ContainerName)
	}
	var secrets arm.DatastoreSecrets
	ask := map[string]any{"expirableSecret": true}
	err = s.client.post(ctx, s.containerPath(online.KindDatastore, azStorageName)+"/listSecrets", ask, &secrets)
	if err != nil {
		return nil, err
	}
	if secrets.SASToken == "" {
		return nil, errors.New("the server gave no grant for its container")
	}
	return &azContainer{s, name, strings.TrimPrefix(secrets.SASToken, "?")}, nil
}

// url is the address of a blob, or of the container for "", with the grant.
func (b *azContainer) url(blob string) url.URL {
	base, err := url.Parse(b.client.place.ManagementURL)
	must(err) // the session was opened with it
	base.Path = path.Join("/", base.Path, azBlobPath, b.name, blob)
	base.RawQuery = b.grant
	return *base
}

// ask sends a request without a body about a blob or the container.
func (b *azContainer) ask(ctx context.Context, method string, target url.URL) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, target.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	req.Header.Set("User-Agent", b.client.agent)
	resp, err := b.client.http.Do(req)
	if err != nil {
		return nil, b.client.unreachable(ctx, err)
	}
	if resp.StatusCode < http.StatusBadRequest {
		return resp, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes))
	if err != nil {
		return nil, b.client.unreachable(ctx, err)
	}
	if resp.StatusCode == http.StatusNotFound {
		return nil, online.Errorf("BlobNotFound", "", "The specified blob does not exist.")
	}
	return nil, blobFailure(resp, text)
}

// blobFailure is an error of the blob service.
func blobFailure(resp *http.Response, body []byte) error {
	var said struct {
		Code    string `xml:"Code"`
		Message string `xml:"Message"`
	}
	code := resp.Header.Get("X-Ms-Error-Code")
	if xml.Unmarshal(body, &said) == nil && said.Message != "" {
		return online.Errorf(online.Code(orDefault(code, said.Code)), "", "%s", said.Message)
	}
	return serviceError(&answer{resp.StatusCode, resp.Header, body})
}

// azBlob is a blob as az shows it.
type azBlob struct {
	Name       string            `json:"name"`
	Container  string            `json:"container"`
	Metadata   map[string]string `json:"metadata"`
	Properties azBlobProperties  `json:"properties"`
}

type azBlobProperties struct {
	Type     string         `json:"blobType"`
	Length   int64          `json:"contentLength"`
	Settings azBlobSettings `json:"contentSettings"`
	ETag     string         `json:"etag"`
	Modified string         `json:"lastModified"`
	Created  string         `json:"creationTime,omitempty"`
}

type azBlobSettings struct {
	MD5  string `json:"contentMd5"`
	Type string `json:"contentType"`
}

// show asks for a blob's properties.
func (b *azContainer) show(ctx context.Context, name string) (*azBlob, error) {
	resp, err := b.ask(ctx, http.MethodHead, b.url(name))
	if err != nil {
		return nil, err
	}
	if err := resp.Body.Close(); err != nil {
		return nil, b.client.unreachable(ctx, err)
	}
	return b.shown(name, resp), nil
}

func (b *azContainer) shown(name string, resp *http.Response) *azBlob {
	h := resp.Header
	out := &azBlob{Name: name, Container: b.name, Metadata: map[string]string{}, Properties: azBlobProperties{
		Type: orDefault(h.Get("X-Ms-Blob-Type"), "BlockBlob"), Length: resp.ContentLength, ETag: h.Get("ETag"),
		Settings: azBlobSettings{MD5: h.Get("Content-MD5"),
			Type: h.Get("Content-Type")}, Modified: blobTime(h.Get("Last-Modified")),
		Created: blobTime(h.Get("X-Ms-Creation-Time")),
	}}
	for key := range h {
		if name, ok := strings.CutPrefix(strings.ToLower(key), "x-ms-meta-"); ok {
			out.Metadata[name] = h.Get(key)
		}
	}
	return out
}

// blobTime writes a time of HTTP as az shows it.
func blobTime(text string) string {
	t, err := http.ParseTime(text)
	if err != nil {
		return text
	}
	return t.UTC().Format("2006-01-02T15:04:05+00:00")
}

func azBlobShow(ctx context.Context, c *azCall) error {
	b, err := c.container(ctx, c.one("container-name"))
	if err != nil {
		return err
	}
	blob, err := b.show(ctx, c.one("name"))
	if err != nil {
		return err
	}
	return c.print(blob)
}

func azBlobExists(ctx context.Context, c *azCall) error {
	b, err := c.container(ctx, c.one("container-name"))
	if err != nil {
		return err
	}
	_, err = b.show(ctx, c.one("name"))
	if err != nil && !notFound(err) {
		return err
	}
	return c.print(map[string]bool{"exists": err == nil})
}

// azUploaded is the output of an upload.
type azUploaded struct {
	ETag     string `json:"etag"`
	Modified string `json:"lastModified"`
	MD5      string `json:"content_md5"`
}

func azBlobUpload(ctx context.Context, c *azCall) error {
	t, err := scanTree(ctx, c.one("file"))
	if err != nil {
		return err
	}
	if !t.isFile {
		return usagef("--file: %s is a folder; use az storage blob upload-batch", c.one("file"))
	}
	t.name = orDefault(c.one("name"), t.name)
	b, err := c.container(ctx, c.one("container-name"))
	if err != nil {
		return err
	}
	if err := b.upload(ctx, t, c.values.on("overwrite")); err != nil {
		return err
	}
	blob, err := b.show(ctx, t.name)
	if err != nil {
		return err
	}
	return c.print(azUploaded{blob.Properties.ETag, blob.Properties.Modified, blob.Properties.Settings.MD5})
}

// upload sends a tree into the container, below its own name.
func (b *azContainer) upload(ctx context.Context, t *tree, overwrite bool) error {
	u := newUploader(b.client, b.progress)
	u.onlyNew = !overwrite
	target := b.url("")
	return u.upload(ctx, t, target.String())
}

// azBatchItem is one line of the output of upload-batch.
type azBatchItem struct {
	Blob     string `json:"Blob"`
	Modified string `json:"Last Modified"`
	Type     string `json:"Type"`
	ETag     string `json:"eTag"`
}

func azBlobUploadBatch(ctx context.Context, c *azCall) error {
	// The destination is a container, or a container with a folder.
	name, folder, _ := strings.Cut(strings.Trim(c.one("destination"), "/"), "/")
	if _, err := path.Match(c.one("pattern"), ""); err != nil {
		return usagef("--pattern: %v", err)
	}
	t, err := batchTree(c.one("source"), c.one("pattern"))
	if err != nil {
		return err
	}
	t.name = path.Join(folder, c.one("destination-path"))
	b, err := c.container(ctx, name)
	if err != nil {
		return err
	}
	if c.values.on("dryrun") {
		for _, f := range t.files {
			fmt.Fprintf(c.Err, "upload: %s to %s/%s\n", t.path(f), name, path.Join(t.name, f.rel))
		}
		return nil
	}
	if err := b.upload(ctx, t, c.values.on("overwrite")); err != nil {
		return err
	}
	out := []azBatchItem{}
	for _, f := range t.files {
		blob, err := b.show(ctx, path.Join(t.name, f.rel))
		if err != nil {
			return err
		}
		at := b.url(blob.Name)
		at.RawQuery = ""
		out = append(out, azBatchItem{at.String(), blob.Properties.Modified, blob.Properties.Settings.Type,
			blob.Properties.ETag})
	}
	return c.print(out)
}

// batchTree lists every file below a folder whose path matches a pattern, in which * stands for slashes too. As with
// az, ignore files are files like others.
func batchTree(root, pattern string) (*tree, error) {
	t := &tree{root: root}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := os.Stat(p) // follows links, as az does
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if pattern != "" && !matchAcross(pattern, rel) {
			return nil
		}
		if len(t.files) == maxUploadFiles {
			return usagef("%s holds more than %d files", root, maxUploadFiles)
		}
		t.files, t.bytes = append(t.files, treeFile{rel: rel, size: info.Size()}), t.bytes+info.Size()
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, usagef("--source: %s does not exist", root)
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", root, err)
	}
	return t, nil
}

// matchAcross matches as Python's fnmatch: no character is special to * and ?, slashes included.
func matchAcross(pattern, name string) bool {
	flat := strings.NewReplacer("/", "\x00")
	ok, err := path.Match(flat.Replace(pattern), flat.Replace(name))
	return err == nil && ok
}

// azBlobPage is a page of the blob service's listing.
type azBlobPage struct {
	Blobs []struct {
		Name       string `xml:"Name"`
		Properties struct {
			Created  string `xml:"Creation-Time"`
			Modified string `xml:"Last-Modified"`
			ETag     string `xml:"Etag"`
			Length   int64  `xml:"Content-Length"`
			Type     string `xml:"Content-Type"`
			MD5      string `xml:"Content-MD5"`
			BlobType string `xml:"BlobType"`
		} `xml:"Properties"`
	} `xml:"Blobs>Blob"`
	Prefixes []struct {
		Name string `xml:"Name"`
	} `xml:"Blobs>BlobPrefix"`
	Next string `xml:"NextMarker"`
}

func azBlobList(ctx context.Context, c *azCall) error {
	most := azBlobsMost
	switch text := c.one("num-results"); text {
	case "":
	case "*":
		most = 0
	default:
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return usagef("argument --num-results: invalid value: '%s'", text)
		}
		most = n
	}
	b, err := c.container(ctx, c.one("container-name"))
	if err != nil {
		return err
	}
	out := []any{}
	for marker, more := "", true; more && (most == 0 || len(out) < most); more = marker != "" {
		page, err := b.list(ctx, c.one("prefix"), c.one("delimiter"), marker)
		if err != nil {
			return err
		}
		for _, found := range page.Blobs {
			p := found.Properties
			out = append(out, azBlob{Name: found.Name, Container: b.name, Metadata: map[string]string{},
				Properties: azBlobProperties{
					Type: p.BlobType, Length: p.Length, ETag: p.ETag, Modified: blobTime(p.Modified), Created: blobTime(p.Created),
					Settings: azBlobSettings{MD5: p.MD5, Type: p.Type}}})
		}
		for _, prefix := range page.Prefixes {
			out = append(out, map[string]string{"name": prefix.Name})
		}
		if marker = page.Next; marker != "" && most > 0 && len(out) >= most {
			c.warn("there are more blobs; --num-results '*' lists all")
		}
	}
	if most > 0 {
		out = out[:min(len(out), most)]
	}
	return c.print(out)
}

func (b *azContainer) list(ctx context.Context, prefix, delimiter, marker string) (*azBlobPage, error) {
	query := []string{"restype", "container", "comp", "list"}
	for _, pair := range [][2]string{{"prefix", prefix}, {"delimiter", delimiter}, {"marker", marker}} {
		if pair[1] != "" {
			query = append(query, pair[0], pair[1])
		}
	}
	resp, err := b.ask(ctx, http.MethodGet, withQuery(b.url(""), query...))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	page := &azBlobPage{}
	if err := xml.NewDecoder(io.LimitReader(resp.Body, maxBlobListBytes)).Decode(page); err != nil {
		return nil, fmt.Errorf("read the listing: %w", err)
	}
	return page, nil
}

// azBlobDownload writes a blob to a file, which appears whole or not at all; without --file it writes to standard
// output.
func azBlobDownload(ctx context.Context, c *azCall) error {
	b, err := c.container(ctx, c.one("container-name"))
	if err != nil {
		return err
	}
	resp, err := b.ask(ctx, http.MethodGet, b.url(c.one("name")))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	file := c.one("file")
	if file == "" {
		_, err := io.Copy(c.Out, resp.Body)
		return err
	}
	if _, err := os.Stat(file); err == nil && c.values.has("overwrite") && !c.values.on("overwrite") {
		return fmt.Errorf("%s exists; give --overwrite", file)
	}
	temp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	defer os.Remove(temp.Name())
	_, err = io.Copy(temp, resp.Body)
	err = errors.Join(err, temp.Chmod(0o644), temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return c.print(b.shown(c.one("name"), resp))
}
