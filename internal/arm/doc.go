// Package arm is the wire: resource ids, envelopes, ISO-8601 durations, paging, long-running operations and the
// error body, as Azure Resource Manager and Microsoft.MachineLearningServices write them.
//
// It owns the translation between JSON and the domain (package online), in both directions and nothing more: it
// decides no rule of the domain, reads no clock and opens no connection. What a client writes is read loosely
// where Azure does so (case of enums, field names and id segments; null equals absent) and answered exactly.
package arm
