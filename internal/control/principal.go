package control

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"portico/internal/access"
	"portico/internal/arm"
	"portico/internal/online"
	"portico/internal/store"
)

// Kinds of a Principal.
const (
	PrincipalAdministrator = "Administrator"
	PrincipalService       = "ServicePrincipal"
	PrincipalUserAssigned  = "UserAssignedIdentity"
)

// Principal is somebody whom tokens can speak for, as people see it.
type Principal struct {
	ID        string // of a user-assigned identity: its resource id; else its path on this server
	Name      string
	Kind      string
	ObjectID  string
	ClientID  string
	Tenant    string
	CreatedAt time.Time // zero for the administrator
	CreatedBy string
}

// Credential is a principal with the secret that is shown this once.
type Credential struct {
	Principal
	Secret online.Secret
}

// CreatePrincipal makes a principal. Every principal that a person makes is an administrator of this server.
func (s *Service) CreatePrincipal(ctx context.Context, c Caller, name string) (out Credential, err error) {
	if fault := online.CheckAssetName("principal", name, "name"); fault != nil {
		return Credential{}, fault
	}
	id := uuid.NewString()
	return s.setSecret(ctx, c, name, "create", func(tx store.Tx, rec *store.Record) (online.PrincipalSpec, error) {
		if rec != nil || strings.EqualFold(name, online.Administrator.Name) ||
			strings.EqualFold(name, online.System.Name) {
			return online.PrincipalSpec{}, online.Errorf(online.CodeConflict, "name",
				"the principal %q exists already; reset its credential to get a new secret", name)
		}
		all, err := tx.List(kindPrefix(online.KindPrincipal), store.Page{})
		if err != nil {
			return online.PrincipalSpec{}, fmt.Errorf("list principals: %w", err)
		}
		if len(all) >= online.MaxPrincipals {
			return online.PrincipalSpec{}, online.Errorf(online.CodeOutOfQuota, "name",
				"the server has %d principals, the most that are allowed; delete one first", len(all))
		}
		return online.PrincipalSpec{ObjectID: id, ClientID: id}, nil
	})
}

// ResetCredential gives a principal a new secret. The one before, and the assertions that stood beside it, end.
func (s *Service) ResetCredential(ctx context.Context, c Caller, name string) (Credential, error) {
	const why = "resetCredential"
	return s.setSecret(ctx, c, name, why, func(_ store.Tx, rec *store.Record) (online.PrincipalSpec, error) {
		if rec == nil {
			return online.PrincipalSpec{}, noPrincipal(name)
		}
		p, err := store.Decode[online.PrincipalSpec, struct{}](rec)
		if err != nil {
			return online.PrincipalSpec{}, err
		}
		return p.Spec, nil
	})
}

func noPrincipal(name string) *online.Error {
	return online.Errorf(online.CodeNotFound, "name", "the principal %.80q does not exist on this server", name)
}

// setSecret stores a principal with a fresh secret. spec makes the rest of what is kept; rec is nil when there is
// none.
func (s *Service) setSecret(ctx context.Context, c Caller, name, why string,
	spec func(tx store.Tx, rec *store.Record) (online.PrincipalSpec, error)) (out Credential, err error) {
	now, secret := s.now(), access.NewSecret()
	digest := access.Digest(secret.Reveal())
	err = s.update(ctx, c, func(tx store.Tx) error {
		id := online.PrincipalID(name)
		rec, err := find(tx, id)
		if err != nil {
			return err
		}
		p, err := spec(tx, rec)
		if err != nil {
			return err
		}
		p.SecretDigest = hex.EncodeToString(digest[:])
		if err := s.putPrincipal(tx, c, id, p, why, now); err != nil {
			return err
		}
		if rec, err = must(tx, id); err != nil {
			return err
		}
		out = Credential{Principal: s.principal(rec, &p), Secret: secret}
		return nil
	})
	if err != nil {
		return Credential{}, err
	}
	return out, s.Identities.reload(ctx)
}

// putPrincipal stores a principal or a user-assigned identity.
func (s *Service) putPrincipal(tx store.Tx, c Caller, id online.ID, p online.PrincipalSpec, why string,
	now time.Time) error {
	doc, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode principal: %w", err)
	}
	if _, err := tx.PutSpec(store.Spec{ID: id, JSON: doc, By: c.Principal.Name, Why: why, At: now}); err != nil {
		return fmt.Errorf("store principal: %w", err)
	}
	action := "write"
	if why == "resetCredential" {
		action = "resetCredential/action"
	}
	return s.note(tx, c, id, action, succeeded, "", now)
}

func (s *Service) principal(rec *store.Record, p *online.PrincipalSpec) Principal {
	kind := PrincipalService
	if rec.ID.Kind == online.KindUserIdentity {
		kind = PrincipalUserAssigned
	}
	return Principal{ID: arm.FormatID(rec.ID), Name: rec.ID.Name, Kind: kind, ObjectID: p.ObjectID,
		ClientID: p.ClientID, Tenant: s.Identities.issuer.Tenant(), CreatedAt: rec.CreatedAt, CreatedBy: rec.CreatedBy}
}

