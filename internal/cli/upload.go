package cli

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"portico/internal/artifact"
)

// Bounds of an upload.
const (
	uploadParallel = 8               // files or blocks on their way at once
	blockBytes     = 8 << 20         // a file above this goes in blocks of this size
	uploadTimeout  = 5 * time.Minute // of one block
	uploadAttempts = 4               // of one block; sending it again does no harm
	maxUploadFiles = 100_000         // in one folder
	progressEvery  = 200 * time.Millisecond
)

// tree is a file or folder that is ready to be uploaded.
type tree struct {
	root   string // path on this machine
	name   string // of the file or folder; the server keeps it
	isFile bool
	files  []treeFile
	bytes  int64
	hash   string // SHA-256 over names and contents, hexadecimal
	digest string // that the server must find in what it has of this tree
}

type treeFile struct {
	rel  string // slash-separated, below root; the file's own name for a single file
	size int64
	exec bool
}

// scanTree lists what is below a path and hashes it. Folders lose what their ignore files name; a single file is
// taken as it is.
func scanTree(ctx context.Context, root string) (*tree, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", root, err)
	}
	info, err := os.Stat(abs)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, usagef("%s does not exist", root)
	}
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", root, err)
	}
	t := &tree{root: abs, name: filepath.Base(abs), isFile: info.Mode().IsRegular()}
	switch {
	case t.isFile:
		t.files = []treeFile{{rel: t.name, size: info.Size(), exec: info.Mode()&0o111 != 0}}
	case !info.IsDir():
		return nil, usagef("%s is neither a file nor a folder", root)
	default:
		if err := t.walk(); err != nil {
			return nil, err
		}
		if len(t.files) == 0 {
			return nil, usagef("%s holds no file to upload", root)
		}
	}
	for _, f := range t.files {
		t.bytes += f.size
	}
	return t, t.sum(ctx)
}

func (t *tree) walk() error {
	ignore, err := loadIgnore(t.root)
	if err != nil {
		return err
	}
	err = filepath.WalkDir(t.root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == t.root {
			return err
		}
		rel, err := filepath.Rel(t.root, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if ignore.match(rel, d.IsDir()) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.IsDir() {
			return nil
		}
		// Stat follows links: what a link points to is uploaded in its place, as Azure's client does.
		info, err := os.Stat(p)
		if err != nil {
			return err
		}
		if info.IsDir() {
			return usagef("%s is a link to a folder; copy the folder there, or name it in %s", p, ignoreFiles[0])
		}
		if !info.Mode().IsRegular() {
			return usagef("%s is not a regular file; name it in %s to leave it out", p, ignoreFiles[0])
		}
		if len(t.files) == maxUploadFiles {
			return usagef("%s holds more than %d files; pack them into one archive", t.root, maxUploadFiles)
		}
		t.files = append(t.files, treeFile{rel: rel, size: info.Size(), exec: info.Mode()&0o111 != 0})
		return nil
	})
	if err != nil {
		return fmt.Errorf("list %s: %w", t.root, err)
	}
	slices.SortFunc(t.files, func(a, b treeFile) int { return strings.Compare(a.rel, b.rel) })
	return nil
}

func (t *tree) path(f treeFile) string {
	if t.isFile {
		return t.root
	}
	return filepath.Join(t.root, filepath.FromSlash(f.rel))
}

