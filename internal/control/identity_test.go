package control

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"portico/internal/access"
	"portico/internal/arm"
	"portico/internal/control/controltest"
	"portico/internal/online"
	"portico/internal/store"
)

func userIdentity(name string) string {
	return "/subscriptions/sub/resourceGroups/group/providers/Microsoft.ManagedIdentity/userAssignedIdentities/" +
		name
}

// principals reads what is kept of the principals that people made.
func (b *bench) principals() []*store.Object[online.PrincipalSpec, struct{}] {
	b.t.Helper()
	var out []*store.Object[online.PrincipalSpec, struct{}]
	err := b.Store.View(context.Background(), func(r store.Reader) (err error) {
		out, err = store.List[online.PrincipalSpec, struct{}](r, kindPrefix(online.KindPrincipal), store.Page{})
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

func TestPrincipals(t *testing.T) {
	b, ctx := newBench(t), context.Background()
	made, err := b.CreatePrincipal(ctx, admin, "ci")
	if err != nil {
		t.Fatal(err)
	}
	if made.ObjectID == "" || made.ClientID != made.ObjectID || made.Tenant == "" || made.Kind != PrincipalService ||
		len(made.Secret) != 43 {
		t.Fatalf("%+v", made)
	}
	if strings.Contains(fmt.Sprintf("%v %+v", made, made), made.Secret.Reveal()) {
		t.Error("a secret is printed")
	}
	kept := b.principals()
	digest := access.Digest(made.Secret.Reveal())
	if len(kept) != 1 || kept[0].Spec.SecretDigest != hex.EncodeToString(digest[:]) ||
		strings.Contains(string(kept[0].Record.Spec), made.Secret.Reveal()) {
		t.Errorf("kept: %s", kept[0].Record.Spec)
	}
	who, err := b.Identities.BySecret(strings.ToUpper(made.ClientID), made.Secret)
	if err != nil || who.ObjectID != made.ObjectID || who.Name != "ci" || who.Resource != "" {
		t.Errorf("%+v, %v", who, err)
	}
	for _, wrong := range []struct {
		id     string
		secret online.Secret
	}{{made.ClientID, ""}, {made.ClientID, made.Secret + "x"}, {"", made.Secret}, {"ci", made.Secret},
		{online.Administrator.ID, made.Secret}} {
		if _, err := b.Identities.BySecret(wrong.id, wrong.secret); !errors.Is(err, ErrCredential) {
			t.Errorf("%s: %v", wrong.id, err)
		}
	}
	if p, ok := b.Identities.Principal(made.ObjectID); !ok || p.Name != "ci" {
		t.Errorf("%v, %v", p, ok)
	}
	for name, code := range map[string]online.Code{"ci": online.CodeConflict, "CI": online.CodeConflict,
		"administrator": online.CodeConflict,
		"Portico":       online.CodeConflict, "no/name": online.CodeBadArgument, "": online.CodeBadArgument} {
		_, err := b.CreatePrincipal(ctx, admin, name)
		if !online.IsCode(err, code) {
			t.Errorf("create %q: %v, want %s", name, err, code)
		}
	}
	all, err := b.ListPrincipals(ctx, admin)
	if err != nil || len(all) != 2 || all[0].Kind != PrincipalAdministrator || all[1].Name != "ci" ||
		all[1].CreatedBy != "admin" {
		t.Errorf("%+v, %v", all, err)
	}
}

// TestResetAndDelete: what stood for a principal before ends at once.
func TestResetAndDelete(t *testing.T) {
	b, ctx := newBench(t), context.Background()
	made, err := b.CreatePrincipal(ctx, admin, "ci")
	if err != nil {
		t.Fatal(err)
	}
	assertion, err := b.FederatedToken(ctx, admin, "ci")
	if err != nil {
		t.Fatal(err)
	}
	works := func() (secret, federated bool) {
		_, err := b.Identities.BySecret(made.ClientID, made.Secret)
		_, worse := b.Identities.ByAssertion(made.ClientID, assertion.Text.Reveal())
		for _, e := range []error{err, worse} {
			if e != nil && !errors.Is(e, ErrCredential) {
				t.Fatal(e)
			}
		}
		return err == nil, worse == nil
	}
	if s, f := works(); !s || !f {
		t.Fatalf("fresh credentials: secret %v, assertion %v", s, f)
	}
	if _, err := b.Identities.ByAssertion("", assertion.Text.Reveal()); err != nil {
		t.Errorf("an assertion names its client: %v", err)
	}
	if _, err := b.Identities.ByAssertion("another", assertion.Text.Reveal()); !errors.Is(err, ErrCredential) {
		t.Errorf("an assertion of another client: %v", err)
	}
	again, err := b.ResetCredential(ctx, admin, "ci")
	if err != nil || again.ObjectID != made.ObjectID || again.Secret == made.Secret {
		t.Fatalf("%+v, %v", again, err)
	}
	if s, f := works(); s || f {
		t.Errorf("after a reset: secret %v, assertion %v", s, f)
	}
	if _, err := b.Identities.BySecret(made.ClientID, again.Secret); err != nil {
		t.Error(err)
	}
	if err := b.DeletePrincipal(ctx, admin, "ci"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Identities.BySecret(made.ClientID, again.Secret); !errors.Is(err, ErrCredential) {
		t.Errorf("after deletion: %v", err)
	}
	if _, ok := b.Identities.Principal(made.ObjectID); ok {
		t.Error("a deleted principal exists")
	}
	wantError(t, b.DeletePrincipal(ctx, admin, "ci"), online.CodeNotFound, "name", "ci")
	wantError(t, b.DeletePrincipal(ctx, admin, "administrator"), online.CodeBadArgument, "name", "administrator")
	_, err = b.ResetCredential(ctx, admin, "ci")
	wantError(t, err, online.CodeNotFound, "name", "ci")
	_, err = b.FederatedToken(ctx, admin, "ci")
	wantError(t, err, online.CodeNotFound, "name", "ci")
	var did []string
	err = b.Store.View(ctx, func(r store.Reader) error {
		all, err := r.Activities(kindPrefix(online.KindPrincipal), b.Ground.Now().AddDate(-1, 0, 0),
			b.Ground.Now().AddDate(1, 0, 0), 0)
		for _, a := range all {
			did = append(did, a.Principal+" "+a.Action)
		}
		return err
	})
	want := "[admin Portico/identities/delete admin Portico/identities/resetCredential/action " +
		"admin Portico/identities/federatedToken/action admin Portico/identities/write]"
	if err != nil || fmt.Sprint(did) != want {
		t.Errorf("activities %v, %v", did, err)
	}
}

// TestIdentitiesOutliveARestart: tenant, keys, principals and what was derived from them are the same after one.
func TestIdentitiesOutliveARestart(t *testing.T) {
	dir, ctx := t.TempDir(), context.Background()
	b := openBench(t, dir)
	b.assets()
	b.mustEndpoint("fraud", nil)
	uid := b.mustDeployment("fraud", "blue").Meta.UID
	made, err := b.CreatePrincipal(ctx, admin, "ci")
	if err != nil {
		t.Fatal(err)
	}
	secret, ok, err := b.Identities.InstanceSecret(ctx, uid)
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	token, err := b.Identities.Issuer().Issue(access.Subject{ObjectID: made.ObjectID}, "api://x")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Store.Close(); err != nil {
		t.Fatal(err)
	}
	after := openBench(t, dir)
	after.Set(b.Ground.Now())
	if _, err := after.Identities.Issuer().Verify(token.Text.Reveal()); err != nil {
		t.Errorf("a token from before: %v", err)
	}
	if _, err := after.Identities.BySecret(made.ClientID, made.Secret); err != nil {
		t.Errorf("a principal from before: %v", err)
	}
	if again, _, _ := after.Identities.InstanceSecret(ctx, uid); again != secret {
		t.Error("the secret of a deployment's instances is another")
	}
	if err := after.RotateSigningKey(ctx, admin); err != nil {
		t.Fatal(err)
	}
	if _, err := after.Identities.Issuer().Verify(token.Text.Reveal()); err != nil {
		t.Errorf("a token from before the rotation: %v", err)
	}
}

// TestRotationForgets: keys whose tokens have all expired are dropped with the next change.
func TestRotationForgets(t *testing.T) {
	b, ctx := newBench(t), context.Background()
	made := 0
	keys := []func() (online.Secret, error){controltest.SigningKey, testKey2}
	b.Identities.cfg.NewKey = func() (online.Secret, error) { made++; return keys[made%2]() }
	published := func() int { return strings.Count(string(b.Identities.Issuer().JWKS()), `"kid"`) }
	if published() != 1 {
		t.Fatalf("%d keys", published())
	}
	if err := b.RotateSigningKey(ctx, admin); err != nil || published() != 2 {
		t.Fatalf("%d keys, %v", published(), err)
	}
	b.Pass(access.MaxLife)
	if err := b.RotateSigningKey(ctx, admin); err != nil || published() != 2 {
		t.Errorf("%d keys after all tokens of the first have expired, %v", published(), err)
	}
}

// TestEndpointIdentities walks the types of identity: what is shown, and whom an instance may speak for.
func TestEndpointIdentities(t *testing.T) {
	b, ctx := newBench(t), context.Background()
	b.assets()
	tenant := b.Identities.Issuer().Tenant()
	put := func(name string, identity online.Identity) (Endpoint, online.Secret, bool) {
		t.Helper()
		out, err := b.PutEndpoint(ctx, admin, home, name, PutEndpoint{Spec: online.EndpointSpec{Identity: identity}})
		if err != nil {
			t.Fatal(err)
		}
		b.Settle()
		secret, ok, err := b.Identities.InstanceSecret(ctx, b.mustDeployment(name, "blue").Meta.UID)
		if err != nil {
			t.Fatal(err)
		}
		return out.Resource, secret, ok
	}
	ask := func(secret online.Secret, sel Selector) string {
		s, err := b.Identities.ByIdentitySecret(ctx, secret, sel)
		if e, known := online.AsError(err); known {
			return string(e.Code)
		}
		if err != nil {
			return err.Error()
		}
		return s.ObjectID
	}

	system, secret, ok := put("system", online.Identity{})
	if !ok || system.Identity.PrincipalID != system.Meta.UID || system.Identity.TenantID != tenant {
		t.Errorf("%v %+v", ok, system.Identity)
	}
	if got := ask(secret, Selector{}); got != system.Meta.UID {
		t.Errorf("system-assigned: %s", got)
	}
	if got := ask(secret,
		Selector{ResourceID: strings.ToUpper(arm.FormatID(system.Meta.ID))}); got != system.Meta.UID {
		t.Errorf("by resource id: %s", got)
	}
	if none, secret, ok := put("none", online.Identity{Type: "None"}); ok || secret != "" ||
		none.Identity.PrincipalID+none.Identity.TenantID != "" {
		t.Errorf("None: %v %+v", ok, none.Identity)
	}

	a, z := userIdentity("a"), userIdentity("z")
	one, oneSecret, _ := put("one", online.Identity{Type: "UserAssigned", UserAssigned: []string{a}})
	two, twoSecret, _ := put("two", online.Identity{Type: "UserAssigned",
		UserAssigned: []string{z, strings.ToUpper(a)[:14] + a[14:]}})
	both, bothSecret, _ := put("both", online.Identity{Type: "SystemAssigned,UserAssigned",
		UserAssigned: []string{a}})
	ia := one.Identity.UserAssignedIdentities[a]
	iz := two.Identity.UserAssignedIdentities[z]
	if ia.PrincipalID == "" || ia.ClientID == "" || ia.ClientID == ia.PrincipalID ||
		iz.PrincipalID == ia.PrincipalID || one.Identity.PrincipalID != "" {
		t.Errorf("%+v %+v", one.Identity, two.Identity)
	}
	if both.Identity.UserAssignedIdentities[a] != ia || both.Identity.PrincipalID != both.Meta.UID {
		t.Errorf("the same identity has another principal: %+v", both.Identity)
	}
	for what, c := range map[string]struct {
		secret online.Secret
		sel    Selector
		want   string
	}{
		"the only one":        {oneSecret, Selector{}, ia.PrincipalID},
		"one of two, unnamed": {twoSecret, Selector{}, string(online.CodeBadArgument)},
		"by client id":        {twoSecret, Selector{ClientID: iz.ClientID}, iz.PrincipalID},
		"by object id":        {twoSecret, Selector{ObjectID: ia.PrincipalID}, ia.PrincipalID},
		"by resource id":      {twoSecret, Selector{ResourceID: z}, iz.PrincipalID},
		"of another endpoint": {oneSecret, Selector{ClientID: iz.ClientID}, string(online.CodeBadArgument)},
		"system before user":  {bothSecret, Selector{}, both.Meta.UID},
		"user beside system":  {bothSecret, Selector{ClientID: ia.ClientID}, ia.PrincipalID},
		"another's system":    {oneSecret, Selector{ClientID: both.Meta.UID}, string(online.CodeBadArgument)},
		"the administrator":   {"administrator's token", Selector{}, online.Administrator.ID},
		"administrator as another": {"administrator's token", Selector{ClientID: ia.ClientID},
			string(online.CodeBadArgument)},
		"nobody": {"x", Selector{}, ErrCredential.Error()},
		"empty":  {"", Selector{}, ErrCredential.Error()},
		"forged": {online.Secret(strings.Split(oneSecret.Reveal(), ".")[0] + "." +
			strings.Split(twoSecret.Reveal(), ".")[1]), Selector{}, ErrCredential.Error()},
		"without a code": {online.Secret(strings.Split(oneSecret.Reveal(), ".")[0] + "."), Selector{},
			ErrCredential.Error()},
	} {
		if got := ask(c.secret, c.sel); got != c.want {
			t.Errorf("%s: %s, want %s", what, got, c.want)
		}
	}

	// A repeated PUT, with the members that the service had added, changes nothing; another identity is refused.
	again, err := b.PutEndpoint(ctx, admin, home, "two",
		PutEndpoint{Spec: online.EndpointSpec{Identity: online.Identity{
			Type: "UserAssigned", UserAssigned: []string{a, z}}}})
	if err != nil || again.Resource.Identity.UserAssignedIdentities[z] != iz {
		t.Errorf("%+v, %v", again.Resource.Identity, err)
	}
	_, err = b.PutEndpoint(ctx, admin, home, "one", PutEndpoint{Spec: online.EndpointSpec{Identity: online.Identity{
		Type: "UserAssigned", UserAssigned: []string{z}}}})
	wantError(t, err, online.CodeBadArgument, "identity", "cannot change")

	// The deletion of a deployment ends what its instances may do; that of the endpoint too.
	if _, err := b.DeleteDeployment(ctx, admin, home, "one", "blue", Match{}); err != nil {
		t.Fatal(err)
	}
	if got := ask(oneSecret, Selector{}); got != ErrCredential.Error() {
		t.Errorf("while the deployment is being deleted: %s", got)
	}
	if _, err := b.DeleteEndpoint(ctx, admin, home, "both", Match{}); err != nil {
		t.Fatal(err)
	}
	b.Settle()
	if got := ask(bothSecret, Selector{}); got != ErrCredential.Error() {
		t.Errorf("after the deletion of the endpoint: %s", got)
	}
	if got := ask(twoSecret, Selector{ClientID: iz.ClientID}); got != iz.PrincipalID {
		t.Errorf("another endpoint lost its identity: %s", got)
	}
}

func TestEndpointToken(t *testing.T) {
	b, ctx := newBench(t), context.Background()
	made := map[online.AuthMode]Endpoint{}
	for _, mode := range []online.AuthMode{online.AuthKey, online.AuthAMLToken, online.AuthAADToken} {
		name := "e-" + strings.ToLower(string(mode))
		out, err := b.PutEndpoint(ctx, admin, home, name, PutEndpoint{Spec: online.EndpointSpec{AuthMode: mode}})
		if err != nil {
			t.Fatal(err)
		}
		made[mode] = out.Resource
	}
	b.Settle()
	token, err := b.Token(ctx, admin, home, "e-amltoken")
	if err != nil {
		t.Fatal(err)
	}
	claims, err := b.Identities.Issuer().Verify(token.Text.Reveal())
	e := made[online.AuthAMLToken].Meta
	if err != nil || !claims.Scoring(e.UID, "e-amltoken") || claims.ObjectID != admin.Principal.ID ||
		claims.Actions[0] != "Microsoft.MachineLearningServices/workspaces/onlineEndpoints/score/action" ||
		claims.WorkspaceID == "" {
		t.Errorf("%+v, %v", claims, err)
	}
	if life, fresh := token.Expires.Sub(token.Issued), token.Refresh.Sub(token.Issued); life != access.ScoringLife ||
		fresh != access.ScoringFresh {
		t.Errorf("good for %v, to be refreshed after %v", life, fresh)
	}
	activities, err := b.ListActivities(ctx, admin, home, "e-amltoken", e.CreatedAt.AddDate(-1, 0, 0),
		e.CreatedAt.AddDate(1, 0, 0), 10)
	if err != nil || !strings.HasSuffix(activities[0].Action, "/token/action") || activities[0].Principal != "admin" {
		t.Errorf("%+v, %v", activities, err)
	}
	for _, c := range []struct {
		name, part string
		do         func(name string) error
	}{
		{"e-key", "listKeys", func(n string) error { _, err := b.Token(ctx, admin, home, n); return err }},
		{"e-aadtoken", access.AudienceML, func(n string) error {
			_,
				err := b.Token(ctx, admin, home, n)
			return err
		}},
		{"e-amltoken", "token", func(n string) error { _, err := b.ListKeys(ctx, admin, home, n); return err }},
		{"e-aadtoken", "token endpoint", func(n string) error {
			_,
				err := b.ListKeys(ctx, admin, home, n)
			return err
		}},
		{"e-amltoken", "token", func(n string) error {
			_, err := b.RegenerateKey(ctx, admin, home, n, "Primary",
				"")
			return err
		}},
	} {
		wantError(t, c.do(c.name), online.CodeBadArgument, arm.FormatID(home.Endpoint(c.name)), c.part)
	}
	// The mode can change; then the other credential is in force.
	if _, err := b.PutEndpoint(ctx, admin, home, "e-amltoken", PutEndpoint{Spec: online.EndpointSpec{}}); err != nil {
		t.Fatal(err)
	}
	if k, err := b.ListKeys(ctx, admin, home, "e-amltoken"); err != nil || k.Primary == "" {
		t.Errorf("%v, %v", k, err)
	}
	if _, err := b.DeleteEndpoint(ctx, admin, home, "e-aadtoken", Match{}); err != nil {
		t.Fatal(err)
	}
	_, err = b.Token(ctx, admin, home, "e-none")
	wantError(t, err, online.CodeNotFound, arm.FormatID(home.Endpoint("e-none")), "e-none")
}
