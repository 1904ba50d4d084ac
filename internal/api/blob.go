package api

import (
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"portico/internal/artifact"
	"portico/internal/control"
	"portico/internal/online"
)

// Bounds of uploads. The sizes are Azure's of service version 2019-12-12 and later.
const (
	MaxPutBytes       = 5000 << 20 // of a blob written in one piece
	MaxBlockBytes     = 4000 << 20 // of one block
	MaxBlockListBytes = 8 << 20    // of the XML that names blocks
	maxBlobPage       = 5000       // entries of one listing
	blobVersion       = "2023-11-03"
	metadataPrefix    = "x-ms-meta-"
)

// The blob service is the part of Azure's that clients need to upload and read the content of assets:
//
//	PUT    /blobs/C/NAME                          x-ms-blob-type: BlockBlob; If-None-Match: *; Content-MD5
//	PUT    /blobs/C/NAME?comp=block&blockid=B     PUT ...?comp=blocklist     GET ...?comp=blocklist
//	PUT    /blobs/C/NAME?comp=metadata            GET and HEAD ...?comp=metadata
//	GET    /blobs/C/NAME                          x-ms-range or Range        HEAD /blobs/C/NAME
//	DELETE /blobs/C/NAME
//	GET    /blobs/C?restype=container&comp=list   prefix delimiter marker maxresults include=metadata
//
// The same is served at https://ACCOUNT.blob.SUFFIX/C/NAME where the account has a name of its own, and at
// https://HOST/stor.blob.SUFFIX/C/NAME where it has not: both are read as /blobs/C/NAME.
//
// A request carries a grant that control signed in its query (sig=...), the signature of an account key, or the bearer
// token of a principal. Each of them says as whom blobs are written and read: see artifact.View.
func (a *API) routeBlobs() {
	for _, path := range []string{"/blobs/{container}", "/blobs/{container}/{$}", "/blobs/{container}/{name...}"} {
		a.mux.HandleFunc(path, func(_ http.ResponseWriter, r *http.Request) {
			b := &blobCall{call: r.Context().Value(callKey{}).(*call)}
			b.r = r
			if err := b.serve(); err != nil {
				b.failBlob(err)
			}
		})
	}
}

// serveBlob answers a request to the blob service; path is where blobPath found it.
func (a *API) serveBlob(c *call, r *http.Request, path string) {
	c.r = r
	c.w.Header().Set("x-ms-version", blobVersion)
	r = cleanBlobPath(r, path)
	if r == nil {
		(&blobCall{call: c}).failBlob(&blobError{http.StatusBadRequest, "InvalidUri",
			"the path holds an empty or relative segment"})
		return
	}
	if _, pattern := a.mux.Handler(r); pattern == "" {
		(&blobCall{call: c}).failBlob(&blobError{http.StatusBadRequest, "InvalidUri", "the path names no container"})
		return
	}
	a.mux.ServeHTTP(c.w, r)
}

// blobCall is one request to the blob service.
type blobCall struct {
	*call
	grant  control.Grant
	bearer bool // a principal with a token, to whom every operation is open
	blobs  artifact.View
}

// blobError is an error in the blob service's words.
type blobError struct {
	status  int
	code    string
	message string
}

func (e *blobError) Error() string { return e.code + ": " + e.message }

