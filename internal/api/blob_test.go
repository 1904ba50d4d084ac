package api

import (
	"crypto/md5" //nolint:gosec // the wire's checksum
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"
)

// box is a container with a grant for it.
func (s *site) box() (base, query string) {
	s.t.Helper()
	up := s.do("POST", wsPath+"/models/m/versions/1/startPendingUpload", "").want(200)
	sas, _ := up.get("blobReferenceForConsumption.credential.sasUri").(string)
	base, query, _ = strings.Cut(sas, "?")
	return base, query
}

// blob sends a request with the grant and no token.
func (s *site) blob(method, path, query, body string, header ...string) answer {
	s.t.Helper()
	return s.do(method, path+"?"+query, body, append([]string{"Authorization", ""}, header...)...)
}

func (a answer) wantBlobError(status int, code string) {
	a.t.Helper()
	a.want(status)
	var doc struct{ Code, Message string }
	err := xml.Unmarshal([]byte(a.body), &doc)
	if a.header.Get("x-ms-error-code") != code || err != nil || doc.Code != code {
		a.t.Fatalf("error %q, %+v, %v, want %s", a.header.Get("x-ms-error-code"), doc, err, code)
	}
}

// TestBlobUpload goes the way of the Python SDK: look, put, confirm by metadata, look again, read.
func TestBlobUpload(t *testing.T) {
	s := newSite(t)
	base, q := s.box()
	file := base + "/src/score.py"
	miss := s.blob("HEAD", file, q, "").want(404)
	if miss.header.Get("x-ms-error-code") != "BlobNotFound" {
		t.Errorf("%v", miss.header)
	}
	text := "def run(d): return d\n"
	sum := md5.Sum([]byte(text)) //nolint:gosec // the wire's checksum
	put := s.blob("PUT", file, q, text, "x-ms-blob-type", "BlockBlob", "If-None-Match", "*",
		"Content-MD5", base64.StdEncoding.EncodeToString(sum[:]), "Content-Type", "text/x-python").want(201)
	if put.header.Get("ETag") == "" || put.header.Get("x-ms-request-id") == "" {
		t.Errorf("%v", put.header)
	}
	if _, err := time.Parse("Mon, 02 Jan 2006 15:04:05 GMT", put.header.Get("Last-Modified")); err != nil {
		t.Error(err)
	}
	s.blob("PUT", file, q, "other", "x-ms-blob-type", "BlockBlob", "If-None-Match", "*").wantBlobError(409,
		"BlobAlreadyExists")
	s.blob("PUT", file, q+"&comp=metadata", "", "x-ms-meta-upload_status", "completed", "x-ms-meta-Name", "c").want(200)
	head := s.blob("HEAD", file, q, "").want(200)
	if head.header.Get("x-ms-meta-upload_status") != "completed" || head.header.Get("x-ms-meta-name") != "c" || head.header.Get("Content-Length") != fmt.Sprint(len(text)) {
		t.Errorf("%v", head.header)
	}
	get := s.blob("GET", file, q, "").want(200)
	if get.body != text || get.header.Get("Content-Type") != "text/x-python" || get.header.Get("Content-MD5") == "" {
		t.Errorf("%q %v", get.body, get.header)
	}
	for spec, want := range map[string]string{"bytes=0-2": "def", "bytes=17-33554431": text[17:], "bytes=4-": text[4:]} {
		a := s.blob("GET", file, q, "", "x-ms-range", spec).want(206)
		if a.body != want || !strings.HasSuffix(a.header.Get("Content-Range"), fmt.Sprintf("/%d", len(text))) {
			t.Errorf("%s: %q %v", spec, a.body, a.header)
		}
	}
	s.blob("GET", file, q, "", "Range", "bytes=99-").wantBlobError(416, "InvalidRange")
	s.blob("PUT", base+"/empty", q, "", "x-ms-blob-type", "BlockBlob").want(201)
	s.blob("GET", base+"/empty", q, "", "x-ms-range", "bytes=0-33554431").wantBlobError(416, "InvalidRange")
	if a := s.blob("GET", base+"/empty", q, "").want(200); a.body != "" || a.header.Get("Content-Length") != "0" {
		t.Error(a.body, a.header)
	}
	s.blob("HEAD", base+"/src/", q, "").want(404) // whether there is a folder
}

