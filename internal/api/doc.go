// Package api serves the management API over HTTP: one file per resource.
//
// It owns paths, headers and status codes, authentication of the caller, the bounds of a request and the one
// translation of errors to the wire. Everything it does it does through package control; it decides no rule of the
// domain and never touches the store or an engine.
//
// Paths are matched without regard to the case of their fixed segments; names keep theirs. Any api-version is
// accepted, also none. {WS} is /subscriptions/S/resourceGroups/G/providers/Microsoft.MachineLearningServices/workspaces/W.
//
//	GET PUT PATCH DELETE  {WS}                                     GET lists: by resource group, by subscription
//	GET                   {WS}/onlineEndpoints                     ?name count computeType $skip tags properties orderBy
//	GET PUT PATCH DELETE  {WS}/onlineEndpoints/E
//	POST                  {WS}/onlineEndpoints/E/listKeys|regenerateKeys|token
//	GET                   {WS}/onlineEndpoints/E/deployments       ?$orderBy $top $skip tags
//	GET PUT PATCH DELETE  {WS}/onlineEndpoints/E/deployments/D
//	POST                  .../deployments/D/getLogs                GET .../deployments/D/skus
//	GET PUT DELETE        {WS}/models|codes|environments|data[/N[/versions[/V]]]
//	POST                  {WS}/models|codes/N/versions/V/startPendingUpload
//	GET                   {WS}/datastores[/workspaceblobstore]     POST .../listSecrets
//	GET                   /subscriptions/S/providers/Microsoft.MachineLearningServices/locations/L/mfeOperationsStatus|mfeOperationResults/ID
//
// Portico's own, beside them:
//
//	GET   {WS}/onlineEndpoints/E/metrics                 ?since until (RFC 3339, or PT1H for an hour ago) deployment
//	GET   {WS}/onlineEndpoints/E/activities              ?since until $top
//	GET   .../deployments/D/revisions
//	POST  .../deployments/D/rollback                     {"revision": N}; without a body: the revision before
//	POST  .../deployments/D/purgeCache                   forgets the answers that its response cache keeps
//	GET   /portico/v1/config                             the configuration in force
//	GET   /healthz /readyz                               anonymous
//	GET   /metadata/endpoints                            anonymous; how SDKs learn the hosts of a cloud
//	GET   /metrics                                       Prometheus; from the machine itself, or with a token
//	      /blobs/CONTAINER/NAME                          uploads, as Azure's blob service (see blob.go)
package api