func (b *blobCall) serve() error {
	container, name := b.r.PathValue("container"), b.r.PathValue("name")
	if err := b.authorize(container); err != nil {
		return err
	}
	q := b.r.URL.Query()
	comp := q.Get("comp")
	if name == "" {
		if b.r.Method == http.MethodGet && q.Get("restype") == "container" && comp == "list" {
			return b.list(container, q)
		}
		return &blobError{http.StatusMethodNotAllowed, "UnsupportedHttpVerb", "a container can only be listed"}
	}
	full := container + "/" + name
	switch b.r.Method + " " + comp {
	case "PUT ":
		return b.guard(container, "cw", func() error { return b.put(full) })
	case "PUT block":
		return b.guard(container, "cw", func() error { return b.putBlock(full, q.Get("blockid")) })
	case "PUT blocklist":
		return b.guard(container, "cw", func() error { return b.commit(full) })
	case "PUT metadata":
		return b.guard(container, "w", func() error { return b.setMetadata(full) })
	case "GET ", "HEAD ", "HEAD metadata", "GET metadata":
		return b.guard(container, "r", func() error { return b.get(full, comp == "metadata") })
	case "GET blocklist":
		return b.guard(container, "r", func() error { return b.blocks(full, q.Get("blocklisttype")) })
	case "DELETE ":
		return b.guard(container, "d", func() error { return b.remove(full) })
	}
	return &blobError{http.StatusMethodNotAllowed, "UnsupportedHttpVerb",
		fmt.Sprintf("%.20s with comp=%.20s is not one of the operations that this blob service has", b.r.Method, comp)}
}

// authorize finds out who asks: by the grant of the query, the signature of an account key, or a bearer token.
func (b *blobCall) authorize(container string) error {
	var err error
	switch q := b.r.URL.Query(); {
	case q.Has("sig"):
		b.grant, err = b.api.Control.VerifyGrant(q, container)
	case strings.HasPrefix(b.r.Header.Get("Authorization"), sharedKeyScheme):
		b.grant, err = b.sharedKey(container)
	default:
		var who online.Principal
		if who, err = b.api.Access.Verify(b.r.Header.Get("Authorization")); err != nil {
			b.w.Header().Set("WWW-Authenticate", b.challenge(err))
		}
		b.bearer, b.grant.Owner = true, control.OwnerOf(who)
	}
	if err != nil {
		return err
	}
	b.blobs = b.api.Uploads.View(b.grant.Owner)
	return nil
}

func (b *blobCall) guard(container, permission string, do func() error) error {
	if !b.bearer && !b.grant.Allows(container, permission) {
		return &blobError{http.StatusForbidden, "AuthorizationPermissionMismatch",
			"the signature does not allow this operation on this blob"}
	}
	return do()
}

func (b *blobCall) put(name string) error {
	if t := b.r.Header.Get("x-ms-blob-type"); !strings.EqualFold(t, "BlockBlob") {
		return &blobError{http.StatusBadRequest, "InvalidHeaderValue", "x-ms-blob-type must be BlockBlob"}
	}
	if b.r.ContentLength < 0 {
		return &blobError{http.StatusLengthRequired, "MissingContentLengthHeader", "Content-Length is required"}
	}
	o := artifact.PutOptions{Size: b.r.ContentLength, MaxBytes: MaxPutBytes, ContentType: b.contentType(),
		Metadata: b.metadata()}
	var err error
	if o.MD5, err = b.md5(); err != nil {
		return err
	}
	if o.OnlyNew, err = b.onlyNew(name); err != nil {
		return err
	}
	blob, err := b.blobs.Put(b.r.Context(), name, b.r.Body, o)
	if err != nil {
		return err
	}
	return b.wrote(http.StatusCreated, blob)
}

// contentType is what readers of the blob will be told.
func (b *blobCall) contentType() string {
	if t := b.r.Header.Get("x-ms-blob-content-type"); t != "" {
		return t
	}
	return b.r.Header.Get("Content-Type")
}

func (b *blobCall) md5() ([]byte, error) {
	text := b.r.Header.Get("Content-MD5")
	if text == "" {
		return nil, nil
	}
	sum, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(sum) != 16 {
		return nil, &blobError{http.StatusBadRequest, "InvalidMd5", "Content-MD5 is not the base64 of 16 bytes"}
	}
	return sum, nil
}

