// Package client holds tests of Azure's own Go client against a running Portico. It is a module of its own, so that
// Portico's does not depend on Azure's. TestGoClient of the package above builds it and runs it in the environment that
// `portico env --intercept` prints; nothing here names a host, a credential or a certificate.
package client