// ListPrincipals lists the administrator, the principals that people made, and the user-assigned identities.
func (s *Service) ListPrincipals(ctx context.Context, c Caller) (out []Principal, err error) {
	a := online.Administrator
	err = s.view(ctx, c, func(r store.Reader) error {
		out = []Principal{{ID: arm.FormatID(online.PrincipalID(a.Name)), Name: a.Name, Kind: PrincipalAdministrator,
			ObjectID: a.ID, ClientID: a.ID, Tenant: s.Identities.issuer.Tenant()}}
		for _, kind := range []online.Kind{online.KindPrincipal, online.KindUserIdentity} {
			all, err := store.List[online.PrincipalSpec, struct{}](r, kindPrefix(kind), store.Page{})
			if err != nil {
				return fmt.Errorf("list %s: %w", kind, err)
			}
			for _, rec := range all {
				out = append(out, s.principal(&rec.Record, &rec.Spec))
			}
		}
		return nil
	})
	return out, err
}

// DeletePrincipal removes a principal. Its secret and assertions end at once, and so do its tokens.
func (s *Service) DeletePrincipal(ctx context.Context, c Caller, name string) error {
	if strings.EqualFold(name, online.Administrator.Name) {
		return online.Errorf(online.CodeBadArgument, "name", "the administrator cannot be deleted")
	}
	now := s.now()
	err := s.update(ctx, c, func(tx store.Tx) error {
		id := online.PrincipalID(name)
		rec, err := find(tx, id)
		if err != nil {
			return err
		}
		if rec == nil {
			return noPrincipal(name)
		}
		if err := tx.Remove(id, c.Principal.Name, now); err != nil {
			return fmt.Errorf("remove principal: %w", err)
		}
		return s.note(tx, c, id, "delete", succeeded, "", now)
	})
	if err != nil {
		return err
	}
	return s.Identities.reload(ctx)
}

// FederatedToken makes a token that a principal presents in place of its secret (workload identity).
func (s *Service) FederatedToken(ctx context.Context, c Caller, name string) (token access.Token, err error) {
	now := s.now()
	err = s.update(ctx, c, func(tx store.Tx) error {
		id := online.PrincipalID(name)
		rec, err := find(tx, id)
		if err != nil {
			return err
		}
		if rec == nil {
			return noPrincipal(name)
		}
		p, err := store.Decode[online.PrincipalSpec, struct{}](rec)
		if err != nil {
			return err
		}
		known := s.Identities.people.Load().byClient[p.Spec.ClientID]
		if known == nil {
			return noPrincipal(name)
		}
		if token, err = s.Identities.issuer.IssueAssertion(known.subject, known.credential()); err != nil {
			return err
		}
		return s.note(tx, c, id, "federatedToken/action", succeeded, "", now)
	})
	return token, err
}

// RotateSigningKey makes a new key sign tokens. What the keys before it signed stays valid for as long as it lives.
func (s *Service) RotateSigningKey(ctx context.Context, c Caller) error {
	now := s.now()
	err := s.update(ctx, c, func(tx store.Tx) error {
		return s.note(tx, c, online.PrincipalID(online.System.Name), "rotateSigningKey/action", accepted, "", now)
	})
	if err != nil {
		return err
	}
	return translate(s.Identities.rotate(ctx))
}

// EndpointToken is a token that opens one endpoint.
type EndpointToken struct {
	access.Token
	Refresh time.Time // from when on a caller should ask for the next
}

// scoreAction is what a token of an endpoint allows, as roles spell it.
const scoreAction = arm.Namespace + "/workspaces/onlineEndpoints/score/action"

// Token issues a token for an endpoint with authMode AMLToken. Issuing one is an activity.
func (s *Service) Token(ctx context.Context, c Caller, w online.WorkspaceID, name string) (
	out EndpointToken, err error) {
	now := s.now()
	err = s.update(ctx, c, func(tx store.Tx) error {
		ws, err := workspace(tx, w)
		if err != nil {
			return err
		}
		rec, err := must(tx, w.Endpoint(name))
		if err != nil {
			return err
		}
		if err := notDeleting(rec); err != nil {
			return err
		}
		if err := wantMode(rec, online.AuthAMLToken); err != nil {
			return err
		}
		out.Token, err = s.Identities.issuer.IssueScoring(access.ScoringGrant{
			Subject:  access.Subject{ObjectID: c.Principal.ID, Name: c.Principal.Name},
			Endpoint: rec.ID.Name, UID: rec.UID, Workspace: ws.UID, Action: scoreAction})
		if err != nil {
			return err
		}
		return s.note(tx, c, rec.ID, "token/action", succeeded, "", now)
	})
	out.Refresh = out.Issued.Add(access.ScoringFresh)
	return out, err
}

// wantMode refuses what only endpoints of another authMode can be asked for, and says what to do instead.
func wantMode(rec *store.Record, modes ...online.AuthMode) error {
	spec, err := endpointSpec(rec)
	if err != nil || slices.Contains(modes, spec.AuthMode) {
		return err
	}
	instead := map[online.AuthMode]string{
		online.AuthKey:      "by key (authMode Key); use listKeys",
		online.AuthAMLToken: "by a token of its own (authMode AMLToken); POST .../token gives one",
		online.AuthAADToken: "by a principal's token (authMode AADToken); ask the server's token endpoint for one for " +
			access.AudienceML,
	}
	return online.Errorf(online.CodeBadArgument, arm.FormatID(rec.ID), "the endpoint identifies its callers %s",
		instead[spec.AuthMode])
}