// onlyNew reads the conditions of a write. If-Match is checked against what is there now.
func (b *blobCall) onlyNew(name string) (bool, error) {
	if want := b.r.Header.Get("If-Match"); want != "" {
		blob, err := b.blobs.Stat(name)
		if err != nil || want != "*" && want != blob.ETag {
			return false, &blobError{http.StatusPreconditionFailed, "ConditionNotMet",
				"If-Match names another version of the blob"}
		}
	}
	switch v := b.r.Header.Get("If-None-Match"); v {
	case "":
		return false, nil
	case "*":
		return true, nil
	default:
		return false, &blobError{http.StatusBadRequest, "InvalidHeaderValue", "If-None-Match can only be *"}
	}
}

// metadata collects the x-ms-meta- headers; names are kept in lower case.
func (b *blobCall) metadata() map[string]string {
	var out map[string]string
	for name, values := range b.r.Header {
		if key, ok := strings.CutPrefix(strings.ToLower(name), metadataPrefix); ok && key != "" && len(values) > 0 {
			if out == nil {
				out = map[string]string{}
			}
			out[key] = strings.Join(values, ",")
		}
	}
	return out
}

func (b *blobCall) putBlock(name, id string) error {
	if b.r.ContentLength < 0 {
		return &blobError{http.StatusLengthRequired, "MissingContentLengthHeader", "Content-Length is required"}
	}
	sum, err := b.md5()
	if err != nil {
		return err
	}
	err = b.blobs.PutBlock(b.r.Context(), name, id, b.r.Body, artifact.BlockOptions{Size: b.r.ContentLength,
		MaxBytes: MaxBlockBytes, MD5: sum})
	if err != nil {
		return err
	}
	b.w.Header().Set("x-ms-request-server-encrypted", "false")
	return b.empty(http.StatusCreated)
}

// blockList is the XML of Put Block List: an ordered list of three kinds of elements.
type blockList struct {
	XMLName xml.Name `xml:"BlockList"`
	Entries []struct {
		XMLName xml.Name
		ID      string `xml:",chardata"`
	} `xml:",any"`
}

func (b *blobCall) commit(name string) error {
	doc, err := io.ReadAll(io.LimitReader(b.r.Body, MaxBlockListBytes+1))
	if err != nil {
		return &blobError{http.StatusBadRequest, "InvalidInput", "the block list could not be read to its end"}
	}
	var list blockList
	if len(doc) > MaxBlockListBytes || xml.Unmarshal(doc, &list) != nil {
		return &blobError{http.StatusBadRequest, "InvalidXmlDocument", "the body is not a BlockList document"}
	}
	refs := make([]artifact.BlockRef, 0, len(list.Entries))
	for _, e := range list.Entries {
		from, ok := map[string]artifact.BlockSource{"Latest": artifact.BlockLatest,
			"Uncommitted": artifact.BlockUncommitted,
			"Committed":   artifact.BlockCommitted}[e.XMLName.Local]
		if !ok {
			return &blobError{http.StatusBadRequest, "InvalidXmlDocument",
				"a block list holds Latest, Committed and Uncommitted elements only"}
		}
		refs = append(refs, artifact.BlockRef{ID: strings.TrimSpace(e.ID), From: from})
	}
	o := artifact.CommitOptions{ContentType: b.r.Header.Get("x-ms-blob-content-type"), Metadata: b.metadata()}
	if text := b.r.Header.Get("x-ms-blob-content-md5"); text != "" {
		if o.MD5, err = base64.StdEncoding.DecodeString(text); err != nil {
			return &blobError{http.StatusBadRequest, "InvalidMd5", "x-ms-blob-content-md5 is not base64"}
		}
	}
	if o.OnlyNew, err = b.onlyNew(name); err != nil {
		return err
	}
	blob, err := b.blobs.CommitBlocks(b.r.Context(), name, refs, o)
	if err != nil {
		return err
	}
	return b.wrote(http.StatusCreated, blob)
}

func (b *blobCall) setMetadata(name string) error {
	blob, err := b.blobs.SetMetadata(name, b.metadata())
	if err != nil {
		return err
	}
	return b.wrote(http.StatusOK, blob)
}

