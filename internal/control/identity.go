package control

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"portico/internal/access"
	"portico/internal/arm"
	"portico/internal/online"
	"portico/internal/store"
)

// Secrets of the server that identities need, beside grantKeyName.
const (
	tenantName       = "tenantId"
	signingKeysName  = "tokenSigningKeys"
	instanceKeyName  = "instanceIdentityKey"
	instanceKeyBytes = 32
)

// ErrCredential says that a secret or an assertion is nobody's. It never says whose it was meant to be.
var ErrCredential = errors.New("the credential is not known to this server")

// IdentityConfig is what identities work with. All fields are required unless they say otherwise.
type IdentityConfig struct {
	Store store.Store
	// Issuer gives the issuer's URL for the server's tenant.
	Issuer func(tenant string) string
	// Administrator is the administrator's token, which is a credential of every token endpoint too.
	Administrator online.Secret
	// NewKey makes a signing key; nil: access.NewSigningKey.
	NewKey func() (online.Secret, error)
	Now    func() time.Time
}

// Identities knows the principals and issues their tokens. It is safe for concurrent use.
type Identities struct {
	cfg         IdentityConfig
	issuer      *access.Issuer
	instanceKey []byte
	people      atomic.Pointer[directory]
	// changing is held while what is stored is read anew and put in force, so that an older reading never replaces a
	// newer one.
	changing sync.Mutex
}

// OpenIdentities reads the server's tenant, keys and principals. The first start makes tenant and keys.
func OpenIdentities(ctx context.Context, cfg IdentityConfig) (*Identities, error) {
	if cfg.NewKey == nil {
		cfg.NewKey = access.NewSigningKey
	}
	i := &Identities{cfg: cfg}
	tenant, keys, err := i.prepare(ctx)
	if err != nil {
		return nil, fmt.Errorf("open identities: %w", err)
	}
	i.issuer, err = access.NewIssuer(access.IssuerConfig{URL: cfg.Issuer(tenant), Tenant: tenant, Keys: texts(keys),
		Now: cfg.Now})
	if err != nil {
		return nil, fmt.Errorf("open identities: %w", err)
	}
	return i, i.reload(ctx)
}

// Issuer makes and verifies tokens under the server's keys.
func (i *Identities) Issuer() *access.Issuer { return i.issuer }

// signingKey is a key as it is kept.
type signingKey struct {
	PEM      string    `json:"pem"`
	Replaced time.Time `json:"replaced,omitzero"` // when another one took over signing
}

func texts(keys []signingKey) []online.Secret {
	var out []online.Secret
	for _, k := range keys {
		out = append(out, online.Secret(k.PEM))
	}
	return out
}

// prepare reads what the store keeps for identities, and makes what is missing.
func (i *Identities) prepare(ctx context.Context) (tenant string, keys []signingKey, err error) {
	have, err := i.secrets(ctx)
	if err != nil {
		return "", nil, err
	}
	fresh := map[string]online.Secret{}
	if have[tenantName] == "" {
		fresh[tenantName] = online.Secret(uuid.NewString())
	}
	if have[instanceKeyName] == "" {
		raw := make([]byte, instanceKeyBytes)
		rand.Read(raw) // never fails
		fresh[instanceKeyName] = online.Secret(base64.StdEncoding.EncodeToString(raw))
	}
	if have[signingKeysName] == "" {
		if fresh[signingKeysName], err = i.newKeys(nil); err != nil {
			return "", nil, err
		}
	}
	if len(fresh) > 0 {
		if err := i.putSecrets(ctx, fresh); err != nil {
			return "", nil, err
		}
		if have, err = i.secrets(ctx); err != nil {
			return "", nil, err
		}
	}
	if i.instanceKey, err = base64.StdEncoding.DecodeString(have[instanceKeyName].Reveal()); err != nil ||
		len(i.instanceKey) != instanceKeyBytes {
		return "", nil, errors.New("the key of instance identities is damaged")
	}
	if err := json.Unmarshal([]byte(have[signingKeysName].Reveal()), &keys); err != nil {
		return "", nil, errors.New("the signing keys are damaged") // the decoder's words may tell of them
	}
	return have[tenantName].Reveal(), keys, nil
}

func (i *Identities) secrets(ctx context.Context) (out map[string]online.Secret, err error) {
	err = i.cfg.Store.View(ctx, func(r store.Reader) error {
		if out, err = r.Secrets(serverOwner); err != nil {
			return fmt.Errorf("read the server's secrets: %w", err)
		}
		return nil
	})
	return out, err
}

func (i *Identities) putSecrets(ctx context.Context, all map[string]online.Secret) error {
	return i.cfg.Store.Update(ctx, func(tx store.Tx) error {
		for name, value := range all {
			if err := tx.PutSecret(serverOwner, name, value); err != nil {
				return fmt.Errorf("store the server's secrets: %w", err)
			}
		}
		return nil
	})
}

