package cli

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Where systems keep the certificate authorities they trust, as one file: Debian and Ubuntu, Fedora and RHEL, openSUSE,
// macOS and Alpine.
var systemRoots = []string{
	"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
	"/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem",
}

// Bounds of what is read to find authorities.
const (
	maxRootsBytes = 16 << 20 // of one file
	maxRootsFiles = 2000     // of one folder
)

// roots are the authorities that programs in this shell trusted before: those of its own variables, which may name a
// company's, else the system's.
func (s *shell) roots() ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for _, name := range []string{"REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"} {
		if path := s.get(name); path != "" {
			certs, err := readRoots(path)
			if err != nil {
				return nil, usagef("%s names %s, which cannot be used: %v", name, path, err)
			}
			all = append(all, certs...)
		}
	}
	for _, path := range systemRoots {
		if len(all) > 0 {
			break
		}
		if certs, err := readRoots(path); err == nil {
			all = certs
		}
	}
	if dir := s.get("SSL_CERT_DIR"); len(all) == 0 && dir != "" {
		return readRoots(dir)
	}
	return all, nil
}

// readRoots reads the certificates of a PEM file, or of the files of a folder.
func readRoots(path string) ([]*x509.Certificate, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return readCertificates(path)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var all []*x509.Certificate
	for _, entry := range entries[:min(len(entries), maxRootsFiles)] {
		// Such folders also hold what is no certificate, and links to what is gone.
		if certs, err := readCertificates(filepath.Join(path, entry.Name())); err == nil {
			all = append(all, certs...)
		}
	}
	return all, nil
}

func readCertificates(path string) ([]*x509.Certificate, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxRootsBytes))
	if err != nil {
		return nil, err
	}
	var certs []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		// A root that Go cannot read others may: only what is wholly broken is left out.
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			certs = append(certs, cert)
		}
	}
	return certs, nil
}

// bundle writes authorities as one PEM text, each once, with the server's own at the end.
func bundle(roots []*x509.Certificate, files []string) ([]byte, error) {
	var out bytes.Buffer
	seen := map[string]bool{}
	add := func(certs []*x509.Certificate) {
		for _, c := range certs {
			if !seen[string(c.Raw)] {
				seen[string(c.Raw)] = true
				_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // a buffer takes everything
			}
		}
	}
	add(roots)
	for _, file := range files {
		certs, err := readCertificates(file)
		if err != nil {
			return nil, &unreachableError{msg: fmt.Sprintf("cannot read the server's certificate authority: %v", err), cause: err}
		}
		fmt.Fprintf(&out, "# Portico: %s\n", certs[0].Subject.CommonName)
		add(certs)
	}
	return out.Bytes(), nil
}
