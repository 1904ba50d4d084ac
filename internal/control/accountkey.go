package control

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"portico/internal/online"
	"portico/internal/store"
)

// maxAccountKeys bounds the account keys in force. A principal gets at most one a minute for each workspace.
const maxAccountKeys = 10_000

// accountKey is an account key that is in force: a credential for one container that acts as one principal. Clients
// sign requests with it and never send it. Azure's account keys are good for the whole account and for ever; these are
// not, and the key itself is kept nowhere, since it can be computed.
type accountKey struct {
	Container string `json:"container"`
	Owner     string `json:"owner"`
	Expires   int64  `json:"expires"` // seconds since 1970
}

func (k accountKey) goodAt(now time.Time) bool { return now.Unix() < k.Expires }

// accountKeys are those in force, as the store has them.
type accountKeys struct {
	mu     sync.RWMutex
	issued map[accountKey]bool
}

func (a *accountKeys) add(now time.Time, keys ...accountKey) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.issued == nil {
		a.issued = map[accountKey]bool{}
	}
	maps.DeleteFunc(a.issued, func(k accountKey, _ bool) bool { return !k.goodAt(now) })
	for _, k := range keys {
		a.issued[k] = true
	}
}

// of gives the keys in force for a container.
func (a *accountKeys) of(container string, now time.Time) []accountKey {
	a.mu.RLock()
	defer a.mu.RUnlock()
	var out []accountKey
	for k := range a.issued {
		if k.Container == container && k.goodAt(now) {
			out = append(out, k)
		}
	}
	return out
}

// secret computes the key that the client was given.
func (k grantKey) secret(a accountKey) []byte {
	// As in mac; a grant's list has another length, so no key is another's signature.
	text, _ := json.Marshal([]string{"account key", a.Container, a.Owner, strconv.FormatInt(a.Expires, 10)})
	h := hmac.New(sha256.New, k)
	h.Write(text)
	return h.Sum(nil)
}

// ListAccountKey gives the datastore's account key, in base64, for clients that cannot use anything else. It acts as
// the caller and is good for GrantLifetime.
func (s *Service) ListAccountKey(ctx context.Context, c Caller, w online.WorkspaceID, name string) (online.Secret, error) {
	d, err := s.GetDatastore(ctx, c, w, name)
	if err != nil {
		return "", err
	}
	now := s.now()
	key := accountKey{Container: d.Container, Owner: OwnerOf(c.Principal),
		Expires: now.Add(GrantLifetime).Truncate(time.Minute).Unix()}
	err = s.update(ctx, c, func(tx store.Tx) error {
		all, err := readAccountKeys(tx)
		if err != nil {
			return err
		}
		all = slices.DeleteFunc(all, func(k accountKey) bool { return k == key || !k.goodAt(now) })
		if len(all) >= maxAccountKeys {
			return online.Errorf(online.CodeServiceUnavailable, "",
				"%d account keys are in force, which is the most; ask for an expirable secret instead", maxAccountKeys)
		}
		all = append(all, key)
		doc, err := json.Marshal(all)
		if err != nil {
			return fmt.Errorf("encode account keys: %w", err)
		}
		if err := tx.PutSecret(serverOwner, accountKeysName, online.Secret(doc)); err != nil {
			return fmt.Errorf("store account keys: %w", err)
		}
		id := online.ID{Workspace: w, Kind: online.KindDatastore, Name: name}
		return s.note(tx, c, id, "listSecrets/action", succeeded, "account key", now)
	})
	if err != nil {
		return "", err
	}
	s.accountKeys.add(now, key)
	return online.Secret(base64.StdEncoding.EncodeToString(s.grants.secret(key))), nil
}

func readAccountKeys(r store.Reader) ([]accountKey, error) {
	secrets, err := r.Secrets(serverOwner)
	if err != nil {
		return nil, fmt.Errorf("read account keys: %w", err)
	}
	text := secrets[accountKeysName].Reveal()
	if text == "" {
		return nil, nil
	}
	var all []accountKey
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		return nil, errors.New("the list of account keys is damaged")
	}
	return all, nil
}

// VerifyAccountKey finds the account key with which a client signed a request to a container. texts are what it may
// have signed: clients differ in the order of headers. The error is CodeForbidden.
func (s *Service) VerifyAccountKey(container string, texts []string, signature []byte) (Grant, error) {
	for _, k := range s.accountKeys.of(container, s.Now()) {
		secret := s.grants.secret(k)
		for _, text := range texts {
			h := hmac.New(sha256.New, secret)
			h.Write([]byte(text))
			if hmac.Equal(h.Sum(nil), signature) {
				return Grant{Container: k.Container, Owner: k.Owner, Permissions: uploadPermissions,
					Expires: time.Unix(k.Expires, 0)}, nil
			}
		}
	}
	return Grant{}, online.Errorf(online.CodeForbidden, "",
		"the request is not signed with an account key that is in force for this container; keys are good for %s: ask for a new one",
		GrantLifetime)
}
