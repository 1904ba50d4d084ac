package control

import (
	"context"
	"testing"
	"time"

	"portico/internal/online"
)

// TestPurgeCache: only a deployment with a response cache can be purged, the gateway is asked for exactly that one, and it is
// written down who did it.
func TestPurgeCache(t *testing.T) {
	b := newBench(t)
	ctx := context.Background()
	b.assets()
	b.mustEndpoint("fraud", nil)
	req := request()
	put := func() Deployment {
		t.Helper()
		out, err := b.PutDeployment(ctx, admin, home, "fraud", "blue", PutDeployment{Request: req})
		if err != nil {
			t.Fatal(err)
		}
		b.Settle()
		return out.Resource
	}
	put()
	if _, err := b.PurgeCache(ctx, admin, home, "fraud", "blue"); !online.IsCode(err, online.CodeBadArgument) {
		t.Errorf("without a cache: %v", err)
	}
	if _, err := b.PurgeCache(ctx, admin, home, "fraud", "green"); !online.IsCode(err, online.CodeNotFound) {
		t.Errorf("without a deployment: %v", err)
	}
	req.Spec.Cache = &online.ResponseCache{TTL: time.Minute}
	d := put()
	if d.Spec.Cache.MaxBytes != online.DefaultCacheBytes {
		t.Errorf("defaults: %+v", d.Spec.Cache)
	}
	p, err := b.PurgeCache(ctx, admin, home, "fraud", "BLUE")
	if err != nil || p != (Purged{3, 300}) || len(b.purged.of) != 1 || b.purged.of[0] != d.Meta.UID {
		t.Errorf("%+v, %v, asked for %v", p, err, b.purged)
	}
	all, err := b.ListActivities(ctx, admin, home, "fraud", time.Time{}, b.Ground.Now().Add(time.Hour), 1)
	if err != nil || len(all) != 1 || all[0].Action != "Microsoft.MachineLearningServices/workspaces/onlineEndpoints/deployments/purgeCache/action" {
		t.Errorf("%+v, %v", all, err)
	}
	req.Spec.Cache = &online.ResponseCache{TTL: time.Minute, Vary: []string{"authorization"}}
	if _, err := b.PutDeployment(ctx, admin, home, "fraud", "blue", PutDeployment{Request: req}); !online.IsCode(err, online.CodeBadArgument) {
		t.Errorf("vary: authorization: %v", err)
	}
}