// newKeys puts a fresh key before those that may still be needed to verify.
func (i *Identities) newKeys(old []signingKey) (online.Secret, error) {
	text, err := i.cfg.NewKey()
	if err != nil {
		return "", err
	}
	now := i.cfg.Now().UTC()
	keys := []signingKey{{PEM: text.Reveal()}}
	for _, k := range old {
		if k.Replaced.IsZero() {
			k.Replaced = now
		}
		if now.Sub(k.Replaced) < access.MaxLife {
			keys = append(keys, k)
		}
	}
	doc, err := json.Marshal(keys)
	if err != nil {
		return "", fmt.Errorf("encode the signing keys: %w", err)
	}
	return online.Secret(doc), nil
}

// rotate makes a new key sign. Tokens of the keys before it stay valid for as long as they live.
func (i *Identities) rotate(ctx context.Context) error {
	i.changing.Lock()
	defer i.changing.Unlock()
	have, err := i.secrets(ctx)
	if err != nil {
		return err
	}
	var keys []signingKey
	if err := json.Unmarshal([]byte(have[signingKeysName].Reveal()), &keys); err != nil {
		return errors.New("the signing keys are damaged")
	}
	next, err := i.newKeys(keys)
	if err != nil {
		return err
	}
	if err := i.putSecrets(ctx, map[string]online.Secret{signingKeysName: next}); err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(next.Reveal()), &keys); err != nil {
		return errors.New("the signing keys are damaged")
	}
	return i.issuer.SetKeys(texts(keys))
}

// person is a principal that a person made, or the administrator.
type person struct {
	subject access.Subject
	digest  [sha256.Size]byte
}

// directory is every person at one moment.
type directory struct {
	byObject map[string]*person
	byClient map[string]*person
	bySecret map[[sha256.Size]byte]*person
}

func (d *directory) add(p *person) {
	d.byObject[p.subject.ObjectID], d.byClient[p.subject.AppID], d.bySecret[p.digest] = p, p, p
}

// reload reads the principals anew. It must follow every change of them.
func (i *Identities) reload(ctx context.Context) error {
	i.changing.Lock()
	defer i.changing.Unlock()
	next := &directory{byObject: map[string]*person{}, byClient: map[string]*person{},
		bySecret: map[[sha256.Size]byte]*person{}}
	if i.cfg.Administrator != "" {
		a := online.Administrator
		next.add(&person{subject: access.Subject{ObjectID: a.ID, AppID: a.ID, Name: a.Name},
			digest: access.Digest(i.cfg.Administrator.Reveal())})
	}
	err := i.cfg.Store.View(ctx, func(r store.Reader) error {
		all, err := store.List[online.PrincipalSpec, struct{}](r, kindPrefix(online.KindPrincipal), store.Page{})
		if err != nil {
			return fmt.Errorf("list principals: %w", err)
		}
		for _, rec := range all {
			p := &person{subject: access.Subject{ObjectID: rec.Spec.ObjectID, AppID: rec.Spec.ClientID,
				Name: rec.ID.Name}}
			if n, err := hex.Decode(p.digest[:], []byte(rec.Spec.SecretDigest)); err != nil || n != len(p.digest) {
				return fmt.Errorf("the credential of principal %q is damaged", rec.ID.Name)
			}
			next.add(p)
		}
		return nil
	})
	if err == nil {
		i.people.Store(next)
	}
	return err
}

// Principal implements access.Principals.
func (i *Identities) Principal(objectID string) (online.Principal, bool) {
	p := i.people.Load().byObject[objectID]
	if p == nil {
		return online.Principal{}, false
	}
	return online.Principal{ID: p.subject.ObjectID, Name: p.subject.Name}, true
}

// BySecret finds the principal with this client id and secret; else ErrCredential.
func (i *Identities) BySecret(clientID string, secret online.Secret) (access.Subject, error) {
	p := i.people.Load().byClient[strings.ToLower(clientID)]
	given := access.Digest(secret.Reveal())
	if p == nil || subtle.ConstantTimeCompare(given[:], p.digest[:]) != 1 {
		return access.Subject{}, ErrCredential
	}
	return p.subject, nil
}

// ByAssertion finds the principal that a client assertion of this server speaks for; else ErrCredential. clientID may
// be empty: the assertion names one.
func (i *Identities) ByAssertion(clientID, assertion string) (access.Subject, error) {
	client, credential, err := i.issuer.VerifyAssertion(assertion)
	if err != nil {
		return access.Subject{}, fmt.Errorf("%w: %w", ErrCredential, err)
	}
	p := i.people.Load().byClient[client]
	if p == nil || clientID != "" && !strings.EqualFold(clientID, client) ||
		subtle.ConstantTimeCompare([]byte(credential), []byte(p.credential())) != 1 {
		return access.Subject{}, ErrCredential
	}
	return p.subject, nil
}