// wrote answers a write.
func (b *blobCall) wrote(status int, blob artifact.Blob) error {
	b.stamp(blob)
	b.w.Header().Set("x-ms-request-server-encrypted", "false")
	return b.empty(status)
}

func (b *blobCall) stamp(blob artifact.Blob) {
	h := b.w.Header()
	h.Set("ETag", blob.ETag)
	h.Set("Last-Modified", blob.Modified.UTC().Format(http.TimeFormat))
}

func (b *blobCall) describe(blob artifact.Blob) {
	b.stamp(blob)
	h := b.w.Header()
	h.Set("x-ms-blob-type", "BlockBlob")
	h.Set("x-ms-creation-time", blob.Modified.UTC().Format(http.TimeFormat))
	h.Set("Accept-Ranges", "bytes")
	for k, v := range blob.Metadata {
		// As it is kept, in lower case: clients compare the rest of the name with regard to case.
		h[metadataPrefix+k] = []string{v}
	}
}

func (b *blobCall) get(name string, metadataOnly bool) error {
	if strings.HasSuffix(name, "/") { // the Python SDK asks so whether there is a folder
		return artifact.ErrNotFound
	}
	blob, body, err := b.blobs.Open(name)
	if err != nil {
		return err
	}
	defer body.Close()
	b.describe(blob)
	h := b.w.Header()
	if metadataOnly {
		return b.empty(http.StatusOK)
	}
	if h.Set("Content-Type", blob.ContentType); blob.ContentType == "" {
		h.Set("Content-Type", "application/octet-stream")
	}
	first, length, partial, err := byteRange(b.r, blob.Size)
	if err != nil {
		h.Set("Content-Range", fmt.Sprintf("bytes */%d", blob.Size))
		return err
	}
	status := http.StatusOK
	if len(blob.MD5) > 0 {
		sum := base64.StdEncoding.EncodeToString(blob.MD5)
		if partial {
			h.Set("x-ms-blob-content-md5", sum)
		} else {
			h.Set("Content-MD5", sum)
		}
	}
	if partial {
		status = http.StatusPartialContent
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, first+length-1, blob.Size))
	}
	h.Set("Content-Length", strconv.FormatInt(length, 10))
	if _, err := body.Seek(first, io.SeekStart); err != nil {
		return fmt.Errorf("read blob %s: %w", name, err)
	}
	b.w.WriteHeader(status)
	if b.r.Method == http.MethodHead {
		return nil
	}
	if _, err := io.CopyN(b.w, body, length); err != nil && b.r.Context().Err() == nil {
		b.api.Logger.Debug("a download was cut off", "request_id", b.requestID, "blob", name, "error", err)
	}
	return nil
}

// byteRange reads x-ms-range, or Range: one range "bytes=A-B" or "bytes=A-". Other forms of Range are ignored, as
// HTTP allows. An empty blob has no range that could be answered; the Python SDK then asks for all of it.
func byteRange(r *http.Request, size int64) (first, length int64, partial bool, err error) {
	text := r.Header.Get("x-ms-range")
	if text == "" {
		text = r.Header.Get("Range")
	}
	spec, ok := strings.CutPrefix(text, "bytes=")
	from, to, dash := strings.Cut(spec, "-")
	if !ok || !dash || from == "" {
		return 0, size, false, nil
	}
	first, understood := decimal(from)
	last := size - 1
	if to != "" {
		var ok bool
		last, ok = decimal(to)
		understood = understood && ok && last >= first
	}
	if !understood {
		return 0, size, false, nil
	}
	if first >= size {
		return 0, 0, false, &blobError{http.StatusRequestedRangeNotSatisfiable, "InvalidRange",
			"the range begins after the end of the blob"}
	}
	last = min(last, size-1)
	return first, last - first + 1, true, nil
}

func decimal(s string) (int64, bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n >= 0
}

