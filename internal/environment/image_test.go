package environment

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"portico/internal/online"
)

func TestCheckImage(t *testing.T) {
	for _, ok := range []string{
		"ubuntu", "words:1", "docker.io/tensorflow/serving:2.16.1", "localhost:5000/a/b_c:latest", "mcr.microsoft.com/azureml/x@sha256:" + strings.Repeat("0a", 32),
	} {
		if err := CheckImage(ok); err != nil {
			t.Errorf("%s: %v", ok, err)
		}
	}
	for _, bad := range []string{
		"", "-v", "--all", "a b", "docker-archive:/etc/image", "dir:/etc", "oci:/tmp/x:1", "docker://x/y", "../x", "/x", "x/../y", "a\nb", "x@sha256:1",
		strings.Repeat("x", MaxReference+1),
	} {
		if err := CheckImage(bad); !online.IsCode(err, online.CodeBadArgument) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestImageOf reads configurations with the accounts of a tree.
func TestImageOf(t *testing.T) {
	tree := t.TempDir()
	if err := os.Mkdir(filepath.Join(tree, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"passwd": "root:x:0:0:root:/root:/bin/sh\nserver:x:1000:1001::/home/server:\nodd:x:no:0::/:\n", "group": "root:x:0:\nstaff:x:50:\n",
	} {
		if err := os.WriteFile(filepath.Join(tree, "etc", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for user, want := range map[string]Image{
		"":            {UID: 0, GID: 0, Home: "/root"},
		"server":      {UID: 1000, GID: 1001, Home: "/home/server"},
		"1000":        {UID: 1000, GID: 1001, Home: "/home/server"},
		"server:50":   {UID: 1000, GID: 50, Home: "/home/server"},
		"7777":        {UID: 7777, GID: 0, Home: "/"},
		"7777:staff":  {UID: 7777, GID: 50, Home: "/"},
		"7777:8888":   {UID: 7777, GID: 8888, Home: "/"},
		"root:server": {UID: -1}, "nobody": {UID: -1}, "odd": {UID: -1}, "-1": {UID: -1}, "4294967296": {UID: -1},
	} {
		var found inspected
		found.ID, found.Config.User = "abc", user
		found.Config.Entrypoint, found.Config.Cmd, found.Config.StopSignal = []string{"serve"}, []string{"80"}, "quit"
		got, err := imageOf(&found, tree)
		if want.UID < 0 {
			if !online.IsCode(err, online.CodeImageBuildFailure) {
				t.Errorf("%q: %+v, %v", user, got, err)
			}
			continue
		}
		want.Digest, want.Entrypoint, want.Command, want.Dir, want.StopSignal = "sha256:abc", []string{"serve"}, []string{"80"}, "/", 3
		if err != nil || !reflect.DeepEqual(*got, want) {
			t.Errorf("%q: %+v, %v", user, got, err)
		}
	}
	for field, change := range map[string]func(*inspected){
		"working directory": func(i *inspected) { i.Config.WorkingDir = "work" },
		"stop signal":       func(i *inspected) { i.Config.StopSignal = "SIGNONE" },
	} {
		var found inspected
		change(&found)
		if _, err := imageOf(&found, tree); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	// A file of accounts that leads out of the tree is not followed.
	if err := os.Remove(filepath.Join(tree, "etc", "passwd")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(tree, "etc", "passwd")); err != nil {
		t.Fatal(err)
	}
	var found inspected
	found.Config.User = "nobody"
	if got, err := imageOf(&found, tree); err == nil {
		t.Errorf("the machine's accounts were asked: %+v", got)
	}
}
