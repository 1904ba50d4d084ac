package reconcile

import (
	"testing"
	"time"

	"portico/internal/online"
	"portico/internal/store"
	"portico/internal/testkit"
)

// TestTableHoldsWhatTheModeNeeds: keys for endpoints that take keys, principals for those that take their tokens, and
// a change of principals reaches the table.
func TestTableHoldsWhatTheModeNeeds(t *testing.T) {
	f := newFixture(t)
	f.run()
	for name, mode := range map[string]online.AuthMode{"keyed": online.AuthKey, "tokened": online.AuthAMLToken,
		"aad": online.AuthAADToken} {
		rec := f.put(ws.Endpoint(name), online.EndpointSpec{AuthMode: mode})
		f.update(func(tx store.Tx) error { return tx.PutSecret(rec.UID, online.SecretPrimaryKey, "k1") })
	}
	f.put(online.PrincipalID("ci"), online.PrincipalSpec{ObjectID: "o-1", ClientID: "o-1", SecretDigest: "00"})
	testkit.Until(f.t, "the table tells the modes apart", func() bool {
		table := f.tables.get()
		if table == nil || table.Match("keyed") == nil || table.Match("tokened") == nil || table.Match("aad") == nil {
			return false
		}
		k, m, a := table.Match("keyed"), table.Match("tokened"), table.Match("aad")
		return len(k.Keys) == 1 && len(k.Callers) == 0 && len(m.Keys)+len(m.Callers) == 0 && len(a.Keys) == 0 &&
			a.Admits("o-1") &&
			a.Admits(online.Administrator.ID) && !a.Admits("o-2") && !k.Admits("o-1")
	})
	f.update(func(tx store.Tx) error { return tx.Remove(online.PrincipalID("ci"), "test", time.Now()) })
	testkit.Until(f.t, "a principal that is gone may not call", func() bool {
		a := f.tables.get().Match("aad")
		return !a.Admits("o-1") && a.Admits(online.Administrator.ID)
	})
	rec := f.put(ws.Endpoint("keyed"), online.EndpointSpec{AuthMode: online.AuthAADToken})
	testkit.Until(f.t, "the keys leave the table with their mode", func() bool {
		e := f.tables.get().Match("keyed")
		return e.UID == rec.UID && len(e.Keys) == 0 && e.Admits(online.Administrator.ID)
	})
}