func TestBlobBlocks(t *testing.T) {
	s := newSite(t)
	base, q := s.box()
	file := base + "/model.bin"
	var list strings.Builder
	list.WriteString("<?xml version='1.0' encoding='utf-8'?>\n<BlockList>")
	for i := range 3 {
		id := base64.StdEncoding.EncodeToString([]byte(fmt.Sprintf("block-%02d", i)))
		s.blob("PUT", file, q+"&comp=block&blockid="+url.QueryEscape(id), strings.Repeat(fmt.Sprint(i), 4)).want(201)
		fmt.Fprintf(&list, "<Latest>%s</Latest>", id)
	}
	list.WriteString("</BlockList>")
	s.blob("HEAD", file, q, "").want(404)
	if a := s.blob("GET", file, q+"&comp=blocklist&blocklisttype=all", "").want(200); strings.Count(a.body,
		"<Size>4</Size>") != 3 {
		t.Errorf("uncommitted blocks: %s", a.body)
	}
	s.blob("PUT", file, q+"&comp=blocklist", list.String(), "x-ms-meta-a", "b", "x-ms-blob-content-type",
		"application/x-thing").want(201)
	if a := s.blob("GET", file, q, "").want(200); a.body != "000011112222" || a.header.Get("x-ms-meta-a") != "b" || a.header.Get("Content-Type") != "application/x-thing" {
		t.Errorf("%q %v", a.body, a.header)
	}
	for what, body := range map[string]string{"not XML": "garbage",
		"other element": "<BlockList><Oldest>x</Oldest></BlockList>", "other document": "<Blocks/>"} {
		if a := s.blob("PUT", file, q+"&comp=blocklist",
			body); a.header.Get("x-ms-error-code") != "InvalidXmlDocument" || a.status != 400 {
			t.Errorf("%s: %d %s", what, a.status, a.body)
		}
	}
	if a := s.blob("PUT", file, q+"&comp=blocklist",
		"<BlockList><Latest>bm9uZQ==</Latest></BlockList>"); a.status != 400 {
		t.Errorf("a block that was never sent: %d %s", a.status, a.body)
	}
}

func TestBlobListing(t *testing.T) {
	s := newSite(t)
	base, q := s.box()
	for _, name := range []string{"a/1", "a/2", "a/b/3", "c", "d%20e"} {
		s.blob("PUT", base+"/"+name, q, name, "x-ms-blob-type", "BlockBlob", "x-ms-meta-k", "v").want(201)
	}
	list := func(more string) (names, folders []string, next, body string) {
		t.Helper()
		a := s.blob("GET", base, q+"&restype=container&comp=list"+more, "").want(200)
		var doc struct {
			Blobs struct {
				Blob       []struct{ Name string }
				BlobPrefix []struct{ Name string }
			}
			NextMarker string
		}
		if err := xml.Unmarshal([]byte(a.body), &doc); err != nil {
			t.Fatalf("%v in %s", err, a.body)
		}
		for _, b := range doc.Blobs.Blob {
			names = append(names, b.Name)
		}
		for _, p := range doc.Blobs.BlobPrefix {
			folders = append(folders, p.Name)
		}
		return names, folders, doc.NextMarker, a.body
	}
	names, _, next, body := list("&include=metadata")
	if strings.Join(names, ",") != "a/1,a/2,a/b/3,c,d e" || next != "" || strings.Count(body, "<k>v</k>") != 5 {
		t.Errorf("all: %v %q %s", names, next, body)
	}
	if names, folders, _, _ := list("&delimiter=/"); strings.Join(names, ",") != "c,d e" || strings.Join(folders,
		",") != "a/" {
		t.Errorf("top: %v %v", names, folders)
	}
	if names, folders, _, _ := list("&delimiter=/&prefix=a/"); strings.Join(names,
		",") != "a/1,a/2" || strings.Join(folders, ",") != "a/b/" {
		t.Errorf("in a: %v %v", names, folders)
	}
	var all []string
	for marker := ""; ; {
		names, folders, next, _ := list("&maxresults=2&delimiter=/&marker=" + marker)
		all = append(append(all, folders...), names...)
		if marker = next; marker == "" || len(all) > 9 {
			break
		}
	}
	if strings.Join(all, ",") != "a/,c,d e" {
		t.Errorf("pages: %v", all)
	}
	if a := s.blob("GET", base, q+"&restype=container&comp=list&maxresults=0", ""); a.status != 400 {
		t.Errorf("maxresults 0: %d", a.status)
	}
}

