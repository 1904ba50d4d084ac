package access

import "errors"

// Why an Authorization field holds no bearer credential.
var (
	ErrNoCredential = errors.New("no credential was sent")
	ErrMalformed    = errors.New("credential is not of the form: Bearer TOKEN")
)

// maxBearerLength bounds a credential in characters: the largest JSON web tokens seen from identity providers are
// around 4,000.
const maxBearerLength = 16 << 10

const bearerScheme = "Bearer"

// Bearer reads the credential out of the value of an Authorization field, by the grammar of RFC 6750 section 2.1:
// the scheme in any case, one or more spaces, then letters, digits and -._~+/ with trailing '='. Anything else is
// ErrMalformed, and an empty value is ErrNoCredential.
func Bearer(value string) (string, error) {
	if value == "" {
		return "", ErrNoCredential
	}
	n := len(bearerScheme)
	if len(value) <= n || value[n] != ' ' || !equalFoldASCII(value[:n], bearerScheme) {
		return "", ErrMalformed
	}
	for n < len(value) && value[n] == ' ' {
		n++
	}
	token := value[n:]
	if token == "" || len(token) > maxBearerLength {
		return "", ErrMalformed
	}
	end := len(token)
	for end > 0 && token[end-1] == '=' {
		end--
	}
	if end == 0 {
		return "", ErrMalformed
	}
	for i := range end {
		if !bearerChar(token[i]) {
			return "", ErrMalformed
		}
	}
	return token, nil
}

func bearerChar(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return c == '-' || c == '.' || c == '_' || c == '~' || c == '+' || c == '/'
}

func equalFoldASCII(a, b string) bool {
	for i := range len(a) {
		if a[i]|0x20 != b[i]|0x20 {
			return false
		}
	}
	return true
}
