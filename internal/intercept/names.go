package intercept

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Hosts of the public cloud that clients have built in.
const (
	ManagementHost = "management.azure.com"
	LoginHost      = "login.microsoftonline.com"

	// StorageSuffix is what follows an account's service in the host of a storage URL.
	StorageSuffix = "core.windows.net"
	scoringSuffix = "inference.ml.azure.com"
)

// Door is the server that a tunnel leads to.
type Door int

// The doors.
const (
	Management Door = iota // the management listener: ARM, tokens and blobs
	Scoring                // the gateway
	doors
)

// Names says which hosts are this server's.
type Names struct {
	account, location string
}

var (
	accountRule  = regexp.MustCompile(`^[a-z0-9]{3,24}$`) // Azure's rule for storage accounts
	locationRule = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	hostRule     = regexp.MustCompile(`^([a-z0-9_]([-a-z0-9_]{0,61}[a-z0-9])?\.)*[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
)

// maxHost is the length of a DNS name, in bytes.
const maxHost = 253

// NewNames makes the list for the storage account that datastores name and the server's location. A location is
// folded as Azure folds it: "East US" is eastus.
func NewNames(account, location string) (Names, error) {
	n := Names{account: account, location: strings.ToLower(strings.ReplaceAll(location, " ", ""))}
	if !accountRule.MatchString(n.account) {
		return Names{}, fmt.Errorf("storage account %.40q: 3 to 24 lower-case letters and digits are wanted", account)
	}
	if !locationRule.MatchString(n.location) {
		return Names{}, fmt.Errorf("location %.80q cannot be part of a host name: letters, digits and hyphens are wanted",
			location)
	}
	return n, nil
}

// BlobHost is the host of the storage account's blobs.
func (n Names) BlobHost() string { return n.account + ".blob." + StorageSuffix }

// ScoringDomain is the domain whose sub-domains are endpoints.
func (n Names) ScoringDomain() string { return n.location + "." + scoringSuffix }

// Certified lists what certificates are made for, in the form of vault.OpenInterceptor.
func (n Names) Certified() []string {
	return []string{ManagementHost, LoginHost, n.BlobHost(), "." + n.ScoringDomain()}
}

// Find says which door a host, in lower case, leads to. False: it is not this server's.
func (n Names) Find(host string) (Door, bool) {
	if slices.Contains([]string{ManagementHost, LoginHost, n.BlobHost()}, host) {
		return Management, true
	}
	if first, rest, _ := strings.Cut(host, "."); first != "" && rest == n.ScoringDomain() {
		return Scoring, true
	}
	return 0, false
}