// credential names the secret in force without telling anything about it.
func (p *person) credential() string {
	sum := sha256.Sum256(append([]byte("portico/credential/1/"), p.digest[:]...))
	return hex.EncodeToString(sum[:8])
}

// Selector says which of several identities is meant. At most one member is set; none means the only one, or the
// system-assigned one.
type Selector struct{ ClientID, ObjectID, ResourceID string }

func (s Selector) empty() bool { return s == Selector{} }

// Matches says whether a is meant.
func (s Selector) Matches(a access.Subject) bool {
	return s.empty() || s.ClientID != "" && strings.EqualFold(s.ClientID, a.AppID) ||
		s.ObjectID != "" && strings.EqualFold(s.ObjectID, a.ObjectID) ||
		s.ResourceID != "" && strings.EqualFold(s.ResourceID, a.Resource)
}

// ByIdentitySecret finds who the holder of a managed identity's secret (IDENTITY_HEADER, MSI_SECRET) speaks for: an
// instance, a principal by its client secret, or the administrator by his token. The error is ErrCredential, or
// CodeBadArgument when the selector names none of the holder's identities.
func (i *Identities) ByIdentitySecret(ctx context.Context, secret online.Secret, sel Selector) (access.Subject,
	error) {
	// As for tokens, a lookup by digest tells by its timing nothing that helps to find a secret.
	if p := i.people.Load().bySecret[access.Digest(secret.Reveal())]; p != nil {
		return choose([]access.Subject{p.subject}, sel)
	}
	uid, ok := i.instanceOf(secret)
	if !ok {
		return access.Subject{}, ErrCredential
	}
	all, err := i.ofDeployment(ctx, uid)
	if err != nil {
		return access.Subject{}, err
	}
	return choose(all, sel)
}

// ByName finds a principal that a person made, or the administrator, by name.
func (i *Identities) ByName(name string) (access.Subject, error) {
	for _, p := range i.people.Load().byObject {
		if strings.EqualFold(p.subject.Name, name) {
			return p.subject, nil
		}
	}
	return access.Subject{}, ErrCredential
}

func choose(all []access.Subject, sel Selector) (access.Subject, error) {
	for _, s := range all {
		// The system-assigned identity comes first; without one, several user-assigned ones need a choice.
		if sel.Matches(s) && (!sel.empty() || len(all) == 1 || !isUserIdentity(s)) {
			return s, nil
		}
	}
	if sel.empty() && len(all) > 1 {
		return access.Subject{}, online.Errorf(online.CodeBadArgument, "client_id",
			"there are %d user-assigned identities: name one with client_id, object_id or mi_res_id", len(all))
	}
	return access.Subject{}, online.Errorf(online.CodeBadArgument, "client_id",
		"no identity of the caller has this id")
}

func isUserIdentity(s access.Subject) bool {
	_, err := arm.ParseUserIdentity(s.Resource)
	return err == nil
}

// InstanceSecret is what the instances of a deployment ask for tokens with. It is derived, so it is the same after a
// restart; it is good while the deployment exists. ok is false when the endpoint has no identity.
func (i *Identities) InstanceSecret(ctx context.Context, uid string) (secret online.Secret, ok bool, err error) {
	all, err := i.ofDeployment(ctx, uid)
	if errors.Is(err, ErrCredential) || err == nil && len(all) == 0 {
		return "", false, nil
	}
	return online.Secret(uid + "." + i.instanceMAC(uid)), err == nil, err
}