func (b *blobCall) remove(name string) error {
	if err := b.blobs.Delete(name); err != nil {
		return err
	}
	return b.empty(http.StatusAccepted)
}

// blockListing is the answer of Get Block List.
type blockListing struct {
	XMLName     xml.Name   `xml:"BlockList"`
	Committed   *blockSpan `xml:"CommittedBlocks"`
	Uncommitted *blockSpan `xml:"UncommittedBlocks"`
}

type blockSpan struct {
	Blocks []blockEntry `xml:"Block"`
}

type blockEntry struct {
	Name string `xml:"Name"`
	Size int64  `xml:"Size"`
}

func (b *blobCall) blocks(name, which string) error {
	committed, uncommitted, err := b.blobs.Blocks(name)
	if err != nil {
		return err
	}
	var out blockListing
	if which = strings.ToLower(which); which == "" || which == "committed" || which == "all" {
		out.Committed = listBlocks(committed)
	}
	if which == "uncommitted" || which == "all" {
		out.Uncommitted = listBlocks(uncommitted)
	}
	return b.xml(http.StatusOK, out)
}

func listBlocks(blocks []artifact.Block) *blockSpan {
	var s blockSpan
	for _, bl := range blocks {
		s.Blocks = append(s.Blocks, blockEntry{bl.ID, bl.Size})
	}
	return &s
}

// xml answers with a document.
func (b *blobCall) xml(status int, v any) error {
	doc, err := xml.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode an answer: %w", err)
	}
	b.w.Header().Set("Content-Type", "application/xml")
	b.w.WriteHeader(status)
	if b.r.Method != http.MethodHead {
		_, _ = b.w.Write(append([]byte(xml.Header), doc...)) // a client that is gone is not told
	}
	return nil
}

// failBlob answers with an error in the blob service's words.
func (b *blobCall) failBlob(err error) {
	if b.r.Context().Err() != nil {
		return // the client is gone
	}
	be := b.blobError(err)
	h := b.w.Header()
	h.Set("x-ms-error-code", be.code)
	h.Del("Content-Length")
	message := be.message + "\nRequestId:" + b.requestID + "\nTime:" + time.Now().UTC().Format(time.RFC3339)
	type document struct {
		XMLName xml.Name `xml:"Error"`
		Code    string   `xml:"Code"`
		Message string   `xml:"Message"`
	}
	// Encoding two strings cannot fail.
	_ = b.xml(be.status, document{Code: be.code, Message: message})
}

// blobError finds the words for an error. What no user can act on is logged.
func (b *blobCall) blobError(err error) *blobError {
	var be *blobError
	if errors.As(err, &be) {
		return be
	}
	switch {
	case errors.Is(err, artifact.ErrNotFound):
		return &blobError{http.StatusNotFound, "BlobNotFound", "the blob does not exist"}
	case errors.Is(err, artifact.ErrExists):
		return &blobError{http.StatusConflict, "BlobAlreadyExists", "the blob exists"}
	case errors.Is(err, artifact.ErrFull):
		b.api.Logger.Warn("no space for an upload", "request_id", b.requestID, "error", err)
		return &blobError{http.StatusServiceUnavailable, "ServerBusy",
			"the server's disk is full; free space and try again"}
	}
	e, known := online.AsError(err)
	if !known {
		b.api.Logger.Error("blob request failed", "request_id", b.requestID, "method", b.r.Method, "path", b.r.URL.Path,
			"error", err)
		return &blobError{http.StatusInternalServerError, "InternalError",
			"the server failed; its log tells more under the request id"}
	}
	code := map[online.Code]string{online.CodeUnauthorized: "NoAuthenticationInformation",
		online.CodeForbidden: "AuthenticationFailed",
		online.CodeTooLarge:  "RequestBodyTooLarge"}[e.Code]
	switch {
	case e.Target == "Content-MD5":
		code = "Md5Mismatch"
	case code == "":
		code = "InvalidInput"
	}
	return &blobError{e.HTTPStatus(), code, e.Message}
}
