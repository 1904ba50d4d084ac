package control

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"portico/internal/online"
)

func TestGarbage(t *testing.T) {
	b := newBench(t)
	ctx := context.Background()
	b.Set(time.Now()) // the content store stamps with the real clock
	b.register(online.KindModel, "kept", "1", online.AssetSpec{URI: b.upload(online.KindModel, map[string]string{"a": "kept"})})
	gone := b.register(online.KindModel, "gone", "1", online.AssetSpec{URI: b.upload(online.KindModel, map[string]string{"a": "gone"})})
	if _, err := b.DeleteAsset(ctx, admin, home, online.KindModel, "gone", "1", Match{}); err != nil {
		t.Fatal(err)
	}
	b.upload(online.KindModel, map[string]string{"a": "never registered", "b/c": "either"})

	if got, err := b.CollectGarbage(ctx); err != nil || got != (Collected{}) {
		t.Fatalf("young garbage: %+v, %v", got, err)
	}
	b.Set(time.Now().Add(KeepUnused + time.Hour))
	recent := b.upload(online.KindModel, map[string]string{"a": "just now"})
	if got, err := b.CollectGarbage(ctx); err != nil || got != (Collected{Uploads: 1, Trees: 1}) {
		t.Fatalf("old garbage: %+v, %v", got, err)
	}
	b.register(online.KindModel, "recent", "1", online.AssetSpec{URI: recent})
	if _, err := b.Artifacts.Path(gone.Resource.Spec.Digest); err == nil {
		t.Error("content that nothing names is still there")
	}
	for _, name := range []string{"kept", "recent"} {
		a, err := b.GetAsset(ctx, admin, home, online.KindModel, name, "1")
		if err != nil {
			t.Fatal(err)
		}
		path, err := b.Artifacts.Path(a.Spec.Digest)
		if err != nil {
			t.Fatalf("the content of %s is gone: %v", name, err)
		}
		if _, err := os.ReadFile(filepath.Join(path, "a")); err != nil {
			t.Errorf("the content of %s: %v", name, err)
		}
	}
}
