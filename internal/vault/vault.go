package vault

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"portico/internal/durable"
)

const (
	keySize     = 32 // bytes of a master key and of each derived key
	keyIDSize   = 8
	nonceSize   = 12
	maxKeyFile  = 64 << 10 // bytes; a few hundred keys
	maxPurpose  = 4 << 10  // bytes
	version     = 1
	headerSize  = 1 + keyIDSize
	infoSealing = "portico/vault/1/seal/"
	infoKeyID   = "portico/vault/1/key-id"
)

// What Open answers when a text cannot be opened. Wrapped errors keep these for errors.Is.
var (
	// ErrUnknownKey: the text was sealed with a master key that is not in the file.
	ErrUnknownKey = errors.New("sealed with a master key that is not in the key file")
	// ErrCorrupt: the text was changed, cut, or sealed for another purpose.
	ErrCorrupt = errors.New("sealed text does not open")
)

// Vault seals and opens with the keys of one master key file. It is immutable and safe for concurrent use.
//
// A sealed text is: version (1 byte), id of the master key (8), nonce (12), AES-256-GCM ciphertext and tag. The
// key is derived from the master key for the purpose alone (HKDF-SHA256), and version, id and purpose are
// authenticated with the text.
type Vault struct {
	keys   map[keyID]masterKey
	sealID keyID
}

type (
	keyID     [keyIDSize]byte
	masterKey []byte
)

// OpenOrCreate reads the master key file, or makes one (0600) with a fresh key.
//
// The file holds one key a line, each 32 bytes in base64; lines that begin with # are comments. The first key
// seals, every key opens: to rotate, a new line goes on top. A file that others can read or write is refused.
func OpenOrCreate(path string) (*Vault, error) {
	v, err := open(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := create(path); err != nil {
			return nil, fmt.Errorf("create master key %s: %w", path, err)
		}
		v, err = open(path)
	}
	if err != nil {
		return nil, fmt.Errorf("open master key %s: %w", path, err)
	}
	return v, nil
}

func open(path string) (*Vault, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("its mode is %04o, so others than its owner have access; run: chmod 600 %s", mode, path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxKeyFile {
		return nil, fmt.Errorf("it is larger than %d bytes", maxKeyFile)
	}
	return parse(text)
}

func parse(text []byte) (*Vault, error) {
	v := &Vault{keys: map[keyID]masterKey{}}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(key) != keySize {
			return nil, fmt.Errorf("line %d is not a key: %d bytes in base64 are wanted", n, keySize)
		}
		id, err := identify(key)
		if err != nil {
			return nil, err
		}
		if len(v.keys) == 0 {
			v.sealID = id
		}
		v.keys[id] = key
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(v.keys) == 0 {
		return nil, errors.New("it holds no key")
	}
	return v, nil
}

// create makes the file with one fresh key. When another process made it first, that one stays.
func create(path string) error {
	key := make([]byte, keySize)
	_, _ = rand.Read(key) // never fails (crypto/rand)
	text := "# Portico's master key. Without it no secret of this data directory can be read: keep a copy elsewhere.\n" +
		base64.StdEncoding.EncodeToString(key) + "\n"
	err := durable.Create(path, []byte(text), 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

func identify(key masterKey) (keyID, error) {
	id, err := hkdf.Key(sha256.New, key, nil, infoKeyID, keyIDSize)
	if err != nil {
		return keyID{}, fmt.Errorf("derive key id: %w", err)
	}
	return keyID(id), nil
}

// Seal encrypts clear for a purpose. Two seals of the same text differ.
func (v *Vault) Seal(purpose string, clear []byte) ([]byte, error) {
	aead, err := cipherFor(v.keys[v.sealID], purpose)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	sealed := make([]byte, headerSize+nonceSize, headerSize+nonceSize+len(clear)+aead.Overhead())
	sealed[0] = version
	copy(sealed[1:headerSize], v.sealID[:])
	nonce := sealed[headerSize:]
	_, _ = rand.Read(nonce) // never fails (crypto/rand)
	return aead.Seal(sealed, nonce, clear, associated(sealed[:headerSize], purpose)), nil
}

// Open decrypts what Seal gave for the same purpose. Errors: ErrUnknownKey, ErrCorrupt.
func (v *Vault) Open(purpose string, sealed []byte) ([]byte, error) {
	if len(sealed) < headerSize+nonceSize {
		return nil, fmt.Errorf("open: %w: %d bytes are too few", ErrCorrupt, len(sealed))
	}
	if sealed[0] != version {
		return nil, fmt.Errorf("open: %w: format %d is not known", ErrCorrupt, sealed[0])
	}
	id := keyID(sealed[1:headerSize])
	key, ok := v.keys[id]
	if !ok {
		return nil, fmt.Errorf("open: %w (key id %s)", ErrUnknownKey, hex.EncodeToString(id[:]))
	}
	aead, err := cipherFor(key, purpose)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	header, nonce, text := sealed[:headerSize], sealed[headerSize:headerSize+nonceSize], sealed[headerSize+nonceSize:]
	clear, err := aead.Open(nil, nonce, text, associated(header, purpose))
	if err != nil {
		return nil, fmt.Errorf("open: %w: changed, or sealed for another purpose", ErrCorrupt)
	}
	return clear, nil
}

// cipherFor derives the key of a purpose. Each purpose has its own, so that random nonces never come near the
// number at which they may repeat.
func cipherFor(key masterKey, purpose string) (cipher.AEAD, error) {
	if len(purpose) > maxPurpose {
		return nil, fmt.Errorf("purpose of %d bytes is longer than %d", len(purpose), maxPurpose)
	}
	derived, err := hkdf.Key(sha256.New, key, nil, infoSealing+purpose, keySize)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		return nil, fmt.Errorf("make cipher: %w", err)
	}
	return cipher.NewGCM(block)
}

func associated(header []byte, purpose string) []byte {
	return append(append(make([]byte, 0, len(header)+len(purpose)), header...), purpose...)
}