func (i *Identities) instanceMAC(uid string) string {
	h := hmac.New(sha256.New, i.instanceKey)
	h.Write([]byte("portico/instance/1/" + uid))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// Key derives a key from the one that makes the secrets of instances, for another purpose than tokens.
func (i *Identities) Key(purpose string) []byte {
	h := hmac.New(sha256.New, i.instanceKey)
	h.Write([]byte("portico/key/1/" + purpose))
	return h.Sum(nil)
}

func (i *Identities) instanceOf(secret online.Secret) (uid string, ok bool) {
	uid, mac, _ := strings.Cut(secret.Reveal(), ".")
	return uid, hmac.Equal([]byte(mac), []byte(i.instanceMAC(uid)))
}

// ofDeployment gives the identities of the endpoint that a deployment stands behind, the system-assigned one first;
// ErrCredential when the deployment is gone or going.
func (i *Identities) ofDeployment(ctx context.Context, uid string) (out []access.Subject, err error) {
	err = i.cfg.Store.View(ctx, func(r store.Reader) error {
		out = nil
		recs, err := r.List(kindPrefix(online.KindDeployment), store.Page{})
		if err != nil {
			return fmt.Errorf("list deployments: %w", err)
		}
		for _, d := range recs {
			if d.UID != uid || !d.Deleting.IsZero() {
				continue
			}
			e, err := store.Get[online.EndpointSpec, online.EndpointStatus](r, d.ID.Workspace.Endpoint(d.ID.Parent))
			if errors.Is(err, store.ErrNotFound) || err == nil && !e.Deleting.IsZero() {
				break
			}
			if err != nil {
				return fmt.Errorf("read endpoint %s: %w", d.ID.Parent, err)
			}
			out, err = subjects(r, &e.Record, &e.Spec.Identity)
			return err
		}
		return ErrCredential
	})
	return out, err
}

// subjects are the identities of an endpoint.
func subjects(r store.Reader, rec *store.Record, identity *online.Identity) ([]access.Subject, error) {
	var out []access.Subject
	if identity.System() {
		out = append(out, access.Subject{ObjectID: rec.UID, AppID: rec.UID, Name: rec.ID.Name,
			Resource: arm.FormatID(rec.ID)})
	}
	for _, text := range identity.UserAssigned {
		id, err := arm.ParseUserIdentity(text)
		if err != nil {
			return nil, err
		}
		u, err := store.Get[online.PrincipalSpec, struct{}](r, id)
		if err != nil {
			return nil, fmt.Errorf("read identity %s: %w", text, err)
		}
		out = append(out, access.Subject{ObjectID: u.Spec.ObjectID, AppID: u.Spec.ClientID, Name: id.Name,
			Resource: arm.FormatID(u.ID)})
	}
	return out, nil
}

// endpointIdentity renders the identities of an endpoint.
func (s *Service) endpointIdentity(r store.Reader, rec *store.Record, identity *online.Identity) (arm.Identity,
	error) {
	out := arm.Identity{Type: identity.Type}
	all, err := subjects(r, rec, identity)
	if err != nil {
		return out, err
	}
	if identity.System() {
		out.PrincipalID, all = all[0].ObjectID, all[1:]
	}
	if out.Type != online.IdentityNone {
		out.TenantID = s.Identities.issuer.Tenant()
	}
	for n, a := range all {
		if out.UserAssignedIdentities == nil {
			out.UserAssignedIdentities = map[string]arm.Assigned{}
		}
		out.UserAssignedIdentities[identity.UserAssigned[n]] = arm.Assigned{PrincipalID: a.ObjectID,
			ClientID: a.AppID}
	}
	return out, nil
}

// ensureUserIdentities makes the user-assigned identities that a spec names and nobody has named before.
func (s *Service) ensureUserIdentities(tx store.Tx, c Caller, identity *online.Identity, now time.Time) error {
	for _, text := range identity.UserAssigned {
		id, err := arm.ParseUserIdentity(text)
		if err != nil {
			return err
		}
		rec, err := find(tx, id)
		if err != nil {
			return err
		}
		if rec != nil {
			continue
		}
		if err := s.putPrincipal(tx, c, id, online.PrincipalSpec{ObjectID: uuid.NewString(),
			ClientID: uuid.NewString()}, "create", now); err != nil {
			return err
		}
	}
	return nil
}

// checkUserIdentities validates the resource ids and brings them to one order without repetitions.
func checkUserIdentities(identity *online.Identity) []*online.Error {
	var faults []*online.Error
	seen := map[string]bool{}
	var kept []string
	for _, text := range identity.UserAssigned {
		id, err := arm.ParseUserIdentity(text)
		if err != nil {
			faults = append(faults, online.Errorf(online.CodeBadArgument, "identity.userAssignedIdentities",
				"%.120q is not the id of a user-assigned identity: /subscriptions/SUB/resourceGroups/GROUP/providers/"+
					"Microsoft.ManagedIdentity/userAssignedIdentities/NAME", text))
			continue
		}
		if key := id.Key(); !seen[key] {
			seen[key] = true
			kept = append(kept, text)
		}
	}
	identity.UserAssigned = kept
	return faults
}

// sameIdentity compares two identities without regard to the case of resource ids.
func sameIdentity(a, b *online.Identity) bool {
	if !strings.EqualFold(a.Type, b.Type) || len(a.UserAssigned) != len(b.UserAssigned) {
		return false
	}
	had := map[string]bool{}
	for _, id := range a.UserAssigned {
		had[strings.ToLower(id)] = true
	}
	for _, id := range b.UserAssigned {
		if !had[strings.ToLower(id)] {
			return false
		}
	}
	return true
}

func describeIdentity(i *online.Identity) string {
	if len(i.UserAssigned) == 0 {
		return i.Type
	}
	return i.Type + " with " + strings.Join(i.UserAssigned, ", ")
}
