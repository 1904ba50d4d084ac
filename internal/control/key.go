package control

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"

	"portico/internal/access"
	"portico/internal/online"
	"portico/internal/store"
)

// Keys are the two keys of an endpoint; an empty one is not given.
type Keys struct{ Primary, Secondary online.Secret }

// Bounds of a key that a person chooses, in bytes. 16 is what remains hard to guess.
const (
	minKeyLength = 16
	maxKeyLength = 256
)

// check validates keys that a person chose.
func (k Keys) check() error {
	return failIf(append(checkKey(k.Primary, "properties.keys.primaryKey"),
		checkKey(k.Secondary, "properties.keys.secondaryKey")...))
}

func checkKey(key online.Secret, target string) []*online.Error {
	if key == "" {
		return nil
	}
	// What a bearer header can carry (RFC 6750, b64token): padding at the end only.
	body := strings.TrimRight(key.Reveal(), "=")
	bad := strings.Trim(body, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/") != ""
	if n := len(key); bad || body == "" || n < minKeyLength || n > maxKeyLength {
		return []*online.Error{online.Errorf(online.CodeBadArgument, target,
			"a key must have %d to %d characters: letters, digits, '-', '.', '_', '~', '+', '/' and '=' at the end", minKeyLength, maxKeyLength)}
	}
	return nil
}

// same refuses keys on an endpoint that exists, unless they are those in force: a PUT may be repeated.
func (k Keys) same(r store.Reader, uid string) error {
	if k == (Keys{}) {
		return nil
	}
	now, err := readKeys(r, uid)
	if err != nil {
		return err
	}
	if (k.Primary == "" || k.Primary == now.Primary) && (k.Secondary == "" || k.Secondary == now.Secondary) {
		return nil
	}
	return online.Errorf(online.CodeBadArgument, "properties.keys",
		"keys can be given only when an endpoint is created; use regenerateKeys to change one")
}

func putKeys(tx store.Tx, uid string, k Keys) error {
	for name, key := range map[string]online.Secret{online.SecretPrimaryKey: k.Primary,
		online.SecretSecondaryKey: k.Secondary} {
		if key == "" {
			key = access.NewKey()
		}
		if err := tx.PutSecret(uid, name, key); err != nil {
			return fmt.Errorf("store key: %w", err)
		}
	}
	return nil
}

func readKeys(r store.Reader, uid string) (Keys, error) {
	secrets, err := r.Secrets(uid)
	if err != nil {
		return Keys{}, fmt.Errorf("read keys: %w", err)
	}
	return Keys{Primary: secrets[online.SecretPrimaryKey], Secondary: secrets[online.SecretSecondaryKey]}, nil
}

// ListKeys gives an endpoint's keys. Reading them is an activity.
func (s *Service) ListKeys(ctx context.Context, c Caller, w online.WorkspaceID, name string) (out Keys, err error) {
	now := s.now()
	err = s.update(ctx, c, func(tx store.Tx) error {
		rec, err := must(tx, w.Endpoint(name))
		if err != nil {
			return err
		}
		if err := wantMode(rec, online.AuthKey); err != nil {
			return err
		}
		if out, err = readKeys(tx, rec.UID); err != nil {
			return err
		}
		return s.note(tx, c, rec.ID, "listKeys/action", succeeded, "", now)
	})
	return out, err
}

// previousKey is the suffix under which the digest of the key before is kept.
const previousKey = "Previous"

func keyDigest(key online.Secret) online.Secret {
	d := access.Digest(key.Reveal())
	return online.Secret(hex.EncodeToString(d[:]))
}

// RegenerateKey replaces one key. kind is Primary or Secondary. A value that is absent or equal to the current key
// asks for a new random one (the Python SDK sends the current key). The key before changes nothing: it is what a client
// repeats whose first request was carried out unheard, and must not come back. Any other value becomes the key.
func (s *Service) RegenerateKey(ctx context.Context, c Caller, w online.WorkspaceID, name, kind string,
	value online.Secret) (op *online.Operation, err error) {
	slot := map[string]string{"Primary": online.SecretPrimaryKey, "Secondary": online.SecretSecondaryKey}[kind]
	if slot == "" {
		return nil, online.Errorf(online.CodeBadArgument, "keyType", "keyType must be Primary or Secondary")
	}
	if err := failIf(checkKey(value, "keyValue")); err != nil {
		return nil, err
	}
	fresh := access.NewKey()
	now := s.now()
	err = s.update(ctx, c, func(tx store.Tx) error {
		rec, err := must(tx, w.Endpoint(name))
		if err != nil {
			return err
		}
		if err := notDeleting(rec); err != nil {
			return err
		}
		if err := wantMode(rec, online.AuthKey); err != nil {
			return err
		}
		secrets, err := tx.Secrets(rec.UID)
		if err != nil {
			return fmt.Errorf("read keys: %w", err)
		}
		key := value
		switch {
		case key == "" || key == secrets[slot]:
			key = fresh
		case keyDigest(key) == secrets[slot+previousKey]:
			op, err = s.finished(tx, c, rec, "regenerateKeys", now)
			return err
		}
		if err := tx.PutSecret(rec.UID, slot+previousKey, keyDigest(secrets[slot])); err != nil {
			return fmt.Errorf("store the digest of the key before: %w", err)
		}
		if err := tx.PutSecret(rec.UID, slot, key); err != nil {
			return fmt.Errorf("store key: %w", err)
		}
		if err := s.note(tx, c, rec.ID, "regenerateKeys/action", succeeded, kind, now); err != nil {
			return err
		}
		op, err = s.finished(tx, c, rec, "regenerateKeys", now)
		return err
	})
	return op, err
}