// TestBlobGrants tries what a grant does not cover.
func TestBlobGrants(t *testing.T) {
	s := newSite(t)
	base, q := s.box()
	other, _ := s.box()
	put := func(path, query string, header ...string) answer {
		return s.blob("PUT", path, query, "x", append([]string{"x-ms-blob-type", "BlockBlob"}, header...)...)
	}
	put(base+"/x", q).want(201)
	put(other+"/x", q).wantBlobError(403, "AuthenticationFailed")
	put(base+"/x", strings.Replace(q, "sp=rcwl", "sp=rcwld", 1)).wantBlobError(403, "AuthenticationFailed")
	put(base+"/x", "").wantBlobError(401, "NoAuthenticationInformation")
	s.blob("DELETE", base+"/x", q, "").wantBlobError(403, "AuthorizationPermissionMismatch")
	s.blob("GET", other+"/../"+strings.TrimPrefix(base, s.URL+"/blobs/")+"/x", q, "").wantBlobError(400, "InvalidUri")
	s.do("GET", base+"/x", "").want(200) // a principal with a token needs no grant
	s.do("DELETE", base+"/x", "").want(202)
	s.do("GET", base+"/x", "").wantBlobError(404, "BlobNotFound")
	s.Pass(2 * time.Hour)
	put(base+"/x", q).wantBlobError(403, "AuthenticationFailed")
}

func TestBadBlobRequests(t *testing.T) {
	s := newSite(t)
	base, q := s.box()
	for _, c := range []struct {
		what, method, path, query string
		header                    []string
		status                    int
	}{
		{"other type", "PUT", base + "/x", q, []string{"x-ms-blob-type", "PageBlob"}, 400},
		{"wrong checksum", "PUT", base + "/x", q, []string{"x-ms-blob-type", "BlockBlob", "Content-MD5",
			"AAAAAAAAAAAAAAAAAAAAAA=="}, 400},
		{"bad checksum", "PUT", base + "/x", q, []string{"x-ms-blob-type", "BlockBlob", "Content-MD5", "x"}, 400},
		{"condition", "PUT", base + "/x", q, []string{"x-ms-blob-type", "BlockBlob", "If-None-Match", "\"1\""}, 400},
		{"If-Match on nothing", "PUT", base + "/x", q, []string{"x-ms-blob-type", "BlockBlob", "If-Match", "*"}, 412},
		{"climbing", "PUT", base + "/a/%2e%2e/x", q, []string{"x-ms-blob-type", "BlockBlob"}, 400},
		{"climbing once decoded", "PUT", base + "/a%2f%2e%2e%2fx", q, []string{"x-ms-blob-type", "BlockBlob"}, 400},
		{"absolute", "PUT", base + "/%2fetc/x", q, []string{"x-ms-blob-type", "BlockBlob"}, 400},
		{"empty part", "PUT", base + "/a//x", q, []string{"x-ms-blob-type", "BlockBlob"}, 400},
		{"NUL", "PUT", base + "/a%00", q, []string{"x-ms-blob-type", "BlockBlob"}, 400},
		{"bad block id", "PUT", base + "/x", q + "&comp=block&blockid=%20", nil, 400},
		{"method", "POST", base + "/x", q, nil, 405},
		{"other comp", "PUT", base + "/x", q + "&comp=lease", nil, 405},
		{"container", "PUT", base, q + "&restype=container", nil, 405},
		{"marker", "GET", base, q + "&restype=container&comp=list&marker=%20", nil, 400},
	} {
		t.Run(c.what, func(t *testing.T) {
			a := s.blob(c.method, c.path, c.query, "text", c.header...)
			a.t = t
			a.want(c.status)
		})
	}
	if a := s.blob("GET", base, q+"&restype=container&comp=list", ""); strings.Contains(a.body, "<Name>") {
		t.Errorf("refused uploads left something: %s", a.body)
	}
}