// sum hashes name, size and content of every file, so that the same content has the same hash wherever it lies.
func (t *tree) sum(ctx context.Context) error {
	sums := make([][]byte, len(t.files))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(uploadParallel)
	for i, f := range t.files {
		group.Go(func() error {
			file, err := os.Open(t.path(f))
			if err != nil {
				return fmt.Errorf("read a file to upload: %w", err)
			}
			defer file.Close()
			h := sha256.New()
			if _, err := io.Copy(h, contextReader{ctx, file}); err != nil {
				return fmt.Errorf("read %s: %w", file.Name(), err)
			}
			sums[i] = h.Sum(nil)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	all := sha256.New()
	uploaded := make([]artifact.File, len(t.files))
	for i, f := range t.files {
		uploaded[i] = artifact.File{Path: f.rel, Size: f.size, Sum: [sha256.Size]byte(sums[i])}
		fmt.Fprintf(all, "%s\x00%d\x00%t\x00%x\n", f.rel, f.size, f.exec, sums[i])
	}
	fmt.Fprintf(all, "%s\x00%t", t.name, t.isFile)
	t.hash, t.digest = hex.EncodeToString(all.Sum(nil)), artifact.DigestOf(uploaded)
	return nil
}

// contextReader ends a long copy with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// uploader sends a tree to the place that the server named.
type uploader struct {
	client   *client
	progress *progress
	slots    chan struct{} // one for each request that may be on its way
	onlyNew  bool          // a blob that exists is an error
	sent     atomic.Int64
}

func newUploader(c *client, p *progress) *uploader {
	return &uploader{client: c, progress: p, slots: make(chan struct{}, uploadParallel)}
}

// upload sends every file of t below the SAS URI, in a folder (or as a blob) of t's name.
func (u *uploader) upload(ctx context.Context, t *tree, sasURI string) error {
	base, err := url.Parse(sasURI)
	if err != nil {
		return fmt.Errorf("read the server's upload address: %w", err)
	}
	start := time.Now()
	stop := u.report(t)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(uploadParallel)
	for _, f := range t.files {
		name := path.Join(t.name, f.rel)
		if t.isFile {
			name = t.name
		}
		target := *base
		target.Path, target.RawPath = strings.TrimRight(base.Path, "/")+"/"+name, ""
		group.Go(func() error {
			if f.size > blockBytes {
				return u.blocks(ctx, t.path(f), f.size, target)
			}
			h := u.condition()
			h.Set("X-Ms-Blob-Type", "BlockBlob")
			return u.part(ctx, t.path(f), 0, f.size, target, h)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	stop()
	u.progress.line("Uploaded %s: %d file%s, %s (%s)", t.name, len(t.files), plural(len(t.files)), byteCount(t.bytes),
		time.Since(start).Round(10*time.Millisecond))
	return nil
}

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}

// report shows how much is sent until the returned function is called; calling it again does nothing.
func (u *uploader) report(t *tree) func() {
	done, ended := make(chan struct{}), make(chan struct{})
	var stopped atomic.Bool
	go func() {
		defer close(ended)
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				u.progress.status("Uploading %s: %s of %s", t.name, byteCount(u.sent.Load()), byteCount(t.bytes))
			case <-done:
				return
			}
		}
	}()
	return func() {
		if stopped.CompareAndSwap(false, true) {
			close(done)
		}
		<-ended
	}
}

// blocks sends a large file in parts and then the list that joins them.
func (u *uploader) blocks(ctx context.Context, file string, size int64, target url.URL) error {
	count := int((size + blockBytes - 1) / blockBytes)
	ids := make([]string, count)
	parts, partsCtx := errgroup.WithContext(ctx)
	parts.SetLimit(uploadParallel)
	for i := range count {
		ids[i] = base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "block-%08d", i))
		offset := int64(i) * blockBytes
		block := withQuery(target, "comp", "block", "blockid", ids[i])
		parts.Go(func() error {
			return u.part(partsCtx, file, offset, min(blockBytes, size-offset), block, http.Header{})
		})
	}
	if err := parts.Wait(); err != nil {
		return err
	}
	list := `<?xml version="1.0" encoding="utf-8"?><BlockList><Latest>` + strings.Join(ids,
		"</Latest><Latest>") + "</Latest></BlockList>"
	h := u.condition()
	h.Set("Content-Type", "application/xml")
	return u.send(ctx, withQuery(target, "comp", "blocklist"), h, int64(len(list)),
		func() io.Reader { return strings.NewReader(list) })
}

// condition is the header of the request that makes a blob.
func (u *uploader) condition() http.Header {
	h := http.Header{}
	if u.onlyNew {
		h.Set("If-None-Match", "*")
	}
	return h
}

func withQuery(u url.URL, pairs ...string) url.URL {
	q := u.Query()
	for i := 0; i+1 < len(pairs); i += 2 {
		q.Set(pairs[i], pairs[i+1])
	}
	u.RawQuery = q.Encode()
	return u
}

// part sends size bytes of a file from offset, with their MD5 so that the server can refuse what changed on the way.
func (u *uploader) part(ctx context.Context, name string, offset, size int64, target url.URL, h http.Header) error {
	file, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("read a file to upload: %w", err)
	}
	defer file.Close()
	sum := md5.New()
	n, err := io.Copy(sum, contextReader{ctx, io.NewSectionReader(file, offset, size)})
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("read %s to upload it: %w", name, err)
	}
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-MD5", base64.StdEncoding.EncodeToString(sum.Sum(nil)))
	if err := u.send(ctx, target, h, size, func() io.Reader {
		return io.NewSectionReader(file, offset,
			size)
	}); err != nil {
		return err
	}
	u.sent.Add(size)
	return nil
}

// send puts one body, and does so again a few times while the server cannot be reached.
func (u *uploader) send(ctx context.Context, target url.URL, h http.Header, size int64, body func() io.Reader) error {
	select {
	case u.slots <- struct{}{}:
		defer func() { <-u.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	delay := firstRetryDelay
	for attempt := 1; ; attempt++ {
		status, err := u.sendOnce(ctx, target, h, size, body())
		if err == nil || attempt == uploadAttempts || ctx.Err() != nil || status != 0 && !restarting(status) {
			return err
		}
		if err := sleep(ctx, delay); err != nil {
			return err
		}
		delay *= 2
	}
}

// sendOnce gives the status with the error; 0 when there was no answer.
func (u *uploader) sendOnce(ctx context.Context, target url.URL, h http.Header, size int64, body io.Reader) (int, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, uploadTimeout, fmt.Errorf("not sent within %s", uploadTimeout))
	defer cancel()
	if size == 0 {
		body = http.NoBody
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, target.String(), body)
	if err != nil {
		return 0, fmt.Errorf("make the upload request: %w", err)
	}
	req.Header, req.ContentLength = h.Clone(), size
	req.Header.Set("User-Agent", u.client.agent)
	resp, err := u.client.http.Do(req)
	if err != nil {
		return 0, u.client.unreachable(ctx, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes))
	if err != nil {
		return 0, u.client.unreachable(ctx, err)
	}
	if resp.StatusCode < 300 {
		return resp.StatusCode, nil
	}
	return resp.StatusCode, fmt.Errorf("upload %s: %w", path.Base(target.Path),
		serviceError(&answer{resp.StatusCode, resp.Header, text}))
}

func byteCount(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, suffix := float64(n)/unit, "KiB"
	for _, s := range []string{"MiB", "GiB", "TiB"} {
		if value < unit {
			break
		}
		value, suffix = value/unit, s
	}
	return fmt.Sprintf("%.1f %s", value, suffix)
}
