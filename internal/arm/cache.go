package arm

// Purged is the answer of purgeCache, Portico's own action of a deployment: the answers that were forgotten.
type Purged struct {
	Entries int   `json:"entries"`
	Bytes   int64 `json:"bytes"`
}
