//go:build tools

// Package tools pins the versions of the programs that `make lint` runs.
package tools

import _ "github.com/golangci/golangci-lint/v2/cmd/golangci-lint"
