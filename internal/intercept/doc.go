// Package intercept lets clients reach this server by the names they call Azure by, with nothing changed but
// environment variables: an HTTP proxy on loopback that answers CONNECT for these names itself.
//
//	management.azure.com                    the management API
//	login.microsoftonline.com               its token service
//	ACCOUNT.blob.core.windows.net           its blob service, for the one account that datastores name
//	NAME.LOCATION.inference.ml.azure.com    the scoring URL of an endpoint
//
// It owns the list of names, the CONNECT listener and its bounds, and the passage of other names, which are refused or,
// when an operator says so, tunnelled untouched. What comes out of a tunnel it hands to the servers that exist anyway,
// as connections of a listener; it reads nothing of what flows there. It holds no key and signs nothing (vault does),
// takes connections on loopback addresses only, and never connects to a name that it serves.
package intercept
