package artifact

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // the wire's checksum
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"pgregory.net/rapid"

	"portico/internal/durable"
	"portico/internal/online"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 500, time.UTC)

func openUploads(t *testing.T, dir string) *Uploads {
	t.Helper()
	u, err := OpenUploads(dir, func() time.Time { return noon })
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func options(text string) PutOptions {
	sum := md5.Sum([]byte(text)) //nolint:gosec // the wire's checksum
	return PutOptions{Size: int64(len(text)), MaxBytes: 1 << 20, MD5: sum[:], ContentType: "application/octet-stream"}
}

func put(t *testing.T, u *Uploads, name, text string) Blob {
	t.Helper()
	b, err := u.Put(t.Context(), name, strings.NewReader(text), options(text))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func read(t *testing.T, u *Uploads, name string) string {
	t.Helper()
	_, r, err := u.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// dataFiles counts the files of bytes, so that tests see what is left behind.
func dataFiles(t *testing.T, u *Uploads) int {
	t.Helper()
	names, err := os.ReadDir(filepath.Join(u.dir, dataName))
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

func TestPutBlob(t *testing.T) {
	dir := t.TempDir()
	u := openUploads(t, dir)
	const name = "store/LocalUpload/abc/model.pkl"
	first := put(t, u, name, "weights")
	if first.Size != 7 || !first.Modified.Equal(noon.Truncate(time.Second)) || first.ContentType != "application/octet-stream" || !strings.HasPrefix(first.ETag, `"0x`) {
		t.Errorf("put gave %+v", first)
	}
	o := options("other")
	o.OnlyNew = true
	if _, err := u.Put(t.Context(), name, strings.NewReader("other"), o); !errors.Is(err, ErrExists) {
		t.Errorf("If-None-Match over a blob: %v", err)
	}
	if got := read(t, u, name); got != "weights" {
		t.Errorf("the blob holds %q", got)
	}
	_, r, err := u.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	second := put(t, u, name, "replaced")
	if second.ETag == first.ETag {
		t.Error("another content has the same ETag")
	}
	if _, err := r.Seek(2, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	part := make([]byte, 3)
	if _, err := io.ReadFull(r, part); err != nil || string(part) != "igh" {
		t.Errorf("a reader keeps the blob that it opened: %q, %v", part, err)
	}
	third, err := u.SetMetadata(name, map[string]string{"upload_status": "completed"})
	if err != nil || third.ETag == second.ETag || third.Metadata["upload_status"] != "completed" || third.Size != 8 {
		t.Errorf("metadata: %+v, %v", third, err)
	}
	if n := dataFiles(t, u); n != 1 {
		t.Errorf("%d files hold one blob", n)
	}

	again := openUploads(t, dir)
	got, err := again.Stat(name)
	if err != nil || got.ETag != third.ETag || got.Metadata["upload_status"] != "completed" || !got.Modified.Equal(third.Modified) || !bytes.Equal(got.MD5, third.MD5) {
		t.Errorf("after a restart: %+v, %v", got, err)
	}
	if text := read(t, again, name); text != "replaced" {
		t.Errorf("after a restart the blob holds %q", text)
	}
	if err := again.Delete(name); err != nil {
		t.Fatal(err)
	}
	if err := again.Delete(name); !errors.Is(err, ErrNotFound) {
		t.Errorf("a second delete: %v", err)
	}
	if _, err := again.Stat(name); !errors.Is(err, ErrNotFound) {
		t.Errorf("stat of a deleted blob: %v", err)
	}
	if _, _, err := again.Open(name); !errors.Is(err, ErrNotFound) {
		t.Errorf("open of a deleted blob: %v", err)
	}
	if _, err := again.SetMetadata(name, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("metadata of a deleted blob: %v", err)
	}
	if n := dataFiles(t, again); n != 0 {
		t.Errorf("%d files are left", n)
	}
}

func TestPutRefuses(t *testing.T) {
	u := openUploads(t, t.TempDir())
	broken := errors.New("hung up")
	for name, c := range map[string]struct {
		r    io.Reader
		edit func(*PutOptions)
		want func(error) bool
	}{
		"short":     {strings.NewReader("weigh"), nil, isCode(online.CodeBadArgument)},
		"long":      {strings.NewReader("weights and more"), nil, isCode(online.CodeBadArgument)},
		"damaged":   {strings.NewReader("wEights"), nil, isCode(online.CodeBadArgument)},
		"announced": {strings.NewReader("weights"), func(o *PutOptions) { o.MaxBytes = 6 }, isCode(online.CodeTooLarge)},
		"endless":   {endless{}, func(o *PutOptions) { o.Size, o.MaxBytes = -1, 1<<20 }, isCode(online.CodeTooLarge)},
		"hung up": {io.MultiReader(strings.NewReader("wei"), iotest.ErrReader(broken)), nil,
			func(err error) bool { return errors.Is(err, broken) }},
		"metadata": {strings.NewReader("weights"), func(o *PutOptions) { o.Metadata = map[string]string{"k": strings.Repeat("x", MaxMetadataBytes)} },
			isCode(online.CodeBadArgument)},
	} {
		o := options("weights")
		if c.edit != nil {
			c.edit(&o)
		}
		if _, err := u.Put(t.Context(), "c/b", c.r, o); !c.want(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := u.Put(ctx, "c/b", strings.NewReader("weights"), options("weights")); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	for _, name := range []string{"", "c", "/c/b", "c//b", "c/b/", "c/../b", "c/./b", "c/\x00", "c/\n", "c/\xff", "c/" + strings.Repeat("x", 256),
		"c/" + strings.Repeat("x/", 600) + "x"} {
		o := options("weights")
		if _, err := u.Put(t.Context(), name, strings.NewReader("weights"), o); !online.IsCode(err, online.CodeBadArgument) {
			t.Errorf("name %.20q: %v", name, err)
		}
		if err := u.PutBlock(t.Context(), name, "QQ==", strings.NewReader("x"), BlockOptions{Size: 1, MaxBytes: 1}); !online.IsCode(err, online.CodeBadArgument) {
			t.Errorf("block of name %.20q: %v", name, err)
		}
		if err := u.Delete(name); !online.IsCode(err, online.CodeBadArgument) {
			t.Errorf("delete of name %.20q: %v", name, err)
		}
	}
	if _, err := u.Stat("c/b"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a refused blob is there: %v", err)
	}
	if n := dataFiles(t, u); n != 0 {
		t.Errorf("%d files are left", n)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func isCode(code online.Code) func(error) bool {
	return func(err error) bool { return online.IsCode(err, code) }
}

func TestBlobAndFolderOfOneName(t *testing.T) {
	u := openUploads(t, t.TempDir())
	put(t, u, "c/a", "1")
	put(t, u, "c/a/b", "2")
	if read(t, u, "c/a") != "1" || read(t, u, "c/a/b") != "2" {
		t.Error("a blob and one below its name are two blobs")
	}
}

func TestListBlobs(t *testing.T) {
	u := openUploads(t, t.TempDir())
	names := []string{"c/a", "c/a/1", "c/a/2", "c/a-b", "c/b", "d/a"}
	for _, n := range rand.Perm(len(names)) {
		put(t, u, names[n], "x")
	}
	list := func(prefix, after string, limit int) (out []string) {
		for _, b := range u.List(prefix, after, limit) {
			out = append(out, b.Name)
		}
		return out
	}
	for _, c := range []struct {
		prefix, after string
		limit         int
		want          []string
	}{
		{"c/", "", 99, []string{"c/a", "c/a-b", "c/a/1", "c/a/2", "c/b"}},
		{"c/a/", "", 99, []string{"c/a/1", "c/a/2"}},
		{"c/", "c/a-b", 2, []string{"c/a/1", "c/a/2"}},
		{"c/", "c/a/15", 1, []string{"c/a/2"}},
		{"c/", "b", 1, []string{"c/a"}},
		{"c/", "d", 9, nil},
		{"x", "", 9, nil},
	} {
		if got := list(c.prefix, c.after, c.limit); !slices.Equal(got, c.want) {
			t.Errorf("list %q after %q: %q, want %q", c.prefix, c.after, got, c.want)
		}
	}
}

func blockID(n int) string {
	return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "block-%06d", n))
}

func putBlock(t *testing.T, u *Uploads, name string, n int, text string) {
	t.Helper()
	sum := md5.Sum([]byte(text)) //nolint:gosec // the wire's checksum
	err := u.PutBlock(t.Context(), name, blockID(n), strings.NewReader(text), BlockOptions{Size: int64(len(text)), MaxBytes: 1 << 20, MD5: sum[:]})
	if err != nil {
		t.Fatal(err)
	}
}

func latest(ns ...int) (refs []BlockRef) {
	for _, n := range ns {
		refs = append(refs, BlockRef{ID: blockID(n)})
	}
	return refs
}

func TestBlocks(t *testing.T) {
	dir := t.TempDir()
	u := openUploads(t, dir)
	const name = "c/big.bin"
	if _, _, err := u.Blocks(name); !errors.Is(err, ErrNotFound) {
		t.Errorf("blocks of nothing: %v", err)
	}
	for n, text := range []string{"aa", "old", "cc", "unused"} {
		putBlock(t, u, name, n, text)
	}
	putBlock(t, u, name, 1, "bbb")
	if _, err := u.Stat(name); !errors.Is(err, ErrNotFound) {
		t.Errorf("blocks alone make no blob: %v", err)
	}
	u = openUploads(t, dir) // acknowledged blocks outlive a restart
	committed, waiting, err := u.Blocks(name)
	if err != nil || len(committed) != 0 || len(waiting) != 4 || waiting[1] != (Block{blockID(1), 3}) {
		t.Errorf("blocks: %v, %v, %v", committed, waiting, err)
	}
	if _, err := u.CommitBlocks(t.Context(), name, latest(0, 9), CommitOptions{}); !online.IsCode(err, online.CodeBadArgument) {
		t.Errorf("a block that was never sent: %v", err)
	}
	blob, err := u.CommitBlocks(t.Context(), name, latest(2, 0, 1, 0), CommitOptions{ContentType: "text/plain", Metadata: map[string]string{"k": "v"}})
	if err != nil || blob.Size != 9 || blob.ContentType != "text/plain" || blob.Metadata["k"] != "v" {
		t.Fatalf("commit: %+v, %v", blob, err)
	}
	if got := read(t, u, name); got != "ccaabbbaa" {
		t.Errorf("the blob holds %q", got)
	}
	committed, waiting, err = u.Blocks(name)
	want := []Block{{blockID(2), 2}, {blockID(0), 2}, {blockID(1), 3}, {blockID(0), 2}}
	if err != nil || !slices.Equal(committed, want) || len(waiting) != 0 {
		t.Errorf("after the commit: %v, %v, %v", committed, waiting, err)
	}

	// A later list mixes what is committed with what is new.
	putBlock(t, u, name, 1, "NEW")
	if _, err := u.CommitBlocks(t.Context(), name, []BlockRef{{ID: blockID(0), From: BlockUncommitted}}, CommitOptions{}); !online.IsCode(err, online.CodeBadArgument) {
		t.Errorf("an uncommitted block that is only committed: %v", err)
	}
	if _, err := u.CommitBlocks(t.Context(), name, latest(0), CommitOptions{OnlyNew: true}); !errors.Is(err, ErrExists) {
		t.Errorf("If-None-Match over a blob: %v", err)
	}
	refs := []BlockRef{{ID: blockID(1), From: BlockCommitted}, {ID: blockID(1)}, {ID: blockID(2)}}
	if _, err := u.CommitBlocks(t.Context(), name, refs, CommitOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, u, name); got != "bbbNEWcc" {
		t.Errorf("the blob holds %q", got)
	}
	putBlock(t, u, name, 7, "dropped")
	put(t, u, name, "whole")
	if committed, waiting, err := u.Blocks(name); err != nil || len(committed)+len(waiting) != 0 {
		t.Errorf("a blob put whole has blocks: %v, %v, %v", committed, waiting, err)
	}
	if n := dataFiles(t, u); n != 1 {
		t.Errorf("%d files hold one blob", n)
	}
	for _, id := range []string{"", "not base64!", base64.StdEncoding.EncodeToString(make([]byte, MaxBlockIDBytes+1))} {
		if err := u.PutBlock(t.Context(), name, id, strings.NewReader(""), BlockOptions{}); !online.IsCode(err, online.CodeBadArgument) {
			t.Errorf("block id %.10q: %v", id, err)
		}
	}
}

func TestBlocksInParallel(t *testing.T) {
	u := openUploads(t, t.TempDir())
	const blocks = 24
	var refs []BlockRef
	var want strings.Builder
	var wg sync.WaitGroup
	for n := range blocks {
		text := strings.Repeat(string(rune('a'+n)), 1000+n)
		refs = append(refs, latest(n)...)
		want.WriteString(text)
		wg.Go(func() {
			err := u.PutBlock(t.Context(), "c/b", blockID(n), strings.NewReader(text), BlockOptions{Size: -1, MaxBytes: 1 << 20})
			if err != nil {
				t.Errorf("block %d: %v", n, err)
			}
		})
		wg.Go(func() {
			o := options(text)
			if _, err := u.Put(t.Context(), fmt.Sprintf("c/other-%d", n), strings.NewReader(text), o); err != nil {
				t.Errorf("blob %d: %v", n, err)
			}
		})
	}
	wg.Wait()
	if _, err := u.CommitBlocks(t.Context(), "c/b", refs, CommitOptions{}); err != nil {
		t.Fatal(err)
	}
	if read(t, u, "c/b") != want.String() {
		t.Error("the blob is not its blocks in order")
	}
	if n := len(u.List("c/other-", "", 99)); n != blocks {
		t.Errorf("%d of %d blobs are there", n, blocks)
	}
}

func TestExpire(t *testing.T) {
	u := openUploads(t, t.TempDir())
	put(t, u, "c/blob", "x")
	putBlock(t, u, "c/old", 0, "x")
	putBlock(t, u, "c/young", 0, "x")
	at := noon.Add(-BlockLifetime)
	if err := errors.Join(os.Chtimes(u.blockDir("c/old"), at, at), os.Chtimes(u.blockDir("c/young"), at.Add(time.Second), at.Add(time.Second))); err != nil {
		t.Fatal(err)
	}
	if n, err := u.Expire(t.Context()); n != 1 || err != nil {
		t.Errorf("expire: %d, %v", n, err)
	}
	if _, _, err := u.Blocks("c/old"); !errors.Is(err, ErrNotFound) {
		t.Errorf("expired blocks: %v", err)
	}
	if _, waiting, err := u.Blocks("c/young"); len(waiting) != 1 || err != nil {
		t.Errorf("young blocks: %v, %v", waiting, err)
	}
	if read(t, u, "c/blob") != "x" {
		t.Error("blobs do not expire")
	}
}

func TestOpenUploadsAfterCrash(t *testing.T) {
	dir := t.TempDir()
	u := openUploads(t, dir)
	put(t, u, "c/kept", "x")
	put(t, u, "c/lost", "y")
	if err := errors.Join(
		os.WriteFile(u.data("ORPHAN"), []byte("half"), 0o600),                                      // received, not yet recorded
		os.WriteFile(filepath.Join(dir, blobsName, durable.TempPrefix+"1"), []byte(`{"Na`), 0o600), // a record half-way
		os.Remove(u.data(u.blobs["c/lost"].File)),                                                  // a failed deletion
	); err != nil {
		t.Fatal(err)
	}
	u = openUploads(t, dir)
	if read(t, u, "c/kept") != "x" || len(u.List("", "", 9)) != 1 || dataFiles(t, u) != 1 {
		t.Errorf("after the start: %v, %d files", u.List("", "", 9), dataFiles(t, u))
	}
}

func TestImportUpload(t *testing.T) {
	s, u := openStore(t), openUploads(t, t.TempDir())
	files := map[string]string{"score.py": "x = 1\n", "lib/util.py": "y = 2\n"}
	for name, text := range files {
		put(t, u, "c/up/code/"+name, text)
	}
	put(t, u, "c/up/codes/other.py", "not of this tree")
	put(t, u, "c/up/model.pkl", "weights")

	local := mustImport(t, s, tree(t, files))
	got, err := s.ImportUpload(t.Context(), u, "c/up/code/")
	if err != nil || got.Digest != local.Digest || got.IsFile || got.Name != "code" || got.Files != 2 {
		t.Errorf("a folder: %+v, %v; want the digest %s of the same files", got, err, local.Digest)
	}
	model, err := s.ImportUpload(t.Context(), u, "c/up/model.pkl")
	if err != nil || !model.IsFile || model.Name != "model.pkl" || model.Bytes != 7 {
		t.Fatalf("a file: %+v, %v", model, err)
	}
	path, err := s.Path(model.Digest)
	if err != nil {
		t.Fatal(err)
	}
	a, err1 := os.Stat(filepath.Join(path, "model.pkl"))
	b, err2 := os.Stat(u.data(u.blobs["c/up/model.pkl"].File))
	if err := errors.Join(err1, err2); err != nil || !os.SameFile(a, b) {
		t.Errorf("the bytes of a blob are linked, not copied: %v", err)
	}

	// What clients do with the blob afterwards never reaches the tree.
	put(t, u, "c/up/model.pkl", "planted")
	if err := u.Delete("c/up/model.pkl"); err != nil {
		t.Fatal(err)
	}
	putBlock(t, u, "c/up/model.pkl", 0, "planted again")
	if _, err := u.CommitBlocks(t.Context(), "c/up/model.pkl", latest(0), CommitOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), model.Digest); err != nil {
		t.Error(err)
	}

	if _, err := s.ImportUpload(t.Context(), u, "c/absent"); !errors.Is(err, ErrNotFound) {
		t.Errorf("nothing uploaded: %v", err)
	}
	if _, err := s.ImportUpload(t.Context(), u, "c/../x"); !online.IsCode(err, online.CodeBadArgument) {
		t.Errorf("a bad name: %v", err)
	}
	put(t, u, "c/mix/a", "1")
	put(t, u, "c/mix/a/b", "2")
	if _, err := s.ImportUpload(t.Context(), u, "c/mix"); !online.IsCode(err, online.CodeBadArgument) {
		t.Errorf("a blob that is a file and a folder: %v", err)
	}
}

// A staging area behaves like a map, also after restarts.
func TestUploadsModel(t *testing.T) {
	dir := t.TempDir()
	u := openUploads(t, dir)
	model := map[string]string{}
	names := []string{"c/a", "c/a/b", "c/b", "d/a"}
	rapid.Check(t, func(rt *rapid.T) {
		name := rapid.SampledFrom(names).Draw(rt, "name")
		text := rapid.SampledFrom([]string{"", "1", "22", "333"}).Draw(rt, "text")
		_, exists := model[name]
		switch rapid.SampledFrom([]string{"put", "new", "blocks", "delete", "restart"}).Draw(rt, "call") {
		case "put":
			put(t, u, name, text)
			model[name] = text
		case "new":
			o := options(text)
			o.OnlyNew = true
			_, err := u.Put(t.Context(), name, strings.NewReader(text), o)
			if errors.Is(err, ErrExists) != exists {
				rt.Fatalf("put if new over %v: %v", exists, err)
			}
			if !exists {
				model[name] = text
			}
		case "blocks":
			putBlock(t, u, name, 0, text)
			putBlock(t, u, name, 1, "-"+text)
			if _, err := u.CommitBlocks(t.Context(), name, latest(0, 1), CommitOptions{}); err != nil {
				rt.Fatal(err)
			}
			model[name] = text + "-" + text
		case "delete":
			if err := u.Delete(name); errors.Is(err, ErrNotFound) == exists {
				rt.Fatalf("delete of %v: %v", exists, err)
			}
			delete(model, name)
		case "restart":
			u = openUploads(t, dir)
		}
		for _, n := range names {
			want, exists := model[n]
			blob, err := u.Stat(n)
			if exists != (err == nil) || exists && (blob.Size != int64(len(want)) || read(t, u, n) != want) {
				rt.Fatalf("%s is %+v, %v; want %q, %v", n, blob, err, want, exists)
			}
		}
		if len(u.List("", "", 99)) != len(model) || dataFiles(t, u) != len(model) {
			rt.Fatalf("%d blobs are listed and %d files there; want %d", len(u.List("", "", 99)), dataFiles(t, u), len(model))
		}
	})
}
