package artifact

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"portico/internal/online"
)

const unitFile = "box/LocalUpload/hash/model/model.pkl"

var confirmed = map[string]string{completedKey: "completed", "name": "m"}

func stage(t testing.TB) *Uploads {
	t.Helper()
	u, err := OpenUploads(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func putAs(t testing.TB, u *Uploads, owner, name, text string, metadata map[string]string, onlyNew bool) {
	t.Helper()
	if _, err := u.View(owner).Put(context.Background(), name, strings.NewReader(text),
		PutOptions{Size: -1, MaxBytes: 100, Metadata: metadata, OnlyNew: onlyNew}); err != nil {
		t.Fatal(err)
	}
}

func readAs(t testing.TB, u *Uploads, owner, name string) string {
	t.Helper()
	_, r, err := u.View(owner).Open(name)
	if errors.Is(err, ErrNotFound) {
		return "none"
	}
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func namesAs(u *Uploads, owner, prefix string) string {
	var names []string
	for _, b := range u.View(owner).List(prefix, "", 100) {
		names = append(names, b.Name)
	}
	return strings.Join(names, " ")
}

// TestPlantedUpload is one owner's attempt to have another register his bytes, at a name that both can tell.
func TestPlantedUpload(t *testing.T) {
	u := stage(t)
	putAs(t, u, "mallory", unitFile, "evil", confirmed, true)
	putAs(t, u, "mallory", "box/LocalUpload/hash/model/sitecustomize.py", "evil", nil, true)
	if b, err := u.View("alice").Stat(unitFile); err != nil || b.Metadata[completedKey] != "" || b.Metadata["name"] != "m" {
		t.Fatalf("what a stranger confirmed: %+v, %v", b, err)
	}
	if b, err := u.View("mallory").Stat(unitFile); err != nil || b.Metadata[completedKey] == "" {
		t.Fatalf("what he confirmed himself: %+v, %v", b, err)
	}
	putAs(t, u, "alice", unitFile, "good", nil, true) // nor is her way barred
	if _, err := u.View("alice").SetMetadata(unitFile, confirmed); err != nil {
		t.Fatal(err)
	}
	if got := readAs(t, u, "alice", unitFile) + readAs(t, u, "mallory", unitFile); got != "goodevil" {
		t.Errorf("each reads his own: %s", got)
	}
	if got := namesAs(u, "alice", "box/"); got != unitFile {
		t.Errorf("what she sees: %s", got)
	}
	source, err := u.View("alice").Source("box/LocalUpload/hash/model")
	if err != nil || source != "box/alice/LocalUpload/hash/model" {
		t.Errorf("what is imported for her: %q, %v", source, err)
	}
	// A third cannot tell which was meant, and is told so.
	if got := readAs(t, u, "carol", unitFile) + namesAs(u, "carol", "box/"); got != "none" {
		t.Errorf("a third reads %s", got)
	}
	if _, err := u.View("carol").Source("box/LocalUpload/hash/model"); !online.IsCode(err, online.CodeConflict) {
		t.Errorf("a third imports: %v", err)
	}
	if err := u.View("mallory").Delete(unitFile); err != nil {
		t.Fatal(err)
	}
	if got := readAs(t, u, "alice", unitFile); got != "good" {
		t.Errorf("after his deletion she reads %s", got)
	}
	if err := u.View("carol").Delete(unitFile); !errors.Is(err, ErrNotFound) {
		t.Errorf("a stranger deletes: %v", err)
	}
	if _, err := u.View("carol").SetMetadata(unitFile, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("a stranger confirms: %v", err)
	}
}

func TestSharedUpload(t *testing.T) {
	u := stage(t)
	putAs(t, u, "alice", "box/data/a.csv", "1", confirmed, false)
	putAs(t, u, "alice", "box/data/b.csv", "2", nil, false)
	putAs(t, u, "bob", "box/data/b.csv", "3", nil, false)
	putAs(t, u, "bob", "box/data/c.csv", "4", nil, false)
	putAs(t, u, "bob", "boxes/data/z.csv", "5", nil, false)
	for owner, want := range map[string]string{"alice": "124", "bob": "134", "carol": "1none4"} {
		if got := readAs(t, u, owner, "box/data/a.csv") + readAs(t, u, owner, "box/data/b.csv") +
			readAs(t, u, owner, "box/data/c.csv"); got != want {
			t.Errorf("%s reads %s, want %s", owner, got, want)
		}
	}
	if got := namesAs(u, "carol", "box/data/"); got != "box/data/a.csv box/data/c.csv" {
		t.Errorf("carol lists %s", got)
	}
	if source, err := u.View("carol").Source("box/data/a.csv"); err != nil || source != "box/alice/data/a.csv" {
		t.Errorf("what only one uploaded: %q, %v", source, err)
	}
	for _, name := range []string{"box", "box/nothing", "nobox"} {
		if _, err := u.View("dave").Source(name); err == nil {
			t.Errorf("%s has a source", name)
		}
	}
	if source, err := u.View("bob").Source("boxes"); err != nil || source != "boxes/bob" {
		t.Errorf("a whole container: %q, %v", source, err)
	}
	for _, name := range []string{"box/../x", "box//x", "box/a\x00", "/box/x", "box"} {
		if _, err := u.View("bob").Put(context.Background(), name, strings.NewReader(""), PutOptions{}); err == nil {
			t.Errorf("%q was taken", name)
		}
	}
}

func TestBlocksOfTwoOwners(t *testing.T) {
	u := stage(t)
	ctx := context.Background()
	for owner, text := range map[string]string{"alice": "good", "mallory": "evil"} {
		if err := u.View(owner).PutBlock(ctx, unitFile, "YQ==", strings.NewReader(text), BlockOptions{Size: 4, MaxBytes: 9}); err != nil {
			t.Fatal(err)
		}
	}
	b, err := u.View("alice").CommitBlocks(ctx, unitFile, []BlockRef{{ID: "YQ=="}}, CommitOptions{OnlyNew: true})
	if err != nil || b.Name != unitFile || readAs(t, u, "alice", unitFile) != "good" {
		t.Errorf("committed %+v, %v", b, err)
	}
	if _, waiting, err := u.View("mallory").Blocks(unitFile); err != nil || len(waiting) != 1 {
		t.Errorf("his block: %v, %v", waiting, err)
	}
}

// TestViewProperty: whatever was uploaded by whom, an owner reads what he wrote last, a listing in pages of any size
// names exactly what can be read, and nobody reads a complete mark that he did not write.
func TestViewProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		u := stage(t)
		owners := []string{"a", "b", "c"}
		own := map[string]string{}
		all := []string{"box/LocalUpload/h/m/x", "box/LocalUpload/h/m/y", "box/LocalUpload/k", "box/d", "box/d/e", "box/LocalUpload/i/z"}
		for range rapid.IntRange(0, 12).Draw(rt, "writes") {
			owner, name := rapid.SampledFrom(owners).Draw(rt, "owner"), rapid.SampledFrom(all).Draw(rt, "name")
			text := rapid.StringMatching(`[a-z]{1,4}`).Draw(rt, "text")
			putAs(t, u, owner, name, owner+text, confirmed, false)
			own[owner+name] = owner + text
		}
		for _, owner := range owners {
			var readable []string
			for _, name := range all {
				b, err := u.View(owner).Stat(name)
				if want := own[owner+name]; want != "" && readAs(t, u, owner, name) != want {
					rt.Fatalf("%s does not read what he wrote to %s", owner, name)
				}
				if err != nil {
					continue
				}
				readable = append(readable, name)
				if b.Metadata[completedKey] != "" && own[owner+name] == "" {
					rt.Fatalf("%s is told that %s is complete", owner, name)
				}
			}
			slices.Sort(readable)
			var listed []string
			size := rapid.IntRange(1, 7).Draw(rt, "page")
			for after := ""; ; {
				page := u.View(owner).List("box/", after, size)
				for _, b := range page {
					listed = append(listed, b.Name)
					after = b.Name
				}
				if len(page) < size {
					break
				}
			}
			if !slices.Equal(listed, readable) {
				rt.Fatalf("%s lists %v and reads %v", owner, listed, readable)
			}
		}
	})
}

// TestDigestOf: a client can tell beforehand what the store will find.
func TestDigestOf(t *testing.T) {
	u := stage(t)
	store, err := Open(t.TempDir(), DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	var files []File
	for name, text := range map[string]string{"b/score.py": "pass", "a \"ü\".txt": "", "a/x": "1"} {
		putAs(t, u, "alice", "box/src/"+name, text, nil, true)
		files = append(files, File{Path: name, Size: int64(len(text)), Sum: sha256.Sum256([]byte(text))})
	}
	source, err := u.View("alice").Source("box/src")
	if err != nil {
		t.Fatal(err)
	}
	tree, err := store.ImportUpload(context.Background(), u, source)
	if err != nil || tree.Digest != DigestOf(files) {
		t.Errorf("the store finds %s, %v; expected %s", tree.Digest, err, DigestOf(files))
	}
}
