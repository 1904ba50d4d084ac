package control

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"portico/internal/online"
	"portico/internal/store"
)

// Grant lets its holder use the blobs of one container until it expires, as an owner.
type Grant struct {
	Container   string
	Owner       string // OwnerOf the principal that it was made for
	Permissions string // of r (read), c (create), w (write), d (delete), l (list)
	Expires     time.Time
}

// Allows says whether the grant covers a use of a container: one permission letter, or several of which one is enough.
func (g Grant) Allows(container, permissions string) bool {
	return g.Container == container && strings.ContainsAny(g.Permissions, permissions)
}

const (
	grantVersion    = "2023-11-03" // the version of the query's grammar that clients see
	grantKeyBytes   = 32
	serverOwner     = "server"
	grantKeyName    = "uploadGrantKey"
	accountKeysName = "accountKeys"
	ownerBytes      = 16
	// uploadPermissions let clients read, create, write and list: never delete.
	uploadPermissions = "rcwl"
)

// OwnerOf is the name under which the staging area keeps what a principal uploads: a digest, so that it fits into
// names and URLs whatever an identity provider calls its people.
func OwnerOf(p online.Principal) string {
	sum := sha256.Sum256([]byte(p.ID))
	return hex.EncodeToString(sum[:ownerBytes])
}

// grantKey signs grants. It is kept by the store, so grants outlive a restart.
type grantKey []byte

// sign renders a grant as the query of a URL, in the form of a shared access signature.
func (k grantKey) sign(g Grant) string {
	// skoid is Azure's word for the object id of the principal whose rights a signature passes on. Clients accept no
	// other parameters than Azure's.
	q := url.Values{"sv": {grantVersion}, "sr": {"c"}, "sp": {g.Permissions}, "skoid": {g.Owner},
		"se": {g.Expires.UTC().Format(time.RFC3339)}, "sig": {base64.StdEncoding.EncodeToString(k.mac(g))}}
	return q.Encode()
}

func (k grantKey) mac(g Grant) []byte {
	// A JSON list keeps the fields apart whatever they hold; encoding strings cannot fail.
	text, _ := json.Marshal([]string{grantVersion, g.Container, g.Owner, g.Permissions,
		g.Expires.UTC().Format(time.RFC3339)})
	h := hmac.New(sha256.New, k)
	h.Write(text)
	return h.Sum(nil)
}

// VerifyGrant reads the grant in a URL's query for a container. The error is CodeForbidden: a credential was
// presented that is forged, for another container, or expired.
func (s *Service) VerifyGrant(q url.Values, container string) (Grant, error) {
	g := Grant{Container: container, Owner: q.Get("skoid"), Permissions: q.Get("sp")}
	sig, err := base64.StdEncoding.DecodeString(q.Get("sig"))
	expires, timeErr := time.Parse(time.RFC3339, q.Get("se"))
	g.Expires = expires
	if err != nil || timeErr != nil || q.Get("sv") != grantVersion || !hmac.Equal(sig, s.grants.mac(g)) {
		return Grant{}, online.Errorf(online.CodeForbidden, "", "the signature does not cover this container")
	}
	if !s.Now().Before(g.Expires) {
		return Grant{}, online.Errorf(online.CodeForbidden, "", "the signature expired at %s; ask for a new one",
			g.Expires.Format(time.RFC3339))
	}
	return g, nil
}

// prepare makes what the commands need: the key of grants and the default workspace.
func (s *Service) prepare(ctx context.Context) error {
	fresh := make([]byte, grantKeyBytes)
	if _, err := rand.Read(fresh); err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	now := s.now()
	return s.Store.Update(ctx, func(tx store.Tx) error {
		secrets, err := tx.Secrets(serverOwner)
		if err != nil {
			return fmt.Errorf("read the key of upload grants: %w", err)
		}
		key, err := base64.StdEncoding.DecodeString(secrets[grantKeyName].Reveal())
		if err != nil {
			return errors.New("the key of upload grants is damaged")
		}
		if len(key) == 0 {
			key = fresh
			value := online.Secret(base64.StdEncoding.EncodeToString(key))
			if err := tx.PutSecret(serverOwner, grantKeyName, value); err != nil {
				return fmt.Errorf("store the key of upload grants: %w", err)
			}
		}
		s.grants = key
		issued, err := readAccountKeys(tx)
		if err != nil {
			return err
		}
		s.accountKeys.add(now, issued...)
		return s.ensureDefault(tx, now)
	})
}
