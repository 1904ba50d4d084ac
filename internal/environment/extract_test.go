package environment

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"portico/internal/online"
)

// archive makes a tar of entries; a file's content is its Linkname.
func archive(t *testing.T, entries ...tar.Header) *bytes.Buffer {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range entries {
		content := ""
		if h.Typeflag == tar.TypeReg {
			content, h.Linkname = h.Linkname, ""
			h.Size = int64(len(content))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &out
}

func TestExtract(t *testing.T) {
	dir := t.TempDir()
	size, err := extract(archive(t,
		tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "./tmp/", Typeflag: tar.TypeDir, Mode: 0o1777},
		tar.Header{Name: "closed/", Typeflag: tar.TypeDir, Mode: 0o500},
		tar.Header{Name: "closed/file", Typeflag: tar.TypeReg, Linkname: "inside", Mode: 0o400, Uid: 1234, Gid: 1234},
		tar.Header{Name: "bin/su", Typeflag: tar.TypeReg, Linkname: "program", Mode: 0o6755},
		tar.Header{Name: "bin/other", Typeflag: tar.TypeLink, Linkname: "bin/su"},
		tar.Header{Name: "etc", Typeflag: tar.TypeSymlink, Linkname: "/etc"},
		tar.Header{Name: "up", Typeflag: tar.TypeSymlink, Linkname: "../../../.."},
		tar.Header{Name: "dev/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3},
		tar.Header{Name: "dev/disk", Typeflag: tar.TypeBlock, Mode: 0o666, Devmajor: 8},
		tar.Header{Name: "run/pipe", Typeflag: tar.TypeFifo},
		tar.Header{Name: "twice", Typeflag: tar.TypeReg, Linkname: "first"},
		tar.Header{Name: "twice", Typeflag: tar.TypeReg, Linkname: "second"},
		tar.Header{Name: "turns", Typeflag: tar.TypeSymlink, Linkname: "closed"},
		tar.Header{Name: "turns", Typeflag: tar.TypeDir, Mode: 0o755},
	), dir, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if want := int64(15*entryBytes + len("inside") + len("program") + len("first") + len("second")); size != want {
		t.Errorf("%d bytes, want %d", size, want)
	}
	for name, want := range map[string]struct {
		mode    fs.FileMode
		content string
	}{
		"tmp": {mode: fs.ModeDir | fs.ModeSticky | 0o777}, "closed": {mode: fs.ModeDir | 0o700}, "closed/file": {0o600, "inside"},
		"bin/su": {0o755, "program"}, "bin/other": {0o755, "program"}, "twice": {0o644, "second"}, "turns": {mode: fs.ModeDir | 0o755},
	} {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil || info.Mode() != want.mode {
			t.Errorf("%s: %v %v", name, info, err)
			continue
		}
		if text, _ := os.ReadFile(filepath.Join(dir, name)); !info.IsDir() && string(text) != want.content {
			t.Errorf("%s holds %q", name, text)
		}
	}
	for _, name := range []string{"dev/null", "dev/disk", "run/pipe"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s was made", name)
		}
	}
	for name, want := range map[string]string{"etc": "/etc", "up": "../../../.."} {
		if to, err := os.Readlink(filepath.Join(dir, name)); to != want {
			t.Errorf("%s leads to %q, %v", name, to, err)
		}
	}
}

func TestExtractHostile(t *testing.T) {
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
	}
	file := func(name string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeReg, Linkname: "evil"}
	}
	hard := func(name, to string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to} }
	for name, c := range map[string]struct {
		entries []tar.Header
		says    string
	}{
		"absolute":             {[]tar.Header{file("/evil")}, "lies outside"},
		"parent":               {[]tar.Header{file("../evil")}, "lies outside"},
		"hidden parent":        {[]tar.Header{file("a/../../evil")}, "lies outside"},
		"parent that returns":  {[]tar.Header{file("a/../evil")}, "lies outside"},
		"through a link":       {[]tar.Header{link("out", "OUTSIDE"), file("out/evil")}, "escapes"},
		"through parents":      {[]tar.Header{link("out", "../outside"), file("out/evil")}, "escapes"},
		"directory by a link":  {[]tar.Header{link("out", "OUTSIDE"), {Name: "out/evil/", Typeflag: tar.TypeDir, Mode: 0o755}}, "escapes"},
		"hard link out":        {[]tar.Header{hard("evil", "../outside/kept")}, "lies outside"},
		"hard link by a link":  {[]tar.Header{link("out", "OUTSIDE"), hard("evil", "out/kept")}, "escapes"},
		"hard link absolute":   {[]tar.Header{hard("evil", "OUTSIDE/kept")}, "lies outside"},
		"hard link to nothing": {[]tar.Header{hard("evil", "none")}, "no such file"},
		"hard link to a folder": {[]tar.Header{{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755}, hard("evil", "d")},
			"link to a directory"},
		"too big":    {[]tar.Header{{Name: "big", Typeflag: tar.TypeReg, Linkname: strings.Repeat("x", 64<<10)}}, "bigger than"},
		"many":       {slicesOf(file("f"), 20), "bigger than"},
		"below file": {[]tar.Header{file("f"), file("f/g")}, "file exists"},
	} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			outside, dir := filepath.Join(base, "outside"), filepath.Join(base, "tree")
			for _, d := range []string{outside, dir} {
				if err := os.Mkdir(d, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(outside, "kept"), []byte("kept"), 0o600); err != nil {
				t.Fatal(err)
			}
			for i := range c.entries {
				c.entries[i].Linkname = strings.ReplaceAll(c.entries[i].Linkname, "OUTSIDE", outside)
			}
			_, err := extract(archive(t, c.entries...), dir, 64<<10)
			if !online.IsCode(err, online.CodeImageBuildFailure) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), dir) {
				t.Errorf("%v", err)
			}
			if found, _ := os.ReadDir(outside); len(found) != 1 {
				t.Errorf("outside there is %v", found)
			}
			if found, _ := os.ReadDir(base); len(found) != 2 {
				t.Errorf("beside the tree there is %v", found)
			}
			if info, err := os.Stat(filepath.Join(outside, "kept")); err != nil || info.Mode() != 0o600 {
				t.Errorf("outside: %v %v", info, err)
			}
		})
	}
}

// TestExtractClaimedSize has an entry that claims more than there may be: nothing of it is read.
func TestExtractClaimedSize(t *testing.T) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := w.WriteHeader(&tar.Header{Name: "huge", Typeflag: tar.TypeReg, Mode: 0o644, Size: 1 << 50}); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err == nil {
		t.Fatal("the writer has the content")
	}
	if _, err := extract(&out, t.TempDir(), 1<<30); err == nil || !strings.Contains(err.Error(), "bigger than 1024 MiB") {
		t.Errorf("%v", err)
	}
	cut := archive(t, tar.Header{Name: "f", Typeflag: tar.TypeReg, Linkname: strings.Repeat("x", 2000)})
	cut.Truncate(1000)
	if _, err := extract(cut, t.TempDir(), 1<<30); err == nil {
		t.Error("an archive that breaks off is taken")
	}
}

func slicesOf(h tar.Header, n int) []tar.Header {
	out := make([]tar.Header, n)
	for i := range out {
		out[i] = h
	}
	return out
}
